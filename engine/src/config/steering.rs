//! Which worker gets a new connection.

use std::fmt;

/// How the program in the kernel picks the worker of a new connection, in the tier [`Ebpf`](super::Handover::Ebpf). In `Adopt`
/// the kernel picks by a hash, and this setting has no effect.
///
/// A worker's load is the number of its open connections, plus the handshakes that were assigned to it in the last second and have
/// not arrived. A worker that does not accept now, because it is at `connections_max` or out of descriptors, comes
/// after the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Steering {
    /// The worker with the least load.
    #[default]
    Least,
    /// Of two workers, one picked by the connection's hash and one at random, the one with less load. A worker that lies about its
    /// load gets at most two of `workers` new connections.
    TwoChoices,
    /// A worker picked by a hash over addresses and ports, whatever its load is.
    Hash,
    /// The worker pinned to the processor that took the connection's first packet; if there is none, by hash. Use it only
    /// if the network card's receive queues and the workers have the same processors.
    Cpu,
}

impl Steering {
    /// Whether workers report their load.
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
