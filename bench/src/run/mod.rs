//! `baton-bench run`: one load on one target, and its results.

mod arguments;
mod plot;
mod report;
mod target;
mod tls;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) use self::arguments::{RunArguments, check_target, resolve};
use self::report::Report;
pub(crate) use self::report::{Percentiles, group};
use crate::cpu::tree_seconds;
use crate::load::{self, Load, NO_PHASE};

/// How often the progress line is drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Why a command failed.
pub(crate) enum Failed {
    /// The arguments are wrong: exit code 2.
    Usage(String),
    /// Something went wrong: exit code 1.
    Error(String),
    /// It ran, and the result is bad: exit code 1, without a further message.
    Found,
}

/// Runs it and prints the results.
pub(crate) fn run(arguments: &RunArguments) -> Result<(), Failed> {
    let plan = arguments.plan().map_err(Failed::Usage)?;
    arguments.check_files().map_err(Failed::Usage)?;
    let own_cpu = || tree_seconds(std::process::id());
    let servers_cpu = || match arguments.server_pids.as_slice() {
        [] => None,
        pids => Some(pids.iter().map(|pid| tree_seconds(*pid)).sum::<f64>()),
    };
    let load = load::start(&plan).map_err(Failed::Error)?;
    let progress = progress_bar(arguments, &plan.exchange.to_string());
    watch(&load, &progress, arguments.ramp() + arguments.warm_up(), "warming up");
    load.enter_phase(0);
    let measured_from = load.started().elapsed();
    let (cpu_before, servers_before, start) = (own_cpu(), servers_cpu(), Instant::now());
    if plan.is_idle {
        hold(&load, arguments, plan.connections, plan.timeout)?;
    }
    watch(&load, &progress, arguments.duration(), "measuring");
    load.enter_phase(NO_PHASE);
    let elapsed = start.elapsed();
    let client_cpu_seconds = own_cpu() - cpu_before;
    let server_cpu_seconds = servers_cpu().zip(servers_before).map(|(after, before)| after - before);
    progress.finish_and_clear();
    let outcome = load.stop().map_err(Failed::Error)?;
    let report = Report::new(
        &plan,
        &outcome,
        report::Measured { from: measured_from, elapsed, client_cpu_seconds, server_cpu_seconds },
    );
    write_files(arguments, &report, &outcome)?;
    if outcome.failures.total() > 0 || outcome.requests == 0 { Err(Failed::Found) } else { Ok(()) }
}

fn write_files(arguments: &RunArguments, report: &Report, outcome: &load::Outcome) -> Result<(), Failed> {
    let json = serde_json::to_string(report).map_err(|error| Failed::Error(error.to_string()))?;
    let is_json_out = arguments.json.as_deref() == Some(Path::new("-"));
    let text = if is_json_out { format!("{json}\n") } else { report.table() };
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failed::Error(format!("standard output: {error}")))?;
    if let Some(path) = arguments.json.as_deref().filter(|_| !is_json_out) {
        write_file(path, json.as_bytes())?;
    }
    if let Some(path) = &arguments.hgrm {
        let phase = &outcome.phases[0];
        write_file(path, report::hgrm(&phase.latency).as_bytes())?;
        if report.rate.is_some() {
            write_file(&path.with_extension("corrected.hgrm"), report::hgrm(&phase.latency_corrected).as_bytes())?;
        }
        if report.tls.is_some() {
            write_file(&path.with_extension("handshake.hgrm"), report::hgrm(&outcome.tls.handshake).as_bytes())?;
        }
    }
    if let Some(path) = &arguments.plot {
        plot::draw(path, report, outcome).map_err(|error| Failed::Error(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    fs::write(path, bytes).map_err(|error| Failed::Error(format!("{}: {error}", path.display())))
}

/// Waits until every connection has had one answer, and prints that.
fn hold(load: &Load, arguments: &RunArguments, connections: u32, timeout: Duration) -> Result<(), Failed> {
    let deadline = Instant::now() + timeout + arguments.ramp();
    while load.progress().held < u64::from(connections) {
        if Instant::now() > deadline {
            let held = load.progress().held;
            return Err(Failed::Error(format!("only {held} of {connections} connections were answered in time")));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = writeln!(io::stderr(), "holding {connections} connections");
    Ok(())
}

fn progress_bar(arguments: &RunArguments, what: &str) -> ProgressBar {
    if arguments.quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    let style =
        ProgressStyle::with_template("{spinner} {prefix}: {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    bar.set_style(style);
    bar.set_prefix(what.to_owned());
    bar
}

/// Lets time pass, and shows the progress of the load.
fn watch(load: &Load, progress: &ProgressBar, time: Duration, what: &str) {
    let start = Instant::now();
    let mut last = (load.progress().requests, start);
    while start.elapsed() < time {
        thread::sleep(PROGRESS_INTERVAL.min(time.saturating_sub(start.elapsed())));
        if progress.is_hidden() {
            continue;
        }
        let now = load.progress();
        let rate = (now.requests - last.0) as f64 / last.1.elapsed().as_secs_f64().max(1e-3);
        last = (now.requests, Instant::now());
        let left = time.saturating_sub(start.elapsed()).as_secs_f64();
        progress.set_message(format!("{what}, {left:.1} s left, {rate:.0} requests/s, {} failed", now.failures));
        progress.tick();
    }
}
