//! The small types between a protocol and the engine. They only need [`proxy`](crate::proxy) of the engine, so
//! that every other module may use them.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::proxy::ProxyHeader;

/// The system calls that the [sandbox](crate::config::Settings::sandbox) allows to a protocol's callbacks, and to the threads that
/// they start. A denied call fails with EPERM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SystemCalls {
    /// The strictest: memory, time, random numbers, standard error and the access log. A worker cannot open files except under
    /// [`Settings::readable`](crate::config::Settings::readable), start threads, or make outbound connections
    /// ([`Worker::connect`](crate::Worker::connect)). All system calls that the engine itself does not need to
    /// serve are denied, and so is every capability.
    ServeOnly,
    /// Files, threads, names and sockets. Denied are calls that no callback of a server should make: to start programs or processes,
    /// look into other processes or signal them, load eBPF, steer listeners, mount, create namespaces, change the kernel or the clock,
    /// or create io_uring rings.
    #[default]
    Usual,
    /// Everything: there is no sandbox.
    Any,
}

/// Name and version of what [`Protocol::freeze`](crate::Protocol::freeze) writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFormat {
    /// The protocol. State of another protocol is refused before [`Protocol::thaw`](crate::Protocol::thaw) sees it.
    pub name: &'static str,
    /// Raise it with every change that an older [`Protocol::thaw`](crate::Protocol::thaw) would misunderstand.
    pub version: u32,
}

/// Refusal of [`Protocol::freeze`](crate::Protocol::freeze).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotFreeze {
    /// The connection stays, and drains ([`Protocol::on_drain`](crate::Protocol::on_drain)).
    Stays,
    /// Not now: a helper thread has a job of this connection, or a message of another connection is still to arrive. The
    /// connection continues, and is asked again soon, until the worker's `drain_ms_max` is over: one that always has a job does
    /// not move. If the worker has [state](crate::Protocol::WORKER_STATE) to hand over, it cannot wait, and this is the same
    /// as `Stays`.
    Later,
}

/// Refusal of [`Protocol::thaw`](crate::Protocol::thaw): the connection stays where it was, and drains there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThawError {
    /// A version of the state that this protocol does not know.
    #[error("this program does not know version {0} of the state")]
    Version(u32),
    /// State that this protocol cannot have written.
    #[error("the state is malformed")]
    Malformed,
    /// State whose end is missing.
    #[error("the state is incomplete")]
    Incomplete,
}

impl From<io::Error> for ThawError {
    fn from(_: io::Error) -> Self {
        Self::Incomplete
    }
}

/// What [`Protocol::on_data`](crate::Protocol::on_data) did with its input, and what should happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Bytes of the input that were handled and will not come again.
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

    /// Consumed these bytes; send FIN after the queued output and continue to read, as [`Next::ShutdownWrite`] does.
    pub fn shutdown_write(consumed: usize) -> Self {
        Self { consumed, next: Next::ShutdownWrite }
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
    /// Continue as before. From [`Protocol::on_data`](crate::Protocol::on_data) the same as `More { at_least: 1 }`.
    Keep,
    /// Keep reading (or read again, after a pause), and call [`Protocol::on_data`](crate::Protocol::on_data) when this many
    /// unconsumed bytes are there. From `on_data`, the engine waits for at least one byte more than was left unconsumed.
    /// From another callback, `on_data` is called at once if enough bytes are left.
    More {
        /// Unconsumed bytes wanted.
        at_least: usize,
    },
    /// Call [`Protocol::on_data`](crate::Protocol::on_data) again in the next turn, after the other connections.
    Yield,
    /// Stop reading from the peer until a later callback returns [`Next::More`]; unconsumed input then comes again first, so that
    /// input can wait for something else. Meanwhile `idle_ms` counts and `message_ms` does not. A reset ends the
    /// connection, and after a FIN [`Protocol::on_hang_up`](crate::Protocol::on_hang_up) is called.
    Pause,
    /// Send queued output, then FIN, and keep reading: the other half of the connection stays. Later output
    /// is dropped. When the peer has sent its FIN, too, the connection is over.
    ShutdownWrite,
    /// Send queued output, then FIN, then read and discard until the peer closes, too, or the linger time-out
    /// ends. So unread input cannot cause a reset that would destroy the answer.
    Close,
    /// Send queued output, then close at once, without waiting for the peer's FIN. Use it when the peer has announced that it sends
    /// no more (a request with `Connection: close`).
    Finish,
    /// Cut the connection with a reset; queued output is dropped.
    Abort,
}

/// Answer of [`Protocol::on_drain`](crate::Protocol::on_drain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Close now, after queued output was sent.
    Close,
    /// Not at the end of a message: a later callback will close.
    Wait,
}

/// Refusal of a connection by [`Protocol::on_open`](crate::Protocol::on_open).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Send the output, then close as [`Next::Close`] does.
    Close,
    /// Reset at once.
    Abort,
}

/// A limit of the engine that a connection has reached; see [`Protocol::on_limit`](crate::Protocol::on_limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing was received for `idle_ms` between messages.
    Idle,
    /// A message was not complete within `message_ms` of its first byte.
    Message,
    /// An unconsumed message is larger than `message_bytes_max`.
    MessageBytes,
    /// `connections_max` connections are open, another client wants to connect, and this connection has been idle longest.
    /// If it closes, the engine does not wait for the peer; if it stays, the engine asks the next one.
    Connections,
}

/// Names one of several timers of a connection or of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerKey(pub u16);

