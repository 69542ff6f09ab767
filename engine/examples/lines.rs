//! A protocol of text lines, with timers and back-pressure:
//!
//! ```text
//! $ cargo run -p baton-engine --example lines &
//! $ nc 127.0.0.1 7001
//! say hello          -> hello
//! sleep 500          -> awake                  half a second later; later lines wait
//! count 1000000      -> 1 2 3 ...              as fast as you read, never more than a buffer ahead
//! tick 1000          -> tick 1, tick 2 ...     each second, between the other answers
//! stop, quit
//! ```
//!
//! Events are logged to standard error; `RUST_LOG=debug` logs more.

use std::io::Write;
use std::time::Duration;

use baton::config::Limits;
use baton::{
    CannotFreeze, Drain, Io, Limit, Next, Peer, Protocol, Reject, Server, ServerError, StateFormat, Step, ThawError,
    TimerKey,
};
use tracing_subscriber::filter::LevelFilter;

const LINE_BYTES_MAX: usize = 1024;
const MILLISECONDS_MAX: u64 = 60_000;

/// Wakes a connection that sleeps.
const SLEEP: TimerKey = TimerKey(0);
const TICK: TimerKey = TimerKey(1);

struct Lines;

#[derive(Default)]
struct Conversation {
    /// The rest of a `count`.
    counting: Option<(u64, u64)>,
    /// Time between ticks, and how many there were.
    ticking: Option<(Duration, u64)>,
}

/// What happens to the connection after a line.
enum After {
    Go,
    /// Read on when the callback for which the connection waits says so.
    Wait,
    Quit,
}

impl Protocol for Lines {
    type Connection = Conversation;
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<Conversation, Reject> {
        Ok(Conversation::default())
    }

    fn on_data(&mut self, conversation: &mut Conversation, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut consumed = 0;
        while let Some(length) = input[consumed..].iter().position(|byte| *byte == b'\n') {
            if io.is_full() {
                return Step::yield_now(consumed);
            }
            let line = &input[consumed..consumed + length];
            consumed += length + 1;
            match conversation.answer(line.strip_suffix(b"\r").unwrap_or(line), io) {
                After::Go => {}
                After::Wait => return Step::pause(consumed),
                After::Quit => return Step::close(consumed),
            }
        }
        Step::more(consumed)
    }

    /// The peer has read most of the output: continue to count.
    fn on_writable(&mut self, conversation: &mut Conversation, io: &mut Io<'_>) -> Next {
        if conversation.counting.is_some() && conversation.count(io) {
            return Next::More { at_least: 1 };
        }
        Next::Keep
    }

    fn on_timer(&mut self, conversation: &mut Conversation, key: TimerKey, io: &mut Io<'_>) -> Next {
        if key == SLEEP {
            io.write(b"awake\n");
            return Next::More { at_least: 1 };
        }
        if let Some((interval, count)) = &mut conversation.ticking {
            // A client that does not read gets fewer ticks, not a longer queue of them.
            if !io.is_full() {
                *count = count.saturating_add(1);
                let _ = writeln!(io, "tick {count}");
            }
            io.set_timer(TICK, *interval);
        }
        Next::Keep
    }

    fn on_limit(&mut self, _: &mut Conversation, limit: Limit, _: &[u8], io: &mut Io<'_>) -> Next {
        io.write(match limit {
            Limit::MessageBytes => b"error: line too long\n",
            Limit::Message => b"error: line not ended in time\n",
            Limit::Idle => b"bye: nothing said for too long\n",
            Limit::Connections => b"bye: others want to come in\n",
        });
        Next::Close
    }

    /// Version 1: the next number of a `count` and its last, the milliseconds between ticks and how many there were, as
    /// text, `-` for none. A `sleep` is a timer, which the engine hands over. If you add a field, raise the version,
    /// and continue to read the earlier ones, for connections from an older binary. State that this release cannot have
    /// written is refused: the other worker may be broken.
    const STATE: Option<StateFormat> = Some(StateFormat { name: "lines", version: 1 });

    fn freeze(&mut self, conversation: &Conversation, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        let _ = match conversation.counting {
            Some((next, last)) => write!(state, "{next} {last} "),
            None => write!(state, "- - "),
        };
        let _ = match conversation.ticking {
            Some((interval, count)) => write!(state, "{} {count}", interval.as_millis()),
            None => write!(state, "- -"),
        };
        Ok(())
    }

