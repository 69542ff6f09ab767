//! The messages between the sender and the receiver of connections.
//!
//! The receiver is a worker that serves. The sender is a worker that leaves and has the receiver's door. For each batch:
//!
//! 1. The sender stops its connections: it takes every completion, so that nothing is in flight in the kernel. Then it
//!    *offers* them: descriptors, and for each its standing, the protocol's state, input and output.
//! 2. The receiver makes connections of them, leaves them idle, and says which it *takes*.
//! 3. The sender *gives* it those and forgets them; the others continue at the sender.
//!
//! So each connection has one owner at any time. Until it gives, the sender has everything intact and can continue,
//! whatever happens to the receiver or the channel. When the channel ends, a receiver drops what was not given. What was
//! given belongs to the receiver, whatever happens to the sender.
//!
//! Each side ignores fields and kinds that it does not know. A change that must not be ignored raises [`VERSION`]; a
//! receiver of another version takes nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::frozen::is_zero;
use super::{Frozen, Standing};

/// Version of these messages.
pub(crate) const VERSION: u32 = 1;

/// Version of an offer with paired connections, which must stay together.
pub(crate) const VERSION_WITH_PAIRS: u32 = 2;

/// Version of an offer with connections that have a layer. Their input is not what their protocol reads. They may also
/// be paired.
pub(crate) const VERSION_WITH_LAYERS: u32 = 3;

/// Version of an offer with outbound connections that have a layer, which no listener names.
pub(crate) const VERSION_WITH_OUTBOUND_LAYERS: u32 = 4;

/// Why a connection was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Refusal {
    /// The protocol keeps it.
    Protocol,
    /// It was about to end.
    Ending,
    /// The other side speaks another version of these messages, or its protocol does not read this version of the state.
    Version,
    /// The other side runs another protocol.
    Format,
    /// The other side's protocol does not understand the state.
    State,
    /// The other side has as many connections as it may.
    Limit,
    /// The other side leaves, too.
    Leaving,
    /// Descriptors did not arrive.
    Descriptors,
    /// The connection, or the worker's own state, is larger than it may be.
    TooLarge,
    /// The other side is gone, or does not answer.
    Channel,
    /// Several heirs were lost while it was offered to them.
    Quarantined,
    /// The connection that it is paired with does not move.
    Partner,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

impl Refusal {
    /// A stable name, as in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Ending => "ending",
            Self::Version => "version",
            Self::Format => "format",
            Self::State => "state",
            Self::Limit => "limit",
            Self::Leaving => "leaving",
            Self::Descriptors => "descriptors",
            Self::TooLarge => "too_large",
            Self::Channel => "channel",
            Self::Quarantined => "quarantined",
            Self::Partner => "partner",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A connection of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) standing: Standing,
    /// Nothing was received on it yet.
    #[serde(default)]
    pub(crate) is_fresh: bool,
    /// The index in the offer of the connection with which it is paired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partner: Option<usize>,
    state_bytes: usize,
    input_bytes: usize,
    output_bytes: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    proxy_bytes: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    layer_bytes: usize,
}

impl Envelope {
    pub(crate) fn new(frozen: &Frozen, is_fresh: bool, partner: Option<usize>) -> Self {
        let standing = frozen.standing.clone();
        let [state_bytes, input_bytes, output_bytes, proxy_bytes, layer_bytes] = frozen.parts().map(<[u8]>::len);
        Self { standing, is_fresh, partner, state_bytes, input_bytes, output_bytes, proxy_bytes, layer_bytes }
    }

    /// The lengths of [`Frozen::parts`].
    pub(crate) fn lengths(&self) -> [usize; 5] {
        [self.state_bytes, self.input_bytes, self.output_bytes, self.proxy_bytes, self.layer_bytes]
    }
}

/// The head of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Offers connections. Their descriptors come with this packet, and so do their bytes.
    Offer {
        version: u32,
        batch: u64,
        /// The bytes are not in the packet, but in a file, whose descriptor is the last one.
        has_file: bool,
        /// The format of the protocol's state.
        format: String,
        format_version: u32,
        connections: Vec<Envelope>,
    },
    /// The receiver's answer to an offer.
    Takes {
        batch: u64,
        /// The connections that it does not take, by their index in the offer.
        refused: Vec<(usize, Refusal)>,
        /// The number of connections that it has, not counting these.
        open: u64,
    },
    /// The connections that were not refused belong to the receiver now.
    Gives { batch: u64 },
    /// The sender will bring all its connections, and asks from which senders the receiver hears messages. See
    /// [`crate::messages::Gate`].
    Gather {
        /// The name of the sender's door.
        name: String,
        attempt: u32,
    },
    /// It hears these senders, and no sender that comes from now on.
    Gathers { senders: Vec<String> },
    /// These senders have marked their places.
    Senders {
        senders: Vec<String>,
        /// Senders that have ended without a mark. The receiver hears their last messages before it continues.
        #[serde(default)]
        ended: Vec<String>,
    },
    /// The receiver has read all of these marks.
    Gathered,
    /// All connections that move together were given.
    AllGiven,
    /// The worker's own state follows, in packets of [`Message::StatePart`], before any connection.
    State { version: u32, format: String, format_version: u32 },
    /// Bytes of the state.
    StatePart,
    /// The number of bytes that were sent. If the state is not whole, it must not be used.
    StateEnd { bytes: u64, is_whole: bool },
    /// Whether the receiver has taken it.
    StateTaken { refused: Option<Refusal> },
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}
