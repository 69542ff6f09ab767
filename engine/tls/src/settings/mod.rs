//! An operator's settings of TLS, and the [`Config`] made of them.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use baton_tls::files;
//! use baton_tls::settings::{CertificateFiles, Settings, SettingsError};
//!
//! let files = CertificateFiles { certificate: "missing/cert.pem".into(), key: "missing/key.pem".into() };
//! let settings = Settings { certificates: vec![files], alpn: vec!["http/1.1".to_owned()], ..Settings::default() };
//! let secret = [7; 32];
//! match settings.load(files::read, &secret) {
//!     Ok(loaded) => loaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}")),
//!     Err(error) => assert!(error.to_string().starts_with("cannot read missing/cert.pem: ")),
//! }
//! # Ok(())
//! # }
//! ```

mod choices;
mod error;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use zeroize::Zeroizing;

pub use self::choices::{ClientCertificates, Unknown, Version, suite_names};
pub use self::error::SettingsError;
use crate::accept::Config;
use crate::certificate::{self, Concern, Error, Identities, Identity, Pem, Problem, Warning};
use crate::record::Limits;
use crate::tickets::{SECRET_BYTES, TICKETS_PER_HANDSHAKE, Tickets, TicketsOfVersions, secret_of, secret_of_process};

/// Longest name of a protocol in ALPN, in bytes (RFC 7301 section 3.1).
const PROTOCOL_BYTES_MAX: usize = 255;

/// Permissions of users who are neither a file's owner nor in its group: read and write. Debian uses groups to let
/// servers read keys (`ssl-cert`), so those of the group are allowed.
const MODE_OTHERS: u32 = 0o006;

/// The files of one [`Identity`]. Both may be the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The server's certificate, followed by those of its issuers, in PEM.
    pub certificate: PathBuf,
    /// The private key of the server's certificate, in PEM, not encrypted.
    pub key: PathBuf,
}

impl CertificateFiles {
    pub(crate) fn identity(
        &self,
        read: &impl Fn(&Path) -> Result<Zeroizing<Vec<u8>>, SettingsError>,
    ) -> Result<Identity, SettingsError> {
        let Self { certificate, key } = self;
        let (chain, secret) = (read(certificate)?, read(key)?);
        let (chain, secret) = (Pem { file: certificate, bytes: &chain }, Pem { file: key, bytes: &secret });
        Ok(Identity::from_pem(chain, secret)?)
    }
}

/// The TLS settings of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At least one. The first is for clients that name no known host; of two for the same host the first that suits
    /// the client is chosen: see [`Identities`].
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients are asked for certificates.
    pub client_certificates: ClientCertificates,
    /// The authorities whose clients are accepted, in PEM. Required if, and only if, clients are asked for
    /// certificates.
    pub client_ca: Option<PathBuf>,
    /// Protocols that clients may choose, in order of preference. Empty: ALPN is not used.
    pub alpn: Vec<String>,
    /// The oldest accepted version.
    pub version_min: Version,
    /// Suites that may be used, by their names in the registry (see [`suite_names`]); the client's order decides.
    /// Empty: all suites of rustls for these versions.
    pub suites: Vec<String>,
    /// Whether clients get session tickets, with which their next connection needs no signature (see
    /// [`crate::tickets`]). If clients are asked for certificates, none are sent: a resumed connection shows no
    /// certificate, so a client whose certificate has expired, or whose authority was removed, could resume forever.
    pub tickets: bool,
    /// Limits of each connection's records.
    pub limits: Limits,
}

impl Default for Settings {
    /// rustls's defaults: TLS 1.2 and 1.3 with all suites. With tickets, without certificates, which must be given.
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            client_certificates: ClientCertificates::Off,
            client_ca: None,
            alpn: Vec::new(),
            version_min: Version::Tls12,
            suites: Vec::new(),
            tickets: true,
            limits: Limits::default(),
        }
    }
}

/// The result of loading settings.
#[derive(Debug)]
pub struct Loaded {
    /// For the handshakes of a listener.
    pub config: Config,
    /// The certificates that it serves. A long-running server should ask them for [`warnings`](Identities::warnings)
    /// now and then.
    pub identities: Arc<Identities>,
    /// Warnings for its operator now.
    pub warnings: Vec<Warning>,
}

