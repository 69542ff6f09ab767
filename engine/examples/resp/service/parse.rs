//! Parses requests, in place.
//!
//! Invariants: the same bytes give the same requests however they are split. No memory is allocated for a length that
//! was only announced. Each byte is examined a limited number of times: parsing of a long incomplete request continues
//! where it stopped ([`Partial`]), and while an argument's end is missing, the engine calls only when it has arrived.

use std::mem;

use baton::Io;

use super::arguments::{Arguments, Span};
use super::{BULK_BYTES_MAX, number, quoting};

/// Most arguments of one request.
const ARGUMENTS_MAX: i64 = 1 << 20;

/// Longest line: an inline request or a number.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A request of which fewer arguments have arrived is parsed again from its start, which is cheaper than storing its
/// state.
const PARTIAL_ARGUMENTS_MIN: usize = 16;

/// From this many bytes on, the position up to which a line without an end was examined is stored.
const PARTIAL_LINE_BYTES_MIN: usize = 256;

/// Capacity for the ranges of this many arguments is kept for the next request.
const SPANS_KEPT_MAX: usize = 4096;

/// A request of which a part was parsed.
pub(crate) struct Partial {
    /// The arguments that have arrived.
    spans: Vec<Span>,
    /// Arguments announced; 0 while the request's first line has no end.
    expected: usize,
    /// Where the next argument begins.
    position: usize,
    /// The line that begins there does not end before this position.
    scanned: usize,
}

/// The beginning of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A request of this many bytes; [`Parser::arguments`] has it.
    Request { length: usize },
    /// This many bytes without a request.
    Nothing { length: usize },
    /// Part of a request that has at least this many bytes.
    Incomplete { at_least: usize },
    /// Something else: the connection must be closed.
    Invalid(ProtocolError),
}

/// How a peer violated the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    CountTooLong,
    InvalidCount,
    ExpectedBulk { got: u8 },
    BulkLengthTooLong,
    InvalidBulkLength,
    InlineTooLong,
    UnbalancedQuotes,
}

impl ProtocolError {
    pub(super) fn write(&self, io: &mut Io<'_>) {
        io.write(b"-ERR Protocol error: ");
        io.write(match self {
            Self::CountTooLong => b"too big mbulk count string",
            Self::InvalidCount => b"invalid multibulk length",
            Self::ExpectedBulk { .. } => b"expected '$', got '",
            Self::BulkLengthTooLong => b"too big bulk count string",
            Self::InvalidBulkLength => b"invalid bulk length",
            Self::InlineTooLong => b"too big inline request",
            Self::UnbalancedQuotes => b"unbalanced quotes in request",
        });
        if let Self::ExpectedBulk { got } = self {
            let shown = if matches!(got, b'\r' | b'\n') { b' ' } else { *got };
            io.write(&[shown, b'\'']);
        }
        io.write(b"\r\n");
    }
}

/// One per worker: memory that requests use in turn.
#[derive(Default)]
pub(crate) struct Parser {
    spans: Vec<Span>,
    /// An inline request's arguments without their quotes.
    unquoted: Vec<u8>,
    is_inline: bool,
}

impl Parser {
    /// The request that [`Parser::parse`] found at the start of `input`.
    #[inline]
    pub(crate) fn arguments<'a>(&'a self, input: &'a [u8]) -> Arguments<'a> {
        Arguments::new(if self.is_inline { &self.unquoted } else { input }, &self.spans)
    }

    /// Parses the start of `input`, which is not empty. `partial` is what was stored for its connection.
    #[inline]
    pub(crate) fn parse(&mut self, input: &[u8], partial: &mut Option<Box<Partial>>) -> Parsed {
        if self.spans.capacity() > SPANS_KEPT_MAX {
            self.spans = Vec::new();
        }
        self.spans.clear();
        self.is_inline = input[0] != b'*';
        let (mut expected, mut position, mut scanned) = (0, 0, 0);
        if let Some(kept) = partial.take() {
            self.spans = kept.spans;
            (expected, position, scanned) = (kept.expected, kept.position, kept.scanned);
        }
        if self.is_inline {
            return self.parse_inline(input, scanned, partial);
        }
        if expected == 0 {
            match number_line(input, 1, scanned) {
                Line::Number { number, end } if number <= 0 => return Parsed::Nothing { length: end },
                Line::Number { number, end } if number <= ARGUMENTS_MAX => {
                    (expected, position) = (number as usize, end)
                }
                Line::Incomplete => {
                    self.keep(partial, expected, position, input.len() - 1);
                    return Parsed::Incomplete { at_least: input.len() + 1 };
                }
                Line::TooLong => return Parsed::Invalid(ProtocolError::CountTooLong),
                Line::Number { .. } | Line::NotANumber => return Parsed::Invalid(ProtocolError::InvalidCount),
            }
        }
        self.parse_bulks(input, expected, position, scanned, partial)
    }

    /// Stores the state of an incomplete request, if that is worth it.
    fn keep(&mut self, partial: &mut Option<Box<Partial>>, expected: usize, position: usize, scanned: usize) {
        if self.spans.len() >= PARTIAL_ARGUMENTS_MIN || scanned.saturating_sub(position) >= PARTIAL_LINE_BYTES_MIN {
            let spans = mem::take(&mut self.spans);
            *partial = Some(Box::new(Partial { spans, expected, position, scanned }));
        }
    }

