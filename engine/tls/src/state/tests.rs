use super::*;
use crate::record::{Error, Opened};

fn secret(suite: Suite, byte: u8) -> Secret {
    Secret::new(suite, &vec![byte; suite.secret_bytes()]).expect("a secret")
}

fn session(suite: Suite) -> Session {
    let at = |byte, sequence| Direction::new(secret(suite, byte), sequence);
    Session::at(at(1, 0x0102_0304_0506), at(2, 3), Limits::default())
}

fn negotiated() -> Negotiated {
    Negotiated {
        version: TlsVersion::Tls13,
        alpn: Some(b"http/1.1"[..].into()),
        server_name: Some("example.org".into()),
        is_resumed: true,
        peer_certificate: Some(PeerCertificate { sha256: [9; 32], chain_length: 2 }),
    }
}

/// The state of `session`, which is the same again after a move.
fn frozen(session: &Session, negotiated: &Negotiated) -> Vec<u8> {
    let state = freeze(session, negotiated).expect("it has not failed");
    let (again, settled) = thaw(&state, Limits::default()).expect("what was frozen");
    assert_eq!((&settled, &freeze(&again, &settled).expect("frozen")[..]), (negotiated, &state[..]));
    state.to_vec()
}

#[test]
fn everything_moves() {
    for suite in Suite::TLS13 {
        let mut session = session(suite);
        frozen(&session, &Negotiated::default());
        session.owes_answer = true;
        session.idle_records = 7;
        session.begun = Begun::of(TlsVersion::Tls13, &[24, 0, 0]).expect("a beginning");
        let state = frozen(&session, &negotiated());
        let (mut again, _) = thaw(&state, Limits::default()).expect("what was frozen");
        assert_eq!((again.suite(), again.idle_records, again.begun), (suite, 7, session.begun));
        let updates = [&mut session, &mut again].map(|one| one.next_control().expect("it is owed").to_vec());
        assert_eq!(updates[0], updates[1]);
        let outputs = [&mut session, &mut again].map(|one| {
            let mut output = Vec::new();
            one.seal_into(b"hello", &mut output).expect("open");
            output.extend_from_slice(&one.close().expect("the first"));
            output
        });
        assert_eq!(outputs[0], outputs[1]);
        frozen(&session, &negotiated());
        session.begun = Begun::default();
        session.peer_closed = true;
        let (mut again, _) = thaw(&frozen(&session, &negotiated()), Limits::default()).expect("what was frozen");
        assert_eq!(again.open(&mut [1, 2, 3]), Ok(Opened::Closed { consumed: 3 }));
        assert!(again.is_closed());
    }
}

#[test]
fn a_session_that_was_closed_with_an_update_owed_moves() {
    let mut session = session(Suite::Aes128GcmSha256);
    session.owes_answer = true;
    assert!(session.close().is_some());
    let (again, _) = thaw(&frozen(&session, &negotiated()), Limits::default()).expect("what was frozen");
    assert!(again.is_closed());
}

#[test]
fn the_layout_stays_as_it_was_released() {
    let mut session = session(Suite::Aes128GcmSha256);
    session.begun = Begun::of(TlsVersion::Tls13, &[24, 0]).expect("a beginning");
    let expected = [
        &[1, 0b1_1000, 0x13, 0x01, 0, 2, 24, 0][..],
        &[6, 5, 4, 3, 2, 1, 0, 0],
        &[1; 32],
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &[2; 32],
        b"\x08http/1.1\x0bexample.org",
        &[9; 32],
        &[2],
    ];
    assert_eq!(frozen(&session, &negotiated()), expected.concat());
}

#[test]
fn a_session_that_has_failed_does_not_move() {
    let mut session = session(Suite::Aes128GcmSha256);
    assert_eq!(session.open(&mut [1]), Err(Error::RecordType(1)));
    assert!(freeze(&session, &negotiated()).is_none());
}

#[test]
fn a_state_is_never_longer_than_is_said() {
    let longest = Negotiated {
        alpn: Some(vec![b'a'; 255].into()),
        server_name: Some(vec!["a".repeat(50); 5].join(".").into()),
        ..negotiated()
    };
    let mut session = session(Suite::Aes256GcmSha384);
    session.begun = Begun::of(TlsVersion::Tls13, &[24, 0, 0, 1]).expect("a beginning");
    let state = freeze(&session, &longest).expect("it has not failed");
    assert!(state.len() <= STATE_BYTES_MAX && state.capacity() == STATE_BYTES_MAX, "{}", state.len());
}

#[test]
fn altered_and_cut_states_are_refused_or_other_sessions() {
    let mut session = session(Suite::Aes128GcmSha256);
    session.begun = Begun::of(TlsVersion::Tls13, &[24, 0]).expect("a beginning");
    let state = frozen(&session, &negotiated());
    for length in 0..state.len() {
        assert_eq!(thaw(&state[..length], Limits::default()).err(), Some(ThawError::Malformed), "{length} bytes");
    }
    assert!(thaw(&[&state[..], &[0]].concat(), Limits::default()).is_err());
    for at in 0..state.len() {
        for value in 0..=u8::MAX {
            let mut altered = state.clone();
            altered[at] = value;
            crate::fuzzing::frozen(&altered);
        }
    }
    let refused = |at: usize, value| {
        let mut altered = state.clone();
        altered[at] = value;
        thaw(&altered, Limits::default()).err()
    };
    assert_eq!(refused(0, 2), Some(ThawError::Malformed), "the version of TLS 1.2 with a suite of TLS 1.3");
    assert_eq!(refused(0, 3), Some(ThawError::Malformed), "a client's, without what it has of a ticket");
    assert_eq!(refused(0, 4), Some(ThawError::Version(4)));
    let places =
        [(1, 0x38), (1, 0b1_1101), (1, 0b1_1010), (3, 4), (3, 2), (5, 5), (6, 23), (7, 1), (15, 0x40), (99, 0)];
    for (at, value) in places {
        assert_eq!(refused(at, value), Some(ThawError::Malformed), "{value} at {at}");
    }
    assert_eq!(refused(state.len() - 1, 0), Some(ThawError::Malformed), "a chain without a certificate");
}

