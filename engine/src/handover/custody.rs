//! Who has a connection: one value for each connection of a worker, kept beside it in the slab.
//!
//! Invariant: a connection has exactly one owner. A worker owns it in every stage but [`Stage::Given`] and
//! [`Stage::Brought`]. [`Custody::enter`] is the one place where a stage changes, and checks that the step
//! is a legal one.

/// How often a worker may be lost while a connection is offered to it, before that connection is offered alone.
const LOSSES_IN_COMPANY: u8 = 2;

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
    pub(crate) const fn is_owned(self) -> bool {
        !matches!(self, Self::Given | Self::Brought)
    }
}

/// What becomes of a wake.
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
    /// Somebody woke it while it was frozen.
    is_woken: bool,
}

impl Custody {
    /// Of a connection that was just made from an offer.
    pub(crate) const BROUGHT: Self = Self { stage: Stage::Brought, losses: 0, is_woken: false };

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

    /// Somebody wants the protocol to be called.
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
        let mut brought = Custody::BROUGHT;
        assert_eq!(brought.wake(), Wake::Keep);
        brought.enter(Stage::Ours);
        assert!(brought.take_wake(), "it was about something of this worker");
    }

    #[test]
    fn heirs_may_be_lost_three_times() {
        let mut custody = Custody::default();
        assert!(custody.lose_heir(false) && !custody.goes_alone());
        assert!(custody.lose_heir(false) && custody.goes_alone());
        assert!(!custody.lose_heir(true));
    }
}
