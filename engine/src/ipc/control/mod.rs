//! How a running server is asked and told: messages over a Unix stream socket, one JSON object a line.
//!
//! A client sends one [`Request`] and reads [`Reply`]s until one of them is the last ([`Reply::is_last`]).
//! What is added later is added as new fields and kinds; [`VERSION`] changes where an old client would misread.

mod event;
mod moves;
mod outcome;
pub(crate) mod server;

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::event::{Event, EventKind};
pub use self::moves::{Moves, Pause, Refused};
pub use self::outcome::{Allowed, CannotMove, Cause, Exit, Failure, Interruption, Loss, Outcome, RevertCause};

/// Version of the messages.
pub const VERSION: u32 = 2;

/// Longest line either side takes.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Everything there is to see, once.
    Status,
    /// Read the configuration again and replace the workers; answered when the new ones serve, or did not come up.
    Reload,
    /// Change the number of workers of the generation that serves; answered when it is so.
    Scale {
        /// How many there shall be.
        workers: usize,
    },
    /// Start another binary, which takes over; answered when it serves, or does not.
    Upgrade {
        /// Its path; none for that of the running one.
        #[serde(default)]
        binary: Option<String>,
        /// Its arguments; none for those of the running one.
        #[serde(default)]
        arguments: Option<Vec<String>>,
        /// Let both serve until [`Request::Commit`] or [`Request::Revert`].
        #[serde(default)]
        hold: bool,
        /// Revert when a new worker dies or hangs within so many milliseconds, or, with `hold`, when nobody commits.
        #[serde(default)]
        probation_ms: Option<u64>,
        /// Give the new binary so many milliseconds to serve.
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// Losses for which the upgrade is not refused.
        #[serde(default)]
        allow: Vec<Allowed>,
        /// Refuse where connections would be closed since they cannot move.
        #[serde(default)]
        keep_connections: bool,
    },
    /// The new binary stays; the old one leaves.
    Commit,
    /// The old binary stays; the new one leaves.
    Revert,
    /// Stop the server; the end of the connection says that it has stopped.
    Stop {
        /// Do not wait for connections to finish.
        now: bool,
        /// Wait for so many milliseconds instead of as long as configured.
        #[serde(default)]
        deadline_ms: Option<u64>,
    },
    /// What has happened lately, and with `follow` what happens from now on.
    Events {
        /// Go on until the client leaves.
        follow: bool,
    },
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Answer to [`Request::Status`].
    Status(Status),
    /// Something happened.
    Event(Event),
    /// What was asked for is done.
    Done(Outcome),
    /// What was asked for was refused, or has failed.
    Failed(Failure),
}

impl Reply {
    /// Whether no other follows it.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Event(_))
    }
}

/// What happened in the course of one handover, and whatever followed until the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// What it was.
    pub kind: TimelineKind,
    /// The generation that came, or that it happened to.
    pub generation: u32,
    /// When it began, microseconds since 1970.
    pub at_us: u64,
    /// In order.
    pub steps: Vec<Step>,
}

/// A step of a handover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Microseconds since the handover began.
    pub after_us: u64,
    /// The generation it happened to, where it was one.
    pub generation: Option<u32>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What a handover was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineKind {
    /// The server started.
    Start,
    /// The server started and took over the workers of a master that was gone.
    Takeover,
    /// Another configuration.
    Reload,
    /// Another number of workers.
    Scale,
    /// A worker ended and was started again.
    Replacement,
    /// Another binary.
    Upgrade,
    /// The previous binary again.
    Revert,
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for TimelineKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Start => "start",
            Self::Takeover => "takeover",
            Self::Reload => "reload",
            Self::Scale => "scale",
            Self::Replacement => "replacement",
            Self::Upgrade => "upgrade",
            Self::Revert => "revert",
            Self::Unknown => "unknown",
        })
    }
}

/// How an upgrade stands, as the master that is asked sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeState {
    /// The new binary starts.
    Starting,
    /// Both serve, until commit or revert.
    Held,
    /// The new binary serves on probation; this one takes over again if it fails.
    Probation,
    /// The workers of this master take over again, and the new master leaves.
    Reverting,
    /// The new binary serves for good, and this master leaves.
    Leaving,
    /// This binary is new; both serve, until commit or revert.
    NewHeld,
    /// This binary is new, and may be reverted.
    New,
    /// This binary is new and was told to stop; the old one takes over first.
    AwaitingRelief,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for UpgradeState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Held => "held",
            Self::Probation => "on probation",
            Self::Reverting => "reverting",
            Self::Leaving => "leaving",
            Self::NewHeld => "new, held",
            Self::New => "new, may be reverted",
            Self::AwaitingRelief => "new, stopping when the old master serves",
            Self::Unknown => "unknown",
        })
    }
}

