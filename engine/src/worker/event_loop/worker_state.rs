//! The worker's own state moves: before its connections, which are useless without it.

use std::io;
use std::sync::Arc;

use super::EventLoop;
use crate::config::StateTooLarge;
use crate::context::{Alarm, Worker};
use crate::handover::{Message, Refusal, VERSION};
use crate::ipc::worker_state::{StateReader, StateWriter};
use crate::protocol::Protocol;
use crate::sys::clock::monotonic_ns;
use crate::sys::faults::reach;
use crate::types::{StateFormat, ThawError};

/// A worker that waits for the state of one that leaves waits so long at most.
const AWAIT_MS_MAX: u64 = 10_000;

/// The state is used so long after its last byte was read: memory may have to be set in order.
const TAKE_MS_MAX: u64 = 20_000;

impl<P: Protocol> EventLoop<P> {
    /// Lets nobody in before the state of the worker that leaves has come, where the protocol has some.
    pub(super) fn await_state(&mut self) {
        if P::WORKER_STATE.is_some() {
            self.awaits_state = true;
            self.context.timers.set(self.context.now_ns + AWAIT_MS_MAX * 1_000_000, Alarm::State);
        }
    }

    /// It has come, or will not.
    pub(super) fn end_awaiting(&mut self, has_come: bool) {
        if std::mem::take(&mut self.awaits_state) && !has_come {
            tracing::info!(slot = self.context.slot, "no state comes; this worker begins anew");
        }
    }

    /// Everything stands still: gives the state to the first worker that takes it, and to no other its connections.
    ///
    /// # Errors
    /// Where none takes it: this worker still has it.
    pub(super) fn give_state(&mut self) -> Result<(), Refusal> {
        let Some(format) = P::WORKER_STATE else { return Ok(()) };
        let estimate = self.protocol.worker_state_bytes();
        if estimate > self.state_bytes_max && self.state_too_large == StateTooLarge::Discard {
            tracing::warn!(
                slot = self.context.slot,
                bytes = estimate,
                "the worker's state is too large, and discarded"
            );
            return Ok(());
        }
        let mut refusal = Refusal::Channel;
        for place in 0..self.moving.departures() {
            match self.give_state_to(place, format) {
                Ok(bytes) => {
                    self.moving.tally.state_bytes = Some(bytes);
                    tracing::debug!(slot = self.context.slot, bytes, "the worker's state was handed over");
                    self.keep_departure(place);
                    return Ok(());
                }
                Err(Refusal::TooLarge) if self.state_too_large == StateTooLarge::Discard => {
                    tracing::warn!(slot = self.context.slot, "the worker's state is too large, and discarded");
                    return Ok(());
                }
                Err(reason) => {
                    refusal = reason;
                    tracing::error!(slot = self.context.slot, %reason, "the worker's state was not handed over");
                }
            }
        }
        Err(refusal)
    }

    fn give_state_to(&mut self, place: usize, format: StateFormat) -> Result<u64, Refusal> {
        let page = &self.context.page;
        let Some(channel) = self.moving.departure(place) else { return Err(Refusal::Channel) };
        let beat = || page.turn_at_ns.set(monotonic_ns());
        let (name, format_version) = (format.name.to_owned(), format.version);
        let begun = channel.say_waiting(&Message::State { version: VERSION, format: name, format_version }, &[]);
        begun.map_err(|_| Refusal::Channel)?;
        let mut writer = StateWriter::new(channel, &beat, self.state_bytes_max);
        reach("sender:state");
        let written = self.protocol.freeze_worker(&mut writer);
        let (bytes, is_too_large) = (writer.bytes(), writer.is_too_large());
        writer.end(written.is_ok()).map_err(|_| Refusal::Channel)?;
        let answer = channel.hear_waiting(TAKE_MS_MAX, &beat);
        reach("sender:state_given");
        match (written, answer) {
            _ if is_too_large => Err(Refusal::TooLarge),
            (Err(_), _) => Err(Refusal::Protocol),
            (Ok(()), Ok((Message::StateTaken { refused: None }, _))) => Ok(bytes),
            (Ok(()), Ok((Message::StateTaken { refused: Some(refusal) }, _))) => Err(refusal),
            (Ok(()), _) => Err(Refusal::Channel),
        }
    }

    /// A worker that leaves brings its state.
    ///
    /// # Errors
    /// Where it is gone.
    pub(super) fn take_state(
        &mut self,
        place: usize,
        version: u32,
        format: &str,
        format_version: u32,
    ) -> io::Result<()> {
        let is_leaving = self.drain_deadline_ns.is_some() && !self.awaits_state;
        let page = Arc::clone(&self.context.page);
        let Some(channel) = self.moving.visitor(place) else { return Ok(()) };
        let beat = || page.turn_at_ns.set(monotonic_ns());
        reach("receiver:state");
        let mut reader = StateReader::new(channel, &beat);
        let refused = if version != VERSION {
            Some(Refusal::Version)
        } else if P::WORKER_STATE.is_none_or(|own| own.name != format) {
            Some(Refusal::Format)
        } else if is_leaving {
            Some(Refusal::Leaving)
        } else {
            let mut worker = Worker::new(&mut self.context, &self.inbox);
            match self.protocol.thaw_worker(format_version, &mut reader, &mut worker) {
                Ok(()) => None,
                Err(ThawError::Version(_)) => Some(Refusal::Format),
                Err(error) => {
                    tracing::error!(slot = worker.slot(), %error, "the state of the worker before cannot be used");
                    Some(Refusal::State)
                }
            }
        };
        // One that was not whole ends with an error, and the other side knows.
        let _ = reader.skip_rest();
        reach("receiver:state_read");
        channel.say_waiting(&Message::StateTaken { refused }, &[])?;
        if refused.is_none() {
            self.end_awaiting(true);
        }
        Ok(())
    }
}
