//! The body of an answer that is written in parts.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::rc::Rc;

use baton::{Io, SealedMemory};
use serde::{Deserialize, Serialize};

/// Where the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OutFraming {
    /// After this many more bytes.
    Left(u64),
    Chunked,
    /// With the connection.
    UntilClose,
}

/// The body of an answer, to be written in parts.
pub struct Out<'o, 'io> {
    pub(crate) io: &'o mut Io<'io>,
    pub(crate) framing: &'o mut OutFraming,
    /// Bytes of the body so far.
    pub(crate) written: &'o mut u64,
}

impl Out<'_, '_> {
    /// Appends to the body. Bytes beyond the announced length are left out: the client knows that length, and would
    /// read the rest as the next answer.
    pub fn write(&mut self, bytes: &[u8]) {
        self.framed(bytes.len(), |io, taken| io.write(&bytes[..taken]));
    }

    /// Appends a part of the request's body that has just arrived; a large one is not copied.
    pub fn write_input(&mut self, part: &[u8]) {
        self.framed(part.len(), |io, taken| io.write_input(&part[..taken]));
    }

    /// Appends part of shared memory; a large one is not copied.
    ///
    /// # Panics
    /// If `part` does not lie within `bytes`.
    pub fn write_counted(&mut self, bytes: &Rc<[u8]>, part: Range<usize>) {
        self.framed(part.len(), |io, taken| io.write_counted(bytes, part.start..part.start + taken));
    }

    /// Appends part of sealed memory; a large one is not copied.
    ///
    /// # Panics
    /// If `part` does not lie within `memory`.
    pub fn write_sealed(&mut self, memory: &Rc<SealedMemory>, part: Range<usize>) {
        self.framed(part.len(), |io, taken| io.write_sealed(memory, part.start..part.start + taken));
    }

    /// Appends part of a file; a large one is not copied. See [`Io::write_file`].
    ///
    /// # Errors
    /// If the file is read at once, and cannot be read or ends before the end of `part`.
    pub fn write_file(&mut self, file: &Rc<File>, part: Range<u64>) -> io::Result<()> {
        let length = usize::try_from(part.end.saturating_sub(part.start)).map_err(io::Error::other)?;
        let mut outcome = Ok(());
        self.framed(length, |io, taken| outcome = io.write_file(file, part.start..part.start + taken as u64));
        outcome
    }

    /// Whether the connection has TLS.
    pub fn is_secured(&self) -> bool {
        self.io.is_secured()
    }

    /// Appends what `fill` writes into the output's own memory: up to `count` bytes, and as many as it returns. Fewer
    /// if that exceeds the announced length.
    ///
    /// # Errors
    /// Those of `fill`; nothing is appended then.
    pub fn fill(&mut self, count: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let OutFraming::Left(left) = self.framing else {
            let mut part = vec![0; count];
            let filled = fill(&mut part)?.min(count);
            self.write(&part[..filled]);
            return Ok(filled);
        };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(count);
        let filled = fill(&mut self.io.reserve(most)[..most])?.min(most);
        self.io.commit(filled);
        *left -= filled as u64;
        *self.written += filled as u64;
        Ok(filled)
    }

    /// Whether the client has to catch up first: stop, and continue when asked for more.
    pub fn is_full(&self) -> bool {
        self.io.is_full()
    }

    fn framed(&mut self, length: usize, write: impl FnOnce(&mut Io<'_>, usize)) {
        if length == 0 {
            return;
        }
        if !matches!(self.framing, OutFraming::Left(_)) {
            *self.written += length as u64;
        }
        match self.framing {
            OutFraming::Left(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(length);
                *left -= taken as u64;
                *self.written += taken as u64;
                write(self.io, taken);
            }
            OutFraming::UntilClose => write(self.io, length),
            OutFraming::Chunked => {
                // A usize has at most sixteen hexadecimal digits.
                let mut line = [0; 18];
                let mut rest = &mut line[..];
                let _ = write!(rest, "{length:x}\r\n");
                let unused = rest.len();
                self.io.write(&line[..line.len() - unused]);
                write(self.io, length);
                self.io.write(b"\r\n");
            }
        }
    }

    /// Ends the body. Returns `false` if announced bytes are missing.
    pub(crate) fn end(&mut self) -> bool {
        match self.framing {
            OutFraming::Left(left) => *left == 0,
            OutFraming::UntilClose => true,
            OutFraming::Chunked => {
                self.io.write(b"0\r\n\r\n");
                true
            }
        }
    }
}
