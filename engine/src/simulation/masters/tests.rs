use std::panic;
use std::time::Instant;

use super::*;
use crate::master::core::mutation::{self, Mutation};

/// Seeds of an ordinary run of the tests.
const SEEDS: u64 = 6_000;

/// Seeds that a mutation is looked for in.
const MUTATION_SEEDS_MAX: u64 = 60_000;

/// States of all small worlds together, at least.
const STATES_MIN: usize = 400_000;

/// Far more than there are.
const STATES_MAX: usize = 20_000_000;

/// A machine that finds itself in an illegal state panics, which is a violation like others.
fn hush() {
    panic::set_hook(Box::new(|_| {}));
}

fn fails(mutation: Option<Mutation>, seed: u64) -> Option<Failing> {
    mutation::with(mutation, || history_of(seed).err())
}

/// The first seed that finds a mutation, and that finds nothing without it.
fn finds(mutation: Mutation) -> Option<(u64, Failing)> {
    (0..MUTATION_SEEDS_MAX).find_map(|seed| {
        let failing = fails(Some(mutation), seed)?;
        fails(None, seed).is_none().then_some((seed, failing))
    })
}

#[test]
fn nothing_breaks() {
    hush();
    for seed in 0..SEEDS {
        if let Err(history) = run_seed(seed) {
            panic!("{history}");
        }
    }
}

#[test]
fn small_worlds_are_explored() {
    hush();
    let total = explore(1, STATES_MAX, |world| println!("{world}")).unwrap_or_else(|broken| panic!("{broken}"));
    println!("{total} states");
    assert!(total >= STATES_MIN, "{total} states, and {STATES_MIN} were seen before: what is left out?");
}

/// Prints the table of mutations: with `--ignored --nocapture`; one alone with its name in the variable `MUTATION`.
#[test]
#[ignore = "takes some minutes"]
fn each_mutation_is_found() {
    hush();
    let mut missed = Vec::new();
    println!("{:<28} {:>7} {:>7}  invariant", "mutation", "seeds", "ms");
    let only = std::env::var("MUTATION").ok();
    let is_chosen = |one: &Mutation| only.as_ref().is_none_or(|only| *only == format!("{one:?}"));
    for mutation in Mutation::ALL.into_iter().filter(is_chosen) {
        let began = Instant::now();
        let found = finds(mutation);
        let (name, took_ms) = (format!("{mutation:?}"), began.elapsed().as_millis());
        match found {
            Some((seed, failing)) => {
                println!("{name:<28} {:>7} {took_ms:>7}  {}", seed + 1, failing.violation.invariant);
            }
            None => {
                println!("{name:<28} {:>7} {took_ms:>7}  missed", "-");
                missed.push(mutation);
            }
        }
    }
    assert!(missed.is_empty(), "missed: {missed:?}");
}
