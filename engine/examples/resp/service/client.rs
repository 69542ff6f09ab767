//! What is known of one client: the little the hot path needs, and a record that `CLIENT LIST` can read for all.

use std::time::Duration;

use super::parse::Partial;

/// State per connection, in the engine's slab.
pub(crate) struct Client {
    /// A long request whose end has not arrived.
    pub(super) partial: Option<Box<Partial>>,
    pub(super) id: u64,
    /// Answers are in RESP3, which the client has asked for.
    pub(super) is_resp3: bool,
    /// It said `QUIT`, or is not one of ours.
    pub(super) is_closing: bool,
}

impl Client {
    pub(super) fn new(id: u64) -> Self {
        Self { partial: None, id, is_resp3: false, is_closing: false }
    }
}

/// What other clients may see of it.
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
