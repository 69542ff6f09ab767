//! `baton-bench handover`: reloads, scales, upgrades, reverts and kills a server under load, and reports what its
//! clients saw.

mod arguments;
mod batond;
mod others;
mod picture;
mod plot;
mod report;
mod target;

use std::fs;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;

pub(crate) use self::arguments::HandoverArguments;
pub(crate) use self::batond::{ask, has_serving};
use self::picture::Watch;
use self::report::{Done, Report};
use self::target::{Action, Target};
pub(crate) use self::target::{end_descendants, free_port, is_alive, process_state, reap, signal, wait_until};
use crate::load::{self, ExchangePlan, HttpPlan, Load, Plan};
use crate::run::Failed;

/// Resolution of the timeline.
const INTERVAL: Duration = Duration::from_millis(20);

/// Source addresses of clients that connect for each request.
const SOURCES: u8 = 8;

/// The kernel closes the ring of a killed process only later, and with it the connections in the ring's table: tens of
/// milliseconds were measured. Resets after a kill have been seen as late as the next action, 200 ms later.
const KILLED_WINDOW: Duration = Duration::from_secs(1);

/// The actions, and how often each is performed.
pub(crate) struct Schedule {
    actions: Vec<Action>,
    repeat: u32,
    every: Duration,
    window: Duration,
    steady: Duration,
}

/// Both loads.
struct Loads {
    churn: Load,
    kept: Load,
}

impl Loads {
    fn enter_phase(&self, phase: usize) {
        self.churn.enter_phase(phase);
        self.kept.enter_phase(phase);
    }
}

/// Runs it, and prints the results.
pub(crate) fn run(arguments: &HandoverArguments) -> Result<(), Failed> {
    arguments.check().map_err(Failed::Usage)?;
    // Masters whose own master has left become this process's children, and end with it.
    set_child_subreaper(true).map_err(|error| Failed::Error(format!("prctl: {error}")))?;
    let mut target = arguments.target().map_err(Failed::Error)?;
    let schedule = arguments.schedule(&target.actions()).map_err(Failed::Usage)?;
    let request = HttpPlan::get("/", target.address()).map_err(Failed::Error)?;
    let plan = |connections: u32| {
        let mut plan = Plan::new(target.address(), ExchangePlan::Http(request.clone()));
        plan.connections = connections;
        plan.phases = schedule.actions.len() + 1;
        plan.interval = INTERVAL;
        plan.cores = arguments.cores.clone();
        plan
    };
    let mut churn = plan(arguments.churn);
    churn.requests_per_connection = 1;
    churn.sources = Plan::sources_for(target.address().ip(), SOURCES);
    let kept = plan(arguments.keep_alive);
    let loads =
        Loads { churn: load::start(&churn).map_err(Failed::Error)?, kept: load::start(&kept).map_err(Failed::Error)? };
    let watch = arguments.picture.as_ref().zip(target.control()).map(|(path, control)| (path, Watch::start(control)));
    let mut done = Vec::new();
    let ran = perform(target.as_mut(), &schedule, &loads, &mut done);
    loads.enter_phase(0);
    let origin = loads.churn.started();
    let churn = loads.churn.stop().map_err(Failed::Error)?;
    let kept = loads.kept.stop().map_err(Failed::Error)?;
    let report = Report::new(target.name(), &schedule, &done, [arguments.churn, arguments.keep_alive], &churn, &kept);
    drop(target);
    io::stdout()
        .write_all(report.table().as_bytes())
        .map_err(|error| Failed::Error(format!("standard output: {error}")))?;
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| Failed::Error(error.to_string()))?;
        fs::write(path, json).map_err(|error| Failed::Error(format!("{}: {error}", path.display())))?;
    }
    if let Some(path) = &arguments.plot {
        plot::draw(path, &report, &done, origin, &churn, &kept)
            .map_err(|error| Failed::Error(format!("{}: {error}", path.display())))?;
    }
    ran.map_err(Failed::Error)?;
    if let Some((path, watch)) = watch {
        picture::draw(path, watch, &report, &done, origin, (&churn, &kept))
            .map_err(|error| Failed::Error(format!("{}: {error}", path.display())))?;
    }
    if report.lost() > 0 { Err(Failed::Found) } else { Ok(()) }
}

/// Waits for the steady time, then performs every action, `repeat` times each.
fn perform(target: &mut dyn Target, schedule: &Schedule, loads: &Loads, done: &mut Vec<Done>) -> Result<(), String> {
    loads.enter_phase(0);
    thread::sleep(schedule.steady);
    for round in 0..schedule.repeat {
        for (index, action) in schedule.actions.iter().enumerate() {
            let _ = writeln!(io::stderr(), "{} {} of {}", action.name(), round + 1, schedule.repeat);
            loads.enter_phase(index + 1);
            let begun = Instant::now();
            target.perform(*action).map_err(|problem| format!("{}: {problem}", action.name()))?;
            let ended = Instant::now();
            target.settle().map_err(|problem| format!("after {}: {problem}", action.name()))?;
            thread::sleep(if action.kills_workers() { schedule.window.max(KILLED_WINDOW) } else { schedule.window });
            done.push(Done { action: *action, begun, ended, settled: Instant::now() });
            loads.enter_phase(0);
            thread::sleep(schedule.every.saturating_sub(begun.elapsed()));
        }
    }
    Ok(())
}
