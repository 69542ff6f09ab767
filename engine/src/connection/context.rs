//! What all connections of a worker share and a callback may reach: output memory, timers, the loop's time,
//! counters, and requests to the loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::timer_wheel::TimerWheel;
use crate::config::{Limits, Timeouts};
use crate::protocol::{ConnectionId, TimerKey};
use crate::sys::arena::Arena;
use crate::sys::shared_memory::Shared;
use crate::telemetry::WorkerPage;

/// Whom a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// The engine's own look at a connection's time-outs.
    Connection { slot: u32 },
    /// A protocol's timer of a connection.
    Protocol { slot: u32, key: TimerKey },
    /// A protocol's timer of the worker.
    Worker { key: TimerKey },
    /// Try to accept again.
    Accept,
    /// The listeners have been open long enough after the order to leave.
    Settled,
    /// While draining: who has sent nothing by now is told.
    FirstInput,
    /// The drain deadline.
    Drain,
}

/// A request of a callback to the loop.
#[derive(Debug)]
pub(crate) enum Command {
    /// Call [`Protocol::on_wake`](crate::Protocol::on_wake).
    Wake(ConnectionId),
    /// Call [`Protocol::on_data`](crate::Protocol::on_data) with what is left, in the next turn.
    Rerun(ConnectionId),
    /// Connect to somebody.
    Connect { address: SocketAddr, token: u64 },
    /// Drain and leave.
    Drain,
}

/// Where the wall clock is read: the system, or a test's own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WallClock {
    System,
    /// This long after the epoch when the loop's time was zero.
    Virtual(Duration),
}

/// See the module's head.
pub(crate) struct Context {
    pub(crate) arena: Arena,
    pub(crate) timers: TimerWheel<Alarm>,
    /// CLOCK_MONOTONIC when this turn began.
    pub(crate) now_ns: u64,
    pub(crate) wall_clock: WallClock,
    pub(crate) commands: Vec<Command>,
    pub(crate) page: Arc<Shared<WorkerPage>>,
    pub(crate) named_counters: usize,
    pub(crate) worker_timers: Vec<(TimerKey, super::timer_wheel::TimerId)>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    /// Whether receive buffers may be lent to sends: not while slow peers hold too many.
    pub(crate) may_lease: bool,
    /// Requests counted in this turn, for the service-time histogram.
    pub(crate) requests_in_turn: u64,
    pub(crate) slot: usize,
    pub(crate) core: Option<usize>,
    pub(crate) draining: bool,
}

impl Context {
    pub(crate) fn new(page: Arc<Shared<WorkerPage>>, limits: Limits, timeouts: Timeouts, now_ns: u64) -> Self {
        Self {
            arena: Arena::new(),
            timers: TimerWheel::new(now_ns),
            now_ns,
            wall_clock: WallClock::System,
            commands: Vec::new(),
            page,
            named_counters: 0,
            worker_timers: Vec::new(),
            limits,
            timeouts,
            may_lease: true,
            requests_in_turn: 0,
            slot: 0,
            core: None,
            draining: false,
        }
    }

    pub(crate) fn wall_time(&self) -> SystemTime {
        match self.wall_clock {
            WallClock::System => SystemTime::now(),
            WallClock::Virtual(start) => SystemTime::UNIX_EPOCH + start + Duration::from_nanos(self.now_ns),
        }
    }

    /// The loop's time in `after`, a millisecond from now at least: a timer set by a timer fires in a later turn.
    pub(crate) fn deadline_ns(&self, after: Duration) -> u64 {
        self.now_ns.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).max(1_000_000))
    }
}
