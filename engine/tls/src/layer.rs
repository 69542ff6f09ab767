//! TLS as a layer of the engine's listeners: a protocol behind it notices nothing.
//!
//! ```no_run
//! use baton::config::Listener;
//! # use std::net::SocketAddr;
//! # fn listener(rustls: rustls::ServerConfig) -> Listener {
//! use baton_tls::accept::Config;
//! use baton_tls::layer::Tls;
//! use baton_tls::record::Limits;
//!
//! let tls = Tls::new(Config::new(rustls, Limits::default()));
//! Listener::new(SocketAddr::from(([0, 0, 0, 0], 443))).with_layer(tls)
//! # }
//! ```

mod client;

use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use baton::control::CertificateStatus;
use baton::layer::{self, Layer, Layers, Opened};
use baton::{CannotFreeze, ThawError};

pub use self::client::TlsClient;
use crate::accept::{Accepted, Config, Handshake, Progress};
use crate::certificate::{Identities, Name};
use crate::record::{Error, Limits, Session, Status, Window};
use crate::settings::Loaded;
use crate::state::{self, Negotiated};

/// Errors that peers cause are logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The most names of a certificate that are shown.
const NAMES_SHOWN_MAX: usize = 100;

thread_local! {
    static LOGGED: Cell<Logged> = const { Cell::new(Logged { at: None, unsaid: 0 }) };
}

#[derive(Clone, Copy, Default)]
struct Logged {
    at: Option<Instant>,
    /// Events since then that were not logged.
    unsaid: u64,
}

fn tell(what: &str, error: &dyn Display) {
    let Logged { at, unsaid } = LOGGED.take();
    if at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
        return LOGGED.set(Logged { at, unsaid: unsaid + 1 });
    }
    LOGGED.set(Logged { at: Some(Instant::now()), unsaid: 0 });
    tracing::info!(unsaid, "{what}: {error}");
}

/// TLS for the connections of a listener, which move to other workers and to other binaries.
#[derive(Debug)]
pub struct Tls {
    config: Config,
    identities: Option<Arc<Identities>>,
}

impl Tls {
    /// With these certificates and limits. `batonctl status` shows the certificates if it is made [from loaded
    /// settings](Self::from).
    pub fn new(config: Config) -> Self {
        Self { config, identities: None }
    }
}

impl From<Loaded> for Tls {
    fn from(loaded: Loaded) -> Self {
        Self { config: loaded.config, identities: Some(loaded.identities) }
    }
}

impl Layers for Tls {
    fn accept(&self) -> Option<Box<dyn Layer>> {
        match self.config.begin() {
            Ok(handshake) => Some(Box::new(Connection { stage: Stage::Handshake(handshake), is_tired: false })),
            Err(error) => {
                tell("a TLS handshake cannot begin", &error);
                None
            }
        }
    }

    fn thaw(&self, state: &[u8]) -> Result<Box<dyn Layer>, ThawError> {
        let (session, negotiated) = thaw(state, self.config.limits(), false)?;
        Ok(Box::new(Connection::at(Stage::Session(Box::new(session), negotiated))))
    }

    fn certificates(&self, now: SystemTime) -> Vec<CertificateStatus> {
        let Some(identities) = &self.identities else { return Vec::new() };
        let since_1970_s = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let all = identities.all().iter().enumerate().map(|(at, identity)| {
            let expires_at_s = since_1970_s(identity.expires());
            CertificateStatus {
                names: identity.names().iter().take(NAMES_SHOWN_MAX).map(Name::to_string).collect(),
                expires_at_s,
                expires_in_s: expires_at_s.cast_signed() - since_1970_s(now).cast_signed(),
                warnings: identities.warnings_of(at, now).iter().map(ToString::to_string).collect(),
                ..CertificateStatus::default()
            }
        });
        all.collect()
    }
}

/// The same for the engine. A session of the other side is refused.
fn thaw(state: &[u8], limits: Limits, is_client: bool) -> Result<(Session, Negotiated), ThawError> {
    let (session, negotiated) = state::thaw(state, limits).map_err(|error| match error {
        state::ThawError::Version(version) => ThawError::Version(version.into()),
        state::ThawError::Malformed => ThawError::Malformed,
    })?;
    if session.is_client() == is_client { Ok((session, negotiated)) } else { Err(ThawError::Malformed) }
}

