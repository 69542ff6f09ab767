//! Who holds which listener: sockets that the master keeps in the tier adopt, guards and steering, and connections that
//! the master accepts because no worker can.

use std::collections::VecDeque;

use super::Core;
use super::generation::{Generation, Phase, Share, Slot, State};
use super::lifecycle::{Idle, Instead, Lifecycle, Stopping};
use super::mutation::{Mutation, is_put_back};
use super::types::{Address, ArrivalId, ProcessId, SocketId, Time};
use super::world::{OtherMaster, World};
use crate::endpoint::Endpoint;
use crate::handover::Tier;
use crate::ipc::control::Failure;
use crate::ipc::orders::Order;

/// Pause before a socket is shared or asked for again after a channel was full.
pub(super) const SHARE_RETRY_MS: u64 = 100;

/// When the master looks at kept sockets after a process that accepted from them has died, in milliseconds.
const LOOKS_MS: [u64; 4] = [0, 20, 200, 2_000];

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Placement {
    /// The addresses of the generation that served last.
    pub(crate) addresses: Vec<Address>,
    /// Listen sockets of the tier adopt: the master's copies.
    pub(crate) kept: Vec<Kept>,
    /// `Some` while looks are still to come.
    looks: Option<Looks>,
    /// When guards of addresses that were given up while nothing served are closed.
    guards_close_at: Option<Time>,
    /// Connections that arrived at the master and that no worker has been handed yet.
    pub(super) held: VecDeque<ArrivalId>,
    /// Decides which worker is handed the next connection.
    turn: usize,
}

/// Looks at kept sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Looks {
    since: Time,
    done: usize,
}

impl Looks {
    fn next(self) -> Option<Time> {
        LOOKS_MS.get(self.done).map(|ms| self.since.after_ms(*ms))
    }
}

/// A listen socket that the master keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kept {
    pub(crate) socket: SocketId,
    pub(crate) address: Endpoint,
    /// `Some` after its address was given up and no generation needs it: waiting clients are accepted until then, and
    /// the socket is closed.
    closes_at: Option<Time>,
}

impl Placement {
    /// The endpoint that a requested address is bound to, if this server listens on it already, or still. Port 0 may be
    /// requested twice, which means two ports.
    pub(super) fn bound(&self, requested: Endpoint, taken: &[Address]) -> Option<Endpoint> {
        let known = self.addresses.iter().find(|one| one.requested == requested && !taken.contains(one));
        let is_kept = self.kept_on(requested) > 0;
        known.map(|one| one.bound).or(is_kept.then_some(requested))
    }

    pub(super) fn kept_on(&self, address: Endpoint) -> usize {
        self.kept.iter().filter(|kept| kept.address == address).count()
    }

    /// The kept sockets that are Unix sockets, or those that are not.
    pub(super) fn sockets(&self, unix: bool) -> Vec<(SocketId, Endpoint)> {
        let kept = self.kept.iter().filter(|kept| kept.address.is_unix() == unix);
        kept.map(|kept| (kept.socket, kept.address)).collect()
    }

    pub(super) fn keep(&mut self, socket: SocketId, address: Endpoint) {
        if !self.kept.iter().any(|kept| kept.socket == socket) {
            self.kept.push(Kept { socket, address, closes_at: None });
        }
    }

    /// Closes all kept sockets: other processes have them, or nothing serves any more.
    pub(super) fn close_all(&mut self, world: &mut dyn World) {
        self.kept.drain(..).for_each(|kept| world.close(kept.socket));
    }
}

impl Core {
    /// Whether listen sockets of this address are passed on. The tier is decided per address: a Unix socket has no
    /// reuseport group, and is adopted whatever the tier of the others is.
    pub(super) fn adopts(&self, address: Endpoint) -> bool {
        self.tier == Tier::Adopt || address.is_unix()
    }

    /// How many sockets this number of workers has on an adopted address: one for each worker, but one for all at a
    /// path.
    pub(super) fn sockets_wanted(address: Endpoint, workers: usize) -> usize {
        if address.is_unix() { 1 } else { workers }
    }

    /// The addresses of a generation that are steered: those that are not adopted.
    pub(super) fn steered(&self, index: usize) -> Vec<Endpoint> {
        let bound = self.generations[index].addresses.iter().map(|one| one.bound);
        bound.filter(|address| !self.adopts(*address)).collect()
    }

