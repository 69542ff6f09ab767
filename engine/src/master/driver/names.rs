//! The names of a server: the control socket's path and the pid file. One master has them at a time; another one of the same
//! upgrade is reached beside the control socket's path, at the path with its process number. At each moment somebody listens
//! at the path, since files are only ever renamed over it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

/// The listen socket of the control path, and where it can be found.
pub(super) struct ControlName {
    listener: UnixListener,
    /// The name that clients look for.
    name: PathBuf,
    /// Where this master's socket is to be removed when it ends; `None` where that is another's to do.
    path: Option<PathBuf>,
    file: FileId,
}

/// A file, whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|metadata| Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

impl ControlName {
    /// Listens at `path`, for the same user and root alone. A socket file that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// `AddrInUse` where a server listens there; else as bind(2).
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::from(io::ErrorKind::AddrInUse)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(_) => {}
        }
        let (listener, file) = bind(path)?;
        Ok(Self { listener, name: path.to_owned(), path: Some(path.to_owned()), file })
    }

    /// Listens beside a server that listens at `name`, to take its name over later.
    ///
    /// # Errors
    /// As bind(2).
    pub(super) fn open_beside(name: &Path) -> io::Result<Self> {
        let path = sibling(name, std::process::id());
        let (listener, file) = bind_anew(&path)?;
        Ok(Self { listener, name: name.to_owned(), path: Some(path), file })
    }

    /// The name that clients look for.
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// The same, for other processes.
    pub(super) fn absolute(&self) -> PathBuf {
        std::path::absolute(&self.name).unwrap_or_else(|_| self.name.clone())
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Takes the name, whoever has it and in whatever state its files are. The master of process `from`, which has the name,
    /// is reached beside it from now on. Clients that wait at the listener must have been accepted before: where its file is
    /// gone, there is a new one.
    ///
    /// # Errors
    /// As bind(2), link(2) and rename(2).
    pub(super) fn take(&mut self, from: Option<u32>) -> io::Result<()> {
        let own = sibling(&self.name, std::process::id());
        if self.is_at(&self.name) {
            // Another master was about to take it: it has linked this file beside the name, and went no further.
            if self.is_at(&own) {
                fs::remove_file(&own)?;
            }
        } else {
            if let Some(process) = from {
                let aside = sibling(&self.name, process);
                let _ = fs::remove_file(&aside);
                match fs::hard_link(&self.name, aside) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            if !self.is_at(&own) {
                (self.listener, self.file) = bind_anew(&own)?;
            }
            fs::rename(&own, &self.name)?;
        }
        self.path = Some(self.name.clone());
        Ok(())
    }

    /// Another master serves, and has taken the name, unless it has one of its own: this one is reached beside it.
    pub(super) fn yielded(&mut self) {
        if !self.is_at(&self.name) {
            self.path = Some(sibling(&self.name, std::process::id()));
        }
    }

    /// The files are another master's to remove.
    pub(super) fn forget(&mut self) {
        self.path = None;
    }

    /// Removes the file beside the name at which a process was reached that is gone.
    pub(super) fn clean(&self, process: u32) {
        let _ = fs::remove_file(sibling(&self.name, process));
    }

    fn is_at(&self, path: &Path) -> bool {
        FileId::of(path).is_ok_and(|file| file == self.file)
    }
}

impl Drop for ControlName {
    fn drop(&mut self) {
        if let Some(path) = self.path.as_ref().filter(|path| self.is_at(path)) {
            let _ = fs::remove_file(path);
        }
    }
}

fn bind(path: &Path) -> io::Result<(UnixListener, FileId)> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok((listener, FileId::of(path)?))
}

/// The same where a file of a process of the same number may have been left.
fn bind_anew(path: &Path) -> io::Result<(UnixListener, FileId)> {
    let _ = fs::remove_file(path);
    bind(path)
}

/// Where the master of a process is reached while another one has the name.
fn sibling(name: &Path, process: u32) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(format!(".{process}"));
    PathBuf::from(path)
}

/// The file with the master's process number.
#[derive(Default)]
pub(super) struct PidFile {
    path: Option<PathBuf>,
    is_own: bool,
}

impl PidFile {
    pub(super) fn at(path: Option<PathBuf>) -> Self {
        Self { path, is_own: false }
    }

