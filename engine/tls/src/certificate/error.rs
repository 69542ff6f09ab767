//! What is wrong with a file of certificates or keys, and what to do about it.

use std::path::{Path, PathBuf};

use super::CHAIN_CERTIFICATES_MAX;
use super::pem::Damage;

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", file.display(), At(*line))]
pub struct Error {
    /// The file's name.
    pub file: PathBuf,
    /// The line that the PEM block begins in; the first is 1. `None` where the problem is the whole file's.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: Problem,
}

impl Error {
    pub(super) fn new(file: &Path, line: impl Into<Option<usize>>, problem: impl Into<Problem>) -> Self {
        Self { file: file.to_owned(), line: line.into(), problem: problem.into() }
    }
}

/// What is wrong with a file of certificates or keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is no PEM file, or a damaged one.
    #[error(transparent)]
    Pem(#[from] Damage),
    /// No block is a certificate.
    #[error("no certificate in this file; it must hold one in PEM (-----BEGIN CERTIFICATE-----){0}")]
    NoCertificate(Found),
    /// No block is a private key.
    #[error("no private key in this file; it must hold a PKCS#8, SEC1 or PKCS#1 key in PEM{0}")]
    NoKey(Found),
    /// The key's file has more than one.
    #[error("a second private key; the file must hold one")]
    SecondKey,
    /// The key can only be read with a passphrase.
    #[error(
        "the private key is encrypted; a server cannot ask for the passphrase: decrypt the key with `openssl pkey`"
    )]
    EncryptedKey,
    /// The key is damaged, or of a kind that rustls does not sign with.
    #[error(
        "the private key cannot be used: it must be RSA of 2048 to 8192 bits, ECDSA of the curve P-256, P-384 or P-521, or Ed25519, and undamaged"
    )]
    UnusableKey,
    /// A block that should be a certificate is not.
    #[error("the {} certificate cannot be read: its contents are no X.509 certificate", ordinal(*position))]
    UnreadableCertificate {
        /// Its place in the file; the first is 1.
        position: usize,
    },
    /// A certificate that has signed none of those before it.
    #[error("the {} certificate does not sign {}", ordinal(*position), signs(*position))]
    DoesNotSign {
        /// Its place in the chain; the first is 1.
        position: usize,
    },
    /// More than [`CHAIN_CERTIFICATES_MAX`].
    #[error(
        "a chain of more than {CHAIN_CERTIFICATES_MAX} certificates; it must hold the server's certificate and those of its issuers"
    )]
    LongChain,
    /// The key is another certificate's.
    #[error("the key does not belong to the {} in {}{}", if position.is_some() { "first certificate" } else { "certificate" }, certificate.display(), belongs(*position))]
    OtherKey {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The place of the certificate that it does belong to, if that is in the file.
        position: Option<usize>,
    },
}

/// What was found where a certificate or a key was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No PEM block.
    Nothing,
    /// DER, which is binary.
    Der,
    /// A PEM block with this label, the first of the file.
    Block(String),
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Der => formatter.write_str(
                "; the file seems to be DER: convert it with `openssl x509 -inform der` or `openssl pkey -inform der`",
            ),
            Self::Block(label) => write!(formatter, "; the file holds {label}"),
        }
    }
}

/// The line, if there is one.
pub(super) struct At(pub(super) Option<usize>);

impl std::fmt::Display for At {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(formatter, " line {line}"))
    }
}

/// The word for a position: "third" for 3.
pub(super) fn ordinal(position: usize) -> String {
    const WORDS: [&str; 10] =
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];
    position.checked_sub(1).and_then(|at| WORDS.get(at)).map_or_else(|| format!("{position}th"), ToString::to_string)
}

fn signs(position: usize) -> &'static str {
    if position == 2 {
        "the first: after the server's certificate must come its issuer's"
    } else {
        "any before it: each must be the issuer's of one before it"
    }
}

fn belongs(position: Option<usize>) -> String {
    position.map_or_else(
        || ": are these files of different pairs?".to_owned(),
        |position| format!(" but to the {}: the server's certificate must come first", ordinal(position)),
    )
}
