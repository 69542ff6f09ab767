//! The io_uring with its receive buffers: the only place with `unsafe`. Its interface is safe, whatever the caller
//! does: a buffer is at any time either with the kernel, or in exactly one [`Lease`].

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{IoUring, cqueue, opcode, types};
use nix::sys::socket::MsgFlags;

const QUEUE_ENTRIES: u32 = 4096;
const PAGE_BYTES: usize = 4096;
/// Added to the distance between two buffers. Otherwise the first bytes of all would fall into one cache set.
const STAGGER_BYTES: usize = 192;

/// A received piece of a stream, in a buffer that the kernel has released.
pub(crate) struct Lease {
    buffer: u16,
}

/// An event, with the slot of its connection in the ring's table of descriptors.
pub(crate) enum Event {
    Accept {
        result: io::Result<u32>,
        armed: bool,
    },
    /// Without a lease at the end of the stream.
    Receive {
        slot: u32,
        result: io::Result<Option<Lease>>,
        armed: bool,
    },
    /// A send of leased bytes has ended; a short one leaves the rest in the lease.
    SendLease {
        slot: u32,
        lease: Lease,
        result: io::Result<()>,
    },
    /// Another operation failed. The connection's receive reports the same.
    Failure,
}

#[repr(u8)]
enum Kind {
    Other,
    Accept,
    Receive,
    SendLease,
}

fn token(kind: Kind, buffer: u16, slot: u32) -> u64 {
    u64::from(slot) | u64::from(buffer) << 32 | (kind as u64) << 48
}

pub(crate) struct Ring {
    uring: IoUring,
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    stride: usize,
    buffer_bytes: u32,
    mask: u16,
    tail: u16,
    free_buffers: usize,
    /// For each leased buffer, the range that is not sent yet.
    spans: Vec<(u32, u32)>,
}

