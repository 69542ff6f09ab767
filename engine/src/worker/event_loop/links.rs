//! Channels to workers that receive connections, and from those that bring some: their polls, and the messages on them.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::EventLoop;
use super::giving::Counting;
use crate::context::Alarm;
use crate::context::timer_wheel::TimerId;
use crate::handover::limits::GIVE_MS_MAX;
use crate::handover::receiver::{self, Receiver, Visitor};
use crate::handover::sender::{self, Heir, Sender};
use crate::ipc::meeting::{Came, Meeting};
use crate::ipc::transfer::{Arrival, Channel, Heard};
use crate::protocol::Protocol;
use crate::sys::ring::Key;
use crate::worker::inspection::Noted;

/// Keys of polls: the door at which others arrive and, from `VISITORS` on, visitors and the workers that are visited.
const MEETING: Key = Key { slot: 4, generation: 0 };
const VISITORS: u32 = 0x1_0000;
const HEIRS: u32 = 0x2_0000;
/// Added to a key: the poll for room to write.
const WRITABLE: u32 = 0x4_0000;

/// Messages read from one channel before others have their turn.
const HEARD_PER_TURN: usize = 64;

/// Number of visitors at the same time: more than there are workers.
const VISITORS_MAX: u32 = 4096;

/// Visitors that are accepted in one turn. The others are accepted in the next.
const VISITORS_PER_TURN: usize = 16;

/// The worker at the other end of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Other {
    Visitor(Visitor),
    Heir(Heir),
}

impl Other {
    fn slot(self) -> u32 {
        match self {
            Self::Visitor(Visitor(number)) => VISITORS + number,
            Self::Heir(Heir(number)) => HEIRS + number,
        }
    }

    fn at(slot: u32) -> Option<Self> {
        match slot {
            HEIRS.. => Some(Self::Heir(Heir(slot - HEIRS))),
            VISITORS.. => Some(Self::Visitor(Visitor(slot - VISITORS))),
            _ => None,
        }
    }
}

/// A channel that the loop serves.
pub(super) struct Link {
    pub(super) channel: Channel,
    key: Key,
    /// A poll for room to write is armed.
    is_polled: bool,
    /// What the visitor offered on it, until it is thawed.
    pub(super) arrival: Option<Arrival>,
    /// The time by which the visitor must give what it offered.
    give_time_out: Option<TimerId>,
    /// A visitor may bring state only once.
    has_brought_state: bool,
}

/// The machines that decide about moves, and what the loop holds for them.
pub(super) struct Moving {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// Commands still to be carried out; see [`EventLoop::carry_out`].
    pub(super) departures: VecDeque<sender::Command>,
    pub(super) arrivals: VecDeque<receiver::Command>,
    pub(super) is_carrying_out: bool,
    /// What each connection had done when that was last noted, and the time of that note.
    pub(super) noted: Noted,
    pub(super) noted_at_ns: u64,
    /// Connections will be given away as soon as their activity is known.
    pub(super) counting: Option<Counting>,
    /// The share of the worker's work that the chosen connections cause.
    pub(super) chosen_ppm: u32,
    meeting: Option<Meeting>,
    /// More visitors wait than could be accepted in the last turn.
    pub(super) has_more_visitors: bool,
    /// Heirs by the names of their doors, with the doors of those that may still be visited. An heir is an index of
    /// this list.
    doors: Vec<(String, Option<OwnedFd>)>,
    /// Heirs whose doors were full, and the time until which they are tried again.
    pub(super) full: Vec<(Heir, u64)>,
    pub(super) links: BTreeMap<Other, Link>,
    /// Distinguishes polls from those of earlier channels.
    sequence: u16,
}

