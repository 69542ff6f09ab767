//! The command line of `baton-bench handover`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Schedule;
use super::batond::Batond;
use super::others::{Haproxy, Nginx};
use super::target::{Action, Target};
use crate::number;
use crate::panel::svg_file;
use crate::run::{check_target, resolve};

/// How often an action is repeated at most.
const REPEAT_MAX: u32 = 100_000;

/// The longest of its times: an hour.
const SECONDS_MAX: f64 = 3600.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Server {
    Batond,
    Nginx,
    Haproxy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    Auto,
    Ebpf,
    Adopt,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Two kinds of clients send requests without a pause: some connect for each request, some keep their
connection. A request counts for an action if it began or was answered between the action's start
and --window seconds after old processes are gone.

A request is lost if the server refused its connection, cut it off, or answered wrongly, or if
connecting took more than 200 ms. A reset is a loss on a kept connection too, because it can
destroy an answer (RFC 9112, 9.6). Two things are no loss: a request that a killed worker was
serving (at most one per client), and a request on a kept connection that the server closed before
any byte of an answer, since a client may repeat that one (RFC 9112, 9.3.1), as these clients do.

Exit codes: 0 nothing was lost, 1 something was lost or an action failed, 2 wrong usage.

Examples:
  baton-bench handover
  baton-bench handover --action reload --action upgrade --repeat 20 --plot timeline.svg
  baton-bench handover --action upgrade --repeat 1 --keep-alive 1000 --picture upgrade.svg
  baton-bench handover --server nginx --json nginx.json
  baton-bench handover --attach /run/batond.sock --target 127.0.0.1:8080 --action reload")]
pub(crate) struct HandoverArguments {
    /// Server to start and put under load.
    #[arg(long, value_enum, default_value_t = Server::Batond)]
    server: Server,
    /// Use the running batond with this control socket instead of starting one.
    #[arg(long, value_name = "PATH", requires = "target_address")]
    attach: Option<PathBuf>,
    /// Address of that batond.
    #[arg(long = "target", id = "target_address", value_name = "ADDRESS:PORT", requires = "attach")]
    target_address: Option<String>,
    /// Action to perform; repeatable. Default: all actions of the server.
    #[arg(long = "action", value_enum, value_name = "ACTION")]
    actions: Vec<Action>,
    /// How often to perform each action.
    #[arg(long, default_value_t = 3, value_parser = number::whole(1..=REPEAT_MAX))]
    repeat: u32,
    /// Seconds from the start of one action to the next; more if the action takes longer.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = number::seconds(0.0..=SECONDS_MAX))]
    every: f64,
    /// Seconds after an action that still count for it.
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS", value_parser = number::seconds(0.0..=SECONDS_MAX))]
    window: f64,
    /// Seconds before the first action.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = number::seconds(0.0..=SECONDS_MAX))]
    steady: f64,
    /// Number of the server's workers (of HAProxy's threads).
    #[arg(long, default_value_t = 2, value_parser = number::whole(1..=64_u32))]
    workers: u32,
    /// Number of clients that connect for each request.
    #[arg(long, default_value_t = 8, value_name = "COUNT", value_parser = number::whole(1..=10_000_u32))]
    pub(super) churn: u32,
    /// Number of clients that keep their connection.
    #[arg(long, default_value_t = 8, value_name = "COUNT", value_parser = number::whole(1..=10_000_u32))]
    pub(super) keep_alive: u32,
    /// How batond hands listeners over.
    #[arg(long, value_enum, default_value_t = Tier::Auto)]
    tier: Tier,
    /// Pin the clients to this core; by default they are not pinned.
    #[arg(long, value_name = "CORE", value_parser = number::core)]
    pub(super) cores: Vec<usize>,
    /// Write everything as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Draw throughput, latency and losses over time, as SVG.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file())]
    pub(super) plot: Option<PathBuf>,
    /// Draw the last action as SVG: each process's connections, and how long clients wait. Only for batond.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file())]
    pub(super) picture: Option<PathBuf>,
}

impl HandoverArguments {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.picture.is_some() && self.server != Server::Batond {
            return Err("--picture needs batond: nginx and haproxy do not tell how many connections each process has"
                .to_owned());
        }
        if self.attach.is_some() && self.server != Server::Batond {
            return Err("--attach needs batond; baton-bench starts nginx and haproxy itself".to_owned());
        }
        if let Some(target) = &self.target_address {
            check_target(resolve(target)?, false)?;
        }
        Ok(())
    }

    pub(super) fn target(&self) -> Result<Box<dyn Target>, String> {
        let workers = self.workers as usize;
        Ok(match (self.server, &self.attach, &self.target_address) {
            (Server::Batond, Some(control), Some(target)) => Box::new(Batond::attach(control, resolve(target)?)?),
            (Server::Batond, ..) => {
                let tier = self.tier.to_possible_value().map_or(String::new(), |tier| tier.get_name().to_owned());
                Box::new(Batond::start(workers, &tier)?)
            }
            (Server::Nginx, ..) => Box::new(Nginx::start(workers)?),
            (Server::Haproxy, ..) => Box::new(Haproxy::start(workers)?),
        })
    }

    pub(super) fn schedule(&self, had: &[Action]) -> Result<Schedule, String> {
        let mut actions = Vec::new();
        for action in if self.actions.is_empty() { had } else { &self.actions[..] } {
            if !had.contains(action) {
                let names: Vec<String> = had.iter().map(|action| action.name()).collect();
                return Err(format!("--action {}: this server only has {}", action.name(), names.join(", ")));
            }
            if !actions.contains(action) {
                actions.push(*action);
            }
        }
        let seconds = Duration::from_secs_f64;
        Ok(Schedule {
            actions,
            repeat: self.repeat,
            every: seconds(self.every),
            window: seconds(self.window),
            steady: seconds(self.steady),
        })
    }
}
