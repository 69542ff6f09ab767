//! `baton-bench run` against faulty servers: every failure is detected, and reported by its name.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;

use crate::common::{ANSWER, kinds, read_request, result, serve_socket, serve_well};

mod common;

/// Serves every connection on a separate thread; `serve` gets the number of the connection.
fn server(serve: fn(TcpStream, usize)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for (index, stream) in listener.incoming().flatten().enumerate() {
            thread::spawn(move || serve(stream, index));
        }
    });
    address
}

fn bench(target: SocketAddr, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_baton-bench"))
        .args(["run", &target.to_string(), "--connections", "4", "--duration", "0.5", "--warm-up", "0"])
        .args(["--threads", "1", "--json", "-"])
        .args(more)
        .output()
        .expect("it runs")
}

#[test]
fn a_good_server_has_no_failures() {
    let ramp = &["--ramp", "0.2"][..];
    let all = [&[][..], &["--depth", "8"], &["--requests-per-connection", "3"], &["--rate", "200"], &["--idle"], ramp];
    for more in all {
        let output = bench(server(serve_well), more);
        let result = result(&output);
        assert!(output.status.success(), "{more:?}: {result}");
        assert_eq!(kinds(&result), [""; 0], "{more:?}");
        let requests = result["requests"].as_u64().expect("a count");
        match more.first() {
            Some(&"--idle") => assert_eq!(requests, 4),
            // Never more requests than were due: one at the start, and one more for each thread's rounding.
            Some(&"--rate") => assert!(requests as f64 <= 200.0 * result["seconds"].as_f64().expect("a time") + 2.0),
            _ => assert!(requests > 0),
        }
        let latency = &result["latency_us"]["corrected"];
        assert!(latency["p50"].as_f64() <= latency["max"].as_f64() && latency["max"].as_f64() > Some(0.0));
    }
}

#[test]
fn what_goes_wrong_has_a_name() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let cases: [(&str, SocketAddr); 6] = [
        ("refused", nobody),
        ("empty", server(|mut stream, _| _ = read_request(&mut stream))),
        (
            "short",
            server(|mut stream, _| {
                read_request(&mut stream);
                let _ = stream.write_all(&ANSWER[..ANSWER.len() - 1]);
            }),
        ),
        (
            "wrong",
            server(|mut stream, _| {
                while read_request(&mut stream) && stream.write_all(ANSWER).is_ok() {
                    read_request(&mut stream);
                    let _ = stream.write_all(&ANSWER.to_ascii_uppercase());
                }
            }),
        ),
        (
            "reset",
            server(|stream, _| drop(socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)))),
        ),
        (
            "timed_out",
            server(|mut stream, _| {
                read_request(&mut stream);
                let _ = stream.read(&mut [0]);
            }),
        ),
    ];
    for (kind, target) in cases {
        let output = bench(target, &["--timeout", "0.2"]);
        let result = result(&output);
        assert_eq!(output.status.code(), Some(1), "{kind}: {result}");
        let seen = kinds(&result);
        // A server that closes before it has read everything resets the connection.
        assert!(seen.contains(&kind) && seen.iter().all(|one| *one == kind || *one == "reset"), "{kind}: {seen:?}");
    }
}

#[test]
fn a_kept_connection_that_is_closed_is_asked_again() {
    let target = server(|mut stream, _| {
        for _ in 0..3 {
            if !read_request(&mut stream) || stream.write_all(ANSWER).is_err() {
                return;
            }
        }
        // The fourth request has arrived, and gets no answer.
        read_request(&mut stream);
    });
    let output = bench(target, &[]);
    let result = result(&output);
    assert!(output.status.success(), "{result}");
    assert_eq!(kinds(&result), ["stale"]);
}

