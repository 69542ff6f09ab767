//! The data path of one pinned process: the start, then the loop. It does not know which process started it: it gets
//! its listeners' addresses (or sockets), a control channel and a telemetry page.

mod budget;
mod event_loop;
mod idlest;
mod inspection;
pub(crate) mod lifecycle;
mod line;
mod listener;
mod load;
mod sandbox;
mod slab;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::geteuid;

use self::event_loop::{EventLoop, Parts};
use self::line::BULK_BUFFER_PARTS;
use self::listener::Listener;
use self::load::Load;
use self::sandbox::Files;
use crate::config::{self, Sandbox, Settings};
use crate::context::{AccessLog, Context, Inbox, Nobody, Worker};
use crate::endpoint::Endpoint;
use crate::helper;
use crate::ipc::channel::tell;
use crate::ipc::meeting::Meeting;
use crate::ipc::orders::Report;
use crate::ipc::rendezvous::Rendezvous;
use crate::messages::{Siblings, Who};
use crate::protocol::Protocol;
use crate::steering::{Loads, Steering};
use crate::sys::acceptor::Acceptor;
use crate::sys::clock::monotonic_ns;
use crate::sys::faults::reach;
use crate::sys::features::{Features, IoUringUnavailable};
use crate::sys::identity::Identity;
use crate::sys::listener::{ListenError, backlog_effective, bind, configure};
use crate::sys::process::outlive_parent;
use crate::sys::ring::{Operations, Ring, RingSizes};
use crate::sys::shared_memory::Shared;
use crate::telemetry::WorkerPage;

/// Submission entries. When they run out in a turn, the turn makes another system call.
const SUBMISSIONS: u32 = 1024;

/// The number of completion entries lies between these. It depends on what connections can have in flight.
const COMPLETIONS_MIN: u32 = 4096;
const COMPLETIONS_MAX: u32 = 65_536;

/// The kernel removes the ring of an ended process only later: 7 to 67 ms were measured (kernel 6.18).
const RING_TIME_MAX: Duration = Duration::from_millis(200);

/// Pause between two attempts.
const RING_PAUSE: Duration = Duration::from_millis(5);

/// Bytes of a completion entry.
const COMPLETION_BYTES: u64 = 16;

/// Descriptors kept for purposes other than connections.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error(transparent)]
    IoUring(#[from] IoUringUnavailable),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the ring could not be created ({source}); {advice}")]
    Ring { source: io::Error, advice: &'static str },
    #[error("the protocol failed to start: {0}")]
    Protocol(#[source] io::Error),
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("sandbox = \"on\" is not possible here: {source}; choose \"auto\" to serve without what is missing")]
    Sandbox { source: io::Error },
    #[error(
        "sandbox = \"on\" with folders to read needs Landlock: {source}; choose \"auto\" to serve without it, or remove the folders"
    )]
    Landlock { source: io::Error },
    #[error(
        "the limit of open files is {limit}, which leaves no room for connections; raise it (ulimit -n, or LimitNOFILE=)"
    )]
    Descriptors { limit: u64 },
}

/// Where a worker's listen sockets come from.
#[derive(Default)]
pub(crate) struct Listeners {
    /// Bound, not configured and not listening: what the first worker inherits.
    pub(crate) first: Vec<Inherited>,
    /// The worker creates these itself.
    pub(crate) own: Vec<SocketAddr>,
    /// Others have copies, and may listen already.
    pub(crate) copies: Vec<Inherited>,
}

/// A listen socket made by the master.
pub(crate) struct Inherited {
    /// Its identifier between master and worker.
    pub(crate) id: u32,
    pub(crate) socket: socket2::Socket,
    pub(crate) address: Endpoint,
}

