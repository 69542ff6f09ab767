//! What is handed over, as plain data: listeners by a [`Tier`], connections as [`Frozen`] ones in [`Message`]s. Nothing
//! here does I/O.

pub(crate) mod formats;
mod frozen;
mod messages;
mod tier;

pub(crate) use self::formats::{Format, StateFormats};
pub(crate) use self::frozen::{Frozen, Standing};
pub use self::messages::Refusal;
pub(crate) use self::messages::{Envelope, Message, VERSION};
pub(crate) use self::tier::Tier;
