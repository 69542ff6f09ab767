//! A worker's loop, as far as it concerns connections: carries out what the state machines decide, as the event loop
//! does.

use super::connections::{Connection, End, Kind, Phase, Receiving};
use super::links::{Link, Message};
use super::world::{Blocked, World};
use crate::handover::custody::{Custody, Stage, Wake};
use crate::handover::mutation::{Mutation, is_put_back};
use crate::handover::receiver::Visitor;
use crate::handover::sender::Heir;
use crate::handover::{Refusal, receiver, sender};
use crate::types::ConnectionId;

/// How long a worker waits for the answer to its state.
const STATE_NS_MAX: u64 = 20_000_000_000;

impl World {
    pub(super) fn connection(&mut self, worker: usize, id: ConnectionId) -> Option<&mut Connection> {
        self.workers[worker].connections.0.get_mut(&id)
    }

    pub(super) fn tell_sender(&mut self, worker: usize, input: sender::Input) {
        if !self.workers[worker].is_alive {
            return;
        }
        use sender::Input;
        if !matches!(input, Input::Still(_) | Input::Time | Input::Sent(_) | Input::Quiet { .. }) {
            self.note(|| format!("worker {worker}: {input:?}"));
        }
        let now_ns = self.now_ns;
        let own = &mut self.workers[worker];
        let (table, commands) = (&mut own.connections, &mut own.departures);
        own.sender.step(&mut sender::World { now_ns, table, commands }, input);
        self.carry_out(worker);
    }

    pub(super) fn tell_receiver(&mut self, worker: usize, input: receiver::Input) {
        if !self.workers[worker].is_alive {
            return;
        }
        self.note(|| format!("worker {worker}: {input:?}"));
        let own = &mut self.workers[worker];
        own.receiver.step(&mut own.arrivals, input);
        self.carry_out(worker);
    }

    pub(super) fn carry_out(&mut self, worker: usize) {
        if std::mem::replace(&mut self.workers[worker].is_carrying_out, true) {
            return;
        }
        while self.workers[worker].is_alive {
            let own = &mut self.workers[worker];
            if let Some(command) = own.arrivals.pop_front() {
                self.carry_out_arrival(worker, command);
            } else if own.blocked.is_none()
                && let Some(command) = own.departures.pop_front()
            {
                self.carry_out_departure(worker, command);
            } else {
                break;
            }
        }
        self.workers[worker].is_carrying_out = false;
    }

