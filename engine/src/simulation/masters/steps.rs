//! The actions of operators, clients and faults, chosen by a seed. Each step makes sense or does nothing, so that a
//! history can be shortened by leaving steps out.

use super::super::random::Random;
use super::kernel::Place;
use super::process::{Binary, Body};
use super::timeline::tell;
use super::universe::{Client, Fault, Universe, address, plan};
use super::{Violation, universe};
use crate::handover::Tier;
use crate::ipc::control::{Allowed, ConnectionName, ConnectionOrder};
use crate::master::core::{ClientId, ProcessId, Request, Signal, Upgrade, Wanted};

/// The most masters of a history that live at once.
const MASTERS_MAX: usize = 4;

/// The properties of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) tier: Tier,
    pub(super) addresses: usize,
    pub(super) workers: usize,
    pub(super) hands_over: bool,
    pub(super) has_worker_state: bool,
    /// Workers send each other messages.
    pub(super) speaks: bool,
    /// Serving workers give each other connections.
    pub(super) rebalances: bool,
    /// The last address is a Unix socket.
    pub(super) has_unix: bool,
}

impl Shape {
    pub(super) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let hands_over = random.once_in(2);
        Self {
            tier: if random.below(7) < 3 { Tier::Ebpf } else { Tier::Adopt },
            addresses: 1 + random.below(2) as usize,
            workers: 1 + random.below(3) as usize,
            hands_over,
            has_worker_state: hands_over && random.once_in(2),
            speaks: false,
            rebalances: false,
            has_unix: false,
        }
    }
}

/// An operator's request to a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Reload,
    Scale {
        workers: usize,
    },
    Rebalance {
        is_dry_run: bool,
    },
    Upgrade {
        binary: Binary,
        is_held: bool,
        probation_ms: Option<u64>,
        timeout_ms: u64,
        is_allowed: bool,
    },
    Commit,
    Revert,
    Stop {
        now: bool,
    },
    /// List the connections.
    Connections {
        limit: usize,
        worker: Option<usize>,
    },
    /// End a connection that some worker has, or that none has.
    Close {
        connection: usize,
        now: bool,
    },
}

/// One action. A master or process is named by its place among those that live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begin {
        shape: Shape,
    },
    /// This many steps of processes, in an order that the seed decides; no time passes.
    Flow {
        seed: u64,
        count: u64,
    },
    /// Time passes, and everything that is due happens.
    Time {
        seed: u64,
        ms: u64,
    },
    Connect {
        place: usize,
        is_slow: bool,
        is_long: bool,
    },
    Signal {
        master: usize,
        signal: Signal,
    },
    Ask {
        master: usize,
        asked: Asked,
    },
    /// A client disconnects.
    GoAway {
        client: usize,
    },
    /// The configuration file changes.
    Configure {
        workers: usize,
        addresses: usize,
        hang_ms: u64,
    },
    KillWorker {
        worker: usize,
    },
    KillMaster {
        master: usize,
    },
    HaltWorker {
        worker: usize,
        ms: u64,
    },
    HaltMaster {
        master: usize,
        ms: u64,
    },
    /// The next such call fails.
    Arm {
        fault: Fault,
    },
    /// An operator starts a server if there is none.
    StartMaster,
}

/// Chooses the next step: usually one that does something.
pub(super) fn choose(random: &mut Random) -> Step {
    let seed = random.next();
    let one = random.below(6) as usize;
    match random.below(100) {
        0..26 => Step::Flow { seed, count: 1 + random.below(30) },
        26..42 => Step::Time { seed, ms: random.pick(&[1, 5, 20, 60, 300, 1_500, 4_000]) },
        42..56 => Step::Connect { place: one, is_slow: random.once_in(3), is_long: random.once_in(5) },
        56..66 => Step::Signal { master: one, signal: signal(random) },
        66..84 => Step::Ask { master: one, asked: asked(random) },
        84 => Step::GoAway { client: random.below(12) as usize },
        85..88 => Step::Configure {
            workers: 1 + random.below(3) as usize,
            addresses: 1 + random.below(2) as usize,
            hang_ms: random.pick(&[800, 800, 300, 0]),
        },
        88..90 => Step::KillWorker { worker: random.below(8) as usize },
        90 | 91 => Step::KillMaster { master: one },
        92 => Step::HaltWorker { worker: random.below(8) as usize, ms: random.pick(&[200, 600, 1_000, 5_000, 12_000]) },
        93 => Step::HaltMaster { master: one, ms: random.pick(&[200, 1_000, 8_000, 40_000]) },
        94..98 => Step::Arm { fault: random.pick(&Fault::ALL) },
        _ => Step::StartMaster,
    }
}

