//! The load that the engine's own client makes, and its counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::change::{PHASE_KILL, PHASE_ORDERLY};
use super::plan::{self, Loads, Side};
use super::server::{FILES, LARGE, Place, SMALL};
use crate::load::{
    self, ExchangePlan, Expected, Failures, Gauge, HttpPlan, Load, Outcome, PhaseOutcome, Plan, RequestPlan, Template,
    TlsPlan, read_certificates,
};
use crate::random::Random;

/// A hung worker is detected within seconds, and the clients that wait for it are then served.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// Source addresses of each load.
const SOURCES: u8 = 200;

/// The server's answers to these.
const HELLO: &[u8] = b"Hello, World!";
const HELLO_JSON: &[u8] = b"{\"message\":\"Hello, World!\"}";

/// Sizes of uploaded bodies, up to those that take many receive buffers.
const UPLOADS: [usize; 6] = [1, 900, 5_000, 20_000, 70_000, 200_000];

/// Messages of an echo that do not fit into a receive buffer.
const LARGE_MESSAGE_BYTES: usize = 60_000;

/// A GET with its answer.
pub(super) fn get(path: &str, body: &[u8]) -> Result<RequestPlan, String> {
    let raw = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    Ok(RequestPlan { template: Template::new(raw.as_bytes())?, expected: Expected::Body(body.to_vec()) })
}

/// A POST that is echoed, with Content-Length or in chunks of this many bytes.
pub(super) fn post(body: &[u8], chunk_bytes: Option<usize>) -> Result<RequestPlan, String> {
    let mut raw = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    match chunk_bytes {
        None => {
            raw.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            raw.extend_from_slice(body);
        }
        Some(bytes) => {
            raw.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(bytes.max(1)) {
                raw.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                raw.extend_from_slice(chunk);
                raw.extend_from_slice(b"\r\n");
            }
            raw.extend_from_slice(b"0\r\n\r\n");
        }
    }
    Ok(RequestPlan { template: Template::new(&raw)?, expected: Expected::Body(body.to_vec()) })
}

/// A small request of a random kind.
pub(super) fn any_small(place: &Place, random: &mut Random) -> Result<RequestPlan, String> {
    let mut body = || {
        let bytes = 1 + random.below(3_000) as usize;
        plan::random_bytes(random, bytes)
    };
    match body()[0] % 6 {
        0 => get("/", HELLO),
        1 => get("/json", HELLO_JSON),
        2 => get("/plaintext", HELLO),
        3 => get(&file_path(SMALL), &place.files[SMALL]),
        4 => post(&body(), None),
        _ => post(&body(), Some(1 + random.below(400) as usize)),
    }
}

pub(super) fn file_path(index: usize) -> String {
    format!("/files/{}", FILES[index].0)
}

