//! HTTP/1.0 and 1.1 on the engine: `/`, `/plaintext`, `/json`, `/echo`, `/health`.
//!
//! This file drives the exchange: head, body, answer, and what becomes of the connection. Parsing lives in `head`,
//! `fields`, `route` and `chunked`, which know no connection. Invariant: the bytes answered depend on the bytes
//! received and the clock, never on how the network cut them, nor on what the memo remembers.

mod answer;
mod body;
mod chunked;
mod fields;
pub mod fuzz;
mod head;
mod memo;
mod refusal;
mod route;

use std::time::Duration;

use baton::{
    CannotFreeze, Drain, Io, Limit, Next, Peer, Protocol, Reject, StateFormat, Step, SystemCalls, ThawError, TimerKey,
};

use self::answer::{Answer, Answers, Say};
use self::body::Body;
use self::head::{Framing, HeadLimits, Persistence, Request};
use self::memo::Memo;
use self::refusal::Refusal;
use self::route::Action;

/// Requests answered for one connection before the others get their turn.
const REQUESTS_PER_TURN_MAX: usize = 256;

/// Empty lines skipped before a request line. RFC 9112 2.2 asks for one, for old clients that end a body with it.
const EMPTY_LINES_MAX: u8 = 4;

const BODY_TIMER: TimerKey = TimerKey(0);

const _: () = assert!(size_of::<HttpConnection>() <= 16, "ten thousand idle connections are to be cheap");

/// Settings of [`Http`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Value of the `Server` header, default `baton`; none where it is empty.
    pub server: String,
    /// Largest request head, default 16 KiB; then 431.
    pub head_bytes_max: usize,
    /// Largest request target, default 8 KiB; then 414.
    pub target_bytes_max: usize,
    /// Largest request body, default 1 MiB; then 413.
    pub body_bytes_max: usize,
    /// Longest time from a request's head to the end of its body, in milliseconds, default 30,000, 0 = off; then 408.
    /// The engine's own `message_ms` watches the head.
    pub body_ms: u64,
    /// Requests answered on one connection before it is closed, default 0 = any number.
    pub requests_max: u32,
    /// Whether heads seen before are recognised without parsing them, default yes. Changes no answer.
    pub memo: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            server: "baton".to_owned(),
            head_bytes_max: 16 * 1024,
            target_bytes_max: 8 * 1024,
            body_bytes_max: 1024 * 1024,
            body_ms: 30_000,
            requests_max: 0,
            memo: true,
        }
    }
}

/// An HTTP/1.1 server.
pub struct Http {
    answers: Answers,
    memo: Memo,
    head_limits: HeadLimits,
    body_bytes_max: u64,
    body_ms: u64,
    requests_max: u32,
}

/// State of a connection of [`Http`].
#[derive(Default)]
pub struct HttpConnection {
    /// A request whose head was taken and whose body is on its way.
    body: Option<Box<Body>>,
    requests: u32,
    empty_lines: u8,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Keep,
    /// The client wants no more: no need to wait for its FIN.
    Finish,
    Close,
}

impl After {
    /// `rest` is input behind the request.
    fn next(self, rest: &[u8]) -> Option<Next> {
        match self {
            Self::Keep => None,
            Self::Finish if rest.is_empty() => Some(Next::Finish),
            // Closing with input unread resets the connection, and the answer may be lost.
            Self::Finish | Self::Close => Some(Next::Close),
        }
    }
}

impl Http {
    /// A server with these settings.
    pub fn new(config: &HttpConfig) -> Self {
        let HttpConfig { server, head_bytes_max, target_bytes_max, body_bytes_max, body_ms, requests_max, memo } =
            config;
        Self {
            answers: Answers::new(server),
            memo: Memo::new(*memo),
            head_limits: HeadLimits { head_bytes_max: *head_bytes_max, target_bytes_max: *target_bytes_max },
            body_bytes_max: *body_bytes_max as u64,
            body_ms: *body_ms,
            requests_max: *requests_max,
        }
    }

    /// How many of the next requests may be answered alike: none of them is the last one.
    #[inline]
    fn run_max(&self, connection: &HttpConnection, answered: usize, io: &Io<'_>) -> usize {
        let in_turn = REQUESTS_PER_TURN_MAX - answered;
        match self.requests_max {
            _ if io.is_draining() => 0,
            0 => in_turn,
            most => in_turn.min(most.saturating_sub(1).saturating_sub(connection.requests) as usize),
        }
    }

