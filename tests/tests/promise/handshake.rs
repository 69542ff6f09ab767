//! Handshakes in flight while listeners are replaced: their final ACKs are late, or lost.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use baton_tests::PATIENCE;
use baton_tests::client::ask;
use baton_tests::namespace::{Filter, handshakes_open, nft, run, sysctl};
use baton_tests::program::Server;
use baton_tests::wait_until;
use socket2::{Domain, Socket, Type};

use super::case::{Case, Expected, cases, prove};

/// Clients whose packets are held back have an address of their own, so that they can be distinguished from the others.
const HELD_CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const HELD: usize = 60;

/// How long packets are lost at a time. A client repeats its request after 200 and 600 ms, and a leaving worker waits
/// for it for a second: each must get through by then.
const LOSS_TIME: Duration = Duration::from_millis(300);
const LOSS_PAUSE: Duration = Duration::from_millis(700);

const LOSSES: usize = 4;

/// A third of the final ACKs and a third of the requests are dropped, so that some handshakes lose both.
#[test]
fn nobody_fails_while_final_acks_are_lost() {
    run("handshake::nobody_fails_while_final_acks_are_lost", || {
        for case in cases() {
            let what = format!("{LOSSES} reloads, a third of ACKs lost");
            prove(&what, &case, Expected::NothingFails, |server, _| {
                for _ in 0..LOSSES {
                    let Some(filter) = lose_acks(server) else { return };
                    thread::sleep(LOSS_TIME / 2);
                    server.reload();
                    thread::sleep(LOSS_TIME / 2);
                    drop(filter);
                    thread::sleep(LOSS_PAUSE);
                }
            });
        }
    });
}

fn lose_acks(server: &Server) -> Option<Filter> {
    let port = server.address().port();
    nft(&[&format!("tcp dport {port} tcp flags & (syn | fin | rst | ack) == ack numgen random mod 3 == 0 drop")])
}

/// Drops everything that [`HELD_CLIENT`] sends except the SYN.
fn hold_back(server: &Server) -> Option<Filter> {
    let port = server.address().port();
    nft(&[&format!("ip saddr {HELD_CLIENT} tcp dport {port} tcp flags & (syn | ack) == ack drop")])
}

/// Connects, from the client's point of view.
fn connect_held(server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((HELD_CLIENT, 0)).into()).expect("bound");
    socket.connect_timeout(&server.into(), PATIENCE).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.into()
}

fn assert_answered(held: &mut [TcpStream]) {
    for stream in held {
        let answer = ask(stream).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

fn wait_for_open(server: &Server, expected: usize) {
    let what = format!("{expected} handshakes are open");
    wait_until(&what, || handshakes_open(HELD_CLIENT, server.address()) == expected);
}

/// When the held packets are released.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    /// While the listeners that received their SYNs are parked.
    BeforeClose,
    /// After these are closed.
    AfterClose,
}

fn reload_with_handshakes_held(case: &Case, server: &Server, release: Release) {
    let Some(filter) = hold_back(server) else { return };
    let mut held: Vec<TcpStream> = (0..HELD).map(|_| connect_held(server.address())).collect();
    wait_for_open(server, HELD);
    server.reload();
    if release == Release::AfterClose {
        wait_until("the old listeners are closed", || server.workers().len() == case.workers);
    }
    wait_for_open(server, HELD);
    drop(filter);
    // Some send data at once, and so complete their handshakes; the others wait for the next SYN-ACK.
    let (at_once, patient) = held.split_at_mut(HELD / 3);
    assert_answered(at_once);
    wait_for_open(server, 0);
    assert_answered(patient);
}

/// The server sends its SYN-ACK again after a second, and parked listeners stay a little longer.
#[test]
fn handshakes_held_open_across_the_switch_are_completed() {
    run("handshake::handshakes_held_open_across_the_switch_are_completed", || {
        for case in cases() {
            let case = Case { settle_ms: None, ..case };
            prove("reload, handshakes held", &case, Expected::NothingLost, |server, _| {
                reload_with_handshakes_held(&case, server, Release::BeforeClose);
            });
        }
    });
}

/// Handshakes that are slower are moved by migration.
#[test]
fn handshakes_held_open_until_the_old_listeners_are_closed_are_completed() {
    run("handshake::handshakes_held_open_until_the_old_listeners_are_closed_are_completed", || {
        for migrate_req in ["0", "1"] {
            sysctl("net/ipv4/tcp_migrate_req", migrate_req);
            for case in cases() {
                let what = format!("reload, handshakes held until close, tcp_migrate_req={migrate_req}");
                prove(&what, &case, Expected::NothingLost, |server, _| {
                    reload_with_handshakes_held(&case, server, Release::AfterClose);
                });
            }
        }
    });
}

/// With SYN cookies the server stores nothing, and the clients send first.
#[test]
fn handshakes_by_cookies_held_open_across_the_switch_are_completed() {
    run("handshake::handshakes_by_cookies_held_open_across_the_switch_are_completed", || {
        sysctl("net/ipv4/tcp_syncookies", "2");
        for case in cases() {
            prove("reload, handshakes by cookies held until close", &case, Expected::NothingLost, |server, _| {
                let Some(filter) = hold_back(server) else { return };
                let mut held: Vec<TcpStream> = (0..HELD).map(|_| connect_held(server.address())).collect();
                assert_eq!(handshakes_open(HELD_CLIENT, server.address()), 0, "cookies are in force");
                server.reload();
                wait_until("the old listeners are closed", || server.workers().len() == case.workers);
                drop(filter);
                assert_answered(&mut held);
            });
        }
    });
}
