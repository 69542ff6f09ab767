//! Messages between the workers of this server: channels to members, and from members.
//!
//! The module [`messages`](crate::messages) decides what is sent to whom, and what was heard; this file transports it.
//! A master has named each member, or it came through this worker's door, which only masters and workers have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::EventLoop;
use super::gathering::{Announced, Arrival, Departure};
use crate::context::Worker;
use crate::handover::Format;
use crate::ipc::channel::{self, hear_with, is_nonsense, tell, tell_with, tell_with_all};
use crate::ipc::meeting::{is_name, speak};
use crate::ipc::orders::{Member, Report};
use crate::messages::{Answer, Gate, Heard, Inbox, Misfit, PACKET_BYTES_MAX, Place, Sibling, VERSION, Who, Word};
use crate::protocol::Protocol;
use crate::sys::channel::{receive, receive_bytes, send};
use crate::sys::ring::Key;

/// Keys of polls: of channels to members, and of channels from them.
const TOLD: u32 = 0x40_0000;
const HEARD: u32 = 0x80_0000;
/// Added to a key: the poll for room to write.
const WRITABLE: u32 = 0x20_0000;
const _: () = assert!(SPEAKERS_MAX < WRITABLE && HEARD + SPEAKERS_MAX < crate::sys::ring::SLOTS_MAX);

/// Packets read from one channel before others have their turn.
const HEARD_PER_TURN: usize = 64;

/// Workers that may send to this one at the same time: more than there are.
const SPEAKERS_MAX: u32 = 4096;

/// Bytes kept of incomplete messages, of all senders together.
const PARTS_BYTES_MAX: usize = 256 << 20;

/// Pause before the next attempt at a full door, and how long attempts continue.
const DOOR_RETRY_NS: u64 = 2_000_000;
const DOOR_NS_MAX: u64 = 3_000_000_000;

/// A channel to a member.
struct Line {
    channel: OwnedFd,
    key: Key,
    /// A poll for room to write is armed.
    is_polled: bool,
}

/// A channel from a member.
struct Speaker {
    channel: OwnedFd,
    key: Key,
    inbox: Inbox,
    /// Its identity, once it has introduced itself.
    known: Option<(Sibling, String)>,
    /// There may be more to read.
    is_held: bool,
}

/// A member whose door was full.
struct Waiting {
    member: Who,
    door: OwnedFd,
    until_ns: u64,
}

/// What the loop holds for messages.
pub(super) struct Circle {
    told: BTreeMap<Place, Line>,
    heard: BTreeMap<u32, Speaker>,
    waiting: Vec<Waiting>,
    /// Distinguishes polls from those of earlier channels.
    sequence: u16,
    /// Number of senders that have ever connected.
    came: u64,
    /// Number of introduction orders that are not confirmed to the master yet.
    owed: u32,
    buffer: Vec<u8>,
    /// Reassembles the messages that this worker sends to itself.
    own_inbox: Inbox,
    pub(super) gate: Gate,
    /// How often this worker has begun to move its connections.
    pub(super) attempts: u32,
    pub(super) departure: Option<Departure>,
    pub(super) arrival: Option<Arrival>,
    /// Workers whose connections come next.
    pub(super) announced: VecDeque<Announced>,
    /// A step may be possible at the end of this turn.
    pub(super) is_due: bool,
}

impl Circle {
    /// For a worker whose door has this name.
    pub(super) fn new(name: &str) -> Self {
        Self {
            told: BTreeMap::new(),
            heard: BTreeMap::new(),
            waiting: Vec::new(),
            sequence: 0,
            came: 0,
            owed: 0,
            buffer: Vec::new(),
            own_inbox: Inbox::new(usize::MAX),
            gate: Gate::new(name.to_owned()),
            attempts: 0,
            departure: None,
            arrival: None,
            announced: VecDeque::new(),
            is_due: false,
        }
    }

    fn next_key(&mut self, slot: u32) -> Key {
        self.sequence = self.sequence.wrapping_add(1);
        Key { slot, generation: self.sequence }
    }

