//! Why settings cannot be used.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{ClientCertificates, suite_names};
use crate::certificate;

/// Why settings cannot be used. Settings are named by the fields of [`Settings`](super::Settings).
#[derive(Clone, Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no certificate to serve.
    #[error("certificates is empty: name a certificate and its private key")]
    NoCertificates,
    /// A file cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// The file's name.
        file: PathBuf,
        /// Why.
        error: Arc<io::Error>,
    },
    /// A file was read, and cannot be used.
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    /// Clients are asked for certificates that nothing can verify.
    #[error(
        "client_certificates is {0}, but client_ca is missing: name the file of the authorities whose clients are accepted"
    )]
    NoClientCa(ClientCertificates),
    /// Clients are not asked for certificates, although there are authorities to verify them with.
    #[error("client_ca is given, but client_certificates is off: set it to optional or required, or remove client_ca")]
    ClientCaUnused,
    /// The name of a protocol has an invalid length.
    #[error("alpn: a protocol has 1 to 255 bytes, unlike {0:?}")]
    ProtocolLength(String),
    /// A protocol is listed twice; the second could never be chosen.
    #[error("alpn: {0:?} is there twice; remove one")]
    ProtocolTwice(String),
    /// There is no such suite.
    #[error("suites: {name:?} is unknown; there are {}", suite_names().join(", "))]
    Suite {
        /// The unknown name.
        name: String,
    },
    /// The suite can never be used.
    #[error("suites: {0} is of TLS 1.2, but version_min is 1.3; remove the suite, or set version_min to 1.2")]
    SuiteOfOldVersion(String),
    /// Outbound connections do not use it.
    #[error("suites: {0} is of TLS 1.2, and outbound connections speak TLS 1.3 alone; remove the suite")]
    SuiteNotOfClients(String),
    /// A suite is listed twice.
    #[error("suites: {0} is there twice; remove one")]
    SuiteTwice(String),
    /// rustls does not accept the resulting configuration.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}
