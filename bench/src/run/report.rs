//! The results of a run: as a table, as JSON, and as a distribution in HdrHistogram's own text form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::{Failures, Handshakes, Outcome, Plan, SLOW_CONNECT, TlsOutcome};

/// Version of the JSON. It is incremented when a field changes its meaning.
const VERSION: u32 = 1;

/// What the run itself has measured.
pub(super) struct Measured {
    /// Time since the start of the load.
    pub(super) from: Duration,
    pub(super) elapsed: Duration,
    pub(super) client_cpu_seconds: f64,
    pub(super) server_cpu_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    pub(super) target: String,
    pub(super) exchange: String,
    connections: u32,
    depth: u32,
    requests_per_connection: u32,
    pub(super) rate: Option<f64>,
    threads: usize,
    pub(super) seconds: f64,
    /// When the measured time began, in seconds from the start of the load.
    pub(super) measured_from_seconds: f64,
    requests: u64,
    requests_per_second: f64,
    unsent: u64,
    connections_opened: u64,
    bytes_received: u64,
    bytes_sent: u64,
    latency_us: Latencies,
    failures: Failures,
    slow_connects: u64,
    reasons: Vec<String>,
    client_cpu_seconds: f64,
    requests_per_client_cpu_second: f64,
    server_cpu_seconds: Option<f64>,
    requests_per_server_cpu_second: Option<f64>,
    throughput: Throughput,
    /// Including the warm-up.
    pub(super) tls: Option<Tls>,
}

#[derive(Debug, Serialize)]
pub(super) struct Tls {
    handshakes: Handshakes,
    /// From the client's first message to its last one.
    handshake_us: Percentiles,
    agreed: BTreeMap<String, u64>,
    alerts: BTreeMap<String, u64>,
    closed_without_close_notify: u64,
}

impl Tls {
    fn new(outcome: &TlsOutcome) -> Self {
        Self {
            handshakes: outcome.handshakes,
            handshake_us: Percentiles::of(&outcome.handshake),
            agreed: outcome.agreed.clone(),
            alerts: outcome.alerts.clone(),
            closed_without_close_notify: outcome.without_close_notify,
        }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let Handshakes { full, resumed } = self.handshakes;
        let mut rows = vec![("handshakes", format!("{} full, {} resumed", group(full), group(resumed)))];
        rows.extend(self.agreed.iter().map(|(on, count)| ("", format!("{} of {on}", group(*count)))));
        if !self.alerts.is_empty() {
            let alerts: Vec<String> =
                self.alerts.iter().map(|(name, count)| format!("{name} {}", group(*count))).collect();
            rows.push(("alerts received", alerts.join(", ")));
        }
        let unclosed = self.closed_without_close_notify;
        if unclosed > 0 {
            rows.push(("without close_notify", format!("{} closed by the server", group(unclosed))));
        }
        rows
    }
}

#[derive(Debug, Serialize)]
struct Latencies {
    /// Time from sending to the answer.
    uncorrected: Percentiles,
    /// Time since the request was due; the same without a rate.
    corrected: Percentiles,
}

#[derive(Debug, Serialize)]
struct Throughput {
    interval_ms: u64,
    /// Including the warm-up.
    requests: Vec<u64>,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    min: f64,
    mean: f64,
    pub(crate) p50: f64,
    p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    p99_99: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    pub(crate) fn of(latency: &Histogram<u64>) -> Self {
        let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
        let is_empty = latency.is_empty();
        let largest = latency.max() as f64 / 1e3;
        Self {
            min: if is_empty { 0.0 } else { latency.min() as f64 / 1e3 },
            mean: latency.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: largest,
        }
    }

    /// Scales values that were recorded in another unit than nanoseconds.
    pub(crate) fn scale(&mut self, by: f64) {
        let Self { min, mean, p50, p90, p99, p99_9, p99_99, max } = self;
        for value in [min, mean, p50, p90, p99, p99_9, p99_99, max] {
            *value *= by;
        }
    }

    fn columns(&self) -> [(&'static str, f64); 6] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("p99.99", self.p99_99),
            ("max", self.max),
        ]
    }
}

impl Report {
    pub(super) fn new(plan: &Plan, outcome: &Outcome, measured: Measured) -> Self {
        let phase = &outcome.phases[0];
        let seconds = measured.elapsed.as_secs_f64();
        let per = |cpu: f64| if cpu > 0.0 { outcome.requests as f64 / cpu } else { 0.0 };
        let uncorrected = Percentiles::of(&phase.latency);
        let corrected = if plan.rate.is_some() { Percentiles::of(&phase.latency_corrected) } else { uncorrected };
        Self {
            version: VERSION,
            target: plan.target.to_string(),
            exchange: plan.exchange.to_string(),
            connections: plan.connections,
            depth: plan.depth,
            requests_per_connection: plan.requests_per_connection,
            rate: plan.rate,
            threads: plan.thread_count(),
            seconds,
            measured_from_seconds: measured.from.as_secs_f64(),
            requests: outcome.requests,
            requests_per_second: outcome.requests as f64 / seconds,
            unsent: outcome.unsent,
            connections_opened: outcome.connections_opened,
            bytes_received: outcome.bytes_received,
            bytes_sent: outcome.bytes_sent,
            latency_us: Latencies { uncorrected, corrected },
            failures: outcome.failures.clone(),
            slow_connects: outcome.slow_connects,
            reasons: outcome.reasons.clone(),
            client_cpu_seconds: measured.client_cpu_seconds,
            requests_per_client_cpu_second: per(measured.client_cpu_seconds),
            server_cpu_seconds: measured.server_cpu_seconds,
            requests_per_server_cpu_second: measured.server_cpu_seconds.map(per),
            throughput: Throughput {
                interval_ms: plan.interval.as_millis() as u64,
                requests: outcome.timeline.bins.iter().map(|bin| bin.requests).collect(),
            },
            tls: plan.tls.as_ref().map(|_| Tls::new(&outcome.tls)),
        }
    }

