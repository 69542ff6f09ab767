//! Why an operation was refused, or how it failed, typed; only this file renders it for people.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::cause::{Exit, Interruption, RevertCause};
use super::connections::{CannotClose, ConnectionName};
use super::count::workers;
use super::loss::Loss;
use super::rebalance::CannotRebalance;
use crate::endpoint::Endpoint;

/// Why an operation was refused, or how it failed. A refused operation has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
#[serde(tag = "failed", rename_all = "snake_case")]
pub enum Failure {
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// This master is leaving: another one serves for good.
    #[error("this master is leaving; the master with pid {successor} serves")]
    Leaving {
        /// The process of the master that serves.
        successor: u32,
    },
    /// An upgrade is under way: commit or revert it first.
    #[error("an upgrade is under way; wait for it, or commit or revert it")]
    UpgradeUnderWay,
    /// The upgrade that started this binary is not final: commit or revert first.
    #[error("the upgrade that started this binary is not final; commit or revert it first")]
    NotCommitted,
    /// A reload or a change of the number of workers is under way: ask again.
    #[error("another reload or scale is under way; try again when it is done")]
    ChangeUnderWay,
    /// Workers are starting for the first time.
    #[error("the server is still starting; try again when it serves")]
    StartUnderWay,
    /// No generation serves: reload first.
    #[error("no generation serves; reload first")]
    NothingServes,
    /// This program cannot read its configuration again.
    #[error("this program cannot reload: it has no way to read its configuration again")]
    NoConfiguration,
    /// The configuration cannot be used.
    #[error("{problem}")]
    Configuration {
        /// What is wrong with it.
        problem: String,
    },
    /// A number of workers out of range.
    #[error("workers must be between 1 and {workers_max}, not {workers}")]
    Workers {
        /// The requested number.
        workers: usize,
        /// The largest possible number.
        workers_max: usize,
    },
    /// Connections cannot move between serving workers.
    #[error("connections cannot be rebalanced: {why}")]
    CannotRebalance {
        /// Why.
        why: CannotRebalance,
    },
    /// A number of connections to list that is out of range.
    #[error("the number of connections to list must be between 1 and {limit_max}, not {limit}")]
    Limit {
        /// The requested number.
        limit: usize,
        /// The largest possible number.
        limit_max: usize,
    },
    /// There is no worker with this slot.
    #[error("there is no worker {worker}; `batonctl workers` lists them")]
    NoSuchWorker {
        /// The slot.
        worker: usize,
    },
    /// As many clients as allowed are already listing connections.
    #[error("{listings_max} clients list connections already; try again")]
    TooManyListings {
        /// The largest number of such clients.
        listings_max: usize,
    },
    /// A connection was not closed.
    #[error("connection {id} was not closed: {why}")]
    NotClosed {
        /// Its name.
        id: ConnectionName,
        /// Why.
        why: CannotClose,
    },
    /// Worker state cannot be shared by two servers, so the upgrade cannot be held.
    #[error("--hold is not possible: worker state cannot be shared by two servers; upgrade without --hold")]
    HeldState,
    /// This master is process 1 of its container, which ends with it: a new binary would end, too.
    #[error(
        "this master is process 1 of a container, and all other processes of the container end when it leaves; start a new \
         container to upgrade"
    )]
    FirstProcess,
    /// A worker has more state than it may hand over.
    #[error(
        "worker {slot} has about {bytes} bytes of state, more than `state_bytes_max` ({bytes_max}) allows; raise that, \
         or set `state_too_large` to `discard`"
    )]
    StateTooLarge {
        /// The worker's slot.
        slot: usize,
        /// The size of its state, bytes.
        bytes: u64,
        /// The largest size that may be handed over, bytes.
        bytes_max: u64,
    },
    /// The upgrade would lose something.
    #[error("the upgrade is refused: {}", joined(losses))]
    WouldLose {
        /// What.
        losses: Vec<Loss>,
    },
    /// There is no upgrade that could be committed.
    #[error("there is no upgrade to commit")]
    NothingToCommit,
    /// There is no upgrade that could be reverted.
    #[error("there is no upgrade to revert")]
    NothingToRevert,
    /// Something else ended the operation before it was done.
    #[error("interrupted before it was done: {by}")]
    CutOff {
        /// What ended it.
        by: Interruption,
    },
    /// The upgrade was reverted.
    #[error("the upgrade to pid {pid} was reverted: {why}")]
    Reverted {
        /// The process of the new master.
        pid: u32,
        /// Why.
        why: RevertCause,
    },
    /// The old binary does not serve again; the new one stays.
    #[error("not reverted, the new binary keeps serving: {why}")]
    NotReverted {
        /// Why.
        why: Box<Failure>,
    },
    /// The old master did not answer in time; the new one stays.
    #[error("the old master did not answer within {} s; stop again to stop without it", seconds(*waited_ms))]
    NoAnswer {
        /// How long the new master waited, milliseconds.
        waited_ms: u64,
    },
    /// The old master is gone; the new one stays.
    #[error("the old master is gone")]
    PredecessorGone,
    /// A worker could not start.
    #[error("worker {slot} could not start: {problem}")]
    Worker {
        /// Its slot.
        slot: usize,
        /// The reason that it reported.
        problem: String,
    },
    /// A worker ended before it was ready.
    #[error("worker {slot} could not start: it {exit} before it was ready")]
    WorkerEnded {
        /// Its slot.
        slot: usize,
        /// How.
        exit: Exit,
    },
    /// A worker was not ready in time.
    #[error("worker {slot} (pid {pid}) was not ready within {} s", seconds(*waited_ms))]
    NotReady {
        /// Its slot.
        slot: usize,
        /// Its process.
        pid: u32,
        /// How long the master waited, milliseconds.
        waited_ms: u64,
    },
    /// The new binary could not be started.
    #[error("{binary} cannot be started: {problem}")]
    Binary {
        /// Its path.
        binary: String,
        /// Why.
        problem: String,
    },
    /// The new binary said that it cannot serve.
    #[error("the new binary (pid {pid}) cannot serve: {why}")]
    SuccessorFailed {
        /// Its process.
        pid: u32,
        /// Why.
        why: Box<Failure>,
    },
    /// The new master ended.
    #[error("the new binary (pid {pid}) {exit}; see its log")]
    SuccessorEnded {
        /// Its process.
        pid: u32,
        /// How.
        exit: Exit,
    },
    /// The new master did not serve, or leave, in time.
    #[error("the new binary (pid {pid}) did not respond within {} s", seconds(*waited_ms))]
    SuccessorLate {
        /// Its process.
        pid: u32,
        /// How long the master waited, milliseconds.
        waited_ms: u64,
    },
    /// The other master speaks another version of the upgrade's messages, or none.
    #[error("{problem}")]
    Incompatible {
        /// What is wrong.
        problem: String,
    },
    /// The server cannot listen on an address.
    #[error("cannot listen on {address}: {problem}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        problem: String,
    },
    /// The server cannot listen on a Unix socket.
    #[error("cannot listen on {endpoint}: {problem}")]
    ListenUnix {
        /// Its path.
        endpoint: Box<Endpoint>,
        /// Why.
        problem: String,
    },
    /// The system refused something.
    #[error("{problem}")]
    System {
        /// What it refused, and its error.
        problem: String,
    },
    /// This many workers died, or did not leave in time, while the server was stopping normally.
    #[error("{} died or did not leave in time; see the log", workers(*count))]
    WorkersDied {
        /// How many.
        count: usize,
    },
    /// Too many clients wait for answers.
    #[error("{clients_max} clients already wait for answers; try again later")]
    TooManyClients {
        /// The largest number of such clients.
        clients_max: usize,
    },
    /// The server does not know this request.
    #[error("{problem}")]
    Request {
        /// What is wrong with it.
        problem: String,
    },
    /// A failure of a later version.
    #[serde(other)]
    #[error("a reason that this version does not know")]
    Unknown,
}

impl Failure {
    /// The server cannot listen there.
    pub(crate) fn listen(endpoint: Endpoint, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        match endpoint {
            Endpoint::Internet(address) => Self::Listen { address, problem },
            Endpoint::Unix(_) => Self::ListenUnix { endpoint: Box::new(endpoint), problem },
        }
    }
}

/// Milliseconds as seconds.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

fn joined(losses: &[Loss]) -> String {
    let texts: Vec<String> = losses.iter().map(Loss::to_string).collect();
    texts.join("; ")
}
