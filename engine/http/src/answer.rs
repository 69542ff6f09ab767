//! Calls of handlers, and what the connection does after an answer.

use std::time::Duration;

use ::http::StatusCode;
use baton::{Io, Next};
use serde::{Deserialize, Serialize};

use crate::body::Rest;
use crate::connection::{Busy, Doing, HttpConnection, Spares};
use crate::error::Error;
use crate::exchange::Receive;
use crate::head::{Framing, Head, Persistence};
use crate::later::Response;
use crate::method::Method;
use crate::out::{Out, OutFraming};
use crate::peers::Peers;
use crate::record::{Pending, Record};
use crate::redirect::Redirect;
use crate::refusal::Refusal;
use crate::reply::{Outcome, Reply, To};
use crate::request::Request;
use crate::router::{Begin, Endpoint, Found, Receiving};
use crate::state::State;
use crate::writer::{AnswerHead, Length, Say, Writer};

pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// If the receiver of a body has failed and the body is longer than this, or of unknown length, the rest is not read:
/// closing costs less.
const SKIPPED_BYTES_MAX: u64 = 256 * 1024;

const NOT_FOUND: &[u8] = b"there is nothing here\n";
const NO_HOST: &[u8] = b"the request has no Host header to redirect to https\n";
const NOT_ALLOWED: &[u8] = b"this method is not allowed here; see the Allow header\n";

/// What happens to the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum After {
    Keep,
    /// The client wants no more answers: there is no need to wait for its FIN.
    Finish,
    Close,
    /// The client must notice that something is missing.
    Cut,
}

impl After {
    /// `rest` is the input after the request.
    #[inline]
    pub(crate) fn next(self, rest: &[u8]) -> Option<Next> {
        match self {
            Self::Keep => None,
            Self::Finish if rest.is_empty() => Some(Next::Finish),
            // Closing with unread input resets the connection, and the answer may be lost.
            Self::Finish | Self::Close => Some(Next::Close),
            Self::Cut => Some(Next::Abort),
        }
    }
}

/// What an answer needs from the server.
pub(crate) struct Answering<'s, S> {
    pub(crate) state: &'s mut S,
    pub(crate) writer: &'s mut Writer,
    pub(crate) spares: &'s mut Spares<S>,
    pub(crate) requests_max: u32,
    /// `Some` if answers are recorded.
    pub(crate) peers: Option<&'s Peers>,
}

