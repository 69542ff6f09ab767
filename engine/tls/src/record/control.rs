//! Records that a session sends on its own: KeyUpdates and alerts.

use std::ops::Deref;

use rustls::{AlertDescription, ContentType};

use super::error::{Error, SealError};
use super::sealing::OVERHEAD_BYTES;
use super::{KEY_UPDATE_BYTES, KEY_UPDATE_START, Session, tls12};

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Bytes of an alert.
const ALERT_BYTES: usize = 2;

/// Bytes of the longest one: an alert of TLS 1.2 with AES-GCM.
pub(super) const CONTROL_BYTES_MAX: usize = tls12::OVERHEAD_BYTES_MAX + ALERT_BYTES;

const _: () = assert!(CONTROL_BYTES_MAX >= OVERHEAD_BYTES + KEY_UPDATE_BYTES, "of TLS 1.3");

/// A sealed record without application data: its bytes, to be sent unchanged.
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
    /// What must be sent before the next application data, if anything. TLS 1.3: a KeyUpdate, because the peer has
    /// requested one, or because the key has sealed as many records as it may; one answers any number of requests (RFC
    /// 8446 section 4.6.3). TLS 1.2: the warning that refuses another handshake, which the peer has requested.
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

    /// Whether the peer waits for [`Session::next_control`]. It must not wait for application data then: the peer may
    /// send none before.
    pub fn owes_warning(&self) -> bool {
        self.is_tls12 && self.owes_answer && !self.closed
    }

    /// Changes the key for sending, and requests the same from the peer with `is_requested`.
    ///
    /// # Errors
    /// [`SealError::Closed`], and [`SealError::OfTls13`] if it is not TLS 1.3.
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

    /// `close_notify`: nothing is sent after it, while records of the peer can still be opened. `None` if nothing can
    /// be sent any more.
    pub fn close(&mut self) -> Option<Control> {
        self.end(WARNING, AlertDescription::CloseNotify)
    }

    /// A fatal alert: close the connection after it. `None` if nothing can be sent any more.
    pub fn send_alert(&mut self, description: AlertDescription) -> Option<Control> {
        self.end(FATAL, description)
    }

    /// The alert for an error of [`Session::open`]. `None` if the error has none, or nothing can be sent any more.
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
