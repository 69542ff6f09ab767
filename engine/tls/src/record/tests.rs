use rustls::{AlertDescription, ContentType};

use super::header::{ENCRYPTED_BYTES_MAX, header};
use super::*;
use crate::schedule::tests::{TRACE, bytes_of};

/// RFC 8448 section 3, after the handshake: sequence number and record, of the client and of the server.
const TRACE_DATA: [(u64, &str); 2] = [
    (
        0,
        "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292\
         a2977014bd1e3deae63aeebb21694915e4",
    ),
    (
        1,
        "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0\
         a21c0047c2abf332540dd032e167c2955d",
    ),
];
const TRACE_CLOSE: [(u64, &str); 2] =
    [(1, "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3"), (2, "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9")];

fn secret(suite: Suite, byte: u8) -> Secret {
    Secret::new(suite, &vec![byte; suite.secret_bytes()]).expect("a secret")
}

/// A server, and a client's direction with which tests can send anything.
pub(super) fn pair(suite: Suite, limits: Limits) -> (Session, Direction) {
    (Session::new(secret(suite, 1), secret(suite, 2), limits), Direction::new(secret(suite, 1), 0))
}

/// The client's end of [`pair`].
fn client(suite: Suite) -> Session {
    Session::new(secret(suite, 2), secret(suite, 1), Limits { idle_records_max: u8::MAX, ..Limits::default() })
}

/// A record of any `TLSInnerPlaintext`.
fn sealed(direction: &mut Direction, inner: &[u8]) -> Vec<u8> {
    let mut record = [&[0; HEADER_BYTES][..], inner, &[0; TAG_BYTES]].concat();
    direction.seal(&mut record);
    record
}

pub(super) fn of_type(direction: &mut Direction, content_type: ContentType, content: &[u8]) -> Vec<u8> {
    sealed(direction, &[content, &[content_type.into()]].concat())
}

fn data(session: &mut Session, record: &mut [u8]) -> Vec<u8> {
    let Ok(Opened::Data { consumed, plaintext }) = session.open(record) else { panic!("not data") };
    assert_eq!(consumed, record.len());
    record[plaintext].to_vec()
}

#[test]
fn records_are_those_of_rfc_8448() {
    let suite = Suite::Aes128GcmSha256;
    let [of_client, of_server] = TRACE.map(|[secret, ..]| Secret::new(suite, &bytes_of(secret)).expect("a secret"));
    let plaintext: Vec<u8> = (0..50).collect();
    let secrets = [(&of_client, &of_server), (&of_server, &of_client)];
    for (index, (sender, reader)) in secrets.into_iter().enumerate() {
        let (sequence, record) = TRACE_DATA[index];
        let (_, close) = TRACE_CLOSE[index];
        let at = |sender: &Secret, sequence| Direction::new(sender.clone(), sequence);
        let mut sending = Session::at(at(reader, 0), at(sender, sequence), Limits::default());
        let mut output = Vec::new();
        sending.seal_into(&plaintext, &mut output).expect("sealed");
        output.extend_from_slice(&sending.close().expect("the first alert"));
        assert_eq!(output, [bytes_of(record), bytes_of(close)].concat());
        let mut in_place = [&[0; HEADER_BYTES][..], &plaintext, &[0; TRAILER_BYTES]].concat();
        let mut again = Session::at(at(reader, 0), at(sender, sequence), Limits::default());
        again.seal(&mut in_place).expect("sealed");
        assert_eq!(in_place, bytes_of(record));

        let mut receiving = Session::at(at(sender, sequence), at(reader, 0), Limits::default());
        let mut window = Window::default();
        assert_eq!(receiving.open_all(&mut output, &mut window), Ok(Status::Closed));
        assert_eq!((&output[window.plaintext], window.records), (&plaintext[..], output.len()));
    }
}

