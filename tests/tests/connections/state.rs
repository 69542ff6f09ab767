//! A worker's own state moves together with its connections: the store of the example `resp`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use baton::control::{Failure, Outcome};
use baton_tests::client::{ask_line, connect};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::process::is_stopped;
use baton_tests::program::{self, Server, example, faulty, free_port, is_installed, signal};
use baton_tests::{skip, wait_until};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use super::classes::{Counts, Crowd};

const KEYS: usize = 50_000;

fn build() -> PathBuf {
    example("resp")
}

fn start(more: &[&str]) -> (Lineage, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let lineage = Lineage::start(1, |control, pid_file| {
        let mut command = Command::new(build());
        command.args(["--listen", &address.to_string(), "--control", control, "--pid-file", pid_file]).args(more);
        Server::start_unlogged(command, address)
    });
    (lineage, address)
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
    build();
    run("state::a_store_and_its_clients_cross_upgrades_and_reloads", || {
        let (lineage, address) = start(&[]);
        let mut own = connect(address);
        fill(&mut own, KEYS);
        let counts = Counts { streaming: 0, slow: 0, ..Counts::FEW };
        let (request, answer) = (b"GET key:77\r\n", b"$8\r\nvalue:77\r\n");
        let crowd = Crowd::of_lines(address, counts, request, answer.len());
        for round in 0..5 {
            assert_eq!(ask_line(&mut own, "INCR rounds"), format!(":{}", 2 * round + 1));
            lineage.done(&["upgrade"]);
            crowd.round();
            assert_eq!(ask_line(&mut own, "INCR rounds"), format!(":{}", 2 * round + 2));
            lineage.done(&["reload"]);
            crowd.round();
        }
        assert_eq!(ask_line(&mut own, "DBSIZE"), format!(":{}", KEYS + 1));
        crowd.finish(request.len());
        lineage.settle();
    });
}

#[test]
fn an_answer_that_is_the_last_arrives_whole_across_an_upgrade() {
    build();
    run("state::an_answer_that_is_the_last_arrives_whole_across_an_upgrade", || {
        /// Less than makes the server stop reading, and more than the kernel takes for a client that does not read.
        const VALUE_BYTES: usize = 900_000;
        let (lineage, address) = start(&[]);
        let mut own = connect(address);
        own.write_all(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${VALUE_BYTES}\r\n").as_bytes()).expect("sent");
        own.write_all(&[b'v'; VALUE_BYTES]).expect("sent");
        assert_eq!(ask_line(&mut own, ""), "+OK");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        socket.connect(&address.into()).expect("connected");
        let mut slow = TcpStream::from(socket);
        slow.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        slow.write_all(b"GET big\r\nQUIT\r\n").expect("sent");
        // The client reads nothing before the server has begun to end the connection.
        std::thread::sleep(Duration::from_millis(200));
        lineage.done(&["upgrade"]);
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).expect("the whole answer, and an end");
        assert_eq!(answer.len(), format!("${VALUE_BYTES}\r\n").len() + VALUE_BYTES + "\r\n+OK\r\n".len());
        assert_eq!(ask_line(&mut own, "DBSIZE"), ":1");
        lineage.settle();
    });
}

/// The value of a counter.
fn count_of(own: &mut TcpStream, name: &str) -> u64 {
    ask_line(own, &format!("INCRBY {name} 0")).trim_start_matches(':').parse().expect("a number")
}

/// Upgrades repeatedly while `client` adds up to `requests` to a counter. Returns the client's result.
fn upgrade_during<T: Send>(
    lineage: &Lineage,
    own: &mut TcpStream,
    name: &str,
    requests: usize,
    client: impl FnOnce() -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        let client = scope.spawn(client);
        let mut upgrades = 0;
        while !client.is_finished() {
            lineage.done(&["upgrade"]);
            upgrades += 1;
            // No client is served while the store moves. If the next upgrade followed at once, little would be done in
            // between.
            let enough = count_of(own, name) + requests as u64 / 10;
            wait_until("clients are served", || client.is_finished() || count_of(own, name) >= enough);
        }
        let said = client.join().expect("no panic");
        assert!(upgrades >= 3, "only {upgrades} upgrades began before all was done");
        said
    })
}

