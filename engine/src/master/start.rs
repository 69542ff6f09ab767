//! Generations come up: first worker first, the others when it is ready, and the switch when all are; or they are taken
//! down again, and the one before never noticed.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use nix::unistd::ForkResult;
use socket2::Socket;

use super::generation::{Child, Generation, Phase, Slot, State};
use super::orphans::Orphan;
use super::{Kept, Master, notify};
use crate::config::Settings;
use crate::error::ServerError;
use crate::handover::Tier;
use crate::ipc::channel::{self};
use crate::ipc::control::Reply;
use crate::service::Service;
use crate::steering::{self, Guard, Steering};
use crate::sys::listener;
use crate::sys::process;
use crate::telemetry::Snapshot;
use crate::worker::{Inherited, Listeners, Setup};

/// Exit code of a worker that could not start or whose ring failed.
const EXIT_FAILED: i32 = 1;

impl<'a> Master<'a> {
    /// Binds what is new and forks the first worker of a new generation. Gives the operation whose outcome will be told.
    pub(super) fn begin(
        &mut self,
        settings: Settings,
        service: Service<'a>,
        kind: &'static str,
    ) -> Result<u32, ServerError> {
        let identity = settings.identity()?;
        let number = self.next_number;
        self.next_number += 1;
        let (addresses, first) = self.bind_all(&settings.listen)?;
        let workers = settings.workers;
        let steering = match self.tier {
            Tier::Ebpf => addresses.iter().map(|_| Steering::load(workers as u32)).collect::<io::Result<_>>(),
            Tier::Adopt | Tier::Migrate => Ok(Vec::new()),
        };
        let system = |what| move |source| ServerError::System { what, source };
        let steering = steering.map_err(system("loading the steering program"))?;
        let slots = (0..workers).map(|index| self.new_slot(index)).collect::<Result<_, _>>()?;
        let operation = self.new_operation();
        self.generations.push(Generation {
            number,
            operation,
            settings,
            service,
            identity,
            addresses,
            steering,
            shares: Vec::new(),
            slots,
            phase: Phase::Starting,
            is_abandoned: false,
            growth: None,
            began: Instant::now(),
            ended: Snapshot::default(),
        });
        self.journal.begin(kind, number);
        self.event(Some(number), format_args!("starting, workers {workers}"));
        let generation = self.generations.len() - 1;
        let first = if self.adopts() {
            self.keep_sockets(generation, first)?;
            None
        } else {
            let inherited = first.into_iter().zip(0..).map(|((socket, address), id)| Inherited { id, socket, address });
            Some(inherited.collect())
        };
        self.fork_worker(generation, 0, first)?;
        Ok(operation)
    }

    /// One bound socket per address, and the addresses as they were asked for and as they are.
    fn bind_all(&mut self, requested: &[SocketAddr]) -> Result<(Addresses, Vec<(Socket, SocketAddr)>), ServerError> {
        let (mut addresses, mut first) = (Addresses::new(), Vec::new());
        for requested in requested {
            // A port of 0 may be asked for twice, which means two ports.
            let bound = self.addresses.iter().find(|pair| pair.0 == *requested && !addresses.contains(*pair));
            let bound = bound.map(|(_, bound)| *bound);
            let is_taken_over = self.orphans.iter().any(|orphan| orphan.listens_on(*requested));
            if bound.is_none() && requested.port() != 0 && !is_taken_over {
                self.reservations.push(listener::reserve(*requested)?);
            }
            let (socket, bound) = listener::bind(bound.unwrap_or(*requested))?;
            addresses.push((*requested, bound));
            first.push((socket, bound));
        }
        Ok((addresses, first))
    }

    pub(super) fn new_slot(&self, index: usize) -> Result<Slot, ServerError> {
        let page = self.telemetry.add_page();
        let page = page.map_err(|source| ServerError::System { what: "mapping telemetry", source })?;
        Ok(Slot::new(index, page))
    }

