//! Finds the bytes that end a name, a value or a target, up to 64 at a time.
//!
//! The only module of this crate with `unsafe`. It loads bytes into vector registers, calls code for detected
//! instruction sets, and treats checked bytes as text. Bytes are only loaded from blocks that are borrowed as arrays,
//! so no load can lie outside the input.
#![allow(unsafe_code)]

use std::sync::LazyLock;

/// Bytes of a block, one bit for each.
pub(crate) const BLOCK_BYTES: usize = 64;

/// The most positions that [`Classify::places`] returns.
pub(crate) const PLACES: usize = BLOCK_BYTES / 2;

/// Enough for nearly every name.
const HALF_BYTES: usize = BLOCK_BYTES / 2;

/// The characters that may be in a run, which determine the bytes that end it.
#[derive(Clone, Copy)]
pub(crate) struct Class {
    /// ASCII characters by their low four bits: bit `h` lists the character whose high four bits are `h`.
    rows: [u8; 16],
    /// `true`: the listed characters end a run, and all other bytes do not. `false`: the other way round.
    listed_end: bool,
}

/// The characters of a token (RFC 9110 5.6.2).
pub(crate) static TOKEN: Class = Class::alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// Characters of a target before `?` that stand for themselves (RFC 3986 section 2). Not `%`, which two hexadecimal
/// digits must follow, and not `#`, since a fragment is not sent (RFC 9110 7.1).
static PATH: Class = Class::alphanumeric_and(b"-._~:/[]@!$&'()*+,;=");

/// As [`PATH`], and also `?`, which is a normal character after the first one.
static QUERY: Class = Class::alphanumeric_and(b"-._~:/?[]@!$&'()*+,;=");

/// Characters of a host or a port (RFC 3986 3.2.2).
pub(crate) static HOST: Class = Class::alphanumeric_and(b"-._~!$&'()*+;=%:[]");

/// Characters of a value: no control character except tab (RFC 9110 5.5).
pub(crate) static VALUE: Class = Class::without_controls();

impl Class {
    const fn of(characters: &[u8]) -> Self {
        let mut class = Self { rows: [0; 16], listed_end: false };
        let mut at = 0;
        while at < characters.len() {
            class.list(characters[at]);
            at += 1;
        }
        class
    }

    const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut class = Self::of(others);
        let mut byte = 0;
        while byte < 128 {
            if (byte as u8).is_ascii_alphanumeric() {
                class.list(byte as u8);
            }
            byte += 1;
        }
        class
    }

    const fn without_controls() -> Self {
        let mut class = Self { rows: [0; 16], listed_end: true };
        let mut byte = 0;
        while byte < 128 {
            if (byte as u8).is_ascii_control() && byte as u8 != b'\t' {
                class.list(byte as u8);
            }
            byte += 1;
        }
        class
    }

    const fn list(&mut self, byte: u8) {
        self.rows[(byte & 15) as usize] |= 1 << (byte >> 4);
    }

    /// Whether `byte` ends a run.
    #[inline]
    pub(crate) fn ends(&self, byte: u8) -> bool {
        self.lists(byte) == self.listed_end
    }

    #[inline]
    fn lists(&self, byte: u8) -> bool {
        byte.is_ascii() && self.rows[usize::from(byte & 15)] >> (byte >> 4) & 1 == 1
    }
}

/// Classifies bytes with the instructions of one level. The first byte is at the lowest bit.
pub(crate) trait Classify: Copy {
    /// The bits of the bytes that a class does not list.
    fn unlisted_half(self, bytes: &[u8; HALF_BYTES], class: &Class) -> u32;

    /// As [`Self::unlisted_half`], for a whole block.
    #[inline(always)]
    fn unlisted(self, bytes: &[u8; BLOCK_BYTES], class: &Class) -> u64 {
        let [low, high] = [0, HALF_BYTES].map(|at| {
            let half = bytes[at..].first_chunk().expect("two halves");
            u64::from(self.unlisted_half(half, class))
        });
        high << HALF_BYTES | low
    }

