//! What a callback of a connection can do.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::{Command, Context, Timers};
use crate::messages::SendError;
use crate::telemetry::{NAMED_COUNTERS_MAX, WorkerPage};
use crate::types::{ConnectionId, TimerKey};

/// A static answer from this size on is sent from where it is.
const STATIC_BYTES_MIN: usize = 16 * 1024;

/// Counted memory from this size on is sent from where it is.
const COUNTED_BYTES_MIN: usize = 1024;

/// The same behind other output, where it costs a send of its own.
const COUNTED_BEHIND_BYTES_MIN: usize = 16 * 1024;

/// Input from this size on is sent back from where it is.
const FORWARD_BYTES_MIN: usize = 1024;

/// Output that is sent from where it is, behind what was written.
#[derive(Clone, Debug)]
pub(crate) enum Tail {
    None,
    /// Part of the callback's input.
    Input(Range<usize>),
    Static(&'static [u8]),
    Counted(Rc<[u8]>, Range<usize>),
}

/// The connection that a callback is for: write answers, set timers, ask for the time.
///
/// Output is collected and goes out with one send at the end of the turn.
pub struct Io<'a> {
    pub(crate) context: &'a mut Context,
    pub(crate) timers: &'a mut Timers,
    pub(crate) held_bytes: &'a mut u32,
    pub(crate) id: ConnectionId,
    /// Bytes queued before this callback.
    pub(crate) pending: usize,
    /// The callback's input where it lies in a receive buffer that may be lent.
    pub(crate) lendable: &'a [u8],
    pub(crate) tail: Tail,
    /// This connection was told to leave.
    pub(crate) is_told: bool,
}

/// Names a counter of the protocol; from [`Worker::counter`](crate::Worker::counter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterId(pub(crate) u8);

