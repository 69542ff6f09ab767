//! The heads of answers, and a connection's position in an answer. Pure.

use std::ops::Range;
use std::str;

use super::fixed::excerpt;

/// The most header lines of an answer.
pub(super) const HEADERS_MAX: usize = 64;

/// A head, or a line of a chunked body, that is not complete within this many bytes is invalid.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A connection's position in an answer.
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
    /// The body ends with the connection.
    UntilEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data { remaining: u64 },
    DataEnd,
    Trailer,
}

/// The parsed head of an answer.
pub(super) struct Head {
    pub(super) bytes: usize,
    pub(super) body: Body,
    /// The range of the Date's value.
    pub(super) date: Range<usize>,
}

/// Parses the head of an answer, and also returns its length; `None` if it is incomplete.
pub(super) fn parse<'headers, 'input>(
    input: &'input [u8],
    headers: &'headers mut [httparse::Header<'input>],
) -> Result<Option<(usize, httparse::Response<'headers, 'input>)>, String> {
    let mut response = httparse::Response::new(headers);
    match response.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => Ok(Some((bytes, response))),
        Ok(httparse::Status::Partial) if input.len() < HEAD_BYTES_MAX => Ok(None),
        Ok(httparse::Status::Partial) => Err("a head without end".to_owned()),
        Err(error) => Err(format!("not an HTTP answer ({error}): {}", excerpt(input))),
    }
}

/// The head of an answer to a request; `None` if it is incomplete.
pub(super) fn parse_head(input: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let Some((bytes, response)) = parse(input, &mut headers)? else { return Ok(None) };
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
