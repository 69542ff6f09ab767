//! Accepts connections: in bursts, one at a time, or not at all. Ends listeners.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::entry::Entry;
use super::{ACCEPT_PAUSE_MS_MIN, EventLoop};
use crate::connection::Host;
use crate::context::Alarm;
use crate::ipc::channel::tell;
use crate::ipc::orders::Report;
use crate::protocol::Protocol;
use crate::sys::ring::{Key, Socket};
use crate::types::ConnectionId;
use crate::worker::listener::{Accepting, Listener};
use crate::worker::load::Load;

/// Longest pause after accepting failed because descriptors or memory ran out.
const ACCEPT_PAUSE_MS_MAX: u64 = 1000;

impl<P: Protocol> EventLoop<P> {
    pub(super) fn accepted(&mut self, key: Key, result: Result<Socket, i32>, more: bool) {
        let listener = self.listeners[key.slot as usize].as_mut();
        let is_steered = listener.as_ref().is_some_and(|listener| !listener.is_shared());
        if let Some(listener) = listener.filter(|_| !more) {
            listener.accepting = Accepting::No;
        }
        match result {
            Ok(socket) => {
                self.accept_pause_ms = ACCEPT_PAUSE_MS_MIN;
                self.context.page.accepted.add(1);
                self.load.iter_mut().filter(|_| is_steered).for_each(Load::arrived);
                self.open(socket, None);
            }
            Err(libc::ECANCELED) => {}
            Err(errno) => self.accept_failed(key.slot as usize, errno),
        }
    }