    pub(super) fn fork_worker(
        &mut self,
        generation: usize,
        place: usize,
        first: Option<Vec<Inherited>>,
    ) -> Result<(), ServerError> {
        let system = |what| move |source| ServerError::System { what, source };
        let slot = self.generations[generation].slots[place].index;
        let listeners = match (first, self.tier) {
            (Some(sockets), _) => Listeners::Inherited(sockets),
            (None, Tier::Adopt) => {
                Listeners::Inherited(self.copies(generation, slot).map_err(system("copying a listen socket"))?)
            }
            (None, Tier::Ebpf | Tier::Migrate) => {
                Listeners::Own(self.generations[generation].addresses.iter().map(|(_, bound)| *bound).collect())
            }
        };
        let succeeds = match self.generations[generation].phase {
            Phase::Starting => self.has_others(generation),
            // One that is started again while the ones before still bring what they have.
            _ => self.is_moving() || self.predecessor.as_ref().is_some_and(|predecessor| predecessor.is_moving),
        };
        self.moves.state_is_awaited |= succeeds;
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let core = cores.get(slot).copied();
        let Generation { number, settings, service, identity, steering, slots, .. } = &mut self.generations[generation];
        if core.is_none() {
            tracing::warn!(slot, cores = cores.len(), "no core of its own is left for this worker; it is not pinned");
        }
        let (ours, theirs) = channel::pair().map_err(system("socketpair"))?;
        match process::fork_single_threaded().map_err(system("fork"))? {
            ForkResult::Parent { child } => {
                // Dropping `listeners` here closes the master's copies of what the worker inherited.
                let since = Instant::now();
                let process = process::open(child).ok();
                let (listeners, handed) = (Vec::new(), VecDeque::new());
                slots[place].heartbeat = Default::default();
                slots[place].state = State::Starting(Child {
                    pid: child,
                    process,
                    control: Some(ours),
                    since,
                    listeners,
                    meeting: None,
                    has_state: false,
                    handed,
                });
                tracing::debug!(generation = *number, slot, pid = child.as_raw(), "worker forked");
                Ok(())
            }
            ForkResult::Child => {
                drop(ours);
                let setup = Setup {
                    slot,
                    generation: *number,
                    core,
                    settings: settings.clone(),
                    listeners,
                    steering: steering.clone(),
                    page: Arc::clone(&slots[place].page),
                    control: theirs,
                    identity: identity.clone(),
                    rendezvous: self.key.clone(),
                    succeeds,
                    signals: true,
                };
                let service = service.clone();
                self.forget_all();
                let result = service.run(setup);
                process::exit(if result.is_ok() { 0 } else { EXIT_FAILED })
            }
        }
    }

