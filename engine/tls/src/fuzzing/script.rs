//! Interprets bytes as the output of a client with the keys: records of every kind, and damage to them.

use rustls::ContentType;

use crate::record::{Direction, HEADER_BYTES, TAG_BYTES, sealed_bytes_tls12};
use crate::settings::Version;

/// The most records, so that each script takes little time.
const RECORDS_MAX: usize = 120;

/// The bytes on the wire, and the parts in which they arrive.
pub(super) struct Wire {
    pub(super) bytes: Vec<u8>,
    pub(super) cuts: Vec<usize>,
}

impl Wire {
    pub(super) fn of(script: &[u8], client: &mut Direction) -> Self {
        let mut script = Script { rest: script, records: Vec::new() };
        while script.records.len() < RECORDS_MAX && script.step(client).is_some() {}
        let bytes = script.records.concat();
        // The splits follow from the bytes, so that a script determines everything.
        let mut random =
            bytes.iter().fold(1_u64, |all, byte| all.wrapping_mul(0x5DEE_CE66D).wrapping_add(u64::from(*byte) + 11));
        let mut cuts = vec![0];
        let mut at = 0;
        while at < bytes.len() {
            random = random.wrapping_mul(0x5DEE_CE66D).wrapping_add(11);
            let longest = [1, 7, 40, 3000, 40_000][(random >> 20) as usize % 5];
            at = bytes.len().min(at + 1 + (random >> 32) as usize % longest);
            cuts.push(at);
        }
        Self { bytes, cuts }
    }
}

struct Script<'a> {
    rest: &'a [u8],
    records: Vec<Vec<u8>>,
}

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// The next bytes of the script, preceded by their number.
    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(self.byte()?).min(self.rest.len());
        let (part, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(part.to_vec())
    }

    /// One more record, or damage to the last one; `None` at the end of the script.
    fn step(&mut self, client: &mut Direction) -> Option<()> {
        match self.byte()? % 16 {
            0..=2 => {
                let (length, padding) = (self.byte()?, self.byte()?);
                let first = self.records.len() as u8;
                let content: Vec<u8> = (0..usize::from(length) * 8 % 700).map(|at| first ^ at as u8).collect();
                self.send(client, ContentType::ApplicationData, &content, usize::from(padding / 8));
            }
            3 | 4 => {
                let request = self.byte()? % 2;
                let message = message(client, request);
                self.send(client, ContentType::Handshake, &message, 0);
                client.update();
            }
            5 => {
                let (request, cut) = (self.byte()?, self.byte()?);
                let message = message(client, request % 2);
                let (first, second) = message.split_at(1 + usize::from(cut) % (message.len() - 1));
                self.send(client, ContentType::Handshake, first, 0);
                self.send(client, ContentType::Handshake, second, 3);
                client.update();
            }
            6 => {
                let alert =
                    [[1, 0], [2, 0], [1, 90], [2, 40], [1, 40], [3, 0], [2, 200]][usize::from(self.byte()?) % 7];
                self.send(client, ContentType::Alert, &alert, 0);
            }
            7 => {
                let (content_type, mut content) = (self.byte()? % 26, self.bytes()?);
                // rustls 0.23.46 panics when `close_notify` follows an empty handshake record.
                if ContentType::from(content_type) == ContentType::Handshake && content.is_empty() {
                    content.push(0);
                }
                self.send(client, content_type.into(), &content, 0);
            }
            8 => {
                let raw = self.bytes()?;
                self.records.push(raw);
            }
            9 => {
                let (place, bits) = (self.byte()?, self.byte()?);
                let last = self.records.last_mut().filter(|last| !last.is_empty())?;
                let at = usize::from(place) % last.len();
                last[at] ^= bits;
            }
            10 => {
                let left = usize::from(self.byte()?);
                let last = self.records.last_mut()?;
                last.truncate(left);
            }
            11 => {
                let last = self.records.last()?.clone();
                self.records.push(last);
            }
            12 => {
                let [.., before, last] = &mut self.records[..] else { return Some(()) };
                std::mem::swap(before, last);
            }
            13 => {
                let inner = (1 << 14) - 8 + usize::from(self.byte()? % 32);
                self.send(client, ContentType::ApplicationData, &vec![7; inner], 0);
            }
            14 => {
                let count = self.byte()? % 48;
                let padding = usize::from(self.byte()?);
                for _ in 0..count {
                    self.send(client, ContentType::ApplicationData, &[], padding);
                }
            }
            _ => {
                // Only padding, or nothing at all.
                let length = usize::from(self.byte()? % 4);
                self.seal(client, &vec![0; length]);
            }
        }
        Some(())
    }

    fn send(&mut self, client: &mut Direction, content_type: ContentType, content: &[u8], padding_bytes: usize) {
        if client.suite().version() == Version::Tls12 {
            let mut record = vec![0; sealed_bytes_tls12(client.suite(), content.len())];
            client.seal_tls12(content_type, content, &mut record);
            return self.records.push(record);
        }
        let mut inner = content.to_vec();
        inner.push(content_type.into());
        inner.resize(inner.len() + padding_bytes, 0);
        self.seal(client, &inner);
    }

    fn seal(&mut self, client: &mut Direction, inner: &[u8]) {
        if client.suite().version() == Version::Tls12 {
            return self.send(client, ContentType::ApplicationData, inner, 0);
        }
        let mut record = vec![0; HEADER_BYTES];
        record.extend_from_slice(inner);
        record.resize(record.len() + TAG_BYTES, 0);
        client.seal(&mut record);
        self.records.push(record);
    }
}

/// A handshake message that a client may send: a KeyUpdate, or with TLS 1.2 a ClientHello, the shortest that rustls reads.
fn message(client: &Direction, request: u8) -> Vec<u8> {
    match client.suite().version() {
        Version::Tls13 => vec![24, 0, 0, 1, request],
        Version::Tls12 => {
            let (version, random, session_id, suites, compression) = ([3, 3], [7; 32], [0], [0, 2, 0xC0, 0x2F], [1, 0]);
            let body = [&version[..], &random, &session_id, &suites, &compression].concat();
            [&[1, 0, 0, body.len() as u8][..], &body].concat()
        }
    }
}
