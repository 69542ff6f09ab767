//! Connections with a [`Layer`]: their handshake, their input between receiving and the protocol, and their output
//! between the protocol and sending.
//!
//! Input lies in one buffer, as with other connections: first plaintext that the protocol has not taken, then bytes
//! that are not opened. So back-pressure, limits and handovers need no second one. Output is written into a separate
//! arena, which stays in the cache, and is sealed from there into the arena for sending.

use std::mem;
use std::rc::Rc;
use std::time::Duration;

use super::input::Input;
use super::{Connection, Host, Phase, Received};
use crate::context::{Context, Io, Tail, Written};
use crate::handover::WriteEnd;
use crate::layer::{Handshake, Layer, Opened, Window};
use crate::protocol::Protocol;
use crate::sys::arena::CHUNK_BYTES;
use crate::sys::file_part::Pages;
use crate::sys::payload::Payload;
use crate::types::{CannotFreeze, CloseReason};

/// Bytes of input that may wait for the handshake: more than a peer may send before an answer.
const HANDSHAKE_BYTES_MAX: usize = 128 * 1024;

/// Bytes that are sealed at a time. Longer output is sent in several pieces of memory.
const SEALED_PART_BYTES: usize = CHUNK_BYTES / 4 * 3;

/// The layer of an idle connection gives memory back after this time.
pub(super) const REST_AFTER_MS: u64 = 10_000;

/// A connection's layer. The connection boxes it, since most have none.
pub(super) struct Layered {
    layer: Box<dyn Layer>,
    /// The parts of the input.
    window: Window,
    /// The peer has ended the layer's stream.
    has_ended: bool,
    /// A part of the handshake was answered.
    has_answered: bool,
    rests: bool,
    outbound: Option<Outward>,
}

/// What an outbound connection has in addition.
struct Outward {
    /// The name by which the next worker finds the layer.
    name: Rc<str>,
    /// `Some` until the protocol knows of the connection.
    token: Option<u64>,
}

impl Layered {
    pub(super) fn new(layer: Box<dyn Layer>) -> Self {
        Self { layer, window: Window::default(), has_ended: false, has_answered: false, rests: false, outbound: None }
    }

    pub(super) fn layer(&self) -> &dyn Layer {
        &*self.layer
    }

    /// Gives memory back, unless it has done so already.
    pub(super) fn rest(&mut self) {
        if !mem::replace(&mut self.rests, true) {
            self.layer.rest();
        }
    }

    pub(super) fn rests(&self) -> bool {
        self.rests
    }

    /// Opens received bytes.
    fn open(&mut self, bytes: &mut [u8]) -> Opened {
        self.rests = false;
        let opened = self.layer.open(bytes, &mut self.window);
        self.has_ended |= opened == Opened::Ended;
        opened
    }

    /// The protocol has consumed `count` bytes of the plaintext at the beginning of `input`.
    fn consume(&mut self, input: &mut Input, count: usize) {
        let Window { plaintext, sealed } = &mut self.window;
        let done = if plaintext.len() == count { *sealed } else { plaintext.start + count };
        let length = plaintext.len() - count;
        let start = if length == 0 { 0 } else { plaintext.start + count - done };
        (*plaintext, *sealed) = (start..start + length, *sealed - done);
        input.consume(done);
    }

    /// Keeps the part of `bytes` that the protocol has not taken, and the part that is not opened.
    fn keep(&mut self, bytes: &[u8], consumed: usize, input: &mut Input) {
        let Window { plaintext, sealed } = mem::take(&mut self.window);
        let rest = &bytes[plaintext.start + consumed..plaintext.end];
        input.append(rest);
        input.append(&bytes[sealed..]);
        self.window = Window { plaintext: 0..rest.len(), sealed: rest.len() };
    }
}

impl<S> Connection<S> {
    /// Sets the layer through which the connection sends and receives. Call this before anything else.
    pub(crate) fn set_layer(&mut self, layer: Box<dyn Layer>) {
        self.layered = Some(Box::new(Layered::new(layer)));
    }

    /// The same for an outbound connection. The name is the layer's. The token is the protocol's, if that does not know
    /// of the connection yet.
    pub(crate) fn set_outbound_layer(&mut self, layer: Box<dyn Layer>, name: Rc<str>, token: Option<u64>) {
        let outbound = Some(Outward { name, token });
        self.layered = Some(Box::new(Layered { outbound, ..Layered::new(layer) }));
    }

