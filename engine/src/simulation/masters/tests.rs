use std::panic;
use std::time::Instant;

use super::themes::{INSPECTING, REBALANCING, SPEAKING, UNIX};
use super::*;
use crate::master::core::mutation::{self, Mutation};

/// Seeds in a normal run of the tests.
const SEEDS: u64 = 6_000;

/// Seeds with which a mutation is searched for.
const MUTATION_SEEDS_MAX: u64 = 60_000;

/// Seeds that are tried if the known one does not find a mutation any more.
const OTHER_SEEDS_MAX: u64 = 2_000;

/// The first seed that finds each mutation.
const FOUND_BY: &[(Mutation, u64)] = &[
    (Mutation::FormerMasterObeys, 30),
    (Mutation::StopForgetsSuccessor, 313),
    (Mutation::NamesAreNotTaken, 13567),
    (Mutation::SocketsAreNotGivenBack, 295),
    (Mutation::StoppedStartKeepsSockets, 295),
    (Mutation::FailedStartKills, 7319),
    (Mutation::SuccessorLeavesFiles, 5),
    (Mutation::PredecessorLeavesFiles, 197),
    (Mutation::LossesAreAllowed, 73),
    (Mutation::TierIsNotCompared, 78),
    (Mutation::CutOffIsDone, 35),
    (Mutation::ShortestHangTimeJudges, 2490),
    (Mutation::NotRevertedIsNotTold, 107),
    (Mutation::StartingWorkerIsForgotten, 5136),
    (Mutation::ComingUpAfterCommit, 14670),
    (Mutation::ProbationForgetsWorkers, 270),
    (Mutation::StoppedWhileReverting, 35),
    (Mutation::RevertHastens, 163),
    (Mutation::OrphansStayAtIdle, 21578),
    (Mutation::RevertedTooEarly, 21900),
    (Mutation::WantedIsNotRetried, 3522),
    (Mutation::HalfSwitchStays, 1317),
    (Mutation::ShareIsNotRetried, 2026),
    (Mutation::OrphanIsAskedOnce, 204),
    (Mutation::ScalesShareOutcome, 13),
    (Mutation::PlacesStay, 4253),
    (Mutation::ReplacedKeepsGuards, 62),
    (Mutation::SteeringEndsEarly, 70),
    (Mutation::GivenUpSocketIsNotKept, 6798),
    (Mutation::GuardOfGivenUpAddressStays, 4762),
    (Mutation::ShareHasNoDeadline, 136_052),
    (Mutation::LateSocketIsNotShared, 54295),
    (Mutation::LateSocketIsNotPassedOn, 85526),
    (Mutation::ArrivalsStayWithLeaving, 101329),
    (Mutation::LeavingMasterLeavesFiles, 82672),
    (Mutation::RevertedRefusesChanges, 1613),
    (Mutation::SiblingsElsewhereAreForgotten, SPEAKING + 166),
    (Mutation::RebalancesDuringChanges, REBALANCING + 1_879),
    (Mutation::RebalanceGoesOn, REBALANCING + 1_215),
    (Mutation::SilentGiverIsAwaited, REBALANCING + 10_657),
    (Mutation::GoneGiverIsAwaited, REBALANCING + 340),
    (Mutation::WakesOfTheDeadAreLost, 848),
    (Mutation::OrphanKeepsUnixSockets, UNIX + 1),
    (Mutation::SilentWorkerIsAwaited, INSPECTING + 244),
    (Mutation::GoneWorkerIsAwaited, INSPECTING + 21),
];

/// The fewest states that all small worlds have together.
const STATES_MIN: usize = 400_000;

/// Far more than there are.
const STATES_MAX: usize = 20_000_000;

/// A machine that detects an illegal state panics, which counts as a violation like others.
fn hush() {
    panic::set_hook(Box::new(|_| {}));
}

fn fails(mutation: Option<Mutation>, seed: u64) -> Option<Failing> {
    mutation::with(mutation, || history_of(seed).err())
}

