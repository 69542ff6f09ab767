//! The provided buffer ring: buffers that the kernel picks for receives (kernel 5.19, io_uring_register(2),
//! `IORING_REGISTER_PBUF_RING`).
//!
//! Invariant: a buffer is at any time either published to the kernel, or covered by exactly one [`Lease`], or in the
//! free stack. Only as many are published as recent turns used, and freed ones are published again first. So the
//! buffers that cycle through the ring are few enough to stay in the cache, whatever the ring's size.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// A buffer group of a worker's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Normal buffers.
    Usual = 0,
    /// Fewer and larger ones, for connections that send faster than they are received.
    Bulk = 1,
}

/// Kernel limit of entries in one ring (io_uring_register(2)).
pub(crate) const BUFFERS_MAX: u16 = 1 << 15;

/// Buffers published before the load is known.
const PUBLISHED_MIN: u16 = 32;

/// After this many turns the published number may fall to [`SPARE_FACTOR`] times the peak seen in them.
const DECAY_TURNS: u32 = 4096;

/// This many times the number that one turn took are published, so that the load may rise.
const SPARE_FACTOR: u16 = 2;

/// Added to the distance between two buffers, so that their first lines do not fall into the same cache set.
const STAGGER_BYTES: usize = 192;

/// The kernel requires the ring to begin at a page boundary.
const PAGE_BYTES: usize = 4096;

/// The alignment of buffers.
const LINE_BYTES: usize = 64;

/// The alignment that malloc(3) guarantees. Memory of a larger alignment is zeroed by writing to it, so it has all of
/// its pages from the start, although most buffers are never used.
const ALLOCATED_AT_BYTES: usize = 16;

struct Memory {
    allocated: NonNull<u8>,
    layout: Layout,
    /// The first buffer.
    start: NonNull<u8>,
    stride: usize,
    size: u32,
    free: RefCell<Vec<u16>>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `BufferRing::new` with this layout; leases hold an Rc, so none is left.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) }
    }
}

/// A buffer that the kernel has filled, or part of it. Goes back to the ring when dropped.
pub(crate) struct Lease {
    memory: Rc<Memory>,
    buffer: u16,
    offset: u32,
    length: u32,
}

impl Lease {
    pub(crate) fn len(&self) -> usize {
        self.length as usize
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies within buffer `buffer` (checked in `take` and `narrow`), the memory is
        // initialised and lives with our Rc, and the kernel does not write to a buffer that is not published.
        unsafe {
            let start = self.memory.start.as_ptr().add(self.buffer as usize * self.memory.stride);
            std::slice::from_raw_parts(start.add(self.offset as usize), self.length as usize)
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; and no other lease covers the buffer, so `&mut self` makes this the only reference into it.
        unsafe {
            let start = self.memory.start.as_ptr().add(self.buffer as usize * self.memory.stride);
            std::slice::from_raw_parts_mut(start.add(self.offset as usize), self.length as usize)
        }
    }

    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advanced past the end of a lease");
        self.offset += count as u32;
        self.length -= count as u32;
    }

    /// Keeps only `length` bytes from `offset` on.
    pub(crate) fn narrow(&mut self, offset: usize, length: usize) {
        self.advance(offset);
        assert!(length <= self.len(), "narrowed past the end of a lease");
        self.length = length as u32;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.memory.free.borrow_mut().push(self.buffer);
    }
}

/// See the module's head.
pub(crate) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    entries_layout: Layout,
    memory: Rc<Memory>,
    mask: u16,
    tail: u16,
    /// Buffers the kernel holds now.
    published: u16,
    /// Buffers the kernel should hold at the start of a wait.
    target: u16,
    taken_this_turn: u16,
    taken_peak: u16,
    turns: u32,
}

