//! The timers that a protocol has set on one connection, and the time-outs that differ from the engine's. A connection
//! that has neither allocates nothing.

use super::Alarm;
use super::timer_wheel::{TimerId, TimerWheel};
use crate::config::{ConnectionTimeouts, Timeouts};
use crate::types::TimerKey;

/// The timers of one connection.
#[derive(Default)]
pub(crate) struct Timers(Option<Box<Own>>);

/// State that only a few connections have.
#[derive(Default)]
struct Own {
    timers: Vec<(TimerKey, TimerId)>,
    /// The protocol's time-outs, which override those of the listener.
    timeouts: ConnectionTimeouts,
    of_listener: ConnectionTimeouts,
}

impl Timers {
    pub(crate) fn set(&mut self, key: TimerKey, slot: u32, deadline_ns: u64, wheel: &mut TimerWheel<Alarm>) {
        self.cancel(key, wheel);
        let id = wheel.set(deadline_ns, Alarm::Protocol { slot, key });
        self.0.get_or_insert_default().timers.push((key, id));
    }

    pub(crate) fn cancel(&mut self, key: TimerKey, wheel: &mut TimerWheel<Alarm>) {
        if let Some(id) = self.forget(key) {
            wheel.cancel(id);
        }
    }

    /// Forgets a timer that has fired.
    pub(crate) fn fired(&mut self, key: TimerKey) {
        let known = self.forget(key);
        debug_assert!(known.is_some(), "a timer fired that was not set");
    }

    pub(crate) fn cancel_all(&mut self, wheel: &mut TimerWheel<Alarm>) {
        for (_, id) in self.0.iter_mut().flat_map(|own| std::mem::take(&mut own.timers)) {
            wheel.cancel(id);
        }
        self.free_unused();
    }

    /// When the timer is due; `None` if it is not set.
    pub(crate) fn deadline_ns(&self, key: TimerKey, wheel: &TimerWheel<Alarm>) -> Option<u64> {
        let (_, id) = self.0.as_ref()?.timers.iter().find(|(other, _)| *other == key)?;
        Some(wheel.deadline_ns(*id))
    }

    /// All timers, each with its deadline.
    pub(crate) fn deadlines_ns(&self, wheel: &TimerWheel<Alarm>) -> Vec<(TimerKey, u64)> {
        let timers = self.0.iter().flat_map(|own| &own.timers);
        timers.map(|(key, id)| (*key, wheel.deadline_ns(*id))).collect()
    }

    /// The time-outs of this connection; `all` are those that most connections have.
    #[inline]
    pub(crate) fn timeouts(&self, all: &Timeouts) -> [u64; 3] {
        let [idle_ms, message_ms, write_ms] = [all.idle_ms, all.message_ms, all.write_ms];
        let Some(own) = &self.0 else { return [idle_ms, message_ms, write_ms] };
        let ConnectionTimeouts { idle_ms: idle, message_ms: message, write_ms: write } =
            own.timeouts.over(own.of_listener);
        [idle.unwrap_or(idle_ms), message.unwrap_or(message_ms), write.unwrap_or(write_ms)]
    }

    /// The time-outs that the protocol has set.
    pub(crate) fn own_timeouts(&self) -> ConnectionTimeouts {
        self.0.as_ref().map(|own| own.timeouts).unwrap_or_default()
    }

    /// Sets the protocol's time-outs.
    pub(crate) fn set_timeouts(&mut self, timeouts: ConnectionTimeouts) {
        if self.0.is_some() || !timeouts.is_default() {
            self.0.get_or_insert_default().timeouts = timeouts;
            self.free_unused();
        }
    }

    pub(crate) fn set_timeouts_of_listener(&mut self, timeouts: ConnectionTimeouts) {
        if !timeouts.is_default() {
            self.0.get_or_insert_default().of_listener = timeouts;
        }
    }

    fn forget(&mut self, key: TimerKey) -> Option<TimerId> {
        let own = self.0.as_mut()?;
        let position = own.timers.iter().position(|(other, _)| *other == key)?;
        let (_, id) = own.timers.swap_remove(position);
        self.free_unused();
        Some(id)
    }

    fn free_unused(&mut self) {
        self.0.take_if(|own| own.timers.is_empty() && own.timeouts.is_default() && own.of_listener.is_default());
    }
}
