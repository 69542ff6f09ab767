//! Listen sockets: reserves an address, creates a socket of its group, configures it, listens, and accepts one
//! connection from it. The caller keeps the socket; only [`Reservation`] has a state of its own here.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::acceptor::Acceptor;
use super::socket_file::Occupied;
use crate::endpoint::Endpoint;

/// After other processes were faster this many times in a row, the connections are left to them.
const SHARED_TRIES_MAX: usize = 64;

/// Servers that can ask at the same time which one is starting.
const NAME_BACKLOG: i32 = 128;

/// How often a process that has a name but does not listen there yet is asked, and the pause after each attempt.
const NAME_TRIES_MAX: usize = 3;
const NAME_PAUSE: Duration = Duration::from_millis(1);

/// Why there is no listen socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {problem}")]
pub struct ListenError {
    /// Where.
    pub address: Box<Endpoint>,
    problem: String,
    #[source]
    source: Option<io::Error>,
}

impl ListenError {
    pub(crate) fn new(address: impl Into<Endpoint>, step: &str, source: io::Error) -> Self {
        let address = address.into();
        let problem = match source.raw_os_error() {
            Some(libc::EACCES) if address.is_unix() => "no permission to create a file in this folder".to_owned(),
            Some(libc::ENOENT) if address.is_unix() => "its folder does not exist; create it first".to_owned(),
            Some(libc::EADDRINUSE) if address.is_unix() => Occupied::InUse.to_string(),
            Some(libc::EADDRINUSE) => {
                "the address is in use by another process or another user; stop that process, or choose another port"
                    .to_owned()
            }
            Some(libc::EACCES) => {
                "no permission for this port; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
                    .to_owned()
            }
            Some(libc::EADDRNOTAVAIL) => "no interface of this machine has this address".to_owned(),
            Some(libc::EAFNOSUPPORT) => "this machine has no support for this kind of address".to_owned(),
            Some(libc::EMFILE | libc::ENFILE) => {
                "no descriptor is free; raise the limit of open files (ulimit -n)".to_owned()
            }
            _ => format!("{step}: {source}"),
        };
        Self { address: Box::new(address), problem, source: Some(source) }
    }

    /// An error that another process has reported.
    pub(crate) fn told(address: impl Into<Endpoint>, problem: String) -> Self {
        Self { address: Box::new(address.into()), problem, source: None }
    }

    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }

    /// The error of the system call.
    pub(crate) fn into_io(self) -> io::Error {
        self.source.unwrap_or_else(|| io::Error::other(self.problem))
    }
}

/// A socket for this kind of address, which can be bound although connections of a former socket linger.
fn unbound(address: SocketAddr) -> Result<Socket, ListenError> {
    let fail = |step| move |source| ListenError::new(address, step, source);
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(fail("socket"))?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(fail("IPV6_V6ONLY"))?;
    }
    socket.set_reuse_address(true).map_err(fail("SO_REUSEADDR"))?;
    Ok(socket)
}

/// Creates and binds a socket of the address's reuseport group: neither configured nor listening. Returns it with the
/// address that it got, which names the port if `address` left that to the kernel.
pub(crate) fn bind(address: SocketAddr) -> Result<(Socket, SocketAddr), ListenError> {
    let fail = |step| move |source| ListenError::new(address, step, source);
    let socket = unbound(address)?;
    socket.set_reuse_port(true).map_err(fail("SO_REUSEPORT"))?;
    socket.bind(&address.into()).map_err(fail("bind"))?;
    let bound = socket.local_addr().map_err(fail("getsockname"))?;
    Ok((socket, bound.as_socket().unwrap_or(address)))
}

/// Held from the check that an address is free until a socket listens there. If two servers of one user start at the
/// same time, one sees the other.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// `None` if another user has taken the name.
    _name: Option<Socket>,
}

/// Reserves a port; `None` if another starting server of this user is looking at it just now, which takes some
/// milliseconds. Other users can take the name, but nothing depends on it: without it, two servers that start on one
/// port within the same milliseconds may share the port.
///
/// # Errors
/// As socket(2) and bind(2).
pub(crate) fn reserve(address: SocketAddr) -> Result<Option<Reservation>, ListenError> {
    // By port alone, since a wildcard address conflicts with every other address.
    reserve_name(&format!("port-{}", address.port()), address.into())
}

/// The same, by a name that all conflicting addresses share. The name includes the user, since only servers of one user
/// share ports and replace each other's files. Abstract names belong to the network namespace, as ports do, and end
/// with the process.
pub(super) fn reserve_name(what: &str, address: Endpoint) -> Result<Option<Reservation>, ListenError> {
    let fail = |source| ListenError::new(address, "reserving the address", source);
    let user = geteuid().as_raw();
    let name = SockAddr::unix(format!("\0baton-starts-on-{what}-{user}")).map_err(fail)?;
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).map_err(fail)?;
    match socket.bind(&name).and_then(|()| socket.listen(NAME_BACKLOG)) {
        Ok(()) => Ok(Some(Reservation { _name: Some(socket) })),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let holder = holder_of(&name);
            if holder == Some(user) {
                return Ok(None);
            }
            tracing::warn!(%address, holder, "another user holds the name by which servers that start on this address exclude each other");
            Ok(Some(Reservation { _name: None }))
        }
        Err(error) => Err(fail(error)),
    }
}

