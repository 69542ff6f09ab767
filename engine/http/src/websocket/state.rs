//! What remains of a connection's input between two pieces of it.

use serde::{Deserialize, Serialize};

use super::frame::{Opcode, ProtocolError, ReceivedHeader};
use super::mask;

/// The state of a [`Decoder`](super::Decoder) for one connection: at most 64 bytes, and the received part of a message
/// that has not ended. It can be frozen at any time, and continues in another process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveState {
    message: Option<OpenMessage>,
    /// A Close frame arrived, or the client broke the protocol: what follows is discarded (RFC 6455 sections 5.5.1 and
    /// 7.1.7).
    is_over: bool,
}

/// A message that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OpenMessage {
    is_text: bool,
    #[serde(with = "packed")]
    bytes: Vec<u8>,
    /// The current frame; `None` between two fragments.
    frame: Option<OpenFrame>,
}

/// A frame that has not arrived completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OpenFrame {
    is_final: bool,
    key: [u8; 4],
    missing_bytes: u64,
}

impl ReceiveState {
    /// Bytes held for a message that has not ended; for the engine's account of a connection's memory.
    pub fn held_bytes(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.bytes.capacity())
    }

    /// Whether a Close frame came, or the client broke the protocol. Input is then discarded.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the input ended between two messages, apart from what the decoder left unread.
    pub fn is_between_messages(&self) -> bool {
        self.message.is_none()
    }

    pub(super) fn end(&mut self) {
        *self = Self { message: None, is_over: true };
    }

    pub(super) fn is_inside_frame(&self) -> bool {
        self.message.as_ref().is_some_and(|message| message.frame.is_some())
    }

    /// Begins the payload of a data frame, which begins or continues a message. The header has been checked.
    pub(super) fn begin_frame(
        &mut self,
        header: &ReceivedHeader,
        message_bytes_max: usize,
    ) -> Result<(), ProtocolError> {
        let is_text = header.opcode == Opcode::Text;
        let message = self.message.get_or_insert_with(|| OpenMessage { is_text, bytes: Vec::new(), frame: None });
        if header.payload_bytes > message_bytes_max.saturating_sub(message.bytes.len()) as u64 {
            return Err(ProtocolError::MessageTooBig);
        }
        message.frame =
            Some(OpenFrame { is_final: header.is_final, key: header.key, missing_bytes: header.payload_bytes });
        Ok(())
    }

    /// Takes what belongs to the current frame from `input`. Returns the message if it ends here.
    pub(super) fn take_payload(
        &mut self,
        input: &mut &[u8],
        message_bytes_max: usize,
    ) -> Result<Option<(Opcode, Vec<u8>)>, ProtocolError> {
        let Some(message) = &mut self.message else { return Ok(None) };
        let Some(frame) = &mut message.frame else { return Ok(None) };
        let missing = usize::try_from(frame.missing_bytes).unwrap_or(usize::MAX);
        let count = missing.min(input.len());
        let (payload, rest) = input.split_at(count);
        *input = rest;
        let before = message.bytes.len();
        // The last fragment determines the length of the message. Others may be tiny, so the room must double.
        let most = if frame.is_final { before.saturating_add(missing) } else { message_bytes_max };
        make_room(&mut message.bytes, count, most);
        message.bytes.extend_from_slice(payload);
        mask::apply(&mut message.bytes[before..], frame.key);
        frame.key = mask::advance(frame.key, count);
        frame.missing_bytes -= count as u64;
        if frame.missing_bytes > 0 || !frame.is_final {
            if frame.missing_bytes == 0 {
                message.frame = None;
            }
            let is_good = !message.is_text || is_prefix_of_text(&message.bytes, before);
            return is_good.then_some(None).ok_or(ProtocolError::Utf8);
        }
        let opcode = if message.is_text { Opcode::Text } else { Opcode::Binary };
        Ok(self.message.take().map(|message| (opcode, message.bytes)))
    }
}

/// Makes room for `count` more bytes: at least twice as much as before, but no more than `most` if that is enough.
fn make_room(bytes: &mut Vec<u8>, count: usize, most: usize) {
    let wanted = bytes.len() + count;
    if wanted > bytes.capacity() {
        let capacity = bytes.capacity().saturating_mul(2).min(most).max(wanted);
        bytes.reserve_exact(capacity - bytes.len());
    }
}

/// Whether these bytes are UTF-8, except for a last character that may be incomplete, if that is true of the first
/// `checked`.
fn is_prefix_of_text(bytes: &[u8], checked: usize) -> bool {
    // An incomplete character is at most three bytes long, and begins with a byte that is not a continuation.
    let first = checked.saturating_sub(3);
    let is_start = |at: &usize| bytes[*at] & 0xc0 != 0x80;
    let start = (first..checked).rev().find(is_start).unwrap_or(checked);
    str::from_utf8(&bytes[start..]).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// Bytes as base64 in text formats, where a list of numbers would be three times as long.
mod packed {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return BASE64_STANDARD.encode(bytes).serialize(serializer);
        }
        bytes.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return BASE64_STANDARD.decode(text).map_err(D::Error::custom);
        }
        Vec::deserialize(deserializer)
    }
}
