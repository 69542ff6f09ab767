//! The five bytes before a record.

use rustls::ContentType;

use super::error::Error;

/// Bytes before the encrypted part of a record: its type, its version and its length.
pub const HEADER_BYTES: usize = 5;

/// The most bytes of plaintext in a record (RFC 8446 section 5.1).
pub const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

/// The most bytes of the encrypted part of a record (section 5.2).
pub(crate) const ENCRYPTED_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + 256;

/// The most bytes of a record with its header: no buffer need be larger.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + ENCRYPTED_BYTES_MAX;

/// `legacy_record_version` of every encrypted record, and the version of TLS 1.2.
pub(super) const VERSION: [u8; 2] = [3, 3];

/// The header of a record with this many encrypted bytes.
pub(crate) fn header(encrypted_bytes: usize) -> [u8; HEADER_BYTES] {
    header_of(ContentType::ApplicationData, encrypted_bytes)
}

/// As [`header`], for any type: the types of TLS 1.2 are not encrypted.
pub(super) fn header_of(content_type: ContentType, encrypted_bytes: usize) -> [u8; HEADER_BYTES] {
    let [high, low] = (encrypted_bytes as u16).to_be_bytes();
    [content_type.into(), VERSION[0], VERSION[1], high, low]
}

/// The header at the start of the received bytes, and the length of the encrypted part; `None` if the header is
/// incomplete.
///
/// # Errors
/// As soon as no encrypted record begins like that: another type, such as a `change_cipher_spec` after the handshake or
/// plaintext; another version; or more bytes than a record may have.
#[inline]
pub(crate) fn read(received: &[u8]) -> Result<Option<([u8; HEADER_BYTES], usize)>, Error> {
    if let Some(record_type) = received.first().filter(|first| **first != header(0)[0]) {
        return Err(Error::RecordType(*record_type));
    }
    behind_type(received)
}

/// As [`read`], for TLS 1.2. A record that is longer than AEADs make of the longest plaintext is refused at once. RFC
/// 5246 section 6.2.3 allows more (2^14 + 2048 bytes), which compression and block ciphers would need.
///
/// # Errors
/// Those of [`read`].
pub(super) fn read_tls12(received: &[u8]) -> Result<Option<([u8; HEADER_BYTES], usize)>, Error> {
    let is_known = |record_type: &u8| {
        let known = [ContentType::ApplicationData, ContentType::Alert, ContentType::Handshake];
        known.contains(&ContentType::from(*record_type))
    };
    if let Some(record_type) = received.first().filter(|first| !is_known(first)) {
        return Err(Error::RecordType(*record_type));
    }
    behind_type(received)
}

#[inline]
fn behind_type(received: &[u8]) -> Result<Option<([u8; HEADER_BYTES], usize)>, Error> {
    if let Some([_, major, minor]) = received.first_chunk().filter(|[_, major, minor]| [*major, *minor] != VERSION) {
        return Err(Error::Version(u16::from_be_bytes([*major, *minor])));
    }
    let Some(header) = received.first_chunk::<HEADER_BYTES>().copied() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length > ENCRYPTED_BYTES_MAX { Err(Error::RecordOverflow) } else { Ok(Some((header, length))) }
}
