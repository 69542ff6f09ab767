//! Who owns a connection: one value for each connection of a worker, kept beside it in the slab.
//!
//! Invariant: a connection has exactly one owner. A worker owns it in every stage but [`Stage::Given`] and
//! [`Stage::Brought`]. [`Custody::enter`] is the one place where a stage changes, and checks that the step
//! is a legal one.

use super::mutation::{Mutation, is_put_back};

/// How often a worker may be lost while a connection is offered to it among others, before it is offered alone; where one
/// is lost then, it does not move. Few, since a worker that is lost takes all of its connections with it.
const LOSSES_IN_COMPANY: u8 = 1;

/// How many workers that leave may pass a connection on, one to the next: many, where reloads follow each other at once, but
/// not without end, since two that leave may be each other's heirs.
const PASSES_MAX: u8 = 32;

/// Where a connection stands on its way from one worker to another. From [`Stage::Stopping`] on the loop arms nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Stage {
    /// This worker serves it.
    #[default]
    Ours,
    /// Served here until its turn to move comes.
    Queued,
    /// Could not move: served here until it ends.
    Stays,
    /// Killed its heirs, or seems to have: served here until it ends.
    Quarantined,
    /// Everything in flight in the kernel was cancelled; completions are awaited.
    Stopping,
    /// Nothing is in flight.
    Still,
    /// The protocol has written its state; no callback comes any more.
    Frozen,
    /// An heir was sent everything, and may take it or not.
    Offered,
    /// The heir takes it, and is being told that it may have it.
    Giving,
    /// The heir's. Nothing is done to it here but to close the descriptor.
    Given,
    /// Made from an offer, and still the sender's.
    Brought,
}

impl Stage {
    /// Whether a connection may go from here to `next`.
    pub(super) const fn leads_to(self, next: Self) -> bool {
        use Stage::*;
        match self {
            Ours => matches!(next, Queued | Stays),
            Queued => matches!(next, Ours | Stays | Stopping),
            Stopping => matches!(next, Ours | Queued | Stays | Still),
            Still => matches!(next, Ours | Queued | Stays | Frozen),
            Frozen => matches!(next, Ours | Queued | Stays | Still | Offered),
            Offered => matches!(next, Ours | Queued | Stays | Quarantined | Frozen | Giving),
            Giving => matches!(next, Ours | Queued | Stays | Frozen | Given),
            Stays | Quarantined | Given => false,
            Brought => matches!(next, Ours),
        }
    }

    /// Whether this worker owns the connection.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) const fn is_owned(self) -> bool {
        !matches!(self, Self::Given | Self::Brought)
    }
}

/// What happens to a wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Call the protocol.
    Deliver,
    /// Kept until it is known who has the connection.
    Keep,
    /// The connection is another worker's, and what this is about is not.
    Drop,
}

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Custody {
    stage: Stage,
    /// Heirs that were lost while they had an offer of it.
    losses: u8,
    /// Workers that were leaving when they got it, since one served it last.
    passes: u8,
    /// It was woken while it was frozen.
    is_woken: bool,
}

impl Custody {
    /// Of a connection that was just made from an offer, which `passes` workers before this one have passed on. `None` where
    /// this worker leaves as well, and those were enough.
    pub(crate) fn brought(passes: u8, is_leaving: bool) -> Option<Self> {
        let passes = if is_leaving { passes.saturating_add(1) } else { 0 };
        let is_too_often = passes > PASSES_MAX && !is_put_back(Mutation::PassedForEver);
        (!is_too_often).then_some(Self { stage: Stage::Brought, losses: 0, passes, is_woken: false })
    }

    /// Workers that were leaving when they got it, one after the other.
    pub(crate) fn passes(&self) -> u8 {
        self.passes
    }

    #[inline]
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The loop arms nothing for it: it is on its way to another worker, or still another's.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.stage >= Stage::Stopping
    }

    /// Served here, and does not move: it is to be told that the worker leaves.
    pub(crate) fn stays(&self) -> bool {
        matches!(self.stage, Stage::Stays | Stage::Quarantined)
    }

    /// The one place where a stage changes.
    pub(crate) fn enter(&mut self, next: Stage) {
        debug_assert!(self.stage.leads_to(next), "custody went from {:?} to {next:?}", self.stage);
        self.stage = next;
    }

    /// The protocol is to be called.
    pub(crate) fn wake(&mut self) -> Wake {
        match self.stage {
            Stage::Frozen | Stage::Offered | Stage::Giving | Stage::Brought => {
                self.is_woken = true;
                Wake::Keep
            }
            Stage::Given => Wake::Drop,
            _ => Wake::Deliver,
        }
    }

    /// Whether it was woken while it was frozen; asked when it goes on.
    pub(crate) fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.is_woken)
    }

    /// An heir was lost that had an offer of it. `false` where it must not be offered again.
    pub(super) fn lose_heir(&mut self, was_alone: bool) -> bool {
        self.losses = self.losses.saturating_add(1);
        !(was_alone && self.losses > LOSSES_IN_COMPANY)
    }

    /// It is offered without others, so that no other suffers from what it does to an heir.
    pub(super) fn goes_alone(&self) -> bool {
        self.losses >= LOSSES_IN_COMPANY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_given_stays_given() {
        let mut custody = Custody::default();
        for stage in [Stage::Queued, Stage::Stopping, Stage::Still, Stage::Frozen, Stage::Offered, Stage::Giving] {
            assert!(custody.stage().is_owned());
            custody.enter(stage);
        }
        custody.enter(Stage::Given);
        assert!(!custody.stage().is_owned() && custody.is_held());
        let back = std::panic::catch_unwind(move || custody.enter(Stage::Ours));
        assert!(back.is_err() || !cfg!(debug_assertions), "it was given, and came back");
    }

    #[test]
    fn a_wake_is_kept_while_the_owner_is_not_known() {
        let mut custody = Custody::default();
        assert_eq!(custody.wake(), Wake::Deliver);
        [Stage::Queued, Stage::Stopping, Stage::Still].into_iter().for_each(|stage| custody.enter(stage));
        assert_eq!(custody.wake(), Wake::Deliver);
        custody.enter(Stage::Frozen);
        assert_eq!((custody.wake(), custody.wake()), (Wake::Keep, Wake::Keep));
        custody.enter(Stage::Queued);
        assert!(custody.take_wake() && !custody.take_wake());
        let mut brought = Custody::brought(0, false).expect("taken");
        assert_eq!(brought.wake(), Wake::Keep);
        brought.enter(Stage::Ours);
        assert!(brought.take_wake(), "it was about something of this worker");
    }

    #[test]
    fn workers_that_leave_pass_a_connection_on_a_few_times() {
        let mut passes = 0;
        for _ in 0..PASSES_MAX {
            passes = Custody::brought(passes, true).expect("passed on").passes();
        }
        assert_eq!(Custody::brought(passes, true), None);
        assert_eq!(Custody::brought(passes, false).map(|custody| custody.passes()), Some(0), "it is served");
    }

    #[test]
    fn heirs_may_be_lost_twice() {
        let mut custody = Custody::default();
        assert!(!custody.goes_alone());
        assert!(custody.lose_heir(false) && custody.goes_alone());
        assert!(!custody.lose_heir(true));
        let mut alone = Custody::default();
        assert!(alone.lose_heir(true), "it may have been chance");
        assert!(!alone.lose_heir(true));
    }
}
