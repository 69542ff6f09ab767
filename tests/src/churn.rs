//! Clients that connect, send a request, read a whole answer and close, again and again; and the results of their
//! attempts.
//!
//! The promise is proven here, at the client, and not by the kernel's counters, which miss losses. Every attempt ends
//! in exactly one count: answered, refused before any client had an answer (if that is allowed), or failed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

const REQUEST: &[u8] = b"GET /plaintext HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Slower attempts are counted: a lost SYN is retransmitted after a second. A busy machine takes less than this.
const SLOW: Duration = Duration::from_millis(900);

/// Pause of a refused client before its next attempt, so that it leaves the server time to start.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// Steps of an attempt; each failure's name begins with one.
const CONNECT: &str = "connect";
const SEND: &str = "send";
const RECEIVE: &str = "receive";

/// What is happening meanwhile. Times are recorded separately for each phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is happening.
    Steady,
    /// The tested change is happening. An attempt that overlaps with it belongs to this phase.
    During,
}

/// Times from connecting to the end of the answer, in microseconds.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share of the values does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The longest time.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    fn record(&mut self, took: Duration) {
        self.0 += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits are few enough"))
    }
}

/// Milliseconds: p50/p99/p99.9/max; a dash if there are no values.
impl fmt::Display for Latency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count() == 0 {
            return formatter.pad("–");
        }
        let [p50, p99, p999, max] = [self.quantile(0.5), self.quantile(0.99), self.quantile(0.999), self.max()]
            .map(|time| 1e3 * time.as_secs_f64());
        formatter.pad(&format!("{p50:.2}/{p99:.2}/{p999:.2}/{max:.2}"))
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self} ms of {}", self.count())
    }
}

/// The results of the attempts.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Attempts with a whole answer.
    pub ok: u64,
    /// Those that took more than 900 ms from connecting to the end of the answer.
    pub slow: u64,
    /// The time of the slowest one.
    pub slowest: Duration,
    /// Times of answered attempts in the steady phase.
    pub steady: Latency,
    /// Times of answered attempts during the tested change.
    pub during: Latency,
    /// Attempts of clients that were started early, refused before any client had an answer.
    pub refused_early: u64,
    /// All other attempts, by the failure; its name begins with the step.
    pub failures: BTreeMap<String, u64>,
}

impl Outcome {
    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.slow += other.slow;
        self.slowest = self.slowest.max(other.slowest);
        self.steady.0 += other.steady.0;
        self.during.0 += other.during.0;
        self.refused_early += other.refused_early;
        for (what, count) in other.failures {
            *self.failures.entry(what).or_default() += count;
        }
    }

    /// Number of failed attempts.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Number of failed attempts that did not even connect: no request was lost with them.
    pub fn failed_to_connect(&self) -> u64 {
        self.failures.iter().filter(|(what, _)| what.starts_with(CONNECT)).map(|(_, count)| count).sum()
    }

    fn record(&mut self, took: Duration, is_steady: bool) {
        self.ok += 1;
        self.slow += u64::from(took > SLOW);
        self.slowest = self.slowest.max(took);
        if is_steady { &mut self.steady } else { &mut self.during }.record(took);
    }
}

/// State that the clients and the test share.
#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    is_steady: AtomicBool,
    answered: AtomicU64,
    refused_early: AtomicU64,
}

/// Running clients.
pub struct Churn {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Outcome>>,
}

impl Churn {
    /// Starts this many clients, each with one connection at a time, in the steady phase.
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        Self::start_clients(address, clients, false)
    }

    /// The same before the server starts: until the first answer to any client, a refusal is not a failure.
    pub fn start_early(address: SocketAddr, clients: usize) -> Self {
        Self::start_clients(address, clients, true)
    }

    fn start_clients(address: SocketAddr, clients: usize, is_early: bool) -> Self {
        let shared = Arc::new(Shared { is_steady: AtomicBool::new(true), ..Shared::default() });
        let client = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut outcome = Outcome::default();
                while !shared.is_over.load(Ordering::Relaxed) {
                    try_once(address, is_early, &shared, &mut outcome);
                }
                outcome
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { shared, clients }
    }

    /// Sets the phase from now on.
    pub fn begin_phase(&self, phase: Phase) {
        self.shared.is_steady.store(phase == Phase::Steady, Ordering::SeqCst);
    }

    /// Number of answers so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Number of attempts so far that were refused before any client had an answer.
    pub fn refused_early(&self) -> u64 {
        self.shared.refused_early.load(Ordering::SeqCst)
    }

    /// Lets every client finish its current attempt.
    ///
    /// # Panics
    /// If a client has panicked.
    pub fn finish(self) -> Outcome {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        self.clients.into_iter().for_each(|client| outcome.add(client.join().expect("a client does not panic")));
        outcome
    }
}

fn try_once(address: SocketAddr, is_early: bool, shared: &Shared, outcome: &mut Outcome) {
    // An attempt that begins after the first answer must not be refused.
    let may_be_refused = is_early && shared.answered.load(Ordering::SeqCst) == 0;
    let was_steady = shared.is_steady.load(Ordering::SeqCst);
    let start = Instant::now();
    let result = exchange(address);
    let took = start.elapsed();
    match result {
        Ok(()) => {
            shared.answered.fetch_add(1, Ordering::SeqCst);
            outcome.record(took, was_steady && shared.is_steady.load(Ordering::SeqCst));
        }
        Err((CONNECT, error)) if may_be_refused && error.kind() == ErrorKind::ConnectionRefused => {
            shared.refused_early.fetch_add(1, Ordering::SeqCst);
            outcome.refused_early += 1;
            std::thread::sleep(REFUSED_PAUSE);
        }
        Err((step, error)) => *outcome.failures.entry(describe(step, &error)).or_default() += 1,
    }
}

fn describe(step: &str, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => format!("{step}: refused"),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => format!("{step}: reset"),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("{step}: nothing within the time"),
        _ => format!("{step}: {error}"),
    }
}

fn exchange(address: SocketAddr) -> Result<(), (&'static str, std::io::Error)> {
    let at = |step: &'static str| move |error: std::io::Error| (step, error);
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(at(CONNECT))?;
    stream.set_read_timeout(Some(limit)).map_err(at(SEND))?;
    stream.write_all(REQUEST).map_err(at(SEND))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(at(RECEIVE))?;
    match answer {
        answer if answer.is_empty() => Err(at(RECEIVE)(std::io::Error::other("ended without an answer"))),
        answer if answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"Hello, World!") => Ok(()),
        answer => {
            let wrong = format!("wrong answer: {}", String::from_utf8_lossy(&answer));
            Err(at(RECEIVE)(std::io::Error::other(wrong)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_add_up_and_know_what_did_not_connect() {
        let mut outcome = Outcome::default();
        outcome.record(Duration::from_millis(1), true);
        let mut other = Outcome::default();
        other.record(2 * SLOW, false);
        for (step, kind) in [(CONNECT, ErrorKind::ConnectionRefused), (RECEIVE, ErrorKind::ConnectionReset)] {
            other.failures.insert(describe(step, &kind.into()), 2);
        }
        outcome.add(other);
        assert_eq!((outcome.ok, outcome.slow, outcome.failed(), outcome.failed_to_connect()), (2, 1, 4, 2));
        assert_eq!((outcome.steady.count(), outcome.during.count()), (1, 1));
        assert!(outcome.steady.max() < SLOW && outcome.during.quantile(0.5) > SLOW);
        assert_eq!(Latency::default().to_string(), "–");
    }
}
