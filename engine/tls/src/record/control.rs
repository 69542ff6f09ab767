//! Records that a session sends by itself: KeyUpdates and alerts.

use std::ops::Deref;

use rustls::{AlertDescription, ContentType};

use super::error::{Error, SealError};
use super::sealing::OVERHEAD_BYTES;
use super::{KEY_UPDATE_BYTES, KEY_UPDATE_START, Session, tls12};

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Bytes of an alert.
const ALERT_BYTES: usize = 2;

/// Bytes of the longest: an alert of TLS 1.2 with AES-GCM.
pub(super) const CONTROL_BYTES_MAX: usize = tls12::OVERHEAD_BYTES_MAX + ALERT_BYTES;

const _: () = assert!(CONTROL_BYTES_MAX >= OVERHEAD_BYTES + KEY_UPDATE_BYTES, "of TLS 1.3");

/// A sealed record that carries no application data: its bytes, to be sent as they are.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    bytes: [u8; CONTROL_BYTES_MAX],
    length: u8,
}

impl Deref for Control {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Session {
    /// What must be sent before the next application data, if something must. TLS 1.3: a KeyUpdate, since the peer has asked for one, or
    /// the key has sealed as many records as it may; one answers any number of requests (RFC 8446 section 4.6.3). TLS 1.2: the
    /// warning that there is no other handshake, which the peer has asked for.
    pub fn next_control(&mut self) -> Option<Control> {
        if self.is_tls12 {
            return self.owes_warning().then(|| {
                self.owes_answer = false;
                self.seal_control(ContentType::Alert, &[WARNING, AlertDescription::NoRenegotiation.into()])
            });
        }
        let is_due = self.owes_answer || self.is_key_spent();
        if is_due && !self.closed { self.update_key(false).ok() } else { None }
    }

    /// The peer waits for [`Session::next_control`], which is not to wait for application data: it may send none before.
    pub fn owes_warning(&self) -> bool {
        self.is_tls12 && self.owes_answer && !self.closed
    }

    /// Changes the key of what is sent, and asks the peer to change its own where `is_requested`.
    ///
    /// # Errors
    /// [`SealError::Closed`], and [`SealError::OfTls13`] where it is not.
    pub fn update_key(&mut self, is_requested: bool) -> Result<Control, SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        if self.is_tls12 {
            return Err(SealError::OfTls13);
        }
        let [message_type, high, middle, low] = KEY_UPDATE_START;
        let message = [message_type, high, middle, low, u8::from(is_requested)];
        let control = self.seal_control(ContentType::Handshake, &message);
        self.sealing.update();
        self.owes_answer = false;
        Ok(control)
    }

    /// `close_notify`: nothing is sent after it, while records of the peer can still be opened. `None` where nothing can be sent
    /// any more.
    pub fn close(&mut self) -> Option<Control> {
        self.end(WARNING, AlertDescription::CloseNotify)
    }

    /// A fatal alert: the connection is to be closed after it. `None` where nothing can be sent any more.
    pub fn send_alert(&mut self, description: AlertDescription) -> Option<Control> {
        self.end(FATAL, description)
    }

    /// The alert that answers what [`Session::open`] has failed with. `None` where none does, or nothing can be sent any more.
    pub fn answer(&mut self, error: Error) -> Option<Control> {
        error.alert().and_then(|description| self.send_alert(description))
    }

    fn end(&mut self, level: u8, description: AlertDescription) -> Option<Control> {
        if self.closed {
            return None;
        }
        self.closed = true;
        self.owes_answer = false;
        Some(self.seal_control(ContentType::Alert, &[level, description.into()]))
    }

    fn seal_control(&mut self, content_type: ContentType, content: &[u8]) -> Control {
        let length = self.overhead_bytes() + content.len();
        let mut control = Control { bytes: [0; CONTROL_BYTES_MAX], length: length as u8 };
        let record = &mut control.bytes[..length];
        if self.is_tls12 {
            self.sealing.seal_tls12(content_type, content, record);
        } else {
            self.place(content_type, content, record);
            self.sealing.seal(record);
        }
        control
    }
}
