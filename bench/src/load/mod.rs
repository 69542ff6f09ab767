//! Load: connections that send requests, check every byte of the answers, and count. One thread for each core, on the
//! engine's own worker loop, with its outbound connections.

mod arrivals;
mod client;
mod exchange;
mod output;
mod pace;
mod plan;
mod preload;
mod stream;
mod tally;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use baton::config::{Limits, Timeouts};
use baton::{Mailbox, Server, Telemetry};
use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender};

pub(crate) use self::arrivals::{ArrivalPlan, Arrivals, Loop, Skew};
use self::client::{Client, Shared, Stop, Told};
pub(crate) use self::exchange::{Dialogue, chunked};
pub(crate) use self::plan::{
    CONNECTIONS_MAX, DEPTH_MAX, ExchangePlan, Expected, HttpPlan, PAYLOAD_BYTES_MAX, Plan, RequestParts, RequestPlan,
    RespCommand, Template, is_test_address,
};
pub(crate) use self::stream::Stream;
pub(crate) use self::tally::{Bin, Failures, Handshakes, NO_PHASE, Outcome, PhaseOutcome, SLOW_CONNECT, TlsOutcome};
use self::tls::Sessions;
pub(crate) use self::tls::{TlsPlan, Trust, group, read_certificates, suite};

/// How long threads may take to start.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How long threads may take to end, beyond the plan's own timeout.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A running load.
pub(crate) struct Load {
    shared: Arc<Shared>,
    told: Receiver<Told>,
    mailboxes: Vec<Mailbox<Stop>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
    telemetry: Vec<Telemetry>,
    plan: Arc<Plan>,
}

/// The progress of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    /// Connections that had an answer and are held, if the plan holds them.
    pub(crate) held: u64,
    /// Connections that were made.
    pub(crate) connections: u64,
}

/// Shows the progress of a load in any thread.
#[derive(Clone)]
pub(crate) struct Gauge(Arc<Shared>);

impl fmt::Debug for Gauge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.progress().fmt(formatter)
    }
}

impl Gauge {
    /// See [`Load::enter_phase`].
    pub(crate) fn enter_phase(&self, phase: usize) {
        self.0.phase.store(phase, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            requests: self.0.requests.load(Ordering::Relaxed),
            failures: self.0.failures.load(Ordering::Relaxed),
            held: self.0.held.load(Ordering::Relaxed),
            connections: self.0.connections.load(Ordering::Relaxed),
        }
    }
}

/// Starts a load, which runs until [`Load::stop`]. Nothing is counted by phase until [`Load::enter_phase`].
///
/// # Errors
/// If the plan is impossible, or a thread could not start.
pub(crate) fn start(plan: &Plan) -> Result<Load, String> {
    plan.check()?;
    preload::run(plan)?;
    let plan = Arc::new(plan.clone());
    let (sender, told) = crossbeam_channel::unbounded();
    let shared = Arc::new(Shared {
        started: Instant::now(),
        // Each connection of an idle load sends one request when it is opened, and never again.
        phase: AtomicUsize::new(if plan.is_idle { 0 } else { NO_PHASE }),
        requests: AtomicU64::new(0),
        failures: AtomicU64::new(0),
        held: AtomicU64::new(0),
        connections: AtomicU64::new(0),
    });
    let mut load = Load {
        shared,
        told,
        mailboxes: Vec::new(),
        threads: Vec::new(),
        telemetry: Vec::new(),
        plan: Arc::clone(&plan),
    };
    for index in 0..plan.thread_count() {
        load.start_thread(index, &sender)?;
    }
    drop(sender);
    for _ in 0..plan.thread_count() {
        match load.told.recv_timeout(START_PATIENCE) {
            Ok(Told::Started(mailbox)) => load.mailboxes.push(mailbox),
            _ => return Err(load.why_a_thread_ended().unwrap_or_else(|| "a thread did not start".to_owned())),
        }
    }
    Ok(load)
}

