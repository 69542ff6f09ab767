//! Finds the bytes that end a name, a value or a target, 64 at a time.
//!
//! The one module of this crate with `unsafe`: it loads bytes into vector registers, calls code for instruction sets that were
//! detected, keeps marks in memory that is not cleared before, and takes for text what it has checked. Bytes are only loaded from
//! blocks of [`BLOCK_BYTES`] that are borrowed as arrays, so no load can lie outside the input.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;

/// Bytes that are classified at once.
pub(crate) const BLOCK_BYTES: usize = 64;

/// Blocks that [`Marks`] hold. Most heads fit.
const BLOCKS_MAX: usize = 16;

/// What may stand in a run of characters, and so which bytes end it.
#[derive(Clone, Copy)]
pub(crate) struct Class {
    /// ASCII characters by their low four bits: bit `h` lists the character whose high four bits are `h`.
    rows: [u8; 16],
    /// Whether the listed characters end a run, and all other bytes do not; or the other way round.
    listed_end: bool,
}

/// The characters of a token (RFC 9110 5.6.2).
pub(crate) static TOKEN: Class = Class::alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// Characters of a target before `?` that stand for themselves (RFC 3986 section 2): no `%`, which must have two hexadecimal digits
/// behind it, and no `#`, since a fragment is not sent (RFC 9110 7.1).
static PATH: Class = Class::alphanumeric_and(b"-._~:/[]@!$&'()*+,;=");

/// As [`PATH`], behind the first `?`.
static QUERY: Class = Class::alphanumeric_and(b"-._~:/?[]@!$&'()*+,;=");

/// What may stand in a host or a port (RFC 3986 3.2.2).
pub(crate) static HOST: Class = Class::alphanumeric_and(b"-._~!$&'()*+;=%:[]");

/// What may stand in a value: no control character but tab (RFC 9110 5.5).
pub(crate) static VALUE: Class = Class::without_controls();

impl Class {
    const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut class = Self { rows: [0; 16], listed_end: false };
        let mut byte = 0;
        while byte < 128 {
            if (byte as u8).is_ascii_alphanumeric() {
                class.list(byte as u8);
            }
            byte += 1;
        }
        let mut at = 0;
        while at < others.len() {
            class.list(others[at]);
            at += 1;
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
        let is_listed = byte.is_ascii() && self.rows[usize::from(byte & 15)] >> (byte >> 4) & 1 == 1;
        is_listed == self.listed_end
    }

    /// What a mask of the bytes that are not listed must be combined with, to become one of those that end a run.
    #[inline]
    fn flip(&self) -> u64 {
        if self.listed_end { u64::MAX } else { 0 }
    }
}

/// Bits of the bytes of a block, the first byte at the lowest bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Bytes that end a token.
    pub(crate) token_ends: u64,
    /// Bytes that end a value; they end a token, too.
    pub(crate) value_ends: u64,
}

/// The blocks of some input, from a place in it on.
pub(crate) struct Marks {
    /// The first `filled`, and one without bits behind them.
    blocks: [MaybeUninit<Block>; BLOCKS_MAX + 1],
    filled: usize,
}

impl Marks {
    #[inline]
    pub(crate) fn new() -> Self {
        let mut marks = Self { blocks: [MaybeUninit::uninit(); BLOCKS_MAX + 1], filled: 0 };
        marks.blocks[0].write(Block::default());
        marks
    }

    /// Those of the input, the last one with bits for bytes that there are only.
    #[inline]
    pub(crate) fn filled(&self) -> &[Block] {
        &self.initialized()[..self.filled]
    }

    /// Whether a byte ends a token: bit 0 for the one at `at`, and at least the 63 behind it. Bytes beyond the marks do not.
    #[inline]
    pub(crate) fn token_ends_from(&self, at: usize) -> u64 {
        let (index, shift) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
        match self.initialized().get(index..index + 2) {
            Some([block, next]) => block.token_ends >> shift | next.token_ends << 1 << (63 - shift),
            _ => 0,
        }
    }

