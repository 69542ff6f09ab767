//! Behaviour over time and under pressure: time-outs, slow readers, draining, limits; and that splits do not change an
//! answer.

use std::time::Duration;

use baton::CloseReason;
use baton::config::{Limits, Timeouts};
use baton::testing::{Client, Harness, output_of_all_splits};
use baton_http::{Http, HttpConfig};
use batond::http::{self, Site};
use proptest::prelude::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn server(change: impl FnOnce(&mut HttpConfig)) -> Http<Site> {
    let mut config = HttpConfig::default();
    change(&mut config);
    http::server(&config)
}

fn open() -> (Harness<Http<Site>>, Client) {
    let mut harness = Harness::new(server(|_| {}));
    let client = harness.open();
    (harness, client)
}

fn text(harness: &mut Harness<Http<Site>>, client: Client) -> String {
    String::from_utf8(harness.take_output(client)).expect("answers here are text")
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn cuts_change_nothing() {
    let mixes: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET \
          POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\n\r\n\r\n0\r\nA: b\r\n\r\n\
          HEAD /json HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"\r\nGET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n\r\n\
          POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc\
          GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\n\
          GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for mix in mixes {
        assert!(output_of_all_splits(|| server(|_| {}), mix).starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}

#[test]
fn bounds_fall_on_the_same_byte_however_a_head_is_cut() {
    let head = |padding: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(padding)).into_bytes();
    let small = || server(|config| config.head_bytes_max = 100);
    let fits = head(100 - head(0).len());
    assert_eq!(fits.len(), 100);
    assert!(output_of_all_splits(small, &fits).starts_with(b"HTTP/1.1 200"));
    assert!(output_of_all_splits(small, &head(101 - head(0).len())).starts_with(b"HTTP/1.1 431"));
    let small = || server(|config| config.target_bytes_max = 3);
    assert!(output_of_all_splits(small, b"GET /ab HTTP/1.1\r\nHost: a\r\n\r\n").starts_with(b"HTTP/1.1 404"));
    assert!(output_of_all_splits(small, b"GET /abc HTTP/1.1\r\nHost: a\r\n\r\n").starts_with(b"HTTP/1.1 414"));
    let small = || server(|config| config.body_bytes_max = 3);
    let chunks = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n";
    assert!(output_of_all_splits(small, &[&chunks[..], b"0\r\n\r\n"].concat()).starts_with(b"HTTP/1.1 200"));
    assert!(output_of_all_splits(small, &[&chunks[..], b"1\r\nd\r\n"].concat()).starts_with(b"HTTP/1.1 413"));
}

#[test]
fn a_large_body_comes_back_as_it_was() {
    let body: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    let (mut harness, client) = open();
    harness
        .send(client, format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    for part in body.chunks(16 * 1024 - 1) {
        harness.send(client, part);
    }
    harness.send(client, GET);
    let output = harness.take_output(client);
    let start = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert!(output[start..].starts_with(&body));
    assert!(output[start + body.len()..].starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[test]
fn half_a_head_times_out_with_408() {
    let (mut harness, client) = open();
    harness.send(client, b"GET / HTTP/1.1\r\nHo");
    harness.advance(Duration::from_millis(9_900));
    assert_eq!(text(&mut harness, client), "");
    harness.advance(Duration::from_millis(200));
    let answer = text(&mut harness, client);
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"));
    assert!(harness.saw_end(client));
    harness.finish(client);
    assert_eq!(harness.closed(client), Some(CloseReason::MessageTimeout));
}

#[test]
fn half_a_head_of_head_times_out_without_a_body() {
    let (mut harness, client) = open();
    harness.send(client, b"HEAD / HTTP/1.1\r\nHo");
    harness.advance(Duration::from_millis(10_100));
    let answer = text(&mut harness, client);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn half_a_body_times_out_with_408_however_it_trickles() {
    let (mut harness, client) = open();
    harness.send(client, b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    for _ in 0..29 {
        harness.advance(Duration::from_secs(1));
        harness.send(client, b"x");
    }
    assert_eq!(text(&mut harness, client), "");
    harness.advance(Duration::from_millis(1_100));
    assert!(text(&mut harness, client).starts_with("HTTP/1.1 408 "));
    assert!(harness.saw_end(client));
}

#[test]
fn a_body_without_a_bound_of_its_own_ends_with_the_idle_time() {
    let mut harness = Harness::new(server(|config| config.body_ms = 0));
    let client = harness.open();
    harness.send(client, b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nxx");
    harness.advance(Duration::from_secs(76));
    let answer = text(&mut harness, client);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("\r\n\r\n"), "no body for HEAD: {answer}");
}

#[test]
fn the_timer_of_a_body_that_came_harms_nobody() {
    let (mut harness, client) = open();
    harness.send(client, b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx");
    harness.send(client, b"y");
    assert!(text(&mut harness, client).ends_with("\r\n\r\nxy"));
    harness.advance(Duration::from_secs(40));
    harness.send(client, GET);
    assert!(text(&mut harness, client).starts_with("HTTP/1.1 200 "));
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let (mut harness, client) = open();
    harness.send(client, GET);
    assert!(text(&mut harness, client).starts_with("HTTP/1.1 200 "));
    harness.advance(Duration::from_secs(76));
    assert_eq!(text(&mut harness, client), "");
    assert!(harness.saw_end(client));
}

#[test]
fn a_head_beyond_the_engines_bound_is_431() {
    let limits = Limits { message_bytes_max: 64, ..Limits::default() };
    let mut harness = Harness::with(server(|_| {}), limits, Timeouts::default());
    let client = harness.open();
    harness.send(client, &[b"GET / HTTP/1.1\r\nHost: a\r\nX: ", &[b'x'; 100][..]].concat());
    assert!(text(&mut harness, client).starts_with("HTTP/1.1 431 "));
}

#[test]
fn the_date_follows_the_clock() {
    let (mut harness, client) = open();
    for second in 37..60 {
        for _ in 0..2 {
            harness.send(client, GET);
            harness.send(client, b"GET /json HTTP/1.1\r\nHost: a\r\n\r\n");
            let date = format!("\r\nDate: Sun, 06 Nov 1994 08:49:{second} GMT\r\n");
            assert_eq!(count(&text(&mut harness, client), &date), 2, "{date}");
            harness.advance(Duration::from_millis(500));
        }
    }
}

#[test]
fn a_slow_reader_gets_everything_in_order_and_is_not_read_meanwhile() {
    let limits = Limits { outbound_bytes_high: 2000, outbound_bytes_low: 500, ..Limits::default() };
    let mut harness = Harness::with(server(|_| {}), limits, Timeouts::default());
    let client = harness.open();
    harness.set_window(client, Some(0));
    let requests: Vec<u8> = (0..2000)
        .flat_map(|at| format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n{at:06}").into_bytes())
        .collect();
    harness.send(client, &requests);
    let before = harness.snapshot().requests;
    assert!(before < 50, "{before} requests were answered to a peer that takes nothing");
    let mut output = Vec::new();
    loop {
        harness.set_window(client, Some(100));
        let part = harness.take_output(client);
        if part.is_empty() {
            break;
        }
        output.extend(part);
    }
    let output = String::from_utf8(output).expect("text");
    let bodies: Vec<&str> = output.split("\r\n\r\n").skip(1).map(|part| &part[..6]).collect();
    assert_eq!(bodies.len(), 2000);
    assert!(bodies.iter().enumerate().all(|(at, body)| *body == format!("{at:06}")));
    assert_eq!(harness.snapshot().requests, 2000);
}

#[test]
fn a_long_pipeline_yields_and_is_answered_whole() {
    let (mut harness, client) = open();
    harness.send(client, &GET.repeat(3000));
    assert_eq!(count(&text(&mut harness, client), "\r\n\r\nHello, World!"), 3000);
    assert_eq!(harness.snapshot().requests, 3000);
    // A slow reader in the middle of equal requests.
    harness.set_window(client, Some(0));
    harness.send(client, &GET.repeat(3000));
    harness.set_window(client, None);
    assert_eq!(count(&text(&mut harness, client), "\r\n\r\nHello, World!"), 3000);
}

#[test]
fn draining_closes_the_idle_and_lets_the_busy_finish() {
    let mut harness = Harness::new(server(|_| {}));
    let [idle, used, head, body] = [(); 4].map(|()| harness.open());
    harness.send(used, GET);
    harness.send(head, &GET[..10]);
    harness.send(body, b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx");
    harness.take_output(used);
    harness.drain();
    for client in [idle, used] {
        assert!(harness.saw_end(client));
        assert_eq!(text(&mut harness, client), "");
    }
    for (client, rest) in [(head, &GET[10..]), (body, b"y")] {
        assert!(!harness.saw_end(client));
        harness.send(client, rest);
        let answer = text(&mut harness, client);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(harness.saw_end(client));
    }
}

#[test]
fn a_server_that_leaves_says_so_to_whoever_asks_for_its_health() {
    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut harness = Harness::new(server(|_| {}));
    let client = harness.open();
    harness.send(client, HEALTH);
    assert!(text(&mut harness, client).starts_with("HTTP/1.1 200 OK\r\n"));
    harness.send(client, &HEALTH[..10]);
    harness.drain();
    harness.send(client, &HEALTH[10..]);
    let answer = text(&mut harness, client);
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && answer.contains("\r\nConnection: close\r\n"),
        "{answer}"
    );
    assert!(harness.saw_end(client));
}

#[test]
fn a_connection_ends_after_so_many_requests() {
    for (most, sent) in [(1, 3), (3, 3), (3, 10), (300, 1000)] {
        let mut harness = Harness::new(server(|config| config.requests_max = most));
        let client = harness.open();
        harness.send(client, &GET.repeat(sent));
        let answers = text(&mut harness, client);
        assert_eq!(count(&answers, "HTTP/1.1 200 OK\r\n"), most as usize);
        assert_eq!(count(&answers, "\r\nConnection: close\r\n"), 1);
        assert!(answers.rfind("HTTP/1.1") < answers.find("Connection: close"), "only the last one says it");
        assert!(harness.saw_end(client));
    }
}

#[test]
fn the_server_header_cannot_be_used_to_inject() {
    let answer_of = |name: &str| {
        let mut harness = Harness::new(server(|config| config.server = name.to_owned()));
        let client = harness.open();
        harness.send(client, GET);
        text(&mut harness, client)
    };
    assert!(answer_of("x/1.0 (y)").contains("\r\nServer: x/1.0 (y)\r\n"));
    assert!(answer_of("x\r\nEvil: y").contains("\r\nServer: xEvil: y\r\n"));
    assert!(!answer_of("").contains("Server"));
}

#[test]
fn half_a_request_and_then_the_end_is_no_request() {
    let (mut harness, client) = open();
    harness.send(client, b"GET / HTTP/1.1\r\n");
    harness.finish(client);
    assert_eq!(text(&mut harness, client), "");
    assert_eq!(harness.closed(client), Some(CloseReason::Peer));
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let request = prop_oneof![
        4 => Just(GET.to_vec()),
        2 => Just(b"GET /json HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        1 => Just(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        1 => Just(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_vec()),
        1 => Just(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        1 => (0..9u8).prop_map(|path| format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(|body| {
            let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            [head.as_bytes(), &body].concat()
        }),
        1 => prop::sample::select(vec![
            &b"GET / HTTP/1.1\r\nHost: a\r\n\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n",
        ]).prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(request, 1..40).prop_map(|requests| requests.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_do_not_change_an_answer(input in requests(), sizes in prop::collection::vec(1..200usize, 1..20)) {
        let output = |sizes: &[usize]| {
            let mut harness = Harness::new(server(|_| {}));
            let client = harness.open();
            let mut rest = &input[..];
            for size in sizes {
                let (part, behind) = rest.split_at((*size).min(rest.len()));
                harness.send(client, part);
                rest = behind;
            }
            harness.send(client, rest);
            harness.take_output(client).escape_ascii().to_string()
        };
        prop_assert_eq!(output(&sizes), output(&[]));
    }
}
