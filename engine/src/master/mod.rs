//! The control path: starts generations of workers, watches over them, replaces them, stops them. Single-threaded, since
//! it forks; never waits for one worker, since others may need it.
//!
//! The listen socket's first steps are the master's: it creates and binds one socket per address, so that a taken or
//! forbidden port fails before anything is forked; the first worker inherits and listens; then the master closes its
//! copies and holds no worker's listen socket (except in the tier adopt, whose whole point this is).

mod generation;
mod journal;
mod leave;
mod listeners;
mod moves;
mod notify;
mod orphans;
mod pid_file;
mod predecessor;
mod requests;
mod scale;
mod start;
mod status;
mod successor;
mod supervise;

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::generation::{Generation, Phase};
use self::journal::Journal;
use self::leave::Stop;
use self::listeners::Kept;
use self::moves::Moves;
use self::orphans::Orphan;
use self::predecessor::Predecessor;
pub use self::predecessor::refuse_upgrade;
use self::successor::{Successor, Upgrade};
use crate::config::{Control, Handover, Settings};
use crate::error::ServerError;
use crate::handover::Tier;
use crate::ipc::control::Reply;
use crate::ipc::control::server::ControlSocket;
use crate::ipc::relay::ToOld;
use crate::ipc::rendezvous::{self};
use crate::service::{Reload, Service};
use crate::steering::{self, Guard};
use crate::sys::features::Features;
use crate::sys::listener::Reservation;
use crate::telemetry::pages::Telemetry;
use crate::worker::StartError;

struct Master<'a> {
    tier: Tier,
    tier_reason: String,
    began: Instant,
    control: Option<ControlSocket>,
    /// Under which workers are found by a later master; `None` without a control socket.
    key: Option<String>,
    journal: Journal,
    signals: SignalFd,
    reload: Option<Reload<'a>>,
    telemetry: Telemetry,
    /// Oldest first.
    generations: Vec<Generation<'a>>,
    next_number: u32,
    next_operation: u32,
    /// Of the generation that served last, as configured and as bound.
    addresses: Vec<(SocketAddr, SocketAddr)>,
    guards: Vec<Guard>,
    kept: Vec<Kept>,
    next_kept: u32,
    /// Of addresses nobody listens on yet.
    reservations: Vec<Reservation>,
    /// Connections that came to the master and that no worker has taken yet.
    held: VecDeque<OwnedFd>,
    /// Whose turn it is to be handed a connection.
    turn: usize,
    /// Workers of a master that is gone.
    orphans: Vec<Orphan>,
    /// What this process runs, to be run again; the file may be another one by then.
    executable: PathBuf,
    pid_file: Option<PathBuf>,
    has_pid_file: bool,
    /// The new master of an upgrade under way.
    successor: Option<Successor>,
    /// The channel to a new master that stays, which sees this one's end by it.
    relay: Option<OwnedFd>,
    /// The old master, where this one is new.
    predecessor: Option<Predecessor>,
    /// The new master takes listeners over in the same way.
    is_succeeded_alike: bool,
    /// Where workers of another master, which serves instead of this one, can be brought connections.
    heirs_elsewhere: Vec<String>,
    /// What has become of connections since workers were last told to leave.
    moves: Moves,
    /// Another master stays: this one ends when its workers have.
    is_leaving: bool,
    /// How the last upgrade that did not last ended.
    last_revert: Option<String>,
    /// A generation of this master's has served.
    has_served: bool,
    /// What served last, to serve again.
    last: Option<(Settings, Service<'a>)>,
    /// Clients that wait for the upgrade's being final.
    commit: Option<u32>,
    /// When workers of a new master that is gone are looked for again.
    second_look: Option<Instant>,
    /// How often a service manager wants to be told that this master lives, and when next.
    watchdog: Option<(Duration, Instant)>,
    /// When workers are looked at next.
    next_look: Instant,
    /// Another reload was asked for while one was under way.
    reload_again: bool,
    /// Workers were told to leave, and the master to stay.
    is_idle: bool,
    stopping: bool,
    /// Workers lost while the server was to serve or to end in good order, and not replaced.
    died: usize,
    fatal: Option<ServerError>,
}

pub(crate) fn run<'a>(
    settings: Settings,
    service: Service<'a>,
    reload: Option<Reload<'a>>,
    telemetry: Telemetry,
) -> Result<(), ServerError> {
    let predecessor = Predecessor::meet()?;
    let pid_file = settings.pid_file.clone();
    let result = Master::new(&settings, reload, telemetry, predecessor.as_ref());
    let mut master = match result {
        Ok(master) => master,
        Err(error) => {
            if let Some(predecessor) = predecessor {
                predecessor.tell(&ToOld::Failed { reason: error.to_string() });
            }
            return Err(error);
        }
    };
    master.predecessor = predecessor;
    master.pid_file = pid_file;
    let result = master.start(settings, service).and_then(|()| master.watch());
    master.kill_all();
    if let (Err(error), Some(predecessor)) = (&result, &master.predecessor) {
        predecessor.tell(&ToOld::Failed { reason: error.to_string() });
    }
    master.remove_pid_file();
    if let Some(control) = &mut master.control {
        control.conclude_end(&match &result {
            Ok(()) => Reply::Done { message: "stopped".to_owned() },
            Err(error) => Reply::Failed { reason: error.to_string() },
        });
        control.flush();
    }
    result
}

