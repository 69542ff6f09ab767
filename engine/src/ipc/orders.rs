//! The orders of a master to its workers, and their reports.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::control::{CONNECTIONS_LISTED_MAX, ConnectionFacts, ConnectionOrder, Pause, PeerHost};
use super::meeting;
use crate::endpoint::Endpoint;
use crate::handover::Refusal;
use crate::handover::balance::Portion;

/// The most bytes of a text that a worker reports. Longer text is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// The largest number of a generation or slot that is accepted, so that there are numbers beyond it.
pub(super) const NUMBER_MAX: u32 = 1 << 30;

/// How long a worker counts the events of its connections before it reports which are the busiest.
pub(crate) const COUNTED_MS: u64 = 1_000;

/// The most listen sockets that a worker can have.
const LISTENERS_MAX: usize = 4096;

/// A worker to which others of its server can send messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The name of its door.
    pub(crate) name: String,
    /// Its index in its generation.
    pub(crate) slot: usize,
    /// Its generation.
    pub(crate) generation: u32,
}

impl Member {
    /// Whether such a member is possible.
    pub(crate) fn is_possible(&self) -> bool {
        meeting::is_name(&self.name) && self.slot <= NUMBER_MAX as usize && self.generation <= NUMBER_MAX
    }
}

/// To a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Finish the open connections, then leave. Listeners stay open for `settle_ms`, for handshakes in flight.
    Drain {
        /// Milliseconds; 0 closes listeners at once if no connection waits there.
        settle_ms: u64,
        /// Milliseconds that connections have after that.
        drain_ms: u64,
        /// Others accept from the same sockets and take what waits there.
        is_succeeded: bool,
    },
    /// Move your connections to these workers when you drain. Their doors come with this order, one by one.
    Heirs {
        /// The names of the doors.
        names: Vec<String>,
    },
    /// Exchange messages with these workers. Their doors come with this order, one by one.
    Siblings {
        /// Who they are.
        members: Vec<Member>,
    },
    /// No other worker moves its connections now: move yours.
    Gather,
    /// Give some of your connections to this worker, and continue to serve. Its door comes with this order.
    Rebalance {
        /// The name of the door.
        heir: String,
        /// Which connections.
        portion: Portion,
        /// The most that may move.
        connections_max: u32,
        /// Milliseconds: connections that arrived within this time stay.
        rest_ms: u64,
    },
    /// Count the events of each connection from now on: an [`Order::Rebalance`] that follows then need not wait for
    /// that.
    Count,
    /// Stop giving while you serve.
    EndRebalance,
    /// Serve the connection that comes with this order.
    Take,
    /// Also accept from the listen socket that comes with this order.
    Adopt {
        /// Its identifier between master and worker.
        listener: u32,
        /// Where it is bound.
        address: Endpoint,
    },
    /// Stop accepting from this one, and close the copy: others have it.
    Release {
        /// Its identifier between master and worker.
        listener: u32,
    },
    /// Check whether connections wait at the listen sockets: a process that accepted from them, too, has died.
    Look,
    /// Send [`Report::Listener`] for each listen socket of these kinds.
    Share {
        /// Those of TCP. A release without Unix sockets has and requests only these.
        #[serde(default = "yes")]
        internet: bool,
        /// Those of Unix sockets.
        #[serde(default)]
        unix: bool,
    },
    /// No worker will bring state any more: serve without.
    Serve,
    /// Append to the access log that comes with this order from now on.
    AccessLog,
    /// Report the first connections in this order, or the peers with the most connections, up to `limit`, in as many
    /// reports as it takes. The first report comes at once, each further one when it is asked for.
    List {
        /// A number that this master does not use again soon.
        question: u32,
        /// Which come first.
        first: ConnectionOrder,
        /// How many.
        limit: usize,
    },
    /// Send the next part of the answer to this question.
    ListMore {
        /// As in [`Order::List`].
        question: u32,
    },
    /// End this connection gracefully, and send [`Report::ConnectionEnded`] when it is gone.
    EndConnection {
        /// A number that this master does not use again soon.
        question: u32,
        /// The connection's slot in the worker.
        slot: u32,
        /// How many connections had this slot before.
        generation: u32,
        /// Reset it at once.
        now: bool,
        /// Milliseconds that it gets.
        drain_ms: u64,
    },
    /// Answer by a turn of the loop, which shows that it is alive.
    Ping,
    /// Leave at once.
    Stop,
    /// An order of a later version.
    #[serde(other)]
    Unknown,
}

/// The value if an order does not give it.
fn yes() -> bool {
    true
}