    /// Writes the positions of the set `bits` to `to`, counted from `first`. No two neighbours are set. The remaining
    /// elements of `to` may change.
    #[inline(always)]
    fn places(self, mut bits: u64, first: u32, to: &mut [u32; PLACES]) {
        let (usual, others) = to.split_at_mut(USUAL_PLACES);
        for place in usual {
            *place = first + bits.trailing_zeros();
            bits &= bits.wrapping_sub(1);
        }
        for place in others {
            if bits == 0 {
                break;
            }
            *place = first + bits.trailing_zeros();
            bits &= bits - 1;
        }
    }
}

/// Few blocks have more lines. Up to this number, finding them takes no branch.
const USUAL_PLACES: usize = 4;

/// A task that runs with the instructions of a level.
pub(crate) trait Task {
    type Output;
    /// Must be `#[inline(always)]`: only then it is compiled for these instructions.
    fn run(self, classify: impl Classify) -> Self::Output;
}

/// A way to classify bytes that this machine supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    Any,
    #[cfg(target_arch = "x86_64")]
    Ssse3,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Instructions {
    /// From the slowest to the fastest.
    const ALL: &[Self] = &[
        Self::Any,
        #[cfg(target_arch = "x86_64")]
        Self::Ssse3,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
    ];

    /// Whether this machine supports them.
    fn are_there(self) -> bool {
        match self {
            Self::Any => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => cfg!(target_feature = "neon"),
            #[cfg(target_arch = "x86_64")]
            Self::Ssse3 => is_x86_feature_detected!("ssse3"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::has_avx2(),
            // Processors with AVX-512 but without VBMI2 lower their clock while they work with 512 bits.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vbmi2") && x86::has_avx2()
            }
        }
    }
}

impl Level {
    /// The fastest one.
    #[inline]
    pub(crate) fn best() -> Self {
        static BEST: LazyLock<Level> = LazyLock::new(|| Level::available().last().expect("the scalar one"));
        *BEST
    }

    /// All that this machine supports, from the slowest to the fastest.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        Instructions::ALL.iter().filter(|instructions| instructions.are_there()).map(|instructions| Self(*instructions))
    }

    /// Runs `task` with these instructions.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        match self.0 {
            Instructions::Any => task.run(Scalar),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => task.run(neon::Neon),
            // SAFETY: a level is only made for instructions that were detected.
            #[cfg(target_arch = "x86_64")]
            Instructions::Ssse3 => unsafe { x86::Ssse3::run(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { x86::Avx2::run(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { x86::Avx512::run(task) },
        }
    }
}

/// Byte by byte, on any machine.
#[derive(Clone, Copy)]
struct Scalar;

impl Classify for Scalar {
    #[inline(always)]
    fn unlisted_half(self, bytes: &[u8; HALF_BYTES], class: &Class) -> u32 {
        let bit = |(at, byte): (usize, &u8)| u32::from(!class.lists(*byte)) << at;
        bytes.iter().enumerate().map(bit).fold(0, |bits, bit| bits | bit)
    }
}

/// The bits of those bytes of `input` from `at` on, up to a block, that end a run of `class`.
#[inline(always)]
pub(crate) fn ends(classify: impl Classify, class: &Class, input: &[u8], at: usize) -> u64 {
    let is_end = |unlisted: u64| if class.listed_end { !unlisted } else { unlisted };
    let rest = &input[at..];
    match (rest.first_chunk(), input.last_chunk()) {
        (Some(block), _) => is_end(classify.unlisted(block, class)),
        (None, Some(last)) if !rest.is_empty() => is_end(classify.unlisted(last, class)) >> (BLOCK_BYTES - rest.len()),
        _ => is_end(classify.unlisted(&padded(rest), class)) & ((1 << rest.len()) - 1),
    }
}

/// As [`ends`], up to half a block.
#[inline(always)]
pub(crate) fn ends_in_half(classify: impl Classify, class: &Class, input: &[u8], at: usize) -> u32 {
    let is_end = |unlisted: u32| if class.listed_end { !unlisted } else { unlisted };
    let rest = &input[at..];
    match (rest.first_chunk(), input.last_chunk()) {
        (Some(half), _) => is_end(classify.unlisted_half(half, class)),
        (None, Some(last)) if !rest.is_empty() => {
            is_end(classify.unlisted_half(last, class)) >> (HALF_BYTES - rest.len())
        }
        _ => is_end(classify.unlisted_half(&padded(rest), class)) & ((1 << rest.len()) - 1),
    }
}

/// Header lines with a name of less than half a block.
pub(crate) struct UsualLines<'a> {
    window: &'a [u8],
    /// A line that ends before this position has `BEHIND_BYTES` after its end.
    ends_before: usize,
}

