//! Watches workers: what they report, how they end, whether they respond. Starts workers again that died.

use super::Core;
use super::generation::{Child, Generation, Killed, Phase, Pulse, Slot, State};
use super::mutation::{Mutation, is_put_back};
use super::types::{ProcessId, Time};
use super::world::World;
use crate::handover::Tier;
use crate::ipc::control::{EventKind, Exit, Failure, RevertCause, TimelineKind};
use crate::ipc::orders::{Order, Report};

/// A worker that is not ready after this time has failed.
const READY_MS_MAX: u64 = 10_000;

/// A worker that died this many times in a row is reported as one that keeps dying.
const DEATHS_REPORTED: u32 = 5;

impl Core {
    /// Where a worker of this master is: its generation, and its place there.
    fn place_of(&self, process: ProcessId) -> Option<(usize, usize)> {
        let mut generations = self.generations.iter().enumerate();
        generations.find_map(|(index, generation)| {
            let is_it = |slot: &Slot| slot.child().is_some_and(|child| child.process == process);
            Some((index, generation.slots.iter().position(is_it)?))
        })
    }

    pub(super) fn heard(&mut self, world: &mut dyn World, process: ProcessId, report: Report) {
        let Some((index, place)) = self.place_of(process) else { return };
        let generation = &mut self.generations[index];
        let (number, slot) = (generation.number, generation.slots[place].index);
        match report {
            Report::Ready { meeting, speaks, .. } => {
                let worker = &mut generation.slots[place];
                match std::mem::replace(&mut worker.state, State::Gone) {
                    State::Starting(child) => {
                        worker.state = State::Ready(Child { meeting, speaks, ..child });
                        world.note(Some(number), EventKind::WorkerReady { slot, pid: process.0 });
                        // Introduce it first: workers that are ordered to leave by what follows must know it.
                        self.introduce_worker(world, process);
                        self.became_ready(world, index);
                    }
                    // A repeated report, or one of a worker that is being killed.
                    other => worker.state = other,
                }
            }
            Report::Failed { reason } => {
                self.failed_to_start(world, index, place, Failure::Worker { slot, problem: reason });
            }
            Report::Taken => {
                let handed = generation.slots[place].child_mut().and_then(|child| child.handed.pop_front());
                handed.into_iter().for_each(|arrival| world.forget_arrival(arrival));
            }
            Report::Moved(moved) => self.moved(world, index, place, &moved),
            Report::Rebalanced(rebalanced) => self.rebalanced(world, process, &rebalanced),
            Report::Connections(part) => self.hear_connections(world, process, part),
            Report::ConnectionEnded { question, how } => self.connection_ended(world, process, question, how),
            Report::Acquainted => self.hear_acquainted(process),
            Report::AsksToGather => self.hear_gathering(process, false),
            Report::HasGathered => self.hear_gathering(process, true),
            Report::Leaving => generation.slots[place].leaves = true,
            Report::StateMoves { bytes } => world.note(Some(number), EventKind::WorkerStateMoves { slot, bytes }),
            Report::Closed => {
                generation.shares.retain(|share| share.slot != slot);
                generation.slots[place].child_mut().into_iter().for_each(|child| child.has_closed = true);
                world.note(Some(number), EventKind::WorkerClosed { slot });
            }
            // Only orphans send the first two.
            Report::Orphan { .. } | Report::Listener { .. } | Report::Unknown => {}
        }
    }

    pub(super) fn channel_ended(&mut self, process: ProcessId) {
        if let Some((index, place)) = self.place_of(process)
            && let Some(child) = self.generations[index].slots[place].child_mut()
        {
            child.has_channel = false;
        }
    }

    fn became_ready(&mut self, world: &mut dyn World, index: usize) {
        match self.generations[index].phase {
            Phase::Starting if !self.lifecycle.is_ending() => self.proceed(world, index),
            Phase::Serving => {
                self.proceed_growth(world, index);
                self.tell_heirs(world);
                self.share_rest(world);
            }
            Phase::Claiming { .. } | Phase::Starting => {}
            Phase::Leaving { .. } | Phase::Abandoned { .. } => self.share_late(world),
        }
    }

