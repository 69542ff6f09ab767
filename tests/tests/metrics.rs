//! Metrics over HTTP and by batonctl: no counter falls over reload, upgrade, revert and the death of a master, and no
//! client can block the server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use baton::control::{Outcome, Status};
use baton_tests::client::assert_served;
use baton_tests::control;
use baton_tests::program::{Server, batonctl, free_port, run, signal, text};
use baton_tests::{PATIENCE, wait_until};
use nix::sys::signal::Signal;

struct Measured {
    server: Server,
    metrics: SocketAddr,
    /// Sums of the whole server, as last seen.
    seen: BTreeMap<String, f64>,
}

impl Measured {
    fn start() -> Self {
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let server = Server::start_controlled(&["--workers", "2", "--metrics", &metrics.to_string()]);
        Self { server, metrics, seen: BTreeMap::new() }
    }

    fn ask(&self, arguments: &[&str]) -> Outcome {
        control::ask(&self.server.control(), arguments).done()
    }

    fn status(&self) -> Status {
        control::status(&self.server.control()).expect("a status")
    }

    /// Reads the metrics, and checks that no counter of the whole server has fallen.
    fn look(&mut self) {
        let answer = get(self.metrics, "GET /metrics HTTP/1.1\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0;"),
            "{head}"
        );
        assert!(body.ends_with("# EOF\n"));
        let is_sum = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            !name.starts_with("baton_worker_")
                && ["_total", "_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix))
        };
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        let now: BTreeMap<String, f64> = lines
            .map(|line| line.rsplit_once(' ').expect("a series and a value"))
            .filter(|(series, _)| is_sum(series))
            .map(|(series, value)| (series.to_owned(), value.parse().expect("a number")))
            .collect();
        for (series, before) in &self.seen {
            let value = now.get(series).copied();
            assert!(value >= Some(*before), "{series}: {value:?} after {before}");
        }
        self.seen = now;
    }

    /// Sends this many requests, and waits until each is counted.
    fn serve(&mut self, requests: usize) {
        self.look();
        let wanted = self.seen["baton_requests_total"] + requests as f64;
        (0..requests).for_each(|_| assert_served(self.server.address()));
        wait_until("all requests are counted", || {
            self.look();
            assert!(self.seen["baton_requests_total"] <= wanted, "a request is counted twice");
            self.seen["baton_requests_total"] == wanted
        });
    }
}

fn get(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn no_counter_falls_whatever_happens() {
    let mut measured = Measured::start();
    measured.serve(10);
    assert!(matches!(measured.ask(&["reload"]), Outcome::Reloaded { .. }));
    measured.serve(10);
    assert!(matches!(measured.ask(&["upgrade"]), Outcome::Upgraded { .. }));
    measured.serve(10);
    assert!(matches!(measured.ask(&["upgrade", "--hold"]), Outcome::Held { .. }));
    measured.serve(10);
    assert!(matches!(measured.ask(&["revert"]), Outcome::Reverted { .. }));
    measured.serve(10);
    assert!(measured.seen["baton_requests_total"] >= 50.0);
    assert_eq!(measured.seen["baton_handover_seconds_count{operation=\"reload\"}"], 1.0);
    let generations = measured.status().generations;
    let worker = generations.last().and_then(|serving| serving.workers[0].pid).expect("a worker");
    signal(worker, Signal::SIGKILL);
    wait_until("the death is counted", || {
        measured.look();
        measured.seen.get("baton_workers_died_total{how=\"signal\"}") == Some(&1.0)
    });
    // A new master that is killed has reported what it has shown.
    let old = measured.status().pid;
    assert!(matches!(measured.ask(&["upgrade", "--hold"]), Outcome::Held { .. }));
    measured.serve(10);
    let new = measured.status().pid;
    assert_ne!(old, new);
    signal(new, Signal::SIGKILL);
    wait_until("the old master serves again", || {
        control::status(&measured.server.control()).is_some_and(|status| status.pid == old && status.upgrade.is_none())
    });
    measured.serve(10);
    // It is not a child of this process any more, so it must be ended here.
    measured.ask(&["stop"]);
}

#[test]
fn requests_are_answered_as_http_says() {
    let measured = Measured::start();
    let start = |request: &str| get(measured.metrics, request).lines().next().map(str::to_owned);
    let answered = |status: &str| Some(format!("HTTP/1.1 {status}"));
    assert_eq!(start("GET / HTTP/1.1\r\n\r\n"), answered("404 Not Found"));
    assert_eq!(start("POST /metrics HTTP/1.1\r\n\r\n"), answered("405 Method Not Allowed"));
    assert_eq!(start("nonsense\r\n\r\n"), answered("400 Bad Request"));
    let head = get(measured.metrics, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.ends_with("\r\n\r\n") && head.contains("Content-Length: "), "{head}");
    let older = get(measured.metrics, "GET /metrics HTTP/1.1\r\nAccept: text/plain\r\n\r\n");
    assert!(older.contains("text/plain; version=0.0.4") && older.contains("# TYPE baton_requests_total counter\n"));
    let printed = run(Command::new(batonctl()).arg("--control").arg(measured.server.control()).arg("metrics"));
    assert!(text(&printed.stdout).contains("# TYPE baton_requests_total counter\n"));
}

/// Silent clients, endless requests, and clients that never read: reloads and honest clients are served meanwhile.
#[test]
fn clients_that_mean_no_good_hold_nothing_up() {
    let mut measured = Measured::start();
    let texts: [&[u8]; 3] = [b"", b"GET /metrics HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\n\r\n"];
    let hostile: Vec<TcpStream> = (0..300)
        .filter_map(|number| {
            let mut stream = TcpStream::connect(measured.metrics).ok()?;
            // The server may have closed the connection already.
            let _ = stream.write_all(texts[number % texts.len()]);
            Some(stream)
        })
        .collect();
    assert!(matches!(measured.ask(&["reload"]), Outcome::Reloaded { .. }));
    measured.serve(5);
    drop(hostile);
}
