//! The simulation finds no violation, and finds each mutation.

use std::time::Instant;

use super::timeline::time_line;
use super::{history_of, run_seed};
use crate::handover::mutation::{Mutation, with};

/// Histories in a run of the tests.
const SEEDS: u64 = 50_000;

/// Each mutation is found within this number of seeds.
const MUTATION_SEEDS_MAX: u64 = 60_000;

/// The first seed that finds a mutation, for mutations where the search takes long.
const FOUND_BY: [(Mutation, u64); 2] =
    [(Mutation::WakeIsQueuedAgain, 33_328), (Mutation::VisitorsAreWaitedFor, 24_078)];

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
    println!("{:<24} {:<56} {:>7} {:>6}", "defect put back", "found by", "seed", "ms");
    for mutation in Mutation::ALL.iter().copied() {
        let start = Instant::now();
        let known = FOUND_BY.iter().filter(|(one, _)| *one == mutation).map(|(_, seed)| *seed);
        let found = with(Some(mutation), || {
            known.chain(0..MUTATION_SEEDS_MAX).find_map(|seed| Some((seed, history_of(seed).err()?)))
        });
        let ms = start.elapsed().as_millis();
        match found {
            Some((seed, failure)) => {
                println!("{:<24} {:<56} {:>7} {ms:>6}", format!("{mutation:?}"), failure.violation.invariant, seed);
            }
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not found by {MUTATION_SEEDS_MAX} seeds: {missed:?}");
}
