//! The results of a comparison: tables for a terminal, Markdown, and the figures as JSON.

use std::fmt::Write as _;
use std::fs;

use serde::Serialize;

use super::Plan;
use super::catalogue::{BATON, Server};
use super::measure::Sample;
use super::statistics::{Ratio, Summary};
use super::workload::{Variety, Workload};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    machine: String,
    versions: Vec<(String, String)>,
    method: String,
    pub(super) tables: Vec<Table>,
    pub(super) skipped: Skipped,
}

/// Servers that could not be measured, and why.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Skipped(Vec<String>);

impl Skipped {
    /// Adds it, and prints it at once.
    pub(super) fn add(&mut self, server: &str, workload: Option<&Workload>, why: &str) {
        let line = match workload {
            Some(workload) => format!("{server}, {}: {why}", workload.name()),
            None => format!("{server}: {why}"),
        };
        super::say(&format!("SKIPPED {line}"));
        self.0.push(line);
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) title: String,
    workload: String,
    pub(super) measure: Measure,
    /// The first server comes first: ratios are to it.
    pub(super) rows: Vec<Row>,
}

/// The figure that measures a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Measure {
    /// Requests per second of server CPU time: more is better.
    PerCpuSecond,
    /// Bytes of the process for each connection: less is better.
    BytesPerConnection,
    /// 99.9th percentile at a given rate, in microseconds: less is better.
    Latency,
}

/// One server under one workload.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    is_bare: bool,
    /// Requested rate, in requests per second.
    rate: Option<f64>,
    note: Option<String>,
    /// Ratio of the measured figures to the first server's, in pairs.
    pub(super) to_first: Option<Ratio>,
    samples: Vec<Sample>,
}

impl Row {
    pub(super) fn new(server: &Server, samples: Vec<Sample>, rate: Option<f64>, note: Option<String>) -> Self {
        Self { name: server.name.clone(), is_bare: server.is_bare(), rate, note, to_first: None, samples }
    }

    fn good(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.problem.is_none())
    }

    /// `None` if every window failed.
    fn summary(&self, of: impl Fn(&Sample) -> f64) -> Option<Summary> {
        Summary::of(self.good().map(of))
    }

    /// The ratio of this server's figures to another's, window by window.
    fn ratio(&self, to: &Self, measure: Measure) -> Option<Ratio> {
        let blocks = self.samples.iter().map(|sample| sample.block + 1).max().unwrap_or(0);
        let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); blocks as usize];
        for sample in self.good() {
            let is_pair = |other: &&Sample| (other.block, other.window) == (sample.block, sample.window);
            if let Some(other) = to.good().find(is_pair)
                && measure.of(other) > 0.0
            {
                ratios[sample.block as usize].push(measure.of(sample) / measure.of(other));
            }
        }
        Ratio::of(&ratios)
    }

    /// Remarks beside the figures.
    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.note.clone().into_iter().collect();
        let windows = self.samples.len();
        let disturbed = self.samples.iter().filter(|sample| sample.is_disturbed).count();
        if disturbed > 0 {
            notes.push(format!("{disturbed} of {windows} windows disturbed"));
        }
        let problems: Vec<&String> = self.samples.iter().filter_map(|sample| sample.problem.as_ref()).collect();
        if let Some(first) = problems.first() {
            notes.push(format!("{} of {windows} windows failed and are left out: {first}", problems.len()));
        }
        notes
    }
}

impl Measure {
    fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::PerCpuSecond => sample.per_cpu_second,
            Self::BytesPerConnection => sample.process_bytes,
            Self::Latency => sample.latency_us.p99_9,
        }
    }
}

impl Table {
    fn connections(&self) -> f64 {
        match self.workload.parse::<Workload>().as_ref().map(Workload::inner) {
            Ok(Workload::Idle { connections }) => f64::from(*connections),
            _ => 1.0,
        }
    }

    pub(super) fn figure(&self, row: &Row) -> Option<Summary> {
        let connections = self.connections();
        row.summary(|sample| self.measure.of(sample) / connections)
    }

    fn median_of(&self, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        Some(self.figure(row)?.median)
    }

