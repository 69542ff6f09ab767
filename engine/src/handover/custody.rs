//! Who owns a connection: one value for each connection of a worker, kept beside it in the slab.
//!
//! Invariant: a connection has exactly one owner. A worker owns it in every stage except [`Stage::Given`] and
//! [`Stage::Brought`]. [`Custody::enter`] is the only place where a stage changes, and checks that the step is legal.

use super::mutation::{Mutation, is_put_back};

/// How many workers may be lost while a connection is offered to them among others. After that it is offered alone; if
/// a worker is lost then, it does not move. The number is small, since a lost worker takes all of its connections with
/// it.
const LOSSES_IN_COMPANY: u8 = 1;

/// How many leaving workers may pass a connection on, one to the next. Many, since reloads may follow each other at
/// once; but limited, since two leaving workers may be each other's heirs.
const PASSES_MAX: u8 = 32;

/// The stage of a connection on its way from one worker to another. From [`Stage::Stopping`] on, the loop arms nothing
/// for it.
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
    /// It killed its heirs, or probably did: served here until it ends.
    Quarantined,
    /// Everything in flight in the kernel was cancelled; the worker waits for completions.
    Stopping,
    /// Nothing is in flight.
    Still,
    /// The protocol has written its state. No callback comes any more.
    Frozen,
    /// An heir got everything, and may take it or not.
    Offered,
    /// The heir takes it, and is being told that it may have it.
    Giving,
    /// It belongs to the heir. This worker only closes the descriptor.
    Given,
    /// Made from an offer, and still owned by the sender.
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
    /// The protocol is called.
    Deliver,
    /// Kept until the owner of the connection is known.
    Keep,
    /// The connection belongs to another worker, but the subject of the wake does not.
    Drop,
}

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Custody {
    stage: Stage,
    /// Heirs that were lost while they had an offer of it.
    losses: u8,
    /// Leaving workers that have got it since a worker that was not leaving served it.
    passes: u8,
    /// It was woken while it was frozen.
    is_woken: bool,
}

impl Custody {
    /// For a connection that was just made from an offer, which `passes` workers before this one have passed on. `None`
    /// if this worker is leaving as well and that is enough.
    pub(crate) fn brought(passes: u8, is_leaving: bool) -> Option<Self> {
        let passes = if is_leaving { passes.saturating_add(1) } else { 0 };
        let is_too_often = passes > PASSES_MAX && !is_put_back(Mutation::PassedForEver);
        (!is_too_often).then_some(Self { stage: Stage::Brought, losses: 0, passes, is_woken: false })
    }

    /// Number of leaving workers that got it, one after the other.
    pub(crate) fn passes(&self) -> u8 {
        self.passes
    }

    #[inline]
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The loop arms nothing for it: it is on its way to another worker, or still belongs to another one.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.stage >= Stage::Stopping
    }

    /// It is served here and does not move, so it gets the goodbye.
    pub(crate) fn stays(&self) -> bool {
        matches!(self.stage, Stage::Stays | Stage::Quarantined)
    }

    /// The only place where a stage changes.
    pub(crate) fn enter(&mut self, next: Stage) {
        debug_assert!(self.stage.leads_to(next), "custody went from {:?} to {next:?}", self.stage);
        self.stage = next;
    }

    /// Decides what happens to a call of the protocol.
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

    /// Whether it was woken while it was frozen. Call it when the connection continues.
    pub(crate) fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.is_woken)
    }

    /// An heir that had an offer of it was lost. Returns `false` if it must not be offered again.
    pub(super) fn lose_heir(&mut self, was_alone: bool) -> bool {
        self.losses = self.losses.saturating_add(1);
        !(was_alone && self.losses > LOSSES_IN_COMPANY)
    }

    /// It must be offered without others, so that no other connection suffers from what it does to an heir.
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
