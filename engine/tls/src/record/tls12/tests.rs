use super::super::direction::Source;
use super::*;
use crate::record::{Error, Limits, OVERHEAD_BYTES, SealError, Status, Window};
use crate::schedule::tests::bytes_of;
use crate::schedule::{Secret, TrafficKey};
use crate::state::{self, Negotiated};

/// Records for a key of the bytes from 0 on and an IV of those from 0x40 on, made by Python's `cryptography`: the data
/// `hello, TLS 1.2` with sequence number 1, the alert `close_notify` with 2.
const RECORDS: [(Suite, &str, &str); 6] = [
    (Suite::EcdheEcdsaAes128GcmSha256, AES_128, AES_128_CLOSE),
    (Suite::EcdheRsaAes128GcmSha256, AES_128, AES_128_CLOSE),
    (Suite::EcdheEcdsaAes256GcmSha384, AES_256, AES_256_CLOSE),
    (Suite::EcdheRsaAes256GcmSha384, AES_256, AES_256_CLOSE),
    (Suite::EcdheEcdsaChacha20Poly1305Sha256, CHACHA20, CHACHA20_CLOSE),
    (Suite::EcdheRsaChacha20Poly1305Sha256, CHACHA20, CHACHA20_CLOSE),
];
const AES_128: &str = "17030300264445464748494a4a846109a9067d33fb04f7cd9c4752a066c79bcb00de7f00dc51592bfa7b97";
const AES_128_CLOSE: &str = "150303001a4445464748494a4901a167b2a87427e539ba493e3e6bc49d9488";
const AES_256: &str = "17030300264445464748494a4a0d6dd35eb723fe60d1a8cbd7c6c73bdccfba6de2c2e78e96dc9763524e76";
const AES_256_CLOSE: &str = "150303001a4445464748494a49aa9415f65ceeb4ca03c4b9d0f034c72c2e9e";
const CHACHA20: &str = "170303001ec356de18c9000afb5c6db01f40ddf5c926a7c35b0bf2e5a260f94c0a1840";
const CHACHA20_CLOSE: &str = "15030300125019b068e5cb1045c48d0cbf97cbfd55fc91";

fn direction(suite: Suite, byte: u8, sequence: u64) -> Direction {
    let traffic_key = TrafficKey::new(suite, &vec![byte; suite.key_bytes()], &[byte; NONCE_BYTES]);
    Direction::of(Source::Key(traffic_key.expect("a key of the suite's length")), sequence)
}

/// A server, and a client's direction with which tests can send anything.
fn pair(suite: Suite, limits: Limits) -> (Session, Direction) {
    (Session::at(direction(suite, 1, 1), direction(suite, 2, 1), limits), direction(suite, 1, 1))
}

fn client(suite: Suite) -> Session {
    Session::at(direction(suite, 2, 1), direction(suite, 1, 1), Limits::default())
}

fn sealed(direction: &mut Direction, content_type: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![0; overhead_bytes(direction.suite()) + content.len()];
    direction.seal_tls12(content_type.into(), content, &mut record);
    record
}

fn data(session: &mut Session, record: &mut [u8]) -> Vec<u8> {
    let Ok(Opened::Data { consumed, plaintext }) = session.open(record) else { panic!("not data") };
    assert_eq!(consumed, record.len());
    record[plaintext].to_vec()
}

/// The warning that `session` owes, as the client reads it; it is sent once.
fn warning(session: &mut Session) -> [u8; 2] {
    assert!(session.owes_warning());
    let record = session.next_control().expect("it is owed");
    assert!(!session.owes_warning() && session.next_control().is_none());
    let mut reader = client(session.suite());
    reader.opening.sequence = session.sealing.sequence() - 1;
    let (header, encrypted) = record.split_first_chunk().expect("a record");
    assert_eq!(header[0], 21);
    let mut encrypted = encrypted.to_vec();
    let found = reader.opening.open_tls12(*header, &mut encrypted).expect("sealed with the server's key");
    encrypted[found].try_into().expect("an alert")
}