    pub(super) fn outbound_layer(&self) -> Option<&Rc<str>> {
        self.layered.as_ref()?.outbound.as_ref().map(|outbound| &outbound.name)
    }

    /// Takes the token of an outbound connection of which the protocol does not know yet. It is returned once.
    pub(crate) fn take_token(&mut self) -> Option<u64> {
        self.layered.as_mut()?.outbound.as_mut()?.token.take()
    }

    /// The outbound connection is established: its layer speaks first.
    pub(crate) fn begin_handshake(&mut self, context: &mut Context) {
        self.await_handshake(context);
        if !self.rerun {
            self.rerun_soon(context);
        }
    }

    pub(crate) fn is_layered(&self) -> bool {
        self.layered.is_some()
    }

    /// Begins with the layer's handshake, before [`Connection::open`].
    pub(crate) fn await_handshake(&mut self, context: &mut Context) {
        self.phase = Phase::Handshake { is_done: false };
        if self.message_ns == 0 {
            self.message_ns = context.now_ns;
        }
        if !self.input.is_empty() || self.peer_ended {
            self.rerun_soon(context);
        }
        self.set_alarm(context);
    }

    /// Bytes of input that the protocol may see.
    #[inline]
    pub(super) fn visible_len(&self) -> usize {
        match &self.layered {
            None => self.input.len(),
            Some(layered) => layered.window.plaintext.len(),
        }
    }

    /// Takes the input, and the range of it that the protocol may see.
    pub(super) fn take_input(&mut self) -> (Input, std::ops::Range<usize>) {
        let input = mem::take(&mut self.input);
        let visible = match &self.layered {
            None => 0..input.len(),
            Some(layered) => layered.window.plaintext.clone(),
        };
        (input, visible)
    }

    /// Takes the part of the input that the protocol may see.
    pub(super) fn take_visible(&mut self) -> Input {
        let (input, visible) = self.take_input();
        if self.layered.is_none() {
            return input;
        }
        let mut seen = Input::default();
        seen.append(&input.bytes()[visible]);
        seen
    }

    /// Drops all input.
    pub(super) fn drop_input(&mut self) {
        self.input = Input::default();
        if let Some(layered) = &mut self.layered {
            layered.window = Window::default();
        }
    }

    /// Handles input of a handshake.
    pub(super) fn receive_for_handshake(&mut self, context: &mut Context, bytes: &[u8]) {
        self.input.append(bytes);
        if !self.rerun {
            self.rerun_soon(context);
        }
    }

    /// Whether to receive input of a handshake.
    pub(super) fn wants_handshake_input(&self) -> bool {
        self.input.len() < HANDSHAKE_BYTES_MAX
    }

    /// Continues the handshake, in line with connections whose input takes long: a handshake costs as much as a hundred
    /// requests.
    pub(super) fn shake_hands(&mut self, context: &mut Context) {
        self.rerun = false;
        let Some(layered) = &mut self.layered else { return };
        let mut output = Vec::new();
        let (consumed, progress) = layered.layer.handshake(self.input.bytes_mut(), &mut output);
        layered.has_answered |= !output.is_empty();
        self.input.consume(consumed.min(self.input.len()));
        self.push_sealed(context, &output);
        match progress {
            Handshake::Done => self.phase = Phase::Handshake { is_done: true },
            Handshake::Failed => self.begin_close(context, true, CloseReason::Handshake),
            Handshake::Incomplete if self.peer_ended && self.input.is_empty() && !self.has_answered() => {
                // A peer has only checked whether the port is open.
                self.end(context, false, CloseReason::Peer);
            }
            Handshake::Incomplete if self.peer_ended || !self.wants_handshake_input() => {
                self.end(context, true, CloseReason::Handshake);
            }
            Handshake::Incomplete => {}
        }
        self.set_alarm(context);
    }

    fn has_answered(&self) -> bool {
        self.layered.as_ref().is_some_and(|layered| layered.has_answered)
    }

