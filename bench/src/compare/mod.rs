//! `baton-bench compare`: servers side by side. Rounds are interleaved, the server is on one core and the load on another,
//! and what counts is requests per second of *server CPU time*, since the load would be the limit of plain rates.

mod arguments;
mod catalogue;
mod chart;
mod measure;
mod process;
mod report;
mod statistics;
mod workload;

use std::io::{self, Write};
use std::path::PathBuf;

pub(crate) use self::arguments::CompareArguments;
use self::catalogue::{Places, Server};
use self::measure::Sample;
use self::report::{Comparison, Row};
use self::statistics::{Summary, order};
use self::workload::Workload;
use crate::run::Failed;

/// What is to be measured, and how.
struct Plan {
    servers: Vec<Server>,
    workloads: Vec<Workload>,
    rounds: u32,
    seconds: f64,
    warm_up: f64,
    server_core: usize,
    load_core: usize,
    places: Places,
    /// This program.
    load_program: PathBuf,
}

/// Runs it, prints a table for each workload as soon as it is there, and writes the files.
pub(crate) fn run(arguments: &CompareArguments) -> Result<(), Failed> {
    if arguments.list {
        return print(&arguments.list_text().map_err(Failed::Error)?);
    }
    let mut plan = arguments.plan().map_err(Failed::Usage)?;
    let mut skipped = Vec::new();
    let used = |server: &Server| plan.workloads.iter().any(|workload| server.serves(workload));
    let wanted: Vec<Server> = plan.servers.iter().filter(|server| used(server)).cloned().collect();
    plan.servers.clear();
    for server in wanted {
        say(&format!("preparing {}", server.name));
        match server.prepare(&plan.places) {
            Ok(()) => plan.servers.push(server),
            Err(problem) => {
                say(&format!("SKIPPED {}: {problem}", server.name));
                skipped.push(format!("{}: {problem}", server.name));
            }
        }
    }
    if plan.servers.is_empty() {
        return Err(Failed::Error("no server is left to be measured".to_owned()));
    }
    let mut comparison = Comparison::new(&plan, skipped);
    for workload in &plan.workloads {
        let rows = measure_workload(&plan, workload, &mut comparison.skipped);
        if rows.is_empty() {
            continue;
        }
        comparison.add(workload, rows);
        print(&comparison.last_table())?;
    }
    arguments.write(&comparison).map_err(Failed::Error)
}

fn measure_workload(plan: &Plan, workload: &Workload, skipped: &mut Vec<String>) -> Vec<Row> {
    let mut servers: Vec<&Server> = plan.servers.iter().filter(|server| server.serves(workload)).collect();
    let rate = match workload {
        Workload::Rate { percent } => {
            let slowest = slowest_rate(plan, &servers);
            say(&format!("the slowest server answers {slowest:.0} a second"));
            Some((slowest * f64::from(*percent) / 100.0).max(1.0))
        }
        _ => None,
    };
    let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
    let mut broken = vec![false; servers.len()];
    for round in 0..plan.rounds {
        for index in order(servers.len(), round) {
            if broken[index] {
                continue;
            }
            let name = &servers[index].name;
            say(&format!("{workload}: round {} of {}, {name}", round + 1, plan.rounds));
            match measure::cell(plan, servers[index], workload, rate) {
                Ok(sample) => samples[index].push(sample),
                Err(problem) => {
                    say(&format!("SKIPPED {name} for {workload}: {problem}"));
                    skipped.push(format!("{name}, {workload}: {problem}"));
                    broken[index] = true;
                }
            }
        }
    }
    let rows = servers.drain(..).zip(samples).filter(|(_, samples)| !samples.is_empty());
    rows.map(|(server, samples)| Row::new(server, samples, rate)).collect()
}

/// Requests a second of the slowest server, as fast as it goes.
fn slowest_rate(plan: &Plan, servers: &[&Server]) -> f64 {
    let as_fast = Workload::Http { connections: 64, depth: 1 };
    let rates = servers.iter().filter_map(|server| {
        say(&format!("the most that {} can do", server.name));
        measure::cell(plan, server, &as_fast, None).ok().map(|sample| sample.per_second)
    });
    Summary::of(rates.collect::<Vec<_>>()).map_or(1.0, |summary| summary.min)
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn print(text: &str) -> Result<(), Failed> {
    writeln!(io::stdout(), "{text}").map_err(|error| Failed::Error(format!("standard output: {error}")))
}
