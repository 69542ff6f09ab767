//! A protocol under test: the engine's own connection machine, driven without a kernel and in virtual time.
//!
//! ```
//! # use baton::{Io, Peer, Protocol, Reject, Step};
//! # struct Echo;
//! # impl Protocol for Echo {
//! #     type Connection = ();
//! #     type Message = ();
//! #     fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> { Ok(()) }
//! #     fn on_data(&mut self, _: &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
//! #         io.write(input);
//! #         Step::more(input.len())
//! #     }
//! # }
//! use baton::testing::Harness;
//!
//! let mut harness = Harness::new(Echo);
//! let client = harness.open();
//! harness.send(client, b"hello");
//! assert_eq!(harness.take_output(client), b"hello");
//! harness.finish(client);
//! assert_eq!(harness.closed(client), Some(baton::CloseReason::Peer));
//! ```

mod outputs;
mod siblings;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use self::outputs::{output_of_all_handovers, output_of_all_splits, output_of_parts};
use crate::config::{Limits, Timeouts};
use crate::connection::{Action, Connection, Received};
use crate::context::{Alarm, Command, Context, Inbox, WallClock, Worker};
use crate::handover::{Frozen, Standing};
use crate::messages::{Sibling, Siblings, Who};
use crate::protocol::Protocol;
use crate::sys::payload::Payload;
use crate::sys::shared_memory::Shared;
use crate::telemetry::Snapshot;
use crate::types::{CloseReason, ConnectionId, Peer, StateFormat, ThawError, TimerKey};

/// Where clients come from.
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);

/// Moves a worker's own state, where it has some, to another.
fn carry_worker<P: Protocol, Q: Protocol>(
    from: &mut P,
    to: &mut Q,
    worker: &mut Worker<'_, Q::Message>,
) -> Result<(), ThawError> {
    let Some(format) = P::WORKER_STATE else { return Ok(()) };
    let mut state = Vec::new();
    from.freeze_worker(&mut state).expect("a worker that freezes");
    let mut rest = state.as_slice();
    to.thaw_worker(format.version, &mut rest, worker)?;
    assert!(rest.is_empty(), "{} of {} bytes of the worker's state were not read", rest.len(), state.len());
    Ok(())
}

/// Moves a connection from one worker to another.
fn carry<P: Protocol, Q: Protocol>(
    connection: &mut Connection<P::Connection>,
    from: &mut P,
    to: &mut Q,
    context: &mut Context,
) -> Result<Connection<Q::Connection>, ThawError> {
    let format = P::STATE.expect("a protocol whose connections can be handed over");
    let frozen = connection.freeze(from, context).expect("a connection that freezes");
    let mut thawed = Connection::new(connection.id(), context.now_ns);
    let peer = Peer { token: None, address: &|| Ok(CLIENT) };
    let standing = thawed.thaw(to, context, format.version, frozen, peer)?;
    connection.leave(context);
    connection.close(from, context);
    thawed.resume(to, context, &standing);
    Ok(thawed)
}

/// A client of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(usize);

enum Sent {
    Bytes(Vec<u8>),
    End,
    Reset,
}

struct Simulated<S> {
    /// `None` once closed.
    connection: Option<Connection<S>>,
    /// What the client sent and the engine has not received.
    incoming: VecDeque<Sent>,
    output: Vec<u8>,
    /// Bytes the client still takes; `None` for any number.
    window: Option<usize>,
    waiting_send: Option<Payload>,
    saw_end: bool,
    was_reset: bool,
    reason: Option<CloseReason>,
}

/// See the module's head.
pub struct Harness<P: Protocol> {
    protocol: P,
    context: Context,
    inbox: Inbox<P::Message>,
    clients: Vec<Simulated<P::Connection>>,
    connects: Vec<(SocketAddr, u64)>,
    has_drained: bool,
}

impl<P: Protocol> Harness<P> {
    /// A worker running `protocol` with default limits and time-outs.
    ///
    /// # Panics
    /// If [`Protocol::on_start`] fails.
    pub fn new(protocol: P) -> Self {
        Self::with(protocol, Limits::default(), Timeouts::default())
    }

