//! TLS at a separate address, if there is a certificate.

use std::path::PathBuf;

use baton_tls::files;
use baton_tls::layer::Tls;
use baton_tls::settings::{CertificateFiles, Settings, SettingsError};

/// The layer of connections to the address for TLS; `None` if there is neither a certificate nor a key.
///
/// # Errors
/// Says which file is wrong, and what to do.
pub(crate) fn layer(certificate: PathBuf, key: PathBuf) -> Result<Option<Tls>, SettingsError> {
    if !certificate.exists() && !key.exists() {
        return Ok(None);
    }
    let certificates = vec![CertificateFiles { certificate, key }];
    let settings = Settings { certificates, alpn: vec!["http/1.1".to_owned()], ..Settings::default() };
    let loaded = settings.load_by_key(files::read)?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(Some(Tls::from(loaded)))
}
