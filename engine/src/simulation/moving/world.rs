//! The world: workers, sockets, channels and time; and the effect of each step.

use std::collections::{BTreeMap, VecDeque};

use super::connections::{Connection, Connections, End, Kind, Phase, Receiving, Socket, SocketId};
use super::links::Link;
use super::steps::{Order, Step, WORKERS_MAX};
use super::{Violation, checks};
use crate::handover::receiver::{self, Receiver, Visitor};
use crate::handover::sender::{self, Heir, Sender};
use crate::types::ConnectionId;
use crate::worker::lifecycle::Lifecycle;

/// Long enough that a history that hangs is not hidden by the end of the drain time.
const DRAIN_MS: u64 = 3_600_000;

/// Turns, each after some time, after which everything must have ended.
const REST_ROUNDS: u32 = 400;

/// A worker that hands over its state, and does nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked {
    pub(super) heir: Heir,
    pub(super) until_ns: u64,
}

/// A worker process.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) is_alive: bool,
    pub(super) is_halted: bool,
    /// It has left normally.
    pub(super) has_left: bool,
    pub(super) lifecycle: Lifecycle,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) connections: Connections,
    pub(super) departures: VecDeque<sender::Command>,
    pub(super) arrivals: VecDeque<receiver::Command>,
    pub(super) is_carrying_out: bool,
    pub(super) blocked: Option<Blocked>,
    /// Indices in the list of links.
    pub(super) heirs: BTreeMap<Heir, usize>,
    pub(super) visitors: BTreeMap<Visitor, usize>,
    pub(super) has_listener: bool,
    pub(super) orders: VecDeque<Order>,
    /// Wakes that callbacks asked for.
    pub(super) wakes: VecDeque<ConnectionId>,
    /// Turns in a row that had something to do although nothing happened.
    pub(super) turns_in_a_row: u32,
    /// Orders to give whose outcome it has not reported.
    pub(super) owes_given: u32,
    /// It owes the master a report that moving is over.
    pub(super) owes_report: bool,
    /// Connections that moved away. The next field: those that could not move.
    pub(super) released: u64,
    pub(super) kept: u64,
    /// Connections that moved away while it served.
    pub(super) given: u64,
    /// Its connections have begun to move.
    pub(super) was_moving: bool,
    /// The most connections that it takes.
    pub(super) connections_max: usize,
    pub(super) next_slot: u32,
}

