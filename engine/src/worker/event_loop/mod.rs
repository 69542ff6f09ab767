//! The loop: one system call a turn, which submits what the last turn produced and waits for what comes next.
//!
//! A turn: completions, timers, requests of callbacks, then each connection that has something to send sends it.
//! Invariants: a connection has at most one receive and one send in flight in the kernel; it is closed once, and its slot
//! freed only after the last completion of both; [`EventLoop::settle`] is the one place that arms, cancels and closes.

mod accepting;
mod arrivals;
mod connecting;
mod departures;
mod entry;
mod leaving;
mod links;
mod orders;
mod worker_state;

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use socket2::SockRef;

use self::entry::{Entry, Receiving};
use self::links::Moving;
use super::Sizing;
use super::lifecycle::Lifecycle;
use super::listener::Listener;
use super::slab::Slab;
use crate::config::{Connections, StateTooLarge};
use crate::connection::{Action, Connection, Received};
use crate::context::{Alarm, Command, Context, Inbox, Worker};
use crate::handover::custody::Custody;
use crate::handover::sender::{self, Sender};
use crate::handover::{Format, StateFormats};
use crate::ipc::channel::tell;
use crate::ipc::meeting::Meeting;
use crate::ipc::orders::Report;
use crate::ipc::rendezvous::Rendezvous;
use crate::protocol::Protocol;
use crate::sys::clock::monotonic_ns;
use crate::sys::ring::{Completion, Key, Ring, Socket, WhenFull};
use crate::types::{ConnectionId, Peer};

/// First pause after accepting failed for want of descriptors or memory.
const ACCEPT_PAUSE_MS_MIN: u64 = 10;

/// Errors of a peer's or the network's making are logged once in this time at most.
const LOG_INTERVAL_NS: u64 = 1_000_000_000;

/// Keys of polls.
const CONTROL: Key = Key { slot: 0, generation: 0 };
const SIGNALS: Key = Key { slot: 1, generation: 0 };
const INBOX: Key = Key { slot: 2, generation: 0 };
const RENDEZVOUS: Key = Key { slot: 3, generation: 0 };

/// How a worker stands to its master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Master {
    Present,
    /// Gone: the worker serves on until another one comes.
    Gone,
}

/// What the bring-up has made.
pub(super) struct Parts<M> {
    pub(super) ring: Ring,
    pub(super) context: Context,
    pub(super) listeners: Vec<Listener>,
    pub(super) inbox: Inbox<M>,
    pub(super) rendezvous: Option<Rendezvous>,
    pub(super) generation: u32,
    pub(super) signals: Option<SignalFd>,
    pub(super) sizing: Sizing,
    pub(super) direct: bool,
    /// Where others bring their connections, and whom this worker was started as.
    pub(super) meeting: Option<Meeting>,
    pub(super) user: u32,
    pub(super) connections: Connections,
    pub(super) state_bytes_max: u64,
    pub(super) state_too_large: StateTooLarge,
    /// It takes the place of another worker.
    pub(super) succeeds: bool,
}

/// See the module's head.
pub(crate) struct EventLoop<P: Protocol> {
    protocol: P,
    ring: Ring,
    slab: Slab<Entry<P::Connection>>,
    context: Context,
    /// Their places are the keys of their accepts; that of one that was released is free.
    listeners: Vec<Option<Listener>>,
    inbox: Inbox<P::Message>,
    control: OwnedFd,
    master: Master,
    rendezvous: Option<Rendezvous>,
    generation: u32,
    signals: Option<SignalFd>,
    sizing: Sizing,
    direct: bool,
    dirty: Vec<u32>,
    starved: Vec<ConnectionId>,
    /// When the ring's timeout fires; `u64::MAX` where none is armed.
    timeout_at_ns: u64,
    accept_paused: bool,
    accept_pause_ms: u64,
    at_limit: bool,
    logged_ns: u64,
    lifecycle: Lifecycle,
    connections: Connections,
    moving: Moving,
    state_bytes_max: u64,
    state_too_large: StateTooLarge,
}

