//! One generation: the workers of one configuration, and how far each of them is.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::config::Settings;
use crate::handover::Steering;
use crate::server::Service;
use crate::sys::shared_memory::Shared;
use crate::telemetry::WorkerPage;

/// A worker that lived so long did not die of its start: the count of its deaths begins anew.
const PROVEN: Duration = Duration::from_secs(10);

/// Pause before a worker that died twice in a row is started again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A worker's process and the channel to it.
pub(super) struct Child {
    pub(super) pid: Pid,
    /// `None` once the worker has closed its end.
    pub(super) control: Option<OwnedFd>,
    pub(super) since: Instant,
}

/// What there is of a worker.
pub(super) enum State {
    /// Nothing, and nothing is to come.
    Gone,
    /// Forked, and not ready yet.
    Starting(Child),
    Ready(Child),
    /// Died; to be started again then.
    Waiting(Instant),
}

/// A slot of a generation.
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) page: Arc<Shared<WorkerPage>>,
    /// How often in a row it died young.
    deaths: u32,
    /// Its protocol told it to leave: its end is no death.
    pub(super) leaves: bool,
}

impl Slot {
    pub(super) fn new(page: Arc<Shared<WorkerPage>>) -> Self {
        Self { state: State::Gone, page, deaths: 0, leaves: false }
    }

    pub(super) fn child(&self) -> Option<&Child> {
        match &self.state {
            State::Starting(child) | State::Ready(child) => Some(child),
            State::Gone | State::Waiting(_) => None,
        }
    }

    pub(super) fn child_mut(&mut self) -> Option<&mut Child> {
        match &mut self.state {
            State::Starting(child) | State::Ready(child) => Some(child),
            State::Gone | State::Waiting(_) => None,
        }
    }

    /// The process has ended and is to be replaced; gives the pause before.
    pub(super) fn died(&mut self, now: Instant) -> Duration {
        let was_proven = self.child().is_some_and(|child| now.duration_since(child.since) >= PROVEN);
        self.deaths = if was_proven { 1 } else { self.deaths + 1 };
        let pause = match self.deaths {
            1 => Duration::ZERO,
            deaths => PAUSE_MIN.saturating_mul(1 << (deaths - 2).min(16)).min(PAUSE_MAX),
        };
        self.state = State::Waiting(now + pause);
        pause
    }
}

/// How far a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its workers come up; none of them gets connections yet where there is a generation before it.
    Starting,
    Serving,
    /// Replaced or told to stop; killed then.
    Leaving(Instant),
}

/// See the module's head.
pub(super) struct Generation<'a> {
    pub(super) number: u32,
    pub(super) settings: Settings,
    pub(super) service: Service<'a>,
    /// As configured, and as bound.
    pub(super) addresses: Vec<(SocketAddr, SocketAddr)>,
    /// By address; empty except in the tier ebpf.
    pub(super) steering: Vec<Steering>,
    pub(super) slots: Vec<Slot>,
    pub(super) phase: Phase,
    pub(super) began: Instant,
}

impl Generation<'_> {
    pub(super) fn is_ready(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot.state, State::Ready(_)))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot.state, State::Gone))
    }

    /// Those that can be spoken to, with their slots.
    pub(super) fn children(&self) -> impl Iterator<Item = (usize, &Child)> {
        self.slots.iter().enumerate().filter_map(|(slot, worker)| Some((slot, worker.child()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_keeps_dying_is_started_less_and_less_often() {
        let mut slot = Slot::new(Arc::new(Shared::new().expect("memory")));
        let now = Instant::now();
        let child = |since| State::Ready(Child { pid: Pid::from_raw(1), control: None, since });
        slot.state = child(now);
        let mut last = Duration::ZERO;
        assert_eq!(slot.died(now), Duration::ZERO, "the first time at once");
        for _ in 0..40 {
            slot.state = child(now);
            let pause = slot.died(now);
            assert!(pause >= last && pause <= PAUSE_MAX);
            last = pause;
        }
        assert_eq!(last, PAUSE_MAX);
        slot.state = child(now);
        assert_eq!(slot.died(now + PROVEN), Duration::ZERO, "it had proven itself");
    }
}
