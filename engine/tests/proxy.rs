//! Connections that proxies pass on, without a kernel.

use std::time::Duration;

use baton::testing::{Client, Harness, output_of_parts};
use baton::{CannotFreeze, CloseReason, Io, Peer, Protocol, Reject, StateFormat, Step, ThawError};

/// Reports the client's address, first and after each move; then sends back what it receives.
struct Who;

fn greet(peer: Peer<'_>, io: &mut Io<'_>) {
    let address = peer.address().expect("known");
    let tlvs = peer.proxy().map_or(0, |header| header.tlvs().count());
    io.write(format!("{address} {tlvs}\n").as_bytes());
}

impl Protocol for Who {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<(), Reject> {
        greet(peer, io);
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        io.write_input(input);
        Step::more(input.len())
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "who", version: 1 });

    fn freeze(&mut self, (): &(), _: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        Ok(())
    }

    fn thaw(&mut self, _: u32, _: &[u8], peer: Peer<'_>, io: &mut Io<'_>) -> Result<(), ThawError> {
        greet(peer, io);
        Ok(())
    }
}

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4096 443\r\n";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\xc6\x33\x64\x01\x10\0\x01\xbb\x04\0\x01x";

fn proxied() -> (Harness<Who>, Client) {
    let mut harness = Harness::new(Who);
    let client = harness.open_proxied();
    assert_eq!(harness.take_output(client), b"");
    (harness, client)
}

#[test]
fn the_protocol_sees_the_client_however_the_header_is_cut() {
    for (header, greeting) in [(LINE, "192.0.2.7:4096 0\n"), (BINARY, "192.0.2.7:4096 1\n")] {
        let input = [header, b"hello"].concat();
        for end in 0..input.len() {
            let (mut harness, client) = proxied();
            harness.send(client, &input[..end]);
            assert_eq!(harness.closed(client), None);
            harness.send(client, &input[end..]);
            assert_eq!(harness.take_output(client), [greeting.as_bytes(), b"hello"].concat(), "cut at {end}");
            harness.finish(client);
            assert_eq!(harness.closed(client), Some(CloseReason::Peer));
        }
        let (mut harness, client) = proxied();
        input.iter().for_each(|byte| harness.send(client, &[*byte]));
        assert_eq!(harness.take_output(client), [greeting.as_bytes(), b"hello"].concat());
    }
}

#[test]
fn all_may_come_at_once_with_the_end() {
    let (mut harness, client) = proxied();
    harness.set_window(client, Some(0));
    harness.send(client, &[LINE, b"hello"].concat());
    harness.finish(client);
    harness.set_window(client, None);
    assert_eq!(harness.take_output(client), b"192.0.2.7:4096 0\nhello");
    assert_eq!(harness.closed(client), Some(CloseReason::Peer));
}

#[test]
fn what_was_said_moves_with_the_connection() {
    let (mut harness, client) = proxied();
    harness.send(client, BINARY);
    harness.hand_over(Who);
    harness.hand_over(Who);
    harness.send(client, b"hello");
    assert_eq!(
        harness.take_output(client),
        b"192.0.2.7:4096 1\n".repeat(3).into_iter().chain(*b"hello").collect::<Vec<_>>()
    );
}

#[test]
fn a_header_may_come_in_parts_to_several_workers() {
    for end in 0..LINE.len() {
        let (mut harness, client) = proxied();
        harness.send(client, &LINE[..end]);
        harness.advance(Duration::from_secs(4));
        harness.hand_over(Who);
        harness.hand_over(Who);
        assert_eq!(harness.take_output(client), b"", "it is not known yet");
        harness.advance(Duration::from_secs(5));
        harness.send(client, &[&LINE[end..], b"hello"].concat());
        assert_eq!(harness.take_output(client), b"192.0.2.7:4096 0\nhello", "moved after {end} bytes");
    }
    let (mut harness, client) = proxied();
    harness.advance(Duration::from_secs(6));
    harness.hand_over(Who);
    harness.advance(Duration::from_secs(5));
    assert_eq!(harness.closed(client), Some(CloseReason::ProxyHeader), "the time goes on");
}

#[test]
fn without_a_header_in_time_it_is_cut() {
    let (mut harness, client) = proxied();
    harness.send(client, &LINE[..5]);
    harness.advance(Duration::from_millis(9_999));
    assert_eq!(harness.closed(client), None);
    harness.advance(Duration::from_millis(2));
    assert_eq!((harness.closed(client), harness.was_reset(client)), (Some(CloseReason::ProxyHeader), true));
    assert_eq!(harness.take_output(client), b"");
    let (mut harness, client) = proxied();
    harness.send(client, LINE);
    harness.advance(Duration::from_secs(60));
    assert_eq!(harness.closed(client), None, "from then on it is idle as others are");
}

#[test]
fn what_is_no_header_is_cut_at_once_and_a_look_at_the_port_is_not_counted() {
    let (mut harness, client) = proxied();
    harness.send(client, b"GET / HTTP/1.1\r\n");
    assert_eq!((harness.closed(client), harness.was_reset(client)), (Some(CloseReason::ProxyHeader), true));
    let (mut harness, client) = proxied();
    harness.send(client, &LINE[..20]);
    harness.finish(client);
    assert_eq!(harness.closed(client), Some(CloseReason::ProxyHeader));
    let (mut harness, client) = proxied();
    harness.finish(client);
    assert_eq!((harness.closed(client), harness.was_reset(client)), (Some(CloseReason::Peer), false));
    let (mut harness, client) = proxied();
    harness.reset(client);
    assert_eq!(harness.closed(client), Some(CloseReason::Reset));
}

#[test]
fn others_are_as_they_were() {
    assert_eq!(output_of_parts(|| Who, &[LINE]), [b"127.0.0.1:40000 0\n", LINE].concat());
}
