//! Generations leave: replaced, told to stop, or told to wait for a reload.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use super::generation::{Generation, Phase, State};
use super::successor::Successor;
use super::{Master, notify};
use crate::config::Connections;
use crate::handover::Tier;
use crate::ipc::channel::{self};
use crate::ipc::orders::Order;

/// Beyond the workers' own drain time: then they are killed.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);

/// Workers that one worker brings connections to, at most: one message has room for so many.
const HEIRS_MAX: usize = 128;

/// Whom the worker at `place` brings its connections; each begins with another one.
pub(super) fn inheritance(heirs: &[String], place: usize) -> Order {
    let first = place % heirs.len().max(1);
    let (before, from) = heirs.split_at(first);
    Order::Heirs { names: from.iter().chain(before).take(HEIRS_MAX).cloned().collect() }
}

/// How patiently to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Connections have the configured time, or this one.
    Graceful { drain_ms: Option<u64> },
    /// Connections have a short time.
    Fast,
    /// Connections have none.
    Now,
}

impl Master<'_> {
    /// Asked for a second time, it is at once.
    pub(super) fn stop(&mut self, how: Stop, by: &str) {
        if self.asks_for_relief(how, by) {
            return;
        }
        self.decide_by_leaving();
        if !self.is_leaving {
            notify::stopping();
        }
        if self.stopping || how == Stop::Now {
            return self.stop_at_once(by);
        }
        tracing::info!(signal = by, "stopping: workers drain; once more stops them at once");
        self.stopping = true;
        self.event(None, format_args!("stopping, by {by}"));
        // Whoever waits at the guard was let in.
        self.hand_out();
        for index in 0..self.generations.len() {
            let timeouts = &self.generations[index].settings.timeouts;
            let drain_ms = match how {
                Stop::Graceful { drain_ms } => drain_ms.unwrap_or(timeouts.drain_ms_max),
                Stop::Fast | Stop::Now => timeouts.stop_ms_max.min(timeouts.drain_ms_max),
            };
            self.send_away(index, Order::Drain { settle_ms: 0, drain_ms, is_succeeded: false });
        }
        self.stop_orphans(how);
    }

    /// The old master serves: the workers leave without haste.
    pub(super) fn leave_relieved(&mut self, how: Stop) {
        self.stopping = true;
        for index in 0..self.generations.len() {
            let farewell = match (self.farewell(index), how) {
                (_, Stop::Now) => Order::Stop,
                (farewell, _) => farewell,
            };
            self.send_away(index, farewell);
        }
        self.stop_orphans(Stop::Graceful { drain_ms: None });
    }

    fn stop_at_once(&mut self, by: &str) {
        tracing::info!(signal = by, "stopping at once");
        if !std::mem::replace(&mut self.stopping, true) {
            self.event(None, format_args!("stopping at once, by {by}"));
        }
        for index in 0..self.generations.len() {
            self.send_away(index, Order::Stop);
        }
        self.stop_orphans(Stop::Now);
    }

    /// Workers leave and the master stays, until a reload brings new ones or a stop ends it.
    pub(super) fn idle(&mut self) {
        let is_starting = self.successor.as_ref().is_some_and(Successor::is_starting);
        if self.stopping || self.is_changing() || self.is_idle || is_starting {
            tracing::warn!("WINCH is ignored: the workers are coming or leaving already");
            return;
        }
        let Some(index) = self.serving() else { return };
        tracing::info!("WINCH: the workers leave; HUP starts new ones, QUIT or TERM ends the server");
        self.is_idle = true;
        self.event(None, "the workers leave, the master stays");
        if !self.tell_successor_to_take_all() {
            for guard in &self.guards {
                if let Err(error) = guard.stand_alone() {
                    let address = guard.address;
                    tracing::error!(%address, "the listeners are not parked, and close at once: {error}");
                }
            }
        }
        let farewell = self.farewell(index);
        self.send_away(index, farewell);
    }

    /// How workers leave when those of generation `index` serve instead.
    pub(super) fn farewell(&self, index: usize) -> Order {
        let timeouts = &self.generations[index].settings.timeouts;
        let (settle_ms, is_succeeded) = match self.tier {
            Tier::Adopt => (0, true),
            Tier::Ebpf | Tier::Migrate => (timeouts.settle_ms, false),
        };
        Order::Drain { settle_ms, drain_ms: timeouts.drain_ms_max, is_succeeded }
    }

    /// Orders a generation to leave, or to leave sooner than it was ordered before.
    pub(super) fn send_away(&mut self, index: usize, farewell: Order) {
        let heirs = match self.generations[index].settings.connections {
            Connections::Handover => self.heirs(index),
            Connections::Goodbye | Connections::Wait => Vec::new(),
        };
        if !self.is_moving() {
            self.moves.begin();
        }
        let generation = &mut self.generations[index];
        let time_ms = match farewell {
            Order::Drain { settle_ms, drain_ms, .. } => settle_ms.saturating_add(drain_ms),
            _ => 0,
        };
        let deadline = Instant::now() + Duration::from_millis(time_ms) + STOP_GRACE;
        generation.growth = None;
        generation.phase = Phase::Leaving(match generation.phase {
            Phase::Leaving(before) => before.min(deadline),
            Phase::Starting | Phase::Serving => deadline,
        });
        for (place, slot) in generation.slots.iter_mut().enumerate() {
            // A worker that is gone needs no order; it is reaped next.
            if let Some(control) = slot.child().and_then(|child| child.control.as_ref()) {
                let is_told = !heirs.is_empty() && channel::tell(control, &inheritance(&heirs, place)).is_ok();
                let _ = channel::tell(control, &farewell);
                slot.is_moving |= is_told;
            }
            if matches!(slot.state, State::Waiting(_)) {
                slot.state = State::Gone;
            }
        }
        let is_settling = matches!(farewell, Order::Drain { settle_ms: 1.., .. });
        let number = generation.number;
        if is_settling {
            self.event(Some(number), "parked: its listeners settle, its connections drain");
        } else if farewell != Order::Stop {
            self.event(Some(number), "its connections drain");
        }
    }

    /// Where workers can bring connections that serve while all of this master's generations, or all but that at `index`,
    /// leave: its own, else those of the master that serves instead.
    fn heirs(&self, index: usize) -> Vec<String> {
        let serving = self.generations.iter().enumerate();
        let serving = serving.filter(|(other, one)| *other != index && one.phase == Phase::Serving && !self.stopping);
        let own: Vec<String> = serving.flat_map(|(_, generation)| generation.meetings()).collect();
        if own.is_empty() { self.heirs_elsewhere.clone() } else { own }
    }

    /// Where workers of this master can be brought connections: as many as one message has room for.
    pub(super) fn meetings(&self) -> Vec<String> {
        let serving = self.generations.iter().filter(|generation| generation.phase == Phase::Serving);
        serving.flat_map(Generation::meetings).take(HEIRS_MAX).collect()
    }

    pub(super) fn kill_all(&mut self) {
        for mut generation in std::mem::take(&mut self.generations) {
            self.kill_children(&mut generation);
        }
    }

    pub(super) fn kill_children(&mut self, generation: &mut Generation<'_>) {
        for slot in &mut generation.slots {
            if let Some(child) = slot.child_mut() {
                self.held.extend(std::mem::take(&mut child.handed));
                let _ = kill(child.pid, Signal::SIGKILL);
                while waitpid(child.pid, None) == Err(Errno::EINTR) {}
            }
            slot.state = State::Gone;
            self.telemetry.retire(&slot.page);
        }
    }
}
