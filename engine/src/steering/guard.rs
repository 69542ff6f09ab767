//! The guard: a listen socket of the group that the master keeps. Steering never picks it, so it gets nothing while any
//! worker's listener is open. When the last listener closes, the connections that wait there move to the guard instead
//! of being lost. The master hands them to a worker, one by one, as soon as there is one.

use std::cell::OnceCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::Socket;

use super::{Balance, Steering};
use crate::sys::listener::{ListenError, accept_waiting, bind, configure};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Guard {
    socket: Socket,
    /// The address on which it listens.
    pub(crate) address: SocketAddr,
    /// Created when it is first needed, and kept: a socket can be in one map at a time, and the kernel removes an
    /// unused map only some time later.
    alone: OnceCell<Steering>,
}

impl Guard {
    /// Joins the group of `address` and at once attaches `steering` to the group, so that the guard only gets
    /// connections that arrive in between.
    pub(crate) fn open(address: SocketAddr, backlog: u32, steering: &Steering) -> Result<Self, ListenError> {
        let (socket, _) = bind(address)?;
        configure(&socket, address, backlog)?;
        let fail = |source| ListenError::new(address, "SO_ATTACH_REUSEPORT_EBPF", source);
        steering.attach(socket.as_fd()).map_err(fail)?;
        socket.set_nonblocking(true).map_err(|source| ListenError::new(address, "O_NONBLOCK", source))?;
        Ok(Self { socket, address, alone: OnceCell::new() })
    }

    /// Switches the group to another generation.
    pub(crate) fn switch(&self, steering: &Steering) -> io::Result<()> {
        steering.attach(self.socket.as_fd())
    }

    /// Switches the group to the guard alone: all listeners are parked, and new connections wait here.
    pub(crate) fn stand_alone(&self) -> io::Result<()> {
        if let Some(steering) = self.alone.get() {
            return steering.attach(self.socket.as_fd());
        }
        let steering = Steering::load(1, &Balance::default())?;
        steering.set(0, self.socket.as_fd())?;
        self.alone.get_or_init(|| steering).attach(self.socket.as_fd())
    }

    /// Accepts a connection that arrived at the guard.
    pub(crate) fn accept(&self) -> Option<OwnedFd> {
        accept_waiting(&self.socket).map(OwnedFd::from)
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
