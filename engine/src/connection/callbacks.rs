//! Calls of the protocol, and what the engine does with their results: queues the output, keeps the input, and carries
//! out the next step.

use std::mem;

use super::{Connection, Host, Phase, Received};
use crate::context::{Command, Context, Io, Others, Tail, Written};
use crate::handover::WriteEnd;
use crate::protocol::Protocol;
use crate::sys::file_part::FilePart;
use crate::sys::payload::Payload;
use crate::types::{CloseReason, Limit, Next, Step};

impl<S> Connection<S> {
    /// Calls the protocol with all input that waits.
    pub(super) fn run_input<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        if self.layered.is_some() {
            return self.run_sealed(host, context);
        }
        let input = mem::take(&mut self.input);
        let Some(state) = &mut self.state else { return };
        let mut io = Io::new(context, host.others, &mut self.own, self.outbound.pending(), &[], false);
        let step = host.protocol.on_data(state, input.bytes(), &mut io);
        let written = io.finish();
        assert!(step.consumed <= input.len(), "the protocol consumed {} of {} bytes", step.consumed, input.len());
        self.input = input;
        if step.consumed > 0 {
            self.input.consume(step.consumed);
            self.message_ns = if self.input.is_empty() { 0 } else { context.now_ns };
        }
        self.push_output(context, None, written);
        self.apply_step(host, context, step);
    }

    pub(super) fn keep(&mut self, context: &mut Context, bytes: &[u8], begins_message: bool) {
        self.input.append(bytes);
        if begins_message {
            self.message_ns = context.now_ns;
            self.set_alarm(context);
        }
    }

    /// Queues the output of a callback, and notes whether it is too much.
    #[inline]
    pub(super) fn push_output(&mut self, context: &mut Context, received: Option<Received<'_>>, written: Written) {
        if self.write_end != WriteEnd::Open {
            // Nothing can follow the FIN.
            context.arena.discard();
            return context.select_arena(written.was_layered);
        }
        if self.outbound.pending() == 0 {
            self.progress_ns = context.now_ns;
        }
        let was_layered = written.was_layered;
        if self.layered.is_some() {
            self.push_layered(context, &written);
        } else {
            self.push_plain(context, received, written);
        }
        context.select_arena(was_layered);
        let waits_for_room = mem::take(&mut context.waits_for_room) && self.outbound.pending() > 0;
        self.full |= waits_for_room || self.outbound.pending() > context.limits.outbound_bytes_high;
    }

    #[inline]
    fn push_plain(&mut self, context: &mut Context, received: Option<Received<'_>>, written: Written) {
        let Written { pieces, tail, .. } = written;
        for piece in pieces {
            self.outbound.push(piece);
        }
        self.outbound.push_staged(&mut context.arena);
        match (tail, received) {
            (Tail::None, _) => {}
            (Tail::Input(range), Some(Received::Lease(mut lease))) => {
                lease.narrow(range.start, range.len());
                self.outbound.push(Payload::Lease(lease));
            }
            (Tail::Input(_), _) => unreachable!("input is lent from leases only"),
            (Tail::Static(bytes), _) => self.outbound.push(Payload::Static(bytes)),
            (Tail::Counted(bytes, part), _) => {
                let (start, end) = (part.start as u32, part.end as u32);
                self.outbound.push(Payload::Counted { bytes, start, end });
            }
            (Tail::Pages(pages, place), _) => {
                self.outbound.push(Payload::File(Box::new(FilePart::new(pages, place))));
            }
        }
    }

    #[inline]
    pub(super) fn apply_step<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, step: Step)
    where
        P: Protocol<Connection = S>,
    {
        match step.next {
            Next::Keep | Next::More { .. } => {
                let at_least = if let Next::More { at_least } = step.next { at_least } else { 1 };
                self.at_least = u32::try_from(at_least.max(self.visible_len() + 1)).unwrap_or(u32::MAX);
                if self.visible_len() > 0 {
                    self.check_message_bytes(host, context);
                }
            }
            Next::Yield | Next::Pause => {
                self.at_least = 1;
                self.rerun = true;
                self.paused = step.next == Next::Pause;
                if self.paused {
                    self.set_alarm(context);
                } else if !self.full {
                    context.commands.push(Command::Rerun(self.own.id));
                }
            }
            Next::ShutdownWrite => {
                self.shut_write(context);
                self.apply_step(host, context, Step::more(step.consumed));
            }
            Next::Close | Next::Finish | Next::Abort => self.apply(context, step.next, CloseReason::Protocol),
        }
    }

    /// Does what a callback other than [`Protocol::on_data`] asked for.
    fn apply(&mut self, context: &mut Context, next: Next, reason: CloseReason) {
        if self.phase != Phase::Open {
            return;
        }
        match next {
            Next::Keep => {}
            Next::More { at_least } => {
                if self.paused || at_least as u64 != u64::from(self.at_least) {
                    self.unpause(context);
                    self.at_least = u32::try_from(at_least.max(1)).unwrap_or(u32::MAX);
                }
                self.rerun_soon(context);
            }
            Next::Yield => {
                self.unpause(context);
                self.at_least = 1;
                self.rerun_soon(context);
            }
            Next::Pause => {
                self.paused = true;
                self.rerun = true;
                self.set_alarm(context);
            }
            Next::ShutdownWrite => self.shut_write(context),
            Next::Close => self.begin_close(context, true, reason),
            Next::Finish => self.begin_close(context, false, reason),
            Next::Abort => self.end(context, true, CloseReason::Aborted),
        }
    }

    /// Makes the connection readable again. The time limit of a begun message is for the peer, so it does not run
    /// during a pause.
    fn unpause(&mut self, context: &Context) {
        if mem::take(&mut self.paused) && self.message_ns > 0 {
            self.message_ns = context.now_ns;
        }
    }

    /// Makes a FIN follow the queued output.
    fn shut_write(&mut self, context: &mut Context) {
        if self.write_end == WriteEnd::Open {
            self.push_layers_end(context);
            self.write_end = WriteEnd::Ending;
        }
    }

    pub(super) fn rerun_soon(&mut self, context: &mut Context) {
        self.rerun = true;
        if !self.full {
            context.commands.push(Command::Rerun(self.own.id));
        }
    }

    /// Runs a callback, queues its output, and does what it asked for.
    pub(super) fn call(
        &mut self,
        context: &mut Context,
        others: &mut dyn Others,
        reason: CloseReason,
        callback: impl FnOnce(&mut S, &mut Io<'_>) -> Next,
    ) {
        if self.phase != Phase::Open {
            return;
        }
        let Some(state) = &mut self.state else { return };
        let is_layered = self.layered.is_some();
        let mut io = Io::new(context, others, &mut self.own, self.outbound.pending(), &[], is_layered);
        let next = callback(state, &mut io);
        let written = io.finish();
        self.push_output(context, None, written);
        self.apply(context, next, reason);
    }

    /// As [`Connection::call`], with access to the unconsumed input.
    pub(super) fn call_with_input(
        &mut self,
        context: &mut Context,
        others: &mut dyn Others,
        reason: CloseReason,
        callback: impl FnOnce(&mut S, &[u8], &mut Io<'_>) -> Next,
    ) {
        if self.phase != Phase::Open {
            return;
        }
        let (input, visible) = self.take_input();
        self.call(context, others, reason, |state, io| callback(state, &input.bytes()[visible], io));
        if self.phase == Phase::Open {
            self.input = input;
        }
    }

    pub(super) fn on_writable<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        self.call(context, host.others, CloseReason::Protocol, |state, io| host.protocol.on_writable(state, io));
        if self.phase == Phase::Open && self.rerun && !self.paused && !self.full {
            context.commands.push(Command::Rerun(self.own.id));
        }
    }

    pub(super) fn tell_end<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        if mem::replace(&mut self.eof_told, true) {
            return;
        }
        if self.is_truncated() {
            return self.begin_close(context, false, CloseReason::Truncated);
        }
        let (input, visible) = self.take_input();
        self.drop_input();
        self.message_ns = 0;
        self.call(context, host.others, CloseReason::Peer, |state, io| {
            host.protocol.on_eof(state, &input.bytes()[visible], io)
        });
    }

    pub(super) fn limit<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, limit: Limit, reason: CloseReason)
    where
        P: Protocol<Connection = S>,
    {
        self.call_with_input(context, host.others, reason, |state, input, io| {
            host.protocol.on_limit(state, limit, input, io)
        });
    }

    pub(super) fn check_message_bytes<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        if self.visible_len() > context.limits.message_bytes_max {
            self.limit(host, context, Limit::MessageBytes, CloseReason::MessageBytes);
            // A protocol that continues here would let the peer fill the memory.
            self.begin_close(context, true, CloseReason::MessageBytes);
        }
    }
}
