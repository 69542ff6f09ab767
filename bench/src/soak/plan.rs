//! What a seed decides: a server's changes and their order, and the kinds of load meanwhile. Pure.

use std::time::Duration;

use serde::Serialize;

use crate::random::Random;

/// Workers of each server at its start, and after a reload or an upgrade.
pub(super) const WORKERS: usize = 2;

/// The most workers that a scale asks for.
pub(super) const WORKERS_MAX: u64 = 4;

/// The longest pause between one change and the next on the same server.
const PAUSE_MAX: Duration = Duration::from_millis(80);

/// The longest time for which both binaries serve before an upgrade is committed or reverted.
const HOLD_MAX: Duration = Duration::from_millis(60);

/// The longest time for which a worker stands still: far less than what makes its master consider it hung.
const STANDSTILL_MAX: Duration = Duration::from_millis(200);

/// Sequences of random numbers of one seed. The number of a sequence is one of these plus a small number, so that none
/// equals another.
const CHANGES: u32 = 0x1000_0000;
const LOADS: u32 = 0x2000_0000;
const VISITORS: u32 = 0x3000_0000;
const FILES: u32 = 0x4000_0000;

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Side {
    /// HTTP, plain and within TLS.
    Http,
    Echo,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Http, Self::Echo];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Echo => "echo",
        }
    }
}

/// How an upgrade is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Broken {
    /// The file does not exist.
    Missing,
    /// The file is not a program.
    NoProgram,
    /// The program ends at once.
    Ends,
    /// The program does nothing.
    Hangs,
    /// It is batond with an address on which it cannot listen.
    Arguments,
}

/// A change of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Reload,
    /// A reload with an invalid file: refused.
    ReloadBroken,
    /// Another number of workers.
    Scale {
        workers: usize,
    },
    /// The binary takes over from itself.
    Upgrade,
    /// Both serve for a while, then the new one stays.
    UpgradeCommitted {
        held_for: Duration,
    },
    /// Both serve for a while, then the old one stays.
    UpgradeReverted {
        held_for: Duration,
    },
    /// The upgrade is refused, or fails.
    UpgradeBroken(Broken),
    Rebalance,
    /// SIGSTOP and SIGCONT to a worker.
    PauseWorker {
        pick: u64,
        stands_for: Duration,
    },
    /// SIGKILL to a worker.
    KillWorker {
        pick: u64,
    },
    /// SIGSTOP to a worker, for good: its master notices it, kills and replaces it.
    HangWorker {
        pick: u64,
    },
    /// SIGKILL to the master; a new one is started, and takes over.
    KillMaster,
}

/// Draws the details of a change of one kind.
type Draw = fn(&mut Random) -> Change;

/// How often each kind of change is drawn, in a thousand.
const WEIGHTS: [(u64, Draw); 16] = [
    (358, |_| Change::Reload),
    (20, |_| Change::ReloadBroken),
    (240, |random| Change::Scale { workers: 1 + random.below(WORKERS_MAX) as usize }),
    (150, |_| Change::Upgrade),
    (60, |random| Change::UpgradeCommitted { held_for: up_to(HOLD_MAX, random) }),
    (60, |random| Change::UpgradeReverted { held_for: up_to(HOLD_MAX, random) }),
    (15, |_| Change::UpgradeBroken(Broken::Missing)),
    (10, |_| Change::UpgradeBroken(Broken::NoProgram)),
    (10, |_| Change::UpgradeBroken(Broken::Ends)),
    (5, |_| Change::UpgradeBroken(Broken::Hangs)),
    (15, |_| Change::UpgradeBroken(Broken::Arguments)),
    (12, |_| Change::Rebalance),
    (26, |random| Change::PauseWorker { pick: random.next(), stands_for: up_to(STANDSTILL_MAX, random) }),
    (12, |random| Change::KillWorker { pick: random.next() }),
    (2, |random| Change::HangWorker { pick: random.next() }),
    (5, |_| Change::KillMaster),
];

const WEIGHTS_SUM: u64 = {
    let (mut sum, mut index) = (0, 0);
    while index < WEIGHTS.len() {
        sum += WEIGHTS[index].0;
        index += 1;
    }
    sum
};

const _: () = assert!(WEIGHTS_SUM == 1_000);

fn up_to(most: Duration, random: &mut Random) -> Duration {
    Duration::from_micros(random.below(most.as_micros() as u64 + 1))
}

