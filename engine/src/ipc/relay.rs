//! The messages between the old and the new master of an upgrade, over a [`channel`](super::channel), each with a
//! descriptor or without. Either side ignores kinds that it does not know.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::control::{Cause, EventKind, Failure, RevertCause};
use super::meeting::bounded_names;
use super::orders::{Member, NUMBER_MAX};
use crate::endpoint::Endpoint;
use crate::handover::StateFormats;
use crate::telemetry::Totals;

/// Version of these messages.
pub(crate) const RELAY_VERSION: u32 = 3;

/// Names the channel's descriptor to the new program.
pub(crate) const RELAY_VARIABLE: &str = "BATON_UPGRADE";

/// From the old master to the new one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "relay", rename_all = "snake_case")]
pub(crate) enum ToNew {
    /// The first message.
    Hello {
        /// [`RELAY_VERSION`].
        version: u32,
        /// Of the old master.
        pid: u32,
        /// The number of the next generation.
        next_number: u32,
        /// How the old one hands listeners over.
        tier: String,
        /// Both are to serve, until one of them is told to go.
        is_held: bool,
        /// Where the old one listens: as it was asked to, and as it does.
        addresses: Vec<(SocketAddr, SocketAddr)>,
        /// It understands messages about Unix sockets.
        #[serde(default)]
        unix: bool,
        /// So many messages with descriptors follow.
        messages: usize,
    },
    /// Listen sockets come with this message; in the tier adopt.
    Listeners {
        /// Where they are bound, one by one.
        addresses: Vec<Endpoint>,
    },
    /// A connection comes with this message: it came to the old master, which has no workers any more.
    Arrival,
    /// A map of listeners comes with this message; in the tier ebpf, where both are to serve.
    Map {
        /// Where they are bound.
        address: SocketAddr,
        /// Places that are in use, the first ones.
        places: u32,
    },
    /// Maps of the loads of the old master's workers come with this message, before those of their listeners; where they are steered by
    /// load. A release before knows nothing of it.
    Loads {
        /// Places in each map, one by one.
        places: Vec<u32>,
    },
    /// The listener for metrics comes with this message, before the greeting. A release before knows nothing of it.
    Metrics {
        /// Where it is bound.
        address: SocketAddr,
    },
    /// Some of what has been counted so far.
    Totals {
        /// By name.
        totals: Totals,
    },
    /// The introduction was looked at: begin.
    Proceed,
    /// The old workers leave: take all connections.
    Alone,
    /// There is no way back any more.
    Final,
    /// The old workers have brought what they could.
    Moved,
    /// The old workers serve: leave.
    Relieved {
        /// Where they can be brought connections. The doors come with this message, one by one.
        #[serde(default)]
        meetings: Vec<String>,
    },
    /// The old workers cannot be had back: stay.
    NotReverted {
        /// Why.
        why: Failure,
    },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// From the new master to the old one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "relay", rename_all = "snake_case")]
pub(crate) enum ToOld {
    /// What the new master is, before it binds or forks anything. The old one compares.
    Introduction {
        /// How it takes listeners over.
        tier: String,
        /// What its protocol can read.
        formats: StateFormats,
        /// Its control socket's path.
        control: Option<String>,
        /// User number of its workers.
        user: u32,
        /// It understands messages about Unix sockets.
        #[serde(default)]
        unix: bool,
    },
    /// Something happened there.
    Event {
        /// The generation it happened to.
        generation: Option<u32>,
        /// What.
        event: EventKind,
    },
    /// It serves, and has the control socket's name; it writes the pid file next.
    Ready {
        /// Its generation.
        generation: u32,
        /// Where its workers can be brought connections. The doors come with this message, one by one.
        #[serde(default)]
        meetings: Vec<String>,
    },
    /// Its workers can be brought connections here from now on. The doors come with this message, one by one.
    Meetings {
        /// Their names.
        meetings: Vec<String>,
    },
    /// Workers of it that others can speak to. Their doors come with this message, one by one.
    Siblings {
        /// Who they are.
        members: Vec<Member>,
    },
    /// Copies of its listen sockets come with this message; in the tier adopt, when it is sent back.
    Listeners {
        /// Where they are bound, one by one.
        addresses: Vec<Endpoint>,
    },
    /// Some of what it has counted so far.
    Totals {
        /// By name.
        totals: Totals,
    },
    /// A connection comes with this message: it came to the new master, which was sent back and has no workers any more.
    Arrival,
    /// It cannot serve, and leaves. Version 1 knows the reason alone.
    Failed {
        /// Why, in words.
        reason: String,
        /// Why.
        #[serde(default)]
        why: Option<Failure>,
    },
    /// One of its workers died or hung.
    Trouble {
        /// Which, and how.
        why: RevertCause,
    },
    /// It was asked to stay for good.
    Commit,
    /// It is to leave: let old workers serve first.
    Revert {
        /// By whom it was told.
        by: Cause,
    },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

impl ToNew {
    /// The same within bounds, because the sender is not trusted. An impossible message counts as an unknown one.
    pub(crate) fn bounded(self) -> Self {
        match self {
            Self::Hello { next_number, .. } if next_number > NUMBER_MAX => Self::Unknown,
            Self::Relieved { meetings } => Self::Relieved { meetings: bounded_names(meetings) },
            Self::Totals { totals } => Self::Totals { totals: totals.bounded() },
            message => message,
        }
    }