    /// Names this process in it.
    pub(super) fn write(&mut self) {
        self.is_own = self.name(std::process::id());
    }

    /// Names another master in it. That one writes the same, perhaps later than whoever is told by this one looks.
    pub(super) fn yield_to(&mut self, process: u32) {
        if std::mem::take(&mut self.is_own) {
            self.name(process);
        }
    }

    /// Another master writes it, or removes it.
    pub(super) fn forget(&mut self) {
        self.is_own = false;
    }

    /// Writes it whole or not at all; `false` where it is not written.
    fn name(&self, process: u32) -> bool {
        let Some(path) = &self.path else { return false };
        let beside = sibling(path, std::process::id());
        let written = fs::write(&beside, format!("{process}\n")).and_then(|()| fs::rename(&beside, path));
        if let Err(error) = &written {
            tracing::error!(path = %path.display(), "the pid file cannot be written: {error}");
        }
        written.is_ok()
    }

    /// Removes the file that a process, which is gone, was about to make the pid file.
    pub(super) fn clean(&self, process: u32) {
        self.path.iter().for_each(|path| drop(fs::remove_file(sibling(path, process))));
    }

    /// Removes it, unless another master has written its own since.
    pub(super) fn remove(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| std::mem::take(&mut self.is_own)) else { return };
        if fs::read_to_string(path).is_ok_and(|text| text.trim() == std::process::id().to_string()) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test's own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("baton-names-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("made");
            Self(path)
        }

        fn files(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("read").map(|entry| entry.expect("an entry").file_name());
            let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Another master's socket at this path; dropping it leaves the file, as a process does that is killed.
    fn other_at(path: &Path) -> UnixListener {
        let (listener, _) = bind_anew(path).expect("bound");
        listener
    }

    fn reaches(own: &ControlName, path: &Path) -> bool {
        let _client = UnixStream::connect(path).expect("somebody is reached");
        own.listener().accept().is_ok()
    }

    const OTHER: u32 = 7;

    #[test]
    fn the_name_is_taken_from_another_master_which_stays_reachable() {
        let folder = Folder::new("over");
        let name = folder.0.join("control");
        let other = other_at(&name);
        let mut own = ControlName::open_beside(&name).expect("bound");
        own.take(Some(OTHER)).expect("taken");
        assert!(reaches(&own, &name) && !reaches(&own, &sibling(&name, OTHER)));
        other.accept().expect("the other one is reached beside the name");
        drop(other);
        own.clean(OTHER);
        assert_eq!(folder.files(), ["control"]);
        drop(own);
        assert!(folder.files().is_empty());
    }

    #[test]
    fn the_name_is_taken_back_whatever_a_dead_master_left() {
        let own_file = || sibling(Path::new("control"), std::process::id()).to_string_lossy().into_owned();
        // The other one has linked this one's file beside the name, and was killed.
        let folder = Folder::new("linked");
        let name = folder.0.join("control");
        let mut own = ControlName::open(&name).expect("bound");
        fs::hard_link(&name, folder.0.join(own_file())).expect("linked");
        own.take(None).expect("taken");
        assert!(reaches(&own, &name));
        assert_eq!(folder.files(), ["control"]);
        // It had taken the name, and was killed.
        own.yielded();
        fs::rename(&name, folder.0.join(own_file())).expect("moved");
        drop(other_at(&name));
        own.take(None).expect("taken");
        assert!(reaches(&own, &name));
        assert_eq!(folder.files(), ["control"]);
        // Somebody has removed this one's file.
        own.yielded();
        drop(other_at(&name));
        own.take(None).expect("taken");
        assert!(reaches(&own, &name));
        // All of them.
        fs::remove_file(&name).expect("removed");
        own.take(Some(OTHER)).expect("taken");
        assert!(reaches(&own, &name));
        assert_eq!(folder.files(), ["control"]);
    }

    #[test]
    fn a_file_that_is_another_masters_is_not_removed() {
        let folder = Folder::new("left");
        let name = folder.0.join("control");
        let own = ControlName::open(&name).expect("bound");
        let _other = other_at(&name);
        drop(own);
        assert_eq!(folder.files(), ["control"]);
    }
}
