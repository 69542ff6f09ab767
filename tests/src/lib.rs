//! Shared parts of the tests of the whole system: building and running programs, clients, and inspecting processes.
//!
//! Everything waits for events with a time limit, and ends the processes that it started.
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

/// Longer than any expected event takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within [`PATIENCE`]; the message names the condition.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_until_equal(what, true, condition);
}

/// Waits until `value` returns the expected value.
///
/// # Panics
/// If it does not within [`PATIENCE`]; the message names what was expected and the last value.
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

/// Prints that a test did not run, and why. Returns `true`, for the caller to return.
pub fn skip(reason: &str) -> bool {
    eprintln!("SKIPPED: {reason}");
    true
}
