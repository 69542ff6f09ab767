//! What becomes of the connections of workers that leave, as far as the master sees it; and those who wait for that.

use std::fmt::Write;
use std::time::Duration;

use super::Master;
use super::generation::{Generation, Phase};
use super::leave::inheritance;
use super::orphans::Orphan;
use super::successor::Successor;
use crate::ipc::channel::{self};
use crate::ipc::control::Reply;
use crate::ipc::orders::{Moved, Order};
use crate::ipc::relay::{ToNew, ToOld};
use crate::telemetry::HistogramSnapshot;

/// Since workers were last told to leave.
#[derive(Default)]
pub(super) struct Moves {
    /// The sum over workers whose connections have moved or stay.
    total: Moved,
    pauses: HistogramSnapshot,
    /// Operations whose outcome is told when all of them have.
    waiting: Vec<(u32, String)>,
    /// Workers that serve may wait for state of those that leave.
    pub(super) state_is_awaited: bool,
    /// The new master is to be told when this one's connections have moved.
    pub(super) is_owed: bool,
}

impl Moves {
    /// Counts from here.
    pub(super) fn begin(&mut self) {
        (self.total, self.pauses) = Default::default();
    }
}

impl Master<'_> {
    /// Connections of workers that leave are on their way to others.
    pub(super) fn is_moving(&self) -> bool {
        self.generations.iter().any(Generation::is_moving)
    }

    /// A worker says how far it is.
    pub(super) fn moved(&mut self, index: usize, place: usize, moved: &Moved) {
        let generation = &mut self.generations[index];
        let worker = &mut generation.slots[place];
        let (number, slot) = (generation.number, worker.index);
        if moved.is_over && std::mem::take(&mut worker.is_moving) {
            let total = &mut self.moves.total;
            total.moved += moved.moved;
            total.left += moved.left;
            total.ending += moved.ending;
            total.bytes += moved.bytes;
            total.state_bytes = match (total.state_bytes, moved.state_bytes) {
                (None, None) => None,
                (one, other) => Some(one.unwrap_or(0) + other.unwrap_or(0)),
            };
            total.took_us = total.took_us.max(moved.took_us);
            moved.refused.iter().for_each(|(refusal, count)| total.count(*refusal, *count));
            self.moves.pauses.add(&worker.page.pause.snapshot());
        }
        if *moved != (Moved { is_over: moved.is_over, took_us: moved.took_us, ..Moved::default() }) {
            self.event(Some(number), format_args!("worker {slot}: {}", describe(moved)));
        }
    }

    /// Workers that wait for state are told that none comes any more, once that is so.
    fn end_awaiting(&mut self) {
        let others_move = self.predecessor.as_ref().is_some_and(|predecessor| predecessor.is_moving)
            || self.successor.as_ref().is_some_and(Successor::is_reverted)
            || self.orphans.iter().any(Orphan::is_moving);
        if others_move || !std::mem::take(&mut self.moves.state_is_awaited) {
            return;
        }
        let serving = self.generations.iter().filter(|generation| generation.phase == Phase::Serving);
        for child in serving.flat_map(Generation::children).filter(|child| child.has_state) {
            let _ = child.control.as_ref().map(|control| channel::tell(control, &Order::Serve));
        }
    }

    /// Those whose connections are on their way are told who takes them now: a worker was started again, and another one
    /// may have died with it.
    pub(super) fn tell_heirs(&mut self) {
        let heirs = if self.serving().is_some() { self.meetings() } else { self.heirs_elsewhere.clone() };
        for generation in self.generations.iter().filter(|generation| generation.is_moving()) {
            for (place, child) in generation.children().enumerate() {
                let _ = child.control.as_ref().map(|control| channel::tell(control, &inheritance(&heirs, place)));
            }
        }
        if let Some(predecessor) = self.predecessor.as_ref().filter(|predecessor| predecessor.is_moving) {
            predecessor.tell(&ToOld::Meetings { meetings: self.meetings() });
        }
    }

    /// The outcome is told when connections have moved, where any do.
    pub(super) fn conclude_when_moved(&mut self, operation: u32, message: String) {
        self.moves.waiting.push((operation, message));
    }

    /// Tells those who wait, where nothing moves any more.
    pub(super) fn conclude_moves(&mut self) {
        if self.is_moving() {
            return;
        }
        if std::mem::take(&mut self.moves.is_owed) {
            let channel = self.successor.as_ref().map(Successor::channel).or(self.relay.as_ref());
            // One that is gone needs not know.
            let _ = channel.map(|channel| channel::tell(channel, &ToNew::Moved));
        }
        self.end_awaiting();
        if self.moves.waiting.is_empty() {
            return;
        }
        let Moves { total, pauses, waiting, .. } = &mut self.moves;
        let (total, pauses, waiting) = (std::mem::take(total), std::mem::take(pauses), std::mem::take(waiting));
        let mut of_all = String::new();
        if total.moved > 0 || total.state_bytes.is_some() || !total.refused.is_empty() {
            let _ = write!(of_all, "; {}", describe(&total));
            if pauses.count() > 0 {
                let [median, most, longest] = [0.5, 0.99, 1.0].map(|part| milliseconds(pauses.quantile(part) / 1000));
                let _ = write!(of_all, ", each held up for {median} (median), {most} (99 %), {longest} at most");
            }
        }
        for (operation, message) in waiting {
            self.conclude(operation, &Reply::Done { message: message + &of_all });
        }
    }
}

fn describe(moved: &Moved) -> String {
    let Moved { moved, left, ending, refused, bytes, state_bytes, took_us, .. } = moved;
    let plural = if *moved == 1 { "" } else { "s" };
    let mut text = format!("{moved} connection{plural} moved in {}, {bytes} bytes", milliseconds(*took_us));
    if let Some(bytes) = state_bytes {
        let _ = write!(text, ", with {bytes} bytes of state");
    }
    for (reason, count) in refused {
        let _ = write!(text, ", {count} refused: {reason}");
    }
    let _ = write!(text, ", {left} left");
    if *ending > 0 {
        let _ = write!(text, ", {ending} ending");
    }
    text
}

fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", Duration::from_micros(us).as_secs_f64() * 1e3)
}
