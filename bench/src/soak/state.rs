//! What all threads of a run share: whether it continues, the first failure, and the current changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::loads::Gauges;
use super::plan::{Side, Step};

/// Number of failures that are kept.
const FAILURES_MAX: usize = 10;

/// See the module's head.
#[derive(Debug)]
pub(super) struct State {
    started: Instant,
    /// The load must pause: for a quiet point, or the end.
    pauses: AtomicBool,
    is_interrupted: AtomicBool,
    failures: Mutex<Vec<String>>,
    under_way: [Mutex<Option<(Step, Instant)>>; 2],
    pub(super) ledger: Ledger,
    pub(super) gauges: Gauges,
    /// Connections of visitors.
    pub(super) visitors_connections: AtomicU64,
    pub(super) changes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holds one value that is consistent at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            pauses: AtomicBool::new(false),
            is_interrupted: AtomicBool::new(false),
            failures: Mutex::new(Vec::new()),
            under_way: Default::default(),
            ledger: Ledger::default(),
            gauges: Gauges::default(),
            visitors_connections: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether the load should end: for a while, because of a failure, or because of a signal.
    pub(super) fn is_over(&self) -> bool {
        self.pauses.load(Ordering::SeqCst) || self.has_to_end()
    }

    /// Whether no other segment follows.
    pub(super) fn has_to_end(&self) -> bool {
        self.is_interrupted() || !lock(&self.failures).is_empty()
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::SeqCst)
    }

    pub(super) fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::SeqCst);
    }

    pub(super) fn pause(&self, pauses: bool) {
        self.pauses.store(pauses, Ordering::SeqCst);
    }

    /// Records a failure, with the time and the current changes, and prints it at once. The first may cause later ones.
    pub(super) fn fail(&self, what: &str) {
        let mut failures = lock(&self.failures);
        if failures.len() == FAILURES_MAX {
            return;
        }
        let mut text = format!("after {:.3} s: {what}", self.elapsed().as_secs_f64());
        for side in Side::ALL {
            let is_since = *lock(&self.under_way[side as usize]);
            let now = is_since.map_or("no change".to_owned(), |(step, since)| {
                let name = step.change.name();
                format!("change {} ({name}) for {} ms", step.number, since.elapsed().as_millis())
            });
            text.push_str(&format!("; {}: {now}", side.name()));
        }
        super::say(&format!("FAILED {text}"));
        failures.push(text);
    }

    /// The failures. The first comes before those that it may have caused.
    pub(super) fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }

    pub(super) fn begin(&self, side: Side, step: Option<Step>) {
        *lock(&self.under_way[side as usize]) = step.map(|step| (step, Instant::now()));
    }

    pub(super) fn connections_of_visitors(&self) -> u64 {
        self.visitors_connections.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Change;
    use super::*;

    #[test]
    fn failures_are_kept_in_order_and_say_what_was_under_way() {
        let state = State::new();
        assert!(!state.is_over());
        state.begin(Side::Echo, Some(Step { number: 7, pause: Duration::ZERO, change: Change::Reload }));
        state.fail("an answer is missing");
        (0..FAILURES_MAX).for_each(|_| state.fail("another"));
        let failures = state.failures();
        let first = &failures[0];
        assert!(first.contains("an answer is missing; http: no change; echo: change 7 (reload) for "), "{first}");
        assert_eq!(failures.len(), FAILURES_MAX);
        assert!(state.is_over() && state.has_to_end());
    }

    #[test]
    fn a_pause_is_not_the_end() {
        let state = State::new();
        state.pause(true);
        assert!(state.is_over() && !state.has_to_end());
        state.pause(false);
        assert!(!state.is_over());
        state.interrupt();
        assert!(state.has_to_end());
    }
}