impl Io<'_> {
    /// This connection's name within its worker, for [`Io::wake`] from another one.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Appends `bytes` to the output.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.flatten();
        self.context.arena.write(bytes);
    }

    /// Appends bytes that live as long as the program; large ones are not copied.
    pub fn write_static(&mut self, bytes: &'static [u8]) {
        self.flatten();
        if bytes.len() >= STATIC_BYTES_MIN {
            self.tail = Tail::Static(bytes);
        } else {
            self.context.arena.write(bytes);
        }
    }

    /// Appends part of memory that the protocol keeps: an answer made once and given to many. From a kilobyte on it is
    /// sent from where it is, and lives until the last peer has taken it; from 16 KiB on where other output waits before it.
    ///
    /// # Panics
    /// If `part` does not lie within `bytes`.
    #[inline]
    pub fn write_counted(&mut self, bytes: &Rc<[u8]>, part: Range<usize>) {
        self.flatten();
        let is_behind = self.pending > 0 || self.context.arena.staged_len() > 0;
        let bytes_min = if is_behind { COUNTED_BEHIND_BYTES_MIN } else { COUNTED_BYTES_MIN };
        if part.len() < bytes_min || bytes.len() > u32::MAX as usize {
            self.context.arena.write(&bytes[part]);
        } else {
            assert!(part.end <= bytes.len(), "the part ends at {} of {} bytes", part.end, bytes.len());
            self.tail = Tail::Counted(Rc::clone(bytes), part);
        }
    }

    /// Appends part of this callback's input. Where it fills a good part of a receive buffer and nothing else waits
    /// to be sent, it goes out from that buffer without being copied.
    #[inline]
    pub fn write_input(&mut self, part: &[u8]) {
        self.flatten();
        let start = (part.as_ptr() as usize).wrapping_sub(self.lendable.as_ptr() as usize);
        let lies_within = start <= self.lendable.len() && part.len() <= self.lendable.len() - start;
        if lies_within && part.len() >= FORWARD_BYTES_MIN && self.pending == 0 && self.context.arena.staged_len() == 0 {
            self.tail = Tail::Input(start..start + part.len());
        } else {
            self.context.arena.write(part);
        }
    }

    /// At least `count` bytes of output memory to encode into; [`Io::commit`] says how many were filled.
    #[inline]
    pub fn reserve(&mut self, count: usize) -> &mut [u8] {
        self.flatten();
        self.context.arena.reserve(count)
    }

    /// Appends the first `count` bytes of what [`Io::reserve`] gave.
    ///
    /// # Panics
    /// If that is more than was given.
    #[inline]
    pub fn commit(&mut self, count: usize) {
        self.context.arena.commit(count);
    }

    /// Bytes of output that the kernel has not taken yet.
    pub fn queued_bytes(&self) -> usize {
        let tail = match &self.tail {
            Tail::None => 0,
            Tail::Input(range) => range.len(),
            Tail::Static(bytes) => bytes.len(),
            Tail::Counted(_, part) => part.len(),
        };
        self.pending + self.context.arena.staged_len() + tail
    }

    /// Whether output is above the high-water mark. Then stop, and return [`Next::Yield`](crate::Next::Yield): the
    /// engine calls again when the peer has caught up.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.queued_bytes() > self.context.limits.outbound_bytes_high
    }

    /// Calls [`Protocol::on_writable`](crate::Protocol::on_writable) when the peer has taken some of the output, as if that were above
    /// the high-water mark: for long answers of which little is to wait at a time. The connection is not read until then. Does
    /// nothing where no output waits.
    pub fn wait_for_room(&mut self) {
        self.context.waits_for_room = true;
    }

    /// Says how much memory the protocol holds for this connection, such as a body that it collects: counted into
    /// [`Limits::memory_bytes_max`](crate::config::Limits::memory_bytes_max) until something else is said.
    #[inline]
    pub fn set_held_bytes(&mut self, bytes: usize) {
        *self.held_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    /// The loop's time: since an arbitrary start, monotonic, the same for a whole turn.
    #[inline]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.context.now_ns)
    }

    /// The time read afresh, on the scale of [`Io::now`]: for what is timed within a turn. The same as `now` in the
    /// harness.
    #[inline]
    pub fn clock(&self) -> Duration {
        Duration::from_nanos(self.context.clock_ns())
    }

    /// The wall clock; virtual in the harness.
    #[inline]
    pub fn wall_time(&self) -> SystemTime {
        self.context.wall_time()
    }

    /// Calls [`Protocol::on_timer`](crate::Protocol::on_timer) after this time, once. Setting a timer again moves it.
    pub fn set_timer(&mut self, key: TimerKey, after: Duration) {
        let deadline_ns = self.context.deadline_ns(after);
        self.timers.set(key, self.id.slot, deadline_ns, &mut self.context.timers);
    }

    /// Takes a timer back; does nothing where it is not set.
    pub fn cancel_timer(&mut self, key: TimerKey) {
        self.timers.cancel(key, &mut self.context.timers);
    }

    /// Calls [`Protocol::on_wake`](crate::Protocol::on_wake) of another connection of this worker, if it still lives,
    /// after this callback.
    pub fn wake(&mut self, id: ConnectionId) {
        self.context.commands.push(Command::Wake(id));
    }

    /// As [`Worker::siblings`](crate::Worker::siblings).
    ///
    /// # Panics
    /// As there.
    pub fn siblings(&mut self) -> Vec<usize> {
        self.context.siblings().slots()
    }

    /// As [`Worker::send`](crate::Worker::send).
    ///
    /// # Errors
    /// Then nobody hears it.
    ///
    /// # Panics
    /// As there.
    pub fn send(&mut self, slot: usize, message: &[u8]) -> Result<(), SendError> {
        self.context.send(slot, message)
    }

    /// As [`Worker::broadcast`](crate::Worker::broadcast).
    ///
    /// # Errors
    /// Then nobody hears it.
    ///
    /// # Panics
    /// As there.
    pub fn broadcast(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.context.broadcast(message)
    }

    /// Counts requests answered.
    #[inline]
    pub fn count_requests(&mut self, count: u64) {
        self.context.requests_in_turn += count;
    }

    /// Adds to a counter of the protocol's own.
    #[inline]
    pub fn add(&mut self, counter: CounterId, count: u64) {
        add_named(&self.context.page, counter, count);
    }

    /// Whether the worker is leaving, and this connection does not go to another one: say goodbye with the next answer.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.context.draining || self.is_told
    }

    #[inline]
    fn flatten(&mut self) {
        if !matches!(self.tail, Tail::None) {
            self.flatten_tail();
        }
    }

    #[cold]
    fn flatten_tail(&mut self) {
        match std::mem::replace(&mut self.tail, Tail::None) {
            Tail::None => {}
            Tail::Input(range) => self.context.arena.write(&self.lendable[range]),
            Tail::Static(bytes) => self.context.arena.write(bytes),
            Tail::Counted(bytes, part) => self.context.arena.write(&bytes[part]),
        }
    }
}

pub(super) fn add_named(page: &WorkerPage, counter: CounterId, count: u64) {
    debug_assert!((counter.0 as usize) < NAMED_COUNTERS_MAX);
    page.named[counter.0 as usize].add(count);
}

impl io::Write for Io<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Io::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
