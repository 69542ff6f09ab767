//! Samples of a server's status, and the rows with rates that are computed from two of them. Pure: times are passed in.
//! All text from the server is escaped here, so that code which draws a row cannot forget it.

use std::cmp::Ordering;
use std::time::Duration;

use baton::control::{Count, GenerationPhase, GenerationStatus, Status, Step, WorkerState, WorkerStatus, escaped};

use crate::show;

/// Steps of the last handovers that are kept; a screen shows the last of them.
const STEPS_MAX: usize = 200;

/// Two masters report the same step within this time.
const TOLD_APART_US_MAX: u64 = 100_000;

/// How many steps may lie between those two reports, so that the cost for a server with very many steps stays linear.
const TOLD_AMONG_MAX: usize = 64;

/// The reports of a server's masters at one time.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// When, since any fixed time.
    pub(crate) at: Duration,
    /// First the master that has the control socket's name, then the others of an upgrade.
    pub(crate) masters: Vec<Status>,
}

/// Rates per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) accepted: f64,
    pub(crate) requests: f64,
    pub(crate) bytes_received: f64,
    pub(crate) bytes_sent: f64,
}

/// A worker as it is displayed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Its generation.
    pub(crate) generation: u32,
    /// Its index in its generation.
    pub(crate) slot: usize,
    /// Its process, if there is one.
    pub(crate) pid: Option<u32>,
    /// Its state, or that its generation leaves.
    pub(crate) state: String,
    /// Thousandths of a core, if the server knows them.
    pub(crate) busy_permille: Option<u32>,
    /// Open connections, if the master knows them.
    pub(crate) open: Option<u64>,
    /// Rates since the previous sample; `None` for a process that was not in it.
    pub(crate) rates: Option<Rates>,
    /// Median service time since the process began, in nanoseconds, if the master knows it.
    pub(crate) service_ns_p50: Option<u64>,
    /// 99 of 100 were faster.
    pub(crate) service_ns_p99: Option<u64>,
}

/// The order of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Generation and slot.
    #[default]
    Worker,
    /// The busiest first.
    Busy,
    /// The most connections first.
    Open,
    /// The most requests per second first.
    Requests,
    /// The slowest first.
    Slowest,
}

impl Sort {
    /// The order that the sort key selects next.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Worker => Self::Busy,
            Self::Busy => Self::Open,
            Self::Open => Self::Requests,
            Self::Requests => Self::Slowest,
            Self::Slowest => Self::Worker,
        }
    }

    /// Its name in the last line of the screen.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Busy => "busy",
            Self::Open => "open",
            Self::Requests => "req/s",
            Self::Slowest => "p99",
        }
    }

    fn compare(self, one: &Row, other: &Row) -> Ordering {
        let requests = |row: &Row| row.rates.map_or(-1.0, |rates| rates.requests);
        let first = match self {
            Self::Worker => Ordering::Equal,
            Self::Busy => other.busy_permille.cmp(&one.busy_permille),
            Self::Open => other.open.cmp(&one.open),
            Self::Requests => requests(other).total_cmp(&requests(one)),
            Self::Slowest => other.service_ns_p99.cmp(&one.service_ns_p99),
        };
        first.then_with(|| (one.generation, one.slot, one.pid).cmp(&(other.generation, other.slot, other.pid)))
    }
}

/// The content of the screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    /// The program and its masters, one per line, with the state of an upgrade.
    pub(crate) masters: Vec<String>,
    /// A line per generation.
    pub(crate) generations: Vec<String>,
    /// Connections open at all workers.
    pub(crate) open: u64,
    /// Sum over all workers that were in the previous sample; `None` if there are none.
    pub(crate) rates: Option<Rates>,
    /// Sorted.
    pub(crate) rows: Vec<Row>,
    /// What happened during and since the last handovers, oldest first.
    pub(crate) steps: Vec<String>,
}

impl Model {
    /// The model of a sample, with rates since the previous one.
    pub(crate) fn new(before: Option<&Sample>, now: &Sample, sort: Sort) -> Self {
        let mut model = Self::default();
        for master in &now.masters {
            model.masters.push(show::heading(master));
            for generation in &master.generations {
                model.generations.push(describe(generation));
                let rows = generation.workers.iter().map(|worker| {
                    let earlier = before.and_then(|before| find(before, generation.number, worker));
                    let apart = before.map_or(Duration::ZERO, |before| now.at.saturating_sub(before.at));
                    row(generation, worker, earlier, apart)
                });
                model.rows.extend(rows);
            }
        }
        model.open = model.rows.iter().filter_map(|row| row.open).fold(0, u64::saturating_add);
        let known: Vec<Rates> = model.rows.iter().filter_map(|row| row.rates).collect();
        model.rates = (!known.is_empty()).then(|| {
            known.iter().fold(Rates::default(), |sum, one| Rates {
                accepted: sum.accepted + one.accepted,
                requests: sum.requests + one.requests,
                bytes_received: sum.bytes_received + one.bytes_received,
                bytes_sent: sum.bytes_sent + one.bytes_sent,
            })
        });
        model.rows.sort_by(|one, other| sort.compare(one, other));
        model.steps = steps(&now.masters);
        model
    }
}