/// From a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub(crate) enum Report {
    /// Listening and accepting.
    Ready {
        /// The core to which it is pinned, if it has one of its own.
        core: Option<usize>,
        /// The most connections that it will take.
        connections_max: u32,
        /// Its listen sockets' descriptors.
        listeners: Vec<i32>,
        /// The name of its door, if other workers can bring it connections. The door comes with this report.
        #[serde(default)]
        meeting: Option<String>,
        /// It has state of its own to hand over.
        #[serde(default)]
        has_state: bool,
        /// It exchanges messages with its siblings, which can reach it through its door.
        #[serde(default)]
        speaks: bool,
    },
    /// The first report to a master that did not start it.
    Orphan {
        /// Its generation.
        generation: u32,
        /// Its index there.
        slot: usize,
        /// Where it listens.
        addresses: Vec<SocketAddr>,
        /// The Unix sockets on which it listens. A release that only knows TCP does not request them.
        #[serde(default)]
        unix: Vec<Endpoint>,
        /// How many TCP listen sockets it has.
        listeners: usize,
        /// How many Unix listen sockets it has.
        #[serde(default)]
        unix_listeners: usize,
        /// The process of the master that has ended, if that is known.
        #[serde(default)]
        master: Option<u32>,
    },
    /// A copy of a listen socket comes with this report.
    Listener {
        /// Where it is bound.
        address: Endpoint,
    },
    /// It has taken the connection of the oldest [`Order::Take`] not reported yet.
    Taken,
    /// Its protocol has told it to leave.
    Leaving,
    /// The progress of its moves to other workers.
    Moved(Moved),
    /// The outcome of the oldest [`Order::Rebalance`] not reported yet.
    Rebalanced(Rebalanced),
    /// The members of the oldest [`Order::Siblings`] not reported yet receive its messages, or are gone.
    Acquainted,
    /// It wants to move its connections, with the messages that they hear, when no other worker does.
    AsksToGather,
    /// Its connections have reached the workers where they stay.
    HasGathered,
    /// This many bytes of a worker's own state have been transferred. Neither worker does anything else meanwhile.
    StateMoves {
        /// Bytes.
        bytes: u64,
    },
    /// Its listen sockets are closed, after it accepted all waiting connections.
    Closed,
    /// Part of the answer to [`Order::List`].
    Connections(ListPart),
    /// The outcome of an [`Order::EndConnection`].
    ConnectionEnded {
        /// The number of the order.
        question: u32,
        /// The outcome.
        how: ConnectionEnd,
    },
    /// It could not start, and leaves.
    Failed {
        /// Why.
        reason: String,
    },
    /// A report of a later version.
    #[serde(other)]
    Unknown,
}

impl Report {
    /// The same within bounds, because the sender is not trusted. An impossible report counts as an unknown one.
    pub(crate) fn bounded(self) -> Self {
        match self {
            Self::Failed { mut reason } => {
                reason.truncate(reason.floor_char_boundary(TEXT_BYTES_MAX));
                Self::Failed { reason }
            }
            Self::Connections(part) if part.connections.len().max(part.peers.len()) > CONNECTIONS_LISTED_MAX => {
                Self::Unknown
            }
            Self::Ready { listeners, .. } if listeners.len() > LISTENERS_MAX => Self::Unknown,
            // Names are passed on to other workers, many in one message.
            Self::Ready { core, connections_max, listeners, meeting, has_state, speaks } => {
                let meeting = meeting.filter(|name| meeting::is_name(name));
                Self::Ready { core, connections_max, listeners, meeting, has_state, speaks }
            }
            Self::Orphan { generation, slot, listeners, unix_listeners, .. }
                if generation > NUMBER_MAX
                    || slot > NUMBER_MAX as usize
                    || listeners > LISTENERS_MAX
                    || unix_listeners > LISTENERS_MAX =>
            {
                Self::Unknown
            }
            report => report,
        }
    }
}

/// Part of a worker's list of its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ListPart {
    /// The number of the [`Order::List`].
    pub(crate) question: u32,
    /// The connections of this part.
    pub(crate) connections: Vec<Listed>,
    /// The peers of this part.
    pub(crate) peers: Vec<Counted>,
    /// The most connections of any peer that is not in the whole answer.
    pub(crate) unlisted_max: u64,
    /// How many connections it has.
    pub(crate) total: u64,
    /// This part is not the last.
    pub(crate) has_more: bool,
}

/// A connection, as its worker reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Its slot in the worker.
    pub(crate) slot: u32,
    /// How many connections had this slot before.
    pub(crate) generation: u32,
    /// Connections with a higher rank come first, whichever worker has them.
    pub(crate) rank: u64,
    #[serde(flatten)]
    pub(crate) facts: ConnectionFacts,
}

