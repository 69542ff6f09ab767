//! How operations end: what was done, or why not. Typed, so that programs compare values; rendered for people here alone.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::moves::Moves;

/// What an operation has done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "done", rename_all = "snake_case")]
pub enum Outcome {
    /// A new generation serves, and the connections of the previous one have moved, stayed or ended.
    Reloaded {
        /// Its number.
        generation: u32,
        /// From the request until it served, milliseconds.
        took_ms: u64,
        /// What happened to the connections of the previous workers.
        #[serde(flatten)]
        moves: Moves,
    },
    /// The generation that serves has another number of workers.
    Scaled {
        /// How many it has now.
        workers: usize,
        /// How many were told to leave.
        leaving: usize,
        /// What happened to the connections of those that leave.
        #[serde(flatten)]
        moves: Moves,
    },
    /// The generation that serves has this number of workers already.
    AlreadyScaled {
        /// How many it has.
        workers: usize,
    },
    /// The new binary serves, and there is no way back.
    Upgraded {
        /// The process of the new master.
        pid: u32,
        /// What happened to the connections of the previous workers.
        #[serde(flatten)]
        moves: Moves,
    },
    /// Both binaries serve, until commit or revert.
    Held {
        /// The process of the new master.
        pid: u32,
    },
    /// The upgrade was made final.
    Committed {
        /// The process of the master that stays.
        pid: u32,
    },
    /// The old binary serves, and the new one has left.
    Reverted {
        /// The process of the master that serves.
        pid: u32,
    },
    /// All workers have ended.
    Stopped,
    /// All events so far were sent.
    Listed,
    /// An outcome of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reloaded { generation, took_ms, moves } => {
                write!(formatter, "generation {generation} serves ({took_ms} ms){moves}")
            }
            Self::Scaled { workers, leaving: 0, .. } => write!(formatter, "{} now", Workers(*workers)),
            Self::Scaled { workers, leaving, moves } => {
                write!(formatter, "{} now, {leaving} left{moves}", Workers(*workers))
            }
            Self::AlreadyScaled { workers } => write!(formatter, "{} already", Workers(*workers)),
            Self::Upgraded { pid, moves } => write!(formatter, "pid {pid} serves, and the upgrade is final{moves}"),
            Self::Held { pid } => write!(formatter, "pid {pid} serves beside this server until commit or revert"),
            Self::Committed { pid } => write!(formatter, "pid {pid} stays; the upgrade is final"),
            Self::Reverted { pid } => write!(formatter, "reverted; pid {pid} serves"),
            Self::Stopped => formatter.write_str("stopped"),
            Self::Listed => Ok(()),
            Self::Unknown => formatter.write_str("done"),
        }
    }
}

/// A number of workers, with the right plural.
pub(crate) struct Workers(pub(crate) usize);

impl fmt::Display for Workers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} worker{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// Who or what asked a master for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
    /// A request at the control socket.
    Control,
    /// The other master of an upgrade.
    OtherMaster,
    /// A cause of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Control => "batonctl",
            Self::OtherMaster => "the other master",
            Self::Unknown => "another version's request",
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody knows: it was not this process's child.
    Unknown,
}

impl Exit {
    /// Whether it ended in good order.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exited with code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(formatter, "was killed by {signal}"),
                Err(_) => write!(formatter, "was killed by signal {number}"),
            },
            Self::Unknown => formatter.write_str("is gone"),
        }
    }
}

/// Something that an upgrade would lose, for which it is refused unless the request allows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "loss", rename_all = "snake_case")]
pub enum Loss {
    /// The new binary cannot read the state of connections, which would be closed.
    ConnectionState {
        /// What the running binary writes: name and version.
        format: String,
        /// Its version.
        version: u32,
    },
    /// The new binary cannot read the workers' own state, which would be gone.
    WorkerState {
        /// What the running binary writes.
        format: String,
        /// Its version.
        version: u32,
    },
    /// The new binary has another control socket: the two would be independent servers on the same addresses.
    Control {
        /// Of the running server; none where it has no control socket.
        old: Option<String>,
        /// Of the new binary.
        new: Option<String>,
    },
    /// Workers of the new binary serve as another user: the kernel lets only one user listen on an address, and
    /// connections move between workers of one user.
    User {
        /// User number of the running workers.
        old: u32,
        /// Of the new ones.
        new: u32,
    },
    /// Going from the tier `ebpf` to another one resets connections that wait at listeners.
    Tier {
        /// Of the running server.
        old: String,
        /// Of the new binary.
        new: String,
    },
    /// Connections that cannot move will be closed, and the request forbids that.
    Connections {
        /// How many are open.
        open: u64,
        /// Why they cannot move.
        because: CannotMove,
    },
    /// A loss of a later version.
    #[serde(other)]
    Unknown,
}

