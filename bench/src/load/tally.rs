//! The counts of a load: answers, failures by kind, latencies, and both over time.

mod tls;

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

pub(crate) use self::tls::{Handshakes, TlsOutcome};
use super::tls::Agreed;

/// A connect that takes longer has most likely lost its SYN, which is sent again after a second.
pub(crate) const SLOW_CONNECT: Duration = Duration::from_millis(200);

/// Latencies are kept to three digits from a microsecond to an hour.
const LATENCY_NS_MIN: u64 = 1_000;
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// The most bins of a timeline: later values are added to the last.
const BINS_MAX: usize = 1_000_000;

/// Requests without an answer, by what happened instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Failures {
    /// No server listened.
    pub(crate) refused: u64,
    /// The connection was reset.
    pub(crate) reset: u64,
    /// A new connection was closed without a byte of an answer.
    pub(crate) empty: u64,
    /// The connection was closed during an answer.
    pub(crate) short: u64,
    /// The answer was not the required one.
    pub(crate) wrong: u64,
    /// No connection or no answer in time.
    pub(crate) timed_out: u64,
    /// The TLS session was not established, or has failed: an alert, or a certificate that is not trusted; see
    /// [`Outcome::reasons`].
    pub(crate) tls: u64,
    /// Anything else; see [`Outcome::reasons`].
    pub(crate) other: u64,
    /// A kept connection was closed before any byte of an answer, while the next request was under way. A client may
    /// repeat it (RFC 9112, section 9.3.1), and this one does. It is not a failure.
    pub(crate) stale: u64,
}

impl Failures {
    /// Every kind that is a failure, with its name.
    pub(crate) fn kinds(&self) -> [(&'static str, u64); 8] {
        [
            ("refused", self.refused),
            ("reset", self.reset),
            ("empty", self.empty),
            ("short", self.short),
            ("wrong", self.wrong),
            ("timed out", self.timed_out),
            ("TLS", self.tls),
            ("other", self.other),
        ]
    }

    pub(crate) fn total(&self) -> u64 {
        self.kinds().iter().map(|(_, count)| count).sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let Self { refused, reset, empty, short, wrong, timed_out, tls, other: rest, stale } = other;
        self.refused += refused;
        self.reset += reset;
        self.empty += empty;
        self.short += short;
        self.wrong += wrong;
        self.timed_out += timed_out;
        self.tls += tls;
        self.other += rest;
        self.stale += stale;
    }
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 3).expect("bounds that a histogram can have")
}

/// What was counted in one phase.
#[derive(Clone, Debug)]
pub(crate) struct PhaseOutcome {
    pub(crate) requests: u64,
    pub(crate) failures: Failures,
    /// Connects that took longer than [`SLOW_CONNECT`].
    pub(crate) slow_connects: u64,
    pub(crate) handshakes: Handshakes,
    /// Nanoseconds from sending to the answer.
    pub(crate) latency: Histogram<u64>,
    /// Nanoseconds from when the request was due; the same as `latency` without a rate.
    pub(crate) latency_corrected: Histogram<u64>,
}

impl PhaseOutcome {
    fn new() -> Self {
        Self {
            requests: 0,
            failures: Failures::default(),
            slow_connects: 0,
            handshakes: Handshakes::default(),
            latency: latencies(),
            latency_corrected: latencies(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures.add(&other.failures);
        self.slow_connects += other.slow_connects;
        self.handshakes.add(&other.handshakes);
        self.latency.add(&other.latency).expect("the same bounds");
        self.latency_corrected.add(&other.latency_corrected).expect("the same bounds");
    }
}

/// The counts of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bin {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) latency_max_ns: u64,
}

/// The counts over time, from the start of the load, including the warm-up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    pub(crate) interval: Duration,
    pub(crate) bins: Vec<Bin>,
}

