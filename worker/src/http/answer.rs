//! Answers: their text, and the parts of it that stay the same for a second.

use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use baton::Io;
use httpdate::HttpDate;
use serde::Serialize;

use super::refusal::{Refusal, Status};
use super::route::Allow;

/// Copies of the plaintext answer kept side by side, so that a pipelined run is one part.
const PLAINTEXT_COPIES: usize = 16;

const PLAINTEXT: &[u8] = b"Hello, World!";
const TEXT: &[u8] = b"text/plain";

/// The last second that the format of dates can say: 9999-12-31 23:59:59.
const DATE_LAST: Duration = Duration::from_secs(253_402_300_799);

/// What an answer says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    Nothing,
    KeepAlive,
    Close,
}

impl Say {
    fn line(self) -> &'static [u8] {
        match self {
            Self::Nothing => b"",
            Self::KeepAlive => b"Connection: keep-alive\r\n",
            Self::Close => b"Connection: close\r\n",
        }
    }
}

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    status: Status,
    allow: Option<Allow>,
    /// Empty for none.
    content_type: &'a [u8],
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    pub(super) const PLAINTEXT: Answer<'static> = Answer::text(Status::OK, PLAINTEXT);
    pub(super) const HEALTH: Answer<'static> = Answer::text(Status::OK, b"ok\n");
    pub(super) const NOT_FOUND: Answer<'static> = Answer::text(Status::NOT_FOUND, b"there is nothing here\n");

    const fn text(status: Status, body: &'static [u8]) -> Answer<'static> {
        Answer { status, allow: None, content_type: TEXT, body }
    }

    pub(super) fn refusal(refusal: Refusal) -> Answer<'static> {
        Answer::text(refusal.status, refusal.detail.as_bytes())
    }

    pub(super) fn not_allowed(allow: Allow) -> Answer<'static> {
        let body = b"this method is not allowed here; see the Allow header\n";
        Answer { allow: Some(allow), ..Answer::text(Status::METHOD_NOT_ALLOWED, body) }
    }

    pub(super) fn options(allow: Allow) -> Answer<'static> {
        Answer { allow: Some(allow), status: Status::OK, content_type: b"", body: b"" }
    }

    pub(super) fn echo(content_type: Option<&'a [u8]>, body: &'a [u8]) -> Self {
        let content_type = content_type.unwrap_or(b"application/octet-stream");
        Self { status: Status::OK, allow: None, content_type, body }
    }
}

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

/// Writes answers; keeps what only changes with the second.
pub(super) struct Answers {
    /// The `Server` line.
    server: Vec<u8>,
    /// The `Server` and the `Date` line.
    common: Vec<u8>,
    /// The whole plaintext answer for a connection that goes on, several times.
    plaintext: Rc<[u8]>,
    plaintext_bytes: usize,
    json: Vec<u8>,
    /// The loop's time at which `common` is stale.
    stale_at: Duration,
}

impl Answers {
    pub(super) fn new(server: &str) -> Self {
        // A line break from a configuration file must not become a header of its own.
        let server: String = server.chars().filter(|one| matches!(one, ' '..='~')).collect();
        let server = if server.trim().is_empty() { String::new() } else { format!("Server: {}\r\n", server.trim()) };
        Self {
            server: server.into_bytes(),
            common: Vec::new(),
            plaintext: Rc::default(),
            plaintext_bytes: 0,
            json: Vec::new(),
            stale_at: Duration::ZERO,
        }
    }

    /// Sees to it that the date is this second's. To be called before anything is written.
    #[inline]
    pub(super) fn refresh(&mut self, io: &Io<'_>) {
        if io.now() >= self.stale_at || self.common.is_empty() {
            self.rebuild(io.now(), io.wall_time());
        }
    }

    #[cold]
    fn rebuild(&mut self, now: Duration, wall_time: SystemTime) {
        let since = wall_time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(DATE_LAST);
        let next_second = Duration::from_nanos(1_000_000_000 - u64::from(since.subsec_nanos()));
        self.stale_at = now.saturating_add(next_second);
        self.common.clear();
        self.common.extend_from_slice(&self.server);
        let date = HttpDate::from(SystemTime::UNIX_EPOCH + since);
        write!(self.common, "Date: {date}\r\n").expect("memory takes every byte");
        let mut plaintext = vec![0; self.length(Say::Nothing, &Answer::PLAINTEXT, true)];
        self.encode(&mut plaintext, Say::Nothing, &Answer::PLAINTEXT, true);
        self.plaintext_bytes = plaintext.len();
        self.plaintext = plaintext.repeat(PLAINTEXT_COPIES).into();
    }

    /// Writes the plaintext answer `count` times, for a connection that goes on.
    #[inline]
    pub(super) fn write_plaintext(&self, io: &mut Io<'_>, count: usize) {
        let mut left = count * self.plaintext_bytes;
        while left > 0 {
            let part = left.min(self.plaintext.len());
            io.write_counted(&self.plaintext, 0..part);
            left -= part;
        }
    }

    /// Serialises the JSON answer, and writes it.
    pub(super) fn write_json(&mut self, io: &mut Io<'_>, say: Say, with_body: bool) {
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        serde_json::to_writer(&mut json, &Message { message: "Hello, World!" }).expect("memory takes every byte");
        let answer = Answer { status: Status::OK, allow: None, content_type: b"application/json", body: &json };
        self.write(io, say, &answer, with_body);
        self.json = json;
    }

    /// Writes an answer; without its body, but with its length, where the request was HEAD.
    pub(super) fn write(&self, io: &mut Io<'_>, say: Say, answer: &Answer<'_>, with_body: bool) {
        let total = self.length(say, answer, with_body);
        self.encode(&mut io.reserve(total)[..total], say, answer, with_body);
        io.commit(total);
    }

    fn length(&self, say: Say, answer: &Answer<'_>, with_body: bool) -> usize {
        let mut total = 0;
        self.parts(say, answer, with_body, |part| total += part.len());
        total
    }

    fn encode(&self, mut to: &mut [u8], say: Say, answer: &Answer<'_>, with_body: bool) {
        self.parts(say, answer, with_body, |part| {
            let (here, rest) = std::mem::take(&mut to).split_at_mut(part.len());
            here.copy_from_slice(part);
            to = rest;
        });
        debug_assert!(to.is_empty(), "the length was that of the parts");
    }

    #[inline]
    fn parts(&self, say: Say, answer: &Answer<'_>, with_body: bool, mut each: impl FnMut(&[u8])) {
        each(b"HTTP/1.1 ");
        each(answer.status.0.as_bytes());
        each(b"\r\n");
        each(&self.common);
        each(say.line());
        if let Some(allow) = answer.allow {
            each(b"Allow: ");
            each(allow.text().as_bytes());
            each(b"\r\n");
        }
        if !answer.content_type.is_empty() {
            each(b"Content-Type: ");
            each(answer.content_type);
            each(b"\r\n");
        }
        each(b"Content-Length: ");
        each(itoa::Buffer::new().format(answer.body.len()).as_bytes());
        each(b"\r\n\r\n");
        if with_body {
            each(answer.body);
        }
    }
}
