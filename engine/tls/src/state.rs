//! Sessions as bytes, for the process that continues them.

use std::fmt;

use aws_lc_rs::digest;
use rustls::CipherSuite;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use zeroize::Zeroizing;

use crate::record::{Begun, Direction, KEY_UPDATE_START, Limits, Refusing, Session, Source, Tickets};
use crate::schedule::{KEY_BYTES_MAX, NONCE_BYTES, SECRET_BYTES_MAX, Secret, Suite, TrafficKey};
use crate::settings::Version as TlsVersion;

/// Version of the state of a TLS 1.3 session. [`thaw`] reads this and [`VERSION_OF_TLS12`].
pub const VERSION: u8 = 1;

/// Version of the state of a TLS 1.2 session. A binary that does not read it refuses the connection, which then stays and drains.
pub const VERSION_OF_TLS12: u8 = 2;

/// Version of the state of a client's session. Binaries without clients refuse it.
pub const VERSION_OF_CLIENT: u8 = 3;

/// The most bytes of a state.
pub const STATE_BYTES_MAX: usize = 4 + 1 + 2 + 1 + 1 + (1 + 4) + 2 * (8 + SECRET_BYTES_MAX) + 2 * (1 + 255) + 33;

const _: () =
    assert!(KEY_BYTES_MAX + NONCE_BYTES < SECRET_BYTES_MAX, "and two bytes more: TLS 1.2 has the smaller state");

/// The type of a ClientHello, which is its first byte.
const CLIENT_HELLO: u8 = 1;

/// What the handshake has negotiated besides keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// The version of TLS.
    pub version: TlsVersion,
    /// The application's protocol (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
    /// The host that the client wanted (RFC 6066 section 3), as chosen for its certificate if there are several. On the
    /// client's side the name, or the address, for which the server's certificate was verified.
    pub server_name: Option<Box<str>>,
    /// The session was resumed with an earlier connection's ticket.
    pub is_resumed: bool,
    /// The certificate that the client has shown, if any. On the client's side the server's.
    pub peer_certificate: Option<PeerCertificate>,
}

/// The peer's certificate, which the handshake has checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerCertificate {
    /// SHA-256 of the certificate's DER.
    pub sha256: [u8; 32],
    /// Number of certificates that the peer has sent, including its own; 255 also stands for more.
    pub chain_length: u8,
}

impl PeerCertificate {
    /// From a chain, which begins with the peer's own certificate; `None` if it is empty.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        chain.first().map(|certificate| Self {
            sha256: digest::digest(&digest::SHA256, certificate).as_ref().try_into().expect("32 bytes"),
            chain_length: u8::try_from(chain.len()).unwrap_or(u8::MAX),
        })
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sha256.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        write!(formatter, " of {}", self.chain_length)
    }
}

/// Why bytes are not a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThawError {
    /// A version that this crate does not read.
    #[error("this program does not know version {0} of the TLS state")]
    Version(u8),
    /// A state that [`freeze`] cannot have written.
    #[error("the TLS state is malformed")]
    Malformed,
}

/// Bits of the byte of flags.
mod flag {
    pub(super) const OWES_ANSWER: u8 = 1;
    pub(super) const PEER_CLOSED: u8 = 1 << 1;
    pub(super) const CLOSED: u8 = 1 << 2;
    pub(super) const RESUMED: u8 = 1 << 3;
    pub(super) const PEER_CERTIFICATE: u8 = 1 << 4;
    pub(super) const ALL: u8 = (1 << 5) - 1;
    /// Only with TLS 1.2.
    pub(super) const HAS_REFUSED: u8 = 1 << 5;
}