/// Bytes after a line's end that are loaded without checking the end of the window.
const BEHIND_BYTES: usize = HALF_BYTES + 2;

impl<'a> UsualLines<'a> {
    #[inline(always)]
    pub(crate) fn of(window: &'a [u8]) -> Self {
        Self { window, ends_before: window.len().saturating_sub(BEHIND_BYTES) }
    }

    /// The length of the name, and its first letter, in the line from `at` to `end`, which is the first byte that must
    /// not be in a value. `None` if it is not such a line, or is near the end of the window.
    #[inline(always)]
    pub(crate) fn name(&self, classify: impl Classify, at: usize, end: usize) -> Option<(usize, u8)> {
        if end >= self.ends_before {
            return None;
        }
        if at >= end {
            return None;
        }
        let start = self.window.as_ptr();
        // SAFETY: `at` is less than `end`, which has `BEHIND_BYTES` after it, and that is more than half a block.
        let name = unsafe { &*start.add(at).cast::<[u8; HALF_BYTES]>() };
        let name_bytes = classify.unlisted_half(name, &TOKEN).trailing_zeros() as usize;
        // SAFETY: `name_bytes` is at most half a block, so at least `BEHIND_BYTES` minus half a block follow it, which
        // is two.
        let colon = unsafe { *start.add(at + name_bytes) };
        // SAFETY: `end` has `BEHIND_BYTES` after it.
        let line_end = unsafe { *start.add(end).cast::<[u8; 2]>() };
        (colon == b':' && name_bytes > 0 && line_end == *b"\r\n").then_some((name_bytes, name[0]))
    }
}

#[inline(never)]
fn padded<const BYTES: usize>(input: &[u8]) -> [u8; BYTES] {
    let mut padded = [0; BYTES];
    padded[..input.len()].copy_from_slice(input);
    padded
}

/// The end of the run of `class` at the start of `input`; `None` if it extends to the end of the input.
#[inline(always)]
pub(crate) fn run_end(classify: impl Classify, class: &Class, input: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < input.len() {
        let ends = ends_in_half(classify, class, input, at);
        if ends != 0 {
            return Some(at + ends.trailing_zeros() as usize);
        }
        at += HALF_BYTES;
    }
    None
}

/// The target at the start of a piece of a request line.
pub(crate) enum Target<'a> {
    /// Only characters that a target may have, and how many of them come before the first `?`.
    Allowed(&'a str, usize),
    /// Visible ASCII characters, including others.
    Other(&'a [u8]),
}

impl Target<'_> {
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Allowed(target, _) => target.len(),
            Self::Other(target) => target.len(),
        }
    }
}

/// The target at the start of `input`. Any byte that is not a visible ASCII character ends it; `None` if there is no
/// such byte.
#[inline(always)]
pub(crate) fn target(classify: impl Classify, input: &[u8]) -> Option<Target<'_>> {
    let mut mark = None;
    let length = escaped_run_end(classify, input, &mut mark)?;
    let path_bytes = mark.unwrap_or(length);
    if input[length].is_ascii_graphic() {
        let length = input.iter().position(|byte| !byte.is_ascii_graphic())?;
        return Some(Target::Other(&input[..length]));
    }
    // SAFETY: these are runs of classes that list ASCII characters, `%`, hexadecimal digits, and `?`: all ASCII, so
    // UTF-8.
    Some(Target::Allowed(unsafe { str::from_utf8_unchecked(&input[..length]) }, path_bytes))
}