impl<S: State> Answering<'_, S> {
    /// Answers a complete request with the route that was found for it.
    #[inline]
    pub(crate) fn answer(
        &mut self,
        connection: &mut HttpConnection<S>,
        request: &Request<'_>,
        found: &Found<'_, '_, S>,
        io: &mut Io<'_>,
    ) -> After {
        let (to, after) = self.count(connection, &request.head, io);
        let then = self.answer_to(connection, request, found, to, after, io);
        self.record(connection, request, io);
        then
    }

    /// The same, for the last answer of the connection.
    pub(crate) fn answer_last(
        &mut self,
        connection: &mut HttpConnection<S>,
        request: &Request<'_>,
        found: &Found<'_, '_, S>,
        io: &mut Io<'_>,
    ) {
        let (to, _) = self.count(connection, &request.head, io);
        self.answer_to(connection, request, found, To { say: Say::Close, ..to }, After::Close, io);
        self.record(connection, request, io);
    }

    /// An answer has begun: if answers are recorded, records it now, or when it is over.
    #[inline]
    fn record(&mut self, connection: &mut HttpConnection<S>, request: &Request<'_>, io: &Io<'_>) {
        if let Some(peers) = self.peers {
            self.record_among(peers, connection, request, io);
        }
    }

    #[cold]
    fn record_among(&mut self, peers: &Peers, connection: &mut HttpConnection<S>, request: &Request<'_>, io: &Io<'_>) {
        let (status, body_bytes) = self.writer.last();
        let peer = peers.get(connection.peer);
        let going_on = connection.busy.as_mut();
        match going_on.filter(|busy| matches!(busy.doing, Doing::Stream { .. } | Doing::Later)) {
            Some(busy) => {
                busy.record = Some(Pending { head: request.bytes.into(), status, body_bytes, began: io.now() })
            }
            None => {
                let took = Duration::ZERO;
                self.state.on_answer(&Record { request: Some(request), peer, status, body_bytes, took });
            }
        }
    }

    #[inline]
    fn answer_to(
        &mut self,
        connection: &mut HttpConnection<S>,
        request: &Request<'_>,
        found: &Found<'_, '_, S>,
        to: To,
        after: After,
        io: &mut Io<'_>,
    ) -> After {
        match found {
            Found::Endpoint(Endpoint::Whole(handler), _) => {
                let mut outcome = Outcome::Nothing;
                let reply = Reply::new(io, self.writer, &mut outcome, to, Some(request));
                let result = handler(self.state, request, reply);
                let failed = result.err();
                if failed.is_none() && matches!(outcome, Outcome::Answered) {
                    return after;
                }
                self.settle(connection, request, failed, outcome, (to, after), io)
            }
            Found::Endpoint(Endpoint::Parts(_), _) => after,
            Found::Options(allow) => {
                self.allowed(io, to, StatusCode::OK, allow, b"", b"");
                after
            }
            Found::NotAllowed(allow) => {
                self.allowed(io, to, StatusCode::METHOD_NOT_ALLOWED, allow, b"text/plain", NOT_ALLOWED);
                after
            }
            Found::Redirect(redirect) => {
                self.redirect(io, to, redirect, request);
                after
            }
            Found::Nothing => {
                write_text(self.writer, io, to, StatusCode::NOT_FOUND, NOT_FOUND);
                after
            }
        }
    }

    /// A handler has returned: keeps what it left, and if it failed, answers with the error.
    fn settle(
        &mut self,
        connection: &mut HttpConnection<S>,
        request: &Request<'_>,
        failed: Option<Error>,
        outcome: Outcome,
        (to, after): (To, After),
        io: &mut Io<'_>,
    ) -> After {
        if let Some(error) = &failed {
            error.log(request.method().name(), request.path());
        }
        let doing = match outcome {
            Outcome::Answered => return after,
            // The proof belongs to an earlier answer.
            Outcome::Nothing => {
                let unanswered = || Error::new(StatusCode::INTERNAL_SERVER_ERROR, "the handler gave no answer");
                write_error(self.writer, io, to, &failed.unwrap_or_else(unanswered));
                return after;
            }
            Outcome::Stream(..) | Outcome::Started(_) if failed.is_some() => return After::Cut,
            // Nothing will write the rest of the body.
            Outcome::Started(_) => return After::Cut,
            Outcome::Later if failed.is_some() => {
                write_error(self.writer, io, to, &failed.expect("as matched"));
                return after;
            }
            Outcome::Stream(source, framing) => Doing::Stream { source, framing },
            Outcome::Later => {
                connection.busy = Some(self.spares.later(to, after));
                return After::Keep;
            }
            Outcome::Upgrade(protocol) => Doing::Upgraded(protocol),
        };
        let until_close = matches!(doing, Doing::Stream { framing: OutFraming::UntilClose, .. });
        let after = if until_close { After::Close } else { after };
        let mut busy = Busy::new(b"", doing);
        (busy.to, busy.after) = (Some(to), after);
        connection.busy = Some(busy);
        After::Keep
    }

    /// Begins a request whose body goes in parts to the receiver that `begin` returns.
    pub(crate) fn begin_parts(
        &mut self,
        connection: &mut HttpConnection<S>,
        request: &Request<'_>,
        begin: &Begin<S>,
        rest: Rest,
        answered: &mut usize,
        io: &mut Io<'_>,
    ) -> After {
        let (to, after) = self.count(connection, &request.head, io);
        let to = To { expects_continue: request.head.expects_continue, ..to };
        let mut outcome = Outcome::Nothing;
        let begun = begin(self.state, request, Reply::new(io, self.writer, &mut outcome, to, Some(request)));
        let to = To { expects_continue: false, ..to };
        let (receiver, out) = match (begun, outcome) {
            (Ok(Receiving::Answers(receiver)), Outcome::Nothing) => {
                if request.head.expects_continue {
                    io.write(CONTINUE);
                }
                (receiver, None)
            }
            (Ok(Receiving::Started(_, receiver)), Outcome::Started(framing)) => (receiver, Some(framing)),
            (begun, outcome) => {
                *answered += 1;
                // It is unknown whether a client that is refused still sends its body, so the connection closes.
                let (to, after) = if request.head.expects_continue {
                    (To { say: Say::Close, ..to }, After::Close)
                } else {
                    (to, after)
                };
                let then = self.settle(connection, request, begun.err(), outcome, (to, after), io);
                self.record(connection, request, io);
                if then == After::Keep && connection.busy.is_none() || then == After::Finish {
                    return skip(connection, rest, then);
                }
                // Something continues although the body was not read, and it could not be distinguished from what
                // follows.
                return if connection.busy.take().is_some() { After::Cut } else { then };
            }
        };
        let mut busy = Busy::new(request.bytes, Doing::Parts { rest, receiver, out, waits: false });
        (busy.to, busy.after) = (Some(to), after);
        if self.peers.is_some() && out.is_some() {
            let (status, body_bytes) = self.writer.last();
            busy.record = Some(Pending { head: request.bytes.into(), status, body_bytes, began: io.now() });
        }
        connection.busy = Some(busy);
        After::Keep
    }

    /// The body is complete.
    pub(crate) fn end_parts(
        &mut self,
        connection: &mut HttpConnection<S>,
        request: &Request<'_>,
        mut receiver: Box<dyn Receive<S>>,
        (out, written): (Option<OutFraming>, &mut u64),
        after: After,
        io: &mut Io<'_>,
    ) -> After {
        if let Some(mut framing) = out {
            let mut out = Out { io, framing: &mut framing, written };
            return match receiver.on_last(self.state, &mut out) {
                Ok(()) if out.end() => {
                    if framing == OutFraming::UntilClose {
                        After::Close
                    } else {
                        after
                    }
                }
                Ok(()) => After::Cut,
                Err(error) => {
                    error.log(request.method().name(), request.path());
                    After::Cut
                }
            };
        }
        let (to, after) = self.persistence(connection, &request.head, io);
        let mut outcome = Outcome::Nothing;
        let reply = Reply::new(io, self.writer, &mut outcome, to, Some(request));
        let failed = receiver.on_end(self.state, request, reply).err();
        let then = self.settle(connection, request, failed, outcome, (to, after), io);
        self.record(connection, request, io);
        then
    }

    /// A receiver has failed in the middle of a body. The rest of a small one is skipped, so that the connection
    /// continues. The answer must not depend on how much of the body has arrived so far.
    pub(crate) fn fail_parts(
        &mut self,
        connection: &mut HttpConnection<S>,
        request: &Request<'_>,
        rest: Rest,
        error: Error,
        has_begun: bool,
        io: &mut Io<'_>,
    ) -> After {
        error.log(request.method().name(), request.path());
        if has_begun {
            return After::Cut;
        }
        let is_small = matches!(request.head.framing, Framing::Length(length) if length <= SKIPPED_BYTES_MAX);
        let (to, after) = match self.persistence(connection, &request.head, io) {
            kept if is_small => kept,
            (to, _) => (To { say: Say::Close, ..to }, After::Close),
        };
        write_error(self.writer, io, to, &error);
        self.record(connection, request, io);
        match after {
            After::Keep | After::Finish if !rest.has_ended() => skip(connection, rest, after),
            _ => after,
        }
    }

    /// Answers a request that waits for this; the answer may continue as a stream.
    pub(crate) fn answer_late(
        &mut self,
        connection: &mut HttpConnection<S>,
        response: &Response,
        io: &mut Io<'_>,
    ) -> After {
        let Some(busy) = connection.busy.take() else { return After::Keep };
        let Some(to) = busy.to else { return busy.after };
        let is_last = io.is_draining() || busy.has_peer_ended;
        let (to, after) = if is_last { (To { say: Say::Close, ..to }, After::Close) } else { (to, busy.after) };
        self.spares.keep(busy);
        let mut outcome = Outcome::Nothing;
        let result = Reply::new(io, self.writer, &mut outcome, to, None).response(response);
        if let Err(error) = result {
            error.log("", "");
            write_error(self.writer, io, to, &error);
        }
        after
    }

    /// Counts another request.
    #[inline]
    fn count(&mut self, connection: &mut HttpConnection<S>, head: &Head<'_>, io: &Io<'_>) -> (To, After) {
        connection.requests = connection.requests.saturating_add(1);
        self.persistence(connection, head, io)
    }

    #[inline]
    fn persistence(&self, connection: &HttpConnection<S>, head: &Head<'_>, io: &Io<'_>) -> (To, After) {
        let is_last = self.requests_max > 0 && connection.requests >= self.requests_max || io.is_draining();
        let (say, after) = match head.persistence {
            Persistence::Close => (Say::Close, After::Finish),
            _ if is_last => (Say::Close, After::Close),
            Persistence::Keep => (Say::Nothing, After::Keep),
            Persistence::KeepSaid => (Say::KeepAlive, After::Keep),
        };
        let number = connection.requests;
        (To { say, method: head.method, minor: head.minor, number, expects_continue: false }, after)
    }

    fn allowed(&mut self, io: &mut Io<'_>, to: To, status: StatusCode, allow: &str, content_type: &[u8], body: &[u8]) {
        self.write_with(io, to, status, (b"Allow: ", allow), (content_type, body));
    }

    #[cold]
    fn redirect(&mut self, io: &mut Io<'_>, to: To, redirect: &Redirect, request: &Request<'_>) {
        match redirect.location(request) {
            Some(url) => self.write_with(io, to, StatusCode::PERMANENT_REDIRECT, (b"Location: ", &url), (b"", b"")),
            None => write_text(self.writer, io, to, StatusCode::BAD_REQUEST, NO_HOST),
        }
    }

    /// Answers with an additional header.
    fn write_with(
        &mut self,
        io: &mut Io<'_>,
        to: To,
        status: StatusCode,
        (name, value): (&[u8], &str),
        (content_type, body): (&[u8], &[u8]),
    ) {
        self.writer.begin();
        let mut headers = std::mem::take(&mut self.writer.headers);
        [name, value.as_bytes(), b"\r\n"].into_iter().for_each(|part| headers.extend_from_slice(part));
        let length = Length::Bytes(body.len() as u64);
        let head = AnswerHead { status, say: to.say, headers: &headers, content_type, length };
        self.writer.write(io, head, if to.method == Method::Head { b"" } else { body });
        self.writer.headers = headers;
    }
}

/// Reads and drops the rest of a body, and does `then` after it.
fn skip<S>(connection: &mut HttpConnection<S>, rest: Rest, then: After) -> After {
    let mut busy = Busy::new(b"", Doing::Skip { rest });
    busy.after = then;
    connection.busy = Some(busy);
    After::Keep
}

/// Refuses an invalid request.
pub(crate) fn refuse(writer: &mut Writer, io: &mut Io<'_>, refusal: Refusal, method: Method) {
    let to = To { say: Say::Close, method, minor: 1, number: 0, expects_continue: false };
    write_text(writer, io, to, refusal.status, refusal.detail.as_bytes());
}

fn write_error(writer: &mut Writer, io: &mut Io<'_>, to: To, error: &Error) {
    let text = format!("{}\n", error.message());
    write_text(writer, io, to, error.status(), text.as_bytes());
}

fn write_text(writer: &mut Writer, io: &mut Io<'_>, to: To, status: StatusCode, text: &[u8]) {
    let length = Length::Bytes(text.len() as u64);
    let head = AnswerHead { status, say: to.say, headers: b"", content_type: b"text/plain", length };
    writer.write(io, head, if to.method == Method::Head { b"" } else { text });
}
