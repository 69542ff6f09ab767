//! The loop: one system call per turn, which submits what the last turn produced and waits for what comes next.
//!
//! A turn handles completions, timers, and requests of callbacks. Then each connection that has something to send sends
//! it. Invariants: a connection has at most one receive and one send in flight in the kernel. It is closed once, and
//! its slot is freed only after the last completion of both. [`EventLoop::settle`] is the only place that arms, cancels
//! and closes.

mod accepting;
mod arrivals;
mod connecting;
mod departures;
mod entry;
mod flow;
mod gathering;
mod giving;
mod inspecting;
mod leaving;
mod links;
mod memory;
mod opening;
mod orders;
mod polls;
mod siblings;
mod worker_state;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::signalfd::SignalFd;

use self::entry::Entry;
use self::inspecting::Closing;
use self::links::Moving;
pub(super) use self::polls::watch_signals;
use self::polls::{CONTROL, INBOX, RENDEZVOUS, SIGNALS};
use self::siblings::Circle;
use super::Sizing;
use super::budget::Budget;
use super::idlest::Idlest;
use super::inspection::Questions;
use super::lifecycle::Lifecycle;
use super::line::Line;
use super::listener::Listener;
use super::load::Load;
use super::slab::Slab;
use crate::config::{Connections, StateTooLarge};
use crate::connection::Host;
use crate::context::{Alarm, Command, Context, Inbox, Worker};
use crate::endpoint::Endpoint;
use crate::handover::receiver::{Receiver, Visitor};
use crate::handover::sender::Sender;
use crate::ipc::channel::{tell, tell_with_all};
use crate::ipc::meeting::Meeting;
use crate::ipc::orders::Report;
use crate::ipc::rendezvous::Rendezvous;
use crate::protocol::Protocol;
use crate::proxy::ProxyHeader;
use crate::sys::acceptor::Acceptor;
use crate::sys::clock::monotonic_ns;
use crate::sys::ring::{Completion, Ring};
use crate::types::ConnectionId;

/// First pause after accepting failed because descriptors or memory ran out.
const ACCEPT_PAUSE_MS_MIN: u64 = 10;

/// Errors that a peer or the network causes are logged at most once in this time.
const LOG_INTERVAL_NS: u64 = 1_000_000_000;

/// Completions that one turn handles while the worker serves. The others wait for the next turn, so that output is sent
/// and timers fire in between. A leaving worker handles all of them before it says goodbye to any connection.
const COMPLETIONS_PER_TURN_MAX: usize = 256;

/// Whether the worker has a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Master {
    Present,
    /// Gone: the worker continues to serve until another master takes over.
    Gone,
}

/// What the start of the worker has made.
pub(super) struct Parts<M> {
    pub(super) ring: Ring,
    pub(super) context: Context,
    pub(super) listeners: Vec<Listener>,
    pub(super) inbox: Inbox<M>,
    pub(super) rendezvous: Option<Rendezvous>,
    pub(super) generation: u32,
    pub(super) signals: Option<SignalFd>,
    pub(super) sizing: Sizing,
    pub(super) acceptor: Acceptor,
    /// `None` if nothing steers by it.
    pub(super) load: Option<Load>,
    /// Where others bring their connections.
    pub(super) meeting: Option<Meeting>,
    pub(super) connections: Connections,
    pub(super) state_bytes_max: u64,
    pub(super) state_too_large: StateTooLarge,
    /// The worker replaces another one.
    pub(super) succeeds: bool,
}

/// See the module's head.
pub(crate) struct EventLoop<P: Protocol> {
    protocol: P,
    ring: Ring,
    slab: Slab<Entry<P::Connection>>,
    context: Context,
    /// The index is the key of the accept. The place of a released listener is free.
    listeners: Vec<Option<Listener>>,
    inbox: Inbox<P::Message>,
    control: OwnedFd,
    master: Master,
    rendezvous: Option<Rendezvous>,
    generation: u32,
    signals: Option<SignalFd>,
    sizing: Sizing,
    /// Accepts from listeners of which others have copies.
    acceptor: Acceptor,
    load: Option<Load>,
    dirty: Vec<u32>,
    line: Line,
    /// Whether normal receive buffers may be lent to sends in this turn.
    may_lend: bool,
    /// When the ring's timeout fires; `u64::MAX` if none is armed.
    timeout_at_ns: u64,
    accept_paused: bool,
    accept_pause_ms: u64,
    at_limit: bool,
    idlest: Idlest,
    budget: Budget,
    /// The headers that proxies have sent for their connections.
    proxied: HashMap<ConnectionId, Box<ProxyHeader>>,
    /// Connections that are not read while memory is short.
    paused: Vec<ConnectionId>,
    logged_ns: u64,
    lifecycle: Lifecycle,
    connections: Connections,
    moving: Moving,
    circle: Circle,
    questions: Questions,
    /// Connections that an operator wants to end.
    closings: Vec<Closing>,
    state_bytes_max: u64,
    state_too_large: StateTooLarge,
}