    /// The ratio to the better of the bare loops.
    fn ratio_to_bare(&self, row: &Row) -> Option<Ratio> {
        let bare = self.rows.iter().filter(|row| row.is_bare).filter_map(|row| Some((row, self.figure(row)?.median)));
        let (best, _) = match self.measure {
            Measure::PerCpuSecond => bare.max_by(|(_, one), (_, other)| one.total_cmp(other)),
            Measure::BytesPerConnection | Measure::Latency => bare.min_by(|(_, one), (_, other)| one.total_cmp(other)),
        }?;
        row.ratio(best, self.measure)
    }

    fn header(&self) -> [String; 7] {
        let first = self.rows.first().map_or(String::new(), |row| format!("to {}", row.name));
        let [figure, last @ ..] = match self.measure {
            Measure::PerCpuSecond => ["1,000 per CPU s", "to bare", "1,000 per s", "p99 ms"],
            Measure::BytesPerConnection => ["B/connection", "to bare", "kernel B", ""],
            Measure::Latency => ["p99.9 ms", "p50 ms", "p99 ms", "1,000 per CPU s"],
        };
        let [one, two, three] = last.map(str::to_owned);
        [figure.to_owned(), "min–max".to_owned(), first, "95 %".to_owned(), one, two, three]
    }

    fn cells(&self, row: &Row) -> [String; 7] {
        let Some(figure) = self.figure(row) else { return [const { String::new() }; 7] };
        let number = |value: f64| match self.measure {
            Measure::PerCpuSecond | Measure::Latency => decimals(value / 1e3),
            Measure::BytesPerConnection => format!("{value:.0}"),
        };
        let median = |of: fn(&Sample) -> f64, unit: f64| {
            row.summary(of).map_or(String::new(), |summary| decimals(summary.median / unit))
        };
        let to_bare = || self.ratio_to_bare(row).map_or(String::new(), |ratio| format!("{:.3}", ratio.median));
        let last = match self.measure {
            Measure::PerCpuSecond => {
                [to_bare(), median(|sample| sample.per_second, 1e3), median(|sample| sample.latency_us.p99, 1e3)]
            }
            Measure::BytesPerConnection => {
                let kernel = row.summary(|sample| sample.kernel_bytes).map_or(0.0, |summary| summary.median);
                [to_bare(), format!("{:.0}", kernel / self.connections()), String::new()]
            }
            Measure::Latency => [
                median(|sample| sample.latency_us.p50, 1e3),
                median(|sample| sample.latency_us.p99, 1e3),
                median(|sample| sample.per_cpu_second, 1e3),
            ],
        };
        let ratio = row.to_first;
        let interval = ratio.and_then(|ratio| ratio.interval);
        let interval = interval.map_or(String::new(), |interval| format!("{:.3}–{:.3}", interval.low, interval.high));
        let ratio = ratio.map_or(String::new(), |ratio| format!("{:.3}", ratio.median));
        let is_first = self.rows.first().is_some_and(|first| first.name == row.name);
        let interval = if is_first { String::new() } else { interval };
        let [one, two, three] = last;
        let range = format!("{}–{}", number(figure.min), number(figure.max));
        [number(figure.median), range, ratio, interval, one, two, three]
    }

    fn heading(&self) -> String {
        let rate = self.rows.first().and_then(|row| row.rate);
        rate.map_or(self.title.clone(), |rate| format!("{}: {rate:.0} requests a second", self.title))
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n  {:<14}", self.heading(), "");
        let header = self.header();
        let widths = [16, 16, 4 + header[2].chars().count().max(6), 14, 10, 13, 16];
        for (name, width) in header.iter().zip(widths) {
            let _ = write!(text, "{name:>width$}");
        }
        text.truncate(text.trim_end().len());
        for row in &self.rows {
            let _ = write!(text, "\n  {:<14}", row.name);
            for (cell, width) in self.cells(row).iter().zip(widths) {
                let _ = write!(text, "{cell:>width$}");
            }
            text.truncate(text.trim_end().len());
            for note in row.notes() {
                let _ = write!(text, "\n      ! {note}");
            }
        }
        text.push('\n');
        text
    }

