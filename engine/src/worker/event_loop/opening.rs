//! Connections begin: accepted, handed over by the master, or established by this worker.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;

use super::EventLoop;
use super::entry::Entry;
use crate::connection::{Connection, Host};
use crate::handover::custody::Custody;
use crate::protocol::Protocol;
use crate::sys::ring::Socket;
use crate::types::{ConnectionId, Peer};

impl<P: Protocol> EventLoop<P> {
    pub(super) fn open(&mut self, socket: Socket, token: Option<u64>) {
        let id = match self.insert(socket) {
            Ok(id) => id,
            Err(socket) => {
                // Only a burst larger than the backlog can come here; see `Sizing`.
                self.ring.close(socket);
                self.context.page.accept_errors.add(1);
                self.log_at_times(|slot, _| {
                    tracing::error!(slot, "a connection came with no slot left and was closed")
                });
                return;
            }
        };
        self.context.page.open.set(self.slab.len() as u64);
        self.opened(id, token);
        if self.slab.len() > self.sizing.connections_max as usize {
            self.make_room();
        }
    }

    /// A slot for `socket`, which comes back where there is none.
    pub(super) fn insert(&mut self, socket: Socket) -> Result<ConnectionId, Socket> {
        let now_ns = self.context.now_ns;
        let mut socket = Some(socket);
        let make = |id| Entry::new(Connection::new(id, now_ns), socket.take(), Custody::default());
        let id = self.slab.insert(make);
        id.ok_or_else(|| socket.expect("not taken"))
    }

    pub(super) fn opened(&mut self, id: ConnectionId, token: Option<u64>) {
        let (entry, mut others) = self.slab.split(id).expect("a connection that was just made");
        let socket = entry.socket.as_ref().expect("open");
        let address = || peer_address(socket);
        let peer = Peer { token, address: &address };
        entry.connection.open(&mut Host::new(&mut self.protocol, &mut others), &mut self.context, peer);
        if self.lifecycle.is_leaving() {
            self.arrived(id);
        }
        self.settle(id.slot);
    }
}

pub(super) fn peer_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = SockRef::from(socket).peer_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
}