#[test]
fn what_was_due_counts_from_then() {
    // Every connection pauses for a while at its first request. At a fixed rate, this delays later requests.
    let target = server(|mut stream, _| {
        let mut is_first = true;
        while read_request(&mut stream) {
            if std::mem::take(&mut is_first) {
                thread::sleep(std::time::Duration::from_millis(300));
            }
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    });
    let result = result(&bench(target, &["--rate", "400"]));
    let at = |kind: &str| result["latency_us"][kind]["p50"].as_f64().expect("a latency");
    assert!(at("corrected") > 20.0 * at("uncorrected"), "{} against {}", at("corrected"), at("uncorrected"));
}

/// Answers each request with the sum of its query's values and of a body of two digits.
fn serve_sums(mut stream: TcpStream, _: usize) {
    let mut byte = [0];
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let text = String::from_utf8(head).expect("text");
        let query = text.split(['?', ' ']).nth(2).expect("a query");
        let mut sum: u64 = query.split('&').map(|pair| pair[2..].parse::<u64>().expect("a number")).sum();
        if text.contains("Content-Length: 2") {
            let mut body = [0; 2];
            stream.read_exact(&mut body).expect("a body");
            sum += String::from_utf8_lossy(&body).parse::<u64>().expect("a number");
        }
        let body = sum.to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn templates_take_turns_and_their_sums_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path").to_owned()
    };
    let get = file("get.raw", "GET /?a={RAND:1:1000}&b={RAND:1:9} HTTP/1.1\r\nHost: x\r\n\r\n");
    let post = file("post.raw", "POST /?a={RAND:1:9} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{RAND:10:99}");
    let both = ["--template", &get, "--template", &post, "--expect-sum"];
    for more in [&[][..], &["--depth", "7"], &["--requests-per-connection", "3"], &["--rate", "300"]] {
        let output = bench(server(serve_sums), &[&both[..], more].concat());
        let result = result(&output);
        assert!(output.status.success() && result["requests"].as_u64() > Some(10), "{more:?}: {result}");
    }
    // A server whose answers do not depend on the request.
    let result = result(&bench(server(serve_well), &both[..]));
    assert!(kinds(&result).contains(&"wrong"), "{result}");
    for (raw, part) in [("GET / HTTP/1.1\r\n", "no end"), ("GET /?a=x HTTP/1.1\r\n\r\n", "must be numbers")] {
        let output = bench(server(serve_well), &["--template", &file("bad.raw", raw), "--expect-sum"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(part), "{told}");
    }
}

#[test]
fn messages_on_a_web_socket_must_come_back() {
    for more in [&[][..], &["--depth", "5"], &["--requests-per-connection", "2"]] {
        let output = bench(server(|stream, _| serve_socket(stream, false)), &[&["--protocol", "ws"], more].concat());
        let result = result(&output);
        assert!(output.status.success() && result["requests"].as_u64() > Some(10), "{more:?}: {result}");
    }
    let wrong = result(&bench(server(|stream, _| serve_socket(stream, true)), &["--protocol", "ws"]));
    assert!(kinds(&wrong).contains(&"wrong"), "{wrong}");
    let refused = result(&bench(server(serve_well), &["--protocol", "ws"]));
    assert_eq!(kinds(&refused), ["wrong"], "{refused}");
}

#[test]
fn wrong_usage_is_told() {
    let bench = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_baton-bench")).arg("run").args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, part) in [
        (&["8.8.8.8:80"][..], "--i-own-this-target"),
        (&["127.0.0.1"], "target \"127.0.0.1\""),
        (&["127.0.0.1:1", "--depth", "0"], "--depth <COUNT>"),
        (&["127.0.0.1:1", "--duration", "0"], "--duration <SECONDS>"),
        (&["127.0.0.1:1", "--path", "x"], "--path"),
        (&["127.0.0.1:1", "--path", "/{RAND:2:1}"], "{RAND:2:1}"),
        (&["127.0.0.1:1", "--template", "/nowhere.raw"], "--template /nowhere.raw"),
        (&["127.0.0.1:1", "--template", "x", "--path", "/"], "--path <PATH>"),
        (&["127.0.0.1:1", "--protocol", "ws", "--payload", "1048577"], "--payload"),
        (&["127.0.0.1:1", "--cores", "999"], "--cores"),
        (&["127.0.0.1:1", "--plot", "x.png"], ".svg"),
        (&["127.0.0.1:1", "--server-pid", "999999999"], "--server-pid 999999999"),
        (&["127.0.0.1:1", "--frobnicate"], "--frobnicate"),
    ] {
        let (code, text) = bench(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[test]
fn files_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_baton-bench"))
        .args(["run", &server(serve_well).to_string(), "-c", "2", "-d", "0.3", "--rate", "500", "--warm-up", "0"])
        .args(["--json".as_ref(), path("r.json").as_os_str(), "--hgrm".as_ref(), path("r.hgrm").as_os_str()])
        .args(["--plot".as_ref(), path("r.svg").as_os_str()])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let read = |name: &str| std::fs::read_to_string(path(name)).expect(name);
    assert!(serde_json::from_str::<Value>(&read("r.json")).is_ok());
    assert!(read("r.hgrm").contains("#[Max") && read("r.corrected.hgrm").contains("#[Max"));
    assert!(read("r.svg").starts_with("<svg"));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("from when due") && table.contains("failed"), "{table}");
}
