//! A world in which every call succeeds and nothing happens by itself, for a master that gets messages that no process
//! should send.

use crate::config::Steering;
use crate::endpoint::{Endpoint, SocketFile};
use crate::handover::StateFormats;
use crate::ipc::control::{EventKind, Failure, Loss, Outcome, Pause, TimelineKind};
use crate::ipc::orders::Order;
use crate::ipc::relay::{ToNew, ToOld};
use crate::master::core::{
    ArrivalId, Claim, ClientId, Greeting, Load, Names, Notice, OtherMaster, Plan, ProcessId, SocketId, Spawn,
    SteeringId, Time, Upgrade, World,
};

/// The first worker that is forked; others follow.
pub(super) const WORKER: u32 = 100;

/// The new master of an upgrade.
pub(super) const SUCCESSOR: u32 = 50;

/// Workers of a master that has ended.
pub(super) const ORPHANS: [ProcessId; 2] = [ProcessId(10), ProcessId(11)];

/// See the module's head.
pub(super) struct Still {
    pub(super) now: Time,
    pub(super) plan: Plan,
    sockets: u32,
    /// Sockets that were closed.
    pub(super) closed: Vec<SocketId>,
    workers: u32,
    /// Orders that workers got.
    pub(super) told: Vec<(ProcessId, Order)>,
    /// Answers that clients got.
    pub(super) replies: Vec<(ClientId, Result<Outcome, Failure>)>,
    /// Events so far.
    pub(super) noted: Vec<EventKind>,
}

impl Still {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            now: Time(1_000_000_000),
            plan,
            sockets: 0,
            closed: Vec::new(),
            workers: 0,
            told: Vec::new(),
            replies: Vec::new(),
            noted: Vec::new(),
        }
    }

    pub(super) fn next_socket(&mut self) -> SocketId {
        self.sockets += 1;
        SocketId(self.sockets)
    }
}

impl World for Still {
    fn now(&self) -> Time {
        self.now
    }

    fn read_configuration(&mut self) -> Result<Plan, Failure> {
        Ok(self.plan.clone())
    }

    fn claim(&mut self, _: Endpoint, _: SocketFile) -> Result<Claim, Failure> {
        Ok(Claim::Held)
    }

    fn release_claims(&mut self) {}

    fn bind(&mut self, address: Endpoint, _: SocketFile) -> Result<(SocketId, Endpoint), Failure> {
        Ok((self.next_socket(), address))
    }

    fn close(&mut self, socket: SocketId) {
        self.closed.push(socket);
    }

    fn accept_waiting(&mut self, _: SocketId, _: usize) -> Vec<ArrivalId> {
        Vec::new()
    }

    fn is_listening(&self, _: SocketId) -> bool {
        true
    }

    fn load_steering(&mut self, _: &[Endpoint], _: usize, _: Steering) -> Result<SteeringId, Failure> {
        Ok(SteeringId(0))
    }

    fn resize_steering(&mut self, _: SteeringId, _: usize) -> Result<(), Failure> {
        Ok(())
    }

    fn drop_steering(&mut self, _: SteeringId) {}

    fn steer(&mut self, _: SteeringId, _: bool, _: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn stand_alone(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn unset(&mut self, _: SteeringId, _: usize) {}

    fn detach(&mut self, _: SocketId) {}

    fn empty_guards(&mut self, _: &[Endpoint], _: usize) -> Vec<ArrivalId> {
        Vec::new()
    }

    fn keep_guards(&mut self, _: &[Endpoint]) {}

    fn fork(&mut self, _: Spawn) -> Result<ProcessId, Failure> {
        self.workers += 1;
        Ok(ProcessId(WORKER + self.workers - 1))
    }

    fn tell(&mut self, process: ProcessId, order: &Order) -> bool {
        self.told.push((process, order.clone()));
        true
    }

    fn share(&mut self, _: ProcessId, _: SocketId, _: Endpoint) -> bool {
        true
    }

    fn hand(&mut self, _: ProcessId, _: ArrivalId) -> bool {
        true
    }

    fn pass(&mut self, _: ArrivalId, _: OtherMaster) -> bool {
        true
    }

    fn forget_arrival(&mut self, _: ArrivalId) {}

    fn kill(&mut self, _: ProcessId) {}

    fn shut_listeners(&mut self, _: ProcessId) -> usize {
        0
    }

    fn last_turn(&self, _: ProcessId) -> Time {
        self.now
    }

    fn state_bytes(&self, _: ProcessId) -> u64 {
        0
    }

    fn load(&self, _: ProcessId) -> Load {
        Load::default()
    }

    fn open_connections(&self) -> u64 {
        0
    }

    fn start_binary(&mut self, _: &Upgrade, _: Greeting) -> Result<(ProcessId, String), Failure> {
        Ok((ProcessId(SUCCESSOR), String::new()))
    }

    fn tell_new(&mut self, _: &ToNew) {}

    fn tell_old(&mut self, _: &ToOld) {}

    fn give_listeners_to_new(&mut self, _: &[(SocketId, Endpoint)]) {}

    fn give_listeners_to_old(&mut self, _: &[(SocketId, Endpoint)]) {}

    fn forget_new(&mut self) {}

    fn compare(&self, _: &ToOld) -> Vec<Loss> {
        Vec::new()
    }

    fn introduction(&self) -> ToOld {
        ToOld::Introduction {
            tier: String::new(),
            formats: StateFormats::default(),
            control: None,
            user: 0,
            unix: true,
        }
    }

    fn find_orphans(&mut self, known: &[ProcessId]) -> Vec<ProcessId> {
        ORPHANS.into_iter().filter(|one| !known.contains(one)).collect()
    }

    fn names(&mut self, _: Names) {}

    fn notify(&mut self, _: Notice) {}

    fn begin_timeline(&mut self, _: TimelineKind, _: u32) {}

    fn note(&mut self, _: Option<u32>, event: EventKind) {
        // An event is shown to people, and stored.
        assert!(!event.to_string().is_empty());
        serde_json::to_vec(&event).expect("an event can be written");
        self.noted.push(event);
    }

    fn reply(&mut self, client: ClientId, result: Result<Outcome, Failure>) {
        self.replies.push((client, result));
    }

    fn count_pauses(&mut self, _: ProcessId) {}

    fn take_pauses(&mut self) -> Option<Pause> {
        None
    }
}
