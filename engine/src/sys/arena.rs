//! Output staging: memory to which answers are written and from which sends read.
//!
//! Connections write one after the other into the current chunk, and each takes its part as a [`Slice`]. So a turn's
//! answers lie side by side in a few hot kilobytes, instead of in one buffer per connection. Invariant: bytes that a
//! living [`Slice`] covers are never written, moved or freed. A chunk is only reused from its start when no slice of it
//! lives (`Rc::strong_count == 1`).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::rc::Rc;

/// Bytes of a normal chunk.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks that are always kept.
const CHUNKS_KEPT: usize = 4;

/// Chunks that no turn has needed for this many turns are given back.
const TURNS_OF_PEAK: u32 = 64;

struct Memory {
    start: NonNull<u8>,
    capacity: usize,
}

impl Memory {
    fn new(capacity: usize) -> Rc<Self> {
        assert!(capacity > 0 && u32::try_from(capacity).is_ok(), "a chunk holds 1 byte to 4 GiB");
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero, asserted above.
        let pointer = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(pointer) else { handle_alloc_error(layout) };
        Rc::new(Self { start, capacity })
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, 64).expect("a chunk's size is far below isize::MAX")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout; nothing else refers to it, since slices hold an Rc.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

struct Chunk {
    memory: Rc<Memory>,
    length: usize,
}

impl Chunk {
    fn new(capacity: usize) -> Self {
        Self { memory: Memory::new(capacity), length: 0 }
    }

    fn has_slices(&self) -> bool {
        Rc::strong_count(&self.memory) > 1
    }
}

/// Part of a chunk, immutable and valid as long as this value lives.
pub(crate) struct Slice {
    memory: Rc<Memory>,
    offset: u32,
    length: u32,
}

impl Slice {
    pub(crate) fn len(&self) -> usize {
        self.length as usize
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: offset + length lie within the chunk (seal), the chunk lives as long as our Rc, its bytes are
        // initialised (alloc_zeroed), and the arena never writes below the chunk's length while we live.
        unsafe {
            std::slice::from_raw_parts(self.memory.start.as_ptr().add(self.offset as usize), self.length as usize)
        }
    }

    /// Drops `count` bytes from the front.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advanced past the end of a slice");
        self.offset += count as u32;
        self.length -= count as u32;
    }
}

/// See the module's head.
pub(crate) struct Arena {
    chunks: Vec<Chunk>,
    current: usize,
    /// Where the bytes staged since the last `seal` begin in the current chunk.
    start: usize,
    /// Number of chunks that this turn uses, and the maximum per turn since chunks were last given back.
    used: usize,
    used_peak: usize,
    turns: u32,
}

impl Arena {
    pub(crate) fn new() -> Self {
        Self { chunks: vec![Chunk::new(CHUNK_BYTES)], current: 0, start: 0, used: 1, used_peak: 1, turns: 0 }
    }

    /// Moves to a chunk that can be written from its start, if there is one. The last turn's sends complete during this
    /// turn, so two chunks alternate and both stay in the cache.
    pub(crate) fn begin_turn(&mut self) {
        debug_assert_eq!(self.staged_len(), 0, "staged bytes were left over");
        self.used_peak = self.used_peak.max(self.used);
        self.used = 1;
        self.turns += 1;
        if self.turns >= TURNS_OF_PEAK {
            self.trim();
        }
        if let Some(free) = self.chunks.iter().position(|chunk| !chunk.has_slices()) {
            self.current = free;
            self.chunks[free].length = 0;
        }
        self.start = self.chunks[self.current].length;
    }

    /// Whether something was written since the turn began.
    pub(crate) fn is_used(&self) -> bool {
        self.used > 1 || self.chunks[self.current].length > 0
    }

    /// Bytes written since the last `seal`.
    pub(crate) fn staged_len(&self) -> usize {
        self.chunks[self.current].length - self.start
    }

    /// The bytes written since the last `seal`.
    pub(crate) fn staged(&self) -> &[u8] {
        let chunk = &self.chunks[self.current];
        // SAFETY: start..length lies within the chunk, is initialised, and `&self` excludes writes meanwhile.
        unsafe { std::slice::from_raw_parts(chunk.memory.start.as_ptr().add(self.start), chunk.length - self.start) }
    }

    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// At least `count` writable bytes after the staged ones; `commit` says how many were filled.
    #[inline]
    pub(crate) fn reserve(&mut self, count: usize) -> &mut [u8] {
        let chunk = &self.chunks[self.current];
        if chunk.memory.capacity - chunk.length < count {
            self.make_room(count);
        }
        let chunk = &mut self.chunks[self.current];
        // SAFETY: length..capacity lies within the chunk and is initialised; no slice covers it, as slices end
        // at or below `length`; `&mut self` makes this the only reference into it.
        unsafe {
            std::slice::from_raw_parts_mut(
                chunk.memory.start.as_ptr().add(chunk.length),
                chunk.memory.capacity - chunk.length,
            )
        }
    }

    /// Adds the first `count` reserved bytes to the staged ones.
    #[inline]
    pub(crate) fn commit(&mut self, count: usize) {
        let chunk = &mut self.chunks[self.current];
        assert!(count <= chunk.memory.capacity - chunk.length, "committed more than was reserved");
        chunk.length += count;
    }

