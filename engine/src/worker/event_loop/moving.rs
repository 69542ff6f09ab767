//! Connections move: from this worker, which leaves, to others; and from others to this one. What is said and who has what
//! at which moment: see `handover/messages.rs`.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

use socket2::SockRef;

use super::{Entry, EventLoop, Leaving, Receiving};
use crate::config::Connections;
use crate::context::Alarm;
use crate::context::timer_wheel::TimerId;
use crate::handover::{Frozen, Message, Refusal, Standing, VERSION};
use crate::ipc::channel::tell;
use crate::ipc::meeting::{Meeting, visit};
use crate::ipc::orders::{Moved, Report};
use crate::ipc::transfer::{ALONE_BYTES, Arrival, Arrived, BATCH, BATCH_BYTES, BATCH_MS_MAX, Channel, Heard, Offer};
use crate::protocol::Protocol;
use crate::sys::clock::monotonic_ns;
use crate::sys::faults::reach;
use crate::sys::ring::{Key, Ring};
use crate::types::{ConnectionId, Peer};

/// Keys of polls: where others come, and from here on those who have come, and those who are visited.
const MEETING: Key = Key { slot: 4, generation: 0 };
const VISITORS: u32 = 0x1_0000;
const DEPARTURES: u32 = 0x2_0000;
/// Added to a key: the poll for room to write.
const WRITABLE: u32 = 0x4_0000;

/// Whoever comes when so many are here is sent away.
const VISITORS_MAX: usize = 4096;

/// Where all who were to be brought connections are gone, others are waited for so long.
const HEIRS_MS_MAX: u64 = 3_000;

/// Progress is reported at most this often.
const REPORT_INTERVAL_NS: u64 = 200_000_000;

/// Somebody who brings connections.
struct Visitor {
    channel: Channel,
    key: Key,
    is_polled: bool,
    /// Thawed, and not given yet.
    offered: Option<(u64, Vec<(ConnectionId, Standing)>)>,
}

/// Somebody who is brought connections.
struct Departure {
    name: String,
    channel: Channel,
    key: Key,
    is_polled: bool,
    /// Connections there, as far as is known.
    open: u64,
    batch: Option<Batch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until nothing of any of them is in the kernel's hand.
    Stopping,
    Offered,
    /// Until that is said.
    Giving,
}

struct Batch {
    number: u64,
    stage: Stage,
    /// With what was offered of each, once it is frozen.
    members: Vec<(ConnectionId, Option<Frozen>)>,
    time_out: TimerId,
    began_ns: u64,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Moving {
    meeting: Option<Meeting>,
    /// Whom this worker was started as.
    user: u32,
    /// Where to bring connections, when it comes to that.
    pub(super) heirs: Vec<String>,
    visitors: Vec<Option<Visitor>>,
    departures: Vec<Option<Departure>>,
    /// Polls are told from those of channels before by this.
    sequence: u16,
    /// Those that are to move, the idlest first.
    pub(super) queue: VecDeque<ConnectionId>,
    next_batch: u64,
    /// Connections go to others.
    pub(super) is_on: bool,
    /// Everything is to stand still before the worker's own state goes.
    is_gathering: bool,
    /// Those of the queue that are frozen already, since the worker's own state is on its way or another's.
    frozen: HashMap<ConnectionId, Frozen>,
    /// The worker's own state is another's: without it, connections cannot stay.
    is_state_given: bool,
    pub(super) tally: Moved,
    /// Why the last one takes nothing more.
    last_refusal: Option<Refusal>,
    /// Others are waited for until then.
    heirs_at_ns: Option<u64>,
    began_ns: u64,
    reported_ns: u64,
    is_reported: bool,
    /// The master waits for how it ends.
    pub(super) is_awaited: bool,
}

impl Moving {
    pub(super) fn new(meeting: Option<Meeting>, user: u32) -> Self {
        Self { meeting, user, ..Self::default() }
    }

    pub(super) fn meeting_name(&self) -> Option<String> {
        self.meeting.as_ref().map(|meeting| meeting.name().to_owned())
    }

    /// Workers that are brought connections, and those that were.
    pub(super) fn departures(&self) -> usize {
        self.departures.len()
    }

    pub(super) fn departure(&mut self, place: usize) -> Option<&mut Channel> {
        self.departures[place].as_mut().map(|departure| &mut departure.channel)
    }

