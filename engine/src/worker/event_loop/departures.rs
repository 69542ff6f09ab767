//! Connections move to other workers: this carries out what [`Sender`](crate::handover::sender::Sender) decides.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::EventLoop;
use super::entry::{Members, Rare, Receiving, Watching};
use super::links::Other;
use crate::connection::Host;
use crate::context;
use crate::handover::Message;
use crate::handover::custody::{Stage, Wake};
use crate::handover::sender::{Command, Heir, Input, Tally, World};
use crate::ipc::channel::tell;
use crate::ipc::meeting::visit;
use crate::ipc::orders::{Moved, Report};
use crate::ipc::transfer::{Member, Offer};
use crate::protocol::Protocol;
use crate::sys::clock::monotonic_ns;
use crate::sys::faults::reach;
use crate::types::{CannotFreeze, ConnectionId};

/// Pause before the next attempt at a full door.
const DOOR_RETRY_MS: u64 = 2;

/// After this time a worker whose door stays full is given up.
const DOOR_MS_MAX: u64 = 3_000;

impl<P: Protocol> EventLoop<P> {
    pub(super) fn tell_sender(&mut self, input: Input) {
        let now_ns = self.context.now_ns;
        let table = &mut Members { slab: &mut self.slab, pairs: &self.context.pairs };
        let commands = &mut self.moving.departures;
        self.moving.sender.step(&mut World { now_ns, table, commands }, input);
        self.carry_out();
    }

    /// If this worker has no descriptors left for all doors, the last ones are missing.
    pub(super) fn hear_heirs(&mut self, names: Vec<String>, doors: Vec<OwnedFd>) {
        let heirs = names.into_iter().zip(doors).map(|(name, door)| self.moving.heir(name, door)).collect();
        self.tell_sender(Input::Heirs(heirs));
    }

    /// Does what can be done for moves in this turn.
    pub(super) fn move_on(&mut self) {
        self.send_on();
        if self.moving.sender.is_idle()
            && self.lifecycle.has_settled()
            && self.listeners.iter().all(Option::is_none)
            && !self.is_connecting()
        {
            let has_visitors = !self.moving.receiver.is_alone();
            self.tell_sender(Input::Quiet { has_visitors });
        }
    }

    /// Carries out due steps of moves to others, whether this worker leaves or serves.
    pub(super) fn send_on(&mut self) {
        for (heir, until_ns) in std::mem::take(&mut self.moving.full) {
            if self.moving.sender.is_visiting(heir) {
                self.visit(heir, until_ns);
            }
        }
        let sender = &self.moving.sender;
        if sender.next_ns().is_some_and(|at_ns| at_ns <= self.context.now_ns) {
            if sender.is_late(self.context.now_ns) {
                tracing::warn!(slot = self.context.slot, "another worker did not take the offered connections in time");
            }
            self.tell_sender(Input::Time);
        }
    }

    fn is_connecting(&mut self) -> bool {
        (0..self.slab.slots()).any(|slot| self.slab.at(slot).is_some_and(|entry| entry.is_connecting()))
    }

    /// Handles a connection for which no operation may be armed.
    #[cold]
    pub(super) fn settle_held(&mut self, slot: u32) {
        let Some(entry) = self.slab.at(slot) else { return };
        if entry.custody.stage() == Stage::Stopping && entry.is_still() {
            let id = entry.connection.id();
            self.tell_sender(Input::Still(id));
        }
    }

