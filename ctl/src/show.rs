//! Answers as text for people, or as JSON for programs.

use std::fmt::Write;
use std::time::Duration;

use baton::control::{Event, GenerationPhase, Status, WorkerState, WorkerStatus};
use serde::Serialize;

/// One line of JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).map_or_else(|error| format!("{error}\n"), |text| text + "\n")
}

/// One line of JSON a worker.
pub(crate) fn workers_json(status: &Status) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        generation: u32,
        phase: GenerationPhase,
        #[serde(flatten)]
        worker: &'a WorkerStatus,
    }
    let lines = status.generations.iter().flat_map(|generation| {
        generation
            .workers
            .iter()
            .map(|worker| json(&Line { generation: generation.number, phase: generation.phase, worker }))
    });
    lines.collect()
}

/// The same as JSON: the status of the master that has the name, with the others' in `others`.
pub(crate) fn status_json(status: &Status, others: &[Status]) -> String {
    #[derive(Serialize)]
    struct All<'a> {
        #[serde(flatten)]
        status: &'a Status,
        others: &'a [Status],
    }
    json(&All { status, others })
}

/// The master that has the name, and the others of an upgrade.
pub(crate) fn all(status: &Status, others: &[Status]) -> String {
    let others: String = others.iter().map(|other| format!("\nbeside it:\n{}", self::status(other))).collect();
    self::status(status) + &others
}

pub(crate) fn status(status: &Status) -> String {
    let mut text = String::new();
    let state = if status.is_stopping { "stopping" } else { "running" };
    let _ = writeln!(text, "batond {state}, pid {}, up {}", status.pid, duration(status.uptime_ms));
    if let Some(upgrade) = &status.upgrade {
        let _ = writeln!(text, "upgrade   {upgrade}");
    }
    if let Some(revert) = &status.last_revert {
        let _ = writeln!(text, "reverted  {revert}");
    }
    let _ = writeln!(text, "handover  {}: {}", status.handover, status.handover_reason);
    let _ = writeln!(text, "total     {} connections, {} requests", status.accepted, status.requests);
    for generation in &status.generations {
        let (number, phase) = (generation.number, generation.phase);
        let addresses = generation.addresses.join(" ");
        let is_known = generation.workers.iter().all(|worker| worker.state != WorkerState::Orphaned);
        let age = if is_known { format!(", {}", duration(generation.age_ms)) } else { String::new() };
        let _ = writeln!(text, "\ngeneration {number}, {phase}{age}, on {addresses}");
        text.push_str(&table(generation.workers.iter().map(row)));
        for worker in &generation.workers {
            if let Some(end) = worker.last_exit.filter(|_| worker.deaths > 0) {
                let _ = writeln!(
                    text,
                    "  worker {}: its last process {end}; deaths in a row: {}",
                    worker.slot, worker.deaths
                );
            }
        }
    }
    if let Some(timeline) = status.handovers.last() {
        let _ = writeln!(text, "\nlast handover: {}, {}Z", timeline.kind, time_of_day(timeline.at_us));
        for one in &timeline.steps {
            let event = Event { at_us: 0, generation: one.generation, kind: one.kind.clone() };
            text.push_str(&step(&event, Duration::from_micros(one.after_us)));
        }
    }
    text
}

pub(crate) fn workers(status: &Status) -> String {
    table(status.generations.iter().flat_map(|generation| &generation.workers).map(row))
}

/// Something that happened, with the time of day (UTC).
pub(crate) fn event(event: &Event) -> String {
    format!("{}Z  {}\n", time_of_day(event.at_us), said(event))
}

fn time_of_day(at_us: u64) -> String {
    let since = Duration::from_micros(at_us);
    let day_seconds = since.as_secs() % 86_400;
    let (hours, minutes, seconds) = (day_seconds / 3600, day_seconds / 60 % 60, day_seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:06}", since.subsec_micros())
}

/// A step of what was asked for, with the time it came after.
pub(crate) fn step(event: &Event, after: Duration) -> String {
    format!("{:>8.1} ms  {}\n", after.as_secs_f64() * 1e3, said(event))
}

fn said(event: &Event) -> String {
    match event.generation {
        Some(number) => format!("generation {number}: {}", event.kind),
        None => event.kind.to_string(),
    }
}

const HEADINGS: [&str; 10] =
    ["slot", "pid", "state", "up", "open", "accepted", "taken over", "requests", "p50 µs", "p99 µs"];

fn row(worker: &WorkerStatus) -> [String; 10] {
    let number = |text: String| if worker.state == WorkerState::Orphaned { "-".to_owned() } else { text };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let microseconds = |nanoseconds: u64| format!("{:.1}", nanoseconds as f64 / 1e3);
    [
        worker.slot.to_string(),
        or_dash(worker.pid.map(|pid| pid.to_string())),
        worker.state.to_string(),
        or_dash(worker.age_ms.map(duration)),
        number(worker.open.to_string()),
        number(worker.accepted.to_string()),
        number(worker.taken_over.to_string()),
        number(worker.requests.to_string()),
        number(microseconds(worker.service_ns_p50)),
        number(microseconds(worker.service_ns_p99)),
    ]
}

fn table(rows: impl Iterator<Item = [String; 10]>) -> String {
    let rows: Vec<[String; 10]> = std::iter::once(HEADINGS.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// A length of time as people say it.
fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use baton::control::EventKind;

    use super::*;

    #[test]
    fn times_are_said_in_two_units() {
        let said = [5, 59_999, 61_000, 3_660_000, 90_000_000].map(duration);
        assert_eq!(said, ["5 ms", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn an_event_has_the_time_of_day() {
        let at_us = (86_400 + 3600 + 120 + 3) * 1_000_000 + 42;
        let one = Event { at_us, generation: Some(2), kind: EventKind::Gone };
        assert_eq!(event(&one), "01:02:03.000042Z  generation 2: its workers have ended\n");
        assert_eq!(step(&one, Duration::from_millis(17)), "    17.0 ms  generation 2: its workers have ended\n");
    }
}
