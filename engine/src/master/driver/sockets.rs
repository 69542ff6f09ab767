//! Listen sockets that this master holds, claims of ports, steering, guards, and connections that arrived at the
//! master. The core refers to each by a number that is never used again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::Socket;

use super::system;
use super::workers::cores;
use crate::config;
use crate::endpoint::{Endpoint, SocketFile};
use crate::ipc::control::Failure;
use crate::master::core::{ArrivalId, Claim, SocketId, SteeringId};
use crate::steering::{self, Balance, Guard, Loads, Others, Steering};
use crate::sys::acceptor::Acceptor;
use crate::sys::listener::{self, ListenError, Reservation};
use crate::sys::socket_file::{self, Paths};
use crate::worker::Inherited;

/// The programs and maps of one generation.
struct Steered {
    addresses: Vec<SocketAddr>,
    by_address: Vec<Steering>,
    places: u32,
    balance: Balance,
}

/// The listeners of the old master on one address, while both masters serve.
pub(super) struct OldMap {
    pub(super) address: SocketAddr,
    pub(super) places: u32,
    pub(super) map: OwnedFd,
}

/// The listeners of the old master, while both masters serve, and the loads of their workers.
#[derive(Default)]
pub(super) struct OldMaps {
    pub(super) maps: Vec<OldMap>,
    pub(super) loads: Loads,
}

/// The sockets of this master.
#[derive(Default)]
pub(super) struct Sockets {
    kept: BTreeMap<SocketId, Socket>,
    next_socket: u32,
    /// By port, whatever the rest of the address is, and by path.
    claims: BTreeMap<Endpoint, Reservation>,
    paths: Paths,
    steered: BTreeMap<SteeringId, Steered>,
    next_steering: u32,
    guards: Vec<Guard>,
    arrivals: BTreeMap<ArrivalId, OwnedFd>,
    next_arrival: u32,
}

pub(super) fn listen_failure(error: &ListenError) -> Failure {
    Failure::listen(*error.address, error.problem())
}

impl Sockets {
    pub(super) fn claim(&mut self, address: Endpoint, file: SocketFile) -> Result<Claim, Failure> {
        let fail = |error: ListenError| listen_failure(&error);
        // This process may have the port's name already, because of another address.
        let name = match address {
            Endpoint::Internet(address) => (Ipv4Addr::UNSPECIFIED, address.port()).into(),
            Endpoint::Unix(_) => address,
        };
        if let Entry::Vacant(vacant) = self.claims.entry(name) {
            let reserved = match address {
                Endpoint::Internet(address) => listener::reserve(address),
                Endpoint::Unix(path) => socket_file::reserve(path),
            };
            let Some(reservation) = reserved.map_err(fail)? else { return Ok(Claim::Busy) };
            vacant.insert(reservation);
        }
        match address {
            Endpoint::Internet(address) => listener::check_free(address),
            Endpoint::Unix(path) => socket_file::check_free(path, file),
        }
        .map_err(fail)?;
        Ok(Claim::Held)
    }

    pub(super) fn release_claims(&mut self) {
        self.claims.clear();
    }

    pub(super) fn bind(&mut self, address: Endpoint, file: SocketFile) -> Result<(SocketId, Endpoint), Failure> {
        let (socket, bound) = socket_file::bind_any(address, file).map_err(|error| listen_failure(&error))?;
        self.paths.add(bound);
        Ok((self.keep(socket), bound))
    }

    /// Remembers the path of a Unix socket that came from another process. The last process that has the socket removes
    /// the path.
    pub(super) fn keep_path(&mut self, address: Endpoint) {
        self.paths.add(address);
    }

    /// Closes this master's sockets, and removes their paths unless another master continues with them.
    pub(super) fn finish(&mut self, is_succeeded: bool) {
        self.kept.clear();
        if is_succeeded { self.paths.remove_unused() } else { self.paths.remove_all() }
    }

    fn keep(&mut self, socket: Socket) -> SocketId {
        let id = SocketId(self.next_socket);
        self.next_socket += 1;
        self.kept.insert(id, socket);
        id
    }

    /// Keeps a copy that another process has sent. Closes the copy if the socket is kept already.
    pub(super) fn keep_once(&mut self, socket: Socket) -> SocketId {
        let cookie = socket.cookie().ok();
        let known = self.kept.iter().find(|(_, kept)| cookie.is_some() && kept.cookie().ok() == cookie);
        match known.map(|(id, _)| *id) {
            Some(id) => id,
            None => self.keep(socket),
        }
    }

