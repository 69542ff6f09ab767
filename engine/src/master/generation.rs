//! One generation: the workers of one configuration, and how far each of them is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::config::{Connections, Settings, StateTooLarge};
use crate::service::Service;
use crate::steering::Steering;
use crate::sys::identity::Identity;
use crate::sys::shared_memory::Shared;
use crate::telemetry::{Snapshot, WorkerPage};

/// A worker that lived so long did not die of its start: the count of its deaths begins anew.
const PROVEN: Duration = Duration::from_secs(10);

/// Pause before a worker that died twice in a row is started again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A worker that has not answered is looked at so often before it is taken for hung. Counted in looks and not in time
/// alone, so that a pause of the whole machine hangs nobody.
pub(super) const LOOKS_MAX: u32 = 4;

/// A worker's process and the channel to it.
pub(super) struct Child {
    pub(super) pid: Pid,
    /// Readable once it has ended; `None` on a kernel that would not give one, where SIGCHLD has to do.
    pub(super) process: Option<OwnedFd>,
    /// `None` once the worker has closed its end.
    pub(super) control: Option<OwnedFd>,
    pub(super) since: Instant,
    /// Numbers of its listen sockets' descriptors, in its own table.
    pub(super) listeners: Vec<RawFd>,
    /// Where other workers bring their connections.
    pub(super) meeting: Option<String>,
    /// It has state of its own, which moves when it is replaced.
    pub(super) has_state: bool,
    /// Copies of connections it was handed and has not taken yet; others get them if it dies.
    pub(super) handed: VecDeque<OwnedFd>,
}

/// What there is of a worker.
pub(super) enum State {
    /// Nothing, and nothing is to come.
    Gone,
    /// Forked, and not ready yet.
    Starting(Child),
    Ready(Child),
    /// Did not answer any more, and is killed.
    Hung(Child),
    /// Died; to be started again then.
    Waiting(Instant),
}

/// A slot of a generation.
pub(super) struct Slot {
    /// Its number, which decides its core and its place in steering.
    pub(super) index: usize,
    pub(super) state: State,
    pub(super) page: Arc<Shared<WorkerPage>>,
    pub(super) heartbeat: Heartbeat,
    /// How often in a row it died young.
    pub(super) deaths: u32,
    /// How its last process ended.
    pub(super) last_end: Option<String>,
    /// Its protocol told it to leave: its end is no death.
    pub(super) leaves: bool,
    /// It was told whom to bring its connections to, and has not said yet what came of that.
    pub(super) is_moving: bool,
}

impl Slot {
    pub(super) fn new(index: usize, page: Arc<Shared<WorkerPage>>) -> Self {
        let heartbeat = Heartbeat::default();
        Self { index, state: State::Gone, page, heartbeat, deaths: 0, last_end: None, leaves: false, is_moving: false }
    }

    pub(super) fn child(&self) -> Option<&Child> {
        match &self.state {
            State::Starting(child) | State::Ready(child) | State::Hung(child) => Some(child),
            State::Gone | State::Waiting(_) => None,
        }
    }

    pub(super) fn child_mut(&mut self) -> Option<&mut Child> {
        match &mut self.state {
            State::Starting(child) | State::Ready(child) | State::Hung(child) => Some(child),
            State::Gone | State::Waiting(_) => None,
        }
    }

    /// A worker that serves and can be spoken to.
    pub(super) fn serving_child(&mut self) -> Option<&mut Child> {
        match &mut self.state {
            State::Ready(child) if child.control.is_some() => Some(child),
            _ => None,
        }
    }

