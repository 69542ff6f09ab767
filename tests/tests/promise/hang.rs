//! Hung workers are detected, and the clients that wait in their queues are served.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

use baton::control::EventKind;
use baton_tests::client::{GET, connect, read_answer};
use baton_tests::control;
use baton_tests::namespace::run;
use baton_tests::process::{is_alive, is_stopped};
use baton_tests::program::{Server, faulty, free_port, signal};
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::case::{Case, Expected, cases, prove};

/// Stops this many workers for good, and waits until they are replaced and the waiting clients have been served.
fn hang(server: &Server, victims: usize) {
    let before = server.count_of_events("worker_ready");
    let hung: Vec<u32> = server.workers().into_iter().take(victims).collect();
    hung.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    wait_until("they are stopped", || hung.iter().all(|pid| is_stopped(*pid)));
    let mut waiting: Vec<_> = (0..50).map(|_| connect(server.address())).collect();
    waiting.iter_mut().for_each(|stream| stream.write_all(GET).expect("sent"));
    for stream in &mut waiting {
        let answer = read_answer(stream).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    wait_until("they are replaced", || server.count_of_events("worker_ready") >= before + victims);
    assert!(hung.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(server.count_of_events("worker_hung"), victims, "{:#?}", server.log());
}

#[test]
fn only_requests_being_served_are_lost() {
    run("hang::only_requests_being_served_are_lost", || {
        for case in cases() {
            for victims in 1..=case.workers {
                let what = format!("{victims} of {} hang", case.workers);
                let case = Case { arguments: &["--hang-ms", "400"], ..case.clone() };
                let lost_max = case.clients as u64;
                prove(&what, &case, Expected::OnlyServedOnesLost(lost_max), |server, _| hang(server, victims));
            }
        }
    });
}

#[test]
fn a_busy_worker_is_not_taken_for_hung() {
    const CLIENTS: usize = 20;
    let program = faulty("poison");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new(&program);
    command.args(["--listen", &address.to_string(), "--hang-ms", "800"]);
    command.arg("--control").arg(path("control")).arg("--pid-file").arg(path("pid"));
    let server = Server::start_unlogged(command, address);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(address)).collect();
    // All requests that arrive while a worker is busy with the first are handled in one turn, which takes more than a
    // second.
    for _ in 0..2 {
        clients.iter_mut().for_each(|stream| stream.write_all(b"slow").expect("sent"));
        for stream in &mut clients {
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"slow");
        }
    }
    let events = control::events(&path("control"));
    let has_died = events.iter().any(|event| matches!(event, EventKind::WorkerDied { .. }));
    assert!(!has_died, "{events:#?}");
    drop(server);
}
