//! Files of Unix sockets: inspects a path, binds there, and removes what a server has left. Links are not followed.
//! Only sockets of this user that no process has open are replaced or removed.

use std::collections::BTreeMap;
use std::fs::{self, FileType};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::listener::{ListenError, Reservation, reserve_name};
use crate::endpoint::{Endpoint, SocketFile, UnixPath};

/// At the end: how often to check whether a path can be removed, and the pause after each check.
const REMOVE_TRIES_MAX: usize = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// Why a path cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Occupied {
    #[error("another server listens there; stop it, or choose another path")]
    InUse,
    /// The path names something other than a socket that a server has left.
    #[error("{0} is there and was left untouched; choose another path")]
    Other(&'static str),
    #[error("a socket of user {0} is there and was left untouched; choose another path, or remove it")]
    OfUser(u32),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Whether a server has left its socket's file at `path`, which belongs to this user or to `owner`; `false` if nothing
/// is there. A process has a socket of another type than `asked_as`, whether it listens or not.
pub(crate) fn is_stale(path: &Path, asked_as: Type, owner: Option<u32>) -> Result<bool, Occupied> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if !there.file_type().is_socket() {
        return Err(Occupied::Other(kind(there.file_type())));
    }
    if there.uid() != geteuid().as_raw() && Some(there.uid()) != owner {
        return Err(Occupied::OfUser(there.uid()));
    }
    let socket = Socket::new(Domain::UNIX, asked_as, None)?;
    // A server whose backlog is full must not delay this one.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) && asked_as == Type::STREAM => {
            Err(Occupied::Other("a socket of another type"))
        }
        Ok(()) => Err(Occupied::InUse),
        Err(error)
            if error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) =>
        {
            Err(Occupied::InUse)
        }
        Err(error) => Err(error.into()),
    }
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a folder"
    } else if file_type.is_symlink() {
        "a symbolic link"
    } else if file_type.is_file() {
        "a file"
    } else {
        "something other than a socket"
    }
}

/// The same for a listen socket, without a connection that a server would take for a client's. unix(7) refuses a
/// datagram socket with EPROTOTYPE if a stream socket is bound there, and with ECONNREFUSED if no process has the
/// socket open any more.
fn is_left(path: UnixPath, owner: Option<u32>) -> Result<bool, ListenError> {
    is_stale(path.as_path(), Type::DGRAM, owner).map_err(|occupied| match occupied {
        Occupied::System(error) => ListenError::new(path, "looking at the path", error),
        occupied => ListenError::told(path, occupied.to_string()),
    })
}

/// Reserves a path; `None` if another server of this user is looking at it just now. As [`super::listener::reserve`].
///
/// # Errors
/// If the folder does not exist or may not be searched; else as socket(2) and bind(2).
pub(crate) fn reserve(path: UnixPath) -> Result<Option<Reservation>, ListenError> {
    let place = path.as_path();
    let folder = place.parent().unwrap_or(Path::new("/"));
    let there = fs::metadata(folder).map_err(|error| ListenError::new(path, "its folder", error))?;
    let mut hasher = DefaultHasher::new();
    (there.dev(), there.ino(), place.file_name()).hash(&mut hasher);
    reserve_name(&format!("path-{:016x}", hasher.finish()), path.into())
}

/// Checks that a reserved path is free, or was left by a server that has ended.
///
/// # Errors
/// If a process has a socket open there, or something else is there, which stays as it is.
pub(crate) fn check_free(path: UnixPath, file: SocketFile) -> Result<(), ListenError> {
    is_left(path, file.user).map(drop)
}

/// Creates a socket and binds it to a reserved path, with the mode of `file` whatever the umask is. Removes what a
/// server that has ended left there. The socket does not listen.
///
/// # Errors
/// As [`check_free`] and bind(2).
pub(crate) fn bind(path: UnixPath, file: SocketFile) -> Result<Socket, ListenError> {
    let fail = |step| move |source| ListenError::new(path, step, source);
    if is_left(path, file.user)? {
        fs::remove_file(path.as_path()).map_err(fail("removing what an earlier server left"))?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail("socket"))?;
    socket.bind(&SockAddr::unix(path.as_path()).map_err(fail("bind"))?).map_err(fail("bind"))?;
    // No client can connect before it listens.
    set_access(path, file).map_err(fail("setting owner and mode"))?;
    Ok(socket)
}

