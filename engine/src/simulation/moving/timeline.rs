//! Shortens a failing history and writes it as a timeline.

use std::fmt::Write;

use super::super::shorten::shorten;
use super::steps::Step;
use super::world::World;
use super::{Failure, Violation, guarded, run};

/// Leaves out steps that the violation does not need.
fn shortened(failure: &Failure) -> Failure {
    let fails_alike =
        |steps: &[Step]| run(steps).0.is_err_and(|violation| violation.invariant == failure.violation.invariant);
    let steps = shorten(failure.steps.clone(), 1, fails_alike);
    match run(&steps).0 {
        Err(violation) => Failure { steps, violation },
        Ok(()) => failure.clone(),
    }
}

/// The events of the shortest history, for a reader.
pub(super) fn time_line(seed: u64, failure: &Failure) -> String {
    let short = shortened(failure);
    let Violation { invariant, detail } = &short.violation;
    let mut text = format!("seed {seed}: {invariant}: {detail}\nafter {} steps:\n", short.steps.len());
    let Some(Step::Begin { shape }) = short.steps.first() else { return text };
    let mut world = World::new(*shape);
    world.log = Some(Vec::new());
    let mut seen = 0;
    let with_state = if world.has_state { "with" } else { "without" };
    let _ = writeln!(text, "    {} workers, {with_state} state of their own", world.workers.len());
    for step in &short.steps[1..] {
        let outcome = guarded(&mut world, |world| world.take(*step));
        let _ = writeln!(text, "{step:?}");
        seen = write_log(&mut text, &world, seen);
        if outcome.is_err() {
            return text;
        }
    }
    let _ = guarded(&mut world, World::rest);
    write_log(&mut text, &world, seen);
    text
}

fn write_log(text: &mut String, world: &World, seen: usize) -> usize {
    let log = world.log.as_deref().unwrap_or_default();
    for line in &log[seen..] {
        let _ = writeln!(text, "    {line}");
    }
    log.len()
}