    fn carry_out_departure(&mut self, worker: usize, command: sender::Command) {
        use sender::Command;
        match command {
            Command::Visit(heir) => {
                let other = heir.0 as usize;
                let is_there = self.workers.get(other).is_some_and(|one| one.is_alive) && other != worker;
                if is_there {
                    self.links.push(Link::new(worker, other));
                    self.workers[worker].heirs.insert(heir, self.links.len() - 1);
                    self.tell_sender(worker, sender::Input::Visited(heir));
                } else {
                    self.tell_sender(worker, sender::Input::Unreachable(heir));
                }
            }
            Command::Close(heir) => {
                if let Some(link) = self.workers[worker].heirs.remove(&heir) {
                    self.links[link].up.end();
                    // No worker reads it any more.
                    self.links[link].down = Default::default();
                    self.links[link].down.is_ended = true;
                }
            }
            Command::Stop(id) => {
                if let Some(connection) = self.connection(worker, id) {
                    if connection.receiving == Receiving::Armed {
                        connection.receiving = Receiving::Cancelling;
                    }
                    if let Some((_, is_cancelled)) = &mut connection.sending {
                        *is_cancelled = true;
                    }
                }
                self.settle_held(worker, id);
            }
            Command::Freeze(id) => {
                let Some(connection) = self.connection(worker, id) else { return };
                connection.asked += 1;
                let outcome = match connection.kind {
                    _ if connection.phase != Phase::Open => sender::Input::NotFrozen(id),
                    Kind::Sticky => sender::Input::NotFrozen(id),
                    Kind::Busy if connection.asked < 3 => sender::Input::NotYet(id),
                    _ => {
                        connection.phase = Phase::Frozen;
                        sender::Input::Frozen(id)
                    }
                };
                self.tell_sender(worker, outcome);
            }
            Command::Unfreeze(id) => self.go_on(worker, id),
            Command::Resume(id) => {
                self.go_on(worker, id);
                self.settle(worker, id);
            }
            Command::Keep(id) => {
                self.workers[worker].kept += 1;
                self.go_on(worker, id);
                let is_fresh = self.connection(worker, id).is_none_or(|connection| connection.is_fresh);
                if !is_fresh {
                    self.drain_connection(worker, id);
                }
                self.settle(worker, id);
            }
            Command::End(id) => {
                self.workers[worker].kept += 1;
                self.stop_connection(worker, id);
            }
            Command::Offer { heir, batch, members } => self.offer(worker, heir, batch, members),
            Command::Give { heir, batch } => {
                let Some(link) = self.workers[worker].heirs.get(&heir).copied() else { return };
                let members = self.workers[worker].connections.0.values();
                let members =
                    members.filter(|one| one.custody.stage() == Stage::Giving).map(|one| one.socket).collect();
                self.say(worker, heir, link, Message::Gives { batch, members });
            }
            Command::Release { id, .. } => {
                let Some(connection) = self.connection(worker, id) else { return };
                connection.phase = Phase::Ended;
                self.workers[worker].connections.0.remove(&id);
                self.workers[worker].released += 1;
            }
            Command::Given(given) => {
                self.note(|| format!("worker {worker} has given {given:?}"));
                let own = &mut self.workers[worker];
                own.given += given.tally.moved;
                if own.owes_given == 0 || given.pauses_ns.len() as u64 != given.tally.moved {
                    self.violate("the end of giving is reported once for each order", format!("worker {worker}"));
                }
                self.workers[worker].owes_given = self.workers[worker].owes_given.saturating_sub(1);
            }
            // Workers send no messages to siblings here; see `messages/`.
            Command::Listen(_) | Command::AllGiven(_) => {}
            Command::GiveState(heir) => {
                let Some(link) = self.workers[worker].heirs.get(&heir).copied() else {
                    return self.tell_sender(worker, sender::Input::StateRefused(heir, Refusal::Channel));
                };
                self.links[link].up.outgoing.push_back(Message::State);
                self.links[link].up.flush();
                let until_ns = self.now_ns + STATE_NS_MAX;
                self.workers[worker].blocked = Some(Blocked { heir, until_ns });
            }
            Command::Over => {
                self.check_counts(worker);
                let now_ns = self.now_ns;
                if self.workers[worker].lifecycle.end_moving(now_ns) {
                    self.say_goodbyes(worker, |is_fresh| !is_fresh);
                }
            }
            Command::Report { is_over } => {
                self.note(|| format!("worker {worker} reports, over: {is_over}"));
                let own = &mut self.workers[worker];
                if is_over && !std::mem::take(&mut own.owes_report) {
                    self.violate("the end of moving is reported once for each order", format!("worker {worker}"));
                }
            }
        }
    }

    /// At the end of moving, checks that every connection here was counted.
    fn check_counts(&mut self, worker: usize) {
        let own = &self.workers[worker];
        let tally = own.sender.leaving_tally();
        let refused: u64 = tally.refused.iter().map(|(_, count)| count).sum();
        let is_counted = |one: &Connection| one.phase != Phase::Open || one.custody.stays();
        let uncounted = own.connections.0.values().find(|one| !is_counted(one)).map(|one| one.socket.0);
        let has_moved = own.lifecycle.was_told() && own.was_moving;
        if (tally.moved + own.given, refused) != (own.released, own.kept) {
            let detail = format!("worker {worker}: {tally:?}, but {} released, {} kept", own.released, own.kept);
            self.violate("each connection is counted once", detail);
        } else if let (Some(socket), true) = (uncounted, has_moved) {
            self.violate("each connection is counted once", format!("worker {worker}: client {socket} is not"));
        }
    }

    fn offer(&mut self, worker: usize, heir: Heir, batch: u64, ids: Vec<ConnectionId>) {
        let Some(link) = self.workers[worker].heirs.get(&heir).copied() else { return };
        let mut members = Vec::new();
        for id in ids {
            if let Some(connection) = self.connection(worker, id) {
                members.push((connection.socket, connection.snapshot()));
            }
        }
        let bytes = 100 * members.len() as u64;
        self.tell_sender(worker, sender::Input::Offered { heir, left_out: Vec::new(), bytes });
        self.say(worker, heir, link, Message::Offer { batch, members });
    }

    /// Sends a message to an heir.
    fn say(&mut self, worker: usize, heir: Heir, link: usize, message: Message) {
        if self.links[link].down.is_ended {
            // The other side has ended.
            return self.tell_sender(worker, sender::Input::Ended(heir));
        }
        self.links[link].up.outgoing.push_back(message);
        self.flush_up(worker, heir, link);
    }