/// Everything that a worker gets at its start.
pub(crate) struct Setup {
    pub(crate) slot: usize,
    pub(crate) generation: u32,
    pub(crate) core: Option<CoreId>,
    pub(crate) settings: Settings,
    pub(crate) listeners: Listeners,
    /// By address; empty if nothing steers.
    pub(crate) steering: Vec<Steering>,
    /// Where it reports its load; without pages if nothing reads it.
    pub(crate) loads: Loads,
    pub(crate) page: Arc<Shared<WorkerPage>>,
    pub(crate) control: OwnedFd,
    /// The identity under which it serves.
    pub(crate) identity: Option<Identity>,
    pub(crate) access_log: Option<OwnedFd>,
    /// The folder in which a later master looks for this worker. Without it, the worker leaves when its master is gone.
    pub(crate) rendezvous: Option<PathBuf>,
    /// It replaces another worker, which may bring its state.
    pub(crate) succeeds: bool,
    /// Whether TERM and QUIT to this process mean drain: only if the process belongs to the worker alone.
    pub(crate) signals: bool,
}

/// Runs a worker until it has drained. Reports `Ready` or `Failed` on the control channel.
pub(crate) fn run<P: Protocol>(setup: Setup, protocol: impl FnOnce() -> P) -> Result<(), StartError> {
    let (slot, is_own_process) = (setup.slot, setup.signals);
    match bring_up(setup, protocol) {
        Ok(mut event_loop) => {
            // From now on another master can find this worker.
            if is_own_process && let Err(error) = outlive_parent() {
                tracing::warn!(slot, %error, "this worker ends when its master does");
            }
            let result = if event_loop.report_ready() { event_loop.run() } else { Ok(()) };
            result.map_err(|source| StartError::System { what: "the ring failed", source })
        }
        Err((error, control)) => {
            tracing::debug!(slot, %error, "worker failed to start");
            let mut reason = error.to_string();
            reason.truncate(reason.floor_char_boundary(4096));
            let _ = tell(&control, &Report::Failed { reason });
            Err(error)
        }
    }
}

