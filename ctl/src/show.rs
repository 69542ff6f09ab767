//! The server's answers as text for people, or as JSON for programs. All text from the server is escaped, so that it
//! cannot control the terminal.

use std::fmt::Write;
use std::time::Duration;

use baton::control::{
    CertificateStatus, Count, Event, Failure, GenerationPhase, GenerationStatus, Outcome, Status, Step, UpgradeState,
    WorkerState, WorkerStatus, escaped, steers,
};
use serde::Serialize;

/// The most names of a certificate that one line shows.
const CERTIFICATE_NAMES_MAX: usize = 8;

/// One line of JSON. JSON itself lets some control characters through, such as those of the block C1.
pub(crate) fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|error| format!("{:?}", error.to_string()));
    let mut line = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if steers(character) {
            let _ = write!(line, "\\u{:04x}", u32::from(character));
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    line
}

/// The outcome as the last line. Before it, planned transfers, one per line.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    let transfers = if let Outcome::WouldRebalance { transfers, .. } = outcome { &transfers[..] } else { &[] };
    let lines: String = transfers.iter().map(|one| format!("{}\n", escaped(&one.to_string()))).collect();
    format!("{lines}{}\n", escaped(&outcome.to_string()))
}

/// One line of JSON per worker.
pub(crate) fn workers_json(status: &Status) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        generation: u32,
        phase: GenerationPhase,
        #[serde(flatten)]
        worker: &'a WorkerStatus,
    }
    let lines = status.generations.iter().flat_map(|generation| {
        let (number, phase) = (generation.number, generation.phase);
        generation.workers.iter().map(move |worker| json(&Line { generation: number, phase, worker }))
    });
    lines.collect()
}

/// The status of the master that has the control socket's name, with those of the others of an upgrade in `others`.
pub(crate) fn status_json(status: &Status, others: &[Status]) -> String {
    #[derive(Serialize)]
    struct All<'a> {
        #[serde(flatten)]
        status: &'a Status,
        others: &'a [Status],
    }
    json(&All { status, others })
}

/// The master that has the control socket's name, and the others of an upgrade.
pub(crate) fn all(status: &Status, others: &[Status]) -> String {
    let others: String = others.iter().map(|other| format!("\nthe other master:\n{}", self::status(other))).collect();
    self::status(status) + &others
}

/// A master in one line. The state of an upgrade comes early, so that a narrow screen does not cut it off.
pub(crate) fn heading(status: &Status) -> String {
    running(status, &status.upgrade.map_or_else(String::new, |upgrade| format!(" (upgrade: {upgrade})")))
}

fn running(status: &Status, upgrade: &str) -> String {
    let state = match (status.is_stopping, status.upgrade) {
        (true, _) => "stopping",
        (false, Some(UpgradeState::Leaving)) => "leaving",
        (false, _) => "running",
    };
    let program = status.name.as_deref().map_or_else(|| "server".to_owned(), escaped);
    let version = status.program_version.iter().map(|version| format!(" {}", escaped(version))).collect::<String>();
    format!("{program}{version} {state}{upgrade}, pid {}, up {}", status.pid, duration(status.uptime_ms))
}