/// The user of the process that listens at a name, if there is one.
fn holder_of(name: &SockAddr) -> Option<u32> {
    let ask = |_| {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(name).inspect_err(|_| thread::sleep(NAME_PAUSE))?;
        Ok::<_, io::Error>(getsockopt(&socket, PeerCredentials)?.uid())
    };
    // A starting server has the name a moment before it listens there.
    (0..NAME_TRIES_MAX).map(ask).find_map(Result::ok)
}

/// Whether an address of a reserved port is free.
///
/// # Errors
/// If another process has it: SO_REUSEPORT alone would silently share it with another server of the same user.
pub(crate) fn check_free(address: SocketAddr) -> Result<(), ListenError> {
    bind_alone(address).map(drop)
}

/// Creates a socket of no group and binds it.
///
/// # Errors
/// If any other process has the address.
pub(crate) fn bind_alone(address: SocketAddr) -> Result<Socket, ListenError> {
    let socket = unbound(address)?;
    socket.bind(&address.into()).map_err(|source| ListenError::new(address, "bind", source))?;
    Ok(socket)
}

/// Sets the options that accepted connections inherit, and listens.
pub(crate) fn configure(socket: &Socket, address: impl Into<Endpoint>, backlog: u32) -> Result<(), ListenError> {
    let address = address.into();
    let fail = |step| move |source| ListenError::new(address, step, source);
    if !address.is_unix() {
        socket.set_tcp_nodelay(true).map_err(fail("TCP_NODELAY"))?;
    }
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).map_err(fail("listen"))
}

/// The backlog that the kernel really uses.
pub(crate) fn backlog_effective(backlog: u32) -> u32 {
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| text.trim().parse().ok());
    backlog.min(limit.unwrap_or(4096))
}

/// Accepts a connection that waits at a non-blocking listen socket; `None` if there is none.
pub(crate) fn accept_waiting(listener: &Socket) -> Option<Socket> {
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                // Workers' sockets block: the ring waits for them.
                let _ = connection.set_nonblocking(false);
                return Some(connection);
            }
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
            Err(_) => return None,
        }
    }
}

/// Accepts connections that wait at a listen socket of which other processes have copies; never waits for one. A
/// connection that was seen to wait may be gone: others accept, too, and the ring of a killed worker continues for some
/// milliseconds.
pub(crate) fn waiting_at_shared(socket: &Socket, acceptor: &mut Acceptor) -> impl Iterator<Item = Socket> {
    std::iter::from_fn(|| {
        for _ in 0..SHARED_TRIES_MAX {
            // Usually no connection waits, and no ring is created.
            if !is_waiting(socket) {
                return None;
            }
            match acceptor.accept(socket.as_fd()) {
                Ok(Some(accepted)) => return Some(Socket::from(accepted)),
                // Another process was faster. The accept was armed for a moment, and a connection that arrived in that
                // moment has woken only this process: look again.
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept from a shared listen socket");
                    return None;
                }
            }
        }
        None
    })
}

fn is_waiting(socket: &Socket) -> bool {
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1))
        && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn accepting_from_a_shared_socket_does_not_wait() {
        let (socket, address) = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        let mut acceptor = Acceptor::default();
        assert!(waiting_at_shared(&socket, &mut acceptor).next().is_none(), "it does not listen");
        configure(&socket, address, 16).expect("listening");
        assert!(waiting_at_shared(&socket, &mut acceptor).next().is_none());
        let _client = TcpStream::connect(address).expect("connected");
        let connection = waiting_at_shared(&socket, &mut acceptor).next().expect("a connection");
        assert!(!connection.nonblocking().expect("asked"), "rings wait for workers");
    }

    /// Others have copies of the socket, and take the connections that were seen to wait.
    #[test]
    fn accepting_from_a_shared_socket_does_not_wait_for_what_others_took() {
        const OTHERS: usize = 4;
        let (socket, address) = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        configure(&socket, address, 64).expect("listening");
        let (say, hear) = mpsc::channel();
        let others: Vec<mpsc::Sender<()>> = (0..OTHERS)
            .map(|_| {
                let (socket, say, (begin, begun)) = (socket.try_clone().expect("a copy"), say.clone(), mpsc::channel());
                thread::spawn(move || {
                    while begun.recv().is_ok() {
                        let mut acceptor = Acceptor::default();
                        let has_taken = waiting_at_shared(&socket, &mut acceptor).next().is_some();
                        say.send(has_taken).expect("somebody listens");
                    }
                });
                begin
            })
            .collect();
        for round in 0..3_000 {
            let _client = TcpStream::connect(address).expect("connected");
            others.iter().for_each(|begin| begin.send(()).expect("it lives"));
            let taken = (0..OTHERS).filter(|_| {
                let heard = hear.recv_timeout(Duration::from_secs(5));
                heard.unwrap_or_else(|_| panic!("somebody waits inside of accept in round {round}"))
            });
            assert_eq!(taken.count(), 1, "in round {round}");
        }
    }
}
