//! Workers that send messages, one of which moves its connection to another, in any order of events. Each connection
//! hears each message once and in order, and the messages of the moving connection are heard in the order in which it
//! sent them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::Gate;
use crate::config::Limits;
use crate::messages::mutation::{self, Mutation};
use crate::messages::{Answer, Heard, Inbox, Place, SELF, SendError, Siblings, Who};

/// Worker 0 leaves, and 1 is its heir.
const LEAVER: usize = 0;
const HEIR: usize = 1;
/// This worker may end.
const ENDING: usize = 2;
const WORKERS: usize = 4;

/// A message: its sender, its number, and whether the moving connection has sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    from: u8,
    number: u16,
    /// Its number among the messages of the moving connection.
    of_mover: Option<u16>,
    /// Only for the leaver's slot.
    is_direct: bool,
}

impl Said {
    fn bytes(self) -> Vec<u8> {
        let mover = self.of_mover.map_or(u16::MAX, |number| number);
        let [a, b] = self.number.to_le_bytes();
        let [c, d] = mover.to_le_bytes();
        vec![self.from, a, b, c, d, u8::from(self.is_direct)]
    }

    fn of(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let of_mover = Some(word(3)).filter(|number| *number != u16::MAX);
        Self { from: bytes[0], number: word(1), of_mover, is_direct: bytes[5] > 0 }
    }
}

/// Messages between the leaver and the heir.
#[derive(Clone, Debug)]
enum Link {
    Gather,
    Gathers(Vec<String>),
    Senders(Vec<String>, Vec<String>),
    Gathered,
    /// The connection, and the announcement that it was the last.
    Gives,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    Asking,
    Marking,
    Marked,
    Frozen,
    Given,
}

struct Worker {
    siblings: Siblings,
    gate: Gate,
    inboxes: BTreeMap<usize, Inbox>,
    /// What its own connection, which stays, has heard.
    heard: Vec<Said>,
    said: u16,
}

struct World {
    workers: Vec<Worker>,
    places: BTreeMap<(usize, usize), Place>,
    /// Packets in the kernel, from one worker to another.
    channels: BTreeMap<(usize, usize), VecDeque<Vec<u8>>>,
    /// Answers of the second worker to the first.
    answers: BTreeMap<(usize, usize), VecDeque<Answer>>,
    to_heir: VecDeque<Link>,
    to_leaver: VecDeque<Link>,
    stage: Stage,
    has_gathered: bool,
    /// The worker that has the moving connection; `None` while it is frozen.
    mover: Option<usize>,
    mover_said: u16,
    mover_heard: Vec<Said>,
    published: Vec<Said>,
    /// The ending worker sends nothing more than what is on its way.
    has_ended: bool,
    /// The workers that have seen the end.
    saw_end: BTreeSet<usize>,
}

fn name(worker: usize) -> String {
    format!("worker {worker}")
}

impl World {
    fn new(knows_heir_late: bool) -> Self {
        let workers = (0..WORKERS).map(|number| {
            let who = Who { name: name(number), slot: number, generation: 1 };
            let mut gate = Gate::new(name(number));
            let is_late = |other: usize| knows_heir_late && number == HEIR && other == WORKERS - 1;
            let others = (0..WORKERS).filter(|other| *other != number && !is_late(*other));
            others.for_each(|other| gate.came(&name(other)));
            let inboxes = (0..WORKERS).map(|other| (other, Inbox::new(1_000))).collect();
            let siblings = Siblings::new(who, &Limits::default());
            Worker { siblings, gate, inboxes, heard: Vec::new(), said: 0 }
        });
        let mut this = Self {
            workers: workers.collect(),
            places: (0..WORKERS).map(|number| ((number, number), SELF)).collect(),
            channels: BTreeMap::new(),
            answers: BTreeMap::new(),
            to_heir: VecDeque::new(),
            to_leaver: VecDeque::new(),
            stage: Stage::Serving,
            has_gathered: false,
            mover: Some(LEAVER),
            mover_said: 0,
            mover_heard: Vec::new(),
            published: Vec::new(),
            has_ended: false,
            saw_end: BTreeSet::new(),
        };
        for from in 0..WORKERS {
            for to in (0..WORKERS).filter(|to| *to != from && !(knows_heir_late && from == WORKERS - 1 && *to == HEIR))
            {
                this.join(from, to);
            }
        }
        this
    }

    fn join(&mut self, from: usize, to: usize) {
        if let Some(place) = self.workers[from].siblings.join(Who { name: name(to), slot: to, generation: 1 }) {
            self.workers[from].siblings.welcomed(place);
            self.places.insert((from, to), place);
            if (from, to) == (WORKERS - 1, HEIR) {
                self.workers[to].gate.came(&name(from));
            }
        }
    }