impl Moving {
    pub(super) fn new(sender: Sender, receiver: Receiver, meeting: Option<Meeting>) -> Self {
        Self {
            sender,
            receiver,
            departures: VecDeque::new(),
            arrivals: VecDeque::new(),
            is_carrying_out: false,
            noted: Noted::default(),
            noted_at_ns: 0,
            counting: None,
            chosen_ppm: 0,
            meeting,
            has_more_visitors: false,
            doors: Vec::new(),
            full: Vec::new(),
            links: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// This worker's door and its name.
    pub(super) fn door(&self) -> Option<(&str, BorrowedFd<'_>)> {
        self.meeting.as_ref().map(|meeting| (meeting.name(), meeting.door()))
    }

    pub(super) fn channel(&mut self, other: Other) -> Option<&mut Channel> {
        self.links.get_mut(&other).map(|link| &mut link.channel)
    }

    /// A key that no channel had recently.
    fn next_key(&mut self, other: Other) -> Key {
        self.sequence = self.sequence.wrapping_add(1);
        Key { slot: other.slot(), generation: self.sequence }
    }

    /// Whether connections are being given to another worker, or soon will be, while this one serves.
    #[inline]
    pub(super) fn gives(&self) -> bool {
        self.counting.is_some() || self.sender.is_giving()
    }

    /// Forgets the names of workers that got connections, when they are of no use any more.
    pub(super) fn forget_doors(&mut self) {
        let has_heirs = self.sender.has_heirs() || self.links.keys().any(|other| matches!(other, Other::Heir(_)));
        if self.sender.can_give() && !has_heirs && self.full.is_empty() {
            self.doors.clear();
        }
    }

    /// The heir with this name and door.
    pub(super) fn heir(&mut self, name: String, door: OwnedFd) -> Heir {
        let known = self.doors.iter().position(|(one, _)| *one == name);
        let place = known.unwrap_or_else(|| {
            self.doors.push((name, None));
            self.doors.len() - 1
        });
        let heir = Heir(place as u32);
        // The channel to a worker that was given some connections ends when this worker leaves, and then another one is
        // needed.
        if !self.links.contains_key(&Other::Heir(heir)) || self.sender.is_giving() {
            self.keep_door(heir, door);
        }
        heir
    }

    pub(super) fn keep_door(&mut self, heir: Heir, door: OwnedFd) {
        self.doors[heir.0 as usize].1 = Some(door);
    }

    /// The name of the heir's door, and the door if it is still here.
    pub(super) fn heir_door(&self, heir: Heir) -> Option<(&str, Option<BorrowedFd<'_>>)> {
        self.doors.get(heir.0 as usize).map(|(name, door)| (name.as_str(), door.as_ref().map(AsFd::as_fd)))
    }

    /// A door is used once, and by others to whom an heir has to be introduced: a worker may have few descriptors left.
    pub(super) fn take_door(&mut self, heir: Heir) -> Option<OwnedFd> {
        self.doors[heir.0 as usize].1.take()
    }
}

impl<P: Protocol> EventLoop<P> {
    pub(super) fn open_link(&mut self, other: Other, channel: Channel) {
        let key = self.moving.next_key(other);
        self.ring.poll(channel.descriptor(), key);
        let link =
            Link { channel, key, is_polled: false, arrival: None, give_time_out: None, has_brought_state: false };
        self.moving.links.insert(other, link);
    }

    pub(super) fn close_link(&mut self, other: Other) {
        let Some(link) = self.moving.links.remove(&other) else { return };
        self.ring.cancel_poll(link.key);
        if link.is_polled {
            self.ring.cancel_poll(writable(link.key));
        }
        link.give_time_out.into_iter().for_each(|timer| self.context.timers.cancel(timer));
    }

    /// An offer was accepted: the visitor must give it in time.
    pub(super) fn await_gift(&mut self, visitor: Visitor) {
        let Some(link) = self.moving.links.get_mut(&Other::Visitor(visitor)) else { return };
        let at_ns = self.context.now_ns + GIVE_MS_MAX * 1_000_000;
        let timer = self.context.timers.set(at_ns, Alarm::Gift { visitor: visitor.0 });
        link.give_time_out.replace(timer).into_iter().for_each(|earlier| self.context.timers.cancel(earlier));
    }

    /// The offer was given, or will not be given any more.
    fn end_gift(&mut self, visitor: Visitor) {
        let link = self.moving.links.get_mut(&Other::Visitor(visitor));
        let timer = link.and_then(|link| link.give_time_out.take());
        timer.into_iter().for_each(|timer| self.context.timers.cancel(timer));
    }

    /// The offer was not given in time. What was given meanwhile is still read, and then the end of the channel.
    pub(super) fn gift_timed_out(&mut self, visitor: Visitor) {
        let Some(link) = self.moving.links.get_mut(&Other::Visitor(visitor)) else { return };
        link.give_time_out = None;
        link.channel.refuse_more();
        tracing::warn!(
            slot = self.context.slot,
            "another worker offered connections but did not send them within {GIVE_MS_MAX} ms"
        );
    }

    /// Ensures that what had no room is sent later, or reports that everything was sent.
    pub(super) fn flush_link(&mut self, other: Other) {
        let Some(link) = self.moving.links.get_mut(&other) else { return };
        if !link.channel.is_flushed() {
            if !std::mem::replace(&mut link.is_polled, true) {
                self.ring.poll_writable(link.channel.descriptor(), writable(link.key));
            }
        } else if let Other::Heir(heir) = other {
            self.tell_sender(sender::Input::Sent(heir));
        }
    }

    pub(super) fn lose_link(&mut self, other: Other) {
        match other {
            Other::Visitor(visitor) => self.tell_receiver(receiver::Input::Ended(visitor)),
            Other::Heir(heir) => self.tell_sender(sender::Input::Ended(heir)),
        }
    }

    /// Handles a poll of this part. Returns `false` if the poll belongs to another part.
    pub(super) fn link_readable(&mut self, key: Key, more: bool) -> bool {
        let own = Key { slot: key.slot & !WRITABLE, ..key };
        if own == MEETING {
            if !more {
                self.open_to_visitors();
            }
            self.moving.has_more_visitors = true;
            return true;
        }
        let Some(other) = Other::at(own.slot) else { return false };
        // Polls of an earlier channel may still fire.
        let Some(link) = self.moving.links.get_mut(&other).filter(|link| link.key == own) else { return true };
        if key == own {
            if !more {
                self.ring.poll(link.channel.descriptor(), own);
            }
            self.hear_link(other);
        } else {
            link.is_polled = false;
            match link.channel.flush() {
                Ok(()) => self.flush_link(other),
                Err(_) => self.lose_link(other),
            }
        }
        true
    }

    fn hear_link(&mut self, other: Other) {
        for _ in 0..HEARD_PER_TURN {
            let Some(link) = self.moving.links.get_mut(&other) else { return };
            match (link.channel.hear(), other) {
                (Heard::Nothing, _) => return,
                (Heard::Unknown, _) => {}
                (Heard::Circle(message), other) => self.hear_circle(other, message),
                (Heard::Takes { batch, refused, open }, Other::Heir(heir)) => {
                    self.tell_sender(sender::Input::Takes { heir, batch, refused, open });
                }
                (Heard::Offer(arrival), Other::Visitor(visitor)) => self.offered(visitor, arrival),
                (Heard::Gives { batch }, Other::Visitor(visitor)) => {
                    self.end_gift(visitor);
                    self.tell_receiver(receiver::Input::Gives { visitor, batch });
                }
                (Heard::State { version, format, format_version }, Other::Visitor(_))
                    if !std::mem::replace(&mut link.has_brought_state, true) =>
                {
                    if self.take_state(other, version, &format, format_version).is_err() {
                        self.lose_link(other);
                    }
                }
                _ => self.lose_link(other),
            }
        }
        self.hear_later(other);
    }

    /// Arranges that the rest is read in the next turn: a new poll fires at once.
    fn hear_later(&mut self, other: Other) {
        let key = self.moving.next_key(other);
        let Some(link) = self.moving.links.get_mut(&other) else { return };
        self.ring.cancel_poll(link.key);
        let is_polled = std::mem::take(&mut link.is_polled);
        if is_polled {
            self.ring.cancel_poll(writable(link.key));
        }
        link.key = key;
        self.ring.poll(link.channel.descriptor(), key);
        if is_polled {
            self.flush_link(other);
        }
    }

    /// From now on others can bring connections.
    pub(super) fn open_to_visitors(&mut self) {
        if let Some(meeting) = &self.moving.meeting {
            self.ring.poll(meeting.descriptor(), MEETING);
        }
    }

    /// Accepts waiting visitors, some in each turn.
    pub(super) fn let_visitors_in(&mut self) {
        for _ in 0..VISITORS_PER_TURN {
            let Some(came) = self.moving.meeting.as_ref().and_then(Meeting::accept) else {
                self.moving.has_more_visitors = false;
                return;
            };
            let is_free = |number: &u32| !self.moving.links.contains_key(&Other::Visitor(Visitor(*number)));
            match came {
                Came::Visitor(channel) => {
                    // A visitor for which there is no place sees that its channel ends.
                    let Some(number) = (0..VISITORS_MAX).find(is_free) else { continue };
                    self.open_link(Other::Visitor(Visitor(number)), channel);
                    self.tell_receiver(receiver::Input::Came(Visitor(number)));
                }
                Came::Speaker(channel) => self.open_speaker(channel),
                Came::Nobody => {}
                Came::End => {
                    tracing::warn!(
                        slot = self.context.slot,
                        "this worker can no longer take connections from other workers"
                    );
                    self.moving.meeting = None;
                    self.ring.cancel_poll(MEETING);
                }
            }
        }
    }

    /// Carries out the commands of the machines, in order, before anything else happens.
    pub(super) fn carry_out(&mut self) {
        if std::mem::replace(&mut self.moving.is_carrying_out, true) {
            return;
        }
        loop {
            if let Some(command) = self.moving.arrivals.pop_front() {
                self.carry_out_arrival(command);
            } else if let Some(command) = self.moving.departures.pop_front() {
                self.carry_out_departure(command);
            } else {
                break;
            }
        }
        self.moving.is_carrying_out = false;
    }
}

fn writable(key: Key) -> Key {
    Key { slot: key.slot + WRITABLE, ..key }
}
