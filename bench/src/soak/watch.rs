//! The servers' resources: memory, descriptors, processes; at any time, and at quiet points, where they must not grow.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::balance::descriptors;
use crate::compare::{kernel_bytes, memory_bytes};
use crate::cpu::tree;
use crate::handover::process_state;

/// A zombie may be seen this many times: masters reap their workers at once.
const ZOMBIE_SIGHTINGS_MAX: u32 = 10;

/// One measurement of all processes of the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Sample {
    pub(super) at_s: f64,
    /// Proportional set size of all together.
    pub(super) memory_bytes: u64,
    pub(super) descriptors: u64,
    pub(super) processes: u64,
    pub(super) zombies: u64,
    /// Kernel memory of the whole machine: slabs, stacks, page tables.
    pub(super) kernel_bytes: u64,
    /// Connections and changes until then.
    pub(super) connections: u64,
    pub(super) changes: u64,
}

/// Measures processes again and again.
#[derive(Debug, Default)]
pub(super) struct Watch {
    zombies: BTreeMap<u32, u32>,
}

impl Watch {
    /// Measures all processes that this program has started.
    ///
    /// # Errors
    /// If a zombie stays.
    pub(super) fn look(&mut self, at_s: f64, connections: u64, changes: u64) -> Result<Sample, String> {
        let own = std::process::id();
        let pids: Vec<u32> = tree(own).into_iter().filter(|pid| *pid != own).collect();
        let zombies: Vec<u32> = pids.iter().copied().filter(|pid| process_state(*pid) == "Z").collect();
        self.see(&zombies)?;
        Ok(Sample {
            at_s,
            memory_bytes: pids.iter().map(|pid| memory_bytes(*pid)).sum(),
            descriptors: pids.iter().map(|pid| descriptors(*pid)).sum(),
            processes: pids.len() as u64,
            zombies: zombies.len() as u64,
            kernel_bytes: kernel_bytes(),
            connections,
            changes,
        })
    }

    fn see(&mut self, zombies: &[u32]) -> Result<(), String> {
        let before = std::mem::take(&mut self.zombies);
        for pid in zombies {
            let sightings = before.get(pid).copied().unwrap_or(0) + 1;
            if sightings > ZOMBIE_SIGHTINGS_MAX {
                return Err(format!("process {pid} has ended, and its master does not wait for it"));
            }
            self.zombies.insert(*pid, sightings);
        }
        Ok(())
    }
}

/// How much more the servers may hold at a quiet point than at the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) memory_bytes: u64,
    pub(super) descriptors: u64,
}

/// What has grown too much since the first quiet point, if anything.
pub(super) fn grown(quiet: &[Sample], bounds: Bounds) -> Option<String> {
    let ([first, ..], [.., last]) = (quiet, quiet) else { return None };
    let checks = [
        ("memory", first.memory_bytes, last.memory_bytes, bounds.memory_bytes),
        ("descriptors", first.descriptors, last.descriptors, bounds.descriptors),
        ("processes", first.processes, last.processes, 0),
    ];
    checks.into_iter().find(|(_, before, now, more)| *now > before.saturating_add(*more)).map(
        |(what, before, now, more)| {
            format!(
                "{what} at the quiet point {}: {now}, after {before} at the first one; {more} more are allowed",
                quiet.len()
            )
        },
    )
}

/// How much a value grows per hour: the slope of the least-squares line through all quiet points except the first, at
/// which the servers have done little. `None` if fewer than three are left.
pub(super) fn growth_per_hour(quiet: &[Sample], value: impl Fn(&Sample) -> u64) -> Option<f64> {
    let points: Vec<(f64, f64)> =
        quiet.iter().skip(1).map(|sample| (sample.at_s / 3_600.0, value(sample) as f64)).collect();
    if points.len() < 3 {
        return None;
    }
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    let slope = points.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum::<f64>() / spread;
    slope.is_finite().then_some(slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(hours: f64, memory_bytes: u64, descriptors: u64) -> Sample {
        Sample { at_s: hours * 3_600.0, memory_bytes, descriptors, processes: 6, ..Sample::default() }
    }

    #[test]
    fn growth_is_that_since_the_first_quiet_point() {
        let bounds = Bounds { memory_bytes: 100, descriptors: 2 };
        let quiet = [sample(0.0, 1_000, 50), sample(1.0, 1_100, 52)];
        assert_eq!(grown(&[], bounds), None);
        assert_eq!(grown(&quiet, bounds), None);
        let text = grown(&[quiet[0], sample(1.0, 1_101, 50)], bounds).expect("too much");
        assert!(text.starts_with("memory at the quiet point 2: 1101, after 1000"), "{text}");
        assert!(grown(&[quiet[0], sample(1.0, 900, 53)], bounds).is_some_and(|text| text.starts_with("descriptors")));
        let more = Sample { processes: 7, ..quiet[0] };
        assert!(grown(&[quiet[0], more], bounds).is_some_and(|text| text.starts_with("processes")));
    }

    #[test]
    fn growth_an_hour_is_a_slope_without_the_first() {
        let quiet = [sample(0.0, 5, 0), sample(1.0, 1_000, 0), sample(2.0, 1_300, 0), sample(3.0, 1_600, 0)];
        let slope = growth_per_hour(&quiet, |sample| sample.memory_bytes).expect("a slope");
        assert!((slope - 300.0).abs() < 1e-6, "{slope}");
        assert_eq!(growth_per_hour(&quiet[..3], |sample| sample.memory_bytes), None);
    }

    #[test]
    fn one_that_has_ended_may_not_stay() {
        let mut watch = Watch::default();
        for _ in 0..ZOMBIE_SIGHTINGS_MAX {
            assert_eq!(watch.see(&[7]), Ok(()));
        }
        assert!(watch.see(&[7]).is_err_and(|text| text.contains("process 7")));
        let mut watch = Watch::default();
        for round in 0..100 {
            assert_eq!(watch.see(&[round]), Ok(()));
        }
    }
}