    pub(super) fn visitor(&mut self, place: usize) -> Option<&mut Channel> {
        self.visitors[place].as_mut().map(|visitor| &mut visitor.channel)
    }

    /// All that were to move have, or stay.
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.departures.iter().flatten().all(|departure| departure.batch.is_none())
    }

    /// Nobody brings connections, or may in a moment.
    pub(super) fn is_alone(&self) -> bool {
        self.visitors.iter().all(Option::is_none)
    }
}

impl<P: Protocol> EventLoop<P> {
    /// Whether connections will go to others when this worker leaves.
    pub(super) fn has_heirs(&self) -> bool {
        P::STATE.is_some() && !self.moving.heirs.is_empty() && self.connections == Connections::Handover
    }

    /// The worker leaves: its connections go to others. `false` where there is nobody to take them.
    pub(super) fn begin_moving(&mut self) -> bool {
        (self.moving.began_ns, self.moving.reported_ns) = (self.context.now_ns, self.context.now_ns);
        if !self.has_heirs() {
            return false;
        }
        self.visit_heirs();
        if self.moving.departures.is_empty() {
            return false;
        }
        let mut all = Vec::new();
        for slot in 0..self.slab.slots() {
            if let Some(entry) = self.slab.at(slot).filter(|entry| entry.connecting.is_none()) {
                all.push((entry.connection.activity_ns(), entry.connection.id()));
            }
        }
        all.sort_unstable_by_key(|(activity_ns, _)| *activity_ns);
        self.moving.queue = all.into_iter().map(|(_, id)| id).collect();
        self.moving.is_on = true;
        if P::WORKER_STATE.is_some() {
            self.moving.is_gathering = true;
            for index in 0..self.moving.queue.len() {
                self.stop_for_move(self.moving.queue[index]);
            }
        }
        true
    }

    /// Goes to those it was told of and does not bring connections to yet.
    fn visit_heirs(&mut self) {
        for name in std::mem::take(&mut self.moving.heirs) {
            if self.moving.departures.iter().flatten().any(|departure| departure.name == name) {
                continue;
            }
            match visit(&name, self.moving.user) {
                Ok(channel) => {
                    let key = self.next_key(DEPARTURES + self.moving.departures.len() as u32);
                    self.ring.poll(channel.descriptor(), key);
                    let departure = Departure { name, channel, key, is_polled: false, open: 0, batch: None };
                    self.moving.departures.push(Some(departure));
                    self.moving.heirs_at_ns = None;
                }
                Err(error) => tracing::warn!(slot = self.context.slot, name, %error, "no way to a worker that serves"),
            }
        }
    }

    /// There are workers that may take connections, perhaps others than before.
    pub(super) fn hear_heirs(&mut self, names: Vec<String>) {
        self.moving.heirs = names;
        if self.moving.is_on {
            self.visit_heirs();
        } else {
            self.moving.is_awaited = true;
        }
    }

    /// All to whom connections were brought are gone: whether others are waited for.
    fn waits_for_heirs(&mut self) -> bool {
        let now_ns = self.context.now_ns;
        if self.moving.last_refusal.is_some() {
            return false;
        }
        match self.moving.heirs_at_ns {
            Some(at_ns) => now_ns < at_ns,
            None => {
                let at_ns = now_ns + HEIRS_MS_MAX * 1_000_000;
                self.moving.heirs_at_ns = Some(at_ns);
                // The turn that it makes is what is wanted.
                self.context.timers.set(at_ns, Alarm::Batch { place: usize::MAX });
                true
            }
        }
    }

    /// This one gets all.
    pub(super) fn keep_departure(&mut self, place: usize) {
        (0..self.moving.departures.len()).filter(|other| *other != place).for_each(|other| self.lose_departure(other));
        self.moving.is_state_given = true;
    }

