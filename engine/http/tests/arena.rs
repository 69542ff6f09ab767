//! The answers of the example `arena`, without a kernel: every rule of the ranking, and requests that it does not send.

#[path = "../examples/arena/service/mod.rs"]
mod service;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use baton::testing::{Harness, output_of_all_handovers, output_of_all_splits};
use baton_http::{Http, State};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::service::Data;
use self::service::load::LoadError;

/// The header that the load generator of `static` sends.
const BOTH: &str = "Accept-Encoding: br;q=1, gzip;q=0.8\r\n";

/// A folder as the ranking mounts it, and the server on it.
struct Place {
    /// Deleted together with this value.
    _folder: TempDir,
    data: Data,
}

impl Place {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With these files in `static`.
    fn with(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(given("dataset.json"), folder.path().join("dataset.json")).expect("a copy");
        fs::create_dir(folder.path().join("static")).expect("a folder");
        for (name, bytes) in files {
            fs::write(folder.path().join("static").join(name), bytes).expect("a file");
        }
        let data = Data::load(folder.path()).expect("good data");
        Self { _folder: folder, data }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data.files().join(name)
    }

    fn http(&self) -> Http<impl State + use<>> {
        service::http(&self.data)
    }

    fn ask(&self, input: &[u8]) -> Vec<Answer> {
        let mut harness = Harness::new(self.http());
        let client = harness.open();
        harness.send(client, input);
        answers(&harness.take_output(client))
    }

    fn ask_one(&self, input: &[u8]) -> Answer {
        let mut answers = self.ask(input);
        assert_eq!(answers.len(), 1, "to {}", input.escape_ascii());
        answers.remove(0)
    }

    /// With splits at every byte, and handovers everywhere.
    fn ask_in_every_way(&self, input: &[u8]) -> Vec<Answer> {
        let output = output_of_all_splits(|| self.http(), input);
        assert_eq!(output_of_all_handovers(|| self.http(), input), output);
        answers(&output)
    }
}

/// A path in the example's data.
fn given(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/arena/data").join(name)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn text(&self) -> (u16, &str) {
        (self.status, std::str::from_utf8(&self.body).expect("text"))
    }

    fn json(&self) -> Value {
        assert_eq!((self.status, self.header("Content-Type")), (200, Some("application/json")));
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The body without its coding.
    fn decoded(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        let bytes = &self.body[..];
        match self.header("Content-Encoding") {
            None => plain.extend_from_slice(bytes),
            Some("gzip") => drop(flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip")),
            Some("br") => drop(brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain).expect("brotli")),
            Some(other) => panic!("unknown coding {other}"),
        }
        plain
    }
}

/// Every answer gives its length.
fn answers(mut output: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !output.is_empty() {
        let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = String::from_utf8(output[..end].to_vec()).expect("text");
        let status = head[9..12].parse().expect("a status");
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("Content-Length").map_or(0, |length| length.parse().expect("a length"));
        answer.body.extend_from_slice(&output[end..end + length]);
        output = &output[end + length..];
        answers.push(answer);
    }
    answers
}

fn request(line: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: localhost:8080\r\n{headers}\r\n{body}").into_bytes()
}

fn get(target: &str) -> Vec<u8> {
    request(&format!("GET {target}"), "", "")
}

fn post(target: &str, body: &str) -> Vec<u8> {
    request(&format!("POST {target}"), &format!("content-length: {}\r\n", body.len()), body)
}

/// In chunks of at most `size` bytes.
fn post_in_chunks(target: &str, body: &str, size: usize) -> Vec<u8> {
    let chunk = |chunk: &[u8]| format!("{:x}\r\n{}\r\n", chunk.len(), chunk.escape_ascii());
    let chunks: String = body.as_bytes().chunks(size).map(chunk).collect();
    request(&format!("POST {target}"), "Transfer-Encoding: chunked\r\n", &format!("{chunks}0\r\n\r\n"))
}

