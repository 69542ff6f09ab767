//! Rebalancing by request: what would move, and why it cannot be done now.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::count::Count;
use super::event::Imbalance;

/// Connections that would go from one worker to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transfer {
    /// The slot of the worker that would give them.
    pub from: usize,
    /// The slot of the worker that would take them.
    pub to: usize,
    /// Why.
    pub because: Imbalance,
    /// The most that would move: the giving worker chooses.
    pub connections_max: u32,
    /// The busy time that would move with them, percent of a core.
    pub busy_percent: u32,
}

impl fmt::Display for Transfer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, because, connections_max, busy_percent } = self;
        let connections = Count(u64::from(*connections_max), "connection");
        write!(formatter, "worker {from} would move up to {connections} to worker {to}")?;
        match because {
            Imbalance::Busy { busy_percent: busy, .. } => {
                write!(formatter, ", {busy_percent} % of a core: it is {busy} % busy")
            }
            Imbalance::Connections { .. } => formatter.write_str(", the idlest first: it has more than the mean"),
            Imbalance::Unknown => write!(formatter, ": {because}"),
        }
    }
}

/// Why connections cannot be rebalanced now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CannotRebalance {
    /// There is one worker.
    OneWorker,
    /// `connections` is `goodbye` or `wait`.
    Setting,
    /// The protocol has no state that can be written.
    Protocol,
    /// Workers have state of their own.
    WorkerState,
    /// Workers send each other messages.
    Messages,
    /// A worker is not ready.
    NotReady {
        /// Its slot.
        slot: usize,
    },
    /// Connections of a change are still moving.
    Moving,
    /// Another rebalancing is under way.
    UnderWay,
    /// A reason of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for CannotRebalance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneWorker => formatter.write_str("there is only one worker"),
            Self::Setting => formatter.write_str("the setting `connections` is not `handover`"),
            Self::Protocol => formatter.write_str("connections of this protocol cannot be handed over"),
            Self::WorkerState => formatter.write_str("workers have state of their own"),
            Self::Messages => formatter.write_str("workers send each other messages"),
            Self::NotReady { slot } => write!(formatter, "worker {slot} is not ready; try again when it is"),
            Self::Moving => formatter.write_str("connections are already moving; try again when they have moved"),
            Self::UnderWay => formatter.write_str("another rebalancing is under way; try again when it is done"),
            Self::Unknown => formatter.write_str("a reason that this version does not know"),
        }
    }
}
