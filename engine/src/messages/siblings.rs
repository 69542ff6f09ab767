//! The members among a server's workers as one of them sees them, and what waits to be sent to each.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::mutation::{Mutation, is_put_back};
use super::outgoing::{Audience, Outgoing};
use super::packet::cost;
use super::{SendError, Word};
use crate::config::Limits;

/// A member that reads nothing for this time gets no more messages.
const SILENCE_NS_MAX: u64 = 10_000_000_000;

/// The most members to which one worker sends: more than there are workers.
const MEMBERS_MAX: usize = 4096;

/// A member, by the number that this worker has given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place(pub(crate) u32);

/// This worker.
pub(crate) const SELF: Place = Place(0);

/// The identity of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    /// The name of its door; empty if it has none and only sends to itself.
    pub(crate) name: String,
    pub(crate) slot: usize,
    pub(crate) generation: u32,
}

#[derive(Debug)]
struct Member {
    identity: Who,
    /// When it came, counted among all members.
    since: u64,
    /// It has answered that it understands.
    is_welcome: bool,
    /// It is leaving: another member with its slot is preferred.
    leaves: bool,
    /// The member that has its connections.
    heir: Option<Place>,
    queue: VecDeque<Rc<Vec<u8>>>,
    queued_bytes: usize,
    /// Bytes for it alone that are not in its queue yet.
    staged_bytes: usize,
    /// The first packet of this turn that it gets: earlier ones were begun before it came.
    first_packet: usize,
    /// Since when it has read nothing of its queue.
    silent_since_ns: Option<u64>,
}

impl Member {
    fn new(identity: Who, since: u64) -> Self {
        Self {
            identity,
            since,
            is_welcome: false,
            leaves: false,
            heir: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            staged_bytes: 0,
            first_packet: 0,
            silent_since_ns: None,
        }
    }

    fn bytes(&self) -> usize {
        self.queued_bytes + self.staged_bytes
    }
}

/// The members that one worker knows.
#[derive(Debug)]
pub(crate) struct Siblings {
    message_bytes_max: usize,
    queue_bytes_max: usize,
    /// The number of the next message.
    number: u64,
    /// All members, including this worker.
    members: BTreeMap<Place, Member>,
    /// Number of members that have ever joined.
    came: u64,
    outgoing: Outgoing,
    /// Bytes for all that are not in the queues yet.
    staged_bytes: usize,
    /// Bytes that wait for the member with the fullest queue, not counting `staged_bytes`.
    fullest_bytes: usize,
    /// A sender was refused for lack of room.
    has_refused: bool,
    /// Slots of workers that have gone, and the members that have their connections.
    inherited: BTreeMap<usize, Place>,
    /// Members that want a mark for an heir that is not known yet.
    unmarked: Vec<(Place, String, u32)>,
}

impl Siblings {
    pub(crate) fn new(own: Who, limits: &Limits) -> Self {
        let (message_bytes_max, queue_bytes_max) = (limits.sibling_message_bytes_max, limits.sibling_queue_bytes_max);
        let own = Member { is_welcome: true, ..Member::new(own, 0) };
        Self {
            message_bytes_max,
            queue_bytes_max,
            number: 1,
            members: BTreeMap::from([(SELF, own)]),
            came: 0,
            outgoing: Outgoing::default(),
            staged_bytes: 0,
            fullest_bytes: 0,
            has_refused: false,
            inherited: BTreeMap::new(),
            unmarked: Vec::new(),
        }
    }

    pub(crate) fn own(&self) -> &Who {
        &self.members[&SELF].identity
    }

    pub(crate) fn identity(&self, place: Place) -> Option<&Who> {
        self.members.get(&place).map(|member| &member.identity)
    }