/// The answer of `/json`, computed from the file without the example's types.
fn page(count: usize, multiplier: i64) -> Value {
    let text = fs::read(given("dataset.json")).expect("the data set");
    let mut items: Vec<Value> = serde_json::from_slice(&text).expect("JSON");
    items.truncate(count);
    for item in &mut items {
        let number = |name: &str| item[name].as_i64().expect("a number");
        item["total"] = json!(number("price") * number("quantity") * multiplier);
    }
    json!({ "count": items.len(), "items": items })
}

#[test]
fn the_requests_of_the_ranking_are_answered() {
    let place = Place::new();
    let mut seen = 0;
    for entry in fs::read_dir(given("requests")).expect("requests") {
        let path = entry.expect("an entry").path();
        let raw = fs::read(&path).expect("a request");
        let answers = place.ask_in_every_way(&[&raw[..], &raw[..]].concat());
        assert_eq!(answers.len(), 2, "{path:?}");
        for answer in answers {
            match path.file_stem().and_then(|stem| stem.to_str()).expect("a name") {
                "get" => assert_eq!(answer.text(), (200, "55")),
                "post_cl" | "post_chunked" => assert_eq!(answer.text(), (200, "75")),
                "pipeline" => assert_eq!(answer.text(), (200, "ok")),
                json => {
                    let text = String::from_utf8_lossy(&raw);
                    let multiplier = text.split_once("?m=").expect("m").1.split_once(' ').expect("a space").0;
                    let count = json.strip_prefix("json-").expect("a known request").parse().expect("a count");
                    assert_eq!(answer.json(), page(count, multiplier.parse().expect("a number")));
                    assert_eq!((answer.header("Content-Encoding"), count <= 50), (None, true));
                    seen += 1;
                    continue;
                }
            }
            assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
            seen += 1;
        }
    }
    assert_eq!(seen, 22);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn sums_of_any_numbers(a in -999i64..9_999, b: i64, body in any::<i64>().prop_map(|body| body >> 20), size in 1usize..5) {
        let place = Place::new();
        let target = format!("/baseline11?a={a}&b={b}");
        let (text, sum) = (body.to_string(), i128::from(a) + i128::from(b));
        let input = [get(&target), post(&target, &text), post_in_chunks(&target, &text, size)].concat();
        let sums = [sum, sum + i128::from(body), sum + i128::from(body)];
        for (answer, sum) in place.ask_in_every_way(&input).iter().zip(sums) {
            match i64::try_from(sum) {
                Ok(sum) => prop_assert_eq!(answer.text(), (200, &*sum.to_string())),
                Err(_) => prop_assert_eq!(answer.status, 400),
            }
        }
    }

    #[test]
    fn pages_of_any_count_and_multiplier(count in 0usize..70, multiplier in -1_000_000_000i64..1_000_000_000) {
        let target = format!("/json/{count}?m={multiplier}");
        let place = Place::new();
        prop_assert_eq!(place.ask_one(&get(&target)).json(), page(count, multiplier));
        for (accepted, coding) in [("gzip", "gzip"), ("br", "br")] {
            let input = request(&format!("GET {target}"), &format!("Accept-Encoding: {accepted}\r\n"), "");
            let answer = place.ask_one(&input);
            prop_assert_eq!(answer.header("Content-Encoding"), Some(coding));
            prop_assert_eq!(serde_json::from_slice::<Value>(&answer.decoded()).expect("JSON"), page(count, multiplier));
        }
    }

    #[test]
    fn uploads_of_any_size(size in 0usize..700, chunk in 1usize..300) {
        let (place, body) = (Place::new(), "u".repeat(size));
        let input = [post("/upload", &body), post_in_chunks("/upload", &body, chunk), get("/pipeline")].concat();
        let texts: Vec<_> = place.ask_in_every_way(&input).iter().map(|answer| answer.text().1.to_owned()).collect();
        prop_assert_eq!(texts, [size.to_string(), size.to_string(), "ok".to_owned()]);
    }
}

