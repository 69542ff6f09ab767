//! Batches: a few connections at a time are stopped, frozen, offered to an heir and given to it.

use super::{Command, Heir, Phase, Sender, Table, World};
use crate::handover::Refusal;
use crate::handover::custody::Stage;
use crate::handover::limits::{ALONE_BYTES, BATCH, BATCH_BYTES, BATCH_MS_MAX, LATER_MS, OFFER_BYTES_MAX};
use crate::handover::mutation::{Mutation, is_put_back};
use crate::types::ConnectionId;

/// An heir to which there is a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    /// The number of its connections, as far as is known.
    open: u64,
    /// It takes nothing more.
    is_refusing: bool,
    pub(super) batch: Option<Batch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Until nothing is in flight for any member.
    Stopping,
    Freezing,
    /// Until the heir answers, or this time.
    Offered {
        until_ns: u64,
    },
    /// Until `Gives` was sent, or this time.
    Giving {
        until_ns: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Batch {
    number: u64,
    step: Step,
    members: Vec<ConnectionId>,
    /// When its members came to a standstill.
    began_ns: u64,
}

impl Peer {
    pub(super) fn until_ns(&self) -> Option<u64> {
        match self.batch.as_ref()?.step {
            Step::Stopping | Step::Freezing => None,
            Step::Offered { until_ns } | Step::Giving { until_ns } => Some(until_ns),
        }
    }

    pub(super) fn is_late(&self, now_ns: u64) -> bool {
        self.until_ns().is_some_and(|until_ns| until_ns <= now_ns)
    }

    pub(super) fn has_member(&self, id: ConnectionId) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.members.contains(&id))
    }

    pub(super) fn into_members(self) -> impl Iterator<Item = ConnectionId> {
        self.batch.into_iter().flat_map(|batch| batch.members)
    }
}

/// What happens to the next connection of the queue.
enum Turn {
    /// It is gone, or has been handled.
    Over,
    /// It moves: alone if it is large or has ended heirs; with its partner, if it has one.
    Moves { is_alone: bool, partner: Option<ConnectionId> },
}

/// Whether an heir that refuses for this reason would refuse every other connection, too.
fn is_final(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::Version | Refusal::Format | Refusal::Limit | Refusal::Leaving | Refusal::Descriptors)
}

