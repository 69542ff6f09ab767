//! A worker's process: a small model of its reports to the master and of when it accepts, drains and leaves. The moves
//! of connections are only reports here; `simulation/moving` has the real ones.

use super::channels::{ChannelId, Letter, Message};
use super::kernel::{Holder, Key, Place};
use super::process::{Drain, Stage, StartsAs, Worker};
use super::timeline::say;
use super::universe::{Micro, Universe};
use crate::endpoint::Endpoint;
use crate::ipc::control::{ConnectionFacts, ConnectionPeer, ConnectionState, Exit};
use crate::ipc::orders::{ConnectionEnd, ListPart, Listed, Member, Moved, Order, Rebalanced, Report};
use crate::master::core::{ProcessId, Time};

/// The longest wait for the state of a leaving worker.
const STATE_MS_MAX: u64 = 10_000;

impl Universe {
    /// The steps that a worker can take now.
    pub(super) fn worker_steps(&self, id: ProcessId, worker: &Worker, steps: &mut Vec<Micro>) {
        if let Some(channel) = worker.channel.filter(|channel| self.has_news(id, *channel)) {
            // A worker reads no messages before it is ready.
            if worker.is_ready() {
                steps.push(Micro::Hear(id, channel));
            }
        }
        if self.worker_has_work(id, worker) {
            steps.push(Micro::Turn(id));
        }
    }

    fn worker_has_work(&self, id: ProcessId, worker: &Worker) -> bool {
        let now = self.now;
        let comes = |key: Key| {
            if worker.armed.contains(&key) { self.kernel.wakes(key) } else { self.kernel.has_waiting(key) }
        };
        let accepts = worker.accepts() && worker.listeners.iter().any(|(key, _)| comes(*key));
        let releases = worker.listeners.iter().any(|(_, is_released)| *is_released);
        match worker.stage {
            Stage::Starting { ready_at } => ready_at.is_some_and(|at| at <= now),
            Stage::Serving => {
                accepts
                    || releases
                    || worker.gives.is_some()
                    || self.has_finished(id, worker)
                    || worker.awaits_until.is_some_and(|until| until <= now)
                    || (worker.channel.is_none() && !worker.knocks.is_empty())
            }
            // Each turn makes progress, until it waits for a time.
            Stage::Draining(drain) => {
                accepts
                    || !drain.is_told
                    || (worker.is_moving && worker.awaits_until.is_none())
                    || self.has_finished(id, worker)
                    || drain.settles_at.is_some_and(|at| at <= now)
                    || (drain.settles_at.is_none() && !drain.is_closed)
                    || (drain.is_closed && !worker.is_moving && !self.has_connections(id))
                    || drain.until <= now
                    || (worker.channel.is_none() && !worker.knocks.is_empty())
            }
        }
    }

    /// The latest time at which a worker has something to do.
    pub(super) fn worker_deadline(worker: &Worker) -> Option<Time> {
        let of_stage = match worker.stage {
            Stage::Starting { ready_at } => ready_at,
            Stage::Serving => None,
            Stage::Draining(Drain { settles_at, until, .. }) => settles_at.into_iter().chain([until]).min(),
        };
        of_stage.into_iter().chain(worker.awaits_until).min()
    }

    fn has_connections(&self, id: ProcessId) -> bool {
        let is_its = |place: &Place| matches!(place, Place::Held { worker, .. } if *worker == Some(id));
        self.kernel.connections.iter().any(|connection| is_its(&connection.place))
    }

    /// Whether there is a connection whose request can be answered, which ends it.
    fn has_finished(&self, id: ProcessId, worker: &Worker) -> bool {
        self.finished(id, worker).is_some()
    }

    fn finished(&self, id: ProcessId, worker: &Worker) -> Option<usize> {
        let is_told = matches!(worker.stage, Stage::Draining(drain) if drain.is_told && !worker.is_moving);
        let is_its = |place: &Place| matches!(place, Place::Held { worker, .. } if *worker == Some(id));
        self.kernel.connections.iter().position(|one| is_its(&one.place) && (!one.is_long || is_told))
    }

    fn report(&mut self, id: ProcessId, report: Report) {
        let channel = self.worker(id).and_then(|worker| worker.channel);
        if let Some(channel) = channel {
            self.send(id, channel, Message::Report(report, None));
        }
    }

