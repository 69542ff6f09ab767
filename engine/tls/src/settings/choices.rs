//! Words of a configuration.

use std::fmt;
use std::str::FromStr;

use rustls::CipherSuite;
use rustls::crypto::aws_lc_rs;

/// A word that is none of the expected ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {wanted}, not {found:?}")]
pub struct Unknown {
    /// The expected words.
    pub wanted: &'static str,
    /// The word.
    pub found: String,
}

/// Whether clients are asked for certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// No: `off`.
    #[default]
    Off,
    /// Yes, and those without one are accepted: `optional`. A certificate that does not verify ends the handshake.
    Optional,
    /// Yes, and those without one are refused: `required`.
    Required,
}

impl FromStr for ClientCertificates {
    type Err = Unknown;

    fn from_str(word: &str) -> Result<Self, Unknown> {
        let all = [Self::Off, Self::Optional, Self::Required];
        let found = all.into_iter().find(|one| one.to_string() == word);
        found.ok_or_else(|| Unknown { wanted: "off, optional or required", found: word.to_owned() })
    }
}

impl fmt::Display for ClientCertificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        })
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2: `1.2`.
    Tls12,
    /// TLS 1.3: `1.3`.
    #[default]
    Tls13,
}

impl FromStr for Version {
    type Err = Unknown;

    fn from_str(word: &str) -> Result<Self, Unknown> {
        let found = [Self::Tls12, Self::Tls13].into_iter().find(|one| one.to_string() == word);
        found.ok_or_else(|| Unknown { wanted: "1.2 or 1.3", found: word.to_owned() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

/// The suites that can be chosen, by their names in the registry: `TLS_AES_128_GCM_SHA256` and so on.
pub fn suite_names() -> Vec<String> {
    aws_lc_rs::ALL_CIPHER_SUITES.iter().map(|suite| suite_name(suite.suite())).collect()
}

/// For suites of TLS 1.3 rustls includes the version in the name.
pub(super) fn suite_name(suite: CipherSuite) -> String {
    let name = format!("{suite:?}");
    match name.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => name,
    }
}
