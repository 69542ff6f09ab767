//! Some connections move to another worker while this one serves. The master names the receiver and the amount. This
//! worker counts for a moment what each connection does, and chooses.

use std::os::fd::OwnedFd;

use super::EventLoop;
use super::arrivals::seconds;
use super::entry::Entry;
use crate::handover::balance::Portion;
use crate::handover::balance::choice::{self, Candidate, Chosen, Count};
use crate::handover::custody::Stage;
use crate::handover::sender::{Given, Heir, Input, Tally};
use crate::ipc::channel::tell;
use crate::ipc::control::Pause;
use crate::ipc::orders::{Rebalanced, Report};
use crate::protocol::Protocol;
use crate::worker::inspection::Noted;

/// The shortest time for which events are counted: some hundred events for a worker that is worth helping.
const COUNT_MS: u64 = 250;

/// A count that began longer ago is outdated, and begins anew.
const COUNTED_MS_MAX: u64 = 2_000;

/// What the master asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) portion: Portion,
    pub(super) connections_max: usize,
    /// Connections that arrived within this time stay.
    pub(super) rest_ms: u64,
}

/// The wish, until the counts are complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counting {
    heir: Heir,
    wish: Wish,
    until_ns: u64,
}

impl<P: Protocol> EventLoop<P> {
    pub(super) fn begin_giving(&mut self, name: String, door: Option<OwnedFd>, wish: &Wish) {
        let can_give = self.lifecycle.is_serving() && !self.moving.gives() && self.moving.sender.can_give();
        let Some(door) = door.filter(|_| can_give) else { return self.report_given(&Given::default()) };
        self.moving.forget_doors();
        let heir = self.moving.heir(name, door);
        if self.context.now_ns.saturating_sub(self.moving.noted_at_ns) > COUNTED_MS_MAX * 1_000_000 {
            self.count_anew();
        }
        let from_ns = self.moving.noted_at_ns;
        self.moving.counting = Some(Counting { heir, wish: *wish, until_ns: from_ns + COUNT_MS * 1_000_000 });
        self.give_on();
    }

    /// Begins to count ahead of an order: the master may soon order this worker to give connections.
    pub(super) fn count_ahead(&mut self) {
        if !self.moving.gives() {
            self.count_anew();
        }
    }

    fn count_anew(&mut self) {
        self.moving.noted = Noted::default();
        for slot in 0..self.slab.slots() {
            self.moving.noted.push(self.slab.at(slot).map(|entry| (entry.connection.id(), entry.events)));
        }
        self.moving.noted_at_ns = self.context.now_ns;
    }

    /// Handles the master's order to stop giving.
    pub(super) fn end_giving(&mut self) {
        self.end_counting();
        self.tell_sender(Input::EndGiving);
    }

    pub(super) fn end_counting(&mut self) {
        if self.moving.counting.take().is_some() {
            self.report_given(&Given::default());
        }
    }

    /// Takes the steps that are due in this turn.
    pub(super) fn give_on(&mut self) {
        let now_ns = self.context.now_ns;
        if let Some(Counting { heir, wish, .. }) = self.moving.counting.take_if(|one| one.until_ns <= now_ns) {
            let Chosen { connections, share_ppm } = self.choose(&wish);
            self.moving.chosen_ppm = share_ppm;
            if connections.is_empty() {
                self.report_given(&Given::default());
            } else {
                self.tell_sender(Input::Give { heir, connections });
            }
        }
        self.send_on();
    }

    pub(super) fn next_giving_ns(&self) -> Option<u64> {
        let counting = self.moving.counting.map(|counting| counting.until_ns);
        counting.into_iter().chain(self.moving.sender.next_ns()).chain(self.next_visit_ns()).min()
    }

    fn choose(&mut self, wish: &Wish) -> Chosen {
        let rests_s = u32::try_from(wish.rest_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        let now_s = seconds(self.context.now_ns);
        let mut candidates = Vec::new();
        let until_ns = self.context.now_ns;
        let mut count = Count { from_ns: self.moving.noted_at_ns, until_ns, events: 0 };
        for slot in 0..self.slab.slots() {
            let noted = &self.moving.noted;
            let since = |entry: &mut Entry<P::Connection>| noted.since(entry.connection.id(), entry.events);
            count.events += self.slab.at(slot).map_or(0, |entry| u64::from(since(entry)));
            let Some(mut candidate) = self.candidate(slot, now_s, rests_s) else { continue };
            if let Some(partner) = candidate.partner {
                // A pair counts once, and moves if both connections may move.
                let other = (slot < partner.slot).then(|| self.candidate(partner.slot, now_s, rests_s)).flatten();
                let Some(other) = other else { continue };
                candidate.events += other.events;
                candidate.activity_ns = candidate.activity_ns.max(other.activity_ns);
            }
            candidates.push(candidate);
        }
        match wish.portion {
            Portion::Busy { share_ppm, limit_ppm } => {
                choice::busy(candidates, &count, share_ppm, limit_ppm, wish.connections_max)
            }
            Portion::Idlest { limit_ppm } => choice::idlest(candidates, &count, limit_ppm, wish.connections_max),
        }
    }

    /// A connection that may move now.
    fn candidate(&mut self, slot: u32, now_s: u32, rests_s: u32) -> Option<Candidate> {
        let entry = self.slab.at(slot)?;
        let connection = &entry.connection;
        let rests = entry.came_s != 0 && now_s.saturating_sub(entry.came_s) < rests_s;
        let is_fit = entry.custody.stage() == Stage::Ours && connection.is_open() && !entry.is_connecting() && !rests;
        is_fit.then(|| Candidate {
            id: connection.id(),
            partner: self.context.pairs.of(connection.id()),
            events: self.moving.noted.since(connection.id(), entry.events).into(),
            activity_ns: connection.activity_ns(),
        })
    }

    /// Reports to the master what this worker gave to another while it serves.
    pub(super) fn report_given(&mut self, given: &Given) {
        let Given { tally, pauses_ns } = given;
        let mut pauses_us: Vec<u64> = pauses_ns.iter().map(|pause_ns| pause_ns / 1000).collect();
        pauses_us.sort_unstable();
        let quantile = |percent: usize| pauses_us.get((pauses_us.len() * percent / 100).min(pauses_us.len() - 1));
        let pause = (!pauses_us.is_empty()).then(|| Pause {
            median_us: quantile(50).copied().unwrap_or(0),
            p99_us: quantile(99).copied().unwrap_or(0),
            max_us: quantile(100).copied().unwrap_or(0),
        });
        let share_ppm = std::mem::take(&mut self.moving.chosen_ppm);
        let Tally { moved, refused, bytes, .. } = tally.clone();
        let report = Rebalanced { moved, refused, bytes, share_ppm, pause };
        let _ = tell(&self.control, &Report::Rebalanced(report));
    }
}