impl<P: Protocol> EventLoop<P> {
    pub(super) fn new(protocol: P, parts: Parts<P::Message>, control: OwnedFd) -> Self {
        let Parts { ring, context, listeners, inbox, rendezvous, generation, signals, sizing, direct, .. } = parts;
        let may_move = P::STATE.is_some() && parts.connections == Connections::Handover;
        let sender = Sender::new(may_move, P::WORKER_STATE.is_some());
        let moving = Moving::new(sender, parts.meeting, parts.user);
        let awaits_state = parts.succeeds && P::WORKER_STATE.is_some();
        let lifecycle = if awaits_state { Lifecycle::awaiting_state(context.now_ns) } else { Lifecycle::serving() };
        let mut this = Self {
            protocol,
            ring,
            slab: Slab::new(sizing.slots as usize),
            context,
            listeners: listeners.into_iter().map(Some).collect(),
            inbox,
            control,
            master: Master::Present,
            rendezvous,
            generation,
            signals,
            sizing,
            direct,
            dirty: Vec::new(),
            starved: Vec::new(),
            timeout_at_ns: u64::MAX,
            accept_paused: false,
            accept_pause_ms: ACCEPT_PAUSE_MS_MIN,
            at_limit: false,
            logged_ns: 0,
            lifecycle,
            connections: parts.connections,
            moving,
            state_bytes_max: parts.state_bytes_max,
            state_too_large: parts.state_too_large,
        };
        this.ring.poll(this.control.as_fd(), CONTROL);
        if let Some(signals) = &this.signals {
            this.ring.poll(signals.as_fd(), SIGNALS);
        }
        if let Some(rendezvous) = &this.rendezvous {
            this.ring.poll(rendezvous.descriptor(), RENDEZVOUS);
        }
        this.ring.poll(this.inbox.descriptor(), INBOX);
        this.open_to_visitors();
        this.settle_accepting();
        this
    }

