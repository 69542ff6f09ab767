//! A service with helper threads: long work is done outside the worker's thread, which serves others meanwhile.
//!
//! ```text
//! $ cargo run --example jobs -- 127.0.0.1:7004 --control /tmp/jobs.sock &
//! $ nc 127.0.0.1 7004
//! 1000000            -> prime 1000000 is 15485863
//! ```
//!
//! Each worker has a few helpers ([`baton::spawn_helper`], which are not pinned to its core), and a bounded queue to
//! them. If the queue is full, a connection waits and is not read. A connection has one job at a time, so answers come in
//! order. While a helper works for it, a connection does not move to another worker ([`CannotFreeze::Later`]): no job is
//! lost or done twice. A job that has not begun moves with the connection, and the new worker asks for it again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use baton::config::{Control, Settings};
use baton::{
    CannotFreeze, ConnectionId, Drain, Io, Limit, Next, Peer, Protocol, Reject, Server, Service, StateFormat, Step,
    ThawError, Worker,
};
use clap::Parser;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

const HELPERS: usize = 2;
const QUEUE_MAX: usize = 64;
const PLACE_MAX: u64 = 10_000_000;

/// A question for a helper: the connection, and the index of the prime number.
type Job = (ConnectionId, u64);

/// A helper's result.
#[derive(Debug)]
struct Found {
    connection: ConnectionId,
    place: u64,
    prime: u64,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Reads,
    /// Its job waits for room in the queue.
    Waits(u64),
    /// A helper has its job.
    Works,
}

struct Jobs {
    jobs: Sender<Job>,
    /// The other end of the queue, until the helpers are started.
    taken: Receiver<Job>,
    /// Connections whose jobs found no room in the queue.
    waiting: VecDeque<ConnectionId>,
}

impl Jobs {
    fn new() -> Self {
        let (jobs, taken) = bounded(QUEUE_MAX);
        Self { jobs, taken, waiting: VecDeque::new() }
    }

    /// Gives a job to the helpers, or remembers it.
    fn ask(&mut self, standing: &mut Standing, place: u64, id: ConnectionId) {
        *standing = match self.jobs.try_send((id, place)) {
            Ok(()) => Standing::Works,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.waiting.push_back(id);
                Standing::Waits(place)
            }
        };
    }
}

/// The prime number with this index, computed the slow way.
fn prime(place: u64) -> u64 {
    let mut primes: Vec<u64> = vec![2];
    let mut candidate = 3;
    while (primes.len() as u64) < place {
        if primes.iter().take_while(|prime| *prime * *prime <= candidate).all(|prime| !candidate.is_multiple_of(*prime))
        {
            primes.push(candidate);
        }
        candidate += 2;
    }
    primes[primes.len() - 1]
}

impl Protocol for Jobs {
    type Connection = Standing;
    type Message = Found;

    fn on_start(&mut self, worker: &mut Worker<'_, Found>) -> io::Result<()> {
        for _ in 0..HELPERS {
            let (jobs, mailbox) = (self.taken.clone(), worker.mailbox());
            baton::spawn_helper("prime", move || {
                // The loop ends with the worker, which then sends no more jobs.
                for (connection, place) in jobs {
                    let _ = mailbox.send(Found { connection, place, prime: prime(place) });
                }
            })?;
        }
        Ok(())
    }

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<Standing, Reject> {
        Ok(Standing::Reads)
    }

    fn on_data(&mut self, standing: &mut Standing, input: &[u8], io: &mut Io<'_>) -> Step {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Step::more(0) };
        match str::from_utf8(&input[..end]).map(|line| line.trim_ascii().parse()) {
            Ok(Ok(place @ 1..=PLACE_MAX)) => {
                self.ask(standing, place, io.id());
                Step::pause(end + 1)
            }
            _ => {
                let _ = writeln!(io, "error: a number from 1 to {PLACE_MAX}");
                Step::yield_now(end + 1)
            }
        }
    }

    fn on_message(&mut self, found: Found, worker: &mut Worker<'_, Found>) {
        let Found { connection, place, prime } = found;
        // A client that has disconnected meanwhile needs no answer.
        let _ = worker.with(connection, |standing: &mut Standing, io| {
            let _ = writeln!(io, "prime {place} is {prime}");
            io.count_requests(1);
            *standing = Standing::Reads;
            Next::More { at_least: 1 }
        });
        // There is room for the next job.
        if let Some(id) = self.waiting.pop_front() {
            let _ = worker.with(id, |standing: &mut Standing, io| {
                if let Standing::Waits(place) = *standing {
                    self.ask(standing, place, io.id());
                }
                Next::Keep
            });
        }
    }

