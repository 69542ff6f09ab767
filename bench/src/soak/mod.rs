//! `baton-bench soak`: two servers, every kind of load at once, one change after the other, for a long time. Every
//! answer is checked, nothing may be lost except what a killed worker had, and nothing may grow.
//!
//! A run is a sequence of segments. In each, the loads of [`loads`] and the clients of [`visitors`] run, and a thread
//! for each server makes the changes of [`plan`]. Between segments is a quiet point: no connection is left, and the
//! servers' resources are compared with those at the first one.

mod arguments;
mod change;
mod ledger;
mod loads;
mod plan;
mod plot;
mod report;
mod server;
mod state;
mod visitors;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};

pub(crate) use self::arguments::SoakArguments;
use self::plan::{Loads, Side, Step, Steps, WORKERS};
use self::report::Report;
use self::server::{Place, Server};
use self::state::State;
use self::visitors::Visits;
use self::watch::{Bounds, Sample, Watch, grown};
use crate::handover::{end_descendants, reap};
use crate::run::{Failed, group};

/// How often to check whether a segment is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How often the servers' memory, descriptors and processes are measured.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Times of changes are kept to three digits, in microseconds.
const DIGITS: u8 = 3;

/// The results of all changes of one kind.
#[derive(Clone, Debug)]
struct Changed {
    times: u64,
    took_us: Histogram<u64>,
}

impl Default for Changed {
    fn default() -> Self {
        Self { times: 0, took_us: Histogram::new(DIGITS).expect("three digits are few enough") }
    }
}

/// By kind.
type Changes = BTreeMap<&'static str, Changed>;

/// All results of a run.
#[derive(Default)]
struct Seen {
    loads: loads::Totals,
    visits: Visits,
    changes: [Changes; 2],
    samples: Vec<Sample>,
    quiet: Vec<Sample>,
    /// Connections of loads that have ended.
    connections: u64,
    /// The goal was reached, and the checks after it succeeded.
    is_done: bool,
}

/// Prints a line of progress, also into a pipe; it does not matter if nobody reads it.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush());
}

/// Ends all started processes when it is dropped.
struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        end_descendants();
    }
}

/// Runs it, and writes the results.
pub(crate) fn run(arguments: &SoakArguments) -> Result<(), Failed> {
    arguments.check().map_err(Failed::Usage)?;
    let binary = arguments.binary().map_err(Failed::Usage)?;
    let seed = arguments.seed();
    say(&format!("seed {seed}"));
    let state = Arc::new(State::new());
    // Masters whose own master has left become this process's children, and end with it.
    set_child_subreaper(true).map_err(|error| Failed::Error(format!("prctl: {error}")))?;
    watch_signals(&state).map_err(Failed::Error)?;
    // If a panic aborts, nothing is dropped.
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        say(&format!("seed {seed}"));
        end_descendants();
    }));
    let folder = tempfile::tempdir().map_err(|error| Failed::Error(format!("a temporary folder: {error}")))?;
    let _ended = Ended;
    let mut seen = Seen::default();
    let mut servers = Vec::new();
    for side in Side::ALL {
        let server = Server::start(side, &binary, &arguments.tier, folder.path(), seed).map_err(Failed::Error)?;
        servers.push(server);
    }
    let about = servers[0].status().map_err(Failed::Error)?;
    if let Err(problem) = run_segments(arguments, seed, &mut servers, &state, &mut seen) {
        state.fail(&problem);
    }
    if !state.failures().is_empty() {
        servers.iter().map(Server::last_words).filter(|words| !words.is_empty()).for_each(|words| say(&words));
    }
    let report = Report::new(seed, &about, &state, &seen);
    say(&report.markdown());
    say(&format!("seed {seed}"));
    if let Some(path) = arguments.report() {
        report.write(&path).map_err(Failed::Error)?;
    }
    if report.is_good() { Ok(()) } else { Err(Failed::Found) }
}

/// INT and TERM end the run with a report; a second one ends it at once.
fn watch_signals(state: &Arc<State>) -> Result<(), String> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // Threads that are started from now on leave them to this one; programs get them normally.
    signals.thread_block().map_err(|error| format!("signals: {error}"))?;
    let state = Arc::clone(state);
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            if state.is_interrupted() {
                end_descendants();
                std::process::exit(128 + signal as i32);
            }
            say(&format!("{signal}: ending; once more ends at once"));
            state.interrupt();
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(|error| format!("a thread: {error}"))?;
    Ok(())
}

