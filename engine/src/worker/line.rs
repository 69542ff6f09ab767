//! The connections that wait for a receive buffer, or for another look at their input; and how many of them one turn
//! serves.
//!
//! A turn serves as many as fit into [`TURN_NS`], first come, first served. Connections that send little do not wait in
//! line at all: a client with a small request waits for a turn or two, whatever all others send. After a quarter of
//! that time, large input is kept and handled in line. Pure: the loop reports how long its turns took.

use std::collections::VecDeque;

use crate::types::ConnectionId;

/// The longest turn while a connection waits in line, in nanoseconds. Clients that are not in line wait about this
/// long.
const TURN_NS: u64 = 1_000_000;

/// The part of that for callbacks of connections in line, in nanoseconds: a receive brings thousands of small requests,
/// and each has an answer that must be sent, too.
const CALLBACKS_NS: u64 = TURN_NS / 4;

/// From this number of received bytes on, a callback may take long.
pub(super) const LARGE_BYTES: usize = 2048;

/// Parts of buffers received per turn before the cost of one is known.
const QUOTA_FIRST: usize = 16;

/// Size of a buffer for bulk, in normal buffers: the most that one connection receives when it is served. Fewer and
/// larger receives and sends cost less. The peer wakes once for all, and on loopback it sends its next bytes at the
/// receiver's cost, once for each receive. With 16 instead of 4, uploads of 2 MB take half of the CPU time.
pub(super) const BULK_BUFFER_PARTS: usize = 16;

/// After this many receives in a row that left bytes in the socket, a connection waits in line.
const FULL_RECEIVES: u8 = 4;

/// After this many receives in a row that emptied the socket, it no longer waits in line.
const EMPTY_RECEIVES: u8 = 4;

/// What a connection's recent receives were like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Appetite {
    /// It sends faster than it is received: it has one receive at a time, and waits in line for it.
    is_bulk: bool,
    /// Receives in a row that speak against `is_bulk`.
    against: u8,
    /// The last receive left bytes in the socket.
    has_more: bool,
    /// The last receive brought many bytes.
    is_large: bool,
}

impl Appetite {
    /// Records that a receive brought this many bytes.
    #[inline]
    pub(super) fn brought(&mut self, bytes: usize) {
        self.is_large = bytes > LARGE_BYTES;
    }

    /// Whether a callback with what the last receive brought may take long.
    pub(super) fn is_large(self) -> bool {
        self.is_large
    }

    /// Records whether a receive left bytes in the socket. `is_armed`: the same operation continues by itself.
    #[inline]
    pub(super) fn received(&mut self, has_more: bool, is_armed: bool) {
        self.has_more = has_more;
        if has_more == self.is_bulk {
            self.against = 0;
            return;
        }
        self.against += 1;
        let enough = match has_more {
            true if !is_armed => 1,
            true => FULL_RECEIVES,
            false => EMPTY_RECEIVES,
        };
        if self.against >= enough {
            (self.is_bulk, self.against) = (has_more, 0);
        }
    }

    pub(super) fn is_bulk(self) -> bool {
        self.is_bulk
    }

    /// Whether the next receive would bring something at once.
    pub(super) fn has_more(self) -> bool {
        self.has_more
    }
}

/// See the module's head.
pub(super) struct Line {
    /// Connections for which no buffer was left: first those whose last receive brought little, then the others.
    starved: [VecDeque<ConnectionId>; 2],
    /// Which of the two is next if both wait.
    next_starved: usize,
    receives: VecDeque<ConnectionId>,
    reruns: VecDeque<ConnectionId>,
    /// The number of receives that a turn serves, counted in normal buffers.
    quota: usize,
    quota_max: usize,
    /// The number served in this turn.
    receives_served: usize,
    /// Completions in this turn that connections in line have caused.
    completions: usize,
}