    pub(super) fn table(&self) -> String {
        let mut text = format!("{} at {}: {} connections", self.exchange, self.target, group(self.connections.into()));
        if self.depth > 1 {
            let _ = write!(text, ", {} requests in flight on each", self.depth);
        }
        if self.requests_per_connection > 0 {
            let _ = write!(text, ", {} requests on each, then another", self.requests_per_connection);
        }
        match self.rate {
            Some(rate) => {
                let _ = writeln!(text, ", {} requests a second wanted", group(rate as u64));
            }
            None => text.push('\n'),
        }
        let row = |text: &mut String, name: &str, value: String| {
            let _ = writeln!(text, "  {name:<22}{value}");
        };
        let rate = group(self.requests_per_second as u64);
        let threads = if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        row(&mut text, "answered", format!("{} in {:.2} s, {rate} a second", group(self.requests), self.seconds));
        row(
            &mut text,
            "client CPU",
            format!(
                "{:.2} s ({threads}), {} requests per CPU second",
                self.client_cpu_seconds,
                group(self.requests_per_client_cpu_second as u64)
            ),
        );
        if let (Some(cpu), Some(rate)) = (self.server_cpu_seconds, self.requests_per_server_cpu_second) {
            row(&mut text, "server CPU", format!("{cpu:.2} s, {} requests per CPU second", group(rate as u64)));
        }
        let opened = group(self.connections_opened);
        let slow = format!("{opened} opened, {} over {} ms", self.slow_connects, SLOW_CONNECT.as_millis());
        row(&mut text, "connections", slow);
        for (name, value) in self.tls.iter().flat_map(Tls::rows) {
            row(&mut text, name, value);
        }
        self.write_latencies(&mut text);
        if self.unsent > 0 {
            row(&mut text, "due and never sent", group(self.unsent));
        }
        let failed: Vec<String> = self
            .failures
            .kinds()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{kind} {}", group(count)))
            .collect();
        row(&mut text, "failed", if failed.is_empty() { "0".to_owned() } else { failed.join(", ") });
        if self.failures.stale > 0 {
            row(&mut text, "asked again", format!("{} (closed by the server while kept)", group(self.failures.stale)));
        }
        for reason in &self.reasons {
            row(&mut text, "", reason.clone());
        }
        if self.requests == 0 {
            row(&mut text, "", "nothing was answered".to_owned());
        }
        text
    }

    fn write_latencies(&self, text: &mut String) {
        let columns = self.latency_us.uncorrected.columns();
        let _ = write!(text, "  {:<22}", "latency, ms");
        for (name, _) in columns {
            let _ = write!(text, "{name:>10}");
        }
        let mut rows = vec![("  from sending", columns)];
        if self.rate.is_some() {
            rows.push(("  from when due", self.latency_us.corrected.columns()));
        }
        if let Some(tls) = self.tls.as_ref().filter(|tls| tls.handshakes.total() > 0) {
            rows.push(("  of the handshake", tls.handshake_us.columns()));
        }
        for (name, columns) in rows {
            let _ = write!(text, "\n  {name:<22}");
            for (_, value) in columns {
                let _ = write!(text, "{:>10.3}", value / 1e3);
            }
        }
        text.push('\n');
    }
}

/// A count with commas.
pub(crate) fn group(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The distribution as HdrHistogram's plotter reads it, in milliseconds.
pub(super) fn hgrm(latency: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in latency.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / 1e6;
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value:>12.3} {quantile:>14.12} {total:>10}");
        if quantile < 1.0 {
            let _ = write!(text, " {:>14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let (mean, deviation) = (latency.mean() / 1e6, latency.stdev() / 1e6);
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(text, "#[Max     = {:>12.3}, Total count    = {:>12}]", latency.max() as f64 / 1e6, latency.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!((group(0), group(999), group(1_000)), ("0".to_owned(), "999".to_owned(), "1,000".to_owned()));
        assert_eq!(group(12_345_678), "12,345,678");
    }

    #[test]
    fn a_distribution_ends_with_everything() {
        let mut latency = Histogram::new(3).expect("a histogram");
        (1..=1_000_u64).for_each(|value| latency.record(value * 1_000_000).expect("in range"));
        let text = hgrm(&latency);
        let last = text.lines().rfind(|line| !line.starts_with('#')).expect("lines");
        assert!(last.contains("1.000000000000") && last.contains("1000"), "{last}");
        assert!(text.contains("Total count    =         1000"));
    }
}
