//! From a client's bytes to messages.
//!
//! Invariant: neither the messages nor the first error depends on the pieces in which the input arrived.

use super::frame::{CONTROL_BYTES_MAX, FrameHeader, Opcode, ProtocolError, ReceivedHeader};
use super::mask;
use super::message::Message;
use super::state::ReceiveState;

/// Decodes what clients send. One serves all connections of a worker: each has its own [`ReceiveState`].
///
/// A message that is complete in the input is unmasked into the decoder's buffer, where the next one overwrites it.
/// Only a message that arrives in pieces uses memory of its connection, at most `message_bytes_max` bytes.
#[derive(Debug)]
pub struct Decoder {
    message_bytes_max: usize,
    /// Unmasked payload, and room after it that was needed before.
    buffer: Vec<u8>,
}

impl Decoder {
    /// A decoder that refuses messages of more bytes than this with [`ProtocolError::MessageTooBig`].
    pub fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, buffer: Vec::new() }
    }

    /// Takes the next message from `input`, which begins where the last call left it; `None` while more is needed.
    ///
    /// `input` then holds what was not taken: part of a frame's header or of a control frame, at most 130 bytes. Pass
    /// it again with more input after it. Everything after a Close frame or an error is taken and discarded.
    ///
    /// # Errors
    /// See [`ProtocolError`]: the server sends a Close frame with its code, and closes.
    pub fn decode(
        &mut self,
        state: &mut ReceiveState,
        input: &mut &[u8],
    ) -> Result<Option<Message<'_>>, ProtocolError> {
        let outcome = match self.next_payload(state, input) {
            Ok(None) => return Ok(None),
            Ok(Some((opcode, length))) => Message::parse(opcode, &self.buffer[..length]),
            Err(error) => Err(error),
        };
        if matches!(outcome, Err(_) | Ok(Message::Close(_))) {
            state.end();
            *input = &[];
        }
        outcome.map(Some)
    }

    /// Takes a message off `input` that lies there as one whole frame, and leaves it masked: so it can be unmasked once, straight
    /// to where it is wanted. `None` for everything else (a fragment, a control frame, an error, too little input), which is
    /// [`decode`](Self::decode)'s to take.
    ///
    /// ```
    /// # use baton_http::websocket::*;
    /// # fn echo(decoder: &mut Decoder, state: &mut ReceiveState, mut input: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    /// # let mut output = Vec::new();
    /// while let Some(message) = decoder.take_masked(state, &mut input) {
    ///     let start = output.len();
    ///     output.resize(start + message.frame_bytes(), 0);
    ///     message.encode_into(&mut output[start..])?;
    /// }
    /// # Ok(output)
    /// # }
    /// # let mut state = ReceiveState::default();
    /// # let output = echo(&mut Decoder::new(9), &mut state, &[0x82, 0x81, 1, 2, 3, 4, b'a' ^ 1]);
    /// # assert_eq!(output.unwrap(), b"\x82\x01a");
    /// ```
    #[inline]
    pub fn take_masked<'i>(&self, state: &ReceiveState, input: &mut &'i [u8]) -> Option<MaskedMessage<'i>> {
        if state.is_over() || !state.is_between_messages() {
            return None;
        }
        let header = ReceivedHeader::parse(input, false).ok()??;
        let is_message = header.is_final && !header.opcode.is_control();
        if !is_message || header.payload_bytes > self.message_bytes_max as u64 {
            return None;
        }
        let payload = take_frame(input, &header)?;
        Some(MaskedMessage { opcode: header.opcode, key: header.key, payload })
    }

    /// The message that a frame carries, in the decoder's buffer.
    ///
    /// # Errors
    /// [`ProtocolError::Utf8`] if it is a text and not UTF-8: discard the rest of the input.
    pub fn unmask(&mut self, message: &MaskedMessage<'_>) -> Result<Message<'_>, ProtocolError> {
        message.unmask(self.room(message.len()));
        Message::parse(message.opcode, &self.buffer[..message.len()])
    }

    /// See [`Decoder::new`].
    pub fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// Puts the next payload into the buffer, and returns its kind and length. Close frames and text are not checked
    /// yet.
    fn next_payload(
        &mut self,
        state: &mut ReceiveState,
        input: &mut &[u8],
    ) -> Result<Option<(Opcode, usize)>, ProtocolError> {
        loop {
            if state.is_over() {
                *input = &[];
                return Ok(None);
            }
            if state.is_inside_frame() {
                if let Some((opcode, message)) = state.take_payload(input, self.message_bytes_max)? {
                    self.buffer = message;
                    return Ok(Some((opcode, self.buffer.len())));
                }
                if state.is_inside_frame() {
                    return Ok(None);
                }
            }
            if let Some(message) = self.take_masked(state, input) {
                message.unmask(self.room(message.len()));
                return Ok(Some((message.opcode, message.len())));
            }
            let Some(header) = ReceivedHeader::parse(input, !state.is_between_messages())? else { return Ok(None) };
            if header.opcode.is_control() {
                let Some(payload) = take_frame(input, &header) else { return Ok(None) };
                mask::copy(self.room(payload.len()), payload, header.key);
                return Ok(Some((header.opcode, payload.len())));
            }
            state.begin_frame(&header, self.message_bytes_max)?;
            *input = &input[header.length..];
        }
    }

    /// The buffer's first `count` bytes.
    fn room(&mut self, count: usize) -> &mut [u8] {
        if self.buffer.len() < count {
            self.buffer.resize(count.max(CONTROL_BYTES_MAX), 0);
        }
        &mut self.buffer[..count]
    }
}

/// Takes a frame from `input` if it is complete, and returns its masked payload.
#[inline]
fn take_frame<'i>(input: &mut &'i [u8], header: &ReceivedHeader) -> Option<&'i [u8]> {
    let (payload, rest) = input[header.length..].split_at_checked(usize::try_from(header.payload_bytes).ok()?)?;
    *input = rest;
    Some(payload)
}

/// A message of one frame, as the client masked it.
#[derive(Clone, Copy, Debug)]
pub struct MaskedMessage<'i> {
    opcode: Opcode,
    key: [u8; 4],
    payload: &'i [u8],
}

impl MaskedMessage<'_> {
    /// Whether it is text; otherwise it is binary.
    pub fn is_text(&self) -> bool {
        self.opcode == Opcode::Text
    }

    /// Bytes of the message.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Bytes of the frame with which a server sends this message.
    pub fn frame_bytes(&self) -> usize {
        self.header().len() + self.len()
    }

    /// Writes the message to `output` as a frame, as a server sends it.
    ///
    /// # Errors
    /// [`ProtocolError::Utf8`] if it is a text and not UTF-8. `output` is then not to be sent, and the rest of the input is to
    /// be discarded.
    ///
    /// # Panics
    /// If `output` is not [`frame_bytes`](Self::frame_bytes) long.
    #[inline]
    pub fn encode_into(&self, output: &mut [u8]) -> Result<(), ProtocolError> {
        let header = self.header();
        let (start, payload) = output.split_at_mut(header.len());
        start.copy_from_slice(&header);
        self.unmask(payload);
        let is_good = !self.is_text() || str::from_utf8(payload).is_ok();
        is_good.then_some(()).ok_or(ProtocolError::Utf8)
    }

    fn header(&self) -> FrameHeader {
        FrameHeader::new(self.opcode, true, self.len())
    }

    fn unmask(&self, output: &mut [u8]) {
        assert_eq!(output.len(), self.payload.len(), "the room is as long as the message");
        mask::copy(output, self.payload, self.key);
    }
}

#[cfg(test)]
mod tests;
