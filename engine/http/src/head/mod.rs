//! The head of a request, from bytes to meaning. Pure, and the one place that decides where a head ends.
//!
//! Invariant: once [`parse`] has decided on a piece of input, more input behind it changes nothing. So answers do not
//! depend on how the network cut the request.
//!
//! One strict pass: [`scan`] marks the bytes that end a name or a value, and a header costs a look at the marks. What is wrong
//! with a line is only asked once it is known not to be right.

pub(crate) mod fields;
mod request_line;
pub(crate) mod scan;
#[cfg(test)]
mod speed;
mod target;

use self::request_line::RequestLine;
use self::scan::{BLOCK_BYTES, Level, Marks, TOKEN, VALUE};
use crate::method::Method;
use crate::refusal::Refusal;

/// Most headers of a request.
pub(crate) const HEADERS_MAX: usize = 100;

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) head_bytes_max: usize,
    pub(crate) target_bytes_max: usize,
}

/// A whole head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// Bytes up to and including the empty line.
    pub(crate) length: usize,
    pub(crate) method: Method,
    /// As it stands in the request line; only characters of RFC 3986.
    pub(crate) target: &'a str,
    /// The path, with its percent-encoding; `*` for `OPTIONS *`; `/` where an absolute target has none.
    pub(crate) path: &'a str,
    /// What stands behind the first `?` of the target.
    pub(crate) query: Option<&'a str>,
    /// 0 or 1: of HTTP/1.x.
    pub(crate) minor: u8,
    pub(crate) framing: Framing,
    pub(crate) persistence: Persistence,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// `Connection` lists `upgrade`, and there is an `Upgrade` header (RFC 9110 7.8). Never in HTTP/1.0.
    pub(crate) is_upgrade: bool,
}

/// Where a header lies in its head. The name is a token; the value has no whitespace around it, and no control character but tab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name_start: u32,
    pub(crate) name_end: u32,
    pub(crate) value_start: u32,
    pub(crate) value_end: u32,
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// What the client wants of the connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    Keep,
    /// Keep it and say so, to an HTTP/1.0 client.
    KeepSaid,
    Close,
}

/// Parses the head that `input` begins with; `None` while more is needed.
/// Puts the headers in their order into `fields`, which is emptied first; they count only where a head is given.
pub(crate) fn parse<'a>(
    input: &'a [u8],
    limits: HeadLimits,
    fields: &mut Vec<Field>,
) -> Result<Option<Head<'a>>, Refusal> {
    parse_at(Level::best(), input, limits, fields)
}

/// As [`parse`], with the instructions of `level`.
pub(crate) fn parse_at<'a>(
    level: Level,
    input: &'a [u8],
    limits: HeadLimits,
    fields: &mut Vec<Field>,
) -> Result<Option<Head<'a>>, Refusal> {
    // What lies beyond the bound never plays a part, however much of it is there already.
    let window = &input[..input.len().min(limits.head_bytes_max)];
    let is_full = input.len() >= limits.head_bytes_max;
    let Some(line) = RequestLine::parse(level, window, limits.target_bytes_max)? else {
        return if is_full { Err(Refusal::TARGET_TOO_LONG) } else { Ok(None) };
    };
    fields.clear();
    let mut lines = Lines { level, window, fields, meaning: fields::Reader::default() };
    let Some(length) = lines.read(line.length)? else {
        return if is_full { Err(Refusal::HEAD_TOO_LARGE) } else { Ok(None) };
    };
    let method = line.method.ok_or(Refusal::METHOD_UNKNOWN)?;
    let fields = lines.meaning.finish(line.minor)?;
    let target = line.target()?;
    let (path, query) = target::split(method, target)?;
    Ok(Some(Head {
        length,
        method,
        target,
        path,
        query,
        minor: line.minor,
        framing: fields.framing,
        persistence: fields.persistence,
        expects_continue: fields.expects_continue,
        is_upgrade: fields.is_upgrade,
    }))
}

/// Reads the header lines of a head.
struct Lines<'a, 'f> {
    level: Level,
    window: &'a [u8],
    fields: &'f mut Vec<Field>,
    meaning: fields::Reader<'a>,
}

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Header,
    /// A header, and the empty line comes behind it.
    LastHeader,
    /// No header, or not known to be one yet.
    Other,
}

impl Lines<'_, '_> {
    /// Reads all lines from `at` on. Gives the place behind the empty line; `None` while more is needed.
    #[inline]
    fn read(&mut self, mut at: usize) -> Result<Option<usize>, Refusal> {
        let mut marks = Marks::new();
        loop {
            let start = at;
            let is_more_behind = self.level.mark(self.window, start, &mut marks);
            let mut before = 0;
            for (index, block) in marks.filled().iter().enumerate() {
                // The first of several in a row; where all is well, a carriage return.
                let mut ends = block.value_ends & !(block.value_ends << 1 | before);
                before = block.value_ends >> (BLOCK_BYTES - 1);
                while ends != 0 {
                    let end = start + index * BLOCK_BYTES + ends.trailing_zeros() as usize;
                    ends &= ends - 1;
                    match self.take(at, marks.token_ends_from(at - start), end) {
                        Line::Header => at = end + 2,
                        Line::LastHeader => return Ok(Some(end + 4)),
                        Line::Other => return self.rest(at),
                    }
                }
            }
            if at == start || !is_more_behind {
                return self.rest(at);
            }
        }
    }

