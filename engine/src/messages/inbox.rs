//! Messages from one other worker: checks packets, and joins messages that came in parts.

use super::Word;
use super::packet::{Messages, Packet, parse};

/// The content of a packet.
#[derive(Debug)]
pub(crate) enum Heard<'a> {
    Messages(Messages<'a>),
    /// A message that came in parts.
    Large(Vec<u8>),
    /// A message that came in parts and is too large: no connection hears it.
    TooLarge(usize),
    Word(Word),
    /// Nothing yet, or nothing that this version knows.
    Nothing,
}

/// A packet that no sibling sends. The channel is useless after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    #[error("a packet is malformed")]
    Malformed,
    #[error("message {number} comes after message {last}")]
    Order { number: u64, last: u64 },
    #[error("a part of a message is out of order")]
    Part,
}

/// A message of which parts have come.
#[derive(Debug)]
struct Large {
    number: u64,
    total: usize,
    at: usize,
    /// `None` if it is too large.
    bytes: Option<Vec<u8>>,
}

/// The packets of one sender.
#[derive(Debug)]
pub(crate) struct Inbox {
    message_bytes_max: usize,
    last: Option<u64>,
    large: Option<Large>,
}

impl Inbox {
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, last: None, large: None }
    }

    /// Bytes kept of an incomplete message.
    pub(crate) fn held_bytes(&self) -> usize {
        self.large.as_ref().and_then(|large| large.bytes.as_ref()).map_or(0, Vec::len)
    }

    /// Takes the next packet.
    ///
    /// # Errors
    /// If no worker that follows the protocol can have sent it.
    pub(crate) fn take<'a>(&mut self, packet: &'a [u8]) -> Result<Heard<'a>, Nonsense> {
        match parse(packet).ok_or(Nonsense::Malformed)? {
            Packet::Messages { first, messages } => {
                if self.large.is_some() {
                    return Err(Nonsense::Part);
                }
                self.follow(first)?;
                Ok(Heard::Messages(messages))
            }
            Packet::Part { number, total, at, bytes } => self.take_part(number, total, at, bytes),
            Packet::Word(word) => Ok(Heard::Word(word)),
            Packet::Unknown => Ok(Heard::Nothing),
        }
    }

    /// Checks that numbers rise.
    fn follow(&mut self, number: u64) -> Result<(), Nonsense> {
        match self.last.replace(number) {
            Some(last) if number <= last => Err(Nonsense::Order { number, last }),
            _ => Ok(()),
        }
    }

    fn take_part<'a>(&mut self, number: u64, total: usize, at: usize, bytes: &[u8]) -> Result<Heard<'a>, Nonsense> {
        let mut large = match self.large.take() {
            Some(large) if (large.number, large.total, large.at) == (number, total, at) => large,
            None if at == 0 => {
                self.follow(number)?;
                let bytes = (total <= self.message_bytes_max).then(Vec::new);
                Large { number, total, at: 0, bytes }
            }
            _ => return Err(Nonsense::Part),
        };
        large.at += bytes.len();
        large.bytes.iter_mut().for_each(|all| all.extend_from_slice(bytes));
        if large.at < large.total {
            self.large = Some(large);
            return Ok(Heard::Nothing);
        }
        Ok(large.bytes.map_or(Heard::TooLarge(total), Heard::Large))
    }
}
