//! A status as metrics, in the formats of Prometheus and OpenMetrics. Pure: it only needs a [`Status`].
//!
//! Names and units follow the conventions of Prometheus: base units, as the last word of a name, and `_total` for counters.
//! Metrics of the whole server continue through reloads and upgrades; metrics with the labels `generation` and `slot` start and end with
//! that worker.

#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use super::{GenerationPhase, GenerationStatus, Status, WorkerState, WorkerStatus};
use crate::telemetry::Totals;
pub use text::MetricsFormat;
use text::{Kind, Label, Text};

/// Powers of two of nanoseconds, between which the buckets of a histogram end; one nanosecond before each.
struct Bounds {
    first: u32,
    last: u32,
}

/// 1 µs to 17 s.
const SERVICE_BOUNDS: Bounds = Bounds { first: 10, last: 34 };
/// 16 µs to 17 s.
const PAUSE_BOUNDS: Bounds = Bounds { first: 14, last: 34 };
/// 131 µs to 69 s.
const HANDOVER_BOUNDS: Bounds = Bounds { first: 17, last: 36 };

/// Counters of the whole server: the field of [`Totals`], the metric, and its help text.
const COUNTERS: [(&str, &str, &str); 22] = [
    ("accepted", "baton_connections_accepted", "Connections accepted."),
    ("connected", "baton_connections_outbound", "Outbound connections established."),
    ("taken_over", "baton_connections_taken_over", "Connections that workers took over from other workers."),
    ("moved", "baton_connections_moved", "Connections that moved because their worker left."),
    ("moved_bytes", "baton_connections_moved_bytes", "Bytes sent to other workers for connections that moved."),
    ("state_bytes", "baton_worker_state_moved_bytes", "Bytes of workers' own state sent to their successors."),
    ("rebalanced", "baton_connections_rebalanced", "Connections that moved between serving workers."),
    ("bytes_received", "baton_received_bytes", "Bytes received from peers."),
    ("bytes_sent", "baton_sent_bytes", "Bytes sent to peers."),
    ("requests", "baton_requests", "Requests answered, as the protocol counts them."),
    ("turns", "baton_loop_turns", "Turns of the workers' loops."),
    ("enters", "baton_ring_enters", "System calls into io_uring."),
    ("buffers_exhausted", "baton_receive_buffers_exhausted", "Receives that found no buffer and were armed again."),
    (
        "completions_overflowed",
        "baton_ring_completions_overflowed",
        "Completions that found the ring full and came later.",
    ),
    ("accept_errors", "baton_accept_errors", "Accepts that failed."),
    ("accept_pauses", "baton_accept_pauses", "Times a worker paused accepting at a limit."),
    (
        "memory_pauses",
        "baton_memory_pauses",
        "Times a worker paused reading a connection because it held too much memory.",
    ),
    ("sibling_messages_sent", "baton_sibling_messages_sent", "Messages that workers sent to other workers."),
    ("sibling_messages_heard", "baton_sibling_messages_heard", "Messages that workers received from other workers."),
    ("siblings_dropped", "baton_siblings_dropped", "Workers that read no messages and get no more."),
    ("hung", "baton_workers_hung", "Workers that did not respond and were killed."),
    ("steering_errors", "baton_steering_errors", "Times the master could not steer new connections."),
];

/// The same with a label: the family of [`Totals`], the metric, the label, and its help text.
const LABELLED: [(&str, &str, &str, &str); 5] = [
    ("closed", "baton_connections_closed", "reason", "Connections closed, by reason."),
    ("refused", "baton_connections_move_refused", "reason", "Connections that could not move, by reason."),
    ("named", "baton_protocol_counter", "name", "The protocol's own counters and those of TLS, by name."),
    ("ended", "baton_workers_died", "how", "Workers that died: with an exit code, or by a signal."),
    ("failed", "baton_operations_failed", "operation", "Operations that failed; the previous workers kept serving."),
];

type Numbers = fn(&WorkerStatus) -> u64;

