//! Conditional requests (RFC 9110 section 13): whether the client already has the representation, and whether its
//! change is based on the present one.

use std::fmt;
use std::time::SystemTime;

use ::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;
use sha1::{Digest, Sha1};

use crate::date;
use crate::method::Method;

/// An entity tag (RFC 9110 section 8.8.3). It is displayed as in the header `ETag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntityTag<'a> {
    is_weak: bool,
    /// The text between the quotes.
    opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// A tag that changes with every byte of the representation. `None` if `opaque` has a quote, a space or a control
    /// character.
    pub fn strong(opaque: &'a str) -> Option<Self> {
        Self::new(false, opaque.as_bytes())
    }

    /// A tag that stays the same while the representation means the same. `None` as for [`strong`](Self::strong).
    pub fn weak(opaque: &'a str) -> Option<Self> {
        Self::new(true, opaque.as_bytes())
    }

    /// The tag in a header's value, including the quotes.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let (tag, rest) = Self::take(value)?;
        rest.is_empty().then_some(tag)
    }

    /// Whether the tags are equal and both strong (RFC 9110 section 8.8.3.2).
    pub fn strong_eq(&self, other: &EntityTag<'_>) -> bool {
        !self.is_weak && !other.is_weak && self.opaque == other.opaque
    }

    /// Whether the tags are equal apart from weakness.
    pub fn weak_eq(&self, other: &EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }

    fn new(is_weak: bool, opaque: &'a [u8]) -> Option<Self> {
        opaque.iter().all(|byte| is_tag_byte(*byte)).then_some(Self { is_weak, opaque })
    }

    /// Parses the tag at the start of `input`.
    fn take(input: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (is_weak, quoted) = input.strip_prefix(b"W/").map_or((false, input), |quoted| (true, quoted));
        let opaque = quoted.strip_prefix(b"\"")?;
        let length = memchr::memchr(b'"', opaque)?;
        Some((Self::new(is_weak, &opaque[..length])?, &opaque[length + 1..]))
    }
}

impl fmt::Display for EntityTag<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weakness = if self.is_weak { "W/" } else { "" };
        write!(formatter, "{weakness}\"{}\"", String::from_utf8_lossy(self.opaque))
    }
}

fn is_tag_byte(byte: u8) -> bool {
    byte > b' ' && byte != b'"' && byte != 0x7f
}

/// Bytes of a hash that distinguish a body from others.
const BODY_TAG_HASH_BYTES: usize = 15;

/// The text of a strong tag made from a body: its SHA-1 in base 64, cut to a length at which no two bodies will
/// collide.
pub(crate) struct BodyTag([u8; BODY_TAG_HASH_BYTES / 3 * 4]);

impl BodyTag {
    pub(crate) fn of(body: &[u8]) -> Self {
        let mut text = [0; BODY_TAG_HASH_BYTES / 3 * 4];
        let hash = &Sha1::digest(body)[..BODY_TAG_HASH_BYTES];
        // The lengths match: 15 bytes are 20 characters, without padding.
        let _ = BASE64_URL_SAFE.encode_slice(hash, &mut text);
        Self(text)
    }

    pub(crate) fn entity_tag(&self) -> EntityTag<'_> {
        EntityTag { is_weak: false, opaque: &self.0 }
    }
}

/// The validators of a resource's current representation. Empty for one that exists and has neither tag nor date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators<'a> {
    /// The header `ETag`.
    pub entity_tag: Option<EntityTag<'a>>,
    /// The header `Last-Modified`; dates before 1970 and after 9999 count as none.
    pub last_modified: Option<SystemTime>,
}

/// The answer for which the conditions of a request ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Condition {
    /// The answer that the request would have without conditions.
    Proceed,
    /// 304: to GET and HEAD, with `ETag`, `Date`, `Vary`, `Cache-Control` as a 200 has them, and without a body.
    NotModified,
    /// 412: the method must not be carried out.
    PreconditionFailed,
}

impl Condition {
    /// The status of the answer, unless it is the normal one.
    pub fn status(self) -> Option<StatusCode> {
        match self {
            Self::Proceed => None,
            Self::NotModified => Some(StatusCode::NOT_MODIFIED),
            Self::PreconditionFailed => Some(StatusCode::PRECONDITION_FAILED),
        }
    }
}