fn signal(random: &mut Random) -> Signal {
    use Signal::{Hup, Int, Quit, Term, Usr2, Winch};
    random.pick(&[Hup, Hup, Hup, Usr2, Usr2, Winch, Winch, Term, Int, Quit, Quit])
}

pub(super) fn asked(random: &mut Random) -> Asked {
    match random.below(22) {
        0..3 => Asked::Reload,
        3..6 => Asked::Scale { workers: 1 + random.below(4) as usize },
        6..14 => Asked::Upgrade {
            binary: if random.once_in(2) { Binary::Good } else { random.pick(&Binary::ALL) },
            is_held: random.once_in(2),
            probation_ms: random.once_in(3).then_some(2_000),
            timeout_ms: random.pick(&[5_000, 20_000]),
            is_allowed: random.once_in(3),
        },
        14..17 => Asked::Commit,
        17..20 => Asked::Revert,
        _ => Asked::Stop { now: random.once_in(2) },
    }
}

impl Universe {
    /// Takes a step of a history.
    pub(super) fn take(&mut self, step: Step) -> Result<(), Violation> {
        let now = self.now;
        match step {
            Step::Begin { .. } => {}
            Step::Flow { seed, count } => return self.flow(&mut Random::new(seed), count),
            Step::Time { seed, ms } => return self.run(&mut Random::new(seed), ms, true),
            Step::Connect { place, is_slow, is_long } => {
                let place = place % self.shape.addresses;
                let is_owed = self.is_expected(address(self.shape, place));
                let key = self.kernel.connect(address(self.shape, place), now, is_slow, is_long);
                self.kernel.connections[key].is_owed = is_owed;
                tell(now, None, || {
                    format!(
                        "connection {key} to {}: {:?}",
                        address(self.shape, place),
                        self.kernel.connections[key].place
                    )
                });
            }
            Step::Signal { master, signal } => {
                if let Some(id) = self.nth_master(master) {
                    tell(now, None, || format!("somebody sends {signal:?} to pid {}", id.0));
                    let signals = &mut self.master_mut(id).signals;
                    if !signals.contains(&signal) {
                        signals.push(signal);
                    }
                }
            }
            Step::Ask { master, asked } => {
                if let Some(id) = self.nth_master(master) {
                    self.ask(id, asked);
                }
            }
            Step::GoAway { client } => self.leave(client),
            Step::Configure { workers, addresses, hang_ms } => {
                self.plan = plan(self.shape, workers, addresses.min(self.shape.addresses), hang_ms);
                tell(now, None, || format!("the configuration says {workers} workers, {addresses} addresses"));
            }
            Step::KillWorker { worker } => {
                if let Some(id) = self.nth_worker(worker) {
                    tell(now, None, || format!("somebody kills worker {}", id.0));
                    self.last_fault = self.last_fault.max(now);
                    self.kill(id);
                }
            }
            Step::KillMaster { master } => {
                if let Some(id) = self.nth_master(master) {
                    tell(now, None, || format!("somebody kills master {}", id.0));
                    self.last_fault = self.last_fault.max(now);
                    self.killed.insert(id);
                    self.kill(id);
                }
            }
            Step::HaltWorker { worker, ms } => {
                if let Some(id) = self.nth_worker(worker) {
                    tell(now, None, || format!("worker {} stands still for {ms} ms", id.0));
                    self.halt(id, ms);
                }
            }
            Step::HaltMaster { master, ms } => {
                if let Some(id) = self.nth_master(master) {
                    tell(now, None, || format!("master {} stands still for {ms} ms", id.0));
                    self.halt(id, ms);
                }
            }
            Step::Arm { fault } => {
                tell(now, None, || format!("{fault:?} will fail"));
                self.armed.insert(fault);
                self.last_fault = self.last_fault.max(now);
            }
            Step::StartMaster => self.start_master(),
        }
        self.check()
    }

