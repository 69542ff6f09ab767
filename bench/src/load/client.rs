//! One thread's connections, as a protocol on the engine's own loop: opens, asks, checks, counts, opens again.
//!
//! Each connection belongs to a lane, which outlives it: a lane whose connection ends gets another one.

mod answers;
mod lane;
mod secure;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use baton::{CloseReason, Closed, Drain, Io, Mailbox, Next, Peer, Protocol, Reject, Step, TimerKey, Worker};
use crossbeam_channel::Sender;

use self::lane::{Lane, Sent};
use self::secure::Tls;
use super::arrivals::Arrivals;
use super::exchange::Exchange;
use super::pace::Pace;
use super::plan::Plan;
use super::tally::{Failure, Outcome};
use super::tls::Sessions;

/// The interval at which timeouts and the ramp are checked.
const TICK: Duration = Duration::from_millis(20);

/// A lane whose connection has failed waits this long before it gets another one.
const BACKOFF_NS: u64 = 10_000_000;

/// The most connects in progress on one thread.
const CONNECTING_MAX: u32 = 256;

const TICK_TIMER: TimerKey = TimerKey(0);
const PACE_TIMER: TimerKey = TimerKey(1);

/// What a load's threads and its observers share.
pub(super) struct Shared {
    pub(super) started: Instant,
    pub(super) phase: AtomicUsize,
    pub(super) requests: AtomicU64,
    pub(super) failures: AtomicU64,
    /// Connections that have had one answer, if the load holds them after that.
    pub(super) held: AtomicU64,
    pub(super) connections: AtomicU64,
}

/// A thread's report to the one that started it.
pub(super) enum Told {
    Started(Mailbox<Stop>),
    Ended(Box<Outcome>),
}

/// No new requests; leave when all are answered.
pub(super) struct Stop;

/// See the module's head.
pub(super) struct Client {
    plan: Arc<Plan>,
    thread: usize,
    shared: Arc<Shared>,
    told: Sender<Told>,
    exchange: Exchange,
    tls: Option<Tls>,
    lanes: Vec<Lane>,
    /// Lanes that have had their first connect.
    opened: u32,
    connecting: u32,
    /// Lanes that want a connection again.
    reopening: Vec<u32>,
    /// Lanes that wait a while before they want one, and until when.
    backing_off: VecDeque<(u64, u32)>,
    pace: Option<Pace>,
    arrivals: Option<Arrivals>,
    /// With a rate: lanes that may send.
    free: VecDeque<u32>,
    outcome: Outcome,
    outstanding: u64,
    start_ns: u64,
    /// The time of the last turn, for callbacks that do not get it.
    now_ns: u64,
    /// When unanswered requests are given up; set when the load must stop.
    stop_at_ns: Option<u64>,
    has_ended: bool,
}

impl Client {
    /// `sessions` if the plan uses TLS.
    pub(super) fn new(
        plan: Arc<Plan>,
        thread: usize,
        sessions: Option<Sessions>,
        shared: Arc<Shared>,
        told: Sender<Told>,
    ) -> Self {
        let threads = plan.thread_count();
        let whole = plan.connections as usize;
        let own = whole / threads + usize::from(thread < whole % threads);
        Self {
            exchange: Exchange::new(&plan.exchange, thread),
            tls: sessions.map(Tls::new),
            lanes: (0..own).map(|_| Lane::default()).collect(),
            opened: 0,
            connecting: 0,
            reopening: Vec::new(),
            backing_off: VecDeque::new(),
            pace: None,
            arrivals: None,
            free: VecDeque::new(),
            outcome: Outcome::new(plan.phases, plan.interval),
            outstanding: 0,
            start_ns: 0,
            now_ns: 0,
            stop_at_ns: None,
            has_ended: false,
            plan,
            thread,
            shared,
            told,
        }
    }

    fn phase(&self) -> usize {
        self.shared.phase.load(Ordering::Relaxed)
    }

    fn salt(&self, lane: u32) -> u32 {
        lane.wrapping_mul(31).wrapping_add(self.thread as u32)
    }

