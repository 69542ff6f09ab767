//! The body of an answer that is read from a file while the client reads it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use baton::CannotFreeze;
use serde::{Deserialize, Serialize};

use crate::connection::STREAM_BYTES_MAX;
use crate::error::Error;
use crate::exchange::{Progress, Source};
use crate::out::Out;

/// The name under which a source is thawed.
pub(super) const NAME: &str = "file";

/// Bytes read at once: together with an answer's head less than the 64 KiB blocks of the engine's output memory.
const PART_BYTES: usize = 60 * 1024;

/// Which part of which file: what another worker needs to continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The prefix of the mount.
    pub(super) prefix: String,
    /// The path beneath its folder.
    pub(super) path: Vec<u8>,
    /// The tag of the file with which the answer began.
    pub(super) entity_tag: String,
    /// The next byte to read.
    pub(super) start: u64,
    /// The byte after the last one.
    pub(super) end: u64,
}

/// See the module's head.
pub(super) struct FileSource {
    pub(super) content: Content,
    pub(super) place: Place,
}

/// Where a file's bytes are.
#[derive(Clone)]
pub(super) enum Content {
    Memory(Rc<[u8]>),
    Open(Rc<File>),
}

impl Source for FileSource {
    fn next(&mut self, out: &mut Out<'_, '_>) -> Result<Progress, Error> {
        let Place { start, end, .. } = &mut self.place;
        let left = usize::try_from(*end - *start).unwrap_or(usize::MAX);
        let count = match &self.content {
            Content::Memory(bytes) => {
                let count = left.min(STREAM_BYTES_MAX);
                out.write_counted(bytes, *start as usize..*start as usize + count);
                count
            }
            Content::Open(file) => out.fill(left.min(PART_BYTES), |part| read(file, part, *start))?,
        };
        if count == 0 && left > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter").into());
        }
        *start += count as u64;
        Ok(if start == end { Progress::End } else { Progress::More })
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        serde_json::to_writer(state, &self.place).map_err(|_| CannotFreeze::Stays)?;
        Ok(NAME)
    }
}

fn read(file: &File, part: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(part, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
