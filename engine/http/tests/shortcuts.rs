//! Shortcuts for handlers: typed queries and forms, codings, tags of bodies, routes of WebSockets, errors by name.

use std::borrow::Cow;
use std::rc::Rc;

use baton::CannotFreeze;
use baton::testing::{Harness, output_of_all_handovers};
use baton_http::accept::Encoding;
use baton_http::conditional::{EntityTag, Validators};
use baton_http::websocket::{Message, Sender, Socket, WebSockets};
use baton_http::{Error, Http, HttpConfig, Response, Router, StatusCode};
use serde::{Deserialize, Serialize};

/// The answers of a server with this router: head and body of each.
fn ask(router: Router, input: &str) -> Vec<(String, String)> {
    let mut harness = Harness::new(Http::new(&HttpConfig::default(), router, ()));
    let client = harness.open();
    harness.send(client, input.as_bytes());
    let output = String::from_utf8(harness.take_output(client)).expect("text");
    let mut rest = output.as_str();
    let mut answers = Vec::new();
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |length| length.parse().expect("a length"));
        let (body, behind) = if input.starts_with("HEAD ") { ("", behind) } else { behind.split_at(length) };
        answers.push((head.to_owned(), body.to_owned()));
        rest = behind;
    }
    assert_eq!(rest, "");
    answers
}

fn statuses_and_bodies(answers: &[(String, String)]) -> Vec<(u16, &str)> {
    answers.iter().map(|(head, body)| (head[9..12].parse().expect("a status"), body.as_str())).collect()
}

fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[derive(Deserialize, Serialize)]
struct Search<'a> {
    #[serde(borrow)]
    q: Cow<'a, str>,
    #[serde(default)]
    page: u32,
    sort: Option<String>,
    #[serde(default)]
    tag: Vec<String>,
}

