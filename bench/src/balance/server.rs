//! `baton-bench serve`: the server that `balance` measures. Its handler sleeps instead of working, so a worker is busy
//! without occupying a core: many workers on few cores queue as they would on cores of their own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use baton::config::{Control, Rebalance, Settings, Steering};
use baton::{CounterId, Server, Service, Worker};
use baton_http::{Done, Error, Http, HttpConfig, Later, Message, Reply, Request, Response, Router, State};
use clap::{Args, ValueEnum};
use crossbeam_channel::Sender;
use nix::sys::prctl::set_timerslack;

use crate::number;
use crate::run::Failed;

/// The longest time that a request may ask for.
const SERVICE_US_MAX: u64 = 1_000_000;

/// If the second of two requests was waiting when the first ended, the gap between them is at most this.
const GAP_MAX: Duration = Duration::from_micros(200);

/// The most time by which sleeps were too long that the next sleep makes up for.
const DEBT_MAX: Duration = Duration::from_millis(20);

/// Counters of each worker, in microseconds: the time that requests took, and by how much sleeps were too long.
pub(super) const BUSY_US: &str = "busy_us";
pub(super) const LATE_US: &str = "late_us";

const TEXT: &str = "done";

/// Whether established connections move from busy workers to idle ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RebalanceChoice {
    Off,
    Auto,
}

/// Which worker gets a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SteeringChoice {
    Hash,
    TwoChoices,
    Least,
}

/// Answers GET /?us=TIME after this many microseconds, in which its worker does nothing else.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = number::whole(1..=1024_u16))]
    workers: u16,
    /// For batonctl.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Which worker gets a new connection, where programs may be loaded that choose it.
    #[arg(long, value_enum, default_value_t = SteeringChoice::Hash)]
    steering: SteeringChoice,
    /// Whether established connections move between workers that are not equally busy.
    #[arg(long, value_enum, default_value_t = RebalanceChoice::Off)]
    rebalance: RebalanceChoice,
    /// One worker, and a thread for each of --workers: they take requests from one queue.
    #[arg(long)]
    shared_queue: bool,
}

impl ServeArguments {
    fn settings(&self) -> Settings {
        let rebalance = match self.rebalance {
            RebalanceChoice::Off => Rebalance::Off,
            RebalanceChoice::Auto => Rebalance::Auto,
        };
        let steering = match self.steering {
            SteeringChoice::Hash => Steering::Hash,
            SteeringChoice::TwoChoices => Steering::TwoChoices,
            SteeringChoice::Least => Steering::Least,
        };
        Settings {
            listen: vec![self.listen.into()],
            workers: if self.shared_queue { 1 } else { self.workers.into() },
            control: self.control.clone().map_or(Control::Off, Control::At),
            name: Some("balance".to_owned()),
            steering,
            rebalance,
            ..Settings::default()
        }
    }
}

/// Serves until it is stopped.
pub(crate) fn run(arguments: &ServeArguments) -> Result<(), Failed> {
    // Workers and threads inherit it. Without it, sleeps take 50 microseconds longer.
    set_timerslack(1).map_err(|error| Failed::Error(format!("PR_SET_TIMERSLACK: {error}")))?;
    let threads = if arguments.shared_queue { arguments.workers } else { 0 };
    let router = || Router::new().get("/", answer);
    let service = move || Service::new(move |_slot| Http::new(&HttpConfig::default(), router(), Sleeper::new(threads)));
    let server = Server::builder().settings(arguments.settings()).build();
    let result = server.and_then(|server| server.run_with_reload(service(), || Ok((arguments.settings(), service()))));
    result.map_err(|error| Failed::Error(error.to_string()))
}

/// The handler's state of one worker. With threads, they do the work.
struct Sleeper {
    account: Account,
    threads: u16,
    queue: Option<Sender<(Later, Duration)>>,
    counters: Option<[CounterId; 2]>,
    busy: Duration,
    late: Duration,
}

