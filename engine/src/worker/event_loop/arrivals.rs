//! Connections arrive from other workers: this carries out what [`Receiver`](crate::handover::receiver::Receiver)
//! decides.

use super::EventLoop;
use super::entry::Rare;
use super::links::Other;
use super::opening::{Layering, Welcome};
use crate::connection::Host;
use crate::handover::custody::{Custody, Stage};
use crate::handover::receiver::{Command, Input, Visitor};
use crate::handover::{Message, Refusal, VERSION, VERSION_WITH_OUTBOUND_LAYERS, sender};
use crate::ipc::transfer::{Arrival, Arrived};
use crate::protocol::Protocol;
use crate::proxy::ProxyHeader;
use crate::sys::faults::reach;
use crate::sys::ring::Socket;
use crate::types::{ConnectionId, Peer, ThawError};

impl<P: Protocol> EventLoop<P> {
    pub(super) fn tell_receiver(&mut self, input: Input) {
        if matches!(input, Input::Gives { .. }) {
            reach("receiver:given");
        }
        self.moving.receiver.step(&mut self.moving.arrivals, input);
        self.carry_out();
    }

    /// Handles a batch that a visitor offers.
    pub(super) fn offered(&mut self, visitor: Visitor, arrival: Arrival) {
        reach("receiver:offered");
        let refusal = if !(VERSION..=VERSION_WITH_OUTBOUND_LAYERS).contains(&arrival.version) {
            Some(Refusal::Version)
        } else if P::STATE.is_none_or(|format| format.name != arrival.format) {
            Some(Refusal::Format)
        } else if !self.takes() {
            Some(Refusal::Leaving)
        } else if !arrival.has_all_descriptors() {
            Some(Refusal::Descriptors)
        } else {
            None
        };
        let (batch, count, bytes) = (arrival.batch, arrival.len(), arrival.bytes());
        if let Some(link) = self.moving.links.get_mut(&Other::Visitor(visitor)).filter(|_| refusal.is_none()) {
            link.arrival = Some(arrival);
        }
        self.tell_receiver(Input::Offer { visitor, batch, count, bytes, refusal });
    }

    /// Whether this worker takes what others bring. A leaving worker takes only what it can move on to others.
    pub(super) fn takes(&self) -> bool {
        self.lifecycle.takes(self.moving.sender.is_on() || self.moving.sender.has_heirs())
    }

    pub(super) fn carry_out_arrival(&mut self, command: Command) {
        match command {
            Command::Thaw(visitor) => self.thaw_all(visitor),
            Command::Say { visitor, batch, refused, open } => {
                reach("receiver:taking");
                let message = Message::Takes { batch, refused, open };
                let other = Other::Visitor(visitor);
                // An offer that was refused without being read is not kept.
                self.moving.links.get_mut(&other).into_iter().for_each(|link| link.arrival = None);
                match self.moving.channel(other).map(|channel| channel.say(&message)) {
                    Some(Ok(())) => self.flush_link(other),
                    _ => self.lose_link(other),
                }
                reach("receiver:taken");
            }
            Command::Own(id) => self.own(id),
            Command::Abandon(id) => self.abandon(id),
            Command::Close(visitor) => {
                self.close_link(Other::Visitor(visitor));
                self.end_arrival(visitor);
            }
        }
    }

    fn thaw_all(&mut self, visitor: Visitor) {
        let link = self.moving.links.get_mut(&Other::Visitor(visitor));
        let Some(arrival) = link.and_then(|link| link.arrival.take()) else { return };
        self.await_gift(visitor);
        let open = self.slab.len() as u64;
        let version = arrival.format_version;
        let pairs = arrival.pairs();
        let thaw = |arrived: Result<Arrived, Refusal>| self.thaw(version, arrived?);
        let members: Vec<Result<ConnectionId, Refusal>> = arrival.into_connections().map(thaw).collect();
        for (one, other) in &pairs {
            if let (Some(Ok(one)), Some(Ok(other))) = (members.get(*one), members.get(*other)) {
                self.context.pairs.join(*one, *other);
            }
        }
        self.tell_receiver(Input::Thawed { visitor, members, pairs, open });
    }

