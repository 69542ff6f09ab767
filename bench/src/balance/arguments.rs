//! The command line of `baton-bench balance`.

use std::path::PathBuf;

use clap::Args;

use super::scenario::{FULL, QUICK, Scenario};
use super::servers::Server;
use crate::number;
use crate::panel::svg_file;

/// The longest of its times: ten minutes.
const SECONDS_MAX: f64 = 600.0;

#[derive(Debug, Args)]
#[command(after_help = "\
This simulates cores: a worker sleeps for the time that a request takes and uses no core
meanwhile. So 8 or 64 workers queue on a machine with two cores as they would on a core each.
The figures are not those of a real machine.

Scenarios: open:CLIENTS (each client sends requests at the times of a Poisson process, answered
or not; latency counts from these times) or closed:CLIENTS (a client sends the next request after
the answer and a pause). Options follow, each after a colon: load=SHARE (of what all workers
can do; default 0.8), skew (1 client in 20 asks 50 times as often), churn=COUNT (connections a
second that are closed and replaced), ramp=SECONDS (in which the clients arrive),
workers=COUNT (default 8), service-us=TIME (default 1000).

Exit codes: 0 measured, 1 a request failed or nothing could be measured, 2 wrong usage.

Examples:
  baton-bench balance --quick
  baton-bench balance --json balance.json --chart balance.svg --markdown balance.md
  baton-bench balance --scenario open:64:load=0.5 --server hash --server rebalance --seed 1 --seed 2")]
pub(crate) struct BalanceArguments {
    /// Scenario to measure; repeatable.
    #[arg(long = "scenario", value_name = "SCENARIO", conflicts_with = "quick")]
    pub(super) scenarios: Vec<Scenario>,
    /// Server to measure; repeatable. Default: all.
    #[arg(long = "server", value_enum, value_name = "NAME")]
    pub(super) servers: Vec<Server>,
    /// Measure two scenarios for 5 seconds each; takes two minutes.
    #[arg(long)]
    pub(super) quick: bool,
    /// Seconds to measure [default: 12; 5 with --quick].
    #[arg(long, value_parser = number::seconds(0.5..=SECONDS_MAX))]
    seconds: Option<f64>,
    /// Seconds of load before that, after all clients have arrived.
    #[arg(long, default_value_t = 2.0, value_parser = number::seconds(0.0..=SECONDS_MAX))]
    pub(super) warm_up: f64,
    /// Seed of all random choices; repeatable, each seed measures everything again [default: 1].
    #[arg(long = "seed", value_name = "NUMBER", value_parser = number::seed)]
    pub(super) seeds: Vec<u64>,
    /// Folder with the other servers.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/peers"), hide_default_value = true)]
    pub(super) peers: PathBuf,
    /// Write all tables as Markdown.
    #[arg(long, value_name = "FILE")]
    pub(super) markdown: Option<PathBuf>,
    /// Write every figure as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Draw latencies and the imbalance of workers over time, as SVG.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file())]
    pub(super) chart: Option<PathBuf>,
}

impl BalanceArguments {
    pub(super) fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 5.0 } else { 12.0 })
    }

    pub(super) fn scenarios(&self) -> Result<Vec<Scenario>, String> {
        let names: &[&str] = if self.quick { &QUICK } else { &FULL };
        if self.scenarios.is_empty() {
            names.iter().map(|name| name.parse()).collect()
        } else {
            Ok(self.scenarios.clone())
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
