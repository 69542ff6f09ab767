//! What the headers of a request mean: framing, persistence, expectation. Pure.
//!
//! Wherever two readers could disagree about where a body ends, the request is refused (RFC 9112 6.3 and 11.2).

use httparse::Header;

use super::{Framing, Persistence};
use crate::refusal::Refusal;

/// What the headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) framing: Framing,
    pub(crate) persistence: Persistence,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    pub(crate) is_upgrade: bool,
}

/// Reads the headers of a request of version 1.`minor`.
pub(crate) fn read(headers: &[Header<'_>], minor: u8) -> Result<Fields, Refusal> {
    let mut host = None;
    let mut length = None;
    let mut codings = None;
    let mut close = false;
    let mut keep_alive = false;
    let mut expectation = None;
    let (mut has_upgrade, mut lists_upgrade) = (false, false);
    for Header { name, value } in headers {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // The length tells most headers apart before any is compared.
        match name.len() {
            4 if is("host") && host.replace(*value).is_some() => return Err(Refusal::HOST_REPEATED),
            6 if is("expect") => expectation = Some(*value),
            10 if is("connection") => {
                for option in value.split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    lists_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            7 if is("upgrade") => has_upgrade = true,
            14 if is("content-length") => {
                let before = length.replace(decimal(value).ok_or(Refusal::LENGTH_INVALID)?);
                before.map_or(Ok(()), |_| Err(Refusal::LENGTH_REPEATED))?;
            }
            17 if is("transfer-encoding") => codings.get_or_insert_with(Codings::default).add(value)?,
            _ => {}
        }
    }
    match host {
        None if minor > 0 => return Err(Refusal::HOST_MISSING),
        Some(host) if !is_host(host) => return Err(Refusal::HOST_INVALID),
        _ => {}
    }
    let framing = match (length, codings) {
        (Some(_), Some(_)) => return Err(Refusal::LENGTH_AND_ENCODING),
        (None, Some(_)) if minor == 0 => return Err(Refusal::ENCODING_BEFORE_1_1),
        (None, Some(codings)) => codings.framing()?,
        (length, None) => Framing::Length(length.unwrap_or(0)),
    };
    let persistence = match (close, minor) {
        (true, _) => Persistence::Close,
        (false, 0) if keep_alive => Persistence::KeepSaid,
        (false, 0) => Persistence::Close,
        (false, _) => Persistence::Keep,
    };
    // RFC 9110 10.1.1: an HTTP/1.0 client's expectation is ignored.
    let expects_continue = match expectation.filter(|_| minor > 0) {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => framing != Framing::Length(0),
        Some(_) => return Err(Refusal::EXPECTATION),
    };
    let is_upgrade = has_upgrade && lists_upgrade && minor > 0;
    Ok(Fields { framing, persistence, expects_continue, is_upgrade })
}

/// Strictly digits: `parse` would take a sign.
fn decimal(value: &[u8]) -> Option<u64> {
    let mut number = (!value.is_empty()).then_some(0u64);
    for byte in value {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number = Some(number?.checked_mul(10)?.checked_add(digit)?);
    }
    number
}

/// Whether every character may stand in a host or a port (RFC 3986 3.2.2). May be empty.
fn is_host(value: &[u8]) -> bool {
    static HOST: [bool; 256] = alphanumeric_and(b"-._~!$&'()*+;=%:[]");
    value.iter().all(|byte| HOST[usize::from(*byte)])
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
    static TOKEN: [bool; 256] = alphanumeric_and(b"!#$%&'*+-.^_`|~");
    TOKEN[usize::from(byte)]
}

const fn alphanumeric_and(others: &[u8]) -> [bool; 256] {
    let mut set = [false; 256];
    let mut byte = 0;
    while byte < set.len() {
        set[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        set[others[at] as usize] = true;
        at += 1;
    }
    set
}
