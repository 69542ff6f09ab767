//! A turn of a worker's loop: orders, messages of others, time, and the end; and what its kernel has done.

use super::connections::{Phase, Receiving, SocketId};
use super::links::{Message, Pipe};
use super::steps::Order;
use super::world::World;
use crate::handover::mutation::{Mutation, is_put_back};
use crate::handover::receiver::Visitor;
use crate::handover::sender::Heir;
use crate::handover::{Refusal, receiver, sender};
use crate::types::ConnectionId;
use crate::worker::lifecycle::{Facts, Farewell, Want};

impl Pipe {
    /// Connections that messages in flight give.
    pub(super) fn given(&self) -> impl Iterator<Item = SocketId> {
        self.messages()
            .filter_map(|message| match message {
                Message::Gives { members, .. } => Some(members.clone()),
                _ => None,
            })
            .flatten()
    }
}

impl World {
    pub(super) fn turn(&mut self, worker: usize) {
        let Some(own) = self.workers.get_mut(worker).filter(|one| one.runs()) else { return };
        if own.blocked.is_some() && !self.unblock(worker) {
            return;
        }
        let own = &mut self.workers[worker];
        own.turns_in_a_row = if own.wakes.is_empty() { 0 } else { own.turns_in_a_row + 1 };
        while self.is_free(worker)
            && let Some(order) = self.workers[worker].orders.pop_front()
        {
            self.obey(worker, order);
        }
        let parts = [
            Self::let_visitors_in,
            Self::hear_visitors,
            Self::hear_heirs,
            Self::run_wakes,
            Self::live_on,
            Self::move_on,
            Self::leave_when_done,
        ];
        for part in parts {
            if self.is_free(worker) {
                part(self, worker);
            }
        }
        let own = &self.workers[worker];
        let is_due = own.lifecycle.next_ns().into_iter().chain(own.sender.next_ns()).any(|at_ns| at_ns <= self.now_ns);
        if is_due && self.is_free(worker) && (!own.lifecycle.is_serving() || own.sender.is_giving()) {
            self.violate("nobody spins", format!("worker {worker} does not do what is due"));
        }
    }

    /// It lives, and does not wait for an answer to its state.
    fn is_free(&self, worker: usize) -> bool {
        self.workers[worker].is_alive && self.workers[worker].blocked.is_none()
    }

    fn run_wakes(&mut self, worker: usize) {
        for id in std::mem::take(&mut self.workers[worker].wakes) {
            self.wake(worker, id);
        }
    }

    /// Checks for the answer to the state; returns `false` while it has not come.
    fn unblock(&mut self, worker: usize) -> bool {
        let Some(blocked) = self.workers[worker].blocked else { return true };
        let heir = blocked.heir;
        let link = self.workers[worker].heirs.get(&heir).copied();
        // The answer is read at once, without a poll.
        let heard = link.and_then(|link| {
            let pipe = &mut self.links[link].down;
            while !pipe.flying.is_empty() {
                pipe.deliver();
            }
            pipe.inbox.pop_front()
        });
        let input = match heard {
            Some(Message::StateTaken { refused: None }) => sender::Input::StateTaken(heir, 1),
            Some(Message::StateTaken { refused: Some(refusal) }) => sender::Input::StateRefused(heir, refusal),
            Some(_) => sender::Input::StateRefused(heir, Refusal::Channel),
            None if link.is_none() || blocked.until_ns <= self.now_ns => {
                sender::Input::StateRefused(heir, Refusal::Channel)
            }
            None => return false,
        };
        self.workers[worker].blocked = None;
        self.tell_sender(worker, input);
        self.is_free(worker)
    }

    fn obey(&mut self, worker: usize, order: Order) {
        self.note(|| format!("worker {worker} is told: {order:?}"));
        let now_ns = self.now_ns;
        match order {
            Order::Drain { settle_ms } => {
                self.workers[worker].lifecycle.drain(now_ns, settle_ms, Self::drain_ms(), None);
            }
            Order::Heirs => {
                let serves = |index: &usize| {
                    let other = &self.workers[*index];
                    *index != worker && other.is_alive && !other.lifecycle.is_leaving()
                };
                let heirs = (0..self.workers.len()).filter(serves).map(|index| Heir(index as u32)).collect();
                let own = &mut self.workers[worker];
                own.owes_report |= !own.sender.is_on();
                self.tell_sender(worker, sender::Input::Heirs(heirs));
            }
            Order::Serve => self.workers[worker].lifecycle.end_awaiting(),
            Order::Stop => self.stop(worker),
            Order::Give { to, count } => {
                let own = &mut self.workers[worker];
                let candidates = own.connections.0.iter().filter(|(_, one)| one.phase == Phase::Open);
                // Whole pairs, except those that are made later.
                let mut chosen = Vec::new();
                for (id, one) in candidates {
                    let is_with = |other: &&ConnectionId| {
                        one.partner.is_some() && Some(own.connections.0[other].socket) == one.partner
                    };
                    if chosen.len() < count || chosen.iter().any(|other| is_with(&other)) {
                        chosen.push(*id);
                    }
                }
                own.owes_given += 1;
                self.tell_sender(worker, sender::Input::Give { heir: Heir(to as u32), connections: chosen });
            }
            Order::EndGiving => self.tell_sender(worker, sender::Input::EndGiving),
        }
    }

