//! Answers the master's questions about connections, a slice in each turn, and ends connections for an operator.

use std::time::Duration;

use socket2::SockRef;

use super::EventLoop;
use super::entry::Entry;
use super::opening::endpoint;
use crate::connection::{Connection, Host};
use crate::handover::custody::Stage as CustodyStage;
use crate::ipc::channel::tell;
use crate::ipc::control::{ConnectionFacts, ConnectionPeer, ConnectionState, PeerHost};
use crate::ipc::orders::{ConnectionEnd, ListPart, Listed, Report};
use crate::protocol::Protocol;
use crate::sys::clock::monotonic_ns;
use crate::types::{CloseReason, ConnectionId, Ends};
use crate::worker::inspection::{Question, Stage};

/// The longest time for which connections are examined in one turn, so that connections that are served hardly wait.
const SLICE_NS: u64 = 250_000;

/// Slots that are examined between two readings of the clock.
const SLOTS_AT_ONCE: u32 = 64;

/// Bytes of connections or peers in one report, so that it fits into a message with everything else.
const PART_BYTES: usize = 12 * 1024;

/// Number of connections that can be ending at the same time because an operator asked for it.
const CLOSINGS_MAX: usize = 64;

/// A connection that an operator wants to end.
pub(super) struct Closing {
    question: u32,
    id: ConnectionId,
    until_ns: u64,
    /// Another worker has it.
    has_moved: bool,
}

impl<P: Protocol> EventLoop<P> {
    /// Examines connections for a while, for the first question that needs it.
    pub(super) fn inspect(&mut self) {
        let Some(mut question) = self.questions.take_next(self.context.now_ns) else { return };
        let until_ns = monotonic_ns().saturating_add(SLICE_NS);
        while question.next_slot < self.slab.slots() {
            let end = question.next_slot.saturating_add(SLOTS_AT_ONCE).min(self.slab.slots());
            (question.next_slot..end).for_each(|slot| self.inspect_slot(&mut question, slot));
            question.next_slot = end;
            if monotonic_ns() >= until_ns {
                return self.questions.put_back(question);
            }
        }
        question.finish_pass(self.context.now_ns);
        match question.stage {
            Stage::Connections { .. } | Stage::Counted { .. } => self.tell_part(question),
            _ => self.questions.put_back(question),
        }
    }

    fn inspect_slot(&mut self, question: &mut Question, slot: u32) {
        let entry = self.slab.at(slot).filter(|entry| !is_of_another(entry));
        match &mut question.stage {
            Stage::Noting(before) => {
                before.push(entry.map(|entry| (entry.connection.id(), entry.events)));
            }
            Stage::Oldest(best) => {
                if let Some(entry) = entry {
                    best.offer(u64::MAX - entry.opened_ns, entry.connection.id());
                }
            }
            Stage::Busiest { before, best, .. } => {
                let Some(entry) = entry else { return };
                let id = entry.connection.id();
                best.offer(before.since(id, entry.events).into(), id);
            }
            Stage::Peers(peers) => {
                let Some(id) = entry.map(|entry| entry.connection.id()) else { return };
                peers.count(PeerHost::from(self.peer_of(id)));
            }
            Stage::Waiting { .. } | Stage::Connections { .. } | Stage::Counted { .. } => {}
        }
    }

    /// Handles the master's request for the next part.
    pub(super) fn list_more(&mut self, question: u32) {
        if let Some(question) = self.questions.take_answered(question) {
            self.tell_part(question);
        }
    }

    /// Sends as much as fits into one report, and keeps the rest until the master asks for it.
    fn tell_part(&mut self, mut question: Question) {
        let mut part = ListPart { question: question.number, total: self.slab.len() as u64, ..ListPart::default() };
        let mut bytes = 0;
        let length = |json: serde_json::Result<Vec<u8>>| json.map_or(PART_BYTES, |json| json.len() + 1);
        match &mut question.stage {
            Stage::Connections { chosen, counted_ns } => {
                while bytes < PART_BYTES
                    && let Some((rank, id)) = chosen.pop_front()
                {
                    let events_per_second = counted_ns.map(|counted_ns| per_second(rank, counted_ns));
                    // The connection may have ended meanwhile.
                    let Some(listed) = self.listed(id, rank, events_per_second) else { continue };
                    bytes += length(serde_json::to_vec(&listed));
                    part.connections.push(listed);
                }
                part.has_more = !chosen.is_empty();
            }
            Stage::Counted { peers, unlisted_max } => {
                part.unlisted_max = *unlisted_max;
                while bytes < PART_BYTES
                    && let Some(counted) = peers.pop_front()
                {
                    bytes += length(serde_json::to_vec(&counted));
                    part.peers.push(counted);
                }
                part.has_more = !peers.is_empty();
            }
            _ => {}
        }
        if part.has_more {
            self.questions.put_back(question);
        }
        if let Err(error) = tell(&self.control, &Report::Connections(part)) {
            tracing::debug!(slot = self.context.slot, %error, "the master was not told which connections there are");
        }
    }

