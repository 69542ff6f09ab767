//! The access log: a line for each answer, collected and written with few system calls.
//!
//! Text that a client has sent is escaped: no line can look like two, and none can control a terminal.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton::{AccessLog, CounterId, TimerKey, Worker};
use baton_http::{Client, Message, Record, Request, date};
use serde::Deserialize;

/// Lines are written when they have this many bytes, or after a second.
const LINES_BYTES_MAX: usize = 32 * 1024;
const LINES_WAIT_MAX: Duration = Duration::from_secs(1);

const FLUSH: TimerKey = TimerKey(0);

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// The format of this name in nginx and Apache
    Combined,
    /// One JSON object per line
    Json,
}

/// What is logged, and in which format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// The format of lines.
    pub format: AccessFormat,
    /// One in this many answers is logged.
    pub sample: u32,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self { format: AccessFormat::Combined, sample: 1 }
    }
}

/// The access log of one worker. Dropping it writes the pending lines.
#[derive(Debug)]
pub struct AccessLogger {
    config: AccessLogConfig,
    log: AccessLog,
    /// Number of answers to skip before the next one that is logged.
    skipped_next: u32,
    lines: Vec<u8>,
    stamp: Stamp,
    has_timer: bool,
    lost: u64,
    lost_counter: CounterId,
}

impl AccessLogger {
    /// `None` if the server has no access log.
    pub fn new(config: &AccessLogConfig, worker: &mut Worker<'_, Message>) -> Option<Self> {
        Some(Self {
            config: config.clone(),
            log: worker.access_log()?,
            skipped_next: 0,
            lines: Vec::new(),
            stamp: Stamp::default(),
            has_timer: false,
            lost: 0,
            lost_counter: worker.counter("access_log_lines_lost"),
        })
    }

    /// Logs an answer.
    pub fn add(&mut self, record: &Record<'_>) {
        if let Some(left) = self.skipped_next.checked_sub(1) {
            self.skipped_next = left;
            return;
        }
        self.skipped_next = self.config.sample.saturating_sub(1);
        self.stamp.set(SystemTime::now());
        match self.config.format {
            AccessFormat::Combined => combined(&mut self.lines, &self.stamp, record),
            AccessFormat::Json => json(&mut self.lines, &self.stamp, record),
        }
        if self.lines.len() >= LINES_BYTES_MAX {
            self.write();
        }
    }

    /// Handles the end of a turn of the worker's loop.
    pub fn end_turn(&mut self, worker: &mut Worker<'_, Message>) {
        if !self.lines.is_empty() && !self.has_timer {
            self.has_timer = true;
            worker.set_timer(FLUSH, LINES_WAIT_MAX);
        }
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            worker.add(self.lost_counter, lost);
        }
    }

    /// Writes lines that have waited for long enough.
    pub fn on_timer(&mut self, key: TimerKey) {
        if key == FLUSH {
            self.has_timer = false;
            self.write();
        }
    }

    fn write(&mut self) {
        self.lost += self.log.append(&self.lines);
        self.lines.clear();
    }
}

impl Drop for AccessLogger {
    fn drop(&mut self) {
        self.write();
    }
}

/// A time in UTC, formatted once per second.
#[derive(Debug, Default)]
struct Stamp {
    since: Duration,
    /// `06/Nov/1994:08:49:37 +0000`.
    of_combined: String,
    /// `1994-11-06T08:49:37`.
    of_json: String,
}

impl Stamp {
    fn set(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.since.as_secs() || self.of_json.is_empty() {
            // `Sun, 06 Nov 1994 08:49:37 GMT`; times after the year 9999 are not formatted.
            let text = date::format(time).map(|date| date.to_string()).unwrap_or_default();
            let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or("-");
            let (day, month, year, clock) = (part(5..7), part(8..11), part(12..16), part(17..25));
            let number = MONTHS.iter().position(|name| *name == month).map_or(0, |index| index + 1);
            self.of_combined = format!("{day}/{month}/{year}:{clock} +0000");
            self.of_json = format!("{year}-{number:02}-{day}T{clock}");
        }
        self.since = since;
    }
}

/// `127.0.0.1 - - [06/Nov/1994:08:49:37 +0000] "GET / HTTP/1.1" 200 13 "referer" "agent"`.
fn combined(lines: &mut Vec<u8>, stamp: &Stamp, record: &Record<'_>) {
    let Record { request, peer, status, body_bytes, .. } = record;
    put(lines, format_args!("{} - - [{}] \"", Address(*peer), stamp.of_combined));
    match request {
        Some(request) => {
            put(lines, format_args!("{} ", request.method()));
            escape_hexadecimal(lines, request.target().as_bytes());
            put(lines, format_args!(" HTTP/1.{}", request.minor_version()));
        }
        None => lines.push(b'-'),
    }
    put(lines, format_args!("\" {} {body_bytes} \"", status.as_u16()));
    escape_hexadecimal(lines, header(*request, "referer").unwrap_or(b"-"));
    lines.extend_from_slice(b"\" \"");
    escape_hexadecimal(lines, header(*request, "user-agent").unwrap_or(b"-"));
    lines.extend_from_slice(b"\"\n");
}

