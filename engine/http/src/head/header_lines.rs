//! Header lines: where names and values lie. Pure.

use super::scan::{BLOCK_BYTES, Classify, SPACE, TOKEN, VALUE, ends, ends_in_half, run_end, run_start};
use super::{Field, HEADERS_MAX};
use crate::refusal::Refusal;

/// Reads the lines from `at` on. Gives the place behind the empty line; `None` while more is needed.
#[inline(always)]
pub(super) fn read(
    classify: impl Classify,
    window: &[u8],
    mut at: usize,
    fields: &mut Vec<Field>,
) -> Result<Option<usize>, Refusal> {
    let (mut block_at, mut before) = (at, 0);
    while block_at < window.len() {
        let value_ends = ends(classify, &VALUE, window, block_at);
        // The first of several in a row; where all is well, a carriage return.
        let mut line_ends = value_ends & !(value_ends << 1 | before);
        before = value_ends >> (BLOCK_BYTES - 1);
        while line_ends != 0 {
            let end = block_at + line_ends.trailing_zeros() as usize;
            line_ends &= line_ends - 1;
            match take(classify, window, at, end, fields) {
                Line::Header => at = end + 2,
                Line::LastHeader => return Ok(Some(end + 4)),
                Line::Other if take_unusual(classify, window, at, end, fields) => at = end + 2,
                Line::Other => return rest(classify, window, at, fields),
            }
        }
        block_at += BLOCK_BYTES;
    }
    rest(classify, window, at, fields)
}

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Header,
    /// A header, and the empty line comes behind it.
    LastHeader,
    /// Perhaps a header, but not as clients write them usually.
    Other,
}

/// Takes the line from `at` to `end`, where the first byte is that may not stand in a value.
#[inline(always)]
fn take(classify: impl Classify, window: &[u8], at: usize, end: usize, fields: &mut Vec<Field>) -> Line {
    let name_bytes = ends_in_half(classify, &TOKEN, window, at).trailing_zeros() as usize;
    let Some(line) = window.get(at..end + 4) else { return Line::Other };
    let (Some(separator), [.., last, b'\r', b'\n', first, second]) = (line.get(name_bytes..name_bytes + 3), line)
    else {
        return Line::Other;
    };
    let is_trimmed = separator[..2] == *b": " && separator[2] > b' ' && *last > b' ';
    if !is_trimmed || name_bytes == 0 || fields.len() == HEADERS_MAX {
        return Line::Other;
    }
    let name_end = (at + name_bytes) as u32;
    fields.push(Field { name_start: at as u32, name_end, value_start: name_end + 2, value_end: end as u32 });
    if [*first, *second] == *b"\r\n" { Line::LastHeader } else { Line::Header }
}

/// As [`take`], with any length of the name, and any whitespace around the value. Says whether it is a header.
#[inline(never)]
fn take_unusual(classify: impl Classify, window: &[u8], at: usize, end: usize, fields: &mut Vec<Field>) -> bool {
    let (line, behind) = (&window[at..end], &window[end..]);
    let Some(name_bytes) = run_end(classify, &TOKEN, line) else { return false };
    let is_header = name_bytes > 0 && line[name_bytes] == b':' && behind.starts_with(b"\r\n");
    if !is_header || fields.len() == HEADERS_MAX {
        return false;
    }
    let name_end = at + name_bytes;
    let value = &window[name_end + 1..end];
    let before = run_end(classify, &SPACE, value).unwrap_or(value.len());
    let length = run_start(classify, &SPACE, value).max(before);
    fields.push(Field {
        name_start: at as u32,
        name_end: name_end as u32,
        value_start: (name_end + 1 + before) as u32,
        value_end: (name_end + 1 + length) as u32,
    });
    true
}

/// Reads the lines from `at` on one by one: one that is no header or is not there yet.
#[cold]
fn rest(
    classify: impl Classify,
    window: &[u8],
    mut at: usize,
    fields: &mut Vec<Field>,
) -> Result<Option<usize>, Refusal> {
    loop {
        let line = &window[at..];
        match line {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => return Ok(Some(at + 2)),
            [b'\r', ..] => return Err(Refusal::HEADER_VALUE),
            [b'\n', ..] => return Err(Refusal::LINE_FEED),
            [first, ..] if TOKEN.ends(*first) => return Err(Refusal::HEADER_NAME),
            _ if fields.len() == HEADERS_MAX => return Err(Refusal::HEADERS_TOO_MANY),
            _ => {}
        }
        let Some(colon) = run_end(classify, &TOKEN, line) else { return Ok(None) };
        if line[colon] != b':' {
            return Err(Refusal::HEADER_NAME);
        }
        let Some(end) = run_end(classify, &VALUE, line) else { return Ok(None) };
        match &line[end..] {
            [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => drop(take_unusual(classify, window, at, at + end, fields)),
            [b'\n', ..] => return Err(Refusal::LINE_FEED),
            _ => return Err(Refusal::HEADER_VALUE),
        }
        at += end + 2;
    }
}
