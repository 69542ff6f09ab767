//! The world as the core acts on it: a narrow trait, which the driver implements with the system and the simulator with a
//! model of it. No method waits; what takes time answers later by an [`Event`].

use super::types::{Address, ArrivalId, ClientId, Plan, ProcessId, Signal, SocketId, SteeringId, Time, Upgrade};
use crate::config::Steering;
use crate::endpoint::{Endpoint, SocketFile};
use crate::handover::Tier;
use crate::ipc::control::{
    ConnectionName, ConnectionOrder, EventKind, Exit, Failure, Loss, Outcome, Pause, Request as Asked, TimelineKind,
};
use crate::ipc::orders::{Order, Report};
use crate::ipc::relay::{ToNew, ToOld};

/// Something happened that the core has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The first one.
    Start(Plan),
    Signal(Signal),
    /// A client asks, and waits for the answer.
    Request(ClientId, Request),
    /// A client that waited has gone.
    ClientGone(ClientId),
    /// A worker of this master says something.
    Report(ProcessId, Report),
    /// A worker of this master has closed its end of the channel; its process may still live.
    ChannelEnded(ProcessId),
    /// A child of this master has ended: a worker, or the new master of an upgrade. Whatever it said before was reported.
    Ended(ProcessId, Exit),
    /// The new master that this one started says something.
    FromNew(ToOld),
    /// Listen sockets came with what the other master of an upgrade said; the driver knows which ones it has already.
    Listeners(Vec<(SocketId, Endpoint)>),
    /// The channel to the new master has ended, or what came through it made no sense.
    NewEnded {
        problem: Option<String>,
    },
    /// The old master that started this one says something.
    FromOld(ToNew),
    /// The channel to the old master has ended.
    OldEnded,
    /// A worker of a master that is gone says something.
    OrphanReport(ProcessId, Report),
    /// It has sent a copy of one of its listen sockets; the driver knows which ones it has already.
    OrphanListener(ProcessId, SocketId, Endpoint),
    /// Its channel has ended, which means that its process has.
    OrphanEnded(ProcessId),
    /// A connection came to a guard, to a kept socket whose worker is not there, or to the other master of an upgrade.
    Arrived(ArrivalId),
    /// Time has passed.
    Tick,
}

/// What a client of the control socket asks for, as far as the core decides it.
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
    /// Those of workers with this slot alone.
    pub(crate) worker: Option<usize>,
}

impl Request {
    /// The same of what was asked at the control socket; `None` for what the driver answers by itself.
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

/// What a worker has done since its start, and has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Load {
    /// Of its turns, as the worker says; a callback that waits is in it.
    pub(crate) busy_ns: u64,
    /// On a core, as the kernel says: what it does for the worker's sends is in it.
    pub(crate) on_cpu_ns: u64,
    pub(crate) open: u64,
}

/// What a worker is forked with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spawn {
    pub(crate) plan: Plan,
    pub(crate) generation: u32,
    pub(crate) slot: usize,
    pub(crate) listeners: Listeners,
    /// What the addresses of the plan are bound as, in their order.
    pub(crate) bound: Vec<Endpoint>,
    pub(crate) steering: Option<SteeringId>,
    /// It takes the place of another worker, whose state may come.
    pub(crate) succeeds: bool,
}

/// Where a worker's listen sockets come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Listeners {
    /// Bound and not listening: the worker gets the only copies, the master's are closed by the fork. In the tier ebpf, for
    /// the first worker.
    pub(crate) first: Vec<(SocketId, Endpoint)>,
    /// The worker makes these. In the tier ebpf, for the others.
    pub(crate) own: Vec<Endpoint>,
    /// The worker gets copies, the master keeps its own: those that are adopted.
    pub(crate) copies: Vec<(SocketId, Endpoint)>,
}

/// What a new master is told first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Greeting {
    pub(crate) next_number: u32,
    pub(crate) tier: Tier,
    pub(crate) is_held: bool,
    pub(crate) addresses: Vec<Address>,
    /// Listen sockets of the tier adopt that both may accept from. Those of Unix sockets follow, where the new master says
    /// that it knows them.
    pub(crate) listeners: Vec<(SocketId, Endpoint)>,
    /// The maps of listeners, with the number of places in use, where both are to serve (tier ebpf).
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

/// Whether an address may be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Claim {
    /// Nobody has it, and nobody else may claim it until [`World::release_claims`].
    Held,
    /// Another server that starts is looking at the same port: ask again in a moment.
    Busy,
}

/// What a service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Notice {
    Ready,
    Reloading,
    Stopping,
    /// This process is the service's main one.
    MainIsThis,
    MainIs(ProcessId),
}

/// The names of a server: the control socket's path and the pid file. One master has them at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Names {
    /// The control socket leads to this master, whoever had its name; the old master stays reachable beside it, if it lives.
    TakeControl { from: Option<ProcessId> },
    /// The pid file names this master.
    WritePidFile,
    /// Another master has the names now; this one stays reachable beside it.
    Yield,
    /// Whatever is left of the names is another master's to take away.
    Forget,
    /// Files that this process, which is gone, has left beside the names are removed.
    Clean { after: ProcessId },
}

