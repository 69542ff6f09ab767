//! An upgrade as the new master sees it: it was started by an old one, which tells what there is, is told how far the new
//! one comes, and takes back over where that is sent away before the upgrade is final.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::leave::Stop;
use super::{Master, wait_ready};
use crate::error::ServerError;
use crate::ipc::channel::{self, Heard, hear_with_all};
use crate::ipc::control::Reply;
use crate::ipc::relay::{RELAY_VARIABLE, RELAY_VERSION, ToNew, ToOld};
use crate::sys::inheritance;

/// The old master has written before this one was started.
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);

/// The old master has its workers up again within this time, or this one goes without them.
const RELIEF_TIME_MAX: Duration = Duration::from_secs(15);

/// The old master.
pub(super) struct Predecessor {
    channel: OwnedFd,
    pub(super) pid: u32,
    pub(super) tier: String,
    next_number: u32,
    addresses: Vec<(SocketAddr, SocketAddr)>,
    listeners: Vec<(SocketAddr, OwnedFd)>,
    /// Its maps of listeners, with how many places are in use; as long as both are to serve.
    maps: Vec<(SocketAddr, u32, OwnedFd)>,
    is_held: bool,
    /// It may be asked to take back over.
    is_undecided: bool,
    /// Its workers may still bring connections, and state of their own.
    pub(super) is_moving: bool,
    /// How to stop, once it has taken back over.
    pub(super) stop: Option<Stop>,
    pub(super) deadline: Option<Instant>,
    has_ended: bool,
}

impl Predecessor {
    /// Meets the master that started this process, if one did.
    pub(super) fn meet() -> Result<Option<Self>, ServerError> {
        let Some(channel) = inheritance::take(RELAY_VARIABLE) else { return Ok(None) };
        let mut this = Self {
            channel,
            pid: 0,
            tier: String::new(),
            next_number: 1,
            addresses: Vec::new(),
            listeners: Vec::new(),
            maps: Vec::new(),
            is_held: false,
            is_undecided: true,
            is_moving: true,
            stop: None,
            deadline: None,
            has_ended: false,
        };
        let until = Instant::now() + HELLO_TIME_MAX;
        let mut missing = 1;
        while missing > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ServerError::Upgrade { problem: "the old master does not say what there is".to_owned() });
            }
            wait_ready(&[this.descriptor()], &[], Some(left))
                .map_err(|source| ServerError::System { what: "poll", source })?;
            missing = this.hear_greeting(missing)?;
        }
        Ok(Some(this))
    }

    /// Gives how many messages are still missing.
    fn hear_greeting(&mut self, missing: usize) -> Result<usize, ServerError> {
        let problem = |problem: String| ServerError::Upgrade { problem };
        match hear_with_all::<ToNew>(&self.channel) {
            Ok((Heard::Message(ToNew::Hello { version, .. }), _)) if version != RELAY_VERSION => {
                Err(problem(format!("the old master speaks version {version} of upgrades, this one {RELAY_VERSION}")))
            }
            Ok((Heard::Message(ToNew::Hello { pid, next_number, tier, is_held, addresses, messages, .. }), _)) => {
                (self.pid, self.next_number, self.tier) = (pid, next_number, tier);
                (self.is_held, self.addresses) = (is_held, addresses);
                Ok(messages)
            }
            Ok((Heard::Message(ToNew::Listeners { addresses }), sockets)) => {
                self.listeners.extend(addresses.into_iter().zip(sockets));
                Ok(missing - 1)
            }
            Ok((Heard::Message(ToNew::Map { address, places }), maps)) => {
                self.maps.extend(maps.into_iter().map(|map| (address, places, map)));
                Ok(missing - 1)
            }
            Ok((Heard::Message(_), _)) => Ok(missing),
            Ok((Heard::Nothing, _)) => Ok(missing),
            Ok((Heard::End, _)) => Err(problem("the old master is gone".to_owned())),
            Err(error) => Err(problem(format!("the old master is not understood: {error}"))),
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// The old one's map for an address, while both are to serve.
    pub(super) fn map(&self, address: SocketAddr) -> Option<(BorrowedFd<'_>, u32)> {
        let maps = self.maps.iter().filter(|_| self.is_held);
        maps.filter(|(of, ..)| *of == address).map(|(_, places, map)| (map.as_fd(), *places)).next()
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.is_undecided
    }

    pub(super) fn describe(&self) -> Option<&'static str> {
        match (self.is_undecided, self.is_held) {
            (false, _) => None,
            (true, true) => Some("new, held"),
            (true, false) => Some("new, may be reverted"),
        }
    }

    pub(super) fn tell(&self, message: &ToOld) {
        // One that is gone is noticed at its channel's end.
        let _ = channel::tell(&self.channel, message);
    }
}

/// Tells the master that started this process for an upgrade, if one did, why this one cannot run: for programs that find
/// that out before they run a server.
pub fn refuse_upgrade(reason: &str) {
    if let Some(channel) = inheritance::take(RELAY_VARIABLE) {
        let _ = channel::tell(&channel, &ToOld::Failed { reason: reason.to_owned() });
    }
}

