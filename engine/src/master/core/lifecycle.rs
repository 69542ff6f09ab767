//! What a master is doing, and how it relates to the other master of an upgrade. It is one value instead of booleans,
//! so that illegal combinations cannot be written.

use super::mutation::{Mutation, is_put_back};
use super::old::Before;
use super::types::{Plan, ProcessId, Stop, Time};
use crate::ipc::control::{Cause, Failure};

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lifecycle {
    /// No generation has served yet.
    Starting(Start, Option<New>),
    /// A generation serves, or did so last.
    Serving(Lineage),
    /// No generation serves, and the master stays.
    Idle(Idle),
    /// Everything ends.
    Stopping(Stopping),
    /// Another master serves for good: this one ends when its workers have, and refuses to serve again.
    Leaving { successor: ProcessId, is_hurried: bool },
    /// It cannot serve: its workers end, and it ends when they have.
    Failed(Failure),
    /// It has ended.
    Over(Result<(), Failure>),
}

/// Why no generation serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Idle {
    /// The workers were told to leave; HUP brings new ones.
    Asked,
    /// The successor serves instead; how it fares decides.
    Replaced(Old),
    /// There is no successor any more: the workers come up again, and where they do not, again then.
    Wanted { again_at: Option<Time> },
}

/// How far a start is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Start {
    /// Not even begun.
    Unborn,
    /// The old master looks at what this one said of itself.
    Introducing { plan: Plan, until: Time },
    /// Workers of a master that is gone are asked who they are, and for their listen sockets.
    Gathering { plan: Plan, until: Time },
    /// The first generation comes up.
    ComingUp,
}

/// How a master that serves stands to others.
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

/// How far the decision is, as the new master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NewStage {
    /// Nobody has asked for anything.
    Undecided,
    /// The old master was asked to make the upgrade final.
    Committing,
    /// The old master was asked to take over; then this one stops so.
    AwaitingRelief { stop: Stop, by: Cause, since: Time, until: Time },
}

/// This master is old: the process of its successor, and how far that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Old {
    pub(crate) successor: ProcessId,
    pub(crate) began: Time,
    pub(crate) stage: OldStage,
}

/// How far an upgrade is, as the old master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OldStage {
    /// It has not said yet that it serves.
    Starting(Starting),
    /// Both serve; reverted then, if nobody commits.
    Held { until: Option<Time> },
    /// The new one serves alone; final then.
    Probation { until: Time },
    /// It was sent back: the old workers come up again, if they had left.
    Reverting,
    /// The old workers serve; it leaves, and is killed then.
    Relieved { until: Time },
    /// It was killed, and what that means is decided when it has ended.
    Ending { before: Before, why: Failure },
}

/// A new binary that comes up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Starting {
    pub(crate) until: Time,
    pub(crate) is_held: bool,
    pub(crate) probation_ms: Option<u64>,
    pub(crate) allowed: Vec<crate::ipc::control::Allowed>,
    pub(crate) keeps_connections: bool,
    /// It has said who it is, and may serve.
    pub(crate) is_accepted: bool,
    /// It hands listeners over in the same tier.
    pub(crate) is_alike: bool,
}

/// A master that ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stopping {
    /// Connections have no time any more.
    pub(crate) is_at_once: bool,
    pub(crate) instead: Instead,
    /// A new master that was sent back, and has not ended yet.
    pub(crate) successor: Option<Old>,
}

/// Who serves when a master has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Instead {
    /// Nobody: the server stops.
    Nobody,
    /// The old master serves again.
    Old(ProcessId),
    /// The old master may serve again; this one was told not to wait for that.
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

    /// There is no successor any more.
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

    /// There is no predecessor any more that could take over.
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

    /// It ends, for whatever reason.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self, Self::Stopping(_) | Self::Leaving { .. } | Self::Failed(_) | Self::Over(_))
    }

    /// Why a request to serve, or to change what serves, is refused here.
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
