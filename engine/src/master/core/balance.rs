//! Rebalancing: while all workers serve and nothing changes, busier workers give connections to others. One worker
//! gives at a time.
//!
//! A change has priority: the master orders the giving worker to stop. That worker keeps what it has not given yet.

use std::collections::BTreeMap;

use super::Core;
use super::generation::{Child, Slot};
use super::lifecycle::{Lifecycle, Lineage};
use super::moves::add;
use super::mutation::{Mutation, is_put_back};
use super::operations::Kind;
use super::types::{ProcessId, Time};
use super::world::{Load, World};
use crate::config::{Connections, Rebalance};
use crate::handover::Refusal;
use crate::handover::balance::{BY_HAND_TRANSFERS_MAX, CORE_PPM, Policy, Portion, Result, Sample, Transfer};
use crate::ipc::control::{
    CannotRebalance, EventKind, Failure, Imbalance, Interruption, Moves, Outcome, Pause, Transfer as Planned,
};
use crate::ipc::orders::{Order, Rebalanced};

/// The interval at which the master looks at what the workers have done.
const LOOK_MS: u64 = 1_000;

/// How long the master waits for a worker's report of what it gave. The worker counts, gives, and waits for the
/// receiver's answer; each of these steps has its own limit.
const ANSWER_MS_MAX: u64 = 10_000;

/// A connection that has moved is not moved again for this time.
const REST_MS: u64 = 20_000;

/// A rebalance that an operator asked for ends after this time, or after [`BY_HAND_TRANSFERS_MAX`] transfers.
const BY_HAND_MS_MAX: u64 = 30_000;

/// An operator asked for a rebalance now, whatever the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ByHand {
    is_dry_run: bool,
    since: Time,
    transfers: usize,
    moves: Moves,
}

/// One worker gives connections to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct UnderWay {
    transfer: Transfer,
    from_slot: usize,
    to_slot: usize,
    began: Time,
    until: Time,
    /// The master has ordered the giver to stop.
    is_ended: bool,
    is_by_hand: bool,
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Balance {
    policy: Policy,
    /// What each worker had done at the last look.
    loads: BTreeMap<ProcessId, Load>,
    looked: Time,
    /// `None` while there is nothing to observe.
    look_at: Option<Time>,
    under_way: Option<UnderWay>,
    by_hand: Option<ByHand>,
    /// Whether the policy must decide now: true after a look and after a transfer.
    is_due: bool,
    /// Number of looks so far. In trials it decides which worker gives.
    looks: usize,
    /// Connections that have moved.
    moved: u64,
}

/// Whether a worker can give connections to others and take some.
fn can_give(slot: &Slot) -> bool {
    slot.serving().is_some_and(|child| child.meeting.is_some() && !child.speaks && !child.awaits_state)
}

/// The reason why nothing moved lies with the receiver.
fn is_of_other(refusal: Refusal) -> bool {
    use Refusal::{Channel, Format, Leaving, Limit, Version};
    matches!(refusal, Channel | Format | Leaving | Limit | Version)
}

impl Core {
    /// The generation whose workers can give each other connections now.
    fn can_rebalance(&self) -> std::result::Result<usize, Failure> {
        let is_put_back = is_put_back(Mutation::RebalancesDuringChanges);
        if !is_put_back {
            self.refuse_change()?;
        }
        let index = self.serving().ok_or(Failure::NothingServes)?;
        let cannot = |why| Err(Failure::CannotRebalance { why });
        if !is_put_back && !matches!(self.lifecycle, Lifecycle::Serving(Lineage::Alone)) {
            return cannot(CannotRebalance::Moving);
        }
        let plan = &self.generations[index].plan;
        if plan.connections != Connections::Handover {
            return cannot(CannotRebalance::Setting);
        }
        if !plan.has_connection_state {
            return cannot(CannotRebalance::Protocol);
        }
        if plan.has_worker_state {
            return cannot(CannotRebalance::WorkerState);
        }
        let slots = &self.generations[index].slots;
        if slots.len() < 2 {
            return cannot(CannotRebalance::OneWorker);
        }
        if slots.iter().filter_map(Slot::serving).any(|child| child.speaks) {
            return cannot(CannotRebalance::Messages);
        }
        if let Some(slot) = slots.iter().find(|slot| !can_give(slot)) {
            return cannot(CannotRebalance::NotReady { slot: slot.index });
        }
        if self.is_moving() || self.elder.as_ref().is_some_and(|elder| elder.is_moving) {
            return cannot(CannotRebalance::Moving);
        }
        Ok(index)
    }

