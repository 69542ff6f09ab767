//! One generation: the workers of one configuration, and the state of each worker.

use std::collections::VecDeque;

use super::types::{Address, ArrivalId, Plan, ProcessId, SocketId, SteeringId, Time};
use crate::config::{Connections, StateTooLarge};
use crate::ipc::control::Exit;

/// A worker that lived this long did not die because of its start. The count of its deaths begins again at zero.
pub(super) const PROVEN_MS: u64 = 10_000;

/// Pause before a worker that died twice in a row is started again. It doubles with each further death.
const PAUSE_MS_MIN: u64 = 100;
const PAUSE_MS_MAX: u64 = 10_000;

/// A worker counts as hung after this many looks without an answer. Looks are counted, not time alone, so that a pause
/// of the whole machine does not make workers count as hung.
pub(super) const LOOKS_MAX: u32 = 4;

/// The shortest interval between two looks at the workers.
const LOOK_MS_MIN: u64 = 20;

/// A worker's process, as the master knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Child {
    pub(crate) process: ProcessId,
    pub(crate) since: Time,
    /// Its channel is open: the master can send it orders and receive its reports.
    pub(crate) has_channel: bool,
    /// The name at which other workers hand over connections to it.
    pub(crate) meeting: Option<String>,
    /// It exchanges messages with its siblings, and accepts their channels at that name.
    pub(crate) speaks: bool,
    /// It accepts no connections until it has received another worker's state, or an order that says that none will
    /// come.
    pub(crate) awaits_state: bool,
    /// It is leaving and has closed its listeners.
    pub(crate) has_closed: bool,
    /// Connections that the master handed to it and that it has not taken yet. Other workers get them if it dies.
    pub(crate) handed: VecDeque<ArrivalId>,
}

/// Why a worker was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Killed {
    /// It did not respond.
    Hung,
    /// It did not leave or become ready in time.
    Late,
    /// Its generation did not come up.
    Unwanted,
}

impl Killed {
    pub(crate) fn is_hung(self) -> bool {
        self == Self::Hung
    }
}

/// The state of a slot's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// There is no process, and none will be started.
    Gone,
    /// Forked, and not ready yet.
    Starting(Child),
    Ready(Child),
    /// Killed, but not ended yet.
    Killed(Child, Killed),
    /// It died, and is started again at this time.
    Waiting(Time),
}

/// A slot of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// Its number. It decides the worker's core and its place in steering.
    pub(crate) index: usize,
    pub(crate) state: State,
    pub(super) heartbeat: Heartbeat,
    /// How many times in a row the worker died young.
    pub(crate) deaths: u32,
    /// How its last process ended.
    pub(crate) last_exit: Option<Exit>,
    /// Its protocol told it to leave, so its end is not a death.
    pub(super) leaves: bool,
    /// The master told it where to move its connections, and it has not reported yet that it is done.
    pub(super) is_moving: bool,
}

impl Slot {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            state: State::Gone,
            heartbeat: Heartbeat::default(),
            deaths: 0,
            last_exit: None,
            leaves: false,
            is_moving: false,
        }
    }

    pub(crate) fn child(&self) -> Option<&Child> {
        match &self.state {
            State::Starting(child) | State::Ready(child) | State::Killed(child, _) => Some(child),
            State::Gone | State::Waiting(_) => None,
        }
    }

    pub(super) fn child_mut(&mut self) -> Option<&mut Child> {
        match &mut self.state {
            State::Starting(child) | State::Ready(child) | State::Killed(child, _) => Some(child),
            State::Gone | State::Waiting(_) => None,
        }
    }

    /// The worker, if it serves and its channel is open.
    pub(super) fn serving(&self) -> Option<&Child> {
        match &self.state {
            State::Ready(child) if child.has_channel => Some(child),
            _ => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// Records that the process ended and must be replaced. Returns the pause before that, in milliseconds.
    pub(super) fn died(&mut self, now: Time) -> u64 {
        let was_proven = self.child().is_some_and(|child| now.ms_since(child.since) >= PROVEN_MS);
        self.deaths = if was_proven { 1 } else { self.deaths + 1 };
        let pause_ms = match self.deaths {
            1 => 0,
            deaths => PAUSE_MS_MIN.saturating_mul(1 << (deaths - 2).min(16)).min(PAUSE_MS_MAX),
        };
        self.state = State::Waiting(now.after_ms(pause_ms));
        pause_ms
    }

    /// Marks a living process as killed and returns it.
    pub(super) fn killed(&mut self, why: Killed) -> Option<ProcessId> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Starting(child) | State::Ready(child) => {
                let process = child.process;
                self.state = State::Killed(child, why);
                Some(process)
            }
            State::Killed(child, before) => {
                self.state = State::Killed(child, before);
                None
            }
            State::Gone | State::Waiting(_) => None,
        }
    }
}

/// The result of a look at when a worker's loop last turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// The loop turns, or still has time to.
    Fine,
    /// The worker had nothing to do: send it something to see whether it answers.
    Ask,
    /// The loop has not turned since the master asked.
    Hung,
}

/// Detects whether a worker still answers. It costs a busy worker nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Heartbeat {
    asked: Option<Time>,
    /// Looks since then that found no turn.
    looks: u32,
}

impl Heartbeat {
    /// Compares the time of the worker's last turn. Call it once per interval.
    pub(super) fn look(&mut self, last_turn: Time, now: Time, interval_ms: u64) -> Pulse {
        if self.asked.is_some_and(|asked| last_turn < asked) {
            self.looks += 1;
            return if self.looks < LOOKS_MAX { Pulse::Fine } else { Pulse::Hung };
        }
        self.looks = 0;
        self.asked = (last_turn.after_ms(interval_ms) <= now).then_some(now);
        if self.asked.is_some() { Pulse::Ask } else { Pulse::Fine }
    }
}