    fn stop(&mut self, worker: usize) {
        self.workers[worker].lifecycle.stop();
        self.tell_receiver(worker, receiver::Input::Stop);
        self.tell_sender(worker, sender::Input::Stop);
        self.stop_connections(worker);
    }

    fn stop_connections(&mut self, worker: usize) {
        let all: Vec<ConnectionId> = self.workers[worker].connections.0.keys().copied().collect();
        all.into_iter().for_each(|id| self.stop_connection(worker, id));
    }

    fn let_visitors_in(&mut self, worker: usize) {
        for link in 0..self.links.len() {
            if self.links[link].to == worker && !self.links[link].is_accepted {
                self.links[link].is_accepted = true;
                let visitor = Visitor(link as u32);
                self.workers[worker].visitors.insert(visitor, link);
                self.tell_receiver(worker, receiver::Input::Came(visitor));
            }
        }
    }

    fn hear_visitors(&mut self, worker: usize) {
        for (visitor, link) in self.workers[worker].visitors.clone() {
            self.links[link].down.flush();
            while self.workers[worker].is_alive
                && self.workers[worker].visitors.contains_key(&visitor)
                && let Some(message) = self.links[link].up.inbox.front().cloned()
            {
                if self.is_too_large(&message) {
                    self.violate("no offer has more bytes than may be", format!("worker {worker} ends its channel"));
                }
                let input = match message {
                    Message::Offer { batch, members } => {
                        let own = &self.workers[worker];
                        let passes_on = own.sender.is_on() || own.sender.has_heirs();
                        let refusal = (!own.lifecycle.takes(passes_on)).then_some(Refusal::Leaving);
                        if refusal.is_some() {
                            self.links[link].up.inbox.pop_front();
                        }
                        receiver::Input::Offer { visitor, batch, count: members.len(), bytes: 0, refusal }
                    }
                    Message::Gives { batch, .. } => {
                        self.links[link].up.inbox.pop_front();
                        receiver::Input::Gives { visitor, batch }
                    }
                    Message::State => {
                        self.links[link].up.inbox.pop_front();
                        self.take_state(worker, link);
                        continue;
                    }
                    Message::Takes { .. } | Message::StateTaken { .. } | Message::End => {
                        receiver::Input::Ended(visitor)
                    }
                };
                self.tell_receiver(worker, input);
            }
        }
    }

    fn take_state(&mut self, worker: usize, link: usize) {
        let lifecycle = &mut self.workers[worker].lifecycle;
        let refused = (lifecycle.is_leaving() && !lifecycle.awaits_state()).then_some(Refusal::Leaving);
        // A visitor that is gone cannot be answered, and its state is dropped.
        let is_answered = !self.links[link].up.is_ended;
        if is_answered {
            self.links[link].down.outgoing.push_back(Message::StateTaken { refused });
            self.links[link].down.flush();
            if refused.is_none() {
                lifecycle.end_awaiting();
            }
        }
    }

    fn hear_heirs(&mut self, worker: usize) {
        for (heir, link) in self.workers[worker].heirs.clone() {
            if self.workers[worker].heirs.get(&heir) == Some(&link) {
                self.flush_up(worker, heir, link);
            }
            while self.workers[worker].blocked.is_none()
                && self.workers[worker].heirs.get(&heir) == Some(&link)
                && let Some(message) = self.links[link].down.inbox.pop_front()
            {
                let input = match message {
                    Message::Takes { batch, refused, open } => sender::Input::Takes { heir, batch, refused, open },
                    _ => sender::Input::Ended(heir),
                };
                self.tell_sender(worker, input);
            }
        }
    }

    fn live_on(&mut self, worker: usize) {
        let now_ns = self.now_ns;
        for want in self.workers[worker].lifecycle.turn(now_ns) {
            match want {
                Want::Tell => {
                    let own = &mut self.workers[worker];
                    let moves = own.sender.has_heirs();
                    own.was_moving = moves;
                    own.lifecycle.told(now_ns, if moves { Farewell::Move } else { Farewell::Goodbye });
                    let free = own.connections.0.iter().filter(|(_, one)| !one.custody.is_held());
                    let all = if moves { free.map(|(id, _)| *id).collect() } else { Vec::new() };
                    self.tell_sender(worker, sender::Input::Leave(all));
                    if !moves {
                        self.say_goodbyes(worker, |is_fresh| !is_fresh);
                    }
                }
                Want::TellSilent { .. } => self.say_goodbyes(worker, |is_fresh| is_fresh),
                Want::BeginAnew => {}
                Want::Stop => self.stop(worker),
            }
        }
        if self.workers[worker].lifecycle.is_stopping() {
            self.stop_connections(worker);
        }
    }

