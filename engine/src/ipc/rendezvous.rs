//! Where a master can find a worker that another master started.
//!
//! Every worker of a server with a control socket listens in a folder beside that socket, which only the server's user
//! can enter. So every process that connects belongs to that user or to root, and so does every process that listens.
//! No other process can find a worker, connect to it, or take a name first. A worker opens its socket before it gives
//! up its privileges.
//!
//! A socket's name is the worker's process number and the start time of that process. So a master can distinguish a
//! worker from another process that has got its number since, even if a process still has a descriptor of the worker's
//! socket. The kernel confirms that this very process listens there: a compromised worker cannot make the next master
//! kill any process it likes.
//!
//! Masters that connect wait while the worker's own master lives. When it has ended, the first one that is still
//! connected takes the worker over.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, geteuid};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::sys::process;

/// The most masters that may be connecting at the same time.
const BACKLOG: i32 = 16;

/// The most masters that are accepted at the same time, and the most that may wait.
const ACCEPTS_MAX: usize = 32;
const WAITING_MAX: usize = 8;

/// How long a master tries all workers whose queues are full, and the pause between two attempts.
const KNOCK_TIME_MAX: Duration = Duration::from_millis(100);
const KNOCK_PAUSE: Duration = Duration::from_millis(1);

/// How often a worker makes a folder that another master removes at the same moment because it was empty.
const FOLDER_TRIES_MAX: usize = 8;

/// The folder of a control socket's workers.
pub(crate) fn folder_of(control: &Path) -> PathBuf {
    let mut path = std::path::absolute(control).unwrap_or_else(|_| control.to_owned()).into_os_string();
    path.push(".workers");
    path.into()
}

/// A folder that this process has opened and checked, whatever its path leads to since.
struct Folder(File);

impl Folder {
    /// # Errors
    /// As open(2); `PermissionDenied` if other users can enter it.
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let folder = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let (owner, mode) = folder.metadata().map(|there| (there.uid(), there.mode()))?;
        let problem = if owner != geteuid().as_raw() {
            format!("it belongs to user {owner}; remove it")
        } else if mode & 0o077 != 0 {
            "others can enter it; remove it, or set its mode to 0700".to_owned()
        } else {
            return Ok(Self(folder));
        };
        Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
    }

    /// The same, but creates the folder if it does not exist.
    fn make(path: &Path) -> io::Result<Self> {
        match Self::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Self::open(path),
            },
            opened => opened,
        }
    }

    /// A path through the descriptor: paths of sockets are short (unix(7)), those of folders need not be.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    fn address(&self, name: Name) -> io::Result<SockAddr> {
        SockAddr::unix(self.path().join(name.text()))
    }

    fn names(&self) -> Vec<Name> {
        let files = fs::read_dir(self.path()).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<Name> = files.filter_map(|file| Name::parse(file.file_name().to_str()?)).collect();
        names.sort_unstable();
        names
    }

    /// Whether no process listens there any more; the worker's process may still be ending. This does not disturb a
    /// process that listens: the kernel refuses a stream to a socket of packets (EPROTOTYPE) before it queues it.
    fn is_left(&self, name: Name) -> bool {
        self.connect(name, Type::STREAM).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Connects without waiting: `WouldBlock` if the queue of the listening process is full.
    fn connect(&self, name: Name, kind: Type) -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.address(name)?)?;
        Ok(socket)
    }

    fn remove(&self, name: Name) {
        let _ = fs::remove_file(self.path().join(name.text()));
    }
}

/// The name of a worker's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    pid: u32,
    /// As [`process::started_at`] returns it.
    started_at: u64,
}

impl Name {
    fn own() -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Self { pid, started_at: process::started_at(pid)? })
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, started_at) = text.split_once('.')?;
        Some(Self { pid: pid.parse().ok()?, started_at: started_at.parse().ok()? })
    }

    fn text(self) -> String {
        format!("{}.{}", self.pid, self.started_at)
    }

    /// Whether the process that took the name still exists.
    fn is_alive(self) -> bool {
        process::started_at(self.pid).is_ok_and(|started_at| started_at == self.started_at)
    }
}

/// A worker's end.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    socket: Socket,
    /// Masters that were accepted, in the order of their arrival.
    waiting: VecDeque<OwnedFd>,
    /// The user as which the worker was started; it may have changed since.
    user: u32,
    /// `Some` if this process must remove its name.
    folder: Option<PathBuf>,
}