    /// Ensures that there is a socket for each slot on each address, and shares all sockets among the slots of a new
    /// generation.
    pub(super) fn keep_sockets(&mut self, world: &mut dyn World, index: usize) -> Result<(), Failure> {
        let workers = self.generations[index].slots.len();
        let addresses = self.generations[index].addresses.clone();
        let file = self.generations[index].plan.socket_file;
        let adopted = addresses.into_iter().map(|one| one.bound).filter(|address| self.adopts(*address));
        for bound in adopted.collect::<Vec<_>>() {
            while self.placement.kept_on(bound) < Self::sockets_wanted(bound, workers) {
                let (socket, address) = world.bind(bound, file)?;
                self.placement.keep(socket, address);
            }
            let on_address: Vec<SocketId> =
                self.placement.kept.iter().filter(|kept| kept.address == bound).map(|kept| kept.socket).collect();
            let shares: Vec<Share> = if bound.is_unix() {
                let of_slot = |slot| on_address.iter().map(move |socket| Share { socket: *socket, slot });
                (0..workers).flat_map(of_slot).collect()
            } else {
                on_address
                    .iter()
                    .zip((0..workers).cycle())
                    .map(|(socket, slot)| Share { socket: *socket, slot })
                    .collect()
            };
            self.generations[index].shares.extend(shares);
        }
        Ok(())
    }

    /// The sockets that a slot accepts from.
    pub(super) fn copies(&self, index: usize, slot: usize) -> Vec<(SocketId, Endpoint)> {
        let shares = self.generations[index].shares.iter().filter(|share| share.slot == slot);
        let kept = shares.filter_map(|share| self.placement.kept.iter().find(|kept| kept.socket == share.socket));
        kept.map(|kept| (kept.socket, kept.address)).collect()
    }

    /// Lets a worker accept from a kept socket too.
    pub(super) fn share(&mut self, world: &mut dyn World, index: usize, socket: SocketId, slot: usize) {
        let Some(kept) = self.placement.kept.iter().find(|one| one.socket == socket) else { return };
        let address = kept.address;
        let generation = &mut self.generations[index];
        let is_shared = match generation.slot(slot).map(|slot| &slot.state) {
            Some(State::Ready(child)) => child.has_channel && world.share(child.process, socket, address),
            // The worker inherits the socket when it is started again.
            Some(State::Waiting(_) | State::Killed(..)) => true,
            Some(State::Starting(_) | State::Gone) | None => false,
        };
        // The master accepts from a socket without a share, until `share_rest` finds a worker.
        if is_shared {
            generation.shares.push(Share { socket, slot });
        }
    }

    /// Shares the kept sockets in which no worker has a share.
    pub(super) fn share_rest(&mut self, world: &mut dyn World) {
        let Some(index) = self.serving() else { return };
        let generation = &self.generations[index];
        let rest = self.unshared(generation).filter(|kept| world.is_listening(kept.socket));
        let rest: Vec<SocketId> = rest.map(|kept| kept.socket).collect();
        let slots = generation.slots.iter().filter(|slot| !matches!(slot.state, State::Gone | State::Starting(_)));
        let slots: Vec<usize> = slots.map(|slot| slot.index).rev().collect();
        for (socket, slot) in rest.into_iter().zip(slots.into_iter().cycle()) {
            self.share(world, index, socket, slot);
        }
    }

    /// The kept sockets of a generation's addresses in which none of its workers has a share.
    fn unshared<'a>(&'a self, generation: &'a Generation) -> impl Iterator<Item = &'a Kept> {
        let is_ours = |kept: &&Kept| generation.addresses.iter().any(|one| one.bound == kept.address);
        let is_shared = |kept: &Kept| generation.shares.iter().any(|share| share.socket == kept.socket);
        self.placement.kept.iter().filter(is_ours).filter(move |kept| !is_shared(kept))
    }

    /// The kept sockets at which clients may be waiting.
    pub(super) fn listening(&self, world: &dyn World) -> Vec<(SocketId, Endpoint)> {
        let listening = self.placement.kept.iter().filter(|kept| world.is_listening(kept.socket));
        listening.map(|kept| (kept.socket, kept.address)).collect()
    }

