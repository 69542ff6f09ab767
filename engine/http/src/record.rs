//! What an access log needs from an answer.

use std::time::Duration;

use ::http::StatusCode;

use crate::head::{self, FieldList, HeadLimits};
use crate::peers::Client;
use crate::request::Request;
use crate::state::State;

/// An answered request: for [`State::on_answer`](crate::State::on_answer).
#[derive(Debug)]
pub struct Record<'a> {
    /// The request; `None` for a malformed one.
    pub request: Option<&'a Request<'a>>,
    /// The client; `None` if it had already gone.
    pub peer: Option<Client>,
    /// The status of the answer.
    pub status: StatusCode,
    /// Bytes of the answer's body, before any chunks.
    pub body_bytes: u64,
    /// From the complete request, or from the first part of its body, until the engine has the whole answer, which the client may not
    /// have yet. On the loop's clock, so it is 0 for an answer in the same turn.
    pub took: Duration,
}

/// A record of an answer that is not over.
pub(crate) struct Pending {
    /// The head of the request.
    pub(crate) head: Box<[u8]>,
    pub(crate) status: StatusCode,
    pub(crate) body_bytes: u64,
    /// Time on the loop's clock.
    pub(crate) began: Duration,
}

impl Pending {
    /// The answer is over, whether it is complete or not.
    pub(crate) fn end<S: State>(
        &self,
        state: &mut S,
        limits: HeadLimits,
        fields: &mut FieldList,
        peer: Option<Client>,
        now: Duration,
    ) {
        // It was parsed before, with the same limits.
        let Ok(Some(head)) = head::parse(&self.head, limits, fields) else { return };
        let request = Request { head, bytes: &self.head, fields, parameters: None, body: b"" };
        let took = now.saturating_sub(self.began);
        let Self { status, body_bytes, .. } = *self;
        state.on_answer(&Record { request: Some(&request), peer, status, body_bytes, took });
    }
}
