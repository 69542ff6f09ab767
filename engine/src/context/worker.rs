//! What a callback for the whole worker can do.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::io::add_named;
use super::others::{self, Others, Unreachable};
use super::{AccessLog, Command, Context, CounterId, Inbox, Io, Mailbox};
use crate::messages::SendError;
use crate::target::Target;
use crate::telemetry::NAMED_COUNTERS_MAX;
use crate::types::{ConnectionId, Next, TimerKey};

/// The worker, in callbacks that are not for one connection.
pub struct Worker<'a, M> {
    context: &'a mut Context,
    inbox: &'a Inbox<M>,
    others: &'a mut (dyn Others + 'a),
}

impl<M> Worker<'_, M> {
    /// This worker's index in its generation, from 0.
    pub fn slot(&self) -> usize {
        self.context.slot
    }

    /// The core that it is pinned to; `None` if it is not pinned.
    pub fn core(&self) -> Option<usize> {
        self.context.core
    }

    /// A sender of messages to this worker, for threads that the protocol has started.
    pub fn mailbox(&self) -> Mailbox<M> {
        self.inbox.mailbox()
    }

    /// The loop's time; see [`Io::now`](crate::Io::now).
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.context.now_ns)
    }

    /// The wall clock; virtual in the harness.
    pub fn wall_time(&self) -> SystemTime {
        self.context.wall_time()
    }

    /// Calls [`Protocol::on_worker_timer`](crate::Protocol::on_worker_timer) after this time, once; unlike timers of
    /// connections, these are not rounded to milliseconds. Setting a timer again moves it.
    pub fn set_timer(&mut self, key: TimerKey, after: Duration) {
        self.context.set_worker_timer(key, after);
    }

    /// Cancels a timer; has no effect if it is not set.
    pub fn cancel_timer(&mut self, key: TimerKey) {
        self.context.cancel_worker_timer(key);
    }

    /// Acts on a connection, at once; see [`Io::with`].
    ///
    /// # Errors
    /// If the connection cannot be acted on: then `act` is not called.
    ///
    /// # Panics
    /// If `C` is another type than [`Protocol::Connection`](crate::Protocol::Connection).
    pub fn with<C: 'static>(
        &mut self,
        id: ConnectionId,
        act: impl FnOnce(&mut C, &mut Io<'_>) -> Next,
    ) -> Result<(), Unreachable> {
        others::with(self.others, self.context, id, act)
    }

    /// The time until a timer fires; `None` if it is not set.
    pub fn timer_left(&self, key: TimerKey) -> Option<Duration> {
        self.context.worker_timer_left(key)
    }

    /// Calls [`Protocol::on_wake`](crate::Protocol::on_wake) of this connection, if it still lives.
    pub fn wake(&mut self, id: ConnectionId) {
        self.context.commands.push(Command::Wake(id));
    }

    /// Connects to `target`: an address, or a [`Target`] with a layer. The connection opens with `token` in its [`Peer`](crate::Peer), when
    /// the handshake of its layer is over, too; or [`Protocol::on_connect_failed`](crate::Protocol::on_connect_failed) gets the token back,
    /// with `TimedOut` after [`Timeouts::connect_ms`].
    ///
    /// [`Timeouts::connect_ms`]: crate::config::Timeouts::connect_ms
    pub fn connect(&mut self, target: impl Into<Target>, token: u64) {
        self.context.commands.push(Command::Connect { target: target.into(), token });
    }

    /// As [`Worker::connect`], from an address of this machine, which a Unix socket does not have. The kernel chooses
    /// the port when it connects (`IP_BIND_ADDRESS_NO_PORT`, ip(7)), so that each source address has all ports for each
    /// destination.
    pub fn connect_from(&mut self, source: IpAddr, target: impl Into<Target>, token: u64) {
        let target = Target { source: Some(source), ..target.into() };
        self.context.commands.push(Command::Connect { target, token });
    }

    /// Slots of this server's workers that can be sent messages now, this worker's own among them, in order.
    ///
    /// # Panics
    /// Without [`Protocol::MESSAGES`](crate::Protocol::MESSAGES).
    pub fn siblings(&mut self) -> Vec<usize> {
        self.context.siblings().slots()
    }

    /// Sends a message to the worker that has this slot, which may be this one:
    /// [`Protocol::on_sibling_message`](crate::Protocol::on_sibling_message) is called there. Messages of a turn of the loop go
    /// out together at its end, and arrive in their order.
    ///
    /// # Errors
    /// If it was not sent; no worker gets it then.
    ///
    /// # Panics
    /// Without [`Protocol::MESSAGES`](crate::Protocol::MESSAGES).
    pub fn send(&mut self, slot: usize, message: &[u8]) -> Result<(), SendError> {
        self.context.send(slot, message)
    }

    /// Sends a message to all workers of this server, also to this one, where it arrives at the end of the turn. So a
    /// publisher need not know where its subscribers are.
    ///
    /// # Errors
    /// If it was not sent; no worker gets it then.
    ///
    /// # Panics
    /// Without [`Protocol::MESSAGES`](crate::Protocol::MESSAGES).
    pub fn broadcast(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.context.broadcast(message)
    }

    /// Drains this worker: it accepts no new connections, closes each connection at the end of a message, and leaves.
    pub fn drain(&mut self) {
        self.context.commands.push(Command::Drain);
    }

    /// A counter of the protocol, which is shown under this name. The same name returns the same counter.
    ///
    /// # Panics
    /// If there are more than [`NAMED_COUNTERS_MAX`] names, or the name is empty.
    pub fn counter(&mut self, name: &str) -> CounterId {
        assert!(!name.is_empty(), "a counter has a name");
        let known = (0..self.context.named_counters).find(|&index| self.context.page.name(index) == name);
        let index = known.unwrap_or_else(|| {
            let index = self.context.named_counters;
            assert!(index < NAMED_COUNTERS_MAX, "at most {NAMED_COUNTERS_MAX} named counters");
            self.context.page.set_name(index, name);
            self.context.named_counters += 1;
            index
        });
        CounterId(index as u8)
    }

    /// Adds to one of the protocol's own counters.
    pub fn add(&mut self, counter: CounterId, count: u64) {
        add_named(&self.context.page, counter, count);
    }

    /// The access log; `None` if [`Settings::access_log`](crate::config::Settings::access_log) is off, and in the harness.
    pub fn access_log(&self) -> Option<AccessLog> {
        self.context.access_log.clone()
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        self.context.page.open.get()
    }

    /// Whether the worker is leaving.
    pub fn is_draining(&self) -> bool {
        self.context.draining
    }
}

impl<'a, M> Worker<'a, M> {
    pub(crate) fn new(context: &'a mut Context, inbox: &'a Inbox<M>, others: &'a mut (dyn Others + 'a)) -> Self {
        Self { context, inbox, others }
    }
}
