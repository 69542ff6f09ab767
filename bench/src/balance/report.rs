//! The results, as tables and as JSON.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::ideal::{System, best_ratio, simulate};
use super::scenario::Scenario;
use super::servers::Server;
use super::watch::{Evenness, median_in};
use crate::load::{Failures, Outcome};

/// Version of the JSON. It is incremented when a field changes its meaning.
const VERSION: u32 = 1;

/// Number of requests simulated for each ideal.
const REQUESTS: f64 = 2e6;

/// Length of the first measurement of busy time, which starts when all clients have arrived.
const FIRST_S: f64 = 2.0;

/// In milliseconds, from when requests were due.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
}

impl Latency {
    fn of(latency_ns: &Histogram<u64>) -> Self {
        let at = |quantile| latency_ns.value_at_quantile(quantile) as f64 / 1e6;
        Self { p50: at(0.5), p99: at(0.99), p99_9: at(0.999) }
    }
}

/// What the same clients would see at servers without any cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Ideal {
    pub(super) shared: Latency,
    pub(super) parts: Latency,
    pub(super) turns: Latency,
    /// max / mean of busy time if clients are distributed as well as possible.
    pub(super) busy: f64,
}

impl Ideal {
    pub(super) fn of(scenario: &Scenario, seed: u64) -> Self {
        let plan = scenario.arrivals(seed);
        let time = Duration::from_secs_f64(REQUESTS / plan.rate);
        let of = |system| {
            Latency::of(&simulate(&plan, scenario.clients, scenario.workers, scenario.service(), system, time))
        };
        Self {
            shared: of(System::Shared),
            parts: of(System::Parts),
            turns: of(System::Turns),
            busy: best_ratio(&plan, scenario.clients, scenario.workers),
        }
    }
}

/// One server.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) server: String,
    pub(super) requests_per_second: f64,
    pub(super) latency_ms: Latency,
    /// Requests that were due at the end and had not been sent.
    left: u64,
    failures: Failures,
    connections_opened: u64,
    /// Medians over time of max / mean: of connections, and of busy time at first and in the last half.
    connections: Option<f64>,
    busy_first: Option<f64>,
    busy_last: Option<f64>,
    /// When it was measured, in seconds from the start of the load.
    pub(super) measured_s: (f64, f64),
    pub(super) evenness: Evenness,
}

impl Row {
    pub(super) fn new(server: Server, outcome: &Outcome, measured_s: (f64, f64), evenness: Evenness) -> Self {
        let (from_s, until_s) = measured_s;
        Self {
            server: server.to_string(),
            requests_per_second: outcome.requests as f64 / (until_s - from_s),
            latency_ms: Latency::of(&outcome.phases[0].latency_corrected),
            left: outcome.unsent,
            failures: outcome.failures.clone(),
            connections_opened: outcome.connections_opened,
            connections: median_in(&evenness.connections, from_s, until_s),
            busy_first: median_in(&evenness.busy, from_s - FIRST_S, from_s + FIRST_S),
            busy_last: median_in(&evenness.busy, from_s.midpoint(until_s), until_s),
            measured_s,
            evenness,
        }
    }

    fn cells(&self, shared: &Latency) -> [String; 12] {
        let of = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let Latency { p50, p99, p99_9 } = self.latency_ms;
        [
            self.server.clone(),
            format!("{:.0}", self.requests_per_second),
            milliseconds(p50),
            milliseconds(p99),
            milliseconds(p99_9),
            format!("{:.1}", p99 / shared.p99),
            of(self.connections),
            of(self.evenness.connections_worst),
            of(self.busy_first),
            of(self.busy_last),
            self.evenness.moved.to_string(),
            self.evenness.late_us.map_or("-".to_owned(), |us| format!("{us:.0}")),
        ]
    }
}

const HEADINGS: [&str; 12] = [
    "server",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "p99 / ideal",
    "connections",
    "worst",
    "busy at first",
    "busy at last",
    "moved",
    "late us",
];

