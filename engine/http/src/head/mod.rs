//! The head of a request, from bytes to meaning. Pure, and the one place that decides where a head ends.
//!
//! Invariant: once [`parse`] has decided on a piece of input, more input behind it changes nothing. So answers do not
//! depend on how the network cut the request, and equal heads may be recognised by their bytes alone.

pub(crate) mod fields;
mod target;

use httparse::{EMPTY_HEADER, Header};

use self::fields::is_token;
use crate::method::Method;
use crate::refusal::Refusal;

/// Most headers of a request.
pub(crate) const HEADERS_MAX: usize = 100;

/// Tried first, since clearing room for [`HEADERS_MAX`] takes longer than parsing an ordinary head.
const HEADERS_USUAL: usize = 24;

/// A longer method is longer than any that is known.
const METHOD_BYTES_MAX: usize = 32;

const VERSION_BYTES: usize = b"HTTP/1.1".len();

const _: () = assert!(HEADERS_USUAL < HEADERS_MAX);

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
    into: &mut Vec<Field>,
) -> Result<Option<Head<'a>>, Refusal> {
    // What lies beyond the bound never plays a part, however much of it is there already.
    let window = &input[..input.len().min(limits.head_bytes_max)];
    let is_full = input.len() >= limits.head_bytes_max;
    let Some(line) = RequestLine::parse(window, limits.target_bytes_max)? else {
        return if is_full { Err(Refusal::TARGET_TOO_LONG) } else { Ok(None) };
    };
    let rest = &window[line.length..];
    let mut usual = [EMPTY_HEADER; HEADERS_USUAL];
    match httparse::parse_headers(rest, &mut usual) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut most = [EMPTY_HEADER; HEADERS_MAX];
            let outcome = httparse::parse_headers(rest, &mut most);
            finish(window, is_full, &line, outcome, into)
        }
        outcome => finish(window, is_full, &line, outcome, into),
    }
}

fn finish<'a>(
    window: &'a [u8],
    is_full: bool,
    line: &RequestLine<'a>,
    outcome: httparse::Result<(usize, &[Header<'a>])>,
    into: &mut Vec<Field>,
) -> Result<Option<Head<'a>>, Refusal> {
    let (headers_bytes, headers) = match outcome {
        Ok(httparse::Status::Complete(complete)) => complete,
        Ok(httparse::Status::Partial) if is_full => return Err(Refusal::HEAD_TOO_LARGE),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HEADERS_TOO_MANY),
        Err(httparse::Error::HeaderName) => return Err(Refusal::HEADER_NAME),
        Err(_) => return Err(Refusal::HEADER_VALUE),
    };
    let length = line.length + headers_bytes;
    // The parser takes a line feed alone for a line's end; another reader in front of us may not.
    let head = &window[..length];
    if memchr::memchr_iter(b'\n', head).any(|at| head[at - 1] != b'\r') {
        return Err(Refusal::LINE_FEED);
    }
    let method = Method::of(line.method).ok_or(Refusal::METHOD_UNKNOWN)?;
    let fields = fields::read(headers, line.minor)?;
    into.clear();
    for header in headers {
        let at = |part: &[u8]| (part.as_ptr() as usize - window.as_ptr() as usize) as u32;
        let (name_start, value_start) = (at(header.name.as_bytes()), at(header.value));
        into.push(Field {
            name_start,
            name_end: name_start + header.name.len() as u32,
            value_start,
            value_end: value_start + header.value.len() as u32,
        });
    }
    let target = std::str::from_utf8(line.target).map_err(|_| Refusal::TARGET)?;
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

struct RequestLine<'a> {
    length: usize,
    method: &'a [u8],
    target: &'a [u8],
    minor: u8,
}

impl<'a> RequestLine<'a> {
    fn parse(input: &'a [u8], target_bytes_max: usize) -> Result<Option<Self>, Refusal> {
        let within = &input[..input.len().min(METHOD_BYTES_MAX + 1)];
        let Some(method_bytes) = within.iter().position(|byte| !is_token(*byte)) else {
            return if within.len() > METHOD_BYTES_MAX { Err(Refusal::METHOD_UNKNOWN) } else { Ok(None) };
        };
        if method_bytes == 0 || input[method_bytes] != b' ' {
            return Err(Refusal::REQUEST_LINE);
        }
        let rest = &input[method_bytes + 1..];
        let within = &rest[..rest.len().min(target_bytes_max.saturating_add(1))];
        let Some(target_bytes) = within.iter().position(|byte| !byte.is_ascii_graphic()) else {
            return if within.len() > target_bytes_max { Err(Refusal::TARGET_TOO_LONG) } else { Ok(None) };
        };
        if target_bytes == 0 || rest[target_bytes] != b' ' {
            return Err(Refusal::REQUEST_LINE);
        }
        let Some(minor) = minor_version(&rest[target_bytes + 1..])? else { return Ok(None) };
        Ok(Some(Self {
            length: method_bytes + 1 + target_bytes + 1 + VERSION_BYTES + 2,
            method: &input[..method_bytes],
            target: &rest[..target_bytes],
            minor,
        }))
    }
}

/// The minor version of the `HTTP/1.x` CRLF that `input` begins with.
fn minor_version(input: &[u8]) -> Result<Option<u8>, Refusal> {
    if input.starts_with(b"HTTP/1.1\r\n") {
        return Ok(Some(1));
    }
    for (at, byte) in input.iter().take(VERSION_BYTES + 2).enumerate() {
        let is_expected = match at {
            0..=4 => *byte == b"HTTP/"[at],
            5 | 7 => byte.is_ascii_digit(),
            6 => *byte == b'.',
            8 => *byte == b'\r',
            _ => *byte == b'\n',
        };
        if !is_expected {
            return Err(Refusal::REQUEST_LINE);
        }
        if at == VERSION_BYTES - 1 && input[5] != b'1' {
            return Err(Refusal::VERSION);
        }
    }
    // RFC 9110 2.5: a higher minor version is read as the highest one known.
    Ok((input.len() >= VERSION_BYTES + 2).then(|| (input[7] - b'0').min(1)))
}

#[cfg(test)]
mod tests {
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