fn bring_up<P: Protocol>(setup: Setup, protocol: impl FnOnce() -> P) -> Result<EventLoop<P>, (StartError, OwnedFd)> {
    const { assert!(P::WORKER_STATE.is_none() || P::STATE.is_some(), "where a worker's state moves, so must connections") };
    let Setup { slot, generation, core, settings, listeners, steering, loads, page, control, .. } = setup;
    reach("worker:starting");
    // A worker thread in another program's process is left for that program to confine.
    let sandbox = if setup.signals { settings.sandbox } else { Sandbox::Off };
    // The order matters: memory and the ring are created on the core that uses them.
    helper::remember_cores();
    let core = core.filter(|core| core_affinity::set_for_current(*core)).map(|core| core.id);
    let system = |what| move |source| StartError::System { what, source };
    let made = (|| {
        let features = when_there_is_memory(IoUringUnavailable::is_out_of_memory, Features::probe)?;
        let addresses = listeners.first.len() + listeners.own.len() + listeners.copies.len();
        let sizing = Sizing::new(&settings, addresses, raise_descriptor_limit(), locked_limit())?;
        let operations = sandbox::operations(sandbox, P::SYSTEM_CALLS);
        let ring = open_ring(sizing.ring, features, operations).map_err(ring_error)?;
        let listeners = open_listeners(listeners, settings.limits.backlog)?;
        let mut rendezvous = setup.rendezvous.as_deref().and_then(|folder| {
            Rendezvous::open(folder)
                .inspect_err(|error| tracing::warn!(slot, %error, "if the master is killed, no other master can find this worker"))
                .ok()
        });
        // sendfile(2) to a connection that was reset raises it, and a program that embeds the engine may not ignore it.
        SigSet::from(Signal::SIGPIPE).thread_block().map_err(|error| system("the signal mask")(error.into()))?;
        let inbox = Inbox::new(settings.limits.mailbox_messages_max).map_err(system("eventfd"))?;
        let signals = setup.signals.then(event_loop::watch_signals).transpose().map_err(system("signalfd"))?;
        let meets = setup.signals && (P::STATE.is_some() || P::MESSAGES.is_some());
        let meeting =
            meets.then(Meeting::open).transpose().map_err(system("the sockets where connections are brought"))?;
        // Under a sandbox, rings cannot be created later.
        let acceptor = when_there_is_memory(is_out_of_memory, Acceptor::made).unwrap_or_default();
        // The map's descriptor leads to the loads of siblings. It is closed before any code of the protocol runs.
        let load = Load::open(loads, slot, monotonic_ns()).map_err(system("mapping the load"))?;
        // Everything that needs privilege exists now. The protocol's own code never has any.
        let files = sandbox::enter(sandbox, P::SYSTEM_CALLS, &settings.readable, setup.identity.as_ref(), slot)?;
        if let (Files::Denied, Some(rendezvous)) = (files, &mut rendezvous) {
            rendezvous.leave_name();
        }
        let mut context = Context::new(page, settings.limits.clone(), settings.timeouts.clone(), monotonic_ns());
        context.slot = slot;
        if settings.listen.iter().any(config::Listener::is_special) {
            context.listeners.clone_from(&settings.listen);
        }
        context.outbound_layers.clone_from(&settings.outbound_layers);
        let log = setup.access_log.map(crate::sys::access_log::AccessLog::new).transpose();
        context.access_log = log.map_err(system("the access log"))?.map(AccessLog::new);
        context.core = core;
        context.limits.connections_max = sizing.connections_max;
        context.siblings = P::MESSAGES.map(|_| {
            let name = meeting.as_ref().map_or_else(String::new, |meeting| meeting.name().to_owned());
            Box::new(Siblings::new(Who { name, slot, generation }, &context.limits))
        });
        let mut protocol = protocol();
        protocol.on_start(&mut Worker::new(&mut context, &inbox, &mut Nobody)).map_err(StartError::Protocol)?;
        for (listener, steering) in listeners.iter().zip(&steering) {
            let set = steering.set(slot as u32, listener.socket.as_fd());
            set.map_err(system("entering the listener for steering"))?;
        }
        let connections = settings.connections;
        let parts = Parts {
            ring,
            context,
            listeners,
            inbox,
            rendezvous,
            generation,
            signals,
            sizing,
            acceptor,
            load,
            meeting,
            connections,
            state_bytes_max: settings.state_bytes_max,
            state_too_large: settings.state_too_large,
            succeeds: setup.succeeds,
        };
        Ok((parts, protocol))
    })();
    match made {
        Ok((parts, protocol)) => Ok(EventLoop::new(protocol, parts, control)),
        Err(error) => Err((error, control)),
    }
}

/// If the limit of locked memory has no room for many completions, the ring gets fewer. The kernel keeps what does not
/// fit, which costs time under a burst and loses nothing.
fn open_ring(mut sizes: RingSizes, features: Features, operations: Operations) -> io::Result<Ring> {
    while sizes.completions > COMPLETIONS_MIN {
        match Ring::new(sizes, features, operations) {
            Err(error) if is_out_of_memory(&error) => sizes.completions /= 2,
            result => return result,
        }
    }
    when_there_is_memory(is_out_of_memory, || Ring::new(sizes, features, operations))
}

/// Waits a while if there is no memory to lock: the rings of ended workers count until the kernel has removed them.
fn when_there_is_memory<T, E>(is_missing: impl Fn(&E) -> bool, mut make: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let until = Instant::now() + RING_TIME_MAX;
    loop {
        match make() {
            Err(error) if is_missing(&error) && Instant::now() < until => std::thread::sleep(RING_PAUSE),
            result => return result,
        }
    }
}

fn is_out_of_memory(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOMEM)
}

fn ring_error(source: io::Error) -> StartError {
    let advice = match source.raw_os_error() {
        Some(libc::ENOMEM) => {
            "lower connections_max or receive_buffers, or raise the limit of locked memory (ulimit -l)"
        }
        Some(libc::EMFILE) => "raise the limit of open files (ulimit -n), or lower connections_max",
        _ => "see io_uring_setup(2)",
    };
    StartError::Ring { source, advice }
}

