//! Operators list connections and end them. The master asks the workers and waits for each of them for a limited time.
//! The answer names the workers that have not answered.
//!
//! The master accepts one answer of a worker for each question, and keeps no more of it than that.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Core;
use super::generation::{Slot, State};
use super::mutation::{Mutation, is_put_back};
use super::types::{ClientId, ProcessId, Time};
use super::world::{Wanted, World};
use crate::ipc::control::{
    CONNECTIONS_LISTED_MAX, CannotClose, ConnectionList, ConnectionName, ConnectionOrder, ConnectionStatus, EventKind,
    Failure, Outcome, PeerHost, PeerStatus, SilentWorker, WorkerSilence,
};
use crate::ipc::orders::{COUNTED_MS, ConnectionEnd, ListPart, Order};

/// How long the master waits for a worker's list of its connections.
const LIST_MS_MAX: u64 = 2_000;

/// Number of lists that are collected at the same time. For each, every worker looks at all its connections.
const LISTINGS_MAX: usize = 4;

/// Number of peers that are counted for one answer.
const PEERS_MAX: usize = 65_536;

/// How long after the end of its time the master still waits for a worker's report that a connection is gone.
const END_GRACE_MS: u64 = 5_000;

/// Number of connections that can be ending at the same time because operators asked for it.
const ENDINGS_MAX: usize = 256;

/// A worker that the master has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    process: ProcessId,
    generation: u32,
    slot: usize,
    /// How many connections or peers it has reported.
    told: usize,
    /// Set once it has reported its total: no peer that its answer leaves out has more connections than this.
    unlisted_max: Option<u64>,
}

impl Asked {
    fn is_silent(self, why: WorkerSilence) -> SilentWorker {
        SilentWorker { pid: self.process.0, generation: self.generation, worker: self.slot, why }
    }
}

/// The connections of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Count {
    connections: u64,
    /// The sum of `unlisted_max` over the workers that reported this peer.
    unlisted_max: u64,
}

/// A list that is being collected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Listing {
    client: ClientId,
    question: u32,
    wanted: Wanted,
    until: Time,
    awaited: Vec<Asked>,
    silent: Vec<SilentWorker>,
    workers: usize,
    total: u64,
    /// The first connections so far, with their ranks.
    connections: Vec<(u64, ConnectionStatus)>,
    peers: BTreeMap<PeerHost, Count>,
    /// The most that all workers together can have left out.
    unlisted_max: u64,
}

/// A connection that an operator wants to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ending {
    /// `None` when no client waits any more.
    client: Option<ClientId>,
    question: u32,
    process: ProcessId,
    generation: u32,
    slot: usize,
    id: ConnectionName,
    at_once: bool,
    until: Time,
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Inspections {
    listings: Vec<Listing>,
    endings: Vec<Ending>,
    /// The number of the last question.
    number: u32,
}

impl Inspections {
    /// Forgets a client that has gone. A connection that it wanted to end still ends.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.listings.retain(|listing| listing.client != client);
        let endings = self.endings.iter_mut().filter(|ending| ending.client == Some(client));
        endings.for_each(|ending| ending.client = None);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let listings = self.listings.iter().map(|listing| listing.until);
        listings.chain(self.endings.iter().map(|ending| ending.until)).min()
    }

    fn next_question(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// Whether no client waits for an answer.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn is_empty(&self) -> bool {
        self.listings.is_empty() && self.endings.iter().all(|ending| ending.client.is_none())
    }

    /// # Panics
    /// If more is kept than the limits allow, or a client waits for no worker.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn assert_legal(&self, now: Time) {
        assert!(self.listings.len() <= LISTINGS_MAX && self.endings.len() <= ENDINGS_MAX, "too many questions");
        assert!(self.deadline().is_none_or(|until| until > now), "a worker is waited for longer than it may take");
        for listing in &self.listings {
            assert!(!listing.awaited.is_empty(), "nobody is waited for");
            assert!(listing.connections.len() <= listing.wanted.limit, "more connections than were asked for");
            assert!(listing.peers.len() <= PEERS_MAX, "too many peers");
        }
    }
}

