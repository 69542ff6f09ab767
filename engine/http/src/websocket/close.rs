//! Why a WebSocket connection is closed (RFC 6455 section 7.4).

use std::fmt;

use super::frame::{CONTROL_BYTES_MAX, ProtocolError};

/// A status code that may stand in a Close frame: 1000 to 1003, 1007 to 1014 (the registry of RFC 6455 section 11.7), and
/// 3000 to 4999 for libraries and applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server goes down, or the browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: this endpoint does not take this type of data.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: a text or a reason is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: a message violates a policy.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message is larger than this endpoint takes.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1011: the server met something that it did not expect.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the service restarts.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: the server is overloaded; try again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// `None` if this code must not be in a frame.
    pub fn new(code: u16) -> Option<Self> {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then_some(Self(code))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The content of a Close frame that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// The reason as a code.
    pub code: CloseCode,
    /// A text for debugging, at most 123 bytes; a longer one is cut at a character when it is sent.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<Option<Self>, ProtocolError> {
        if payload.is_empty() {
            return Ok(None);
        }
        let (code, reason) = payload.split_first_chunk().ok_or(ProtocolError::CloseCode)?;
        let code = CloseCode::new(u16::from_be_bytes(*code)).ok_or(ProtocolError::CloseCode)?;
        let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::Utf8)?;
        Ok(Some(Self { code, reason }))
    }

    /// As much of the reason as fits into a frame.
    pub(super) fn sent_reason(&self) -> &'a str {
        &self.reason[..self.reason.floor_char_boundary(CONTROL_BYTES_MAX - size_of::<u16>())]
    }
}
