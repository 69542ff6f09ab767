//! Messages between the workers of one server, as state machines without I/O: what a worker sends to others
//! ([`Siblings`]), and what it hears from one of them ([`Inbox`]).
//!
//! Members are processes and not slots: while one generation replaces another, both are here. A channel of packets leads
//! from each member to each other one. The sender has made it through the receiver's door:
//!
//! 1. The sender introduces itself with [`Hello`](Word::Hello) and its own door, so that the receiver can also send to it.
//! 2. The receiver answers [`Welcome`](Answer::Welcome), or why it does not understand.
//! 3. The sender sends [packets](packet). Until it is welcome, its messages to this member wait.
//!
//! Messages of a turn of the loop are sent at its end, to each member in the order in which callbacks sent them, in as
//! few packets as possible. What the kernel does not take waits here, within a limit. Beyond that no message can be sent
//! ([`SendError::Full`]), and a broadcast reaches all members or none.

mod gate;
mod inbox;
mod mutation;
mod outgoing;
mod packet;
mod siblings;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use self::gate::Gate;
pub(crate) use self::inbox::{Heard, Inbox};
pub(crate) use self::packet::PACKET_BYTES_MAX;
pub(crate) use self::siblings::{Place, SELF, Siblings, Who};

/// Version of the packets and of the messages about them.
pub(crate) const VERSION: u32 = 1;

/// The sender of a message: another worker of this server, or this worker itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sibling {
    pub(crate) slot: usize,
    /// This worker's number for the sending process.
    pub(crate) number: u64,
}

impl Sibling {
    /// Its slot: while workers are replaced, two of them have the same one.
    pub fn slot(self) -> usize {
        self.slot
    }

    /// Whether it is this worker, which gets its own broadcasts.
    pub fn is_self(self) -> bool {
        self.number == 0
    }
}

impl fmt::Display for Sibling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.slot, self.number)
    }
}

/// Why a message was not sent to any worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too many bytes wait for a receiver ([`Limits::sibling_queue_bytes_max`]). Once there is room again,
    /// [`Protocol::on_siblings_writable`](crate::Protocol::on_siblings_writable) is called.
    ///
    /// [`Limits::sibling_queue_bytes_max`]: crate::config::Limits::sibling_queue_bytes_max
    #[error("too many messages wait for another worker")]
    Full,
    /// The message is larger than [`Limits::sibling_message_bytes_max`].
    ///
    /// [`Limits::sibling_message_bytes_max`]: crate::config::Limits::sibling_message_bytes_max
    #[error("the message is larger than sibling_message_bytes_max")]
    TooLarge,
    /// No worker has this slot now.
    #[error("no worker has this slot")]
    NoSuchSlot,
}

/// What a channel carries besides messages, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(crate) enum Word {
    /// The first packet; the sender's door comes with it.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The name of its door.
        name: String,
        slot: usize,
        generation: u32,
        /// The format of its messages.
        format: String,
        format_version: u32,
    },
    /// Up to here the connections of a leaving worker hear the sender there, and from here on at its heir.
    Mark {
        /// The leaving worker.
        of: String,
        /// How often it has begun to move them.
        attempt: u32,
    },
    /// The messages that follow may be from connections that the sender's predecessor had.
    Began {
        /// The leaving worker.
        of: String,
        attempt: u32,
    },
    /// The sender's connections send no more messages here.
    Moved { attempt: u32 },
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// What the receiver sends back to the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    Welcome,
    /// It does not understand, and hears nothing.
    Refused {
        why: Misfit,
    },
    /// Mark your place in your messages to me and to my heir. Messages for my slot go to the heir from then on.
    Mark {
        /// The name of the heir's door. The door comes with this answer, for senders that do not know the heir: it may
        /// belong to a master that the sender's master does not know.
        to: String,
        /// The heir's slot.
        #[serde(default)]
        slot: usize,
        /// The heir's generation.
        #[serde(default)]
        generation: u32,
        attempt: u32,
    },
    /// It is leaving: messages for its slot go to another worker with the same slot, if there is one.
    Leaves,
    /// An answer of a later version.
    #[serde(other)]
    Unknown,
}

/// Why a worker does not hear another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Misfit {
    /// Another version of the packets.
    Version,
    /// Another protocol.
    Format,
    /// A version of the messages that it does not read.
    FormatVersion,
    /// A reason of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Misfit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Version => "it speaks another version of the engine's packets",
            Self::Format => "it runs another protocol",
            Self::FormatVersion => "it does not read this version of the messages",
            Self::Unknown => "a reason that this version does not know",
        })
    }
}
