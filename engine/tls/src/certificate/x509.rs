//! The fields of a certificate (RFC 5280 section 4.1) that a server needs to know of its own.
//!
//! rustls-webpki exposes neither the dates nor the addresses; x509-parser exposes everything, and adds a dozen crates.
//! So the fields are read here, with the DER reader of RustCrypto. Nothing here decides about trust.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, str};

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber, Tagged as _};
use rustls::pki_types::SignatureVerificationAlgorithm;

/// `id-ce-subjectAltName`: 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];

/// Longest name of a host (RFC 1035 section 2.3.4).
const DNS_BYTES_MAX: usize = 253;

/// A name for which a certificate is valid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A host's name in lower case, without a dot at its end. Its first label may be `*`, which stands for any one label.
    Dns(Box<str>),
    /// An address. TLS clients do not send it, so it chooses no certificate.
    Address(IpAddr),
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

/// A certificate's fields, in their encoding unless stated otherwise.
pub(crate) struct Fields<'a> {
    /// The signed part.
    signed: &'a [u8],
    /// Contents of the AlgorithmIdentifier.
    signature_algorithm: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// `SubjectPublicKeyInfo`.
    pub(crate) key_info: &'a [u8],
    /// Contents of the AlgorithmIdentifier.
    key_algorithm: &'a [u8],
    key: &'a [u8],
    pub(crate) names: Vec<Name>,
}

impl<'a> Fields<'a> {
    pub(crate) fn read(certificate: &'a [u8]) -> der::Result<Self> {
        let mut outer = SliceReader::new(certificate)?;
        let mut whole = open(&mut outer)?;
        outer.finish()?;
        let signed = whole.tlv_bytes()?;
        let signature_algorithm = value(&mut whole, Tag::Sequence)?;
        let signature = bits(&mut whole)?;
        whole.finish()?;

        let mut outer = SliceReader::new(signed)?;
        let mut fields = open(&mut outer)?;
        if Tag::peek(&fields)? == explicit(0) {
            fields.tlv_bytes()?;
        }
        value(&mut fields, Tag::Integer)?;
        value(&mut fields, Tag::Sequence)?;
        let issuer = value(&mut fields, Tag::Sequence)?;
        let mut validity = open(&mut fields)?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        let subject = value(&mut fields, Tag::Sequence)?;
        let key_info = fields.tlv_bytes()?;
        let mut names = Vec::new();
        while !fields.is_finished() {
            let field = fields.decode::<AnyRef<'a>>()?;
            if field.tag() == explicit(3) {
                names = names_in(field.value())?;
            }
        }

        let mut outer = SliceReader::new(key_info)?;
        let mut of_key = open(&mut outer)?;
        let key_algorithm = value(&mut of_key, Tag::Sequence)?;
        let key = bits(&mut of_key)?;
        Ok(Self {
            signed,
            signature_algorithm,
            signature,
            issuer,
            subject,
            not_before,
            not_after,
            key_info,
            key_algorithm,
            key,
            names,
        })
    }

    /// Whether `issuer` has signed this certificate; `None` if none of the algorithms can decide.
    pub(crate) fn is_signed_by(
        &self,
        issuer: &Fields<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Option<bool> {
        if issuer.subject != self.issuer {
            return Some(false);
        }
        let of_signature =
            || algorithms.iter().filter(|one| one.signature_alg_id().as_ref() == self.signature_algorithm);
        let fits =
            |one: &&&dyn SignatureVerificationAlgorithm| one.public_key_alg_id().as_ref() == issuer.key_algorithm;
        if let Some(algorithm) = of_signature().find(fits) {
            return Some(algorithm.verify_signature(issuer.key, self.signed, self.signature).is_ok());
        }
        // An RSA key makes no ECDSA signature. But there are curves, and hashes for them, that are not known here.
        let is_of_kind = |one: &dyn SignatureVerificationAlgorithm| {
            identifier(one.public_key_alg_id().as_ref()) == identifier(issuer.key_algorithm)
        };
        let is_known = of_signature().next().is_some();
        (is_known && !of_signature().any(|one| is_of_kind(*one))).then_some(false)
    }
}

/// The OBJECT IDENTIFIER of an AlgorithmIdentifier's contents, without its parameters.
fn identifier(algorithm: &[u8]) -> Option<&[u8]> {
    value(&mut SliceReader::new(algorithm).ok()?, Tag::ObjectIdentifier).ok()
}

/// Whether a file is one SEQUENCE in DER, as are certificates and keys.
pub(super) fn is_sequence(file: &[u8]) -> bool {
    AnyRef::from_der(file).is_ok_and(|element| element.tag() == Tag::Sequence)
}

/// The names in the extensions.
fn names_in(extensions: &[u8]) -> der::Result<Vec<Name>> {
    let mut outer = SliceReader::new(extensions)?;
    let mut extensions = open(&mut outer)?;
    let mut names = Vec::new();
    while !extensions.is_finished() {
        let mut extension = open(&mut extensions)?;
        if value(&mut extension, Tag::ObjectIdentifier)? != SUBJECT_ALT_NAME {
            continue;
        }
        if Tag::peek(&extension)? == Tag::Boolean {
            extension.tlv_bytes()?;
        }
        let mut outer = SliceReader::new(value(&mut extension, Tag::OctetString)?)?;
        let mut general_names = open(&mut outer)?;
        while !general_names.is_finished() {
            let name = general_names.decode::<AnyRef<'_>>()?;
            names.extend(match name.tag() {
                tag if tag == implicit(2) => dns_name(name.value()),
                tag if tag == implicit(7) => address(name.value()),
                _ => None,
            });
        }
    }
    Ok(names)
}

/// A name that cannot be a host's is not one that a client could ask for.
fn dns_name(name: &[u8]) -> Option<Name> {
    let name = str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let host = name.strip_prefix("*.").unwrap_or(name);
    let is_host = host.split('.').all(|label| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    });
    (is_host && name.len() <= DNS_BYTES_MAX).then(|| Name::Dns(name.to_ascii_lowercase().into()))
}

fn address(bytes: &[u8]) -> Option<Name> {
    let of_4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    of_4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(Name::Address)
}

fn time(reader: &mut SliceReader<'_>) -> der::Result<SystemTime> {
    let since_1970 = match Tag::peek(reader)? {
        Tag::UtcTime => reader.decode::<UtcTime>()?.to_unix_duration(),
        _ => reader.decode::<GeneralizedTime>()?.to_unix_duration(),
    };
    Ok(UNIX_EPOCH + since_1970)
}

/// The contents of the next element, which must be a SEQUENCE.
fn open<'a>(reader: &mut SliceReader<'a>) -> der::Result<SliceReader<'a>> {
    SliceReader::new(value(reader, Tag::Sequence)?)
}

fn value<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    let element = AnyRef::from_der(reader.tlv_bytes()?)?;
    element.tag().assert_eq(tag)?;
    Ok(element.value())
}

/// A BIT STRING of whole bytes.
fn bits<'a>(reader: &mut SliceReader<'a>) -> der::Result<&'a [u8]> {
    match value(reader, Tag::BitString)?.split_first() {
        Some((0, bytes)) => Ok(bytes),
        _ => Err(Tag::BitString.value_error().into()),
    }
}

fn explicit(number: u32) -> Tag {
    Tag::ContextSpecific { constructed: true, number: TagNumber(number) }
}

fn implicit(number: u32) -> Tag {
    Tag::ContextSpecific { constructed: false, number: TagNumber(number) }
}
