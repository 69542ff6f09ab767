//! The state machine of a connection, under a protocol that can be told to do anything: every split, short writes,
//! pipelining, pause and resume, half-close, limits, closing; in virtual time.

use std::rc::Rc;
use std::time::Duration;

use baton::config::{Limits, Timeouts};
use baton::testing::{Harness, output_of_all_splits};
use baton::{CloseReason, Closed, Drain, Io, Limit, Next, Peer, Protocol, Reject, Step, TimerKey, Worker};
use proptest::prelude::*;

const RESUME: TimerKey = TimerKey(1);
const BIG: usize = 40_000;
static ZEROS: [u8; BIG] = [b'0'; BIG];

/// Commands, one per line: `e TEXT` echo, `i TEXT` echo by `write_input`, `w N` N bytes, `z` a large static answer, `k
/// N` N bytes of counted memory, `p MS` pause for this time, `y` yield, `n N` then N raw bytes which are echoed, `c`
/// close, `f` finish, `a` abort.
#[derive(Default)]
struct Script {
    closed: Vec<(usize, CloseReason)>,
    opened: usize,
    log: Vec<String>,
    drain_waits: bool,
    keeps_half_open: bool,
}

#[derive(Default)]
struct Talk {
    number: usize,
    raw: usize,
}

impl Protocol for Script {
    type Connection = Talk;
    type Message = String;

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<Talk, Reject> {
        self.opened += 1;
        Ok(Talk { number: self.opened - 1, raw: 0 })
    }

