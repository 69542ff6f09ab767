//! `baton-bench compare`: servers side by side. All servers run at the same time, the measured one on one core and the
//! load on another. Short windows follow each other in random order. A window of one server and the nearest one of
//! another are a pair; their ratio cancels out changes of the machine. The result is requests per second of *server CPU
//! time*, since the load would limit plain rates. Servers are started anew for each block of windows, since the
//! location of a process in memory changes results by some percent.

mod arguments;
mod catalogue;
mod chart;
mod made;
mod measure;
mod probe;
mod process;
mod report;
mod requests;
mod statistics;
mod workload;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use core_affinity::CoreId;

pub(crate) use self::arguments::CompareArguments;
use self::catalogue::{Places, Server};
use self::made::Made;
use self::measure::{Contender, Sample};
pub(crate) use self::process::Running;
pub(crate) use self::process::{kernel_bytes, memory_bytes};
pub(crate) use self::report::machine;
use self::report::{Comparison, Row, Skipped};
use self::statistics::Summary;
use self::workload::Workload;
use crate::load;
use crate::random::Random;
use crate::run::Failed;

/// What to measure, and how.
struct Plan {
    servers: Vec<Server>,
    workloads: Vec<Workload>,
    blocks: u32,
    windows: u32,
    seconds: f64,
    warm_up: f64,
    server_core: usize,
    load_core: usize,
    places: Places,
}

/// A server under a workload, and its results.
struct Entry<'a> {
    server: &'a Server,
    samples: Vec<Sample>,
    /// A remark for the table.
    note: Option<String>,
    is_broken: bool,
}

/// Runs it, prints a table for each workload as soon as it is complete, and writes the files.
pub(crate) fn run(arguments: &CompareArguments) -> Result<(), Failed> {
    if arguments.list {
        return print(&arguments.list_text().map_err(Failed::Error)?);
    }
    let mut plan = arguments.plan().map_err(Failed::Usage)?;
    let mut skipped = Skipped::default();
    let used = |server: &Server| plan.workloads.iter().any(|workload| server.serves(workload));
    let wanted: Vec<Server> = plan.servers.iter().filter(|server| used(server)).cloned().collect();
    plan.servers.clear();
    for server in wanted {
        say(&format!("preparing {}", server.name));
        match server.prepare(&plan.places) {
            Ok(()) => plan.servers.push(server),
            Err(problem) => skipped.add(&server.name, None, &problem),
        }
    }
    plan.places.made = Some(Made::new(&plan.workloads, &plan.places.data).map_err(Failed::Error)?);
    if plan.servers.is_empty() {
        return Err(Failed::Error("no server is left to be measured".to_owned()));
    }
    // Not earlier: builds use all cores. Processes that are started from here are pinned to their own cores.
    if !core_affinity::set_for_current(CoreId { id: plan.load_core }) {
        return Err(Failed::Error(format!("core {} cannot be used", plan.load_core)));
    }
    let mut comparison = Comparison::new(&plan, skipped);
    for workload in &plan.workloads {
        let rows = measure_workload(&plan, workload, &mut comparison).map_err(Failed::Error)?;
        if rows > 0 {
            print(&comparison.last_table())?;
        }
    }
    arguments.write(&comparison).map_err(Failed::Error)
}

/// Adds a table and returns its number of rows. A table without rows is not added.
fn measure_workload(plan: &Plan, workload: &Workload, comparison: &mut Comparison) -> Result<usize, String> {
    let mut load = requests::load(workload, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &plan.places.data)?;
    load.tls = plan.places.made.as_ref().map(|made| made.tls(workload)).transpose()?.flatten();
    let mut entries = Vec::new();
    for server in &plan.servers {
        match server.missing(&plan.places, workload) {
            None => entries.push(Entry { server, samples: Vec::new(), note: None, is_broken: false }),
            Some(_) if !server.is_of_kind(workload) => {}
            Some(missing) => comparison.skipped.add(&server.name, Some(workload), &missing),
        }
    }
    if let Workload::Rate { percent } = workload {
        let slowest = slowest_rate(plan, &entries)?;
        say(&format!("the slowest server answers {slowest:.0} a second"));
        load.rate = Some((slowest * f64::from(*percent) / 100.0).max(1.0));
    }
    let mut random = Random::new(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64));
    for block in 0..plan.blocks {
        measure_block(plan, workload, &load, block, &mut entries, &mut random, comparison);
    }
    let rows = entries.into_iter().filter(|entry| !entry.samples.is_empty());
    let rows: Vec<Row> = rows.map(|entry| Row::new(entry.server, entry.samples, load.rate, entry.note)).collect();
    let count = rows.len();
    if count > 0 {
        comparison.add(workload, requests::variety(&load), rows);
    }
    Ok(count)
}

/// Starts all servers, and measures each in every window.
fn measure_block(
    plan: &Plan,
    workload: &Workload,
    load: &load::Plan,
    block: u32,
    entries: &mut [Entry<'_>],
    random: &mut Random,
    comparison: &mut Comparison,
) {
    let mut fail = |entry: &mut Entry<'_>, problem: &str| {
        comparison.skipped.add(&entry.server.name, Some(workload), problem);
        entry.is_broken = true;
    };
    let mut contenders: Vec<Option<Contender>> = entries.iter().map(|_| None).collect();
    for (entry, contender) in entries.iter_mut().zip(&mut contenders).filter(|(entry, _)| !entry.is_broken) {
        let started = Contender::start(plan, entry.server, workload).and_then(|started| {
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, started.port));
            entry.note = probe::probe(target, load, workload, &plan.places.data_of(workload))?;
            Ok(started)
        });
        match started {
            Ok(started) => *contender = Some(started),
            Err(problem) => fail(entry, &problem),
        }
    }
    // A server keeps the memory of its connections, so it is measured once.
    let windows = if load.is_idle { 1 } else { plan.windows };
    let mut order: Vec<usize> = (0..entries.len()).collect();
    for window in 0..windows {
        say(&format!("{workload}: block {} of {}, window {} of {windows}", block + 1, plan.blocks, window + 1));
        random.shuffle(&mut order);
        for &index in &order {
            let (entry, Some(contender)) = (&mut entries[index], &contenders[index]) else { continue };
            match measure::window(plan, contender, load) {
                Ok(sample) => entry.samples.push(Sample { block, window, ..sample }),
                Err(problem) => {
                    contenders[index] = None;
                    fail(entry, &problem);
                }
            }
        }
    }
}

/// Requests per second of the slowest server at full speed.
fn slowest_rate(plan: &Plan, entries: &[Entry<'_>]) -> Result<f64, String> {
    let workload = Workload::Http { connections: workload::CONNECTIONS_DEFAULT, depth: 1 };
    let load = requests::load(&workload, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &plan.places.data)?;
    let rates = entries.iter().filter_map(|entry| {
        say(&format!("the most that {} can do", entry.server.name));
        let contender = Contender::start(plan, entry.server, &workload).ok()?;
        measure::window(plan, &contender, &load).ok().map(|sample| sample.per_second)
    });
    Ok(Summary::of(rates.collect::<Vec<_>>()).map_or(1.0, |summary| summary.min))
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn print(text: &str) -> Result<(), Failed> {
    writeln!(io::stdout(), "{text}").map_err(|error| Failed::Error(format!("standard output: {error}")))
}
