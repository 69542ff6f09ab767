//! The orders of a master to its workers, and their reports.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::control::{CONNECTIONS_LISTED_MAX, ConnectionFacts, ConnectionOrder, Pause, PeerHost};
use super::meeting;
use crate::endpoint::Endpoint;
use crate::handover::Refusal;
use crate::handover::balance::Portion;

/// Of text that a worker reports; what is longer is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// Largest number of a generation or a slot that is believed, so that there are numbers behind it.
pub(super) const NUMBER_MAX: u32 = 1 << 30;

/// So long a worker counts what its connections do before it says which are the busiest.
pub(crate) const COUNTED_MS: u64 = 1_000;

/// Listen sockets that a worker can have.
const LISTENERS_MAX: usize = 4096;

/// A worker that others of its server can speak to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Member {
    /// What its door is called.
    pub(crate) name: String,
    /// Its index in its generation.
    pub(crate) slot: usize,
    /// Its generation.
    pub(crate) generation: u32,
}

impl Member {
    /// Whether there can be one like this.
    pub(crate) fn is_possible(&self) -> bool {
        meeting::is_name(&self.name) && self.slot <= NUMBER_MAX as usize && self.generation <= NUMBER_MAX
    }
}

/// To a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Finish what there is, leave. Listeners stay open so long, for handshakes under way.
    Drain {
        /// Milliseconds; 0 closes at once what nobody waits at.
        settle_ms: u64,
        /// Milliseconds that connections have from then on.
        drain_ms: u64,
        /// Others accept from the very same sockets: what waits there is theirs.
        is_succeeded: bool,
    },
    /// Bring your connections to these workers when you drain. Their doors come with this order, one by one.
    Heirs {
        /// What the doors are called.
        names: Vec<String>,
    },
    /// Speak to these workers, and hear them. Their doors come with this order, one by one.
    Siblings {
        /// Who they are.
        members: Vec<Member>,
    },
    /// No other worker moves its connections now: move yours.
    Gather,
    /// Give some of your connections to this worker, and serve on. Its door comes with this order.
    Rebalance {
        /// What the door is called.
        heir: String,
        /// Which.
        portion: Portion,
        /// The most that may move.
        connections_max: u32,
        /// Milliseconds: connections that have come within this time stay.
        rest_ms: u64,
    },
    /// Count what each connection does from now on: [`Order::Rebalance`] may follow, and need not wait for that then.
    Count,
    /// Give no more while you serve.
    EndRebalance,
    /// Serve the connection that comes with this order.
    Take,
    /// Accept from the listen socket that comes with this order, too.
    Adopt {
        /// Its name between master and worker.
        listener: u32,
        /// Where it is bound.
        address: Endpoint,
    },
    /// Accept from this one no more, and close the copy: others have it.
    Release {
        /// Its name between master and worker.
        listener: u32,
    },
    /// Look whether somebody waits at the listen sockets: a process that accepted from them, too, has died.
    Look,
    /// Report [`Report::Listener`] for each listen socket of these kinds.
    Share {
        /// Those of TCP, which is all that a release before Unix sockets has, and asks for.
        #[serde(default = "yes")]
        internet: bool,
        /// Those of Unix sockets.
        #[serde(default)]
        unix: bool,
    },
    /// No worker brings its state any more: serve without.
    Serve,
    /// Append to the access log that comes with this order from now on.
    AccessLog,
    /// Say which connections come first in this order, or which peers have the most: so many, in as many reports as it takes. The first
    /// one comes by itself, each of the others when it is asked for.
    List {
        /// Of this master, not used again soon.
        question: u32,
        /// Which are first.
        first: ConnectionOrder,
        /// How many.
        limit: usize,
    },
    /// Say what follows of the answer to this question.
    ListMore {
        /// As in [`Order::List`].
        question: u32,
    },
    /// End this connection in good order, and report [`Report::ConnectionEnded`] when it is gone.
    EndConnection {
        /// Of this master, not used again soon.
        question: u32,
        /// The connection's place.
        slot: u32,
        /// How many had it before.
        generation: u32,
        /// Reset it at once.
        now: bool,
        /// Milliseconds that it has.
        drain_ms: u64,
    },
    /// Make a turn, which shows that the loop is alive.
    Ping,
    /// Leave at once.
    Stop,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// What an order means that does not say it.
fn yes() -> bool {
    true
}

