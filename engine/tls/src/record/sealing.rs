//! Sealing of application data.

use rustls::ContentType;

use super::Session;
use super::direction::TAG_BYTES;
use super::error::SealError;
use super::header::HEADER_BYTES;

/// Bytes behind the plaintext of a record: its content type and its tag.
pub const TRAILER_BYTES: usize = 1 + TAG_BYTES;

/// Bytes of a record beside its plaintext and padding.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TRAILER_BYTES;

impl Session {
    /// Seals one record where it lies: [`HEADER_BYTES`] of room, the plaintext, [`TRAILER_BYTES`] of room.
    ///
    /// # Errors
    /// See [`SealError`]; then `record` and the session are as they were.
    #[inline]
    pub fn seal(&mut self, record: &mut [u8]) -> Result<(), SealError> {
        self.seal_padded(record, 0)
    }

    /// As [`Session::seal`], with as many bytes of padding in the room behind the plaintext, which hide its length (RFC 8446
    /// section 5.4).
    ///
    /// # Errors
    /// See [`SealError`]; then `record` and the session are as they were.
    pub fn seal_padded(&mut self, record: &mut [u8], padding_bytes: usize) -> Result<(), SealError> {
        let length = record.len().checked_sub(OVERHEAD_BYTES).ok_or(SealError::Length)?;
        let plaintext_bytes = length.checked_sub(padding_bytes).ok_or(SealError::Length)?;
        if length > self.limits.plaintext_bytes_max {
            return Err(SealError::Length);
        }
        self.check()?;
        let behind = HEADER_BYTES + plaintext_bytes;
        record[behind] = ContentType::ApplicationData.into();
        record[behind + 1..][..padding_bytes].fill(0);
        self.sealing.seal(record);
        Ok(())
    }

    /// Seals plaintext from elsewhere and appends it to `output`: first the KeyUpdate that is due, if one is, then as many records
    /// as it takes. Encrypting is the only copy. Empty plaintext gives no record.
    ///
    /// # Errors
    /// [`SealError::Closed`]; then nothing was appended.
    pub fn seal_into(&mut self, plaintext: &[u8], output: &mut Vec<u8>) -> Result<(), SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        for part in plaintext.chunks(self.limits.plaintext_bytes_max) {
            if let Some(update) = self.next_update() {
                output.extend_from_slice(&update);
            }
            let start = output.len();
            output.resize(start + OVERHEAD_BYTES + part.len(), 0);
            self.sealing.seal_from(part, &mut output[start..]);
        }
        Ok(())
    }

    /// The key has sealed as many records as it may.
    pub(super) fn is_key_spent(&self) -> bool {
        self.limits.records_per_key_max.is_some_and(|most| self.sealing.sequence() >= most)
    }

    /// Puts content and its type into a record that is as long as it takes.
    pub(super) fn place(&self, content_type: ContentType, content: &[u8], record: &mut [u8]) {
        record[HEADER_BYTES..][..content.len()].copy_from_slice(content);
        record[HEADER_BYTES + content.len()] = content_type.into();
    }

    fn check(&self) -> Result<(), SealError> {
        if self.closed {
            Err(SealError::Closed)
        } else if self.owes_update || self.is_key_spent() {
            Err(SealError::UpdateFirst)
        } else {
            Ok(())
        }
    }
}
