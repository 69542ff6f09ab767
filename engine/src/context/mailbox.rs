//! Messages from helper threads of the user into a worker: a channel, and an eventfd that the ring polls.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};

struct Bell {
    event: EventFd,
    /// Rung and not yet heard: further messages need no further system call.
    rung: AtomicBool,
}

/// Sends messages to one worker, from any thread of its process. Cheap to clone.
pub struct Mailbox<M> {
    sender: Sender<M>,
    bell: Arc<Bell>,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<M> fmt::Debug for Mailbox<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

/// The worker is gone; the message comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker of this mailbox is gone")]
pub struct MailboxClosed<M>(pub M);

impl<M> fmt::Debug for MailboxClosed<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MailboxClosed").finish_non_exhaustive()
    }
}

impl<M> Mailbox<M> {
    /// Queues `message` for [`Protocol::on_message`](crate::Protocol::on_message). The queue is not bounded.
    ///
    /// # Errors
    /// Gives the message back when the worker is gone.
    pub fn send(&self, message: M) -> Result<(), MailboxClosed<M>> {
        self.sender.send(message).map_err(|error| MailboxClosed(error.0))?;
        if !self.bell.rung.swap(true, Ordering::AcqRel) {
            // The counter cannot overflow: the worker is told once until it has listened.
            let _ = self.bell.event.write(1);
        }
        Ok(())
    }
}

/// The worker's end.
pub(crate) struct Inbox<M> {
    receiver: Receiver<M>,
    mailbox: Mailbox<M>,
}

impl<M> Inbox<M> {
    pub(crate) fn new() -> io::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (sender, receiver) = unbounded();
        Ok(Self { receiver, mailbox: Mailbox { sender, bell: Arc::new(Bell { event, rung: AtomicBool::new(false) }) } })
    }

    pub(crate) fn mailbox(&self) -> Mailbox<M> {
        self.mailbox.clone()
    }

    /// What to poll.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.mailbox.bell.event.as_fd()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Everything queued now; what comes later rings again.
    pub(crate) fn take(&self) -> Vec<M> {
        let _ = self.mailbox.bell.event.read();
        // A swap that acquires, not a store: a sender that found the bell rung has queued its message before, and that must
        // be seen below. With a store alone, the look at the queue could come first, and nobody would ring again.
        self.mailbox.bell.rung.swap(false, Ordering::AcqRel);
        self.receiver.try_iter().take(self.receiver.len().max(1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_rings_once_until_it_is_heard() {
        let inbox = Inbox::new().expect("an eventfd");
        let mailbox = inbox.mailbox();
        mailbox.send(1).expect("open");
        mailbox.clone().send(2).expect("open");
        assert_eq!(inbox.mailbox.bell.event.read(), Ok(1));
        assert_eq!(inbox.take(), [1, 2]);
        mailbox.send(3).expect("open");
        assert_eq!(inbox.mailbox.bell.event.read(), Ok(1));
        assert_eq!(inbox.take(), [3]);
    }

    #[test]
    fn a_message_that_is_queued_is_heard_or_rung_for() {
        const MESSAGES: usize = 200_000;
        let inbox = Inbox::new().expect("an eventfd");
        let mailbox = inbox.mailbox();
        let sender = std::thread::spawn(move || (0..MESSAGES).for_each(|index| mailbox.send(index).expect("open")));
        let mut heard = 0;
        while heard < MESSAGES {
            let mut polled = [nix::poll::PollFd::new(inbox.descriptor(), nix::poll::PollFlags::POLLIN)];
            let count = nix::poll::poll(&mut polled, 5_000u16).expect("polled");
            assert_eq!(count, 1, "nobody rings, and {} messages wait", inbox.receiver.len());
            heard += inbox.take().len();
        }
        sender.join().expect("no panic");
    }
}
