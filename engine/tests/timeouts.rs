//! Time-outs of one connection, of one listener, and the remaining time of timers, in virtual time.

use std::time::Duration;

use baton::config::{Limits, Timeouts};
use baton::testing::{Client, Harness};
use baton::{
    CannotFreeze, CloseReason, Io, Limit, Next, Peer, Protocol, Reject, StateFormat, Step, ThawError, TimerKey, Worker,
};

const TIMER: TimerKey = TimerKey(1);

/// A message is `i`, `m` or `w` and a digit: its time-out of that kind in seconds; `r`: the usual time-outs again; `t`:
/// sets [`TIMER`] to two seconds; `c`: cancels it; `b`: a megabyte. Any other message is never complete.
#[derive(Default)]
struct Patience {
    /// The remaining time of the timer at the last message. The next field: that of the worker's timer.
    left: Option<Duration>,
    worker_left: Option<Duration>,
}

impl Protocol for Patience {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        match input {
            [kind @ (b'i' | b'm' | b'w'), digit] => {
                let ms = u64::from(digit - b'0') * 1000;
                match kind {
                    b'i' => io.set_idle_ms(ms),
                    b'm' => io.set_message_ms(ms),
                    _ => io.set_write_ms(ms),
                }
            }
            b"r" => io.reset_timeouts(),
            b"t" => io.set_timer(TIMER, Duration::from_secs(2)),
            b"c" => io.cancel_timer(TIMER),
            b"b" => io.write(&vec![0; 1 << 20]),
            _ => return Step::more(0),
        }
        self.left = io.timer_left(TIMER);
        Step::more(input.len())
    }

    fn on_limit(&mut self, (): &mut (), _: Limit, _: &[u8], _: &mut Io<'_>) -> Next {
        Next::Abort
    }

    fn on_turn_end(&mut self, worker: &mut Worker<'_, ()>) {
        self.worker_left = worker.timer_left(TIMER);
        if self.worker_left.is_none() {
            worker.set_timer(TIMER, Duration::from_secs(100));
        }
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "patience", version: 1 });

    fn freeze(&mut self, (): &(), _: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        Ok(())
    }

    fn thaw(&mut self, _: u32, _: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<(), ThawError> {
        Ok(())
    }
}

fn started() -> (Harness<Patience>, Client) {
    let timeouts = Timeouts { idle_ms: 10_000, message_ms: 10_000, write_ms: 10_000, ..Timeouts::default() };
    let mut harness = Harness::with(Patience::default(), Limits::default(), timeouts);
    let client = harness.open();
    (harness, client)
}

/// The number of seconds after which the connection is gone; `None` if it still exists after a minute.
fn gone_after(harness: &mut Harness<Patience>, client: Client) -> Option<u32> {
    (0..60).find(|_| {
        let gone = harness.closed(client).is_some();
        harness.advance(Duration::from_secs(1));
        gone
    })
}

#[test]
fn a_connection_can_have_its_own_time_outs() {
    for (messages, expected) in [
        (vec![], Some(10)),
        (vec!["i3"], Some(3)),
        (vec!["i9"], Some(9)),
        (vec!["i0"], None),
        (vec!["i3", "r"], Some(10)),
        (vec!["i3", "m2", "x"], Some(2)),
        (vec!["i3", "x"], Some(10)),
        (vec!["m0", "i4", "x"], Some(4)),
        (vec!["i3", "i0", "m0", "x"], None),
    ] {
        let (mut harness, client) = started();
        messages.iter().for_each(|message| harness.send(client, message.as_bytes()));
        assert_eq!(gone_after(&mut harness, client), expected, "{messages:?}");
    }
}

#[test]
fn a_peer_that_takes_nothing_is_given_as_long_as_was_said() {
    for (message, expected) in [("r", Some(10)), ("w2", Some(2)), ("w0", None)] {
        let (mut harness, client) = started();
        harness.send(client, message.as_bytes());
        harness.set_window(client, Some(1000));
        harness.send(client, b"b");
        assert_eq!(gone_after(&mut harness, client), expected, "{message}");
        let reason = expected.map(|_| CloseReason::WriteTimeout);
        assert_eq!(harness.closed(client), reason, "{message}");
    }
}

#[test]
fn own_time_outs_move_with_the_connection() {
    let (mut harness, client) = started();
    harness.send(client, b"i3");
    harness.advance(Duration::from_secs(1));
    harness.hand_over(Patience::default());
    harness.hand_over(Patience::default());
    assert_eq!(gone_after(&mut harness, client), Some(2));
    assert_eq!(harness.closed(client), Some(CloseReason::Aborted));
}

#[test]
fn it_is_known_what_is_left_of_a_timer() {
    let (mut harness, client) = started();
    let left = |harness: &mut Harness<Patience>, message: &[u8]| {
        harness.send(client, message);
        harness.protocol().left
    };
    assert_eq!(left(&mut harness, b"r"), None);
    assert_eq!(left(&mut harness, b"t"), Some(Duration::from_secs(2)));
    harness.advance(Duration::from_millis(500));
    assert_eq!(left(&mut harness, b"r"), Some(Duration::from_millis(1500)));
    assert_eq!(left(&mut harness, b"c"), None);
    harness.send(client, b"t");
    harness.advance(Duration::from_secs(3));
    assert_eq!(left(&mut harness, b"r"), None, "it has fired");
    assert!(harness.protocol().worker_left.is_some_and(|left| left < Duration::from_secs(100)));
}