    /// Hands the worker's own state over once nothing of any connection is in the kernel's hand, nor can happen to it;
    /// `false` where it is not time yet.
    fn gather(&mut self) -> bool {
        let slots = 0..self.slab.slots();
        let is_still = |entry: &Entry<P::Connection>| {
            entry.connecting.is_some() || (entry.is_still() && entry.is_stopping) || entry.connection.is_ended()
        };
        if !slots.into_iter().all(|slot| self.slab.at(slot).is_none_or(|entry| is_still(entry))) {
            return false;
        }
        for index in 0..self.moving.queue.len() {
            let id = self.moving.queue[index];
            let Some(entry) = self.slab.get(id) else { continue };
            if let Some(frozen) = entry.connection.freeze(&mut self.protocol, &mut self.context) {
                self.moving.frozen.insert(id, frozen);
            }
        }
        match self.give_state() {
            Ok(()) => self.moving.is_gathering = false,
            // Others may come.
            Err(Refusal::Channel) => {}
            Err(refusal) => {
                self.moving.is_gathering = false;
                self.moving.last_refusal = Some(refusal);
            }
        }
        if self.moving.is_gathering || self.moving.last_refusal.is_some() {
            (0..self.moving.departures.len()).for_each(|place| self.lose_departure(place));
        }
        true
    }

    fn next_key(&mut self, slot: u32) -> Key {
        self.moving.sequence = self.moving.sequence.wrapping_add(1);
        Key { slot, generation: self.moving.sequence }
    }

    /// What can be done in this turn.
    pub(super) fn move_on(&mut self) {
        let has_departures = |moving: &Moving| moving.departures.iter().any(Option::is_some);
        if !self.moving.is_on || (self.moving.is_gathering && has_departures(&self.moving) && !self.gather()) {
            return;
        }
        for place in 0..self.moving.departures.len() {
            self.fill(place);
            self.offer(place);
        }
        self.report_moved();
        if !has_departures(&self.moving) {
            if self.waits_for_heirs() {
                return;
            }
            // Nobody takes the rest.
            (self.moving.is_on, self.moving.is_gathering) = (false, false);
            let refusal = self.moving.last_refusal.unwrap_or(Refusal::Channel);
            for id in std::mem::take(&mut self.moving.queue) {
                if self.may_move(id) {
                    self.moving.tally.count(refusal, 1);
                    let frozen = self.moving.frozen.remove(&id);
                    self.go_on(id, frozen.as_ref());
                }
            }
            self.say_goodbyes();
            self.report_moved();
        } else if self.moving.is_idle() && self.moving.is_alone() && !self.is_accepting() && !self.is_connecting() {
            // Nothing can come any more that could be brought to others.
            self.end_moving();
        }
    }

    fn is_connecting(&mut self) -> bool {
        (0..self.slab.slots()).any(|slot| self.slab.at(slot).is_some_and(|entry| entry.connecting.is_some()))
    }

    /// Stops the next ones for a worker that waits for some, unless others have fewer.
    fn fill(&mut self, place: usize) {
        let least = self.moving.departures.iter().flatten().map(|departure| departure.open).min().unwrap_or_default();
        let Some(departure) = &self.moving.departures[place] else { return };
        if departure.batch.is_some() || departure.open > least + BATCH as u64 {
            return;
        }
        // The last ones are shared out.
        let share = self.moving.queue.len().div_ceil(self.moving.departures.iter().flatten().count());
        let mut members = Vec::new();
        while members.len() < share.min(BATCH)
            && let Some(id) = self.moving.queue.front().copied()
        {
            let is_large = self.slab.get(id).is_some_and(|entry| entry.connection.bytes_to_move() >= ALONE_BYTES);
            if is_large && !members.is_empty() {
                break;
            }
            self.moving.queue.pop_front();
            if self.may_move(id) {
                self.stop_for_move(id);
                members.push((id, None));
                if is_large {
                    break;
                }
            }
        }
        if members.is_empty() {
            return;
        }
        let number = self.moving.next_batch;
        self.moving.next_batch += 1;
        let deadline_ns = self.context.now_ns + BATCH_MS_MAX * 1_000_000;
        let time_out = self.context.timers.set(deadline_ns, Alarm::Batch { place });
        // With a state of the worker's own, all stand still from the beginning.
        let began_ns = if P::WORKER_STATE.is_some() { self.moving.began_ns } else { self.context.now_ns };
        let batch = Batch { number, stage: Stage::Stopping, members, time_out, began_ns };
        if let Some(departure) = &mut self.moving.departures[place] {
            departure.batch = Some(batch);
        }
        reach("sender:stopping");
    }

    fn may_move(&mut self, id: ConnectionId) -> bool {
        let is_frozen = self.moving.frozen.contains_key(&id);
        self.slab.get(id).is_some_and(|entry| entry.connection.is_open() || is_frozen)
    }

