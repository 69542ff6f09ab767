//! Counters that continue through upgrades: those that this master counts itself, and those that it exchanges with the
//! other master of an upgrade.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Master;
use super::masters::{New, Old};
use super::world::Driver;
use crate::ipc::channel;
use crate::ipc::control::{EventKind, Exit, Moves, TimelineKind};
use crate::ipc::relay::{ToNew, ToOld};
use crate::master::core::Time;
use crate::telemetry::Totals;

/// How often the other master gets the numbers, in addition to each time before they are shown.
const TELL_MS: u64 = 1_000;

impl Driver<'_> {
    /// Counts an event of this master.
    pub(super) fn count(&mut self, event: &EventKind, kind: Option<TimelineKind>) {
        let own = &mut self.ledger.own;
        let mut count = |name: String, count: u64| own.count(name, count);
        let failed = |operation: &str| format!("failed:{operation}");
        match event {
            EventKind::WorkerMoved { moves, .. } => {
                count("moved".to_owned(), moves.moved);
                count_moves(&mut count, moves);
            }
            EventKind::Rebalanced { moves, .. } => {
                count("rebalanced".to_owned(), moves.moved);
                count_moves(&mut count, moves);
            }
            EventKind::WorkerDied { exit, .. } | EventKind::WorkerDiedLeaving { exit, .. } => {
                let how = match exit {
                    Exit::Code(_) => "code",
                    Exit::Signal(_) => "signal",
                    Exit::Unknown => "unknown",
                };
                count(format!("ended:{how}"), 1);
            }
            EventKind::WorkerHung { .. } => count("hung".to_owned(), 1),
            EventKind::NotReloaded { .. } => count(failed("reload"), 1),
            EventKind::TakenDown { .. } => count(failed("start"), 1),
            EventKind::NotScaled { .. } => count(failed("scale"), 1),
            EventKind::UpgradeFailed { .. } | EventKind::SuccessorGone { .. } => count(failed("upgrade"), 1),
            EventKind::Reverting { .. } => count(failed("upgrade_reverted"), 1),
            EventKind::NotReverted { .. } => count(failed("revert"), 1),
            EventKind::NotSteered { .. } => count("steering_errors".to_owned(), 1),
            EventKind::Serves { took_ms } => {
                let kind = kind.unwrap_or(TimelineKind::Unknown).to_string();
                own.count_value(&format!("handover:{kind}"), took_ms.saturating_mul(1_000_000));
            }
            _ => {}
        }
    }

    /// Sends the numbers to the other master of an upgrade, if there is one. Returns what this master's workers have
    /// counted. Only these numbers may be shown: later ones would be lost for the other master if this one were killed.
    pub(super) fn tell_totals(&self) -> Totals {
        let workers = Totals::of(&self.workers.telemetry.total());
        if let Some(new) = self.new.as_ref().and_then(New::channel) {
            tell_parts(new, &self.ledger.for_new(&workers), |totals| ToNew::Totals { totals });
        }
        if let Some(old) = self.old.as_ref().and_then(Old::channel) {
            tell_parts(old, &self.ledger.for_old(&workers), |totals| ToOld::Totals { totals });
        }
        workers
    }

    /// Adds the numbers that the other masters have sent.
    pub(super) fn hear_totals(&mut self) {
        let Self { old, new, ledger, .. } = self;
        let heard = old.iter_mut().flat_map(|old| old.totals.drain(..));
        heard.for_each(|part| ledger.heard_old(&part));
        let heard = new.iter_mut().flat_map(|new| new.totals.drain(..));
        heard.for_each(|part| ledger.heard_new(&part));
    }

    /// Handles the end of the new master, after all its messages were read.
    pub(super) fn new_ended(&mut self) {
        self.hear_totals();
        self.ledger.new_ended();
        self.new = None;
    }
}

impl Master<'_> {
    /// Sends the numbers to the other master of an upgrade from time to time. If this master is killed, the other one
    /// has the numbers that it got last.
    pub(super) fn tell_totals_in_time(&mut self, now: Time) {
        let has_other = self.driver.new.as_ref().is_some_and(|new| new.channel().is_some())
            || self.driver.old.as_ref().is_some_and(|old| old.channel().is_some());
        match self.totals_at {
            _ if !has_other => self.totals_at = None,
            Some(at) if at > now => {}
            _ => {
                self.driver.tell_totals();
                self.totals_at = Some(now.after_ms(TELL_MS));
            }
        }
    }
}

fn count_moves(count: &mut impl FnMut(String, u64), moves: &Moves) {
    count("moved_bytes".to_owned(), moves.bytes);
    count("state_bytes".to_owned(), moves.state_bytes.unwrap_or(0));
    moves.refused.iter().for_each(|one| count(format!("refused:{}", one.reason.name()), one.connections));
}

/// Sends numbers only while most of the channel is free, so that they do not take the place of a decision. What is not
/// sent now comes with the next numbers.
fn tell_parts<T: serde::Serialize>(channel: &OwnedFd, totals: &Totals, message: impl Fn(Totals) -> T) {
    for part in totals.parts() {
        // The kernel reports POLLOUT while less than a quarter is used (unix_writable, net/unix/af_unix.c).
        let mut polled = [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)];
        let is_free = poll(&mut polled, PollTimeout::ZERO).is_ok()
            && polled[0].revents().is_some_and(|events| events == PollFlags::POLLOUT);
        if !is_free || channel::tell(channel, &message(part)).is_err() {
            break;
        }
    }
}
