//! Acting on other connections, half-closed connections, and peers that leave paused ones.

use std::net::SocketAddr;
use std::time::Duration;

use baton::config::{Limits, Timeouts};
use baton::testing::Harness;
use baton::{
    CloseReason, Closed, ConnectionId, Io, Limit, Next, Peer, Protocol, Reject, Step, TimerKey, Unreachable, Worker,
};

/// What a connection has heard from the others.
#[derive(Default)]
struct Talker {
    heard: u32,
}

/// Lines of one connection reach all others: `say` as they are, `cut` ends the others, `pair` pairs the talker with the
/// first of them, `nest` acts on the third connection from within an action on the second, `self` acts on the talker
/// itself.
#[derive(Default)]
struct Party {
    all: Vec<ConnectionId>,
    unreachable: Vec<Unreachable>,
    unread: Vec<u8>,
}

impl Party {
    fn others(&self, id: ConnectionId) -> Vec<ConnectionId> {
        self.all.iter().copied().filter(|other| *other != id).collect()
    }

    fn command(&mut self, line: &[u8], io: &mut Io<'_>) -> Next {
        let id = io.id();
        match line {
            b"cut" => {
                for other in self.others(id) {
                    let _ = io.with(other, |_: &mut Talker, io| {
                        io.write(b"cut;");
                        Next::Finish
                    });
                }
            }
            b"nest" => {
                let [second, third] = *self.others(id) else { return Next::Abort };
                let all = [id, second, third];
                let unreachable = &mut self.unreachable;
                let done = io.with(second, |_: &mut Talker, io| {
                    io.write(b"outer[");
                    let done = io.with(third, |_: &mut Talker, io| {
                        io.write(b"inner;");
                        unreachable
                            .extend(all.iter().filter_map(|id| io.with(*id, |_: &mut Talker, _| Next::Keep).err()));
                        Next::Keep
                    });
                    assert_eq!(done, Ok(()));
                    io.write(b"]");
                    Next::Keep
                });
                assert_eq!(done, Ok(()));
            }
            b"pair" => {
                io.write(b"mine;");
                let paired = io.pair_with(self.others(id)[0]);
                assert_eq!(paired, Ok(()));
            }
            b"self" => self.unreachable.extend(io.with(id, |_: &mut Talker, _| Next::Keep).err()),
            _ => {
                io.write(b"before;");
                for other in self.others(id) {
                    let done = io.with(other, |talker: &mut Talker, io| {
                        talker.heard += 1;
                        io.write(line);
                        io.write(b";");
                        Next::Keep
                    });
                    self.unreachable.extend(done.err());
                    io.write(b"told;");
                }
                io.write(b"after;");
            }
        }
        Next::Keep
    }
}

impl Protocol for Party {
    type Connection = Talker;
    type Message = Vec<u8>;

    fn on_open(&mut self, _: Peer<'_>, io: &mut Io<'_>) -> Result<Talker, Reject> {
        self.all.push(io.id());
        Ok(Talker::default())
    }

    fn on_data(&mut self, _: &mut Talker, input: &[u8], io: &mut Io<'_>) -> Step {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Step::more(0) };
        match self.command(&input[..end], io) {
            Next::Abort => Step::abort(),
            _ => Step::yield_now(end + 1),
        }
    }

    fn on_message(&mut self, message: Vec<u8>, worker: &mut Worker<'_, Vec<u8>>) {
        for id in &self.all {
            let done = worker.with(*id, |talker: &mut Talker, io| {
                talker.heard += 1;
                io.write(&message);
                Next::Keep
            });
            self.unreachable.extend(done.err());
        }
    }

