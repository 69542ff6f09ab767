//! Messages from helper threads of the user into a worker: a channel, and an eventfd that the ring polls.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::{fmt, io, thread};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use nix::sys::eventfd::{EfdFlags, EventFd};

struct Bell {
    event: EventFd,
    /// Rung and not yet heard: further messages need no further system call.
    rung: AtomicBool,
    /// The worker's own thread, which must not wait for itself.
    worker: ThreadId,
}

/// Sends messages to one worker, from any thread of its process. At most
/// [`Limits::mailbox_messages_max`](crate::config::Limits::mailbox_messages_max) may wait. Cheap to clone.
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

/// Why a message was not queued; it has the message.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError<M> {
    /// The largest number of messages already waits for the worker.
    #[error("the mailbox is full")]
    Full(M),
    /// The worker is gone.
    #[error("the worker of this mailbox is gone")]
    Closed(M),
}

impl<M> MailboxError<M> {
    /// The message.
    pub fn into_message(self) -> M {
        match self {
            Self::Full(message) | Self::Closed(message) => message,
        }
    }
}

impl<M> fmt::Debug for MailboxError<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<M> Mailbox<M> {
    /// Queues `message` for [`Protocol::on_message`](crate::Protocol::on_message). If the mailbox is full, a helper thread waits
    /// here until the worker has taken some messages. The worker's own callbacks do not wait, since only the worker empties it.
    ///
    /// # Errors
    /// [`MailboxError::Closed`] if the worker is gone, also while this waits; [`MailboxError::Full`] in a callback of the
    /// worker. Both return the message.
    pub fn send(&self, message: M) -> Result<(), MailboxError<M>> {
        match self.try_send(message) {
            Err(MailboxError::Full(message)) if thread::current().id() != self.bell.worker => {
                self.sender.send(message).map_err(|error| MailboxError::Closed(error.0))?;
                self.ring();
                Ok(())
            }
            sent => sent,
        }
    }

    /// Like [`Mailbox::send`], but never waits.
    ///
    /// # Errors
    /// [`MailboxError::Full`] if the mailbox is full, [`MailboxError::Closed`] if the worker is gone. Both return the
    /// message.
    pub fn try_send(&self, message: M) -> Result<(), MailboxError<M>> {
        self.sender.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) => MailboxError::Full(message),
            TrySendError::Disconnected(message) => MailboxError::Closed(message),
        })?;
        self.ring();
        Ok(())
    }

    fn ring(&self) {
        if !self.bell.rung.swap(true, Ordering::AcqRel) {
            // The counter cannot overflow: the bell rings only once until the worker has heard it.
            let _ = self.bell.event.write(1);
        }
    }
}

/// The worker's end of the mailbox.
pub(crate) struct Inbox<M> {
    receiver: Receiver<M>,
    mailbox: Mailbox<M>,
}

impl<M> Inbox<M> {
    /// The inbox of the worker whose thread this is.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn new(messages_max: usize) -> io::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (sender, receiver) = bounded(messages_max);
        let bell = Bell { event, rung: AtomicBool::new(false), worker: thread::current().id() };
        Ok(Self { receiver, mailbox: Mailbox { sender, bell: Arc::new(bell) } })
    }

    pub(crate) fn mailbox(&self) -> Mailbox<M> {
        self.mailbox.clone()
    }

    /// The descriptor to poll.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.mailbox.bell.event.as_fd()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Takes all queued messages. Later ones ring again.
    pub(crate) fn take(&self) -> Vec<M> {
        let _ = self.mailbox.bell.event.read();
        // A swap that acquires, not a store: a sender that found the bell rung has queued its message before, and that
        // message must be visible below. With a store alone, the look at the queue could come first, and no sender
        // would ring again.
        self.mailbox.bell.rung.swap(false, Ordering::AcqRel);
        self.receiver.try_iter().take(self.receiver.len().max(1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_rings_once_until_it_is_heard() {
        let inbox = Inbox::new(16).expect("an eventfd");
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
    fn a_full_mailbox_gives_the_message_back_and_helpers_wait() {
        let inbox = Inbox::new(16).expect("an eventfd");
        let mailbox = inbox.mailbox();
        (0..16).for_each(|number| mailbox.try_send(number).expect("there is room"));
        // This is the worker's thread.
        assert_eq!(
            [mailbox.try_send(16), mailbox.send(17)],
            [Err(MailboxError::Full(16)), Err(MailboxError::Full(17))]
        );
        let helper = std::thread::spawn(move || [mailbox.send(18), mailbox.send(19)]);
        let mut heard = Vec::new();
        while heard.len() < 18 {
            heard.extend(inbox.take());
            std::thread::yield_now();
        }
        assert_eq!(heard[15..], [15, 18, 19]);
        assert_eq!(helper.join().expect("no panic"), [Ok(()), Ok(())]);
    }

    #[test]
    fn a_helper_that_waits_hears_that_the_worker_is_gone() {
        let inbox = Inbox::new(1).expect("an eventfd");
        let mailbox = inbox.mailbox();
        mailbox.send(0).expect("there is room");
        let helper = std::thread::spawn(move || mailbox.send(1));
        drop(inbox);
        assert_eq!(helper.join().expect("no panic"), Err(MailboxError::Closed(1)));
    }

    #[test]
    fn a_message_that_is_queued_is_heard_or_rung_for() {
        const MESSAGES: usize = 200_000;
        let inbox = Inbox::new(16).expect("an eventfd");
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
