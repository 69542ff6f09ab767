//! The control path as a state machine: it makes every decision of a master and does nothing else. It holds no
//! descriptor, process handle, clock, path or closure. Events come in through [`Core::step`], and it acts through the
//! narrow trait [`World`]. So the module `simulation` can run it against a model of the kernel, of processes and of
//! operators; the driver runs it on the real system.
//!
//! - `lifecycle`: what the master is doing, and how it relates to the other master of an upgrade.
//! - `generation`, `start`, `leave`, `scale`, `supervise`: the workers.
//! - `old`, `new`: an upgrade from both sides. `orphans`: workers of a master that is gone.
//! - `placement`: who holds which listener, steering, guards. `moves`: connections that move to other workers.
//! - `siblings`: introduces workers to each other. `balance`: decides who gives connections to whom while all serve.
//! - `inspection`: lists connections for operators, and ends them.
//! - `operations`: which client waits for what. Each gets one true answer.

mod balance;
mod generation;
mod inspection;
mod leave;
#[cfg(any(test, feature = "simulation"))]
mod legal;
mod lifecycle;
mod moves;
pub(crate) mod mutation;
mod new;
mod old;
mod operations;
mod orphans;
mod placement;
mod scale;
mod siblings;
mod start;
mod supervise;
mod types;
mod world;

use self::balance::Balance;
pub(crate) use self::generation::{Generation, Phase, Slot, State};
use self::inspection::Inspections;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use self::lifecycle::Idle;
pub(crate) use self::lifecycle::{Instead, Lifecycle, Lineage, New, NewStage, Old, OldStage, Start, Stopping};
use self::moves::MovesUnderWay;
use self::mutation::{Mutation, is_put_back};
use self::operations::{Kind, Operations};
pub(crate) use self::orphans::{Orphan, Orphans};
use self::placement::Placement;
use self::siblings::Acquaintance;
pub(crate) use self::types::{
    Address, ArrivalId, ClientId, ConfigurationId, Plan, ProcessId, Signal, SocketId, SteeringId, Stop, Time, Upgrade,
};
pub(crate) use self::world::{Claim, Event, Greeting, Load, Names, Notice, OtherMaster, Request, Spawn, World};
#[cfg(any(test, feature = "simulation"))]
pub(crate) use self::world::{Listeners, Wanted};
use crate::handover::Tier;
use crate::ipc::control::{Cause, EventKind, Failure, Interruption, Outcome, RevertCause, TimelineKind};

/// Time for orphans to answer. They answer at once unless they hang.
const GATHERING_MS_MAX: u64 = 2_000;

/// A master that is leaving because this one serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Elder {
    pub(crate) process: ProcessId,
    /// Its workers may still hand over connections and their own state.
    pub(crate) is_moving: bool,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Core {
    /// This master's own process.
    process: ProcessId,
    tier: Tier,
    lifecycle: Lifecycle,
    /// Oldest first.
    generations: Vec<Generation>,
    next_number: u32,
    /// The configuration that served last, to serve again.
    last: Option<Plan>,
    /// The master that started this one.
    elder: Option<Elder>,
    /// Another master has started this one; true even after that master has ended.
    is_upgrade: bool,
    /// The new master takes over listeners in the same tier.
    is_succeeded_alike: bool,
    placement: Placement,
    orphans: Orphans,
    /// How orphans must stop together with this master.
    orphans_stop: Option<Stop>,
    moves: MovesUnderWay,
    balance: Balance,
    acquaintance: Acquaintance,
    operations: Operations,
    inspections: Inspections,
    /// HUP came during a reload, or while a new master that was sent back was leaving: another reload follows.
    reloads_again: bool,
    /// Requests that came while a new master that was sent back was leaving. A request by a signal has no client.
    postponed: Vec<(Option<ClientId>, Request)>,
    /// Why the last upgrade was reverted.
    last_revert: Option<Failure>,
    /// Number of workers that ended abnormally while the server was stopping normally.
    died: usize,
}

