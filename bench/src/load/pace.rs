//! When requests that are sent at a constant rate are due. Pure.

use std::collections::VecDeque;

/// The most requests that wait for a free connection; further due requests count as missed.
const WAITING_MAX: usize = 1_000_000;

/// Returns the times at which requests are due, and keeps those that found no free connection. Their latency counts
/// from the time when they were due, so that a server that stands still is not spared.
#[derive(Debug)]
pub(crate) struct Pace {
    start_ns: u64,
    /// Nanoseconds from one request to the next.
    interval_ns: f64,
    /// Requests that have become due.
    due: u64,
    waiting: VecDeque<u64>,
    missed: u64,
}

impl Pace {
    /// The pace of thread `share` of `shares`, which take turns.
    pub(crate) fn new(rate: f64, share: usize, shares: usize, start_ns: u64) -> Self {
        let own_rate = rate / shares as f64;
        let offset_ns = 1e9 / rate * share as f64;
        Self {
            start_ns: start_ns + offset_ns as u64,
            interval_ns: 1e9 / own_rate,
            due: 0,
            waiting: VecDeque::new(),
            missed: 0,
        }
    }

    /// When the next request is due.
    pub(crate) fn next_ns(&self) -> u64 {
        self.start_ns + (self.due as f64 * self.interval_ns) as u64
    }

    /// Adds what has become due to the waiting requests.
    pub(crate) fn advance(&mut self, now_ns: u64) {
        while self.next_ns() <= now_ns {
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(self.next_ns());
            } else {
                self.missed += 1;
            }
            self.due += 1;
        }
    }

    /// Takes the request that has waited longest, and returns when it was due.
    pub(crate) fn take(&mut self) -> Option<u64> {
        self.waiting.pop_front()
    }

    /// Requests that are due and not taken.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Nothing more will be sent: returns how many due requests were never sent.
    pub(crate) fn end(&mut self) -> u64 {
        std::mem::take(&mut self.missed) + self.waiting.drain(..).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_due_at_the_rate_and_wait_for_who_sends_them() {
        let mut pace = Pace::new(1_000.0, 0, 1, 5_000_000);
        pace.advance(4_999_999);
        assert_eq!(pace.waiting(), 0);
        pace.advance(7_500_000);
        assert_eq!(
            (pace.take(), pace.take(), pace.take(), pace.take()),
            (Some(5_000_000), Some(6_000_000), Some(7_000_000), None)
        );
        assert_eq!(pace.next_ns(), 8_000_000);
        pace.advance(1_000_000_000);
        assert_eq!(pace.end(), 993);
    }

    #[test]
    fn threads_take_turns() {
        let (first, second) = (Pace::new(1_000.0, 0, 2, 0), Pace::new(1_000.0, 1, 2, 0));
        assert_eq!((first.next_ns(), second.next_ns()), (0, 1_000_000));
        let mut first = first;
        first.advance(0);
        assert_eq!(first.next_ns(), 2_000_000);
    }
}