#[test]
fn sums_of_what_is_odd() {
    let place = Place::new();
    for (target, body, expected) in [
        ("/baseline11", "", Some("0")),
        ("/baseline11?", "7", Some("7")),
        ("/baseline11?a=1&b=2&c=3", "", Some("6")),
        ("/baseline11?a=1&a=1", "", Some("2")),
        ("/baseline11?a=%31%30&&b=5", "", Some("15")),
        ("/baseline11?a=-5&b=%2B7", " 20\r\n", Some("22")),
        ("/baseline11?a=9223372036854775807", "-9223372036854775807", Some("0")),
        ("/baseline11?a=9223372036854775807&b=1", "", None),
        ("/baseline11?a=9223372036854775807", "1", None),
        ("/baseline11?a=9223372036854775808", "", None),
        ("/baseline11?a=", "", None),
        ("/baseline11?a", "", None),
        ("/baseline11?a=x", "", None),
        ("/baseline11?a=+1", "", None),
        ("/baseline11?a=1.0", "", None),
        ("/baseline11?a=1&%00", "", None),
        ("/baseline11?a=1", "2 0", None),
        ("/baseline11?a=1", "0x10", None),
        ("/baseline11?a=1", " ", None),
        ("/baseline11?a=1", "\u{663}", None),
    ] {
        let input = [post(target, body), get("/pipeline")].concat();
        let answers = place.ask_in_every_way(&input);
        match expected {
            Some(sum) => assert_eq!(answers[0].text(), (200, sum), "{target} {body}"),
            None => assert_eq!(answers[0].status, 400, "{target} {body}"),
        }
        assert_eq!(answers[1].text(), (200, "ok"));
    }
    let not_text = [&request("POST /baseline11", "Content-Length: 2\r\n", "")[..], b"\xff\xfe"].concat();
    assert_eq!(place.ask_one(&not_text).status, 400);
}

#[test]
fn pages_of_what_is_odd() {
    let place = Place::new();
    for (target, expected) in [
        ("/json/0?m=3", Ok((0, 3))),
        ("/json/51?m=2", Ok((50, 2))),
        ("/json/999999?m=2", Ok((50, 2))),
        ("/json/5", Ok((5, 1))),
        ("/json/5?n=9", Ok((5, 1))),
        ("/json/5?m=2&m=9", Ok((5, 2))),
        ("/json/5?m=0", Ok((5, 0))),
        ("/json/5?m=-4", Ok((5, -4))),
        ("/json/%35?m=%34", Ok((5, 4))),
        ("/json/-1?m=3", Err(400)),
        ("/json/5x?m=3", Err(400)),
        ("/json/1.5?m=3", Err(400)),
        ("/json/%ff?m=3", Err(400)),
        ("/json/99999999999999999999999?m=3", Err(400)),
        ("/json/5?m=", Err(400)),
        ("/json/5?m=x", Err(400)),
        ("/json/5?m=1e3", Err(400)),
        ("/json/5?m=9223372036854775807", Err(400)),
        ("/json/5?m=-9223372036854775809", Err(400)),
        ("/json/", Err(404)),
        ("/json", Err(404)),
        ("/json/5/6", Err(404)),
    ] {
        let answers = place.ask(&[get(target), get("/pipeline")].concat());
        match expected {
            Ok((count, multiplier)) => assert_eq!(answers[0].json(), page(count, multiplier), "{target}"),
            Err(status) => assert_eq!(answers[0].status, status, "{target}"),
        }
        assert_eq!(answers[1].text(), (200, "ok"));
    }
}

