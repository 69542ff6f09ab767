//! What an upgrade would lose, and which losses the operator may allow.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::count::Count;

/// Something that an upgrade would lose, for which it is refused unless the request allows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "loss", rename_all = "snake_case")]
pub enum Loss {
    /// The new binary cannot read the state of connections, so all of them would be closed.
    ConnectionState {
        /// Name of the format that the running binary writes.
        format: String,
        /// Version of that format.
        version: u32,
    },
    /// The new binary cannot read the workers' own state, so it would be lost.
    WorkerState {
        /// Name of the format that the running binary writes.
        format: String,
        /// Version of that format.
        version: u32,
    },
    /// Workers of the new binary cannot read the messages of the running ones, which are lost until the running workers have left.
    Messages {
        /// Name of the format that the running binary writes.
        format: String,
        /// Version of that format.
        version: u32,
    },
    /// The new binary has another control socket: the two would be independent servers on the same addresses.
    Control {
        /// The running server's; `None` if it has no control socket.
        old: Option<String>,
        /// The new binary's.
        new: Option<String>,
    },
    /// Workers of the new binary serve as another user: the kernel lets only one user listen on an address, and
    /// connections move between workers of one user.
    User {
        /// User number of the running workers.
        old: u32,
        /// User number of the new ones.
        new: u32,
    },
    /// Going from the tier `ebpf` to another one resets connections that wait at listeners.
    Tier {
        /// The running server's.
        old: String,
        /// The new binary's.
        new: String,
    },
    /// Connections that cannot move would be closed, and the request forbids that.
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

impl Loss {
    /// The value of `batonctl upgrade --allow` that permits the upgrade nevertheless.
    pub fn flag(&self) -> Option<Allowed> {
        Some(match self {
            Self::ConnectionState { .. } | Self::WorkerState { .. } => Allowed::State,
            Self::Messages { .. } => Allowed::Messages,
            Self::Control { .. } => Allowed::Control,
            Self::User { .. } => Allowed::User,
            Self::Tier { .. } => Allowed::Tier,
            Self::Connections { .. } | Self::Unknown => return None,
        })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = |path: &Option<String>| path.clone().unwrap_or_else(|| "none".to_owned());
        match self {
            Self::ConnectionState { format, version } => write!(
                formatter,
                "the new binary cannot read the state of connections ({format}, version {version}), so all of them \
                 would be closed"
            ),
            Self::WorkerState { format, version } => write!(
                formatter,
                "the new binary cannot read the workers' state ({format}, version {version}), so it would be lost"
            ),
            Self::Messages { format, version } => write!(
                formatter,
                "the new workers cannot read messages of the running ones ({format}, version {version}), so messages would \
                 be lost until the running ones have left"
            ),
            Self::Control { old, new } => write!(
                formatter,
                "the new binary uses another control socket ({} instead of {}), so both would serve, \
                 independently of each other",
                socket(new),
                socket(old)
            ),
            Self::User { old, new } => write!(
                formatter,
                "the new workers would run as user {new} instead of {old}, so connections could not move"
            ),
            Self::Tier { old, new } => write!(
                formatter,
                "the new binary hands listeners over by `{new}` instead of `{old}`, so connections that wait to be \
                 accepted would be reset"
            ),
            Self::Connections { open, because } => {
                write!(formatter, "{} would be closed, because {because}", Count(*open, "connection"))
            }
            Self::Unknown => formatter.write_str("something that this version does not know would be lost"),
        }?;
        match self {
            Self::Connections { .. } => formatter.write_str(" (upgrade without --keep-connections to accept that)"),
            Self::Unknown => Ok(()),
            _ => self.flag().map_or(Ok(()), |flag| write!(formatter, " (--allow {flag} to accept that)")),
        }
    }
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
            Self::Protocol => "connections of this protocol cannot be handed over",
            Self::Unreadable => "the new workers cannot take them over",
            Self::Unknown => "of something that this version does not know",
        })
    }
}

/// A loss that the operator accepts for an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allowed {
    /// State of connections or workers that the new binary cannot read.
    State,
    /// Messages between workers that the new binary cannot read.
    Messages,
    /// Another control socket.
    Control,
    /// Another user.
    User,
    /// A tier that resets waiting connections.
    Tier,
}

impl Allowed {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::State, Self::Messages, Self::Control, Self::User, Self::Tier];

    /// Its name on the command line and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Messages => "messages",
            Self::Control => "control",
            Self::User => "user",
            Self::Tier => "tier",
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
