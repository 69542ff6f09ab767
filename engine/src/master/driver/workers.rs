//! Workers of this master: forks them, sends orders, reads reports, kills and reaps them; and their telemetry pages.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use core_affinity::CoreId;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::allowance::Allowance;
use super::system;
use super::world::Driver;
use crate::endpoint::Endpoint;
use crate::ipc::channel::{self, Heard, is_nonsense};
use crate::ipc::control::{EventKind, Exit, Failure};
use crate::ipc::orders::{Order, Report};
use crate::master::core::{self, ConfigurationId, ProcessId, Spawn, Time};
use crate::sys::clock::monotonic_ns;
use crate::sys::process;
use crate::sys::shared_memory::Shared;
use crate::telemetry::pages::Telemetry;
use crate::telemetry::{Snapshot, WorkerPage};
use crate::worker::{Listeners, Setup};

/// Exit code of a worker that could not start or whose ring failed.
const EXIT_FAILED: i32 = 1;

struct Worker {
    process: ProcessId,
    generation: u32,
    slot: usize,
    configuration: ConfigurationId,
    /// Readable once it has ended. `None` on a kernel without such handles; SIGCHLD replaces it.
    handle: Option<OwnedFd>,
    /// `None` once the worker has closed its end.
    channel: Option<OwnedFd>,
    page: Arc<Shared<WorkerPage>>,
    /// The events that it had handled at the last look, and when their number was found to have changed.
    events: Cell<(u64, Time)>,
    /// Numbers of its listen sockets' descriptors, in its own table.
    listeners: Vec<RawFd>,
    /// This master has waited for it: another process may have its number by now.
    has_ended: bool,
    allowance: Allowance,
}

/// The workers of this master.
pub(super) struct Workers {
    /// In the order of their starts.
    all: Vec<Worker>,
    /// The doors of workers that take connections, by name.
    doors: BTreeMap<String, (ProcessId, OwnedFd)>,
    pub(super) telemetry: Telemetry,
    /// The numbers of ended workers, by generation.
    ended: BTreeMap<u32, Snapshot>,
}

impl Workers {
    pub(super) fn new(telemetry: Telemetry) -> Self {
        Self { all: Vec::new(), doors: BTreeMap::new(), telemetry, ended: BTreeMap::new() }
    }

    pub(super) fn processes(&self) -> Vec<ProcessId> {
        self.all.iter().map(|worker| worker.process).collect()
    }

    fn of(&self, process: ProcessId) -> Option<&Worker> {
        self.all.iter().find(|worker| worker.process == process)
    }

    fn of_mut(&mut self, process: ProcessId) -> Option<&mut Worker> {
        self.all.iter_mut().find(|worker| worker.process == process)
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let descriptors = self.all.iter().flat_map(|worker| {
            let channel = worker.channel.iter().filter(|_| worker.allowance.opens_at().is_none());
            channel.chain(&worker.handle)
        });
        descriptors.map(AsFd::as_fd)
    }

    /// When the messages of the next worker that sent too many are read again.
    pub(super) fn opens_at(&self) -> Option<Time> {
        self.all.iter().filter_map(|worker| worker.allowance.opens_at()).min()
    }

    /// Whether messages of a worker are read now. They are not if it has sent too many.
    pub(super) fn is_open(&mut self, process: ProcessId, now: Time) -> bool {
        self.of_mut(process).is_some_and(|worker| worker.allowance.is_open(now))
    }

    pub(super) fn is_known(&self, process: ProcessId) -> bool {
        self.of(process).is_some()
    }

