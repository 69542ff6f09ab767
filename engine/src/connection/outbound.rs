//! A connection's output: what is ready to send, what is in flight, and what waits after it.
//!
//! Invariants: at most one send is in flight. Bytes are sent in the order in which they were pushed. Memory that the
//! worker's connections share (arena, receive buffers) is only sent from without waiting; what does not fit into the
//! peer's window at once is copied into the connection's own memory.

use std::collections::VecDeque;
use std::io;

use crate::sys::arena::Arena;
use crate::sys::payload::Payload;

/// A backlog entry grows until it has this size, so that one send does not hold all of a large backlog, and the entry's
/// unused capacity stays small.
const BACKLOG_ENTRY_BYTES: usize = 64 * 1024;

/// The output of one connection.
#[derive(Default)]
pub(crate) struct Outbound {
    /// It is sent at the end of the turn.
    ready: Option<Payload>,
    /// Boxed, since idle connections have none and every byte counts ten thousand times.
    #[expect(clippy::box_collection, reason = "eight bytes instead of 32 per idle connection")]
    backlog: Option<Box<VecDeque<Payload>>>,
    in_flight: bool,
    /// Pending bytes that need no memory of the connection: parts of files and of shared memory. A part that is partly sent
    /// counts whole.
    uncounted: u32,
    /// Bytes pushed and not yet taken by the kernel.
    pending: usize,
}

impl Outbound {
    /// Bytes pushed and not yet taken by the kernel.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Memory for the bytes that were pushed and that the kernel has not taken yet.
    #[inline]
    pub(crate) fn held_bytes(&self) -> usize {
        self.pending.saturating_sub(self.uncounted as usize)
    }

    /// Whether [`Outbound::begin_send`] would return something.
    pub(crate) fn can_send(&self) -> bool {
        !self.in_flight && self.pending > 0
    }

    /// Appends the bytes that are staged in the arena.
    #[inline]
    pub(crate) fn push_staged(&mut self, arena: &mut Arena) {
        let length = arena.staged_len();
        if length == 0 {
            return;
        }
        if self.pending == 0 {
            self.ready = arena.seal().map(Payload::Slice);
        } else {
            let extended = match &mut self.ready {
                Some(Payload::Slice(slice)) if self.backlog.is_none() => arena.extend(slice),
                _ => false,
            };
            if !extended {
                self.copy_to_backlog(arena.staged());
                arena.discard();
            }
        }
        self.pending += length;
    }

    /// Appends `payload`, and copies it if it is shared memory that would have to wait.
    pub(crate) fn push(&mut self, mut payload: Payload) {
        let length = payload.len();
        if length == 0 {
            return;
        }
        if let Payload::File(part) = &mut payload {
            part.limit_uncounted(u32::MAX - self.uncounted);
            self.uncounted += part.uncounted();
        }
        if self.pending == 0 {
            self.ready = Some(payload);
        } else if payload.is_shared() {
            payload.parts().into_iter().for_each(|part| self.copy_to_backlog(part));
        } else {
            match (self.ready.take(), payload) {
                (Some(Payload::Slice(slice)), Payload::Counted { bytes, start, end }) if self.backlog.is_none() => {
                    self.ready = Some(Payload::joined(slice, bytes, start, end));
                }
                (Some(Payload::Slice(slice)), Payload::File(part)) if self.backlog.is_none() => {
                    self.ready = Some(Payload::File(Box::new(part.behind(slice))));
                }
                (ready, payload) => {
                    self.ready = ready;
                    self.backlog.get_or_insert_default().push_back(payload);
                }
            }
        }
        self.pending += length;
    }

    /// What to send now. The caller reports its end with [`Outbound::sent`].
    pub(crate) fn begin_send(&mut self) -> Option<Payload> {
        if self.in_flight {
            return None;
        }
        let payload = self.ready.take().or_else(|| {
            let backlog = self.backlog.as_mut()?;
            let first = backlog.pop_front();
            if backlog.is_empty() {
                self.backlog = None;
            }
            first
        })?;
        self.in_flight = true;
        Some(payload)
    }

    /// The send of `payload` has ended, and the kernel took `count` bytes.
    #[inline]
    pub(crate) fn sent(&mut self, mut payload: Payload, count: usize) {
        assert!(self.in_flight && self.ready.is_none(), "a send ended that was not begun");
        self.in_flight = false;
        self.pending -= count;
        if count == payload.len() {
            self.uncounted -= payload.uncounted();
            return;
        }
        payload.advance(count);
        let (first, second) = payload.unshared();
        self.ready = Some(first);
        if let Some(second) = second {
            self.backlog.get_or_insert_default().push_front(second);
        }
    }