    fn speaker_at(&self, key: Key) -> Option<u32> {
        let number = key.slot.checked_sub(HEARD)?;
        self.heard.get(&number).filter(|speaker| speaker.key == key).map(|_| number)
    }

    fn is_known(&self, name: &str) -> bool {
        self.heard.values().filter_map(|speaker| speaker.known.as_ref()).any(|(_, known)| known == name)
    }

    /// Asks all senders for a mark and gives them the heir's door.
    pub(super) fn ask_for_marks(&self, mark: &Answer, door: Option<BorrowedFd<'_>>) {
        self.heard.keys().for_each(|number| self.ask_for_mark(*number, mark, door));
    }

    pub(super) fn ask_for_mark(&self, number: u32, mark: &Answer, door: Option<BorrowedFd<'_>>) {
        if let Some(speaker) = self.heard.get(&number).filter(|speaker| speaker.known.is_some()) {
            // If the channel is full, this sender does not mark in time.
            let _ = tell_with_all(&speaker.channel, mark, door.as_slice());
        }
    }

    /// Whether this worker must not hear its own messages now.
    fn holds_self(&self) -> bool {
        self.gate.is_active() && self.gate.holds_own()
    }

    /// Whether nothing more may be read from this sender now.
    fn holds(&self, speaker: &Speaker) -> bool {
        self.gate.is_active() && speaker.known.as_ref().is_some_and(|(_, name)| self.gate.holds(name))
    }

    /// Senders that were held and may be read again.
    pub(super) fn released(&self) -> BTreeSet<u32> {
        let released = self.heard.iter().filter(|(_, speaker)| speaker.is_held && !self.holds(speaker));
        released.map(|(number, _)| *number).collect()
    }

    /// The slots of senders whose mark is missing; `None` for one that is not connected.
    pub(super) fn missing(&self) -> Vec<Option<usize>> {
        let known = || self.heard.values().filter_map(|speaker| speaker.known.as_ref());
        let slot = |name: &String| known().find(|(_, one)| one == name).map(|(sibling, _)| sibling.slot);
        self.gate.missing().map(slot).collect()
    }

    fn parts_bytes(&self) -> usize {
        self.heard.values().map(|speaker| speaker.inbox.held_bytes()).sum()
    }
}

/// What happens to a channel after a packet.
enum Then {
    Continue,
    End,
}

impl<P: Protocol> EventLoop<P> {
    /// Handles the master's introduction of members, whose doors come one by one.
    pub(super) fn hear_siblings(&mut self, members: Vec<Member>, doors: Vec<OwnedFd>) {
        self.hear_members(members, doors);
        self.circle.owed += 1;
    }

    fn hear_members(&mut self, members: Vec<Member>, doors: Vec<OwnedFd>) {
        for (member, door) in members.into_iter().zip(doors).filter(|(member, _)| member.is_possible()) {
            let Member { name, slot, generation } = member;
            self.greet(Who { name, slot, generation }, door, self.context.now_ns + DOOR_NS_MAX);
        }
    }

    /// Reports to the master that the named members hear this worker, or are gone.
    fn report_acquainted(&mut self) {
        let are_welcome = self.context.siblings.as_ref().is_none_or(|siblings| siblings.are_all_welcome());
        if self.circle.owed > 0 && are_welcome && self.circle.waiting.is_empty() {
            (0..std::mem::take(&mut self.circle.owed)).for_each(|_| {
                let _ = tell(&self.control, &Report::Acquainted);
            });
        }
    }