    fn on_data(&mut self, talk: &mut Talk, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            if talk.raw > 0 {
                if rest.len() < talk.raw {
                    return Step::at_least(consumed, talk.raw);
                }
                io.write(&rest[..talk.raw]);
                consumed += std::mem::take(&mut talk.raw);
                continue;
            }
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Step::more(consumed) };
            let line = &rest[..end];
            let argument = line.get(2..).unwrap_or_default();
            let number = || std::str::from_utf8(argument).ok().and_then(|text| text.parse().ok()).unwrap_or(0usize);
            consumed += end + 1;
            io.count_requests(1);
            match line.first() {
                Some(b'e') => io.write(argument),
                Some(b'i') => io.write_input(argument),
                Some(b'w') => {
                    let count = number();
                    io.reserve(count)[..count].fill(b'w');
                    io.commit(count);
                }
                Some(b'z') => io.write_static(&ZEROS),
                Some(b'k') => io.write_counted(&Rc::from(&ZEROS[..]), 1..number() + 1),
                Some(b'p') => {
                    io.set_timer(RESUME, Duration::from_millis(number() as u64));
                    return Step::pause(consumed);
                }
                Some(b'y') => return Step::yield_now(consumed),
                Some(b'n') => talk.raw = number(),
                Some(b'c') => return Step::close(consumed),
                Some(b'f') => return Step::finish(consumed),
                Some(b'a') => return Step::abort(),
                _ => io.write(b"?"),
            }
            if io.is_full() {
                return Step::yield_now(consumed);
            }
        }
    }

    fn on_eof(&mut self, talk: &mut Talk, input: &[u8], io: &mut Io<'_>) -> Next {
        io.write(format!("[eof {}]", input.len()).as_bytes());
        if self.keeps_half_open {
            io.set_timer(RESUME, Duration::from_secs(1));
            return Next::Keep;
        }
        self.log.push(format!("eof {}", talk.number));
        Next::Close
    }

    fn on_timer(&mut self, _: &mut Talk, key: TimerKey, io: &mut Io<'_>) -> Next {
        assert_eq!(key, RESUME);
        if self.keeps_half_open {
            io.write(b"late");
            return Next::Close;
        }
        Next::More { at_least: 1 }
    }

    fn on_limit(&mut self, talk: &mut Talk, limit: Limit, input: &[u8], io: &mut Io<'_>) -> Next {
        self.log.push(format!("{limit:?} {} with {}", talk.number, input.len()));
        io.write(b"limit");
        Next::Close
    }

    fn on_wake(&mut self, _: &mut Talk, io: &mut Io<'_>) -> Next {
        io.write(b"woken");
        Next::Keep
    }

    fn on_writable(&mut self, talk: &mut Talk, _: &mut Io<'_>) -> Next {
        self.log.push(format!("writable {}", talk.number));
        Next::Keep
    }

    fn on_message(&mut self, message: String, worker: &mut Worker<'_, String>) {
        self.log.push(message);
        worker.set_timer(RESUME, Duration::from_secs(5));
    }

    fn on_worker_timer(&mut self, _: TimerKey, worker: &mut Worker<'_, String>) {
        self.log.push(format!("tick at slot {}", worker.slot()));
    }

    fn on_drain(&mut self, _: &mut Talk, _: Duration, _: &[u8], io: &mut Io<'_>) -> Drain {
        io.write(b"bye");
        if self.drain_waits { Drain::Wait } else { Drain::Close }
    }

    fn on_close(&mut self, talk: Talk, closed: Closed<'_>, _: &mut Worker<'_, String>) {
        self.closed.push((talk.number, closed.reason));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_split_and_every_short_write_gives_the_same_output() {
    let output = output_of_all_splits(
        Script::default,
        b"e one\nw 70\nk 2000\ni two\nn 5\n12345e three\n\ny\ne four\nc\ne lost\n",
    );
    assert_eq!(text(&output), format!("one{}{}two12345three?four", "w".repeat(70), "0".repeat(2000)));
}

#[test]
fn input_that_waits_for_more_is_not_shown_again_before() {
    let mut harness = Harness::new(Script::default());
    let client = harness.open();
    harness.send(client, b"n 4\n");
    harness.send(client, b"12");
    harness.send(client, b"3");
    assert_eq!(text(&harness.take_output(client)), "");
    harness.send(client, b"4e x\n");
    assert_eq!(text(&harness.take_output(client)), "1234x");
    assert_eq!(harness.snapshot().requests, 2);
}

#[test]
fn a_paused_connection_reads_nothing_and_goes_on_where_it_was() {
    let mut harness = Harness::new(Script::default());
    let client = harness.open();
    harness.send(client, b"e a\np 100\ne b\n");
    harness.send(client, b"e c\n");
    assert_eq!(text(&harness.take_output(client)), "a");
    harness.finish(client);
    harness.advance(Duration::from_millis(99));
    assert_eq!(text(&harness.take_output(client)), "");
    harness.advance(Duration::from_millis(1));
    assert_eq!(text(&harness.take_output(client)), "bc[eof 0]");
    assert_eq!(harness.closed(client), Some(CloseReason::Peer));
}

#[test]
fn a_slow_reader_is_read_no_more_until_it_has_caught_up() {
    let limits = Limits { outbound_bytes_high: 1000, outbound_bytes_low: 100, ..Limits::default() };
    let mut harness = Harness::with(Script::default(), limits, Timeouts::default());
    let client = harness.open();
    harness.set_window(client, Some(0));
    harness.send(client, b"w 900\nw 900\nw 900\n");
    harness.send(client, b"e tail\n");
    assert_eq!(harness.snapshot().bytes_received, 18, "what came after the high-water mark waits with the kernel");
    harness.set_window(client, Some(1650));
    assert!(harness.protocol().log.is_empty(), "150 bytes are still above the low-water mark");
    harness.set_window(client, Some(60));
    assert_eq!(harness.protocol().log, ["writable 0"]);
    harness.set_window(client, None);
    assert_eq!(text(&harness.take_output(client)), format!("{}tail", "w".repeat(2700)));
}

#[test]
fn a_peer_that_takes_nothing_is_cut_after_the_write_timeout() {
    let timeouts = Timeouts { write_ms: 500, idle_ms: 100, ..Timeouts::default() };
    let mut harness = Harness::with(Script::default(), Limits::default(), timeouts);
    let client = harness.open();
    harness.set_window(client, Some(10));
    harness.send(client, b"w 100\n");
    harness.advance(Duration::from_millis(400));
    harness.set_window(client, Some(1));
    harness.advance(Duration::from_millis(499));
    assert_eq!(harness.closed(client), None, "progress counts from the last byte taken");
    harness.advance(Duration::from_millis(2));
    assert_eq!(harness.closed(client), Some(CloseReason::WriteTimeout));
    assert!(harness.was_reset(client));
}

#[test]
fn idle_and_message_timeouts_are_told_to_the_protocol() {
    let timeouts = Timeouts { idle_ms: 1000, message_ms: 300, ..Timeouts::default() };
    let mut harness = Harness::with(Script::default(), Limits::default(), timeouts);
    let (idle, slow) = (harness.open(), harness.open());
    harness.advance(Duration::from_millis(900));
    harness.send(idle, b"e hi\n");
    harness.send(slow, b"e ");
    for _ in 0..2 {
        harness.advance(Duration::from_millis(140));
        harness.send(slow, b"x");
    }
    harness.advance(Duration::from_millis(19));
    assert_eq!(harness.closed(slow), None);
    harness.advance(Duration::from_millis(2));
    assert_eq!(text(&harness.take_output(slow)), "limit");
    assert!(harness.saw_end(slow));
    harness.finish(slow);
    assert_eq!(harness.closed(slow), Some(CloseReason::MessageTimeout));
    harness.advance(Duration::from_millis(600));
    assert_eq!(harness.closed(idle), None, "activity moves the idle time-out");
    harness.advance(Duration::from_millis(200));
    assert_eq!(harness.protocol().log, ["Message 1 with 4", "Idle 0 with 0"]);
    harness.finish(idle);
    assert_eq!(harness.closed(idle), Some(CloseReason::IdleTimeout));
}

#[test]
fn a_message_beyond_its_bound_ends_the_connection() {
    let limits = Limits { message_bytes_max: 100, ..Limits::default() };
    let mut harness = Harness::with(Script::default(), limits, Timeouts::default());
    let client = harness.open();
    harness.send(client, &[b'e'; 90]);
    assert_eq!(text(&harness.take_output(client)), "");
    harness.send(client, &[b'e'; 90]);
    assert_eq!(text(&harness.take_output(client)), "limit");
    harness.finish(client);
    assert_eq!(harness.closed(client), Some(CloseReason::MessageBytes));
}

#[test]
fn closing_sends_what_is_queued_then_waits_for_the_peer_but_not_for_ever() {
    let mut harness = Harness::new(Script::default());
    let (polite, silent, gone) = (harness.open(), harness.open(), harness.open());
    for client in [polite, silent, gone] {
        harness.set_window(client, Some(3));
        harness.send(client, b"e answer\nc\ne more");
        assert!(!harness.saw_end(client), "FIN comes after the answer");
        harness.set_window(client, None);
        assert_eq!(text(&harness.take_output(client)), "answer");
        assert!(harness.saw_end(client));
        harness.send(client, b"and more that nobody reads");
        assert_eq!(harness.closed(client), None);
    }
    harness.finish(polite);
    harness.reset(gone);
    assert_eq!(harness.closed(polite), Some(CloseReason::Protocol));
    assert_eq!(harness.closed(gone), Some(CloseReason::Protocol));
    harness.advance(Duration::from_millis(Timeouts::default().linger_ms));
    assert_eq!(harness.closed(silent), Some(CloseReason::Protocol));
}

#[test]
fn finish_does_not_wait_and_abort_drops_what_is_queued() {
    let mut harness = Harness::new(Script::default());
    let (finished, aborted) = (harness.open(), harness.open());
    harness.send(finished, b"e done\nf\n");
    assert_eq!(text(&harness.take_output(finished)), "done");
    assert_eq!(harness.closed(finished), Some(CloseReason::Protocol));
    harness.send(aborted, b"w 5\na\n");
    assert_eq!(harness.closed(aborted), Some(CloseReason::Aborted));
    assert!(harness.was_reset(aborted));
}

#[test]
fn a_half_closed_peer_gets_its_answers() {
    let mut harness = Harness::new(Script { keeps_half_open: true, ..Script::default() });
    let client = harness.open();
    harness.send(client, b"e a\ne b");
    harness.finish(client);
    assert_eq!(text(&harness.take_output(client)), "a[eof 3]");
    assert_eq!(harness.closed(client), None);
    harness.advance(Duration::from_secs(1));
    assert_eq!(text(&harness.take_output(client)), "late");
    assert_eq!(harness.closed(client), Some(CloseReason::Protocol));
}

#[test]
fn draining_says_goodbye_and_ends_at_the_deadline() {
    let mut harness = Harness::new(Script::default());
    let client = harness.open();
    harness.drain();
    assert_eq!(text(&harness.take_output(client)), "bye");
    harness.finish(client);
    assert_eq!(harness.closed(client), Some(CloseReason::Drained));

    let mut harness = Harness::new(Script { drain_waits: true, ..Script::default() });
    let (busy, quick) = (harness.open(), harness.open());
    harness.drain();
    harness.send(quick, b"e last\nf\n");
    assert_eq!(text(&harness.take_output(quick)), "byelast");
    harness.advance(Duration::from_millis(Timeouts::default().drain_ms_max));
    assert_eq!(harness.closed(busy), Some(CloseReason::Stopped));
    assert_eq!(harness.closed(quick), Some(CloseReason::Protocol));
}

#[test]
fn messages_and_worker_timers_reach_the_protocol() {
    let mut harness = Harness::new(Script::default());
    harness.message("from a thread".to_owned());
    harness.advance(Duration::from_secs(4));
    harness.message("again: moves the timer".to_owned());
    harness.advance(Duration::from_secs(4));
    assert_eq!(harness.protocol().log.len(), 2);
    harness.advance(Duration::from_secs(1));
    assert_eq!(harness.protocol().log[2], "tick at slot 0");
}

#[test]
fn every_connection_is_opened_and_closed_once_and_counted() {
    let mut harness = Harness::new(Script::default());
    for index in 0..50 {
        let client = harness.open();
        match index % 4 {
            0 => harness.finish(client),
            1 => harness.reset(client),
            2 => harness.send(client, b"a\n"),
            _ => harness.send(client, b"f\n"),
        }
        assert!(harness.closed(client).is_some());
    }
    let closed = &harness.protocol().closed;
    assert_eq!(closed.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    let counted: u64 = harness.snapshot().closed.iter().map(|(_, count)| count).sum();
    assert_eq!(counted, 50);
}

#[derive(Clone, Debug)]
enum Event {
    Deliver(usize),
    Window(Option<usize>),
    Advance(u64),
}

fn commands() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let command = prop_oneof![
        "[a-z]{0,40}".prop_map(|text| (format!("e {text}\n").into_bytes(), text.into_bytes())),
        "[a-z]{0,40}".prop_map(|text| (format!("i {text}\n").into_bytes(), text.into_bytes())),
        (0..3000usize).prop_map(|count| (format!("w {count}\n").into_bytes(), vec![b'w'; count])),
        Just((b"z\n".to_vec(), ZEROS.to_vec())),
        (0..3000usize).prop_map(|count| (format!("k {count}\n").into_bytes(), vec![b'0'; count])),
        (0..50u64).prop_map(|ms| (format!("p {ms}\n").into_bytes(), Vec::new())),
        Just((b"y\n".to_vec(), Vec::new())),
        (1..500usize).prop_map(|count| {
            let raw: Vec<u8> = (0..count).map(|index| index as u8).collect();
            ([format!("n {count}\n").as_bytes(), &raw].concat(), raw)
        }),
    ];
    proptest::collection::vec(command, 1..40).prop_map(|list| {
        let (input, output): (Vec<_>, Vec<_>) = list.into_iter().unzip();
        (input.concat(), output.concat())
    })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..400usize).prop_map(Event::Deliver),
        2 => (0..5000usize).prop_map(|bytes| Event::Window(Some(bytes))),
        1 => Just(Event::Window(None)),
        1 => (0..60u64).prop_map(Event::Advance),
    ];
    proptest::collection::vec(event, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The answer is the same, whole and in order, however the input is split, whatever the peer's windows, and at all
    /// times.
    #[test]
    fn the_answer_does_not_depend_on_how_things_interleave((input, expected) in commands(), events in events()) {
        let limits = Limits { outbound_bytes_high: 4000, outbound_bytes_low: 1000, ..Limits::default() };
        let mut harness = Harness::with(Script::default(), limits, Timeouts { write_ms: 0, ..Timeouts::default() });
        let client = harness.open();
        let mut delivered = 0;
        for event in events {
            match event {
                Event::Deliver(count) => {
                    let end = (delivered + count).min(input.len());
                    harness.send(client, &input[delivered..end]);
                    delivered = end;
                }
                Event::Window(window) => harness.set_window(client, window),
                Event::Advance(ms) => harness.advance(Duration::from_millis(ms)),
            }
        }
        harness.set_window(client, None);
        harness.send(client, &input[delivered..]);
        harness.finish(client);
        harness.advance(Duration::from_secs(5));
        let output = harness.take_output(client);
        prop_assert_eq!(text(&output), format!("{}[eof 0]", text(&expected)));
        prop_assert_eq!(harness.closed(client), Some(CloseReason::Peer));
    }
}