    fn fail(&mut self, now_ns: u64, failure: Failure, reason: impl FnOnce() -> String) {
        let at_ns = now_ns.saturating_sub(self.start_ns);
        if failure != Failure::Stale {
            self.shared.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.outcome.failed(self.phase(), at_ns, failure, reason);
    }

    /// What this lane should send now, if anything.
    fn send_next(&mut self, index: u32, io: &mut Io<'_>) {
        if self.stop_at_ns.is_some() {
            return;
        }
        let phase = self.phase();
        let now_ns = io.clock().as_nanos() as u64;
        let lane = &mut self.lanes[index as usize];
        if self.plan.is_idle && lane.has_been_held || !lane.can_ask() {
            return;
        }
        let (due_ns, count) = if let Some(sent) = lane.repeated.take() {
            (sent.due_ns, sent.count)
        } else if let Some(pace) = &mut self.pace {
            let Some(due_ns) = pace.take() else { return self.set_free(index) };
            (due_ns, 1)
        } else if lane.outstanding > 0 {
            return;
        } else if let Some(arrivals) = &mut self.arrivals {
            let Some(due_ns) = arrivals.take(index) else { return };
            (due_ns, 1)
        } else {
            (now_ns, self.plan.depth)
        };
        let (left, at_ns) = match self.plan.requests_per_connection {
            0 => (u32::MAX, now_ns),
            // The time of a request with a connection of its own begins with the connect.
            1 if self.pace.is_none() => (1, lane.connect_ns),
            most => (most - lane.sent, now_ns),
        };
        let count = count.min(left);
        let is_last = count == left && self.exchange.can_say_last();
        self.write(index, count, is_last, io);
        let lane = &mut self.lanes[index as usize];
        lane.pending.push_back(Sent { at_ns, due_ns: due_ns.min(at_ns), count, phase });
        lane.outstanding += count;
        lane.sent += count;
        self.outstanding += u64::from(count);
        self.set_free(index);
    }

    #[inline]
    fn write(&mut self, index: u32, count: u32, is_last: bool, io: &mut Io<'_>) {
        if self.tls.is_some() {
            return self.write_secure(index, count, is_last, io);
        }
        let salt = self.salt(index);
        let lane = &mut self.lanes[index as usize];
        self.exchange.write(&mut lane.progress, salt, count, is_last, io);
    }

    /// Records that a lane may send when something is due.
    fn set_free(&mut self, index: u32) {
        if self.pace.is_none() {
            return;
        }
        let lane = &mut self.lanes[index as usize];
        let has_left = self.plan.requests_per_connection == 0 || lane.sent < self.plan.requests_per_connection;
        if !lane.is_free && has_left && lane.id.is_some() && lane.outstanding < self.plan.depth {
            lane.is_free = true;
            self.free.push_back(index);
        }
    }

    #[inline]
    fn write_deferred(&mut self, index: u32, io: &mut Io<'_>) {
        if self.tls.is_some() {
            return self.write_deferred_secure(index, io);
        }
        let salt = self.salt(index);
        self.exchange.write_deferred(&mut self.lanes[index as usize].progress, salt, io);
    }

    fn open_more(&mut self, worker: &mut Worker<'_, Stop>) {
        if self.stop_at_ns.is_some() {
            return;
        }
        let now_ns = worker.now().as_nanos() as u64;
        while let Some((_, lane)) = self.backing_off.front().copied().filter(|(until_ns, _)| *until_ns <= now_ns) {
            self.backing_off.pop_front();
            self.reopening.push(lane);
        }
        while self.connecting < CONNECTING_MAX
            && let Some(lane) = self.reopening.pop()
        {
            self.connect(lane, worker);
        }
        let count = self.lanes.len() as u32;
        let elapsed_ns = now_ns.saturating_sub(self.start_ns);
        let ramp_ns = self.plan.ramp.as_nanos() as u64;
        let wanted = match ramp_ns {
            0 => count,
            _ => (u128::from(count) * u128::from(elapsed_ns) / u128::from(ramp_ns)).min(u128::from(count)) as u32,
        };
        while self.opened < wanted && self.connecting < CONNECTING_MAX {
            self.opened += 1;
            self.connect(self.opened - 1, worker);
        }
    }

    fn connect(&mut self, index: u32, worker: &mut Worker<'_, Stop>) {
        let lane = &mut self.lanes[index as usize];
        *lane = Lane {
            connect_ns: worker.now().as_nanos() as u64,
            pending: std::mem::take(&mut lane.pending),
            repeated: lane.repeated,
            has_been_held: lane.has_been_held,
            ..Lane::default()
        };
        self.connecting += 1;
        let sources = &self.plan.sources;
        if sources.is_empty() {
            worker.connect(self.plan.target, u64::from(index));
        } else {
            let source = sources[self.outcome.connections_opened as usize % sources.len()];
            worker.connect_from(source, self.plan.target, u64::from(index));
        }
    }

    /// Gives up connections that have not been answered in time.
    fn look_for_time_outs(&mut self, worker: &mut Worker<'_, Stop>) {
        let oldest_ns = (worker.now().saturating_sub(self.plan.timeout)).as_nanos() as u64;
        for lane in &self.lanes {
            if let Some(id) = lane.id.filter(|_| lane.is_overdue(oldest_ns)) {
                worker.wake(id);
            }
        }
    }

    /// Sends what has become due for all together, each from the lane that has been free for longest.
    fn send_due(&mut self, worker: &mut Worker<'_, Stop>) {
        let now_ns = worker.now().as_nanos() as u64;
        if self.arrivals.is_some() {
            return self.send_due_of_clients(now_ns, worker);
        }
        let Some(pace) = self.pace.as_mut().filter(|_| self.stop_at_ns.is_none()) else { return };
        pace.advance(now_ns);
        let next_ns = pace.next_ns();
        for _ in 0..pace.waiting() {
            let Some(index) = self.free.pop_front() else { break };
            let lane = &mut self.lanes[index as usize];
            lane.is_free = false;
            if let Some(id) = lane.id {
                worker.wake(id);
            }
        }
        worker.set_timer(PACE_TIMER, Duration::from_nanos(next_ns.saturating_sub(now_ns)));
    }

    fn send_due_of_clients(&mut self, now_ns: u64, worker: &mut Worker<'_, Stop>) {
        let Some(arrivals) = self.arrivals.as_mut().filter(|_| self.stop_at_ns.is_none()) else { return };
        while let Some(index) = arrivals.due(now_ns) {
            // A lane without a connection sends when it has one.
            if let Some(id) = self.lanes[index as usize].id {
                worker.wake(id);
            }
        }
        while let Some(index) = arrivals.leaver(now_ns) {
            let lane = &mut self.lanes[index as usize];
            if let Some(id) = lane.id {
                lane.leaves = true;
                worker.wake(id);
            }
        }
        worker.set_timer(PACE_TIMER, Duration::from_nanos(arrivals.next_ns().saturating_sub(now_ns)));
    }

    fn end_when_done(&mut self, worker: &mut Worker<'_, Stop>) {
        let Some(stop_at_ns) = self.stop_at_ns.filter(|_| !self.has_ended) else { return };
        let now_ns = worker.now().as_nanos() as u64;
        if self.outstanding > 0 && now_ns < stop_at_ns {
            return;
        }
        for index in 0..self.lanes.len() as u32 {
            if self.drop_pending(index) > 0 {
                self.fail(now_ns, Failure::TimedOut, String::new);
            }
        }
        self.has_ended = true;
        let nothing = Outcome::new(0, Duration::ZERO);
        let _ = self.told.send(Told::Ended(Box::new(std::mem::replace(&mut self.outcome, nothing))));
        worker.drain();
    }
}

impl Protocol for Client {
    /// The number of the lane.
    type Connection = u32;
    type Message = Stop;