    /// Opens a channel to a member, unless there is one, and introduces this worker.
    fn greet(&mut self, member: Who, door: OwnedFd, until_ns: u64) {
        let (Some(siblings), Some(format)) = (&mut self.context.siblings, P::MESSAGES) else { return };
        let Some((own_name, own_door)) = self.moving.door() else { return };
        let Some(place) = siblings.join(member.clone()) else { return };
        let hello = Word::Hello {
            version: VERSION,
            name: own_name.to_owned(),
            slot: self.context.slot,
            generation: self.generation,
            format: format.name.to_owned(),
            format_version: format.version,
        };
        let spoken = speak(door.as_fd());
        match spoken.and_then(|channel| tell_with(&channel, &hello, own_door).map(|()| channel)) {
            Ok(channel) => {
                let key = self.circle.next_key(TOLD + place.0);
                self.ring.poll(channel.as_fd(), key);
                self.circle.told.insert(place, Line { channel, key, is_polled: false });
            }
            Err(error) => {
                siblings.part(place);
                if error.kind() == io::ErrorKind::WouldBlock && self.context.now_ns < until_ns {
                    return self.circle.waiting.push(Waiting { member, door, until_ns });
                }
                let (slot, sibling) = (self.context.slot, member.slot);
                tracing::debug!(slot, sibling, %error, "cannot reach another worker, which is gone or leaving");
            }
        }
    }

    /// Handles a worker that has connected to send messages.
    pub(super) fn open_speaker(&mut self, channel: OwnedFd) {
        if P::MESSAGES.is_none() {
            return;
        }
        let Some(number) = (0..SPEAKERS_MAX).find(|number| !self.circle.heard.contains_key(number)) else { return };
        let key = self.circle.next_key(HEARD + number);
        self.ring.poll(channel.as_fd(), key);
        let inbox = Inbox::new(self.context.limits.sibling_message_bytes_max);
        self.circle.heard.insert(number, Speaker { channel, key, inbox, known: None, is_held: false });
    }

    /// Handles a poll of this part. Returns `false` if the poll belongs to another part.
    pub(super) fn sibling_readable(&mut self, key: Key, more: bool) -> bool {
        let own = Key { slot: key.slot & !WRITABLE, ..key };
        if own.slot < TOLD {
            return false;
        }
        if let Some(number) = self.circle.speaker_at(own) {
            if !more {
                self.ring.poll(self.circle.heard[&number].channel.as_fd(), own);
            }
            self.hear_speaker(number);
            return true;
        }
        let place = Place(own.slot - TOLD);
        // Polls of an earlier channel may still fire.
        let Some(line) = self.circle.told.get_mut(&place).filter(|line| line.key == own) else { return true };
        if key == own {
            if !more {
                self.ring.poll(line.channel.as_fd(), own);
            }
            self.hear_answers(place);
        } else {
            line.is_polled = false;
            self.flush_sibling(place);
            self.tell_room();
        }
        true
    }

    fn hear_answers(&mut self, place: Place) {
        for _ in 0..HEARD_PER_TURN {
            let Some(heard) = self.circle.told.get(&place).map(|line| hear_with::<Answer>(&line.channel)) else {
                return;
            };
            let Some(siblings) = &mut self.context.siblings else { return };
            match heard {
                Ok((channel::Heard::Message(Answer::Welcome), _)) => {
                    siblings.welcomed(place);
                    self.flush_sibling(place);
                }
                Ok((channel::Heard::Message(Answer::Mark { to, slot, generation, attempt }), door)) if is_name(&to) => {
                    siblings.mark(place, to.clone(), attempt);
                    let heir = Member { name: to, slot, generation };
                    self.hear_members(vec![heir], door.into_iter().collect());
                }
                Ok((channel::Heard::Message(Answer::Leaves), _)) => siblings.leaves(place),
                Ok((channel::Heard::Message(Answer::Refused { why }), _)) => {
                    let sibling = siblings.identity(place).map(|member| member.slot);
                    tracing::warn!(slot = self.context.slot, sibling, "cannot send messages to another worker: {why}");
                    return self.lose_sibling(place);
                }
                Ok((channel::Heard::Message(Answer::Mark { .. } | Answer::Unknown), _)) => {}
                Ok((channel::Heard::Nothing, _)) => return,
                Err(error) if is_nonsense(&error) => {}
                Ok((channel::Heard::End, _)) | Err(_) => return self.lose_sibling(place),
            }
        }
        // The rest is read in the next turn: a new poll fires at once.
        let key = self.circle.next_key(TOLD + place.0);
        let Some(line) = self.circle.told.get_mut(&place) else { return };
        self.ring.cancel_poll(line.key);
        if std::mem::take(&mut line.is_polled) {
            self.ring.cancel_poll(writable(line.key));
        }
        line.key = key;
        self.ring.poll(line.channel.as_fd(), key);
        self.flush_sibling(place);
    }