/// What an old master passes to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inheritance {
    pub(crate) predecessor: ProcessId,
    pub(crate) is_held: bool,
    pub(crate) next_number: u32,
    pub(crate) addresses: Vec<Address>,
    pub(crate) listeners: Vec<(SocketId, crate::endpoint::Endpoint)>,
}

impl Core {
    pub(crate) fn new(process: ProcessId, tier: Tier, inheritance: Option<Inheritance>) -> Self {
        let mut this = Self {
            process,
            tier,
            lifecycle: Lifecycle::Starting(Start::Unborn, None),
            generations: Vec::new(),
            next_number: 1,
            last: None,
            elder: None,
            is_upgrade: inheritance.is_some(),
            is_succeeded_alike: false,
            placement: Placement::default(),
            orphans: Orphans::default(),
            orphans_stop: None,
            moves: MovesUnderWay::default(),
            balance: Balance::default(),
            acquaintance: Acquaintance::default(),
            operations: Operations::default(),
            inspections: Inspections::default(),
            reloads_again: false,
            postponed: Vec::new(),
            last_revert: None,
            died: 0,
        };
        if let Some(inheritance) = inheritance {
            let (new, elder) = Self::begins_as_new(inheritance.predecessor, inheritance.is_held);
            this.lifecycle = Lifecycle::Starting(Start::Unborn, new);
            this.elder = elder;
            this.next_number = inheritance.next_number;
            this.placement.addresses = inheritance.addresses;
            for (socket, address) in inheritance.listeners {
                if this.adopts(address) {
                    this.placement.keep(socket, address);
                }
            }
        }
        this
    }

    /// Handles one event. Afterwards call [`Core::next_deadline`], and step with [`Event::Tick`] no later than that.
    pub(crate) fn step(&mut self, world: &mut dyn World, event: Event) {
        match event {
            Event::Start(plan) => self.start(world, plan),
            Event::Signal(signal) => self.signalled(world, signal),
            Event::Request(client, request) => self.asked(world, client, request),
            Event::ClientGone(client) => {
                self.postponed.retain(|(one, _)| *one != Some(client));
                self.operations.forget(client);
                self.inspections.forget(client);
            }
            Event::Report(process, report) => self.heard(world, process, report),
            Event::ChannelEnded(process) => self.channel_ended(process),
            Event::Ended(process, exit) => {
                if !self.successor_ended(world, process, exit) {
                    self.worker_ended(world, process, exit);
                }
            }
            Event::FromNew(message) => self.heard_new(world, message),
            Event::Listeners(sockets) => self.take_listeners(world, sockets),
            Event::NewEnded { problem } => self.new_channel_ended(world, problem),
            Event::FromOld(message) => self.heard_old(world, message),
            Event::OldEnded => self.lose_predecessor(world),
            Event::OrphanReport(process, report) => self.orphan_heard(world, process, report),
            Event::OrphanListener(process, socket, address) => self.orphan_listener(world, process, socket, address),
            Event::OrphanEnded(process) => self.orphan_ended(world, process),
            Event::Arrived(arrival) => self.placement.held.push_back(arrival),
            Event::Tick => self.tick(world),
        }
        self.settle(world);
    }

    /// Takes the actions that follow from the present state, whatever event led to it.
    fn settle(&mut self, world: &mut dyn World) {
        self.begin_when_gathered(world);
        self.forget_gone(world);
        self.close_given_up(world);
        self.look_when_due(world);
        self.hand_out(world);
        self.tell_untold(world);
        self.let_gather(world);
        self.conclude_moves(world);
        self.ask_postponed(world);
        self.reload_again(world);
        // After everything that may begin a change.
        self.rebalance(world);
        self.conclude_inspections(world);
        self.end_when_over(world);
    }