    fn nth_master(&self, place: usize) -> Option<ProcessId> {
        let masters: Vec<ProcessId> = self.masters().map(|(id, _)| id).collect();
        (!masters.is_empty()).then(|| masters[place % masters.len()])
    }

    fn nth_worker(&self, place: usize) -> Option<ProcessId> {
        let workers: Vec<ProcessId> = self.workers().map(|(id, _)| id).collect();
        (!workers.is_empty()).then(|| workers[place % workers.len()])
    }

    fn nth_connection(&self, place: usize) -> ConnectionName {
        let held = self.kernel.connections.iter().enumerate().filter_map(|(key, one)| match one.place {
            Place::Held { worker: Some(worker), .. } => Some((worker.0, key as u32)),
            _ => None,
        });
        let held: Vec<(u32, u32)> = held.collect();
        let (pid, slot) = held.get(place).copied().unwrap_or((place as u32, 0));
        ConnectionName { pid, slot, generation: 0 }
    }

    pub(super) fn ask(&mut self, id: ProcessId, asked: Asked) {
        // Before it has a control socket no client can reach it.
        if self.path != Some(id) && !self.beside.contains(&id) {
            return;
        }
        let request = match asked {
            Asked::Reload => Request::Reload,
            Asked::Scale { workers } => Request::Scale { workers },
            Asked::Rebalance { is_dry_run } => Request::Rebalance { is_dry_run },
            Asked::Commit => Request::Commit,
            Asked::Revert => Request::Revert,
            Asked::Stop { now } => Request::Stop { now, drain_ms: None },
            Asked::Connections { limit, worker } => {
                Request::Connections(Wanted { order: ConnectionOrder::Oldest, limit, worker })
            }
            Asked::Close { connection, now } => Request::Close { id: self.nth_connection(connection), now },
            Asked::Upgrade { binary, is_held, probation_ms, timeout_ms, is_allowed } => {
                if self.masters().count() >= MASTERS_MAX {
                    return;
                }
                // Two servers with two control sockets are two worlds.
                let is_allowed = is_allowed && binary != Binary::Elsewhere;
                self.may_reset |= is_allowed && binary == Binary::OtherTier;
                Request::Upgrade(Upgrade {
                    binary: Some(format!("{binary:?}")),
                    is_held,
                    probation_ms,
                    timeout_ms: Some(timeout_ms),
                    allowed: if is_allowed { vec![Allowed::State, Allowed::Tier] } else { Vec::new() },
                    ..Upgrade::default()
                })
            }
        };
        self.numbers.clients += 1;
        let client = ClientId(self.numbers.clients);
        universe::said(self.now, client, id, &request);
        self.clients.insert(client, Client { asked: id, request: request.clone(), answer: None, is_gone: false });
        self.master_mut(id).requests.push_back((client, request));
    }

    /// A waiting client disconnects.
    fn leave(&mut self, place: usize) {
        let waiting = self.clients.iter().filter(|(_, client)| client.answer.is_none() && !client.is_gone);
        let waiting: Vec<ClientId> = waiting.map(|(id, _)| *id).collect();
        let Some(client) = waiting.get(place).copied() else { return };
        let one = self.clients.get_mut(&client).expect("it waits");
        one.is_gone = true;
        let asked = one.asked;
        tell(self.now, None, || format!("client {} goes away", client.0));
        let Some(Body::Master(master)) = self.processes.get_mut(&asked).map(|process| &mut process.body) else {
            return;
        };
        let before = master.requests.len();
        master.requests.retain(|(one, _)| *one != client);
        if master.requests.len() == before && master.core.is_some() {
            self.step_core(asked, crate::master::core::Event::ClientGone(client));
        }
    }
}
