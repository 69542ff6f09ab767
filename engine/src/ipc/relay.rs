//! What an old master and a new one tell each other during an upgrade: messages over a [`channel`](super::channel),
//! each with a descriptor or without. Either side ignores kinds it does not know.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Version of these messages.
pub(crate) const RELAY_VERSION: u32 = 1;

/// Names the channel's descriptor to the new program.
pub(crate) const RELAY_VARIABLE: &str = "BATON_UPGRADE";

/// From the old master to the new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        /// So many messages with descriptors follow.
        messages: usize,
    },
    /// Listen sockets come with this message; in the tier adopt.
    Listeners {
        /// Where they are bound, one by one.
        addresses: Vec<SocketAddr>,
    },
    /// A map of listeners comes with this message; in the tier ebpf, where both are to serve.
    Map {
        /// Where they are bound.
        address: SocketAddr,
        /// Places that are in use, the first ones.
        places: u32,
    },
    /// The old workers leave: take all connections.
    Alone,
    /// There is no way back any more.
    Final,
    /// The old workers have brought what they could.
    Moved,
    /// The old workers serve: leave.
    Relieved {
        /// Where they can be brought connections.
        #[serde(default)]
        meetings: Vec<String>,
    },
    /// The old workers cannot be had back.
    NotRelieved {
        /// Why.
        reason: String,
    },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// From the new master to the old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "relay", rename_all = "snake_case")]
pub(crate) enum ToOld {
    /// Something happened there.
    Event {
        /// The generation it happened to.
        generation: Option<u32>,
        /// What.
        message: String,
    },
    /// It serves, and has the control socket's name.
    Ready {
        /// Its generation.
        generation: u32,
        /// How it takes listeners over.
        tier: String,
        /// Where its workers can be brought connections.
        #[serde(default)]
        meetings: Vec<String>,
    },
    /// Its workers can be brought connections here from now on.
    Meetings {
        /// Their names.
        meetings: Vec<String>,
    },
    /// It has the pid file as well.
    Named,
    /// It cannot serve, and leaves.
    Failed {
        /// Why.
        reason: String,
    },
    /// One of its workers died or hung.
    Trouble {
        /// Which, and how.
        reason: String,
    },
    /// It was asked to stay for good.
    Commit,
    /// It is to leave: let old workers serve first.
    Revert {
        /// By whom it was told.
        reason: String,
    },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_says_is_not_an_error() {
        let later = r#"{"relay":"sing","song":"of joy"}"#;
        assert_eq!(serde_json::from_str::<ToNew>(later).expect("understood"), ToNew::Unknown);
        assert_eq!(serde_json::from_str::<ToOld>(later).expect("understood"), ToOld::Unknown);
        let known = r#"{"relay":"event","generation":3,"message":"x","colour":"red"}"#;
        assert!(matches!(serde_json::from_str(known), Ok(ToOld::Event { generation: Some(3), .. })));
    }
}