#[test]
fn pages_are_compressed_for_who_accepts_that() {
    let place = Place::new();
    let plain = place.ask_one(&get("/json/50?m=6"));
    for (accepted, coding) in [
        ("gzip, br", Some("gzip")),
        ("br", Some("br")),
        ("br;q=1, gzip;q=0.8", Some("br")),
        ("BR;q=0.3, x-gzip;q=0.2", Some("br")),
        ("gzip;q=0, *", Some("br")),
        ("deflate, zstd", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("", None),
        (",,;q=1,gzip;q=9", None),
    ] {
        let ask = |target: &str| request(&format!("GET {target}"), &format!("Accept-Encoding: {accepted}\r\n"), "");
        let input = [ask("/json/50?m=6"), ask("/json/3?m=5"), ask("/json/50?m=6")].concat();
        let answers = if coding.is_some() { place.ask_in_every_way(&input) } else { place.ask(&input) };
        assert_eq!(answers.len(), 3);
        for (answer, expected) in answers.iter().zip([(50, 6), (3, 5), (50, 6)]) {
            assert_eq!(answer.header("Content-Encoding"), coding, "{accepted}");
            assert_eq!(answer.header("Vary"), Some("Accept-Encoding"));
            assert_eq!(answer.header("Content-Type"), Some("application/json"));
            let decoded = serde_json::from_slice::<Value>(&answer.decoded()).expect("JSON");
            assert_eq!(decoded, page(expected.0, expected.1), "{accepted}");
        }
        assert_eq!(answers[0].decoded(), plain.body);
        assert!(coding.is_none() || answers[0].body.len() * 3 < plain.body.len());
    }
    let none = request("GET /json/5?m=1", "Accept-Encoding: identity;q=0, deflate\r\n", "");
    assert_eq!(place.ask_one(&none).status, 406);
}

#[test]
fn a_large_page_is_compressed_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("static")).expect("a folder");
    let mut seed = 1u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", seed ^ seed >> 29)
    };
    let item = |id| {
        json!({ "id": id, "name": noise(), "category": noise(), "price": id, "quantity": 2, "active": false,
                "tags": (0..20).map(|_| noise()).collect::<Vec<_>>(), "rating": { "score": 1, "count": 2 } })
    };
    let items: Vec<Value> = (0..2_000).map(item).collect();
    fs::write(folder.path().join("dataset.json"), json!(items).to_string()).expect("a file");
    let place = Place { data: Data::load(folder.path()).expect("good data"), _folder: folder };
    let plain = place.ask_one(&get("/json/2000?m=3"));
    assert_eq!(plain.json()["count"], 2_000);
    for coding in ["gzip", "br"] {
        let headers = format!("Accept-Encoding: {coding}\r\n");
        let answer = place.ask_one(&request("GET /json/2000?m=3", &headers, ""));
        assert_eq!(answer.header("Content-Encoding"), Some(coding));
        assert!(answer.decoded() == plain.body && answer.body.len() < plain.body.len());
    }
}

#[test]
fn an_upload_is_counted_as_it_comes() {
    let place = Place::new();
    let mut harness = Harness::new(place.http());
    let client = harness.open();
    let (part, parts) = (vec![0xa5; 64 << 10], 320);
    let headers = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", part.len() * parts);
    harness.send(client, &request("POST /upload", &headers, ""));
    assert_eq!(harness.take_output(client), b"HTTP/1.1 100 Continue\r\n\r\n");
    for _ in 0..parts {
        harness.send(client, &part);
        assert!(harness.held_bytes(client) < 2 * part.len());
    }
    assert_eq!(answers(&harness.take_output(client))[0].text(), (200, "20971520"));
}

/// A file and its compressed siblings, as in the ranking's folder.
fn compressed(text: &str) -> (Vec<u8>, Vec<u8>) {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).expect("memory");
    let mut brotli = Vec::new();
    brotli::BrotliCompress(&mut text.as_bytes(), &mut brotli, &Default::default()).expect("memory");
    (gzip.finish().expect("memory"), brotli)
}

