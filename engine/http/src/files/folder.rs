//! A folder whose files are served: the only place that opens them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

/// How often a path that other processes change at this moment is tried (openat2(2), `EAGAIN`).
const TRIES_MAX: usize = 3;

/// Why there is no file to serve.
#[derive(Debug)]
pub(super) enum Missing {
    /// There is nothing with this name, or something that is neither a file nor a folder, or that leads out of the
    /// folder.
    Nothing,
    /// A folder.
    Folder,
    /// The server may not read it.
    Forbidden,
    /// There are no descriptors or memory for it now.
    Busy,
    /// The system reports another error.
    Failed(io::Error),
}

/// Distinguishes one state of a file from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// The text of a strong entity tag. The time of a change of rights or of the name is not part of it.
    pub(super) fn opaque_tag(&self) -> String {
        let (seconds, nanoseconds) = self.modified;
        format!("{:x}-{seconds:x}.{nanoseconds:x}-{:x}", self.size, self.inode)
    }
}

/// A file that was found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) identity: Identity,
    pub(super) modified: Option<SystemTime>,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// # Errors
    /// As open(2).
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        Ok(Self(openat2(AT_FDCWD, path, how)?))
    }

    /// Opens a regular file beneath this folder. Symbolic links are followed while they stay beneath it. It does not
    /// wait for a FIFO or a device, and reads nothing from them.
    pub(super) fn find(&self, relative: &[u8]) -> Result<Opened, Missing> {
        let relative = if relative.is_empty() { b"." } else { relative };
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let how =
            OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut tries = 1;
        let file = loop {
            match openat2(self.0.as_fd(), relative, how) {
                Ok(descriptor) => break File::from(descriptor),
                Err(Errno::EAGAIN) if tries < TRIES_MAX => tries += 1,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(missing(error)),
            }
        };
        let metadata = file.metadata().map_err(Missing::Failed)?;
        if metadata.is_dir() {
            return Err(Missing::Folder);
        }
        if !metadata.is_file() {
            return Err(Missing::Nothing);
        }
        let identity = Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        Ok(Opened { file, identity, modified: metadata.modified().ok() })
    }
}

fn missing(error: Errno) -> Missing {
    match error {
        // After the first two: too long, a loop of links, out of the folder, a socket, or a device without a driver.
        Errno::ENOENT
        | Errno::ENOTDIR
        | Errno::ENAMETOOLONG
        | Errno::ELOOP
        | Errno::EXDEV
        | Errno::ENXIO
        | Errno::ENODEV => Missing::Nothing,
        Errno::EACCES | Errno::EPERM => Missing::Forbidden,
        Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Missing::Busy,
        error => Missing::Failed(error.into()),
    }
}
