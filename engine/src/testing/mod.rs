//! Tests of a protocol: the engine's own state machine of a connection, without a kernel and in virtual time.
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

mod handovers;
mod listeners;
mod outputs;
mod siblings;
mod simulated;
mod workers;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use self::outputs::{output_of_all_handovers, output_of_all_splits, output_of_parts};
use self::simulated::{ENDS, Sent, Simulant, Simulated, Wire, living, thaw};
pub use self::workers::Workers;
use crate::config::{Limits, Timeouts};
use crate::connection::{Action, Connection, Ending, Host, Received, Rest, Watch, handshake_error};
use crate::context::{Alarm, Command, Context, Inbox, WallClock, Worker};
use crate::endpoint::Endpoint;
use crate::handover::{Frozen, LayerState, Standing};
use crate::messages::{Sibling, Siblings, Who};
use crate::protocol::Protocol;
use crate::sys::shared_memory::Shared;
use crate::target::Target;
use crate::telemetry::Snapshot;
use crate::types::{CloseReason, ConnectionId, Peer, ThawError, TimerKey};

/// The most turns in a row in which no byte moves and no message arrives.
const IDLE_TURNS_MAX: usize = 10_000;

/// A client of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(usize);

/// Runs a protocol without a kernel and in virtual time.
pub struct Harness<P: Protocol> {
    /// The last one serves. The earlier ones are leaving, and are gone when they have no connections left.
    workers: Vec<Option<Simulant<P>>>,
    context: Context,
    clients: Vec<Simulated<P::Connection>>,
    /// Requested outbound connections, each with the worker that asked for it.
    connects: Vec<(usize, Target, u64)>,
    /// Messages that arrive later, with their times.
    coming: Vec<(u64, P::Message)>,
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
    pub fn with(protocol: P, limits: Limits, timeouts: Timeouts) -> Self {
        Self::start(protocol, limits, timeouts, Who { name: String::new(), slot: 0, generation: 1 })
    }

    fn start(protocol: P, limits: Limits, timeouts: Timeouts, who: Who) -> Self {
        let page = Arc::new(Shared::new().expect("memory for telemetry"));
        // Not zero, as on a real clock.
        let now_ns = 1_000_000_000;
        let mut context = Context::new(page, limits, timeouts, now_ns);
        context.wall_clock = WallClock::Virtual(Duration::from_secs(784_111_776));
        context.slot = who.slot;
        context.siblings = P::MESSAGES.map(|_| Box::new(Siblings::new(who, &context.limits)));
        let workers = vec![Some(Simulant::start(protocol, &mut context))];
        let (clients, connects, coming) = (Vec::new(), Vec::new(), Vec::new());
        let mut harness = Self { workers, context, clients, connects, coming, has_drained: false };
        harness.run();
        harness
    }

    /// The protocol of the serving worker, to look at its state.
    pub fn protocol(&mut self) -> &mut P {
        let serving = self.serving();
        &mut living(&mut self.workers, serving).protocol
    }

    /// The engine's counters.
    pub fn snapshot(&self) -> Snapshot {
        self.context.page.snapshot()
    }

    fn serving(&self) -> usize {
        self.workers.len() - 1
    }

