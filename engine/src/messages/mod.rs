//! Messages between the workers of one server, as machines without I/O: what a worker says to others ([`Siblings`]), and what
//! it hears of one of them ([`Inbox`]).
//!
//! Members are processes and not slots: while one generation takes the place of another, both are here. From each member to each
//! other one leads a channel of packets, which the sender has made by way of the receiver's door:
//!
//! 1. the sender says [`Hello`](Word::Hello), with its own door, so that the receiver can speak to it in turn;
//! 2. the receiver answers [`Welcome`](Answer::Welcome), or why it does not understand;
//! 3. the sender sends [packets](packet). Until it is welcome, what it says to this member waits.
//!
//! What is said in a turn of the loop goes out at its end, to each member in the order in which it was said, in as few packets
//! as possible. What the kernel does not take waits here, and is bounded: then nothing more can be said ([`SendError::Full`]),
//! and a broadcast reaches everybody or nobody.

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
    /// This worker's number for that process.
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

/// What goes over a channel beside messages, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(crate) enum Word {
    /// The first packet; the sender's door comes with it.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// What its door is called.
        name: String,
        slot: usize,
        generation: u32,
        /// What the messages are.
        format: String,
        format_version: u32,
    },
    /// Up to here the connections of a worker that leaves hear the sender there, and from here on at its heir.
    Mark {
        /// The worker that leaves.
        of: String,
        /// How often it has begun to move them.
        attempt: u32,
    },
    /// What follows may be said by connections that this worker, the sender's predecessor, had.
    Began {
        /// The worker that leaves.
        of: String,
        attempt: u32,
    },
    /// The sender's connections say nothing more here.
    Moved { attempt: u32 },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// What goes the other way, from the receiver to the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    Welcome,
    /// It does not understand, and hears nothing.
    Refused {
        why: Misfit,
    },
    /// Mark your place in what you say to me and to my heir: what is for my slot goes there from then on.
    Mark {
        /// What the heir's door is called. The door comes with this answer, for whoever does not know the heir: it may be of a
        /// master that this worker's master does not know.
        to: String,
        /// The heir's.
        #[serde(default)]
        slot: usize,
        /// The heir's.
        #[serde(default)]
        generation: u32,
        attempt: u32,
    },
    /// It leaves: what is for its slot goes to another worker that has the same one, where there is one.
    Leaves,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// Why a worker does not hear another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Misfit {
    /// Of the packets.
    Version,
    /// Another protocol.
    Format,
    /// A version of the messages that is not read.
    FormatVersion,
    /// Of a later version.
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
