//! What is handed over: listeners by a [`Tier`], connections as [`Frozen`] ones in [`Message`]s. The two state machines
//! [`sender`] and [`receiver`] move connections. Nothing here does I/O.

pub(crate) mod balance;
pub(crate) mod custody;
pub(crate) mod formats;
mod frozen;
pub(crate) mod limits;
mod messages;
pub(crate) mod mutation;
pub(crate) mod receiver;
pub(crate) mod sender;
mod tier;

pub(crate) use self::formats::{Format, StateFormats};
pub(crate) use self::frozen::{Frozen, LayerState, Standing, WriteEnd};
pub use self::messages::Refusal;
pub(crate) use self::messages::{
    Envelope, Message, VERSION, VERSION_WITH_LAYERS, VERSION_WITH_OUTBOUND_LAYERS, VERSION_WITH_PAIRS,
};
pub(crate) use self::tier::Tier;
