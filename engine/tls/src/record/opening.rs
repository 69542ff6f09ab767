//! Opens the records of the peer.

use std::ops::Range;

use rustls::{AlertDescription, ContentType};

use super::error::Error;
use super::header::{self, HEADER_BYTES, PLAINTEXT_BYTES_MAX};
use super::{Begun, KEY_UPDATE_BYTES, KEY_UPDATE_START, Session};

/// The first record of a buffer. `consumed` is its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is incomplete. Nothing was changed; try again when this many bytes have arrived.
    Incomplete {
        /// Bytes in the buffer, counted from its start.
        at_least: usize,
    },
    /// Application data, which may be empty.
    Data {
        /// Bytes of the record.
        consumed: usize,
        /// The range in the buffer.
        plaintext: Range<usize>,
    },
    /// Nothing for the application: a KeyUpdate, part of one, or an ignored alert.
    Control {
        /// Bytes of the record.
        consumed: usize,
    },
    /// `close_notify`: the end of the peer's data. Everything that follows is ignored.
    Closed {
        /// Bytes of the record; the length of the whole buffer if it arrived earlier.
        consumed: usize,
    },
}

/// The layout of a buffer of received bytes, in this order: plaintext that the application has not taken, bytes that
/// are not needed any more, and records that are not opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The range of the plaintext.
    pub plaintext: Range<usize>,
    /// The start of the records.
    pub records: usize,
}

/// What follows the records that [`Session::open_all`] has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// An incomplete record.
    Incomplete {
        /// Bytes from [`Window::records`] on that are needed to continue: the whole record, or its header.
        at_least: usize,
    },
    /// Nothing: `close_notify` has arrived.
    Closed,
}

impl Session {
    /// Opens the first record of `buffer` in place. The plaintext overwrites the encrypted bytes, so pass a record only
    /// once.
    ///
    /// # Errors
    /// They are permanent: each later call returns the same one. [`Session::answer`] returns the alert for it.
    pub fn open(&mut self, buffer: &mut [u8]) -> Result<Opened, Error> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        if self.peer_closed {
            return Ok(Opened::Closed { consumed: buffer.len() });
        }
        let opened = if self.is_tls12 { self.open_first_tls12(buffer) } else { self.open_first(buffer) };
        self.failure = opened.as_ref().err().copied();
        opened
    }

    /// Opens all records from [`Window::records`] on, and joins their plaintext at the end of [`Window::plaintext`].
    /// The first stays where it was opened if there is no plaintext yet.
    ///
    /// # Errors
    /// As [`Session::open`]. What was opened before the error is in `window`, and belongs to the application.
    ///
    /// # Panics
    /// If `window` does not lie in `buffer`.
    pub fn open_all(&mut self, buffer: &mut [u8], window: &mut Window) -> Result<Status, Error> {
        loop {
            let start = window.records;
            match self.open(&mut buffer[start..])? {
                Opened::Incomplete { at_least } => return Ok(Status::Incomplete { at_least }),
                Opened::Closed { consumed } => {
                    window.records += consumed;
                    return Ok(Status::Closed);
                }
                Opened::Control { consumed } => window.records += consumed,
                Opened::Data { consumed, plaintext } => {
                    window.records += consumed;
                    let found = start + plaintext.start..start + plaintext.end;
                    if window.plaintext.is_empty() {
                        window.plaintext = found;
                    } else {
                        let end = window.plaintext.end;
                        window.plaintext.end += found.len();
                        buffer.copy_within(found, end);
                    }
                }
            }
        }
    }

    fn open_first(&mut self, buffer: &mut [u8]) -> Result<Opened, Error> {
        let Some((header, encrypted_bytes)) = header::read(buffer)? else {
            return Ok(Opened::Incomplete { at_least: HEADER_BYTES });
        };
        let consumed = HEADER_BYTES + encrypted_bytes;
        let Some(encrypted) = buffer.get_mut(HEADER_BYTES..consumed) else {
            return Ok(Opened::Incomplete { at_least: consumed });
        };
        let inner_bytes = self.opening.open(header, encrypted)?;
        if inner_bytes > PLAINTEXT_BYTES_MAX + 1 {
            return Err(Error::RecordOverflow);
        }
        let inner = &encrypted[..inner_bytes];
        // Padding is zero, and a content type is not (RFC 8446 section 5.4).
        let length = inner.iter().rposition(|byte| *byte != 0).ok_or(Error::NoContentType)?;
        let (content, content_type) = (&inner[..length], inner[length]);
        let kind = ContentType::from(content_type);
        if self.begun.length > 0 && kind != ContentType::Handshake {
            return Err(Error::Interleaved);
        }
        match kind {
            ContentType::ApplicationData => {
                if content.is_empty() {
                    self.count_idle()?;
                } else {
                    self.idle_records = 0;
                }
                return Ok(Opened::Data { consumed, plaintext: HEADER_BYTES..HEADER_BYTES + length });
            }
            ContentType::Handshake | ContentType::Alert if content.is_empty() => {
                return Err(Error::EmptyContent(content_type));
            }
            ContentType::Handshake if self.is_client() => self.handle_handshake_of_server(content)?,
            ContentType::Handshake => self.handle_handshake(content)?,
            ContentType::Alert => self.handle_alert(content)?,
            _ => return Err(Error::ContentType(content_type)),
        }
        if self.peer_closed {
            return Ok(Opened::Closed { consumed });
        }
        self.count_idle()?;
        Ok(Opened::Control { consumed })
    }

    /// Handles a part of a handshake message: of a KeyUpdate; any other is refused at its first byte.
    pub(super) fn handle_handshake(&mut self, content: &[u8]) -> Result<(), Error> {
        let had = usize::from(self.begun.length);
        let taken = content.len().min(KEY_UPDATE_BYTES - had);
        self.begun.bytes[had..had + taken].copy_from_slice(&content[..taken]);
        let length = had + taken;
        let [message_type, .., request] = self.begun.bytes;
        if message_type != KEY_UPDATE_START[0] {
            return Err(Error::HandshakeType(message_type));
        }
        let known = length.min(KEY_UPDATE_START.len());
        if self.begun.bytes[..known] != KEY_UPDATE_START[..known] {
            return Err(Error::KeyUpdateLength);
        }
        if length < KEY_UPDATE_BYTES {
            self.begun.length = length as u8;
            return Ok(());
        }
        if taken < content.len() {
            return Err(Error::KeyUpdateNotAtEnd);
        }
        if request > 1 {
            return Err(Error::KeyUpdateRequest(request));
        }
        self.begun = Begun::default();
        self.opening.update();
        self.owes_answer |= request == 1 && !self.closed;
        Ok(())
    }

    /// The level means nothing in TLS 1.3: every alert except `close_notify` and `user_canceled` is an error (RFC 8446
    /// section 6).
    fn handle_alert(&mut self, content: &[u8]) -> Result<(), Error> {
        let [level, description] = *content else { return Err(Error::AlertLength) };
        if !(1..=2).contains(&level) {
            return Err(Error::AlertLevel(level));
        }
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => self.peer_closed = true,
            AlertDescription::UserCanceled => {}
            description => {
                self.closed = true;
                self.owes_answer = false;
                return Err(Error::AlertReceived(description));
            }
        }
        Ok(())
    }

    /// Counts a record that has nothing for the application.
    pub(super) fn count_idle(&mut self) -> Result<(), Error> {
        if self.idle_records >= self.limits.idle_records_max {
            return Err(Error::IdleRecords);
        }
        self.idle_records += 1;
        Ok(())
    }
}
