//! What clients saw of each kind of action.

use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;

use super::Schedule;
use super::target::Action;
use crate::load::{Failures, Outcome, PhaseOutcome};
use crate::run::{Percentiles, group};

/// An action that was performed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) action: Action,
    pub(super) begun: Instant,
    pub(super) ended: Instant,
    /// When everything that it left behind was gone, and the window over.
    pub(super) settled: Instant,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) server: String,
    rows: Vec<Row>,
    /// Failures that need an explanation.
    reasons: Vec<String>,
}

/// One kind of action; the first row is steady state.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    times: usize,
    duration_ms_mean: f64,
    duration_ms_max: f64,
    churn: Seen,
    kept: Seen,
}

/// What one kind of clients saw.
#[derive(Debug, Serialize)]
struct Seen {
    answered: u64,
    failures: Failures,
    slow_connects: u64,
    /// Failures of requests that a killed worker was serving.
    in_service: u64,
    lost: u64,
    latency_us: Percentiles,
}

impl Seen {
    /// `excused`: how many requests may be lost with killed workers.
    fn new(phase: &PhaseOutcome, excused: u64) -> Self {
        let failures = phase.failures.clone();
        let in_service = (failures.reset + failures.empty + failures.short).min(excused);
        Self {
            answered: phase.requests,
            in_service,
            lost: failures.total() - in_service + phase.slow_connects,
            slow_connects: phase.slow_connects,
            latency_us: Percentiles::of(&phase.latency),
            failures,
        }
    }

    fn cells(&self) -> [String; 8] {
        let ms = |microseconds: f64| format!("{:.2}", microseconds / 1e3);
        let count = |count: u64| if count == 0 { "0".to_owned() } else { group(count) };
        let Percentiles { p50, p99, p99_9, max, .. } = self.latency_us;
        [
            group(self.answered),
            count(self.lost),
            count(self.in_service),
            count(self.failures.stale),
            ms(p50),
            ms(p99),
            ms(p99_9),
            ms(max),
        ]
    }
}

impl Report {
    pub(super) fn new(
        server: &str,
        schedule: &Schedule,
        done: &[Done],
        clients: [u32; 2],
        churn: &Outcome,
        kept: &Outcome,
    ) -> Self {
        let row = |index: usize| {
            let action = index.checked_sub(1).map(|index| schedule.actions[index]);
            let of_kind = || done.iter().filter(|done| Some(done.action) == action);
            let took = || of_kind().map(|done| (done.ended - done.begun).as_secs_f64() * 1e3);
            let times = of_kind().count();
            let is_deadly = action.is_some_and(Action::kills_workers);
            let excused = |clients: u32| if is_deadly { u64::from(clients) * times as u64 } else { 0 };
            Row {
                name: action.map_or("steady".to_owned(), Action::name),
                times,
                duration_ms_mean: took().fold(0.0, |sum, ms| sum + ms) / times.max(1) as f64,
                duration_ms_max: took().fold(0.0, f64::max),
                churn: Seen::new(&churn.phases[index], excused(clients[0])),
                kept: Seen::new(&kept.phases[index], excused(clients[1])),
            }
        };
        let reasons = churn.reasons.iter().chain(&kept.reasons).cloned().collect();
        Self { server: server.to_owned(), rows: (0..=schedule.actions.len()).map(row).collect(), reasons }
    }

    /// The total number of lost requests.
    pub(super) fn lost(&self) -> u64 {
        self.rows.iter().map(|row| row.churn.lost + row.kept.lost).sum()
    }

    pub(super) fn table(&self) -> String {
        let mut text = format!("{}\n", self.server);
        for (title, seen) in [
            ("a connection for each request", (|row: &Row| &row.churn) as fn(&Row) -> &Seen),
            ("kept connections", |row| &row.kept),
        ] {
            let _ = write!(text, "\n{title:<32}{:>7}{:>21}", "times", "took ms, mean / max");
            for (name, width) in HEADER.iter().zip(WIDTHS) {
                let _ = write!(text, "{name:>width$}");
            }
            text.push('\n');
            for row in &self.rows {
                let took = format!("{:.0} / {:.0}", row.duration_ms_mean, row.duration_ms_max);
                let (times, took) = if row.times > 0 { (row.times.to_string(), took) } else { Default::default() };
                let _ = write!(text, "  {:<30}{times:>7}{took:>21}", row.name);
                for (cell, width) in seen(row).cells().iter().zip(WIDTHS) {
                    let _ = write!(text, "{cell:>width$}");
                }
                text.push('\n');
                for (kind, count) in kinds(seen(row)) {
                    let _ = writeln!(text, "      {kind} {}", group(count));
                }
            }
        }
        for reason in &self.reasons {
            let _ = writeln!(text, "{reason}");
        }
        let _ = writeln!(text, "\nlost: {}", group(self.lost()));
        text
    }
}

const HEADER: [&str; 8] = ["answered", "lost", "in service", "repeated", "p50 ms", "p99", "p99.9", "max"];
const WIDTHS: [usize; 8] = [12, 8, 12, 10, 9, 9, 9, 9];

/// What was not as it should be, if anything.
fn kinds(seen: &Seen) -> Vec<(&'static str, u64)> {
    let slow = ("connects over 200 ms", seen.slow_connects);
    let kinds = seen.failures.kinds().into_iter().chain([slow]);
    kinds.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_killed_workers_served_is_excused() {
        let schedule = Schedule {
            actions: vec![Action::Reload, Action::KillOne],
            repeat: 1,
            every: Duration::ZERO,
            window: Duration::ZERO,
            steady: Duration::ZERO,
        };
        let now = Instant::now();
        let done =
            [Action::Reload, Action::KillOne].map(|action| Done { action, begun: now, ended: now, settled: now });
        let mut churn = Outcome::new(3, Duration::from_millis(20));
        churn.phases[1].failures.reset = 1;
        churn.phases[2].failures.reset = 5;
        churn.phases[2].failures.refused = 1;
        let kept = Outcome::new(3, Duration::from_millis(20));
        let report = Report::new("x", &schedule, &done, [4, 4], &churn, &kept);
        let lost: Vec<u64> = report.rows.iter().map(|row| row.churn.lost).collect();
        assert_eq!((lost, report.lost(), report.rows[2].churn.in_service), (vec![0, 1, 2], 3, 4));
        assert!(report.table().contains("refused 1"));
    }
}