impl<P: Protocol> EventLoop<P> {
    pub(super) fn new(protocol: P, parts: Parts<P::Message>, control: OwnedFd) -> Self {
        let Parts { ring, context, listeners, inbox, rendezvous, generation, signals, sizing, .. } = parts;
        let may_move = P::STATE.is_some() && parts.connections == Connections::Handover;
        let sender = Sender::new(may_move, P::WORKER_STATE.is_some(), P::MESSAGES.is_some());
        let receiver = Receiver::new(sizing.connections_max);
        let moving = Moving::new(sender, receiver, parts.meeting);
        let circle = Circle::new(moving.door().map_or("", |(name, _)| name));
        let awaits_state = parts.succeeds && P::WORKER_STATE.is_some();
        let lifecycle = if awaits_state { Lifecycle::awaiting_state(context.now_ns) } else { Lifecycle::serving() };
        let idlest = Idlest::new(context.timeouts.idle_at_limit_ms);
        let budget = Budget::new(context.limits.memory_bytes_max);
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
            acceptor: parts.acceptor,
            load: parts.load,
            dirty: Vec::new(),
            line: Line::new(sizing.ring.buffers),
            may_lend: true,
            timeout_at_ns: u64::MAX,
            accept_paused: false,
            accept_pause_ms: ACCEPT_PAUSE_MS_MIN,
            at_limit: false,
            idlest,
            budget,
            proxied: HashMap::new(),
            paused: Vec::new(),
            logged_ns: 0,
            lifecycle,
            connections: parts.connections,
            moving,
            circle,
            questions: Questions::default(),
            closings: Vec::new(),
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

    /// Returns `false` if no master receives the report: the master is gone, and the next one may have looked for
    /// workers before this one could be found.
    pub(super) fn report_ready(&self) -> bool {
        let listeners = self.listeners.iter().flatten().map(|listener| listener.socket.as_raw_fd()).collect();
        let connections_max = self.sizing.connections_max;
        let (meeting, door) = self.moving.door().unzip();
        let report = Report::Ready {
            core: self.context.core,
            connections_max,
            listeners,
            meeting: meeting.map(str::to_owned),
            has_state: P::WORKER_STATE.is_some(),
            speaks: P::MESSAGES.is_some(),
        };
        if let Err(error) = tell_with_all(&self.control, &report, door.as_slice()) {
            tracing::warn!(slot = self.context.slot, %error, "cannot tell the master that this worker is ready; it leaves");
            return false;
        }
        let addresses: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" ");
        tracing::debug!(slot = self.context.slot, addresses, "worker is ready");
        true
    }

