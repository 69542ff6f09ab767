//! One connection as a state machine: input, output, limits, closing. Pure: it is driven by the worker's loop on the
//! ring, and by the harness without a kernel.
//!
//! A connection of a proxy begins in `Header`, any other in `Open`. Phases only go forward: `Header` → `Open` → `Flushing` →
//! `Lingering` → `Ended`, or straight to `Ended` on an error. In `Ended` nothing more is wanted of the kernel but the end of
//! what it still has in hand, then the close. From `Header` and `Open` it goes to `Frozen` and back, or from `Frozen` to `Ended`
//! when another worker has the connection.

mod callbacks;
mod deadlines;
mod frozen;
mod input;
mod outbound;
#[cfg(test)]
mod tests;

use self::input::Input;
use self::outbound::Outbound;
use crate::config::ConnectionTimeouts;
use crate::context::timer_wheel::TimerId;
use crate::context::{Context, Io, Tail, Timers};
use crate::protocol::Protocol;
use crate::proxy::ProxyHeader;
use crate::sys::buffer_ring::Lease;
use crate::sys::payload::Payload;
use crate::sys::ring::WhenFull;
use crate::types::{CloseReason, ConnectionId, Drain, Limit, Next, Peer, Reject, TimerKey};

/// While a connection waits for its next turn, reading goes on until this much input waits.
const YIELDED_INPUT_BYTES_MAX: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The proxy has not said yet whose connection it is: the protocol does not know of it.
    Header,
    Open,
    /// Between two workers: nothing happens to it until it is known which of them has it.
    Frozen,
    /// No more input for the protocol; output is going out. Then FIN, and wait for the peer's where `linger`.
    Flushing {
        linger: bool,
    },
    /// FIN is sent; input is discarded until the peer's.
    Lingering,
    /// To be closed as soon as the kernel has nothing of it in hand; with a reset where `reset`.
    Ended {
        reset: bool,
    },
}

/// What the driver should do besides receiving and sending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    /// Call [`Connection::open`]: the proxy has said whose connection it is.
    Open(Box<ProxyHeader>),
    /// Send FIN; keep receiving.
    ShutdownWrite,
    /// End everything in the kernel's hand, then close, with a reset where told.
    Close {
        reset: bool,
    },
}

/// Bytes from the peer.
pub(crate) enum Received<'a> {
    /// In a receive buffer.
    Lease(Lease),
    /// Anywhere else.
    Bytes(&'a [u8]),
}

impl Received<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Lease(lease) => lease.bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// See the module's head.
pub(crate) struct Connection<S> {
    /// `None` before it opened and after it closed.
    state: Option<S>,
    /// Unconsumed input.
    input: Input,
    outbound: Outbound,
    timers: Timers,
    alarm: Option<TimerId>,
    /// What the protocol says it holds for it.
    held_bytes: u32,
    /// Input wanted before the protocol is called again.
    at_least: u32,
    id: ConnectionId,
    phase: Phase,
    reason: CloseReason,
    /// The protocol paused it.
    paused: bool,
    /// Output rose above high water and has not fallen below low.
    full: bool,
    /// The protocol is to be called again with the input it left.
    rerun: bool,
    /// The peer has sent FIN.
    peer_ended: bool,
    /// The protocol has been told so.
    eof_told: bool,
    /// The protocol was asked to say goodbye.
    is_told: bool,
    /// When input last arrived or output last ended.
    activity_ns: u64,
    /// When the first byte of the message in `input` arrived; 0 where none is begun.
    message_ns: u64,
    /// When the peer last took output, while there is some; the linger deadline once lingering.
    progress_ns: u64,
}

