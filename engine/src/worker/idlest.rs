//! At the limit of connections: decides which connection makes room for a new one. Pure; the loop reports which are
//! idle, and since when.
//!
//! The choice is the connection that has been idle longest. Nothing is kept while there is room. At the limit, one look
//! at all connections finds the next [`CANDIDATES_MAX`] of them, and looks are [`LOOK_INTERVAL_NS`] apart.

use std::collections::VecDeque;

use crate::types::ConnectionId;

/// The most candidates that one look at all connections finds.
const CANDIDATES_MAX: usize = 1024;

/// The interval between two looks. One look costs about a millisecond with 65,536 connections.
const LOOK_INTERVAL_NS: u64 = 100_000_000;

/// A connection, and when input last arrived or output last ended.
type Candidate = (u64, ConnectionId);

/// See the module's head.
pub(super) struct Idlest {
    /// A connection that is idle for this long makes room; `None` if none does.
    idle_ns: Option<u64>,
    /// Longest idle first.
    candidates: VecDeque<Candidate>,
    next_look_ns: u64,
}

impl Idlest {
    pub(super) fn new(idle_ms: u64) -> Self {
        let idle_ns = (idle_ms > 0).then(|| idle_ms * 1_000_000);
        Self { idle_ns, candidates: VecDeque::new(), next_look_ns: 0 }
    }

    /// Whether the loop must look at all connections now, for [`Idlest::found`].
    pub(super) fn wants_look(&self, now_ns: u64) -> bool {
        self.idle_ns.is_some() && self.candidates.is_empty() && now_ns >= self.next_look_ns
    }

    /// Takes the idle connections. Returns when to look again if none has been idle for long enough.
    pub(super) fn found(&mut self, mut idle: Vec<Candidate>, now_ns: u64) -> Option<u64> {
        let idle_ns = self.idle_ns?;
        let next_ns = idle.iter().map(|(activity_ns, _)| activity_ns.saturating_add(idle_ns)).min();
        self.next_look_ns = next_ns.unwrap_or(0).max(now_ns + LOOK_INTERVAL_NS);
        idle.retain(|(activity_ns, _)| activity_ns.saturating_add(idle_ns) <= now_ns);
        if idle.len() > CANDIDATES_MAX {
            idle.select_nth_unstable(CANDIDATES_MAX);
            idle.truncate(CANDIDATES_MAX);
        }
        idle.sort_unstable();
        self.candidates = idle.into();
        self.candidates.is_empty().then_some(self.next_look_ns)
    }

    /// The connection that makes room. `is_still_idle` reports whether nothing has happened to a candidate since.
    pub(super) fn first(&mut self, is_still_idle: impl Fn(Candidate) -> bool) -> Option<ConnectionId> {
        while let Some(candidate) = self.candidates.front() {
            if is_still_idle(*candidate) {
                return Some(candidate.1);
            }
            self.candidates.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn candidate(activity_ms: u64, slot: u32) -> Candidate {
        (activity_ms * MS, ConnectionId { slot, generation: 0 })
    }

    #[test]
    fn the_longest_idle_comes_first_unless_it_has_woken_up() {
        let mut idlest = Idlest::new(1000);
        assert!(idlest.wants_look(2000 * MS));
        let idle = vec![candidate(900, 3), candidate(500, 1), candidate(1500, 4), candidate(700, 2)];
        assert_eq!(idlest.found(idle, 2000 * MS), None);
        assert_eq!(idlest.first(|_| true).map(|id| id.slot), Some(1));
        assert_eq!(idlest.first(|(_, id)| id.slot != 1).map(|id| id.slot), Some(2));
        assert_eq!(idlest.first(|(_, id)| id.slot == 3).map(|id| id.slot), Some(3));
        assert_eq!(idlest.first(|(_, id)| id.slot == 4), None, "not idle for long enough");
        assert!(!idlest.wants_look(2050 * MS) && idlest.wants_look(2500 * MS));
    }

    #[test]
    fn it_is_looked_again_when_the_first_has_been_idle_for_long_enough() {
        let mut idlest = Idlest::new(1000);
        assert_eq!(idlest.found(vec![candidate(1600, 1)], 2000 * MS), Some(2600 * MS));
        assert_eq!(idlest.found(Vec::new(), 2000 * MS), Some(2100 * MS));
        assert!(!Idlest::new(0).wants_look(5000 * MS), "turned off");
    }

    #[test]
    fn of_many_the_longest_idle_are_kept() {
        let mut idlest = Idlest::new(1);
        let idle = (0..5000).map(|slot| candidate(u64::from(slot * 7 % 5000), slot)).collect();
        idlest.found(idle, 10_000 * MS);
        let kept: Vec<u64> = idlest.candidates.iter().map(|(activity_ns, _)| activity_ns / MS).collect();
        assert_eq!(kept, (0..CANDIDATES_MAX as u64).collect::<Vec<_>>());
    }
}