    /// The names of the doors that come with this message.
    pub(crate) fn doors(&mut self) -> Option<&mut Vec<String>> {
        if let Self::Relieved { meetings } = self { Some(meetings) } else { None }
    }
}

impl ToOld {
    /// As [`ToNew::bounded`].
    pub(crate) fn bounded(self) -> Self {
        match self {
            Self::Ready { generation, .. } if generation > NUMBER_MAX => Self::Unknown,
            Self::Ready { generation, meetings } => Self::Ready { generation, meetings: bounded_names(meetings) },
            Self::Meetings { meetings } => Self::Meetings { meetings: bounded_names(meetings) },
            Self::Siblings { mut members } => {
                members.retain(Member::is_possible);
                Self::Siblings { members }
            }
            Self::Totals { totals } => Self::Totals { totals: totals.bounded() },
            message => message,
        }
    }

    /// The names of the doors that come with this message.
    pub(crate) fn doors(&mut self) -> Option<&mut Vec<String>> {
        if let Self::Ready { meetings, .. } | Self::Meetings { meetings } = self { Some(meetings) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_says_is_not_an_error() {
        let later = r#"{"relay":"sing","song":"of joy"}"#;
        assert_eq!(serde_json::from_str::<ToNew>(later).expect("understood"), ToNew::Unknown);
        assert_eq!(serde_json::from_str::<ToOld>(later).expect("understood"), ToOld::Unknown);
        let known = r#"{"relay":"event","generation":3,"event":{"event":"gone"},"colour":"red"}"#;
        assert!(matches!(serde_json::from_str(known), Ok(ToOld::Event { generation: Some(3), .. })));
    }

    #[test]
    fn numbers_and_names_are_bounded() {
        let name = || format!("{:032x}", 7);
        let meetings = || vec![name(), "a".repeat(9_000), String::new()];
        let ready = |generation| ToOld::Ready { generation, meetings: meetings() }.bounded();
        assert_eq!(ready(3), ToOld::Ready { generation: 3, meetings: vec![name()] });
        assert_eq!(ready(u32::MAX), ToOld::Unknown);
        assert_eq!(ToOld::Meetings { meetings: meetings() }.bounded(), ToOld::Meetings { meetings: vec![name()] });
        assert_eq!(ToNew::Relieved { meetings: meetings() }.bounded(), ToNew::Relieved { meetings: vec![name()] });
    }
}