impl Line {
    /// A turn may fill as much memory as half of `buffers` holds.
    pub(super) fn new(buffers: u16) -> Self {
        let quota_max = usize::from(buffers / 2).max(1);
        Self {
            starved: Default::default(),
            next_starved: 0,
            receives: VecDeque::new(),
            reruns: VecDeque::new(),
            quota: QUOTA_FIRST.min(quota_max),
            quota_max,
            receives_served: 0,
            completions: 0,
        }
    }

    /// Adds a connection whose receive found no buffer.
    pub(super) fn push_starved(&mut self, id: ConnectionId, appetite: Appetite) {
        self.starved[usize::from(appetite.is_large())].push_back(id);
    }

    pub(super) fn push_receive(&mut self, id: ConnectionId) {
        self.receives.push_back(id);
    }

    pub(super) fn push_rerun(&mut self, id: ConnectionId) {
        self.reruns.push_back(id);
    }

    pub(super) fn begin_turn(&mut self) {
        (self.receives_served, self.completions) = (0, 0);
    }

    /// The next of those that found no buffer: by turns one that may send little, and one of the others.
    pub(super) fn next_starved(&mut self) -> Option<ConnectionId> {
        let (first, second) = (self.next_starved, 1 - self.next_starved);
        self.next_starved = second;
        self.starved[first].pop_front().or_else(|| self.starved[second].pop_front())
    }

    /// The next connection that receives, into a buffer for bulk.
    pub(super) fn next_receive(&mut self) -> Option<ConnectionId> {
        if self.receives_served >= self.quota {
            return None;
        }
        let id = self.receives.pop_front()?;
        self.receives_served += BULK_BUFFER_PARTS;
        Some(id)
    }

    /// The next connection whose input is handled again, when this turn has spent this much time on reruns and on
    /// others before. The line gets as much time as the others, however long that is, so that none starves.
    pub(super) fn next_rerun(&mut self, spent_ns: u64, others_ns: u64) -> Option<ConnectionId> {
        if spent_ns >= others_ns.max(CALLBACKS_NS) {
            return None;
        }
        self.reruns.pop_front()
    }

    /// Whether the completions of a turn have taken so long that it handles no more large ones.
    pub(super) fn is_long(took_ns: u64) -> bool {
        took_ns > CALLBACKS_NS
    }

    /// Whether a connection waits for a receive.
    pub(super) fn has_receives(&self) -> bool {
        !self.receives.is_empty()
    }

    /// Whether a connection waits for a buffer.
    pub(super) fn has_starved(&self) -> bool {
        self.starved.iter().any(|starved| !starved.is_empty())
    }

    pub(super) fn has_reruns(&self) -> bool {
        !self.reruns.is_empty()
    }

    /// A receive in line completed, or a send of a connection in line. [`Line::end_turn`] does not count these as the
    /// others'.
    #[inline]
    pub(super) fn completed(&mut self) {
        self.completions += 1;
    }

