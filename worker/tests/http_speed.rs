//! The cost of a request, measured by hand: `cargo test --release -p batond --test http_speed -- --ignored --nocapture`
//!
//! The harness has a cost, too. So each figure is the difference to a protocol that writes as many bytes without
//! reading its input.

use std::time::Instant;

use baton::testing::Harness;
use baton::{Io, Peer, Protocol, Reject, Step};
use baton_http::HttpConfig;
use batond::http;

const ROUNDS: usize = 9;
const REQUESTS_PER_ROUND: usize = 200_000;

/// Answers any input with the same bytes.
struct Constant(Vec<u8>);

impl Protocol for Constant {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, _: &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        io.write(&self.0);
        Step::more(input.len())
    }
}

/// Nanoseconds per input: the best of several rounds, since noise only adds.
fn measure<P: Protocol>(protocol: P, inputs: &[Vec<u8>], depth: usize) -> f64 {
    let mut harness = Harness::new(protocol);
    let client = harness.open();
    let count = REQUESTS_PER_ROUND / depth;
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for at in 0..count {
            harness.send(client, &inputs[at % inputs.len()]);
            if at % 64 == 0 {
                harness.take_output(client);
            }
        }
        best = best.min(start.elapsed().as_nanos() as f64 / count as f64);
        harness.take_output(client);
    }
    best
}

fn report(name: &str, requests: &[Vec<u8>], depth: usize) {
    let inputs: Vec<Vec<u8>> = requests.iter().map(|request| request.repeat(depth)).collect();
    let server = || http::server(&HttpConfig::default());
    let mut harness = Harness::new(server());
    let client = harness.open();
    harness.send(client, &inputs[0]);
    let answer = harness.take_output(client);
    let whole = measure(server(), &inputs, depth);
    let constant = measure(Constant(answer), &inputs, depth);
    let each = (whole - constant) / depth as f64;
    println!("{name:<24} depth {depth:>2}: {each:>6.1} ns per request ({whole:.0} - {constant:.0} ns per input)");
}

/// As Firefox sends it.
fn browser(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\n\
         Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\nSec-Fetch-User: ?1\r\n\
         Priority: u=0, i\r\n\r\n"
    )
    .into_bytes()
}

#[test]
#[ignore = "measures; run it by hand in release"]
fn nanoseconds_per_request() {
    let wrk = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: text/html,application/json;q=0.9,*/*;q=0.8\r\n\
             User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nConnection: keep-alive\r\n\r\n"
        )
        .into_bytes()
    };
    let small = vec![b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()];
    let distinct: Vec<_> = (0..64).map(|at| wrk(&format!("/?{at:02}"))).collect();
    let echo = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 64\r\n\r\n";
    let echo = vec![[&echo[..], &[b'x'; 64]].concat()];
    let browser: Vec<_> = (0..64).map(|at| browser(&format!("/plaintext?id={at:02}"))).collect();
    for depth in [1, 16] {
        report("plaintext, browsers", &browser, depth);
        report("plaintext, small", &small, depth);
        report("plaintext, wrk", &[wrk("/plaintext")], depth);
        report("plaintext, four clients", &distinct[..4], depth);
        report("plaintext, all distinct", &distinct, depth);
        report("json, wrk", &[wrk("/json")], depth);
        report("echo of 64 bytes", &echo, depth);
    }
}
