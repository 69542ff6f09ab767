//! What is said on a connection: requests to write, and answers to check byte by byte. Pure.

mod dialogue;
mod fixed;
mod head;
mod http;
mod request;
mod template;
mod websocket;

use crate::load::output::Output;

pub(crate) use self::dialogue::Dialogue;
use self::fixed::Fixed;
use self::head::Body;
use self::http::Http;
pub(crate) use self::template::{Template, chunked};
use self::websocket::WebSocket;
use super::plan::{ExchangePlan, RespCommand};

/// One for each thread: what all its connections share.
pub(crate) enum Exchange {
    Http(Box<Http>),
    WebSocket(WebSocket),
    Fixed(Fixed),
}

/// How far one connection has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Requests written and answers read so far.
    written: u32,
    read: u32,
    /// Bytes of the current answer, or of its body, that have been read.
    offset: u64,
    body: Body,
    /// Of the random numbers in its requests; 0 where it has sent none.
    seed: u64,
    /// Messages that wait until the server has agreed to speak WebSocket.
    deferred: u32,
    is_upgraded: bool,
    /// The body so far, while it is not known what bodies must be.
    gathered: Vec<u8>,
}

/// What [`Exchange::read`] made of its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) consumed: usize,
    /// Answers that were complete.
    pub(crate) answers: u32,
    /// Unconsumed bytes worth coming back for.
    pub(crate) at_least: usize,
    /// The server has said that it will close.
    pub(crate) closes: bool,
    /// [`Exchange::write_deferred`] has something to write now.
    pub(crate) is_upgraded: bool,
}

impl Exchange {
    /// `index` tells the load's threads apart.
    pub(crate) fn new(plan: &ExchangePlan, index: usize) -> Self {
        match plan {
            ExchangePlan::Http(plan) => Self::Http(Box::new(Http::new(plan, index))),
            ExchangePlan::WebSocket { path, payload_bytes } => Self::WebSocket(WebSocket::new(path, *payload_bytes)),
            ExchangePlan::Echo { payload_bytes } => Self::Fixed(Fixed::echo(*payload_bytes)),
            ExchangePlan::Resp { command, payload_bytes, keys } => Self::Fixed(match command {
                RespCommand::Ping => Fixed::ping(),
                RespCommand::Get => Fixed::get(*payload_bytes, *keys),
                RespCommand::Set => Fixed::set(*payload_bytes, *keys),
            }),
        }
    }

    /// Writes so many requests; `is_last` where none follows on this connection. `salt` tells connections apart.
    #[inline]
    pub(crate) fn write(
        &mut self,
        progress: &mut Progress,
        salt: u32,
        count: u32,
        is_last: bool,
        output: &mut impl Output,
    ) {
        match self {
            Self::Http(http) => http.write(progress, count, is_last, output),
            Self::WebSocket(socket) => socket.write(progress, salt, count, output),
            Self::Fixed(fixed) => fixed.write(progress, salt, count, output),
        }
    }

    /// Writes what has waited for the server's consent; see [`Read::is_upgraded`].
    pub(crate) fn write_deferred(&mut self, progress: &mut Progress, salt: u32, output: &mut impl Output) {
        if let Self::WebSocket(socket) = self {
            let count = std::mem::take(&mut progress.deferred);
            socket.write(progress, salt, count, output);
        }
    }

    /// Reads answers, `awaited` at most.
    ///
    /// # Errors
    /// Says how an answer was not what it must be.
    #[inline]
    pub(crate) fn read(
        &mut self,
        progress: &mut Progress,
        salt: u32,
        awaited: u32,
        input: &[u8],
    ) -> Result<Read, String> {
        match self {
            Self::Http(http) => http.read(progress, awaited, input),
            Self::WebSocket(socket) => socket.read(progress, salt, awaited, input),
            Self::Fixed(fixed) => fixed.read(progress, salt, awaited, input),
        }
    }

    /// The server has closed: whether that has completed an answer.
    pub(crate) fn read_end(&mut self, progress: &mut Progress) -> bool {
        match self {
            Self::Http(http) => http.read_end(progress),
            Self::Fixed(_) | Self::WebSocket(_) => false,
        }
    }

    /// Whether the server closes, rather than the client, when told that a request is the last one.
    pub(crate) fn can_say_last(&self) -> bool {
        matches!(self, Self::Http(http) if http.can_say_last())
    }
}

/// A SET of each key, with the value that a GET of it must give.
pub(super) fn set_requests(payload_bytes: usize, keys: u32) -> impl Iterator<Item = Vec<u8>> {
    let fixed = Fixed::set(payload_bytes, keys);
    (0..keys.max(1)).map(move |key| fixed.request(key))
}

impl Progress {
    /// Whether part of an answer was read; what waits unconsumed is not known here.
    pub(crate) fn is_within(&self) -> bool {
        self.offset > 0 || self.body != Body::None
    }
}
