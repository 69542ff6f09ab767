//! Parts of a representation (RFC 9110 section 14): `Range` and `If-Range`, and which answer they get.
//!
//! One range is answered with 206, and so are several of which one overlaps the representation. If several do, the
//! answer is the whole (200), which section 14.2 allows. So no client can request many small or overlapping parts of a
//! file, whose answer (`multipart/byteranges`) would be larger than the file. The work is one pass over the value, and
//! nothing is allocated.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::conditional::{EntityTag, Validators};
use crate::date;
use crate::method::Method;

/// A date in whole seconds is only strong if the representation cannot have changed again in the same second (RFC 9110
/// section 8.8.2.2).
const STRONG_DATE_AGE: Duration = Duration::from_secs(1);

/// Which part of a representation a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Selection {
    /// All of it: 200, with `Accept-Ranges: bytes`.
    Whole,
    /// These bytes of it: 206, with the header [`ContentRange`].
    Part {
        /// The first byte of the part.
        start: u64,
        /// The byte after the last one of the part; more than `start`, and at most the representation's size.
        end: u64,
    },
    /// 416, with `Content-Range: bytes */size`, which [`ContentRange`] writes.
    Unsatisfiable,
}

impl Selection {
    /// The value of the header `Content-Range` for a representation of this many bytes; `None` for the whole.
    pub fn content_range(self, size: u64) -> Option<ContentRange> {
        (self != Self::Whole).then_some(ContentRange { selection: self, size })
    }
}

/// A value of the header `Content-Range` (RFC 9110 section 14.4), which is its displayed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    selection: Selection,
    size: u64,
}

impl fmt::Display for ContentRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.selection {
            Selection::Part { start, end } => {
                write!(formatter, "bytes {start}-{}/{}", end.saturating_sub(1), self.size)
            }
            _ => write!(formatter, "bytes */{}", self.size),
        }
    }
}

/// Selects the part that a request asks for by its `headers`, of a representation of `size` bytes that has the
/// validators `current`. `now` is the time of the header `Date`. Call it after [`conditional`](crate::conditional), and
/// only if the answer would be a 200.
///
/// The whole is selected for methods other than GET, without `Range` or with more than one, for units other than bytes,
/// for values that do not follow the grammar of section 14.1.1, and if `If-Range` does not name the present
/// representation.
pub fn select<N, V>(
    method: Method,
    headers: impl IntoIterator<Item = (N, V)>,
    current: &Validators<'_>,
    now: SystemTime,
    size: u64,
) -> Selection
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    if method != Method::Get {
        return Selection::Whole;
    }
    let (mut selection, mut is_current) = (None, true);
    for (name, value) in headers {
        let (name, value) = (name.as_ref(), value.as_ref());
        if name.eq_ignore_ascii_case(b"range") {
            selection = Some(if selection.is_some() { Selection::Whole } else { parse(value, size) });
        } else if name.eq_ignore_ascii_case(b"if-range") {
            is_current &= is_same(value, current, now);
        }
    }
    selection.filter(|_| is_current).unwrap_or(Selection::Whole)
}

/// Whether the value of `If-Range` is a strong validator of the present representation (RFC 9110 section 13.1.5).
fn is_same(value: &[u8], current: &Validators<'_>, now: SystemTime) -> bool {
    if let Some(tag) = EntityTag::parse(value) {
        return current.entity_tag.is_some_and(|current| current.strong_eq(&tag));
    }
    let (Some(date), Some(modified)) = (date::parse(value), current.last_modified) else { return false };
    let is_strong = now.duration_since(modified).is_ok_and(|age| age >= STRONG_DATE_AGE);
    is_strong && date::seconds(date).is_some() && date::seconds(date) == date::seconds(modified)
}

