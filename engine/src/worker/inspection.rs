//! The master's questions about a worker's connections: the progress of each answer, and which connections come first.
//! Pure; the loop looks at connections, a slice in each turn.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use crate::ipc::control::{ConnectionOrder, PeerHost};
use crate::ipc::orders::{COUNTED_MS, Counted};
use crate::types::ConnectionId;

/// Number of questions at the same time: more than a master asks. The oldest one makes room.
const QUESTIONS_MAX: usize = 4;

/// Peers that are counted one by one. For all others only the number of connections is known.
const PEERS_MAX: usize = 65_536;

/// How often each connection, by slot, had received and sent at a given time.
#[derive(Debug, Default)]
pub(super) struct Noted(Vec<Before>);

#[derive(Clone, Copy, Debug, Default)]
struct Before {
    generation: u32,
    events: u32,
}

impl Noted {
    /// Notes the next slot: the connection there, and its events so far.
    pub(super) fn push(&mut self, connection: Option<(ConnectionId, u32)>) {
        self.0
            .push(connection.map_or_else(Before::default, |(id, events)| Before { generation: id.generation, events }));
    }

    /// The events of a connection since then; all of them if it was opened later.
    pub(super) fn since(&self, id: ConnectionId, events: u32) -> u32 {
        let before = self.0.get(id.slot as usize).filter(|one| one.generation == id.generation);
        before.map_or(events, |one| events.wrapping_sub(one.events))
    }
}

/// The connections that come first.
#[derive(Debug)]
pub(super) struct Best {
    limit: usize,
    /// The lowest-ranked one is on top.
    heap: BinaryHeap<Reverse<(u64, Reverse<ConnectionId>)>>,
}

impl Best {
    fn new(limit: usize) -> Self {
        Self { limit, heap: BinaryHeap::new() }
    }

    /// Offers a connection with its rank. The highest ranks come first.
    pub(super) fn offer(&mut self, rank: u64, id: ConnectionId) {
        let one = Reverse((rank, Reverse(id)));
        if self.heap.len() < self.limit {
            self.heap.push(one);
        } else if self.heap.peek().is_some_and(|last| one < *last) {
            self.heap.pop();
            self.heap.push(one);
        }
    }

    fn in_order(self) -> VecDeque<(u64, ConnectionId)> {
        let sorted = self.heap.into_sorted_vec();
        sorted.into_iter().map(|Reverse((rank, Reverse(id)))| (rank, id)).collect()
    }
}

/// How many connections each peer has.
#[derive(Debug, Default)]
pub(super) struct Peers {
    counts: HashMap<PeerHost, u64>,
    /// Connections of peers for which there was no room.
    others: u64,
}

impl Peers {
    pub(super) fn count(&mut self, peer: PeerHost) {
        if let Some(count) = self.counts.get_mut(&peer) {
            *count += 1;
        } else if self.counts.len() < PEERS_MAX {
            self.counts.insert(peer, 1);
        } else {
            self.others += 1;
        }
    }

    /// The peers with the most connections, and the most connections that any other peer can have.
    fn first(self, limit: usize) -> (VecDeque<Counted>, u64) {
        let counts = self.counts.into_iter();
        let mut all: Vec<Counted> = counts.map(|(peer, connections)| Counted { peer, connections }).collect();
        all.sort_unstable_by_key(|one| (Reverse(one.connections), one.peer));
        let next = all.get(limit).map_or(0, |one| one.connections);
        all.truncate(limit);
        (all.into(), next.max(self.others))
    }
}

/// The progress of an answer.
#[derive(Debug)]
pub(super) enum Stage {
    /// The loop is noting what each connection has received and sent so far.
    Noting(Noted),
    /// Connections continue for a while: from when, and until when.
    Waiting { before: Noted, from_ns: u64, until_ns: u64 },
    /// The loop looks at all connections for the oldest.
    Oldest(Best),
    /// The loop looks at all connections for the busiest.
    Busiest { before: Noted, from_ns: u64, best: Best },
    /// The loop looks at all connections for their peers.
    Peers(Peers),
    /// The answer is ready: connections with their ranks, and the time over which they were counted.
    Connections { chosen: VecDeque<(u64, ConnectionId)>, counted_ns: Option<u64> },
    /// The answer is ready: peers.
    Counted { peers: VecDeque<Counted>, unlisted_max: u64 },
}

/// A question of the master.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) number: u32,
    limit: usize,
    /// The next slot to look at.
    pub(super) next_slot: u32,
    pub(super) stage: Stage,
}

impl Question {
    /// Moves to the next stage after all connections were looked at once.
    pub(super) fn finish_pass(&mut self, now_ns: u64) {
        self.next_slot = 0;
        let answer = Stage::Counted { peers: VecDeque::new(), unlisted_max: 0 };
        self.stage = match std::mem::replace(&mut self.stage, answer) {
            Stage::Noting(before) => {
                Stage::Waiting { before, from_ns: now_ns, until_ns: now_ns.saturating_add(COUNTED_MS * 1_000_000) }
            }
            Stage::Oldest(best) => Stage::Connections { chosen: best.in_order(), counted_ns: None },
            Stage::Busiest { from_ns, best, .. } => {
                let counted_ns = Some(now_ns.saturating_sub(from_ns).max(1));
                Stage::Connections { chosen: best.in_order(), counted_ns }
            }
            Stage::Peers(peers) => {
                let (peers, unlisted_max) = peers.first(self.limit);
                Stage::Counted { peers, unlisted_max }
            }
            stage @ (Stage::Waiting { .. } | Stage::Connections { .. } | Stage::Counted { .. }) => stage,
        };
    }

