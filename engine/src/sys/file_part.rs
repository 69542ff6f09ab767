//! Part of a file or of sealed memory that a socket sends without copying: sendfile(2) gives it references to the pages.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::sendfile::sendfile;
use socket2::SockRef;

use super::arena::Slice;
use super::sealed_memory::SealedMemory;

/// Most bytes of one send, so that other connections get their turn.
const SEND_BYTES_MAX: u64 = 1024 * 1024;

/// What is read at once of a file that the kernel cannot send from.
const READ_BYTES: u64 = 64 * 1024;

/// What has the pages.
#[derive(Clone, Debug)]
pub(crate) enum Pages {
    Sealed(Rc<SealedMemory>),
    File(Rc<File>),
}

impl Pages {
    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Sealed(memory) => memory.descriptor(),
            Self::File(file) => file.as_fd(),
        }
    }

    /// Fills `part` with the bytes from `at` on.
    fn read(&self, part: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Self::Sealed(memory) => {
                let start = at as usize;
                let bytes = memory.get(start..start + part.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                part.copy_from_slice(bytes);
                Ok(())
            }
            Self::File(file) => file.read_exact_at(part, at),
        }
    }
}

/// See the module's head.
pub(crate) struct FilePart {
    /// Output that goes before it, in the same segment where both fit. Not empty.
    first: Option<Slice>,
    pages: Pages,
    place: Range<u64>,
    /// The beginning of the part, if the kernel cannot send it from the file.
    read: Vec<u8>,
    /// Bytes of it that are not counted as memory of the connection.
    uncounted: u32,
}

/// What came of [`FilePart::send`].
pub(super) enum FileSent {
    /// So many bytes were sent.
    Bytes(usize),
    /// The socket's buffer is full.
    Full,
    /// The kernel cannot send from this file: [`FilePart::bytes`] has its next bytes.
    Read,
    /// It failed with this errno.
    Failed(i32),
}

impl FilePart {
    pub(crate) fn new(pages: Pages, place: Range<u64>) -> Self {
        let length = place.end - place.start;
        let uncounted = match &pages {
            // Others have it, too, such as a cache and other connections: each counts its part.
            Pages::Sealed(memory) => length - length / Rc::strong_count(memory) as u64,
            Pages::File(_) => length,
        };
        Self { first: None, pages, place, read: Vec::new(), uncounted: u32::try_from(uncounted).unwrap_or(u32::MAX) }
    }

    /// Bytes of it that are not counted as memory of the connection: what is in a file, and the part of sealed memory that
    /// other owners count. It stays the same until the part is gone.
    pub(crate) fn uncounted(&self) -> u32 {
        self.uncounted
    }

    /// Counts all but `most` bytes.
    pub(crate) fn limit_uncounted(&mut self, most: u32) {
        self.uncounted = self.uncounted.min(most);
    }

    /// The same, with `first` before it.
    pub(crate) fn behind(self, first: Slice) -> Self {
        Self { first: Some(first), ..self }
    }

    pub(crate) fn len(&self) -> usize {
        let of_file = usize::try_from(self.place.end - self.place.start).unwrap_or(usize::MAX);
        self.first.as_ref().map_or(0, Slice::len) + of_file
    }

    /// Whether it begins with memory that is shared by all connections.
    pub(super) fn is_shared(&self) -> bool {
        self.first.is_some()
    }

    /// The bytes that were read, which are to be sent in the usual way; empty where the kernel sends from the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.read
    }

    pub(super) fn advance(&mut self, count: usize) {
        let of_first = self.first.as_ref().map_or(0, |first| first.len().min(count));
        if let Some(first) = &mut self.first {
            first.advance(of_first);
            self.first.take_if(|first| first.len() == 0);
        }
        let of_file = (count - of_first) as u64;
        assert!(of_file <= self.place.end - self.place.start, "advanced past the end of a file's part");
        self.place.start += of_file;
        if of_file > 0 {
            self.read = Vec::new();
        }
    }

    /// What goes before it, and it without that.
    pub(super) fn split(self) -> (Option<Slice>, Self) {
        (self.first, Self { first: None, ..self })
    }

    /// Appends all of it to `bytes`.
    ///
    /// # Errors
    /// If the file cannot be read, or has become shorter.
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.extend_from_slice(self.first.as_ref().map_or(&[], Slice::bytes));
        let start = bytes.len();
        let length = usize::try_from(self.place.end - self.place.start).map_err(io::Error::other)?;
        bytes.resize(start + length, 0);
        self.pages.read(&mut bytes[start..], self.place.start)
    }

    /// Sends as much as fits into the buffer of `socket`, without waiting.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> FileSent {
        let mut sent = 0;
        if let Some(first) = &self.first {
            // sendmsg(2) is the call that a worker's filter allows.
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE;
            let parts = [IoSlice::new(first.bytes())];
            match SockRef::from(&socket).send_vectored_with_flags(&parts, flags) {
                Ok(count) => sent = count,
                Err(error) => return Self::failed(error.raw_os_error().unwrap_or(libc::EIO)),
            }
            if sent < first.len() {
                return FileSent::Bytes(sent);
            }
        }
        match self.send_pages(socket) {
            // What is wrong with the file is found again without the first bytes.
            FileSent::Full | FileSent::Read | FileSent::Failed(_) if sent > 0 => FileSent::Bytes(sent),
            FileSent::Bytes(count) => FileSent::Bytes(sent + count),
            other => other,
        }
    }

    fn send_pages(&mut self, socket: BorrowedFd<'_>) -> FileSent {
        let Ok(mut at) = libc::off_t::try_from(self.place.start) else { return FileSent::Failed(libc::EOVERFLOW) };
        let count = (self.place.end - self.place.start).min(SEND_BYTES_MAX) as usize;
        // sendfile(2) has no flag for not waiting. The ring looks at the socket's flag while it is entered only, and that is not now.
        if let Err(error) = fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)) {
            return FileSent::Failed(error as i32);
        }
        let outcome = sendfile(socket, self.pages.descriptor(), Some(&mut at), count);
        if let Err(error) = fcntl(socket, FcntlArg::F_SETFL(OFlag::empty())) {
            return FileSent::Failed(error as i32);
        }
        match outcome {
            // The file has become shorter.
            Ok(0) => FileSent::Failed(libc::EIO),
            Ok(count) => FileSent::Bytes(count),
            // Some file systems cannot do it, some filters do not allow it.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP) => self.read_next(),
            Err(error) => Self::failed(error as i32),
        }
    }

    fn failed(error: i32) -> FileSent {
        match error {
            libc::EAGAIN => FileSent::Full,
            libc::EINTR => FileSent::Bytes(0),
            error => FileSent::Failed(error),
        }
    }

    pub(super) fn read_next(&mut self) -> FileSent {
        let count = (self.place.end - self.place.start).min(READ_BYTES) as usize;
        self.read.resize(count, 0);
        match self.pages.read(&mut self.read, self.place.start) {
            Ok(()) => FileSent::Read,
            Err(error) => FileSent::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}
