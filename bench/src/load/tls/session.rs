//! One connection's TLS: records in, their plaintext out; and the other way round. Pure.

use std::fmt;
use std::mem;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, HandshakeKind, ProtocolVersion};

use super::plan::{TlsPlan, group_name, suite_name};
use crate::load::output::Output;

/// The most plaintext of one record (RFC 8446, section 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;

/// Beyond its plaintext a record has its header and what the cipher adds; in 1.2 also a nonce.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Sessions that are kept for resumption, per connection at a time: a full handshake of OpenSSL brings two.
const SESSIONS_PER_CONNECTION: usize = 4;

/// Makes the sessions of one thread, which resume each other's.
pub(crate) struct Sessions {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    /// Memory that sessions share while they receive.
    spare: Vec<u8>,
}

/// See the module's head.
pub(crate) struct Session {
    connection: UnbufferedClientConnection,
    /// The received part of a record or handshake message that is incomplete.
    incoming: Vec<u8>,
    is_open: bool,
    is_ended: bool,
    has_closed: bool,
    /// After a failure rustls must not get input again: it may send a second alert, or look for input that is gone.
    has_failed: bool,
}

/// What client and server have agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) is_resumed: bool,
    /// Version, cipher suite, group of key exchange, and ALPN's protocol, for people.
    pub(crate) on: String,
}

/// Why a session has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsProblem {
    /// The server has sent an alert of this name (RFC 8446, section 6).
    Alert(String),
    /// The client rejects what the server has sent.
    Refused(String),
}

impl Sessions {
    /// For a load that has this many connections at a time.
    ///
    /// # Errors
    /// If rustls does not support the plan.
    pub(crate) fn new(plan: &TlsPlan, connections: usize) -> Result<Self, String> {
        let config = plan.config(connections.saturating_mul(SESSIONS_PER_CONNECTION).max(SESSIONS_PER_CONNECTION))?;
        Ok(Self { config: Arc::new(config), server_name: plan.server_name.clone(), spare: Vec::new() })
    }

    /// Begins a session: writes its first message.
    ///
    /// # Errors
    /// If rustls cannot begin.
    pub(crate) fn begin(&self, output: &mut impl Output) -> Result<Session, TlsProblem> {
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.config), self.server_name.clone());
        let connection = connection.map_err(|error| problem(&error))?;
        let mut session = Session {
            connection,
            incoming: Vec::new(),
            is_open: false,
            is_ended: false,
            has_closed: false,
            has_failed: false,
        };
        session.advance(&mut [], &mut Vec::new(), output).1?;
        Ok(session)
    }

    /// Takes input from the server: appends its plaintext to `plain`, and what must be sent in response to `output`.
    ///
    /// # Errors
    /// If the session has failed. The contents of `output` must still be sent.
    pub(crate) fn receive(
        &mut self,
        session: &mut Session,
        input: &[u8],
        plain: &mut Vec<u8>,
        output: &mut impl Output,
    ) -> Result<(), TlsProblem> {
        if session.has_failed {
            return Ok(());
        }
        let mut buffer = mem::take(&mut session.incoming);
        if buffer.is_empty() {
            buffer = mem::take(&mut self.spare);
        }
        buffer.extend_from_slice(input);
        let (consumed, result) = session.advance(&mut buffer, plain, output);
        buffer.drain(..consumed);
        if buffer.is_empty() {
            self.spare = buffer;
        } else {
            session.incoming = buffer;
        }
        result
    }
}

impl Session {
    /// The handshake is done.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The server has sent its close_notify.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Whether part of a record has arrived, and the rest has not.
    pub(crate) fn is_within(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// What was agreed on, once the session is open.
    pub(crate) fn agreed(&self) -> Agreed {
        let connection = &self.connection;
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        };
        let suite = connection.negotiated_cipher_suite().map(|suite| suite_name(suite.suite()));
        let group = connection.negotiated_key_exchange_group().map(group_name);
        let alpn = connection.alpn_protocol().map(|name| name.escape_ascii().to_string());
        let parts = [Some(version.to_owned()), suite, group, alpn];
        Agreed {
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            on: parts.into_iter().flatten().collect::<Vec<_>>().join(", "),
        }
    }

