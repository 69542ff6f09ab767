//! The worker's own state moves first: all connections are stopped and frozen, and one heir takes the state.

use std::collections::BTreeSet;

use super::{Command, Heir, Phase, Sender, Table, World};
use crate::handover::Refusal;
use crate::handover::custody::Stage;
use crate::types::ConnectionId;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Gathering {
    /// Waits until the messages of others are marked, for this heir; or no heir has been found.
    Listening(Option<Heir>),
    /// Something is still in flight for these; or no heir has been found.
    Stopping(BTreeSet<ConnectionId>),
    /// These have not been frozen yet.
    Freezing(BTreeSet<ConnectionId>),
    /// The state is being given to this heir.
    Giving(Heir),
}

impl Gathering {
    pub(super) fn forget(&mut self, id: ConnectionId) {
        match self {
            Self::Stopping(waiting) | Self::Freezing(waiting) => drop(waiting.remove(&id)),
            Self::Listening(_) | Self::Giving(_) => {}
        }
    }
}

impl Sender {
    /// Continues with the next step once this one has everything that it waits for.
    pub(super) fn gather<T: Table>(&mut self, world: &mut World<'_, T>) {
        let Some(heir) = self.heirs.keys().next().copied() else { return };
        if self.phase == Phase::Gathering(Gathering::Listening(None)) {
            self.phase = Phase::Gathering(Gathering::Listening(Some(heir)));
            world.tell(Command::Listen(heir));
        }
        if matches!(&self.phase, Phase::Gathering(Gathering::Stopping(waiting)) if waiting.is_empty()) {
            let still = self.in_queue(world, Stage::Still);
            still.iter().for_each(|id| world.tell(Command::Freeze(*id)));
            self.phase = Phase::Gathering(Gathering::Freezing(still.into_iter().collect()));
        }
        if matches!(&self.phase, Phase::Gathering(Gathering::Freezing(waiting)) if waiting.is_empty()) {
            self.ask(world, heir);
        }
    }

    fn ask<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        self.gathers = self.listens.then_some(heir);
        self.phase = Phase::Gathering(Gathering::Giving(heir));
        world.tell(Command::GiveState(heir));
    }

    fn in_queue<T: Table>(&mut self, world: &mut World<'_, T>, stage: Stage) -> Vec<ConnectionId> {
        self.queue.iter().copied().filter(|id| world.stage(*id) == Some(stage)).collect()
    }

    /// Whether connections are frozen for the worker's state, and not yet for an offer.
    pub(super) fn is_gathering(&self) -> bool {
        matches!(self.phase, Phase::Gathering(_))
    }

    /// The heir has the state, so it gets all connections.
    pub(super) fn state_taken<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir, bytes: u64) {
        if self.phase != Phase::Gathering(Gathering::Giving(heir)) {
            return;
        }
        self.phase = Phase::Moving { is_state_given: self.has_worker_state };
        self.report.tally.state_bytes = self.has_worker_state.then_some(bytes);
        self.report.is_changed = true;
        let others: Vec<Heir> = self.heirs.keys().copied().filter(|other| *other != heir).collect();
        others.into_iter().for_each(|other| self.lose(world, other));
    }

    /// Stops all connections, once earlier messages have been heard.
    pub(super) fn listened<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        if self.phase != Phase::Gathering(Gathering::Listening(Some(heir))) {
            return;
        }
        self.phase = Phase::Gathering(Gathering::Stopping(BTreeSet::new()));
        let queued = self.in_queue(world, Stage::Queued);
        queued.into_iter().for_each(|id| self.stop(world, id));
    }

    pub(super) fn state_refused<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir, refusal: Refusal) {
        // A channel that ended may have a successor; an heir that refuses will refuse again.
        if refusal != Refusal::Channel {
            self.last_refusal = Some(refusal);
        }
        self.lose(world, heir);
    }

    /// The heir that was asked is gone: tries the next one, or begins again when there is one.
    pub(super) fn state_lost<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        self.gathers.take_if(|one| *one == heir);
        if self.phase == Phase::Gathering(Gathering::Listening(Some(heir))) {
            self.phase = Phase::Gathering(Gathering::Listening(None));
        }
        if self.phase != Phase::Gathering(Gathering::Giving(heir)) {
            return;
        }
        if let Some(next) = self.heirs.keys().next().copied() {
            return self.ask(world, next);
        }
        // The worker may act meanwhile. Then the frozen connections would no longer match its state.
        for id in self.in_queue(world, Stage::Frozen) {
            world.enter(id, Stage::Still);
            world.tell(Command::Unfreeze(id));
        }
        let stopping = self.in_queue(world, Stage::Stopping).into_iter().collect();
        self.phase = Phase::Gathering(Gathering::Stopping(stopping));
    }
}
