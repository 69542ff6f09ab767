//! The control path: starts the workers, watches over them, stops them. Single-threaded, since it forks.
//!
//! The listen socket's first steps are the master's: it creates and binds one socket per address, so that a taken or
//! forbidden port fails before anything is forked; the first worker inherits and listens; then the master closes its
//! copies and holds no worker's listen socket. Workers leave by themselves when the master is gone, since the end of
//! their control channel means to drain.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::config::Settings;
use crate::protocol::Protocol;
use crate::server::ServerError;
use crate::sys::features::Features;
use crate::sys::process;
use crate::sys::shared_memory::Shared;
use crate::telemetry::WorkerPage;
use crate::worker::{self, Heard, Listeners, Order, Report, Setup, StartError};

/// A worker that is not ready by then has failed.
const READY_SECONDS_MAX: u64 = 10;

/// Beyond the workers' own drain time: then they are killed.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Exit code of a worker that could not start or whose ring failed.
const EXIT_FAILED: i32 = 1;

struct Child {
    slot: usize,
    pid: Pid,
    control: OwnedFd,
}

struct Master<'a> {
    settings: &'a Settings,
    signals: SignalFd,
    children: Vec<Child>,
    died: usize,
}

pub(crate) fn run<P: Protocol>(
    settings: &Settings,
    pages: &[Arc<Shared<WorkerPage>>],
    protocol: &impl Fn(usize) -> P,
) -> Result<(), ServerError> {
    // Asked here as well as in the workers, so that the answer comes before anything is bound or forked.
    Features::probe().map_err(StartError::from)?;
    for address in settings.listen.iter().filter(|address| address.port() != 0) {
        worker::check_free(*address)?;
    }
    let sockets = settings.listen.iter().map(|address| worker::bind(*address)).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<SocketAddr> = sockets.iter().map(|(_, address)| *address).collect();
    let signals = watch_signals().map_err(|source| ServerError::System { what: "signalfd", source })?;
    let mut master = Master { settings, signals, children: Vec::new(), died: 0 };
    let started = master.start(pages, protocol, sockets, &addresses);
    if let Err(error) = started {
        master.kill_all();
        return Err(error);
    }
    for address in &addresses {
        tracing::info!(%address, workers = settings.workers, "listening");
    }
    master.watch()
}

fn watch_signals() -> io::Result<SignalFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGCHLD].into_iter().collect();
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

