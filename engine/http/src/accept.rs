//! Selects the content coding of an answer (RFC 9110 section 12.5.3): what the client accepts, among what the server
//! has.

/// A content coding (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// None: the bytes unchanged.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// The value of the header `Content-Encoding`; `None` for identity, which must not be named there.
    pub fn content_encoding(self) -> Option<&'static str> {
        (self != Self::Identity).then_some(self.token())
    }

    fn token(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    fn is_named(self, coding: &[u8]) -> bool {
        let is = |token: &str| coding.eq_ignore_ascii_case(token.as_bytes());
        // RFC 9110 section 8.4.1.3: the two names are equivalent.
        is(self.token()) || self == Self::Gzip && is("x-gzip")
    }
}

/// Weights are counted in halves of the smallest possible weight, 0.001.
type Weight = u16;

/// The weight of identity if the client does not mention it: accepted, but after everything that the client names.
const UNNAMED_IDENTITY: Weight = 1;

const ENCODINGS: [Encoding; 4] = [Encoding::Identity, Encoding::Gzip, Encoding::Brotli, Encoding::Zstd];

/// Chooses the best of the codings that the server `has`, by the values of all headers `Accept-Encoding` of a request.
/// `has` is in the server's order of preference, which decides between equal weights. `None` if the client accepts none
/// of them and excludes identity: answer 406, or use identity anyway.
///
/// `has` need not list identity, which every server has; it then comes last. Without any header the answer is identity:
/// such a client may not understand any other coding. Members that do not follow the grammar of section 12.5.3 are
/// ignored, and so is a coding that is named again. An answer that depends on this choice needs `Vary:
/// Accept-Encoding`.
pub fn negotiate<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>, has: &[Encoding]) -> Option<Encoding> {
    let (mut named, mut others) = ([None; ENCODINGS.len()], None);
    for value in values {
        for (coding, weight) in value.as_ref().split(|byte| *byte == b',').filter_map(member) {
            if coding == b"*" {
                others.get_or_insert(weight);
            } else if let Some(place) = ENCODINGS.iter().position(|encoding| encoding.is_named(coding)) {
                named[place].get_or_insert(weight);
            }
        }
    }
    let mut best = (None, 0);
    for encoding in has.iter().copied().chain([Encoding::Identity]) {
        let unnamed = if encoding == Encoding::Identity { UNNAMED_IDENTITY } else { 0 };
        let weight = named[encoding as usize].or(others).unwrap_or(unnamed);
        if weight > best.1 {
            best = (Some(encoding), weight);
        }
    }
    best.0
}

/// A member of the list: a coding, and its weight.
fn member(member: &[u8]) -> Option<(&[u8], Weight)> {
    let Some(semicolon) = memchr::memchr(b';', member) else { return Some((member.trim_ascii(), 2_000)) };
    let weight = member[semicolon + 1..].trim_ascii();
    let value = weight.strip_prefix(b"q=").or_else(|| weight.strip_prefix(b"Q="))?;
    Some((member[..semicolon].trim_ascii(), self::weight(value)?))
}

