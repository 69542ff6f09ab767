//! The world on which the core acts, implemented with the system. Each method carries out its task and decides nothing.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use super::configurations::Configurations;
use super::exporter::Exporter;
use super::journal::Journal;
use super::masters::{Doors, New, Old};
use super::names::{ControlName, PidFile};
use super::orphans::Orphans;
use super::sockets::{OldMaps, Sockets};
use super::workers::Workers;
use super::{log, notify};
use crate::config::Steering;
use crate::endpoint::{Endpoint, SocketFile};
use crate::handover::{Format, Tier};
use crate::ipc::control::server::Clients;
use crate::ipc::control::{EventKind, Failure, Loss, Outcome, Pause, Reply, TimelineKind};
use crate::ipc::orders::{Member, Order};
use crate::ipc::relay::{ToNew, ToOld};
use crate::master::core::{
    ArrivalId, Claim, ClientId, ConfigurationId, Greeting, Load, Names, Notice, OtherMaster, Plan, ProcessId, SocketId,
    Spawn, SteeringId, Time, Upgrade, World,
};
use crate::sys::clock::monotonic_ns;
use crate::sys::faults::reach;
use crate::telemetry::{HistogramSnapshot, Ledger};

/// The system as the core's world.
pub(super) struct Driver<'a> {
    pub(super) tier: Tier,
    /// The program that this process runs, to start it again. The file may have been replaced by then.
    pub(super) executable: PathBuf,
    pub(super) configurations: Configurations<'a>,
    pub(super) workers: Workers,
    pub(super) sockets: Sockets,
    pub(super) old: Option<Old>,
    pub(super) new: Option<New>,
    pub(super) orphans: Orphans,
    /// Doors of the other master's workers, as that master last gave them.
    pub(super) doors_elsewhere: Doors,
    pub(super) clients: Clients,
    pub(super) control: Option<ControlName>,
    /// The folder in which a later master finds workers; `None` without a control socket.
    pub(super) rendezvous: Option<PathBuf>,
    pub(super) pid_file: PidFile,
    pub(super) journal: Journal,
    pub(super) pauses: HistogramSnapshot,
    /// Counters that continue through upgrades.
    pub(super) ledger: Ledger,
    pub(super) exporter: Exporter,
    /// This master has the names, so clients reach it.
    pub(super) has_names: bool,
    /// The configuration of the serving generation.
    pub(super) serving: Option<ConfigurationId>,
    /// Whether a generation has served.
    pub(super) has_served: bool,
    /// The old master may take over again: it gets reports of what happens here.
    pub(super) is_undecided: bool,
    /// Events that are noted now happened at the new master, which logs them.
    pub(super) is_relaying: bool,
}

impl Driver<'_> {
    /// The control socket's path, for comparison.
    fn control_path(&self) -> Option<String> {
        self.control.as_ref().map(|control| control.absolute().to_string_lossy().into_owned())
    }

    /// The doors with these names. Removes a name without a door, of a worker that is gone, from the list.
    fn doors(&self, names: Option<&mut Vec<String>>) -> Vec<BorrowedFd<'_>> {
        names.map_or_else(Vec::new, |names| self.doors_of(names, |name| name))
    }

    /// As [`Driver::doors`], for workers to which others can send messages.
    fn sibling_doors(&self, members: &mut Vec<Member>) -> Vec<BorrowedFd<'_>> {
        self.doors_of(members, |member| &member.name)
    }

    fn doors_of<T>(&self, named: &mut Vec<T>, name: impl Fn(&T) -> &str) -> Vec<BorrowedFd<'_>> {
        let mut doors = Vec::new();
        named.retain(|one| {
            let door = self.workers.door(name(one)).or_else(|| self.doors_elsewhere.get(name(one)));
            doors.extend(door.map(AsFd::as_fd));
            door.is_some()
        });
        doors
    }

    /// Accepts clients that wait at the control socket.
    pub(super) fn accept_clients(&mut self) {
        if let Some(control) = &self.control {
            let is_worker = |pid| self.workers.is_known(ProcessId(pid)) || self.orphans.is_known(ProcessId(pid));
            self.clients.accept(control.listener(), monotonic_ns(), is_worker);
        }
    }

    fn take_control(&mut self, from: Option<ProcessId>) {
        // Accept first: clients wait at a listener that may be replaced.
        self.accept_clients();
        if let Some(control) = &mut self.control
            && let Err(error) = control.take(from.map(|process| process.0))
        {
            tracing::error!(path = %control.name().display(), "cannot take over the path of the control socket: {error}");
        }
    }
}

