//! Carries out the calls of a master's core on the simulated world. A call that was armed with a fault fails.

use std::collections::{BTreeSet, VecDeque};

use super::channels::{ChannelId, Message};
use super::kernel::{Holder, Place, Program};
use super::process::{Binary, Birth, Body, Master, Stage, StartsAs, Worker};
use super::timeline::say;
use super::universe::{Fault, Universe};
use crate::config::Steering;
use crate::endpoint::{Endpoint, SocketFile};
use crate::handover::{Format, StateFormats, Tier};
use crate::ipc::control::{EventKind, Failure, Loss, Outcome, Pause, TimelineKind};
use crate::ipc::orders::Order;
use crate::ipc::relay::{ToNew, ToOld};
use crate::master::core::{
    ArrivalId, Claim, ClientId, Greeting, Listeners, Load, Names, Notice, OtherMaster, Plan, ProcessId, SocketId,
    Spawn, SteeringId, Time, Upgrade, World,
};

/// A worker that starts slowly is ready after this time.
const SLOW_MS: u64 = 3_000;

/// The calls of one master.
pub(super) struct Calls<'a> {
    pub(super) universe: &'a mut Universe,
    pub(super) me: ProcessId,
}

fn refused(what: &str) -> Failure {
    Failure::System { problem: format!("{what}: Cannot allocate memory") }
}

impl Calls<'_> {
    fn mine(&mut self) -> &mut Master {
        self.universe.master_mut(self.me)
    }

    fn this(&self) -> &Master {
        self.universe.master(self.me).expect("a master that steps lives")
    }

    fn holder(&self) -> Holder {
        Holder::Process(self.me)
    }

    fn send_to(&mut self, process: ProcessId, message: Message) -> bool {
        match self.this().channel_to(process) {
            Some(channel) => self.universe.send(self.me, channel, message),
            None => false,
        }
    }

    fn give_listeners(&mut self, channel: Option<ChannelId>, sockets: &[(SocketId, Endpoint)]) {
        if let Some(channel) = channel {
            let keys: Vec<u32> = sockets.iter().map(|(socket, _)| socket.0).collect();
            say(self.universe.now, self.me, || format!("gives the other master sockets {keys:?}"));
            self.universe.send(self.me, channel, Message::Listeners(keys));
        }
    }

    fn formats(binary: Binary, plan: &Plan) -> StateFormats {
        let reads = if binary == Binary::Blind { vec![7] } else { vec![1] };
        let version = reads[0];
        let format = |name: &str| Format { name: name.to_owned(), version, reads: reads.clone() };
        StateFormats {
            connections: plan.has_connection_state.then(|| format("lines")),
            worker: plan.has_worker_state.then(|| format("store")),
            messages: None,
        }
    }

    fn control(binary: Binary) -> String {
        if binary == Binary::Elsewhere { "elsewhere".to_owned() } else { "here".to_owned() }
    }

    fn open_guard(&mut self, address: Endpoint) {
        if !self.this().guards.contains_key(&address) {
            let holder = self.holder();
            let key = self.universe.kernel.bind(address, holder);
            self.universe.kernel.listen(key);
            self.universe.kernel.sockets.get_mut(&key).expect("just made").is_guard = true;
            self.mine().guards.insert(address, key);
        }
    }

    fn addresses_of(&self, steering: SteeringId) -> Vec<Endpoint> {
        self.this().steering_addresses(steering)
    }
}

