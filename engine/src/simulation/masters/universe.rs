//! The whole state, and its smallest steps: a process hears one message, reaps one child, makes one turn. Each leaves a
//! state that can be compared, so that the same world can be run at random and explored exhaustively.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::channels::{Channel, ChannelId, Letter, MESSAGES_MAX, Message};
use super::kernel::{Holder, Kernel, Place};
use super::process::{Binary, Birth, Body, Master, Process, StartsAs, Worker};
use super::steps::Shape;
use super::timeline::say;
use crate::config::{Connections, Rebalance, StateTooLarge};
use crate::endpoint::{Endpoint, SocketFile};
use crate::handover::Tier;
use crate::ipc::control::{Exit, Failure, Outcome};
use crate::master::core::{ClientId, ConfigurationId, Core, Plan, ProcessId, Request, Time};

/// One step of a process, or of the kernel on a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Micro {
    /// A worker's loop turns; a master starts, or ends.
    Turn(ProcessId),
    /// A process receives a message, or the end, on a channel.
    Hear(ProcessId, ChannelId),
    /// A master learns of a child's end.
    Reap(ProcessId, usize),
    Signal(ProcessId),
    Ask(ProcessId),
    /// The master accepts a connection that waits at a guard or an unattended socket.
    Arrive(ProcessId),
    Tick(ProcessId),
}

/// A call that will fail the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fault {
    ReadConfiguration,
    ClaimBusy,
    Claim,
    Bind,
    LoadSteering,
    ResizeSteering,
    Steer,
    /// The first address is switched before the next one fails.
    SteerHalf,
    StandAlone,
    Fork,
    Tell,
    Share,
    Hand,
    StartBinary,
    WorkerSlow,
    WorkerFails,
    WorkerExits,
    WorkerHangs,
}

impl Fault {
    pub(super) const ALL: [Self; 18] = [
        Self::ReadConfiguration,
        Self::ClaimBusy,
        Self::Claim,
        Self::Bind,
        Self::LoadSteering,
        Self::ResizeSteering,
        Self::Steer,
        Self::SteerHalf,
        Self::StandAlone,
        Self::Fork,
        Self::Tell,
        Self::Share,
        Self::Hand,
        Self::StartBinary,
        Self::WorkerSlow,
        Self::WorkerFails,
        Self::WorkerExits,
        Self::WorkerHangs,
    ];
}

/// A killed process whose ring holds its listen sockets for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Dead {
    pub(super) process: ProcessId,
    pub(super) master: ProcessId,
    pub(super) until: Time,
}

/// The most letters of a channel.
const LETTERS_MAX: u32 = 100_000;

/// How many of each kind there were. Each kind is counted separately, so that two orders of the same steps lead to the
/// same world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    pub(super) processes: u32,
    pub(super) channels: ChannelId,
    pub(super) clients: u64,
    pub(super) steerings: u32,
    pub(super) arrivals: u32,
}

