//! The state of a connection: nothing between requests, and a box for a request in progress.

use std::num::NonZeroU8;
use std::time::Duration;

use ::http::StatusCode;
use baton::{CannotFreeze, Io, Next, ThawError, TimerKey};
use serde::{Deserialize, Serialize};

use crate::answer::After;
use crate::body::Rest;
use crate::exchange::{Progress, Receive, Source, Thawed, Upgraded};
use crate::head::{self, FieldList, Framing, HeadLimits};
use crate::out::{Out, OutFraming};
use crate::peers::PeerPlace;
use crate::record::Pending;
use crate::redirect::Routes;
use crate::reply::To;

/// Empty lines skipped before a request line. RFC 9112 2.2 recommends one, for old clients that end a body with it.
const EMPTY_LINES_MAX: u8 = 4;

/// See [`HttpConnection::empty_lines_left`].
pub(crate) const EMPTY_LINES_LEFT: NonZeroU8 = NonZeroU8::new(EMPTY_LINES_MAX + 1).expect("more than none");

pub(crate) const BODY_TIMER: TimerKey = TimerKey(0);

/// The most output of a source that waits for its client: with this limit, a worker can have many slow clients.
pub(crate) const STREAM_BYTES_MAX: usize = 128 * 1024;

/// How often a source is asked before others have their turn.
const PARTS_PER_TURN_MAX: usize = 64;

const _: () = assert!(size_of::<Option<HttpConnection<()>>>() <= 16, "ten thousand idle connections are to be cheap");

/// State of a connection of [`Http`](crate::Http).
pub struct HttpConnection<S> {
    pub(crate) busy: Option<Box<Busy<S>>>,
    pub(crate) requests: u32,
    /// One more than the number of empty lines that may still come before a request line. It is never zero, which
    /// stands for no connection.
    pub(crate) empty_lines_left: NonZeroU8,
    /// The peer, if answers are recorded.
    pub(crate) peer: PeerPlace,
}

impl<S> Default for HttpConnection<S> {
    fn default() -> Self {
        Self { busy: None, requests: 0, empty_lines_left: EMPTY_LINES_LEFT, peer: PeerPlace::default() }
    }
}

/// A request in progress.
pub(crate) struct Busy<S> {
    /// The request's head, if it is needed again.
    pub(crate) head: Box<[u8]>,
    pub(crate) doing: Doing<S>,
    /// How to give its answer.
    pub(crate) to: Option<To>,
    pub(crate) after: After,
    /// The timeout for its body is set.
    pub(crate) has_timer: bool,
    /// The client will send nothing more.
    pub(crate) has_peer_ended: bool,
    /// Input waits after the request, and the connection is not read.
    pub(crate) is_paused: bool,
    /// Bytes of the answer's body that were written in parts.
    pub(crate) written: u64,
    /// What to record when its answer is over.
    pub(crate) record: Option<Pending>,
}

pub(crate) enum Doing<S> {
    /// Its body is arriving, and is kept if a handler wants it.
    Body { rest: Rest, kept: Option<Vec<u8>> },
    /// It was answered, and its body is arriving.
    Skip { rest: Rest },
    /// Its body goes to a receiver, part by part.
    Parts { rest: Rest, receiver: Box<dyn Receive<S>>, out: Option<OutFraming>, waits: bool },
    /// Its answer is being sent, part by part.
    Stream { source: Box<dyn Source>, framing: OutFraming },
    /// Its answer comes later.
    Later,
    /// Another protocol has the connection.
    Upgraded(Box<dyn Upgraded>),
}

/// The result of asking a source.
pub(crate) enum Pumped {
    Waits,
    Ended { after: After, is_paused: bool, record: Option<Pending> },
    Cut(Option<Pending>),
}