    pub(super) fn flush_up(&mut self, worker: usize, heir: Heir, link: usize) {
        let pipe = &mut self.links[link].up;
        let had_something = !pipe.outgoing.is_empty();
        pipe.flush();
        if had_something && pipe.outgoing.is_empty() {
            self.tell_sender(worker, sender::Input::Sent(heir));
        }
    }

    fn carry_out_arrival(&mut self, worker: usize, command: receiver::Command) {
        use receiver::Command;
        match command {
            Command::Thaw(visitor) => self.thaw(worker, visitor),
            Command::Say { visitor, batch, refused, open } => {
                let Some(link) = self.workers[worker].visitors.get(&visitor).copied() else { return };
                if self.links[link].up.is_ended && self.links[link].up.messages().next() == Some(&Message::End) {
                    return self.tell_receiver(worker, receiver::Input::Ended(visitor));
                }
                self.links[link].down.outgoing.push_back(Message::Takes { batch, refused, open });
                self.links[link].down.flush();
            }
            Command::Own(id) => {
                let Some(connection) = self.connection(worker, id) else { return };
                connection.custody.enter(Stage::Ours);
                self.go_on(worker, id);
                self.arrived(worker, id);
                self.settle(worker, id);
            }
            Command::Abandon(id) => drop(self.workers[worker].connections.0.remove(&id)),
            Command::Close(visitor) => {
                if let Some(link) = self.workers[worker].visitors.remove(&visitor) {
                    self.links[link].down.end();
                    let lost: Vec<_> = self.links[link].up.given().collect();
                    self.links[link].up = Default::default();
                    self.links[link].up.is_ended = true;
                    // A stopping worker ends the connections that it is given.
                    if self.workers[worker].lifecycle.is_stopping() {
                        lost.into_iter().for_each(|socket| self.end(socket, End::Stopped));
                    }
                }
            }
        }
    }

    fn thaw(&mut self, worker: usize, visitor: Visitor) {
        let Some(link) = self.workers[worker].visitors.get(&visitor).copied() else { return };
        let Some(Message::Offer { members, .. }) = self.links[link].up.inbox.pop_front() else { return };
        let open = self.workers[worker].connections.0.len() as u64;
        let (mut outcome, sockets): (Vec<_>, Vec<_>) =
            (Vec::new(), members.iter().map(|(socket, _)| *socket).collect());
        for (socket, snapshot) in members {
            let kind = self.sockets[socket.0].kind;
            if kind == Kind::Poison {
                self.sockets[socket.0].kills += 1;
                self.note(|| format!("worker {worker} panics at client {}", socket.0));
                return self.kill(worker, false);
            }
            let own = &mut self.workers[worker];
            let Some(custody) = Custody::brought(snapshot.passes, own.lifecycle.is_leaving()) else {
                outcome.push(Err(Refusal::Leaving));
                continue;
            };
            if own.connections.0.len() >= own.connections_max {
                outcome.push(Err(Refusal::Limit));
                continue;
            }
            let id = ConnectionId { slot: own.next_slot, generation: 0 };
            own.next_slot += 1;
            own.connections.0.insert(id, Connection::brought(socket, kind, snapshot, custody));
            outcome.push(Ok(id));
        }
        let partner = |socket: usize| sockets.iter().position(|one| Some(*one) == self.sockets[socket].partner);
        let pairs = sockets.iter().enumerate().filter_map(|(place, socket)| Some((place, partner(socket.0)?)));
        let pairs = pairs.filter(|(one, other)| one < other).collect();
        self.tell_receiver(worker, receiver::Input::Thawed { visitor, members: outcome, pairs, open });
    }

    /// Whether an offer has more bytes than a receiver takes.
    pub(super) fn is_too_large(&self, message: &Message) -> bool {
        let Message::Offer { members, .. } = message else { return false };
        members.iter().any(|(socket, _)| self.sockets[socket.0].kind == Kind::Large)
    }

    /// Calls the protocol again.
    fn go_on(&mut self, worker: usize, id: ConnectionId) {
        let Some(connection) = self.connection(worker, id) else { return };
        if connection.phase == Phase::Frozen {
            connection.phase = Phase::Open;
        }
        if connection.custody.take_wake() {
            connection.wakes += 1;
        }
    }