/// Counters of a worker: the metric, its value, and its help text.
const WORKER_COUNTERS: [(&str, Numbers, &str); 13] = [
    ("baton_worker_connections_accepted", |one| one.accepted, "Connections accepted by the worker."),
    ("baton_worker_connections_taken_over", |one| one.taken_over, "Connections that came from other workers."),
    ("baton_worker_connections_handed_over", |one| one.handed_over, "Connections that went to other workers."),
    ("baton_worker_connections_closed_for_room", |one| one.closed_for_room, "Idle connections closed to make room."),
    ("baton_worker_connections_cut_for_memory", |one| one.cut_for_memory, "Connections cut at memory_bytes_max."),
    (
        "baton_worker_connections_closed_by_operator",
        |one| one.closed_by_operator,
        "Connections that operators closed with batonctl close.",
    ),
    ("baton_worker_requests", |one| one.requests, "Requests answered by the worker."),
    ("baton_worker_received_bytes", |one| one.bytes_received, "Bytes received by the worker."),
    ("baton_worker_sent_bytes", |one| one.bytes_sent, "Bytes sent by the worker."),
    ("baton_worker_memory_pauses", |one| one.paused_for_memory, "Times it paused reading a connection for memory."),
    ("baton_worker_sibling_messages_sent", |one| one.sibling_messages_sent, "Messages sent to other workers."),
    ("baton_worker_sibling_messages_heard", |one| one.sibling_messages_heard, "Messages received from other workers."),
    ("baton_worker_siblings_dropped", |one| one.siblings_dropped, "Other workers that read no messages."),
];

/// Gauges of a worker.
const WORKER_GAUGES: [(&str, Numbers, &str); 3] = [
    ("baton_worker_connections_open", |one| one.open, "Connections open at the worker."),
    ("baton_worker_memory_bytes", |one| one.memory_bytes, "Bytes held for connections."),
    ("baton_worker_deaths_in_a_row", |one| u64::from(one.deaths), "Processes of the slot that died early, in a row."),
];

impl Status {
    /// The same as metrics. No two lines are of one series, whatever the status says.
    pub fn metrics(&self, format: MetricsFormat) -> String {
        let mut text = Text::new(format);
        server(&mut text, self);
        totals(&mut text, &self.totals);
        // Two generations may have the same number, and an orphan may have the slot of another worker.
        let by_number: BTreeMap<u32, &GenerationStatus> =
            self.generations.iter().map(|generation| (generation.number, generation)).collect();
        let generations: Vec<Generation<'_>> = by_number.values().map(|status| Generation::new(status)).collect();
        of_generations(&mut text, &generations);
        of_workers(&mut text, &generations);
        text.end()
    }
}

fn server(text: &mut Text, status: &Status) {
    let text_of = |value: &Option<String>| value.clone().unwrap_or_default();
    let (name, version) = (text_of(&status.name), text_of(&status.program_version));
    text.family(Kind::Gauge, "baton_server_info", "Name and version of the program, and how it hands listeners over.");
    text.sample(&[("name", &name), ("version", &version), ("handover", &status.handover)], 1);
    text.family(Kind::Gauge, "baton_uptime_seconds", "Time since the answering master started.");
    text.sample(&[], seconds(status.uptime_ms));
    text.family(Kind::Gauge, "baton_stopping", "1 when the server was told to stop.");
    text.sample(&[], u8::from(status.is_stopping));
    text.family(Kind::Gauge, "baton_upgrade", "1 while an upgrade is under way, by its state.");
    if let Some(state) = status.upgrade {
        text.sample(&[("state", &word(&state))], 1);
    }
    text.family(Kind::Gauge, "baton_connections_open", "Connections open.");
    let workers = status.generations.iter().flat_map(|generation| &generation.workers);
    text.sample(&[], workers.fold(0, |sum, worker| u64::saturating_add(sum, worker.open)));
}

