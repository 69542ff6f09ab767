use rustls::ContentType;

use super::super::tests::{of_type, pair};
use super::*;
use crate::record::{Direction, Limits, Opened};
use crate::schedule::Suite;
use crate::state::{self, Negotiated, ThawError, VERSION_OF_CLIENT};

const SUITE: Suite = Suite::Aes128GcmSha256;

/// A client's session, and its server's direction.
fn client() -> (Session, Direction) {
    let (session, server) = pair(SUITE, Limits::default());
    (session.of_client(), server)
}

/// A NewSessionTicket, whose contents do not matter here.
fn ticket(contents: &[u8]) -> Vec<u8> {
    let length = (contents.len() as u32).to_be_bytes();
    [&[NEW_SESSION_TICKET], &length[1..], contents].concat()
}

fn negotiated() -> Negotiated {
    Negotiated { server_name: Some("192.0.2.7".into()), ..Negotiated::default() }
}

#[test]
fn tickets_come_in_any_parts_and_with_a_key_update_behind_them() {
    let contents: [&[u8]; 3] = [b"one", b"another one", b"!"];
    let messages = contents.map(ticket).concat();
    for part_bytes in 1..=messages.len() {
        for moves in [false, true] {
            let (mut session, mut server) = client();
            session.keep_tickets(true);
            let parts = messages.chunks(part_bytes).map(<[u8]>::to_vec).chain([vec![24, 0, 0, 1, 1]]);
            for part in parts {
                let mut record = of_type(&mut server, ContentType::Handshake, &part);
                assert_eq!(session.open(&mut record), Ok(Opened::Control { consumed: record.len() }));
                if moves {
                    let frozen = state::freeze(&session, &negotiated()).expect("it lives");
                    assert_eq!(frozen[0], VERSION_OF_CLIENT);
                    let thawed = state::thaw(&frozen, Limits::default()).expect("what was frozen");
                    assert_eq!(thawed.1, negotiated());
                    session = thawed.0;
                    assert!(session.is_client());
                }
            }
            server.update();
            let mut record = of_type(&mut server, ContentType::ApplicationData, b"x");
            assert!(matches!(session.open(&mut record), Ok(Opened::Data { .. })));
            assert!(session.next_control().is_some(), "it was asked for");
            let taken: Vec<_> = std::iter::from_fn(|| session.take_ticket()).collect();
            if moves {
                assert!(taken.is_empty(), "nobody takes them");
            } else {
                assert_eq!(taken, contents);
            }
        }
    }
}

#[test]
fn large_tickets_are_passed_over_and_impossible_ones_refused() {
    let (mut session, mut server) = client();
    session.keep_tickets(true);
    for part in ticket(&vec![7; KEPT_BYTES_MAX as usize + 1]).chunks(9000) {
        session.open(&mut of_type(&mut server, ContentType::Handshake, part)).expect("a part of a ticket");
    }
    assert_eq!(session.take_ticket(), None);
    for message in [vec![4, 0, 0, 0], vec![4, 2, 1, 10]] {
        let (mut session, mut server) = client();
        let opened = session.open(&mut of_type(&mut server, ContentType::Handshake, &message));
        assert_eq!(opened, Err(Error::Ticket), "{message:?}");
    }
}

#[test]
fn as_many_tickets_wait_as_may() {
    let (mut session, mut server) = client();
    session.keep_tickets(true);
    for number in 0..10 {
        session.open(&mut of_type(&mut server, ContentType::Handshake, &ticket(&[number]))).expect("a ticket");
    }
    let taken: Vec<_> = std::iter::from_fn(|| session.take_ticket()).collect();
    assert_eq!(taken, [[0], [1], [2], [3]]);
}

#[test]
fn nothing_comes_within_a_ticket() {
    let message = ticket(b"contents");
    for cut in 1..message.len() {
        let (mut session, mut server) = client();
        session.open(&mut of_type(&mut server, ContentType::Handshake, &message[..cut])).expect("its beginning");
        let opened = session.open(&mut of_type(&mut server, ContentType::ApplicationData, b"x"));
        assert_eq!(opened, Err(Error::Interleaved), "{cut}");
    }
}

#[test]
fn other_messages_of_handshakes_are_refused() {
    // A ClientHello, a CertificateRequest that was not offered, a Finished.
    for message_type in [1, 13, 20] {
        let (mut session, mut server) = client();
        let opened = session.open(&mut of_type(&mut server, ContentType::Handshake, &[message_type, 0, 0, 0]));
        assert_eq!(opened, Err(Error::HandshakeType(message_type)));
    }
    let (mut of_server, mut client) = pair(SUITE, Limits::default());
    let opened = of_server.open(&mut of_type(&mut client, ContentType::Handshake, &ticket(b"x")));
    assert_eq!(opened, Err(Error::HandshakeType(NEW_SESSION_TICKET)), "of a client");
}

#[test]
fn a_server_cannot_send_tickets_without_end() {
    let (mut session, mut server) = client();
    session.keep_tickets(true);
    let mut open = || session.open(&mut of_type(&mut server, ContentType::Handshake, &ticket(b"x")));
    (0..32).for_each(|_| assert!(open().is_ok()));
    assert_eq!(open(), Err(Error::IdleRecords));
}

#[test]
fn a_state_of_a_client_that_makes_no_sense_is_refused() {
    let (mut session, mut server) = client();
    session.open(&mut of_type(&mut server, ContentType::Handshake, &ticket(b"contents")[..6])).expect("its beginning");
    let frozen = state::freeze(&session, &negotiated()).expect("it lives");
    // After the version, the flags, the suite, idle records and the length: the header, and how much is missing.
    assert_eq!(frozen[5..14], [4, 4, 0, 0, 8, 6, 0, 0, 0]);
    for (at, byte) in [(5, 3), (6, 5), (9, 5), (10, 0), (10, 9), (13, 1), (0, 1)] {
        let mut damaged = frozen.clone();
        damaged[at] = byte;
        let thawed = state::thaw(&damaged, Limits::default()).map(|_| ());
        assert_eq!(thawed, Err(ThawError::Malformed), "{at} {byte}");
    }
}