    /// Removes a member that is gone, or that gets no more messages.
    fn lose_sibling(&mut self, place: Place) {
        self.context.siblings.iter_mut().for_each(|siblings| siblings.part(place));
        let Some(line) = self.circle.told.remove(&place) else { return };
        self.ring.cancel_poll(line.key);
        if line.is_polled {
            self.ring.cancel_poll(writable(line.key));
        }
    }

    fn hear_speaker(&mut self, number: u32) {
        let mut buffer = std::mem::take(&mut self.circle.buffer);
        buffer.resize(PACKET_BYTES_MAX, 0);
        let is_over = self.hear_packets(number, &mut buffer);
        self.settle_touched();
        self.circle.buffer = buffer;
        if !is_over {
            self.hear_again(number);
        }
    }

    /// Arranges that the rest, if any, is read in the next turn: a new poll fires at once.
    pub(super) fn hear_again(&mut self, number: u32) {
        let key = self.circle.next_key(HEARD + number);
        let Some(speaker) = self.circle.heard.get_mut(&number) else { return };
        self.ring.cancel_poll(speaker.key);
        (speaker.key, speaker.is_held) = (key, false);
        self.ring.poll(speaker.channel.as_fd(), key);
    }

    /// Returns `false` if there is more to read in the next turn.
    fn hear_packets(&mut self, number: u32, buffer: &mut [u8]) -> bool {
        for _ in 0..HEARD_PER_TURN {
            let Some(speaker) = self.circle.heard.get(&number) else { return true };
            let is_held = self.circle.holds(speaker);
            let Some(speaker) = self.circle.heard.get_mut(&number) else { return true };
            speaker.is_held = is_held;
            if is_held {
                return true;
            }
            let received = if speaker.known.is_some() {
                receive_bytes(speaker.channel.as_fd(), buffer).map(|length| (length, Vec::new()))
            } else {
                receive(speaker.channel.as_fd(), buffer)
            };
            let then = match received {
                Ok((0, _)) => Then::End,
                Ok((length, doors)) => self.hear_packet(number, &buffer[..length], doors),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Then::Continue,
                Err(_) => Then::End,
            };
            if matches!(then, Then::End) {
                self.close_speaker(number);
                return true;
            }
        }
        false
    }

    fn close_speaker(&mut self, number: u32) {
        if let Some(speaker) = self.circle.heard.remove(&number) {
            self.ring.cancel_poll(speaker.key);
            if let Some((_, name)) = &speaker.known {
                self.circle.gate.ended(name);
                self.circle.is_due = true;
            }
        }
    }

    fn hear_packet(&mut self, number: u32, packet: &[u8], doors: Vec<OwnedFd>) -> Then {
        self.context.page.events.add(1);
        let slot = self.context.slot;
        let Some(speaker) = self.circle.heard.get_mut(&number) else { return Then::End };
        let known = speaker.known.as_ref().map(|(sibling, _)| *sibling);
        match (speaker.inbox.take(packet), known) {
            (Ok(Heard::Messages(messages)), Some(from)) => {
                let mut count = 0;
                for message in messages {
                    count += 1;
                    let mut all = self.slab.all();
                    let worker = &mut Worker::new(&mut self.context, &self.inbox, &mut all);
                    self.protocol.on_sibling_message(from, message, worker);
                }
                self.context.page.sibling_messages_heard.add(count);
                Then::Continue
            }
            (Ok(Heard::Large(message)), Some(from)) => {
                self.call(|protocol, worker| protocol.on_sibling_message(from, &message, worker));
                self.context.page.sibling_messages_heard.add(1);
                Then::Continue
            }
            (Ok(Heard::TooLarge(bytes)), Some(from)) => {
                tracing::warn!(slot, %from, bytes, "dropped a message larger than sibling_message_bytes_max");
                Then::Continue
            }
            (Ok(Heard::Word(hello @ Word::Hello { .. })), None) => self.welcome(number, hello, doors),
            (Ok(Heard::Word(word @ (Word::Mark { .. } | Word::Began { .. } | Word::Moved { .. }))), Some(_)) => {
                if let Some((_, name)) = &speaker.known {
                    self.circle.gate.read(name, &word);
                    self.circle.is_due = true;
                }
                Then::Continue
            }
            (Ok(Heard::Word(Word::Unknown) | Heard::Nothing), Some(from)) => {
                if self.circle.parts_bytes() <= PARTS_BYTES_MAX {
                    return Then::Continue;
                }
                tracing::warn!(slot, %from, "too many incomplete messages from other workers; ignoring one of these workers from now on");
                Then::End
            }
            (Ok(_), _) => Then::End,
            (Err(nonsense), from) => {
                let from = from.map(|from| from.to_string());
                tracing::warn!(slot, from, "ignoring another worker from now on: {nonsense}");
                Then::End
            }
        }
    }

