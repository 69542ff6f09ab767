//! Workers are watched: what they report, how they end, whether they answer; and those that died are started again.

use std::fmt;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::Master;
use super::generation::{Generation, LOOKS_MAX, Phase, Pulse, Slot, State};
use crate::error::ServerError;
use crate::handover::Tier;
use crate::ipc::channel::{self, Heard};
use crate::ipc::orders::{Order, Report};
use crate::sys::clock::monotonic_ns;
use crate::sys::process;

/// A worker that is not ready by then has failed.
const READY_SECONDS_MAX: u64 = 10;

/// Workers are not looked at more often.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// A worker that died so often in a row is reported as one that keeps dying.
const DEATHS_REPORTED: u32 = 5;

impl Master<'_> {
    pub(super) fn hear_workers(&mut self) {
        for generation in 0..self.generations.len() {
            for place in 0..self.generations[generation].slots.len() {
                loop {
                    // A generation that failed is taken out of the list, and so are slots.
                    let Some(of) = self.generations.get_mut(generation) else { return };
                    let Some(child) = of.slots.get_mut(place).and_then(Slot::child_mut) else { break };
                    let Some(control) = &child.control else { break };
                    match channel::hear(control) {
                        Ok(Heard::Message(report)) => self.heard(generation, place, report),
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

    fn heard(&mut self, index: usize, place: usize, report: Report) {
        let generation = &mut self.generations[index];
        let (number, slot) = (generation.number, generation.slots[place].index);
        match report {
            Report::Ready { core, connections_max, listeners, meeting, has_state, formats: _ } => {
                let worker = &mut generation.slots[place];
                match std::mem::replace(&mut worker.state, State::Gone) {
                    State::Starting(mut child) => {
                        let pid = child.pid.as_raw();
                        child.listeners = listeners;
                        child.meeting = meeting;
                        child.has_state = has_state;
                        worker.state = State::Ready(child);
                        tracing::info!(generation = number, slot, pid, core, connections_max, "worker ready");
                        self.event(Some(number), format_args!("worker {slot} is ready, pid {pid}"));
                    }
                    other => worker.state = other,
                }
                self.became_ready(index);
            }
            Report::Failed { reason } => self.failed(index, place, ServerError::Worker { slot, reason }),
            Report::Taken => {
                if let Some(child) = generation.slots[place].child_mut() {
                    child.handed.pop_front();
                }
            }
            Report::Moved(moved) => self.moved(index, place, &moved),
            Report::Leaving => generation.slots[place].leaves = true,
            Report::Closed => self.event(Some(number), format_args!("worker {slot} has closed its listeners")),
            // Of orphans alone.
            Report::Orphan { .. } | Report::Listener { .. } => {}
            Report::Unknown => tracing::warn!(generation = number, slot, "a report of a later version is ignored"),
        }
    }

    fn became_ready(&mut self, index: usize) {
        match self.generations[index].phase {
            Phase::Starting => self.proceed(index),
            Phase::Serving => {
                self.proceed_growth(index);
                self.tell_heirs();
                if self.adopts() {
                    self.share_rest();
                }
            }
            Phase::Leaving(_) => {}
        }
    }

    /// A worker that was to come up does not.
    fn failed(&mut self, index: usize, place: usize, error: ServerError) {
        let generation = &self.generations[index];
        if generation.phase == Phase::Starting {
            self.abandon(error);
        } else if generation.growth.as_ref().is_some_and(|growth| place >= growth.from) {
            self.abandon_growth(index, &error.to_string());
        } else {
            tracing::error!(generation = generation.number, "{error}");
            if let Some(State::Starting(child)) = generation.slots.get(place).map(|slot| &slot.state) {
                let _ = kill(child.pid, Signal::SIGKILL);
            }
        }
    }

    /// Looks for children that have ended.
    pub(super) fn reap(&mut self) {
        for generation in 0..self.generations.len() {
            for place in 0..self.generations.get(generation).map_or(0, |of| of.slots.len()) {
                let Some(of) = self.generations.get(generation) else { return };
                let Some(child) = of.slots.get(place).and_then(Slot::child) else { continue };
                match waitpid(child.pid, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                    status => self.ended(generation, place, status),
                }
            }
        }
    }

    fn ended(&mut self, index: usize, place: usize, status: nix::Result<WaitStatus>) {
        let generation = &mut self.generations[index];
        let number = generation.number;
        let is_new = generation.growth.as_ref().is_some_and(|growth| place >= growth.from);
        let is_abandoned = generation.is_abandoned;
        let worker = &mut generation.slots[place];
        let slot = worker.index;
        let pid = worker.child().map(|child| child.pid.as_raw());
        let handed = worker.child_mut().map(|child| std::mem::take(&mut child.handed)).unwrap_or_default();
        let said = worker.child().and_then(|child| child.control.as_ref()).and_then(last_words);
        let end = End(status).to_string();
        let is_in_order = matches!(status, Ok(WaitStatus::Exited(_, 0)));
        worker.last_end = Some(end.clone());
        match generation.phase {
            Phase::Starting => {
                worker.state = State::Gone;
                let reason = said.unwrap_or_else(|| format!("it {end} before it was ready"));
                self.abandon(ServerError::Worker { slot, reason });
            }
            Phase::Serving if is_new && !worker.is_ready() => {
                worker.state = State::Gone;
                let reason = said.unwrap_or_else(|| format!("it {end} before it was ready"));
                self.abandon_growth(index, &ServerError::Worker { slot, reason }.to_string());
            }
            Phase::Leaving(_) => {
                worker.state = State::Gone;
                if !is_in_order && !is_abandoned {
                    self.died += 1;
                    tracing::error!(generation = number, slot, pid, end, "worker died while leaving");
                    self.event(Some(number), format_args!("worker {slot} {end} while leaving"));
                }
            }
            Phase::Serving if worker.leaves => {
                worker.state = State::Gone;
                tracing::warn!(generation = number, slot, pid, "worker left by itself");
            }
            Phase::Serving => {
                let pause_ms = worker.died(Instant::now()).as_millis() as u64;
                let deaths = worker.deaths;
                self.report_trouble(format!("worker {slot} {end}"));
                tracing::error!(generation = number, slot, pid, end, pause_ms, "worker died; it is started again");
                self.journal.begin("replacement", number);
                self.event(Some(number), format_args!("worker {slot} {end}; it is started again in {pause_ms} ms"));
                if deaths >= DEATHS_REPORTED {
                    tracing::error!(generation = number, slot, deaths, "worker keeps dying; its siblings serve on");
                    self.event(Some(number), format_args!("worker {slot} keeps dying, {deaths} times in a row"));
                }
            }
        }
        // Others get what it was handed and did not take.
        self.held.extend(handed);
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let of_phases = self.generations.iter().filter_map(|generation| match generation.phase {
            Phase::Leaving(deadline) => Some(deadline),
            Phase::Starting | Phase::Serving => None,
        });
        let slots = self.generations.iter().flat_map(|generation| &generation.slots);
        let of_slots = slots.filter_map(|slot| match &slot.state {
            State::Starting(child) => Some(child.since + Duration::from_secs(READY_SECONDS_MAX)),
            State::Waiting(until) => Some(*until),
            State::Gone | State::Ready(_) | State::Hung(_) => None,
        });
        of_phases
            .chain(of_slots)
            .chain(self.orphans.iter().filter_map(|orphan| orphan.deadline))
            .chain(self.successor.iter().filter_map(|successor| successor.deadline))
            .chain(self.predecessor.iter().filter_map(|predecessor| predecessor.deadline))
            .chain(self.second_look)
    }

    pub(super) fn check_deadlines(&mut self) {
        let now = Instant::now();
        self.kill_late_orphans(now);
        self.check_successor(now);
        self.ping(now);
        self.check_predecessor(now);
        for index in 0..self.generations.len() {
            let Some(generation) = self.generations.get(index) else { return };
            if matches!(generation.phase, Phase::Leaving(deadline) if deadline <= now) {
                self.kill_late(index);
                continue;
            }
            for place in 0..generation.slots.len() {
                let Some(slot) = self.generations.get(index).and_then(|of| of.slots.get(place)) else { break };
                match &slot.state {
                    State::Waiting(until) if *until <= now => self.start_again(index, place),
                    State::Starting(child) if now.duration_since(child.since).as_secs() >= READY_SECONDS_MAX => {
                        let (slot, pid) = (slot.index, child.pid.as_raw());
                        self.failed(index, place, ServerError::NotReady { slot, pid, seconds: READY_SECONDS_MAX });
                    }
                    _ => {}
                }
            }
        }
    }

    fn kill_late(&mut self, index: usize) {
        let generation = &self.generations[index];
        let (number, workers) = (generation.number, generation.children().count());
        if workers > 0 {
            self.died += if generation.is_abandoned { 0 } else { workers };
            tracing::warn!(generation = number, workers, "workers did not leave in time and are killed");
            self.event(Some(number), format_args!("{workers} did not leave in time and are killed"));
        }
        let mut generation = self.generations.remove(index);
        self.kill_children(&mut generation);
        self.generations.insert(index, generation);
    }

    fn start_again(&mut self, index: usize, place: usize) {
        let slot = self.generations[index].slots[place].index;
        let result = self.new_slot(slot).and_then(|fresh| {
            let generation = &mut self.generations[index];
            let retired = std::mem::replace(&mut generation.slots[place].page, fresh.page);
            generation.ended.add(&ended(&retired));
            self.telemetry.retire(&retired);
            self.fork_worker(index, place, None)
        });
        if let Err(error) = result {
            tracing::error!(slot, "worker cannot be started again yet: {error}");
            self.generations[index].slots[place].died(Instant::now());
        }
    }

    /// Between two looks at whether workers answer; `None` where that is turned off.
    pub(super) fn look_interval(&self) -> Option<Duration> {
        let times = self.generations.iter().map(|generation| generation.settings.timeouts.hang_ms);
        let hang_ms = times.filter(|hang_ms| *hang_ms > 0).min()?;
        Some((Duration::from_millis(hang_ms) / LOOKS_MAX).max(LOOK_INTERVAL_MIN))
    }

    pub(super) fn look_at_workers(&mut self) {
        let Some(interval) = self.look_interval() else { return };
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + interval;
        let mut hung = Vec::new();
        for (index, generation) in self.generations.iter_mut().enumerate() {
            if generation.settings.timeouts.hang_ms == 0 {
                continue;
            }
            for (place, slot) in generation.slots.iter_mut().enumerate() {
                let State::Ready(child) = &slot.state else { continue };
                let pulse = slot.heartbeat.look(slot.page.turn_at_ns.get(), monotonic_ns(), interval.as_nanos() as u64);
                match (pulse, &child.control) {
                    (Pulse::Ask, Some(control)) => drop(channel::tell(control, &Order::Ping)),
                    (Pulse::Hung, _) => hung.push((index, place)),
                    (Pulse::Fine | Pulse::Ask, _) => {}
                }
            }
        }
        hung.into_iter().for_each(|(index, place)| self.kill_hung(index, place));
    }

    /// Gives a hung worker's connections to others, and kills it; it is replaced as any that died.
    fn kill_hung(&mut self, index: usize, place: usize) {
        let generation = &mut self.generations[index];
        let number = generation.number;
        let has_others = self.tier == Tier::Ebpf || generation.slots.iter().filter(|slot| slot.is_ready()).count() > 1;
        let worker = &mut generation.slots[place];
        let slot = worker.index;
        let State::Ready(child) = std::mem::replace(&mut worker.state, State::Gone) else { return };
        let pid = child.pid;
        if generation.phase == Phase::Serving {
            generation.steering.iter().for_each(|steering| steering.unset(slot as u32));
        }
        // In the tier adopt the sockets are the master's as well, who accepts from them until the worker is replaced.
        let is_drained = self.tier != Tier::Adopt && has_others;
        let shut = if is_drained { shut_listeners(&child) } else { 0 };
        let _ = kill(pid, Signal::SIGKILL);
        self.generations[index].slots[place].state = State::Hung(child);
        tracing::error!(generation = number, slot, pid = pid.as_raw(), shut, "worker hangs; it is killed");
        self.report_trouble(format!("worker {slot} does not answer"));
        self.event(Some(number), format_args!("worker {slot} does not answer; its queue is moved, and it is killed"));
    }

    pub(super) fn forget_gone(&mut self) {
        let is_over = |generation: &Generation<'_>| generation.is_gone() && generation.phase != Phase::Starting;
        for index in
            (0..self.generations.len()).rev().filter(|index| is_over(&self.generations[*index])).collect::<Vec<_>>()
        {
            let generation = self.generations.remove(index);
            generation.slots.iter().for_each(|slot| self.telemetry.retire(&slot.page));
            tracing::debug!(generation = generation.number, "generation is gone");
            let slots = generation.slots.iter().map(|slot| slot.index.to_string()).collect::<Vec<_>>().join(", ");
            // Those that a change of number took out of a generation leave the rest of it behind.
            match self.generations.iter_mut().find(|other| other.number == generation.number) {
                Some(rest) => {
                    rest.ended.add(&generation.ended);
                    generation.slots.iter().for_each(|slot| rest.ended.add(&ended(&slot.page)));
                    self.event(Some(generation.number), format_args!("workers {slots} are gone"));
                }
                None => self.event(Some(generation.number), "its workers are gone"),
            }
            if !self.is_idle {
                let generations = &self.generations;
                self.guards.retain(|guard| {
                    let mut addresses = generations.iter().flat_map(|generation| &generation.addresses);
                    addresses.any(|(_, bound)| *bound == guard.address)
                });
            }
        }
        if !self.is_changing() && std::mem::take(&mut self.reload_again) {
            // What went wrong is logged.
            let _ = self.reload();
        }
    }
}

/// The numbers of a worker that has ended: it has no connections, however it ended.
fn ended(page: &crate::telemetry::WorkerPage) -> crate::telemetry::Snapshot {
    crate::telemetry::Snapshot { open: 0, ..page.snapshot() }
}

/// Moves what waits at a worker's listeners to others, whatever holds the sockets open; gives how many there were.
fn shut_listeners(child: &super::generation::Child) -> usize {
    let Some(process) = &child.process else { return 0 };
    let copies = child.listeners.iter().filter_map(|number| process::descriptor_of(process.as_fd(), *number).ok());
    copies
        .filter(|copy| {
            let socket = socket2::SockRef::from(copy);
            // The number may have been given to something else since: only a listener is shut.
            socket.is_listener().unwrap_or(false) && socket.shutdown(Shutdown::Read).is_ok()
        })
        .count()
}

/// Why a worker that has ended did not start, where it has said so.
fn last_words(control: &OwnedFd) -> Option<String> {
    loop {
        match channel::hear(control) {
            Ok(Heard::Message(Report::Failed { reason })) => return Some(reason),
            Ok(Heard::Message(_)) => {}
            Ok(Heard::Nothing | Heard::End) | Err(_) => return None,
        }
    }
}

/// How a process ended, in words.
pub(super) struct End(pub(super) nix::Result<WaitStatus>);

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(WaitStatus::Exited(_, code)) => write!(formatter, "ended with exit code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => write!(formatter, "was killed by {signal}"),
            Ok(status) => write!(formatter, "ended: {status:?}"),
            Err(error) => write!(formatter, "is gone: {error}"),
        }
    }
}