    /// Slots to which messages can be sent, in order.
    pub(crate) fn slots(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = self.members.values().map(|member| member.identity.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// This worker is leaving.
    pub(crate) fn leave(&mut self) {
        self.leaves(SELF);
    }

    /// A member is leaving.
    pub(crate) fn leaves(&mut self, place: Place) {
        self.members.get_mut(&place).into_iter().for_each(|member| member.leaves = true);
    }

    /// Adds a member to which messages can be sent; `None` if it is already known, or there are too many.
    pub(crate) fn join(&mut self, identity: Who) -> Option<Place> {
        let is_known = self.members.values().any(|member| member.identity.name == identity.name);
        if is_known || self.members.len() > MEMBERS_MAX {
            return None;
        }
        let place = (1..).map(Place).find(|place| !self.members.contains_key(place))?;
        self.inherited.remove(&identity.slot);
        self.came += 1;
        let first_packet = self.outgoing.close();
        self.members.insert(place, Member { first_packet, ..Member::new(identity, self.came) });
        for (leaver, to, attempt) in std::mem::take(&mut self.unmarked) {
            self.mark(leaver, to, attempt);
        }
        Some(place)
    }

    /// The member with this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Who> {
        self.place_of(name).and_then(|place| self.identity(place))
    }

    pub(crate) fn place_of(&self, name: &str) -> Option<Place> {
        self.members.iter().find(|(_, member)| member.identity.name == name).map(|(place, _)| *place)
    }

    /// A member, or this worker, is leaving and gives its connections to the member with this name: marks the place in
    /// the messages to both. If the heir is not known yet, this happens when it comes.
    pub(crate) fn mark(&mut self, leaver: Place, to: String, attempt: u32) {
        let Some(heir) = self.place_of(&to) else {
            if self.members.contains_key(&leaver) && self.unmarked.len() < MEMBERS_MAX {
                self.unmarked.push((leaver, to, attempt));
            }
            return;
        };
        // A member that asks again and again gets no mark.
        let is_full = |place: &Place| self.members.get(place).is_none_or(|one| one.bytes() > self.queue_bytes_max);
        if heir == leaver || [leaver, heir].iter().any(is_full) {
            return;
        }
        let Some(member) = self.members.get_mut(&leaver) else { return };
        (member.leaves, member.heir) = (true, Some(heir).filter(|_| !is_put_back(Mutation::SlotStays)));
        let word = Word::Mark { of: member.identity.name.clone(), attempt };
        self.say_word(Audience::One(leaver), &word);
        self.say_word(Audience::One(heir), &word);
    }

    /// Tells all that the following messages may be from connections of this leaving worker.
    pub(crate) fn began(&mut self, of: String, attempt: u32) {
        self.say_word(Audience::All, &Word::Began { of, attempt });
    }

    /// Tells all that the connections of this worker send no more messages here.
    pub(crate) fn moved(&mut self, attempt: u32) {
        self.say_word(Audience::All, &Word::Moved { attempt });
    }

    fn say_word(&mut self, audience: Audience, word: &Word) {
        if let Ok(packet) = serde_json::to_vec(word) {
            self.outgoing.add_word(audience, packet);
        }
    }

    /// A member has answered that it understands.
    pub(crate) fn welcomed(&mut self, place: Place) {
        self.members.get_mut(&place).into_iter().for_each(|member| member.is_welcome = true);
    }

    /// Removes a member that is gone. Messages on their way to it are lost.
    pub(crate) fn part(&mut self, place: Place) {
        debug_assert_ne!(place, SELF, "this worker is always a member");
        if let Some(Member { identity, heir: Some(heir), .. }) = self.members.remove(&place)
            && self.members.values().all(|member| member.identity.slot != identity.slot)
        {
            self.inherited.insert(identity.slot, heir);
        }
        self.inherited.retain(|_, heir| *heir != place);
        self.members.values_mut().for_each(|member| member.heir = member.heir.filter(|heir| *heir != place));
        self.unmarked.retain(|(leaver, ..)| *leaver != place);
        self.measure();
    }

    /// Sends a message to all members, including this worker.
    ///
    /// # Errors
    /// No member hears the message then.
    pub(crate) fn broadcast(&mut self, message: &[u8]) -> Result<(), SendError> {
        let bytes = self.check(message, self.fullest_bytes)?;
        self.staged_bytes += bytes;
        self.stage(Audience::All, message);
        Ok(())
    }

    /// Sends a message to the worker with this slot.
    ///
    /// # Errors
    /// That worker does not hear the message then.
    pub(crate) fn send(&mut self, slot: usize, message: &[u8]) -> Result<(), SendError> {
        let place = self.holder(slot).ok_or(SendError::NoSuchSlot)?;
        let bytes = self.check(message, self.members[&place].bytes())?;
        if let Some(member) = self.members.get_mut(&place) {
            member.staged_bytes += bytes;
            self.fullest_bytes = self.fullest_bytes.max(member.bytes());
        }
        self.stage(Audience::One(place), message);
        Ok(())
    }

    /// The member with this slot. Of two, the one that is not leaving; else the one that was here first.
    fn holder(&self, slot: usize) -> Option<Place> {
        let with_slot = self.members.iter().filter(|(_, member)| member.identity.slot == slot);
        let first = with_slot.min_by_key(|(_, member)| (member.leaves, member.identity.generation, member.since));
        match first {
            Some((place, member)) => Some(member.heir.unwrap_or(*place)),
            None => self.inherited.get(&slot).copied(),
        }
    }

    /// The bytes that a message needs, if there is room for them beside the bytes that wait.
    fn check(&mut self, message: &[u8], waiting: usize) -> Result<usize, SendError> {
        if message.len() > self.message_bytes_max {
            return Err(SendError::TooLarge);
        }
        let bytes = cost(message);
        if waiting + self.staged_bytes + bytes > self.queue_bytes_max {
            self.has_refused = true;
            return Err(SendError::Full);
        }
        Ok(bytes)
    }

    fn stage(&mut self, audience: Audience, message: &[u8]) {
        self.outgoing.add(audience, self.number, message);
        self.number += 1;
    }

    /// Whether messages were sent that are not in the queues yet.
    pub(crate) fn has_staged(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Ends a turn: moves its messages to the queues. Returns the members with messages that can be sent.
    pub(crate) fn seal(&mut self, now_ns: u64) -> Vec<Place> {
        for (index, (audience, packet)) in self.outgoing.take().enumerate() {
            match audience {
                Audience::All => {
                    let members = self.members.values_mut().filter(|member| member.first_packet <= index);
                    members.for_each(|member| member.push(Rc::clone(&packet), now_ns));
                }
                Audience::One(place) => {
                    self.members.get_mut(&place).into_iter().for_each(|member| member.push(Rc::clone(&packet), now_ns));
                }
            }
            self.outgoing.reuse(packet);
        }
        self.staged_bytes = 0;
        self.members.values_mut().for_each(|member| (member.staged_bytes, member.first_packet) = (0, 0));
        self.measure();
        let others = self.members.iter().filter(|(place, member)| **place != SELF && member.next().is_some());
        others.map(|(place, _)| *place).collect()
    }

    /// The next packet for a member, if the member may get it now.
    pub(crate) fn next(&self, place: Place) -> Option<&[u8]> {
        self.members.get(&place)?.next().map(|packet| packet.as_slice())
    }

    /// A member has taken the next packet.
    pub(crate) fn sent(&mut self, place: Place, now_ns: u64) {
        let Some(member) = self.members.get_mut(&place) else { return };
        if let Some(packet) = member.take() {
            member.silent_since_ns = (!member.queue.is_empty()).then_some(now_ns);
            self.outgoing.reuse(packet);
        }
    }

    /// Takes the next packet that this worker has sent to itself.
    pub(crate) fn take_own(&mut self) -> Option<Rc<Vec<u8>>> {
        self.members.get_mut(&SELF).and_then(Member::take)
    }

    /// Takes back a packet that was heard.
    pub(crate) fn reuse(&mut self, packet: Rc<Vec<u8>>) {
        self.outgoing.reuse(packet);
    }

    /// Packets were sent. Returns whether a sender that was refused for lack of room can continue.
    pub(crate) fn settle(&mut self) -> bool {
        self.measure();
        let has_room = self.fullest_bytes + self.staged_bytes <= self.queue_bytes_max / 2;
        has_room && std::mem::take(&mut self.has_refused)
    }

    fn measure(&mut self) {
        self.fullest_bytes = self.members.values().map(Member::bytes).max().unwrap_or_default();
    }

    /// Whether all members have answered that they understand.
    pub(crate) fn are_all_welcome(&self) -> bool {
        self.members.values().all(|member| member.is_welcome)
    }

    /// Whether all messages to others have been sent.
    pub(crate) fn is_flushed(&self) -> bool {
        let mut others = self.members.iter().filter(|(place, _)| **place != SELF);
        !self.has_staged() && others.all(|(_, member)| member.queue.is_empty())
    }

    /// Members that have read nothing for too long.
    pub(crate) fn silent(&self, now_ns: u64) -> Vec<Place> {
        let is_late = |member: &Member| member.late_ns().is_some_and(|late_ns| late_ns <= now_ns);
        self.others().filter(|(_, member)| is_late(member)).map(|(place, _)| *place).collect()
    }

    /// When [`Siblings::silent`] may have a member to return.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.others().filter_map(|(_, member)| member.late_ns()).min()
    }

    fn others(&self) -> impl Iterator<Item = (&Place, &Member)> {
        self.members.iter().filter(|(place, _)| **place != SELF)
    }
}

impl Member {
    fn push(&mut self, packet: Rc<Vec<u8>>, now_ns: u64) {
        self.queued_bytes += packet.len();
        self.queue.push_back(packet);
        self.silent_since_ns.get_or_insert(now_ns);
    }

    fn next(&self) -> Option<&Rc<Vec<u8>>> {
        self.queue.front().filter(|_| self.is_welcome)
    }

    fn take(&mut self) -> Option<Rc<Vec<u8>>> {
        let packet = self.queue.pop_front()?;
        self.queued_bytes -= packet.len();
        Some(packet)
    }

    fn late_ns(&self) -> Option<u64> {
        self.silent_since_ns.map(|since_ns| since_ns.saturating_add(SILENCE_NS_MAX))
    }
}
