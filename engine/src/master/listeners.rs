//! Listen sockets that the master keeps in the tier adopt, and connections that come to the master because no worker is
//! there to accept them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use socket2::Socket;

use super::Master;
use super::generation::{Generation, Phase, Share, Slot, State};
use crate::error::ServerError;
use crate::handover::Tier;
use crate::ipc::channel::{self};
use crate::ipc::orders::Order;
use crate::sys::listener;
use crate::worker::Inherited;

/// Connections the master may hold for want of a worker that takes them.
const HELD_MAX: usize = 256;

/// A listen socket of the tier adopt: the master's copy.
pub(super) struct Kept {
    pub(super) id: u32,
    pub(super) address: SocketAddr,
    pub(super) socket: Socket,
}

impl Kept {
    /// One that was just made listens only when its first worker has come up.
    pub(super) fn is_listening(&self) -> bool {
        self.socket.is_listener().unwrap_or(false)
    }
}

impl Master<'_> {
    pub(super) fn keep(&mut self, address: SocketAddr, socket: Socket) -> u32 {
        let id = self.next_kept;
        self.next_kept += 1;
        self.kept.push(Kept { id, address, socket });
        id
    }

    /// The same for a copy of a socket that may be kept already.
    pub(super) fn keep_once(&mut self, address: SocketAddr, socket: Socket) {
        let cookie = socket.cookie().ok();
        if !self.kept.iter().any(|kept| cookie.is_some() && kept.socket.cookie().ok() == cookie) {
            self.keep(address, socket);
        }
    }

    /// Sees to it that there is a socket per slot and address, and shares all there are among a new generation's slots;
    /// `bound` has one of each, for the first use of an address.
    pub(super) fn keep_sockets(
        &mut self,
        generation: usize,
        bound: Vec<(Socket, SocketAddr)>,
    ) -> Result<(), ServerError> {
        let workers = self.generations[generation].slots.len();
        for (socket, address) in bound {
            let mut spare = Some(socket);
            while self.kept.iter().filter(|kept| kept.address == address).count() < workers {
                let socket = match spare.take() {
                    Some(socket) => socket,
                    None => listener::bind(address)?.0,
                };
                self.keep(address, socket);
            }
            let of_address = self.kept.iter().filter(|kept| kept.address == address);
            let shares = of_address.zip((0..workers).cycle()).map(|(kept, slot)| Share { kept: kept.id, slot });
            self.generations[generation].shares.extend(shares);
        }
        Ok(())
    }

    /// Copies of the sockets that a slot accepts from.
    pub(super) fn copies(&self, generation: usize, slot: usize) -> io::Result<Vec<Inherited>> {
        let shares = self.generations[generation].shares.iter().filter(|share| share.slot == slot);
        let kept = shares.filter_map(|share| self.kept.iter().find(|kept| kept.id == share.kept));
        kept.map(|Kept { id, address, socket }| {
            Ok(Inherited { id: *id, socket: socket.try_clone()?, address: *address })
        })
        .collect()
    }

    /// Lets a worker that runs accept from a kept socket too.
    pub(super) fn share(&mut self, generation: usize, kept: u32, slot: usize) {
        let Some(one) = self.kept.iter().find(|one| one.id == kept) else { return };
        let order = Order::Adopt { listener: kept, address: one.address };
        let of = &mut self.generations[generation];
        let is_its_own = match of.slot(slot).map(|slot| &slot.state) {
            Some(State::Ready(child)) => child
                .control
                .as_ref()
                .is_some_and(|control| channel::tell_with(control, &order, one.socket.as_fd()).is_ok()),
            // It inherits it when it is started again.
            Some(State::Waiting(_) | State::Hung(_)) => true,
            Some(State::Starting(_) | State::Gone) | None => false,
        };
        // What has no share is the master's to accept from, until [`Master::share_rest`] finds somebody.
        if is_its_own {
            of.shares.push(Share { kept, slot });
        }
    }

    /// Shares the sockets that nobody has a share in.
    pub(super) fn share_rest(&mut self) {
        let Some(index) = self.serving() else { return };
        let generation = &self.generations[index];
        let addresses: Vec<SocketAddr> = generation.addresses.iter().map(|(_, bound)| *bound).collect();
        let shares = &generation.shares;
        let is_shared = |id| shares.iter().any(|share| share.kept == id);
        let rest = self.kept.iter().filter(|kept| addresses.contains(&kept.address) && !is_shared(kept.id));
        let rest: Vec<u32> = rest.map(|kept| kept.id).collect();
        let workers = generation.slots.len();
        for (kept, slot) in rest.into_iter().zip((0..workers).rev().cycle()) {
            self.share(index, kept, slot);
        }
    }

    /// Where there is a worker that takes connections from the master: generation and place; one of the serving
    /// generation where there is any.
    pub(super) fn taker(&self) -> Option<(usize, usize)> {
        let places = |generation: &Generation<'_>| {
            let slots = generation.slots.iter().enumerate();
            slots.filter(|(_, slot)| slot.serving().is_some()).map(|(place, _)| place).collect::<Vec<_>>()
        };
        let of = self.generations.iter().enumerate().rev();
        let of = of.filter(|(_, generation)| generation.phase != Phase::Starting && !places(generation).is_empty());
        let (index, of) = of.max_by_key(|(_, generation)| generation.phase == Phase::Serving)?;
        let places = places(of);
        Some((index, places[self.turn % places.len()]))
    }

    /// Listen sockets whose workers are not there: the master takes their connections for them.
    pub(super) fn unattended(&self) -> impl Iterator<Item = &Kept> {
        let serving = self.serving().map(|index| &self.generations[index]);
        let is_attended = move |kept: &Kept| {
            serving.is_none_or(|of| {
                let mut slots = of.shares.iter().filter(|share| share.kept == kept.id);
                slots.any(|share| of.slot(share.slot).is_some_and(Slot::is_ready))
            })
        };
        self.kept.iter().filter(move |kept| !is_attended(kept) && kept.is_listening())
    }

    /// Hands connections that came to the guards, or to sockets whose worker is not there, to workers.
    pub(super) fn hand_out(&mut self) {
        while let Some(connection) = self.held.pop_front() {
            if !self.hand(connection) {
                return;
            }
        }
        if self.taker().is_none() {
            return;
        }
        for index in 0..self.guards.len() {
            while self.held.is_empty() {
                let Some(connection) = self.guards[index].accept() else { break };
                self.hand(connection);
            }
        }
        let unattended: Vec<Socket> = self.unattended().filter_map(|kept| kept.socket.try_clone().ok()).collect();
        unattended.iter().for_each(|socket| self.empty(socket));
    }

    /// Hands out what waits at a socket of absent workers.
    pub(super) fn empty(&mut self, socket: &Socket) {
        let mut waiting = listener::waiting_at_shared(socket);
        while self.held.len() < HELD_MAX {
            let Some(connection) = waiting.next() else { return };
            self.hand(connection.into());
        }
    }

    /// `false`: nobody took it, and it is held.
    fn hand(&mut self, connection: OwnedFd) -> bool {
        self.turn = self.turn.wrapping_add(1);
        let taker = self.taker();
        let taker = taker.and_then(|(index, place)| self.generations[index].slots[place].serving_child());
        let told = taker.and_then(|child| {
            let control = child.control.as_ref()?;
            channel::tell_with(control, &Order::Take, connection.as_fd()).ok()?;
            Some(&mut child.handed)
        });
        match told {
            // A copy until the worker has it: what is in the channel of one that dies is lost.
            Some(handed) => handed.push_back(connection),
            None => {
                self.held.push_front(connection);
                return false;
            }
        }
        true
    }

    /// Whether the tier passes listen sockets on.
    pub(super) fn adopts(&self) -> bool {
        self.tier == Tier::Adopt
    }
}