    /// Marks `input` from `at` on: up to the end of the block in which the fourth byte in a row ends a value, as at the end of a
    /// head; otherwise to the end of the input, or until the marks are full. Says whether there are bytes behind it.
    #[inline(always)]
    pub(crate) fn mark(&mut self, classify: impl Classify, input: &[u8], at: usize) -> bool {
        let (blocks, tail) = input[at..].as_chunks::<BLOCK_BYTES>();
        let (mut before, mut pairs_before) = (0, 0);
        for (index, bytes) in blocks.iter().take(BLOCKS_MAX).enumerate() {
            let [token_ends, value_ends] = classify.ends(bytes, [&TOKEN, &VALUE]);
            self.blocks[index].write(Block { token_ends, value_ends });
            let pairs = value_ends & (value_ends << 1 | before >> 63);
            if pairs & (pairs << 2 | pairs_before >> 62) != 0 {
                self.end_with(index + 1);
                return true;
            }
            (before, pairs_before) = (value_ends, pairs);
        }
        if blocks.len() >= BLOCKS_MAX {
            self.end_with(BLOCKS_MAX);
            return blocks.len() > BLOCKS_MAX || !tail.is_empty();
        }
        let [token_ends, value_ends] = tail_ends(classify, input, tail.len(), [&TOKEN, &VALUE]);
        self.blocks[blocks.len()].write(Block { token_ends, value_ends });
        self.end_with(blocks.len() + 1);
        false
    }

    /// Says that the first `filled` are written.
    #[inline(always)]
    fn end_with(&mut self, filled: usize) {
        self.blocks[filled].write(Block::default());
        self.filled = filled;
    }

    /// The blocks that are filled, and the one behind them.
    #[inline]
    fn initialized(&self) -> &[Block] {
        let blocks = &self.blocks[..=self.filled];
        // SAFETY: `new` writes the first block; `mark` writes `filled` and the one behind it, before it sets `filled`.
        unsafe { &*(ptr::from_ref(blocks) as *const [Block]) }
    }
}

/// Classifies bytes with the instructions of one level.
pub(crate) trait Classify: Copy {
    /// For each class, the bits of the bytes that end a run of it, the first byte at the lowest bit.
    fn ends<const N: usize>(self, bytes: &[u8; BLOCK_BYTES], classes: [&Class; N]) -> [u64; N];
}

/// What is done with the instructions of a level.
pub(crate) trait Task {
    type Output;
    /// Must be `#[inline(always)]`: only then it is compiled for these instructions.
    fn run(self, classify: impl Classify) -> Self::Output;
}

/// A way to classify bytes that this machine has.
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
}

impl Level {
    /// The fastest one. The standard library remembers what it detected.
    #[inline]
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        for (instructions, is_there) in x86::LEVELS {
            if is_there() {
                return Self(instructions);
            }
        }
        Self(Instructions::Any)
    }

    /// Every one that this machine has, the scalar one first.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = vec![Self(Instructions::Any)];
        #[cfg(target_arch = "x86_64")]
        levels.extend(x86::LEVELS.iter().rev().filter(|(_, is_there)| is_there()).map(|(level, _)| Self(*level)));
        levels
    }

    /// Runs `task` with these instructions.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        match self.0 {
            Instructions::Any => task.run(Scalar),
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

/// Bytes one after the other, on any machine.
#[derive(Clone, Copy)]
struct Scalar;

impl Classify for Scalar {
    #[inline(always)]
    fn ends<const N: usize>(self, bytes: &[u8; BLOCK_BYTES], classes: [&Class; N]) -> [u64; N] {
        classes.map(|class| {
            let bit = |(at, byte): (usize, &u8)| u64::from(class.ends(*byte)) << at;
            bytes.iter().enumerate().map(bit).fold(0, |ends, bit| ends | bit)
        })
    }
}

