//! Runs the simulated worlds of `baton` for as long as you like. A history that breaks an invariant is shortened and
//! printed as a timeline.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use baton::simulation::{masters, moving};
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
    /// Run this seed alone, and print what happens; of the world of moving only where something breaks
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "minutes", "first"])]
    replay: Option<u64>,
    /// Explore the small worlds of the masters exhaustively instead, with so many wishes of operators: 1 takes seconds, 2
    /// minutes
    #[arg(long, value_name = "WISHES", conflicts_with_all = ["world", "seeds", "minutes", "first", "replay"])]
    explore: Option<usize>,
    /// Go on after a failure, and stop after this many
    #[arg(long, value_name = "N", default_value_t = 1)]
    failures: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum World {
    /// Masters, workers, the kernel, operators: the control path
    Masters,
    /// Workers that move connections to each other, and their clients
    Moving,
}

impl World {
    fn name(self) -> &'static str {
        match self {
            Self::Masters => "masters",
            Self::Moving => "moving",
        }
    }

    fn run_seed(self, seed: u64) -> Result<(), String> {
        match self {
            Self::Masters => masters::run_seed(seed),
            Self::Moving => moving::run_seed(seed),
        }
    }

    /// The events of a seed's history. For the world `moving`, only whether it breaks an invariant.
    fn replay(self, seed: u64) -> Result<String, String> {
        match self {
            Self::Masters => masters::replay(seed),
            Self::Moving => moving::run_seed(seed).map(|()| String::new()),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A machine panics when it detects an illegal state. This prints the history instead.
    std::panic::set_hook(Box::new(|_| {}));
    let world = arguments.world;
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
        return match world.replay(seed) {
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
        if let Err(history) = world.run_seed(seed) {
            failures += 1;
            println!("{history}");
            println!("again: simulate --world {} --replay {seed}\n", world.name());
        }
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!(
        "world {}: {count} histories, from seed {}, in {:.1} s ({:.0} a minute); {failures} broke an invariant",
        world.name(),
        arguments.first,
        minutes * 60.0,
        count as f64 / minutes.max(f64::EPSILON)
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
