//! The bytes of a packet: its kind, and its content. Nothing of a packet is used before it was checked.
//!
//! | kind | then |
//! |---|---|
//! | `m` | the number of its first message, 8 bytes; messages, each with its length before it, 4 bytes |
//! | `p` | the number of its message, 8 bytes; all bytes of that, 4 bytes; where these begin, 4 bytes; a part of a message that is too large for one packet |
//! | `{` | a [`Word`], as JSON |
//!
//! Numbers are little-endian. Each process numbers all its messages, to whichever member. So numbers rise on each
//! channel, perhaps with gaps.

use super::Word;

/// Two packets fit into the smallest default of `net.core.wmem_default`.
pub(crate) const PACKET_BYTES_MAX: usize = 64 * 1024;

const MESSAGES: u8 = b'm';
const PART: u8 = b'p';
const WORD: u8 = b'{';

const HEAD_BYTES: usize = 9;
const LENGTH_BYTES: usize = 4;
const PART_HEAD_BYTES: usize = HEAD_BYTES + 8;

/// A larger message is sent in parts.
pub(super) const WHOLE_BYTES_MAX: usize = PACKET_BYTES_MAX - HEAD_BYTES - LENGTH_BYTES;

/// Bytes of a part of a large message.
pub(super) const PART_BYTES: usize = PACKET_BYTES_MAX - PART_HEAD_BYTES;

/// The bytes of packets that a message needs.
pub(super) fn cost(message: &[u8]) -> usize {
    if message.len() <= WHOLE_BYTES_MAX {
        LENGTH_BYTES + message.len()
    } else {
        message.len() + message.len().div_ceil(PART_BYTES) * PART_HEAD_BYTES
    }
}

/// Begins a packet of messages in a buffer that may have been used before.
pub(super) fn begin(mut packet: Vec<u8>, first: u64) -> Vec<u8> {
    packet.clear();
    packet.push(MESSAGES);
    packet.extend_from_slice(&first.to_le_bytes());
    packet
}

/// Whether a packet that was begun has room for this message.
pub(super) fn has_room(packet: &[u8], message: &[u8]) -> bool {
    packet.len() + LENGTH_BYTES + message.len() <= PACKET_BYTES_MAX
}

pub(super) fn append(packet: &mut Vec<u8>, message: &[u8]) {
    packet.extend_from_slice(&(message.len() as u32).to_le_bytes());
    packet.extend_from_slice(message);
}

/// The packets of a message that is sent in parts.
pub(super) fn parts(number: u64, message: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    message.chunks(PART_BYTES).zip((0..).step_by(PART_BYTES)).map(move |(part, at): (&[u8], u32)| {
        let mut packet = Vec::with_capacity(PART_HEAD_BYTES + part.len());
        packet.push(PART);
        packet.extend_from_slice(&number.to_le_bytes());
        packet.extend_from_slice(&(message.len() as u32).to_le_bytes());
        packet.extend_from_slice(&at.to_le_bytes());
        packet.extend_from_slice(part);
        packet
    })
}

/// A packet, by its kind.
#[derive(Debug)]
pub(super) enum Packet<'a> {
    Messages {
        first: u64,
        messages: Messages<'a>,
    },
    Part {
        number: u64,
        total: usize,
        at: usize,
        bytes: &'a [u8],
    },
    Word(Word),
    /// A packet of a later version.
    Unknown,
}

/// The messages of a packet that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// `None` if a length is wrong, or if there is no message.
    fn checked(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = split(rest)?.1;
        }
        (!bytes.is_empty()).then_some(Self(bytes))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (message, rest) = split(self.0)?;
        self.0 = rest;
        Some(message)
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    Some((u32::from_le_bytes(*length) as usize, rest))
}

/// `None` if the packet is invalid.
pub(super) fn parse(packet: &[u8]) -> Option<Packet<'_>> {
    let (kind, rest) = packet.split_first()?;
    match *kind {
        MESSAGES => {
            let (first, messages) = number(rest)?;
            Some(Packet::Messages { first, messages: Messages::checked(messages)? })
        }
        PART => {
            let (number, rest) = number(rest)?;
            let (total, rest) = length(rest)?;
            let (at, bytes) = length(rest)?;
            let is_within = !bytes.is_empty() && at.checked_add(bytes.len())? <= total;
            is_within.then_some(Packet::Part { number, total, at, bytes })
        }
        WORD => serde_json::from_slice(packet).ok().map(Packet::Word),
        _ => Some(Packet::Unknown),
    }
}
