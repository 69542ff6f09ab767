//! Certificates for tests.

use std::path::Path;
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};

use super::{Error, Identity, Pem};

pub(crate) static ECDSA: &SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
pub(crate) static RSA: &SignatureAlgorithm = &rcgen::PKCS_RSA_SHA256;

/// A certificate authority.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().expect("a key"));
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().expect("a key"));
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// The PEM of a certificate for these names, and of its key.
    pub(crate) fn sign(&self, names: &[&str], kind: &'static SignatureAlgorithm) -> (String, String) {
        self.sign_with(params(names), kind)
    }

    pub(crate) fn sign_with(&self, params: CertificateParams, kind: &'static SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(kind).expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }
}

pub(crate) fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names")
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(&[]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A certificate that is valid only in this period.
pub(crate) fn valid_between(
    mut params: CertificateParams,
    not_before: SystemTime,
    not_after: SystemTime,
) -> CertificateParams {
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params
}

/// The identity of `cert.pem` and `key.pem`.
pub(crate) fn identity(certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Identity, Error> {
    Identity::from_pem(
        Pem { file: Path::new("cert.pem"), bytes: certificate.as_ref() },
        Pem { file: Path::new("key.pem"), bytes: key.as_ref() },
    )
}
