//! The state of one client: the little that the hot path needs, and a record that `CLIENT LIST` can read for all.

use std::time::Duration;

use super::parse::Partial;

/// State per connection, in the engine's slab.
pub(crate) struct Client {
    /// A long request whose end has not arrived.
    pub(super) partial: Option<Box<Partial>>,
    pub(super) id: u64,
    /// Answers are in RESP3, for which the client has asked.
    pub(super) is_resp3: bool,
    /// It has sent `QUIT`, or is not a client of this protocol.
    pub(super) is_closing: bool,
}

impl Client {
    pub(super) fn new(id: u64) -> Self {
        Self { partial: None, id, is_resp3: false, is_closing: false }
    }
}

/// The part of its state that other clients may see.
pub(super) struct ClientRecord {
    pub(super) name: Vec<u8>,
    pub(super) opened: Duration,
    pub(super) is_resp3: bool,
}

impl ClientRecord {
    pub(super) fn new(opened: Duration) -> Self {
        Self { name: Vec::new(), opened, is_resp3: false }
    }
}
