//! The small types that a protocol and the engine speak in. They need nothing else of the engine but [`proxy`](crate::proxy), so
//! that every other module may use them.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::proxy::ProxyHeader;

/// What a protocol's callbacks, and the threads that they start, may ask of the kernel in a worker process: what the
/// [sandbox](crate::config::Settings::sandbox) leaves them. Whatever it denies fails with EPERM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SystemCalls {
    /// Nothing beyond memory, time, random numbers, standard error and the access log: no file is opened but beneath
    /// [`Settings::readable`](crate::config::Settings::readable), no thread started, and nothing connected to
    /// ([`Worker::connect`](crate::Worker::connect)). The strictest: all but what the engine itself calls to
    /// serve is denied, and so is every capability.
    ServeOnly,
    /// Files, threads, names and sockets. Denied is what no callback of a server should do: start programs or processes, look
    /// into other processes or send them signals, load eBPF, steer listeners, mount, make namespaces, change the kernel or the clock, make rings of io_uring.
    #[default]
    Usual,
    /// Everything: there is no sandbox.
    Any,
}

/// Names what [`Protocol::freeze`](crate::Protocol::freeze) writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFormat {
    /// The protocol. State of another one is refused before [`Protocol::thaw`](crate::Protocol::thaw) sees it.
    pub name: &'static str,
    /// Raised with every change that an older [`Protocol::thaw`](crate::Protocol::thaw) would misunderstand.
    pub version: u32,
}

/// Refusal of [`Protocol::freeze`](crate::Protocol::freeze).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotFreeze {
    /// The connection stays, and drains ([`Protocol::on_drain`](crate::Protocol::on_drain)).
    Stays,
    /// Not now: a helper thread has a job of this connection, or something of another connection is on its way to it. The
    /// connection goes on, and is asked again soon, until the worker's `drain_ms` are over: one that always has a job does
    /// not move. Where the worker has [state](crate::Protocol::WORKER_STATE) to hand over, it cannot wait, and this is the same
    /// as `Stays`.
    Later,
}

/// Refusal of [`Protocol::thaw`](crate::Protocol::thaw): the connection stays where it was, and drains there.
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

/// What [`Protocol::on_data`](crate::Protocol::on_data) did with its input, and what should happen next.
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

    /// Consumed these bytes; send FIN after what is queued and go on reading, as [`Next::ShutdownWrite`] does.
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
    /// Go on as before. From [`Protocol::on_data`](crate::Protocol::on_data) the same as `More { at_least: 1 }`.
    Keep,
    /// Read on (again, after a pause); call [`Protocol::on_data`](crate::Protocol::on_data) when this many
    /// unconsumed bytes are there. From `on_data`, at least one byte more than was left unconsumed is waited for, whatever is asked
    /// for; from another callback, what was left comes again at once if it is as much.
    More {
        /// Unconsumed bytes wanted.
        at_least: usize,
    },
    /// Call [`Protocol::on_data`](crate::Protocol::on_data) again in the next turn, after the other connections
    /// have had theirs.
    Yield,
    /// Stop reading from the peer until a later callback returns [`Next::More`]: what was left unconsumed comes again first, so that
    /// input can wait here for something else. Its `idle_ms` run meanwhile, not its `message_ms`; a reset ends the
    /// connection, and a FIN is told to [`Protocol::on_hang_up`](crate::Protocol::on_hang_up).
    Pause,
    /// Send what is queued, then FIN, and go on reading: the other half of the connection stays. What is written from now on
    /// is dropped. When the peer has sent its FIN, too, the connection is over.
    ShutdownWrite,
    /// Send what is queued, then FIN, then read and discard until the peer closes too or the linger time-out
    /// ends, so that no answer is lost to a reset by input that nobody read.
    Close,
    /// Send what is queued, then close at once. For exchanges after which the peer has said that it sends no
    /// more (a request with `Connection: close`): skips the wait for the peer's FIN.
    Finish,
    /// Cut the connection with a reset; what is queued is dropped.
    Abort,
}

/// Answer of [`Protocol::on_drain`](crate::Protocol::on_drain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Close now, after what is queued was sent.
    Close,
    /// Not at a boundary: a later callback will close.
    Wait,
}

