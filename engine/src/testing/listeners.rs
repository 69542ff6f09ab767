//! Clients of the harness at listeners with settings of their own.

use std::rc::Rc;

use super::simulated::ENDS;
use super::{Client, Harness};
use crate::config::ConnectionTimeouts;
use crate::layer::{Layers, SharedLayers};
use crate::protocol::Protocol;
use crate::target::Through;
use crate::types::Peer;

impl<P: Protocol> Harness<P> {
    /// A client connects to a listener with a [label](crate::config::Listener::label).
    pub fn open_labelled(&mut self, label: u8) -> Client {
        let client = self.add(self.serving());
        self.on(client.0, |connection, wire, host, context| {
            wire.label = label;
            connection.set_listener(ConnectionTimeouts::default(), label);
            connection.open(host, context, Peer { token: None, ends: &ENDS, proxy: None, secured: None });
        });
        self.run();
        client
    }

    /// A proxy connects to a listener with [`trusted_proxies`](crate::config::Listener::trusted_proxies). It must first
    /// send a header of the PROXY protocol; the protocol does not know of the connection before that.
    pub fn open_proxied(&mut self) -> Client {
        let client = self.add(self.serving());
        self.on(client.0, |connection, _, _, context| connection.await_header(context));
        self.run();
        client
    }

    /// A client connects to a listener with a [layer](crate::config::Listener::layer). The protocol does not know of
    /// the connection before the end of the handshake.
    ///
    /// # Panics
    /// If the layer cannot be created.
    pub fn open_layered(&mut self, layers: &SharedLayers) -> Client {
        let client = self.add(self.serving());
        let layer = layers.accept().expect("a layer");
        self.on(client.0, |connection, wire, _, context| {
            wire.layers = Some(layers.clone());
            connection.set_layer(layer);
            connection.await_handshake(context);
        });
        self.run();
        client
    }

    /// Adds a layer for outbound connections; see
    /// [`Settings::outbound_layers`](crate::config::Settings::outbound_layers).
    pub fn add_outbound_layer(&mut self, name: impl Into<String>, layers: impl Layers + 'static) {
        self.context.outbound_layers.insert(name.into(), SharedLayers::new(layers));
    }

    pub(super) fn open_through(&mut self, worker: usize, through: &Through, token: u64) -> Client {
        let layer = self.context.connect_layer(through).expect("a layer");
        let client = self.add(worker);
        self.on(client.0, |connection, _, _, context| {
            connection.set_outbound_layer(layer, Rc::clone(&through.name), Some(token));
            connection.begin_handshake(context);
        });
        client
    }
}
