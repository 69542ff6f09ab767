//! Sockets with their clients, and a worker's connections on them. A byte is identified by its position in the stream.
//! The protocol answers each byte with one, so what is read and what is sent can be compared with the state of the
//! socket.

use std::collections::BTreeMap;

use crate::handover::custody::Custody;
use crate::handover::limits::OFFER_BYTES_MAX;
use crate::handover::sender::{Look, Table};
use crate::types::ConnectionId;

/// Bytes that a socket takes while the client does not read.
const SEND_BUFFER: u64 = 8;

/// With more output than this, a connection stops reading.
const HIGH_WATER: u64 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SocketId(pub(super) usize);

/// The behaviour of a client or of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Plain,
    /// The protocol rejects it with a few bytes.
    Rejected,
    /// The protocol panics when it thaws it.
    Poison,
    /// It has more bytes than may move.
    Large,
    /// The protocol keeps it here.
    Sticky,
    /// The protocol lets it move when asked for the third time.
    Busy,
}

/// Why a socket has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// After everything that was read had been answered.
    Orderly,
    /// Together with the worker that had it.
    Killed,
    /// With a worker that stopped at once, or that had handed over the state which the connection needs.
    Stopped,
}

/// What the kernel and the client know.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) kind: Kind,
    /// Bytes sent by the client.
    pub(super) sent: u64,
    pub(super) is_finished: bool,
    /// Bytes read by the worker that serves it.
    pub(super) read: u64,
    pub(super) written: u64,
    /// Bytes received by the client.
    pub(super) received: u64,
    pub(super) end: Option<End>,
    /// Workers that it has killed.
    pub(super) kills: u32,
    /// The socket with which it is paired.
    pub(super) partner: Option<SocketId>,
}

impl Socket {
    pub(super) fn new(kind: Kind) -> Self {
        let (sent, read, written, received) = (0, 0, 0, 0);
        Self { kind, sent, is_finished: false, read, written, received, end: None, kills: 0, partner: None }
    }

    pub(super) fn room(&self) -> u64 {
        SEND_BUFFER - (self.written - self.received)
    }
}

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Snapshot {
    pub(super) read: u64,
    pub(super) sent: u64,
    pub(super) is_fresh: bool,
    pub(super) peer_ended: bool,
    pub(super) passes: u8,
    pub(super) asked: u32,
    pub(super) partner: Option<SocketId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Open,
    Frozen,
    Flushing,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Receiving {
    No,
    Armed,
    Cancelling,
}

/// A worker's connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Connection {
    pub(super) socket: SocketId,
    pub(super) kind: Kind,
    pub(super) custody: Custody,
    pub(super) phase: Phase,
    pub(super) read: u64,
    pub(super) sent: u64,
    /// Output that the protocol sends by itself.
    pub(super) greeting: u64,
    pub(super) receiving: Receiving,
    /// Bytes of a send in flight, and whether it was cancelled.
    pub(super) sending: Option<(u64, bool)>,
    pub(super) is_fresh: bool,
    pub(super) peer_ended: bool,
    pub(super) told: u32,
    /// How often a wake called the protocol.
    pub(super) wakes: u32,
    /// How often the protocol was asked to let it move.
    pub(super) asked: u32,
    pub(super) partner: Option<SocketId>,
}

impl Connection {
    pub(super) fn new(socket: SocketId, kind: Kind) -> Self {
        Self {
            socket,
            kind,
            custody: Custody::default(),
            phase: Phase::Open,
            read: 0,
            sent: 0,
            greeting: 0,
            receiving: Receiving::No,
            sending: None,
            is_fresh: true,
            peer_ended: false,
            told: 0,
            wakes: 0,
            asked: 0,
            partner: None,
        }
    }

    pub(super) fn brought(socket: SocketId, kind: Kind, snapshot: Snapshot, custody: Custody) -> Self {
        let Snapshot { read, sent, is_fresh, peer_ended, passes: _, asked, partner } = snapshot;
        let phase = Phase::Frozen;
        Self { custody, phase, read, sent, is_fresh, peer_ended, asked, partner, ..Self::new(socket, kind) }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let Self { read, sent, is_fresh, peer_ended, asked, partner, .. } = *self;
        Snapshot { read, sent, is_fresh, peer_ended, passes: self.custody.passes(), asked, partner }
    }

    pub(super) fn is_still(&self) -> bool {
        self.receiving == Receiving::No && self.sending.is_none()
    }

    pub(super) fn pending(&self) -> u64 {
        self.read + self.greeting - self.sent
    }

    pub(super) fn wants_input(&self) -> bool {
        self.phase == Phase::Open && !self.peer_ended && self.pending() < HIGH_WATER
    }

    pub(super) fn wants_output(&self) -> bool {
        self.pending() > 0 && self.sending.is_none() && matches!(self.phase, Phase::Open | Phase::Flushing)
    }
}

/// The connections of a worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(pub(super) BTreeMap<ConnectionId, Connection>);

impl Table for Connections {
    fn custody(&mut self, id: ConnectionId) -> Option<&mut Custody> {
        self.0.get_mut(&id).map(|connection| &mut connection.custody)
    }

    fn look(&mut self, id: ConnectionId) -> Option<Look> {
        let connection = self.0.get(&id)?;
        let bytes = if connection.kind == Kind::Large { OFFER_BYTES_MAX as u64 + 1 } else { 100 };
        let is_ending = matches!(connection.phase, Phase::Flushing | Phase::Ended);
        let is_partner = |one: &Connection| {
            Some(one.socket) == connection.partner && matches!(one.phase, Phase::Open | Phase::Frozen)
        };
        let partner = self.0.iter().find(|(_, one)| is_partner(one)).map(|(id, _)| *id);
        Some(Look { is_ending, bytes, partner })
    }
}