    /// Everything in the kernel's hand is asked for; a send that waits for the peer says how far it came.
    fn stop_for_move(&mut self, id: ConnectionId) {
        let Some(entry) = self.slab.get(id) else { return };
        entry.is_stopping = true;
        let key = entry.key();
        match (&entry.socket, entry.sending, entry.receiving) {
            (Some(socket), true, _) => {
                if entry.receiving == Receiving::Armed {
                    entry.receiving = Receiving::Cancelling;
                }
                self.ring.cancel_socket(socket);
            }
            (_, _, Receiving::Armed) => {
                entry.receiving = Receiving::Cancelling;
                self.ring.cancel_receive(key);
            }
            (_, _, Receiving::Starved) => entry.receiving = Receiving::No,
            _ => {}
        }
    }

    /// Freezes and offers a batch of which nothing is in the kernel's hand any more.
    fn offer(&mut self, place: usize) {
        let Some(format) = P::STATE else { return };
        let Some(departure) = &mut self.moving.departures[place] else { return };
        let Some(batch) = departure.batch.as_mut().filter(|batch| batch.stage == Stage::Stopping) else { return };
        for (id, _) in &batch.members {
            if self.slab.get(*id).is_some_and(|entry| !entry.is_still()) {
                return;
            }
        }
        let number = batch.number;
        let members = std::mem::take(&mut batch.members);
        let (mut offered, mut descriptors, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        for (id, _) in members {
            let Some(entry) = self.slab.get(id) else { continue };
            if bytes >= BATCH_BYTES {
                // In a batch of its own, soon.
                self.moving.queue.push_front(id);
                self.go_on_for_now(id, None);
                continue;
            }
            let Some(socket) = &entry.socket else { continue };
            let is_open = entry.connection.is_open();
            let frozen = self.moving.frozen.remove(&id);
            let Some(frozen) = frozen.or_else(|| entry.connection.freeze(&mut self.protocol, &mut self.context)) else {
                kept.push((id, None, if is_open { Refusal::Protocol } else { Refusal::Ending }));
                continue;
            };
            match self.ring.duplicate(socket) {
                Ok(descriptor) => {
                    bytes += frozen.bytes();
                    descriptors.push(descriptor);
                    offered.push((id, frozen, entry.is_fresh));
                }
                Err(_) => kept.push((id, Some(frozen), Refusal::Descriptors)),
            }
        }
        let members: Vec<_> = offered.iter().map(|(_, frozen, is_fresh)| (frozen, *is_fresh)).collect();
        let offer = if offered.is_empty() { None } else { Offer::new(number, format, &members, descriptors).ok() };
        if offer.is_none() {
            kept.extend(offered.drain(..).map(|(id, frozen, _)| (id, Some(frozen), Refusal::Descriptors)));
        }
        for (id, frozen, refusal) in kept {
            self.keep(id, frozen.as_ref(), refusal);
        }
        let Some(departure) = &mut self.moving.departures[place] else { return };
        let Some(offer) = offer else {
            if let Some(batch) = departure.batch.take() {
                self.context.timers.cancel(batch.time_out);
            }
            return;
        };
        if let Some(batch) = &mut departure.batch {
            batch.stage = Stage::Offered;
            batch.members = offered.into_iter().map(|(id, frozen, _)| (id, Some(frozen))).collect();
        }
        let bytes = offer.bytes as u64;
        match departure.channel.offer(offer) {
            Ok(()) => {
                self.moving.tally.bytes += bytes;
                self.poll_departure(place);
                reach("sender:offered");
            }
            Err(_) => self.lose_departure(place),
        }
    }

    /// A connection that is not handed over goes on here, and is told that the worker leaves.
    fn keep(&mut self, id: ConnectionId, frozen: Option<&Frozen>, refusal: Refusal) {
        self.moving.tally.count(refusal, 1);
        self.moving.is_reported = false;
        self.go_on(id, frozen);
        let deadline = Duration::from_nanos(self.drain_deadline_ns.unwrap_or_default());
        let Some(entry) = self.slab.get(id).filter(|entry| !entry.connection.is_ended()) else { return };
        entry.stays = true;
        if entry.is_fresh {
            self.watch_first_input();
        } else {
            entry.connection.drain(&mut self.protocol, &mut self.context, deadline);
            self.settle(id.slot);
        }
    }

    /// Goes on with a connection that was stopped until it is stopped again, which may be soon; without the worker's own
    /// state it stands still.
    fn go_on_for_now(&mut self, id: ConnectionId, frozen: Option<Frozen>) {
        match frozen {
            Some(frozen) if self.moving.is_state_given => drop(self.moving.frozen.insert(id, frozen)),
            frozen if !self.moving.is_state_given => self.go_on(id, frozen.as_ref()),
            _ => {}
        }
    }

    /// Goes on with a connection that was stopped.
    fn go_on(&mut self, id: ConnectionId, frozen: Option<&Frozen>) {
        let is_state_given = self.moving.is_state_given;
        let Some(entry) = self.slab.get(id) else { return };
        entry.is_stopping = false;
        if is_state_given {
            entry.connection.stop(&mut self.context);
        } else if let Some(frozen) = frozen
            && !entry.connection.is_ended()
        {
            entry.connection.resume(&mut self.protocol, &mut self.context, &frozen.standing);
        }
        self.settle(id.slot);
    }

    pub(super) fn hear_departure(&mut self, place: usize) {
        loop {
            let Some(departure) = self.moving.departures.get_mut(place).and_then(Option::as_mut) else { return };
            match departure.channel.hear() {
                Heard::Takes { batch, refused, open } => self.taken(place, batch, &refused, open),
                Heard::Nothing => return,
                Heard::Offer(_) | Heard::Gives { .. } | Heard::State { .. } | Heard::End => {
                    return self.lose_departure(place);
                }
            }
        }
    }

    /// The other side says what it takes of what was offered.
    fn taken(&mut self, place: usize, number: u64, refused: &[(usize, Refusal)], open: u64) {
        let Some(departure) = &mut self.moving.departures[place] else { return };
        departure.open = open;
        let Some(batch) = departure.batch.as_mut().filter(|one| one.number == number && one.stage == Stage::Offered)
        else {
            return self.lose_departure(place);
        };
        batch.stage = Stage::Giving;
        let members = std::mem::take(&mut batch.members);
        let refusal = |place: usize| refused.iter().find(|(one, _)| *one == place).map(|(_, refusal)| *refusal);
        let (mut given, mut back) = (Vec::new(), Vec::new());
        for (index, (id, frozen)) in members.into_iter().enumerate() {
            match refusal(index) {
                None => given.push((id, frozen)),
                Some(refusal) => back.push((id, frozen, refusal)),
            }
        }
        departure.open += given.len() as u64;
        batch.members = given;
        // One that takes nothing now is not asked again: others may.
        let is_final = |refusal: Refusal| {
            matches!(
                refusal,
                Refusal::Version | Refusal::Format | Refusal::Limit | Refusal::Leaving | Refusal::Descriptors
            )
        };
        let refusal = back.iter().map(|(_, _, refusal)| *refusal).find(|refusal| is_final(*refusal));
        self.moving.last_refusal = refusal.or(self.moving.last_refusal);
        let is_over = refusal.is_some();
        reach("sender:giving");
        let said = departure.channel.say(&Message::Gives { batch: number });
        for (id, frozen, refusal) in back {
            if is_over && self.moving.departures.iter().flatten().count() > 1 {
                self.go_on_for_now(id, frozen);
                self.moving.queue.push_front(id);
            } else {
                self.keep(id, frozen.as_ref(), refusal);
            }
        }
        if said.is_err() {
            return self.lose_departure(place);
        }
        reach("sender:given");
        self.finish_batch(place);
        self.poll_departure(place);
        if is_over && self.moving.departures[place].as_ref().is_some_and(|departure| departure.batch.is_none()) {
            self.lose_departure(place);
        }
    }

    /// What was given is let go of.
    fn finish_batch(&mut self, place: usize) {
        let Some(departure) = &mut self.moving.departures[place] else { return };
        if !departure.channel.is_flushed() || departure.batch.as_ref().is_none_or(|one| one.stage != Stage::Giving) {
            return;
        }
        let Some(batch) = departure.batch.take() else { return };
        self.context.timers.cancel(batch.time_out);
        let pause_ns = self.context.now_ns.saturating_sub(batch.began_ns);
        for (id, _) in batch.members {
            let Some(entry) = self.slab.get(id) else { continue };
            if !entry.connection.is_ended() {
                entry.connection.leave(&mut self.context);
            }
            self.moving.tally.moved += 1;
            self.context.page.pause.record(pause_ns, 1);
            self.settle(id.slot);
        }
        self.moving.is_reported = false;
    }

    /// Nothing more can be given to this worker. What was not given goes on here, or to others.
    pub(super) fn lose_departure(&mut self, place: usize) {
        let Some(departure) = self.moving.departures.get_mut(place).and_then(Option::take) else { return };
        let Departure { channel, key, is_polled, batch, .. } = departure;
        self.ring.cancel_poll(key);
        if is_polled {
            self.ring.cancel_poll(Key { slot: key.slot + WRITABLE, ..key });
        }
        // First: from now on the other side cannot be given anything.
        drop(channel);
        let Some(batch) = batch else { return };
        self.context.timers.cancel(batch.time_out);
        let may_have_others = self.moving.is_on && self.moving.last_refusal.is_none()
            || self.moving.departures.iter().any(Option::is_some);
        for (id, frozen) in batch.members {
            if may_have_others {
                self.go_on_for_now(id, frozen);
                self.moving.queue.push_front(id);
            } else {
                self.keep(id, frozen.as_ref(), Refusal::Channel);
            }
        }
    }

    /// The other side has not answered in time.
    pub(super) fn batch_timed_out(&mut self, place: usize) {
        if let Some(departure) = self.moving.departures.get_mut(place).and_then(Option::as_mut)
            && let Some(batch) = &mut departure.batch
        {
            // That timer is gone; another one, which does nothing, is cancelled in its place.
            batch.time_out = self.context.timers.set(self.context.now_ns, Alarm::Batch { place: usize::MAX });
            tracing::warn!(slot = self.context.slot, "a worker does not take connections in time");
            self.lose_departure(place);
        }
    }

    fn poll_departure(&mut self, place: usize) {
        if let Some(departure) = &mut self.moving.departures[place]
            && !departure.channel.is_flushed()
            && !std::mem::replace(&mut departure.is_polled, true)
        {
            let key = Key { slot: departure.key.slot + WRITABLE, ..departure.key };
            self.ring.poll_writable(departure.channel.descriptor(), key);
        }
    }

    /// A poll of this part fired; `false` where it is none of it.
    pub(super) fn moving_readable(&mut self, key: Key, more: bool) -> bool {
        let is_writable = key.slot & WRITABLE != 0;
        let slot = key.slot & !WRITABLE;
        let own = Key { slot, ..key };
        match slot {
            _ if own == MEETING => {
                if !more {
                    self.open_to_visitors();
                }
                self.let_visitors_in();
            }
            DEPARTURES.. => {
                let place = (slot - DEPARTURES) as usize;
                let Some(departure) = self.moving.departures.get_mut(place).and_then(Option::as_mut) else {
                    return true;
                };
                if departure.key != own {
                    return true;
                }
                if is_writable {
                    departure.is_polled = false;
                    match departure.channel.flush() {
                        Ok(()) => self.finish_batch(place),
                        Err(_) => self.lose_departure(place),
                    }
                    if self.moving.departures[place].is_some() {
                        self.poll_departure(place);
                    }
                } else {
                    if !more {
                        self.ring.poll(departure.channel.descriptor(), own);
                    }
                    self.hear_departure(place);
                }
            }
            VISITORS.. => {
                let place = (slot - VISITORS) as usize;
                let Some(visitor) = self.moving.visitors.get_mut(place).and_then(Option::as_mut) else { return true };
                if visitor.key != own {
                    return true;
                }
                if is_writable {
                    visitor.is_polled = false;
                    match visitor.channel.flush() {
                        Ok(()) => self.poll_visitor(place),
                        Err(_) => self.lose_visitor(place),
                    }
                } else {
                    if !more {
                        self.ring.poll(visitor.channel.descriptor(), own);
                    }
                    self.hear_visitor(place);
                }
            }
            _ => return false,
        }
        true
    }

    /// From now on others can bring connections.
    pub(super) fn open_to_visitors(&mut self) {
        if let Some(meeting) = &self.moving.meeting {
            self.ring.poll(meeting.descriptor(), MEETING);
        }
    }

    fn let_visitors_in(&mut self) {
        while let Some(channel) = self.moving.meeting.as_ref().and_then(Meeting::accept) {
            let free = self.moving.visitors.iter().position(Option::is_none);
            let place = free.unwrap_or(self.moving.visitors.len());
            if place >= VISITORS_MAX {
                continue;
            }
            let key = self.next_key(VISITORS + place as u32);
            self.ring.poll(channel.descriptor(), key);
            let visitor = Some(Visitor { channel, key, is_polled: false, offered: None });
            match free {
                Some(place) => self.moving.visitors[place] = visitor,
                None => self.moving.visitors.push(visitor),
            }
        }
    }

    fn hear_visitor(&mut self, place: usize) {
        loop {
            let Some(visitor) = self.moving.visitors.get_mut(place).and_then(Option::as_mut) else { return };
            match visitor.channel.hear() {
                Heard::Offer(arrival) if visitor.offered.is_none() => self.take(place, arrival),
                Heard::Gives { batch } if visitor.offered.as_ref().is_some_and(|(one, _)| *one == batch) => {
                    self.given(place);
                }
                Heard::State { version, format, format_version } => {
                    if self.take_state(place, version, &format, format_version).is_err() {
                        return self.lose_visitor(place);
                    }
                }
                Heard::Nothing => return,
                Heard::Offer(_) | Heard::Gives { .. } | Heard::Takes { .. } | Heard::End => {
                    return self.lose_visitor(place);
                }
            }
        }
    }

    /// Makes what can be made of an offer, and says what that is.
    fn take(&mut self, place: usize, arrival: Arrival) {
        reach("receiver:offered");
        let (batch, count, format_version) = (arrival.batch, arrival.len(), arrival.format_version);
        let wrong = if arrival.version != VERSION {
            Some(Refusal::Version)
        } else if P::STATE.is_none_or(|format| format.name != arrival.format) {
            Some(Refusal::Format)
        } else if self.drain_deadline_ns.is_some() && !self.passes_on() {
            Some(Refusal::Leaving)
        } else if !arrival.has_all_descriptors() {
            Some(Refusal::Descriptors)
        } else {
            None
        };
        let open = self.slab.len() as u64;
        let (mut members, mut refused) = (Vec::new(), Vec::new());
        match wrong {
            Some(refusal) => refused.extend((0..count).map(|index| (index, refusal))),
            None => {
                for (index, arrived) in arrival.into_connections().enumerate() {
                    match arrived.map_err(|_| Refusal::State).and_then(|one| self.thaw(format_version, one)) {
                        Ok(member) => members.push(member),
                        Err(refusal) => refused.push((index, refusal)),
                    }
                }
            }
        }
        let Some(visitor) = &mut self.moving.visitors[place] else { return };
        visitor.offered = Some((batch, members));
        reach("receiver:taking");
        match visitor.channel.say(&Message::Takes { batch, refused, open }) {
            Ok(()) => self.poll_visitor(place),
            Err(_) => self.lose_visitor(place),
        }
        reach("receiver:taken");
    }

    /// Whether this worker, which leaves, brings what it is brought to others.
    fn passes_on(&self) -> bool {
        match self.leaving {
            Leaving::No => false,
            Leaving::Asked | Leaving::AskedBefore => self.has_heirs(),
            Leaving::Told => self.moving.is_on,
        }
    }

    fn thaw(&mut self, version: u32, arrived: Arrived) -> Result<(ConnectionId, Standing), Refusal> {
        let Arrived { is_fresh, frozen, descriptor } = arrived;
        if self.slab.len() as u32 >= self.sizing.connections_max {
            return Err(Refusal::Limit);
        }
        let id = match self.insert(Ring::adopt(descriptor), None) {
            Ok(id) => id,
            Err(socket) => {
                self.ring.close(socket);
                return Err(Refusal::Limit);
            }
        };
        let entry = self.slab.get(id).expect("just made");
        entry.is_fresh = is_fresh;
        let ring = RefCell::new(&mut self.ring);
        let socket = entry.socket.as_ref().expect("just made");
        let address = || {
            ring.borrow_mut().with_descriptor(socket, |descriptor| {
                let address = SockRef::from(&descriptor).peer_addr()?;
                address.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
            })
        };
        let peer = Peer { token: None, address: &address };
        let thawed = entry.connection.thaw(&mut self.protocol, &mut self.context, version, frozen, peer);
        thawed.map(|standing| (id, standing)).map_err(|error| {
            tracing::debug!(slot = self.context.slot, %error, "a connection cannot be thawed");
            self.abandon(id);
            Refusal::State
        })
    }

    /// What was taken is this worker's.
    fn given(&mut self, place: usize) {
        reach("receiver:given");
        let Some(visitor) = &mut self.moving.visitors[place] else { return };
        let Some((_, members)) = visitor.offered.take() else { return };
        let deadline = Duration::from_nanos(self.drain_deadline_ns.unwrap_or_default());
        for (id, standing) in members {
            let Some(entry) = self.slab.get(id) else { continue };
            if !entry.connection.is_ended() {
                entry.connection.resume(&mut self.protocol, &mut self.context, &standing);
                self.context.page.taken_over.add(1);
            }
            if self.moving.is_on {
                entry.is_stopping = P::WORKER_STATE.is_some();
                self.moving.queue.push_back(id);
            } else if self.leaving == Leaving::Told {
                entry.connection.drain(&mut self.protocol, &mut self.context, deadline);
            }
            self.settle(id.slot);
        }
        self.context.page.open.set(self.slab.len() as u64);
        reach("receiver:resumed");
    }

    fn poll_visitor(&mut self, place: usize) {
        if let Some(visitor) = &mut self.moving.visitors[place]
            && !visitor.channel.is_flushed()
            && !std::mem::replace(&mut visitor.is_polled, true)
        {
            let key = Key { slot: visitor.key.slot + WRITABLE, ..visitor.key };
            self.ring.poll_writable(visitor.channel.descriptor(), key);
        }
    }

    /// What was not given is the other side's.
    fn lose_visitor(&mut self, place: usize) {
        let Some(visitor) = self.moving.visitors.get_mut(place).and_then(Option::take) else { return };
        self.ring.cancel_poll(visitor.key);
        if visitor.is_polled {
            self.ring.cancel_poll(Key { slot: visitor.key.slot + WRITABLE, ..visitor.key });
        }
        for (id, _) in visitor.offered.into_iter().flat_map(|(_, members)| members) {
            self.abandon(id);
        }
    }

    /// Drops this worker's copy of a connection that is another's; the peer sees nothing of it.
    fn abandon(&mut self, id: ConnectionId) {
        let Some(entry) = self.slab.get(id) else { return };
        if let Some(socket) = entry.socket.take() {
            self.ring.close(socket);
        }
        if !entry.connection.is_ended() {
            entry.connection.leave(&mut self.context);
        }
        entry.connection.close(&mut self.protocol, &mut self.context);
        self.slab.remove(id.slot);
        self.context.page.open.set(self.slab.len() as u64);
    }

    /// Tells the master how far it is: at times, and when it is over for the first time.
    pub(super) fn report_moved(&mut self) {
        let now_ns = self.context.now_ns;
        let is_over = self.moving.is_idle() || !self.moving.is_on;
        let is_due = (is_over && self.moving.is_awaited) || now_ns - self.moving.reported_ns >= REPORT_INTERVAL_NS;
        if !is_due || (self.moving.is_reported && !(is_over && self.moving.is_awaited)) {
            return;
        }
        self.moving.is_reported = true;
        self.moving.is_awaited &= !is_over;
        self.moving.tally.is_over = is_over;
        self.moving.reported_ns = now_ns;
        (self.moving.tally.left, self.moving.tally.ending) = (0, 0);
        for slot in 0..self.slab.slots() {
            let Some(entry) = self.slab.at(slot).filter(|entry| !entry.connection.is_ended()) else { continue };
            let tally = &mut self.moving.tally;
            *if entry.connection.is_ending() { &mut tally.ending } else { &mut tally.left } += 1;
        }
        // The turn itself may have taken long, where the worker's own state was handed over in it.
        self.moving.tally.took_us = (monotonic_ns() - self.moving.began_ns) / 1000;
        let _ = tell(&self.control, &Report::Moved(self.moving.tally.clone()));
    }

    /// No more is brought to others.
    fn end_moving(&mut self) {
        if !std::mem::take(&mut self.moving.is_on) {
            return;
        }
        self.context.draining = true;
        for id in std::mem::take(&mut self.moving.queue) {
            let frozen = self.moving.frozen.remove(&id);
            self.go_on(id, frozen.as_ref());
        }
        for place in 0..self.moving.departures.len() {
            self.lose_departure(place);
        }
    }

    /// The worker stops at once.
    pub(super) fn stop_moving(&mut self) {
        self.end_moving();
        // First of all: what is not this worker's must not be ended by it.
        for place in 0..self.moving.visitors.len() {
            self.lose_visitor(place);
        }
    }
}