impl Master<'_> {
    fn start<P: Protocol>(
        &mut self,
        pages: &[Arc<Shared<WorkerPage>>],
        protocol: &impl Fn(usize) -> P,
        sockets: Vec<(socket2::Socket, SocketAddr)>,
        addresses: &[SocketAddr],
    ) -> Result<(), ServerError> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        // The first worker listens before the others are forked: an error of its shows once, not once a worker.
        let mut inherited = Some(sockets);
        for (slot, page) in pages.iter().enumerate() {
            let core = cores.get(slot).copied();
            if core.is_none() {
                tracing::warn!(
                    slot,
                    cores = cores.len(),
                    "no core of its own is left for this worker; it is not pinned"
                );
            }
            let listeners = match inherited.take() {
                Some(sockets) => Listeners::Inherited(sockets),
                None => Listeners::Own(addresses.to_vec()),
            };
            let is_first = matches!(listeners, Listeners::Inherited(_));
            self.fork_worker(slot, core, Arc::clone(page), listeners, protocol)?;
            if is_first {
                self.await_ready(0)?;
            }
        }
        (1..self.children.len()).try_for_each(|index| self.await_ready(index))
    }

    fn fork_worker<P: Protocol>(
        &mut self,
        slot: usize,
        core: Option<CoreId>,
        page: Arc<Shared<WorkerPage>>,
        listeners: Listeners,
        protocol: &impl Fn(usize) -> P,
    ) -> Result<(), ServerError> {
        let system = |what| move |source| ServerError::System { what, source };
        let (ours, theirs) = worker::pair().map_err(system("socketpair"))?;
        match process::fork_single_threaded().map_err(system("fork"))? {
            ForkResult::Parent { child } => {
                // Dropping `listeners` here closes the master's copies of what the first worker inherited.
                self.children.push(Child { slot, pid: child, control: ours });
                Ok(())
            }
            ForkResult::Child => {
                drop(ours);
                // The others' channels must end with the master, so no sibling may keep them open.
                self.children.clear();
                let settings = self.settings.clone();
                let setup = Setup { slot, core, settings, listeners, page, control: theirs, signals: true };
                let result = worker::run(setup, || protocol(slot));
                process::exit(if result.is_ok() { 0 } else { EXIT_FAILED })
            }
        }
    }

    fn await_ready(&mut self, index: usize) -> Result<(), ServerError> {
        let child = &self.children[index];
        let (slot, pid) = (child.slot, child.pid.as_raw());
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        loop {
            let system = |source| ServerError::System { what: "the worker's channel", source };
            match worker::hear(&child.control).map_err(system)? {
                Heard::Message(Report::Ready { core, connections_max }) => {
                    tracing::info!(slot, pid, core, connections_max, "worker ready");
                    return Ok(());
                }
                Heard::Message(Report::Failed { reason }) => return Err(ServerError::Worker { slot, reason }),
                Heard::End => {
                    let reason = "it ended before it was ready".to_owned();
                    return Err(ServerError::Worker { slot, reason });
                }
                Heard::Nothing => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ServerError::NotReady { slot, pid, seconds: READY_SECONDS_MAX });
            }
            wait_readable(&[child.control.as_fd()], Some(left)).map_err(system)?;
        }
    }

    fn watch(&mut self) -> Result<(), ServerError> {
        let mut deadline: Option<Instant> = None;
        while !self.children.is_empty() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            wait_readable(&[self.signals.as_fd()], left)
                .map_err(|source| ServerError::System { what: "poll", source })?;
            while let Ok(Some(signal)) = self.signals.read_signal() {
                if signal.ssi_signo == Signal::SIGCHLD as u32 {
                    continue;
                }
                let name = Signal::try_from(signal.ssi_signo as i32).map_or("a signal", Signal::as_str);
                if deadline.is_none() {
                    tracing::info!(signal = name, "stopping: workers drain; once more stops them at once");
                    self.tell_all(Order::Drain);
                    deadline =
                        Some(Instant::now() + Duration::from_millis(self.settings.timeouts.drain_ms_max) + STOP_GRACE);
                } else {
                    tracing::info!(signal = name, "stopping at once");
                    self.tell_all(Order::Stop);
                    deadline = Some(Instant::now() + STOP_GRACE);
                }
            }
            self.reap(deadline.is_some());
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                tracing::warn!(workers = self.children.len(), "workers did not leave in time and are killed");
                self.kill_all();
            }
        }
        if self.died > 0 { Err(ServerError::WorkersDied { count: self.died }) } else { Ok(()) }
    }

    fn tell_all(&self, order: Order) {
        for child in &self.children {
            // A worker that is gone needs no order; it is reaped next.
            let _ = worker::tell(&child.control, &order);
        }
    }

    /// Forgets the children that have ended.
    fn reap(&mut self, is_stopping: bool) {
        let died = &mut self.died;
        self.children.retain(|child| match waitpid(child.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => true,
            Ok(WaitStatus::Exited(_, 0)) => {
                if !is_stopping {
                    tracing::warn!(slot = child.slot, pid = child.pid.as_raw(), "worker left by itself");
                }
                false
            }
            status => {
                *died += 1;
                tracing::error!(slot = child.slot, pid = child.pid.as_raw(), ?status, "worker died");
                false
            }
        });
    }

    fn kill_all(&mut self) {
        for child in self.children.drain(..) {
            let _ = kill(child.pid, Signal::SIGKILL);
            while waitpid(child.pid, None) == Err(Errno::EINTR) {}
        }
    }
}

fn wait_readable(descriptors: &[std::os::fd::BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> = descriptors.iter().map(|one| PollFd::new(*one, PollFlags::POLLIN)).collect();
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
