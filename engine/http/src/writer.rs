//! Heads of answers, and the parts of them that stay the same for a second.

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::http::StatusCode;
use baton::Io;
use httpdate::HttpDate;

use crate::later::Post;

/// The last second that the date format can express: 9999-12-31 23:59:59.
const DATE_LAST: Duration = Duration::from_secs(253_402_300_799);

const STATUS_OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// What an answer says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
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

/// What an answer's head says about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Bytes(u64),
    Chunked,
    /// There is no body, or it ends with the connection.
    Unsaid,
}

/// The head of one answer. Names and values have been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerHead<'a> {
    pub(crate) status: StatusCode,
    pub(crate) say: Say,
    /// Complete lines.
    pub(crate) headers: &'a [u8],
    /// Empty for none.
    pub(crate) content_type: &'a [u8],
    pub(crate) length: Length,
}

/// Writes answers. Keeps what only changes each second, and memory in which answers are composed.
pub(crate) struct Writer {
    /// The `Server` line.
    server: Vec<u8>,
    /// The status line of 200, and the `Server` and the `Date` line.
    ok: Vec<u8>,
    /// The loop's time at which `ok` is stale.
    stale_at: Duration,
    /// Header lines of the answer that is being composed.
    pub(crate) headers: Vec<u8>,
    pub(crate) content_type: Vec<u8>,
    /// A body that is being made.
    pub(crate) body: Vec<u8>,
    /// Status and body bytes of the last answer.
    last: Cell<(StatusCode, u64)>,
    /// The post of this worker, once it has started.
    pub(crate) post: Option<Arc<Post>>,
}

impl Writer {
    pub(crate) fn new(server: &str) -> Self {
        // A line break from a configuration file must not become a header of its own.
        let server: String = server.chars().filter(|one| matches!(one, ' '..='~')).collect();
        let server = if server.trim().is_empty() { String::new() } else { format!("Server: {}\r\n", server.trim()) };
        Self {
            server: server.into_bytes(),
            ok: Vec::new(),
            stale_at: Duration::ZERO,
            headers: Vec::new(),
            content_type: Vec::new(),
            body: Vec::new(),
            last: Cell::new((StatusCode::OK, 0)),
            post: None,
        }
    }

    /// Updates the date to this second. Call it before anything is written.
    #[inline]
    pub(crate) fn refresh(&mut self, io: &Io<'_>) {
        if io.now() >= self.stale_at || self.ok.is_empty() {
            self.rebuild(io.now(), io.wall_time());
        }
    }

    #[cold]
    fn rebuild(&mut self, now: Duration, wall_time: SystemTime) {
        let since = wall_time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(DATE_LAST);
        let next_second = Duration::from_nanos(1_000_000_000 - u64::from(since.subsec_nanos()));
        self.stale_at = now.saturating_add(next_second);
        self.ok.clear();
        self.ok.extend_from_slice(STATUS_OK);
        self.ok.extend_from_slice(&self.server);
        let date = HttpDate::from(SystemTime::UNIX_EPOCH + since);
        write!(self.ok, "Date: {date}\r\n").expect("memory takes every byte");
    }

    /// Status and body bytes of the last answer, so far.
    pub(crate) fn last(&self) -> (StatusCode, u64) {
        self.last.get()
    }

    /// Counts body bytes of the last answer that were written elsewhere.
    pub(crate) fn count_body(&self, bytes: u64) {
        let (status, before) = self.last.get();
        self.last.set((status, before + bytes));
    }

    /// Drops what an earlier answer was composed from.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.headers.clear();
        self.content_type.clear();
    }

    /// Writes a head followed by a body, in one piece.
    #[inline]
    pub(crate) fn write(&self, io: &mut Io<'_>, head: AnswerHead<'_>, body: &[u8]) {
        let AnswerHead { status, say, headers, content_type, length } = head;
        let room = self.ok.len() + headers.len() + content_type.len() + body.len() + FIXED_BYTES_MAX;
        let mut to = Cursor { room: io.reserve(room), at: 0 };
        if status == StatusCode::OK {
            to.put(&self.ok);
        } else {
            self.put_other(&mut to, status);
        }
        if say != Say::Nothing {
            to.put(say.line());
        }
        if !headers.is_empty() {
            to.put(headers);
        }
        if !content_type.is_empty() {
            to.put(b"Content-Type: ");
            to.put(content_type);
            to.put(b"\r\n");
        }
        match length {
            Length::Bytes(bytes) => {
                to.put(b"Content-Length: ");
                to.put(itoa::Buffer::new().format(bytes).as_bytes());
                to.put(b"\r\n\r\n");
            }
            Length::Chunked => to.put(b"Transfer-Encoding: chunked\r\n\r\n"),
            Length::Unsaid => to.put(b"\r\n"),
        }
        to.put(body);
        let written = to.at;
        io.commit(written);
        self.last.set((status, body.len() as u64));
    }

    #[inline(never)]
    fn put_other(&self, to: &mut Cursor<'_>, status: StatusCode) {
        to.put(b"HTTP/1.1 ");
        to.put(status.as_str().as_bytes());
        to.put(b" ");
        to.put(reason(status).as_bytes());
        to.put(b"\r\n");
        to.put(&self.ok[STATUS_OK.len()..]);
    }
}

/// The most bytes of a head besides what [`Writer::write`] counts: status line, connection header, names, and numbers.
const FIXED_BYTES_MAX: usize = 256;

/// Fills memory from its start.
struct Cursor<'a> {
    room: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        copy(bytes, &mut self.room[self.at..self.at + bytes.len()]);
        self.at += bytes.len();
    }
}

/// Copies to the same number of bytes. A short piece, as most of an answer is, is copied as two overlapping pieces of
/// known sizes, which costs less than a call.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    #[inline(always)]
    fn pieces<const BYTES: usize>(from: &[u8], to: &mut [u8]) {
        let last = from.len() - BYTES;
        to[..BYTES].copy_from_slice(&from[..BYTES]);
        to[last..].copy_from_slice(&from[last..]);
    }
    match from.len() {
        0 => {}
        1 => to.copy_from_slice(&[from[0]]),
        2..4 => pieces::<2>(from, to),
        4..8 => pieces::<4>(from, to),
        8..16 => pieces::<8>(from, to),
        16..32 => pieces::<16>(from, to),
        32..64 => pieces::<32>(from, to),
        64..=128 => pieces::<64>(from, to),
        _ => to.copy_from_slice(from),
    }
}

/// RFC 9110 15 has newer phrases for two of them.
fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        StatusCode::UNPROCESSABLE_ENTITY => "Unprocessable Content",
        status => status.canonical_reason().unwrap_or_default(),
    }
}