impl<'a> Master<'a> {
    fn new(
        settings: &Settings,
        reload: Option<Reload<'a>>,
        telemetry: Telemetry,
        predecessor: Option<&Predecessor>,
    ) -> Result<Self, ServerError> {
        // Asked here as well as in the workers, so that the answer comes before anything is bound or forked.
        Features::probe().map_err(StartError::from)?;
        settings.check_identity()?;
        let steering::Chosen { tier, reason } = choose_tier(settings.handover, predecessor)?;
        tracing::info!(%tier, %reason, "handover of listeners");
        let signals = watch_signals().map_err(|source| ServerError::System { what: "signalfd", source })?;
        let control = open_control(&settings.control, predecessor.is_some())?;
        let executable = std::env::current_exe()
            .map_err(|source| ServerError::System { what: "the path of this program", source })?;
        Ok(Master {
            tier,
            tier_reason: reason,
            began: Instant::now(),
            key: control.as_ref().map(|control| rendezvous::key(control.name())),
            control,
            journal: Journal::default(),
            signals,
            reload,
            telemetry,
            generations: Vec::new(),
            next_number: 1,
            next_operation: 1,
            addresses: Vec::new(),
            guards: Vec::new(),
            kept: Vec::new(),
            next_kept: 1,
            reservations: Vec::new(),
            held: VecDeque::new(),
            turn: 0,
            orphans: Vec::new(),
            executable,
            pid_file: None,
            has_pid_file: false,
            successor: None,
            relay: None,
            predecessor: None,
            is_succeeded_alike: false,
            heirs_elsewhere: Vec::new(),
            moves: Moves::default(),
            is_leaving: false,
            last_revert: None,
            has_served: false,
            last: None,
            commit: None,
            second_look: None,
            watchdog: notify::watchdog_interval().map(|interval| (interval, Instant::now())),
            next_look: Instant::now(),
            reload_again: false,
            is_idle: false,
            stopping: false,
            died: 0,
            fatal: None,
        })
    }
}

/// A new binary goes on as the old one did, unless it was told otherwise, so that nothing is lost on the way.
fn choose_tier(wanted: Handover, predecessor: Option<&Predecessor>) -> Result<steering::Chosen, ServerError> {
    let before = predecessor.filter(|_| wanted == Handover::Auto).and_then(|one| Tier::wanted(&one.tier));
    if let Some(Ok(steering::Chosen { tier, .. })) = before.map(steering::choose) {
        return Ok(steering::Chosen { tier, reason: "as before the upgrade".to_owned() });
    }
    steering::choose(wanted).map_err(ServerError::Handover)
}

fn open_control(control: &Control, is_upgrade: bool) -> Result<Option<ControlSocket>, ServerError> {
    let (path, is_required) = match control {
        Control::Off => return Ok(None),
        Control::IfFree(path) => (path, false),
        Control::At(path) => (path, true),
    };
    let problem = match ControlSocket::open(path) {
        Ok(socket) => {
            tracing::info!(path = %socket.name().display(), "control socket");
            return Ok(Some(socket));
        }
        // The old master's name: it is taken over when this one serves.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_upgrade => {
            match ControlSocket::open_beside(path) {
                Ok(socket) => return Ok(Some(socket)),
                Err(error) => error.to_string(),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            "another server listens there; stop it, or choose another path".to_owned()
        }
        Err(error) => error.to_string(),
    };
    if is_required {
        return Err(ServerError::Control { path: path.clone(), problem });
    }
    tracing::warn!(path = %path.display(), "no control socket, the server cannot be asked by batonctl: {problem}");
    Ok(None)
}

fn watch_signals() -> io::Result<SignalFd> {
    let signals = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGWINCH,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCHLD,
    ];
    let signals: SigSet = signals.into_iter().collect();
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

impl<'a> Master<'a> {
    fn start(&mut self, settings: Settings, service: Service<'a>) -> Result<(), ServerError> {
        let kind = if self.predecessor.is_some() {
            self.inherit();
            "upgrade"
        } else if self.find_orphans()? {
            "takeover"
        } else {
            "start"
        };
        self.begin(settings, service, kind).map(drop)
    }

    /// Until no worker is left.
    fn watch(&mut self) -> Result<(), ServerError> {
        while !self.is_over() {
            self.wait().map_err(|source| ServerError::System { what: "poll", source })?;
            self.read_signals();
            // Before requests: what is asked next may follow from what the other master has said.
            self.hear_successor();
            self.hear_predecessor();
            self.hear_relay();
            self.serve_control();
            self.hear_workers();
            self.hear_orphans();
            self.reap();
            self.reap_successor();
            self.check_deadlines();
            self.look_at_workers();
            self.hand_out();
            self.conclude_moves();
            self.forget_gone();
            if let Some(control) = &mut self.control {
                control.flush();
            }
            if let Some(error) = self.fatal.take() {
                return Err(error);
            }
        }
        if self.died > 0 { Err(ServerError::WorkersDied { count: self.died }) } else { Ok(()) }
    }

