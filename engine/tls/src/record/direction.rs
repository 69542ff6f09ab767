//! One direction of a connection: the source of its keys, its keys and its sequence number.

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ContentType;
use zeroize::Zeroizing;

use super::error::Error;
use super::header::{HEADER_BYTES, header};
use crate::schedule::{NONCE_BYTES, Secret, Suite, TrafficKey};

/// Bytes of the tag of each suite's AEAD.
pub(crate) const TAG_BYTES: usize = 16;

/// ChaCha20-Poly1305 computes an extra block for a content type that is not directly after the plaintext. Up to this
/// size a copy is faster.
const COPIED_BYTES_MAX: usize = 2048;

pub(super) const PLAIN: &str = "lengths of records are far below those of an AEAD";

pub(crate) struct Direction {
    source: Source,
    /// Derived from the source; `Some` while they are needed.
    keys: Option<Keys>,
    pub(super) sequence: u64,
}

/// What another process needs to derive the keys.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// TLS 1.3: the next secret is derived from it, too.
    Secret(Secret),
    /// TLS 1.2: the key never changes.
    Key(TrafficKey),
}

pub(super) struct Keys {
    pub(super) key: LessSafeKey,
    pub(super) iv: Zeroizing<[u8; NONCE_BYTES]>,
}

impl Keys {
    fn of(source: &Source) -> Self {
        match source {
            Source::Secret(secret) => Self::of_key(&secret.traffic_key()),
            Source::Key(traffic_key) => Self::of_key(traffic_key),
        }
    }

    fn of_key(traffic_key: &TrafficKey) -> Self {
        let key = UnboundKey::new(traffic_key.suite().algorithm(), traffic_key.key());
        let key = key.expect("a key of the suite's length");
        Self { key: LessSafeKey::new(key), iv: Zeroizing::new(*traffic_key.iv()) }
    }

    /// RFC 8446 section 5.3.
    fn nonce(&self, sequence: u64) -> Nonce {
        let mut nonce: [u8; NONCE_BYTES] = *self.iv;
        for (byte, sequence) in nonce[NONCE_BYTES - 8..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Direction {
    /// Sequence numbers that a peer, or a thawed state, cannot reach by sending records.
    pub(crate) const SEQUENCE_MAX: u64 = 1 << 62;

    /// A direction of TLS 1.3.
    pub(crate) fn new(secret: Secret, sequence: u64) -> Self {
        Self::of(Source::Secret(secret), sequence)
    }

    pub(crate) fn of(source: Source, sequence: u64) -> Self {
        debug_assert!(sequence <= Self::SEQUENCE_MAX, "no connection has so many records");
        Self { source, keys: None, sequence }
    }

    #[inline]
    pub(crate) fn suite(&self) -> Suite {
        match &self.source {
            Source::Secret(secret) => secret.suite(),
            Source::Key(traffic_key) => traffic_key.suite(),
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The sequence number of the next record.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Drops the derived keys.
    pub(crate) fn rest(&mut self) {
        self.keys = None;
    }

    /// Changes to the next secret, for a KeyUpdate. TLS 1.2 has none.
    pub(crate) fn update(&mut self) {
        if let Source::Secret(secret) = &self.source {
            *self = Self::new(secret.next(), 0);
        }
    }

    /// Opens the encrypted part of a record of TLS 1.3 in place. Returns the length of `TLSInnerPlaintext` at its
    /// start.
    pub(crate) fn open(&mut self, header: [u8; HEADER_BYTES], encrypted: &mut [u8]) -> Result<usize, Error> {
        let (keys, nonce) = self.keys();
        let opened = keys.key.open_in_place(nonce, Aad::from(header), encrypted);
        let length = opened.map_err(|_| Error::BadRecordMac)?.len();
        self.sequence += 1;
        Ok(length)
    }

    /// Seals a record of TLS 1.3 in place: room for a header, `TLSInnerPlaintext`, room for a tag.
    pub(crate) fn seal(&mut self, record: &mut [u8]) {
        let (room, encrypted) = record.split_at_mut(HEADER_BYTES);
        room.copy_from_slice(&header(encrypted.len()));
        let aad = Aad::from(header(encrypted.len()));
        let (inner, tag_room) = encrypted.split_at_mut(encrypted.len() - TAG_BYTES);
        let (keys, nonce) = self.keys();
        let tag = keys.key.seal_in_place_separate_tag(nonce, aad, inner).expect(PLAIN);
        tag_room.copy_from_slice(tag.as_ref());
        self.sequence += 1;
    }

    /// Seals application data from another buffer into a record of TLS 1.3: its header, as many bytes as `plaintext`, a
    /// trailer.
    pub(crate) fn seal_from(&mut self, plaintext: &[u8], record: &mut [u8]) {
        if self.suite().is_chacha20() && plaintext.len() <= COPIED_BYTES_MAX {
            record[HEADER_BYTES..][..plaintext.len()].copy_from_slice(plaintext);
            record[HEADER_BYTES + plaintext.len()] = ContentType::ApplicationData.into();
            return self.seal(record);
        }
        let (room, encrypted) = record.split_at_mut(HEADER_BYTES);
        room.copy_from_slice(&header(encrypted.len()));
        let aad = Aad::from(header(encrypted.len()));
        let (content, trailer) = encrypted.split_at_mut(plaintext.len());
        let content_type = [ContentType::ApplicationData.into()];
        let (keys, nonce) = self.keys();
        let sealed = keys.key.seal_out_of_place_scatter(nonce, aad, plaintext, content, &content_type, trailer);
        sealed.expect(PLAIN);
        self.sequence += 1;
    }

    /// The keys with the nonce of the next record that is sent, or received if records carry none.
    pub(super) fn keys(&mut self) -> (&Keys, Nonce) {
        let keys = self.keys.get_or_insert_with(|| Keys::of(&self.source));
        let nonce = keys.nonce(self.sequence);
        (keys, nonce)
    }
}

impl fmt::Debug for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Direction")
            .field("source", &self.source)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}