    /// Whether there is something to look at now. Ends a wait that is over.
    fn has_work(&mut self, now_ns: u64) -> bool {
        if let Stage::Waiting { before, from_ns, until_ns } = &mut self.stage
            && *until_ns <= now_ns
        {
            let (before, from_ns) = (std::mem::take(before), *from_ns);
            self.stage = Stage::Busiest { before, from_ns, best: Best::new(self.limit) };
        }
        !matches!(self.stage, Stage::Waiting { .. } | Stage::Connections { .. } | Stage::Counted { .. })
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Questions {
    all: VecDeque<Question>,
}

impl Questions {
    pub(super) fn ask(&mut self, number: u32, order: ConnectionOrder, limit: usize) {
        if self.all.len() >= QUESTIONS_MAX {
            self.all.pop_front();
        }
        let stage = match order {
            ConnectionOrder::Oldest => Stage::Oldest(Best::new(limit)),
            ConnectionOrder::Busiest => Stage::Noting(Noted::default()),
            ConnectionOrder::ByPeer => Stage::Peers(Peers::default()),
        };
        self.all.push_back(Question { number, limit, next_slot: 0, stage });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes out the first question that has something to look at. The caller must put it back.
    pub(super) fn take_next(&mut self, now_ns: u64) -> Option<Question> {
        let place = self.all.iter_mut().position(|question| question.has_work(now_ns))?;
        self.all.remove(place)
    }

    /// Takes out the question of this number, if its answer is ready.
    pub(super) fn take_answered(&mut self, number: u32) -> Option<Question> {
        let is_it = |question: &Question| {
            question.number == number && matches!(question.stage, Stage::Connections { .. } | Stage::Counted { .. })
        };
        let place = self.all.iter().position(is_it)?;
        self.all.remove(place)
    }

    pub(super) fn put_back(&mut self, question: Question) {
        self.all.push_back(question);
    }

    pub(super) fn has_work(&mut self, now_ns: u64) -> bool {
        self.all.iter_mut().any(|question| question.has_work(now_ns))
    }

    /// When the next wait is over.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let waits = self.all.iter().filter_map(|question| match question.stage {
            Stage::Waiting { until_ns, .. } => Some(until_ns),
            _ => None,
        });
        waits.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 0 }
    }

    #[test]
    fn the_first_are_kept_in_order_and_of_equals_the_first_slot() {
        let mut best = Best::new(3);
        for (rank, slot) in [(5, 0), (9, 1), (5, 2), (7, 3), (1, 4), (5, 5)] {
            best.offer(rank, id(slot));
        }
        assert_eq!(best.in_order(), [(9, id(1)), (7, id(3)), (5, id(0))]);
        let mut few = Best::new(3);
        few.offer(1, id(9));
        assert_eq!(few.in_order(), [(1, id(9))]);
    }

    #[test]
    fn peers_are_counted_and_what_is_left_out_is_bounded() {
        let host = |user| PeerHost::Unix { user };
        let mut peers = Peers::default();
        for user in [1, 2, 2, 3, 3, 3] {
            peers.count(host(user));
        }
        let counted = |user, connections| Counted { peer: host(user), connections };
        assert_eq!(peers.first(2), ([counted(3, 3), counted(2, 2)].into(), 1));
        let mut many = Peers::default();
        (0..PEERS_MAX as u32 + 10).for_each(|user| many.count(host(user)));
        let (first, unlisted_max) = many.first(1);
        assert_eq!((first.len(), unlisted_max), (1, 10));
    }

    #[test]
    fn the_busiest_are_noted_waited_for_and_looked_at() {
        let mut questions = Questions::default();
        questions.ask(7, ConnectionOrder::Busiest, 2);
        let mut question = questions.take_next(0).expect("it begins at once");
        question.finish_pass(5);
        questions.put_back(question);
        let until_ns = questions.next_ns().expect("it waits");
        assert_eq!(until_ns, 5 + COUNTED_MS * 1_000_000);
        assert!(!questions.has_work(until_ns - 1) && questions.take_answered(7).is_none());
        let mut question = questions.take_next(until_ns).expect("the wait is over");
        let Stage::Busiest { best, .. } = &mut question.stage else { panic!("{question:?}") };
        best.offer(3, id(1));
        question.finish_pass(until_ns + 5);
        let Stage::Connections { chosen, counted_ns } = &question.stage else { panic!("{question:?}") };
        assert_eq!((chosen.len(), *counted_ns), (1, Some(COUNTED_MS * 1_000_000 + 5)));
        questions.put_back(question);
        assert!(!questions.has_work(u64::MAX) && questions.next_ns().is_none());
        assert!(questions.take_answered(8).is_none() && questions.take_answered(7).is_some());
        assert!(questions.is_empty());
    }

    #[test]
    fn the_oldest_question_makes_room() {
        let mut questions = Questions::default();
        (0..9).for_each(|number| questions.ask(number, ConnectionOrder::Oldest, 1));
        assert_eq!(questions.all.iter().map(|one| one.number).collect::<Vec<_>>(), [5, 6, 7, 8]);
    }
}
