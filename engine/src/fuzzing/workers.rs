//! A worker, and what its master and other workers may send to it.

use std::collections::VecDeque;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::time::Duration;

use super::pieces;
use crate::context::Io;
use crate::handover::receiver::{Command, Input, Receiver, Visitor};
use crate::handover::{Frozen, Refusal};
use crate::ipc::meeting::both_ends as pair;
use crate::ipc::orders::Order;
use crate::ipc::transfer::{Arrival, Heard, file_of};
use crate::ipc::worker_state::StateReader;
use crate::messages::{Answer, Heard as Saying, Inbox};
use crate::protocol::Protocol;
use crate::sys::channel::send;
use crate::testing::Harness;
use crate::types::{CannotFreeze, ConnectionId, Next, Peer, Reject, StateFormat, Step, ThawError, TimerKey};

/// Orders of a master.
///
/// # Panics
/// If what was read cannot be written.
pub fn orders(data: &[u8]) {
    if let Ok(order) = serde_json::from_slice::<Order>(data) {
        serde_json::to_vec(&order).expect("what was read can be written");
    }
}

/// A connection whose peer stays.
static CONNECTION: LazyLock<(TcpStream, TcpStream)> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    (listener.accept().expect("accepted").0, peer)
});

/// Packets of a worker that brings connections. Each line begins with a byte, which says how many descriptors come with
/// it and whether bytes come in a file. The head follows, then a zero byte and the body.
///
/// # Panics
/// If the receiver does, or a connection that was made from it.
pub fn envelopes(data: &[u8]) {
    let (ours, mut theirs) = pair();
    let (mut receiver, mut commands) = (Receiver::new(1_000), VecDeque::new());
    let visitor = Visitor(0);
    receiver.step(&mut commands, Input::Came(visitor));
    for piece in pieces(data) {
        let Some((how, packet)) = piece.split_first() else { continue };
        let (head, body) = packet.split_at(packet.iter().position(|byte| *byte == 0).unwrap_or(packet.len()));
        let body = body.get(1..).unwrap_or_default();
        let file: Option<OwnedFd> = (how & 0x10 != 0).then(|| file_of([body]).expect("a file"));
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![CONNECTION.0.as_fd(); usize::from(how & 0x0f)];
        descriptors.extend(file.as_ref().map(AsFd::as_fd));
        // Mutations then need not guess the length of the head.
        let packet = [&(head.len() as u32).to_le_bytes()[..], head, if file.is_none() { body } else { b"" }].concat();
        if send(ours.descriptor(), &packet, &descriptors).is_err() {
            break;
        }
        match theirs.hear() {
            Heard::Offer(arrival) => offered(&mut receiver, &mut commands, visitor, arrival),
            Heard::Gives { batch } => receiver.step(&mut commands, Input::Gives { visitor, batch }),
            Heard::Takes { .. } | Heard::State { .. } | Heard::Circle(_) | Heard::Unknown | Heard::Nothing => {}
            Heard::End => break,
        }
        commands.clear();
    }
}

fn offered(receiver: &mut Receiver, commands: &mut VecDeque<Command>, visitor: Visitor, arrival: Arrival) {
    let refusal = (!arrival.has_all_descriptors()).then_some(Refusal::Descriptors);
    let (batch, count, bytes) = (arrival.batch, arrival.len(), arrival.bytes());
    receiver.step(commands, Input::Offer { visitor, batch, count, bytes, refusal });
    if !commands.contains(&Command::Thaw(visitor)) {
        return;
    }
    let version = arrival.format_version;
    let mut harness = Harness::new(Timed);
    let mut members = Vec::new();
    for (slot, arrived) in arrival.into_connections().enumerate() {
        members.push(arrived.and_then(|arrived| {
            live_on(&mut harness, version, arrived.frozen).map_err(|_| Refusal::State)?;
            Ok(ConnectionId { slot: slot as u32, generation: 0 })
        }));
    }
    receiver.step(commands, Input::Thawed { visitor, members, pairs: vec![(0, 1)], open: 0 });
}

