//! An upgrade as the old master sees it. It starts the new binary, which introduces itself and serves. Then the old
//! workers leave, or both serve until the decision. If the new binary fails to start or does not last, the old workers
//! keep serving, or serve again.

use super::Core;
use super::generation::Phase;
use super::lifecycle::{Idle, Lifecycle, Lineage, Old, OldStage, Starting};
use super::mutation::{Mutation, is_put_back};
use super::operations::Kind;
use super::types::{ProcessId, SocketId, Time, Upgrade};
use super::world::{Greeting, Names, Notice, World};
use crate::config::Connections;
use crate::endpoint::Endpoint;
use crate::handover::Tier;
use crate::ipc::control::{
    CannotMove, Cause, EventKind, Exit, Failure, Interruption, Loss, Moves, Outcome, RevertCause, TimelineKind,
};
use crate::ipc::orders::Order;
use crate::ipc::relay::{ToNew, ToOld};

/// Time for a new binary to serve, unless the request gives another limit.
const TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// A relieved new master leaves within its workers' drain time. If it has not left after this time, it is killed.
const LEAVE_MS_MAX: u64 = 60_000;

/// Time for a new master to end after it closed its channel before it served or after it was sent back. Then it is
/// killed.
const EXIT_MS_MAX: u64 = 1_000;

/// What a successor was doing when it was killed or ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Before {
    Starting,
    Serving,
    SentBack,
}

impl OldStage {
    fn before(&self) -> Before {
        match self {
            Self::Starting(_) => Before::Starting,
            Self::Held { .. } | Self::Probation { .. } => Before::Serving,
            Self::Reverting | Self::Relieved { .. } => Before::SentBack,
            Self::Ending { before, .. } => *before,
        }
    }

    /// Whether the old workers serve again and the new master is leaving, or was killed because it did not leave.
    pub(super) fn is_sent_back(&self) -> bool {
        matches!(self, Self::Relieved { .. } | Self::Ending { before: Before::SentBack, .. })
    }

    /// Whether both masters serve, or the new one alone, and the decision is open.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self, Self::Held { .. } | Self::Probation { .. })
    }
}

