//! The invariants that hold after every step. The allowed losses are listed here, and kept narrow:
//! - An upgrade for which a client allowed that may lose connections.
//! - A connection that a killed process had accepted is lost with it.
//! - A worker that hangs in its start, and whose master is killed, has copies of listen sockets that no process can empty.
//! - A new master of the tier ebpf may end before it serves, under an old one of the tier adopt. Its listeners were in a
//!   group without a program, and nothing moves the handshakes in flight there.
//! - In a tier without a program, a client may connect while the ring of a killed worker holds the last copy of a listener.
//!   Nothing accepts its connection. The master, which has another copy, must be gone, too.
//! - A handshake may be in flight with an address when the server gives it up.
//! - If no master serves, or one stops everything, no process has to listen.

use super::Violation;
use super::kernel::{Connection, Holder, Key, Loss, Place, SocketState};
use super::process::Stage;
use super::universe::{Dead, Universe};
use crate::endpoint::Endpoint;
use crate::handover::Tier;
use crate::ipc::control::{Failure, Interruption, Outcome};
use crate::master::core::{ClientId, Core, Idle, Instead, Lifecycle, Lineage, ProcessId, Request};

/// For this time after a fault, clients may have to wait.
const EXCUSE_MS: u64 = 20_000;

impl Universe {
    pub(super) fn violate(&mut self, invariant: &'static str, detail: String) {
        self.violation.get_or_insert(Violation::new(invariant, detail));
    }

