//! TLS settings from flags and files, and the listener layer that is made from them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use baton::config::InvalidSetting;
use baton::layer::SharedLayers;
use baton_tls::certificate::Warning;
use baton_tls::files;
use baton_tls::layer::Tls;
use baton_tls::settings::{CertificateFiles, ClientCertificates, Settings, SettingsError, Version};
use serde::{Deserialize, Deserializer, de};

use crate::config::choices;

/// The prefix of an address that uses TLS.
pub const SCHEME: &str = "tls://";

/// A certificate and its key, as a table of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateChoice {
    certificate: PathBuf,
    key: PathBuf,
}

/// One of the words that a setting accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<T>(pub T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

choices! {
    /// Section `[tls]`; see [`Settings`].
    #[expect(missing_docs, reason = "documented in Settings")]
    TlsChoices {
        certificates: Vec<CertificateChoice>,
        client_certificates: Word<ClientCertificates>,
        client_ca: PathBuf,
        version_min: Word<Version>,
        suites: Vec<String>,
        tickets: bool,
    }
}

impl TlsChoices {
    /// A certificate and its key, given by flags.
    pub fn of_files(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Self {
        let both = certificate.zip(key);
        let certificates = both
            .map(|(certificate, key)| vec![CertificateChoice { certificate: certificate.clone(), key: key.clone() }]);
        Self { certificates, ..Self::default() }
    }

    /// Adds the defaults of settings that are not given.
    pub(crate) fn settings(self) -> Settings {
        let defaults = Settings::default();
        let files = |CertificateChoice { certificate, key }| CertificateFiles { certificate, key };
        Settings {
            certificates: self.certificates.unwrap_or_default().into_iter().map(files).collect(),
            client_certificates: self.client_certificates.map_or(defaults.client_certificates, |word| word.0),
            client_ca: self.client_ca,
            version_min: self.version_min.map_or(defaults.version_min, |word| word.0),
            suites: self.suites.unwrap_or_default(),
            tickets: self.tickets.unwrap_or(defaults.tickets),
            ..defaults
        }
    }
}

/// Reads the files.
///
/// # Errors
/// Names the setting, the file, and what to do.
pub(crate) fn load(settings: &Settings, alpn: &[&str]) -> Result<(SharedLayers, Vec<Warning>), InvalidSetting> {
    let settings = Settings { alpn: alpn.iter().map(|&name| name.to_owned()).collect(), ..settings.clone() };
    let invalid = |setting, problem: &dyn fmt::Display| InvalidSetting { setting, problem: problem.to_string() };
    if settings.certificates.is_empty() {
        return Err(invalid(
            "listen",
            &format_args!("{SCHEME} needs a certificate: give --tls-cert and --tls-key, or certificates in [tls]"),
        ));
    }
    let loaded = settings.load_by_key(files::read).map_err(|error| match error {
        SettingsError::NoClientCa(_) | SettingsError::ClientCaUnused => invalid("client_certificates", &error),
        SettingsError::Suite { .. } | SettingsError::SuiteOfOldVersion(_) | SettingsError::SuiteTwice(_) => {
            invalid("suites", &error)
        }
        _ => invalid("certificates", &error),
    })?;
    let mut warnings = loaded.warnings.clone();
    warnings.extend(settings.exposed_keys(files::mode));
    Ok((SharedLayers::new(Tls::from(loaded)), warnings))
}