    fn start(&mut self, world: &mut dyn World, plan: Plan) {
        let Lifecycle::Starting(start, new) = &mut self.lifecycle else { return };
        let is_new = new.is_some();
        let until = Time::default();
        *start = if is_new { Start::Introducing { plan, until } } else { Start::Gathering { plan, until } };
        if is_new {
            return self.introduce(world);
        }
        self.find_orphans(world);
        if let Lifecycle::Starting(Start::Gathering { until, .. }, _) = &mut self.lifecycle {
            *until = world.now().after_ms(GATHERING_MS_MAX);
        }
    }

    /// Continues the start when all orphans have introduced themselves, or their time is over.
    fn begin_when_gathered(&mut self, world: &mut dyn World) {
        let is_settled = self.orphans.is_settled();
        if let Lifecycle::Starting(start @ Start::Gathering { .. }, _) = &mut self.lifecycle
            && let Start::Gathering { until, .. } = start
            && (is_settled || *until <= world.now())
            && let Start::Gathering { plan, .. } = std::mem::replace(start, Start::ComingUp)
        {
            let timeline = match self.orphans.last_generation() {
                Some(number) => {
                    self.next_number = number.saturating_add(1);
                    TimelineKind::Takeover
                }
                None => TimelineKind::Start,
            };
            self.begin_first(world, plan, timeline);
        }
    }

    pub(super) fn begin_first(&mut self, world: &mut dyn World, plan: Plan, timeline: TimelineKind) {
        if let Err(why) = self.begin(world, plan, timeline) {
            self.fail(world, why);
        }
    }

    fn signalled(&mut self, world: &mut dyn World, signal: Signal) {
        match signal {
            Signal::Hup if self.awaits_leave() => self.reloads_again = true,
            Signal::Hup if self.lifecycle.old().is_some() => self.serve_beside_successor(world),
            Signal::Hup if self.is_changing() && !self.lifecycle.is_ending() => self.reloads_again = true,
            Signal::Hup => self.reload_unasked(world),
            Signal::Quit => self.stop(world, Stop::Graceful { drain_ms: None }, Cause::Quit),
            Signal::Term => self.stop(world, Stop::Fast, Cause::Term),
            Signal::Int => self.stop(world, Stop::Fast, Cause::Int),
            Signal::Winch => self.idle(world),
            Signal::Usr2 => {
                let upgrade = Upgrade { is_held: true, ..Upgrade::default() };
                if self.awaits_leave() {
                    // Two signals of the same kind count as one.
                    self.postponed.retain(|(client, _)| client.is_some());
                    return self.postponed.push((None, Request::Upgrade(upgrade)));
                }
                self.upgrade_unasked(world, &upgrade);
            }
        }
    }

    /// Upgrades because of a signal. No client waits for the result, so a failure becomes an event.
    fn upgrade_unasked(&mut self, world: &mut dyn World, upgrade: &Upgrade) {
        if let Err(why) = self.upgrade(world, upgrade) {
            world.note(None, EventKind::UpgradeFailed { why });
        }
    }

    /// The old workers serve again, but the new master's process has not ended yet. A client that has learned of the
    /// revert may already ask for the next change.
    fn awaits_leave(&self) -> bool {
        let is_sent_back = |old: &Old| old.stage.is_sent_back() && !is_put_back(Mutation::RevertedRefusesChanges);
        !self.lifecycle.is_ending() && self.lifecycle.old().is_some_and(is_sent_back)
    }

    fn ask_postponed(&mut self, world: &mut dyn World) {
        if self.awaits_leave() {
            return;
        }
        for (client, request) in std::mem::take(&mut self.postponed) {
            match (client, request) {
                (Some(client), request) => self.asked(world, client, request),
                (None, Request::Upgrade(upgrade)) => self.upgrade_unasked(world, &upgrade),
                (None, _) => {}
            }
        }
    }

