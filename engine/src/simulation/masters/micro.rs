//! Lists what can happen next, and makes it happen. Time passes to what is due next.

use super::super::random::Random;
use super::Violation;
use super::kernel::Place;
use super::process::Body;
use super::universe::{Dead, Micro, Universe};
use crate::master::core::{ProcessId, Time};

/// Steps of all processes together without time passing. More of them mean that a process spins.
const STEPS_AT_ONCE_MAX: u32 = 4_000;

impl Universe {
    /// Everything that may happen now.
    pub(super) fn enabled(&self) -> Vec<Micro> {
        let mut steps = Vec::new();
        for (id, process) in self.processes.iter().filter(|(_, process)| process.halted.is_none()) {
            match &process.body {
                Body::Master(master) => self.master_steps(*id, master, &mut steps),
                Body::Worker(worker) => self.worker_steps(*id, worker, &mut steps),
            }
        }
        steps
    }

    /// Makes one thing happen, and checks the invariants.
    pub(super) fn happen(&mut self, micro: Micro) -> Result<(), Violation> {
        self.steps_at_once += 1;
        if self.steps_at_once > STEPS_AT_ONCE_MAX {
            return Err(Violation::new("nobody spins", format!("{micro:?} and others, without time passing")));
        }
        match micro {
            Micro::Turn(id) if self.worker(id).is_some() => self.worker_turns(id),
            Micro::Turn(id) => self.master_turns(id),
            Micro::Hear(id, channel) if self.worker(id).is_some() => self.worker_hears(id, channel),
            Micro::Hear(id, channel) => self.master_hears(id, channel),
            Micro::Reap(id, place) => self.master_reaps(id, place),
            Micro::Signal(id) => self.master_is_signalled(id),
            Micro::Ask(id) => self.master_is_asked(id),
            Micro::Arrive(id) => self.master_accepts(id),
            Micro::Tick(id) => self.step_core(id, crate::master::core::Event::Tick),
        }
        self.check()
    }

    /// The time at which something is due next.
    pub(super) fn next_time(&self) -> Option<Time> {
        let processes = self.processes.values().filter_map(|process| match (process.halted, &process.body) {
            (Some(until), _) => Some(until),
            (None, Body::Master(master)) => master.deadline,
            (None, Body::Worker(worker)) => Self::worker_deadline(worker),
        });
        let handshakes = self.kernel.connections.iter().filter_map(|connection| match connection.place {
            Place::HalfOpen(_, at) => Some(at),
            _ => None,
        });
        let dead = self.dead.iter().map(|dead| dead.until);
        processes.chain(handshakes).chain(dead).filter(|at| *at > self.now).min()
    }

    pub(super) fn pass_to(&mut self, time: Time) -> Result<(), Violation> {
        self.now = self.now.max(time);
        self.steps_at_once = 0;
        let now = self.now;
        for process in self.processes.values_mut() {
            process.halted = process.halted.filter(|until| *until > now);
        }
        let (over, dead): (Vec<_>, Vec<_>) = self.dead.drain(..).partition(|dead| dead.until <= now);
        self.dead = dead;
        for Dead { process, .. } in over {
            self.kernel.release_all(super::kernel::Holder::Dead(process), now);
        }
        for key in 0..self.kernel.connections.len() {
            if matches!(self.kernel.connections[key].place, Place::HalfOpen(_, at) if at <= now) {
                self.kernel.complete(key, now);
            }
        }
        self.check()
    }

    /// Makes this many things happen in an order that the seed decides, while no time passes.
    pub(super) fn flow(&mut self, random: &mut Random, count: u64) -> Result<(), Violation> {
        for _ in 0..count {
            let enabled = self.enabled();
            if enabled.is_empty() {
                return Ok(());
            }
            let micro = random.pick(&enabled);
            self.happen(micro)?;
        }
        Ok(())
    }

    /// Lets time pass, and makes everything happen that is due; some of it late, unless the world is at rest.
    pub(super) fn run(&mut self, random: &mut Random, ms: u64, is_late: bool) -> Result<(), Violation> {
        let end = self.now.after_ms(ms);
        loop {
            let enabled = self.enabled();
            if enabled.is_empty() {
                match self.next_time().filter(|at| *at <= end) {
                    Some(at) => self.pass_to(at)?,
                    None => return self.pass_to(end),
                }
            } else if is_late && random.once_in(24) {
                if self.now >= end {
                    return Ok(());
                }
                self.pass_to(self.now.after_ms(1))?;
            } else {
                let micro = random.pick(&enabled);
                self.happen(micro)?;
            }
        }
    }

    /// Stops a process for a while.
    pub(super) fn halt(&mut self, id: ProcessId, ms: u64) {
        let until = self.now.after_ms(ms);
        if let Some(process) = self.processes.get_mut(&id) {
            process.halted = Some(until);
            self.last_fault = until;
        }
    }
}
