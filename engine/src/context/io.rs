//! What a callback of a connection can do.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::others::{self, Others, Unreachable};
use super::{Command, Context, Timers};
use crate::config::ConnectionTimeouts;
use crate::messages::SendError;
use crate::sys::file_part::{FilePart, Pages};
use crate::sys::payload::Payload;
use crate::sys::sealed_memory::SealedMemory;
use crate::target::Target;
use crate::telemetry::{NAMED_COUNTERS_MAX, WorkerPage};
use crate::types::{ConnectionId, Next, TimerKey};

/// A static answer of at least this size is sent from where it is.
const STATIC_BYTES_MIN: usize = 16 * 1024;

/// Counted memory of at least this size is sent from where it is.
const COUNTED_BYTES_MIN: usize = 1024;

/// The same after output of this callback, together with which it makes one send of two parts.
const COUNTED_JOINED_BYTES_MIN: usize = 8 * 1024;

/// The same after earlier output, where it costs a separate send.
const COUNTED_BEHIND_BYTES_MIN: usize = 16 * 1024;

/// Parts of files and of sealed memory of at least this size are sent from where they are, which takes three more system
/// calls.
const FILE_BYTES_MIN: u64 = 32 * 1024;

/// Input of at least this size is sent back from where it is.
const FORWARD_BYTES_MIN: usize = 1024;

/// Output that is sent from where it is, after the bytes that were written.
#[derive(Clone, Debug)]
pub(crate) enum Tail {
    None,
    /// Part of the callback's input.
    Input(Range<usize>),
    Static(&'static [u8]),
    Counted(Rc<[u8]>, Range<usize>),
    /// Only sealed memory where the connection has a layer.
    Pages(Pages, Range<u64>),
}

/// The output of a callback.
pub(crate) struct Written {
    /// Output from before it acted on other connections, and output that later output follows without a copy.
    pub(crate) pieces: Vec<Payload>,
    pub(crate) tail: Tail,
    /// Whether the callback from which this one was called, if any, is for a connection with a layer.
    pub(crate) was_layered: bool,
}

/// The parts of its connection that a callback may change.
pub(crate) struct Own {
    pub(crate) id: ConnectionId,
    pub(crate) timers: Timers,
    /// The memory that the protocol reports for it.
    pub(crate) held_bytes: u32,
    /// It has got the goodbye.
    pub(crate) is_told: bool,
    /// The label of its listener.
    pub(crate) label: u8,
}

/// The connection of a callback: write answers, set timers, read the time, act on other connections.
///
/// The engine collects output and sends it at the end of the turn, with one send.
pub struct Io<'a> {
    context: &'a mut Context,
    others: &'a mut (dyn Others + 'a),
    own: &'a mut Own,
    /// Bytes that were queued before this callback.
    pending: usize,
    /// The callback's input, if it is in a receive buffer that may be lent.
    lendable: &'a [u8],
    pieces: Vec<Payload>,
    tail: Tail,
    was_layered: bool,
}

impl<'a> Io<'a> {
    /// `pending` bytes are queued. `lendable` is the callback's input if that may be sent from where it is, which is
    /// never so if the connection has a layer.
    #[inline]
    pub(crate) fn new(
        context: &'a mut Context,
        others: &'a mut (dyn Others + 'a),
        own: &'a mut Own,
        pending: usize,
        lendable: &'a [u8],
        is_layered: bool,
    ) -> Self {
        let was_layered = context.is_layered;
        context.select_arena(is_layered);
        Self { context, others, own, pending, lendable, pieces: Vec::new(), tail: Tail::None, was_layered }
    }

    #[inline]
    pub(crate) fn finish(self) -> Written {
        Written { pieces: self.pieces, tail: self.tail, was_layered: self.was_layered }
    }
}

/// Names a counter of the protocol; from [`Worker::counter`](crate::Worker::counter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterId(pub(crate) u8);

