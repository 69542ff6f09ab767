//! The chunked transfer coding as a state machine over bytes (RFC 9112 7.1). Pure, and stricter than the RFC's advice
//! to recipients: it refuses whatever two readers could interpret differently.
//!
//! Invariant: its output depends on the bytes alone, never on how they were split.

use serde::{Deserialize, Serialize};

use crate::head::fields::is_token;
use crate::refusal::Refusal;

/// More than sixteen hexadecimal digits do not fit into 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

/// The most bytes of all chunk extensions of one body, with the whitespace before them. They carry nothing, so a client
/// must not be able to keep a server reading with them.
const EXTENSION_BYTES_MAX: u32 = 16 * 1024;

/// The most bytes of all trailers of one body.
const TRAILER_BYTES_MAX: u32 = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Size,
    /// Whitespace after the size; an extension must follow.
    SizeSpace,
    /// After a semicolon.
    ExtensionStart,
    ExtensionName,
    /// Whitespace after the name.
    ExtensionNameSpace,
    /// After the equals sign.
    ExtensionValueStart,
    ExtensionToken,
    ExtensionQuoted,
    /// After a backslash in quotes.
    ExtensionEscaped,
    /// After the quotes, or whitespace after the value.
    ExtensionEnd,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    EndLineFeed,
    Ended,
}

impl State {
    fn is_extension(self) -> bool {
        use State::*;
        matches!(self, SizeSpace | ExtensionStart | ExtensionName | ExtensionNameSpace | ExtensionValueStart)
            || matches!(self, ExtensionToken | ExtensionQuoted | ExtensionEscaped | ExtensionEnd)
    }
}

/// See the module's head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Chunked {
    state: State,
    digits: u8,
    extension_bytes: u32,
    trailer_bytes: u32,
    /// The chunk's size while it is read, then the number of missing data bytes.
    size: u64,
    /// How many bytes the body may still grow.
    room: u64,
}

impl Chunked {
    /// A decoder for a body of at most `body_bytes_max`.
    pub(crate) fn new(body_bytes_max: u64) -> Self {
        Self { state: State::Size, digits: 0, extension_bytes: 0, trailer_bytes: 0, size: 0, room: body_bytes_max }
    }

    /// The most data bytes that may still come; `None` if `decode` cannot have reached this state, which another worker
    /// has frozen.
    pub(crate) fn most_to_come(&self) -> Option<u64> {
        let is_within_bounds = self.digits <= SIZE_DIGITS_MAX
            && self.extension_bytes <= EXTENSION_BYTES_MAX
            && self.trailer_bytes <= TRAILER_BYTES_MAX;
        let has_digits_of_size = self.size.checked_shr(4 * u32::from(self.digits)).unwrap_or(0) == 0;
        let is_size_sound = match self.state {
            State::Size => has_digits_of_size,
            state if state.is_extension() => self.digits > 0 && self.extension_bytes > 0 && has_digits_of_size,
            State::SizeLineFeed => self.digits > 0 && has_digits_of_size,
            State::Data => self.digits == 0 && self.size > 0,
            _ => self.digits == 0 && self.size == 0,
        };
        let of_chunk = if self.state == State::Data { self.size } else { 0 };
        self.room.checked_add(of_chunk).filter(|_| is_within_bounds && is_size_sound)
    }

