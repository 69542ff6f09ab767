//! The control path: starts generations of workers, watches over them, replaces them, stops them. Single-threaded, since
//! it forks; never waits for one worker, since others may need it.
//!
//! The listen socket's first steps are the master's: it creates and binds one socket per address, so that a taken or
//! forbidden port fails before anything is forked; the first worker inherits and listens; then the master closes its
//! copies and holds no worker's listen socket (except in the tier adopt, whose whole point this is). Workers leave by
//! themselves when the master is gone, since the end of their control channel means to drain.

mod generation;
mod status;

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::ForkResult;
use socket2::Socket;

use self::generation::{Child, Generation, Phase, Slot, State};
use crate::config::{Control, Settings};
use crate::control::server::{ControlSocket, Waiting};
use crate::control::{Event, Reply, Request};
use crate::handover::{self, Guard, Steering, Tier};
use crate::server::{Reload, ServerError, Service, Telemetry};
use crate::sys::features::Features;
use crate::sys::process;
use crate::worker::{self, Heard, Listeners, Order, Report, Reservation, Setup, StartError};

/// A worker that is not ready by then has failed.
const READY_SECONDS_MAX: u64 = 10;

/// Beyond the workers' own drain time: then they are killed.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Exit code of a worker that could not start or whose ring failed.
const EXIT_FAILED: i32 = 1;

/// Events kept for those who ask later.
const EVENTS_MAX: usize = 256;

/// Connections the master may hold for want of a worker that takes them.
const HELD_MAX: usize = 256;

/// A listen socket of the tier adopt: the master's copy. Its place among those of its address decides whose it is.
struct Kept {
    address: SocketAddr,
    socket: Socket,
    /// The generation it was made for.
    generation: u32,
}

struct Master<'a> {
    tier: Tier,
    tier_reason: String,
    began: Instant,
    control: Option<ControlSocket>,
    /// The last ones, oldest first.
    events: VecDeque<Event>,
    signals: SignalFd,
    reload: Option<Reload<'a>>,
    telemetry: Telemetry,
    /// Oldest first.
    generations: Vec<Generation<'a>>,
    next_number: u32,
    guards: Vec<Guard>,
    kept: Vec<Kept>,
    /// Of addresses nobody listens on yet.
    reservations: Vec<Reservation>,
    /// Connections that came to the master and that no worker has taken yet.
    held: VecDeque<OwnedFd>,
    /// Whose turn it is to be handed a connection.
    turn: usize,
    /// Another reload was asked for while one was under way.
    reload_again: bool,
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
    // Asked here as well as in the workers, so that the answer comes before anything is bound or forked.
    Features::probe().map_err(StartError::from)?;
    let handover::Chosen { tier, reason } = handover::choose(settings.handover).map_err(ServerError::Handover)?;
    tracing::info!(%tier, %reason, "handover of listeners");
    let signals = watch_signals().map_err(|source| ServerError::System { what: "signalfd", source })?;
    let control = open_control(&settings.control)?;
    let mut master = Master {
        tier,
        tier_reason: reason,
        began: Instant::now(),
        control,
        events: VecDeque::new(),
        signals,
        reload,
        telemetry,
        generations: Vec::new(),
        next_number: 1,
        guards: Vec::new(),
        kept: Vec::new(),
        reservations: Vec::new(),
        held: VecDeque::new(),
        turn: 0,
        reload_again: false,
        stopping: false,
        died: 0,
        fatal: None,
    };
    let result = master.begin(settings, service).and_then(|()| master.watch());
    master.kill_all();
    if let Some(control) = &mut master.control {
        control.conclude_end(&match &result {
            Ok(()) => Reply::Done { message: "stopped".to_owned() },
            Err(error) => Reply::Failed { reason: error.to_string() },
        });
        control.flush();
    }
    result
}