    fn on_close(&mut self, talker: Talker, closed: Closed<'_>, worker: &mut Worker<'_, Vec<u8>>) {
        self.all.retain(|id| *id != closed.id);
        self.unread.extend_from_slice(closed.unread);
        for id in &self.all {
            let _ = worker.with(*id, |_: &mut Talker, io| {
                io.write(format!("left after {};", talker.heard).as_bytes());
                Next::Keep
            });
        }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

#[test]
fn what_is_written_to_others_and_to_oneself_comes_whole_and_in_order() {
    let mut harness = Harness::new(Party::default());
    let [first, second, third] = [harness.open(), harness.open(), harness.open()];
    harness.send(second, b"one\ntwo\n");
    assert_eq!(text(harness.take_output(first)), "one;two;");
    assert_eq!(text(harness.take_output(third)), "one;two;");
    assert_eq!(text(harness.take_output(second)), "before;told;told;after;before;told;told;after;");
    assert!(harness.protocol().unreachable.is_empty());
}

#[test]
fn what_was_written_before_a_pair_is_made_goes_to_whom_it_was_written() {
    let mut harness = Harness::new(Party::default());
    let [first, second] = [harness.open(), harness.open()];
    harness.send(first, b"pair\n");
    assert_eq!([first, second].map(|client| text(harness.take_output(client))), ["mine;", ""]);
}

#[test]
fn one_acts_on_another_that_acts_on_a_third() {
    let mut harness = Harness::new(Party::default());
    let [first, second, third] = [harness.open(), harness.open(), harness.open()];
    for talker in [third, first, second] {
        harness.protocol().unreachable.clear();
        harness.send(talker, b"nest\n");
        assert_eq!(harness.protocol().unreachable, [Unreachable::Busy; 3]);
        let outputs = [first, second, third].map(|client| text(harness.take_output(client)));
        let told: Vec<&str> = outputs.iter().map(String::as_str).filter(|output| !output.is_empty()).collect();
        assert_eq!(told, ["outer[]", "inner;"]);
    }
    harness.protocol().unreachable.clear();
    harness.send(first, b"self\n");
    assert_eq!(harness.protocol().unreachable, [Unreachable::Busy]);
}

#[test]
fn others_can_be_ended_and_act_when_they_end() {
    let mut harness = Harness::new(Party::default());
    let [first, second, third] = [harness.open(), harness.open(), harness.open()];
    harness.send(second, b"cut\n");
    assert_eq!([first, third].map(|client| harness.closed(client)), [Some(CloseReason::Protocol); 2]);
    assert_eq!(text(harness.take_output(first)), "cut;");
    assert_eq!(text(harness.take_output(second)), "left after 0;left after 0;");
    let id = harness.id(second).expect("open");
    harness.message(b"all".to_vec());
    assert_eq!(text(harness.take_output(second)), "all");
    harness.protocol().all.push(ConnectionId::from_u64(id.to_u64() + 1));
    harness.message_after(Duration::from_millis(5), b"later".to_vec());
    harness.advance(Duration::from_millis(4));
    assert_eq!(text(harness.take_output(second)), "");
    harness.advance(Duration::from_millis(1));
    assert_eq!(text(harness.take_output(second)), "later");
    assert_eq!(harness.protocol().unreachable, [Unreachable::Gone]);
}

#[test]
fn what_was_read_and_not_consumed_is_told_when_a_connection_is_reset() {
    let mut harness = Harness::new(Party::default());
    let client = harness.open();
    harness.send(client, b"half a line");
    harness.reset(client);
    assert_eq!(harness.closed(client), Some(CloseReason::Reset));
    assert_eq!(text(harness.protocol().unread.clone()), "half a line");
}

const RESUME: TimerKey = TimerKey(1);

/// Echoes unless a line says something else: `.` ends its own side, `p` pauses for a second. Records its callbacks.
#[derive(Default)]
struct Halves {
    told: Vec<String>,
    is_ended: bool,
}

impl Protocol for Halves {
    type Connection = ();
    type Message = SocketAddr;

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        let end = input.iter().position(|byte| b".p".contains(byte));
        let echoed = &input[..end.unwrap_or(input.len())];
        io.write(echoed);
        if self.is_ended {
            self.told.push(format!("read {}", text(echoed.to_vec())));
        }
        match end.map(|end| input[end]) {
            Some(b'.') => {
                self.is_ended = true;
                Step::shutdown_write(echoed.len() + 1)
            }
            Some(_) => {
                io.set_timer(RESUME, Duration::from_secs(1));
                Step::pause(echoed.len() + 1)
            }
            None => Step::more(input.len()),
        }
    }

    fn on_timer(&mut self, (): &mut (), _: TimerKey, _: &mut Io<'_>) -> Next {
        Next::More { at_least: 1 }
    }

    fn on_eof(&mut self, (): &mut (), _: &[u8], io: &mut Io<'_>) -> Next {
        self.told.push("eof".to_owned());
        io.write(b"goes on");
        io.set_timer(RESUME, Duration::from_secs(1));
        Next::Keep
    }

    fn on_hang_up(&mut self, (): &mut (), _: &mut Io<'_>) -> Next {
        self.told.push("hangs up".to_owned());
        Next::Keep
    }

    fn on_limit(&mut self, (): &mut (), limit: Limit, _: &[u8], _: &mut Io<'_>) -> Next {
        self.told.push(format!("{limit:?}"));
        Next::Close
    }
}

#[test]
fn one_half_ends_and_the_other_goes_on() {
    let mut harness = Harness::new(Halves::default());
    let client = harness.open();
    harness.send(client, b"ab.");
    assert!(harness.saw_end(client) && harness.closed(client).is_none());
    harness.send(client, b"cd");
    harness.send(client, b"ef");
    assert_eq!(text(harness.take_output(client)), "ab", "nothing follows the FIN");
    harness.finish(client);
    assert_eq!(harness.protocol().told, ["read cd", "read ef", "eof"]);
    assert_eq!(harness.closed(client), Some(CloseReason::Peer));
}

#[test]
fn fin_waits_for_a_slow_reader() {
    let mut harness = Harness::new(Halves::default());
    let client = harness.open();
    harness.set_window(client, Some(1));
    harness.send(client, b"abc.d");
    assert!(!harness.saw_end(client));
    harness.set_window(client, None);
    assert!(harness.saw_end(client));
    assert_eq!(text(harness.take_output(client)), "abc");
}

#[test]
fn one_that_has_heard_fin_goes_on_writing() {
    let mut harness = Harness::new(Halves::default());
    let client = harness.open();
    harness.finish(client);
    assert_eq!(text(harness.take_output(client)), "goes on");
    harness.advance(Duration::from_secs(2));
    assert_eq!(harness.closed(client), None);
    harness.reset(client);
    assert_eq!(harness.closed(client), Some(CloseReason::Reset));
}

#[test]
fn a_paused_connection_notices_that_its_peer_leaves() {
    let mut harness = Harness::new(Halves::default());
    let (client, other) = (harness.open(), harness.open());
    harness.send(client, b"ap");
    harness.send(client, b"b");
    harness.finish(client);
    assert_eq!(harness.protocol().told, ["hangs up"]);
    assert_eq!(text(harness.take_output(client)), "a");
    harness.advance(Duration::from_secs(1));
    assert_eq!(text(harness.take_output(client)), "bgoes on", "what it sent before is read first");
    assert_eq!(harness.protocol().told, ["hangs up", "eof"]);
    harness.send(other, b"p");
    harness.reset(other);
    assert_eq!(harness.closed(other), Some(CloseReason::Reset));
}

#[test]
fn a_paused_connection_has_its_idle_time() {
    let timeouts = Timeouts { idle_ms: 300, message_ms: 200, ..Timeouts::default() };
    let mut harness = Harness::with(Halves::default(), Limits::default(), timeouts);
    let client = harness.open();
    harness.send(client, b"ap");
    harness.advance(Duration::from_millis(299));
    assert_eq!(harness.closed(client), None);
    harness.advance(Duration::from_millis(2));
    assert_eq!(harness.protocol().told, ["Idle"]);
    assert!(harness.saw_end(client));
}

/// Asks to be called again forever.
struct Restless;

impl Protocol for Restless {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), _: &[u8], _: &mut Io<'_>) -> Step {
        Step::yield_now(0)
    }
}

#[test]
#[should_panic(expected = "asked each time to be called again")]
fn a_protocol_that_always_yields_is_told_so() {
    let mut harness = Harness::new(Restless);
    let client = harness.open();
    harness.send(client, b"x");
}
