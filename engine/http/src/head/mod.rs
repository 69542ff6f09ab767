//! The head of a request, from bytes to meaning. Pure, and the only place that decides where a head ends.
//!
//! Invariant: once [`parse`] has decided on a piece of input, more input after it changes nothing. So answers do not
//! depend on how the network split the request.
//!
//! One strict pass: [`scan`] finds the bytes that end a name or a value, and a normal header costs a few checks of the
//! result. All other cases are only examined once a line is known not to be normal.

pub(crate) mod fields;
mod header_lines;
mod request_line;
pub(crate) mod scan;
#[cfg(test)]
mod speed;
mod target;

use std::ops::{Deref, Range};

use self::header_lines::Lines;
use self::request_line::RequestLine;
use self::scan::{Classify, Level, Task};
use crate::method::Method;
use crate::refusal::Refusal;

/// Most headers of a request.
pub(crate) const HEADERS_MAX: usize = 100;

/// Limits of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) head_bytes_max: usize,
    pub(crate) target_bytes_max: usize,
}

/// A complete head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// Bytes up to and including the empty line.
    pub(crate) length: usize,
    pub(crate) method: Method,
    /// As in the request line; only characters of RFC 3986.
    pub(crate) target: &'a str,
    /// The path, with its percent-encoding; `*` for `OPTIONS *`; `/` if an absolute target has none.
    pub(crate) path: &'a str,
    /// The part of the target after the first `?`.
    pub(crate) query: Option<&'a str>,
    /// The minor version of HTTP/1: 0 or 1.
    pub(crate) minor: u8,
    pub(crate) framing: Framing,
    pub(crate) persistence: Persistence,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// `Connection` lists `upgrade`, and there is an `Upgrade` header (RFC 9110 7.8). Never in HTTP/1.0.
    pub(crate) is_upgrade: bool,
}

/// The position of a header in its head. The name is a token; the value has no control character except tab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name_start: u32,
    /// The position of the colon.
    pub(crate) name_end: u32,
    /// The position of the line's CRLF.
    pub(crate) line_end: u32,
}

impl Field {
    /// The name; `input` begins with the head.
    ///
    /// # Panics
    /// If `input` is shorter than that head.
    #[inline]
    pub(crate) fn name<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        &input[self.name_start as usize..self.name_end as usize]
    }

    /// The value, without whitespace around it; otherwise as [`Self::name`].
    #[inline]
    pub(crate) fn value<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        &input[self.value_place(input)]
    }

    /// The range of the value (RFC 9110 5.6.3).
    #[inline]
    fn value_place(&self, input: &[u8]) -> Range<usize> {
        let is_space = |byte: u8| matches!(byte, b' ' | b'\t');
        let (mut start, mut end) = (self.name_end as usize + 1, self.line_end as usize);
        while start < end && is_space(input[start]) {
            start += 1;
        }
        while start < end && is_space(input[end - 1]) {
            end -= 1;
        }
        start..end
    }
}

/// The headers of a head, in their order.
pub(crate) struct FieldList {
    all: Box<[Field; HEADERS_MAX]>,
    count: usize,
    /// Indices of the headers that [`fields::may_mean`] something.
    marked: Box<[u8; HEADERS_MAX]>,
    marked_count: usize,
}

impl Default for FieldList {
    fn default() -> Self {
        let (all, marked) = (Box::new([Field::default(); HEADERS_MAX]), Box::new([0; HEADERS_MAX]));
        Self { all, count: 0, marked, marked_count: 0 }
    }
}

impl Deref for FieldList {
    type Target = [Field];

    #[inline]
    fn deref(&self) -> &[Field] {
        &self.all[..self.count]
    }
}

impl FieldList {
    fn clear(&mut self) {
        (self.count, self.marked_count) = (0, 0);
    }

    /// Adds a header of `window`. Returns whether there was room.
    fn push(&mut self, field: Field, window: &[u8]) -> bool {
        let Some(place) = self.all.get_mut(self.count) else { return false };
        *place = field;
        let name = field.name(window);
        if fields::may_mean(name.len(), name[0]) {
            self.mark(self.count);
        }
        self.count += 1;
        true
    }

