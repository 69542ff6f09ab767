//! The results of a run: as Markdown, as JSON, as a picture.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use baton::control::Status;
use serde::Serialize;

use super::ledger::{Death, Kill};
use super::loads::Counted;
use super::plan::{Change, Side};
use super::state::State;
use super::watch::{Sample, growth_per_hour};
use super::{Seen, plot};
use crate::compare::machine;
use crate::load::Failures;
use crate::run::{Percentiles, group};

/// Version of the JSON. It is incremented when a field changes its meaning.
const VERSION: u32 = 1;

/// The most samples in the JSON: of a long run every second one, third one, and so on.
const SAMPLES_MAX: usize = 1_000;

#[derive(Debug, Serialize)]
struct LoadRow {
    name: String,
    connections: u64,
    answers: u64,
    failures: Failures,
    lost_with_killed_workers: Failures,
    repeated: u64,
    slow_connects: u64,
    bytes_received: u64,
    bytes_sent: u64,
    full_handshakes: u64,
    resumed_handshakes: u64,
    latency_us: Percentiles,
    reasons: Vec<String>,
}

impl LoadRow {
    fn new(name: &str, counted: &Counted) -> Self {
        Self {
            name: name.to_owned(),
            connections: counted.connections,
            answers: counted.answers,
            failures: counted.failures.clone(),
            lost_with_killed_workers: counted.lost.clone(),
            repeated: counted.repeated,
            slow_connects: counted.slow_connects,
            bytes_received: counted.bytes_received,
            bytes_sent: counted.bytes_sent,
            full_handshakes: counted.full_handshakes,
            resumed_handshakes: counted.resumed_handshakes,
            latency_us: Percentiles::of(&counted.latency),
            reasons: counted.reasons.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct VisitRow {
    server: Side,
    name: &'static str,
    connections: u64,
    answers: u64,
    lost_with_killed_workers: u64,
}

#[derive(Debug, Serialize)]
struct ChangeRow {
    name: &'static str,
    /// By server.
    times: BTreeMap<&'static str, u64>,
    took_us: Percentiles,
}

#[derive(Debug, Serialize)]
struct KillRow {
    server: Side,
    how: Death,
    lost: u64,
    /// The most connections that the killed worker can have had.
    had_at_most: u64,
}

/// See the module's head.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    command: String,
    machine: String,
    server: String,
    handover: String,
    pub(super) seed: u64,
    seconds: f64,
    pub(super) connections: u64,
    pub(super) answers: u64,
    pub(super) changes: u64,
    interrupted: bool,
    /// The first failure, and those that it may have caused.
    failures: Vec<String>,
    loads: Vec<LoadRow>,
    visits: Vec<VisitRow>,
    change_rows: Vec<ChangeRow>,
    /// In order, for each server.
    kills: Vec<KillRow>,
    memory_growth_per_hour_bytes: Option<f64>,
    descriptors_growth_per_hour: Option<f64>,
    pub(super) quiet: Vec<Sample>,
    pub(super) samples: Vec<Sample>,
}

impl Report {
    pub(super) fn new(seed: u64, about: &Status, state: &State, seen: &Seen) -> Self {
        let mut arguments_given: Vec<String> = env::args().skip(1).map(|argument| without_folders(&argument)).collect();
        if !arguments_given.iter().any(|argument| argument.starts_with("--seed")) {
            arguments_given.push(format!("--seed {seed}"));
        }
        let mut loads: Vec<_> = seen.loads.iter().collect();
        loads.sort_by_key(|(_, (index, _))| *index);
        let visits: Vec<VisitRow> = seen
            .visits
            .iter()
            .map(|((server, visit), visited)| VisitRow {
                server: *server,
                name: visit.name(),
                connections: visited.visits,
                answers: visited.answers,
                lost_with_killed_workers: visited.lost,
            })
            .collect();
        let every = seen.samples.len().div_ceil(SAMPLES_MAX).max(1);
        let kills = |server| {
            let all = state.ledger.kills(server).into_iter();
            all.map(move |Kill { how, lost, had, .. }| KillRow { server, how, lost, had_at_most: had.unwrap_or(0) })
        };
        let sum = |of: fn(&Counted) -> u64| loads.iter().map(|(_, (_, counted))| of(counted)).sum::<u64>();
        Self {
            version: VERSION,
            command: format!("baton-bench {}", arguments_given.join(" ")),
            machine: machine(),
            server: format!(
                "{} {}",
                about.name.as_deref().unwrap_or("batond"),
                about.program_version.as_deref().unwrap_or("of unknown version")
            ),
            handover: about.handover.clone(),
            seed,
            seconds: state.elapsed().as_secs_f64(),
            connections: sum(|counted| counted.connections) + visits.iter().map(|row| row.connections).sum::<u64>(),
            answers: sum(|counted| counted.answers) + visits.iter().map(|row| row.answers).sum::<u64>(),
            changes: state.changes.load(Ordering::Relaxed),
            interrupted: state.is_interrupted() && !seen.is_done,
            failures: state.failures(),
            loads: loads.iter().map(|(name, (_, counted))| LoadRow::new(name, counted)).collect(),
            visits,
            change_rows: change_rows(seen),
            kills: Side::ALL.into_iter().flat_map(kills).collect(),
            memory_growth_per_hour_bytes: growth_per_hour(&seen.quiet, |sample| sample.memory_bytes),
            descriptors_growth_per_hour: growth_per_hour(&seen.quiet, |sample| sample.descriptors),
            quiet: seen.quiet.clone(),
            samples: seen.samples.iter().step_by(every).copied().collect(),
        }
    }

    /// Whether the goal was reached and nothing went wrong.
    pub(super) fn is_good(&self) -> bool {
        self.failures.is_empty() && !self.interrupted
    }

    /// In the form of the figures in this folder: first what was done, then tables.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        let outcome = match (self.failures.as_slice(), self.interrupted) {
            ([first, others @ ..], _) => {
                let others: String = others.iter().map(|other| format!("\n- {other}")).collect();
                let others = if others.is_empty() { others } else { format!("\n\nThen:\n{others}") };
                format!("**Failed** {first}{others}")
            }
            ([], true) => "Ended early; nothing went wrong until then.".to_owned(),
            ([], false) => "Nothing went wrong.".to_owned(),
        };
        let _ = writeln!(
            text,
            "# Soak\n\n    {}\n\n{}, handover by {}. {}. Seed {}. One run in {}: {} connections, {} answers checked, {} changes. \
             Clients and servers share the machine.\n\n{outcome}",
            self.command,
            self.server,
            self.handover,
            self.machine,
            self.seed,
            duration(self.seconds),
            group(self.connections),
            group(self.answers),
            group(self.changes),
        );
        self.write_changes(&mut text);
        self.write_loads(&mut text);
        self.write_held(&mut text);
        text
    }

