//! An upgrade as the old master sees it: the new binary is started, reports, serves; then the old workers leave, or both
//! serve until somebody decides; and where the new one does not come up or does not last, the old workers serve on, or again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::generation::Phase;
use super::supervise::End;
use super::{Master, notify};
use crate::ipc::channel::{self, Heard};
use crate::ipc::control::Reply;
use crate::ipc::orders::Order;
use crate::ipc::relay::{RELAY_VARIABLE, RELAY_VERSION, ToNew, ToOld};
use crate::sys::channel::DESCRIPTORS_MAX;
use crate::sys::{inheritance, process};

/// A new binary serves within this time, unless another is given.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// A new master that was relieved leaves within its workers' drain time; one that was told to leave and does not is killed
/// after so much more.
const LEAVE_GRACE: Duration = Duration::from_secs(60);

/// Its workers may have been forked just when it was killed: they are looked for once more.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// So many fit into one message, with their addresses.
const LISTENERS_PER_MESSAGE: usize = 200;

const _: () = assert!(LISTENERS_PER_MESSAGE <= DESCRIPTORS_MAX);

/// What to start, and how to go on.
#[derive(Clone, Debug, Default)]
pub(super) struct Upgrade {
    pub(super) binary: Option<PathBuf>,
    pub(super) arguments: Option<Vec<String>>,
    pub(super) is_held: bool,
    pub(super) probation: Option<Duration>,
    pub(super) timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has not said yet that it serves.
    Starting,
    /// It serves; it may still be sent back.
    Serving,
    /// It has been sent back: the old workers come up again, if they had left.
    Reverting,
    /// The old workers serve; it leaves.
    Relieved,
}

/// The new master.
pub(super) struct Successor {
    pid: Pid,
    process: Option<OwnedFd>,
    channel: OwnedFd,
    pub(super) state: State,
    pub(super) is_held: bool,
    probation: Option<Duration>,
    /// Of the state it is in.
    pub(super) deadline: Option<Instant>,
    /// Its start, for those who wait for that.
    operation: u32,
    /// Its end, for those who wait for that.
    leaving: u32,
    began: Instant,
    /// How it ended, once that is known.
    ended: Option<nix::Result<WaitStatus>>,
}

impl Successor {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.channel.as_fd()).chain(self.process.as_ref().map(AsFd::as_fd))
    }

    fn tell(&self, message: &ToNew) {
        // One that is gone is noticed at its channel's end.
        let _ = channel::tell(&self.channel, message);
    }

    pub(super) fn channel(&self) -> &OwnedFd {
        &self.channel
    }

    /// It has been sent back, and its workers bring what they have.
    pub(super) fn is_reverted(&self) -> bool {
        matches!(self.state, State::Reverting | State::Relieved)
    }

    pub(super) fn is_starting(&self) -> bool {
        self.state == State::Starting
    }

    pub(super) fn describe(&self) -> &'static str {
        match (self.state, self.is_held) {
            (State::Starting, _) => "starting",
            (State::Serving, true) => "held",
            (State::Serving, false) => "on probation",
            (State::Reverting | State::Relieved, _) => "reverting",
        }
    }
}