    pub(super) fn report_ready(&self) {
        let listeners = self.listeners.iter().flatten().map(|listener| listener.socket.as_raw_fd()).collect();
        let connections_max = self.sizing.connections_max;
        let meeting = self.moving.meeting_name();
        let report = Report::Ready {
            core: self.context.core,
            connections_max,
            listeners,
            meeting,
            has_state: P::WORKER_STATE.is_some(),
            formats: formats_of::<P>(),
        };
        if let Err(error) = tell(&self.control, &report) {
            tracing::warn!(slot = self.context.slot, %error, "could not report ready");
        }
        let addresses: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" ");
        tracing::debug!(slot = self.context.slot, addresses, direct = self.direct, "worker is ready");
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = self.listeners.iter().flatten().map(|listener| listener.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Runs until drained.
    pub(super) fn run(&mut self) -> io::Result<()> {
        loop {
            self.turn()?;
            if self.is_done() {
                self.record_turn();
                return Ok(());
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        self.send_dirty();
        let has_work = !self.context.commands.is_empty() || self.ring.waiting() > 0 || self.lifecycle.is_asked();
        self.ring.enter(u32::from(!has_work))?;
        self.context.now_ns = monotonic_ns();
        self.context.arena.begin_turn();
        self.context.may_lease = self.ring.buffers().leased() * 2 < self.ring.buffers().count();
        while let Some(completion) = self.ring.next() {
            self.complete(completion);
        }
        self.expire_timers();
        self.run_commands();
        if !self.lifecycle.is_serving() {
            self.live_on();
            self.move_on();
        }
        self.protocol.on_turn_end(&mut Worker::new(&mut self.context, &self.inbox));
        self.rearm_starved();
        self.settle_accepting();
        self.arm_timeout();
        self.record_turn();
        Ok(())
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Received { key, result, lease, more } => self.received(key, result, lease, more),
            Completion::Sent { key, result, payload } => self.sent(key, result, payload),
            Completion::Accepted { key, result, more } => self.accepted(key, result, more),
            Completion::Connected { key, result } => self.connected(key, result),
            Completion::Readable { key, more } => self.readable(key, more),
            Completion::Expired => self.timeout_at_ns = u64::MAX,
        }
    }

    #[inline]
    fn received(&mut self, key: Key, result: i32, lease: Option<crate::sys::buffer_ring::Lease>, more: bool) {
        let Some(entry) = self.slab.get_key(key) else {
            debug_assert!(false, "a receive outlived its slot");
            return;
        };
        if !more {
            entry.receiving = Receiving::No;
        }
        let connection = &mut entry.connection;
        match result {
            1.. => {
                self.context.page.bytes_received.add(result as u64);
                let was_fresh = std::mem::replace(&mut entry.is_fresh, false);
                let lease = lease.expect("received bytes are in a buffer");
                connection.receive(&mut self.protocol, &mut self.context, Received::Lease(lease));
                if was_fresh && self.lifecycle.was_told() && (self.context.draining || entry.custody.stays()) {
                    let deadline = Duration::from_nanos(self.lifecycle.deadline_ns());
                    connection.drain(&mut self.protocol, &mut self.context, deadline);
                }
            }
            0 => connection.receive_end(&mut self.protocol, &mut self.context),
            _ => match -result {
                libc::ENOBUFS => {
                    self.context.page.buffers_exhausted.add(1);
                    entry.receiving = Receiving::Starved;
                    self.starved.push(entry.connection.id());
                }
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                _ => connection.fail(&mut self.context),
            },
        }
        self.settle(key.slot);
    }

    #[inline]
    fn sent(&mut self, key: Key, result: i32, payload: crate::sys::payload::Payload) {
        let Some(entry) = self.slab.get_key(key) else {
            debug_assert!(false, "a send outlived its slot");
            return;
        };
        entry.sending = false;
        let was_to_close = std::mem::take(&mut entry.closes_with_send);
        match result {
            0.. => {
                self.context.page.bytes_sent.add(result as u64);
                if was_to_close && result as usize == payload.len() {
                    entry.socket = None;
                }
                entry.connection.sent(&mut self.protocol, &mut self.context, payload, result as usize);
            }
            _ => match -result {
                // Cancelled because the connection is closed; else it is on its way, or has stayed.
                libc::ECANCELED if entry.socket.is_none() => {
                    entry.connection.send_ended(payload);
                    entry.connection.fail(&mut self.context);
                }
                libc::EAGAIN | libc::EINTR | libc::ECANCELED => {
                    entry.connection.sent(&mut self.protocol, &mut self.context, payload, 0);
                }
                _ => {
                    entry.connection.send_ended(payload);
                    entry.connection.fail(&mut self.context);
                }
            },
        }
        self.settle(key.slot);
    }

    fn open(&mut self, socket: Socket, token: Option<u64>) {
        let id = match self.insert(socket) {
            Ok(id) => id,
            Err(socket) => {
                // Only a burst larger than the backlog can come here; see `Sizing`.
                self.ring.close(socket);
                self.context.page.accept_errors.add(1);
                self.log_at_times(|slot, _| {
                    tracing::error!(slot, "a connection came with no slot left and was closed")
                });
                return;
            }
        };
        self.context.page.open.set(self.slab.len() as u64);
        self.opened(id, token);
    }

    /// A slot for `socket`, which comes back where there is none.
    fn insert(&mut self, socket: Socket) -> Result<ConnectionId, Socket> {
        let now_ns = self.context.now_ns;
        let mut socket = Some(socket);
        let make = |id| Entry::new(Connection::new(id, now_ns), socket.take(), Custody::default());
        let id = self.slab.insert(make);
        id.ok_or_else(|| socket.expect("not taken"))
    }

    fn opened(&mut self, id: ConnectionId, token: Option<u64>) {
        let entry = self.slab.get(id).expect("a connection that was just made");
        let ring = RefCell::new(&mut self.ring);
        let socket = entry.socket.as_ref().expect("open");
        let address = || peer_address(&mut ring.borrow_mut(), socket);
        let peer = Peer { token, address: &address };
        entry.connection.open(&mut self.protocol, &mut self.context, peer);
        if self.lifecycle.is_leaving() {
            self.arrived(id);
        }
        self.settle(id.slot);
    }

    fn readable(&mut self, key: Key, more: bool) {
        if self.link_readable(key, more) {
            return;
        }
        match key {
            CONTROL => self.hear_orders(more),
            SIGNALS => {
                let Some(signals) = &self.signals else { return };
                let signal = signals.read_signal();
                if !more {
                    self.ring.poll(signals.as_fd(), SIGNALS);
                }
                if let Ok(Some(signal)) = signal {
                    tracing::debug!(slot = self.context.slot, signal = signal.ssi_signo, "worker was signalled");
                    self.drain_or_stop();
                }
            }
            RENDEZVOUS => {
                if let Some(rendezvous) = self.rendezvous.as_ref().filter(|_| !more) {
                    self.ring.poll(rendezvous.descriptor(), RENDEZVOUS);
                }
                self.meet_master();
            }
            _ => {
                if !more {
                    self.ring.poll(self.inbox.descriptor(), INBOX);
                }
                for message in self.inbox.take() {
                    self.protocol.on_message(message, &mut Worker::new(&mut self.context, &self.inbox));
                }
            }
        }
    }

    fn expire_timers(&mut self) {
        let now_ns = self.context.now_ns;
        while let Some(alarm) = self.context.timers.expire(now_ns) {
            match alarm {
                Alarm::Connection { slot } => {
                    if let Some(entry) = self.slab.at(slot) {
                        entry.connection.alarm(&mut self.protocol, &mut self.context);
                        self.settle(slot);
                    }
                }
                Alarm::Protocol { slot, key } => {
                    if let Some(entry) = self.slab.at(slot) {
                        entry.connection.timer(&mut self.protocol, &mut self.context, key);
                        self.settle(slot);
                    }
                }
                Alarm::Connect { id } => self.connect_timed_out(id),
                Alarm::Accept => self.accept_paused = false,
                // The lifecycle keeps the time of its own.
                Alarm::Drain => {}
            }
        }
        while let Some(key) = self.context.expire_worker_timer() {
            self.protocol.on_worker_timer(key, &mut Worker::new(&mut self.context, &self.inbox));
        }
    }

    /// What callbacks asked for. What these ask for in turn comes next turn, so that nobody starves the others.
    fn run_commands(&mut self) {
        if self.context.commands.is_empty() {
            return;
        }
        for command in std::mem::take(&mut self.context.commands) {
            match command {
                Command::Wake(id) => self.wake(id),
                Command::Rerun(id) => {
                    if let Some(entry) = self.slab.get(id) {
                        entry.connection.run_again(&mut self.protocol, &mut self.context);
                        self.settle(id.slot);
                    }
                }
                Command::Connect { source, address, token } => self.connect(source, address, token),
                Command::Drain => {
                    let _ = tell(&self.control, &Report::Leaving);
                    self.drain(0, self.context.timeouts.drain_ms_max, None);
                }
            }
        }
    }

    /// Brings what the kernel does for a connection in line with what the connection wants.
    #[inline]
    fn settle(&mut self, slot: u32) {
        let Some(entry) = self.slab.at(slot) else { return };
        match entry.connection.next_action(&mut self.context) {
            Action::Nothing => {}
            Action::ShutdownWrite => {
                let socket = entry.socket.as_ref().expect("open until it ended");
                let result = self
                    .ring
                    .with_descriptor(socket, |descriptor| SockRef::from(&descriptor).shutdown(Shutdown::Write));
                if result.is_err() {
                    entry.connection.fail(&mut self.context);
                    return self.settle(slot);
                }
            }
            Action::Close { reset } => return self.close(slot, reset),
        }
        if entry.custody.is_held() {
            return self.settle_held(slot);
        }
        if entry.connection.wants_input() {
            if entry.receiving == Receiving::No {
                entry.receiving = Receiving::Armed;
                let key = entry.key();
                let socket = entry.socket.as_ref().expect("open until it ended");
                if entry.is_fresh {
                    self.ring.receive_once(socket, key);
                } else {
                    self.ring.receive(socket, key);
                }
            }
        } else if entry.receiving == Receiving::Armed {
            entry.receiving = Receiving::Cancelling;
            let key = entry.key();
            self.ring.cancel_receive(key);
        }
        if !entry.is_dirty && entry.connection.wants_output() {
            entry.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// The one place where connections are closed.
    fn close(&mut self, slot: u32, reset: bool) {
        let entry = self.slab.at(slot).expect("only living connections are closed");
        if let Some(socket) = entry.socket.take() {
            let key = entry.key();
            if reset {
                let _ = self
                    .ring
                    .with_descriptor(&socket, |descriptor| SockRef::from(&descriptor).set_linger(Some(Duration::ZERO)));
            }
            if entry.sending {
                self.ring.cancel_socket(&socket);
            } else if entry.receiving == Receiving::Armed {
                self.ring.cancel_receive(key);
            }
            // What is still armed holds the file, not the descriptor: the peer sees the end when its last completion
            // comes, within the same system call.
            self.ring.close(socket);
        }
        let entry = self.slab.at(slot).expect("as above");
        if matches!(entry.receiving, Receiving::Armed | Receiving::Cancelling) || entry.sending || entry.is_dirty {
            return;
        }
        entry.connection.close(&mut self.protocol, &mut self.context);
        let (reason, id, was_held) = (entry.connection.reason(), entry.connection.id(), entry.custody.is_held());
        self.slab.remove(slot);
        self.context.page.closed[reason as usize].add(1);
        self.context.page.open.set(self.slab.len() as u64);
        if was_held {
            self.tell_sender(sender::Input::Gone(id));
        }
    }

    fn send_dirty(&mut self) {
        for index in 0..self.dirty.len() {
            let slot = self.dirty[index];
            let Some(entry) = self.slab.at(slot) else { continue };
            entry.is_dirty = false;
            if entry.custody.is_held() && entry.socket.is_some() {
                continue;
            }
            if let Some(socket) = &entry.socket {
                if let Some((payload, when_full)) = entry.connection.begin_send(&mut self.context) {
                    let key = entry.key();
                    entry.sending = true;
                    let is_last = when_full == WhenFull::Return && entry.connection.ends_with_send(&payload);
                    if is_last && entry.receiving == Receiving::No {
                        entry.closes_with_send = true;
                        self.ring.send_and_close(socket, key, payload);
                    } else {
                        self.ring.send(socket, key, payload, when_full);
                    }
                }
            } else {
                self.settle(slot);
            }
        }
        self.dirty.clear();
    }

    fn rearm_starved(&mut self) {
        if self.starved.is_empty() || !self.ring.buffers().has_free() {
            return;
        }
        for id in std::mem::take(&mut self.starved) {
            if let Some(entry) = self.slab.get(id).filter(|entry| entry.receiving == Receiving::Starved) {
                entry.receiving = Receiving::No;
                self.settle(id.slot);
            }
        }
    }

    fn arm_timeout(&mut self) {
        let of_timers = self.context.next_timer_ns();
        let of_leaving = if self.lifecycle.is_serving() {
            None
        } else {
            self.lifecycle.next_ns().into_iter().chain(self.moving.sender.next_ns()).min()
        };
        let next_ns = of_timers.into_iter().chain(of_leaving).min();
        if let Some(next_ns) = next_ns.filter(|next_ns| *next_ns < self.timeout_at_ns) {
            self.timeout_at_ns = next_ns;
            self.ring.timeout(next_ns);
        }
    }

    fn record_turn(&mut self) {
        let page = &self.context.page;
        if P::WORKER_STATE.is_some() {
            page.state_bytes.set(self.protocol.worker_state_bytes());
        }
        page.turns.add(1);
        page.enters.set(self.ring.enters());
        page.turn_at_ns.set(self.context.now_ns);
        page.completions_overflowed.set(u64::from(self.ring.overflows()));
        if self.context.requests_in_turn > 0 {
            let service_ns = monotonic_ns().saturating_sub(self.context.now_ns);
            page.requests.add(self.context.requests_in_turn);
            page.service.record(service_ns, self.context.requests_in_turn);
            self.context.requests_in_turn = 0;
        }
    }

    fn log_at_times(&mut self, log: impl FnOnce(usize, &Context)) {
        if self.logged_ns == 0 || self.context.now_ns - self.logged_ns >= LOG_INTERVAL_NS {
            self.logged_ns = self.context.now_ns;
            log(self.context.slot, &self.context);
        }
    }
}

fn peer_address(ring: &mut Ring, socket: &Socket) -> io::Result<SocketAddr> {
    ring.with_descriptor(socket, |descriptor| {
        let address = SockRef::from(&descriptor).peer_addr()?;
        address.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
    })
}

fn formats_of<P: Protocol>() -> StateFormats {
    StateFormats {
        connections: P::STATE.map(|format| Format::new(format, P::reads_state)),
        worker: P::WORKER_STATE.map(|format| Format::new(format, P::reads_worker_state)),
    }
}

pub(super) fn watch_signals() -> io::Result<SignalFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGQUIT].into_iter().collect();
    signals.thread_block()?;
    // A file that would be larger than this process may make one (RLIMIT_FSIZE) is an error, and does not end it.
    SigSet::from(Signal::SIGXFSZ).thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}
