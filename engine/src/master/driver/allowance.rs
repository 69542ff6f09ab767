//! Limits how much one peer may send. Further messages are read later, so that the messages of others are read
//! meanwhile and nothing is pushed out of the journal. Pure: time is passed in.

use std::io;

use crate::ipc::orders::{Moved, Report};
use crate::master::core::{ProcessId, Time};

/// Messages read from one peer before others have their turn.
pub(super) const HEARD_PER_TURN: usize = 64;

/// Messages read from one peer in a second.
const HEARD_PER_SECOND: u32 = 10_000;

/// Entries shown to people because of one peer's messages in a second. A worker that moves its connections causes five.
const SHOWN_PER_SECOND: u32 = 10;

const SECOND_MS: u64 = 1_000;

/// The allowance of one peer.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// When the second began in which these were counted.
    since: Time,
    heard: u32,
    shown: u32,
}

impl Allowance {
    fn look(&mut self, now: Time) {
        if now.ms_since(self.since) >= SECOND_MS {
            *self = Self { since: now, heard: 0, shown: 0 };
        }
    }

    /// Whether messages of the peer are read now.
    pub(super) fn is_open(&mut self, now: Time) -> bool {
        self.look(now);
        self.heard < HEARD_PER_SECOND
    }

    /// When messages of the peer are read again; `None` if they are read now.
    pub(super) fn opens_at(&self) -> Option<Time> {
        (self.heard >= HEARD_PER_SECOND).then(|| self.since.after_ms(SECOND_MS))
    }

    /// Counts a message of the peer.
    pub(super) fn count(&mut self) {
        self.heard = self.heard.saturating_add(1);
    }

    /// Whether something from its messages may be shown to people.
    pub(super) fn may_show(&mut self, now: Time) -> bool {
        self.look(now);
        self.shown = self.shown.saturating_add(1);
        self.shown <= SHOWN_PER_SECOND
    }

    /// Handles an invalid message, which counts as one of a later version, or as broken. That is no reason to give the
    /// peer up.
    pub(super) fn nonsense(&mut self, now: Time, process: ProcessId, error: &io::Error) -> Report {
        if self.may_show(now) {
            tracing::warn!(pid = process.0, "ignored a report that this master does not know: {error}");
        }
        Report::Unknown
    }

    /// The report that the core gets: everything by which it decides, and no more text for people than may be shown.
    pub(super) fn pass(&mut self, now: Time, report: Report) -> Option<Report> {
        match report {
            Report::Moved(moved) if !self.may_show(now) => {
                let over = Moved { is_over: true, ..Moved::default() };
                moved.is_over.then_some(Report::Moved(over))
            }
            Report::StateMoves { .. } | Report::Closed if !self.may_show(now) => None,
            report => Some(report),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(5_000_000_000).after_ms(ms)
    }

    #[test]
    fn whoever_says_too_much_is_heard_again_in_the_next_second() {
        let mut allowance = Allowance::default();
        for _ in 0..HEARD_PER_SECOND {
            assert!(allowance.is_open(at(0)));
            assert_eq!(allowance.opens_at(), None);
            allowance.count();
        }
        assert!(!allowance.is_open(at(999)));
        assert_eq!(allowance.opens_at(), Some(at(SECOND_MS)));
        assert!(allowance.is_open(at(SECOND_MS)));
        assert_eq!(allowance.opens_at(), None);
    }

    #[test]
    fn what_is_shown_is_bounded_and_what_is_decided_by_is_not() {
        let mut allowance = Allowance::default();
        let moved = |is_over| Report::Moved(Moved { moved: 7, is_over, ..Moved::default() });
        let mut passed =
            |report: Report| (0..100).filter_map(|_| allowance.pass(at(0), report.clone())).collect::<Vec<_>>();
        let some = passed(moved(false));
        assert_eq!(some.len(), SHOWN_PER_SECOND as usize);
        assert!(some.iter().all(|one| *one == moved(false)));
        assert!(passed(Report::Closed).is_empty() && passed(Report::StateMoves { bytes: 1 }).is_empty());
        let over = passed(moved(true));
        assert_eq!(over.len(), 100, "the core waits for one of them");
        assert!(over.iter().all(|one| matches!(one, Report::Moved(moved) if moved.is_over && moved.moved == 0)));
        assert_eq!(passed(Report::Taken).len(), 100);
        assert_eq!(allowance.pass(at(SECOND_MS), moved(false)), Some(moved(false)));
    }
}
