//! `baton-bench`: load that checks what it gets, handovers under load, and servers side by side.
#![deny(unsafe_code)]

mod balance;
mod compare;
mod cpu;
mod handover;
mod load;
mod random;
mod run;
mod soak;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::balance::{BalanceArguments, ServeArguments};
use crate::compare::CompareArguments;
use crate::handover::HandoverArguments;
use crate::run::{Failed, RunArguments};
use crate::soak::SoakArguments;

/// Puts load on servers and measures them.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put load on a server, check every byte of its answers, and show throughput, latencies and failures.
    Run(Box<RunArguments>),
    /// Reload, scale, upgrade, revert and kill a server under load, and count what its clients lose.
    Handover(HandoverArguments),
    /// Put every kind of load on servers while they go through every kind of change, for hours, and check every answer.
    Soak(SoakArguments),
    /// Measure servers side by side, in paired windows: requests per second of server CPU time, memory, latency.
    Compare(CompareArguments),
    /// Measure how evenly servers share long-lived connections among their workers, and what an uneven share costs.
    Balance(BalanceArguments),
    /// Run the server that `balance` measures: its workers sleep for as long as a request asks.
    Serve(ServeArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Handover(arguments) => handover::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Balance(arguments) => balance::run(&arguments),
        Command::Serve(arguments) => balance::serve(&arguments),
    };
    let (code, problem) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failed::Found) => return ExitCode::FAILURE,
        Err(Failed::Error(problem)) => (1, problem),
        Err(Failed::Usage(problem)) => (2, problem),
    };
    let _ = writeln!(io::stderr(), "baton-bench: error: {problem}");
    ExitCode::from(code)
}
