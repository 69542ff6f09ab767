//! The data path: what arrives, what is sent, and what a connection needs next from the kernel.

use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;

use super::EventLoop;
use super::entry::{Receiving, Watching};
use super::inspecting::closing_ends;
use crate::connection::{Action, Ending, Host, Received, Watch, handshake_error};
use crate::handover::sender;
use crate::protocol::Protocol;
use crate::sys::clock::monotonic_ns;
use crate::sys::payload::Payload;
use crate::sys::ring::{Key, Receipt};
use crate::types::ConnectionId;
use crate::worker::line::Line;

impl<P: Protocol> EventLoop<P> {
    #[inline]
    pub(super) fn received(&mut self, key: Key, received: Receipt) {
        let Receipt { result, lease, more, is_bulk, has_more_input } = received;
        let Some((entry, mut others)) = self.slab.split_key(key) else {
            debug_assert!(false, "a receive outlived its slot");
            return;
        };
        let mut host = Host::new(&mut self.protocol, &mut others);
        entry.receives -= u8::from(!more);
        entry.events = entry.events.wrapping_add(1);
        if entry.receives == 0 {
            entry.receiving = Receiving::No;
        }
        if is_bulk {
            self.line.completed();
        }
        let connection = &mut entry.connection;
        match result {
            1.. => {
                self.context.page.bytes_received.add(result as u64);
                let was_fresh = std::mem::replace(&mut entry.is_fresh, false);
                let lease = lease.expect("received bytes are in a buffer");
                entry.appetite.received(has_more_input, entry.receives > 0);
                if more && entry.receiving == Receiving::Armed && entry.appetite.is_bulk() {
                    entry.receiving = Receiving::Cancelling;
                    self.ring.cancel_receive(key);
                }
                // Buffers for bulk only wait for their sends, which end in the next turn.
                self.context.may_lease = is_bulk || self.may_lend;
                entry.appetite.brought(lease.len());
                let waits = entry.appetite.is_large()
                    && self.lifecycle.is_serving()
                    && Line::is_long(monotonic_ns().saturating_sub(self.context.now_ns));
                connection.receive(&mut host, &mut self.context, Received::Lease(lease), waits);
                if was_fresh && self.lifecycle.was_told() && (self.context.draining || entry.custody.stays()) {
                    let deadline = Duration::from_nanos(self.lifecycle.deadline_ns());
                    connection.drain(&mut host, &mut self.context, deadline);
                }
            }
            0 => connection.receive_end(&mut host, &mut self.context),
            _ => match -result {
                libc::ENOBUFS => {
                    self.context.page.buffers_exhausted.add(1);
                    entry.is_starved = true;
                }
                libc::EAGAIN => entry.appetite.received(false, entry.receives > 0),
                libc::ECANCELED | libc::EINTR => {}
                _ => connection.fail(&mut self.context),
            },
        }
        if entry.is_starved && entry.receives == 0 {
            (entry.is_starved, entry.receiving) = (false, Receiving::Starved);
            self.line.push_starved(entry.connection.id(), entry.appetite);
        }
        self.settle(key.slot);
    }

    #[inline]
    pub(super) fn sent(&mut self, key: Key, result: i32, payload: Payload) {
        let Some((entry, mut others)) = self.slab.split_key(key) else {
            debug_assert!(false, "a send outlived its slot");
            return;
        };
        let mut host = Host::new(&mut self.protocol, &mut others);
        entry.sending = false;
        entry.events = entry.events.wrapping_add(1);
        if entry.appetite.is_bulk() || entry.connection.is_to_run_again() {
            self.line.completed();
        }
        let was_to_close = std::mem::take(&mut entry.closes_with_send);
        match result {
            0.. => {
                self.context.page.bytes_sent.add(result as u64);
                if was_to_close && result as usize == payload.len() {
                    entry.socket = None;
                }
                entry.connection.sent(&mut host, &mut self.context, payload, result as usize);
            }
            _ => match -result {
                // Cancelled because the connection is closed. Otherwise it is moving, or has stayed.
                libc::ECANCELED if entry.socket.is_none() => {
                    entry.connection.send_ended(payload);
                    entry.connection.fail(&mut self.context);
                }
                libc::EAGAIN if !payload.is_shared() && !entry.custody.is_held() && entry.socket.is_some() => {
                    entry.sending = true;
                    let (socket, key) = (entry.socket.as_ref().expect("as above"), entry.key());
                    self.ring.await_room(socket, key, payload);
                }
                libc::EAGAIN | libc::EINTR | libc::ECANCELED => {
                    entry.connection.sent(&mut host, &mut self.context, payload, 0);
                }
                error => entry.connection.send_failed(&mut self.context, payload, error),
            },
        }
        self.settle(key.slot);
    }

