//! Pairs of a query or of a form's body (`application/x-www-form-urlencoded`), as the URL standard parses them
//! (<https://url.spec.whatwg.org/#urlencoded-parsing>) and browsers write them.

use std::borrow::Cow;
use std::iter::FusedIterator;

use percent_encoding::percent_decode;

/// The pairs of a query: what stands behind `?` in a target, or the body of a form. `None` is a target without a query.
///
/// `+` is a space and `%2B` is `+`. As browsers and other servers do it, nothing is an error: a `%` that no two hexadecimal digits
/// follow stands for itself, and bytes that are not UTF-8 become U+FFFD. A name without `=` has an empty value; empty parts between
/// two `&` are left out. Nothing is allocated for a name or a value without `+` and `%`.
///
/// ```
/// let mut pairs = baton_http::query::pairs("a=1&name=J%C3%BCrgen+M");
/// assert_eq!(pairs.next(), Some(("a".into(), "1".into())));
/// assert_eq!(pairs.next(), Some(("name".into(), "Jürgen M".into())));
/// assert_eq!(pairs.next(), None);
/// ```
pub fn pairs<'q>(query: impl Into<Option<&'q str>>) -> Pairs<'q> {
    Pairs { rest: query.into().unwrap_or_default() }
}

/// The value of the first pair of this name.
///
/// ```
/// assert_eq!(baton_http::query::value("a=13&b=42", "b").as_deref(), Some("42"));
/// ```
pub fn value<'q>(query: impl Into<Option<&'q str>>, name: &str) -> Option<Cow<'q, str>> {
    pairs(query).find_map(|(other, value)| (other == name).then_some(value))
}

/// See [`pairs`].
#[derive(Clone, Debug)]
pub struct Pairs<'q> {
    rest: &'q str,
}

impl<'q> Iterator for Pairs<'q> {
    type Item = (Cow<'q, str>, Cow<'q, str>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let (pair, rest) = self.rest.split_once('&').unwrap_or((self.rest, ""));
            self.rest = rest;
            if !pair.is_empty() {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                return Some((decode(name), decode(value)));
            }
        }
        None
    }
}

impl FusedIterator for Pairs<'_> {}

fn decode(text: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'+', b'%', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode(spaced.as_bytes()).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(query: &str) -> Vec<(String, String)> {
        pairs(query).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }

    #[test]
    fn parses_as_the_standard_says() {
        for (query, expected) in [
            ("", &[][..]),
            ("&&", &[]),
            ("a=13&b=42", &[("a", "13"), ("b", "42")]),
            ("a=1&a=2", &[("a", "1"), ("a", "2")]),
            ("a", &[("a", "")]),
            ("=b", &[("", "b")]),
            ("=", &[("", "")]),
            ("a=b=c", &[("a", "b=c")]),
            ("a+b=c+%2B", &[("a b", "c +")]),
            ("%26=%3d", &[("&", "=")]),
            ("a=%&b=%4&c=%zz", &[("a", "%"), ("b", "%4"), ("c", "%zz")]),
            ("a=%ff%c3%a9", &[("a", "\u{fffd}é")]),
            ("a=%00", &[("a", "\0")]),
            ("a;b=1", &[("a;b", "1")]),
            ("a=?/é", &[("a", "?/é")]),
        ] {
            let expected: Vec<_> =
                expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(read(query), expected, "{query}");
        }
        assert_eq!(pairs(None).next(), None);
    }

    #[test]
    fn allocates_only_for_what_is_encoded() {
        let borrowed: Vec<_> = pairs("a=13&b=4%32")
            .map(|(name, value)| (matches!(name, Cow::Borrowed(_)), matches!(value, Cow::Borrowed(_))))
            .collect();
        assert_eq!(borrowed, [(true, true), (true, false)]);
    }

    #[test]
    fn the_first_value_of_a_name_is_found() {
        assert_eq!(value("a=1&%61=2&b", "a").as_deref(), Some("1"));
        assert_eq!(value("%61=2&a=1", "a").as_deref(), Some("2"));
        assert_eq!(value("a=1&b", "b").as_deref(), Some(""));
        assert_eq!(value("a=1", "c"), None);
        assert_eq!(value(None, "a"), None);
    }

    proptest! {
        #[test]
        fn equals_the_reference(query in "([a-c&=+%éf0-9]|%[0-9a-fA-F]{2}|.){0,40}") {
            let expected: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            prop_assert_eq!(read(&query), expected);
        }
    }
}
