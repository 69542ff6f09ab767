//! Handshakes of servers, which [rustls] makes. After the handshake, the connection is a [`Session`] of this crate.
//!
//! rustls gets one record at a time, so that it sees nothing after the client's Finished: application data in the same
//! flight stays in the input, for the session. The traffic secrets of TLS 1.3 come from rustls's key log, the sequence
//! numbers from its interface for kernels; both must lead to the same keys. TLS 1.2 has no such secrets, so its keys
//! move. The server's name comes from the choice of a certificate.

pub(crate) mod driver;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{
    ConnectionTrafficSecrets, ContentType, ExtractedSecrets, HandshakeKind, KeyLog, ProtocolVersion, ServerConfig,
};
use zeroize::Zeroizing;

use self::driver::{Record, State, first_record};
use crate::record::{Direction, HEADER_BYTES, Limits, Session, Source};
use crate::schedule::{Secret, Suite, TrafficKey};
use crate::settings::Version;
use crate::state::{Negotiated, PeerCertificate};

const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";
const CLIENT_HANDSHAKE_SECRET: &str = "CLIENT_HANDSHAKE_TRAFFIC_SECRET";

thread_local! {
    /// What rustls has reported during a handshake on this thread.
    static TOLD: RefCell<Told> = RefCell::default();

    /// The version of the handshake that rustls is making on this thread.
    static SPOKEN: Cell<Option<ProtocolVersion>> = const { Cell::new(None) };
}

/// Whether rustls now works on this thread on a handshake that is known to be of TLS 1.3.
pub(crate) fn is_tls13_spoken() -> bool {
    SPOKEN.get() == Some(ProtocolVersion::TLSv1_3)
}

/// What rustls reports about a handshake to objects that are configured for all handshakes.
#[derive(Default)]
pub(crate) struct Told {
    client_secret: Option<Zeroizing<Vec<u8>>>,
    server_secret: Option<Zeroizing<Vec<u8>>>,
    /// The secret of the client's messages up to its Finished.
    client_handshake_secret: Option<Zeroizing<Vec<u8>>>,
    server_name: Option<Box<str>>,
}

impl Told {
    /// The same from the other side's view.
    pub(crate) fn swapped(self) -> Self {
        Self { client_secret: self.server_secret, server_secret: self.client_secret, ..self }
    }

    /// Adds what was reported later.
    fn and(self, later: Self) -> Self {
        Self {
            client_secret: later.client_secret.or(self.client_secret),
            server_secret: later.server_secret.or(self.server_secret),
            client_handshake_secret: later.client_handshake_secret.or(self.client_handshake_secret),
            server_name: later.server_name.or(self.server_name),
        }
    }
}

/// The client's and the server's secret of the last handshake that rustls has made on this thread.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn told_secrets(suite: Suite) -> Option<(Secret, Secret)> {
    let Told { client_secret, server_secret, .. } = TOLD.take();
    Some((Secret::new(suite, &client_secret?)?, Secret::new(suite, &server_secret?)?))
}

/// Wraps an object to which rustls reports something, and also passes it to the current handshake.
#[derive(Debug)]
pub(crate) struct Listens<T: ?Sized> {
    before: Arc<T>,
}

impl ResolvesServerCert for Listens<dyn ResolvesServerCert> {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        TOLD.with_borrow_mut(|told| told.server_name = client_hello.server_name().map(Box::from));
        self.before.resolve(client_hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.before.only_raw_public_keys()
    }
}

impl Listens<dyn KeyLog> {
    pub(crate) fn before(before: Arc<dyn KeyLog>) -> Arc<dyn KeyLog> {
        Arc::new(Self { before })
    }
}

impl KeyLog for Listens<dyn KeyLog> {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if self.before.will_log(label) {
            self.before.log(label, client_random, secret);
        }
        TOLD.with_borrow_mut(|told| {
            let place = match label {
                CLIENT_SECRET => &mut told.client_secret,
                SERVER_SECRET => &mut told.server_secret,
                CLIENT_HANDSHAKE_SECRET => &mut told.client_handshake_secret,
                _ => return,
            };
            *place = Some(Zeroizing::new(secret.to_vec()));
        });
    }

    fn will_log(&self, label: &str) -> bool {
        [CLIENT_SECRET, SERVER_SECRET, CLIENT_HANDSHAKE_SECRET].contains(&label) || self.before.will_log(label)
    }
}

