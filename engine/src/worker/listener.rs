//! A worker's listen socket, and the state of accepting from it.

use socket2::Socket;

use crate::endpoint::Endpoint;
use crate::sys::acceptor::Acceptor;
use crate::sys::listener::{accept_waiting, waiting_at_shared};

/// Whether accepting from a listener is in the kernel's hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepting {
    No,
    /// One connection.
    One,
    /// Until cancelled.
    Many,
    /// A cancel is out; the last completion has not come.
    Cancelling,
}

/// A listen socket of this worker. It is never in the ring's file table, and is closed only after the last completion
/// of its accept: a ring that still holds it would go on taking connections for nobody.
pub(crate) struct Listener {
    /// Its name between master and worker.
    pub(crate) id: u32,
    pub(crate) socket: Socket,
    pub(crate) address: Endpoint,
    pub(crate) accepting: Accepting,
    /// To be closed as soon as its accept has ended; others have copies.
    pub(crate) is_released: bool,
}

impl Listener {
    /// All workers share the one socket of a path. The kernel wakes the worker that waits longest, and one that accepts without
    /// end would always be that one: it accepts one at a time, and waits behind the others again.
    pub(crate) fn is_shared(&self) -> bool {
        self.address.is_unix()
    }

    pub(crate) fn new(id: u32, socket: Socket, address: Endpoint) -> Self {
        Self { id, socket, address, accepting: Accepting::No, is_released: false }
    }

    /// Closes the socket after taking what its queue still holds, so that a stop loses nobody who was let in.
    pub(crate) fn close(self, mut take: impl FnMut(Socket)) {
        assert_eq!(self.accepting, Accepting::No, "a listener is closed after its accept has ended");
        if self.socket.set_nonblocking(true).is_err() {
            return;
        }
        std::iter::from_fn(|| accept_waiting(&self.socket)).for_each(&mut take);
    }

    /// Closes this copy of a socket that others accept from. Whoever came while the accept was being cancelled has woken
    /// this worker and nobody else, and would wait until the next one comes: he is taken. Those who come from now on wake the
    /// others: no more than `queue_max`, which the queue can hold, have to be taken.
    pub(crate) fn release(self, acceptor: &mut Acceptor, queue_max: u32, take: impl FnMut(Socket)) {
        assert_eq!(self.accepting, Accepting::No, "a listener is closed after its accept has ended");
        waiting_at_shared(&self.socket, acceptor).take(queue_max as usize).for_each(take);
    }
}