    fn say(&mut self, from: usize, as_mover: bool, is_direct: bool) {
        if (as_mover && self.mover != Some(from)) || (self.has_ended && from == ENDING) {
            return;
        }
        let worker = &mut self.workers[from];
        let of_mover = as_mover.then_some(self.mover_said);
        let said = Said { from: from as u8, number: worker.said, of_mover, is_direct };
        let result = match is_direct {
            true => worker.siblings.send(LEAVER, &said.bytes()),
            false => worker.siblings.broadcast(&said.bytes()),
        };
        assert!(!matches!(result, Err(SendError::Full | SendError::TooLarge)));
        if result.is_ok() {
            worker.said += 1;
            self.mover_said += u16::from(as_mover);
            self.published.push(said);
        }
    }

    fn end_turn(&mut self, from: usize) {
        let places = self.workers[from].siblings.seal(0);
        for to in (0..WORKERS).filter(|to| *to != from) {
            let Some(place) = self.places.get(&(from, to)).filter(|place| places.contains(place)) else { continue };
            while let Some(packet) = self.workers[from].siblings.next(*place).map(<[u8]>::to_vec) {
                self.workers[from].siblings.sent(*place, 0);
                self.channels.entry((from, to)).or_default().push_back(packet);
            }
        }
        self.settle();
    }

    /// Reads one packet of `from`, unless that sender is held.
    fn read(&mut self, worker: usize, from: usize) {
        let one = &mut self.workers[worker];
        if one.gate.holds(&name(from)) {
            return;
        }
        let packet = if from == worker {
            one.siblings.take_own().map(|packet| packet.to_vec())
        } else {
            self.channels.get_mut(&(from, worker)).and_then(VecDeque::pop_front)
        };
        let Some(packet) = packet else {
            if self.has_ended && from == ENDING && worker != ENDING && self.saw_end.insert(worker) {
                one.gate.ended(&name(from));
                self.settle();
            }
            return;
        };
        match one.inboxes.get_mut(&from).expect("an inbox").take(&packet).expect("it makes sense") {
            Heard::Messages(messages) => {
                for said in messages.map(Said::of) {
                    if !said.is_direct {
                        one.heard.push(said);
                    }
                    if self.mover == Some(worker) {
                        self.mover_heard.push(said);
                    } else {
                        assert!(!said.is_direct, "{said:?} was heard where nobody is whom it is for");
                    }
                }
            }
            Heard::Word(word) => one.gate.read(&name(from), &word),
            _ => panic!("nobody has said that"),
        }
        self.settle();
    }

    /// An answer of `to` reaches `from`.
    fn answer(&mut self, from: usize, to: usize) {
        if self.has_ended && from == ENDING {
            return;
        }
        if let Some(Answer::Mark { to: heir, attempt, .. }) =
            self.answers.get_mut(&(from, to)).and_then(VecDeque::pop_front)
        {
            let place = self.places[&(from, to)];
            self.workers[from].siblings.mark(place, heir, attempt);
        }
    }

    fn leave(&mut self) {
        if self.stage == Stage::Serving {
            self.stage = Stage::Asking;
            self.to_heir.push_back(Link::Gather);
        }
    }