/// Reads the value of `Range`.
fn parse(value: &[u8], size: u64) -> Selection {
    let Some((unit, set)) = value.split_at_checked(b"bytes=".len()) else { return Selection::Whole };
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return Selection::Whole;
    }
    let (mut selection, mut count) = (Selection::Unsatisfiable, 0);
    for member in set.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()) {
        let Some(range) = ByteRange::parse(member) else { return Selection::Whole };
        count += 1;
        match (range.within(size), selection) {
            (Selection::Unsatisfiable, _) => {}
            (range, Selection::Unsatisfiable) => selection = range,
            _ => selection = Selection::Whole,
        }
    }
    if count == 0 { Selection::Whole } else { selection }
}

/// One member of a set of ranges. Numbers beyond 64 bits become the largest one.
#[derive(Clone, Copy)]
enum ByteRange {
    /// From the first byte to the last, if it is given.
    From(u64, Option<u64>),
    /// This many bytes at the end.
    Suffix(u64),
}

impl ByteRange {
    fn parse(member: &[u8]) -> Option<Self> {
        let dash = memchr::memchr(b'-', member)?;
        let (first, last) = (&member[..dash], &member[dash + 1..]);
        match (first, last) {
            ([], last) => Some(Self::Suffix(number(last)?)),
            (first, []) => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    fn within(self, size: u64) -> Selection {
        match self {
            // The suffix of an empty representation is satisfiable, and no `Content-Range` can express it.
            Self::Suffix(1..) if size == 0 => Selection::Whole,
            Self::Suffix(count @ 1..) => Selection::Part { start: size.saturating_sub(count), end: size },
            Self::From(first, last) if first < size => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                Selection::Part { start: first, end }
            }
            _ => Selection::Unsatisfiable,
        }
    }
}

/// A decimal number; `None` if it is not one.
fn number(digits: &[u8]) -> Option<u64> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let add = |number: u64, byte: &u8| Some(number.saturating_mul(10).saturating_add(digit(*byte)?));
    digits.iter().try_fold(0, add).filter(|_| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::Selection::{Part, Unsatisfiable, Whole};
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn modified() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(784_111_777_500)
    }

    fn of(value: &str, size: u64) -> Selection {
        select(Method::Get, [("range", value)], &Validators::default(), modified(), size)
    }