#[test]
fn records_are_those_of_an_independent_computation() {
    for (suite, record, close) in RECORDS {
        let key: Vec<u8> = (0..suite.key_bytes() as u8).collect();
        let iv = std::array::from_fn(|index| 0x40 + index as u8);
        let at = || Direction::of(Source::Key(TrafficKey::new(suite, &key, &iv).expect("a key")), 1);
        let mut sending = Session::at(direction(suite, 9, 0), at(), Limits::default());
        let mut output = Vec::new();
        sending.seal_into(b"hello, TLS 1.2", &mut output).expect("open");
        output.extend_from_slice(&sending.close().expect("the first alert"));
        assert_eq!(output, [bytes_of(record), bytes_of(close)].concat(), "{suite:?}");
        let mut receiving = Session::at(at(), direction(suite, 9, 0), Limits::default());
        let mut window = Window::default();
        assert_eq!(receiving.open_all(&mut output, &mut window), Ok(Status::Closed));
        assert_eq!((&output[window.plaintext], window.records), (&b"hello, TLS 1.2"[..], output.len()));
    }
}

#[test]
fn the_peer_chooses_its_explicit_nonces() {
    let suite = Suite::EcdheRsaAes128GcmSha256;
    let (mut session, _) = pair(suite, Limits::default());
    // Sealed with a nonce that is unrelated to the sequence number, as OpenSSL does.
    let key = aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_128_GCM, &[1; 16]).expect("a key");
    let key = aws_lc_rs::aead::LessSafeKey::new(key);
    let nonce = [1, 1, 1, 1, 9, 8, 7, 6, 5, 4, 3, 2];
    let mut body = b"any nonce".to_vec();
    let aad = additional_data(1, 23, body.len());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body).expect("sealed");
    let mut record = [&[23, 3, 3, 0, 33][..], &nonce[4..], &body].concat();
    assert_eq!(data(&mut session, &mut record), b"any nonce");
}

#[test]
fn each_error_has_its_alert() {
    use AlertDescription as Alert;
    type Attack = fn(&mut Direction) -> Vec<u8>;
    let attacks: [(Attack, Error, Alert); 21] = [
        (|_| vec![20, 3, 3, 0, 1, 1], Error::RecordType(20), Alert::UnexpectedMessage),
        (|_| vec![24], Error::RecordType(24), Alert::UnexpectedMessage),
        (|_| b"GET / HTTP/1.1\r\n\r\n".to_vec(), Error::RecordType(b'G'), Alert::UnexpectedMessage),
        (|_| vec![23, 3, 1, 0, 40], Error::Version(0x0301), Alert::DecodeError),
        (|_| vec![22, 3, 4], Error::Version(0x0304), Alert::DecodeError),
        (|_| vec![23, 3, 3, 0x41, 0x01], Error::RecordOverflow, Alert::RecordOverflow),
        (|of| sealed(of, 23, &[7; (1 << 14) + 1]), Error::RecordOverflow, Alert::RecordOverflow),
        (|_| vec![23, 3, 3, 0, 0], Error::BadRecordMac, Alert::BadRecordMac),
        (|_| [&[23, 3, 3, 0, 15][..], &[9; 15]].concat(), Error::BadRecordMac, Alert::BadRecordMac),
        (|_| [&[23, 3, 3, 0, 24][..], &[9; 24]].concat(), Error::BadRecordMac, Alert::BadRecordMac),
        (|_| vec![21, 3, 3, 0, 2, 1, 0], Error::BadRecordMac, Alert::BadRecordMac),
        (|of| sealed(of, 21, &[]), Error::EmptyContent(21), Alert::UnexpectedMessage),
        (|of| sealed(of, 22, &[]), Error::EmptyContent(22), Alert::UnexpectedMessage),
        // HelloRequest, Finished and KeyUpdate.
        (|of| sealed(of, 22, &[0, 0, 0, 0]), Error::HandshakeType(0), Alert::UnexpectedMessage),
        (|of| sealed(of, 22, &[20]), Error::HandshakeType(20), Alert::UnexpectedMessage),
        (|of| sealed(of, 22, &[24, 0, 0, 1, 1]), Error::HandshakeType(24), Alert::UnexpectedMessage),
        (|of| sealed(of, 22, &[1, 0, 0, 0]), Error::HelloLength(0), Alert::DecodeError),
        (|of| sealed(of, 22, &[1, 1, 0, 0]), Error::HelloLength(1 << 16), Alert::DecodeError),
        (|of| sealed(of, 22, &[1, 0, 0, 1, 9, 1]), Error::Renegotiation, Alert::HandshakeFailure),
        (|of| sealed(of, 21, &[2]), Error::AlertLength, Alert::DecodeError),
        (|of| sealed(of, 21, &[3, 0]), Error::AlertLevel(3), Alert::IllegalParameter),
    ];
    for suite in Suite::TLS12 {
        for (attack, error, alert) in attacks {
            let (mut session, mut attacker) = pair(suite, Limits::default());
            let mut record = attack(&mut attacker);
            assert_eq!(session.open(&mut record), Err(error), "{suite:?}");
            let mut answer = session.answer(error).expect("an alert").to_vec();
            assert_eq!(client(suite).open(&mut answer), Err(Error::AlertReceived(alert)), "{error:?}");
            assert_eq!(session.open(&mut []), Err(error), "for good");
            assert_eq!((session.failure(), session.is_closed()), (Some(error), true));
            assert!(session.answer(error).is_none() && session.next_control().is_none(), "once");
            assert_eq!(session.seal_into(b"more", &mut Vec::new()), Err(SealError::Closed));
        }
    }
}

