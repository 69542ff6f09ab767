//! Events of a server, typed; only this file renders them for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::cause::{Cause, Exit, RevertCause};
use super::connections::ConnectionName;
use super::count::{Count, workers};
use super::failure::Failure;
use super::loss::CannotMove;
use super::moves::Moves;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// The generation it concerns, if it concerns one.
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
    /// A generation gets new connections.
    Serves { took_ms: u64 },
    /// A reload was refused, or failed before a worker was started.
    NotReloaded { why: Failure },
    /// A generation did not come up; the previous one keeps serving.
    TakenDown { why: Failure },
    /// A generation was replaced: its listeners get no new connections and wait for handshakes in flight.
    Parked,
    /// A generation's workers were told to leave.
    Draining,
    /// A worker has closed its listeners, after it accepted all waiting connections.
    WorkerClosed { slot: usize },
    /// What happened to the connections of a leaving worker.
    WorkerMoved { slot: usize, moves: Moves },
    /// A serving worker moves connections to another one.
    Rebalancing { from: usize, to: usize, because: Imbalance },
    /// That worker has moved them.
    Rebalanced { from: usize, to: usize, moves: Moves },
    /// An operator has closed a connection.
    ConnectionClosed { slot: usize, id: ConnectionName, at_once: bool },
    /// A worker is handing over its own state, this many bytes so far. It does nothing else meanwhile.
    WorkerStateMoves { slot: usize, bytes: u64 },
    /// A worker died and restarts.
    WorkerDied { slot: usize, exit: Exit, restart_ms: u64 },
    /// A worker died shortly after its start, this many times in a row.
    WorkerKeepsDying { slot: usize, deaths: u32 },
    /// A worker died while it was leaving.
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
    /// The number of workers has changed.
    Scaled { workers: usize, leaving: usize },
    /// New workers did not come up; the others keep serving.
    NotScaled { why: Failure },
    /// New connections could not be steered; they go to the same workers as before.
    NotSteered { why: Failure },
    /// The workers leave and the master stays.
    Idle,
    /// The server stops.
    Stopping { by: Cause, at_once: bool },
    /// The new master of an upgrade was told to stop: the old one takes over first.
    AwaitingRelief { by: Cause },
    /// A new binary was started.
    UpgradeStarted { binary: String, pid: u32 },
    /// Connections will be closed, because they cannot move.
    WillClose { connections: u64, because: CannotMove },
    /// The upgrade failed; the workers keep serving.
    UpgradeFailed { why: Failure },
    /// The new master serves.
    SuccessorServes { pid: u32, took_ms: u64 },
    /// Both serve, until commit or revert.
    Held { probation: bool },
    /// The new master serves on probation.
    Probation,
    /// The probation is over.
    ProbationOver,
    /// The upgrade is final: it cannot be reverted any more.
    Final { pid: u32 },
    /// The old workers take over again.
    Reverting { pid: u32, why: RevertCause },
    /// The old workers do not take over; the new ones keep serving.
    NotReverted { why: Failure },
    /// The old workers serve again.
    ServesAgain,
    /// The new master of an upgrade that was reverted has ended.
    SuccessorLeft { pid: u32 },
    /// The new master ended by itself.
    SuccessorGone { why: Failure },
    /// The old master is gone.
    PredecessorGone,
    /// Orphans were found, and drain.
    OrphansDrain { workers: usize },
    /// An orphan has left.
    OrphanLeft { pid: u32 },
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

/// Why a worker gives connections to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Imbalance {
    /// It is busier than the mean.
    Busy {
        /// How busy it is, percent of a core.
        busy_percent: u32,
        /// The share that it should give, percent of its work.
        share_percent: u32,
    },
    /// It has more connections than the mean.
    Connections {
        /// How many it should give: the idlest.
        connections: u32,
    },
    /// A reason of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Imbalance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { busy_percent, share_percent } => {
                write!(formatter, "it is {busy_percent} % busy and gives away {share_percent} % of that")
            }
            Self::Connections { connections } => {
                write!(
                    formatter,
                    "it has more connections than the mean and gives away {}",
                    Count(u64::from(*connections), "connection")
                )
            }
            Self::Unknown => formatter.write_str("a reason that this version does not know"),
        }
    }
}