impl Timeline {
    fn bin(&mut self, since_start_ns: u64) -> &mut Bin {
        let index = (since_start_ns / self.interval.as_nanos().max(1) as u64) as usize;
        let index = index.min(BINS_MAX - 1);
        if index >= self.bins.len() {
            self.bins.resize(index + 1, Bin::default());
        }
        &mut self.bins[index]
    }

    fn add(&mut self, other: &Self) {
        if other.bins.len() > self.bins.len() {
            self.bins.resize(other.bins.len(), Bin::default());
        }
        for (bin, other) in self.bins.iter_mut().zip(&other.bins) {
            bin.requests += other.requests;
            bin.failures += other.failures;
            bin.latency_max_ns = bin.latency_max_ns.max(other.latency_max_ns);
        }
    }
}

/// The kind of a failure; see [`Failures`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Refused,
    Reset,
    Empty,
    Short,
    Wrong,
    TimedOut,
    Tls,
    Other,
    Stale,
}

/// The phase of what belongs to none: before the first and after the last.
pub(crate) const NO_PHASE: usize = usize::MAX;

/// All counts of a load.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Answers in all phases.
    pub(crate) requests: u64,
    /// Failures of the whole time, with or without a phase.
    pub(crate) failures: Failures,
    pub(crate) slow_connects: u64,
    /// Requests that were due, at a rate, and found no free connection until the end.
    pub(crate) unsent: u64,
    pub(crate) connections_opened: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) phases: Vec<PhaseOutcome>,
    pub(crate) timeline: Timeline,
    pub(crate) tls: TlsOutcome,
    /// The first reasons of failures that need an explanation.
    pub(crate) reasons: Vec<String>,
}

/// Number of reasons that are kept.
const REASONS_MAX: usize = 5;

impl Outcome {
    pub(crate) fn new(phases: usize, interval: Duration) -> Self {
        Self {
            requests: 0,
            failures: Failures::default(),
            slow_connects: 0,
            unsent: 0,
            connections_opened: 0,
            bytes_received: 0,
            bytes_sent: 0,
            phases: (0..phases).map(|_| PhaseOutcome::new()).collect(),
            timeline: Timeline { interval, bins: Vec::new() },
            tls: TlsOutcome::new(),
            reasons: Vec::new(),
        }
    }

    /// Adds the counts of another thread.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures.add(&other.failures);
        self.slow_connects += other.slow_connects;
        self.unsent += other.unsent;
        self.connections_opened += other.connections_opened;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.phases.iter_mut().zip(&other.phases).for_each(|(phase, other)| phase.add(other));
        self.timeline.add(&other.timeline);
        self.tls.add(&other.tls);
        for reason in &other.reasons {
            self.keep_reason(|| reason.clone());
        }
    }

    #[inline]
    pub(crate) fn answered(&mut self, phase: usize, at_ns: u64, answer: Answered) {
        let bin = self.timeline.bin(at_ns);
        bin.requests += answer.count;
        bin.latency_max_ns = bin.latency_max_ns.max(answer.corrected_ns);
        let Some(phase) = self.phases.get_mut(phase) else { return };
        self.requests += answer.count;
        phase.requests += answer.count;
        phase.latency.saturating_record_n(answer.latency_ns, answer.count);
        if answer.is_paced {
            phase.latency_corrected.saturating_record_n(answer.corrected_ns, answer.count);
        }
    }

    /// A request has been due for this long and is not answered at the end: its latency is more than this.
    pub(crate) fn left(&mut self, phase: usize, waited_ns: u64) {
        self.unsent += 1;
        if let Some(phase) = self.phases.get_mut(phase) {
            phase.latency_corrected.saturating_record(waited_ns);
        }
    }

    pub(crate) fn failed(&mut self, phase: usize, at_ns: u64, failure: Failure, reason: impl FnOnce() -> String) {
        let add = |failures: &mut Failures| {
            *match failure {
                Failure::Refused => &mut failures.refused,
                Failure::Reset => &mut failures.reset,
                Failure::Empty => &mut failures.empty,
                Failure::Short => &mut failures.short,
                Failure::Wrong => &mut failures.wrong,
                Failure::TimedOut => &mut failures.timed_out,
                Failure::Tls => &mut failures.tls,
                Failure::Other => &mut failures.other,
                Failure::Stale => &mut failures.stale,
            } += 1;
        };
        add(&mut self.failures);
        if let Some(phase) = self.phases.get_mut(phase) {
            add(&mut phase.failures);
        }
        if failure != Failure::Stale {
            self.timeline.bin(at_ns).failures += 1;
        }
        if matches!(failure, Failure::Wrong | Failure::Tls | Failure::Other) {
            self.keep_reason(reason);
        }
    }

    pub(crate) fn connected(&mut self, phase: usize, took: Duration) {
        self.connections_opened += 1;
        if took > SLOW_CONNECT {
            self.slow_connects += 1;
            if let Some(phase) = self.phases.get_mut(phase) {
                phase.slow_connects += 1;
            }
        }
    }

    /// Counts a completed handshake.
    pub(crate) fn shook_hands(&mut self, phase: usize, agreed: Agreed, took_ns: u64) {
        if let Some(phase) = self.phases.get_mut(phase) {
            phase.handshakes.count(agreed.is_resumed);
        }
        self.tls.shook_hands(agreed, took_ns);
    }

    fn keep_reason(&mut self, reason: impl FnOnce() -> String) {
        if self.reasons.len() < REASONS_MAX {
            let reason = reason();
            if !self.reasons.contains(&reason) {
                self.reasons.push(reason);
            }
        }
    }
}

