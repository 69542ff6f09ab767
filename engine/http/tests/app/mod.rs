//! A server that does everything that a handler can do.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use baton::{CannotFreeze, Io, Step};
use baton_http::conditional::{EntityTag, Validators};
use baton_http::websocket::{MaskedMessage, Message, ProtocolError, Sender, Socket, Taken, WebSockets};
use baton_http::{
    Done, Error, Flow, Http, HttpConfig, Later, Method, Out, Progress, Receive, Receiving, Record, Reply, Request,
    Router, Source, State, StatusCode, Thawed, Upgraded, Waker,
};
use serde::{Deserialize, Serialize};

#[derive(Default)]
pub(crate) struct App {
    /// The recorded answers: path, status, bytes of the body, milliseconds.
    pub(crate) records: Vec<(String, u16, u64, u128)>,
    pub(crate) names: Vec<String>,
    pub(crate) later: VecDeque<Later>,
    pub(crate) wakers: Vec<Waker>,
}

impl State for App {
    fn wants_records(&self) -> bool {
        true
    }

    fn on_answer(&mut self, record: &Record<'_>) {
        assert!(record.peer.is_some());
        let path = record.request.map_or("", |request| request.path()).to_owned();
        self.records.push((path, record.status.as_u16(), record.body_bytes, record.took.as_millis()));
    }
}

#[derive(Serialize, Deserialize)]
struct User {
    id: usize,
    name: String,
}

#[derive(Deserialize)]
struct Newcomer {
    name: String,
}

fn show(app: &mut App, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    let id: usize = request.parse_parameter("id")?;
    let name = app.names.get(id).cloned().ok_or_else(Error::not_found)?;
    reply.json(&User { id, name })
}

fn create(app: &mut App, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    let Newcomer { name } = request.json()?;
    app.names.push(name.clone());
    let id = app.names.len() - 1;
    reply.status(StatusCode::CREATED).header("Location", format!("/users/{id}")).json(&User { id, name })
}

/// Counts up, one line at a time.
struct Count(u64, u64);

impl Source for Count {
    fn next(&mut self, out: &mut Out<'_, '_>) -> Result<Progress, Error> {
        if self.0 == self.1 {
            return Ok(Progress::End);
        }
        out.write(format!("line {:06}\n", self.0).as_bytes());
        self.0 += 1;
        Ok(Progress::More)
    }
}

fn count(request: &Request<'_>) -> Result<Count, Error> {
    Ok(Count(0, request.parse_parameter("lines")?))
}

