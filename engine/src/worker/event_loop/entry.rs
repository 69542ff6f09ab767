//! What the loop stores for each connection, besides its state machine.

use crate::connection::{Connection, Place, Watch};
use crate::context::timer_wheel::TimerId;
use crate::context::{Pairs, Unreachable};
use crate::handover::custody::Custody;
use crate::handover::sender::{Look, Table};
use crate::handover::{Frozen, Standing};
use crate::sys::ring::{Key, Socket};
use crate::types::ConnectionId;
use crate::worker::line::Appetite;
use crate::worker::slab::{self, Slab};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    No,
    Armed,
    Cancelling,
    /// No buffer was left. The receive is armed again when there are some.
    Starved,
    /// Waits in line because it sends faster than it is received.
    InLine,
}

impl Receiving {
    pub(super) fn is_in_flight(self) -> bool {
        matches!(self, Self::Armed | Self::Cancelling)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watching {
    No,
    For(Watch),
    Cancelling,
}

pub(super) struct Entry<S> {
    pub(super) connection: Connection<S>,
    /// `None` once it was given to the kernel for closing.
    pub(super) socket: Option<Socket>,
    pub(super) receiving: Receiving,
    /// Number of receive operations that are armed.
    pub(super) receives: u8,
    /// One of them found no buffer.
    pub(super) is_starved: bool,
    pub(super) appetite: Appetite,
    /// It is in the list of connections that are not read while memory is short.
    pub(super) is_paused: bool,
    /// The bytes that the worker's budget counts for it.
    pub(super) held_bytes: u32,
    /// Nothing was received yet. The first receive is a single one: a connection that ends with its first request then
    /// has nothing armed that must be cancelled.
    pub(super) is_fresh: bool,
    pub(super) sending: bool,
    /// Whether the kernel reports that the peer leaves.
    pub(super) watching: Watching,
    /// The send in flight closes the socket if it succeeds.
    pub(super) closes_with_send: bool,
    /// It is in the list of connections that have something to send.
    pub(super) is_dirty: bool,
    /// Completions of its receives and sends since the worker began to count.
    pub(super) events: u32,
    /// When it came from another worker, in seconds of the monotonic clock; 0 if it did not.
    pub(super) came_s: u32,
    /// When it was accepted, or began to be established. After a move: at its first worker, as the other workers report
    /// it.
    pub(super) opened_ns: u64,
    /// Which worker owns it while it moves.
    pub(super) custody: Custody,
    /// State that only a few connections have.
    pub(super) rare: Option<Box<Rare>>,
}

/// State that a connection has only for a while.
pub(super) enum Rare {
    /// An outbound connection is being established.
    Connecting(Connecting),
    /// Everything that another worker needs to continue it.
    Frozen(Frozen),
    /// Its state at the worker that brings it.
    Brought(Standing),
}

pub(super) struct Connecting {
    pub(super) token: u64,
    pub(super) time_out: Option<TimerId>,
    pub(super) has_timed_out: bool,
}

impl<S> Entry<S> {
    pub(super) fn new(connection: Connection<S>, socket: Option<Socket>, custody: Custody) -> Self {
        Self {
            opened_ns: connection.activity_ns(),
            connection,
            socket,
            receiving: Receiving::No,
            receives: 0,
            is_starved: false,
            appetite: Appetite::default(),
            is_paused: false,
            held_bytes: 0,
            is_fresh: true,
            sending: false,
            watching: Watching::No,
            closes_with_send: false,
            is_dirty: false,
            events: 0,
            came_s: 0,
            custody,
            rare: None,
        }
    }

    /// The memory that is held for it, limited to 32 bits.
    #[inline]
    pub(super) fn bytes_to_hold(&self) -> u32 {
        let frozen = if self.rare.is_some() { self.frozen().map_or(0, Frozen::bytes) } else { 0 };
        u32::try_from(self.connection.held_bytes() + frozen).unwrap_or(u32::MAX)
    }

    /// Nothing is in flight for it in the kernel.
    pub(super) fn is_still(&self) -> bool {
        !self.receiving.is_in_flight() && !self.sending
    }

    pub(super) fn key(&self) -> Key {
        key_of(self.connection.id())
    }

    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.rare.as_deref(), Some(Rare::Connecting(_)))
    }

    pub(super) fn connecting_mut(&mut self) -> Option<&mut Connecting> {
        match self.rare.as_deref_mut() {
            Some(Rare::Connecting(connecting)) => Some(connecting),
            _ => None,
        }
    }

    pub(super) fn take_connecting(&mut self) -> Option<Connecting> {
        match *self.rare.take_if(|rare| matches!(**rare, Rare::Connecting(_)))? {
            Rare::Connecting(connecting) => Some(connecting),
            _ => None,
        }
    }

    pub(super) fn frozen(&self) -> Option<&Frozen> {
        match self.rare.as_deref() {
            Some(Rare::Frozen(frozen)) => Some(frozen),
            _ => None,
        }
    }

    /// Takes its state from when it was frozen, here or at the worker that brought it. The rest of that is not needed
    /// any more.
    pub(super) fn take_standing(&mut self) -> Option<Standing> {
        match *self.rare.take_if(|rare| !matches!(**rare, Rare::Connecting(_)))? {
            Rare::Frozen(frozen) => Some(frozen.standing),
            Rare::Brought(standing) => Some(standing),
            Rare::Connecting(_) => None,
        }
    }
}

pub(super) fn key_of(id: ConnectionId) -> Key {
    Key { slot: id.slot, generation: id.generation as u16 }
}

impl<S: 'static> Place for slab::Entry<Entry<S>> {
    type State = S;

    fn reach(&mut self, id: ConnectionId) -> Result<&mut Connection<S>, Unreachable> {
        self.get(id).map(|entry| &mut entry.connection).ok_or(Unreachable::Gone)
    }
}

/// The worker's connections, as the sender sees them.
pub(super) struct Members<'a, S> {
    pub(super) slab: &'a mut Slab<Entry<S>>,
    pub(super) pairs: &'a Pairs,
}

impl<S> Table for Members<'_, S> {
    fn custody(&mut self, id: ConnectionId) -> Option<&mut Custody> {
        self.slab.get(id).map(|entry| &mut entry.custody)
    }

    fn look(&mut self, id: ConnectionId) -> Option<Look> {
        let entry = self.slab.peek(id)?;
        let bytes = entry.frozen().map_or_else(|| entry.connection.bytes_to_move(), Frozen::bytes);
        let is_ending = entry.connection.is_ending() || entry.connection.is_ended();
        let is_alive = |partner: &ConnectionId| self.slab.peek(*partner).is_some_and(|one| one.connection.is_alive());
        let partner = self.pairs.of(id).filter(is_alive);
        Some(Look { is_ending, bytes: bytes as u64, partner })
    }
}