    /// Runs a callback of a worker that is not for one connection.
    fn call<R>(&mut self, worker: usize, callback: impl FnOnce(&mut P, &mut Worker<'_, P::Message>) -> R) -> R {
        let Simulant { protocol, inbox } = living(&mut self.workers, worker);
        let mut all = Rest::all(&mut self.clients);
        callback(protocol, &mut Worker::new(&mut self.context, inbox, &mut all))
    }

    /// Runs an event of a connection, if it lives.
    fn on<R>(
        &mut self,
        index: usize,
        event: impl FnOnce(&mut Connection<P::Connection>, &mut Wire, &mut Host<'_, P>, &mut Context) -> R,
    ) -> Option<R> {
        let (client, mut others) = Rest::split(&mut self.clients, index as u32)?;
        let worker = client.worker()?;
        let mut host = Host::new(&mut living(&mut self.workers, worker).protocol, &mut others);
        Some(event(client.connection.as_mut()?, &mut client.wire, &mut host, &mut self.context))
    }

    /// The same for the connection with this id.
    fn on_id(
        &mut self,
        id: ConnectionId,
        event: impl FnOnce(&mut Connection<P::Connection>, &mut Host<'_, P>, &mut Context),
    ) {
        self.on(id.slot as usize, |connection, _, host, context| {
            if connection.id() == id {
                event(connection, host, context);
            }
        });
    }

    /// A client connects.
    pub fn open(&mut self) -> Client {
        let client = self.open_at(self.serving(), None);
        self.run();
        client
    }

    /// An outbound connection that [`Worker::connect`] asked for is established; the client is the far end. If it has a
    /// [layer](Target::with_layer), its handshake begins.
    ///
    /// # Panics
    /// If none was asked for, or its layer cannot be created.
    pub fn accept_outbound(&mut self) -> Client {
        let (worker, target, token) = self.connects.remove(0);
        let client = match &target.layer {
            None => self.open_at(worker, Some(token)),
            Some(through) => self.open_through(worker, through, token),
        };
        self.run();
        client
    }

    /// An outbound connection that [`Worker::connect`] asked for is refused.
    ///
    /// # Panics
    /// If none was asked for.
    pub fn refuse_outbound(&mut self) {
        let (worker, _, token) = self.connects.remove(0);
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        self.call(worker, |protocol, worker| protocol.on_connect_failed(token, error, worker));
        self.run();
    }

    /// A connection arrives from another worker, whose protocol wrote `state` in this version, had not consumed `input`, and had
    /// set `timers`, each with the time that is left. The peer has just read its output there.
    ///
    /// # Errors
    /// The protocol's, if it does not understand the state; [`ThawError::Malformed`] if there are too many timers.
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
        let (state, input) = (state.to_vec(), input.to_vec());
        self.thaw(
            version,
            Frozen { standing, state, input, output: Vec::new(), proxy: Vec::new(), layer: LayerState::default() },
        )
    }

    /// The state of another worker arrives, as [`Protocol::freeze_worker`] wrote it in this version, or an attacker.
    ///
    /// # Errors
    /// The protocol's, if it does not understand the state.
    pub fn take_over_worker(&mut self, version: u32, mut state: &[u8]) -> Result<(), ThawError> {
        let thawed = self.call(self.serving(), |protocol, worker| protocol.thaw_worker(version, &mut state, worker));
        self.run();
        thawed
    }

    pub(crate) fn thaw(&mut self, version: u32, frozen: Frozen) -> Result<Client, ThawError> {
        let (worker, index) = (self.serving(), self.clients.len());
        let id = self.next_id(worker);
        self.clients.push(Simulated::new(None, Wire::default()));
        let protocol = &mut living(&mut self.workers, worker).protocol;
        let thawed = thaw((protocol, &mut self.clients), id, &mut self.context, version, frozen);
        if thawed.is_err() {
            self.clients.pop();
        }
        let standing = thawed?;
        self.on(index, |connection, _, _, context| connection.resume(context, &standing));
        self.context.page.taken_over.add(1);
        self.run();
        Ok(Client(index))
    }

    fn next_id(&self, worker: usize) -> ConnectionId {
        ConnectionId { slot: self.clients.len() as u32, generation: worker as u32 }
    }

    fn open_at(&mut self, worker: usize, token: Option<u64>) -> Client {
        let client = self.add(worker);
        self.on(client.0, |connection, _, host, context| {
            connection.open(host, context, Peer { token, ends: &ENDS, proxy: None, secured: None });
        });
        client
    }

    fn add(&mut self, worker: usize) -> Client {
        let connection = Connection::new(self.next_id(worker), self.context.now_ns);
        self.clients.push(Simulated::new(Some(connection), Wire::default()));
        self.context.page.accepted.add(1);
        Client(self.clients.len() - 1)
    }

    /// The client sends bytes, which arrive together.
    pub fn send(&mut self, client: Client, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.arrive(client, Sent::Bytes(bytes.to_vec()));
        }
        self.run();
    }

    /// The client sends FIN.
    pub fn finish(&mut self, client: Client) {
        self.arrive(client, Sent::End);
        self.run();
    }

    /// The client resets the connection.
    pub fn reset(&mut self, client: Client) {
        self.arrive(client, Sent::Reset);
        self.run();
    }

    fn arrive(&mut self, client: Client, sent: Sent) {
        self.clients[client.0].wire.incoming.push_back(sent);
    }

    /// From now on the client reads only this many more bytes of the output; `None` for all of it, as at first.
    pub fn set_window(&mut self, client: Client, bytes: Option<usize>) {
        self.clients[client.0].wire.window = bytes;
        self.run();
    }

    /// The bytes that the client has received since the last call.
    pub fn take_output(&mut self, client: Client) -> Vec<u8> {
        std::mem::take(&mut self.clients[client.0].wire.output)
    }

    /// Whether the client has seen the engine's FIN.
    pub fn saw_end(&self, client: Client) -> bool {
        self.clients[client.0].wire.saw_end
    }

    /// Whether the client has seen a reset.
    pub fn was_reset(&self, client: Client) -> bool {
        self.clients[client.0].wire.was_reset
    }

    /// Why the connection ended; `None` while it lives.
    pub fn closed(&self, client: Client) -> Option<CloseReason> {
        self.clients[client.0].reason
    }

    /// The connection's current name; `None` once it is closed. It changes at each handover.
    pub fn id(&self, client: Client) -> Option<ConnectionId> {
        self.clients[client.0].connection.as_ref().map(Connection::id)
    }

    /// Whether the serving worker has the connection: `false` if it is closed, or stays at a leaving worker.
    pub fn is_served(&self, client: Client) -> bool {
        self.clients[client.0].worker() == Some(self.serving())
    }

    /// Memory held for it: input, output that the client has not read, and what the protocol has
    /// [reported](crate::Io::set_held_bytes); 0 once it is closed.
    pub fn held_bytes(&self, client: Client) -> usize {
        self.clients[client.0].connection.as_ref().map_or(0, Connection::held_bytes)
    }

    /// Outbound connections asked for and not yet answered.
    pub fn outbound(&self) -> Vec<(Endpoint, u64)> {
        self.connects.iter().map(|(_, target, token)| (target.address, *token)).collect()
    }

    /// Another worker, which has this slot, has sent a message.
    pub fn sibling_message(&mut self, slot: usize, message: &[u8]) {
        let from = Sibling { slot, number: slot as u64 + 1 };
        self.call(self.serving(), |protocol, worker| protocol.on_sibling_message(from, message, worker));
        self.run();
    }

    /// A helper thread's message arrives.
    pub fn message(&mut self, message: P::Message) {
        self.call(self.serving(), |protocol, worker| protocol.on_message(message, worker));
        self.run();
    }

    /// The same for another worker: they are numbered from 0, in the order in which they took over.
    ///
    /// # Panics
    /// If there was no such worker, or it has left.
    pub fn message_to(&mut self, worker: usize, message: P::Message) {
        self.call(worker, |protocol, worker| protocol.on_message(message, worker));
        self.run();
    }

    /// A helper thread's message arrives after this time of [`Harness::advance`], at the worker that serves then.
    pub fn message_after(&mut self, time: Duration, message: P::Message) {
        self.coming.push((self.context.deadline_ns(time), message));
    }

    /// The worker drains.
    pub fn drain(&mut self) {
        if std::mem::replace(&mut self.has_drained, true) {
            return;
        }
        self.context.draining = true;
        let deadline_ns = self.context.now_ns + self.context.timeouts.drain_ms_max * 1_000_000;
        self.context.timers.set(deadline_ns, Alarm::Drain);
        for index in 0..self.clients.len() {
            self.say_goodbye(index, deadline_ns);
        }
        self.run();
    }

    fn say_goodbye(&mut self, index: usize, deadline_ns: u64) {
        self.on(index, |connection, _, host, context| {
            connection.drain(host, context, Duration::from_nanos(deadline_ns));
        });
    }

    fn tell_closed(&mut self, worker: usize, ending: Option<(P::Connection, Ending)>) {
        if let Some((state, ending)) = ending {
            self.call(worker, |protocol, worker| protocol.on_close(state, ending.closed(), worker));
        }
    }

    /// Lets time pass. Timers fire in order, each at its time.
    pub fn advance(&mut self, time: Duration) {
        let end_ns = self.context.now_ns + u64::try_from(time.as_nanos()).expect("within centuries");
        while let Some(next_ns) = self.next_ns().filter(|next_ns| *next_ns <= end_ns) {
            self.advance_to(next_ns);
        }
        self.advance_to(end_ns);
    }

    /// When the next timer fires, or the next message arrives.
    fn next_ns(&self) -> Option<u64> {
        let coming = self.coming.iter().map(|(at_ns, _)| *at_ns);
        coming.chain(self.context.next_timer_ns()).min()
    }

    fn advance_to(&mut self, now_ns: u64) {
        self.context.now_ns = now_ns.max(self.context.now_ns);
        self.expire();
        self.run();
    }

    fn expire(&mut self) {
        let now_ns = self.context.now_ns;
        while let Some(place) = self.coming.iter().position(|(at_ns, _)| *at_ns <= now_ns) {
            let (_, message) = self.coming.remove(place);
            self.call(self.serving(), |protocol, worker| protocol.on_message(message, worker));
        }
        while let Some(alarm) = self.context.timers.expire(now_ns) {
            match alarm {
                Alarm::Connection { slot } => {
                    self.on(slot as usize, |connection, _, host, context| connection.alarm(host, context));
                }
                Alarm::Protocol { slot, key } => {
                    self.on(slot as usize, |connection, _, host, context| connection.timer(host, context, key));
                }
                Alarm::Drain => {
                    for index in 0..self.clients.len() {
                        self.on(index, |connection, _, _, context| connection.stop(context));
                    }
                }
                Alarm::Accept | Alarm::Look | Alarm::Connect { .. } | Alarm::Gift { .. } => {}
            }
        }
        while let Some(key) = self.context.expire_worker_timer() {
            self.call(self.serving(), |protocol, worker| protocol.on_worker_timer(key, worker));
        }
    }

    /// Turns the loop until nothing moves any more.
    ///
    /// # Panics
    /// If the protocol asks to be called again without end, and nothing changes.
    fn run(&mut self) {
        let mut idle_turns = 0;
        loop {
            self.context.begin_turn();
            let (mut has_moved, mut was_asked) = (false, false);
            for index in 0..self.clients.len() {
                has_moved |= self.receive(index);
            }
            for worker in 0..self.workers.len() {
                let inbox = self.workers[worker].as_ref().map(|worker| &worker.inbox);
                for message in inbox.map_or_else(Vec::new, Inbox::take) {
                    self.call(worker, |protocol, worker| protocol.on_message(message, worker));
                    has_moved = true;
                }
            }
            for command in std::mem::take(&mut self.context.commands) {
                was_asked = true;
                self.command(command);
            }
            self.call(self.serving(), Protocol::on_turn_end);
            has_moved |= self.hear_self();
            for index in 0..self.clients.len() {
                has_moved |= self.settle(index);
            }
            // All clients were checked.
            self.context.touched.clear();
            let requests = std::mem::take(&mut self.context.requests_in_turn);
            self.context.page.requests.add(requests);
            // The callback at the end of the turn may have asked for something.
            let is_over =
                self.context.commands.is_empty() && self.workers.iter().flatten().all(|worker| worker.inbox.is_empty());
            if !has_moved && !was_asked && is_over {
                if !self.move_on() {
                    return;
                }
                has_moved = true;
            }
            idle_turns = if has_moved { 0 } else { idle_turns + 1 };
            assert!(
                idle_turns < IDLE_TURNS_MAX,
                "the protocol was called {IDLE_TURNS_MAX} times, asked each time to be called again (Next::Yield, a wake), and \
                 no byte has moved"
            );
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Wake(id) => self.on_id(id, |connection, host, context| connection.wake(host, context)),
            Command::Writable(id) => self.on_id(id, |connection, host, context| connection.writable(host, context)),
            Command::Rerun(id) => self.on_id(id, |connection, host, context| connection.run_again(host, context)),
            Command::Retime(id) => self.on_id(id, |connection, _, context| connection.set_alarm(context)),
            Command::Connect { target, token } => {
                // Create the layer here already, although it is created again later: a protocol that names an unknown
                // layer gets its error now.
                match target.layer.as_ref().map(|through| self.context.connect_layer(through)).transpose() {
                    Ok(_) => self.connects.push((self.serving(), target, token)),
                    Err(error) => {
                        let worker = self.serving();
                        self.call(worker, |protocol, worker| protocol.on_connect_failed(token, error, worker));
                    }
                }
            }
            Command::Drain => self.drain(),
        }
    }

    fn receive(&mut self, index: usize) -> bool {
        let received = self.on(index, |connection, wire, host, context| {
            if !connection.wants_input() {
                let has_left = match (wire.incoming.front(), connection.wants_watch()) {
                    (_, None) => false,
                    _ if wire.incoming.iter().any(|sent| matches!(sent, Sent::Reset)) => {
                        connection.fail(context);
                        true
                    }
                    (_, Some(Watch::End)) if wire.incoming.iter().any(|sent| matches!(sent, Sent::End)) => {
                        connection.hang_up(host, context);
                        true
                    }
                    _ => false,
                };
                return has_left;
            }
            match wire.incoming.pop_front() {
                None => return false,
                Some(Sent::Bytes(bytes)) => {
                    context.page.bytes_received.add(bytes.len() as u64);
                    connection.receive(host, context, Received::Bytes(&bytes), false);
                }
                Some(Sent::End) => connection.receive_end(host, context),
                Some(Sent::Reset) => connection.fail(context),
            }
            true
        });
        received.unwrap_or(false)
    }

    fn settle(&mut self, index: usize) -> bool {
        let Some(worker) = self.clients[index].worker() else { return false };
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return false };
        let mut has_moved = false;
        match connection.next_action(&mut self.context) {
            Action::Nothing => {}
            Action::Announced(header) => {
                self.on(index, |connection, wire, host, context| {
                    let peer = Peer { token: None, ends: &ENDS, proxy: Some(&header), secured: None };
                    if connection.is_layered() {
                        connection.await_handshake(context);
                    } else {
                        connection.open(host, context, peer);
                    }
                    wire.proxy = Some(*header);
                });
                return true;
            }
            Action::Open => {
                self.on(index, |connection, wire, host, context| {
                    let peer = Peer { token: None, ends: &ENDS, proxy: wire.proxy.as_ref(), secured: None };
                    connection.open(host, context, peer);
                });
                return true;
            }
            Action::ShutdownWrite => {
                client.wire.saw_end = true;
                has_moved = true;
            }
            Action::Close { reset } => {
                if let Some(payload) = client.waiting_send.take() {
                    connection.send_ended(payload);
                }
                client.wire.saw_end = true;
                client.wire.was_reset = reset;
                client.reason = Some(connection.reason());
                let (unopened, reason) = (connection.take_token(), connection.reason());
                let ending = connection.close(&mut self.context);
                self.context.page.closed[reason as usize].add(1);
                client.connection = None;
                self.tell_closed(worker, ending);
                if let Some(token) = unopened {
                    let error = handshake_error(reason);
                    self.call(worker, |protocol, worker| protocol.on_connect_failed(token, error, worker));
                }
                return true;
            }
        }
        if client.waiting_send.is_none() && connection.wants_output() {
            client.waiting_send = connection.begin_send(&mut self.context);
        }
        let Some(payload) = client.waiting_send.take() else { return has_moved };
        let count = client.wire.window.map_or(payload.len(), |window| payload.len().min(window));
        // If the window is full, sends from shared memory return at once, and others wait.
        if count == 0 && !payload.is_shared() {
            client.waiting_send = Some(payload);
            return has_moved;
        }
        let before = client.wire.output.len();
        if payload.append_to(&mut client.wire.output).is_err() {
            // As a send that fails.
            client.wire.output.truncate(before);
            self.on(index, |connection, _, _, context| connection.send_failed(context, payload, libc::EIO));
            return true;
        }
        client.wire.output.truncate(before + count);
        if let Some(window) = &mut client.wire.window {
            *window -= count;
        }
        self.context.page.bytes_sent.add(count as u64);
        self.on(index, |connection, _, host, context| connection.sent(host, context, payload, count));
        true
    }
}