    /// Handles a worker that came up although it was ordered to leave: others accept from its sockets, which listen
    /// now.
    pub(super) fn share_late(&mut self, world: &mut dyn World) {
        if is_put_back(Mutation::LateSocketIsNotShared) {
            return;
        }
        self.share_rest(world);
        let sockets = self.listening(world);
        self.pass_on(world, &sockets);
        if self.lifecycle.is_ending() {
            self.give_sockets_back(world);
        }
    }

    /// Closes the kept sockets that no generation needs. A socket that never listened closes at once. A socket whose
    /// address was given up closes after all workers have closed theirs and the time to settle is over, and after the
    /// waiting clients were accepted. A server that stops gives all sockets up: draining workers serve the connections
    /// that were accepted, and other clients need not wait for nothing.
    pub(super) fn close_given_up(&mut self, world: &mut dyn World) {
        let serving = self.serving().map(|index| &self.generations[index]);
        let is_undecided = self.lifecycle.new_master().is_some();
        let stops = matches!(&self.lifecycle, Lifecycle::Stopping(Stopping { instead: Instead::Nobody, .. }));
        let is_shared =
            |kept: &Kept| self.generations.iter().flat_map(|one| &one.shares).any(|share| share.socket == kept.socket);
        let is_served = |address: Endpoint| {
            serving.map_or(!stops, |serving| serving.addresses.iter().any(|one| one.bound == address))
                || is_undecided
                || self.orphans.listen_on(address)
        };
        let now = world.now();
        let settle_ms = serving.map_or(0, |serving| serving.plan.settle_ms);
        let waiting_max = self.waiting_max();
        let mut kept = self.placement.kept.clone();
        let mut arrivals = Vec::new();
        kept.retain_mut(|kept| {
            let is_listening = world.is_listening(kept.socket);
            if is_shared(kept) || is_listening && is_served(kept.address) {
                kept.closes_at = None;
                return true;
            }
            let is_kept = is_listening && !is_put_back(Mutation::GivenUpSocketIsNotKept);
            if is_kept && *kept.closes_at.get_or_insert(now.after_ms(settle_ms)) > now {
                return true;
            }
            if is_kept {
                arrivals.extend(world.accept_waiting(kept.socket, waiting_max));
            }
            world.close(kept.socket);
            false
        });
        self.placement.kept = kept;
        self.placement.held.extend(arrivals);
        if stops {
            self.close_guards_behind(world);
        }
        if self.placement.guards_close_at.is_some_and(|at| at <= now) {
            self.placement.guards_close_at = None;
            self.close_unused_guards(world);
        }
    }

    /// The server stops: before it tells the workers, this master closes its guards and its copies of listeners that workers
    /// have. The workers then empty and close their listeners. A client that came to a copy here after that could find no
    /// worker any more.
    pub(super) fn leave_listeners_to_workers(&mut self, world: &mut dyn World) {
        let stops = matches!(&self.lifecycle, Lifecycle::Stopping(Stopping { instead: Instead::Nobody, .. }));
        if !stops || self.serving().is_none() {
            return;
        }
        let waiting_max = self.waiting_max();
        if self.tier == Tier::Ebpf && self.taker().is_some() {
            self.placement.held.extend(world.empty_guards(&[], waiting_max));
            world.keep_guards(&[]);
        }
        let unattended: Vec<SocketId> = self.unattended().collect();
        self.placement.kept.retain(|kept| {
            // All workers share a Unix socket, and none of them empties it.
            let stays = kept.address.is_unix() || unattended.contains(&kept.socket);
            if !stays {
                world.close(kept.socket);
            }
            stays
        });
        self.hand_out(world);
    }

    /// A server that stops keeps its guards until its workers have closed their listeners, for clients that connect
    /// just then. Later clients are refused, however long the workers drain.
    fn close_guards_behind(&mut self, world: &mut dyn World) {
        let mut children = self.generations.iter().flat_map(|generation| generation.children());
        if self.tier == Tier::Ebpf && children.all(|child| child.has_closed) {
            let waiting_max = self.waiting_max();
            self.placement.held.extend(world.empty_guards(&[], waiting_max));
            world.keep_guards(&[]);
        }
    }