    fn on_start(&mut self, worker: &mut Worker<'_, Stop>) -> io::Result<()> {
        let now_ns = worker.now().as_nanos() as u64;
        self.start_ns = now_ns.saturating_sub(self.shared.started.elapsed().as_nanos() as u64);
        if let Some(rate) = self.plan.rate {
            // Requests become due once there are connections to send them.
            let start_ns = now_ns + self.plan.ramp.as_nanos() as u64;
            self.pace = Some(Pace::new(rate, self.thread, self.plan.thread_count(), start_ns));
            worker.set_timer(PACE_TIMER, self.plan.ramp);
        }
        if let Some(plan) = &self.plan.arrivals {
            let part = (self.thread, self.plan.thread_count());
            self.arrivals = Some(Arrivals::new(plan, self.plan.connections, part, now_ns, self.plan.ramp));
            worker.set_timer(PACE_TIMER, Duration::ZERO);
        }
        worker.set_timer(TICK_TIMER, TICK);
        self.open_more(worker);
        let _ = self.told.send(Told::Started(worker.mailbox()));
        Ok(())
    }

    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<u32, Reject> {
        let index = peer.outbound_token().unwrap_or_default() as u32;
        self.connecting -= 1;
        let now = io.now();
        let phase = self.phase();
        let lane = &mut self.lanes[index as usize];
        lane.id = Some(io.id());
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        self.outcome.connected(phase, now.saturating_sub(Duration::from_nanos(lane.connect_ns)));
        if self.tls.is_some() {
            self.begin_secure(index, io);
        }
        self.send_next(index, io);
        Ok(index)
    }

