//! `baton-bench`: load that checks what it gets, handovers under load, and servers side by side.
#![deny(unsafe_code)]

mod balance;
mod compare;
mod cpu;
mod handover;
mod load;
mod number;
mod panel;
mod random;
mod run;
mod soak;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

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
    let command = number::with_negative_numbers(Arguments::command());
    let arguments = Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let result = match arguments.command {
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

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use super::*;
    use crate::number::NumberRefused;

    /// Each flag whose value is a number, and its subcommand.
    fn numeric_flags(arguments: &clap::Command) -> Vec<(String, String)> {
        let types = [TypeId::of::<f64>(), TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>()];
        let types = [&types[..], &[TypeId::of::<usize>()]].concat();
        let of = |command: &clap::Command| {
            let name = command.get_name().to_owned();
            let numeric = command.get_opts().filter(|flag| {
                let parsed = flag.get_value_parser().type_id();
                types.iter().any(|known| parsed == *known)
            });
            numeric.filter_map(|flag| Some((name.clone(), flag.get_long()?.to_owned()))).collect::<Vec<_>>()
        };
        arguments.get_subcommands().flat_map(of).collect()
    }

    #[test]
    fn every_flag_of_a_number_says_its_range_to_what_it_refuses() {
        let command = number::with_negative_numbers(Arguments::command());
        command.clone().debug_assert();
        let flags = numeric_flags(&command);
        assert!(flags.contains(&("soak".to_owned(), "hours".to_owned())), "{flags:?}");
        for (subcommand, flag) in flags {
            for wrong in ["-1", "nan", "1 parsec", "99999999999999999999"] {
                let words = ["baton-bench", &subcommand, &format!("--{flag}"), wrong];
                let refused = command.clone().try_get_matches_from(words).expect_err(&flag);
                let source = std::error::Error::source(&refused);
                assert!(source.is_some_and(|source| source.is::<NumberRefused>()), "{words:?}: {refused}");
                assert_eq!(refused.exit_code(), 2);
            }
        }
    }
}
