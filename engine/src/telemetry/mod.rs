//! Counters and service times of a worker, in memory that its parent shares: readable while the worker runs and
//! after it died.
//!
//! Each page has one writer, so a counter is a relaxed load and store: no locked instruction on the data path.

mod histogram;
pub(crate) mod pages;
mod totals;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use histogram::Histogram;
pub use histogram::{HISTOGRAM_BUCKETS, HistogramSnapshot};
pub(crate) use totals::Ledger;
pub use totals::Totals;

use crate::sys::shared_memory::shareable;
use crate::types::CloseReason;

/// Counters that a protocol may name; see [`Worker::counter`](crate::Worker::counter).
pub const NAMED_COUNTERS_MAX: usize = 16;

/// Named counters in a sum over many workers.
const NAMES_IN_SUM_MAX: usize = 256;

/// The most bytes of such a name.
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
        /// Nanoseconds of turns, without the wait; of all turns if connections can be rebalanced.
        pub(crate) busy_ns: Counter,
        pub(crate) enters: Counter,
        pub(crate) buffers_exhausted: Counter,
        pub(crate) completions_overflowed: Counter,
        pub(crate) accept_errors: Counter,
        pub(crate) accept_pauses: Counter,
        /// Bytes held for connections.
        pub(crate) memory_bytes: Counter,
        /// Number of times a connection was not read for lack of memory.
        pub(crate) memory_pauses: Counter,
        /// The approximate size of the worker's own state.
        pub(crate) state_bytes: Counter,
        /// Messages to other workers, each counted once however many workers it went to. The next fields: messages from
        /// others, and workers that took none.
        pub(crate) sibling_messages_sent: Counter,
        pub(crate) sibling_messages_heard: Counter,
        pub(crate) siblings_dropped: Counter,
        /// CLOCK_MONOTONIC nanoseconds of the last turn. Together with the next field it is the heartbeat.
        pub(crate) turn_at_ns: Counter,
        /// Events handled: a worker that makes progress in a long turn is busy, and does not hang.
        pub(crate) events: Counter,
        pub(crate) named: [Counter; NAMED_COUNTERS_MAX],
        names: [[AtomicU64; COUNTER_NAME_BYTES_MAX / 8]; NAMED_COUNTERS_MAX],
        pub(crate) service: Histogram,
        /// How long each connection that moved to another worker, by a change or by rebalancing, was paused.
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
        // Names are shown on terminals.
        String::from_utf8_lossy(&bytes[..length]).replace(char::is_control, "\u{fffd}")
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
            memory_bytes: self.memory_bytes.get(),
            memory_pauses: self.memory_pauses.get(),
            sibling_messages_sent: self.sibling_messages_sent.get(),
            sibling_messages_heard: self.sibling_messages_heard.get(),
            siblings_dropped: self.siblings_dropped.get(),
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
    /// Number of times accepting was paused, because of the connection limit or because descriptors ran out.
    pub accept_pauses: u64,
    /// Bytes held for connections now: input, output, and what the protocol reports.
    pub memory_bytes: u64,
    /// Number of times a connection was not read because too much memory was held.
    pub memory_pauses: u64,
    /// Messages sent to other workers; a broadcast is one.
    pub sibling_messages_sent: u64,
    /// Messages received from other workers.
    pub sibling_messages_heard: u64,
    /// Other workers that took no messages for 10 s, and get no more.
    pub siblings_dropped: u64,
    /// CLOCK_MONOTONIC nanoseconds of the worker's last turn.
    pub turn_at_ns: u64,
    /// The protocol's own counters.
    pub named: Vec<(String, u64)>,
    /// From the moment input was seen to the moment its answer was handed to the kernel, nanoseconds.
    pub service: HistogramSnapshot,
    /// How long connections that moved to another worker, by a change or by rebalancing, were paused: from when this
    /// worker stopped reading until the other one had the connection, nanoseconds.
    pub pause: HistogramSnapshot,
}

impl Default for Snapshot {
    fn default() -> Self {
        WorkerPage::default().snapshot()
    }
}

impl Snapshot {
    /// Adds another's numbers, with at most 256 named ones in all. A sum that is too large stays at the largest number:
    /// a compromised worker can write any numbers there.
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
            memory_bytes,
            memory_pauses,
            sibling_messages_sent,
            sibling_messages_heard,
            siblings_dropped,
            turn_at_ns,
            named,
            service,
            pause,
        } = other;
        sum(&mut self.accepted, *accepted);
        sum(&mut self.connected, *connected);
        sum(&mut self.taken_over, *taken_over);
        sum(&mut self.open, *open);
        for (own, theirs) in self.closed.iter_mut().zip(closed) {
            sum(&mut own.1, theirs.1);
        }
        sum(&mut self.bytes_received, *bytes_received);
        sum(&mut self.bytes_sent, *bytes_sent);
        sum(&mut self.requests, *requests);
        sum(&mut self.turns, *turns);
        sum(&mut self.enters, *enters);
        sum(&mut self.buffers_exhausted, *buffers_exhausted);
        sum(&mut self.completions_overflowed, *completions_overflowed);
        sum(&mut self.accept_errors, *accept_errors);
        sum(&mut self.accept_pauses, *accept_pauses);
        sum(&mut self.memory_bytes, *memory_bytes);
        sum(&mut self.memory_pauses, *memory_pauses);
        sum(&mut self.sibling_messages_sent, *sibling_messages_sent);
        sum(&mut self.sibling_messages_heard, *sibling_messages_heard);
        sum(&mut self.siblings_dropped, *siblings_dropped);
        self.turn_at_ns = self.turn_at_ns.max(*turn_at_ns);
        for (name, count) in named {
            let is_room = self.named.len() < NAMES_IN_SUM_MAX;
            match self.named.iter_mut().find(|(own, _)| own == name) {
                Some((_, own)) => sum(own, *count),
                None if is_room => self.named.push((name.clone(), *count)),
                None => {}
            }
        }
        self.service.add(service);
        self.pause.add(pause);
    }
}

fn sum(own: &mut u64, other: u64) {
    *own = own.saturating_add(other);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_page_can_be_read_and_summed() {
        let page = WorkerPage::default();
        let all = [&page.accepted, &page.open, &page.requests, &page.turn_at_ns, &page.named[0]];
        all.into_iter().chain(&page.closed).for_each(|counter| counter.set(u64::MAX));
        page.service.fill(u64::MAX);
        let (mut total, latest) = (Snapshot::default(), page.snapshot());
        for number in 0..1000 {
            page.set_name(0, &format!("\u{1b}[2J{number}"));
            total.add(&page.snapshot());
            total.add(&latest);
        }
        assert_eq!((total.accepted, total.closed[0].1, total.service.count()), (u64::MAX, u64::MAX, u64::MAX));
        assert!(total.service.quantile(1.0) >= total.service.quantile(0.5));
        assert_eq!(total.named.len(), NAMES_IN_SUM_MAX);
        assert_eq!(total.named[0], ("\u{fffd}[2J0".to_owned(), u64::MAX));
    }

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
