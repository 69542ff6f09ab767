//! The moves of connections between workers: the real `Sender`, `Receiver` and `Lifecycle`, in a world of simulated
//! sockets, clients, channels, masters and time, in which workers die, stand still and start again.
//!
//! A seed gives a history: a list of steps. Each step makes sense or does nothing, so that a failing history can be
//! shortened by leaving steps out. After each step the invariants of `checks.rs` hold. At the end, when no more faults
//! come and time passes, no process waits forever.
//!
//! The world leaves out: the kernel's real cancellation and socket buffers, descriptors that do not arrive, the bytes
//! of messages, and protocols that panic elsewhere than in a thaw. The tests in `tests/tests/connections` have these.

mod checks;
mod connections;
mod driver;
mod links;
mod steps;
#[cfg(test)]
mod tests;
mod timeline;
mod turn;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::steps::Step;
use self::world::World;
use super::random::Random;

/// The most steps of a history.
const STEPS_MAX: usize = 160;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Violation {
    /// What should hold.
    invariant: &'static str,
    detail: String,
}

/// A history that breaks an invariant.
#[derive(Clone, Debug)]
struct Failure {
    steps: Vec<Step>,
    violation: Violation,
}

/// Makes the history of a seed, and runs it.
fn history_of(seed: u64) -> Result<usize, Failure> {
    let mut random = Random::new(seed);
    let mut steps = Vec::new();
    let shape = random.below(u64::MAX);
    let mut world = World::new(shape);
    steps.push(Step::Begin { shape });
    let count = 20 + random.below(STEPS_MAX as u64 - 20) as usize;
    for _ in 0..count {
        let step = steps::choose(&world, &mut random);
        steps.push(step);
        if let Err(violation) = guarded(&mut world, |world| world.take(step)) {
            return Err(Failure { steps, violation });
        }
    }
    match guarded(&mut world, World::rest) {
        Ok(()) => Ok(steps.len()),
        Err(violation) => Err(Failure { steps, violation }),
    }
}

/// Runs a history again.
fn run(steps: &[Step]) -> (Result<(), Violation>, World) {
    let shape = match steps.first() {
        Some(Step::Begin { shape }) => *shape,
        _ => 0,
    };
    let mut world = World::new(shape);
    for step in steps {
        if let Err(violation) = guarded(&mut world, |world| world.take(*step)) {
            return (Err(violation), world);
        }
    }
    let result = guarded(&mut world, World::rest);
    (result, world)
}

/// A machine panics when it detects an illegal state.
fn guarded(world: &mut World, act: impl FnOnce(&mut World) -> Result<(), Violation>) -> Result<(), Violation> {
    match catch_unwind(AssertUnwindSafe(|| act(world))) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let detail = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Violation { invariant: "custody takes legal steps only", detail: detail.unwrap_or_default() })
        }
    }
}

/// Runs the history of a seed.
///
/// # Errors
/// The shortest history found that breaks an invariant, as a timeline to read.
pub fn run_seed(seed: u64) -> Result<(), String> {
    match history_of(seed) {
        Ok(_) => Ok(()),
        Err(failure) => Err(timeline::time_line(seed, &failure)),
    }
}
