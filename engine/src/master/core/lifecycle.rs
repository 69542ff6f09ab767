//! What a master is doing, and how it relates to the other master of an upgrade. It is one value instead of several
//! booleans, so that illegal combinations cannot be written.

use super::mutation::{Mutation, is_put_back};
use super::old::Before;
use super::types::{Plan, ProcessId, Stop, Time};
use crate::ipc::control::{Cause, Failure};

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lifecycle {
    /// No generation has served yet.
    Starting(Start, Option<New>),
    /// A generation serves, or was the last to serve.
    Serving(Lineage),
    /// No generation serves, and the master stays.
    Idle(Idle),
    /// The master and its workers are ending.
    Stopping(Stopping),
    /// Another master serves for good. This one ends when its workers have ended, and refuses to serve again.
    Leaving { successor: ProcessId, is_hurried: bool },
    /// It cannot serve. Its workers end, and it ends after them.
    Failed(Failure),
    /// It has ended.
    Over(Result<(), Failure>),
}

/// Why no generation serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Idle {
    /// The workers were ordered to leave; HUP starts new ones.
    Asked,
    /// The successor serves instead. Its success or failure decides what follows.
    Replaced(Old),
    /// There is no successor any more, and the workers must start again. After a failure the next attempt is at this
    /// time.
    Wanted { again_at: Option<Time> },
}

/// The phase of a start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Start {
    /// The start has not begun.
    Unborn,
    /// The old master is checking this one's introduction.
    Introducing { plan: Plan, until: Time },
    /// The master is asking orphans who they are, and for their listen sockets.
    Gathering { plan: Plan, until: Time },
    /// The first generation is starting.
    ComingUp,
}

/// How a serving master relates to other masters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lineage {
    Alone,
    /// A predecessor started this master, and may take over again.
    New(New),
    /// This master has started a successor.
    Old(Old),
}

/// This master is new: its predecessor may take over again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct New {
    pub(crate) predecessor: ProcessId,
    /// Both serve: connections are steered to both.
    pub(crate) is_held: bool,
    pub(crate) stage: NewStage,
}

/// The state of the decision, as the new master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NewStage {
    /// No one has asked for a decision.
    Undecided,
    /// This master asked the old one to make the upgrade final.
    Committing,
    /// This master asked the old one to take over. After that it stops in this manner.
    AwaitingRelief { stop: Stop, by: Cause, since: Time, until: Time },
}

/// This master is old: its successor's process, and the stage of the upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Old {
    pub(crate) successor: ProcessId,
    pub(crate) began: Time,
    pub(crate) stage: OldStage,
}

/// The stage of an upgrade, as the old master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OldStage {
    /// The new master has not reported yet that it serves.
    Starting(Starting),
    /// Both serve. If nobody commits, the upgrade is reverted at this time.
    Held { until: Option<Time> },
    /// The new master serves alone. The upgrade becomes final at this time.
    Probation { until: Time },
    /// The new master was sent back. The old workers start again if they had left.
    Reverting,
    /// The old workers serve. The new master is leaving, and is killed at this time.
    Relieved { until: Time },
    /// The new master was killed. What follows is decided when its process has ended.
    Ending { before: Before, why: Failure },
}

/// A new binary that is starting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Starting {
    pub(crate) until: Time,
    pub(crate) is_held: bool,
    pub(crate) probation_ms: Option<u64>,
    pub(crate) allowed: Vec<crate::ipc::control::Allowed>,
    pub(crate) keeps_connections: bool,
    /// It has introduced itself and may serve.
    pub(crate) is_accepted: bool,
    /// It hands listeners over in the same tier.
    pub(crate) is_alike: bool,
}

/// A master that is stopping.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stopping {
    /// Connections get no more time.
    pub(crate) is_at_once: bool,
    pub(crate) instead: Instead,
    /// A new master that was sent back, and has not ended yet.
    pub(crate) successor: Option<Old>,
}

/// Who serves after a master has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Instead {
    /// Nobody: the server stops.
    Nobody,
    /// The old master serves again.
    Old(ProcessId),
    /// The old master may serve again; an order told this one not to wait for that.
    Perhaps { by: Cause },
}

impl Lifecycle {
    pub(crate) fn new_master(&self) -> Option<&New> {
        match self {
            Self::Starting(_, Some(new)) | Self::Serving(Lineage::New(new)) => Some(new),
            _ => None,
        }
    }

    pub(super) fn new_mut(&mut self) -> Option<&mut New> {
        match self {
            Self::Starting(_, Some(new)) | Self::Serving(Lineage::New(new)) => Some(new),
            _ => None,
        }
    }

    pub(crate) fn old(&self) -> Option<&Old> {
        match self {
            Self::Serving(Lineage::Old(old)) | Self::Idle(Idle::Replaced(old)) => Some(old),
            Self::Stopping(stopping) => stopping.successor.as_ref(),
            _ => None,
        }
    }

    pub(super) fn old_mut(&mut self) -> Option<&mut Old> {
        match self {
            Self::Serving(Lineage::Old(old)) | Self::Idle(Idle::Replaced(old)) => Some(old),
            Self::Stopping(stopping) => stopping.successor.as_mut(),
            _ => None,
        }
    }

    /// Takes the successor out: there is none any more.
    pub(super) fn take_old(&mut self) -> Option<Old> {
        match self {
            Self::Serving(lineage) => match std::mem::replace(lineage, Lineage::Alone) {
                Lineage::Old(old) => Some(old),
                other => {
                    *lineage = other;
                    None
                }
            },
            Self::Idle(idle) => match std::mem::replace(idle, Idle::Asked) {
                Idle::Replaced(old) => Some(old),
                other => {
                    *idle = other;
                    None
                }
            },
            Self::Stopping(stopping) => stopping.successor.take(),
            _ => None,
        }
    }

    /// Takes the predecessor out: there is none any more that could take over.
    pub(super) fn take_new(&mut self) -> Option<New> {
        match self {
            Self::Starting(_, new) => new.take(),
            Self::Serving(lineage) => match std::mem::replace(lineage, Lineage::Alone) {
                Lineage::New(new) => Some(new),
                other => {
                    *lineage = other;
                    None
                }
            },
            _ => None,
        }
    }

    /// Whether the master is ending, for whatever reason.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self, Self::Stopping(_) | Self::Leaving { .. } | Self::Failed(_) | Self::Over(_))
    }

    /// Why this master refuses a request to serve, or to change what serves.
    pub(super) fn refusal(&self) -> Option<Failure> {
        match self {
            Self::Starting(..) => Some(Failure::StartUnderWay),
            Self::Serving(Lineage::Old(_)) | Self::Idle(Idle::Replaced(_)) => Some(Failure::UpgradeUnderWay),
            Self::Serving(Lineage::New(_)) => Some(Failure::NotCommitted),
            Self::Stopping(_) | Self::Failed(_) | Self::Over(_) => Some(Failure::Stopping),
            Self::Leaving { .. } if is_put_back(Mutation::FormerMasterObeys) => None,
            Self::Leaving { successor, .. } => Some(Failure::Leaving { successor: successor.0 }),
            Self::Serving(Lineage::Alone) | Self::Idle(_) => None,
        }
    }
}
