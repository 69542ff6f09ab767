//! The connections of leaving workers, as the master sees them, and the operations that wait for their moves.

use super::Core;
use super::generation::{Generation, Phase, State};
use super::lifecycle::{Lifecycle, OldStage};
use super::mutation::{Mutation, is_put_back};
use super::operations::Kind;
use super::world::World;
use crate::ipc::control::{EventKind, Moves, Outcome};
use crate::ipc::orders::{Moved, Order};
use crate::ipc::relay::{ToNew, ToOld};

/// The most workers to which one worker moves its connections: one message has room for this many.
const HEIRS_MAX: usize = 128;

/// The moves since workers last got an order to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct MovesUnderWay {
    /// The sum over workers that have reported that their connections have moved or stay.
    total: Moves,
    /// Operations whose outcome is reported when all connections have moved.
    waiting: Vec<(Kind, Outcome)>,
    /// The new master waits for a message that this one's connections have moved.
    pub(super) owes_successor: bool,
    /// The names at which workers of another master, which serves instead of this one, take connections.
    pub(super) heirs_elsewhere: Vec<String>,
}

/// Orders the worker at `place` to move its connections to the heirs. Each worker begins with a different heir.
pub(super) fn inheritance(heirs: &[String], place: usize) -> Order {
    let first = place % heirs.len().max(1);
    let (before, from) = heirs.split_at(first);
    Order::Heirs { names: from.iter().chain(before).take(HEIRS_MAX).cloned().collect() }
}

/// A worker's report in the terms of the control protocol.
fn told(moved: &Moved) -> Moves {
    let mut moves = Moves {
        moved: moved.moved,
        staying: moved.left,
        ending: moved.ending,
        bytes: moved.bytes,
        state_bytes: moved.state_bytes,
        took_us: moved.took_us,
        ..Moves::default()
    };
    moved.refused.iter().for_each(|(reason, count)| moves.count_refused(*reason, *count));
    moves
}

pub(super) fn add(total: &mut Moves, one: &Moves) {
    total.moved = total.moved.saturating_add(one.moved);
    total.staying = total.staying.saturating_add(one.staying);
    total.ending = total.ending.saturating_add(one.ending);
    total.bytes = total.bytes.saturating_add(one.bytes);
    total.state_bytes = match (total.state_bytes, one.state_bytes) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
    };
    total.took_us = total.took_us.max(one.took_us);
    one.refused.iter().for_each(|refused| total.count_refused(refused.reason, refused.connections));
}

impl Core {
    /// Whether connections of this master's workers are moving to others.
    pub(super) fn is_moving(&self) -> bool {
        self.generations.iter().any(Generation::is_moving)
    }

    /// Restarts the counts, unless workers that got an earlier order still move.
    pub(super) fn begin_moves(&mut self) {
        if !self.is_moving() {
            self.moves.total = Moves::default();
        }
    }

    /// Handles a worker's report of its progress.
    pub(super) fn moved(&mut self, world: &mut dyn World, index: usize, place: usize, moved: &Moved) {
        let moves = told(moved);
        let generation = &mut self.generations[index];
        let slot = &mut generation.slots[place];
        if moved.is_over && std::mem::take(&mut slot.is_moving) {
            add(&mut self.moves.total, &moves);
            if let Some(child) = slot.child() {
                world.count_pauses(child.process);
            }
        }
        if !moves.is_empty() {
            world.note(Some(generation.number), EventKind::WorkerMoved { slot: slot.index, moves });
        }
    }

    /// Whether workers of another master may still hand over state to the serving ones.
    fn others_may_bring_state(&self) -> bool {
        let is_sent_back = self
            .lifecycle
            .old()
            .is_some_and(|old| matches!(old.stage, OldStage::Reverting | OldStage::Relieved { .. }));
        let elder_moves = self.elder.as_ref().is_some_and(|elder| elder.is_moving);
        elder_moves || is_sent_back || self.orphans.is_moving()
    }

