//! One connection as a state machine: input, output, limits, closing. Pure: the worker's loop drives it on the ring,
//! and the harness without a kernel.
//!
//! A connection of a proxy begins in `Header`, one with a layer in `Handshake`, any other in `Open`. Phases only go
//! forward: `Header` → `Handshake` → `Open` → `Flushing` → `Lingering` → `Ended`, or straight to `Ended` on an error.
//! In `Ended`, the connection only waits until nothing is in flight in the kernel, and is then closed. From the first
//! three phases it goes to `Frozen` and back, or from `Frozen` to `Ended` when another worker has the connection.

mod callbacks;
mod deadlines;
mod ending;
mod frozen;
mod host;
mod input;
mod layered;
mod others;
mod outbound;
#[cfg(test)]
mod tests;

pub(crate) use self::ending::{Ending, handshake_error};
pub(crate) use self::host::Host;
use self::input::Input;
use self::layered::Layered;
pub(crate) use self::others::{Place, Rest};
use self::outbound::Outbound;
use crate::config::ConnectionTimeouts;
use crate::context::timer_wheel::TimerId;
use crate::context::{Context, Io, Own, Timers};
use crate::handover::WriteEnd;
use crate::protocol::Protocol;
use crate::proxy::ProxyHeader;
use crate::sys::buffer_ring::Lease;
use crate::sys::payload::Payload;
use crate::types::{CloseReason, ConnectionId, Peer, Reject, TimerKey};

/// The part of a worker's memory limit that a handshake uses. With rustls it is 3 KB, and what its library allocates in
/// C.
const HANDSHAKE_HELD_BYTES: usize = 8 * 1024;

/// While a connection waits for its next turn, reading continues until this much input waits.
const YIELDED_INPUT_BYTES_MAX: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The proxy's header has not arrived: the protocol does not know of the connection.
    Header,
    /// The handshake of the layer is not done, or has just been done: the protocol does not know of the connection.
    Handshake {
        is_done: bool,
    },
    Open,
    /// Between two workers: nothing happens to it until its owner is known.
    Frozen,
    /// The protocol gets no more input, and output is being sent. Then FIN; with `linger`, also wait for the peer's
    /// FIN.
    Flushing {
        linger: bool,
    },
    /// FIN is sent; input is discarded until the peer's FIN.
    Lingering,
    /// To be closed as soon as nothing is in flight for it in the kernel; with `reset`, by a reset.
    Ended {
        reset: bool,
    },
}

/// What the driver should do besides receiving and sending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    /// Call [`Connection::open`], or [`Connection::await_handshake`] if there is a layer: the proxy's header has
    /// arrived.
    Announced(Box<ProxyHeader>),
    /// Call [`Connection::open`]: the layer's handshake is over.
    Open,
    /// Send FIN; keep receiving.
    ShutdownWrite,
    /// End all operations in flight, then close, with `reset` by a reset.
    Close {
        reset: bool,
    },
}

/// What to watch for on a socket that is not being received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// FIN, or a reset.
    End,
    /// A reset.
    Reset,
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

/// A connection.
pub(crate) struct Connection<S> {
    /// `None` before it opened and after it closed.
    state: Option<S>,
    /// Unconsumed input.
    input: Input,
    outbound: Outbound,
    /// The layer between its bytes and the protocol.
    layered: Option<Box<Layered>>,
    own: Own,
    alarm: Option<TimerId>,
    /// Bytes of input to wait for before the protocol is called again.
    at_least: u32,
    phase: Phase,
    reason: CloseReason,
    /// The protocol has paused it.
    paused: bool,
    /// Output rose above the high-water mark and has not fallen below the low one.
    full: bool,
    /// The protocol must be called again with the input that it left.
    rerun: bool,
    /// The peer has sent FIN.
    peer_ended: bool,
    /// The protocol knows of that FIN.
    eof_told: bool,
    write_end: WriteEnd,
    /// The peer has sent FIN after bytes that were not received yet, and the protocol knows of it.
    is_hung_up: bool,
    /// When input last arrived or output last ended.
    activity_ns: u64,
    /// When the first byte of the message in `input` arrived; 0 if none is begun.
    message_ns: u64,
    /// When the peer last took output, while there is some; in `Lingering`, the deadline.
    progress_ns: u64,
}

