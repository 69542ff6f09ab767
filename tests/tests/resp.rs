//! The example `resp` beside a real redis-server, and under Redis's own programs.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use baton_tests::client::{connect, read_to_end};
use baton_tests::program::{Peer, free_port, is_installed, resp, run};
use baton_tests::skip;

fn is_missing(program: &str) -> bool {
    !is_installed(program) && skip(&format!("{program} is not installed"))
}

fn start_resp() -> (Peer, u16) {
    let port = free_port();
    (Peer::start(Command::new(resp()).args(["--listen", &format!("127.0.0.1:{port}")]), port), port)
}

fn start_redis() -> (Peer, u16) {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    (Peer::start(&mut command, port), port)
}

/// Everything the server says to this input until it closes.
fn converse(port: u16, input: &[u8]) -> String {
    let mut stream = connect(([127, 0, 0, 1], port).into());
    stream.write_all(input).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    String::from_utf8_lossy(&read_to_end(&mut stream).unwrap_or_default()).into_owned()
}

/// Requests whose answers depend on nothing but the requests before them.
#[rustfmt::skip]
const REQUESTS: &[&str] = &[
    "PING",
    "PING hello",
    "PING a b",
    "ping",
    "ECHO \"a b\\x41\\n\"",
    "ECHO 'it\\'s'",
    "ECHO",
    "FOO",
    "FOO bar \"b z\"",
    "GET none",
    "SET k v",
    "GET k",
    "SET k",
    "GET",
    "GET k k",
    "SET k w NX",
    "SET new w NX",
    "GET new",
    "SET k w XX",
    "SET none w XX",
    "GET k",
    "SET k x GET",
    "SET none2 x GET",
    "SET k v NX XX",
    "SET k v EX",
    "SET k v EX ten",
    "SET k v EX 0",
    "SET k v EX -1",
    "SET k v EX 9223372036854775807",
    "SET k v PX 9223372036854775807",
    "SET k v EX 10 PX 10",
    "SET k v KEEPTTL EX 10",
    "SET k v WHAT",
    "SET k v EX 100",
    "TTL k",
    "SET k w KEEPTTL",
    "TTL k",
    "SET k v",
    "TTL k",
    "PTTL k",
    "TTL none",
    "PTTL none",
    "EXPIRE k 100",
    "TTL k",
    "EXPIRE k ten",
    "EXPIRE none 10",
    "EXPIRE k 9223372036854775807",
    "EXPIRE k 100 NX",
    "EXPIRE k 50 GT",
    "EXPIRE k 50 LT",
    "TTL k",
    "EXPIRE k 100 XX",
    "EXPIRE k 1 NX XX",
    "EXPIRE k 1 WHAT",
    "PERSIST k",
    "PERSIST k",
    "TTL k",
    "EXPIRE k -1",
    "GET k",
    "EXISTS k new new none",
    "EXISTS",
    "DEL k new none",
    "DEL",
    "INCR n",
    "INCR n",
    "GET n",
    "INCR n n",
    "SET n 9223372036854775807",
    "INCR n",
    "SET n x",
    "INCR n",
    "SET n 012",
    "INCR n",
    "SET n \" 1\"",
    "INCR n",
    "SET n -1",
    "INCR n",
    "INCRBY n 5",
    "DECR n",
    "DECRBY n 10",
    "INCRBY n x",
    "MSET a 1 b 2 c 3",
    "MSET a",
    "MSET a 1 b",
    "MGET a b zz a",
    "MGET",
    "DBSIZE",
    "APPEND a 23",
    "STRLEN a",
    "GETSET a z",
    "GETDEL a",
    "GETDEL a",
    "SETEX e 10 v",
    "SETEX e 0 v",
    "PSETEX e 1000 v",
    "SETNX e w",
    "SETNX f w",
    "TYPE e",
    "TYPE none",
    "DBSIZE x",
    "SELECT 0",
    "SELECT x",
    "CLIENT GETNAME",
    "CLIENT SETNAME me",
    "CLIENT GETNAME",
    "CLIENT SETNAME \"a b\"",
    "CLIENT",
    "CONFIG GET save",
    "CONFIG GET appendonly",
    "CONFIG GET nonexistent",
    "CONFIG GET",
    "CONFIG",
    "HELLO 9",
    "HELLO x",
    "FLUSHALL",
    "DBSIZE",
    "SET \"\" empty",
    "GET \"\"",
    "AUTH x",
    "",
];

