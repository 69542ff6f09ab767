//! The settings for connections that operators can choose.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use baton::control::{EventKind, Outcome, Refusal};
use baton_tests::client::{GET, ask, connect, read_answer, read_to_end};
use baton_tests::control;
use baton_tests::lineage::Lineage;
use baton_tests::namespace;
use baton_tests::process::{children, descriptor_limit_for, descriptors, is_alive};
use baton_tests::program::{Server, batond, run};
use baton_tests::wait_until;

#[test]
fn goodbye_ends_idle_connections_and_answers_what_was_begun() {
    let server = Server::start(&["--connections", "goodbye"]);
    let (mut begun, mut idle) = (connect(server.address()), connect(server.address()));
    ask(&mut begun).expect("an answer");
    ask(&mut idle).expect("an answer");
    begun.write_all(&GET[..10]).expect("sent");
    server.reload();
    assert_eq!(read_to_end(&mut idle).expect("an orderly end"), b"");
    begun.write_all(&GET[10..]).expect("sent");
    let answer = read_answer(&mut begun).expect("an answer");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    server.stop();
}

#[test]
fn wait_leaves_connections_where_they_are_until_the_drain_ends() {
    let server = Server::start(&["--connections", "wait", "--settle-ms", "0", "--drain-ms-max", "2000"]);
    let worker = server.workers()[0];
    let mut stream = connect(server.address());
    ask(&mut stream).expect("an answer");
    server.reload();
    for _ in 0..10 {
        let answer = ask(&mut stream).expect("an answer");
        assert!(!answer.contains("Connection: close"), "{answer}");
        assert!(is_alive(worker));
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    wait_until("the worker is gone", || !is_alive(worker));
    server.stop();
}

#[test]
fn handover_keeps_a_begun_request_and_an_idle_connection() {
    let server = Server::start(&[]);
    let worker = server.workers()[0];
    let (mut begun, mut idle) = (connect(server.address()), connect(server.address()));
    ask(&mut idle).expect("an answer");
    begun.write_all(&GET[..10]).expect("sent");
    server.reload();
    wait_until("the worker is gone", || !is_alive(worker));
    begun.write_all(&GET[10..]).expect("sent");
    for answer in [read_answer(&mut begun).expect("an answer"), ask(&mut idle).expect("an answer")] {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("Connection: close"), "{answer}");
    }
    server.stop();
}