/// A connection that arrived continues: input, output, time, and its end.
fn live_on(harness: &mut Harness<Timed>, version: u32, frozen: Frozen) -> Result<(), ThawError> {
    let client = harness.thaw(version, frozen)?;
    harness.send(client, b"some input");
    harness.advance(Duration::from_secs(1));
    harness.advance(Duration::from_secs(200));
    harness.finish(client);
    harness.advance(Duration::from_secs(200));
    Ok(())
}

/// A worker's own state, each line a packet: the first byte gives its kind.
///
/// # Panics
/// If the reader does, or returns more than allowed.
pub fn worker_state(data: &[u8]) {
    const BYTES_MAX: u64 = 1_000;
    let (ours, mut theirs) = pair();
    for piece in pieces(data) {
        let Some((kind, rest)) = piece.split_first() else { continue };
        let head: Vec<u8> = match kind {
            b'p' => br#"{"message":"state_part"}"#.to_vec(),
            b'e' => format!(r#"{{"message":"state_end","bytes":{},"is_whole":true}}"#, rest.len()).into_bytes(),
            _ => rest.to_vec(),
        };
        let packet = [&(head.len() as u32).to_le_bytes()[..], &head, rest].concat();
        if send(ours.descriptor(), &packet, &[]).is_err() {
            break;
        }
    }
    drop(ours);
    let mut state = Vec::new();
    let mut reader = StateReader::new(&mut theirs, &|_| {}, BYTES_MAX);
    let _ = reader.read_to_end(&mut state);
    let _ = reader.skip_rest();
    assert!(state.len() as u64 <= BYTES_MAX);
}

/// Packets of a worker that sends messages, and answers of one that receives them, each a line.
///
/// # Panics
/// If the inbox does, or returns or keeps more than allowed.
pub fn messages(data: &[u8]) {
    const BYTES_MAX: usize = 1_000;
    let mut inbox = Inbox::new(BYTES_MAX);
    for piece in pieces(data) {
        let _ = serde_json::from_slice::<Answer>(&piece);
        match inbox.take(&piece) {
            Ok(Saying::Messages(messages)) => {
                let bytes: usize = messages.map(<[u8]>::len).sum();
                assert!(bytes < piece.len());
            }
            Ok(Saying::Large(message)) => assert!(message.len() <= BYTES_MAX),
            Ok(Saying::TooLarge(bytes)) => assert!(bytes > BYTES_MAX),
            Ok(Saying::Word(_) | Saying::Nothing) => {}
            Err(_) => break,
        }
        assert!(inbox.held_bytes() <= BYTES_MAX);
    }
}

/// Sends back what it receives, sets timers, and counts its calls.
pub(crate) struct Timed;

impl Protocol for Timed {
    type Connection = u64;
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<u64, Reject> {
        Ok(0)
    }

    fn on_data(&mut self, calls: &mut u64, input: &[u8], io: &mut Io<'_>) -> Step {
        *calls = calls.saturating_add(1);
        io.write_input(input);
        io.set_timer(TimerKey((*calls % 7) as u16), Duration::from_millis(*calls % 1_000));
        match *calls % 4 {
            0 => Step::pause(input.len()),
            1 => Step::at_least(input.len() / 2, 3),
            _ => Step::more(input.len()),
        }
    }

    fn on_timer(&mut self, _: &mut u64, _: TimerKey, _: &mut Io<'_>) -> Next {
        Next::More { at_least: 1 }
    }

    const MESSAGES: Option<StateFormat> = Some(StateFormat { name: "timed", version: 1 });

    const STATE: Option<StateFormat> = Some(StateFormat { name: "timed", version: 1 });

    fn freeze(&mut self, calls: &u64, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        state.extend_from_slice(&calls.to_le_bytes());
        Ok(())
    }

    fn thaw(&mut self, _: u32, state: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<u64, ThawError> {
        Ok(state.iter().take(8).fold(0, |calls, byte| calls << 8 | u64::from(*byte)))
    }
}