    /// A worker introduces itself.
    fn welcome(&mut self, number: u32, hello: Word, doors: Vec<OwnedFd>) -> Then {
        let Word::Hello { version, name, slot, generation, format, format_version } = hello else { return Then::End };
        let own = P::MESSAGES.map(|own| Format::new(own, P::MESSAGES_READS));
        let is_stranger = !is_name(&name) || self.circle.is_known(&name);
        let Some(speaker) = self.circle.heard.get_mut(&number).filter(|_| !is_stranger) else { return Then::End };
        let misfit = if version != VERSION {
            Some(Misfit::Version)
        } else if own.as_ref().is_none_or(|own| own.name != format) {
            Some(Misfit::Format)
        } else if own.is_none_or(|own| !own.reads.contains(&format_version)) {
            Some(Misfit::FormatVersion)
        } else {
            None
        };
        if let Some(why) = misfit {
            let theirs = format!("{format} version {format_version}");
            tracing::warn!(
                slot = self.context.slot,
                sibling = slot,
                theirs,
                "ignoring messages of another worker: {why}"
            );
        }
        self.circle.came += 1;
        speaker.known = misfit.is_none().then(|| (Sibling { slot, number: self.circle.came }, name.clone()));
        if misfit.is_none() {
            self.circle.gate.came(&name);
        }
        // This worker opens a channel to every sender, whether a master has named it or not. It does so before it
        // welcomes the sender, so that the channel exists when this worker reports that it knows all.
        if let Some(door) = doors.into_iter().next() {
            self.greet(Who { name, slot, generation }, door, self.context.now_ns + DOOR_NS_MAX);
        }
        let Some(speaker) = self.circle.heard.get(&number) else { return Then::End };
        let answer = misfit.map_or(Answer::Welcome, |why| Answer::Refused { why });
        if tell(&speaker.channel, &answer).is_err() || misfit.is_some() {
            return Then::End;
        }
        if self.lifecycle.was_told() && !self.moving.sender.is_on() {
            let _ = tell(&speaker.channel, &Answer::Leaves);
        }
        self.ask_newcomer(number);
        Then::Continue
    }

    /// At the end of a turn: sends the messages, and hears this worker's own messages to all.
    pub(super) fn settle_siblings(&mut self) {
        let now_ns = self.context.now_ns;
        for Waiting { member, door, until_ns } in std::mem::take(&mut self.circle.waiting) {
            self.greet(member, door, until_ns);
        }
        self.report_acquainted();
        let Some(siblings) = &mut self.context.siblings else { return };
        if siblings.next_ns().is_some_and(|at_ns| at_ns <= now_ns) {
            self.drop_silent();
        }
        let is_late = self.next_gathering_ns().is_some_and(|at_ns| at_ns <= now_ns);
        if self.circle.is_due || is_late {
            self.settle_gathering();
        }
        self.flush_said();
        self.read_on();
        self.tell_room();
    }

    /// Sends the messages of this turn.
    pub(super) fn flush_said(&mut self) {
        let Some(siblings) = self.context.siblings.as_mut().filter(|siblings| siblings.has_staged()) else { return };
        let sendable = siblings.seal(self.context.now_ns);
        sendable.into_iter().for_each(|place| self.flush_sibling(place));
    }

