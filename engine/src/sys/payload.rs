//! What a send reads from: memory that its owner cannot touch while the kernel may read it.

use std::io;
use std::ptr;
use std::rc::Rc;

use super::arena::Slice;
use super::buffer_ring::Lease;
use super::file_part::FilePart;

/// Bytes to send, with the memory that holds them.
pub(crate) enum Payload {
    /// Part of this turn's output.
    Slice(Slice),
    /// Part of a receive buffer, sent back without copying.
    Lease(Lease),
    /// A connection's own backlog; `sent` bytes of it have been sent.
    Owned {
        /// The backlog.
        bytes: Vec<u8>,
        /// How many bytes of it have been sent.
        sent: usize,
    },
    /// Part of the program.
    Static(&'static [u8]),
    /// Memory of the protocol that does not change any more; `start..end` will be sent.
    Counted {
        /// The memory.
        bytes: Rc<[u8]>,
        /// The index of the first byte to send.
        start: u32,
        /// The index after the last byte to send.
        end: u32,
    },
    /// Part of this turn's output, followed by counted memory: one send for both.
    Joined(Box<Joined>),
    /// Part of a file, and perhaps part of this turn's output before it.
    File(Box<FilePart>),
}

/// See [`Payload::Joined`].
pub(crate) struct Joined {
    first: Slice,
    bytes: Rc<[u8]>,
    start: u32,
    end: u32,
    /// The message from which the kernel reads both parts.
    message: libc::msghdr,
    parts: [libc::iovec; 2],
}

impl Joined {
    fn second(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    /// For sendmsg(2). Valid as long as this value is neither moved nor changed.
    pub(super) fn message(&mut self) -> *const libc::msghdr {
        let part = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.parts = [part(self.first.bytes()), part(self.second())];
        (self.message.msg_iov, self.message.msg_iovlen) = (self.parts.as_mut_ptr(), self.parts.len() as _);
        &raw const self.message
    }
}

impl Payload {
    /// `slice`, followed by `bytes[start..end]`.
    pub(crate) fn joined(slice: Slice, bytes: Rc<[u8]>, start: u32, end: u32) -> Self {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let message = libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        Self::Joined(Box::new(Joined { first: slice, bytes, start, end, message, parts: [nothing; 2] }))
    }

    /// The bytes, in one piece or two, without those that are still in a file.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        match self {
            Self::Slice(slice) => [slice.bytes(), &[]],
            Self::Lease(lease) => [lease.bytes(), &[]],
            Self::Owned { bytes, sent } => [&bytes[*sent..], &[]],
            Self::Static(bytes) => [bytes, &[]],
            Self::Counted { bytes, start, end } => [&bytes[*start as usize..*end as usize], &[]],
            Self::Joined(joined) => [joined.first.bytes(), joined.second()],
            Self::File(part) => [part.bytes(), &[]],
        }
    }

    /// Appends all bytes to `to`.
    ///
    /// # Errors
    /// If some are in a file that cannot be read, or has become shorter.
    pub(crate) fn append_to(&self, to: &mut Vec<u8>) -> io::Result<()> {
        if let Self::File(part) = self {
            return part.append_to(to);
        }
        self.parts().into_iter().for_each(|part| to.extend_from_slice(part));
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Slice(slice) => slice.len(),
            Self::Lease(lease) => lease.len(),
            Self::Owned { bytes, sent } => bytes.len() - sent,
            Self::Static(bytes) => bytes.len(),
            Self::Counted { start, end, .. } => (end - start) as usize,
            Self::Joined(joined) => joined.first.len() + (joined.end - joined.start) as usize,
            Self::File(part) => part.len(),
        }
    }

    /// See [`FilePart::uncounted`].
    pub(crate) fn uncounted(&self) -> u32 {
        match self {
            Self::File(part) => part.uncounted(),
            _ => 0,
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
            Self::Joined(joined) => {
                let of_first = count.min(joined.first.len());
                joined.first.advance(of_first);
                assert!(count - of_first <= joined.second().len(), "advanced past the end of counted memory");
                joined.start += (count - of_first) as u32;
            }
            Self::File(part) => part.advance(count),
        }
    }

    /// The same bytes in memory that may wait for a slow peer, in one piece or two. Shared memory is copied.
    pub(crate) fn unshared(self) -> (Self, Option<Self>) {
        let copy = |bytes: &[u8]| Self::Owned { bytes: bytes.to_vec(), sent: 0 };
        match self {
            Self::Slice(slice) => (copy(slice.bytes()), None),
            Self::Lease(lease) => (copy(lease.bytes()), None),
            Self::Joined(joined) => {
                let Joined { first, bytes, start, end, .. } = *joined;
                let second = Self::Counted { bytes, start, end };
                if first.len() == 0 { (second, None) } else { (copy(first.bytes()), Some(second)) }
            }
            Self::File(part) if part.is_shared() => {
                let (first, part) = part.split();
                let part = Self::File(Box::new(part));
                match first {
                    Some(first) => (copy(first.bytes()), Some(part)),
                    None => (part, None),
                }
            }
            other => (other, None),
        }
    }

    /// Whether all connections of the worker share the memory, so that no slow peer may hold it.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Slice(_) | Self::Lease(_) | Self::Joined(_) => true,
            Self::File(part) => part.is_shared(),
            Self::Owned { .. } | Self::Static(_) | Self::Counted { .. } => false,
        }
    }
}