/// Sends one word per wake.
struct Words(VecDeque<&'static str>);

impl Source for Words {
    fn next(&mut self, out: &mut Out<'_, '_>) -> Result<Progress, Error> {
        match self.0.pop_front() {
            Some(word) => out.write(word.as_bytes()),
            None => return Ok(Progress::End),
        }
        Ok(Progress::Wait)
    }
}

/// Counts the bytes of a body.
#[derive(Default)]
struct Measure(u64);

impl Receive<App> for Measure {
    fn on_part(&mut self, _: &mut App, part: &[u8], _: Option<&mut Out<'_, '_>>) -> Result<Flow, Error> {
        if part.contains(&b'!') {
            return Err(Error::bad_request("no shouting"));
        }
        self.0 += part.len() as u64;
        Ok(if part.contains(&b'~') { Flow::Wait } else { Flow::More })
    }

    fn on_end(self: Box<Self>, _: &mut App, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
        reply.text(&format!("{} to {}", self.0, request.path()))
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        state.extend_from_slice(&self.0.to_le_bytes());
        Ok("measure")
    }
}

/// Sends a body back as it arrives.
struct Mirror;

impl Receive<App> for Mirror {
    fn on_part(&mut self, _: &mut App, part: &[u8], out: Option<&mut Out<'_, '_>>) -> Result<Flow, Error> {
        out.expect("it was started").write_input(part);
        Ok(Flow::More)
    }

    fn on_end(self: Box<Self>, _: &mut App, _: &Request<'_>, _: Reply<'_, '_>) -> Result<Done, Error> {
        unreachable!("the answer was started")
    }
}

/// Another protocol: lines come back in capitals.
#[derive(Default)]
struct Shout(u32);

impl Upgraded for Shout {
    fn on_data(&mut self, input: &[u8], io: &mut Io<'_>) -> Step {
        let Some(end) = input.iter().rposition(|byte| *byte == b'\n') else { return Step::more(0) };
        let lines = &input[..=end];
        self.0 += lines.iter().filter(|byte| **byte == b'\n').count() as u32;
        io.write(&lines.to_ascii_uppercase());
        if lines.ends_with(b"bye\n") {
            io.write(format!("{} lines\n", self.0).as_bytes());
            return Step::close(lines.len());
        }
        Step::more(lines.len())
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        state.extend_from_slice(&self.0.to_le_bytes());
        Ok("shout")
    }
}

/// A WebSocket that sends everything back.
pub(crate) struct EchoSocket;

impl Socket for EchoSocket {
    fn on_message(&mut self, message: Message<'_>, sender: &mut Sender<'_, '_>) {
        sender.send(&message);
    }

    fn on_masked(&mut self, message: MaskedMessage<'_>, sender: &mut Sender<'_, '_>) -> Result<Taken, ProtocolError> {
        if message.len().is_multiple_of(2) {
            return Ok(Taken::No);
        }
        sender.send_masked(&message)?;
        Ok(Taken::Yes)
    }

    fn freeze(&self, _: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        Ok(())
    }

    fn thaw(state: &[u8]) -> Option<Self> {
        state.is_empty().then_some(Self)
    }
}

fn thaw_measure(state: &[u8]) -> Option<Thawed<App>> {
    Some(Thawed::Receive(Box::new(Measure(u64::from_le_bytes(state.try_into().ok()?)))))
}

fn thaw_shout(state: &[u8]) -> Option<Thawed<App>> {
    Some(Thawed::Upgraded(Box::new(Shout(u32::from_le_bytes(state.try_into().ok()?)))))
}

pub(crate) fn server() -> Http<App> {
    server_with(&HttpConfig::default())
}

pub(crate) fn server_with(config: &HttpConfig) -> Http<App> {
    let router = Router::new()
        .websocket("/socket", &WebSockets::new(1000), |_, _| Ok(EchoSocket))
        .get("/page", |_, _, reply| {
            let entity_tag = EntityTag::strong("v1");
            let last_modified = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
            reply.validators(&Validators { entity_tag, last_modified }).bytes("text/html", b"<p>")
        })
        .get("/", |_, _, reply| reply.text("hello"))
        .get("/users/{id}", show)
        .post("/users", create)
        .get("/lines/{lines}", |_, request, reply| reply.stream(None, count(request)?))
        .get("/counted-lines/{lines}", |_, request, reply| {
            let source = count(request)?;
            reply.stream(Some(source.1 * 12), source)
        })
        .get("/short", |_, _, reply| reply.stream(Some(100), Count(0, 3)))
        .get("/words", |app: &mut App, _, reply| {
            app.wakers.push(reply.waker());
            reply.stream(None, Words(["one ", "two ", "three"].into()))
        })
        .get("/later", |app: &mut App, _, reply| {
            let (later, done) = reply.later();
            app.later.push_back(later);
            Ok(done)
        })
        .get("/forgotten", |_, _, reply| Ok(reply.later().1))
        .get("/fails", |_, _, _| Err(std::io::Error::other("the disk is on fire").into()))
        .get("/teapot", |_, _, _| Err(Error::new(StatusCode::IM_A_TEAPOT, "short and stout")))
        .get("/inject", |_, request, reply| {
            reply.header("X-Name", request.header("x-name").unwrap_or(b"a\r\nEvil: b")).empty()
        })
        .get("/none", |_, _, reply| reply.status(StatusCode::NO_CONTENT).empty())
        .get("/shout", |_, _, reply| reply.upgrade("shout", Shout::default()))
        .receive(Method::Post, "/upload", |app: &mut App, request, reply| {
            if request.header("x-refuse").is_some() {
                return Err(Error::new(StatusCode::FORBIDDEN, "not you"));
            }
            app.wakers.push(reply.waker());
            Ok(Receiving::Answers(Box::new(Measure::default())))
        })
        .receive(Method::Post, "/mirror", |_, request, reply| {
            Ok(Receiving::Started(reply.start(request.content_length())?, Box::new(Mirror)))
        })
        .receive(Method::Post, "/unread", |_, _, reply| Ok(Receiving::Answered(reply.text("no need")?)))
        .thaws("measure", thaw_measure)
        .thaws("shout", thaw_shout);
    Http::new(config, router, App::default())
}