/// The loads on a server, by name.
fn plans(place: &Place, loads: &Loads) -> Result<Vec<(&'static str, Plan)>, String> {
    let mut random = Random::new(loads.seed);
    let sources: Vec<IpAddr> =
        (0..SOURCES).map(|last| IpAddr::V4(Ipv4Addr::new(127, 1, 1 + place.side as u8, 1 + last))).collect();
    let base = |exchange, connections: u32| {
        let mut plan = Plan::new(place.address, exchange);
        (plan.connections, plan.timeout, plan.phases) = (connections, TIMEOUT, PHASE_KILL + 1);
        plan.interval = Duration::from_secs(1);
        plan.sources = sources.clone();
        plan
    };
    let paced = |exchange, connections, rate: f64| Plan { rate: Some(rate), ..base(exchange, connections) };
    let once = |plan: Plan| Plan { requests_per_connection: 1, ..plan };
    if place.side == Side::Echo {
        let echo = |payload_bytes| ExchangePlan::Echo { payload_bytes };
        return Ok(vec![
            ("echo, a connection per message", once(base(echo(loads.payload_bytes), loads.churn_echo))),
            ("echo, kept connections", paced(echo(loads.payload_bytes), loads.kept, 600.0)),
            ("echo, kept connections, large messages", paced(echo(LARGE_MESSAGE_BYTES), 2, 20.0)),
        ]);
    }
    let trust = read_certificates(&place.certificate)?;
    let name = "localhost".try_into().map_err(|_| "localhost is no name")?;
    let tls = TlsPlan::new(trust, name);
    let resumes = TlsPlan { resumes: true, ..tls.clone() };
    let within = |tls: &TlsPlan, plan: Plan| Plan { tls: Some(tls.clone()), target: place.secure, ..plan };
    let rotation = |name: &str, requests| ExchangePlan::Http(HttpPlan::rotation(name, requests));
    let small = (0..12).map(|_| any_small(place, &mut random)).collect::<Result<Vec<_>, _>>()?;
    let mut uploads = Vec::new();
    for bytes in UPLOADS {
        let body = plan::random_bytes(&mut random, bytes);
        uploads.push(post(&body, None)?);
        uploads.push(post(&body, Some(bytes / 3 + 1))?);
    }
    let files: Vec<RequestPlan> =
        (0..=LARGE).map(|index| get(&file_path(index), &place.files[index])).collect::<Result<_, _>>()?;
    let hello = || HttpPlan::get("/", place.address).map(ExchangePlan::Http);
    let kept = rotation("requests that differ", small.clone());
    let pipelined = Plan { depth: loads.depth, requests_per_connection: loads.depth * 500, ..base(kept.clone(), 1) };
    Ok(vec![
        ("a connection per request, the server closes", once(base(hello()?, loads.churn))),
        ("a connection per request, the client closes", once(base(kept.clone(), loads.churn_closing))),
        ("TLS, a connection per request, full handshakes", within(&tls, once(paced(kept.clone(), 4, 40.0)))),
        ("TLS, a connection per request, resumed", within(&resumes, once(paced(kept.clone(), 4, 120.0)))),
        ("kept connections", paced(kept.clone(), loads.kept, 1_000.0)),
        ("TLS, kept connections", within(&tls, paced(kept, loads.kept.div_ceil(4), 150.0))),
        ("pipelined", pipelined),
        ("uploads, with length and in chunks", paced(rotation("uploads", uploads), 4, 40.0)),
        ("downloads", paced(rotation("downloads", files.clone()), 4, 20.0)),
        ("TLS, downloads", within(&tls, paced(rotation("downloads", files), 2, 6.0))),
    ])
}

/// The progress of the loads of both servers, for the threads that change a server.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    sides: [Mutex<(Vec<Gauge>, u64)>; 2],
}

impl Gauges {
    fn with<T>(&self, side: Side, look: impl FnOnce(&mut (Vec<Gauge>, u64)) -> T) -> T {
        // Numbers are consistent even if a thread panicked.
        look(&mut self.sides[side as usize].lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, side: Side, gauges: Vec<Gauge>) {
        self.with(side, |own| *own = (gauges, 0));
    }

    pub(super) fn enter_phase(&self, side: Side, phase: usize) {
        self.with(side, |(gauges, _)| gauges.iter().for_each(|gauge| gauge.enter_phase(phase)));
    }

    /// Connections so far, of running loads.
    pub(super) fn connections(&self) -> u64 {
        let of =
            |side| self.with(side, |(gauges, _)| gauges.iter().map(|gauge| gauge.progress().connections).sum::<u64>());
        Side::ALL.into_iter().map(of).sum()
    }

    /// Failures since they were last excused.
    fn failures(&self, side: Side) -> u64 {
        self.with(side, |(gauges, excused)| {
            gauges.iter().map(|gauge| gauge.progress().failures).sum::<u64>().saturating_sub(*excused)
        })
    }

    /// Returns those, and resets them.
    pub(super) fn excuse(&self, side: Side) -> u64 {
        let failures = self.failures(side);
        self.with(side, |(_, excused)| *excused += failures);
        failures
    }

    /// # Errors
    /// If something failed that nothing excuses.
    pub(super) fn check(&self, side: Side) -> Result<(), String> {
        match self.failures(side) {
            0 => Ok(()),
            count => Err(format!("{count} requests or connections of the load have failed")),
        }
    }
}

/// The running loads of both servers.
pub(super) struct Running {
    loads: Vec<(Side, &'static str, Load)>,
}

/// Starts the loads of a segment.
///
/// # Errors
/// If one cannot be started.
pub(super) fn start(places: &[Place], loads: &Loads, gauges: &Gauges) -> Result<Running, String> {
    let mut running = Running { loads: Vec::new() };
    for place in places {
        for (name, plan) in plans(place, loads)? {
            let load = load::start(&plan).map_err(|problem| format!("{name}: {problem}"))?;
            load.enter_phase(PHASE_ORDERLY);
            running.loads.push((place.side, name, load));
        }
        let own = running.loads.iter().filter(|(side, ..)| *side == place.side);
        gauges.set(place.side, own.map(|(.., load)| load.gauge()).collect());
    }
    Ok(running)
}

/// The counts of all loads of one name in all segments.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) connections: u64,
    pub(super) answers: u64,
    /// Failures that nothing excuses.
    pub(super) failures: Failures,
    /// Lost while a worker was killed.
    pub(super) lost: Failures,
    /// Kept connections that the server closed before an answer began, while no worker was being killed; the request
    /// was repeated.
    pub(super) repeated: u64,
    pub(super) slow_connects: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) full_handshakes: u64,
    pub(super) resumed_handshakes: u64,
    /// Nanoseconds, of the time in which no worker was being killed.
    pub(super) latency: Histogram<u64>,
    pub(super) reasons: Vec<String>,
}

