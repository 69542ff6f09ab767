//! Carries out what the core decides: polls, passes events to the core, and acts through [`World`]. It decides nothing
//! and never waits for one thing while others may need it.
//!
//! Single-threaded, since it forks.

mod allowance;
mod certificates;
mod check;
mod configurations;
mod exporter;
mod journal;
mod ledger;
mod log;
mod masters;
mod names;
mod notify;
mod orphans;
mod sockets;
mod start;
mod status;
mod workers;
mod world;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal;
use nix::sys::signalfd::SignalFd;

use self::allowance::HEARD_PER_TURN;
use self::certificates::Reminder;
pub(crate) use self::check::check;
pub use self::check::{Check, RunningServer};
pub use self::masters::refuse_upgrade;
use self::notify::Watchdog;
pub(crate) use self::start::run;
use self::world::Driver;
use crate::error::ServerError;
use crate::ipc::control::server::Heard as Asked;
use crate::ipc::control::{self, Failure, Outcome, Reply};
use crate::ipc::relay::ToOld;
use crate::ipc::rendezvous;
use crate::master::core::{ClientId, Core, Event, Lifecycle, ProcessId, Request, Signal, SocketId, Time, World};

/// Connections for which no worker had room are offered again after this time.
const RETRY_MS: u64 = 10;

/// After the end of the server, slow clients have this time to read their answers.
const FLUSH_MS_MAX: u64 = 1_000;

/// A channel has no room for more messages. This many are read from a process that has ended.
const LAST_WORDS_MAX: usize = 1_024;

struct Master<'a> {
    core: Core,
    driver: Driver<'a>,
    signals: SignalFd,
    watchdog: Option<Watchdog>,
    reminder: Reminder,
    /// The reason for this tier.
    tier_reason: String,
    /// The name of this program, and its version.
    name: Option<String>,
    version: Option<String>,
    began: Time,
    /// When the core must look at the time.
    tick_at: Option<Time>,
    /// When the other master of an upgrade gets the numbers next.
    totals_at: Option<Time>,
}