/// Where the run of `class` that `input` begins with ends; `None` where it goes on to the end of the input.
#[inline(always)]
pub(crate) fn run_end(classify: impl Classify, class: &Class, input: &[u8]) -> Option<usize> {
    let (blocks, tail) = input.as_chunks::<BLOCK_BYTES>();
    for (index, bytes) in blocks.iter().enumerate() {
        let [ends] = classify.ends(bytes, [class]);
        if ends != 0 {
            return Some(index * BLOCK_BYTES + ends.trailing_zeros() as usize);
        }
    }
    let [ends] = tail_ends(classify, input, tail.len(), [class]);
    (ends != 0).then(|| blocks.len() * BLOCK_BYTES + ends.trailing_zeros() as usize)
}

/// Classifies the last `count` bytes of `input`, less than a block. Bits beyond the end are not set.
#[inline(always)]
fn tail_ends<const N: usize>(classify: impl Classify, input: &[u8], count: usize, classes: [&Class; N]) -> [u64; N] {
    if count == 0 {
        return [0; N];
    }
    match input.last_chunk::<BLOCK_BYTES>() {
        Some(last) => classify.ends(last, classes).map(|ends| ends >> (BLOCK_BYTES - count)),
        None => {
            let padded = padded(&input[input.len() - count..]);
            classify.ends(&padded, classes).map(|ends| ends & ((1 << count) - 1))
        }
    }
}

#[cold]
fn padded(input: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut padded = [0; BLOCK_BYTES];
    padded[..input.len()].copy_from_slice(input);
    padded
}

/// The target that a piece of a request line begins with.
pub(crate) enum Target<'a> {
    /// Only characters that a target may have, and how many of them come before the first `?`.
    Allowed(&'a str, usize),
    /// Visible ASCII characters, but others, too.
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

/// The target that `input` begins with, and that any byte ends which is no visible ASCII character; `None` where no such byte is there.
#[inline(always)]
pub(crate) fn target(classify: impl Classify, input: &[u8]) -> Option<Target<'_>> {
    let path_bytes = escaped_run_end(classify, &PATH, input, 0)?;
    let length = match input[path_bytes] {
        b'?' => escaped_run_end(classify, &QUERY, input, path_bytes + 1)?,
        _ => path_bytes,
    };
    if input[length].is_ascii_graphic() {
        let length = input.iter().position(|byte| !byte.is_ascii_graphic())?;
        return Some(Target::Other(&input[..length]));
    }
    // SAFETY: these are runs of classes that list characters of ASCII, `%`, hexadecimal digits, and `?`: all ASCII, so UTF-8.
    Some(Target::Allowed(unsafe { str::from_utf8_unchecked(&input[..length]) }, path_bytes))
}

/// Where the run from `at` on ends of characters of `class`, and of `%` with two hexadecimal digits behind it (RFC 3986 2.1).
#[inline(always)]
fn escaped_run_end(classify: impl Classify, class: &Class, input: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += run_end(classify, class, &input[at..])?;
        if input[at] != b'%' {
            return Some(at);
        }
        while let [b'%', high, low, ..] = &input[at..] {
            if !high.is_ascii_hexdigit() || !low.is_ascii_hexdigit() {
                return Some(at);
            }
            at += 3;
        }
        if input.len() - at < 3 {
            return (at..input.len()).find(|at| class.ends(input[*at]));
        }
    }
}