impl Listing {
    /// Stores a worker's answer.
    fn take(&mut self, place: usize, part: &ListPart) {
        let asked = &mut self.awaited[place];
        if asked.unlisted_max.is_none() {
            asked.unlisted_max = Some(part.unlisted_max);
            self.total = self.total.saturating_add(part.total);
            self.unlisted_max = self.unlisted_max.saturating_add(part.unlisted_max);
        }
        let left = self.wanted.limit.saturating_sub(asked.told);
        if self.wanted.order == ConnectionOrder::ByPeer {
            asked.told += part.peers.len();
            let unlisted_max = asked.unlisted_max.unwrap_or(0);
            for counted in part.peers.iter().take(left) {
                if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&counted.peer) {
                    self.unlisted_max = self.unlisted_max.saturating_add(counted.connections);
                    continue;
                }
                let count = self.peers.entry(counted.peer).or_default();
                count.connections = count.connections.saturating_add(counted.connections);
                count.unlisted_max = count.unlisted_max.saturating_add(unlisted_max);
            }
            return;
        }
        asked.told += part.connections.len();
        let Asked { process, generation, slot, .. } = *asked;
        self.connections.extend(part.connections.iter().take(left).map(|one| {
            let id = ConnectionName { pid: process.0, slot: one.slot, generation: one.generation };
            (one.rank, ConnectionStatus { id, generation, worker: slot, facts: one.facts })
        }));
        self.connections.sort_by_key(|(rank, one)| (Reverse(*rank), one.id));
        self.connections.truncate(self.wanted.limit);
    }

    /// Whether to ask for the rest of a worker's answer. A worker that reports nothing and still announces more is not
    /// asked again.
    fn wants_more(&self, place: usize, part: &ListPart) -> bool {
        let has_told = !part.connections.is_empty() || !part.peers.is_empty();
        part.has_more && has_told && self.awaited[place].told < self.wanted.limit
    }

    fn answer(mut self, master: ProcessId) -> Outcome {
        let unlisted_max = self.unlisted_max;
        let mut peers: Vec<PeerStatus> = std::mem::take(&mut self.peers)
            .into_iter()
            .map(|(peer, count)| PeerStatus {
                peer,
                connections: count.connections,
                connections_max: count.connections.saturating_add(unlisted_max.saturating_sub(count.unlisted_max)),
            })
            .collect();
        peers.sort_by_key(|one| (Reverse(one.connections), one.peer));
        peers.truncate(self.wanted.limit);
        self.silent.sort_by_key(|one| (one.generation, one.worker));
        Outcome::Connections(ConnectionList {
            pid: master.0,
            order: self.wanted.order,
            connections: self.connections.into_iter().map(|(_, one)| one).collect(),
            peers,
            total: self.total,
            workers: self.workers,
            silent: self.silent,
        })
    }
}

impl Core {
    /// Asks workers for their connections.
    pub(super) fn list_connections(
        &mut self,
        world: &mut dyn World,
        client: ClientId,
        wanted: Wanted,
    ) -> Result<(), Failure> {
        let Wanted { order, limit, worker } = wanted;
        if !(1..=CONNECTIONS_LISTED_MAX).contains(&limit) {
            return Err(Failure::Limit { limit, limit_max: CONNECTIONS_LISTED_MAX });
        }
        if self.inspections.listings.len() >= LISTINGS_MAX {
            return Err(Failure::TooManyListings { listings_max: LISTINGS_MAX });
        }
        let is_meant = |slot: usize| worker.is_none_or(|worker| worker == slot);
        let orphans = self.orphans.all.iter().filter_map(|orphan| {
            let known = orphan.known.as_ref().filter(|known| is_meant(known.slot))?;
            let (pid, generation, worker) = (orphan.process.0, known.generation, known.slot);
            Some(SilentWorker { pid, generation, worker, why: WorkerSilence::Orphaned })
        });
        let mut silent: Vec<SilentWorker> = orphans.collect();
        let slots = self.generations.iter().flat_map(|one| one.slots.iter().map(move |slot| (one.number, slot)));
        let slots: Vec<(u32, &Slot)> = slots.filter(|(_, slot)| is_meant(slot.index)).collect();
        if let Some(worker) = worker.filter(|_| slots.is_empty() && silent.is_empty()) {
            return Err(Failure::NoSuchWorker { worker });
        }
        let question = self.inspections.next_question();
        let (order_to_list, mut awaited) = (Order::List { question, first: order, limit }, Vec::new());
        for (generation, slot) in slots {
            let Some(child) = slot.child() else { continue };
            let asked = Asked { process: child.process, generation, slot: slot.index, told: 0, unlisted_max: None };
            match slot.state {
                // It has no connections yet.
                State::Starting(_) => {}
                State::Ready(_) if child.has_channel && world.tell(child.process, &order_to_list) => {
                    awaited.push(asked)
                }
                State::Ready(_) if child.has_channel => silent.push(asked.is_silent(WorkerSilence::Late)),
                _ => silent.push(asked.is_silent(WorkerSilence::Ended)),
            }
        }
        let counted_ms = if order == ConnectionOrder::Busiest { COUNTED_MS } else { 0 };
        let until = world.now().after_ms(LIST_MS_MAX + counted_ms);
        self.inspections.listings.push(Listing {
            client,
            question,
            wanted,
            until,
            awaited,
            silent,
            workers: 0,
            total: 0,
            connections: Vec::new(),
            peers: BTreeMap::new(),
            unlisted_max: 0,
        });
        Ok(())
    }

    /// Handles a worker's list of connections.
    pub(super) fn hear_connections(&mut self, world: &mut dyn World, process: ProcessId, part: ListPart) {
        let mut listings = self.inspections.listings.iter_mut();
        let Some(listing) = listings.find(|listing| listing.question == part.question) else { return };
        let Some(place) = listing.awaited.iter().position(|asked| asked.process == process) else { return };
        listing.take(place, &part);
        if !listing.wants_more(place, &part) {
            listing.awaited.swap_remove(place);
            listing.workers += 1;
        } else if !world.tell(process, &Order::ListMore { question: part.question }) {
            let asked = listing.awaited.swap_remove(place);
            listing.silent.push(asked.is_silent(WorkerSilence::Late));
        }
    }

