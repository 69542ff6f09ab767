//! Clients of every kind, and their load while the server changes.

use std::net::SocketAddr;

use baton_tests::client::{GET, pattern};
use baton_tests::fleet::{ALL, Class, Fleet};
use baton_tests::stream::{Stream, Trust};

/// Length of a body that is split anywhere.
const BODY_BYTES: usize = 3_000;

/// Length of a request that is sent back at full speed.
const STREAM_BYTES: usize = 256 * 1024;

/// Bytes that queue for a slow reader: more than the kernel takes, so that the server holds some of them.
const SLOW_AHEAD_BYTES: u64 = 12 << 20;

/// Bytes by which each round raises the limit of split requests: not a divisor of any request's length.
const CUT_BYTES: u64 = 1_237;

/// Bytes by which each round raises the limit of slow readers.
const SLOW_BYTES: u64 = 100_003;

/// Number of clients of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) idle: usize,
    pub(crate) cut: usize,
    pub(crate) pipelining: usize,
    pub(crate) streaming: usize,
    pub(crate) slow: usize,
}

impl Counts {
    pub(crate) const FEW: Self = Self { idle: 100, cut: 50, pipelining: 10, streaming: 2, slow: 3 };

    pub(crate) const fn all(self) -> usize {
        self.idle + self.cut + self.pipelining + self.streaming + self.slow
    }
}

/// Connected clients of one server.
pub(crate) struct Crowd {
    fleet: Fleet,
}

fn post(bytes: usize) -> Vec<u8> {
    let mut body = vec![0; bytes];
    pattern(0, &mut body);
    let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n");
    [head.as_bytes(), &body].concat()
}

impl Crowd {
    /// Clients of the HTTP server.
    pub(crate) fn http(address: SocketAddr, counts: Counts) -> Self {
        Self::https(address, counts, None)
    }

    /// Clients of the HTTP server, with TLS if `tls` is given.
    pub(crate) fn https(address: SocketAddr, counts: Counts, tls: Option<&Trust>) -> Self {
        let answer_bytes = |request: &[u8], body: usize| {
            let mut stream = Stream::connect(address, tls);
            std::io::Write::write_all(&mut stream, request).expect("sent");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                std::io::Read::read_exact(&mut stream, &mut byte).expect("an answer");
                head.push(byte[0]);
            }
            head.len() + body
        };
        let (cut, stream) = (post(BODY_BYTES), post(STREAM_BYTES));
        let class = |name, count, request: &[u8], body| {
            Class::new(name, count, address, tls.cloned(), request, answer_bytes(request, body))
        };
        let plain = "Hello, World!".len();
        Self::start(
            address,
            counts,
            class("idle", counts.idle, GET, plain),
            class("cut", counts.cut, &cut, BODY_BYTES),
            class("pipelining", counts.pipelining, GET, plain),
            class("streaming", counts.streaming, &stream, STREAM_BYTES),
        )
    }

    /// Clients of a server that sends back what it gets.
    pub(crate) fn echo(address: SocketAddr, counts: Counts) -> Self {
        let mut bytes = vec![0; STREAM_BYTES];
        pattern(0, &mut bytes);
        let class = |name, count, length: usize| Class::new(name, count, address, None, &bytes[..length], length);
        Self::start(
            address,
            counts,
            class("idle", counts.idle, 10),
            class("cut", counts.cut, BODY_BYTES),
            class("pipelining", counts.pipelining, 64),
            class("streaming", counts.streaming, STREAM_BYTES),
        )
    }

    /// Clients of a server that answers `request` with this many bytes.
    pub(crate) fn of_lines(address: SocketAddr, counts: Counts, request: &[u8], answer_bytes: usize) -> Self {
        let class = |name, count, times: usize| {
            Class::new(name, count, address, None, &request.repeat(times), answer_bytes * times)
        };
        Self::start(
            address,
            counts,
            class("idle", counts.idle, 1),
            class("cut", counts.cut, 1),
            class("pipelining", counts.pipelining, 1),
            class("streaming", counts.streaming, 100),
        )
    }

    fn start(
        address: SocketAddr,
        counts: Counts,
        idle: Class,
        cut: Class,
        pipelining: Class,
        streaming: Class,
    ) -> Self {
        let idle = Class { write: idle.request.len() as u64, ..idle };
        let cut = Class { write: 0, ..cut };
        let pipelining = Class { ahead: 16 * pipelining.ahead, ..pipelining };
        let streaming = Class { ahead: 4 << 20, ..streaming };
        let slow = Class { name: "slow", count: counts.slow, ahead: SLOW_AHEAD_BYTES, read: 0, ..streaming.clone() };
        assert!(idle.read == ALL, "nobody but slow readers is slow");
        let fleet = Fleet::start(address, vec![idle, cut, pipelining, streaming, slow]);
        fleet.wait_for_answers("idle");
        Self { fleet }
    }

    /// The load between two changes: some of every kind, and some of it is left unfinished.
    pub(crate) fn round(&self) {
        let fleet = &self.fleet;
        let before = ["pipelining", "streaming"].map(|class| fleet.progress(class));
        fleet.allow("cut", CUT_BYTES);
        fleet.allow_reading("slow", SLOW_BYTES);
        fleet.wait_for_answers("cut");
        for (class, before, bytes) in [("pipelining", before[0], 1_000), ("streaming", before[1], 1_000_000)] {
            fleet.wait_for(class, before + bytes);
        }
        fleet.assert_whole();
    }

    /// Asserts that no client has failed.
    pub(crate) fn check(&self) {
        self.fleet.assert_whole();
    }

    /// Bytes that came back to streaming clients.
    pub(crate) fn streamed(&self) -> u64 {
        self.fleet.progress("streaming")
    }

    /// From now on connections may end, but clients must not read anything wrong.
    pub(crate) fn tolerate(&self) {
        self.fleet.tolerate();
    }

    /// The failures so far.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.fleet.failures()
    }

    /// Idle clients send another request, slow ones read on. Asserts that no client has failed, unless that is
    /// tolerated.
    pub(crate) fn finish(self, idle_request_bytes: usize) {
        self.fleet.allow("idle", idle_request_bytes as u64);
        self.fleet.wait_for_answers("idle");
        let before = self.fleet.progress("slow");
        self.fleet.allow_reading("slow", 4 << 20);
        self.fleet.wait_for("slow", before + self.fleet.living("slow") * (4 << 20));
        self.fleet.assert_whole();
    }
}