/// Boxes of requests that were answered later, for reuse: many wait at the same time, and answers come in batches.
pub(crate) struct Spares<S>(#[expect(clippy::vec_box, reason = "what is kept is the boxes")] Vec<Box<Busy<S>>>);

impl<S> Default for Spares<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S> Spares<S> {
    const COUNT_MAX: usize = 256;

    pub(crate) fn later(&mut self, to: To, after: After) -> Box<Busy<S>> {
        let mut busy = self.0.pop().unwrap_or_else(|| Busy::new(b"", Doing::Later));
        (busy.to, busy.after, busy.is_paused) = (Some(to), after, false);
        busy
    }

    /// Keeps a box as [`Spares::later`] returned it, with its record taken.
    pub(crate) fn keep(&mut self, busy: Box<Busy<S>>) {
        let is_clean = matches!(busy.doing, Doing::Later) && busy.record.is_none() && !busy.has_peer_ended;
        if is_clean && self.0.len() < Self::COUNT_MAX {
            self.0.push(busy);
        }
    }
}

impl<S> Busy<S> {
    pub(crate) fn new(head: &[u8], doing: Doing<S>) -> Box<Self> {
        let (to, after) = (None, After::Keep);
        Box::new(Self {
            head: head.into(),
            doing,
            to,
            after,
            has_timer: false,
            has_peer_ended: false,
            is_paused: false,
            written: 0,
            record: None,
        })
    }

    /// Whether the body is complete.
    pub(crate) fn has_ended(&self) -> bool {
        match &self.doing {
            Doing::Body { rest, .. } | Doing::Skip { rest } | Doing::Parts { rest, .. } => rest.has_ended(),
            Doing::Stream { .. } | Doing::Later | Doing::Upgraded(_) => false,
        }
    }

    /// Whether input belongs to the request's body and is wanted now.
    pub(crate) fn takes_input(&self) -> bool {
        match &self.doing {
            Doing::Body { .. } | Doing::Skip { .. } => true,
            Doing::Parts { waits, rest, .. } => !waits || rest.has_ended(),
            Doing::Stream { .. } | Doing::Later | Doing::Upgraded(_) => false,
        }
    }

    pub(crate) fn has_begun_answer(&self) -> bool {
        matches!(self.doing, Doing::Parts { out: Some(_), .. } | Doing::Stream { .. } | Doing::Skip { .. })
    }

    pub(crate) fn needs_timer(&self) -> bool {
        !self.has_timer && matches!(self.doing, Doing::Body { .. } | Doing::Skip { .. })
    }

    /// The memory that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        let kept = match &self.doing {
            Doing::Body { kept: Some(kept), .. } => kept.capacity(),
            Doing::Upgraded(protocol) => protocol.held_bytes(),
            _ => 0,
        };
        size_of::<Self>() + self.head.len() + kept
    }
}