/// An operator's request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) asked: ProcessId,
    pub(super) request: Request,
    pub(super) answer: Option<Result<Outcome, Failure>>,
    /// The client or its master has gone.
    pub(super) is_gone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Universe {
    pub(super) now: Time,
    pub(super) shape: Shape,
    pub(super) kernel: Kernel,
    pub(super) channels: BTreeMap<ChannelId, Channel>,
    /// The living processes.
    pub(super) processes: BTreeMap<ProcessId, Process>,
    /// Killed processes whose rings still hold listen sockets, and until when.
    pub(super) dead: Vec<Dead>,
    /// Pairs of workers of which one was introduced to the other.
    pub(super) acquainted: BTreeSet<(ProcessId, ProcessId)>,
    /// The master to which the control socket's path leads, and the one in the pid file.
    pub(super) path: Option<ProcessId>,
    pub(super) pid_file: Option<ProcessId>,
    /// Masters with a control socket beside the path.
    pub(super) beside: BTreeSet<ProcessId>,
    pub(super) clients: BTreeMap<ClientId, Client>,
    /// The configuration that a reload reads.
    pub(super) plan: Plan,
    pub(super) armed: BTreeSet<Fault>,
    /// When a worker or master was last killed or halted.
    pub(super) last_fault: Time,
    /// Masters that have served.
    pub(super) served: BTreeSet<ProcessId>,
    /// Killed by a fault: promises in their name cannot be kept.
    pub(super) killed: BTreeSet<ProcessId>,
    /// A client allowed an upgrade that resets connections.
    pub(super) may_reset: bool,
    /// Steering has failed: the previous program is still attached.
    pub(super) is_unsteered: bool,
    /// The last turn of the last killed worker, and its time to answer.
    pub(super) last_killed: Option<(Time, u64)>,
    /// Workers to which an order could not be sent: they may be killed because they do not follow it.
    pub(super) untold: BTreeSet<ProcessId>,
    /// Masters that were ordered to let their workers leave.
    pub(super) idled: BTreeSet<ProcessId>,
    /// Masters that were ordered to stop.
    pub(super) stopped: BTreeSet<ProcessId>,
    /// Masters for which a client learned that an upgrade was reverted to them. They have begun no other one since.
    pub(super) reverted_to: BTreeSet<ProcessId>,
    /// Masters for which a client learned that they serve for good.
    pub(super) committed: BTreeSet<ProcessId>,
    /// Answers given in the current step.
    pub(super) unjudged: Vec<(ProcessId, ClientId, Result<Outcome, Failure>)>,
    pub(super) violation: Option<Violation>,
    pub(super) numbers: Numbers,
    /// Steps since time last passed.
    pub(super) steps_at_once: u32,
}

impl Universe {
    pub(super) fn new(shape: Shape) -> Self {
        let mut this = Self {
            now: Time::default().after_ms(100_000),
            shape,
            kernel: Kernel::default(),
            channels: BTreeMap::new(),
            processes: BTreeMap::new(),
            dead: Vec::new(),
            path: None,
            pid_file: None,
            beside: BTreeSet::new(),
            clients: BTreeMap::new(),
            plan: plan(shape, shape.workers, shape.addresses, 800),
            armed: BTreeSet::new(),
            last_fault: Time::default(),
            served: BTreeSet::new(),
            killed: BTreeSet::new(),
            acquainted: BTreeSet::new(),
            may_reset: false,
            is_unsteered: false,
            idled: BTreeSet::new(),
            stopped: BTreeSet::new(),
            reverted_to: BTreeSet::new(),
            committed: BTreeSet::new(),
            last_killed: None,
            untold: BTreeSet::new(),
            unjudged: Vec::new(),
            violation: None,
            numbers: Numbers::default(),
            steps_at_once: 0,
        };
        this.start_master();
        this
    }

    /// An operator starts a server if no master has the path.
    pub(super) fn start_master(&mut self) {
        let is_alive = self.path.is_some_and(|pid| self.processes.contains_key(&pid));
        if is_alive || self.masters().next().is_some() {
            return;
        }
        let birth = Birth { plan: self.plan.clone(), greeting: None };
        let master = Master::new(Binary::Good, self.shape.tier, birth);
        let process = self.spawn(None, Body::Master(Box::new(master)));
        self.path = Some(process);
        say(self.now, process, || "starts".to_owned());
    }

    /// Restarts the server with the current configuration.
    pub(super) fn restart(&mut self) {
        let all: Vec<ProcessId> = self.processes.keys().copied().collect();
        all.into_iter().for_each(|id| self.kill(id));
        self.start_master();
    }

    pub(super) fn spawn(&mut self, parent: Option<ProcessId>, body: Body) -> ProcessId {
        self.numbers.processes += 1;
        let process = ProcessId(self.numbers.processes);
        self.processes.insert(process, Process { parent, body, halted: None });
        process
    }

    pub(super) fn fails(&mut self, fault: Fault) -> bool {
        self.armed.remove(&fault)
    }

    pub(super) fn starts_as(&mut self) -> StartsAs {
        if self.fails(Fault::WorkerSlow) {
            StartsAs::Slow
        } else if self.fails(Fault::WorkerFails) {
            StartsAs::Failing
        } else if self.fails(Fault::WorkerExits) {
            StartsAs::Exiting
        } else if self.fails(Fault::WorkerHangs) {
            StartsAs::Hanging
        } else {
            StartsAs::Well
        }
    }

