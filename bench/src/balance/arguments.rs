//! The command line of `baton-bench balance`.

use std::path::PathBuf;

use clap::Args;

use super::scenario::{FULL, QUICK, Scenario};
use super::servers::Server;

#[derive(Debug, Args)]
#[command(after_help = "\
Workers sleep for the time that a request takes, and occupy no core meanwhile: so 8 or 64 of
them queue as they would on cores of their own, on a machine that has two. This is a
simulation of cores, and its figures are none of a real machine's.

Scenarios: open:CLIENTS (each client asks at the moments of a Poisson process, whatever has
been answered; latency counts from then) or closed:CLIENTS (it asks again when it has been
answered and has thought), and behind that, each with a colon: load=SHARE (of what all workers
can do; default 0.8), skew (1 client in 20 asks 50 times as often), churn=COUNT (connections a
second that are closed, each for a new one), ramp=SECONDS (over which clients come),
workers=COUNT (default 8), service-us=TIME (default 1000).

Exit codes: 0 measured, 1 a request failed or nothing could be measured, 2 wrong usage.

Examples:
  baton-bench balance --quick
  baton-bench balance --json balance.json --chart balance.svg --markdown balance.md
  baton-bench balance --scenario open:64:load=0.5 --server hash --server rebalance --seed 1 --seed 2")]
pub(crate) struct BalanceArguments {
    /// What is asked; repeatable.
    #[arg(long = "scenario", value_name = "SCENARIO", conflicts_with = "quick")]
    pub(super) scenarios: Vec<Scenario>,
    /// Who is asked; repeatable. Default: all.
    #[arg(long = "server", value_enum, value_name = "NAME")]
    pub(super) servers: Vec<Server>,
    /// Two scenarios, 5 seconds each: two minutes.
    #[arg(long)]
    pub(super) quick: bool,
    /// Seconds measured [default: 12; 5 with --quick].
    #[arg(long)]
    seconds: Option<f64>,
    /// Seconds of load before that, when all clients have come.
    #[arg(long, default_value_t = 2.0)]
    pub(super) warm_up: f64,
    /// Of who asks often, and of all times; repeatable, each measures everything anew [default: 1].
    #[arg(long = "seed", value_name = "NUMBER")]
    pub(super) seeds: Vec<u64>,
    /// Folder of the peers.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/peers"), hide_default_value = true)]
    pub(super) peers: PathBuf,
    /// Write all tables, as Markdown.
    #[arg(long, value_name = "FILE")]
    pub(super) markdown: Option<PathBuf>,
    /// Write every figure, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Draw latencies, and how even workers are over time.
    #[arg(long, value_name = "FILE.svg")]
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
        for (name, seconds, least) in [("--seconds", self.seconds(), 0.5), ("--warm-up", self.warm_up, 0.0)] {
            if !(least..=600.0).contains(&seconds) {
                return Err(format!("{name} must be between {least} and 600, not {seconds}"));
            }
        }
        if self.chart.as_ref().is_some_and(|path| path.extension().is_none_or(|extension| extension != "svg")) {
            return Err("--chart: only .svg is drawn".to_owned());
        }
        Ok(())
    }
}
