//! Records that a session sends by itself: KeyUpdates and alerts.

use std::ops::Deref;

use rustls::{AlertDescription, ContentType};

use super::error::{Error, SealError};
use super::sealing::OVERHEAD_BYTES;
use super::{KEY_UPDATE_BYTES, KEY_UPDATE_START, Session};

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// A sealed record that carries no application data: its bytes, to be sent as they are.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    bytes: [u8; OVERHEAD_BYTES + KEY_UPDATE_BYTES],
    length: u8,
}

impl Deref for Control {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Session {
    /// The KeyUpdate that must be sent before the next application data, if one must: the peer has asked for one, or the key has
    /// sealed as many records as it may. One answers any number of requests (RFC 8446 section 4.6.3).
    pub fn next_update(&mut self) -> Option<Control> {
        let is_due = self.owes_update || self.is_key_spent();
        if is_due && !self.closed { self.update_key(false).ok() } else { None }
    }

    /// Changes the key of what is sent, and asks the peer to change its own where `is_requested`.
    ///
    /// # Errors
    /// [`SealError::Closed`].
    pub fn update_key(&mut self, is_requested: bool) -> Result<Control, SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        let [message_type, high, middle, low] = KEY_UPDATE_START;
        let message = [message_type, high, middle, low, u8::from(is_requested)];
        let control = self.seal_control(ContentType::Handshake, &message);
        self.sealing.update();
        self.owes_update = false;
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
        self.owes_update = false;
        Some(self.seal_control(ContentType::Alert, &[level, description.into()]))
    }

    fn seal_control(&mut self, content_type: ContentType, content: &[u8]) -> Control {
        let length = OVERHEAD_BYTES + content.len();
        let mut control = Control { bytes: [0; OVERHEAD_BYTES + KEY_UPDATE_BYTES], length: length as u8 };
        let record = &mut control.bytes[..length];
        self.place(content_type, content, record);
        self.sealing.seal(record);
        control
    }
}