    /// Whether the body is complete.
    pub(crate) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Consumes input up to the end of the body, or all of it, and returns how many bytes that was. Data goes to
    /// `sink`.
    pub(crate) fn decode(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < input.len() && self.state != State::Ended {
            if self.state == State::Data {
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(input.len() - at);
                sink(&input[at..at + count]);
                at += count;
                self.size -= count as u64;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
            } else if let Some(count) = self.usual_lines(&input[at..])? {
                at += count;
            } else {
                self.state = self.step(input[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// Consumes what usually lies between two pieces of data, a CRLF and a size, if it is complete: the same as
    /// [`Self::step`] byte by byte. Returns how many bytes that was.
    #[inline]
    fn usual_lines(&mut self, input: &[u8]) -> Result<Option<usize>, Refusal> {
        let start = match self.state {
            State::DataReturn if input.starts_with(b"\r\n") => 2,
            State::Size if self.digits == 0 => 0,
            _ => return Ok(None),
        };
        let (mut size, mut at) = (0, start);
        while at < start + usize::from(SIZE_DIGITS_MAX)
            && let Some(digit) = input.get(at).and_then(|byte| char::from(*byte).to_digit(16))
        {
            size = size << 4 | u64::from(digit);
            at += 1;
        }
        if at == start || input.get(at..at + 2) != Some(b"\r\n") {
            return Ok(None);
        }
        self.size = size;
        self.state = self.begin_chunk()?;
        Ok(Some(at + 2))
    }

    fn step(&mut self, byte: u8) -> Result<State, Refusal> {
        Ok(match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < SIZE_DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.size = self.size << 4 | u64::from(digit);
                self.digits += 1;
                State::Size
            }
            (State::Size, b';' | b' ' | b'\t') if self.digits > 0 => self.extension(byte)?,
            (State::Size, b'\r') if self.digits > 0 => State::SizeLineFeed,
            (State::Size, b'\n') if self.digits > 0 => return Err(Refusal::CHUNK_FRAMING),
            (State::Size, _) => return Err(Refusal::CHUNK_SIZE),
            (state, _) if state.is_extension() => self.extension(byte)?,
            (State::SizeLineFeed, b'\n') => self.begin_chunk()?,
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size,
            (State::SizeLineFeed | State::DataReturn | State::DataLineFeed, _) => return Err(Refusal::CHUNK_FRAMING),
            (State::TrailerStart, b'\r') => State::EndLineFeed,
            (State::EndLineFeed, b'\n') => State::Ended,
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::TrailerStart | State::TrailerName | State::TrailerValue, _) => self.trailer(byte)?,
            (State::TrailerLineFeed | State::EndLineFeed, _) => return Err(Refusal::TRAILER),
            _ => unreachable!("handled above, or by the caller"),
        })
    }

    /// The grammar of chunk extensions (RFC 9112 7.1.1). Whitespace before the CRLF is also accepted, but only after an
    /// extension.
    fn extension(&mut self, byte: u8) -> Result<State, Refusal> {
        use State::*;
        let next = match (self.state, byte) {
            (ExtensionName | ExtensionNameSpace | ExtensionToken | ExtensionEnd, b'\r') => return Ok(SizeLineFeed),
            (SizeSpace, b'\n') => return Err(Refusal::CHUNK_SIZE),
            (_, b'\n') => return Err(Refusal::CHUNK_FRAMING),
            (Size | SizeSpace, b' ' | b'\t') => SizeSpace,
            (Size | SizeSpace, b';') => ExtensionStart,
            (SizeSpace, _) => return Err(Refusal::CHUNK_SIZE),
            (ExtensionStart | ExtensionValueStart, b'\r') => return Err(Refusal::CHUNK_EXTENSION_SYNTAX),
            (_, 0..=0x08 | 0x0b..=0x1f | 0x7f) => return Err(Refusal::CHUNK_EXTENSION),
            (ExtensionQuoted, b'"') => ExtensionEnd,
            (ExtensionQuoted, b'\\') => ExtensionEscaped,
            (ExtensionQuoted | ExtensionEscaped, _) => ExtensionQuoted,
            (ExtensionName | ExtensionNameSpace | ExtensionToken | ExtensionEnd, b';') => ExtensionStart,
            (ExtensionName | ExtensionNameSpace, b'=') => ExtensionValueStart,
            (ExtensionName | ExtensionNameSpace, b' ' | b'\t') => ExtensionNameSpace,
            (ExtensionToken | ExtensionEnd, b' ' | b'\t') => ExtensionEnd,
            (ExtensionStart | ExtensionValueStart, b' ' | b'\t') => self.state,
            (ExtensionStart | ExtensionName, _) if is_token(byte) => ExtensionName,
            (ExtensionValueStart | ExtensionToken, _) if is_token(byte) => ExtensionToken,
            (ExtensionValueStart, b'"') => ExtensionQuoted,
            _ => return Err(Refusal::CHUNK_EXTENSION_SYNTAX),
        };
        if self.extension_bytes == EXTENSION_BYTES_MAX {
            return Err(Refusal::CHUNK_EXTENSION);
        }
        self.extension_bytes += 1;
        Ok(next)
    }

    fn begin_chunk(&mut self) -> Result<State, Refusal> {
        self.digits = 0;
        if self.size == 0 {
            return Ok(State::TrailerStart);
        }
        self.room = self.room.checked_sub(self.size).ok_or(Refusal::BODY_TOO_LARGE)?;
        Ok(State::Data)
    }

    /// Trailers are skipped, but their syntax is checked: otherwise an attacker's next request might hide in one.
    fn trailer(&mut self, byte: u8) -> Result<State, Refusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(Refusal::TRAILERS_TOO_LARGE);
        }
        match (self.state, byte) {
            (State::TrailerStart | State::TrailerName, byte) if is_token(byte) => Ok(State::TrailerName),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLineFeed),
            _ => Err(Refusal::TRAILER),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frozen_counts_beyond_their_bounds_are_refused() {
        let sound = Chunked::new(BODY_BYTES_MAX);
        assert_eq!(sound.most_to_come(), Some(BODY_BYTES_MAX));
        let impossible = [
            Chunked { state: State::TrailerName, trailer_bytes: u32::MAX, ..sound.clone() },
            Chunked { extension_bytes: EXTENSION_BYTES_MAX + 1, ..sound.clone() },
            Chunked { digits: SIZE_DIGITS_MAX + 1, ..sound.clone() },
            Chunked { state: State::Data, size: 0, ..sound.clone() },
            Chunked { state: State::Size, digits: 0, size: 5, ..sound.clone() },
            Chunked { state: State::Size, digits: 2, size: 256, ..sound.clone() },
            Chunked { state: State::SizeLineFeed, digits: 0, ..sound.clone() },
            Chunked { state: State::ExtensionQuoted, digits: 1, extension_bytes: 0, ..sound.clone() },
            Chunked { state: State::ExtensionEnd, digits: 0, extension_bytes: 1, ..sound.clone() },
            Chunked { state: State::TrailerStart, size: 5, ..sound.clone() },
            Chunked { state: State::Data, size: 5, room: u64::MAX, ..sound },
        ];
        for chunked in impossible {
            assert_eq!(chunked.most_to_come(), None, "{chunked:?}");
        }
    }

    const BODY_BYTES_MAX: u64 = 64;

    /// A whole body, read line by line; `None` if it is invalid or incomplete.
    fn naive(mut input: &[u8]) -> Option<(Vec<u8>, usize)> {
        let total = input.len();
        let mut body = Vec::new();
        loop {
            let line = take_line(&mut input)?;
            let (digits, extensions) = line.split_at(length_of(line, |byte| byte.is_ascii_hexdigit()));
            if digits.is_empty() || digits.len() > 16 || !are_extensions(extensions) {
                return None;
            }
            let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
            if size == 0 {
                break;
            }
            if (body.len() as u64).checked_add(size as u64)? > BODY_BYTES_MAX || input.len() < size + 2 {
                return None;
            }
            body.extend_from_slice(&input[..size]);
            input = input[size..].strip_prefix(b"\r\n")?;
        }
        loop {
            let line = take_line(&mut input)?;
            if line.is_empty() {
                return Some((body, total - input.len()));
            }
            let colon = line.iter().position(|byte| *byte == b':')?;
            if colon == 0 || !line[..colon].iter().all(|byte| is_token(*byte)) {
                return None;
            }
        }
    }

    fn length_of(text: &[u8], is_part: impl Fn(u8) -> bool) -> usize {
        text.iter().position(|byte| !is_part(*byte)).unwrap_or(text.len())
    }

    /// What lies between the size and CRLF, by the grammar; whitespace may end it if it is not all.
    fn are_extensions(mut text: &[u8]) -> bool {
        let skip = |text: &mut &[u8], is_part: fn(u8) -> bool| {
            let length = length_of(text, is_part);
            *text = &text[length..];
            length
        };
        let is_space = |byte| byte == b' ' || byte == b'\t';
        while !text.is_empty() {
            skip(&mut text, is_space);
            let Some(rest) = text.strip_prefix(b";") else { return false };
            text = rest;
            skip(&mut text, is_space);
            if skip(&mut text, is_token) == 0 {
                return false;
            }
            skip(&mut text, is_space);
            let Some(rest) = text.strip_prefix(b"=") else { continue };
            text = rest;
            skip(&mut text, is_space);
            if let Some(mut quoted) = text.strip_prefix(b"\"") {
                text = loop {
                    match quoted {
                        [b'\\', _, rest @ ..] => quoted = rest,
                        [b'"', rest @ ..] => break rest,
                        [_, rest @ ..] => quoted = rest,
                        [] => return false,
                    }
                };
            } else if skip(&mut text, is_token) == 0 {
                return false;
            }
            skip(&mut text, is_space);
        }
        true
    }

    #[test]
    fn extensions_are_checked_by_their_grammar() {
        let outcome = |extensions: &str| decode(&[format!("1{extensions}\r\nx\r\n0\r\n\r\n").as_bytes()]);
        let taken = |extensions: &str| Ok(Some((b"x".to_vec(), extensions.len() + b"1\r\nx\r\n0\r\n\r\n".len())));
        for extensions in [
            ";a",
            ";a=b",
            " ;a=b",
            "\t; a = b",
            ";a;b;c",
            ";a=\"b;\\\"=\"",
            ";a=\"\"",
            ";a=\"b\" ;c",
            ";a=\"\u{e9}\t\" ",
            ";a ",
        ] {
            assert_eq!(outcome(extensions), taken(extensions), "{extensions}");
        }
        for extensions in [
            ";",
            "; ",
            ";;a",
            ";a;",
            ";a=",
            ";a= ",
            ";=b",
            ";bad[=x",
            ";a=b c",
            ";a b",
            ";a=\"b\"c",
            ";a=b\"c\"",
            ";\u{e9}",
        ] {
            assert_eq!(outcome(extensions), Err(Refusal::CHUNK_EXTENSION_SYNTAX), "{extensions}");
        }
        for extensions in [" ", " a", " =a", "\t"] {
            assert_eq!(outcome(extensions), Err(Refusal::CHUNK_SIZE), "{extensions}");
        }
        for extensions in [";a=\"b", ";a=\"b\\", ";a\x7f", ";\0", ";a=\x1f"] {
            assert_eq!(outcome(extensions), Err(Refusal::CHUNK_EXTENSION), "{extensions}");
        }
        assert_eq!(outcome(&" ".repeat(EXTENSION_BYTES_MAX as usize + 1)), Err(Refusal::CHUNK_EXTENSION));
    }

    /// A line without its CRLF and without control characters.
    fn take_line<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
        let end = input.windows(2).position(|two| two == b"\r\n")?;
        let (line, rest) = input.split_at(end);
        *input = &rest[2..];
        line.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)).then_some(line)
    }

    fn decode(parts: &[&[u8]]) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
        let mut chunked = Chunked::new(BODY_BYTES_MAX);
        let mut body = Vec::new();
        let mut taken = 0;
        for part in parts {
            taken += chunked.decode(part, |data| body.extend_from_slice(data))?;
        }
        Ok(chunked.has_ended().then_some((body, taken)))
    }

    /// Mostly well formed, sometimes with a changed byte.
    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let extensions = prop::sample::select(vec!["", "", " ;a", ";", ";a=\"b\" ", "; a = \"\\\"\";b", ";a=b"]);
        let chunk =
            (prop::collection::vec(any::<u8>(), 1..20), 0..4usize, extensions).prop_map(|(data, zeros, extension)| {
                let mut chunk = format!("{}{:x}{extension}\r\n", "0".repeat(zeros), data.len()).into_bytes();
                chunk.extend_from_slice(&data);
                chunk.extend_from_slice(b"\r\n");
                chunk
            });
        let end = prop::sample::select(vec!["0\r\n\r\n", "0\r\n\r\nGET /", "000;x\r\nA: b\r\nC:\r\n\r\n", "0\r\n", ""]);
        let change = prop::option::weighted(0.4, (any::<prop::sample::Index>(), any::<u8>()));
        (prop::collection::vec(chunk, 0..6), end, change).prop_map(|(chunks, end, change)| {
            let mut body = chunks.concat();
            body.extend_from_slice(end.as_bytes());
            if let Some((place, byte)) = change.filter(|_| !body.is_empty()) {
                let place = place.index(body.len());
                body[place] = byte;
            }
            body
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_naive_decoder_however_it_is_cut(input in bodies(), sizes in prop::collection::vec(1..9usize, 0..30)) {
            let whole = decode(&[&input]);
            prop_assert_eq!(whole.clone().ok().flatten(), naive(&input), "{}", input.escape_ascii());
            let mut parts = Vec::new();
            let mut rest = &input[..];
            for size in sizes {
                let (part, behind) = rest.split_at(size.min(rest.len()));
                parts.push(part);
                rest = behind;
            }
            parts.push(rest);
            prop_assert_eq!(&decode(&parts), &whole);
        }
    }
}
