//! Operators' questions about connections, and workers that answer late, wrongly, or not at all.

use super::masters::Master;
use super::world::WORKER;
use crate::handover::Tier;
use crate::ipc::control::{
    CannotClose, ConnectionFacts, ConnectionList, ConnectionName, ConnectionOrder, ConnectionPeer, ConnectionState,
    EventKind, Exit, Failure, Outcome, PeerHost, WorkerSilence,
};
use crate::ipc::orders::{ConnectionEnd, Counted, ListPart, Listed, Order, Report};
use crate::master::core::{ClientId, Event, ProcessId, Request, Wanted};

const FIRST: ProcessId = ProcessId(WORKER);
const SECOND: ProcessId = ProcessId(WORKER + 1);

fn wanted(order: ConnectionOrder, limit: usize) -> Request {
    Request::Connections(Wanted { order, limit, worker: None })
}

fn listed(slot: u32, age_ms: u64) -> Listed {
    let facts = ConnectionFacts {
        peer: ConnectionPeer::Tcp { address: ([127, 0, 0, 1], 99).into() },
        local: None,
        state: ConnectionState::Open,
        is_layered: false,
        age_ms,
        idle_ms: 0,
        held_bytes: 0,
        events_per_second: None,
    };
    Listed { slot, generation: 0, rank: age_ms, facts }
}

fn part(question: u32, connections: &[(u32, u64)], has_more: bool) -> ListPart {
    let connections: Vec<Listed> = connections.iter().map(|(slot, age_ms)| listed(*slot, *age_ms)).collect();
    ListPart { question, total: 10, connections, has_more, ..ListPart::default() }
}

fn peers(question: u32, peers: &[(u32, u64)], unlisted_max: u64) -> ListPart {
    let counted =
        |(user, connections): &(u32, u64)| Counted { peer: PeerHost::Unix { user: *user }, connections: *connections };
    ListPart { question, total: 10, peers: peers.iter().map(counted).collect(), unlisted_max, ..ListPart::default() }
}

impl Master {
    fn ask(&mut self, client: u64, request: Request) {
        self.step(Event::Request(ClientId(client), request));
    }

    fn say(&mut self, process: ProcessId, part: ListPart) {
        self.step(Event::Report(process, Report::Connections(part)));
    }

    fn end(&mut self, process: ProcessId, question: u32, how: ConnectionEnd) {
        self.step(Event::Report(process, Report::ConnectionEnded { question, how }));
    }

    /// The one answer that a client got.
    fn answer(&mut self, client: u64) -> Option<Result<Outcome, Failure>> {
        let its = self.world.replies.iter().filter(|(one, _)| one.0 == client);
        let mut its: Vec<_> = its.map(|(_, result)| result.clone()).collect();
        assert!(its.len() <= 1, "answered more than once: {its:?}");
        its.pop()
    }

    fn list(&mut self, client: u64) -> Option<ConnectionList> {
        match self.answer(client)? {
            Ok(Outcome::Connections(list)) => Some(list),
            other => panic!("{other:?}"),
        }
    }

    /// How often a worker was asked for more.
    fn times_asked_for_more(&self, process: ProcessId) -> usize {
        let is_it = |(one, order): &&(ProcessId, Order)| *one == process && matches!(order, Order::ListMore { .. });
        self.world.told.iter().filter(is_it).count()
    }
}

fn serving() -> Master {
    Master::serving(Tier::Adopt)
}

/// The workers and slots of the listed connections.
fn places(list: &ConnectionList) -> Vec<(u32, u32)> {
    list.connections.iter().map(|one| (one.id.pid - WORKER, one.id.slot)).collect()
}

fn silent(list: &ConnectionList) -> Vec<(u32, WorkerSilence)> {
    list.silent.iter().map(|one| (one.pid - WORKER, one.why)).collect()
}

#[test]
fn the_oldest_of_all_workers_are_listed() {
    let mut master = serving();
    master.ask(1, wanted(ConnectionOrder::Oldest, 3));
    let asked = |one| (one, Order::List { question: 1, first: ConnectionOrder::Oldest, limit: 3 });
    assert_eq!(master.world.told[master.world.told.len() - 2..], [asked(FIRST), asked(SECOND)]);
    master.say(FIRST, part(1, &[(5, 90), (6, 70)], true));
    assert_eq!(master.times_asked_for_more(FIRST), 1);
    master.say(SECOND, part(1, &[(5, 80)], false));
    assert_eq!(master.list(1), None, "the first one has more");
    master.say(FIRST, part(1, &[(7, 60)], false));
    let list = master.list(1).expect("all have answered");
    assert_eq!(places(&list), [(0, 5), (1, 5), (0, 6)]);
    assert_eq!((list.pid, list.total, list.workers, list.silent.len()), (1, 20, 2, 0));
}

