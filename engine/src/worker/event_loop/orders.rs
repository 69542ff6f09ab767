//! The master's orders to a worker, and what the worker does when its master is gone.

use std::os::fd::{AsFd, OwnedFd};

use super::giving::Wish;
use super::polls::CONTROL;
use super::{EventLoop, Master};
use crate::endpoint::Endpoint;
use crate::ipc::channel::{Heard, hear_with_all, is_nonsense, tell, tell_with};
use crate::ipc::control::CONNECTIONS_LISTED_MAX;
use crate::ipc::descriptors;
use crate::ipc::orders::{Order, Report};
use crate::ipc::rendezvous::peer_process;
use crate::protocol::Protocol;
use crate::types::ConnectionId;
use crate::worker::listener::Listener;

impl<P: Protocol> EventLoop<P> {
    pub(super) fn hear_orders(&mut self, more: bool) {
        loop {
            match hear_with_all(&self.control) {
                Ok((Heard::Message(order), descriptors)) => self.obey(order, descriptors),
                Ok((Heard::Nothing, _)) => break,
                Err(error) if is_nonsense(&error) => {
                    tracing::warn!(slot = self.context.slot, %error, "ignored an order that this worker does not know");
                }
                // Without this the poll would fire forever. It ends with the ring.
                Ok((Heard::End, _)) | Err(_) => return self.lose_master(),
            }
        }
        if !more {
            self.ring.poll(self.control.as_fd(), CONTROL);
        }
    }

    fn obey(&mut self, order: Order, mut descriptors: Vec<OwnedFd>) {
        match order {
            Order::Drain { settle_ms, drain_ms, is_succeeded } => {
                self.drain(settle_ms, drain_ms, Some(is_succeeded));
            }
            Order::Heirs { names } => self.hear_heirs(names, descriptors),
            Order::Rebalance { heir, portion, connections_max, rest_ms } => {
                let wish = Wish { portion, connections_max: connections_max as usize, rest_ms };
                self.begin_giving(heir, descriptors.pop(), &wish);
            }
            Order::Count => self.count_ahead(),
            Order::EndRebalance => self.end_giving(),
            Order::Gather => self.begin_gathering(),
            Order::Siblings { members } => self.hear_siblings(members, descriptors),
            Order::Take => {
                // Report it first, so that the master's copy does not keep a connection open that ends at once.
                let _ = tell(&self.control, &Report::Taken);
                match descriptors.pop().map(descriptors::connection) {
                    Some(Ok(connection)) => {
                        self.context.page.accepted.add(1);
                        self.open(connection.into(), None);
                    }
                    Some(Err(unfit)) => {
                        tracing::warn!(slot = self.context.slot, %unfit, "refused a connection from the master");
                    }
                    None => {}
                }
            }
            Order::Adopt { listener, address } => {
                // A leaving worker has no use for the copy.
                let socket = descriptors.pop().filter(|_| !self.lifecycle.is_leaving());
                match socket.map(|socket| descriptors::bound(socket, address)) {
                    Some(Ok(socket)) => self.add_listener(Listener::new(listener, socket, address)),
                    Some(Err(unfit)) => {
                        tracing::warn!(slot = self.context.slot, %address, %unfit, "refused a listen socket from the master");
                    }
                    None => {}
                }
            }
            Order::Release { listener } => {
                self.listeners.iter_mut().flatten().filter(|one| one.id == listener).for_each(|one| {
                    one.is_released = true;
                });
            }
            Order::Share { internet, unix } => {
                let is_asked = |listener: &&Listener| if listener.is_shared() { unix } else { internet };
                for listener in self.listeners.iter().flatten().filter(is_asked) {
                    let report = Report::Listener { address: listener.address };
                    if let Err(error) = tell_with(&self.control, &report, listener.socket.as_fd()) {
                        tracing::warn!(slot = self.context.slot, %error, "cannot share a listen socket");
                    }
                }
            }
            Order::Serve => {
                if self.lifecycle.awaits_state() {
                    self.lifecycle.end_awaiting();
                    self.begin_anew();
                }
            }
            Order::AccessLog => {
                if let (Some(log), Some(descriptor)) = (&self.context.access_log, descriptors.pop()) {
                    log.replace(descriptor);
                }
            }
            Order::List { question, first, limit } => {
                self.questions.ask(question, first, limit.min(CONNECTIONS_LISTED_MAX));
            }
            Order::ListMore { question } => self.list_more(question),
            Order::EndConnection { question, slot, generation, now, drain_ms } => {
                self.end_connection(question, ConnectionId { slot, generation }, now, drain_ms);
            }
            // The order has woken the loop; that is its purpose.
            Order::Ping => {}
            Order::Look => self.accept_anew(),
            Order::Stop => self.stop(),
            Order::Unknown => {
                tracing::warn!(slot = self.context.slot, "ignored an order of a later version");
            }
        }
    }

    /// No master gives orders any more: serve on if another master can find this worker, else drain.
    fn lose_master(&mut self) {
        if std::mem::replace(&mut self.master, Master::Gone) == Master::Gone {
            return;
        }
        if self.rendezvous.is_none() || self.lifecycle.is_leaving() {
            return self.drain(0, self.context.timeouts.drain_ms_max, None);
        }
        tracing::warn!(
            slot = self.context.slot,
            "the master is gone; this worker keeps serving until another master takes over"
        );
        self.meet_master();
    }

    /// Takes orders from a new master if the previous one is gone. Otherwise the new one has to wait.
    pub(super) fn meet_master(&mut self) {
        let Some(rendezvous) = &mut self.rendezvous else { return };
        if self.master == Master::Present {
            return rendezvous.let_in();
        }
        let Some(control) = rendezvous.next() else { return };
        // A channel records which process made it, whether that process still lives or not.
        let master = peer_process(&self.control);
        self.control = control;
        self.master = Master::Present;
        self.ring.poll(self.control.as_fd(), CONTROL);
        let (generation, slot, addresses) = (self.generation, self.context.slot, self.addresses());
        let all = self.listeners.iter().flatten().count();
        let unix_listeners = self.listeners.iter().flatten().filter(|listener| listener.is_shared()).count();
        let unix = addresses.iter().filter(|address| address.is_unix()).copied().collect();
        let addresses = addresses.iter().filter_map(Endpoint::internet).collect();
        let listeners = all - unix_listeners;
        let report = Report::Orphan { generation, slot, addresses, unix, listeners, unix_listeners, master };
        if let Err(error) = tell(&self.control, &report) {
            tracing::warn!(slot = self.context.slot, %error, "cannot report to the new master");
        }
    }
}
