//! The chunked transfer coding as a state machine over bytes (RFC 9112 7.1). Pure, and stricter than the RFC's advice
//! to recipients: whatever two readers could take differently is refused.
//!
//! Invariant: what it gives depends on the bytes alone, never on how they were cut.

use super::fields::is_token;
use super::refusal::Refusal;

/// Sixteen hexadecimal digits are all that fit into 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

/// Chunk extensions of one body together. They carry nothing, so they must not be a way to keep a server reading.
const EXTENSION_BYTES_MAX: u32 = 16 * 1024;

/// Trailers of one body together.
const TRAILER_BYTES_MAX: u32 = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    EndLineFeed,
    Ended,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct Chunked {
    state: State,
    digits: u8,
    extension_bytes: u32,
    trailer_bytes: u32,
    /// The chunk's size while it is read, then what is missing of its data.
    size: u64,
    /// What the body may still grow by.
    room: u64,
}

impl Chunked {
    /// A decoder for a body of at most `body_bytes_max`.
    pub(super) fn new(body_bytes_max: u64) -> Self {
        Self {
            state: State::Size,
            digits: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            size: 0,
            room: body_bytes_max,
        }
    }

    /// Whether the body is complete.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Takes input up to the end of the body, or all of it; says how much that was. Data goes to `sink`.
    pub(super) fn decode(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < input.len() && self.state != State::Ended {
            if self.state == State::Data {
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(input.len() - at);
                sink(&input[at..at + count]);
                at += count;
                self.size -= count as u64;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
            } else {
                self.state = self.step(input[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, Refusal> {
        Ok(match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < SIZE_DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.size = self.size << 4 | u64::from(digit);
                self.digits += 1;
                State::Size
            }
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, b'\r') if self.digits > 0 => State::SizeLineFeed,
            (State::Size, b'\n') if self.digits > 0 => return Err(Refusal::CHUNK_FRAMING),
            (State::Size, _) => return Err(Refusal::CHUNK_SIZE),
            (State::Extension, b'\r') => State::SizeLineFeed,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) if self.extension_bytes < EXTENSION_BYTES_MAX => {
                self.extension_bytes += 1;
                State::Extension
            }
            (State::Extension, b'\n') => return Err(Refusal::CHUNK_FRAMING),
            (State::Extension, _) => return Err(Refusal::CHUNK_EXTENSION),
            (State::SizeLineFeed, b'\n') => self.begin_chunk()?,
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size,
            (State::SizeLineFeed | State::DataReturn | State::DataLineFeed, _) => return Err(Refusal::CHUNK_FRAMING),
            (State::TrailerStart, b'\r') => State::EndLineFeed,
            (State::EndLineFeed, b'\n') => State::Ended,
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::TrailerStart | State::TrailerName | State::TrailerValue, _) => self.trailer(byte)?,
            (State::TrailerLineFeed | State::EndLineFeed, _) => return Err(Refusal::TRAILER),
            (State::Data | State::Ended, _) => unreachable!("handled by the caller"),
        })
    }

    fn begin_chunk(&mut self) -> Result<State, Refusal> {
        self.digits = 0;
        if self.size == 0 {
            return Ok(State::TrailerStart);
        }
        self.room = self.room.checked_sub(self.size).ok_or(Refusal::BODY_TOO_LARGE)?;
        Ok(State::Data)
    }

    /// Trailers are skipped, but not their syntax: an attacker's next request might hide in one.
    fn trailer(&mut self, byte: u8) -> Result<State, Refusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(Refusal::TRAILERS_TOO_LARGE);
        }
        match (self.state, byte) {
            (State::TrailerStart | State::TrailerName, byte) if is_token(byte) => Ok(State::TrailerName),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLineFeed),
            _ => Err(Refusal::TRAILER),
        }
    }
}