    fn on_wake(&mut self, standing: &mut Standing, io: &mut Io<'_>) -> Next {
        if let Standing::Waits(place) = *standing {
            self.ask(standing, place, io.id());
        }
        Next::Keep
    }

    fn on_limit(&mut self, standing: &mut Standing, _: Limit, _: &[u8], _: &mut Io<'_>) -> Next {
        // The client has ended its side and waits for this one.
        if *standing == Standing::Reads { Next::Close } else { Next::Keep }
    }

    fn on_drain(&mut self, standing: &mut Standing, _: Duration, _: &[u8], _: &mut Io<'_>) -> Drain {
        if *standing == Standing::Reads { Drain::Close } else { Drain::Wait }
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "jobs", version: 1 });

    fn freeze(&mut self, standing: &Standing, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        match standing {
            Standing::Reads => {}
            Standing::Waits(place) => state.extend(place.to_le_bytes()),
            Standing::Works => return Err(CannotFreeze::Later),
        }
        Ok(())
    }

    fn thaw(&mut self, version: u32, state: &[u8], _: Peer<'_>, io: &mut Io<'_>) -> Result<Standing, ThawError> {
        match (version, state) {
            (1, []) => Ok(Standing::Reads),
            (1, _) => {
                let place = u64::from_le_bytes(state.try_into().map_err(|_| ThawError::Malformed)?);
                // The new worker asks for it again once the connection belongs to it.
                io.wake(io.id());
                Ok(Standing::Waits(place))
            }
            _ => Err(ThawError::Version(version)),
        }
    }
}

#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    listen: SocketAddr,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// For batonctl.
    #[arg(long)]
    control: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = || Settings {
        listen: vec![arguments.listen.into()],
        workers: arguments.workers,
        control: arguments.control.clone().map_or(Control::Off, Control::At),
        ..Settings::default()
    };
    let service = || Service::new(|_slot| Jobs::new());
    let server = Server::builder().name("jobs").settings(settings()).build();
    match server.and_then(|server| server.run_with_reload(service(), || Ok((settings(), service())))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jobs: {error}");
            ExitCode::FAILURE
        }
    }
}

/// On the harness, helpers are virtual: a test takes the jobs and sends the results.
#[cfg(test)]
mod tests {
    use baton::testing::{Client, Harness};

    use super::*;

    fn harness() -> (Harness<Jobs>, Receiver<Job>) {
        let jobs = Jobs { taken: bounded(0).1, ..Jobs::new() };
        let (sender, taken) = bounded(1);
        (Harness::new(Jobs { jobs: sender, ..jobs }), taken)
    }

    fn text(harness: &mut Harness<Jobs>, client: Client) -> String {
        String::from_utf8(harness.take_output(client)).expect("text")
    }

    /// A helper does the next job.
    fn help(harness: &mut Harness<Jobs>, jobs: &Receiver<Job>) {
        let (connection, place) = jobs.try_recv().expect("a job");
        harness.message(Found { connection, place, prime: prime(place) });
    }

    #[test]
    fn primes() {
        assert_eq!([1, 2, 3, 10, 1000].map(prime), [2, 3, 5, 29, 7919]);
    }

    #[test]
    fn answers_come_in_order_and_others_wait_for_room() {
        let (mut harness, jobs) = harness();
        let (first, second) = (harness.open(), harness.open());
        harness.send(first, b"1\n2\nx\n");
        harness.send(second, b"3\n");
        for _ in 0..3 {
            help(&mut harness, &jobs);
        }
        let error = "error: a number from 1 to 10000000\n";
        assert_eq!(text(&mut harness, first), format!("prime 1 is 2\nprime 2 is 3\n{error}"));
        assert_eq!(text(&mut harness, second), "prime 3 is 5\n");
    }

    #[test]
    fn one_that_a_helper_works_for_moves_when_that_is_done() {
        let (mut harness, jobs) = harness();
        let (first, second) = (harness.open(), harness.open());
        harness.send(first, b"4\n");
        harness.send(second, b"6\n");
        let (next, taken) = bounded(4);
        harness.hand_over(Jobs { jobs: next, taken: bounded(0).1, waiting: VecDeque::new() });
        assert_eq!([first, second].map(|client| harness.is_served(client)), [false, true]);
        let (connection, place) = jobs.try_recv().expect("a job");
        harness.message_to(0, Found { connection, place, prime: prime(place) });
        assert!(harness.is_served(first));
        harness.send(first, b"5\n");
        help(&mut harness, &taken);
        help(&mut harness, &taken);
        assert_eq!(text(&mut harness, first), "prime 4 is 7\nprime 5 is 11\n");
        assert_eq!(text(&mut harness, second), "prime 6 is 13\n");
    }
}
