//! The sending side of moving connections, as a state machine without I/O: a leaving worker brings its own state and
//! its connections to heirs.
//!
//! For each batch of connections: stop them (until nothing is in flight in the kernel), freeze them, offer them to an
//! heir, and give the heir those that it takes. Until `Gives` has been sent, this worker has everything intact.
//! Whatever happens to the heir or the channel, the connections continue here or move to another heir. If the worker
//! has state of its own, all its connections are stopped and frozen first, and one heir takes the state before any
//! connection.
//!
//! While the worker serves, it may be ordered to give some connections to one other worker ([`Input::Give`]). The
//! batches are the same, but what does not move continues as before. If the worker leaves meanwhile, giving ends first.
//!
//! The driver reports each event by [`Sender::step`]. It carries out every [`Command`], in order, before it reports
//! anything except the outcomes of these commands.

mod batches;
mod gathering;
mod giving;
mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::batches::Peer;
use self::gathering::Gathering;
pub(crate) use self::giving::Given;
use self::giving::Giving;
pub(crate) use self::report::Tally;
use super::Refusal;
use super::custody::{Custody, Stage};
use super::mutation::{Mutation, is_put_back};
use crate::types::ConnectionId;

/// If all heirs are gone, the sender waits this long for others.
const HEIRS_MS_MAX: u64 = 3_000;

/// If nothing is left to move, the sender waits this long for workers that may still bring connections: such a worker
/// may be waiting, too, for this one.
const VISITORS_MS_MAX: u64 = 3_000;

/// A worker that may take connections, by the driver's number for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Heir(pub(crate) u32);

/// What the machine asks about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// It will end, whichever worker has it: the protocol has nothing more to do with it.
    pub(crate) is_ending: bool,
    /// The bytes that would move with it, as far as is known.
    pub(crate) bytes: u64,
    /// The connection with which it is paired, unless that one is about to end. They move together, or stay together.
    pub(crate) partner: Option<ConnectionId>,
}

/// The connections of the worker.
pub(crate) trait Table {
    /// The custody of this connection; `None` if it is gone.
    fn custody(&mut self, id: ConnectionId) -> Option<&mut Custody>;
    fn look(&mut self, id: ConnectionId) -> Option<Look>;
}

/// What one step acts on.
pub(crate) struct World<'a, T> {
    pub(crate) now_ns: u64,
    pub(crate) table: &'a mut T,
    pub(crate) commands: &'a mut VecDeque<Command>,
}

