//! Defects of the control path that tests put back one at a time.

use crate::mutation::mutations;

mutations! {
    /// A defect of the control path.
    enum Mutation {
        /// A master that has left for good obeys HUP and reload.
        FormerMasterObeys,
        /// A stop while a new master is starting forgets the new master.
        StopForgetsSuccessor,
        /// A new master whose predecessor died during the start does not take the names.
        NamesAreNotTaken,
        /// A new master in the tier adopt does not give back the sockets that it made.
        SocketsAreNotGivenBack,
        /// A new master that stops or fails before it serves does not give them back either.
        StoppedStartKeepsSockets,
        /// A new master that fails to start kills workers that have accepted connections.
        FailedStartKills,
        /// The files that a killed new master leaves behind stay.
        SuccessorLeavesFiles,
        /// The files that a killed old master leaves behind stay.
        PredecessorLeavesFiles,
        /// An upgrade that loses state or control is not refused.
        LossesAreAllowed,
        /// An upgrade from the tier ebpf to another one is not refused.
        TierIsNotCompared,
        /// Clients whose operation was cut off by a stop are told that the server has stopped.
        CutOffIsDone,
        /// The shortest `hang_ms` of all generations applies to all workers.
        ShortestHangTimeJudges,
        /// If the old master does not take over, clients that wait for the revert keep waiting.
        NotRevertedIsNotTold,
        /// A worker that starts while others hand over state never learns that none will come.
        StartingWorkerIsForgotten,
        /// A generation that is starting when the upgrade becomes final continues to start.
        ComingUpAfterCommit,
        /// The end of a probation forgets workers that HUP brought back.
        ProbationForgetsWorkers,
        /// A new master that does not wait for the old one reports that the server has stopped.
        StoppedWhileReverting,
        /// A revert hastens a stop that waits for the old master.
        RevertHastens,
        /// A master that becomes idle leaves orphans alone.
        OrphansStayAtIdle,
        /// The revert is reported before the old workers serve.
        RevertedTooEarly,
        /// Old workers that fail to start are not started again.
        WantedIsNotRetried,
        /// A switch that fails half-way is not undone.
        HalfSwitchStays,
        /// A kept socket that could not be shared is not offered again.
        ShareIsNotRetried,
        /// An orphan that could not be asked for its sockets is not asked a second time.
        OrphanIsAskedOnce,
        /// Two changes of the number of workers share an outcome.
        ScalesShareOutcome,
        /// A refused change of the number of workers keeps its number of places.
        PlacesStay,
        /// A master that was replaced keeps its guards.
        ReplacedKeepsGuards,
        /// Steering of another server ends while its listeners are still to close.
        SteeringEndsEarly,
        /// A kept socket whose address was given up is closed at once, with its accept queue.
        GivenUpSocketIsNotKept,
        /// A guard of an address that was given up while nothing served stays.
        GuardOfGivenUpAddressStays,
        /// A kept socket that could not be shared waits until something else is due.
        ShareHasNoDeadline,
        /// A socket that begins to listen only when its worker has the order to leave stays with that worker.
        LateSocketIsNotShared,
        /// A socket that came after a new master was started is not passed on to it.
        LateSocketIsNotPassedOn,
        /// After a process has ended, nobody looks for connections whose arrival woke that process's ring.
        WakesOfTheDeadAreLost,
        /// A connection that arrives at a master without workers stays there although another master serves.
        ArrivalsStayWithLeaving,
        /// The files of a master that is killed while it leaves stay.
        LeavingMasterLeavesFiles,
        /// A change that is requested after a revert is refused until the new master's process has ended.
        RevertedRefusesChanges,
        /// The old master's workers do not learn of the new master's workers.
        SiblingsElsewhereAreForgotten,
        /// Connections move for rebalancing while the set of workers changes.
        RebalancesDuringChanges,
        /// A worker that gives connections to another does not learn that a change has priority.
        RebalanceGoesOn,
        /// The master waits without limit for a worker that does not report what it gave.
        SilentGiverIsAwaited,
        /// The master waits for the report of a worker that has ended, about what it gave.
        GoneGiverIsAwaited,
        /// The master waits without limit for a worker that does not list its connections.
        SilentWorkerIsAwaited,
        /// The master waits for the list of connections of a worker that has ended.
        GoneWorkerIsAwaited,
        /// In the tier ebpf, the master does not ask an orphan for its Unix sockets.
        OrphanKeepsUnixSockets,
    }
}