fn open_control(control: &Control) -> Result<Option<ControlSocket>, ServerError> {
    let (path, is_required) = match control {
        Control::Off => return Ok(None),
        Control::IfFree(path) => (path, false),
        Control::At(path) => (path, true),
    };
    let problem = match ControlSocket::open(path) {
        Ok(socket) => {
            tracing::info!(path = %socket.path().display(), "control socket");
            return Ok(Some(socket));
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
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGCHLD];
    let signals: SigSet = signals.into_iter().collect();
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

impl<'a> Master<'a> {
    /// Binds what is new and forks the first worker of a new generation; the others follow when it is ready.
    fn begin(&mut self, settings: Settings, service: Service<'a>) -> Result<(), ServerError> {
        let number = self.next_number;
        self.next_number += 1;
        let known: Vec<(SocketAddr, SocketAddr)> =
            self.generations.last().map(|generation| generation.addresses.clone()).unwrap_or_default();
        let mut addresses = Vec::new();
        let mut first = Vec::new();
        for requested in &settings.listen {
            // A port of 0 may be asked for twice, which means two ports.
            let bound = known.iter().find(|pair| pair.0 == *requested && !addresses.contains(*pair));
            let bound = bound.map(|(_, bound)| *bound);
            if bound.is_none() && requested.port() != 0 {
                self.reservations.push(worker::reserve(*requested)?);
            }
            let (socket, bound) = worker::bind(bound.unwrap_or(*requested))?;
            addresses.push((*requested, bound));
            first.push((socket, bound));
        }
        let workers = settings.workers;
        let steering = match self.tier {
            Tier::Ebpf => (0..addresses.len()).map(|_| Steering::load(workers as u32)).collect::<io::Result<_>>(),
            Tier::Adopt | Tier::Migrate => Ok(Vec::new()),
        };
        let steering =
            steering.map_err(|source| ServerError::System { what: "loading the steering program", source })?;
        let slots = (0..workers).map(|_| self.telemetry.add_page().map(Slot::new)).collect::<io::Result<_>>();
        let slots = slots.map_err(|source| ServerError::System { what: "mapping telemetry", source })?;
        let began = Instant::now();
        let phase = Phase::Starting;
        self.generations.push(Generation { number, settings, service, addresses, steering, slots, phase, began });
        self.event(Some(number), format_args!("starting, workers {workers}"));
        let generation = self.generations.len() - 1;
        let first = match self.tier {
            Tier::Adopt => {
                self.keep_sockets(generation, first)?;
                None
            }
            Tier::Ebpf | Tier::Migrate => Some(first),
        };
        self.fork_worker(generation, 0, first)
    }

    /// Sees to it that there is a socket per slot and address; `bound` has one of each, for the first use of an address.
    fn keep_sockets(&mut self, generation: usize, bound: Vec<(Socket, SocketAddr)>) -> Result<(), ServerError> {
        let (number, workers) = (self.generations[generation].number, self.generations[generation].slots.len());
        for (socket, address) in bound {
            let mut spare = Some(socket);
            while self.kept.iter().filter(|kept| kept.address == address).count() < workers {
                let socket = match spare.take() {
                    Some(socket) => socket,
                    None => worker::bind(address)?.0,
                };
                self.kept.push(Kept { address, socket, generation: number });
            }
        }
        Ok(())
    }

    /// The kept sockets that belong to a slot.
    fn kept_of(&self, generation: usize, slot: usize) -> impl Iterator<Item = &Kept> {
        let Generation { addresses, slots, .. } = &self.generations[generation];
        addresses.iter().flat_map(move |(_, address)| {
            let of_address = self.kept.iter().filter(move |kept| kept.address == *address);
            of_address.skip(slot).step_by(slots.len())
        })
    }

    fn fork_worker(
        &mut self,
        generation: usize,
        slot: usize,
        first: Option<Vec<(Socket, SocketAddr)>>,
    ) -> Result<(), ServerError> {
        let system = |what| move |source| ServerError::System { what, source };
        let listeners = match (first, self.tier) {
            (Some(sockets), _) => Listeners::Inherited(sockets),
            (None, Tier::Adopt) => {
                let copies = self.kept_of(generation, slot);
                let copies = copies.map(|kept| Ok((kept.socket.try_clone()?, kept.address))).collect::<io::Result<_>>();
                Listeners::Inherited(copies.map_err(system("copying a listen socket"))?)
            }
            (None, Tier::Ebpf | Tier::Migrate) => {
                Listeners::Own(self.generations[generation].addresses.iter().map(|(_, bound)| *bound).collect())
            }
        };
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let core = cores.get(slot).copied();
        let Generation { number, settings, service, steering, slots, .. } = &mut self.generations[generation];
        if core.is_none() {
            tracing::warn!(slot, cores = cores.len(), "no core of its own is left for this worker; it is not pinned");
        }
        let (ours, theirs) = worker::pair().map_err(system("socketpair"))?;
        match process::fork_single_threaded().map_err(system("fork"))? {
            ForkResult::Parent { child } => {
                // Dropping `listeners` here closes the master's copies of what the worker inherited.
                let since = Instant::now();
                slots[slot].state = State::Starting(Child { pid: child, control: Some(ours), since });
                tracing::debug!(generation = *number, slot, pid = child.as_raw(), "worker forked");
                Ok(())
            }
            ForkResult::Child => {
                drop(ours);
                let setup = Setup {
                    slot,
                    core,
                    settings: settings.clone(),
                    listeners,
                    steering: steering.clone(),
                    page: Arc::clone(&slots[slot].page),
                    control: theirs,
                    signals: true,
                };
                let service = service.clone();
                // The others' channels must end with the master, and listen sockets with those who serve them.
                self.generations.clear();
                if let Some(control) = self.control.take() {
                    control.forget();
                }
                self.guards.clear();
                self.kept.clear();
                self.reservations.clear();
                self.held.clear();
                let result = service.run(setup);
                process::exit(if result.is_ok() { 0 } else { EXIT_FAILED })
            }
        }
    }

    /// Until no worker is left.
    fn watch(&mut self) -> Result<(), ServerError> {
        while !self.generations.is_empty() {
            self.wait().map_err(|source| ServerError::System { what: "poll", source })?;
            self.read_signals();
            self.serve_control();
            self.hear_workers();
            self.reap();
            self.check_deadlines();
            self.hand_out();
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

    /// Waits for a signal, a report, a connection at the guard, or the next deadline.
    fn wait(&self) -> io::Result<()> {
        let mut writable = Vec::new();
        let mut descriptors = vec![self.signals.as_fd()];
        for (descriptor, has_output) in self.control.iter().flat_map(ControlSocket::descriptors) {
            descriptors.push(descriptor);
            if has_output {
                writable.push(descriptor);
            }
        }
        let children = self.generations.iter().flat_map(Generation::children);
        descriptors.extend(children.filter_map(|(_, child)| Some(child.control.as_ref()?.as_fd())));
        if self.held.is_empty() && self.taker().is_some() {
            descriptors.extend(self.guards.iter().map(Guard::descriptor));
            descriptors.extend(self.orphans().map(AsFd::as_fd));
        }
        // What is held is tried again soon: a worker's channel was full.
        let now = Instant::now();
        let retry = (!self.held.is_empty()).then(|| now + Duration::from_millis(10));
        let silent = self.control.iter().flat_map(ControlSocket::deadlines);
        let deadline = self.deadlines().chain(retry).chain(silent).min();
        wait_ready(&descriptors, &writable, deadline.map(|deadline| deadline.saturating_duration_since(now)))
    }

    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let of_phases = self.generations.iter().filter_map(|generation| match generation.phase {
            Phase::Leaving(deadline) => Some(deadline),
            Phase::Starting | Phase::Serving => None,
        });
        let slots = self.generations.iter().flat_map(|generation| &generation.slots);
        let of_slots = slots.filter_map(|slot| match &slot.state {
            State::Starting(child) => Some(child.since + Duration::from_secs(READY_SECONDS_MAX)),
            State::Waiting(until) => Some(*until),
            State::Gone | State::Ready(_) => None,
        });
        of_phases.chain(of_slots)
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGHUP) if self.is_starting() => self.reload_again = true,
                // What went wrong is logged.
                Ok(Signal::SIGHUP) => drop(self.reload()),
                Ok(name) => self.stop(name.as_str()),
                Err(_) => self.stop("a signal"),
            }
        }
    }

    fn is_starting(&self) -> bool {
        self.generations.iter().any(|generation| generation.phase == Phase::Starting)
    }

    /// Begins a generation of the configuration as it is now; gives its number.
    fn reload(&mut self) -> Result<u32, String> {
        if self.stopping {
            return Err("the server is stopping".to_owned());
        }
        if self.is_starting() {
            return Err("a reload is under way; ask again when it is over".to_owned());
        }
        let Some(reload) = &mut self.reload else {
            let reason = "this program gives no way to read its configuration again";
            tracing::warn!("reload is ignored: {reason}");
            return Err(reason.to_owned());
        };
        let started = match reload() {
            Ok((settings, service)) => {
                tracing::info!(generation = self.next_number, workers = settings.workers, "reload: starting");
                let result = match settings.validate() {
                    Ok(()) if settings.listen.is_empty() => Err(ServerError::NoAddress),
                    result => result.map_err(ServerError::from),
                };
                result.and_then(|()| self.begin(settings, service))
            }
            Err(problem) => Err(ServerError::Reload { problem }),
        };
        match started {
            Ok(()) => Ok(self.next_number - 1),
            Err(error) => {
                let reason = error.to_string();
                self.abandon(error);
                Err(reason)
            }
        }
    }

    fn serve_control(&mut self) {
        let Some(control) = &mut self.control else { return };
        for (client, request) in control.requests() {
            let reply = match request {
                Request::Status => Some(Reply::Status(self.status())),
                Request::Reload => match self.reload() {
                    Ok(number) => {
                        self.wait_for(client, Waiting::ForGeneration(number));
                        None
                    }
                    Err(reason) => Some(Reply::Failed { reason }),
                },
                Request::Stop { now } => {
                    self.wait_for(client, Waiting::ForEnd);
                    self.stop("batonctl");
                    if now {
                        self.stop("batonctl");
                    }
                    None
                }
                Request::Events { follow } => {
                    let events: Vec<Event> = self.events.iter().cloned().collect();
                    if let Some(control) = &mut self.control {
                        events.into_iter().for_each(|event| control.reply(client, &Reply::Event(event)));
                    }
                    self.wait_for(client, Waiting::ForEvents);
                    (!follow).then(|| Reply::Done { message: String::new() })
                }
            };
            if let (Some(reply), Some(control)) = (reply, &mut self.control) {
                control.reply(client, &reply);
            }
        }
    }

    fn wait_for(&mut self, client: usize, waiting: Waiting) {
        if let Some(control) = &mut self.control {
            control.wait_for(client, waiting);
        }
    }

    /// Keeps what happened, and tells those who wait.
    fn event(&mut self, generation: Option<u32>, message: impl Display) {
        let at_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let event = Event { at_us, generation, message: message.to_string() };
        if let Some(control) = &mut self.control {
            control.tell(&event);
        }
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Takes down the generation that was starting, if there is one; the one before serves on.
    fn abandon(&mut self, error: ServerError) {
        self.reservations.clear();
        if let Some(index) = self.generations.iter().position(|generation| generation.phase == Phase::Starting) {
            let mut generation = self.generations.remove(index);
            kill_children(&mut generation);
            self.event(Some(generation.number), format_args!("taken down: {error}"));
            if let Some(control) = &mut self.control {
                control.conclude(generation.number, &Reply::Failed { reason: error.to_string() });
            }
            // Sockets made for it may have got connections already; those of the one before are its own again.
            let (theirs, kept) =
                std::mem::take(&mut self.kept).into_iter().partition(|kept| kept.generation == generation.number);
            self.kept = kept;
            let theirs: Vec<Kept> = theirs;
            theirs.iter().for_each(|kept| self.empty(&kept.socket));
        }
        if self.generations.iter().any(|generation| generation.phase == Phase::Serving) {
            tracing::error!("reload failed, the workers serve on as before: {error}");
        } else {
            self.fatal = Some(error);
        }
    }

    fn stop(&mut self, signal: &str) {
        if self.stopping {
            tracing::info!(signal, "stopping at once");
            let deadline = Instant::now() + STOP_GRACE;
            for generation in &mut self.generations {
                tell_all(generation, Order::Stop);
                generation.phase = Phase::Leaving(deadline);
            }
            return;
        }
        tracing::info!(signal, "stopping: workers drain; once more stops them at once");
        self.stopping = true;
        self.event(None, format_args!("stopping, by {signal}"));
        // Whoever waits at the guard was let in.
        self.hand_out();
        for generation in &mut self.generations {
            if matches!(generation.phase, Phase::Leaving(_)) {
                // It need not settle any more.
                tell_all(generation, Order::Drain { settle_ms: 0, is_succeeded: false });
            } else {
                leave(generation, Order::Drain { settle_ms: 0, is_succeeded: false });
            }
        }
    }

    fn hear_workers(&mut self) {
        for generation in 0..self.generations.len() {
            for slot in 0..self.generations[generation].slots.len() {
                loop {
                    // A generation that failed is taken out of the list.
                    let Some(of) = self.generations.get_mut(generation) else { return };
                    let Some(child) = of.slots.get_mut(slot).and_then(Slot::child_mut) else { break };
                    let Some(control) = &child.control else { break };
                    match worker::hear(control) {
                        Ok(Heard::Message(report)) => self.heard(generation, slot, report),
                        Ok(Heard::Nothing) => break,
                        Ok(Heard::End) | Err(_) => {
                            child.control = None;
                            break;
                        }
                    }
                }
            }
        }
    }

    fn heard(&mut self, index: usize, slot: usize, report: Report) {
        let generation = &mut self.generations[index];
        match report {
            Report::Ready { core, connections_max } => {
                let mut became_ready = None;
                let worker = &mut generation.slots[slot];
                worker.state = match std::mem::replace(&mut worker.state, State::Gone) {
                    State::Starting(child) => {
                        let pid = child.pid.as_raw();
                        tracing::info!(
                            generation = generation.number,
                            slot,
                            pid,
                            core,
                            connections_max,
                            "worker ready"
                        );
                        became_ready = Some((generation.number, pid));
                        State::Ready(child)
                    }
                    other => other,
                };
                let is_starting = generation.phase == Phase::Starting;
                if let Some((number, pid)) = became_ready {
                    self.event(Some(number), format_args!("worker {slot} is ready, pid {pid}"));
                }
                if is_starting {
                    // Somebody listens on every address.
                    self.reservations.clear();
                    self.proceed(index);
                }
            }
            Report::Failed { reason } if generation.phase == Phase::Starting => {
                self.abandon(ServerError::Worker { slot, reason });
            }
            Report::Failed { reason } => {
                tracing::error!(generation = generation.number, slot, reason, "worker could not start");
            }
            Report::Leaving => generation.slots[slot].leaves = true,
        }
    }

    /// The next step of a generation that starts: after the first worker the others, after the last the switch.
    fn proceed(&mut self, index: usize) {
        let missing = self.generations[index].slots.iter().position(|slot| matches!(slot.state, State::Gone));
        let result = if missing.is_some() {
            let slots = 0..self.generations[index].slots.len();
            slots.into_iter().try_for_each(|slot| match self.generations[index].slots[slot].state {
                State::Gone => self.fork_worker(index, slot, None),
                _ => Ok(()),
            })
        } else if self.generations[index].is_ready() {
            self.switch(index)
        } else {
            Ok(())
        };
        if let Err(error) = result {
            self.abandon(error);
        }
    }

    /// Makes a generation that is ready the one that serves, and lets those before it leave.
    fn switch(&mut self, index: usize) -> Result<(), ServerError> {
        let generation = &self.generations[index];
        let backlog = generation.settings.limits.backlog;
        for ((_, address), steering) in generation.addresses.iter().zip(&generation.steering) {
            match self.guards.iter().find(|guard| guard.address == *address) {
                Some(guard) => {
                    let system = |source| ServerError::System { what: "attaching the steering program", source };
                    guard.switch(steering).map_err(system)?;
                }
                None => self.guards.push(Guard::open(*address, backlog, steering)?),
            }
        }
        let settle_ms = generation.settings.timeouts.settle_ms;
        let farewell = match self.tier {
            Tier::Adopt => Order::Drain { settle_ms: 0, is_succeeded: true },
            Tier::Ebpf | Tier::Migrate => Order::Drain { settle_ms, is_succeeded: false },
        };
        for before in &mut self.generations[..index] {
            if before.phase == Phase::Serving {
                leave(before, farewell);
            }
        }
        let generation = &mut self.generations[index];
        generation.phase = Phase::Serving;
        let workers = generation.slots.len();
        let took_ms = generation.began.elapsed().as_millis() as u64;
        if index == 0 {
            for (_, address) in &generation.addresses {
                tracing::info!(%address, workers, "listening");
            }
        } else {
            tracing::info!(generation = generation.number, workers, took_ms, "reload: the new generation serves");
        }
        let number = generation.number;
        let addresses: Vec<SocketAddr> = generation.addresses.iter().map(|(_, bound)| *bound).collect();
        self.event(Some(number), format_args!("serves, {took_ms} ms after it began"));
        if index > 0 {
            self.event(Some(number - 1), "its listeners settle and close, its connections drain");
        }
        if let Some(control) = &mut self.control {
            let message = format!("generation {number} serves, {took_ms} ms after it began");
            control.conclude(number, &Reply::Done { message });
        }
        self.kept.retain(|kept| addresses.contains(&kept.address));
        Ok(())
    }

    /// Looks for children that have ended.
    fn reap(&mut self) {
        for generation in 0..self.generations.len() {
            for slot in 0..self.generations.get(generation).map_or(0, |of| of.slots.len()) {
                let Some(of) = self.generations.get(generation) else { return };
                let Some(child) = of.slots.get(slot).and_then(Slot::child) else { continue };
                match waitpid(child.pid, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                    status => self.ended(generation, slot, status),
                }
            }
        }
    }

    fn ended(&mut self, index: usize, slot: usize, status: nix::Result<WaitStatus>) {
        let generation = &mut self.generations[index];
        let number = generation.number;
        let worker = &mut generation.slots[slot];
        let pid = worker.child().map(|child| child.pid.as_raw());
        let is_in_order = matches!(status, Ok(WaitStatus::Exited(_, 0)));
        match generation.phase {
            Phase::Starting => {
                let reason = "it ended before it was ready".to_owned();
                self.abandon(ServerError::Worker { slot, reason });
            }
            Phase::Leaving(_) => {
                worker.state = State::Gone;
                if !is_in_order {
                    self.died += 1;
                    tracing::error!(generation = number, slot, pid, ?status, "worker died while leaving");
                }
            }
            Phase::Serving if worker.leaves => {
                worker.state = State::Gone;
                tracing::warn!(generation = number, slot, pid, "worker left by itself");
            }
            Phase::Serving => {
                let pause_ms = worker.died(Instant::now()).as_millis() as u64;
                tracing::error!(generation = number, slot, pid, ?status, pause_ms, "worker died; it is started again");
                self.event(Some(number), format_args!("worker {slot} died; it is started again in {pause_ms} ms"));
            }
        }
    }

    fn check_deadlines(&mut self) {
        let now = Instant::now();
        for index in 0..self.generations.len() {
            let Some(generation) = self.generations.get_mut(index) else { return };
            if let Phase::Leaving(deadline) = generation.phase
                && deadline <= now
            {
                let workers = generation.children().count();
                if workers > 0 {
                    self.died += workers;
                    tracing::warn!(
                        generation = generation.number,
                        workers,
                        "workers did not leave in time and are killed"
                    );
                }
                kill_children(generation);
                continue;
            }
            for slot in 0..self.generations.get(index).map_or(0, |generation| generation.slots.len()) {
                let Some(generation) = self.generations.get_mut(index) else { return };
                match &generation.slots[slot].state {
                    State::Waiting(until) if *until <= now => self.start_again(index, slot),
                    State::Starting(child) if now.duration_since(child.since).as_secs() >= READY_SECONDS_MAX => {
                        let pid = child.pid;
                        if generation.phase == Phase::Starting {
                            let seconds = READY_SECONDS_MAX;
                            self.abandon(ServerError::NotReady { slot, pid: pid.as_raw(), seconds });
                        } else {
                            tracing::error!(slot, pid = pid.as_raw(), "worker was not ready in time and is killed");
                            let _ = kill(pid, Signal::SIGKILL);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn start_again(&mut self, index: usize, slot: usize) {
        let retired = self.generations[index].slots[slot].page.clone();
        let result =
            self.telemetry.add_page().map_err(|source| ServerError::System { what: "mapping telemetry", source });
        let result = result.and_then(|page| {
            self.telemetry.retire(&retired);
            self.generations[index].slots[slot].page = page;
            self.fork_worker(index, slot, None)
        });
        if let Err(error) = result {
            tracing::error!(slot, "worker cannot be started again yet: {error}");
            self.generations[index].slots[slot].died(Instant::now());
        }
    }

    /// A worker that takes connections from the master: one of the serving generation where there is any.
    fn taker(&self) -> Option<&OwnedFd> {
        let ready = |generation: &Generation<'a>| {
            let slots = generation.slots.iter().filter(|slot| matches!(slot.state, State::Ready(_)));
            slots.filter_map(Slot::child).filter(|child| child.control.is_some()).count()
        };
        let of = self.generations.iter().rev().filter(|generation| generation.phase != Phase::Starting);
        let of = of
            .filter(|generation| ready(generation) > 0)
            .max_by_key(|generation| generation.phase == Phase::Serving)?;
        let slots = of.slots.iter().filter(|slot| matches!(slot.state, State::Ready(_)));
        let controls = slots.filter_map(Slot::child).filter_map(|child| child.control.as_ref());
        controls.cycle().nth(self.turn % ready(of))
    }

    /// Listen sockets whose worker is not there: the master takes their connections for it.
    fn orphans(&self) -> impl Iterator<Item = &Socket> {
        let serving = self.generations.iter().position(|generation| generation.phase == Phase::Serving);
        serving.into_iter().flat_map(move |index| {
            let slots = self.generations[index].slots.iter().enumerate();
            let absent = slots.filter(|(_, slot)| !matches!(slot.state, State::Ready(_)));
            absent.flat_map(move |(slot, _)| self.kept_of(index, slot).map(|kept| &kept.socket))
        })
    }

    /// Hands connections that came to the guards, or to sockets whose worker is not there, to workers.
    fn hand_out(&mut self) {
        while let Some(connection) = self.held.pop_front() {
            if !self.hand(connection) {
                return;
            }
        }
        if self.taker().is_none() {
            return;
        }
        for index in 0..self.guards.len() {
            while self.held.is_empty() {
                let Some(connection) = self.guards[index].accept() else { break };
                self.hand(connection);
            }
        }
        let orphans: Vec<Socket> = self.orphans().filter_map(|socket| socket.try_clone().ok()).collect();
        orphans.iter().for_each(|socket| self.empty(socket));
    }

    /// Hands out what waits at a socket that the master alone accepts from.
    fn empty(&mut self, socket: &Socket) {
        while self.held.len() < HELD_MAX {
            // The socket blocks, since the flag would be that of the workers' copies too.
            let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1)) {
                return;
            }
            let Ok((connection, _)) = socket.accept() else { return };
            self.hand(connection.into());
        }
    }

    /// `false`: nobody took it, and it is held.
    fn hand(&mut self, connection: OwnedFd) -> bool {
        self.turn = self.turn.wrapping_add(1);
        let told = self.taker().map(|control| worker::tell_with(control, &Order::Take, connection.as_fd()));
        let is_taken = matches!(told, Some(Ok(())));
        if !is_taken {
            self.held.push_front(connection);
        }
        is_taken
    }

    fn forget_gone(&mut self) {
        let before = self.generations.len();
        let mut gone = Vec::new();
        for generation in
            self.generations.iter().filter(|generation| generation.is_gone() && generation.phase != Phase::Starting)
        {
            generation.slots.iter().for_each(|slot| self.telemetry.retire(&slot.page));
            tracing::debug!(generation = generation.number, "generation is gone");
            gone.push(generation.number);
        }
        self.generations.retain(|generation| !generation.is_gone() || generation.phase == Phase::Starting);
        if self.generations.len() < before {
            let is_used = |guard: &Guard| {
                let mut addresses = self.generations.iter().flat_map(|generation| &generation.addresses);
                addresses.any(|(_, bound)| *bound == guard.address)
            };
            self.guards.retain(is_used);
        }
        for number in gone {
            self.event(Some(number), "its workers are gone");
        }
        if !self.is_starting() && std::mem::take(&mut self.reload_again) {
            // What went wrong is logged.
            let _ = self.reload();
        }
    }

    fn kill_all(&mut self) {
        for mut generation in self.generations.drain(..) {
            kill_children(&mut generation);
        }
    }
}

/// Orders a generation to leave.
fn leave(generation: &mut Generation<'_>, farewell: Order) {
    let settle_ms = if let Order::Drain { settle_ms, .. } = farewell { settle_ms } else { 0 };
    let time = Duration::from_millis(settle_ms.saturating_add(generation.settings.timeouts.drain_ms_max)) + STOP_GRACE;
    generation.phase = Phase::Leaving(Instant::now() + time);
    tell_all(generation, farewell);
    for slot in &mut generation.slots {
        if matches!(slot.state, State::Waiting(_)) {
            slot.state = State::Gone;
        }
    }
}

fn tell_all(generation: &Generation<'_>, order: Order) {
    for (_, child) in generation.children() {
        if let Some(control) = &child.control {
            // A worker that is gone needs no order; it is reaped next.
            let _ = worker::tell(control, &order);
        }
    }
}

fn kill_children(generation: &mut Generation<'_>) {
    for slot in &mut generation.slots {
        if let Some(child) = slot.child() {
            let _ = kill(child.pid, Signal::SIGKILL);
            while waitpid(child.pid, None) == Err(Errno::EINTR) {}
        }
        slot.state = State::Gone;
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
