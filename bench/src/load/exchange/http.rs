//! HTTP/1.1 as a client: one request again and again, and answers that must be the same but for their Date.
//!
//! Answers are parsed by `httparse`. One that came in one piece becomes the template which later ones are compared with
//! first, so that a server is not outrun by its client's parsing.

use std::net::SocketAddr;
use std::ops::Range;
use std::str;

use baton::Io;

use super::fixed::excerpt;
use super::{Progress, Read};
use crate::load::plan::{DEPTH_MAX, HttpPlan};

/// Header lines of an answer at most.
const HEADERS_MAX: usize = 64;

/// A head that is not complete within so many bytes is none.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Longer answers are not kept as a template.
const TEMPLATE_BYTES_MAX: usize = 16 * 1024;

/// A first answer's body is kept to compare others with up to this size.
const REFERENCE_BYTES_MAX: usize = 16 << 20;

/// Where in an answer a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Body {
    /// Before its head has come.
    #[default]
    None,
    Length {
        remaining: u64,
        closes: bool,
    },
    Chunked {
        at: Chunk,
        closes: bool,
    },
    /// To the end of the connection.
    UntilEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data { remaining: u64 },
    DataEnd,
    Trailer,
}

/// What all answers' bodies must be.
enum Reference {
    Any,
    Known(Vec<u8>),
    /// What the first one that is complete will be.
    Unknown,
}

/// See the module's head.
pub(crate) struct Http {
    /// A batch of requests of equal length.
    requests: Vec<u8>,
    request_bytes: usize,
    /// The same request with `Connection: close`.
    last_request: Vec<u8>,
    reference: Reference,
    template: Option<Template>,
}

struct Template {
    answer: Vec<u8>,
    /// Where the Date's value is.
    date: Range<usize>,
}

impl Template {
    #[inline]
    fn matches(&self, input: &[u8]) -> bool {
        let Range { start, end } = self.date;
        input.len() >= self.answer.len()
            && input[..start] == self.answer[..start]
            && input[end..self.answer.len()] == self.answer[end..]
            && !input[start..end].contains(&b'\r')
    }
}

impl Http {
    pub(super) fn new(plan: &HttpPlan, target: SocketAddr) -> Self {
        let request = |connection: &str| {
            let method = if plan.payload_bytes > 0 { "POST" } else { "GET" };
            let host = plan.host.clone().unwrap_or_else(|| target.to_string());
            let mut text = format!("{method} {} HTTP/1.1\r\nHost: {host}\r\n", plan.path);
            plan.headers.iter().for_each(|line| text.extend([line, "\r\n"]));
            if plan.payload_bytes > 0 {
                text.push_str(&format!("Content-Length: {}\r\n", plan.payload_bytes));
            }
            text.push_str(connection);
            text.push_str("\r\n");
            let mut bytes = text.into_bytes();
            bytes.resize(bytes.len() + plan.payload_bytes, b'b');
            bytes
        };
        let one = request("");
        let batch = (TEMPLATE_BYTES_MAX / one.len()).clamp(1, DEPTH_MAX as usize);
        let reference = match &plan.expected_body {
            _ if plan.is_any_body => Reference::Any,
            Some(body) => Reference::Known(body.clone()),
            None => Reference::Unknown,
        };
        Self {
            requests: one.repeat(batch),
            request_bytes: one.len(),
            last_request: request("Connection: close\r\n"),
            reference,
            template: None,
        }
    }

    pub(super) fn write(&self, count: u32, is_last: bool, io: &mut Io<'_>) {
        let mut count = count as usize - usize::from(is_last);
        let batch = self.requests.len() / self.request_bytes;
        while count > 0 {
            let now = count.min(batch);
            io.write(&self.requests[..now * self.request_bytes]);
            count -= now;
        }
        if is_last {
            io.write(&self.last_request);
        }
    }

    pub(super) fn read(&mut self, progress: &mut Progress, awaited: u32, input: &[u8]) -> Result<Read, String> {
        let mut read = Read { at_least: 1, ..Read::default() };
        loop {
            let rest = &input[read.consumed..];
            if rest.is_empty() {
                return Ok(read);
            }
            if progress.body == Body::None {
                if read.answers == awaited {
                    return Err(format!("{} bytes more than were asked for: {}", rest.len(), excerpt(rest)));
                }
                if let Some(template) = &self.template
                    && template.matches(rest)
                {
                    read.consumed += template.answer.len();
                    read.answers += 1;
                    continue;
                }
                let Some(head) = parse_head(rest)? else {
                    return Ok(read);
                };
                self.keep_template(rest, &head);
                read.consumed += head.bytes;
                progress.body = head.body;
                progress.offset = 0;
            } else if !self.read_body(progress, rest, &mut read)? {
                return Ok(read);
            }
            if let Some(closes) = self.end_body(progress)? {
                read.answers += 1;
                read.closes |= closes;
            }
        }
    }

