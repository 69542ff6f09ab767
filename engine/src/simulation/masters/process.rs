//! Processes: workers and masters, alive or halted; what each has, and what is visible from outside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::channels::ChannelId;
use super::kernel::{ConnectionKey, Key};
use crate::endpoint::Endpoint;
use crate::handover::Tier;
use crate::ipc::control::Exit;
use crate::master::core::{
    ArrivalId, ClientId, Core, Greeting, Plan, ProcessId, Request, Signal, Spawn, SteeringId, Time,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) parent: Option<ProcessId>,
    pub(super) body: Body,
    /// It stands still until this time.
    pub(super) halted: Option<Time>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Body {
    Master(Box<Master>),
    Worker(Box<Worker>),
}

/// How a worker's start goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum StartsAs {
    Well,
    Slow,
    Failing,
    Exiting,
    Hanging,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Ready at this time, if ever.
    Starting {
        ready_at: Option<Time>,
    },
    Serving,
    Draining(Drain),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Drain {
    /// When the listeners close; `None` after that time.
    pub(super) settles_at: Option<Time>,
    pub(super) until: Time,
    pub(super) is_succeeded: bool,
    /// It accepts nothing any more, and has reported that.
    pub(super) is_closed: bool,
    /// Connections have got the goodbye.
    pub(super) is_told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Worker {
    /// The master that forked it.
    pub(super) master: ProcessId,
    /// The master whose orders it follows, or followed last.
    pub(super) led_by: ProcessId,
    /// The channel to its master, or to the one that took it over.
    pub(super) channel: Option<ChannelId>,
    /// Masters that wait until its own is gone.
    pub(super) knocks: VecDeque<ChannelId>,
    pub(super) spawn: Spawn,
    pub(super) starts_as: StartsAs,
    pub(super) stage: Stage,
    /// Listen sockets, with whether others have them now.
    pub(super) listeners: Vec<(Key, bool)>,
    /// The sockets that it has looked at, and that wake it.
    pub(super) armed: BTreeSet<Key>,
    pub(super) awaits_until: Option<Time>,
    pub(super) heirs: Vec<String>,
    /// It has not reported yet that its connections have moved.
    pub(super) is_moving: bool,
    /// It serves, and gives this number of connections to this worker.
    pub(super) gives: Option<(ProcessId, u32)>,
    /// Connections that it has not reported yet, by question.
    pub(super) listings: Vec<(u32, Vec<usize>)>,
    pub(super) last_turn: Time,
}

impl Worker {
    pub(super) fn accepts(&self) -> bool {
        match self.stage {
            Stage::Starting { .. } => false,
            Stage::Serving => self.awaits_until.is_none(),
            Stage::Draining(drain) => !drain.is_closed && self.awaits_until.is_none(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        !matches!(self.stage, Stage::Starting { .. })
    }
}

/// A master's process with its driver: descriptors by their numbers, and events that its core has not got yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Master {
    /// `None` before its first turn, and during a step.
    pub(super) core: Option<Core>,
    pub(super) birth: Option<Birth>,
    pub(super) tier: Tier,
    pub(super) binary: Binary,
    /// The latest time at which the core wants to be called.
    pub(super) deadline: Option<Time>,
    pub(super) guards: BTreeMap<Endpoint, Key>,
    /// Programs with their addresses and number of places.
    pub(super) steerings: BTreeMap<SteeringId, (Vec<Endpoint>, usize)>,
    pub(super) old_map: Option<(u32, usize)>,
    pub(super) arrivals: BTreeMap<ArrivalId, ConnectionKey>,
    pub(super) workers: BTreeMap<ProcessId, ChannelId>,
    /// Channels whose end the core knows.
    pub(super) ended_channels: Vec<ChannelId>,
    pub(super) orphans: BTreeMap<ProcessId, ChannelId>,
    pub(super) new: Option<ChannelId>,
    pub(super) old: Option<ChannelId>,
    /// Children to be reaped.
    pub(super) ended: Vec<(ProcessId, Exit)>,
    pub(super) signals: Vec<Signal>,
    pub(super) requests: VecDeque<(ClientId, Request)>,
    /// Something that no client allowed is lost when it serves.
    pub(super) loses: bool,
}

/// What a master has at its start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Birth {
    pub(super) plan: Plan,
    pub(super) greeting: Option<(ProcessId, Greeting)>,
}

/// The behaviour of a binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Binary {
    Good,
    /// It ends at once.
    Exiting,
    /// It never sends anything.
    Silent,
    /// It sends what no receiver understands.
    Strange,
    /// It hands listeners over in the other tier.
    OtherTier,
    /// It cannot read the state of connections and workers.
    Blind,
    /// It has another control socket.
    Elsewhere,
    /// The file does not exist.
    Missing,
}

impl Binary {
    pub(super) const ALL: [Self; 8] = [
        Self::Good,
        Self::Exiting,
        Self::Silent,
        Self::Strange,
        Self::OtherTier,
        Self::Blind,
        Self::Elsewhere,
        Self::Missing,
    ];

    pub(super) fn named(name: Option<&str>) -> Self {
        let is_it = |one: &Self| Some(format!("{one:?}").as_str()) == name;
        Self::ALL.into_iter().find(is_it).unwrap_or(Self::Good)
    }
}

impl Master {
    pub(super) fn new(binary: Binary, tier: Tier, birth: Birth) -> Self {
        Self {
            core: None,
            birth: Some(birth),
            tier,
            binary,
            deadline: None,
            guards: BTreeMap::new(),
            steerings: BTreeMap::new(),
            old_map: None,
            arrivals: BTreeMap::new(),
            workers: BTreeMap::new(),
            ended_channels: Vec::new(),
            orphans: BTreeMap::new(),
            new: None,
            old: None,
            ended: Vec::new(),
            signals: Vec::new(),
            requests: VecDeque::new(),
            loses: false,
        }
    }

    pub(super) fn steering_addresses(&self, steering: SteeringId) -> Vec<Endpoint> {
        self.steerings.get(&steering).map(|(addresses, _)| addresses.clone()).unwrap_or_default()
    }

    /// The channel to another process.
    pub(super) fn channel_to(&self, process: ProcessId) -> Option<ChannelId> {
        self.workers.get(&process).or_else(|| self.orphans.get(&process)).copied()
    }
}
