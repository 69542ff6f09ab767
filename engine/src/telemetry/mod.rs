//! Counters and service times of a worker, in memory that its parent shares: readable while the worker runs and
//! after it died.
//!
//! Each page has one writer, so a counter is a relaxed load and store: no locked instruction on the data path.

mod histogram;
pub(crate) mod pages;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use histogram::Histogram;
pub use histogram::{HISTOGRAM_BUCKETS, HistogramSnapshot};

use crate::sys::shared_memory::shareable;
use crate::types::CloseReason;

/// Counters that a protocol may name; see [`Worker::counter`](crate::Worker::counter).
pub const NAMED_COUNTERS_MAX: usize = 16;

/// Names in a sum, over all releases of a protocol that ran.
const NAMED_MAX: usize = 16 * NAMED_COUNTERS_MAX;

/// Bytes of such a name.
pub const COUNTER_NAME_BYTES_MAX: usize = 32;

shareable! {
    /// One number of one writer.
    #[derive(Default)]
    #[repr(transparent)]
    pub(crate) struct Counter {
        value: AtomicU64,
    }
}

impl Counter {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.value.store(self.value.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.value.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

shareable! {
    /// A worker's page.
    #[derive(Default)]
    #[repr(C, align(64))]
    pub(crate) struct WorkerPage {
        pub(crate) accepted: Counter,
        pub(crate) connected: Counter,
        /// Connections that came from another worker.
        pub(crate) taken_over: Counter,
        pub(crate) open: Counter,
        pub(crate) closed: [Counter; CloseReason::COUNT],
        pub(crate) bytes_received: Counter,
        pub(crate) bytes_sent: Counter,
        pub(crate) requests: Counter,
        pub(crate) turns: Counter,
        pub(crate) enters: Counter,
        pub(crate) buffers_exhausted: Counter,
        pub(crate) completions_overflowed: Counter,
        pub(crate) accept_errors: Counter,
        pub(crate) accept_pauses: Counter,
        /// What the worker itself would have to hand over, about.
        pub(crate) state_bytes: Counter,
        /// CLOCK_MONOTONIC nanoseconds of the last turn: the heartbeat.
        pub(crate) turn_at_ns: Counter,
        pub(crate) named: [Counter; NAMED_COUNTERS_MAX],
        names: [[AtomicU64; COUNTER_NAME_BYTES_MAX / 8]; NAMED_COUNTERS_MAX],
        pub(crate) service: Histogram,
        /// Of connections that went to other workers: for how long each was held up.
        pub(crate) pause: Histogram,
    }
}

impl WorkerPage {
    /// Gives counter `index` its name, cut to [`COUNTER_NAME_BYTES_MAX`] bytes.
    pub(crate) fn set_name(&self, index: usize, name: &str) {
        let mut bytes = [0; COUNTER_NAME_BYTES_MAX];
        let length = name.floor_char_boundary(COUNTER_NAME_BYTES_MAX);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        for (word, part) in self.names[index].iter().zip(bytes.chunks_exact(8)) {
            word.store(u64::from_le_bytes(part.try_into().expect("eight bytes")), Ordering::Relaxed);
        }
    }

    pub(crate) fn name(&self, index: usize) -> String {
        let bytes: Vec<u8> =
            self.names[index].iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let named = (0..NAMED_COUNTERS_MAX).map(|index| (self.name(index), self.named[index].get()));
        Snapshot {
            accepted: self.accepted.get(),
            connected: self.connected.get(),
            taken_over: self.taken_over.get(),
            open: self.open.get(),
            closed: CloseReason::ALL.map(|reason| (reason, self.closed[reason as usize].get())),
            bytes_received: self.bytes_received.get(),
            bytes_sent: self.bytes_sent.get(),
            requests: self.requests.get(),
            turns: self.turns.get(),
            enters: self.enters.get(),
            buffers_exhausted: self.buffers_exhausted.get(),
            completions_overflowed: self.completions_overflowed.get(),
            accept_errors: self.accept_errors.get(),
            accept_pauses: self.accept_pauses.get(),
            turn_at_ns: self.turn_at_ns.get(),
            named: named.filter(|(name, _)| !name.is_empty()).collect(),
            service: self.service.snapshot(),
            pause: self.pause.snapshot(),
        }
    }
}

/// A worker's numbers at one moment, or the sum of several.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Connections accepted.
    pub accepted: u64,
    /// Outbound connections established.
    pub connected: u64,
    /// Connections that came from another worker, established as they were.
    pub taken_over: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections closed, by reason.
    pub closed: [(CloseReason, u64); CloseReason::COUNT],
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Requests answered, as counted by the protocol ([`Io::count_requests`](crate::Io::count_requests)).
    pub requests: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// System calls into the ring.
    pub enters: u64,
    /// Receives that found no buffer and were armed again.
    pub buffers_exhausted: u64,
    /// Completions the kernel had no room for in the ring at once.
    pub completions_overflowed: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Times accepting was paused, by the connection limit or for want of descriptors.
    pub accept_pauses: u64,
    /// CLOCK_MONOTONIC nanoseconds of the worker's last turn.
    pub turn_at_ns: u64,
    /// The protocol's own counters.
    pub named: Vec<(String, u64)>,
    /// From the moment input was seen to the moment its answer was handed to the kernel, nanoseconds.
    pub service: HistogramSnapshot,
    /// Of connections that went to other workers: from when nothing was read of it here any more to when it was the other
    /// worker's, nanoseconds.
    pub pause: HistogramSnapshot,
}

impl Default for Snapshot {
    fn default() -> Self {
        WorkerPage::default().snapshot()
    }
}

impl Snapshot {
    /// Adds another's numbers. Those of one that has ended count no open connections.
    pub fn add(&mut self, other: &Self) {
        let Self {
            accepted,
            connected,
            taken_over,
            open,
            closed,
            bytes_received,
            bytes_sent,
            requests,
            turns,
            enters,
            buffers_exhausted,
            completions_overflowed,
            accept_errors,
            accept_pauses,
            turn_at_ns,
            named,
            service,
            pause,
        } = other;
        self.accepted = self.accepted.saturating_add(*accepted);
        self.connected = self.connected.saturating_add(*connected);
        self.taken_over = self.taken_over.saturating_add(*taken_over);
        self.open = self.open.saturating_add(*open);
        for (own, theirs) in self.closed.iter_mut().zip(closed) {
            *own = (theirs.0, own.1.saturating_add(theirs.1));
        }
        self.bytes_received = self.bytes_received.saturating_add(*bytes_received);
        self.bytes_sent = self.bytes_sent.saturating_add(*bytes_sent);
        self.requests = self.requests.saturating_add(*requests);
        self.turns = self.turns.saturating_add(*turns);
        self.enters = self.enters.saturating_add(*enters);
        self.buffers_exhausted = self.buffers_exhausted.saturating_add(*buffers_exhausted);
        self.completions_overflowed = self.completions_overflowed.saturating_add(*completions_overflowed);
        self.accept_errors = self.accept_errors.saturating_add(*accept_errors);
        self.accept_pauses = self.accept_pauses.saturating_add(*accept_pauses);
        self.turn_at_ns = self.turn_at_ns.max(*turn_at_ns);
        for (name, count) in named {
            let has_room = self.named.len() < NAMED_MAX;
            match self.named.iter_mut().find(|(own, _)| own == name) {
                Some((_, own)) => *own = own.saturating_add(*count),
                None if has_room => self.named.push((name.clone(), *count)),
                None => {}
            }
        }
        self.service.add(service);
        self.pause.add(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_and_are_cut_at_a_character() {
        let page = WorkerPage::default();
        page.set_name(0, "hits");
        page.set_name(1, &"ä".repeat(40));
        page.named[0].add(3);
        assert_eq!(page.name(0), "hits");
        assert_eq!(page.name(1), "ä".repeat(16));
        assert_eq!(page.snapshot().named[0], ("hits".to_owned(), 3));
    }
}