fn session_of_tls12(suite: Suite) -> Session {
    let at = |byte, sequence| {
        let traffic_key = TrafficKey::new(suite, &vec![byte; suite.key_bytes()], &[byte + 2; 12]);
        Direction::of(Source::Key(traffic_key.expect("a key")), sequence)
    };
    Session::at(at(1, 0x0102_0304_0506), at(2, 3), Limits::default())
}

fn negotiated_of_tls12() -> Negotiated {
    Negotiated { version: TlsVersion::Tls12, ..negotiated() }
}

#[test]
fn everything_of_tls_1_2_moves() {
    for suite in Suite::TLS12 {
        let mut session = session_of_tls12(suite);
        frozen(&session, &negotiated_of_tls12());
        session.idle_records = 7;
        session.begun = Begun::of(TlsVersion::Tls12, &[1, 0, 9]).expect("a beginning");
        let (again, _) = thaw(&frozen(&session, &negotiated_of_tls12()), Limits::default()).expect("what was frozen");
        assert_eq!((again.suite(), again.idle_records, again.begun), (suite, 7, session.begun));
        session.begun = Begun::default();
        session.refusing.hello_bytes = 0x0908;
        let (again, _) = thaw(&frozen(&session, &negotiated_of_tls12()), Limits::default()).expect("what was frozen");
        assert_eq!(again.refusing, session.refusing);
        session.refusing = Refusing { hello_bytes: 0, has_refused: true };
        session.owes_answer = true;
        let state = frozen(&session, &negotiated_of_tls12());
        let (mut again, _) = thaw(&state, Limits::default()).expect("what was frozen");
        let outputs = [&mut session, &mut again].map(|one| {
            let mut output = Vec::new();
            one.seal_into(b"hello", &mut output).expect("open");
            output.extend_from_slice(&one.close().expect("the first"));
            output
        });
        assert_eq!(outputs[0], outputs[1]);
        session.peer_closed = true;
        frozen(&session, &negotiated_of_tls12());
    }
}

#[test]
fn the_layout_of_tls_1_2_stays_as_it_was_released() {
    let mut session = session_of_tls12(Suite::EcdheRsaAes128GcmSha256);
    session.refusing = Refusing { hello_bytes: 0, has_refused: true };
    session.owes_answer = true;
    let expected = [
        &[2, 0b11_1001, 0xC0, 0x2F, 0, 0, 0, 0][..],
        &[6, 5, 4, 3, 2, 1, 0, 0],
        &[1; 16],
        &[3; 12],
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &[2; 16],
        &[4; 12],
        b"\x08http/1.1\x0bexample.org",
        &[9; 32],
        &[2],
    ];
    assert_eq!(frozen(&session, &negotiated_of_tls12()), expected.concat());
}

#[test]
fn altered_and_cut_states_of_tls_1_2_are_refused_or_other_sessions() {
    let mut session = session_of_tls12(Suite::EcdheRsaChacha20Poly1305Sha256);
    session.begun = Begun::of(TlsVersion::Tls12, &[1, 0]).expect("a beginning");
    let state = frozen(&session, &negotiated_of_tls12());
    for length in 0..state.len() {
        assert_eq!(thaw(&state[..length], Limits::default()).err(), Some(ThawError::Malformed), "{length} bytes");
    }
    for at in 0..state.len() {
        for value in 0..=u8::MAX {
            let mut altered = state.clone();
            altered[at] = value;
            crate::fuzzing::frozen(&altered);
        }
    }
    let refused = |at: usize, value| {
        let mut altered = state.clone();
        altered[at] = value;
        thaw(&altered, Limits::default()).err()
    };
    // A version of the other layout; an unknown flag; an answer that nothing requires; closed by the peer within a
    // message; refused, and requested again; a suite of TLS 1.3; another message; a message and the rest of one.
    for (at, value) in [(0, 1), (1, 0x58), (1, 0x19), (1, 0x1a), (1, 0x38), (2, 0x13), (6, 2), (8, 1)] {
        assert_eq!(refused(at, value), Some(ThawError::Malformed), "{value} at {at}");
    }
}

#[test]
fn a_state_of_tls_1_2_is_never_longer_than_is_said() {
    let longest = Negotiated {
        alpn: Some(vec![b'a'; 255].into()),
        server_name: Some(vec!["a".repeat(50); 5].join(".").into()),
        ..negotiated_of_tls12()
    };
    let mut session = session_of_tls12(Suite::EcdheRsaAes256GcmSha384);
    session.begun = Begun::of(TlsVersion::Tls12, &[1, 0, 0]).expect("a beginning");
    let state = freeze(&session, &longest).expect("it has not failed");
    assert!(state.len() <= STATE_BYTES_MAX && state.capacity() == STATE_BYTES_MAX, "{}", state.len());
}