impl Change {
    /// The name of its kind in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::ReloadBroken => "reload, broken file",
            Self::Scale { .. } => "scale",
            Self::Upgrade => "upgrade",
            Self::UpgradeCommitted { .. } => "upgrade, held, committed",
            Self::UpgradeReverted { .. } => "upgrade, held, reverted",
            Self::UpgradeBroken(Broken::Missing) => "upgrade, no such file",
            Self::UpgradeBroken(Broken::NoProgram) => "upgrade, not a program",
            Self::UpgradeBroken(Broken::Ends) => "upgrade, ends at once",
            Self::UpgradeBroken(Broken::Hangs) => "upgrade, does not come up",
            Self::UpgradeBroken(Broken::Arguments) => "upgrade, wrong arguments",
            Self::Rebalance => "rebalance",
            Self::PauseWorker { .. } => "worker stopped and continued",
            Self::KillWorker { .. } => "worker killed",
            Self::HangWorker { .. } => "worker hung",
            Self::KillMaster => "master killed",
        }
    }

    /// All names, in the order of the report.
    pub(super) fn names() -> [&'static str; WEIGHTS.len()] {
        WEIGHTS.map(|(_, draw)| draw(&mut Random::new(0)).name())
    }
}

/// A change, and the pause before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// From 1.
    pub(super) number: u64,
    pub(super) pause: Duration,
    pub(super) change: Change,
}

/// The endless sequence of one server's changes.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    random: Random,
    number: u64,
}

impl Steps {
    pub(super) fn new(seed: u64, side: Side) -> Self {
        Self { random: Random::nth(seed, CHANGES + side as u32), number: 0 }
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.number += 1;
        let pause = up_to(PAUSE_MAX, &mut self.random);
        let mut drawn = self.random.below(WEIGHTS_SUM);
        let (_, draw) = WEIGHTS.iter().find(|(weight, _)| {
            let is_it = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_it
        })?;
        Some(Step { number: self.number, pause, change: draw(&mut self.random) })
    }
}

/// The sizes of the load between two quiet points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loads {
    /// The seed of the random contents of requests.
    pub(super) seed: u64,
    /// Clients that connect for each request; the server closes.
    pub(super) churn: u32,
    /// The same, but the clients close.
    pub(super) churn_closing: u32,
    pub(super) churn_echo: u32,
    /// Connections that are kept.
    pub(super) kept: u32,
    /// Requests sent together by clients that pipeline.
    pub(super) depth: u32,
    pub(super) payload_bytes: usize,
}

impl Loads {
    /// The sizes of the segment with this number, from 0.
    pub(super) fn nth(seed: u64, segment: u32) -> Self {
        let mut random = Random::nth(seed, LOADS + (segment & 0x0FFF_FFFF));
        let mut between = |least: u64, most: u64| least + random.below(most - least + 1);
        Self {
            churn: between(8, 32) as u32,
            churn_closing: between(2, 8) as u32,
            churn_echo: between(2, 12) as u32,
            kept: between(16, 128) as u32,
            depth: between(2, 32) as u32,
            payload_bytes: between(1, 4_000) as usize,
            seed: between(0, u64::MAX - 1),
        }
    }
}

/// The random numbers of the visitor with this number.
pub(super) fn visitor(seed: u64, segment: u32, number: u32) -> Random {
    let mut random = Random::nth(seed, VISITORS + number);
    Random::new(random.next().wrapping_add(u64::from(segment)))
}

/// The contents of the served files.
pub(super) fn contents(seed: u64, file: u32, bytes: usize) -> Vec<u8> {
    random_bytes(&mut Random::nth(seed, FILES + file), bytes)
}

pub(super) fn random_bytes(random: &mut Random, bytes: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes + 8);
    while all.len() < bytes {
        all.extend_from_slice(&random.next().to_le_bytes());
    }
    all.truncate(bytes);
    all
}

/// A visitor's behaviour. Its weight is relative to the others of the same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Visit {
    /// Sends nothing for a while, and leaves.
    Silent,
    /// Sends nothing for a while, then a request.
    Late,
    /// Requests that differ, in one piece or split at random positions.
    Pipeline,
    /// A request in small pieces.
    SlowWriter,
    /// A large answer that is read in small pieces.
    SlowReader,
    /// Sends FIN with its last request.
    HalfClose,
    /// Leaves with a reset, during a request or an answer.
    Reset,
    /// Leaves during a request.
    Leaves,
    /// Sends an invalid request.
    Garbage,
}