    /// A copy of everything that was not sent. Nothing may be in flight.
    ///
    /// # Errors
    /// If a part of a file cannot be read.
    pub(crate) fn copy(&self) -> io::Result<Vec<u8>> {
        debug_assert!(!self.in_flight, "what is in flight is neither sent nor unsent");
        let backlog = self.backlog.iter().flat_map(|backlog| backlog.iter());
        let mut bytes = Vec::with_capacity(self.pending);
        self.ready.iter().chain(backlog).try_for_each(|payload| payload.append_to(&mut bytes))?;
        Ok(bytes)
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Drops everything that is not in flight.
    pub(crate) fn clear(&mut self) {
        let backlog = self.backlog.take().into_iter().flat_map(|backlog| *backlog);
        for payload in self.ready.take().into_iter().chain(backlog) {
            self.pending -= payload.len();
            self.uncounted -= payload.uncounted();
        }
    }

    fn copy_to_backlog(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let backlog = self.backlog.get_or_insert_default();
        // What is ready came before: while it is shared memory it must not wait behind nothing, so it stays ready.
        match backlog.back_mut() {
            Some(Payload::Owned { bytes: last, .. }) if last.len() + bytes.len() <= BACKLOG_ENTRY_BYTES => {
                last.extend_from_slice(bytes);
            }
            _ => backlog.push_back(Payload::Owned { bytes: bytes.to_vec(), sent: 0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::file_part::{FilePart, Pages};
    use crate::sys::sealed_memory::SealedMemory;

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Static(usize),
        Counted(usize),
        Sealed(usize),
        EndTurn,
        /// Completes the send in flight with this part of 256.
        Sent(u8),
    }

    static ZEROS: [u8; 70_000] = [0; 70_000];

    proptest! {
        /// Whatever is written and however sends end, the bytes come out in order, and all are counted.
        #[test]
        fn bytes_leave_in_order(steps in proptest::collection::vec(prop_oneof![
            4 => (1..5000usize).prop_map(Step::Write),
            1 => (1..70_000usize).prop_map(Step::Static),
            1 => (1..70_000usize).prop_map(Step::Counted),
            1 => (1..70_000usize).prop_map(Step::Sealed),
            2 => Just(Step::EndTurn),
            3 => any::<u8>().prop_map(Step::Sent),
        ], 1..300)) {
            let mut arena = Arena::new();
            let mut outbound = Outbound::default();
            let (mut written, mut received) = (Vec::new(), Vec::new());
            let mut in_flight: Option<Payload> = None;
            let mut next = 0u8;
            let finish = |outbound: &mut Outbound, payload: Payload, share: usize, received: &mut Vec<u8>| {
                let count = payload.len() * share / 255;
                let before = received.len();
                payload.append_to(received).expect("readable");
                assert_eq!(received.len() - before, payload.len());
                received.truncate(before + count);
                outbound.sent(payload, count);
            };
            for step in steps {
                match step {
                    Step::Write(length) => {
                        let bytes: Vec<u8> = (0..length).map(|_| { next = next.wrapping_add(1); next }).collect();
                        arena.write(&bytes);
                        outbound.push_staged(&mut arena);
                        written.extend_from_slice(&bytes);
                    }
                    Step::Static(length) => {
                        outbound.push(Payload::Static(&ZEROS[..length]));
                        written.extend_from_slice(&ZEROS[..length]);
                    }
                    Step::Counted(length) => {
                        let bytes: std::rc::Rc<[u8]> = (0..=length).map(|index| index as u8).collect();
                        written.extend_from_slice(&bytes[1..]);
                        outbound.push(Payload::Counted { bytes, start: 1, end: length as u32 + 1 });
                    }
                    Step::Sealed(length) => {
                        let bytes: Vec<u8> = (0..=length).map(|index| index as u8).collect();
                        let memory = SealedMemory::read_from(&bytes[..], bytes.len()).expect("memory");
                        written.extend_from_slice(&bytes[1..]);
                        let part = FilePart::new(Pages::Sealed(memory.into()), 1..bytes.len() as u64);
                        outbound.push(Payload::File(Box::new(part)));
                    }
                    Step::EndTurn => {
                        prop_assert_eq!(in_flight.is_some(), outbound.is_in_flight());
                        if in_flight.is_none() {
                            let copy = outbound.copy().expect("readable");
                            prop_assert!(copy == written[received.len()..]);
                        }
                        if let Some(payload) = outbound.begin_send() {
                            in_flight = Some(payload);
                        }
                        arena.begin_turn();
                    }
                    Step::Sent(share) => {
                        if let Some(payload) = in_flight.take() {
                            finish(&mut outbound, payload, share as usize, &mut received);
                        }
                    }
                }
                prop_assert_eq!(outbound.pending(), written.len() - received.len());
                prop_assert!(outbound.held_bytes() <= outbound.pending());
            }
            if let Some(payload) = in_flight.take() {
                finish(&mut outbound, payload, 255, &mut received);
            }
            while let Some(payload) = outbound.begin_send() {
                finish(&mut outbound, payload, 255, &mut received);
            }
            prop_assert!(received == written);
            prop_assert_eq!((outbound.pending(), outbound.uncounted), (0, 0));
        }
    }
}
