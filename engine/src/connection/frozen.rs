//! Freezes a connection so that it can move to another worker, and thaws it there.

use super::{Connection, Host, Phase};
use crate::context::{Command, Context, Io};
use crate::handover::{Frozen, LayerState, Standing};
use crate::protocol::Protocol;
use crate::sys::payload::Payload;
use crate::types::{CannotFreeze, CloseReason, Peer, ThawError, TimerKey};

/// A connection with more timers stays where it is: this many fit into one packet together with everything else.
const TIMERS_MAX: usize = 64;

impl<S> Connection<S> {
    /// Bytes that would move with it, apart from the protocol's state.
    pub(crate) fn bytes_to_move(&self) -> usize {
        self.input.len() + self.outbound.pending()
    }

    /// Freezes the connection, and returns what another worker needs to continue it. Nothing may be in flight for it in
    /// the kernel.
    ///
    /// # Errors
    /// If the protocol keeps it, or it is about to end: then nothing changes.
    pub(crate) fn freeze<P>(&mut self, protocol: &mut P, context: &mut Context) -> Result<Frozen, CannotFreeze>
    where
        P: Protocol<Connection = S>,
    {
        let awaits_header = self.phase == Phase::Header;
        let awaits_handshake = matches!(self.phase, Phase::Handshake { .. });
        if !self.can_move() || self.outbound.is_in_flight() {
            return Err(CannotFreeze::Stays);
        }
        let timers = self.own.timers.deadlines_ns(&context.timers);
        if timers.len() > TIMERS_MAX {
            return Err(CannotFreeze::Stays);
        }
        let mut layer = LayerState::default();
        let opened_bytes = self.freeze_layer(layer.room())?;
        let mut state = Vec::new();
        if self.phase == Phase::Open {
            protocol.freeze(self.state.as_ref().ok_or(CannotFreeze::Stays)?, &mut state)?;
        }
        let output = self.outbound.copy().map_err(|_| CannotFreeze::Stays)?;
        let now_ns = context.now_ns;
        let standing = Standing {
            at_least: self.at_least,
            paused: self.paused,
            full: self.full,
            rerun: self.rerun,
            peer_ended: self.peer_ended,
            eof_told: self.eof_told,
            write_end: self.write_end,
            is_hung_up: self.is_hung_up,
            awaits_header,
            awaits_handshake,
            outbound_layer: self.outbound_layer().map(|name| Box::from(&**name)),
            opened_bytes,
            age_ns: 0,
            idle_ns: now_ns.saturating_sub(self.activity_ns),
            message_ns: (self.message_ns > 0).then(|| now_ns.saturating_sub(self.message_ns)),
            stalled_ns: now_ns.saturating_sub(self.progress_ns),
            passes: 0,
            timeouts: self.own.timers.own_timeouts(),
            timers_ns: timers.into_iter().map(|(key, at_ns)| (key.0, at_ns.saturating_sub(now_ns))).collect(),
        };
        self.own.timers.cancel_all(&mut context.timers);
        if let Some(id) = self.alarm.take() {
            context.timers.cancel(id);
        }
        self.phase = Phase::Frozen;
        let input = self.input_to_move();
        Ok(Frozen { standing, state, input, output, proxy: Vec::new(), layer })
    }

    /// Builds it from what another worker has frozen, with the layer that belongs to it. It stays frozen until
    /// [`Connection::resume`].
    ///
    /// # Errors
    /// The protocol's, and `Malformed` if it has more timers than a connection may have. It is unusable then.
    pub(crate) fn thaw<P>(
        &mut self,
        host: &mut Host<'_, P>,
        context: &mut Context,
        version: u32,
        frozen: Frozen,
        peer: Peer<'_>,
    ) -> Result<Standing, ThawError>
    where
        P: Protocol<Connection = S>,
    {
        let Frozen { standing, state, input, output, proxy: _, layer: _ } = frozen;
        self.phase = Phase::Frozen;
        self.peer_ended = standing.peer_ended;
        self.own.timers.set_timeouts(standing.timeouts.bounded());
        if standing.awaits_header || standing.awaits_handshake {
            self.input.append(&input);
            return Ok(standing);
        }
        if standing.timers_ns.len() > TIMERS_MAX {
            return Err(ThawError::Malformed);
        }
        self.outbound.push(Payload::Owned { bytes: output, sent: 0 });
        let secured = self.layered.as_ref().map(|layered| layered.layer().settled());
        let (peer, is_layered) = (Peer { secured, ..peer }, secured.is_some());
        let mut io = Io::new(context, host.others, &mut self.own, self.outbound.pending(), &[], is_layered);
        let thawed = host.protocol.thaw(version, &state, peer, &mut io);
        let written = io.finish();
        self.push_output(context, None, written);
        self.state = Some(thawed?);
        self.input.append(&input);
        if !self.set_opened(standing.opened_bytes) {
            return Err(ThawError::Malformed);
        }
        self.at_least = standing.at_least.max(1);
        self.paused = standing.paused;
        self.full |= standing.full;
        self.rerun = standing.rerun;
        self.eof_told = standing.eof_told;
        self.write_end = standing.write_end;
        self.is_hung_up = standing.is_hung_up;
        Ok(standing)
    }

    /// The connection belongs to this worker and continues.
    pub(crate) fn resume(&mut self, context: &mut Context, standing: &Standing) {
        debug_assert!(self.phase == Phase::Frozen, "resumed without having been frozen");
        self.phase = Phase::Open;
        let now_ns = context.now_ns;
        self.activity_ns = now_ns.saturating_sub(standing.idle_ns);
        // Zero would mean that no message is begun.
        self.message_ns = standing.message_ns.map_or(0, |ago_ns| now_ns.saturating_sub(ago_ns).max(1));
        self.progress_ns = now_ns.saturating_sub(standing.stalled_ns);
        if standing.awaits_header {
            self.phase = Phase::Header;
            return self.set_alarm(context);
        }
        if standing.awaits_handshake {
            return self.await_handshake(context);
        }
        for (key, left_ns) in &standing.timers_ns {
            let at_ns = now_ns.saturating_add((*left_ns).max(1));
            self.own.timers.set(TimerKey(*key), self.own.id.slot, at_ns, &mut context.timers);
        }
        if self.rerun && !self.paused && !self.full {
            self.rerun_soon(context);
        }
        // This worker's marks may be higher than those of the previous one.
        if self.full && self.outbound.pending() <= context.limits.outbound_bytes_low {
            self.full = false;
            // If it is one of a pair, the other one continues first.
            context.commands.push(Command::Writable(self.own.id));
        }
        self.set_alarm(context);
    }

    /// The connection belongs to another worker now.
    pub(crate) fn leave(&mut self, context: &mut Context) {
        debug_assert!(self.phase == Phase::Frozen, "left without having been frozen");
        self.end(context, false, CloseReason::HandedOver);
    }
}
