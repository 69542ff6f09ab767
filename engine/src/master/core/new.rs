//! An upgrade as the new master sees it. The old master has started it, sends its state, checks this master's
//! introduction, and receives reports of the progress. The old master takes over again if this one is stopped before
//! the upgrade is final.

use super::lifecycle::{Instead, Lifecycle, Lineage, New, NewStage, Start, Stopping};
use super::mutation::{Mutation, is_put_back};
use super::operations::Kind;
use super::types::{ProcessId, Stop, Time};
use super::world::{Names, World};
use super::{Core, Elder};
use crate::handover::Tier;
use crate::ipc::control::{Cause, EventKind, Failure, Outcome, RevertCause, TimelineKind};
use crate::ipc::relay::{ToNew, ToOld};

/// Time for the old master to answer the introduction.
const INTRODUCTION_MS_MAX: u64 = 5_000;

/// Time for the old master to start its workers again. After it, this master stays.
const RELIEF_MS_MAX: u64 = 15_000;

impl Core {
    /// Sends the introduction. The old master checks it before this one binds or forks anything.
    pub(super) fn introduce(&mut self, world: &mut dyn World) {
        let Lifecycle::Starting(start, Some(_)) = &mut self.lifecycle else { return };
        if let Start::Introducing { until, .. } = start {
            *until = world.now().after_ms(INTRODUCTION_MS_MAX);
            let introduction = world.introduction();
            world.tell_old(&introduction);
        }
    }

    pub(super) fn heard_old(&mut self, world: &mut dyn World, message: ToNew) {
        match message {
            ToNew::Proceed => self.proceed_after_introduction(world),
            ToNew::Alone => self.take_all(world),
            ToNew::Final => self.stay(world),
            ToNew::Moved => self.elder.iter_mut().for_each(|elder| elder.is_moving = false),
            ToNew::Relieved { meetings } => self.relieved(world, meetings),
            ToNew::NotReverted { why } => {
                self.not_relieved(world, why);
                self.steer_again(world);
            }
            ToNew::Hello { .. }
            | ToNew::Listeners { .. }
            | ToNew::Arrival
            | ToNew::Map { .. }
            | ToNew::Loads { .. }
            | ToNew::Metrics { .. }
            | ToNew::Totals { .. }
            | ToNew::Unknown => {}
        }
    }

    fn proceed_after_introduction(&mut self, world: &mut dyn World) {
        if let Lifecycle::Starting(start @ Start::Introducing { .. }, Some(_)) = &mut self.lifecycle
            && let Start::Introducing { plan, .. } = std::mem::replace(start, Start::ComingUp)
        {
            self.begin_first(world, plan, TimelineKind::Upgrade);
        }
    }

    /// Handles that the upgrade is final: this master stays for good.
    fn stay(&mut self, world: &mut dyn World) {
        let Some(New { stage, .. }) = self.lifecycle.take_new() else { return };
        world.note(None, EventKind::Final { pid: self.process.0 });
        self.operations.conclude(world, Kind::Commit, &Ok(Outcome::Committed { pid: self.process.0 }));
        // A stop that came after the decision stops the whole server.
        if let NewStage::AwaitingRelief { stop, by, .. } = stage {
            self.operations.conclude(world, Kind::Revert, &Err(Failure::NothingToRevert));
            self.stop(world, stop, by);
        }
    }

    /// Handles that the old workers leave: from now on this server's workers get all connections.
    fn take_all(&mut self, world: &mut dyn World) {
        if let Some(new) = self.lifecycle.new_mut() {
            new.is_held = false;
        }
        self.steer_again(world);
    }

    /// Attaches this master's steering again. The old master may have steered to its own workers, which have not
    /// lasted.
    fn steer_again(&mut self, world: &mut dyn World) {
        if let Some(index) = self.serving()
            && let Err(why) = self.steer_to(world, index)
        {
            world.note(None, EventKind::NotSteered { why });
        }
    }

    /// Asks the old master to make the upgrade final.
    pub(super) fn ask_to_commit(&mut self, world: &mut dyn World) -> Result<(), Failure> {
        let Lifecycle::Serving(Lineage::New(new)) = &mut self.lifecycle else { return Err(Failure::NothingToCommit) };
        match new.stage {
            NewStage::Undecided => new.stage = NewStage::Committing,
            NewStage::Committing => return Ok(()),
            NewStage::AwaitingRelief { .. } => return Err(Failure::Stopping),
        }
        world.tell_old(&ToOld::Commit);
        Ok(())
    }

    /// Reports to the old master that a worker died or hung.
    pub(super) fn report_trouble(&self, world: &mut dyn World, why: RevertCause) {
        if self.lifecycle.new_master().is_some() {
            world.tell_old(&ToOld::Trouble { why });
        }
    }

    /// Handles that the old workers serve: this master's workers leave.
    fn relieved(&mut self, world: &mut dyn World, meetings: Vec<String>) {
        let Some(New { predecessor, stage, .. }) = self.lifecycle.take_new() else { return };
        let how = match stage {
            NewStage::AwaitingRelief { stop, .. } => stop,
            NewStage::Undecided | NewStage::Committing => Stop::Graceful { drain_ms: None },
        };
        self.moves.heirs_elsewhere = meetings;
        world.names(Names::Forget);
        // Connections that arrive at a guard from now on belong to the old master.
        self.hand_out(world);
        if self.tier == Tier::Ebpf {
            world.keep_guards(&[]);
        }
        self.give_sockets_back(world);
        let stopping = Stopping { is_at_once: how == Stop::Now, instead: Instead::Old(predecessor), successor: None };
        self.begin_stopping(world, stopping);
        self.leave_relieved(world, how);
    }