    pub(super) fn worker_turns(&mut self, id: ProcessId) {
        let now = self.now;
        let Some(worker) = self.worker_mut(id) else { return };
        worker.last_turn = now;
        match worker.stage {
            Stage::Starting { .. } => self.worker_starts(id),
            Stage::Serving => {
                if worker.awaits_until.is_some_and(|until| until <= now) {
                    worker.awaits_until = None;
                    self.judge_waited_in_vain(id);
                }
                self.worker_gives(id);
                self.worker_serves(id);
            }
            Stage::Draining(drain) => {
                if worker.awaits_until.is_some_and(|until| until <= now) {
                    worker.awaits_until = None;
                }
                self.worker_serves(id);
                self.worker_drains(id, drain);
            }
        }
    }

    fn worker_starts(&mut self, id: ProcessId) {
        let now = self.now;
        let Some(worker) = self.worker_mut(id) else { return };
        let starts_as = worker.starts_as;
        let spawn = worker.spawn.clone();
        match starts_as {
            StartsAs::Failing => {
                let reason = "the protocol said no".to_owned();
                self.report(id, Report::Failed { reason });
                return self.end(id, Exit::Code(1));
            }
            StartsAs::Exiting => return self.end(id, Exit::Signal(6)),
            StartsAs::Well | StartsAs::Slow | StartsAs::Hanging => {}
        }
        for address in &spawn.listeners.own {
            let key = self.kernel.bind(*address, Holder::Process(id));
            self.worker_mut(id).expect("it turns").listeners.push((key, false));
        }
        let keys: Vec<Key> = self.worker(id).expect("it turns").listeners.iter().map(|(key, _)| *key).collect();
        for key in keys {
            self.kernel.listen(key);
            let address = self.kernel.sockets[&key].address;
            if let Some(steering) = spawn.steering.filter(|_| !address.is_unix()) {
                self.kernel.maps.insert((steering.0, address, spawn.slot), key);
            }
        }
        let worker = self.worker_mut(id).expect("it turns");
        worker.stage = Stage::Serving;
        let awaits = spawn.succeeds && spawn.plan.has_worker_state;
        worker.awaits_until = awaits.then(|| now.after_ms(STATE_MS_MAX));
        let meeting = spawn.plan.has_connection_state.then(|| format!("{}", id.0));
        let (has_state, speaks) = (spawn.plan.has_worker_state, self.shape.speaks && meeting.is_some());
        self.report(
            id,
            Report::Ready { core: None, connections_max: 100, listeners: Vec::new(), meeting, has_state, speaks },
        );
        // A worker whose master ended during the start leaves.
        let master_lives = self.worker(id).and_then(|worker| worker.channel).is_some_and(|channel| {
            self.channels.get(&channel).is_some_and(|channel| !channel.is_closed[1 - channel.end_of(id)])
        });
        if !master_lives {
            self.begin_drain(id, 0, spawn.plan.drain_ms, false);
        }
    }

    /// Accepts, answers, and closes sockets that others have.
    fn worker_serves(&mut self, id: ProcessId) {
        let now = self.now;
        let Some(worker) = self.worker(id) else { return };
        if let Some(connection) = self.finished(id, worker) {
            self.kernel.connections[connection].place = Place::Served;
            return;
        }
        if worker.accepts() {
            let keys: Vec<Key> = worker.listeners.iter().map(|(key, _)| *key).collect();
            for key in keys {
                if self.worker_mut(id).expect("it turns").armed.insert(key) || self.kernel.wakes(key) {
                    self.worker_accepts(id, key);
                }
            }
        }
        let Some(worker) = self.worker_mut(id) else { return };
        let released: Vec<Key> = worker.listeners.iter().filter(|(_, is)| *is).map(|(key, _)| *key).collect();
        worker.listeners.retain(|(_, is_released)| !is_released);
        released.into_iter().for_each(|key| self.kernel.release(key, Holder::Process(id), now));
        let worker = self.worker_mut(id).expect("it turns");
        if worker.channel.is_none()
            && let Some(channel) = worker.knocks.pop_front()
        {
            worker.channel = Some(channel);
            let (generation, slot, master) = (worker.spawn.generation, worker.spawn.slot, Some(worker.led_by.0));
            let keys: Vec<Key> = worker.listeners.iter().map(|(key, _)| *key).collect();
            let all = keys.iter().map(|key| self.kernel.sockets[key].address);
            let unix: Vec<Endpoint> = all.clone().filter(Endpoint::is_unix).collect();
            let addresses: Vec<_> = all.filter_map(|address| address.internet()).collect();
            let (listeners, unix_listeners) = (addresses.len(), unix.len());
            self.report(id, Report::Orphan { generation, slot, addresses, unix, listeners, unix_listeners, master });
            if let Some([master, _]) = self.channels.get(&channel).map(|channel| channel.ends) {
                self.worker_mut(id).expect("it turns").led_by = master;
            }
        }
    }