/// Why no connection can move to another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CannotMove {
    /// `connections` is `goodbye` or `wait`.
    Setting,
    /// The protocol has no state that can be written.
    Protocol,
    /// The new binary cannot read the state.
    Unreadable,
    /// A reason of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for CannotMove {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Setting => "the setting `connections` is not `handover`",
            Self::Protocol => "this protocol's connections cannot be handed over",
            Self::Unreadable => "the new binary cannot read their state",
            Self::Unknown => "of a reason that this version does not know",
        })
    }
}

impl Loss {
    /// The value of `batonctl upgrade --allow` that lets the upgrade go on nevertheless.
    pub fn flag(&self) -> Option<Allowed> {
        Some(match self {
            Self::ConnectionState { .. } | Self::WorkerState { .. } => Allowed::State,
            Self::Control { .. } => Allowed::Control,
            Self::User { .. } => Allowed::User,
            Self::Tier { .. } => Allowed::Tier,
            Self::Connections { .. } | Self::Unknown => return None,
        })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |path: &Option<String>| path.clone().unwrap_or_else(|| "none".to_owned());
        match self {
            Self::ConnectionState { format, version } => write!(
                formatter,
                "the new binary cannot read the state of connections ({format}, version {version}): all would be closed"
            ),
            Self::WorkerState { format, version } => write!(
                formatter,
                "the new binary cannot read the state of workers ({format}, version {version}): it would be gone"
            ),
            Self::Control { old, new } => write!(
                formatter,
                "the new binary has another control socket ({}, not {}): nobody could control both servers",
                path(new),
                path(old)
            ),
            Self::User { old, new } => {
                write!(formatter, "the new workers would serve as user {new}, not {old}: connections could not move")
            }
            Self::Tier { old, new } => {
                write!(
                    formatter,
                    "the new binary hands listeners over by `{new}`, not `{old}`: waiting connections would be reset"
                )
            }
            Self::Connections { open, because } => write!(formatter, "{open} connections would be closed: {because}"),
            Self::Unknown => formatter.write_str("it would lose something that this version does not know"),
        }?;
        match self.flag() {
            Some(flag) => write!(formatter, " (--allow {flag} upgrades nevertheless)"),
            None => Ok(()),
        }
    }
}

/// A loss that an upgrade may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allowed {
    /// State of connections or workers that the new binary cannot read.
    State,
    /// Another control socket.
    Control,
    /// Another user.
    User,
    /// A tier that resets waiting connections.
    Tier,
}

impl fmt::Display for Allowed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::State => "state",
            Self::Control => "control",
            Self::User => "user",
            Self::Tier => "tier",
        })
    }
}