    #[inline]
    fn on_data(&mut self, &mut index: &mut u32, input: &[u8], io: &mut Io<'_>) -> Step {
        if self.tls.is_some() {
            return self.read_secure(index, input, io);
        }
        self.read_answers(index, input, io)
    }

    fn on_eof(&mut self, &mut index: &mut u32, input: &[u8], io: &mut Io<'_>) -> Next {
        if self.tls.is_some() {
            return self.end_secure(index, io);
        }
        self.read_end(index, !input.is_empty(), false, io.now().as_nanos() as u64);
        Next::Finish
    }

    fn on_wake(&mut self, &mut index: &mut u32, io: &mut Io<'_>) -> Next {
        let now_ns = io.now().as_nanos() as u64;
        let lane = &mut self.lanes[index as usize];
        if lane.has_failed {
            // Drops what could not be encrypted.
            self.drop_pending(index);
            return Next::Abort;
        }
        let oldest_ns = now_ns.saturating_sub(self.plan.timeout.as_nanos() as u64);
        if lane.is_overdue(oldest_ns) {
            if self.has_waited_for_end(index) {
                return Next::Finish;
            }
            self.lanes[index as usize].has_failed = true;
            self.drop_pending(index);
            self.fail(now_ns, Failure::TimedOut, String::new);
            return Next::Abort;
        }
        if lane.leaves && lane.outstanding == 0 {
            self.close_secure(index, io);
            return Next::Finish;
        }
        self.send_next(index, io);
        Next::Keep
    }

    fn on_connect_failed(&mut self, token: u64, error: io::Error, worker: &mut Worker<'_, Stop>) {
        self.connecting -= 1;
        if self.stop_at_ns.is_some() {
            return;
        }
        let now_ns = worker.now().as_nanos() as u64;
        let failure = match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            io::ErrorKind::ConnectionReset => Failure::Reset,
            io::ErrorKind::TimedOut => Failure::TimedOut,
            _ => Failure::Other,
        };
        self.fail(now_ns, failure, || format!("connecting: {error}"));
        self.backing_off.push_back((now_ns + BACKOFF_NS, token as u32));
    }

    fn on_close(&mut self, index: u32, Closed { reason, .. }: Closed<'_>, _: &mut Worker<'_, Self::Message>) {
        let lane = &mut self.lanes[index as usize];
        lane.id = None;
        if lane.outstanding > 0 && !self.has_ended {
            lane.has_failed = true;
            self.drop_pending(index);
            let failure = if reason == CloseReason::Reset { Failure::Reset } else { Failure::Other };
            self.fail(self.now_ns, failure, || format!("the connection ended: {}", reason.name()));
        }
        self.drop_secure(index, reason);
        let lane = &self.lanes[index as usize];
        if self.stop_at_ns.is_some() || self.plan.is_idle && lane.has_been_held {
            return;
        }
        if lane.has_failed {
            self.backing_off.push_back((self.now_ns + BACKOFF_NS, index));
        } else {
            self.reopening.push(index);
        }
    }

    fn on_drain(&mut self, &mut index: &mut u32, _: Duration, _: &[u8], io: &mut Io<'_>) -> Drain {
        self.close_secure(index, io);
        Drain::Close
    }

    fn on_message(&mut self, _: Stop, worker: &mut Worker<'_, Stop>) {
        self.stop_at_ns = Some((worker.now() + self.plan.timeout).as_nanos() as u64);
        if let Some(pace) = &mut self.pace {
            self.outcome.unsent += pace.end();
        }
        if let Some(arrivals) = &mut self.arrivals {
            let now_ns = worker.now().as_nanos() as u64;
            // Without them, a server would look the better, the more requests it leaves waiting.
            arrivals.end().for_each(|due_ns| self.outcome.left(0, now_ns.saturating_sub(due_ns)));
        }
    }

    fn on_worker_timer(&mut self, key: TimerKey, worker: &mut Worker<'_, Stop>) {
        if key == PACE_TIMER {
            return self.send_due(worker);
        }
        self.look_for_time_outs(worker);
        self.open_more(worker);
        worker.set_timer(TICK_TIMER, TICK);
    }

    fn on_turn_end(&mut self, worker: &mut Worker<'_, Stop>) {
        self.now_ns = worker.now().as_nanos() as u64;
        if !self.reopening.is_empty() || (self.opened as usize) < self.lanes.len() {
            self.open_more(worker);
        }
        self.end_when_done(worker);
    }
}
