//! Connections begin: accepted, handed over by the master, or established by this worker.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, SockAddr, SockRef};

use super::EventLoop;
use super::entry::Entry;
use crate::config::{Listener, listener_of};
use crate::connection::{Connection, Host};
use crate::endpoint::Endpoint;
use crate::handover::custody::Custody;
use crate::layer::Layer;
use crate::protocol::Protocol;
use crate::proxy::ProxyHeader;
use crate::sys::ring::Socket;
use crate::sys::socket_file::endpoint_of;
use crate::types::{ConnectionId, Ends, Peer, ThawError, UnixUser};

/// Which of its listener's layers a connection gets.
pub(super) enum Layering<'a> {
    /// A new one, if the listener has any.
    Begin,
    /// A new one, which the listener must have.
    Must,
    /// The one that another worker has frozen.
    GoOn(&'a [u8]),
    /// The same for an outbound connection, by the layer's name.
    GoOnOutbound(&'a str, &'a [u8]),
    /// None, whatever the listener has now.
    None,
}

impl Layering<'_> {
    fn of(self, listener: &Listener) -> Result<Option<Box<dyn Layer>>, ThawError> {
        match (self, &listener.layer) {
            (Self::Begin, None) | (Self::None, _) => Ok(None),
            (Self::Begin | Self::Must, Some(layers)) => layers.accept().map(Some).ok_or(ThawError::Malformed),
            (Self::GoOn(state), Some(layers)) => layers.thaw(state).map(Some),
            (Self::GoOn(_) | Self::Must, None) | (Self::GoOnOutbound(..), _) => Err(ThawError::Malformed),
        }
    }

    fn is_needed(&self) -> bool {
        matches!(self, Self::GoOn(_) | Self::Must)
    }
}

/// What happens to a new connection.
pub(super) enum Welcome {
    Open,
    /// Its layer's handshake comes first.
    AwaitHandshake,
    /// A proxy must first send the header that names the client.
    AwaitHeader,
    Refuse(SocketAddr),
    /// There is no layer for it.
    Unfit(ThawError),
    /// It was reset meanwhile, as by a proxy that checks whether the port is open. Its peer's address is not known any
    /// more.
    Gone,
}

impl<P: Protocol> EventLoop<P> {
    pub(super) fn open(&mut self, socket: Socket, token: Option<u64>) {
        let id = match self.insert(socket) {
            Ok(id) => id,
            Err(socket) => {
                // Only a burst larger than the backlog can reach this; see `Sizing`.
                self.ring.close(socket);
                self.context.page.accept_errors.add(1);
                self.log_at_times(|slot, _| tracing::error!(slot, "closed a new connection because no slot is left"));
                return;
            }
        };
        self.context.page.open.set(self.slab.len() as u64);
        match self.apply_listener(id, Layering::Begin) {
            Welcome::Open => self.opened(id, token),
            Welcome::AwaitHandshake => {
                self.slab.get(id).into_iter().for_each(|entry| entry.connection.await_handshake(&mut self.context));
                self.let_in(id);
            }
            Welcome::AwaitHeader => {
                self.slab.get(id).into_iter().for_each(|entry| entry.connection.await_header(&mut self.context));
                self.let_in(id);
            }
            Welcome::Refuse(peer) => self.refuse(id, peer),
            Welcome::Gone | Welcome::Unfit(_) => {
                self.slab.get(id).into_iter().for_each(|entry| entry.connection.fail(&mut self.context));
                self.settle(id.slot);
            }
        }
        if self.slab.len() > self.sizing.connections_max as usize {
            self.make_room();
        }
    }

    /// Takes a slot for `socket`, or gives `socket` back if there is none.
    pub(super) fn insert(&mut self, socket: Socket) -> Result<ConnectionId, Socket> {
        let now_ns = self.context.now_ns;
        let mut socket = Some(socket);
        let make = |id| Entry::new(Connection::new(id, now_ns), socket.take(), Custody::default());
        let id = self.slab.insert(make);
        id.ok_or_else(|| socket.expect("not taken"))
    }

