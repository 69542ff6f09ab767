//! How a generation starts: first one worker, the others when the first is ready, and the switch when all are ready. If
//! one fails, the whole generation is taken down, and the previous one keeps serving.

use std::collections::VecDeque;

use super::Core;
use super::generation::{Child, Generation, Killed, Phase, Slot, State};
use super::lifecycle::{Idle, Lifecycle, Lineage, OldStage};
use super::mutation::{Mutation, is_put_back};
use super::operations::Kind;
use super::types::{Address, Plan, SocketId, Time};
use super::world::{Claim, Listeners, Notice, Spawn, World};
use crate::endpoint::Endpoint;
use crate::handover::Tier;
use crate::ipc::control::{EventKind, Failure, Moves, Outcome, TimelineKind};

/// A server that starts holds a port for some milliseconds while it looks at it.
const CLAIM_MS_MAX: u64 = 1_000;

/// Pause before the next attempt if nothing serves and workers that must serve again fail to start.
const AGAIN_MS: u64 = 1_000;

/// Pause before a busy port is looked at again.
const CLAIM_RETRY_MS: u64 = 5;

impl Core {
    /// Begins a new generation and returns its number. If it fails, nothing of it is left.
    pub(super) fn begin(&mut self, world: &mut dyn World, plan: Plan, timeline: TimelineKind) -> Result<u32, Failure> {
        let number = self.next_number;
        self.next_number += 1;
        world.begin_timeline(timeline, number);
        world.note(Some(number), EventKind::Starting { workers: plan.workers });
        let now = world.now();
        let slots = (0..plan.workers).map(Slot::new).collect();
        self.generations.push(Generation {
            number,
            plan,
            addresses: Vec::new(),
            steering: None,
            shares: Vec::new(),
            slots,
            phase: Phase::Claiming { until: now.after_ms(CLAIM_MS_MAX) },
            growth: None,
            began: now,
            next_look: now,
        });
        let index = self.generations.len() - 1;
        match self.claim(world, index) {
            Ok(()) => Ok(number),
            Err(why) => {
                world.release_claims();
                self.take_down(world, index);
                Err(why)
            }
        }
    }

    /// Checks that all addresses are free, then opens them.
    fn claim(&mut self, world: &mut dyn World, index: usize) -> Result<(), Failure> {
        let Plan { listen, socket_file, .. } = self.generations[index].plan.clone();
        for requested in listen {
            let listens = |generation: &Generation| generation.addresses.iter().any(|one| one.bound == requested);
            let is_ours = self.placement.bound(requested, &[]).is_some()
                || self.orphans.listen_on(requested)
                || self.generations.iter().any(listens);
            if is_ours || requested.is_chosen_by_kernel() {
                continue;
            }
            match world.claim(requested, socket_file)? {
                Claim::Held => {}
                Claim::Busy => {
                    let is_late =
                        matches!(self.generations[index].phase, Phase::Claiming { until } if until <= world.now());
                    if is_late {
                        let problem = "another server is starting on this address; stop it, or choose another address";
                        return Err(Failure::listen(requested, problem));
                    }
                    return Ok(());
                }
            }
        }
        self.generations[index].phase = Phase::Starting;
        self.open(world, index)
    }

    /// Looks again at ports that were busy.
    pub(super) fn claim_again(&mut self, world: &mut dyn World) {
        let is_claiming = |generation: &Generation| matches!(generation.phase, Phase::Claiming { .. });
        let Some(index) = self.generations.iter().position(is_claiming) else { return };
        if let Err(why) = self.claim(world, index) {
            self.abandon(world, why);
        }
    }

    pub(super) fn claim_deadline(&self, now: Time) -> Option<Time> {
        let mut phases = self.generations.iter().map(|generation| generation.phase);
        phases.any(|phase| matches!(phase, Phase::Claiming { .. })).then(|| now.after_ms(CLAIM_RETRY_MS))
    }

