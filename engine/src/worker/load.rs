//! The load that a worker reports to the steering program: open connections, and handshakes in flight. [`Account`] is
//! pure.
//!
//! The program counts what it assigns to the worker. Some of that never arrives (floods of SYNs, a SYN and its cookie
//! counted twice, connections that migrate, attempts that failed). It is given up when it is a second old, and so are
//! all differences: nothing can drift. The kernel also runs the program for every segment that belongs to no
//! connection: a late ACK, FIN or RST of a connection that has ended is counted like a SYN, since an ACK may be the
//! answer to a cookie.

use std::io;

use crate::steering::{LoadPage, Loads};
use crate::sys::shared_memory::Shared;

/// Time is measured in steps of this length.
const STEP_NS: u64 = 125_000_000;

/// A handshake that is this many steps old is given up: 1 s, the time until a lost SYN-ACK is sent again.
const STEPS: usize = 8;

/// An idle worker looks at what was assigned to it after this many steps.
const LOOK_STEPS: u64 = 4;

/// More than any worker has. A worker that does not accept comes after those that do; among such workers, their loads
/// decide.
const CLOSED: u64 = 1 << 32;

/// This worker's load, and the page to which it is reported.
pub(super) struct Load {
    page: Shared<LoadPage>,
    account: Account,
    /// The values by which the page was last settled.
    settled_by: (u64, u64, bool, u64),
}

impl Load {
    /// Starts with a load of 0, whatever the previous worker has reported. `None` if the load is not needed.
    ///
    /// # Errors
    /// As mmap(2).
    pub(super) fn open(loads: Loads, slot: usize, now_ns: u64) -> io::Result<Option<Self>> {
        if loads.spans().is_empty() {
            return Ok(None);
        }
        let page = loads.page(slot as u32)?;
        let assigned = page.assigned();
        page.settle(assigned);
        Ok(Some(Self { page, account: Account::new(assigned, now_ns), settled_by: (assigned, 0, true, 0) }))
    }

    /// Counts a connection that arrived at a listener.
    #[inline]
    pub(super) fn arrived(&mut self) {
        self.account.arrived = self.account.arrived.wrapping_add(1);
    }

    /// Updates the page. Call it before each wait.
    #[inline]
    pub(super) fn settle(&mut self, open: u64, accepts: bool, now_ns: u64) {
        let assigned = self.page.assigned();
        let by = (assigned, open, accepts, now_ns / STEP_NS);
        if self.settled_by != by {
            self.settled_by = by;
            let under_way = self.account.under_way(assigned, now_ns);
            let load = open + under_way + if accepts { 0 } else { CLOSED };
            self.page.settle(assigned.wrapping_sub(load));
        }
    }

    /// When to look at it again.
    #[inline]
    pub(super) fn next_ns(now_ns: u64) -> u64 {
        (now_ns / STEP_NS / LOOK_STEPS + 1) * LOOK_STEPS * STEP_NS
    }
}

/// Counts the assigned connections that are still to come.
#[derive(Debug)]
struct Account {
    arrived: u64,
    /// The step of the last look.
    step: u64,
    /// Assigned since the beginning and not arrived, at the last look.
    missing: u64,
    /// The same at the end of each of the last steps.
    past: [u64; STEPS],
}

impl Account {
    fn new(assigned: u64, now_ns: u64) -> Self {
        Self { arrived: 0, step: now_ns / STEP_NS, missing: assigned, past: [assigned; STEPS] }
    }

    /// The number of handshakes in flight.
    fn under_way(&mut self, assigned: u64, now_ns: u64) -> u64 {
        let step = (now_ns / STEP_NS).max(self.step);
        for past in self.step..step.min(self.step + STEPS as u64) {
            self.past[past as usize % STEPS] = self.missing;
        }
        self.step = step;
        self.missing = assigned.wrapping_sub(self.arrived);
        // What was missing a second ago is not in flight any more. More may have arrived than was assigned: what an
        // older release assigned is not counted.
        let under_way = self.missing.wrapping_sub(self.past[step as usize % STEPS]) as i64;
        under_way.max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn what_is_assigned_is_under_way_until_it_arrives() {
        let mut account = Account::new(0, 0);
        assert_eq!(account.under_way(0, 0), 0);
        assert_eq!(account.under_way(5, 1), 5);
        account.arrived += 3;
        assert_eq!(account.under_way(6, 2), 3);
        account.arrived += 3;
        assert_eq!(account.under_way(6, 3), 0);
    }

    #[test]
    fn what_does_not_arrive_is_given_up_after_a_second() {
        for began_ns in [0, STEP_NS - 1, 77 * STEP_NS] {
            let mut account = Account::new(0, began_ns);
            assert_eq!(account.under_way(9, began_ns), 9);
            assert_eq!(account.under_way(9, began_ns + SECOND_NS - STEP_NS), 9, "not yet");
            assert_eq!(account.under_way(10, began_ns + SECOND_NS), 1, "but what came since is under way");
        }
    }

    #[test]
    fn a_worker_that_slept_takes_what_it_finds_for_new() {
        let mut account = Account::new(0, 0);
        assert_eq!(account.under_way(2, 10 * SECOND_NS), 2);
        assert_eq!(account.under_way(2, 11 * SECOND_NS), 0);
        assert_eq!(account.under_way(3, 3600 * SECOND_NS), 1);
    }

    #[test]
    fn nothing_that_was_lost_stays_while_many_others_come() {
        let mut account = Account::new(0, 0);
        let (mut assigned, mut now_ns) = (1000, 0);
        assert_eq!(account.under_way(assigned, now_ns), 1000);
        for _ in 0..2000 {
            (assigned, now_ns) = (assigned + 5, now_ns + 1_000_000);
            account.under_way(assigned, now_ns);
            account.arrived += 5;
        }
        assert_eq!(account.under_way(assigned, now_ns), 0);
    }

    #[test]
    fn more_that_arrive_than_were_assigned_harm_nobody() {
        let mut account = Account::new(u64::MAX - 1, 0);
        account.arrived += 100;
        assert_eq!(account.under_way(u64::MAX - 1, 1), 0);
        assert_eq!(account.under_way(u64::MAX - 1, 2 * SECOND_NS), 0);
        assert_eq!(account.under_way(3, 2 * SECOND_NS + 1), 5, "and the number of all may pass its end");
    }

    #[test]
    fn it_wakes_at_steps_at_which_a_second_is_over() {
        assert_eq!(SECOND_NS, STEPS as u64 * STEP_NS);
        assert_eq!(STEPS as u64 % LOOK_STEPS, 0);
    }

    #[test]
    fn time_that_goes_back_is_not_believed() {
        let mut account = Account::new(0, 9 * SECOND_NS);
        assert_eq!(account.under_way(4, 3 * SECOND_NS), 4);
        assert_eq!(account.under_way(4, 9 * SECOND_NS + SECOND_NS), 0);
    }
}
