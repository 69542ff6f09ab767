//! Every rule of RFC 6455 section 5 that a client can break, and streams in any pieces.

use proptest::prelude::*;

use super::*;
use crate::websocket::{CloseCode, CloseFrame};

const MESSAGE_BYTES_MAX: usize = 70_000;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A message that owns its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Error(ProtocolError),
}

impl Event {
    fn of(message: Message<'_>) -> Self {
        match message {
            Message::Text(text) => Self::Text(text.to_owned()),
            Message::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Message::Ping(payload) => Self::Ping(payload.to_vec()),
            Message::Pong(payload) => Self::Pong(payload.to_vec()),
            Message::Close(frame) => Self::Close(frame.map(|frame| (frame.code.get(), frame.reason.to_owned()))),
        }
    }
}

/// A frame as a client sends it: header, then masked payload.
fn masked(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = FrameHeader::new(Opcode::Text, true, payload.len()).to_vec();
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().zip(key.into_iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// The events of a connection whose input arrives in these pieces; it is frozen and thawed after each of them.
fn events_of<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<Event> {
    let (mut decoder, mut state) = (Decoder::new(MESSAGE_BYTES_MAX), ReceiveState::default());
    let (mut events, mut input) = (Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        let mut rest = &input[..];
        loop {
            match decoder.decode(&mut state, &mut rest) {
                Ok(Some(message)) => events.push(Event::of(message)),
                Ok(None) => break,
                Err(error) => events.push(Event::Error(error)),
            }
            let is_end = matches!(events.last(), Some(Event::Close(_) | Event::Error(_)));
            assert_eq!(state.is_over(), is_end);
            assert!(!is_end || rest.is_empty());
        }
        assert!(rest.len() <= 130, "{} bytes are left", rest.len());
        assert!(state.held_bytes() <= MESSAGE_BYTES_MAX);
        input.drain(..input.len() - rest.len());
        let frozen = serde_json::to_string(&state).expect("frozen");
        let thawed: ReceiveState = serde_json::from_str(&frozen).expect("thawed");
        assert_eq!(thawed, state);
        state = thawed;
    }
    events
}

/// Asserts that the stream gives these events whole, byte by byte, and split at any position.
#[track_caller]
fn check(stream: &[u8], expected: &[Event]) {
    assert_eq!(events_of([stream]), expected, "whole: {}", stream.escape_ascii());
    if stream.len() < 1_000 {
        assert_eq!(events_of(stream.chunks(1)), expected, "byte by byte: {}", stream.escape_ascii());
        for cut in 0..=stream.len() {
            assert_eq!(events_of([&stream[..cut], &stream[cut..]]), expected, "at {cut}: {}", stream.escape_ascii());
        }
    }
}

fn text(payload: &str) -> Event {
    Event::Text(payload.to_owned())
}

#[test]
fn the_examples_of_the_rfc() {
    check(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[text("Hello")]);
    check(b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[Event::Ping(b"Hello".to_vec())]);
    check(&[masked(1, b"Hel", KEY), masked(0x80, b"lo", KEY)].concat(), &[text("Hello")]);
    for count in [0, 1, 125, 126, 127, 128, 256, 65_535, 65_536, MESSAGE_BYTES_MAX] {
        let payload = vec![0x5a; count];
        check(&masked(0x82, &payload, KEY), &[Event::Binary(payload)]);
    }
}

#[test]
fn control_frames_stand_between_fragments() {
    let stream = [
        masked(1, b"a", KEY),
        masked(0x89, b"one", KEY),
        masked(0, b"", KEY),
        masked(0x8a, &[b'x'; 125], KEY),
        masked(0, b"b", [0; 4]),
        masked(0x80, b"c", KEY),
        masked(0x88, b"", KEY),
    ];
    let expected = [Event::Ping(b"one".to_vec()), Event::Pong(vec![b'x'; 125]), text("abc"), Event::Close(None)];
    check(&stream.concat(), &expected);
}

#[test]
fn every_broken_rule_has_its_error_and_close_code() {
    use ProtocolError::{
        CloseCode, ControlTooLong, ExpectedContinuation, FragmentedControl, LengthInvalid, LengthNotMinimal,
        MessageTooBig, ReservedBit, ReservedOpcode, UnexpectedContinuation, Unmasked, Utf8,
    };
    let raw = |bytes: &[u8]| bytes.to_vec();
    let frame = |first: u8, payload: &[u8]| masked(first, payload, KEY);
    let over = |length: u64| [&[0x82, 0xff][..], &length.to_be_bytes(), &KEY].concat();
    let open = || frame(1, b"open");
    let mut cases = vec![
        (frame(0xc1, b""), ReservedBit),
        (frame(0xa1, b"x"), ReservedBit),
        (frame(0x92, b"x"), ReservedBit),
        (frame(0xf9, b"x"), ReservedBit),
        (raw(&[0x81, 0x05]), Unmasked),
        (raw(&[0x89, 0x00]), Unmasked),
        (raw(&[0x82, 0x7e]), Unmasked),
        (frame(0x09, b""), FragmentedControl),
        (frame(0x0a, b"x"), FragmentedControl),
        (frame(0x08, b""), FragmentedControl),
        ([open(), frame(0x09, b"")].concat(), FragmentedControl),
        (frame(0x89, &[0; 126]), ControlTooLong),
        (frame(0x8a, &[0; 70_000]), ControlTooLong),
        (frame(0x88, &[0; 126]), ControlTooLong),
        (raw(&[0x89, 0xfe]), ControlTooLong),
        (frame(0x80, b"x"), UnexpectedContinuation),
        (frame(0x00, b"x"), UnexpectedContinuation),
        ([frame(0x81, b"ok"), frame(0x80, b"x")].concat(), UnexpectedContinuation),
        ([open(), frame(0x80, b""), frame(0x00, b"")].concat(), UnexpectedContinuation),
        ([open(), frame(0x81, b"x")].concat(), ExpectedContinuation),
        ([open(), frame(0x02, b"x")].concat(), ExpectedContinuation),
        ([open(), frame(0x00, b""), frame(0x82, b"x")].concat(), ExpectedContinuation),
        (raw(&[0x82, 0xfe, 0, 125]), LengthNotMinimal),
        (raw(&[0x82, 0xfe, 0, 0]), LengthNotMinimal),
        (over(65_535), LengthNotMinimal),
        (over(0), LengthNotMinimal),
        (over(1 << 63), LengthInvalid),
        (over(u64::MAX), LengthInvalid),
        (over(i64::MAX as u64), MessageTooBig),
        (over(MESSAGE_BYTES_MAX as u64 + 1), MessageTooBig),
        ([frame(2, &[0; MESSAGE_BYTES_MAX]), frame(0x80, b"x")].concat(), MessageTooBig),
        ([frame(2, b"x"), over(MESSAGE_BYTES_MAX as u64)].concat(), ExpectedContinuation),
        (frame(0x88, b"\x03"), CloseCode),
        (frame(0x88, b"\x03\xe8\xff"), Utf8),
        (frame(0x88, b"\x03\xe8ok\xe2\x82"), Utf8),
    ];
    cases.extend([3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|opcode| (frame(0x80 | opcode, b"x"), ReservedOpcode)));
    let codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    cases.extend(codes.map(|code: u16| (frame(0x88, &[&code.to_be_bytes()[..], b"why"].concat()), CloseCode)));
    let not_text: [&[u8]; 12] = [
        b"\xff",
        b"\x80",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"cut\xe2\x82",
        b"cut\xf0\x9f\x92",
    ];
    for payload in not_text {
        cases.push((frame(0x81, payload), Utf8));
        for cut in 0..payload.len() {
            cases.push(([frame(1, &payload[..cut]), frame(0x80, &payload[cut..])].concat(), Utf8));
        }
    }
    for (stream, error) in cases {
        let close_code = match error {
            Utf8 => 1007,
            MessageTooBig => 1009,
            _ => 1002,
        };
        assert_eq!(error.close_code().get(), close_code);
        for behind in [&b""[..], &masked(0x81, b"not read", KEY)] {
            let stream = [&stream[..], behind].concat();
            let events = events_of([&stream[..]]);
            assert_eq!(events.last(), Some(&Event::Error(error)), "{}", stream[..stream.len().min(40)].escape_ascii());
            check(&stream, &events);
        }
    }
}

#[test]
fn text_that_cannot_become_valid_is_refused_before_it_ends() {
    let frame = masked(0x01, b"ab\xff", KEY);
    check(&frame, &[Event::Error(ProtocolError::Utf8)]);
    let unfinished = &masked(0x81, &[&b"ab\xf4\x90"[..], &[0; 9_000]].concat(), KEY)[..8 + 4];
    assert_eq!(events_of([unfinished]), [Event::Error(ProtocolError::Utf8)]);
}

#[test]
fn text_is_checked_across_fragments() {
    let text_of_all_widths = "$¢€😀κόσμε";
    for cut in 0..=text_of_all_widths.len() {
        for second in cut..=text_of_all_widths.len() {
            let bytes = text_of_all_widths.as_bytes();
            let stream = [
                masked(1, &bytes[..cut], KEY),
                masked(0, &bytes[cut..second], KEY),
                masked(0x80, &bytes[second..], KEY),
            ];
            assert_eq!(events_of(stream.concat().chunks(1)), [text(text_of_all_widths)]);
        }
    }
}

#[test]
fn close_codes_that_may_be_sent_are_taken() {
    for code in [1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        let payload = [&code.to_be_bytes()[..], "é".as_bytes()].concat();
        check(&masked(0x88, &payload, KEY), &[Event::Close(Some((code, "é".to_owned())))]);
    }
    let stream = [masked(0x88, b"\x03\xe8", KEY), masked(0x81, b"late", KEY), vec![0xff; 300]].concat();
    check(&stream, &[Event::Close(Some((1000, String::new())))]);
}

#[test]
fn an_echo_unmasks_once_into_its_output() {
    let (decoder, state) = (Decoder::new(10), ReceiveState::default());
    let stream = [masked(0x81, "é!".as_bytes(), KEY), masked(0x82, &[9; 10], KEY), masked(0x82, b"cut", KEY)].concat();
    let mut input = &stream[..stream.len() - 1];
    let mut output = Vec::new();
    while let Some(message) = decoder.take_masked(&state, &mut input) {
        let start = output.len();
        output.resize(start + message.frame_bytes(), 0);
        message.encode_into(&mut output[start..]).expect("text");
    }
    assert_eq!(output, [&b"\x81\x03\xc3\xa9!\x82\x0a"[..], &[9; 10]].concat());
    assert_eq!(input.len(), 2 + 4 + 2);
    for left in [masked(0x81, b"more than 10", KEY), masked(1, b"part", KEY), masked(0x89, b"", KEY), vec![0xff; 9]] {
        let mut input = &left[..];
        assert!(decoder.take_masked(&state, &mut input).is_none() && input == left);
    }
    let broken = masked(0x81, b"\xff", KEY);
    let message = decoder.take_masked(&state, &mut &broken[..]).expect("whole");
    assert_eq!(message.encode_into(&mut [0; 3]), Err(ProtocolError::Utf8));
    let (mut decoder, mut state) = (decoder, state);
    decoder.decode(&mut state, &mut &masked(0x88, b"", KEY)[..]).expect("good");
    assert!(decoder.take_masked(&state, &mut &masked(0x82, b"late", KEY)[..]).is_none());
}

#[test]
fn memory_of_a_connection_is_given_back() {
    let (mut decoder, mut state) = (Decoder::new(MESSAGE_BYTES_MAX), ReceiveState::default());
    let stream = masked(0x82, &[7; 60_000], KEY);
    let (mut first, mut second) = stream.split_at(30_000);
    assert!(decoder.decode(&mut state, &mut first).expect("good").is_none());
    assert!((29_900..=30_000).contains(&state.held_bytes()));
    assert!(!state.is_between_messages());
    assert!(decoder.decode(&mut state, &mut second).expect("good").is_some());
    assert_eq!((state.held_bytes(), state), (0, ReceiveState::default()));
    let mut whole = &stream[..];
    let mut state = ReceiveState::default();
    assert!(decoder.decode(&mut state, &mut whole).expect("good").is_some());
    assert_eq!(state.held_bytes(), 0, "a whole message never belongs to its connection");
    assert!(size_of::<ReceiveState>() <= 64);
}

#[test]
fn memory_stays_within_the_bound_and_is_not_moved_for_each_tiny_fragment() {
    let (mut decoder, mut state) = (Decoder::new(MESSAGE_BYTES_MAX), ReceiveState::default());
    let (first, next) = (masked(0x02, b"x", KEY), masked(0x00, b"x", KEY));
    let mut capacities = 1;
    for frame in [&first].into_iter().chain([&next; MESSAGE_BYTES_MAX - 1]) {
        let before = state.held_bytes();
        assert!(decoder.decode(&mut state, &mut &frame[..]).expect("good").is_none());
        capacities += usize::from(state.held_bytes() != before);
    }
    assert_eq!(state.held_bytes(), MESSAGE_BYTES_MAX);
    assert!(capacities < 30, "{capacities}");
    assert_eq!(decoder.decode(&mut state, &mut &next[..]), Err(ProtocolError::MessageTooBig));
    assert_eq!(state.held_bytes(), 0);
}

#[test]
fn frozen_state_may_hold_anything() {
    for frozen in [
        r#"{"message":{"is_text":true,"bytes":"gICAgA==","frame":{"is_final":true,"key":[0,0,0,0],"missing_bytes":1}},"is_over":false}"#,
        r#"{"message":{"is_text":true,"bytes":"","frame":{"is_final":false,"key":[0,0,0,0],"missing_bytes":0}},"is_over":false}"#,
        r#"{"message":{"is_text":false,"bytes":"","frame":{"is_final":true,"key":[0,0,0,0],"missing_bytes":18446744073709551615}},"is_over":true}"#,
        r#"{"message":{"is_text":true,"bytes":"gA==","frame":null},"is_over":false}"#,
    ] {
        let mut state: ReceiveState = serde_json::from_str(frozen).expect("thawed");
        let mut decoder = Decoder::new(10);
        let mut input = &[0x80, 0x81, 0, 0, 0, 0, b'a', 0x80, 0xff][..];
        while let Ok(Some(_)) = decoder.decode(&mut state, &mut input) {}
        assert!(input.len() < 10);
    }
    let unreadable = r#"{"message":{"is_text":true,"bytes":"?","frame":null},"is_over":false}"#;
    assert!(serde_json::from_str::<ReceiveState>(unreadable).is_err());
}

/// One action of a client, valid if the stream was.
#[derive(Clone, Debug)]
enum Act {
    Text(String, Vec<prop::sample::Index>),
    Binary(Vec<u8>, Vec<prop::sample::Index>),
    Control(bool, Vec<u8>),
}

fn act() -> impl Strategy<Value = Act> {
    let cuts = || prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    prop_oneof![
        (".{0,90}", cuts()).prop_map(|(text, cuts)| Act::Text(text, cuts)),
        (prop::collection::vec(any::<u8>(), 0..300), cuts()).prop_map(|(bytes, cuts)| Act::Binary(bytes, cuts)),
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..=125))
            .prop_map(|(ping, bytes)| Act::Control(ping, bytes)),
    ]
}

