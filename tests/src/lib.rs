//! What the tests of the whole system share: building and running programs, clients, and a look into /proc.
//!
//! Everything waits for events with a bound on time, and ends the processes it started.
#![deny(unsafe_code)]

pub mod churn;
pub mod client;
pub mod control;
pub mod fleet;
pub mod lineage;
pub mod namespace;
pub mod process;
pub mod program;
pub mod stream;

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within [`PATIENCE`]; says what was waited for.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_until_equal(what, true, condition);
}

/// Waits until `value` gives what is expected.
///
/// # Panics
/// If it does not within [`PATIENCE`]; says what was waited for, and what was there instead.
pub fn wait_until_equal<T: PartialEq<E> + Debug, E: Debug>(what: &str, expected: E, mut value: impl FnMut() -> T) {
    let start = Instant::now();
    loop {
        let there = value();
        if there == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}: {there:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says that a test did not run, and why; `true`, for the caller to return.
pub fn skip(reason: &str) -> bool {
    eprintln!("SKIPPED: {reason}");
    true
}