#[test]
fn redis_benchmark_across_upgrades_counts_every_request_once() {
    build();
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
        // Without pipelining: with it, the client may send more than `-n` says. A client that has nothing left to send
        // adds a batch to the number that it believes to have sent, in each turn of its loop, until that number
        // overflows while others wait for answers.
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-p", &port, "-q", "-c", "50", "-n", &REQUESTS.to_string(), "incr", "count"]);
        let client = move || program::run(&mut benchmark);
        let output = upgrade_during(&lineage, &mut own, "count", REQUESTS, client);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let failed = !output.status.success() || said.to_ascii_lowercase().contains("error");
        assert!(!failed, "{said}\n{:#?}", lineage.first.log());
        assert_eq!(count_of(&mut own, "count"), REQUESTS as u64, "{said}");
        assert_eq!(ask_line(&mut own, "DBSIZE"), format!(":{}", KEYS + 1));
    });
}

/// Counts up from several connections. Each sends `depth` commands at once, and then reads the answers. Returns all
/// answers.
fn count_up(address: SocketAddr, name: &str, connections: usize, rounds: usize, depth: usize) -> Vec<u64> {
    let batch = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{name}\r\n", name.len()).repeat(depth);
    let client = || {
        let mut stream = connect(address);
        let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
        let mut answers = Vec::new();
        for _ in 0..rounds {
            stream.write_all(batch.as_bytes()).expect("sent");
            answers.extend(reader.by_ref().lines().take(depth).map(|line| {
                let line = line.expect("an answer");
                line.strip_prefix(':').and_then(|number| number.parse::<u64>().ok()).unwrap_or_else(|| panic!("{line}"))
            }));
        }
        assert!(answers.is_sorted_by(|one, next| one < next), "answers to one connection are in order");
        answers
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    })
}

#[test]
fn deep_pipelines_across_upgrades_are_answered_once() {
    build();
    run("state::deep_pipelines_across_upgrades_are_answered_once", || {
        const CONNECTIONS: usize = 50;
        const ROUNDS: usize = 10;
        /// This many commands at once are answered in several turns.
        const DEPTH: usize = 4_000;
        const REQUESTS: usize = CONNECTIONS * ROUNDS * DEPTH;
        let (lineage, address) = start(&[]);
        let mut own = connect(address);
        fill(&mut own, KEYS);
        let client = || count_up(address, "count", CONNECTIONS, ROUNDS, DEPTH);
        let mut answers = upgrade_during(&lineage, &mut own, "count", REQUESTS, client);
        answers.sort_unstable();
        assert!(answers.into_iter().eq(1..=REQUESTS as u64), "each number is told once");
        assert_eq!(count_of(&mut own, "count"), REQUESTS as u64);
    });
}

#[test]
fn a_store_above_the_limit_is_not_replaced_or_is_discarded_as_was_chosen() {
    build();
    run("state::a_store_above_the_limit_is_not_replaced_or_is_discarded_as_was_chosen", || {
        let (lineage, address) = start(&["--state-bytes-max", "100000"]);
        let mut own = connect(address);
        fill(&mut own, KEYS);
        for command in ["upgrade", "reload"] {
            let failure = lineage.failed(&[command]);
            assert!(matches!(failure, Failure::StateTooLarge { bytes_max: 100_000, .. }), "{command}: {failure:?}");
        }
        assert_eq!(ask_line(&mut own, "DBSIZE"), format!(":{KEYS}"));
        drop((own, lineage));
        let (lineage, address) = start(&["--state-bytes-max", "100000", "--discard-larger"]);
        let mut own = connect(address);
        fill(&mut own, KEYS);
        lineage.done(&["upgrade"]);
        assert_eq!(ask_line(&mut own, "DBSIZE"), ":0", "the connection lives, the store is empty");
        assert_eq!(ask_line(&mut connect(address), "DBSIZE"), ":0");
    });
}

#[test]
fn only_one_of_two_servers_has_the_store() {
    build();
    run("state::only_one_of_two_servers_has_the_store", || {
        let (lineage, address) = start(&[]);
        let mut own = connect(address);
        fill(&mut own, 100);
        assert_eq!(lineage.failed(&["upgrade", "--hold"]), Failure::HeldState);
        // On probation the state has moved; a revert brings it back.
        let first = lineage.master();
        let waiting = lineage.begin(&["upgrade", "--probation", "60"]);
        lineage.wait_for_probation(first);
        assert_eq!(ask_line(&mut own, "SET k v"), "+OK");
        lineage.done(&["revert"]);
        let failure = waiting.join().expect("no panic").failed();
        assert!(matches!(failure, Failure::Reverted { .. }), "{failure:?}");
        assert_eq!(ask_line(&mut own, "DBSIZE"), ":101");
        assert_eq!(ask_line(&mut connect(address), "DBSIZE"), ":101");
        lineage.settle();
    });
}

