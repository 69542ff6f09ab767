//! `baton-bench`: puts servers side by side under the same load, and an echo client to load them with.
#![deny(unsafe_code)]

mod compare;
mod cpu;
mod echo;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::compare::{Contestant, Plan, Workload};
use crate::echo::Echo;

/// Load for baton, and servers side by side.
///
/// HTTP and RESP load come from wrk and redis-benchmark, which must be installed; echo load is made here.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure requests per second of server CPU time of several servers, in interleaved rounds.
    Compare(CompareArguments),
    /// Send messages to an echo server and check what comes back. Loopback only.
    Echo(EchoArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  baton-bench compare --workload http:64 --workload http:64:16 \\\n    \
    --server 'baton=target/release/batond --listen 127.0.0.1:{port} --log-level error' \\\n    \
    --server 'other=./other --port {port}'\n\nThe first server is what the others' ratios refer to.")]
struct CompareArguments {
    /// NAME=COMMAND; {port} in the command is where the port goes. The command must stay in the foreground.
    #[arg(long = "server", value_name = "NAME=COMMAND", required = true)]
    servers: Vec<Contestant>,
    /// `http:CONNECTIONS`, `http:CONNECTIONS:DEPTH`, `close:CONNECTIONS` (one request each), `echo:CONNECTIONS:BYTES`, or
    /// `redis:DEPTH:TEST`.
    #[arg(long = "workload", value_name = "WORKLOAD", required = true)]
    workloads: Vec<Workload>,
    /// Rounds; every other one goes through the servers backwards.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load in each cell, after one second of warm-up.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Core the servers are pinned to.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core the load is pinned to.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

#[derive(Debug, Args)]
struct EchoArguments {
    /// Address of the server; loopback addresses only.
    address: SocketAddr,
    /// Connections kept open.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Bytes of each message.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    bytes: u32,
    /// Seconds to run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Print one JSON object instead of a line of text.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Compare(arguments) => compare::run(&Plan {
            workloads: arguments.workloads,
            servers: arguments.servers,
            rounds: arguments.rounds as usize,
            seconds: arguments.seconds,
            server_core: arguments.server_core,
            load_core: arguments.load_core,
        })
        .map_err(|error| error.to_string()),
        Command::Echo(arguments) => run_echo(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "baton-bench: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_echo(arguments: &EchoArguments) -> Result<(), String> {
    if !arguments.address.ip().is_loopback() {
        return Err(format!("{} is not a loopback address; load goes to this machine only", arguments.address));
    }
    let EchoArguments { address, connections, bytes, seconds, json } = *arguments;
    let outcome = echo::run(Echo { address, connections, bytes, seconds }).map_err(|error| error.to_string())?;
    let text = if json {
        serde_json::to_string(&outcome).map_err(|error| error.to_string())?
    } else {
        let rate = outcome.messages as f64 / outcome.seconds.max(f64::MIN_POSITIVE);
        format!(
            "{} messages of {bytes} bytes, {rate:.0} a second; refused {}, ended by the server {}, wrong {}",
            outcome.messages, outcome.refused, outcome.ended, outcome.wrong
        )
    };
    writeln!(io::stdout(), "{text}").map_err(|error| format!("standard output: {error}"))?;
    if outcome.refused + outcome.ended + outcome.wrong > 0 { Err("some connections failed".to_owned()) } else { Ok(()) }
}