    /// Encrypts plaintext to send.
    ///
    /// # Errors
    /// If the session is not open, or may encrypt no more.
    pub(crate) fn send(&mut self, plain: &[u8], output: &mut impl Output) -> Result<(), TlsProblem> {
        if self.has_failed {
            return Err(TlsProblem::Refused("the session has failed".to_owned()));
        }
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut self.incoming);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
            return Err(TlsProblem::Refused("the session is not open".to_owned()));
        };
        for part in plain.chunks(RECORD_BYTES_MAX) {
            encrypt(part.len() + RECORD_OVERHEAD_BYTES, output, |memory| traffic.encrypt(part, memory))?;
        }
        Ok(())
    }

    /// Tells the server once that nothing more will be sent.
    pub(crate) fn close(&mut self, output: &mut impl Output) {
        if mem::replace(&mut self.has_closed, true) || self.has_failed {
            return;
        }
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut self.incoming);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            // A session that can encrypt no more ends without it.
            let _ = encrypt(RECORD_OVERHEAD_BYTES, output, |memory| traffic.queue_close_notify(memory));
        }
    }

    /// Advances as far as `incoming` allows, and returns how much of it is consumed.
    fn advance(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        output: &mut impl Output,
    ) -> (usize, Result<(), TlsProblem>) {
        let mut consumed = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut incoming[consumed..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    // Records that cannot be decrypted were reported as an error before.
                    while let Some(Ok(record)) = traffic.next_record() {
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(output, |memory| data.encode(memory)),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_ended = true,
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.is_open = true;
                    return (consumed + discard, Ok(()));
                }
                Ok(_) => return (consumed + discard, Ok(())),
                Err(error) => {
                    self.has_failed = true;
                    self.write_alert(output);
                    return (consumed + discard, Err(problem(&error)));
                }
            }
            consumed += discard;
        }
    }

    /// Writes the alert that is still to be sent after the session has failed.
    fn write_alert(&mut self, output: &mut impl Output) {
        while self.connection.wants_write() {
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            encode(output, |memory| data.encode(memory));
        }
    }
}

/// Writes what rustls encodes. If the first guess of the size is too small, rustls reports the right one.
fn encode(output: &mut impl Output, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let mut required = None;
    output.fill(0, |memory| match encode(memory) {
        Ok(count) => count,
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            required = Some(required_size);
            0
        }
        Err(EncodeError::AlreadyEncoded) => 0,
    });
    if let Some(bytes) = required {
        output.fill(bytes, |memory| encode(memory).unwrap_or(0));
    }
}

fn encrypt(
    room_bytes: usize,
    output: &mut impl Output,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), TlsProblem> {
    let mut room_bytes = room_bytes;
    loop {
        let mut result = Ok(0);
        output.fill(room_bytes, |memory| {
            result = encrypt(memory);
            *result.as_ref().unwrap_or(&0)
        });
        match result {
            Ok(_) => return Ok(()),
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room_bytes =>
            {
                room_bytes = required_size;
            }
            Err(error) => return Err(TlsProblem::Refused(error.to_string())),
        }
    }
}

fn problem(error: &Error) -> TlsProblem {
    let told = match error {
        Error::AlertReceived(alert) => return TlsProblem::Alert(alert_name(*alert)),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the server's certificate is signed by none of those that are trusted".to_owned()
        }
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            "a signature of the server, or in its certificate, is not by the right key".to_owned()
        }
        Error::InvalidCertificate(error) => format!("the server's certificate: {error}"),
        error => error.to_string(),
    };
    TlsProblem::Refused(told)
}

/// The name of an alert in RFC 8446.
fn alert_name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnrecognisedName => return "unrecognized_name".to_owned(),
        AlertDescription::UnknownCA => return "unknown_ca".to_owned(),
        AlertDescription::UnknownPSKIdentity => return "unknown_psk_identity".to_owned(),
        AlertDescription::EncryptedClientHelloRequired => return "ech_required".to_owned(),
        _ => {}
    }
    let Some(name) = alert.as_str() else { return format!("{} (unknown)", u8::from(alert)) };
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert(name) => write!(formatter, "the server sent the alert {name}"),
            Self::Refused(problem) => formatter.write_str(problem),
        }
    }
}
#[cfg(test)]
mod tests;
