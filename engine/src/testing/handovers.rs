//! Connections of the harness move from one worker to the next.

use super::simulated::{Simulant, Simulated, freeze, living, thaw};
use super::{Client, Harness};
use crate::connection::{Connection, Host, Rest};
use crate::handover::Frozen;
use crate::protocol::Protocol;
use crate::types::{CannotFreeze, ConnectionId, StateFormat, ThawError};

impl<P: Protocol> Harness<P> {
    /// Another worker takes over every connection. Each is frozen, closed with
    /// [`CloseReason::HandedOver`](crate::CloseReason::HandedOver), and thawed by `successor`, whatever it is doing at
    /// that moment. The state that the harness shows does not change. Connections that are about to end do so. A
    /// connection that cannot be frozen stays with the leaving worker, which says goodbye to it
    /// ([`Protocol::on_drain`]), or it moves as soon as the protocol lets it: see [`Harness::is_served`]. Connections
    /// that are [paired](crate::Io::pair_with) move together or stay together.
    ///
    /// # Panics
    /// If [`Protocol::STATE`] is `None`, a connection cannot be thawed, or [`Protocol::on_start`] fails.
    pub fn hand_over(&mut self, successor: P) {
        assert!(P::STATE.is_some(), "a protocol whose connections can be handed over");
        let mut successor = Simulant::start(successor, &mut self.context);
        let leaving = self.serving();
        let carried = living(&mut self.workers, leaving).bring_state(&mut successor, &mut self.context);
        carried.expect("what a protocol has frozen it can thaw");
        self.workers.push(Some(successor));
        for index in 0..self.clients.len() {
            self.clients[index].moves_later |= self.clients[index].worker() == Some(leaving);
        }
        self.move_on();
        self.run();
        self.forget_left();
    }

    /// Forgets workers without connections: they have left.
    fn forget_left(&mut self) {
        let serving = self.serving();
        for worker in 0..serving {
            let has_clients = self.clients.iter().any(|client| client.worker() == Some(worker));
            let is_connecting = self.connects.iter().any(|(one, ..)| *one == worker);
            if !has_clients && !is_connecting {
                self.workers[worker] = None;
            }
        }
    }