impl<S> Connection<S> {
    /// A connection that [`Connection::open`] has not been called for.
    pub(crate) fn new(id: ConnectionId, now_ns: u64) -> Self {
        Self {
            state: None,
            input: Input::default(),
            outbound: Outbound::default(),
            timers: Timers::default(),
            alarm: None,
            held_bytes: 0,
            at_least: 1,
            id,
            phase: Phase::Open,
            reason: CloseReason::Protocol,
            paused: false,
            full: false,
            rerun: false,
            peer_ended: false,
            eof_told: false,
            is_told: false,
            activity_ns: now_ns,
            message_ns: 0,
            progress_ns: now_ns,
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Before [`Connection::open`]: a proxy is to say whose connection it is.
    pub(crate) fn await_header(&mut self, context: &mut Context) {
        self.phase = Phase::Header;
        self.message_ns = context.now_ns;
        self.set_alarm(context);
    }

    /// It is not about to end.
    pub(crate) fn can_move(&self) -> bool {
        matches!(self.phase, Phase::Header | Phase::Open)
    }

    /// Whoever is connected is no proxy that is trusted.
    pub(crate) fn refuse(&mut self, context: &mut Context) {
        self.end(context, true, CloseReason::ProxyHeader);
    }

    /// When input last arrived or output last ended; when it opened, before that.
    pub(crate) fn activity_ns(&self) -> u64 {
        self.activity_ns
    }

    /// That it ends is settled; the last bytes and the peer's FIN are waited for.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Flushing { .. } | Phase::Lingering)
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// Memory that is held for it: input, output, and what the protocol has said.
    #[inline]
    pub(crate) fn held_bytes(&self) -> usize {
        self.input.capacity() + self.outbound.pending() + self.held_bytes as usize
    }

    /// Those that the listener has set that it came to.
    pub(crate) fn set_timeouts_of_listener(&mut self, timeouts: ConnectionTimeouts) {
        self.timers.set_timeouts_of_listener(timeouts);
    }

    /// When its peer last took output, or sent something where there is none.
    pub(crate) fn progress_ns(&self) -> u64 {
        if self.outbound.pending() > 0 { self.progress_ns } else { self.activity_ns }
    }

    /// Between two messages, as far as the engine knows.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = self.paused || self.rerun;
        self.phase == Phase::Open && !waits && self.input.is_empty() && self.outbound.pending() == 0
    }

    /// The protocol has left input that it is to look at again by itself.
    pub(crate) fn is_to_run_again(&self) -> bool {
        self.rerun
    }

    pub(crate) fn reason(&self) -> CloseReason {
        self.reason
    }

    /// Whether the driver should be receiving.
    #[inline]
    pub(crate) fn wants_input(&self) -> bool {
        if self.peer_ended {
            return false;
        }
        match self.phase {
            Phase::Open => !self.paused && !self.full && (!self.rerun || self.input.len() < YIELDED_INPUT_BYTES_MAX),
            Phase::Flushing { linger } => linger,
            Phase::Header | Phase::Lingering => true,
            Phase::Frozen | Phase::Ended { .. } => false,
        }
    }

    /// Whether [`Connection::begin_send`] would give something.
    #[inline]
    pub(crate) fn wants_output(&self) -> bool {
        self.outbound.can_send() && !matches!(self.phase, Phase::Frozen | Phase::Ended { .. })
    }

    /// Whether the send that [`Connection::begin_send`] has just given is the last, with nothing to wait for after it:
    /// then the driver may close with it, if nothing else is in the kernel's hand.
    pub(crate) fn ends_with_send(&self, payload: &Payload) -> bool {
        self.phase == Phase::Flushing { linger: false } && self.outbound.pending() == payload.len()
    }

    /// What else the driver should do; each but `Close` is told once.
    pub(crate) fn next_action(&mut self, context: &mut Context) -> Action {
        match self.phase {
            Phase::Header => self.look_at_header(context),
            Phase::Flushing { linger } if self.outbound.pending() == 0 => {
                if linger && !self.peer_ended && context.timeouts.linger_ms > 0 {
                    self.phase = Phase::Lingering;
                    self.progress_ns = context.now_ns + context.timeouts.linger_ms * 1_000_000;
                    self.set_alarm(context);
                    Action::ShutdownWrite
                } else {
                    self.phase = Phase::Ended { reset: false };
                    Action::Close { reset: false }
                }
            }
            Phase::Ended { reset } => Action::Close { reset },
            _ => Action::Nothing,
        }
    }

    /// What to send now, and how; its end comes back with [`Connection::sent`].
    #[inline]
    pub(crate) fn begin_send(&mut self, context: &mut Context) -> Option<(Payload, WhenFull)> {
        let send = self.outbound.begin_send()?;
        self.progress_ns = context.now_ns;
        if send.1 == WhenFull::Wait {
            self.set_alarm(context);
        }
        Some(send)
    }

    /// The connection is established.
    pub(crate) fn open<P>(&mut self, protocol: &mut P, context: &mut Context, peer: Peer<'_>)
    where
        P: Protocol<Connection = S>,
    {
        let mut io = self.io(context, &[]);
        let opened = protocol.on_open(peer, &mut io);
        let tail = io.tail;
        self.push_output(context, None, tail);
        match opened {
            Ok(state) => {
                self.state = Some(state);
                // What came behind the header of a proxy.
                if !self.input.is_empty() || self.peer_ended {
                    self.rerun_soon(context);
                }
                self.set_alarm(context);
            }
            Err(Reject::Close) => self.begin_close(context, true, CloseReason::Aborted),
            Err(Reject::Abort) => self.end(context, true, CloseReason::Aborted),
        }
    }

    /// Bytes arrived.
    #[inline]
    pub(crate) fn receive<P>(&mut self, protocol: &mut P, context: &mut Context, received: Received<'_>)
    where
        P: Protocol<Connection = S>,
    {
        self.activity_ns = context.now_ns;
        if self.phase != Phase::Open {
            if self.phase == Phase::Header {
                self.input.append(received.bytes());
            }
            return;
        }
        if self.alarm.is_none() {
            self.set_alarm(context);
        }
        let is_blocked = self.paused || self.full || self.rerun;
        let length = received.bytes().len();
        if !is_blocked && self.input.is_empty() && length >= self.at_least as usize {
            let Some(state) = &mut self.state else { return };
            let lendable = match &received {
                Received::Lease(lease) if context.may_lease => lease.bytes(),
                _ => &[],
            };
            let mut io = Io {
                context,
                timers: &mut self.timers,
                held_bytes: &mut self.held_bytes,
                id: self.id,
                pending: self.outbound.pending(),
                lendable,
                tail: Tail::None,
                is_told: self.is_told,
            };
            let step = protocol.on_data(state, received.bytes(), &mut io);
            let tail = io.tail;
            assert!(step.consumed <= length, "the protocol consumed {} of {length} bytes", step.consumed);
            if step.consumed < length {
                self.keep(context, &received.bytes()[step.consumed..], true);
            }
            self.push_output(context, Some(received), tail);
            self.apply_step(protocol, context, step);
        } else {
            self.keep(context, received.bytes(), self.input.is_empty());
            drop(received);
            if is_blocked {
                self.rerun |= self.paused || self.full;
            } else if self.input.len() >= self.at_least as usize {
                self.run_input(protocol, context);
            } else {
                self.check_message_bytes(protocol, context);
            }
        }
    }

    /// The peer sent FIN.
    pub(crate) fn receive_end<P>(&mut self, protocol: &mut P, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        self.peer_ended = true;
        match self.phase {
            Phase::Open if self.rerun => {}
            Phase::Open => self.tell_end(protocol, context),
            Phase::Lingering => self.end(context, false, self.reason),
            Phase::Header | Phase::Frozen | Phase::Flushing { .. } | Phase::Ended { .. } => {}
        }
    }

    /// Receiving or sending failed: the connection is gone.
    pub(crate) fn fail(&mut self, context: &mut Context) {
        let has_begun = matches!(self.phase, Phase::Header | Phase::Open);
        let reason = if has_begun { CloseReason::Reset } else { self.reason };
        self.end(context, false, reason);
    }

    /// The send of `payload` ended with `count` bytes taken.
    #[inline]
    pub(crate) fn sent<P>(&mut self, protocol: &mut P, context: &mut Context, payload: Payload, count: usize)
    where
        P: Protocol<Connection = S>,
    {
        self.outbound.sent(payload, count);
        self.activity_ns = context.now_ns;
        if count > 0 {
            self.progress_ns = context.now_ns;
        }
        if self.alarm.is_none() {
            self.set_alarm(context);
        }
        if self.full && self.outbound.pending() <= context.limits.outbound_bytes_low {
            self.full = false;
            self.on_writable(protocol, context);
        }
    }

    /// A send's memory came back after the connection ended.
    pub(crate) fn send_ended(&mut self, payload: Payload) {
        let count = payload.len();
        self.outbound.sent(payload, count);
    }

    /// A timer of the protocol's fired.
    pub(crate) fn timer<P>(&mut self, protocol: &mut P, context: &mut Context, key: TimerKey)
    where
        P: Protocol<Connection = S>,
    {
        self.timers.fired(key);
        self.call(context, CloseReason::Protocol, |state, io| protocol.on_timer(state, key, io));
    }

    /// Somebody asked for [`Protocol::on_wake`].
    pub(crate) fn wake<P>(&mut self, protocol: &mut P, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        self.call(context, CloseReason::Protocol, |state, io| protocol.on_wake(state, io));
    }

    /// The next turn of a connection that has input left to look at.
    pub(crate) fn run_again<P>(&mut self, protocol: &mut P, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        if self.phase != Phase::Open || self.paused || self.full || !self.rerun {
            return;
        }
        self.rerun = false;
        if !self.input.is_empty() && self.input.len() >= self.at_least as usize {
            self.run_input(protocol, context);
        }
        if self.phase == Phase::Open && self.peer_ended && !self.rerun {
            self.tell_end(protocol, context);
        }
        self.set_alarm(context);
    }

    /// The worker is leaving: the protocol is told once.
    pub(crate) fn drain<P>(&mut self, protocol: &mut P, context: &mut Context, deadline: std::time::Duration)
    where
        P: Protocol<Connection = S>,
    {
        // One that is frozen is told where it goes on.
        if self.is_told || self.phase != Phase::Open {
            return;
        }
        self.is_told = true;
        self.call_with_input(context, CloseReason::Drained, |state, input, io| {
            match protocol.on_drain(state, deadline, input, io) {
                Drain::Close => Next::Close,
                Drain::Wait => Next::Keep,
            }
        });
    }

    /// It is idle, and another one wants its place; whether it ends. It does without waiting for the peer.
    pub(crate) fn make_room<P>(&mut self, protocol: &mut P, context: &mut Context) -> bool
    where
        P: Protocol<Connection = S>,
    {
        self.limit(protocol, context, Limit::Connections, CloseReason::Room);
        if let Phase::Flushing { linger } = &mut self.phase {
            *linger = false;
        }
        // One that the protocol keeps is not the longest idle any more.
        self.activity_ns = context.now_ns;
        self.phase != Phase::Open
    }

    /// The drain's time is over, or the worker stops at once: no more waiting for anybody.
    pub(crate) fn stop(&mut self, context: &mut Context) {
        let has_begun = matches!(self.phase, Phase::Header | Phase::Open);
        let reason = if has_begun { CloseReason::Stopped } else { self.reason };
        self.end(context, false, reason);
    }

    /// The worker has too little memory, and this one holds much of it.
    pub(crate) fn cut(&mut self, context: &mut Context) {
        self.end(context, true, CloseReason::Memory);
    }

    /// The last thing before the slot is used again.
    pub(crate) fn close<P>(&mut self, protocol: &mut P, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        assert!(matches!(self.phase, Phase::Ended { .. }), "closed before it ended");
        self.timers.cancel_all(&mut context.timers);
        if let Some(id) = self.alarm.take() {
            context.timers.cancel(id);
        }
        if let Some(state) = self.state.take() {
            protocol.on_close(state, self.reason);
        }
    }

    #[cold]
    fn look_at_header(&mut self, context: &mut Context) -> Action {
        match ProxyHeader::parse(self.input.bytes()) {
            Ok(Some(header)) => {
                self.input.consume(header.as_bytes().len());
                self.phase = Phase::Open;
                self.message_ns = if self.input.is_empty() { 0 } else { context.now_ns };
                return Action::Open(Box::new(header));
            }
            Ok(None) if !self.peer_ended => return Action::Nothing,
            // Somebody looks whether the port is open.
            Ok(None) if self.input.is_empty() => self.end(context, false, CloseReason::Peer),
            Ok(None) | Err(_) => self.end(context, true, CloseReason::ProxyHeader),
        }
        self.next_action(context)
    }

    fn io<'a>(&'a mut self, context: &'a mut Context, lendable: &'a [u8]) -> Io<'a> {
        Io {
            context,
            timers: &mut self.timers,
            held_bytes: &mut self.held_bytes,
            id: self.id,
            pending: self.outbound.pending(),
            lendable,
            tail: Tail::None,
            is_told: self.is_told,
        }
    }

    fn begin_close(&mut self, context: &mut Context, linger: bool, reason: CloseReason) {
        if self.phase == Phase::Open {
            self.phase = Phase::Flushing { linger };
            self.reason = reason;
            self.input = Input::default();
            self.message_ns = 0;
            self.timers.cancel_all(&mut context.timers);
            self.set_alarm(context);
        }
    }

    fn end(&mut self, context: &mut Context, reset: bool, reason: CloseReason) {
        if !matches!(self.phase, Phase::Ended { .. }) {
            self.phase = Phase::Ended { reset };
            self.reason = reason;
            self.input = Input::default();
            self.outbound.clear();
            self.timers.cancel_all(&mut context.timers);
        }
    }
}