impl<T: Table> World<'_, T> {
    fn tell(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    fn stage(&mut self, id: ConnectionId) -> Option<Stage> {
        self.table.custody(id).map(|custody| custody.stage())
    }

    fn enter(&mut self, id: ConnectionId, stage: Stage) {
        if let Some(custody) = self.table.custody(id) {
            custody.enter(stage);
        }
    }

    fn partner(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        self.table.look(id)?.partner
    }

    fn is_ending(&mut self, id: ConnectionId) -> bool {
        self.table.look(id).is_none_or(|look| look.is_ending)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The master names the workers that take connections when this worker leaves.
    Heirs(Vec<Heir>),
    /// The worker leaves; these are its connections, the idlest first.
    Leave(Vec<ConnectionId>),
    /// The worker serves, and gives these connections to this worker.
    Give { heir: Heir, connections: Vec<ConnectionId> },
    /// The serving worker must stop giving.
    EndGiving,
    /// There is a channel to this heir.
    Visited(Heir),
    /// There is no channel to this heir.
    Unreachable(Heir),
    /// A connection was opened, or belongs to this worker from now on.
    Arrived(ConnectionId),
    /// Nothing is in flight any more for a connection that was stopped.
    Still(ConnectionId),
    /// The protocol has written its state.
    Frozen(ConnectionId),
    /// The protocol keeps it, or it is about to end.
    NotFrozen(ConnectionId),
    /// The protocol cannot let it move yet.
    NotYet(ConnectionId),
    /// A connection that was held has closed.
    Gone(ConnectionId),
    /// An offer of this many bytes is on its way, without the connections for which there was no descriptor.
    Offered { heir: Heir, left_out: Vec<ConnectionId>, bytes: u64 },
    /// An heir's answer. `refused` are indices in the offer.
    Takes { heir: Heir, batch: u64, refused: Vec<(usize, Refusal)>, open: u64 },
    /// All messages to this heir have been sent.
    Sent(Heir),
    /// The channel ended, or the heir sent an illegal message.
    Ended(Heir),
    /// All messages that belong here were heard: connections may be stopped.
    Listened(Heir),
    /// The outcome of [`Command::GiveState`]: the heir has this many bytes of state.
    StateTaken(Heir, u64),
    /// The heir does not take the state.
    StateRefused(Heir, Refusal),
    /// The state is too large, and not worth keeping.
    StateDiscarded,
    /// Time has passed.
    Time,
    /// No connection can arrive any more, except from visitors if `has_visitors` is set.
    Quiet { has_visitors: bool },
    /// The worker stops at once.
    Stop,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    /// Open a channel: answered by `Visited` or `Unreachable`.
    Visit(Heir),
    /// Close the channel.
    Close(Heir),
    /// Cancel what is in flight and arm nothing: answered by `Still`.
    Stop(ConnectionId),
    /// Answered by `Frozen` or `NotFrozen`.
    Freeze(ConnectionId),
    /// Undo a freeze; the connection stays stopped.
    Unfreeze(ConnectionId),
    /// Continue the connection, perhaps until it is stopped again.
    Resume(ConnectionId),
    /// Continue the connection until it ends, and tell it that the worker leaves.
    Keep(ConnectionId),
    /// End the connection: its worker's state is elsewhere.
    End(ConnectionId),
    /// Answered by `Offered`, and then by the heir, or by `Ended`.
    Offer { heir: Heir, batch: u64, members: Vec<ConnectionId> },
    /// Tell the heir that it owns the connections that were not refused: answered by `Sent` or `Ended`.
    Give { heir: Heir, batch: u64 },
    /// Release the connection, which the heir has now. It was stopped for this long.
    Release { id: ConnectionId, pause_ns: u64 },
    /// The connections to be given while the worker serves were given, or continue here.
    Given(Given),
    /// Have all senders mark what this worker and this heir hear of them: answered by `Listened`, in time.
    Listen(Heir),
    /// Hand over the worker's own state.
    GiveState(Heir),
    /// All connections that move together were given to this heir.
    AllGiven(Heir),
    /// Nothing more moves: the connections here stay, and get the goodbye.
    Over,
    /// Report to the master.
    Report { is_over: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// The worker does not leave.
    Idle,
    /// The worker does not leave, and gives some connections to another one.
    Giving(Giving),
    /// All connections are stopped, for the worker's own state.
    Gathering(Gathering),
    Moving {
        /// The heir has the worker's own state: without it, no connection can stay.
        is_state_given: bool,
    },
    Over,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sender {
    /// Whether connections may move at all.
    may_move: bool,
    has_worker_state: bool,
    /// Messages that connections hear from other workers move with them.
    listens: bool,
    /// All connections move to this heir, which must learn when it has them.
    gathers: Option<Heir>,
    phase: Phase,
    /// Named by the master, and not visited yet.
    named: Vec<Heir>,
    visiting: BTreeSet<Heir>,
    heirs: BTreeMap<Heir, Peer>,
    /// Connections that wait for a batch, the idlest first. Those that are no longer in custody are skipped.
    queue: VecDeque<ConnectionId>,
    /// Connections that the protocol could not let move yet. They are tried again at this time.
    later: VecDeque<(u64, ConnectionId)>,
    next_batch: u64,
    began_ns: u64,
    /// Until when the sender waits for other heirs.
    heirs_until_ns: Option<u64>,
    /// Until when the sender waits for what others bring.
    visitors_until_ns: Option<u64>,
    /// Why the last heir takes nothing more.
    last_refusal: Option<Refusal>,
    report: report::Report,
}

impl Sender {
    pub(crate) fn new(may_move: bool, has_worker_state: bool, listens: bool) -> Self {
        Self {
            may_move,
            has_worker_state,
            listens,
            gathers: None,
            phase: Phase::Idle,
            named: Vec::new(),
            visiting: BTreeSet::new(),
            heirs: BTreeMap::new(),
            queue: VecDeque::new(),
            later: VecDeque::new(),
            next_batch: 0,
            began_ns: 0,
            heirs_until_ns: None,
            visitors_until_ns: None,
            last_refusal: None,
            report: report::Report::default(),
        }
    }

    /// Whether connections will move when the worker leaves.
    pub(crate) fn has_heirs(&self) -> bool {
        self.may_move && !self.named.is_empty()
    }

    /// Connections are moving, or will as soon as they arrive.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        matches!(self.phase, Phase::Gathering(_) | Phase::Moving { .. })
    }

    /// This worker serves, and gives some connections to another one.
    #[inline]
    pub(crate) fn is_giving(&self) -> bool {
        matches!(self.phase, Phase::Giving(_))
    }

    /// Whether connections can be given one by one: none shares anything with others that stay.
    #[inline]
    pub(crate) fn is_separable(&self) -> bool {
        self.may_move && !self.has_worker_state && !self.listens
    }

    /// Whether some connections can be given now, while the worker serves.
    pub(crate) fn can_give(&self) -> bool {
        self.is_separable() && self.phase == Phase::Idle
    }

    /// Whether the sender still wants a channel to this heir.
    pub(crate) fn is_visiting(&self, heir: Heir) -> bool {
        self.visiting.contains(&heir)
    }

    /// Whether nothing is left to move now.
    pub(crate) fn is_idle(&self) -> bool {
        let is_moving = matches!(self.phase, Phase::Moving { .. });
        is_moving
            && self.queue.is_empty()
            && self.later.is_empty()
            && self.heirs.values().all(|peer| peer.batch.is_none())
    }

    /// Whether another worker has this worker's own state.
    pub(crate) fn is_state_given(&self) -> bool {
        matches!(self.phase, Phase::Moving { is_state_given: true })
    }

    pub(crate) fn leaving_tally(&self) -> &Tally {
        &self.report.tally
    }

    /// When leaving began.
    pub(crate) fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// When [`Input::Time`] may change something.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let batches = self.heirs.values().filter_map(Peer::until_ns);
        let waits = self.heirs_until_ns.into_iter().chain(self.visitors_until_ns);
        let later = self.later.front().map(|(at_ns, _)| *at_ns);
        let waits = waits.chain(later).filter(|_| self.is_on()).chain(self.giving_until_ns());
        batches.chain(waits).chain(self.report.due_ns()).min()
    }

    /// Whether an heir has not answered in time.
    pub(crate) fn is_late(&self, now_ns: u64) -> bool {
        self.heirs.values().any(|peer| peer.is_late(now_ns))
    }

    /// Takes an input, and appends the commands that follow from it.
    pub(crate) fn step<T: Table>(&mut self, world: &mut World<'_, T>, input: Input) {
        match input {
            Input::Heirs(heirs) => self.name(world, heirs),
            Input::Leave(connections) => self.leave(world, connections),
            Input::Give { heir, connections } => self.give(world, heir, connections),
            Input::EndGiving => drop(self.end_giving(world)),
            Input::Visited(heir) if !self.visiting.remove(&heir) => world.tell(Command::Close(heir)),
            Input::Visited(heir) => {
                self.heirs.insert(heir, Peer::default());
                self.heirs_until_ns = None;
            }
            Input::Unreachable(heir) => drop(self.visiting.remove(&heir)),
            Input::Arrived(id) => self.admit(world, id, Mutation::RejectIsHeld),
            Input::Still(id) => self.still(world, id),
            Input::Frozen(id) => self.frozen(world, id),
            Input::NotFrozen(id) => self.not_frozen(world, id),
            Input::NotYet(id) => self.not_yet(world, id),
            Input::Gone(id) => self.forget(world, id),
            Input::Offered { heir, left_out, bytes } => self.offered(world, heir, &left_out, bytes),
            Input::Takes { heir, batch, refused, open } => self.taken(world, heir, batch, &refused, open),
            Input::Sent(heir) => self.sent(world, heir),
            Input::Ended(heir) => self.lose(world, heir),
            Input::Listened(heir) => self.listened(world, heir),
            Input::StateTaken(heir, bytes) => self.state_taken(world, heir, bytes),
            Input::StateRefused(heir, refusal) => self.state_refused(world, heir, refusal),
            Input::StateDiscarded => self.phase = Phase::Moving { is_state_given: false },
            Input::Time => self.expire(world),
            Input::Quiet { has_visitors } => self.quiet(world, has_visitors),
            Input::Stop => return self.stop_all(world),
        }
        self.advance(world);
    }

    /// Takes the steps that are possible now.
    fn advance<T: Table>(&mut self, world: &mut World<'_, T>) {
        if self.is_giving() {
            self.give_on(world);
        } else if self.is_on() {
            self.gather(world);
            if matches!(self.phase, Phase::Moving { .. }) {
                let heirs: Vec<Heir> = self.heirs.keys().copied().collect();
                heirs.into_iter().for_each(|heir| self.fill(world, heir));
                if self.is_idle()
                    && let Some(heir) = self.gathers.take()
                {
                    world.tell(Command::AllGiven(heir));
                }
            }
            if self.heirs.is_empty() && self.visiting.is_empty() && !self.waits_for_heirs(world.now_ns) {
                self.give_up(world);
            }
        }
        self.tell_progress(world);
    }

    fn name<T: Table>(&mut self, world: &mut World<'_, T>, heirs: Vec<Heir>) {
        self.named = heirs;
        if self.is_on() {
            self.visit(world);
        } else {
            self.report.is_owed = true;
        }
    }

    fn visit<T: Table>(&mut self, world: &mut World<'_, T>) {
        for heir in std::mem::take(&mut self.named) {
            if !self.heirs.contains_key(&heir) && self.visiting.insert(heir) {
                world.tell(Command::Visit(heir));
            }
        }
    }

    fn leave<T: Table>(&mut self, world: &mut World<'_, T>, connections: Vec<ConnectionId>) {
        let held = self.end_giving(world);
        if self.phase != Phase::Idle {
            return;
        }
        (self.began_ns, self.report.reported_ns) = (world.now_ns, world.now_ns);
        if !self.has_heirs() {
            return self.end(world);
        }
        self.phase = if self.listens {
            Phase::Gathering(Gathering::Listening(None))
        } else if self.has_worker_state {
            Phase::Gathering(Gathering::Stopping(BTreeSet::new()))
        } else {
            Phase::Moving { is_state_given: false }
        };
        let held = held.into_iter().filter(|_| !is_put_back(Mutation::GivenIsForgotten));
        connections.into_iter().chain(held).for_each(|id| self.admit(world, id, Mutation::EndingIsHeld));
        self.visit(world);
    }

    /// Queues a connection. If the worker's own state is about to move, or has moved, nothing can be done for it here
    /// any more.
    fn admit<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId, mutation: Mutation) {
        if !self.is_on() {
            return;
        }
        // A connection that is about to end needs neither the protocol nor the state: it ends here.
        if world.is_ending(id) && !(self.is_gathering() && is_put_back(mutation)) {
            return;
        }
        self.visitors_until_ns = None;
        world.enter(id, Stage::Queued);
        self.queue.push_back(id);
        let is_listening = matches!(self.phase, Phase::Gathering(Gathering::Listening(_)));
        if !is_listening && !matches!(self.phase, Phase::Moving { is_state_given: false }) {
            self.stop(world, id);
        }
    }

    fn stop<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId) {
        world.enter(id, Stage::Stopping);
        world.tell(Command::Stop(id));
        if let Phase::Gathering(Gathering::Stopping(waiting)) = &mut self.phase {
            waiting.insert(id);
        }
    }

    fn still<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId) {
        if world.stage(id) != Some(Stage::Stopping) {
            return;
        }
        if !world.is_ending(id) || self.forgets_ending() {
            world.enter(id, Stage::Still);
        } else {
            self.let_go(world, id);
        }
        self.forget(world, id);
    }

    /// The defect that connections which were stopped while they were about to end never continue.
    fn forgets_ending(&self) -> bool {
        self.has_worker_state && (is_put_back(Mutation::EndingIsHeld) || is_put_back(Mutation::RejectIsHeld))
    }

    /// Lets a connection that is about to end do so here.
    fn let_go<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId) {
        world.enter(id, Stage::Ours);
        world.tell(Command::Resume(id));
    }

    /// Nothing waits for this connection any more, so a waiting step may continue.
    fn forget<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId) {
        if let Phase::Gathering(gathering) = &mut self.phase {
            gathering.forget(id);
        }
        let holder = self.heirs.iter().find(|(_, peer)| peer.has_member(id)).map(|(heir, _)| *heir);
        if let Some(heir) = holder {
            self.proceed(world, heir);
        }
    }

    /// The connection does not move: it continues here, or ends if no connection can continue.
    fn keep<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId, refusal: Refusal) {
        if world.table.custody(id).is_some_and(|custody| custody.stays()) {
            // It was kept together with its partner.
            return;
        }
        if self.is_giving() {
            return self.keep_serving(world, id, refusal);
        }
        self.report.count(refusal);
        let stage = if refusal == Refusal::Quarantined { Stage::Quarantined } else { Stage::Stays };
        world.enter(id, stage);
        let ends = self.is_state_given() && !is_put_back(Mutation::StaysWithoutState);
        world.tell(if ends { Command::End(id) } else { Command::Keep(id) });
        if let Some(partner) = world.partner(id)
            && world.stage(partner).is_some_and(|stage| stage.leads_to(Stage::Stays))
            && !is_put_back(Mutation::PairIsPartedByKeeping)
        {
            self.keep(world, partner, Refusal::Partner);
        }
    }

    /// Puts a connection back to wait for another batch. It continues meanwhile, unless another worker has this worker's
    /// own state.
    fn put_back<T: Table>(&mut self, world: &mut World<'_, T>, id: ConnectionId, is_first: bool) {
        let Some(stage) = world.stage(id) else { return };
        match (self.is_state_given(), stage) {
            (true, Stage::Offered | Stage::Giving) => world.enter(id, Stage::Frozen),
            (true, _) => {}
            (false, _) => {
                world.enter(id, Stage::Queued);
                world.tell(Command::Resume(id));
            }
        }
        if is_first {
            self.queue.push_front(id);
        } else {
            self.queue.push_back(id);
        }
    }

    /// All heirs are gone: returns whether to wait for others. Not if the last one only refused: the next would refuse
    /// as well.
    fn waits_for_heirs(&mut self, now_ns: u64) -> bool {
        if self.last_refusal.is_some() {
            return false;
        }
        let until_ns = *self.heirs_until_ns.get_or_insert(now_ns + HEIRS_MS_MAX * 1_000_000);
        now_ns < until_ns || is_put_back(Mutation::NextHeirIsWaitedFor)
    }

    /// Handles that nothing is left to move, unless another worker brings it.
    fn quiet<T: Table>(&mut self, world: &mut World<'_, T>, has_visitors: bool) {
        if !self.is_idle() {
            return;
        }
        let until_ns = *self.visitors_until_ns.get_or_insert(world.now_ns + VISITORS_MS_MAX * 1_000_000);
        let is_late = until_ns <= world.now_ns && !is_put_back(Mutation::VisitorsAreWaitedFor);
        if !has_visitors || is_late {
            self.end(world);
        }
    }

    /// Keeps the rest here: no heir takes it.
    fn give_up<T: Table>(&mut self, world: &mut World<'_, T>) {
        let refusal = self.last_refusal.unwrap_or(Refusal::Channel);
        let later = std::mem::take(&mut self.later).into_iter().map(|(_, id)| id);
        for id in std::mem::take(&mut self.queue).into_iter().chain(later) {
            match world.stage(id) {
                Some(Stage::Queued) if world.is_ending(id) => world.enter(id, Stage::Ours),
                Some(Stage::Queued | Stage::Stopping | Stage::Still | Stage::Frozen) => self.keep(world, id, refusal),
                _ => {}
            }
        }
        if is_put_back(Mutation::OverIsForgotten) {
            self.report.is_owed = false;
        }
        self.end(world);
    }

    fn end<T: Table>(&mut self, world: &mut World<'_, T>) {
        self.phase = Phase::Over;
        let heirs: Vec<Heir> = self.heirs.keys().copied().collect();
        heirs.into_iter().for_each(|heir| self.lose(world, heir));
        world.tell(Command::Over);
    }

    /// Handles a stop of the worker: what was not given belongs to this worker, and ends with it.
    fn stop_all<T: Table>(&mut self, world: &mut World<'_, T>) {
        let mut ours: Vec<ConnectionId> = std::mem::take(&mut self.queue).into();
        ours.extend(std::mem::take(&mut self.later).into_iter().map(|(_, id)| id));
        for (heir, peer) in std::mem::take(&mut self.heirs) {
            // Do this first: from now on, nothing can be given to the other side.
            world.tell(Command::Close(heir));
            ours.extend(peer.into_members());
        }
        for id in ours {
            if world.stage(id).is_some_and(|stage| stage.leads_to(Stage::Ours)) {
                world.enter(id, Stage::Ours);
            }
        }
        self.visiting.clear();
        self.phase = Phase::Over;
        self.tell_progress(world);
    }
}
