//! The theme of a history, chosen by a seed: scenes of a few steps each, between steps of any kind. The scenes lead to
//! states that single steps hardly ever reach.

use super::super::random::Random;
use super::process::Binary;
use super::steps::{self, Asked, Shape, Step};
use super::universe::Fault;
use crate::handover::Tier;
use crate::master::core::Signal;

/// Steps of a history, apart from those of the last scene.
const STEPS_MAX: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theme {
    /// Single steps of any kind.
    Any,
    /// A call fails in the middle of an operation that needs it.
    Faults,
    /// A held upgrade, and several requests about it in quick succession.
    Wishes,
    /// In the tier adopt, a new master that makes sockets and fails to start.
    FailingStarts,
    /// In the tier adopt, reloads that give up addresses while clients connect.
    Addresses,
    /// Workers that leave and start again around an upgrade.
    Idle,
}

/// From this seed on, the histories are those of the seeds from 0 on, and workers send each other messages. Those
/// messages would change the worlds of the other seeds.
pub(super) const SPEAKING: u64 = 1 << 40;

/// From this seed on, workers give each other connections, each second.
pub(super) const REBALANCING: u64 = 2 * SPEAKING;

/// From this seed on, the last address is a Unix socket.
pub(super) const UNIX: u64 = 4 * SPEAKING;

/// From this seed on, operators list connections, and end some.
pub(super) const INSPECTING: u64 = 8 * SPEAKING;

/// The history of a seed.
pub(super) fn history(seed: u64) -> Vec<Step> {
    let theme = match seed % 8 {
        0 | 2 | 4 => Theme::Any,
        1 | 5 => Theme::Faults,
        3 => Theme::Wishes,
        6 => Theme::Idle,
        _ if seed % 16 == 7 => Theme::FailingStarts,
        _ => Theme::Addresses,
    };
    let mut random = Random::new(seed % SPEAKING);
    let shape = Shape {
        speaks: (SPEAKING..REBALANCING).contains(&seed),
        rebalances: (REBALANCING..UNIX).contains(&seed),
        has_unix: (UNIX..INSPECTING).contains(&seed),
        ..theme.shape(&mut random)
    };
    let mut steps = vec![Step::Begin { shape }];
    // Most histories begin with a serving server.
    if !random.once_in(8) {
        steps.push(Step::Time { seed: 1, ms: 100 });
    }
    let count = steps.len() + 8 + random.below(STEPS_MAX as u64 - 8) as usize;
    while steps.len() < count {
        theme.go_on(&mut random, &mut steps);
    }
    if shape.rebalances {
        // An operator asks for it, too.
        for _ in 0..random.below(3) {
            let place = 1 + random.index(steps.len());
            steps.insert(place, ask(0, Asked::Rebalance { is_dry_run: random.once_in(2) }));
        }
    }
    if seed >= INSPECTING {
        for _ in 0..1 + random.below(5) {
            let place = 1 + random.index(steps.len());
            let worker = random.once_in(4).then(|| random.below(3) as usize);
            let asked = match random.below(3) {
                0 => Asked::Close { connection: random.below(4) as usize, now: random.once_in(2) },
                _ => Asked::Connections { limit: 1 + random.below(3) as usize, worker },
            };
            steps.insert(place, ask(random.below(2) as usize, asked));
        }
    }
    steps
}

impl Theme {
    fn shape(self, random: &mut Random) -> Shape {
        let shape = Shape::of(random.next());
        match self {
            Self::Any | Self::Faults => shape,
            Self::Wishes => Shape { tier: random.pick(&[Tier::Ebpf, Tier::Adopt]), ..shape },
            Self::FailingStarts => Shape { tier: Tier::Adopt, ..shape },
            Self::Addresses => Shape { tier: Tier::Adopt, addresses: 2, ..shape },
            Self::Idle => Shape { tier: random.pick(&[Tier::Ebpf, Tier::Adopt, Tier::Adopt]), ..shape },
        }
    }

    /// Adds the next scene, or a step of any kind.
    fn go_on(self, random: &mut Random, steps: &mut Vec<Step>) {
        match self {
            Self::Any => steps.push(steps::choose(random)),
            Self::Faults if random.once_in(12) => fault(random, steps),
            Self::Wishes if random.once_in(6) => wishes(random, steps),
            Self::FailingStarts if random.once_in(3) => failing_start(random, steps),
            Self::Addresses if random.once_in(6) => addresses(random, steps),
            Self::Idle if random.once_in(6) => idle(random, steps),
            _ => steps.push(steps::choose(random)),
        }
    }
}

fn flow(random: &mut Random, count_max: u64) -> Step {
    Step::Flow { seed: random.next(), count: 1 + random.below(count_max) }
}

fn time(random: &mut Random, ms: &[u64]) -> Step {
    Step::Time { seed: random.next(), ms: random.pick(ms) }
}