#[test]
fn whoever_does_not_answer_in_time_is_named_and_not_heard_later() {
    let mut master = serving();
    master.ask(1, wanted(ConnectionOrder::Oldest, 3));
    master.ask(2, wanted(ConnectionOrder::Busiest, 3));
    master.say(FIRST, part(1, &[(5, 90)], false));
    master.pass_time(1_999);
    assert_eq!(master.list(1), None);
    master.pass_time(1);
    let list = master.list(1).expect("time is over");
    assert_eq!((places(&list), silent(&list)), (vec![(0, 5)], vec![(1, WorkerSilence::Late)]));
    master.say(SECOND, part(1, &[(6, 95)], false));
    assert_eq!(master.list(1), Some(list));
    assert_eq!(master.list(2), None, "the busiest take longer");
    master.pass_time(1_000);
    assert_eq!(silent(&master.list(2).expect("time is over")).len(), 2);
}

#[test]
fn whoever_ends_is_named_at_once() {
    let mut master = serving();
    master.ask(1, wanted(ConnectionOrder::Oldest, 3));
    let id = ConnectionName { pid: SECOND.0, slot: 4, generation: 0 };
    master.ask(2, Request::Close { id, now: false });
    master.say(FIRST, part(1, &[], false));
    master.step(Event::Ended(SECOND, Exit::Signal(9)));
    assert_eq!(silent(&master.list(1).expect("nobody is left")), [(1, WorkerSilence::Ended)]);
    assert_eq!(master.answer(2), Some(Err(Failure::NotClosed { id, why: CannotClose::WorkerEnded })));
}

#[test]
fn operators_do_not_disturb_each_other() {
    let mut master = serving();
    for client in 1..=4 {
        master.ask(client, wanted(ConnectionOrder::Oldest, client as usize));
    }
    master.ask(5, wanted(ConnectionOrder::Oldest, 1));
    assert_eq!(master.answer(5), Some(Err(Failure::TooManyListings { listings_max: 4 })));
    // In another order, and one client has gone meanwhile.
    master.step(Event::ClientGone(ClientId(2)));
    for question in [3, 2, 4, 1] {
        let connections: Vec<(u32, u64)> = (0..question).map(|slot| (10 * question + slot, 50)).collect();
        master.say(FIRST, part(question, &connections, false));
        master.say(SECOND, part(question, &[], false));
    }
    for client in [1, 3, 4] {
        let list = master.list(client).expect("answered");
        assert_eq!(places(&list), (0..client as u32).map(|slot| (0, 10 * client as u32 + slot)).collect::<Vec<_>>());
    }
    assert_eq!(master.answer(2), None);
    master.ask(6, wanted(ConnectionOrder::Oldest, 1));
    assert_eq!(master.answer(6), None, "there is room again");
}

#[test]
fn a_worker_that_lies_gains_nothing() {
    let mut master = serving();
    master.ask(1, wanted(ConnectionOrder::Oldest, 2));
    // Answers to questions that no client asked, and from a process that is not a worker.
    master.say(FIRST, part(9, &[(1, 99)], false));
    master.say(ProcessId(WORKER + 9), part(1, &[(1, 99)], false));
    // More than it was asked for. Then it continues although it was not asked.
    let many: Vec<(u32, u64)> = (0..1_000).map(|slot| (slot, u64::MAX - u64::from(slot))).collect();
    master.say(FIRST, ListPart { total: u64::MAX, ..part(1, &many, true) });
    assert_eq!(master.times_asked_for_more(FIRST), 0, "it has told as many as it was asked for");
    master.say(FIRST, part(1, &many, true));
    // A part with nothing in it that announces more.
    master.say(SECOND, ListPart { total: u64::MAX, ..part(1, &[], true) });
    assert_eq!(master.times_asked_for_more(SECOND), 0);
    let list = master.list(1).expect("both have answered");
    assert_eq!((places(&list), list.total), (vec![(0, 0), (0, 1)], u64::MAX));
}

