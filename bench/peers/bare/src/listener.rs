//! The listening socket, and as many descriptors as the system permits.

use std::convert::Infallible;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};

/// Both loops only end by a failure, described in words.
pub(crate) type Served = Result<Infallible, String>;

/// The listener, non-blocking, and the number of descriptors that the process may have.
pub(crate) fn open(port: u16) -> Result<(TcpListener, u32), String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| format!("cannot read the limits: {error}"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|error| format!("cannot raise RLIMIT_NOFILE: {error}"))?;
    let listener = bound(port).map_err(|error| format!("cannot listen on 127.0.0.1:{port}: {error}"))?;
    Ok((listener, hard.min(1 << 20) as u32))
}

fn bound(port: u16) -> nix::Result<TcpListener> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    // Accepted connections inherit the option.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port))?;
    listen(&socket, Backlog::new(4096)?)?;
    Ok(socket.into())
}
