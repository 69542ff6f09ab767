//! Outbound connections: from a callback's request until they are established or have failed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt};

use super::EventLoop;
use super::entry::{Connecting, Rare, key_of};
use crate::context::Alarm;
use crate::endpoint::Endpoint;
use crate::protocol::Protocol;
use crate::sys::ring::{Key, Socket};
use crate::sys::socket_file::address_of;
use crate::target::{Target, Through};
use crate::types::ConnectionId;

impl<P: Protocol> EventLoop<P> {
    pub(super) fn connect(&mut self, target: Target, token: u64) {
        let Target { address, source, layer: through } = target;
        let layer = match through.as_ref().map(|through| self.context.connect_layer(through)).transpose() {
            Ok(layer) => layer,
            Err(error) => return self.connect_failed(token, error),
        };
        let made = outbound_socket(source, address).and_then(|socket| Ok((socket, address_of(address)?)));
        let (socket, address) = match made {
            Ok((socket, address)) => (Socket::from(OwnedFd::from(socket)), address),
            Err(error) => return self.connect_failed(token, error),
        };
        let id = match self.insert(socket) {
            Ok(id) => id,
            Err(socket) => {
                self.ring.close(socket);
                let error = io::Error::other("the worker has no connection slot left (connections_max)");
                return self.connect_failed(token, error);
            }
        };
        let connect_ms = self.context.timeouts.connect_ms;
        let time_out = (connect_ms > 0)
            .then(|| self.context.timers.set(self.context.now_ns + connect_ms * 1_000_000, Alarm::Connect { id }));
        let entry = self.slab.get(id).expect("just made");
        if let Some((layer, Through { name, .. })) = layer.zip(through) {
            entry.connection.set_outbound_layer(layer, name, Some(token));
        }
        entry.rare = Some(Box::new(Rare::Connecting(Connecting { token, time_out, has_timed_out: false })));
        let socket = entry.socket.as_ref().expect("just made");
        self.ring.connect(socket, key_of(id), address);
    }

    pub(super) fn connect_failed(&mut self, token: u64, error: io::Error) {
        self.call(|protocol, worker| protocol.on_connect_failed(token, error, worker));
    }

    pub(super) fn connected(&mut self, key: Key, result: i32) {
        let Some(entry) = self.slab.get_key(key) else { return };
        let Some(Connecting { token, time_out, has_timed_out }) = entry.take_connecting() else { return };
        let id = entry.connection.id();
        if let Some(id) = time_out.filter(|_| !has_timed_out) {
            self.context.timers.cancel(id);
        }
        if result == 0 && !self.lifecycle.is_stopping() {
            self.context.page.connected.add(1);
            self.context.page.open.set(self.slab.len() as u64);
            self.established(id, token);
        } else {
            let entry = self.slab.remove(key.slot);
            if let Some(socket) = entry.socket {
                self.ring.close(socket);
            }
            let error = match result {
                _ if has_timed_out => io::ErrorKind::TimedOut.into(),
                0 => io::Error::other("the worker stops"),
                _ => io::Error::from_raw_os_error(-result),
            };
            self.connect_failed(token, error);
        }
    }

    pub(super) fn connect_timed_out(&mut self, id: ConnectionId) {
        if let Some(entry) = self.slab.get(id)
            && let Some(connecting) = entry.connecting_mut()
        {
            connecting.has_timed_out = true;
            self.cancel_connecting(id.slot);
        }
    }

    /// Cancels an attempt; its completion reports the cancellation.
    pub(super) fn cancel_connecting(&mut self, slot: u32) {
        if let Some(entry) = self.slab.at(slot)
            && let Some(socket) = &entry.socket
        {
            self.ring.cancel_socket(socket);
        }
    }
}

fn outbound_socket(source: Option<IpAddr>, address: Endpoint) -> io::Result<socket2::Socket> {
    let Endpoint::Internet(address) = address else {
        return socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    };
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}