impl Load {
    fn start_thread(&mut self, index: usize, told: &Sender<Told>) -> Result<(), String> {
        let connections = self.plan.connections.div_ceil(self.plan.thread_count() as u32);
        let limits = Limits {
            connections_max: connections + 16,
            // A client reads all answers to what it has sent.
            outbound_bytes_high: 1 << 30,
            outbound_bytes_low: 1 << 29,
            memory_bytes_max: baton::config::MEMORY_BYTES_LARGEST,
            ..Limits::default()
        };
        let timeouts = Timeouts {
            idle_ms: 0,
            idle_at_limit_ms: 0,
            message_ms: 0,
            write_ms: 0,
            linger_ms: 0,
            drain_ms_max: 0,
            connect_ms: (self.plan.timeout.as_millis() as u64).max(1),
            ..Timeouts::default()
        };
        let server = Server::builder().limits(limits).timeouts(timeouts).build().map_err(|error| error.to_string())?;
        self.telemetry.push(server.telemetry());
        let (plan, shared, told) = (Arc::clone(&self.plan), Arc::clone(&self.shared), told.clone());
        // As many as it can have at the same time.
        let sessions = self.plan.tls.as_ref().map(|tls| Sessions::new(tls, connections as usize)).transpose()?;
        let core = self.plan.cores.get(index).map(|&id| CoreId { id });
        let body = move || {
            if let Some(core) = core.filter(|core| !core_affinity::set_for_current(*core)) {
                return Err(format!("core {} cannot be used; see `nproc` and `taskset -p $$`", core.id));
            }
            let client = || Client::new(plan, index, sessions, shared, told);
            server.run_on_this_thread(client, baton::Running::detach).map_err(|error| error.to_string())
        };
        let thread = thread::Builder::new().name(format!("load-{index}")).spawn(body);
        self.threads.push(thread.map_err(|error| format!("cannot start a thread: {error}"))?);
        Ok(())
    }

    fn why_a_thread_ended(&mut self) -> Option<String> {
        let index = self.threads.iter().position(JoinHandle::is_finished)?;
        match self.threads.swap_remove(index).join() {
            Ok(result) => result.err(),
            Err(_) => Some("a thread panicked".to_owned()),
        }
    }

    /// From now on answers and failures count for this phase; with [`NO_PHASE`] for none. A request that was sent in a
    /// phase other than 0 counts for that one.
    pub(crate) fn enter_phase(&self, phase: usize) {
        self.gauge().enter_phase(phase);
    }

    /// When the load was started: the origin of its timeline.
    pub(crate) fn started(&self) -> Instant {
        self.shared.started
    }

    pub(crate) fn progress(&self) -> Progress {
        self.gauge().progress()
    }

    pub(crate) fn gauge(&self) -> Gauge {
        Gauge(Arc::clone(&self.shared))
    }

    /// Sends nothing more, waits for pending answers (at most for the plan's timeout), and returns the counts.
    ///
    /// # Errors
    /// If a thread has failed.
    pub(crate) fn stop(mut self) -> Result<Outcome, String> {
        for mailbox in &self.mailboxes {
            let _ = mailbox.send(Stop);
        }
        let mut outcome = Outcome::new(self.plan.phases, self.plan.interval);
        for _ in 0..self.mailboxes.len() {
            match self.told.recv_timeout(self.plan.timeout + STOP_PATIENCE) {
                Ok(Told::Ended(part)) => outcome.add(&part),
                _ => return Err(self.why_a_thread_ended().unwrap_or_else(|| "a thread does not end".to_owned())),
            }
        }
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "a thread panicked".to_owned())??;
        }
        for telemetry in &self.telemetry {
            let total = telemetry.total();
            outcome.bytes_received += total.bytes_received;
            outcome.bytes_sent += total.bytes_sent;
        }
        Ok(outcome)
    }
}
