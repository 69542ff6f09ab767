//! Checks a descriptor from another process before it is used, because that process may be broken or compromised.
//! Nothing here waits, whatever the descriptor is.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use socket2::{Domain, Protocol, Socket, Type};

use crate::endpoint::Endpoint;
use crate::sys::socket_file::endpoint_of;

/// Seals that a memory file must have: its bytes and its size cannot change any more.
pub(super) const SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE).union(SealFlag::F_SEAL_SEAL);

/// Why a descriptor is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// A file, a pipe, or a socket of another protocol.
    #[error("it is no TCP socket, and no Unix stream socket")]
    NotStream,
    /// It does not listen, although a listen socket was announced.
    #[error("it does not listen")]
    NotListening,
    /// It listens, although a connection was announced.
    #[error("it listens")]
    Listening,
    /// It has a peer, although a socket without one was announced.
    #[error("it is connected")]
    Connected,
    /// It is bound to another address than announced.
    #[error("it is not bound to {0}")]
    OtherAddress(Endpoint),
    /// A file whose bytes may still change, or that is no memory file at all.
    #[error("it is no sealed memory file")]
    NotSealed,
    /// It has another size than announced.
    #[error("it has {there} bytes instead of {announced}")]
    OtherSize {
        /// The number of bytes that it has.
        there: u64,
        /// The number of bytes that was announced.
        announced: u64,
    },
    /// The kernel reports an error.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A socket that listens at this address.
pub(crate) fn listener(descriptor: OwnedFd, address: Endpoint) -> Result<Socket, Unfit> {
    let socket = bound(descriptor, address)?;
    if socket.is_listener()? { Ok(socket) } else { Err(Unfit::NotListening) }
}

/// The same, without changes to it: the other process accepts from it, too, and neither may block there.
pub(crate) fn shared_listener(descriptor: OwnedFd, address: Endpoint) -> Result<Socket, Unfit> {
    let socket = unconnected(descriptor, address)?;
    if socket.is_listener()? && socket.nonblocking()? { Ok(socket) } else { Err(Unfit::NotListening) }
}

/// A socket that is bound to this address and has no peer, whether it listens or not.
pub(crate) fn bound(descriptor: OwnedFd, address: Endpoint) -> Result<Socket, Unfit> {
    let socket = unconnected(descriptor, address)?;
    // The ring waits for connections, so the socket blocks.
    socket.set_nonblocking(false)?;
    Ok(socket)
}

fn unconnected(descriptor: OwnedFd, address: Endpoint) -> Result<Socket, Unfit> {
    let socket = stream(descriptor)?;
    if !endpoint_of(&socket.local_addr()?).is_some_and(|local| local.is_at(address)) {
        return Err(Unfit::OtherAddress(address));
    }
    if socket.peer_addr().is_ok() {
        return Err(Unfit::Connected);
    }
    Ok(socket)
}

