//! The cost of messages between two workers, compared with a bare pair of sockets of the same kind, on two cores.
//!
//! ```text
//! cargo run --release -p baton --example mesh_figures
//! ```
//!
//! Latency: half of the time in which a message of 64 bytes goes to the other worker and back, one message at a time.
//! Throughput: one worker sends as fast as it can, a fixed number of messages in each turn of its loop; processor time is
//! that of both.

use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::time::Duration;

use baton::{Io, Peer, Protocol, Reject, SendError, Server, Sibling, StateFormat, Step, SystemCalls, TimerKey, Worker};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

const BYTES: usize = 64;
const PINGS: usize = 50_000;
const BATCHES: [usize; 2] = [1, 100];
const MESSAGES: usize = 500_000;

fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_nanoseconds() as u64)
}

fn used(who: UsageWho) -> Duration {
    let usage = getrusage(who).expect("a process knows what it has used");
    Duration::from_micros((usage.user_time() + usage.system_time()).num_microseconds() as u64)
}

fn latency(what: &str, mut halves_ns: Vec<u64>) {
    halves_ns.sort_unstable();
    let at = |part: f64| halves_ns[((halves_ns.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
    println!("{what}: latency p50 {:.1} us, p99 {:.1} us", at(0.5), at(0.99));
}

fn throughput(what: &str, batch: usize, took_ns: u64, cpu: Duration) {
    let per_cpu = MESSAGES as f64 / cpu.as_secs_f64();
    let per_second = MESSAGES as f64 / (took_ns as f64 / 1e9);
    println!("{what}: batches of {batch}: {per_cpu:.0} messages per processor second, {per_second:.0} per second");
}

/// The measurement that slot 0 is making; slot 1 only answers.
enum Phase {
    Pings { sent_ns: u64, halves_ns: Vec<u64> },
    Batches { place: usize, sent: usize, began_ns: u64, cpu: Duration },
    Over,
}

struct Figures {
    phase: Phase,
    heard: usize,
    used: Duration,
}

const NEXT: TimerKey = TimerKey(0);

impl Figures {
    fn go_on(&mut self, worker: &mut Worker<'_, ()>) {
        match &mut self.phase {
            Phase::Pings { sent_ns, .. } => {
                *sent_ns = now_ns();
                worker.send(1, &[b'p'; BYTES]).expect("there is room");
            }
            Phase::Batches { place, sent, .. } => {
                let count = BATCHES[*place].min(MESSAGES - *sent);
                for _ in 0..count {
                    match worker.send(1, &[b'm'; BYTES]) {
                        Ok(()) => *sent += 1,
                        Err(SendError::Full) => return,
                        Err(error) => panic!("{error}"),
                    }
                }
                if *sent < MESSAGES {
                    worker.set_timer(NEXT, Duration::ZERO);
                }
            }
            Phase::Over => {}
        }
    }

    fn begin(&mut self, place: usize, worker: &mut Worker<'_, ()>) {
        if place == BATCHES.len() {
            self.phase = Phase::Over;
            worker.send(1, b"over").expect("there is room");
            return worker.drain();
        }
        let cpu = used(UsageWho::RUSAGE_SELF);
        self.phase = Phase::Batches { place, sent: 0, began_ns: now_ns(), cpu };
        self.go_on(worker);
    }
}

impl Protocol for Figures {
    type Connection = ();
    type Message = ();

    const SYSTEM_CALLS: SystemCalls = SystemCalls::Any;
    const MESSAGES: Option<StateFormat> = Some(StateFormat { name: "figures", version: 1 });

    fn on_start(&mut self, worker: &mut Worker<'_, ()>) -> Result<()> {
        if worker.slot() == 0 {
            worker.set_timer(NEXT, Duration::from_millis(10));
        }
        Ok(())
    }

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> std::result::Result<(), Reject> {
        Err(Reject::Close)
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], _: &mut Io<'_>) -> Step {
        Step::more(input.len())
    }

    fn on_worker_timer(&mut self, _: TimerKey, worker: &mut Worker<'_, ()>) {
        if worker.siblings().len() == 2 {
            self.go_on(worker);
        } else {
            worker.set_timer(NEXT, Duration::from_millis(10));
        }
    }

    fn on_siblings_writable(&mut self, worker: &mut Worker<'_, ()>) {
        self.go_on(worker);
    }

    fn on_sibling_message(&mut self, _: Sibling, message: &[u8], worker: &mut Worker<'_, ()>) {
        match (message[0], &mut self.phase) {
            // Slot 1.
            (b'p', Phase::Over) => worker.send(0, message).expect("there is room"),
            (b'm', Phase::Over) => {
                self.heard += 1;
                if self.heard == MESSAGES {
                    self.heard = 0;
                    let cpu = used(UsageWho::RUSAGE_SELF);
                    let spent = cpu.saturating_sub(std::mem::replace(&mut self.used, cpu));
                    worker.send(0, &[&b"d"[..], &spent.as_nanos().to_le_bytes()].concat()).expect("there is room");
                }
            }
            (b'o', Phase::Over) => worker.drain(),
            // Slot 0.
            (b'p', Phase::Pings { sent_ns, halves_ns }) => {
                halves_ns.push((now_ns() - *sent_ns) / 2);
                if halves_ns.len() < PINGS {
                    return self.go_on(worker);
                }
                latency("baton", std::mem::take(halves_ns));
                self.begin(0, worker);
            }
            (b'd', Phase::Batches { place, began_ns, cpu, .. }) => {
                let theirs = u128::from_le_bytes(message[1..17].try_into().expect("sixteen bytes"));
                let own = used(UsageWho::RUSAGE_SELF).saturating_sub(*cpu);
                throughput("baton", BATCHES[*place], now_ns() - *began_ns, own + Duration::from_nanos(theirs as u64));
                let next = *place + 1;
                self.begin(next, worker);
            }
            _ => {}
        }
    }
}

/// Pins this thread to a core, if there are enough cores.
fn pin(place: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let _ = cores.get(place).map(|core| core_affinity::set_for_current(*core));
}

/// The same over a bare pair, in two threads on two cores, each of which waits in the kernel.
fn bare() -> Result<()> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let (ours, theirs) = pair;
    let (mut packet, none) = ([0; BYTES], MsgFlags::empty());
    let other = std::thread::spawn(move || -> Result<Duration> {
        pin(1);
        let mut packet = [0; BYTES];
        for _ in 0..PINGS {
            recv(theirs.as_raw_fd(), &mut packet, none)?;
            send(theirs.as_raw_fd(), &packet, none)?;
        }
        let before = used(UsageWho::RUSAGE_THREAD);
        for _ in 0..MESSAGES {
            recv(theirs.as_raw_fd(), &mut packet, none)?;
        }
        Ok(used(UsageWho::RUSAGE_THREAD).saturating_sub(before))
    });
    pin(0);
    let mut halves_ns = Vec::new();
    for _ in 0..PINGS {
        let sent_ns = now_ns();
        send(ours.as_raw_fd(), &packet, none)?;
        recv(ours.as_raw_fd(), &mut packet, none)?;
        halves_ns.push((now_ns() - sent_ns) / 2);
    }
    latency("bare pair", halves_ns);
    let (began_ns, before) = (now_ns(), used(UsageWho::RUSAGE_THREAD));
    for _ in 0..MESSAGES {
        send(ours.as_raw_fd(), &packet, none)?;
    }
    let theirs = other.join().map_err(|_| Error::other("the other thread panicked"))??;
    let own = used(UsageWho::RUSAGE_THREAD).saturating_sub(before);
    throughput("bare pair", 1, now_ns() - began_ns, own + theirs);
    Ok(())
}

fn main() -> Result<()> {
    // In a separate thread: the server forks, and pins its workers itself.
    std::thread::spawn(bare).join().map_err(|_| Error::other("the pair panicked"))??;
    let server = Server::builder().listen(([127, 0, 0, 1], 0)).workers(2).build().map_err(Error::other)?;
    let figures = |slot| Figures {
        phase: if slot == 0 { Phase::Pings { sent_ns: 0, halves_ns: Vec::new() } } else { Phase::Over },
        heard: 0,
        used: Duration::ZERO,
    };
    server.run(figures).map_err(Error::other)
}
