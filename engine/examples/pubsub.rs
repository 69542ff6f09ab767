//! Publish and subscribe over all workers: a publisher need not know which workers have the subscribers.
//!
//! ```text
//! $ cargo run --example pubsub -- 127.0.0.1:7005 --workers 2 --control /tmp/pubsub.sock &
//! $ nc 127.0.0.1 7005
//! sub news           -> ok
//! pub news hello     -> ok, and each subscriber reads `news: hello`
//! unsub news         -> ok
//! ```
//!
//! Each message goes to all workers ([`Io::broadcast`]), including this one, and each of them passes it to its own
//! subscribers ([`Worker::with`]). A subscriber that does not read misses messages, and learns how many, instead of
//! filling the memory. If workers have no room, a publisher waits. Connections move at reloads and upgrades together with
//! their subscriptions, and hear each message once.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use baton::config::{Control, Settings};
use baton::{
    CannotFreeze, Closed, ConnectionId, Io, Limit, Next, Peer, Protocol, Reject, SendError, Server, Service, Sibling,
    StateFormat, Step, ThawError, Worker,
};
use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

const TOPICS_MAX: usize = 64;
const ANSWER_TO_WRONG: &[u8] = b"error: sub TOPIC, unsub TOPIC, or pub TOPIC TEXT; at most 64 topics\n";

#[derive(Default)]
struct Client {
    topics: BTreeSet<String>,
    /// Messages that it has missed since it was last told.
    missed: u64,
}

#[derive(Default)]
struct PubSub {
    subscribers: HashMap<String, Vec<ConnectionId>>,
    /// Publishers that wait for room.
    waiting: Vec<ConnectionId>,
}

impl PubSub {
    fn subscribe(&mut self, client: &mut Client, topic: &str, id: ConnectionId) -> bool {
        if client.topics.len() >= TOPICS_MAX && !client.topics.contains(topic) {
            return false;
        }
        if client.topics.insert(topic.to_owned()) {
            self.subscribers.entry(topic.to_owned()).or_default().push(id);
        }
        true
    }

    fn unsubscribe(&mut self, topic: &str, id: ConnectionId) {
        if let Some(subscribers) = self.subscribers.get_mut(topic) {
            subscribers.retain(|one| *one != id);
            if subscribers.is_empty() {
                self.subscribers.remove(topic);
            }
        }
    }

    /// Carries out the command of a line.
    ///
    /// # Errors
    /// If nothing was done, because workers have no room for the message.
    fn command(&mut self, client: &mut Client, line: &str, io: &mut Io<'_>) -> Result<(), SendError> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let is_done = match (command, rest.split_once(' ')) {
            ("sub", None) if !rest.is_empty() => self.subscribe(client, rest, io.id()),
            ("unsub", None) => {
                client.topics.remove(rest);
                self.unsubscribe(rest, io.id());
                true
            }
            ("pub", Some(_)) => {
                io.broadcast(rest.as_bytes())?;
                true
            }
            _ => false,
        };
        io.write(if is_done { b"ok\n" } else { ANSWER_TO_WRONG });
        io.count_requests(1);
        Ok(())
    }
}

impl Protocol for PubSub {
    type Connection = Client;
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<Client, Reject> {
        Ok(Client::default())
    }

    fn on_data(&mut self, client: &mut Client, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut consumed = 0;
        while let Some(length) = input[consumed..].iter().position(|byte| *byte == b'\n') {
            if io.is_full() {
                return Step::yield_now(consumed);
            }
            let line = String::from_utf8_lossy(input[consumed..consumed + length].trim_ascii_end());
            if self.command(client, &line, io).is_err() {
                self.waiting.push(io.id());
                return Step::pause(consumed);
            }
            consumed += length + 1;
        }
        Step::more(consumed)
    }

    const MESSAGES: Option<StateFormat> = Some(StateFormat { name: "pubsub", version: 1 });

    fn on_sibling_message(&mut self, _: Sibling, message: &[u8], worker: &mut Worker<'_, ()>) {
        let Some((topic, text)) = str::from_utf8(message).ok().and_then(|message| message.split_once(' ')) else {
            return;
        };
        let line = format!("{topic}: {text}\n");
        for id in self.subscribers.get(topic).into_iter().flatten() {
            let _ = worker.with(*id, |client: &mut Client, io| {
                if io.is_full() {
                    client.missed += 1;
                    return Next::Keep;
                }
                if client.missed > 0 {
                    let _ = writeln!(io, "missed {}", std::mem::take(&mut client.missed));
                }
                io.write(line.as_bytes());
                Next::Keep
            });
        }
    }

