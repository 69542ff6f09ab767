//! Raw requests and the exact answers. Each row also runs split at every byte, and with a peer that reads the answer in
//! small parts.

use baton::testing::{Harness, output_of_all_handovers, output_of_all_splits};
use baton_http::HttpConfig;
use batond::http::server;

/// What the client sees of the connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It stays open.
    Open,
    /// FIN. The server waits for the client's FIN, so that the answer is not lost.
    Lingers,
    /// Closed at once, as the client requested.
    Finished,
}
use End::{Finished, Lingers, Open};

const COMMON: &str = "Server: baton\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
const HELLO: &str = "Hello, World!";
const JSON: &str = r#"{"message":"Hello, World!"}"#;
const KEEP: &str = "Connection: keep-alive\r\n";
const CLOSE: &str = "Connection: close\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const READ: &str = "Allow: GET, HEAD, OPTIONS\r\n";
const POST: &str = "Allow: POST, OPTIONS\r\n";
const NOT_ALLOWED: &str = "this method is not allowed here; see the Allow header\n";

fn answer(status: &str, headers: &str, content_type: &str, body: &str) -> String {
    let head = head(status, headers, content_type, body.len());
    format!("{head}{body}")
}

fn head(status: &str, headers: &str, content_type: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\n{COMMON}{headers}Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n")
}

fn hello(headers: &str) -> String {
    answer("200 OK", headers, "text/plain", HELLO)
}

fn hello_head(headers: &str) -> String {
    head("200 OK", headers, "text/plain", HELLO.len())
}

fn json() -> String {
    answer("200 OK", "", "application/json", JSON)
}

fn echo(content_type: &str, body: &str) -> String {
    answer("200 OK", "", content_type, body)
}

fn bytes(body: &str) -> String {
    echo("application/octet-stream", body)
}

fn not_found(headers: &str) -> String {
    answer("404 Not Found", headers, "text/plain", "there is nothing here\n")
}

fn not_allowed(headers: &str) -> String {
    answer("405 Method Not Allowed", headers, "text/plain", NOT_ALLOWED)
}

fn options(allow: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{COMMON}Allow: {allow}\r\nContent-Length: 0\r\n\r\n")
}

fn refused(status: &str, detail: &str) -> String {
    answer(status, CLOSE, "text/plain", &format!("{detail}\n"))
}

fn bad(detail: &str) -> String {
    refused("400 Bad Request", detail)
}

const LINE: &str = "the request line is not: method, space, target, space, version, CRLF";
const NAME: &str = "a header name is empty, has a character that is no token, or is not followed by a colon";
const VALUE: &str = "a header value has a control character or a carriage return without a line feed";
const LINE_FEED: &str = "a line ends in a line feed without a carriage return";
const TARGET: &str = "the request target is none of: /path, http://host/path, or * with OPTIONS";
const HOST: &str = "the Host header is not: host, or host:port";
const LENGTH: &str = "Content-Length is not one decimal number below 2^64";
const LENGTHS: &str = "there is more than one Content-Length header";
const BOTH: &str = "there is both Content-Length and Transfer-Encoding";
const CODINGS: &str = "Transfer-Encoding is not a list of codings that names chunked once, as the last one";
const SIZE: &str = "a chunk size is not one to sixteen hexadecimal digits";
const FRAMING: &str = "a chunk's size line or data does not end in CRLF";
const TRAILER: &str = "a trailer is not: name, colon, value, CRLF";
const EXTENSION: &str = "chunk extensions have a control character or are too long";

fn too_large() -> String {
    refused("413 Content Too Large", "the body is larger than this server takes")
}

fn not_implemented(detail: &str) -> String {
    refused("501 Not Implemented", detail)
}

fn unknown_method() -> String {
    not_implemented("this server does not know the request method")
}

fn unknown_coding() -> String {
    not_implemented("the only transfer coding this server knows is chunked")
}

fn bad_version() -> String {
    refused("505 HTTP Version Not Supported", "this server speaks HTTP/1.0 and HTTP/1.1")
}

/// A request with `Host`.
fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

fn get(headers: &str) -> String {
    request("GET /", headers)
}

