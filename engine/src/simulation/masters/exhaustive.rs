//! Small worlds, explored exhaustively: every order of every step of every process, with a few requests of operators
//! and one fault at any moment. Time passes only when nothing else can happen, and only for a while; workers are not
//! watched for hangs. Wherever the world has come to rest, the invariants at rest are checked, too.

use stateright::{Checker, Model, Property};

use super::process::Binary;
use super::steps::{Asked, Shape, Step};
use super::universe::{Micro, Universe, plan};
use super::{Violation, guarded};
use crate::handover::Tier;
use crate::master::core::{ProcessId, Signal};

/// How often time may pass.
const PASSES_MAX: u8 = 3;

/// A world to explore.
#[derive(Clone, Debug)]
pub(super) struct Small {
    pub(super) tier: Tier,
    pub(super) workers: usize,
    pub(super) is_held: bool,
    /// How many of the requests are made, each at most once, of any master.
    pub(super) wishes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wish {
    Commit,
    Revert,
    Stop,
    Reload,
    Hup,
    Term,
    Winch,
}

impl Wish {
    const ALL: [Self; 7] = [Self::Commit, Self::Revert, Self::Stop, Self::Reload, Self::Hup, Self::Term, Self::Winch];
}

/// A world, and what is still to come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Point {
    universe: Universe,
    wished: Vec<Wish>,
    has_killed: bool,
    passes: u8,
    broken: Option<Violation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Move {
    Micro(Micro),
    Wish(Wish, ProcessId),
    Kill(ProcessId),
    Pass,
}

impl Small {
    /// A server of one address that serves, and gets a request to upgrade.
    fn begin(&self) -> Point {
        let shape = Shape {
            tier: self.tier,
            addresses: 1,
            workers: self.workers,
            hands_over: false,
            has_worker_state: false,
            speaks: false,
            rebalances: false,
            has_unix: false,
        };
        let mut universe = Universe::new(shape);
        universe.plan = plan(shape, self.workers, 1, 0);
        universe.restart();
        let began = universe.take(Step::Time { seed: 1, ms: 10 });
        let master = universe.masters().next().map(|(id, _)| id).expect("it serves");
        let asked = Asked::Upgrade {
            binary: Binary::Good,
            is_held: self.is_held,
            probation_ms: None,
            timeout_ms: 5_000,
            is_allowed: false,
        };
        universe.ask(master, asked);
        Point { universe, wished: Vec::new(), has_killed: false, passes: 0, broken: began.err() }
    }
}

impl Point {
    fn act(&mut self, action: Move) -> Result<(), Violation> {
        self.universe.steps_at_once = 0;
        match action {
            Move::Micro(micro) => return guarded(&mut self.universe, |universe| universe.happen(micro)),
            Move::Pass => {
                self.passes += 1;
                let at = self.universe.next_time();
                return guarded(&mut self.universe, |universe| at.map_or(Ok(()), |at| universe.pass_to(at)));
            }
            Move::Kill(id) => {
                self.has_killed = true;
                self.universe.last_fault = self.universe.now;
                if self.universe.master(id).is_some() {
                    self.universe.killed.insert(id);
                }
                self.universe.kill(id);
            }
            Move::Wish(wish, id) => {
                self.wished.push(wish);
                self.wished.sort_unstable_by_key(|wish| *wish as u8);
                let asked = match wish {
                    Wish::Commit => Err(Asked::Commit),
                    Wish::Revert => Err(Asked::Revert),
                    Wish::Stop => Err(Asked::Stop { now: false }),
                    Wish::Reload => Err(Asked::Reload),
                    Wish::Hup => Ok(Signal::Hup),
                    Wish::Term => Ok(Signal::Term),
                    Wish::Winch => Ok(Signal::Winch),
                };
                match asked {
                    Ok(signal) => self.universe.master_mut(id).signals.push(signal),
                    Err(asked) => self.universe.ask(id, asked),
                }
            }
        }
        self.universe.check()
    }
}

impl Model for Small {
    type State = Point;
    type Action = Move;

    fn init_states(&self) -> Vec<Point> {
        vec![self.begin()]
    }

    fn actions(&self, point: &Point, actions: &mut Vec<Move>) {
        if point.broken.is_some() {
            return;
        }
        let enabled = point.universe.enabled();
        if enabled.is_empty() && point.passes < PASSES_MAX && point.universe.next_time().is_some() {
            actions.push(Move::Pass);
        }
        actions.extend(enabled.into_iter().map(Move::Micro));
        if point.wished.len() < self.wishes_max {
            for (id, _) in point.universe.masters() {
                let left = Wish::ALL.iter().filter(|wish| !point.wished.contains(wish));
                actions.extend(left.map(|wish| Move::Wish(*wish, id)));
            }
        }
        if !point.has_killed {
            actions.extend(point.universe.processes.keys().map(|id| Move::Kill(*id)));
        }
    }

    fn next_state(&self, point: &Point, action: Move) -> Option<Point> {
        let mut next = point.clone();
        next.broken = next.act(action).err();
        if next.broken.is_none() && next.universe.enabled().is_empty() {
            let mut rested = next.universe.clone();
            next.broken = guarded(&mut rested, Universe::rest).err();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing breaks", |_, point: &Point| point.broken.is_none())]
    }
}

/// The result of an exploration.
#[derive(Debug)]
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) is_complete: bool,
    /// The steps to a state that breaks an invariant.
    pub(super) broken: Option<String>,
}

/// Explores a world, up to this number of states.
pub(super) fn explore(small: Small, states_max: usize) -> Explored {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = small.checker().threads(threads).target_state_count(states_max).spawn_bfs().join();
    let broken = checker.discovery("nothing breaks").map(|path| {
        let last = path.last_state().broken.clone();
        let actions: Vec<String> = path.into_actions().iter().map(|action| format!("  {action:?}\n")).collect();
        format!("{last:?}\n{}", actions.concat())
    });
    let states = checker.unique_state_count();
    Explored { states, is_complete: checker.state_count() < states_max, broken }
}