#[test]
fn what_is_not_told_of_peers_is_bounded() {
    let mut master = serving();
    master.ask(1, wanted(ConnectionOrder::ByPeer, 2));
    master.say(FIRST, peers(1, &[(7, 10), (8, 6)], 5));
    master.say(SECOND, peers(1, &[(8, 9), (9, 3)], 2));
    let list = master.list(1).expect("both have answered");
    let counted: Vec<_> = list.peers.iter().map(|one| (one.peer, one.connections, one.connections_max)).collect();
    assert_eq!(counted, [(PeerHost::Unix { user: 8 }, 15, 15), (PeerHost::Unix { user: 7 }, 10, 12)]);
    assert!(list.connections.is_empty());
    master.ask(2, wanted(ConnectionOrder::ByPeer, 2));
    master.say(FIRST, peers(2, &[(7, u64::MAX), (7, u64::MAX)], u64::MAX));
    master.say(SECOND, peers(2, &[(7, 1)], u64::MAX));
    assert_eq!(master.list(2).expect("both have answered").peers[0].connections_max, u64::MAX);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut master = serving();
    for (client, limit) in [(1, 0), (2, 1_001)] {
        master.ask(client, wanted(ConnectionOrder::Oldest, limit));
        assert_eq!(master.answer(client), Some(Err(Failure::Limit { limit, limit_max: 1_000 })));
    }
    let of = |worker| Request::Connections(Wanted { order: ConnectionOrder::Oldest, limit: 1, worker: Some(worker) });
    master.ask(3, of(2));
    assert_eq!(master.answer(3), Some(Err(Failure::NoSuchWorker { worker: 2 })));
    master.ask(4, of(1));
    master.say(SECOND, part(1, &[(3, 3)], false));
    assert_eq!(places(&master.list(4).expect("only this one is asked")), [(1, 3)]);
    let id = ConnectionName { pid: 7, slot: 0, generation: 0 };
    master.ask(5, Request::Close { id, now: true });
    assert_eq!(master.answer(5), Some(Err(Failure::NotClosed { id, why: CannotClose::NoWorker })));
}

#[test]
fn a_connection_is_closed_when_its_worker_says_so() {
    let mut master = serving();
    let id = ConnectionName { pid: FIRST.0, slot: 4, generation: 2 };
    let drain_ms = master.world.plan.drain_ms;
    master.ask(1, Request::Close { id, now: false });
    let order = Order::EndConnection { question: 1, slot: 4, generation: 2, now: false, drain_ms };
    assert_eq!(master.world.told.last(), Some(&(FIRST, order)));
    // Reports of another worker, or about another question, do not count.
    master.end(SECOND, 1, ConnectionEnd::Closed);
    master.end(FIRST, 2, ConnectionEnd::Closed);
    assert_eq!(master.answer(1), None);
    master.end(FIRST, 1, ConnectionEnd::Closed);
    assert_eq!(master.answer(1), Some(Ok(Outcome::Closed { id })));
    assert_eq!(master.world.noted.last(), Some(&EventKind::ConnectionClosed { slot: 0, id, at_once: false }));
    let noted = master.world.noted.len();
    for (client, how, why) in [
        (2, ConnectionEnd::Gone, CannotClose::Gone),
        (3, ConnectionEnd::Moving, CannotClose::Moving),
        (4, ConnectionEnd::Moved, CannotClose::Moved),
        (5, ConnectionEnd::TooMany, CannotClose::TooMany),
    ] {
        master.ask(client, Request::Close { id, now: false });
        master.end(FIRST, client as u32, how);
        assert_eq!(master.answer(client), Some(Err(Failure::NotClosed { id, why })));
    }
    master.ask(6, Request::Close { id, now: true });
    master.pass_time(4_999);
    assert_eq!(master.answer(6), None);
    master.pass_time(1);
    assert_eq!(master.answer(6), Some(Err(Failure::NotClosed { id, why: CannotClose::Late })));
    assert_eq!(master.world.noted.len(), noted);
    // The client has gone, and the event still says that the connection was closed.
    master.ask(7, Request::Close { id, now: true });
    master.step(Event::ClientGone(ClientId(7)));
    master.end(FIRST, 7, ConnectionEnd::Closed);
    assert_eq!((master.answer(7), master.world.noted.len()), (None, noted + 1));
}