/// Names a connection within its worker. Never reused while the worker lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ConnectionId {
    /// The same as a number, such as for the token of [`Io::connect`](crate::Io::connect).
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// What [`ConnectionId::to_u64`] has made a number of.
    pub fn from_u64(number: u64) -> Self {
        Self { slot: number as u32, generation: (number >> 32) as u32 }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.slot, self.generation)
    }
}

/// Why a connection ended. Counted by the engine and passed to [`Protocol::on_close`](crate::Protocol::on_close).
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
    /// The peer read no output for `write_ms`.
    WriteTimeout,
    /// A message was larger than `message_bytes_max`.
    MessageBytes,
    /// The worker drained.
    Drained,
    /// The worker stopped, or the drain deadline ended.
    Stopped,
    /// Another worker has it.
    HandedOver,
    /// It was idle and was closed at `connections_max` to make room.
    Room,
    /// The worker held more than `memory_bytes_max`, and much of it for this connection.
    Memory,
    /// It came to a listener for proxies, but not from a trusted proxy, or without a PROXY header in time.
    /// [`Protocol`](crate::Protocol) has not seen it.
    ProxyHeader,
    /// Its [layer](crate::layer)'s handshake failed or took too long. The protocol has not seen it.
    Handshake,
    /// Its layer could not open the peer's bytes, or the peer reported an error to the layer.
    Record,
    /// The peer sent FIN without ending the layer's stream, so some of its bytes may be missing.
    Truncated,
    /// An operator wanted it, by `batonctl close`.
    Operator,
}

impl CloseReason {
    /// How many reasons there are.
    pub const COUNT: usize = 18;

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
        Self::Room,
        Self::Memory,
        Self::ProxyHeader,
        Self::Handshake,
        Self::Record,
        Self::Truncated,
        Self::Operator,
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
            Self::Room => "room",
            Self::Memory => "memory",
            Self::ProxyHeader => "proxy_header",
            Self::Handshake => "handshake",
            Self::Record => "record",
            Self::Truncated => "truncated",
            Self::Operator => "operator",
        }
    }
}

/// How a connection has ended; see [`Protocol::on_close`](crate::Protocol::on_close).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Closed<'a> {
    /// Its name, which is not used again.
    pub id: ConnectionId,
    /// Why it ended.
    pub reason: CloseReason,
    /// The connection that it was [paired](crate::Io::pair_with) with.
    pub partner: Option<ConnectionId>,
    /// Input that was not consumed, if the protocol did not close the connection itself.
    pub unread: &'a [u8],
}

/// The addresses of the two ends of a connection.
pub(crate) trait Ends {
    fn peer(&self) -> io::Result<SocketAddr>;
    fn local(&self) -> io::Result<SocketAddr>;
    /// The process at the other end of a Unix socket.
    fn unix_user(&self) -> Option<UnixUser> {
        None
    }
}

/// The process at the other end of a Unix socket, as it was when it connected (SO_PEERCRED of unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixUser {
    /// Its number, which may be another process's by now; 0 if it is in another namespace.
    pub process: i32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
}

/// The peer's end and this end, without a kernel.
impl Ends for (SocketAddr, SocketAddr) {
    fn peer(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }

    fn local(&self) -> io::Result<SocketAddr> {
        Ok(self.1)
    }
}

/// Who is at the other end of a new connection.
#[derive(Clone, Copy)]
pub struct Peer<'a> {
    pub(crate) token: Option<u64>,
    pub(crate) ends: &'a dyn Ends,
    pub(crate) proxy: Option<&'a ProxyHeader>,
    pub(crate) secured: Option<&'a dyn Any>,
}

impl Peer<'_> {
    /// The client's address: the one that a trusted proxy has sent, else the peer's. Asks the kernel at each call, because
    /// most protocols never need it.
    ///
    /// # Errors
    /// As getpeername(2): `NotConnected` if the peer is already gone; `Unsupported` at a Unix socket, where peers have no address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.proxy.and_then(ProxyHeader::source).map_or_else(|| self.ends.peer(), Ok)
    }

    /// The process at the other end of a Unix socket; `None` for TCP. Asks the kernel at each call.
    pub fn unix_user(&self) -> Option<UnixUser> {
        self.ends.unix_user()
    }

    /// The address of the peer itself: the proxy's, if there is one.
    ///
    /// # Errors
    /// As [`Peer::address`].
    pub fn connected_address(&self) -> io::Result<SocketAddr> {
        self.ends.peer()
    }

    /// The proxy's header; `None` if the listener has no
    /// [`trusted_proxies`](crate::config::Listener::trusted_proxies).
    pub fn proxy(&self) -> Option<&ProxyHeader> {
        self.proxy
    }

    /// The address of this machine that the peer (or the proxy) has connected to, or that an outbound connection uses; never a
    /// wildcard. Asks the kernel at each call.
    ///
    /// # Errors
    /// As getsockname(2); `Unsupported` at a Unix socket.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.ends.local()
    }

    /// The result of the handshake of the [layer](crate::layer) of its listener, or of its [`Target`](crate::Target). With `baton-tls`
    /// it is `Negotiated`, which has the peer's certificate and the host that the client wanted. `None` if there is
    /// no layer, or its result has another type.
    pub fn secured<T: 'static>(&self) -> Option<&T> {
        self.secured?.downcast_ref()
    }

    /// The token given to [`Worker::connect`](crate::Worker::connect), if this is an outbound connection.
    pub fn outbound_token(&self) -> Option<u64> {
        self.token
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Peer").field("token", &self.token).finish_non_exhaustive()
    }
}
