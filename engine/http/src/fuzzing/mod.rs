//! What must hold for any bytes that a client may send, one function for each part. Called by the fuzzers in
//! `engine/http/fuzz`, and by ordinary tests with seeds and mutations of them.

mod reference;
#[cfg(test)]
mod tests;

use crate::body::chunked::Chunked;
use crate::head::scan::{self, BLOCK_BYTES, Class, Classify, Level, PLACES, Task};
use crate::head::{Field, FieldList, Framing, Head, HeadLimits, parse_at};
use crate::refusal::Refusal;

/// Small, so that small inputs reach them.
const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 512, target_bytes_max: 64 };

/// No short input reaches these.
const WIDE_LIMITS: HeadLimits = HeadLimits { head_bytes_max: 64 * 1024, target_bytes_max: 8 * 1024 };

/// For longer inputs, not every prefix is tried.
const BEGINNINGS_MAX: usize = 700;

/// A head and its headers, or why it is refused.
type Outcome<'a> = Result<Option<(Head<'a>, Vec<Field>)>, Refusal>;

/// Parses `data` as a head. Every instruction set must give the same result, httparse in `reference` too, and a
/// decision must not depend on what follows.
///
/// # Panics
/// If that does not hold.
pub fn head(data: &[u8]) {
    for limits in [LIMITS, WIDE_LIMITS] {
        let whole = parse(Level::best(), data, limits);
        for level in Level::available() {
            assert_eq!(parse(level, data, limits), whole, "{level:?}");
        }
        reference::compare(data, limits, &whole);
        decision_stands(data, limits, &whole);
    }
}

fn parse(level: Level, data: &[u8], limits: HeadLimits) -> Outcome<'_> {
    let mut fields = FieldList::default();
    Ok(parse_at(level, data, limits, &mut fields)?.map(|head| (head, fields.to_vec())))
}

/// Up to some length every prefix of `data` is undecided, and each longer one gives the same result as the whole.
fn decision_stands(data: &[u8], limits: HeadLimits, whole: &Outcome<'_>) {
    let step = data.len() / BEGINNINGS_MAX + 1;
    let mut is_decided = false;
    for length in (0..data.len()).step_by(step) {
        let outcome = parse(Level::best(), &data[..length], limits);
        is_decided |= outcome != Ok(None);
        assert!(!is_decided || outcome == *whole, "{length} bytes give {outcome:?}, more give {whole:?}");
    }
    if let Ok(Some((head, _))) = whole {
        assert_eq!(parse(Level::best(), &data[..head.length], limits), *whole, "without what follows");
        assert_eq!(parse(Level::best(), &data[..head.length - 1], limits), Ok(None), "one byte short");
    }
}

/// Classifies `data` from any position on, with every instruction set, and compares with a classification byte by byte.
///
/// # Panics
/// If the results differ.
pub fn scan(data: &[u8]) {
    // Over many inputs, this covers tails of every length.
    let step = 5 + data.len() % 7;
    for cut in (0..=data.len().min(2 * BLOCK_BYTES)).step_by(step) {
        for level in Level::available() {
            level.run(Scan { data, at: cut, level });
            level.run(Scan { data: &data[..data.len() - cut], at: 0, level });
            level.run(Scan { data: &data[..cut], at: cut / 3, level });
        }
    }
}

struct Scan<'a> {
    data: &'a [u8],
    at: usize,
    level: Level,
}

impl Task for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, classify: impl Classify) {
        let Self { data, at, level } = self;
        let rest = &data[at..];
        for class in [&scan::TOKEN, &scan::VALUE, &scan::HOST] {
            let expected = rest.iter().position(|byte| class.ends(*byte));
            assert_eq!(scan::run_end(classify, class, rest), expected, "{level:?} from {at}");
        }
        let bits = |class: &Class, start: usize, count: usize| {
            let bytes = data.iter().skip(start).take(count).enumerate();
            bytes.fold(0, |bits, (bit, byte)| bits | u64::from(class.ends(*byte)) << bit)
        };
        for class in [&scan::TOKEN, &scan::VALUE] {
            let ends = scan::ends(classify, class, data, at);
            assert_eq!(ends, bits(class, at, BLOCK_BYTES), "{level:?} at {at}");
            let ends = scan::ends_in_half(classify, class, data, at);
            assert_eq!(u64::from(ends), bits(class, at, BLOCK_BYTES / 2), "{level:?} at {at}");
        }
        let ends = scan::ends(classify, &scan::VALUE, data, at);
        let (firsts, mut places) = (ends & !(ends << 1), [0; PLACES]);
        classify.places(firsts, at as u32, &mut places);
        let expected = (0..u64::BITS).filter(|bit| firsts >> bit & 1 == 1).map(|bit| at as u32 + bit);
        assert_eq!(places[..firsts.count_ones() as usize], expected.collect::<Vec<u32>>(), "{level:?} at {at}");
        if let Some(target) = scan::target(classify, rest) {
            assert!(
                rest[..target.length()].iter().all(u8::is_ascii_graphic) && !rest[target.length()].is_ascii_graphic()
            );
        }
    }
}

/// Decodes `data` as a chunked body: the same data and the same end however it is split, and when it is frozen at any
/// position.
///
/// # Panics
/// If that does not hold.
pub fn chunked(data: &[u8]) {
    const BODY_BYTES_MAX: u64 = 300;
    let decode = |parts: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut body, mut taken) = (Chunked::new(BODY_BYTES_MAX), Vec::new(), 0);
        for part in parts {
            let most = decoder.most_to_come().expect("a state that was reached");
            taken += decoder.decode(part, |piece| body.extend_from_slice(piece))?;
            assert!(body.len() as u64 + decoder.most_to_come().expect("reached") <= BODY_BYTES_MAX.max(most));
            let frozen = serde_json::to_vec(&decoder).expect("a state is frozen");
            decoder = serde_json::from_slice(&frozen).expect("a state thaws");
        }
        Ok::<_, Refusal>((body, taken, decoder.has_ended()))
    };
    let whole = decode(&mut [data].into_iter());
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(decode(&mut data.chunks(size)), whole, "in pieces of {size}");
    }
    for at in 0..data.len().min(BEGINNINGS_MAX) {
        assert_eq!(decode(&mut [&data[..at], &data[at..]].into_iter()), whole, "cut at {at}");
    }
    if let Ok((body, taken, has_ended)) = whole {
        assert!(taken <= data.len() && (has_ended || taken == data.len()) && body.len() as u64 <= BODY_BYTES_MAX);
    }
}