#[test]
fn each_error_has_the_alert_of_rfc_8446() {
    use AlertDescription as Alert;
    type Attack = fn(&mut Direction) -> Vec<u8>;
    let attacks: [(Attack, Error, Alert); 20] = [
        (|_| vec![20, 3, 3, 0, 1, 1], Error::RecordType(20), Alert::UnexpectedMessage),
        (|_| vec![21, 3, 3, 0, 2, 1, 0], Error::RecordType(21), Alert::UnexpectedMessage),
        (|_| b"GET / HTTP/1.1\r\n\r\n".to_vec(), Error::RecordType(b'G'), Alert::UnexpectedMessage),
        (|_| vec![23, 3, 1, 0, 40], Error::Version(0x0301), Alert::DecodeError),
        (|_| vec![23, 3, 3, 0x41, 0x01], Error::RecordOverflow, Alert::RecordOverflow),
        (|of| sealed(of, &[7; (1 << 14) + 2]), Error::RecordOverflow, Alert::RecordOverflow),
        (|_| vec![23, 3, 3, 0, 0], Error::BadRecordMac, Alert::BadRecordMac),
        (|_| [&[23, 3, 3, 0, 40][..], &[9; 40]].concat(), Error::BadRecordMac, Alert::BadRecordMac),
        (|of| sealed(of, &[]), Error::NoContentType, Alert::UnexpectedMessage),
        (|of| sealed(of, &[0; 100]), Error::NoContentType, Alert::UnexpectedMessage),
        (|of| sealed(of, &[1, 20]), Error::ContentType(20), Alert::UnexpectedMessage),
        (|of| sealed(of, &[1, 24]), Error::ContentType(24), Alert::UnexpectedMessage),
        (|of| sealed(of, &[21]), Error::EmptyContent(21), Alert::UnexpectedMessage),
        (|of| sealed(of, &[22, 0]), Error::EmptyContent(22), Alert::UnexpectedMessage),
        (|of| sealed(of, &[1, 22]), Error::HandshakeType(1), Alert::UnexpectedMessage),
        (|of| sealed(of, &[24, 0, 0, 2, 22]), Error::KeyUpdateLength, Alert::DecodeError),
        (|of| sealed(of, &[24, 0, 0, 1, 0, 24, 22]), Error::KeyUpdateNotAtEnd, Alert::UnexpectedMessage),
        (|of| sealed(of, &[24, 0, 0, 1, 2, 22]), Error::KeyUpdateRequest(2), Alert::IllegalParameter),
        (|of| sealed(of, &[2, 21]), Error::AlertLength, Alert::DecodeError),
        (|of| sealed(of, &[3, 0, 21]), Error::AlertLevel(3), Alert::IllegalParameter),
    ];
    for suite in Suite::TLS13 {
        for (attack, error, alert) in attacks {
            let (mut session, mut attacker) = pair(suite, Limits::default());
            let mut record = attack(&mut attacker);
            assert_eq!(session.open(&mut record), Err(error), "{suite:?}");
            let mut answer = session.answer(error).expect("an alert").to_vec();
            assert_eq!(client(suite).open(&mut answer), Err(Error::AlertReceived(alert)), "{error:?}");
            assert_eq!(session.open(&mut []), Err(error), "for good");
            assert_eq!((session.failure(), session.is_closed()), (Some(error), true));
            assert!(session.answer(error).is_none(), "once");
            assert_eq!(session.seal_into(b"more", &mut Vec::new()), Err(SealError::Closed));
        }
    }
}

#[test]
fn an_alert_of_the_peer_ends_both_directions_without_an_answer() {
    for level in [1, 2] {
        let (mut session, mut attacker) = pair(Suite::Aes128GcmSha256, Limits::default());
        let mut record = of_type(&mut attacker, ContentType::Alert, &[level, 40]);
        let error = Error::AlertReceived(AlertDescription::HandshakeFailure);
        assert_eq!(session.open(&mut record), Err(error));
        assert!(session.answer(error).is_none() && session.close().is_none());
        assert_eq!(session.seal_into(b"more", &mut Vec::new()), Err(SealError::Closed));
    }
}

