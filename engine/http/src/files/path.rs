//! From the path of a request to the path of a file: pure.

use std::borrow::Cow;

/// A segment that begins with a dot and is served nevertheless (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// Why a path does not name a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// No client that wants a file sends this.
    Malformed,
    /// Names that begin with a dot are not public.
    Hidden,
}

/// The path of a file beneath its folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FilePath<'p> {
    /// Its decoded segments with a slash between them. None of them is empty, `.`, or `..`, or contains a NUL.
    pub(super) relative: Cow<'p, [u8]>,
    /// The path ends with a slash, or is empty.
    pub(super) is_folder: bool,
}

impl<'p> FilePath<'p> {
    /// `raw` is the part of a request's path after the prefix, percent-encoded.
    ///
    /// Several slashes count as one. An encoded slash is refused: it would mean another path than the client has sent.
    /// The segments `.` and `..` are refused as well; clients resolve them themselves (RFC 3986 section 5.2.4).
    pub(super) fn parse(raw: &'p str) -> Result<Self, Unfit> {
        let is_folder = raw.is_empty() || raw.ends_with('/');
        let plain = raw.strip_suffix('/').unwrap_or(raw);
        if is_plain(plain.as_bytes()) {
            return Ok(Self { relative: Cow::Borrowed(plain.as_bytes()), is_folder });
        }
        let mut relative = Vec::with_capacity(raw.len());
        for segment in raw.split('/').filter(|segment| !segment.is_empty()) {
            if !relative.is_empty() {
                relative.push(b'/');
            }
            let start = relative.len();
            decode(segment.as_bytes(), &mut relative)?;
            match &relative[start..] {
                b"." | b".." => return Err(Unfit::Malformed),
                [b'.', ..] if &relative[start..] != WELL_KNOWN => return Err(Unfit::Hidden),
                _ => {}
            }
        }
        Ok(Self { relative: Cow::Owned(relative), is_folder })
    }
}

/// Whether nothing must be decoded or examined. Then no slash or dot is at the start or after a slash, and no slash is
/// at the end.
fn is_plain(path: &[u8]) -> bool {
    let mut before = b'/';
    !path.ends_with(b"/")
        && path.iter().all(|byte| {
            let is_fit = *byte != b'%' && *byte != 0 && !(before == b'/' && matches!(byte, b'/' | b'.'));
            before = *byte;
            is_fit
        })
}

fn decode(segment: &[u8], to: &mut Vec<u8>) -> Result<(), Unfit> {
    let mut rest = segment;
    while let Some((first, behind)) = rest.split_first() {
        let byte = match (first, behind) {
            (b'%', [high, low, ..]) => {
                rest = &behind[2..];
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let value = digit(high).zip(digit(low)).map(|(high, low)| (16 * high + low) as u8);
                value.filter(|value| *value != b'/').ok_or(Unfit::Malformed)?
            }
            (b'%', _) => return Err(Unfit::Malformed),
            (other, _) => {
                rest = behind;
                *other
            }
        };
        if byte == 0 {
            return Err(Unfit::Malformed);
        }
        to.push(byte);
    }
    Ok(())
}

/// Whether [`FilePath::parse`] could have returned this path, which another worker has written.
pub(super) fn is_relative(path: &[u8]) -> bool {
    let is_segment =
        |segment: &[u8]| !segment.is_empty() && !segment.contains(&0) && (segment[0] != b'.' || segment == WELL_KNOWN);
    path.split(|byte| *byte == b'/').all(is_segment)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(raw: &str) -> Result<(String, bool), Unfit> {
        let path = FilePath::parse(raw)?;
        assert!(path.relative.is_empty() || is_relative(&path.relative));
        Ok((String::from_utf8_lossy(&path.relative).into_owned(), path.is_folder))
    }

    #[test]
    fn paths() {
        for (raw, expected, is_folder) in [
            ("", "", true),
            ("/", "", true),
            ("a", "a", false),
            ("a/b.txt", "a/b.txt", false),
            ("a/", "a", true),
            ("a//", "a", true),
            ("a//b///", "a/b", true),
            ("//a", "a", false),
            ("a%20b/%C3%A4", "a b/ä", false),
            ("a..b/c...", "a..b/c...", false),
            (".well-known/acme", ".well-known/acme", false),
            ("%2Ewell-known/acme", ".well-known/acme", false),
            ("a%25b", "a%b", false),
            ("a%5c..%5cb", "a\\..\\b", false),
        ] {
            assert_eq!(parse(raw), Ok((expected.to_owned(), is_folder)), "{raw}");
        }
    }

    #[test]
    fn whoever_climbs_or_disguises_is_refused() {
        for raw in [
            "..",
            "../a",
            "a/..",
            "a/../b",
            "a/.",
            "./a",
            "%2e%2e/a",
            "%2E./a",
            ".%2e",
            "a/%2e%2e/%2e%2e/b",
            "a%2fb",
            "a%2F..%2Fb",
            "%2f",
            "a%00b",
            "%00",
            "a%",
            "a%2",
            "a%zz",
            "a%2g",
            "a/%%32e",
        ] {
            assert_eq!(parse(raw), Err(Unfit::Malformed), "{raw}");
        }
        for raw in [".git/config", "a/.env", "%2egit", "...", ".well-known/.x", ".well-known2"] {
            assert_eq!(parse(raw), Err(Unfit::Hidden), "{raw}");
        }
    }

    #[test]
    fn what_another_worker_says_is_looked_at() {
        for path in ["a", "a/b", ".well-known/a"] {
            assert!(is_relative(path.as_bytes()), "{path}");
        }
        for path in ["", "/a", "a//b", "a/", "..", "a/../b", ".", "a/.git", "a\0"] {
            assert!(!is_relative(path.as_bytes()), "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_path_climbs(raw in "[a./%2eEfF0]{0,16}") {
            if let Ok(path) = FilePath::parse(&raw) {
                prop_assert!(path.relative.is_empty() || is_relative(&path.relative), "{raw}");
            }
        }
    }
}