    /// Tells workers that wait for state that none will come any more, once that is so.
    pub(super) fn end_awaiting(&mut self, world: &mut dyn World) {
        if self.is_moving() || self.others_may_bring_state() {
            return;
        }
        let serving = self.generations.iter_mut().filter(|generation| generation.phase == Phase::Serving);
        for slot in serving.flat_map(|generation| &mut generation.slots) {
            if let State::Starting(child) = &mut slot.state
                && is_put_back(Mutation::StartingWorkerIsForgotten)
            {
                child.awaits_state = false;
            }
            if let State::Ready(child) = &mut slot.state
                && std::mem::take(&mut child.awaits_state)
            {
                world.tell(child.process, &Order::Serve);
            }
        }
    }

    /// Tells workers that are moving connections who takes them now: a worker was started again, and another one may
    /// have died with it.
    pub(super) fn tell_heirs(&mut self, world: &mut dyn World) {
        let own = self.meetings();
        let heirs = if self.serving().is_some() { own.clone() } else { self.moves.heirs_elsewhere.clone() };
        for generation in self.generations.iter().filter(|generation| generation.is_moving()) {
            for (place, child) in generation.children().enumerate().filter(|(_, child)| child.has_channel) {
                world.tell(child.process, &inheritance(&heirs, place));
            }
        }
        if self.elder.as_ref().is_some_and(|elder| elder.is_moving) {
            world.tell_old(&ToOld::Meetings { meetings: own });
        }
    }

    /// The names at which workers of this master take connections, as many as one message has room for.
    pub(super) fn meetings(&self) -> Vec<String> {
        let serving = self.generations.iter().filter(|generation| generation.phase == Phase::Serving);
        serving.flat_map(Generation::meetings).take(HEIRS_MAX).collect()
    }

    /// Where workers move connections while the generation at `index` leaves: to this master's other serving workers,
    /// else to those of the master that serves instead.
    pub(super) fn heirs(&self, index: usize) -> Vec<String> {
        let is_stopping = matches!(self.lifecycle, Lifecycle::Stopping(_));
        let serving = self.generations.iter().enumerate();
        let serving = serving.filter(|(other, one)| *other != index && one.phase == Phase::Serving && !is_stopping);
        let own: Vec<String> = serving.flat_map(|(_, generation)| generation.meetings()).collect();
        if own.is_empty() { self.moves.heirs_elsewhere.clone() } else { own }
    }

    /// Handles a new list of the workers that the new master has.
    pub(super) fn hear_meetings(&mut self, world: &mut dyn World, meetings: Vec<String>) {
        self.moves.heirs_elsewhere = meetings;
        self.tell_heirs(world);
    }

    /// Reports the outcome when connections have moved, if any are moving.
    pub(super) fn conclude_when_moved(&mut self, kind: Kind, outcome: Outcome) {
        self.moves.waiting.push((kind, outcome));
    }

    /// Drops outcomes that wait for moves: the operations were cut off.
    pub(super) fn forget_waiting(&mut self) {
        self.moves.waiting.clear();
    }

    /// Reports the present number of workers to clients that wait for a scale, although connections still move.
    pub(super) fn conclude_scales(&mut self, world: &mut dyn World) {
        if is_put_back(Mutation::ScalesShareOutcome) {
            return;
        }
        let (scales, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.moves.waiting)
            .into_iter()
            .partition(|(kind, _)| matches!(kind, Kind::Scale { .. }));
        self.moves.waiting = others;
        for (kind, mut outcome) in scales {
            if let Outcome::Scaled { moves, .. } = &mut outcome {
                *moves = self.moves.total.clone();
            }
            self.operations.conclude(world, kind, &Ok(outcome));
        }
    }

    /// Reports outcomes to waiting clients when nothing moves any more.
    pub(super) fn conclude_moves(&mut self, world: &mut dyn World) {
        if self.is_moving() {
            return;
        }
        if std::mem::take(&mut self.moves.owes_successor) {
            world.tell_new(&ToNew::Moved);
        }
        self.end_awaiting(world);
        if self.moves.waiting.is_empty() {
            return;
        }
        let total = Moves { pause: world.take_pauses(), ..std::mem::take(&mut self.moves.total) };
        for (kind, mut outcome) in std::mem::take(&mut self.moves.waiting) {
            match &mut outcome {
                Outcome::Reloaded { moves, .. } | Outcome::Scaled { moves, .. } | Outcome::Upgraded { moves, .. } => {
                    *moves = total.clone();
                }
                _ => {}
            }
            self.operations.conclude(world, kind, &Ok(outcome));
        }
    }
}
