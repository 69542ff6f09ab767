//! How much moves at a time, and how long one side waits for the other.

/// Connections of one batch. With fewer, the pause of each is shorter, also for connections that the receiver serves
/// already. With more, there are fewer messages.
pub(crate) const BATCH: usize = 16;

/// A batch with this many bytes does not grow further.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// A connection with this many bytes moves alone, so that no other waits for them.
pub(crate) const ALONE_BYTES: usize = 64 * 1024;

/// The most bytes of one offer, so that no sender can use up a receiver's memory. Both sides check it: a sender keeps a
/// connection that has more, since a receiver that gets more ends the channel.
pub(crate) const OFFER_BYTES_MAX: usize = 1 << 30;

/// The most connections of one offer that a receiver accepts: room for later versions with larger batches.
pub(crate) const OFFER_CONNECTIONS_MAX: usize = 64;

/// This many connections may be on offer to a worker at once, or a part of its limit of connections if that is more. So
/// no sender can block all of its room with connections that it never gives.
pub(crate) const ON_OFFER_MIN: usize = 4 * OFFER_CONNECTIONS_MAX;

/// The part, as a divisor.
pub(crate) const ON_OFFER_PART: usize = 4;

/// A batch that the heir does not take within this time is taken back.
pub(crate) const BATCH_MS_MAX: u64 = 2_000;

/// A serving worker begins no batch later than this after the order to give connections away.
pub(crate) const GIVING_MS_MAX: u64 = 3_000;

/// An offer that is not given within this time is dropped together with the channel: the sender has given up by then.
pub(crate) const GIVE_MS_MAX: u64 = 5 * BATCH_MS_MAX;

/// The handover of a worker's own state is abandoned after this time plus the time for its bytes at
/// [`STATE_BYTES_PER_MS`]: neither side serves meanwhile.
pub(crate) const STATE_MS_MAX: u64 = 5_000;

/// About 4 MB per second, which the slowest machine writes and reads.
pub(crate) const STATE_BYTES_PER_MS: u64 = 4_096;

// A connection that would make a batch too large goes into the next one.
const _: () = assert!(ALONE_BYTES < BATCH_BYTES && BATCH_BYTES < OFFER_BYTES_MAX);
const _: () = assert!(BATCH <= OFFER_CONNECTIONS_MAX && 2 * BATCH_MS_MAX < GIVE_MS_MAX);

/// If the protocol cannot let a connection move yet, it is asked again after this time.
pub(crate) const LATER_MS: u64 = 20;