fn totals(text: &mut Text, totals: &Totals) {
    for (name, metric, help) in COUNTERS {
        text.family(Kind::Counter, metric, help);
        text.sample(&[], totals.get(name));
    }
    for (family, metric, label, help) in LABELLED {
        text.family(Kind::Counter, metric, help);
        // Control characters look alike when displayed, so two names may become one.
        let mut numbers = BTreeMap::<String, u64>::new();
        for (value, count) in totals.family(family) {
            let number = numbers.entry(shown(value)).or_default();
            *number = number.saturating_add(count);
        }
        numbers.iter().for_each(|(value, count)| text.sample(&[(label, value)], count));
    }
    let help = "Time from seeing input to giving its answer to the kernel; the sum is estimated from the buckets.";
    text.family(Kind::Histogram, "baton_service_seconds", help);
    histogram(text, &[], &SERVICE_BOUNDS, &buckets(totals.family("service")));
    let help = "How long each connection that moved was held up; the sum is estimated from the buckets.";
    text.family(Kind::Histogram, "baton_connection_pause_seconds", help);
    histogram(text, &[], &PAUSE_BOUNDS, &buckets(totals.family("pause")));
    let help = "Time until a new generation served, by operation; the sum is estimated from the buckets.";
    text.family(Kind::Histogram, "baton_handover_seconds", help);
    let mut kinds = BTreeMap::<&str, Vec<(&str, u64)>>::new();
    for (value, count) in totals.family("handover") {
        let (kind, end) = value.split_once(':').unwrap_or((value, ""));
        kinds.entry(kind).or_default().push((end, count));
    }
    for (kind, values) in kinds {
        histogram(text, &[("operation", kind)], &HANDOVER_BOUNDS, &buckets(values.into_iter()));
    }
}

/// The largest nanosecond value of each bucket, and the bucket's count.
fn buckets<'a>(values: impl Iterator<Item = (&'a str, u64)>) -> Vec<(u64, u64)> {
    values.filter_map(|(end, count)| Some((end.parse().ok()?, count))).collect()
}