    /// Moves waiting connections to the serving worker; returns whether anything has happened.
    pub(super) fn move_on(&mut self) -> bool {
        let mut has_moved = false;
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            if std::mem::take(&mut client.moves_later) && client.connection.as_ref().is_some_and(Connection::can_move) {
                has_moved |= self.move_with_partner(index);
            }
        }
        has_moved
    }

    /// Moves the client's connection, and its partner if it is paired. Returns whether anything has happened.
    fn move_with_partner(&mut self, index: usize) -> bool {
        let partner = self.id(Client(index)).and_then(|id| self.context.pairs.of(id)).map(|id| id.slot as usize);
        let partner =
            partner.filter(|partner| self.clients[*partner].connection.as_ref().is_some_and(Connection::can_move));
        let members: Vec<usize> = std::iter::once(index).chain(partner).collect();
        members.iter().for_each(|member| self.clients[*member].moves_later = false);
        let mut frozen = Vec::new();
        for member in &members {
            match self.freeze(*member) {
                Ok(one) => frozen.push((*member, one)),
                Err(why) => {
                    for (member, one) in frozen {
                        self.on(member, |connection, _, _, context| connection.resume(context, &one.standing));
                    }
                    return self.stay(&members, why);
                }
            }
        }
        let generation = self.serving() as u32;
        let mut standings = Vec::new();
        for (member, frozen) in frozen {
            let leaving = self.clients[member].worker().expect("it was frozen");
            let mut connection = self.clients[member].connection.take().expect("it was frozen");
            connection.leave(&mut self.context);
            let ending = connection.close(&mut self.context);
            self.tell_closed(leaving, ending);
            let id = ConnectionId { slot: member as u32, generation };
            let version = P::STATE.expect("a protocol whose connections can be handed over").version;
            let protocol = &mut living(&mut self.workers, generation as usize).protocol;
            let thawed = thaw((protocol, &mut self.clients), id, &mut self.context, version, frozen);
            standings.push((member, id, thawed.expect("what a protocol has frozen it can thaw")));
        }
        if let [(_, one, _), (_, other, _)] = standings[..] {
            self.context.pairs.join(one, other);
        }
        for (member, _, standing) in standings {
            self.on(member, |connection, _, _, context| connection.resume(context, &standing));
        }
        true
    }

    fn freeze(&mut self, index: usize) -> Result<Frozen, CannotFreeze> {
        let (client, mut others) = Rest::split(&mut self.clients, index as u32).ok_or(CannotFreeze::Stays)?;
        let worker = client.worker().ok_or(CannotFreeze::Stays)?;
        let mut host = Host::new(&mut living(&mut self.workers, worker).protocol, &mut others);
        freeze(client, &mut host, &mut self.context)
    }

    /// These cannot move now, or not at all. Returns whether anything has happened.
    fn stay(&mut self, members: &[usize], why: CannotFreeze) -> bool {
        let deadline_ns = self.context.now_ns + self.context.timeouts.drain_ms_max * 1_000_000;
        for member in members {
            match why {
                CannotFreeze::Later => self.clients[*member].moves_later = true,
                CannotFreeze::Stays => self.say_goodbye(*member, deadline_ns),
            }
        }
        why == CannotFreeze::Stays
    }

    /// The same, to another version of the protocol. Connections that are about to end do not exist any more.
    ///
    /// # Errors
    /// The successor's, if it does not understand the state of a connection.
    ///
    /// # Panics
    /// If [`Protocol::STATE`] is `None` or names another protocol, or a connection cannot be frozen, or
    /// [`Protocol::on_start`] fails.
    pub fn hand_over_to<Q: Protocol>(mut self, successor: Q) -> Result<Harness<Q>, ThawError> {
        let format = P::STATE.expect("a protocol that can be handed over");
        let name = |format: Option<StateFormat>| format.expect("a protocol that can be handed over").name;
        assert_eq!(format.name, name(Q::STATE), "the successor runs another protocol");
        let mut successor = Simulant::start(successor, &mut self.context);
        let leaving = self.serving();
        living(&mut self.workers, leaving).bring_state(&mut successor, &mut self.context)?;
        let mut clients = Vec::new();
        for index in 0..self.clients.len() {
            let (client, mut others) = Rest::split(&mut self.clients, index as u32).expect("a client");
            let mut moved = Simulated::new(None, std::mem::take(&mut client.wire));
            moved.reason = client.reason;
            clients.push(moved);
            let Some(connection) = &client.connection else { continue };
            if !connection.can_move() {
                clients[index].reason = Some(connection.reason());
                continue;
            }
            let mut host = Host::new(&mut living(&mut self.workers, leaving).protocol, &mut others);
            let frozen = freeze(client, &mut host, &mut self.context).expect("a connection that freezes");
            let mut connection = client.connection.take().expect("open");
            connection.leave(&mut self.context);
            let ending = connection.close(&mut self.context);
            self.tell_closed(leaving, ending);
            let id = ConnectionId { slot: index as u32, generation: 0 };
            let standing =
                thaw((&mut successor.protocol, &mut clients), id, &mut self.context, format.version, frozen)?;
            let thawed = clients[index].connection.as_mut().expect("thawed");
            thawed.resume(&mut self.context, &standing);
        }
        let connects = self.connects.into_iter().map(|(_, target, token)| (0, target, token)).collect();
        let (context, has_drained) = (self.context, self.has_drained);
        let workers = vec![Some(successor)];
        let mut harness = Harness { workers, context, clients, connects, coming: Vec::new(), has_drained };
        harness.run();
        Ok(harness)
    }
}
