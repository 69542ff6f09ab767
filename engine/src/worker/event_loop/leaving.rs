//! Leaving, as the [`Lifecycle`](crate::worker::lifecycle::Lifecycle) decides: each connection gets the goodbye once,
//! or all stop.

use std::time::Duration;

use super::EventLoop;
use crate::config::Connections;
use crate::connection::Host;
use crate::handover::{receiver, sender};
use crate::protocol::Protocol;
use crate::types::ConnectionId;
use crate::worker::lifecycle::{Facts, Farewell, Want};

impl<P: Protocol> EventLoop<P> {
    /// Begins to drain; see [`Lifecycle::drain`](crate::worker::lifecycle::Lifecycle::drain).
    pub(super) fn drain(&mut self, settle_ms: u64, drain_ms: u64, is_succeeded: Option<bool>) {
        if self.lifecycle.drain(self.context.now_ns, settle_ms, drain_ms, is_succeeded) {
            tracing::debug!(slot = self.context.slot, open = self.slab.len(), "worker drains");
        }
        self.settle_draining();
        self.settle_accepting();
    }

    pub(super) fn drain_or_stop(&mut self) {
        if self.lifecycle.is_leaving() {
            self.stop();
        } else {
            self.drain(0, self.context.timeouts.drain_ms_max, None);
        }
    }

    fn farewell(&self) -> Farewell {
        if self.moving.sender.has_heirs() {
            Farewell::Move
        } else if self.connections == Connections::Wait {
            Farewell::Nothing
        } else {
            Farewell::Goodbye
        }
    }

    /// Shows callbacks at once that the worker leaves, so that answers can say that they are the last.
    fn settle_draining(&mut self) {
        let is_about_to = self.lifecycle.is_leaving() && !self.lifecycle.was_told();
        self.context.draining = self.lifecycle.is_draining() || (is_about_to && self.farewell() == Farewell::Goodbye);
    }

    /// Takes the steps of leaving in this turn.
    pub(super) fn live_on(&mut self) {
        for want in self.lifecycle.turn(self.context.now_ns) {
            match want {
                Want::Tell => self.tell_drain(),
                Want::TellSilent { for_ns } => self.drain_silent(for_ns),
                Want::BeginAnew => self.begin_anew(),
                Want::Stop => {
                    let open = self.slab.len();
                    if open > 0 {
                        tracing::info!(
                            slot = self.context.slot,
                            open,
                            "the time to drain is over; closing the connections that are left"
                        );
                    }
                    self.stop();
                }
            }
        }
        // Includes connections that were accepted since.
        if self.lifecycle.is_stopping() && self.slab.len() > 0 {
            self.stop_connections();
        }
    }

    /// Tells the protocol, or moves connections to others.
    fn tell_drain(&mut self) {
        let farewell = self.farewell();
        self.lifecycle.told(self.context.now_ns, farewell);
        self.end_counting();
        self.settle_draining();
        let connections = if farewell == Farewell::Move { self.idlest_first() } else { Vec::new() };
        self.tell_sender(sender::Input::Leave(connections));
        if farewell != Farewell::Move {
            self.tell_leave();
        }
        if farewell == Farewell::Goodbye {
            self.say_goodbyes();
        }
    }

    fn idlest_first(&mut self) -> Vec<ConnectionId> {
        let mut all = Vec::new();
        for slot in 0..self.slab.slots() {
            if let Some(entry) = self.slab.at(slot).filter(|entry| !entry.is_connecting() && !entry.custody.is_held()) {
                all.push((entry.connection.activity_ns(), entry.connection.id()));
            }
        }
        all.sort_unstable_by_key(|(activity_ns, _)| *activity_ns);
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// Ends moving: the connections that are still here get the goodbye.
    pub(super) fn end_moving(&mut self) {
        if self.lifecycle.end_moving(self.context.now_ns) {
            self.settle_draining();
            self.tell_leave();
            self.say_goodbyes();
        }
    }

    /// Tells every connection that the worker leaves. Those that have sent nothing learn it later.
    fn say_goodbyes(&mut self) {
        self.drain_connections(|is_fresh, _| !is_fresh);
    }

    /// Tells connections that have sent nothing for this long, and plans when the next one is due.
    fn drain_silent(&mut self, for_ns: u64) {
        let since_ns = self.context.now_ns.saturating_sub(for_ns);
        self.drain_connections(|is_fresh, activity_ns| is_fresh && activity_ns <= since_ns);
        let mut next_ns = None;
        for slot in 0..self.slab.slots() {
            let Some(entry) = self.slab.at(slot).filter(|entry| entry.is_fresh && !entry.is_connecting()) else {
                continue;
            };
            let activity_ns = entry.connection.activity_ns();
            if activity_ns > since_ns {
                next_ns = next_ns.into_iter().chain([activity_ns]).min();
            }
        }
        if let Some(activity_ns) = next_ns {
            self.lifecycle.watch_silent(activity_ns);
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_nanos(self.lifecycle.deadline_ns())
    }

    fn drain_connections(&mut self, which: impl Fn(bool, u64) -> bool) {
        let deadline = self.deadline();
        for slot in 0..self.slab.slots() {
            let Some((entry, mut others)) = self.slab.split_at(slot) else { continue };
            if entry.is_connecting() {
                self.cancel_connecting(slot);
            } else if which(entry.is_fresh, entry.connection.activity_ns()) {
                let mut host = Host::new(&mut self.protocol, &mut others);
                entry.connection.drain(&mut host, &mut self.context, deadline);
                self.settle(slot);
            }
        }
    }

    /// Ends everything at once.
    pub(super) fn stop(&mut self) {
        self.lifecycle.stop();
        self.settle_draining();
        // Do this first: the stop must not end connections that do not belong to this worker.
        self.tell_receiver(receiver::Input::Stop);
        self.tell_sender(sender::Input::Stop);
        self.stop_connections();
        self.settle_accepting();
    }

    fn stop_connections(&mut self) {
        for slot in 0..self.slab.slots() {
            let Some(entry) = self.slab.at(slot) else { continue };
            if entry.is_connecting() {
                self.cancel_connecting(slot);
            } else {
                entry.connection.stop(&mut self.context);
            }
            self.settle(slot);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.lifecycle.is_leaving()
            && self.lifecycle.is_done(Facts {
                connections: self.slab.len(),
                listeners: self.listeners.iter().flatten().count(),
                is_accepting: self.is_accepting(),
                is_moving: self.moving.sender.is_on() || !self.moving.receiver.is_alone() || !self.has_told_siblings(),
            })
    }
}