#[test]
fn each_byte_of_a_record_is_authenticated() {
    for suite in Suite::TLS12 {
        let record = sealed(&mut direction(suite, 1, 1), 23, b"hello");
        for at in 0..record.len() {
            for bit in 0..8 {
                let mut altered = record.clone();
                altered[at] ^= 1 << bit;
                let opened = pair(suite, Limits::default()).0.open(&mut altered);
                // A greater length waits for more.
                let is_longer = at == 3 && bit < 7 || at == 4 && altered[at] > record[at];
                match opened {
                    Ok(Opened::Incomplete { at_least }) => assert!(is_longer && at_least > record.len(), "{at} {bit}"),
                    Err(Error::RecordType(_)) => assert_eq!(at, 0),
                    Err(Error::Version(_)) => assert!((1..3).contains(&at)),
                    Err(Error::RecordOverflow) => assert!(at == 3 && bit >= 6),
                    other => assert_eq!(other, Err(Error::BadRecordMac), "{at} {bit}"),
                }
            }
        }
    }
}

#[test]
fn records_out_of_their_order_are_refused() {
    for suite in Suite::TLS12 {
        let mut sender = direction(suite, 1, 1);
        let records = [0; 3].map(|_| sealed(&mut sender, 23, b"hello"));
        for order in [[0, 0], [1, 0], [0, 2]] {
            let (mut session, _) = pair(suite, Limits::default());
            let results = order.map(|index| session.open(&mut records[index].clone()).err());
            assert!(results.contains(&Some(Error::BadRecordMac)), "{order:?}: {results:?}");
        }
    }
}

#[test]
fn the_longest_records_pass_both_ways() {
    let longest = vec![7; PLAINTEXT_BYTES_MAX];
    for suite in Suite::TLS12 {
        let (mut session, mut attacker) = pair(suite, Limits::default());
        assert_eq!(data(&mut session, &mut sealed(&mut attacker, 23, &longest)), longest);
        let mut output = Vec::new();
        session.seal_into(&[&longest[..], b"!"].concat(), &mut output).expect("sealed");
        assert_eq!(output.len(), 2 * session.overhead_bytes() + longest.len() + 1);
        let mut window = Window::default();
        let status = client(suite).open_all(&mut output, &mut window);
        assert_eq!(status, Ok(Status::Incomplete { at_least: HEADER_BYTES }));
        assert_eq!(output[window.plaintext], [&longest[..], b"!"].concat());
    }
}

#[test]
fn a_second_handshake_is_refused_with_a_warning_however_its_hello_is_cut() {
    let hello = [&[1, 0, 0, 50][..], &[3; 50]].concat();
    for suite in Suite::TLS12 {
        for part in [2, 3, 5, 53, 54] {
            let (mut session, mut attacker) = pair(suite, Limits::default());
            for fragment in hello.chunks(part) {
                assert!(!session.owes_warning());
                let mut record = sealed(&mut attacker, 22, fragment);
                assert_eq!(session.open(&mut record), Ok(Opened::Control { consumed: record.len() }));
                let frozen = state::freeze(&session, &Negotiated::default()).expect("it has not failed");
                session = state::thaw(&frozen, Limits::default()).expect("what was frozen").0;
            }
            assert_eq!(warning(&mut session), [1, 100]);
            // The connection continues, and a second request ends it.
            assert_eq!(data(&mut session, &mut sealed(&mut attacker, 23, b"x")), b"x");
            assert_eq!(session.open(&mut sealed(&mut attacker, 22, &hello)), Err(Error::Renegotiation));
        }
    }
}