    /// Answers requests at the start of `input` whose heads are known; gives the bytes taken.
    #[inline]
    fn answer_known(
        &mut self,
        connection: &mut HttpConnection,
        input: &[u8],
        answered: &mut usize,
        io: &mut Io<'_>,
    ) -> Option<(usize, After)> {
        let run_max = self.run_max(connection, *answered, io);
        let (head, request) = self.memo.find(input)?;
        connection.empty_lines = 0;
        let is_plain = request.action == Action::Plaintext && !request.is_head;
        if is_plain && request.persistence == Persistence::Keep && run_max > 0 {
            let mut count = 1;
            while count < run_max && input[count * head.len()..].starts_with(head) {
                count += 1;
            }
            let taken = count * head.len();
            self.answers.write_plaintext(io, count);
            connection.requests = connection.requests.saturating_add(count as u32);
            *answered += count;
            return Some((taken, After::Keep));
        }
        let taken = head.len();
        *answered += 1;
        Some((taken, self.answer(connection, request, None, b"", io)))
    }

    /// Parses the head at the start of `input` and goes on with it; gives the bytes taken, none while more is needed.
    fn begin(
        &mut self,
        connection: &mut HttpConnection,
        input: &[u8],
        answered: &mut usize,
        io: &mut Io<'_>,
    ) -> Result<(usize, After), Refusal> {
        if matches!(input[0], b'\r' | b'\n') {
            return skip_empty_line(connection, input);
        }
        let Some(head) = head::parse(input, self.head_limits)? else { return Ok((0, After::Keep)) };
        connection.empty_lines = 0;
        self.memo.remember(input, &head);
        let behind = &input[head.length..];
        if let Framing::Length(length) = head.framing
            && length > self.body_bytes_max
        {
            return Err(Refusal::BODY_TOO_LARGE);
        }
        if head.expects_continue {
            // Nobody knows whether the client, told no, still sends its body: hence the close.
            if head.request.action.is_error() {
                let request = Request { persistence: Persistence::Close, ..head.request };
                *answered += 1;
                self.answer(connection, request, None, b"", io);
                return Ok((head.length, After::Close));
            }
            io.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        match head.framing {
            Framing::Length(length) if length <= behind.len() as u64 => {
                let length = length as usize;
                *answered += 1;
                let after = self.answer(connection, head.request, head.content_type, &behind[..length], io);
                Ok((head.length + length, after))
            }
            _ => {
                connection.body = Some(Body::new(&head, self.body_bytes_max));
                Ok((head.length, After::Keep))
            }
        }
    }

    /// Goes on with a body; gives the bytes taken.
    fn go_on(
        &mut self,
        connection: &mut HttpConnection,
        input: &[u8],
        answered: &mut usize,
        io: &mut Io<'_>,
    ) -> Result<(usize, After), Refusal> {
        let Some(body) = &mut connection.body else { return Ok((0, After::Keep)) };
        let taken = body.receive(input)?;
        if !body.has_ended() {
            return Ok((taken, After::Keep));
        }
        if body.has_timer {
            io.cancel_timer(BODY_TIMER);
        }
        let Some(body) = connection.body.take() else { return Ok((taken, After::Keep)) };
        *answered += 1;
        Ok((taken, self.answer(connection, body.request, body.content_type.as_deref(), &body.kept, io)))
    }

    fn answer(
        &mut self,
        connection: &mut HttpConnection,
        request: Request,
        content_type: Option<&[u8]>,
        body: &[u8],
        io: &mut Io<'_>,
    ) -> After {
        connection.requests = connection.requests.saturating_add(1);
        let is_last = self.requests_max > 0 && connection.requests >= self.requests_max || io.is_draining();
        let (say, after) = match request.persistence {
            Persistence::Close => (Say::Close, After::Finish),
            _ if is_last => (Say::Close, After::Close),
            Persistence::Keep => (Say::Nothing, After::Keep),
            Persistence::KeepSaid => (Say::KeepAlive, After::Keep),
        };
        let answer = match request.action {
            Action::Json => {
                self.answers.write_json(io, say, !request.is_head);
                return after;
            }
            Action::Plaintext => Answer::PLAINTEXT,
            Action::Health => Answer::HEALTH,
            Action::Echo => Answer::echo(content_type, body),
            Action::Options(allow) => Answer::options(allow),
            Action::NotFound => Answer::NOT_FOUND,
            Action::NotAllowed(allow) => Answer::not_allowed(allow),
        };
        self.answers.write(io, say, &answer, !request.is_head);
        after
    }

    /// `input` is where the refused request begins, if no head was taken yet.
    fn refuse(&mut self, connection: &mut HttpConnection, refusal: Refusal, input: &[u8], io: &mut Io<'_>) {
        // Even an answer to something broken has no body where the client expects none.
        let is_head = match connection.body.take() {
            Some(body) => body.request.is_head,
            None => input.starts_with(b"HEAD "),
        };
        self.answers.write(io, Say::Close, &Answer::refusal(refusal), !is_head);
    }
}

fn skip_empty_line(connection: &mut HttpConnection, input: &[u8]) -> Result<(usize, After), Refusal> {
    if input[0] == b'\n' {
        return Err(Refusal::LINE_FEED);
    }
    match input.get(1) {
        None => Ok((0, After::Keep)),
        Some(b'\n') if connection.empty_lines < EMPTY_LINES_MAX => {
            connection.empty_lines += 1;
            Ok((2, After::Keep))
        }
        Some(b'\n') => Err(Refusal::EMPTY_LINES),
        Some(_) => Err(Refusal::REQUEST_LINE),
    }
}

impl Protocol for Http {
    type Connection = HttpConnection;
    type Message = ();

