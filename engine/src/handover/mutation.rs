//! Defects that were found once, put back one at a time, so that a test can show that the simulation finds each of them.
//! Outside of tests and the simulator [`is_put_back`] is constant, and costs nothing.

/// A defect of the moving of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "simulation")), expect(dead_code, reason = "some are the simulation's alone"))]
pub(crate) enum Mutation {
    /// A connection that is about to end is stopped for the worker's state, and never goes on.
    EndingIsHeld,
    /// A connection that is rejected while the worker's state moves is held, and its last bytes are not sent.
    RejectIsHeld,
    /// Losses of heirs are not counted, so one connection can end every worker.
    LossesAreForgotten,
    /// The sender does not look at how many bytes an offer has.
    SizeIsNotChecked,
    /// A wake for a connection that stands still is queued again at once.
    WakeIsQueuedAgain,
    /// The worker is done while its own state waits for an heir.
    DoneWhileGathering,
    /// A connection is let go when `Gives` is queued, not when it was sent.
    ReleasedBeforeSent,
    /// A connection that was given is taken back when the channel ends.
    TakenBackAfterGiving,
    /// The receiver keeps what was offered and not given when the channel ends.
    KeptWithoutGiving,
    /// An heir that does not answer is waited for without a limit.
    SilentHeirIsWaitedFor,
    /// Other heirs are waited for without a limit.
    NextHeirIsWaitedFor,
    /// A connection stays where it is although its worker's state is elsewhere.
    StaysWithoutState,
    /// The end of moving is reported each time nothing is left to move.
    OverIsRepeated,
    /// The end of moving is not reported where nobody takes connections.
    OverIsForgotten,
    /// Connections that arrive at a worker that leaves are not passed on.
    ArrivalsAreNotPassedOn,
    /// Workers that leave, and are each other's heirs, pass connections on without end.
    PassedForEver,
    /// Workers that leave, and are each other's heirs, wait for each other.
    VisitorsAreWaitedFor,
    /// A connection goes on while its last send is still in flight.
    FrozenBeforeStill,
}

#[cfg(test)]
impl Mutation {
    /// Every one.
    pub(crate) const ALL: [Self; 18] = [
        Self::EndingIsHeld,
        Self::RejectIsHeld,
        Self::LossesAreForgotten,
        Self::SizeIsNotChecked,
        Self::WakeIsQueuedAgain,
        Self::DoneWhileGathering,
        Self::ReleasedBeforeSent,
        Self::TakenBackAfterGiving,
        Self::KeptWithoutGiving,
        Self::SilentHeirIsWaitedFor,
        Self::NextHeirIsWaitedFor,
        Self::StaysWithoutState,
        Self::OverIsRepeated,
        Self::OverIsForgotten,
        Self::ArrivalsAreNotPassedOn,
        Self::PassedForEver,
        Self::VisitorsAreWaitedFor,
        Self::FrozenBeforeStill,
    ];
}

#[cfg(any(test, feature = "simulation"))]
mod chosen {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static CHOSEN: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether this defect is put back on this thread.
    pub(crate) fn is_put_back(mutation: Mutation) -> bool {
        CHOSEN.get() == Some(mutation)
    }

    /// Runs `run` with a defect put back, or without any.
    #[cfg(test)]
    pub(crate) fn with<T>(mutation: Option<Mutation>, run: impl FnOnce() -> T) -> T {
        let before = CHOSEN.replace(mutation);
        let result = run();
        CHOSEN.set(before);
        result
    }
}

#[cfg(any(test, feature = "simulation"))]
pub(crate) use self::chosen::is_put_back;
#[cfg(test)]
pub(crate) use self::chosen::with;

/// Whether this defect is put back: never.
#[cfg(not(any(test, feature = "simulation")))]
#[inline(always)]
pub(crate) const fn is_put_back(_: Mutation) -> bool {
    false
}
