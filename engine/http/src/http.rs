//! HTTP as a [`Protocol`] of the engine: head, body, answer, and whether the connection continues.
//!
//! Invariant: the answered bytes depend on the received bytes, the handlers and the clock, never on how the network
//! split them.

use std::io;
use std::num::NonZeroU8;
use std::time::Duration;

use baton::{
    CannotFreeze, CloseReason, Closed, Drain, Io, Limit, Next, Peer, Protocol, Reject, StateFormat, Step, SystemCalls,
    ThawError, TimerKey, Worker,
};

use crate::answer::{self, After, Answering};
use crate::body::Rest;
use crate::config::HttpConfig;
use crate::connection::{BODY_TIMER, Busy, Doing, EMPTY_LINES_LEFT, HttpConnection, Pumped, Spares};
use crate::exchange::Flow;
use crate::head::{self, FieldList, Framing, HeadLimits};
use crate::later::{Inside, Late, Message, Post, Response};
use crate::method::Method;
use crate::out::Out;
use crate::peers::{PeerPlace, Peers};
use crate::record::{Pending, Record};
use crate::redirect::{Redirect, Routes};
use crate::refusal::Refusal;
use crate::request::Request;
use crate::router::{Endpoint, Found, Router};
use crate::state::State;
use crate::writer::Writer;

/// Requests answered for one connection before the others get their turn.
const REQUESTS_PER_TURN_MAX: usize = 256;

/// The first reservation for a body that is kept: no more is reserved only because a peer announces it.
const KEPT_BYTES_FIRST: usize = 64 * 1024;

/// An HTTP/1.1 server: routes, and the state that their handlers share. Each worker has one.
///
/// Bodies of `POST`, `PUT` and `PATCH` are collected for their handler, up to [`HttpConfig::body_bytes_max`]; those of other
/// methods are skipped.
pub struct Http<S: State = ()> {
    routes: Routes<S>,
    state: S,
    writer: Writer,
    spares: Spares<S>,
    fields: FieldList,
    head_limits: HeadLimits,
    body_bytes_max: u64,
    streamed_bytes_max: u64,
    body_ms: u64,
    requests_max: u32,
    /// `Some` if answers are recorded.
    peers: Option<Peers>,
    /// Memory for answers that are taken out of the post.
    taken: Vec<Late>,
}

/// How much of the input was consumed.
enum Taken {
    /// This many bytes, and what follows.
    Bytes(usize, After),
    /// More is needed.
    Nothing,
}

impl<S: State> Http<S> {
    /// A server with these settings and routes.
    pub fn new(config: &HttpConfig, router: Router<S>, state: S) -> Self {
        Self {
            routes: Routes { router, redirects: Vec::new() },
            state,
            writer: Writer::new(&config.server),
            spares: Spares::default(),
            fields: FieldList::default(),
            head_limits: HeadLimits {
                head_bytes_max: config.head_bytes_max,
                target_bytes_max: config.target_bytes_max,
            },
            body_bytes_max: config.body_bytes_max as u64,
            streamed_bytes_max: config.streamed_bytes_max,
            body_ms: config.body_ms,
            requests_max: config.requests_max,
            peers: None,
            taken: Vec::new(),
        }
    }

    /// Redirects requests at listeners with this [label](baton::config::Listener::label) to TLS.
    #[must_use]
    pub fn with_redirect(mut self, label: u8, redirect: Redirect) -> Self {
        self.routes.redirects.push((label, redirect));
        self
    }

    /// The state that the handlers share.
    pub fn state(&mut self) -> &mut S {
        &mut self.state
    }

