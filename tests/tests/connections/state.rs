//! A worker's own state crosses with its connections: the store of the example `resp`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use baton_tests::client::connect;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::{self, Server, example, free_port, is_installed};
use baton_tests::skip;

use super::classes::{Counts, Crowd};

const KEYS: usize = 50_000;

fn build_once() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| example("resp"))
}

fn start(more: &[&str]) -> (Lineage, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let lineage = Lineage::start(1, |control, pid_file| {
        let mut command = Command::new(build_once());
        command.args(["--listen", &address.to_string(), "--control", control, "--pid-file", pid_file]).args(more);
        Server::start_unlogged(command, address)
    });
    (lineage, address)
}

/// The first line of the answer.
fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(format!("{request}\r\n").as_bytes()).expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    String::from_utf8(answer).expect("text").trim_end().to_owned()
}

fn fill(stream: &mut TcpStream, keys: usize) {
    let requests: String = (0..keys).map(|index| format!("SET key:{index} value:{index}\r\n")).collect();
    let mut reader = stream.try_clone().expect("cloned");
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(requests.as_bytes()).expect("sent"));
        let mut answers = vec![0; "+OK\r\n".len() * keys];
        reader.read_exact(&mut answers).expect("answers");
    });
}

#[test]
fn a_store_and_its_clients_cross_upgrades_and_reloads() {
    build_once();
    run("state::a_store_and_its_clients_cross_upgrades_and_reloads", || {
        let (lineage, address) = start(&[]);
        let mut own = connect(address);
        fill(&mut own, KEYS);
        let counts = Counts { streaming: 0, slow: 0, ..Counts::FEW };
        let (request, answer) = (b"GET key:77\r\n", b"$8\r\nvalue:77\r\n");
        let crowd = Crowd::of_lines(address, counts, request, answer.len());
        for round in 0..5 {
            assert_eq!(ask(&mut own, "INCR rounds"), format!(":{}", 2 * round + 1));
            lineage.done(&["upgrade"]);
            crowd.round();
            assert_eq!(ask(&mut own, "INCR rounds"), format!(":{}", 2 * round + 2));
            lineage.done(&["reload"]);
            crowd.round();
        }
        assert_eq!(ask(&mut own, "DBSIZE"), format!(":{}", KEYS + 1));
        crowd.finish(request.len());
        lineage.settle();
    });
}

#[test]
fn redis_benchmark_across_upgrades_counts_every_request_once() {
    build_once();
    run("state::redis_benchmark_across_upgrades_counts_every_request_once", || {
        const REQUESTS: usize = 100_000;
        if !is_installed("redis-benchmark") {
            skip("redis-benchmark is not installed");
            return;
        }
        let (lineage, address) = start(&[]);
        let mut own = connect(address);
        fill(&mut own, KEYS);
        let port = address.port().to_string();
        let output = std::thread::scope(|scope| {
            let mut benchmark = Command::new("redis-benchmark");
            benchmark.args(["-p", &port, "-q", "-c", "50", "-n", &REQUESTS.to_string(), "incr", "count"]);
            let benchmark = scope.spawn(move || program::run(&mut benchmark));
            let mut upgrades = 0;
            while !benchmark.is_finished() || upgrades < 3 {
                lineage.done(&["upgrade"]);
                upgrades += 1;
            }
            benchmark.join().expect("no panic")
        });
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success() && !said.to_ascii_lowercase().contains("error"), "{said}");
        assert_eq!(ask(&mut own, "INCR count"), format!(":{}", REQUESTS + 1), "{said}");
        assert_eq!(ask(&mut own, "DBSIZE"), format!(":{}", KEYS + 1));
    });
}

#[test]
fn a_store_above_the_limit_is_not_replaced_or_is_discarded_as_was_chosen() {
    build_once();
    run("state::a_store_above_the_limit_is_not_replaced_or_is_discarded_as_was_chosen", || {
        let (lineage, address) = start(&["--state-bytes-max", "100000"]);
        let mut own = connect(address);
        fill(&mut own, KEYS);
        for command in ["upgrade", "reload"] {
            let (code, text) = lineage.ctl(&[command]);
            assert!(code == 1 && text.contains("state_bytes_max"), "{command}: {code}, {text}");
        }
        assert_eq!(ask(&mut own, "DBSIZE"), format!(":{KEYS}"));
        drop((own, lineage));
        let (lineage, address) = start(&["--state-bytes-max", "100000", "--discard-larger"]);
        let mut own = connect(address);
        fill(&mut own, KEYS);
        lineage.done(&["upgrade"]);
        assert_eq!(ask(&mut own, "DBSIZE"), ":0", "the connection lives, the store is empty");
        assert_eq!(ask(&mut connect(address), "DBSIZE"), ":0");
    });
}

#[test]
fn only_one_of_two_servers_has_the_store() {
    build_once();
    run("state::only_one_of_two_servers_has_the_store", || {
        let (lineage, address) = start(&[]);
        let mut own = connect(address);
        fill(&mut own, 100);
        let (code, text) = lineage.ctl(&["upgrade", "--hold"]);
        assert!(code == 1 && text.contains("without holding"), "{code}, {text}");
        // On probation it has moved; a revert brings it back.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lineage.ctl(&["upgrade", "--probation", "60"]));
            baton_tests::wait_until("it is on probation", || lineage.ctl(&["status"]).1.contains("probation"));
            assert_eq!(ask(&mut own, "SET k v"), "+OK");
            lineage.done(&["revert"]);
            assert_ne!(waiting.join().expect("no panic").0, 0);
        });
        assert_eq!(ask(&mut own, "DBSIZE"), ":101");
        assert_eq!(ask(&mut connect(address), "DBSIZE"), ":101");
        lineage.settle();
    });
}
