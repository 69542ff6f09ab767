//! The example `resp` as a state machine: every split of the input, a naive parser beside its own, violations of the
//! protocol, and peers that send or read little.

mod resp_encode;
mod resp_harness;
#[path = "../examples/resp/service/mod.rs"]
mod service;

use std::time::Duration;

use baton::config::{Limits, Timeouts};
use baton::testing::{Harness, output_of_all_handovers, output_of_all_splits};
use proptest::prelude::*;

use self::resp_encode::encode;
use self::resp_harness::{ask, store};
use self::service::Service;
use self::service::parse::{Parsed, Parser};

#[test]
fn every_cut_of_a_pipeline_gives_the_same_answers() {
    let input = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nab\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\nGET \"no ne\"\r\n\
        *0\r\nINCR n\r\nHELLO 3\r\nGET none\r\n*1\r\n$3\r\nGET\r\nQUIT\r\nPING\r\n";
    let output = String::from_utf8(output_of_all_splits(Service::default, input)).expect("text");
    assert!(output.starts_with("+OK\r\n$2\r\nab\r\n$-1\r\n:1\r\n%7\r\n"), "{output}");
    assert!(output.ends_with("_\r\n-ERR wrong number of arguments for 'get' command\r\n+OK\r\n"), "{output}");
}

#[test]
fn every_handover_in_a_session_gives_the_same_answers() {
    let input = b"SET k ab\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nCLIENT SETNAME me\r\nHELLO 3\r\nCLIENT GETNAME\r\n\
        CLIENT ID\r\nINCR n\r\nAPPEND k cd\r\nGET k\r\nGET none\r\nSET t v EX 100\r\nTTL t\r\nDBSIZE\r\nDEL k\r\nGET k\r\n";
    let output = String::from_utf8(output_of_all_handovers(Service::default, input)).expect("text");
    assert!(output.ends_with("$4\r\nabcd\r\n_\r\n+OK\r\n:100\r\n:3\r\n:1\r\n_\r\n"), "{output}");
}

