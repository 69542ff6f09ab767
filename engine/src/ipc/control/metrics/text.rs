//! The two text formats of metrics: OpenMetrics 1.0, and Prometheus's earlier one (0.0.4).
//!
//! They are written here and not by `prometheus-client`: that crate does not escape label values
//! (prometheus/client_rust, issue 151), which here contain names of certificates and of a protocol's counters. It also
//! lacks format 0.0.4, which node_exporter's textfile collector reads.

use std::fmt::{Display, Write};

use super::super::steers;

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
}

impl MetricsFormat {
    /// As in the header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The type of a metric family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

/// A label's name, and its value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// A text to which families are appended.
pub(super) struct Text {
    format: MetricsFormat,
    out: String,
    name: &'static str,
    kind: Kind,
}

impl Text {
    pub(super) fn new(format: MetricsFormat) -> Self {
        Self { format, out: String::new(), name: "", kind: Kind::Gauge }
    }

    /// Begins a family. Names of counters have no suffix here; units are the last word of the name.
    pub(super) fn family(&mut self, kind: Kind, name: &'static str, help: &str) {
        (self.kind, self.name) = (kind, name);
        let kind_name = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        };
        let is_open = self.format == MetricsFormat::OpenMetrics;
        let suffix = if kind == Kind::Counter && !is_open { "_total" } else { "" };
        let _ = writeln!(self.out, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind_name}");
        let unit = ["seconds", "bytes", "ratio"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
        if let Some(unit) = unit.filter(|_| is_open) {
            let _ = writeln!(self.out, "# UNIT {name} {unit}");
        }
    }

    /// Appends a value of the family.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        self.part(suffix, labels, None, value);
    }

    /// Appends a value of the family that is a quantile, or a part of a histogram.
    pub(super) fn part(&mut self, suffix: &str, labels: &[Label<'_>], last: Option<Label<'_>>, value: impl Display) {
        let _ = write!(self.out, "{}{suffix}", self.name);
        for (index, (label, text)) in labels.iter().chain(&last).enumerate() {
            let _ = write!(self.out, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            self.escape(text);
            self.out.push('"');
        }
        let close = if labels.is_empty() && last.is_none() { "" } else { "}" };
        let _ = writeln!(self.out, "{close} {value}");
    }

    /// Names come from certificates and programs: they must not end a line or a value, or control a terminal.
    fn escape(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' | '"' => self.out.extend(['\\', character]),
                character if steers(character) => self.out.push('\u{fffd}'),
                character => self.out.push(character),
            }
        }
    }

    pub(super) fn end(mut self) -> String {
        if self.format == MetricsFormat::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}
