//! The messages between the sender and the receiver of connections.
//!
//! The receiver is a worker that serves; the sender is a worker that leaves and was given the receiver's door. For each
//! batch:
//!
//! 1. the sender stops its connections (it takes every completion, so that nothing is in flight in the kernel) and
//!    *offers* them: descriptors, and for each its standing, the protocol's state, input and output;
//! 2. the receiver makes connections of them, leaves them idle, and says which it *takes*;
//! 3. the sender *gives* it those and forgets them; the others go on at the sender.
//!
//! So each connection has one owner at any time. Until it gives, the sender has everything whole and goes on unharmed,
//! whatever happens to the receiver or the channel; a receiver drops what was not given when the channel ends. What was
//! given is the receiver's, whatever happens to the sender.
//!
//! Each side ignores fields and kinds that it does not know. A change that may not be ignored raises [`VERSION`]; a
//! receiver of another version takes nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::frozen::is_zero;
use super::{Frozen, Standing};

/// Version of these messages.
pub(crate) const VERSION: u32 = 1;

/// Version of an offer with connections that are paired, which may not be parted.
pub(crate) const VERSION_WITH_PAIRS: u32 = 2;

/// Version of an offer with connections that have a layer, of which the input is not what their protocol reads; they may be paired,
/// too.
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
    /// The place in the offer of the connection that it is paired with.
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

    /// Of [`Frozen::parts`].
    pub(crate) fn lengths(&self) -> [usize; 5] {
        [self.state_bytes, self.input_bytes, self.output_bytes, self.proxy_bytes, self.layer_bytes]
    }
}

/// The head of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Connections; their descriptors come with this packet, and their bytes.
    Offer {
        version: u32,
        batch: u64,
        /// The bytes are not in the packet, but in a file, whose descriptor is the last.
        has_file: bool,
        /// What the protocol's state is.
        format: String,
        format_version: u32,
        connections: Vec<Envelope>,
    },
    /// What the receiver has made of an offer.
    Takes {
        batch: u64,
        /// By their places in the offer: those that it does not take.
        refused: Vec<(usize, Refusal)>,
        /// Connections that it has, without these.
        open: u64,
    },
    /// Those that were not refused are the receiver's.
    Gives { batch: u64 },
    /// The sender will bring all its connections: whom do you hear? See [`crate::messages::Gate`].
    Gather {
        /// What the sender's door is called.
        name: String,
        attempt: u32,
    },
    /// These, and nobody who comes from now on.
    Gathers { senders: Vec<String> },
    /// These have marked their places.
    Senders {
        senders: Vec<String>,
        /// Those that have ended without: the receiver hears what they had said before it goes on.
        #[serde(default)]
        ended: Vec<String>,
    },
    /// All of these marks were read.
    Gathered,
    /// All connections were given that come together.
    AllGiven,
    /// The worker's own state follows, in packets of [`Message::StatePart`], before any connection.
    State { version: u32, format: String, format_version: u32 },
    /// Bytes of it.
    StatePart,
    /// So many they were; where it is not whole, it is not to be used.
    StateEnd { bytes: u64, is_whole: bool },
    /// Whether the receiver has it.
    StateTaken { refused: Option<Refusal> },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}