impl<S: 'static> HttpConnection<S> {
    /// Whether it is between two requests; `input` is what was not consumed.
    pub(crate) fn is_idle(&self, input: &[u8]) -> bool {
        self.busy.is_none() && input.is_empty()
    }

    /// Asks the source of an answer for more, if there is one.
    pub(crate) fn pump(&mut self, io: &mut Io<'_>) -> Pumped {
        let Some(busy) = &mut self.busy else { return Pumped::Waits };
        let Doing::Stream { source, framing } = &mut busy.doing else { return Pumped::Waits };
        for _ in 0..PARTS_PER_TURN_MAX {
            if io.is_full() || io.queued_bytes() >= STREAM_BYTES_MAX {
                // It is asked again when the client has taken some of it.
                io.wait_for_room();
                return Pumped::Waits;
            }
            let mut out = Out { io, framing, written: &mut busy.written };
            match source.next(&mut out) {
                Ok(Progress::More) => {}
                Ok(Progress::Wait) => return Pumped::Waits,
                Ok(Progress::End) => {
                    let is_whole = out.end();
                    let after = if busy.has_peer_ended { After::Close } else { busy.after };
                    let is_paused = busy.is_paused;
                    let record = self.take_record();
                    self.busy = None;
                    return if is_whole { Pumped::Ended { after, is_paused, record } } else { Pumped::Cut(record) };
                }
                Err(error) => {
                    error.log("", "");
                    let record = self.take_record();
                    self.busy = None;
                    return Pumped::Cut(record);
                }
            }
        }
        io.wake(io.id());
        Pumped::Waits
    }

    /// The record of the answer in progress, up to now.
    pub(crate) fn take_record(&mut self) -> Option<Pending> {
        let busy = self.busy.as_mut()?;
        let record = busy.record.take()?;
        Some(Pending { body_bytes: record.body_bytes + busy.written, ..record })
    }

    /// What to do after an answer that was not given from `on_data`.
    pub(crate) fn next_after(&self, after: After, is_paused: bool, io: &Io<'_>) -> Next {
        match after {
            After::Keep if io.is_draining() => Next::Close,
            After::Keep if is_paused => Next::More { at_least: 1 },
            After::Keep => Next::Keep,
            After::Finish | After::Close => Next::Close,
            After::Cut => Next::Abort,
        }
    }

    /// Version 2 has: requests answered (four bytes, little endian), empty lines (one byte), and what is in progress.
    /// That is a kind (one byte); the head, and then what is missing of the body or how far the answer has come, each
    /// after its length (four bytes); and what is kept. Or it is a name after its length, and what its owner has
    /// written.
    pub(crate) fn freeze(&self, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        state.extend_from_slice(&self.requests.to_le_bytes());
        state.push(EMPTY_LINES_LEFT.get() - self.empty_lines_left.get());
        let Some(busy) = &self.busy else { return Ok(()) };
        let mut of_owner = Vec::new();
        let written = |rest: &Rest| serde_json::to_vec(rest).map_err(|_| CannotFreeze::Stays);
        let mut head = &busy.head;
        let (kind, name, rest, kept) = match &busy.doing {
            Doing::Body { rest, kept } => (KIND_BODY, "", written(rest)?, kept.as_deref().unwrap_or_default()),
            Doing::Upgraded(protocol) => (KIND_UPGRADED, protocol.freeze(&mut of_owner)?, Vec::new(), &of_owner[..]),
            Doing::Parts { rest, receiver, out: None, waits: false } => {
                (KIND_PARTS, receiver.freeze(&mut of_owner)?, written(rest)?, &of_owner[..])
            }
            Doing::Stream { source, framing } => {
                let name = source.freeze(&mut of_owner)?;
                let begun = Begun::of(busy, *framing);
                head = busy.record.as_ref().map_or(head, |record| &record.head);
                (KIND_STREAM, name, serde_json::to_vec(&begun).map_err(|_| CannotFreeze::Stays)?, &of_owner[..])
            }
            // It is answered, or its body is read, soon.
            Doing::Skip { .. } | Doing::Later => return Err(CannotFreeze::Later),
            Doing::Parts { .. } => return Err(CannotFreeze::Stays),
        };
        state.push(kind);
        for part in [name.as_bytes(), head, &rest] {
            let length = u32::try_from(part.len()).map_err(|_| CannotFreeze::Stays)?;
            state.extend_from_slice(&length.to_le_bytes());
            state.extend_from_slice(part);
        }
        state.push(u8::from(busy.has_timer));
        state.extend_from_slice(kept);
        Ok(())
    }

    /// The state is not trusted: no part of it may exceed what this server would have accepted.
    pub(crate) fn thaw(
        state: &[u8],
        (routes, label): (&Routes<S>, u8),
        limits: HeadLimits,
        fields: &mut FieldList,
        (body_bytes_max, streamed_bytes_max): (u64, u64),
    ) -> Result<Self, ThawError> {
        let (requests, rest) = state.split_first_chunk::<4>().ok_or(ThawError::Malformed)?;
        let (empty_lines, rest) = rest.split_first().ok_or(ThawError::Malformed)?;
        let left = EMPTY_LINES_LEFT.get().checked_sub(*empty_lines).and_then(NonZeroU8::new);
        let empty_lines_left = left.ok_or(ThawError::Malformed)?;
        let busy = rest.split_first().map(|(kind, rest)| {
            thaw_busy(*kind, rest, (routes, label), limits, fields, (body_bytes_max, streamed_bytes_max))
        });
        let busy = busy.transpose()?;
        let peer = PeerPlace::default();
        Ok(Self { busy, requests: u32::from_le_bytes(*requests), empty_lines_left, peer })
    }
}

const KIND_BODY: u8 = 1;
const KIND_PARTS: u8 = 2;
const KIND_UPGRADED: u8 = 3;
const KIND_STREAM: u8 = 4;

/// The progress of an answer that is sent part by part.
#[derive(Serialize, Deserialize)]
struct Begun {
    framing: OutFraming,
    after: After,
    has_peer_ended: bool,
    written: u64,
    /// Status, bytes before the parts, and when it was begun, in nanoseconds of CLOCK_MONOTONIC. Its head is where the
    /// heads of other requests are.
    record: Option<(u16, u64, u64)>,
}