impl Ring {
    /// A ring with `buffers` (a power of two) receive buffers and a table of descriptors with `slots` places.
    pub(crate) fn new(buffers: u16, buffer_bytes: u32, slots: u32) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_cqsize(4 * QUEUE_ENTRIES)
            .build(QUEUE_ENTRIES)?;
        uring.submitter().register_files_sparse(slots)?;
        uring.submitter().register_ring_fd()?;
        let stride = (buffer_bytes as usize).next_multiple_of(64) + STAGGER_BYTES;
        let entries = allocate(usize::from(buffers) * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let memory = allocate(usize::from(buffers) * stride)?;
        // SAFETY: `entries` is page-aligned, has room for `buffers` entries and is never freed.
        unsafe { uring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, buffers, 0, 0)? };
        let spans = vec![(0, 0); usize::from(buffers)];
        let mut this =
            Self { uring, entries, memory, stride, buffer_bytes, mask: buffers - 1, tail: 0, free_buffers: 0, spans };
        (0..buffers).for_each(|buffer| this.give_back(Lease { buffer }));
        Ok(this)
    }

    /// Submits all operations, and waits for a completion if there is none.
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        self.publish();
        match self.uring.submit_and_wait(1) {
            Err(error)
                if error.kind() != io::ErrorKind::Interrupted && error.raw_os_error() != Some(nix::libc::EBUSY) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    #[inline]
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let completion = self.uring.completion().next()?;
        let (data, flags) = (completion.user_data(), completion.flags());
        let (slot, armed) = (data as u32, cqueue::more(flags));
        let result = match completion.result() {
            result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            result => Ok(result as u32),
        };
        Some(match data >> 48 {
            kind if kind == Kind::Receive as u64 => {
                let lease = cqueue::buffer_select(flags).map(|buffer| Lease { buffer });
                self.free_buffers -= usize::from(lease.is_some());
                let result = match (result, lease) {
                    (Ok(bytes @ 1..), Some(lease)) => {
                        self.spans[usize::from(lease.buffer)] = (0, bytes);
                        Ok(Some(lease))
                    }
                    (result, lease) => {
                        lease.into_iter().for_each(|lease| self.give_back(lease));
                        result.map(|_| None)
                    }
                };
                Event::Receive { slot, result, armed }
            }
            kind if kind == Kind::SendLease as u64 => {
                let lease = Lease { buffer: (data >> 32) as u16 };
                let result = result.map(|sent| self.spans[usize::from(lease.buffer)].0 += sent);
                Event::SendLease { slot, lease, result }
            }
            kind if kind == Kind::Accept as u64 => Event::Accept { result, armed },
            _ => Event::Failure,
        })
    }

    #[inline]
    pub(crate) fn bytes(&self, lease: &Lease) -> &[u8] {
        let (start, end) = self.spans[usize::from(lease.buffer)];
        assert!(start <= end && end <= self.buffer_bytes, "a piece ends where its buffer ends");
        // SAFETY: `memory` is initialised and never freed, the range is inside buffer `buffer` of it (asserted; the
        // index above has bounded `buffer`), and the kernel does not write to a leased buffer.
        unsafe {
            let first = self.memory.as_ptr().add(usize::from(lease.buffer) * self.stride + start as usize);
            std::slice::from_raw_parts(first, (end - start) as usize)
        }
    }

    /// Allows the kernel to fill the buffer again, from the next turn on.
    #[inline]
    pub(crate) fn give_back(&mut self, lease: Lease) {
        // SAFETY: the entry is inside the ring of buffers (masked). The kernel reads entries only up to the tail that
        // it was shown, so not the one at `tail`. There are as many entries as buffers, so it is done with this one.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask));
            entry.set_addr(self.memory.as_ptr().add(usize::from(lease.buffer) * self.stride) as u64);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(lease.buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        self.free_buffers += 1;
    }

    pub(crate) fn free_buffers(&self) -> usize {
        self.free_buffers
    }

    /// Accepts forever, straight into the table of descriptors.
    pub(crate) fn accept(&mut self, listener: &impl AsRawFd) {
        let listener = types::Fd(listener.as_raw_fd() as RawFd);
        let accept = opcode::AcceptMulti::new(listener).allocate_file_index(true).build();
        self.push(accept.user_data(token(Kind::Accept, 0, 0)));
    }

    pub(crate) fn receive(&mut self, slot: u32, once: bool) {
        let receive = if once {
            opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0).buf_group(0).build().flags(Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(Fixed(slot), 0).build()
        };
        self.push(receive.user_data(token(Kind::Receive, 0, slot)));
    }

    /// Sends all of `bytes`. Success is not reported, since the bytes live forever. With `then`, the next pushed
    /// operation waits for this one.
    #[inline]
    pub(crate) fn send(&mut self, slot: u32, bytes: &'static [u8], then: bool) {
        let mut flags = Flags::SKIP_SUCCESS;
        flags.set(Flags::IO_LINK, then);
        self.push(send(slot, bytes).flags(flags).user_data(token(Kind::Other, 0, slot)));
    }

    #[inline]
    pub(crate) fn send_lease(&mut self, slot: u32, lease: Lease) {
        let entry = send(slot, self.bytes(&lease));
        self.push(entry.user_data(token(Kind::SendLease, lease.buffer, slot)));
    }

    pub(crate) fn close(&mut self, slot: u32) {
        let close = opcode::Close::new(Fixed(slot)).build().flags(Flags::SKIP_SUCCESS);
        self.push(close.user_data(token(Kind::Other, 0, slot)));
    }

    #[inline]
    fn push(&mut self, entry: Entry) {
        // SAFETY: entries are only created in this file. A receive writes to published buffers. A send reads static
        // bytes, or those of a lease that the token keeps until its completion. No other entry has memory.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            // The queue is full: submit what is there. The next turn shows a failure.
            self.publish();
            _ = self.uring.submit();
        }
    }

    /// Shows the kernel the buffers that were given back.
    #[inline]
    fn publish(&mut self) {
        // SAFETY: the tail is in the first entry, which is never freed, and only we write it.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

/// MSG_WAITALL makes the kernel continue after a short send by itself.
fn send(slot: u32, bytes: &[u8]) -> Entry {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_WAITALL;
    opcode::Send::new(Fixed(slot), bytes.as_ptr(), bytes.len() as u32).flags(flags.bits()).build()
}

/// Zeroed and page-aligned memory, kept until the process ends.
fn allocate(bytes: usize) -> io::Result<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes, PAGE_BYTES).map_err(io::Error::other)?;
    // SAFETY: no caller asks for zero bytes.
    let memory = unsafe { alloc_zeroed(layout) };
    Ok(NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout)))
}