    /// Parses the head at the start of `input` and continues with it.
    fn begin(
        &mut self,
        connection: &mut HttpConnection<S>,
        input: &[u8],
        answered: &mut usize,
        io: &mut Io<'_>,
    ) -> Result<Taken, Refusal> {
        if matches!(input[0], b'\r' | b'\n') {
            return skip_empty_line(connection, input);
        }
        let Some(head) = head::parse(input, self.head_limits, &mut self.fields)? else { return Ok(Taken::Nothing) };
        connection.empty_lines_left = EMPTY_LINES_LEFT;
        let Self { routes, state, writer, spares, fields, requests_max, peers, .. } = self;
        let found = routes.find(io.label(), &head);
        let (bytes, behind) = input.split_at(head.length);
        let mut request = Request { head, bytes, fields, parameters: found.parameters(), body: b"" };
        let mut answering = Answering { state, writer, spares, requests_max: *requests_max, peers: peers.as_ref() };
        if head.framing == Framing::Length(0) && !found.takes_parts() {
            *answered += 1;
            return Ok(Taken::Bytes(head.length, answering.answer(connection, &request, &found, io)));
        }
        let bytes_max = if found.takes_parts() { self.streamed_bytes_max } else { self.body_bytes_max };
        if matches!(head.framing, Framing::Length(length) if length > bytes_max) {
            return Err(Refusal::BODY_TOO_LARGE);
        }
        let rest = Rest::new(head.framing, bytes_max);
        if let Found::Endpoint(Endpoint::Parts(begin), _) = &found {
            return Ok(Taken::Bytes(
                head.length,
                answering.begin_parts(connection, &request, begin, rest, answered, io),
            ));
        }
        if head.expects_continue {
            // It is unknown whether a client that is refused still sends its body, so the connection closes.
            if !matches!(found, Found::Endpoint(..) | Found::Options(_)) {
                *answered += 1;
                answering.answer_last(connection, &request, &found, io);
                return Ok(Taken::Bytes(head.length, After::Close));
            }
            io.write(answer::CONTINUE);
        }
        let is_kept = found.wants_body(head.method);
        match head.framing {
            Framing::Length(length) if length <= behind.len() as u64 => {
                let length = length as usize;
                request.body = if is_kept { &behind[..length] } else { b"" };
                *answered += 1;
                Ok(Taken::Bytes(head.length + length, answering.answer(connection, &request, &found, io)))
            }
            framing => {
                let room = match framing {
                    Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX).min(KEPT_BYTES_FIRST),
                    Framing::Chunked => 0,
                };
                let doing = Doing::Body { rest, kept: is_kept.then(|| Vec::with_capacity(room)) };
                connection.busy = Some(Busy::new(bytes, doing));
                Ok(Taken::Bytes(head.length, After::Keep))
            }
        }
    }

    /// Continues with a body.
    fn go_on(
        &mut self,
        connection: &mut HttpConnection<S>,
        input: &[u8],
        answered: &mut usize,
        io: &mut Io<'_>,
    ) -> Result<Taken, Refusal> {
        let Some(busy) = &mut connection.busy else { return Ok(Taken::Nothing) };
        let Busy { doing, written, .. } = &mut **busy;
        let mut failed = None;
        let taken = match doing {
            Doing::Body { rest, kept } => rest.receive(input, |data| {
                kept.iter_mut().for_each(|kept| kept.extend_from_slice(data));
            })?,
            Doing::Skip { rest } => rest.receive(input, |_| {})?,
            Doing::Parts { rest, receiver, out, waits } => {
                let state = &mut self.state;
                rest.receive(input, |part| {
                    if failed.is_none() {
                        let mut out = out.as_mut().map(|framing| Out { io: &mut *io, framing, written: &mut *written });
                        match receiver.on_part(state, part, out.as_mut()) {
                            Ok(flow) => *waits = flow == Flow::Wait,
                            Err(error) => failed = Some(error),
                        }
                    }
                })?
            }
            Doing::Stream { .. } | Doing::Later | Doing::Upgraded(_) => return Ok(Taken::Nothing),
        };
        if !busy.has_ended() && failed.is_none() {
            return Ok(Taken::Bytes(taken, After::Keep));
        }
        if busy.has_timer {
            io.cancel_timer(BODY_TIMER);
        }
        let Some(busy) = connection.busy.take() else { return Ok(Taken::Nothing) };
        let Busy { head: bytes, doing, after, mut written, record, .. } = *busy;
        if let Doing::Skip { .. } = doing {
            return Ok(Taken::Bytes(taken, after));
        }
        let Some(head) = head::parse(&bytes, self.head_limits, &mut self.fields)? else {
            return Err(Refusal::REQUEST_LINE);
        };
        let Self { routes, state, writer, spares, fields, requests_max, peers, .. } = self;
        let found = routes.find(io.label(), &head);
        let request = Request { head, bytes: &bytes, fields, parameters: found.parameters(), body: b"" };
        let mut answering = Answering { state, writer, spares, requests_max: *requests_max, peers: peers.as_ref() };
        *answered += 1;
        let then = match doing {
            Doing::Parts { rest, receiver, out, .. } => {
                let then = match failed {
                    Some(error) => answering.fail_parts(connection, &request, rest, error, out.is_some(), io),
                    None => answering.end_parts(connection, &request, receiver, (out, &mut written), after, io),
                };
                self.record(connection, record.map(|record| Pending { body_bytes: written, ..record }), io.now());
                then
            }
            Doing::Body { kept, .. } => {
                let body = kept.unwrap_or_default();
                answering.answer(connection, &Request { body: &body, ..request }, &found, io)
            }
            Doing::Skip { .. } | Doing::Stream { .. } | Doing::Later | Doing::Upgraded(_) => after,
        };
        Ok(Taken::Bytes(taken, then))
    }

    fn answering(&mut self) -> Answering<'_, S> {
        let Self { state, writer, spares, requests_max, peers, .. } = self;
        Answering { state, writer, spares, requests_max: *requests_max, peers: peers.as_ref() }
    }

    /// `input` begins with the refused request, if no head was consumed yet.
    fn refuse(&mut self, connection: &mut HttpConnection<S>, refusal: Refusal, input: &[u8], io: &mut Io<'_>) -> Next {
        // Even an answer to an invalid request has no body if the client expects none.
        let (is_head, has_begun) = match connection.busy.take() {
            Some(busy) => (busy.head.starts_with(b"HEAD "), busy.has_begun_answer()),
            None => (input.starts_with(b"HEAD "), false),
        };
        if has_begun {
            return Next::Abort;
        }
        answer::refuse(&mut self.writer, io, refusal, if is_head { Method::Head } else { Method::Get });
        if let Some(peers) = &self.peers {
            let (peer, (status, body_bytes)) = (peers.get(connection.peer), self.writer.last());
            self.state.on_answer(&Record { request: None, peer, status, body_bytes, took: Duration::ZERO });
        }
        Next::Close
    }

    /// Runs a callback that is for no connection, and sends the answers that it has made.
    fn attend(&mut self, worker: &mut Worker<'_, Message>, callback: impl FnOnce(&mut S, &mut Worker<'_, Message>)) {
        let state = &mut self.state;
        // There is a post from the start on.
        let Some(post) = &self.writer.post else { return callback(state, worker) };
        if post.attend(|| callback(state, worker)) {
            self.deliver(worker);
        }
    }

    /// Sends all answers that have arrived.
    fn deliver(&mut self, worker: &mut Worker<'_, Message>) {
        let mut taken = std::mem::take(&mut self.taken);
        self.writer.post.iter().for_each(|post| post.take(&mut taken));
        for Late { connection: id, number, response } in taken.drain(..) {
            // A connection that is gone needs no answer.
            let _ = worker.with(id, |connection, io| self.answer_late(connection, number, &response, io));
        }
        self.taken = taken;
    }

    /// An answer has arrived that a handler had promised.
    fn answer_late(
        &mut self,
        connection: &mut HttpConnection<S>,
        number: u32,
        response: &Response,
        io: &mut Io<'_>,
    ) -> Next {
        let awaited = connection.busy.as_ref().filter(|busy| matches!(busy.doing, Doing::Later));
        let Some(is_paused) = awaited.map(|busy| busy.is_paused).filter(|_| number == connection.requests) else {
            return Next::Keep;
        };
        self.writer.refresh(io);
        io.count_requests(1);
        let record = connection.take_record();
        let then = self.answering().answer_late(connection, response, io);
        let (status, body_bytes) = self.writer.last();
        self.record(connection, record.map(|record| Pending { status, body_bytes, ..record }), io.now());
        if connection.busy.is_some() { self.resume(connection, io) } else { connection.next_after(then, is_paused, io) }
    }

    /// Continues a request in progress, from another callback than [`Protocol::on_data`].
    fn resume(&mut self, connection: &mut HttpConnection<S>, io: &mut Io<'_>) -> Next {
        match connection.pump(io) {
            Pumped::Waits => Next::Keep,
            Pumped::Ended { after, is_paused, record } => {
                self.record(connection, record, io.now());
                connection.next_after(after, is_paused, io)
            }
            Pumped::Cut(record) => {
                self.record(connection, record, io.now());
                Next::Abort
            }
        }
    }

    /// Only the records need the address from the kernel.
    fn peer_of(&mut self, peer: Peer<'_>) -> PeerPlace {
        let Some(peers) = &mut self.peers else { return PeerPlace::default() };
        match peer.address() {
            Ok(address) => peers.add(address),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => PeerPlace::UNIX,
            Err(_) => PeerPlace::default(),
        }
    }

    /// An answer is over.
    fn record(&mut self, connection: &HttpConnection<S>, record: Option<Pending>, now: Duration) {
        if let Some(record) = record {
            let peer = self.peers.as_ref().and_then(|peers| peers.get(connection.peer));
            record.end(&mut self.state, self.head_limits, &mut self.fields, peer, now);
        }
    }
}