    fn thaw(&mut self, version: u32, state: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<Conversation, ThawError> {
        if version != 1 {
            return Err(ThawError::Version(version));
        }
        let text = str::from_utf8(state).map_err(|_| ThawError::Malformed)?;
        let numbers: Vec<Option<u64>> = text.split(' ').map(|word| word.parse().ok()).collect();
        let [next, last, interval_ms, count] = numbers[..] else { return Err(ThawError::Malformed) };
        if interval_ms.is_some_and(|ms| !(1..=MILLISECONDS_MAX).contains(&ms)) {
            return Err(ThawError::Malformed);
        }
        let ticking = interval_ms.zip(count).map(|(ms, count)| (Duration::from_millis(ms), count));
        Ok(Conversation { counting: next.zip(last), ticking })
    }

    fn on_drain(&mut self, _: &mut Conversation, _: Duration, _: &[u8], io: &mut Io<'_>) -> Drain {
        tracing::debug!(connection = %io.id(), "says goodbye");
        io.write(b"bye: the server is leaving\n");
        Drain::Close
    }
}

impl Conversation {
    fn answer(&mut self, line: &[u8], io: &mut Io<'_>) -> After {
        let Ok(line) = str::from_utf8(line) else {
            io.write(b"error: not UTF-8\n");
            return After::Go;
        };
        io.count_requests(1);
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        match (command, argument.parse::<u64>()) {
            ("say", _) => {
                let _ = writeln!(io, "{argument}");
            }
            ("sleep", Ok(ms)) if ms <= MILLISECONDS_MAX => {
                io.set_timer(SLEEP, Duration::from_millis(ms));
                return After::Wait;
            }
            ("count", Ok(last)) => {
                self.counting = Some((1, last));
                return if self.count(io) { After::Go } else { After::Wait };
            }
            ("tick", Ok(ms)) if (1..=MILLISECONDS_MAX).contains(&ms) => {
                let interval = Duration::from_millis(ms);
                self.ticking = Some((interval, 0));
                io.set_timer(TICK, interval);
            }
            ("stop", _) => {
                self.ticking = None;
                io.cancel_timer(TICK);
            }
            ("quit", _) => {
                io.write(b"bye\n");
                return After::Quit;
            }
            _ => io.write(b"error: say TEXT, sleep MS, count N, tick MS, stop or quit; MS up to 60000\n"),
        }
        After::Go
    }

    /// Writes numbers until the queue to the peer is full. Returns `true` when the last one is written.
    fn count(&mut self, io: &mut Io<'_>) -> bool {
        let Some((next, last)) = &mut self.counting else { return true };
        while *next <= *last {
            if io.is_full() {
                return false;
            }
            let _ = writeln!(io, "{next}");
            let Some(following) = next.checked_add(1) else { break };
            *next = following;
        }
        self.counting = None;
        true
    }
}

fn main() -> Result<(), ServerError> {
    let limits = Limits {
        message_bytes_max: LINE_BYTES_MAX,
        outbound_bytes_high: 64 << 10,
        outbound_bytes_low: 16 << 10,
        ..Limits::default()
    };
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    // Do this before the server runs: its workers are forked from this process, and log as it does.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).init();
    Server::builder().name("lines").listen(([127, 0, 0, 1], 7001)).limits(limits).build()?.run(|_slot| Lines)
}

/// Tests need no sockets and no waiting: the harness is the engine in virtual time.
#[cfg(test)]
mod tests {
    use baton::config::Timeouts;
    use baton::testing::{Client, Harness, output_of_all_handovers, output_of_all_splits};
    use baton::{CloseReason, config};

    use super::*;

    fn harness() -> (Harness<Lines>, Client) {
        let limits =
            config::Limits { outbound_bytes_high: 4096, outbound_bytes_low: 1024, ..config::Limits::default() };
        let mut harness = Harness::with(Lines, limits, Timeouts::default());
        let client = harness.open();
        (harness, client)
    }

    fn text(harness: &mut Harness<Lines>, client: Client) -> String {
        String::from_utf8(harness.take_output(client)).unwrap()
    }

