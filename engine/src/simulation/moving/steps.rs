//! What can happen in the world, and how a seed chooses it.

use super::super::random::Random;
use super::connections::Kind;
use super::world::World;

/// The most workers of a history, including those that were started again.
pub(super) const WORKERS_MAX: usize = 9;

/// An order of the master, as it reaches the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Drain {
        settle_ms: u64,
    },
    /// The heirs are all others that serve.
    Heirs,
    Serve,
    Stop,
    /// Give some connections to this worker, and continue to serve.
    Give {
        to: usize,
        count: usize,
    },
    EndGiving,
}

/// One action. If a number refers to nothing, it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The properties of the world; only as the first step.
    Begin {
        shape: u64,
    },
    Connect {
        worker: usize,
        kind: Kind,
    },
    /// The protocol pairs two connections of a worker.
    Pair {
        worker: usize,
        pick: usize,
    },
    ClientSends {
        socket: usize,
        count: u64,
    },
    ClientReads {
        socket: usize,
    },
    ClientFinishes {
        socket: usize,
    },
    /// An operation in flight in a worker's kernel completes. `first` says whether bytes come before the end of a
    /// cancelled receive.
    Complete {
        worker: usize,
        pick: usize,
        first: bool,
    },
    /// A message in a channel arrives.
    Deliver {
        link: usize,
        is_up: bool,
    },
    Turn {
        worker: usize,
    },
    Ordered {
        worker: usize,
        order: Order,
    },
    /// `loses` says whether its messages that no worker has read are lost.
    Kill {
        worker: usize,
        loses: bool,
    },
    Halt {
        worker: usize,
    },
    Continue {
        worker: usize,
    },
    /// The master starts another worker, which may wait for a state.
    Start {
        succeeds: bool,
    },
    Wake {
        worker: usize,
        pick: usize,
    },
    Time {
        ms: u64,
    },
}

/// Chooses the next step: usually one that does something.
pub(super) fn choose(world: &World, random: &mut Random) -> Step {
    let worker = random.index(world.workers.len());
    let socket = random.index(world.sockets.len());
    match random.below(100) {
        0..12 if world.sockets.len() < world.clients_max => Step::Connect { worker, kind: kind(random) },
        0..12 => Step::Turn { worker },
        12..22 => Step::ClientSends { socket, count: 1 + random.below(9) },
        22..28 => Step::ClientReads { socket },
        28..29 => Step::ClientFinishes { socket },
        29..50 => Step::Complete { worker, pick: random.index(8), first: random.once_in(2) },
        50..62 => Step::Deliver { link: random.index(world.links.len()), is_up: random.once_in(2) },
        62..82 => Step::Turn { worker },
        82..88 => Step::Ordered { worker: usize::from(random.once_in(3)), order: order(world, random) },
        88..90 => Step::Kill { worker, loses: random.once_in(2) },
        90 => Step::Halt { worker },
        91..93 => Step::Continue { worker },
        93..95 => Step::Start { succeeds: random.once_in(2) },
        95 => Step::Wake { worker, pick: random.index(8) },
        96 => Step::Pair { worker, pick: random.index(8) },
        _ => Step::Time { ms: random.pick(&[1, 10, 100, 1_000, 2_500]) },
    }
}

fn kind(random: &mut Random) -> Kind {
    match random.below(16) {
        0 => Kind::Rejected,
        1 => Kind::Poison,
        2 => Kind::Large,
        3 => Kind::Sticky,
        4 => Kind::Busy,
        _ => Kind::Plain,
    }
}

/// A serving worker that may be ordered to give often gets that order.
fn order(world: &World, random: &mut Random) -> Order {
    if world.gives && random.once_in(2) {
        let give = Order::Give { to: random.index(world.workers.len()), count: 1 + random.index(4) };
        return if random.once_in(8) { Order::EndGiving } else { give };
    }
    match random.below(12) {
        0..5 => Order::Heirs,
        5..10 => Order::Drain { settle_ms: random.pick(&[0, 5, 200]) },
        10 => Order::Serve,
        _ => Order::Stop,
    }
}