    fn worker_accepts(&mut self, id: ProcessId, key: Key) {
        while let Some(connection) = self.kernel.accept(key) {
            self.kernel.connections[connection].place = Place::Held { master: None, worker: Some(id), message: None };
        }
    }

    fn worker_drains(&mut self, id: ProcessId, drain: Drain) {
        let now = self.now;
        let mut drain = drain;
        if drain.until <= now {
            return self.worker_ends(id);
        }
        drain.settles_at = drain.settles_at.filter(|at| *at > now);
        if drain.settles_at.is_none() && !drain.is_closed {
            let keys: Vec<Key> = self.worker(id).expect("it turns").listeners.iter().map(|(key, _)| *key).collect();
            for key in keys {
                if !drain.is_succeeded {
                    self.worker_accepts(id, key);
                }
                self.kernel.release(key, Holder::Process(id), now);
            }
            drain.is_closed = true;
            self.worker_mut(id).expect("it turns").listeners.clear();
            self.report(id, Report::Closed);
        }
        if !drain.is_told {
            drain.is_told = true;
        } else if self.worker(id).is_some_and(|worker| worker.is_moving && worker.awaits_until.is_none()) {
            self.worker_moves(id);
        }
        let Some(worker) = self.worker_mut(id) else { return };
        worker.stage = Stage::Draining(drain);
        if drain.is_closed && drain.is_told && !worker.is_moving && !self.has_connections(id) {
            self.worker_ends(id);
        }
    }

    /// The connections that it gives while it serves go to the other worker, if that one serves.
    fn worker_gives(&mut self, id: ProcessId) {
        let Some((heir, count)) = self.worker(id).and_then(|worker| worker.gives) else { return };
        let takes = self.worker(heir).is_some_and(|one| one.stage == Stage::Serving && one.awaits_until.is_none());
        let mut moved = 0;
        for connection in self.kernel.connections.iter_mut().filter(|_| takes) {
            if let Place::Held { worker, .. } = &mut connection.place
                && *worker == Some(id)
                && moved < count
            {
                (*worker, moved) = (Some(heir), moved + 1);
            }
        }
        if moved > 0 && self.is_unbalanced(id) {
            self.violate("connections are not rebalanced during a change", format!("worker {} gives", id.0));
        }
        self.worker_ends_giving(id, moved.into());
    }

    fn worker_ends_giving(&mut self, id: ProcessId, moved: u64) {
        if self.worker_mut(id).and_then(|worker| worker.gives.take()).is_some() {
            self.report(id, Report::Rebalanced(Rebalanced { moved, ..Rebalanced::default() }));
        }
    }

    /// Its master has been changing for so long that an order about it must have arrived.
    fn is_unbalanced(&self, id: ProcessId) -> bool {
        let Some(worker) = self.worker(id) else { return false };
        let Some(core) = self.master(worker.led_by).and_then(|master| master.core.as_ref()) else { return false };
        let has_news = worker.channel.is_some_and(|channel| self.has_news(id, channel));
        core.is_changing() && !has_news && self.untold.is_empty()
    }