    /// Checks the whole world.
    pub(super) fn check(&mut self) -> Result<(), Violation> {
        self.judge_losses();
        self.forget_half_open();
        self.check_listeners();
        self.check_lineages();
        self.check_hastened();
        self.check_replies();
        match self.violation.take() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    /// Whether a master serves this address, or waits with its guards.
    pub(super) fn is_expected(&self, address: Endpoint) -> bool {
        let serves = |core: &Core| match core.lifecycle() {
            Lifecycle::Serving(_) | Lifecycle::Idle(Idle::Asked) => true,
            // Another master serves, or workers of one that is gone. If those end as well, nothing serves.
            _ => false,
        };
        self.cores().any(|(_, core)| serves(core) && core.addresses().iter().any(|one| one.bound == address))
    }

    fn judge_losses(&mut self) {
        for (key, loss) in std::mem::take(&mut self.kernel.losses) {
            let Connection { address, is_owed, .. } = self.kernel.connections[key];
            // The master that serves now must answer a client that is refused.
            let is_owed = is_owed || loss == Loss::Refused;
            let is_promised = self.is_expected(address) || loss == Loss::Unaccepted && self.has_given_up(address);
            if is_owed && !self.may_reset && is_promised {
                self.violate("no connection is lost", format!("connection {key} to {address}: {loss:?}"));
            }
        }
    }

    /// The only master serves, but no longer on this address, and no fault has ended the processes that accepted there.
    fn has_given_up(&self, address: Endpoint) -> bool {
        let is_calm = self.now.ms_since(self.last_fault) >= EXCUSE_MS;
        let serves = |core: &Core| matches!(core.lifecycle(), Lifecycle::Serving(Lineage::Alone));
        is_calm
            && self.masters().count() == 1
            && self.cores().any(|(_, core)| serves(core))
            && !self.is_expected(address)
    }

    /// Whether a living process or a message holds this listener.
    fn is_held_by_any(&self, socket: Key) -> bool {
        let holders = self.kernel.sockets.get(&socket).filter(|one| one.state == SocketState::Listening);
        holders.is_some_and(|one| one.holders.iter().any(|holder| !matches!(holder, Holder::Dead(_))))
    }

    /// The killed process whose ring holds the listener has a living master, which should have a copy.
    fn has_master(&self, place: Place) -> bool {
        let (Place::HalfOpen(key, _) | Place::Waiting(key, _)) = place else { return false };
        let Some(socket) = self.kernel.sockets.get(&key) else { return true };
        let is_its = |dead: &&Dead| socket.holders.contains(&Holder::Dead(dead.process));
        self.dead.iter().filter(is_its).any(|dead| self.processes.contains_key(&dead.master))
    }

    /// A connection that waited when the last process with the listener ended, while no master served, is not checked
    /// later.
    fn forget_half_open(&mut self) {
        for key in 0..self.kernel.connections.len() {
            let Connection { address, place, .. } = self.kernel.connections[key];
            if !self.is_expected(address) {
                // The address was given up while a handshake was in flight. Connections that wait there already are
                // accepted.
                self.kernel.connections[key].is_owed &= matches!(place, Place::Waiting(..));
            }
            let is_doomed = match place {
                Place::HalfOpen(socket, _) | Place::Waiting(socket, _) => !self.is_held_by_any(socket),
                _ => false,
            };
            let nothing_moves = !self.kernel.programs.contains_key(&address);
            if is_doomed && (nothing_moves && !self.has_master(place) || !self.is_expected(address)) {
                self.kernel.connections[key].place = Place::Lost;
            }
        }
    }

    fn check_listeners(&mut self) {
        if self.may_reset {
            return;
        }
        let missing =
            (0..self.shape.addresses).map(|place| super::universe::address(self.shape, place)).find(|address| {
                let is_served = |(key, socket): (&Key, &super::kernel::Socket)| {
                    socket.address == *address && socket.state == SocketState::Listening && self.is_attended(*key)
                };
                self.is_expected(*address) && !self.kernel.sockets.iter().any(is_served)
            });
        if let Some(address) = missing {
            self.violate("each address has a listener", format!("{address} has none that anybody accepts from"));
        }
    }

    /// Whether a process accepts from this socket, or will when it runs again.
    fn is_attended(&self, key: Key) -> bool {
        let Some(socket) = self.kernel.sockets.get(&key) else { return false };
        let by_worker = self.workers().any(|(id, worker)| {
            let has = worker.listeners.iter().any(|(one, is_released)| *one == key && !is_released);
            has && socket.is_held_by(id) && worker.accepts_ever()
        });
        by_worker
            || self.masters().any(|(id, master)| {
                let is_guard = master.guards.values().any(|one| *one == key);
                socket.is_held_by(id)
                    && (is_guard || master.tier == Tier::Adopt || socket.address.is_unix())
                    && master.core.is_some()
            })
    }

    /// Checks that new connections are steered to workers of one lineage, unless both must serve.
    fn check_lineages(&mut self) {
        let is_held = self.cores().any(|(_, core)| core.lifecycle().new_master().is_some_and(|new| new.is_held));
        if is_held || self.is_unsteered {
            return;
        }
        for (address, program) in &self.kernel.programs {
            // Sockets of the tier adopt belong to more than one lineage.
            let owner = |key: &Key| {
                let mut masters = self.kernel.sockets[key].holders.iter().filter_map(|holder| match holder {
                    Holder::Process(id) => self.worker(*id).map(|worker| worker.master),
                    _ => None,
                });
                let first = masters.next()?;
                masters.all(|one| one == first).then_some(first)
            };
            let stays = |id: &ProcessId| {
                let core = self.master(*id).and_then(|master| master.core.as_ref());
                core.is_some_and(|core| !core.lifecycle().is_ending())
            };
            let is_attached = |map: u32| program.maps.iter().any(|(one, _)| *one == map);
            let keys = self.kernel.maps.iter().filter(|((map, at, _), _)| is_attached(*map) && at == address);
            let mut lineages: Vec<_> = keys.filter_map(|(_, key)| owner(key)).filter(stays).collect();
            lineages.sort_unstable();
            lineages.dedup();
            if lineages.len() > 1 {
                let detail = format!("{address} is steered to workers of {lineages:?}");
                return self.violate("one lineage is steered to", detail);
            }
        }
    }

    /// Checks that a new master which has asked its old one to take over waits for that, unless it is ordered to stop.
    fn check_hastened(&mut self) {
        let is_hastened = |core: &Core| matches!(core.lifecycle(), Lifecycle::Stopping(one) if matches!(one.instead, Instead::Perhaps { .. }));
        let hastened = self.cores().find(|(id, core)| is_hastened(core) && !self.stopped.contains(id));
        if let Some((id, _)) = hastened {
            let detail =
                format!("master {} leaves before the old one has taken over, and nobody told it to stop", id.0);
            self.violate("the new master waits until the old one serves", detail);
        }
    }

    /// Checks that a client gets one answer. Whether it is true is checked at the end of the step.
    pub(super) fn judge_reply(&mut self, me: ProcessId, client: ClientId, result: Result<Outcome, Failure>) {
        let Some(one) = self.clients.get_mut(&client) else { return };
        if one.answer.is_some() {
            return self.violate("every operation is concluded once", format!("client {} is answered again", client.0));
        }
        one.answer = Some(result.clone());
        self.judge_refusal(me, &result);
        self.unjudged.push((me, client, result));
    }

    /// Checks that a client which has learned the end of an upgrade may ask for the next change.
    fn judge_refusal(&mut self, me: ProcessId, result: &Result<Outcome, Failure>) {
        match result {
            Ok(Outcome::Reverted { pid }) => _ = self.reverted_to.insert(ProcessId(*pid)),
            Ok(Outcome::Committed { pid } | Outcome::Upgraded { pid, .. }) => {
                _ = self.committed.insert(ProcessId(*pid))
            }
            Ok(_) => {}
            Err(why) => {
                let is_over = match why {
                    Failure::UpgradeUnderWay => self.reverted_to.contains(&me),
                    Failure::NotCommitted => self.committed.contains(&me),
                    _ => false,
                };
                if is_over {
                    let detail =
                        format!("master {} says {why:?}, and somebody was told that the upgrade is over", me.0);
                    self.violate("what follows a concluded upgrade is not refused", detail);
                }
            }
        }
    }

    fn check_replies(&mut self) {
        for (me, client, result) in std::mem::take(&mut self.unjudged) {
            let problem = match &result {
                Ok(outcome) => self.lie(me, client, outcome),
                Err(Failure::CutOff { by }) => self.false_excuse(me, *by),
                Err(_) => None,
            };
            if let Some(problem) = problem {
                let detail = format!("client {} was told {result:?}: {problem}", client.0);
                self.violate("every operation is concluded truthfully", detail);
            }
        }
    }

    /// What differs from the outcome's claim.
    fn lie(&self, me: ProcessId, client: ClientId, outcome: &Outcome) -> Option<&'static str> {
        let core = self.master(me)?.core.as_ref()?;
        match outcome {
            Outcome::Upgraded { pid, .. } | Outcome::Held { pid } => {
                (!self.served.contains(&ProcessId(*pid))).then_some("that master has never served")
            }
            Outcome::Committed { pid } => {
                let is_final = match core.lifecycle() {
                    Lifecycle::Leaving { .. } | Lifecycle::Over(_) => true,
                    lifecycle => me.0 == *pid && lifecycle.new_master().is_none(),
                };
                (!is_final || !self.served.contains(&ProcessId(*pid))).then_some("it is not final")
            }
            Outcome::Reverted { pid } => {
                let pid = ProcessId(*pid);
                let is_excused = self.killed.contains(&pid)
                    || self.master(pid).and_then(|one| one.core.as_ref()).is_none_or(|one| one.lifecycle().is_ending());
                let serves =
                    self.master(pid).and_then(|one| one.core.as_ref()).is_some_and(|one| one.serving().is_some());
                let is_left = self.cores().any(|(other, one)| {
                    other != me && other != pid && matches!(one.lifecycle(), Lifecycle::Serving(Lineage::New(_)))
                });
                if !is_excused && !serves {
                    Some("the old master does not serve")
                } else {
                    is_left.then_some("the new master has not left")
                }
            }
            Outcome::Stopped => self.still_serving(me),
            Outcome::Reloaded { generation, .. } => {
                (core.generations().iter().any(|one| one.number == *generation && one.is_coming()))
                    .then_some("that generation does not serve")
            }
            // Another generation may serve by now, since connections moved in between.
            Outcome::Scaled { workers, .. } => {
                let asked = self.clients.get(&client).map(|client| &client.request);
                (asked != Some(&Request::Scale { workers: *workers }))
                    .then_some("another number of workers was asked for")
            }
            Outcome::WouldRebalance { .. } => {
                let asked = self.clients.get(&client).map(|client| &client.request);
                (asked != Some(&Request::Rebalance { is_dry_run: true })).then_some("it was to be done")
            }
            Outcome::Rebalanced { .. } => {
                let asked = self.clients.get(&client).map(|client| &client.request);
                (asked != Some(&Request::Rebalance { is_dry_run: false })).then_some("nothing was to be done")
            }
            Outcome::Connections(list) => {
                let is_others = |pid: u32| self.worker(ProcessId(pid)).is_some_and(|worker| worker.master != me);
                let is_wrong = list.connections.iter().any(|one| is_others(one.id.pid));
                is_wrong.then_some("a connection is another master's")
            }
            Outcome::Closed { id } => {
                let is_its = |place: &Place| matches!(place, Place::Held { worker: Some(one), .. } if one.0 == id.pid);
                let connection = self.kernel.connections.get(id.slot as usize);
                connection.is_some_and(|one| is_its(&one.place)).then_some("it is still there")
            }
            Outcome::AlreadyScaled { .. } | Outcome::Balanced { .. } | Outcome::Listed | Outcome::Unknown => None,
        }
    }