impl Drop for Rendezvous {
    /// If the worker has become another user, masters remove the name instead.
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            forget(folder, std::process::id());
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Rendezvous {
    /// Listens under the name of this process.
    ///
    /// # Errors
    /// As mkdir(2), socket(2), bind(2), listen(2); `PermissionDenied` if other users can enter the folder.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let name = Name::own()?;
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        let bind = || Folder::make(folder).and_then(|folder| socket.bind(&folder.address(name)?));
        let is_over =
            |bound: &io::Result<()>| !bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let bound = std::iter::repeat_with(bind).take(FOLDER_TRIES_MAX).find(is_over);
        bound.unwrap_or(Err(io::ErrorKind::NotFound.into()))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, waiting: VecDeque::new(), user: geteuid().as_raw(), folder: Some(folder.to_owned()) })
    }

    /// This process may not remove files any more: masters remove the name after it has ended.
    pub(crate) fn leave_name(&mut self) {
        self.folder = None;
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Accepts connected masters, so that those that have ended meanwhile do not block others.
    pub(crate) fn let_in(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            match self.socket.accept() {
                Ok((socket, _)) => {
                    if is_of(&socket, self.user) && socket.set_nonblocking(false).is_ok() {
                        self.waiting.push_back(socket.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.waiting.retain(is_open);
        self.waiting.truncate(WAITING_MAX);
    }

    /// The channel of a master that has connected: one of root, or of the user as which this worker was started.
    pub(crate) fn next(&mut self) -> Option<OwnedFd> {
        self.let_in();
        self.waiting.pop_front()
    }
}

fn is_of(socket: &Socket, user: u32) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == user)
}

/// The process that made the other end of a channel, connected it, or listens where it was connected (`SO_PEERCRED`,
/// unix(7)); `None` if that process is in another namespace.
pub(crate) fn peer_process(channel: &impl AsFd) -> Option<u32> {
    let credentials = getsockopt(channel, PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0)
}

fn is_open(channel: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(channel.as_fd(), PollFlags::empty())];
    matches!(poll(&mut polled, PollTimeout::ZERO), Ok(0))
}

/// A worker that was found.
pub(crate) struct Found {
    pub(crate) pid: u32,
    /// A handle of the very process that listens; `None` if the kernel supports none.
    pub(crate) handle: Option<OwnedFd>,
    /// The worker reads it once its own master has ended.
    pub(crate) channel: OwnedFd,
}

/// Makes the folder before any worker needs it.
///
/// # Errors
/// As mkdir(2); `PermissionDenied` if other users can enter it.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    Folder::make(folder).map(drop)
}

/// Finds the workers of a control socket, except those known, and contacts each.
pub(crate) fn find_others(folder: &Path, known: &[u32]) -> Vec<Found> {
    let Ok(folder) = Folder::open(folder) else { return Vec::new() };
    let until = Instant::now() + KNOCK_TIME_MAX;
    let others = folder.names().into_iter().filter(|name| !known.contains(&name.pid));
    others.filter_map(|name| knock(&folder, name, until)).collect()
}

fn knock(folder: &Folder, name: Name, until: Instant) -> Option<Found> {
    // A handle of the process that has the number now. The next line checks that it is the right one.
    let handle = process::open(Pid::from_raw(i32::try_from(name.pid).ok()?)).ok();
    if !name.is_alive() {
        folder.remove(name);
        return None;
    }
    // A worker whose queue is full must not delay the master for long.
    let socket = loop {
        match folder.connect(name, Type::SEQPACKET) {
            Ok(socket) => break socket,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock || Instant::now() > until => return None,
            Err(_) => thread::sleep(KNOCK_PAUSE),
        }
    };
    socket.set_nonblocking(false).ok()?;
    // Any process that can create files in the folder can give a socket any name.
    let is_itself = is_of(&socket, geteuid().as_raw()) && peer_process(&socket) == Some(name.pid);
    is_itself.then(|| Found { pid: name.pid, handle, channel: socket.into() })
}

/// Removes the files of a worker that has ended.
pub(crate) fn forget(folder: &Path, pid: u32) {
    if let Ok(folder) = Folder::open(folder) {
        folder.names().into_iter().filter(|name| name.pid == pid).for_each(|name| folder.remove(name));
    }
}

