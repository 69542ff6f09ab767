//! The header of a frame (RFC 6455 section 5.2), and every way in which a client can break the protocol.

use std::ops::Deref;

use super::close::CloseCode;

/// The largest payload of a control frame (RFC 6455 section 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// The second byte of a header whose length is in the next two bytes.
const LENGTH_16: u8 = 126;

/// The second byte of a header whose length is in the next eight bytes.
const LENGTH_64: u8 = 127;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of RFC 6455")]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Close, Ping and Pong, which may come between the fragments of a message.
    pub fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// How a client broke the protocol. The server answers with a Close frame of [`close_code`](Self::close_code) and closes the
/// connection; a [`Decoder`](super::Decoder) takes no more from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// RSV1, RSV2 or RSV3 is set, and no extension gives them a meaning.
    #[error("a reserved bit of a frame is set")]
    ReservedBit,
    /// Opcodes 3 to 7 and 11 to 15.
    #[error("a frame has a reserved opcode")]
    ReservedOpcode,
    /// A Close, Ping or Pong without FIN.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A continuation frame, and no message has begun.
    #[error("a continuation frame continues nothing")]
    UnexpectedContinuation,
    /// A text or binary frame before the last message ended.
    #[error("a message begins inside another message")]
    ExpectedContinuation,
    /// A client must mask every frame (RFC 6455 section 5.1).
    #[error("a client's frame is not masked")]
    Unmasked,
    /// A control frame of more than 125 bytes.
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// A length in more bytes than it needs.
    #[error("a frame's length is not encoded in the fewest bytes")]
    LengthNotMinimal,
    /// The most significant bit of a length of 64 bits is set.
    #[error("a frame's length is 2^63 or more")]
    LengthInvalid,
    /// A Close frame whose payload is one byte, or whose code must not be sent.
    #[error("a Close frame has no valid code")]
    CloseCode,
    /// Text or a reason that is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// A message of more bytes than the decoder takes.
    #[error("a message is larger than this server takes")]
    MessageTooBig,
}

impl ProtocolError {
    /// The code of the Close frame to send: 1002, 1007 or 1009.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Utf8 => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig => CloseCode::MESSAGE_TOO_BIG,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

/// The header of a frame from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceivedHeader {
    /// Bytes of the header itself.
    pub(super) length: usize,
    pub(super) is_final: bool,
    pub(super) opcode: Opcode,
    pub(super) key: [u8; 4],
    pub(super) payload_bytes: u64,
}

impl ReceivedHeader {
    /// Parses the header at the start of `input`; `None` while more is needed. It checks in the order of the bytes, so
    /// that the first error does not depend on how much has arrived.
    #[inline]
    pub(super) fn parse(input: &[u8], is_message_open: bool) -> Result<Option<Self>, ProtocolError> {
        let Some(first) = input.first() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(ProtocolError::ReservedBit);
        }
        let opcode = Opcode::of(first & 0x0f).ok_or(ProtocolError::ReservedOpcode)?;
        let is_final = first & FINAL != 0;
        match opcode {
            Opcode::Continuation if !is_message_open => return Err(ProtocolError::UnexpectedContinuation),
            Opcode::Text | Opcode::Binary if is_message_open => return Err(ProtocolError::ExpectedContinuation),
            Opcode::Close | Opcode::Ping | Opcode::Pong if !is_final => return Err(ProtocolError::FragmentedControl),
            _ => {}
        }
        let Some(second) = input.get(1) else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(ProtocolError::Unmasked);
        }
        let short = second & !MASKED;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(ProtocolError::ControlTooLong);
        }
        let rest = &input[2..];
        let (payload_bytes, rest) = match short {
            LENGTH_16 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            LENGTH_64 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (u64::from_be_bytes(*length), rest)
            }
            short => (u64::from(short), rest),
        };
        let fewest = match short {
            LENGTH_16 => u64::from(LENGTH_16),
            LENGTH_64 => u64::from(u16::MAX) + 1,
            _ => 0,
        };
        if payload_bytes < fewest {
            return Err(ProtocolError::LengthNotMinimal);
        }
        if payload_bytes > i64::MAX as u64 {
            return Err(ProtocolError::LengthInvalid);
        }
        let Some((key, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some(Self { length: input.len() - rest.len(), is_final, opcode, key: *key, payload_bytes }))
    }
}

/// The header of a frame that a server sends: not masked. It is a slice of 2, 4 or 10 bytes; the payload follows it.
/// For messages whose payload is written by other means, or sent in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    bytes: [u8; 10],
    length: u8,
}

impl FrameHeader {
    /// The header of a frame with this payload. `is_final` is false for each fragment of a message except the last.
    #[inline]
    pub fn new(opcode: Opcode, is_final: bool, payload_bytes: usize) -> Self {
        let first = opcode as u8 | if is_final { FINAL } else { 0 };
        let mut bytes = [first, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let length = if payload_bytes < usize::from(LENGTH_16) {
            bytes[1] = payload_bytes as u8;
            2
        } else if let Ok(short) = u16::try_from(payload_bytes) {
            bytes[1] = LENGTH_16;
            bytes[2..4].copy_from_slice(&short.to_be_bytes());
            4
        } else {
            bytes[1] = LENGTH_64;
            bytes[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        };
        Self { bytes, length }
    }

    /// The header of a Close frame with a reason of this many bytes, followed by the code, which is the start of its
    /// payload.
    pub(super) fn of_close(code: CloseCode, reason_bytes: usize) -> Self {
        let mut header = Self::new(Opcode::Close, true, size_of::<u16>() + reason_bytes);
        header.bytes[2..4].copy_from_slice(&code.get().to_be_bytes());
        header.length = 4;
        header
    }
}

impl Deref for FrameHeader {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}