/// The same process in a sample. Another process in its place counts from zero.
fn find<'a>(sample: &'a Sample, generation: u32, worker: &WorkerStatus) -> Option<&'a WorkerStatus> {
    let generations = sample.masters.iter().flat_map(|master| &master.generations);
    let mut same = generations.filter(|one| one.number == generation).flat_map(|one| &one.workers);
    worker.pid?;
    same.find(|one| one.slot == worker.slot && one.pid == worker.pid)
}

fn row(generation: &GenerationStatus, worker: &WorkerStatus, earlier: Option<&WorkerStatus>, apart: Duration) -> Row {
    let state = match (worker.state, generation.phase) {
        (WorkerState::Ready, GenerationPhase::Leaving) => "leaving".to_owned(),
        (state, _) => state.to_string(),
    };
    // The numbers of an orphan are in memory that the new master does not have.
    let is_known = |worker: &WorkerStatus| worker.state != WorkerState::Orphaned;
    let both_known = |earlier: &&WorkerStatus| !apart.is_zero() && is_known(earlier) && is_known(worker);
    let rates = earlier.filter(both_known).map(|earlier| {
        // The counts of one process only grow. If a server reports otherwise, the rate is zero.
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / apart.as_secs_f64();
        Rates {
            accepted: per_second(worker.accepted, earlier.accepted),
            requests: per_second(worker.requests, earlier.requests),
            bytes_received: per_second(worker.bytes_received, earlier.bytes_received),
            bytes_sent: per_second(worker.bytes_sent, earlier.bytes_sent),
        }
    });
    Row {
        generation: generation.number,
        slot: worker.slot,
        pid: worker.pid,
        state,
        busy_permille: worker.busy_permille,
        open: is_known(worker).then_some(worker.open),
        rates,
        service_ns_p50: is_known(worker).then_some(worker.service_ns_p50),
        service_ns_p99: is_known(worker).then_some(worker.service_ns_p99),
    }
}

fn describe(generation: &GenerationStatus) -> String {
    let GenerationStatus { number, phase, age_ms, addresses, workers, .. } = generation;
    let workers = Count(workers.len() as u64, "worker");
    let age = show::duration(*age_ms);
    format!("generation {number}, {phase}, {age}, {workers}, on {}", escaped(&addresses.join(" ")))
}