/// Through a descriptor, so that only a socket is changed, whatever the name leads to meanwhile.
fn set_access(path: UnixPath, SocketFile { mode, user, group }: SocketFile) -> io::Result<()> {
    let file = open(path.as_path(), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let file = fs::File::from(file);
    if !file.metadata()?.file_type().is_socket() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    if user.is_some() || group.is_some() {
        chown(&name, user, group)?;
    }
    fs::set_permissions(name, fs::Permissions::from_mode(mode))
}

/// Removes the path of a socket, a file of this user or of `owner`, that no process has open any more. Returns `false`
/// if a process may have it open. A server that is starting there keeps it.
pub(crate) fn remove(path: UnixPath, owner: Option<u32>) -> bool {
    match reserve(path) {
        Ok(Some(_reservation)) => match is_left(path, owner) {
            Ok(true) => fs::remove_file(path.as_path()).is_ok(),
            // The path is gone, or does not belong to this server.
            Ok(false) => true,
            Err(_) => !path.as_path().exists(),
        },
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Paths whose sockets this process has had, with the owners of the files. Each is removed when no process has its
/// socket any more.
#[derive(Debug, Default)]
pub(crate) struct Paths(BTreeMap<UnixPath, Option<u32>>);

impl Paths {
    /// Does nothing if the address is not a path.
    pub(crate) fn add(&mut self, address: Endpoint) {
        let owner = |path: UnixPath| fs::symlink_metadata(path.as_path()).ok().map(|there| there.uid());
        self.0.extend(address.unix_path().map(|path| (path, owner(path))));
    }

    /// Removes the paths whose sockets no process has.
    pub(crate) fn remove_unused(&mut self) {
        self.0.retain(|path, owner| !remove(*path, *owner));
    }

    /// The same at the end, when no other process continues with them: the ring of a killed worker may hold a socket
    /// for some milliseconds.
    pub(crate) fn remove_all(&mut self) {
        for _ in 0..REMOVE_TRIES_MAX {
            self.remove_unused();
            if self.0.is_empty() {
                return;
            }
            thread::sleep(REMOVE_PAUSE);
        }
    }
}

/// Binds a socket to any kind of address; see [`super::listener::bind`] and [`bind`]. A path is reserved meanwhile.
///
/// # Errors
/// As those, and if another starting server has reserved the path.
pub(crate) fn bind_free(address: Endpoint, file: SocketFile) -> Result<(Socket, Endpoint), ListenError> {
    let reserved = address.unix_path().map(reserve).transpose()?;
    if matches!(reserved, Some(None)) {
        return Err(ListenError::told(address, Occupied::InUse.to_string()));
    }
    bind_any(address, file)
}

/// Binds a socket to any kind of address; see [`super::listener::bind`] and [`bind`].
pub(crate) fn bind_any(address: Endpoint, file: SocketFile) -> Result<(Socket, Endpoint), ListenError> {
    match address {
        Endpoint::Internet(address) => {
            super::listener::bind(address).map(|(socket, bound)| (socket, Endpoint::Internet(bound)))
        }
        Endpoint::Unix(path) => Ok((bind(path, file)?, address)),
    }
}

/// An endpoint's address for the kernel.
///
/// # Errors
/// Never: a path is never too long.
pub(crate) fn address_of(endpoint: Endpoint) -> io::Result<SockAddr> {
    match endpoint {
        Endpoint::Internet(address) => Ok(address.into()),
        Endpoint::Unix(path) => SockAddr::unix(path.as_path()),
    }
}

/// The endpoint of a socket's address; `None` for an unnamed one, and for those of other families.
pub(crate) fn endpoint_of(address: &SockAddr) -> Option<Endpoint> {
    let internet = address.as_socket().map(Endpoint::Internet);
    internet.or_else(|| address.as_pathname()?.to_str()?.parse().ok().map(Endpoint::Unix))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn at(folder: &tempfile::TempDir, name: &str) -> UnixPath {
        folder.path().join(name).to_str().expect("text").parse().expect("a path")
    }

    fn file(mode: u32) -> SocketFile {
        SocketFile { mode, user: None, group: None }
    }

    #[test]
    fn what_a_server_has_left_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = at(&folder, "left");
        let socket = bind(path, file(0o640)).expect("bound");
        let mode = fs::symlink_metadata(path.as_path()).expect("there").mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert!(check_free(path, file(0o600)).is_err(), "somebody has it, who does not listen yet");
        assert!(!remove(path, None), "somebody has it");
        socket.listen(8).expect("listening");
        assert!(check_free(path, file(0o600)).is_err());
        assert!(UnixStream::connect(path.as_path()).is_ok());
        drop(socket);
        assert!(path.as_path().exists());
        drop(bind(path, file(0o600)).expect("what was left is replaced"));
        assert!(remove(path, None));
        assert!(!path.as_path().exists());
        assert!(remove(path, None), "nothing is there");
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("file"), "text").expect("written");
        fs::create_dir(folder.path().join("folder")).expect("made");
        let other = UnixListener::bind(folder.path().join("other")).expect("bound");
        symlink("other", folder.path().join("link")).expect("made");
        drop(other);
        for name in ["file", "folder", "link"] {
            let path = at(&folder, name);
            assert!(bind(path, file(0o600)).is_err(), "{name}");
            assert!(!remove(path, None), "{name}");
            assert!(fs::symlink_metadata(path.as_path()).is_ok(), "{name}");
        }
        let nowhere: UnixPath = at(&folder, "nowhere/socket");
        assert!(reserve(nowhere).is_err() && bind(nowhere, file(0o600)).is_err());
    }

    #[test]
    fn a_file_that_was_given_to_another_user_is_replaced_and_removed() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: giving files away needs root");
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = at(&folder, "given");
        let given = SocketFile { mode: 0o660, user: Some(1234), group: Some(1235) };
        drop(bind(path, given).expect("bound"));
        let there = fs::symlink_metadata(path.as_path()).expect("there");
        assert_eq!((there.uid(), there.gid(), there.mode() & 0o7777), (1234, 1235, 0o660));
        assert!(check_free(path, file(0o600)).is_err(), "it is somebody else's");
        check_free(path, given).expect("a server has left it");
        let mut paths = Paths::default();
        let socket = bind(path, given).expect("what was left is replaced");
        paths.add(path.into());
        paths.remove_unused();
        assert!(path.as_path().exists(), "somebody has it");
        drop(socket);
        paths.remove_unused();
        assert!(!path.as_path().exists());
    }

    #[test]
    fn one_start_at_a_time_has_a_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = reserve(at(&folder, "a")).expect("asked").expect("free");
        assert!(reserve(at(&folder, "a")).expect("asked").is_none());
        assert!(reserve(at(&folder, "b")).expect("asked").is_some());
        drop(first);
        assert!(reserve(at(&folder, "a")).expect("asked").is_some());
    }
}
