//! Defects of the control path, which tests put back one at a time.

use crate::mutation::mutations;

mutations! {
    /// A defect of the control path.
    enum Mutation {
        /// A master that has left for good obeys HUP and reload.
        FormerMasterObeys,
        /// A stop while a new master starts forgets that one.
        StopForgetsSuccessor,
        /// A new master whose old one died during the start does not take the names.
        NamesAreNotTaken,
        /// A new master in the tier adopt does not give back the sockets that it made.
        SocketsAreNotGivenBack,
        /// Nor does one that stops, or fails, before it serves.
        StoppedStartKeepsSockets,
        /// A new master that does not come up kills workers that have accepted connections.
        FailedStartKills,
        /// What a killed new master leaves behind stays.
        SuccessorLeavesFiles,
        /// What a killed old master leaves behind stays.
        PredecessorLeavesFiles,
        /// An upgrade that loses state or control is not refused.
        LossesAreAllowed,
        /// An upgrade from the tier ebpf to another one is not refused.
        TierIsNotCompared,
        /// Whoever waits is told that the server has stopped when that cut off what they wait for.
        CutOffIsDone,
        /// The shortest `hang_ms` of all generations judges all workers.
        ShortestHangTimeJudges,
        /// If the old master does not take over, clients that wait for that keep waiting.
        NotRevertedIsNotTold,
        /// A worker that starts while others bring state is never told that none comes.
        StartingWorkerIsForgotten,
        /// A generation that comes up while the upgrade becomes final goes on coming up.
        ComingUpAfterCommit,
        /// The end of a probation forgets workers that HUP brought back.
        ProbationForgetsWorkers,
        /// A new master that does not wait for the old one says that the server has stopped.
        StoppedWhileReverting,
        /// A revert hastens a stop that waits for the old master.
        RevertHastens,
        /// An idle master leaves orphans alone.
        OrphansStayAtIdle,
        /// Reverted is told before the old workers serve.
        RevertedTooEarly,
        /// Old workers that do not come up are not tried again.
        WantedIsNotRetried,
        /// A switch that fails half-way is not taken back.
        HalfSwitchStays,
        /// A kept socket that could not be shared is not offered again.
        ShareIsNotRetried,
        /// An orphan that could not be asked for its sockets is not asked again.
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
        /// A socket that listens only when its worker is to leave already is left to that worker.
        LateSocketIsNotShared,
        /// A socket that came after a new master was started is not passed on to it.
        LateSocketIsNotPassedOn,
        /// Nobody looks for those whose coming has woken the ring of a process that is gone.
        WakesOfTheDeadAreLost,
        /// A connection that came to a master without workers stays there although another one serves.
        ArrivalsStayWithLeaving,
        /// What a master leaves behind that is killed while it leaves stays.
        LeavingMasterLeavesFiles,
        /// A change that is asked for when the upgrade was reverted is refused until the new master's process has ended.
        RevertedRefusesChanges,
        /// The workers of an old master are not told of those of the new one.
        SiblingsElsewhereAreForgotten,
        /// Connections move between workers while these change.
        RebalancesDuringChanges,
        /// A worker that gives connections to another is not told that a change goes first.
        RebalanceGoesOn,
        /// A worker that does not say what it has given to another is waited for without end.
        SilentGiverIsAwaited,
        /// A worker that is gone is waited for until it says what it has given to another.
        GoneGiverIsAwaited,
        /// A worker that does not say which connections it has is waited for without end.
        SilentWorkerIsAwaited,
        /// A worker that is gone is waited for until it says which connections it has.
        GoneWorkerIsAwaited,
        /// In the tier ebpf, an orphan is not asked for its Unix sockets.
        OrphanKeepsUnixSockets,
    }
}