    /// Binds what is new and forks the first worker.
    fn open(&mut self, world: &mut dyn World, index: usize) -> Result<(), Failure> {
        let Plan { listen, workers, socket_file, steering, .. } = self.generations[index].plan.clone();
        let mut first: Vec<(SocketId, Endpoint)> = Vec::new();
        for requested in listen {
            let known = self.placement.bound(requested, &self.generations[index].addresses);
            let has_enough = |bound: Endpoint| {
                self.adopts(bound) && self.placement.kept_on(bound) >= Self::sockets_wanted(bound, workers)
            };
            let bound = match known.filter(|bound| has_enough(*bound)) {
                Some(bound) => bound,
                None => match world.bind(known.unwrap_or(requested), socket_file) {
                    Ok((socket, bound)) => {
                        first.push((socket, bound));
                        bound
                    }
                    Err(why) => {
                        first.iter().for_each(|(socket, _)| world.close(*socket));
                        return Err(why);
                    }
                },
            };
            self.generations[index].addresses.push(Address { requested, bound });
        }
        let (adopted, first): (Vec<_>, Vec<_>) = first.into_iter().partition(|(_, address)| self.adopts(*address));
        adopted.iter().for_each(|(socket, address)| self.placement.keep(*socket, *address));
        let steered = self.steered(index);
        let prepared = self.keep_sockets(world, index).and_then(|()| {
            let is_steered = self.tier == Tier::Ebpf && !steered.is_empty();
            self.generations[index].steering =
                is_steered.then(|| world.load_steering(&steered, workers, steering)).transpose()?;
            Ok(())
        });
        if let Err(why) = prepared {
            first.iter().for_each(|(socket, _)| world.close(*socket));
            return Err(why);
        }
        self.fork(world, index, 0, Some(first))
    }

    /// Forks the worker at `place`; `first` are the sockets that the first worker alone inherits.
    pub(super) fn fork(
        &mut self,
        world: &mut dyn World,
        index: usize,
        place: usize,
        first: Option<Vec<(SocketId, Endpoint)>>,
    ) -> Result<(), Failure> {
        let slot = self.generations[index].slots[place].index;
        let own = if first.is_some() { Vec::new() } else { self.steered(index) };
        let listeners = Listeners { first: first.unwrap_or_default(), own, copies: self.copies(index, slot) };
        let succeeds = match self.generations[index].phase {
            Phase::Claiming { .. } | Phase::Starting => self.has_others(index),
            // A worker that is started again while others still hand over state.
            _ => self.is_moving() || self.elder.as_ref().is_some_and(|elder| elder.is_moving),
        };
        let generation = &mut self.generations[index];
        let process = world.fork(Spawn {
            plan: generation.plan.clone(),
            generation: generation.number,
            slot,
            listeners,
            bound: generation.addresses.iter().map(|one| one.bound).collect(),
            steering: generation.steering,
            succeeds,
        })?;
        let slot = &mut generation.slots[place];
        slot.heartbeat = Default::default();
        slot.leaves = false;
        slot.is_moving = false;
        slot.state = State::Starting(Child {
            process,
            since: world.now(),
            has_channel: true,
            meeting: None,
            speaks: false,
            awaits_state: succeeds && generation.plan.has_worker_state,
            has_closed: false,
            handed: VecDeque::new(),
        });
        Ok(())
    }

    /// Whether there are workers, of this master or another, that must leave when those of this generation serve.
    fn has_others(&self, index: usize) -> bool {
        let is_other = |(other, one): (usize, &Generation)| other != index && one.phase == Phase::Serving;
        let has_own = self.generations.iter().enumerate().any(is_other);
        has_own || self.elder.is_some() || self.lifecycle.old().is_some() || self.orphans.is_any_heard()
    }

    /// Takes the next step of a generation that starts: after the first worker the others, after the last one the
    /// switch.
    pub(super) fn proceed(&mut self, world: &mut dyn World, index: usize) {
        // A worker listens on every address.
        world.release_claims();
        let is_missing = |slot: &Slot| matches!(slot.state, State::Gone);
        let result = if self.generations[index].slots.iter().any(is_missing) {
            let places = 0..self.generations[index].slots.len();
            places.into_iter().try_for_each(|place| match self.generations[index].slots[place].state {
                State::Gone => self.fork(world, index, place, None),
                _ => Ok(()),
            })
        } else if self.generations[index].is_ready() {
            self.switch(world, index)
        } else {
            Ok(())
        };
        if let Err(why) = result {
            self.abandon(world, why);
        }
    }

