//! Defects of moving connections, which tests put back one at a time.

use crate::mutation::mutations;

mutations! {
    /// A defect of the moving of connections.
    #[cfg_attr(not(any(test, feature = "simulation")), expect(dead_code, reason = "some are the simulation's alone"))]
    enum Mutation {
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
        /// Where one of a pair cannot move, the other one moves.
        PairIsPartedByKeeping,
        /// The receiver takes one of a pair without the other.
        PairIsPartedByTaking,
        /// One of a pair is offered without the other.
        PairIsPartedByOffering,
        /// A connection that the protocol cannot let go yet is not tried again.
        LaterIsForgotten,
        /// What was held for another worker when this one was told to leave is not moved with the rest.
        GivenIsForgotten,
        /// A connection that a worker which serves could not give away never goes on.
        KeptIsNotResumed,
        /// A worker that serves waits for the one that it gives to without a limit.
        GivingHasNoEnd,
        /// A worker that ends giving while an offer is not answered does not count what the other may suffer from it.
        UnheardLossIsNoLoss,
    }
}