fn skip_empty_line<S>(connection: &mut HttpConnection<S>, input: &[u8]) -> Result<Taken, Refusal> {
    if input[0] == b'\n' {
        return Err(Refusal::LINE_FEED);
    }
    match input.get(1) {
        None => Ok(Taken::Nothing),
        Some(b'\n') => {
            let left = NonZeroU8::new(connection.empty_lines_left.get() - 1);
            connection.empty_lines_left = left.ok_or(Refusal::EMPTY_LINES)?;
            Ok(Taken::Bytes(2, After::Keep))
        }
        Some(_) => Err(Refusal::REQUEST_LINE),
    }
}

impl<S: State> Protocol for Http<S> {
    type Connection = HttpConnection<S>;
    type Message = Message;

    const SYSTEM_CALLS: SystemCalls = S::SYSTEM_CALLS;

    fn on_start(&mut self, worker: &mut Worker<'_, Message>) -> io::Result<()> {
        self.writer.post = Some(Post::new(worker.mailbox()));
        self.state.on_start(worker)?;
        self.peers = self.state.wants_records().then(Peers::default);
        Ok(())
    }

    fn on_open(&mut self, peer: Peer<'_>, _io: &mut Io<'_>) -> Result<HttpConnection<S>, Reject> {
        Ok(HttpConnection { peer: self.peer_of(peer), ..HttpConnection::default() })
    }

