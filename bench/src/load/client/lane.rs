//! A lane: one of the connections that a load wants at a time, and its state.

use std::collections::VecDeque;

use baton::ConnectionId;

use crate::load::exchange::Progress;
use crate::load::tls::Session;

#[derive(Default)]
pub(super) struct Lane {
    pub(super) id: Option<ConnectionId>,
    pub(super) progress: Progress,
    pub(super) pending: VecDeque<Sent>,
    pub(super) outstanding: u32,
    /// Requests sent, and answers read, on this connection.
    pub(super) sent: u32,
    pub(super) answered: u32,
    pub(super) connect_ns: u64,
    /// A request whose connection was closed before it was answered, and which is repeated.
    pub(super) repeated: Option<Sent>,
    pub(super) is_free: bool,
    pub(super) has_failed: bool,
    pub(super) has_been_held: bool,
    /// It closes as soon as nothing is outstanding, and connects again.
    pub(super) leaves: bool,
    /// The server has announced that it closes after its last answer.
    pub(super) server_closes: bool,
    /// With TLS, once it is connected.
    pub(super) secure: Option<Box<Secure>>,
}

/// The additional state of a connection with TLS.
pub(super) struct Secure {
    pub(super) session: Session,
    /// Plaintext that is not consumed yet.
    pub(super) unread: Vec<u8>,
    pub(super) began_ns: u64,
    /// Since when it waits for the server's close_notify: the server has announced its close, and everything is
    /// answered.
    pub(super) leaves_since_ns: Option<u64>,
}

impl Lane {
    /// Whether requests can be sent on it, if it has a connection.
    #[inline]
    pub(super) fn can_ask(&self) -> bool {
        self.secure.as_ref().is_none_or(|secure| secure.session.is_open() && secure.leaves_since_ns.is_none())
    }

    /// Whether it has been waiting for the server since before `oldest_ns`.
    pub(super) fn is_overdue(&self, oldest_ns: u64) -> bool {
        let awaited_ns = match &self.secure {
            Some(secure) if !secure.session.is_open() => Some(secure.began_ns),
            Some(secure) if secure.leaves_since_ns.is_some() => secure.leaves_since_ns,
            _ => self.pending.front().map(|sent| sent.at_ns),
        };
        awaited_ns.is_some_and(|at_ns| at_ns < oldest_ns)
    }
}

/// Requests sent together.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    pub(super) at_ns: u64,
    /// When they were due.
    pub(super) due_ns: u64,
    pub(super) count: u32,
    pub(super) phase: usize,
}
