//! Which certificates of a server are accepted.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Which certificates are accepted.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Any certificate, whatever its name and dates; the server must still have the key to it.
    Anybody,
    /// One of these, or one signed by one of these, for the right name.
    Certificates(Arc<[CertificateDer<'static>]>),
}

/// The certificates of a PEM file.
///
/// # Errors
/// If it cannot be read, or has none that can be trusted.
pub(crate) fn read_certificates(path: &Path) -> Result<Trust, String> {
    let wrong = |problem: String| format!("{}: {problem}", path.display());
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("not a file of PEM certificates: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong("it has no certificate between BEGIN CERTIFICATE and END CERTIFICATE".to_owned()));
    }
    roots(&certificates).map_err(wrong)?;
    Ok(Trust::Certificates(certificates.into()))
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        let added = roots.add(certificate.clone());
        added.map_err(|error| format!("certificate {} cannot be trusted: {error}", index + 1))?;
    }
    Ok(roots)
}

impl Trust {
    /// The verifier with which rustls checks the certificate of each server.
    ///
    /// # Errors
    /// If a certificate cannot be trusted.
    pub(super) fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let given = match self {
            Self::Anybody => None,
            Self::Certificates(certificates) => {
                let roots = Arc::new(roots(certificates)?);
                let signed = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
                Some((Arc::clone(certificates), signed.map_err(|error| error.to_string())?))
            }
        };
        Ok(Arc::new(Verifier { algorithms: provider.signature_verification_algorithms, given }))
    }
}

#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// Those that are accepted, and what tells whether one of these has signed another; anybody's where there is nothing.
    given: Option<(Arc<[CertificateDer<'static>]>, Arc<WebPkiServerVerifier>)>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some((certificates, signed)) = &self.given else { return Ok(ServerCertVerified::assertion()) };
        // What `openssl req -x509` makes is marked as an authority's, which webpki takes from no server.
        if certificates.contains(certificate) {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        signed.verify_server_cert(certificate, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