pub(crate) fn status(status: &Status) -> String {
    let mut text = format!("{}\n", running(status, ""));
    if let Some(upgrade) = status.upgrade {
        let _ = writeln!(text, "upgrade   {upgrade}");
    }
    match &status.last_revert {
        Some(Failure::Reverted { pid, why }) => {
            let _ = writeln!(text, "reverted  pid {pid}: {}", escaped(&why.to_string()));
        }
        Some(why) => {
            let _ = writeln!(text, "reverted  {}", escaped(&why.to_string()));
        }
        None => {}
    }
    let steering =
        if status.handover == "adopt" { "; the kernel picks workers for new connections by hash" } else { "" };
    let _ = writeln!(text, "handover  {}: {}{steering}", escaped(&status.handover), escaped(&status.handover_reason));
    let (connections, requests) = (Count(status.accepted, "connection"), Count(status.requests, "request"));
    let _ = writeln!(text, "total     {connections}, {requests}");
    if status.rebalanced > 0 {
        let _ = writeln!(text, "          {} rebalanced", Count(status.rebalanced, "connection"));
    }
    for (name, count) in status.counters.iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "          {}: {count}", escaped(name));
    }
    for generation in &status.generations {
        text.push('\n');
        text.push_str(&self::generation(generation));
    }
    if let Some(timeline) = status.handovers.last() {
        let _ = writeln!(text, "\nlast handover: {}, {}Z", timeline.kind, time_of_day(timeline.at_us));
        for Step { after_us, generation, kind } in &timeline.steps {
            text.push_str(&line(*generation, &kind.to_string(), Duration::from_micros(*after_us)));
        }
    }
    text
}

fn generation(generation: &GenerationStatus) -> String {
    let GenerationStatus { number, phase, age_ms, addresses, steering, imbalance, workers, certificates, .. } =
        generation;
    let mut text = String::new();
    let is_known = workers.iter().all(|worker| worker.state != WorkerState::Orphaned);
    let age = if is_known { format!(", {}", duration(*age_ms)) } else { String::new() };
    let steering = steering.as_ref().map_or_else(String::new, |steering| format!(", steering {}", escaped(steering)));
    let _ = writeln!(text, "generation {number}, {phase}{age}, on {}{steering}", escaped(&addresses.join(" ")));
    text.push_str(&table(&HEADINGS, workers.iter().map(row)));
    let ratio = |what: &str, ratio: Option<f64>| ratio.map(|ratio| format!("{what} {ratio:.2}"));
    let ratios = imbalance.map(|one| [ratio("connections", one.open), ratio("busy", one.busy)]);
    let ratios: Vec<String> = ratios.into_iter().flatten().flatten().collect();
    if !ratios.is_empty() {
        let _ = writeln!(text, "  imbalance (max / mean): {}", ratios.join(", "));
    }
    for WorkerStatus {
        slot,
        deaths,
        last_exit,
        closed_for_room,
        cut_for_memory,
        closed_without_header,
        closed_by_operator,
        paused_for_memory,
        memory_bytes,
        busy_permille,
        sibling_messages_sent,
        sibling_messages_heard,
        siblings_dropped,
        counters,
        ..
    } in workers
    {
        if let Some(busy) = busy_permille {
            let _ = writeln!(text, "  worker {slot}: busy {}.{} %", busy / 10, busy % 10);
        }
        for (name, count) in counters.iter().filter(|(_, count)| *count > 0) {
            let _ = writeln!(text, "  worker {slot}: {}: {count}", escaped(name));
        }
        if sibling_messages_sent + sibling_messages_heard + siblings_dropped > 0 {
            let (sent, dropped) = (Count(*sibling_messages_sent, "message"), Count(*siblings_dropped, "worker"));
            let heard = sibling_messages_heard;
            let _ = writeln!(
                text,
                "  worker {slot}: {sent} sent to other workers, {heard} received; gave up on {dropped} that read none"
            );
        }
        if cut_for_memory + paused_for_memory > 0 {
            let (cut, paused) = (Count(*cut_for_memory, "connection"), Count(*paused_for_memory, "pause"));
            let held = memory_bytes >> 10;
            let _ = writeln!(
                text,
                "  worker {slot}: reached memory_bytes_max: {cut} cut, {paused} in reading, {held} KiB held"
            );
        }
        if *closed_for_room > 0 {
            let closed = Count(*closed_for_room, "idle connection");
            let _ = writeln!(text, "  worker {slot}: reached connections_max: {closed} closed to make room");
        }
        if *closed_without_header > 0 {
            let closed = Count(*closed_without_header, "connection");
            let _ = writeln!(text, "  worker {slot}: {closed} closed because no trusted PROXY header came");
        }
        if *closed_by_operator > 0 {
            let closed = Count(*closed_by_operator, "connection");
            let _ = writeln!(text, "  worker {slot}: {closed} closed by operators (batonctl close)");
        }
        if let Some(exit) = last_exit.filter(|_| *deaths > 0) {
            let _ = writeln!(
                text,
                "  worker {slot}: its previous process {exit}; {} in a row",
                Count(u64::from(*deaths), "death")
            );
        }
    }
    certificates.iter().for_each(|one| text.push_str(&certificate(one)));
    if generation.certificates_left_off > 0 {
        let count = Count(generation.certificates_left_off, "certificate");
        let _ = writeln!(text, "  not shown, because they expire later: {count}");
    }
    text
}

