//! What handlers can do, driven without a kernel.

mod app;

use std::time::Duration;

use baton::config::{Limits, Timeouts};
use baton::testing::{Client, Harness, output_of_all_handovers, output_of_all_splits};
use baton::{CloseReason, TimerKey, Worker};
use baton_http::{Http, HttpConfig, Later, Message, Response, Router, State, StatusCode};

use self::app::{App, server, server_with};

fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
}

fn get(path: &str) -> String {
    request(&format!("GET {path}"), "", "")
}

fn post(path: &str, body: &str) -> String {
    request(&format!("POST {path}"), &format!("Content-Length: {}\r\n", body.len()), body)
}

fn chunked(path: &str, chunks: &[&str]) -> String {
    let body: String = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
    request(&format!("POST {path}"), "Transfer-Encoding: chunked\r\n", &format!("{body}0\r\n\r\n"))
}

fn open() -> (Harness<Http<App>>, Client) {
    let mut harness = Harness::new(server());
    let client = harness.open();
    (harness, client)
}

fn send(harness: &mut Harness<Http<App>>, client: Client, text: &str) -> String {
    harness.send(client, text.as_bytes());
    String::from_utf8(harness.take_output(client)).expect("text")
}

fn ask(text: &str) -> String {
    let (mut harness, client) = open();
    send(&mut harness, client, text)
}

/// Status lines and bodies; chunks are decoded.
fn answers(mut text: &str) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    while !text.is_empty() {
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        let status = head[9..12].parse().expect("a status");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = String::new();
        text = rest;
        if let Some(length) = length {
            let length: usize = length.parse().expect("a length");
            body.push_str(&text[..length]);
            text = &text[length..];
        } else if head.contains("Transfer-Encoding: chunked") {
            loop {
                let (size, rest) = text.split_once("\r\n").expect("a size");
                let size = usize::from_str_radix(size, 16).expect("a size");
                body.push_str(&rest[..size]);
                text = &rest[size + 2..];
                if size == 0 {
                    break;
                }
            }
        }
        answers.push((status, body));
    }
    answers
}

fn lines(count: usize) -> String {
    (0..count).map(|at| format!("line {at:06}\n")).collect()
}