#[test]
fn a_query_is_read_into_a_struct() {
    let router = || Router::new().get("/", |_, request, reply| reply.json(&request.parse_query::<Search<'_>>()?));
    let targets = ["/?q=a+b%21&page=3&tag=x&tag=%C3%BC&more=1", "/?sort=up&q=", "/?page=1", "/", "/?q=a&page=many"];
    let input: String = targets.iter().map(|target| get(target, "")).collect();
    let answers = ask(router(), &input);
    assert_eq!(
        statuses_and_bodies(&answers),
        [
            (200, r#"{"q":"a b!","page":3,"sort":null,"tag":["x","ü"]}"#),
            (200, r#"{"q":"","page":0,"sort":"up","tag":[]}"#),
            (400, "the query: missing field `q`\n"),
            (400, "the query: missing field `q`\n"),
            (400, "the query: invalid digit found in string\n"),
        ]
    );
}

#[test]
fn a_form_is_read_into_a_struct() {
    let router = Router::new().post("/", |_, request, reply| reply.json(&request.form::<Search<'_>>()?));
    let post = |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answers = ask(router, &(post("q=%ff+&page=4294967295") + &post("page=4294967296&q=") + &post("")));
    assert_eq!(
        statuses_and_bodies(&answers),
        [
            (200, "{\"q\":\"\u{fffd} \",\"page\":4294967295,\"sort\":null,\"tag\":[]}"),
            (400, "the form: number too large to fit in target type\n"),
            (400, "the form: missing field `q`\n"),
        ]
    );
}

#[test]
fn a_body_that_the_handler_has_compressed_says_so() {
    let router = || {
        Router::new().get("/", |_, request, reply| {
            let encoding =
                request.accepted_encoding(&[Encoding::Gzip, Encoding::Brotli]).ok_or_else(Error::not_found)?;
            reply.coding(encoding).bytes("text/plain", format!("as {encoding:?}").as_bytes())
        })
    };
    for (accepted, coding, body) in
        [("br, gzip;q=0.5", Some("br"), "as Brotli"), ("gzip", Some("gzip"), "as Gzip"), ("zstd", None, "as Identity")]
    {
        let answers = ask(router(), &get("/", &format!("Accept-Encoding: {accepted}\r\n")));
        let (head, given) = &answers[0];
        assert_eq!(
            (value(head, "Content-Encoding"), value(head, "Vary"), given.as_str()),
            (coding, Some("Accept-Encoding"), body)
        );
    }
}

#[test]
fn a_built_answer_has_the_tag_of_its_body_if_asked() {
    let router = || {
        Router::new()
            .get("/text", |_, request, reply| reply.etag_of_body().text(request.query().unwrap_or("")))
            .get("/json", |_, _, reply| reply.etag_of_body().json(&[1, 2]))
            .get("/counted", |_, _, reply| reply.etag_of_body().counted("text/plain", &Rc::from(&b"ab"[..])))
            .get("/response", |_, _, reply| reply.etag_of_body().response(&Response::text("ab")))
            .get("/missing", |_, _, reply| reply.etag_of_body().status(StatusCode::NOT_FOUND).text("ab"))
            .post("/text", |_, _, reply| reply.etag_of_body().text("ab"))
    };
    let tag_of = |target: &str| {
        let (head, _) = ask(router(), &get(target, "")).remove(0);
        value(&head, "ETag").map(str::to_owned)
    };
    let tag = tag_of("/text?ab").expect("a tag");
    assert!(EntityTag::parse(tag.as_bytes()).is_some_and(|parsed| parsed.strong_eq(&parsed)), "it is strong: {tag}");
    // All workers, binaries and machines compute the same tag: a SHA-1, shortened to the necessary length.
    assert_eq!(tag, "\"2iNhTgJGmg18e9G9q1yc\"");
    for same in ["/counted", "/response"] {
        assert_eq!(tag_of(same).as_ref(), Some(&tag), "{same}");
    }
    assert_ne!(tag_of("/text?abc").expect("a tag"), tag);
    assert_ne!(tag_of("/text").expect("a tag"), tag);
    assert_eq!(tag_of("/missing"), None);
    let known = format!("If-None-Match: \"x\", {tag}\r\n");
    for (target, condition, status) in [
        ("/text?ab", known.as_str(), 304),
        ("/text?ba", &known, 200),
        ("/counted", &known, 304),
        ("/json", &known, 200),
        ("/json", "If-None-Match: *\r\n", 304),
        ("/json", "If-Match: \"x\"\r\n", 412),
        ("/missing", &known, 404),
    ] {
        let answers = ask(router(), &(get(target, condition) + &get(target, "")));
        assert_eq!(statuses_and_bodies(&answers)[0].0, status, "{target} {condition}");
        assert_eq!(answers[0].1.is_empty(), [304, 412].contains(&status), "{target} {condition}");
        assert_eq!(value(&answers[0].0, "ETag").is_some(), status != 404);
        assert!(!answers[1].1.is_empty(), "the connection is in step");
    }
    let (head, _) = ask(router(), "HEAD /text?ab HTTP/1.1\r\nHost: a\r\n\r\n").remove(0);
    assert_eq!((value(&head, "ETag"), value(&head, "Content-Length")), (Some(tag.as_str()), Some("2")));
    // The handler may have changed something already, so its answer is sent whatever the conditions say.
    let answers = ask(router(), "POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nIf-None-Match: *\r\n\r\n");
    assert_eq!((statuses_and_bodies(&answers), value(&answers[0].0, "ETag")), (vec![(200, "ab")], None));
}

#[test]
fn validators_and_the_tag_of_a_body_are_not_mixed_up() {
    let router = Router::new().get("/", |_, _, reply| {
        let (entity_tag, last_modified) = (EntityTag::strong("v1"), None);
        reply.validators(&Validators { entity_tag, last_modified }).text("ab")
    });
    let answers = ask(router, &get("/", ""));
    assert_eq!(value(&answers[0].0, "ETag"), Some("\"v1\""));
}

#[test]
fn errors_have_their_status() {
    type Make = fn(&'static str) -> Error;
    for (make, status) in [
        (Error::bad_request as Make, 400),
        (Error::forbidden, 403),
        (Error::conflict, 409),
        (Error::content_too_large, 413),
        (Error::unsupported_media_type, 415),
        (Error::unprocessable, 422),
        (Error::too_many_requests, 429),
        (Error::internal, 500),
        (Error::unavailable, 503),
    ] {
        let router = Router::new().get("/", move |_, _, _| Err(make("why")));
        assert_eq!(statuses_and_bodies(&ask(router, &get("/", ""))), [(status, "why\n")]);
    }
}

/// Counts the messages, and continues to count after a move.
struct Counting(u8);

impl Socket for Counting {
    const NAME: &'static str = "counting";

    fn on_message(&mut self, _: Message<'_>, sender: &mut Sender<'_, '_>) {
        self.0 += 1;
        sender.send(&Message::Text(&self.0.to_string()));
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        state.push(self.0);
        Ok(())
    }

    fn thaw(state: &[u8]) -> Option<Self> {
        let [count] = state else { return None };
        Some(Self(*count))
    }
}

struct Silent;

impl Socket for Silent {
    const NAME: &'static str = Counting::NAME;

    fn on_message(&mut self, _: Message<'_>, _: &mut Sender<'_, '_>) {}
}

const OPENING: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_route_of_websockets_opens_them_and_moves_them() {
    let server = || {
        let sockets = WebSockets::new(100);
        let router = Router::new()
            .websocket("/from/{count}", &sockets, |_, request| Ok(Counting(request.parse_parameter("count")?)))
            .websocket("/", &sockets, |_, _| Ok(Counting(0)));
        Http::new(&HttpConfig::default(), router, ())
    };
    let input =
        [get("/from/7", OPENING).as_bytes(), b"\x81\x80\0\0\0\0\x82\x81\0\0\0\0x", b"\x88\x80\0\0\0\0"].concat();
    let output = output_of_all_handovers(server, &input);
    assert!(output.ends_with(b"\r\n\r\n\x81\x018\x81\x019\x88\x00"), "{}", output.escape_ascii());
    let mut harness = Harness::new(server());
    let client = harness.open();
    // No WebSocket is created for a request that does not open one.
    let refused = get("/from/many", "") + &get("/from/many", OPENING);
    harness.send(client, refused.as_bytes());
    let output = String::from_utf8(harness.take_output(client)).expect("text");
    assert!(output.starts_with("HTTP/1.1 426 ") && output.contains("HTTP/1.1 400 "), "{output}");
}

#[test]
#[should_panic(expected = "two kinds of sockets have the name \"counting\"")]
fn two_kinds_of_sockets_need_two_names() {
    let sockets = WebSockets::new(100);
    let _ = Router::<()>::new()
        .websocket("/a", &sockets, |_, _| Ok(Counting(0)))
        .websocket("/b", &sockets, |_, _| Ok(Silent));
}