    /// Takes the line from `at` to `end`, where the first byte is that may not stand in a value. The lowest bit of `token_ends` is
    /// for the byte at `at`.
    #[inline(always)]
    fn take(&mut self, at: usize, token_ends: u64, end: usize) -> Line {
        let name_end = at + token_ends.trailing_zeros() as usize;
        let Some(line_end) = self.window.get(end..end + 4) else { return Line::Other };
        let usual = self.window.get(name_end..name_end + 3).is_some_and(|separator| {
            separator[..2] == *b": " && separator[2] > b' ' && self.window[end - 1] > b' ' && line_end[..2] == *b"\r\n"
        });
        if !usual || name_end == at || self.fields.len() == HEADERS_MAX {
            return self.take_unusual(at, end);
        }
        self.add(at, name_end, name_end + 2, end);
        if line_end[2..] == *b"\r\n" { Line::LastHeader } else { Line::Header }
    }

    /// As [`Self::take`], with any length of the name, and any whitespace around the value.
    #[cold]
    fn take_unusual(&mut self, at: usize, end: usize) -> Line {
        let (line, behind) = (&self.window[at..end], &self.window[end..]);
        let Some(name_bytes) = self.level.run_end(&TOKEN, line).filter(|bytes| *bytes > 0) else { return Line::Other };
        if line[name_bytes] != b':' || !behind.starts_with(b"\r\n") || self.fields.len() == HEADERS_MAX {
            return Line::Other;
        }
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let value = &line[name_bytes + 1..];
        let value_start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
        let value_bytes = value.iter().rposition(|byte| !is_space(byte)).map_or(value_start, |last| last + 1);
        let value_at = at + name_bytes + 1;
        self.add(at, at + name_bytes, value_at + value_start, value_at + value_bytes);
        if behind[2..].starts_with(b"\r\n") { Line::LastHeader } else { Line::Header }
    }

    #[inline(always)]
    fn add(&mut self, name_start: usize, name_end: usize, value_start: usize, value_end: usize) {
        self.meaning.read(&self.window[name_start..name_end], &self.window[value_start..value_end]);
        self.fields.push(Field {
            name_start: name_start as u32,
            name_end: name_end as u32,
            value_start: value_start as u32,
            value_end: value_end as u32,
        });
    }

    /// Reads the lines from `at` on one by one: one that is no header, is longer than marks reach, or is not there yet.
    #[cold]
    fn rest(&mut self, mut at: usize) -> Result<Option<usize>, Refusal> {
        loop {
            let line = &self.window[at..];
            match line {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => return Ok(Some(at + 2)),
                [b'\r', ..] => return Err(Refusal::HEADER_VALUE),
                [b'\n', ..] => return Err(Refusal::LINE_FEED),
                [first, ..] if TOKEN.ends(*first) => return Err(Refusal::HEADER_NAME),
                _ if self.fields.len() == HEADERS_MAX => return Err(Refusal::HEADERS_TOO_MANY),
                _ => {}
            }
            let Some(colon) = self.level.run_end(&TOKEN, line) else { return Ok(None) };
            if line[colon] != b':' {
                return Err(Refusal::HEADER_NAME);
            }
            let Some(end) = self.level.run_end(&VALUE, line) else { return Ok(None) };
            match &line[end..] {
                [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => drop(self.take_unusual(at, at + end)),
                [b'\n', ..] => return Err(Refusal::LINE_FEED),
                _ => return Err(Refusal::HEADER_VALUE),
            }
            at += end + 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fields::is_token;
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 512, target_bytes_max: 64 };

    fn length(outcome: Result<Option<Head<'_>>, Refusal>) -> Result<Option<usize>, Refusal> {
        outcome.map(|head| head.map(|head| head.length))
    }

    #[test]
    fn a_decision_stands_whatever_follows() {
        let heads: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.7\r\nHost: a\r\nConnection: x, close\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n",
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET / HTTP/1.1\rHost : a\r\n\r\n",
            b"BREW / HTTP/1.1\r\nHost: a\r\nA: \x7f\r\n\r\n",
        ];
        for head in heads {
            let parse = |input: &[u8]| length(parse(input, LIMITS, &mut Vec::new()));
            let whole = parse(head);
            assert_ne!(whole, Ok(None));
            let first = (0..=head.len()).find(|length| parse(&head[..*length]) != Ok(None));
            for length in first.expect("decided")..=head.len() {
                assert_eq!(parse(&head[..length]), whole, "{}", head[..length].escape_ascii());
            }
            for tail in [&b"\n"[..], b" ", b"\0", b"GET / HTTP/1.1\r\n\r\n", &[b'a'; 1000]] {
                assert_eq!(parse(&[head, tail].concat()), whole);
            }
        }
    }

    #[test]
    fn no_byte_in_a_value_slips_through_at_any_place() {
        for byte in 0..=255u8 {
            for place in 0..70 {
                let mut value = [b'a'; 70];
                value[place] = byte;
                let head = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", &value[..], b"\r\n\r\n"].concat();
                let outcome = length(parse(&head, LIMITS, &mut Vec::new()));
                let is_text = byte == b'\t' || byte >= b' ' && byte != 0x7f;
                assert_eq!(outcome.is_ok(), is_text, "byte {byte} at {place}: {outcome:?}");
            }
        }
    }

    #[test]
    fn no_byte_in_a_name_slips_through_at_any_place() {
        for byte in (0..=255u8).filter(|byte| *byte != b':') {
            for place in 0..40 {
                let mut name = [b'a'; 40];
                name[place] = byte;
                let head = [b"GET / HTTP/1.1\r\nHost: a\r\n", &name[..], b": x\r\n\r\n"].concat();
                assert_eq!(parse(&head, LIMITS, &mut Vec::new()).is_ok(), is_token(byte), "byte {byte} at {place}");
            }
        }
    }
}