    #[test]
    fn however_the_lines_are_cut() {
        let output = output_of_all_splits(|| Lines, b"say a\r\ncount 3\nsay\nwhat\nquit\nsay unheard\n");
        let expected = "a\n1\n2\n3\n\nerror: say TEXT, sleep MS, count N, tick MS, stop or quit; MS up to 60000\nbye\n";
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn wherever_the_connection_is_handed_over() {
        output_of_all_handovers(
            || Lines,
            b"say a\r\ncount 300\nsay\nwhat\ntick 60000\nstop\nsay end\nquit\nsay unheard\n",
        );
    }

    #[test]
    fn state_that_nobody_wrote_is_harmless() {
        const MAX: u64 = u64::MAX;
        let states = [
            format!("{MAX} {MAX} - -"),
            format!("{} {MAX} 1 {MAX}", MAX - 2),
            "- - 60000 -".to_owned(),
            "1 - 5 5".to_owned(),
        ];
        for state in states {
            let (mut harness, _) = harness();
            let timers = [(TICK, Duration::from_millis(1)), (TimerKey(7), Duration::MAX)];
            let client = harness.take_over(1, state.as_bytes(), b"say hello\n", &timers).expect("understood");
            harness.advance(Duration::from_secs(100));
            harness.hand_over(Lines);
            harness.send(client, b"count 2\n");
            assert!(text(&mut harness, client).contains("hello"), "{state}");
        }
        let (mut harness, _) = harness();
        for state in ["", "1 2 3", "1 2 3 4 5", "- - 0 1", "- - 60001 1", "- - 18446744073709551615 1"] {
            let refused = harness.take_over(1, state.as_bytes(), b"", &[]).err();
            assert!(matches!(refused, Some(ThawError::Malformed)), "{state}");
        }
    }

    #[test]
    fn timers_go_along() {
        let (mut harness, client) = harness();
        harness.send(client, b"tick 100\nsleep 250\nsay after\n");
        for _ in 0..30 {
            harness.advance(Duration::from_millis(10));
            harness.hand_over(Lines);
        }
        assert_eq!(text(&mut harness, client), "tick 1\ntick 2\nawake\nafter\ntick 3\n");
    }

    #[test]
    fn a_reader_that_stops_is_handed_over_with_what_waits_for_it() {
        let (mut harness, client) = harness();
        harness.set_window(client, Some(0));
        harness.send(client, b"count 5000\nsay end\n");
        let mut output = String::new();
        for _ in 0..1000 {
            harness.hand_over(Lines);
            harness.set_window(client, Some(100));
            output += &text(&mut harness, client);
        }
        let expected: String = (1..=5000).map(|number| format!("{number}\n")).chain(["end\n".to_owned()]).collect();
        assert_eq!(output, expected);
    }

    #[test]
    fn what_follows_a_sleep_waits_for_it() {
        let (mut harness, client) = harness();
        harness.send(client, b"sleep 500\nsay after\n");
        harness.advance(Duration::from_millis(499));
        assert_eq!(text(&mut harness, client), "");
        harness.advance(Duration::from_millis(2));
        assert_eq!(text(&mut harness, client), "awake\nafter\n");
    }

    #[test]
    fn a_reader_that_stops_is_written_no_more_and_loses_nothing() {
        let (mut harness, client) = harness();
        harness.set_window(client, Some(0));
        harness.send(client, b"count 5000\nsay end\n");
        harness.advance(Duration::from_secs(1));
        assert_eq!(text(&mut harness, client), "");
        harness.set_window(client, None);
        harness.advance(Duration::from_millis(1));
        let expected: String = (1..=5000).map(|number| format!("{number}\n")).chain(["end\n".to_owned()]).collect();
        assert_eq!(text(&mut harness, client), expected);
    }

    #[test]
    fn ticks_come_until_stopped() {
        let (mut harness, client) = harness();
        harness.send(client, b"tick 100\n");
        harness.advance(Duration::from_millis(250));
        harness.send(client, b"stop\n");
        harness.advance(Duration::from_secs(1));
        assert_eq!(text(&mut harness, client), "tick 1\ntick 2\n");
    }

    #[test]
    fn a_leaving_server_says_goodbye() {
        let (mut harness, client) = harness();
        harness.drain();
        assert_eq!(text(&mut harness, client), "bye: the server is leaving\n");
        harness.finish(client);
        assert_eq!(harness.closed(client), Some(CloseReason::Drained));
    }
}
