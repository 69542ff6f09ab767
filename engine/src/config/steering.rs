//! Which worker gets a new connection.

use std::fmt;

/// How the program in the kernel picks the worker of a new connection, in the tier [`Ebpf`](super::Handover::Ebpf). In `Adopt`
/// the kernel picks by a hash, and this setting changes nothing.
///
/// A worker's load is the number of its open connections and of the handshakes that were assigned to it in the last second and have
/// not arrived. A worker that does not accept now, because it has all connections that it may have or lacks descriptors, stands
/// behind the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Steering {
    /// The one with the least load of all.
    #[default]
    Least,
    /// Of two, one by the connection's hash and one at random, the one with less load. A worker that lies about its load
    /// attracts no more than two of `workers` new connections.
    TwoChoices,
    /// By a hash over addresses and ports. What workers have is not looked at.
    Hash,
    /// The one that is pinned to the processor that took the connection's first packet, by hash where there is none. Use it only
    /// where the network card's receive queues and the workers have the same processors.
    Cpu,
}

impl Steering {
    /// Whether workers tell their load.
    pub(crate) fn is_by_load(self) -> bool {
        matches!(self, Self::Least | Self::TwoChoices)
    }
}

impl fmt::Display for Steering {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Least => "least",
            Self::TwoChoices => "two-choices",
            Self::Hash => "hash",
            Self::Cpu => "cpu",
        })
    }
}
