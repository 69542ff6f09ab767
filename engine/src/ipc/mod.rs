//! The messages between processes: typed messages over packet channels with descriptors.
//!
//! [`channel`] carries one message a packet. Over it a master gives its workers orders and hears their reports
//! ([`orders`]), and two masters speak during an upgrade ([`relay`]). A master finds the workers of a master that is
//! gone by [`rendezvous`]. Two workers meet ([`meeting`]) to hand connections over ([`transfer`]), and the worker's own
//! state before them ([`worker_state`]). Operators speak [`control`].

pub(crate) mod channel;
pub mod control;
pub(crate) mod descriptors;
pub(crate) mod meeting;
pub(crate) mod orders;
pub(crate) mod relay;
pub(crate) mod rendezvous;
pub(crate) mod transfer;
pub(crate) mod worker_state;
