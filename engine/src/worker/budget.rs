//! Bounds the memory that a worker holds for its connections: unconsumed input, unsent output, frozen connections, and
//! what the protocol reports with [`Io::set_held_bytes`](crate::Io::set_held_bytes). Pure; the loop reports changes.
//!
//! When three quarters of the bound are in use, connections that hold more than [`SHARE_BYTES`] are not read. This ends
//! when half of the bound is in use, or after [`SHORT_NS`]. Above the bound, connections are cut until an eighth of it
//! is free: the largest first, and among those of about the same size the one whose peer has taken nothing for longest.
//! Only then does the worker look at all connections, so this costs little for each byte that was held.

use crate::types::ConnectionId;

/// Bytes that a connection may hold without being paused when memory is short.
const SHARE_BYTES: u64 = 64 << 10;

/// After this time paused connections are read again, however much memory is in use: they might wait for each other
/// forever.
const SHORT_NS: u64 = 1_000_000_000;

/// Memory goes back to the system when it was not needed for this time: the next large answer needs what the last one
/// used.
const UNWANTED_NS: u64 = 1_000_000_000;

/// A smaller amount is not worth giving back to the system.
const RELEASE_BYTES_MIN: u64 = 4 << 20;

/// A connection that may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) id: ConnectionId,
    pub(super) bytes: u64,
    /// When its peer last took output, or last sent something if there is no output.
    pub(super) progress_ns: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: u64,
    held: u64,
    /// The maximum since memory last went back to the system.
    peak: u64,
    is_short: bool,
    /// When the shortage ends; 0 until this is first computed.
    short_until_ns: u64,
    /// When memory goes back to the system; 0 if none will.
    release_at_ns: u64,
}

impl Budget {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, held: 0, peak: 0, is_short: false, short_until_ns: 0, release_at_ns: 0 }
    }

    /// Records that a connection which held `before` bytes holds `now` bytes.
    #[inline]
    pub(super) fn change(&mut self, before: u64, now: u64) {
        self.held = self.held + now - before;
        self.peak = self.peak.max(self.held);
        self.is_short |= self.held > self.bytes_max / 4 * 3;
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Whether a connection that holds this much must not be read.
    #[inline]
    pub(super) fn pauses(&self, bytes: u64) -> bool {
        self.is_short && bytes > SHARE_BYTES
    }

    /// Whether paused connections must be read again from now on.
    #[inline]
    pub(super) fn recovers(&mut self, now_ns: u64) -> bool {
        if !self.is_short {
            return false;
        }
        if self.short_until_ns == 0 {
            self.short_until_ns = now_ns + SHORT_NS;
        }
        let recovers = self.held <= self.bytes_max / 2 || now_ns >= self.short_until_ns;
        if recovers {
            (self.is_short, self.short_until_ns) = (false, 0);
        }
        recovers
    }

    /// When [`Budget::recovers`] or [`Budget::releases`] may become true without a change.
    pub(super) fn next_ns(&self) -> Option<u64> {
        [self.short_until_ns, self.release_at_ns].into_iter().filter(|at_ns| *at_ns > 0).min()
    }

    #[inline]
    pub(super) fn is_exceeded(&self) -> bool {
        self.held > self.bytes_max
    }

    /// The connections to cut, in order.
    pub(super) fn cut(&self, mut holders: Vec<Holder>) -> Vec<ConnectionId> {
        holders.sort_unstable_by_key(|holder| (std::cmp::Reverse(holder.bytes.max(1).ilog2()), holder.progress_ns));
        let mut excess = self.held.saturating_sub(self.bytes_max / 8 * 7);
        let is_cut = |holder: &Holder| {
            let is_needed = excess > 0;
            excess = excess.saturating_sub(holder.bytes);
            is_needed
        };
        holders.into_iter().take_while(is_cut).map(|holder| holder.id).collect()
    }

    /// Whether so much less is held than before that the allocator's free memory should go back to the system.
    #[inline]
    pub(super) fn releases(&mut self, now_ns: u64) -> bool {
        if self.peak <= RELEASE_BYTES_MIN || self.held >= self.peak / 2 {
            self.release_at_ns = 0;
            return false;
        }
        if self.release_at_ns == 0 {
            self.release_at_ns = now_ns + UNWANTED_NS;
        }
        let releases = now_ns >= self.release_at_ns;
        if releases {
            (self.peak, self.release_at_ns) = (self.held, 0);
        }
        releases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(slot: u32, bytes: u64, progress_ns: u64) -> Holder {
        Holder { id: ConnectionId { slot, generation: 0 }, bytes, progress_ns }
    }

    fn slots(cut: Vec<ConnectionId>) -> Vec<u32> {
        cut.into_iter().map(|id| id.slot).collect()
    }

    #[test]
    fn large_ones_are_paused_from_three_quarters_to_a_half() {
        let mut budget = Budget::new(1 << 20);
        budget.change(0, 700 << 10);
        assert!(!budget.pauses(1 << 20));
        budget.change(0, 100 << 10);
        assert!(budget.pauses(SHARE_BYTES + 1) && !budget.pauses(SHARE_BYTES));
        budget.change(700 << 10, 500 << 10);
        assert!(!budget.recovers(1) && budget.pauses(1 << 20), "not yet");
        budget.change(500 << 10, 400 << 10);
        assert!(budget.recovers(2) && !budget.pauses(1 << 20));
        assert!(!budget.recovers(3), "said once");
        budget.change(0, 500 << 10);
        assert!(!budget.recovers(4) && budget.pauses(1 << 20));
        let until_ns = budget.next_ns().expect("a time");
        assert!(!budget.recovers(until_ns - 1) && budget.recovers(until_ns), "nobody waits for ever");
    }

    #[test]
    fn the_largest_are_cut_and_of_one_size_the_slowest() {
        let mut budget = Budget::new(8000);
        let holders = vec![holder(1, 100, 0), holder(2, 4000, 7), holder(3, 2100, 5), holder(4, 2200, 4)];
        holders.iter().for_each(|holder| budget.change(0, holder.bytes));
        assert!(budget.is_exceeded());
        assert_eq!(
            slots(budget.cut(holders.clone())),
            [4],
            "1400 too many: of 2100 to 4000, the one that waits longest"
        );
        budget.change(0, 4000);
        assert_eq!(slots(budget.cut(holders)), [4, 3, 2]);
    }

    #[test]
    fn nothing_is_cut_without_need() {
        let mut budget = Budget::new(8000);
        budget.change(0, 7000);
        assert!(!budget.is_exceeded());
        assert_eq!(budget.cut(vec![holder(1, 7000, 0)]), []);
    }

    #[test]
    fn memory_goes_back_when_half_of_it_was_not_wanted_for_a_while() {
        let mut budget = Budget::new(1 << 30);
        budget.change(0, 64 << 20);
        assert!(!budget.releases(1) && budget.next_ns().is_none());
        budget.change(64 << 20, 30 << 20);
        assert!(!budget.releases(1));
        let at_ns = budget.next_ns().expect("a time");
        assert!(!budget.releases(at_ns - 1) && budget.releases(at_ns) && !budget.releases(at_ns));
        budget.change(30 << 20, 0);
        assert!(!budget.releases(at_ns + 1));
        budget.change(0, 20 << 20);
        assert!(!budget.releases(at_ns + 2), "wanted again");
        budget.change(20 << 20, 0);
        assert!(!budget.releases(2 * at_ns) && budget.releases(3 * at_ns));
        budget.change(0, 3 << 20);
        budget.change(3 << 20, 0);
        assert!(!budget.releases(4 * at_ns) && budget.next_ns().is_none(), "too little");
    }
}
