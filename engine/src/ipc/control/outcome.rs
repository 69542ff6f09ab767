//! The outcomes of operations, typed, so that programs compare values; only this file renders them for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::connections::{ConnectionList, ConnectionName};
use super::count::{Count, workers};
use super::moves::{AndMoves, Moves};
use super::rebalance::Transfer;
use crate::handover::balance::{Evenness, Still};

/// The outcome of an operation.
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
        moves: Moves,
    },
    /// The serving generation has another number of workers.
    Scaled {
        /// How many it has now.
        workers: usize,
        /// How many were told to leave.
        leaving: usize,
        /// What happened to the connections of the leaving ones.
        moves: Moves,
    },
    /// The serving generation has this number of workers already.
    AlreadyScaled {
        /// How many it has.
        workers: usize,
    },
    /// Connections have moved between serving workers.
    Rebalanced {
        /// How often one worker moved connections to another.
        transfers: usize,
        /// What happened to them; the pause is the longest of all transfers.
        moves: Moves,
    },
    /// What would move; nothing has moved.
    WouldRebalance {
        /// In order.
        transfers: Vec<Transfer>,
        /// How uneven the workers are.
        evenness: Evenness,
    },
    /// Nothing is worth moving.
    Balanced {
        /// Why.
        because: Still,
        /// How uneven the workers are.
        evenness: Evenness,
    },
    /// The new binary serves, and the upgrade cannot be reverted.
    Upgraded {
        /// The process of the new master.
        pid: u32,
        /// What happened to the connections of the previous workers.
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
    /// The requested connections.
    Connections(ConnectionList),
    /// A connection has ended because an operator asked for it.
    Closed {
        /// Its name.
        id: ConnectionName,
    },
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
                write!(formatter, "generation {generation} serves ({took_ms} ms){}", AndMoves(moves))
            }
            Self::Scaled { workers: count, leaving: 0, .. } => write!(formatter, "{} now", workers(*count)),
            Self::Scaled { workers: count, leaving, moves } => {
                write!(formatter, "{} now, {leaving} leaving{}", workers(*count), AndMoves(moves))
            }
            Self::AlreadyScaled { workers: count } => write!(formatter, "{} already", workers(*count)),
            Self::Rebalanced { transfers, moves } => {
                write!(formatter, "{}{}", Count(*transfers as u64, "transfer"), AndMoves(moves))
            }
            Self::WouldRebalance { transfers, evenness } => {
                write!(formatter, "{} would be made; {evenness}", Count(transfers.len() as u64, "transfer"))
            }
            Self::Balanced { because, evenness } => {
                write!(formatter, "nothing to move: {because}; {evenness}")
            }
            Self::Upgraded { pid, moves } => {
                write!(formatter, "the upgrade is final: pid {pid} serves{}", AndMoves(moves))
            }
            Self::Held { pid } => write!(formatter, "pid {pid} serves beside this server until commit or revert"),
            Self::Committed { pid } => write!(formatter, "the upgrade is final: pid {pid} serves"),
            Self::Reverted { pid } => write!(formatter, "reverted: pid {pid} serves"),
            Self::Stopped => formatter.write_str("stopped"),
            Self::Connections(list) => list.fmt(formatter),
            Self::Closed { id } => write!(formatter, "connection {id} is closed"),
            Self::Listed => Ok(()),
            Self::Unknown => formatter.write_str("done"),
        }
    }
}
