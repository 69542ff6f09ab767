//! Workers of a master that is gone: found, taken over, and sent away once workers of this one serve.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::leave::{STOP_GRACE, Stop, inheritance};
use super::{Generation, Master, wait_ready};
use crate::config::Timeouts;
use crate::error::ServerError;
use crate::ipc::channel::{self, Heard, hear_with};
use crate::ipc::orders::{Order, Report};
use crate::ipc::rendezvous::{self, Found};
use crate::sys::process;

/// Orphans answer at once; those that hang do not.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// See the module's head.
pub(super) struct Orphan {
    pub(super) pid: u32,
    process: Option<OwnedFd>,
    channel: OwnedFd,
    /// What it said of itself; nothing while its own master lives, or while it hangs.
    pub(super) known: Option<Known>,
    /// Told to leave; killed then.
    pub(super) deadline: Option<Instant>,
    is_gone: bool,
    /// It was told whom to bring its connections to, and has not said yet what came of that.
    is_moving: bool,
}

/// What an orphan said of itself.
pub(super) struct Known {
    pub(super) generation: u32,
    pub(super) slot: usize,
    pub(super) addresses: Vec<SocketAddr>,
    /// Listen sockets that it is still to share.
    missing: usize,
}

impl Orphan {
    fn new(Found { pid, channel }: Found) -> Self {
        let process = process::open(Pid::from_raw(pid as i32)).ok();
        Self { pid, process, channel, known: None, deadline: None, is_gone: false, is_moving: false }
    }

    pub(super) fn is_heard(&self) -> bool {
        self.known.is_some()
    }

    pub(super) fn is_moving(&self) -> bool {
        self.is_moving
    }

    fn is_settled(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.missing == 0)
    }

    pub(super) fn listens_on(&self, address: SocketAddr) -> bool {
        self.known.as_ref().is_some_and(|known| known.addresses.contains(&address))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    pub(super) fn log_kept(&self) {
        if self.is_heard() {
            tracing::warn!(pid = self.pid, "the worker of the server before serves on");
        }
    }

    fn tell(&mut self, order: &Order, time: Duration) {
        // One that is gone needs no order.
        let _ = channel::tell(&self.channel, order);
        let deadline = Instant::now() + time + STOP_GRACE;
        self.deadline = Some(self.deadline.map_or(deadline, |before| before.min(deadline)));
    }
}

