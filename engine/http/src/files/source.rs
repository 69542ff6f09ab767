//! The body of an answer that is read from a file while the client reads it.

use std::fs::File;
use std::rc::Rc;

use baton::{CannotFreeze, SealedMemory};
use serde::{Deserialize, Serialize};

use crate::connection::STREAM_BYTES_MAX;
use crate::error::Error;
use crate::exchange::{Progress, Source};
use crate::out::Out;

/// The name under which a source is thawed.
pub(super) const NAME: &str = "file";

/// Bytes read at once on a connection with TLS: together with an answer's head less than the 64 KiB blocks of the engine's
/// output memory.
const SECURED_PART_BYTES: usize = 60 * 1024;

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
    /// A small one.
    Memory(Rc<[u8]>),
    /// One that is worth a descriptor.
    Sealed(Rc<SealedMemory>),
    Open(Rc<File>),
}

/// The engine sends sealed memory of at least this size without copying it.
const SEALED_BYTES_MIN: usize = 32 * 1024;

impl Content {
    /// A file that was read. It is not sealed where that is not possible now, as without a free descriptor.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        if bytes.len() >= SEALED_BYTES_MIN
            && let Ok(memory) = SealedMemory::read_from(&bytes[..], bytes.len())
        {
            return Self::Sealed(Rc::new(memory));
        }
        Self::Memory(bytes.into())
    }
}

impl Source for FileSource {
    fn next(&mut self, out: &mut Out<'_, '_>) -> Result<Progress, Error> {
        let Place { start, end, .. } = &mut self.place;
        let left = usize::try_from(*end - *start).unwrap_or(usize::MAX);
        let is_read = matches!(self.content, Content::Open(_)) && out.is_secured();
        let count = left.min(if is_read { SECURED_PART_BYTES } else { STREAM_BYTES_MAX });
        let part = *start as usize..*start as usize + count;
        match &self.content {
            Content::Memory(bytes) => out.write_counted(bytes, part),
            Content::Sealed(memory) => out.write_sealed(memory, part),
            Content::Open(file) => out.write_file(file, *start..*start + count as u64)?,
        }
        *start += count as u64;
        Ok(if start == end { Progress::End } else { Progress::More })
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        serde_json::to_writer(state, &self.place).map_err(|_| CannotFreeze::Stays)?;
        Ok(NAME)
    }
}
