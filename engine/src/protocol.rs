//! What a user of the engine writes: the [`Protocol`] trait.
//!
//! Nothing here knows sockets, descriptors or the kernel, so that the same protocol runs on the ring, in the
//! [`Harness`](crate::testing::Harness) and under a fuzzer.

use std::io;
use std::time::Duration;

use crate::context::{Io, Worker};
use crate::messages::Sibling;
use crate::types::{
    CannotFreeze, Closed, Drain, Limit, Next, Peer, Reject, StateFormat, Step, SystemCalls, ThawError, TimerKey,
};

/// A protocol: one value per worker process, one [`Protocol::Connection`] per connection.
///
/// The engine owns partial input, pipelining, back-pressure, time-outs and closing; the protocol parses and
/// answers. All callbacks of a worker run on its one thread, so nothing here needs to be `Send`.
///
/// A panic in a callback ends the worker process, not the service.
pub trait Protocol: Sized + 'static {
    /// State kept per connection, in the engine's slab: keep it small, box what is rarely there.
    type Connection: 'static;

    /// What helper threads send into the worker through a [`Mailbox`](crate::Mailbox); `()` where none do.
    type Message: Send + 'static;

    /// What the callbacks may ask of the kernel where the [sandbox](crate::config::Settings::sandbox) is on.
    const SYSTEM_CALLS: SystemCalls = SystemCalls::Usual;

    /// Called once, on the pinned worker process, before the first connection.
    ///
    /// # Errors
    /// An error ends the start-up of the worker and is reported to whoever started the server.
    fn on_start(&mut self, worker: &mut Worker<'_, Self::Message>) -> io::Result<()> {
        let _ = worker;
        Ok(())
    }

    /// A connection was accepted, or an outbound one was established. May write already (a greeting).
    ///
    /// # Errors
    /// [`Reject`] closes the connection at once; what was written before is still sent.
    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<Self::Connection, Reject>;

    /// Input arrived. `input` is every byte not yet consumed, contiguous, never empty.
    ///
    /// Handle as many whole messages as there are and say how many bytes they took; what is left is kept and
    /// comes again with the bytes that follow.
    fn on_data(&mut self, connection: &mut Self::Connection, input: &[u8], io: &mut Io<'_>) -> Step;

    /// The peer has sent its last byte (FIN). `input` is what was never consumed. What is queued for the peer
    /// is still sent when this returns [`Next::Close`], the default. With [`Next::Keep`] the connection stays open for
    /// writing, until the protocol closes it, `idle_ms` have passed without output, or the peer resets it.
    fn on_eof(&mut self, connection: &mut Self::Connection, input: &[u8], io: &mut Io<'_>) -> Next {
        let _ = (connection, input, io);
        Next::Close
    }

    /// The peer of a paused connection ([`Next::Pause`]) has sent its FIN. What it sent before is still to be read, and
    /// [`Protocol::on_eof`] comes after that; so a client that has gone away while an answer is being made is noticed, and one
    /// that has only ended its side is not lost. A reset needs no callback: it ends the connection at once.
    fn on_hang_up(&mut self, connection: &mut Self::Connection, io: &mut Io<'_>) -> Next {
        let _ = (connection, io);
        Next::Keep
    }

    /// Output had risen above the high-water mark and has now fallen below the low one.
    fn on_writable(&mut self, connection: &mut Self::Connection, io: &mut Io<'_>) -> Next {
        let _ = (connection, io);
        Next::Keep
    }

    /// A timer set with [`Io::set_timer`] expired.
    fn on_timer(&mut self, connection: &mut Self::Connection, key: TimerKey, io: &mut Io<'_>) -> Next {
        let _ = (connection, key, io);
        Next::Keep
    }

    /// Another connection, or the worker, called [`Io::wake`] or [`Worker::wake`] for this one.
    fn on_wake(&mut self, connection: &mut Self::Connection, io: &mut Io<'_>) -> Next {
        let _ = (connection, io);
        Next::Keep
    }

    /// One of the engine's own limits was hit. `input` is what is not consumed: the begun message. What is written
    /// here is sent before a [`Next::Close`].
    fn on_limit(&mut self, connection: &mut Self::Connection, limit: Limit, input: &[u8], io: &mut Io<'_>) -> Next {
        let _ = (connection, limit, input, io);
        Next::Close
    }

    /// A helper thread sent a message to this worker.
    fn on_message(&mut self, message: Self::Message, worker: &mut Worker<'_, Self::Message>) {
        let _ = (message, worker);
    }

    /// What this protocol's workers say to each other; `None`, the default: nothing. A worker that runs another protocol, or
    /// does not read this version, is not told anything, and the log says so.
    const MESSAGES: Option<StateFormat> = None;

    /// Versions of [`Protocol::MESSAGES`], beside the one that is sent, that [`Protocol::on_sibling_message`] understands. While an
    /// upgrade is under way, workers of both binaries speak to each other: so a new version is read one release before it is sent.
    const MESSAGES_READS: &'static [u32] = &[];

    /// Another worker of this server has sent a message by [`Worker::send`], or any worker, this one too, by [`Worker::broadcast`].
    /// The messages of each sender come in the order in which it sent them.
    fn on_sibling_message(&mut self, from: Sibling, message: &[u8], worker: &mut Worker<'_, Self::Message>) {
        let _ = (from, message, worker);
    }

    /// A message could not be sent, since too many were waiting ([`SendError::Full`](crate::SendError::Full)), and now there is
    /// room for about half of what may wait.
    fn on_siblings_writable(&mut self, worker: &mut Worker<'_, Self::Message>) {
        let _ = worker;
    }

    /// Another worker has left, and all of its connections that go together have come here ([`Protocol::thaw`]). Messages of other
    /// workers were held back meanwhile, so that each connection hears each of them once.
    fn on_all_arrived(&mut self, worker: &mut Worker<'_, Self::Message>) {
        let _ = worker;
    }

    /// A timer set with [`Worker::set_timer`] expired.
    fn on_worker_timer(&mut self, key: TimerKey, worker: &mut Worker<'_, Self::Message>) {
        let _ = (key, worker);
    }

    /// An outbound connection asked for with [`Worker::connect`] could not be established, or the handshake of its layer has failed.
    fn on_connect_failed(&mut self, token: u64, error: io::Error, worker: &mut Worker<'_, Self::Message>) {
        let _ = (token, error, worker);
    }

    /// All events of a turn of the loop are handled; what was written in it is about to be submitted.
    fn on_turn_end(&mut self, worker: &mut Worker<'_, Self::Message>) {
        let _ = worker;
    }

    /// The worker is leaving, or an operator closes this connection (`batonctl close`). Say goodbye at a message boundary
    /// (where `input`, all that is not consumed, is empty): write it here and return [`Drain::Close`], or return [`Drain::Wait`] and close from a later callback. After
    /// `deadline` the engine closes.
    ///
    /// Called after all input that had arrived when the order came; for a connection that has sent nothing so far,
    /// after its first input, or a second later where none comes.
    fn on_drain(
        &mut self,
        connection: &mut Self::Connection,
        deadline: Duration,
        input: &[u8],
        io: &mut Io<'_>,
    ) -> Drain {
        let _ = (connection, deadline, input, io);
        Drain::Close
    }

    /// What [`Protocol::freeze`] writes. `None`, the default: connections of this protocol end with their worker.
    ///
    /// Where there is a format, a connection of a worker that leaves while others serve is frozen there and thawed at one
    /// of them, with all input that was not consumed and all output that was not sent, with its timers and time-outs; see
    /// [`Connections`](crate::config::Connections). [`output_of_all_handovers`](crate::testing::output_of_all_handovers)
    /// tests that a protocol does not notice.
    ///
    /// A change of the format comes in two releases, so that either can be reverted to the one before: first
    /// [`Protocol::thaw`] learns to read the new version, then [`Protocol::freeze`] to write it. The example `versions`
    /// does that.
    const STATE: Option<StateFormat> = None;

    /// Versions of [`Protocol::STATE`], beside the one that is written, that [`Protocol::thaw`] reads. An upgrade to a binary
    /// that does not read what the running one writes is refused, and so the new version is read one release before it is
    /// written.
    const STATE_READS: &'static [u32] = &[];

    /// Writes what [`Protocol::thaw`] needs to make the same connection again, in the format [`Protocol::STATE`]. Input,
    /// output and timers are the engine's and move by themselves. Called between callbacks, wherever in a message the
    /// connection is; it may be called for a connection that stays after all, so nothing may change by it. A wake
    /// ([`Io::wake`]) that comes from then on stays behind where the connection moves: it was about something of this worker.
    ///
    /// # Errors
    /// Where this connection cannot be handed over, or not at this moment.
    fn freeze(&mut self, connection: &Self::Connection, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        let _ = (connection, state);
        Err(CannotFreeze::Stays)
    }

    /// Makes a connection of what another worker's [`Protocol::freeze`] wrote, perhaps that of an older or a newer binary:
    /// `version` is that of its [`Protocol::STATE`]. [`Protocol::on_open`] is not called for it. [`Io::id`] is a new one;
    /// connections that belong together (a proxy's two) come together where they were [paired](Io::pair_with), and know each
    /// other by [`Io::partner`] from the first callback on. An outbound one has no token any more.
    ///
    /// What it writes comes after the output that was not sent. It may turn out that the connection stays where it was:
    /// then what was written is dropped and [`Protocol::on_close`] called, with [`CloseReason::HandedOver`](crate::CloseReason::HandedOver).
    ///
    /// # Errors
    /// A version that is not known, or bytes that do not make sense: the connection stays where it was, and drains there.
    fn thaw(
        &mut self,
        version: u32,
        state: &[u8],
        peer: Peer<'_>,
        io: &mut Io<'_>,
    ) -> Result<Self::Connection, ThawError> {
        let _ = (state, peer, io);
        Err(ThawError::Version(version))
    }

    /// What [`Protocol::freeze_worker`] writes. `None`, the default: a worker has nothing of its own that is worth keeping.
    ///
    /// Where there is a format, a worker that takes the place of another lets nobody in until it has that one's state, or knows
    /// that none comes; meanwhile whoever connects waits. It makes sense for one worker: where there are several, each that
    /// leaves brings its state to one that serves, and all its connections to the same one. [`Protocol::STATE`] is needed, too.
    const WORKER_STATE: Option<StateFormat> = None;

    /// Versions of [`Protocol::WORKER_STATE`], beside the one that is written, that [`Protocol::thaw_worker`] reads; see
    /// [`Protocol::STATE_READS`].
    const WORKER_STATE_READS: &'static [u32] = &[];

    /// About how many bytes [`Protocol::freeze_worker`] would write; asked in every turn, so it must cost nothing. Where it
    /// is above [`Settings::state_bytes_max`](crate::config::Settings::state_bytes_max), workers are not replaced, or begin
    /// anew, as [`Settings::state_too_large`](crate::config::Settings::state_too_large) says.
    fn worker_state_bytes(&self) -> u64 {
        0
    }

    /// Writes the state of the whole worker, in the format [`Protocol::WORKER_STATE`]. All its connections stand still, and
    /// move when this has been taken; no callback comes in between. It may come to nothing, so nothing may change by it.
    ///
    /// # Errors
    /// Those of `state`, passed on: where the other worker is gone, or too much was written. Then the worker keeps its state
    /// and its connections, and drains.
    fn freeze_worker(&mut self, state: &mut dyn io::Write) -> io::Result<()> {
        let _ = state;
        Ok(())
    }

    /// Reads what another worker's [`Protocol::freeze_worker`] writes at the same time, perhaps that of another binary:
    /// `version` is that of its [`Protocol::WORKER_STATE`]. Called before this worker has any connection, unless there are
    /// several: then what is read is added to what there is.
    ///
    /// # Errors
    /// Those of `state`, passed on by `?`; a version that is not known, or bytes that do not make sense. What was read must
    /// be forgotten then.
    fn thaw_worker(
        &mut self,
        version: u32,
        state: &mut dyn io::Read,
        worker: &mut Worker<'_, Self::Message>,
    ) -> Result<(), ThawError> {
        let _ = (state, worker);
        Err(ThawError::Version(version))
    }

    /// The connection is gone; no callback for it follows. Others can be acted on ([`Worker::with`]).
    fn on_close(&mut self, connection: Self::Connection, closed: Closed<'_>, worker: &mut Worker<'_, Self::Message>) {
        let _ = (connection, closed, worker);
    }
}
