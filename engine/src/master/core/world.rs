//! The world on which the core acts: a narrow trait. The driver implements it with the system, the simulator with a
//! model of it. No method waits; what takes time answers later with an [`Event`].

use super::types::{Address, ArrivalId, ClientId, Plan, ProcessId, Signal, SocketId, SteeringId, Time, Upgrade};
use crate::config::Steering;
use crate::endpoint::{Endpoint, SocketFile};
use crate::handover::Tier;
use crate::ipc::control::{
    ConnectionName, ConnectionOrder, EventKind, Exit, Failure, Loss, Outcome, Pause, Request as Asked, TimelineKind,
};
use crate::ipc::orders::{Order, Report};
use crate::ipc::relay::{ToNew, ToOld};

/// An event that the core has to handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Always the first event.
    Start(Plan),
    Signal(Signal),
    /// A client sends a request and waits for the answer.
    Request(ClientId, Request),
    /// A client that waited has gone.
    ClientGone(ClientId),
    /// A worker of this master sends a report.
    Report(ProcessId, Report),
    /// A worker of this master has closed its end of the channel; its process may still live.
    ChannelEnded(ProcessId),
    /// A child of this master has ended: a worker, or the new master of an upgrade. All its earlier messages have been
    /// delivered.
    Ended(ProcessId, Exit),
    /// The new master that this one started sends a message.
    FromNew(ToOld),
    /// Listen sockets came with a message of the other master of an upgrade. For one that this master has already, the
    /// driver gives the known identifier.
    Listeners(Vec<(SocketId, Endpoint)>),
    /// The channel to the new master has ended, or carried an invalid message.
    NewEnded {
        problem: Option<String>,
    },
    /// The old master that started this one sends a message.
    FromOld(ToNew),
    /// The channel to the old master has ended.
    OldEnded,
    /// A worker whose master has ended sends a report.
    OrphanReport(ProcessId, Report),
    /// An orphan has sent a copy of one of its listen sockets. For one that this master has already, the driver gives the
    /// known identifier.
    OrphanListener(ProcessId, SocketId, Endpoint),
    /// An orphan's channel has ended, which means that its process has ended.
    OrphanEnded(ProcessId),
    /// A connection arrived at a guard, at a kept socket whose worker is missing, or at the other master of an upgrade.
    Arrived(ArrivalId),
    /// Time has passed.
    Tick,
}

/// A client's request at the control socket, as far as the core decides it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Reload,
    Scale { workers: usize },
    Rebalance { is_dry_run: bool },
    Upgrade(Upgrade),
    Commit,
    Revert,
    Stop { now: bool, drain_ms: Option<u64> },
    Connections(Wanted),
    Close { id: ConnectionName, now: bool },
}

/// Which connections an operator wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub(crate) order: ConnectionOrder,
    pub(crate) limit: usize,
    /// Only those of workers with this slot.
    pub(crate) worker: Option<usize>,
}

impl Request {
    /// Converts a request of the control protocol; `None` if the driver answers it by itself.
    pub(crate) fn of(asked: Asked) -> Option<Self> {
        Some(match asked {
            Asked::Status | Asked::Events { .. } => return None,
            Asked::Reload => Self::Reload,
            Asked::Scale { workers } => Self::Scale { workers },
            Asked::Rebalance { dry_run } => Self::Rebalance { is_dry_run: dry_run },
            Asked::Upgrade { binary, arguments, hold, probation_ms, timeout_ms, allow, keep_connections } => {
                Self::Upgrade(Upgrade {
                    binary,
                    arguments,
                    is_held: hold,
                    probation_ms,
                    timeout_ms,
                    allowed: allow,
                    keeps_connections: keep_connections,
                })
            }
            Asked::Commit => Self::Commit,
            Asked::Revert => Self::Revert,
            Asked::Stop { now, deadline_ms } => Self::Stop { now, drain_ms: deadline_ms },
            Asked::Connections { order, limit, worker } => Self::Connections(Wanted { order, limit, worker }),
            Asked::Close { id, now } => Self::Close { id, now },
        })
    }
}

/// What a worker has done since its start, and how many connections it has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Load {
    /// Time that its loop worked, as the worker reports it. It includes callbacks that wait.
    pub(crate) busy_ns: u64,
    /// Time on a core, as the kernel reports it. It includes the kernel's work for the worker's sends.
    pub(crate) on_cpu_ns: u64,
    pub(crate) open: u64,
}