/// How far a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationPhase {
    /// Its workers come up.
    Starting,
    /// It gets new connections.
    Serving,
    /// It gets new connections, and more workers come up.
    Growing,
    /// Its workers were told to leave.
    Leaving,
    /// Its master is gone.
    Orphaned,
    /// A phase of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for GenerationPhase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Growing => "growing",
            Self::Leaving => "leaving",
            Self::Orphaned => "orphaned",
            Self::Unknown => "unknown",
        })
    }
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Its process comes up.
    Starting,
    /// It serves, or finishes what it has.
    Ready,
    /// It did not respond and is being killed.
    Hung,
    /// It is being killed for another reason.
    Killed,
    /// It died, and is started again in a while.
    Waiting,
    /// It has ended.
    Gone,
    /// Its master is gone.
    Orphaned,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Hung => "hung",
            Self::Killed => "killed",
            Self::Waiting => "waiting",
            Self::Gone => "gone",
            Self::Orphaned => "orphaned",
            Self::Unknown => "unknown",
        })
    }
}

/// A server as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of these messages: [`VERSION`].
    pub version: u32,
    /// The master's process.
    pub pid: u32,
    /// Milliseconds since it began.
    pub uptime_ms: u64,
    /// How listeners are handed over: `ebpf`, `adopt` or `migrate`.
    pub handover: String,
    /// Why so.
    pub handover_reason: String,
    /// The server was told to stop.
    pub is_stopping: bool,
    /// Oldest first.
    pub generations: Vec<GenerationStatus>,
    /// Connections accepted by all workers there ever were.
    pub accepted: u64,
    /// Requests answered by all workers there ever were.
    pub requests: u64,
    /// How an upgrade stands, where one is under way.
    #[serde(default)]
    pub upgrade: Option<UpgradeState>,
    /// How the last upgrade that did not last ended.
    #[serde(default)]
    pub last_revert: Option<Failure>,
    /// The last ones, oldest first.
    #[serde(default)]
    pub handovers: Vec<Timeline>,
}

/// A generation as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its number, from 1.
    pub number: u32,
    /// How far it is.
    pub phase: GenerationPhase,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Connections accepted by its workers, those that have ended among them.
    #[serde(default)]
    pub accepted: u64,
    /// Requests answered by them.
    #[serde(default)]
    pub requests: u64,
    /// Bytes received by them.
    #[serde(default)]
    pub bytes_received: u64,
    /// Bytes sent by them.
    #[serde(default)]
    pub bytes_sent: u64,
    /// By slot.
    pub workers: Vec<WorkerStatus>,
}

/// A worker as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its index in its generation.
    pub slot: usize,
    /// Its process, where there is one.
    pub pid: Option<u32>,
    /// How far it is.
    pub state: WorkerState,
    /// Milliseconds since its process began.
    pub age_ms: Option<u64>,
    /// Connections open.
    pub open: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that came from other workers.
    #[serde(default)]
    pub taken_over: u64,
    /// Connections that went to other workers.
    #[serde(default)]
    pub handed_over: u64,
    /// Requests answered.
    pub requests: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Median time from seeing input to handing its answer to the kernel, nanoseconds.
    pub service_ns_p50: u64,
    /// 99 of 100 were faster.
    pub service_ns_p99: u64,
    /// How often in a row a process of this slot has died within ten seconds.
    #[serde(default)]
    pub deaths: u32,
    /// How its last process ended, where one has.
    #[serde(default)]
    pub last_exit: Option<Exit>,
}

/// Where batond listens for control, and batonctl looks, unless told otherwise: `$BATON_CONTROL`, else `batond.sock` in
/// `$XDG_RUNTIME_DIR`, in `/run` for root, or in `/tmp` with the user's number.
pub fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os("BATON_CONTROL").filter(|path| !path.is_empty()) {
        return PathBuf::from(path);
    }
    let user = nix::unistd::geteuid();
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
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// As connect(2): `NotFound` and `ConnectionRefused` where no server runs there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(path)?) })
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

    /// The next reply; `None` where the server has closed the connection. Waits as long as `limit`, if there is one.
    ///
    /// # Errors
    /// As read(2); `InvalidData` where the server sends what is no reply.
    pub fn receive(&mut self, limit: Option<Duration>) -> io::Result<Option<Reply>> {
        self.stream.get_ref().set_read_timeout(limit)?;
        let mut line = Vec::new();
        let count = self.stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_short_and_unknown_ones_are_errors() {
        let text = serde_json::to_string(&Request::Scale { workers: 3 }).expect("JSON");
        assert_eq!(text, r#"{"request":"scale","workers":3}"#);
        let stop = serde_json::from_str::<Request>(r#"{"request":"stop","now":true}"#).expect("a request");
        assert_eq!(stop, Request::Stop { now: true, deadline_ms: None });
        assert!(serde_json::from_str::<Request>(r#"{"request":"dance"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"request":"stop","now":true,"why":1}"#).is_err());
    }
}