/// Why an operation was refused, or how it failed. Where it was refused, nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "failed", rename_all = "snake_case")]
pub enum Failure {
    /// The server is stopping.
    Stopping,
    /// This master leaves: another one serves for good.
    Leaving {
        /// The process of the master that serves.
        successor: u32,
    },
    /// An upgrade is under way: commit or revert it first.
    UpgradeUnderWay,
    /// This binary is new itself: commit or revert first.
    NotCommitted,
    /// A reload or a change of the number of workers is under way: ask again.
    ChangeUnderWay,
    /// Workers are coming up for the first time.
    StartUnderWay,
    /// No generation serves: reload first.
    NothingServes,
    /// This program gives no way to read its configuration again.
    NoConfiguration,
    /// The configuration cannot be used.
    Configuration {
        /// What is wrong with it.
        problem: String,
    },
    /// A number of workers out of range.
    Workers {
        /// What was asked for.
        workers: usize,
        /// The most there may be.
        workers_max: usize,
    },
    /// Worker state cannot be shared by two servers, so the upgrade cannot be held.
    HeldState,
    /// A worker has more state than it may hand over.
    StateTooLarge {
        /// The worker's slot.
        slot: usize,
        /// What it has, bytes.
        bytes: u64,
        /// What may be handed over, bytes.
        bytes_max: u64,
    },
    /// The upgrade would lose something.
    WouldLose {
        /// What.
        losses: Vec<Loss>,
    },
    /// There is no upgrade that could be committed.
    NothingToCommit,
    /// There is no upgrade that could be reverted.
    NothingToRevert,
    /// Something else ended the operation before it was done.
    CutOff {
        /// What ended it.
        by: Interruption,
    },
    /// The upgrade was reverted.
    Reverted {
        /// The process of the new master.
        pid: u32,
        /// Why.
        why: RevertCause,
    },
    /// The old binary does not serve again; the new one stays.
    NotReverted {
        /// Why.
        why: Box<Failure>,
    },
    /// The old master did not answer in time; the new one stays.
    NoAnswer {
        /// How long it was waited for, milliseconds.
        waited_ms: u64,
    },
    /// The old master is gone; the new one stays.
    PredecessorGone,
    /// A worker could not start.
    Worker {
        /// Its slot.
        slot: usize,
        /// What it said.
        problem: String,
    },
    /// A worker ended before it was ready.
    WorkerEnded {
        /// Its slot.
        slot: usize,
        /// How.
        exit: Exit,
    },
    /// A worker was not ready in time.
    NotReady {
        /// Its slot.
        slot: usize,
        /// Its process.
        pid: u32,
        /// How long it was waited for, milliseconds.
        waited_ms: u64,
    },
    /// The new binary could not be started.
    Binary {
        /// Its path.
        binary: String,
        /// Why.
        problem: String,
    },
    /// The new binary said that it cannot serve.
    SuccessorFailed {
        /// Its process.
        pid: u32,
        /// Why.
        why: Box<Failure>,
    },
    /// The new master ended.
    SuccessorEnded {
        /// Its process.
        pid: u32,
        /// How.
        exit: Exit,
    },
    /// The new master did not serve, or leave, in time.
    SuccessorLate {
        /// Its process.
        pid: u32,
        /// How long it was waited for, milliseconds.
        waited_ms: u64,
    },
    /// The other master speaks another version of the upgrade's messages, or none.
    Incompatible {
        /// What is wrong.
        problem: String,
    },
    /// An address cannot be listened on.
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        problem: String,
    },
    /// The system refused something.
    System {
        /// What, and what the system said.
        problem: String,
    },
    /// So many workers died, or did not leave in time, while the server was to end in good order.
    WorkersDied {
        /// How many.
        count: usize,
    },
    /// Too many clients wait for answers.
    TooManyClients {
        /// The most there may be.
        clients_max: usize,
    },
    /// The request is none that this server knows.
    Request {
        /// What is wrong with it.
        problem: String,
    },
    /// A failure of a later version.
    #[serde(other)]
    Unknown,
}

/// What ended an operation before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// The server was told to stop.
    Stop,
    /// The server ended.
    End,
    /// The workers it concerned were told to leave.
    Leave,
    /// Another master serves for good.
    Upgrade,
    /// An interruption of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Interruption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stop => "the server was told to stop before this was done",
            Self::End => "the server ended before this was done",
            Self::Leave => "the workers were told to leave before this was done",
            Self::Upgrade => "another master took over before this was done",
            Self::Unknown => "something ended this before it was done",
        })
    }
}