    /// Starts a rebalance that an operator asked for.
    pub(super) fn rebalance_by_hand(
        &mut self,
        world: &dyn World,
        is_dry_run: bool,
    ) -> std::result::Result<(), Failure> {
        self.can_rebalance()?;
        if self.balance.by_hand.is_some() {
            return Err(Failure::CannotRebalance { why: CannotRebalance::UnderWay });
        }
        let since = world.now();
        self.balance.by_hand = Some(ByHand { is_dry_run, since, transfers: 0, moves: Moves::default() });
        Ok(())
    }

    /// Continues the current transfer, or begins the next one.
    pub(super) fn rebalance(&mut self, world: &mut dyn World) {
        let is_wanted =
            |index: &usize| self.balance.by_hand.is_some() || self.generations[*index].plan.rebalance != Rebalance::Off;
        let index = self.can_rebalance().ok().filter(is_wanted);
        self.follow_transfer(world, index.is_some());
        let Some(index) = index else {
            // The measurements are of other workers, or of another time.
            let Balance { under_way, moved, by_hand, .. } = std::mem::take(&mut self.balance);
            self.balance = Balance { under_way, moved, ..Balance::default() };
            if by_hand.is_some() {
                let cut_off = Failure::CutOff { by: Interruption::Change };
                self.operations.conclude(world, Kind::Rebalance, &Err(cut_off));
            }
            return;
        };
        let now = world.now();
        if self.balance.look_at.is_none_or(|at| at <= now) {
            self.look_at_loads(world, index);
        }
        if self.balance.under_way.is_some() {
            return;
        }
        if self.balance.by_hand.is_some() {
            return self.go_on_by_hand(world, index);
        }
        if std::mem::take(&mut self.balance.is_due)
            && let Some(transfer) = self.next_transfer(index, now)
        {
            self.begin_transfer(world, index, transfer);
        }
    }

    /// Serves an operator who waits: begins the next transfer, or answers with the outcome.
    fn go_on_by_hand(&mut self, world: &mut dyn World, index: usize) {
        let (now, now_ms) = (world.now(), world.now().0 / 1_000_000);
        if !self.balance.policy.is_known() {
            return;
        }
        let Some(ByHand { is_dry_run, since, transfers, moves }) = self.balance.by_hand.clone() else { return };
        let is_over = transfers >= BY_HAND_TRANSFERS_MAX || since.after_ms(BY_HAND_MS_MAX) <= now;
        if transfers == 0 && !is_dry_run {
            self.balance.policy.begin_by_hand();
        }
        let next = if is_over || is_dry_run { None } else { self.balance.policy.next(now_ms) };
        if let Some(transfer) = next
            && self.begin_transfer(world, index, transfer)
        {
            return;
        }
        let policy = &self.balance.policy;
        let evenness = policy.evenness();
        let planned = if is_dry_run { policy.plan(now_ms) } else { Vec::new() };
        let outcome = if transfers > 0 {
            Outcome::Rebalanced { transfers, moves }
        } else if planned.is_empty() {
            Outcome::Balanced { because: policy.still(now_ms), evenness }
        } else {
            Outcome::WouldRebalance { transfers: self.named(index, &planned), evenness }
        };
        self.balance.by_hand = None;
        self.operations.conclude(world, Kind::Rebalance, &Ok(outcome));
    }