    /// Orders a worker to end a connection.
    pub(super) fn close_connection(
        &mut self,
        world: &mut dyn World,
        client: ClientId,
        id: ConnectionName,
        at_once: bool,
    ) -> Result<(), Failure> {
        let not_closed = |why| Failure::NotClosed { id, why };
        let process = ProcessId(id.pid);
        let slots = self.generations.iter().flat_map(|one| one.slots.iter().map(move |slot| (one, slot)));
        let mut its = slots.filter(|(_, slot)| slot.serving().is_some_and(|child| child.process == process));
        let Some((generation, slot)) = its.next() else { return Err(not_closed(CannotClose::NoWorker)) };
        let (number, slot, drain_ms) = (generation.number, slot.index, generation.plan.drain_ms);
        if self.inspections.endings.len() >= ENDINGS_MAX {
            return Err(not_closed(CannotClose::TooMany));
        }
        let question = self.inspections.next_question();
        let order = Order::EndConnection { question, slot: id.slot, generation: id.generation, now: at_once, drain_ms };
        if !world.tell(process, &order) {
            return Err(not_closed(CannotClose::Late));
        }
        let until = world.now().after_ms(if at_once { 0 } else { drain_ms }.saturating_add(END_GRACE_MS));
        let client = Some(client);
        let generation = number;
        self.inspections.endings.push(Ending { client, question, process, generation, slot, id, at_once, until });
        Ok(())
    }

    /// Handles a worker's report on a connection that was to end.
    pub(super) fn connection_ended(
        &mut self,
        world: &mut dyn World,
        process: ProcessId,
        question: u32,
        how: ConnectionEnd,
    ) {
        let is_it = |ending: &Ending| ending.question == question && ending.process == process;
        let Some(place) = self.inspections.endings.iter().position(is_it) else { return };
        let ending = self.inspections.endings.swap_remove(place);
        let why = match how {
            ConnectionEnd::Closed => None,
            ConnectionEnd::Gone => Some(CannotClose::Gone),
            ConnectionEnd::Moving => Some(CannotClose::Moving),
            ConnectionEnd::Moved => Some(CannotClose::Moved),
            ConnectionEnd::TooMany => Some(CannotClose::TooMany),
            ConnectionEnd::Unknown => Some(CannotClose::Unknown),
        };
        conclude(world, ending, why);
    }

    /// Answers each client whose wait is over: all workers have answered, or those that have not are late or gone.
    pub(super) fn conclude_inspections(&mut self, world: &mut dyn World) {
        let (now, master) = (world.now(), self.process);
        if self.inspections.listings.is_empty() && self.inspections.endings.is_empty() {
            return;
        }
        let is_late = |until: Time| until <= now && !is_put_back(Mutation::SilentWorkerIsAwaited);
        let mut inspections = std::mem::take(&mut self.inspections);
        let serves = |process: ProcessId| {
            let mut slots = self.generations.iter().flat_map(|generation| &generation.slots);
            let is_it = |slot: &Slot| slot.serving().is_some_and(|child| child.process == process);
            slots.any(is_it) || is_put_back(Mutation::GoneWorkerIsAwaited)
        };
        let over = inspections.listings.extract_if(.., |listing| {
            let why = |asked: &Asked| {
                let late = is_late(listing.until).then_some(WorkerSilence::Late);
                if serves(asked.process) { late } else { Some(WorkerSilence::Ended) }
            };
            let silent = listing.awaited.iter().filter_map(|asked| Some(asked.is_silent(why(asked)?)));
            let silent: Vec<SilentWorker> = silent.collect();
            let is_silent = |asked: &Asked| silent.iter().any(|one| one.pid == asked.process.0);
            listing.awaited.retain(|asked| !is_silent(asked));
            listing.silent.extend(silent);
            listing.awaited.is_empty()
        });
        over.for_each(|listing| world.reply(listing.client, Ok(listing.answer(master))));
        let over = inspections.endings.extract_if(.., |ending| is_late(ending.until) || !serves(ending.process));
        over.for_each(|ending| {
            let why = if serves(ending.process) { CannotClose::Late } else { CannotClose::WorkerEnded };
            conclude(world, ending, Some(why));
        });
        self.inspections = inspections;
    }
}

fn conclude(world: &mut dyn World, ending: Ending, why: Option<CannotClose>) {
    let Ending { client, generation, slot, id, at_once, .. } = ending;
    if why.is_none() {
        world.note(Some(generation), EventKind::ConnectionClosed { slot, id, at_once });
    }
    let result = why.map_or(Ok(Outcome::Closed { id }), |why| Err(Failure::NotClosed { id, why }));
    client.into_iter().for_each(|client| world.reply(client, result.clone()));
}
