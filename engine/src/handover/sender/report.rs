//! Reports to the master: how many connections have moved and, once for each order, that nothing is left to move.

use super::{Command, Phase, Sender, Table, World};
use crate::handover::Refusal;
use crate::handover::mutation::{Mutation, is_put_back};

/// Progress is reported at most this often.
const INTERVAL_NS: u64 = 200_000_000;

/// The counts of moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tally {
    pub(crate) moved: u64,
    /// Connections that stay, by reason.
    pub(crate) refused: Vec<(Refusal, u64)>,
    /// Bytes sent to heirs, apart from descriptors.
    pub(crate) bytes: u64,
    /// Bytes of the worker's own state, if it was handed over.
    pub(crate) state_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Report {
    pub(super) tally: Tally,
    /// The master waits for the end.
    pub(super) is_owed: bool,
    /// Something was counted since the last report.
    pub(super) is_changed: bool,
    pub(super) reported_ns: u64,
}

impl Tally {
    pub(super) fn count(&mut self, refusal: Refusal) {
        match self.refused.iter_mut().find(|(one, _)| *one == refusal) {
            Some((_, count)) => *count += 1,
            None => self.refused.push((refusal, 1)),
        }
    }
}

impl Report {
    pub(super) fn count(&mut self, refusal: Refusal) {
        self.is_changed = true;
        self.tally.count(refusal);
    }

    pub(super) fn due_ns(&self) -> Option<u64> {
        self.is_changed.then_some(self.reported_ns + INTERVAL_NS)
    }
}

impl Sender {
    pub(super) fn tell_progress<T: Table>(&mut self, world: &mut World<'_, T>) {
        let is_over = self.phase == Phase::Over || self.is_idle();
        let is_end = is_over && (self.report.is_owed || is_put_back(Mutation::OverIsRepeated));
        let is_due = self.report.due_ns().is_some_and(|due_ns| due_ns <= world.now_ns);
        // The last figures are reported when nothing follows.
        let is_last = self.phase == Phase::Over && self.report.is_changed;
        if is_end || is_due || is_last {
            self.report.is_owed &= !is_over;
            self.report.is_changed = false;
            self.report.reported_ns = world.now_ns;
            world.tell(Command::Report { is_over: is_end });
        }
    }
}