impl Master<'_> {
    /// Runs until nothing is left.
    fn drive(&mut self) -> Result<(), ServerError> {
        while self.core.verdict().is_none() {
            self.wait().map_err(|source| ServerError::System { what: "poll", source })?;
            // Requests of signals and clients may follow from messages of another master, so read those first.
            self.hear_masters();
            self.read_signals();
            self.serve_clients();
            self.serve_metrics();
            self.hear_workers();
            self.hear_orphans();
            self.reap();
            self.accept();
            self.tick();
            self.tidy();
            self.flush();
        }
        Ok(())
    }

    fn step(&mut self, event: Event) {
        if self.core.verdict().is_some() {
            return;
        }
        self.core.step(&mut self.driver, event);
        self.driver.is_undecided = self.core.lifecycle().new_master().is_some();
        let Some(generation) = self.core.serving().map(|index| &self.core.generations()[index]) else { return };
        self.driver.serving = Some(generation.plan.configuration);
        if !std::mem::replace(&mut self.driver.has_served, true) {
            for address in &generation.addresses {
                tracing::info!(address = %address.bound, workers = generation.slots.len(), "listening");
            }
        }
    }

    /// Waits for a signal, a message, a connection, the end of a process, or the next deadline.
    fn wait(&mut self) -> io::Result<()> {
        let now = self.driver.now();
        let retry = self.core.holds_arrivals().then(|| now.after_ms(RETRY_MS));
        self.tick_at = [self.tick_at, self.core.next_deadline(now), retry].into_iter().flatten().min();
        let clients = self.driver.clients.deadline_ns().map(Time);
        let opens = [self.driver.workers.opens_at(), self.driver.orphans.opens_at()];
        let metrics = self.driver.exporter.deadline_ns().map(Time);
        let others =
            [self.watchdog.as_ref().map(Watchdog::next), Some(self.reminder.next()), clients, metrics, self.totals_at];
        let others = others.into_iter().chain(opens);
        let deadline = others.flatten().chain(self.tick_at).min();
        let Driver { workers, sockets, old, new, orphans, clients, control, .. } = &self.driver;
        let mut readable: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd()];
        readable.extend(control.iter().map(|control| control.listener().as_fd()));
        readable.extend(old.iter().filter_map(masters::Old::descriptor));
        readable.extend(new.iter().flat_map(masters::New::descriptors));
        readable.extend(workers.descriptors().chain(orphans.descriptors()));
        if self.core.wants_arrivals() {
            readable.extend(sockets.guards());
            readable.extend(self.unattended().iter().filter_map(|socket| sockets.descriptor(*socket)));
        }
        let metrics = self.driver.metrics_listener();
        readable.extend(metrics.iter().filter(|_| self.driver.is_exporting()).map(|listener| listener.as_fd()));
        let readable = readable.into_iter().map(|descriptor| (descriptor, PollFlags::POLLIN));
        let clients = clients.descriptors().chain(self.driver.exporter.descriptors());
        let awaited: Vec<_> = readable.chain(clients).collect();
        wait_ready(&awaited, deadline.map(|deadline| Duration::from_nanos(deadline.0.saturating_sub(now.0))))
    }

    /// Kept sockets from which the master accepts because no worker does.
    fn unattended(&self) -> Vec<SocketId> {
        self.core.unattended().filter(|socket| self.driver.sockets.is_listening(*socket)).collect()
    }

    fn hear_masters(&mut self) {
        for _ in 0..LAST_WORDS_MAX {
            let Driver { new, sockets, doors_elsewhere, .. } = &mut self.driver;
            let Some(event) = new.as_mut().and_then(|new| new.hear(sockets, doors_elsewhere)) else { break };
            self.driver.is_relaying = matches!(event, Event::FromNew(ToOld::Event { .. }));
            self.step(event);
            self.driver.is_relaying = false;
        }
        for _ in 0..LAST_WORDS_MAX {
            let Driver { old, sockets, doors_elsewhere, .. } = &mut self.driver;
            let Some(event) = old.as_mut().and_then(|old| old.hear(sockets, doors_elsewhere)) else { break };
            self.step(event);
        }
        self.driver.hear_totals();
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            self.hear_masters();
            // A terminal sends WINCH when its window changes size. Only a signal that a process sent counts.
            let is_sent = signal.ssi_code <= 0;
            let signal = match signal::Signal::try_from(signal.ssi_signo as i32) {
                Ok(signal::Signal::SIGHUP) => Signal::Hup,
                Ok(signal::Signal::SIGQUIT) => Signal::Quit,
                Ok(signal::Signal::SIGTERM) => Signal::Term,
                Ok(signal::Signal::SIGINT) => Signal::Int,
                Ok(signal::Signal::SIGUSR2) => Signal::Usr2,
                Ok(signal::Signal::SIGWINCH) if is_sent => Signal::Winch,
                Ok(signal::Signal::SIGUSR1) => {
                    self.driver.reopen_logs();
                    continue;
                }
                _ => continue,
            };
            let was_idle = matches!(self.core.lifecycle(), Lifecycle::Idle(_));
            self.step(Event::Signal(signal));
            let is_idle = matches!(self.core.lifecycle(), Lifecycle::Idle(_));
            if signal == Signal::Winch && (was_idle || !is_idle) {
                tracing::warn!("WINCH is ignored: the workers are starting or already leaving");
            }
        }
    }

    fn serve_clients(&mut self) {
        self.driver.accept_clients();
        let now = self.driver.now();
        let asked = self.driver.clients.hear(now.0);
        // A client that has learned the end of an upgrade may ask now, so this master must have read the same message.
        self.hear_masters();
        for asked in asked {
            match asked {
                Asked::Request(client, request) => self.answer(client, request),
                Asked::Gone(client) => self.step(Event::ClientGone(ClientId(client))),
            }
        }
    }

    fn answer(&mut self, client: u64, request: control::Request) {
        match request {
            control::Request::Status => {
                let counted = self.driver.tell_totals();
                let status = self.status(&counted);
                self.driver.clients.reply(client, &Reply::Status(status));
            }
            control::Request::Events { follow } => {
                let Driver { journal, clients, .. } = &mut self.driver;
                journal.events().for_each(|event| clients.reply(client, &Reply::Event(event.clone())));
                if !follow {
                    clients.reply(client, &Reply::Done(Outcome::Listed));
                }
            }
            request => {
                let request = Request::of(request).into_iter();
                request.for_each(|request| self.step(Event::Request(ClientId(client), request)));
            }
        }
    }

    fn hear_workers(&mut self) {
        let now = self.driver.now();
        for process in self.driver.workers.processes() {
            for _ in 0..HEARD_PER_TURN {
                if !self.driver.workers.is_open(process, now) || !self.hear_worker(process, now) {
                    break;
                }
            }
        }
    }

    /// Reads a report of a worker. Returns `false` if there is none.
    fn hear_worker(&mut self, process: ProcessId, now: Time) -> bool {
        let event = self.driver.workers.hear(process, now);
        event.map(|event| self.step(event)).is_some()
    }

    fn hear_orphans(&mut self) {
        let now = self.driver.now();
        for process in self.driver.orphans.processes() {
            for _ in 0..HEARD_PER_TURN {
                let Driver { orphans, sockets, .. } = &mut self.driver;
                if !orphans.is_open(process, now) {
                    break;
                }
                let Some(event) = orphans.hear(process, sockets, now) else { break };
                self.step(event);
            }
        }
    }

    /// Looks for children that have ended. The core gets their last messages before their end.
    fn reap(&mut self) {
        for process in self.driver.workers.processes() {
            let Some(exit) = self.driver.workers.reap(process) else { continue };
            let now = self.driver.now();
            // Its channel has room for this many messages. More could only come from another process that has the
            // channel, and is ignored.
            let _ = (0..LAST_WORDS_MAX).try_for_each(|_| self.hear_worker(process, now).then_some(()));
            self.driver.workers.forget(process);
            self.driver.rendezvous.iter().for_each(|folder| rendezvous::forget(folder, process.0));
            self.step(Event::Ended(process, exit));
        }
        let ended = self.driver.new.as_mut().and_then(|new| Some((new.process, new.reap()?)));
        if let Some((process, exit)) = ended {
            self.hear_masters();
            self.driver.new_ended();
            self.step(Event::Ended(process, exit));
        }
    }

    /// Accepts connections that arrived at guards, and at sockets whose workers are missing.
    fn accept(&mut self) {
        while self.core.wants_arrivals() {
            let Some(arrival) = self.driver.sockets.accept_from_guards() else { break };
            self.step(Event::Arrived(arrival));
        }
        if !self.core.wants_arrivals() {
            return;
        }
        for socket in self.unattended() {
            while self.core.wants_arrivals() {
                let Some(arrival) = self.driver.sockets.accept_from(socket) else { break };
                self.step(Event::Arrived(arrival));
            }
        }
    }

    fn tick(&mut self) {
        let now = self.driver.now();
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = None;
            self.step(Event::Tick);
        }
        self.watchdog.iter_mut().for_each(|watchdog| watchdog.ping(now));
        self.remind();
        self.tell_totals_in_time(now);
    }

    fn flush(&mut self) {
        if self.core.verdict().is_some() {
            return;
        }
        for client in self.driver.clients.flush() {
            self.step(Event::ClientGone(ClientId(client)));
        }
    }

    /// Drops what the core does not refer to any more.
    fn tidy(&mut self) {
        let core = &self.core;
        self.driver.configurations.retain(|id| core.configurations().any(|one| one == id));
        self.driver.workers.retain_ended(|number| core.generations().iter().any(|one| one.number == number));
    }

    /// The server has ended: tells clients that still wait, and sends pending output.
    fn finish(&mut self, verdict: &Result<(), Failure>) {
        let Driver { new, old, .. } = &self.driver;
        let is_succeeded =
            new.as_ref().is_some_and(masters::New::is_alive) || old.as_ref().is_some_and(masters::Old::is_alive);
        // The numbers do not change here any more.
        self.driver.tell_totals();
        self.driver.sockets.finish(is_succeeded);
        self.driver.control = None;
        self.driver.rendezvous.iter().for_each(|folder| rendezvous::tidy(folder));
        self.driver.pid_file.remove();
        // Answer last: a client that gets its answer finds this process ended.
        self.driver.sockets = Default::default();
        self.driver.clients.conclude_all(&match verdict {
            Ok(()) => Reply::Done(Outcome::Stopped),
            Err(why) => Reply::Failed(why.clone()),
        });
        self.driver.clients.flush();
        // Nothing is left that this wait could delay.
        let until = self.driver.now().after_ms(FLUSH_MS_MAX);
        while self.driver.clients.has_output() {
            let left_ns = until.0.saturating_sub(self.driver.now().0);
            let awaited: Vec<_> = self.driver.clients.descriptors().collect();
            if left_ns == 0 || wait_ready(&awaited, Some(Duration::from_nanos(left_ns))).is_err() {
                break;
            }
            self.driver.clients.flush();
        }
    }

    /// The loop cannot continue: kills all workers, so that none is left behind.
    fn kill_all(&mut self) {
        for process in self.driver.workers.processes() {
            self.driver.kill(process);
        }
    }
}

fn wait_ready(awaited: &[(BorrowedFd<'_>, PollFlags)], timeout: Option<Duration>) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> =
        awaited.iter().map(|(descriptor, flags)| PollFd::new(*descriptor, *flags)).collect();
    let timeout = match timeout {
        // One millisecond more, so that a wait does not end just before its deadline.
        Some(timeout) => PollTimeout::try_from(timeout.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Converts an error of the system to a failure of the control protocol.
fn system(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::System { problem: format!("{what}: {error}") }
}
