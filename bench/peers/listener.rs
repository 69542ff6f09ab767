//! The listening socket of the Rust peers whose framework takes a ready one, so that it is the same in all of them. Each
//! such peer includes this file as a module.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

const BACKLOG: i32 = 4096;

/// A blocking listening socket whose accepted connections have TCP_NODELAY set.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // On Linux accepted sockets inherit the option, which saves a system call for each of them.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