impl Sender {
    /// Stops the next connections for an heir that has no batch, unless others have fewer connections.
    pub(super) fn fill<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        // All members of a batch that has stopped already may drop out of it at once.
        while self.fill_once(world, heir) {}
    }

    /// Returns `false` if there is nothing to fill, or no heir to fill it for.
    fn fill_once<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) -> bool {
        let least = self.heirs.values().map(|peer| peer.open).min().unwrap_or_default();
        let Some(peer) = self.heirs.get(&heir) else { return false };
        if peer.batch.is_some() || peer.is_refusing || peer.open > least.saturating_add(BATCH as u64) {
            return false;
        }
        let members = self.next_members(world);
        if members.is_empty() {
            return false;
        }
        // Callbacks have paired a connection with one that was going to move with others.
        let holders = members.iter().filter_map(|id| self.take_out(*id)).collect::<Vec<_>>();
        let began_ns = if self.has_worker_state { self.began_ns } else { world.now_ns };
        let batch = Batch { number: self.next_batch, step: Step::Stopping, members, began_ns };
        self.next_batch += 1;
        for id in &batch.members {
            if world.stage(*id) == Some(Stage::Queued) {
                self.stop(world, *id);
            }
        }
        if let Some(peer) = self.heirs.get_mut(&heir) {
            peer.batch = Some(batch);
        }
        self.proceed(world, heir);
        holders.into_iter().for_each(|holder| self.proceed(world, holder));
        true
    }

    /// Takes a connection out of its batch. Returns the heir of that batch.
    fn take_out(&mut self, id: ConnectionId) -> Option<Heir> {
        let (heir, peer) = self.heirs.iter_mut().find(|(_, peer)| peer.has_member(id))?;
        if let Some(batch) = &mut peer.batch {
            batch.members.retain(|one| *one != id);
        }
        Some(*heir)
    }

    /// Takes the next connections out of the queue.
    fn next_members<T: Table>(&mut self, world: &mut World<'_, T>) -> Vec<ConnectionId> {
        // The last ones are divided among the heirs.
        let most = self.queue.len().div_ceil(self.heirs.len().max(1)).min(BATCH);
        let mut members = Vec::new();
        while members.len() < most
            && let Some(id) = self.queue.front().copied()
        {
            let Turn::Moves { is_alone, partner } = self.turn(world, id) else {
                self.queue.pop_front();
                continue;
            };
            if is_alone && !members.is_empty() {
                break;
            }
            self.queue.pop_front();
            members.push(id);
            if let Some(partner) = partner {
                self.queue.retain(|one| *one != partner);
                members.push(partner);
            }
            if is_alone {
                break;
            }
        }
        members
    }

    /// Whether the first of the queue moves now, and how.
    fn turn<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId) -> Turn {
        let Some((look, custody)) = world.table.look(id).zip(world.table.custody(id)) else { return Turn::Over };
        let is_alone = look.bytes >= ALONE_BYTES as u64 || custody.goes_alone();
        match custody.stage() {
            Stage::Queued if look.is_ending => {
                custody.enter(Stage::Ours);
                return Turn::Over;
            }
            Stage::Still if look.is_ending && self.forgets_ending() => return Turn::Over,
            Stage::Queued | Stage::Stopping | Stage::Still | Stage::Frozen => {}
            _ => return Turn::Over,
        }
        let Some(partner) = look.partner.filter(|_| !is_put_back(Mutation::PairIsPartedByOffering)) else {
            return Turn::Moves { is_alone, partner: None };
        };
        let bytes = world.table.look(partner).map_or(0, |look| look.bytes);
        match world.table.custody(partner).map(|custody| (custody.stage(), custody.goes_alone())) {
            Some((Stage::Queued | Stage::Stopping | Stage::Still | Stage::Frozen, goes_alone)) => {
                let is_alone = is_alone || goes_alone || look.bytes + bytes >= ALONE_BYTES as u64;
                Turn::Moves { is_alone, partner: Some(partner) }
            }
            Some(_) => {
                self.keep(world, id, Refusal::Partner);
                Turn::Over
            }
            None => Turn::Moves { is_alone, partner: None },
        }
    }

    /// Freezes a batch when nothing is in flight for any member, and offers it when all are frozen.
    pub(super) fn proceed<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        let Some(batch) = self.heirs.get_mut(&heir).and_then(|peer| peer.batch.as_mut()) else { return };
        if !matches!(batch.step, Step::Stopping | Step::Freezing) {
            return;
        }
        let mut stages: Vec<Option<Stage>> = batch.members.iter().map(|id| world.stage(*id)).collect();
        let is_held = |stage: &Option<Stage>| matches!(stage, Some(Stage::Stopping | Stage::Still | Stage::Frozen));
        let mut held = stages.iter().map(is_held);
        batch.members.retain(|_| held.next().unwrap_or(false));
        stages.retain(is_held);
        if batch.step == Step::Stopping {
            if stages.contains(&Some(Stage::Stopping)) && !is_put_back(Mutation::FrozenBeforeStill) {
                return;
            }
            batch.step = Step::Freezing;
            // Callbacks may have paired some with others since then.
            let members = &batch.members;
            let is_parted = |id: &ConnectionId| {
                let partner = world.table.look(*id).and_then(|look| look.partner);
                partner.is_some_and(|partner| !members.contains(&partner))
                    && !is_put_back(Mutation::PairIsPartedByOffering)
            };
            let parted: Vec<ConnectionId> = members.iter().copied().filter(is_parted).collect();
            if !parted.is_empty() {
                batch.step = Step::Stopping;
                batch.members.retain(|id| !parted.contains(id));
                parted.into_iter().for_each(|id| self.put_back(world, id, false));
                return self.proceed(world, heir);
            }
            let still = batch.members.iter().zip(&stages).filter(|(_, stage)| **stage != Some(Stage::Frozen));
            let still: Vec<ConnectionId> = still.map(|(id, _)| *id).collect();
            for id in still {
                if world.stage(id) == Some(Stage::Stopping) {
                    world.enter(id, Stage::Still);
                }
                if world.stage(id) != Some(Stage::Still) {
                    // It stays with its partner.
                    continue;
                }
                // Check it before it is copied.
                if self.is_too_large(world, id) {
                    self.keep(world, id, Refusal::TooLarge);
                } else {
                    world.tell(Command::Freeze(id));
                }
            }
            return self.proceed(world, heir);
        }
        if !stages.contains(&Some(Stage::Still)) {
            self.offer(world, heir);
        }
    }

    fn is_too_large<T: Table>(&self, world: &mut World<'_, T>, id: ConnectionId) -> bool {
        let bytes = world.table.look(id).map_or(0, |look| look.bytes);
        bytes > OFFER_BYTES_MAX as u64 && !is_put_back(Mutation::SizeIsNotChecked)
    }

    pub(super) fn frozen<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId) {
        if world.stage(id).is_some_and(|stage| stage != Stage::Still) {
            // Its partner stays or waits, and so does this one: that command follows.
            return self.forget(world, id);
        }
        world.enter(id, Stage::Frozen);
        if self.is_too_large(world, id) && !self.is_gathering() {
            self.keep(world, id, Refusal::TooLarge);
        }
        self.forget(world, id);
    }

    pub(super) fn not_frozen<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId) {
        if world.stage(id) == Some(Stage::Still) {
            if world.is_ending(id) && !self.forgets_ending() {
                self.let_go(world, id);
            } else if !self.is_gathering() {
                self.keep(world, id, Refusal::Protocol);
            }
            // It stays stopped until it is decided where the worker's state goes.
        }
        self.forget(world, id);
    }

    /// The protocol cannot let it move yet: it continues, and is tried again soon.
    pub(super) fn not_yet<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId) {
        if world.stage(id) != Some(Stage::Still)
            || self.is_giving()
            || self.is_gathering()
            || self.is_state_given()
            || world.is_ending(id)
        {
            return self.not_frozen(world, id);
        }
        for one in [Some(id), world.partner(id)].into_iter().flatten() {
            if matches!(world.stage(one), Some(Stage::Stopping | Stage::Still | Stage::Frozen)) {
                world.enter(one, Stage::Queued);
                world.tell(Command::Resume(one));
                self.later.push_back((world.now_ns + LATER_MS * 1_000_000, one));
            }
        }
        self.forget(world, id);
    }

    fn offer<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        let Some(batch) = self.heirs.get_mut(&heir).and_then(|peer| peer.batch.as_mut()) else { return };
        let (mut members, mut back, mut large, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for id in std::mem::take(&mut batch.members) {
            let look = world.table.look(id);
            let more = look.map_or(0, |look| look.bytes);
            let partner = look.and_then(|look| look.partner);
            let is_with = |others: &[ConnectionId]| partner.is_some_and(|partner| others.contains(&partner));
            let is_too_large = |bytes: u64| bytes > OFFER_BYTES_MAX as u64 && !is_put_back(Mutation::SizeIsNotChecked);
            if is_with(&members) && !is_too_large(bytes + more) {
                bytes += more;
                members.push(id);
            } else if is_too_large(more) || is_with(&large) || is_with(&members) {
                large.push(id);
            } else if is_with(&back) || !members.is_empty() && bytes + more > BATCH_BYTES as u64 {
                back.push(id);
            } else {
                bytes += more;
                members.push(id);
            }
        }
        // A connection that is too large for any offer takes its partner along.
        for id in &large {
            let partner = world.partner(*id);
            members.retain(|one| Some(*one) != partner);
            back.retain(|one| Some(*one) != partner);
        }
        batch.members.clone_from(&members);
        batch.step = Step::Offered { until_ns: world.now_ns + BATCH_MS_MAX * 1_000_000 };
        let number = batch.number;
        members.iter().for_each(|id| world.enter(*id, Stage::Offered));
        if members.is_empty() {
            self.drop_batch(heir);
        } else {
            world.tell(Command::Offer { heir, batch: number, members });
        }
        large.into_iter().for_each(|id| self.keep(world, id, Refusal::TooLarge));
        // They move in a batch of their own, soon.
        back.into_iter().rev().for_each(|id| self.put_back(world, id, true));
    }

    fn drop_batch(&mut self, heir: Heir) {
        if let Some(peer) = self.heirs.get_mut(&heir) {
            peer.batch = None;
        }
    }

    pub(super) fn offered<T: Table>(
        &mut self,
        world: &mut World<'_, T>,
        heir: Heir,
        left_out: &[ConnectionId],
        bytes: u64,
    ) {
        self.tally().bytes += bytes;
        let Some(batch) = self.heirs.get_mut(&heir).and_then(|peer| peer.batch.as_mut()) else { return };
        batch.members.retain(|id| !left_out.contains(id));
        if batch.members.is_empty() {
            self.drop_batch(heir);
        }
        left_out.iter().for_each(|id| self.keep(world, *id, Refusal::Descriptors));
    }

    /// Handles an heir's answer to an offer.
    pub(super) fn taken<T: Table>(
        &mut self,
        world: &mut World<'_, T>,
        heir: Heir,
        number: u64,
        refused: &[(usize, Refusal)],
        open: u64,
    ) {
        let Some(peer) = self.heirs.get_mut(&heir) else { return };
        let Some(batch) =
            peer.batch.as_mut().filter(|batch| batch.number == number && matches!(batch.step, Step::Offered { .. }))
        else {
            return self.lose(world, heir);
        };
        let refusal_of = |place: usize| refused.iter().find(|(one, _)| *one == place).map(|(_, refusal)| *refusal);
        let members = &batch.members;
        let is_parted = |(place, id): (usize, &ConnectionId)| {
            let partner = world.table.look(*id).and_then(|look| look.partner);
            let other = members.iter().position(|one| Some(*one) == partner);
            other.is_some_and(|other| refusal_of(place).is_some() != refusal_of(other).is_some())
        };
        if members.iter().enumerate().any(is_parted) && !is_put_back(Mutation::PairIsPartedByTaking) {
            // It must not take one connection of a pair without the other.
            return self.lose(world, heir);
        }
        let mut back = Vec::new();
        for (place, id) in std::mem::take(&mut batch.members).into_iter().enumerate() {
            match refusal_of(place) {
                None => batch.members.push(id),
                Some(refusal) => back.push((id, refusal)),
            }
        }
        batch.step = Step::Giving { until_ns: world.now_ns + BATCH_MS_MAX * 1_000_000 };
        peer.open = open.saturating_add(batch.members.len() as u64);
        batch.members.iter().for_each(|id| world.enter(*id, Stage::Giving));
        if let Some((_, refusal)) = back.iter().find(|(_, refusal)| is_final(*refusal)) {
            peer.is_refusing = true;
            self.last_refusal = Some(*refusal);
        }
        world.tell(Command::Give { heir, batch: number });
        for (id, refusal) in back.into_iter().rev() {
            // Other heirs may take what this one has no room for. If there are none, it is counted then.
            if is_final(refusal) {
                self.put_back(world, id, true);
            } else {
                self.keep(world, id, refusal);
            }
        }
        if is_put_back(Mutation::ReleasedBeforeSent) {
            self.sent(world, heir);
        }
    }

    /// `Gives` was sent: releases what was given.
    pub(super) fn sent<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        if is_put_back(Mutation::TakenBackAfterGiving) {
            return;
        }
        let Some(peer) = self.heirs.get_mut(&heir) else { return };
        let Some(batch) = peer.batch.take_if(|batch| matches!(batch.step, Step::Giving { .. })) else { return };
        let is_refusing = peer.is_refusing;
        let pause_ns = world.now_ns.saturating_sub(batch.began_ns);
        for id in batch.members {
            world.enter(id, Stage::Given);
            world.tell(Command::Release { id, pause_ns });
            self.count_moved(pause_ns);
        }
        if is_refusing {
            self.lose(world, heir);
        }
    }

    /// Gives up heirs that have not answered in time.
    pub(super) fn expire<T: Table>(&mut self, world: &mut World<'_, T>) {
        while let Some((at_ns, id)) = self.later.front().copied()
            && at_ns <= world.now_ns
        {
            self.later.pop_front();
            if !is_put_back(Mutation::LaterIsForgotten) {
                self.queue.push_back(id);
            }
        }
        let late = self.heirs.iter().filter(|(_, peer)| peer.is_late(world.now_ns));
        let due: Vec<Heir> = late.map(|(heir, _)| *heir).collect();
        if !is_put_back(Mutation::SilentHeirIsWaitedFor) {
            due.into_iter().for_each(|heir| self.lose(world, heir));
        }
    }

    /// Nothing more can be given to this heir. What was not given moves to others, or continues here.
    pub(super) fn lose<T: Table>(&mut self, world: &mut World<'_, T>, heir: Heir) {
        let Some(peer) = self.heirs.remove(&heir) else { return };
        // Do this first: from now on, nothing can be given to the other side.
        world.tell(Command::Close(heir));
        self.state_lost(world, heir);
        let Some(batch) = peer.batch else { return self.giving_lost(world, heir) };
        let was_offered = matches!(batch.step, Step::Offered { .. });
        let was_alone = match batch.members[..] {
            [_] => true,
            [one, other] => world.partner(one) == Some(other),
            _ => false,
        };
        for id in batch.members.into_iter().rev() {
            let Some(custody) = world.table.custody(id) else { continue };
            let is_harmless = custody.stage() != Stage::Offered || !was_offered || {
                custody.lose_heir(was_alone) || is_put_back(Mutation::LossesAreForgotten)
            };
            let stage = custody.stage();
            match stage {
                Stage::Stopping | Stage::Still | Stage::Frozen | Stage::Offered | Stage::Giving if self.is_giving() => {
                    self.keep(world, id, Refusal::Channel);
                }
                Stage::Stopping | Stage::Still | Stage::Frozen | Stage::Offered | Stage::Giving if is_harmless => {
                    // Last if the heir was lost with it, so that others move before they are offered with it again.
                    self.put_back(world, id, !was_offered);
                }
                Stage::Offered => self.keep(world, id, Refusal::Quarantined),
                _ => {}
            }
        }
        debug_assert!(self.phase != Phase::Idle, "an heir was visited before the worker left");
        self.giving_lost(world, heir);
    }
}