/// See the module's head. Every method that can fail may fail at any time, and the core must cope.
pub(crate) trait World {
    fn now(&self) -> Time;

    /// Reads the configuration again.
    fn read_configuration(&mut self) -> Result<Plan, Failure>;

    /// Asks whether an address that this server does not listen on yet is free, or a path where such a file was left.
    fn claim(&mut self, address: Endpoint, file: SocketFile) -> Result<Claim, Failure>;
    /// A process listens on every address, or none will: other servers may look at the ports again.
    fn release_claims(&mut self);
    /// Creates and binds a socket of the address's group, or at a path, as such a file: not configured, not listening.
    fn bind(&mut self, address: Endpoint, file: SocketFile) -> Result<(SocketId, Endpoint), Failure>;
    /// Closes this master's copy of a listen socket. The path of a Unix socket goes with the last copy.
    fn close(&mut self, socket: SocketId);
    /// Accepts connections that wait at a listen socket, so many at most.
    fn accept_waiting(&mut self, socket: SocketId, count_max: usize) -> Vec<ArrivalId>;
    fn is_listening(&self, socket: SocketId) -> bool;

    /// Loads programs with so many places, not attached.
    fn load_steering(
        &mut self,
        addresses: &[Endpoint],
        places: usize,
        steering: Steering,
    ) -> Result<SteeringId, Failure>;
    /// Loads programs for another number of places over the same maps; they are used by the next [`World::steer`].
    fn resize_steering(&mut self, steering: SteeringId, places: usize) -> Result<(), Failure>;
    fn drop_steering(&mut self, steering: SteeringId);
    /// Attaches the programs: from now on new connections go to the listeners in these maps and, with `beside_old`, to those of
    /// the old master's maps too. Opens a guard where an address has none.
    fn steer(&mut self, steering: SteeringId, beside_old: bool, backlog: u32) -> Result<(), Failure>;
    /// Steers new connections to the guards alone: all listeners are parked.
    fn stand_alone(&mut self) -> Result<(), Failure>;
    /// Takes the listeners of a slot out of the maps.
    fn unset(&mut self, steering: SteeringId, slot: usize);
    /// Ends steering of this socket's group, also if another process began it.
    fn detach(&mut self, socket: SocketId);
    /// Accepts connections that wait at guards, but for those of these addresses; so many at most.
    fn empty_guards(&mut self, except: &[Endpoint], count_max: usize) -> Vec<ArrivalId>;
    /// Closes all guards but those of these addresses.
    fn keep_guards(&mut self, addresses: &[Endpoint]);

    fn fork(&mut self, spawn: Spawn) -> Result<ProcessId, Failure>;
    /// Tells a worker, of this master or an orphan; `false` where it cannot be told.
    fn tell(&mut self, process: ProcessId, order: &Order) -> bool;
    /// Lets a worker accept from a socket too ([`Order::Adopt`]); `false` where it cannot be told.
    fn share(&mut self, process: ProcessId, socket: SocketId, address: Endpoint) -> bool;
    /// Hands a connection to a worker ([`Order::Take`]) and keeps a copy; `false` where it cannot be told now.
    fn hand(&mut self, process: ProcessId, arrival: ArrivalId) -> bool;
    /// Hands a connection to the other master of an upgrade, which serves instead, without keeping a copy; `false` where it
    /// cannot be told.
    fn pass(&mut self, arrival: ArrivalId, to: OtherMaster) -> bool;
    /// Drops the copy of a connection that a worker has.
    fn forget_arrival(&mut self, arrival: ArrivalId);
    /// Kills a worker, an orphan or the new master; its end is told by an event.
    fn kill(&mut self, process: ProcessId);
    /// Shuts the listen sockets of a worker that hangs, so that what waits there moves to others; gives how many.
    fn shut_listeners(&mut self, process: ProcessId) -> usize;
    /// When a worker's last turn was.
    fn last_turn(&self, process: ProcessId) -> Time;
    /// About how much state of its own a worker has, bytes.
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
    /// What of this master's state, names and rights a new binary with these would lose.
    fn compare(&self, introduction: &ToOld) -> Vec<Loss>;
    /// What this master tells of itself to the old one.
    fn introduction(&self) -> ToOld;

    /// Finds workers of masters that are gone, except those known, and knocks at each; those whose master lives do not answer.
    fn find_orphans(&mut self, known: &[ProcessId]) -> Vec<ProcessId>;

    fn names(&mut self, names: Names);
    fn notify(&mut self, notice: Notice);

    /// A handover begins: what happens from now on is on its time line.
    fn begin_timeline(&mut self, kind: TimelineKind, generation: u32);
    /// Keeps what happened, logs it, and tells those who wait.
    fn note(&mut self, generation: Option<u32>, event: EventKind);
    /// Answers a client, for the last time.
    fn reply(&mut self, client: ClientId, result: Result<Outcome, Failure>);
    /// A worker's connections have moved or stay: its pauses count.
    fn count_pauses(&mut self, process: ProcessId);
    /// How long connections were held up since the last call.
    fn take_pauses(&mut self) -> Option<Pause>;
}