    /// Whether there are workers, of this master or another, that are to leave when those of this generation serve.
    fn has_others(&self, generation: usize) -> bool {
        let is_other = |(index, other): (usize, &Generation<'_>)| index != generation && other.phase == Phase::Serving;
        let has_own = self.generations.iter().enumerate().any(is_other);
        has_own || self.predecessor.is_some() || self.successor.is_some() || self.orphans.iter().any(Orphan::is_heard)
    }

    /// In a new worker: the others' channels must end with the master, and listen sockets with those who serve them.
    fn forget_all(&mut self) {
        self.generations.clear();
        if let Some(control) = self.control.take() {
            control.forget();
        }
        self.guards.clear();
        self.kept.clear();
        self.reservations.clear();
        self.held.clear();
        self.orphans.clear();
        self.successor = None;
        self.predecessor = None;
        self.relay = None;
    }

    /// The next step of a generation that starts: after the first worker the others, after the last the switch.
    pub(super) fn proceed(&mut self, index: usize) {
        // Somebody listens on every address.
        self.reservations.clear();
        let is_missing = |slot: &Slot| matches!(slot.state, State::Gone);
        let result = if self.generations[index].slots.iter().any(is_missing) {
            let places = 0..self.generations[index].slots.len();
            places.into_iter().try_for_each(|place| match self.generations[index].slots[place].state {
                State::Gone => self.fork_worker(index, place, None),
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
        self.steer_to(index)?;
        let generation = &mut self.generations[index];
        generation.phase = Phase::Serving;
        let (number, operation, workers) = (generation.number, generation.operation, generation.slots.len());
        let took_ms = generation.began.elapsed().as_millis() as u64;
        let addresses: Vec<SocketAddr> = generation.addresses.iter().map(|(_, bound)| *bound).collect();
        let is_first = !std::mem::replace(&mut self.has_served, true);
        self.addresses.clone_from(&generation.addresses);
        self.moves.state_is_awaited = true;
        self.last = Some((generation.settings.clone(), generation.service.clone()));
        self.is_idle = false;
        if is_first {
            for address in &addresses {
                tracing::info!(%address, workers, "listening");
            }
        } else {
            tracing::info!(generation = number, workers, took_ms, "reload: the new generation serves");
        }
        self.event(Some(number), format_args!("serves, {took_ms} ms after it began"));
        let farewell = self.farewell(index);
        for before in 0..index {
            if self.generations[before].phase == Phase::Serving {
                self.send_away(before, farewell.clone());
            }
        }
        if self.adopts() {
            // Of a server before, which may have steered.
            self.kept.iter().for_each(|kept| steering::detach(kept.socket.as_fd()));
            self.kept.retain(|kept| addresses.contains(&kept.address));
            self.share_rest();
        }
        self.dismiss_orphans();
        self.conclude_when_moved(operation, format!("generation {number} serves, {took_ms} ms after it began"));
        if is_first && self.predecessor.is_some() {
            self.report_ready(number);
            notify::main_process(std::process::id());
        } else if is_first {
            self.write_pid_file();
        }
        notify::ready();
        self.serves_again();
        Ok(())
    }

    /// Puts a generation's steering on its groups; opens a guard where there is none yet.
    pub(super) fn steer_to(&mut self, index: usize) -> Result<(), ServerError> {
        let generation = &self.generations[index];
        let backlog = generation.settings.limits.backlog;
        let workers = generation.slots.len() as u32;
        for ((_, address), steering) in generation.addresses.iter().zip(&generation.steering) {
            // While an upgrade is held, the old master's listeners have connections, too.
            let other = self.predecessor.as_ref().and_then(|predecessor| predecessor.map(*address));
            let beside = other.map(|(map, places)| steering.beside(workers, map, places)).transpose();
            let beside =
                beside.map_err(|source| ServerError::System { what: "loading the steering program", source })?;
            let steering = beside.as_ref().unwrap_or(steering);
            match self.guards.iter().find(|guard| guard.address == *address) {
                Some(guard) => {
                    let system = |source| ServerError::System { what: "attaching the steering program", source };
                    guard.switch(steering).map_err(system)?;
                }
                None => self.guards.push(Guard::open(*address, backlog, steering)?),
            }
        }
        Ok(())
    }

    /// Takes down the generation that was starting, if there is one; the one before serves on.
    pub(super) fn abandon(&mut self, error: ServerError) {
        self.reservations.clear();
        let serves = self.serving().is_some() || self.is_idle;
        if let Some(index) = self.generations.iter().position(|generation| generation.phase == Phase::Starting) {
            let (number, operation) = (self.generations[index].number, self.generations[index].operation);
            self.event(Some(number), format_args!("taken down: {error}"));
            self.conclude(operation, &Reply::Failed { reason: error.to_string() });
            if serves {
                self.take_down(index);
            }
        }
        self.cannot_serve_again(&error.to_string());
        if serves {
            tracing::error!("reload failed, the workers serve on as before: {error}");
            notify::ready();
        } else {
            self.orphans.iter().for_each(Orphan::log_kept);
            // What comes of it is no reason.
            self.fatal.get_or_insert(error);
        }
    }

    /// Ends workers that were to serve and shall not.
    pub(super) fn take_down(&mut self, index: usize) {
        self.generations[index].is_abandoned = true;
        match self.tier {
            // Nothing was steered to them.
            Tier::Ebpf => {
                let mut generation = self.generations.remove(index);
                self.kill_children(&mut generation);
            }
            // Those that came up have accepted connections.
            Tier::Adopt | Tier::Migrate => {
                let farewell = self.farewell(index);
                self.send_away(index, farewell);
                // So have the sockets that were made for them: others accept from those that listen.
                let addresses: Vec<SocketAddr> = self.addresses.iter().map(|(_, bound)| *bound).collect();
                let is_used = |kept: &Kept| addresses.contains(&kept.address) && kept.is_listening();
                self.kept.retain(is_used);
                self.share_rest();
            }
        }
    }
}

/// As configured, and as bound.
type Addresses = Vec<(SocketAddr, SocketAddr)>;
