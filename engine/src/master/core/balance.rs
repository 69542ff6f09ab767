//! While all workers serve and nothing changes, connections move from those that are busier to others: one giver at a time.
//!
//! A change goes first: the worker that gives is told to end that, and whatever it has not given is its own.

use std::collections::BTreeMap;

use super::Core;
use super::generation::Slot;
use super::lifecycle::{Lifecycle, Lineage};
use super::mutation::{Mutation, is_put_back};
use super::types::{ProcessId, Time};
use super::world::{Load, World};
use crate::config::{Connections, Rebalance};
use crate::handover::Refusal;
use crate::handover::balance::{CORE_PPM, Policy, Portion, Result, Sample, Transfer};
use crate::ipc::control::{EventKind, Imbalance, Moves};
use crate::ipc::orders::{Order, Rebalanced};

/// Between two looks at what workers have done.
const LOOK_MS: u64 = 1_000;

/// A worker that does not say in this time what it has given is not waited for: it counts, gives, and waits for an answer of the
/// other, each of which has a limit of its own.
const ANSWER_MS_MAX: u64 = 10_000;

/// A connection that has moved stays so long.
const REST_MS: u64 = 20_000;

/// One worker gives connections to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct UnderWay {
    transfer: Transfer,
    from_slot: usize,
    to_slot: usize,
    began: Time,
    until: Time,
    /// The giver was told to end it.
    is_ended: bool,
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Balance {
    policy: Policy,
    /// What each worker had done at the last look.
    loads: BTreeMap<ProcessId, Load>,
    looked: Time,
    /// `None` while there is nothing to look at.
    look_at: Option<Time>,
    under_way: Option<UnderWay>,
    /// Whether a decision is due: after a look, and after a transfer.
    is_due: bool,
    /// Looks so far, which decide who gives in trials.
    looks: usize,
    /// Connections that have moved.
    moved: u64,
}

/// Whether a worker can give connections to others, and take some.
fn can_give(slot: &Slot) -> bool {
    slot.serving().is_some_and(|child| child.meeting.is_some() && !child.speaks && !child.awaits_state)
}

/// The other side is why nothing has moved.
fn is_of_other(refusal: Refusal) -> bool {
    use Refusal::{Channel, Format, Leaving, Limit, Version};
    matches!(refusal, Channel | Format | Leaving | Limit | Version)
}

impl Core {
    /// The generation whose workers may give each other connections now.
    fn balancing(&self) -> Option<usize> {
        let is_calm = matches!(self.lifecycle, Lifecycle::Serving(Lineage::Alone))
            || is_put_back(Mutation::RebalancesDuringChanges);
        let others_move = self.is_moving() || self.elder.as_ref().is_some_and(|elder| elder.is_moving);
        let is_changing = self.is_changing() && !is_put_back(Mutation::RebalancesDuringChanges);
        let index = self.serving().filter(|_| is_calm && !is_changing && !others_move)?;
        let generation = &self.generations[index];
        let plan = &generation.plan;
        let is_on = plan.rebalance != Rebalance::Off && plan.connections == Connections::Handover;
        let can_move = plan.has_connection_state && !plan.has_worker_state;
        let slots = &generation.slots;
        (is_on && can_move && slots.len() > 1 && slots.iter().all(can_give)).then_some(index)
    }

    /// Goes on with what is under way, or begins the next transfer.
    pub(super) fn rebalance(&mut self, world: &mut dyn World) {
        let index = self.balancing();
        self.follow_transfer(world, index.is_some());
        let Some(index) = index else {
            // What is known is of other workers, or of another time.
            let Balance { under_way, moved, .. } = std::mem::take(&mut self.balance);
            self.balance = Balance { under_way, moved, ..Balance::default() };
            return;
        };
        let now = world.now();
        if self.balance.look_at.is_none_or(|at| at <= now) {
            self.look_at_loads(world, index);
        }
        if self.balance.under_way.is_none() && std::mem::take(&mut self.balance.is_due) {
            self.begin_transfer(world, index);
        }
    }

    fn look_at_loads(&mut self, world: &mut dyn World, index: usize) {
        let (now, balance) = (world.now(), &mut self.balance);
        let passed_ns = now.0.saturating_sub(balance.looked.0).max(1);
        let before = std::mem::take(&mut balance.loads);
        let mut samples = Vec::new();
        for child in self.generations[index].children() {
            let load = world.load(child.process);
            let busy_ppm = before.get(&child.process).map(|before| {
                let busy_ns = load.busy_ns.saturating_sub(before.busy_ns);
                // Whoever has taken a worker over says what they like, but not less than the kernel.
                let busy_ns = busy_ns.max(load.on_cpu_ns.saturating_sub(before.on_cpu_ns)).min(passed_ns);
                (u128::from(busy_ns) * u128::from(CORE_PPM) / u128::from(passed_ns)) as u32
            });
            samples.push(Sample { worker: child.process.0, busy_ppm, open: load.open });
            balance.loads.insert(child.process, load);
        }
        balance.policy.look(now.0 / 1_000_000, &samples);
        (balance.looked, balance.look_at, balance.is_due) = (now, Some(now.after_ms(LOOK_MS)), true);
        balance.looks = balance.looks.wrapping_add(1);
    }