impl World for Driver<'_> {
    fn now(&self) -> Time {
        Time(monotonic_ns())
    }

    fn read_configuration(&mut self) -> Result<Plan, Failure> {
        let plan = self.configurations.read()?;
        tracing::info!(workers = plan.workers, "reload: starting");
        Ok(plan)
    }

    fn claim(&mut self, address: Endpoint, file: SocketFile) -> Result<Claim, Failure> {
        self.sockets.claim(address, file)
    }

    fn release_claims(&mut self) {
        self.sockets.release_claims();
    }

    fn bind(&mut self, address: Endpoint, file: SocketFile) -> Result<(SocketId, Endpoint), Failure> {
        self.sockets.bind(address, file)
    }

    fn close(&mut self, socket: SocketId) {
        self.sockets.close(socket);
    }

    fn accept_waiting(&mut self, socket: SocketId, count_max: usize) -> Vec<ArrivalId> {
        self.sockets.accept_waiting(socket, count_max)
    }

    fn is_listening(&self, socket: SocketId) -> bool {
        self.sockets.is_listening(socket)
    }

    fn load_steering(
        &mut self,
        addresses: &[Endpoint],
        places: usize,
        steering: Steering,
    ) -> Result<SteeringId, Failure> {
        self.sockets.load(addresses, places, steering)
    }

    fn resize_steering(&mut self, steering: SteeringId, places: usize) -> Result<(), Failure> {
        self.sockets.resize(steering, places)
    }

    fn drop_steering(&mut self, steering: SteeringId) {
        self.sockets.drop_steering(steering);
    }

    fn steer(&mut self, steering: SteeringId, beside_old: bool, backlog: u32) -> Result<(), Failure> {
        let nobody = OldMaps::default();
        let old = self.old.as_ref().filter(|_| beside_old).map_or(&nobody, |old| &old.maps);
        self.sockets.steer(steering, old, backlog)
    }

    fn stand_alone(&mut self) -> Result<(), Failure> {
        self.sockets.stand_alone()
    }

    fn unset(&mut self, steering: SteeringId, slot: usize) {
        self.sockets.unset(steering, slot);
    }

    fn detach(&mut self, socket: SocketId) {
        self.sockets.detach(socket);
    }

    fn empty_guards(&mut self, except: &[Endpoint], count_max: usize) -> Vec<ArrivalId> {
        self.sockets.empty_guards(except, count_max)
    }

    fn keep_guards(&mut self, addresses: &[Endpoint]) {
        self.sockets.keep_guards(addresses);
    }

    fn fork(&mut self, spawn: Spawn) -> Result<ProcessId, Failure> {
        let (generation, slot) = (spawn.generation, spawn.slot);
        let forked = self.fork_worker(spawn);
        forked.inspect_err(|why| tracing::error!(generation, slot, "cannot start the worker: {why}"))
    }

    fn tell(&mut self, process: ProcessId, order: &Order) -> bool {
        let mut order = order.clone();
        let doors = match &mut order {
            Order::Heirs { names } => self.doors(Some(names)),
            Order::Siblings { members } => self.sibling_doors(members),
            Order::Rebalance { heir, .. } => match self.workers.door(heir) {
                Some(door) => vec![door.as_fd()],
                None => return false,
            },
            _ => Vec::new(),
        };
        self.workers.tell(process, &order, &doors) || self.orphans.tell(process, &order, &doors)
    }

    fn share(&mut self, process: ProcessId, socket: SocketId, address: Endpoint) -> bool {
        let order = Order::Adopt { listener: socket.0, address };
        let descriptor = self.sockets.descriptor(socket);
        descriptor.is_some_and(|descriptor| self.workers.tell(process, &order, &[descriptor]))
    }

    fn hand(&mut self, process: ProcessId, arrival: ArrivalId) -> bool {
        let descriptor = self.sockets.arrival(arrival);
        descriptor.is_some_and(|descriptor| self.workers.tell(process, &Order::Take, &[descriptor]))
    }

    fn pass(&mut self, arrival: ArrivalId, to: OtherMaster) -> bool {
        let Some(connection) = self.sockets.arrival(arrival) else { return false };
        let is_passed = match to {
            OtherMaster::New => self.new.as_ref().is_some_and(|new| new.pass(connection)),
            OtherMaster::Old => self.old.as_ref().is_some_and(|old| old.pass(connection)),
        };
        if is_passed {
            self.sockets.forget_arrival(arrival);
        }
        is_passed
    }

    fn forget_arrival(&mut self, arrival: ArrivalId) {
        self.sockets.forget_arrival(arrival);
    }

    fn kill(&mut self, process: ProcessId) {
        if let Some(new) = self.new.as_ref().filter(|new| new.process == process) {
            new.kill();
        } else if self.workers.is_known(process) {
            self.workers.kill(process);
        } else {
            self.orphans.kill(process);
        }
    }

    fn shut_listeners(&mut self, process: ProcessId) -> usize {
        self.workers.shut_listeners(process)
    }

    fn last_turn(&self, process: ProcessId) -> Time {
        self.workers.last_sign(process)
    }

    fn state_bytes(&self, process: ProcessId) -> u64 {
        self.workers.page(process).map_or(0, |page| page.state_bytes.get())
    }

    fn load(&self, process: ProcessId) -> Load {
        let page = self.workers.page(process);
        Load {
            busy_ns: page.map_or(0, |page| page.busy_ns.get()),
            on_cpu_ns: on_cpu_ns(process),
            open: page.map_or(0, |page| page.open.get()),
        }
    }

    fn open_connections(&self) -> u64 {
        self.workers.open_connections()
    }

    fn start_binary(&mut self, upgrade: &Upgrade, greeting: Greeting) -> Result<(ProcessId, String), Failure> {
        let metrics = self.metrics_listener();
        let (new, binary) = New::start(upgrade, &self.executable, &greeting, &self.sockets, metrics.as_deref())?;
        let process = new.process;
        self.new_ended();
        self.new = Some(new);
        self.tell_totals();
        Ok((process, binary))
    }

    fn tell_new(&mut self, message: &ToNew) {
        let mut message = message.clone();
        let doors = self.doors(message.doors());
        self.new.iter().for_each(|new| new.tell(&message, &doors));
    }

    fn tell_old(&mut self, message: &ToOld) {
        let mut message = message.clone();
        let doors = match &mut message {
            ToOld::Siblings { members } => self.sibling_doors(members),
            message => self.doors(message.doors()),
        };
        self.old.iter().for_each(|old| old.tell(&message, &doors));
    }

    fn give_listeners_to_new(&mut self, sockets: &[(SocketId, Endpoint)]) {
        self.new.iter().for_each(|new| new.give_listeners(&self.sockets, sockets));
    }

    fn give_listeners_to_old(&mut self, sockets: &[(SocketId, Endpoint)]) {
        self.old.iter().for_each(|old| old.give_listeners(&self.sockets, sockets));
    }

    fn forget_new(&mut self) {
        self.new.iter_mut().for_each(New::forget_channel);
    }

    fn compare(&self, introduction: &ToOld) -> Vec<Loss> {
        let ToOld::Introduction { formats, control, user, .. } = introduction else { return Vec::new() };
        let Some(Ok(serving)) = self.serving.map(|id| self.configurations.get(id)) else { return Vec::new() };
        let own = serving.service.formats();
        let unreadable = |own: &Option<Format>, new: &Option<Format>| {
            own.clone().filter(|format| !format.is_read_by(new.as_ref())).map(|format| (format.name, format.version))
        };
        let connections = unreadable(&own.connections, &formats.connections);
        let worker = unreadable(&own.worker, &formats.worker);
        let messages = own.unread_messages(formats);
        let own_control = self.control_path().filter(|own| Some(own) != control.as_ref());
        let own_user = Some(serving.user()).filter(|own| own != user);
        let losses = [
            connections.map(|(format, version)| Loss::ConnectionState { format, version }),
            worker.map(|(format, version)| Loss::WorkerState { format, version }),
            messages.map(|Format { name, version, .. }| Loss::Messages { format: name.clone(), version: *version }),
            own_control.map(|own| Loss::Control { old: Some(own), new: control.clone() }),
            own_user.map(|own| Loss::User { old: own, new: *user }),
        ];
        losses.into_iter().flatten().collect()
    }

    fn introduction(&self) -> ToOld {
        let newest = self.configurations.newest();
        ToOld::Introduction {
            unix: true,
            tier: self.tier.to_string(),
            formats: newest.map(|one| one.service.formats().clone()).unwrap_or_default(),
            control: self.control_path(),
            user: newest.map_or_else(|| nix::unistd::geteuid().as_raw(), |one| one.user()),
        }
    }

    fn find_orphans(&mut self, known: &[ProcessId]) -> Vec<ProcessId> {
        self.rendezvous.as_ref().map(|folder| self.orphans.find(folder, known)).unwrap_or_default()
    }

    fn names(&mut self, names: Names) {
        match names {
            Names::TakeControl { from } => {
                self.has_names = true;
                self.take_control(from);
                reach("master:control");
            }
            Names::WritePidFile => self.pid_file.write(),
            Names::Yield => {
                self.has_names = false;
                self.control.iter_mut().for_each(ControlName::yielded);
                self.new.iter().for_each(|new| self.pid_file.yield_to(new.process.0));
            }
            Names::Forget => {
                self.has_names = false;
                self.control.iter_mut().for_each(ControlName::forget);
                self.pid_file.forget();
            }
            Names::Clean { after } => {
                self.control.iter().for_each(|control| control.clean(after.0));
                self.pid_file.clean(after.0);
            }
        }
    }

    fn notify(&mut self, notice: Notice) {
        notify::tell(notice);
    }

    fn begin_timeline(&mut self, kind: TimelineKind, generation: u32) {
        self.journal.begin(kind, generation);
    }

    fn note(&mut self, generation: Option<u32>, event: EventKind) {
        if !self.is_relaying {
            log::event(generation, &event, self.has_served, self.is_undecided);
        }
        if self.is_undecided {
            self.tell_old(&ToOld::Event { generation, event: event.clone() });
        }
        if !self.is_relaying {
            self.count(&event, self.journal.kind());
        }
        let event = self.journal.note(generation, event);
        self.clients.tell(event);
    }

    fn reply(&mut self, client: ClientId, result: Result<Outcome, Failure>) {
        let reply = match result {
            Ok(outcome) => Reply::Done(outcome),
            Err(failure) => {
                tracing::warn!("a request at the control socket failed: {failure}");
                Reply::Failed(failure)
            }
        };
        self.clients.reply(client.0, &reply);
    }

    fn count_pauses(&mut self, process: ProcessId) {
        if let Some(page) = self.workers.page(process) {
            self.pauses.add(&page.pause.snapshot());
        }
    }

    fn take_pauses(&mut self) -> Option<Pause> {
        let pauses = std::mem::take(&mut self.pauses);
        let us = |part| pauses.quantile(part) / 1000;
        (pauses.count() > 0).then(|| Pause { median_us: us(0.5), p99_us: us(0.99), max_us: us(1.0) })
    }
}

/// The time that a child which has not been waited for has spent on a core, by the kernel: proc_pid_schedstat, the
/// first number (Documentation/scheduler/sched-stats.rst). Workers have one thread that serves. 0 if the kernel does
/// not count it.
fn on_cpu_ns(process: ProcessId) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/schedstat", process.0)).unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0)
}
