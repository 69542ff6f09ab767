//! The example `resp` beside a real redis-server: the same bytes in, the same bytes out; and under Redis's own clients,
//! in [`clients`]. If these are not installed, the test prints that and does nothing.

#[path = "resp_redis/clients.rs"]
mod clients;
mod common;
#[path = "resp_redis/process.rs"]
mod process;
mod resp_encode;
#[path = "resp_redis/server.rs"]
mod server;

use std::io::{Read, Write};
use std::net::TcpStream;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use self::process::is_missing;
use self::resp_encode::encode;
use self::server::Server;

fn encode_words(line: &str) -> Vec<u8> {
    encode(&line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
}

/// The answer to one request: all bytes up to the answer to a marker that follows it.
fn ask(stream: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    const MARKER: &[u8] = b"$8\r\n-marker-\r\n";
    stream.write_all(&[request, b"ECHO -marker-\r\n"].concat()).expect("sent");
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while !answer.ends_with(MARKER) {
        match stream.read(&mut buffer).expect("an answer in time") {
            0 => panic!("it ended on {} after {}", request.escape_ascii(), answer.escape_ascii()),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    answer.truncate(answer.len() - MARKER.len());
    answer
}

/// Sends the same requests to both, one after the other, in both versions of the protocol.
fn assert_same_answers(servers: &[Server; 2], requests: &[Vec<u8>]) {
    for version in ["2", "3"] {
        let mut streams = servers.each_ref().map(Server::connect);
        for stream in &mut streams {
            ask(stream, format!("HELLO {version}\r\nFLUSHALL\r\n").as_bytes());
        }
        for request in requests {
            let [ours, theirs] = streams.each_mut().map(|stream| ask(stream, request));
            assert!(
                ours == theirs || is_same_time(request, &ours, &theirs),
                "RESP{version}, {}\n ours {}\nredis {}",
                short(request),
                short(&ours),
                short(&theirs)
            );
        }
    }
}

/// Whether these are answers to TTL that differ by no more than a busy machine's delays.
fn is_same_time(request: &[u8], ours: &[u8], theirs: &[u8]) -> bool {
    let seconds =
        |answer: &[u8]| -> Option<u64> { std::str::from_utf8(answer).ok()?.trim().strip_prefix(':')?.parse().ok() };
    let is_asked = request.to_ascii_uppercase().starts_with(b"*2\r\n$3\r\nTTL\r\n");
    is_asked && matches!((seconds(ours), seconds(theirs)), (Some(ours), Some(theirs)) if ours.abs_diff(theirs) < 30)
}

fn short(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(500)].escape_ascii().to_string()
}

fn both() -> Option<[Server; 2]> {
    (!is_missing("redis-server")).then(|| [Server::example(0), Server::redis(0)])
}

/// Words are separated by single spaces. Times are so far away that the answers do not depend on the clock.
const REQUESTS: &str = include_str!("resp_redis/requests.txt");

#[test]
fn answers_are_those_of_redis() {
    let Some(servers) = both() else { return };
    let lines = REQUESTS.lines().filter(|line| !line.starts_with('#'));
    let mut requests: Vec<_> = lines.map(encode_words).collect();
    assert!(requests.len() > 150);
    let word = |text: &str| text.as_bytes().to_vec();
    // No zero bytes in names: whether Redis confuses such a name with the shorter one depends on its random hash.
    for binary in [
        vec![word(""), word("a")],
        vec![word("SET"), word(""), word("")],
        vec![word("GET"), word("")],
        vec![word("SET"), word("a\0b"), word("c\r\nd")],
        vec![word("MGET"), word("a"), word("a\0b"), word("a\0b")],
        vec![word("ECHO"), (0..=255).collect()],
        vec![word("PING"), vec![0xff; 70_000]],
        vec![word("SET"), vec![b'k'; 70_000], vec![b'v'; 3 << 20]],
        vec![word("GET"), vec![b'k'; 70_000]],
        vec![word("APPEND"), vec![b'k'; 70_000], vec![b'w'; 1 << 20]],
        vec![word("GETDEL"), vec![b'k'; 70_000]],
        vec![word("FOO\r\nBAR"), word("x\r\ny"), word("\0hidden"), word("shown")],
        vec![vec![b'x'; 300], vec![b'y'; 100], vec![b'z'; 100]],
        [vec![word("NO")], vec![vec![b'y'; 30]; 20]].concat(),
        vec![word("CLIENT"), vec![b'x'; 300]],
        vec![word("CLIENT"), word("SETNAME"), word("a b")],
        vec![word("CLIENT"), word("SETNAME"), word("é")],
        vec![word("CLIENT"), word("SETNAME"), word("")],
        vec![word("CLIENT"), word("GETNAME")],
        vec![word("HELLO"), word("3"), word("SETNAME"), word("a\nb")],
        vec![word("EXPIRE"), word("a"), word("1"), vec![b'x'; 300]],
    ] {
        requests.push(encode(&binary));
    }
    let mut wide = vec![word("MSET")];
    (0..5000).for_each(|index| wide.extend([format!("key:{index}").into_bytes(), vec![b'v'; index % 200]]));
    requests.push(encode(&wide));
    wide[0] = word("MGET");
    requests.push(encode(&wide));
    wide[0] = word("DEL");
    requests.push(encode(&wide));
    requests.push(encode_words("DBSIZE"));
    assert_same_answers(&servers, &requests);
}

/// Spellings of numbers, and other texts. As times they are minutes or centuries away, past, or refused.
const NUMBERS: &str = "0|-1|200000|150000|x||1.5|+5|05|99999999999999999999|9223372036854775|\
    9223372036854775807|-9223372036854775808";

/// Random requests of commands, keys, values and options that conflict with each other.
#[test]
fn answers_to_random_requests_are_those_of_redis() {
    let Some(servers) = both() else { return };
    let pick = |from: &'static str| proptest::sample::select(from.split('|').map(str::to_owned).collect::<Vec<_>>());
    let (key, number) = (|| pick("a|b|c||k\0"), || pick(NUMBERS));
    let value = || {
        prop_oneof![
            pick("|1|-1|0|x| 1|01|\r\n|9223372036854775807|-9223372036854775808"),
            Just("w".repeat(40_000)),
            Just("v".repeat(16))
        ]
    };
    // No GT: whether the same time from now on is later depends on the clock. EXAT and PXAT in the far future are years
    // away, and with small numbers in the past.
    let option = || {
        let timed = (pick("EX|PX|EXAT|PXAT|ex"), prop_oneof![number(), pick("4000000000|4000000000000")]);
        let timed = timed.prop_map(|(name, time)| vec![name, time]);
        let bare = pick("NX|XX|GET|KEEPTTL|nx|LT|foo|EX|PXAT").prop_map(|name| vec![name]);
        prop_oneof![2 => timed, 3 => bare]
    };
    let options = || proptest::collection::vec(option(), 0..4).prop_map(|options| options.concat());
    let named = |names: &'static str, rest: BoxedStrategy<Vec<String>>| {
        (pick(names), rest).prop_map(|(name, rest)| [vec![name], rest].concat()).boxed()
    };
    let request = prop_oneof![
        named("GET|get|INCR|DECR|TTL|STRLEN|GETDEL|PERSIST|TYPE", key().prop_map(|key| vec![key]).boxed()),
        named(
            "SET",
            (key(), value(), options()).prop_map(|(key, value, rest)| [vec![key, value], rest].concat()).boxed()
        ),
        named("MGET|DEL|EXISTS|UNLINK", proptest::collection::vec(key(), 0..5).boxed()),
        named("MSET", proptest::collection::vec(prop_oneof![key(), value()], 0..7).boxed()),
        named("INCRBY|DECRBY", (key(), number()).prop_map(|(key, number)| vec![key, number]).boxed()),
        named(
            "EXPIRE|PEXPIRE",
            (key(), number(), options()).prop_map(|(key, time, rest)| [vec![key, time], rest].concat()).boxed()
        ),
        named("SETEX|PSETEX", (key(), number(), value()).prop_map(|(key, time, value)| vec![key, time, value]).boxed()),
        named("SETNX|GETSET|APPEND", (key(), value()).prop_map(|(key, value)| vec![key, value]).boxed()),
        named("PING|ECHO|FLUSHALL|DBSIZE|SELECT", proptest::collection::vec(number(), 0..3).boxed()),
    ];
    // The same requests in every run.
    let mut runner = TestRunner::deterministic();
    let mut made = || {
        let words = request.new_tree(&mut runner).expect("a request").current();
        encode(&words.into_iter().map(String::into_bytes).collect::<Vec<_>>())
    };
    // DBSIZE counts an entry that has expired when it is set, until a sweep at an unknown time.
    let requests: Vec<_> =
        std::iter::repeat_with(&mut made).filter(|one| !one.starts_with(b"*1\r\n$6\r\nDBSIZE")).take(3000).collect();
    assert_same_answers(&servers, &requests);
}

#[test]
fn bytes_that_are_no_requests_are_answered_as_by_redis() {
    let Some([ours, theirs]) = both() else { return };
    let ping = b"PING\r\n";
    let long = |start: &str, filler: u8| [start.as_bytes(), &vec![filler; 70_000]].concat();
    let mut inputs: Vec<Vec<u8>> = vec![long("", b'x'), long("*", b'1'), long("*1\r\n$", b'1'), long("*1\r\n", b'x')];
    #[rustfmt::skip]
    let texts = [
        "*x\r\n",
        "*\r\n",
        "*+1\r\n",
        "*01\r\n",
        "*1 \r\n",
        "* 1\r\n",
        "*-0\r\n",
        "*0\r\n",
        "*-5\r\n",
        "*2147483648\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$+4\r\nPING\r\n",
        "*1\r\n$04\r\nPING\r\n",
        "*1\r\n$4 \r\nPING\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$67108865\r\n",
        "*1\r\n$67108864\r\n",
        "*1\r\n:1\r\n",
        "*1\r\nPING\r\n",
        "*1\r\n\r\n",
        "*20\r\n\r\n$4\r\n",
        "*1\r\n$4\nPING\r\n",
        "*1\n$4\r\nPING\r\n",
        "*1\rX$4\rXPINGXX",
        "*1\r\n$4\r\nPINGab",
        "*1\r\n$4\r\nPI",
        "*1\r\n$0\r\n\r\n",
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhel",
        "*1\r",
        "$4\r\nPING\r\n",
        "+OK\r\n",
        ":1\r\n",
        "\n",
        "\r\n\r\n",
        "\r",
        "   \r\n",
        "\tPING\t\r\n",
        "\x0bPING\x0c\r\n",
        "\x0b\x0cPING\r\n",
        "PING\r\r\n",
        "PING\n",
        "PING",
        "PI\"NG\"\r\n",
        "\"PING\"\r\n",
        "'PING'\r\n",
        "\"\"\r\n",
        "ECHO \"\\x41\\x4g\\n\\\"\\\\\"\r\n",
        "ECHO '\\n\\''\r\n",
        "ECHO \"a\\\r\n",
        "ECHO \"\"\r\n",
        "ECHO ''\r\n",
        "ECHO \"a\" \"b\"\r\n",
        "ECHO \"a\"b\r\n",
        "ECHO 'a'\x0b\r\n",
        "ECHO \"open\r\n",
        "ECHO 'open\r\n",
        "QUIT\r\n",
        "QUIT now please\r\n",
        "*1\r\n$4\r\nquit\r\n",
        "POST / HTTP/1.1\r\n",
        "Host: a\r\n",
        "*1\r\n$5\r\nhost:\r\n",
    ];
    for text in texts {
        inputs.push(text.as_bytes().to_vec());
    }
    for input in inputs {
        for input in [input.clone(), [&input[..], ping].concat()] {
            // The longest line that Redis accepts depends on how the line arrives.
            if input.len() > 70_000 && input.ends_with(ping) {
                continue;
            }
            let (our_answer, their_answer) = (ours.converse(&input), theirs.converse(&input));
            assert!(
                our_answer == their_answer,
                "{}\n ours {}\nredis {}",
                short(&input),
                short(&our_answer),
                short(&their_answer)
            );
        }
    }
}

/// The form of an answer without its values: its types, its lengths if they count answers, its field names.
fn shape(answer: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let lines = text.split("\r\n").filter(|line| !line.starts_with('$'));
    lines
        .map(|line| match line.as_bytes().first() {
            Some(b':') => ":".into(),
            Some(b'=') => "=".into(),
            Some(b'0'..=b'9') => "a number".into(),
            _ => line.into(),
        })
        .collect()
}

#[test]
fn where_memory_is_used_up_the_same_commands_are_refused() {
    if is_missing("redis-server") {
        return;
    }
    let servers = [Server::example(1), Server::redis(1)];
    let mut streams = servers.each_ref().map(Server::connect);
    // The first value fits into the example's limit, which only counts what is stored.
    ask(&mut streams[0], b"SET k v\r\n");
    let numbers = ["SETEX n 10 v", "PSETEX n 10 v", "INCRBY n 1", "DECRBY n 1", "INCR n", "DECR n", "INCR n n"];
    let strings = ["SET n v", "SET n", "SETNX n v", "GETSET n v", "APPEND n v", "MSET n v m v", "MSET n", "STRLEN n"];
    let others = ["GET n", "MGET n m", "GETDEL n", "DEL n", "EXISTS n", "EXPIRE n 1", "PERSIST n", "TTL n", "ECHO v"];
    for request in [&numbers[..], &strings, &others].concat() {
        let [ours, theirs] = streams.each_mut().map(|stream| ask(stream, &encode_words(request)));
        assert_eq!(short(&ours), short(&theirs), "{request}");
    }
}

#[test]
fn what_differs_by_nature_has_the_same_shape() {
    let Some(servers) = both() else { return };
    for version in ["2", "3"] {
        let mut streams = servers.each_ref().map(Server::connect);
        let mut both = |request: &str| streams.each_mut().map(|stream| ask(stream, &encode_words(request)));
        let [ours, theirs] = both(&format!("HELLO {version} SETNAME me"));
        assert_eq!(shape(&ours), shape(&theirs));
        for request in ["CLIENT ID", "TIME", "COMMAND COUNT", "HELLO"] {
            let [ours, theirs] = both(request);
            assert_eq!(shape(&ours), shape(&theirs), "{request}");
        }
        for request in [
            "INFO",
            "INFO server",
            "info ALL",
            "CLIENT INFO",
            "CLIENT LIST",
            "COMMAND",
            "COMMAND INFO get",
            "COMMAND LIST",
        ] {
            let [ours, theirs] = both(request);
            assert_eq!(ours[0], theirs[0], "{request}");
        }
        // Redis also has every line of INFO, except one, and every field of CLIENT INFO.
        let [ours, theirs] = both("INFO").map(|text| String::from_utf8(text).expect("text"));
        let names = |text: &str| -> Vec<String> {
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            fields.map(|(name, _)| name.to_owned()).filter(|name| !name.starts_with('=')).collect()
        };
        let known = names(&theirs);
        for name in names(&ours).iter().filter(|name| *name != "baton_example") {
            assert!(known.contains(name), "INFO has {name}");
        }
        let [ours, theirs] = both("CLIENT INFO").map(|text| String::from_utf8(text).expect("text"));
        let line = ours.trim().lines().last().expect("a line");
        for (name, _) in line.split(' ').filter_map(|field| field.split_once('=')) {
            assert!(theirs.contains(&format!("{name}=")), "CLIENT INFO has {name}");
        }
        assert!(ours.contains("name=me ") && theirs.contains("name=me "));
        // The parts of COMMAND that a client library reads: name, arity, and the positions of keys.
        for name in [
            "get", "set", "mset", "mget", "del", "exists", "expire", "ping", "hello", "info", "config", "client",
            "quit",
        ] {
            let described = both(&format!("COMMAND INFO {name}")).map(|answer| {
                let text = String::from_utf8(answer).expect("text");
                let lines: Vec<_> = text.split("\r\n").map(str::to_owned).collect();
                let numbers: Vec<_> =
                    lines.iter().skip(4).filter(|line| line.starts_with(':')).take(4).cloned().collect();
                (lines[1].clone(), lines[3].clone(), numbers)
            });
            assert_eq!(described[0], described[1], "{name}");
        }
    }
}
