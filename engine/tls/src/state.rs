//! Sessions as bytes, for the process that goes on with them.

use std::fmt;

use aws_lc_rs::digest;
use rustls::CipherSuite;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use zeroize::Zeroizing;

use crate::record::{Begun, Direction, KEY_UPDATE_START, Limits, Session, Tickets};
use crate::schedule::{SECRET_BYTES_MAX, Secret, Suite};

/// What [`freeze`] writes. [`thaw`] reads it and nothing else so far.
pub const VERSION: u8 = 1;

/// What [`freeze`] writes of a client's session, which binaries that know no clients refuse.
pub const VERSION_OF_CLIENT: u8 = 3;

/// Bytes of a state at most.
pub const STATE_BYTES_MAX: usize = 4 + 1 + 2 + 1 + 1 + (1 + 4) + 2 * (8 + SECRET_BYTES_MAX) + 2 * (1 + 255) + 33;

/// What the handshake has settled beside keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// The application's protocol (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
    /// The host that the client wanted (RFC 6066 section 3): of its certificate, where there are several. On the client's side the name, or
    /// the address, that the server's certificate was verified for.
    pub server_name: Option<Box<str>>,
    /// Keys came from an earlier connection's ticket.
    pub is_resumed: bool,
    /// Whose certificate the client has shown, if it has. On the client's side the server's.
    pub peer_certificate: Option<PeerCertificate>,
}

/// The peer's certificate, which the handshake has checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerCertificate {
    /// SHA-256 of the certificate's DER.
    pub sha256: [u8; 32],
    /// Certificates that the peer has sent, its own included; 255 stands for more, too.
    pub chain_length: u8,
}

impl PeerCertificate {
    /// Of a chain, which begins with the peer's own; `None` where there is none.
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

/// Why bytes are no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThawError {
    /// A version that this crate does not read.
    #[error("version {0} of the TLS state is not known")]
    Version(u8),
    /// A state that [`freeze`] cannot have written.
    #[error("the TLS state makes no sense")]
    Malformed,
}

/// Bits of the byte of flags.
mod flag {
    pub(super) const OWES_UPDATE: u8 = 1;
    pub(super) const PEER_CLOSED: u8 = 1 << 1;
    pub(super) const CLOSED: u8 = 1 << 2;
    pub(super) const RESUMED: u8 = 1 << 3;
    pub(super) const PEER_CERTIFICATE: u8 = 1 << 4;
    pub(super) const ALL: u8 = (1 << 5) - 1;
}

/// Writes a session: a version and flags (one byte each), the suite (two bytes, big endian as in TLS), idle records (one byte), the
/// begun handshake message behind its length, on the client's side the bytes that are missing of a ticket (four, little endian), for each direction, the peer's first, the sequence number (eight bytes, little
/// endian) and the secret, then ALPN and SNI, each behind its length (one byte, zero for none), and the certificate's digest and
/// chain length, where there is one. Records that are not opened and plaintext that is not taken are the caller's.
///
/// Whoever reads it can read and go on with the connection: it must go to processes of the same user only. `None` where the session
/// has failed: then there is nothing to go on with.
pub fn freeze(session: &Session, negotiated: &Negotiated) -> Option<Zeroizing<Vec<u8>>> {
    if session.failure().is_some() {
        return None;
    }
    let Negotiated { alpn, server_name, is_resumed, peer_certificate } = negotiated;
    let flags = [
        (session.owes_update, flag::OWES_UPDATE),
        (session.peer_closed, flag::PEER_CLOSED),
        (session.closed, flag::CLOSED),
        (*is_resumed, flag::RESUMED),
        (peer_certificate.is_some(), flag::PEER_CERTIFICATE),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit);
    // It never grows, so that no part of it stays behind.
    let mut state = Zeroizing::new(Vec::with_capacity(STATE_BYTES_MAX));
    state.extend_from_slice(&[if session.is_client() { VERSION_OF_CLIENT } else { VERSION }, flags]);
    state.extend_from_slice(&u16::from(session.suite().id()).to_be_bytes());
    state.extend_from_slice(&[session.idle_records, session.begun.length]);
    state.extend_from_slice(session.begun.bytes());
    if let Some(tickets) = &session.tickets {
        state.extend_from_slice(&tickets.rest_bytes.to_le_bytes());
    }
    for direction in [&session.opening, &session.sealing] {
        state.extend_from_slice(&direction.sequence().to_le_bytes());
        state.extend_from_slice(direction.secret().bytes());
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
    match state.first() {
        Some(&version @ (VERSION | VERSION_OF_CLIENT)) => {
            read(version == VERSION_OF_CLIENT, &mut Reader(&state[1..]), limits).ok_or(ThawError::Malformed)
        }
        Some(&version) => Err(ThawError::Version(version)),
        None => Err(ThawError::Malformed),
    }
}

fn read(is_client: bool, state: &mut Reader<'_>, limits: Limits) -> Option<(Session, Negotiated)> {
    let flags = state.byte()?;
    let suite = Suite::of(CipherSuite::from(u16::from_be_bytes(*state.array()?)))?;
    let idle_records = state.byte()?;
    let start = state.counted()?;
    let rest_bytes = if is_client { u32::from_le_bytes(*state.array()?) } else { 0 };
    let begun = if is_client { Begun::of_server(start, rest_bytes) } else { Begun::of(start) }?;
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
    let owes_nobody = is_set(flag::OWES_UPDATE) && is_set(flag::CLOSED);
    let is_cut_short = is_set(flag::PEER_CLOSED) && begun.length > 0;
    if !state.0.is_empty() || flags & !flag::ALL != 0 || !is_name || owes_nobody || is_cut_short {
        return None;
    }
    let mut session = Session::at(opening, sealing, limits);
    session.tickets = is_client.then(|| Box::new(Tickets::passing_over(rest_bytes)));
    session.begun = begun;
    session.idle_records = idle_records;
    session.owes_update = is_set(flag::OWES_UPDATE);
    session.peer_closed = is_set(flag::PEER_CLOSED);
    session.closed = is_set(flag::CLOSED);
    let negotiated = Negotiated {
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

    /// `None` where no KeyUpdate begins like that, or it is whole.
    pub(crate) fn of(start: &[u8]) -> Option<Self> {
        KEY_UPDATE_START.starts_with(start).then(|| {
            let mut begun = Self::default();
            begun.bytes[..start.len()].copy_from_slice(start);
            begun.length = start.len() as u8;
            begun
        })
    }
}

/// What is left of a state.
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

    /// Bytes behind their number.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    fn direction(&mut self, suite: Suite) -> Option<Direction> {
        let sequence = u64::from_le_bytes(*self.array()?);
        let secret = Secret::new(suite, self.take(suite.secret_bytes())?)?;
        (sequence <= Direction::SEQUENCE_MAX).then(|| Direction::new(secret, sequence))
    }
}

#[cfg(test)]
mod tests;