/// Removes the files of all workers that have ended, and then the folder if it is empty.
pub(crate) fn tidy(folder: &Path) {
    if let Ok(opened) = Folder::open(folder) {
        let names = opened.names().into_iter();
        names.filter(|name| !name.is_alive() || opened.is_left(*name)).for_each(|name| opened.remove(name));
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::ipc::channel::{Heard, hear, tell};
    use crate::ipc::orders::Order;

    /// The folder of a control socket that only this test has.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("baton-rendezvous-{}-{name}", std::process::id()));
            // Longer than a socket's path may be.
            fs::create_dir_all(path.join("long".repeat(50))).expect("made");
            Self(path)
        }

        fn folder(&self) -> PathBuf {
            folder_of(&self.0.join("long".repeat(50)).join("control"))
        }

        fn found(&self) -> Vec<Found> {
            find_others(&self.folder(), &[])
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pids(found: &[Found]) -> Vec<u32> {
        found.iter().map(|one| one.pid).collect()
    }

    #[test]
    fn a_worker_is_found_beside_its_control_socket() {
        let place = Place::new("found");
        assert!(place.found().is_empty());
        let mut rendezvous = Rendezvous::open(&place.folder()).expect("listening");
        assert!(rendezvous.next().is_none());
        let found = place.found();
        assert_eq!(pids(&found), [std::process::id()]);
        assert!(find_others(&place.folder(), &pids(&found)).is_empty(), "it is known");
        tell(&found[0].channel, &Order::Ping).expect("told");
        let channel = rendezvous.next().expect("a master has come");
        assert_eq!(hear(&channel).expect("heard"), Heard::Message(Order::Ping));
        tidy(&place.folder());
        assert_eq!(pids(&place.found()), [std::process::id()], "who lives is left");
        forget(&place.folder(), std::process::id());
        assert!(place.found().is_empty());
    }

    #[test]
    fn what_nobody_listens_at_is_removed_although_the_process_lives() {
        let place = Place::new("left");
        let folder = Folder::make(&place.folder()).expect("made");
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        socket.bind(&folder.address(Name::own().expect("read")).expect("short")).expect("bound");
        drop(socket);
        tidy(&place.folder());
        assert!(!place.folder().exists());
    }

    #[test]
    fn tidying_does_not_knock_at_who_lives() {
        let place = Place::new("quiet");
        let rendezvous = Rendezvous::open(&place.folder()).expect("listening");
        tidy(&place.folder());
        let nobody = rendezvous.socket.accept().expect_err("nobody came");
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(pids(&place.found()), [std::process::id()]);
    }

    /// Masters that were killed while the worker's own master lived.
    #[test]
    fn masters_that_have_gone_do_not_stand_in_the_way() {
        let place = Place::new("gone");
        let mut rendezvous = Rendezvous::open(&place.folder()).expect("listening");
        for _ in 0..4 * BACKLOG {
            assert_eq!(place.found().len(), 1);
            rendezvous.let_in();
        }
        let found = place.found();
        tell(&found[0].channel, &Order::Stop).expect("told");
        let channel = rendezvous.next().expect("one is there still");
        assert_eq!(hear(&channel).expect("heard"), Heard::Message(Order::Stop));
    }

    #[test]
    fn a_full_queue_is_tried_again_and_given_up_in_time() {
        let place = Place::new("full");
        let mut rendezvous = Rendezvous::open(&place.folder()).expect("listening");
        let waiting: Vec<Vec<Found>> =
            std::iter::repeat_with(|| place.found()).take_while(|one| !one.is_empty()).collect();
        assert!(waiting.len() >= BACKLOG as usize);
        let found = thread::spawn({
            let folder = place.folder();
            move || find_others(&folder, &[]).len()
        });
        rendezvous.let_in();
        assert!(found.join().is_ok());
        assert_eq!(place.found().len(), 1);
    }

    /// A compromised worker has left its socket to another process. By now a different process has the worker's number.
    #[test]
    fn who_has_a_workers_number_is_not_taken_for_it() {
        let place = Place::new("number");
        let own = Name::own().expect("read");
        let former = Name { started_at: own.started_at - 1, ..own };
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        let folder = Folder::make(&place.folder()).expect("made");
        socket.bind(&folder.address(former).expect("short")).expect("bound");
        socket.listen(BACKLOG).expect("listening");
        assert!(place.found().is_empty());
        assert!(folder.names().is_empty(), "and it is asked once");
        tidy(&place.folder());
        assert!(!place.folder().exists());
    }

    #[test]
    fn a_folder_that_others_can_enter_is_not_used() {
        let place = Place::new("open");
        let refused = || prepare(&place.folder()).expect_err("refused").kind();
        prepare(&place.folder()).expect("made");
        fs::set_permissions(place.folder(), Permissions::from_mode(0o710)).expect("set");
        assert_eq!(refused(), io::ErrorKind::PermissionDenied);
        assert!(Rendezvous::open(&place.folder()).is_err());
        fs::remove_dir(place.folder()).expect("removed");
        symlink("/", place.folder()).expect("linked");
        assert_eq!(refused(), io::ErrorKind::NotADirectory);
    }
}
