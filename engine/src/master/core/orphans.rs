//! Orphans. The master finds them, takes them over, and orders them to leave when its own workers serve. Or it stops
//! them when it stops itself.

use super::Core;
use super::leave::STOP_GRACE_MS;
use super::lifecycle::{Idle, Lifecycle};
use super::moves::inheritance;
use super::mutation::{Mutation, is_put_back};
use super::placement::SHARE_RETRY_MS;
use super::types::{ProcessId, SocketId, Stop, Time};
use super::world::{Names, World};
use crate::endpoint::Endpoint;
use crate::handover::Tier;
use crate::ipc::control::EventKind;
use crate::ipc::orders::{Order, Report};

/// A worker may have been forked just as its master was killed, so the master looks for orphans a second time.
const SECOND_LOOK_MS: u64 = 1_000;

/// Time for the listen sockets that an orphan has announced to arrive. Those that are missing then will not come.
const SHARE_MS_MAX: u64 = 5_000;

/// The largest generation number from which this master continues to count. No server has so many generations, and the
/// messages have room for twice as many: a compromised orphan cannot exhaust the numbers.
const GENERATION_MAX: u32 = 1 << 29;

/// A worker of a former master.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Orphan {
    pub(crate) process: ProcessId,
    /// Its introduction; `None` while its own master lives, or while it hangs.
    pub(crate) known: Option<Known>,
    /// `Some` after it was ordered to leave: it is killed at this time.
    pub(crate) until: Option<Time>,
    /// The master told it where to move its connections, and it has not reported yet that it is done.
    is_moving: bool,
}

/// An orphan's introduction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    pub(crate) generation: u32,
    pub(crate) slot: usize,
    pub(crate) addresses: Vec<Endpoint>,
    sharing: Sharing,
}

/// The progress of an orphan's listen sockets on their way to this master, in the tier adopt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sharing {
    /// The request could not be sent yet: the channel was full.
    Wanted { listeners: Shared, at: Time },
    /// Number of sockets that are still to come, and until when the master waits for them. `None`: it waits no longer.
    Awaited { missing: usize, until: Option<Time> },
}

/// The listen sockets that an orphan is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shared {
    internet: usize,
    unix: usize,
}

impl Known {
    fn ask_to_share(&mut self, world: &mut dyn World, process: ProcessId, listeners: Shared) {
        let Shared { internet, unix } = listeners;
        self.sharing = if world.tell(process, &Order::Share { internet: internet > 0, unix: unix > 0 }) {
            Sharing::Awaited { missing: internet + unix, until: Some(world.now().after_ms(SHARE_MS_MAX)) }
        } else {
            Sharing::Wanted { listeners, at: world.now().after_ms(SHARE_RETRY_MS) }
        };
    }
}

impl Orphan {
    fn is_settled(&self) -> bool {
        let sharing = self.known.as_ref().map(|known| known.sharing);
        matches!(sharing, Some(Sharing::Awaited { missing: 0, .. } | Sharing::Awaited { until: None, .. }))
    }

    fn tell(&mut self, world: &mut dyn World, order: &Order, time_ms: u64) {
        // An orphan that has ended needs no order.
        world.tell(self.process, order);
        let until = world.now().after_ms(time_ms.saturating_add(STOP_GRACE_MS));
        self.until = Some(self.until.map_or(until, |before| before.min(until)));
    }
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Orphans {
    pub(crate) all: Vec<Orphan>,
    /// The time of the second look.
    second_look: Option<Time>,
}

impl Orphans {
    pub(super) fn is_any_heard(&self) -> bool {
        self.all.iter().any(|orphan| orphan.known.is_some())
    }

    /// Whether there is no orphan to wait for.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_any_heard() && self.second_look.is_none()
    }

    /// Whether every orphan that was found has introduced itself and shared its sockets.
    pub(super) fn is_settled(&self) -> bool {
        self.all.iter().all(Orphan::is_settled)
    }

    pub(super) fn is_moving(&self) -> bool {
        self.all.iter().any(|orphan| orphan.is_moving)
    }

    pub(super) fn listen_on(&self, address: Endpoint) -> bool {
        let mut known = self.all.iter().filter_map(|orphan| orphan.known.as_ref());
        known.any(|known| known.addresses.contains(&address))
    }