    /// The channel to a worker that serves.
    pub(super) fn serving(&self) -> Option<&OwnedFd> {
        match &self.state {
            State::Ready(child) => child.control.as_ref(),
            State::Gone | State::Starting(_) | State::Hung(_) | State::Waiting(_) => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
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

/// What a look at a worker's last turn means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// It turns, or still has time to.
    Fine,
    /// It has had nothing to do: give it something.
    Ask,
    /// It has not turned since it was asked.
    Hung,
}

/// Whether a worker answers. It costs a worker that is busy nothing.
#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    /// CLOCK_MONOTONIC nanoseconds.
    asked_ns: Option<u64>,
    /// Looks in vain since.
    looks: u32,
}

impl Heartbeat {
    /// Looks, once an interval, at when the worker's last turn was.
    pub(super) fn look(&mut self, turn_at_ns: u64, now_ns: u64, interval_ns: u64) -> Pulse {
        if self.asked_ns.is_some_and(|asked_ns| turn_at_ns < asked_ns) {
            self.looks += 1;
            return if self.looks < LOOKS_MAX { Pulse::Fine } else { Pulse::Hung };
        }
        self.looks = 0;
        self.asked_ns = (turn_at_ns.saturating_add(interval_ns) <= now_ns).then_some(now_ns);
        if self.asked_ns.is_some() { Pulse::Ask } else { Pulse::Fine }
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

/// A generation that grows: slots from `from` on are new.
pub(super) struct Growth {
    pub(super) operation: u32,
    pub(super) from: usize,
    /// Shares that others give up once the new workers serve.
    pub(super) given_up: Vec<Share>,
}

/// Who accepts from a kept socket, in the tier adopt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// The socket's number.
    pub(super) kept: u32,
    /// The slot's index.
    pub(super) slot: usize,
}

/// See the module's head.
pub(super) struct Generation<'a> {
    pub(super) number: u32,
    /// Of its start, for those who wait for that.
    pub(super) operation: u32,
    pub(super) settings: Settings,
    pub(super) service: Service<'a>,
    pub(super) identity: Option<Identity>,
    /// As configured, and as bound.
    pub(super) addresses: Vec<(SocketAddr, SocketAddr)>,
    /// By address; empty except in the tier ebpf.
    pub(super) steering: Vec<Steering>,
    /// Empty except in the tier adopt.
    pub(super) shares: Vec<Share>,
    pub(super) slots: Vec<Slot>,
    pub(super) phase: Phase,
    /// It did not come up: that its workers end in disorder is no news.
    pub(super) is_abandoned: bool,
    pub(super) growth: Option<Growth>,
    pub(super) began: Instant,
    /// The numbers of its workers that have ended.
    pub(super) ended: Snapshot,
}

impl Generation<'_> {
    pub(super) fn is_ready(&self) -> bool {
        self.slots.iter().all(Slot::is_ready)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot.state, State::Gone))
    }

    /// Those that can be spoken to.
    pub(super) fn children(&self) -> impl Iterator<Item = &Child> {
        self.slots.iter().filter_map(Slot::child)
    }

    /// Connections of its workers are on their way to others.
    pub(super) fn is_moving(&self) -> bool {
        self.slots.iter().any(|slot| slot.is_moving && slot.child().is_some())
    }

    /// Its workers have state of their own, which moves when they are replaced.
    pub(super) fn has_state(&self) -> bool {
        self.children().any(|child| child.has_state)
    }

    /// Why its workers cannot be replaced: one has more state than may be handed over.
    pub(super) fn refuse_large_state(&self, settings: &Settings) -> Result<(), String> {
        let most = settings.state_bytes_max;
        let refuses =
            settings.state_too_large == StateTooLarge::Refuse && settings.connections == Connections::Handover;
        let workers = self.slots.iter().filter(|slot| refuses && slot.child().is_some_and(|child| child.has_state));
        match workers.max_by_key(|slot| slot.page.state_bytes.get()).filter(|slot| slot.page.state_bytes.get() > most) {
            Some(slot) => Err(format!(
                "worker {} has state of about {} bytes, and {most} may be handed over: raise state_bytes_max, or have \
                 state_too_large discard it",
                slot.index,
                slot.page.state_bytes.get()
            )),
            None => Ok(()),
        }
    }

    /// Where its workers can be brought connections.
    pub(super) fn meetings(&self) -> Vec<String> {
        let ready = self.slots.iter().filter(|slot| slot.is_ready()).filter_map(Slot::child);
        ready.filter_map(|child| child.meeting.clone()).collect()
    }

    /// The slot of this index.
    pub(super) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.index == index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_keeps_dying_is_started_less_and_less_often() {
        let mut slot = Slot::new(0, Arc::new(Shared::new().expect("memory")));
        let now = Instant::now();
        let child = |since| {
            let (listeners, handed) = (Vec::new(), VecDeque::new());
            let pid = Pid::from_raw(1);
            let (meeting, has_state) = (None, false);
            State::Ready(Child { pid, process: None, control: None, since, listeners, meeting, has_state, handed })
        };
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

    #[test]
    fn only_a_worker_that_was_asked_and_does_not_turn_is_hung() {
        let mut heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.look(95, 100, 10), Pulse::Fine, "busy");
        assert_eq!(heartbeat.look(95, 110, 10), Pulse::Ask, "idle");
        assert_eq!(heartbeat.look(111, 120, 10), Pulse::Fine, "it answered");
        assert_eq!(heartbeat.look(111, 130, 10), Pulse::Ask);
        // However long the pause between two looks is, one look is one look.
        let looks: Vec<Pulse> =
            (1..=LOOKS_MAX).map(|look| heartbeat.look(111, 1_000_000 * u64::from(look), 10)).collect();
        assert_eq!(looks, [Pulse::Fine, Pulse::Fine, Pulse::Fine, Pulse::Hung]);
        assert_eq!(heartbeat.look(5_000_000, 5_000_001, 10), Pulse::Fine, "late, but it answered");
    }
}