impl<S> Connection<S> {
    /// A connection for which [`Connection::open`] has not been called.
    pub(crate) fn new(id: ConnectionId, now_ns: u64) -> Self {
        Self {
            state: None,
            input: Input::default(),
            outbound: Outbound::default(),
            layered: None,
            own: Own { id, timers: Timers::default(), held_bytes: 0, is_told: false, label: 0 },
            alarm: None,
            at_least: 1,
            phase: Phase::Open,
            reason: CloseReason::Protocol,
            paused: false,
            full: false,
            rerun: false,
            peer_ended: false,
            eof_told: false,
            write_end: WriteEnd::Open,
            is_hung_up: false,
            activity_ns: now_ns,
            message_ns: 0,
            progress_ns: now_ns,
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.own.id
    }

    /// Waits for a proxy's header, before [`Connection::open`].
    pub(crate) fn await_header(&mut self, context: &mut Context) {
        self.phase = Phase::Header;
        self.message_ns = context.now_ns;
        self.set_alarm(context);
    }

    /// Whether it is not about to end.
    pub(crate) fn can_move(&self) -> bool {
        matches!(self.phase, Phase::Header | Phase::Handshake { .. } | Phase::Open)
    }

    /// Refuses a peer that is not a trusted proxy.
    pub(crate) fn refuse(&mut self, context: &mut Context) {
        self.end(context, true, CloseReason::ProxyHeader);
    }

    /// When input last arrived or output last ended; before that, when it opened.
    pub(crate) fn activity_ns(&self) -> u64 {
        self.activity_ns
    }

    /// Whether the protocol has it, and it is not about to end.
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the proxy's header is still missing.
    pub(crate) fn awaits_header(&self) -> bool {
        self.phase == Phase::Header
    }

    /// Whether it is between two workers.
    pub(crate) fn is_frozen(&self) -> bool {
        self.phase == Phase::Frozen
    }

    /// Whether it is open, here or while it moves to another worker.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Frozen)
    }

    /// Whether it is certain to end, and only waits for the last bytes and the peer's FIN.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Flushing { .. } | Phase::Lingering)
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// Bytes of memory that are held for it: input, output, and what the protocol has reported.
    #[inline]
    pub(crate) fn held_bytes(&self) -> usize {
        let of_handshake = if matches!(self.phase, Phase::Handshake { .. }) { HANDSHAKE_HELD_BYTES } else { 0 };
        self.input.capacity() + self.outbound.held_bytes() + self.own.held_bytes as usize + of_handshake
    }

    /// Applies the settings of the listener at which it arrived.
    pub(crate) fn set_listener(&mut self, timeouts: ConnectionTimeouts, label: u8) {
        self.own.timers.set_timeouts_of_listener(timeouts);
        self.own.label = label;
    }

    /// When its peer last took output, or last sent something if there is no output.
    pub(crate) fn progress_ns(&self) -> u64 {
        if self.outbound.pending() > 0 { self.progress_ns } else { self.activity_ns }
    }

