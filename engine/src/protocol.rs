//! The [`Protocol`] trait, which users of the engine implement.
//!
//! It has no sockets, descriptors or kernel in it, so the same protocol runs on the ring, in the
//! [`Harness`](crate::testing::Harness) and under a fuzzer.

use std::io;
use std::time::Duration;

use crate::context::{Io, Worker};
use crate::messages::Sibling;
use crate::types::{
    CannotFreeze, Closed, Drain, Limit, Next, Peer, Reject, StateFormat, Step, SystemCalls, ThawError, TimerKey,
};

/// A protocol: one value per worker process, one [`Protocol::Connection`] per connection.
///
/// The engine owns partial input, pipelining, back-pressure, time-outs and closing; the protocol parses and
/// answers. All callbacks of a worker run on its one thread, so nothing here needs to be `Send`.
///
/// A panic in a callback ends the worker process, not the service.
pub trait Protocol: Sized + 'static {
    /// State of a connection, in the engine's slab: keep it small, and box rarely used parts.
    type Connection: 'static;

    /// What helper threads send to the worker through a [`Mailbox`](crate::Mailbox); `()` if there are none.
    type Message: Send + 'static;

    /// The system calls that callbacks may make if the [sandbox](crate::config::Settings::sandbox) is on.
    const SYSTEM_CALLS: SystemCalls = SystemCalls::Usual;

    /// Called once, in the pinned worker process, before the first connection.
    ///
    /// # Errors
    /// An error ends the start of the worker and is reported by [`Server::run`](crate::Server::run).
    fn on_start(&mut self, worker: &mut Worker<'_, Self::Message>) -> io::Result<()> {
        let _ = worker;
        Ok(())
    }

    /// A connection was accepted, or an outbound one was established. It may already write, such as a greeting.
    ///
    /// # Errors
    /// [`Reject`] closes the connection at once; output written before is still sent.
    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<Self::Connection, Reject>;

    /// Input arrived. `input` has all bytes not yet consumed; it is contiguous and never empty.
    ///
    /// Handle all complete messages and return how many bytes they took. The engine keeps the rest and
    /// passes it again, with the bytes that follow.
    fn on_data(&mut self, connection: &mut Self::Connection, input: &[u8], io: &mut Io<'_>) -> Step;

    /// The peer has sent its last byte (FIN). `input` has the bytes that were never consumed. If this returns
    /// [`Next::Close`], the default, queued output is still sent. With [`Next::Keep`] the connection stays open for
    /// writing, until the protocol closes it, `idle_ms` pass without output, or the peer resets it.
    fn on_eof(&mut self, connection: &mut Self::Connection, input: &[u8], io: &mut Io<'_>) -> Next {
        let _ = (connection, input, io);
        Next::Close
    }

    /// The peer of a paused connection ([`Next::Pause`]) has sent its FIN. Its earlier bytes are still unread, and
    /// [`Protocol::on_eof`] comes after them. So the protocol notices a client that goes away while an answer is being made, and
    /// still serves one that has only ended its side. A reset has no callback: it ends the connection at once.
    fn on_hang_up(&mut self, connection: &mut Self::Connection, io: &mut Io<'_>) -> Next {
        let _ = (connection, io);
        Next::Keep
    }

    /// Queued output was above the high-water mark and is now below the low one.
    fn on_writable(&mut self, connection: &mut Self::Connection, io: &mut Io<'_>) -> Next {
        let _ = (connection, io);
        Next::Keep
    }

    /// A timer set with [`Io::set_timer`] expired.
    fn on_timer(&mut self, connection: &mut Self::Connection, key: TimerKey, io: &mut Io<'_>) -> Next {
        let _ = (connection, key, io);
        Next::Keep
    }

    /// Another connection, or the worker, called [`Io::wake`] or [`Worker::wake`] for this one.
    fn on_wake(&mut self, connection: &mut Self::Connection, io: &mut Io<'_>) -> Next {
        let _ = (connection, io);
        Next::Keep
    }

    /// The connection has reached one of the engine's limits. `input` has the bytes not yet consumed: the beginning of a message.
    /// Output written here is sent before a [`Next::Close`].
    fn on_limit(&mut self, connection: &mut Self::Connection, limit: Limit, input: &[u8], io: &mut Io<'_>) -> Next {
        let _ = (connection, limit, input, io);
        Next::Close
    }

    /// A helper thread sent a message to this worker.
    fn on_message(&mut self, message: Self::Message, worker: &mut Worker<'_, Self::Message>) {
        let _ = (message, worker);
    }

    /// The format of messages between this protocol's workers; `None`, the default, for no messages. A worker that runs another
    /// protocol, or does not read this version, gets no messages, and the log says so.
    const MESSAGES: Option<StateFormat> = None;

    /// Other versions of [`Protocol::MESSAGES`] that [`Protocol::on_sibling_message`] understands. During an upgrade, workers of both
    /// binaries send each other messages, so read a new version one release before you send it.
    const MESSAGES_READS: &'static [u32] = &[];

    /// A worker has sent a message: another one with [`Worker::send`], or any one, also this one, with [`Worker::broadcast`].
    /// The messages of each sender arrive in the order in which it sent them.
    fn on_sibling_message(&mut self, from: Sibling, message: &[u8], worker: &mut Worker<'_, Self::Message>) {
        let _ = (from, message, worker);
    }

    /// A message could not be sent because too many were waiting ([`SendError::Full`](crate::SendError::Full)). Now about half of
    /// the queue is free.
    fn on_siblings_writable(&mut self, worker: &mut Worker<'_, Self::Message>) {
        let _ = worker;
    }

    /// Another worker is leaving, and all of its connections that move together have arrived here ([`Protocol::thaw`]). The engine held
    /// back messages of other workers meanwhile, so that each connection gets each message once.
    fn on_all_arrived(&mut self, worker: &mut Worker<'_, Self::Message>) {
        let _ = worker;
    }

    /// A timer set with [`Worker::set_timer`] expired.
    fn on_worker_timer(&mut self, key: TimerKey, worker: &mut Worker<'_, Self::Message>) {
        let _ = (key, worker);
    }

    /// An outbound connection ([`Worker::connect`]) could not be established, or the handshake of its layer failed.
    fn on_connect_failed(&mut self, token: u64, error: io::Error, worker: &mut Worker<'_, Self::Message>) {
        let _ = (token, error, worker);
    }

    /// All events of a turn of the loop are handled, and its output is about to be submitted.
    fn on_turn_end(&mut self, worker: &mut Worker<'_, Self::Message>) {
        let _ = worker;
    }

    /// The worker is leaving, or an operator closes this connection (`batonctl close`). Close the connection at the end of a message, that is, when `input`, all that is not consumed, is empty:
    /// write the goodbye here and return [`Drain::Close`], or return [`Drain::Wait`] and close from a later callback. After
    /// `deadline` the engine closes the connection.
    ///
    /// Called after all input that had arrived before the order to leave. For a connection that has sent nothing so far, it is
    /// called after its first input, or a second later if none comes.
    fn on_drain(
        &mut self,
        connection: &mut Self::Connection,
        deadline: Duration,
        input: &[u8],
        io: &mut Io<'_>,
    ) -> Drain {
        let _ = (connection, deadline, input, io);
        Drain::Close
    }

    /// The format that [`Protocol::freeze`] writes. With `None`, the default, connections of this protocol end with their worker.
    ///
    /// With a format, connections of a leaving worker move to one that serves: they are frozen here and thawed there, with
    /// unconsumed input, unsent output, timers and time-outs; see
    /// [`Connections`](crate::config::Connections). [`output_of_all_handovers`](crate::testing::output_of_all_handovers)
    /// tests that a move does not change what a protocol does.
    ///
    /// Change the format in two releases, so that each can be reverted to the previous one: in the first,
    /// [`Protocol::thaw`] learns to read the new version, in the second, [`Protocol::freeze`] writes it. The example `versions`
    /// does that.
    const STATE: Option<StateFormat> = None;

    /// Other versions of [`Protocol::STATE`] that [`Protocol::thaw`] reads. The server refuses an upgrade to a binary
    /// that cannot read what the running one writes, so read a new version one release before you write it.
    const STATE_READS: &'static [u32] = &[];

    /// Writes what [`Protocol::thaw`] needs to make the same connection again, in the format [`Protocol::STATE`]. The engine
    /// moves input, output and timers itself. Called between callbacks, at any place in a message. It must not
    /// change anything, because the connection may stay after all. A wake ([`Io::wake`]) after this call is lost if the connection
    /// moves, because it concerned this worker.
    ///
    /// # Errors
    /// If this connection cannot be handed over, or not at this moment.
    fn freeze(&mut self, connection: &Self::Connection, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        let _ = (connection, state);
        Err(CannotFreeze::Stays)
    }

    /// Makes a connection of what another worker's [`Protocol::freeze`] wrote, perhaps in an older or a newer binary:
    /// `version` is that of its [`Protocol::STATE`]. [`Protocol::on_open`] is not called for it. [`Io::id`] is a new one.
    /// [Paired](Io::pair_with) connections (a proxy's two) arrive together, and know each
    /// other by [`Io::partner`] from the first callback on. An outbound one has no token any more.
    ///
    /// Output written here comes after the output that was not yet sent. If the connection stays where it was after all,
    /// this output is dropped and [`Protocol::on_close`] is called, with [`CloseReason::HandedOver`](crate::CloseReason::HandedOver).
    ///
    /// # Errors
    /// For an unknown version or malformed bytes. The connection then stays where it was, and drains there.
    fn thaw(
        &mut self,
        version: u32,
        state: &[u8],
        peer: Peer<'_>,
        io: &mut Io<'_>,
    ) -> Result<Self::Connection, ThawError> {
        let _ = (state, peer, io);
        Err(ThawError::Version(version))
    }

    /// The format that [`Protocol::freeze_worker`] writes. With `None`, the default, a worker has no state of its own to keep.
    ///
    /// With a format, a new worker accepts no connection until it has its predecessor's state, or knows
    /// that none comes; new connections wait meanwhile. Worker state is meant for servers with one worker. If there are several, each
    /// leaving worker brings its state and all its connections to one that serves. [`Protocol::STATE`] is needed, too.
    const WORKER_STATE: Option<StateFormat> = None;

    /// Other versions of [`Protocol::WORKER_STATE`] that [`Protocol::thaw_worker`] reads; see [`Protocol::STATE_READS`].
    const WORKER_STATE_READS: &'static [u32] = &[];

    /// About how many bytes [`Protocol::freeze_worker`] would write. Called in every turn, so it must be cheap. If it returns more
    /// than [`Settings::state_bytes_max`](crate::config::Settings::state_bytes_max),
    /// [`Settings::state_too_large`](crate::config::Settings::state_too_large) decides whether the worker is not replaced, or replaced
    /// without its state.
    fn worker_state_bytes(&self) -> u64 {
        0
    }

    /// Writes the state of the whole worker, in the format [`Protocol::WORKER_STATE`]. All its connections stand still, and
    /// move after the state; no callback comes in between. It must not change anything, because the handover may fail.
    ///
    /// # Errors
    /// Those of `state`, passed on: the other worker is gone, or the state is too large. The worker then keeps its state
    /// and its connections, and drains.
    fn freeze_worker(&mut self, state: &mut dyn io::Write) -> io::Result<()> {
        let _ = state;
        Ok(())
    }

    /// Reads what another worker's [`Protocol::freeze_worker`] writes at the same time, perhaps in another binary:
    /// `version` is that of its [`Protocol::WORKER_STATE`]. With one worker, it is called before there is any connection. With
    /// several, add what you read to the state that is already there.
    ///
    /// # Errors
    /// Those of `state`, passed on with `?`; an unknown version or malformed bytes. On an error, forget what was read.
    fn thaw_worker(
        &mut self,
        version: u32,
        state: &mut dyn io::Read,
        worker: &mut Worker<'_, Self::Message>,
    ) -> Result<(), ThawError> {
        let _ = (state, worker);
        Err(ThawError::Version(version))
    }

    /// The connection is gone; no callback for it follows. You can act on other connections with [`Worker::with`].
    fn on_close(&mut self, connection: Self::Connection, closed: Closed<'_>, worker: &mut Worker<'_, Self::Message>) {
        let _ = (connection, closed, worker);
    }
}