/// The end of the run at the start of `input` that consists of characters of a path or a query, and of `%` followed by
/// two hexadecimal digits (RFC 3986 2.1). Puts the position of the first `?` into `mark`.
#[inline(always)]
fn escaped_run_end(classify: impl Classify, input: &[u8], mark: &mut Option<usize>) -> Option<usize> {
    let mut at = 0;
    while at < input.len() {
        let mut ends = ends_in_half(classify, &QUERY, input, at);
        if mark.is_none() {
            let path_ends = ends_in_half(classify, &PATH, input, at) & !ends;
            *mark = (path_ends != 0).then(|| at + path_ends.trailing_zeros() as usize);
        }
        while ends != 0 {
            let end = at + ends.trailing_zeros() as usize;
            // The digits belong to the class, so the next end is after them.
            match &input[end..] {
                [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => ends &= ends - 1,
                _ => {
                    *mark = mark.filter(|mark| *mark < end);
                    return Some(end);
                }
            }
        }
        at += HALF_BYTES;
    }
    None
}

/// Indexed by the high four bits of a byte: the bit of a row.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0];

/// `pshufb` is the table: the low four bits of a byte select the row of its class, the high four bits a bit of that
/// row. Bytes beyond ASCII select an empty row.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BITS, BLOCK_BYTES, Class, Classify, HALF_BYTES, PLACES, Task};

    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
    }

    /// Defines a level: its name, its features, and how it classifies.
    macro_rules! level {
        ($name:ident, $features:literal, $($method:ident($($argument:ident: $type:ty),+) $(-> $bits:ident)? = $function:ident,)+) => {
            /// Only `run` makes it, so code that has one can use the instructions.
            #[derive(Clone, Copy)]
            pub(super) struct $name(());

            impl $name {
                #[target_feature(enable = $features)]
                pub(super) fn run<T: Task>(task: T) -> T::Output {
                    task.run(Self(()))
                }
            }

            impl Classify for $name {
                $(
                    #[inline(always)]
                    fn $method(self, $($argument: $type),+) $(-> $bits)? {
                        // SAFETY: only code with these instructions makes `self`.
                        unsafe { $function($($argument),+) }
                    }
                )+
            }
        };
    }

    level!(Ssse3, "ssse3", unlisted_half(bytes: &[u8; HALF_BYTES], class: &Class) -> u32 = unlisted_ssse3,);
    level!(
        Avx2,
        "avx2,bmi1,bmi2,popcnt",
        unlisted_half(bytes: &[u8; HALF_BYTES], class: &Class) -> u32 = unlisted_avx2,
    );
    level!(
        Avx512,
        "avx512bw,avx512vbmi2,avx2,bmi1,bmi2,popcnt",
        unlisted_half(bytes: &[u8; HALF_BYTES], class: &Class) -> u32 = unlisted_avx2,
        unlisted(bytes: &[u8; BLOCK_BYTES], class: &Class) -> u64 = unlisted_avx512,
        places(bits: u64, first: u32, to: &mut [u32; PLACES]) = places_avx512,
    );

    #[inline]
    fn load(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: the reference is valid for 16 bytes, the load needs no alignment, and SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn unlisted_ssse3(bytes: &[u8; HALF_BYTES], class: &Class) -> u32 {
        let (bits, rows) = (load(&BITS), load(&class.rows));
        let [low, high] = [0, 16].map(|at| {
            let part = load(bytes[at..].first_chunk().expect("two parts"));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(part), _mm_set1_epi8(15));
            let listed = _mm_and_si128(_mm_shuffle_epi8(rows, part), _mm_shuffle_epi8(bits, high));
            _mm_movemask_epi8(_mm_cmpeq_epi8(listed, _mm_setzero_si128())) as u32
        });
        high << 16 | low
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn unlisted_avx2(bytes: &[u8; HALF_BYTES], class: &Class) -> u32 {
        let (bits, rows) = (load(&BITS), load(&class.rows));
        let (bits, rows) = (_mm256_broadcastsi128_si256(bits), _mm256_broadcastsi128_si256(rows));
        // SAFETY: the reference is valid for 32 bytes, and the load needs no alignment.
        let part = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(part), _mm256_set1_epi8(15));
        let listed = _mm256_and_si256(_mm256_shuffle_epi8(rows, part), _mm256_shuffle_epi8(bits, high));
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(listed, _mm256_setzero_si256())) as u32
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn unlisted_avx512(bytes: &[u8; BLOCK_BYTES], class: &Class) -> u64 {
        let (bits, rows) = (load(&BITS), load(&class.rows));
        let (bits, rows) = (_mm512_broadcast_i32x4(bits), _mm512_broadcast_i32x4(rows));
        // SAFETY: the reference is valid for 64 bytes, and the load needs no alignment.
        let part = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(part), _mm512_set1_epi8(15));
        _mm512_testn_epi8_mask(_mm512_shuffle_epi8(rows, part), _mm512_shuffle_epi8(bits, high))
    }

    /// The number of each byte of a block.
    static NUMBERS: [u8; BLOCK_BYTES] = {
        let mut numbers = [0; BLOCK_BYTES];
        let mut at = 0;
        while at < BLOCK_BYTES {
            numbers[at] = at as u8;
            at += 1;
        }
        numbers
    };

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vbmi2")]
    fn places_avx512(bits: u64, first: u32, to: &mut [u32; PLACES]) {
        // SAFETY: the reference is valid for 64 bytes, and the load needs no alignment.
        let numbers = unsafe { _mm512_loadu_si512(NUMBERS.as_ptr().cast()) };
        let numbers = _mm512_castsi512_si256(_mm512_maskz_compress_epi8(bits, numbers));
        let first = _mm512_set1_epi32(first as i32);
        let (usual, others) = to.split_at_mut(PLACES / 2);
        let store = |to: &mut [u32], numbers: __m128i| {
            let places = _mm512_add_epi32(_mm512_cvtepu8_epi32(numbers), first);
            assert!(to.len() == PLACES / 2);
            // SAFETY: it is valid for 16 numbers, 64 bytes, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), places) };
        };
        store(usual, _mm256_castsi256_si128(numbers));
        if bits.count_ones() as usize > PLACES / 2 {
            store(others, _mm256_extracti128_si256::<1>(numbers));
        }
    }
}