    fn hear_link(&mut self, worker: usize) {
        let link = if worker == HEIR { &mut self.to_heir } else { &mut self.to_leaver };
        match link.pop_front() {
            Some(Link::Gather) => {
                let senders = self.workers[HEIR].gate.arrive(name(LEAVER), 1).expect("nobody else arrives");
                self.to_leaver.push_back(Link::Gathers(senders));
            }
            Some(Link::Gathers(senders)) => {
                self.workers[LEAVER].gate.depart(1, senders);
                self.stage = Stage::Marking;
                self.workers[LEAVER].siblings.mark(SELF, name(HEIR), 1);
                for from in (0..WORKERS).filter(|from| *from != LEAVER) {
                    let mark = Answer::Mark { to: name(HEIR), slot: HEIR, generation: 1, attempt: 1 };
                    self.answers.entry((from, LEAVER)).or_default().push_back(mark);
                }
            }
            Some(Link::Senders(senders, ended)) => {
                self.workers[HEIR].gate.expect(senders.into_iter(), ended.into_iter());
            }
            Some(Link::Gathered) => {
                self.stage = Stage::Frozen;
                self.mover = None;
                self.workers[LEAVER].siblings.moved(1);
            }
            Some(Link::Gives) => {
                self.mover = Some(HEIR);
                self.stage = Stage::Given;
                self.workers[HEIR].gate.end_arriving();
            }
            None => {}
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.stage == Stage::Marking
            && let Some((senders, ended)) = self.workers[LEAVER].gate.departed()
        {
            self.stage = Stage::Marked;
            self.to_heir.push_back(Link::Senders(senders, ended));
        }
        if !self.has_gathered && self.workers[HEIR].gate.has_gathered() {
            self.has_gathered = true;
            self.workers[HEIR].siblings.began(name(LEAVER), 1);
            self.to_leaver.push_back(Link::Gathered);
        }
    }

    fn give(&mut self) {
        if self.stage == Stage::Frozen && !self.to_heir.iter().any(|link| matches!(link, Link::Gives)) {
            self.to_heir.push_back(Link::Gives);
            self.workers[LEAVER].gate.end_departing();
        }
    }

    fn step(&mut self, (kind, one, other): (u8, usize, usize)) {
        match kind {
            0 => self.say(one, false, false),
            1 => self.say(one, false, true),
            2 => self.say(one, true, false),
            3 | 4 => self.end_turn(one),
            5 | 6 => self.read(one, other),
            7 => self.answer(one, other),
            8 => self.leave(),
            9 => self.hear_link(if one % 2 == 0 { LEAVER } else { HEIR }),
            10 => self.give(),
            12 => {
                self.end_turn(ENDING);
                self.has_ended = true;
            }
            _ => self.join(WORKERS - 1, HEIR),
        }
    }

    /// Takes random steps, while one of the workers seldom reads.
    fn wander(&mut self, seed: u64, steps: usize) {
        let mut state = seed;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        };
        let slow = (below(WORKERS), below(WORKERS));
        for _ in 0..steps {
            let kind = [0, 1, 2, 2, 3, 3, 3, 5, 5, 5, 5, 5, 7, 7, 8, 9, 9, 9, 10, 11][below(20)];
            let kind = if below(200) == 0 { 12 } else { kind };
            let (one, other) = (below(WORKERS), below(WORKERS));
            if kind != 5 || (one, other) != slow || below(40) == 0 {
                self.step((kind, one, other));
            }
        }
    }

    fn finish(&mut self) {
        for _ in 0..40 {
            for kind in [11, 8, 9, 10, 3] {
                (0..WORKERS).for_each(|one| self.step((kind, one, 0)));
            }
            for one in 0..WORKERS {
                for other in 0..WORKERS {
                    self.answer(one, other);
                    (0..600).for_each(|_| self.read(one, other));
                }
            }
        }
    }

    fn of(all: &[Said], from: usize) -> Vec<Said> {
        all.iter().copied().filter(|said| usize::from(said.from) == from).collect()
    }
}

type Step = (u8, usize, usize);

/// Whether one worker learns of the heir late, a seed of steps, and steps before them.
type History = (bool, u64, Vec<Step>);

fn histories() -> impl Strategy<Value = History> {
    (any::<bool>(), any::<u64>(), proptest::collection::vec((0..12_u8, 0..WORKERS, 0..WORKERS), 0..60))
}

fn check((knows_heir_late, seed, steps): History) -> Result<(), TestCaseError> {
    let mut world = World::new(knows_heir_late);
    steps.into_iter().for_each(|step| world.step(step));
    world.wander(seed, 800);
    world.finish();
    prop_assert_eq!(world.stage, Stage::Given);
    for from in 0..WORKERS {
        let published = World::of(&world.published, from);
        prop_assert_eq!(World::of(&world.mover_heard, from), published.clone(), "of {}, by the one that moved", from);
        let to_all: Vec<Said> = published.into_iter().filter(|said| !said.is_direct).collect();
        // A worker that has ended hears nothing more.
        let living = |number: &usize| !world.has_ended || *number != ENDING;
        for (number, worker) in world.workers.iter().enumerate().filter(|(number, _)| living(number)) {
            let is_late = knows_heir_late && number == HEIR && from == WORKERS - 1;
            let heard = World::of(&worker.heard, from);
            let known = if is_late { &to_all[to_all.len() - heard.len()..] } else { &to_all[..] };
            prop_assert_eq!(&heard[..], known, "of {}, by {}", from, number);
        }
    }
    // In the order in which the connection sent them, at whichever worker it was.
    for heard in world.workers.iter().map(|worker| &worker.heard).chain([&world.mover_heard]) {
        let numbers: Vec<u16> = heard.iter().filter_map(|said| said.of_mover).collect();
        prop_assert!(numbers.is_sorted(), "{numbers:?}");
    }
    Ok(())
}

fn run(cases: u32) -> Result<(), TestError<History>> {
    let config = Config { cases, max_shrink_iters: 100, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner.run(&histories(), check)
}

#[test]
fn each_connection_hears_each_message_once_and_in_order() {
    run(2_000).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn each_defect_that_is_put_back_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let missed = Mutation::ALL.iter().filter(|mutation| mutation::with(Some(**mutation), || run(2_000)).is_ok());
    let missed: Vec<&Mutation> = missed.collect();
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "missed: {missed:?}");
}