    /// The generation number from which to continue; `None` if no orphan is known.
    pub(super) fn last_generation(&self) -> Option<u32> {
        let known = self.all.iter().filter_map(|orphan| orphan.known.as_ref());
        known.map(|known| if known.generation > GENERATION_MAX { 0 } else { known.generation }).max()
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Time> {
        let wanted = self.all.iter().filter_map(|orphan| match orphan.known.as_ref()?.sharing {
            Sharing::Wanted { at, .. } => Some(at),
            Sharing::Awaited { missing, until } => until.filter(|_| missing > 0),
        });
        self.all.iter().filter_map(|orphan| orphan.until).chain(self.second_look).chain(wanted)
    }
}

impl Core {
    /// Looks for workers whose master has ended. Workers whose master lives do not answer.
    pub(super) fn find_orphans(&mut self, world: &mut dyn World) {
        let own = self.generations.iter().flat_map(|generation| generation.children()).map(|child| child.process);
        let known: Vec<ProcessId> = own.chain(self.orphans.all.iter().map(|orphan| orphan.process)).collect();
        let found = world.find_orphans(&known);
        let orphan = |process| Orphan { process, known: None, until: None, is_moving: false };
        self.orphans.all.extend(found.into_iter().map(orphan));
    }

    /// Looks now, and a second time after [`SECOND_LOOK_MS`].
    pub(super) fn look_for_orphans(&mut self, world: &mut dyn World) {
        self.find_orphans(world);
        self.orphans.second_look = Some(world.now().after_ms(SECOND_LOOK_MS));
    }

    pub(super) fn orphan_heard(&mut self, world: &mut dyn World, process: ProcessId, report: Report) {
        let adopts = self.tier == Tier::Adopt;
        let Some(orphan) = self.orphans.all.iter_mut().find(|orphan| orphan.process == process) else { return };
        match report {
            // An orphan introduces itself only once.
            Report::Orphan { .. } if orphan.known.is_some() => {}
            Report::Orphan { generation, slot, addresses, unix, listeners, unix_listeners, master } => {
                let sharing = Sharing::Awaited { missing: 0, until: None };
                let addresses = addresses.into_iter().map(Endpoint::Internet).chain(unix).collect();
                let mut known = Known { generation, slot, addresses, sharing };
                let listeners = Shared { internet: if adopts { listeners } else { 0 }, unix: unix_listeners };
                if adopts || listeners.unix > 0 && !is_put_back(Mutation::OrphanKeepsUnixSockets) {
                    known.ask_to_share(world, process, listeners);
                }
                orphan.known = Some(known);
                self.clean_after(world, master);
                self.introduce_to_orphan(world, process);
                self.settle_orphans(world);
            }
            Report::Moved(moved) => orphan.is_moving &= !moved.is_over,
            Report::Acquainted => self.hear_acquainted(process),
            Report::AsksToGather => self.hear_gathering(process, false),
            Report::HasGathered => self.hear_gathering(process, true),
            Report::Closed => orphan.known.iter_mut().for_each(|known| known.addresses.clear()),
            // The message came without the socket: this process has no room for more descriptors.
            Report::Listener { .. } => {
                self.count_listener(process);
                self.settle_orphans(world);
            }
            _ => {}
        }
    }

    /// An orphan's master was killed, perhaps while it left. Then no other process knows of its files, and this one
    /// removes them.
    fn clean_after(&self, world: &mut dyn World, master: Option<u32>) {
        let others = [self.elder.as_ref().map(|elder| elder.process), self.lifecycle.old().map(|old| old.successor)];
        let is_gone = |master: &ProcessId| *master != self.process && !others.contains(&Some(*master));
        if let Some(after) = master.map(ProcessId).filter(is_gone)
            && !is_put_back(Mutation::LeavingMasterLeavesFiles)
        {
            world.names(Names::Clean { after });
        }
    }

    pub(super) fn orphan_listener(
        &mut self,
        world: &mut dyn World,
        process: ProcessId,
        socket: SocketId,
        address: Endpoint,
    ) {
        let is_awaited = self.count_listener(process);
        let is_known = self.placement.kept.iter().any(|kept| kept.socket == socket);
        if self.adopts(address) && !self.lifecycle.is_ending() && (is_awaited || is_known) {
            self.placement.keep(socket, address);
            self.pass_on(world, &[(socket, address)]);
            if self.serving().is_some() {
                // Its master may have steered to it.
                world.detach(socket);
            }
        } else {
            world.close(socket);
        }
        if is_awaited {
            self.settle_orphans(world);
        }
    }