impl Master<'_> {
    /// Takes what the old master has passed.
    pub(super) fn inherit(&mut self) {
        let adopts = self.adopts();
        let Some(predecessor) = &mut self.predecessor else { return };
        self.next_number = predecessor.next_number;
        self.addresses.clone_from(&predecessor.addresses);
        let listeners = std::mem::take(&mut predecessor.listeners);
        for (address, socket) in listeners.into_iter().filter(|_| adopts) {
            self.keep(address, socket.into());
        }
    }

    /// The first generation serves: the old master is told, and this one gets its names.
    pub(super) fn report_ready(&mut self, generation: u32) {
        let Some(predecessor) = &self.predecessor else { return };
        let pid = predecessor.pid;
        if let Some(control) = self.control.as_mut().filter(|control| control.is_beside())
            && let Err(error) = control.take_name(pid)
        {
            tracing::error!("the control socket's name cannot be taken over: {error}");
        }
        if let Some(predecessor) = &self.predecessor {
            let meetings = self.meetings();
            predecessor.tell(&ToOld::Ready { generation, tier: self.tier.to_string(), meetings });
        }
        // So that whoever signals the process of that file finds the old master told.
        self.write_pid_file();
        if let Some(predecessor) = &self.predecessor {
            predecessor.tell(&ToOld::Named);
        }
    }

    pub(super) fn hear_predecessor(&mut self) {
        while let Some(predecessor) = self.predecessor.as_mut().filter(|predecessor| !predecessor.has_ended) {
            match channel::hear::<ToNew>(&predecessor.channel) {
                Ok(Heard::Message(ToNew::Alone)) => self.take_all(),
                Ok(Heard::Message(ToNew::Final)) => self.stay(),
                Ok(Heard::Message(ToNew::Moved)) => predecessor.is_moving = false,
                Ok(Heard::Message(ToNew::Relieved { meetings })) => {
                    self.heirs_elsewhere = meetings;
                    self.relieved();
                }
                Ok(Heard::Message(ToNew::NotRelieved { reason })) => {
                    predecessor.stop = None;
                    predecessor.deadline = None;
                    tracing::error!("this server stays: the one before does not come up: {reason}");
                }
                Ok(Heard::Message(_)) => {}
                Ok(Heard::Nothing) => return,
                Ok(Heard::End) | Err(_) => {
                    predecessor.has_ended = true;
                    self.lose_predecessor();
                }
            }
        }
    }

    /// The upgrade is final.
    fn stay(&mut self) {
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.is_undecided = false;
        }
        self.event(None, "the upgrade is final");
        if let Some(operation) = self.commit.take() {
            let message = format!("pid {} stays", std::process::id());
            self.conclude(operation, &Reply::Done { message });
        }
    }

    /// The old workers leave: this server's have all connections.
    fn take_all(&mut self) {
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.is_held = false;
        }
        if let Some(index) = self.serving()
            && let Err(error) = self.steer_to(index)
        {
            tracing::error!("steering: {error}");
        }
    }

    /// Where this master is new: asks the old one to make the upgrade final; gives the operation whose outcome will be told.
    pub(super) fn ask_to_commit(&mut self) -> Option<u32> {
        let predecessor = self.predecessor.as_ref().filter(|predecessor| predecessor.is_undecided)?;
        predecessor.tell(&ToOld::Commit);
        let operation = self.new_operation();
        self.commit = Some(operation);
        Some(operation)
    }

    /// A worker died or hung.
    pub(super) fn report_trouble(&self, reason: String) {
        if let Some(predecessor) = self.predecessor.as_ref().filter(|predecessor| predecessor.is_undecided) {
            predecessor.tell(&ToOld::Trouble { reason });
        }
    }

    /// The old workers serve: this one may go.
    fn relieved(&mut self) {
        let Some(predecessor) = &mut self.predecessor else { return };
        predecessor.is_undecided = false;
        let how = predecessor.stop.take().unwrap_or(Stop::Graceful { drain_ms: None });
        predecessor.deadline = None;
        if let Some(control) = &mut self.control {
            control.leave_name();
        }
        self.has_pid_file = false;
        self.leave_relieved(how);
    }

    /// The old master is gone, in good order or not.
    fn lose_predecessor(&mut self) {
        let Some(predecessor) = &mut self.predecessor else { return };
        let was_undecided = std::mem::take(&mut predecessor.is_undecided);
        predecessor.is_held = false;
        let waiting = predecessor.stop.take();
        if was_undecided && self.serving().is_some() {
            tracing::warn!("the old master is gone; this one stays, and takes its workers over");
            self.take_all();
            self.stay();
        } else {
            self.event(None, "the old master is gone");
        }
        self.predecessor = None;
        // Its workers, where it was killed.
        self.find_more_orphans();
        if let Some(how) = waiting {
            self.stop(how, "the order before");
        }
    }

    /// Before an upgrade is final, a stop is a way back: `true` where the old master was asked to take over first.
    pub(super) fn asks_for_relief(&mut self, how: Stop, by: &str) -> bool {
        let serves = self.serving().is_some();
        let Some(predecessor) = self.predecessor.as_mut().filter(|one| one.is_undecided && serves) else {
            return false;
        };
        if predecessor.stop.is_some() {
            // Asked again: without waiting.
            predecessor.is_undecided = false;
            return false;
        }
        predecessor.stop = Some(how);
        predecessor.deadline = Some(Instant::now() + RELIEF_TIME_MAX);
        predecessor.tell(&ToOld::Revert { reason: format!("the new master was stopped by {by}") });
        tracing::info!(signal = by, "stopping: the old master takes over first");
        self.event(None, format_args!("stopping, by {by}: the old master takes over first"));
        true
    }

    pub(super) fn check_predecessor(&mut self, now: Instant) {
        let Some(predecessor) = &mut self.predecessor else { return };
        if predecessor.deadline.is_some_and(|deadline| deadline <= now) {
            predecessor.deadline = None;
            predecessor.is_undecided = false;
            if let Some(how) = predecessor.stop.take() {
                tracing::error!("the old master does not take over; stopping without");
                self.stop(how, "the order before");
            }
        }
    }
}