    /// Whether it is between two messages, as far as the engine knows.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = self.paused || self.rerun;
        self.phase == Phase::Open && !waits && self.input.is_empty() && self.outbound.pending() == 0
    }

    /// Whether the protocol has left input that it wants to see again without new bytes.
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
            Phase::Handshake { .. } => self.wants_handshake_input(),
            Phase::Frozen | Phase::Ended { .. } => false,
        }
    }

    /// Whether [`Connection::begin_send`] would return something.
    #[inline]
    pub(crate) fn wants_output(&self) -> bool {
        self.outbound.can_send() && !matches!(self.phase, Phase::Frozen | Phase::Ended { .. })
    }

    /// Whether the send that [`Connection::begin_send`] has just returned is the last, with nothing to wait for after
    /// it. If nothing else is in flight, the driver may then close together with it. Never
    /// for a part of a file.
    pub(crate) fn ends_with_send(&self, payload: &Payload) -> bool {
        let is_last = self.phase == Phase::Flushing { linger: false } && self.outbound.pending() == payload.len();
        is_last && !matches!(payload, Payload::File(_))
    }

    /// What else the driver must do. Each action except `Close` is returned once.
    pub(crate) fn next_action(&mut self, context: &mut Context) -> Action {
        match self.phase {
            Phase::Header => self.look_at_header(context),
            Phase::Handshake { is_done: true } => {
                self.phase = Phase::Open;
                self.message_ns = if self.input.is_empty() { 0 } else { context.now_ns };
                Action::Open
            }
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
            Phase::Open if self.write_end == WriteEnd::Ending && self.outbound.pending() == 0 => {
                self.write_end = WriteEnd::Ended;
                Action::ShutdownWrite
            }
            // Neither side will send anything more.
            Phase::Open if self.write_end == WriteEnd::Ended && self.eof_told => {
                self.end(context, false, CloseReason::Peer);
                Action::Close { reset: false }
            }
            Phase::Ended { reset } => Action::Close { reset },
            _ => Action::Nothing,
        }
    }

    /// What to send now. Report its end with [`Connection::sent`].
    #[inline]
    pub(crate) fn begin_send(&mut self, context: &mut Context) -> Option<Payload> {
        let payload = self.outbound.begin_send()?;
        self.progress_ns = context.now_ns;
        if !payload.is_shared() {
            self.set_alarm(context);
        }
        Some(payload)
    }

    /// The connection is established.
    pub(crate) fn open<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, peer: Peer<'_>)
    where
        P: Protocol<Connection = S>,
    {
        let token = self.take_token().or(peer.token);
        let layer = self.layered.as_ref().map(|layered| layered.layer().settled());
        let peer = Peer { secured: layer, token, ..peer };
        let is_layered = layer.is_some();
        let mut io = Io::new(context, host.others, &mut self.own, self.outbound.pending(), &[], is_layered);
        let opened = host.protocol.on_open(peer, &mut io);
        let written = io.finish();
        self.push_output(context, None, written);
        match opened {
            Ok(state) => {
                self.state = Some(state);
                // Bytes that arrived after the header of a proxy.
                if !self.input.is_empty() || self.peer_ended {
                    self.rerun_soon(context);
                }
                self.set_alarm(context);
            }
            Err(Reject::Close) => self.begin_close(context, true, CloseReason::Aborted),
            Err(Reject::Abort) => self.end(context, true, CloseReason::Aborted),
        }
    }

    /// Handles bytes that arrived. If it `waits`, the protocol gets them only with [`Connection::run_again`].
    #[inline]
    pub(crate) fn receive<P>(
        &mut self,
        host: &mut Host<'_, P>,
        context: &mut Context,
        received: Received<'_>,
        waits: bool,
    ) where
        P: Protocol<Connection = S>,
    {
        self.activity_ns = context.now_ns;
        if self.phase != Phase::Open {
            match self.phase {
                Phase::Header => self.input.append(received.bytes()),
                Phase::Handshake { .. } => self.receive_for_handshake(context, received.bytes()),
                _ => {}
            }
            return;
        }
        if self.alarm.is_none() {
            self.set_alarm(context);
        }
        if self.layered.is_some() {
            return self.receive_sealed(host, context, received, waits);
        }
        let is_blocked = self.paused || self.full || self.rerun;
        let length = received.bytes().len();
        if !is_blocked && !waits && self.input.is_empty() && length >= self.at_least as usize {
            let Some(state) = &mut self.state else { return };
            let lendable = match &received {
                Received::Lease(lease) if context.may_lease => lease.bytes(),
                _ => &[],
            };
            let mut io = Io::new(context, host.others, &mut self.own, self.outbound.pending(), lendable, false);
            let step = host.protocol.on_data(state, received.bytes(), &mut io);
            let written = io.finish();
            assert!(step.consumed <= length, "the protocol consumed {} of {length} bytes", step.consumed);
            if step.consumed < length {
                self.keep(context, &received.bytes()[step.consumed..], true);
            }
            self.push_output(context, Some(received), written);
            self.apply_step(host, context, step);
        } else {
            self.keep(context, received.bytes(), self.input.is_empty());
            drop(received);
            if is_blocked {
                self.rerun |= self.paused || self.full;
            } else if self.input.len() >= self.at_least as usize {
                if waits {
                    self.rerun_soon(context);
                } else {
                    self.run_input(host, context);
                }
            } else {
                self.check_message_bytes(host, context);
            }
        }
    }

    /// Handles the peer's FIN.
    pub(crate) fn receive_end<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        self.peer_ended = true;
        match self.phase {
            Phase::Open if self.rerun => {}
            Phase::Open => self.tell_end(host, context),
            Phase::Lingering => self.end(context, false, self.reason),
            Phase::Handshake { .. } => self.rerun_soon(context),
            Phase::Header | Phase::Frozen | Phase::Flushing { .. } | Phase::Ended { .. } => {}
        }
    }

    /// Whether the driver must watch for the end of the peer because it is not receiving: the protocol has paused the
    /// connection, or the peer has sent FIN, after which it can only reset.
    #[inline]
    pub(crate) fn wants_watch(&self) -> Option<Watch> {
        match self.phase {
            Phase::Open if self.peer_ended || self.is_hung_up => Some(Watch::Reset),
            Phase::Open if self.paused => Some(Watch::End),
            _ => None,
        }
    }

    /// Handles the FIN of a peer that is not being received from.
    pub(crate) fn hang_up<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        if self.phase == Phase::Open && !self.peer_ended && !std::mem::replace(&mut self.is_hung_up, true) {
            self.call(context, host.others, CloseReason::Protocol, |state, io| host.protocol.on_hang_up(state, io));
        }
    }

    /// The send of `payload` has ended, and the kernel took `count` bytes.
    #[inline]
    pub(crate) fn sent<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, payload: Payload, count: usize)
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
            self.on_writable(host, context);
        }
    }

    /// Takes back a send's memory after the connection has ended.
    pub(crate) fn send_ended(&mut self, payload: Payload) {
        let count = payload.len();
        self.outbound.sent(payload, count);
    }

    /// Handles a timer of the protocol that fired.
    pub(crate) fn timer<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, key: TimerKey)
    where
        P: Protocol<Connection = S>,
    {
        self.own.timers.fired(key);
        self.call(context, host.others, CloseReason::Protocol, |state, io| host.protocol.on_timer(state, key, io));
    }

    /// The peer had taken enough output while the connection was moving.
    pub(crate) fn writable<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        if !self.full {
            self.on_writable(host, context);
        }
    }

    /// Calls [`Protocol::on_wake`].
    pub(crate) fn wake<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        self.call(context, host.others, CloseReason::Protocol, |state, io| host.protocol.on_wake(state, io));
    }

    /// Runs the next turn of a connection that has input left to handle.
    pub(crate) fn run_again<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        if self.phase == (Phase::Handshake { is_done: false }) {
            return self.shake_hands(context);
        }
        if self.phase != Phase::Open || self.paused || self.full || !self.rerun {
            return;
        }
        self.rerun = false;
        if self.layered.is_some() {
            self.run_sealed(host, context);
        } else if !self.input.is_empty() && self.input.len() >= self.at_least as usize {
            self.run_input(host, context);
        }
        if self.phase == Phase::Open && self.peer_ended && !self.rerun {
            self.tell_end(host, context);
        }
        self.set_alarm(context);
    }

    #[cold]
    fn look_at_header(&mut self, context: &mut Context) -> Action {
        match ProxyHeader::parse(self.input.bytes()) {
            Ok(Some(header)) => {
                self.input.consume(header.as_bytes().len());
                self.phase = Phase::Open;
                self.message_ns = if self.input.is_empty() { 0 } else { context.now_ns };
                return Action::Announced(Box::new(header));
            }
            Ok(None) if !self.peer_ended => return Action::Nothing,
            // A peer has only checked whether the port is open.
            Ok(None) if self.input.is_empty() => self.end(context, false, CloseReason::Peer),
            Ok(None) | Err(_) => self.end(context, true, CloseReason::ProxyHeader),
        }
        self.next_action(context)
    }
}
