//! Records of TLS 1.2 after the handshake (RFC 5246 section 6), with the AEADs of RFC 5288 and RFC 7905.
//!
//! There is no KeyUpdate and no padding, and each record shows its type. The only handshake message that a client may
//! send is a ClientHello, which requests another handshake. The first is refused with the warning `no_renegotiation`,
//! so that a client that does not need it continues. The second ends the connection, as with rustls (OpenSSL refuses
//! any number; BoringSSL and Go end with the first). The message need not be kept for that: it is skipped as it
//! arrives.

use std::ops::Range;

use aws_lc_rs::aead::{Aad, Nonce};
use rustls::{AlertDescription, ContentType};

use super::direction::{PLAIN, TAG_BYTES};
use super::error::Error;
use super::header::{self, HEADER_BYTES, PLAINTEXT_BYTES_MAX, VERSION};
use super::{Begun, Direction, Opened, Session};
use crate::schedule::{NONCE_BYTES, Suite};

/// The most bytes of a record besides its plaintext.
pub(super) const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES + 8 + TAG_BYTES;

/// Bytes of `additional_data` (RFC 5246 section 6.2.3.3).
const ADDITIONAL_BYTES: usize = 13;

/// Bytes of a handshake message's type and length.
const MESSAGE_HEADER_BYTES: usize = 4;

const CLIENT_HELLO: u8 = 1;

/// The most bytes of a ClientHello after its type and length: the limit of rustls for any message.
const HELLO_BYTES_MAX: u32 = 0xFFFF;

/// Bytes of a record besides its plaintext.
pub(super) fn overhead_bytes(suite: Suite) -> usize {
    HEADER_BYTES + suite.explicit_nonce_bytes() + TAG_BYTES
}

/// Bytes of a record with this many bytes of plaintext.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn sealed_bytes_tls12(suite: Suite, plaintext_bytes: usize) -> usize {
    overhead_bytes(suite) + plaintext_bytes
}

/// Handshakes that the peer requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusing {
    /// Missing bytes of a ClientHello.
    pub(crate) hello_bytes: u16,
    /// One was refused.
    pub(crate) has_refused: bool,
}

impl Direction {
    /// Opens the encrypted part of a record in place. Returns the range of the plaintext in it.
    fn open_tls12(&mut self, header: [u8; HEADER_BYTES], encrypted: &mut [u8]) -> Result<Range<usize>, Error> {
        let explicit = self.suite().explicit_nonce_bytes();
        let length = encrypted.len().checked_sub(explicit + TAG_BYTES).ok_or(Error::BadRecordMac)?;
        let aad = additional_data(self.sequence, header[0], length);
        let (carried, sealed) = encrypted.split_at_mut(explicit);
        let (keys, mut nonce) = self.keys();
        if explicit > 0 {
            // The peer may choose it freely (RFC 5288 section 3).
            let mut bytes: [u8; NONCE_BYTES] = *keys.iv;
            bytes[NONCE_BYTES - explicit..].copy_from_slice(carried);
            nonce = Nonce::assume_unique_for_key(bytes);
        }
        keys.key.open_in_place(nonce, aad, sealed).map_err(|_| Error::BadRecordMac)?;
        self.sequence += 1;
        Ok(explicit..explicit + length)
    }

    /// Seals content from another buffer into a record of the right length. The nonce is the IV xor the sequence
    /// number, as in TLS 1.3 and in rustls, which has sealed its Finished that way: with the number alone, the two
    /// could collide.
    pub(crate) fn seal_tls12(&mut self, content_type: ContentType, content: &[u8], record: &mut [u8]) {
        let explicit = self.suite().explicit_nonce_bytes();
        let (room, encrypted) = record.split_at_mut(HEADER_BYTES);
        room.copy_from_slice(&header::header_of(content_type, encrypted.len()));
        let aad = additional_data(self.sequence, content_type.into(), content.len());
        let (carried, sealed) = encrypted.split_at_mut(explicit);
        let (sealed, tag) = sealed.split_at_mut(content.len());
        let (keys, nonce) = self.keys();
        carried.copy_from_slice(&nonce.as_ref()[NONCE_BYTES - explicit..]);
        keys.key.seal_out_of_place_scatter(nonce, aad, content, sealed, &[], tag).expect(PLAIN);
        self.sequence += 1;
    }
}

/// RFC 5246 section 6.2.3.3.
fn additional_data(sequence: u64, content_type: u8, plaintext_bytes: usize) -> Aad<[u8; ADDITIONAL_BYTES]> {
    let mut data = [0; ADDITIONAL_BYTES];
    data[..8].copy_from_slice(&sequence.to_be_bytes());
    data[8] = content_type;
    data[9..11].copy_from_slice(&VERSION);
    data[11..].copy_from_slice(&(plaintext_bytes as u16).to_be_bytes());
    Aad::from(data)
}

