//! The request line: method, target, version. Pure.

use super::scan::{self, Classify, TOKEN, Target, run_end};
use crate::method::Method;
use crate::refusal::Refusal;

/// Every known method is shorter than this.
const METHOD_BYTES_MAX: usize = 32;

const VERSION_BYTES: usize = b"HTTP/1.1".len();

/// A complete request line.
pub(super) struct RequestLine<'a> {
    /// Bytes up to and including its CRLF.
    pub(super) length: usize,
    /// `None` if the token is not a known method.
    pub(super) method: Option<Method>,
    /// Not empty.
    pub(super) target: Target<'a>,
    /// The minor version of HTTP/1: 0 or 1.
    pub(super) minor: u8,
}

impl<'a> RequestLine<'a> {
    /// The line at the start of `input`; `None` while more is needed.
    #[inline(always)]
    pub(super) fn parse(
        classify: impl Classify,
        input: &'a [u8],
        target_bytes_max: usize,
    ) -> Result<Option<Self>, Refusal> {
        let (method, method_bytes) = if input.starts_with(b"GET ") {
            (Some(Method::Get), 3)
        } else if input.starts_with(b"POST ") {
            (Some(Method::Post), 4)
        } else {
            let Some(bytes) = method(classify, input)? else { return Ok(None) };
            (Method::of(&input[..bytes]), bytes)
        };
        let rest = &input[method_bytes + 1..];
        let within = &rest[..rest.len().min(target_bytes_max.saturating_add(1))];
        let Some(target) = scan::target(classify, within) else {
            return if within.len() > target_bytes_max { Err(Refusal::TARGET_TOO_LONG) } else { Ok(None) };
        };
        let target_bytes = target.length();
        if target_bytes == 0 || rest[target_bytes] != b' ' {
            return Err(Refusal::REQUEST_LINE);
        }
        let Some(minor) = minor_version(&rest[target_bytes + 1..])? else { return Ok(None) };
        Ok(Some(Self { length: method_bytes + 1 + target_bytes + 1 + VERSION_BYTES + 2, method, target, minor }))
    }
}

/// Bytes of the method at the start of `input`, before a space.
fn method(classify: impl Classify, input: &[u8]) -> Result<Option<usize>, Refusal> {
    let within = &input[..input.len().min(METHOD_BYTES_MAX + 1)];
    match run_end(classify, &TOKEN, within) {
        Some(0) => Err(Refusal::REQUEST_LINE),
        Some(end) if input[end] == b' ' => Ok(Some(end)),
        Some(_) => Err(Refusal::REQUEST_LINE),
        None if within.len() > METHOD_BYTES_MAX => Err(Refusal::METHOD_UNKNOWN),
        None => Ok(None),
    }
}

/// The minor version in the `HTTP/1.x` CRLF at the start of `input`.
#[inline(always)]
fn minor_version(input: &[u8]) -> Result<Option<u8>, Refusal> {
    if input.starts_with(b"HTTP/1.1\r\n") {
        return Ok(Some(1));
    }
    other_minor_version(input)
}

#[cold]
fn other_minor_version(input: &[u8]) -> Result<Option<u8>, Refusal> {
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
