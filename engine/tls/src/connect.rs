//! Handshakes of clients, which [rustls] makes, like those of servers ([`crate::accept`]). After the handshake, the
//! connection is a [`Session`] with the directions swapped.
//!
//! TLS 1.3 only: the program that connects chooses its server. rustls verifies the server's certificate; only a
//! [`ClientConfig`] of your own can turn that off.

mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};

pub use self::settings::ClientSettings;
use crate::accept::driver::{self, Record, State, first_record};
use crate::accept::{HandshakeError, Listens, Told, session};
use crate::record::{Limits, Session};
use crate::schedule::Suite;
use crate::settings::Version;
use crate::state::{Negotiated, PeerCertificate};

/// The most tickets that are taken of one connection: rustls keeps as many for each server.
const TICKETS_MAX: usize = 8;

/// The configuration that the handshakes of outbound connections share.
#[derive(Clone, Debug)]
pub struct Config {
    rustls: Arc<ClientConfig>,
    limits: Limits,
}

impl Config {
    /// rustls's configuration decides about trust, suites, ALPN, the client's certificate and resumption. Early data is off, because it
    /// could be replayed. A handshake that ends with TLS 1.2 fails, so the configuration should only have TLS 1.3.
    pub fn new(mut rustls: ClientConfig, limits: Limits) -> Self {
        rustls.enable_secret_extraction = true;
        rustls.enable_early_data = false;
        rustls.key_log = Listens::before(rustls.key_log);
        Self { rustls: Arc::new(rustls), limits }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Begins a handshake with this server. [`Handshake::advance`] without input returns the client's first message.
    ///
    /// # Errors
    /// Those of [`UnbufferedClientConnection::new`].
    pub fn begin(&self, server_name: ServerName<'static>) -> Result<Handshake, rustls::Error> {
        let name = server_name.to_str().into();
        let connection = Box::new(UnbufferedClientConnection::new(Arc::clone(&self.rustls), server_name)?);
        let (limits, told) = (self.limits, Told::default());
        Ok(Handshake { connection, server_name: name, limits, fed: 0, told, has_spoken: false })
    }
}

/// A handshake in progress.
pub struct Handshake {
    connection: Box<UnbufferedClientConnection>,
    server_name: Box<str>,
    limits: Limits,
    /// Bytes of whole records at the beginning of the input that rustls has seen, and does not want to lose yet.
    fed: usize,
    told: Told,
    has_spoken: bool,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handshake").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// The progress of a handshake.
#[derive(Debug)]
pub enum Progress {
    /// It needs more input after the unconsumed bytes.
    Incomplete(Handshake),
    /// The handshake is over. What was not consumed are records for the session.
    Connected(Box<Connected>),
    /// It has failed. If there is an alert for the server, it is in the output.
    Failed(HandshakeError),
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connected {
    /// Its records: they can be frozen.
    pub session: Session,
    /// What was negotiated; the server's certificate was verified.
    pub negotiated: Negotiated,
    /// Takes the session tickets.
    pub tickets: TicketTaker,
}

/// Stores the tickets of one connection for the next handshake with its server.
pub struct TicketTaker {
    kernel: KernelConnection<ClientConnectionData>,
    taken: usize,
}

impl fmt::Debug for TicketTaker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TicketTaker").finish_non_exhaustive()
    }
}

impl TicketTaker {
    /// Whether it has as many tickets as are kept for a server: it can be dropped then.
    pub fn is_full(&self) -> bool {
        self.taken >= TICKETS_MAX
    }

    /// Takes the tickets that the session has kept ([`Session::keep_tickets`]). A malformed ticket ends the session.
    pub fn take_from(&mut self, session: &mut Session) {
        while let Some(ticket) = session.take_ticket() {
            self.taken += 1;
            if self.kernel.handle_new_session_ticket(&ticket).is_err() {
                session.refuse_ticket();
            }
        }
    }
}

impl Handshake {
    /// Continues the handshake. `input` has all received bytes that are not consumed, from the same byte on as before. Appends the bytes
    /// to send to `output`. Returns how many bytes of the input are consumed.
    pub fn advance(mut self, input: &mut [u8], output: &mut Vec<u8>) -> (usize, Progress) {
        let mut consumed = 0;
        loop {
            let (record, more) = match first_record(&input[consumed + self.fed..]) {
                _ if !self.has_spoken => (0, 0),
                Record::Whole(bytes) => (bytes, 0),
                Record::Odd(bytes) => (0, bytes),
                Record::Begun => return (consumed, Progress::Incomplete(self)),
            };
            self.has_spoken = true;
            self.fed += record;
            let run =
                driver::run(&mut *self.connection, &mut self.told, &mut self.fed, more, input, &mut consumed, output);
            match run {
                Ok(State::Waits) if more > 0 => return (consumed, Progress::Incomplete(self)),
                Ok(State::Waits) => {}
                Ok(State::Over) => return (consumed + self.fed, self.finish()),
                Err(error) => {
                    driver::take_alert(&mut *self.connection, output);
                    return (consumed, Progress::Failed(error.into()));
                }
            }
        }
    }

    fn finish(self) -> Progress {
        let negotiated = Negotiated {
            version: Version::Tls13,
            alpn: self.connection.alpn_protocol().map(Box::from),
            server_name: Some(self.server_name),
            is_resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
            peer_certificate: PeerCertificate::of(self.connection.peer_certificates().unwrap_or_default()),
        };
        let version = self.connection.protocol_version();
        let suite = self.connection.negotiated_cipher_suite().and_then(|suite| Suite::of(suite.suite()));
        let Some(suite) = suite.filter(|_| version == Some(ProtocolVersion::TLSv1_3)) else {
            return Progress::Failed(HandshakeError::CannotMove);
        };
        match self.connection.dangerous_into_kernel_connection() {
            Ok((extracted, kernel)) => match session(suite, &self.told.swapped(), &extracted, self.limits) {
                Some(session) => {
                    let (session, tickets) = (session.of_client(), TicketTaker { kernel, taken: 0 });
                    Progress::Connected(Box::new(Connected { session, negotiated, tickets }))
                }
                None => Progress::Failed(HandshakeError::Secrets),
            },
            Err(error) => Progress::Failed(error.into()),
        }
    }
}