/// Clients connect. The handshake of slow ones takes a while.
fn clients(random: &mut Random, steps: &mut Vec<Step>, is_slow: bool) {
    for place in 0..1 + random.below(4) as usize {
        steps.push(Step::Connect { place, is_slow, is_long: random.once_in(4) });
    }
}

fn ask(master: usize, asked: Asked) -> Step {
    Step::Ask { master, asked }
}

fn upgrade(binary: Binary, is_held: bool) -> Asked {
    Asked::Upgrade { binary, is_held, probation_ms: None, timeout_ms: 5_000, is_allowed: false }
}

/// A call that will fail, an operation that needs it, and clients meanwhile.
fn fault(random: &mut Random, steps: &mut Vec<Step>) {
    let (fault, asked) = (random.pick(&Fault::ALL), steps::asked(random));
    let steps_before = [Step::Arm { fault }, ask(0, asked)];
    if random.once_in(2) {
        steps.extend(steps_before);
        steps.push(time(random, &[2]));
    } else {
        // The call fails in the middle of the requested operation.
        steps.extend(steps_before.into_iter().rev());
        let flow = flow(random, 12);
        steps.insert(steps.len() - 1, flow);
    }
    clients(random, steps, false);
    steps.push(time(random, &[1, 30, 12_000]));
}

/// Both masters serve, and operators who do not know of each other stop, revert or commit.
fn wishes(random: &mut Random, steps: &mut Vec<Step>) {
    steps.extend([ask(0, upgrade(Binary::Good, true)), time(random, &[5, 20, 60])]);
    if random.once_in(2) {
        steps.extend([Step::Signal { master: 0, signal: Signal::Winch }, time(random, &[1, 20, 60])]);
    }
    for _ in 0..2 + random.below(2) {
        let asked = random.pick(&[
            Asked::Revert,
            Asked::Revert,
            Asked::Revert,
            Asked::Commit,
            Asked::Stop { now: false },
            Asked::Stop { now: true },
        ]);
        let master = usize::from(!random.once_in(3));
        steps.extend([ask(master, asked), flow(random, 4)]);
    }
    clients(random, steps, false);
    steps.push(time(random, &[1, 60, 4_000]));
}

/// Some of the new master's workers start and accept connections on sockets of their own; others do not.
fn failing_start(random: &mut Random, steps: &mut Vec<Step>) {
    let fault = random.pick(&[Fault::WorkerSlow, Fault::WorkerHangs, Fault::WorkerFails, Fault::WorkerExits]);
    steps.extend([
        Step::Configure { workers: 3, addresses: 1 + random.below(2) as usize, hang_ms: 800 },
        ask(0, upgrade(Binary::Good, random.once_in(2))),
    ]);
    // The fault affects the next worker that starts: the first one, or one beside others that have started.
    if random.once_in(2) {
        steps.push(flow(random, 40));
    }
    steps.push(Step::Arm { fault });
    // Clients connect while sockets are made, while workers start, and while one of them fails to.
    for _ in 0..1 + random.below(6) {
        steps.push(flow(random, 12));
        if random.once_in(2) {
            // They stay with the worker that accepts them.
            steps.extend((0..4).map(|place| Step::Connect { place, is_slow: false, is_long: true }));
        } else {
            let is_slow = random.once_in(2);
            clients(random, steps, is_slow);
        }
    }
    if random.once_in(2) {
        steps.push(time(random, &[1, 5, 20]));
        clients(random, steps, true);
    }
    if random.once_in(2) {
        let signal = random.pick(&[Signal::Quit, Signal::Term]);
        steps.push(Step::Signal { master: 1, signal });
    }
    clients(random, steps, true);
    steps.push(time(random, &[20, 300, 4_000, 6_000]));
}

/// Clients connect to an address, and the server gives it up.
fn addresses(random: &mut Random, steps: &mut Vec<Step>) {
    let configure = |addresses| Step::Configure { workers: 2, addresses, hang_ms: 800 };
    steps.extend([configure(2), ask(0, Asked::Reload), time(random, &[20, 300])]);
    steps.extend([configure(1), ask(0, Asked::Reload)]);
    for _ in 0..1 + random.below(3) {
        steps.push(flow(random, 12));
        clients(random, steps, false);
    }
    steps.push(time(random, &[20, 300]));
}

/// Clients connect while workers leave for others, or start again.
fn idle(random: &mut Random, steps: &mut Vec<Step>) {
    clients(random, steps, true);
    let binary = random.pick(&[Binary::Good, Binary::OtherTier]);
    steps.extend([ask(0, upgrade(binary, true)), time(random, &[5, 20, 60])]);
    for _ in 0..1 + random.below(2) {
        let signal = random.pick(&[Signal::Winch, Signal::Winch, Signal::Hup]);
        steps.extend([Step::Signal { master: 0, signal }, flow(random, 8)]);
        clients(random, steps, true);
    }
    steps.push(time(random, &[20, 1_500]));
}