/// What a forked worker gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spawn {
    pub(crate) plan: Plan,
    pub(crate) generation: u32,
    pub(crate) slot: usize,
    pub(crate) listeners: Listeners,
    /// What the addresses of the plan are bound to, in their order.
    pub(crate) bound: Vec<Endpoint>,
    pub(crate) steering: Option<SteeringId>,
    /// It replaces another worker, whose state may come.
    pub(crate) succeeds: bool,
}

/// Where a worker's listen sockets come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Listeners {
    /// Bound and not listening. The worker gets the only copies; the fork closes the master's. For the first worker in
    /// the tier ebpf.
    pub(crate) first: Vec<(SocketId, Endpoint)>,
    /// The worker makes these itself. For the other workers in the tier ebpf.
    pub(crate) own: Vec<Endpoint>,
    /// The worker gets copies of these adopted sockets; the master keeps its own.
    pub(crate) copies: Vec<(SocketId, Endpoint)>,
}

/// The first message to a new master.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Greeting {
    pub(crate) next_number: u32,
    pub(crate) tier: Tier,
    pub(crate) is_held: bool,
    pub(crate) addresses: Vec<Address>,
    /// Listen sockets of the tier adopt from which both masters may accept. Those of Unix sockets follow, if the new
    /// master says that it knows them.
    pub(crate) listeners: Vec<(SocketId, Endpoint)>,
    /// The maps of listeners, with the number of places in use, if both masters will serve (tier ebpf).
    pub(crate) maps: Option<(SteeringId, u32)>,
}

/// The other master of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OtherMaster {
    /// It was started by this one.
    New,
    /// It has started this one.
    Old,
}

/// The answer to whether an address may be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Claim {
    /// The address is free, and no other server may claim it until [`World::release_claims`].
    Held,
    /// Another starting server is looking at the same port. Ask again in a moment.
    Busy,
}

/// A message to the service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Notice {
    Ready,
    Reloading,
    Stopping,
    /// This process is the service's main process.
    MainIsThis,
    MainIs(ProcessId),
}

/// An operation on the names of a server: the control socket's path and the pid file. One master has them at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Names {
    /// The control socket's path leads to this master, whichever process had it. The old master stays reachable at a
    /// name of its own, if it lives.
    TakeControl { from: Option<ProcessId> },
    /// The pid file names this master.
    WritePidFile,
    /// Another master has the names now. This one stays reachable at a name of its own.
    Yield,
    /// Another master will remove what is left of the names.
    Forget,
    /// Removes files that this ended process has left beside the names.
    Clean { after: ProcessId },
}

/// The world. Every method that can fail may fail at any time, and the core must handle that.
pub(crate) trait World {
    fn now(&self) -> Time;

    /// Reads the configuration again.
    fn read_configuration(&mut self) -> Result<Plan, Failure>;

    /// Checks whether an address on which this server does not listen yet is free. A path is free if only a file of a
    /// former server is there.
    fn claim(&mut self, address: Endpoint, file: SocketFile) -> Result<Claim, Failure>;
    /// Ends all claims: a process listens on every address, or none will. Other servers may look at the ports again.
    fn release_claims(&mut self);
    /// Creates a socket and binds it to the address's group, or to a path with these file settings. It is neither
    /// configured nor listening.
    fn bind(&mut self, address: Endpoint, file: SocketFile) -> Result<(SocketId, Endpoint), Failure>;
    /// Closes this master's copy of a listen socket. With the last copy, the path of a Unix socket is removed.
    fn close(&mut self, socket: SocketId);
    /// Accepts at most this many of the connections that wait at a listen socket.
    fn accept_waiting(&mut self, socket: SocketId, count_max: usize) -> Vec<ArrivalId>;
    fn is_listening(&self, socket: SocketId) -> bool;

