//! The names of a server: the control socket's path and the pid file. One master has them at a time. Another master of
//! the same upgrade is reached at the control socket's path with its process number appended. A process listens at the
//! path at each moment, since files are only ever renamed over it.
//!
//! The paths may lie where other users write, such as `/tmp`: links are not followed, and only sockets of this user are
//! removed.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::sys::socket_file::{Occupied, is_stale};

/// Clients that may wait at the same time, as with `UnixListener`.
const BACKLOG: i32 = 128;

/// Another starting server looks at a name for less than a millisecond, unless it was stopped.
const LOCK_TIME_MAX: Duration = Duration::from_secs(2);

/// The listen socket of the control path, and its paths.
pub(super) struct ControlName {
    listener: UnixListener,
    /// The path that clients use.
    name: PathBuf,
    /// The path from which this master must remove its socket when it ends; `None` if another master does that.
    path: Option<PathBuf>,
    file: FileId,
}

/// Identifies a file, whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl ControlName {
    /// Listens at `path`, for the same user and root alone. Replaces a socket file of this user if no process listens
    /// there any more. Of several starts at the same time one succeeds.
    ///
    /// # Errors
    /// [`Occupied::InUse`] if a server listens there; if something else is there; else as bind(2).
    pub(super) fn open(path: &Path) -> Result<Self, Occupied> {
        // If a server listens there, do not take the lock: a new master that is killed just now then leaves no lock
        // file behind.
        if matches!(is_stale(path, Type::STREAM, None), Err(Occupied::InUse)) {
            return Err(Occupied::InUse);
        }
        let _lock = Lock::take(path)?;
        if is_stale(path, Type::STREAM, None)? {
            fs::remove_file(path)?;
        }
        let (listener, file) = bind(path)?;
        Ok(Self { listener, name: path.to_owned(), path: Some(path.to_owned()), file })
    }

    /// Listens beside a server that listens at `name`, to take over its name later.
    ///
    /// # Errors
    /// As bind(2).
    pub(super) fn open_beside(name: &Path) -> io::Result<Self> {
        let path = sibling(name, std::process::id());
        let (listener, file) = bind_anew(&path)?;
        Ok(Self { listener, name: name.to_owned(), path: Some(path), file })
    }

    /// The path that clients use.
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// The same path, for other processes.
    pub(super) fn absolute(&self) -> PathBuf {
        std::path::absolute(&self.name).unwrap_or_else(|_| self.name.clone())
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Why another user can replace the socket's file; `None` if none can.
    pub(super) fn exposure(&self) -> Option<String> {
        let folder = self.name.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = fs::metadata(folder).ok()?;
        let is_sticky = folder.mode() & 0o1000 != 0;
        if ![0, geteuid().as_raw()].contains(&folder.uid()) {
            return Some(format!("its folder belongs to user {}", folder.uid()));
        }
        (folder.mode() & 0o002 != 0 && !is_sticky).then(|| "everybody can write to its folder".to_owned())
    }

    /// Takes the name, whichever process has it and in whatever state its files are. The master of process `from`,
    /// which has the name, is reached beside it from now on. Clients that wait at the listener must have been accepted
    /// before: if its file is gone, this opens a new listener.
    ///
    /// # Errors
    /// As bind(2), link(2) and rename(2).
    pub(super) fn take(&mut self, from: Option<u32>) -> io::Result<()> {
        let own = sibling(&self.name, std::process::id());
        if self.is_at(&self.name) {
            // Another master was about to take the name: it has linked this file beside the name, and went no further.
            if self.is_at(&own) {
                fs::remove_file(&own)?;
            }
        } else {
            if let Some(process) = from {
                let aside = sibling(&self.name, process);
                remove_socket(&aside);
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

    /// Another master serves, and has taken the name, unless it has a name of its own. This master is reached beside
    /// it.
    pub(super) fn yielded(&mut self) {
        if !self.is_at(&self.name) {
            self.path = Some(sibling(&self.name, std::process::id()));
        }
    }

    /// Leaves the removal of the files to another master.
    pub(super) fn forget(&mut self) {
        self.path = None;
    }

    /// Removes the file beside the name at which an ended process was reached.
    pub(super) fn clean(&self, process: u32) {
        remove_socket(&sibling(&self.name, process));
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
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // bind(2) gives the file the mode of the socket.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from(socket), FileId::of(path)?))
}

/// The same if an earlier process with the same number may have left a file.
fn bind_anew(path: &Path) -> io::Result<(UnixListener, FileId)> {
    remove_socket(path);
    bind(path)
}

/// Removes the file of a socket of this user.
fn remove_socket(path: &Path) {
    let is_ours = |there: Metadata| there.file_type().is_socket() && there.uid() == geteuid().as_raw();
    if fs::symlink_metadata(path).is_ok_and(is_ours) {
        let _ = fs::remove_file(path);
    }
}

/// Held while one start looks at a name and takes it. Its file exists only meanwhile. If a killed process has left the
/// file, the next start takes it over.
struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Waits for other starts, for at most [`LOCK_TIME_MAX`].
    ///
    /// # Errors
    /// As open(2) and flock(2); `PermissionDenied` if the file belongs to another user, `TimedOut`.
    fn take(name: &Path) -> io::Result<Self> {
        let path = with_suffix(name, ".lock");
        let until = Instant::now() + LOCK_TIME_MAX;
        loop {
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
            let file = options
                .open(&path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            let opened = file.metadata()?;
            if !opened.is_file() || opened.uid() != geteuid().as_raw() {
                let problem = format!("{} belongs to user {}; remove it", path.display(), opened.uid());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
            }
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) if FileId::of(&path).is_ok_and(|there| there == FileId::from(&opened)) => {
                    return Ok(Self { path, _file: file });
                }
                // The previous holder has removed the file.
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) => thread::sleep(Duration::from_millis(1)),
                Err((_, error)) => return Err(error.into()),
            }
            if Instant::now() > until {
                let problem = format!("another server that is starting holds {}", path.display());
                return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Remove it before it is unlocked, while it still belongs to this process.
        let _ = fs::remove_file(&self.path);
    }
}

fn with_suffix(name: &Path, suffix: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

/// The path at which the master of a process is reached while another one has the name.
fn sibling(name: &Path, process: u32) -> PathBuf {
    with_suffix(name, &format!(".{process}"))
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

    /// Writes this process into it.
    pub(super) fn write(&mut self) {
        self.is_own = self.name(std::process::id());
    }

    /// Writes another master into it. That master writes the same, perhaps only after a client of this one has looked.
    pub(super) fn yield_to(&mut self, process: u32) {
        if std::mem::take(&mut self.is_own) {
            self.name(process);
        }
    }

    /// Leaves the file to another master, which writes or removes it.
    pub(super) fn forget(&mut self) {
        self.is_own = false;
    }

    /// Writes the file completely or not at all. Returns `false` if it is not written.
    fn name(&self, process: u32) -> bool {
        let Some(path) = &self.path else { return false };
        let beside = sibling(path, std::process::id());
        // An earlier process with the same number may have left a file. Never write to an existing file: it may be a
        // link.
        let _ = fs::remove_file(&beside);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside);
        let written = created
            .and_then(|mut file| file.write_all(format!("{process}\n").as_bytes()))
            .and_then(|()| fs::rename(&beside, path));
        if let Err(error) = &written {
            tracing::error!(path = %path.display(), "cannot write the pid file: {error}");
        }
        written.is_ok()
    }

    /// Removes the file that an ended process was about to make the pid file.
    pub(super) fn clean(&self, process: u32) {
        self.path.iter().for_each(|path| drop(fs::remove_file(sibling(path, process))));
    }

    /// Removes it, unless another master has written its own meanwhile.
    pub(super) fn remove(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| std::mem::take(&mut self.is_own)) else { return };
        if read_number(path).is_ok_and(|number| number == Some(std::process::id())) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Reads a pid file. Whatever is at the path, this neither waits nor reads much.
fn read_number(path: &Path) -> io::Result<Option<u32>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut text = String::new();
    if file.metadata()?.is_file() {
        file.take(32).read_to_string(&mut text)?;
    }
    Ok(text.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A folder that only this test has, removed at the end.
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

    /// Another master's socket at this path. Dropping it leaves the file, like a killed process.
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
        // The other master has linked this one's file beside the name, and was killed.
        let folder = Folder::new("linked");
        let name = folder.0.join("control");
        let mut own = ControlName::open(&name).expect("bound");
        fs::hard_link(&name, folder.0.join(own_file())).expect("linked");
        own.take(None).expect("taken");
        assert!(reaches(&own, &name));
        assert_eq!(folder.files(), ["control"]);
        // The other master had taken the name, and was killed.
        own.yielded();
        fs::rename(&name, folder.0.join(own_file())).expect("moved");
        drop(other_at(&name));
        own.take(None).expect("taken");
        assert!(reaches(&own, &name));
        assert_eq!(folder.files(), ["control"]);
        // The file of this master was removed.
        own.yielded();
        drop(other_at(&name));
        own.take(None).expect("taken");
        assert!(reaches(&own, &name));
        // All files were removed.
        fs::remove_file(&name).expect("removed");
        own.take(Some(OTHER)).expect("taken");
        assert!(reaches(&own, &name));
        assert_eq!(folder.files(), ["control"]);
    }

    #[test]
    fn where_a_server_listens_no_lock_is_taken_that_could_be_left_behind() {
        let folder = Folder::new("lock");
        let name = folder.0.join("control");
        let _other = other_at(&name);
        // The lock cannot be taken.
        fs::create_dir(with_suffix(&name, ".lock")).expect("made");
        assert!(matches!(ControlName::open(&name), Err(Occupied::InUse)));
    }

    #[test]
    fn a_file_that_is_another_masters_is_not_removed() {
        let folder = Folder::new("left");
        let name = folder.0.join("control");
        let own = ControlName::open(&name).expect("bound");
        assert_eq!(fs::metadata(&name).expect("there").mode() & 0o777, 0o600);
        let _other = other_at(&name);
        drop(own);
        assert_eq!(folder.files(), ["control"]);
    }

    #[test]
    fn what_is_no_socket_is_refused_and_kept() {
        let folder = Folder::new("foreign");
        let [file, link, victim] = ["file", "link", "victim"].map(|name| folder.0.join(name));
        fs::write(&file, "a key").expect("written");
        fs::write(&victim, "another").expect("written");
        std::os::unix::fs::symlink(&victim, &link).expect("linked");
        let datagram = std::os::unix::net::UnixDatagram::bind(folder.0.join("datagram")).expect("bound");
        for name in ["file", "link", "datagram"] {
            let error = ControlName::open(&folder.0.join(name)).err();
            assert!(matches!(error, Some(Occupied::Other(_))), "{name}: {error:?}");
        }
        assert!(matches!(ControlName::open(&folder.0), Err(Occupied::Other("a folder"))));
        assert_eq!(folder.files(), ["datagram", "file", "link", "victim"]);
        assert_eq!([&file, &victim].map(|path| fs::read_to_string(path).expect("kept")), ["a key", "another"]);
        drop(datagram);
    }

    #[test]
    fn a_socket_file_of_another_user_is_refused_and_kept() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: giving a file away needs root");
            return;
        }
        let folder = Folder::new("theirs");
        let name = folder.0.join("control");
        drop(other_at(&name));
        std::os::unix::fs::chown(&name, Some(STRANGER), None).expect("given away");
        assert!(matches!(ControlName::open(&name), Err(Occupied::OfUser(STRANGER))));
        assert_eq!(folder.files(), ["control"]);
    }

    const STRANGER: u32 = 1234;

    /// A killed master has left its socket's file, and several servers start at the same moment.
    #[test]
    fn of_many_starts_on_a_stale_socket_one_wins() {
        const STARTS: usize = 4;
        let folder = Folder::new("starts");
        let name = folder.0.join("control");
        for round in 0..500 {
            drop(other_at(&name));
            let barrier = std::sync::Barrier::new(STARTS);
            let start = || {
                barrier.wait();
                ControlName::open(&name)
            };
            let all: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1, "round {round}");
            assert!(lost.iter().all(|start| matches!(start, Err(Occupied::InUse))), "round {round}");
            assert!(won.iter().flatten().all(|own| reaches(own, &name)), "round {round}");
            assert_eq!(folder.files(), ["control"]);
        }
    }

    #[test]
    fn the_pid_file_is_written_through_no_link() {
        let folder = Folder::new("pid");
        let [path, victim] = ["pid", "victim"].map(|name| folder.0.join(name));
        fs::write(&victim, "a key").expect("written");
        std::os::unix::fs::symlink(&victim, sibling(&path, std::process::id())).expect("linked");
        std::os::unix::fs::symlink(&victim, &path).expect("linked");
        let mut pid_file = PidFile::at(Some(path.clone()));
        pid_file.write();
        let read = |path: &Path| fs::read_to_string(path).expect("there");
        assert_eq!((read(&path), read(&victim)), (format!("{}\n", std::process::id()), "a key".to_owned()));
        pid_file.remove();
        assert_eq!(folder.files(), ["victim"]);
    }

    /// Nothing at the path can delay the master when it ends.
    #[test]
    fn a_pid_file_that_somebody_has_replaced_is_left() {
        let folder = Folder::new("replaced");
        let path = folder.0.join("pid");
        let mut pid_file = PidFile::at(Some(path.clone()));
        pid_file.write();
        fs::remove_file(&path).expect("removed");
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("made");
        pid_file.remove();
        assert_eq!(folder.files(), ["pid"]);
    }
}
