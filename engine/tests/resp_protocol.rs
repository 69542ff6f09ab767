//! The example `resp` as a machine: every cut of the input, a naive parser beside its own, time, and the fuzzer's seeds.

#[path = "../fuzz/resp_check.rs"]
mod resp_check;
#[path = "../examples/resp/service/mod.rs"]
mod service;

use std::path::Path;
use std::time::Duration;

use baton::testing::{Client, Harness, output_of_all_splits};
use proptest::prelude::*;

use self::service::Service;
use self::service::parse::{Parsed, Parser};

fn store() -> (Harness<Service>, Client) {
    let mut harness = Harness::new(Service::default());
    let client = harness.open();
    (harness, client)
}

fn ask(harness: &mut Harness<Service>, client: Client, request: &str) -> String {
    harness.send(client, format!("{request}\r\n").as_bytes());
    String::from_utf8_lossy(&harness.take_output(client)).into_owned()
}

fn encode(arguments: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[test]
fn every_cut_of_a_pipeline_gives_the_same_answers() {
    let input = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nab\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\nGET \"no ne\"\r\n*0\r\nINCR n\r\n\
        HELLO 3\r\nGET none\r\n*1\r\n$3\r\nGET\r\nQUIT\r\nPING\r\n";
    let output = String::from_utf8(output_of_all_splits(Service::default, input)).expect("text");
    assert!(output.starts_with("+OK\r\n$2\r\nab\r\n$-1\r\n:1\r\n%7\r\n"), "{output}");
    assert!(output.ends_with("_\r\n-ERR wrong number of arguments for 'get' command\r\n+OK\r\n"), "{output}");
}

#[test]
fn what_has_expired_is_not_seen_and_then_gone() {
    let (mut harness, client) = store();
    assert_eq!(ask(&mut harness, client, "SET k v PX 1500"), "+OK\r\n");
    assert_eq!(ask(&mut harness, client, "SET stays v EX 100"), "+OK\r\n");
    assert_eq!(ask(&mut harness, client, "PTTL k"), ":1500\r\n");
    harness.advance(Duration::from_millis(1499));
    assert_eq!(ask(&mut harness, client, "GET k"), "$1\r\nv\r\n");
    harness.advance(Duration::from_millis(1));
    assert_eq!(ask(&mut harness, client, "GET k"), "$-1\r\n");
    harness.advance(Duration::from_secs(1));
    assert_eq!(ask(&mut harness, client, "DBSIZE"), ":1\r\n");
    assert_eq!(ask(&mut harness, client, "TTL k"), ":-2\r\n");
    assert_eq!(ask(&mut harness, client, "PERSIST stays"), ":1\r\n");
    assert_eq!(ask(&mut harness, client, "TTL stays"), ":-1\r\n");
}

#[test]
fn expiries_out_of_range_are_refused_and_change_nothing() {
    let (mut harness, client) = store();
    ask(&mut harness, client, "SET k v");
    for time in ["0", "-1", "9223372036854775807", "9223372036854775"] {
        let answer = ask(&mut harness, client, &format!("SET k w EX {time}"));
        assert_eq!(answer, "-ERR invalid expire time in 'set' command\r\n", "{time}");
    }
    assert_eq!(ask(&mut harness, client, "EXPIRE k 9223372036854775807").as_bytes()[0], b'-');
    assert_eq!(ask(&mut harness, client, "PEXPIRE k 9223372036854775807").as_bytes()[0], b'-');
    assert_eq!(ask(&mut harness, client, "GET k"), "$1\r\nv\r\n");
    assert_eq!(ask(&mut harness, client, "TTL k"), ":-1\r\n");
    assert_eq!(ask(&mut harness, client, "EXPIRE k -5"), ":1\r\n");
    assert_eq!(ask(&mut harness, client, "GET k"), "$-1\r\n");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Requests as encoded are requests as parsed, whatever their bytes, and nothing of the next one is taken.
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
            // Half of it first: what is asked for is more than there is, and no more than the whole.
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
