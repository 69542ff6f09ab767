//! The values of the harness: workers, and clients with their connections.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::ConnectionTimeouts;
use crate::connection::{Connection, Host, Place, Rest};
use crate::context::{Context, Inbox, Unreachable, Worker};
use crate::handover::{Frozen, Standing};
use crate::layer::SharedLayers;
use crate::protocol::Protocol;
use crate::proxy::ProxyHeader;
use crate::sys::payload::Payload;
use crate::types::{CannotFreeze, CloseReason, ConnectionId, Peer, ThawError};

/// The addresses of clients, and the address to which they connect.
pub(super) const ENDS: (SocketAddr, SocketAddr) = {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    (SocketAddr::new(localhost, 40_000), SocketAddr::new(localhost, 80))
};

/// A worker, which shares its context with the others.
pub(super) struct Simulant<P: Protocol> {
    pub(super) protocol: P,
    pub(super) inbox: Inbox<P::Message>,
}

impl<P: Protocol> Simulant<P> {
    /// # Panics
    /// If [`Protocol::on_start`] fails, or there is no descriptor left.
    pub(super) fn start(mut protocol: P, context: &mut Context) -> Self {
        let inbox = Inbox::new(context.limits.mailbox_messages_max).expect("an eventfd");
        let mut nobody = crate::context::Nobody;
        protocol.on_start(&mut Worker::new(context, &inbox, &mut nobody)).expect("the protocol starts");
        Self { protocol, inbox }
    }

    /// Moves the worker's own state, if it has some, to another worker.
    ///
    /// # Errors
    /// The other worker's, if it does not understand the state.
    pub(super) fn bring_state<Q: Protocol>(
        &mut self,
        to: &mut Simulant<Q>,
        context: &mut Context,
    ) -> Result<(), ThawError> {
        let Some(format) = P::WORKER_STATE else { return Ok(()) };
        let mut state = Vec::new();
        self.protocol.freeze_worker(&mut state).expect("a worker that freezes");
        let (mut rest, mut nobody) = (state.as_slice(), crate::context::Nobody);
        to.protocol.thaw_worker(format.version, &mut rest, &mut Worker::new(context, &to.inbox, &mut nobody))?;
        assert!(rest.is_empty(), "{} of {} bytes of the worker's state were not read", rest.len(), state.len());
        Ok(())
    }
}

/// A worker that has connections, or serves.
pub(super) fn living<P: Protocol>(workers: &mut [Option<Simulant<P>>], worker: usize) -> &mut Simulant<P> {
    workers[worker].as_mut().expect("a worker that has not left")
}

pub(super) enum Sent {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// A client, from its own side of the network.
#[derive(Default)]
pub(super) struct Wire {
    /// What it has sent and the engine has not received.
    pub(super) incoming: VecDeque<Sent>,
    pub(super) output: Vec<u8>,
    /// Bytes that it still takes; `None` for any number.
    pub(super) window: Option<usize>,
    pub(super) saw_end: bool,
    pub(super) was_reset: bool,
    /// The header that a proxy has sent for it.
    pub(super) proxy: Option<ProxyHeader>,
    /// The layers of its listener.
    pub(super) layers: Option<SharedLayers>,
    pub(super) label: u8,
}

pub(super) struct Simulated<S> {
    /// `None` once closed. Its id names the worker: that is the generation.
    pub(super) connection: Option<Connection<S>>,
    pub(super) wire: Wire,
    pub(super) waiting_send: Option<Payload>,
    pub(super) reason: Option<CloseReason>,
    /// Its worker is leaving, and its protocol could not let it move yet.
    pub(super) moves_later: bool,
}

impl<S> Simulated<S> {
    pub(super) fn new(connection: Option<Connection<S>>, wire: Wire) -> Self {
        Self { connection, wire, waiting_send: None, reason: None, moves_later: false }
    }

    /// The worker that has its connection; `None` once that is closed.
    pub(super) fn worker(&self) -> Option<usize> {
        self.connection.as_ref().map(|connection| connection.id().generation as usize)
    }
}

impl<S: 'static> Place for Simulated<S> {
    type State = S;

    fn reach(&mut self, id: ConnectionId) -> Result<&mut Connection<S>, Unreachable> {
        self.connection.as_mut().filter(|connection| connection.id() == id).ok_or(Unreachable::Gone)
    }
}

/// Freezes the client's connection.
///
/// # Errors
/// If the protocol keeps it: then nothing changes.
pub(super) fn freeze<P: Protocol>(
    client: &mut Simulated<P::Connection>,
    host: &mut Host<'_, P>,
    context: &mut Context,
) -> Result<Frozen, CannotFreeze> {
    let connection = client.connection.as_mut().ok_or(CannotFreeze::Stays)?;
    if let Some(payload) = client.waiting_send.take() {
        connection.sent(host, context, payload, 0);
    }
    connection.freeze(host.protocol, context)
}

/// Builds a connection from what another worker has frozen, for the client with this index. It stays frozen.
pub(super) fn thaw<Q: Protocol>(
    (protocol, clients): (&mut Q, &mut [Simulated<Q::Connection>]),
    id: ConnectionId,
    context: &mut Context,
    version: u32,
    frozen: Frozen,
) -> Result<Standing, ThawError> {
    let mut connection = Connection::new(id, context.now_ns);
    let (client, mut others) = Rest::split(clients, id.slot).expect("a client at this place");
    let mut host = Host::new(protocol, &mut others);
    if let Some(name) = &frozen.standing.outbound_layer {
        let layer = context.thaw_outbound_layer(name, frozen.layer.bytes())?;
        connection.set_outbound_layer(layer, (**name).into(), None);
    } else if let Some(layers) = &client.wire.layers {
        let state = frozen.layer.bytes();
        let layer = if state.is_empty() { layers.accept().ok_or(ThawError::Malformed)? } else { layers.thaw(state)? };
        connection.set_layer(layer);
    }
    connection.set_listener(ConnectionTimeouts::default(), client.wire.label);
    let peer = Peer { token: None, ends: &ENDS, proxy: client.wire.proxy.as_ref(), secured: None };
    let standing = connection.thaw(&mut host, context, version, frozen, peer)?;
    client.connection = Some(connection);
    Ok(standing)
}