#[test]
fn a_warning_that_is_owed_goes_before_application_data() {
    let suite = Suite::EcdheEcdsaAes128GcmSha256;
    let (mut session, mut attacker) = pair(suite, Limits::default());
    session.open(&mut sealed(&mut attacker, 22, &[1, 0, 0, 1, 9])).expect("a ClientHello");
    let mut output = Vec::new();
    session.seal_into(b"data", &mut output).expect("open");
    assert_eq!((output[0], session.owes_warning()), (21, false));
    let mut reader = client(suite);
    assert_eq!(reader.open(&mut output), Ok(Opened::Control { consumed: session.overhead_bytes() + 2 }));
    let mut rest = output.split_off(session.overhead_bytes() + 2);
    assert_eq!(data(&mut reader, &mut rest), b"data");
    // A session that has closed owes nothing.
    let (mut session, mut attacker) = pair(suite, Limits::default());
    session.close().expect("the first");
    session.open(&mut sealed(&mut attacker, 22, &[1, 0, 0, 1, 9])).expect("a ClientHello");
    assert!(!session.owes_warning() && session.next_control().is_none());
}

#[test]
fn nothing_comes_inside_of_a_handshake_message() {
    for begun in [&[1][..], &[1, 0, 0], &[1, 0, 0, 9], &[1, 0, 0, 9, 9]] {
        for (content_type, content) in [(23, &b"x"[..]), (21, &[1, 0]), (23, b"")] {
            let (mut session, mut attacker) = pair(Suite::EcdheRsaAes256GcmSha384, Limits::default());
            session.open(&mut sealed(&mut attacker, 22, begun)).expect("its beginning");
            assert_eq!(session.open(&mut sealed(&mut attacker, content_type, content)), Err(Error::Interleaved));
        }
    }
}

#[test]
fn a_peer_cannot_go_on_without_application_data() {
    let kinds: [(u8, &[u8]); 3] = [(23, b""), (21, &[1, 90]), (21, &[1, 41])];
    for limit in [0, 5, 32] {
        let limits = Limits { idle_records_max: limit, ..Limits::default() };
        let (mut session, mut attacker) = pair(Suite::EcdheRsaChacha20Poly1305Sha256, limits);
        let mut next = |index: u8| {
            let (content_type, content) = kinds[usize::from(index) % kinds.len()];
            sealed(&mut attacker, content_type, content)
        };
        for index in 0..=limit {
            assert_eq!(session.open(&mut next(index)).is_ok(), index < limit);
        }
        assert_eq!(session.failure(), Some(Error::IdleRecords));
    }
}

#[test]
fn warnings_mean_nothing_and_fatal_alerts_end_both_directions() {
    let (mut session, mut attacker) = pair(Suite::EcdheEcdsaAes256GcmSha384, Limits::default());
    for description in [90, 100, 112] {
        let mut record = sealed(&mut attacker, 21, &[1, description]);
        assert_eq!(session.open(&mut record), Ok(Opened::Control { consumed: record.len() }));
    }
    let error = Error::AlertReceived(AlertDescription::HandshakeFailure);
    assert_eq!(session.open(&mut sealed(&mut attacker, 21, &[2, 40])), Err(error));
    assert!(session.answer(error).is_none() && session.close().is_none());
}

#[test]
fn each_side_closes_for_itself() {
    for level in [1, 2] {
        let (mut session, mut attacker) = pair(Suite::EcdheEcdsaAes128GcmSha256, Limits::default());
        let mut close = session.close().expect("the first").to_vec();
        let mut reader = client(session.suite());
        assert_eq!(reader.open(&mut close), Ok(Opened::Closed { consumed: close.len() }));
        assert_eq!(data(&mut session, &mut sealed(&mut attacker, 23, b"x")), b"x");
        let mut last = sealed(&mut attacker, 21, &[level, 0]);
        let length = last.len();
        last.extend_from_slice(b"anything");
        assert_eq!(session.open(&mut last), Ok(Opened::Closed { consumed: length }));
        assert_eq!(session.open(&mut last[length..]), Ok(Opened::Closed { consumed: 8 }), "what follows is ignored");
    }
}