/// A connection, which may have ended.
pub(crate) fn connection(descriptor: OwnedFd) -> Result<OwnedFd, Unfit> {
    let socket = stream(descriptor)?;
    if socket.is_listener()? {
        return Err(Unfit::Listening);
    }
    // As for a listener.
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

/// A memory file with this many bytes, which cannot change any more.
pub(super) fn sealed(descriptor: OwnedFd, bytes: u64) -> Result<File, Unfit> {
    // Check this first: for any other file, a process that does not answer may have to supply the size.
    let seals = fcntl(&descriptor, FcntlArg::F_GET_SEALS).map_err(|_| Unfit::NotSealed)?;
    if !SealFlag::from_bits_retain(seals).contains(SEALS) {
        return Err(Unfit::NotSealed);
    }
    let file = File::from(descriptor);
    let there = file.metadata()?.len();
    if there == bytes { Ok(file) } else { Err(Unfit::OtherSize { there, announced: bytes }) }
}

fn stream(descriptor: OwnedFd) -> Result<Socket, Unfit> {
    let socket = Socket::from(descriptor);
    let is_internet = matches!(socket.domain(), Ok(Domain::IPV4 | Domain::IPV6));
    let is_tcp = matches!((socket.r#type(), socket.protocol()), (Ok(Type::STREAM), Ok(Some(Protocol::TCP))));
    let is_unix = matches!((socket.domain(), socket.r#type()), (Ok(Domain::UNIX), Ok(Type::STREAM)));
    if is_internet && is_tcp || is_unix { Ok(socket) } else { Err(Unfit::NotStream) }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").expect("open").into()
    }

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn a_listener_listens_where_it_was_announced() {
        let socket = TcpListener::bind(local()).expect("bound");
        let address = socket.local_addr().expect("an address");
        let copy = || OwnedFd::from(socket.try_clone().expect("a copy"));
        assert!(listener(copy(), address.into()).is_ok());
        assert!(matches!(listener(copy(), local().into()), Err(Unfit::OtherAddress(_))));
        assert!(matches!(connection(copy()), Err(Unfit::Listening)));
        let peer = TcpStream::connect(address).expect("connected");
        let at = peer.local_addr().expect("an address");
        assert!(matches!(listener(peer.into(), at.into()), Err(Unfit::Connected)));
    }

    #[test]
    fn a_socket_that_is_bound_may_listen_later() {
        let (socket, address) = crate::sys::listener::bind(local()).expect("bound");
        let copy = || OwnedFd::from(socket.try_clone().expect("a copy"));
        assert!(bound(copy(), address.into()).is_ok());
        assert!(matches!(listener(copy(), address.into()), Err(Unfit::NotListening)));
    }

    #[test]
    fn nothing_but_a_stream_is_a_listener_or_a_connection() {
        let udp = UdpSocket::bind(local()).expect("bound");
        udp.connect(udp.local_addr().expect("an address")).expect("connected");
        let (unix, _other) = UnixDatagram::pair().expect("a pair");
        for descriptor in [null(), udp.into(), unix.into()] {
            let copy = descriptor.try_clone().expect("a copy");
            assert!(matches!(listener(copy, local().into()), Err(Unfit::NotStream)));
            assert!(matches!(connection(descriptor), Err(Unfit::NotStream)));
        }
    }

    #[test]
    fn a_connection_blocks_as_rings_want_it() {
        let socket = TcpListener::bind(local()).expect("bound");
        let _peer = TcpStream::connect(socket.local_addr().expect("an address")).expect("connected");
        let (accepted, _) = socket.accept().expect("accepted");
        accepted.set_nonblocking(true).expect("set");
        let taken = connection(accepted.into()).expect("a connection");
        assert!(!Socket::from(taken).nonblocking().expect("asked"));
    }

    #[test]
    fn files_that_may_change_are_refused() {
        let disk = File::open("/proc/self/exe").expect("a file");
        assert!(matches!(sealed(disk.into(), 0), Err(Unfit::NotSealed)));
        assert!(matches!(sealed(null(), 0), Err(Unfit::NotSealed)));
    }

    #[test]
    fn a_unix_socket_is_one_where_it_was_announced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let socket = UnixListener::bind(&path).expect("bound");
        let here: Endpoint = format!("unix:{}", path.display()).parse().expect("a path");
        let elsewhere: Endpoint = "unix:/elsewhere".parse().expect("a path");
        let copy = || OwnedFd::from(socket.try_clone().expect("a copy"));
        assert!(listener(copy(), here).is_ok());
        assert!(matches!(listener(copy(), elsewhere), Err(Unfit::OtherAddress(_))));
        assert!(matches!(listener(copy(), local().into()), Err(Unfit::OtherAddress(_))));
        assert!(matches!(connection(copy()), Err(Unfit::Listening)));
        assert!(connection(UnixStream::connect(&path).expect("connected").into()).is_ok());
        let (accepted, _) = socket.accept().expect("accepted");
        assert!(matches!(bound(accepted.into(), here), Err(Unfit::Connected)));
    }
}