    pub(super) fn tell(&self, process: ProcessId, order: &Order, descriptors: &[BorrowedFd<'_>]) -> bool {
        let channel = self.of(process).and_then(|worker| worker.channel.as_ref());
        channel.is_some_and(|channel| channel::tell_with_all(channel, order, descriptors).is_ok())
    }

    /// Hands a reopened access log to the workers of a configuration.
    fn hand_log(&self, configuration: ConfigurationId, log: &OwnedFd) {
        for worker in self.all.iter().filter(|worker| worker.configuration == configuration) {
            let Some(channel) = &worker.channel else { continue };
            if let Err(error) = channel::tell_with(channel, &Order::AccessLog, log.as_fd()) {
                let pid = worker.process.0;
                tracing::error!(pid, %error, "USR1: this worker keeps appending to the old access log until it is replaced");
            }
        }
    }

    /// The door with this name.
    pub(super) fn door(&self, name: &str) -> Option<&OwnedFd> {
        self.doors.get(name).map(|(_, door)| door)
    }

    /// Reads the next message of a worker.
    pub(super) fn hear(&mut self, process: ProcessId, now: Time) -> Option<core::Event> {
        let worker = self.of_mut(process)?;
        loop {
            let (report, descriptor) = match channel::hear_with::<Report>(worker.channel.as_ref()?) {
                Ok((Heard::Message(report), descriptor)) => (report.bounded(), descriptor),
                Ok((Heard::Nothing, _)) => return None,
                Err(error) if is_nonsense(&error) => (worker.allowance.nonsense(now, process, &error), None),
                Ok((Heard::End, _)) | Err(_) => {
                    worker.channel = None;
                    return Some(core::Event::ChannelEnded(process));
                }
            };
            worker.allowance.count();
            let is_open = worker.allowance.is_open(now);
            if let Some(report) = worker.allowance.pass(now, report) {
                worker.heard(&report);
                if let Report::Ready { meeting, .. } = &report {
                    self.keep_door(process, meeting.as_deref(), descriptor);
                }
                return Some(core::Event::Report(process, report));
            } else if !is_open {
                return None;
            }
        }
    }

    /// Keeps a worker's door. It has one, with a unique name. From now on the worker must send no more descriptors.
    fn keep_door(&mut self, process: ProcessId, name: Option<&str>, door: Option<OwnedFd>) {
        let channel = self.of(process).and_then(|worker| worker.channel.as_ref());
        channel.into_iter().for_each(channel::refuse_descriptors);
        if let (Some(name), Some(door)) = (name, door)
            && self.doors.values().all(|(owner, _)| *owner != process)
        {
            self.doors.entry(name.to_owned()).or_insert((process, door));
        }
    }

    /// A worker's exit status, once it has ended.
    pub(super) fn reap(&mut self, process: ProcessId) -> Option<Exit> {
        let exit = reap(process)?;
        if let Some(worker) = self.of_mut(process) {
            worker.has_ended = true;
        }
        Some(exit)
    }

    /// Forgets a worker that has ended, after all its messages were read.
    pub(super) fn forget(&mut self, process: ProcessId) {
        let Some(index) = self.all.iter().position(|worker| worker.process == process) else { return };
        let worker = self.all.remove(index);
        self.doors.retain(|_, (owner, _)| *owner != process);
        // It has no connections any more, however it ended.
        let last = Snapshot { open: 0, ..worker.page.snapshot() };
        self.ended.entry(worker.generation).or_default().add(&last);
        self.telemetry.retire(&worker.page);
    }

    /// The numbers of a generation's ended workers.
    pub(super) fn ended(&self, generation: u32) -> Snapshot {
        self.ended.get(&generation).cloned().unwrap_or_default()
    }

    /// Drops the numbers of generations that are not shown any more.
    pub(super) fn retain_ended(&mut self, is_wanted: impl Fn(u32) -> bool) {
        let living: Vec<u32> = self.all.iter().map(|worker| worker.generation).collect();
        self.ended.retain(|generation, _| is_wanted(*generation) || living.contains(generation));
    }

    pub(super) fn kill(&self, process: ProcessId) {
        if let Some(worker) = self.of(process).filter(|worker| !worker.has_ended) {
            kill_child(process, worker.handle.as_ref());
        }
    }

    pub(super) fn page(&self, process: ProcessId) -> Option<&WorkerPage> {
        self.of(process).map(|worker| &**worker.page)
    }

    /// When a worker last began a turn, or was last seen to make progress within one.
    pub(super) fn last_sign(&self, process: ProcessId) -> Time {
        let Some(worker) = self.of(process) else { return Time(0) };
        let (seen, mut at) = worker.events.get();
        let events = worker.page.events.get();
        if events != seen {
            at = Time(monotonic_ns());
            worker.events.set((events, at));
        }
        at.max(Time(worker.page.turn_at_ns.get()))
    }

    pub(super) fn open_connections(&self) -> u64 {
        self.all.iter().fold(0, |sum, worker| sum.saturating_add(worker.page.open.get()))
    }

    /// Moves connections that wait at a worker's listeners to others, whatever holds the sockets open. Returns the
    /// number of listeners.
    pub(super) fn shut_listeners(&self, process: ProcessId) -> usize {
        let Some(worker) = self.of(process) else { return 0 };
        let Some(handle) = &worker.handle else { return 0 };
        let copies = worker.listeners.iter().filter_map(|number| process::descriptor_of(handle.as_fd(), *number).ok());
        copies
            .filter(|copy| {
                let socket = socket2::SockRef::from(copy);
                // The number may refer to another file by now, so only a listener is shut.
                socket.is_listener().unwrap_or(false)
                    // All workers share a Unix socket: a shutdown would affect all of them.
                    && !matches!(socket.domain(), Ok(socket2::Domain::UNIX))
                    && socket.shutdown(Shutdown::Read).is_ok()
            })
            .count()
    }
}

impl Worker {
    fn heard(&mut self, report: &Report) {
        if let Report::Ready { core, connections_max, listeners, .. } = report {
            self.listeners.clone_from(listeners);
            let (generation, slot, pid) = (self.generation, self.slot, self.process.0);
            let event = EventKind::WorkerReady { slot, pid }.name();
            tracing::info!(generation, %event, slot, pid, core, connections_max, "worker ready");
        }
    }
}

impl Driver<'_> {
    /// Reopens access logs after they were renamed. Workers write to the old files until they have the new ones, so no
    /// line is lost.
    pub(super) fn reopen_logs(&mut self) {
        let reopened = self.configurations.reopen_logs();
        reopened.iter().for_each(|(configuration, log)| self.workers.hand_log(*configuration, log));
        if reopened.is_empty() {
            tracing::info!("USR1: there is no access log file to reopen");
        } else {
            tracing::info!("USR1: reopened the access log");
        }
    }