    pub(super) fn opened(&mut self, worker: usize, id: ConnectionId) {
        if self.workers[worker].lifecycle.is_leaving() {
            self.arrived(worker, id);
        }
        self.settle(worker, id);
    }

    pub(super) fn arrived(&mut self, worker: usize, id: ConnectionId) {
        let now_ns = self.now_ns;
        let own = &mut self.workers[worker];
        if own.sender.is_on() && !is_put_back(Mutation::ArrivalsAreNotPassedOn) {
            return self.tell_sender(worker, sender::Input::Arrived(id));
        }
        if !own.lifecycle.is_draining() {
            return;
        }
        if own.connections.0.get(&id).is_some_and(|connection| connection.is_fresh) {
            own.lifecycle.watch_silent(now_ns);
        } else {
            self.drain_connection(worker, id);
        }
    }

    pub(super) fn say_goodbyes(&mut self, worker: usize, which: impl Fn(bool) -> bool) {
        let connections = &self.workers[worker].connections.0;
        let told: Vec<_> = connections.iter().filter(|(_, one)| which(one.is_fresh)).map(|(id, _)| *id).collect();
        for id in told {
            self.drain_connection(worker, id);
            self.settle(worker, id);
        }
    }

    pub(super) fn drain_connection(&mut self, worker: usize, id: ConnectionId) {
        self.check_state(worker, id);
        let Some(connection) = self.connection(worker, id) else { return };
        if connection.phase == Phase::Open {
            connection.told += 1;
            connection.phase = Phase::Flushing;
        }
    }

    pub(super) fn stop_connection(&mut self, worker: usize, id: ConnectionId) {
        let Some(connection) = self.connection(worker, id) else { return };
        let (socket, was_orderly) =
            (connection.socket, connection.phase == Phase::Flushing && connection.pending() == 0);
        connection.phase = Phase::Ended;
        self.end(socket, if was_orderly { End::Orderly } else { End::Stopped });
        self.settle(worker, id);
    }

    /// Checks that the worker has its own state, which a callback needs.
    pub(super) fn check_state(&mut self, worker: usize, id: ConnectionId) {
        if self.has_state && self.workers[worker].sender.is_state_given() {
            let Some(connection) = self.connection(worker, id).filter(|one| one.phase == Phase::Open) else { return };
            let detail = format!("worker {worker}, client {}", connection.socket.0);
            self.violate("no connection is served without its worker's state", detail);
        }
    }

    pub(super) fn settle_held(&mut self, worker: usize, id: ConnectionId) {
        if let Some(connection) = self.connection(worker, id)
            && connection.custody.stage() == Stage::Stopping
            && connection.is_still()
        {
            self.tell_sender(worker, sender::Input::Still(id));
        }
    }

    /// Adjusts what is in flight to what the connection wants.
    pub(super) fn settle(&mut self, worker: usize, id: ConnectionId) {
        let Some(connection) = self.connection(worker, id) else { return };
        if connection.phase == Phase::Flushing && connection.pending() == 0 && connection.sending.is_none() {
            connection.phase = Phase::Ended;
            let socket = connection.socket;
            self.end(socket, End::Orderly);
        }
        let Some(connection) = self.connection(worker, id) else { return };
        if connection.phase == Phase::Ended {
            if connection.is_still() {
                let was_held = connection.custody.is_held();
                self.workers[worker].connections.0.remove(&id);
                if was_held {
                    self.tell_sender(worker, sender::Input::Gone(id));
                }
            } else {
                if connection.receiving == Receiving::Armed {
                    connection.receiving = Receiving::Cancelling;
                }
                connection.sending = connection.sending.map(|(count, _)| (count, true));
            }
            return;
        }
        if connection.custody.is_held() {
            return self.settle_held(worker, id);
        }
        if connection.wants_input() && connection.receiving == Receiving::No {
            connection.receiving = Receiving::Armed;
        }
        if connection.wants_output() {
            connection.sending = Some((connection.pending(), false));
        }
    }

    pub(super) fn wake(&mut self, worker: usize, id: ConnectionId) {
        let Some(connection) = self.connection(worker, id) else { return };
        match connection.custody.wake() {
            Wake::Deliver => {
                connection.wakes += 1;
                self.settle(worker, id);
            }
            Wake::Keep if is_put_back(Mutation::WakeIsQueuedAgain) => self.workers[worker].wakes.push_back(id),
            Wake::Keep | Wake::Drop => {}
        }
    }
}