/// Why an upgrade was reverted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "revert", rename_all = "snake_case")]
pub enum RevertCause {
    /// Somebody asked for it.
    Asked {
        /// Who.
        by: Cause,
    },
    /// The new master was told to stop.
    Stopped {
        /// By whom.
        by: Cause,
    },
    /// On probation, a new worker ended.
    WorkerEnded {
        /// Its slot.
        slot: usize,
        /// How.
        exit: Exit,
    },
    /// On probation, a new worker hung.
    WorkerHung {
        /// Its slot.
        slot: usize,
    },
    /// Nobody committed the held upgrade in time.
    NotCommitted,
    /// The new master ended by itself.
    Failed {
        /// How.
        why: Box<Failure>,
    },
    /// A cause of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for RevertCause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked { by } => write!(formatter, "{by} asked for it"),
            Self::Stopped { by } => write!(formatter, "the new master was told to stop by {by}"),
            Self::WorkerEnded { slot, exit } => write!(formatter, "on probation, worker {slot} {exit}"),
            Self::WorkerHung { slot } => write!(formatter, "on probation, worker {slot} stopped responding"),
            Self::NotCommitted => formatter.write_str("nobody committed it in time"),
            Self::Failed { why } => write!(formatter, "{why}"),
            Self::Unknown => formatter.write_str("of a reason that this version does not know"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => formatter.write_str("the server is stopping"),
            Self::Leaving { successor } => {
                write!(formatter, "this master is leaving since pid {successor} serves; ask that one")
            }
            Self::UpgradeUnderWay => formatter.write_str("an upgrade is under way; commit or revert it first"),
            Self::NotCommitted => formatter.write_str("this binary is new itself; commit or revert first"),
            Self::ChangeUnderWay => {
                formatter.write_str("a reload, or a change of the number of workers, is under way; ask again")
            }
            Self::StartUnderWay => formatter.write_str("the server is starting; ask again"),
            Self::NothingServes => formatter.write_str("no generation serves; reload first"),
            Self::NoConfiguration => formatter.write_str("this program gives no way to read its configuration again"),
            Self::Configuration { problem } | Self::System { problem } | Self::Request { problem } => {
                formatter.write_str(problem)
            }
            Self::Workers { workers, workers_max } => {
                write!(formatter, "workers must be between 1 and {workers_max}, not {workers}")
            }
            Self::HeldState => formatter.write_str(
                "--hold is not possible: worker state cannot be shared by two servers; upgrade without --hold",
            ),
            Self::StateTooLarge { slot, bytes, bytes_max } => write!(
                formatter,
                "worker {slot} has about {bytes} bytes of state, and {bytes_max} may be handed over; raise \
                 state_bytes_max, or set state_too_large to discard"
            ),
            Self::WouldLose { losses } => {
                for (index, loss) in losses.iter().enumerate() {
                    write!(formatter, "{}{loss}", if index > 0 { "; " } else { "" })?;
                }
                Ok(())
            }
            Self::NothingToCommit => formatter.write_str("no upgrade waits for a commit"),
            Self::NothingToRevert => formatter.write_str("no upgrade can be reverted"),
            Self::CutOff { by } => write!(formatter, "{by}"),
            Self::Reverted { pid, why } => write!(formatter, "reverted from pid {pid}: {why}"),
            Self::NotReverted { why } => write!(formatter, "not reverted, the new binary stays: {why}"),
            Self::NoAnswer { waited_ms } => write!(
                formatter,
                "not reverted, the new binary stays: the old master did not answer within {} s; stop again to stop \
                 nevertheless",
                waited_ms / 1000
            ),
            Self::PredecessorGone => formatter.write_str("not reverted, the new binary stays: the old master is gone"),
            Self::Worker { slot, problem } => write!(formatter, "worker {slot} could not start: {problem}"),
            Self::WorkerEnded { slot, exit } => {
                write!(formatter, "worker {slot} could not start: it {exit} before it was ready")
            }
            Self::NotReady { slot, pid, waited_ms } => {
                write!(formatter, "worker {slot} (pid {pid}) was not ready within {} s", waited_ms / 1000)
            }
            Self::Binary { binary, problem } => write!(formatter, "{binary} cannot be started: {problem}"),
            Self::SuccessorFailed { pid, why } => write!(formatter, "the new binary, pid {pid}, cannot serve: {why}"),
            Self::SuccessorEnded { pid, exit } => write!(formatter, "the new binary, pid {pid}, {exit}"),
            Self::SuccessorLate { pid, waited_ms } => {
                write!(formatter, "the new binary, pid {pid}, did not respond within {} s", *waited_ms as f64 / 1e3)
            }
            Self::Incompatible { problem } => formatter.write_str(problem),
            Self::Listen { address, problem } => write!(formatter, "cannot listen on {address}: {problem}"),
            Self::TooManyClients { clients_max } => {
                write!(formatter, "{clients_max} clients wait for answers already; ask again")
            }
            Self::WorkersDied { count } => write!(formatter, "{count} of the workers died; see the log"),
            Self::Unknown => formatter.write_str("of a reason that this version does not know"),
        }
    }
}