#[test]
fn a_json_api() {
    let all = post("/users", r#"{"name":"Ada"}"#)
        + &get("/users/0")
        + &get("/users/9")
        + &get("/users/x")
        + &post("/users", "{");
    let expected = [
        (201, r#"{"id":0,"name":"Ada"}"#),
        (200, r#"{"id":0,"name":"Ada"}"#),
        (404, "there is nothing here\n"),
        (400, "id: invalid digit found in string\n"),
        (400, "the body is not the expected JSON: EOF while parsing an object at line 1 column 1\n"),
    ];
    let output = ask(&all);
    assert_eq!(answers(&output), expected.map(|(status, body)| (status, body.to_owned())));
    assert!(output.contains("\r\nLocation: /users/0\r\n"));
    assert_eq!(output_of_all_splits(server, all.as_bytes()), output.as_bytes());
}

#[test]
fn a_value_of_the_query_is_parsed() {
    let router = Router::new().get("/", |_, request, reply| reply.json(&request.parse_query_value::<u8>("n")?));
    let mut harness = Harness::new(Http::new(&HttpConfig::default(), router, ()));
    let client = harness.open();
    let all: String = ["/?m=1&n=%31%32", "/", "/?n=256", "/?n="].iter().map(|target| get(target)).collect();
    harness.send(client, all.as_bytes());
    let output = String::from_utf8(harness.take_output(client)).expect("text");
    let answers = answers(&output);
    assert_eq!(answers[..2], [(200, "12".to_owned()), (200, "null".to_owned())]);
    assert_eq!(answers[2..].iter().map(|(status, _)| *status).collect::<Vec<_>>(), [400, 400]);
}

#[test]
fn errors_keep_the_connection_in_step() {
    let all = get("/fails") + &get("/teapot") + &get("/inject") + &get("/");
    let output = ask(&all);
    let failed = (500, "the server failed to answer this request\n".to_owned());
    let expected = [failed.clone(), (418, "short and stout\n".to_owned()), failed, (200, "hello".to_owned())];
    assert_eq!(answers(&output), expected);
    assert!(!output.contains("Evil") && !output.contains("fire"));
    assert!(ask(&request("GET /inject", "X-Name: b\r\n", "")).contains("\r\nX-Name: b\r\n"));
}

#[test]
fn an_answer_without_a_body_says_no_length() {
    let output = ask(&(get("/none") + &get("/")));
    let (first, rest) = output.split_once("\r\n\r\n").expect("a head");
    assert!(first.starts_with("HTTP/1.1 204 No Content\r\n") && !first.contains("Content-Length"), "{first}");
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn answers_are_streamed_and_pipelined_order_holds() {
    let all =
        get("/lines/3") + &get("/counted-lines/2") + &get("/") + &request("HEAD /lines/3", "", "") + &get("/lines/0");
    let output = String::from_utf8(output_of_all_splits(server, all.as_bytes())).expect("text");
    let head = output.rfind("HTTP/1.1 200 OK\r\nServer: baton\r\nDate: ").expect("the last");
    let before = &output[..output[..head].rfind("HTTP/1.1").expect("of HEAD")];
    let expected = [(200, lines(3)), (200, lines(2)), (200, "hello".to_owned())];
    assert_eq!(answers(before), expected);
    assert_eq!(answers(&output[head..]), [(200, String::new())]);
}

#[test]
fn an_old_client_is_streamed_to_until_the_end_of_the_connection() {
    let (mut harness, client) = open();
    let output = send(&mut harness, client, "GET /lines/2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(output.contains("\r\nConnection: close\r\n") && !output.contains("chunked"), "{output}");
    assert!(output.ends_with(&format!("\r\n\r\n{}", lines(2))));
    assert!(harness.saw_end(client));
}

#[test]
fn a_body_that_ends_early_cuts_the_connection() {
    let (mut harness, client) = open();
    harness.send(client, get("/short").as_bytes());
    assert!(harness.was_reset(client));
}

#[test]
fn a_stream_waits_for_a_slow_reader_and_holds_little() {
    let limits = Limits { outbound_bytes_high: 2000, outbound_bytes_low: 500, ..Limits::default() };
    let mut harness = Harness::with(server(), limits, Timeouts::default());
    let client = harness.open();
    harness.set_window(client, Some(0));
    harness.send(client, (get("/lines/5000") + &get("/")).as_bytes());
    let mut output = Vec::new();
    loop {
        assert!(harness.held_bytes(client) < 4000, "{} bytes wait", harness.held_bytes(client));
        harness.set_window(client, Some(700));
        let part = harness.take_output(client);
        if part.is_empty() {
            break;
        }
        output.extend(part);
    }
    let output = String::from_utf8(output).expect("text");
    assert_eq!(answers(&output), [(200, lines(5000)), (200, "hello".to_owned())]);
}

#[test]
fn a_source_that_has_nothing_is_woken() {
    let (mut harness, client) = open();
    let mut output = send(&mut harness, client, &(get("/words") + &get("/")));
    assert!(output.ends_with("one \r\n"), "{output}");
    for _ in 0..3 {
        harness.protocol().state().wakers[0].wake();
        output += &send(&mut harness, client, "");
    }
    assert_eq!(answers(&output), [(200, "one two three".to_owned()), (200, "hello".to_owned())]);
}

#[test]
fn answers_come_later_in_their_order() {
    let (mut harness, client) = open();
    let other = harness.open();
    let all = get("/later") + &get("/") + &get("/later");
    assert_eq!(send(&mut harness, client, &all), "");
    assert_eq!(answers(&send(&mut harness, other, &get("/"))), [(200, "hello".to_owned())]);
    let first = harness.protocol().state().later.pop_front().expect("one waits");
    std::thread::spawn(move || first.answer(Response::text("first").status(StatusCode::ACCEPTED)))
        .join()
        .expect("told");
    let output = send(&mut harness, client, "");
    assert_eq!(answers(&output), [(202, "first".to_owned()), (200, "hello".to_owned())]);
    harness.protocol().state().later.clear();
    let forgotten = (500, "the server failed to answer this request\n".to_owned());
    assert_eq!(answers(&send(&mut harness, client, "")), std::slice::from_ref(&forgotten));
    assert_eq!(answers(&send(&mut harness, client, &get("/forgotten"))), [forgotten]);
}

#[test]
fn each_of_many_answers_reaches_its_own_client_whoever_gives_it() {
    let mut harness = Harness::new(server());
    let clients: Vec<Client> = (0..100).map(|_| harness.open()).collect();
    for round in 0..3 {
        // Every third client pipelines, so that further input waits.
        for (at, client) in clients.iter().enumerate() {
            let behind = if at % 3 == 0 { get("/") } else { String::new() };
            assert_eq!(send(&mut harness, *client, &(get("/later") + &behind)), "");
        }
        let mut waiting: Vec<_> = harness.protocol().state().later.drain(..).enumerate().collect();
        let halves = [waiting.split_off(50), waiting];
        std::thread::scope(|scope| {
            for half in halves {
                scope.spawn(move || {
                    half.into_iter()
                        .rev()
                        .for_each(|(at, later)| later.answer(Response::text(format!("{round} {at}"))));
                });
            }
        });
        for (at, client) in clients.iter().enumerate() {
            let mut expected = vec![(200, format!("{round} {at}"))];
            expected.extend((at % 3 == 0).then(|| (200, "hello".to_owned())));
            assert_eq!(answers(&send(&mut harness, *client, "")), expected);
        }
    }
}

/// Requests that are answered at the end of the turn, and those of `/timer`, which are answered when a timer fires.
#[derive(Default)]
struct Collected(Vec<Later>, Vec<Later>);

impl State for Collected {
    fn on_turn_end(&mut self, worker: &mut Worker<'_, Message>) {
        if !self.1.is_empty() {
            worker.set_timer(TimerKey(7), Duration::from_millis(5));
        }
        self.0.drain(..).for_each(|later| later.answer(Response::text("turn")));
    }

    fn on_timer(&mut self, key: TimerKey, _: &mut Worker<'_, Message>) {
        assert_eq!(key, TimerKey(7));
        self.1.drain(..).for_each(|later| later.answer(Response::text("timer")));
    }
}

#[test]
fn answers_of_the_worker_itself_come_at_once_and_beside_those_of_threads() {
    let router = Router::new()
        .get("/turn", |state: &mut Collected, _, reply| {
            let (later, done) = reply.later();
            state.0.push(later);
            Ok(done)
        })
        .get("/timer", |state: &mut Collected, _, reply| {
            let (later, done) = reply.later();
            state.1.push(later);
            Ok(done)
        });
    let mut harness = Harness::new(Http::new(&HttpConfig::default(), router, Collected::default()));
    let clients: Vec<Client> = (0..20).map(|_| harness.open()).collect();
    let told = |text: &str| (200, text.to_owned());
    let answered = |harness: &mut Harness<Http<Collected>>, client, input: &str| {
        harness.send(client, input.as_bytes());
        answers(&String::from_utf8(harness.take_output(client)).expect("text"))
    };
    for client in &clients {
        assert_eq!(answered(&mut harness, *client, &get("/turn").repeat(2)), [told("turn"), told("turn")]);
        assert_eq!(answered(&mut harness, *client, &(get("/timer") + &get("/turn"))), []);
    }
    let of_thread = harness.protocol().state().1.pop().expect("one waits");
    std::thread::spawn(move || of_thread.answer(Response::text("thread"))).join().expect("told");
    harness.advance(Duration::from_millis(10));
    for (at, client) in clients.iter().enumerate() {
        let first = if at == 19 { "thread" } else { "timer" };
        assert_eq!(answered(&mut harness, *client, ""), [told(first), told("turn")], "{at}");
    }
}

#[test]
fn a_client_that_goes_away_does_not_get_the_answer_of_another() {
    let (mut harness, client) = open();
    send(&mut harness, client, &get("/later"));
    harness.reset(client);
    let later = harness.protocol().state().later.pop_front().expect("one waits");
    later.answer(Response::text("for nobody"));
    let other = harness.open();
    assert_eq!(answers(&send(&mut harness, other, &get("/"))), [(200, "hello".to_owned())]);
}

#[test]
fn whoever_has_sent_the_last_request_still_gets_its_answer() {
    let (mut harness, client) = open();
    send(&mut harness, client, &(get("/later") + &get("/")));
    harness.finish(client);
    assert_eq!(harness.closed(client), None);
    let later = harness.protocol().state().later.pop_front().expect("one waits");
    later.answer(Response::text("late"));
    let output = send(&mut harness, client, "");
    assert_eq!(answers(&output), [(200, "late".to_owned()), (200, "hello".to_owned())]);
    assert!(harness.closed(client).is_some());
}

#[test]
fn a_handler_that_takes_its_time_is_not_taken_for_a_slow_client() {
    let (mut harness, client) = open();
    send(&mut harness, client, &(get("/later") + &get("/")[..10]));
    harness.advance(Duration::from_secs(600));
    assert_eq!(harness.closed(client), None);
    let later = harness.protocol().state().later.pop_front().expect("one waits");
    later.answer(Response::text("late"));
    let output = send(&mut harness, client, &get("/")[10..]);
    assert_eq!(answers(&output), [(200, "late".to_owned()), (200, "hello".to_owned())]);
}

#[test]
fn bodies_go_in_parts() {
    assert_eq!(answers(&ask(&post("/upload", ""))), [(200, "0 to /upload".to_owned())]);
    let all = post("/upload", "hello") + &chunked("/upload", &["a", "bcd"]) + &post("/upload", "") + &get("/");
    let output = ask(&all);
    let expected = ["5 to /upload", "4 to /upload", "0 to /upload", "hello"];
    assert_eq!(answers(&output), expected.map(|body| (200, body.to_owned())));
    assert_eq!(output_of_all_splits(server, all.as_bytes()), output.as_bytes());
    assert_eq!(output_of_all_handovers(server, all.as_bytes()), output.as_bytes());
}

#[test]
fn a_receiver_that_fails_keeps_the_connection_in_step_behind_a_small_body() {
    let (refused, hello) = ((400, "no shouting\n".to_owned()), (200, "hello".to_owned()));
    let expecting = |body: &str| {
        let headers = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
        request("POST /upload", &headers, body)
    };
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    for body in ["hey!".to_owned(), "!".to_owned() + &"x".repeat(999), "!".to_owned() + &"x".repeat((256 << 10) - 1)] {
        let output = ask(&(post("/upload", &body) + &expecting(&body) + &get("/")));
        let (first, rest) = output.split_once(go_on).expect("told to go on");
        assert_eq!(answers(first), std::slice::from_ref(&refused));
        assert_eq!(answers(rest), [refused.clone(), hello.clone()]);
    }
    let all = post("/upload", "a!bc") + &expecting("a!bc") + &get("/");
    assert_eq!(output_of_all_splits(server, all.as_bytes()), ask(&all).as_bytes());
    // It closes as the client requested, but only after the end of the body.
    let (mut harness, client) = open();
    let headers = "Connection: close\r\nContent-Length: 3\r\n";
    let output = send(&mut harness, client, &request("POST /upload", headers, "!"));
    assert!(output.contains("\r\nConnection: close\r\n") && !harness.saw_end(client), "{output}");
    send(&mut harness, client, "bc");
    assert!(harness.saw_end(client));
}

#[test]
fn a_receiver_that_fails_ends_the_connection_where_much_may_come() {
    let large = "!".to_owned() + &"x".repeat(256 << 10);
    for (first, rest) in [
        (post("/upload", &large), get("/")),
        (request("POST /upload", "Content-Length: 262145\r\n", "!"), String::new()),
        (chunked("/upload", &["hey!"]), get("/")),
    ] {
        let (mut harness, client) = open();
        let output = send(&mut harness, client, &(first + &rest));
        assert_eq!(answers(&output), [(400, "no shouting\n".to_owned())]);
        assert!(output.contains("\r\nConnection: close\r\n") && harness.saw_end(client));
    }
}

#[test]
fn a_receiver_that_fails_is_recorded() {
    let (mut harness, client) = open();
    send(&mut harness, client, &(post("/upload", "a!") + &request("POST /upload", "Content-Length: 9\r\n", "b!")));
    let other = harness.open();
    send(&mut harness, other, &chunked("/upload", &["!"]));
    let records = &harness.protocol().state().records;
    let seen: Vec<_> = records.iter().map(|(path, status, bytes, _)| (path.as_str(), *status, *bytes)).collect();
    assert_eq!(seen, [("/upload", 400, 12); 3]);
}

#[test]
fn a_receiver_that_wants_no_more_holds_the_client_back() {
    let (mut harness, client) = open();
    assert_eq!(send(&mut harness, client, &request("POST /upload", "Content-Length: 4\r\n", "a~")), "");
    assert_eq!(send(&mut harness, client, &format!("b!{}", get("/"))), "");
    harness.advance(Duration::from_secs(600));
    harness.protocol().state().wakers[0].wake();
    let expected = [(400, "no shouting\n".to_owned()), (200, "hello".to_owned())];
    assert_eq!(answers(&send(&mut harness, client, "")), expected);
}

#[test]
fn a_body_is_refused_before_it_is_read() {
    let refused = (403, "not you\n".to_owned());
    let all =
        request("POST /upload", "X-Refuse: 1\r\nContent-Length: 3\r\n", "abc") + &post("/unread", "xyz") + &get("/");
    let expected = [refused.clone(), (200, "no need".to_owned()), (200, "hello".to_owned())];
    assert_eq!(answers(&ask(&all)), expected);
    assert_eq!(output_of_all_splits(server, all.as_bytes()), ask(&all).as_bytes());
    let (mut harness, client) = open();
    let output = send(
        &mut harness,
        client,
        &request("POST /upload", "X-Refuse: 1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n", ""),
    );
    assert_eq!(answers(&output), [refused]);
    assert!(output.contains("\r\nConnection: close\r\n") && harness.saw_end(client));
}

#[test]
fn a_client_is_told_to_go_on_where_its_body_is_wanted() {
    let expect = "Expect: 100-continue\r\nContent-Length: 2\r\n";
    for (path, body) in [("/upload", "2 to /upload"), ("/mirror", "hi")] {
        let output = ask(&request(&format!("POST {path}"), expect, "hi"));
        let rest = output.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").expect("told first");
        assert_eq!(answers(rest), [(200, body.to_owned())]);
    }
}

#[test]
fn bodies_come_back_as_they_come() {
    let all = post("/mirror", "hello") + &get("/");
    let output = ask(&all);
    assert_eq!(answers(&output), [(200, "hello".to_owned()), (200, "hello".to_owned())]);
    assert_eq!(output_of_all_splits(server, all.as_bytes()), output.as_bytes());
    let output = ask(&(chunked("/mirror", &["ab", "c"]) + &get("/")));
    assert_eq!(answers(&output), [(200, "abc".to_owned()), (200, "hello".to_owned())]);
    let large: String = (0..200_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    assert_eq!(answers(&ask(&post("/mirror", &large))), [(200, large)]);
}

#[test]
fn a_streamed_body_has_a_bound_of_its_own() {
    let config = HttpConfig { body_bytes_max: 2, streamed_bytes_max: 5, ..HttpConfig::default() };
    let ask = |text: &str| {
        let mut harness = Harness::new(server_with(&config));
        let client = harness.open();
        let output = send(&mut harness, client, text);
        answers(&output)[0].0
    };
    assert_eq!(ask(&post("/upload", "12345")), 200);
    assert_eq!(ask(&post("/upload", "123456")), 413);
    assert_eq!(ask(&chunked("/upload", &["123", "45"])), 200);
    assert_eq!(ask(&chunked("/upload", &["123", "456"])), 413);
    assert_eq!(ask(&post("/users", "123")), 413);
}

#[test]
fn a_connection_is_upgraded_with_the_bytes_behind_the_request() {
    let upgrade = request("GET /shout", "Connection: keep-alive, Upgrade\r\nUpgrade: shout\r\n", "");
    let all = get("/") + &upgrade + "one\ntwo\nthr";
    let (mut harness, client) = open();
    let output = send(&mut harness, client, &all);
    let (first, rest) = output.split_once("HTTP/1.1 101 Switching Protocols\r\n").expect("switched");
    assert_eq!(answers(first), [(200, "hello".to_owned())]);
    let (head, rest) = rest.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("Connection: upgrade\r\nUpgrade: shout") && !head.contains("Content-Length"), "{head}");
    assert_eq!(rest, "ONE\nTWO\n");
    assert_eq!(send(&mut harness, client, "ee\nbye\n"), "THREE\nBYE\n4 lines\n");
    assert!(harness.saw_end(client));
    let all = all + "ee\nbye\n";
    let whole = output_of_all_splits(server, all.as_bytes());
    assert_eq!(output_of_all_handovers(server, all.as_bytes()), whole);
    assert_eq!(answers(&ask(&get("/shout")))[0].0, 426);
}

#[test]
fn draining_lets_what_was_begun_end() {
    let (mut harness, later) = open();
    let words = harness.open();
    send(&mut harness, later, &get("/later"));
    send(&mut harness, words, &get("/words"));
    harness.drain();
    let waiting = harness.protocol().state().later.pop_front().expect("one waits");
    waiting.answer(Response::text("late"));
    let output = send(&mut harness, later, "");
    assert!(output.contains("\r\nConnection: close\r\n") && output.ends_with("late"), "{output}");
    assert!(harness.saw_end(later));
    for _ in 0..3 {
        harness.protocol().state().wakers[0].wake();
        send(&mut harness, words, "");
    }
    assert!(harness.saw_end(words));
}

#[test]
fn half_a_streamed_body_and_then_the_end_is_no_request() {
    let (mut harness, client) = open();
    send(&mut harness, client, &request("POST /upload", "Content-Length: 5\r\n", "ab"));
    harness.finish(client);
    assert_eq!(send(&mut harness, client, ""), "");
    assert_eq!(harness.closed(client), Some(CloseReason::Peer));
}

#[test]
fn answers_are_recorded_when_they_are_over() {
    let (mut harness, client) = open();
    let all =
        get("/") + &get("/none") + &get("/x") + &get("/lines/2") + &post("/upload", "abc") + &post("/mirror", "abcd");
    send(&mut harness, client, &(all + &get("/later")));
    let other = harness.open();
    send(&mut harness, other, &get("/words"));
    harness.advance(Duration::from_millis(20));
    harness.protocol().state().later.pop_front().expect("one waits").answer(Response::text("late"));
    send(&mut harness, client, "\n");
    harness.reset(other);
    let expected = [
        ("/", 200, 5, 0),
        ("/none", 204, 0, 0),
        ("/x", 404, 22, 0),
        ("/lines/2", 200, 24, 0),
        ("/upload", 200, 12, 0),
        ("/mirror", 200, 4, 0),
        ("/later", 200, 4, 20),
        ("", 400, 53, 0),
        ("/words", 200, 4, 0),
    ];
    let records = std::mem::take(&mut harness.protocol().state().records);
    let seen: Vec<_> = records.iter().map(|(path, status, bytes, ms)| (path.as_str(), *status, *bytes, *ms)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn what_the_client_has_already_is_not_sent_again() {
    let etag = "ETag: \"v1\"\r\n";
    let date = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let rows = [
        ("", "HTTP/1.1 200 OK\r\n", true),
        ("If-None-Match: \"v0\", W/\"v1\"\r\n", "HTTP/1.1 304 Not Modified\r\n", false),
        ("If-None-Match: *\r\n", "HTTP/1.1 304 Not Modified\r\n", false),
        ("If-None-Match: \"v0\"\r\n", "HTTP/1.1 200 OK\r\n", true),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "HTTP/1.1 304 Not Modified\r\n", false),
        ("If-Match: \"v0\"\r\n", "HTTP/1.1 412 Precondition Failed\r\n", false),
    ];
    for (condition, status, has_body) in rows {
        let output = ask(&(request("GET /page", condition, "") + &get("/")));
        assert!(output.starts_with(status), "{condition}{output}");
        assert!(output.contains(etag) && output.contains(date), "{output}");
        assert_eq!(output.contains("\r\n\r\n<p>HTTP/1.1 200 OK\r\n"), has_body, "{output}");
        let (head, rest) = output.split_once("\r\n\r\n").expect("a head");
        assert_eq!(head.contains("Content-Type"), has_body);
        assert_eq!(head.contains("Content-Length"), !status.contains("304"));
        assert!(rest.ends_with("hello"), "{output}");
    }
}

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [7, 31, 250, 99];
    let masked = payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]);
    [first, 0x80 | payload.len() as u8].into_iter().chain(key).chain(masked).collect()
}

#[test]
fn a_websocket_echoes_across_cuts_and_upgrades() {
    let opening = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let frames = [
        frame(0x81, "hello".as_bytes()),
        frame(0x82, b"even"),
        frame(0x01, "h\u{fc}".as_bytes().split_last().expect("bytes").1),
        frame(0x89, b"ping"),
        frame(0x80, &["\u{fc}".as_bytes()[1], b'!']),
        frame(0x88, &1000u16.to_be_bytes()),
    ];
    let input = [request("GET /socket", opening, "").into_bytes(), frames.concat()].concat();
    let output = output_of_all_splits(server, &input);
    let at = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(output[..at].to_vec()).expect("text");
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
    );
    let expected: [&[u8]; 5] =
        [b"\x81\x05hello", b"\x82\x04even", b"\x8a\x04ping", b"\x81\x04h\xc3\xbc!", b"\x88\x02\x03\xe8"];
    assert_eq!(output[at..].escape_ascii().to_string(), expected.concat().escape_ascii().to_string());
    assert_eq!(output_of_all_handovers(server, &input), output);
}

#[test]
fn a_websocket_that_breaks_the_protocol_is_told_why() {
    let (mut harness, client) = open();
    assert!(send(&mut harness, client, &get("/socket")).starts_with("HTTP/1.1 426 "));
    let opening = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    send(&mut harness, client, &request("GET /socket", opening, ""));
    harness.send(client, b"\x81\x01a");
    assert_eq!(harness.take_output(client), b"\x88\x02\x03\xea");
    assert!(harness.saw_end(client));
}
