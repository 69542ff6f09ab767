//! The protocol of the control socket: messages over a Unix stream socket, one JSON object per line.
//!
//! A client sends one [`Request`] and reads [`Reply`]s until the last one ([`Reply::is_last`]).
//! Later versions add fields and kinds; [`VERSION`] changes if an old client would misread.

mod cause;
mod connections;
mod count;
mod event;
mod failure;
mod loss;
mod metrics;
mod moves;
mod outcome;
mod rebalance;
pub(crate) mod server;
mod status;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

pub use self::cause::{Cause, Exit, Interruption, RevertCause};
pub use self::connections::{
    CONNECTIONS_LISTED, CONNECTIONS_LISTED_MAX, CannotClose, ConnectionFacts, ConnectionList, ConnectionName,
    ConnectionOrder, ConnectionPeer, ConnectionState, ConnectionStatus, NotAConnectionName, PeerHost, PeerStatus,
    SilentWorker, WorkerSilence,
};
pub use self::count::Count;
pub use self::event::{Event, EventKind, Imbalance};
pub use self::failure::Failure;
pub use self::loss::{Allowed, CannotMove, Loss};
pub use self::metrics::MetricsFormat;
pub use self::moves::{Moves, Pause, Refused};
pub use self::outcome::Outcome;
pub use self::rebalance::{CannotRebalance, Transfer};
pub use self::status::{
    GenerationPhase, GenerationStatus, Status, Step, Timeline, TimelineKind, Unevenness, UpgradeState, WorkerState,
    WorkerStatus,
};
pub use crate::handover::Refusal;
pub use crate::handover::balance::{Evenness, Still};
pub use crate::layer::CertificateStatus;
pub use crate::telemetry::Totals;

/// Version of the messages.
pub const VERSION: u32 = 2;

/// Longest reply: a server does not send, and a client does not accept, a longer line.
pub(crate) const REPLY_BYTES_MAX: usize = 4 << 20;

/// How long a client waits until it is connected, and until its request is sent. A running server never blocks.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The status of the server, once.
    Status,
    /// Read the configuration again and replace the workers. Answered when the new ones serve and connections have
    /// moved, or when the new ones failed to start.
    Reload,
    /// Change the number of workers of the serving generation; answered when that is done.
    Scale {
        /// The new number.
        workers: usize,
    },
    /// Move connections away from workers that are busier than the mean or have more connections, whatever the setting `rebalance` is;
    /// answered when nothing more is worth moving.
    Rebalance {
        /// Report what would move, but move nothing.
        #[serde(default)]
        dry_run: bool,
    },
    /// Start another binary, which takes over; answered when the upgrade is final, held, reverted or has failed.
    Upgrade {
        /// Its path; `None`: that of the running one.
        #[serde(default)]
        binary: Option<String>,
        /// Its arguments; `None`: those of the running one.
        #[serde(default)]
        arguments: Option<Vec<String>>,
        /// Let both serve until [`Request::Commit`] or [`Request::Revert`].
        #[serde(default)]
        hold: bool,
        /// Revert if a new worker dies or hangs within this time or, with `hold`, if nobody commits within it.
        #[serde(default)]
        probation_ms: Option<u64>,
        /// How long the new binary may take until it serves.
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// Losses that do not make the server refuse the upgrade.
        #[serde(default)]
        allow: Vec<Allowed>,
        /// Refuse the upgrade if connections would be closed because they cannot move.
        #[serde(default)]
        keep_connections: bool,
    },
    /// The new binary stays; the old one leaves.
    Commit,
    /// The old binary stays; the new one leaves.
    Revert,
    /// Stop the server; answered when all workers have ended.
    Stop {
        /// Do not wait for connections to finish.
        now: bool,
        /// How long connections may take to finish; `None`: the configured time.
        #[serde(default)]
        deadline_ms: Option<u64>,
    },
    /// The connections of this master's workers.
    Connections {
        /// Which come first.
        #[serde(default)]
        order: ConnectionOrder,
        /// How many to list: 1 to [`CONNECTIONS_LISTED_MAX`].
        #[serde(default = "listed")]
        limit: usize,
        /// Only those of workers with this slot.
        #[serde(default)]
        worker: Option<usize>,
    },
    /// End one connection; answered when it has ended.
    Close {
        /// Its name.
        id: ConnectionName,
        /// Reset it at once.
        #[serde(default)]
        now: bool,
    },
    /// Recent events, and with `follow` new ones as they happen.
    Events {
        /// Continue until the client disconnects.
        follow: bool,
    },
}

