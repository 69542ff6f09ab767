//! What happens in a server, as typed events; rendered for people here alone.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::moves::{Moves, Told};
use super::outcome::{CannotMove, Cause, Exit, Failure, RevertCause, Workers};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// The generation it happened to, where it was one.
    pub generation: Option<u32>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "slots, process numbers and causes are what their names say; Display says each event")]
pub enum EventKind {
    /// A generation starts.
    Starting { workers: usize },
    /// A worker listens and accepts.
    WorkerReady { slot: usize, pid: u32 },
    /// A generation gets new connections from now on.
    Serves { took_ms: u64 },
    /// A generation did not come up; the previous one keeps serving.
    TakenDown { why: Failure },
    /// A generation was replaced: its listeners get no new connections and wait for handshakes under way.
    Parked,
    /// A generation's workers were told to leave.
    Draining,
    /// A worker has closed its listeners, after it took what waited there.
    WorkerClosed { slot: usize },
    /// What has happened to the connections of a worker that leaves.
    WorkerMoved { slot: usize, moves: Moves },
    /// A worker ended and is started again.
    WorkerDied { slot: usize, exit: Exit, restart_ms: u64 },
    /// A worker ended so often in a row.
    WorkerKeepsDying { slot: usize, deaths: u32 },
    /// A worker ended in disorder while it was leaving.
    WorkerDiedLeaving { slot: usize, exit: Exit },
    /// A worker does not respond; its queue moves to others, and it is killed.
    WorkerHung { slot: usize },
    /// Workers did not leave in time and are killed.
    WorkersLate { workers: usize },
    /// Some workers of a generation have ended; the rest of it stays.
    WorkersGone { slots: Vec<usize> },
    /// All workers of a generation have ended.
    Gone,
    /// The number of workers changes.
    Scaling { from: usize, to: usize },
    /// It has changed.
    Scaled { workers: usize, leaving: usize },
    /// New workers did not come up; the others keep serving.
    NotScaled { why: Failure },
    /// New connections could not be steered as they should be; they go where they went before.
    NotSteered { why: Failure },
    /// The workers leave and the master stays.
    Idle,
    /// The server stops.
    Stopping { by: Cause, at_once: bool },
    /// A stop of the new master of an upgrade: the old one takes over first.
    AwaitingRelief { by: Cause },
    /// A new binary was started.
    UpgradeStarted { binary: String, pid: u32 },
    /// Connections will be closed, since they cannot move.
    WillClose { connections: u64, because: CannotMove },
    /// The upgrade failed; the workers keep serving.
    UpgradeFailed { why: Failure },
    /// The new master serves.
    SuccessorServes { pid: u32, took_ms: u64 },
    /// Both serve, until commit or revert.
    Held { probation: bool },
    /// The new one serves on probation.
    Probation,
    /// The probation is over.
    ProbationOver,
    /// There is no way back.
    Final { pid: u32 },
    /// The old workers take over again.
    Reverting { pid: u32, why: RevertCause },
    /// The old workers do not come up.
    NotReverted { why: Failure },
    /// The old workers serve again.
    ServesAgain,
    /// The new master of an upgrade that was reverted has ended.
    SuccessorLeft { pid: u32 },
    /// The new master ended by itself.
    SuccessorGone { why: Failure },
    /// The old master is gone.
    PredecessorGone,
    /// Workers of a server whose master is gone are taken over and leave.
    OrphansDrain { workers: usize },
    /// One of them has left.
    OrphanLeft { pid: u32 },
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { workers } => write!(formatter, "starting {}", Workers(*workers)),
            Self::WorkerReady { slot, pid } => write!(formatter, "worker {slot} is ready (pid {pid})"),
            Self::Serves { took_ms } => write!(formatter, "serves ({took_ms} ms)"),
            Self::TakenDown { why } => write!(formatter, "did not come up: {why}"),
            Self::Parked => formatter.write_str("parked: its listeners settle and its connections drain"),
            Self::Draining => formatter.write_str("its connections drain"),
            Self::WorkerClosed { slot } => write!(formatter, "worker {slot} has closed its listeners"),
            Self::WorkerMoved { slot, moves } => write!(formatter, "worker {slot}: {}", Told(moves)),
            Self::WorkerDied { slot, exit, restart_ms } => {
                write!(formatter, "worker {slot} {exit}; it is started again in {restart_ms} ms")
            }
            Self::WorkerKeepsDying { slot, deaths } => {
                write!(formatter, "worker {slot} keeps dying, {deaths} times in a row; the other workers keep serving")
            }
            Self::WorkerDiedLeaving { slot, exit } => write!(formatter, "worker {slot} {exit} while it was leaving"),
            Self::WorkerHung { slot } => {
                write!(formatter, "worker {slot} does not respond; its queue moves to others, and it is killed")
            }
            Self::WorkersLate { workers } => {
                write!(formatter, "{} did not leave in time and are killed", Workers(*workers))
            }
            Self::WorkersGone { slots } => {
                let slots: Vec<String> = slots.iter().map(usize::to_string).collect();
                write!(formatter, "workers {} have ended", slots.join(", "))
            }
            Self::Gone => formatter.write_str("its workers have ended"),
            Self::Scaling { from, to } => write!(formatter, "scaling from {from} to {}", Workers(*to)),
            Self::Scaled { workers, leaving: 0 } => write!(formatter, "{} now", Workers(*workers)),
            Self::Scaled { workers, leaving } => write!(formatter, "{} now, {leaving} leave", Workers(*workers)),
            Self::NotScaled { why } => write!(formatter, "new workers did not come up: {why}"),
            Self::NotSteered { why } => write!(formatter, "connections are steered as before: {why}"),
            Self::Idle => formatter.write_str("the workers leave, the master stays"),
            Self::Stopping { by, at_once: false } => write!(formatter, "stopping, by {by}"),
            Self::Stopping { by, at_once: true } => write!(formatter, "stopping at once, by {by}"),
            Self::AwaitingRelief { by } => write!(formatter, "stopping, by {by}; the old master takes over first"),
            Self::UpgradeStarted { binary, pid } => write!(formatter, "{binary} started (pid {pid})"),
            Self::WillClose { connections, because } => {
                write!(formatter, "connections: {connections} cannot move and will be closed, because {because}")
            }
            Self::UpgradeFailed { why } => write!(formatter, "upgrade failed, the workers keep serving: {why}"),
            Self::SuccessorServes { pid, took_ms } => {
                write!(formatter, "pid {pid} serves ({took_ms} ms after the upgrade began)")
            }
            Self::Held { probation: false } => formatter.write_str("both serve, until commit or revert"),
            Self::Held { probation: true } => {
                formatter.write_str("both serve; the upgrade is reverted unless it is committed in time")
            }
            Self::Probation => formatter.write_str("on probation; the previous workers drain"),
            Self::ProbationOver => formatter.write_str("the probation is over"),
            Self::Final { pid } => write!(formatter, "pid {pid} serves, and the upgrade is final"),
            Self::Reverting { pid, why } => write!(formatter, "reverting from pid {pid}: {why}"),
            Self::NotReverted { why } => write!(formatter, "not reverted: {why}"),
            Self::ServesAgain => formatter.write_str("the previous workers serve again"),
            Self::SuccessorLeft { pid } => write!(formatter, "the new master (pid {pid}) has left"),
            Self::SuccessorGone { why } => write!(formatter, "the new master is gone: {why}"),
            Self::PredecessorGone => formatter.write_str("the old master is gone"),
            Self::OrphansDrain { workers } => {
                write!(formatter, "{} of the previous server are draining", Workers(*workers))
            }
            Self::OrphanLeft { pid } => write!(formatter, "worker of the previous server (pid {pid}) has left"),
            Self::Unknown => formatter.write_str("something that this version does not know"),
        }
    }
}
