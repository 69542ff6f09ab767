//! `baton-bench compare` with servers of a few lines: which are paired, which are skipped, and which are refused.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{self, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// The port of the server of [`stub_server`], and the file to which it writes its pid.
const PORT: &str = "BATON_BENCH_STUB_PORT";
const PID_FILE: &str = "BATON_BENCH_STUB_PID_FILE";

/// With the first two it serves with TLS; with the third, clients cannot resume sessions.
const CERTIFICATE: &str = "BATON_BENCH_STUB_CERTIFICATE";
const KEY: &str = "BATON_BENCH_STUB_KEY";
const NO_TICKETS: &str = "BATON_BENCH_STUB_NO_TICKETS";

/// No stub lives longer, even if the process that started it has ended.
const STUB_LIFETIME: Duration = Duration::from_secs(120);

/// Not a test: the server under test, which `compare` starts as a separate process.
#[test]
#[ignore = "the server that the other tests start"]
fn stub_server() {
    let Some(port) = std::env::var(PORT).ok().and_then(|port| port.parse::<u16>().ok()) else { return };
    if let Some(path) = std::env::var_os(PID_FILE) {
        std::fs::write(path, process::id().to_string()).expect("written");
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    thread::spawn(|| {
        thread::sleep(STUB_LIFETIME);
        process::exit(1);
    });
    let tls = tls();
    for stream in listener.incoming().flatten() {
        let tls = tls.clone();
        thread::spawn(move || match tls {
            None => serve(stream),
            Some(tls) => serve(StreamOwned::new(ServerConnection::new(tls).expect("a session"), stream)),
        });
    }
}

fn tls() -> Option<Arc<ServerConfig>> {
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let (certificate, key) = (path(CERTIFICATE)?, path(KEY)?);
    let config = ServerConfig::builder_with_provider(default_provider().into());
    let config = config.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let certificates = CertificateDer::pem_file_iter(certificate).expect("a file").collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let mut config = config.with_single_cert(certificates.expect("certificates"), key).expect("an identity");
    config.ticketer = Ticketer::new().expect("a ticketer");
    if std::env::var_os(NO_TICKETS).is_some() {
        config.send_tls13_tickets = 0;
    }
    Some(Arc::new(config))
}

fn serve(stream: impl Read + Write) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut path = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        if line == "\r\n" {
            let body = if path.starts_with("/plaintext") { "Hello, World!" } else { "what?" };
            let head = "HTTP/1.1 200 OK\r\nServer: stub\r\nContent-Type: text/plain\r\nContent-Length:";
            let answer = format!("{head} {}\r\n\r\n{body}", body.len());
            if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
            path.clear();
        }
        line.clear();
    }
}

/// A server's argument for the command line.
fn stub(name: &str) -> String {
    let program = std::env::current_exe().expect("this program");
    format!("{name}=env {PORT}={{port}} '{}' --exact stub_server --ignored --nocapture", program.display())
}

fn command(arguments: &[&str]) -> Command {
    // One core is enough, and any will do.
    let core = core_affinity::get_core_ids().expect("cores")[0].id.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton-bench"));
    command.args(["compare", "--server-core", &core, "--load-core", &core, "--warm-up", "0.05", "--seconds", "0.1"]);
    command.args(arguments);
    command
}

fn compare(arguments: &[&str]) -> Output {
    command(arguments).output().expect("it runs")
}