    pub(super) fn carry_out_departure(&mut self, command: Command) {
        match command {
            Command::Visit(heir) => self.visit(heir, self.context.now_ns + DOOR_MS_MAX * 1_000_000),
            Command::Close(heir) => {
                self.close_link(Other::Heir(heir));
                drop(self.moving.take_door(heir));
                self.end_departure(heir);
            }
            Command::Stop(id) => {
                self.stop_for_move(id);
                self.settle_held(id.slot);
            }
            Command::Freeze(id) => {
                let Some(entry) = self.slab.get(id) else { return };
                let frozen = entry.connection.freeze(&mut self.protocol, &mut self.context);
                let outcome = match frozen {
                    Ok(mut frozen) => {
                        frozen.standing.passes = entry.custody.passes();
                        frozen.standing.age_ns = self.context.now_ns.saturating_sub(entry.opened_ns);
                        let proxy = self.proxied.get(&id);
                        frozen.proxy = proxy.map_or_else(Vec::new, |header| header.as_bytes().to_vec());
                        entry.rare = Some(Box::new(Rare::Frozen(frozen)));
                        Input::Frozen(id)
                    }
                    Err(CannotFreeze::Later) => Input::NotYet(id),
                    Err(CannotFreeze::Stays) => Input::NotFrozen(id),
                };
                self.tell_sender(outcome);
            }
            Command::Unfreeze(id) => self.go_on(id),
            Command::Resume(id) => {
                self.go_on(id);
                self.settle(id.slot);
            }
            Command::Keep(id) => self.keep(id),
            Command::End(id) => {
                let Some(entry) = self.slab.get(id) else { return };
                entry.connection.stop(&mut self.context);
                self.settle(id.slot);
            }
            Command::Offer { heir, batch, members } => self.offer(heir, batch, members),
            Command::Give { heir, batch } => self.give(heir, batch),
            Command::Release { id, pause_ns } => {
                let Some(entry) = self.slab.get(id) else { return };
                if !entry.connection.is_ended() {
                    entry.connection.leave(&mut self.context);
                }
                self.context.page.pause.record(pause_ns, 1);
                self.settle(id.slot);
            }
            Command::Given(given) => self.report_given(&given),
            Command::Listen(heir) => self.listen(heir),
            Command::GiveState(heir) => self.give_state(heir),
            Command::AllGiven(heir) => self.all_given(heir),
            Command::Over => self.end_moving(),
            Command::Report { is_over } => self.report_moved(is_over),
        }
    }