    /// A worker running `protocol` with these limits and time-outs.
    ///
    /// # Panics
    /// If [`Protocol::on_start`] fails, or there is no memory or descriptor for the harness.
    pub fn with(mut protocol: P, limits: Limits, timeouts: Timeouts) -> Self {
        let page = Arc::new(Shared::new().expect("memory for telemetry"));
        let inbox = Inbox::new().expect("an eventfd");
        // Not zero, as on a real clock.
        let now_ns = 1_000_000_000;
        let mut context = Context::new(page, limits, timeouts, now_ns);
        context.wall_clock = WallClock::Virtual(Duration::from_secs(784_111_776));
        context.siblings = P::MESSAGES.map(|_| {
            let who = Who { name: String::new(), slot: 0, generation: 1 };
            Box::new(Siblings::new(who, &context.limits))
        });
        protocol.on_start(&mut Worker::new(&mut context, &inbox)).expect("the protocol starts");
        Self { protocol, context, inbox, clients: Vec::new(), connects: Vec::new(), has_drained: false }
    }

    /// The protocol, for a look at its state.
    pub fn protocol(&mut self) -> &mut P {
        &mut self.protocol
    }

    /// The engine's counters.
    pub fn snapshot(&self) -> Snapshot {
        self.context.page.snapshot()
    }

    /// A client connects.
    pub fn open(&mut self) -> Client {
        self.open_as(None)
    }

    /// An outbound connection asked for with [`Worker::connect`] is established; the client is the far end.
    ///
    /// # Panics
    /// If none was asked for.
    pub fn accept_outbound(&mut self) -> Client {
        let (_, token) = self.connects.remove(0);
        self.open_as(Some(token))
    }

    /// An outbound connection asked for with [`Worker::connect`] is refused.
    ///
    /// # Panics
    /// If none was asked for.
    pub fn refuse_outbound(&mut self) {
        let (_, token) = self.connects.remove(0);
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        self.protocol.on_connect_failed(token, error, &mut Worker::new(&mut self.context, &self.inbox));
        self.run();
    }

    /// A connection comes from another worker, whose protocol wrote `state` in this version, had not consumed `input`, and had
    /// set `timers`, each with the time that is left. The peer has just taken what was written there.
    ///
    /// # Errors
    /// The protocol's, where it does not understand the state; [`ThawError::Malformed`] where there are too many timers.
    pub fn take_over(
        &mut self,
        version: u32,
        state: &[u8],
        input: &[u8],
        timers: &[(TimerKey, Duration)],
    ) -> Result<Client, ThawError> {
        let ns = |left: Duration| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        let timers_ns = timers.iter().map(|(key, left)| (key.0, ns(*left))).collect();
        let standing = Standing { rerun: true, full: true, timers_ns, ..Standing::default() };
        self.thaw(version, Frozen { standing, state: state.to_vec(), input: input.to_vec(), output: Vec::new() })
    }

    /// The state of another worker comes, written in this version by [`Protocol::freeze_worker`] or by somebody who pretends that.
    ///
    /// # Errors
    /// The protocol's, where it does not understand the state.
    pub fn take_over_worker(&mut self, version: u32, mut state: &[u8]) -> Result<(), ThawError> {
        let thawed = self.protocol.thaw_worker(version, &mut state, &mut Worker::new(&mut self.context, &self.inbox));
        self.run();
        thawed
    }

    pub(crate) fn thaw(&mut self, version: u32, frozen: Frozen) -> Result<Client, ThawError> {
        let mut connection = Connection::new(self.next_id(), self.context.now_ns);
        let peer = Peer { token: None, address: &|| Ok(CLIENT) };
        match connection.thaw(&mut self.protocol, &mut self.context, version, frozen, peer) {
            Ok(standing) => connection.resume(&mut self.protocol, &mut self.context, &standing),
            Err(error) => {
                connection.leave(&mut self.context);
                connection.close(&mut self.protocol, &mut self.context);
                return Err(error);
            }
        }
        self.context.page.taken_over.add(1);
        Ok(self.add(connection))
    }