impl Core {
    /// Starts the new binary.
    pub(super) fn upgrade(&mut self, world: &mut dyn World, upgrade: &Upgrade) -> Result<(), Failure> {
        self.refuse_change()?;
        let index = self.serving().ok_or(Failure::NothingServes)?;
        let generation = &self.generations[index];
        let plan = &generation.plan;
        if upgrade.is_held && plan.has_worker_state {
            return Err(Failure::HeldState);
        }
        self.refuse_large_state(world, index, plan)?;
        let maps = generation.steering.filter(|_| upgrade.is_held).map(|steering| (steering, plan.workers as u32));
        let greeting = Greeting {
            next_number: self.next_number,
            tier: self.tier,
            is_held: upgrade.is_held,
            addresses: generation.addresses.iter().filter(|one| !one.bound.is_unix()).copied().collect(),
            listeners: self.placement.sockets(false),
            maps,
        };
        let (successor, binary) = world.start_binary(upgrade, greeting)?;
        world.begin_timeline(TimelineKind::Upgrade, self.next_number);
        world.note(None, EventKind::UpgradeStarted { binary, pid: successor.0 });
        let now = world.now();
        let starting = Starting {
            until: now.after_ms(upgrade.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT)),
            is_held: upgrade.is_held,
            probation_ms: upgrade.probation_ms,
            allowed: upgrade.allowed.clone(),
            keeps_connections: upgrade.keeps_connections,
            is_accepted: false,
            is_alike: true,
        };
        let old = Old { successor, began: now, stage: OldStage::Starting(starting) };
        self.lifecycle = Lifecycle::Serving(Lineage::Old(old));
        Ok(())
    }

    pub(super) fn heard_new(&mut self, world: &mut dyn World, message: ToOld) {
        if matches!(self.lifecycle, Lifecycle::Leaving { .. }) {
            match message {
                ToOld::Meetings { meetings } => self.hear_meetings(world, meetings),
                ToOld::Siblings { members } => self.hear_siblings(world, members),
                _ => {}
            }
            return;
        }
        let Some(old) = self.lifecycle.old() else { return };
        if matches!(old.stage, OldStage::Ending { .. }) {
            return;
        }
        let successor = old.successor;
        let is_undecided = old.stage.is_undecided();
        let is_on_probation = matches!(old.stage, OldStage::Held { until: Some(_) } | OldStage::Probation { .. });
        match message {
            ToOld::Event { generation, event } => world.note(generation, event),
            ToOld::Introduction { .. } => self.introduced(world, &message),
            ToOld::Ready { generation, meetings } => self.succeeded(world, generation, meetings),
            ToOld::Failed { reason, why } => {
                let why = why.unwrap_or(Failure::Incompatible { problem: reason });
                let why = Failure::SuccessorFailed { pid: successor.0, why: Box::new(why) };
                self.end_successor(world, why);
            }
            ToOld::Trouble { why } if is_on_probation => self.revert(world, why),
            ToOld::Meetings { meetings } => self.hear_meetings(world, meetings),
            ToOld::Siblings { members } => self.hear_siblings(world, members),
            ToOld::Commit if is_undecided => self.commit(world),
            ToOld::Revert { by } if is_undecided => self.revert(world, RevertCause::Stopped { by }),
            ToOld::Trouble { .. }
            | ToOld::Commit
            | ToOld::Revert { .. }
            | ToOld::Listeners { .. }
            | ToOld::Arrival
            | ToOld::Totals { .. }
            | ToOld::Unknown => {}
        }
    }

    /// Handles the new master's introduction: it may serve, unless something would be lost.
    fn introduced(&mut self, world: &mut dyn World, introduction: &ToOld) {
        let losses = self.losses(world, introduction);
        let Some(Old { stage: OldStage::Starting(starting), .. }) = self.lifecycle.old_mut() else { return };
        let is_allowed = |loss: &Loss| loss.flag().is_some_and(|flag| starting.allowed.contains(&flag));
        let forbidden: Vec<Loss> = losses.iter().filter(|loss| !is_allowed(loss)).cloned().collect();
        if !forbidden.is_empty() && !is_put_back(Mutation::LossesAreAllowed) {
            let why = Failure::WouldLose { losses: forbidden };
            return self.end_successor(world, why);
        }
        starting.is_accepted = true;
        if let ToOld::Introduction { tier, .. } = introduction {
            starting.is_alike = *tier == self.tier.to_string();
        }
        let is_held = starting.is_held;
        if let Some(because) = self.cannot_move(&losses).filter(|_| !is_held) {
            world.note(None, EventKind::WillClose { connections: world.open_connections(), because });
        }
        // Send them before it begins. The greeting has the TCP listen sockets already.
        let unix = self.placement.sockets(true);
        if !unix.is_empty() {
            world.give_listeners_to_new(&unix);
        }
        world.tell_new(&ToNew::Proceed);
    }

    /// The losses that the upgrade would cause.
    fn losses(&self, world: &dyn World, introduction: &ToOld) -> Vec<Loss> {
        let mut losses = world.compare(introduction);
        if let ToOld::Introduction { tier, .. } = introduction
            && self.tier == Tier::Ebpf
            && *tier != Tier::Ebpf.to_string()
            && !is_put_back(Mutation::TierIsNotCompared)
        {
            losses.push(Loss::Tier { old: self.tier.to_string(), new: tier.clone() });
        }
        let keeps = self.lifecycle.old().is_some_and(
            |old| matches!(&old.stage, OldStage::Starting(starting) if starting.keeps_connections && !starting.is_held),
        );
        if keeps && let Some(because) = self.cannot_move(&losses) {
            losses.push(Loss::Connections { open: world.open_connections(), because });
        }
        losses
    }

    /// Why connections cannot move to the new master's workers; `None` if they can.
    fn cannot_move(&self, losses: &[Loss]) -> Option<CannotMove> {
        let plan = &self.generations[self.serving()?].plan;
        let is_unreadable = losses.iter().any(|loss| matches!(loss, Loss::ConnectionState { .. } | Loss::User { .. }));
        if plan.connections != Connections::Handover {
            Some(CannotMove::Setting)
        } else if !plan.has_connection_state {
            Some(CannotMove::Protocol)
        } else {
            is_unreadable.then_some(CannotMove::Unreadable)
        }
    }

    /// Handles that the new master serves and has the names.
    fn succeeded(&mut self, world: &mut dyn World, generation: u32, meetings: Vec<String>) {
        let now = world.now();
        let Some(Old { successor, began, stage }) = self.lifecycle.old_mut() else { return };
        let OldStage::Starting(starting) = stage else { return };
        if !starting.is_accepted {
            let problem = "the new binary serves without having been told to".to_owned();
            return self.end_successor(world, Failure::Incompatible { problem });
        }
        let (pid, took_ms, starting) = (successor.0, now.ms_since(*began), starting.clone());
        self.moves.heirs_elsewhere = meetings;
        self.is_succeeded_alike = starting.is_alike;
        self.next_number = self.next_number.max(generation.saturating_add(1));
        world.names(Names::Yield);
        world.notify(Notice::MainIs(ProcessId(pid)));
        world.note(None, EventKind::SuccessorServes { pid, took_ms });
        let until = starting.probation_ms.map(|ms| now.after_ms(ms));
        match (starting.is_held, until) {
            (true, until) => {
                self.enter(OldStage::Held { until });
                world.note(None, EventKind::Held { probation: until.is_some() });
                // On probation, clients wait for the end of the probation.
                if until.is_none() {
                    self.operations.conclude(world, Kind::Upgrade, &Ok(Outcome::Held { pid }));
                }
            }
            (false, Some(until)) => {
                self.enter(OldStage::Probation { until });
                world.note(None, EventKind::Probation);
                self.leave_to_successor(world);
            }
            (false, None) => {
                self.leave_to_successor(world);
                self.finish_upgrade(world);
            }
        }
    }

    fn enter(&mut self, stage: OldStage) {
        if let Some(old) = self.lifecycle.old_mut() {
            old.stage = stage;
        }
    }

    /// Orders the old workers to leave. The old master stays for now.
    fn leave_to_successor(&mut self, world: &mut dyn World) {
        self.moves.owes_successor = true;
        world.tell_new(&ToNew::Alone);
        let Some(old) = self.lifecycle.take_old() else { return };
        self.lifecycle = Lifecycle::Idle(Idle::Replaced(old));
        if !is_put_back(Mutation::ComingUpAfterCommit) {
            self.take_down_coming(world);
        }
        let Some(index) = self.serving() else { return };
        let farewell = match self.farewell(index) {
            // Sockets that the new master has not taken over must be emptied and then closed.
            Order::Drain { drain_ms, .. } if !self.is_succeeded_alike => {
                Order::Drain { settle_ms: self.generations[index].plan.settle_ms, drain_ms, is_succeeded: false }
            }
            farewell => farewell,
        };
        self.send_away(world, index, &farewell);
    }

    /// Makes the upgrade final: this master ends when its workers have ended.
    fn finish_upgrade(&mut self, world: &mut dyn World) {
        let Some(Old { successor, .. }) = self.lifecycle.take_old() else { return };
        world.tell_new(&ToNew::Final);
        // Connections that arrive at a guard from now on belong to the new master, which has its own guards.
        self.hand_out(world);
        self.lifecycle = Lifecycle::Leaving { successor, is_hurried: false };
        if self.tier == Tier::Ebpf {
            world.keep_guards(&[]);
        }
        self.reloads_again = false;
        self.elder.iter_mut().for_each(|elder| elder.is_moving = false);
        // The new master has copies, or sockets of its own.
        self.placement.close_all(world);
        let pid = successor.0;
        world.note(None, EventKind::Final { pid });
        self.conclude_when_moved(Kind::Upgrade, Outcome::Upgraded { pid, moves: Moves::default() });
        self.operations.conclude(world, Kind::Commit, &Ok(Outcome::Committed { pid }));
        let is_served = |kind| !matches!(kind, Kind::Upgrade | Kind::Stop);
        self.operations.conclude_all(world, is_served, &Err(Failure::CutOff { by: Interruption::Upgrade }));
    }

    /// Makes an upgrade that is held or on probation final.
    pub(super) fn commit(&mut self, world: &mut dyn World) {
        if self.lifecycle.old().is_some_and(|old| old.stage.is_undecided()) {
            self.leave_to_successor(world);
            self.finish_upgrade(world);
        }
    }

    /// The old workers serve again, and the new master leaves.
    pub(super) fn revert(&mut self, world: &mut dyn World, why: RevertCause) {
        let Some(old) = self.lifecycle.old_mut().filter(|old| old.stage.is_undecided()) else { return };
        old.stage = OldStage::Reverting;
        let pid = old.successor.0;
        let failure = Failure::Reverted { pid, why: why.clone() };
        self.last_revert = Some(failure.clone());
        world.begin_timeline(TimelineKind::Revert, self.next_number);
        world.note(None, EventKind::Reverting { pid, why });
        self.operations.conclude(world, Kind::Upgrade, &Err(failure.clone()));
        self.operations.conclude(world, Kind::Commit, &Err(failure));
        self.serve_again(world);
    }

    /// Handles that the old workers serve: the new master may leave.
    pub(super) fn serves_again(&mut self, world: &mut dyn World) {
        self.conclude_revert(world);
        let until = world.now().after_ms(LEAVE_MS_MAX);
        let Some(old) = self.lifecycle.old_mut().filter(|old| old.stage == OldStage::Reverting) else { return };
        old.stage = OldStage::Relieved { until };
        let from = Some(old.successor);
        self.take_names_back(world, from);
        self.moves.heirs_elsewhere.clear();
        let meetings = self.meetings();
        world.tell_new(&ToNew::Relieved { meetings });
        world.note(None, EventKind::ServesAgain);
    }

    /// Reports the revert when the old workers serve and the new master has left.
    fn conclude_revert(&mut self, world: &mut dyn World) {
        let serves = self.serving().is_some() || is_put_back(Mutation::RevertedTooEarly);
        if self.lifecycle.old().is_none() && serves {
            self.operations.conclude(world, Kind::Revert, &Ok(Outcome::Reverted { pid: self.process.0 }));
        }
    }

    fn take_names_back(&mut self, world: &mut dyn World, from: Option<ProcessId>) {
        world.names(Names::TakeControl { from });
        world.names(Names::WritePidFile);
        world.notify(Notice::MainIsThis);
    }

    /// Kills the new master because it must not continue. What follows is decided when its process has ended.
    pub(super) fn end_successor(&mut self, world: &mut dyn World, why: Failure) {
        let Some(old) = self.lifecycle.old_mut() else { return };
        if !matches!(old.stage, OldStage::Ending { .. }) {
            old.stage = OldStage::Ending { before: old.stage.before(), why };
            world.kill(old.successor);
        }
    }

    /// Handles the end of its channel, or an invalid message on it. Its process is ending, or is ordered to end.
    pub(super) fn new_channel_ended(&mut self, world: &mut dyn World, problem: Option<String>) {
        if matches!(self.lifecycle, Lifecycle::Leaving { .. }) {
            return world.forget_new();
        }
        let Some(old) = self.lifecycle.old_mut() else { return };
        match (problem, &mut old.stage) {
            (Some(problem), _) => self.end_successor(world, Failure::Incompatible { problem }),
            // The event of its end follows, with its exit status, unless another process has closed the channel.
            (None, OldStage::Ending { .. }) => {}
            // A binary that does not know this version of the messages closes the channel, logs the reason, and exits.
            // Its exit code says more than a kill would.
            (None, OldStage::Starting(starting)) => {
                starting.until = starting.until.min(world.now().after_ms(EXIT_MS_MAX));
            }
            // A master that was sent back has finished its work, and closes the channel while it exits.
            (None, OldStage::Relieved { until }) => *until = (*until).min(world.now().after_ms(EXIT_MS_MAX)),
            (None, _) => world.kill(old.successor),
        }
    }

    /// Handles the end of the new master's process. Returns `false` if this process is not the successor.
    pub(super) fn successor_ended(&mut self, world: &mut dyn World, process: ProcessId, exit: Exit) -> bool {
        if self.lifecycle.old().is_none_or(|old| old.successor != process) {
            return false;
        }
        let Some(Old { successor, stage, .. }) = self.lifecycle.take_old() else { return false };
        let pid = successor.0;
        // Its workers may have been killed together with it.
        self.look_at_kept(world.now());
        let before = stage.before();
        let why = match stage {
            OldStage::Ending { why, .. } => why,
            _ => Failure::SuccessorEnded { pid, exit },
        };
        self.moves.heirs_elsewhere.clear();
        world.forget_new();
        if !is_put_back(Mutation::SuccessorLeavesFiles) {
            world.names(Names::Clean { after: successor });
        }
        let reverted = RevertCause::Failed { why: Box::new(why.clone()) };
        match before {
            Before::Starting => {
                world.note(None, EventKind::UpgradeFailed { why: why.clone() });
                self.last_revert = Some(Failure::Reverted { pid, why: reverted });
                self.operations.conclude(world, Kind::Upgrade, &Err(why));
            }
            Before::Serving => {
                world.note(None, EventKind::SuccessorGone { why });
                let failure = Failure::Reverted { pid, why: reverted };
                self.last_revert = Some(failure.clone());
                self.operations.conclude(world, Kind::Upgrade, &Err(failure.clone()));
                self.operations.conclude(world, Kind::Commit, &Err(failure));
            }
            Before::SentBack if exit.is_success() => world.note(None, EventKind::SuccessorLeft { pid }),
            Before::SentBack => world.note(None, EventKind::SuccessorGone { why }),
        }
        // It may have taken the names before it could report that it serves.
        self.take_names_back(world, None);
        if !self.lifecycle.is_ending() {
            self.serve_again(world);
        }
        // Its workers may be alive, and would continue to serve.
        self.look_for_orphans(world);
        self.conclude_revert(world);
        true
    }

    /// Acts when a time limit of the upgrade is over.
    pub(super) fn check_successor(&mut self, world: &mut dyn World) {
        let now = world.now();
        let Some(old) = self.lifecycle.old() else { return };
        let (pid, waited_ms) = (old.successor.0, now.ms_since(old.began));
        match &old.stage {
            OldStage::Starting(starting) if starting.until <= now => {
                self.end_successor(world, Failure::SuccessorLate { pid, waited_ms });
            }
            OldStage::Held { until: Some(until) } if *until <= now => self.revert(world, RevertCause::NotCommitted),
            OldStage::Probation { until } if *until <= now => {
                world.note(None, EventKind::ProbationOver);
                if is_put_back(Mutation::ProbationForgetsWorkers) {
                    return self.finish_upgrade(world);
                }
                self.commit(world);
            }
            OldStage::Relieved { until } if *until <= now => {
                self.end_successor(world, Failure::SuccessorLate { pid, waited_ms: LEAVE_MS_MAX });
            }
            _ => {}
        }
    }

    pub(super) fn successor_deadline(&self) -> Option<Time> {
        match &self.lifecycle.old()?.stage {
            OldStage::Starting(starting) => Some(starting.until),
            OldStage::Held { until } => *until,
            OldStage::Probation { until } | OldStage::Relieved { until } => Some(*until),
            OldStage::Reverting | OldStage::Ending { .. } => None,
        }
    }

    /// Tells the new master to serve all connections alone.
    pub(super) fn tell_successor_to_take_all(&mut self, world: &mut dyn World) {
        world.tell_new(&ToNew::Alone);
    }

    /// Handles an order to stop this master during an upgrade. The new master stays if it serves, and is abandoned if
    /// not.
    pub(super) fn decide_by_leaving(&mut self, world: &mut dyn World) {
        let Some(old) = self.lifecycle.old() else { return };
        match old.stage.before() {
            _ if matches!(old.stage, OldStage::Ending { .. }) => {}
            Before::Starting if is_put_back(Mutation::StopForgetsSuccessor) => {}
            Before::Starting => self.end_successor(world, Failure::Stopping),
            Before::Serving => {
                self.leave_to_successor(world);
                self.finish_upgrade(world);
            }
            // The old workers do not serve yet, so the new ones must stay.
            Before::SentBack if old.stage == OldStage::Reverting => {
                world.tell_new(&ToNew::NotReverted { why: Failure::Stopping });
                self.operations.conclude(world, Kind::Revert, &Err(Failure::Stopping));
                self.leave_to_successor(world);
                self.finish_upgrade(world);
            }
            Before::SentBack => {}
        }
    }

    /// Handles HUP while an upgrade is held or on probation: the old workers must serve again beside those of the new
    /// master.
    pub(super) fn serve_beside_successor(&mut self, world: &mut dyn World) {
        let is_undecided = self.lifecycle.old().is_some_and(|old| old.stage.is_undecided());
        if is_undecided && !self.generations.iter().any(|generation| generation.phase == Phase::Serving) {
            self.serve_again(world);
        }
    }

    /// Takes over listen sockets that only the other master of an upgrade had: these workers accept from them, too.
    pub(super) fn take_listeners(&mut self, world: &mut dyn World, sockets: Vec<(SocketId, Endpoint)>) {
        let is_wanted = !matches!(self.lifecycle, Lifecycle::Leaving { .. });
        for (socket, address) in sockets {
            if is_wanted && self.adopts(address) { self.placement.keep(socket, address) } else { world.close(socket) }
        }
        self.share_rest(world);
    }

    /// Passes sockets on to the new master, which was started before they came.
    pub(super) fn pass_on(&self, world: &mut dyn World, sockets: &[(SocketId, Endpoint)]) {
        if self.lifecycle.old().is_some() && !is_put_back(Mutation::LateSocketIsNotPassedOn) {
            world.give_listeners_to_new(sockets);
        }
    }

    /// Commits or reverts because a client of this master asked for it.
    pub(super) fn decide(&mut self, world: &mut dyn World, kind: Kind) -> Result<(), Failure> {
        if !self.lifecycle.old().is_some_and(|old| old.stage.is_undecided()) {
            return Err(match (kind, &self.lifecycle) {
                (_, Lifecycle::Leaving { successor, .. }) => Failure::Leaving { successor: successor.0 },
                (Kind::Commit, _) => Failure::NothingToCommit,
                _ => Failure::NothingToRevert,
            });
        }
        match kind {
            Kind::Commit => self.commit(world),
            _ => self.revert(world, RevertCause::Asked { by: Cause::Control }),
        }
        Ok(())
    }
}