fn faulty_command(address: SocketAddr, control: &str, pid_file: &str) -> Command {
    let mut command = Command::new(build_faulty());
    command.args(["--listen", &address.to_string(), "--control", control, "--pid-file", pid_file]);
    command
}

/// A store in which `whom` is ended or stopped at `step` of an upgrade.
fn start_faulty(step: &str, whom: &str) -> (Lineage, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let lineage = Lineage::start(1, |control, pid_file| {
        let token = Path::new(control).with_file_name("fault");
        fs::write(&token, whom).expect("written");
        let mut command = faulty_command(address, control, pid_file);
        command.env("BATON_FAULT", format!("{step}@{}", token.display()));
        Server::start_unlogged(command, address)
    });
    (lineage, address)
}

/// Ends `whom` at `step` of an upgrade. Returns how many keys exist after that, and whether the connection lives.
fn after_fault(step: &str, whom: &str) -> (usize, bool) {
    let (lineage, address) = start_faulty(step, whom);
    let mut own = connect(address);
    fill(&mut own, KEYS);
    let _ = lineage.ask(&["upgrade"]);
    wait_until("it has been killed", || !lineage.file("fault").exists());
    // If the new master was killed after the upgrade was final, the next master finds its workers.
    let is_settled = || {
        lineage.reap();
        lineage.masters().is_empty() || lineage.masters() == [lineage.master()]
    };
    wait_until("one master or none is left", is_settled);
    let path = |name: &str| lineage.file(name).to_str().expect("UTF-8").to_owned();
    let command = || faulty_command(address, &path("control"), &path("pid"));
    let _next = lineage.masters().is_empty().then(|| Server::start_unlogged(command(), address));
    lineage.settle();
    let keys = ask_line(&mut connect(address), "DBSIZE").trim_start_matches(':').parse().expect("a number");
    let is_alive = own.write_all(b"DBSIZE\r\n").is_ok() && own.read(&mut [0; 64]).is_ok_and(|count| count > 0);
    eprintln!("{step}, {whom}: {keys} keys, the connection {}", if is_alive { "lives" } else { "has ended" });
    (keys, is_alive)
}

fn build_faulty() -> PathBuf {
    faulty("faulty_store")
}

#[test]
fn a_store_dies_only_with_the_worker_that_has_it() {
    build_faulty();
    run("state::a_store_dies_only_with_the_worker_that_has_it", || {
        // Until the state has been read to the end, it belongs to the old worker, which moves it to the next worker.
        assert_eq!(after_fault("receiver:state", "self"), (KEYS, true));
        assert_eq!(after_fault("receiver:state_read", "self"), (KEYS, true));
        assert_eq!(after_fault("sender:state", "self"), (0, false));
        // After that it belongs to the new one.
        assert_eq!(after_fault("sender:state_given", "self"), (KEYS, false));
        for step in ["sender:state", "sender:state_given", "receiver:state", "receiver:state_read"] {
            assert_eq!(after_fault(step, "parent"), (KEYS, true), "{step}, parent");
        }
    });
}

#[test]
fn connections_follow_a_store_that_takes_longer_than_a_batch_may() {
    build_faulty();
    run("state::connections_follow_a_store_that_takes_longer_than_a_batch_may", || {
        /// More than `BATCH_MS_MAX` of the engine, and less than `hang_ms`.
        const HALT_MS: u64 = 3_000;
        let (lineage, address) = start_faulty("receiver:state_read", "stop");
        let mut own = connect(address);
        fill(&mut own, KEYS);
        let upgrade = lineage.begin(&["upgrade"]);
        let halted = || lineage.workers().into_iter().find(|pid| is_stopped(*pid));
        wait_until("the new worker stands still with the store", || halted().is_some());
        let worker = halted().expect("it stands still");
        // This test needs the time to pass.
        std::thread::sleep(Duration::from_millis(HALT_MS));
        signal(worker, Signal::SIGCONT);
        let outcome = upgrade.join().expect("no panic").done();
        let Outcome::Upgraded { moves, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!((moves.moved, moves.refused), (1, Vec::new()));
        assert_eq!(ask_line(&mut own, "DBSIZE"), format!(":{KEYS}"));
        lineage.settle();
    });
}
