//! The engine's time-outs of a connection: which is due next, and what happens then.
//!
//! Each connection has at most one alarm in the timer wheel. It rings at the earliest deadline or before.

use super::layered::REST_AFTER_MS;
use super::{Connection, Host, Phase};
use crate::context::{Alarm, Context};
use crate::protocol::Protocol;
use crate::types::{CloseReason, Limit};

/// The kind of a time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Idle,
    Message,
    Write,
    Linger,
    Header,
    Handshake,
    /// The layer of an idle connection gives memory back.
    Rest,
}

impl<S> Connection<S> {
    /// The engine's timer fired.
    pub(crate) fn alarm<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        self.alarm = None;
        let Some((deadline_ns, cause)) = self.deadline(context) else { return };
        if deadline_ns <= context.now_ns {
            match cause {
                Cause::Linger => self.end(context, false, self.reason),
                Cause::Header => self.end(context, true, CloseReason::ProxyHeader),
                Cause::Handshake => self.end(context, true, CloseReason::Handshake),
                Cause::Rest => self.layered.iter_mut().for_each(|layered| layered.rest()),
                Cause::Write => self.end(context, true, CloseReason::WriteTimeout),
                Cause::Message => {
                    self.message_ns = context.now_ns;
                    self.limit(host, context, Limit::Message, CloseReason::MessageTimeout);
                }
                Cause::Idle => {
                    self.activity_ns = context.now_ns;
                    self.limit(host, context, Limit::Idle, CloseReason::IdleTimeout);
                }
            }
        }
        self.set_alarm(context);
    }

    /// The earliest time-out that could end this connection, and its kind.
    fn deadline(&self, context: &Context) -> Option<(u64, Cause)> {
        let [idle_ms, message_ms, write_ms] = self.own.timers.timeouts(&context.timeouts);
        let after = |since_ns: u64, ms: u64, cause| (ms > 0).then(|| (since_ns + ms * 1_000_000, cause));
        match self.phase {
            Phase::Frozen | Phase::Ended { .. } => None,
            Phase::Header => after(self.message_ns, message_ms, Cause::Header),
            Phase::Handshake { .. } => after(self.message_ns, context.timeouts.handshake_ms, Cause::Handshake),
            Phase::Lingering => Some((self.progress_ns, Cause::Linger)),
            _ if self.outbound.pending() > 0 => after(self.progress_ns, write_ms, Cause::Write),
            Phase::Flushing { .. } => None,
            Phase::Open if self.paused => after(self.activity_ns, idle_ms, Cause::Idle),
            Phase::Open if self.rerun => None,
            Phase::Open if self.message_ns > 0 && message_ms > 0 => after(self.message_ns, message_ms, Cause::Message),
            Phase::Open if self.layered.as_ref().is_some_and(|layered| !layered.rests()) => {
                let idle = after(self.activity_ns, idle_ms, Cause::Idle);
                idle.into_iter()
                    .chain(after(self.activity_ns, REST_AFTER_MS, Cause::Rest))
                    .min_by_key(|(at_ns, _)| *at_ns)
            }
            Phase::Open => after(self.activity_ns, idle_ms, Cause::Idle),
        }
    }

    /// Ensures that the alarm rings no later than the deadline. It may ring earlier, since activity only moves
    /// deadlines away; then it is set again. So a normal request does not touch the timer wheel.
    pub(crate) fn set_alarm(&mut self, context: &mut Context) {
        let Some((deadline_ns, _)) = self.deadline(context) else { return };
        if let Some(id) = self.alarm {
            if context.timers.deadline_ns(id) <= deadline_ns + 1_000_000 {
                return;
            }
            context.timers.cancel(id);
        }
        self.alarm = Some(context.timers.set(deadline_ns, Alarm::Connection { slot: self.own.id.slot }));
    }
}