#[test]
fn a_store_moves_with_what_expires_and_its_counts() {
    let (mut harness, client) = store();
    ask(&mut harness, client, "SET k v PX 1500");
    ask(&mut harness, client, "SET stays v");
    harness.advance(Duration::from_secs(1));
    harness.hand_over(Service::default());
    assert_eq!(ask(&mut harness, client, "PTTL k"), ":500\r\n");
    harness.advance(Duration::from_secs(1));
    assert_eq!(ask(&mut harness, client, "DBSIZE"), ":1\r\n");
    let stats = ask(&mut harness, client, "INFO stats");
    assert!(stats.contains("total_connections_received:1\r\n"), "{stats}");
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_and_left() {
    for (input, message) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*2000000\r\n", "invalid multibulk length"),
        ("*1\r\n:1\r\n", "expected '$', got ':'"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        ("*1\r\n$999999999\r\n", "invalid bulk length"),
        ("ECHO \"a\r\n", "unbalanced quotes in request"),
    ] {
        let (mut harness, client) = store();
        harness.send(client, format!("{input}PING\r\n").as_bytes());
        let output = String::from_utf8(harness.take_output(client)).expect("text");
        assert_eq!(output, format!("-ERR Protocol error: {message}\r\n"), "{input:?}");
        assert!(harness.saw_end(client));
    }
}

/// Long enough that the state of the request is stored, and that lengths have three digits.
#[test]
fn long_arguments_may_be_cut_anywhere() {
    let one = encode(&[b"ECHO".to_vec(), vec![b'\r'; 400]]);
    let output = output_of_all_splits(Service::default, &one);
    assert_eq!(output, [&b"$400\r\n"[..], &[b'\r'; 400], b"\r\n"].concat());
    let pairs = (0..9u8).flat_map(|index| [vec![b'k', index], vec![b'0' + index; 120]]);
    let mut many = encode(&[vec![b"MSET".to_vec()], pairs.collect()].concat());
    many.extend_from_slice(b"STRLEN k\x08\r\n");
    assert_eq!(output_of_all_splits(Service::default, &many), b"+OK\r\n:120\r\n");
}

/// Otherwise the peer would wait for an answer, and the store for the rest of a line that has ended.
#[test]
fn an_empty_line_for_an_argument_is_refused_at_once() {
    for start in ["*1\r\n", "*20\r\n$1\r\na\r\n"] {
        let (mut harness, client) = store();
        harness.send(client, start.as_bytes());
        harness.send(client, b"\r");
        assert_eq!(harness.take_output(client), b"");
        harness.send(client, b"\n");
        assert_eq!(harness.take_output(client), b"-ERR Protocol error: expected '$', got ' '\r\n");
        assert!(harness.saw_end(client));
    }
}

/// The search continues after the bytes that it has seen, and must not overlook a line end that arrives alone.
#[test]
fn a_long_line_may_be_cut_anywhere_at_its_end() {
    let long = "1".repeat(400);
    for (input, message) in [
        (format!("*{long}\r\n"), "invalid multibulk length"),
        (format!("*2\r\n$1\r\na\r\n${long}\r\n"), "invalid bulk length"),
        (format!("ECHO \"{long}\r\n"), "unbalanced quotes in request"),
    ] {
        let output = output_of_all_splits(Service::default, input.as_bytes());
        assert_eq!(output, format!("-ERR Protocol error: {message}\r\n").as_bytes());
    }
}

#[test]
fn lines_that_do_not_end_are_refused_at_64_kib_however_they_arrive() {
    for (start, filler, message) in [
        ("", b'a', "too big inline request"),
        ("*", b'1', "too big mbulk count string"),
        ("*1\r\n$", b'1', "too big bulk count string"),
        ("*20\r\n$1\r\na\r\n$1\r\na\r\n", b'a', "too big bulk count string"),
    ] {
        for piece_bytes in [63, 4096, 1 << 20] {
            let (mut harness, client) = store();
            harness.send(client, start.as_bytes());
            let line = vec![filler; 65_000];
            line.chunks(piece_bytes).for_each(|piece| harness.send(client, piece));
            assert_eq!(harness.take_output(client), b"", "{message}");
            harness.send(client, &[filler; 1000]);
            let output = String::from_utf8(harness.take_output(client)).expect("text");
            assert_eq!(output, format!("-ERR Protocol error: {message}\r\n"), "in pieces of {piece_bytes}");
            assert!(harness.saw_end(client));
        }
    }
}

#[test]
fn http_ends_the_connection_before_its_body_is_run() {
    for request in ["POST / HTTP/1.1\r\nA: b\r\n\r\nSET k v\r\n", "OPTIONS /\r\nhOsT: a\r\n\r\nSET k v\r\n"] {
        let (mut harness, client) = store();
        harness.send(client, request.as_bytes());
        assert!(harness.saw_end(client), "{request}");
        let other = harness.open();
        assert_eq!(ask(&mut harness, other, "DBSIZE"), ":0\r\n");
    }
}

#[test]
fn a_request_beyond_the_engine_s_bound_is_refused() {
    let limits = Limits { message_bytes_max: 10_000, ..Limits::default() };
    let mut harness = Harness::with(Service::default(), limits, Timeouts::default());
    let client = harness.open();
    harness.send(client, b"*2\r\n$4\r\nECHO\r\n$20000\r\n");
    (0..12).for_each(|_| harness.send(client, &[b'x'; 1000]));
    assert_eq!(harness.take_output(client), b"-ERR Protocol error: too big request\r\n");
    assert!(harness.saw_end(client));
}

/// Requests of a peer that reads no answers are not run, so their answers need no memory.
#[test]
fn a_peer_that_takes_nothing_is_not_served_further() {
    let (mut harness, client) = store();
    harness.send(client, &encode(&[b"SET".to_vec(), b"k".to_vec(), vec![b'v'; 100_000]]));
    harness.take_output(client);
    harness.set_window(client, Some(0));
    harness.send(client, &b"GET k\r\n".repeat(500));
    let other = harness.open();
    let information = ask(&mut harness, other, "INFO stats");
    let count = information.split("total_commands_processed:").nth(1).and_then(|rest| rest.split("\r\n").next());
    let count: usize = count.and_then(|count| count.parse().ok()).expect("a count");
    assert!((2..=1 + 2 + (1 << 20) / 100_000).contains(&count), "{count} commands were run");
    harness.set_window(client, None);
    assert_eq!(harness.take_output(client).len(), 500 * "$100000\r\n\r\n".len() + 500 * 100_000);
}

#[test]
fn a_deep_pipeline_is_answered_in_full_and_in_order() {
    let (mut harness, client) = store();
    harness.send(client, &b"INCR n\r\n".repeat(5000));
    let expected: String = (1..=5000).map(|number| format!(":{number}\r\n")).collect();
    assert_eq!(harness.take_output(client), expected.as_bytes());
}

#[test]
fn clients_are_listed_while_they_are_there() {
    let (mut harness, first) = store();
    let second = harness.open();
    ask(&mut harness, second, "CLIENT SETNAME second");
    let listed = ask(&mut harness, first, "CLIENT LIST");
    assert!(listed.contains("id=1 name= ") && listed.contains("id=2 name=second "), "{listed}");
    assert_eq!(ask(&mut harness, second, "QUIT"), "+OK\r\n");
    harness.finish(second);
    let listed = ask(&mut harness, first, "CLIENT LIST");
    assert!(!listed.contains("id=2"), "{listed}");
}

#[test]
fn each_client_has_its_own_version_of_the_protocol() {
    let (mut harness, first) = store();
    let second = harness.open();
    assert!(ask(&mut harness, first, "HELLO 3").starts_with("%7\r\n"));
    assert_eq!(ask(&mut harness, first, "GET none"), "_\r\n");
    assert_eq!(ask(&mut harness, second, "GET none"), "$-1\r\n");
    assert!(ask(&mut harness, first, "HELLO 4").starts_with("-NOPROTO"));
    assert_eq!(ask(&mut harness, first, "GET none"), "_\r\n");
    assert_eq!(ask(&mut harness, first, "RESET"), "+RESET\r\n");
    assert_eq!(ask(&mut harness, first, "GET none"), "$-1\r\n");
}

/// The beginning of the input, found in the simplest way, and without quotes.
#[derive(Debug, PartialEq)]
enum Outcome {
    Request(Vec<Vec<u8>>),
    Nothing,
    More,
    Invalid,
}

fn naive_line(input: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let end = (start..input.len()).find(|index| input[*index] == b'\r')?;
    // There must be a byte in place of the line feed, whatever it is.
    (end + 1 < input.len()).then(|| (&input[start..end], end + 2))
}

fn naive_number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

fn naive(input: &[u8]) -> (Outcome, usize) {
    if input[0] != b'*' {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return (Outcome::More, 0) };
        let line = input[..end].split(|byte| b" \t\r".contains(byte));
        let words: Vec<Vec<u8>> = line.filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect();
        return (if words.is_empty() { Outcome::Nothing } else { Outcome::Request(words) }, end + 1);
    }
    let Some((line, mut at)) = naive_line(input, 1) else { return (Outcome::More, 0) };
    let count = match naive_number(line) {
        Some(count) if count <= 0 => return (Outcome::Nothing, at),
        Some(count) if count <= 1 << 20 => count,
        _ => return (Outcome::Invalid, 0),
    };
    let mut arguments = Vec::new();
    for _ in 0..count {
        let Some((line, start)) = naive_line(input, at) else { return (Outcome::More, 0) };
        let length = line.strip_prefix(b"$").and_then(naive_number).filter(|length| (0..=64 << 20).contains(length));
        let Some(length) = length else { return (Outcome::Invalid, 0) };
        let end = start + length as usize;
        if end + 2 > input.len() {
            return (Outcome::More, 0);
        }
        arguments.push(input[start..end].to_vec());
        at = end + 2;
    }
    (Outcome::Request(arguments), at)
}

