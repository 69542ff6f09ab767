//! Workers send each other messages, in all generations and under both masters of an upgrade. The master tells them how
//! to reach each other. It is enough to tell one of two workers, because the other one then has a way back.
//!
//! So a worker that has come up learns of all that are there. Some workers would not be reached by any newcomer: those
//! of a former master, and those of the old master in an upgrade. They learn of the newcomers instead.

use std::collections::{BTreeMap, VecDeque};

use super::Core;
use super::generation::State;
use super::mutation::{Mutation, is_put_back};
use super::placement::SHARE_RETRY_MS;
use super::types::{ProcessId, Time};
use super::world::World;
use crate::ipc::orders::{Member, Order};
use crate::ipc::relay::ToOld;

/// Number of members for which one message has room.
const MEMBERS_PER_ORDER: usize = 100;

/// Number of another master's workers that are remembered: more than it has.
const ELSEWHERE_MAX: usize = 4096;

/// Which workers must still learn of which others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Acquaintance {
    /// Workers of the new master that this one has started; some may have ended.
    elsewhere: Vec<Member>,
    /// Members that could not be sent to a worker yet.
    untold: Vec<(ProcessId, Vec<Member>)>,
    /// Introduction orders per worker that it has not confirmed yet.
    owed: BTreeMap<ProcessId, u32>,
    /// The worker that is moving its connections now, with the messages that it still hears from others. Only one
    /// worker at a time does so, since two would wait for each other.
    gathering: Option<ProcessId>,
    /// Workers that wait for their turn.
    waiting: VecDeque<ProcessId>,
}

impl Acquaintance {
    fn owe(&mut self, process: ProcessId, members: &[Member]) {
        self.untold.extend(members.chunks(MEMBERS_PER_ORDER).map(|some| (process, some.to_vec())));
    }
}

impl Core {
    /// Workers of this master that exchange messages with others, and whose channel is open.
    fn speakers(&self) -> Vec<(ProcessId, Member)> {
        let mut speakers = Vec::new();
        for generation in &self.generations {
            for slot in &generation.slots {
                if let State::Ready(child) = &slot.state
                    && child.speaks
                    && child.has_channel
                    && let Some(name) = child.meeting.clone()
                {
                    speakers.push((child.process, Member { name, slot: slot.index, generation: generation.number }));
                }
            }
        }
        speakers
    }

    /// Introduces a worker that has come up.
    pub(super) fn introduce_worker(&mut self, world: &mut dyn World, newcomer: ProcessId) {
        let (own, others): (Vec<_>, Vec<_>) =
            self.speakers().into_iter().partition(|(process, _)| *process == newcomer);
        let Some((_, member)) = own.into_iter().next() else { return };
        let others: Vec<Member> =
            others.into_iter().map(|(_, member)| member).chain(self.acquaintance.elsewhere.iter().cloned()).collect();
        self.acquaintance.owe(newcomer, &others);
        let orphans = self.orphans.all.iter().filter(|orphan| orphan.known.is_some());
        orphans.for_each(|orphan| self.acquaintance.owe(orphan.process, std::slice::from_ref(&member)));
        if self.elder.is_some() && !is_put_back(Mutation::SiblingsElsewhereAreForgotten) {
            world.tell_old(&ToOld::Siblings { members: vec![member] });
        }
        self.tell_untold(world);
    }

    /// Introduces this master's workers to an orphan that has said who it is.
    pub(super) fn introduce_to_orphan(&mut self, world: &mut dyn World, orphan: ProcessId) {
        let members: Vec<Member> = self.speakers().into_iter().map(|(_, member)| member).collect();
        self.acquaintance.owe(orphan, &members);
        self.tell_untold(world);
    }

    /// Handles the report that workers of the new master have come up.
    pub(super) fn hear_siblings(&mut self, world: &mut dyn World, members: Vec<Member>) {
        let orphans = self.orphans.all.iter().filter(|orphan| orphan.known.is_some()).map(|orphan| orphan.process);
        for process in self.speakers().into_iter().map(|(process, _)| process).chain(orphans) {
            self.acquaintance.owe(process, &members);
        }
        // The master that this one has replaced may still have workers, and learns of other masters only from this one.
        if self.elder.is_some() {
            members.chunks(MEMBERS_PER_ORDER).for_each(|some| {
                world.tell_old(&ToOld::Siblings { members: some.to_vec() });
            });
        }
        let elsewhere = &mut self.acquaintance.elsewhere;
        elsewhere.extend(members);
        elsewhere.drain(..elsewhere.len().saturating_sub(ELSEWHERE_MAX));
        self.tell_untold(world);
    }

    /// Sends what could not be sent before, to workers that still live.
    pub(super) fn tell_untold(&mut self, world: &mut dyn World) {
        if self.acquaintance.untold.is_empty() {
            return;
        }
        let own = self.speakers().into_iter().map(|(process, _)| process);
        let living: Vec<ProcessId> = own.chain(self.orphans.all.iter().map(|orphan| orphan.process)).collect();
        let Acquaintance { untold, owed, .. } = &mut self.acquaintance;
        untold.retain(|(process, members)| {
            let lives = living.contains(process);
            let is_told = lives && world.tell(*process, &Order::Siblings { members: members.clone() });
            if is_told {
                *owed.entry(*process).or_default() += 1;
            }
            lives && !is_told
        });
    }

    /// Handles a worker's report that it wants to move its connections, or has moved them.
    pub(super) fn hear_gathering(&mut self, process: ProcessId, has_gathered: bool) {
        if has_gathered {
            self.acquaintance.gathering.take_if(|one| *one == process);
        } else if !self.acquaintance.waiting.contains(&process) {
            self.acquaintance.waiting.push_back(process);
        }
    }

    /// Handles a worker's report that the members of one introduction order hear it.
    pub(super) fn hear_acquainted(&mut self, process: ProcessId) {
        let owed = &mut self.acquaintance.owed;
        if let Some(count) = owed.get_mut(&process) {
            *count -= 1;
            owed.retain(|_, count| *count > 0);
        }
    }

    /// Lets the next worker move its connections once all workers know each other. Otherwise some would hear messages
    /// that others do not.
    pub(super) fn let_gather(&mut self, world: &mut dyn World) {
        let acquaintance = &self.acquaintance;
        if acquaintance.gathering.is_none() && acquaintance.waiting.is_empty() {
            return;
        }
        let own = self.speakers().into_iter().map(|(process, _)| process);
        let living: Vec<ProcessId> = own.chain(self.orphans.all.iter().map(|orphan| orphan.process)).collect();
        self.acquaintance.owed.retain(|process, _| living.contains(process));
        self.acquaintance.gathering.take_if(|process| !living.contains(process));
        if !self.acquaintance.owed.is_empty() || !self.acquaintance.untold.is_empty() {
            return;
        }
        while self.acquaintance.gathering.is_none()
            && let Some(next) = self.acquaintance.waiting.pop_front()
        {
            // A worker to which the order cannot be sent continues by itself after a while.
            let is_told = living.contains(&next) && world.tell(next, &Order::Gather);
            self.acquaintance.gathering = is_told.then_some(next);
        }
    }

    /// The time of the next attempt.
    pub(super) fn introduction_deadline(&self, now: Time) -> Option<Time> {
        (!self.acquaintance.untold.is_empty()).then(|| now.after_ms(SHARE_RETRY_MS))
    }
}