    fn listed(&self, id: ConnectionId, rank: u64, events_per_second: Option<u32>) -> Option<Listed> {
        let entry = self.slab.peek(id).filter(|entry| !is_of_another(entry))?;
        let (now_ns, connection) = (self.context.now_ns, &entry.connection);
        let state = if entry.is_connecting() {
            ConnectionState::Connecting
        } else if entry.custody.is_held() || connection.is_frozen() {
            ConnectionState::Moving
        } else if connection.is_open() {
            ConnectionState::Open
        } else if connection.awaits_header() {
            ConnectionState::Header
        } else if connection.can_move() {
            ConnectionState::Handshake
        } else {
            ConnectionState::Closing
        };
        let local = entry.socket.as_ref().and_then(|socket| endpoint(SockRef::from(socket).local_addr()).ok());
        let facts = ConnectionFacts {
            peer: self.peer_of(id),
            local,
            state,
            is_layered: connection.is_layered(),
            age_ms: now_ns.saturating_sub(entry.opened_ns) / 1_000_000,
            idle_ms: now_ns.saturating_sub(connection.activity_ns()) / 1_000_000,
            held_bytes: entry.held_bytes.into(),
            events_per_second,
        };
        Some(Listed { slot: id.slot, generation: id.generation, rank, facts })
    }

    fn peer_of(&self, id: ConnectionId) -> ConnectionPeer {
        if let Some(address) = self.proxied.get(&id).and_then(|header| header.source()) {
            return ConnectionPeer::Tcp { address };
        }
        let Some(socket) = self.slab.peek(id).and_then(|entry| entry.socket.as_ref()) else {
            return ConnectionPeer::Unknown;
        };
        match socket.peer() {
            Ok(address) => ConnectionPeer::Tcp { address },
            Err(_) => match socket.unix_user() {
                Some(user) => ConnectionPeer::Unix { pid: user.process, user: user.user },
                None => ConnectionPeer::Unknown,
            },
        }
    }

    /// Ends a connection for an operator.
    pub(super) fn end_connection(&mut self, question: u32, id: ConnectionId, at_once: bool, drain_ms: u64) {
        let now_ns = self.context.now_ns;
        let Some((entry, mut others)) = self.slab.split(id) else {
            return self.tell_end(question, ConnectionEnd::Gone);
        };
        if entry.custody.is_held() {
            return self.tell_end(question, ConnectionEnd::Moving);
        }
        if self.closings.len() >= CLOSINGS_MAX {
            return self.tell_end(question, ConnectionEnd::TooMany);
        }
        let until_ns = now_ns.saturating_add(drain_ms.saturating_mul(1_000_000));
        self.closings.push(Closing { question, id, until_ns, has_moved: false });
        if entry.is_connecting() {
            self.cancel_connecting(id.slot);
        } else if at_once {
            entry.connection.end_by_operator(&mut self.context, true);
        } else {
            let mut host = Host::new(&mut self.protocol, &mut others);
            entry.connection.close_by_operator(&mut host, &mut self.context, Duration::from_millis(drain_ms));
        }
        self.settle(id.slot);
    }

    /// Reports to the master which connections are gone, and ends those whose time is over.
    pub(super) fn settle_closings(&mut self) {
        let now_ns = self.context.now_ns;
        let late: Vec<ConnectionId> =
            self.closings.iter().filter(|closing| closing.until_ns <= now_ns).map(|closing| closing.id).collect();
        let mut moving = Vec::new();
        for id in late {
            let Some(entry) = self.slab.get(id) else { continue };
            if entry.custody.is_held() {
                moving.push(id);
            } else if entry.is_connecting() {
                self.cancel_connecting(id.slot);
            } else if !entry.connection.is_ended() {
                entry.connection.end_by_operator(&mut self.context, false);
                self.settle(id.slot);
            }
        }
        let slab = &self.slab;
        let over: Vec<Closing> = self
            .closings
            .extract_if(.., |closing| slab.peek(closing.id).is_none() || moving.contains(&closing.id))
            .collect();
        for closing in over {
            let how = if moving.contains(&closing.id) {
                ConnectionEnd::Moving
            } else if closing.has_moved {
                ConnectionEnd::Moved
            } else {
                ConnectionEnd::Closed
            };
            self.tell_end(closing.question, how);
        }
    }

    /// When the time of the next connection that an operator wants to end is over.
    pub(super) fn next_closing_ns(&self) -> Option<u64> {
        // A connection that has ended only waits for completions.
        let is_ended = |closing: &&Closing| self.slab.peek(closing.id).is_some_and(|one| one.connection.is_ended());
        self.closings.iter().filter(|closing| !is_ended(closing)).map(|closing| closing.until_ns).min()
    }

    fn tell_end(&self, question: u32, how: ConnectionEnd) {
        if let Err(error) = tell(&self.control, &Report::ConnectionEnded { question, how }) {
            tracing::debug!(slot = self.context.slot, %error, "the master was not told of the end of a connection");
        }
    }
}

/// Handles a connection that is about to be closed, perhaps because an operator asked for it.
#[cold]
pub(super) fn closing_ends<S>(closings: &mut [Closing], connection: &mut Connection<S>) {
    let (id, has_moved) = (connection.id(), connection.reason() == CloseReason::HandedOver);
    for closing in closings.iter_mut().filter(|closing| closing.id == id) {
        closing.has_moved = has_moved;
        connection.was_wanted_by_operator();
    }
}

/// Whether another worker has the connection, or still has it.
fn is_of_another<S>(entry: &Entry<S>) -> bool {
    matches!(entry.custody.stage(), CustodyStage::Given | CustodyStage::Brought)
}

fn per_second(events: u64, counted_ns: u64) -> u32 {
    let per_second = u128::from(events) * 1_000_000_000 / u128::from(counted_ns.max(1));
    u32::try_from(per_second).unwrap_or(u32::MAX)
}
