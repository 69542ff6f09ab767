//! Which losses are excused: those of connections that a killed worker had, as many as it had, and no others. Pure
//! except for the lock; time is passed in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::plan::Side;

/// The longest time until a client looks at a connection that was lost.
const NOTICED_AFTER_MAX: Duration = Duration::from_secs(20);

/// A worker that is killed, or hangs until its master kills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kill {
    pub(super) how: Death,
    /// Connections that existed by then may be lost; `None` while the worker is about to die.
    ended: Option<Instant>,
    /// The largest possible number of its connections; `None` while it is not known.
    pub(super) had: Option<u64>,
    /// Connections that clients lost.
    pub(super) lost: u64,
}

/// How a worker dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Death {
    /// By SIGKILL.
    Killed,
    /// It hangs, and its master kills it.
    Hung,
}

impl Kill {
    fn may_take(&self, established: Instant, now: Instant) -> bool {
        self.ended.is_none_or(|ended| established <= ended && now <= ended + NOTICED_AFTER_MAX)
    }
}

/// Kills and losses of one server.
#[derive(Debug, Default)]
struct Account {
    kills: Vec<Kill>,
}

impl Account {
    fn charge(&mut self, established: Instant, now: Instant) -> bool {
        let kill = self.kills.iter_mut().rev().find(|kill| kill.may_take(established, now));
        let Some(kill) = kill else { return false };
        kill.lost += 1;
        kill.had.is_none_or(|had| kill.lost <= had)
    }
}

/// The kills of both servers, and the losses that they caused.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: [Mutex<Account>; 2],
}

impl Ledger {
    fn account(&self, side: Side) -> MutexGuard<'_, Account> {
        // It is a list of numbers, and consistent even if a thread panicked.
        self.accounts[side as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker is about to be killed, or to hang. All losses of this server until [`Ledger::end_kill`] are charged to
    /// it.
    pub(super) fn begin_kill(&self, side: Side, how: Death) {
        self.account(side).kills.push(Kill { how, ended: None, had: None, lost: 0 });
    }

    /// The worker was dead by this time, and had at most this many connections.
    pub(super) fn end_kill(&self, side: Side, ended: Instant, had: u64) {
        if let Some(kill) = self.account(side).kills.last_mut() {
            (kill.ended, kill.had) = (Some(ended), Some(had));
        }
    }

    /// A client has lost a connection that existed since `established`. Returns whether a kill excuses that.
    pub(super) fn excuses(&self, side: Side, established: Instant, now: Instant) -> bool {
        self.account(side).charge(established, now)
    }

    /// Charges this many losses to the last kill, and returns how many exceed what it excuses.
    pub(super) fn charge_last(&self, side: Side, lost: u64) -> u64 {
        let mut account = self.account(side);
        let Some(kill) = account.kills.last_mut() else { return lost };
        kill.lost += lost;
        kill.lost.saturating_sub(kill.had.unwrap_or(u64::MAX))
    }

    /// The kills so far, in order.
    pub(super) fn kills(&self, side: Side) -> Vec<Kill> {
        self.account(side).kills.clone()
    }

    /// Connections lost by kills so far.
    pub(super) fn lost(&self, side: Side) -> u64 {
        self.account(side).kills.iter().map(|kill| kill.lost).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_what_a_killed_worker_can_have_had_is_excused() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        assert!(!ledger.excuses(Side::Http, start, start + SECOND), "nobody was killed");
        ledger.begin_kill(Side::Http, Death::Killed);
        assert!(ledger.excuses(Side::Http, start, start + SECOND));
        assert!(!ledger.excuses(Side::Echo, start, start + SECOND), "the other server");
        ledger.end_kill(Side::Http, start + 2 * SECOND, 2);
        assert!(!ledger.excuses(Side::Http, start + 3 * SECOND, start + 4 * SECOND), "it was connected later");
        assert!(ledger.excuses(Side::Http, start + SECOND, start + 4 * SECOND));
        assert!(!ledger.excuses(Side::Http, start + SECOND, start + 4 * SECOND), "more than it had");
        let kill = Kill { how: Death::Killed, ended: Some(start + 2 * SECOND), had: Some(2), lost: 3 };
        assert_eq!((ledger.kills(Side::Http), ledger.lost(Side::Http)), (vec![kill], 3));
        assert_eq!((ledger.kills(Side::Echo), ledger.lost(Side::Echo)), (vec![], 0));
    }

    #[test]
    fn losses_long_after_a_kill_are_not_its_own() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        ledger.begin_kill(Side::Echo, Death::Hung);
        ledger.end_kill(Side::Echo, start, 9);
        assert!(!ledger.excuses(Side::Echo, start, start + NOTICED_AFTER_MAX + SECOND));
        let kill = Kill { how: Death::Hung, ended: Some(start), had: Some(9), lost: 0 };
        assert_eq!(ledger.kills(Side::Echo), [kill]);
    }

    #[test]
    fn losses_that_are_only_counted_are_bounded_as_well() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.charge_last(Side::Http, 1), 1, "nobody was killed");
        ledger.begin_kill(Side::Http, Death::Killed);
        ledger.end_kill(Side::Http, start, 5);
        assert_eq!(ledger.charge_last(Side::Http, 5), 0);
        assert_eq!(ledger.charge_last(Side::Http, 2), 2);
    }
}
