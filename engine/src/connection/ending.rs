//! How connections end: by the protocol, the peer, the worker, or an error.

use std::io;
use std::time::Duration;

use super::input::Input;
use super::{Connection, Host, Phase};
use crate::context::Context;
use crate::protocol::Protocol;
use crate::types::{CloseReason, Closed, ConnectionId, Drain, Limit, Next};

/// How a connection has ended.
pub(crate) struct Ending {
    id: ConnectionId,
    reason: CloseReason,
    partner: Option<ConnectionId>,
    unread: Input,
}

impl Ending {
    /// The same for the protocol.
    pub(crate) fn closed(&self) -> Closed<'_> {
        Closed { id: self.id, reason: self.reason, partner: self.partner, unread: self.unread.bytes() }
    }
}

/// What the protocol hears of an outbound connection that has ended during its layer's handshake.
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

    /// The worker is leaving: the protocol is told once.
    pub(crate) fn drain<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, deadline: Duration)
    where
        P: Protocol<Connection = S>,
    {
        self.tell_drain(host, context, deadline, CloseReason::Drained);
    }

    /// An operator wants it to end within this time: the protocol is told as when the worker leaves, if it has it.
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
        // One that is frozen is told where it goes on.
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

    /// It is idle, and another one wants its place; whether it ends. It does without waiting for the peer.
    pub(crate) fn make_room<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context) -> bool
    where
        P: Protocol<Connection = S>,
    {
        self.limit(host, context, Limit::Connections, CloseReason::Room);
        if let Phase::Flushing { linger } = &mut self.phase {
            *linger = false;
        }
        // One that the protocol keeps is not the longest idle any more.
        self.activity_ns = context.now_ns;
        self.phase != Phase::Open
    }

    /// The drain's time is over, or the worker stops at once: no more waiting for anybody.
    pub(crate) fn stop(&mut self, context: &mut Context) {
        let has_begun = self.can_move();
        let reason = if has_begun { CloseReason::Stopped } else { self.reason };
        self.end(context, false, reason);
    }

    /// An operator wants it to end, and it has no time left.
    pub(crate) fn end_by_operator(&mut self, context: &mut Context, reset: bool) {
        let reason = if self.can_move() { CloseReason::Operator } else { self.reason };
        self.end(context, reset, reason);
    }

    /// An operator wanted it to end: where this side has ended it, that is the reason.
    pub(crate) fn was_wanted_by_operator(&mut self) {
        if matches!(self.reason, CloseReason::Protocol | CloseReason::Drained | CloseReason::Stopped) {
            self.reason = CloseReason::Operator;
        }
    }

    /// The worker has too little memory, and this one holds much of it.
    pub(crate) fn cut(&mut self, context: &mut Context) {
        self.end(context, true, CloseReason::Memory);
    }

    /// The last thing before the slot is used again; gives what [`Protocol::on_close`] is to be told, if it is.
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