/// Answers that arrived together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) count: u64,
    pub(crate) latency_ns: u64,
    pub(crate) corrected_ns: u64,
    /// Sent at a rate, so that the two may differ.
    pub(crate) is_paced: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_count_is_added() {
        let mut one = Outcome::new(2, Duration::from_millis(10));
        let answer = Answered { count: 3, latency_ns: 50_000, corrected_ns: 70_000, is_paced: true };
        one.answered(1, 25_000_000, answer);
        one.answered(NO_PHASE, 25_000_000, answer);
        one.failed(0, 5_000_000, Failure::Wrong, || "bad".to_owned());
        one.failed(NO_PHASE, 5_000_000, Failure::Stale, String::new);
        one.connected(0, Duration::from_millis(300));
        let agreed = |is_resumed| Agreed { is_resumed, on: "TLS 1.3".to_owned() };
        one.shook_hands(0, agreed(true), 2_000_000);
        one.shook_hands(NO_PHASE, agreed(false), 3_000_000);
        one.tls.alert("unknown_ca");
        let mut sum = Outcome::new(2, Duration::from_millis(10));
        sum.add(&one);
        sum.add(&one);
        assert_eq!((sum.requests, sum.failures.wrong, sum.failures.stale, sum.failures.total()), (6, 2, 2, 2));
        assert_eq!((sum.phases[0].requests, sum.phases[1].requests, sum.phases[0].failures.wrong), (0, 6, 2));
        assert_eq!((sum.slow_connects, sum.phases[0].slow_connects, sum.connections_opened), (2, 2, 2));
        assert_eq!(sum.timeline.bins[2], Bin { requests: 12, failures: 0, latency_max_ns: 70_000 });
        assert_eq!(sum.timeline.bins[0].failures, 2);
        assert_eq!(sum.reasons, ["bad"]);
        assert_eq!(sum.tls.handshakes, Handshakes { full: 2, resumed: 2 });
        assert_eq!(sum.phases[0].handshakes, Handshakes { full: 0, resumed: 2 });
        assert_eq!((sum.tls.handshake.len(), sum.tls.agreed["TLS 1.3"], sum.tls.alerts["unknown_ca"]), (4, 4, 2));
    }
}