/// Writes a session:
///
/// 1. a version and flags (one byte each), the suite (two bytes, big endian as in TLS), idle records (one byte);
/// 2. the begun handshake message after its length; with TLS 1.2 the bytes of a ClientHello that are still to be skipped
///    (two, little endian); on the client's side the missing bytes of a ticket (four, little endian);
/// 3. for each direction, the peer's first, the sequence number (eight bytes, little endian) and the secret, or with TLS
///    1.2 the key and the IV (twelve bytes);
/// 4. ALPN and SNI, each after its length (one byte, zero for none), and the certificate's digest and chain length, if
///    there is one.
///
/// The caller keeps records that are not opened and plaintext that is not taken.
///
/// With the state one can read and continue the connection, so only give it to processes of the same user. `None` if the
/// session has failed and cannot continue.
pub fn freeze(session: &Session, negotiated: &Negotiated) -> Option<Zeroizing<Vec<u8>>> {
    if session.failure().is_some() {
        return None;
    }
    let Negotiated { version: _, alpn, server_name, is_resumed, peer_certificate } = negotiated;
    let is_tls12 = session.suite().version() == TlsVersion::Tls12;
    let flags = [
        (session.owes_answer, flag::OWES_ANSWER),
        (session.peer_closed, flag::PEER_CLOSED),
        (session.closed, flag::CLOSED),
        (*is_resumed, flag::RESUMED),
        (peer_certificate.is_some(), flag::PEER_CERTIFICATE),
        (session.refusing.has_refused, flag::HAS_REFUSED),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit);
    // It never grows, so that no copy of a part stays behind.
    let mut state = Zeroizing::new(Vec::with_capacity(STATE_BYTES_MAX));
    let version = match session.is_client() {
        true => VERSION_OF_CLIENT,
        false if is_tls12 => VERSION_OF_TLS12,
        false => VERSION,
    };
    state.extend_from_slice(&[version, flags]);
    state.extend_from_slice(&u16::from(session.suite().id()).to_be_bytes());
    state.extend_from_slice(&[session.idle_records, session.begun.length]);
    state.extend_from_slice(session.begun.bytes());
    if is_tls12 {
        state.extend_from_slice(&session.refusing.hello_bytes.to_le_bytes());
    }
    if let Some(tickets) = &session.tickets {
        state.extend_from_slice(&tickets.rest_bytes.to_le_bytes());
    }
    for direction in [&session.opening, &session.sealing] {
        state.extend_from_slice(&direction.sequence().to_le_bytes());
        match direction.source() {
            Source::Secret(secret) => state.extend_from_slice(secret.bytes()),
            Source::Key(traffic_key) => {
                state.extend_from_slice(traffic_key.key());
                state.extend_from_slice(traffic_key.iv());
            }
        }
    }
    for name in [alpn.as_deref(), server_name.as_deref().map(str::as_bytes)] {
        let name = name.unwrap_or_default();
        state.push(u8::try_from(name.len()).ok()?);
        state.extend_from_slice(name);
    }
    if let Some(PeerCertificate { sha256, chain_length }) = peer_certificate {
        state.extend_from_slice(sha256);
        state.push(*chain_length);
    }
    debug_assert!(state.len() <= STATE_BYTES_MAX, "{} bytes", state.len());
    Some(state)
}

/// Reads what [`freeze`] has written, perhaps in another process.
///
/// # Errors
/// See [`ThawError`]. No bytes make it panic.
pub fn thaw(state: &[u8], limits: Limits) -> Result<(Session, Negotiated), ThawError> {
    let (&version, state) = state.split_first().ok_or(ThawError::Malformed)?;
    let (version, is_client) = match version {
        VERSION => (TlsVersion::Tls13, false),
        VERSION_OF_TLS12 => (TlsVersion::Tls12, false),
        VERSION_OF_CLIENT => (TlsVersion::Tls13, true),
        other => return Err(ThawError::Version(other)),
    };
    read(version, is_client, &mut Reader(state), limits).ok_or(ThawError::Malformed)
}