    fn move_on(&mut self, worker: usize) {
        let own = &self.workers[worker];
        if own.lifecycle.is_serving() && !own.sender.is_giving() {
            return;
        }
        if own.sender.next_ns().is_some_and(|at_ns| at_ns <= self.now_ns) {
            self.tell_sender(worker, sender::Input::Time);
        }
        let own = &self.workers[worker];
        if own.sender.is_idle() && own.lifecycle.has_settled() && !own.has_listener {
            let has_visitors = !own.receiver.is_alone();
            self.tell_sender(worker, sender::Input::Quiet { has_visitors });
        }
    }

    fn leave_when_done(&mut self, worker: usize) {
        let own = &mut self.workers[worker];
        own.has_listener &= !own.lifecycle.has_settled();
        let facts = Facts {
            connections: own.connections.0.len(),
            listeners: usize::from(own.has_listener),
            is_accepting: false,
            is_moving: own.sender.is_on() || !own.receiver.is_alone(),
        };
        if !own.lifecycle.is_leaving() || !own.lifecycle.is_done(facts) {
            return;
        }
        if own.sender.is_on() {
            self.violate("a worker does not leave before its state is brought", format!("worker {worker}"));
        }
        if self.workers[worker].owes_report && !self.workers[worker].lifecycle.is_stopping() {
            self.violate("the end of moving is reported once for each order", format!("worker {worker} left without"));
        }
        if self.workers[worker].owes_given > 0 && !self.workers[worker].lifecycle.is_stopping() {
            self.violate("the end of giving is reported once for each order", format!("worker {worker} left without"));
        }
        self.workers[worker].has_left = true;
        self.kill(worker, false);
    }

    /// Completes an operation in flight.
    pub(super) fn complete_one(&mut self, worker: usize, pick: usize, first: bool) {
        let Some(own) = self.workers.get(worker).filter(|one| one.runs() && one.blocked.is_none()) else { return };
        let ready: Vec<ConnectionId> =
            own.connections.0.iter().filter(|(_, one)| self.has_completion(one)).map(|(id, _)| *id).collect();
        let Some(id) = ready.get(pick % ready.len().max(1)).copied() else { return };
        let sends = self.connection(worker, id).is_some_and(|one| one.sending.is_some());
        let can_receive = self.connection(worker, id).is_some_and(|one| one.receiving != Receiving::No);
        let prefers_send = sends && (pick.is_multiple_of(2) || !can_receive);
        if !(prefers_send && self.complete_send(worker, id)) {
            self.complete_receive(worker, id, first);
        }
        self.settle(worker, id);
    }

    fn complete_send(&mut self, worker: usize, id: ConnectionId) -> bool {
        let Some(connection) = self.workers[worker].connections.0.get_mut(&id) else { return false };
        let Some((length, is_cancelled)) = connection.sending else { return false };
        let socket = &mut self.sockets[connection.socket.0];
        let count = length.min(socket.room());
        if count == 0 && !is_cancelled {
            return false;
        }
        connection.sending = None;
        if connection.phase == Phase::Ended {
            return true;
        }
        let (at, expected, number) = (connection.sent, socket.written, connection.socket.0);
        connection.sent += count;
        socket.written += count;
        if at != expected {
            let detail = format!("worker {worker} sends byte {at} to client {number}, which expects {expected}");
            self.violate("each byte arrives once, in order", detail);
        }
        true
    }

    fn complete_receive(&mut self, worker: usize, id: ConnectionId, first: bool) {
        let now_told = self.workers[worker].lifecycle.was_told();
        let draining = self.workers[worker].lifecycle.is_draining();
        let Some(connection) = self.workers[worker].connections.0.get_mut(&id) else { return };
        let socket = &mut self.sockets[connection.socket.0];
        let available = (socket.sent - socket.read).min(5);
        match connection.receiving {
            Receiving::No => return,
            Receiving::Cancelling if available == 0 || !first || connection.phase != Phase::Open => {
                connection.receiving = Receiving::No;
                return;
            }
            Receiving::Armed | Receiving::Cancelling => {}
        }
        if available == 0 {
            if socket.is_finished && !connection.peer_ended {
                connection.peer_ended = true;
                connection.receiving = Receiving::No;
                self.check_state(worker, id);
                if let Some(connection) = self.connection(worker, id).filter(|one| one.phase == Phase::Open) {
                    connection.phase = Phase::Flushing;
                }
            }
            return;
        }
        let (at, expected, number) = (connection.read, socket.read, connection.socket.0);
        connection.read += available;
        socket.read += available;
        let was_fresh = std::mem::take(&mut connection.is_fresh);
        let is_told_now = was_fresh && now_told && (draining || connection.custody.stays());
        if at != expected {
            let detail = format!("worker {worker} reads byte {at} of client {number}, which is at {expected}");
            self.violate("each byte arrives once, in order", detail);
        }
        if !is_put_back(Mutation::FrozenBeforeStill) {
            self.check_state(worker, id);
        }
        if is_told_now {
            self.drain_connection(worker, id);
        }
    }
}
