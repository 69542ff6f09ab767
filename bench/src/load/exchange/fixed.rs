//! Exchanges whose answers are known in advance, byte by byte: echo and RESP.

use std::io::Write as _;
use std::rc::Rc;

use crate::load::output::Output;

use super::{Progress, Read};

/// Number of different payloads. They differ from one request to the next, and from one connection to the next, so that
/// an answer that belongs to another request is detected. Each is a window into the same bytes.
pub(super) const VARIANTS: u32 = 13;

/// See the module's head.
pub(crate) struct Fixed {
    /// By key: what precedes a payload in a request, if that depends on the key.
    heads: Vec<Vec<u8>>,
    /// What follows a request's payload.
    tail: &'static [u8],
    /// Whether requests, and answers, carry the payload.
    sends_payload: bool,
    returns_payload: bool,
    answer_head: Vec<u8>,
    answer_tail: &'static [u8],
    /// Random bytes: the length of a payload plus [`VARIANTS`].
    pattern: Rc<[u8]>,
    payload_bytes: usize,
    /// The payload belongs to the key, not to the request.
    is_by_key: bool,
}

impl Fixed {
    pub(super) fn echo(payload_bytes: usize) -> Self {
        Self {
            heads: vec![Vec::new()],
            tail: b"",
            sends_payload: true,
            returns_payload: true,
            answer_head: Vec::new(),
            answer_tail: b"",
            pattern: pattern(payload_bytes),
            payload_bytes,
            is_by_key: false,
        }
    }

    pub(super) fn ping() -> Self {
        Self {
            heads: vec![b"*1\r\n$4\r\nPING\r\n".to_vec()],
            sends_payload: false,
            returns_payload: false,
            answer_head: b"+PONG\r\n".to_vec(),
            ..Self::echo(0)
        }
    }

    pub(super) fn set(payload_bytes: usize, keys: u32) -> Self {
        let head = |key| {
            let mut head = b"*3\r\n$3\r\nSET\r\n".to_vec();
            write_key(&mut head, key);
            let _ = write!(head, "${payload_bytes}\r\n");
            head
        };
        Self {
            heads: (0..keys.max(1)).map(head).collect(),
            tail: b"\r\n",
            returns_payload: false,
            answer_head: b"+OK\r\n".to_vec(),
            is_by_key: true,
            ..Self::echo(payload_bytes)
        }
    }

    pub(super) fn get(payload_bytes: usize, keys: u32) -> Self {
        let head = |key| {
            let mut head = b"*2\r\n$3\r\nGET\r\n".to_vec();
            write_key(&mut head, key);
            head
        };
        Self {
            heads: (0..keys.max(1)).map(head).collect(),
            sends_payload: false,
            answer_head: format!("${payload_bytes}\r\n").into_bytes(),
            answer_tail: b"\r\n",
            is_by_key: true,
            ..Self::echo(payload_bytes)
        }
    }

    /// The head of the request with this number, and where its payload begins.
    #[inline]
    fn choose(&self, salt: u32, number: u32) -> (usize, usize) {
        let mixed = mix(salt, number);
        let head = if self.heads.len() == 1 { 0 } else { mixed as usize % self.heads.len() };
        let variant = if self.is_by_key { head as u32 } else { mixed };
        (head, (variant % VARIANTS) as usize)
    }

    /// The whole request for a key.
    pub(super) fn request(&self, key: u32) -> Vec<u8> {
        let start = (key % VARIANTS) as usize;
        [&self.heads[key as usize], &self.pattern[start..start + self.payload_bytes], self.tail].concat()
    }

    pub(super) fn write(&self, progress: &mut Progress, salt: u32, count: u32, output: &mut impl Output) {
        for _ in 0..count {
            let (head, start) = self.choose(salt, progress.written);
            progress.written = progress.written.wrapping_add(1);
            let head = &self.heads[head];
            if !head.is_empty() {
                output.write(head);
            }
            if self.sends_payload {
                output.write_counted(&self.pattern, start..start + self.payload_bytes);
            }
            if !self.tail.is_empty() {
                output.write(self.tail);
            }
        }
    }

