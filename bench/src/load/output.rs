//! Where bytes for a server are written to: a connection's output, or memory whose content is encrypted afterwards.

use std::ops::Range;
use std::rc::Rc;

use baton::Io;

pub(crate) trait Output {
    fn write(&mut self, bytes: &[u8]);

    /// Appends part of shared memory, if possible without copying it.
    fn write_counted(&mut self, bytes: &Rc<[u8]>, part: Range<usize>);

    /// Passes at least `room_bytes` of memory to `fill`, and appends as many bytes as it returns.
    fn fill(&mut self, room_bytes: usize, fill: impl FnOnce(&mut [u8]) -> usize);
}

impl Output for Io<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        Io::write(self, bytes);
    }

    #[inline]
    fn write_counted(&mut self, bytes: &Rc<[u8]>, part: Range<usize>) {
        Io::write_counted(self, bytes, part);
    }

    #[inline]
    fn fill(&mut self, room_bytes: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let count = fill(self.reserve(room_bytes));
        self.commit(count);
    }
}

impl Output for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn write_counted(&mut self, bytes: &Rc<[u8]>, part: Range<usize>) {
        self.extend_from_slice(&bytes[part]);
    }

    fn fill(&mut self, room_bytes: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let before = self.len();
        self.resize(before + room_bytes, 0);
        let count = fill(&mut self[before..]);
        self.truncate(before + count);
    }
}