    /// The peer of a connection that is not being received from has left. With `more`, the watch continues.
    pub(super) fn left(&mut self, key: Key, result: i32, more: bool) {
        let Some((entry, mut others)) = self.slab.split_key(key) else {
            debug_assert!(false, "a watch outlived its slot");
            return;
        };
        let watching = entry.watching;
        if !more {
            entry.watching = Watching::No;
        }
        if result & i32::from(libc::POLLERR) != 0 && result > 0 {
            entry.connection.fail(&mut self.context);
        } else if result > 0 && watching == Watching::For(Watch::End) {
            let mut host = Host::new(&mut self.protocol, &mut others);
            entry.connection.hang_up(&mut host, &mut self.context);
        }
        self.settle(key.slot);
    }

    /// Adjusts the kernel's operations to what the connection wants, and does the same for connections that its
    /// callbacks acted on.
    #[inline]
    pub(super) fn settle(&mut self, slot: u32) {
        self.settle_own(slot);
        if !self.context.touched.is_empty() {
            self.settle_touched();
        }
    }

    pub(super) fn settle_touched(&mut self) {
        while let Some(slot) = self.context.touched.pop() {
            self.settle_own(slot);
        }
    }

    #[inline]
    fn settle_own(&mut self, slot: u32) {
        let Some(entry) = self.slab.at(slot) else { return };
        let held_bytes = entry.bytes_to_hold();
        if held_bytes != entry.held_bytes {
            self.budget.change(entry.held_bytes.into(), held_bytes.into());
            entry.held_bytes = held_bytes;
        }
        match entry.connection.next_action(&mut self.context) {
            Action::Nothing => {}
            Action::Announced(header) => {
                let id = entry.connection.id();
                return self.announced(id, header);
            }
            Action::Open => {
                let id = entry.connection.id();
                return self.secured(id);
            }
            Action::ShutdownWrite => {
                let socket = entry.socket.as_ref().expect("open until it ended");
                if SockRef::from(socket).shutdown(Shutdown::Write).is_err() {
                    entry.connection.fail(&mut self.context);
                    return self.settle_own(slot);
                }
            }
            Action::Close { reset } => return self.close(slot, reset),
        }
        if entry.custody.is_held() {
            return self.settle_held(slot);
        }
        let is_paused = self.budget.pauses(held_bytes.into());
        if is_paused && !entry.is_paused && entry.connection.wants_input() {
            entry.is_paused = true;
            let id = entry.connection.id();
            self.pause(id);
            return self.settle_own(slot);
        }
        if !is_paused && entry.connection.wants_input() {
            if entry.receiving == Receiving::No {
                // A connection that sends faster than it is received has one receive at a time, and waits in line for
                // it.
                let is_bulk = entry.appetite.is_bulk();
                if is_bulk && entry.appetite.has_more() {
                    if !entry.connection.is_to_run_again() {
                        entry.receiving = Receiving::InLine;
                        self.line.push_receive(entry.connection.id());
                    }
                } else {
                    (entry.receiving, entry.receives) = (Receiving::Armed, 1);
                    let key = entry.key();
                    let socket = entry.socket.as_ref().expect("open until it ended");
                    if entry.is_fresh || is_bulk {
                        self.ring.receive_once(socket, key);
                    } else {
                        self.ring.receive(socket, key);
                    }
                }
            }
        } else if entry.receiving == Receiving::Armed {
            entry.receiving = Receiving::Cancelling;
            let key = entry.key();
            self.ring.cancel_receive(key);
        }
        let wanted = entry.connection.wants_watch();
        if wanted.is_some() || entry.watching != Watching::No {
            self.settle_watch(slot, wanted);
        }
        let Some(entry) = self.slab.at(slot) else { return };
        if !entry.is_dirty && entry.connection.wants_output() {
            entry.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    #[cold]
    fn settle_watch(&mut self, slot: u32, wanted: Option<Watch>) {
        let Some(entry) = self.slab.at(slot) else { return };
        let key = entry.key();
        match (entry.watching, wanted) {
            (Watching::No, Some(watch)) => {
                entry.watching = Watching::For(watch);
                let socket = entry.socket.as_ref().expect("open until it ended");
                // A watch for a reset reports an earlier FIN at once. It must stay armed, or the loop would spin.
                self.ring.watch(socket, key, watch == Watch::Reset);
            }
            (Watching::For(watch), wanted) if wanted != Some(watch) => {
                entry.watching = Watching::Cancelling;
                self.ring.cancel_watch(key);
            }
            _ => {}
        }
    }

    /// Arms the receives whose turn it is. Returns whether more wait that could be served at once.
    pub(super) fn serve_line(&mut self) -> bool {
        self.line.begin_turn();
        let mut free = if self.line.has_starved() { self.ring.buffers().available() } else { 0 };
        while free > 0
            && let Some(id) = self.line.next_starved()
        {
            free -= usize::from(self.arm_in_turn(id, Receiving::Starved));
        }
        let mut free_bulk = if self.line.has_receives() { self.ring.bulk_buffers().available() } else { 0 };
        while free_bulk > 0
            && let Some(id) = self.line.next_receive()
        {
            free_bulk -= usize::from(self.arm_in_turn(id, Receiving::InLine));
        }
        let is_hurried = free > 0 && self.line.has_starved() || free_bulk > 0 && self.line.has_receives();
        is_hurried || self.line.has_reruns()
    }

    /// Arms a receive whose turn it is, if it still waits. Returns whether it was armed.
    fn arm_in_turn(&mut self, id: ConnectionId, waits_as: Receiving) -> bool {
        let Some(entry) = self.slab.get(id).filter(|entry| entry.receiving == waits_as) else { return false };
        let is_paused = self.budget.pauses(entry.held_bytes.into());
        if is_paused || entry.custody.is_held() || !entry.connection.wants_input() {
            entry.receiving = Receiving::No;
            self.settle(id.slot);
            return false;
        }
        (entry.receiving, entry.receives) = (Receiving::Armed, 1);
        let key = entry.key();
        let socket = entry.socket.as_ref().expect("open until it ended");
        if waits_as == Receiving::InLine {
            self.ring.receive_bulk(socket, key);
        } else {
            self.ring.receive_once(socket, key);
        }
        true
    }

    /// The only place where connections are closed.
    pub(super) fn close(&mut self, slot: u32, reset: bool) {
        let entry = self.slab.at(slot).expect("only living connections are closed");
        if let Some(socket) = entry.socket.take() {
            let key = entry.key();
            if reset {
                let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
            if let Watching::For(_) = entry.watching {
                entry.watching = Watching::Cancelling;
                self.ring.cancel_watch(key);
            }
            if entry.sending {
                self.ring.cancel_socket(&socket);
            } else if entry.receiving == Receiving::Armed {
                self.ring.cancel_receive(key);
            }
            // Operations that are still armed hold the file, not the descriptor. The peer sees the end when the last of
            // them completes, within the same system call.
            self.ring.close(socket);
        }
        let entry = self.slab.at(slot).expect("as above");
        if entry.receiving.is_in_flight() || entry.sending || entry.is_dirty || entry.watching != Watching::No {
            return;
        }
        if !self.closings.is_empty() {
            closing_ends(&mut self.closings, &mut entry.connection);
        }
        let unopened = entry.connection.take_token();
        let ending = entry.connection.close(&mut self.context);
        let (reason, id, was_held) = (entry.connection.reason(), entry.connection.id(), entry.custody.is_held());
        self.budget.change(entry.held_bytes.into(), 0);
        self.slab.remove(slot);
        self.forget_proxy(id);
        self.context.page.closed[reason as usize].add(1);
        self.context.page.open.set(self.slab.len() as u64);
        self.closed(ending);
        if let Some(token) = unopened {
            self.connect_failed(token, handshake_error(reason));
        }
        if was_held {
            self.tell_sender(sender::Input::Gone(id));
        }
    }

    /// Tells the protocol that a connection is gone, if it ever had it.
    pub(super) fn closed(&mut self, ending: Option<(P::Connection, Ending)>) {
        if let Some((state, ending)) = ending {
            self.call(|protocol, worker| protocol.on_close(state, ending.closed(), worker));
        }
    }

    pub(super) fn forget_proxy(&mut self, id: ConnectionId) {
        if !self.proxied.is_empty() {
            self.proxied.remove(&id);
        }
    }

    pub(super) fn send_dirty(&mut self) {
        for index in 0..self.dirty.len() {
            let slot = self.dirty[index];
            let Some(entry) = self.slab.at(slot) else { continue };
            entry.is_dirty = false;
            if entry.custody.is_held() && entry.socket.is_some() {
                continue;
            }
            if let Some(socket) = &entry.socket {
                if let Some(payload) = entry.connection.begin_send(&mut self.context) {
                    let key = entry.key();
                    entry.sending = true;
                    let is_last = payload.is_shared() && entry.connection.ends_with_send(&payload);
                    if is_last && entry.receiving == Receiving::No && entry.watching == Watching::No {
                        entry.closes_with_send = true;
                        self.ring.send_and_close(socket, key, payload);
                    } else {
                        self.ring.send(socket, key, payload);
                    }
                }
            } else {
                self.settle(slot);
            }
        }
        self.dirty.clear();
    }
}