    pub(super) fn close(&mut self, socket: SocketId) {
        self.kept.remove(&socket).into_iter().for_each(close_at_once);
        self.paths.remove_unused();
    }

    pub(super) fn descriptor(&self, socket: SocketId) -> Option<BorrowedFd<'_>> {
        self.kept.get(&socket).map(AsFd::as_fd)
    }

    /// Whether a socket listens. A newly created one only does so when its first worker has come up.
    pub(super) fn is_listening(&self, socket: SocketId) -> bool {
        self.kept.get(&socket).is_some_and(|socket| socket.is_listener().unwrap_or(false))
    }

    /// Gives sockets away: this master keeps no copy.
    pub(super) fn take(&mut self, sockets: &[(SocketId, Endpoint)]) -> Vec<Inherited> {
        let taken = sockets.iter().filter_map(|(id, address)| {
            let socket = self.kept.remove(id)?;
            Some(Inherited { id: id.0, socket, address: *address })
        });
        taken.collect()
    }

    pub(super) fn copies(&self, sockets: &[(SocketId, Endpoint)]) -> Result<Vec<Inherited>, Failure> {
        let kept = sockets.iter().filter_map(|(id, address)| Some((id, address, self.kept.get(id)?)));
        let copies = kept
            .map(|(id, address, socket)| Ok(Inherited { id: id.0, socket: socket.try_clone()?, address: *address }));
        copies.collect::<io::Result<_>>().map_err(system("copying a listen socket"))
    }

    pub(super) fn load(
        &mut self,
        addresses: &[Endpoint],
        places: usize,
        steering: config::Steering,
    ) -> Result<SteeringId, Failure> {
        let places = places as u32;
        let addresses: Vec<SocketAddr> = addresses.iter().filter_map(Endpoint::internet).collect();
        let cores: Vec<usize> = cores().iter().map(|core| core.id).collect();
        let balance = Balance::new(steering, places, &cores).map_err(system("making maps of loads"))?;
        let by_address = addresses.iter().map(|_| Steering::load(places, &balance)).collect::<io::Result<_>>();
        let by_address = by_address.map_err(system("loading the steering program"))?;
        let id = SteeringId(self.next_steering);
        self.next_steering += 1;
        self.steered.insert(id, Steered { addresses, by_address, places, balance });
        Ok(id)
    }

    pub(super) fn resize(&mut self, steering: SteeringId, places: usize) -> Result<(), Failure> {
        let Some(steered) = self.steered.get_mut(&steering) else { return Ok(()) };
        let places = places as u32;
        steered.balance.grow(places).map_err(system("making maps of loads"))?;
        let balance = &steered.balance;
        let resized = steered.by_address.iter().map(|one| one.resized(places, balance)).collect::<io::Result<_>>();
        steered.by_address = resized.map_err(system("loading the steering program"))?;
        steered.places = places;
        Ok(())
    }

    pub(super) fn drop_steering(&mut self, steering: SteeringId) {
        self.steered.remove(&steering);
    }

    /// What a worker gets: steering by address, and the page for its load.
    pub(super) fn steering(&mut self, steering: SteeringId, slot: usize) -> Result<(Vec<Steering>, Loads), Failure> {
        let Some(steered) = self.steered.get_mut(&steering) else { return Ok(Default::default()) };
        steered.balance.grow(slot as u32 + 1).map_err(system("making maps of loads"))?;
        Ok((steered.by_address.clone(), steered.balance.loads().clone()))
    }

    /// Where a generation's workers report their loads.
    pub(super) fn loads(&self, steering: SteeringId) -> Option<&Loads> {
        self.steered.get(&steering).map(|steered| steered.balance.loads())
    }

    /// The maps of a generation, by address.
    pub(super) fn maps(&self, steering: SteeringId) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        let steered = self.steered.get(&steering).into_iter();
        steered.flat_map(|one| one.addresses.iter().copied().zip(one.by_address.iter().map(Steering::map)))
    }

    /// Switches the groups to a generation, beside the old master's listeners if `old` has any. Opens a guard for each
    /// address without one.
    pub(super) fn steer(&mut self, steering: SteeringId, old: &OldMaps, backlog: u32) -> Result<(), Failure> {
        let Some(Steered { addresses, by_address, places, balance }) = self.steered.get(&steering) else {
            return Ok(());
        };
        for (address, steering) in addresses.iter().zip(by_address) {
            let other = old.maps.iter().find(|other| other.address == *address);
            let other = other.map(|other| Others { map: other.map.as_fd(), places: other.places, loads: &old.loads });
            let beside = other.map(|other| steering.beside(*places, balance, other)).transpose();
            let beside = beside.map_err(system("loading the steering program"))?;
            let steering = beside.as_ref().unwrap_or(steering);
            match self.guards.iter().find(|guard| guard.address == *address) {
                Some(guard) => guard.switch(steering).map_err(system("attaching the steering program"))?,
                None => {
                    let guard = Guard::open(*address, backlog, steering).map_err(|error| listen_failure(&error))?;
                    self.guards.push(guard);
                }
            }
        }
        Ok(())
    }

    pub(super) fn stand_alone(&self) -> Result<(), Failure> {
        // Try every guard, even if another one fails.
        let results: Vec<io::Result<()>> = self.guards.iter().map(Guard::stand_alone).collect();
        results.into_iter().collect::<io::Result<()>>().map_err(system("steering to the guard"))
    }

    pub(super) fn unset(&self, steering: SteeringId, slot: usize) {
        let steered = self.steered.get(&steering).into_iter();
        steered.flat_map(|one| &one.by_address).for_each(|one| one.unset(slot as u32));
    }

    pub(super) fn detach(&self, socket: SocketId) {
        if let Some(socket) = self.kept.get(&socket) {
            steering::detach(socket.as_fd());
        }
    }

    /// Accepts at most this many connections that wait at guards of other addresses than these.
    pub(super) fn empty_guards(&mut self, except: &[Endpoint], count_max: usize) -> Vec<ArrivalId> {
        let others = self.guards.iter().filter(|guard| !except.contains(&guard.address.into()));
        let waiting = others.flat_map(|guard| std::iter::from_fn(|| guard.accept()));
        let waiting: Vec<OwnedFd> = waiting.take(count_max).collect();
        waiting.into_iter().map(|connection| self.arrived(connection)).collect()
    }

    pub(super) fn keep_guards(&mut self, addresses: &[Endpoint]) {
        self.guards.retain(|guard| addresses.contains(&guard.address.into()));
    }

    pub(super) fn guards(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.guards.iter().map(Guard::descriptor)
    }

    /// Accepts a connection that arrived at a guard.
    pub(super) fn accept_from_guards(&mut self) -> Option<ArrivalId> {
        let connection = self.guards.iter().find_map(Guard::accept)?;
        Some(self.arrived(connection))
    }

    /// Accepts a connection that waits at a kept socket.
    pub(super) fn accept_from(&mut self, socket: SocketId) -> Option<ArrivalId> {
        let connection = listener::waiting_at_shared(self.kept.get(&socket)?, &mut Acceptor::default()).next()?;
        Some(self.arrived(connection.into()))
    }

    /// Accepts at most this many connections that wait at a kept socket.
    pub(super) fn accept_waiting(&mut self, socket: SocketId, count_max: usize) -> Vec<ArrivalId> {
        let Some(socket) = self.kept.get(&socket) else { return Vec::new() };
        let mut acceptor = Acceptor::default();
        let waiting: Vec<Socket> = listener::waiting_at_shared(socket, &mut acceptor).take(count_max).collect();
        waiting.into_iter().map(|connection| self.arrived(connection.into())).collect()
    }

    pub(super) fn arrived(&mut self, connection: OwnedFd) -> ArrivalId {
        let id = ArrivalId(self.next_arrival);
        self.next_arrival = self.next_arrival.wrapping_add(1);
        self.arrivals.insert(id, connection);
        id
    }

    pub(super) fn arrival(&self, arrival: ArrivalId) -> Option<BorrowedFd<'_>> {
        self.arrivals.get(&arrival).map(AsFd::as_fd)
    }

    pub(super) fn forget_arrival(&mut self, arrival: ArrivalId) {
        self.arrivals.remove(&arrival).map(Socket::from).into_iter().for_each(close_at_once);
    }
}

/// Closes a socket of which another process has a copy. Options that the other process has set must not make this one
/// wait for a peer.
fn close_at_once(socket: Socket) {
    // If this fails, there is nothing to wait for.
    let _ = socket.set_linger(None);
}
