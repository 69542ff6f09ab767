//! Answers that come later: from another thread, after a time, in the next turn of the worker's loop; or at once, to compare.
//!
//! ```text
//! cargo run --release -p baton-http --example later -- --from thread
//! curl http://127.0.0.1:8000/
//! ```
//!
//! `baton-bench compare` measures these beside each other: see `bench/README.md`.
#![deny(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use baton::{Server, ServerError, TimerKey, Worker};
use baton_http::{Done, Error, Http, HttpConfig, Later, Message, Reply, Request, Response, Router, State};
use clap::{Parser, ValueEnum};

const TEXT: &str = "Hello, World!";

const TIMER: TimerKey = TimerKey(0);

/// Answers every GET with the same text.
#[derive(Parser)]
#[command(name = "later")]
struct Arguments {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Who answers
    #[arg(long, value_enum, value_name = "WHO", default_value = "thread")]
    from: Who,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Who {
    /// The handler, at once
    Handler,
    /// The worker, at the end of the turn of its loop
    Turn,
    /// The worker, a millisecond later
    Timer,
    /// Another thread of the worker's process
    Thread,
}

/// The requests that a worker must answer.
struct Waiting {
    from: Who,
    requests: Vec<Later>,
    has_timer: bool,
    thread: Option<Sender<Vec<Later>>>,
}

impl Waiting {
    fn new(from: Who) -> Self {
        Self { from, requests: Vec::new(), has_timer: false, thread: None }
    }
}

fn answer(requests: impl IntoIterator<Item = Later>) {
    requests.into_iter().for_each(|later| later.answer(Response::text(TEXT)));
}

impl State for Waiting {
    fn on_start(&mut self, _: &mut Worker<'_, Message>) -> io::Result<()> {
        if self.from == Who::Thread {
            let (sender, receiver) = channel::<Vec<Later>>();
            // The thread ends with the worker. Its work could take long: a query, a file, a computation.
            thread::Builder::new().spawn(move || receiver.iter().for_each(answer))?;
            self.thread = Some(sender);
        }
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, _: &mut Worker<'_, Message>) {
        self.has_timer = false;
        answer(self.requests.drain(..));
    }

    fn on_turn_end(&mut self, worker: &mut Worker<'_, Message>) {
        if self.requests.is_empty() {
            return;
        }
        if let Some(thread) = &self.thread {
            // If the thread does not take the requests, dropping them answers 500.
            let _ = thread.send(std::mem::take(&mut self.requests));
        } else if self.from == Who::Turn {
            answer(self.requests.drain(..));
        } else if !self.has_timer {
            self.has_timer = true;
            worker.set_timer(TIMER, Duration::from_millis(1));
        }
    }
}

fn hello(waiting: &mut Waiting, _: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    if waiting.from == Who::Handler {
        return reply.text(TEXT);
    }
    let (later, done) = reply.later();
    waiting.requests.push(later);
    Ok(done)
}

fn main() -> Result<(), ServerError> {
    let Arguments { listen, from } = Arguments::parse();
    let router = || Router::new().get("/", hello).get("/{*path}", hello);
    let http = |_slot| Http::new(&HttpConfig::default(), router(), Waiting::new(from));
    Server::builder().listen(listen).build()?.run(http)
}