    fn asked(&mut self, world: &mut dyn World, client: ClientId, request: Request) {
        let is_change = matches!(
            request,
            Request::Reload | Request::Scale { .. } | Request::Rebalance { .. } | Request::Upgrade(_)
        );
        if is_change && self.awaits_leave() {
            return self.postponed.push((Some(client), request));
        }
        let result = match request {
            Request::Reload => self.reload(world).map(|generation| Some(Kind::Reload { generation })),
            // `scale` registers the client itself, or answers at once.
            Request::Scale { workers } => self.scale(world, client, workers).map(|()| None),
            Request::Rebalance { is_dry_run } => {
                self.rebalance_by_hand(world, is_dry_run).map(|()| Some(Kind::Rebalance))
            }
            Request::Upgrade(upgrade) => self.upgrade(world, &upgrade).map(|()| Some(Kind::Upgrade)),
            Request::Commit if self.lifecycle.new_master().is_some() => {
                self.ask_to_commit(world).map(|()| Some(Kind::Commit))
            }
            Request::Revert => match &self.lifecycle {
                Lifecycle::Serving(Lineage::New(New { stage: NewStage::AwaitingRelief { .. }, .. }))
                    if !is_put_back(Mutation::RevertHastens) =>
                {
                    Ok(Some(Kind::Revert))
                }
                Lifecycle::Serving(Lineage::New(_)) => {
                    return self.stop_for(world, client, Kind::Revert, Stop::Graceful { drain_ms: None });
                }
                // Register the client first: the request may be done at once.
                _ => return self.decide_for(world, client, Kind::Revert),
            },
            Request::Commit => return self.decide_for(world, client, Kind::Commit),
            // Both register the client themselves.
            Request::Connections(wanted) => self.list_connections(world, client, wanted).map(|()| None),
            Request::Close { id, now } => self.close_connection(world, client, id, now).map(|()| None),
            Request::Stop { now, drain_ms } => {
                let how = if now { Stop::Now } else { Stop::Graceful { drain_ms } };
                return self.stop_for(world, client, Kind::Stop, how);
            }
        };
        match result {
            Ok(Some(kind)) => self.operations.wait(client, kind),
            Ok(None) => {}
            Err(why) => world.reply(client, Err(why)),
        }
    }

    fn stop_for(&mut self, world: &mut dyn World, client: ClientId, kind: Kind, how: Stop) {
        self.operations.wait(client, kind);
        self.stop(world, how, Cause::Control);
    }

    fn decide_for(&mut self, world: &mut dyn World, client: ClientId, kind: Kind) {
        self.operations.wait(client, kind);
        if let Err(why) = self.decide(world, kind) {
            self.operations.forget(client);
            world.reply(client, Err(why));
        }
    }

    /// Begins a generation with the present configuration, and returns its number.
    fn reload(&mut self, world: &mut dyn World) -> Result<u32, Failure> {
        self.refuse_change()?;
        world.notify(Notice::Reloading);
        let begun = world.read_configuration().and_then(|plan| {
            if let Some(index) = self.serving() {
                self.refuse_large_state(world, index, &plan)?;
            }
            self.begin(world, plan, TimelineKind::Reload)
        });
        if begun.is_err() {
            world.notify(Notice::Ready);
        }
        begun
    }

    fn reload_again(&mut self, world: &mut dyn World) {
        if self.reloads_again && !self.is_changing() && !self.awaits_leave() {
            self.reloads_again = false;
            self.reload_unasked(world);
        }
    }

    /// Reloads because of a signal. No client waits for the result, so a failure becomes an event.
    fn reload_unasked(&mut self, world: &mut dyn World) {
        if let Err(why) = self.reload(world) {
            world.note(None, EventKind::NotReloaded { why });
        }
    }

    fn tick(&mut self, world: &mut dyn World) {
        self.claim_again(world);
        self.check_orphans(world);
        self.check_successor(world);
        self.check_predecessor(world);
        self.check_wanted(world);
        self.check_workers(world);
        self.look_at_workers(world);
        // A worker's channel may have been full.
        if !is_put_back(Mutation::ShareIsNotRetried) {
            self.share_rest(world);
        }
    }