    fn write_changes(&self, text: &mut String) {
        text.push_str(
            "\n## Changes\n\nTimes from the request until the outcome was there and the workers served, in ms. A killed or hung \
             worker's has a second in it in which clients may notice.\n\n\
             | change | http | echo | p50 | p99 | max |\n|---|---:|---:|---:|---:|---:|\n",
        );
        for row in &self.change_rows {
            let times = |side: Side| group(row.times.get(side.name()).copied().unwrap_or(0));
            let ms = |us: f64| format!("{:.1}", us / 1e3);
            let Percentiles { p50, p99, max, .. } = row.took_us;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.name,
                times(Side::Http),
                times(Side::Echo),
                ms(p50),
                ms(p99),
                ms(max)
            );
        }
        let count = |how: Death| self.kills.iter().filter(|row| row.how == how).count() as u64;
        let lost: u64 = self.kills.iter().map(|row| row.lost).sum();
        let had: u64 = self.kills.iter().map(|row| row.had_at_most).sum();
        let _ = writeln!(
            text,
            "\nKilled workers: {}; hung workers: {}. They had at most {} connections, and clients lost {} of these. All other \
             changes lost {}.",
            group(count(Death::Killed)),
            group(count(Death::Hung)),
            group(had),
            group(lost),
            if self.failures.is_empty() { "none" } else { "what the failures say" },
        );
    }

    fn write_loads(&self, text: &mut String) {
        text.push_str(
            "\n## Load\n\nLatencies in ms, of the time in which no worker was killed: from connecting, where each request has a \
             connection; from when the request was due, where a rate says so. Lost: with killed workers. Over 200 ms: connects.\n\n\
             | load | connections | answers | lost | repeated | over 200 ms | p50 | p99 | p99.9 | max |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for row in &self.loads {
            let ms = |us: f64| format!("{:.2}", us / 1e3);
            let Percentiles { p50, p99, p99_9, max, .. } = row.latency_us;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.name,
                group(row.connections),
                group(row.answers),
                group(row.lost_with_killed_workers.total()),
                group(row.repeated),
                group(row.slow_connects),
                ms(p50),
                ms(p99),
                ms(p99_9),
                ms(max)
            );
        }
        text.push_str("\n| visitors | server | connections | answers | lost |\n|---|---|---:|---:|---:|\n");
        for row in &self.visits {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                row.name,
                row.server.name(),
                group(row.connections),
                group(row.answers),
                group(row.lost_with_killed_workers)
            );
        }
    }

    fn write_held(&self, text: &mut String) {
        let most = |of: fn(&Sample) -> u64| self.samples.iter().map(of).max().unwrap_or(0);
        let per_hour = |growth: Option<f64>, unit: f64| {
            growth.map_or("not known of so few quiet points".to_owned(), |growth| format!("{:+.2}", growth / unit))
        };
        let _ = writeln!(
            text,
            "\n## Held\n\nOf all processes of both servers. Under load at most {} MiB, {} descriptors, {} processes. Growth an \
             hour, from quiet point to quiet point without the first one: memory, MiB: {}; descriptors: {}.\n\n\
             | quiet point | at | connections | changes | memory, MiB | descriptors | processes | kernel, MiB |\n\
             |---:|---:|---:|---:|---:|---:|---:|---:|",
            group(most(|sample| sample.memory_bytes) >> 20),
            group(most(|sample| sample.descriptors)),
            group(most(|sample| sample.processes)),
            per_hour(self.memory_growth_per_hour_bytes, f64::from(1 << 20)),
            per_hour(self.descriptors_growth_per_hour, 1.0),
        );
        for (sample, number) in self.quiet.iter().zip(1..) {
            let _ = writeln!(
                text,
                "| {number} | {} | {} | {} | {:.1} | {} | {} | {} |",
                duration(sample.at_s),
                group(sample.connections),
                group(sample.changes),
                sample.memory_bytes as f64 / f64::from(1 << 20),
                group(sample.descriptors),
                group(sample.processes),
                group(sample.kernel_bytes >> 20)
            );
        }
    }

    /// Writes the Markdown to this path, and beside it the JSON and the picture.
    ///
    /// # Errors
    /// If one cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<(), String> {
        let failed = |path: &Path, problem: String| format!("{}: {problem}", path.display());
        let (json_path, plot_path) = (path.with_extension("json"), path.with_extension("svg"));
        let mut text = self.markdown();
        if let Some(name) = plot_path.file_name() {
            let _ = write!(text, "\n![memory, descriptors and processes over time]({})\n", name.to_string_lossy());
        }
        fs::write(path, text).map_err(|error| failed(path, error.to_string()))?;
        let json = serde_json::to_string(self).map_err(|error| error.to_string())?;
        fs::write(&json_path, json + "\n").map_err(|error| failed(&json_path, error.to_string()))?;
        plot::draw(&plot_path, self).map_err(|error| failed(&plot_path, error.to_string()))
    }
}

