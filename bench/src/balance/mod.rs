//! `baton-bench balance`: the cost of workers that share nothing, and the benefit of rebalancing. The servers' workers
//! sleep instead of working; the clients keep their connections.

mod arguments;
mod chart;
mod ideal;
mod report;
mod scenario;
mod server;
mod servers;
mod watch;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

pub(crate) use self::arguments::BalanceArguments;
use self::report::{Ideal, Report, Row, Table};
use self::scenario::Scenario;
pub(crate) use self::server::{ServeArguments, run as serve};
use self::servers::Server;
pub(crate) use self::watch::descriptors;
use self::watch::{Evenness, Watch};
use crate::compare::Running;
use crate::handover::free_port;
use crate::load::{self, ExchangePlan, HttpPlan, NO_PHASE, Plan};
use crate::run::Failed;

/// Runs it, prints a table for each scenario as soon as it is complete, and writes the files.
pub(crate) fn run(arguments: &BalanceArguments) -> Result<(), Failed> {
    arguments.check().map_err(Failed::Usage)?;
    let scenarios = arguments.scenarios().map_err(Failed::Usage)?;
    let all: Vec<Server> = clap::ValueEnum::value_variants().to_vec();
    let servers = if arguments.servers.is_empty() { all } else { arguments.servers.clone() };
    let seeds = if arguments.seeds.is_empty() { vec![1] } else { arguments.seeds.clone() };
    let mut report = Report::new(arguments.seconds(), arguments.warm_up);
    for scenario in &scenarios {
        for seed in &seeds {
            let mut table = Table::new(scenario, *seed, Ideal::of(scenario, *seed));
            for server in &servers {
                let _ = writeln!(io::stderr(), "{scenario}: {server}");
                match measure(arguments, scenario, *server, *seed) {
                    Ok(row) => table.rows.push(row),
                    Err(problem) => table.skipped.push((server.to_string(), problem)),
                }
            }
            let text = table.text();
            io::stdout()
                .write_all(text.as_bytes())
                .map_err(|error| Failed::Error(format!("standard output: {error}")))?;
            report.tables.push(table);
        }
    }
    write(arguments, &report).map_err(Failed::Error)?;
    if report.is_sound() { Ok(()) } else { Err(Failed::Found) }
}

/// One server under one load.
fn measure(arguments: &BalanceArguments, scenario: &Scenario, server: Server, seed: u64) -> Result<Row, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
    let control = folder.path().join("control");
    let port = free_port()?;
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let command = server.command(scenario.workers, port, &control, &arguments.peers)?;
    let running = Running::start(&command, None, port)?;
    // Connections that only tested whether it listens are gone by then.
    thread::sleep(Duration::from_millis(300));
    let source = server.source(running.pid(), &control)?;
    let path = format!("/?us={}", scenario.service_us);
    let mut plan = Plan::new(target, ExchangePlan::Http(HttpPlan::get(&path, target)?));
    plan.connections = scenario.clients;
    plan.arrivals = Some(scenario.arrivals(seed));
    plan.ramp = scenario.ramp();
    // A queue that grows without end is a result, not a failure.
    plan.timeout = Duration::from_secs(60);
    let load = load::start(&plan)?;
    let watch = Watch::start(source, load.started())?;
    thread::sleep(scenario.ramp() + Duration::from_secs_f64(arguments.warm_up));
    load.enter_phase(0);
    let from_s = load.started().elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs_f64(arguments.seconds()));
    load.enter_phase(NO_PHASE);
    let until_s = load.started().elapsed().as_secs_f64();
    let samples = watch.stop();
    let outcome = load.stop()?;
    Ok(Row::new(server, &outcome, (from_s, until_s), Evenness::of(&samples)))
}

fn write(arguments: &BalanceArguments, report: &Report) -> Result<(), String> {
    let save =
        |path: &Path, text: String| fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()));
    if let Some(path) = &arguments.markdown {
        save(path, report.tables.iter().map(Table::markdown).collect())?;
    }
    if let Some(path) = &arguments.json {
        save(path, serde_json::to_string_pretty(report).map_err(|error| error.to_string())?)?;
    }
    if let Some(path) = &arguments.chart {
        chart::draw(path, report).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