impl Settings {
    /// Reads the files and checks everything. `read` returns a file's contents ([`crate::files::read`]); they are
    /// zeroised after use. `secret` is the server's, the same in all its workers and in the next binary: tickets are
    /// derived from it. With it one can read recorded connections of TLS 1.2 that got tickets, so it must be random,
    /// and should be changed now and then if those matter.
    ///
    /// # Errors
    /// The first problem, with the file's name and what to do.
    pub fn load(
        &self,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
        secret: &[u8; SECRET_BYTES],
    ) -> Result<Loaded, SettingsError> {
        self.load_at(Arc::new(DefaultTimeProvider), read, secret)
    }

    /// As [`load`](Self::load), with a secret derived from the first private key ([`secret_of`]). Workers, the next
    /// binary and other machines with the same certificate know it, and nothing has to be stored or passed on. Tickets
    /// of TLS 1.2 are derived from [`secret_of_process`] instead, since otherwise they would take forward secrecy away:
    /// they are valid in all forks of this process.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_by_key(&self, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Loaded, SettingsError> {
        // If the key cannot be read, `load` reports why.
        let key = self.certificates.first().and_then(|files| read(&files.key).ok()).unwrap_or_default();
        let secret = secret_of(&Zeroizing::new(key));
        self.load_with(Arc::new(DefaultTimeProvider), read, &secret, secret_of_process())
    }

    /// As [`load`](Self::load), with a clock, which decides about the ticket keys in use, about expired client
    /// certificates, and about warnings.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_at(
        &self,
        time: Arc<dyn TimeProvider>,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
        secret: &[u8; SECRET_BYTES],
    ) -> Result<Loaded, SettingsError> {
        self.load_with(time, read, secret, Some(secret))
    }

    /// With separate ticket secrets for the two versions.
    fn load_with(
        &self,
        time: Arc<dyn TimeProvider>,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
        tls13_secret: &[u8; SECRET_BYTES],
        tls12_secret: Option<&[u8; SECRET_BYTES]>,
    ) -> Result<Loaded, SettingsError> {
        let alpn = checked_alpn(&self.alpn)?;
        let versions = self.version_min.and_newer();
        let provider = Arc::new(provider(&self.suites, versions, SettingsError::SuiteOfOldVersion)?);
        let read = reading(read);
        let identities = Arc::new(self.identities(&read)?);

        let config = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time));
        let config = config.with_protocol_versions(versions)?;
        let config = match self.client_roots(&read)? {
            None => config.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match self.client_certificates {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    ClientCertificates::Off | ClientCertificates::Required => verifier,
                };
                config.with_client_cert_verifier(
                    verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?,
                )
            }
        };
        let mut config = config.with_cert_resolver(Arc::clone(&identities) as _);
        config.alpn_protocols = alpn;
        // Sessions in the memory of one worker would be of no use to the others.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if self.tickets && self.client_certificates == ClientCertificates::Off {
            let tickets = |secret| Tickets::new(secret, Arc::clone(&time));
            let (tls13, tls12) = (tickets(tls13_secret), tls12_secret.map(tickets));
            config.ticketer = Arc::new(TicketsOfVersions { tls13, tls12 });
            config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        }
        let warnings = match time.current_time() {
            Some(now) => identities.warnings(system_time(now.as_secs())),
            None => Vec::new(),
        };
        Ok(Loaded { config: Config::new(config, self.limits), identities, warnings })
    }

    /// Warns of private keys that every user may read, according to `mode` ([`crate::files::mode`]). It is separate
    /// from [`load`](Self::load), which also works in a process that gets contents from another one and has no files. A
    /// file of unknown permissions is skipped.
    pub fn exposed_keys(&self, mode: impl Fn(&Path) -> io::Result<u32>) -> Vec<Warning> {
        let keys = self.certificates.iter().map(|files| &files.key);
        let exposed = keys.filter_map(|file| {
            let mode = mode(file).ok().filter(|mode| mode & MODE_OTHERS != 0)?;
            Some(Warning { file: file.clone(), line: None, concern: Concern::KeyExposed { mode } })
        });
        exposed.collect()
    }

    fn identities(
        &self,
        read: &impl Fn(&Path) -> Result<Zeroizing<Vec<u8>>, SettingsError>,
    ) -> Result<Identities, SettingsError> {
        let all = self.certificates.iter().map(|files| files.identity(read)).collect::<Result<_, _>>()?;
        Identities::new(all).ok_or(SettingsError::NoCertificates)
    }

    /// The authorities for clients, if clients are asked for certificates.
    fn client_roots(
        &self,
        read: &impl Fn(&Path) -> Result<Zeroizing<Vec<u8>>, SettingsError>,
    ) -> Result<Option<RootCertStore>, SettingsError> {
        let file = match (self.client_certificates, &self.client_ca) {
            (ClientCertificates::Off, None) => return Ok(None),
            (ClientCertificates::Off, Some(_)) => return Err(SettingsError::ClientCaUnused),
            (wanted, None) => return Err(SettingsError::NoClientCa(wanted)),
            (_, Some(file)) => file,
        };
        roots(file, read).map(Some)
    }
}

