//! What a comparison has found: tables for a terminal, Markdown, and the figures as they are.

use std::fmt::Write as _;
use std::fs;

use serde::Serialize;

use super::Plan;
use super::catalogue::{BATON, Server};
use super::measure::Sample;
use super::statistics::Summary;
use super::workload::Workload;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    machine: String,
    versions: Vec<(String, String)>,
    method: String,
    pub(super) tables: Vec<Table>,
    pub(super) skipped: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) title: String,
    workload: String,
    pub(super) measure: Measure,
    pub(super) rows: Vec<Row>,
}

/// What a workload is measured by.
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
    /// Requests a second asked for.
    rate: Option<f64>,
    samples: Vec<Sample>,
}

impl Row {
    pub(super) fn new(server: &Server, samples: Vec<Sample>, rate: Option<f64>) -> Self {
        Self { name: server.name.clone(), is_bare: server.is_bare(), rate, samples }
    }

    /// `None` where every cell went wrong.
    fn summary(&self, of: impl Fn(&Sample) -> f64) -> Option<Summary> {
        Summary::of(self.samples.iter().filter(|sample| sample.problem.is_none()).map(of))
    }

    pub(super) fn figure(&self, measure: Measure, connections: f64) -> Option<Summary> {
        self.summary(|sample| match measure {
            Measure::PerCpuSecond => sample.per_cpu_second,
            Measure::BytesPerConnection => sample.process_bytes / connections,
            Measure::Latency => sample.latency_us.p99_9,
        })
    }

    /// What is to be said beside the figures.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let cells = self.samples.len();
        let disturbed = self.samples.iter().filter(|sample| sample.is_disturbed).count();
        if disturbed > 0 {
            notes.push(format!("{disturbed} of {cells} cells disturbed"));
        }
        let problems: Vec<&String> = self.samples.iter().filter_map(|sample| sample.problem.as_ref()).collect();
        if let Some(first) = problems.first() {
            notes.push(format!("{} of {cells} cells failed and are left out: {first}", problems.len()));
        }
        notes
    }
}

impl Table {
    fn connections(&self) -> f64 {
        match self.workload.parse() {
            Ok(Workload::Idle { connections }) => f64::from(connections),
            _ => 1.0,
        }
    }

    pub(super) fn figure(&self, row: &Row) -> Option<Summary> {
        row.figure(self.measure, self.connections())
    }

    fn median_of(&self, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        Some(self.figure(row)?.median)
    }

    pub(super) fn of_baton(&self) -> Option<f64> {
        self.median_of(BATON)
    }

    /// The better of the bare loops.
    fn of_bare(&self) -> Option<f64> {
        let bare = self.rows.iter().filter(|row| row.is_bare).filter_map(|row| Some(self.figure(row)?.median));
        match self.measure {
            Measure::PerCpuSecond => bare.reduce(f64::max),
            Measure::BytesPerConnection | Measure::Latency => bare.reduce(f64::min),
        }
    }

    fn header(&self) -> [&'static str; 6] {
        match self.measure {
            Measure::PerCpuSecond => ["1,000 per CPU s", "min–max", "to baton", "to bare", "1,000 per s", "p99 ms"],
            Measure::BytesPerConnection => ["B/connection", "min–max", "to baton", "to bare", "kernel B", ""],
            Measure::Latency => ["p99.9 ms", "min–max", "to baton", "p50 ms", "p99 ms", "1,000 per CPU s"],
        }
    }

    fn cells(&self, row: &Row) -> [String; 6] {
        let Some(figure) = self.figure(row) else { return [const { String::new() }; 6] };
        let ratio = |to: Option<f64>| match to {
            Some(to) if to > 0.0 => format!("{:.2}", figure.median / to),
            _ => String::new(),
        };
        let number = |value: f64| match self.measure {
            Measure::PerCpuSecond | Measure::Latency => decimals(value / 1e3),
            Measure::BytesPerConnection => format!("{value:.0}"),
        };
        let range = format!("{}–{}", number(figure.min), number(figure.max));
        let median = |of: fn(&Sample) -> f64, unit: f64| {
            row.summary(of).map_or(String::new(), |summary| decimals(summary.median / unit))
        };
        match self.measure {
            Measure::PerCpuSecond => [
                number(figure.median),
                range,
                ratio(self.of_baton()),
                ratio(self.of_bare()),
                median(|sample| sample.per_second, 1e3),
                median(|sample| sample.latency_us.p99, 1e3),
            ],
            Measure::BytesPerConnection => {
                let kernel = row.summary(|sample| sample.kernel_bytes).map_or(0.0, |summary| summary.median);
                [
                    number(figure.median),
                    range,
                    ratio(self.of_baton()),
                    ratio(self.of_bare()),
                    format!("{:.0}", kernel / self.connections()),
                    String::new(),
                ]
            }
            Measure::Latency => [
                number(figure.median),
                range,
                ratio(self.of_baton()),
                median(|sample| sample.latency_us.p50, 1e3),
                median(|sample| sample.latency_us.p99, 1e3),
                median(|sample| sample.per_cpu_second, 1e3),
            ],
        }
    }

