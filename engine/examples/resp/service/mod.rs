//! The store as a protocol of the engine: [`parse`] reads requests, [`commands`] runs them, and [`reply`] writes the
//! answers.
//!
//! Invariant: a turn's work and output are limited. A connection gives way after [`REQUESTS_PER_TURN_MAX`] requests, or
//! when its peer does not read the answers.

mod arguments;
mod client;
mod commands;
mod glob;
mod handover;
mod introspection;
mod keys;
mod number;
pub(crate) mod parse;
mod quoting;
mod reply;
mod store;
mod strings;
mod value;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use baton::{
    CannotFreeze, Closed, Io, Limit, Next, Peer, Protocol, Reject, StateFormat, Step, ThawError, TimerKey, Worker,
};

use self::client::{Client, ClientRecord};
use self::parse::{Parsed, Parser};
use self::store::Store;

/// Longest value, and longest single argument. One request must not make others wait.
pub(crate) const BULK_BYTES_MAX: usize = 64 << 20;

/// Longest request, with all its arguments. The engine cuts the connection of a longer one.
pub(crate) const REQUEST_BYTES_MAX: usize = 128 << 20;

/// Longest answer to one request: a short MGET can ask a million times for the same value.
pub(crate) const REPLY_BYTES_MAX: usize = BULK_BYTES_MAX;

/// Requests of one connection answered in one turn, so that a deep pipeline does not starve the others.
const REQUESTS_PER_TURN_MAX: u64 = 1024;

/// How often the store looks for expired entries, while any entry can expire.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Time to the next sweep after one that found more than it may remove.
const SWEEP_AGAIN: Duration = Duration::from_millis(1);

/// Most keys that one sweep removes, which takes about 100 µs.
const SWEEP_KEYS_MAX: usize = 1000;

const SWEEP: TimerKey = TimerKey(1);

const _: () = assert!(BULK_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX < u32::MAX as usize / 2, "places in a request are 32 bits wide");

/// The protocol: one store, and its clients.
#[derive(Default)]
pub(crate) struct Service {
    /// Memory for keys and values, bytes; 0 means no limit. The last request may exceed it.
    pub(crate) maxmemory: u64,
    parser: Parser,
    state: State,
    sweep_is_set: bool,
}

/// The state on which commands work.
#[derive(Default)]
struct State {
    store: Store,
    clients: BTreeMap<u64, ClientRecord>,
    connections_received: u64,
    commands_processed: u64,
    started: Duration,
}

impl Protocol for Service {
    type Connection = Client;
    type Message = ();

    fn on_start(&mut self, worker: &mut Worker<'_, ()>) -> io::Result<()> {
        self.state.started = worker.now();
        Ok(())
    }

    fn on_open(&mut self, _: Peer<'_>, io: &mut Io<'_>) -> Result<Client, Reject> {
        self.state.connections_received += 1;
        let id = self.state.connections_received;
        self.state.clients.insert(id, ClientRecord::new(io.now()));
        Ok(Client::new(id))
    }

    fn on_data(&mut self, client: &mut Client, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut consumed = 0;
        let mut answered = 0;
        let step = loop {
            let rest = &input[consumed..];
            if rest.is_empty() {
                break Step::more(consumed);
            }
            if answered == REQUESTS_PER_TURN_MAX || io.is_full() {
                break Step::yield_now(consumed);
            }
            match self.parser.parse(rest, &mut client.partial) {
                Parsed::Request { length } => {
                    commands::execute(&mut self.state, client, self.parser.arguments(rest), self.maxmemory, io);
                    consumed += length;
                    answered += 1;
                    if client.is_closing {
                        break Step::close(consumed);
                    }
                }
                Parsed::Nothing { length } => consumed += length,
                Parsed::Incomplete { at_least } => break Step::at_least(consumed, at_least),
                Parsed::Invalid(error) => {
                    error.write(io);
                    break Step::close(input.len());
                }
            }
        };
        io.count_requests(answered);
        step
    }

    fn on_limit(&mut self, _: &mut Client, limit: Limit, _: &[u8], io: &mut Io<'_>) -> Next {
        if limit == Limit::MessageBytes {
            io.write(b"-ERR Protocol error: too big request\r\n");
        }
        Next::Close
    }

    fn on_turn_end(&mut self, worker: &mut Worker<'_, ()>) {
        if !self.sweep_is_set && self.state.store.can_expire() {
            self.sweep_is_set = true;
            worker.set_timer(SWEEP, SWEEP_INTERVAL);
        }
    }

    fn on_worker_timer(&mut self, _: TimerKey, worker: &mut Worker<'_, ()>) {
        let is_behind = self.state.store.remove_expired(worker.now(), SWEEP_KEYS_MAX);
        self.sweep_is_set = is_behind;
        if is_behind {
            worker.set_timer(SWEEP, SWEEP_AGAIN);
        }
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "resp", version: handover::VERSION });

    fn freeze(&mut self, client: &Client, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        handover::freeze_client(client, self.state.clients.get(&client.id), state);
        Ok(())
    }

    fn thaw(&mut self, version: u32, state: &[u8], _: Peer<'_>, io: &mut Io<'_>) -> Result<Client, ThawError> {
        let (client, record) = handover::thaw_client(version, state)?;
        io.set_held_bytes(record.name.len());
        // If the store was not handed over, numbers continue nevertheless.
        self.state.connections_received = self.state.connections_received.max(client.id);
        self.state.clients.insert(client.id, record);
        Ok(client)
    }

    const WORKER_STATE: Option<StateFormat> = Some(StateFormat { name: "resp store", version: handover::VERSION });

    fn worker_state_bytes(&self) -> u64 {
        self.state.store.bytes() + self.state.store.count() as u64 * handover::ENTRY_BYTES
    }

    fn freeze_worker(&mut self, state: &mut dyn io::Write) -> io::Result<()> {
        handover::freeze_store(&self.state, state)
    }

    fn thaw_worker(
        &mut self,
        version: u32,
        state: &mut dyn io::Read,
        worker: &mut Worker<'_, ()>,
    ) -> Result<(), ThawError> {
        let State { store, connections_received, commands_processed, started, .. } =
            handover::thaw_store(version, state, worker.now())?;
        self.state.store.add_missing(store, worker.now());
        self.state.connections_received = self.state.connections_received.max(connections_received);
        self.state.commands_processed = self.state.commands_processed.saturating_add(commands_processed);
        self.state.started = self.state.started.min(started);
        Ok(())
    }

    fn on_close(&mut self, client: Client, _: Closed<'_>, _: &mut Worker<'_, Self::Message>) {
        self.state.clients.remove(&client.id);
    }
}