/// The number of connections to list if a request does not give it.
fn listed() -> usize {
    CONNECTIONS_LISTED
}

/// The server's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Answer to [`Request::Status`].
    Status(Status),
    /// An event of the server.
    Event(Event),
    /// The operation is done.
    Done(Outcome),
    /// The operation was refused, or has failed.
    Failed(Failure),
    /// A reply of a later version, to be ignored.
    #[serde(other)]
    Unknown,
}

impl Reply {
    /// Whether no other follows it.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Event(_) | Self::Unknown)
    }
}

/// The default path of the control socket of batond and batonctl: `$BATON_CONTROL`, else `batond.sock` in
/// `$XDG_RUNTIME_DIR` or, for root, in `/run`, else `/tmp/batond-UID.sock`.
pub fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os("BATON_CONTROL").filter(|path| !path.is_empty()) {
        return PathBuf::from(path);
    }
    let user = geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_absolute()) {
        Some(folder) => PathBuf::from(folder).join("batond.sock"),
        None if user.is_root() => PathBuf::from("/run/batond.sock"),
        None => PathBuf::from(format!("/tmp/batond-{user}.sock")),
    }
}

/// A connection to a running server.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// The user of the server.
    user: u32,
}

/// Another user than the server's may listen at the server's path, as in `/tmp`.
#[derive(Debug, thiserror::Error)]
#[error("the socket belongs to user {0}, and its server may be an impostor")]
struct Untrusted(u32);

impl From<Untrusted> for io::Error {
    fn from(untrusted: Untrusted) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, untrusted)
    }
}

impl Client {
    /// Connects to the control socket at `path`, if its server belongs to root or to this process's user. Root may connect to
    /// any user's server, if the socket's file belongs to that user, too.
    ///
    /// # Errors
    /// As stat(2) and connect(2): `NotFound` and `ConnectionRefused` if no server runs there; `PermissionDenied`, without an
    /// error number of the system, if another user listens.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let (own, owner) = (geteuid(), fs::metadata(path)?.uid());
        let is_trusted = |user: u32| user == 0 || user == if own.is_root() { owner } else { own.as_raw() };
        // Check this before a stranger can keep this process waiting.
        if !is_trusted(owner) {
            return Err(Untrusted(owner).into());
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // It limits connect(2), too: unix(7).
        socket.set_write_timeout(Some(SEND_TIME_MAX))?;
        socket.connect(&SockAddr::unix(path)?)?;
        // The credentials are those of the process that listens.
        let user = getsockopt(&socket, PeerCredentials)?.uid();
        if !is_trusted(user) {
            return Err(Untrusted(user).into());
        }
        Ok(Self { stream: BufReader::new(UnixStream::from(socket)), user })
    }

    /// The server's user, if that is not this process's user, as root may connect to any user's server.
    pub fn other_user(&self) -> Option<u32> {
        Some(self.user).filter(|user| *user != geteuid().as_raw())
    }

    /// Sends a request to the server at `path` and returns its last reply, skipping events. Waits at most `limit` for each reply.
    ///
    /// # Errors
    /// As [`Client::connect`], [`Client::send`] and [`Client::receive`]; `UnexpectedEof` if the server closes the
    /// connection without a last reply.
    pub fn ask(path: &Path, request: &Request, limit: Option<Duration>) -> io::Result<Reply> {
        let mut client = Self::connect(path)?;
        client.send(request)?;
        loop {
            let reply = client.receive(limit)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if reply.is_last() {
                return Ok(reply);
            }
        }
    }

    /// Sends the request.
    ///
    /// # Errors
    /// As write(2).
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)
    }

    /// The next reply; `None` if the server has closed the connection. Waits at most `limit`, if there is one.
    ///
    /// # Errors
    /// As read(2); `InvalidData` if the server sends something other than a reply.
    pub fn receive(&mut self, limit: Option<Duration>) -> io::Result<Option<Reply>> {
        self.stream.get_ref().set_read_timeout(limit)?;
        let mut line = Vec::new();
        let count = self.stream.by_ref().take(REPLY_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

/// Makes untrusted text safe for a terminal: characters that would control it are escaped as in Rust, such as `\u{1b}`.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Whether a character would control a terminal instead of being shown: control characters, ends of lines, and those that change the
/// direction of text (Unicode Standard Annex 9).
pub fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}