    /// A turn took `took_ns` and handled `completions`, including those of the line. The line gets as many as the
    /// others, however long that takes, so that none starves.
    pub(super) fn end_turn(&mut self, took_ns: u64, completions: usize) {
        let others = completions.saturating_sub(self.completions);
        if self.receives_served >= self.quota {
            // Down at once and up by small steps: if a receive costs much more than expected, everyone waits.
            if took_ns > TURN_NS {
                let fitting = self.quota as u64 * TURN_NS / took_ns;
                self.quota = (fitting as usize).max(self.quota / 2).max(others);
            } else if took_ns < TURN_NS * 3 / 4 {
                self.quota += self.quota.div_ceil(4);
            }
            self.quota = self.quota.clamp(1, self.quota_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 0 }
    }

    fn take(line: &mut Line) -> Vec<u32> {
        line.begin_turn();
        std::iter::from_fn(|| line.next_receive()).map(|id| id.slot).collect()
    }

    #[test]
    fn everybody_is_served_in_order_as_far_as_the_turn_allows() {
        let mut line = Line::new(6 * BULK_BUFFER_PARTS as u16);
        (0..8).for_each(|slot| line.push_receive(id(slot)));
        assert_eq!(take(&mut line), [0], "little is known at first");
        line.end_turn(0, 1);
        assert_eq!(take(&mut line), [1, 2]);
        line.end_turn(0, 2);
        (0..4).for_each(|_| line.end_turn(0, 2));
        assert_eq!(take(&mut line), [3, 4, 5], "as much as half of the buffers");
        line.end_turn(0, 3);
        line.push_receive(id(0));
        assert_eq!(take(&mut line), [6, 7, 0]);
        assert!(!line.has_receives());
    }

    #[test]
    fn who_says_little_does_not_wait_for_a_buffer_behind_those_who_say_much() {
        let (mut line, mut much) = (Line::new(256), Appetite::default());
        much.brought(LARGE_BYTES + 1);
        (0..3).for_each(|slot| line.push_starved(id(slot), much));
        (3..5).for_each(|slot| line.push_starved(id(slot), Appetite::default()));
        let order: Vec<u32> = std::iter::from_fn(|| line.next_starved()).map(|id| id.slot).collect();
        assert_eq!(order, [3, 0, 4, 1, 2]);
        assert!(!line.has_starved());
    }

    #[test]
    fn as_many_are_served_as_fit_into_a_turn() {
        let mut line = Line::new(256 * BULK_BUFFER_PARTS as u16);
        let mut turn = |ns_each: u64, others: usize| {
            line.begin_turn();
            (0..200).for_each(|slot| line.push_receive(id(slot)));
            let receives = std::iter::from_fn(|| line.next_receive()).count();
            // Each was answered in the previous turn.
            (0..2 * receives).for_each(|_| line.completed());
            line.end_turn(ns_each * (receives + others) as u64, 2 * receives + others);
            receives
        };
        assert_eq!((0..40).map(|_| turn(1_000, 0)).last(), Some(128), "cheap ones");
        let costly: Vec<usize> = (0..40).map(|_| turn(50_000, 0)).collect();
        assert!(costly.iter().skip(10).all(|served| (14..=21).contains(served)), "{costly:?}");
        assert_eq!((0..20).map(|_| turn(5_000_000, 0)).last(), Some(1), "somebody is always served");
        let beside_others = (0..20).map(|_| turn(100_000, 4 * BULK_BUFFER_PARTS)).last();
        assert_eq!(beside_others, Some(4), "as many as do not wait in line");
    }

    #[test]
    fn reruns_take_a_part_of_a_turn_or_as_long_as_the_others() {
        let mut line = Line::new(256);
        let mut turn = |ns_each: u64, others_ns: u64| {
            (0..1000).for_each(|slot| line.push_rerun(id(slot)));
            (0..).find(|served| line.next_rerun(served * ns_each, others_ns).is_none())
        };
        assert_eq!(turn(1_000, 0), Some(250));
        assert_eq!(turn(25_000, 100_000), Some(10));
        assert_eq!(turn(25_000, 2_000_000), Some(80));
        assert_eq!(turn(5_000_000, 0), Some(1), "somebody is always served");
        assert!(!Line::is_long(CALLBACKS_NS) && Line::is_long(CALLBACKS_NS + 1));
    }

    #[test]
    fn only_who_sends_faster_than_it_is_received_waits_in_line() {
        let mut appetite = Appetite::default();
        let mut received = |has_more, is_armed| {
            appetite.received(has_more, is_armed);
            appetite.is_bulk()
        };
        assert!(!received(false, true));
        assert!(!(0..FULL_RECEIVES - 1).any(|_| received(true, true)), "a large message is none yet");
        assert!(!received(false, true));
        assert!((0..FULL_RECEIVES).map(|_| received(true, true)).last().expect("some"));
        assert!((0..EMPTY_RECEIVES - 1).all(|_| received(false, false)), "it may only have paused");
        assert!(received(true, false));
        assert!(!(0..EMPTY_RECEIVES).map(|_| received(false, false)).last().expect("some"));
        assert!(received(true, false), "nothing is armed: it waits in line at once");
    }
}
