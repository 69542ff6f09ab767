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

/// Buffers that one connection may fill when it is served: several in a row cost less than as many of different sockets.
const BUFFERS_IN_A_ROW: usize = 4;

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
    /// So many receives and so many reruns are served in a turn.
    quota: usize,
    quota_max: usize,
    /// Served in this turn.
    receives_served: usize,
    reruns_served: usize,
}

impl Line {
    /// A turn may use half of `buffers`: the other half is for those that do not wait in line.
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

    /// Who receives next, into how many of `free` buffers.
    pub(super) fn next_receive(&mut self, free: usize) -> Option<(ConnectionId, usize)> {
        if free == 0 {
            return None;
        }
        if let Some(id) = self.starved.pop_front() {
            return Some((id, 1));
        }
        let buffers = BUFFERS_IN_A_ROW.min(free).min(self.quota.saturating_sub(self.receives_served));
        if buffers == 0 {
            return None;
        }
        let id = self.receives.pop_front()?;
        self.receives_served += buffers;
        Some((id, buffers))
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
        !self.receives.is_empty() || !self.starved.is_empty()
    }

    pub(super) fn has_reruns(&self) -> bool {
        !self.reruns.is_empty()
    }

    /// A turn took `took_ns`, and dealt with `completions`, those of receives in line among them. Whoever is in line has
    /// as many as the others have, however long it takes, so that nobody starves.
    pub(super) fn end_turn(&mut self, took_ns: u64, completions: usize) {
        let others = completions.saturating_sub(self.receives_served);
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

    fn take(line: &mut Line) -> Vec<(u32, usize)> {
        line.begin_turn();
        std::iter::from_fn(|| line.next_receive(100)).map(|(id, buffers)| (id.slot, buffers)).collect()
    }

    #[test]
    fn everybody_is_served_in_order_as_far_as_the_turn_allows() {
        let mut line = Line::new(20);
        (0..5).for_each(|slot| line.push_receive(id(slot)));
        line.push_starved(id(100));
        let half = [(100, 1), (0, 4), (1, 4), (2, 2)];
        assert_eq!(take(&mut line), half, "half of the buffers, beside those that found none");
        line.push_receive(id(0));
        assert_eq!(take(&mut line), [(3, 4), (4, 4), (0, 2)]);
        assert!(!line.has_receives());
        line.push_receive(id(1));
        line.begin_turn();
        assert_eq!((line.next_receive(0), line.next_receive(3)), (None, Some((id(1), 3))), "as many as are free");
    }

    #[test]
    fn as_many_are_served_as_fit_into_a_turn() {
        let mut line = Line::new(256);
        let mut turn = |ns_each: u64, others: usize| {
            line.begin_turn();
            (0..200).for_each(|slot| line.push_receive(id(slot)));
            (0..200).for_each(|slot| line.push_rerun(id(slot)));
            let receives = std::iter::from_fn(|| line.next_receive(1000)).map(|(_, buffers)| buffers).sum();
            let reruns = std::iter::from_fn(|| line.next_rerun()).count();
            assert_eq!(receives, reruns, "neither keeps the other waiting");
            line.end_turn(ns_each * (receives + reruns + others) as u64, receives + others);
            receives
        };
        assert_eq!((0..6).map(|_| turn(1_000, 0)).last(), Some(128), "cheap ones");
        let costly: Vec<usize> = (0..20).map(|_| turn(50_000, 0)).collect();
        assert!(costly.iter().skip(8).all(|served| (5..=10).contains(served)), "{costly:?}");
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