    /// Counts a listen socket of an orphan as arrived. Returns `false` if none was missing.
    fn count_listener(&mut self, process: ProcessId) -> bool {
        let orphan = self.orphans.all.iter_mut().find(|orphan| orphan.process == process);
        if let Some(known) = orphan.and_then(|orphan| orphan.known.as_mut())
            && let Sharing::Awaited { missing, until } = known.sharing
        {
            known.sharing = Sharing::Awaited { missing: missing.saturating_sub(1), until };
            return missing > 0;
        }
        false
    }

    pub(super) fn orphan_ended(&mut self, world: &mut dyn World, process: ProcessId) {
        let Some(index) = self.orphans.all.iter().position(|orphan| orphan.process == process) else { return };
        let orphan = self.orphans.all.remove(index);
        self.look_at_kept(world.now());
        if orphan.known.is_some() {
            world.note(None, EventKind::OrphanLeft { pid: process.0 });
        }
    }

    /// Lets known orphans leave: because other workers serve, or with this master.
    fn settle_orphans(&mut self, world: &mut dyn World) {
        if let Some(how) = self.orphans_stop {
            self.stop_orphans(world, how);
        } else {
            self.share_rest(world);
            self.dismiss_orphans(world);
        }
    }

    /// Orders orphans to leave when other workers do their work.
    pub(super) fn dismiss_orphans(&mut self, world: &mut dyn World) {
        let plan = match (self.serving(), &self.last) {
            (Some(index), _) => &self.generations[index].plan,
            // All workers must leave, whichever master started them.
            (None, Some(last))
                if matches!(self.lifecycle, Lifecycle::Idle(Idle::Asked | Idle::Replaced(_)))
                    && !is_put_back(Mutation::OrphansStayAtIdle) =>
            {
                last
            }
            _ => return,
        };
        let farewell = self.farewell_of(plan);
        let Order::Drain { settle_ms, drain_ms, .. } = farewell else { return };
        let own = self.meetings();
        let heirs = if own.is_empty() { self.moves.heirs_elsewhere.clone() } else { own };
        let mut workers = 0;
        for orphan in self.orphans.all.iter_mut().filter(|orphan| orphan.is_settled() && orphan.until.is_none()) {
            if !heirs.is_empty() {
                orphan.is_moving = world.tell(orphan.process, &inheritance(&heirs, workers));
            }
            orphan.tell(world, &farewell, settle_ms.saturating_add(drain_ms));
            workers += 1;
        }
        if workers > 0 {
            world.note(None, EventKind::OrphansDrain { workers });
        }
    }

    /// Stops orphans with this master. Their time runs since they were dismissed; a stop can only shorten it.
    pub(super) fn stop_orphans(&mut self, world: &mut dyn World, how: Stop) {
        let (drain_ms, stop_ms) = self.last.as_ref().map_or((30_000, 3_000), |plan| (plan.drain_ms, plan.stop_ms));
        for orphan in self.orphans.all.iter_mut().filter(|orphan| orphan.known.is_some()) {
            let drain_ms = match how {
                Stop::Graceful { drain_ms: Some(drain_ms) } => drain_ms,
                Stop::Graceful { drain_ms: None } => drain_ms,
                Stop::Fast => stop_ms,
                Stop::Now => 0,
            };
            let order = match how {
                Stop::Now => Order::Stop,
                _ => Order::Drain { settle_ms: 0, drain_ms, is_succeeded: false },
            };
            orphan.tell(world, &order, drain_ms);
        }
    }

    /// Acts when a time limit for orphans is over.
    pub(super) fn check_orphans(&mut self, world: &mut dyn World) {
        let now = world.now();
        if self.orphans.second_look.is_some_and(|at| at <= now) {
            self.orphans.second_look = None;
            self.find_orphans(world);
        }
        let mut is_late = false;
        for orphan in &mut self.orphans.all {
            let Some(known) = &mut orphan.known else { continue };
            match known.sharing {
                Sharing::Wanted { listeners, at } if at <= now && !is_put_back(Mutation::OrphanIsAskedOnce) => {
                    known.ask_to_share(world, orphan.process, listeners);
                }
                Sharing::Awaited { missing: missing @ 1.., until: Some(until) } if until <= now => {
                    known.sharing = Sharing::Awaited { missing, until: None };
                    is_late = true;
                }
                _ => {}
            }
        }
        if is_late {
            self.settle_orphans(world);
        }
        for orphan in self.orphans.all.iter_mut().filter(|orphan| orphan.until.is_some_and(|until| until <= now)) {
            // Its channel ends with it.
            world.kill(orphan.process);
            orphan.until = None;
        }
    }
}