    /// As [`Connection::receive`].
    pub(super) fn receive_sealed<P>(
        &mut self,
        host: &mut Host<'_, P>,
        context: &mut Context,
        received: Received<'_>,
        waits: bool,
    ) where
        P: Protocol<Connection = S>,
    {
        let is_blocked = self.paused || self.full || self.rerun;
        let Received::Lease(mut lease) = received else {
            self.keep(context, received.bytes(), self.input.is_empty());
            return self.run_kept(host, context, is_blocked, waits);
        };
        if is_blocked || waits || !self.input.is_empty() {
            self.keep(context, lease.bytes(), self.input.is_empty());
            drop(lease);
            return self.run_kept(host, context, is_blocked, waits);
        }
        let Some(layered) = &mut self.layered else { return };
        let opened = layered.open(lease.bytes_mut());
        let plaintext = layered.window.plaintext.clone();
        let Some(state) = &mut self.state else { return };
        if plaintext.is_empty() || plaintext.len() < self.at_least as usize {
            layered.keep(lease.bytes(), 0, &mut self.input);
            drop(lease);
            self.begin_message(context);
            self.check_message_bytes(host, context);
        } else {
            let mut io = Io::new(context, host.others, &mut self.own, self.outbound.pending(), &[], true);
            let step = host.protocol.on_data(state, &lease.bytes()[plaintext.clone()], &mut io);
            let written = io.finish();
            assert!(step.consumed <= plaintext.len(), "consumed {} of {} bytes", step.consumed, plaintext.len());
            layered.keep(lease.bytes(), step.consumed, &mut self.input);
            drop(lease);
            self.begin_message(context);
            self.push_output(context, None, written);
            self.apply_step(host, context, step);
        }
        self.settle_opened(host, context, opened);
    }