/// All kinds, including those that were not drawn.
fn change_rows(seen: &Seen) -> Vec<ChangeRow> {
    let row = |name: &'static str| {
        let mut took_us = super::Changed::default().took_us;
        let mut times = BTreeMap::new();
        for side in Side::ALL {
            if let Some(changed) = seen.changes[side as usize].get(name) {
                times.insert(side.name(), changed.times);
                // Both grow as needed.
                let _ = took_us.add(&changed.took_us);
            }
        }
        let mut took_us = Percentiles::of(&took_us);
        took_us.scale(1e3);
        ChangeRow { name, times, took_us }
    };
    Change::names().into_iter().map(row).collect()
}

/// An argument as it is displayed, without absolute paths of this machine.
fn without_folders(argument: &str) -> String {
    let (flag, value) = argument.split_once('=').map_or(("", argument), |(flag, value)| (flag, value));
    let name = Path::new(value).file_name().map(|name| name.to_string_lossy());
    let value = name.filter(|_| value.starts_with('/')).map_or(value.to_owned(), |name| name.into_owned());
    if flag.is_empty() { value } else { format!("{flag}={value}") }
}

/// Minutes and seconds, or hours and minutes.
fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match (whole / 3_600, whole / 60 % 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: f64, mebibytes: u64) -> Sample {
        Sample { at_s, memory_bytes: mebibytes << 20, descriptors: 60, processes: 6, ..Sample::default() }
    }

    fn made(failures: &[&str]) -> Report {
        let mut latency = hdrhistogram::Histogram::new(3).expect("three digits");
        latency += 2_000_000;
        let load = LoadRow {
            name: "made".to_owned(),
            connections: 1_234_567,
            answers: 1_234_560,
            failures: Failures::default(),
            lost_with_killed_workers: Failures { reset: 7, ..Failures::default() },
            repeated: 1,
            slow_connects: 2,
            bytes_received: 0,
            bytes_sent: 0,
            full_handshakes: 0,
            resumed_handshakes: 0,
            latency_us: Percentiles::of(&latency),
            reasons: Vec::new(),
        };
        let took_us = Percentiles::of(&latency);
        Report {
            version: VERSION,
            command: "baton-bench soak --seed 7".to_owned(),
            machine: "a machine".to_owned(),
            server: "batond 1".to_owned(),
            handover: "ebpf".to_owned(),
            seed: 7,
            seconds: 3_725.0,
            connections: 1_234_567,
            answers: 1_234_560,
            changes: 12_345,
            interrupted: false,
            failures: failures.iter().map(|one| (*one).to_owned()).collect(),
            loads: vec![load],
            visits: Vec::new(),
            change_rows: vec![ChangeRow { name: "worker killed", times: BTreeMap::from([("http", 3)]), took_us }],
            kills: [(Death::Killed, 5, 50), (Death::Hung, 2, 40)]
                .map(|(how, lost, had_at_most)| KillRow { server: Side::Http, how, lost, had_at_most })
                .into(),
            memory_growth_per_hour_bytes: Some(-1_572_864.0),
            descriptors_growth_per_hour: None,
            quiet: vec![sample(60.0, 40), sample(120.0, 41)],
            samples: vec![sample(1.0, 50), sample(2.0, 60)],
        }
    }

    #[test]
    fn tables_say_what_was_counted() {
        let text = made(&[]).markdown();
        for part in [
            "Seed 7. One run in 1 h 02 min: 1,234,567 connections, 1,234,560 answers checked, 12,345 changes.",
            "\n\nNothing went wrong.\n",
            "| worker killed | 3 | 0 | 2.0 | 2.0 | 2.0 |",
            "Killed workers: 1; hung workers: 1. They had at most 90 connections, and clients lost 7 of these. All other changes lost none.",
            "| made | 1,234,567 | 1,234,560 | 7 | 1 | 2 | 2.00 | 2.00 | 2.00 | 2.00 |",
            "memory, MiB: -1.50; descriptors: not known of so few quiet points.",
            "| 2 | 2 min 00 s | 0 | 0 | 41.0 | 60 | 6 | 0 |",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
    }

    #[test]
    fn absolute_paths_are_not_shown() {
        for (given, shown) in [
            ("--batond=/a/b/batond", "--batond=batond"),
            ("/a/batond", "batond"),
            ("bench/figures", "bench/figures"),
            ("7", "7"),
        ] {
            assert_eq!(without_folders(given), shown);
        }
    }

    #[test]
    fn a_failure_is_the_outcome() {
        let report = made(&["after 3.000 s: an answer is missing", "after 3.1 s: another"]);
        assert!(!report.is_good());
        assert!(
            report
                .markdown()
                .contains("\n\n**Failed** after 3.000 s: an answer is missing\n\nThen:\n\n- after 3.1 s: another\n")
        );
        assert!(made(&[]).is_good());
        assert!(!Report { interrupted: true, ..made(&[]) }.is_good());
    }

    #[test]
    fn json_and_picture_are_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("made.md");
        made(&[]).write(&path).expect("written");
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(path.with_extension("json")).expect("written")).expect("JSON");
        assert_eq!((json["seed"].as_u64(), json["quiet"][1]["descriptors"].as_u64()), (Some(7), Some(60)));
        assert!(fs::read_to_string(path.with_extension("svg")).expect("drawn").contains("<svg"));
        assert!(fs::read_to_string(&path).expect("written").contains("(made.svg)"));
    }
}
