//! What all connections of a worker share and a callback may reach: output memory, timers, the loop's time, counters,
//! and requests to the loop; and the handles for callbacks ([`Io`], [`Worker`]).

mod access_log;
mod io;
mod mailbox;
mod others;
mod pairs;
pub(crate) mod timer_wheel;
mod timers;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use self::access_log::AccessLog;
pub use self::io::{CounterId, Io};
pub(crate) use self::io::{Own, Tail, Written};
pub(crate) use self::mailbox::Inbox;
pub use self::mailbox::{Mailbox, MailboxError};
pub use self::others::Unreachable;
pub(crate) use self::others::{Act, Nobody, Others};
pub(crate) use self::pairs::Pairs;
use self::timer_wheel::TimerWheel;
pub(crate) use self::timers::Timers;
pub use self::worker::Worker;
use crate::config::{Limits, Listener, Timeouts};
use crate::layer::{Layer, SharedLayers};
use crate::messages::{SendError, Siblings};
use crate::sys::arena::Arena;
use crate::sys::clock::monotonic_ns;
use crate::sys::shared_memory::Shared;
use crate::target::{Target, Through};
use crate::telemetry::WorkerPage;
use crate::types::{ConnectionId, ThawError, TimerKey};

/// The purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// The engine's check of a connection's time-outs.
    Connection { slot: u32 },
    /// A protocol's timer of a connection.
    Protocol { slot: u32, key: TimerKey },
    /// An outbound connection is not established in time.
    Connect { id: ConnectionId },
    /// A worker has offered connections and does not give them in time.
    Gift { visitor: u32 },
    /// Try to accept again.
    Accept,
    /// The drain deadline of the harness.
    Drain,
    /// At the limit of connections: one of them may have been idle for long enough.
    Look,
}

/// A request of a callback to the loop.
#[derive(Debug)]
pub(crate) enum Command {
    /// Call [`Protocol::on_wake`](crate::Protocol::on_wake).
    Wake(ConnectionId),
    /// Call [`Protocol::on_writable`](crate::Protocol::on_writable).
    Writable(ConnectionId),
    /// Call [`Protocol::on_data`](crate::Protocol::on_data) with the remaining input, in the next turn.
    Rerun(ConnectionId),
    /// The connection's time-outs have changed.
    Retime(ConnectionId),
    /// Make an outbound connection.
    Connect { target: Target, token: u64 },
    /// Drain and leave.
    Drain,
}

/// The source of the wall-clock time: the system, or a test's own clock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WallClock {
    System,
    /// The time since the epoch at which the loop's time was zero.
    Virtual(Duration),
}

/// What the connections of a worker share.
pub(crate) struct Context {
    /// The memory to which callbacks write.
    pub(crate) arena: Arena,
    /// The other arena of two: output is sent from one, and sealed from the other.
    other_arena: Arena,
    /// The running callback is for a connection with a layer: its output is sealed.
    is_layered: bool,
    pub(crate) timers: TimerWheel<Alarm>,
    /// CLOCK_MONOTONIC at the beginning of this turn.
    pub(crate) now_ns: u64,
    pub(crate) wall_clock: WallClock,
    pub(crate) commands: Vec<Command>,
    /// Slots of connections on which others have acted: the loop adjusts the kernel's operations for them.
    pub(crate) touched: Vec<u32>,
    pub(crate) pairs: Pairs,
    pub(crate) page: Arc<Shared<WorkerPage>>,
    pub(crate) named_counters: usize,
    /// Timers of the protocol for the worker, with their deadlines in nanoseconds. There are few, and they are kept
    /// outside the wheel since they are not rounded to its milliseconds.
    worker_timers: Vec<(TimerKey, u64)>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    /// The addresses on which the server listens; empty if no listener is special.
    pub(crate) listeners: Vec<Listener>,
    /// The layers of outbound connections, by name.
    pub(crate) outbound_layers: BTreeMap<String, SharedLayers>,
    /// Whether receive buffers may be lent to sends: not while slow peers hold too many.
    pub(crate) may_lease: bool,
    /// Requests counted in this turn, for the service-time histogram.
    pub(crate) requests_in_turn: u64,
    pub(crate) slot: usize,
    pub(crate) core: Option<usize>,
    pub(crate) draining: bool,
    pub(crate) access_log: Option<AccessLog>,
    /// Other workers, if the protocol sends messages.
    pub(crate) siblings: Option<Box<Siblings>>,
    /// The running callback has called [`Io::wait_for_room`].
    pub(crate) waits_for_room: bool,
}

impl Context {
    pub(crate) fn new(page: Arc<Shared<WorkerPage>>, limits: Limits, timeouts: Timeouts, now_ns: u64) -> Self {
        Self {
            arena: Arena::new(),
            other_arena: Arena::new(),
            is_layered: false,
            timers: TimerWheel::new(now_ns),
            now_ns,
            wall_clock: WallClock::System,
            commands: Vec::new(),
            touched: Vec::new(),
            pairs: Pairs::default(),
            page,
            named_counters: 0,
            worker_timers: Vec::new(),
            limits,
            timeouts,
            listeners: Vec::new(),
            outbound_layers: BTreeMap::new(),
            may_lease: true,
            requests_in_turn: 0,
            slot: 0,
            core: None,
            draining: false,
            access_log: None,
            siblings: None,
            waits_for_room: false,
        }
    }

