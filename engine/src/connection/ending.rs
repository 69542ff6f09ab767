//! How connections end: by the protocol, the peer, the worker, or an error.

use std::io;
use std::time::Duration;

use super::input::Input;
use super::{Connection, Host, Phase};
use crate::context::Context;
use crate::protocol::Protocol;
use crate::sys::payload::Payload;
use crate::types::{CloseReason, Closed, ConnectionId, Drain, Limit, Next};

/// How a connection has ended.
pub(crate) struct Ending {
    id: ConnectionId,
    reason: CloseReason,
    partner: Option<ConnectionId>,
    unread: Input,
}

impl Ending {
    /// Converts this for the protocol.
    pub(crate) fn closed(&self) -> Closed<'_> {
        Closed { id: self.id, reason: self.reason, partner: self.partner, unread: self.unread.bytes() }
    }
}

/// The error that the protocol gets for an outbound connection that has ended during its layer's handshake.
pub(crate) fn handshake_error(reason: CloseReason) -> io::Error {
    match reason {
        CloseReason::Reset => io::ErrorKind::ConnectionReset.into(),
        CloseReason::Handshake => io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the handshake of the connection's layer has failed, or was not over in time",
        ),
        reason => io::Error::new(
            io::ErrorKind::ConnectionAborted,
            format!("the connection ended during the handshake of its layer ({})", reason.name()),
        ),
    }
}

impl<S> Connection<S> {
    /// Receiving or sending failed: the connection is gone.
    pub(crate) fn fail(&mut self, context: &mut Context) {
        let has_begun = self.can_move();
        let reason = if has_begun { CloseReason::Reset } else { self.reason };
        self.end(context, false, reason);
    }

    /// The send of `payload` failed with this errno. If its bytes are in a file that cannot be read, or that has become
    /// shorter, the peer gets a reset, so that it cannot take what it has for all.
    pub(crate) fn send_failed(&mut self, context: &mut Context, payload: Payload, error: i32) {
        let is_of_file = matches!(payload, Payload::File(_)) && !matches!(error, libc::EPIPE | libc::ECONNRESET);
        self.send_ended(payload);
        if is_of_file {
            self.end(context, true, CloseReason::Aborted);
        } else {
            self.fail(context);
        }
    }

    /// The worker is leaving: tells the protocol once.
    pub(crate) fn drain<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, deadline: Duration)
    where
        P: Protocol<Connection = S>,
    {
        self.tell_drain(host, context, deadline, CloseReason::Drained);
    }

    /// An operator wants to end the connection within this time: tells the protocol, as when the worker leaves, if it
    /// knows the connection.
    pub(crate) fn close_by_operator<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, time: Duration)
    where
        P: Protocol<Connection = S>,
    {
        if matches!(self.phase, Phase::Header | Phase::Handshake { .. }) {
            self.end(context, false, CloseReason::Operator);
        }
        self.tell_drain(host, context, time, CloseReason::Operator);
    }

    fn tell_drain<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, time: Duration, reason: CloseReason)
    where
        P: Protocol<Connection = S>,
    {
        // A frozen connection is told where it continues.
        if self.own.is_told || self.phase != Phase::Open {
            return;
        }
        self.own.is_told = true;
        self.call_with_input(context, host.others, reason, |state, input, io| {
            match host.protocol.on_drain(state, time, input, io) {
                Drain::Close => Next::Close,
                Drain::Wait => Next::Keep,
            }
        });
    }

    /// The connection is idle, and a new one needs its place. Returns whether it ends, which it does without waiting
    /// for the peer.
    pub(crate) fn make_room<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context) -> bool
    where
        P: Protocol<Connection = S>,
    {
        self.limit(host, context, Limit::Connections, CloseReason::Room);
        if let Phase::Flushing { linger } = &mut self.phase {
            *linger = false;
        }
        // A connection that the protocol keeps is not the longest idle one any more.
        self.activity_ns = context.now_ns;
        self.phase != Phase::Open
    }

    /// Ends the connection without further waiting: the drain time is over, or the worker stops at once.
    pub(crate) fn stop(&mut self, context: &mut Context) {
        let has_begun = self.can_move();
        let reason = if has_begun { CloseReason::Stopped } else { self.reason };
        self.end(context, false, reason);
    }

    /// Ends the connection for an operator: its time is over.
    pub(crate) fn end_by_operator(&mut self, context: &mut Context, reset: bool) {
        let reason = if self.can_move() { CloseReason::Operator } else { self.reason };
        self.end(context, reset, reason);
    }

    /// An operator asked for the end: if this side has ended the connection, that is the reason.
    pub(crate) fn was_wanted_by_operator(&mut self) {
        if matches!(self.reason, CloseReason::Protocol | CloseReason::Drained | CloseReason::Stopped) {
            self.reason = CloseReason::Operator;
        }
    }

    /// Ends the connection because the worker has too little memory and this connection holds much of it.
    pub(crate) fn cut(&mut self, context: &mut Context) {
        self.end(context, true, CloseReason::Memory);
    }

    /// The last step before the slot is reused. Returns what [`Protocol::on_close`] gets, if the protocol knows the
    /// connection.
    pub(crate) fn close(&mut self, context: &mut Context) -> Option<(S, Ending)> {
        assert!(matches!(self.phase, Phase::Ended { .. }), "closed before it ended");
        self.own.timers.cancel_all(&mut context.timers);
        if let Some(id) = self.alarm.take() {
            context.timers.cancel(id);
        }
        let unread = self.take_visible();
        let (id, reason) = (self.own.id, self.reason);
        let partner = context.pairs.part(id);
        self.state.take().map(|state| (state, Ending { id, reason, partner, unread }))
    }

    pub(super) fn begin_close(&mut self, context: &mut Context, linger: bool, reason: CloseReason) {
        if matches!(self.phase, Phase::Open | Phase::Handshake { .. }) {
            self.push_layers_end(context);
            self.phase = Phase::Flushing { linger };
            self.reason = reason;
            self.drop_input();
            self.message_ns = 0;
            self.own.timers.cancel_all(&mut context.timers);
            self.set_alarm(context);
        }
    }

    pub(super) fn end(&mut self, context: &mut Context, reset: bool, reason: CloseReason) {
        if !matches!(self.phase, Phase::Ended { .. }) {
            self.phase = Phase::Ended { reset };
            self.reason = reason;
            self.outbound.clear();
            self.own.timers.cancel_all(&mut context.timers);
        }
    }
}
