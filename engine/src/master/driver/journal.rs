//! The last events, and the timelines of the last handovers.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::ipc::control::{Event, EventKind, REPLY_BYTES_MAX, Step, Timeline, TimelineKind};

/// Events kept for later requests.
const EVENTS_MAX: usize = 256;

/// Their bytes in the form in which they are shown: a client gets all of them at once.
const EVENTS_BYTES_MAX: usize = REPLY_BYTES_MAX / 4;

/// Timelines kept.
const TIMELINES_MAX: usize = 8;

/// Bytes of a step or an event apart from its description: time and place.
const STEP_BYTES: usize = 128;

/// Steps kept of a timeline: the first ones.
const STEPS_MAX: usize = 256;

/// Bytes of a timeline's steps in the form in which they are shown: a status has all timelines in one line.
const STEPS_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(TIMELINES_MAX * STEPS_BYTES_MAX * 4 <= REPLY_BYTES_MAX, "most of a status is for workers");

/// The events and timelines of this master.
#[derive(Default)]
pub(super) struct Journal {
    /// The oldest event is first.
    events: VecDeque<(Event, usize)>,
    events_bytes: usize,
    timelines: VecDeque<Timeline>,
    /// Bytes of the last timeline.
    steps_bytes: usize,
}

impl Journal {
    /// Begins the timeline of a handover: events from now on belong to it.
    pub(super) fn begin(&mut self, kind: TimelineKind, generation: u32) {
        if self.timelines.len() == TIMELINES_MAX {
            self.timelines.pop_front();
        }
        self.steps_bytes = 0;
        self.timelines.push_back(Timeline { kind, generation, at_us: now_us(), steps: Vec::new() });
    }

    /// Stores an event.
    pub(super) fn note(&mut self, generation: Option<u32>, kind: EventKind) -> &Event {
        let at_us = now_us();
        let bytes = serde_json::to_vec(&kind).map_or(0, |kind| kind.len() + STEP_BYTES);
        // Rebalancing happens at any time, and does not belong to the last handover.
        let is_own = matches!(kind, EventKind::Rebalancing { .. } | EventKind::Rebalanced { .. });
        let timeline = self.timelines.back_mut().filter(|timeline| timeline.steps.len() < STEPS_MAX && !is_own);
        if let Some(timeline) = timeline {
            let after_us = at_us.saturating_sub(timeline.at_us);
            let step = Step { after_us, generation, kind: kind.clone() };
            self.steps_bytes += bytes;
            if self.steps_bytes <= STEPS_BYTES_MAX {
                timeline.steps.push(step);
            }
        }
        self.events_bytes += bytes;
        while self.events.len() == EVENTS_MAX || self.events_bytes > EVENTS_BYTES_MAX {
            let Some((_, bytes)) = self.events.pop_front() else { break };
            self.events_bytes -= bytes;
        }
        self.events.push_back((Event { at_us, generation, kind }, bytes));
        &self.events.back().expect("just added").0
    }

    /// The kind of the last handover.
    pub(super) fn kind(&self) -> Option<TimelineKind> {
        self.timelines.back().map(|timeline| timeline.kind)
    }

    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|(event, _)| event)
    }

    pub(super) fn timelines(&self) -> Vec<Timeline> {
        self.timelines.iter().cloned().collect()
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::control::Failure;

    #[test]
    fn what_is_kept_is_bounded() {
        let mut journal = Journal::default();
        for number in 0..20 {
            journal.begin(TimelineKind::Reload, number);
            (0..300).for_each(|slot| drop(journal.note(None, EventKind::WorkerClosed { slot }).clone()));
        }
        assert_eq!((journal.events().count(), journal.timelines().len()), (EVENTS_MAX, TIMELINES_MAX));
        assert!(serde_json::to_vec(&journal.timelines()).expect("written").len() < REPLY_BYTES_MAX / 4);
        let last = journal.timelines().pop().expect("one");
        let first = EventKind::WorkerClosed { slot: 0 };
        assert_eq!((last.generation, last.steps.len(), &last.steps[0].kind), (19, STEPS_MAX, &first));
    }

    #[test]
    fn what_is_long_fits_into_a_reply() {
        let mut journal = Journal::default();
        for number in 0..20 {
            journal.begin(TimelineKind::Reload, number);
            let why = || Failure::Worker { slot: 0, problem: "x".repeat(16_000) };
            (0..300).for_each(|_| drop(journal.note(None, EventKind::TakenDown { why: why() }).clone()));
        }
        let events: Vec<&Event> = journal.events().collect();
        assert!(!events.is_empty() && serde_json::to_vec(&events).expect("written").len() < REPLY_BYTES_MAX / 2);
        let timelines = journal.timelines();
        assert!(timelines.iter().all(|timeline| !timeline.steps.is_empty()));
        assert!(serde_json::to_vec(&timelines).expect("written").len() < REPLY_BYTES_MAX / 4);
    }
}
