//! How listeners are handed over without losing a connection.

use std::fmt;

use crate::config::Handover;

/// How listeners are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tier {
    /// A program of this generation steers: attaching the next generation's program parks all listeners of this one.
    Ebpf,
    /// Listen sockets are inherited, and never closed while clients may still connect to them.
    Adopt,
}

impl Tier {
    /// The configuration value with this name.
    pub(crate) fn wanted(name: &str) -> Option<Handover> {
        match name {
            "ebpf" => Some(Handover::Ebpf),
            "adopt" => Some(Handover::Adopt),
            _ => None,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Adopt => "adopt",
        })
    }
}