    /// Its connections and its state go to the first living heir.
    fn worker_moves(&mut self, id: ProcessId) {
        let Some(worker) = self.worker(id) else { return };
        let has_state = worker.spawn.plan.has_worker_state;
        let heirs = worker.heirs.iter().filter_map(|name| name.parse().ok().map(ProcessId));
        let takes = |heir: &ProcessId| {
            self.worker(*heir).is_some_and(|one| match one.stage {
                Stage::Serving => true,
                // It passes on what it gets.
                Stage::Draining(_) => one.awaits_until.is_some() && !one.heirs.is_empty(),
                Stage::Starting { .. } => false,
            })
        };
        let heir = heirs.into_iter().find(takes);
        let (mut moved, mut left) = (0, 0);
        for connection in &mut self.kernel.connections {
            let Place::Held { worker, .. } = &mut connection.place else { continue };
            if *worker == Some(id) {
                match heir {
                    Some(heir) => (*worker, moved) = (Some(heir), moved + 1),
                    None => left += 1,
                }
            }
        }
        if let Some(heir) = heir.and_then(|heir| self.worker_mut(heir)).filter(|_| has_state) {
            heir.awaits_until = None;
        }
        self.worker_mut(id).expect("it turns").is_moving = false;
        let state_bytes = (has_state && heir.is_some()).then_some(10);
        self.report(id, Report::Moved(Moved { moved, left, state_bytes, is_over: true, ..Moved::default() }));
    }

    fn worker_ends(&mut self, id: ProcessId) {
        let now = self.now;
        let Some(worker) = self.worker(id) else { return };
        let accepts = matches!(worker.stage, Stage::Draining(drain) if !drain.is_succeeded && !drain.is_closed);
        if accepts {
            let keys: Vec<Key> = worker.listeners.iter().map(|(key, _)| *key).collect();
            keys.into_iter().for_each(|key| self.worker_accepts(id, key));
        }
        self.kernel.release_all(Holder::Process(id), now);
        self.end(id, Exit::Code(0));
    }

    fn begin_drain(&mut self, id: ProcessId, settle_ms: u64, drain_ms: u64, is_succeeded: bool) {
        let now = self.now;
        self.worker_ends_giving(id, 0);
        let Some(worker) = self.worker_mut(id) else { return };
        let until = now.after_ms(settle_ms.saturating_add(drain_ms));
        worker.stage = Stage::Draining(match worker.stage {
            Stage::Draining(drain) => Drain {
                settles_at: drain.settles_at.filter(|_| settle_ms > 0),
                until: drain.until.min(until),
                is_succeeded,
                ..drain
            },
            _ => {
                worker.is_moving = !worker.heirs.is_empty();
                let settles_at = (settle_ms > 0).then(|| now.after_ms(settle_ms));
                Drain { settles_at, until, is_succeeded, is_closed: false, is_told: false }
            }
        });
    }

    pub(super) fn worker_hears(&mut self, id: ProcessId, channel: ChannelId) {
        let now = self.now;
        if let Some(worker) = self.worker_mut(id) {
            worker.last_turn = now;
        }
        let Some(Letter { number, message }) = self.receive(id, channel) else {
            return self.worker_loses_master(id, channel);
        };
        let Message::Order(order, key, connection) = message else { return self.drop_letter(number) };
        let Some(worker) = self.worker_mut(id) else { return };
        let is_draining = matches!(worker.stage, Stage::Draining(_));
        match order {
            Order::Drain { settle_ms, drain_ms, is_succeeded } => {
                self.begin_drain(id, settle_ms, drain_ms, is_succeeded);
            }
            Order::Heirs { names } => worker.heirs = names,
            Order::Siblings { members } => self.worker_meets(id, &members),
            Order::Take => {
                if let Some((connection, _)) = connection
                    && let Place::Held { worker, .. } = &mut self.kernel.connections[connection].place
                {
                    *worker = Some(id);
                }
                self.report(id, Report::Taken);
            }
            Order::Adopt { listener, .. } => {
                if let Some(key) = key.filter(|_| !is_draining) {
                    worker.listeners.retain(|(one, _)| *one != listener);
                    worker.armed.remove(&key);
                    worker.listeners.push((key, false));
                    self.kernel.hold(key, Holder::Process(id));
                }
            }
            Order::Release { listener } => {
                worker.listeners.iter_mut().filter(|(key, _)| *key == listener).for_each(|(_, is)| *is = true);
            }
            Order::Share { internet, unix } => {
                let keys: Vec<Key> = worker.listeners.iter().map(|(key, _)| *key).collect();
                for key in keys {
                    let address = self.kernel.sockets[&key].address;
                    if !(if address.is_unix() { unix } else { internet }) {
                        continue;
                    }
                    self.send(id, channel, Message::Report(Report::Listener { address }, Some(key)));
                }
            }
            Order::Rebalance { heir, connections_max, .. } => match heir.parse().map(ProcessId) {
                Ok(heir) if worker.stage == Stage::Serving => worker.gives = Some((heir, connections_max)),
                _ => self.report(id, Report::Rebalanced(Rebalanced::default())),
            },
            Order::EndRebalance => self.worker_ends_giving(id, 0),
            Order::List { question, limit, .. } => self.worker_is_asked(id, question, limit),
            Order::ListMore { question } => self.worker_lists(id, question),
            Order::EndConnection { question, slot, .. } => self.worker_ends_connection(id, question, slot),
            Order::Serve => worker.awaits_until = None,
            Order::Look => worker.armed.clear(),
            Order::Ping | Order::Gather | Order::Count | Order::AccessLog | Order::Unknown => {}
            Order::Stop => self.worker_ends(id),
        }
        self.drop_letter(number);
    }

