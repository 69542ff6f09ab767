//! The bytes of a connection: requests to write, and answers to check byte by byte. Pure.

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

/// The progress of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Requests written and answers read so far.
    written: u32,
    read: u32,
    /// Bytes of the current answer, or of its body, that have been read.
    offset: u64,
    body: Body,
    /// The seed of the random numbers in its requests; 0 if it has sent none.
    seed: u64,
    /// Messages that wait until the server has accepted the WebSocket.
    deferred: u32,
    is_upgraded: bool,
    /// The body so far, while the required body is not known.
    gathered: Vec<u8>,
}

/// The result of [`Exchange::read`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) consumed: usize,
    /// Number of complete answers.
    pub(crate) answers: u32,
    /// Number of unconsumed bytes from which another call makes sense.
    pub(crate) at_least: usize,
    /// The server has announced that it will close.
    pub(crate) closes: bool,
    /// [`Exchange::write_deferred`] has something to write now.
    pub(crate) is_upgraded: bool,
}

impl Exchange {
    /// `index` distinguishes the load's threads.
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

    /// Writes `count` requests. `is_last`: none follows on this connection. `salt` distinguishes connections.
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

    /// Writes messages that have waited for the server's upgrade; see [`Read::is_upgraded`].
    pub(crate) fn write_deferred(&mut self, progress: &mut Progress, salt: u32, output: &mut impl Output) {
        if let Self::WebSocket(socket) = self {
            let count = std::mem::take(&mut progress.deferred);
            socket.write(progress, salt, count, output);
        }
    }

    /// Reads at most `awaited` answers.
    ///
    /// # Errors
    /// How an answer was wrong.
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

    /// The server has closed. Returns whether that has completed an answer.
    pub(crate) fn read_end(&mut self, progress: &mut Progress) -> bool {
        match self {
            Self::Http(http) => http.read_end(progress),
            Self::Fixed(_) | Self::WebSocket(_) => false,
        }
    }

    /// Whether the server closes, rather than the client, after a request that is marked as the last one.
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
    /// Whether part of an answer was read. Unconsumed input is not known here.
    pub(crate) fn is_within(&self) -> bool {
        self.offset > 0 || self.body != Body::None
    }
}
