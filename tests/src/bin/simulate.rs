//! Runs the simulated worlds of `baton` for as long as one likes: whatever history breaks an invariant is shortened and
//! printed as a time line.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use baton::simulation::masters;
use clap::{Parser, ValueEnum};

/// Looks for histories that break what the server promises.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Which world to run
    #[arg(long, value_enum, default_value = "masters")]
    world: World,
    /// Stop after this many seeds; without it and --minutes, 100000
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Stop after this many minutes
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first: u64,
    /// Run this seed alone, and print what happens even if nothing breaks
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "minutes", "first"])]
    replay: Option<u64>,
    /// Explore the small worlds exhaustively instead, with so many wishes of operators: 1 takes seconds, 2 minutes
    #[arg(long, value_name = "WISHES", conflicts_with_all = ["seeds", "minutes", "first", "replay"])]
    explore: Option<usize>,
    /// Go on after a failure, and stop after this many
    #[arg(long, value_name = "N", default_value_t = 1)]
    failures: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum World {
    /// Masters, workers, the kernel, operators: the control path
    Masters,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A machine that finds itself in an illegal state panics; the history is printed instead.
    std::panic::set_hook(Box::new(|_| {}));
    let World::Masters = arguments.world;
    if let Some(wishes_max) = arguments.explore {
        return match masters::explore(wishes_max, usize::MAX, |world| println!("{world}")) {
            Ok(states) => {
                println!("{states} states, and nothing breaks");
                ExitCode::SUCCESS
            }
            Err(broken) => {
                println!("{broken}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(seed) = arguments.replay {
        return match masters::replay(seed) {
            Ok(lines) => {
                print!("{lines}");
                println!("seed {seed}: nothing breaks");
                ExitCode::SUCCESS
            }
            Err(history) => {
                println!("{history}");
                ExitCode::FAILURE
            }
        };
    }
    let seeds = arguments.seeds.or(arguments.minutes.is_none().then_some(100_000)).unwrap_or(u64::MAX);
    let began = Instant::now();
    let until = arguments.minutes.map(|minutes| began + Duration::from_secs(minutes * 60));
    let (mut count, mut failures) = (0, 0);
    while count < seeds && failures < arguments.failures && until.is_none_or(|until| Instant::now() < until) {
        let seed = arguments.first.wrapping_add(count);
        count += 1;
        if let Err(history) = masters::run_seed(seed) {
            failures += 1;
            println!("{history}");
            println!("again: simulate --replay {seed}\n");
        }
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!(
        "{count} seeds in {:.1} s, {:.0} a minute; {failures} broke an invariant",
        minutes * 60.0,
        count as f64 / minutes.max(f64::EPSILON)
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
