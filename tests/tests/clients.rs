//! Widely used client programs against batond. Programs that are not installed are skipped, with a message.

use std::process::Command;

use baton_tests::program::{Server, is_missing, run_ok};
use baton_tests::skip;

/// The number after `name` in a report.
fn number(report: &str, name: &str) -> Option<u64> {
    let (_, rest) = report.split_once(name)?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[test]
fn curl() {
    if is_missing("curl") {
        return;
    }
    let server = Server::start(&[]);
    let url = |path: &str| format!("http://{}{path}", server.address());
    let curl = |arguments: &[&str], path: &str| {
        run_ok(Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).arg(url(path)))
    };
    assert_eq!(curl(&[], "/plaintext"), "Hello, World!");
    assert_eq!(curl(&[], "/json"), r#"{"message":"Hello, World!"}"#);
    assert_eq!(curl(&["--http1.0"], "/"), "Hello, World!");
    let head = curl(&["-I"], "/");
    assert!(head.contains("Content-Length: 13\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(curl(&["-d", "hello"], "/echo"), "hello");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}"], "/nothing"), "404");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE"], "/"), "405");
    assert_eq!(
        curl(&["-o", "/dev/null", "-w", "%{http_code} %{num_connects}", &url("/"), "-o", "/dev/null"], "/"),
        "200 1200 0"
    );

    let folder = tempfile::tempdir().expect("a folder");
    let (body, back) = (folder.path().join("body"), folder.path().join("back"));
    let bytes: Vec<u8> = (0..900_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&body, &bytes).expect("written");
    let data = format!("@{}", body.display());
    for how in [&["-H", "Expect: 100-continue"][..], &["-H", "Transfer-Encoding: chunked"], &["-H", "Expect:"]] {
        let back = back.to_str().expect("a name");
        curl(&[how, &["--data-binary", &data, "-o", back]].concat(), "/echo");
        assert!(std::fs::read(back).expect("an answer") == bytes, "{how:?}");
    }
    // Without the interim answer curl would wait longer than its time limit.
    let expecting = ["-H", "Expect: 100-continue", "--expect100-timeout", "60", "--data-binary", &data];
    let heads = curl(&[&expecting[..], &["-o", "/dev/null", "-D", "-"]].concat(), "/echo");
    assert!(heads.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{heads}");
    std::fs::write(&body, vec![b'x'; 2_000_000]).expect("written");
    let code = curl(&["--data-binary", &data, "-o", "/dev/null", "-w", "%{http_code}"], "/echo");
    assert_eq!(code, "413", "larger than body_bytes_max");
    server.stop();
}

#[test]
fn curl_over_ipv6() {
    if is_missing("curl") {
        return;
    }
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        skip("no IPv6 on this machine");
        return;
    }
    let server = Server::start(&["--listen", "[::1]:0"]);
    let address = server.addresses.iter().find(|address| address.is_ipv6()).expect("listens there");
    let url = format!("http://{address}/plaintext");
    assert_eq!(run_ok(Command::new("curl").args(["-sS", "-g", "--max-time", "20", &url])), "Hello, World!");
    server.stop();
}

#[test]
fn wrk() {
    if is_missing("wrk") {
        return;
    }
    let server = Server::start(&["--workers", "2"]);
    let url = format!("http://{}/", server.address());
    let report = run_ok(Command::new("wrk").args(["-t1", "-c50", "-d2"]).arg(url));
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
    assert!(report.contains("Requests/sec"), "{report}");
    server.stop();
}

#[test]
fn h2load_with_http_1_1() {
    if is_missing("h2load") {
        return;
    }
    let server = Server::start(&[]);
    let url = format!("http://{}/json", server.address());
    let report = run_ok(Command::new("h2load").args(["--h1", "-n", "5000", "-c", "20"]).arg(url));
    assert!(report.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
    server.stop();
}

#[test]
fn ab_with_and_without_keep_alive() {
    if is_missing("ab") {
        return;
    }
    let server = Server::start(&[]);
    let url = format!("http://{}/plaintext", server.address());
    for keep_alive in [&["-k"][..], &[]] {
        let report = run_ok(Command::new("ab").args(["-q", "-n", "3000", "-c", "20"]).args(keep_alive).arg(&url));
        assert_eq!(number(&report, "Complete requests:"), Some(3000), "{report}");
        assert_eq!(number(&report, "Failed requests:"), Some(0), "{report}");
        assert!(!report.contains("Non-2xx"), "{report}");
        if !keep_alive.is_empty() {
            assert_eq!(number(&report, "Keep-Alive requests:"), Some(3000), "{report}");
        }
    }
    server.stop();
}

#[test]
fn nc_with_a_request_typed_by_hand() {
    if is_missing("nc") || is_missing("sh") {
        return;
    }
    let server = Server::start(&[]);
    let (host, port) = (server.address().ip(), server.address().port());
    let script = format!("printf 'GET /health HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n' | nc -N -w 10 {host} {port}");
    let answer = run_ok(Command::new("sh").args(["-c", &script]));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    server.stop();
}
