//! What a send reads from: memory that its owner cannot touch while the kernel may.

use std::rc::Rc;

use super::arena::Slice;
use super::buffer_ring::Lease;

/// Bytes to be sent, with the memory they are in.
pub(crate) enum Payload {
    /// Part of this turn's output.
    Slice(Slice),
    /// Part of a receive buffer, sent back without copying.
    Lease(Lease),
    /// A connection's own backlog; `sent` bytes of it are out already.
    Owned {
        /// The backlog.
        bytes: Vec<u8>,
        /// How much of it is sent.
        sent: usize,
    },
    /// Part of the program.
    Static(&'static [u8]),
    /// Memory of the protocol's that nobody changes any more; `start..end` is to be sent.
    Counted {
        /// The memory.
        bytes: Rc<[u8]>,
        /// The first byte to be sent.
        start: u32,
        /// Behind the last.
        end: u32,
    },
}

impl Payload {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Slice(slice) => slice.bytes(),
            Self::Lease(lease) => lease.bytes(),
            Self::Owned { bytes, sent } => &bytes[*sent..],
            Self::Static(bytes) => bytes,
            Self::Counted { bytes, start, end } => &bytes[*start as usize..*end as usize],
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Slice(slice) => slice.len(),
            Self::Lease(lease) => lease.len(),
            Self::Owned { bytes, sent } => bytes.len() - sent,
            Self::Static(bytes) => bytes.len(),
            Self::Counted { start, end, .. } => (end - start) as usize,
        }
    }

    /// Drops `count` bytes from the front.
    pub(crate) fn advance(&mut self, count: usize) {
        match self {
            Self::Slice(slice) => slice.advance(count),
            Self::Lease(lease) => lease.advance(count),
            Self::Owned { bytes, sent } => {
                assert!(count <= bytes.len() - *sent, "advanced past the end of a backlog");
                *sent += count;
            }
            Self::Static(bytes) => *bytes = &bytes[count..],
            Self::Counted { start, end, .. } => {
                assert!(count <= (*end - *start) as usize, "advanced past the end of counted memory");
                *start += count as u32;
            }
        }
    }

    /// Whether the memory is shared by all connections of the worker, so that no slow peer may hold it.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Slice(_) | Self::Lease(_))
    }
}
