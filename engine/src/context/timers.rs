//! The timers a protocol has set on one connection; nothing is allocated for those that set none.

use super::Alarm;
use super::timer_wheel::{TimerId, TimerWheel};
use crate::types::TimerKey;

/// See the module's head.
#[derive(Default)]
#[expect(clippy::box_collection, reason = "eight bytes instead of 24 per idle connection")]
pub(crate) struct Timers(Option<Box<Vec<(TimerKey, TimerId)>>>);

impl Timers {
    pub(crate) fn set(&mut self, key: TimerKey, slot: u32, deadline_ns: u64, wheel: &mut TimerWheel<Alarm>) {
        self.cancel(key, wheel);
        let id = wheel.set(deadline_ns, Alarm::Protocol { slot, key });
        self.0.get_or_insert_default().push((key, id));
    }

    pub(crate) fn cancel(&mut self, key: TimerKey, wheel: &mut TimerWheel<Alarm>) {
        if let Some(id) = self.forget(key) {
            wheel.cancel(id);
        }
    }

    /// The timer fired.
    pub(crate) fn fired(&mut self, key: TimerKey) {
        let known = self.forget(key);
        debug_assert!(known.is_some(), "a timer fired that was not set");
    }

    pub(crate) fn cancel_all(&mut self, wheel: &mut TimerWheel<Alarm>) {
        for (_, id) in self.0.take().into_iter().flat_map(|list| *list) {
            wheel.cancel(id);
        }
    }

    /// Each with the time it is due.
    pub(crate) fn deadlines_ns(&self, wheel: &TimerWheel<Alarm>) -> Vec<(TimerKey, u64)> {
        self.0.iter().flat_map(|list| list.iter()).map(|(key, id)| (*key, wheel.deadline_ns(*id))).collect()
    }

    fn forget(&mut self, key: TimerKey) -> Option<TimerId> {
        let list = self.0.as_mut()?;
        let position = list.iter().position(|(other, _)| *other == key)?;
        let (_, id) = list.swap_remove(position);
        if list.is_empty() {
            self.0 = None;
        }
        Some(id)
    }
}