/// All requests of `input` up to the first that is incomplete or invalid.
fn naive_outcomes(mut input: &[u8]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    while !input.is_empty() {
        let (outcome, length) = naive(input);
        let is_last = matches!(outcome, Outcome::More | Outcome::Invalid);
        outcomes.push(outcome);
        if is_last {
            break;
        }
        input = &input[length..];
    }
    outcomes
}

/// The same by the parser, called as the engine does: with the bytes that have arrived, and only when those that it
/// asked for have.
fn outcomes(input: &[u8], piece_bytes: usize) -> Vec<Outcome> {
    let (mut parser, mut partial, mut outcomes) = (Parser::default(), None, Vec::new());
    let (mut start, mut wanted) = (0, 1);
    for arrived in (1..=input.len()).filter(|end| end % piece_bytes == 0 || *end == input.len()) {
        while arrived - start >= wanted {
            let rest = &input[start..arrived];
            wanted = 1;
            match parser.parse(rest, &mut partial) {
                Parsed::Request { length } => {
                    let arguments = parser.arguments(rest);
                    let copy = (0..arguments.count()).map(|index| arguments.get(index).to_vec()).collect();
                    outcomes.push(Outcome::Request(copy));
                    start += length;
                }
                Parsed::Nothing { length } => {
                    outcomes.push(Outcome::Nothing);
                    start += length;
                }
                Parsed::Incomplete { at_least } => {
                    assert!(at_least > rest.len(), "it asks for what it has");
                    wanted = at_least;
                }
                Parsed::Invalid(_) => {
                    outcomes.push(Outcome::Invalid);
                    return outcomes;
                }
            }
        }
    }
    if start < input.len() {
        outcomes.push(Outcome::More);
    }
    outcomes
}