/// Evaluates the conditions among a request's `headers` in the order of RFC 9110 section 13.2.2, except `If-Range`,
/// which [`range`](crate::range) handles. `current` is the selected representation; `None` if there is none, which a
/// PUT would create.
///
/// Call it only if the answer would be a 2xx without conditions (section 13.2.1). OPTIONS and TRACE have none. A
/// malformed list of entity tags never permits a change: `If-Match` is then false, and so is `If-None-Match`, except
/// for GET and HEAD, where it is ignored. Malformed dates are ignored, as section 13.1.3 requires.
pub fn evaluate<N, V>(
    method: Method,
    headers: impl IntoIterator<Item = (N, V)>,
    current: Option<&Validators<'_>>,
) -> Condition
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    if matches!(method, Method::Options | Method::Trace) {
        return Condition::Proceed;
    }
    let tag = current.and_then(|current| current.entity_tag);
    let (mut if_match, mut if_none_match) = (TagCondition::default(), TagCondition::default());
    let (mut if_modified_since, mut if_unmodified_since) = (None, None);
    for (name, value) in headers {
        let (name, value) = (name.as_ref(), value.as_ref());
        // The length excludes most headers before any is compared.
        match name.len() {
            8 if name.eq_ignore_ascii_case(b"if-match") => {
                if_match.add(value, current.is_some(), |one| tag.is_some_and(|tag| one.strong_eq(&tag)));
            }
            13 if name.eq_ignore_ascii_case(b"if-none-match") => {
                if_none_match.add(value, current.is_some(), |one| tag.is_some_and(|tag| one.weak_eq(&tag)));
            }
            17 if name.eq_ignore_ascii_case(b"if-modified-since") => add_date(&mut if_modified_since, value),
            19 if name.eq_ignore_ascii_case(b"if-unmodified-since") => add_date(&mut if_unmodified_since, value),
            _ => {}
        }
    }
    let modified = current.and_then(|current| current.last_modified).and_then(date::seconds);
    let is_after = |since: Option<Option<u64>>| Some(modified? > since??);
    let is_read = matches!(method, Method::Get | Method::Head);

    let may_change = match if_match.tags {
        Some(outcome) => outcome == Tags::Match,
        None => is_after(if_unmodified_since) != Some(true),
    };
    if !may_change {
        return Condition::PreconditionFailed;
    }
    let is_known = match if_none_match.tags {
        Some(Tags::Malformed) => !is_read,
        Some(outcome) => outcome == Tags::Match,
        None => is_read && is_after(if_modified_since) == Some(false),
    };
    match (is_known, is_read) {
        (false, _) => Condition::Proceed,
        (true, true) => Condition::NotModified,
        (true, false) => Condition::PreconditionFailed,
    }
}