    fn heading(&self) -> String {
        let rate = self.rows.first().and_then(|row| row.rate);
        rate.map_or(self.title.clone(), |rate| format!("{}: {rate:.0} requests a second", self.title))
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n  {:<14}", self.heading(), "");
        let header = self.header();
        let widths = [16, 16, 10, 10, 13, 16];
        for (name, width) in header.iter().zip(widths) {
            let _ = write!(text, "{name:>width$}");
        }
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
    pub(super) fn new(plan: &Plan, skipped: Vec<String>) -> Self {
        let versions = plan
            .servers
            .iter()
            .filter_map(|server| Some((server.name.clone(), server.version(&plan.places)?)))
            .collect();
        let method = format!(
            "{} interleaved rounds of {} s after {} s of warm-up, server on core {}, load on core {}",
            plan.rounds, plan.seconds, plan.warm_up, plan.server_core, plan.load_core
        );
        Self { machine: machine(), versions, method, tables: Vec::new(), skipped }
    }

    pub(super) fn add(&mut self, workload: &Workload, rows: Vec<Row>) {
        let measure = match workload {
            Workload::Idle { .. } => Measure::BytesPerConnection,
            Workload::Rate { .. } => Measure::Latency,
            _ => Measure::PerCpuSecond,
        };
        self.tables.push(Table { title: workload.to_string(), workload: workload.name(), measure, rows });
    }

    pub(super) fn last_table(&self) -> String {
        self.tables.last().map_or(String::new(), Table::text)
    }

    pub(super) fn markdown(&self) -> String {
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let mut text = format!("{}. {}. {}.\n\n", self.machine, self.method, versions.join(", "));
        text.push_str(
            "Per CPU s: requests per second of server CPU time, median. To baton, to bare: that, relative to baton and to \
             the better bare loop. Kernel B: growth of the kernel's memory for each connection, both of its ends.\n\n",
        );
        text.push_str(&self.summary());
        for table in &self.tables {
            text.push('\n');
            text.push_str(&table.markdown());
        }
        if !self.skipped.is_empty() {
            text.push_str("\nSkipped:\n\n");
            self.skipped.iter().for_each(|line| text.extend(["- ", line, "\n"]));
        }
        text
    }

    /// All medians on one page.
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

/// Three digits that mean something.
fn decimals(value: f64) -> String {
    match value {
        value if value >= 100.0 => crate::run::group(value.round() as u64),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Kernel, processor and cores: what figures depend on.
fn machine() -> String {
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
        let row = |name: &str, is_bare, figures: &[f64]| Row {
            name: name.to_owned(),
            is_bare,
            rate: None,
            samples: figures
                .iter()
                .map(|&per_cpu_second| Sample { per_cpu_second, per_second: 1e5, ..Sample::default() })
                .collect(),
        };
        let mut comparison = Comparison {
            machine: "M".to_owned(),
            versions: vec![("baton".to_owned(), "0.1".to_owned())],
            method: "so".to_owned(),
            tables: Vec::new(),
            skipped: vec!["x: gone".to_owned()],
        };
        let mut broken = row("bad", false, &[1.0]);
        broken.samples[0].problem = Some("wrong 3".to_owned());
        let rows = vec![row("baton", false, &[9e4, 1e5, 2e5]), row("bare-uring", true, &[2e5]), broken];
        comparison.add(&"http:64".parse().expect("a workload"), rows);
        comparison
    }

    #[test]
    fn tables_show_medians_ratios_and_what_failed() {
        let text = comparison().last_table();
        assert!(text.contains("90.0–200") && text.contains("1.00") && text.contains("0.50"), "{text}");
        assert!(text.contains("! 1 of 1 cells failed and are left out: wrong 3"), "{text}");
    }

    #[test]
    fn markdown_has_a_summary_and_what_was_skipped() {
        let text = comparison().markdown();
        assert!(text.contains("| HTTP, 64 connections | **100** | 200 |  |"), "{text}");
        assert!(text.contains("- x: gone") && text.contains("| **baton** | 100 | 90.0–200 | 1.00 | 0.50 |"), "{text}");
    }
}