    #[inline]
    fn on_data(&mut self, connection: &mut HttpConnection<S>, input: &[u8], io: &mut Io<'_>) -> Step {
        self.writer.refresh(io);
        let mut consumed = 0;
        let mut answered = 0;
        let next = loop {
            let rest = &input[consumed..];
            if let Some(busy) = &mut connection.busy {
                if let Doing::Upgraded(protocol) = &mut busy.doing {
                    if rest.is_empty() {
                        break Next::Keep;
                    }
                    let step = protocol.on_data(rest, io);
                    consumed += step.consumed;
                    break step.next;
                }
                if !busy.takes_input() {
                    match connection.pump(io) {
                        Pumped::Waits if rest.is_empty() => break Next::Keep,
                        // So the end of the input is not reported before the rest of it was handled.
                        Pumped::Waits => {
                            connection.busy.iter_mut().for_each(|busy| busy.is_paused = true);
                            break Next::Pause;
                        }
                        Pumped::Cut(record) => {
                            self.record(connection, record, io.now());
                            break Next::Abort;
                        }
                        Pumped::Ended { after, record, .. } => {
                            self.record(connection, record, io.now());
                            let after = if io.is_draining() { After::Close } else { after };
                            match after.next(rest) {
                                Some(next) => break next,
                                None => continue,
                            }
                        }
                    }
                }
            }
            // A body of no bytes is complete as well.
            if rest.is_empty() && !connection.busy.as_ref().is_some_and(|busy| busy.has_ended()) {
                break Next::Keep;
            }
            if answered >= REQUESTS_PER_TURN_MAX || io.is_full() {
                break Next::Yield;
            }
            let outcome = if connection.busy.is_some() {
                self.go_on(connection, rest, &mut answered, io)
            } else {
                self.begin(connection, rest, &mut answered, io)
            };
            match outcome {
                Ok(Taken::Nothing) => break Next::Keep,
                Ok(Taken::Bytes(taken, after)) => {
                    consumed += taken;
                    if connection.busy.is_some() {
                        continue;
                    }
                    if let Some(next) = after.next(&input[consumed..]) {
                        break next;
                    }
                }
                Err(refusal) => {
                    answered += 1;
                    break self.refuse(connection, refusal, rest, io);
                }
            }
        };
        io.count_requests(answered as u64);
        if let Some(busy) = &mut connection.busy {
            io.set_held_bytes(busy.held_bytes());
            if busy.needs_timer() && self.body_ms > 0 {
                busy.has_timer = true;
                io.set_timer(BODY_TIMER, Duration::from_millis(self.body_ms));
            }
        } else {
            io.set_held_bytes(0);
        }
        Step { consumed, next }
    }