impl Worker {
    fn new(has_state: bool, succeeds: bool, now_ns: u64, connections_max: usize) -> Self {
        let lifecycle = if has_state && succeeds { Lifecycle::awaiting_state(now_ns) } else { Lifecycle::serving() };
        Self {
            is_alive: true,
            is_halted: false,
            has_left: false,
            lifecycle,
            sender: Sender::new(true, has_state, false),
            receiver: Receiver::new(u32::MAX),
            connections: Connections::default(),
            departures: VecDeque::new(),
            arrivals: VecDeque::new(),
            is_carrying_out: false,
            blocked: None,
            heirs: BTreeMap::new(),
            visitors: BTreeMap::new(),
            has_listener: true,
            orders: VecDeque::new(),
            wakes: VecDeque::new(),
            turns_in_a_row: 0,
            owes_given: 0,
            owes_report: false,
            released: 0,
            kept: 0,
            given: 0,
            was_moving: false,
            connections_max,
            next_slot: 0,
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.is_alive && !self.is_halted
    }
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) now_ns: u64,
    pub(super) has_state: bool,
    /// Serving workers get orders to give connections away.
    pub(super) gives: bool,
    pub(super) clients_max: usize,
    pub(super) workers: Vec<Worker>,
    pub(super) sockets: Vec<Socket>,
    pub(super) links: Vec<Link>,
    /// The first invariant that did not hold.
    pub(super) violation: Option<Violation>,
    /// What happened, for a reader; `Some` if it is to be kept.
    pub(super) log: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(shape: u64) -> Self {
        let has_state = shape.is_multiple_of(2);
        let count = 2 + (shape >> 1) % 2;
        let connections_max = if (shape >> 2).is_multiple_of(4) { 6 } else { 1_000 };
        let now_ns = 1_000_000_000;
        let worker = |index| Worker::new(has_state, index > 0, now_ns, connections_max);
        Self {
            now_ns,
            has_state,
            gives: !has_state && (shape >> 6).is_multiple_of(2),
            clients_max: if (shape >> 4).is_multiple_of(4) { 1 } else { 40 },
            workers: (0..count).map(worker).collect(),
            sockets: Vec::new(),
            links: Vec::new(),
            violation: None,
            log: None,
        }
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>8} ms  {}", (self.now_ns - 1_000_000_000) / 1_000_000, text()));
        }
    }

    pub(super) fn violate(&mut self, invariant: &'static str, detail: String) {
        self.note(|| format!("BROKEN: {invariant}: {detail}"));
        self.violation.get_or_insert(Violation { invariant, detail });
    }

    /// Makes one thing happen, and checks the invariants.
    pub(super) fn take(&mut self, step: Step) -> Result<(), Violation> {
        self.apply(step);
        checks::after_step(self);
        self.violation.clone().map_or(Ok(()), Err)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Begin { .. } => {}
            Step::Connect { worker, kind } => self.connect(worker, kind),
            Step::ClientSends { socket, count } => {
                if let Some(socket) = self.sockets.get_mut(socket).filter(|one| one.end.is_none() && !one.is_finished) {
                    socket.sent += count;
                }
            }
            Step::ClientReads { socket } => {
                if let Some(socket) = self.sockets.get_mut(socket) {
                    socket.received = socket.written;
                }
            }
            Step::ClientFinishes { socket } => {
                if let Some(socket) = self.sockets.get_mut(socket) {
                    socket.is_finished = true;
                }
            }
            Step::Complete { worker, pick, first } => self.complete_one(worker, pick, first),
            Step::Deliver { link, is_up } => {
                if let Some(link) = self.links.get_mut(link) {
                    if is_up { link.up.deliver() } else { link.down.deliver() }
                }
            }
            Step::Turn { worker } => self.turn(worker),
            Step::Ordered { worker, order } => {
                if let Some(worker) = self.workers.get_mut(worker).filter(|worker| worker.is_alive) {
                    worker.orders.push_back(order);
                }
            }
            Step::Kill { worker, loses } => self.kill(worker, loses),
            Step::Halt { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.is_halted = true;
                }
            }
            Step::Continue { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.is_halted = false;
                }
            }
            Step::Start { succeeds } => self.start(succeeds),
            Step::Wake { worker, pick } => {
                let Some(worker) = self.workers.get_mut(worker).filter(|worker| worker.runs()) else { return };
                let id = worker.connections.0.keys().nth(pick).copied();
                worker.wakes.extend(id);
            }
            Step::Pair { worker, pick } => self.pair(worker, pick),
            Step::Time { ms } => self.now_ns += ms * 1_000_000,
        }
    }

    /// A callback of the protocol pairs two connections that it can act on.
    fn pair(&mut self, worker: usize, pick: usize) {
        let Some(own) = self.workers.get_mut(worker).filter(|worker| worker.runs() && worker.blocked.is_none()) else {
            return;
        };
        let single = own.connections.0.values_mut().filter(|one| one.phase == Phase::Open && one.partner.is_none());
        let mut single = single.skip(pick);
        let (Some(one), Some(other)) = (single.next(), single.next()) else { return };
        (one.partner, other.partner) = (Some(other.socket), Some(one.socket));
        let (one, other) = (one.socket, other.socket);
        (self.sockets[one.0].partner, self.sockets[other.0].partner) = (Some(other), Some(one));
        self.note(|| format!("worker {worker} pairs clients {} and {}", one.0, other.0));
    }

    fn start(&mut self, succeeds: bool) {
        if self.workers.len() < WORKERS_MAX {
            let connections_max = self.workers[0].connections_max;
            self.workers.push(Worker::new(self.has_state, succeeds, self.now_ns, connections_max));
            let index = self.workers.len() - 1;
            self.note(|| format!("worker {index} starts"));
        }
    }

    fn connect(&mut self, worker: usize, kind: Kind) {
        let is_open =
            |one: &&mut Worker| one.runs() && one.blocked.is_none() && one.has_listener && one.lifecycle.accepts();
        let Some(own) = self.workers.get_mut(worker).filter(is_open) else { return };
        let id = ConnectionId { slot: own.next_slot, generation: 0 };
        own.next_slot += 1;
        let socket = SocketId(self.sockets.len());
        let mut connection = Connection::new(socket, kind);
        if kind == Kind::Rejected {
            (connection.greeting, connection.phase) = (3, Phase::Flushing);
        }
        own.connections.0.insert(id, connection);
        self.sockets.push(Socket::new(kind));
        self.note(|| format!("worker {worker} accepts client {} ({kind:?})", socket.0));
        self.opened(worker, id);
    }

    /// Ends a worker at once, whatever it is doing.
    pub(super) fn kill(&mut self, worker: usize, loses: bool) {
        let Some(own) = self.workers.get_mut(worker).filter(|one| one.is_alive) else { return };
        own.is_alive = false;
        let connections = std::mem::take(&mut own.connections.0);
        (own.heirs, own.visitors) = Default::default();
        own.departures.clear();
        own.arrivals.clear();
        self.note(|| format!("worker {worker} is killed"));
        for connection in connections.into_values() {
            if connection.custody.stage().is_owned() {
                self.end(connection.socket, End::Killed);
            }
        }
        // Connections that were given to it and not read end with it, and so do those that it gave in messages that are
        // lost.
        let mut lost = Vec::new();
        for link in &mut self.links {
            if link.to == worker {
                lost.extend(link.up.given());
                link.up = Default::default();
                link.up.is_ended = true;
                link.down.end();
            }
            if link.from == worker {
                if loses {
                    lost.extend(link.up.given());
                    link.up = Default::default();
                }
                link.up.end();
                link.down = Default::default();
                link.down.is_ended = true;
            }
        }
        lost.into_iter().for_each(|socket| self.end(socket, End::Killed));
    }

    pub(super) fn end(&mut self, socket: SocketId, end: End) {
        self.sockets[socket.0].end.get_or_insert(end);
    }

    /// No more faults: all workers run, messages arrive, clients read, and time passes.
    pub(super) fn rest(&mut self) -> Result<(), Violation> {
        self.note(|| "no more faults".to_owned());
        self.workers.iter_mut().for_each(|worker| worker.is_halted = false);
        for round in 0..REST_ROUNDS {
            for worker in 0..self.workers.len() {
                while self.can_complete(worker) {
                    self.complete_one(worker, 0, true);
                }
                self.turn(worker);
            }
            for link in &mut self.links {
                for pipe in [&mut link.up, &mut link.down] {
                    pipe.flush();
                    while !pipe.flying.is_empty() {
                        pipe.deliver();
                    }
                }
            }
            for socket in &mut self.sockets {
                socket.received = socket.written;
            }
            self.now_ns += if round % 4 == 3 { 400_000_000 } else { 1_000_000 };
            checks::after_step(self);
            if let Some(violation) = &self.violation {
                return Err(violation.clone());
            }
        }
        checks::at_rest(self);
        self.violation.clone().map_or(Ok(()), Err)
    }

    pub(super) fn can_complete(&self, worker: usize) -> bool {
        let own = &self.workers[worker];
        own.is_alive && own.blocked.is_none() && own.connections.0.values().any(|one| self.has_completion(one))
    }

    pub(super) fn has_completion(&self, connection: &Connection) -> bool {
        let socket = &self.sockets[connection.socket.0];
        let has_input = socket.sent > socket.read || (socket.is_finished && !connection.peer_ended);
        match (connection.receiving, connection.sending) {
            (Receiving::Cancelling, _) | (_, Some((_, true))) => true,
            (Receiving::Armed, _) if has_input => true,
            (_, Some(_)) => socket.room() > 0,
            _ => false,
        }
    }

    /// The drain time of orders to leave.
    pub(super) const fn drain_ms() -> u64 {
        DRAIN_MS
    }
}