/// How many connections a peer has at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) peer: PeerHost,
    pub(crate) connections: u64,
}

/// The outcome for a connection that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConnectionEnd {
    /// It is gone.
    Closed,
    /// There was no connection with this name.
    Gone,
    /// It is moving to another worker.
    Moving,
    /// Another worker has it.
    Moved,
    /// Too many others are ending.
    TooMany,
    /// An outcome of a later version.
    #[serde(other)]
    Unknown,
}

/// The outcome for a worker's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Moved {
    /// Connections that other workers have now.
    pub(crate) moved: u64,
    /// Connections that it still has.
    pub(crate) left: u64,
    /// Connections that were already ending, and stay until then: only their last bytes, or the peer's FIN, are
    /// missing.
    pub(crate) ending: u64,
    /// Connections that stay, by reason.
    pub(crate) refused: Vec<(Refusal, u64)>,
    /// Bytes sent to other workers, apart from descriptors.
    pub(crate) bytes: u64,
    /// Bytes of the worker's own state, if it was handed over.
    pub(crate) state_bytes: Option<u64>,
    /// Time since the move began.
    pub(crate) took_us: u64,
    /// No more will move, except connections that are accepted from now on.
    pub(crate) is_over: bool,
}

/// What a worker has given to another one while it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Rebalanced {
    /// Connections that the other worker has now.
    pub(crate) moved: u64,
    /// Connections that stay, by reason.
    pub(crate) refused: Vec<(Refusal, u64)>,
    /// Bytes sent to the other worker, apart from descriptors.
    pub(crate) bytes: u64,
    /// The share of its work that the chosen connections caused.
    pub(crate) share_ppm: u32,
    /// How long the moved connections were paused.
    pub(crate) pause: Option<Pause>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::channel::{Heard, hear, pair, tell};

    /// A message that a later version may send.
    #[derive(Serialize)]
    struct Later {
        order: &'static str,
        report: &'static str,
        more: [u32; 2],
    }

    #[test]
    fn what_is_not_known_is_told_from_nonsense() {
        let (ours, theirs) = pair().expect("a pair");
        let later = Later { order: "dance", report: "danced", more: [1, 2] };
        (0..2).for_each(|_| tell(&ours, &later).expect("told"));
        tell(&ours, &Order::Stop).expect("told");
        assert_eq!(hear(&theirs).expect("heard"), Heard::Message(Order::Unknown));
        assert_eq!(hear(&theirs).expect("heard"), Heard::Message(Report::Unknown));
        assert_eq!(hear(&theirs).expect("heard"), Heard::Message(Order::Stop));
    }

    #[test]
    fn reports_are_bounded() {
        let long = Report::Failed { reason: "ä".repeat(1000) }.bounded();
        assert_eq!(long, Report::Failed { reason: "ä".repeat(TEXT_BYTES_MAX / 2) });
        let ready = |listeners, meeting: &str| {
            let meeting = Some(meeting.to_owned());
            let listeners = vec![7; listeners];
            Report::Ready { core: None, connections_max: 1, listeners, meeting, has_state: false, speaks: true }
        };
        let meeting = crate::ipc::meeting::Meeting::open().expect("a socket");
        assert_eq!(ready(1, meeting.name()).bounded(), ready(1, meeting.name()));
        for name in ["", "baton/connections/", &format!("{}0", meeting.name()), &"a".repeat(16_000)] {
            assert!(matches!(ready(1, name).bounded(), Report::Ready { meeting: None, .. }), "{name}");
        }
        assert_eq!(ready(LISTENERS_MAX + 1, meeting.name()).bounded(), Report::Unknown);
        let orphan = |generation, slot, listeners| Report::Orphan {
            generation,
            slot,
            addresses: Vec::new(),
            unix: Vec::new(),
            listeners,
            unix_listeners: 0,
            master: None,
        };
        assert_eq!(orphan(1, 2, 3).bounded(), orphan(1, 2, 3));
        let listed = |count| {
            let counted = Counted { peer: PeerHost::Unix { user: 7 }, connections: u64::MAX };
            Report::Connections(ListPart { peers: vec![counted; count], ..ListPart::default() })
        };
        assert_eq!(listed(CONNECTIONS_LISTED_MAX).bounded(), listed(CONNECTIONS_LISTED_MAX));
        assert_eq!(listed(CONNECTIONS_LISTED_MAX + 1).bounded(), Report::Unknown);
        for report in [orphan(u32::MAX, 0, 0), orphan(0, usize::MAX, 0), orphan(0, 0, usize::MAX)] {
            assert_eq!(report.bounded(), Report::Unknown);
        }
    }
}