    /// Which process serves although everything was stopped.
    fn still_serving(&self, me: ProcessId) -> Option<&'static str> {
        let serves = |(id, core): (ProcessId, &Core)| {
            id != me && matches!(core.lifecycle(), Lifecycle::Serving(_) | Lifecycle::Idle(_))
        };
        if self.cores().any(serves) {
            return Some("another master serves");
        }
        let is_late = self.now.ms_since(self.last_fault) < EXCUSE_MS;
        let is_left = self.workers().any(|(id, worker)| {
            let is_others = worker.master != me && self.processes.contains_key(&worker.master);
            self.processes[&id].halted.is_none() && worker.is_ready() && !is_others && !is_late
        });
        is_left.then_some("a worker serves")
    }

    fn false_excuse(&self, me: ProcessId, by: Interruption) -> Option<&'static str> {
        let lifecycle = self.master(me)?.core.as_ref()?.lifecycle();
        let is_true = match by {
            Interruption::Stop | Interruption::End => lifecycle.is_ending(),
            Interruption::Upgrade => matches!(lifecycle, Lifecycle::Leaving { .. } | Lifecycle::Over(_)),
            Interruption::Leave | Interruption::Change | Interruption::Unknown => true,
        };
        (!is_true).then_some("nothing has interrupted it")
    }

    /// A master ends: checks that all its clients were answered.
    pub(super) fn judge_end(&mut self, id: ProcessId) {
        let Some(master) = self.master(id) else { return };
        let queued: Vec<ClientId> = master.requests.iter().map(|(client, _)| *client).collect();
        let waits = self
            .clients
            .iter()
            .find(|(client, one)| one.asked == id && one.answer.is_none() && !one.is_gone && !queued.contains(client));
        if let Some((client, one)) = waits {
            let detail = format!("client {} asked {:?}, and the master ends", client.0, one.request);
            self.violate("every operation is concluded once", detail);
        }
    }

    /// The last master has ended: checks that no name is left, except those of a killed master.
    pub(super) fn judge_names_left(&mut self) {
        let left = self.path.into_iter().chain(self.pid_file).find(|one| !self.killed.contains(one));
        if let Some(holder) = left.filter(|_| self.masters().next().is_none()) {
            self.violate("no file is left over", format!("a name of {}", holder.0));
        }
    }

    /// A master kills a worker that serves and answers: checks that the master does not lose accepted connections by
    /// that.
    pub(super) fn judge_kill(&mut self, id: ProcessId) {
        let Some(worker) = self.worker(id) else { return };
        let is_halted = self.processes[&id].halted.is_some();
        let is_excused = self.now.ms_since(self.last_fault) < EXCUSE_MS && self.now.ms_since(worker.last_turn) > 400;
        if worker.stage != Stage::Serving || is_halted || is_excused || self.untold.contains(&id) || self.may_reset {
            return;
        }
        let is_its = |place: Place| matches!(place, Place::Held { worker, .. } if worker == Some(id));
        if self.kernel.connections.iter().any(|one| is_its(one.place) && self.is_expected(one.address)) {
            self.violate("no connection is lost", format!("worker {} is killed with connections", id.0));
        }
    }

    /// A master serves: checks that the losses were allowed.
    pub(super) fn judge_losses_allowed(&mut self, id: ProcessId) {
        let Some(master) = self.master(id) else { return };
        if master.loses {
            self.violate("an upgrade that loses something is refused", format!("{:?} serves", master.binary));
        }
    }

    /// A worker was found to hang: checks that it had its time.
    pub(super) fn judge_hung(&mut self) {
        if let Some((last_turn, hang_ms)) = self.last_killed
            && self.now.ms_since(last_turn) < hang_ms
        {
            let detail = format!("it had {hang_ms} ms, and turned {} ms ago", self.now.ms_since(last_turn));
            self.violate("only workers that hang are killed", detail);
        }
    }

    /// A worker has waited the whole time for state that no process was going to bring.
    pub(super) fn judge_waited_in_vain(&mut self, id: ProcessId) {
        let is_excused = self.now.ms_since(self.last_fault) < EXCUSE_MS;
        let has_master = self.worker(id).is_some_and(|worker| self.processes.contains_key(&worker.master));
        if !is_excused && has_master {
            self.violate("nobody waits in vain", format!("worker {} waited for state that nobody brought", id.0));
        }
    }
}