impl World for Calls<'_> {
    fn now(&self) -> Time {
        self.universe.now
    }

    fn read_configuration(&mut self) -> Result<Plan, Failure> {
        if self.universe.fails(Fault::ReadConfiguration) {
            return Err(Failure::Configuration { problem: "line 3: no such key".to_owned() });
        }
        Ok(self.universe.plan.clone())
    }

    fn claim(&mut self, address: Endpoint, _: SocketFile) -> Result<Claim, Failure> {
        if self.universe.fails(Fault::Claim) {
            return Err(Failure::listen(address, "Address in use"));
        }
        Ok(if self.universe.fails(Fault::ClaimBusy) { Claim::Busy } else { Claim::Held })
    }

    fn release_claims(&mut self) {}

    fn bind(&mut self, address: Endpoint, _: SocketFile) -> Result<(SocketId, Endpoint), Failure> {
        if self.universe.fails(Fault::Bind) {
            return Err(Failure::listen(address, "Address in use"));
        }
        let is_taken = self.universe.kernel.sockets.values().any(|socket| socket.address == address);
        if address.is_unix() && is_taken {
            // A path has one socket as long as any process has it open.
            return Err(Failure::listen(address, "Address in use"));
        }
        let holder = self.holder();
        Ok((SocketId(self.universe.kernel.bind(address, holder)), Universe::bound(address)))
    }

    fn close(&mut self, socket: SocketId) {
        let (holder, now) = (self.holder(), self.universe.now);
        self.universe.kernel.release(socket.0, holder, now);
    }

    fn accept_waiting(&mut self, socket: SocketId, count_max: usize) -> Vec<ArrivalId> {
        (0..count_max).map_while(|_| self.universe.arrive(self.me, socket.0)).collect()
    }

    fn is_listening(&self, socket: SocketId) -> bool {
        self.universe.kernel.is_listening(socket.0)
    }

    /// All places are equal here: what holds for one must hold for any.
    fn load_steering(&mut self, addresses: &[Endpoint], places: usize, _: Steering) -> Result<SteeringId, Failure> {
        if self.universe.fails(Fault::LoadSteering) {
            return Err(refused("loading the program"));
        }
        self.universe.numbers.steerings += 1;
        let steering = SteeringId(self.universe.numbers.steerings);
        self.mine().steerings.insert(steering, (addresses.to_vec(), places));
        Ok(steering)
    }

    fn resize_steering(&mut self, steering: SteeringId, places: usize) -> Result<(), Failure> {
        if self.universe.fails(Fault::ResizeSteering) {
            return Err(refused("loading the program"));
        }
        self.mine().steerings.get_mut(&steering).expect("loaded").1 = places;
        Ok(())
    }

    fn drop_steering(&mut self, steering: SteeringId) {
        self.mine().steerings.remove(&steering);
    }

    fn steer(&mut self, steering: SteeringId, beside_old: bool, _: u32) -> Result<(), Failure> {
        if self.universe.fails(Fault::Steer) {
            self.universe.is_unsteered = true;
            return Err(refused("attaching the program"));
        }
        let half = self.universe.fails(Fault::SteerHalf);
        self.universe.is_unsteered |= half;
        let places = self.this().steerings[&steering].1;
        let mut maps = vec![(steering.0, places)];
        maps.extend(self.this().old_map.filter(|_| beside_old));
        let addresses = self.addresses_of(steering);
        let count = if half { addresses.len() / 2 } else { addresses.len() };
        for address in &addresses[..count] {
            self.open_guard(*address);
            let program = Program { maps: maps.clone(), guard: None };
            self.universe.kernel.programs.insert(*address, program);
        }
        if half { Err(refused("attaching the program")) } else { Ok(()) }
    }

    fn stand_alone(&mut self) -> Result<(), Failure> {
        if self.universe.fails(Fault::StandAlone) {
            return Err(refused("attaching the program"));
        }
        for (address, guard) in self.this().guards.clone() {
            let program = Program { maps: Vec::new(), guard: Some(guard) };
            self.universe.kernel.programs.insert(address, program);
        }
        Ok(())
    }

    fn unset(&mut self, steering: SteeringId, slot: usize) {
        self.universe.kernel.maps.retain(|(map, _, place), _| (*map, *place) != (steering.0, slot));
    }

    fn detach(&mut self, socket: SocketId) {
        if let Some(socket) = self.universe.kernel.sockets.get(&socket.0) {
            let address = socket.address;
            self.universe.kernel.programs.remove(&address);
        }
    }

    fn empty_guards(&mut self, except: &[Endpoint], count_max: usize) -> Vec<ArrivalId> {
        let others = self.this().guards.iter().filter(|(address, _)| !except.contains(address));
        let keys: Vec<u32> = others.map(|(_, key)| *key).collect();
        let mut arrivals = Vec::new();
        for key in keys {
            arrivals.extend(self.accept_waiting(SocketId(key), count_max - arrivals.len()));
        }
        arrivals
    }

    fn keep_guards(&mut self, addresses: &[Endpoint]) {
        let (holder, now) = (self.holder(), self.universe.now);
        let unused = self.this().guards.iter().filter(|(address, _)| !addresses.contains(address));
        let unused: Vec<(Endpoint, u32)> = unused.map(|(address, key)| (*address, *key)).collect();
        for (address, key) in unused {
            self.mine().guards.remove(&address);
            self.universe.kernel.release(key, holder, now);
        }
    }

    fn fork(&mut self, spawn: Spawn) -> Result<ProcessId, Failure> {
        let now = self.universe.now;
        let Listeners { first, copies, .. } = spawn.listeners.clone();
        let fails = self.universe.fails(Fault::Fork);
        let starts_as = if fails { StartsAs::Well } else { self.universe.starts_as() };
        let ready_at = match starts_as {
            StartsAs::Well => Some(now),
            StartsAs::Slow => Some(now.after_ms(SLOW_MS)),
            StartsAs::Failing | StartsAs::Exiting => Some(now),
            StartsAs::Hanging => None,
        };
        let worker = Worker {
            master: self.me,
            led_by: self.me,
            channel: None,
            knocks: VecDeque::new(),
            starts_as,
            stage: Stage::Starting { ready_at },
            listeners: first.iter().chain(&copies).map(|(socket, _)| (socket.0, false)).collect(),
            awaits_until: None,
            heirs: Vec::new(),
            is_moving: false,
            gives: None,
            listings: Vec::new(),
            armed: BTreeSet::new(),
            last_turn: now,
            spawn,
        };
        let (generation, slot) = (worker.spawn.generation, worker.spawn.slot);
        let me = self.holder();
        let result = if fails {
            Err(refused("fork"))
        } else {
            let process = self.universe.spawn(Some(self.me), Body::Worker(Box::new(worker)));
            let channel = self.universe.open_channel(self.me, process);
            self.universe.worker_mut(process).expect("just made").channel = Some(channel);
            self.mine().workers.insert(process, channel);
            for (socket, _) in first.iter().chain(&copies) {
                self.universe.kernel.hold(socket.0, Holder::Process(process));
            }
            say(now, self.me, || format!("forks worker {slot} of generation {generation}: {}", process.0));
            Ok(process)
        };
        first.iter().for_each(|(socket, _)| self.universe.kernel.release(socket.0, me, now));
        result
    }

    fn tell(&mut self, process: ProcessId, order: &Order) -> bool {
        if self.universe.fails(Fault::Tell) {
            self.universe.untold.insert(process);
            return false;
        }
        if *order != Order::Ping {
            say(self.universe.now, self.me, || format!("tells worker {}: {order:?}", process.0));
        }
        self.send_to(process, Message::Order(order.clone(), None, None))
    }

    fn share(&mut self, process: ProcessId, socket: SocketId, address: Endpoint) -> bool {
        if self.universe.fails(Fault::Share) {
            return false;
        }
        say(self.universe.now, self.me, || format!("shares socket {} with worker {}", socket.0, process.0));
        let order = Order::Adopt { listener: socket.0, address };
        self.send_to(process, Message::Order(order, Some(socket.0), None))
    }

    fn hand(&mut self, process: ProcessId, arrival: ArrivalId) -> bool {
        if self.universe.fails(Fault::Hand) {
            return false;
        }
        let connection = self.this().arrivals[&arrival];
        self.send_to(process, Message::Order(Order::Take, None, Some((connection, arrival))))
    }

    fn pass(&mut self, arrival: ArrivalId, to: OtherMaster) -> bool {
        let channel = match to {
            OtherMaster::New => self.this().new,
            OtherMaster::Old => self.this().old,
        };
        let connection = self.this().arrivals[&arrival];
        let is_passed =
            channel.is_some_and(|channel| self.universe.send(self.me, channel, Message::Arrival(connection)));
        if is_passed {
            say(self.universe.now, self.me, || format!("passes connection {connection} to the other master"));
            self.forget_arrival(arrival);
        }
        is_passed
    }

    fn forget_arrival(&mut self, arrival: ArrivalId) {
        let me = self.me;
        if let Some(connection) = self.mine().arrivals.remove(&arrival)
            && let Place::Held { master, .. } = &mut self.universe.kernel.connections[connection].place
            && *master == Some(me)
        {
            *master = None;
            self.universe.kernel.forget_unheld(connection);
        }
    }

    fn kill(&mut self, process: ProcessId) {
        say(self.universe.now, self.me, || format!("kills {}", process.0));
        self.universe.judge_kill(process);
        let worker = self.universe.worker(process);
        self.universe.last_killed = worker.map(|worker| (worker.last_turn, worker.spawn.plan.hang_ms));
        self.universe.kill(process);
    }

    fn shut_listeners(&mut self, process: ProcessId) -> usize {
        let now = self.universe.now;
        let keys: Vec<u32> = self
            .universe
            .worker(process)
            .map_or(Vec::new(), |worker| worker.listeners.iter().map(|(key, _)| *key).collect());
        let is_unix = |key: &u32| self.universe.kernel.sockets.get(key).is_some_and(|one| one.address.is_unix());
        let keys: Vec<u32> = keys.into_iter().filter(|key| !is_unix(key)).collect();
        keys.iter().for_each(|key| self.universe.kernel.shut(*key, now));
        keys.len()
    }

    fn last_turn(&self, process: ProcessId) -> Time {
        self.universe.worker(process).map_or(Time::default(), |worker| worker.last_turn)
    }

    fn state_bytes(&self, _: ProcessId) -> u64 {
        0
    }

    fn load(&self, process: ProcessId) -> Load {
        let is_its = |place: &Place| matches!(place, Place::Held { worker: Some(one), .. } if *one == process);
        let open = self.universe.kernel.connections.iter().filter(|one| is_its(&one.place)).count() as u64;
        Load { open, ..Load::default() }
    }

    fn open_connections(&self) -> u64 {
        let is_held = |place: &Place| matches!(place, Place::Held { .. });
        self.universe.kernel.connections.iter().filter(|one| is_held(&one.place)).count() as u64
    }

    fn start_binary(&mut self, upgrade: &Upgrade, greeting: Greeting) -> Result<(ProcessId, String), Failure> {
        let name = upgrade.binary.clone().unwrap_or_else(|| "Good".to_owned());
        let binary = Binary::named(Some(&name));
        if binary == Binary::Missing || self.universe.fails(Fault::StartBinary) {
            return Err(Failure::Binary { binary: name, problem: "No such file or directory".to_owned() });
        }
        let tier = match (binary, self.this().tier) {
            (Binary::OtherTier, Tier::Ebpf) => Tier::Adopt,
            (Binary::OtherTier, _) => Tier::Ebpf,
            (_, tier) => tier,
        };
        let plan = self.universe.plan.clone();
        let me = self.me;
        self.universe.reverted_to.remove(&me);
        let listeners = greeting.listeners.clone();
        let birth = Birth { plan, greeting: Some((me, greeting)) };
        let mut master = Master::new(binary, tier, birth);
        let before = self.this();
        let is_other = |what: Binary| (before.binary == what) != (binary == what);
        let loses_state = is_other(Binary::Blind) && self.universe.shape.hands_over;
        let loses_tier = before.tier == Tier::Ebpf && tier != Tier::Ebpf;
        master.loses = upgrade.allowed.is_empty() && (loses_state || loses_tier || is_other(Binary::Elsewhere));
        let process = self.universe.spawn(Some(me), Body::Master(Box::new(master)));
        listeners.iter().for_each(|(socket, _)| self.universe.kernel.hold(socket.0, Holder::Process(process)));
        let channel = self.universe.open_channel(me, process);
        self.mine().new = Some(channel);
        self.universe.master_mut(process).old = Some(channel);
        say(self.universe.now, me, || format!("starts the binary {name}: {}", process.0));
        Ok((process, name))
    }

    fn tell_new(&mut self, message: &ToNew) {
        say(self.universe.now, self.me, || format!("tells the new master: {message:?}"));
        if let Some(channel) = self.this().new {
            self.universe.send(self.me, channel, Message::ToNew(message.clone()));
        }
    }

    fn tell_old(&mut self, message: &ToOld) {
        say(self.universe.now, self.me, || format!("tells the old master: {message:?}"));
        if let Some(channel) = self.this().old {
            self.universe.send(self.me, channel, Message::ToOld(message.clone()));
        }
    }

    fn give_listeners_to_new(&mut self, sockets: &[(SocketId, Endpoint)]) {
        self.give_listeners(self.this().new, sockets);
    }

    fn give_listeners_to_old(&mut self, sockets: &[(SocketId, Endpoint)]) {
        self.give_listeners(self.this().old, sockets);
    }

    fn forget_new(&mut self) {
        let me = self.me;
        if let Some(channel) = self.mine().new.take() {
            self.universe.close_channel(me, channel);
        }
    }

    fn compare(&self, introduction: &ToOld) -> Vec<Loss> {
        let ToOld::Introduction { formats, control, .. } = introduction else { return Vec::new() };
        let own = Self::formats(self.this().binary, &self.universe.plan);
        let mut losses = Vec::new();
        if let Some(format) = &own.connections
            && !format.is_read_by(formats.connections.as_ref())
        {
            losses.push(Loss::ConnectionState { format: format.name.clone(), version: format.version });
        }
        if let Some(format) = &own.worker
            && !format.is_read_by(formats.worker.as_ref())
        {
            losses.push(Loss::WorkerState { format: format.name.clone(), version: format.version });
        }
        let old = Some(Self::control(self.this().binary));
        if old != *control {
            losses.push(Loss::Control { old, new: control.clone() });
        }
        losses
    }

    fn introduction(&self) -> ToOld {
        let master = self.this();
        ToOld::Introduction {
            unix: true,
            tier: master.tier.to_string(),
            formats: Self::formats(master.binary, &self.universe.plan),
            control: Some(Self::control(master.binary)),
            user: 0,
        }
    }

    fn find_orphans(&mut self, known: &[ProcessId]) -> Vec<ProcessId> {
        let me = self.me;
        let found = self.universe.workers().map(|(process, _)| process).filter(|process| !known.contains(process));
        let found: Vec<ProcessId> = found.collect();
        for process in &found {
            let channel = self.universe.open_channel(me, *process);
            self.mine().orphans.insert(*process, channel);
            self.universe.worker_mut(*process).expect("found").knocks.push_back(channel);
        }
        found
    }

    fn names(&mut self, names: Names) {
        say(self.universe.now, self.me, || format!("names: {names:?}"));
        let me = self.me;
        match names {
            Names::TakeControl { from } => {
                let before = self.universe.path.replace(me);
                self.universe.beside.remove(&me);
                if let Some(from) =
                    from.filter(|from| self.universe.processes.contains_key(from) && before == Some(*from))
                {
                    self.universe.beside.insert(from);
                }
            }
            Names::WritePidFile => self.universe.pid_file = Some(me),
            Names::Yield | Names::Forget => {}
            Names::Clean { after } => drop(self.universe.beside.remove(&after)),
        }
    }

    fn notify(&mut self, notice: Notice) {
        if notice == Notice::Ready {
            self.universe.served.insert(self.me);
            self.universe.judge_losses_allowed(self.me);
        }
    }

    fn begin_timeline(&mut self, _: TimelineKind, _: u32) {}

    fn note(&mut self, generation: Option<u32>, event: EventKind) {
        if matches!(event, EventKind::WorkerHung { .. }) {
            self.universe.judge_hung();
        }
        say(self.universe.now, self.me, || match generation {
            Some(number) => format!("generation {number}: {event}"),
            None => event.to_string(),
        });
    }

    fn reply(&mut self, client: ClientId, result: Result<Outcome, Failure>) {
        say(self.universe.now, self.me, || match &result {
            Ok(outcome) => format!("answers client {}: {outcome}", client.0),
            Err(failure) => format!("answers client {}: failed: {failure}", client.0),
        });
        self.universe.judge_reply(self.me, client, result);
    }

    fn count_pauses(&mut self, _: ProcessId) {}

    fn take_pauses(&mut self) -> Option<Pause> {
        None
    }
}