    /// Handles the end of a worker's process.
    pub(super) fn worker_ended(&mut self, world: &mut dyn World, process: ProcessId, exit: Exit) {
        let Some((index, place)) = self.place_of(process) else { return };
        let now = world.now();
        let generation = &mut self.generations[index];
        let (number, phase) = (generation.number, generation.phase);
        let is_new = generation.growth.as_ref().is_some_and(|growth| place >= growth.from);
        let worker = &mut generation.slots[place];
        let slot = worker.index;
        // Connections that it was handed and did not take go to other workers.
        let handed = worker.child_mut().map(|child| std::mem::take(&mut child.handed)).unwrap_or_default();
        worker.last_exit = Some(exit);
        match phase {
            Phase::Starting | Phase::Claiming { .. } => {
                worker.state = State::Gone;
                self.abandon(world, Failure::WorkerEnded { slot, exit });
            }
            Phase::Serving if is_new && !worker.is_ready() => {
                worker.state = State::Gone;
                self.abandon_growth(world, index, Failure::WorkerEnded { slot, exit });
            }
            Phase::Abandoned { .. } => worker.state = State::Gone,
            Phase::Leaving { .. } => {
                worker.state = State::Gone;
                if !exit.is_success() {
                    self.died += 1;
                    world.note(Some(number), EventKind::WorkerDiedLeaving { slot, exit });
                }
            }
            Phase::Serving if worker.leaves => worker.state = State::Gone,
            Phase::Serving => {
                let was_hung = matches!(worker.state, State::Killed(_, Killed::Hung));
                let restart_ms = worker.died(now);
                let deaths = worker.deaths;
                world.begin_timeline(TimelineKind::Replacement, number);
                world.note(Some(number), EventKind::WorkerDied { slot, exit, restart_ms });
                if deaths >= DEATHS_REPORTED {
                    world.note(Some(number), EventKind::WorkerKeepsDying { slot, deaths });
                }
                if !was_hung {
                    self.report_trouble(world, RevertCause::WorkerEnded { slot, exit });
                }
            }
        }
        self.placement.held.extend(handed);
        if !exit.is_success() {
            self.look_at_kept(now);
        }
    }

    /// Acts when a time limit of a worker is over.
    pub(super) fn check_workers(&mut self, world: &mut dyn World) {
        let now = world.now();
        for index in 0..self.generations.len() {
            let generation = &self.generations[index];
            if generation.phase.leaves_until().is_some_and(|until| until <= now) {
                self.kill_late(world, index);
            }
            for place in 0..self.generations.get(index).map_or(0, |generation| generation.slots.len()) {
                // A growth that fails splits its generation. The remaining slots are then looked at next time.
                let Some(slot) = self.generations.get(index).and_then(|one| one.slots.get(place)) else { break };
                match &slot.state {
                    State::Waiting(until) if *until <= now => self.start_again(world, index, place),
                    State::Starting(child) if now.ms_since(child.since) >= READY_MS_MAX => {
                        let (slot, pid) = (slot.index, child.process.0);
                        let why = Failure::NotReady { slot, pid, waited_ms: READY_MS_MAX };
                        self.failed_to_start(world, index, place, why);
                    }
                    _ => {}
                }
            }
        }
    }

    fn kill_late(&mut self, world: &mut dyn World, index: usize) {
        let generation = &self.generations[index];
        let (number, workers) = (generation.number, generation.children().count());
        let is_abandoned = matches!(generation.phase, Phase::Abandoned { .. });
        if workers > 0 && !is_abandoned {
            world.note(Some(number), EventKind::WorkersLate { workers });
        }
        self.kill_children(world, index, if is_abandoned { Killed::Unwanted } else { Killed::Late });
    }

    fn start_again(&mut self, world: &mut dyn World, index: usize, place: usize) {
        if self.fork(world, index, place, None).is_err() {
            self.generations[index].slots[place].died(world.now());
        }
    }

