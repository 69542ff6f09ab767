//! One cell: one server under one workload, once.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Plan;
use super::catalogue::Server;
use super::process::{Running, kernel_bytes};
use super::workload::Workload;
use crate::cpu::{machine_busy_seconds, tree_seconds};

/// A cell is measured anew when others than server and load used more of the machine than this.
const FOREIGN_SHARE_MAX: f64 = 0.06;

/// Of the requests that were due; then the server did not keep the rate.
const UNSENT_SHARE_MAX: f64 = 0.01;

/// Servers listen on these.
const PORTS: Range<u16> = 21_000..31_000;

/// How often a spoiled cell is measured at most.
const TRIES_MAX: usize = 3;

/// What `baton-bench run` prints, as far as it is wanted here.
#[derive(Debug, Deserialize)]
struct RunResult {
    requests: u64,
    requests_per_second: f64,
    unsent: u64,
    latency_us: Latencies,
    failures: serde_json::Map<String, serde_json::Value>,
    reasons: Vec<String>,
    requests_per_server_cpu_second: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Latencies {
    corrected: Percentiles,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
}

/// What one cell has shown.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sample {
    pub(super) per_cpu_second: f64,
    pub(super) per_second: f64,
    pub(super) latency_us: Percentiles,
    /// Of the idle connections, in bytes.
    pub(super) process_bytes: f64,
    pub(super) kernel_bytes: f64,
    pub(super) problem: Option<String>,
    /// Something else used the machine.
    pub(super) is_disturbed: bool,
}

/// Measures a cell, anew if something else used the machine.
///
/// # Errors
/// Where the server does not start, or the load does not run.
pub(super) fn cell(plan: &Plan, server: &Server, workload: &Workload, rate: Option<f64>) -> Result<Sample, String> {
    let mut sample = Sample::default();
    for _ in 0..TRIES_MAX {
        sample = once(plan, server, workload, rate)?;
        if !sample.is_disturbed {
            break;
        }
    }
    Ok(sample)
}

fn once(plan: &Plan, server: &Server, workload: &Workload, rate: Option<f64>) -> Result<Sample, String> {
    let port = free_port()?;
    let running = Running::start(&server.command(&plan.places, workload, port), plan.server_core, port)?;
    let (process_before, kernel_before) = (running.memory_bytes(), kernel_bytes());
    let (busy_before, own_before, start) = (machine_busy_seconds(), tree_seconds(std::process::id()), Instant::now());
    let core = plan.load_core.to_string();
    let mut load = Command::new("taskset");
    load.args(["-c", &core]).arg(&plan.load_program).args(["run", &format!("127.0.0.1:{port}")]);
    load.args(workload.arguments()).args(["--cores", &core, "--quiet", "--json", "-"]);
    load.args(["--duration", &plan.seconds.to_string(), "--warm-up", &plan.warm_up.to_string()]);
    load.args(["--server-pid", &running.pid().to_string()]);
    if let Some(rate) = rate {
        load.args(["--rate", &format!("{rate:.0}")]);
    }
    let mut child = load
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("taskset: {error}"))?;
    let mut said = BufReader::new(child.stderr.take().ok_or("no standard error")?);
    let mut sample = Sample::default();
    let mut words = String::new();
    while said.read_line(&mut words).is_ok_and(|count| count > 0) {
        if words.starts_with("holding ") {
            sample.process_bytes = running.memory_bytes().saturating_sub(process_before) as f64;
            sample.kernel_bytes = kernel_bytes().saturating_sub(kernel_before) as f64;
            words.clear();
        }
    }
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text).map_err(|error| error.to_string())?;
    }
    let _ = child.wait();
    let elapsed = start.elapsed().as_secs_f64();
    // Server and load are our children, so their times are part of our own.
    let own = tree_seconds(std::process::id()) - own_before;
    let foreign = machine_busy_seconds() - busy_before - own;
    let result: RunResult = serde_json::from_str(&text).map_err(|_| format!("the load failed: {}", words.trim()))?;
    sample.per_cpu_second = result.requests_per_server_cpu_second.unwrap_or_default();
    sample.per_second = result.requests_per_second;
    sample.latency_us = result.latency_us.corrected;
    sample.problem = result.problem();
    sample.is_disturbed = foreign / elapsed > FOREIGN_SHARE_MAX;
    Ok(sample)
}

impl RunResult {
    fn problem(&self) -> Option<String> {
        let failures = self.failures.iter().filter(|(kind, count)| *kind != "stale" && count.as_u64() != Some(0));
        let mut problems: Vec<String> = failures.map(|(kind, count)| format!("{kind} {count}")).collect();
        if self.requests == 0 {
            problems.push("nothing was answered".to_owned());
        }
        // A few are always due in the last moment.
        if self.unsent as f64 > self.requests as f64 * UNSENT_SHARE_MAX {
            problems.push(format!("{} were due and never sent", self.unsent));
        }
        problems.extend(self.reasons.iter().take(1).cloned());
        (!problems.is_empty()).then(|| problems.join(", "))
    }
}

/// A port that nobody has now, below those that the kernel gives to clients: the load would take it otherwise.
fn free_port() -> Result<u16, String> {
    static NEXT: AtomicU16 = AtomicU16::new(PORTS.start);
    for _ in PORTS {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_sub(PORTS.start) % PORTS.len() as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(format!("no port of {} to {} is free", PORTS.start, PORTS.end))
}
