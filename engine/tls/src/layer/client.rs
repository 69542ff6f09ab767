//! TLS of outbound connections.

use std::any::Any;
use std::io;

use baton::layer::{self, Layer, Layers, Opened};
use baton::{CannotFreeze, ThawError};
use rustls::pki_types::ServerName;

use super::{Connection, Stage, tell, thaw};
use crate::connect::{Config, Connected, Handshake, Progress, TicketTaker};

/// TLS 1.3 for outbound connections, which move to other workers and to other binaries.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use baton::Server;
/// use baton_tls::connect::ClientSettings;
/// use baton_tls::files;
/// use baton_tls::layer::TlsClient;
///
/// let config = ClientSettings::new("/etc/ssl/certs/ca-certificates.crt").load(files::read)?;
/// let server = Server::builder().outbound_layer("upstream", TlsClient::new(config));
/// // A protocol then says `io.connect(Target::new(address).with_layer("upstream", "api.example.com"), token)`.
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TlsClient {
    config: Config,
}

impl TlsClient {
    /// With these authorities and limits.
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

impl Layers for TlsClient {
    /// A listener with this layer accepts no connections.
    fn accept(&self) -> Option<Box<dyn Layer>> {
        tell("a TLS handshake cannot begin", &"the layer is for outbound connections only");
        None
    }

    fn connect(&self, server_name: &str) -> io::Result<Box<dyn Layer>> {
        let invalid = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("no TLS with the server {server_name:?}: {error}"))
        };
        let name = ServerName::try_from(server_name.to_owned()).map_err(|error| invalid(&error))?;
        let handshake = self.config.begin(name).map_err(|error| invalid(&error))?;
        let connection = Connection::at(Stage::Over);
        Ok(Box::new(ClientConnection { handshake: Some(handshake), connection, tickets: None }))
    }

    fn thaw(&self, state: &[u8]) -> Result<Box<dyn Layer>, ThawError> {
        let (session, negotiated) = thaw(state, self.config.limits(), true)?;
        let connection = Connection::at(Stage::Session(Box::new(session), negotiated));
        Ok(Box::new(ClientConnection { handshake: None, connection, tickets: None }))
    }
}

/// One connection.
struct ClientConnection {
    handshake: Option<Handshake>,
    /// `Some` from the end of the handshake on.
    connection: Connection,
    /// `Some` in the worker that made the handshake, until the connection is idle.
    tickets: Option<Box<TicketTaker>>,
}

impl Layer for ClientConnection {
    fn handshake(&mut self, input: &mut [u8], output: &mut Vec<u8>) -> (usize, layer::Handshake) {
        let Some(handshake) = self.handshake.take() else { return (0, layer::Handshake::Failed) };
        let (consumed, progress) = handshake.advance(input, output);
        let progress = match progress {
            Progress::Incomplete(handshake) => {
                self.handshake = Some(handshake);
                layer::Handshake::Incomplete
            }
            Progress::Connected(connected) => {
                let Connected { mut session, negotiated, tickets } = *connected;
                session.keep_tickets(true);
                self.connection.stage = Stage::Session(Box::new(session), negotiated);
                self.tickets = Some(Box::new(tickets));
                layer::Handshake::Done
            }
            Progress::Failed(error) => {
                tell("a TLS handshake with a server failed", &error);
                layer::Handshake::Failed
            }
        };
        (consumed, progress)
    }

    fn open(&mut self, bytes: &mut [u8], window: &mut layer::Window) -> Opened {
        let opened = self.connection.open(bytes, window);
        let (Stage::Session(session, _), Some(tickets)) = (&mut self.connection.stage, &mut self.tickets) else {
            return opened;
        };
        let had_failed = session.failure().is_some();
        tickets.take_from(session);
        let failure = session.failure().filter(|_| !had_failed);
        if tickets.is_full() {
            session.keep_tickets(false);
            self.tickets = None;
        }
        match failure {
            None => opened,
            Some(error) => {
                tell("a TLS connection was closed", &error);
                Opened::Failed
            }
        }
    }

    fn sealed_bytes_max(&self, plaintext_bytes: usize) -> usize {
        self.connection.sealed_bytes_max(plaintext_bytes)
    }

    fn seal(&mut self, plaintext: &[u8], output: &mut [u8]) -> usize {
        self.connection.seal(plaintext, output)
    }

    fn answer(&mut self, output: &mut Vec<u8>) {
        self.connection.answer(output);
    }

    fn close(&mut self, output: &mut Vec<u8>) {
        self.connection.close(output);
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        if self.handshake.is_some() { Err(CannotFreeze::Later) } else { self.connection.freeze(state) }
    }

    fn rest(&mut self) {
        self.tickets = None;
        if let Stage::Session(session, _) = &mut self.connection.stage {
            session.keep_tickets(false);
        }
        self.connection.rest();
    }

    fn settled(&self) -> &dyn Any {
        self.connection.settled()
    }
}