/// The value of a weight (RFC 9110 section 12.4.2): from 0 to 1, with at most three decimals.
fn weight(value: &[u8]) -> Option<Weight> {
    let (whole, decimals) = match value {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut thousandths = Weight::from(whole - b'0');
    for place in 0..3 {
        let digit = decimals.get(place).copied().unwrap_or(b'0');
        thousandths = thousandths * 10 + digit.is_ascii_digit().then(|| Weight::from(digit - b'0'))?;
    }
    (thousandths <= 1_000).then_some(2 * thousandths)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Encoding::{Brotli, Gzip, Identity, Zstd};
    use super::*;

    const HAS: [Encoding; 2] = [Brotli, Gzip];

    #[test]
    fn the_best_that_both_have() {
        for (value, expected) in [
            ("gzip, deflate, br, zstd", Some(Brotli)),
            ("gzip", Some(Gzip)),
            ("GZip", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("gzip;q=0.9, br;q=0.8", Some(Gzip)),
            ("gzip;q=0.501, br ; q=0.5", Some(Gzip)),
            ("gzip;Q=0.5,br;q=0.50", Some(Brotli)),
            ("gzip;q=0, br;q=0", Some(Identity)),
            ("br;q=0.001", Some(Brotli)),
            ("*", Some(Brotli)),
            ("*, br;q=0", Some(Gzip)),
            ("br;q=0.2, *;q=0.1", Some(Brotli)),
            ("gzip;q=0.1, br;q=0.1, *;q=0.5", Some(Identity)),
            ("identity", Some(Identity)),
            ("identity;q=0.5, gzip;q=0.4", Some(Identity)),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("deflate", Some(Identity)),
            ("", Some(Identity)),
            (" ,, ", Some(Identity)),
            ("identity;q=0", None),
            ("*;q=0", None),
            ("deflate, *;q=0", None),
            ("*;q=0, identity;q=0.1", Some(Identity)),
            ("identity;q=0, *;q=0.1", Some(Brotli)),
            ("identity;q=0, gzip", Some(Gzip)),
        ] {
            assert_eq!(negotiate([value], &HAS), expected, "{value}");
        }
    }

    #[test]
    fn no_header_is_identity_and_several_are_one_list() {
        assert_eq!(negotiate::<&str>([], &HAS), Some(Identity));
        assert_eq!(negotiate(["gzip;q=0.5", "br;q=0.4"], &HAS), Some(Gzip));
        assert_eq!(negotiate(["gzip, br, zstd"], &[]), Some(Identity));
    }

    #[test]
    fn the_order_of_the_server_decides_between_equals() {
        let value = ["identity, gzip, br, zstd"];
        assert_eq!(negotiate(value, &[Zstd, Gzip]), Some(Zstd));
        assert_eq!(negotiate(value, &[Gzip, Zstd]), Some(Gzip));
        assert_eq!(negotiate(value, &[Identity, Gzip]), Some(Identity));
        assert_eq!(negotiate(["gzip"], &[Identity, Gzip]), Some(Gzip));
    }

    #[test]
    fn malformed_members_are_ignored() {
        for weight in ["1.001", "2", "0.1234", ".5", "-1", "", "0.5.5", "00.5", "0x1", "1e-1", "0.a", "1 2", "\"1\""] {
            assert_eq!(negotiate([format!("gzip;q={weight}")], &HAS), Some(Identity), "{weight}");
        }
        assert_eq!(negotiate(["gzip;q=1."], &HAS), Some(Gzip), "the grammar allows no digit behind the point");
        assert_eq!(negotiate(["br;level=4, gzip;q=0.1"], &HAS), Some(Gzip));
        assert_eq!(negotiate(["br q=1, gzip;q=0.1"], &HAS), Some(Gzip));
        assert_eq!(negotiate(["gzip;q=0.3, gzip;q=0, br;q=0.2"], &HAS), Some(Gzip));
    }

    #[test]
    fn codings_have_names() {
        let names = ENCODINGS.map(Encoding::content_encoding);
        assert_eq!(names, [None, Some("gzip"), Some("br"), Some("zstd")]);
        assert!(ENCODINGS.iter().enumerate().all(|(place, encoding)| *encoding as usize == place));
    }

    proptest! {
        #[test]
        fn only_what_is_accepted_is_chosen(weights in prop::array::uniform3(0u16..=1_000), junk: Vec<u8>) {
            let [gzip, br, identity] = weights.map(|weight| format!("{}.{:03}", weight / 1_000, weight % 1_000));
            let value = format!("gzip;q={gzip},br;q={br} , identity; q={identity}");
            let best = weights.into_iter().max().filter(|best| *best > 0);
            let chosen = negotiate([value], &HAS).map(|encoding| match encoding {
                Gzip => weights[0],
                Brotli => weights[1],
                _ => weights[2],
            });
            prop_assert_eq!(chosen, best);
            let _ = negotiate([junk], &HAS);
        }
    }
}
