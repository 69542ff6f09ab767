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

/// Connections of one offer that a receiver looks at: room for later versions with larger batches.
pub(crate) const OFFER_CONNECTIONS_MAX: usize = 64;

/// So many connections may be on offer to a worker at once, or a part of those that it may have, if that is more; so that no
/// sender keeps all of its room with what it never gives.
pub(crate) const ON_OFFER_MIN: usize = 4 * OFFER_CONNECTIONS_MAX;

/// The part, as a divisor.
pub(crate) const ON_OFFER_PART: usize = 4;

/// A batch that is not taken in so long is taken back.
pub(crate) const BATCH_MS_MAX: u64 = 2_000;

/// A worker that serves begins no batch later than this after it was told to give connections away.
pub(crate) const GIVING_MS_MAX: u64 = 3_000;

/// An offer that is not given in so long is dropped, and the channel with it: the sender has given up by then.
pub(crate) const GIVE_MS_MAX: u64 = 5 * BATCH_MS_MAX;

/// A worker's own state is given up where it takes longer than this, and the time for its bytes at [`STATE_BYTES_PER_MS`]:
/// neither side serves meanwhile.
pub(crate) const STATE_MS_MAX: u64 = 5_000;

/// About 4 MB a second, which the slowest machine writes and reads.
pub(crate) const STATE_BYTES_PER_MS: u64 = 4_096;

// Whatever connection would make a batch too large goes into the next one.
const _: () = assert!(ALONE_BYTES < BATCH_BYTES && BATCH_BYTES < OFFER_BYTES_MAX);
const _: () = assert!(BATCH <= OFFER_CONNECTIONS_MAX && 2 * BATCH_MS_MAX < GIVE_MS_MAX);

/// Where the protocol cannot let a connection go yet, it is asked again after this time.
pub(crate) const LATER_MS: u64 = 20;