/// The steps of all masters' handovers, in the order in which they happened. Both masters of an upgrade report most of
/// its steps.
fn steps(masters: &[Status]) -> Vec<String> {
    let mut all: Vec<(u64, usize, &Step)> = Vec::new();
    for (index, master) in masters.iter().enumerate() {
        for handover in &master.handovers {
            all.extend(handover.steps.iter().map(|step| (handover.at_us.saturating_add(step.after_us), index, step)));
        }
    }
    all.sort_by_key(|(at_us, ..)| *at_us);
    let mut told_once: Vec<(u64, usize, &Step)> = Vec::new();
    for (at_us, master, step) in all {
        let is_told = |&&(earlier_us, other, told): &&(u64, usize, &Step)| {
            let is_same = (told.generation, &told.kind) == (step.generation, &step.kind);
            other != master && is_same && at_us - earlier_us <= TOLD_APART_US_MAX
        };
        if !told_once.iter().rev().take(TOLD_AMONG_MAX).any(|told| is_told(&told)) {
            told_once.push((at_us, master, step));
        }
    }
    let shown = &told_once[told_once.len().saturating_sub(STEPS_MAX)..];
    shown.iter().map(|(at_us, _, step)| show::happened(*at_us, step.generation, &step.kind.to_string())).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A server of one generation; each worker is given as its slot, process, requests, open connections and busy share.
    pub(crate) fn sample(at_ms: u64, workers: &[(usize, u32, u64, u64, Option<u32>)]) -> Sample {
        let worker = |&(slot, pid, requests, open, busy): &(usize, u32, u64, u64, Option<u32>)| {
            serde_json::json!({
                "slot": slot, "pid": pid, "state": "ready", "age_ms": 1, "busy_permille": busy, "open": open,
                "accepted": requests / 10, "requests": requests, "bytes_received": requests * 100,
                "bytes_sent": requests * 1_000, "service_ns_p50": 1_250, "service_ns_p99": 9_000 + slot,
            })
        };
        let steps = serde_json::json!([{"after_us": 5, "generation": 2, "event": "serves", "took_ms": 7},
            {"after_us": 0, "generation": 2, "event": "upgrade_started", "binary": "/x\u{1b}[2J", "pid": 7}]);
        let status = serde_json::json!({
            "version": 2, "name": "no\u{1b}[31mtes", "pid": 99, "uptime_ms": 61_000, "handover": "ebpf",
            "handover_reason": "it works", "is_stopping": false, "accepted": 0, "requests": 0, "upgrade": "held",
            "generations": [{"number": 2, "phase": "serving", "age_ms": 61_000, "addresses": ["[::1]:80"],
                "workers": workers.iter().map(worker).collect::<Vec<_>>()}],
            "handovers": [{"kind": "upgrade", "generation": 2, "at_us": 1_000_000, "steps": steps}],
        });
        let status = serde_json::from_value(status).expect("a status");
        Sample { at: Duration::from_millis(at_ms), masters: vec![status] }
    }

    #[test]
    fn rates_are_those_since_the_sample_before() {
        let before = sample(1_000, &[(0, 10, 100, 5, None), (1, 11, 1_000, 5, None)]);
        let now = sample(3_000, &[(0, 10, 500, 6, None), (1, 12, 40, 1, None)]);
        let model = Model::new(Some(&before), &now, Sort::Worker);
        let expected = Rates { accepted: 20.0, requests: 200.0, bytes_received: 20_000.0, bytes_sent: 200_000.0 };
        // Another process in slot 1: its counts since its start are not a rate.
        let rates: Vec<_> = model.rows.iter().map(|row| row.rates).collect();
        assert_eq!((rates, model.rates, model.open), (vec![Some(expected), None], Some(expected), 7));
        let first = Model::new(None, &now, Sort::Worker);
        assert_eq!((first.rates, first.rows[0].rates), (None, None));
    }

    #[test]
    fn samples_at_one_time_and_counts_that_shrink_are_no_rates() {
        let (one, less) = (sample(5, &[(0, 10, 100, 5, None)]), sample(1_005, &[(0, 10, 40, 5, None)]));
        assert_eq!(Model::new(Some(&one), &one, Sort::Worker).rows[0].rates, None);
        assert_eq!(Model::new(Some(&one), &less, Sort::Worker).rates, Some(Rates::default()));
        assert_eq!(Model::new(Some(&less), &one, Sort::Worker).rates, None);
    }

    #[test]
    fn what_the_master_does_not_know_is_not_shown_as_zero() {
        let before = sample(0, &[(0, 10, 100, 5, None)]);
        let mut now = sample(1_000, &[(0, 10, 0, 0, None), (1, 11, 0, 2, None)]);
        now.masters[0].generations[0].workers[0].state = WorkerState::Orphaned;
        let model = Model::new(Some(&before), &now, Sort::Worker);
        let row = &model.rows[0];
        assert_eq!((row.open, row.rates, row.service_ns_p50, row.service_ns_p99), (None, None, None, None));
        assert_eq!((model.open, model.rows[1].open), (2, Some(2)));
        // When its numbers are known again, they do not count from zero.
        let later = sample(2_000, &[(0, 10, 100, 5, None)]);
        assert_eq!(Model::new(Some(&now), &later, Sort::Worker).rows[0].rates, None);
    }

    #[test]
    fn rows_are_sorted_by_what_was_chosen() {
        let before = sample(0, &[(0, 10, 0, 3, Some(1)), (1, 11, 0, 9, None), (2, 12, 0, 6, Some(900))]);
        let now = sample(1_000, &[(0, 10, 50, 3, Some(1)), (1, 11, 10, 9, None), (2, 12, 20, 6, Some(900))]);
        let slots = |sort| Model::new(Some(&before), &now, sort).rows.iter().map(|row| row.slot).collect::<Vec<_>>();
        let mut sort = Sort::default();
        let expected = [[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1], [2, 1, 0]];
        for order in expected {
            assert_eq!(slots(sort), order, "{sort:?}");
            sort = sort.next();
        }
        assert_eq!(sort, Sort::default());
    }

    #[test]
    fn what_the_server_says_is_escaped_and_steps_are_in_order() {
        let model = Model::new(None, &sample(0, &[]), Sort::Worker);
        assert_eq!(model.masters, [r"no\u{1b}[31mtes running (upgrade: held), pid 99, up 1 min 1 s"]);
        assert_eq!(model.generations, ["generation 2, serving, 1 min 1 s, 0 workers, on [::1]:80"]);
        let steps: Vec<_> = model.steps.iter().map(|step| step.split_once("Z  ").expect("a time").1).collect();
        assert_eq!(steps, [r"generation 2: /x\u{1b}[2J started (pid 7)", "generation 2: serves (7 ms)"]);
    }

    #[test]
    fn a_step_that_both_masters_tell_is_shown_once() {
        let step = |after_us: u64, slot: usize| serde_json::json!({"after_us": after_us, "generation": 2, "event": "worker_ready", "slot": slot, "pid": 7});
        let told_by = |steps: &[serde_json::Value]| {
            let mut master = sample(0, &[]).masters.remove(0);
            master.handovers[0].steps = serde_json::from_value(serde_json::json!(steps)).expect("steps");
            master
        };
        // A step that one master reports twice happened twice, and a later one is another step.
        let new = told_by(&[step(0, 0), step(10, 1), step(20, 1)]);
        let old = told_by(&[step(400, 0), step(500, 1), step(900_000, 1)]);
        let model = Model::new(None, &Sample { at: Duration::ZERO, masters: vec![new, old] }, Sort::Worker);
        let times: Vec<_> = model.steps.iter().map(|step| step.split_once("Z  ").expect("a time").0).collect();
        assert_eq!(times, ["00:00:01.000000", "00:00:01.000010", "00:00:01.000020", "00:00:01.900000"]);
    }
}