impl Sleeper {
    fn new(threads: u16) -> Self {
        Self {
            account: Account::new(),
            threads,
            queue: None,
            counters: None,
            busy: Duration::ZERO,
            late: Duration::ZERO,
        }
    }
}

impl State for Sleeper {
    fn on_start(&mut self, worker: &mut Worker<'_, Message>) -> io::Result<()> {
        self.counters = Some([worker.counter(BUSY_US), worker.counter(LATE_US)]);
        if self.threads > 0 {
            let (queue, taken) = crossbeam_channel::unbounded::<(Later, Duration)>();
            for _ in 0..self.threads {
                let taken = taken.clone();
                baton::spawn_helper("queue", move || {
                    let mut account = Account::new();
                    for (later, service) in taken {
                        account.sleep(service);
                        later.answer(Response::text(TEXT));
                        account.ended = Instant::now();
                    }
                })?;
            }
            self.queue = Some(queue);
        }
        Ok(())
    }

    fn on_turn_end(&mut self, worker: &mut Worker<'_, Message>) {
        if self.busy.is_zero() {
            return;
        }
        if let Some([busy_us, late_us]) = self.counters {
            worker.add(busy_us, self.busy.as_micros() as u64);
            worker.add(late_us, self.late.as_micros() as u64);
        }
        (self.busy, self.late) = (Duration::ZERO, Duration::ZERO);
        self.account.ended = Instant::now();
    }
}

fn answer(sleeper: &mut Sleeper, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    let service_us = request.parse_query_value::<u64>("us")?.unwrap_or(1_000).min(SERVICE_US_MAX);
    let service = Duration::from_micros(service_us);
    if let Some(queue) = &sleeper.queue {
        let (later, done) = reply.later();
        // A request that no thread takes is answered with 500.
        let _ = queue.send((later, service));
        return Ok(done);
    }
    sleeper.late += sleeper.account.sleep(service);
    sleeper.busy += service;
    reply.text(TEXT)
}

/// When requests that follow each other are done. A sleep that took too long makes the next one shorter, so that a busy
/// worker serves as many requests as one whose requests take exactly the time.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// When the last request should have been done.
    done: Instant,
    /// When it was done, including all other work of its turn.
    ended: Instant,
}

impl Account {
    fn new() -> Self {
        let now = Instant::now();
        Self { done: now, ended: now }
    }

    /// When a request that begins now is done.
    fn due(&self, now: Instant, service: Duration) -> Instant {
        let has_waited = now.saturating_duration_since(self.ended) < GAP_MAX;
        let debt = now.saturating_duration_since(self.done).min(DEBT_MAX);
        now + if has_waited { service.saturating_sub(debt) } else { service }
    }

    /// Serves a request. Returns by how much it took too long.
    fn sleep(&mut self, service: Duration) -> Duration {
        let now = Instant::now();
        let due = self.due(now, service);
        thread::sleep(due.saturating_duration_since(now));
        *self = Self { done: due, ended: Instant::now() };
        self.ended.saturating_duration_since(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_that_took_too_long_is_made_up_for_by_the_next_one_unless_the_worker_was_idle() {
        let service = Duration::from_millis(1);
        let after = |base: Instant, us: u64| base + Duration::from_micros(us);
        let done = Instant::now();
        let account = Account { done, ended: after(done, 300) };
        assert_eq!(account.due(after(done, 310), service), after(done, 1_000));
        assert_eq!(account.due(after(done, 700), service), after(done, 1_700));
        let late = Account { done, ended: after(done, 30_000) };
        assert_eq!(late.due(after(done, 30_000), service), after(done, 30_000));
    }

    #[test]
    fn requests_that_follow_each_other_take_their_time_on_average() {
        let mut account = Account::new();
        let began = Instant::now();
        (0..100).for_each(|_| _ = account.sleep(Duration::from_micros(500)));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(49), "{took:?}");
    }
}