#[test]
fn each_byte_of_a_record_is_authenticated() {
    for suite in Suite::TLS13 {
        let mut record = Vec::new();
        client(suite).seal_into(b"hello", &mut record).expect("sealed");
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
    let mut records = [const { Vec::new() }; 3];
    let mut sender = client(Suite::Aes128GcmSha256);
    records.iter_mut().for_each(|record| sender.seal_into(b"hello", record).expect("sealed"));
    for order in [[0, 0], [1, 0], [0, 2]] {
        let (mut session, _) = pair(Suite::Aes128GcmSha256, Limits::default());
        let results = order.map(|index| session.open(&mut records[index].clone()).err());
        assert!(results.contains(&Some(Error::BadRecordMac)), "{order:?}: {results:?}");
    }
}

#[test]
fn a_record_waits_until_it_is_whole() {
    let mut record = Vec::new();
    client(Suite::Chacha20Poly1305Sha256).seal_into(b"hello", &mut record).expect("sealed");
    let (mut session, _) = pair(Suite::Chacha20Poly1305Sha256, Limits::default());
    for length in 0..record.len() {
        let at_least = if length < HEADER_BYTES { HEADER_BYTES } else { record.len() };
        let mut part = record[..length].to_vec();
        assert_eq!(session.open(&mut part), Ok(Opened::Incomplete { at_least }));
        assert_eq!(part, record[..length], "nothing was changed");
    }
    assert_eq!(data(&mut session, &mut record), b"hello");
}

#[test]
fn the_longest_records_pass_both_ways() {
    let longest = vec![7; PLAINTEXT_BYTES_MAX];
    for suite in Suite::TLS13 {
        let (mut session, mut attacker) = pair(suite, Limits::default());
        let mut record = of_type(&mut attacker, ContentType::ApplicationData, &longest);
        assert_eq!(data(&mut session, &mut record), longest);
        // The longest inner plaintext, all padding except one byte.
        let mut padded = vec![0; PLAINTEXT_BYTES_MAX + 1];
        padded[0] = ContentType::ApplicationData.into();
        assert_eq!(data(&mut session, &mut sealed(&mut attacker, &padded)), b"");
        let mut output = Vec::new();
        session.seal_into(&[&longest[..], b"!"].concat(), &mut output).expect("sealed");
        assert_eq!(output.len(), 2 * OVERHEAD_BYTES + longest.len() + 1);
        let mut window = Window::default();
        let status = client(suite).open_all(&mut output, &mut window);
        assert_eq!(status, Ok(Status::Incomplete { at_least: HEADER_BYTES }));
        assert_eq!(output[window.plaintext], [&longest[..], b"!"].concat());
    }
    assert_eq!(header(ENCRYPTED_BYTES_MAX), [23, 3, 3, 0x41, 0x00]);
}

#[test]
fn records_that_are_sent_have_the_set_length() {
    let limits = Limits { plaintext_bytes_max: 512, ..Limits::default() };
    let (mut session, _) = pair(Suite::Aes128GcmSha256, limits);
    let mut output = Vec::new();
    session.seal_into(&[5; 1100], &mut output).expect("sealed");
    let mut reader = client(Suite::Aes128GcmSha256);
    for expected in [512, 512, 76] {
        let record = output.drain(..expected + OVERHEAD_BYTES);
        assert_eq!(data(&mut reader, &mut record.collect::<Vec<u8>>()).len(), expected);
    }
    let mut record = vec![0; OVERHEAD_BYTES + 513];
    assert_eq!(session.seal(&mut record), Err(SealError::Length));
    assert_eq!(session.seal(&mut record[..OVERHEAD_BYTES - 1]), Err(SealError::Length));
    assert_eq!(session.seal_padded(&mut record[..OVERHEAD_BYTES + 3], 4), Err(SealError::Length));
    assert!(record.iter().all(|byte| *byte == 0), "nothing was changed");
    assert_eq!(session.seal(&mut record[..OVERHEAD_BYTES + 512]), Ok(()));
}

#[test]
fn padding_is_no_plaintext() {
    let (mut session, _) = pair(Suite::Aes256GcmSha384, Limits::default());
    let mut reader = client(Suite::Aes256GcmSha384);
    for padding in [0, 1, 300] {
        let mut record = [&[0; HEADER_BYTES][..], b"hello\0\0", &vec![9; padding + TRAILER_BYTES]].concat();
        session.seal_padded(&mut record, padding).expect("sealed");
        assert_eq!(data(&mut reader, &mut record), b"hello\0\0");
    }
}

#[test]
fn plaintext_of_several_records_comes_together() {
    let mut sender = client(Suite::Aes128GcmSha256);
    let mut buffer = Vec::new();
    sender.seal_into(b"one ", &mut buffer).expect("sealed");
    buffer.extend_from_slice(&sender.update_key(false).expect("open"));
    sender.seal_into(b"two ", &mut buffer).expect("sealed");
    let whole = buffer.len();
    sender.seal_into(b"three", &mut buffer).expect("sealed");
    let third = buffer.split_off(whole + 9);
    let (mut session, _) = pair(Suite::Aes128GcmSha256, Limits::default());
    let mut window = Window::default();
    let status = session.open_all(&mut buffer, &mut window);
    assert_eq!(status, Ok(Status::Incomplete { at_least: OVERHEAD_BYTES + 5 }));
    assert_eq!(window, Window { plaintext: HEADER_BYTES..HEADER_BYTES + 8, records: whole });
    assert_eq!(buffer[window.plaintext.clone()], *b"one two ");
    // The application has taken some of it.
    window.plaintext.start += 4;
    buffer.extend_from_slice(&third);
    let status = session.open_all(&mut buffer, &mut window);
    assert_eq!(status, Ok(Status::Incomplete { at_least: HEADER_BYTES }));
    assert_eq!(buffer[window.plaintext], *b"two three");
}

#[test]
fn what_was_opened_before_an_error_is_the_applications() {
    let mut buffer = Vec::new();
    client(Suite::Aes128GcmSha256).seal_into(b"hello", &mut buffer).expect("sealed");
    buffer.push(99);
    let (mut session, _) = pair(Suite::Aes128GcmSha256, Limits::default());
    let mut window = Window::default();
    assert_eq!(session.open_all(&mut buffer, &mut window), Err(Error::RecordType(99)));
    assert_eq!(buffer[window.plaintext], *b"hello");
}

#[test]
fn requests_to_update_are_answered_once_and_before_application_data() {
    for suite in Suite::TLS13 {
        let (mut session, mut attacker) = pair(suite, Limits::default());
        for _ in 0..3 {
            let mut record = of_type(&mut attacker, ContentType::Handshake, &[24, 0, 0, 1, 1]);
            attacker.update();
            assert_eq!(session.open(&mut record), Ok(Opened::Control { consumed: record.len() }));
        }
        let mut in_place = vec![0; OVERHEAD_BYTES + 2];
        assert_eq!(session.seal(&mut in_place), Err(SealError::UpdateFirst));
        let mut output = Vec::new();
        session.seal_into(b"a", &mut output).expect("sealed");
        session.seal_into(b"b", &mut output).expect("sealed");
        assert!(session.next_control().is_none());
        assert_eq!(output.len(), 3 * OVERHEAD_BYTES + KEY_UPDATE_BYTES + 2, "one update");
        let mut reader = client(suite);
        let update = OVERHEAD_BYTES + KEY_UPDATE_BYTES;
        assert_eq!(reader.open(&mut output), Ok(Opened::Control { consumed: update }));
        assert!(reader.next_control().is_none(), "it asks for none");
        let mut window = Window { records: update, ..Window::default() };
        assert_eq!(reader.open_all(&mut output, &mut window), Ok(Status::Incomplete { at_least: HEADER_BYTES }));
        assert_eq!(output[window.plaintext], *b"ab");
    }
}

#[test]
fn a_key_seals_as_many_records_as_it_may() {
    assert_eq!(Suite::TLS13.map(Suite::records_per_key_max), [1 << 24, 1 << 24, 1 << 62]);
    let limits = Limits { records_per_key_max: Some(3), ..Limits::default() };
    let (mut session, _) = pair(Suite::Aes128GcmSha256, limits);
    let mut reader = client(Suite::Aes128GcmSha256);
    let mut kinds = String::new();
    for _ in 0..8 {
        let mut output = Vec::new();
        session.seal_into(b"x", &mut output).expect("sealed");
        while !output.is_empty() {
            let (kind, consumed) = match reader.open(&mut output).expect("good records") {
                Opened::Data { consumed, .. } => ('x', consumed),
                Opened::Control { consumed } => ('u', consumed),
                other => panic!("{other:?}"),
            };
            kinds.push(kind);
            output.drain(..consumed);
        }
    }
    assert_eq!(kinds, "xxxuxxxuxx");
    // However high the limit is, a suite's own limit holds.
    let limits = Limits { records_per_key_max: Some(u64::MAX), ..Limits::default() };
    let at = |sequence| Direction::new(secret(Suite::Aes128GcmSha256, 2), sequence);
    let mut session = Session::at(at(0), at((1 << 24) - 1), limits);
    assert!(session.next_control().is_none());
    session.seal_into(b"x", &mut Vec::new()).expect("sealed");
    assert!(session.next_control().is_some());
    assert_eq!(session.sealing.sequence(), 0);
}

#[test]
fn a_peer_cannot_go_on_without_application_data() {
    type Idle = fn(&mut Direction) -> Vec<u8>;
    let kinds: [Idle; 4] = [
        |of| sealed(of, &[23]),
        |of| sealed(of, &[1, 90, 21]),
        |of| {
            let record = sealed(of, &[24, 0, 0, 1, 0, 22]);
            of.update();
            record
        },
        |of| sealed(of, &[23, 0, 0, 0, 0]),
    ];
    for (period, limit) in [(1, 32), (2, 5), (4, 0)] {
        let (mut session, mut attacker) =
            pair(Suite::Aes128GcmSha256, Limits { idle_records_max: limit, ..Limits::default() });
        for round in 0..3 {
            for index in 0..limit {
                let mut record = kinds[usize::from(index) % period](&mut attacker);
                session.open(&mut record).unwrap_or_else(|error| panic!("{round} {index} of {limit}: {error}"));
            }
            let mut record = of_type(&mut attacker, ContentType::ApplicationData, b"x");
            assert_eq!(data(&mut session, &mut record), b"x");
        }
        for index in 0..=limit {
            let opened = session.open(&mut kinds[usize::from(index) % period](&mut attacker));
            assert_eq!(opened.is_ok(), index < limit);
        }
        assert_eq!(session.failure(), Some(Error::IdleRecords));
    }
}

#[test]
fn a_key_update_may_be_cut_between_records_and_nothing_else_comes_in_between() {
    for cut in 1..KEY_UPDATE_BYTES {
        let message = [24, 0, 0, 1, 1];
        let (first, second) = message.split_at(cut);
        let (mut session, mut attacker) = pair(Suite::Aes128GcmSha256, Limits::default());
        session.open(&mut of_type(&mut attacker, ContentType::Handshake, first)).expect("its beginning");
        let mut inside = Direction::new(secret(Suite::Aes128GcmSha256, 1), attacker.sequence());
        for content_type in [ContentType::ApplicationData, ContentType::Alert] {
            let mut other = Session::at(
                Direction::new(secret(Suite::Aes128GcmSha256, 1), inside.sequence()),
                Direction::new(secret(Suite::Aes128GcmSha256, 2), 0),
                Limits::default(),
            );
            other.begun = session.begun;
            let mut record = of_type(&mut inside, content_type, &[1, 0]);
            assert_eq!(other.open(&mut record), Err(Error::Interleaved));
        }
        session.open(&mut of_type(&mut attacker, ContentType::Handshake, second)).expect("its end");
        attacker.update();
        assert_eq!(data(&mut session, &mut of_type(&mut attacker, ContentType::ApplicationData, b"x")), b"x");
        assert!(session.next_control().is_some());
    }
}

#[test]
fn each_side_closes_for_itself() {
    let suite = Suite::Aes128GcmSha256;
    let (mut session, mut attacker) = pair(suite, Limits::default());
    let mut close = session.close().expect("the first").to_vec();
    let mut reader = client(suite);
    assert_eq!(reader.open(&mut close), Ok(Opened::Closed { consumed: close.len() }));
    assert!(reader.has_peer_closed() && session.is_closed());
    assert!(session.close().is_none() && session.send_alert(AlertDescription::InternalError).is_none());
    assert_eq!(session.update_key(false).map(|_| ()), Err(SealError::Closed));
    assert_eq!(session.seal(&mut [0; OVERHEAD_BYTES]), Err(SealError::Closed));
    // The peer continues, and its requests are not answered any more.
    let mut record = of_type(&mut attacker, ContentType::Handshake, &[24, 0, 0, 1, 1]);
    attacker.update();
    assert!(session.open(&mut record).is_ok() && session.next_control().is_none());
    assert_eq!(data(&mut session, &mut of_type(&mut attacker, ContentType::ApplicationData, b"x")), b"x");
    let mut last = of_type(&mut attacker, ContentType::Alert, &[1, 0]);
    let length = last.len();
    last.extend_from_slice(b"anything");
    assert_eq!(session.open(&mut last), Ok(Opened::Closed { consumed: length }));
    assert_eq!(session.open(&mut last[length..]), Ok(Opened::Closed { consumed: 8 }), "what follows is ignored");
}

#[test]
#[should_panic(expected = "one suite")]
fn directions_of_two_suites_are_a_mistake() {
    Session::new(secret(Suite::Aes128GcmSha256, 1), secret(Suite::Aes256GcmSha384, 1), Limits::default());
}

#[test]
fn a_session_prints_no_secret() {
    let (session, _) = pair(Suite::Aes128GcmSha256, Limits::default());
    let printed = format!("{session:?}");
    assert!(printed.contains("sequence: 0") && !printed.contains("1, 1, 1"), "{printed}");
}

#[test]
fn what_is_sealed_fits_into_the_room_that_is_asked_for() {
    for (records, plaintext_bytes) in [(1, 1), (1, 10), (2, 3), (3, 100), (u64::MAX, 7), (1 << 20, PLAINTEXT_BYTES_MAX)]
    {
        let limits =
            Limits { records_per_key_max: Some(records), plaintext_bytes_max: plaintext_bytes, ..Limits::default() };
        let (mut session, _) = pair(Suite::Aes128GcmSha256, limits);
        for length in (0..200).chain([40_000]).take(if plaintext_bytes < 1000 { 200 } else { 201 }) {
            session.owes_answer |= length % 7 == 0;
            let room = session.sealed_bytes_max(length);
            let mut output = vec![0; room];
            if room > 0 {
                let sequence = session.sealing.sequence();
                assert_eq!(session.seal_to(&vec![7; length], &mut output[1..]), Err(SealError::Length));
                assert_eq!(session.sealing.sequence(), sequence, "nothing was sealed");
            }
            let written = session.seal_to(&vec![7; length], &mut output).expect("room");
            assert!(written <= room && output[written..].iter().all(|byte| *byte == 0), "{written} of {room}");
        }
    }
}

#[test]
fn a_session_goes_on_after_a_rest() {
    for suite in Suite::TLS13 {
        let (mut session, mut attacker) = pair(suite, Limits::default());
        let mut reader = client(suite);
        for round in 0..6 {
            if round % 2 == 0 {
                session.rest();
            }
            assert_eq!(data(&mut session, &mut of_type(&mut attacker, ContentType::ApplicationData, b"x")), b"x");
            let mut output = Vec::new();
            session.seal_into(b"y", &mut output).expect("sealed");
            assert_eq!(data(&mut reader, &mut output), b"y");
        }
    }
}