    /// Makes a ready generation the serving one, and lets the earlier ones leave.
    fn switch(&mut self, world: &mut dyn World, index: usize) -> Result<(), Failure> {
        if let Err(why) = self.steer_to(world, index) {
            // Some addresses may have been switched before another one failed.
            if is_put_back(Mutation::HalfSwitchStays) {
                return Err(why);
            }
            if let Some(Err(why)) = self.serving().map(|serving| self.steer_to(world, serving)) {
                world.note(None, EventKind::NotSteered { why });
            }
            return Err(why);
        }
        let generation = &mut self.generations[index];
        generation.phase = Phase::Serving;
        let (number, took_ms) = (generation.number, world.now().ms_since(generation.began));
        self.placement.addresses.clone_from(&generation.addresses);
        let settle_ms = generation.plan.settle_ms;
        self.last = Some(generation.plan.clone());
        self.settle_guards(world.now(), settle_ms);
        world.note(Some(number), EventKind::Serves { took_ms });
        let is_first = self.serves_now();
        for before in 0..index {
            if self.generations[before].phase == Phase::Serving {
                let farewell = self.farewell_between(before, index);
                self.send_away(world, before, &farewell);
            }
        }
        if !self.placement.kept.is_empty() {
            // A former server may have steered to sockets that are kept now. If another master still has listeners to
            // close, its program stays: it moves the connections that wait there, and it leads nowhere once they are
            // closed.
            if self.orphans.is_any_heard() || is_put_back(Mutation::SteeringEndsEarly) {
                self.placement.kept.iter().for_each(|kept| world.detach(kept.socket));
            }
            self.share_rest(world);
        }
        let outcome = Outcome::Reloaded { generation: number, took_ms, moves: Moves::default() };
        self.conclude_when_moved(Kind::Reload { generation: number }, outcome);
        if is_first {
            self.take_names(world, number);
        }
        self.dismiss_orphans(world);
        world.notify(Notice::Ready);
        self.serves_again(world);
        Ok(())
    }

    /// Updates the lifecycle because a generation serves. Returns `true` the first time.
    fn serves_now(&mut self) -> bool {
        let lifecycle = std::mem::replace(&mut self.lifecycle, Lifecycle::Serving(Lineage::Alone));
        let (lifecycle, is_first) = match lifecycle {
            Lifecycle::Starting(_, None) => (Lifecycle::Serving(Lineage::Alone), true),
            Lifecycle::Starting(_, Some(new)) => (Lifecycle::Serving(Lineage::New(new)), true),
            Lifecycle::Idle(Idle::Asked | Idle::Wanted { .. }) => (Lifecycle::Serving(Lineage::Alone), false),
            Lifecycle::Idle(Idle::Replaced(old)) => (Lifecycle::Serving(Lineage::Old(old)), false),
            other => (other, false),
        };
        self.lifecycle = lifecycle;
        is_first
    }

    /// Takes down the generation that was starting, if there is one. The serving one keeps serving.
    pub(super) fn abandon(&mut self, world: &mut dyn World, why: Failure) {
        world.release_claims();
        let is_coming = |generation: &Generation| matches!(generation.phase, Phase::Claiming { .. } | Phase::Starting);
        let coming = self.generations.iter().position(is_coming);
        if matches!(self.lifecycle, Lifecycle::Starting(..)) {
            return self.fail(world, why);
        }
        if let Some(index) = coming {
            let generation = self.generations[index].number;
            world.note(Some(generation), EventKind::TakenDown { why: why.clone() });
            self.operations.conclude(world, Kind::Reload { generation }, &Err(why.clone()));
            self.take_down(world, index);
        }
        self.cannot_serve_again(world, why);
        world.notify(Notice::Ready);
    }

    /// Handles that this master cannot serve at all: its workers end.
    pub(super) fn fail(&mut self, world: &mut dyn World, why: Failure) {
        if self.lifecycle.new_master().is_some() {
            if !is_put_back(Mutation::StoppedStartKeepsSockets) {
                self.give_sockets_back(world);
            }
            world.tell_old(&crate::ipc::relay::ToOld::Failed { reason: why.to_string(), why: Some(why.clone()) });
        }
        self.lifecycle = Lifecycle::Failed(why);
        for index in 0..self.generations.len() {
            if is_put_back(Mutation::FailedStartKills) {
                self.kill_children(world, index, Killed::Unwanted);
            } else {
                self.take_down(world, index);
            }
        }
        self.operations.conclude_all(world, |_| true, &Err(Failure::Stopping));
    }

