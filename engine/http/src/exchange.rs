//! What a handler may leave behind that outlives it: bodies that arrive in parts, answers that are sent in parts, and
//! other protocols on the same connection.

use std::time::Duration;

use baton::{CannotFreeze, Drain, Io, Limit, Next, Step, TimerKey};

use crate::error::Error;
use crate::out::Out;
use crate::reply::{Done, Reply};
use crate::request::Request;

/// Whether there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more, as soon as the client has caught up.
    More,
    /// Nothing for now: ask again after a [`Waker::wake`](crate::Waker::wake).
    Wait,
    /// This was the last part.
    End,
}

/// The body of an answer, made part by part; given to [`Reply::stream`].
pub trait Source: 'static {
    /// Writes the next part: some kilobytes, or until [`Out::is_full`].
    ///
    /// # Errors
    /// The connection is cut, so that the client sees that something is missing.
    fn next(&mut self, out: &mut Out<'_, '_>) -> Result<Progress, Error>;

    /// Writes what another worker needs to continue, and returns the name under which
    /// [`Router::thaws`](crate::Router::thaws) reads it.
    ///
    /// # Errors
    /// The default: the answer continues in this worker, and the connection ends with it.
    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        let _ = state;
        Err(CannotFreeze::Stays)
    }
}

/// Whether a receiver wants more of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Continue.
    More,
    /// Not now: the client has to wait until a [`Waker::wake`](crate::Waker::wake).
    Wait,
}

/// Takes the body of a request part by part; made by a route of [`Router::receive`](crate::Router::receive).
pub trait Receive<S>: 'static {
    /// A part of the body has arrived. `out` is the answer, if it was begun with [`Reply::start`].
    ///
    /// # Errors
    /// The client gets the error, if no answer was begun. The connection continues after the body if the client has
    /// announced at most 256 KiB; otherwise it ends.
    fn on_part(&mut self, state: &mut S, part: &[u8], out: Option<&mut Out<'_, '_>>) -> Result<Flow, Error>;

    /// The body is complete, and no answer was begun.
    ///
    /// # Errors
    /// The client gets the error.
    fn on_end(self: Box<Self>, state: &mut S, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error>;

    /// The body is complete, and an answer was begun: write the last part of it.
    ///
    /// # Errors
    /// The connection is cut.
    fn on_last(&mut self, state: &mut S, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let _ = (state, out);
        Ok(())
    }

    /// As [`Source::freeze`].
    ///
    /// # Errors
    /// The default: the connection ends with this worker.
    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        let _ = state;
        Err(CannotFreeze::Stays)
    }
}

/// Another protocol on the same connection; given to [`Reply::upgrade`]. Like [`baton::Protocol`], for one connection.
pub trait Upgraded: 'static {
    /// See [`baton::Protocol::on_data`].
    fn on_data(&mut self, input: &[u8], io: &mut Io<'_>) -> Step;

    /// See [`baton::Protocol::on_eof`].
    fn on_eof(&mut self, input: &[u8], io: &mut Io<'_>) -> Next {
        let _ = (input, io);
        Next::Close
    }

    /// See [`baton::Protocol::on_writable`].
    fn on_writable(&mut self, io: &mut Io<'_>) -> Next {
        let _ = io;
        Next::Keep
    }

    /// See [`baton::Protocol::on_timer`]. Key 0 is reserved.
    fn on_timer(&mut self, key: TimerKey, io: &mut Io<'_>) -> Next {
        let _ = (key, io);
        Next::Keep
    }

    /// After a [`Waker::wake`](crate::Waker::wake).
    fn on_wake(&mut self, io: &mut Io<'_>) -> Next {
        let _ = io;
        Next::Keep
    }

    /// See [`baton::Protocol::on_limit`].
    fn on_limit(&mut self, limit: Limit, input: &[u8], io: &mut Io<'_>) -> Next {
        let _ = (limit, input, io);
        Next::Close
    }

    /// See [`baton::Protocol::on_drain`].
    fn on_drain(&mut self, deadline: Duration, input: &[u8], io: &mut Io<'_>) -> Drain {
        let _ = (deadline, input, io);
        Drain::Close
    }

    /// The memory that it holds, besides itself.
    fn held_bytes(&self) -> usize {
        0
    }

    /// As [`Source::freeze`].
    ///
    /// # Errors
    /// The default: the connection ends with this worker.
    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        let _ = state;
        Err(CannotFreeze::Stays)
    }
}

/// Something frozen by one of these, made again: for [`Router::thaws`](crate::Router::thaws).
pub enum Thawed<S> {
    /// An answer in progress.
    Source(Box<dyn Source>),
    /// A request body in progress.
    Receive(Box<dyn Receive<S>>),
    /// Another protocol.
    Upgraded(Box<dyn Upgraded>),
}