    fn on_eof(&mut self, connection: &mut HttpConnection<S>, input: &[u8], io: &mut Io<'_>) -> Next {
        let Some(busy) = &mut connection.busy else { return Next::Close };
        match &mut busy.doing {
            Doing::Upgraded(protocol) => protocol.on_eof(input, io),
            // A client that has sent its last request may still wait for the answer.
            Doing::Stream { .. } | Doing::Later => {
                busy.has_peer_ended = true;
                Next::Keep
            }
            Doing::Body { .. } | Doing::Skip { .. } | Doing::Parts { .. } => Next::Close,
        }
    }

    fn on_writable(&mut self, connection: &mut HttpConnection<S>, io: &mut Io<'_>) -> Next {
        match connection.busy.as_mut().map(|busy| &mut busy.doing) {
            Some(Doing::Upgraded(protocol)) => protocol.on_writable(io),
            Some(Doing::Stream { .. }) => {
                self.writer.refresh(io);
                self.resume(connection, io)
            }
            _ => Next::Keep,
        }
    }

    fn on_timer(&mut self, connection: &mut HttpConnection<S>, key: TimerKey, io: &mut Io<'_>) -> Next {
        match connection.busy.as_mut().map(|busy| &mut busy.doing) {
            None => Next::Keep,
            Some(Doing::Upgraded(protocol)) => protocol.on_timer(key, io),
            Some(_) => {
                self.writer.refresh(io);
                self.refuse(connection, Refusal::TIMEOUT, b"", io)
            }
        }
    }

    fn on_wake(&mut self, connection: &mut HttpConnection<S>, io: &mut Io<'_>) -> Next {
        let Some(busy) = &mut connection.busy else { return Next::Keep };
        match &mut busy.doing {
            Doing::Upgraded(protocol) => protocol.on_wake(io),
            Doing::Stream { .. } => {
                self.writer.refresh(io);
                self.resume(connection, io)
            }
            Doing::Parts { waits, .. } => {
                *waits = false;
                Next::More { at_least: 1 }
            }
            Doing::Later | Doing::Body { .. } | Doing::Skip { .. } => Next::Keep,
        }
    }