    fn run_kept<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, is_blocked: bool, waits: bool)
    where
        P: Protocol<Connection = S>,
    {
        if is_blocked {
            self.rerun |= self.paused || self.full;
        } else if waits {
            self.rerun_soon(context);
        } else {
            self.run_sealed(host, context);
        }
    }

    /// Opens the waiting input, and calls the protocol if that is enough.
    pub(super) fn run_sealed<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context)
    where
        P: Protocol<Connection = S>,
    {
        let Some(layered) = &mut self.layered else { return };
        let opened = layered.open(self.input.bytes_mut());
        let plaintext = layered.window.plaintext.clone();
        if plaintext.is_empty() {
            layered.consume(&mut self.input, 0);
            self.message_ns = if self.input.is_empty() { 0 } else { self.message_ns };
        } else if plaintext.len() >= self.at_least as usize {
            let Some(state) = &mut self.state else { return };
            let mut input = mem::take(&mut self.input);
            let mut io = Io::new(context, host.others, &mut self.own, self.outbound.pending(), &[], true);
            let step = host.protocol.on_data(state, &input.bytes()[plaintext.clone()], &mut io);
            let written = io.finish();
            assert!(step.consumed <= plaintext.len(), "consumed {} of {} bytes", step.consumed, plaintext.len());
            if step.consumed > 0 {
                layered.consume(&mut input, step.consumed);
                self.message_ns = if input.is_empty() { 0 } else { context.now_ns };
            }
            self.input = input;
            self.push_output(context, None, written);
            self.apply_step(host, context, step);
        } else {
            self.check_message_bytes(host, context);
        }
        self.settle_opened(host, context, opened);
    }

    /// The input that remains is the beginning of a message.
    fn begin_message(&mut self, context: &mut Context) {
        if !self.input.is_empty() {
            self.message_ns = context.now_ns;
            self.set_alarm(context);
        }
    }

    /// Handles the result of opening, after the protocol has had the plaintext before it.
    fn settle_opened<P>(&mut self, host: &mut Host<'_, P>, context: &mut Context, opened: Opened)
    where
        P: Protocol<Connection = S>,
    {
        match opened {
            Opened::More => {}
            Opened::Asked => self.answer_layer(context),
            Opened::Tired => {
                let drain_ns = context.timeouts.drain_ms_max * 1_000_000;
                self.drain(host, context, Duration::from_nanos(context.now_ns + drain_ns));
            }
            Opened::Ended => self.receive_end(host, context),
            Opened::Failed => self.begin_close(context, true, CloseReason::Record),
        }
    }

    /// Sends what the peer expects of the layer, in addition to the protocol's answers.
    fn answer_layer(&mut self, context: &mut Context) {
        let Some(layered) = self.layered.as_mut().filter(|_| self.write_end == WriteEnd::Open) else { return };
        let mut output = Vec::new();
        layered.layer.answer(&mut output);
        self.push_sealed(context, &output);
    }

    /// The peer has sent FIN without ending the layer's stream: some of its bytes may be missing.
    pub(super) fn is_truncated(&self) -> bool {
        self.layered.as_ref().is_some_and(|layered| !layered.has_ended)
    }

    /// Seals the output of a callback, which lies in the arena for sealing, and queues it.
    pub(super) fn push_layered(&mut self, context: &mut Context, written: &Written) {
        let Some(layered) = &mut self.layered else { return };
        layered.rests = false;
        let mut is_cut = false;
        let layer = &mut layered.layer;
        let (plain, sealed) = context.arenas();
        let tail: &[u8] = match &written.tail {
            Tail::None => &[],
            Tail::Static(bytes) => bytes,
            Tail::Counted(bytes, part) => &bytes[part.clone()],
            Tail::Pages(Pages::Sealed(memory), place) => &memory[place.start as usize..place.end as usize],
            Tail::Pages(Pages::File(_), _) => unreachable!("a file is read at once for connections with a layer"),
            Tail::Input(_) => unreachable!("input is lent to connections without a layer only"),
        };
        let pieces = written.pieces.iter().flat_map(Payload::parts);
        for bytes in pieces.chain([plain.staged(), tail]) {
            for part in bytes.chunks(SEALED_PART_BYTES) {
                let room = layer.sealed_bytes_max(part.len());
                let count = layer.seal(part, sealed.reserve(room));
                sealed.commit(count);
                is_cut |= count == 0 && !part.is_empty();
                self.outbound.push_staged(sealed);
            }
        }
        plain.discard();
        if is_cut && self.phase == Phase::Open && !self.rerun {
            // The layer reports the reason when it is run again.
            self.rerun_soon(context);
        }
    }

    /// Sends the layer's last bytes.
    pub(super) fn push_layers_end(&mut self, context: &mut Context) {
        if self.write_end != WriteEnd::Open {
            return;
        }
        let Some(layered) = &mut self.layered else { return };
        let mut output = Vec::new();
        layered.layer.close(&mut output);
        self.push_sealed(context, &output);
    }

    /// Queues what the layer itself sends.
    fn push_sealed(&mut self, context: &mut Context, bytes: &[u8]) {
        if self.outbound.pending() == 0 {
            self.progress_ns = context.now_ns;
        }
        let (_, arena) = context.arenas();
        arena.write(bytes);
        self.outbound.push_staged(arena);
    }

    /// Writes the layer's state for another worker. Returns how many bytes of the input are opened.
    ///
    /// # Errors
    /// If the layer stays here, or does so for now.
    pub(super) fn freeze_layer(&self, state: &mut Vec<u8>) -> Result<usize, CannotFreeze> {
        match (&self.layered, self.phase) {
            (Some(layered), Phase::Handshake { is_done: false })
                if !layered.has_answered && layered.outbound.is_none() =>
            {
                Ok(0)
            }
            (Some(_), Phase::Handshake { .. }) => Err(CannotFreeze::Later),
            (Some(layered), Phase::Open) => {
                layered.layer.freeze(state)?;
                Ok(layered.window.plaintext.len())
            }
            _ => Ok(0),
        }
    }

    /// All input, without the bytes that are used up.
    pub(super) fn input_to_move(&self) -> Vec<u8> {
        let bytes = self.input.bytes();
        match &self.layered {
            None => bytes.to_vec(),
            Some(layered) => [&bytes[layered.window.plaintext.clone()], &bytes[layered.window.sealed..]].concat(),
        }
    }

    /// Sets how many bytes of the input from another worker are opened. Returns `false` if there are not so many.
    #[must_use]
    pub(super) fn set_opened(&mut self, opened_bytes: usize) -> bool {
        match &mut self.layered {
            None => opened_bytes == 0,
            Some(layered) => {
                layered.window = Window { plaintext: 0..opened_bytes, sealed: opened_bytes };
                opened_bytes <= self.input.len()
            }
        }
    }
}