/// From a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub(crate) enum Report {
    /// Listening and accepting.
    Ready {
        /// The core it is pinned to, where it has one of its own.
        core: Option<usize>,
        /// Connections it will take at most.
        connections_max: u32,
        /// Its listen sockets' descriptors.
        listeners: Vec<i32>,
        /// What its door is called, where other workers can bring their connections; the door comes with this report.
        #[serde(default)]
        meeting: Option<String>,
        /// It has state of its own to hand over.
        #[serde(default)]
        has_state: bool,
        /// It speaks to others like it, and they can speak to it through its door.
        #[serde(default)]
        speaks: bool,
    },
    /// To a master that did not start it, the first thing.
    Orphan {
        /// The generation it belongs to.
        generation: u32,
        /// Its index there.
        slot: usize,
        /// Where it listens.
        addresses: Vec<SocketAddr>,
        /// The Unix sockets where it listens, which a release that knows TCP alone does not ask for.
        #[serde(default)]
        unix: Vec<Endpoint>,
        /// How many TCP listen sockets it has.
        listeners: usize,
        /// How many Unix listen sockets it has.
        #[serde(default)]
        unix_listeners: usize,
        /// The process of the master that is gone, where it is known.
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
    /// How far the move of its connections to other workers has come.
    Moved(Moved),
    /// What has become of the oldest [`Order::Rebalance`] not reported yet.
    Rebalanced(Rebalanced),
    /// Those whom the oldest [`Order::Siblings`] not reported yet names hear it, or are gone.
    Acquainted,
    /// It would move its connections, with what they hear of other workers, when no other worker does.
    AsksToGather,
    /// They are where they stay.
    HasGathered,
    /// So many bytes of a worker's own state have come or gone; neither worker does anything else meanwhile.
    StateMoves {
        /// Bytes.
        bytes: u64,
    },
    /// Its listen sockets are closed, after all that waited there was taken.
    Closed,
    /// Part of the answer to [`Order::List`].
    Connections(ListPart),
    /// What has become of the connection of an [`Order::EndConnection`].
    ConnectionEnded {
        /// Of which one.
        question: u32,
        /// What.
        how: ConnectionEnd,
    },
    /// It could not start, and leaves.
    Failed {
        /// Why.
        reason: String,
    },
    /// Of a later version.
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
            // Names are passed on to other workers, many to a message.
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

/// Part of what a worker says of its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ListPart {
    /// Of [`Order::List`].
    pub(crate) question: u32,
    /// Those that follow, one by one.
    pub(crate) connections: Vec<Listed>,
    /// The same of peers.
    pub(crate) peers: Vec<Counted>,
    /// As many as the peer has that has most of those that are not in the whole answer.
    pub(crate) unlisted_max: u64,
    /// How many connections it has.
    pub(crate) total: u64,
    /// This part is not the last.
    pub(crate) has_more: bool,
}

/// A connection, as its worker tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Its place.
    pub(crate) slot: u32,
    /// How many had it before.
    pub(crate) generation: u32,
    /// Connections with larger ones come first, whichever worker they are at.
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

/// What has become of a connection that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConnectionEnd {
    /// It is gone.
    Closed,
    /// There was none of that name.
    Gone,
    /// It is on its way to another worker.
    Moving,
    /// Another worker has it.
    Moved,
    /// Too many others are ending.
    TooMany,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// What has become of a worker's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Moved {
    /// Others have them.
    pub(crate) moved: u64,
    /// It still has them.
    pub(crate) left: u64,
    /// It has them until they have ended, which was decided before: their last bytes or the peer's FIN are on their way.
    pub(crate) ending: u64,
    /// They stay, by reason.
    pub(crate) refused: Vec<(Refusal, u64)>,
    /// Sent to other workers, descriptors aside.
    pub(crate) bytes: u64,
    /// Of the worker's own state, where it was handed over.
    pub(crate) state_bytes: Option<u64>,
    /// Since it began.
    pub(crate) took_us: u64,
    /// No more will move, but what is let in from now on.
    pub(crate) is_over: bool,
}

/// What a worker has given to another one while it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Rebalanced {
    /// The other has them.
    pub(crate) moved: u64,
    /// They stay, by reason.
    pub(crate) refused: Vec<(Refusal, u64)>,
    /// Sent to the other, descriptors aside.
    pub(crate) bytes: u64,
    /// What those that were chosen made of its work.
    pub(crate) share_ppm: u32,
    /// How long those that moved were held up.
    pub(crate) pause: Option<Pause>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::channel::{Heard, hear, pair, tell};

    /// What a later version may say.
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