    /// Sends what waits for a member, as far as there is room.
    fn flush_sibling(&mut self, place: Place) {
        let Some(siblings) = &mut self.context.siblings else { return };
        let Some(line) = self.circle.told.get_mut(&place).filter(|line| !line.is_polled) else { return };
        while let Some(packet) = siblings.next(place) {
            match send(line.channel.as_fd(), packet, &[]) {
                Ok(()) => siblings.sent(place, self.context.now_ns),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    line.is_polled = true;
                    return self.ring.poll_writable(line.channel.as_fd(), writable(line.key));
                }
                // The end of its channel shows that the member is gone.
                Err(_) => return self.lose_sibling(place),
            }
        }
    }

    pub(super) fn hear_self(&mut self) {
        let Some(siblings) = &self.context.siblings else { return };
        let from = Sibling { slot: siblings.own().slot, number: 0 };
        let mut inbox = std::mem::replace(&mut self.circle.own_inbox, Inbox::new(usize::MAX));
        // Messages that are sent meanwhile are not sealed yet.
        while !self.circle.holds_self()
            && let Some(packet) = self.context.siblings.as_mut().and_then(|siblings| siblings.take_own())
        {
            match inbox.take(&packet) {
                Ok(Heard::Word(word)) => {
                    self.circle.gate.read_own(&word);
                    self.circle.is_due = true;
                }
                Ok(Heard::Messages(messages)) => {
                    for message in messages {
                        self.call(|protocol, worker| protocol.on_sibling_message(from, message, worker));
                    }
                }
                Ok(Heard::Large(message)) => {
                    self.call(|protocol, worker| protocol.on_sibling_message(from, &message, worker));
                }
                _ => {}
            }
            if let Some(siblings) = &mut self.context.siblings {
                siblings.reuse(packet);
            }
        }
        self.circle.own_inbox = inbox;
    }

    /// Tells connections that were refused for lack of room that there is room again.
    fn tell_room(&mut self) {
        if self.context.siblings.as_mut().is_some_and(|siblings| siblings.settle()) {
            self.call(Protocol::on_siblings_writable);
        }
    }

    fn drop_silent(&mut self) {
        let Some(siblings) = &self.context.siblings else { return };
        for place in siblings.silent(self.context.now_ns) {
            let sibling = self.context.siblings.as_ref().and_then(|all| all.identity(place)).map(|member| member.slot);
            tracing::error!(slot = self.context.slot, sibling, "another worker reads no messages and gets no more");
            self.context.page.siblings_dropped.add(1);
            self.lose_sibling(place);
        }
        self.tell_room();
    }

    /// Announces that this worker leaves: others send their messages to its heir.
    pub(super) fn tell_leave(&mut self) {
        self.context.siblings.iter_mut().for_each(|siblings| siblings.leave());
        for speaker in self.circle.heard.values() {
            let _ = tell(&speaker.channel, &Answer::Leaves);
        }
    }

    /// Whether messages wait to be sent, or to be heard here, in the next turn.
    pub(super) fn has_said(&self) -> bool {
        self.circle.is_due || self.context.siblings.as_ref().is_some_and(|siblings| siblings.has_staged())
    }

    /// Whether all messages to others have been sent.
    pub(super) fn has_told_siblings(&self) -> bool {
        self.context.siblings.as_ref().is_none_or(|siblings| siblings.is_flushed())
    }

    /// The latest time at which [`EventLoop::settle_siblings`] has something to do.
    pub(super) fn next_sibling_ns(&self) -> Option<u64> {
        let retry = (!self.circle.waiting.is_empty()).then_some(self.context.now_ns + DOOR_RETRY_NS);
        let silence = self.context.siblings.as_ref().and_then(|siblings| siblings.next_ns());
        silence.into_iter().chain(retry).chain(self.next_gathering_ns()).min()
    }
}

fn writable(key: Key) -> Key {
    Key { slot: key.slot + WRITABLE, ..key }
}