fn milliseconds(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// One scenario.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Table {
    pub(super) scenario: String,
    seed: u64,
    pub(super) ideal: Ideal,
    pub(super) rows: Vec<Row>,
    pub(super) skipped: Vec<(String, String)>,
}

impl Table {
    pub(super) fn new(scenario: &Scenario, seed: u64, ideal: Ideal) -> Self {
        Self { scenario: scenario.to_string(), seed, ideal, rows: Vec::new(), skipped: Vec::new() }
    }

    /// Headings, the ideals, and the servers.
    fn lines(&self) -> Vec<[String; 12]> {
        let mut lines = vec![HEADINGS.map(str::to_owned)];
        let Ideal { shared, parts, turns, busy } = self.ideal;
        for (name, latency) in [("(one queue)", shared), ("(fair parts)", parts), ("(parts, turns)", turns)] {
            let mut line = [const { String::new() }; 12];
            line[0] = name.to_owned();
            for (cell, value) in line[2..5].iter_mut().zip([latency.p50, latency.p99, latency.p99_9]) {
                *cell = milliseconds(value);
            }
            line[5] = format!("{:.1}", latency.p99 / shared.p99);
            if latency.p99 != shared.p99 {
                line[9] = format!("{busy:.2}");
            }
            lines.push(line);
        }
        lines.extend(self.rows.iter().map(|row| row.cells(&shared)));
        lines
    }

    pub(super) fn text(&self) -> String {
        let lines = self.lines();
        let widths: Vec<usize> =
            (0..12).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
        let mut text = format!("{}, seed {}\n", self.scenario, self.seed);
        for line in &lines {
            let _ = write!(text, "  {:<width$}", line[0], width = widths[0]);
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                let _ = write!(text, "  {cell:>width$}");
            }
            text.push('\n');
        }
        self.notes().for_each(|note| text.extend(["  ", &note, "\n"]));
        text.push('\n');
        text
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = format!("{}, seed {}:\n\n", self.scenario, self.seed);
        for (index, line) in self.lines().iter().enumerate() {
            let _ = writeln!(text, "| {} |", line.join(" | "));
            if index == 0 {
                text.push_str(&format!("|---|{}\n", "---:|".repeat(11)));
            }
        }
        text.push('\n');
        self.notes().for_each(|note| text.extend(["- ", &note, "\n"]));
        text.push('\n');
        text
    }

    fn notes(&self) -> impl Iterator<Item = String> {
        let failed = self.rows.iter().filter(|row| row.failures.total() > 0).map(|row| {
            let kinds = row.failures.kinds().into_iter().filter(|(_, count)| *count > 0);
            let kinds: Vec<String> = kinds.map(|(kind, count)| format!("{count} {kind}")).collect();
            format!("{}: requests failed: {}", row.server, kinds.join(", "))
        });
        let left = self.rows.iter().filter(|row| row.left > 0).map(|row| {
            let left = row.left;
            format!(
                "{}: {left} requests were due but not sent at the end; they count with the time that they had waited",
                row.server
            )
        });
        let skipped = self.skipped.iter().map(|(server, problem)| format!("{server}: skipped: {problem}"));
        failed.chain(left).chain(skipped)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    /// A description, for readers who have only the file.
    note: &'static str,
    cores: usize,
    seconds: f64,
    warm_up_seconds: f64,
    pub(super) tables: Vec<Table>,
}

impl Report {
    pub(super) fn new(seconds: f64, warm_up_seconds: f64) -> Self {
        Self {
            version: VERSION,
            note: "simulated cores: workers sleep for the time of a request and use no core",
            cores: thread::available_parallelism().map_or(0, usize::from),
            seconds,
            warm_up_seconds,
            tables: Vec::new(),
        }
    }

    /// Whether every row has results, and nothing failed.
    pub(super) fn is_sound(&self) -> bool {
        let is_sound = |row: &Row| row.failures.total() == 0 && row.requests_per_second > 0.0;
        self.tables.iter().all(|table| !table.rows.is_empty() && table.rows.iter().all(is_sound))
    }
}
