//! Servers of a few lines, and the results of `baton-bench run` for them.

use std::io::{Read, Write};
use std::process::Output;

use serde_json::Value;

pub(crate) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 5\r\n\r\nhello";

pub(crate) fn result(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// The kinds of failures that were reported.
pub(crate) fn kinds(result: &Value) -> Vec<&str> {
    let failures = result["failures"].as_object().expect("failures");
    failures.iter().filter(|(_, count)| count.as_u64() != Some(0)).map(|(kind, _)| kind.as_str()).collect()
}

/// Reads a GET request. Returns `false` at the end.
pub(crate) fn read_request(stream: &mut impl Read) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

pub(crate) fn serve_well(mut stream: impl Read + Write, _: usize) {
    while read_request(&mut stream) && stream.write_all(ANSWER).is_ok() {}
}

/// Accepts a WebSocket, and sends each message of up to 125 bytes back. If `is_wrong`, it sends a different one from
/// the third on.
pub(crate) fn serve_socket(mut stream: impl Read + Write, is_wrong: bool) {
    if !read_request(&mut stream) {
        return;
    }
    let agreed = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(agreed).expect("sent");
    for number in 0.. {
        let mut head = [0; 6];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        assert_eq!((head[0], head[1] & 0x80), (0x82, 0x80), "binary, and masked");
        let mut payload = vec![0; usize::from(head[1] & 0x7F)];
        stream.read_exact(&mut payload).expect("a payload");
        let mask = &head[2..];
        assert_ne!(mask, [0; 4]);
        payload.iter_mut().enumerate().for_each(|(index, byte)| *byte ^= mask[index % 4]);
        payload[0] ^= u8::from(is_wrong && number > 1);
        if stream.write_all(&[&[0x82, head[1] & 0x7F], payload.as_slice()].concat()).is_err() {
            return;
        }
    }
}