    /// The most connections that can wait at a listen socket.
    fn waiting_max(&self) -> usize {
        let plan = self.serving().map(|index| &self.generations[index].plan).or(self.last.as_ref());
        plan.map_or(0, |plan| plan.backlog as usize + 1)
    }

    /// Handles the death of a process that accepted from kept sockets. For each new connection the kernel wakes one of
    /// the waiters at a socket. Until the ring of the dead process is removed, some milliseconds later, it may wake
    /// that one. The connection would then wait until the next one arrives, although other workers accept there. So the
    /// workers look, each for itself; the master does not accept, because what it accepted would be lost if it died.
    pub(super) fn look_at_kept(&mut self, now: Time) {
        let is_needed = !self.placement.kept.is_empty() && !is_put_back(Mutation::WakesOfTheDeadAreLost);
        self.placement.looks = is_needed.then_some(Looks { since: now, done: 0 });
    }

    /// When it is time to look, makes sure that connections that wait at a kept socket are accepted.
    pub(super) fn look_when_due(&mut self, world: &mut dyn World) {
        let now = world.now();
        let Some(mut looks) = self.placement.looks.filter(|looks| looks.next().is_some_and(|at| at <= now)) else {
            return;
        };
        while looks.next().is_some_and(|at| at <= now) {
            looks.done += 1;
        }
        self.placement.looks = looks.next().map(|_| looks);
        // A worker that is starting looks by itself.
        let slots = self.generations.iter().flat_map(|generation| &generation.slots);
        let workers = slots.filter_map(Slot::serving).map(|child| child.process);
        let orphans = self.orphans.all.iter().map(|orphan| orphan.process);
        for process in workers.chain(orphans) {
            // If the order cannot be sent now, the next look replaces it.
            let _ = world.tell(process, &Order::Look);
        }
        if self.taker().is_none() && self.serves_instead().is_some() {
            let waiting_max = self.waiting_max();
            for (socket, _) in self.listening(world) {
                self.placement.held.extend(world.accept_waiting(socket, waiting_max));
            }
        }
    }

    /// The time at which a kept socket must be closed, shared again, or looked at.
    pub(super) fn placement_deadline(&self, now: Time) -> Option<Time> {
        let looks = self.placement.looks.and_then(Looks::next);
        self.sharing_deadline(now).into_iter().chain(looks).min()
    }

    fn sharing_deadline(&self, now: Time) -> Option<Time> {
        let serving = &self.generations[self.serving()?];
        let can_share = serving.slots.iter().any(|slot| slot.serving().is_some());
        let is_due = can_share && self.unshared(serving).next().is_some() && !is_put_back(Mutation::ShareHasNoDeadline);
        let again = is_due.then(|| now.after_ms(SHARE_RETRY_MS));
        let closes = self.placement.kept.iter().filter_map(|kept| kept.closes_at).chain(self.placement.guards_close_at);
        closes.chain(again).min()
    }

    /// Attaches a generation's steering to its groups, beside that of the old master while both must serve.
    pub(super) fn steer_to(&mut self, world: &mut dyn World, index: usize) -> Result<(), Failure> {
        let generation = &self.generations[index];
        let beside_old = self.lifecycle.new_master().is_some_and(|new| new.is_held);
        match generation.steering {
            Some(steering) => world.steer(steering, beside_old, generation.plan.backlog),
            None => Ok(()),
        }
    }

    /// A worker that takes connections from the master: one of the serving generation if there is one.
    fn taker(&self) -> Option<ProcessId> {
        let candidates = |generation: &Generation| {
            let slots = generation.slots.iter().filter_map(Slot::serving);
            slots.map(|child| child.process).collect::<Vec<_>>()
        };
        let is_up = |generation: &&Generation| !matches!(generation.phase, Phase::Claiming { .. } | Phase::Starting);
        let up = self.generations.iter().filter(is_up).map(|one| (one.phase == Phase::Serving, candidates(one)));
        let (_, workers) = up.filter(|(_, workers)| !workers.is_empty()).max_by_key(|(is_serving, _)| *is_serving)?;
        Some(workers[self.placement.turn % workers.len()])
    }

    /// Whether the driver should accept connections that arrive at guards and unattended sockets.
    pub(crate) fn wants_arrivals(&self) -> bool {
        self.placement.held.is_empty() && self.taker().is_some()
    }