#[test]
fn answers_are_those_of_redis() {
    if is_missing("redis-server") {
        return;
    }
    let ((_resp, resp), (_redis, redis)) = (start_resp(), start_redis());
    for protocol in [2, 3] {
        let start: &[u8] = if protocol == 3 { b"HELLO 3\r\n" } else { b"" };
        let both = [resp, redis].map(|port| {
            let mut stream = connect(([127, 0, 0, 1], port).into());
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            stream.write_all(start).expect("sent");
            answer(&mut stream);
            let answers = REQUESTS.iter().map(|request| {
                stream.write_all(format!("{request}\r\n").as_bytes()).expect("sent");
                answer(&mut stream)
            });
            answers.collect::<Vec<_>>()
        });
        let [ours, theirs] = both;
        for ((request, ours), theirs) in REQUESTS.iter().zip(ours).zip(theirs) {
            assert_eq!(ours, theirs, "RESP{protocol}: {request:?}");
        }
    }
}

/// What came for one request: all up to the answer of a marker sent behind it.
fn answer(stream: &mut std::net::TcpStream) -> String {
    const MARKER: &[u8] = b"$8\r\n-marker-\r\n";
    stream.write_all(b"ECHO -marker-\r\n").expect("sent");
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while !bytes.ends_with(MARKER) {
        match stream.read(&mut buffer).expect("an answer") {
            0 => panic!("it ended after {}", String::from_utf8_lossy(&bytes)),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    bytes.truncate(bytes.len() - MARKER.len());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn broken_requests_are_refused_as_by_redis() {
    if is_missing("redis-server") {
        return;
    }
    let ((_resp, resp), (_redis, redis)) = (start_resp(), start_redis());
    for input in [
        "*x\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$999999999999\r\n",
        "*0\r\nPING\r\n",
        "*-5\r\nPING\r\n",
        "\r\n\r\nPING\r\n",
        "ECHO \"open\r\n",
        "ECHO \"a\"b\r\n",
        "QUIT\r\nPING\r\n",
        "*1\r\n$4\r\nQUIT\r\n",
        "PING\nPING\n",
        "*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
        "*1\r\n$4\r\nPI",
    ] {
        assert_eq!(converse(resp, input.as_bytes()), converse(redis, input.as_bytes()), "{input:?}");
    }
}

#[test]
fn what_differs_by_nature_has_the_shape_that_clients_read() {
    let (_resp, port) = start_resp();
    let hello = converse(port, b"HELLO 3\r\n");
    for field in ["server", "version", "proto", "id", "mode", "role", "modules"] {
        assert!(hello.contains(&format!("\r\n{field}\r\n")), "{hello}");
    }
    let info = converse(port, b"INFO\r\n");
    for field in ["# Server", "redis_version:", "connected_clients:1", "# Keyspace"] {
        assert!(info.contains(field), "{info}");
    }
    let count = converse(port, b"COMMAND COUNT\r\n");
    let listed = converse(port, b"COMMAND\r\n");
    assert_eq!(listed.lines().next().map(|line| &line[1..]), Some(count.trim_end().trim_start_matches(':')));
}

#[test]
fn redis_cli() {
    if is_missing("redis-cli") {
        return;
    }
    let (_resp, port) = start_resp();
    let port = port.to_string();
    let cli = |arguments: &[&str]| {
        let output = run(Command::new("redis-cli").args(["-p", &port]).args(arguments));
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    assert_eq!(cli(&["ping"]), "PONG");
    assert_eq!(cli(&["set", "k", "a b", "ex", "100"]), "OK");
    assert_eq!(cli(&["get", "k"]), "a b");
    assert_eq!(cli(&["-3", "get", "none"]), "");
    assert!(cli(&["-3", "hello"]).contains("proto"));
    assert!(cli(&["info", "server"]).contains("redis_version"));
    // Mass insertion reads from standard input and says how many errors there were.
    let mut child = Command::new("redis-cli")
        .args(["-p", &port, "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let input: String = (0..10_000).map(|index| format!("SET key:{index} {index}\r\n")).collect();
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("sent");
    let output = child.wait_with_output().expect("it ends");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(report.contains("errors: 0, replies: 10000"), "{report}");
    assert_eq!(cli(&["dbsize"]), "10001");
}

#[test]
fn redis_benchmark() {
    if is_missing("redis-benchmark") {
        return;
    }
    let (_resp, port) = start_resp();
    for depth in ["1", "16"] {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &port.to_string(), "-q", "-n", "20000", "-c", "20", "-P", depth]);
        let output = run(command.args(["-t", "ping,set,get,incr,mset"]));
        let report = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && !report.contains("rror") && !report.contains("WARN"), "{report}");
        assert_eq!(report.matches("requests per second").count(), 6, "{report}");
    }
}