#[test]
fn files_are_answered_in_the_coding_that_is_liked_best() {
    let text: String = (0..9_000).map(|line| format!("a{} ", line % 97)).collect();
    let (gzip, brotli) = compressed(&text);
    let place = Place::with(&[
        ("app.js", text.as_bytes()),
        ("app.js.gz", &gzip),
        ("app.js.br", &brotli),
        ("a b.css", b"p {}"),
        ("a b.css.gz", &compressed("p {}").0),
        ("hero.webp", &[0x52; 3_000]),
        ("empty.html", b""),
    ]);
    let (javascript, css) = ("text/javascript; charset=utf-8", "text/css; charset=utf-8");
    for (name, headers, media_type, coding, is_negotiated) in [
        ("app.js", "", javascript, None, true),
        ("app.js", BOTH, javascript, Some("br"), true),
        ("app.js", "Accept-Encoding: gzip, br\r\n", javascript, Some("br"), true),
        ("app.js", "Accept-Encoding: br;q=0.5\r\naccept-encoding: gzip\r\n", javascript, Some("gzip"), true),
        ("app.js", "Accept-Encoding: zstd\r\n", javascript, None, true),
        ("a%20b.css", BOTH, css, Some("gzip"), true),
        ("hero.webp", BOTH, "image/webp", None, false),
        ("empty.html", BOTH, "text/html; charset=utf-8", None, false),
    ] {
        let target = format!("/static/{name}");
        let answer = place.ask_one(&request(&format!("GET {target}"), headers, ""));
        assert_eq!((answer.status, answer.header("Content-Encoding")), (200, coding), "{name} {headers}");
        assert_eq!(answer.header("Content-Type"), Some(media_type));
        assert_eq!(answer.header("Vary").is_some(), is_negotiated);
        let file = fs::read(place.file(&name.replace("%20", " "))).expect("a file");
        assert!(answer.decoded() == file, "{name} {headers}");
        let head = request(&format!("HEAD {target}"), headers, "");
        let mut harness = Harness::new(place.http());
        let client = harness.open();
        harness.send(client, &head);
        assert_eq!(harness.take_output(client), answer.head.as_bytes());
    }
    let input = [request("GET /static/app.js", BOTH, ""), get("/static/a%20b.css"), get("/static/none")].concat();
    let statuses: Vec<_> = place.ask_in_every_way(&input).iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 404]);
}

#[test]
fn a_file_has_a_tag_for_each_coding() {
    let (gzip, brotli) = compressed("a {}");
    let place = Place::with(&[("a.css", b"a {}"), ("a.css.gz", &gzip), ("a.css.br", &brotli)]);
    let mut tags = Vec::new();
    for coding in ["identity", "gzip", "br"] {
        let ask = |more: &str| {
            place.ask_one(&request("GET /static/a.css", &format!("Accept-Encoding: {coding}\r\n{more}"), ""))
        };
        let tag = ask("").header("ETag").expect("a tag").to_owned();
        let again = ask(&format!("If-None-Match: {tag}\r\n"));
        assert_eq!(
            (again.status, again.header("Vary"), again.header("ETag")),
            (304, Some("Accept-Encoding"), Some(&*tag))
        );
        assert!(!tags.contains(&tag), "{coding}: {tag}");
        tags.push(tag);
    }
}

#[test]
fn files_are_read_for_each_request() {
    let place = Place::with(&[("a.css", b"old"), ("a.css.br", &compressed("old").1)]);
    let mut harness = Harness::new(place.http());
    let client = harness.open();
    let mut ask = |name: &str, headers: &str| {
        harness.send(client, &request(&format!("GET /static/{name}"), headers, ""));
        let answer = answers(&harness.take_output(client)).remove(0);
        (answer.status, String::from_utf8(answer.decoded()).expect("text"))
    };
    let ok = |text: &str| (200, text.to_owned());
    assert_eq!((ask("a.css", ""), ask("a.css", BOTH)), (ok("old"), ok("old")));
    fs::write(place.file("a.css"), "newer").expect("a file");
    assert_eq!(ask("a.css", ""), ok("newer"));
    fs::write(place.file("a.css.br"), compressed("newer").1).expect("a file");
    assert_eq!(ask("a.css", BOTH), ok("newer"));
    assert_eq!(ask("b.css", "").0, 404);
    fs::write(place.file("b.css"), "late").expect("a file");
    assert_eq!(ask("b.css", BOTH), ok("late"));
    fs::write(place.file("b.css.br"), compressed("later").1).expect("a file");
    assert_eq!(ask("b.css", BOTH), ok("later"));
    fs::remove_file(place.file("a.css")).expect("a file");
    assert_eq!(ask("a.css", BOTH).0, 404);
}