    fn markdown(&self) -> String {
        let header = self.header();
        let columns = header.iter().filter(|name| !name.is_empty()).count();
        let mut text = format!("### {}\n\n| |", self.heading());
        header[..columns].iter().for_each(|name| text.extend([" ", name, " |"]));
        text.push_str(&format!("\n|---|{}\n", "---:|".repeat(columns)));
        for row in &self.rows {
            let name = if row.name == BATON { "**baton**" } else { &row.name };
            let _ = write!(text, "| {name} |");
            self.cells(row)[..columns].iter().for_each(|cell| text.extend([" ", cell, " |"]));
            text.push('\n');
        }
        for row in &self.rows {
            for note in row.notes() {
                let _ = writeln!(text, "\n{}: {note}", row.name);
            }
        }
        text
    }
}

impl Comparison {
    pub(super) fn new(plan: &Plan, skipped: Skipped) -> Self {
        let versions = plan
            .servers
            .iter()
            .filter_map(|server| Some((server.name.clone(), server.version(&plan.places)?)))
            .collect();
        let method = format!(
            "{} blocks of {} windows of {} s after {} s of warm-up, all servers alive, in random order; server on core {}, \
             load on core {}",
            plan.blocks, plan.windows, plan.seconds, plan.warm_up, plan.server_core, plan.load_core
        );
        Self { machine: machine(), versions, method, tables: Vec::new(), skipped }
    }

    pub(super) fn add(&mut self, workload: &Workload, variety: Variety, mut rows: Vec<Row>) {
        let measure = match workload.inner() {
            Workload::Idle { .. } => Measure::BytesPerConnection,
            Workload::Rate { .. } => Measure::Latency,
            _ => Measure::PerCpuSecond,
        };
        let title = match variety {
            // There is only one request for each connection.
            _ if measure == Measure::BytesPerConnection => workload.to_string(),
            Variety::Equal => format!("{workload} (all requests equal)"),
            Variety::Rotation(requests) => format!("{workload} ({requests} requests in rotation)"),
            Variety::Differ => workload.to_string(),
        };
        for index in 0..rows.len() {
            rows[index].to_first = rows[index].ratio(&rows[0], measure);
        }
        self.tables.push(Table { title, workload: workload.name(), measure, rows });
    }

    pub(super) fn last_table(&self) -> String {
        self.tables.last().map_or(String::new(), Table::text)
    }

    pub(super) fn markdown(&self) -> String {
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let mut text = format!("{}. {}. {}.\n\n", self.machine, self.method, versions.join(", "));
        text.push_str(
            "Per CPU s: requests per second of server CPU time, median of all windows. Ratios to the first server (with a \
             bootstrap interval of 95 %) and to the better bare loop are medians of the ratios within windows. Kernel B: growth \
             of the kernel's memory per connection, for both ends.\n\n",
        );
        text.push_str(&self.summary());
        for table in &self.tables {
            text.push('\n');
            text.push_str(&table.markdown());
        }
        if !self.skipped.0.is_empty() {
            text.push_str("\nSkipped:\n\n");
            self.skipped.0.iter().for_each(|line| text.extend(["- ", line, "\n"]));
        }
        text
    }

