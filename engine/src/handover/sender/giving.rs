//! A serving worker gives some of its connections to one other worker, and continues to serve the rest.

use super::report::Tally;
use super::{Command, Heir, Phase, Sender, Table, World};
use crate::handover::Refusal;
use crate::handover::custody::{Custody, Stage};
use crate::handover::limits::GIVING_MS_MAX;
use crate::handover::mutation::{Mutation, is_put_back};
use crate::types::ConnectionId;

/// The outcome for connections that were to be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Given {
    pub(crate) tally: Tally,
    /// How long each moved connection was stopped.
    pub(crate) pauses_ns: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Giving {
    heir: Heir,
    /// No other batch begins after this time.
    until_ns: u64,
    given: Given,
}

impl Sender {
    pub(super) fn give<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir, connections: Vec<ConnectionId>) {
        if !self.can_give() {
            return world.tell(Command::Given(Given::default()));
        }
        for id in connections {
            // A connection that lost an heir may have caused that: it moves when the worker leaves, or never.
            let is_fit = |custody: &&mut Custody| custody.stage() == Stage::Ours && !custody.goes_alone();
            if !world.is_ending(id)
                && let Some(custody) = world.table.custody(id).filter(is_fit)
            {
                custody.enter(Stage::Queued);
                self.queue.push_back(id);
            }
        }
        let until_ns = world.now_ns + GIVING_MS_MAX * 1_000_000;
        self.phase = Phase::Giving(Giving { heir, until_ns, given: Given::default() });
        self.visiting.insert(heir);
        world.tell(Command::Visit(heir));
    }

    /// Begins the next batch, or ends.
    pub(super) fn give_on<T: Table>(&mut self, world: &mut World<'_, T>) {
        let Phase::Giving(Giving { heir, until_ns, .. }) = self.phase else { return };
        if self.visiting.contains(&heir) && world.now_ns < until_ns {
            return;
        }
        if world.now_ns < until_ns || is_put_back(Mutation::GivingHasNoEnd) {
            self.fill(world, heir);
        } else {
            self.visiting.remove(&heir);
            self.unqueue(world);
        }
        let has_batch = self.heirs.get(&heir).is_some_and(|peer| peer.batch.is_some());
        let can_go_on = self.heirs.contains_key(&heir) && !self.queue.is_empty();
        if !has_batch && !can_go_on {
            self.end_giving(world);
        }
    }

    /// Connections whose turn has not come continue as before.
    fn unqueue<T: Table>(&mut self, world: &mut World<'_, T>) {
        for id in std::mem::take(&mut self.queue) {
            if world.stage(id) == Some(Stage::Queued) {
                world.enter(id, Stage::Ours);
            }
        }
    }

    /// Ends at once in any stage: what has not been given belongs to this worker. Returns the connections that were
    /// held.
    pub(super) fn end_giving<T: Table>(&mut self, world: &mut World<'_, T>) -> Vec<ConnectionId> {
        let Phase::Giving(Giving { heir, .. }) = self.phase else { return Vec::new() };
        let mut held = Vec::new();
        if let Some(peer) = self.heirs.remove(&heir) {
            // Do this first: from now on, nothing can be given to the other side.
            world.tell(Command::Close(heir));
            for id in peer.into_members() {
                let Some(custody) = world.table.custody(id).filter(|one| one.stage().leads_to(Stage::Ours)) else {
                    continue;
                };
                // The other worker may still be lost because of it, and this one will not learn of that.
                if custody.stage() == Stage::Offered && !is_put_back(Mutation::UnheardLossIsNoLoss) {
                    custody.lose_heir(false);
                }
                self.keep(world, id, Refusal::Leaving);
                held.push(id);
            }
        }
        self.visiting.remove(&heir);
        self.unqueue(world);
        if let Phase::Giving(Giving { given, .. }) = std::mem::replace(&mut self.phase, Phase::Idle) {
            world.tell(Command::Given(given));
        }
        held
    }

    /// The other worker is gone, or takes nothing more.
    pub(super) fn giving_lost<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        if matches!(&self.phase, Phase::Giving(giving) if giving.heir == heir) {
            self.end_giving(world);
        }
    }

    /// The connection does not move, and is still served, like its partner.
    pub(super) fn keep_serving<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId, refusal: Refusal) {
        if !world.stage(id).is_some_and(|stage| stage.leads_to(Stage::Ours)) {
            return;
        }
        if let Phase::Giving(giving) = &mut self.phase {
            giving.given.tally.count(refusal);
        }
        world.enter(id, Stage::Ours);
        if !is_put_back(Mutation::KeptIsNotResumed) {
            world.tell(Command::Resume(id));
        }
        if let Some(partner) = world.partner(id) {
            self.keep_serving(world, partner, Refusal::Partner);
        }
    }

    pub(super) fn tally(&mut self) -> &mut Tally {
        match &mut self.phase {
            Phase::Giving(giving) => &mut giving.given.tally,
            _ => &mut self.report.tally,
        }
    }

    pub(super) fn count_moved(&mut self, pause_ns: u64) {
        self.tally().moved += 1;
        match &mut self.phase {
            Phase::Giving(giving) => giving.given.pauses_ns.push(pause_ns),
            _ => self.report.is_changed = true,
        }
    }

    pub(super) fn giving_until_ns(&self) -> Option<u64> {
        match &self.phase {
            // Otherwise its batch has a time of its own.
            Phase::Giving(giving) if !(self.queue.is_empty() && self.visiting.is_empty()) => Some(giving.until_ns),
            _ => None,
        }
    }
}