    fn on_siblings_writable(&mut self, worker: &mut Worker<'_, ()>) {
        for id in std::mem::take(&mut self.waiting) {
            let _ = worker.with(id, |_: &mut Client, _| Next::More { at_least: 1 });
        }
    }

    /// Subscribers need not send anything.
    fn on_limit(&mut self, client: &mut Client, limit: Limit, _: &[u8], _: &mut Io<'_>) -> Next {
        if limit == Limit::Idle && !client.topics.is_empty() { Next::Keep } else { Next::Close }
    }

    fn on_close(&mut self, client: Client, closed: Closed<'_>, _: &mut Worker<'_, ()>) {
        client.topics.iter().for_each(|topic| self.unsubscribe(topic, closed.id));
    }

    /// The number of missed messages, and the topics, each on a line. A connection that waits for room asks again at
    /// the new worker.
    const STATE: Option<StateFormat> = Some(StateFormat { name: "pubsub", version: 1 });

    fn freeze(&mut self, client: &Client, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        let _ = writeln!(state, "{}", client.missed);
        client.topics.iter().for_each(|topic| drop(writeln!(state, "{topic}")));
        Ok(())
    }

    fn thaw(&mut self, version: u32, state: &[u8], _: Peer<'_>, io: &mut Io<'_>) -> Result<Client, ThawError> {
        if version != 1 {
            return Err(ThawError::Version(version));
        }
        let mut lines = str::from_utf8(state).map_err(|_| ThawError::Malformed)?.lines();
        let missed = lines.next().and_then(|line| line.parse().ok()).ok_or(ThawError::Malformed)?;
        let mut client = Client { topics: BTreeSet::new(), missed };
        let is_whole = lines.all(|topic| self.subscribe(&mut client, topic, io.id()));
        io.wake(io.id());
        if is_whole { Ok(client) } else { Err(ThawError::Malformed) }
    }

    fn on_wake(&mut self, _: &mut Client, _: &mut Io<'_>) -> Next {
        Next::More { at_least: 1 }
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
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).init();
    let arguments = Arguments::parse();
    let settings = || Settings {
        listen: vec![arguments.listen.into()],
        workers: arguments.workers,
        control: arguments.control.clone().map_or(Control::Off, Control::At),
        ..Settings::default()
    };
    let service = || Service::new(|_slot| PubSub::default());
    let server = Server::builder().name("pubsub").settings(settings()).build();
    match server.and_then(|server| server.run_with_reload(service(), || Ok((settings(), service())))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pubsub: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use baton::config::{Limits, Timeouts};
    use baton::testing::Harness;

    use super::*;

    fn harness() -> Harness<PubSub> {
        let limits = Limits { outbound_bytes_high: 100, outbound_bytes_low: 10, ..Limits::default() };
        Harness::with(PubSub::default(), limits, Timeouts::default())
    }

    fn text(harness: &mut Harness<PubSub>, client: baton::testing::Client) -> String {
        String::from_utf8(harness.take_output(client)).expect("text")
    }

    #[test]
    fn subscribers_hear_what_is_published_wherever_they_are() {
        let mut harness = harness();
        let (first, second) = (harness.open(), harness.open());
        harness.send(first, b"sub news\nsub news\n");
        harness.send(second, b"sub other\nsub news\nunsub other\npub news one\r\npub other two\nsub\n");
        assert_eq!(text(&mut harness, first), "ok\nok\nnews: one\n");
        let error = str::from_utf8(ANSWER_TO_WRONG).expect("text");
        assert_eq!(text(&mut harness, second), format!("{}{error}news: one\n", "ok\n".repeat(5)));
        harness.hand_over(PubSub::default());
        harness.send(second, b"pub news three\n");
        harness.sibling_message(7, b"news from afar");
        assert_eq!(text(&mut harness, first), "news: three\nnews: from afar\n");
        harness.finish(second);
        assert_eq!(harness.protocol().subscribers["news"].len(), 1);
    }

    #[test]
    fn a_slow_subscriber_misses_messages_and_is_told_so() {
        let mut harness = harness();
        let client = harness.open();
        harness.send(client, b"sub news\n");
        harness.set_window(client, Some(0));
        (0..100).for_each(|number| harness.sibling_message(1, format!("news {number}").as_bytes()));
        harness.hand_over(PubSub::default());
        harness.set_window(client, None);
        harness.sibling_message(1, b"news last");
        let output = text(&mut harness, client);
        let heard = output.lines().filter(|line| line.starts_with("news: ")).count();
        assert!(output.ends_with(&format!("missed {}\nnews: last\n", 101 - heard)), "{output}");
    }
}
