//! What a user of the engine writes: the [`Protocol`] trait and the small types it speaks in.
//!
//! Nothing here knows sockets, descriptors or the kernel, so that the same protocol runs on the ring, in the
//! [`Harness`](crate::testing::Harness) and under a fuzzer.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::connection::Io;
use crate::worker::Worker;

/// A protocol: one value per worker process, one [`Protocol::Connection`] per connection.
///
/// The engine owns partial input, pipelining, back-pressure, time-outs and closing; the protocol parses and
/// answers. All callbacks of a worker run on its one thread, so nothing here needs to be `Send`.
///
/// A panic in a callback ends the worker process, not the service.
pub trait Protocol: Sized + 'static {
    /// State kept per connection, in the engine's slab: keep it small, box what is rarely there.
    type Connection: 'static;

    /// What helper threads send into the worker through a [`Mailbox`](crate::Mailbox); `()` where none do.
    type Message: Send + 'static;

    /// Called once, on the pinned worker process, before the first connection.
    ///
    /// # Errors
    /// An error ends the start-up of the worker and is reported to whoever started the server.
    fn on_start(&mut self, worker: &mut Worker<'_, Self::Message>) -> io::Result<()> {
        let _ = worker;
        Ok(())
    }

    /// A connection was accepted, or an outbound one was established. May write already (a greeting).
    ///
    /// # Errors
    /// [`Reject`] closes the connection at once; what was written before is still sent.
    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<Self::Connection, Reject>;

    /// Input arrived. `input` is every byte not yet consumed, contiguous, never empty.
    ///
    /// Handle as many whole messages as there are and say how many bytes they took; what is left is kept and
    /// comes again with the bytes that follow.
    fn on_data(&mut self, connection: &mut Self::Connection, input: &[u8], io: &mut Io<'_>) -> Step;

    /// The peer has sent its last byte (FIN). `input` is what was never consumed. What is queued for the peer
    /// is still sent when this returns [`Next::Close`], the default.
    fn on_eof(&mut self, connection: &mut Self::Connection, input: &[u8], io: &mut Io<'_>) -> Next {
        let _ = (connection, input, io);
        Next::Close
    }

    /// Output had risen above the high-water mark and has now fallen below the low one.
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

    /// One of the engine's own limits was hit. `input` is what is not consumed: the begun message. What is written
    /// here is sent before a [`Next::Close`].
    fn on_limit(&mut self, connection: &mut Self::Connection, limit: Limit, input: &[u8], io: &mut Io<'_>) -> Next {
        let _ = (connection, limit, input, io);
        Next::Close
    }

    /// A helper thread sent a message to this worker.
    fn on_message(&mut self, message: Self::Message, worker: &mut Worker<'_, Self::Message>) {
        let _ = (message, worker);
    }

    /// A timer set with [`Worker::set_timer`] expired.
    fn on_worker_timer(&mut self, key: TimerKey, worker: &mut Worker<'_, Self::Message>) {
        let _ = (key, worker);
    }

    /// An outbound connection asked for with [`Worker::connect`] could not be established.
    fn on_connect_failed(&mut self, token: u64, error: io::Error, worker: &mut Worker<'_, Self::Message>) {
        let _ = (token, error, worker);
    }

    /// All events of a turn of the loop are handled; what was written in it is about to be submitted.
    fn on_turn_end(&mut self, worker: &mut Worker<'_, Self::Message>) {
        let _ = worker;
    }

    /// The worker is leaving. Say goodbye at a message boundary (where `input`, all that is not consumed, is empty):
    /// write it here and return [`Drain::Close`], or return [`Drain::Wait`] and close from a later callback. After
    /// `deadline` the engine closes.
    ///
    /// Called after all input that had arrived when the order came; for a connection that has sent nothing so far,
    /// after its first input, or a second later where none comes.
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

    /// What [`Protocol::freeze`] writes. `None`, the default: connections of this protocol end with their worker.
    ///
    /// Where there is a format, a connection of a worker that leaves while others serve is frozen there and thawed at one
    /// of them, with all input that was not consumed and all output that was not sent, with its timers and time-outs; see
    /// [`Connections`](crate::config::Connections). [`output_of_all_handovers`](crate::testing::output_of_all_handovers)
    /// tests that a protocol does not notice.
    ///
    /// A change of the format comes in two releases, so that either can be reverted to the one before: first
    /// [`Protocol::thaw`] learns to read the new version, then [`Protocol::freeze`] to write it. The example `versions`
    /// does that.
    const STATE: Option<StateFormat> = None;

    /// Writes what [`Protocol::thaw`] needs to make the same connection again, in the format [`Protocol::STATE`]. Input,
    /// output and timers are the engine's and move by themselves. Called between callbacks, wherever in a message the
    /// connection is; it may be called for a connection that stays after all, so nothing may change by it. A wake
    /// ([`Io::wake`]) that comes from then on stays behind where the connection moves: it was about something of this worker.
    ///
    /// # Errors
    /// Where this connection cannot be handed over at this moment: it drains.
    fn freeze(&mut self, connection: &Self::Connection, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        let _ = (connection, state);
        Err(CannotFreeze)
    }

    /// Makes a connection of what another worker's [`Protocol::freeze`] wrote, perhaps that of an older or a newer binary:
    /// `version` is that of its [`Protocol::STATE`]. [`Protocol::on_open`] is not called for it. [`Io::id`] is a new one, and
    /// where connections of one worker belong together (a proxy's two), they may part: then [`Protocol::freeze`] must refuse.
    /// An outbound one has no token any more.
    ///
    /// What it writes comes after the output that was not sent. It may turn out that the connection stays where it was:
    /// then what was written is dropped and [`Protocol::on_close`] called, with [`CloseReason::HandedOver`].
    ///
    /// # Errors
    /// A version that is not known, or bytes that do not make sense: the connection stays where it was, and drains there.
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

    /// What [`Protocol::freeze_worker`] writes. `None`, the default: a worker has nothing of its own that is worth keeping.
    ///
    /// Where there is a format, a worker that takes the place of another lets nobody in until it has that one's state, or knows
    /// that none comes; meanwhile whoever connects waits. It makes sense for one worker: where there are several, each that
    /// leaves brings its state to one that serves, and all its connections to the same one. [`Protocol::STATE`] is needed, too.
    const WORKER_STATE: Option<StateFormat> = None;

    /// About how many bytes [`Protocol::freeze_worker`] would write; asked in every turn, so it must cost nothing. Where it
    /// is above [`Settings::state_bytes_max`](crate::config::Settings::state_bytes_max), workers are not replaced, or begin
    /// anew, as [`Settings::state_too_large`](crate::config::Settings::state_too_large) says.
    fn worker_state_bytes(&self) -> u64 {
        0
    }

    /// Writes the state of the whole worker, in the format [`Protocol::WORKER_STATE`]. All its connections stand still, and
    /// move when this has been taken; no callback comes in between. It may come to nothing, so nothing may change by it.
    ///
    /// # Errors
    /// Those of `state`, passed on: where the other worker is gone, or too much was written. Then the worker keeps its state
    /// and its connections, and drains.
    fn freeze_worker(&mut self, state: &mut dyn io::Write) -> io::Result<()> {
        let _ = state;
        Ok(())
    }

    /// Reads what another worker's [`Protocol::freeze_worker`] writes at the same time, perhaps that of another binary:
    /// `version` is that of its [`Protocol::WORKER_STATE`]. Called before this worker has any connection, unless there are
    /// several: then what is read is added to what there is.
    ///
    /// # Errors
    /// Those of `state`, passed on by `?`; a version that is not known, or bytes that do not make sense. What was read must
    /// be forgotten then.
    fn thaw_worker(
        &mut self,
        version: u32,
        state: &mut dyn io::Read,
        worker: &mut Worker<'_, Self::Message>,
    ) -> Result<(), ThawError> {
        let _ = (state, worker);
        Err(ThawError::Version(version))
    }

    /// The connection is gone; no callback for it follows.
    fn on_close(&mut self, connection: Self::Connection, reason: CloseReason) {
        let _ = (connection, reason);
    }
}

