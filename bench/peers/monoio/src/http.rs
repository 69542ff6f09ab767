//! Reads one request and writes one answer. Small bodies are read whole; those of uploads are left to be counted.

use std::io::Write;

use serde::Serialize;

use crate::arena::{self, Arena, Content};
use crate::date::Date;

const HEADERS_MAX: usize = 32;

/// The request at the front of the input.
pub(crate) enum Parsed {
    /// A request of this many bytes; its answer was added.
    Request { bytes: usize, is_last: bool },
    /// The head of an upload, and the number of bytes that follow. Count them and answer with [`put_count`].
    Upload { bytes: usize, body_bytes: u64 },
    /// The beginning of a request.
    Partial,
    /// An invalid request, after which the connection cannot continue; an answer that says so was added.
    Invalid,
}

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

/// How the end of a body is found.
enum Framing {
    Length(u64),
    Chunked,
}

/// Adds the answer to the first request in `input` to `output`.
pub(crate) fn answer(input: &[u8], output: &mut Vec<u8>, date: &mut Date, arena: &Arena) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return refuse("400 Bad Request", output, date),
    };
    let Some(framing) = framing(&request) else { return refuse("400 Bad Request", output, date) };
    let target = request.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_last = is_last(&request);
    if let (Some("POST"), "/upload", Framing::Length(body_bytes)) = (request.method, path, &framing) {
        return Parsed::Upload { bytes: head_bytes, body_bytes: *body_bytes };
    }
    let (body, body_bytes) = match body(framing, &input[head_bytes..]) {
        Some(Ok(body)) => body,
        Some(Err(())) => return refuse("400 Bad Request", output, date),
        None => return Parsed::Partial,
    };
    match (request.method, path) {
        (Some("GET"), "/plaintext") => put(b"text/plain", None, b"Hello, World!", output, date),
        (Some("GET"), "/json") => match serde_json::to_vec(&Message { message: "Hello, World!" }) {
            Ok(body) => put(b"application/json", None, &body, output, date),
            Err(_) => put_empty("500 Internal Server Error", output, date),
        },
        (Some("GET"), "/pipeline") => put(b"text/plain", None, b"ok", output, date),
        (Some("GET" | "POST"), "/baseline11") => match arena::sum(query, &body) {
            Some(sum) => put_count(sum, output, date),
            None => put_empty("400 Bad Request", output, date),
        },
        (Some("GET"), path) => {
            let accept_encoding = value(&request, "accept-encoding").unwrap_or_default();
            if let Some(count) = path.strip_prefix("/json/") {
                put_content(arena.items_for(count, query, accept_encoding), output, date);
            } else if let Some(name) = path.strip_prefix("/static/") {
                put_content(arena.file(name, accept_encoding), output, date);
            } else {
                put_empty("404 Not Found", output, date);
            }
        }
        _ => return refuse("405 Method Not Allowed", output, date),
    }
    Parsed::Request { bytes: head_bytes + body_bytes, is_last }
}

fn value<'b>(request: &httparse::Request<'_, 'b>, name: &str) -> Option<&'b [u8]> {
    let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    header.map(|header| header.value)
}

/// `None` if it is invalid.
fn framing(request: &httparse::Request<'_, '_>) -> Option<Framing> {
    if let Some(coding) = value(request, "transfer-encoding") {
        return coding.eq_ignore_ascii_case(b"chunked").then_some(Framing::Chunked);
    }
    match value(request, "content-length") {
        Some(length) => std::str::from_utf8(length).ok()?.parse().ok().map(Framing::Length),
        None => Some(Framing::Length(0)),
    }
}

/// A body and how many bytes of the input it uses; `None` if it is incomplete.
fn body(framing: Framing, input: &[u8]) -> Option<Result<(Vec<u8>, usize), ()>> {
    match framing {
        Framing::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            input.get(..length).map(|body| Ok((body.to_vec(), length)))
        }
        Framing::Chunked => {
            let (mut body, mut used) = (Vec::new(), 0);
            loop {
                let (head_bytes, size) = match httparse::parse_chunk_size(&input[used..]) {
                    Ok(httparse::Status::Complete(chunk)) => chunk,
                    Ok(httparse::Status::Partial) => return None,
                    Err(_) => return Some(Err(())),
                };
                let start = used + head_bytes;
                let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
                let line_end = input.get(end..end.saturating_add(2))?;
                // Trailers are not supported.
                if line_end != b"\r\n" {
                    return Some(Err(()));
                }
                body.extend_from_slice(&input[start..end]);
                used = end + 2;
                if size == 0 {
                    return Some(Ok((body, used)));
                }
            }
        }
    }
}

fn is_last(request: &httparse::Request<'_, '_>) -> bool {
    match value(request, "connection") {
        Some(value) if request.version == Some(1) => value.eq_ignore_ascii_case(b"close"),
        Some(value) => !value.eq_ignore_ascii_case(b"keep-alive"),
        None => request.version != Some(1),
    }
}

/// Adds an answer that is a number.
pub(crate) fn put_count(count: u64, output: &mut Vec<u8>, date: &mut Date) {
    put(b"text/plain", None, itoa::Buffer::new().format(count).as_bytes(), output, date);
}

fn put_content<B: AsRef<[u8]>>(content: Option<Content<B>>, output: &mut Vec<u8>, date: &mut Date) {
    match content {
        Some(Content { content_type, encoding, body }) => {
            put(content_type.as_bytes(), encoding, body.as_ref(), output, date);
        }
        None => put_empty("404 Not Found", output, date),
    }
}

fn put(content_type: &[u8], encoding: Option<&str>, body: &[u8], output: &mut Vec<u8>, date: &mut Date) {
    output.extend_from_slice(b"HTTP/1.1 200 OK\r\nServer: monoio\r\nDate: ");
    output.extend_from_slice(date.text().as_bytes());
    output.extend_from_slice(b"\r\nContent-Type: ");
    output.extend_from_slice(content_type);
    if let Some(encoding) = encoding {
        output.extend_from_slice(b"\r\nContent-Encoding: ");
        output.extend_from_slice(encoding.as_bytes());
    }
    output.extend_from_slice(b"\r\nContent-Length: ");
    let mut digits = itoa::Buffer::new();
    output.extend_from_slice(digits.format(body.len()).as_bytes());
    output.extend_from_slice(b"\r\n\r\n");
    output.extend_from_slice(body);
}

fn refuse(status: &str, output: &mut Vec<u8>, date: &mut Date) -> Parsed {
    put_empty(status, output, date);
    Parsed::Invalid
}

fn put_empty(status: &str, output: &mut Vec<u8>, date: &mut Date) {
    let text = date.text();
    // Writing to a vector cannot fail.
    let _ = write!(output, "HTTP/1.1 {status}\r\nServer: monoio\r\nDate: {text}\r\nContent-Length: 0\r\n\r\n");
}