impl Begun {
    fn of<S>(busy: &Busy<S>, framing: OutFraming) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let record = busy.record.as_ref();
        let record = record.map(|one| (one.status.as_u16(), one.body_bytes, nanoseconds(one.began)));
        let Busy { after, has_peer_ended, written, .. } = *busy;
        Self { framing, after, has_peer_ended, written, record }
    }

    fn resume<S>(self, head: &[u8], source: Box<dyn Source>) -> Box<Busy<S>> {
        let Self { framing, after, has_peer_ended, written, record } = self;
        let record = record.and_then(|(status, body_bytes, began_ns)| {
            let (status, began) = (StatusCode::from_u16(status).ok()?, Duration::from_nanos(began_ns));
            Some(Pending { head: head.into(), status, body_bytes, began })
        });
        let busy = Busy::new(b"", Doing::Stream { source, framing });
        // Input that the engine has brought along may be waiting.
        Box::new(Busy { after, has_peer_ended, is_paused: true, written, record, ..*busy })
    }
}

fn thaw_busy<S: 'static>(
    kind: u8,
    state: &[u8],
    (routes, label): (&Routes<S>, u8),
    limits: HeadLimits,
    fields: &mut FieldList,
    (body_bytes_max, streamed_bytes_max): (u64, u64),
) -> Result<Box<Busy<S>>, ThawError> {
    let mut state = state;
    let mut part = || {
        let (length, rest) = state.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        state = rest;
        Some(part)
    };
    let parts = (part(), part(), part());
    let (Some(name), Some(head_bytes), Some(rest)) = parts else { return Err(ThawError::Malformed) };
    let ((has_timer, kept), name) = (state.split_first().ok_or(ThawError::Malformed)?, std::str::from_utf8(name));
    let (has_timer, name) = (*has_timer != 0, name.map_err(|_| ThawError::Malformed)?);
    let thawed = |kind_wanted: u8| (kind == kind_wanted).then(|| routes.router.thaw(name, kept)).flatten();
    if let Some(Thawed::Upgraded(protocol)) = thawed(KIND_UPGRADED) {
        return Ok(Busy::new(b"", Doing::Upgraded(protocol)));
    }
    if let Some(Thawed::Source(source)) = thawed(KIND_STREAM) {
        let begun: Begun = serde_json::from_slice(rest).map_err(|_| ThawError::Malformed)?;
        return Ok(begun.resume(head_bytes, source));
    }
    let head = head::parse(head_bytes, limits, fields).ok().flatten().ok_or(ThawError::Malformed)?;
    let rest: Rest = serde_json::from_slice(rest).map_err(|_| ThawError::Malformed)?;
    let most = rest.most_to_come().ok_or(ThawError::Malformed)?;
    let is_of_head = match (&rest, head.framing) {
        (Rest::Length(missing), Framing::Length(length)) => *missing <= length,
        (Rest::Chunked(_), Framing::Chunked) => true,
        _ => false,
    };
    if !is_of_head || rest.has_ended() || head.length != head_bytes.len() {
        return Err(ThawError::Malformed);
    }
    let found = routes.find(label, &head);
    let doing = if let Some(Thawed::Receive(receiver)) = thawed(KIND_PARTS) {
        if most > streamed_bytes_max || !found.takes_parts() {
            return Err(ThawError::Malformed);
        }
        Doing::Parts { rest, receiver, out: None, waits: false }
    } else if kind == KIND_BODY {
        let all = most.checked_add(kept.len() as u64).filter(|all| *all <= body_bytes_max);
        let is_kept = found.wants_body(head.method);
        let is_as_long_as_said = match (&rest, head.framing) {
            (Rest::Length(missing), Framing::Length(length)) => {
                !is_kept || missing.checked_add(kept.len() as u64) == Some(length)
            }
            _ => true,
        };
        if all.is_none() || found.takes_parts() || !is_kept && !kept.is_empty() || !is_as_long_as_said {
            return Err(ThawError::Malformed);
        }
        Doing::Body { rest, kept: is_kept.then(|| kept.to_vec()) }
    } else {
        return Err(ThawError::Malformed);
    };
    let mut busy = Busy::new(head_bytes, doing);
    busy.has_timer = has_timer;
    Ok(busy)
}
