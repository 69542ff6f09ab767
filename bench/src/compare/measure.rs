//! One window: one server under one load for a short time, while all other servers are running and idle.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Plan;
use super::catalogue::Server;
use super::process::{Running, kernel_bytes};
use super::workload::Workload;
use crate::cpu::{machine_busy_seconds, tree_seconds};
use crate::load::{self, NO_PHASE};
use crate::run::Percentiles;

/// A window is measured again if processes other than server and load used more of the machine than this.
const FOREIGN_SHARE_MAX: f64 = 0.06;

/// Share of the due requests that may remain unsent. Beyond it, the server did not keep the rate.
const UNSENT_SHARE_MAX: f64 = 0.01;

/// Share of full handshakes that is allowed if all should be resumed.
const FULL_SHARE_MAX: f64 = 0.05;

/// Ports for servers.
const PORTS: Range<u16> = 21_000..31_000;

/// How often a disturbed window is measured at most.
const TRIES_MAX: usize = 3;

/// How often to check whether all connections of an idle load are held, or have something to resume.
const HOLD_INTERVAL: Duration = Duration::from_millis(5);

/// The result of one window.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sample {
    pub(super) block: u32,
    /// The index within its block. Windows of different servers with the same index are pairs.
    pub(super) window: u32,
    pub(super) per_cpu_second: f64,
    pub(super) per_second: f64,
    pub(super) latency_us: LatencyUs,
    /// CPU time of the load, as a share of its core.
    pub(super) load_share: f64,
    /// Memory for the idle connections, in bytes.
    pub(super) process_bytes: f64,
    pub(super) kernel_bytes: f64,
    pub(super) problem: Option<String>,
    /// Another process used the machine.
    pub(super) is_disturbed: bool,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct LatencyUs {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
}

/// A running server.
pub(super) struct Contender {
    running: Running,
    pub(super) port: u16,
}

impl Contender {
    /// Starts it for a workload.
    ///
    /// # Errors
    /// If it does not begin to listen.
    pub(super) fn start(plan: &Plan, server: &Server, workload: &Workload) -> Result<Self, String> {
        let port = free_port()?;
        let running = Running::start(&server.command(&plan.places, workload, port), Some(plan.server_core), port)?;
        Ok(Self { running, port })
    }
}

/// Measures a window, and again if another process used the machine.
///
/// # Errors
/// If the load fails.
pub(super) fn window(plan: &Plan, contender: &Contender, load: &load::Plan) -> Result<Sample, String> {
    let mut load = load.clone();
    load.target.set_port(contender.port);
    load.cores = vec![plan.load_core];
    // Servers do not give back the memory of connections that they once held, so they cannot be measured again.
    let tries = if load.is_idle { 1 } else { TRIES_MAX };
    let mut sample = Sample::default();
    for _ in 0..tries {
        sample = once(plan, contender, &load)?;
        if !sample.is_disturbed {
            break;
        }
    }
    Ok(sample)
}

fn once(plan: &Plan, contender: &Contender, plan_of_load: &load::Plan) -> Result<Sample, String> {
    let running = &contender.running;
    let (process_before, kernel_before) =
        if plan_of_load.is_idle { (running.memory_bytes(), kernel_bytes()) } else { (0, 0) };
    let load = load::start(plan_of_load)?;
    if !plan_of_load.is_idle {
        thread::sleep(Duration::from_secs_f64(plan.warm_up));
    }
    if resumes(plan_of_load) {
        wait_for_tickets(&load, plan_of_load);
    }
    load.enter_phase(0);
    // Answers to earlier requests count, and answers to present requests that come later do not; the two balance each
    // other.
    let before = Reading::take(running, &load);
    if plan_of_load.is_idle {
        hold(&load, plan_of_load)?;
    }
    thread::sleep(Duration::from_secs_f64(plan.seconds));
    let after = Reading::take(running, &load);
    load.enter_phase(NO_PHASE);
    let mut sample = after.since(&before);
    if plan_of_load.is_idle {
        sample.process_bytes = running.memory_bytes().saturating_sub(process_before) as f64;
        sample.kernel_bytes = kernel_bytes().saturating_sub(kernel_before) as f64;
    }
    let outcome = load.stop()?;
    let latency = Percentiles::of(match plan_of_load.rate {
        Some(_) => &outcome.phases[0].latency_corrected,
        None => &outcome.phases[0].latency,
    });
    sample.latency_us = LatencyUs { p50: latency.p50, p99: latency.p99, p99_9: latency.p99_9 };
    sample.problem = problem(plan_of_load, &outcome, after.requests - before.requests).or_else(|| {
        // On a very busy machine the server may not have run, and its client read what had arrived before.
        let is_unknown = !plan_of_load.is_idle && sample.per_cpu_second == 0.0;
        is_unknown.then(|| "the server used no CPU time".to_owned())
    });
    Ok(sample)
}