fn certificate(certificate: &CertificateStatus) -> String {
    let CertificateStatus { addresses, names, expires_in_s, warnings, .. } = certificate;
    let mut text = String::new();
    let shown = names.len().min(CERTIFICATE_NAMES_MAX);
    let more = if names.len() > shown { format!(" and {} more", names.len() - shown) } else { String::new() };
    let names = if names.is_empty() { "no name".to_owned() } else { names[..shown].join(", ") };
    let (addresses, names) = (escaped(&addresses.join(" ")), escaped(&names));
    let _ = writeln!(text, "  certificate for {names}{more} on {addresses}: {}", expiry(*expires_in_s));
    for warning in warnings {
        let _ = writeln!(text, "  WARNING: {}", escaped(warning));
    }
    text
}

/// The time until something expires, in whole days, or in hours if it is less than a day.
fn expiry(in_s: i64) -> String {
    let hours = in_s.unsigned_abs() / 3_600;
    let time = if hours < 24 { Count(hours, "hour") } else { Count(hours / 24, "day") };
    if in_s < 0 { format!("EXPIRED {time} ago") } else { format!("expires in {time}") }
}

pub(crate) fn workers(status: &Status) -> String {
    table(&HEADINGS, status.generations.iter().flat_map(|generation| &generation.workers).map(row))
}

/// An event, with the time of day (UTC).
pub(crate) fn event(event: &Event) -> String {
    happened(event.at_us, event.generation, &event.kind.to_string()) + "\n"
}

/// The same without the end of the line.
pub(crate) fn happened(at_us: u64, generation: Option<u32>, text: &str) -> String {
    format!("{}Z  {}", time_of_day(at_us), said(generation, text))
}

fn time_of_day(at_us: u64) -> String {
    let since = Duration::from_micros(at_us);
    let day_seconds = since.as_secs() % 86_400;
    let (hours, minutes, seconds) = (day_seconds / 3600, day_seconds / 60 % 60, day_seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:06}", since.subsec_micros())
}

/// A step of the operation, with the time since the request.
pub(crate) fn step(event: &Event, after: Duration) -> String {
    line(event.generation, &event.kind.to_string(), after)
}

fn line(generation: Option<u32>, text: &str, after: Duration) -> String {
    format!("{:>8.1} ms  {}\n", after.as_secs_f64() * 1e3, said(generation, text))
}

fn said(generation: Option<u32>, text: &str) -> String {
    let text = escaped(text);
    match generation {
        Some(number) => format!("generation {number}: {text}"),
        None => text,
    }
}

const HEADINGS: [&str; 10] =
    ["slot", "pid", "state", "up", "open", "accepted", "taken over", "requests", "p50 µs", "p99 µs"];

