//! What holds when no more faults come and time has passed: everything that ends has ended, and what is left is one
//! server, or both of a held upgrade. Then an operator stops it, and nothing is left at all.

use std::collections::BTreeSet;

use super::super::random::Random;
use super::Violation;
use super::kernel::{Place, Program};
use super::process::StartsAs;
use super::steps::Asked;
use super::timeline::tell;
use super::universe::Universe;
use crate::endpoint::Endpoint;
use crate::handover::Tier;
use crate::master::core::{Address, Core, Idle, Lifecycle, Lineage, NewStage, OldStage, Phase, ProcessId, State};

/// Long enough for anything that has a time limit.
const REST_MS: u64 = 180_000;

/// The most steps of all processes in that time.
const STEPS_MAX: u64 = 60_000;

fn waits(detail: String) -> Violation {
    Violation::new("nobody waits for ever", detail)
}

impl Universe {
    pub(super) fn rest(&mut self) -> Result<(), Violation> {
        tell(self.now, None, || "no more faults; time passes".to_owned());
        self.calm();
        self.pass(REST_MS)?;
        self.check_clients()?;
        self.check_connections()?;
        self.check_masters()?;
        self.check_names()?;
        self.check_steering()?;
        self.stop_all()
    }

    fn calm(&mut self) {
        self.armed.clear();
        for process in self.processes.values_mut() {
            process.halted = None;
        }
        let hangs = |worker: &super::process::Worker| worker.starts_as == StartsAs::Hanging && !worker.is_ready();
        let hung: Vec<ProcessId> = self
            .workers()
            .filter(|(id, worker)| hangs(worker) && self.processes[id].parent.is_none())
            .map(|(id, _)| id)
            .collect();
        for id in hung {
            self.may_reset = true;
            self.kill(id);
        }
        // A binary that never sends anything has been given up by now, or its old master is gone.
        self.last_fault = self.last_fault.min(self.now);
    }

    fn pass(&mut self, ms: u64) -> Result<(), Violation> {
        let mut random = Random::new(1);
        let end = self.now.after_ms(ms);
        for _ in 0..STEPS_MAX {
            let enabled = self.enabled();
            if !enabled.is_empty() {
                let micro = random.pick(&enabled);
                self.happen(micro)?;
                continue;
            }
            match self.next_time().filter(|at| *at <= end) {
                Some(at) => self.pass_to(at)?,
                None => return self.pass_to(end),
            }
        }
        Err(Violation::new("nobody spins", format!("{STEPS_MAX} steps, and {} ms have passed", end.ms_since(self.now))))
    }

    fn check_clients(&self) -> Result<(), Violation> {
        match self.clients.iter().find(|(_, client)| client.answer.is_none() && !client.is_gone) {
            Some((id, client)) => Err(waits(format!("client {} asked for {:?}", id.0, client.request))),
            None => Ok(()),
        }
    }

    fn check_connections(&self) -> Result<(), Violation> {
        let is_served = self.cores().any(|(_, core)| core.serving().is_some());
        for (key, connection) in self.kernel.connections.iter().enumerate() {
            let is_late = match connection.place {
                Place::HalfOpen(..) | Place::Waiting(..) => is_served,
                Place::Held { worker: Some(_), .. } => !connection.is_long,
                Place::Held { worker: None, .. } => is_served,
                Place::Served | Place::Lost => false,
            };
            let is_expected = self.cores().any(|(_, core)| {
                core.serving().is_some() && core.addresses().iter().any(|one| one.bound == connection.address)
            });
            if is_late && is_expected {
                return Err(waits(format!("connection {key}: {:?}", connection.place)));
            }
        }
        Ok(())
    }