    fn is_over(&self) -> bool {
        let waits_for_reload = self.is_idle && !self.stopping && !self.is_leaving;
        self.generations.is_empty() && !self.orphans.iter().any(Orphan::is_heard) && !waits_for_reload
    }

    /// Waits for a signal, a report, a connection at the guard, the end of a worker, or the next deadline.
    fn wait(&self) -> io::Result<()> {
        let mut writable = Vec::new();
        let mut descriptors = vec![self.signals.as_fd()];
        for (descriptor, has_output) in self.control.iter().flat_map(ControlSocket::descriptors) {
            descriptors.push(descriptor);
            if has_output {
                writable.push(descriptor);
            }
        }
        for child in self.generations.iter().flat_map(Generation::children) {
            descriptors.extend(child.control.iter().chain(&child.process).map(AsFd::as_fd));
        }
        descriptors.extend(self.orphans.iter().map(Orphan::descriptor));
        descriptors.extend(self.successor.iter().flat_map(Successor::descriptors));
        descriptors.extend(self.predecessor.iter().map(Predecessor::descriptor));
        descriptors.extend(self.relay.iter().map(AsFd::as_fd));
        if self.held.is_empty() && self.taker().is_some() {
            descriptors.extend(self.guards.iter().map(Guard::descriptor));
            descriptors.extend(self.unattended().map(|kept| kept.socket.as_fd()));
        }
        // What is held is tried again soon: a worker's channel was full.
        let now = Instant::now();
        let retry = (!self.held.is_empty()).then(|| now + Duration::from_millis(10));
        let silent = self.control.iter().flat_map(ControlSocket::deadlines);
        let look = self.look_interval().map(|_| self.next_look);
        let deadline = self.deadlines().chain(retry).chain(silent).chain(look).chain(self.watchdog_at()).min();
        wait_ready(&descriptors, &writable, deadline.map(|deadline| deadline.saturating_duration_since(now)))
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // A signal may follow from what the other master has done, which it has said before.
            self.hear_successor();
            self.hear_predecessor();
            // A terminal sends WINCH when its window changes size; only what somebody sent on purpose counts.
            let is_sent = signal.ssi_code <= 0;
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGHUP) if self.successor.is_some() => {
                    if let Err(reason) = self.serve_beside_successor() {
                        tracing::warn!("HUP is ignored: {reason}");
                    }
                }
                Ok(Signal::SIGHUP) if self.is_changing() => self.reload_again = true,
                // What went wrong is logged.
                Ok(Signal::SIGHUP) => drop(self.reload()),
                Ok(Signal::SIGQUIT) => self.stop(Stop::Graceful { drain_ms: None }, "QUIT"),
                Ok(name @ (Signal::SIGTERM | Signal::SIGINT)) => self.stop(Stop::Fast, &name.as_str()[3..]),
                Ok(Signal::SIGWINCH) if is_sent => self.idle(),
                Ok(Signal::SIGUSR1) => {
                    tracing::info!("USR1: the log goes to standard error, there is no file to reopen")
                }
                Ok(Signal::SIGUSR2) => {
                    if let Err(reason) = self.upgrade(Upgrade { is_held: true, ..Upgrade::default() }) {
                        tracing::error!("USR2: no upgrade: {reason}");
                    }
                }
                _ => {}
            }
        }
    }

    /// Keeps what happened, and tells those who wait.
    fn event(&mut self, generation: Option<u32>, message: impl Display) {
        let event = self.journal.note(generation, message.to_string());
        if let Some(predecessor) = self.predecessor.as_ref().filter(|predecessor| predecessor.is_undecided()) {
            predecessor.tell(&ToOld::Event { generation, message: event.message.clone() });
        }
        if let Some(control) = &mut self.control {
            control.tell(event);
        }
    }

    fn new_operation(&mut self) -> u32 {
        self.next_operation += 1;
        self.next_operation - 1
    }

    /// An operation has ended in this way.
    fn conclude(&mut self, operation: u32, reply: &Reply) {
        if let Some(control) = &mut self.control {
            control.conclude(operation, reply);
        }
    }

    /// A generation starts or grows.
    fn is_changing(&self) -> bool {
        self.generations.iter().any(|generation| generation.phase == Phase::Starting || generation.growth.is_some())
    }

    fn serving(&self) -> Option<usize> {
        self.generations.iter().position(|generation| generation.phase == Phase::Serving)
    }
}

fn wait_ready(readable: &[BorrowedFd<'_>], writable: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> = readable.iter().map(|one| PollFd::new(*one, PollFlags::POLLIN)).collect();
    polled.extend(writable.iter().map(|one| PollFd::new(*one, PollFlags::POLLOUT)));
    let timeout = match timeout {
        // One more, so that a wait does not end just before its deadline.
        Some(timeout) => PollTimeout::try_from(timeout.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