    pub(super) fn read_end(&mut self, progress: &mut Progress) -> bool {
        if std::mem::take(&mut progress.body) != Body::UntilEnd {
            return false;
        }
        self.learn(progress);
        match &self.reference {
            Reference::Known(body) => progress.offset == body.len() as u64,
            Reference::Any | Reference::Unknown => true,
        }
    }

    /// Reads on in a body; false where more input is needed for a step.
    fn read_body(&mut self, progress: &mut Progress, rest: &[u8], read: &mut Read) -> Result<bool, String> {
        match &mut progress.body {
            Body::None => {}
            Body::UntilEnd => {
                read.consumed += rest.len();
                return self.compare(progress, rest).map(|()| true);
            }
            Body::Length { remaining, .. } | Body::Chunked { at: Chunk::Data { remaining }, .. } => {
                let count = rest.len().min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining -= count as u64;
                read.consumed += count;
                self.compare(progress, &rest[..count])?;
                if let Body::Chunked { at: at @ Chunk::Data { remaining: 0 }, .. } = &mut progress.body {
                    *at = Chunk::DataEnd;
                }
            }
            Body::Chunked { at: at @ Chunk::Size, .. } => match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((count, size))) => {
                    read.consumed += count;
                    *at = if size == 0 { Chunk::Trailer } else { Chunk::Data { remaining: size } };
                }
                Ok(httparse::Status::Partial) if rest.len() < HEAD_BYTES_MAX => return Ok(false),
                _ => return Err(format!("not the size of a chunk: {}", excerpt(rest))),
            },
            Body::Chunked { at: at @ Chunk::DataEnd, .. } => {
                if rest.len() < 2 && b"\r\n".starts_with(rest) {
                    return Ok(false);
                }
                if !rest.starts_with(b"\r\n") {
                    return Err(format!("not the end of a chunk: {}", excerpt(rest)));
                }
                read.consumed += 2;
                *at = Chunk::Size;
            }
            Body::Chunked { at: Chunk::Trailer, closes } => {
                let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
                    return if rest.len() < HEAD_BYTES_MAX { Ok(false) } else { Err("an endless trailer".to_owned()) };
                };
                read.consumed += end + 2;
                if end == 0 {
                    progress.body = Body::Length { remaining: 0, closes: *closes };
                }
            }
        }
        Ok(true)
    }

    /// Whether the server closes after the answer, where one is complete.
    fn end_body(&mut self, progress: &mut Progress) -> Result<Option<bool>, String> {
        let Body::Length { remaining: 0, closes } = progress.body else { return Ok(None) };
        self.learn(progress);
        if let Reference::Known(body) = &self.reference
            && progress.offset != body.len() as u64
        {
            return Err(format!("a body of {} bytes where {} are expected", progress.offset, body.len()));
        }
        progress.body = Body::None;
        progress.offset = 0;
        Ok(Some(closes))
    }

    /// Compares part of a body with what it must be.
    fn compare(&mut self, progress: &mut Progress, part: &[u8]) -> Result<(), String> {
        let start = progress.offset as usize;
        progress.offset += part.len() as u64;
        match &self.reference {
            Reference::Known(body) if body.get(start..start + part.len()) != Some(part) => {
                return Err(format!("other bytes than expected, {start} bytes into a body: {}", excerpt(part)));
            }
            Reference::Unknown if start + part.len() > REFERENCE_BYTES_MAX => {
                return Err(format!("a body of more than {REFERENCE_BYTES_MAX} bytes; --any-body reads it unchecked"));
            }
            Reference::Unknown => progress.gathered.extend_from_slice(part),
            Reference::Known(_) | Reference::Any => {}
        }
        Ok(())
    }

    /// A body is complete. Others may have begun before it was known what bodies must be, and are looked at whole.
    fn learn(&mut self, progress: &mut Progress) {
        let gathered = std::mem::take(&mut progress.gathered);
        match &self.reference {
            Reference::Unknown => self.reference = Reference::Known(gathered),
            // Of what was gathered the length is known to be right only if the bytes are.
            Reference::Known(body) if !body.starts_with(&gathered) => progress.offset = u64::MAX,
            Reference::Known(_) | Reference::Any => {}
        }
    }

    /// An answer that is here in one piece shows what the others must be.
    fn keep_template(&mut self, rest: &[u8], head: &Head) {
        let Body::Length { remaining, closes: false } = head.body else { return };
        let Some(end) = usize::try_from(remaining).ok().and_then(|length| head.bytes.checked_add(length)) else {
            return;
        };
        if end > rest.len() {
            return;
        }
        let body = &rest[head.bytes..end];
        if matches!(self.reference, Reference::Unknown) && body.len() <= REFERENCE_BYTES_MAX {
            self.reference = Reference::Known(body.to_vec());
        }
        if end <= TEMPLATE_BYTES_MAX && matches!(&self.reference, Reference::Known(known) if known == body) {
            self.template = Some(Template { answer: rest[..end].to_vec(), date: head.date.clone() });
        }
    }
}

