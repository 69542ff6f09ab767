//! Who waits for a receive buffer, or to have its input looked at again; and how many of them one turn serves.
//!
//! A turn serves as many as fit into [`TURN_NS`], first come, first served, and those that have little to say do not wait
//! in line at all: so a client with a small request waits for a turn or two, whatever all others send. Pure: the loop reports
//! how long its turns took.

use std::collections::VecDeque;

use crate::types::ConnectionId;

/// What a turn may take while somebody waits in line, nanoseconds: the clients that are not in line wait about so long.
const TURN_NS: u64 = 1_000_000;

/// Served per turn before anything is known of what one costs.
const QUOTA_FIRST: usize = 16;

/// Bytes of a buffer for bulk in usual ones: what one connection is received at most when it is served. Fewer and larger
/// receives and sends cost less: the peer is woken once for all, and on loopback it sends its next bytes at the receiver's cost,
/// once for each receive. With 16 instead of 4, uploads of 2 MB take half of the CPU time.
pub(super) const BULK_BUFFER_PARTS: usize = 16;

/// Receives in a row that left bytes in the socket, from which a connection waits in line.
const FULL_RECEIVES: u8 = 4;

/// Receives in a row that emptied the socket, from which it does not any more.
const EMPTY_RECEIVES: u8 = 4;

/// What a connection's receives were like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Appetite {
    /// It sends faster than it is received: it has one receive at a time, and waits in line for it.
    is_bulk: bool,
    /// Receives in a row that speak against `is_bulk`.
    against: u8,
    /// The last receive left bytes in the socket.
    has_more: bool,
}

impl Appetite {
    /// A receive left bytes in the socket or none; `is_armed` where the same operation goes on by itself.
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

    /// The next receive would bring something at once.
    pub(super) fn has_more(self) -> bool {
        self.has_more
    }
}

/// See the module's head.
pub(super) struct Line {
    /// No buffer was left for them.
    starved: VecDeque<ConnectionId>,
    receives: VecDeque<ConnectionId>,
    reruns: VecDeque<ConnectionId>,
    /// So many receives, counted in usual buffers, and so many reruns are served in a turn.
    quota: usize,
    quota_max: usize,
    /// Served in this turn.
    receives_served: usize,
    reruns_served: usize,
}

impl Line {
    /// A turn may fill as much memory as half of the `buffers` are.
    pub(super) fn new(buffers: u16) -> Self {
        let quota_max = usize::from(buffers / 2).max(1);
        Self {
            starved: VecDeque::new(),
            receives: VecDeque::new(),
            reruns: VecDeque::new(),
            quota: QUOTA_FIRST.min(quota_max),
            quota_max,
            receives_served: 0,
            reruns_served: 0,
        }
    }

    /// Its receive found no buffer.
    pub(super) fn push_starved(&mut self, id: ConnectionId) {
        self.starved.push_back(id);
    }

    pub(super) fn push_receive(&mut self, id: ConnectionId) {
        self.receives.push_back(id);
    }

    pub(super) fn push_rerun(&mut self, id: ConnectionId) {
        self.reruns.push_back(id);
    }

    pub(super) fn begin_turn(&mut self) {
        (self.receives_served, self.reruns_served) = (0, 0);
    }

    /// Who receives next of those that found no buffer.
    pub(super) fn next_starved(&mut self) -> Option<ConnectionId> {
        self.starved.pop_front()
    }

    /// Who receives next, into a buffer for bulk.
    pub(super) fn next_receive(&mut self) -> Option<ConnectionId> {
        if self.receives_served >= self.quota {
            return None;
        }
        let id = self.receives.pop_front()?;
        self.receives_served += BULK_BUFFER_PARTS;
        Some(id)
    }

    /// Whose input is looked at again next.
    pub(super) fn next_rerun(&mut self) -> Option<ConnectionId> {
        if self.reruns_served >= self.quota {
            return None;
        }
        let id = self.reruns.pop_front()?;
        self.reruns_served += 1;
        Some(id)
    }

    /// Somebody waits for a receive.
    pub(super) fn has_receives(&self) -> bool {
        !self.receives.is_empty()
    }

    /// Somebody waits for a buffer.
    pub(super) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    pub(super) fn has_reruns(&self) -> bool {
        !self.reruns.is_empty()
    }

    /// A turn took `took_ns`, and dealt with `completions`, those of receives in line among them. Whoever is in line has
    /// as many as the others have, however long it takes, so that nobody starves.
    pub(super) fn end_turn(&mut self, took_ns: u64, completions: usize) {
        let others = completions.saturating_sub(self.receives_served / BULK_BUFFER_PARTS);
        if self.receives_served.max(self.reruns_served) >= self.quota {
            if took_ns > TURN_NS {
                self.quota = (self.quota / 2).max(others);
            } else if took_ns < TURN_NS / 2 {
                self.quota *= 2;
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
        assert_eq!(take(&mut line), [3, 4, 5], "as much as half of the buffers");
        line.end_turn(0, 3);
        line.push_receive(id(0));
        assert_eq!(take(&mut line), [6, 7, 0]);
        assert!(!line.has_receives());
        [7, 8].into_iter().for_each(|slot| line.push_starved(id(slot)));
        assert_eq!([(); 3].map(|()| line.next_starved()), [Some(id(7)), Some(id(8)), None]);
    }

    #[test]
    fn as_many_are_served_as_fit_into_a_turn() {
        let mut line = Line::new(256);
        let mut turn = |ns_each: u64, others: usize| {
            line.begin_turn();
            (0..200).for_each(|slot| line.push_receive(id(slot)));
            (0..200).for_each(|slot| line.push_rerun(id(slot)));
            let receives = std::iter::from_fn(|| line.next_receive()).count();
            let reruns = std::iter::from_fn(|| line.next_rerun()).count();
            assert_eq!(receives, reruns.div_ceil(BULK_BUFFER_PARTS), "neither keeps the other waiting");
            line.end_turn(ns_each * (receives + reruns + others) as u64, receives + others);
            reruns
        };
        assert_eq!((0..6).map(|_| turn(1_000, 0)).last(), Some(128), "cheap ones");
        let costly: Vec<usize> = (0..20).map(|_| turn(50_000, 0)).collect();
        assert!(costly.iter().skip(8).all(|served| (8..=18).contains(served)), "{costly:?}");
        assert_eq!((0..9).map(|_| turn(5_000_000, 0)).last(), Some(1), "somebody is always served");
        assert_eq!((0..9).map(|_| turn(100_000, 40)).last(), Some(40), "as many as do not wait in line");
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