    fn accept_failed(&mut self, listener: usize, errno: i32) {
        self.context.page.accept_errors.add(1);
        let out_of_resources = matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM);
        if out_of_resources || !matches!(errno, libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO) {
            self.pause_accepting(self.accept_pause_ms);
            self.accept_pause_ms = (self.accept_pause_ms * 2).min(ACCEPT_PAUSE_MS_MAX);
            self.log_at_times(|slot, context| {
                let advice = if out_of_resources {
                    " until connections end; raise the limit of open files (ulimit -n)"
                } else {
                    ""
                };
                tracing::warn!(
                    slot,
                    open = context.page.open.get(),
                    "accepting failed: {}; pausing{advice}",
                    io::Error::from_raw_os_error(errno)
                );
            });
        } else {
            tracing::debug!(listener, errno, "a connection was gone before it was accepted");
        }
    }

    fn pause_accepting(&mut self, ms: u64) {
        if !self.accept_paused {
            self.accept_paused = true;
            self.context.page.accept_pauses.add(1);
            let deadline_ns = self.context.now_ns + ms * 1_000_000;
            self.context.timers.set(deadline_ns, Alarm::Accept);
        }
    }

    /// Accepts while there is room: in bursts while a whole backlog fits, one at a time near the limit. At the limit,
    /// it accepts one at a time while an idle connection can make room, else not at all. The backlog then holds clients
    /// back, and none is refused.
    pub(super) fn settle_accepting(&mut self) {
        let room = self.sizing.connections_max.saturating_sub(self.slab.len() as u32);
        let is_leaving = self.lifecycle.has_settled();
        // A connection that makes room may take a moment to end.
        let is_over = self.slab.len() as u32 > self.sizing.connections_max;
        let is_full = room == 0 && (is_over || (self.lifecycle.accepts() && self.idlest().is_none()));
        let wanted = if is_full || !self.lifecycle.accepts() || self.accept_paused {
            Accepting::No
        } else if room > self.burst() {
            Accepting::Many
        } else {
            Accepting::One
        };
        let mut released = Vec::new();
        let was_at_limit = std::mem::replace(&mut self.at_limit, is_full);
        if self.at_limit && !was_at_limit && !is_leaving {
            self.context.page.accept_pauses.add(1);
            let limit = self.sizing.connections_max;
            self.log_at_times(|slot, _| tracing::warn!(slot, limit, "connection limit reached; accepting pauses"));
        }
        for (place, slot) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = slot else { continue };
            if listener.is_released && listener.accepting == Accepting::No {
                released.extend(slot.take());
                continue;
            }
            let wanted = match wanted {
                // Others accept from a shared listener: it needs no time to settle.
                _ if listener.is_released || listener.is_shared() && self.lifecycle.is_leaving() => Accepting::No,
                Accepting::Many if listener.is_shared() => Accepting::One,
                wanted => wanted,
            };
            let key = Key { slot: place as u32, generation: 0 };
            match (listener.accepting, wanted) {
                (Accepting::No, Accepting::One | Accepting::Many) => {
                    listener.accepting = wanted;
                    self.ring.accept(listener.socket.as_fd(), key, wanted == Accepting::Many);
                }
                (Accepting::Many, Accepting::No | Accepting::One) | (Accepting::One, Accepting::No) => {
                    listener.accepting = Accepting::Cancelling;
                    self.ring.cancel_accept(key);
                }
                _ => {}
            }
        }
        self.release(released);
        if is_leaving && !self.listeners.is_empty() && !self.is_accepting() {
            self.close_listeners();
        }
    }

    /// Ends all accepts. [`Self::settle_accepting`] begins them again, which accepts connections whose arrival woke
    /// another process.
    pub(super) fn accept_anew(&mut self) {
        for (listener, place) in self.listeners.iter_mut().zip(0..) {
            if let Some(listener) =
                listener.as_mut().filter(|one| matches!(one.accepting, Accepting::One | Accepting::Many))
            {
                listener.accepting = Accepting::Cancelling;
                self.ring.cancel_accept(Key { slot: place, generation: 0 });
            }
        }
    }

    /// Reports this worker's load to the steering program.
    #[inline]
    pub(super) fn settle_load(&mut self) {
        if let Some(load) = &mut self.load {
            let accepts = self.lifecycle.accepts() && !self.accept_paused && !self.at_limit;
            load.settle(self.slab.len() as u64, accepts, self.context.now_ns);
        }
    }

    /// The connection that makes room for the next one.
    fn idlest(&mut self) -> Option<ConnectionId> {
        let now_ns = self.context.now_ns;
        let is_idle = |entry: &Entry<P::Connection>| !entry.custody.is_held() && entry.connection.is_idle();
        if self.idlest.wants_look(now_ns) {
            let mut idle = Vec::new();
            for slot in 0..self.slab.slots() {
                if let Some(entry) = self.slab.at(slot).filter(|entry| is_idle(entry) && !entry.is_connecting()) {
                    idle.push((entry.connection.activity_ns(), entry.connection.id()));
                }
            }
            if let Some(next_ns) = self.idlest.found(idle, now_ns) {
                // Only to wake the loop at that time.
                self.context.timers.set(next_ns, Alarm::Look);
            }
        }
        let slab = &self.slab;
        self.idlest.first(|(activity_ns, id)| {
            slab.peek(id).is_some_and(|entry| is_idle(entry) && entry.connection.activity_ns() == activity_ns)
        })
    }

    /// While more connections are open than the limit allows, ends the one that has been idle longest and that the
    /// protocol does not keep.
    pub(super) fn make_room(&mut self) {
        while let Some(id) = self.idlest() {
            let Some((entry, mut others)) = self.slab.split(id) else { return };
            let mut host = Host::new(&mut self.protocol, &mut others);
            let has_ended = entry.connection.make_room(&mut host, &mut self.context);
            self.settle(id.slot);
            if has_ended {
                let limit = self.sizing.connections_max;
                self.log_at_times(|slot, _| {
                    tracing::warn!(slot, limit, "connection limit reached; the longest idle connections make room");
                });
                return;
            }
        }
    }

    /// The most connections that the accepts in flight can bring before they can be cancelled.
    fn burst(&self) -> u32 {
        self.sizing.backlog.saturating_mul(self.listeners.iter().flatten().count() as u32)
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.listeners.iter().flatten().any(|listener| listener.accepting != Accepting::No)
    }

    /// Adds a listener.
    pub(super) fn add_listener(&mut self, listener: Listener) {
        match self.listeners.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(listener),
            None => self.listeners.push(Some(listener)),
        }
    }

    fn close_listeners(&mut self) {
        let listeners = std::mem::take(&mut self.listeners).into_iter().flatten();
        if self.lifecycle.is_succeeded() {
            self.release(listeners.collect());
        } else {
            // A shared socket belongs to others too, whichever worker leaves.
            let (shared, own): (Vec<_>, Vec<_>) = listeners.partition(Listener::is_shared);
            self.release(shared);
            let mut taken = Vec::new();
            own.into_iter().for_each(|listener| listener.close(|socket| taken.push(socket)));
            self.take_in(taken);
        }
        let _ = tell(&self.control, &Report::Closed);
    }

    fn release(&mut self, listeners: Vec<Listener>) {
        let mut taken = Vec::new();
        for listener in listeners {
            listener.release(&mut self.acceptor, self.sizing.queue_max, |socket| taken.push(socket));
        }
        self.take_in(taken);
    }

    fn take_in(&mut self, sockets: Vec<socket2::Socket>) {
        for socket in sockets {
            self.context.page.accepted.add(1);
            self.open(Socket::from(OwnedFd::from(socket)), None);
        }
    }
}