impl Master<'_> {
    /// Starts the new binary; gives the operation whose outcome will be told.
    pub(super) fn upgrade(&mut self, upgrade: Upgrade) -> Result<u32, String> {
        if self.stopping {
            return Err("the server is stopping".to_owned());
        }
        if let Some(successor) = &self.successor {
            return Err(format!("an upgrade is {}; commit or revert it first", successor.describe()));
        }
        if self.predecessor.as_ref().is_some_and(|predecessor| predecessor.is_undecided()) {
            return Err("this binary is new itself; commit or revert first".to_owned());
        }
        if self.is_changing() {
            return Err("a reload, or a change of the number of workers, is under way; ask again".to_owned());
        }
        let Some(index) = self.serving() else {
            return Err("no generation serves; reload first".to_owned());
        };
        let generation = &self.generations[index];
        if upgrade.is_held && generation.has_state() {
            return Err(
                "its workers have state that only one of two servers can have: upgrade without holding".to_owned()
            );
        }
        generation.refuse_large_state(&generation.settings)?;
        let binary = upgrade.binary.clone().unwrap_or_else(|| self.executable.clone());
        let (ours, theirs) = channel::pair().map_err(|error| format!("socketpair: {error}"))?;
        let mut command = Command::new(&binary);
        match &upgrade.arguments {
            Some(arguments) => command.args(arguments),
            None => command.args(std::env::args_os().skip(1)),
        };
        inheritance::pass(&mut command, RELAY_VARIABLE, &theirs).map_err(|error| format!("fcntl: {error}"))?;
        self.greet(index, &ours, upgrade.is_held).map_err(|error| format!("writing to the new binary: {error}"))?;
        // It says whom the service manager means; the new master is meant when it is the main process.
        command.env_remove("WATCHDOG_PID");
        let child = command.spawn().map_err(|error| format!("{} cannot be started: {error}", binary.display()))?;
        drop(theirs);
        let pid = Pid::from_raw(child.id() as i32);
        let (operation, leaving) = (self.new_operation(), self.new_operation());
        self.journal.begin("upgrade", self.next_number);
        tracing::info!(binary = %binary.display(), pid = pid.as_raw(), "upgrade: starting");
        self.event(None, format_args!("{} is started, pid {pid}", binary.display()));
        self.successor = Some(Successor {
            pid,
            process: process::open(pid).ok(),
            channel: ours,
            state: State::Starting,
            is_held: upgrade.is_held,
            probation: upgrade.probation,
            deadline: Some(Instant::now() + upgrade.timeout.unwrap_or(TIMEOUT_DEFAULT)),
            operation,
            leaving,
            began: Instant::now(),
            ended: None,
        });
        Ok(operation)
    }

    /// Puts what the new master needs into the channel, before there is one.
    fn greet(&self, index: usize, channel: &OwnedFd, is_held: bool) -> std::io::Result<()> {
        let generation = &self.generations[index];
        let maps = if is_held { &generation.steering[..] } else { &[] };
        let hello = ToNew::Hello {
            version: RELAY_VERSION,
            pid: std::process::id(),
            next_number: self.next_number,
            tier: self.tier.to_string(),
            is_held,
            addresses: generation.addresses.clone(),
            messages: self.kept.chunks(LISTENERS_PER_MESSAGE).count() + maps.len(),
        };
        channel::tell(channel, &hello)?;
        for kept in self.kept.chunks(LISTENERS_PER_MESSAGE) {
            let addresses = kept.iter().map(|kept| kept.address).collect();
            let sockets: Vec<BorrowedFd<'_>> = kept.iter().map(|kept| kept.socket.as_fd()).collect();
            channel::tell_with_all(channel, &ToNew::Listeners { addresses }, &sockets)?;
        }
        for ((_, address), steering) in generation.addresses.iter().zip(maps) {
            let address = *address;
            let places = generation.slots.len() as u32;
            channel::tell_with(channel, &ToNew::Map { address, places }, steering.map())?;
        }
        Ok(())
    }

    pub(super) fn hear_successor(&mut self) {
        while let Some(successor) = &self.successor {
            match channel::hear::<ToOld>(&successor.channel) {
                Ok(Heard::Message(message)) => self.heard_successor(message),
                Ok(Heard::Nothing) => return,
                Ok(Heard::End) => return self.successor_ended(None),
                Err(error) => return self.successor_ended(Some(format!("it does not speak as a new binary: {error}"))),
            }
        }
    }

    /// What the new master says after the upgrade is final.
    pub(super) fn hear_relay(&mut self) {
        while let Some(channel) = &self.relay {
            match channel::hear::<ToOld>(channel) {
                Ok(Heard::Message(ToOld::Meetings { meetings })) => self.hear_meetings(meetings),
                Ok(Heard::Message(_)) => {}
                Ok(Heard::Nothing) => return,
                Ok(Heard::End) | Err(_) => self.relay = None,
            }
        }
    }

    fn hear_meetings(&mut self, meetings: Vec<String>) {
        self.heirs_elsewhere = meetings;
        self.tell_heirs();
    }

    fn heard_successor(&mut self, message: ToOld) {
        let Some(successor) = &mut self.successor else { return };
        let is_trusted = successor.state == State::Serving;
        match message {
            ToOld::Event { generation, message } => self.event(generation, message),
            ToOld::Ready { generation, tier, meetings } if successor.state == State::Starting => {
                self.heirs_elsewhere = meetings;
                self.succeeded(generation, &tier);
            }
            ToOld::Failed { reason } => self.successor_ended(Some(reason)),
            ToOld::Trouble { reason } if is_trusted && successor.probation.is_some() => self.revert(&reason),
            ToOld::Meetings { meetings } => self.hear_meetings(meetings),
            ToOld::Named if is_trusted => self.named(),
            ToOld::Commit if is_trusted => drop(self.commit()),
            ToOld::Revert { reason } if is_trusted => self.revert(&reason),
            ToOld::Ready { .. }
            | ToOld::Named
            | ToOld::Trouble { .. }
            | ToOld::Commit
            | ToOld::Revert { .. }
            | ToOld::Unknown => {}
        }
    }

    /// The new master serves.
    fn succeeded(&mut self, generation: u32, tier: &str) {
        let Some(successor) = &mut self.successor else { return };
        successor.state = State::Serving;
        successor.deadline = successor.probation.map(|probation| Instant::now() + probation);
        let (pid, is_held) = (successor.pid, successor.is_held);
        let took_ms = successor.began.elapsed().as_millis();
        self.is_succeeded_alike = tier == self.tier.to_string();
        self.next_number = self.next_number.max(generation.saturating_add(1));
        if let Some(control) = &mut self.control {
            control.name_was_taken();
        }
        // The new one writes it next; it is not this one's to take away.
        self.has_pid_file = false;
        tracing::info!(pid = pid.as_raw(), generation, took_ms, "upgrade: the new binary serves");
        notify::main_process(pid.as_raw() as u32);
        self.event(Some(generation), format_args!("of pid {pid} serves, {took_ms} ms after the upgrade began"));
        if !is_held {
            self.leave_to_successor();
        }
    }

    /// The new master has all names: whoever asks by them, or signals the pid of the file, meets it.
    fn named(&mut self) {
        let Some(successor) = &self.successor else { return };
        let (pid, operation) = (successor.pid, successor.operation);
        let message = match (successor.is_held, successor.probation.is_some()) {
            (true, false) => format!("pid {pid} serves, and so does this one, until commit or revert"),
            (true, true) => "both serve; to be committed in time".to_owned(),
            (false, true) => "on probation; the workers before drain".to_owned(),
            // The new master knows that before anybody asks it for the next one.
            (false, false) => return self.finish_upgrade(),
        };
        if successor.probation.is_some() {
            // How that ends is what is waited for.
            self.event(None, message);
        } else {
            self.conclude(operation, &Reply::Done { message });
        }
    }

    /// The old workers leave, the old master stays for now.
    fn leave_to_successor(&mut self) {
        self.is_idle = true;
        self.moves.is_owed = true;
        self.tell_successor_to_take_all();
        let Some(index) = self.serving() else { return };
        let farewell = match self.farewell(index) {
            // Sockets that the new one has not taken must be emptied and closed in order.
            Order::Drain { drain_ms, .. } if !self.is_succeeded_alike => {
                let settle_ms = self.generations[index].settings.timeouts.settle_ms;
                Order::Drain { settle_ms, drain_ms, is_succeeded: false }
            }
            farewell => farewell,
        };
        self.send_away(index, farewell);
    }

    /// There is no way back: this master ends when its workers have.
    fn finish_upgrade(&mut self) {
        let Some(successor) = self.successor.take() else { return };
        successor.tell(&ToNew::Final);
        self.relay = Some(successor.channel);
        self.is_idle = false;
        self.is_leaving = true;
        self.reload_again = false;
        // What it was at is the new master's now.
        self.kept.clear();
        tracing::info!(pid = successor.pid.as_raw(), "upgrade: this master leaves when its workers have");
        let message = format!("pid {} serves, and the upgrade is final; the workers before drain", successor.pid);
        self.event(None, &message);
        self.conclude_when_moved(successor.operation, message);
        self.predecessor = None;
    }

    /// Makes an upgrade that is held, or on probation, final.
    pub(super) fn commit(&mut self) -> Result<String, String> {
        let Some(successor) = self.successor.as_ref().filter(|successor| successor.state == State::Serving) else {
            return Err("no upgrade waits for being committed".to_owned());
        };
        let message = format!("pid {} stays; the workers before drain", successor.pid);
        self.leave_to_successor();
        self.finish_upgrade();
        Ok(message)
    }

    /// Old workers serve, and the new master leaves.
    pub(super) fn revert(&mut self, reason: &str) {
        let Some(successor) = &mut self.successor else { return };
        successor.state = State::Reverting;
        successor.deadline = None;
        let (pid, operation) = (successor.pid, successor.operation);
        self.last_revert = Some(format!("to pid {pid}: {reason}"));
        self.journal.begin("revert", self.next_number);
        self.conclude(operation, &Reply::Failed { reason: format!("reverted from pid {pid}: {reason}") });
        tracing::warn!(pid = pid.as_raw(), "upgrade: reverting: {reason}");
        self.event(None, format_args!("reverting from pid {pid}: {reason}"));
        self.serve_again();
    }

    /// Asked to revert; gives the operation whose outcome will be told.
    pub(super) fn begin_revert(&mut self, reason: &str) -> Result<u32, String> {
        let Some(successor) = self.successor.as_ref().filter(|successor| successor.state == State::Serving) else {
            return Err("no upgrade can be reverted".to_owned());
        };
        let operation = successor.leaving;
        self.revert(reason);
        Ok(operation)
    }

    /// Has the old workers serve alone, starting them again where they have left; as they were configured, without reading
    /// that again.
    pub(super) fn serve_again(&mut self) {
        if let Some(index) = self.serving() {
            if let Err(error) = self.steer_to(index) {
                tracing::error!("steering back: {error}");
            }
            return self.serves_again();
        }
        if self.is_changing() {
            return;
        }
        let Some((settings, service)) = self.last.clone() else { return };
        if let Err(error) = self.begin(settings, service, "revert") {
            self.cannot_serve_again(&error.to_string());
            self.abandon(error);
        }
    }

    /// The old workers serve: the new master may go.
    pub(super) fn serves_again(&mut self) {
        let Some(successor) = self.successor.as_mut().filter(|successor| successor.state == State::Reverting) else {
            return;
        };
        successor.state = State::Relieved;
        successor.deadline = Some(Instant::now() + LEAVE_GRACE);
        self.take_name_back();
        self.heirs_elsewhere.clear();
        if let Some(successor) = &self.successor {
            successor.tell(&ToNew::Relieved { meetings: self.meetings() });
        }
        self.event(None, "the workers before serve again");
    }

    fn take_name_back(&mut self) {
        if let Some(control) = &mut self.control
            && let Err(error) = control.take_name_back()
        {
            tracing::error!("the control socket's name cannot be had back: {error}");
        }
        self.write_pid_file();
        notify::main_process(std::process::id());
    }

    /// The old workers do not come up again: the new master has to stay.
    pub(super) fn cannot_serve_again(&mut self, reason: &str) {
        let Some(successor) = self.successor.as_mut().filter(|successor| successor.state == State::Reverting) else {
            return;
        };
        successor.state = State::Serving;
        successor.is_held = true;
        let leaving = successor.leaving;
        successor.tell(&ToNew::NotRelieved { reason: reason.to_owned() });
        tracing::error!("upgrade: not reverted, the workers before do not come up: {reason}");
        self.event(None, format_args!("not reverted: {reason}"));
        self.conclude(leaving, &Reply::Failed { reason: reason.to_owned() });
    }

    /// The new master has failed, or is gone.
    fn successor_ended(&mut self, said: Option<String>) {
        let Some(successor) = self.successor.take() else { return };
        self.heirs_elsewhere.clear();
        let pid = successor.pid;
        if let Some(process) = &successor.process {
            // One that has said it fails ends by itself; whatever else it is at, it ends now.
            let _ = process::kill(process.as_fd());
        }
        let status = successor.ended.unwrap_or_else(|| {
            loop {
                match waitpid(pid, None) {
                    Err(Errno::EINTR) => {}
                    status => break status,
                }
            }
        });
        let was_sent_back = successor.state == State::Relieved && matches!(status, Ok(WaitStatus::Exited(_, 0)));
        let reason = said.unwrap_or_else(|| format!("the new binary, pid {pid}, {}", End(status)));
        // Its workers may be alive, and would serve on.
        self.find_orphans_later();
        match successor.state {
            State::Starting => {
                tracing::error!(pid = pid.as_raw(), "upgrade failed, the workers serve on as before: {reason}");
                self.event(None, format_args!("the upgrade has failed: {reason}"));
                self.last_revert = Some(format!("to pid {pid}: {reason}"));
                self.serve_again();
                self.conclude(successor.operation, &Reply::Failed { reason });
            }
            State::Serving => {
                tracing::error!(pid = pid.as_raw(), "upgrade: the new master is gone: {reason}");
                self.event(None, format_args!("the new master is gone: {reason}"));
                self.last_revert = Some(format!("to pid {pid}: {reason}"));
                self.conclude(successor.operation, &Reply::Failed { reason });
                self.take_name_back();
                self.serve_again();
            }
            State::Reverting | State::Relieved => {
                let how = if was_sent_back { "has left".to_owned() } else { reason };
                tracing::info!(pid = pid.as_raw(), "upgrade: reverted, the new master {how}");
                self.event(None, format_args!("the new master {how}"));
                self.take_name_back();
                self.conclude(
                    successor.leaving,
                    &Reply::Done { message: format!("reverted; pid {} serves", std::process::id()) },
                );
            }
        }
    }

    /// Looks for a new master that ended without its channel: one that never had it.
    pub(super) fn reap_successor(&mut self) {
        let Some(successor) = self.successor.as_mut() else { return };
        let status = waitpid(successor.pid, Some(WaitPidFlag::WNOHANG));
        if !matches!(status, Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)) {
            successor.ended = Some(status);
            // What it has said last is in the channel, and perhaps others hold that open.
            self.hear_successor();
            self.successor_ended(None);
        }
    }

    pub(super) fn check_successor(&mut self, now: Instant) {
        if self.second_look.is_some_and(|at| at <= now) {
            self.second_look = None;
            self.find_more_orphans();
        }
        let Some(successor) =
            self.successor.as_ref().filter(|one| one.deadline.is_some_and(|deadline| deadline <= now))
        else {
            return;
        };
        match successor.state {
            State::Starting => {
                let seconds = successor.began.elapsed().as_secs();
                self.successor_ended(Some(format!("the new binary did not serve within {seconds} s")));
            }
            State::Serving if successor.is_held => self.revert("nobody has committed it in time"),
            State::Serving => {
                self.event(None, "the probation is over");
                self.finish_upgrade();
            }
            State::Reverting | State::Relieved => self.successor_ended(Some("it did not leave in time".to_owned())),
        }
    }

    fn find_orphans_later(&mut self) {
        self.find_more_orphans();
        self.second_look = Some(Instant::now() + SECOND_LOOK);
    }

    /// `false` where there is no new master that serves.
    pub(super) fn tell_successor_to_take_all(&mut self) -> bool {
        let serves = self.successor.as_ref().filter(|successor| successor.state == State::Serving);
        serves.inspect(|successor| successor.tell(&ToNew::Alone)).is_some()
    }

    /// This master was told to stop: the new one stays if it serves, and is given up if it does not yet.
    pub(super) fn decide_by_leaving(&mut self) {
        match self.successor.as_ref().map(|successor| successor.state) {
            Some(State::Serving) => {
                self.tell_successor_to_take_all();
                self.finish_upgrade();
            }
            Some(State::Starting) => self.successor_ended(Some("the server stops".to_owned())),
            Some(State::Reverting | State::Relieved) | None => {}
        }
    }

    /// By hand: the old workers are wanted again, beside the new master's.
    pub(super) fn serve_beside_successor(&mut self) -> Result<(), String> {
        if self.generations.iter().any(|generation| generation.phase == Phase::Serving) {
            return Err("the workers serve; QUIT to the new master ends it".to_owned());
        }
        self.serve_again();
        Ok(())
    }
}