fn open_listeners(listeners: Listeners, backlog: u32) -> Result<Vec<Listener>, ListenError> {
    let Listeners { first, own, copies } = listeners;
    // No order names these listeners, and no copy has such a number.
    let own = own.into_iter().zip((0..u32::MAX).rev()).map(|(address, id)| {
        let (socket, address) = bind(address)?;
        Ok(Inherited { id, socket, address: address.into() })
    });
    let own = own.collect::<Result<Vec<_>, ListenError>>()?;
    // Steered listeners come first, in the order of their programs.
    let listening = first.into_iter().chain(own).chain(copies).map(|Inherited { id, socket, address }| {
        configure(&socket, address, backlog)?;
        Ok(Listener::new(id, socket, address))
    });
    listening.collect()
}

/// Raises the soft limit of open files to the hard one and returns it.
fn raise_descriptor_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    }
}

/// The memory that this process may lock; `None` if it has the privilege to lock any amount.
fn locked_limit() -> Option<u64> {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map(|(soft, _)| soft).ok()?;
    (!geteuid().is_root()).then_some(limit)
}

/// The sizes of things, computed from the settings and from what the system allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizing {
    /// The most connections that are accepted.
    pub(crate) connections_max: u32,
    /// The most connections that one multishot accept may bring before it can be cancelled.
    pub(crate) backlog: u32,
    /// The most connections that wait at one listener, whatever its backlog.
    pub(crate) queue_max: u32,
    /// Slots of the slab.
    pub(crate) slots: u32,
    pub(crate) ring: RingSizes,
}

impl Sizing {
    /// # Errors
    /// If no connection could be taken.
    pub(crate) fn new(
        settings: &Settings,
        listeners: usize,
        descriptors: u64,
        locked_bytes_max: Option<u64>,
    ) -> Result<Self, StartError> {
        let limits = &settings.limits;
        let reserved = DESCRIPTORS_RESERVED + 2 * listeners as u64;
        let allowed = descriptors.saturating_sub(reserved);
        let connections_max = limits.connections_max.min(u32::try_from(allowed).unwrap_or(u32::MAX));
        if descriptors <= reserved || connections_max == 0 {
            return Err(StartError::Descriptors { limit: descriptors });
        }
        let backlog = backlog_effective(limits.backlog);
        // Listeners that are added later make the loop cautious earlier; they need no more slots.
        let slots = connections_max.saturating_add(backlog.saturating_mul(listeners as u32)).saturating_add(64);
        let in_flight = connections_max.saturating_mul(2).saturating_add(u32::from(limits.receive_buffers));
        // Without privilege, all rings of a user count against one limit: two generations fit into half of it.
        let fitting = locked_bytes_max.map_or(COMPLETIONS_MAX, |bytes| {
            let share = bytes / (4 * settings.workers as u64) / COMPLETION_BYTES;
            u32::try_from(share)
                .unwrap_or(u32::MAX)
                .checked_next_power_of_two()
                .map_or(COMPLETIONS_MAX, |above| above / 2)
        });
        let completions = in_flight.min(fitting).clamp(COMPLETIONS_MIN, COMPLETIONS_MAX).next_power_of_two();
        Ok(Self {
            connections_max,
            backlog,
            queue_max: backlog_effective(u32::MAX),
            slots,
            ring: RingSizes {
                submissions: SUBMISSIONS,
                completions,
                buffers: limits.receive_buffers,
                buffer_bytes: limits.receive_buffer_bytes,
                // Half as much memory, for connections that wait in line.
                bulk_buffers: (limits.receive_buffers / (2 * BULK_BUFFER_PARTS as u16)).max(1),
                bulk_buffer_bytes: limits.receive_buffer_bytes.saturating_mul(BULK_BUFFER_PARTS as u32),
            },
        })
    }
}
