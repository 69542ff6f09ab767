//! The cost of a head: `cargo test --release -p baton-http --lib head_speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::scan::Level;
use super::{Field, FieldList, HEADERS_MAX, Head, HeadLimits, parse, parse_at};
use crate::refusal::Refusal;

/// Heads in one input, as from a client that pipelines.
const DEPTH: usize = 16;

/// Inputs that all differ, so that branch prediction cannot learn them.
const INPUTS: usize = 64;

/// The best of this many rounds counts; in each, every parser has its turn.
const ROUNDS: usize = 60;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 16 * 1024, target_bytes_max: 8 * 1024 };

/// Returns the length of the head at the start of the input.
type Parser = Box<dyn FnMut(&[u8]) -> usize>;

#[test]
#[ignore = "measures; run it alone, in a release build"]
fn head_speed() {
    let browser = "Connection: keep-alive\r\nCache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8\r\nSec-Fetch-Site: none\r\n\
        Sec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: de,en-US;q=0.7,en;q=0.3\r\n";
    let mut random = 1u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let number = |below: &mut dyn FnMut(u64) -> u64| {
        let digits = below(9) as u32 + 1;
        below(10_u64.pow(digits))
    };
    let mut minimal = |_: usize| format!("GET /?a={} HTTP/1.1\r\nHost: a\r\n\r\n", number(&mut below));
    measure("minimal GET", &mut minimal);
    let mut usual = |_: usize| {
        format!(
            "GET /baseline11?a={}&b={} HTTP/1.1\r\nHost: localhost:8080\r\n{browser}\r\n",
            number(&mut below),
            below(100)
        )
    };
    measure("browser's headers", &mut usual);
    let mut cookies = |_: usize| {
        let cookie = "0123456789abcdef".repeat(below(40) as usize + 10);
        let referer = format!("Referer: https://a.example/{}\r\n", number(&mut below));
        format!(
            "GET /items/{} HTTP/1.1\r\nHost: a.example\r\n{browser}{referer}Cookie: id={cookie}\r\n\r\n",
            below(1000)
        )
    };
    measure("14 headers, long cookies", &mut cookies);
    let mut others = |index: usize| {
        let mut lines: Vec<&str> = browser.split_inclusive("\r\n").collect();
        for place in (1..lines.len()).rev() {
            lines.swap(place, below(place as u64 + 1) as usize);
        }
        lines.truncate(6 + index % 6);
        format!("GET /a/{} HTTP/1.1\r\nHost: a.example\r\n{}\r\n", number(&mut below), lines.concat())
    };
    measure("6 to 11 of them in any order", &mut others);
}

fn measure(name: &str, head: &mut dyn FnMut(usize) -> String) {
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for input in 0..INPUTS {
        let heads: Vec<String> = (0..DEPTH).map(|index| head(input * DEPTH + index)).collect();
        inputs.push(heads.concat().into_bytes());
    }
    let mut parsers: Vec<(String, Parser)> = Vec::new();
    let end = memchr::memmem::Finder::new(b"\r\n\r\n").into_owned();
    parsers.push(("memmem of CRLF CRLF".to_owned(), Box::new(move |input| end.find(input).map_or(0, |at| at + 4))));
    for level in Level::available() {
        let mut fields = FieldList::default();
        let length = move |input: &[u8]| length(&parse_at(level, input, LIMITS, &mut fields), &fields);
        parsers.push((format!("{level:?}"), Box::new(length)));
    }
    let mut fields = FieldList::default();
    let length = move |input: &[u8]| length(&parse(input, LIMITS, &mut fields), &fields);
    parsers.push(("the fastest, as chosen".to_owned(), Box::new(length)));
    parsers.push(("httparse, bare line feeds".to_owned(), Box::new(httparse)));
    let mut best = vec![Duration::MAX; parsers.len()];
    for _ in 0..ROUNDS {
        for ((_, parser), best) in parsers.iter_mut().zip(&mut best) {
            let begin = Instant::now();
            for input in &inputs {
                let mut at = 0;
                for _ in 0..DEPTH {
                    at += parser(&input[at..]);
                }
                assert_eq!(at, input.len());
            }
            *best = begin.elapsed().min(*best);
        }
    }
    let heads = (INPUTS * DEPTH) as f64;
    println!("{name}: {:.0} bytes", inputs.concat().len() as f64 / heads);
    for ((parser, _), best) in parsers.iter().zip(best) {
        println!("  {parser:32} {:7.1} ns", best.as_nanos() as f64 / heads);
    }
}

fn length(outcome: &Result<Option<Head<'_>>, Refusal>, fields: &[Field]) -> usize {
    black_box((outcome, fields));
    outcome.ok().flatten().map_or(0, |head| head.length)
}

/// With each byte that arrives the parser begins anew, so this is the most work that a peer can cause with one head.
#[test]
#[ignore = "measures; run it alone, in a release build"]
fn head_that_comes_byte_by_byte() {
    let usual = format!("GET / HTTP/1.1\r\n{}", format!("X-Header: {}\r\n", "v".repeat(150)).repeat(99));
    let long_name = format!("GET / HTTP/1.1\r\n{}:\r\nX: ", "n".repeat(8 * 1024));
    let long_space = format!("GET / HTTP/1.1\r\nX: x{}\r\nX: ", " ".repeat(8 * 1024));
    let escapes = format!("GET /{}", "%41a".repeat(2 * 1024 - 8));
    for (name, start) in [("usual", usual), ("long name", long_name), ("long space", long_space), ("escapes", escapes)]
    {
        let head = format!("{start:v<width$}", width = LIMITS.head_bytes_max - 1);
        let begin = Instant::now();
        let mut fields = FieldList::default();
        for length in 1..=head.len() {
            let outcome = parse(&head.as_bytes()[..length], LIMITS, &mut fields);
            assert!(matches!(black_box(outcome), Ok(None) | Err(Refusal::TARGET_TOO_LONG)), "{length}");
        }
        println!("{name:12} {:6.0} ns a byte", begin.elapsed().as_nanos() as f64 / head.len() as f64);
    }
}

/// Only names, values and line ends, checked without [`super::scan`].
fn httparse(input: &[u8]) -> usize {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(input) else { return 0 };
    black_box(&request);
    let is_bare = |at: usize| input[at - 1] != b'\r';
    if memchr::memchr_iter(b'\n', &input[..length]).any(is_bare) { 0 } else { length }
}