/// Writes a message in fragments, with a ping after each except the last.
fn write_message(
    opcode: u8,
    payload: &[u8],
    cuts: &[prop::sample::Index],
    stream: &mut Vec<u8>,
    events: &mut Vec<Event>,
) {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
    places.sort_unstable();
    let mut start = 0;
    for (number, end) in places.iter().enumerate() {
        stream.extend(masked(if number == 0 { opcode } else { 0 }, &payload[start..*end], [number as u8; 4]));
        stream.extend(masked(0x89, b"between", KEY));
        events.push(Event::Ping(b"between".to_vec()));
        start = *end;
    }
    stream.extend(masked(if places.is_empty() { 0x80 | opcode } else { 0x80 }, &payload[start..], KEY));
}

fn pieces<'s>(stream: &'s [u8], cuts: &[prop::sample::Index]) -> Vec<&'s [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn a_valid_stream_gives_its_messages_in_any_pieces(
        acts in prop::collection::vec(act(), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        closes: bool,
    ) {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for act in acts {
            match act {
                Act::Text(text, cuts) => {
                    write_message(1, text.as_bytes(), &cuts, &mut stream, &mut expected);
                    expected.push(Event::Text(text));
                }
                Act::Binary(bytes, cuts) => {
                    write_message(2, &bytes, &cuts, &mut stream, &mut expected);
                    expected.push(Event::Binary(bytes));
                }
                Act::Control(is_ping, bytes) => {
                    stream.extend(masked(if is_ping { 0x89 } else { 0x8a }, &bytes, KEY));
                    expected.push(if is_ping { Event::Ping(bytes) } else { Event::Pong(bytes) });
                }
            }
        }
        if closes {
            stream.extend(masked(0x88, b"\x03\xe8bye", KEY));
            expected.push(Event::Close(Some((1000, "bye".to_owned()))));
        }
        prop_assert_eq!(&events_of([&stream[..]]), &expected);
        prop_assert_eq!(&events_of(pieces(&stream, &cuts)), &expected);
        prop_assert_eq!(&events_of(stream.chunks(1)), &expected);
    }

    #[test]
    fn any_bytes_give_the_same_in_any_pieces(
        acts in prop::collection::vec((any::<u8>(), 0usize..40, any::<[u8; 4]>()), 0..6),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut stream: Vec<u8> =
            acts.iter().flat_map(|(first, count, key)| masked(first & 0x8f, &vec![b'e'; *count], *key)).collect();
        if let (Some((place, byte)), false) = (damage, stream.is_empty()) {
            let place = place.index(stream.len());
            stream[place] = byte;
        }
        let whole = events_of([&stream[..]]);
        prop_assert_eq!(&events_of(pieces(&stream, &cuts)), &whole);
        prop_assert_eq!(&events_of(stream.chunks(1)), &whole);
    }

    #[test]
    fn what_a_server_sends_is_read_back(code in 1000u16..5000, reason in ".{0,200}", bytes: Vec<u8>) {
        let frame = CloseCode::new(code).map(|code| CloseFrame { code, reason: &reason });
        for message in [Message::Text(&reason), Message::Binary(&bytes), Message::Ping(&bytes), Message::Close(frame)] {
            let mut sent = Vec::new();
            message.encode(&mut sent);
            let header_bytes = if sent[1] == 126 { 4 } else { 2 };
            let from_client = masked(sent[0], &sent[header_bytes..], KEY);
            prop_assert_eq!(from_client.len(), sent.len() + KEY.len());
            match (message, &events_of([&from_client[..]])[..]) {
                (Message::Ping(payload), [Event::Ping(got)]) => prop_assert!(payload.starts_with(got)),
                (Message::Close(Some(close)), [Event::Close(Some((code, reason)))]) => {
                    prop_assert_eq!(close.code.get(), *code);
                    prop_assert!(close.reason.starts_with(&reason[..]));
                }
                (message, [got]) => prop_assert_eq!(&Event::of(message), got),
                (_, events) => prop_assert!(false, "{events:?}"),
            }
        }
    }
}