    #[inline(always)]
    fn mark(&mut self, place: usize) {
        self.marked[self.marked_count] = place as u8;
        self.marked_count += 1;
    }

    /// The headers that [`fields::may_mean`] something.
    #[inline(always)]
    fn marked(&self) -> impl Iterator<Item = &Field> {
        self.marked[..self.marked_count].iter().map(|place| &self.all[usize::from(*place)])
    }
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// What the client wants for the connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    Keep,
    /// Keep it, and tell an HTTP/1.0 client so.
    KeepSaid,
    Close,
}

/// Parses the head at the start of `input`; `None` while more is needed. Puts the headers in their order into `fields`,
/// which is cleared first. They are valid only if a head is returned.
pub(crate) fn parse<'a>(
    input: &'a [u8],
    limits: HeadLimits,
    fields: &mut FieldList,
) -> Result<Option<Head<'a>>, Refusal> {
    parse_at(Level::best(), input, limits, fields)
}

/// As [`parse`], with the instructions of `level`.
pub(crate) fn parse_at<'a>(
    level: Level,
    input: &'a [u8],
    limits: HeadLimits,
    fields: &mut FieldList,
) -> Result<Option<Head<'a>>, Refusal> {
    level.run(Parse { input, limits, fields })
}

struct Parse<'a, 'f> {
    input: &'a [u8],
    limits: HeadLimits,
    fields: &'f mut FieldList,
}

