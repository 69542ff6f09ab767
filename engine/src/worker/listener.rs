//! A worker's listen socket, and the state of accepting from it.

use socket2::Socket;

use crate::endpoint::Endpoint;
use crate::sys::acceptor::Acceptor;
use crate::sys::listener::{accept_waiting, waiting_at_shared};

/// The accept operation of a listener that is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepting {
    No,
    /// For one connection.
    One,
    /// Until cancelled.
    Many,
    /// A cancel is in flight; the last completion has not come.
    Cancelling,
}

/// A listen socket of this worker. It is never in the ring's file table, and is closed only after the last completion
/// of its accept: a ring that still holds it would continue to take connections that nothing serves.
pub(crate) struct Listener {
    /// Its identifier between master and worker.
    pub(crate) id: u32,
    pub(crate) socket: Socket,
    pub(crate) address: Endpoint,
    pub(crate) accepting: Accepting,
    /// It is closed as soon as its accept has ended; others have copies.
    pub(crate) is_released: bool,
}

impl Listener {
    /// All workers share the one socket of a path. The kernel wakes the worker that has waited longest, and a multishot
    /// accept would always be that one. So a worker accepts one connection at a time, and then waits behind the others
    /// again.
    pub(crate) fn is_shared(&self) -> bool {
        self.address.is_unix()
    }

    pub(crate) fn new(id: u32, socket: Socket, address: Endpoint) -> Self {
        Self { id, socket, address, accepting: Accepting::No, is_released: false }
    }

    /// Closes the socket after taking what its queue still holds, so that a stop loses no established connection.
    pub(crate) fn close(self, mut take: impl FnMut(Socket)) {
        assert_eq!(self.accepting, Accepting::No, "a listener is closed after its accept has ended");
        if self.socket.set_nonblocking(true).is_err() {
            return;
        }
        std::iter::from_fn(|| accept_waiting(&self.socket)).for_each(&mut take);
    }

    /// Closes this copy of a socket from which others accept. A connection that came while the accept was being
    /// cancelled has woken only this worker, and would wait until the next one comes, so it is taken here. Later
    /// connections wake the others. At most `queue_max`, the capacity of the queue, have to be taken.
    pub(crate) fn release(self, acceptor: &mut Acceptor, queue_max: u32, take: impl FnMut(Socket)) {
        assert_eq!(self.accepting, Accepting::No, "a listener is closed after its accept has ended");
        waiting_at_shared(&self.socket, acceptor).take(queue_max as usize).for_each(take);
    }
}