    /// Takes the staged bytes as a slice; `None` if there are none.
    #[inline]
    pub(crate) fn seal(&mut self) -> Option<Slice> {
        let chunk = &self.chunks[self.current];
        let length = chunk.length - self.start;
        if length == 0 {
            return None;
        }
        let slice = Slice { memory: Rc::clone(&chunk.memory), offset: self.start as u32, length: length as u32 };
        self.start = chunk.length;
        Some(slice)
    }

    /// Appends the staged bytes to `slice` if they directly follow it. Otherwise returns `false` and does nothing.
    pub(crate) fn extend(&mut self, slice: &mut Slice) -> bool {
        let chunk = &self.chunks[self.current];
        let contiguous =
            Rc::ptr_eq(&slice.memory, &chunk.memory) && (slice.offset + slice.length) as usize == self.start;
        if contiguous {
            slice.length += (chunk.length - self.start) as u32;
            self.start = chunk.length;
        }
        contiguous
    }

    /// Drops the staged bytes.
    pub(crate) fn discard(&mut self) {
        self.chunks[self.current].length = self.start;
    }

    #[cold]
    fn make_room(&mut self, count: usize) {
        let staged = self.staged_len();
        let wanted = staged.checked_add(count).expect("output of one callback fits into memory");
        let from = self.current;
        let fits = |chunk: &Chunk| !chunk.has_slices() && chunk.memory.capacity >= wanted;
        let to = (0..self.chunks.len()).find(|&index| index != from && fits(&self.chunks[index]));
        let to = to.unwrap_or_else(|| {
            self.chunks.push(Chunk::new(wanted.next_power_of_two().max(CHUNK_BYTES)));
            self.chunks.len() - 1
        });
        self.chunks[to].length = staged;
        // SAFETY: both ranges are within their chunks; the chunks are different allocations; no slice covers the
        // target, which has none, so nothing shared is written.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.chunks[from].memory.start.as_ptr().add(self.start),
                self.chunks[to].memory.start.as_ptr(),
                staged,
            );
        }
        self.chunks[from].length = self.start;
        self.current = to;
        self.start = 0;
        self.used += 1;
    }

    /// Keeps twice the most that a turn needed, since the sends of the previous turn continue meanwhile.
    #[cold]
    fn trim(&mut self) {
        let kept_max = CHUNKS_KEPT.max(2 * self.used_peak);
        (self.used_peak, self.turns) = (1, 0);
        // Chunks in use by slices may go too: their memory lives on in the slices.
        let mut kept = 0;
        self.chunks.retain(|chunk| {
            let keep = kept < kept_max && chunk.memory.capacity == CHUNK_BYTES;
            kept += usize::from(keep);
            keep
        });
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::new(CHUNK_BYTES));
        }
        self.current = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stay_as_they_were_while_the_arena_goes_on() {
        let mut arena = Arena::new();
        let mut living = Vec::new();
        for turn in 0u32..200 {
            arena.begin_turn();
            for part in 0u32..40 {
                let byte = (turn * 7 + part) as u8;
                let length = (1 + (turn as usize * 31 + part as usize * 977) % 9_000).max(1);
                arena.write(&vec![byte; length / 2]);
                arena.write(&vec![byte; length - length / 2]);
                let slice = arena.seal().expect("something was staged");
                assert_eq!(slice.len(), length);
                living.push((byte, slice));
            }
            let keep = living.len().min(if turn % 3 == 0 { 100 } else { 0 });
            living.drain(..living.len() - keep);
            assert!(living.iter().all(|(byte, slice)| slice.bytes().iter().all(|b| b == byte)));
        }
        drop(living);
        (0..2 * TURNS_OF_PEAK).for_each(|_| arena.begin_turn());
        assert!(arena.chunks.len() <= CHUNKS_KEPT);
    }

    #[test]
    fn turns_that_need_as_much_allocate_nothing() {
        let mut arena = Arena::new();
        let mut in_flight = Vec::new();
        let mut starts = std::collections::HashSet::new();
        for turn in 0..3 * TURNS_OF_PEAK {
            arena.begin_turn();
            in_flight = (0..10)
                .map(|_| {
                    arena.write(&[7; CHUNK_BYTES - 100]);
                    arena.seal().expect("staged")
                })
                .collect();
            let new = in_flight.iter().filter(|slice: &&Slice| starts.insert(slice.bytes().as_ptr())).count();
            assert!(new == 0 || turn < 3, "{new} in turn {turn}");
        }
        assert_eq!(in_flight.len(), 10);
    }

    #[test]
    fn an_answer_larger_than_a_chunk_is_one_slice() {
        let mut arena = Arena::new();
        arena.begin_turn();
        arena.write(b"head");
        arena.write(&vec![7; 3 * CHUNK_BYTES]);
        assert_eq!(arena.seal().map(|slice| slice.len()), Some(4 + 3 * CHUNK_BYTES));
    }

    #[test]
    fn extends_only_what_lies_directly_before() {
        let mut arena = Arena::new();
        arena.begin_turn();
        arena.write(b"one");
        let mut slice = arena.seal().expect("staged");
        arena.write(b"two");
        assert!(arena.extend(&mut slice));
        assert_eq!(slice.bytes(), b"onetwo");
        arena.write(b"other");
        let _other = arena.seal();
        arena.write(b"three");
        assert!(!arena.extend(&mut slice));
        arena.discard();
        assert_eq!(arena.staged_len(), 0);
        slice.advance(4);
        assert_eq!(slice.bytes(), b"wo");
    }
}
