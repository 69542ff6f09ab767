//! While listeners are replaced, no connection is lost, as counted by clients that connect continuously.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use baton::control::EventKind;
use baton_tests::churn::{Churn, Outcome};
use baton_tests::client::{GET, assert_served, connect, read_answer, read_to_end};
use baton_tests::control;
use baton_tests::process::{is_alive, is_stopped};
use baton_tests::program::{Server, batond, signal};
use baton_tests::{skip, wait_until};
use nix::sys::signal::Signal;

const CLIENTS: usize = 4;

/// The tiers that lose nothing and work here.
fn tiers() -> Vec<&'static str> {
    let mut server = Server::spawn({
        let mut command = Command::new(batond());
        command.args(["--listen", "127.0.0.1:0", "--handover", "ebpf"]);
        command
    });
    wait_until("it listens or refuses", || server.count_of("\"listening\"") + server.count_of("error: ") > 0);
    let has_ebpf = server.count_of("\"listening\"") > 0;
    server.signal(Signal::SIGTERM);
    server.wait();
    if has_ebpf {
        vec!["ebpf", "adopt"]
    } else {
        skip("the tier ebpf: a program may not be loaded here");
        vec!["adopt"]
    }
}

fn assert_nothing_lost(outcome: &Outcome, what: &str) {
    eprintln!("{what}: {} answered, {} slow, slowest {:?}", outcome.ok, outcome.slow, outcome.slowest);
    assert_eq!(outcome.failed(), 0, "{what}: {outcome:#?}");
    assert!(outcome.ok > 100, "{what}: {outcome:#?}");
}

#[test]
fn reload_after_reload_loses_no_connection() {
    for tier in tiers() {
        let server = Server::start(&["--workers", "2", "--handover", tier, "--settle-ms", "100"]);
        let churn = Churn::start(server.address(), CLIENTS);
        for _ in 0..30 {
            server.reload();
        }
        assert_nothing_lost(&churn.finish(), tier);
        wait_until("one generation is left", || server.workers().len() == 2);
        server.stop();
    }
}

#[test]
fn workers_killed_one_after_the_other_lose_only_what_they_were_serving() {
    for tier in tiers() {
        let server = Server::start(&["--workers", "2", "--handover", tier]);
        let churn = Churn::start(server.address(), CLIENTS);
        for round in 0..5 {
            let workers = server.workers();
            signal(workers[0], Signal::SIGKILL);
            wait_until("it is replaced", || server.count_of_events("worker_ready") >= 3 + round);
        }
        let outcome = churn.finish();
        eprintln!("{tier}: {outcome:?}");
        assert!(outcome.failures.keys().all(|what| !what.contains("connect")), "{tier}: {outcome:#?}");
        assert!(outcome.failed() <= 5 * CLIENTS as u64, "{tier}: only what was being served: {outcome:#?}");
        server.stop();
    }
}

#[test]
fn whoever_waits_while_the_only_worker_is_replaced_is_served() {
    for tier in tiers() {
        let server = Server::start(&["--handover", tier]);
        let worker = server.workers()[0];
        // A stopped worker accepts nothing: these wait in its queue.
        signal(worker, Signal::SIGSTOP);
        wait_until("it is stopped", || is_stopped(worker));
        let mut waiting: Vec<_> = (0..20).map(|_| connect(server.address())).collect();
        waiting.iter_mut().for_each(|stream| stream.write_all(GET).expect("sent"));
        signal(worker, Signal::SIGKILL);
        for stream in &mut waiting {
            let answer = read_answer(stream).unwrap_or_else(|error| panic!("{tier}: {error}"));
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        drop(waiting);
        server.stop();
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
}

fn start_with_file(path: &Path) -> Server {
    let mut command = Command::new(batond());
    command.args(["--config", path.to_str().expect("a name")]);
    Server::start_command(command)
}

#[test]
fn a_reload_reads_the_file_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("batond.toml");
    write(&path, "listen = [\"127.0.0.1:0\"]\nworkers = 1\n");
    let server = start_with_file(&path);
    let address = server.address();
    // More workers, another address, another protocol.
    write(&path, "listen = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\nworkers = 3\nprotocol = \"echo\"\n");
    server.reload();
    let mut stream = connect(address);
    stream.write_all(b"hello").expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    assert_eq!(read_to_end(&mut stream).expect("an orderly end"), b"hello");
    drop(stream);
    wait_until("the old worker has left", || server.workers().len() == 3);
    // Fewer workers.
    write(&path, "listen = [\"127.0.0.1:0\"]\nworkers = 1\n");
    server.reload();
    assert_served(address);
    wait_until("the old workers have left", || server.workers().len() == 1);
    server.stop();
}

#[test]
fn a_bad_file_changes_nothing_and_is_named_by_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("batond.toml");
    write(&path, "listen = [\"127.0.0.1:0\"]\n");
    let server = start_with_file(&path);
    let workers = server.workers();
    write(&path, "listen = [\"127.0.0.1:0\"]\nwrokers = 2\n");
    server.signal(Signal::SIGHUP);
    wait_until("it says so", || server.failed_reloads() == 1);
    let events = server.events("not_reloaded");
    let message = events[0]["message"].as_str().expect("a text");
    assert!(message.contains("batond.toml:2:1: ") && message.contains("wrokers"), "{message}");
    // An address that is taken.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = holder.local_addr().expect("an address");
    write(&path, &format!("listen = [\"127.0.0.1:0\", \"{taken}\"]\n"));
    server.signal(Signal::SIGHUP);
    wait_until("it says so", || server.failed_reloads() == 2);
    assert_eq!(server.workers(), workers);
    assert_served(server.address());
    server.stop();
}

#[test]
fn a_worker_that_keeps_dying_is_started_again_with_growing_pauses() {
    let server = Server::start_controlled(&["--workers", "2"]);
    let victims = 4;
    for round in 0..victims {
        // The newest worker is the one that replaced the last victim.
        let victim = *server.workers().last().expect("a worker");
        signal(victim, Signal::SIGKILL);
        wait_until("it is replaced", || server.count_of_events("worker_ready") >= 3 + round);
        assert!(!is_alive(victim));
    }
    let pauses = control::events(&server.control()).into_iter().filter_map(|kind| match kind {
        EventKind::WorkerDied { restart_ms, .. } => Some(restart_ms),
        _ => None,
    });
    let pauses: Vec<u64> = pauses.collect();
    assert_eq!(pauses, [0, 100, 200, 400]);
    assert_served(server.address());
    server.stop();
}