/// The configuration that the handshakes of a listener share.
#[derive(Clone, Debug)]
pub struct Config {
    rustls: Arc<ServerConfig>,
    limits: Limits,
}

impl Config {
    /// rustls's configuration decides about certificates, versions, suites, ALPN and tickets. Early data is off, because it could be
    /// replayed.
    pub fn new(mut rustls: ServerConfig, limits: Limits) -> Self {
        rustls.enable_secret_extraction = true;
        rustls.max_early_data_size = 0;
        rustls.key_log = Listens::before(rustls.key_log);
        rustls.cert_resolver = Arc::new(Listens { before: rustls.cert_resolver });
        Self { rustls: Arc::new(rustls), limits }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// A connection that stays with rustls.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn rustls_alone(&self) -> rustls::ServerConnection {
        rustls::ServerConnection::new(Arc::clone(&self.rustls)).expect("a connection")
    }

    /// Begins a handshake with a client.
    ///
    /// # Errors
    /// Those of [`UnbufferedServerConnection::new`].
    pub fn begin(&self) -> Result<Handshake, rustls::Error> {
        let connection = Box::new(UnbufferedServerConnection::new(Arc::clone(&self.rustls))?);
        Ok(Handshake { connection, limits: self.limits, fed: 0, told: Told::default(), opens: Opens::Nothing })
    }
}

/// A handshake in progress.
pub struct Handshake {
    connection: Box<UnbufferedServerConnection>,
    limits: Limits,
    /// Bytes of whole records at the beginning of the input that rustls has seen, and does not want to lose yet.
    fed: usize,
    told: Told,
    opens: Opens,
}

/// Whether an encrypted record of the client may be early data, which rustls skips.
enum Opens {
    /// No such record has come.
    Nothing,
    /// All such records were skipped: they do not open with this key.
    Skipped(Box<Direction>),
    /// One was opened. After it none is skipped.
    Something,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handshake").field("fed", &self.fed).finish_non_exhaustive()
    }
}

/// The progress of a handshake.
#[derive(Debug)]
pub enum Progress {
    /// It needs more input after the unconsumed bytes.
    Incomplete(Handshake),
    /// The handshake is over. What was not consumed is application data.
    Accepted(Accepted),
    /// It has failed. If there is an alert for the client, it is in the output.
    Failed(HandshakeError),
}

/// A connection after its handshake.
pub enum Accepted {
    /// It can be frozen.
    Session(Box<Session>, Negotiated),
    /// It has a suite of your own provider, which this crate does not know: the connection stays with rustls and cannot be frozen.
    Rustls(Box<UnbufferedServerConnection>, Negotiated),
}

impl fmt::Debug for Accepted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(session, negotiated) => {
                formatter.debug_tuple("Session").field(session).field(negotiated).finish()
            }
            Self::Rustls(_, negotiated) => formatter.debug_tuple("Rustls").field(negotiated).finish_non_exhaustive(),
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// rustls has ended the handshake.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// A client's connection has settled on another version than TLS 1.3, or on a suite that this crate does not know.
    #[error("it chose a version or a suite with which connections cannot move")]
    CannotMove,
    /// The secrets in the key log do not give the keys that rustls uses.
    #[error("the handshake's secrets do not belong to its keys")]
    Secrets,
}

impl Handshake {
    /// Continues the handshake. `input` has all received bytes that are not consumed, from the same byte on as before. Appends the bytes
    /// to send to `output`. Returns how many bytes of the input are consumed.
    pub fn advance(mut self, input: &mut [u8], output: &mut Vec<u8>) -> (usize, Progress) {
        let mut consumed = 0;
        loop {
            let (record, more) = match first_record(&input[consumed + self.fed..]) {
                Record::Whole(bytes) => (bytes, 0),
                Record::Odd(bytes) => (0, bytes),
                Record::Begun => return (consumed, Progress::Incomplete(self)),
            };
            let encrypted = self.encrypted(&input[consumed + self.fed..][..record]);
            self.fed += record;
            let run =
                driver::run(&mut *self.connection, &mut self.told, &mut self.fed, more, input, &mut consumed, output);
            match run {
                Ok(State::Waits) if more > 0 => return (consumed, Progress::Incomplete(self)),
                Ok(State::Waits) => {
                    if encrypted.is_some_and(|encrypted| self.has_skipped(encrypted)) {
                        consumed += mem::take(&mut self.fed);
                    }
                }
                Ok(State::Over) => return (consumed + self.fed, self.finish()),
                Err(error) => {
                    driver::take_alert(&mut *self.connection, output);
                    return (consumed, Progress::Failed(error.into()));
                }
            }
        }
    }

