//! Header lines: the positions of names and values. Pure.

use super::fields::may_mean;
use super::scan::{BLOCK_BYTES, Classify, PLACES, TOKEN, UsualLines, VALUE, ends, run_end};
use super::{Field, FieldList, HEADERS_MAX};
use crate::refusal::Refusal;

/// Ends of lines that are found before the lines are examined; enough for most heads. So the lengths of lines decide no
/// branch, which the processor would mispredict as often as they differ.
const AHEAD: usize = 2 * PLACES;

/// Number of blocks that are searched for them.
const BLOCKS_AHEAD: usize = 32;

/// The ends of the lines of a head, as far as they were found.
pub(super) struct Lines<'a> {
    usual: UsualLines<'a>,
    finder: Finder,
    found: [u32; AHEAD],
    found_count: usize,
}

impl<'a> Lines<'a> {
    /// Searches for the ends of the lines of the head at the start of `window`, including its request line. So this
    /// need not wait until the end of the request line is known.
    #[inline(always)]
    pub(super) fn find(classify: impl Classify, window: &'a [u8]) -> Self {
        let (mut finder, mut found) = (Finder::default(), [0; AHEAD]);
        let found_count = finder.find(classify, window, &mut found);
        Self { usual: UsualLines::of(window), finder, found, found_count }
    }

    /// Reads the header lines, which begin at `at`. Returns the position after the empty line; `None` while more is
    /// needed.
    #[inline(always)]
    pub(super) fn read(
        mut self,
        classify: impl Classify,
        window: &[u8],
        mut at: usize,
        fields: &mut FieldList,
    ) -> Result<Option<usize>, Refusal> {
        loop {
            // Kept outside of the list, since it changes with each line.
            let mut count = fields.count;
            for end in &self.found[..self.found_count] {
                let end = *end as usize;
                match (self.usual.name(classify, at, end), fields.all.get_mut(count)) {
                    (Some((name_bytes, first)), Some(place)) => {
                        let (name_start, line_end) = (at as u32, end as u32);
                        *place = Field { name_start, name_end: name_start + name_bytes as u32, line_end };
                        if may_mean(name_bytes, first) {
                            fields.mark(count);
                        }
                        count += 1;
                    }
                    // An end in the request line.
                    _ if end < at => continue,
                    _ => {
                        fields.count = count;
                        if !take_unusual(classify, window, at, end, fields) {
                            return rest(classify, window, at, fields);
                        }
                        count = fields.count;
                    }
                }
                at = end + 2;
            }
            fields.count = count;
            if window[at..].starts_with(b"\r\n") {
                return Ok(Some(at + 2));
            }
            if self.finder.at >= window.len() {
                return rest(classify, window, at, fields);
            }
            self.found_count = self.finder.find(classify, window, &mut self.found);
        }
    }
}

/// Finds the bytes that end lines: those that must not be in a value, and of several in a row the first. In a valid
/// head, that is a carriage return.
#[derive(Default)]
struct Finder {
    /// The next block.
    at: usize,
    /// The highest bit of the previous block, at the lowest bit.
    carry: u64,
    /// The same for pairs: the two highest bits.
    carry_of_pairs: u64,
}

impl Finder {
    /// Continues up to four such bytes in a row, if they are not far: there the head ends, or is invalid. Returns the
    /// number of positions found up to there.
    #[inline(always)]
    fn find(&mut self, classify: impl Classify, window: &[u8], found: &mut [u32; AHEAD]) -> usize {
        let mut count = 0;
        let (blocks, tail) = window[self.at..].as_chunks();
        for block in blocks.iter().take(BLOCKS_AHEAD) {
            let is_end = self.add(classify, !classify.unlisted(block, &VALUE), &mut count, found);
            if is_end || count > AHEAD - PLACES {
                return count;
            }
        }
        if blocks.len() < BLOCKS_AHEAD && !tail.is_empty() {
            self.add(classify, ends(classify, &VALUE, window, self.at), &mut count, found);
        }
        count
    }

    /// `value_ends` has a bit for each byte of the next block that must not be in a value. Returns whether four are in
    /// a row.
    #[inline(always)]
    fn add(&mut self, classify: impl Classify, value_ends: u64, count: &mut usize, found: &mut [u32; AHEAD]) -> bool {
        let behind_one = value_ends << 1 | self.carry;
        let pairs = value_ends & behind_one;
        let fours = pairs & (pairs << 2 | self.carry_of_pairs);
        let line_ends = value_ends & !behind_one;
        let room = found[*count..].first_chunk_mut().expect("as much as a block has places");
        classify.places(line_ends, self.at as u32, room);
        self.carry = value_ends >> (BLOCK_BYTES - 1);
        self.carry_of_pairs = pairs >> (BLOCK_BYTES - 2);
        self.at += BLOCK_BYTES;
        // Without what follows the first four, which belongs to the next head.
        let up_to_four = if fours == 0 { line_ends } else { line_ends & (fours ^ (fours - 1)) };
        *count += up_to_four.count_ones() as usize;
        fours != 0
    }
}

/// Reads the line from `at` to `end` as [`UsualLines`] does, with a name of any length. Returns whether it is a header.
#[inline(never)]
fn take_unusual(classify: impl Classify, window: &[u8], at: usize, end: usize, fields: &mut FieldList) -> bool {
    let (line, behind) = (&window[at..end], &window[end..]);
    let Some(name_bytes) = run_end(classify, &TOKEN, line) else { return false };
    let is_header = name_bytes > 0 && line[name_bytes] == b':' && behind.starts_with(b"\r\n");
    let (name_start, name_end, line_end) = (at as u32, (at + name_bytes) as u32, end as u32);
    is_header && fields.push(Field { name_start, name_end, line_end }, window)
}

/// Reads the lines from `at` on one by one, up to one that is not a header or is incomplete.
#[cold]
fn rest(
    classify: impl Classify,
    window: &[u8],
    mut at: usize,
    fields: &mut FieldList,
) -> Result<Option<usize>, Refusal> {
    loop {
        let line = &window[at..];
        match line {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => return Ok(Some(at + 2)),
            [b'\r', ..] => return Err(Refusal::HEADER_VALUE),
            [b'\n', ..] => return Err(Refusal::LINE_FEED),
            [first, ..] if TOKEN.ends(*first) => return Err(Refusal::HEADER_NAME),
            _ if fields.len() == HEADERS_MAX => return Err(Refusal::HEADERS_TOO_MANY),
            _ => {}
        }
        let Some(colon) = run_end(classify, &TOKEN, line) else { return Ok(None) };
        if line[colon] != b':' {
            return Err(Refusal::HEADER_NAME);
        }
        let Some(end) = run_end(classify, &VALUE, line) else { return Ok(None) };
        match &line[end..] {
            [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => drop(take_unusual(classify, window, at, at + end, fields)),
            [b'\n', ..] => return Err(Refusal::LINE_FEED),
            _ => return Err(Refusal::HEADER_VALUE),
        }
        at += end + 2;
    }
}
