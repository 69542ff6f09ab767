//! The status of a server: generations, workers, the state of an upgrade, and the last handovers step by step.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::cause::Exit;
use super::event::EventKind;
use super::failure::Failure;
use crate::layer::CertificateStatus;
use crate::telemetry::Totals;

/// The steps of one handover, and the events after it until the next one began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Which operation it was.
    pub kind: TimelineKind,
    /// The generation that it started or concerned.
    pub generation: u32,
    /// When it began, microseconds since 1970.
    pub at_us: u64,
    /// In order.
    pub steps: Vec<Step>,
}

/// A step of a handover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Microseconds since the handover began.
    pub after_us: u64,
    /// The generation it concerns, if it concerns one.
    pub generation: Option<u32>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Which operation a handover was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineKind {
    /// The server started.
    Start,
    /// The server started and took over from the workers of a master that was gone.
    Takeover,
    /// Another configuration.
    Reload,
    /// Another number of workers.
    Scale,
    /// A worker ended and was started again.
    Replacement,
    /// Another binary.
    Upgrade,
    /// The previous binary again.
    Revert,
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for TimelineKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Start => "start",
            Self::Takeover => "takeover",
            Self::Reload => "reload",
            Self::Scale => "scale",
            Self::Replacement => "replacement",
            Self::Upgrade => "upgrade",
            Self::Revert => "revert",
            Self::Unknown => "unknown",
        })
    }
}

/// The state of an upgrade, as the master that answers sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeState {
    /// The new binary starts.
    Starting,
    /// Both serve, until commit or revert.
    Held,
    /// The new binary serves on probation; this one takes over again if it fails.
    Probation,
    /// The workers of this master take over again, and the new master leaves.
    Reverting,
    /// The new binary serves for good, and this master leaves.
    Leaving,
    /// This binary is new; both serve, until commit or revert.
    NewHeld,
    /// This binary is new, and may be reverted.
    New,
    /// This binary is new and was told to stop; the old one takes over first.
    AwaitingRelief,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for UpgradeState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Held => "held",
            Self::Probation => "on probation",
            Self::Reverting => "reverting",
            Self::Leaving => "final, leaving",
            Self::NewHeld => "new, held",
            Self::New => "new, may be reverted",
            Self::AwaitingRelief => "new, stops when the old master serves",
            Self::Unknown => "unknown",
        })
    }
}

/// The phase of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationPhase {
    /// Its workers are starting.
    Starting,
    /// It gets new connections.
    Serving,
    /// It gets new connections, and further workers are starting.
    Growing,
    /// Its workers were told to leave.
    Leaving,
    /// Its master is gone.
    Orphaned,
    /// A phase of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for GenerationPhase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Growing => "growing",
            Self::Leaving => "leaving",
            Self::Orphaned => "orphaned",
            Self::Unknown => "unknown",
        })
    }
}

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Its process is starting.
    Starting,
    /// It serves, or finishes its open connections.
    Ready,
    /// It did not respond and is being killed.
    Hung,
    /// It is being killed for another reason.
    Killed,
    /// It died, and will be started again after a pause.
    Waiting,
    /// It has ended.
    Gone,
    /// Its master is gone.
    Orphaned,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Hung => "hung",
            Self::Killed => "killed",
            Self::Waiting => "waiting",
            Self::Gone => "gone",
            Self::Orphaned => "orphaned",
            Self::Unknown => "unknown",
        })
    }
}

/// The present state of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of these messages: [`VERSION`](super::VERSION).
    pub version: u32,
    /// The program's name, if it has one: [`Settings::name`](crate::config::Settings::name).
    #[serde(default)]
    pub name: Option<String>,
    /// The program's own version, if it has one.
    #[serde(default)]
    pub program_version: Option<String>,
    /// The master's process.
    pub pid: u32,
    /// Milliseconds since the master started.
    pub uptime_ms: u64,
    /// How listeners are handed over: `ebpf` or `adopt`.
    pub handover: String,
    /// Why that one was chosen.
    pub handover_reason: String,
    /// The server was told to stop.
    pub is_stopping: bool,
    /// Oldest first.
    pub generations: Vec<GenerationStatus>,
    /// Connections accepted by all workers since the first start.
    pub accepted: u64,
    /// Requests answered by all workers since the first start.
    pub requests: u64,
    /// Connections that this master's workers have moved to each other while they served.
    #[serde(default)]
    pub rebalanced: u64,
    /// The protocol's own counters, by name, summed over all workers since the first start.
    #[serde(default)]
    pub counters: Vec<(String, u64)>,
    /// Counters of all workers and masters since the first start: they continue through upgrades.
    #[serde(default)]
    pub totals: Totals,
    /// The state of an upgrade, if one is under way.
    #[serde(default)]
    pub upgrade: Option<UpgradeState>,
    /// Why the last upgrade failed or was reverted, if one was.
    #[serde(default)]
    pub last_revert: Option<Failure>,
    /// The last handovers, oldest first.
    #[serde(default)]
    pub handovers: Vec<Timeline>,
}

