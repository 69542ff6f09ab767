//! Answers that come later, from this worker or from another thread, and wakes.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::http::StatusCode;
use baton::{ConnectionId, Mailbox};
use serde::Serialize;

use crate::error::Error;

/// What other threads send into a worker. Only [`Later`] and [`Waker`] make it.
#[derive(Debug)]
pub struct Message(pub(crate) Inside);

#[derive(Debug)]
pub(crate) enum Inside {
    /// There are answers in the [`Post`].
    Answers,
    /// There are wakes in it.
    Wakes,
}

/// An answer to the exchange with this number on a connection.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) connection: ConnectionId,
    pub(crate) number: u32,
    pub(crate) response: Response,
}

/// The way into a worker. Answers and wakes wait outside of the mailbox, which only reports that there are some. So a
/// batch of them costs one message, the mailbox is never full, and a thread that answers or wakes never waits. There
/// are at most as many answers as requests.
#[derive(Debug)]
pub(crate) struct Post {
    mailbox: Mailbox<Message>,
    answers: Mutex<Vec<Late>>,
    wakes: Mutex<BTreeSet<ConnectionId>>,
}

thread_local! {
    /// The post that is checked as soon as the running callback has returned, and whether there is something new in it.
    static ATTENDED: Cell<(usize, bool)> = const { Cell::new((0, false)) };
}

impl Post {
    /// Runs a callback of this worker. Returns whether it has put answers here, which must be taken now: no message
    /// reports them.
    pub(crate) fn attend(&self, callback: impl FnOnce()) -> bool {
        struct Before((usize, bool));
        impl Drop for Before {
            fn drop(&mut self) {
                ATTENDED.set(self.0);
            }
        }
        let _before = Before(ATTENDED.replace((self.place(), false)));
        callback();
        ATTENDED.get().1
    }

    /// Identifies this post.
    fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(crate) fn new(mailbox: Mailbox<Message>) -> Arc<Self> {
        Arc::new(Self { mailbox, answers: Mutex::default(), wakes: Mutex::default() })
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Late>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, late: Late) {
        let mut answers = self.answers();
        answers.push(late);
        let is_first = answers.len() == 1;
        drop(answers);
        if ATTENDED.get().0 == self.place() {
            ATTENDED.set((self.place(), true));
        } else if is_first && self.mailbox.send(Message(Inside::Answers)).is_err() {
            // If the worker has ended, so have its connections.
            self.answers().clear();
        }
    }

    fn wakes(&self) -> MutexGuard<'_, BTreeSet<ConnectionId>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, connection: ConnectionId) {
        let mut wakes = self.wakes();
        let is_first = wakes.is_empty();
        wakes.insert(connection);
        drop(wakes);
        if is_first && self.mailbox.send(Message(Inside::Wakes)).is_err() {
            self.wakes().clear();
        }
    }

    /// The connections to wake, each once.
    pub(crate) fn take_wakes(&self) -> BTreeSet<ConnectionId> {
        std::mem::take(&mut self.wakes())
    }

    /// Moves all waiting answers into `taken`, which is empty.
    pub(crate) fn take(&self, taken: &mut Vec<Late>) {
        std::mem::swap(&mut *self.answers(), taken);
    }
}

/// An answer that owns its content: for [`Later::answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) content_type: Cow<'static, str>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// An answer without a body.
    pub fn new(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), content_type: Cow::Borrowed(""), body: Vec::new() }
    }

    /// 200 with a body of this type.
    pub fn bytes(content_type: impl Into<Cow<'static, str>>, body: impl Into<Vec<u8>>) -> Self {
        Self { content_type: content_type.into(), body: body.into(), ..Self::new(StatusCode::OK) }
    }

    /// 200 with a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::bytes("text/plain; charset=utf-8", text.into())
    }

    /// 200 with a value as JSON.
    ///
    /// # Errors
    /// If the value cannot be serialised.
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

/// The right to answer a request later, from any thread of the worker's process. Later requests of the client wait until this
/// one is answered. If the client goes away meanwhile, the answer is dropped.
///
/// If you drop it without an answer, it answers 500.
#[derive(Debug)]
pub struct Later {
    pub(crate) post: Arc<Post>,
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
        self.is_answered = true;
        self.post.send(Late { connection: self.connection, number: self.number, response });
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        if !self.is_answered {
            let text = "the server failed to answer this request\n";
            self.send(Response::text(text).status(StatusCode::INTERNAL_SERVER_ERROR));
        }
    }
}

/// Wakes the part of a connection that waits: a [`Source`](crate::Source) that had no data, a [`Receive`](crate::Receive) that
/// paused, or an [`Upgraded`](crate::Upgraded) protocol. Use it from any thread; it is cheap to clone, and has no effect if the
/// connection is gone.
#[derive(Clone, Debug)]
pub struct Waker {
    pub(crate) post: Arc<Post>,
    pub(crate) connection: ConnectionId,
}

impl Waker {
    /// Wakes it.
    pub fn wake(&self) {
        self.post.wake(self.connection);
    }
}