    /// In trials each worker in turn gives a few to the next but some.
    fn trial(&self, index: usize) -> Option<Transfer> {
        let workers: Vec<ProcessId> = self.generations[index].children().map(|child| child.process).collect();
        let (count, looks) = (workers.len(), self.balance.looks);
        let (from, to) = (looks % count, (looks + 1 + looks / count % (count - 1)) % count);
        let open = self.balance.loads.get(&workers[from])?.open;
        let connections = (open / 2).clamp(1, 64) as u32;
        let portion = Portion::Idlest { limit_ppm: CORE_PPM };
        Some(Transfer { from: workers[from].0, to: workers[to].0, portion, connections_max: connections })
    }

    fn begin_transfer(&mut self, world: &mut dyn World, index: usize) {
        let now = world.now();
        let is_trial = self.generations[index].plan.rebalance == Rebalance::Always;
        let next = if is_trial { self.trial(index) } else { self.balance.policy.next(now.0 / 1_000_000) };
        let Some(transfer) = next else { return };
        let generation = &self.generations[index];
        let of = |worker: u32| {
            generation.slots.iter().find(|slot| slot.serving().is_some_and(|one| one.process.0 == worker))
        };
        let Some((giver, taker)) = of(transfer.from).zip(of(transfer.to)) else { return };
        let Some(heir) = taker.serving().and_then(|child| child.meeting.clone()) else { return };
        let (from_slot, to_slot, number) = (giver.index, taker.index, generation.number);
        let Transfer { portion, connections_max, .. } = transfer;
        let rest_ms = if is_trial { 0 } else { REST_MS };
        if !world.tell(ProcessId(transfer.from), &Order::Rebalance { heir, portion, connections_max, rest_ms }) {
            return;
        }
        let because = match portion {
            Portion::Busy { share_ppm, .. } => Imbalance::Busy {
                busy_percent: self.balance.policy.busy_ppm(transfer.from).unwrap_or(0) / 10_000,
                share_percent: share_ppm / 10_000,
            },
            Portion::Idlest { .. } => Imbalance::Connections { connections: connections_max },
        };
        world.note(Some(number), EventKind::Rebalancing { from: from_slot, to: to_slot, because });
        let until = now.after_ms(ANSWER_MS_MAX);
        self.balance.under_way = Some(UnderWay { transfer, from_slot, to_slot, began: now, until, is_ended: false });
    }

    /// A transfer that nobody will report, or that must not go on.
    fn follow_transfer(&mut self, world: &mut dyn World, may_go_on: bool) {
        let Some(under_way) = &mut self.balance.under_way else { return };
        let giver = ProcessId(under_way.transfer.from);
        if !may_go_on && !std::mem::replace(&mut under_way.is_ended, true) && !is_put_back(Mutation::RebalanceGoesOn) {
            world.tell(giver, &Order::EndRebalance);
        }
        let is_late = under_way.until <= world.now();
        let children = self.generations.iter().flat_map(|generation| generation.children());
        let is_gone = !children.into_iter().any(|child| child.process == giver && child.has_channel);
        if is_late || is_gone {
            self.end_transfer(world, &Rebalanced::default());
        }
    }

    /// A worker says what it has given.
    pub(super) fn rebalanced(&mut self, world: &mut dyn World, process: ProcessId, rebalanced: &Rebalanced) {
        let is_it = |one: &UnderWay| one.transfer.from == process.0;
        if self.balance.under_way.as_ref().is_some_and(is_it) {
            self.end_transfer(world, rebalanced);
        }
    }

    fn end_transfer(&mut self, world: &mut dyn World, rebalanced: &Rebalanced) {
        let Some(UnderWay { transfer, from_slot, to_slot, began, .. }) = self.balance.under_way.take() else { return };
        let moved = rebalanced.moved.min(transfer.connections_max.into());
        let is_refused = moved == 0 && rebalanced.refused.iter().any(|(refusal, _)| is_of_other(*refusal));
        let result = Result { moved, share_ppm: rebalanced.share_ppm, is_refused };
        self.balance.policy.done(world.now().0 / 1_000_000, &transfer, &result);
        self.balance.moved = self.balance.moved.saturating_add(moved);
        self.balance.is_due =
            self.serving().is_some_and(|index| self.generations[index].plan.rebalance == Rebalance::Auto);
        let Rebalanced { bytes, pause, .. } = *rebalanced;
        let took_us = world.now().0.saturating_sub(began.0) / 1000;
        let mut moves = Moves { moved, bytes, took_us, pause, ..Moves::default() };
        rebalanced.refused.iter().for_each(|(reason, count)| moves.count_refused(*reason, *count));
        let number = self.serving().map(|index| self.generations[index].number);
        world.note(number, EventKind::Rebalanced { from: from_slot, to: to_slot, moves });
    }

    pub(super) fn balance_deadline(&self) -> Option<Time> {
        let until = self.balance.under_way.as_ref().map(|one| one.until);
        until.into_iter().chain(self.balance.look_at).min()
    }

    /// How busy a worker is, where that is known, as thousandths of a core.
    pub(crate) fn busy_permille(&self, process: ProcessId) -> Option<u32> {
        self.balance.policy.busy_ppm(process.0).map(|busy_ppm| busy_ppm / 1000)
    }

    /// Connections that have moved between workers that served.
    pub(crate) fn rebalanced_connections(&self) -> u64 {
        self.balance.moved
    }
}
