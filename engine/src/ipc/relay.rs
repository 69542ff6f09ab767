//! The messages between the old and the new master of an upgrade, over a [`channel`](super::channel), each with or
//! without descriptors. Either side ignores kinds that it does not know.

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

/// Tells the new program the number of the channel's descriptor.
pub(crate) const RELAY_VARIABLE: &str = "BATON_UPGRADE";

/// From the old master to the new one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "relay", rename_all = "snake_case")]
pub(crate) enum ToNew {
    /// The first message.
    Hello {
        /// [`RELAY_VERSION`].
        version: u32,
        /// The old master's process.
        pid: u32,
        /// The number of the next generation.
        next_number: u32,
        /// The tier in which the old master hands over listeners.
        tier: String,
        /// Both masters serve until one of them is ordered to leave.
        is_held: bool,
        /// Where the old master listens: the requested addresses, and the bound ones.
        addresses: Vec<(SocketAddr, SocketAddr)>,
        /// It understands messages about Unix sockets.
        #[serde(default)]
        unix: bool,
        /// Number of messages with descriptors that follow.
        messages: usize,
    },
    /// Listen sockets of the tier adopt come with this message.
    Listeners {
        /// Where they are bound, one by one.
        addresses: Vec<Endpoint>,
    },
    /// A connection comes with this message. It arrived at the old master, which has no workers any more.
    Arrival,
    /// A map of listeners comes with this message: in the tier ebpf, if both masters serve.
    Map {
        /// Where the listeners are bound.
        address: SocketAddr,
        /// The number of places in use, which are the first ones.
        places: u32,
    },
    /// Maps of the loads of the old master's workers come with this message, before those of their listeners, if
    /// steering is by load. An earlier release does not know this message.
    Loads {
        /// Places in each map, one by one.
        places: Vec<u32>,
    },
    /// The listener for metrics comes with this message, before the greeting. An earlier release does not know this
    /// message.
    Metrics {
        /// Where it is bound.
        address: SocketAddr,
    },
    /// Some of the counters so far.
    Totals {
        /// The counters, by name.
        totals: Totals,
    },
    /// The introduction is accepted: begin.
    Proceed,
    /// The old workers leave: take all connections.
    Alone,
    /// The upgrade cannot be reverted any more.
    Final,
    /// The old workers have moved what they could.
    Moved,
    /// The old workers serve: leave.
    Relieved {
        /// The names of the doors of its workers. The doors come with this message, one by one.
        #[serde(default)]
        meetings: Vec<String>,
    },
    /// The old workers cannot serve again: stay.
    NotReverted {
        /// Why.
        why: Failure,
    },
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

/// From the new master to the old one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "relay", rename_all = "snake_case")]
pub(crate) enum ToOld {
    /// The new master's introduction, before it binds or forks anything. The old one compares.
    Introduction {
        /// The tier in which it takes listeners over.
        tier: String,
        /// The state that its protocol can read.
        formats: StateFormats,
        /// Its control socket's path.
        control: Option<String>,
        /// User number of its workers.
        user: u32,
        /// It understands messages about Unix sockets.
        #[serde(default)]
        unix: bool,
    },
    /// An event of the new master.
    Event {
        /// The generation that it concerns.
        generation: Option<u32>,
        /// The event.
        event: EventKind,
    },
    /// It serves, and has the control socket's name; it writes the pid file next.
    Ready {
        /// Its generation.
        generation: u32,
        /// The names of the doors of its workers. The doors come with this message, one by one.
        #[serde(default)]
        meetings: Vec<String>,
    },
    /// Its workers can take connections through these doors from now on. The doors come with this message, one by one.
    Meetings {
        /// Their names.
        meetings: Vec<String>,
    },
    /// Its workers to which others can send messages. Their doors come with this message, one by one.
    Siblings {
        /// Who they are.
        members: Vec<Member>,
    },
    /// Copies of its listen sockets come with this message: in the tier adopt, when it is sent back.
    Listeners {
        /// Where they are bound, one by one.
        addresses: Vec<Endpoint>,
    },
    /// Some of its counters so far.
    Totals {
        /// The counters, by name.
        totals: Totals,
    },
    /// A connection comes with this message. It arrived at the new master, which was sent back and has no workers any
    /// more.
    Arrival,
    /// It cannot serve, and leaves. Version 1 has only the reason.
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
    /// A client asked it to make the upgrade final.
    Commit,
    /// It has an order to leave: let the old workers serve first.
    Revert {
        /// Who gave that order.
        by: Cause,
    },
    /// A message of a later version.
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