    /// A layer for an outbound connection.
    ///
    /// # Errors
    /// The layer's, and `NotFound` if no layer has the name.
    pub(crate) fn connect_layer(&self, through: &Through) -> std::io::Result<Box<dyn Layer>> {
        let Through { name, server_name } = through;
        match self.outbound_layers.get(&**name) {
            Some(layers) => layers.connect(server_name),
            None => {
                Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("outbound_layers has no layer {name:?}")))
            }
        }
    }

    /// Continues with the layer of this name that another worker has frozen.
    ///
    /// # Errors
    /// The layer's, and `Malformed` if no layer has the name.
    pub(crate) fn thaw_outbound_layer(&self, name: &str, state: &[u8]) -> Result<Box<dyn Layer>, ThawError> {
        self.outbound_layers.get(name).ok_or(ThawError::Malformed)?.thaw(state)
    }

    /// Makes the next callback write to the arena for sealing, or to the one for sending.
    #[inline]
    pub(crate) fn select_arena(&mut self, is_layered: bool) {
        if self.is_layered != is_layered {
            self.is_layered = is_layered;
            std::mem::swap(&mut self.arena, &mut self.other_arena);
        }
    }

    /// The arena for sealing, and the one for sending.
    pub(crate) fn arenas(&mut self) -> (&mut Arena, &mut Arena) {
        if self.is_layered {
            (&mut self.arena, &mut self.other_arena)
        } else {
            (&mut self.other_arena, &mut self.arena)
        }
    }

    /// Begins a turn; no callback is running.
    pub(crate) fn begin_turn(&mut self) {
        debug_assert!(!self.is_layered, "a callback has not given its arena back");
        self.arena.begin_turn();
        if self.other_arena.is_used() {
            self.other_arena.begin_turn();
        }
    }

    pub(crate) fn wall_time(&self) -> SystemTime {
        match self.wall_clock {
            WallClock::System => SystemTime::now(),
            WallClock::Virtual(start) => SystemTime::UNIX_EPOCH + start + Duration::from_nanos(self.now_ns),
        }
    }

    pub(crate) fn clock_ns(&self) -> u64 {
        match self.wall_clock {
            WallClock::System => monotonic_ns(),
            WallClock::Virtual(_) => self.now_ns,
        }
    }

    pub(crate) fn siblings(&mut self) -> &mut Siblings {
        self.siblings.as_deref_mut().expect("a protocol that speaks to other workers says so with `Protocol::MESSAGES`")
    }

    pub(crate) fn send(&mut self, slot: usize, message: &[u8]) -> Result<(), SendError> {
        self.siblings().send(slot, message)?;
        self.page.sibling_messages_sent.add(1);
        Ok(())
    }

    pub(crate) fn broadcast(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.siblings().broadcast(message)?;
        self.page.sibling_messages_sent.add(1);
        Ok(())
    }

    /// Sets a timer of the worker, or moves it.
    pub(crate) fn set_worker_timer(&mut self, key: TimerKey, after: Duration) {
        self.cancel_worker_timer(key);
        // Later than now, so that a timer set by a timer fires in a later turn.
        let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.worker_timers.push((key, self.now_ns.saturating_add(after_ns)));
    }

    pub(crate) fn cancel_worker_timer(&mut self, key: TimerKey) {
        self.worker_timers.retain(|(other, _)| *other != key);
    }

    pub(crate) fn worker_timer_left(&self, key: TimerKey) -> Option<Duration> {
        let (_, deadline_ns) = self.worker_timers.iter().find(|(other, _)| *other == key)?;
        Some(self.left(*deadline_ns))
    }

    fn left(&self, deadline_ns: u64) -> Duration {
        Duration::from_nanos(deadline_ns.saturating_sub(self.now_ns))
    }

    /// Takes the earliest timer of the worker that is due. Call it until it returns `None`.
    pub(crate) fn expire_worker_timer(&mut self) -> Option<TimerKey> {
        let due = self.worker_timers.iter().enumerate().filter(|(_, (_, deadline_ns))| *deadline_ns <= self.now_ns);
        let (index, _) = due.min_by_key(|(_, (_, deadline_ns))| *deadline_ns)?;
        Some(self.worker_timers.swap_remove(index).0)
    }

    /// When timers must be checked next, in nanoseconds; `None` if none is set.
    pub(crate) fn next_timer_ns(&self) -> Option<u64> {
        let of_worker = self.worker_timers.iter().map(|(_, deadline_ns)| *deadline_ns).min();
        self.timers.next_ns().into_iter().chain(of_worker).min()
    }

    /// The loop's time in `after`, but at least a millisecond from now: a timer set by a timer fires in a later turn.
    pub(crate) fn deadline_ns(&self, after: Duration) -> u64 {
        self.now_ns.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).max(1_000_000))
    }
}