    pub(super) fn masters(&self) -> impl Iterator<Item = (ProcessId, &Master)> {
        self.processes.iter().filter_map(|(id, process)| match &process.body {
            Body::Master(master) => Some((*id, &**master)),
            Body::Worker(_) => None,
        })
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = (ProcessId, &Core)> {
        self.masters().filter_map(|(id, master)| Some((id, master.core.as_ref()?)))
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = (ProcessId, &Worker)> {
        self.processes.iter().filter_map(|(id, process)| match &process.body {
            Body::Worker(worker) => Some((*id, &**worker)),
            Body::Master(_) => None,
        })
    }

    pub(super) fn master(&self, process: ProcessId) -> Option<&Master> {
        match &self.processes.get(&process)?.body {
            Body::Master(master) => Some(master),
            Body::Worker(_) => None,
        }
    }

    pub(super) fn master_mut(&mut self, process: ProcessId) -> &mut Master {
        match self.processes.get_mut(&process).map(|process| &mut process.body) {
            Some(Body::Master(master)) => master,
            _ => panic!("{process:?} is no living master"),
        }
    }

    pub(super) fn worker(&self, process: ProcessId) -> Option<&Worker> {
        match &self.processes.get(&process)?.body {
            Body::Worker(worker) => Some(worker),
            Body::Master(_) => None,
        }
    }

    pub(super) fn worker_mut(&mut self, process: ProcessId) -> Option<&mut Worker> {
        match &mut self.processes.get_mut(&process)?.body {
            Body::Worker(worker) => Some(worker),
            Body::Master(_) => None,
        }
    }

    pub(super) fn open_channel(&mut self, one: ProcessId, other: ProcessId) -> ChannelId {
        self.numbers.channels += 1;
        let id = self.numbers.channels;
        self.channels.insert(id, Channel::new(one, other));
        id
    }

    /// Returns `false` if the other end is closed or the channel is full.
    pub(super) fn send(&mut self, from: ProcessId, id: ChannelId, message: Message) -> bool {
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        channel.letters += 1;
        let number = id * LETTERS_MAX + channel.letters;
        let end = channel.end_of(from);
        let is_bounded = matches!(message, Message::Order(..));
        if channel.is_closed[1 - end] || (is_bounded && channel.queues[1 - end].len() >= MESSAGES_MAX) {
            return false;
        }
        let holder = Holder::Message(number);
        match &message {
            Message::Order(_, key, connection) => {
                key.iter().for_each(|key| self.kernel.hold(*key, holder));
                if let Some((connection, _)) = connection
                    && let Place::Held { message, .. } = &mut self.kernel.connections[*connection].place
                {
                    *message = Some(number);
                }
            }
            Message::Arrival(connection) => {
                if let Place::Held { message, .. } = &mut self.kernel.connections[*connection].place {
                    *message = Some(number);
                }
            }
            Message::Report(_, Some(key)) => self.kernel.hold(*key, holder),
            Message::Listeners(keys) => keys.iter().for_each(|key| self.kernel.hold(*key, holder)),
            _ => {}
        }
        channel.queues[1 - end].push_back(Letter { number, message });
        true
    }

    pub(super) fn receive(&mut self, process: ProcessId, id: ChannelId) -> Option<Letter> {
        let channel = self.channels.get_mut(&id)?;
        let end = channel.end_of(process);
        channel.queues[end].pop_front()
    }

    /// Closes what a message carried, except what its receiver has taken.
    pub(super) fn drop_letter(&mut self, number: u32) {
        self.kernel.release_all(Holder::Message(number), self.now);
        let flies = |place: &Place| matches!(place, Place::Held { message: Some(one), .. } if *one == number);
        for connection in self.kernel.connections.iter_mut().filter(|one| flies(&one.place)) {
            if let Place::Held { message, master, worker } = &mut connection.place {
                *message = None;
                if master.is_none() && worker.is_none() {
                    connection.place = Place::Lost;
                }
            }
        }
    }

    pub(super) fn close_channel(&mut self, process: ProcessId, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let end = channel.end_of(process);
        channel.is_closed[end] = true;
        let lost = std::mem::take(&mut channel.queues[end]);
        if channel.is_closed == [true; 2] {
            self.channels.remove(&id);
        }
        lost.into_iter().for_each(|letter| self.drop_letter(letter.number));
    }

    /// Ends a process. If a signal ended it, its ring holds its sockets a while longer.
    pub(super) fn end(&mut self, id: ProcessId, exit: Exit) {
        let Some(process) = self.processes.remove(&id) else { return };
        say(self.now, id, || exit.to_string());
        if let Body::Master(master) = &process.body {
            let joined_unsteered = (self.shape.tier, master.tier) == (Tier::Adopt, Tier::Ebpf);
            self.may_reset |= joined_unsteered && !self.served.contains(&id);
        }
        let channels = self.channels.iter().filter(|(_, channel)| channel.ends.contains(&id));
        let channels: Vec<ChannelId> = channels.map(|(channel, _)| *channel).collect();
        channels.into_iter().for_each(|channel| self.close_channel(id, channel));
        // A master has no ring.
        if matches!(exit, Exit::Code(_)) || matches!(process.body, Body::Master(_)) {
            self.kernel.release_all(Holder::Process(id), self.now);
        } else {
            self.kernel.process_died(id);
            let Body::Worker(worker) = &process.body else { return };
            self.dead.push(Dead { process: id, master: worker.master, until: self.now.after_ms(7) });
        }
        self.drop_connections(id, exit);
        if let Some(parent) = process.parent.filter(|parent| self.processes.contains_key(parent)) {
            self.master_mut(parent).ended.push((id, exit));
        }
        if self.masters().next().is_none() {
            // No process is left that could remove them.
            self.beside.clear();
        }
        for child in self.processes.values_mut().filter(|one| one.parent == Some(id)) {
            child.parent = None;
        }
        for client in self.clients.values_mut().filter(|client| client.asked == id) {
            client.is_gone = true;
        }
    }

    fn drop_connections(&mut self, id: ProcessId, exit: Exit) {
        for (key, connection) in self.kernel.connections.iter_mut().enumerate() {
            let Place::Held { master, worker, message } = &mut connection.place else { continue };
            let was_worker = *worker == Some(id);
            let was_master = *master == Some(id);
            if !was_worker && !was_master {
                continue;
            }
            if was_worker {
                *worker = None;
            }
            if was_master {
                *master = None;
            }
            if worker.is_none() && master.is_none() && message.is_none() {
                connection.place = Place::Lost;
                // The process had accepted the connection, and a killed process takes its connections with it.
                if exit.is_success() && was_master {
                    self.kernel.losses.push((key, super::kernel::Loss::Dropped));
                }
            }
        }
    }

    /// Kills a process, by a fault or by its master.
    pub(super) fn kill(&mut self, id: ProcessId) {
        self.end(id, Exit::Signal(9));
    }

    pub(super) fn bound(requested: Endpoint) -> Endpoint {
        requested
    }
}

/// Logs a client's request.
pub(super) fn said(now: Time, client: ClientId, master: ProcessId, request: &Request) {
    super::timeline::tell(now, None, || format!("client {} asks pid {} for {request:?}", client.0, master.0));
}

/// The address with this index. In some worlds the last one is a Unix socket.
pub(super) fn address(shape: Shape, place: usize) -> Endpoint {
    if shape.has_unix && place + 1 == shape.addresses {
        return "unix:/run/server".parse().expect("a path");
    }
    Endpoint::from(([127, 0, 0, 1], 8_000 + place as u16))
}

pub(super) fn plan(shape: Shape, workers: usize, addresses: usize, hang_ms: u64) -> Plan {
    Plan {
        configuration: ConfigurationId(0),
        listen: (0..addresses).map(|place| address(shape, place)).collect(),
        socket_file: SocketFile { mode: 0o666, user: None, group: None },
        workers,
        backlog: 64,
        drain_ms: 3_000,
        settle_ms: 20,
        stop_ms: 500,
        hang_ms,
        steering: Default::default(),
        connections: if shape.hands_over { Connections::Handover } else { Connections::Goodbye },
        rebalance: if shape.rebalances { Rebalance::Always } else { Rebalance::Off },
        state_bytes_max: 1_000,
        state_too_large: StateTooLarge::Refuse,
        has_connection_state: shape.hands_over,
        has_worker_state: shape.has_worker_state,
    }
}
