//! Memory that cannot change any more and that sockets can send from without copying: see [`SealedMemory`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes that are copied at once while the memory is filled.
const COPY_BYTES: usize = 64 * 1024;

/// Bytes in whole pages that nobody can change, such as a file that many clients ask for. [`Io::write_sealed`](crate::Io::write_sealed)
/// sends them without copying: the socket gets references to the pages. It reads like a slice.
///
/// It takes one file descriptor, and memory in multiples of the page size: use it for 32 KiB or more, and [`Rc<[u8]>`](std::rc::Rc)
/// with [`Io::write_counted`](crate::Io::write_counted) for less. The pages are those of a sealed memfd (memfd_create(2), kernel 3.17), so
/// that they count as shared memory of the process.
#[derive(Debug)]
pub struct SealedMemory {
    file: File,
    /// `None` where there are no bytes.
    mapping: Option<NonNull<[u8]>>,
}

impl SealedMemory {
    /// Reads `length` bytes from `source`.
    ///
    /// # Errors
    /// Those of `source`, [`io::ErrorKind::UnexpectedEof`] if it ends earlier, and those of memfd_create(2) and mmap(2), such as too many
    /// open files.
    pub fn read_from(mut source: impl Read, length: usize) -> io::Result<Self> {
        let file = File::from(memfd_create(c"baton-sealed", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        let mut buffer = vec![0; length.min(COPY_BYTES)];
        let mut filled = 0;
        while filled < length {
            let room = buffer.len().min(length - filled);
            let part = &mut buffer[..room];
            source.read_exact(part)?;
            (&file).write_all(part)?;
            filled += room;
        }
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let mapping = NonZeroUsize::new(length).map(|length| map(&file, length)).transpose()?;
        Ok(Self { file, mapping })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Maps a file that is sealed. The mapping is private because older kernels refuse a shared one of sealed memory (before 6.7); it has the
/// same pages, since nothing is written.
fn map(file: &File, length: NonZeroUsize) -> io::Result<NonNull<[u8]>> {
    // SAFETY: mmap(2) of a file at an address that the kernel chooses, for reading.
    let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) }?;
    Ok(NonNull::slice_from_raw_parts(start.cast(), length.get()))
}

impl Deref for SealedMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has this length and lasts as long as `self`. The file has the seals for writing and shrinking, so the bytes
        // stay as they are, and all of them exist.
        self.mapping.map_or(&[], |mapping| unsafe { mapping.as_ref() })
    }
}

impl Drop for SealedMemory {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping {
            // SAFETY: the mapping is this value's own, and no reference to it is left. Sockets hold pages, not the mapping.
            let _ = unsafe { munmap(mapping.cast(), mapping.len()) };
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn it_has_what_was_read_and_nobody_can_change_it() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|index| index as u8).collect();
        for length in [0, 1, 4096, 150_000, 200_000] {
            let memory = SealedMemory::read_from(&bytes[..], length).expect("memory");
            assert!(*memory == bytes[..length]);
            let mut file = memory.file.try_clone().expect("a descriptor");
            assert_eq!(file.write(b"x").map_err(|error| error.raw_os_error()), Err(Some(libc::EPERM)));
            for other in [0, length as u64 + 1] {
                let outcome = file.set_len(other).map_err(|error| error.raw_os_error());
                assert_eq!(outcome.is_err(), other != length as u64, "{length}: {outcome:?}");
            }
        }
    }

    #[test]
    fn a_source_that_ends_early_gives_an_error() {
        let error = SealedMemory::read_from(&[0; 10][..], 11).expect_err("ten bytes are there");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