/// One connection.
struct Connection {
    stage: Stage,
    /// The engine knows that it should end.
    is_tired: bool,
}

impl Connection {
    fn at(stage: Stage) -> Self {
        Self { stage, is_tired: false }
    }
}

enum Stage {
    Handshake(Handshake),
    Session(Box<Session>, Negotiated),
    /// The connection is over.
    Over,
}

impl Layer for Connection {
    fn handshake(&mut self, input: &mut [u8], output: &mut Vec<u8>) -> (usize, layer::Handshake) {
        let Stage::Handshake(handshake) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return (0, layer::Handshake::Failed);
        };
        let (consumed, progress) = handshake.advance(input, output);
        let progress = match progress {
            Progress::Incomplete(handshake) => {
                self.stage = Stage::Handshake(handshake);
                layer::Handshake::Incomplete
            }
            Progress::Accepted(Accepted::Session(session, negotiated)) => {
                self.stage = Stage::Session(session, negotiated);
                layer::Handshake::Done
            }
            Progress::Accepted(Accepted::Rustls(..)) => {
                tell("a TLS handshake failed", &"it chose a suite with which connections cannot move");
                layer::Handshake::Failed
            }
            Progress::Failed(error) => {
                tell("a TLS handshake failed", &error);
                layer::Handshake::Failed
            }
        };
        (consumed, progress)
    }

    fn open(&mut self, bytes: &mut [u8], window: &mut layer::Window) -> Opened {
        let Stage::Session(session, _) = &mut self.stage else { return Opened::Failed };
        let layer::Window { plaintext, sealed } = std::mem::take(window);
        let mut opening = Window { plaintext, records: sealed };
        let status = session.open_all(bytes, &mut opening);
        *window = layer::Window { plaintext: opening.plaintext, sealed: opening.records };
        match status {
            Ok(Status::Incomplete { .. }) if session.owes_warning() => Opened::Asked,
            Ok(Status::Incomplete { .. }) if session.should_end() && !self.is_tired => {
                self.is_tired = true;
                Opened::Tired
            }
            Ok(Status::Incomplete { .. }) => Opened::More,
            Ok(Status::Closed) => Opened::Ended,
            Err(error) => {
                if !matches!(error, Error::AlertReceived(_)) {
                    tell("a TLS connection was closed", &error);
                }
                Opened::Failed
            }
        }
    }

    fn sealed_bytes_max(&self, plaintext_bytes: usize) -> usize {
        match &self.stage {
            Stage::Session(session, _) => session.sealed_bytes_max(plaintext_bytes),
            _ => 0,
        }
    }

    fn seal(&mut self, plaintext: &[u8], output: &mut [u8]) -> usize {
        match &mut self.stage {
            Stage::Session(session, _) => session.seal_to(plaintext, output).unwrap_or(0),
            _ => 0,
        }
    }

    fn answer(&mut self, output: &mut Vec<u8>) {
        let Stage::Session(session, _) = &mut self.stage else { return };
        session.next_control().into_iter().for_each(|record| output.extend_from_slice(&record));
    }

    fn close(&mut self, output: &mut Vec<u8>) {
        let Stage::Session(session, _) = &mut self.stage else { return };
        let last = match session.failure() {
            Some(error) => session.answer(error),
            None => session.close(),
        };
        last.into_iter().for_each(|record| output.extend_from_slice(&record));
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        match &self.stage {
            Stage::Session(session, negotiated) => {
                let frozen = state::freeze(session, negotiated).ok_or(CannotFreeze::Stays)?;
                state.extend_from_slice(&frozen);
                Ok(())
            }
            Stage::Handshake(_) => Err(CannotFreeze::Later),
            Stage::Over => Err(CannotFreeze::Stays),
        }
    }

    fn rest(&mut self) {
        if let Stage::Session(session, _) = &mut self.stage {
            session.rest();
        }
    }

    fn settled(&self) -> &dyn Any {
        match &self.stage {
            Stage::Session(_, negotiated) => negotiated,
            _ => &(),
        }
    }
}