fn json(lines: &mut Vec<u8>, stamp: &Stamp, record: &Record<'_>) {
    let Record { request, peer, status, body_bytes, took } = record;
    put(lines, format_args!("{{\"time\":\"{}.{:03}Z\"", stamp.of_json, stamp.since.subsec_millis()));
    let peer = peer.map(|peer| peer.to_string());
    string(lines, "remote_addr", peer.as_deref().map(str::as_bytes));
    string(lines, "method", request.map(|request| request.method().name().as_bytes()));
    string(lines, "target", request.map(|request| request.target().as_bytes()));
    let protocol = request.map(|request| if request.minor_version() == 0 { "HTTP/1.0" } else { "HTTP/1.1" });
    string(lines, "protocol", protocol.map(str::as_bytes));
    let took_us = took.as_micros();
    put(lines, format_args!(",\"status\":{},\"body_bytes\":{body_bytes},\"took_us\":{took_us}", status.as_u16()));
    string(lines, "referer", header(*request, "referer"));
    string(lines, "user_agent", header(*request, "user-agent"));
    lines.extend_from_slice(b"}\n");
}

struct Address(Option<Client>);

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(client) => client.fmt(formatter),
            None => formatter.write_char('-'),
        }
    }
}

fn header<'r>(request: Option<&Request<'r>>, name: &str) -> Option<&'r [u8]> {
    request?.header(name)
}

fn put(lines: &mut Vec<u8>, arguments: fmt::Arguments<'_>) {
    let written: io::Result<()> = lines.write_fmt(arguments);
    debug_assert!(written.is_ok(), "memory takes every byte");
}

/// Escapes as nginx does: quotes, backslashes, and everything except printable ASCII as `\x22`.
fn escape_hexadecimal(lines: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' | b'\\' => put(lines, format_args!("\\x{byte:02X}")),
            b' '..=b'~' => lines.push(*byte),
            _ => put(lines, format_args!("\\x{byte:02X}")),
        }
    }
}

/// A field of a JSON object, `null` without a value. Bytes that are not UTF-8 become U+FFFD.
fn string(lines: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    put(lines, format_args!(",\"{name}\":"));
    let Some(value) = value else { return lines.extend_from_slice(b"null") };
    lines.push(b'"');
    for character in String::from_utf8_lossy(value).chars() {
        match character {
            '"' | '\\' => lines.extend_from_slice(&[b'\\', character as u8]),
            character if character.is_control() => put(lines, format_args!("\\u{:04x}", u32::from(character))),
            character => put(lines, format_args!("{character}")),
        }
    }
    lines.push(b'"');
}

#[cfg(test)]
mod tests {
    use baton_http::StatusCode;

    use super::*;

    fn stamp() -> Stamp {
        let mut stamp = Stamp::default();
        stamp.set(UNIX_EPOCH + Duration::from_millis(784_111_777_042));
        stamp
    }

    fn lines(format: fn(&mut Vec<u8>, &Stamp, &Record<'_>), peer: Option<Client>) -> String {
        let (status, took) = (StatusCode::BAD_REQUEST, Duration::from_micros(1_500));
        let mut lines = Vec::new();
        format(&mut lines, &stamp(), &Record { request: None, peer, status, body_bytes: 7, took });
        String::from_utf8(lines).expect("text")
    }

    #[test]
    fn a_request_that_nobody_understood_has_a_line() {
        let internet = |address: &str| Some(Client::Internet(address.parse().expect("an address")));
        let expected = "10.0.0.1 - - [06/Nov/1994:08:49:37 +0000] \"-\" 400 7 \"-\" \"-\"\n";
        assert_eq!(lines(combined, internet("10.0.0.1:80")), expected);
        assert_eq!(lines(combined, internet("[::ffff:10.0.0.1]:80")), expected);
        let of_unix = "unix: - - [06/Nov/1994:08:49:37 +0000] \"-\" 400 7 \"-\" \"-\"\n";
        assert_eq!(lines(combined, Some(Client::Unix)), of_unix);
        assert!(lines(json, Some(Client::Unix)).contains("\"remote_addr\":\"unix:\""));
        let expected = "{\"time\":\"1994-11-06T08:49:37.042Z\",\"remote_addr\":null,\"method\":null,\"target\":null,\
            \"protocol\":null,\"status\":400,\"body_bytes\":7,\"took_us\":1500,\"referer\":null,\"user_agent\":null}\n";
        assert_eq!(lines(json, None), expected);
    }

    #[test]
    fn text_of_clients_is_one_line_and_steers_nothing() {
        let hostile = b"a\" \\ \n\r\t\x1b[31m\x7f\xff\xc3\xa4";
        let mut escaped = Vec::new();
        escape_hexadecimal(&mut escaped, hostile);
        let expected = r"a\x22 \x5C \x0A\x0D\x09\x1B[31m\x7F\xFF\xC3\xA4";
        assert_eq!(String::from_utf8(escaped).expect("text"), expected);
        let mut object = b"{\"a\":1".to_vec();
        string(&mut object, "b", Some(hostile));
        object.push(b'}');
        assert!(!object.iter().any(|byte| byte.is_ascii_control()));
        let read: serde_json::Value = serde_json::from_slice(&object).expect("JSON");
        assert_eq!(read["b"], String::from_utf8_lossy(hostile).as_ref());
    }
}
