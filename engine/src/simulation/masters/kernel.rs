//! The kernel's part: reuseport groups of listen sockets, steering, accept queues, handshakes, and what happens to
//! waiting connections when a socket is closed for the last time. The facts are those of handover.md.

use std::collections::BTreeMap;

use super::super::random::mixed;
use crate::endpoint::Endpoint;
use crate::master::core::{ProcessId, Time};

/// A listen socket, whichever processes have copies of it.
pub(super) type Key = u32;

/// A connection: its index in [`Kernel::connections`].
pub(super) type ConnectionKey = usize;

/// What keeps a socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Holder {
    Process(ProcessId),
    /// A message in flight carries it.
    Message(u32),
    /// The ring of an ended process holds it for some milliseconds (trap 2).
    Dead(ProcessId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SocketState {
    Bound,
    Listening,
    /// Shut down: out of the group, whatever copies there are.
    Shut,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Socket {
    pub(super) address: Endpoint,
    pub(super) state: SocketState,
    pub(super) is_guard: bool,
    pub(super) holders: Vec<Holder>,
    pub(super) queue: Vec<ConnectionKey>,
    /// A waiting connection has woken a process that runs.
    pub(super) is_noticed: bool,
}

impl Socket {
    /// The kernel may wake the ring of an ended process instead.
    fn enqueue(&mut self, connection: ConnectionKey) {
        self.is_noticed |= !self.holders.iter().any(|holder| matches!(holder, Holder::Dead(_)));
        self.queue.push(connection);
    }

    pub(super) fn is_held_by(&self, process: ProcessId) -> bool {
        self.holders.contains(&Holder::Process(process))
    }
}

/// Where a client's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The client's last packet of the handshake is in flight, until this time.
    HalfOpen(Key, Time),
    /// In the accept queue, since this time.
    Waiting(Key, Time),
    /// Accepted: by a master, which may have handed a copy to a worker, or by a worker.
    Held {
        master: Option<ProcessId>,
        worker: Option<ProcessId>,
        message: Option<u32>,
    },
    Served,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Connection {
    pub(super) address: Endpoint,
    pub(super) place: Place,
    /// It stays open until its worker drains.
    pub(super) is_long: bool,
    /// A master served the address when it came.
    pub(super) is_owed: bool,
}

/// How a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Loss {
    /// No socket listened.
    Refused,
    /// Its listener closed during the handshake.
    Reset,
    /// Its listener closed while it waited in the accept queue.
    Unaccepted,
    /// The last process that had it ended normally without serving it.
    Dropped,
}

/// What is attached to a group: the first `places` of each map, or a guard alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Program {
    pub(super) maps: Vec<(u32, usize)>,
    pub(super) guard: Option<Key>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Kernel {
    pub(super) sockets: BTreeMap<Key, Socket>,
    pub(super) connections: Vec<Connection>,
    pub(super) programs: BTreeMap<Endpoint, Program>,
    /// By map, address and slot.
    pub(super) maps: BTreeMap<(u32, Endpoint, usize), Key>,
    pub(super) next_key: Key,
    /// Losses that are not judged yet.
    pub(super) losses: Vec<(ConnectionKey, Loss)>,
}

impl Kernel {
    pub(super) fn bind(&mut self, address: Endpoint, holder: Holder) -> Key {
        self.next_key += 1;
        let socket = Socket {
            address,
            state: SocketState::Bound,
            is_guard: false,
            holders: vec![holder],
            queue: Vec::new(),
            is_noticed: false,
        };
        self.sockets.insert(self.next_key, socket);
        self.next_key
    }

    pub(super) fn listen(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.state = SocketState::Listening;
        }
    }

    pub(super) fn is_listening(&self, key: Key) -> bool {
        self.sockets.get(&key).is_some_and(|socket| socket.state == SocketState::Listening)
    }

    pub(super) fn hold(&mut self, key: Key, holder: Holder) {
        if let Some(socket) = self.sockets.get_mut(&key)
            && !socket.holders.contains(&holder)
        {
            socket.holders.push(holder);
        }
    }

    /// Selects one of the listeners of an address for `connection`.
    fn select(&self, address: Endpoint, connection: ConnectionKey) -> Option<Key> {
        let hash = mixed(connection as u64 + 1) as usize;
        if let Some(program) = self.programs.get(&address) {
            let places: Vec<Key> = program
                .maps
                .iter()
                .flat_map(|(map, places)| (0..*places).map(move |slot| (*map, address, slot)))
                .filter_map(|place| self.maps.get(&place).copied())
                .filter(|key| self.is_listening(*key))
                .collect();
            if !places.is_empty() {
                return Some(places[hash % places.len()]);
            }
            if let Some(guard) = program.guard.filter(|guard| self.is_listening(*guard)) {
                return Some(guard);
            }
        }
        let listening: Vec<Key> = self.group(address).map(|(key, _)| *key).collect();
        (!listening.is_empty()).then(|| listening[hash % listening.len()])
    }

    fn group(&self, address: Endpoint) -> impl Iterator<Item = (&Key, &Socket)> {
        let is_in = move |socket: &Socket| socket.address == address && socket.state == SocketState::Listening;
        self.sockets.iter().filter(move |(_, socket)| is_in(socket))
    }

    /// A client connects.
    pub(super) fn connect(&mut self, address: Endpoint, now: Time, is_slow: bool, is_long: bool) -> ConnectionKey {
        let key = self.connections.len();
        let place = match self.select(address, key) {
            Some(socket) if is_slow => Place::HalfOpen(socket, now.after_ms(1_000)),
            Some(socket) => {
                self.sockets.get_mut(&socket).expect("selected").enqueue(key);
                Place::Waiting(socket, now)
            }
            None => Place::Lost,
        };
        if place == Place::Lost {
            self.losses.push((key, Loss::Refused));
        }
        self.connections.push(Connection { address, place, is_long, is_owed: false });
        key
    }

    /// The last packet of a handshake arrives.
    pub(super) fn complete(&mut self, key: ConnectionKey, now: Time) {
        let Place::HalfOpen(socket, _) = self.connections[key].place else { return };
        if self.is_listening(socket) {
            self.sockets.get_mut(&socket).expect("it listens").enqueue(key);
            self.connections[key].place = Place::Waiting(socket, now);
        } else {
            self.migrate(key, now);
        }
    }

    /// The listener of a connection that no process has accepted is closed.
    fn migrate(&mut self, key: ConnectionKey, now: Time) {
        if self.connections[key].place == Place::Lost {
            return;
        }
        let Connection { address, place, .. } = self.connections[key];
        let moves = self.programs.contains_key(&address);
        match self.select(address, key).filter(|_| moves) {
            Some(target) => {
                self.sockets.get_mut(&target).expect("selected").enqueue(key);
                self.connections[key].place = Place::Waiting(target, now);
            }
            None => {
                let loss = if matches!(place, Place::Waiting(..)) { Loss::Unaccepted } else { Loss::Reset };
                self.connections[key].place = Place::Lost;
                self.losses.push((key, loss));
            }
        }
    }

    /// Ends a connection that no process has any more.
    pub(super) fn forget_unheld(&mut self, key: ConnectionKey) {
        if self.connections[key].place == (Place::Held { master: None, worker: None, message: None }) {
            self.connections[key].place = Place::Lost;
        }
    }

    pub(super) fn accept(&mut self, key: Key) -> Option<ConnectionKey> {
        let socket = self.sockets.get_mut(&key)?;
        let connection = (!socket.queue.is_empty()).then(|| socket.queue.remove(0))?;
        socket.is_noticed &= !socket.queue.is_empty();
        Some(connection)
    }

    pub(super) fn has_waiting(&self, key: Key) -> bool {
        self.sockets.get(&key).is_some_and(|socket| !socket.queue.is_empty())
    }

    /// Whether a process that accepts there, and has looked before, is woken.
    pub(super) fn wakes(&self, key: Key) -> bool {
        self.has_waiting(key) && self.sockets[&key].is_noticed
    }

    /// Closes a copy. With the last one, waiting connections move to another listener or are reset.
    pub(super) fn release(&mut self, key: Key, holder: Holder, now: Time) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        socket.holders.retain(|one| *one != holder);
        if socket.holders.is_empty() {
            let Some(Socket { queue, address, .. }) = self.sockets.remove(&key) else { return };
            self.maps.retain(|_, one| *one != key);
            queue.into_iter().for_each(|connection| self.migrate(connection, now));
            if !self.sockets.values().any(|socket| socket.address == address) {
                // A group ends with its last socket, together with the attached program.
                self.programs.remove(&address);
            }
        }
    }

    pub(super) fn release_all(&mut self, holder: Holder, now: Time) {
        let keys: Vec<Key> =
            self.sockets.iter().filter(|(_, one)| one.holders.contains(&holder)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.release(key, holder, now));
    }

    /// A process has ended. Its copies end a while later.
    pub(super) fn process_died(&mut self, process: ProcessId) {
        for socket in self.sockets.values_mut() {
            for holder in socket.holders.iter_mut().filter(|holder| **holder == Holder::Process(process)) {
                *holder = Holder::Dead(process);
                // The kernel may have woken the ended process.
                socket.is_noticed = false;
            }
        }
    }

    /// shutdown(2): acts at once, whatever copies there are.
    pub(super) fn shut(&mut self, key: Key, now: Time) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        socket.state = SocketState::Shut;
        let queue = std::mem::take(&mut socket.queue);
        self.maps.retain(|_, one| *one != key);
        queue.into_iter().for_each(|connection| self.migrate(connection, now));
    }
}
