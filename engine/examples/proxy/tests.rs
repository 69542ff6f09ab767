//! The proxy on the harness: both ends of a connection are clients of the harness.

use baton::config::{Limits, Timeouts};
use baton::testing::{Client, Harness};

use super::*;

const UPSTREAMS: [SocketAddr; 2] = [address(1), address(2)];

const fn address(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

fn proxy() -> Proxy {
    Proxy::new(&UPSTREAMS, false)
}

fn harness() -> Harness<Proxy> {
    let limits = Limits { outbound_bytes_high: 1000, outbound_bytes_low: 100, ..Limits::default() };
    Harness::with(proxy(), limits, Timeouts::default())
}

/// A client, and the upstream to which it is connected.
fn connected(harness: &mut Harness<Proxy>) -> (Client, Client) {
    let client = harness.open();
    (client, harness.accept_outbound())
}

fn both<T>(
    harness: &mut Harness<Proxy>,
    (one, other): (Client, Client),
    ask: fn(&mut Harness<Proxy>, Client) -> T,
) -> [T; 2] {
    [one, other].map(|client| ask(harness, client))
}

#[test]
fn bytes_go_both_ways_and_what_comes_early_waits() {
    let mut harness = harness();
    let client = harness.open();
    harness.send(client, b"early");
    let upstream = harness.accept_outbound();
    assert_eq!(harness.take_output(upstream), b"early");
    harness.send(upstream, b"answer");
    assert_eq!(harness.take_output(client), b"answer");
}

#[test]
fn each_half_ends_by_itself() {
    let mut harness = harness();
    let ends @ (client, upstream) = connected(&mut harness);
    harness.send(client, b"question");
    harness.finish(client);
    assert!(harness.saw_end(upstream));
    harness.send(upstream, b"answer");
    assert_eq!(
        both(&mut harness, ends, |harness, one| harness.take_output(one)),
        [b"answer".to_vec(), b"question".to_vec()]
    );
    harness.finish(upstream);
    assert!(harness.saw_end(client));
    assert_eq!(both(&mut harness, ends, |harness, one| harness.closed(one)), [Some(CloseReason::Peer); 2]);
}

#[test]
fn one_that_ends_before_its_upstream_is_connected_is_served() {
    let mut harness = harness();
    let client = harness.open();
    harness.finish(client);
    let upstream = harness.accept_outbound();
    assert!(harness.saw_end(upstream) && harness.closed(upstream).is_none());
    harness.send(upstream, b"answer");
    assert_eq!(harness.take_output(client), b"answer");
}

#[test]
fn a_slow_reader_slows_the_other_side_down() {
    let mut harness = harness();
    let (client, upstream) = connected(&mut harness);
    harness.set_window(client, Some(0));
    (0..50).for_each(|_| harness.send(upstream, &[b'x'; 100]));
    assert!(harness.held_bytes(client) < 2000, "{} bytes are held", harness.held_bytes(client));
    harness.set_window(client, None);
    assert_eq!(harness.take_output(client).len(), 5000);
}

#[test]
fn a_reset_is_forwarded_as_one() {
    for is_clients in [true, false] {
        let mut harness = harness();
        let (client, upstream) = connected(&mut harness);
        let (gone, other) = if is_clients { (client, upstream) } else { (upstream, client) };
        harness.reset(gone);
        assert!(harness.was_reset(other));
    }
}

#[test]
fn an_upstream_that_refuses_is_left_out_until_it_is_back() {
    let mut harness = harness();
    let client = harness.open();
    harness.send(client, b"early");
    harness.refuse_outbound();
    assert_eq!(harness.outbound().iter().map(|(address, _)| *address).collect::<Vec<_>>(), [UPSTREAMS[1].into()]);
    let upstream = harness.accept_outbound();
    assert_eq!(harness.take_output(upstream), b"early");
    connected(&mut harness);
    harness.open();
    assert_eq!(harness.outbound()[0].0, UPSTREAMS[1].into(), "the other one is left out");
    harness.accept_outbound();
    harness.advance(LOOK_INTERVAL);
    assert_eq!(harness.outbound(), [(UPSTREAMS[0].into(), LOOKS)]);
    harness.accept_outbound();
    harness.open();
    assert_eq!(harness.outbound()[0].0, UPSTREAMS[0].into());
}

#[test]
fn where_no_upstream_answers_the_client_is_reset() {
    let mut harness = harness();
    let client = harness.open();
    harness.refuse_outbound();
    harness.refuse_outbound();
    assert!(harness.was_reset(client) && harness.outbound().is_empty());
}

#[test]
fn pairs_move_in_the_middle_of_everything() {
    let mut harness = harness();
    let ends @ (client, upstream) = connected(&mut harness);
    harness.set_window(client, Some(10));
    let sent: Vec<u8> = (0..4000).map(|index| index as u8).collect();
    for part in sent.chunks(400) {
        harness.send(upstream, part);
        harness.hand_over(proxy());
        harness.send(client, b"up");
    }
    harness.finish(upstream);
    harness.hand_over(proxy());
    let mut received = Vec::new();
    while received.len() < sent.len() {
        harness.set_window(client, Some(77));
        received.extend(harness.take_output(client));
        harness.hand_over(proxy());
    }
    assert!(received == sent && harness.saw_end(client));
    assert_eq!(harness.take_output(upstream), b"up".repeat(10));
    harness.finish(client);
    assert_eq!(both(&mut harness, ends, |harness, one| harness.closed(one)), [Some(CloseReason::Peer); 2]);
}

#[test]
fn one_whose_upstream_is_being_connected_moves_when_it_is() {
    let mut harness = harness();
    let client = harness.open();
    harness.send(client, b"early");
    harness.hand_over(proxy());
    assert!(!harness.is_served(client), "its connect belongs to the worker that leaves");
    let upstream = harness.accept_outbound();
    assert!(harness.is_served(client) && harness.is_served(upstream));
    harness.send(client, b" late");
    assert_eq!(harness.take_output(upstream), b"early late");
}

#[test]
fn upstreams_are_told_whose_connection_it_is() {
    let mut harness = Harness::new(Proxy::new(&UPSTREAMS, true));
    let client = harness.open();
    harness.send(client, b"hello");
    let upstream = harness.accept_outbound();
    let output = harness.take_output(upstream);
    assert_eq!(&output[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(output[16..], *[&[127, 0, 0, 1, 127, 0, 0, 1, 0x9c, 0x40, 0, 80], b"hello".as_slice()].concat());
}