    fn check_masters(&self) -> Result<(), Violation> {
        for (id, master) in self.masters() {
            let Some(core) = &master.core else {
                // It has no master any more, or it sends nothing.
                let has_parent = self.processes[&id].parent.is_some();
                if has_parent {
                    return Err(waits(format!("master {} has not started", id.0)));
                }
                continue;
            };
            let is_left_idle = matches!(core.lifecycle(), Lifecycle::Idle(Idle::Asked)) && !self.idled.contains(&id);
            if !Self::is_at_rest(core) || is_left_idle {
                return Err(waits(format!("master {}: {:?}", id.0, core.lifecycle())));
            }
            for generation in core.generations() {
                if generation.phase != Phase::Serving || generation.is_changing() {
                    return Err(waits(format!("generation {} of master {}", generation.number, id.0)));
                }
                if let Some(slot) = generation.slots.iter().find(|slot| !matches!(slot.state, State::Ready(_))) {
                    return Err(waits(format!(
                        "slot {} of generation {}: {:?}",
                        slot.index, generation.number, slot.state
                    )));
                }
            }
        }
        let serving: Vec<ProcessId> =
            self.cores().filter(|(_, core)| core.serving().is_some()).map(|(id, _)| id).collect();
        let is_held = self.cores().any(|(_, core)| {
            matches!(core.lifecycle(), Lifecycle::Serving(Lineage::Old(old)) if matches!(old.stage, OldStage::Held { .. }))
        });
        if serving.len() > 1 && !is_held || serving.len() > 2 {
            return Err(Violation::new("one generation serves", format!("masters {serving:?} do")));
        }
        self.check_workers()
    }

    fn is_at_rest(core: &Core) -> bool {
        match core.lifecycle() {
            Lifecycle::Serving(Lineage::Alone) => core.serving().is_some(),
            Lifecycle::Idle(Idle::Asked) => true,
            Lifecycle::Serving(Lineage::New(new)) => new.stage == NewStage::Undecided && core.serving().is_some(),
            Lifecycle::Serving(Lineage::Old(old)) | Lifecycle::Idle(Idle::Replaced(old)) => {
                old.stage == OldStage::Held { until: None }
            }
            _ => false,
        }
    }

    /// Checks that each living worker is known to its master, or serves on because there is no master.
    fn check_workers(&self) -> Result<(), Violation> {
        let known: BTreeSet<ProcessId> = self
            .cores()
            .flat_map(|(_, core)| core.generations())
            .flat_map(|generation| generation.children().map(|child| child.process))
            .collect();
        let has_master = self.cores().next().is_some();
        // A worker that hangs in its start, and whose master is gone, gets no messages.
        let hangs =
            |id: &ProcessId| self.processes[id].parent.is_none() && self.worker(*id).is_some_and(|one| !one.is_ready());
        for (id, worker) in self.workers().filter(|(id, _)| !hangs(id)) {
            if has_master && !known.contains(&id) {
                return Err(Violation::new("no process is left over", format!("worker {} ({:?})", id.0, worker.stage)));
            }
            if !worker.is_ready() && !known.contains(&id) {
                continue;
            }
            if worker.awaits_until.is_some() {
                return Err(waits(format!("worker {} waits for state", id.0)));
            }
        }
        self.check_acquaintance(&known)
    }

    /// Checks that of any two workers that exchange messages, one was introduced to the other.
    fn check_acquaintance(&self, known: &BTreeSet<ProcessId>) -> Result<(), Violation> {
        let speaks = |worker: &super::process::Worker| {
            self.shape.speaks && worker.is_ready() && worker.spawn.plan.has_connection_state
        };
        let speakers = self.workers().filter(|(id, worker)| known.contains(id) && speaks(worker));
        let speakers: Vec<ProcessId> = speakers.map(|(id, _)| id).collect();
        for (place, one) in speakers.iter().enumerate() {
            let mut others = speakers[place + 1..].iter();
            if let Some(other) = others.find(|other| !self.acquainted.contains(&(*one.min(other), **other.max(&one)))) {
                let detail = format!("workers {} and {} do not know each other", one.0, other.0);
                return Err(Violation::new("workers that speak know each other", detail));
            }
        }
        Ok(())
    }

