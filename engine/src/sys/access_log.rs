//! The file to which workers append lines. Nothing here waits: a line that does not fit is lost, and the caller learns
//! of that.
//!
//! Invariant: lines are whole, and those of several workers do not mix. A write to a regular file is atomic for the
//! kernel; a write to a pipe is atomic if it has at most `PIPE_BUF` bytes (write(2), pipe(7)).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

/// `PIPE_BUF` of Linux (pipe(7)).
const PIECE_BYTES_MAX: usize = 4096;

const MODE: u32 = 0o640;

/// Opens a file to append to, and creates it if it does not exist. A symbolic link is refused: it could lead anywhere,
/// and the master may be root.
///
/// # Errors
/// As open(2): `ELOOP` for a symbolic link, `ENXIO` for a FIFO without a reader.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(flags).open(path)
}

/// Standard error. If possible, it is opened anew, so that it does not wait while other users of it may.
///
/// # Errors
/// As dup(2).
pub(crate) fn standard_error() -> io::Result<File> {
    let copy = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let kind = copy.metadata()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return Ok(copy);
    }
    let own = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    Ok(OpenOptions::new().append(true).custom_flags(flags).open(own).unwrap_or(copy))
}

/// How a write avoids waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It does not wait.
    Whole,
    /// It does not wait, and small ones do not mix.
    Pieces,
    /// It may wait: poll for room first.
    AskedPieces,
    Socket,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct AccessLog {
    file: File,
    way: Way,
    /// The last write ended in the middle of a line.
    is_torn: bool,
}

impl AccessLog {
    /// Appends to any kind of file.
    ///
    /// # Errors
    /// As fstat(2).
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        let kind = file.metadata()?.file_type();
        let waits = !OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?).contains(OFlag::O_NONBLOCK);
        let way = match kind {
            kind if kind.is_file() => Way::Whole,
            kind if kind.is_socket() => Way::Socket,
            _ if waits => Way::AskedPieces,
            _ => Way::Pieces,
        };
        Ok(Self { file, way, is_torn: false })
    }

    /// Appends lines, each with its end. Returns how many are lost.
    pub(crate) fn append(&mut self, mut lines: &[u8]) -> u64 {
        while !lines.is_empty() {
            let piece = &lines[..self.piece(lines)];
            match self.write(piece) {
                Ok(taken) if taken == piece.len() => lines = &lines[taken..],
                Ok(taken) => {
                    self.is_torn = taken > 0 && piece[taken - 1] != b'\n';
                    return count(&lines[taken..]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return count(lines),
            }
        }
        0
    }

    /// Bytes of whole lines that are written at once; or of one line, if it is longer.
    fn piece(&self, lines: &[u8]) -> usize {
        if self.way == Way::Whole || lines.len() < PIECE_BYTES_MAX {
            return lines.len();
        }
        let end_of = |position: usize| position + 1;
        let fitting = lines[..PIECE_BYTES_MAX - 1].iter().rposition(|byte| *byte == b'\n').map(end_of);
        fitting.or_else(|| lines.iter().position(|byte| *byte == b'\n').map(end_of)).unwrap_or(lines.len())
    }

    /// Returns how many bytes of the piece were written.
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.way == Way::AskedPieces {
            let mut asked = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut asked, PollTimeout::ZERO)? == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
        if self.way == Way::Socket {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            return Ok(send(self.file.as_raw_fd(), piece, flags)?);
        }
        let mend: &[u8] = if self.is_torn { b"\n" } else { b"" };
        let taken = self.file.write_vectored(&[IoSlice::new(mend), IoSlice::new(piece)])?;
        if taken > 0 {
            self.is_torn = false;
        }
        Ok(taken.saturating_sub(mend.len()))
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;

    use nix::unistd::pipe2;

    use super::*;

    #[test]
    fn lines_are_appended_to_a_file_that_only_its_group_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut log = AccessLog::new(open(&path).expect("made").into()).expect("a log");
        fs::write(folder.path().join("log"), "before\n").expect("written");
        assert_eq!(log.append(b"one\ntwo\n"), 0);
        assert_eq!(fs::read(&path).expect("read"), b"before\none\ntwo\n");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, MODE);
        symlink(&path, folder.path().join("link")).expect("a link");
        assert_eq!(open(&folder.path().join("link")).expect_err("refused").raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let mut log = AccessLog::new(open(Path::new("/dev/full")).expect("a device").into()).expect("a log");
        assert_eq!(log.append(b"one\ntwo\n"), 2);
    }

    #[test]
    fn a_file_that_may_not_grow_further_has_whole_lines_when_it_may_again() {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK).expect("a pipe");
        let mut log = AccessLog::new(writer).expect("a log");
        // A line longer than what a pipe takes at once.
        let long = [vec![b'x'; 200_000], b"\n".to_vec()].concat();
        assert_eq!((log.append(&long), log.is_torn), (1, true));
        let mut reader = File::from(reader);
        let mut read = vec![0; 200_000];
        let first = reader.read(&mut read).expect("read");
        assert!(first > 0 && read[..first].iter().all(|byte| *byte == b'x'));
        while reader.read(&mut read).is_ok() {}
        assert_eq!((log.append(b"next\n"), log.is_torn), (0, false));
        let length = reader.read(&mut read).expect("read");
        assert_eq!(&read[..length], b"\nnext\n");
    }

    #[test]
    fn whoever_does_not_read_is_not_waited_for() {
        let (_reader, waiting) = pipe2(OFlag::empty()).expect("a pipe");
        let (_other_reader, ready) = pipe2(OFlag::O_NONBLOCK).expect("a pipe");
        let (_peer, socket) = UnixStream::pair().expect("a pair");
        let lines = b"a line that is about as long as most of those that a log has in it\n".repeat(100);
        for (descriptor, way) in [(waiting, Way::AskedPieces), (ready, Way::Pieces), (socket.into(), Way::Socket)] {
            let mut log = AccessLog::new(descriptor).expect("a log");
            assert_eq!(log.way, way);
            let lost: u64 = (0..1_000).map(|_| log.append(&lines)).sum();
            assert!((1..100_000).contains(&lost), "{lost} of 100,000 lines were lost");
        }
    }
}
