//! How much moves at a time, and how long one side waits for the other.

/// Connections of one batch. The fewer, the shorter the pause of each, and of those that the receiver serves already; the
/// more, the fewer messages.
pub(crate) const BATCH: usize = 16;

/// A batch that has so many bytes is not made larger.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// A connection with so many bytes goes alone, so that no other waits for them.
pub(crate) const ALONE_BYTES: usize = 64 * 1024;

/// The bytes of one offer at most, so that no sender can make a receiver take all memory. Both sides check it: a sender
/// keeps a connection that has more, since a receiver that gets more ends the channel.
pub(crate) const OFFER_BYTES_MAX: usize = 1 << 30;

/// A batch that is not taken in so long is taken back.
pub(crate) const BATCH_MS_MAX: u64 = 2_000;

// Whatever connection would make a batch too large goes into the next one.
const _: () = assert!(ALONE_BYTES < BATCH_BYTES && BATCH_BYTES < OFFER_BYTES_MAX);
