//! The command line of `baton-bench soak`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;

use crate::number;

/// The shortest run, and the longest.
const HOURS: RangeInclusive<f64> = 0.001..=24.0 * 366.0;

/// From one quiet point or line of progress to the next.
const PAUSE_S: RangeInclusive<f64> = 0.1..=86_400.0;

#[derive(Debug, Args)]
#[command(after_help = "\
Two servers are started, one for HTTP (plain and within TLS) and one for echo. Both go through changes without a pause:
reloads, other numbers of workers, upgrades that are committed, reverted or broken, rebalancing, and workers and masters
that are stopped and killed. Meanwhile clients connect for each request, keep their connections, pipeline, upload,
download, read and write slowly, say nothing or garbage, half-close and reset; every answer is checked byte by byte.
The seed decides which changes each server goes through, in which order, and what clients do; how the two meet is up to
the machine.

Lost may be the connections of a worker that is killed or hangs, as many as it had and none that came later. Anything
else ends the run: a refused or reset connect, a missing or wrong answer, a change without its outcome, a process that is
left, and memory or descriptors that grow. At a quiet point the load stops, all connections are closed, and what the
servers hold then is compared with the first quiet point.

Exit codes: 0 the goal was reached and nothing was wrong, 1 something was, or the run was ended early (Ctrl-C: the report
is written nevertheless), 2 wrong usage.

Examples:
  baton-bench soak --hours 8 --report soak.md
  baton-bench soak --connections 10000000 --changes 10000 --report bench/figures
  baton-bench soak --hours 0.1 --seed 7")]
pub(crate) struct SoakArguments {
    /// How long.
    #[arg(long, value_name = "HOURS", value_parser = number::fraction(" of hours", HOURS), conflicts_with_all = ["connections", "changes"])]
    hours: Option<f64>,
    /// Until so many connections were made (and `--changes` is reached).
    #[arg(long, value_name = "COUNT", value_parser = number::whole(1..=u64::MAX))]
    connections: Option<u64>,
    /// Until so many changes were made (and `--connections` is reached).
    #[arg(long, value_name = "COUNT", value_parser = number::whole(1..=u64::MAX))]
    changes: Option<u64>,
    /// Decides the changes and what clients do; drawn and printed where none is given.
    #[arg(long, value_name = "NUMBER", value_parser = number::seed)]
    seed: Option<u64>,
    /// The server to start [default: batond beside this program].
    #[arg(long, value_name = "PATH")]
    batond: Option<PathBuf>,
    /// How the servers hand listeners over: auto, ebpf or adopt.
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = ["auto", "ebpf", "adopt"])]
    pub(super) tier: String,
    /// Write the report as Markdown into this file, or as soak.md into this folder, with .json and .svg beside it.
    #[arg(long, value_name = "FILE|FOLDER")]
    report: Option<PathBuf>,
    /// From one quiet point to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = number::seconds(PAUSE_S))]
    quiet_every: f64,
    /// By how many MiB the servers' memory may be larger at a quiet point than at the first one.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = number::whole(0..=u64::from(u32::MAX)))]
    pub(super) memory_growth_max: u64,
    /// By how many the servers' descriptors may be more at a quiet point than at the first one.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = number::whole(0..=u64::from(u32::MAX)))]
    pub(super) descriptors_growth_max: u64,
    /// From one line that says how far it is to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = number::seconds(PAUSE_S))]
    progress_every: f64,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    Time(Duration),
    Counts { connections: u64, changes: u64 },
}

impl Goal {
    pub(super) fn is_reached(self, elapsed: Duration, connections: u64, changes: u64) -> bool {
        match self {
            Self::Time(time) => elapsed >= time,
            Self::Counts { connections: wanted, changes: wanted_changes } => {
                connections >= wanted && changes >= wanted_changes
            }
        }
    }
}

impl SoakArguments {
    /// Says what is wrong with them, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(folder) = self.report.as_deref().and_then(Path::parent)
            && !folder.as_os_str().is_empty()
            && !folder.is_dir()
        {
            return Err(format!("--report: {} is not a folder; name a file in one that exists", folder.display()));
        }
        self.binary().map(|_| ())
    }

    /// The goal; an hour if nothing is given.
    pub(super) fn goal(&self) -> Goal {
        match (self.connections, self.changes) {
            (None, None) => Goal::Time(Duration::from_secs_f64(3_600.0 * self.hours.unwrap_or(1.0))),
            (connections, changes) => {
                Goal::Counts { connections: connections.unwrap_or(0), changes: changes.unwrap_or(0) }
            }
        }
    }

    /// The given seed, or one from the clock.
    pub(super) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            now.as_micros() as u64 % 1_000_000_007
        })
    }

    pub(super) fn binary(&self) -> Result<PathBuf, String> {
        let path = match &self.batond {
            Some(path) => path.clone(),
            None => {
                let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
                program.with_file_name("batond")
            }
        };
        // The server runs in a folder of its own.
        path.canonicalize().map_err(|error| {
            format!(
                "{}: {error}; name the server with --batond, or build it with `cargo build -p batond`",
                path.display()
            )
        })
    }

    pub(super) fn quiet_every(&self) -> Duration {
        Duration::from_secs_f64(self.quiet_every)
    }

    pub(super) fn progress_every(&self) -> Duration {
        Duration::from_secs_f64(self.progress_every)
    }

    /// The Markdown file of the report.
    pub(super) fn report(&self) -> Option<PathBuf> {
        let path = self.report.as_ref()?;
        Some(if path.is_dir() { path.join("soak.md") } else { path.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_counts_must_be_reached() {
        let goal = Goal::Counts { connections: 10, changes: 3 };
        let day = Duration::from_secs(86_400);
        assert!(!goal.is_reached(day, 10, 2));
        assert!(!goal.is_reached(day, 9, 3));
        assert!(goal.is_reached(Duration::ZERO, 10, 3));
        assert!(Goal::Time(day).is_reached(day, 0, 0));
        assert!(!Goal::Time(day).is_reached(day / 2, u64::MAX, u64::MAX));
    }
}