impl Master<'_> {
    /// Finds workers that a master on the same control socket has left; `false` where there are none.
    pub(super) fn find_orphans(&mut self) -> Result<bool, ServerError> {
        let Some(key) = &self.key else { return Ok(false) };
        self.orphans = rendezvous::find(key).into_iter().map(Orphan::new).collect();
        if self.orphans.is_empty() {
            return Ok(false);
        }
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        while !self.orphans.iter().all(Orphan::is_settled) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let descriptors: Vec<BorrowedFd<'_>> = self.orphans.iter().map(Orphan::descriptor).collect();
            wait_ready(&descriptors, &[], Some(left)).map_err(|source| ServerError::System { what: "poll", source })?;
            self.hear_orphans();
        }
        let (heard, silent): (Vec<&Orphan>, Vec<&Orphan>) = self.orphans.iter().partition(|orphan| orphan.is_heard());
        for orphan in silent {
            tracing::warn!(pid = orphan.pid, "a worker of a server on the same control socket does not answer");
        }
        if heard.is_empty() {
            return Ok(false);
        }
        tracing::info!(workers = heard.len(), "the workers of a server whose master is gone are taken over");
        let last = self.orphans.iter().filter_map(|orphan| orphan.known.as_ref()).map(|known| known.generation).max();
        self.next_number = last.unwrap_or(0).saturating_add(1);
        Ok(true)
    }

    /// Looks for workers of another master that is gone, while this one serves. Those of one that lives let nobody in.
    pub(super) fn find_more_orphans(&mut self) {
        let Some(key) = &self.key else { return };
        let own = self.generations.iter().flat_map(Generation::children).map(|child| child.pid.as_raw() as u32);
        let known: Vec<u32> = own.chain(self.orphans.iter().map(|orphan| orphan.pid)).collect();
        let found = rendezvous::find_others(key, &known);
        self.orphans.extend(found.into_iter().map(Orphan::new));
    }

    pub(super) fn hear_orphans(&mut self) {
        let mut sockets = Vec::new();
        let mut is_changed = false;
        let shares = self.adopts();
        for orphan in &mut self.orphans {
            loop {
                match hear_with::<Report>(&orphan.channel) {
                    Ok((Heard::Message(Report::Orphan { generation, slot, addresses, listeners }), _)) => {
                        let missing = if shares { listeners } else { 0 };
                        orphan.known = Some(Known { generation, slot, addresses, missing });
                        is_changed = true;
                        if shares {
                            let _ = channel::tell(&orphan.channel, &Order::Share);
                        }
                    }
                    Ok((Heard::Message(Report::Listener { address }), socket)) => {
                        sockets.extend(socket.map(|socket| (address, socket)));
                        if let Some(known) = &mut orphan.known {
                            known.missing = known.missing.saturating_sub(1);
                        }
                        is_changed = true;
                    }
                    Ok((Heard::Message(Report::Moved(moved)), _)) => orphan.is_moving &= !moved.is_over,
                    Ok((Heard::Message(_), _)) => {}
                    Ok((Heard::Nothing, _)) => break,
                    Ok((Heard::End, _)) | Err(_) => {
                        orphan.is_gone = true;
                        break;
                    }
                }
            }
        }
        for (address, socket) in sockets {
            self.keep_once(address, socket.into());
        }
        let gone: Vec<u32> =
            self.orphans.iter().filter(|one| one.is_gone && one.is_heard()).map(|one| one.pid).collect();
        self.orphans.retain(|orphan| !orphan.is_gone);
        for pid in gone {
            self.event(None, format_args!("the worker with pid {pid} of the server before has left"));
        }
        if is_changed && self.serving().is_some() {
            self.share_rest();
            self.dismiss_orphans();
        }
    }

    /// Sends away those whose work others do now.
    pub(super) fn dismiss_orphans(&mut self) {
        let Some(index) = self.serving() else { return };
        let farewell = self.farewell(index);
        let Order::Drain { settle_ms, drain_ms, .. } = farewell else { return };
        let time = Duration::from_millis(settle_ms.saturating_add(drain_ms));
        let heirs = self.meetings();
        let mut count = 0;
        for orphan in self.orphans.iter_mut().filter(|orphan| orphan.is_settled() && orphan.deadline.is_none()) {
            if !heirs.is_empty() {
                orphan.is_moving = channel::tell(&orphan.channel, &inheritance(&heirs, count)).is_ok();
            }
            orphan.tell(&farewell, time);
            count += 1;
        }
        if count > 0 {
            self.event(None, format_args!("{count} of the server before drain"));
        }
    }

    pub(super) fn stop_orphans(&mut self, how: Stop) {
        // They have had their time since they were dismissed; this can but shorten it.
        let timeouts = Timeouts::default();
        for orphan in self.orphans.iter_mut().filter(|orphan| orphan.is_heard()) {
            let drain_ms = match how {
                Stop::Graceful { drain_ms } => drain_ms.unwrap_or(timeouts.drain_ms_max),
                Stop::Fast => timeouts.stop_ms_max,
                Stop::Now => 0,
            };
            let order = match how {
                Stop::Now => Order::Stop,
                _ => Order::Drain { settle_ms: 0, drain_ms, is_succeeded: false },
            };
            orphan.tell(&order, Duration::from_millis(drain_ms));
        }
    }

    pub(super) fn kill_late_orphans(&mut self, now: Instant) {
        for orphan in self.orphans.iter_mut().filter(|orphan| orphan.deadline.is_some_and(|deadline| deadline <= now)) {
            tracing::warn!(pid = orphan.pid, "a worker of the server before did not leave in time and is killed");
            // Its channel ends with it.
            let _ = orphan.process.as_ref().map(|process| process::kill(process.as_fd()));
            orphan.deadline = None;
        }
    }
}