fn histogram(text: &mut Text, labels: &[Label<'_>], bounds: &Bounds, buckets: &[(u64, u64)]) {
    for power in bounds.first..=bounds.last {
        let bound_ns = (1 << power) - 1;
        let below = buckets.iter().filter(|(end_ns, _)| *end_ns <= bound_ns);
        let count = below.fold(0, |sum, (_, count)| u64::saturating_add(sum, *count));
        text.part("_bucket", labels, Some(("le", &nanoseconds(bound_ns).to_string())), count);
    }
    let count = buckets.iter().fold(0, |sum, (_, count)| u64::saturating_add(sum, *count));
    text.part("_bucket", labels, Some(("le", "+Inf")), count);
    let sum_ns = buckets.iter().fold(0, |sum, (end_ns, count)| u128::from(middle(*end_ns)) * u128::from(*count) + sum);
    text.part("_sum", labels, None, sum_ns as f64 / 1e9);
    text.part("_count", labels, None, count);
}

/// The middle of a bucket of an eighth of a power of two.
fn middle(end: u64) -> u64 {
    if end < 16 { end } else { end - (1 << (end.ilog2() - 4)) }
}

struct Generation<'a> {
    status: &'a GenerationStatus,
    number: String,
    /// By slot.
    workers: BTreeMap<usize, (String, &'a WorkerStatus)>,
}

impl<'a> Generation<'a> {
    fn new(status: &'a GenerationStatus) -> Self {
        let workers = status.workers.iter().map(|worker| (worker.slot, (worker.slot.to_string(), worker)));
        Self { status, number: status.number.to_string(), workers: workers.collect() }
    }
}

fn of_generations(text: &mut Text, generations: &[Generation<'_>]) {
    text.family(Kind::Gauge, "baton_generation_phase", "1 for each generation, by its phase.");
    for Generation { status, number, .. } in generations {
        text.sample(&[("generation", number), ("phase", &word(&status.phase))], 1);
    }
    text.family(Kind::Gauge, "baton_generation_age_seconds", "Time since the generation started.");
    for Generation { status, number, .. } in
        generations.iter().filter(|one| one.status.phase != GenerationPhase::Orphaned)
    {
        text.sample(&[("generation", number)], seconds(status.age_ms));
    }
    text.family(Kind::Gauge, "baton_generation_workers", "Workers of the generation, by state.");
    for Generation { number, workers, .. } in generations {
        let mut states = BTreeMap::<String, u64>::new();
        workers.values().for_each(|(_, worker)| *states.entry(word(&worker.state)).or_default() += 1);
        states.iter().for_each(|(state, count)| text.sample(&[("generation", number), ("state", state)], count));
    }
    text.family(
        Kind::Gauge,
        "baton_listener_info",
        "1 for each listen address, with how it picks workers for new connections.",
    );
    for Generation { status, number, .. } in generations {
        let addresses: BTreeSet<String> = status.addresses.iter().map(|address| shown(address)).collect();
        let steering = status.steering.as_deref().unwrap_or("kernel");
        let labels = |address| [("generation", &number[..]), ("listener", address), ("steering", steering)];
        addresses.iter().for_each(|address| text.sample(&labels(address), 1));
    }
    let help = "The most loaded worker divided by the mean of all, for connections and for busy time.";
    text.family(Kind::Gauge, "baton_generation_imbalance_ratio", help);
    for Generation { status, number, .. } in generations {
        let imbalance = status.imbalance.iter().flat_map(|one| [("connections", one.open), ("busy", one.busy)]);
        for (of, ratio) in imbalance.filter_map(|(of, ratio)| Some((of, ratio?))) {
            text.sample(&[("generation", number), ("of", of)], ratio);
        }
    }
    text.family(
        Kind::Gauge,
        "baton_certificate_expires_timestamp_seconds",
        "When a certificate expires, seconds since 1970.",
    );
    for Generation { status, number, .. } in generations {
        // Several certificates may have the same names, such as those with keys of two kinds. The first to expire
        // counts.
        let mut expiries = BTreeMap::<(String, String), u64>::new();
        for one in &status.certificates {
            let key = (shown(one.names.first().map_or("", |name| name)), shown(&one.addresses.join(" ")));
            let expiry = expiries.entry(key).or_insert(u64::MAX);
            *expiry = one.expires_at_s.min(*expiry);
        }
        for ((name, listeners), expires_at_s) in &expiries {
            text.sample(&[("generation", number), ("name", name), ("listeners", listeners)], expires_at_s);
        }
    }
}

fn of_workers(text: &mut Text, generations: &[Generation<'_>]) {
    // The numbers of an orphan are in memory that this master does not read.
    let workers: Vec<([Label<'_>; 2], &WorkerStatus)> = generations
        .iter()
        .flat_map(|generation| {
            let known = generation.workers.values().filter(|(_, worker)| worker.state != WorkerState::Orphaned);
            known.map(|(slot, worker)| ([("generation", &generation.number[..]), ("slot", &slot[..])], *worker))
        })
        .collect();
    for (metric, number, help) in WORKER_COUNTERS {
        text.family(Kind::Counter, metric, help);
        workers.iter().for_each(|(labels, worker)| text.sample(labels, number(worker)));
    }
    for (metric, number, help) in WORKER_GAUGES {
        text.family(Kind::Gauge, metric, help);
        workers.iter().for_each(|(labels, worker)| text.sample(labels, number(worker)));
    }
    text.family(Kind::Counter, "baton_worker_protocol_counter", "The protocol's own counters, by name.");
    for (labels, worker) in &workers {
        let named: BTreeMap<String, u64> = worker.counters.iter().map(|(name, count)| (shown(name), *count)).collect();
        named.iter().for_each(|(name, count)| text.sample(&[labels[0], labels[1], ("name", name)], count));
    }
    text.family(Kind::Gauge, "baton_worker_age_seconds", "Time since the worker's process started.");
    for (labels, worker) in &workers {
        worker.age_ms.into_iter().for_each(|age_ms| text.sample(labels, seconds(age_ms)));
    }
    text.family(Kind::Gauge, "baton_worker_busy_ratio", "How busy the worker is, as a part of a core.");
    for (labels, worker) in &workers {
        worker.busy_permille.into_iter().for_each(|busy| text.sample(labels, f64::from(busy) / 1e3));
    }
    let help = "Time from seeing input to giving its answer to the kernel, since the worker started.";
    text.family(Kind::Summary, "baton_worker_service_seconds", help);
    for (labels, worker) in &workers {
        for (quantile, ns) in [("0.5", worker.service_ns_p50), ("0.99", worker.service_ns_p99)] {
            text.part("", labels, Some(("quantile", quantile)), nanoseconds(ns));
        }
    }
}

/// A name as it is displayed. Names that differ only in control characters become one series.
fn shown(text: &str) -> String {
    text.replace(super::steers, "\u{fffd}")
}

/// The name that a state has in messages.
fn word(state: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(state).ok();
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_else(|| "unknown".to_owned())
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

fn nanoseconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
