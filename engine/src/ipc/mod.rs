//! The messages between processes: typed messages over packet channels with descriptors.
//!
//! [`channel`] carries one message per packet. Over it a master gives its workers orders and receives their reports
//! ([`orders`]), and two masters communicate during an upgrade ([`relay`]). A master finds orphans by [`rendezvous`].
//! Two workers meet ([`meeting`]) to hand over connections ([`transfer`]), and before them the worker's own state
//! ([`worker_state`]). Operators use [`control`].

pub(crate) mod channel;
pub mod control;
pub(crate) mod descriptors;
pub(crate) mod meeting;
pub(crate) mod orders;
pub(crate) mod relay;
pub(crate) mod rendezvous;
pub(crate) mod transfer;
pub(crate) mod worker_state;