    /// Checks that the names lead to the master that serves, and that files beside them belong to masters that live.
    fn check_names(&self) -> Result<(), Violation> {
        let names = |detail: String| Violation::new("one master has the names", detail);
        let Some((serving, _)) = self.cores().find(|(_, core)| core.serving().is_some()) else { return Ok(()) };
        let new = self.cores().find(|(_, core)| core.lifecycle().new_master().is_some()).map(|(id, _)| id);
        let wanted = new.unwrap_or(serving);
        if self.path != Some(wanted) {
            return Err(names(format!("the control socket leads to {:?}, and {} serves", self.path, wanted.0)));
        }
        if self.pid_file != Some(wanted) {
            return Err(names(format!("the pid file says {:?}, and {} serves", self.pid_file, wanted.0)));
        }
        match self.beside.iter().find(|one| !self.processes.contains_key(one) || **one == wanted) {
            Some(left) => Err(Violation::new("no file is left over", format!("control socket of {}", left.0))),
            None => Ok(()),
        }
    }

    fn check_steering(&self) -> Result<(), Violation> {
        let wrong = |detail: String| Violation::new("connections are steered to whom serves", detail);
        for (id, core) in self.cores() {
            let Some(master) = self.master(id) else { continue };
            let Some(index) = core.serving() else { continue };
            // HUP has started the old workers again: connections go to them.
            let predecessor = core.lifecycle().new_master().map(|new| new.predecessor);
            let old = predecessor.and_then(|old| self.master(old)).and_then(|old| old.core.as_ref());
            if old.is_some_and(|old| old.serving().is_some()) {
                continue;
            }
            let generation = &core.generations()[index];
            let is_unused = |address: &&Endpoint| !generation.addresses.iter().any(|one| one.bound == **address);
            if let Some(address) = master.guards.keys().find(is_unused) {
                return Err(wrong(format!("a guard of {address}, which was given up")));
            }
            let is_old = core.lifecycle().old().is_some();
            if let Some(steering) = generation.steering.filter(|_| !is_old) {
                for address in generation.addresses.iter().filter(|one| !one.bound.is_unix()) {
                    let program = self.kernel.programs.get(&address.bound);
                    let mut maps = vec![(steering.0, generation.slots.len())];
                    if core.lifecycle().new_master().is_some_and(|new| new.is_held) {
                        maps.extend(master.old_map);
                    }
                    let wanted = Program { maps, guard: None };
                    // If attaching failed, the maps of ended workers remain beside.
                    let has_own = program.is_some_and(|one| one.maps.contains(&wanted.maps[0]));
                    if program != Some(&wanted) && !(self.is_unsteered && has_own) {
                        return Err(wrong(format!("{}: {program:?}, not {wanted:?}", address.bound)));
                    }
                }
            }
            let is_adopted = |one: &&Address| master.tier == Tier::Adopt || one.bound.is_unix();
            for address in generation.addresses.iter().filter(is_adopted) {
                let listening = self
                    .kernel
                    .sockets
                    .iter()
                    .filter(|(_, one)| one.address == address.bound && one.is_held_by(id) && !one.is_guard);
                for (key, socket) in listening {
                    if !self.workers().any(|(worker, one)| {
                        socket.is_held_by(worker) && one.listeners.iter().any(|(own, _)| own == key)
                    }) {
                        return Err(wrong(format!("nobody accepts from socket {key} of {}", address.bound)));
                    }
                }
            }
        }
        Ok(())
    }

    /// An operator starts a server if none is left, then stops it, and nothing remains.
    fn stop_all(&mut self) -> Result<(), Violation> {
        tell(self.now, None, || "everything is stopped".to_owned());
        let silent: Vec<ProcessId> = self.masters().filter(|(_, one)| one.core.is_none()).map(|(id, _)| id).collect();
        silent.into_iter().for_each(|id| self.kill(id));
        self.start_master();
        self.pass(20_000)?;
        // One after the other: the first decides an upgrade that is held.
        for _ in 0..3 {
            let Some(id) = self.path.filter(|id| self.processes.contains_key(id)) else { break };
            self.ask(id, Asked::Stop { now: false });
            self.pass(60_000)?;
        }
        self.check_clients()?;
        self.calm();
        if let Some(id) = self.processes.keys().next() {
            return Err(Violation::new("no process is left over", format!("{}: {:?}", id.0, self.processes[id].body)));
        }
        if self.path.is_some() || self.pid_file.is_some() || !self.beside.is_empty() {
            let detail = format!("{:?}, {:?}, {:?}", self.path, self.pid_file, self.beside);
            return Err(Violation::new("no file is left over", detail));
        }
        Ok(())
    }
}