/// `pshufb` is the table: the low four bits of a byte choose the row of its class, the high four bits a bit of that row. Bytes beyond
/// ASCII choose an empty row.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK_BYTES, Class, Classify, Instructions, Task};

    /// The fastest first, with what tells whether the machine has it.
    pub(super) const LEVELS: [(Instructions, fn() -> bool); 3] = [
        (Instructions::Avx512, || is_x86_feature_detected!("avx512bw") && has_bit_counts()),
        (Instructions::Avx2, || is_x86_feature_detected!("avx2") && has_bit_counts()),
        (Instructions::Ssse3, || is_x86_feature_detected!("ssse3")),
    ];

    fn has_bit_counts() -> bool {
        is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2")
    }

    /// By the high four bits of a byte: the bit of a row.
    static BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0];

    /// A level: its name, its features, and the function that classifies.
    macro_rules! level {
        ($name:ident, $features:literal, $ends:ident) => {
            /// Made by `run` only, so that whoever has one has the instructions.
            #[derive(Clone, Copy)]
            pub(super) struct $name(());

            impl $name {
                #[target_feature(enable = $features)]
                pub(super) fn run<T: Task>(task: T) -> T::Output {
                    task.run(Self(()))
                }
            }

            impl Classify for $name {
                #[inline(always)]
                fn ends<const N: usize>(self, bytes: &[u8; BLOCK_BYTES], classes: [&Class; N]) -> [u64; N] {
                    // SAFETY: only code with these instructions makes `self`.
                    unsafe { $ends(bytes, classes) }
                }
            }
        };
    }

    level!(Ssse3, "ssse3", ends_ssse3);
    level!(Avx2, "avx2,bmi1,bmi2", ends_avx2);
    level!(Avx512, "avx512bw,bmi1,bmi2", ends_avx512);

    #[inline]
    fn load_128(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: the reference is valid for 16 bytes, the load needs no alignment, and SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load_256(bytes: &[u8; 32]) -> __m256i {
        // SAFETY: the reference is valid for 32 bytes, and the load needs no alignment.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn load_512(bytes: &[u8; 64]) -> __m512i {
        // SAFETY: the reference is valid for 64 bytes, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn ends_ssse3<const N: usize>(bytes: &[u8; BLOCK_BYTES], classes: [&Class; N]) -> [u64; N] {
        let bits = load_128(&BITS);
        let mut ends = classes.map(Class::flip);
        for (index, part) in bytes.as_chunks::<16>().0.iter().enumerate() {
            let part = load_128(part);
            let high = _mm_and_si128(_mm_srli_epi16::<4>(part), _mm_set1_epi8(15));
            let bit = _mm_shuffle_epi8(bits, high);
            for (class, ends) in classes.iter().zip(&mut ends) {
                let listed = _mm_and_si128(_mm_shuffle_epi8(load_128(&class.rows), part), bit);
                let others = _mm_movemask_epi8(_mm_cmpeq_epi8(listed, _mm_setzero_si128()));
                *ends ^= u64::from(others as u32) << (16 * index);
            }
        }
        ends
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn ends_avx2<const N: usize>(bytes: &[u8; BLOCK_BYTES], classes: [&Class; N]) -> [u64; N] {
        let bits = _mm256_broadcastsi128_si256(load_128(&BITS));
        let mut ends = classes.map(Class::flip);
        for (index, part) in bytes.as_chunks::<32>().0.iter().enumerate() {
            let part = load_256(part);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(part), _mm256_set1_epi8(15));
            let bit = _mm256_shuffle_epi8(bits, high);
            for (class, ends) in classes.iter().zip(&mut ends) {
                let rows = _mm256_broadcastsi128_si256(load_128(&class.rows));
                let listed = _mm256_and_si256(_mm256_shuffle_epi8(rows, part), bit);
                let others = _mm256_movemask_epi8(_mm256_cmpeq_epi8(listed, _mm256_setzero_si256()));
                *ends ^= u64::from(others as u32) << (32 * index);
            }
        }
        ends
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn ends_avx512<const N: usize>(bytes: &[u8; BLOCK_BYTES], classes: [&Class; N]) -> [u64; N] {
        let bits = _mm512_broadcast_i32x4(load_128(&BITS));
        let part = load_512(bytes);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(part), _mm512_set1_epi8(15));
        let bit = _mm512_shuffle_epi8(bits, high);
        classes.map(|class| {
            let rows = _mm512_broadcast_i32x4(load_128(&class.rows));
            _mm512_testn_epi8_mask(_mm512_shuffle_epi8(rows, part), bit) ^ class.flip()
        })
    }
}