    fn on_limit(&mut self, connection: &mut HttpConnection<S>, limit: Limit, input: &[u8], io: &mut Io<'_>) -> Next {
        if let Some(busy) = &mut connection.busy {
            match &mut busy.doing {
                Doing::Upgraded(protocol) => return protocol.on_limit(limit, input, io),
                // This side has not produced the rest; or the client does not read, which `write_ms` limits.
                Doing::Stream { .. } | Doing::Later | Doing::Parts { waits: true, .. }
                    if limit != Limit::MessageBytes =>
                {
                    return Next::Keep;
                }
                _ => {}
            }
        }
        self.writer.refresh(io);
        match limit {
            Limit::Idle | Limit::Message if connection.is_idle(input) => Next::Close,
            Limit::Idle | Limit::Message => self.refuse(connection, Refusal::TIMEOUT, input, io),
            Limit::MessageBytes => self.refuse(connection, Refusal::HEAD_TOO_LARGE, input, io),
            Limit::Connections if connection.is_idle(input) => Next::Close,
            // It is in the middle of a request.
            Limit::Connections => Next::Keep,
        }
    }

    fn on_message(&mut self, message: Message, worker: &mut Worker<'_, Message>) {
        match message.0 {
            Inside::Answers => self.deliver(worker),
            Inside::Wakes => {
                let wakes = self.writer.post.as_ref().map(|post| post.take_wakes());
                wakes.into_iter().flatten().for_each(|id| worker.wake(id));
            }
        }
    }

    fn on_worker_timer(&mut self, key: TimerKey, worker: &mut Worker<'_, Message>) {
        self.attend(worker, |state, worker| state.on_timer(key, worker));
    }

    fn on_turn_end(&mut self, worker: &mut Worker<'_, Message>) {
        self.attend(worker, S::on_turn_end);
    }

    fn on_drain(
        &mut self,
        connection: &mut HttpConnection<S>,
        deadline: Duration,
        input: &[u8],
        io: &mut Io<'_>,
    ) -> Drain {
        if let Some(Doing::Upgraded(protocol)) = connection.busy.as_mut().map(|busy| &mut busy.doing) {
            return protocol.on_drain(deadline, input, io);
        }
        if connection.is_idle(input) { Drain::Close } else { Drain::Wait }
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "http", version: 2 });

    fn freeze(&mut self, connection: &HttpConnection<S>, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        connection.freeze(state)
    }

    fn thaw(
        &mut self,
        version: u32,
        state: &[u8],
        peer: Peer<'_>,
        io: &mut Io<'_>,
    ) -> Result<HttpConnection<S>, ThawError> {
        if version != 2 {
            return Err(ThawError::Version(version));
        }
        let bounds = (self.body_bytes_max, self.streamed_bytes_max);
        let routes = (&self.routes, io.label());
        let thawed = HttpConnection::thaw(state, routes, self.head_limits, &mut self.fields, bounds)?;
        if matches!(thawed.busy.as_ref().map(|busy| &busy.doing), Some(Doing::Stream { .. })) {
            // Nothing else asks its source for more.
            io.wake(io.id());
        }
        Ok(HttpConnection { peer: self.peer_of(peer), ..thawed })
    }

    fn on_close(&mut self, mut connection: HttpConnection<S>, closed: Closed<'_>, _: &mut Worker<'_, Message>) {
        if closed.reason != CloseReason::HandedOver
            && let Some(record) = connection.take_record()
        {
            let now = record.began;
            self.record(&connection, Some(record), now);
        }
        self.peers.iter_mut().for_each(|peers| peers.remove(connection.peer));
    }
}
