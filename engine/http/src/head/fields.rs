//! The meaning of a request's headers: framing, persistence, expectation. Pure.
//!
//! Wherever two readers could disagree about where a body ends, the request is refused (RFC 9112 6.3 and 11.2).

use super::scan::{Classify, HOST, TOKEN, run_end};
use super::{Field, FieldList, Framing, Persistence};
use crate::refusal::Refusal;

/// The combined meaning of the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) framing: Framing,
    pub(crate) persistence: Persistence,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    pub(crate) is_upgrade: bool,
}

/// The meaning of the headers so far.
#[derive(Debug, Default)]
struct Reader<'a> {
    host: Option<&'a Field>,
    length: Option<u64>,
    codings: Option<Codings>,
    close: bool,
    keep_alive: bool,
    expectation: Option<&'a [u8]>,
    has_upgrade: bool,
    lists_upgrade: bool,
}

/// Whether a header may have a meaning here: the length and first letter of the name exclude nearly all others.
#[inline(always)]
pub(super) fn may_mean(name_bytes: usize, first: u8) -> bool {
    static INITIALS: [u8; 32] = {
        let mut initials = [0; 32];
        initials[4] = b'h';
        initials[6] = b'e';
        initials[7] = b'u';
        initials[10] = b'c';
        initials[14] = b'c';
        initials[17] = b't';
        initials
    };
    INITIALS[name_bytes % INITIALS.len()] == first | 0x20
}

/// Reads the headers of a request of version 1.`minor`, which lie in `window`.
#[inline(always)]
pub(super) fn read(classify: impl Classify, window: &[u8], fields: &FieldList, minor: u8) -> Result<Fields, Refusal> {
    let mut reader = Reader::default();
    for field in fields.marked() {
        reader.read(window, field)?;
    }
    match reader.host.map(|host| host.value_place(window)) {
        None if minor > 0 => return Err(Refusal::HOST_MISSING),
        // Bytes that end the line, and whitespace, also end the run, so nothing after them is read.
        Some(host) if run_end(classify, &HOST, &window[host.start..]) != Some(host.len()) => {
            return Err(Refusal::HOST_INVALID);
        }
        _ => {}
    }
    reader.finish(minor)
}

/// Whether `text`, which has no control characters, is this name of lower-case letters and hyphens, in any case. The
/// bit that makes a letter lower-case turns no other character into a letter, and only a control character into a
/// hyphen.
#[inline(always)]
fn is<const N: usize>(text: &[u8], name: &[u8; N]) -> bool {
    <&[u8; N]>::try_from(text)
        .is_ok_and(|text| text.iter().zip(name).fold(0, |other, (a, b)| other | (a | 0x20) ^ b) == 0)
}

impl<'a> Reader<'a> {
    #[inline(always)]
    fn read(&mut self, window: &'a [u8], field: &'a Field) -> Result<(), Refusal> {
        let (name, value) = (field.name(window), field.value(window));
        if is(name, b"host") {
            return self.host.replace(field).map_or(Ok(()), |_| Err(Refusal::HOST_REPEATED));
        }
        if is(name, b"connection") {
            self.read_connection(value);
            return Ok(());
        }
        self.read_rare(name, value)
    }

    #[inline]
    fn read_connection(&mut self, mut value: &[u8]) {
        if is(value, b"keep-alive") {
            self.keep_alive = true;
            return;
        }
        loop {
            let end = value.iter().position(|byte| *byte == b',').unwrap_or(value.len());
            let option = value[..end].trim_ascii();
            self.close |= is(option, b"close");
            self.keep_alive |= is(option, b"keep-alive");
            self.lists_upgrade |= is(option, b"upgrade");
            match value.get(end + 1..) {
                Some(rest) => value = rest,
                None => return,
            }
        }
    }

    #[inline(never)]
    fn read_rare(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Refusal> {
        if is(name, b"expect") {
            self.expectation = Some(value);
        } else if is(name, b"upgrade") {
            self.has_upgrade = true;
        } else if is(name, b"content-length") {
            let before = self.length.replace(decimal(value).ok_or(Refusal::LENGTH_INVALID)?);
            before.map_or(Ok(()), |_| Err(Refusal::LENGTH_REPEATED))?;
        } else if is(name, b"transfer-encoding") {
            self.codings.get_or_insert_default().add(value)?;
        }
        Ok(())
    }

    /// The meaning of all headers of a request of version 1.`minor`.
    #[inline(always)]
    fn finish(&self, minor: u8) -> Result<Fields, Refusal> {
        let framing = match (self.length, self.codings) {
            (Some(_), Some(_)) => return Err(Refusal::LENGTH_AND_ENCODING),
            (None, Some(_)) if minor == 0 => return Err(Refusal::ENCODING_BEFORE_1_1),
            (None, Some(codings)) => codings.framing()?,
            (length, None) => Framing::Length(length.unwrap_or(0)),
        };
        let persistence = match (self.close, minor) {
            (true, _) => Persistence::Close,
            (false, 0) if self.keep_alive => Persistence::KeepSaid,
            (false, 0) => Persistence::Close,
            (false, _) => Persistence::Keep,
        };
        // RFC 9110 10.1.1: an HTTP/1.0 client's expectation is ignored.
        let expects_continue = match self.expectation.filter(|_| minor > 0) {
            None => false,
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => framing != Framing::Length(0),
            Some(_) => return Err(Refusal::EXPECTATION),
        };
        let is_upgrade = self.has_upgrade && self.lists_upgrade && minor > 0;
        Ok(Fields { framing, persistence, expects_continue, is_upgrade })
    }
}

/// Only digits: `parse` would accept a sign.
fn decimal(value: &[u8]) -> Option<u64> {
    let mut number = (!value.is_empty()).then_some(0u64);
    for byte in value {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number = Some(number?.checked_mul(10)?.checked_add(digit)?);
    }
    number
}

/// All Transfer-Encoding headers of a request, read as one list.
#[derive(Clone, Copy, Debug, Default)]
struct Codings {
    has_chunked: bool,
    has_unknown: bool,
}

impl Codings {
    fn add(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for coding in value.split(|byte| *byte == b',') {
            let coding = coding.trim_ascii();
            let name = coding.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            if self.has_chunked || name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
                return Err(Refusal::ENCODING_INVALID);
            }
            if name.eq_ignore_ascii_case(b"chunked") {
                if name.len() != coding.len() {
                    return Err(Refusal::ENCODING_INVALID);
                }
                self.has_chunked = true;
            } else {
                self.has_unknown = true;
            }
        }
        Ok(())
    }

    fn framing(self) -> Result<Framing, Refusal> {
        if self.has_unknown { Err(Refusal::ENCODING_UNKNOWN) } else { Ok(Framing::Chunked) }
    }
}

/// RFC 9110 5.6.2.
#[inline]
pub(crate) fn is_token(byte: u8) -> bool {
    !TOKEN.ends(byte)
}
