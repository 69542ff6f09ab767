//! Certificates and private keys from PEM files, and which of them a client gets.
//!
//! An [`Identity`] is a chain of certificates with the private key of the first; [`Identities`] are all that a server has. Every
//! [`Error`] names the file, the line, and what to do.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//!
//! use baton_tls::certificate::{Identity, Pem};
//!
//! let certificate = Pem { file: Path::new("cert.pem"), bytes: b"" };
//! let key = Pem { file: Path::new("key.pem"), bytes: b"" };
//! let error = Identity::from_pem(certificate, key).expect_err("an empty file");
//! assert_eq!(
//!     error.to_string(),
//!     "cert.pem: no certificate in this file; it must hold one in PEM (-----BEGIN CERTIFICATE-----)"
//! );
//! # Ok(())
//! # }
//! ```

mod choice;
mod error;
#[cfg(test)]
pub(crate) mod made;
mod pem;
#[cfg(test)]
mod tests;
mod warning;
mod x509;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::{self, sign};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

pub use self::choice::Identities;
pub use self::error::{Error, Found, Problem};
pub use self::pem::Damage;
use self::pem::{Block, blocks};
pub use self::warning::{Concern, EXPIRY_NOTICE_DAYS, Warning};
use self::x509::Fields;
pub use self::x509::Name;

/// Most certificates in a chain. Three are usual; each is sent in each handshake.
pub const CHAIN_CERTIFICATES_MAX: usize = 10;

/// The contents of a PEM file, with the file's name for errors.
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// The file's name, as its operator writes it.
    pub file: &'a Path,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// Leaves out the bytes, which may contain a private key.
impl fmt::Debug for Pem<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pem").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A server's certificate, those of its issuers, and its private key.
#[derive(Debug)]
pub struct Identity {
    file: PathBuf,
    names: Vec<Name>,
    /// Of each certificate of the chain.
    periods: Vec<Period>,
    certified: Arc<CertifiedKey>,
}

/// The validity of a certificate.
#[derive(Clone, Copy, Debug)]
struct Period {
    /// The line in which the certificate begins.
    line: usize,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Identity {
    /// Reads a chain of certificates, the server's first, and the private key of the server's. Both may be in the same
    /// file. PEM blocks of other kinds and text between the blocks are ignored. The only remaining copy of the key is
    /// the one that signs.
    ///
    /// Each certificate after the first must have signed one before it; the root may be left out. Dates and names are
    /// not checked: see [`warnings`](Self::warnings).
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn from_pem(certificate: Pem<'_>, key: Pem<'_>) -> Result<Self, Error> {
        let chain = certificates(certificate)?;
        if let Some((line, _)) = chain.get(CHAIN_CERTIFICATES_MAX) {
            return Err(Error::new(certificate.file, *line, Problem::LongChain));
        }
        let fields = read_all(certificate.file, &chain)?;
        let (key_line, signing_key) = private_key(key)?;
        let is_key_of = |fields: &Fields<'_>| {
            // A key that does not expose its public half is accepted without this check, as rustls does.
            signing_key.public_key().is_none_or(|info| info.as_ref() == fields.key_info)
        };
        if !is_key_of(&fields[0]) {
            let position = fields.iter().position(is_key_of).map(|at| at + 1);
            let problem = Problem::OtherKey { certificate: certificate.file.to_owned(), position };
            return Err(Error::new(key.file, key_line, problem));
        }
        if let Some(at) = first_stranger(&fields) {
            let problem = Problem::DoesNotSign { position: at + 1 };
            return Err(Error::new(certificate.file, chain[at].0, problem));
        }
        let periods = chain.iter().zip(&fields).map(|((line, _), fields)| Period {
            line: *line,
            not_before: fields.not_before,
            not_after: fields.not_after,
        });
        Ok(Self {
            file: certificate.file.to_owned(),
            names: fields[0].names.clone(),
            periods: periods.collect(),
            certified: Arc::new(CertifiedKey::new(chain.into_iter().map(|(_, der)| der).collect(), signing_key)),
        })
    }

