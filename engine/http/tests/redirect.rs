//! Listeners that redirect requests to TLS.

use baton::testing::{Client, Harness, output_of_all_handovers, output_of_all_splits};
use baton_http::{Http, HttpConfig, Redirect, Router};

/// The label of the listener in these tests.
const LABEL: u8 = 3;

fn server(label: u8, port: u16) -> Http {
    let router = Router::new()
        .get("/", |_, _, reply| reply.text("here"))
        .post("/echo", |_, request, reply| reply.bytes("text/plain", request.body()))
        .get("/.well-known/acme-challenge/{token}", |_, request, reply| reply.text(&request.parameter("token")?));
    let except = vec!["/.well-known/acme-challenge/".to_owned()];
    Http::new(&HttpConfig::default(), router, ()).with_redirect(label, Redirect { port, except })
}

fn harness() -> (Harness<Http>, Client) {
    let mut harness = Harness::new(server(LABEL, 443));
    let client = harness.open_labelled(LABEL);
    (harness, client)
}

/// The status, and the location if there is one.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    location: Option<String>,
    closes: bool,
    body: String,
}

/// The answers to requests other than HEAD: every answer gives its length.
fn answers(mut output: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !output.is_empty() {
        let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = std::str::from_utf8(&output[..end]).expect("text");
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let length: usize = header("Content-Length").map_or(0, |length| length.parse().expect("a length"));
        answers.push(Answer {
            status: head[9..12].parse().expect("a status"),
            location: header("Location").map(str::to_owned),
            closes: header("Connection") == Some("close"),
            body: String::from_utf8(output[end..end + length].to_vec()).expect("text"),
        });
        output = &output[end + length..];
    }
    answers
}

fn moved(location: &str) -> Answer {
    Answer { status: 308, location: Some(location.to_owned()), closes: false, body: String::new() }
}

fn ask(input: &str) -> Vec<Answer> {
    let (mut harness, client) = harness();
    harness.send(client, input.as_bytes());
    answers(&harness.take_output(client))
}

#[test]
fn requests_are_sent_on_to_the_same_url_with_https() {
    for (line, host, location) in [
        ("GET /", "a.example", "https://a.example/"),
        ("GET /a%20b?c=d&e=/f?g", "a.example:80", "https://a.example/a%20b?c=d&e=/f?g"),
        ("GET /nothing?", "192.0.2.1:8080", "https://192.0.2.1/nothing?"),
        ("GET //b.example/", "a.example", "https://a.example//b.example/"),
        ("DELETE /echo", "[::1]:8080", "https://[::1]/echo"),
        ("OPTIONS /", "a.example", "https://a.example/"),
        ("GET http://b.example:80/c?d", "a.example", "https://b.example/c?d"),
        ("GET http://b.example", "a.example", "https://b.example/"),
        ("GET http://b.example?d", "a.example", "https://b.example/?d"),
    ] {
        assert_eq!(ask(&format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n")), [moved(location)], "{line}");
    }
}

#[test]
fn another_port_is_said() {
    let mut harness = Harness::new(server(LABEL, 8443));
    let client = harness.open_labelled(LABEL);
    harness.send(client, b"GET /a HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n");
    assert_eq!(answers(&harness.take_output(client)), [moved("https://[2001:db8::1]:8443/a")]);
}

#[test]
fn a_head_is_answered_as_a_get_is() {
    let answer = |method: &str| {
        let (mut harness, client) = harness();
        harness.send(client, format!("{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes());
        harness.take_output(client)
    };
    assert_eq!(answer("HEAD"), answer("GET"));
}

#[test]
fn without_a_usable_host_there_is_nowhere_to_go_on() {
    for request in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example:80:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a%2fexample\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET http://user@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ] {
        let answers = ask(request);
        assert_eq!(answers.len(), 1, "{request}");
        assert_eq!((answers[0].status, &answers[0].location), (400, &None), "{request}");
        assert!(!answers[0].body.is_empty());
    }
}

#[test]
fn bodies_are_skipped_and_the_connection_goes_on() {
    let chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let input = format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{chunked}GET /b HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    let all = || [moved("https://a/echo"), moved("https://a/echo"), moved("https://a/b")];
    assert_eq!(ask(&input), all());
    // The label of connections that `output_of_all_splits` opens.
    let output = output_of_all_splits(|| server(0, 443), input.as_bytes());
    assert_eq!(output_of_all_handovers(|| server(0, 443), input.as_bytes()), output);
    assert_eq!(answers(&output), all());
    // The server cannot know whether a client that was refused still sends its body.
    let expecting = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(ask(expecting), [Answer { closes: true, ..moved("https://a/echo") }]);
}

#[test]
fn what_is_excepted_is_answered_here() {
    let here = |body: &str| Answer { status: 200, location: None, closes: false, body: body.to_owned() };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(ask(&get("/.well-known/acme-challenge/token")), [here("token")]);
    assert_eq!(ask(&get("/.well-known/acme-challenge")), [moved("https://a/.well-known/acme-challenge")]);
    assert_eq!(ask(&get("/.well-known/security.txt")), [moved("https://a/.well-known/security.txt")]);
    assert_eq!(ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), [here("")]);
}

#[test]
fn other_listeners_answer_themselves() {
    let mut harness = Harness::new(server(LABEL, 443));
    for client in [harness.open(), harness.open_labelled(LABEL + 1)] {
        harness.send(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(answers(&harness.take_output(client))[0].body, "here");
    }
}

#[test]
fn a_connection_that_has_moved_is_of_its_listener_still() {
    let (mut harness, client) = harness();
    harness.send(client, b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    harness.hand_over(server(LABEL, 8443));
    harness.send(client, b"lloGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let expected = [moved("https://a:8443/echo"), moved("https://a:8443/")];
    assert_eq!(answers(&harness.take_output(client)), expected);
}