impl Session {
    /// TLS 1.2: whether the key has sealed as many records as it should. It has no successor (RFC 9325 section 4.4), so
    /// the connection should end at the next opportunity. There is room for what is in progress.
    pub fn should_end(&self) -> bool {
        self.is_tls12 && self.is_key_spent()
    }

    /// Whether this many more records exceed what the key may seal: 1.4 times 2^24 is less than 2^24.5.
    pub(super) fn is_key_exhausted(&self, records: usize) -> bool {
        let most = self.limits.records_per_key_max;
        let most = most.saturating_add(most / 5 * 2).min(Direction::SEQUENCE_MAX);
        self.sealing.sequence().saturating_add(records as u64) > most
    }

    pub(super) fn open_first_tls12(&mut self, buffer: &mut [u8]) -> Result<Opened, Error> {
        let Some((header, encrypted_bytes)) = header::read_tls12(buffer)? else {
            return Ok(Opened::Incomplete { at_least: HEADER_BYTES });
        };
        let consumed = HEADER_BYTES + encrypted_bytes;
        let Some(encrypted) = buffer.get_mut(HEADER_BYTES..consumed) else {
            return Ok(Opened::Incomplete { at_least: consumed });
        };
        let found = self.opening.open_tls12(header, encrypted)?;
        if found.len() > PLAINTEXT_BYTES_MAX {
            return Err(Error::RecordOverflow);
        }
        let kind = ContentType::from(header[0]);
        let is_message_cut = self.begun.length > 0 || self.refusing.hello_bytes > 0;
        if is_message_cut && kind != ContentType::Handshake {
            return Err(Error::Interleaved);
        }
        let content = &encrypted[found.clone()];
        match kind {
            ContentType::ApplicationData => {
                if content.is_empty() {
                    self.count_idle()?;
                } else {
                    self.idle_records = 0;
                }
                let plaintext = HEADER_BYTES + found.start..HEADER_BYTES + found.end;
                return Ok(Opened::Data { consumed, plaintext });
            }
            _ if content.is_empty() => return Err(Error::EmptyContent(header[0])),
            ContentType::Handshake => self.refuse_handshake(content)?,
            _ => self.handle_alert_tls12(content)?,
        }
        if self.peer_closed {
            return Ok(Opened::Closed { consumed });
        }
        self.count_idle()?;
        Ok(Opened::Control { consumed })
    }

    /// Skips a part of a ClientHello, and owes the answer at its end. Any other message, or a second ClientHello, is
    /// refused at its first byte.
    fn refuse_handshake(&mut self, mut content: &[u8]) -> Result<(), Error> {
        while !content.is_empty() {
            if self.refusing.hello_bytes > 0 {
                let skipped = content.len().min(self.refusing.hello_bytes.into());
                content = &content[skipped..];
                self.refusing.hello_bytes -= skipped as u16;
                if self.refusing.hello_bytes == 0 {
                    self.refusing.has_refused = true;
                    self.owes_answer = !self.closed;
                }
                continue;
            }
            let had = usize::from(self.begun.length);
            let taken = content.len().min(MESSAGE_HEADER_BYTES - had);
            self.begun.bytes[had..had + taken].copy_from_slice(&content[..taken]);
            content = &content[taken..];
            let [message_type, high, middle, low, _] = self.begun.bytes;
            if message_type != CLIENT_HELLO {
                return Err(Error::HandshakeType(message_type));
            }
            if self.refusing.has_refused {
                return Err(Error::Renegotiation);
            }
            self.begun.length = (had + taken) as u8;
            if had + taken == MESSAGE_HEADER_BYTES {
                self.begun = Begun::default();
                let length = u32::from_be_bytes([0, high, middle, low]);
                if !(1..=HELLO_BYTES_MAX).contains(&length) {
                    return Err(Error::HelloLength(length));
                }
                self.refusing.hello_bytes = length as u16;
            }
        }
        Ok(())
    }

    /// Warnings only mean that the peer continues (RFC 5246 section 7.2.2); `close_notify` ends what it sends, whatever
    /// its level.
    fn handle_alert_tls12(&mut self, content: &[u8]) -> Result<(), Error> {
        let [level, description] = *content else { return Err(Error::AlertLength) };
        match (level, AlertDescription::from(description)) {
            (1 | 2, AlertDescription::CloseNotify) => self.peer_closed = true,
            (1, _) => {}
            (2, description) => {
                self.closed = true;
                self.owes_answer = false;
                return Err(Error::AlertReceived(description));
            }
            _ => return Err(Error::AlertLevel(level)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
