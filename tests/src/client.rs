//! A plain blocking client.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use crate::PATIENCE;

/// A request that leaves the connection open.
pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Connects, with time limits for reading and writing.
///
/// # Panics
/// If it cannot connect.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Reads one HTTP answer with a Content-Length. Returns head and body.
///
/// # Errors
/// As reading from the stream; `UnexpectedEof` if the answer is incomplete.
pub fn read_answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(text);
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Sends a request on an open connection and reads the answer.
///
/// # Errors
/// As writing to and reading from the stream.
pub fn ask(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(GET)?;
    read_answer(stream)
}

/// Whether a new connection is served. A refusal or a reset is not an error here.
pub fn is_served(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) else {
        return false;
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    ask(&mut stream).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 OK\r\n"))
}

/// Checks that a new connection is served.
///
/// # Panics
/// If it is not.
pub fn assert_served(address: SocketAddr) {
    let answer = ask(&mut connect(address)).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// Reads to the end. A normal end is `Ok`, a reset an error.
///
/// # Errors
/// As reading from the stream.
pub fn read_to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A pattern without a short period, to compare what comes back with what was sent.
pub fn pattern(offset: usize, into: &mut [u8]) {
    for (index, byte) in into.iter_mut().enumerate() {
        let position = (offset + index) as u64;
        *byte = (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
}

/// Sends `total` bytes of the pattern to an echo server and checks that they come back, in order, and then the end.
///
/// # Panics
/// If they do not.
pub fn echo_pattern(address: SocketAddr, total: usize) {
    const CHUNK_BYTES: usize = 1 << 16;
    let mut stream = connect(address);
    let mut reader = stream.try_clone().expect("cloned");
    let writer = thread::spawn(move || {
        let mut bytes = vec![0; CHUNK_BYTES];
        for offset in (0..total).step_by(CHUNK_BYTES) {
            let chunk = &mut bytes[..CHUNK_BYTES.min(total - offset)];
            pattern(offset, chunk);
            stream.write_all(chunk).expect("sent");
        }
        stream.shutdown(Shutdown::Write).expect("shut down");
    });
    let (mut offset, mut buffer, mut expected) = (0, vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let count = reader.read(&mut buffer).expect("read");
        if count == 0 {
            break;
        }
        pattern(offset, &mut expected[..count]);
        assert!(buffer[..count] == expected[..count], "wrong within {count} bytes from {offset}");
        offset += count;
    }
    assert_eq!(offset, total);
    writer.join().expect("written");
}

/// Sends a request to a server that answers in lines, as redis-cli does. Returns the first line of the answer, without
/// its end.
///
/// # Panics
/// If there is no answer.
pub fn ask_line(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(format!("{request}\r\n").as_bytes()).expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    String::from_utf8(answer).expect("text").trim_end().to_owned()
}