    /// Applies the listener's settings to a new connection.
    pub(super) fn apply_listener(&mut self, id: ConnectionId, layering: Layering<'_>) -> Welcome {
        if let Layering::GoOnOutbound(name, state) = layering {
            return self.apply_outbound(id, name, state);
        }
        // A connection with a layer is unreadable without it.
        let without = if layering.is_needed() { Welcome::Unfit(ThawError::Malformed) } else { Welcome::Open };
        if self.context.listeners.is_empty() {
            return without;
        }
        let Some(entry) = self.slab.get(id) else { return Welcome::Open };
        let Some(socket) = &entry.socket else { return Welcome::Open };
        let local = endpoint(SockRef::from(socket).local_addr()).ok();
        let Some(listener) = local.and_then(|local| listener_of(&self.context.listeners, local)) else {
            return without;
        };
        entry.connection.set_listener(listener.timeouts, listener.label);
        match layering.of(listener) {
            Ok(layer) => layer.into_iter().for_each(|layer| entry.connection.set_layer(layer)),
            Err(error) => return Welcome::Unfit(error),
        }
        if !listener.is_for_proxies() {
            if entry.connection.is_layered() { Welcome::AwaitHandshake } else { Welcome::Open }
        } else if listener.trusts(None) {
            Welcome::AwaitHeader
        } else {
            match socket.peer() {
                Ok(peer) if listener.trusts(Some(peer)) => Welcome::AwaitHeader,
                Ok(peer) => Welcome::Refuse(peer),
                Err(_) => Welcome::Gone,
            }
        }
    }

    fn apply_outbound(&mut self, id: ConnectionId, name: &str, state: &[u8]) -> Welcome {
        let Some(entry) = self.slab.get(id) else { return Welcome::Open };
        match self.context.thaw_outbound_layer(name, state) {
            Ok(layer) => {
                entry.connection.set_outbound_layer(layer, name.into(), None);
                Welcome::Open
            }
            Err(error) => Welcome::Unfit(error),
        }
    }

    fn refuse(&mut self, id: ConnectionId, peer: SocketAddr) {
        let Some(entry) = self.slab.get(id) else { return };
        entry.connection.refuse(&mut self.context);
        self.settle(id.slot);
        self.log_at_times(|slot, _| {
            tracing::warn!(
                slot,
                %peer,
                "closed a connection to a listener for proxies, because its peer is not trusted"
            );
        });
    }

    /// Handles a proxy's header, which names the client.
    #[cold]
    pub(super) fn announced(&mut self, id: ConnectionId, header: Box<ProxyHeader>) {
        self.proxied.insert(id, header);
        if let Some(entry) = self.slab.get(id).filter(|entry| entry.connection.is_layered()) {
            entry.connection.await_handshake(&mut self.context);
            return self.settle(id.slot);
        }
        self.secured(id);
    }

    /// Passes the connection to the protocol: nothing has to happen first any more.
    pub(super) fn secured(&mut self, id: ConnectionId) {
        self.tell_opened(id, None);
        let deadline = self.deadline();
        let Some((entry, mut others)) = self.slab.split(id) else { return };
        if self.lifecycle.was_told() && (self.context.draining || entry.custody.stays()) {
            let mut host = Host::new(&mut self.protocol, &mut others);
            entry.connection.drain(&mut host, &mut self.context, deadline);
        }
        self.settle(id.slot);
    }

    /// Handles an outbound connection that is established.
    pub(super) fn established(&mut self, id: ConnectionId, token: u64) {
        let Some(entry) = self.slab.get(id).filter(|entry| entry.connection.is_layered()) else {
            return self.opened(id, Some(token));
        };
        entry.connection.begin_handshake(&mut self.context);
        self.let_in(id);
    }

    fn opened(&mut self, id: ConnectionId, token: Option<u64>) {
        self.tell_opened(id, token);
        self.let_in(id);
    }

    fn tell_opened(&mut self, id: ConnectionId, token: Option<u64>) {
        let (entry, mut others) = self.slab.split(id).expect("a connection that was just made");
        let socket = entry.socket.as_ref().expect("open");
        let peer = Peer { token, ends: socket, proxy: self.proxied.get(&id).map(Box::as_ref), secured: None };
        entry.connection.open(&mut Host::new(&mut self.protocol, &mut others), &mut self.context, peer);
    }

    fn let_in(&mut self, id: ConnectionId) {
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

    fn unix_user(&self) -> Option<UnixUser> {
        let socket = SockRef::from(self);
        let is_unix = matches!(socket.domain(), Ok(Domain::UNIX));
        let credentials = is_unix.then(|| getsockopt(self, sockopt::PeerCredentials).ok()).flatten()?;
        Some(UnixUser { process: credentials.pid(), user: credentials.uid(), group: credentials.gid() })
    }
}

pub(super) fn endpoint(address: io::Result<SockAddr>) -> io::Result<Endpoint> {
    endpoint_of(&address?).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn internet_address(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}