    fn thaw(&mut self, version: u32, arrived: Arrived) -> Result<ConnectionId, Refusal> {
        let Arrived { is_fresh, frozen, descriptor } = arrived;
        let socket = Socket::from(descriptor);
        let Some(custody) = Custody::brought(frozen.standing.passes, self.lifecycle.is_leaving()) else {
            self.ring.close(socket);
            return Err(Refusal::Leaving);
        };
        if self.slab.len() as u32 >= self.sizing.connections_max {
            self.ring.close(socket);
            return Err(Refusal::Limit);
        }
        let proxy = (!frozen.proxy.is_empty()).then(|| ProxyHeader::whole(&frozen.proxy)).transpose();
        let Ok(proxy) = proxy else {
            self.ring.close(socket);
            return Err(Refusal::State);
        };
        let id = match self.insert(socket) {
            Ok(id) => id,
            Err(socket) => {
                self.ring.close(socket);
                return Err(Refusal::Limit);
            }
        };
        // The other worker has admitted the peer already.
        let layering = if let Some(name) = &frozen.standing.outbound_layer {
            Layering::GoOnOutbound(name, frozen.layer.bytes())
        } else if !frozen.layer.bytes().is_empty() {
            Layering::GoOn(frozen.layer.bytes())
        } else if frozen.standing.awaits_handshake {
            Layering::Must
        } else if frozen.standing.awaits_header {
            Layering::Begin
        } else {
            Layering::None
        };
        if let Welcome::Unfit(error) = self.apply_listener(id, layering) {
            self.slab.get(id).into_iter().for_each(|entry| entry.connection.fail(&mut self.context));
            return Err(self.cannot_thaw(id, error));
        }
        let (entry, mut others) = self.slab.split(id).expect("just made");
        (entry.is_fresh, entry.custody) = (is_fresh, custody);
        let socket = entry.socket.as_ref().expect("just made");
        let peer = Peer { token: None, ends: socket, proxy: proxy.as_ref(), secured: None };
        let mut host = Host::new(&mut self.protocol, &mut others);
        match entry.connection.thaw(&mut host, &mut self.context, version, frozen, peer) {
            Ok(standing) => {
                // An earlier release does not report the age.
                let age_ns = standing.age_ns.max(standing.idle_ns);
                entry.opened_ns = self.context.now_ns.saturating_sub(age_ns);
                entry.rare = Some(Box::new(Rare::Brought(standing)));
                self.proxied.extend(proxy.map(|header| (id, Box::new(header))));
                Ok(id)
            }
            Err(error) => Err(self.cannot_thaw(id, error)),
        }
    }

    fn cannot_thaw(&mut self, id: ConnectionId, error: ThawError) -> Refusal {
        tracing::debug!(slot = self.context.slot, %error, "a connection cannot be thawed");
        self.abandon(id);
        refusal_of(error)
    }

    /// The connection belongs to this worker from now on.
    fn own(&mut self, id: ConnectionId) {
        let Some(entry) = self.slab.get(id) else { return };
        entry.custody.enter(Stage::Ours);
        entry.came_s = seconds(self.context.now_ns);
        if !entry.connection.is_ended() {
            self.context.page.taken_over.add(1);
        }
        self.go_on(id);
        self.context.page.open.set(self.slab.len() as u64);
        self.arrived(id);
        self.settle(id.slot);
        reach("receiver:resumed");
    }

    /// Handles a connection that belongs to this worker from now on. If the worker is leaving, the connection moves on,
    /// or gets the goodbye.
    pub(super) fn arrived(&mut self, id: ConnectionId) {
        if self.moving.sender.is_on() {
            return self.tell_sender(sender::Input::Arrived(id));
        }
        if !self.context.draining {
            return;
        }
        let deadline = self.deadline();
        let Some((entry, mut others)) = self.slab.split(id) else { return };
        if entry.is_fresh {
            self.lifecycle.watch_silent(self.context.now_ns);
        } else if self.lifecycle.was_told() {
            let mut host = Host::new(&mut self.protocol, &mut others);
            entry.connection.drain(&mut host, &mut self.context, deadline);
        }
    }

    /// Drops this worker's copy of a connection that belongs to another worker. The peer does not notice.
    fn abandon(&mut self, id: ConnectionId) {
        let Some(entry) = self.slab.get(id) else { return };
        if let Some(socket) = entry.socket.take() {
            self.ring.close(socket);
        }
        if !entry.connection.is_ended() {
            entry.connection.leave(&mut self.context);
        }
        let ending = entry.connection.close(&mut self.context);
        self.budget.change(entry.held_bytes.into(), 0);
        self.slab.remove(id.slot);
        self.forget_proxy(id);
        self.context.page.open.set(self.slab.len() as u64);
        self.closed(ending);
    }
}

/// Seconds of the monotonic clock, never 0.
pub(super) fn seconds(now_ns: u64) -> u32 {
    ((now_ns / 1_000_000_000) as u32).max(1)
}

/// The refusal that the other side gets when the protocol cannot use a state.
pub(super) fn refusal_of(error: ThawError) -> Refusal {
    match error {
        ThawError::Version(_) => Refusal::Version,
        ThawError::Malformed | ThawError::Incomplete => Refusal::State,
    }
}
