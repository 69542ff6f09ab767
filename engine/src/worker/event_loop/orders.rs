//! What a worker is told: by its master, by a signal, or by its master's end; and leaving.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::{CONTROL, EventLoop, Leaving, Master};
use crate::config::Connections;
use crate::context::Alarm;
use crate::ipc::channel::{Heard, hear_with, tell, tell_with};
use crate::ipc::orders::{Order, Report};
use crate::ipc::rendezvous::Rendezvous;
use crate::protocol::Protocol;
use crate::sys::ring::Ring;
use crate::worker::listener::Listener;

/// How long a connection that has sent nothing yet is waited for once the worker drains: its first request may be on
/// its way, perhaps sent for the third time, and whoever was let in is answered. Half of the drain's time at most.
const FIRST_INPUT_MS_MAX: u64 = 3000;

impl<P: Protocol> EventLoop<P> {
    pub(super) fn hear_orders(&mut self, more: bool) {
        loop {
            match hear_with(&self.control) {
                Ok((Heard::Message(order), descriptor)) => self.obey(order, descriptor),
                Ok((Heard::Nothing, _)) => break,
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                    tracing::warn!(slot = self.context.slot, %error, "an order this worker does not know is ignored");
                }
                // The poll would fire for ever; it ends with the ring.
                Ok((Heard::End, _)) | Err(_) => return self.lose_master(),
            }
        }
        if !more {
            self.ring.poll(self.control.as_fd(), CONTROL);
        }
    }

    fn obey(&mut self, order: Order, descriptor: Option<OwnedFd>) {
        match order {
            Order::Drain { settle_ms, drain_ms, is_succeeded } => {
                self.is_succeeded = is_succeeded;
                self.drain(settle_ms, drain_ms);
            }
            Order::Heirs { names } => self.hear_heirs(names),
            Order::Take => {
                // First, so that the master's copy does not keep a connection open that ends at once.
                let _ = tell(&self.control, &Report::Taken);
                if let Some(connection) = descriptor {
                    self.context.page.accepted.add(1);
                    self.open(Ring::adopt(connection), None);
                }
            }
            Order::Adopt { listener, address } => {
                // The copy of one that leaves is of no use.
                if let Some(socket) = descriptor.filter(|_| self.drain_deadline_ns.is_none()) {
                    self.add_listener(Listener::new(listener, socket.into(), address));
                }
            }
            Order::Release { listener } => {
                self.listeners.iter_mut().flatten().filter(|one| one.id == listener).for_each(|one| {
                    one.is_released = true;
                });
            }
            Order::Share => {
                for listener in self.listeners.iter().flatten() {
                    let report = Report::Listener { address: listener.address };
                    if let Err(error) = tell_with(&self.control, &report, listener.socket.as_fd()) {
                        tracing::warn!(slot = self.context.slot, %error, "could not share a listen socket");
                    }
                }
            }
            Order::Serve => self.end_awaiting(false),
            // That it was heard is all.
            Order::Ping => {}
            Order::Stop => self.stop(),
        }
    }

    /// Nobody is left to give orders: serve on where another master can find this worker, else leave in good order.
    fn lose_master(&mut self) {
        if std::mem::replace(&mut self.master, Master::Gone) == Master::Gone {
            return;
        }
        if self.rendezvous.is_none() || self.drain_deadline_ns.is_some() {
            return self.drain(0, self.context.timeouts.drain_ms_max);
        }
        tracing::warn!(slot = self.context.slot, "the master is gone; this worker serves on until another takes over");
        self.meet_master();
    }

    /// Takes orders from a master that has come, if the one before is gone; else it has to wait.
    pub(super) fn meet_master(&mut self) {
        let came = self.rendezvous.as_ref().filter(|_| self.master == Master::Gone).and_then(Rendezvous::accept);
        let Some(control) = came else { return };
        self.control = control;
        self.master = Master::Present;
        self.ring.poll(self.control.as_fd(), CONTROL);
        let (generation, slot, addresses) = (self.generation, self.context.slot, self.addresses());
        let listeners = self.listeners.iter().flatten().count();
        let report = Report::Orphan { generation, slot, addresses, listeners };
        if let Err(error) = tell(&self.control, &report) {
            tracing::warn!(slot = self.context.slot, %error, "could not report to the new master");
        }
    }

    pub(super) fn drain_or_stop(&mut self) {
        if self.drain_deadline_ns.is_some() { self.stop() } else { self.drain(0, self.context.timeouts.drain_ms_max) }
    }

    /// Leaves; listeners stay open so long, for handshakes under way, and connections from then on. Said again, it ends
    /// the settling, or shortens the time.
    pub(super) fn drain(&mut self, settle_ms: u64, drain_ms: u64) {
        self.is_settled |= settle_ms == 0;
        let now_ns = self.context.now_ns;
        let deadline_ns = now_ns.saturating_add(settle_ms.saturating_add(drain_ms).saturating_mul(1_000_000));
        let is_first = self.drain_deadline_ns.is_none();
        self.first_input_ns = FIRST_INPUT_MS_MAX.min(drain_ms / 2) * 1_000_000;
        if self.drain_deadline_ns.is_none_or(|before_ns| deadline_ns < before_ns) {
            self.drain_deadline_ns = Some(deadline_ns);
            self.context.timers.set(deadline_ns, Alarm::Drain);
        }
        if is_first {
            if !self.is_settled {
                self.context.timers.set(now_ns + settle_ms * 1_000_000, Alarm::Settled);
            }
            self.context.draining = self.connections != Connections::Wait && !self.has_heirs();
            self.leaving = Leaving::Asked;
            tracing::debug!(slot = self.context.slot, open = self.slab.len(), "worker drains");
        }
        self.settle_accepting();
    }

    /// The drain's time is over.
    pub(super) fn end_drain(&mut self) {
        if self.slab.len() > 0 && !self.stopping {
            tracing::info!(slot = self.context.slot, open = self.slab.len(), "the drain's time is over");
        }
        self.stop();
    }

    /// Whoever has sent nothing all the while is told now.
    pub(super) fn drain_silent(&mut self) {
        let since_ns = self.context.now_ns.saturating_sub(self.first_input_ns);
        self.drain_connections(|is_fresh, activity_ns| is_fresh && activity_ns <= since_ns);
    }

    /// Tells the protocol, connection by connection; of those that have sent nothing, when they have, or a while later.
    pub(super) fn tell_drain(&mut self) {
        self.leaving = Leaving::Told;
        if !self.begin_moving() {
            if self.connections != Connections::Wait {
                self.say_goodbyes();
            }
            self.report_moved();
        }
    }

    /// Tells every connection that the worker leaves.
    pub(super) fn say_goodbyes(&mut self) {
        self.context.draining = true;
        self.drain_connections(|is_fresh, _| !is_fresh);
        self.watch_first_input();
    }

    pub(super) fn watch_first_input(&mut self) {
        let deadline_ns = self.context.now_ns + self.first_input_ns;
        self.context.timers.set(deadline_ns, Alarm::FirstInput);
    }

    fn drain_connections(&mut self, which: impl Fn(bool, u64) -> bool) {
        let deadline = Duration::from_nanos(self.drain_deadline_ns.unwrap_or_default());
        for slot in 0..self.slab.slots() {
            let Some(entry) = self.slab.at(slot) else { continue };
            if entry.connecting.is_some() {
                if let Some(socket) = &entry.socket {
                    self.ring.cancel_socket(socket);
                }
            } else if which(entry.is_fresh, entry.connection.activity_ns()) {
                entry.connection.drain(&mut self.protocol, &mut self.context, deadline);
                self.settle(slot);
            }
        }
    }

    pub(super) fn stop(&mut self) {
        self.drain(0, 0);
        self.leaving = Leaving::Told;
        self.stopping = true;
        self.stop_moving();
        for slot in 0..self.slab.slots() {
            if let Some(entry) = self.slab.at(slot) {
                if entry.connecting.is_none() {
                    entry.connection.stop(&mut self.context);
                } else if let Some(socket) = &entry.socket {
                    self.ring.cancel_socket(socket);
                }
                self.settle(slot);
            }
        }
    }
}
