use std::time::Instant;

use super::exhaustive::{Small, Wish, explore};
use super::*;
use crate::handover::Tier;
use crate::master::core::mutation::{self, Mutation};

/// Seeds that a mutation is looked for in.
const MUTATION_SEEDS_MAX: u64 = 60_000;

#[test]
fn seeds() {
    let count = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    let first = std::env::var("FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut tally = std::collections::BTreeMap::new();
    std::panic::set_hook(Box::new(|_| {}));
    let began = std::time::Instant::now();
    for seed in first..first + count {
        if let Err(failing) = history_of(seed) {
            let entry = tally.entry(failing.violation.invariant).or_insert((0, seed));
            entry.0 += 1;
        }
    }
    println!("{count} seeds in {:?}: {tally:#?}", began.elapsed());
    let chosen = std::env::var("SHOW").ok().and_then(|text| text.parse().ok());
    for seed in chosen.into_iter().chain(tally.values().map(|(_, seed)| *seed).filter(|_| chosen.is_none())) {
        println!("{}", run_seed(seed).unwrap_err());
    }
    assert!(tally.is_empty());
}

#[test]
fn each_mutation_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    println!("{:<28} {:>7} {:>9}  invariant", "mutation", "seeds", "ms");
    for mutation in Mutation::ALL {
        let began = Instant::now();
        let found = mutation::with(Some(mutation), || {
            (0..MUTATION_SEEDS_MAX).find_map(|seed| Some((seed, history_of(seed).err()?)))
        });
        let took_ms = began.elapsed().as_millis();
        let name = format!("{mutation:?}");
        match found {
            Some((seed, failing)) => {
                println!("{name:<28} {:>7} {took_ms:>9}  {}", seed + 1, failing.violation.invariant);
            }
            None => {
                println!("{name:<28} {:>7} {took_ms:>9}  missed", "-");
                missed.push(mutation);
            }
        }
    }
    assert!(missed.is_empty(), "missed: {missed:?}");
}

#[test]
fn small_worlds_are_explored() {
    let small = Small {
        tier: Tier::Ebpf,
        workers: 1,
        is_held: true,
        wishes: vec![Wish::Commit, Wish::Revert],
        wishes_max: 1,
        kills: false,
    };
    let began = Instant::now();
    let explored = explore(small, 200_000, 2);
    println!("{explored:?} in {:?}", began.elapsed());
}