impl BufferRing {
    /// Registers `count` (a power of two) buffers of `size` bytes with the ring.
    pub(crate) fn new(ring: &IoUring, group: Group, count: u16, size: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= BUFFERS_MAX, "a buffer ring has 2^n entries, 2^15 at most");
        let stride = (size as usize).next_multiple_of(LINE_BYTES) + STAGGER_BYTES;
        let layout = Layout::from_size_align(stride * count as usize + LINE_BYTES, ALLOCATED_AT_BYTES)
            .map_err(io::Error::other)?;
        let entries_layout = Layout::from_size_align(count as usize * size_of::<BufRingEntry>(), PAGE_BYTES)
            .map_err(io::Error::other)?;
        // SAFETY: neither layout has size zero.
        let (allocated, entries) = unsafe { (alloc_zeroed(layout), alloc_zeroed(entries_layout)) };
        let Some(allocated) = NonNull::new(allocated) else { handle_alloc_error(layout) };
        let Some(entries) = NonNull::new(entries.cast::<BufRingEntry>()) else { handle_alloc_error(entries_layout) };
        let free = RefCell::new((0..count).rev().collect());
        // SAFETY: less than a line is skipped, and a line more than the buffers need was allocated.
        let start = unsafe { allocated.add(allocated.align_offset(LINE_BYTES)) };
        let memory = Rc::new(Memory { allocated, layout, start, stride, size, free });
        let this = Self {
            entries,
            entries_layout,
            memory,
            mask: count - 1,
            tail: 0,
            published: 0,
            target: PUBLISHED_MIN.min(count),
            taken_this_turn: 0,
            taken_peak: 0,
            turns: 0,
        };
        // SAFETY: `entries` is page-aligned, has `count` entries, and is freed only after the ring is gone: the owner
        // keeps this value in a field after the ring.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, group as u16, 0)? };
        Ok(this)
    }

    /// The lease of a buffer that a completion named.
    pub(crate) fn take(&mut self, buffer: u16, length: u32) -> Lease {
        assert!(buffer <= self.mask && length <= self.memory.size, "the kernel named a buffer that is not ours");
        self.published -= 1;
        self.taken_this_turn += 1;
        Lease { memory: Rc::clone(&self.memory), buffer, offset: 0, length }
    }

    /// The kernel had no buffer left: publish all from now on, until the load falls.
    pub(crate) fn exhausted(&mut self) {
        self.target = self.mask + 1;
    }

    /// How many receives armed now would find a buffer.
    pub(crate) fn available(&self) -> usize {
        usize::from(self.published) + self.memory.free.borrow().len()
    }

    /// Buffers that are neither published nor free: leased to sends that wait.
    pub(crate) fn leased(&self) -> usize {
        self.count() - self.available()
    }

    /// Keeps the memory forever: the kernel may still write to it.
    pub(crate) fn leak(&mut self) {
        std::mem::forget(Rc::clone(&self.memory));
        self.entries_layout = Layout::new::<()>();
    }

    pub(crate) fn count(&self) -> usize {
        self.mask as usize + 1
    }

    /// Gives freed buffers back to the kernel, as many as the load needs. Called before each enter.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.taken_peak = self.taken_peak.max(self.taken_this_turn);
        if self.taken_this_turn > self.target / SPARE_FACTOR {
            self.target = self.taken_this_turn.saturating_mul(SPARE_FACTOR).min(self.mask + 1);
        }
        self.taken_this_turn = 0;
        self.turns += 1;
        if self.turns >= DECAY_TURNS {
            self.turns = 0;
            self.target = self
                .target
                .min(self.taken_peak.saturating_mul(SPARE_FACTOR))
                .clamp(PUBLISHED_MIN, BUFFERS_MAX)
                .min(self.mask + 1);
            self.taken_peak = 0;
        }
        if self.published >= self.target {
            return;
        }
        let mut free = self.memory.free.borrow_mut();
        let before = self.tail;
        while self.published < self.target {
            let Some(buffer) = free.pop() else { break };
            // SAFETY: the index is masked into the `count` entries; buffer is below count, so its address is
            // within the memory; the kernel reads the entry only after the tail's release store below.
            unsafe {
                let entry = &mut *self.entries.as_ptr().add((self.tail & self.mask) as usize);
                entry.set_addr(self.memory.start.as_ptr().add(buffer as usize * self.memory.stride) as u64);
                entry.set_len(self.memory.size);
                entry.set_bid(buffer);
            }
            self.tail = self.tail.wrapping_add(1);
            self.published += 1;
        }
        if self.tail != before {
            // SAFETY: the tail overlays the first entry's reserved field (io_uring_register(2)); it is aligned to
            // two bytes and only ever read by the kernel.
            unsafe {
                let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
                (*tail).store(self.tail, Ordering::Release);
            }
        }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if self.entries_layout.size() == 0 {
            return;
        }
        // SAFETY: allocated in `new` with this layout; the ring that read it is gone (see the owner's field order).
        unsafe { dealloc(self.entries.as_ptr().cast(), self.entries_layout) }
    }
}