/// Whole requests, and parts of them.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let request = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..24);
    prop_oneof![
        4 => request.prop_map(|request| encode(&request)),
        2 => "[ a-z\t]{0,20}\r?\n".prop_map(String::into_bytes),
        1 => "[*$][-0-9]{0,3}\r\n".prop_map(String::into_bytes),
        1 => "[0-9]{250,300}".prop_map(String::into_bytes),
        1 => proptest::sample::select(vec!["\r\n", "*0\r\n", "*-1\r\n", "*20\r\n", "$0\r\n\r\n", "*1\r", "$", "\n"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ]
}

/// Lines that give an answer or an error, change the protocol, or end the connection.
fn request_line() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "PING\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "SET k v EX 10\r\n",
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n1\r\n\r\n",
        "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n",
        "MGET k n k\r\n",
        "TTL k\r\n",
        "HELLO 3\r\n",
        "GET 'no ne'\r\n",
        "INFO stats\r\n",
        "NO such\r\n",
        "\r\n*0\r\n",
        "GET \"\r\n",
        "QUIT\r\n",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_parser_agrees_with_a_naive_one(
        fragments in proptest::collection::vec(fragment(), 1..8),
        piece_bytes in 1..50usize,
    ) {
        // The naive parser does not know quotes, which have separate tests, nor other white space.
        let unquoted = |byte| if b"\"'\x0b\x0c".contains(&byte) { b'q' } else { byte };
        let input: Vec<u8> = fragments.concat().into_iter().map(unquoted).collect();
        let expected = naive_outcomes(&input);
        prop_assert_eq!(&outcomes(&input, input.len()), &expected);
        prop_assert_eq!(&outcomes(&input, piece_bytes), &expected);
        prop_assert_eq!(&outcomes(&input, 1), &expected);
    }

    #[test]
    fn no_bytes_are_a_panic(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (mut harness, client) = store();
        harness.send(client, &input);
        harness.finish(client);
        prop_assert!(harness.closed(client).is_some() || harness.saw_end(client));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_cut_of_any_pipeline_gives_the_same_answers(
        lines in proptest::collection::vec(request_line(), 1..10),
    ) {
        output_of_all_splits(Service::default, lines.concat().as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Encoded requests are parsed unchanged, whatever their bytes, and nothing of the next one is consumed.
    #[test]
    fn what_is_encoded_is_parsed(
        requests in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..40), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
        let mut parser = Parser::default();
        let mut rest = &bytes[..];
        for request in &requests {
            let length = encode(request).len();
            let mut partial = None;
            // Half of it first: the parser asks for more than it has, and for no more than the whole.
            let half = cut.index(length);
            if half > 0 {
                match parser.parse(&rest[..half], &mut partial) {
                    Parsed::Incomplete { at_least } => prop_assert!(half < at_least && at_least <= length),
                    other => prop_assert!(false, "half a request is {:?}", other),
                }
            }
            prop_assert_eq!(parser.parse(rest, &mut partial), Parsed::Request { length });
            let arguments = parser.arguments(rest);
            let parsed: Vec<&[u8]> = (0..arguments.count()).map(|index| arguments.get(index)).collect();
            prop_assert_eq!(&parsed, request);
            rest = &rest[length..];
        }
    }
}