    /// The latest time for the next step with [`Event::Tick`].
    pub(crate) fn next_deadline(&self, now: Time) -> Option<Time> {
        let gathering = match &self.lifecycle {
            Lifecycle::Starting(Start::Gathering { until, .. }, _) => Some(*until),
            _ => None,
        };
        let deadlines = self.worker_deadlines().chain(self.orphans.deadlines()).chain(gathering);
        let deadlines = deadlines.chain(self.successor_deadline()).chain(self.predecessor_deadline());
        let deadlines = deadlines.chain(self.claim_deadline(now)).chain(self.wanted_deadline());
        let deadlines = deadlines.chain(self.balance_deadline()).chain(self.inspections.deadline());
        deadlines.chain(self.placement_deadline(now)).chain(self.introduction_deadline(now)).min()
    }

    /// Ends the master when it has nothing left to wait for.
    fn end_when_over(&mut self, world: &mut dyn World) {
        if !self.generations.is_empty() {
            return;
        }
        let has_successor = self.lifecycle.old().is_some();
        let is_over = match &self.lifecycle {
            Lifecycle::Starting(..) | Lifecycle::Idle(_) | Lifecycle::Over(_) => false,
            Lifecycle::Failed(_) | Lifecycle::Leaving { .. } => true,
            Lifecycle::Serving(_) | Lifecycle::Stopping(_) => self.orphans.is_quiet() && !has_successor,
        };
        if !is_over {
            return;
        }
        let died = if self.died > 0 { Err(Failure::WorkersDied { count: self.died }) } else { Ok(()) };
        let (verdict, served_by) = match &self.lifecycle {
            Lifecycle::Failed(why) => (Err(why.clone()), None),
            Lifecycle::Leaving { successor, .. } => (died, Some(Outcome::Committed { pid: successor.0 })),
            Lifecycle::Stopping(Stopping { instead: Instead::Old(predecessor), .. }) => {
                (died, Some(Outcome::Reverted { pid: predecessor.0 }))
            }
            _ => (died, None),
        };
        let stopped = match &self.lifecycle {
            Lifecycle::Stopping(Stopping { instead: Instead::Perhaps { by }, .. })
                if !is_put_back(Mutation::StoppedWhileReverting) =>
            {
                Err(Failure::Reverted { pid: self.process.0, why: RevertCause::Stopped { by: *by } })
            }
            _ => verdict.clone().map(|()| served_by.clone().unwrap_or(Outcome::Stopped)),
        };
        self.operations.conclude(world, Kind::Stop, &stopped);
        if let Some(outcome @ Outcome::Reverted { .. }) = served_by {
            self.operations.conclude(world, Kind::Revert, &Ok(outcome));
        }
        self.operations.cut_off(world, Interruption::End);
        self.lifecycle = Lifecycle::Over(verdict);
    }

    /// The generation that is serving.
    pub(crate) fn serving(&self) -> Option<usize> {
        self.generations.iter().position(|generation| generation.phase == Phase::Serving)
    }

    /// Whether a generation is starting or growing.
    pub(crate) fn is_changing(&self) -> bool {
        self.generations.iter().any(Generation::is_changing)
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Idle(_))
    }

    /// The master's result, once it has ended.
    pub(crate) fn verdict(&self) -> Option<&Result<(), Failure>> {
        match &self.lifecycle {
            Lifecycle::Over(verdict) => Some(verdict),
            _ => None,
        }
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    pub(crate) fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// Configurations that may be used again.
    pub(crate) fn configurations(&self) -> impl Iterator<Item = ConfigurationId> {
        let starting = match &self.lifecycle {
            Lifecycle::Starting(Start::Introducing { plan, .. } | Start::Gathering { plan, .. }, _) => Some(plan),
            _ => None,
        };
        let plans = self.generations.iter().map(|generation| &generation.plan);
        plans.chain(&self.last).chain(starting).map(|plan| plan.configuration)
    }

    /// The addresses on which the generation that served last listens.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn addresses(&self) -> &[Address] {
        &self.placement.addresses
    }

    pub(crate) fn orphans(&self) -> &[Orphan] {
        &self.orphans.all
    }

    pub(crate) fn last_revert(&self) -> Option<&Failure> {
        self.last_revert.as_ref()
    }
}