    /// The file of the certificate.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The names that the certificate is for: the hosts and addresses in its subjectAltName. The common name does not
    /// count, as in all present clients.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// When the server's certificate becomes valid.
    pub fn not_before(&self) -> SystemTime {
        self.periods[0].not_before
    }

    /// When the server's certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.periods[0].not_after
    }

    /// When the first certificate of the chain expires.
    pub fn expires(&self) -> SystemTime {
        self.periods.iter().map(|period| period.not_after).min().unwrap_or_else(|| self.not_after())
    }

    /// The certified key for rustls.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Warnings for the operator at the time `now`: certificates of the chain that have expired, will soon
    /// ([`EXPIRY_NOTICE_DAYS`]) or are not yet valid, and a certificate without names.
    pub fn warnings(&self, now: SystemTime) -> Vec<Warning> {
        warning::of(self, now)
    }
}

/// The certificates of a file, with the lines in which they begin: at least one, not parsed.
///
/// # Errors
/// If it is not a PEM file, is damaged, or has no certificate.
pub(crate) fn certificates(pem: Pem<'_>) -> Result<Vec<(usize, CertificateDer<'static>)>, Error> {
    let mut certificates = Vec::new();
    for block in blocks(pem.bytes) {
        let block = block.map_err(|(line, damage)| Error::new(pem.file, line, damage))?;
        // Older programs write the second label.
        if matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE") {
            let der = block.decode().map_err(|damage| Error::new(pem.file, block.line, damage))?;
            certificates.push((block.line, CertificateDer::from(der.to_vec())));
        }
    }
    if certificates.is_empty() {
        return Err(Error::new(pem.file, None, Problem::NoCertificate(found(pem.bytes))));
    }
    Ok(certificates)
}

fn read_all<'a>(file: &Path, chain: &'a [(usize, CertificateDer<'static>)]) -> Result<Vec<Fields<'a>>, Error> {
    let fields = chain.iter().enumerate().map(|(at, (line, der))| {
        let problem = Problem::UnreadableCertificate { position: at + 1 };
        Fields::read(der).map_err(|_| Error::new(file, *line, problem))
    });
    fields.collect()
}

/// The index of the first certificate that has signed none before it.
fn first_stranger(chain: &[Fields<'_>]) -> Option<usize> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    // If no algorithm can decide, it is left to clients.
    let has_signed = |issuer, one: &Fields<'_>| one.is_signed_by(issuer, algorithms) != Some(false);
    (1..chain.len()).find(|at| !chain[..*at].iter().any(|one| has_signed(&chain[*at], one)))
}

/// The private key of a file, and the line in which it begins.
fn private_key(pem: Pem<'_>) -> Result<(usize, Arc<dyn SigningKey>), Error> {
    let mut found_key: Option<Block<'_>> = None;
    for block in blocks(pem.bytes) {
        let block = block.map_err(|(line, damage)| Error::new(pem.file, line, damage))?;
        let error = |problem: Problem| Err(Error::new(pem.file, block.line, problem));
        match block.label {
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" if !block.is_encrypted => {}
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
                return error(Problem::EncryptedKey);
            }
            _ => continue,
        }
        if found_key.replace(block).is_some() {
            return error(Problem::SecondKey);
        }
    }
    let Some(block) = found_key else {
        return Err(Error::new(pem.file, None, Problem::NoKey(found(pem.bytes))));
    };
    let der = block.decode().map_err(|damage| Error::new(pem.file, block.line, damage))?;
    let der: &[u8] = &der;
    let key: PrivateKeyDer<'_> = match block.label {
        "PRIVATE KEY" => PrivatePkcs8KeyDer::from(der).into(),
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der).into(),
        _ => PrivateSec1KeyDer::from(der).into(),
    };
    match sign::any_supported_type(&key) {
        Ok(key) => Ok((block.line, key)),
        Err(_) => Err(Error::new(pem.file, block.line, Problem::UnusableKey)),
    }
}

/// What a file holds that lacks the wanted block.
fn found(file: &[u8]) -> Found {
    match blocks(file).next() {
        Some(Ok(block)) => Found::Block(block.label.to_owned()),
        _ if x509::is_sequence(file) => Found::Der,
        _ => Found::Nothing,
    }
}
