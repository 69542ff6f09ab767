//! The state that the handlers of one worker share.

use std::io;

use baton::{SystemCalls, TimerKey, Worker};

use crate::later::Message;
use crate::record::Record;

/// The state that the handlers of one worker share: any type of yours. A worker runs on one thread, so the state needs no lock.
/// Workers are processes, so they share no state with each other.
pub trait State: 'static {
    /// The system calls that handlers, and the threads that they start, may make while the sandbox is on.
    const SYSTEM_CALLS: SystemCalls = SystemCalls::Usual;

    /// Called once in the worker, before its first connection: see [`baton::Protocol::on_start`].
    ///
    /// # Errors
    /// Ends the start of the worker.
    fn on_start(&mut self, worker: &mut Worker<'_, Message>) -> io::Result<()> {
        let _ = worker;
        Ok(())
    }

    /// A timer set with [`Worker::set_timer`] expired.
    fn on_timer(&mut self, key: TimerKey, worker: &mut Worker<'_, Message>) {
        let _ = (key, worker);
    }

    /// Whether [`State::on_answer`] is called. The library asks once, after [`State::on_start`].
    fn wants_records(&self) -> bool {
        false
    }

    /// A request was answered: for an access log. Called for each, so it should only keep what it needs.
    fn on_answer(&mut self, record: &Record<'_>) {
        let _ = record;
    }

    /// All events of a turn of the loop are handled; see [`baton::Protocol::on_turn_end`].
    fn on_turn_end(&mut self, worker: &mut Worker<'_, Message>) {
        let _ = worker;
    }
}

impl State for () {
    const SYSTEM_CALLS: SystemCalls = SystemCalls::ServeOnly;
}
