//! The answer to a request, as a handler gives it.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::http::StatusCode;
use baton::{Io, SealedMemory};
use serde::Serialize;

use crate::accept::Encoding;
use crate::answer::CONTINUE;
use crate::conditional::{self, BodyTag, Condition, Validators};
use crate::date;
use crate::error::Error;
use crate::exchange::{Source, Upgraded};
use crate::head::fields::is_token;
use crate::later::{Later, Post, Response, Waker};
use crate::method::Method;
use crate::out::OutFraming;
use crate::request::Request;
use crate::writer::{AnswerHead, Length, Say, Writer};

const TEXT: &[u8] = b"text/plain; charset=utf-8";
const JSON: &[u8] = b"application/json";

/// Headers that the library writes itself.
const OWN_HEADERS: [&str; 6] = ["connection", "content-length", "content-type", "date", "server", "transfer-encoding"];

/// Proof that a request was answered, or will be.
#[derive(Debug)]
#[must_use]
pub struct Done(pub(crate) ());

/// Proof that an answer was begun with [`Reply::start`]: its body follows.
#[derive(Debug)]
#[must_use]
pub struct Started(pub(crate) ());

/// What a handler left to be done.
pub(crate) enum Outcome {
    Nothing,
    Answered,
    /// The body comes from this source.
    Stream(Box<dyn Source>, OutFraming),
    /// The body comes from the receiver of the request's body.
    Started(OutFraming),
    Later,
    Upgrade(Box<dyn Upgraded>),
}

/// What an answer must know of its request and its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To {
    pub(crate) say: Say,
    pub(crate) method: Method,
    pub(crate) minor: u8,
    /// The number of the request on the connection.
    pub(crate) number: u32,
    /// The client waits for `100 Continue`, and has not got it.
    pub(crate) expects_continue: bool,
}

/// The answer to a request; call one of the methods that return [`Done`]. The library writes `Date`, `Server`, `Connection` and the
/// headers that mark the body's end, and leaves out the body for `HEAD`.
pub struct Reply<'r, 'io> {
    io: &'r mut Io<'io>,
    writer: &'r mut Writer,
    outcome: &'r mut Outcome,
    to: To,
    request: Option<&'r Request<'r>>,
    status: StatusCode,
    /// The status in place of 200 that the request's conditions require.
    instead: Option<StatusCode>,
    /// The answer gets an `ETag` from its body.
    is_tagged: bool,
    /// The problem of a header that cannot be sent.
    #[expect(clippy::box_collection, reason = "a reply is moved often, and nearly none has a problem")]
    problem: Option<Box<String>>,
}

impl<'r, 'io> Reply<'r, 'io> {
    #[inline]
    pub(crate) fn new(
        io: &'r mut Io<'io>,
        writer: &'r mut Writer,
        outcome: &'r mut Outcome,
        to: To,
        request: Option<&'r Request<'r>>,
    ) -> Self {
        writer.begin();
        Self {
            io,
            writer,
            outcome,
            to,
            request,
            status: StatusCode::OK,
            instead: None,
            is_tagged: false,
            problem: None,
        }
    }