fn post(headers: &str, body: &str) -> String {
    request("POST /echo", headers) + body
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

type Row = (&'static str, String, String, End);

fn check(rows: Vec<Row>) {
    for (name, input, expected, end) in rows {
        let mut harness = Harness::new(server(&HttpConfig::default()));
        let client = harness.open();
        harness.send(client, input.as_bytes());
        assert_eq!(harness.take_output(client).escape_ascii().to_string(), escaped(&expected), "{name}");
        let seen = match (harness.saw_end(client), harness.closed(client)) {
            (false, None) => Open,
            (true, None) => Lingers,
            (_, Some(_)) => Finished,
        };
        assert_eq!(seen, end, "{name}");
        // Separate tests split long inputs.
        if input.len() < 1000 {
            let split = output_of_all_splits(|| server(&HttpConfig::default()), input.as_bytes());
            let handed_over = output_of_all_handovers(|| server(&HttpConfig::default()), input.as_bytes());
            assert_eq!(handed_over.escape_ascii().to_string(), split.escape_ascii().to_string(), "{name}, handed over");
            assert_eq!(split.escape_ascii().to_string(), escaped(&expected), "{name}");
        }
    }
}

fn escaped(text: &str) -> String {
    text.as_bytes().escape_ascii().to_string()
}

#[test]
fn routes() {
    check(vec![
        ("root", get(""), hello(""), Open),
        ("plaintext", request("GET /plaintext", ""), hello(""), Open),
        ("json", request("GET /json", ""), json(), Open),
        ("health", request("GET /health", ""), answer("200 OK", "", "text/plain", "ok\n"), Open),
        ("head of root", request("HEAD /", ""), hello_head(""), Open),
        ("head of json", request("HEAD /json", ""), head("200 OK", "", "application/json", JSON.len()), Open),
        ("head of health", request("HEAD /health", ""), head("200 OK", "", "text/plain", 3), Open),
        ("query", request("GET /json?/plaintext", ""), json(), Open),
        ("empty query", request("GET /?", ""), hello(""), Open),
        ("unknown path", request("GET /none", ""), not_found(""), Open),
        ("head of unknown path", request("HEAD /none", ""), head("404 Not Found", "", "text/plain", 22), Open),
        ("longer path", request("GET /jsonx", ""), not_found(""), Open),
        ("case of path", request("GET /JSON", ""), not_found(""), Open),
        ("post to json", request("POST /json", ""), not_allowed(READ), Open),
        ("delete of root", request("DELETE /", ""), not_allowed(READ), Open),
        ("get of echo", request("GET /echo", ""), not_allowed(POST), Open),
        ("head of echo", request("HEAD /echo", ""), head("405 Method Not Allowed", POST, "text/plain", 54), Open),
        ("absolute form", request("GET http://a/json", ""), json(), Open),
        ("absolute form without path", request("GET http://a", ""), hello(""), Open),
        ("absolute form in capitals", request("GET HTTP://a:80/json?x", ""), json(), Open),
        ("options of the server", request("OPTIONS *", ""), options("GET, HEAD, POST, OPTIONS"), Open),
        ("options of a path", request("OPTIONS /echo", ""), options("POST, OPTIONS"), Open),
        ("star for get", request("GET *", ""), bad(TARGET), Lingers),
        ("target without slash", request("GET json", ""), bad(TARGET), Lingers),
        ("absolute form without host", request("GET http:///json", ""), bad(TARGET), Lingers),
        ("fragment", request("GET /#x", ""), bad(TARGET), Lingers),
        ("unknown method", request("BREW /", ""), unknown_method(), Lingers),
        ("method in small letters", request("get /", ""), unknown_method(), Lingers),
        ("connect", request("CONNECT a:80", ""), unknown_method(), Lingers),
        ("overlong method", "A".repeat(33), unknown_method(), Lingers),
    ]);
}

#[test]
fn persistence() {
    let old = |headers: &str| format!("GET / HTTP/1.0\r\n{headers}\r\n");
    let closing_post = post("Content-Length: 2\r\nConnection: close\r\n", "hi");
    let closing_echo = answer("200 OK", CLOSE, "application/octet-stream", "hi");
    let mix = get("") + &request("HEAD /", "") + &request("GET /json", "") + &get("");
    let mix_answer = hello("") + &hello_head("") + &json() + &hello("");
    check(vec![
        ("1.1 keeps", get("") + &get(""), hello("") + &hello(""), Open),
        ("1.1 close", get("Connection: close\r\n"), hello(CLOSE), Finished),
        ("close in a list", get("Connection: x, CLOSE ,y\r\n"), hello(CLOSE), Finished),
        ("close in a second header", get("Connection: x\r\nconnection: close\r\n"), hello(CLOSE), Finished),
        ("close beats keep-alive", get("Connection: keep-alive, close\r\n"), hello(CLOSE), Finished),
        ("1.0 closes", old(""), hello(CLOSE), Finished),
        ("1.0 keep-alive", old("Connection: Keep-Alive\r\n").repeat(2), hello(KEEP).repeat(2), Open),
        ("1.0 with host", old("Host: a\r\n"), hello(CLOSE), Finished),
        ("close with a body", closing_post, closing_echo, Finished),
        ("close on an unknown path", request("GET /x", "Connection: close\r\n"), not_found(CLOSE), Finished),
        ("1.2 is read as 1.1", "GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), hello(""), Open),
        ("pipelined mix", mix, mix_answer, Open),
        ("nothing is answered after close", get("Connection: close\r\n") + &get(""), hello(CLOSE), Lingers),
    ]);
}

#[test]
fn bodies() {
    let typed = "Content-Type: text/x\r\nContent-Length: 3\r\n";
    let length = |length: &str| format!("Content-Length: {length}\r\n");
    let get_chunked = get("Transfer-Encoding: chunked\r\n") + "1\r\nx\r\n0\r\n\r\n";
    check(vec![
        ("echo", post(&length("5"), "hello") + &get(""), bytes("hello") + &hello(""), Open),
        ("echo with a type", post(typed, "abc"), echo("text/x", "abc"), Open),
        ("echo of nothing", post("", ""), bytes(""), Open),
        ("echo of length zero", post(&length("0"), "") + &get(""), bytes("") + &hello(""), Open),
        ("leading zeros", post(&length("0003"), "abc"), bytes("abc"), Open),
        ("chunked", chunked("3\r\nabc\r\n0\r\n\r\n") + &get(""), bytes("abc") + &hello(""), Open),
        ("chunks", chunked("1\r\na\r\n00A\r\n0123456789\r\n0\r\n\r\n"), bytes("a0123456789"), Open),
        ("no chunk", chunked("0\r\n\r\n"), bytes(""), Open),
        ("chunk extensions", chunked("1;a=b;c=\"d\" \r\nx\r\n0;e\r\n\r\n"), bytes("x"), Open),
        ("trailers", chunked("1\r\nx\r\n0\r\nA: b\r\nHost:\r\n\r\n") + &get(""), bytes("x") + &hello(""), Open),
        ("chunked in capitals", post("Transfer-Encoding: CHUNKED\r\n", "0\r\n\r\n"), bytes(""), Open),
        ("a body for get", get(&length("4")) + "GET " + &get(""), hello("").repeat(2), Open),
        ("a chunked body for get", get_chunked + &get(""), hello("").repeat(2), Open),
        ("a body for nobody", request("POST /x", &length("2")) + "xx" + &get(""), not_found("") + &hello(""), Open),
        ("a body refused", request("PUT /", &length("2")) + "xx" + &get(""), not_allowed(READ) + &hello(""), Open),
        ("too large by its length", post(&length("1048577"), ""), too_large(), Lingers),
        ("as large as a number goes", post(&length("18446744073709551615"), ""), too_large(), Lingers),
        ("too large for a route that ignores it", get(&length("1048577")), too_large(), Lingers),
        ("too large in one chunk", chunked("100001\r\n"), too_large(), Lingers),
        ("too large in two chunks", chunked("1\r\nx\r\n100000\r\n"), too_large(), Lingers),
        ("chunk of the largest size", chunked("ffffffffffffffff\r\n"), too_large(), Lingers),
        ("too much extension", chunked(&format!("0;{}", "b".repeat(17_000))), bad(EXTENSION), Lingers),
        (
            "too many trailers",
            chunked(&format!("0\r\na: {}", "b".repeat(9000))),
            refused("431 Request Header Fields Too Large", "the trailers are larger than this server takes"),
            Lingers,
        ),
    ]);
}

#[test]
fn expectations() {
    let continued = |answer: &str| CONTINUE.to_owned() + answer;
    let expect = "Expect: 100-continue\r\n";
    let two = "Content-Length: 2\r\nExpect: 100-Continue\r\n";
    let chunked = "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n";
    let much = "Content-Length: 1048577\r\nExpect: 100-continue\r\n";
    let unknown = refused("417 Expectation Failed", "the only expectation this server knows is 100-continue");
    check(vec![
        ("with length", post(two, "hi"), continued(&bytes("hi")), Open),
        ("chunked", post(chunked, "0\r\n\r\n"), continued(&bytes("")), Open),
        ("before the body", post(two, ""), CONTINUE.into(), Open),
        ("get with a body", get(two) + "hi", continued(&hello("")), Open),
        ("without a body", get(expect), hello(""), Open),
        ("in 1.0", format!("GET / HTTP/1.0\r\n{two}\r\nhi"), hello(CLOSE), Finished),
        ("for nobody", request("POST /x", two), not_found(CLOSE), Lingers),
        ("not allowed", request("POST /", two), not_allowed(&format!("{CLOSE}{READ}")), Lingers),
        ("too much", post(much, ""), too_large(), Lingers),
        ("unknown", get("Expect: tea\r\n"), unknown, Lingers),
    ]);
}

#[test]
fn syntax() {
    let raw = |start: &str| format!("{start}\r\n\r\n");
    let large = |detail: &str| refused("431 Request Header Fields Too Large", detail);
    let many_empty = bad("too many empty lines before the request line");
    let long_target = refused("414 URI Too Long", "the request target is longer than this server takes");
    let long_head = get(&format!("X: {}\r\n", "a".repeat(16 * 1024)));
    check(vec![
        ("empty lines first", "\r\n\r\n".to_owned() + &get(""), hello(""), Open),
        ("empty lines between", get("") + "\r\n" + &get(""), hello("").repeat(2), Open),
        ("too many empty lines", "\r\n".repeat(5), many_empty, Lingers),
        ("line feed first", "\n".to_owned() + &get(""), bad(LINE_FEED), Lingers),
        ("return first", "\rGET".into(), bad(LINE), Lingers),
        ("0.9", raw("GET /"), bad(LINE), Lingers),
        ("two spaces", raw("GET  / HTTP/1.1"), bad(LINE), Lingers),
        ("space first", raw(" GET / HTTP/1.1"), bad(LINE), Lingers),
        ("tab in line", raw("GET\t/ HTTP/1.1"), bad(LINE), Lingers),
        ("space in target", raw("GET /a b HTTP/1.1"), bad(LINE), Lingers),
        ("control in target", raw("GET /\x01 HTTP/1.1"), bad(LINE), Lingers),
        ("no ASCII in target", raw("GET /\u{e9} HTTP/1.1"), bad(LINE), Lingers),
        ("null in method", raw("GE\0T / HTTP/1.1"), bad(LINE), Lingers),
        ("space after version", raw("GET / HTTP/1.1 "), bad(LINE), Lingers),
        ("version in small letters", raw("GET / http/1.1"), bad(LINE), Lingers),
        ("version without minor", raw("GET / HTTP/1"), bad(LINE), Lingers),
        ("version with more digits", raw("GET / HTTP/1.10"), bad(LINE), Lingers),
        ("TLS hello", "\x16\x03\x01\x02".into(), bad(LINE), Lingers),
        ("version 2.0", raw("GET / HTTP/2.0"), bad_version(), Lingers),
        ("version 0.9", raw("GET / HTTP/0.9"), bad_version(), Lingers),
        ("HTTP/2 preface", raw("PRI * HTTP/2.0") + "SM\r\n\r\n", bad_version(), Lingers),
        ("no host", raw("GET / HTTP/1.1"), bad("HTTP/1.1 needs a Host header"), Lingers),
        ("no host for head", raw("HEAD / HTTP/1.1"), head("400 Bad Request", CLOSE, "text/plain", 29), Lingers),
        ("two hosts", get("host: a\r\n"), bad("there is more than one Host header"), Lingers),
        ("empty host", raw("GET / HTTP/1.1\r\nHost:"), hello(""), Open),
        ("host with port", raw("GET / HTTP/1.1\r\nHost: [::1]:80"), hello(""), Open),
        ("host with slash", raw("GET / HTTP/1.1\r\nHost: a/b"), bad(HOST), Lingers),
        ("host with list", raw("GET / HTTP/1.1\r\nHost: a, b"), bad(HOST), Lingers),
        ("line feeds only", "GET / HTTP/1.1\nHost: a\n\n".into(), bad(LINE), Lingers),
        ("line feed in headers", raw("GET / HTTP/1.1\r\nHost: a\nX: b"), bad(LINE_FEED), Lingers),
        ("line feed at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n".into(), bad(LINE_FEED), Lingers),
        ("return in line", raw("GET / HTTP/1.1\rHost: a"), bad(LINE), Lingers),
        ("return in value", get("X: a\rb\r\n"), bad(VALUE), Lingers),
        ("return at the end", "GET / HTTP/1.1\r\nHost: a\r\n\rx".into(), bad(VALUE), Lingers),
        ("folded header", get("X: a\r\n b\r\n"), bad(NAME), Lingers),
        ("folded first header", raw("GET / HTTP/1.1\r\n Host: a"), bad(NAME), Lingers),
        ("space before colon", get("X : a\r\n"), bad(NAME), Lingers),
        ("tab before colon", get("X\t: a\r\n"), bad(NAME), Lingers),
        ("no name", get(": a\r\n"), bad(NAME), Lingers),
        ("no colon", get("X\r\n"), bad(NAME), Lingers),
        ("space in name", get("X Y: a\r\n"), bad(NAME), Lingers),
        ("null in name", get("X\0: a\r\n"), bad(NAME), Lingers),
        ("null in value", get("X: \0\r\n"), bad(VALUE), Lingers),
        ("control in value", get("X: a\x1fb\r\n"), bad(VALUE), Lingers),
        ("delete in value", get("X: a\x7fb\r\n"), bad(VALUE), Lingers),
        ("tab in value", get("X: a\tb\r\n"), hello(""), Open),
        ("text in value", get("X: \u{e9}\r\n"), hello(""), Open),
        ("empty value", get("X:\r\n"), hello(""), Open),
        ("hundred headers", get(&"X: a\r\n".repeat(99)), hello(""), Open),
        (
            "too many headers",
            get(&"X: a\r\n".repeat(100)),
            large("the request has more headers than this server takes"),
            Lingers,
        ),
        ("too long head", long_head, large("the request head is larger than this server takes"), Lingers),
        ("too long target", format!("GET /{}", "a".repeat(8 * 1024)), long_target, Lingers),
        ("longest target", request(&format!("GET /?{}", "a".repeat(8 * 1024 - 2)), ""), hello(""), Open),
    ]);
}

#[test]
fn smuggling_by_heads() {
    let length = |value: &str| post(&format!("Content-Length:{value}\r\n"), "hello");
    let coding = |value: &str| post(&format!("Transfer-Encoding:{value}\r\n"), "0\r\n\r\n");
    let old = "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    check(vec![
        ("length and coding", length(" 5\r\nTransfer-Encoding: chunked"), bad(BOTH), Lingers),
        ("coding and length", coding(" chunked\r\nContent-Length: 5"), bad(BOTH), Lingers),
        ("unknown coding and length", coding(" gzip\r\nContent-Length: 5"), bad(BOTH), Lingers),
        ("same length twice", length(" 5\r\nContent-Length: 5"), bad(LENGTHS), Lingers),
        ("two lengths", length(" 5\r\ncontent-length: 6"), bad(LENGTHS), Lingers),
        ("list of one length", length(" 5, 5"), bad(LENGTH), Lingers),
        ("plus", length(" +5"), bad(LENGTH), Lingers),
        ("minus", length(" -5"), bad(LENGTH), Lingers),
        ("hexadecimal", length(" 0x5"), bad(LENGTH), Lingers),
        ("empty length", length(""), bad(LENGTH), Lingers),
        ("space in length", length(" 5 5"), bad(LENGTH), Lingers),
        ("point", length(" 5.0"), bad(LENGTH), Lingers),
        ("overflow", length(" 18446744073709551616"), bad(LENGTH), Lingers),
        ("coding before 1.1", old.into(), bad("Transfer-Encoding does not exist in HTTP/1.0"), Lingers),
        ("chunked twice", coding(" chunked, chunked"), bad(CODINGS), Lingers),
        ("chunked in two headers", coding(" chunked\r\nTransfer-Encoding: chunked"), bad(CODINGS), Lingers),
        ("chunked not last", coding(" chunked, gzip"), bad(CODINGS), Lingers),
        ("chunked with parameter", coding(" chunked;a=b"), bad(CODINGS), Lingers),
        ("chunked in quotes", coding(" \"chunked\""), bad(CODINGS), Lingers),
        ("empty coding", coding(""), bad(CODINGS), Lingers),
        ("empty coding in list", coding(" chunked,"), bad(CODINGS), Lingers),
        ("vertical tab", coding(" \x0bchunked"), bad(VALUE), Lingers),
        ("gzip", coding(" gzip"), unknown_coding(), Lingers),
        ("gzip, chunked", coding(" gzip, chunked"), unknown_coding(), Lingers),
        ("identity", coding(" identity"), unknown_coding(), Lingers),
        ("almost chunked", coding(" xchunked"), unknown_coding(), Lingers),
        ("space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), bad(NAME), Lingers),
    ]);
}

#[test]
fn smuggling_by_chunks() {
    let last = get("") + &chunked("1\r\nx\r\n0\r\n\r\n") + &get("X : a\r\n");
    check(vec![
        ("plus", chunked("+1\r\nx\r\n"), bad(SIZE), Lingers),
        ("minus", chunked("-1\r\nx\r\n"), bad(SIZE), Lingers),
        ("space first", chunked(" 1\r\nx\r\n"), bad(SIZE), Lingers),
        ("space last", chunked("1 \r\nx\r\n"), bad(SIZE), Lingers),
        ("0x", chunked("0x1\r\nx\r\n"), bad(SIZE), Lingers),
        ("no digit", chunked("\r\nx\r\n"), bad(SIZE), Lingers),
        ("extension without size", chunked(";a\r\nx\r\n"), bad(SIZE), Lingers),
        ("17 digits", chunked("00000000000000001\r\nx\r\n"), bad(SIZE), Lingers),
        ("underscore", chunked("1_0\r\n"), bad(SIZE), Lingers),
        ("size and line feed", chunked("1\nx\r\n"), bad(FRAMING), Lingers),
        ("size and return", chunked("1\rx\r\n"), bad(FRAMING), Lingers),
        ("extension and line feed", chunked("1;a\nx\r\n"), bad(FRAMING), Lingers),
        ("extension with null", chunked("1;\0\r\nx\r\n"), bad(EXTENSION), Lingers),
        ("longer than said", chunked("1\r\nxy\r\n"), bad(FRAMING), Lingers),
        ("line feed after data", chunked("1\r\nx\n0\r\n\r\n"), bad(FRAMING), Lingers),
        ("return after data", chunked("1\r\nx\r0\r\n\r\n"), bad(FRAMING), Lingers),
        ("line feed after last chunk", chunked("0\n\r\n"), bad(FRAMING), Lingers),
        ("line feed for trailers", chunked("0\r\n\n"), bad(TRAILER), Lingers),
        ("trailer with line feed", chunked("0\r\na: b\n\r\n"), bad(TRAILER), Lingers),
        ("trailer without colon", chunked("0\r\nab\r\n\r\n"), bad(TRAILER), Lingers),
        ("trailer without name", chunked("0\r\n: b\r\n\r\n"), bad(TRAILER), Lingers),
        ("trailer with space before colon", chunked("0\r\na : b\r\n\r\n"), bad(TRAILER), Lingers),
        ("folded trailer", chunked("0\r\na: b\r\n c\r\n\r\n"), bad(TRAILER), Lingers),
        ("return for the end", chunked("0\r\n\rx"), bad(TRAILER), Lingers),
        ("behind good requests", last, hello("") + &bytes("x") + &bad(NAME), Lingers),
    ]);
}