impl Visit {
    const HTTP: [(u64, Self); 9] = [
        (4, Self::Silent),
        (8, Self::Late),
        (30, Self::Pipeline),
        (8, Self::SlowWriter),
        (4, Self::SlowReader),
        (14, Self::HalfClose),
        (12, Self::Reset),
        (8, Self::Leaves),
        (12, Self::Garbage),
    ];

    /// For an echo no input is garbage.
    const ECHO: [(u64, Self); 7] = [
        (4, Self::Silent),
        (8, Self::Late),
        (44, Self::Pipeline),
        (8, Self::SlowWriter),
        (4, Self::SlowReader),
        (20, Self::HalfClose),
        (12, Self::Reset),
    ];

    pub(super) fn all(side: Side) -> &'static [(u64, Self)] {
        match side {
            Side::Http => &Self::HTTP,
            Side::Echo => &Self::ECHO,
        }
    }

    pub(super) fn draw(side: Side, random: &mut Random) -> Self {
        let all = Self::all(side);
        let mut drawn = random.below(all.iter().map(|(weight, _)| weight).sum());
        for (weight, visit) in all {
            if drawn < *weight {
                return *visit;
            }
            drawn -= weight;
        }
        Self::Silent
    }

    /// Its name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Silent => "says nothing",
            Self::Late => "asks late",
            Self::Pipeline => "differing requests at once, cut at random",
            Self::SlowWriter => "slow writer",
            Self::SlowReader => "slow reader",
            Self::HalfClose => "half-closes",
            Self::Reset => "resets",
            Self::Leaves => "leaves within a request",
            Self::Garbage => "garbage",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_decides_all_and_seeds_and_servers_differ() {
        let steps = |seed, side| Steps::new(seed, side).take(500).collect::<Vec<_>>();
        assert_eq!(steps(1, Side::Http), steps(1, Side::Http));
        assert_ne!(steps(1, Side::Http), steps(2, Side::Http));
        assert_ne!(steps(1, Side::Http), steps(1, Side::Echo));
        assert_eq!(Loads::nth(1, 3), Loads::nth(1, 3));
        assert_ne!(Loads::nth(1, 3), Loads::nth(1, 4));
        assert_eq!(contents(1, 0, 13).len(), 13);
        assert_ne!(contents(1, 0, 13), contents(1, 1, 13));
        assert_ne!(visitor(1, 0, 0).next(), visitor(1, 1, 0).next());
        assert_ne!(visitor(1, 0, 0).next(), visitor(1, 0, 1).next());
    }

    #[test]
    fn every_kind_of_change_is_drawn_about_as_often_as_it_weighs() {
        let mut counts = std::collections::BTreeMap::new();
        for step in Steps::new(42, Side::Http).take(100_000) {
            assert!(step.pause <= PAUSE_MAX, "{step:?}");
            if let Change::Scale { workers } = step.change {
                assert!((1..=WORKERS_MAX as usize).contains(&workers), "{step:?}");
            }
            *counts.entry(step.change.name()).or_insert(0_u64) += 1;
        }
        for ((weight, _), name) in WEIGHTS.iter().zip(Change::names()) {
            let (count, expected) = (counts[name], weight * 100);
            assert!((expected * 7 / 10..=expected * 13 / 10).contains(&count), "{name}: {count}, not {expected}");
        }
    }

    #[test]
    fn names_tell_changes_and_visits_apart() {
        assert_eq!(Change::names().into_iter().collect::<BTreeSet<_>>().len(), WEIGHTS.len());
        for side in Side::ALL {
            let names: BTreeSet<_> = Visit::all(side).iter().map(|(_, visit)| visit.name()).collect();
            assert_eq!(names.len(), Visit::all(side).len());
            let mut random = Random::new(1);
            let drawn: BTreeSet<_> = (0..1_000).map(|_| Visit::draw(side, &mut random)).collect();
            assert_eq!(drawn.len(), Visit::all(side).len(), "all are drawn");
        }
    }

    #[test]
    fn numbers_of_steps_count_from_one() {
        let numbers: Vec<u64> = Steps::new(9, Side::Echo).take(3).map(|step| step.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }
}