    fn visit(&mut self, heir: Heir, until_ns: u64) {
        let Some(door) = self.moving.take_door(heir) else { return self.tell_sender(Input::Unreachable(heir)) };
        match visit(door.as_fd()) {
            Ok(channel) => {
                if P::MESSAGES.is_some() {
                    self.moving.keep_door(heir, door);
                }
                self.open_link(Other::Heir(heir), channel);
                self.tell_sender(Input::Visited(heir));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.context.now_ns < until_ns => {
                self.moving.keep_door(heir, door);
                self.moving.full.push((heir, until_ns));
            }
            Err(error) => {
                tracing::warn!(slot = self.context.slot, %error, "cannot reach a serving worker");
                self.tell_sender(Input::Unreachable(heir));
            }
        }
    }

    /// The time of the next attempt at full doors.
    pub(super) fn next_visit_ns(&self) -> Option<u64> {
        (!self.moving.full.is_empty()).then_some(self.context.now_ns + DOOR_RETRY_MS * 1_000_000)
    }

    /// Cancels everything in flight. A send that waits for the peer reports how many bytes it sent.
    fn stop_for_move(&mut self, id: ConnectionId) {
        let Some(entry) = self.slab.get(id) else { return };
        let key = entry.key();
        match (&entry.socket, entry.sending, entry.receiving) {
            (Some(socket), true, _) => {
                if entry.receiving == Receiving::Armed {
                    entry.receiving = Receiving::Cancelling;
                }
                self.ring.cancel_socket(socket);
            }
            (_, _, Receiving::Armed) => {
                entry.receiving = Receiving::Cancelling;
                self.ring.cancel_receive(key);
            }
            _ => {}
        }
        if let Watching::For(_) = entry.watching {
            entry.watching = Watching::Cancelling;
            self.ring.cancel_watch(key);
        }
        if matches!(entry.receiving, Receiving::Starved | Receiving::InLine) {
            entry.receiving = Receiving::No;
        }
        reach("sender:stopping");
    }

    /// Calls the protocol again for a connection that was frozen, here or elsewhere.
    pub(super) fn go_on(&mut self, id: ConnectionId) {
        let Some(entry) = self.slab.get(id) else { return };
        let is_woken = entry.custody.take_wake();
        let Some(standing) = entry.take_standing().filter(|_| !entry.connection.is_ended()) else { return };
        entry.connection.resume(&mut self.context, &standing);
        if is_woken {
            self.context.commands.push(context::Command::Wake(id));
        }
    }

    /// Keeps a connection here until it ends, and tells it that the worker leaves.
    fn keep(&mut self, id: ConnectionId) {
        self.go_on(id);
        let deadline = self.deadline();
        let Some((entry, mut others)) = self.slab.split(id) else { return };
        // A connection that has sent nothing learns this when it has sent something, or when moving is over.
        if !entry.is_fresh && !entry.connection.is_ended() {
            let mut host = Host::new(&mut self.protocol, &mut others);
            entry.connection.drain(&mut host, &mut self.context, deadline);
        }
        self.settle(id.slot);
    }

    fn offer(&mut self, heir: Heir, batch: u64, members: Vec<ConnectionId>) {
        let Some(format) = P::STATE else { return };
        let (mut left_out, mut offered, mut descriptors) = (Vec::new(), Vec::new(), Vec::new());
        for id in members {
            let socket = self.slab.peek(id).and_then(|entry| entry.socket.as_ref());
            match socket.and_then(|socket| socket.as_fd().try_clone_to_owned().ok()) {
                Some(descriptor) => {
                    descriptors.push(descriptor);
                    offered.push(id);
                }
                None => left_out.push(id),
            }
        }
        // Both connections of a pair stay together.
        let pairs = &self.context.pairs;
        let lost: Vec<ConnectionId> = left_out.iter().filter_map(|id| pairs.of(*id)).collect();
        let mut kept = offered.iter().map(|id| !lost.contains(id));
        descriptors.retain(|_| kept.next().unwrap_or(false));
        left_out.extend(offered.extract_if(.., |id| lost.contains(id)));
        let place_of = |id: ConnectionId| offered.iter().position(|one| *one == id);
        let entries = offered.iter().filter_map(|id| Some((*id, self.slab.peek(*id)?)));
        let frozen: Vec<Member<'_>> = entries
            .filter_map(|(id, entry)| {
                let partner = pairs.of(id).and_then(place_of);
                Some(Member { frozen: entry.frozen()?, is_fresh: entry.is_fresh, partner })
            })
            .collect();
        debug_assert_eq!(frozen.len(), offered.len(), "only what is frozen is offered");
        let offer = if offered.is_empty() { None } else { Offer::new(batch, format, &frozen, descriptors).ok() };
        let Some(offer) = offer else {
            left_out.extend(offered);
            return self.tell_sender(Input::Offered { heir, left_out, bytes: 0 });
        };
        let bytes = offer.bytes as u64;
        let sent = self.moving.channel(Other::Heir(heir)).map(|channel| channel.offer(offer));
        self.tell_sender(Input::Offered { heir, left_out, bytes });
        match sent {
            Some(Ok(())) => {
                self.flush_link(Other::Heir(heir));
                reach("sender:offered");
            }
            _ => self.lose_link(Other::Heir(heir)),
        }
    }

    fn give(&mut self, heir: Heir, batch: u64) {
        reach("sender:giving");
        let said = self.moving.channel(Other::Heir(heir)).map(|channel| channel.say(&Message::Gives { batch }));
        if !matches!(said, Some(Ok(()))) {
            return self.lose_link(Other::Heir(heir));
        }
        reach("sender:given");
        self.flush_link(Other::Heir(heir));
    }

    /// Calls the protocol, unless the owner of the connection is not known yet.
    pub(super) fn wake(&mut self, id: ConnectionId) {
        let Some((entry, mut others)) = self.slab.split(id).filter(|(entry, _)| !entry.is_connecting()) else { return };
        if entry.custody.wake() == Wake::Deliver {
            entry.connection.wake(&mut Host::new(&mut self.protocol, &mut others), &mut self.context);
            self.settle(id.slot);
        }
    }

    /// The same for a connection whose peer had taken enough before it arrived.
    pub(super) fn writable(&mut self, id: ConnectionId) {
        if let Some((entry, mut others)) = self.slab.split(id) {
            entry.connection.writable(&mut Host::new(&mut self.protocol, &mut others), &mut self.context);
            self.settle(id.slot);
        }
    }

    /// Reports the progress of the moves to the master.
    fn report_moved(&mut self, is_over: bool) {
        let Tally { moved, refused, bytes, state_bytes } = self.moving.sender.leaving_tally().clone();
        // The turn itself may have taken long, because the worker's own state was handed over in it.
        let took_us = monotonic_ns().saturating_sub(self.moving.sender.began_ns()) / 1000;
        let (mut left, mut ending) = (0, 0);
        for slot in 0..self.slab.slots() {
            let Some(entry) = self.slab.at(slot).filter(|entry| !entry.connection.is_ended()) else { continue };
            *if entry.connection.is_ending() { &mut ending } else { &mut left } += 1;
        }
        let report = Moved { moved, left, ending, refused, bytes, state_bytes, took_us, is_over };
        let _ = tell(&self.control, &Report::Moved(report));
    }
}