    /// Loads programs for this many places without attaching them.
    fn load_steering(
        &mut self,
        addresses: &[Endpoint],
        places: usize,
        steering: Steering,
    ) -> Result<SteeringId, Failure>;
    /// Loads programs for another number of places over the same maps. The next [`World::steer`] uses them.
    fn resize_steering(&mut self, steering: SteeringId, places: usize) -> Result<(), Failure>;
    fn drop_steering(&mut self, steering: SteeringId);
    /// Attaches the programs. From now on new connections go to the listeners in these maps and, with `beside_old`,
    /// also to those in the old master's maps. Opens a guard where an address has none.
    fn steer(&mut self, steering: SteeringId, beside_old: bool, backlog: u32) -> Result<(), Failure>;
    /// Steers new connections to the guards alone: all listeners are parked.
    fn stand_alone(&mut self) -> Result<(), Failure>;
    /// Takes the listeners of a slot out of the maps.
    fn unset(&mut self, steering: SteeringId, slot: usize);
    /// Ends steering of this socket's group, even if another process began it.
    fn detach(&mut self, socket: SocketId);
    /// Accepts at most this many of the connections that wait at guards, except those of these addresses.
    fn empty_guards(&mut self, except: &[Endpoint], count_max: usize) -> Vec<ArrivalId>;
    /// Closes all guards except those of these addresses.
    fn keep_guards(&mut self, addresses: &[Endpoint]);

    fn fork(&mut self, spawn: Spawn) -> Result<ProcessId, Failure>;
    /// Sends an order to a worker of this master or an orphan. Returns `false` if that is not possible.
    fn tell(&mut self, process: ProcessId, order: &Order) -> bool;
    /// Lets a worker accept from a socket too ([`Order::Adopt`]). Returns `false` if the order cannot be sent.
    fn share(&mut self, process: ProcessId, socket: SocketId, address: Endpoint) -> bool;
    /// Hands a connection to a worker ([`Order::Take`]) and keeps a copy. Returns `false` if the order cannot be sent
    /// now.
    fn hand(&mut self, process: ProcessId, arrival: ArrivalId) -> bool;
    /// Hands a connection to the other master of an upgrade, which serves instead, without keeping a copy. Returns
    /// `false` if it cannot be sent.
    fn pass(&mut self, arrival: ArrivalId, to: OtherMaster) -> bool;
    /// Drops the copy of a connection that a worker has.
    fn forget_arrival(&mut self, arrival: ArrivalId);
    /// Kills a worker, an orphan or the new master. An event reports its end.
    fn kill(&mut self, process: ProcessId);
    /// Shuts the listen sockets of a hung worker, so that the connections that wait there move to others. Returns how
    /// many sockets.
    fn shut_listeners(&mut self, process: ProcessId) -> usize;
    /// The time of the last turn of a worker's loop.
    fn last_turn(&self, process: ProcessId) -> Time;
    /// The approximate size of a worker's own state, in bytes.
    fn state_bytes(&self, process: ProcessId) -> u64;
    /// What a worker has done since its start.
    fn load(&self, process: ProcessId) -> Load;
    /// Connections that are open at all workers of this master.
    fn open_connections(&self) -> u64;

    /// Starts a new binary, with a channel on which the greeting waits.
    fn start_binary(&mut self, upgrade: &Upgrade, greeting: Greeting) -> Result<(ProcessId, String), Failure>;
    fn tell_new(&mut self, message: &ToNew);
    fn tell_old(&mut self, message: &ToOld);
    /// Sends the new master copies of listen sockets that it was not started with.
    fn give_listeners_to_new(&mut self, sockets: &[(SocketId, Endpoint)]);
    /// Sends the old master copies of listen sockets.
    fn give_listeners_to_old(&mut self, sockets: &[(SocketId, Endpoint)]);
    /// Closes the channel to the new master that is gone.
    fn forget_new(&mut self);
    /// What of this master's state, names and rights a new binary with this introduction would lose.
    fn compare(&self, introduction: &ToOld) -> Vec<Loss>;
    /// This master's introduction for the old one.
    fn introduction(&self) -> ToOld;

    /// Finds workers of masters that have ended, except those known, and contacts each. Workers whose master lives do
    /// not answer.
    fn find_orphans(&mut self, known: &[ProcessId]) -> Vec<ProcessId>;

    fn names(&mut self, names: Names);
    fn notify(&mut self, notice: Notice);

    /// Begins the timeline of a handover: events from now on belong to it.
    fn begin_timeline(&mut self, kind: TimelineKind, generation: u32);
    /// Stores an event, logs it, and sends it to clients that watch.
    fn note(&mut self, generation: Option<u32>, event: EventKind);
    /// Answers a client, for the last time.
    fn reply(&mut self, client: ClientId, result: Result<Outcome, Failure>);
    /// A worker reports that its connections have moved or stay: its pauses count.
    fn count_pauses(&mut self, process: ProcessId);
    /// How long connections were paused since the last call.
    fn take_pauses(&mut self) -> Option<Pause>;
}