    /// Whether connections wait here for a worker with room in its channel. If so, try again soon.
    pub(crate) fn holds_arrivals(&self) -> bool {
        !self.placement.held.is_empty()
    }

    /// Kept sockets whose workers are missing: the master accepts from them.
    pub(crate) fn unattended(&self) -> impl Iterator<Item = SocketId> {
        let serving = self.serving().map(|index| &self.generations[index]);
        let is_attended = move |kept: &&Kept| {
            serving.is_none_or(|generation| {
                let mut shares = generation.shares.iter().filter(|share| share.socket == kept.socket);
                shares.any(|share| generation.slot(share.slot).is_some_and(Slot::is_ready))
            })
        };
        self.placement.kept.iter().filter(move |kept| !is_attended(kept)).map(|kept| kept.socket)
    }

    /// Hands connections that arrived at the master to workers.
    pub(super) fn hand_out(&mut self, world: &mut dyn World) {
        while let Some(arrival) = self.placement.held.front().copied() {
            let Some(process) = self.taker() else {
                if !self.pass(world, arrival) {
                    return;
                }
                self.placement.held.pop_front();
                continue;
            };
            self.placement.turn = self.placement.turn.wrapping_add(1);
            if !world.hand(process, arrival) {
                return;
            }
            self.placement.held.pop_front();
            let slots = self.generations.iter_mut().flat_map(|generation| &mut generation.slots);
            let child = slots.filter_map(Slot::child_mut).find(|child| child.process == process);
            // Keep a copy until the worker has it: when a worker dies, the messages in its channel are lost.
            child.expect("a taker is a worker").handed.push_back(arrival);
        }
    }

    /// Passes a connection to the other master, which serves instead; this master has no workers any more. Returns
    /// `false` if the connection stays here.
    fn pass(&self, world: &mut dyn World, arrival: ArrivalId) -> bool {
        let Some(to) = self.serves_instead() else { return false };
        !is_put_back(Mutation::ArrivalsStayWithLeaving) && world.pass(arrival, to)
    }

    fn serves_instead(&self) -> Option<OtherMaster> {
        match &self.lifecycle {
            Lifecycle::Leaving { .. } | Lifecycle::Idle(Idle::Replaced(_)) => Some(OtherMaster::New),
            Lifecycle::Stopping(Stopping { instead: Instead::Old(_), .. }) => Some(OtherMaster::Old),
            _ => None,
        }
    }

    /// Closes guards of addresses on which no generation listens any more. A master without workers keeps its own
    /// guards only if no successor serves: otherwise connections would arrive at them and nothing would accept them.
    pub(super) fn close_unused_guards(&mut self, world: &mut dyn World) {
        let is_replaced =
            matches!(self.lifecycle, Lifecycle::Idle(Idle::Replaced(_))) && !is_put_back(Mutation::ReplacedKeepsGuards);
        if is_replaced && !self.is_succeeded_alike && self.generations.is_empty() {
            // The successor has the same Unix sockets, whatever the tier of the other addresses is.
            let (unix, others) = self.placement.kept.drain(..).partition(|kept| kept.address.is_unix());
            self.placement.kept = unix;
            Vec::<Kept>::into_iter(others).for_each(|kept| world.close(kept.socket));
        }
        if self.tier == Tier::Ebpf && (!self.is_idle() || is_replaced) {
            let addresses = self.generations.iter().flat_map(|generation| &generation.addresses);
            let bound: Vec<Endpoint> = addresses.map(|address| address.bound).collect();
            if let Some(index) = self.serving()
                && !is_put_back(Mutation::GivenUpSocketIsNotKept)
            {
                let waiting_max = self.generations[index].plan.backlog as usize + 1;
                self.placement.held.extend(world.empty_guards(&bound, waiting_max));
            }
            world.keep_guards(&bound);
        }
    }

    /// A generation serves: guards of addresses that it does not have get the time to settle.
    pub(super) fn settle_guards(&mut self, now: Time, settle_ms: u64) {
        let at = now.after_ms(settle_ms);
        let is_tried = self.tier == Tier::Ebpf && !is_put_back(Mutation::GuardOfGivenUpAddressStays);
        self.placement.guards_close_at = Some(at).filter(|_| is_tried);
    }
}