    /// Ends workers that were starting and must not serve.
    pub(super) fn take_down(&mut self, world: &mut dyn World, index: usize) {
        match self.tier {
            // Nothing has been steered to them yet.
            Tier::Ebpf if !self.generations[index].is_ready() && self.generations[index].shares.is_empty() => {
                self.kill_children(world, index, Killed::Unwanted)
            }
            // The ones that came up have accepted connections.
            Tier::Ebpf | Tier::Adopt => {
                let farewell = self.farewell(index);
                self.send_away(world, index, &farewell);
                if let Phase::Leaving { until } = self.generations[index].phase {
                    self.generations[index].phase = Phase::Abandoned { until };
                }
                // The sockets that were made for them may hold connections, too. Other workers accept from those that
                // listen.
                self.share_rest(world);
            }
        }
    }

    /// Takes down every generation that is starting: another master serves instead.
    pub(super) fn take_down_coming(&mut self, world: &mut dyn World) {
        world.release_claims();
        for index in 0..self.generations.len() {
            if matches!(self.generations[index].phase, Phase::Claiming { .. } | Phase::Starting) {
                self.take_down(world, index);
            }
        }
    }

    pub(super) fn kill_children(&mut self, world: &mut dyn World, index: usize, why: Killed) {
        let generation = &mut self.generations[index];
        generation.growth = None;
        let until = Time(u64::MAX);
        generation.phase = match why {
            Killed::Unwanted => Phase::Abandoned { until },
            Killed::Hung | Killed::Late => Phase::Leaving { until },
        };
        for slot in &mut generation.slots {
            if let Some(process) = slot.killed(why) {
                world.kill(process);
            }
        }
    }

    /// Makes the old workers serve alone, and starts them again if they have left. They get their former configuration;
    /// it is not read again.
    pub(super) fn serve_again(&mut self, world: &mut dyn World) {
        if let Some(index) = self.serving() {
            if let Err(why) = self.steer_to(world, index) {
                world.note(None, EventKind::NotSteered { why });
            }
            return self.serves_again(world);
        }
        if let Lifecycle::Idle(idle @ (Idle::Asked | Idle::Wanted { .. })) = &mut self.lifecycle {
            *idle = Idle::Wanted { again_at: None };
        }
        if self.is_changing() {
            return;
        }
        let Some(plan) = self.last.clone() else { return };
        if let Err(why) = self.begin(world, plan, TimelineKind::Revert) {
            self.abandon(world, why);
        }
    }

    /// Tries again when nothing serves although workers should.
    pub(super) fn check_wanted(&mut self, world: &mut dyn World) {
        if matches!(self.lifecycle, Lifecycle::Idle(Idle::Wanted { again_at: Some(at) }) if at <= world.now()) {
            self.serve_again(world);
        }
    }

    pub(super) fn wanted_deadline(&self) -> Option<Time> {
        match &self.lifecycle {
            Lifecycle::Idle(Idle::Wanted { again_at }) => *again_at,
            _ => None,
        }
    }

    /// Points the names to this master when its first generation serves.
    fn take_names(&mut self, world: &mut dyn World, generation: u32) {
        use super::world::Names;
        let predecessor = self.lifecycle.new_master().map(|new| new.predecessor);
        if self.is_upgrade && predecessor.is_none() && is_put_back(Mutation::NamesAreNotTaken) {
            return;
        }
        world.names(Names::TakeControl { from: predecessor });
        if predecessor.is_some() {
            let meetings = self.meetings();
            world.tell_old(&crate::ipc::relay::ToOld::Ready { generation, meetings });
        }
        // A process that reads this file and still signals the old master finds that the old master knows of the
        // upgrade.
        world.names(Names::WritePidFile);
        if self.is_upgrade {
            world.notify(Notice::MainIsThis);
        }
    }

    /// Handles that the old workers fail to start again: the new master has to stay.
    fn cannot_serve_again(&mut self, world: &mut dyn World, why: Failure) {
        if let Lifecycle::Idle(Idle::Wanted { again_at }) = &mut self.lifecycle {
            let again = world.now().after_ms(AGAIN_MS);
            *again_at = Some(again).filter(|_| !is_put_back(Mutation::WantedIsNotRetried));
        }
        if let Some(old) = self.lifecycle.old_mut() {
            if old.stage != OldStage::Reverting {
                return;
            }
            old.stage = OldStage::Held { until: None };
            world.tell_new(&crate::ipc::relay::ToNew::NotReverted { why: why.clone() });
            world.note(None, EventKind::NotReverted { why: why.clone() });
        }
        self.operations.conclude(world, Kind::Revert, &Err(Failure::NotReverted { why: Box::new(why) }));
    }
}
