//! How connections and work are distributed among workers while a load runs, observed every 100 ms.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use baton::control::{Client, GenerationPhase, Reply, Request, Status};
use serde::Serialize;

use super::server::{BUSY_US, LATE_US};

/// The interval between two observations.
const INTERVAL: Duration = Duration::from_millis(100);

/// Busy time is compared over this many intervals: in a single one, chance dominates.
const BUSY_INTERVALS: usize = 10;

/// A server that does not answer within this time is not asked again.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a server is observed.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// By its control socket.
    Control(PathBuf),
    /// By the descriptors of its workers: their process numbers, and how many descriptors each had without connections.
    Descriptors(Vec<(u32, u64)>),
    /// It cannot be observed.
    None,
}

/// The workers at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) at_s: f64,
    open: Vec<u64>,
    busy_us: Vec<u64>,
    late_us: u64,
    requests: u64,
    /// Connections that have come from other workers.
    moved: u64,
}

/// Observes until it is stopped.
pub(super) struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Watch {
    pub(super) fn start(source: Source, started: Instant) -> Result<Self, String> {
        let is_over = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_over);
        let body = move || {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let Some(sample) = source.look() else { break };
                samples.push(Sample { at_s: started.elapsed().as_secs_f64(), ..sample });
                thread::sleep(INTERVAL.saturating_sub(begun.elapsed()));
            }
            samples
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(body);
        Ok(Self { is_over, thread: thread.map_err(|error| format!("a thread could not be started: {error}"))? })
    }

    pub(super) fn stop(self) -> Vec<Sample> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

impl Source {
    fn look(&self) -> Option<Sample> {
        match self {
            Self::Control(path) => status(path).ok().map(|status| Sample::of(&status)),
            Self::Descriptors(workers) => {
                let open = |(pid, others): &(u32, u64)| descriptors(*pid).saturating_sub(*others);
                Some(Sample { open: workers.iter().map(open).collect(), ..Sample::default() })
            }
            Self::None => None,
        }
    }
}

/// Number of descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |folder| folder.count() as u64)
}

/// The status of a server.
pub(super) fn status(control: &Path) -> Result<Status, String> {
    match Client::ask(control, &Request::Status, Some(PATIENCE)) {
        Ok(Reply::Status(status)) => Ok(status),
        Ok(other) => Err(format!("the server answered {other:?}")),
        Err(error) => Err(format!("the control socket: {error}")),
    }
}

impl Sample {
    fn of(status: &Status) -> Self {
        let serving = status.generations.iter().filter(|generation| generation.phase == GenerationPhase::Serving);
        let workers: Vec<_> = serving.flat_map(|generation| &generation.workers).collect();
        let counter = |counters: &[(String, u64)], name: &str| {
            counters.iter().find(|(one, _)| one == name).map_or(0, |(_, value)| *value)
        };
        Self {
            at_s: 0.0,
            open: workers.iter().map(|worker| worker.open).collect(),
            busy_us: workers.iter().map(|worker| counter(&worker.counters, BUSY_US)).collect(),
            late_us: counter(&status.counters, LATE_US),
            requests: status.requests,
            moved: workers.iter().map(|worker| worker.taken_over).sum(),
        }
    }
}

/// The largest number, divided by their mean.
pub(super) fn ratio(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().sum();
    (sum > 0.0).then(|| values.iter().copied().fold(0.0, f64::max) * values.len() as f64 / sum)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// How even the distribution was, over time.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Evenness {
    /// Seconds from the start of the load, and max / mean of connections.
    pub(super) connections: Vec<(f64, f64)>,
    /// The worst at any time, also while clients arrived: the most connections of a worker, divided by what it has if
    /// whole connections are distributed as well as possible.
    pub(super) connections_worst: Option<f64>,
    /// Seconds from the start of the load, and max / mean of busy time in the second before.
    pub(super) busy: Vec<(f64, f64)>,
    pub(super) moved: u64,
    /// By how much sleeps were too long, on average.
    pub(super) late_us: Option<f64>,
}

impl Evenness {
    pub(super) fn of(samples: &[Sample]) -> Self {
        let floats = |values: &[u64]| values.iter().map(|value| *value as f64).collect::<Vec<f64>>();
        let connections = samples.iter().filter_map(|sample| Some((sample.at_s, ratio(&floats(&sample.open))?)));
        let worst = samples.iter().filter(|sample| sample.open.iter().sum::<u64>() > 0).map(|sample| {
            let fair = sample.open.iter().sum::<u64>().div_ceil(sample.open.len() as u64);
            sample.open.iter().copied().max().unwrap_or(0) as f64 / fair as f64
        });
        let busy = samples.windows(BUSY_INTERVALS + 1).filter_map(|window| {
            let (before, after) = (&window[0], &window[BUSY_INTERVALS]);
            let pairs = before.busy_us.iter().zip(&after.busy_us);
            let gained: Vec<f64> = pairs.map(|(before, after)| after.saturating_sub(*before) as f64).collect();
            Some((after.at_s, ratio(&gained)?))
        });
        let last = samples.last().cloned().unwrap_or_default();
        Self {
            connections: connections.collect(),
            connections_worst: worst.reduce(f64::max),
            busy: busy.collect(),
            moved: last.moved,
            late_us: (last.requests > 0 && !last.busy_us.is_empty())
                .then(|| last.late_us as f64 / last.requests as f64),
        }
    }
}

/// The median of the values in this time range.
pub(super) fn median_in(series: &[(f64, f64)], from_s: f64, until_s: f64) -> Option<f64> {
    let inside = series.iter().filter(|(at_s, _)| (from_s..until_s).contains(at_s));
    median(inside.map(|(_, value)| *value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_compared_with_the_mean_and_with_what_whole_connections_allow() {
        let sample = |at_s: f64, open: [u64; 4], busy_us: [u64; 4]| Sample {
            at_s,
            open: open.to_vec(),
            busy_us: busy_us.to_vec(),
            ..Sample::default()
        };
        let mut samples = vec![sample(0.0, [0; 4], [0; 4]), sample(0.1, [1, 1, 1, 0], [0; 4])];
        samples.extend((2..12).map(|step| sample(f64::from(step) / 10.0, [12, 8, 12, 8], [300, 100, 100, 100])));
        let evenness = Evenness::of(&samples);
        assert_eq!(evenness.connections[0], (0.1, 4.0 / 3.0));
        assert_eq!(evenness.connections.last(), Some(&(1.1, 1.2)));
        assert_eq!(evenness.connections_worst, Some(1.2));
        assert_eq!(evenness.busy, [(1.0, 2.0), (1.1, 2.0)]);
        assert_eq!(median_in(&evenness.busy, 1.05, 2.0), Some(2.0));
        assert_eq!(median_in(&evenness.busy, 2.0, 3.0), None);
    }
}
