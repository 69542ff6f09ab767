//! The abstract name at which a serving worker listens for workers that bring their connections. Either side checks the
//! other's credentials before it says anything.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::transfer::Channel;

/// Senders that may wait at once.
const BACKLOG: i32 = 4096;

/// Of the names at which workers can be met.
const NAME_START: &str = "baton/connections/";

/// Behind that, in hexadecimal digits: so many bits that nobody can have the name before.
const NAME_DIGITS: usize = 32;

/// Whether a worker can listen at this name.
pub(super) fn is_name(name: &str) -> bool {
    name.strip_prefix(NAME_START)
        .is_some_and(|digits| digits.len() == NAME_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Those at which workers can listen.
pub(super) fn bounded_names(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| is_name(name));
    names
}

/// Where others bring their connections.
#[derive(Debug)]
pub(crate) struct Meeting {
    socket: Socket,
    name: String,
    /// The user that the worker was started as; it may have become another since.
    user: u32,
}

impl Meeting {
    /// Listens at a name that nobody else has.
    ///
    /// # Errors
    /// As socket(2), bind(2), listen(2).
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        let mut random = [0; 16];
        fs::File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut random))?;
        let name = format!("{NAME_START}{:0NAME_DIGITS$x}", u128::from_le_bytes(random));
        socket.bind(&address(&name)?)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, name, user: geteuid().as_raw() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Who comes next.
    pub(crate) fn accept(&self) -> Came {
        loop {
            match self.socket.accept() {
                Ok((socket, _)) if is_trusted(&socket, self.user) => return Came::Worker(Channel::new(socket.into())),
                Ok(_) => return Came::Stranger,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Came::Nobody,
            }
        }
    }
}

/// Who has come.
pub(crate) enum Came {
    /// A worker of root, of the user this one was started as, or of the user it is.
    Worker(Channel),
    /// Somebody else, who was sent away: any process of the machine can find the name.
    Stranger,
    Nobody,
}

/// Goes to a worker that serves. `user` is whom this worker was started as.
///
/// # Errors
/// As connect(2); `PermissionDenied` where somebody else listens there.
pub(crate) fn visit(name: &str, user: u32) -> io::Result<Channel> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&address(name)?)?;
    if !is_trusted(&socket, user) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(Channel::new(socket.into()))
}

fn address(name: &str) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0{name}"))
}

fn is_trusted(socket: &Socket, user: u32) -> bool {
    let trusted = [0, user, geteuid().as_raw()];
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| trusted.contains(&peer.uid()))
}

/// Both ends: of the one that visits, and of the one that is visited.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn pair() -> (Channel, Channel) {
    let meeting = Meeting::open().expect("a socket");
    let ours = visit(meeting.name(), 0).expect("connected");
    let Came::Worker(theirs) = meeting.accept() else { panic!("nobody came") };
    (ours, theirs)
}