/// The phase of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Another starting server is looking at the same addresses. This one asks for them again until this time.
    Claiming {
        until: Time,
    },
    /// Its workers are starting. If another generation serves, the new workers get no connections yet.
    Starting,
    Serving,
    /// Replaced or ordered to leave. Workers that are left at this time are killed.
    Leaving {
        until: Time,
    },
    /// It failed to start. If its workers end abnormally, that is not reported.
    Abandoned {
        until: Time,
    },
}

impl Phase {
    /// The time at which the remaining workers are killed.
    pub(super) fn leaves_until(self) -> Option<Time> {
        match self {
            Self::Leaving { until } | Self::Abandoned { until } => Some(until),
            Self::Claiming { .. } | Self::Starting | Self::Serving => None,
        }
    }
}

/// Growth of a generation: the slots from `from` on are new.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Growth {
    pub(super) from: usize,
    /// Shares that older workers give up when the new workers serve.
    pub(super) given_up: Vec<Share>,
}

/// Which slot accepts from a kept socket, in the tier adopt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Share {
    pub(crate) socket: SocketId,
    /// The slot's index.
    pub(crate) slot: usize,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Generation {
    pub(crate) number: u32,
    pub(crate) plan: Plan,
    /// Empty while the generation claims its addresses.
    pub(crate) addresses: Vec<Address>,
    /// `Some` in the tier ebpf, once the addresses are bound.
    pub(crate) steering: Option<SteeringId>,
    /// Empty except in the tier adopt.
    pub(crate) shares: Vec<Share>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) phase: Phase,
    pub(crate) growth: Option<Growth>,
    pub(crate) began: Time,
    /// The time of the next look at its workers.
    pub(super) next_look: Time,
}

impl Generation {
    pub(super) fn is_ready(&self) -> bool {
        self.slots.iter().all(Slot::is_ready)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot.state, State::Gone))
    }

    /// Whether it is starting.
    pub(crate) fn is_coming(&self) -> bool {
        matches!(self.phase, Phase::Claiming { .. } | Phase::Starting)
    }

    /// Whether it is starting or growing.
    pub(crate) fn is_changing(&self) -> bool {
        self.is_coming() || self.growth.is_some()
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = &Child> {
        self.slots.iter().filter_map(Slot::child)
    }

    /// Whether connections of its workers are moving to others.
    pub(super) fn is_moving(&self) -> bool {
        self.slots.iter().any(|slot| slot.is_moving && slot.child().is_some())
    }

    /// The names at which its workers take connections from others.
    pub(super) fn meetings(&self) -> Vec<String> {
        let serving = self.slots.iter().filter_map(Slot::serving).filter(|_| self.plan.has_connection_state);
        serving.filter_map(|child| child.meeting.clone()).collect()
    }

    /// The slot with this index.
    pub(super) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.index == index)
    }

    /// Whether its workers' state will be handed over at all and can be refused for its size.
    pub(super) fn bounds_state(&self, plan: &Plan) -> bool {
        self.plan.has_worker_state
            && plan.state_too_large == StateTooLarge::Refuse
            && plan.connections == Connections::Handover
    }

    /// The interval between two looks at whether workers answer, in milliseconds; `None` if that is turned off.
    pub(super) fn look_interval_ms(&self) -> Option<u64> {
        (self.plan.hang_ms > 0).then(|| (self.plan.hang_ms / u64::from(LOOKS_MAX)).max(LOOK_MS_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(since: Time) -> Child {
        Child {
            process: ProcessId(1),
            since,
            has_channel: true,
            meeting: None,
            speaks: false,
            awaits_state: false,
            has_closed: false,
            handed: VecDeque::new(),
        }
    }

    #[test]
    fn a_worker_that_keeps_dying_is_started_less_and_less_often() {
        let mut slot = Slot::new(0);
        let now = Time(5);
        slot.state = State::Ready(child(now));
        let mut last_ms = 0;
        assert_eq!(slot.died(now), 0, "the first time at once");
        for _ in 0..40 {
            slot.state = State::Ready(child(now));
            let pause_ms = slot.died(now);
            assert!(pause_ms >= last_ms && pause_ms <= PAUSE_MS_MAX);
            last_ms = pause_ms;
        }
        assert_eq!(last_ms, PAUSE_MS_MAX);
        slot.state = State::Ready(child(now));
        assert_eq!(slot.died(now.after_ms(PROVEN_MS)), 0, "it had proven itself");
    }

    #[test]
    fn only_a_worker_that_was_asked_and_does_not_turn_is_hung() {
        let ms = |ms| Time::default().after_ms(ms);
        let mut heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.look(ms(95), ms(100), 10), Pulse::Fine, "busy");
        assert_eq!(heartbeat.look(ms(95), ms(110), 10), Pulse::Ask, "idle");
        assert_eq!(heartbeat.look(ms(111), ms(120), 10), Pulse::Fine, "it answered");
        assert_eq!(heartbeat.look(ms(111), ms(130), 10), Pulse::Ask);
        // A look counts once, however long the pause between two looks is.
        let looks: Vec<Pulse> =
            (1..=LOOKS_MAX).map(|look| heartbeat.look(ms(111), ms(1_000_000 * u64::from(look)), 10)).collect();
        assert_eq!(looks, [Pulse::Fine, Pulse::Fine, Pulse::Fine, Pulse::Hung]);
        assert_eq!(heartbeat.look(ms(5_000_000), ms(5_000_001), 10), Pulse::Fine, "late, but it answered");
    }
}