    const SYSTEM_CALLS: SystemCalls = SystemCalls::ServeOnly;

    fn on_open(&mut self, _peer: Peer<'_>, _io: &mut Io<'_>) -> Result<HttpConnection, Reject> {
        Ok(HttpConnection::default())
    }

    #[inline]
    fn on_data(&mut self, connection: &mut HttpConnection, input: &[u8], io: &mut Io<'_>) -> Step {
        self.answers.refresh(io);
        let mut consumed = 0;
        let mut answered = 0;
        let next = loop {
            let rest = &input[consumed..];
            if rest.is_empty() {
                break Next::Keep;
            }
            if answered >= REQUESTS_PER_TURN_MAX || io.is_full() {
                break Next::Yield;
            }
            let outcome = if connection.body.is_some() {
                self.go_on(connection, rest, &mut answered, io)
            } else if let Some(known) = self.answer_known(connection, rest, &mut answered, io) {
                Ok(known)
            } else {
                self.begin(connection, rest, &mut answered, io)
            };
            match outcome {
                Ok((0, After::Keep)) => break Next::Keep,
                Ok((taken, after)) => {
                    consumed += taken;
                    if let Some(next) = after.next(&input[consumed..]) {
                        break next;
                    }
                }
                Err(refusal) => {
                    answered += 1;
                    self.refuse(connection, refusal, rest, io);
                    break Next::Close;
                }
            }
        };
        io.count_requests(answered as u64);
        io.set_held_bytes(connection.body.as_ref().map_or(0, |body| body.held_bytes()));
        if let Some(body) = &mut connection.body
            && !body.has_timer
            && self.body_ms > 0
        {
            body.has_timer = true;
            io.set_timer(BODY_TIMER, Duration::from_millis(self.body_ms));
        }
        Step { consumed, next }
    }

    fn on_timer(&mut self, connection: &mut HttpConnection, _key: TimerKey, io: &mut Io<'_>) -> Next {
        if connection.body.is_none() {
            return Next::Keep;
        }
        self.answers.refresh(io);
        self.refuse(connection, Refusal::TIMEOUT, b"", io);
        Next::Close
    }

    fn on_limit(&mut self, connection: &mut HttpConnection, limit: Limit, input: &[u8], io: &mut Io<'_>) -> Next {
        self.answers.refresh(io);
        match limit {
            Limit::Idle | Limit::Message if connection.is_idle(input) => {}
            Limit::Idle | Limit::Message => self.refuse(connection, Refusal::TIMEOUT, input, io),
            Limit::MessageBytes => self.refuse(connection, Refusal::HEAD_TOO_LARGE, input, io),
            Limit::Connections if connection.is_idle(input) => {}
            // In the middle of a body.
            Limit::Connections => return Next::Keep,
        }
        Next::Close
    }

    /// Version 1: requests answered (four bytes, little endian), empty lines (one byte), and the body on its way, if any.
    const STATE: Option<StateFormat> = Some(StateFormat { name: "http", version: 1 });

    fn freeze(&mut self, connection: &HttpConnection, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        state.extend_from_slice(&connection.requests.to_le_bytes());
        state.push(connection.empty_lines);
        connection.body.as_ref().map_or(Ok(()), |body| body.freeze(state))
    }

    fn thaw(
        &mut self,
        version: u32,
        state: &[u8],
        _peer: Peer<'_>,
        _io: &mut Io<'_>,
    ) -> Result<HttpConnection, ThawError> {
        if version != 1 {
            return Err(ThawError::Version(version));
        }
        let (requests, rest) = state.split_first_chunk::<4>().ok_or(ThawError::Malformed)?;
        let (empty_lines, body) = rest.split_first().ok_or(ThawError::Malformed)?;
        if *empty_lines > EMPTY_LINES_MAX {
            return Err(ThawError::Malformed);
        }
        let body = if body.is_empty() {
            None
        } else {
            Some(Body::thaw(body, self.head_limits.head_bytes_max, self.body_bytes_max)?)
        };
        Ok(HttpConnection { body, requests: u32::from_le_bytes(*requests), empty_lines: *empty_lines })
    }

    fn on_drain(
        &mut self,
        connection: &mut HttpConnection,
        _deadline: Duration,
        input: &[u8],
        _io: &mut Io<'_>,
    ) -> Drain {
        if connection.is_idle(input) { Drain::Close } else { Drain::Wait }
    }
}

impl HttpConnection {
    /// Between two requests; `input` is what was not consumed.
    fn is_idle(&self, input: &[u8]) -> bool {
        self.body.is_none() && input.is_empty()
    }
}