#[test]
fn the_data_set_is_no_file_that_is_served() {
    let place = Place::with(&[("a.css", b"a")]);
    std::os::unix::fs::symlink("../dataset.json", place.file("link")).expect("a link");
    for (name, status) in [
        ("../dataset.json", 400),
        ("%2e%2e/dataset.json", 400),
        ("..%2fdataset.json", 400),
        ("dataset.json", 404),
        ("link", 404),
        ("", 403),
    ] {
        let answers = place.ask(&[get(&format!("/static/{name}")), get("/pipeline")].concat());
        assert_eq!((answers[0].status, answers[1].status), (status, 200), "{name}");
    }
}

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x5f, 0, 0xc3, 9];
    let masked = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
    [first, 0x80 | u8::try_from(payload.len()).expect("short")].into_iter().chain(key).chain(masked).collect()
}

#[test]
fn a_websocket_is_echoed() {
    let place = Place::new();
    let opening = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let frames = [
        frame(0x81, b"HttpArena"),
        frame(0x82, &[0, 1, 0xff]),
        frame(0x01, b"in two"),
        frame(0x89, b"ping"),
        frame(0x80, b" frames"),
        frame(0x82, b""),
        frame(0x88, b"\x03\xe8validate done"),
    ];
    let input = [request("GET /ws", opening, ""), frames.concat()].concat();
    let output = output_of_all_splits(|| place.http(), &input);
    assert_eq!(output_of_all_handovers(|| place.http(), &input), output);
    let head = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert!(output.starts_with(b"HTTP/1.1 101 "));
    let expected: [&[u8]; 6] = [
        b"\x81\x09HttpArena",
        b"\x82\x03\x00\x01\xff",
        b"\x8a\x04ping",
        b"\x81\x0din two frames",
        b"\x82\x00",
        b"\x88\x02\x03\xe8",
    ];
    assert_eq!(output[head..].escape_ascii().to_string(), expected.concat().escape_ascii().to_string());
    assert_eq!(place.ask_one(&get("/ws")).status, 426);
}

#[test]
fn other_paths_and_methods_are_refused() {
    let place = Place::new();
    let rows = [
        ("GET /", 404),
        ("GET /pipeline/", 404),
        ("GET /baseline1", 404),
        ("GET /static", 301),
        ("POST /pipeline", 405),
        ("DELETE /baseline11?a=1", 405),
        ("GET /upload", 405),
        ("PUT /upload", 405),
        ("POST /json/5?m=1", 405),
        ("POST /static/a.css", 405),
        ("OPTIONS /upload", 200),
    ];
    for (line, status) in rows {
        let answer = place.ask_one(&request(line, "Content-Length: 0\r\nConnection: close\r\n", ""));
        assert_eq!(answer.status, status, "{line}");
    }
    for head in
        ["GET /pipeline\r\n\r\n", "GET /pipeline HTTP/1.1\r\n\r\n", "GET /pipe\0line HTTP/1.1\r\nHost: a\r\n\r\n"]
    {
        assert_eq!(place.ask_one(head.as_bytes()).status, 400, "{head:?}");
    }
}

#[test]
fn a_folder_that_is_not_right_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let load = || Data::load(folder.path()).err();
    let dataset = folder.path().join("dataset.json");
    assert!(matches!(load(), Some(LoadError::Unreadable { path, .. }) if path == dataset));
    for text in ["", "[", "{}", "[{}]", r#"[{"id":"1"}]"#, "\u{0}"] {
        fs::write(&dataset, text).expect("a file");
        assert!(matches!(load(), Some(LoadError::NoDataset { path, .. }) if path == dataset), "{text}");
    }
    fs::write(&dataset, "[]").expect("a file");
    assert!(load().is_none());
}