#[test]
fn windows_are_paired_and_what_cannot_be_done_is_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("r.json");
    let (one, other) = (stub("one"), stub("other"));
    let servers = ["--server", one.as_str(), "--server", other.as_str(), "--json", json.to_str().expect("a path")];
    let workloads = ["--workload", "differ:2", "--workload", "http:2:4", "--workload", "arena:baseline:2"];
    let output = compare(&[&servers[..], &workloads, &["--blocks", "2", "--windows", "3"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&std::fs::read(json).expect("a file")).expect("JSON");
    let tables = result["tables"].as_array().expect("tables");
    assert_eq!(tables[0]["title"], "HTTP, requests of browsers, 2 connections");
    assert_eq!(tables[1]["title"], "HTTP, 2 connections, pipelined 4 (all requests equal)");
    assert_eq!(tables.len(), 2);
    for table in tables {
        let rows = table["rows"].as_array().expect("rows");
        assert_eq!([&rows[0]["name"], &rows[1]["name"]], ["one", "other"]);
        assert_eq!(rows[0]["to_first"]["median"], 1.0);
        let [low, median, high] = ["/interval/low", "/median", "/interval/high"]
            .map(|name| rows[1]["to_first"].pointer(name).and_then(Value::as_f64).expect(name));
        assert!(0.0 < low && low <= median && median <= high, "{low} {median} {high}");
        for row in rows {
            assert_eq!(row["note"], "answers lack date");
            let samples = row["samples"].as_array().expect("samples");
            let places: Vec<_> =
                samples.iter().map(|sample| (sample["block"].as_u64(), sample["window"].as_u64())).collect();
            let all = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
            assert_eq!(places, all.map(|(block, window)| (Some(block), Some(window))));
            assert!(samples.iter().all(|sample| sample["problem"].is_null()), "{samples:?}");
            assert!(samples.iter().all(|sample| sample["per_cpu_second"].as_f64() > Some(0.0)), "{samples:?}");
        }
    }
    let skipped = result["skipped"].as_array().expect("a list");
    let whys: Vec<&str> = skipped.iter().filter_map(Value::as_str).collect();
    assert_eq!(whys.len(), 2, "{whys:?}");
    assert!(whys[0].starts_with("one, arena:baseline:2: GET /baseline11"), "{whys:?}");
}

#[test]
fn servers_are_compared_within_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("r.json");
    let secure = |name: &str, more: &str| {
        stub(name).replace("=env ", &format!("=env {CERTIFICATE}={{cert}} {KEY}={{key}} {more} "))
    };
    let (one, other, plain) = (secure("one", ""), secure("other", &format!("{NO_TICKETS}=1")), stub("plain"));
    let servers = ["--server", &one, "--server", &other, "--server", &plain];
    let workloads = ["--workload", "tls:differ:2:4", "--workload", "tls-rsa:handshake:2", "--workload", "tls:resume:1"];
    let more = ["--blocks", "1", "--windows", "1", "--json", json.to_str().expect("a path")];
    let output = compare(&[&servers[..], &workloads, &more].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&std::fs::read(json).expect("a file")).expect("JSON");
    let tables = result["tables"].as_array().expect("tables");
    let titles: Vec<&str> = tables.iter().filter_map(|table| table["title"].as_str()).collect();
    assert_eq!(
        titles,
        [
            "TLS (ECDSA P-256), HTTP, requests of browsers, 2 connections, pipelined 4",
            "TLS (RSA 2048), full handshakes with a request each, 2 at a time",
            "TLS (ECDSA P-256), resumed handshakes with a request each, 1 at a time",
        ]
    );
    for (table, problems) in tables.iter().zip([[false, false], [false, false], [false, true]]) {
        let rows = table["rows"].as_array().expect("rows");
        assert_eq!([&rows[0]["name"], &rows[1]["name"]], ["one", "other"]);
        for (row, is_bad) in rows.iter().zip(problems) {
            let problem = row["samples"][0]["problem"].as_str();
            assert_eq!(problem.is_some_and(|problem| problem.contains("were resumed")), is_bad, "{row}");
            assert!(is_bad || problem.is_none(), "{row}");
        }
    }
    let skipped = result["skipped"].as_array().expect("a list");
    let whys: Vec<&str> = skipped.iter().filter_map(Value::as_str).collect();
    assert!(
        whys.len() == 3 && whys.iter().all(|why| why.starts_with("plain, tls") && why.contains("{cert}")),
        "{whys:?}"
    );
}

/// Waits until `look` returns something.
fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn servers_end_with_a_comparison_that_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let pid_file = folder.path().join("pid");
    let server = stub("one").replace("=env ", &format!("=env {PID_FILE}='{}' ", pid_file.display()));
    let arguments = ["--server", &server, "--workload", "http:1", "--blocks", "1", "--windows", "1000"];
    let mut running = command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let pid: u32 = wait_for("the server", || std::fs::read_to_string(&pid_file).ok()?.parse().ok());
    running.kill().expect("killed");
    running.wait().expect("ended");
    wait_for("the server's end", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Perhaps no process is there to reap it.
        let state = stat.rsplit_once(") ").map_or("Z", |(_, rest)| &rest[..1]);
        (state == "Z").then_some(())
    });
}

#[test]
fn wrong_usage_is_told_with_what_is_possible() {
    for (arguments, parts) in [
        (&["--workload", "ftp:1"][..], &["differ:CONNECTIONS[:DEPTH]", "arena:PROFILE"][..]),
        (&["--workload", "differ"], &["a number is missing"]),
        (&["--workload", "differ:0"], &["between 1 and 100000"]),
        (&["--workload", "differ:1:1:1"], &["differ:CONNECTIONS[:DEPTH]"]),
        (&["--workload", "arena:x"], &["limited-conn", "echo-ws"]),
        (&["--workload", "upload:1"], &["a number is missing"]),
        (&["--workload", "handshake:1"], &["tls:handshake:1"]),
        (&["--workload", "tls:echo:1:1"], &["tls-rsa:FORM"]),
        (&["--workload", "ws:1:99999999"], &["between 1 and 1048576"]),
        (&["--group", "all"], &["quick", "full", "arena"]),
        (&["--blocks", "0"], &["--blocks"]),
        (&["--windows", "0"], &["--windows"]),
        (&["--data", "/nowhere"], &["--data /nowhere"]),
        (&["--server", "x"], &["NAME=COMMAND"]),
    ] {
        let output = compare(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{arguments:?}: {told}");
    }
}

#[test]
fn what_is_known_is_listed() {
    let output = compare(&["--list"]);
    let text = String::from_utf8_lossy(&output.stdout);
    for name in [
        "baton",
        "bare-epoll",
        "actix_web",
        "differ:64:16",
        "upload:16:2000000",
        "static:64",
        "arena:echo-ws",
        "tls:resume:64",
    ] {
        assert!(text.lines().any(|line| line.split_whitespace().any(|word| word == name)), "{name}: {text}");
    }
}