/// Waits until every connection has had one answer.
fn hold(load: &load::Load, plan: &load::Plan) -> Result<(), String> {
    let deadline = Instant::now() + plan.timeout;
    while load.progress().held < u64::from(plan.connections) {
        if Instant::now() > deadline {
            let held = load.progress().held;
            return Err(format!("only {held} of {} connections were answered in time", plan.connections));
        }
        thread::sleep(HOLD_INTERVAL);
    }
    Ok(())
}

fn resumes(plan: &load::Plan) -> bool {
    plan.tls.as_ref().is_some_and(|tls| tls.resumes)
}

/// Waits until connections have something to resume: each has had an answer, and then one more.
fn wait_for_tickets(load: &load::Load, plan: &load::Plan) {
    let deadline = Instant::now() + plan.timeout;
    while load.progress().requests < 2 * u64::from(plan.connections) && Instant::now() < deadline {
        thread::sleep(HOLD_INTERVAL);
    }
}

/// Clocks and counters at one time.
struct Reading {
    at: Instant,
    requests: u64,
    server_seconds: f64,
    /// CPU time of all processes that were started from here, servers among them, and of this one, which is the load.
    all_seconds: f64,
    machine_seconds: f64,
}

impl Reading {
    fn take(running: &Running, load: &load::Load) -> Self {
        Self {
            requests: load.progress().requests,
            server_seconds: tree_seconds(running.pid()),
            at: Instant::now(),
            all_seconds: tree_seconds(std::process::id()),
            machine_seconds: machine_busy_seconds(),
        }
    }

    fn since(&self, before: &Self) -> Sample {
        let seconds = (self.at - before.at).as_secs_f64();
        let requests = (self.requests - before.requests) as f64;
        let server_seconds = self.server_seconds - before.server_seconds;
        let all_seconds = self.all_seconds - before.all_seconds;
        let foreign_seconds = self.machine_seconds - before.machine_seconds - all_seconds;
        Sample {
            per_cpu_second: if server_seconds > 0.0 { requests / server_seconds } else { 0.0 },
            per_second: requests / seconds,
            load_share: (all_seconds - server_seconds) / seconds,
            is_disturbed: foreign_seconds / seconds > FOREIGN_SHARE_MAX,
            ..Sample::default()
        }
    }
}

fn problem(plan: &load::Plan, outcome: &load::Outcome, requests: u64) -> Option<String> {
    let failures = outcome.failures.kinds().into_iter().filter(|(_, count)| *count > 0);
    let mut problems: Vec<String> = failures.map(|(kind, count)| format!("{kind} {count}")).collect();
    if requests == 0 {
        problems.push("nothing was answered".to_owned());
    }
    // A few requests are always due in the last moment.
    if outcome.unsent as f64 > requests as f64 * UNSENT_SHARE_MAX {
        problems.push(format!("{} were due and never sent", outcome.unsent));
    }
    problems.extend(outcome.reasons.iter().take(1).cloned());
    let handshakes = outcome.phases[0].handshakes;
    if resumes(plan) && handshakes.full as f64 > handshakes.total() as f64 * FULL_SHARE_MAX {
        problems.push(format!("only {} of {} handshakes were resumed", handshakes.resumed, handshakes.total()));
    }
    (!problems.is_empty()).then(|| problems.join(", "))
}

/// A free port below the kernel's range for clients: otherwise the load could take it.
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
