//! Seals application data.

use rustls::ContentType;

use super::control::CONTROL_BYTES_MAX;
use super::direction::TAG_BYTES;
use super::error::{Error, SealError};
use super::header::HEADER_BYTES;
use super::{Session, tls12};

/// Bytes after the plaintext of a record of TLS 1.3: its content type and its tag.
pub const TRAILER_BYTES: usize = 1 + TAG_BYTES;

/// Bytes of a record of TLS 1.3 besides its plaintext and padding.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TRAILER_BYTES;

impl Session {
    /// Seals one record of TLS 1.3 in place: [`HEADER_BYTES`] of room, the plaintext, [`TRAILER_BYTES`] of room.
    ///
    /// # Errors
    /// See [`SealError`]; `record` and the session are then unchanged.
    #[inline]
    pub fn seal(&mut self, record: &mut [u8]) -> Result<(), SealError> {
        self.seal_padded(record, 0)
    }

    /// As [`Session::seal`], with this many bytes of padding in the room after the plaintext, which hide its length
    /// (RFC 8446 section 5.4).
    ///
    /// # Errors
    /// See [`SealError`]; `record` and the session are then unchanged.
    pub fn seal_padded(&mut self, record: &mut [u8], padding_bytes: usize) -> Result<(), SealError> {
        let length = record.len().checked_sub(OVERHEAD_BYTES).ok_or(SealError::Length)?;
        let plaintext_bytes = length.checked_sub(padding_bytes).ok_or(SealError::Length)?;
        if length > self.limits.plaintext_bytes_max {
            return Err(SealError::Length);
        }
        self.check()?;
        if self.is_tls12 {
            return Err(SealError::OfTls13);
        }
        let behind = HEADER_BYTES + plaintext_bytes;
        record[behind] = ContentType::ApplicationData.into();
        record[behind + 1..][..padding_bytes].fill(0);
        self.sealing.seal(record);
        Ok(())
    }

    /// The most bytes that [`Session::seal_to`] writes for this many bytes of plaintext.
    pub fn sealed_bytes_max(&self, plaintext_bytes: usize) -> usize {
        let records = plaintext_bytes.div_ceil(self.limits.plaintext_bytes_max);
        let of_one_key = usize::try_from(self.limits.records_per_key_max).unwrap_or(usize::MAX);
        // One may be due at once.
        let controls = if records == 0 { 0 } else { 1 + records / of_one_key };
        plaintext_bytes + records * self.overhead_bytes() + controls * CONTROL_BYTES_MAX
    }

    /// Seals plaintext from another buffer into `output`: first the KeyUpdate that is due, if any, then as many records
    /// as needed. Encryption is the only copy. Returns how many bytes of `output` must be sent. Empty plaintext makes
    /// no record.
    ///
    /// # Errors
    /// [`SealError::Closed`], [`SealError::KeySpent`], and [`SealError::Length`] if `output` is shorter than
    /// [`Session::sealed_bytes_max`]; nothing was written then.
    pub fn seal_to(&mut self, plaintext: &[u8], output: &mut [u8]) -> Result<usize, SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        if output.len() < self.sealed_bytes_max(plaintext.len()) {
            return Err(SealError::Length);
        }
        if self.is_tls12 && self.is_key_exhausted(plaintext.len().div_ceil(self.limits.plaintext_bytes_max)) {
            self.failure.get_or_insert(Error::KeySpent);
            return Err(SealError::KeySpent);
        }
        let mut written = 0;
        for part in plaintext.chunks(self.limits.plaintext_bytes_max) {
            if let Some(control) = self.next_control() {
                output[written..][..control.len()].copy_from_slice(&control);
                written += control.len();
            }
            let record_bytes = self.overhead_bytes() + part.len();
            let record = &mut output[written..][..record_bytes];
            if self.is_tls12 {
                self.sealing.seal_tls12(ContentType::ApplicationData, part, record);
            } else {
                self.sealing.seal_from(part, record);
            }
            written += record_bytes;
        }
        Ok(written)
    }

    /// As [`Session::seal_to`], at the end of `output`.
    ///
    /// # Errors
    /// [`SealError::Closed`] and [`SealError::KeySpent`]; nothing was appended then.
    pub fn seal_into(&mut self, plaintext: &[u8], output: &mut Vec<u8>) -> Result<(), SealError> {
        let start = output.len();
        output.resize(start + self.sealed_bytes_max(plaintext.len()), 0);
        let sealed = self.seal_to(plaintext, &mut output[start..]);
        output.truncate(start + sealed.unwrap_or(0));
        sealed.map(drop)
    }

    /// Bytes of a record besides its plaintext.
    #[inline]
    pub fn overhead_bytes(&self) -> usize {
        if self.is_tls12 { tls12::overhead_bytes(self.suite()) } else { OVERHEAD_BYTES }
    }

    /// Whether the key has sealed as many records as it may before another one replaces it.
    pub(super) fn is_key_spent(&self) -> bool {
        self.sealing.sequence() >= self.limits.records_per_key_max
    }

    /// Puts content and its type into a record of the right length.
    pub(super) fn place(&self, content_type: ContentType, content: &[u8], record: &mut [u8]) {
        record[HEADER_BYTES..][..content.len()].copy_from_slice(content);
        record[HEADER_BYTES + content.len()] = content_type.into();
    }

    fn check(&self) -> Result<(), SealError> {
        if self.closed {
            Err(SealError::Closed)
        } else if self.owes_answer || self.is_key_spent() {
            Err(SealError::UpdateFirst)
        } else {
            Ok(())
        }
    }
}
