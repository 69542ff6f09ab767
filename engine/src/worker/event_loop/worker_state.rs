//! The worker's own state moves: before its connections, which are useless without it.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EventLoop;
use super::arrivals::refusal_of;
use super::links::Other;
use crate::config::StateTooLarge;
use crate::context::Worker;
use crate::handover::sender::{Heir, Input};
use crate::handover::{Message, Refusal, VERSION};
use crate::ipc::channel::tell;
use crate::ipc::orders::Report;
use crate::ipc::worker_state::{StateReader, StateWriter};
use crate::protocol::Protocol;
use crate::sys::clock::monotonic_ns;
use crate::sys::faults::reach;
use crate::telemetry::WorkerPage;
use crate::types::StateFormat;

/// How long the receiver may take to use the state after it has read the last byte: it may have to rearrange memory.
const TAKE_MS_MAX: u64 = 20_000;

/// How often the master gets a report of the progress.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Shows the master that this worker is alive while it only moves its state, and reports the progress.
struct Beat<'a> {
    page: &'a WorkerPage,
    control: &'a OwnedFd,
    told: Cell<Instant>,
}

impl<'a> Beat<'a> {
    fn new(page: &'a WorkerPage, control: &'a OwnedFd) -> Self {
        Self { page, control, told: Cell::new(Instant::now()) }
    }

    fn alive(&self) {
        self.page.turn_at_ns.set(monotonic_ns());
    }

    fn moving(&self, bytes: u64) {
        self.alive();
        if self.told.get().elapsed() >= TOLD_EVERY {
            self.told.set(Instant::now());
            let _ = tell(self.control, &Report::StateMoves { bytes });
        }
    }
}

impl<P: Protocol> EventLoop<P> {
    pub(super) fn begin_anew(&mut self) {
        tracing::info!(slot = self.context.slot, "no state arrives; this worker starts without");
    }

    /// Gives the state to this heir, while everything else stands still.
    pub(super) fn give_state(&mut self, heir: Heir) {
        self.say_moved();
        // The messages that connections hear move with them, and need no state.
        let Some(format) = P::WORKER_STATE else { return self.tell_sender(Input::StateTaken(heir, 0)) };
        let discards = self.state_too_large == StateTooLarge::Discard;
        let estimate = self.protocol.worker_state_bytes();
        let given = if estimate > self.state_bytes_max && discards {
            Err(Refusal::TooLarge)
        } else {
            self.give_state_to(heir, format)
        };
        // The connections get all of their own time, however long the state took.
        self.context.now_ns = monotonic_ns();
        let slot = self.context.slot;
        self.tell_sender(match given {
            Ok(bytes) => {
                tracing::debug!(slot, bytes, "the worker's state was handed over");
                Input::StateTaken(heir, bytes)
            }
            Err(Refusal::TooLarge) if discards => {
                tracing::warn!(slot, bytes = estimate, "the worker's state is too large and was discarded");
                Input::StateDiscarded
            }
            Err(reason) => {
                tracing::error!(slot, %reason, "the worker's state was not handed over");
                Input::StateRefused(heir, reason)
            }
        });
    }

    fn give_state_to(&mut self, heir: Heir, format: StateFormat) -> Result<u64, Refusal> {
        let beat = Beat::new(&self.context.page, &self.control);
        let Some(channel) = self.moving.channel(Other::Heir(heir)) else { return Err(Refusal::Channel) };
        let (name, format_version) = (format.name.to_owned(), format.version);
        let begun = channel.say_waiting(&Message::State { version: VERSION, format: name, format_version }, &[]);
        begun.map_err(|_| Refusal::Channel)?;
        let moving = |bytes| beat.moving(bytes);
        let mut writer = StateWriter::new(channel, &moving, self.state_bytes_max);
        reach("sender:state");
        let written = self.protocol.freeze_worker(&mut writer);
        let (bytes, is_too_large) = (writer.bytes(), writer.is_too_large());
        writer.end(written.is_ok()).map_err(|_| Refusal::Channel)?;
        let answer = channel.hear_waiting(TAKE_MS_MAX, &|| beat.alive());
        reach("sender:state_given");
        match (written, answer) {
            _ if is_too_large => Err(Refusal::TooLarge),
            (Err(_), _) => Err(Refusal::Protocol),
            (Ok(()), Ok((Message::StateTaken { refused: None }, _))) => Ok(bytes),
            (Ok(()), Ok((Message::StateTaken { refused: Some(refusal) }, _))) => Err(refusal),
            (Ok(()), _) => Err(Refusal::Channel),
        }
    }

    /// Takes the state that a leaving worker brings.
    ///
    /// # Errors
    /// If that worker is gone.
    pub(super) fn take_state(
        &mut self,
        other: Other,
        version: u32,
        format: &str,
        format_version: u32,
    ) -> io::Result<()> {
        let is_leaving = self.lifecycle.is_leaving() && !self.lifecycle.awaits_state();
        let page = Arc::clone(&self.context.page);
        let beat = Beat::new(&page, &self.control);
        let Some(channel) = self.moving.channel(other) else { return Ok(()) };
        reach("receiver:state");
        let moving = |bytes| beat.moving(bytes);
        let mut reader = StateReader::new(channel, &moving, self.state_bytes_max);
        let refused = if version != VERSION {
            Some(Refusal::Version)
        } else if P::WORKER_STATE.is_none_or(|own| own.name != format) {
            Some(Refusal::Format)
        } else if is_leaving {
            Some(Refusal::Leaving)
        } else {
            let mut all = self.slab.all();
            let mut worker = Worker::new(&mut self.context, &self.inbox, &mut all);
            match self.protocol.thaw_worker(format_version, &mut reader, &mut worker) {
                Ok(()) => None,
                Err(_) if reader.is_too_large() => {
                    tracing::error!(slot = worker.slot(), "the previous worker's state is larger than state_bytes_max");
                    Some(Refusal::TooLarge)
                }
                Err(error) => {
                    tracing::error!(slot = worker.slot(), %error, "the previous worker's state cannot be used");
                    Some(refusal_of(error))
                }
            }
        };
        let rest = reader.skip_rest();
        reach("receiver:state_read");
        // The other side does the same.
        self.context.now_ns = monotonic_ns();
        match rest {
            // An incomplete state ends with an error, and the other side knows.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            // The other side is late, or sends what it must not. Its next bytes would be misread.
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        channel.say_waiting(&Message::StateTaken { refused }, &[])?;
        if refused.is_none() {
            self.lifecycle.end_awaiting();
        }
        Ok(())
    }
}