fn read(version: TlsVersion, is_client: bool, state: &mut Reader<'_>, limits: Limits) -> Option<(Session, Negotiated)> {
    let is_tls12 = version == TlsVersion::Tls12;
    let flags = state.byte()?;
    let suite = Suite::of(CipherSuite::from(u16::from_be_bytes(*state.array()?)))?;
    let idle_records = state.byte()?;
    let start = state.counted()?;
    let hello_bytes = if is_tls12 { u16::from_le_bytes(*state.array()?) } else { 0 };
    let rest_bytes = if is_client { u32::from_le_bytes(*state.array()?) } else { 0 };
    let begun = if is_client { Begun::of_server(start, rest_bytes) } else { Begun::of(version, start) }?;
    if suite.version() != version {
        return None;
    }
    let (opening, sealing) = (state.direction(suite)?, state.direction(suite)?);
    let (alpn, server_name) = (state.counted()?, state.counted()?);
    let is_set = |bit| flags & bit != 0;
    let peer_certificate = if is_set(flag::PEER_CERTIFICATE) {
        Some(PeerCertificate { sha256: *state.array()?, chain_length: state.byte().filter(|length| *length > 0)? })
    } else {
        None
    };
    let server_name = std::str::from_utf8(server_name).ok()?;
    let is_name = match is_client {
        true => ServerName::try_from(server_name).is_ok(),
        false => server_name.is_empty() || DnsName::try_from(server_name).is_ok(),
    };
    let known_flags = if is_tls12 { flag::ALL | flag::HAS_REFUSED } else { flag::ALL };
    let owes_nobody = is_set(flag::OWES_ANSWER) && is_set(flag::CLOSED);
    let owes_without_reason = is_tls12 && is_set(flag::OWES_ANSWER) && !is_set(flag::HAS_REFUSED);
    let is_cut_short = is_set(flag::PEER_CLOSED) && (begun.length > 0 || hello_bytes > 0);
    let is_cut_twice = begun.length > 0 && hello_bytes > 0;
    let is_second = is_tls12 && is_set(flag::HAS_REFUSED) && (begun.length > 0 || hello_bytes > 0);
    let makes_sense = !(owes_nobody || owes_without_reason || is_cut_short || is_cut_twice || is_second);
    if !state.0.is_empty() || flags & !known_flags != 0 || !is_name || !makes_sense {
        return None;
    }
    let mut session = Session::at(opening, sealing, limits);
    session.tickets = is_client.then(|| Box::new(Tickets::passing_over(rest_bytes)));
    session.begun = begun;
    session.idle_records = idle_records;
    session.owes_answer = is_set(flag::OWES_ANSWER);
    session.refusing = Refusing { hello_bytes, has_refused: is_set(flag::HAS_REFUSED) };
    session.peer_closed = is_set(flag::PEER_CLOSED);
    session.closed = is_set(flag::CLOSED);
    let negotiated = Negotiated {
        version,
        alpn: (!alpn.is_empty()).then(|| alpn.into()),
        server_name: (!server_name.is_empty()).then(|| server_name.into()),
        is_resumed: is_set(flag::RESUMED),
        peer_certificate,
    };
    Some((session, negotiated))
}

impl Begun {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// `None` if no KeyUpdate, or with TLS 1.2 no ClientHello, begins like that, or if it is so far that more than this
    /// is known.
    pub(crate) fn of(version: TlsVersion, start: &[u8]) -> Option<Self> {
        let is_beginning = match version {
            TlsVersion::Tls13 => KEY_UPDATE_START.starts_with(start),
            TlsVersion::Tls12 => start.len() < 4 && start.first().is_none_or(|first| *first == CLIENT_HELLO),
        };
        is_beginning.then(|| {
            let mut begun = Self::default();
            begun.bytes[..start.len()].copy_from_slice(start);
            begun.length = start.len() as u8;
            begun
        })
    }
}

/// The unread rest of a state.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| *byte)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(part)
    }

    /// Bytes after their number.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    fn direction(&mut self, suite: Suite) -> Option<Direction> {
        let sequence = u64::from_le_bytes(*self.array()?);
        let source = match suite.version() {
            TlsVersion::Tls13 => Source::Secret(Secret::new(suite, self.take(suite.secret_bytes())?)?),
            TlsVersion::Tls12 => {
                let key = self.take(suite.key_bytes())?;
                Source::Key(TrafficKey::new(suite, key, self.array()?)?)
            }
        };
        (sequence <= Direction::SEQUENCE_MAX).then(|| Direction::of(source, sequence))
    }
}

#[cfg(test)]
mod tests;
