//! Defects in the moving of connections that tests put back one at a time.

use crate::mutation::mutations;

mutations! {
    /// A defect in the moving of connections.
    #[cfg_attr(not(any(test, feature = "simulation")), expect(dead_code, reason = "some are the simulation's alone"))]
    enum Mutation {
        /// A connection that is about to end is stopped for the worker's state, and never continues.
        EndingIsHeld,
        /// A connection that is rejected while the worker's state moves is held, and its last bytes are not sent.
        RejectIsHeld,
        /// Lost heirs are not counted, so one connection can end every worker.
        LossesAreForgotten,
        /// The sender does not check how many bytes an offer has.
        SizeIsNotChecked,
        /// A wake for a connection that stands still is queued again at once.
        WakeIsQueuedAgain,
        /// The worker is done while its own state waits for an heir.
        DoneWhileGathering,
        /// A connection is released when `Gives` is queued, not when it was sent.
        ReleasedBeforeSent,
        /// A connection that was given is taken back when the channel ends.
        TakenBackAfterGiving,
        /// When the channel ends, the receiver keeps what was offered and not given.
        KeptWithoutGiving,
        /// The sender waits without limit for an heir that does not answer.
        SilentHeirIsWaitedFor,
        /// The sender waits without limit for other heirs.
        NextHeirIsWaitedFor,
        /// A connection stays where it is although its worker's state is elsewhere.
        StaysWithoutState,
        /// The end of moving is reported each time nothing is left to move.
        OverIsRepeated,
        /// The end of moving is not reported if no heir takes connections.
        OverIsForgotten,
        /// Connections that arrive at a leaving worker are not passed on.
        ArrivalsAreNotPassedOn,
        /// Leaving workers that are each other's heirs pass connections on without end.
        PassedForEver,
        /// Leaving workers that are each other's heirs wait for each other.
        VisitorsAreWaitedFor,
        /// A connection continues while its last send is still in flight.
        FrozenBeforeStill,
        /// If one connection of a pair cannot move, the other one moves.
        PairIsPartedByKeeping,
        /// The receiver takes one of a pair without the other.
        PairIsPartedByTaking,
        /// One of a pair is offered without the other.
        PairIsPartedByOffering,
        /// A connection that the protocol cannot let move yet is not tried again.
        LaterIsForgotten,
        /// Connections that were held for another worker when the order to leave came do not move with the rest.
        GivenIsForgotten,
        /// A connection that a serving worker could not give away never continues.
        KeptIsNotResumed,
        /// A serving worker waits without limit for the one to which it gives.
        GivingHasNoEnd,
        /// A worker that ends giving before an offer is answered does not count the loss of the receiver that the offer
        /// may cause.
        UnheardLossIsNoLoss,
    }
}