    fn addresses(&self) -> Vec<Endpoint> {
        let mut addresses: Vec<Endpoint> = self.listeners.iter().flatten().map(|listener| listener.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Runs until drained.
    pub(super) fn run(&mut self) -> io::Result<()> {
        // Timers that `on_start` set: perhaps nothing else happens for long.
        self.arm_timeout();
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
        let is_hurried = self.serve_line();
        // Do this last before a wait that may be long.
        self.settle_load();
        let began_ns = if is_hurried { monotonic_ns() } else { 0 };
        let has_work = is_hurried
            || !self.context.commands.is_empty()
            || self.ring.waiting() > 0
            || self.lifecycle.is_asked()
            || self.moving.has_more_visitors
            || self.has_said()
            || self.questions.has_work(self.context.now_ns);
        self.ring.enter(u32::from(!has_work))?;
        self.context.now_ns = monotonic_ns();
        self.context.begin_turn();
        self.may_lend = self.ring.buffers().leased() * 2 < self.ring.buffers().count();
        let mut completed = 0;
        let most = if self.lifecycle.is_serving() { COMPLETIONS_PER_TURN_MAX } else { usize::MAX };
        while completed < most
            && let Some(completion) = self.ring.next()
        {
            self.complete(completion);
            completed += 1;
        }
        if self.moving.has_more_visitors {
            self.let_visitors_in();
        }
        self.expire_timers();
        self.run_commands();
        if !self.lifecycle.is_serving() {
            self.live_on();
            // Do this before checking whether anything may still come: no event follows when the last listener has
            // closed.
            self.settle_accepting();
            self.move_on();
        } else if self.moving.gives() {
            self.give_on();
        }
        if !self.questions.is_empty() {
            self.inspect();
        }
        self.call(Protocol::on_turn_end);
        if P::MESSAGES.is_some() {
            self.settle_siblings();
        }
        if !self.closings.is_empty() {
            self.settle_closings();
        }
        self.settle_memory();
        self.settle_accepting();
        self.arm_timeout();
        self.record_turn();
        if is_hurried {
            self.line.end_turn(monotonic_ns().saturating_sub(began_ns), completed);
        }
        Ok(())
    }

    fn complete(&mut self, completion: Completion) {
        self.context.page.events.add(1);
        match completion {
            Completion::Received { key, receipt } => self.received(key, receipt),
            Completion::Sent { key, result, payload } => self.sent(key, result, payload),
            Completion::Accepted { key, result, more } => self.accepted(key, result, more),
            Completion::Connected { key, result } => self.connected(key, result),
            Completion::Readable { key, more } => self.readable(key, more),
            Completion::Left { key, result, more } => self.left(key, result, more),
            Completion::Expired => self.timeout_at_ns = u64::MAX,
        }
    }

    /// Runs a callback that is not for one connection, and handles what it has done to some.
    #[inline]
    pub(super) fn call<R>(&mut self, callback: impl FnOnce(&mut P, &mut Worker<'_, P::Message>) -> R) -> R {
        let mut all = self.slab.all();
        let result = callback(&mut self.protocol, &mut Worker::new(&mut self.context, &self.inbox, &mut all));
        self.settle_touched();
        result
    }

    fn expire_timers(&mut self) {
        let now_ns = self.context.now_ns;
        while let Some(alarm) = self.context.timers.expire(now_ns) {
            self.context.page.events.add(1);
            match alarm {
                Alarm::Connection { slot } => {
                    if let Some((entry, mut others)) = self.slab.split_at(slot) {
                        let mut host = Host::new(&mut self.protocol, &mut others);
                        entry.connection.alarm(&mut host, &mut self.context);
                        self.settle(slot);
                    }
                }
                Alarm::Protocol { slot, key } => {
                    if let Some((entry, mut others)) = self.slab.split_at(slot) {
                        let mut host = Host::new(&mut self.protocol, &mut others);
                        entry.connection.timer(&mut host, &mut self.context, key);
                        self.settle(slot);
                    }
                }
                Alarm::Connect { id } => self.connect_timed_out(id),
                Alarm::Gift { visitor } => self.gift_timed_out(Visitor(visitor)),
                Alarm::Accept => self.accept_paused = false,
                // The part that set the alarm checks the time itself.
                Alarm::Drain | Alarm::Look => {}
            }
        }
        while let Some(key) = self.context.expire_worker_timer() {
            self.call(|protocol, worker| protocol.on_worker_timer(key, worker));
        }
    }

    /// Carries out what callbacks asked for. Requests that this causes wait for the next turn, so that no connection
    /// starves others.
    fn run_commands(&mut self) {
        if self.context.commands.is_empty() && !self.line.has_reruns() {
            return;
        }
        for command in std::mem::take(&mut self.context.commands) {
            self.context.page.events.add(1);
            match command {
                Command::Wake(id) => self.wake(id),
                Command::Writable(id) => self.writable(id),
                Command::Rerun(id) => self.line.push_rerun(id),
                Command::Retime(id) => {
                    if let Some(entry) = self.slab.get(id) {
                        entry.connection.set_alarm(&mut self.context);
                    }
                }
                Command::Connect { target, token } => self.connect(target, token),
                Command::Drain => {
                    let _ = tell(&self.control, &Report::Leaving);
                    self.drain(0, self.context.timeouts.drain_ms_max, None);
                }
            }
        }
        let began_ns = monotonic_ns();
        let others_ns = began_ns.saturating_sub(self.context.now_ns);
        let mut spent_ns = 0;
        while let Some(id) = self.line.next_rerun(spent_ns, others_ns) {
            self.context.page.events.add(1);
            if let Some((entry, mut others)) = self.slab.split(id) {
                let mut host = Host::new(&mut self.protocol, &mut others);
                entry.connection.run_again(&mut host, &mut self.context);
                self.settle(id.slot);
            }
            spent_ns = monotonic_ns().saturating_sub(began_ns);
        }
    }

    fn arm_timeout(&mut self) {
        let of_timers = self.context.next_timer_ns();
        let of_leaving = if self.lifecycle.is_serving() {
            if self.moving.gives() { self.next_giving_ns() } else { None }
        } else {
            self.lifecycle.next_ns().into_iter().chain(self.moving.sender.next_ns()).chain(self.next_visit_ns()).min()
        };
        let of_siblings = if P::MESSAGES.is_some() { self.next_sibling_ns() } else { None };
        let of_both = of_leaving.into_iter().chain(of_siblings);
        let of_load = self.load.is_some().then(|| Load::next_ns(self.context.now_ns));
        let of_operators = self.questions.next_ns().into_iter().chain(self.next_closing_ns());
        let all = of_timers.into_iter().chain(of_both).chain(self.budget.next_ns()).chain(of_load);
        let next_ns = all.chain(of_operators).min();
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
        page.memory_bytes.set(self.budget.held());
        page.enters.set(self.ring.enters());
        page.turn_at_ns.set(self.context.now_ns);
        page.completions_overflowed.set(u64::from(self.ring.overflows()));
        let requests = std::mem::take(&mut self.context.requests_in_turn);
        if requests > 0 || self.moving.sender.is_separable() {
            let turn_ns = monotonic_ns().saturating_sub(self.context.now_ns);
            page.busy_ns.add(turn_ns);
            if requests > 0 {
                page.requests.add(requests);
                page.service.record(turn_ns, requests);
            }
        }
    }

    fn log_at_times(&mut self, log: impl FnOnce(usize, &Context)) {
        if self.logged_ns == 0 || self.context.now_ns - self.logged_ns >= LOG_INTERVAL_NS {
            self.logged_ns = self.context.now_ns;
            log(self.context.slot, &self.context);
        }
    }
}
