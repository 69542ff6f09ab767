//! How generations leave: because they are replaced, or because of an order to stop or to wait for a reload.

use super::Core;
use super::generation::{Phase, State};
use super::lifecycle::{Idle, Instead, Lifecycle, Lineage, Old, OldStage, Stopping};
use super::moves::inheritance;
use super::mutation::{Mutation, is_put_back};
use super::operations::Kind;
use super::types::{Address, Plan, Stop};
use super::world::{Notice, World};
use crate::config::Connections;
use crate::handover::Tier;
use crate::ipc::control::{Cause, EventKind, Failure, Interruption, Outcome};
use crate::ipc::orders::Order;

/// Time that workers get beyond their own drain time before they are killed.
pub(super) const STOP_GRACE_MS: u64 = 2_000;

impl Core {
    /// Handles an order to stop this master. A second order stops it at once.
    pub(super) fn stop(&mut self, world: &mut dyn World, how: Stop, by: Cause) {
        if self.asks_for_relief(world, how, by) {
            return;
        }
        // A new master that has not served yet, or no longer waits for the old one.
        let instead = match self.lifecycle.new_master() {
            Some(_) => Instead::Perhaps { by },
            None => Instead::Nobody,
        };
        self.decide_by_leaving(world);
        match &mut self.lifecycle {
            Lifecycle::Failed(_) | Lifecycle::Over(_) => {}
            Lifecycle::Leaving { is_hurried, .. } => {
                let is_again = std::mem::replace(is_hurried, true);
                let how = if is_again { Stop::Now } else { how };
                world.note(None, EventKind::Stopping { by, at_once: how == Stop::Now });
                self.send_all_away(world, how);
            }
            Lifecycle::Stopping(stopping) => {
                if !std::mem::replace(&mut stopping.is_at_once, true) {
                    world.note(None, EventKind::Stopping { by, at_once: true });
                }
                self.stop_at_once(world);
            }
            Lifecycle::Starting(..) | Lifecycle::Serving(_) | Lifecycle::Idle(_) => {
                world.notify(Notice::Stopping);
                let is_at_once = how == Stop::Now;
                world.note(None, EventKind::Stopping { by, at_once: is_at_once });
                self.begin_stopping(world, Stopping { is_at_once, instead, successor: None });
                if is_at_once { self.stop_at_once(world) } else { self.send_all_away(world, how) }
            }
        }
    }

    /// Begins the end of this master. Operations that clients wait for are cut off.
    pub(super) fn begin_stopping(&mut self, world: &mut dyn World, stopping: Stopping) {
        // The kernel has already established the connections that wait at a guard.
        self.hand_out(world);
        world.release_claims();
        let successor = self.lifecycle.take_old();
        let predecessor = self.lifecycle.take_new();
        self.lifecycle = Lifecycle::Stopping(Stopping { successor, ..stopping });
        if predecessor.is_some() {
            if !is_put_back(Mutation::StoppedStartKeepsSockets) {
                self.give_sockets_back(world);
            }
            self.elder.iter_mut().for_each(|elder| elder.is_moving = false);
        }
        self.forget_waiting();
        let is_relieved = matches!(&self.lifecycle, Lifecycle::Stopping(one) if matches!(one.instead, Instead::Old(_)));
        self.operations.conclude_all(
            world,
            |kind| kind != Kind::Stop && !(is_relieved && kind == Kind::Revert),
            &if is_put_back(Mutation::CutOffIsDone) {
                Ok(Outcome::Stopped)
            } else {
                Err(Failure::CutOff { by: Interruption::Stop })
            },
        );
    }

    fn stop_at_once(&mut self, world: &mut dyn World) {
        self.send_all_away(world, Stop::Now);
        if let Some(Old { successor, .. }) = self.lifecycle.old() {
            world.kill(*successor);
        }
    }

    fn send_all_away(&mut self, world: &mut dyn World, how: Stop) {
        self.hurry_successor(world, how);
        self.leave_listeners_to_workers(world);
        for index in 0..self.generations.len() {
            let plan = &self.generations[index].plan;
            let drain_ms = match how {
                Stop::Graceful { drain_ms } => drain_ms.unwrap_or(plan.drain_ms),
                Stop::Fast => plan.stop_ms.min(plan.drain_ms),
                Stop::Now => 0,
            };
            let order = match how {
                Stop::Now => Order::Stop,
                _ => Order::Drain { settle_ms: 0, drain_ms, is_succeeded: false },
            };
            self.send_away(world, index, &order);
        }
        if !matches!(self.lifecycle, Lifecycle::Leaving { .. }) {
            self.orphans_stop = Some(how);
            self.stop_orphans(world, how);
        }
    }

    /// Gives a new master that was sent back no more time than this master's own workers have.
    fn hurry_successor(&mut self, world: &mut dyn World, how: Stop) {
        let time_ms = match (how, &self.last) {
            (Stop::Graceful { drain_ms: Some(drain_ms) }, _) => drain_ms,
            (Stop::Graceful { drain_ms: None }, Some(plan)) => plan.drain_ms,
            (Stop::Fast, Some(plan)) => plan.stop_ms,
            _ => 0,
        };
        let latest = world.now().after_ms(time_ms.saturating_add(STOP_GRACE_MS));
        if let Some(Old { stage: OldStage::Relieved { until }, .. }) = self.lifecycle.old_mut() {
            *until = latest.min(*until);
        }
    }