impl EventKind {
    /// The event's name in JSON and in the log (the field `event`), such as `worker_died`.
    pub fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value.get("event").and_then(|name| name.as_str()).unwrap_or("unknown").to_owned()
    }

    /// Why something failed, if the event is a failure.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::NotReloaded { why }
            | Self::TakenDown { why }
            | Self::NotScaled { why }
            | Self::NotSteered { why }
            | Self::UpgradeFailed { why }
            | Self::NotReverted { why }
            | Self::SuccessorGone { why } => Some(why),
            _ => None,
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { workers: count } => write!(formatter, "starting {}", workers(*count)),
            Self::WorkerReady { slot, pid } => write!(formatter, "worker {slot} is ready (pid {pid})"),
            Self::Serves { took_ms } => write!(formatter, "serves ({took_ms} ms)"),
            Self::NotReloaded { why } => write!(formatter, "reload failed, the workers keep serving: {why}"),
            Self::TakenDown { why } => {
                write!(formatter, "the new workers did not come up, the previous ones keep serving: {why}")
            }
            Self::Parked => {
                formatter.write_str("parked: it gets no new connections, its listeners settle, its connections drain")
            }
            Self::Draining => formatter.write_str("its connections drain"),
            Self::WorkerClosed { slot } => write!(formatter, "worker {slot} has closed its listeners"),
            Self::WorkerMoved { slot, moves } => write!(formatter, "worker {slot}: {moves}"),
            Self::Rebalancing { from, to, because } => {
                write!(formatter, "worker {from} moves connections to worker {to}: {because}")
            }
            Self::Rebalanced { from, to, moves } => write!(formatter, "worker {from} to worker {to}: {moves}"),
            Self::ConnectionClosed { slot, id, at_once: false } => {
                write!(formatter, "worker {slot}: an operator has closed connection {id}")
            }
            Self::ConnectionClosed { slot, id, at_once: true } => {
                write!(formatter, "worker {slot}: an operator has reset connection {id}")
            }
            Self::WorkerStateMoves { slot, bytes } => {
                write!(formatter, "worker {slot} is handing over its state, {} so far", Count(*bytes, "byte"))
            }
            Self::WorkerDied { slot, exit, restart_ms } => {
                write!(formatter, "worker {slot} {exit} and restarts in {restart_ms} ms")
            }
            Self::WorkerKeepsDying { slot, deaths } => {
                write!(formatter, "worker {slot} died {deaths} times in a row; the other workers keep serving")
            }
            Self::WorkerDiedLeaving { slot, exit } => write!(formatter, "worker {slot} {exit} while it was leaving"),
            Self::WorkerHung { slot } => {
                write!(
                    formatter,
                    "worker {slot} does not respond: its accept queue moves to other workers, and it is killed"
                )
            }
            Self::WorkersLate { workers: 1 } => formatter.write_str("1 worker did not leave in time and is killed"),
            Self::WorkersLate { workers } => {
                write!(formatter, "{workers} workers did not leave in time and are killed")
            }
            Self::WorkersGone { slots } => match &slots[..] {
                [slot] => write!(formatter, "worker {slot} has ended"),
                slots => {
                    let slots: Vec<String> = slots.iter().map(usize::to_string).collect();
                    write!(formatter, "workers {} have ended", slots.join(", "))
                }
            },
            Self::Gone => formatter.write_str("all its workers have ended"),
            Self::Scaling { from, to } => write!(formatter, "scaling from {from} to {}", workers(*to)),
            Self::Scaled { workers: count, leaving: 0 } => write!(formatter, "{} now", workers(*count)),
            Self::Scaled { workers: count, leaving } => {
                write!(formatter, "{} now, {leaving} leaving", workers(*count))
            }
            Self::NotScaled { why } => {
                write!(formatter, "the new workers did not come up, the others keep serving: {why}")
            }
            Self::NotSteered { why } => {
                write!(formatter, "cannot steer new connections, they go to the same workers as before: {why}")
            }
            Self::Idle => formatter.write_str("the workers leave, the master stays"),
            Self::Stopping { by, at_once: false } => write!(formatter, "stopping ({by})"),
            Self::Stopping { by, at_once: true } => write!(formatter, "stopping immediately ({by})"),
            Self::AwaitingRelief { by } => write!(formatter, "told to stop ({by}); the old master takes over first"),
            Self::UpgradeStarted { binary, pid } => write!(formatter, "{binary} started (pid {pid})"),
            Self::WillClose { connections, because } => {
                let connections = Count(*connections, "connection");
                write!(formatter, "{connections} cannot move and will be closed, because {because}")
            }
            Self::UpgradeFailed { why } => write!(formatter, "upgrade failed, the workers keep serving: {why}"),
            Self::SuccessorServes { pid, took_ms } => write!(formatter, "pid {pid} serves ({took_ms} ms)"),
            Self::Held { probation: false } => formatter.write_str("both masters serve until commit or revert"),
            Self::Held { probation: true } => {
                formatter.write_str("both masters serve; the upgrade is reverted unless it is committed in time")
            }
            Self::Probation => formatter.write_str("on probation; the previous workers leave"),
            Self::ProbationOver => formatter.write_str("the probation is over"),
            Self::Final { pid } => write!(formatter, "the upgrade is final: pid {pid} serves"),
            Self::Reverting { pid, why } => write!(formatter, "reverting the upgrade to pid {pid}: {why}"),
            Self::NotReverted { why } => write!(formatter, "not reverted, the new binary keeps serving: {why}"),
            Self::ServesAgain => formatter.write_str("the previous workers serve again"),
            Self::SuccessorLeft { pid } => write!(formatter, "the new master (pid {pid}) has left"),
            Self::SuccessorGone { why } => write!(formatter, "the new master is gone: {why}"),
            Self::PredecessorGone => formatter.write_str("the old master is gone"),
            Self::OrphansDrain { workers: 1 } => formatter.write_str("1 worker of the previous server is draining"),
            Self::OrphansDrain { workers } => {
                write!(formatter, "{workers} workers of the previous server are draining")
            }
            Self::OrphanLeft { pid } => write!(formatter, "a worker of the previous server (pid {pid}) has left"),
            Self::Unknown => formatter.write_str("an event that this version does not know"),
        }
    }
}
