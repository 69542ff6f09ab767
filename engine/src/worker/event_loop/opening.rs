//! Connections begin: accepted, handed over by the master, or established by this worker.

use std::io;
use std::net::SocketAddr;

use socket2::{SockAddr, SockRef};

use super::EventLoop;
use super::entry::Entry;
use crate::config::listener_of;
use crate::connection::Connection;
use crate::handover::custody::Custody;
use crate::protocol::Protocol;
use crate::sys::ring::Socket;
use crate::types::{ConnectionId, Ends, Peer};

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
        self.apply_listener(id);
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

    /// What the listener says of those that come to it.
    pub(super) fn apply_listener(&mut self, id: ConnectionId) {
        if self.context.listeners.is_empty() {
            return;
        }
        let Some(entry) = self.slab.get(id) else { return };
        let local = entry.socket.as_ref().and_then(|socket| socket.local().ok());
        if let Some(listener) = local.and_then(|local| listener_of(&self.context.listeners, local)) {
            entry.connection.set_timeouts_of_listener(listener.timeouts);
        }
    }

    pub(super) fn opened(&mut self, id: ConnectionId, token: Option<u64>) {
        let entry = self.slab.get(id).expect("a connection that was just made");
        let socket = entry.socket.as_ref().expect("open");
        let peer = Peer { token, ends: socket };
        entry.connection.open(&mut self.protocol, &mut self.context, peer);
        if self.lifecycle.is_leaving() {
            self.arrived(id);
        }
        self.settle(id.slot);
    }
}

impl Ends for Socket {
    fn peer(&self) -> io::Result<SocketAddr> {
        internet_address(&SockRef::from(self).peer_addr()?)
    }

    fn local(&self) -> io::Result<SocketAddr> {
        internet_address(&SockRef::from(self).local_addr()?)
    }
}

fn internet_address(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
}
