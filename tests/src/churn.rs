//! Clients that connect, ask, read a whole answer and close, again and again; and what became of each of their tries.
//!
//! The promise is proven here, at the client, and not by the kernel's counters, which miss losses.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const REQUEST: &[u8] = b"GET /plaintext HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Slower than this is counted: a lost SYN is retransmitted after a second.
const SLOW: Duration = Duration::from_millis(200);

/// What became of the tries.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Answered wholly.
    pub ok: u64,
    /// Of these, slower than 200 ms from connecting to the end of the answer.
    pub slow: u64,
    /// The slowest of them.
    pub slowest: Duration,
    /// Everything else, by what happened.
    pub failures: BTreeMap<String, u64>,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.slow += other.slow;
        self.slowest = self.slowest.max(other.slowest);
        for (what, count) in other.failures {
            *self.failures.entry(what).or_default() += count;
        }
    }

    /// How many tries failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// Clients at work.
pub struct Churn {
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Outcome>>,
}

impl Churn {
    /// Starts so many clients, each with one connection at a time.
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                let mut outcome = Outcome::default();
                while !is_over.load(Ordering::Relaxed) {
                    try_once(address, &mut outcome);
                }
                outcome
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { is_over, clients }
    }

    /// Lets every client finish what it is at.
    ///
    /// # Panics
    /// If a client has.
    pub fn finish(self) -> Outcome {
        self.is_over.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        self.clients.into_iter().for_each(|client| outcome.add(client.join().expect("a client does not panic")));
        outcome
    }
}

fn try_once(address: SocketAddr, outcome: &mut Outcome) {
    let start = Instant::now();
    let result = exchange(address);
    let took = start.elapsed();
    match result {
        Ok(()) => {
            outcome.ok += 1;
            outcome.slow += u64::from(took > SLOW);
            outcome.slowest = outcome.slowest.max(took);
        }
        Err(what) => *outcome.failures.entry(what).or_default() += 1,
    }
}

fn exchange(address: SocketAddr) -> Result<(), String> {
    let failed = |step: &'static str| {
        move |error: std::io::Error| match error.kind() {
            ErrorKind::ConnectionRefused => format!("{step}: refused"),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => format!("{step}: reset"),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("{step}: nothing within the time"),
            _ => format!("{step}: {error}"),
        }
    };
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(failed("connect"))?;
    stream.set_read_timeout(Some(limit)).map_err(failed("set"))?;
    stream.write_all(REQUEST).map_err(failed("send"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed("receive"))?;
    match answer {
        answer if answer.is_empty() => Err("ended without an answer".to_owned()),
        answer if answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"Hello, World!") => Ok(()),
        answer => Err(format!("wrong answer: {}", String::from_utf8_lossy(&answer))),
    }
}
