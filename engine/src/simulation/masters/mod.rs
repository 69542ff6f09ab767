//! The masters: their real cores in a world of simulated kernel, processes, workers, channels, names, clients and
//! operators. Any process may die or stand still, and any call may fail.
//!
//! A seed gives a history: a list of [`Step`](steps::Step)s. After each step of any process the invariants of
//! [`checks`] hold. At the end, when no more faults come and time passes, those of [`rest`] hold.
//!
//! The world leaves out: real descriptors and their numbers, the bytes of messages, the moves of connections
//! (`simulation/moving` has them), worker state that is too large, other users, several servers on one address, ports
//! that the kernel chooses. The tests in `tests/tests` have these.

mod calls;
mod channels;
mod checks;
mod driver;
mod exhaustive;
mod kernel;
mod micro;
mod process;
mod rest;
mod steps;
#[cfg(test)]
mod tests;
mod themes;
mod timeline;
mod universe;
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use self::exhaustive::Explored;
use self::steps::Step;
use self::universe::Universe;
use super::shorten::shorten;
use crate::handover::Tier;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Violation {
    /// What should hold.
    invariant: &'static str,
    detail: String,
}

impl Violation {
    fn new(invariant: &'static str, detail: String) -> Self {
        Self { invariant, detail }
    }
}

/// A history that breaks an invariant.
#[derive(Clone, Debug)]
struct Failing {
    steps: Vec<Step>,
    violation: Violation,
}

/// Runs a history. Returns the violation and the number of steps until then.
fn run(steps: &[Step]) -> Result<(), (Violation, usize)> {
    let Some(Step::Begin { shape }) = steps.first() else { return Ok(()) };
    let mut universe = Universe::new(*shape);
    for (index, step) in steps.iter().enumerate() {
        guarded(&mut universe, |universe| universe.take(*step)).map_err(|violation| (violation, index + 1))?;
    }
    guarded(&mut universe, Universe::rest).map_err(|violation| (violation, steps.len()))
}

/// A core panics when it detects an illegal state.
fn guarded(universe: &mut Universe, act: impl FnOnce(&mut Universe) -> Result<(), Violation>) -> Result<(), Violation> {
    match catch_unwind(AssertUnwindSafe(|| act(universe))) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let detail = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Violation::new("the core is in a legal state", detail.unwrap_or_default()))
        }
    }
}

fn history_of(seed: u64) -> Result<(), Failing> {
    let mut steps = themes::history(seed);
    run(&steps).map_err(|(violation, count)| {
        steps.truncate(count);
        Failing { steps, violation }
    })
}

/// Leaves out steps that the violation does not need.
fn shortened(failing: &Failing) -> Failing {
    let fails_alike = |steps: &[Step]| run(steps).is_err_and(|(one, _)| one.invariant == failing.violation.invariant);
    let steps = shorten(failing.steps.clone(), 1, fails_alike);
    match run(&steps) {
        Err((violation, _)) => Failing { steps, violation },
        Ok(()) => failing.clone(),
    }
}

/// Explores the small worlds exhaustively: for each tier, an upgrade that is held or not, with this many requests of
/// operators at any moment, and one kill of any process. Returns the number of states; `report` gets a line for each
/// world.
///
/// # Errors
/// The steps to a state that breaks an invariant, or that there are more states than `states_max` in one world.
pub fn explore(wishes_max: usize, states_max: usize, mut report: impl FnMut(String)) -> Result<usize, String> {
    let mut total = 0;
    for tier in [Tier::Ebpf, Tier::Adopt] {
        for is_held in [true, false] {
            let began = Instant::now();
            let small = exhaustive::Small { tier, workers: 1, is_held, wishes_max };
            let explored = exhaustive::explore(small, states_max);
            let held = if is_held { ", held" } else { "" };
            let Explored { states, is_complete, broken } = explored;
            report(format!("{tier}, upgrade{held}: {states} states in {} ms", began.elapsed().as_millis()));
            if let Some(broken) = broken {
                return Err(broken);
            }
            if !is_complete {
                return Err(format!("more than {states_max} steps between states, and not all were looked at"));
            }
            total += states;
        }
    }
    Ok(total)
}

/// Runs the history of a seed, and returns what happened.
///
/// # Errors
/// As [`run_seed`].
pub fn replay(seed: u64) -> Result<String, String> {
    run_seed(seed)?;
    let (_, lines) = timeline::recorded(|| run(&themes::history(seed)));
    Ok(lines)
}

/// Runs the history of a seed.
///
/// # Errors
/// The shortest history found that breaks an invariant, as a timeline to read.
pub fn run_seed(seed: u64) -> Result<(), String> {
    let Err(failing) = history_of(seed) else { return Ok(()) };
    let short = shortened(&failing);
    let (_, lines) = timeline::recorded(|| run(&short.steps));
    let steps = short.steps.iter().map(|step| format!("  {step:?}\n")).collect::<String>();
    Err(format!(
        "seed {seed} breaks \"{}\":\n  {}\n\nsteps ({} of {}):\n{steps}\nwhat happened:\n{lines}",
        short.violation.invariant,
        short.violation.detail,
        short.steps.len(),
        failing.steps.len(),
    ))
}