    #[inline]
    fn parse_bulks(
        &mut self,
        input: &[u8],
        expected: usize,
        mut position: usize,
        scanned: usize,
        partial: &mut Option<Box<Partial>>,
    ) -> Parsed {
        while self.spans.len() < expected {
            let (at_least, scanned) = match bulk(input, position, scanned) {
                Bulk::Whole { span, end } => {
                    self.spans.push(span);
                    position = end;
                    continue;
                }
                Bulk::Incomplete { at_least, scanned } => (at_least, scanned),
                Bulk::Invalid(error) => return Parsed::Invalid(error),
            };
            self.keep(partial, expected, position, scanned);
            return Parsed::Incomplete { at_least };
        }
        Parsed::Request { length: position }
    }

    fn parse_inline(&mut self, input: &[u8], scanned: usize, partial: &mut Option<Box<Partial>>) -> Parsed {
        let window = &input[..input.len().min(LINE_BYTES_MAX)];
        let Some(end) = position_from(window, scanned, b'\n') else {
            return if input.len() < LINE_BYTES_MAX {
                self.keep(partial, 0, 0, input.len());
                Parsed::Incomplete { at_least: input.len() + 1 }
            } else {
                Parsed::Invalid(ProtocolError::InlineTooLong)
            };
        };
        self.unquoted.clear();
        let mut start = 0;
        let spans = &mut self.spans;
        let split = quoting::split(&input[..end], &mut self.unquoted, |length| {
            spans.push(Span { start, length: length as u32 });
            start += length as u32;
        });
        match split {
            None => Parsed::Invalid(ProtocolError::UnbalancedQuotes),
            Some(()) if self.spans.is_empty() => Parsed::Nothing { length: end + 1 },
            Some(()) => Parsed::Request { length: end + 1 },
        }
    }
}

enum Bulk {
    Whole { span: Span, end: usize },
    Incomplete { at_least: usize, scanned: usize },
    Invalid(ProtocolError),
}

/// The argument at `position`, `$3\r\nfoo\r\n`. As in Redis, the byte in place of a line feed is not checked, nor is
/// the end of line after the argument.
#[inline]
fn bulk(input: &[u8], position: usize, scanned: usize) -> Bulk {
    let Some(first) = input.get(position) else {
        return Bulk::Incomplete { at_least: input.len() + 1, scanned: position };
    };
    match number_line(input, position + 1, scanned) {
        // This is the end of the line already; the examined bytes are after it.
        Line::Incomplete | Line::TooLong if *first == b'\r' && position + 1 < input.len() => {
            Bulk::Invalid(ProtocolError::ExpectedBulk { got: *first })
        }
        // The length of the line is checked before its first byte.
        Line::Incomplete => Bulk::Incomplete { at_least: input.len() + 1, scanned: input.len() - 1 },
        Line::TooLong => Bulk::Invalid(ProtocolError::BulkLengthTooLong),
        _ if *first != b'$' => Bulk::Invalid(ProtocolError::ExpectedBulk { got: *first }),
        Line::Number { number, end } if (0..=BULK_BYTES_MAX as i64).contains(&number) => {
            let length = number as usize;
            if input.len() - end < length + 2 {
                return Bulk::Incomplete { at_least: end + length + 2, scanned: position };
            }
            Bulk::Whole { span: Span { start: end as u32, length: length as u32 }, end: end + length + 2 }
        }
        Line::Number { .. } | Line::NotANumber => Bulk::Invalid(ProtocolError::InvalidBulkLength),
    }
}

enum Line {
    /// `end` is after the line feed.
    Number {
        number: i64,
        end: usize,
    },
    NotANumber,
    Incomplete,
    TooLong,
}

/// Parses the rest of a line, from `start` on, whose end is not before `scanned`.
#[inline]
fn number_line(input: &[u8], start: usize, scanned: usize) -> Line {
    let rest = &input[start..];
    // Almost every number has one to three digits.
    match rest {
        [digit @ b'0'..=b'9', b'\r', _, ..] => return Line::Number { number: i64::from(digit - b'0'), end: start + 3 },
        [tens @ b'1'..=b'9', digit @ b'0'..=b'9', b'\r', _, ..] => {
            return Line::Number { number: i64::from(tens - b'0') * 10 + i64::from(digit - b'0'), end: start + 4 };
        }
        _ => {}
    }
    number_line_of_any_length(rest, start, scanned.saturating_sub(start))
}

fn number_line_of_any_length(rest: &[u8], start: usize, scanned: usize) -> Line {
    let window = &rest[..rest.len().min(LINE_BYTES_MAX)];
    match position_from(window, scanned, b'\r') {
        None if rest.len() < LINE_BYTES_MAX => Line::Incomplete,
        None => Line::TooLong,
        Some(end) if end + 1 == rest.len() => Line::Incomplete,
        Some(end) => match number::parse(&rest[..end]) {
            Some(number) => Line::Number { number, end: start + end + 2 },
            None => Line::NotANumber,
        },
    }
}

/// The first position of `wanted`, from `from` on.
fn position_from(bytes: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let from = from.min(bytes.len());
    bytes[from..].iter().position(|byte| *byte == wanted).map(|index| from + index)
}