    pub(super) fn fork_worker(&mut self, spawn: Spawn) -> Result<ProcessId, Failure> {
        let Spawn { plan, generation, slot, listeners, bound, steering, succeeds } = spawn;
        let copies = self.sockets.copies(&listeners.copies)?;
        // Dropping them closes this master's copies, whether the fork succeeds or not.
        let first = self.sockets.take(&listeners.first);
        let listeners = Listeners { first, own: listeners.own.iter().filter_map(Endpoint::internet).collect(), copies };
        let configuration = self.configurations.get(plan.configuration)?;
        let mut settings = crate::config::Settings { workers: plan.workers, ..configuration.settings.clone() };
        settings.listen.iter_mut().zip(bound).for_each(|(listener, bound)| listener.address = bound);
        let (service, identity) = (configuration.service.clone(), configuration.identity.clone());
        let access_log = configuration.access_log.as_ref().map(OwnedFd::try_clone).transpose();
        let access_log = access_log.map_err(system("the access log"))?;
        let cores = cores();
        let pinned = cores.get(slot).copied();
        if pinned.is_none() {
            tracing::warn!(slot, cores = cores.len(), "no free core is left for this worker, so it is not pinned");
        }
        let steering = steering.map(|steering| self.sockets.steering(steering, slot)).transpose()?;
        let (steering, loads) = steering.unwrap_or_default();
        let (ours, theirs) = channel::pair().map_err(system("socketpair"))?;
        let page = self.workers.telemetry.add_page().map_err(system("mapping telemetry"))?;
        let master = Pid::this();
        match process::fork_single_threaded() {
            Ok(ForkResult::Parent { child }) => {
                let process = ProcessId(child.as_raw() as u32);
                tracing::debug!(generation, slot, pid = process.0, "worker forked");
                self.workers.all.push(Worker {
                    process,
                    generation,
                    slot,
                    configuration: plan.configuration,
                    handle: process::open(child).ok(),
                    channel: Some(ours),
                    page,
                    events: Cell::default(),
                    listeners: Vec::new(),
                    has_ended: false,
                    allowance: Allowance::default(),
                });
                Ok(process)
            }
            Ok(ForkResult::Child) => {
                drop(ours);
                // Otherwise, if this master were killed, no process would find a worker that hangs before it is ready.
                if process::end_with_parent(master).is_err() {
                    process::exit(EXIT_FAILED);
                }
                let setup = Setup {
                    slot,
                    generation,
                    core: pinned,
                    settings,
                    listeners,
                    steering,
                    loads,
                    page,
                    control: theirs,
                    identity,
                    access_log,
                    rendezvous: self.rendezvous.clone(),
                    succeeds,
                    signals: true,
                };
                self.forget_all(&setup.page);
                let result = service.run(setup);
                process::exit(if result.is_ok() { 0 } else { EXIT_FAILED })
            }
            Err(error) => {
                self.workers.telemetry.retire(&page);
                Err(system("fork")(error))
            }
        }
    }

    /// In a new worker: the other workers' channels must end with the master, listen sockets must end with the workers
    /// that serve them, and this worker must not change the counters of others.
    fn forget_all(&mut self, page: &Arc<Shared<WorkerPage>>) {
        self.workers.all.clear();
        self.workers.telemetry.forget_others(page);
        self.workers.doors.clear();
        self.configurations.close_logs();
        self.sockets = Default::default();
        self.old = None;
        self.new = None;
        self.orphans = Default::default();
        self.doors_elsewhere.clear();
        self.clients = Default::default();
        self.exporter = Default::default();
        if let Some(mut control) = self.control.take() {
            // The file belongs to the master.
            control.forget();
        }
    }
}

/// The cores to which workers are pinned, by slot.
pub(super) fn cores() -> Vec<CoreId> {
    core_affinity::get_core_ids().unwrap_or_default()
}

/// A child's exit status, once it has ended; waits for it once.
pub(super) fn reap(process: ProcessId) -> Option<Exit> {
    match waitpid(Pid::from_raw(process.0 as i32), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => None,
        Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal as i32)),
        Ok(_) | Err(_) => Some(Exit::Unknown),
    }
}

/// Kills a child that was not waited for yet, so its number still belongs to it.
pub(super) fn kill_child(process: ProcessId, handle: Option<&OwnedFd>) {
    let is_told = handle.is_some_and(|handle| process::kill(handle.as_fd()).is_ok());
    if !is_told {
        let _ = kill(Pid::from_raw(process.0 as i32), Signal::SIGKILL);
    }
}