impl<'a> Task for Parse<'a, '_> {
    type Output = Result<Option<Head<'a>>, Refusal>;

    #[inline(always)]
    fn run(self, classify: impl Classify) -> Self::Output {
        let Self { input, limits, fields } = self;
        // Bytes beyond the limit never matter, however many have arrived.
        let window = &input[..input.len().min(limits.head_bytes_max)];
        let is_full = input.len() >= limits.head_bytes_max;
        let lines = Lines::find(classify, window);
        let Some(line) = RequestLine::parse(classify, window, limits.target_bytes_max)? else {
            return if is_full { Err(Refusal::TARGET_TOO_LONG) } else { Ok(None) };
        };
        fields.clear();
        let Some(length) = lines.read(classify, window, line.length, fields)? else {
            return if is_full { Err(Refusal::HEAD_TOO_LARGE) } else { Ok(None) };
        };
        let method = line.method.ok_or(Refusal::METHOD_UNKNOWN)?;
        let meaning = fields::read(classify, window, fields, line.minor)?;
        let (target, path, query) = target::split(method, line.target)?;
        Ok(Some(Head {
            length,
            method,
            target,
            path,
            query,
            minor: line.minor,
            framing: meaning.framing,
            persistence: meaning.persistence,
            expects_continue: meaning.expects_continue,
            is_upgrade: meaning.is_upgrade,
        }))
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
            let parse = |input: &[u8]| length(parse(input, LIMITS, &mut FieldList::default()));
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
    fn headers_lie_where_they_are_said_to_be() {
        let long = "b".repeat(200);
        let head = format!(
            "PUT /a HTTP/1.1\r\nHost: a\r\nA:b\r\n{long}: {long}\r\nC:\r\nD: \t \r\nE:\t e e\t \r\n\r\nX: y\r\n"
        );
        for level in Level::available() {
            let mut fields = FieldList::default();
            assert!(fields.push(Field { name_start: 0, name_end: 1, line_end: 3 }, head.as_bytes()));
            let limits = HeadLimits { head_bytes_max: 1024, ..LIMITS };
            let parsed =
                parse_at(level, head.as_bytes(), limits, &mut fields).expect("no fault").expect("a whole head");
            assert_eq!(parsed.length, head.find("X: y").expect("what follows"));
            let parts = fields.iter().flat_map(|field| [field.name(head.as_bytes()), field.value(head.as_bytes())]);
            let found: Vec<&str> = parts.map(|part| std::str::from_utf8(part).expect("ASCII")).collect();
            assert_eq!(found, ["Host", "a", "A", "b", &long, &long, "C", "", "D", "", "E", "e e"], "{level:?}");
        }
    }

    #[test]
    fn a_target_has_characters_of_a_uri_only() {
        let outcome = |target: &str| {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut outcomes = Level::available().map(|level| {
                let outcome = parse_at(level, head.as_bytes(), LIMITS, &mut FieldList::default());
                outcome.map(|head| head.map(|head| (head.path.to_owned(), head.query.map(str::to_owned))))
            });
            let first = outcomes.next().expect("scalar");
            outcomes.for_each(|outcome| assert_eq!(outcome, first));
            first
        };
        let long = format!("/{}", "%c3%A9a".repeat(8));
        for target in ["/", "/%41", "/a%2fb", "/a?%3F", "/-._~:/[]@!$&'()*+,;=", &long] {
            let (path, query) =
                target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
            assert_eq!(outcome(target), Ok(Some((path.to_owned(), query))), "{target}");
        }
        for character in "\"<>\\^`{|}%".chars() {
            for target in [
                format!("/{character}"),
                format!("/a?b{character}"),
                format!("http://a{character}/"),
                format!("{long}{character}"),
            ] {
                assert_eq!(outcome(&target), Err(Refusal::TARGET_CHARACTER), "{target}");
            }
        }
        for target in ["/%", "/%4", "/%4g", "/%g4", "/%%41", "/%4%41", "/?%", "/%4?1"] {
            assert_eq!(outcome(target), Err(Refusal::TARGET_CHARACTER), "{target}");
        }
        for target in ["/#", "/a?b#c", "/\"#", "#", "*", "a", "?"] {
            assert_eq!(outcome(target), Err(Refusal::TARGET), "{target}");
        }
        for target in ["/a b", "/\t", "/\u{e9}", "/\x7f", "", "/\0"] {
            assert_eq!(outcome(target), Err(Refusal::REQUEST_LINE), "{target}");
        }
    }

    #[test]
    fn what_is_wrong_first_is_said_and_syntax_before_meaning() {
        let outcome = |head: &str| length(parse(head.as_bytes(), LIMITS, &mut FieldList::default()));
        let rows = [
            ("GET / HTTP/1.1\r\nHost: a\nX : y\r\n", Refusal::LINE_FEED),
            ("GET / HTTP/1.1\r\nX : y\r\nHost: a\n", Refusal::HEADER_NAME),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", Refusal::LINE_FEED),
            ("GET / HTTP/1.1\r\nHost: a\r\n\rx", Refusal::HEADER_VALUE),
            ("BREW /\" HTTP/1.1\r\nContent-Length: x\r\n\r\n", Refusal::METHOD_UNKNOWN),
            ("GET /\" HTTP/1.1\r\nContent-Length: x\r\n\r\n", Refusal::LENGTH_INVALID),
            ("GET /\" HTTP/1.1\r\n\r\n", Refusal::HOST_MISSING),
            ("GET /\" HTTP/1.1\r\nHost: a/\r\n\r\n", Refusal::HOST_INVALID),
            ("GET /\" HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::TARGET_CHARACTER),
            ("GET /\" HTTP/1.1\r\nHost: a\r\nX\r\n", Refusal::HEADER_NAME),
        ];
        for (head, refusal) in rows {
            assert_eq!(outcome(head), Err(refusal), "{head:?}");
        }
    }

    #[test]
    fn no_byte_in_a_value_slips_through_at_any_place() {
        for byte in 0..=255u8 {
            for place in 0..70 {
                let mut value = [b'a'; 70];
                value[place] = byte;
                let head = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", &value[..], b"\r\n\r\n"].concat();
                let outcome = length(parse(&head, LIMITS, &mut FieldList::default()));
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
                assert_eq!(
                    parse(&head, LIMITS, &mut FieldList::default()).is_ok(),
                    is_token(byte),
                    "byte {byte} at {place}"
                );
            }
        }
    }
}
