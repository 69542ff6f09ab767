//! Answers that come later, from this worker or from another thread, and wakes.

use ::http::StatusCode;
use baton::{ConnectionId, Mailbox};
use serde::Serialize;

use crate::error::Error;

/// What other threads send into a worker. Made by [`Later`] and [`Waker`] alone.
#[derive(Debug)]
pub struct Message(pub(crate) Inside);

#[derive(Debug)]
pub(crate) enum Inside {
    /// To the exchange of this number of a connection.
    Answer(ConnectionId, u32, Response),
    Wake(ConnectionId),
}

/// An answer that owns what it says: for [`Later::answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// An answer without a body.
    pub fn new(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), content_type: String::new(), body: Vec::new() }
    }

    /// 200 with a body of this type.
    pub fn bytes(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { content_type: content_type.into(), body: body.into(), ..Self::new(StatusCode::OK) }
    }

    /// 200 with a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::bytes("text/plain; charset=utf-8", text.into())
    }

    /// 200 with a value as JSON.
    ///
    /// # Errors
    /// Where the value cannot be serialised.
    pub fn json(value: &impl Serialize) -> Result<Self, Error> {
        Ok(Self::bytes("application/json", serde_json::to_vec(value)?))
    }

    /// The same with another status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header; see [`Reply::header`](crate::Reply::header).
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// The right to answer a request later, from any thread of the worker's process. Requests that the client has sent behind this
/// one wait until it is answered. Where the client goes away meanwhile, the answer comes to nothing.
///
/// Dropped without an answer, it answers 500.
#[derive(Debug)]
pub struct Later {
    pub(crate) mailbox: Mailbox<Message>,
    pub(crate) connection: ConnectionId,
    pub(crate) number: u32,
    pub(crate) is_answered: bool,
}

impl Later {
    /// Answers.
    pub fn answer(mut self, response: Response) {
        self.send(response);
    }

    fn send(&mut self, response: Response) {
        if !std::mem::replace(&mut self.is_answered, true) {
            // Where the worker has ended, so has the connection.
            let _ = self.mailbox.send(Message(Inside::Answer(self.connection, self.number, response)));
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let text = "the server failed to answer this request\n";
        self.send(Response::text(text).status(StatusCode::INTERNAL_SERVER_ERROR));
    }
}

/// Wakes whatever of a connection waits: a [`Source`](crate::Source) that had nothing, a [`Receive`](crate::Receive) that
/// wanted no more, an [`Upgraded`](crate::Upgraded) protocol. From any thread; cheap to clone; nothing happens where the
/// connection is gone.
#[derive(Clone, Debug)]
pub struct Waker {
    pub(crate) mailbox: Mailbox<Message>,
    pub(crate) connection: ConnectionId,
}

impl Waker {
    /// Wakes it.
    pub fn wake(&self) {
        let _ = self.mailbox.send(Message(Inside::Wake(self.connection)));
    }
}
