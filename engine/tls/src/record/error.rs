//! Errors that end a session, and the alerts for them.

use rustls::AlertDescription;

/// Why records of the peer cannot be opened any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A record that is not encrypted, or of an unknown type: so too a `change_cipher_spec` after the handshake.
    #[error("a record of type {0} after the handshake")]
    RecordType(u8),
    /// Another `legacy_record_version` than 0x0303.
    #[error("a record of version {0:#06x}")]
    Version(u16),
    /// A record that is longer than it may be, encrypted or opened.
    #[error("a record longer than allowed")]
    RecordOverflow,
    /// A record that was altered, or sealed with another key or sequence number.
    #[error("a record that does not authenticate")]
    BadRecordMac,
    /// A record that is nothing but padding.
    #[error("a record without a content type")]
    NoContentType,
    /// A content type that must not be sent after the handshake.
    #[error("content of type {0} after the handshake")]
    ContentType(u8),
    /// An alert or a handshake message of no bytes.
    #[error("an empty record of content type {0}")]
    EmptyContent(u8),
    /// Another content type where the rest of a handshake message must come.
    #[error("another record inside of a handshake message")]
    Interleaved,
    /// A handshake message that the peer may not send after the handshake.
    #[error("a handshake message of type {0} after the handshake")]
    HandshakeType(u8),
    /// A KeyUpdate that does not end its record (RFC 8446 section 5.1).
    #[error("a KeyUpdate that is not the end of its record")]
    KeyUpdateNotAtEnd,
    /// A KeyUpdate that does not have one byte.
    #[error("a KeyUpdate of another length")]
    KeyUpdateLength,
    /// A KeyUpdate whose request is neither 0 nor 1.
    #[error("a KeyUpdate with the request {0}")]
    KeyUpdateRequest(u8),
    /// A ClientHello of TLS 1.2, for another handshake, of an implausible length: empty, or more than 64 KiB.
    #[error("a ClientHello of {0} bytes after the handshake")]
    HelloLength(u32),
    /// The peer requests another handshake, although one was refused (RFC 5246 section 7.2.2).
    #[error("the peer asks for another handshake again")]
    Renegotiation,
    /// A session ticket of an impossible length, or with invalid contents.
    #[error("a session ticket that makes no sense")]
    Ticket,
    /// An alert that does not have two bytes.
    #[error("an alert of another length")]
    AlertLength,
    /// An alert that is neither a warning nor fatal.
    #[error("an alert of level {0}")]
    AlertLevel(u8),
    /// More records in a row without application data than [`Limits::idle_records_max`](super::Limits::idle_records_max).
    #[error("too many records in a row without application data")]
    IdleRecords,
    /// The key of TLS 1.2 has sealed as many records as it may, and there was more to send: the peer has not received
    /// all of it.
    #[error("the key has sealed as many records as it may")]
    KeySpent,
    /// The peer has ended the connection because of an error.
    #[error("the peer sent the alert {0:?}")]
    AlertReceived(AlertDescription),
}

impl Error {
    /// The alert to send before the connection is closed; `None` if the peer has reported why it ends.
    pub fn alert(self) -> Option<AlertDescription> {
        Some(match self {
            Self::RecordType(_)
            | Self::NoContentType
            | Self::ContentType(_)
            | Self::EmptyContent(_)
            | Self::Interleaved
            | Self::HandshakeType(_)
            | Self::KeyUpdateNotAtEnd
            | Self::IdleRecords => AlertDescription::UnexpectedMessage,
            Self::Version(_) | Self::KeyUpdateLength | Self::HelloLength(_) | Self::Ticket | Self::AlertLength => {
                AlertDescription::DecodeError
            }
            // `no_renegotiation` is always a warning.
            Self::Renegotiation => AlertDescription::HandshakeFailure,
            Self::KeySpent => AlertDescription::InternalError,
            Self::RecordOverflow => AlertDescription::RecordOverflow,
            Self::BadRecordMac => AlertDescription::BadRecordMac,
            Self::KeyUpdateRequest(_) | Self::AlertLevel(_) => AlertDescription::IllegalParameter,
            Self::AlertReceived(_) => return None,
        })
    }
}

/// Why something cannot be sealed: mistakes of the caller, which change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// `close_notify` or another alert was sealed.
    #[error("nothing can follow the last alert")]
    Closed,
    /// [`Session::next_control`](super::Session::next_control) has something that must be sent first.
    #[error("a KeyUpdate must go first")]
    UpdateFirst,
    /// TLS 1.2 has no KeyUpdate and no padding, and a layout in place that differs from the constants.
    #[error("TLS 1.2 does not have it")]
    OfTls13,
    /// The key of TLS 1.2 has sealed as many records as it may; [`Error::KeySpent`] ends the session.
    #[error("the key has sealed as many records as it may")]
    KeySpent,
    /// No room for a header and a trailer, or more plaintext than
    /// [`Limits::plaintext_bytes_max`](super::Limits::plaintext_bytes_max).
    #[error("the record is shorter or longer than a record can be")]
    Length,
}