/// The present state of a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its number, from 1.
    pub number: u32,
    /// Its phase.
    pub phase: GenerationPhase,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// The addresses on which it listens.
    pub addresses: Vec<String>,
    /// How its workers are chosen for new connections; `None` in the tier adopt, and in a release that has no choice.
    #[serde(default)]
    pub steering: Option<String>,
    /// Connections accepted by its workers, including those that have ended.
    #[serde(default)]
    pub accepted: u64,
    /// Requests answered by them.
    #[serde(default)]
    pub requests: u64,
    /// Bytes received by them.
    #[serde(default)]
    pub bytes_received: u64,
    /// Bytes sent by them.
    #[serde(default)]
    pub bytes_sent: u64,
    /// The protocol's own counters, by name, summed over its workers.
    #[serde(default)]
    pub counters: Vec<(String, u64)>,
    /// How uneven its workers are; `None` unless it serves with several of them.
    #[serde(default)]
    pub imbalance: Option<Unevenness>,
    /// Certificates that its clients may get, in the order of expiry; a leaving generation shows none.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// How many certificates are left off, if there is no room for all: those that expire last.
    #[serde(default)]
    pub certificates_left_off: u64,
    /// By slot.
    pub workers: Vec<WorkerStatus>,
}

/// The load of the most loaded worker, divided by the mean of all: 1 if all have the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unevenness {
    /// For open connections; `None` if there are none.
    pub open: Option<f64>,
    /// For busy time; `None` if it is not known ([`WorkerStatus::busy_permille`]), or no worker is busy.
    pub busy: Option<f64>,
}

impl Unevenness {
    /// Computes it from the open connections and the busy times of serving workers. `None` if there are fewer than two.
    pub(crate) fn of(workers: &[(u64, Option<u32>)]) -> Option<Self> {
        let over_mean = |values: Vec<u64>| {
            let (most, sum) = (values.iter().max()?, values.iter().sum::<u64>());
            (sum > 0).then(|| (*most as f64 * values.len() as f64 / sum as f64 * 1e3).round() / 1e3)
        };
        let busy: Option<Vec<u64>> = workers.iter().map(|(_, busy)| busy.map(u64::from)).collect();
        let open = || over_mean(workers.iter().map(|(open, _)| *open).collect());
        (workers.len() > 1).then(|| Self { open: open(), busy: busy.and_then(over_mean) })
    }
}

/// The present state of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its index in its generation.
    pub slot: usize,
    /// Its process, if there is one.
    pub pid: Option<u32>,
    /// Its state.
    pub state: WorkerState,
    /// Milliseconds since its process began.
    pub age_ms: Option<u64>,
    /// How busy it is, thousandths of a core, if connections can be rebalanced and it is known.
    #[serde(default)]
    pub busy_permille: Option<u32>,
    /// Connections open.
    pub open: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that came from other workers.
    #[serde(default)]
    pub taken_over: u64,
    /// Connections that went to other workers.
    #[serde(default)]
    pub handed_over: u64,
    /// Idle connections closed to make room at `connections_max`.
    #[serde(default)]
    pub closed_for_room: u64,
    /// Connections cut because the worker held more than `memory_bytes_max`.
    #[serde(default)]
    pub cut_for_memory: u64,
    /// Connections closed at listeners for proxies: not from a trusted one, or without a header in time.
    #[serde(default)]
    pub closed_without_header: u64,
    /// Connections that operators closed (`batonctl close`).
    #[serde(default)]
    pub closed_by_operator: u64,
    /// Times the worker paused reading a connection because it held nearly `memory_bytes_max`.
    #[serde(default)]
    pub paused_for_memory: u64,
    /// Bytes held for connections.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Messages sent to other workers; a broadcast counts once.
    #[serde(default)]
    pub sibling_messages_sent: u64,
    /// Messages received from other workers.
    #[serde(default)]
    pub sibling_messages_heard: u64,
    /// Other workers that read no messages and get no more.
    #[serde(default)]
    pub siblings_dropped: u64,
    /// The protocol's own counters, by name.
    #[serde(default)]
    pub counters: Vec<(String, u64)>,
    /// Requests answered.
    pub requests: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Median time from seeing input to giving its answer to the kernel, nanoseconds.
    pub service_ns_p50: u64,
    /// 99 of 100 were faster.
    pub service_ns_p99: u64,
    /// How many processes of this slot in a row have died within ten seconds of their start.
    #[serde(default)]
    pub deaths: u32,
    /// How its previous process ended, if it had one.
    #[serde(default)]
    pub last_exit: Option<Exit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unevenness_is_what_the_most_loaded_has_over_the_mean() {
        let of = |workers: &[(u64, Option<u32>)]| Unevenness::of(workers).map(|one| (one.open, one.busy));
        assert_eq!(of(&[(10, Some(500))]), None);
        assert_eq!(of(&[(10, Some(500)), (30, Some(0))]), Some((Some(1.5), Some(2.0))));
        assert_eq!(of(&[(10, Some(500)), (0, None)]), Some((Some(2.0), None)));
        assert_eq!(of(&[(0, Some(0)), (0, Some(0))]), Some((None, None)));
    }

    #[test]
    fn certificates_are_those_that_are_told() {
        let text = r#"{"number":1,"phase":"serving","age_ms":5,"addresses":[],"workers":[]}"#;
        let earlier: GenerationStatus = serde_json::from_str(text).expect("of an earlier version");
        assert_eq!((&earlier.certificates[..], earlier.certificates_left_off), (&[][..], 0));
        let text =
            r#"{"addresses":["[::1]:443"],"names":["a.example"],"expires_at_s":9,"expires_in_s":-1,"issuer":"b"}"#;
        let later: CertificateStatus = serde_json::from_str(text).expect("of a later version");
        assert_eq!((later.expires_at_s, later.expires_in_s, later.warnings.len()), (9, -1, 0));
        let status = GenerationStatus { certificates: vec![later], ..earlier };
        let text = serde_json::to_string(&status).expect("written");
        assert_eq!(serde_json::from_str::<GenerationStatus>(&text).expect("read again"), status);
    }
}