    /// Sets the status; the default is 200.
    #[must_use]
    #[inline]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header. The name must be a token, the value must have no control characters, and the header must not be one that the
    /// library writes itself. Otherwise the answer is 500 and the log says why. So text from outside cannot become another header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        if name.is_empty()
            || !name.bytes().all(is_token)
            || OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own))
        {
            self.problem = Some(Box::new(format!("a handler may not set the header {name:?}")));
        } else if !is_value(value) {
            self.problem = Some(Box::new(format!("the value of the header {name} has a control character")));
        } else {
            self.push_header(name, value);
        }
        self
    }

    /// Sets the type of the body; like [`Reply::header`].
    #[must_use]
    pub fn content_type(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        if is_value(value) {
            self.writer.content_type.clear();
            self.writer.content_type.extend_from_slice(value);
        } else {
            self.problem = Some(Box::new("the content type has a control character".to_owned()));
        }
        self
    }

    /// Sets the headers `ETag` and `Last-Modified`. If a request's conditions ask for it, the answer is 304 or 412 instead of 200
    /// (RFC 9110 section 13).
    #[must_use]
    pub fn validators(mut self, validators: &Validators<'_>) -> Self {
        self.validate(validators);
        self
    }

    fn validate(&mut self, validators: &Validators<'_>) {
        let condition = match self.request {
            Some(request) => conditional::evaluate(request.method(), request.headers(), Some(validators)),
            None => Condition::Proceed,
        };
        let tag = validators.entity_tag.map(|tag| tag.to_string());
        let date = validators.last_modified.and_then(date::format).map(|date| date.to_string());
        for (name, value) in [("ETag", tag), ("Last-Modified", date)] {
            if let Some(value) = value {
                self.push_header(name, value.as_bytes());
            }
        }
        self.instead = condition.status();
    }

    fn push_header(&mut self, name: &str, value: &[u8]) {
        let headers = &mut self.writer.headers;
        [name.as_bytes(), b": ", value, b"\r\n"].into_iter().for_each(|part| headers.extend_from_slice(part));
    }

    /// Tells how the handler has compressed the body: sets `Content-Encoding`, except for identity, and `Vary`, because the
    /// choice depends on what the client accepts ([`Request::accepted_encoding`]).
    #[must_use]
    pub fn coding(self, encoding: Encoding) -> Self {
        let reply = self.header("Vary", "Accept-Encoding");
        match encoding.content_encoding() {
            Some(coding) => reply.header("Content-Encoding", coding),
            None => reply,
        }
    }

    /// Gives an answer of 200 to `GET` and `HEAD` an `ETag` that is a hash of its body, and answers 304 or 412 as
    /// [`Reply::validators`] does; call it instead of that method. It saves sending the body, not making it; streams have none.
    #[must_use]
    pub fn etag_of_body(mut self) -> Self {
        self.is_tagged = self.request.is_some_and(|request| matches!(request.method(), Method::Get | Method::Head));
        self
    }

    /// Answers without a body.
    ///
    /// # Errors
    /// If a header cannot be sent.
    #[inline]
    pub fn empty(self) -> Result<Done, Error> {
        self.whole(b"", b"")
    }

    /// Answers with a text, of type `text/plain` if you set no other type.
    ///
    /// # Errors
    /// If a header cannot be sent.
    #[inline]
    pub fn text(self, text: &str) -> Result<Done, Error> {
        self.whole(TEXT, text.as_bytes())
    }

    /// Answers with a body of this type, unless [`Reply::content_type`] has given another.
    ///
    /// # Errors
    /// If a header cannot be sent.
    #[inline]
    pub fn bytes(self, content_type: &'static str, body: &[u8]) -> Result<Done, Error> {
        self.whole(content_type.as_bytes(), body)
    }

    /// Answers with a value as JSON, serialised now.
    ///
    /// # Errors
    /// If the value cannot be serialised, or a header cannot be sent.
    pub fn json(self, value: &impl Serialize) -> Result<Done, Error> {
        let mut reply = self;
        let mut body = std::mem::take(&mut reply.writer.body);
        body.clear();
        serde_json::to_writer(&mut body, value)?;
        reply.tag(&body);
        let begun = reply.begin(JSON, Length::Bytes(body.len() as u64), &body);
        reply.writer.body = body;
        begun.map(|_| Done(()))
    }

    /// Answers with shared memory: a body of several kilobytes or more is sent without a copy.
    ///
    /// # Errors
    /// If a header cannot be sent.
    pub fn counted(self, content_type: &'static str, body: &Rc<[u8]>) -> Result<Done, Error> {
        let length = Length::Bytes(body.len() as u64);
        let mut reply = self;
        reply.tag(body);
        if reply.begin(content_type.as_bytes(), length, b"")? {
            reply.writer.count_body(body.len() as u64);
            reply.io.write_counted(body, 0..body.len());
        }
        Ok(Done(()))
    }

    /// Answers with part of sealed memory: a body of 32 KiB or more is sent without a copy.
    ///
    /// # Errors
    /// If a header cannot be sent.
    ///
    /// # Panics
    /// If `part` does not lie within `memory`.
    pub fn sealed(
        self,
        content_type: &'static str,
        memory: &Rc<SealedMemory>,
        part: Range<usize>,
    ) -> Result<Done, Error> {
        let length = Length::Bytes(part.len() as u64);
        let mut reply = self;
        reply.tag(&memory[part.clone()]);
        if reply.begin(content_type.as_bytes(), length, b"")? {
            reply.writer.count_body(part.len() as u64);
            reply.io.write_sealed(memory, part);
        }
        Ok(Done(()))
    }

    /// Answers with a prepared answer.
    ///
    /// # Errors
    /// If a header cannot be sent.
    pub fn response(self, response: &Response) -> Result<Done, Error> {
        let with_headers = response
            .headers
            .iter()
            .fold(self.status(response.status), |reply, (name, value)| reply.header(name, value));
        with_headers.content_type(&*response.content_type).whole(b"", &response.body)
    }

    /// Answers with a body that `source` makes part by part, as the client reads it. Give the length if you know it: the
    /// client can then show progress, and notices a body that ends early.
    ///
    /// # Errors
    /// If a header cannot be sent.
    pub fn stream(self, length: Option<u64>, source: impl Source) -> Result<Done, Error> {
        let mut reply = self;
        if let Some(framing) = reply.begin_parts(length)? {
            *reply.outcome = Outcome::Stream(Box::new(source), framing);
        }
        Ok(Done(()))
    }

    /// Sends the head of the answer while the request's body is still arriving: for a [`Receive`](crate::Receive) that answers
    /// before the end. `None` for an unknown length.
    ///
    /// # Errors
    /// If a header cannot be sent.
    pub fn start(self, length: Option<u64>) -> Result<Started, Error> {
        if self.to.expects_continue {
            self.io.write(CONTINUE);
        }
        let mut reply = self;
        let framing = reply.begin_parts(length)?;
        // An answer to HEAD has no body: what is written is left out.
        *reply.outcome = Outcome::Started(framing.unwrap_or(OutFraming::Left(0)));
        Ok(Started(()))
    }

    /// Answers later. Later requests of the connection wait; the connection stays in this worker until then.
    pub fn later(self) -> (Later, Done) {
        let post = self.post();
        *self.outcome = Outcome::Later;
        let later = Later { post, connection: self.io.id(), number: self.to.number, is_answered: false };
        (later, Done(()))
    }

    /// Whether the worker is leaving, so that this is the connection's last answer. See [`Io::is_draining`].
    pub fn is_draining(&self) -> bool {
        self.io.is_draining()
    }

    /// The loop's time; see [`Io::now`].
    pub fn now(&self) -> Duration {
        self.io.now()
    }

    /// The wall clock; virtual in the harness.
    pub fn wall_time(&self) -> SystemTime {
        self.io.wall_time()
    }

    /// A waker for this connection, for a [`Source`] or a [`Receive`](crate::Receive) that waits for something else.
    pub fn waker(&self) -> Waker {
        Waker { post: self.post(), connection: self.io.id() }
    }

    fn post(&self) -> Arc<Post> {
        self.writer.post.clone().expect("the protocol has started")
    }

    /// Answers 101; from then on `protocol` has the connection (RFC 9110 7.8). `name` is the value of `Upgrade`.
    ///
    /// # Errors
    /// 426 if the client has not asked for an upgrade, or an error if a header cannot be sent.
    pub fn upgrade(self, name: &'static str, protocol: impl Upgraded) -> Result<Done, Error> {
        if self.request.is_none_or(|request| !request.head.is_upgrade) {
            let text = format!("this needs the headers Connection: upgrade and Upgrade: {name}");
            return Err(Error::new(StatusCode::UPGRADE_REQUIRED, text));
        }
        let mut reply = self;
        reply.check()?;
        let mut headers = format!("Connection: upgrade\r\nUpgrade: {name}\r\n").into_bytes();
        headers.append(&mut reply.writer.headers);
        let head = AnswerHead {
            status: StatusCode::SWITCHING_PROTOCOLS,
            say: Say::Nothing,
            headers: &headers,
            content_type: b"",
            length: Length::Unsaid,
        };
        reply.writer.write(reply.io, head, b"");
        *reply.outcome = Outcome::Upgrade(Box::new(protocol));
        Ok(Done(()))
    }

    /// Adds the tag of this body, if the handler asked for it.
    #[inline]
    fn tag(&mut self, body: &[u8]) {
        if self.is_tagged && self.status == StatusCode::OK {
            let tag = BodyTag::of(body);
            self.validate(&Validators { entity_tag: Some(tag.entity_tag()), last_modified: None });
        }
    }

    #[inline]
    fn whole(mut self, content_type: &[u8], body: &[u8]) -> Result<Done, Error> {
        self.tag(body);
        self.begin(content_type, Length::Bytes(body.len() as u64), body).map(|_| Done(()))
    }

    fn begin_parts(&mut self, length: Option<u64>) -> Result<Option<OutFraming>, Error> {
        // HTTP/1.0 has no chunks: the body ends with the connection, which `finish` ensures.
        let (length, framing) = match (length, self.to.minor) {
            (Some(length), _) => (Length::Bytes(length), OutFraming::Left(length)),
            (None, 0) => (Length::Unsaid, OutFraming::UntilClose),
            (None, _) => (Length::Chunked, OutFraming::Chunked),
        };
        if framing == OutFraming::UntilClose {
            self.to.say = Say::Close;
        }
        Ok(self.begin(b"", length, b"")?.then_some(framing))
    }

    /// Writes the head, and then the body if the answer has one. Returns whether it has.
    #[inline]
    fn begin(&mut self, content_type: &[u8], length: Length, body: &[u8]) -> Result<bool, Error> {
        self.check()?;
        let status = match self.instead {
            Some(instead) if self.status == StatusCode::OK => return self.begin_instead(instead),
            _ => self.status,
        };
        let is_without = status != StatusCode::OK
            && (matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || status.is_informational());
        let has_body = !is_without && self.to.method != Method::Head;
        let given = &self.writer.content_type;
        let head = AnswerHead {
            status,
            say: self.to.say,
            headers: &self.writer.headers,
            content_type: if given.is_empty() { content_type } else { given },
            length: if is_without { Length::Unsaid } else { length },
        };
        self.writer.write(self.io, head, if has_body { body } else { b"" });
        *self.outcome = Outcome::Answered;
        Ok(has_body)
    }

    /// 304 has the headers of a 200, except those that the client has already; 412 has none.
    #[cold]
    fn begin_instead(&mut self, status: StatusCode) -> Result<bool, Error> {
        (self.status, self.instead) = (status, None);
        self.writer.content_type.clear();
        self.begin(b"", Length::Bytes(0), b"")?;
        Ok(false)
    }

    #[inline]
    fn check(&mut self) -> Result<(), Error> {
        self.problem.take().map_or(Ok(()), |problem| Err(refused(*problem)))
    }
}

#[cold]
fn refused(problem: String) -> Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, problem).into()
}

/// RFC 9110 5.5, without the obsolete characters.
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}
