//! Messages that only servers send after the handshake: session tickets (RFC 8446 section 4.6.1).

use super::error::Error;
use super::{Begun, Session};
use crate::settings::Version;

/// The type of a NewSessionTicket.
pub(crate) const NEW_SESSION_TICKET: u8 = 4;

/// Bytes before the contents of a handshake message.
pub(crate) const MESSAGE_HEADER_BYTES: usize = 4;

/// The most bytes of a ticket's contents: all its fields at their maximum.
pub(crate) const TICKET_BYTES_MAX: u32 = 4 + 4 + (1 + 255) + (2 + 65_535) + (2 + 65_534);

/// Larger tickets are skipped, whichever server sends them.
const KEPT_BYTES_MAX: u32 = 16 * 1024;

/// The most tickets that wait to be taken.
const WAITING_MAX: usize = 4;

/// The tickets of a client's session.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    /// The missing bytes of the incomplete ticket, whose header is in [`Begun`].
    pub(crate) rest_bytes: u32,
    /// Whether they are kept for the caller.
    are_kept: bool,
    /// The received part of the incomplete ticket; `None` if it is skipped.
    begun: Option<Vec<u8>>,
    whole: Vec<Vec<u8>>,
}

impl Session {
    /// The same on the client's side: the server may also send session tickets.
    #[must_use]
    pub fn of_client(mut self) -> Self {
        self.tickets = Some(Box::default());
        self
    }

    /// Whether this is the client's side.
    pub fn is_client(&self) -> bool {
        self.tickets.is_some()
    }

    /// Whether arriving tickets are kept for [`Session::take_ticket`], of at most 16 KiB each and at most four. By
    /// default they are skipped, and so is the rest of an incomplete one. Has no effect on the server's side.
    pub fn keep_tickets(&mut self, are_kept: bool) {
        if let Some(tickets) = &mut self.tickets {
            tickets.are_kept = are_kept;
            if !are_kept {
                (tickets.begun, tickets.whole) = (None, Vec::new());
            }
        }
    }

    /// The contents of the first kept NewSessionTicket.
    pub fn take_ticket(&mut self) -> Option<Vec<u8>> {
        let whole = &mut self.tickets.as_mut()?.whole;
        (!whole.is_empty()).then(|| whole.remove(0))
    }

    /// The contents of a ticket are invalid: the session has failed.
    pub fn refuse_ticket(&mut self) {
        self.failure = self.failure.or(Some(Error::Ticket));
    }

    /// Handles a part of a server's handshake messages: tickets, in any number and split anywhere, and whatever a
    /// client sends as well.
    pub(crate) fn handle_handshake_of_server(&mut self, mut content: &[u8]) -> Result<(), Error> {
        while let Some(first) = content.first() {
            let Some(tickets) = &mut self.tickets else { return Err(Error::HandshakeType(*first)) };
            let had = usize::from(self.begun.length);
            let message_type = if had > 0 { self.begun.bytes[0] } else { *first };
            if message_type != NEW_SESSION_TICKET {
                return self.handle_handshake(content);
            }
            let of_header = content.len().min(MESSAGE_HEADER_BYTES - had);
            self.begun.bytes[had..had + of_header].copy_from_slice(&content[..of_header]);
            self.begun.length = (had + of_header) as u8;
            content = &content[of_header..];
            if of_header > 0 && had + of_header == MESSAGE_HEADER_BYTES {
                tickets.begin(self.begun.ticket_bytes())?;
            }
            let taken = content.len().min(tickets.rest_bytes as usize);
            tickets.take_in(&content[..taken]);
            content = &content[taken..];
            if usize::from(self.begun.length) == MESSAGE_HEADER_BYTES && tickets.rest_bytes == 0 {
                tickets.end();
                self.begun = Begun::default();
            }
        }
        Ok(())
    }
}

impl Tickets {
    /// This many bytes of a ticket are still to come, and its start is lost.
    pub(crate) fn passing_over(rest_bytes: u32) -> Self {
        Self { rest_bytes, ..Self::default() }
    }

    fn begin(&mut self, bytes: u32) -> Result<(), Error> {
        if bytes == 0 || bytes > TICKET_BYTES_MAX {
            return Err(Error::Ticket);
        }
        self.rest_bytes = bytes;
        let is_kept = self.are_kept && bytes <= KEPT_BYTES_MAX && self.whole.len() < WAITING_MAX;
        self.begun = is_kept.then(|| Vec::with_capacity(bytes as usize));
        Ok(())
    }

    fn take_in(&mut self, part: &[u8]) {
        self.rest_bytes -= part.len() as u32;
        if let Some(begun) = &mut self.begun {
            begun.extend_from_slice(part);
        }
    }

    fn end(&mut self) {
        self.whole.extend(self.begun.take());
    }
}

impl Begun {
    /// The length of the ticket of which this is the whole header.
    fn ticket_bytes(&self) -> u32 {
        let [_, high, middle, low, _] = self.bytes;
        u32::from_be_bytes([0, high, middle, low])
    }

    /// On the client's side: the start of a ticket of which `rest_bytes` are missing. `None` if nothing begins like
    /// that.
    pub(crate) fn of_server(start: &[u8], rest_bytes: u32) -> Option<Self> {
        if start.first() != Some(&NEW_SESSION_TICKET) {
            return Self::of(Version::Tls13, start).filter(|_| rest_bytes == 0);
        }
        let mut begun = Self::default();
        begun.bytes.get_mut(..start.len())?.copy_from_slice(start);
        begun.length = start.len() as u8;
        let makes_sense = match start.len() {
            MESSAGE_HEADER_BYTES => {
                let bytes = begun.ticket_bytes();
                bytes <= TICKET_BYTES_MAX && (1..=bytes).contains(&rest_bytes)
            }
            length => length < MESSAGE_HEADER_BYTES && rest_bytes == 0,
        };
        makes_sense.then_some(begun)
    }
}

#[cfg(test)]
mod tests;