/// Refusal of a connection by [`Protocol::on_open`](crate::Protocol::on_open).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Send what was written, then close as [`Next::Close`] does.
    Close,
    /// Reset at once.
    Abort,
}

/// A limit of the engine that a connection ran into; see [`Protocol::on_limit`](crate::Protocol::on_limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing was received for `idle_ms` and no message was begun.
    Idle,
    /// A message was begun and not complete within `message_ms` of its first byte.
    Message,
    /// An unconsumed message outgrew `message_bytes_max`.
    MessageBytes,
    /// `connections_max` connections are open, somebody else wants to connect, and this one has been idle for longest.
    /// Where it closes, the engine does not wait for the peer; where it does not, the next one is asked.
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
    /// It was idle, and made room for a newcomer at `connections_max`.
    Room,
    /// The worker held more than `memory_bytes_max`, and much of it for this one.
    Memory,
    /// It came to a listener for proxies and not from a trusted one, or without a header of the PROXY protocol in time.
    /// [`Protocol`](crate::Protocol) has not seen it.
    ProxyHeader,
    /// Its [layer](crate::layer)'s handshake has failed, or was not over in time. The protocol has not seen it.
    Handshake,
    /// Its layer could not open what the peer sent, or was told by the peer that something was wrong.
    Record,
    /// The peer sent FIN without having said to its layer that it ends there, so that nobody knows whether it had sent more.
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
    /// What was received and not consumed, where the protocol did not close it itself.
    pub unread: &'a [u8],
}

/// Where the two ends of a connection are.
pub(crate) trait Ends {
    fn peer(&self) -> io::Result<SocketAddr>;
    fn local(&self) -> io::Result<SocketAddr>;
    /// Who is at the other end of a Unix socket.
    fn unix_user(&self) -> Option<UnixUser> {
        None
    }
}

/// The process at the other end of a Unix socket, as it was when it connected (SO_PEERCRED of unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixUser {
    /// Its number, which may be another process's by now; 0 where it is in another namespace.
    pub process: i32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
}

/// The peer's end and ours, where there is no kernel to ask.
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
    /// The peer's address: what a trusted proxy has said, else whoever is connected. Asked of the kernel when called, since
    /// most protocols never do.
    ///
    /// # Errors
    /// As getpeername(2): `NotConnected` when the peer is gone already; `Unsupported` at a Unix socket, where nobody has an address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.proxy.and_then(ProxyHeader::source).map_or_else(|| self.ends.peer(), Ok)
    }

    /// The process at the other end, where it came by a Unix socket; `None` where it came by TCP. Asked of the kernel when called.
    pub fn unix_user(&self) -> Option<UnixUser> {
        self.ends.unix_user()
    }

    /// The address of whoever is connected: the proxy's, where there is one.
    ///
    /// # Errors
    /// As [`Peer::address`].
    pub fn connected_address(&self) -> io::Result<SocketAddr> {
        self.ends.peer()
    }

    /// What the proxy has said; `None` where the listener has no
    /// [`trusted_proxies`](crate::config::Listener::trusted_proxies).
    pub fn proxy(&self) -> Option<&ProxyHeader> {
        self.proxy
    }

    /// The address of this machine's own that the peer (or the proxy) has connected to, or that this connection goes out from; never a
    /// wildcard. Asked of the kernel when called.
    ///
    /// # Errors
    /// As getsockname(2); `Unsupported` at a Unix socket.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.ends.local()
    }

    /// What the handshake of the [layer](crate::layer) of its listener, or of its [`Target`](crate::Target), has settled: with TLS by
    /// `baton-tls`, its `Negotiated`, with the peer's certificate and the name of the host that the client wanted. `None` where there is
    /// no layer, or it settles something of another type.
    pub fn secured<T: 'static>(&self) -> Option<&T> {
        self.secured?.downcast_ref()
    }

    /// The token given to [`Worker::connect`](crate::Worker::connect) where this is an outbound connection.
    pub fn outbound_token(&self) -> Option<u64> {
        self.token
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Peer").field("token", &self.token).finish_non_exhaustive()
    }
}
