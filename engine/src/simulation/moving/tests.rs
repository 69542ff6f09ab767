//! The simulation finds nothing, and finds each defect that is put back.

use std::time::{Duration, Instant};

use super::timeline::time_line;
use super::{history_of, run_seed};
use crate::handover::mutation::{Mutation, with};

/// Histories of a run of the tests.
const SEEDS: u64 = 50_000;

/// A defect that is put back must be found so soon.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn moving_keeps_its_promises() {
    let start = Instant::now();
    let mut steps = 0;
    for seed in 0..SEEDS {
        match history_of(seed) {
            Ok(count) => steps += count,
            Err(failure) => panic!("{}", time_line(seed, &failure)),
        }
    }
    let ms = start.elapsed().as_millis().max(1) as u64;
    println!("{SEEDS} histories of {steps} steps in {ms} ms, {} a minute", SEEDS * 60_000 / ms);
}

#[test]
fn a_seed_gives_the_same_history_again() {
    (0..20).for_each(|seed| assert_eq!(run_seed(seed), run_seed(seed)));
}

#[test]
fn each_defect_that_is_put_back_is_found() {
    let mut missed = Vec::new();
    println!("{:<24} {:<56} {:>7} {:>6}", "defect put back", "found by", "seeds", "ms");
    for mutation in Mutation::ALL.iter().copied() {
        let start = Instant::now();
        let found = with(Some(mutation), || {
            (0..)
                .take_while(|_| start.elapsed() < SEARCH_TIME_MAX)
                .find_map(|seed| Some((seed, history_of(seed).err()?)))
        });
        let ms = start.elapsed().as_millis();
        match found {
            Some((seed, failure)) => {
                println!("{:<24} {:<56} {:>7} {ms:>6}", format!("{mutation:?}"), failure.violation.invariant, seed + 1);
            }
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not found within a minute: {missed:?}");
}
