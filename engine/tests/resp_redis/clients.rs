//! Redis's own clients, unmodified, against the example.

use super::encode;
use super::process::is_missing;
use super::server::{Server, run};

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

#[test]
fn redis_cli_runs_unmodified() {
    if is_missing("redis-cli") {
        return;
    }
    let server = Server::example(0);
    let cli = |arguments: &[&str], input: &[u8]| {
        let output = run("redis-cli", &server, arguments, input);
        assert_eq!(text_of(&output.stderr), "", "{arguments:?}");
        text_of(&output.stdout)
    };
    assert_eq!(cli(&["ping"], b""), "PONG");
    assert_eq!(cli(&["-3", "ping"], b""), "PONG");
    let hello = cli(&["-3", "hello"], b"");
    for field in ["server redis", "proto 3", "mode standalone", "role master", "modules"] {
        assert!(hello.contains(field), "{hello}");
    }
    assert_eq!(cli(&["set", "k", "a b\r\nc", "ex", "100"], b""), "OK");
    assert_eq!(cli(&["get", "k"], b""), "a b\r\nc");
    assert_eq!(cli(&["-x", "set", "binary"], &[0, 1, 2, 13, 10, 255]), "OK");
    assert_eq!(cli(&["strlen", "binary"], b""), "6");
    assert_eq!(cli(&["--no-raw", "get", "none"], b""), "(nil)");
    assert_eq!(cli(&["-e", "get", "k"], b""), "a b\r\nc");
    // Requests on standard input, as in a session.
    assert_eq!(cli(&[], b"set a 1\nincr a\nget a\n"), "OK\n2\n2");
    assert!(cli(&["info", "server"], b"").contains("redis_version:"));
    assert_eq!(cli(&["flushall"], b""), "OK");
    // Mass insertion: encoded requests with any bytes, and requests as text.
    let encoded: Vec<u8> = (0..20_000u32)
        .flat_map(|index| {
            encode(&[b"SET".to_vec(), format!("key:{index}").into_bytes(), index.to_le_bytes().repeat(8)])
        })
        .collect();
    assert!(cli(&["--pipe"], &encoded).ends_with("errors: 0, replies: 20000"));
    let text: String = (0..5000).map(|index| format!("INCRBY counter {index}\r\n")).collect();
    assert!(cli(&["--pipe"], text.as_bytes()).ends_with("errors: 0, replies: 5000"));
    assert_eq!(cli(&["dbsize"], b""), "20001");
    assert_eq!(cli(&["get", "counter"], b""), "12497500");
}

#[test]
fn a_store_that_is_full_takes_no_more_until_something_goes() {
    const MAXMEMORY: u64 = 1 << 20;
    if is_missing("redis-cli") {
        return;
    }
    let server = Server::example(MAXMEMORY);
    let cli = |line: &str, input: &[u8]| {
        text_of(&run("redis-cli", &server, &line.split(' ').collect::<Vec<_>>(), input).stdout)
    };
    let full = "OOM command not allowed when used memory > 'maxmemory'.";
    let value = [b'v'; 64 << 10];
    let stored = (0..100).take_while(|index| cli(&format!("-x set key:{index}"), &value) == "OK").count();
    assert_eq!(stored, 16, "the one that passes the bound is taken");
    assert_eq!(cli("-x set another", &value), full);
    for line in ["incr n", "append key:1 more", "mset a 1 b 2", "setex a 10 1"] {
        assert_eq!(cli(line, b""), full, "{line}");
    }
    assert_eq!((cli("strlen key:3", b"").as_str(), cli("dbsize", b"").as_str()), ("65536", "16"));
    assert_eq!(cli("config get maxmemory", b""), "maxmemory\n1048576");
    let info = cli("info memory", b"");
    let used = info.lines().find_map(|line| line.trim().strip_prefix("used_memory:")?.parse::<u64>().ok());
    assert!(used.is_some_and(|used| (MAXMEMORY..MAXMEMORY + (80 << 10)).contains(&used)), "{info}");
    assert_eq!(cli("del key:0 key:1", b""), "2");
    assert_eq!((cli("-x set another", &value).as_str(), cli("incr n", b"").as_str()), ("OK", "1"));
}

#[test]
fn redis_benchmark_runs_unmodified() {
    if is_missing("redis-benchmark") {
        return;
    }
    let server = Server::example(0);
    let tests = ["-t", "ping,set,get,incr,mset", "-n", "20000", "-q"];
    for more in [&[][..], &["-P", "16"], &["-P", "16", "-r", "1000", "-d", "5000", "-3"]] {
        let output = run("redis-benchmark", &server, &[&tests[..], more].concat(), b"");
        let report = text_of(&[output.stdout, output.stderr].concat());
        let is_complaint =
            |line: &&str| ["error", "warn", "fail"].iter().any(|word| line.to_lowercase().contains(word));
        assert_eq!(report.split(['\r', '\n']).find(is_complaint), None, "{more:?}: {report}");
        // PING in both forms, then the other four.
        assert_eq!(report.matches("requests per second").count(), 6, "{more:?}: {report}");
    }
}