fn row(worker: &WorkerStatus) -> Vec<String> {
    // The numbers of an orphan are in memory that the new master does not have.
    let number = |text: String| if worker.state == WorkerState::Orphaned { "-".to_owned() } else { text };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let microseconds = |nanoseconds: u64| format!("{:.1}", nanoseconds as f64 / 1e3);
    vec![
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

/// A table whose columns are as wide as their contents.
pub(crate) fn table(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// A duration in its two most significant units.
pub(crate) fn duration(ms: u64) -> String {
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
    use baton::control::{EventKind, Exit, RevertCause, Timeline, TimelineKind, Unevenness};

    use super::*;

    #[test]
    fn times_have_two_units() {
        let said = [5, 59_999, 61_000, 3_660_000, 90_000_000].map(duration);
        assert_eq!(said, ["5 ms", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn expiry_is_said_in_days_or_hours() {
        let said = [30 * 86_400 - 1, 86_400, 86_399, 59, -1, -3_600, -100 * 86_400, i64::MIN].map(expiry);
        let expected = ["in 29 days", "in 1 day", "in 23 hours", "in 0 hours"].map(|time| format!("expires {time}"));
        assert_eq!(said[..4], expected);
        let expected = ["0 hours", "1 hour", "100 days"].map(|time| format!("EXPIRED {time} ago"));
        assert_eq!(said[4..7], expected);
    }

    #[test]
    fn an_event_has_the_time_of_day() {
        let at_us = (86_400 + 3600 + 120 + 3) * 1_000_000 + 42;
        let one = Event { at_us, generation: Some(2), kind: EventKind::Serves { took_ms: 17 } };
        assert_eq!(event(&one), "01:02:03.000042Z  generation 2: serves (17 ms)\n");
        assert_eq!(step(&one, Duration::from_millis(17)), "    17.0 ms  generation 2: serves (17 ms)\n");
    }

    /// This program does not control the names and texts of a binary.
    #[test]
    fn nothing_steers_the_terminal() {
        let problem = "\x1b]0;x\x07 \u{9b}2J \u{202e}fdp\u{61c}\u{2069}\r\n ü".to_owned();
        let kind = EventKind::UpgradeFailed { why: Failure::Incompatible { problem } };
        let one = Event { at_us: 0, generation: None, kind };
        let text = event(&one);
        assert!(
            text.ends_with(concat!(r": \u{1b}]0;x\u{7} \u{9b}2J \u{202e}fdp\u{61c}\u{2069}\r\n ü", "\n")),
            "{text}"
        );
        for line in [text, step(&one, Duration::ZERO), json(&one)] {
            assert_eq!(line.chars().filter(|one| steers(*one)).collect::<String>(), "\n", "{line:?}");
        }
        assert_eq!(serde_json::from_str::<Event>(&json(&one)).expect("JSON"), one);
    }

    fn worker(slot: usize, state: WorkerState) -> WorkerStatus {
        WorkerStatus {
            slot,
            pid: Some(100 + slot as u32),
            state,
            age_ms: Some(61_000),
            busy_permille: None,
            open: 1,
            accepted: 20,
            taken_over: 3,
            handed_over: 0,
            closed_for_room: 0,
            cut_for_memory: 0,
            closed_without_header: 0,
            closed_by_operator: 0,
            paused_for_memory: 0,
            memory_bytes: 0,
            sibling_messages_sent: 0,
            sibling_messages_heard: 0,
            siblings_dropped: 0,
            counters: Vec::new(),
            requests: 400,
            bytes_received: 0,
            bytes_sent: 0,
            service_ns_p50: 1_250,
            service_ns_p99: 9_990,
            deaths: 0,
            last_exit: None,
        }
    }

    #[test]
    fn status_is_one_screen() {
        let mut dying = worker(1, WorkerState::Waiting);
        (dying.pid, dying.age_ms, dying.deaths, dying.last_exit) = (None, None, 1, Some(Exit::Signal(11)));
        dying.closed_without_header = 2;
        (dying.sibling_messages_sent, dying.sibling_messages_heard, dying.siblings_dropped) = (5, 9, 1);
        dying.counters = vec![("hits".to_owned(), 0), ("lines_lost".to_owned(), 7)];
        let certificate = CertificateStatus {
            addresses: vec!["[::1]:80".to_owned()],
            names: (1..=9).map(|number| format!("{number}.example")).collect(),
            expires_at_s: 1_800_000_000,
            expires_in_s: 13 * 86_400 + 5,
            warnings: vec!["cert.pem:1: the certificate expires in 13 days; renew\nit".to_owned()],
        };
        let generation = GenerationStatus {
            number: 2,
            phase: GenerationPhase::Serving,
            age_ms: 61_000,
            addresses: vec!["127.0.0.1:80".to_owned(), "[::1]:80".to_owned()],
            steering: Some("least".to_owned()),
            imbalance: Some(Unevenness { open: Some(1.25), busy: None }),
            accepted: 1,
            requests: 2,
            bytes_received: 0,
            bytes_sent: 0,
            counters: Vec::new(),
            certificates: vec![certificate],
            certificates_left_off: 1,
            workers: vec![worker(0, WorkerState::Ready), dying],
        };
        let steps = vec![
            Step { after_us: 0, generation: Some(2), kind: EventKind::Starting { workers: 2 } },
            Step { after_us: 17_040, generation: Some(2), kind: EventKind::Serves { took_ms: 17 } },
        ];
        let status = Status {
            version: 2,
            name: Some("no\u{202e}tes".to_owned()),
            program_version: Some("1.2".to_owned()),
            pid: 99,
            uptime_ms: 62_000,
            handover: "ebpf".to_owned(),
            handover_reason: "it works here".to_owned(),
            is_stopping: false,
            generations: vec![generation],
            accepted: 1,
            requests: 2,
            rebalanced: 0,
            counters: vec![("hits".to_owned(), 0), ("lines_lost".to_owned(), 9)],
            totals: Default::default(),
            upgrade: Some(UpgradeState::Held),
            last_revert: Some(Failure::Reverted { pid: 98, why: RevertCause::NotCommitted }),
            handovers: vec![Timeline { kind: TimelineKind::Reload, generation: 2, at_us: 0, steps }],
        };
        let expected = r"no\u{202e}tes 1.2 running, pid 99, up 1 min 2 s
upgrade   held
reverted  pid 98: nobody committed it in time
handover  ebpf: it works here
total     1 connection, 2 requests
          lines_lost: 9

generation 2, serving, 1 min 1 s, on 127.0.0.1:80 [::1]:80, steering least
  slot  pid    state         up  open  accepted  taken over  requests  p50 µs  p99 µs
     0  100    ready  1 min 1 s     1        20           3       400     1.2    10.0
     1    -  waiting          -     1        20           3       400     1.2    10.0
  imbalance (max / mean): connections 1.25
  worker 1: lines_lost: 7
  worker 1: 5 messages sent to other workers, 9 received; gave up on 1 worker that read none
  worker 1: 2 connections closed because no trusted PROXY header came
  worker 1: its previous process was killed by SIGSEGV; 1 death in a row
  certificate for 1.example, 2.example, 3.example, 4.example, 5.example, 6.example, 7.example, 8.example and 1 more on [::1]:80: expires in 13 days
  WARNING: cert.pem:1: the certificate expires in 13 days; renew\nit
  not shown, because they expire later: 1 certificate

last handover: reload, 00:00:00.000000Z
     0.0 ms  generation 2: starting 2 workers
    17.0 ms  generation 2: serves (17 ms)
";
        assert_eq!(super::status(&status), expected);
        let both = all(&status, std::slice::from_ref(&status));
        assert_eq!(both, format!("{expected}\nthe other master:\n{expected}"));
        assert_eq!(workers_json(&status).lines().count(), 2);
        let json: serde_json::Value = serde_json::from_str(&status_json(&status, &[])).expect("JSON");
        assert_eq!(
            (&json["pid"], &json["upgrade"], json["others"].as_array().map(Vec::len)),
            (&99.into(), &"held".into(), Some(0))
        );
        let certificate = &json["generations"][0]["certificates"][0];
        assert_eq!(
            (&certificate["expires_at_s"], &certificate["names"][8]),
            (&1_800_000_000.into(), &"9.example".into())
        );
    }
}