#[test]
fn what_was_ending_anyway_is_told_as_that_and_ends() {
    namespace::run("policy::what_was_ending_anyway_is_told_as_that_and_ends", || {
        let lineage = Lineage::start(1, |control, pid_file| {
            Server::start(&["--settle-ms", "0", "--linger-ms", "600000", "--control", control, "--pid-file", pid_file])
        });
        let worker = lineage.first.workers()[0];
        let (mut idle, mut ending) = (connect(lineage.first.address()), connect(lineage.first.address()));
        ask(&mut idle).expect("an answer");
        ending.write_all(b"nonsense\r\n\r\n").expect("sent");
        // The server's FIN has arrived, this side's has not been sent.
        let answer = read_to_end(&mut ending).expect("an answer and an orderly end");
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
        let outcome = lineage.done(&["reload"]);
        let Outcome::Reloaded { moves, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!((moves.moved, moves.staying, moves.ending), (1, 0, 1), "{outcome:?}");
        assert!(is_alive(worker), "it waits for the FIN");
        drop(ending);
        wait_until("the worker is gone", || !is_alive(worker));
        ask(&mut idle).expect("an answer");
    });
}

#[test]
fn a_stop_says_nothing_of_moves() {
    namespace::run("policy::a_stop_says_nothing_of_moves", || {
        let lineage = Lineage::start(1, |control, pid_file| {
            Server::start(&["--linger-ms", "600000", "--control", control, "--pid-file", pid_file])
        });
        let (mut idle, mut ending) = (connect(lineage.first.address()), connect(lineage.first.address()));
        ask(&mut idle).expect("an answer");
        ending.write_all(b"nonsense\r\n\r\n").expect("sent");
        read_to_end(&mut ending).expect("an answer and an orderly end");
        let answer = lineage.ask(&["stop", "--deadline", "0.1"]);
        let has = |is_it: &dyn Fn(&EventKind) -> bool| answer.events.iter().any(|event| is_it(&event.kind));
        assert!(has(&|kind| *kind == EventKind::Gone), "{answer:#?}");
        assert!(!has(&|kind| matches!(kind, EventKind::WorkerMoved { .. })), "{answer:#?}");
        assert_eq!(answer.done(), Outcome::Stopped);
    });
}

/// Starts batond with this text in its configuration file. A test may write another text later.
fn start_with(path: &Path, text: &str) -> Server {
    write(path, text);
    let mut command = Command::new(batond());
    command.args(["--config", path.to_str().expect("a name"), "--control"]).arg(path.with_extension("control"));
    Server::start_command(command)
}

fn write(path: &Path, text: &str) {
    fs::write(path, format!("listen = [\"127.0.0.1:0\"]\n{text}")).expect("written");
}

/// How many connections could not move for this reason.
fn refused_for(path: &Path, reason: Refusal) -> u64 {
    let moves = control::events(&path.with_extension("control")).into_iter().filter_map(|kind| match kind {
        EventKind::WorkerMoved { moves, .. } => Some(moves.refused_for(reason)),
        _ => None,
    });
    moves.sum()
}

#[test]
fn a_protocol_that_another_replaces_says_goodbye() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("batond.toml");
    let server = start_with(&path, "protocol = \"http\"\n");
    let mut stream = connect(server.address());
    ask(&mut stream).expect("an answer");
    write(&path, "protocol = \"echo\"\n");
    server.reload();
    assert_eq!(read_to_end(&mut stream).expect("an orderly end"), b"");
    wait_until("it is counted", || refused_for(&path, Refusal::Format) == 1);
    server.stop();
}

#[test]
fn those_for_whom_there_is_no_room_are_told_goodbye() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("batond.toml");
    let server = start_with(&path, "");
    let mut streams: Vec<_> = (0..100).map(|_| connect(server.address())).collect();
    streams.iter_mut().for_each(|stream| assert!(ask(stream).is_ok()));
    write(&path, "[limits]\nconnections_max = 40\n");
    server.reload();
    wait_until("it is counted", || refused_for(&path, Refusal::Limit) == 60);
    let is_open = |stream: &mut TcpStream| ask(stream).is_ok_and(|answer| !answer.contains("Connection: close"));
    let open = streams.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
    assert_eq!(open, 40);
    server.stop();
}

#[test]
fn those_for_whom_there_are_no_descriptors_are_told_goodbye() {
    namespace::run("policy::those_for_whom_there_are_no_descriptors_are_told_goodbye", || {
        let lineage = Lineage::start(1, |control, pid_file| {
            Server::start(&["--settle-ms", "50", "--control", control, "--pid-file", pid_file])
        });
        let mut streams: Vec<_> = (0..100).map(|_| connect(lineage.first.address())).collect();
        streams.iter_mut().for_each(|stream| assert!(ask(stream).is_ok()));
        lineage.done(&["upgrade", "--hold"]);
        let worker = children(lineage.master())[0];
        let (before, limit) = (descriptors(worker), descriptor_limit_for(worker, 50));
        let limited = run(Command::new("prlimit").args([format!("--pid={worker}"), format!("--nofile={limit}")]));
        assert!(limited.status.success(), "{limited:?}");
        lineage.done(&["commit"]);
        lineage.settle();
        // Three batches fit, the next does not, and no part of it remains.
        let is_open = |stream: &mut TcpStream| ask(stream).is_ok_and(|answer| !answer.contains("Connection: close"));
        let open = streams.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
        assert_eq!(open, 48);
        drop(streams);
        wait_until("nothing is open", || descriptors(worker) <= before);
    });
}