/// The first of the seeds that finds a mutation, and that finds nothing without it.
fn search(mutation: Mutation, mut seeds: impl Iterator<Item = u64>) -> Option<(u64, Failing)> {
    seeds.find_map(|seed| {
        let failing = fails(Some(mutation), seed)?;
        fails(None, seed).is_none().then_some((seed, failing))
    })
}

/// Searches for each mutation and prints a table. Returns those that were found, with their seeds, and those that were
/// not.
fn table<S: Iterator<Item = u64>>(
    mutations: impl Iterator<Item = Mutation>,
    seeds: impl Fn(Mutation) -> S,
) -> (Vec<(Mutation, u64)>, Vec<Mutation>) {
    let (mut found, mut missed) = (Vec::new(), Vec::new());
    println!("{:<28} {:>7} {:>7}  invariant", "mutation", "seed", "ms");
    for mutation in mutations {
        let began = Instant::now();
        let result = search(mutation, seeds(mutation));
        let (name, took_ms) = (format!("{mutation:?}"), began.elapsed().as_millis());
        match result {
            Some((seed, failing)) => {
                println!("{name:<28} {seed:>7} {took_ms:>7}  {}", failing.violation.invariant);
                found.push((mutation, seed));
            }
            None => {
                println!("{name:<28} {:>7} {took_ms:>7}  missed", "-");
                missed.push(mutation);
            }
        }
    }
    (found, missed)
}

#[test]
fn nothing_breaks() {
    let seeds = (0..SEEDS).chain(SPEAKING..SPEAKING + SEEDS / 4).chain(REBALANCING..REBALANCING + SEEDS / 2);
    run_seeds(seeds.chain(UNIX..UNIX + SEEDS));
}

#[test]
fn nothing_breaks_while_operators_look_at_connections() {
    run_seeds(INSPECTING..INSPECTING + SEEDS / 2);
}

fn run_seeds(seeds: impl Iterator<Item = u64>) {
    hush();
    for seed in seeds {
        if let Err(history) = run_seed(seed) {
            // The panic hook prints nothing.
            println!("{history}");
            panic!("seed {seed}");
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

/// The seeds of `FOUND_BY` find their mutations. If a change of the simulation has given a seed another history, a few
/// others are tried.
#[test]
fn each_mutation_is_found_by_its_seed() {
    hush();
    let known = |mutation: Mutation| FOUND_BY.iter().filter(move |(one, _)| *one == mutation).map(|(_, seed)| *seed);
    let (_, missed) = table(Mutation::ALL.iter().copied(), |mutation| {
        known(mutation)
            .chain(0..OTHER_SEEDS_MAX)
            .chain(SPEAKING..SPEAKING + OTHER_SEEDS_MAX)
            .chain(REBALANCING..REBALANCING + 2 * OTHER_SEEDS_MAX)
            .chain(UNIX..UNIX + OTHER_SEEDS_MAX)
            .chain(INSPECTING..INSPECTING + OTHER_SEEDS_MAX)
    });
    assert!(
        missed.is_empty(),
        "missed: {missed:?}. Renew FOUND_BY with what this prints:\n  \
         cargo test --release -p baton-engine --lib each_mutation_is_found -- --ignored --nocapture"
    );
}

/// Searches for each mutation from the first seed on, and prints the lines of `FOUND_BY`: run it with `--ignored
/// --nocapture`. The variable `MUTATION` selects one mutation by name; `FROM` sets the first seed.
#[test]
#[ignore = "takes some minutes"]
fn each_mutation_is_found() {
    hush();
    let only = std::env::var("MUTATION").ok();
    let is_chosen = |one: &Mutation| only.as_ref().is_none_or(|only| *only == format!("{one:?}"));
    let from: u64 = std::env::var("FROM").ok().and_then(|from| from.parse().ok()).unwrap_or(0);
    let (found, missed) = table(Mutation::ALL.iter().copied().filter(is_chosen), |_| {
        [0, SPEAKING, REBALANCING, UNIX, INSPECTING]
            .into_iter()
            .flat_map(move |first| first + from..first + from + MUTATION_SEEDS_MAX)
    });
    found.iter().for_each(|(mutation, seed)| println!("    (Mutation::{mutation:?}, {seed}),"));
    assert!(missed.is_empty(), "missed: {missed:?}");
}
