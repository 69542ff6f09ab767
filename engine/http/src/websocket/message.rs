//! The messages and control frames of both sides, from payloads and to frames.

use super::close::CloseFrame;
use super::frame::{CONTROL_BYTES_MAX, FrameHeader, Opcode, ProtocolError};

/// A complete message, or a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A message of text.
    Text(&'a str),
    /// A message of bytes.
    Binary(&'a [u8]),
    /// Answer it with a [`Pong`](Self::Pong) of the same payload. At most 125 bytes; a longer payload is cut when it is
    /// sent.
    Ping(&'a [u8]),
    /// The answer to a [`Ping`](Self::Ping), or an unrequested sign of life.
    Pong(&'a [u8]),
    /// Answer it with a `Close` of the same code. Nothing else follows in its direction.
    Close(Option<CloseFrame<'a>>),
}

impl<'a> Message<'a> {
    /// The message of a complete payload.
    pub(super) fn parse(opcode: Opcode, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        Ok(match opcode {
            Opcode::Text => Self::Text(std::str::from_utf8(payload).map_err(|_| ProtocolError::Utf8)?),
            // A message is parsed as the type with which it began.
            Opcode::Binary | Opcode::Continuation => Self::Binary(payload),
            Opcode::Ping => Self::Ping(payload),
            Opcode::Pong => Self::Pong(payload),
            Opcode::Close => Self::Close(CloseFrame::parse(payload)?),
        })
    }

    /// Bytes of the frame that carries this message.
    #[inline]
    pub fn frame_bytes(&self) -> usize {
        let (prefix, payload) = self.parts();
        prefix.len() + payload.len()
    }

    /// Appends this to `output` as one frame, as a server sends it.
    #[inline]
    pub fn encode(&self, output: &mut Vec<u8>) {
        let (prefix, payload) = self.parts();
        output.reserve(prefix.len() + payload.len());
        output.extend_from_slice(&prefix);
        output.extend_from_slice(payload);
    }

    /// Writes this to `output` as one frame, as a server sends it.
    ///
    /// # Panics
    /// If `output` is not [`frame_bytes`](Self::frame_bytes) long.
    #[inline]
    pub fn encode_into(&self, output: &mut [u8]) {
        let (prefix, payload) = self.parts();
        let (start, rest) = output.split_at_mut(prefix.len());
        start.copy_from_slice(&prefix);
        rest.copy_from_slice(payload);
    }

    /// The parts of the frame: what precedes the text of its payload, and that text.
    #[inline]
    fn parts(&self) -> (FrameHeader, &'a [u8]) {
        let control = |payload: &'a [u8]| &payload[..payload.len().min(CONTROL_BYTES_MAX)];
        let (opcode, payload) = match *self {
            Self::Text(text) => (Opcode::Text, text.as_bytes()),
            Self::Binary(bytes) => (Opcode::Binary, bytes),
            Self::Ping(payload) => (Opcode::Ping, control(payload)),
            Self::Pong(payload) => (Opcode::Pong, control(payload)),
            Self::Close(None) => (Opcode::Close, &[][..]),
            Self::Close(Some(frame)) => {
                let reason = frame.sent_reason().as_bytes();
                return (FrameHeader::of_close(frame.code, reason.len()), reason);
            }
        };
        (FrameHeader::new(opcode, true, payload.len()), payload)
    }
}

#[cfg(test)]
mod tests {
    use super::super::close::CloseCode;
    use super::*;

    fn encoded(message: Message<'_>) -> Vec<u8> {
        let mut appended = b"before".to_vec();
        message.encode(&mut appended);
        let mut written = vec![0; message.frame_bytes()];
        message.encode_into(&mut written);
        assert_eq!(appended[6..], written);
        written
    }

    #[test]
    fn lengths_take_the_fewest_bytes() {
        for (count, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 255, 255]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = encoded(Message::Binary(&vec![b'x'; count]));
            assert_eq!((&frame[..expected.len()], frame.len()), (expected, expected.len() + count));
        }
    }

    #[test]
    fn each_kind_has_its_opcode() {
        assert_eq!(encoded(Message::Text("é")), b"\x81\x02\xc3\xa9");
        assert_eq!(encoded(Message::Ping(b"a")), b"\x89\x01a");
        assert_eq!(encoded(Message::Pong(b"")), b"\x8a\x00");
        assert_eq!(encoded(Message::Close(None)), b"\x88\x00");
        let frame = CloseFrame { code: CloseCode::GOING_AWAY, reason: "bye" };
        assert_eq!(encoded(Message::Close(Some(frame))), b"\x88\x05\x03\xe9bye");
        assert_eq!(*FrameHeader::new(Opcode::Text, false, 3), [1, 3]);
        assert_eq!(*FrameHeader::new(Opcode::Continuation, true, 3), [0x80, 3]);
    }

    #[test]
    fn control_frames_never_exceed_their_bound() {
        assert_eq!(encoded(Message::Ping(&[7; 200])).len(), 2 + CONTROL_BYTES_MAX);
        for before in 0..4 {
            let reason = "x".repeat(before) + &"€".repeat(60);
            let frame = encoded(Message::Close(Some(CloseFrame { code: CloseCode::NORMAL, reason: &reason })));
            assert!(frame.len() <= 2 + CONTROL_BYTES_MAX && usize::from(frame[1]) == frame.len() - 2);
            let sent = std::str::from_utf8(&frame[4..]).expect("cut at a character");
            assert!(reason.starts_with(sent) && sent.len() > 120);
        }
    }
}