impl Counted {
    fn new(phase: &PhaseOutcome) -> Self {
        let mut latency = phase.latency.clone();
        latency.reset();
        Self {
            connections: 0,
            answers: 0,
            failures: Failures::default(),
            lost: Failures::default(),
            repeated: 0,
            slow_connects: 0,
            bytes_received: 0,
            bytes_sent: 0,
            full_handshakes: 0,
            resumed_handshakes: 0,
            latency,
            reasons: Vec::new(),
        }
    }

    fn add(&mut self, outcome: &Outcome) {
        let [orderly, kill] = [&outcome.phases[PHASE_ORDERLY], &outcome.phases[PHASE_KILL]];
        self.connections += outcome.connections_opened;
        self.answers += outcome.requests;
        self.failures.add(&orderly.failures);
        self.lost.add(&kill.failures);
        self.repeated += orderly.failures.stale;
        self.slow_connects += outcome.slow_connects;
        self.bytes_received += outcome.bytes_received;
        self.bytes_sent += outcome.bytes_sent;
        self.full_handshakes += outcome.tls.handshakes.full;
        self.resumed_handshakes += outcome.tls.handshakes.resumed;
        let latency = if orderly.latency_corrected.is_empty() { &orderly.latency } else { &orderly.latency_corrected };
        // Both have the range that all latencies have.
        let _ = self.latency.add(latency);
        self.reasons.extend(outcome.reasons.iter().cloned());
        self.reasons.truncate(20);
    }
}

/// By name.
pub(super) type Totals = BTreeMap<&'static str, (usize, Counted)>;

impl Running {
    /// Ends the loads, and adds their counts.
    ///
    /// # Errors
    /// If one does not end, or something failed that nothing excuses.
    pub(super) fn stop(self, totals: &mut Totals, gauges: &Gauges) -> Result<(), String> {
        let mut problems = Vec::new();
        for (index, (_, name, load)) in self.loads.into_iter().enumerate() {
            match load.stop() {
                Ok(outcome) => {
                    let new = || (index, Counted::new(&outcome.phases[0]));
                    totals.entry(name).or_insert_with(new).1.add(&outcome);
                    let failures = &outcome.phases[PHASE_ORDERLY].failures;
                    if failures.total() > 0 {
                        let kinds = failures.kinds().into_iter().filter(|(_, count)| *count > 0);
                        let kinds: Vec<String> = kinds.map(|(kind, count)| format!("{count} {kind}")).collect();
                        let reasons = outcome.reasons.join("; ");
                        problems.push(format!("{name}: {} {reasons}", kinds.join(", ")));
                    }
                }
                Err(problem) => problems.push(format!("{name}: {problem}")),
            }
        }
        Side::ALL.into_iter().for_each(|side| gauges.set(side, Vec::new()));
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }
}