    /// Checks whether workers answer: each generation at its own interval.
    pub(super) fn look_at_workers(&mut self, world: &mut dyn World) {
        let now = world.now();
        let mut hung = Vec::new();
        let shortest_ms = self.generations.iter().filter_map(Generation::look_interval_ms).min();
        let shortest_ms = shortest_ms.filter(|_| is_put_back(Mutation::ShortestHangTimeJudges));
        for (index, generation) in self.generations.iter_mut().enumerate() {
            let interval_ms = shortest_ms.or(generation.look_interval_ms());
            let Some(interval_ms) = interval_ms.filter(|_| generation.next_look <= now) else {
                continue;
            };
            generation.next_look = now.after_ms(interval_ms);
            for (place, slot) in generation.slots.iter_mut().enumerate() {
                let State::Ready(child) = &slot.state else { continue };
                match slot.heartbeat.look(world.last_turn(child.process), now, interval_ms) {
                    Pulse::Ask if child.has_channel => drop(world.tell(child.process, &Order::Ping)),
                    Pulse::Hung => hung.push((index, place)),
                    Pulse::Fine | Pulse::Ask => {}
                }
            }
        }
        hung.into_iter().for_each(|(index, place)| self.kill_hung(world, index, place));
    }

    /// Gives a hung worker's accept queue to others and kills it. It is replaced like any worker that died.
    fn kill_hung(&mut self, world: &mut dyn World, index: usize, place: usize) {
        let generation = &mut self.generations[index];
        let number = generation.number;
        let has_others = self.tier == Tier::Ebpf || generation.slots.iter().filter(|slot| slot.is_ready()).count() > 1;
        let slot = generation.slots[place].index;
        let Some(process) = generation.slots[place].killed(Killed::Hung) else { return };
        if let Some(steering) = generation.steering.filter(|_| generation.phase == Phase::Serving) {
            world.unset(steering, slot);
        }
        // The master has copies of adopted sockets, and accepts from them until the worker is replaced.
        if self.tier != Tier::Adopt && has_others {
            world.shut_listeners(process);
        }
        world.kill(process);
        world.note(Some(number), EventKind::WorkerHung { slot });
        self.report_trouble(world, RevertCause::WorkerHung { slot });
    }

    /// Removes generations whose workers have all ended.
    pub(super) fn forget_gone(&mut self, world: &mut dyn World) {
        let is_over = |generation: &Generation| {
            generation.is_gone() && !matches!(generation.phase, Phase::Claiming { .. } | Phase::Starting)
        };
        while let Some(index) = self.generations.iter().position(is_over) {
            let generation = self.generations.remove(index);
            if let Some(steering) = generation.steering {
                world.drop_steering(steering);
            }
            // Slots that a scale took out of a generation: the rest of the generation remains.
            if self.generations.iter().any(|other| other.number == generation.number) {
                let slots = generation.slots.iter().map(|slot| slot.index).collect();
                world.note(Some(generation.number), EventKind::WorkersGone { slots });
            } else {
                world.note(Some(generation.number), EventKind::Gone);
            }
            self.close_unused_guards(world);
        }
    }

    /// The times at which workers must be looked at next.
    pub(super) fn worker_deadlines(&self) -> impl Iterator<Item = Time> {
        let of_phases = self.generations.iter().filter_map(|generation| generation.phase.leaves_until());
        let slots = self.generations.iter().flat_map(|generation| &generation.slots);
        let of_slots = slots.filter_map(|slot| match &slot.state {
            State::Starting(child) => Some(child.since.after_ms(READY_MS_MAX)),
            State::Waiting(until) => Some(*until),
            State::Gone | State::Ready(_) | State::Killed(..) => None,
        });
        let looks = self.generations.iter().filter(|generation| generation.look_interval_ms().is_some());
        let of_looks = looks.map(|generation| generation.next_look);
        of_phases.filter(|until| *until != Time(u64::MAX)).chain(of_slots).chain(of_looks)
    }
}