    /// The transfers with slots in place of process numbers, as operators know them.
    fn named(&self, index: usize, transfers: &[Transfer]) -> Vec<Planned> {
        let slot_of = |worker| self.slot_of(index, worker).map(|slot| slot.index);
        let named = transfers.iter().filter_map(|transfer| {
            let (because, connections_max) = (self.because(transfer), transfer.connections_max);
            let busy_percent = match because {
                Imbalance::Busy { busy_percent, share_percent } => busy_percent * share_percent / 100,
                _ => 0,
            };
            let (from, to) = slot_of(transfer.from).zip(slot_of(transfer.to))?;
            Some(Planned { from, to, because, connections_max, busy_percent })
        });
        named.collect()
    }

    fn slot_of(&self, index: usize, worker: u32) -> Option<&Slot> {
        let is_it = |slot: &&Slot| slot.serving().is_some_and(|one| one.process.0 == worker);
        self.generations[index].slots.iter().find(is_it)
    }

    fn because(&self, transfer: &Transfer) -> Imbalance {
        match transfer.portion {
            Portion::Busy { share_ppm, .. } => Imbalance::Busy {
                busy_percent: self.balance.policy.busy_ppm(transfer.from).unwrap_or(0) / 10_000,
                share_percent: share_ppm / 10_000,
            },
            Portion::Idlest { .. } => Imbalance::Connections { connections: transfer.connections_max },
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
                // A compromised worker can report any time. It counts as no less than what the kernel measured.
                let busy_ns = busy_ns.max(load.on_cpu_ns.saturating_sub(before.on_cpu_ns)).min(passed_ns);
                (u128::from(busy_ns) * u128::from(CORE_PPM) / u128::from(passed_ns)) as u32
            });
            samples.push(Sample { worker: child.process.0, busy_ppm, open: load.open });
            balance.loads.insert(child.process, load);
        }
        balance.policy.look(now.0 / 1_000_000, &samples);
        balance.policy.givers(now.0 / 1_000_000).into_iter().for_each(|giver| {
            world.tell(ProcessId(giver), &Order::Count);
        });
        (balance.looked, balance.look_at, balance.is_due) = (now, Some(now.after_ms(LOOK_MS)), true);
        balance.looks = balance.looks.wrapping_add(1);
    }

    /// The next transfer of a trial (`Rebalance::Always`): each worker in turn gives at most 64 connections to another
    /// one.
    fn trial(&self, index: usize) -> Option<Transfer> {
        let workers: Vec<ProcessId> = self.generations[index].children().map(|child| child.process).collect();
        let (count, looks) = (workers.len(), self.balance.looks);
        let (from, to) = (looks % count, (looks + 1 + looks / count % (count - 1)) % count);
        let open = self.balance.loads.get(&workers[from])?.open;
        let connections = (open / 2).clamp(1, 64) as u32;
        let portion = Portion::Idlest { limit_ppm: CORE_PPM };
        Some(Transfer { from: workers[from].0, to: workers[to].0, portion, connections_max: connections })
    }

    fn next_transfer(&mut self, index: usize, now: Time) -> Option<Transfer> {
        match self.generations[index].plan.rebalance {
            Rebalance::Always => self.trial(index),
            Rebalance::Auto | Rebalance::Off => self.balance.policy.next(now.0 / 1_000_000),
        }
    }

    /// Returns `false` if the order cannot be sent to the worker.
    fn begin_transfer(&mut self, world: &mut dyn World, index: usize, transfer: Transfer) -> bool {
        let (now, is_by_hand) = (world.now(), self.balance.by_hand.is_some());
        let of = |worker| self.slot_of(index, worker);
        let Some((giver, taker)) = of(transfer.from).zip(of(transfer.to)) else { return false };
        let Some(heir) = taker.serving().and_then(|child| child.meeting.clone()) else { return false };
        let generation = &self.generations[index];
        let (from_slot, to_slot, number) = (giver.index, taker.index, generation.number);
        let Transfer { portion, connections_max, .. } = transfer;
        let is_trial = generation.plan.rebalance == Rebalance::Always;
        let rest_ms = if is_trial { 0 } else { REST_MS };
        if !world.tell(ProcessId(transfer.from), &Order::Rebalance { heir, portion, connections_max, rest_ms }) {
            return false;
        }
        let because = self.because(&transfer);
        world.note(Some(number), EventKind::Rebalancing { from: from_slot, to: to_slot, because });
        let until = now.after_ms(ANSWER_MS_MAX);
        let (began, is_ended) = (now, false);
        self.balance.under_way = Some(UnderWay { transfer, from_slot, to_slot, began, until, is_ended, is_by_hand });
        true
    }

    /// Ends a transfer that nobody will report, and stops one that must not continue.
    fn follow_transfer(&mut self, world: &mut dyn World, may_go_on: bool) {
        let Some(under_way) = &mut self.balance.under_way else { return };
        let giver = ProcessId(under_way.transfer.from);
        if !may_go_on && !std::mem::replace(&mut under_way.is_ended, true) && !is_put_back(Mutation::RebalanceGoesOn) {
            world.tell(giver, &Order::EndRebalance);
        }
        let is_late = under_way.until <= world.now() && !is_put_back(Mutation::SilentGiverIsAwaited);
        let is_giver = |child: &Child| child.process == giver && child.has_channel;
        let is_there = self.generations.iter().any(|generation| generation.children().any(is_giver));
        let is_gone = !is_there && !is_put_back(Mutation::GoneGiverIsAwaited);
        if is_late || is_gone {
            self.end_transfer(world, &Rebalanced::default());
        }
    }

    /// Handles a worker's report of what it gave.
    pub(super) fn rebalanced(&mut self, world: &mut dyn World, process: ProcessId, rebalanced: &Rebalanced) {
        let is_it = |one: &UnderWay| one.transfer.from == process.0;
        if self.balance.under_way.as_ref().is_some_and(is_it) {
            self.end_transfer(world, rebalanced);
        }
    }

    fn end_transfer(&mut self, world: &mut dyn World, rebalanced: &Rebalanced) {
        let Some(UnderWay { transfer, from_slot, to_slot, began, is_by_hand, .. }) = self.balance.under_way.take()
        else {
            return;
        };
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
        if let Some(by_hand) = self.balance.by_hand.as_mut().filter(|_| is_by_hand) {
            by_hand.transfers += 1;
            add(&mut by_hand.moves, &moves);
            by_hand.moves.took_us = world.now().0.saturating_sub(by_hand.since.0) / 1000;
            let longest = |pause: &Option<Pause>| pause.map_or(0, |pause| pause.max_us);
            if longest(&moves.pause) > longest(&by_hand.moves.pause) {
                by_hand.moves.pause = moves.pause;
            }
        }
        let number = self.serving().map(|index| self.generations[index].number);
        world.note(number, EventKind::Rebalanced { from: from_slot, to: to_slot, moves });
    }

    /// The giving worker, and until when the master waits for it.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn transfer(&self) -> Option<(ProcessId, Time)> {
        self.balance.under_way.as_ref().map(|one| (ProcessId(one.transfer.from), one.until))
    }

    pub(super) fn balance_deadline(&self) -> Option<Time> {
        let until = self.balance.under_way.as_ref().map(|one| one.until);
        until.into_iter().chain(self.balance.look_at).min()
    }

    /// How busy a worker is, in thousandths of a core; `None` if that is not known.
    pub(crate) fn busy_permille(&self, process: ProcessId) -> Option<u32> {
        self.balance.policy.busy_ppm(process.0).map(|busy_ppm| busy_ppm / 1000)
    }

    /// Number of connections that have moved between serving workers.
    pub(crate) fn rebalanced_connections(&self) -> u64 {
        self.balance.moved
    }
}