    /// It reports its connections one by one, as often as the master asks.
    fn worker_is_asked(&mut self, id: ProcessId, question: u32, limit: usize) {
        let is_its = |key: &usize| matches!(self.kernel.connections[*key].place, Place::Held { worker: Some(one), .. } if one == id);
        let keys: Vec<usize> = (0..self.kernel.connections.len()).filter(is_its).take(limit).collect();
        let Some(worker) = self.worker_mut(id) else { return };
        worker.listings.retain(|(one, _)| *one != question);
        worker.listings.push((question, keys));
        self.worker_lists(id, question);
    }

    fn worker_lists(&mut self, id: ProcessId, question: u32) {
        let Some(worker) = self.worker_mut(id) else { return };
        let Some(place) = worker.listings.iter().position(|(one, _)| *one == question) else { return };
        let (_, mut keys) = worker.listings.swap_remove(place);
        let total = keys.len() as u64;
        let facts = ConnectionFacts {
            peer: ConnectionPeer::Unknown,
            local: None,
            state: ConnectionState::Open,
            is_layered: false,
            age_ms: total,
            idle_ms: 0,
            held_bytes: 0,
            events_per_second: None,
        };
        let listed = keys.pop().map(|key| Listed { slot: key as u32, generation: 0, rank: total, facts });
        let has_more = !keys.is_empty();
        if has_more {
            worker.listings.push((question, keys));
        }
        let connections = listed.into_iter().collect();
        self.report(
            id,
            Report::Connections(ListPart { question, connections, total, has_more, ..ListPart::default() }),
        );
    }

    fn worker_ends_connection(&mut self, id: ProcessId, question: u32, key: u32) {
        let connection = self.kernel.connections.get_mut(key as usize);
        let its = connection.filter(|one| matches!(one.place, Place::Held { worker: Some(one), .. } if one == id));
        let how = if its.is_some() { ConnectionEnd::Closed } else { ConnectionEnd::Gone };
        its.into_iter().for_each(|one| one.place = Place::Served);
        self.report(id, Report::ConnectionEnded { question, how });
    }

    /// From now on it exchanges messages with these workers.
    fn worker_meets(&mut self, id: ProcessId, members: &[Member]) {
        for other in members.iter().filter_map(|member| member.name.parse().ok().map(ProcessId)) {
            if self.worker(other).is_some() {
                self.acquainted.insert((id.min(other), id.max(other)));
            }
        }
    }

    /// No master gives orders any more: it serves on until another master comes, unless it is leaving already.
    fn worker_loses_master(&mut self, id: ProcessId, channel: ChannelId) {
        say(self.now, id, || "has lost its master".to_owned());
        self.close_channel(id, channel);
        let Some(worker) = self.worker_mut(id) else { return };
        worker.channel = None;
        let drain_ms = worker.spawn.plan.drain_ms;
        if matches!(worker.stage, Stage::Draining(_)) {
            self.begin_drain(id, 0, drain_ms, false);
        }
    }
}

impl Worker {
    /// It accepts now, or will once it has the state for which it waits.
    pub(super) fn accepts_ever(&self) -> bool {
        match self.stage {
            Stage::Starting { .. } => false,
            Stage::Serving => true,
            Stage::Draining(drain) => !drain.is_closed,
        }
    }
}