struct Head {
    bytes: usize,
    body: Body,
    date: Range<usize>,
}

/// The head of an answer; `None` where it is not complete.
fn parse_head(input: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) if input.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("a head without end".to_owned()),
        Err(error) => return Err(format!("not an HTTP answer ({error}): {}", excerpt(input))),
    };
    let status = response.code.unwrap_or_default();
    if !(200..400).contains(&status) {
        return Err(format!("status {status}: {}", excerpt(input)));
    }
    let mut closes = response.version == Some(0);
    let (mut length, mut is_chunked, mut date) = (None, false, 0..0);
    for header in response.headers.iter() {
        let value = str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| format!("Content-Length is no number: {value:?}"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = value.to_ascii_lowercase().ends_with("chunked");
        } else if header.name.eq_ignore_ascii_case("connection") {
            let value = value.to_ascii_lowercase();
            closes = value.contains("close") || (closes && !value.contains("keep-alive"));
        } else if header.name.eq_ignore_ascii_case("date") {
            let start = header.value.as_ptr() as usize - input.as_ptr() as usize;
            date = start..start + header.value.len();
        }
    }
    let body = match length {
        _ if status == 204 || status == 304 => Body::Length { remaining: 0, closes },
        _ if is_chunked => Body::Chunked { at: Chunk::Size, closes },
        Some(remaining) => Body::Length { remaining, closes },
        None => Body::UntilEnd,
    };
    Ok(Some(Head { bytes, body, date }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> Http {
        let plan = HttpPlan { path: "/".to_owned(), ..HttpPlan::default() };
        Http::new(&plan, ([127, 0, 0, 1], 80).into())
    }

    fn read_all(http: &mut Http, pieces: &[&[u8]]) -> Result<(u32, bool), String> {
        let (mut progress, mut waiting, mut sum) = (Progress::default(), Vec::new(), (0, false));
        for piece in pieces {
            waiting.extend_from_slice(piece);
            let read = http.read(&mut progress, 100, &waiting)?;
            waiting.drain(..read.consumed);
            sum = (sum.0 + read.answers, sum.1 | read.closes);
        }
        Ok(sum)
    }

    fn answer(date: u32, body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nDate: day {date:02}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn answers_are_read_however_they_are_cut_and_whatever_their_date() {
        let text = answer(1, "hello") + &answer(2, "hello") + &answer(3, "hello");
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n";
        for text in [text, chunked.repeat(3)] {
            for cut in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                assert_eq!(read_all(&mut http(), &[first, second]), Ok((3, false)), "cut at {cut}");
            }
        }
    }

    #[test]
    fn another_body_than_the_first_is_wrong() {
        let mut http = http();
        assert_eq!(read_all(&mut http, &[answer(1, "hello").as_bytes()]), Ok((1, false)));
        assert!(read_all(&mut http, &[answer(1, "jello").as_bytes()]).expect_err("a letter").contains("other bytes"));
        assert!(read_all(&mut http, &[answer(1, "hell").as_bytes()]).expect_err("short").contains("4 bytes where 5"));
        assert!(read_all(&mut http, &[answer(1, "hello!").as_bytes()]).is_err(), "longer");
        assert_eq!(read_all(&mut http, &[answer(7, "hello").as_bytes()]), Ok((1, false)));
    }

    #[test]
    fn what_is_no_good_answer_is_wrong() {
        let wrong = [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ];
        for text in wrong {
            assert!(read_all(&mut http(), &[text.as_bytes()]).is_err(), "{text:?}");
        }
        let mut http = http();
        let twice = answer(1, "x").repeat(2);
        assert!(http.read(&mut Progress::default(), 1, twice.as_bytes()).expect_err("one asked").contains("more than"));
    }

    #[test]
    fn a_server_that_closes_says_so() {
        let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(read_all(&mut http(), &[close.as_bytes()]), Ok((1, true)));
        let mut http = http();
        let mut progress = Progress::default();
        let read = http.read(&mut progress, 1, b"HTTP/1.0 200 OK\r\n\r\nuntil the end").expect("right");
        assert_eq!((read.answers, progress.is_within()), (0, true));
        assert!(http.read_end(&mut progress));
        assert!(!http.read_end(&mut Progress::default()));
    }

    #[test]
    fn requests_are_whole() {
        let plan = HttpPlan {
            path: "/e".to_owned(),
            headers: vec!["X: y".to_owned()],
            payload_bytes: 2,
            ..HttpPlan::default()
        };
        let http = Http::new(&plan, ([127, 0, 0, 1], 80).into());
        let text = "POST /e HTTP/1.1\r\nHost: 127.0.0.1:80\r\nX: y\r\nContent-Length: 2\r\n\r\nbb";
        assert_eq!(str::from_utf8(&http.requests[..http.request_bytes]), Ok(text));
        assert!(str::from_utf8(&http.last_request).expect("text").contains("\r\nConnection: close\r\n\r\n"));
    }
}