    fn next_id(&self) -> ConnectionId {
        ConnectionId { slot: self.clients.len() as u32, generation: 0 }
    }

    fn open_as(&mut self, token: Option<u64>) -> Client {
        let mut connection = Connection::new(self.next_id(), self.context.now_ns);
        let address = || Ok(CLIENT);
        connection.open(&mut self.protocol, &mut self.context, Peer { token, address: &address });
        self.context.page.accepted.add(1);
        self.add(connection)
    }

    fn add(&mut self, connection: Connection<P::Connection>) -> Client {
        self.clients.push(Simulated {
            connection: Some(connection),
            incoming: VecDeque::new(),
            output: Vec::new(),
            window: None,
            waiting_send: None,
            saw_end: false,
            was_reset: false,
            reason: None,
        });
        let client = Client(self.clients.len() - 1);
        self.run();
        client
    }

    /// The client sends bytes, which arrive together.
    pub fn send(&mut self, client: Client, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.clients[client.0].incoming.push_back(Sent::Bytes(bytes.to_vec()));
        }
        self.run();
    }

    /// The client sends FIN.
    pub fn finish(&mut self, client: Client) {
        self.clients[client.0].incoming.push_back(Sent::End);
        self.run();
    }

    /// The client resets the connection.
    pub fn reset(&mut self, client: Client) {
        self.clients[client.0].incoming.push_back(Sent::Reset);
        self.run();
    }

    /// From now on the client takes only so many bytes more of the output; `None` for all of it, as at first.
    pub fn set_window(&mut self, client: Client, bytes: Option<usize>) {
        self.clients[client.0].window = bytes;
        self.run();
    }

    /// What the client has received since the last call.
    pub fn take_output(&mut self, client: Client) -> Vec<u8> {
        std::mem::take(&mut self.clients[client.0].output)
    }

    /// Whether the client has seen the engine's FIN.
    pub fn saw_end(&self, client: Client) -> bool {
        self.clients[client.0].saw_end
    }

    /// Whether the client has seen a reset.
    pub fn was_reset(&self, client: Client) -> bool {
        self.clients[client.0].was_reset
    }

    /// Why the connection ended; `None` while it lives.
    pub fn closed(&self, client: Client) -> Option<CloseReason> {
        self.clients[client.0].reason
    }

    /// Memory that is held for it: input, output that the client has not taken, and what the protocol has
    /// [said](crate::Io::set_held_bytes); 0 once it is closed.
    pub fn held_bytes(&self, client: Client) -> usize {
        self.clients[client.0].connection.as_ref().map_or(0, Connection::held_bytes)
    }

    /// Outbound connections asked for and not yet answered.
    pub fn outbound(&self) -> Vec<(SocketAddr, u64)> {
        self.connects.clone()
    }

    /// Another worker, which has this slot, has sent a message.
    pub fn sibling_message(&mut self, slot: usize, message: &[u8]) {
        let from = Sibling { slot, number: slot as u64 + 1 };
        self.protocol.on_sibling_message(from, message, &mut Worker::new(&mut self.context, &self.inbox));
        self.run();
    }

    /// A helper thread's message arrives.
    pub fn message(&mut self, message: P::Message) {
        self.protocol.on_message(message, &mut Worker::new(&mut self.context, &self.inbox));
        self.run();
    }

    /// The worker drains.
    pub fn drain(&mut self) {
        if std::mem::replace(&mut self.has_drained, true) {
            return;
        }
        self.context.draining = true;
        let deadline_ns = self.context.now_ns + self.context.timeouts.drain_ms_max * 1_000_000;
        self.context.timers.set(deadline_ns, Alarm::Drain);
        for client in &mut self.clients {
            if let Some(connection) = &mut client.connection {
                connection.drain(&mut self.protocol, &mut self.context, Duration::from_nanos(deadline_ns));
            }
        }
        self.run();
    }

    /// Another worker takes every connection over: each is frozen, closed with [`CloseReason::HandedOver`] and thawed by
    /// `successor`, in the middle of whatever it is at. What the harness was showing, it goes on showing. Connections that are
    /// about to end do so.
    ///
    /// # Panics
    /// If [`Protocol::STATE`] is `None`, a connection cannot be frozen or not be thawed, or [`Protocol::on_start`] fails.
    pub fn hand_over(&mut self, mut successor: P) {
        successor.on_start(&mut Worker::new(&mut self.context, &self.inbox)).expect("the protocol starts");
        let carried =
            carry_worker(&mut self.protocol, &mut successor, &mut Worker::new(&mut self.context, &self.inbox));
        carried.expect("what a protocol has frozen it can thaw");
        for client in &mut self.clients {
            let Some(connection) = client.connection.as_mut().filter(|connection| connection.is_open()) else {
                continue;
            };
            if let Some(payload) = client.waiting_send.take() {
                connection.sent(&mut self.protocol, &mut self.context, payload, 0);
            }
            let moved = carry(connection, &mut self.protocol, &mut successor, &mut self.context);
            client.connection = Some(moved.expect("what a protocol has frozen it can thaw"));
        }
        self.protocol = successor;
        self.run();
    }

    /// The same, to another version of the protocol. Connections that are about to end are not there any more.
    ///
    /// # Errors
    /// The successor's, where it does not understand the state of a connection.
    ///
    /// # Panics
    /// If [`Protocol::STATE`] is `None` or names another protocol, or a connection cannot be frozen, or
    /// [`Protocol::on_start`] fails.
    pub fn hand_over_to<Q: Protocol>(mut self, mut successor: Q) -> Result<Harness<Q>, ThawError> {
        let name = |format: Option<StateFormat>| format.expect("a protocol that can be handed over").name;
        assert_eq!(name(P::STATE), name(Q::STATE), "the successor runs another protocol");
        let inbox = Inbox::new().expect("an eventfd");
        successor.on_start(&mut Worker::new(&mut self.context, &inbox)).expect("the protocol starts");
        carry_worker(&mut self.protocol, &mut successor, &mut Worker::new(&mut self.context, &inbox))?;
        let mut clients = Vec::new();
        for client in self.clients {
            let Simulated { mut connection, incoming, output, window, waiting_send, saw_end, was_reset, mut reason } =
                client;
            let mut moved = None;
            if let Some(connection) = &mut connection {
                if let Some(payload) = waiting_send {
                    connection.sent(&mut self.protocol, &mut self.context, payload, 0);
                }
                if connection.is_open() {
                    moved = Some(carry(connection, &mut self.protocol, &mut successor, &mut self.context)?);
                } else {
                    reason = Some(connection.reason());
                }
            }
            let waiting_send = None;
            clients.push(Simulated {
                connection: moved,
                incoming,
                output,
                window,
                waiting_send,
                saw_end,
                was_reset,
                reason,
            });
        }
        let (context, connects, has_drained) = (self.context, self.connects, self.has_drained);
        let mut harness = Harness { protocol: successor, context, inbox, clients, connects, has_drained };
        harness.run();
        Ok(harness)
    }

    /// Time passes; timers fire in order, each at its time.
    pub fn advance(&mut self, time: Duration) {
        let end_ns = self.context.now_ns + u64::try_from(time.as_nanos()).expect("within centuries");
        while let Some(next_ns) = self.context.next_timer_ns().filter(|next_ns| *next_ns <= end_ns) {
            self.context.now_ns = next_ns;
            self.expire();
            self.run();
        }
        self.context.now_ns = end_ns;
        self.expire();
        self.run();
    }

    fn expire(&mut self) {
        while let Some(alarm) = self.context.timers.expire(self.context.now_ns) {
            match alarm {
                Alarm::Connection { slot } => {
                    if let Some(connection) = &mut self.clients[slot as usize].connection {
                        connection.alarm(&mut self.protocol, &mut self.context);
                    }
                }
                Alarm::Protocol { slot, key } => {
                    if let Some(connection) = &mut self.clients[slot as usize].connection {
                        connection.timer(&mut self.protocol, &mut self.context, key);
                    }
                }
                Alarm::Drain => {
                    for client in &mut self.clients {
                        if let Some(connection) = &mut client.connection {
                            connection.stop(&mut self.context);
                        }
                    }
                }
                Alarm::Accept | Alarm::Look | Alarm::Connect { .. } | Alarm::Gift { .. } => {}
            }
        }
        while let Some(key) = self.context.expire_worker_timer() {
            self.protocol.on_worker_timer(key, &mut Worker::new(&mut self.context, &self.inbox));
        }
    }

    /// Turns of the loop until nothing moves any more.
    fn run(&mut self) {
        loop {
            self.context.arena.begin_turn();
            let mut moved = false;
            for index in 0..self.clients.len() {
                moved |= self.receive(index);
            }
            for message in self.inbox.take() {
                self.protocol.on_message(message, &mut Worker::new(&mut self.context, &self.inbox));
                moved = true;
            }
            for command in std::mem::take(&mut self.context.commands) {
                moved = true;
                self.command(command);
            }
            self.protocol.on_turn_end(&mut Worker::new(&mut self.context, &self.inbox));
            moved |= siblings::hear_self(&mut self.protocol, &mut self.context, &self.inbox);
            for index in 0..self.clients.len() {
                moved |= self.settle(index);
            }
            let requests = std::mem::take(&mut self.context.requests_in_turn);
            self.context.page.requests.add(requests);
            // The end of the turn may have asked for something.
            if !moved && self.context.commands.is_empty() && self.inbox.is_empty() {
                return;
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Wake(id) => {
                if let Some(connection) = self.clients.get_mut(id.slot as usize).and_then(|one| one.connection.as_mut())
                {
                    connection.wake(&mut self.protocol, &mut self.context);
                }
            }
            Command::Rerun(id) => {
                if let Some(connection) = &mut self.clients[id.slot as usize].connection {
                    connection.run_again(&mut self.protocol, &mut self.context);
                }
            }
            Command::Connect { address, token, source: _ } => self.connects.push((address, token)),
            Command::Drain => self.drain(),
        }
    }

    fn receive(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let Some(connection) = client.connection.as_mut().filter(|connection| connection.wants_input()) else {
            return false;
        };
        match client.incoming.pop_front() {
            None => return false,
            Some(Sent::Bytes(bytes)) => {
                self.context.page.bytes_received.add(bytes.len() as u64);
                connection.receive(&mut self.protocol, &mut self.context, Received::Bytes(&bytes));
            }
            Some(Sent::End) => connection.receive_end(&mut self.protocol, &mut self.context),
            Some(Sent::Reset) => connection.fail(&mut self.context),
        }
        true
    }

    fn settle(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return false };
        let mut moved = false;
        match connection.next_action(&mut self.context) {
            Action::Nothing => {}
            Action::ShutdownWrite => {
                client.saw_end = true;
                moved = true;
            }
            Action::Close { reset } => {
                if let Some(payload) = client.waiting_send.take() {
                    connection.send_ended(payload);
                }
                client.saw_end = true;
                client.was_reset = reset;
                client.reason = Some(connection.reason());
                connection.close(&mut self.protocol, &mut self.context);
                self.context.page.closed[connection.reason() as usize].add(1);
                client.connection = None;
                return true;
            }
        }
        if client.waiting_send.is_none() && connection.wants_output() {
            client.waiting_send = connection.begin_send(&mut self.context).map(|(payload, _)| payload);
        }
        if let Some(payload) = client.waiting_send.take() {
            let count = client.window.map_or(payload.len(), |window| payload.len().min(window));
            // A full window makes sends from shared memory return at once, and others wait.
            if count == 0 && !payload.is_shared() {
                client.waiting_send = Some(payload);
                return moved;
            }
            client.output.extend_from_slice(&payload.bytes()[..count]);
            if let Some(window) = &mut client.window {
                *window -= count;
            }
            self.context.page.bytes_sent.add(count as u64);
            connection.sent(&mut self.protocol, &mut self.context, payload, count);
            moved = true;
        }
        moved
    }
}
