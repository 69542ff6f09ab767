//! PEM files (RFC 7468), as programs and people write them: with text between the blocks, CRLF, headers, lines of any
//! length.
//!
//! The reader of rustls-pki-types does not report lines, skips encrypted keys silently, and leaves copies of private
//! keys in memory that it frees. So the blocks are found here.

use std::str;

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

/// Longest label that an error repeats. The longest in use has 21 characters.
const LABEL_BYTES_MAX: usize = 64;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The part between a BEGIN line and its END line.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) label: &'a str,
    /// Number of the BEGIN line; the first line of a file is 1.
    pub(crate) line: usize,
    /// A header says that the contents are encrypted (RFC 1421 section 4.6.1.1).
    pub(crate) is_encrypted: bool,
    base64: &'a [u8],
}

/// What is wrong with a PEM file as such.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A line that begins like a BEGIN line, and does not end like one.
    #[error("a BEGIN line is damaged: it must end in five dashes")]
    Begin,
    /// The block's END line is missing.
    #[error("the block {0} has no END line: is the file complete?")]
    NoEnd(String),
    /// The contents are not base64.
    #[error("the contents of the block {0} are damaged: they must be base64")]
    Base64(String),
}

/// The blocks of a file, in its order.
pub(crate) fn blocks(file: &[u8]) -> Blocks<'_> {
    Blocks { lines: Lines { rest: file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file), number: 0 } }
}

pub(crate) struct Blocks<'a> {
    lines: Lines<'a>,
}

impl<'a> Iterator for Blocks<'a> {
    /// An error comes with its line. Items after an error are meaningless.
    type Item = Result<Block<'a>, (usize, Damage)>;

    fn next(&mut self) -> Option<Self::Item> {
        let begin = self.lines.find(|line| line.starts_with(BEGIN))?;
        let line = self.lines.number;
        let Some(label) = label(begin, BEGIN) else { return Some(Err((line, Damage::Begin))) };
        Some(self.block(label, line).ok_or_else(|| (line, Damage::NoEnd(label.to_owned()))))
    }
}

impl<'a> Blocks<'a> {
    /// Reads up to the END line.
    fn block(&mut self, label: &'a str, line: usize) -> Option<Block<'a>> {
        let contents = self.lines.rest;
        let (mut headers_end, mut is_encrypted) = (0, false);
        loop {
            let before = contents.len() - self.lines.rest.len();
            let next = self.lines.next()?;
            if next.starts_with(END) {
                let base64 = &contents[headers_end..before];
                let is_of_block = self::label(next, END) == Some(label);
                return is_of_block.then_some(Block { label, line, is_encrypted, base64 });
            }
            if next.starts_with(BEGIN) {
                return None;
            }
            // A header (RFC 1421): base64 has no colon.
            if next.contains(&b':') {
                headers_end = contents.len() - self.lines.rest.len();
                is_encrypted |= next.starts_with(b"Proc-Type:") && next.ends_with(b"ENCRYPTED");
            }
        }
    }
}

impl Block<'_> {
    /// The contents, in memory that is zeroised when dropped, as are all copies of them.
    pub(crate) fn decode(&self) -> Result<Zeroizing<Vec<u8>>, Damage> {
        let mut buffer = Zeroizing::new(Vec::with_capacity(self.base64.len()));
        buffer.extend(self.base64.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let length = Base64::decode_in_place(&mut buffer).map_err(|_| Damage::Base64(self.label.to_owned()))?.len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// The label of a BEGIN or END line, if the line is complete.
fn label<'a>(line: &'a [u8], prefix: &[u8]) -> Option<&'a str> {
    let label = line.strip_prefix(prefix)?.strip_suffix(DASHES)?;
    let is_printable = label.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    if !is_printable || label.is_empty() || label.ends_with(b"-") || label.len() > LABEL_BYTES_MAX {
        return None;
    }
    str::from_utf8(label).ok()
}

/// Lines without their ends (LF, CRLF or CR) and without the white space around them.
struct Lines<'a> {
    rest: &'a [u8],
    /// The number of the last line.
    number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.strip_prefix(b"\r\n").unwrap_or(rest.get(1..).unwrap_or_default());
        self.number += 1;
        Some(line.trim_ascii())
    }
}