    pub(super) fn read(&self, progress: &mut Progress, salt: u32, awaited: u32, input: &[u8]) -> Result<Read, String> {
        let mut rest = input;
        let mut answers = 0;
        while !rest.is_empty() {
            if answers == awaited {
                return Err(format!("{} bytes more than were asked for: {}", rest.len(), excerpt(rest)));
            }
            let (_, start) = self.choose(salt, progress.read);
            let payload: &[u8] =
                if self.returns_payload { &self.pattern[start..start + self.payload_bytes] } else { &[] };
            let parts = [self.answer_head.as_slice(), payload, self.answer_tail];
            let mut skipped = progress.offset as usize;
            for part in parts {
                let wanted = &part[skipped.min(part.len())..];
                skipped -= part.len() - wanted.len();
                let count = wanted.len().min(rest.len());
                if rest[..count] != wanted[..count] {
                    let at = progress.offset;
                    return Err(format!("other bytes than expected, {at} bytes into an answer: {}", excerpt(rest)));
                }
                rest = &rest[count..];
                progress.offset += count as u64;
            }
            let whole = (self.answer_head.len() + payload.len() + self.answer_tail.len()) as u64;
            if progress.offset == whole {
                progress.offset = 0;
                progress.read = progress.read.wrapping_add(1);
                answers += 1;
            }
        }
        Ok(Read { consumed: input.len(), answers, at_least: 1, ..Read::default() })
    }
}

/// Distinguishes requests, and connections.
#[inline]
fn mix(salt: u32, number: u32) -> u32 {
    salt.wrapping_mul(7).wrapping_add(number)
}

/// Which of the [`VARIANTS`] payloads this request has.
#[inline]
pub(super) fn choose_variant(salt: u32, number: u32) -> usize {
    (mix(salt, number) % VARIANTS) as usize
}

fn write_key(head: &mut Vec<u8>, key: u32) {
    head.extend_from_slice(b"$16\r\n");
    let _ = write!(head, "key:{key:012}\r\n");
}

/// Bytes without a pattern, the same in every run (xorshift). They are printable, so that a person can read them.
pub(super) fn pattern(payload_bytes: usize) -> Rc<[u8]> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'0' + (state % 75) as u8
    };
    std::iter::repeat_with(byte).take(payload_bytes + VARIANTS as usize).collect()
}

/// The beginning of the received bytes, for a person.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes[..bytes.len().min(60)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole_answer(fixed: &Fixed, salt: u32, number: u32) -> Vec<u8> {
        let (_, start) = fixed.choose(salt, number);
        let payload = if fixed.returns_payload { &fixed.pattern[start..start + fixed.payload_bytes] } else { &[] };
        [&fixed.answer_head, payload, fixed.answer_tail].concat()
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        for fixed in [Fixed::echo(5), Fixed::get(3, 4), Fixed::set(3, 4), Fixed::ping(), Fixed::get(0, 1)] {
            let answers: Vec<u8> = (0..3).flat_map(|number| whole_answer(&fixed, 9, number)).collect();
            for cut in 0..=answers.len() {
                let mut progress = Progress::default();
                let (first, second) = answers.split_at(cut);
                let before = fixed.read(&mut progress, 9, 3, first).expect("right");
                let after = fixed.read(&mut progress, 9, 3 - before.answers, second).expect("right");
                assert_eq!(before.answers + after.answers, 3);
                assert!(!progress.is_within());
            }
        }
    }

    #[test]
    fn what_is_wrong_is_seen() {
        let fixed = Fixed::echo(16);
        let mut answer = whole_answer(&fixed, 0, 0);
        assert!(fixed.read(&mut Progress::default(), 1, 1, &answer).is_err(), "another connection's");
        let mut later = Progress { read: 1, ..Progress::default() };
        assert!(fixed.read(&mut later, 0, 1, &answer).is_err(), "another request's");
        answer[15] ^= 1;
        assert!(fixed.read(&mut Progress::default(), 0, 1, &answer).expect_err("a byte").contains("other bytes"));
        answer[15] ^= 1;
        answer.push(b'x');
        assert!(fixed.read(&mut Progress::default(), 0, 1, &answer).expect_err("more").contains("1 bytes more"));
    }
}
