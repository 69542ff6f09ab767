//! One request in, one answer out. Only requests without a body are understood.

use std::io::Write;

use serde::Serialize;

use crate::date::Date;

const HEADERS_MAX: usize = 32;

/// What the front of the input was.
pub(crate) enum Parsed {
    /// A request of that many bytes; its answer was added.
    Request { bytes: usize, is_last: bool },
    /// The beginning of one.
    Partial,
    /// Nothing to go on after: an answer that says so was added.
    Invalid,
}

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

/// Adds the answer to the first request in `input` to `output`.
pub(crate) fn answer(input: &[u8], output: &mut Vec<u8>, date: &mut Date) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let bytes = match request.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => {
            put_empty("400 Bad Request", output, date);
            return Parsed::Invalid;
        }
    };
    if request.method != Some("GET") {
        put_empty("405 Method Not Allowed", output, date);
        return Parsed::Invalid;
    }
    match request.path {
        Some("/plaintext") => put(b"text/plain", b"Hello, World!", output, date),
        Some("/json") => match serde_json::to_vec(&Message { message: "Hello, World!" }) {
            Ok(body) => put(b"application/json", &body, output, date),
            Err(_) => put_empty("500 Internal Server Error", output, date),
        },
        _ => put_empty("404 Not Found", output, date),
    }
    Parsed::Request { bytes, is_last: is_last(&request) }
}

fn is_last(request: &httparse::Request<'_, '_>) -> bool {
    let connection = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("connection"));
    match connection {
        Some(header) if request.version == Some(1) => header.value.eq_ignore_ascii_case(b"close"),
        Some(header) => !header.value.eq_ignore_ascii_case(b"keep-alive"),
        None => request.version != Some(1),
    }
}

fn put(content_type: &[u8], body: &[u8], output: &mut Vec<u8>, date: &mut Date) {
    output.extend_from_slice(b"HTTP/1.1 200 OK\r\nServer: monoio\r\nDate: ");
    output.extend_from_slice(date.text().as_bytes());
    output.extend_from_slice(b"\r\nContent-Type: ");
    output.extend_from_slice(content_type);
    output.extend_from_slice(b"\r\nContent-Length: ");
    let mut digits = itoa::Buffer::new();
    output.extend_from_slice(digits.format(body.len()).as_bytes());
    output.extend_from_slice(b"\r\n\r\n");
    output.extend_from_slice(body);
}

fn put_empty(status: &str, output: &mut Vec<u8>, date: &mut Date) {
    let text = date.text();
    // Writing to a vector cannot fail.
    let _ = write!(output, "HTTP/1.1 {status}\r\nServer: monoio\r\nDate: {text}\r\nContent-Length: 0\r\n\r\n");
}