/// The tags of all headers of one name together.
#[derive(Default)]
struct TagCondition {
    /// `None` if there is no such header.
    tags: Option<Tags>,
    names_all: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tags {
    Match,
    Differ,
    Malformed,
}

impl TagCondition {
    /// Adds a header's value: `*`, which matches any existing representation and must be alone, or a list of tags.
    fn add(&mut self, value: &[u8], exists: bool, matches: impl Fn(EntityTag<'_>) -> bool) {
        let tags = match value {
            b"*" if exists => Tags::Match,
            b"*" => Tags::Differ,
            list => any_tag(list, matches),
        };
        let is_alone = self.tags.is_none();
        self.names_all |= value == b"*";
        self.tags = Some(match (self.tags, tags) {
            _ if self.names_all && !is_alone => Tags::Malformed,
            (Some(Tags::Malformed), _) | (_, Tags::Malformed) => Tags::Malformed,
            (Some(Tags::Match), _) | (_, Tags::Match) => Tags::Match,
            _ => Tags::Differ,
        });
    }
}

/// Whether any tag of a list matches. A tag may contain a comma, and list members may be empty (RFC 9110 section
/// 5.6.1).
fn any_tag(list: &[u8], matches: impl Fn(EntityTag<'_>) -> bool) -> Tags {
    let (mut rest, mut found) = (list.trim_ascii(), Tags::Differ);
    while !rest.is_empty() {
        if rest[0] != b',' {
            let Some((tag, behind)) = EntityTag::take(rest) else { return Tags::Malformed };
            if matches(tag) {
                found = Tags::Match;
            }
            rest = behind.trim_ascii_start();
        }
        match rest.split_first() {
            None => {}
            Some((b',', behind)) => rest = behind.trim_ascii_start(),
            Some(_) => return Tags::Malformed,
        }
    }
    found
}

/// A date counts only if the header occurs once.
fn add_date(slot: &mut Option<Option<u64>>, value: &[u8]) {
    let is_first = slot.is_none();
    *slot = Some(date::parse(value).filter(|_| is_first).and_then(date::seconds));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::Condition::{NotModified, PreconditionFailed, Proceed};
    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sunday, 06-Nov-94 08:49:38 GMT";

    fn current<'a>() -> Validators<'a> {
        let last_modified = UNIX_EPOCH + Duration::from_millis(784_111_777_900);
        Validators { entity_tag: EntityTag::strong("a,b"), last_modified: Some(last_modified) }
    }

    fn get(headers: &[(&str, &str)]) -> Condition {
        let outcome = evaluate(Method::Get, headers.iter().copied(), Some(&current()));
        assert_eq!(evaluate(Method::Head, headers.iter().copied(), Some(&current())), outcome);
        outcome
    }

    fn put(headers: &[(&str, &str)]) -> Condition {
        let outcome = evaluate(Method::Put, headers.iter().copied(), Some(&current()));
        for method in [Method::Post, Method::Patch, Method::Delete] {
            assert_eq!(evaluate(method, headers.iter().copied(), Some(&current())), outcome);
        }
        outcome
    }

    #[test]
    fn tags_are_parsed_and_compared() {
        let tag = |value: &'static str| EntityTag::parse(value.as_bytes());
        for value in [r#""a""#, r#"W/"a""#, r#""""#, r#""a,b!é""#] {
            assert_eq!(tag(value).expect(value).to_string(), value);
        }
        for value in [
            "", "a", "\"", "\"a", "a\"", "w/\"a\"", "W/a", "W/", "\"a b\"", "\"a\tb\"", "\"a\"b", "\"a\" ", "*",
            "\"\x7f\"",
        ] {
            assert_eq!(tag(value), None, "{value}");
        }
        let equal = |one, other| {
            let (one, other) = (tag(one).expect("a tag"), tag(other).expect("a tag"));
            (one.strong_eq(&other), one.weak_eq(&other))
        };
        // The table of RFC 9110 section 8.8.3.2.
        assert_eq!(equal(r#"W/"1""#, r#"W/"1""#), (false, true));
        assert_eq!(equal(r#"W/"1""#, r#"W/"2""#), (false, false));
        assert_eq!(equal(r#"W/"1""#, r#""1""#), (false, true));
        assert_eq!(equal(r#""1""#, r#""1""#), (true, true));
        assert!(EntityTag::strong("a\"").is_none() && EntityTag::weak("a\r\n").is_none());
    }

    #[test]
    fn if_none_match() {
        for (value, reads, changes) in [
            (r#""a,b""#, NotModified, PreconditionFailed),
            (r#"W/"a,b""#, NotModified, PreconditionFailed),
            (r#""x", ,, W/"a,b" ,"#, NotModified, PreconditionFailed),
            ("*", NotModified, PreconditionFailed),
            (r#""a", "b""#, Proceed, Proceed),
            ("", Proceed, Proceed),
            ("a,b", Proceed, PreconditionFailed),
            (r#"*, "x""#, Proceed, PreconditionFailed),
            (r#""a,b" "x""#, Proceed, PreconditionFailed),
            (r#""a,b", junk"#, Proceed, PreconditionFailed),
        ] {
            assert_eq!(get(&[("If-None-Match", value)]), reads, "{value}");
            assert_eq!(put(&[("if-none-match", value)]), changes, "{value}");
        }
        assert_eq!(get(&[("If-None-Match", "\"x\""), ("If-None-Match", "\"a,b\"")]), NotModified);
        assert_eq!(put(&[("If-None-Match", "\"x\""), ("If-None-Match", "*")]), PreconditionFailed);
        assert_eq!(put(&[("If-None-Match", "*"), ("If-None-Match", "\"x\"")]), PreconditionFailed);
    }

    #[test]
    fn if_match() {
        for (value, outcome) in [
            (r#""a,b""#, Proceed),
            (r#""x","a,b""#, Proceed),
            ("*", Proceed),
            (r#"W/"a,b""#, PreconditionFailed),
            (r#""x""#, PreconditionFailed),
            ("", PreconditionFailed),
            ("junk", PreconditionFailed),
            (r#""a,b", junk"#, PreconditionFailed),
        ] {
            assert_eq!(get(&[("If-Match", value)]), outcome, "{value}");
            assert_eq!(put(&[("IF-MATCH", value)]), outcome, "{value}");
        }
        let others = [("If-Match", "\"a,b\""), ("If-Match", "*"), ("If-Match", "\"a,b\"")];
        assert_eq!(put(&others[..2]), PreconditionFailed, "`*` stands alone");
        assert_eq!(put(&others[1..]), PreconditionFailed, "`*` stands alone");
        assert_eq!(evaluate(Method::Options, [("If-Match", "\"x\"")], Some(&current())), Proceed);
    }

    #[test]
    fn dates() {
        for (value, since, unmodified) in [
            (BEFORE, Proceed, PreconditionFailed),
            (SAME, NotModified, Proceed),
            (AFTER, NotModified, Proceed),
            ("junk", Proceed, Proceed),
        ] {
            assert_eq!(get(&[("If-Modified-Since", value)]), since, "{value}");
            assert_eq!(put(&[("If-Modified-Since", value)]), Proceed, "{value}");
            assert_eq!(get(&[("If-Unmodified-Since", value)]), unmodified, "{value}");
            assert_eq!(put(&[("If-Unmodified-Since", value)]), unmodified, "{value}");
        }
        assert_eq!(get(&[("If-Modified-Since", SAME), ("If-Modified-Since", SAME)]), Proceed);
    }

    #[test]
    fn tags_go_before_dates() {
        assert_eq!(get(&[("If-Modified-Since", SAME), ("If-None-Match", "\"x\"")]), Proceed);
        assert_eq!(get(&[("If-None-Match", "\"a,b\""), ("If-Modified-Since", BEFORE)]), NotModified);
        assert_eq!(put(&[("If-Match", "\"a,b\""), ("If-Unmodified-Since", BEFORE)]), Proceed);
        assert_eq!(put(&[("If-Unmodified-Since", SAME), ("If-Match", "\"x\"")]), PreconditionFailed);
        assert_eq!(get(&[("If-None-Match", "\"a,b\""), ("If-Match", "\"x\"")]), PreconditionFailed);
        assert_eq!(get(&[("If-None-Match", "\"a,b\""), ("If-Match", "\"a,b\"")]), NotModified);
        assert_eq!(get(&[("If-Modified-Since", SAME), ("If-Unmodified-Since", SAME)]), NotModified);
    }

    #[test]
    fn what_is_not_there_matches_nothing() {
        let put = |name, value| evaluate(Method::Put, [(name, value)], None);
        assert_eq!(put("If-None-Match", "*"), Proceed);
        assert_eq!(put("If-None-Match", "\"a\""), Proceed);
        assert_eq!(put("If-Match", "*"), PreconditionFailed);
        assert_eq!(put("If-Match", "\"a\""), PreconditionFailed);
        assert_eq!(put("If-Unmodified-Since", BEFORE), Proceed);
    }

    #[test]
    fn what_has_no_validators_is_always_sent() {
        let none = Validators::default();
        for (name, value, outcome) in [
            ("If-None-Match", "\"\"", Proceed),
            ("If-None-Match", "*", NotModified),
            ("If-Modified-Since", AFTER, Proceed),
            ("If-Unmodified-Since", BEFORE, Proceed),
            ("If-Match", "*", Proceed),
            ("If-Match", "\"\"", PreconditionFailed),
        ] {
            assert_eq!(evaluate(Method::Get, [(name, value)], Some(&none)), outcome, "{name}: {value}");
        }
        let early = Validators { last_modified: Some(UNIX_EPOCH - Duration::from_secs(9)), ..none };
        assert_eq!(evaluate(Method::Get, [("If-Modified-Since", AFTER)], Some(&early)), Proceed);
    }

    #[test]
    fn outcomes_have_statuses() {
        assert_eq!(get(&[]).status(), None);
        assert_eq!(NotModified.status(), Some(StatusCode::NOT_MODIFIED));
        assert_eq!(PreconditionFailed.status(), Some(StatusCode::PRECONDITION_FAILED));
    }

    proptest! {
        #[test]
        fn a_tag_is_found_in_any_list(opaques in prop::collection::vec("[!#-~]{0,9}", 1..9), pick: prop::sample::Index) {
            let list = opaques.iter().map(|opaque| format!("W/\"{opaque}\"")).collect::<Vec<_>>().join(" ,\t");
            let current = Validators { entity_tag: EntityTag::strong(&opaques[pick.index(opaques.len())]), last_modified: None };
            prop_assert_eq!(evaluate(Method::Get, [("if-none-match", &list)], Some(&current)), NotModified);
        }

        #[test]
        fn no_value_panics_or_lets_a_change_through(value in r#"["W/a, *]{0,12}"#, bytes: Vec<u8>) {
            let outcome = put(&[("If-Match", &value)]);
            prop_assert!(outcome == PreconditionFailed || value.contains('*') || value.contains("a,b"));
            let _ = evaluate(Method::Put, [("if-match", &bytes), ("if-none-match", &bytes)], Some(&current()));
        }
    }
}