    /// All medians in one table.
    fn summary(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for row in self.tables.iter().flat_map(|table| &table.rows) {
            if !names.contains(&row.name.as_str()) {
                names.push(&row.name);
            }
        }
        let mut text = "| |".to_owned();
        names.iter().for_each(|name| text.extend([" ", name, " |"]));
        text.push_str(&format!("\n|---|{}\n", "---:|".repeat(names.len())));
        for table in &self.tables {
            let unit = match table.measure {
                Measure::PerCpuSecond => "",
                Measure::BytesPerConnection => " (B each)",
                Measure::Latency => " (p99.9, ms)",
            };
            let _ = write!(text, "| {}{unit} |", table.title);
            for name in &names {
                let cell = table.median_of(name).map(|value| match table.measure {
                    Measure::BytesPerConnection => format!("{value:.0}"),
                    _ => decimals(value / 1e3),
                });
                let cell = cell.unwrap_or_default();
                let cell = if *name == BATON && !cell.is_empty() { format!("**{cell}**") } else { cell };
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        text
    }
}

/// Rounds to three significant digits.
fn decimals(value: f64) -> String {
    match value {
        value if value >= 100.0 => crate::run::group(value.round() as u64),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Kernel, processor and cores: what figures depend on.
/// The kernel, the processor and how many of them.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let version: String =
        release.trim().chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).and_then(|rest| rest.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    format!("Linux {version}, {model}, {cores} cores")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        let row = |name: &str, is_bare, figures: &[f64]| {
            let samples = figures.iter().enumerate().map(|(index, &per_cpu_second)| Sample {
                block: index as u32 / 2,
                window: index as u32 % 2,
                per_cpu_second,
                per_second: 1e5,
                ..Sample::default()
            });
            let samples = samples.collect();
            Row { name: name.to_owned(), is_bare, rate: None, note: None, to_first: None, samples }
        };
        let mut comparison = Comparison {
            machine: "M".to_owned(),
            versions: vec![("baton".to_owned(), "0.1".to_owned())],
            method: "so".to_owned(),
            tables: Vec::new(),
            skipped: Skipped(vec!["x: gone".to_owned()]),
        };
        let mut broken = row("bad", false, &[1.0]);
        broken.samples[0].problem = Some("wrong 3".to_owned());
        let mut noted = row("twice", false, &[1.8e5, 2e5, 4e5]);
        noted.note = Some("answers lack date".to_owned());
        let rows =
            vec![row("baton", false, &[9e4, 1e5, 2e5]), row("bare-uring", true, &[2e5, 2e5, 2e5]), noted, broken];
        comparison.add(&"http:64".parse().expect("a workload"), Variety::Equal, rows);
        comparison
    }

    #[test]
    fn ratios_are_of_pairs() {
        let comparison = comparison();
        let table = &comparison.tables[0];
        let ratio = |row: usize| table.rows[row].to_first;
        // 180 and 90, 200 and 100, 400 and 200; the ratio of the medians is the same here by accident.
        assert_eq!(ratio(2), Some(Ratio { median: 2.0, interval: None }));
        // 200 and 90, 200 and 100, 200 and 200.
        assert_eq!(ratio(1).map(|ratio| ratio.median), Some(2.0));
        assert_eq!(ratio(0), Some(Ratio { median: 1.0, interval: None }));
        assert_eq!(ratio(3), None);
        // 90 and 200, 100 and 200, 200 and 200.
        assert_eq!(table.ratio_to_bare(&table.rows[0]).map(|ratio| ratio.median), Some(0.5));
    }

    #[test]
    fn windows_that_only_one_server_has_are_no_pair() {
        let mut comparison = comparison();
        let table = &mut comparison.tables[0];
        table.rows[2].samples[0].problem = Some("reset 1".to_owned());
        table.rows[0].samples.remove(1);
        let table = &comparison.tables[0];
        assert_eq!(table.rows[2].ratio(&table.rows[0], table.measure), Some(Ratio { median: 2.0, interval: None }));
        let only = table.rows[2].good().filter(|sample| sample.block == 1).count();
        assert_eq!(only, 1);
    }

    #[test]
    fn tables_show_medians_ratios_and_what_is_to_be_said() {
        let text = comparison().last_table();
        assert!(text.starts_with("HTTP, 64 connections (all requests equal)\n"), "{text}");
        assert!(text.contains("90.0–200") && text.contains("to baton") && text.contains("2.000"), "{text}");
        assert!(text.contains("! 1 of 1 windows failed and are left out: wrong 3"), "{text}");
        assert!(text.contains("! answers lack date"), "{text}");
    }

    #[test]
    fn markdown_has_a_summary_and_what_was_skipped() {
        let text = comparison().markdown();
        assert!(text.contains("| HTTP, 64 connections (all requests equal) | **100** | 200 | 200 |  |"), "{text}");
        assert!(
            text.contains("- x: gone") && text.contains("| **baton** | 100 | 90.0–200 | 1.000 |  | 0.500 |"),
            "{text}"
        );
    }
}
