//! An operator's TLS settings for outbound connections, and the [`Config`] made from them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::Config;
use crate::record::Limits;
use crate::settings::{CertificateFiles, SettingsError, Version, checked_alpn, provider, reading, roots};

/// Number of servers whose tickets are kept by default.
const SESSIONS_MAX: usize = 256;

/// TLS of outbound connections: TLS 1.3, with the server's certificate verified always.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use baton_tls::connect::ClientSettings;
/// use baton_tls::files;
///
/// let settings = ClientSettings { alpn: vec!["http/1.1".to_owned()], ..ClientSettings::new("missing/ca.pem") };
/// let error = settings.load(files::read).expect_err("no such file");
/// assert!(error.to_string().starts_with("cannot read missing/ca.pem: "));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The authorities whose servers are trusted, in PEM. There is no default: a program that connects must decide whom
    /// it trusts. The authorities that the system trusts are also in a file: `/etc/ssl/certs/ca-certificates.crt` on
    /// Debian, Alpine and Arch, `/etc/pki/tls/certs/ca-bundle.crt` on Fedora and RHEL. The system keeps it up to date,
    /// and a reload reads it again.
    pub ca: PathBuf,
    /// The client's certificate for servers that ask for one.
    pub certificate: Option<CertificateFiles>,
    /// Protocols that the server may choose from, in order of preference. Empty: ALPN is not used.
    pub alpn: Vec<String>,
    /// Suites that may be used, by their names in the registry, in order of preference. Empty: all TLS 1.3 suites of
    /// rustls.
    pub suites: Vec<String>,
    /// Number of servers whose tickets a worker keeps in its memory, up to eight of each, to avoid certificates in
    /// later handshakes; default 256, 0 for no resumption.
    pub sessions_max: usize,
    /// Limits of each connection's records.
    pub limits: Limits,
}

impl ClientSettings {
    /// Trusts these authorities.
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self {
            ca: ca.into(),
            certificate: None,
            alpn: Vec::new(),
            suites: Vec::new(),
            sessions_max: SESSIONS_MAX,
            limits: Limits::default(),
        }
    }

    /// Reads the files and checks everything. `read` returns a file's contents ([`crate::files::read`]); they are
    /// zeroised after use.
    ///
    /// # Errors
    /// The first problem, with the file's name and what to do.
    pub fn load(&self, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Config, SettingsError> {
        self.load_at(Arc::new(DefaultTimeProvider), read)
    }

    /// As [`load`](Self::load), with a clock, which decides which certificates have expired.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_at(
        &self,
        time: Arc<dyn TimeProvider>,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Config, SettingsError> {
        let alpn = checked_alpn(&self.alpn)?;
        let versions = Version::Tls13.and_newer();
        let provider = Arc::new(provider(&self.suites, versions, SettingsError::SuiteNotOfClients)?);
        let read = reading(read);
        let config = ClientConfig::builder_with_details(provider, time).with_protocol_versions(versions)?;
        let config = config.with_root_certificates(roots(&self.ca, &read)?);
        let mut config = match &self.certificate {
            None => config.with_no_client_auth(),
            Some(files) => {
                let identity = files.identity(&read)?;
                let own = SingleCertAndKey::from(Arc::clone(identity.certified_key()));
                config.with_client_cert_resolver(Arc::new(own))
            }
        };
        config.alpn_protocols = alpn;
        config.resumption = match self.sessions_max {
            0 => Resumption::disabled(),
            most => Resumption::in_memory_sessions(most),
        };
        Ok(Config::new(config, self.limits))
    }
}