/// Names what [`Protocol::freeze`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFormat {
    /// The protocol. State of another one is refused before [`Protocol::thaw`] sees it.
    pub name: &'static str,
    /// Raised with every change that an older [`Protocol::thaw`] would misunderstand.
    pub version: u32,
}

/// Refusal of [`Protocol::freeze`]: the connection drains instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotFreeze;

/// Refusal of [`Protocol::thaw`]: the connection stays where it was, and drains there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThawError {
    /// A version of the state that this protocol does not know.
    #[error("version {0} of the state is not known")]
    Version(u32),
    /// State that this protocol cannot have written.
    #[error("the state makes no sense")]
    Malformed,
    /// State of which the end has not come.
    #[error("the state is not whole")]
    Incomplete,
}

impl From<io::Error> for ThawError {
    fn from(_: io::Error) -> Self {
        Self::Incomplete
    }
}

/// What [`Protocol::on_data`] did with its input, and what should happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Bytes of the input that were handled and are not wanted again.
    pub consumed: usize,
    /// What should happen next.
    pub next: Next,
}

impl Step {
    /// Consumed these bytes; call again when there is more.
    pub fn more(consumed: usize) -> Self {
        Self { consumed, next: Next::More { at_least: 1 } }
    }

    /// Consumed these bytes; call again when at least `at_least` unconsumed bytes are there.
    pub fn at_least(consumed: usize, at_least: usize) -> Self {
        Self { consumed, next: Next::More { at_least } }
    }

