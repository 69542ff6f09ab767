//! One generation: the workers of one configuration, and the state of each.

use std::collections::VecDeque;

use super::types::{Address, ArrivalId, Plan, ProcessId, SocketId, SteeringId, Time};
use crate::config::{Connections, StateTooLarge};
use crate::ipc::control::Exit;

/// A worker that lived this long did not die of its start: its deaths are counted from zero again.
pub(super) const PROVEN_MS: u64 = 10_000;

/// Pause before a worker that died twice in a row is started again; doubled each time.
const PAUSE_MS_MIN: u64 = 100;
const PAUSE_MS_MAX: u64 = 10_000;

/// A worker that has not answered is looked at so often before it is taken for hung. Counted in looks and not in time
/// alone, so that a pause of the whole machine hangs nobody.
pub(super) const LOOKS_MAX: u32 = 4;

/// Workers are not looked at more often than this.
const LOOK_MS_MIN: u64 = 20;

/// A worker's process, as the master knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Child {
    pub(crate) process: ProcessId,
    pub(crate) since: Time,
    /// Its channel is open: it can be told and heard.
    pub(crate) has_channel: bool,
    /// Where other workers bring their connections.
    pub(crate) meeting: Option<String>,
    /// It speaks to others like it, and can be spoken to there.
    pub(crate) speaks: bool,
    /// It accepts nothing before it has the state of another worker, or is told that none comes.
    pub(crate) awaits_state: bool,
    /// It leaves, and has closed its listeners.
    pub(crate) has_closed: bool,
    /// Connections that it was handed and has not taken yet: others get them if it dies.
    pub(crate) handed: VecDeque<ArrivalId>,
}

/// Why a worker was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Killed {
    /// It did not respond.
    Hung,
    /// It did not leave, or become ready, in time.
    Late,
    /// Its generation did not come up.
    Unwanted,
}

impl Killed {
    pub(crate) fn is_hung(self) -> bool {
        self == Self::Hung
    }
}

/// How far a slot's process is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// There is none, and none is to come.
    Gone,
    /// Forked, and not ready yet.
    Starting(Child),
    Ready(Child),
    /// Killed, and not ended yet.
    Killed(Child, Killed),
    /// Died; it is started again then.
    Waiting(Time),
}

/// A slot of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// Its number, which decides its core and its place in steering.
    pub(crate) index: usize,
    pub(crate) state: State,
    pub(super) heartbeat: Heartbeat,
    /// How often in a row it died young.
    pub(crate) deaths: u32,
    /// How its last process ended.
    pub(crate) last_exit: Option<Exit>,
    /// Its protocol told it to leave: its end is no death.
    pub(super) leaves: bool,
    /// It was told whom to bring its connections to, and has not said yet that it is done.
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

    /// A worker that serves and can be told something.
    pub(super) fn serving(&self) -> Option<&Child> {
        match &self.state {
            State::Ready(child) if child.has_channel => Some(child),
            _ => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// The process has ended and is to be replaced; gives the pause before, milliseconds.
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

    /// Turns a living process into one that is being killed; gives it.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Heartbeat {
    asked: Option<Time>,
    /// Looks in vain since.
    looks: u32,
}

impl Heartbeat {
    /// Looks, once an interval, at when the worker's last turn was.
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

/// How far a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Its addresses are looked at by another server that starts; they are asked for again until then.
    Claiming {
        until: Time,
    },
    /// Its workers come up; none of them gets connections yet where another generation serves.
    Starting,
    Serving,
    /// Replaced or told to leave; killed then.
    Leaving {
        until: Time,
    },
    /// It did not come up: that its workers end in disorder is no news.
    Abandoned {
        until: Time,
    },
}

impl Phase {
    /// When workers that leave are killed.
    pub(super) fn leaves_until(self) -> Option<Time> {
        match self {
            Self::Leaving { until } | Self::Abandoned { until } => Some(until),
            Self::Claiming { .. } | Self::Starting | Self::Serving => None,
        }
    }
}

/// A generation that grows: slots from `from` on are new.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Growth {
    pub(super) from: usize,
    /// Shares that others give up once the new workers serve.
    pub(super) given_up: Vec<Share>,
}

/// Who accepts from a kept socket, in the tier adopt.
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
    /// Empty while it claims its addresses.
    pub(crate) addresses: Vec<Address>,
    /// In the tier ebpf, once the addresses are bound.
    pub(crate) steering: Option<SteeringId>,
    /// Empty except in the tier adopt.
    pub(crate) shares: Vec<Share>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) phase: Phase,
    pub(crate) growth: Option<Growth>,
    pub(crate) began: Time,
    /// When its workers are looked at next.
    pub(super) next_look: Time,
}

impl Generation {
    pub(super) fn is_ready(&self) -> bool {
        self.slots.iter().all(Slot::is_ready)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot.state, State::Gone))
    }

    /// It comes up.
    pub(crate) fn is_coming(&self) -> bool {
        matches!(self.phase, Phase::Claiming { .. } | Phase::Starting)
    }

    /// It comes up, or grows.
    pub(crate) fn is_changing(&self) -> bool {
        self.is_coming() || self.growth.is_some()
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = &Child> {
        self.slots.iter().filter_map(Slot::child)
    }

    /// Connections of its workers are on their way to others.
    pub(super) fn is_moving(&self) -> bool {
        self.slots.iter().any(|slot| slot.is_moving && slot.child().is_some())
    }

    /// Where its workers can be brought connections.
    pub(super) fn meetings(&self) -> Vec<String> {
        let serving = self.slots.iter().filter_map(Slot::serving).filter(|_| self.plan.has_connection_state);
        serving.filter_map(|child| child.meeting.clone()).collect()
    }

    /// The slot of this index.
    pub(super) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.index == index)
    }

    /// Whether its workers' state is to be handed over at all, and may be refused for its size.
    pub(super) fn bounds_state(&self, plan: &Plan) -> bool {
        self.plan.has_worker_state
            && plan.state_too_large == StateTooLarge::Refuse
            && plan.connections == Connections::Handover
    }

    /// Between two looks at whether workers answer, milliseconds; `None` where that is turned off.
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
        // However long the pause between two looks is, one look is one look.
        let looks: Vec<Pulse> =
            (1..=LOOKS_MAX).map(|look| heartbeat.look(ms(111), ms(1_000_000 * u64::from(look)), 10)).collect();
        assert_eq!(looks, [Pulse::Fine, Pulse::Fine, Pulse::Fine, Pulse::Hung]);
        assert_eq!(heartbeat.look(ms(5_000_000), ms(5_000_001), 10), Pulse::Fine, "late, but it answered");
    }
}
