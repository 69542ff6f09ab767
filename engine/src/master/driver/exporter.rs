//! Metrics over HTTP, served by the master itself. It has the numbers; a separate process would need supervision, and a
//! handover at each change of masters.
//!
//! Nothing here waits, and a client gets little: there are few clients at a time, each with a short request, one
//! answer, and a few seconds. At most one answer is created between two looks at everything else, so that no number of
//! clients delays a reload.
//!
//! An upgrade passes the listener to the new master, and both have it. The master that has the names serves.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use nix::poll::PollFlags;

use super::Master;
use super::world::Driver;
use crate::ipc::control::MetricsFormat;
use crate::sys::clock::monotonic_ns;

/// Number of clients at the same time.
const CLIENTS_MAX: usize = 8;

/// Clients that are accepted between two looks at everything else.
const ACCEPTS_MAX: usize = 16;

/// Longest head of a request.
const REQUEST_BYTES_MAX: usize = 4096;

/// Pause after accepting failed, as when there is no free descriptor.
const PAUSE_MS: u64 = 100;

/// Time from the connection to the end of the answer.
const CLIENT_MS_MAX: u64 = 5_000;

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Metrics {
        format: MetricsFormat,
        /// `false` for `HEAD`: the answer has no body.
        with_body: bool,
    },
    /// A request that gets this status as its answer.
    Other(&'static str),
}

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How many bytes of the output have been sent.
    sent: usize,
    /// The answer exists: further input is dropped.
    is_answered: bool,
    until_ns: u64,
}

/// The clients of the listener for metrics.
#[derive(Default)]
pub(super) struct Exporter {
    /// In the order of their arrival.
    clients: Vec<Client>,
    /// No client is accepted until this time of CLOCK_MONOTONIC.
    paused_until_ns: Option<u64>,
}

impl Exporter {
    /// Descriptors to poll, each with the awaited events.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let awaited = |client: &Client| if client.is_answered { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        self.clients.iter().map(move |client| (client.stream.as_fd(), awaited(client)))
    }

    /// When the next client is dropped, or accepting begins again, on CLOCK_MONOTONIC.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        self.clients.iter().map(|client| client.until_ns).chain(self.paused_until_ns).min()
    }

    /// Whether there is room for another client, or a silent one can be closed to make room.
    fn has_room(&self) -> bool {
        self.paused_until_ns.is_none()
            && (self.clients.len() < CLIENTS_MAX || self.clients.iter().any(|client| !client.is_answered))
    }

    /// Accepts a waiting client. The oldest one without a request makes room.
    fn accept(&mut self, listener: &TcpListener, now_ns: u64) -> bool {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Without a pause, the poll would continue to report the waiting client.
                let is_nobody = error.kind() == io::ErrorKind::WouldBlock;
                self.paused_until_ns = (!is_nobody).then_some(now_ns + PAUSE_MS * 1_000_000);
                return false;
            }
        };
        if stream.set_nonblocking(true).is_err() {
            return true;
        }
        if self.clients.len() >= CLIENTS_MAX {
            let Some(oldest) = self.clients.iter().position(|client| !client.is_answered) else { return false };
            drop(self.clients.remove(oldest));
        }
        let until_ns = now_ns + CLIENT_MS_MAX * 1_000_000;
        let (input, output) = (Vec::new(), Vec::new());
        self.clients.push(Client { stream, input, output, sent: 0, is_answered: false, until_ns });
        true
    }

    /// Reads and writes what is possible, up to the first client that requests metrics. Returns its index and its
    /// request.
    fn turn(&mut self, now_ns: u64) -> Option<(usize, MetricsFormat, bool)> {
        self.paused_until_ns = self.paused_until_ns.filter(|until_ns| *until_ns > now_ns);
        let mut index = 0;
        while index < self.clients.len() {
            let client = &mut self.clients[index];
            let is_there = client.until_ns > now_ns && client.turn();
            match client.asked().filter(|_| is_there) {
                Some(Asked::Metrics { format, with_body }) => return Some((index, format, with_body)),
                Some(Asked::Other(status)) => {
                    client.answer(status, "text/plain; charset=utf-8", format!("{status}\n").as_bytes(), true);
                }
                None if is_there => index += 1,
                None => drop(self.clients.remove(index)),
            }
        }
        None
    }
}

