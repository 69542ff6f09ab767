//! Descriptors that are only polled: orders, signals, messages of helper threads, and new masters.

use std::io;
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::EventLoop;
use crate::protocol::Protocol;
use crate::sys::ring::Key;

/// Keys of polls; see `links.rs` for others.
pub(super) const CONTROL: Key = Key { slot: 0, generation: 0 };
pub(super) const SIGNALS: Key = Key { slot: 1, generation: 0 };
pub(super) const INBOX: Key = Key { slot: 2, generation: 0 };
pub(super) const RENDEZVOUS: Key = Key { slot: 3, generation: 0 };

impl<P: Protocol> EventLoop<P> {
    pub(super) fn readable(&mut self, key: Key, more: bool) {
        if (P::MESSAGES.is_some() && self.sibling_readable(key, more)) || self.link_readable(key, more) {
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
                    self.call(|protocol, worker| protocol.on_message(message, worker));
                }
            }
        }
    }
}

pub(crate) fn watch_signals() -> io::Result<SignalFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGQUIT].into_iter().collect();
    signals.thread_block()?;
    // Writing beyond RLIMIT_FSIZE then fails with an error, and the signal does not end the process.
    SigSet::from(Signal::SIGXFSZ).thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}