    /// A copy of a record that rustls may skip, since rustls damages the record when it tries to open it.
    fn encrypted(&self, record: &[u8]) -> Option<Vec<u8>> {
        let may_be_skipped = self.fed == 0
            && self.told.client_handshake_secret.is_some()
            && !matches!(self.opens, Opens::Something)
            && record.first() == Some(&ContentType::ApplicationData.into());
        may_be_skipped.then(|| record.to_vec())
    }

    /// Whether rustls, which waits for more, has skipped this record as early data (RFC 8446 section 4.2.10) and not
    /// kept it as part of a message. rustls does not report that. With each further record it would try again all that
    /// it has skipped: the cost would grow with their number, each time up to the limit of skipped bytes.
    fn has_skipped(&mut self, mut encrypted: Vec<u8>) -> bool {
        let opens = mem::replace(&mut self.opens, Opens::Something);
        let mut direction = match opens {
            Opens::Skipped(direction) => direction,
            _ => {
                let suite = self.connection.negotiated_cipher_suite().and_then(|suite| Suite::of(suite.suite()));
                let secret = suite.zip(self.told.client_handshake_secret.as_deref());
                let Some(secret) = secret.and_then(|(suite, secret)| Secret::new(suite, secret)) else { return false };
                Box::new(Direction::new(secret, 0))
            }
        };
        let Some((header, encrypted)) = encrypted.split_first_chunk_mut::<HEADER_BYTES>() else { return false };
        let is_skipped = self.fed > 0 && direction.open(*header, encrypted).is_err();
        if is_skipped {
            self.opens = Opens::Skipped(direction);
        }
        is_skipped
    }

    fn finish(self) -> Progress {
        let negotiated = self.negotiated();
        let suite = self.connection.negotiated_cipher_suite().and_then(|suite| Suite::of(suite.suite()));
        let Some(suite) = suite else {
            return Progress::Accepted(Accepted::Rustls(self.connection, negotiated));
        };
        match self.connection.dangerous_into_kernel_connection() {
            Ok((extracted, _)) => match session(suite, &self.told, &extracted, self.limits) {
                Some(session) => Progress::Accepted(Accepted::Session(Box::new(session), negotiated)),
                None => Progress::Failed(HandshakeError::Secrets),
            },
            Err(error) => Progress::Failed(error.into()),
        }
    }

    fn negotiated(&self) -> Negotiated {
        Negotiated {
            version: match self.connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
                _ => Version::Tls13,
            },
            alpn: self.connection.alpn_protocol().map(Box::from),
            server_name: self.told.server_name.clone(),
            is_resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
            peer_certificate: PeerCertificate::of(self.connection.peer_certificates().unwrap_or_default()),
        }
    }
}

/// `None` if the secrets of TLS 1.3 are missing, or lead to other keys than those of rustls. The client's secret opens
/// records.
pub(crate) fn session(suite: Suite, told: &Told, extracted: &ExtractedSecrets, limits: Limits) -> Option<Session> {
    let direction = |secret: &Option<Zeroizing<Vec<u8>>>, (sequence, keys): &(u64, ConnectionTrafficSecrets)| {
        let (key, iv) = match keys {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
            _ => return None,
        };
        if suite.version() == Version::Tls12 {
            let traffic_key = TrafficKey::new(suite, key, iv.try_into().ok()?)?;
            return Some(Direction::of(Source::Key(traffic_key), *sequence));
        }
        let secret = Secret::new(suite, secret.as_ref()?)?;
        let traffic_key = secret.traffic_key();
        verify_slices_are_equal(traffic_key.key(), key).ok()?;
        verify_slices_are_equal(traffic_key.iv(), iv).ok()?;
        Some(Direction::new(secret, *sequence))
    };
    let opening = direction(&told.client_secret, &extracted.rx)?;
    let sealing = direction(&told.server_secret, &extracted.tx)?;
    Some(Session::at(opening, sealing, limits))
}

#[cfg(test)]
mod tests;