    /// This master leaves and the old one serves. The old one may lack the listen sockets that this one made, so it
    /// gets them.
    pub(super) fn give_sockets_back(&self, world: &mut dyn World) {
        if !is_put_back(Mutation::SocketsAreNotGivenBack) {
            let listening = self.listening(world);
            if !listening.is_empty() {
                world.give_listeners_to_old(&listening);
            }
        }
    }

    /// Handles that the old master does not take over. This master stays, unless it was ordered to stop at once.
    fn not_relieved(&mut self, world: &mut dyn World, why: Failure) {
        let Some(new) = self.lifecycle.new_mut() else { return };
        world.note(None, EventKind::NotReverted { why: why.clone() });
        if new.stage == NewStage::Committing {
            // The old master did not read such a message while it tried to take over.
            return world.tell_old(&ToOld::Commit);
        }
        if let NewStage::AwaitingRelief { stop: Stop::Now, by, .. } = new.stage {
            let why = Failure::NotReverted { why: Box::new(why) };
            self.operations.conclude(world, Kind::Revert, &Err(why));
            return self.stop(world, Stop::Now, by);
        }
        new.stage = NewStage::Undecided;
        if is_put_back(Mutation::NotRevertedIsNotTold) {
            return;
        }
        let why = Failure::NotReverted { why: Box::new(why) };
        self.operations.conclude(world, Kind::Revert, &Err(why.clone()));
        self.operations.conclude(world, Kind::Stop, &Err(why.clone()));
        // A commit that was requested before the stop was never handled.
        self.operations.conclude(world, Kind::Commit, &Err(why));
    }

    /// Handles the end of the channel to the old master: that master has ended, normally or not.
    pub(super) fn lose_predecessor(&mut self, world: &mut dyn World) {
        // Its workers may have been killed together with it.
        self.look_at_kept(world.now());
        if let Some(elder) = self.elder.take() {
            // In case it was killed.
            if !is_put_back(Mutation::PredecessorLeavesFiles) {
                world.names(Names::Clean { after: elder.process });
            }
        }
        if let Lifecycle::Stopping(Stopping { instead: instead @ Instead::Perhaps { .. }, .. }) = &mut self.lifecycle {
            *instead = Instead::Nobody;
        }
        let was_serving = self.serving().is_some();
        let new = self.lifecycle.new_master().cloned();
        world.note(None, EventKind::PredecessorGone);
        if let Some(New { stage, .. }) = new {
            if let NewStage::AwaitingRelief { stop: Stop::Now, by, .. } = stage {
                let _ = self.lifecycle.take_new();
                return self.stop(world, Stop::Now, by);
            }
            if matches!(stage, NewStage::AwaitingRelief { .. }) {
                // A revert is not possible any more: this server is the only one left.
                let why = Failure::NotReverted { why: Box::new(Failure::PredecessorGone) };
                self.operations.conclude(world, Kind::Revert, &Err(why.clone()));
                self.operations.conclude(world, Kind::Stop, &Err(why));
            }
            let is_introducing = matches!(self.lifecycle, Lifecycle::Starting(Start::Introducing { .. }, _));
            if is_introducing {
                return self.fail(world, Failure::PredecessorGone);
            }
            if was_serving {
                self.take_all(world);
            }
            let _ = self.lifecycle.take_new();
            world.note(None, EventKind::Final { pid: self.process.0 });
            self.operations.conclude(world, Kind::Commit, &Ok(Outcome::Committed { pid: self.process.0 }));
        }
        // Its workers are orphans if it was killed.
        if !self.lifecycle.is_ending() {
            self.look_for_orphans(world);
        }
    }

    /// Until an upgrade is final, a stop reverts it. Returns `true` if the old master was asked to take over first.
    pub(super) fn asks_for_relief(&mut self, world: &mut dyn World, stop: Stop, by: Cause) -> bool {
        let Lifecycle::Serving(Lineage::New(new)) = &mut self.lifecycle else { return false };
        if matches!(new.stage, NewStage::AwaitingRelief { .. }) {
            // A repeated order: do not wait.
            return false;
        }
        let since = world.now();
        new.stage = NewStage::AwaitingRelief { stop, by, since, until: since.after_ms(RELIEF_MS_MAX) };
        world.tell_old(&ToOld::Revert { by });
        world.note(None, EventKind::AwaitingRelief { by });
        true
    }

    /// Acts when the old master's time to answer is over.
    pub(super) fn check_predecessor(&mut self, world: &mut dyn World) {
        let now = world.now();
        match &self.lifecycle {
            Lifecycle::Starting(Start::Introducing { until, .. }, _) if *until <= now => {
                let problem = "the old master did not answer this one's greeting in time".to_owned();
                self.fail(world, Failure::Incompatible { problem });
            }
            Lifecycle::Serving(Lineage::New(New { stage: NewStage::AwaitingRelief { since, until, .. }, .. }))
                if *until <= now =>
            {
                let waited_ms = now.ms_since(*since);
                self.not_relieved(world, Failure::NoAnswer { waited_ms });
            }
            _ => {}
        }
    }

    pub(super) fn predecessor_deadline(&self) -> Option<Time> {
        match &self.lifecycle {
            Lifecycle::Starting(Start::Introducing { until, .. }, _) => Some(*until),
            Lifecycle::Serving(Lineage::New(New { stage: NewStage::AwaitingRelief { until, .. }, .. })) => Some(*until),
            _ => None,
        }
    }

    /// The state of a master that another one has started.
    pub(super) fn begins_as_new(predecessor: ProcessId, is_held: bool) -> (Option<New>, Option<Elder>) {
        let new = New { predecessor, is_held, stage: NewStage::Undecided };
        (Some(new), Some(Elder { process: predecessor, is_moving: true }))
    }
}