impl Io<'_> {
    /// This connection's name within its worker, for [`Io::wake`] from another one.
    pub fn id(&self) -> ConnectionId {
        self.own.id
    }

    /// The [label](crate::config::Listener::label) of the listener at which the connection arrived; 0 if it has none,
    /// or for an outbound connection.
    #[inline]
    pub fn label(&self) -> u8 {
        self.own.label
    }

    /// Whether the connection has TLS, or another [layer](crate::layer).
    #[inline]
    pub fn is_secured(&self) -> bool {
        self.context.is_layered
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

    /// Appends part of memory that the protocol keeps, such as an answer for many connections. From one kilobyte on it is
    /// sent without a copy, and lives until the last peer has read it. After other output of this callback that is so from 8 KiB on,
    /// and after earlier output that still waits, from 16 KiB on.
    ///
    /// # Panics
    /// If `part` does not lie within `bytes`.
    #[inline]
    pub fn write_counted(&mut self, bytes: &Rc<[u8]>, part: Range<usize>) {
        self.flatten();
        let bytes_min = match (self.pending, self.context.arena.staged_len()) {
            (0, 0) => COUNTED_BYTES_MIN,
            (0, _) => COUNTED_JOINED_BYTES_MIN,
            _ => COUNTED_BEHIND_BYTES_MIN,
        };
        if part.len() < bytes_min || bytes.len() > u32::MAX as usize {
            self.context.arena.write(&bytes[part]);
        } else {
            assert!(part.end <= bytes.len(), "the part ends at {} of {} bytes", part.end, bytes.len());
            self.tail = Tail::Counted(Rc::clone(bytes), part);
        }
    }

    /// Appends part of a file. On a connection without TLS, parts of 32 KiB or more are not copied: the socket gets
    /// references to the pages of the page cache (sendfile(2)). The file is then read while the peer takes it: if it has
    /// become shorter by then, the connection is reset before the end of the part; if its content has changed, the peer may
    /// get the new content.
    ///
    /// A slow disk delays the worker's other connections. One send reads up to 1 MiB, and a connection that moves to
    /// another worker takes the unsent part with it, read into memory. Therefore write a large file in parts (see
    /// [`Io::is_full`] and [`Io::wait_for_room`]).
    ///
    /// # Errors
    /// If the file is read at once, and cannot be read or ends before the end of `part`. Nothing is appended then.
    pub fn write_file(&mut self, file: &Rc<File>, part: Range<u64>) -> io::Result<()> {
        let length = part.end.saturating_sub(part.start);
        if length < FILE_BYTES_MIN || self.context.is_layered {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            file.read_exact_at(&mut self.reserve(length)[..length], part.start)?;
            self.commit(length);
        } else {
            self.append_pages(Pages::File(Rc::clone(file)), part);
        }
        Ok(())
    }

    /// Appends part of sealed memory. From 32 KiB on it is not copied, even if other output comes before it. On a connection
    /// with TLS it is only sealed, which is a copy itself.
    ///
    /// # Panics
    /// If `part` does not lie within `memory`.
    pub fn write_sealed(&mut self, memory: &Rc<SealedMemory>, part: Range<usize>) {
        if (part.len() as u64) < FILE_BYTES_MIN {
            self.write(&memory[part]);
        } else {
            assert!(part.end <= memory.len(), "the part ends at {} of {} bytes", part.end, memory.len());
            self.append_pages(Pages::Sealed(Rc::clone(memory)), part.start as u64..part.end as u64);
        }
    }

    fn append_pages(&mut self, pages: Pages, place: Range<u64>) {
        self.flatten();
        self.tail = Tail::Pages(pages, place);
    }

    /// Appends part of this callback's input. If it fills a large part of a receive buffer and no other output
    /// waits, it is sent from that buffer without a copy.
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

    /// Returns at least `count` bytes of output memory to encode into; call [`Io::commit`] with the number of bytes you filled.
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
            Tail::Pages(_, place) => (place.end - place.start) as usize,
        };
        self.pending + self.context.arena.staged_len() + tail
    }

    /// Whether queued output is above the high-water mark. If so, stop, and return how many bytes you have consumed. While output is
    /// above the mark, the engine does not read the connection and does not call [`Protocol::on_data`](crate::Protocol::on_data). When
    /// output is below the low mark, it calls [`Protocol::on_writable`](crate::Protocol::on_writable).
    ///
    /// The returned value decides about input that is left. With [`Next::Yield`](crate::Next::Yield), `on_data` gets it again as soon as
    /// there is room, and not before, so nothing spins. With [`Next::More`](crate::Next::More), only when more bytes have come. So a
    /// protocol that stops in the middle of its input because of `is_full` returns `Next::Yield`. One that has consumed all input and
    /// still has output to write (a long answer in parts) returns `Next::More` and continues in `on_writable`.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.queued_bytes() > self.context.limits.outbound_bytes_high
    }

    /// Asks for [`Protocol::on_writable`](crate::Protocol::on_writable) when the peer has read some of the output, as if output were above
    /// the high-water mark. Use it to write a long answer in small parts. The connection is not read until then. It has no effect
    /// if no output waits.
    pub fn wait_for_room(&mut self) {
        self.context.waits_for_room = true;
    }

    /// Tells the engine how much memory the protocol holds for this connection, such as a body that it collects. It counts as part of
    /// [`Limits::memory_bytes_max`](crate::config::Limits::memory_bytes_max) until the next call.
    #[inline]
    pub fn set_held_bytes(&mut self, bytes: usize) {
        self.own.held_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    /// The loop's time: since an arbitrary start, monotonic, the same for a whole turn.
    #[inline]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.context.now_ns)
    }

    /// The current time on the scale of [`Io::now`], to measure within a turn. In the harness it is the same as `now`.
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
        self.own.timers.set(key, self.own.id.slot, deadline_ns, &mut self.context.timers);
    }

    /// Cancels a timer; has no effect if it is not set.
    pub fn cancel_timer(&mut self, key: TimerKey) {
        self.own.timers.cancel(key, &mut self.context.timers);
    }

    /// Acts on another connection of this worker at once: `act` gets its state, of the type
    /// [`Protocol::Connection`](crate::Protocol::Connection), and its own `Io`, and returns how that connection continues. The closure
    /// may use the protocol's `self`.
    ///
    /// # Errors
    /// If the connection cannot be acted on; `act` is then not called.
    ///
    /// # Panics
    /// If `C` is another type than `Protocol::Connection`.
    pub fn with<C: 'static>(
        &mut self,
        id: ConnectionId,
        act: impl FnOnce(&mut C, &mut Io<'_>) -> Next,
    ) -> Result<(), Unreachable> {
        self.set_aside();
        others::with(self.others, self.context, id, act)
    }

    /// Sets aside the written bytes: they belong to this connection, whichever connection writes next.
    fn set_aside(&mut self) {
        self.flatten();
        self.set_staged_aside();
    }

    fn set_staged_aside(&mut self) {
        if let Some(slice) = self.context.arena.seal() {
            self.pending += slice.len();
            self.pieces.push(Payload::Slice(slice));
        }
    }

    /// Pairs this connection with another one. From now on they move to another worker together or stay together, and each
    /// is the other's [`Io::partner`], also after a move. Each leaves its earlier pair. A pair ends
    /// when one of its connections does.
    ///
    /// # Errors
    /// If the other connection cannot be acted on.
    pub fn pair_with(&mut self, id: ConnectionId) -> Result<(), Unreachable> {
        let own = self.own.id;
        self.set_aside();
        others::look(self.others, self.context, id)?;
        self.context.pairs.join(own, id);
        Ok(())
    }

    /// The connection that this one is [paired](Io::pair_with) with.
    pub fn partner(&self) -> Option<ConnectionId> {
        self.context.pairs.of(self.own.id)
    }

    /// Connects to `target`; see [`Worker::connect`](crate::Worker::connect). The token may name a connection, with
    /// [`ConnectionId::to_u64`].
    pub fn connect(&mut self, target: impl Into<Target>, token: u64) {
        self.context.commands.push(Command::Connect { target: target.into(), token });
    }

    /// The time until a timer fires; `None` if it is not set.
    pub fn timer_left(&self, key: TimerKey) -> Option<Duration> {
        self.own.timers.deadline_ns(key, &self.context.timers).map(|deadline_ns| self.context.left(deadline_ns))
    }

    /// Sets [`Timeouts::idle_ms`](crate::config::Timeouts::idle_ms) for this connection, counted from the last received byte; 0 turns
    /// it off. It overrides the listener's and the settings' value, moves with the connection, and is limited to seven days.
    pub fn set_idle_ms(&mut self, ms: u64) {
        self.set_timeouts(ConnectionTimeouts { idle_ms: Some(ms), ..Default::default() });
    }

    /// Like [`Io::set_idle_ms`], for [`Timeouts::message_ms`](crate::config::Timeouts::message_ms), counted from the first byte of the
    /// message: for a message that may take longer than others.
    pub fn set_message_ms(&mut self, ms: u64) {
        self.set_timeouts(ConnectionTimeouts { message_ms: Some(ms), ..Default::default() });
    }

    /// Like [`Io::set_idle_ms`], for [`Timeouts::write_ms`](crate::config::Timeouts::write_ms), counted from when the peer last read output.
    pub fn set_write_ms(&mut self, ms: u64) {
        self.set_timeouts(ConnectionTimeouts { write_ms: Some(ms), ..Default::default() });
    }

    /// Restores the time-outs of the listener and of the settings.
    pub fn reset_timeouts(&mut self) {
        self.own.timers.set_timeouts(ConnectionTimeouts::default());
        self.context.commands.push(Command::Retime(self.own.id));
    }

    fn set_timeouts(&mut self, timeouts: ConnectionTimeouts) {
        self.own.timers.set_timeouts(timeouts.bounded().over(self.own.timers.own_timeouts()));
        self.context.commands.push(Command::Retime(self.own.id));
    }

    /// Calls [`Protocol::on_wake`](crate::Protocol::on_wake) for another connection of this worker after this callback, if it still
    /// exists. [`Io::with`] acts on it at once.
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
    /// If it was not sent; no worker gets it then.
    ///
    /// # Panics
    /// As there.
    pub fn send(&mut self, slot: usize, message: &[u8]) -> Result<(), SendError> {
        self.context.send(slot, message)
    }

    /// As [`Worker::broadcast`](crate::Worker::broadcast).
    ///
    /// # Errors
    /// If it was not sent; no worker gets it then.
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

    /// Adds to one of the protocol's own counters.
    #[inline]
    pub fn add(&mut self, counter: CounterId, count: u64) {
        add_named(&self.context.page, counter, count);
    }

    /// Whether the worker is leaving and this connection does not move to another one, or an operator closes it. If so, close it with
    /// the next answer.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.context.draining || self.own.is_told
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
            Tail::Pages(Pages::Sealed(memory), place) if self.context.is_layered => {
                self.context.arena.write(&memory[place.start as usize..place.end as usize]);
            }
            Tail::Pages(pages, place) => {
                self.set_staged_aside();
                let part = FilePart::new(pages, place);
                self.pending += part.len();
                self.pieces.push(Payload::File(Box::new(part)));
            }
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