    /// Consumed these bytes; call again in the next turn even if nothing arrives.
    pub fn yield_now(consumed: usize) -> Self {
        Self { consumed, next: Next::Yield }
    }

    /// Consumed these bytes; read no more until a later callback returns [`Next::More`].
    pub fn pause(consumed: usize) -> Self {
        Self { consumed, next: Next::Pause }
    }

    /// Consumed these bytes; close as [`Next::Close`] does.
    pub fn close(consumed: usize) -> Self {
        Self { consumed, next: Next::Close }
    }

    /// Consumed these bytes; close as [`Next::Finish`] does.
    pub fn finish(consumed: usize) -> Self {
        Self { consumed, next: Next::Finish }
    }

    /// Cut the connection as [`Next::Abort`] does.
    pub fn abort() -> Self {
        Self { consumed: 0, next: Next::Abort }
    }
}

/// What the engine should do with a connection after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on as before. From [`Protocol::on_data`] the same as `More { at_least: 1 }`.
    Keep,
    /// Read on (again, after a pause); call [`Protocol::on_data`] when this many unconsumed bytes are there.
    /// Whatever is asked for, at least one byte more than was left unconsumed is waited for.
    More {
        /// Unconsumed bytes wanted.
        at_least: usize,
    },
    /// Call [`Protocol::on_data`] again in the next turn, after the other connections have had theirs.
    Yield,
    /// Stop reading from the peer until a later callback returns [`Next::More`].
    Pause,
    /// Send what is queued, then FIN, then read and discard until the peer closes too or the linger time-out
    /// ends, so that no answer is lost to a reset by input that nobody read.
    Close,
    /// Send what is queued, then close at once. For exchanges after which the peer has said that it sends no
    /// more (a request with `Connection: close`): skips the wait for the peer's FIN.
    Finish,
    /// Cut the connection with a reset; what is queued is dropped.
    Abort,
}

/// Answer of [`Protocol::on_drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Close now, after what is queued was sent.
    Close,
    /// Not at a boundary: a later callback will close.
    Wait,
}

/// Refusal of a connection by [`Protocol::on_open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Send what was written, then close as [`Next::Close`] does.
    Close,
    /// Reset at once.
    Abort,
}

/// A limit of the engine that a connection ran into; see [`Protocol::on_limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing was received for `idle_ms` and no message was begun.
    Idle,
    /// A message was begun and not complete within `message_ms` of its first byte.
    Message,
    /// An unconsumed message outgrew `message_bytes_max`.
    MessageBytes,
}

/// Names one of several timers of a connection or of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerKey(pub u16);

/// Names a connection within its worker. Never reused while the worker lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.slot, self.generation)
    }
}

/// Why a connection ended. Counted by the engine and passed to [`Protocol::on_close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer sent FIN first.
    Peer,
    /// The protocol asked for it.
    Protocol,
    /// The protocol aborted it, or rejected it when it opened.
    Aborted,
    /// The peer reset the connection, or sending to it failed.
    Reset,
    /// Idle time-out.
    IdleTimeout,
    /// A message was not complete in time.
    MessageTimeout,
    /// The peer took no output for `write_ms`.
    WriteTimeout,
    /// A message outgrew its bound.
    MessageBytes,
    /// The worker drained.
    Drained,
    /// The worker stopped, or the drain deadline ended.
    Stopped,
    /// Another worker has it.
    HandedOver,
}

impl CloseReason {
    /// How many reasons there are.
    pub const COUNT: usize = 11;

    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Peer,
        Self::Protocol,
        Self::Aborted,
        Self::Reset,
        Self::IdleTimeout,
        Self::MessageTimeout,
        Self::WriteTimeout,
        Self::MessageBytes,
        Self::Drained,
        Self::Stopped,
        Self::HandedOver,
    ];

    /// A stable name, `snake_case`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Protocol => "protocol",
            Self::Aborted => "aborted",
            Self::Reset => "reset",
            Self::IdleTimeout => "idle_timeout",
            Self::MessageTimeout => "message_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::MessageBytes => "message_bytes",
            Self::Drained => "drained",
            Self::Stopped => "stopped",
            Self::HandedOver => "handed_over",
        }
    }
}

/// Who is at the other end of a new connection.
#[derive(Clone, Copy)]
pub struct Peer<'a> {
    pub(crate) token: Option<u64>,
    pub(crate) address: &'a dyn Fn() -> io::Result<SocketAddr>,
}

impl Peer<'_> {
    /// The peer's address. Asked of the kernel when called, since most protocols never do.
    ///
    /// # Errors
    /// As getpeername(2): `NotConnected` when the peer is gone already.
    pub fn address(&self) -> io::Result<SocketAddr> {
        (self.address)()
    }

    /// The token given to [`Worker::connect`] where this is an outbound connection.
    pub fn outbound_token(&self) -> Option<u64> {
        self.token
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Peer").field("token", &self.token).finish_non_exhaustive()
    }
}