/// The authorities of a file in PEM.
pub(crate) fn roots(
    file: &Path,
    read: &impl Fn(&Path) -> Result<Zeroizing<Vec<u8>>, SettingsError>,
) -> Result<RootCertStore, SettingsError> {
    let contents = read(file)?;
    let mut roots = RootCertStore::empty();
    for (at, (line, der)) in certificate::certificates(Pem { file, bytes: &contents })?.into_iter().enumerate() {
        let problem = Problem::UnreadableCertificate { position: at + 1 };
        roots.add(der).map_err(|_| Error { file: file.to_owned(), line: Some(line), problem })?;
    }
    Ok(roots)
}

/// Protocols for ALPN, in rustls's form.
pub(crate) fn checked_alpn(protocols: &[String]) -> Result<Vec<Vec<u8>>, SettingsError> {
    for (at, protocol) in protocols.iter().enumerate() {
        if protocol.is_empty() || protocol.len() > PROTOCOL_BYTES_MAX {
            return Err(SettingsError::ProtocolLength(protocol.clone()));
        }
        if protocols[..at].contains(protocol) {
            return Err(SettingsError::ProtocolTwice(protocol.clone()));
        }
    }
    Ok(protocols.iter().map(|protocol| protocol.clone().into_bytes()).collect())
}

/// rustls's provider with the suites that may be used: of these names and versions, or all if no name is given.
pub(crate) fn provider(
    suites: &[String],
    versions: &[&SupportedProtocolVersion],
    of_old_version: impl Fn(String) -> SettingsError,
) -> Result<CryptoProvider, SettingsError> {
    let mut provider = aws_lc_rs::default_provider();
    if suites.is_empty() {
        return Ok(provider);
    }
    let known = std::mem::take(&mut provider.cipher_suites);
    for name in suites {
        let suite = known.iter().find(|suite| choices::suite_name(suite.suite()) == *name);
        let suite = suite.ok_or_else(|| SettingsError::Suite { name: name.clone() })?;
        if !versions.contains(&suite.version()) {
            return Err(of_old_version(name.clone()));
        }
        if provider.cipher_suites.contains(suite) {
            return Err(SettingsError::SuiteTwice(name.clone()));
        }
        provider.cipher_suites.push(*suite);
    }
    Ok(provider)
}

/// Adds the file's name to errors.
pub(crate) fn reading(
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> impl Fn(&Path) -> Result<Zeroizing<Vec<u8>>, SettingsError> {
    move |file: &Path| match read(file) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(error) => Err(SettingsError::Read { file: file.to_owned(), error: Arc::new(error) }),
    }
}

impl Version {
    pub(crate) fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        static TLS_1_3: [&SupportedProtocolVersion; 1] = [&version::TLS13];
        match self {
            Self::Tls12 => rustls::ALL_VERSIONS,
            Self::Tls13 => &TLS_1_3,
        }
    }
}

/// A clock may report any number of seconds; for an impossible time, 1970 is used instead.
fn system_time(since_1970_seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(since_1970_seconds)).unwrap_or(UNIX_EPOCH)
}