#[test]
fn a_key_ends_with_its_connection() {
    assert_eq!(Suite::EcdheRsaAes128GcmSha256.records_per_key_max(), 1 << 24);
    let limits = Limits { records_per_key_max: Some(10), ..Limits::default() };
    let (mut session, _) = pair(Suite::EcdheRsaAes128GcmSha256, limits);
    let mut output = Vec::new();
    for sequence in 1..14 {
        assert_eq!(session.should_end(), sequence >= 10, "{sequence}");
        session.seal_into(b"x", &mut output).expect("room for what is under way");
    }
    let length = output.len();
    assert_eq!(session.seal_into(b"x", &mut output), Err(SealError::KeySpent));
    assert_eq!((session.open(&mut []), output.len()), (Err(Error::KeySpent), length));
    // The peer learns that something is missing.
    let mut alert = session.answer(Error::KeySpent).expect("an alert").to_vec();
    let mut reader = client(session.suite());
    reader.open_all(&mut output, &mut Window::default()).expect("good records");
    assert_eq!(reader.open(&mut alert), Err(Error::AlertReceived(AlertDescription::InternalError)));
    // Whatever the limits are, fewer than 2^24.5 records are sealed.
    let limits = Limits { records_per_key_max: Some(u64::MAX), ..Limits::default() };
    let suite = Suite::EcdheRsaAes128GcmSha256;
    let mut session = Session::at(direction(suite, 1, 0), direction(suite, 2, 23_726_000), limits);
    assert!(session.should_end());
    assert_eq!(session.seal_into(b"x", &mut output), Err(SealError::KeySpent));
}

#[test]
fn what_belongs_to_tls_1_3_is_refused() {
    let (mut session, _) = pair(Suite::EcdheRsaAes128GcmSha256, Limits::default());
    assert_eq!(session.update_key(true).map(drop), Err(SealError::OfTls13));
    assert_eq!(session.seal(&mut [0; OVERHEAD_BYTES + 1]), Err(SealError::OfTls13));
    for suite in Suite::TLS12 {
        assert!((0..64).all(|length| Secret::new(suite, &vec![7; length]).is_none()));
        for length in 0..64 {
            let key = TrafficKey::new(suite, &vec![7; length], &[7; NONCE_BYTES]);
            assert_eq!(key.is_some(), length == suite.key_bytes(), "{suite:?} {length}");
        }
    }
}

#[test]
fn what_is_sealed_fits_into_the_room_that_is_asked_for() {
    for suite in Suite::TLS12 {
        for plaintext_bytes in [1, 3, 100, PLAINTEXT_BYTES_MAX] {
            let limits = Limits { plaintext_bytes_max: plaintext_bytes, ..Limits::default() };
            let (mut session, _) = pair(suite, limits);
            for length in [0, 1, 2, 99, 100, 101, 300, 40_000] {
                session.owes_answer = length % 3 == 0;
                let mut output = vec![0; session.sealed_bytes_max(length)];
                if length > 0 {
                    assert_eq!(session.seal_to(&vec![7; length], &mut output[1..]), Err(SealError::Length));
                }
                let written = session.seal_to(&vec![7; length], &mut output).expect("room");
                assert!(output[written..].iter().all(|byte| *byte == 0), "{written} of {}", output.len());
            }
        }
    }
}

#[test]
fn a_session_goes_on_after_a_rest_and_after_a_move_with_the_same_bytes() {
    for suite in Suite::TLS12 {
        let (mut session, mut attacker) = pair(suite, Limits::default());
        let mut reader = client(suite);
        for round in 0..6 {
            if round % 2 == 0 {
                session.rest();
            } else {
                let frozen = state::freeze(&session, &Negotiated::default()).expect("it has not failed");
                session = state::thaw(&frozen, Limits::default()).expect("what was frozen").0;
            }
            assert_eq!(data(&mut session, &mut sealed(&mut attacker, 23, b"x")), b"x");
            let mut output = Vec::new();
            session.seal_into(b"y", &mut output).expect("sealed");
            assert_eq!(data(&mut reader, &mut output), b"y");
        }
    }
}

#[test]
fn a_session_prints_no_secret() {
    let (session, _) = pair(Suite::EcdheRsaAes128GcmSha256, Limits::default());
    let printed = format!("{session:?}");
    assert!(printed.contains("sequence: 1") && !printed.contains("1, 1, 1"), "{printed}");
}