    /// The old master serves: the workers leave without time pressure.
    pub(super) fn leave_relieved(&mut self, world: &mut dyn World, how: Stop) {
        for index in 0..self.generations.len() {
            let farewell = if how == Stop::Now { Order::Stop } else { self.farewell(index) };
            self.send_away(world, index, &farewell);
        }
        self.orphans_stop = Some(how);
        self.stop_orphans(world, Stop::Graceful { drain_ms: None });
    }

    /// Orders the workers to leave. The master stays until a reload starts new workers or a stop ends it.
    pub(super) fn idle(&mut self, world: &mut dyn World) {
        let (is_alone, has_held_successor) = match &self.lifecycle {
            Lifecycle::Serving(Lineage::Alone) => (true, false),
            Lifecycle::Serving(Lineage::Old(old)) => (false, matches!(old.stage, OldStage::Held { .. })),
            _ => (false, false),
        };
        // In any other state workers are starting or leaving already, or another master decides.
        let Some(index) = self.serving().filter(|_| (is_alone || has_held_successor) && !self.is_changing()) else {
            return;
        };
        world.note(None, EventKind::Idle);
        if has_held_successor {
            self.tell_successor_to_take_all(world);
        } else if self.tier == Tier::Ebpf
            && let Err(why) = world.stand_alone()
        {
            // The listeners are not parked. They close at once.
            world.note(None, EventKind::NotSteered { why });
        }
        self.lifecycle = Lifecycle::Idle(self.lifecycle.take_old().map_or(Idle::Asked, Idle::Replaced));
        let farewell = self.farewell(index);
        self.send_away(world, index, &farewell);
        self.dismiss_orphans(world);
    }

    /// The order by which workers leave when others serve instead.
    pub(super) fn farewell(&self, index: usize) -> Order {
        self.farewell_of(&self.generations[index].plan)
    }

    /// The order by which the workers at `index` leave when those at `next` serve.
    pub(super) fn farewell_between(&self, index: usize, next: usize) -> Order {
        let (before, after) = (&self.generations[index], &self.generations[next]);
        let is_served = |address: &Address| after.addresses.iter().any(|one| one.bound == address.bound);
        match self.farewell(next) {
            // No other worker accepts from the sockets of an address that was given up, so these workers empty them.
            Order::Drain { drain_ms, is_succeeded: true, .. } if !before.addresses.iter().all(is_served) => {
                Order::Drain { settle_ms: after.plan.settle_ms, drain_ms, is_succeeded: false }
            }
            farewell => farewell,
        }
    }

    pub(super) fn farewell_of(&self, plan: &Plan) -> Order {
        let (settle_ms, is_succeeded) = match self.tier {
            Tier::Adopt => (0, true),
            Tier::Ebpf => (plan.settle_ms, false),
        };
        Order::Drain { settle_ms, drain_ms: plan.drain_ms, is_succeeded }
    }

    /// Orders a generation to leave, or to leave sooner than an earlier order said.
    pub(super) fn send_away(&mut self, world: &mut dyn World, index: usize, farewell: &Order) {
        let heirs = match self.generations[index].plan.connections {
            Connections::Handover => self.heirs(index),
            Connections::Goodbye | Connections::Wait => Vec::new(),
        };
        self.begin_moves();
        let now = world.now();
        let generation = &mut self.generations[index];
        let number = generation.number;
        let time_ms = match farewell {
            Order::Drain { settle_ms, drain_ms, .. } => settle_ms.saturating_add(*drain_ms),
            _ => 0,
        };
        let until = now.after_ms(time_ms.saturating_add(STOP_GRACE_MS));
        let growth = generation.growth.take();
        let size = generation.slots.len();
        generation.phase = match generation.phase {
            Phase::Leaving { until: before } => Phase::Leaving { until: before.min(until) },
            Phase::Abandoned { until: before } => Phase::Abandoned { until: before.min(until) },
            Phase::Claiming { .. } | Phase::Starting | Phase::Serving => Phase::Leaving { until },
        };
        for (place, slot) in generation.slots.iter_mut().enumerate() {
            // A worker that is gone needs no order. The event of its end follows.
            if let Some(child) = slot.child().filter(|child| child.has_channel) {
                let is_told = !heirs.is_empty() && world.tell(child.process, &inheritance(&heirs, place));
                world.tell(child.process, farewell);
                slot.is_moving |= is_told;
            }
            if matches!(slot.state, State::Waiting(_)) {
                slot.state = State::Gone;
            }
        }
        if generation.children().next().is_some() {
            match farewell {
                Order::Drain { settle_ms: 1.., .. } => world.note(Some(number), EventKind::Parked),
                Order::Stop => {}
                _ => world.note(Some(number), EventKind::Draining),
            }
        }
        if growth.is_some() {
            let cut_off = Failure::CutOff { by: Interruption::Leave };
            let is_it =
                |kind| matches!(kind, Kind::Scale { generation, workers } if (generation, workers) == (number, size));
            self.operations.conclude_all(world, is_it, &Err(cut_off));
        }
    }
}