impl Client {
    /// Returns `false` if the client has its answer, has disconnected, or sends something invalid.
    fn turn(&mut self) -> bool {
        self.read() && self.write()
    }

    fn read(&mut self) -> bool {
        let mut buffer = [0; 1024];
        // Bytes after the request are read up to the length that a request may have.
        for _ in 0..2 * REQUEST_BYTES_MAX / buffer.len() {
            if !self.is_answered && self.input.len() > REQUEST_BYTES_MAX {
                return true;
            }
            match self.stream.read(&mut buffer) {
                // The client may have closed its half of the connection and still wait for the answer.
                Ok(0) => return self.is_answered || is_whole(&self.input),
                Ok(count) if !self.is_answered => self.input.extend_from_slice(&buffer[..count]),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Returns `false` if everything is sent.
    fn write(&mut self) -> bool {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.is_answered {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        !self.is_answered
    }

    fn asked(&self) -> Option<Asked> {
        if self.is_answered {
            return None;
        }
        if is_whole(&self.input) {
            Some(parse(&self.input))
        } else {
            let is_long = self.input.len() > REQUEST_BYTES_MAX;
            is_long.then_some(Asked::Other("431 Request Header Fields Too Large"))
        }
    }

    fn answer(&mut self, status: &str, content_type: &str, body: &[u8], with_body: bool) {
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
            body.len()
        );
        self.output = head.into_bytes();
        if with_body {
            self.output.extend_from_slice(body);
        }
        self.input = Vec::new();
        self.is_answered = true;
    }
}

/// Whether the head of a request is complete.
fn is_whole(input: &[u8]) -> bool {
    input.windows(4).any(|end| end == b"\r\n\r\n") || input.windows(2).any(|end| end == b"\n\n")
}

/// Parses the head of a request.
fn parse(input: &[u8]) -> Asked {
    let Ok(text) = std::str::from_utf8(input) else { return Asked::Other("400 Bad Request") };
    let mut lines = text.lines();
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = first[..] else { return Asked::Other("400 Bad Request") };
    if !version.starts_with("HTTP/1.") {
        return Asked::Other("400 Bad Request");
    }
    if target.split('?').next() != Some("/metrics") {
        return Asked::Other("404 Not Found");
    }
    if !matches!(method, "GET" | "HEAD") {
        return Asked::Other("405 Method Not Allowed");
    }
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let accepts = headers.filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    let accepts = accepts.map(|(_, value)| value.to_ascii_lowercase()).collect::<Vec<_>>().join(",");
    let wants_text = accepts.contains("text/plain") && !accepts.contains("application/openmetrics-text");
    let format = if wants_text { MetricsFormat::Prometheus } else { MetricsFormat::OpenMetrics };
    Asked::Metrics { format, with_body: method == "GET" }
}

impl Driver<'_> {
    /// The listener for metrics of the serving generation.
    pub(super) fn metrics_listener(&self) -> Option<Rc<TcpListener>> {
        self.configurations.get(self.serving?).ok()?.metrics.clone()
    }

    /// Whether this master accepts clients at the listener for metrics.
    pub(super) fn is_exporting(&self) -> bool {
        self.has_names && self.exporter.has_room()
    }
}

impl Master<'_> {
    pub(super) fn serve_metrics(&mut self) {
        let now_ns = monotonic_ns();
        if let Some(listener) = self.driver.metrics_listener() {
            for _ in 0..ACCEPTS_MAX {
                // Serve clients with a request first, before they would have to make room.
                if self.serve_one(now_ns) || !self.driver.is_exporting() {
                    return;
                }
                if !self.driver.exporter.accept(&listener, now_ns) {
                    break;
                }
            }
        }
        self.serve_one(now_ns);
    }

    /// Returns `true` if a client got metrics.
    fn serve_one(&mut self, now_ns: u64) -> bool {
        let Some((index, format, with_body)) = self.driver.exporter.turn(now_ns) else { return false };
        // The same as before a status is shown.
        let counted = self.driver.tell_totals();
        self.hear_masters();
        let text = self.status(&counted).metrics(format);
        let client = &mut self.driver.exporter.clients[index];
        client.answer("200 OK", format.content_type(), text.as_bytes(), with_body);
        if !client.write() {
            self.driver.exporter.clients.remove(index);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(exporter: &mut Exporter, listener: &TcpListener) -> TcpStream {
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        assert!(exporter.accept(listener, 0));
        stream
    }

    fn listener() -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("set");
        listener
    }

    #[test]
    fn requests_are_what_they_say() {
        let get = |rest: &str| parse(format!("GET /metrics HTTP/1.1\r\n{rest}\r\n").as_bytes());
        let metrics = |format| Asked::Metrics { format, with_body: true };
        assert_eq!(get(""), metrics(MetricsFormat::OpenMetrics));
        assert_eq!(get("Accept: */*\r\n"), metrics(MetricsFormat::OpenMetrics));
        assert_eq!(get("ACCEPT: text/plain;version=0.0.4\r\n"), metrics(MetricsFormat::Prometheus));
        let both = "accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
        assert_eq!(get(both), metrics(MetricsFormat::OpenMetrics));
        let other = |text: &[u8]| match parse(text) {
            Asked::Other(status) => &status[..3],
            Asked::Metrics { .. } => "200",
        };
        let texts: [&[u8]; 7] = [
            b"GET /metrics?x=1 HTTP/1.0\n\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\n\r\n",
            b"GET /metrics HTTP/2.0\r\n\r\n",
            b"GET  /metrics HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
            b"\xff\xfe\r\n\r\n",
        ];
        assert_eq!(texts.map(other), ["200", "404", "405", "400", "400", "400", "400"]);
    }

    #[test]
    fn whoever_says_nothing_makes_room_and_is_dropped_in_time() {
        let (listener, mut exporter) = (listener(), Exporter::default());
        let silent: Vec<_> = (0..3 * CLIENTS_MAX).map(|_| pair(&mut exporter, &listener)).collect();
        assert_eq!((exporter.clients.len(), exporter.has_room()), (CLIENTS_MAX, true));
        assert!(exporter.turn(1).is_none());
        assert_eq!(exporter.clients.len(), CLIENTS_MAX);
        let mut asking = pair(&mut exporter, &listener);
        asking.write_all(b"HEAD /metrics HTTP/1.1\r\n\r\n").expect("sent");
        assert_eq!(exporter.turn(1), Some((CLIENTS_MAX - 1, MetricsFormat::OpenMetrics, false)));
        assert!(exporter.turn(exporter.deadline_ns().expect("there are some")).is_none());
        assert!(exporter.clients.is_empty());
        drop(silent);
    }

    #[test]
    fn a_request_without_end_is_refused_and_who_does_not_read_is_dropped() {
        let (listener, mut exporter) = (listener(), Exporter::default());
        let mut endless = pair(&mut exporter, &listener);
        endless.write_all(&[b'x'; REQUEST_BYTES_MAX + 1]).expect("sent");
        while !exporter.clients.is_empty() {
            assert!(exporter.turn(1).is_none());
        }
        let mut text = String::new();
        endless.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
        let mut stuck = pair(&mut exporter, &listener);
        stuck.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("sent");
        let (index, ..) = exporter.turn(1).expect("it asks");
        exporter.clients[index].answer("200 OK", "text/plain", &vec![b'x'; 32 << 20], true);
        assert!(exporter.turn(1).is_none() && exporter.clients.len() == 1);
        assert!(exporter.turn(CLIENT_MS_MAX * 1_000_000).is_none() && exporter.clients.is_empty());
    }
}