    #[test]
    fn one_range() {
        for (value, selection) in [
            ("bytes=0-499", Part { start: 0, end: 500 }),
            ("bytes=500-999", Part { start: 500, end: 1000 }),
            ("bytes=0-0", Part { start: 0, end: 1 }),
            ("bytes=999-999", Part { start: 999, end: 1000 }),
            ("bytes=999-", Part { start: 999, end: 1000 }),
            ("bytes=0-", Part { start: 0, end: 1000 }),
            ("bytes=10-5000", Part { start: 10, end: 1000 }),
            ("bytes=10-18446744073709551615", Part { start: 10, end: 1000 }),
            ("bytes=10-99999999999999999999999", Part { start: 10, end: 1000 }),
            ("bytes=-1", Part { start: 999, end: 1000 }),
            ("bytes=-5000", Part { start: 0, end: 1000 }),
            ("bytes=-99999999999999999999999", Part { start: 0, end: 1000 }),
            ("BYTES= ,3-4 ,", Part { start: 3, end: 5 }),
            ("bytes=1000-", Unsatisfiable),
            ("bytes=1000-2000", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
        ] {
            assert_eq!(of(value, 1000), selection, "{value}");
        }
    }

    #[test]
    fn what_is_no_range_of_bytes_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-",
            "bytes=1-b",
            "bytes=+1-2",
            "bytes=1",
            "bytes 1-2",
            "bytes =1-2",
            "bytes=1 -2",
            "bytes=1--2",
            "bytes=--2",
            "items=0-5",
            "bytes=0-1,x",
            "bytes=2000-,5-4",
            "bytes=0x0-1",
        ] {
            assert_eq!(of(value, 1000), Whole, "{value}");
        }
        let twice = [("Range", "bytes=0-1"), ("Range", "bytes=0-1")];
        assert_eq!(select(Method::Get, twice, &Validators::default(), modified(), 10), Whole);
        for method in [Method::Head, Method::Post, Method::Put] {
            assert_eq!(select(method, [("Range", "bytes=0-1")], &Validators::default(), modified(), 10), Whole);
        }
    }

    #[test]
    fn several_ranges_are_the_whole_unless_one_is_left() {
        assert_eq!(of("bytes=0-1,4-5", 1000), Whole);
        assert_eq!(of("bytes=0-1,0-1,0-1", 1000), Whole);
        assert_eq!(of("bytes=0-,-1", 1000), Whole);
        assert_eq!(of("bytes=2000-,4-5,-0", 1000), Part { start: 4, end: 6 });
        assert_eq!(of("bytes=2000-,1000-1001,-0", 1000), Unsatisfiable);
        assert_eq!(of(&format!("bytes={}", "0-,".repeat(5_000)), 1000), Whole);
    }

    #[test]
    fn an_empty_representation_has_no_part() {
        assert_eq!(of("bytes=0-", 0), Unsatisfiable);
        assert_eq!(of("bytes=-0", 0), Unsatisfiable);
        assert_eq!(of("bytes=-1", 0), Whole);
        assert_eq!(of("bytes=0-,-1", 0), Whole);
    }

    #[test]
    fn content_range() {
        let text = |selection: Selection, size| selection.content_range(size).map(|range| range.to_string());
        assert_eq!(text(of("bytes=2-4", 10), 10).as_deref(), Some("bytes 2-4/10"));
        assert_eq!(text(of("bytes=10-", 10), 10).as_deref(), Some("bytes */10"));
        assert_eq!(text(Whole, 10), None);
    }

    #[test]
    fn if_range_needs_a_strong_validator_of_what_is_there() {
        let strong = Validators { entity_tag: EntityTag::strong("a"), last_modified: Some(modified()) };
        let weak = Validators { entity_tag: EntityTag::weak("a"), ..strong };
        let later = modified() + Duration::from_secs(1);
        let is_part = |value: &str, current, now| {
            // The headers may come in any order.
            let headers = [("If-Range", value), ("Range", "bytes=0-1")];
            let outcome = select(Method::Get, headers, current, now, 10);
            let reversed = headers.into_iter().rev();
            assert_eq!(select(Method::Get, reversed, current, now, 10), outcome);
            outcome == Part { start: 0, end: 2 }
        };
        for (value, current, now, expected) in [
            ("\"a\"", &strong, later, true),
            ("\"b\"", &strong, later, false),
            ("W/\"a\"", &strong, later, false),
            ("W/\"a\"", &weak, later, false),
            ("\"a\"", &weak, later, false),
            ("\"a\", \"a\"", &strong, later, false),
            ("*", &strong, later, false),
            ("junk", &strong, later, false),
            (DATE, &strong, later, true),
            (DATE, &strong, modified(), false),
            (DATE, &strong, modified() - Duration::from_secs(99), false),
            ("Sun, 06 Nov 1994 08:49:38 GMT", &strong, later, false),
            ("Sun, 06 Nov 1994 08:49:36 GMT", &strong, later, false),
            ("\"a\"", &Validators::default(), later, false),
            (DATE, &Validators::default(), later, false),
        ] {
            assert_eq!(is_part(value, current, now), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within(value in "bytes=([0-9]{0,4}-[0-9]{0,4}, ?){0,2}[0-9]{0,21}-[0-9]{0,21}", size in prop_oneof![0u64..20, any::<u64>()]) {
            let selection = of(&value, size);
            if let Part { start, end } = selection {
                prop_assert!(start < end && end <= size);
            }
            prop_assert_eq!(selection.content_range(size).is_none(), selection == Whole);
        }

        #[test]
        fn any_bytes_are_safe(value: Vec<u8>, size: u64) {
            prop_assert_eq!(parse(&value, size), Whole);
            let _ = parse(&[b"bytes=", &value[..]].concat(), size);
        }
    }
}
