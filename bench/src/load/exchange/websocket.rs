//! WebSocket (RFC 6455) as a client whose binary messages are echoed. Pure.

use std::rc::Rc;

use crate::load::output::Output;

use super::fixed::{VARIANTS, choose_variant, excerpt, pattern};
use super::head::{HEADERS_MAX, parse};
use super::{Progress, Read};
use crate::random::Random;

/// The key of RFC 6455, section 1.3, and the server's required answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The last (here only) frame of a binary message: section 5.2.
const FINAL_BINARY: u8 = 0x82;

/// Marks a frame as masked, as each frame of a client must be: section 5.3.
const MASKED: u8 = 0x80;

/// See the module's head.
pub(crate) struct WebSocket {
    handshake: Vec<u8>,
    /// One frame for each variant of the payload, as it is sent and as it must come back.
    frames: Vec<Rc<[u8]>>,
    answers: Vec<Vec<u8>>,
}

impl WebSocket {
    pub(super) fn new(path: &str, payload_bytes: usize) -> Self {
        let pattern = pattern(payload_bytes);
        let payload = |variant: u32| &pattern[variant as usize..variant as usize + payload_bytes];
        let mut random = Random::new(u64::from(VARIANTS));
        let masked = (0..VARIANTS).map(|variant| frame(payload(variant), Some((random.next() as u32).to_be_bytes())));
        Self {
            handshake: format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            .into_bytes(),
            frames: masked.map(Into::into).collect(),
            answers: (0..VARIANTS).map(|variant| frame(payload(variant), None)).collect(),
        }
    }

    /// Messages that cannot be sent yet are written when the server has accepted.
    pub(super) fn write(&self, progress: &mut Progress, salt: u32, count: u32, output: &mut impl Output) {
        if !progress.is_upgraded {
            if progress.deferred == 0 {
                output.write(&self.handshake);
            }
            progress.deferred += count;
            return;
        }
        for _ in 0..count {
            let frame = &self.frames[choose_variant(salt, progress.written)];
            output.write_counted(frame, 0..frame.len());
            progress.written = progress.written.wrapping_add(1);
        }
    }

    pub(super) fn read(&self, progress: &mut Progress, salt: u32, awaited: u32, input: &[u8]) -> Result<Read, String> {
        let mut read = Read { at_least: 1, ..Read::default() };
        if !progress.is_upgraded {
            let Some(bytes) = agreed(input)? else { return Ok(read) };
            progress.is_upgraded = true;
            read.is_upgraded = true;
            read.consumed = bytes;
        }
        // Messages that have not been sent have no answer.
        let awaited = awaited - progress.deferred;
        while read.consumed < input.len() {
            let rest = &input[read.consumed..];
            if read.answers == awaited {
                return Err(format!("{} bytes more than were asked for: {}", rest.len(), excerpt(rest)));
            }
            let answer = &self.answers[choose_variant(salt, progress.read)];
            let wanted = &answer[progress.offset as usize..];
            let count = wanted.len().min(rest.len());
            if rest[..count] != wanted[..count] {
                return Err(format!(
                    "other bytes than expected, {} bytes into a frame: {}",
                    progress.offset,
                    excerpt(rest)
                ));
            }
            read.consumed += count;
            progress.offset += count as u64;
            if count == wanted.len() {
                progress.offset = 0;
                progress.read = progress.read.wrapping_add(1);
                read.answers += 1;
            }
        }
        Ok(read)
    }
}

/// A message in one frame, its payload masked if there is a key.
fn frame(payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mask = if key.is_some() { MASKED } else { 0 };
    let mut frame = vec![FINAL_BINARY];
    match payload.len() {
        length @ 0..=125 => frame.push(mask | length as u8),
        length @ 126..=0xFFFF => {
            frame.push(mask | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(mask | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&key.unwrap_or_default()[..if key.is_some() { 4 } else { 0 }]);
    let key = key.unwrap_or_default();
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// The length of the answer with which a server accepts; `None` if it is incomplete.
fn agreed(input: &[u8]) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let Some((bytes, response)) = parse(input, &mut headers)? else { return Ok(None) };
    let accept = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-accept"));
    if response.code != Some(101) || accept.is_none_or(|header| header.value != ACCEPT) {
        return Err(format!("the server does not agree to speak WebSocket: {}", excerpt(input)));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn frames_are_those_of_the_standard() {
        // RFC 6455, section 5.7, except that it is binary: "Hello" unmasked and masked, 256 bytes, 64 KiB.
        assert_eq!(frame(b"Hello", None), b"\x82\x05Hello");
        let masked = frame(b"Hello", Some([0x37, 0xfa, 0x21, 0x3d]));
        assert_eq!(masked, [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!(frame(&[0; 125], None)[..2], [0x82, 125]);
        assert_eq!(frame(&[0; 126], None)[..4], [0x82, 126, 0, 126]);
        assert_eq!(frame(&[0; 256], None)[..4], [0x82, 126, 1, 0]);
        assert_eq!(frame(&[0; 65_535], None)[..4], [0x82, 126, 255, 255]);
        assert_eq!(frame(&[0; 65_536], None)[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(frame(&[0; 126], Some([1; 4])).len(), 2 + 2 + 4 + 126);
    }

    #[test]
    fn what_is_sent_unmasked_is_what_must_come_back() {
        let socket = WebSocket::new("/ws", 200);
        for (sent, answer) in socket.frames.iter().zip(&socket.answers) {
            let (key, masked) = sent[4..].split_at(4);
            let payload: Vec<u8> = masked.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert_eq!((sent[1], answer[1], &answer[4..]), (MASKED | 126, 126, payload.as_slice()));
        }
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let socket = WebSocket::new("/ws", 40);
        let frames: Vec<u8> = (0..3).flat_map(|number| socket.answers[choose_variant(9, number)].clone()).collect();
        let text = [AGREED.as_bytes(), &frames].concat();
        for cut in 0..=text.len() {
            let mut progress = Progress { deferred: 3, ..Progress::default() };
            let (mut answers, mut waiting, mut upgrades) = (0, Vec::new(), 0);
            for piece in [
                &text[..cut.min(AGREED.len())],
                &text[cut.min(AGREED.len())..AGREED.len().max(cut)],
                &text[AGREED.len().max(cut)..],
            ] {
                waiting.extend_from_slice(piece);
                let read = socket.read(&mut progress, 9, 3 - answers, &waiting).expect("right");
                waiting.drain(..read.consumed);
                answers += read.answers;
                upgrades += u32::from(read.is_upgraded);
                // As the client does when it writes them.
                progress.deferred = if progress.is_upgraded { 0 } else { 3 };
            }
            assert_eq!((answers, upgrades, waiting.len()), (3, 1, 0), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_good_answer_is_wrong() {
        let socket = WebSocket::new("/ws", 40);
        let mut progress = Progress::default();
        for head in
            ["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 101 X\r\nSec-WebSocket-Accept: x\r\n\r\n"]
        {
            assert!(socket.read(&mut progress, 0, 1, head.as_bytes()).expect_err(head).contains("agree"));
        }
        progress.is_upgraded = true;
        let mut answer = socket.answers[choose_variant(0, 0)].clone();
        assert!(socket.read(&mut progress.clone(), 0, 0, &answer).expect_err("not asked").contains("more than"));
        answer[10] ^= 1;
        assert!(socket.read(&mut progress.clone(), 0, 1, &answer).expect_err("a bit").contains("other bytes"));
        answer[10] ^= 1;
        answer[0] = 0x88;
        assert!(socket.read(&mut progress.clone(), 0, 1, &answer).is_err(), "a frame that closes");
    }
}