/// As in `x86`, with `tbl` for `pshufb`.
#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::{BITS, Class, Classify, HALF_BYTES};

    /// For every eight bytes: the bit that each becomes.
    static WEIGHTS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

    #[derive(Clone, Copy)]
    pub(super) struct Neon;

    impl Classify for Neon {
        #[inline(always)]
        fn unlisted_half(self, bytes: &[u8; HALF_BYTES], class: &Class) -> u32 {
            // SAFETY: the level only exists if all code is compiled for these instructions.
            unsafe { unlisted(bytes, class) }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn load(bytes: &[u8; 16]) -> uint8x16_t {
        // SAFETY: the reference is valid for 16 bytes, and the load needs no alignment.
        unsafe { vld1q_u8(bytes.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn unlisted(bytes: &[u8; HALF_BYTES], class: &Class) -> u32 {
        let (bits, rows, weights) = (load(&BITS), load(&class.rows), load(&WEIGHTS));
        let weigh = |part: &[u8; 16]| {
            let part = load(part);
            let (row, high) = (vqtbl1q_u8(rows, vandq_u8(part, vdupq_n_u8(15))), vshrq_n_u8::<4>(part));
            vandq_u8(vceqzq_u8(vandq_u8(row, vqtbl1q_u8(bits, high))), weights)
        };
        let (parts, _) = bytes.as_chunks();
        // Adding neighbours three times combines the bits of eight bytes in one byte.
        let pairs = vpaddq_u8(weigh(&parts[0]), weigh(&parts[1]));
        let fours = vpaddq_u8(pairs, pairs);
        vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vpaddq_u8(fours, fours)))
    }
}