fn run_segments(
    arguments: &SoakArguments,
    seed: u64,
    servers: &mut [Server],
    state: &Arc<State>,
    seen: &mut Seen,
) -> Result<(), String> {
    let bounds =
        Bounds { memory_bytes: arguments.memory_growth_max << 20, descriptors: arguments.descriptors_growth_max };
    let mut steps = Side::ALL.map(|side| Steps::new(seed, side));
    let mut watch = Watch::default();
    let mut progress = Progress { every: arguments.progress_every(), last: Instant::now(), connections: 0 };
    let goal = arguments.goal();
    let places: Vec<Place> = servers.iter().map(|server| server.place.clone()).collect();
    for segment in 0_u32.. {
        state.pause(false);
        let running = loads::start(&places, &Loads::nth(seed, segment), &state.gauges)?;
        let visitors = visitors::start(&places, seed, segment, state)?;
        let until = Instant::now() + arguments.quiet_every();
        let mut is_done = false;
        thread::scope(|scope| {
            let drivers: Vec<_> = servers
                .iter_mut()
                .zip(&mut steps)
                .zip(&mut seen.changes)
                .map(|((server, steps), changes)| scope.spawn(|| drive(server, steps, changes, state)))
                .collect();
            let mut sampled = Instant::now();
            while !state.is_over() && Instant::now() < until && !is_done {
                thread::sleep(LOOK_INTERVAL);
                let connections = seen.connections + state.gauges.connections() + state.connections_of_visitors();
                let changes = state.changes.load(Ordering::Relaxed);
                is_done = goal.is_reached(state.elapsed(), connections, changes);
                if sampled.elapsed() >= SAMPLE_INTERVAL {
                    sampled = Instant::now();
                    reap();
                    match watch.look(state.elapsed().as_secs_f64(), connections, changes) {
                        Ok(sample) => seen.samples.push(sample),
                        Err(problem) => state.fail(&problem),
                    }
                }
                progress.say_when_due(state, connections, changes, seen.samples.last());
            }
            state.pause(true);
            for driver in drivers {
                if driver.join().is_err() {
                    state.fail("a thread that changes a server panicked");
                }
            }
        });
        seen.connections += state.gauges.connections();
        visitors.join(&mut seen.visits)?;
        if let Err(problem) = running.stop(&mut seen.loads, &state.gauges) {
            state.fail(&problem);
        }
        if !state.failures().is_empty() {
            return Ok(());
        }
        let changes = state.changes.load(Ordering::Relaxed);
        let sample = be_quiet(servers, &mut watch, state, seen.connections + state.connections_of_visitors(), changes)?;
        seen.quiet.push(sample);
        say(&format!(
            "{:.0} s: quiet: {} MiB, {} descriptors, {} processes",
            sample.at_s,
            sample.memory_bytes >> 20,
            sample.descriptors,
            sample.processes
        ));
        if let Some(problem) = grown(&seen.quiet, bounds) {
            return Err(problem);
        }
        seen.is_done = is_done;
        if is_done || state.is_interrupted() {
            return Ok(());
        }
    }
    Ok(())
}

/// Makes changes of a server until the segment is over.
fn drive(server: &mut Server, steps: &mut Steps, changes: &mut Changes, state: &State) {
    let side = server.side();
    while !state.is_over() {
        let Some(step) = steps.next() else { return };
        thread::sleep(step.pause);
        state.begin(side, Some(step));
        let begun = Instant::now();
        let result = change::perform(server, step.change, &state.ledger, &state.gauges);
        let took = begun.elapsed();
        // Failures during the change belong to it, too.
        if let Err(problem) = result.and_then(|()| state.gauges.check(side)) {
            let Step { number, change, .. } = step;
            state.fail(&format!("{}, change {number}, {change:?}: {problem}", side.name()));
            return;
        }
        state.begin(side, None);
        state.changes.fetch_add(1, Ordering::Relaxed);
        let changed = changes.entry(step.change.name()).or_default();
        changed.times += 1;
        // It grows with its values, and has room for years.
        let _ = changed.took_us.record(took.as_micros() as u64);
    }
}

/// Waits until nothing happens any more, and measures the servers' resources.
fn be_quiet(
    servers: &mut [Server],
    watch: &mut Watch,
    state: &State,
    connections: u64,
    changes: u64,
) -> Result<Sample, String> {
    for server in servers.iter_mut() {
        let name = server.side().name();
        let quiet = server.wait_closed().and_then(|()| change::scale(server, WORKERS)).and_then(|()| server.settle());
        quiet.map_err(|problem| format!("{name}, at a quiet point: {problem}"))?;
    }
    // A master may need a moment more than it shows.
    let expected = servers.len() * (1 + WORKERS);
    let deadline = Instant::now() + SAMPLE_INTERVAL * 5;
    loop {
        reap();
        let sample = watch.look(state.elapsed().as_secs_f64(), connections, changes)?;
        if sample.processes as usize == expected {
            return Ok(sample);
        }
        if Instant::now() > deadline {
            return Err(format!("{} processes are left at a quiet point, not {expected}", sample.processes));
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Prints the progress from time to time.
struct Progress {
    every: Duration,
    last: Instant,
    connections: u64,
}

impl Progress {
    fn say_when_due(&mut self, state: &State, connections: u64, changes: u64, sample: Option<&Sample>) {
        let since = self.last.elapsed();
        if since < self.every {
            return;
        }
        let rate = connections.saturating_sub(self.connections) as f64 / since.as_secs_f64();
        (self.last, self.connections) = (Instant::now(), connections);
        let lost: u64 = Side::ALL.into_iter().map(|side| state.ledger.lost(side)).sum();
        let held = sample.map_or(String::new(), |sample| {
            format!(
                "; {} MiB, {} descriptors, {} processes",
                sample.memory_bytes >> 20,
                sample.descriptors,
                sample.processes
            )
        });
        say(&format!(
            "{:.0} s: {} connections ({rate:.0}/s), {} changes, {lost} lost with killed workers{held}",
            state.elapsed().as_secs_f64(),
            group(connections),
            group(changes),
        ));
    }
}
