//! Connections move between serving workers.

use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton::control::{CannotRebalance, EventKind, Failure, Imbalance, Outcome, Still};
use baton_tests::client::{GET, ask, connect};
use baton_tests::control::{self, status};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::Server;
use baton_tests::{PATIENCE, wait_until};

use super::classes::{Counts, Crowd};

fn open(server: &Server) -> Vec<u64> {
    let status = status(&server.control()).expect("it answers");
    let workers = status.generations.iter().flat_map(|generation| &generation.workers);
    workers.map(|worker| worker.open).collect()
}

/// Settings of a server in which some connections move each second, whatever they do.
fn always(folder: &Path) -> String {
    let file = folder.join("batond.toml");
    // Idle clients stay for longer than the longest trial.
    let text = "rebalance = \"always\"\nworkers = 3\n[timeouts]\nidle_ms = 600000\n";
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("UTF-8").to_owned()
}

/// Connections move for this time, and every byte is compared.
fn forced(seconds: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_controlled(&["--config", &always(folder.path())]);
    let crowd = Crowd::http(server.address(), Counts::FEW);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        crowd.round();
    }
    let moved = status(&server.control()).expect("it answers").rebalanced;
    let mut pauses = Vec::new();
    for event in control::events(&server.control()) {
        if let EventKind::Rebalanced { moves, .. } = event {
            pauses.extend(moves.pause.map(|pause| (pause.max_us, pause.p99_us, pause.median_us)));
        }
    }
    pauses.sort_unstable();
    let at = |percent: usize| pauses.get((pauses.len().saturating_sub(1)) * percent / 100);
    println!("{moved} moved in {seconds} s; pauses (max, p99, median, us): {:?}, longest {:?}", at(50), at(100));
    assert!(moved > seconds, "{moved} connections have moved in {seconds} s");
    crowd.finish(GET.len());
    server.stop();
}

#[test]
fn connections_that_move_all_the_time_lose_nothing() {
    forced(20);
}

#[test]
#[ignore = "takes five minutes"]
fn connections_that_move_for_long_lose_nothing() {
    forced(300);
}

/// Each change begins while connections move, and they continue to move when it is over.
#[test]
fn connections_that_move_all_the_time_cross_every_change() {
    run("rebalance::connections_that_move_all_the_time_cross_every_change", || {
        let folder = tempfile::tempdir().expect("a folder");
        let file = always(folder.path());
        let lineage = Lineage::start(3, |control, pid_file| {
            let arguments = ["--config", &file, "--settle-ms", "50", "--steering", "least"];
            Server::start(&[&arguments[..], &["--control", control, "--pid-file", pid_file]].concat())
        });
        let crowd = Crowd::http(lineage.first.address(), Counts::FEW);
        let moves_on = || {
            wait_until("what was before is gone", || {
                lineage.reap();
                lineage.masters().len() == 1 && lineage.status().generations.len() == 1
            });
            let before = lineage.status().rebalanced;
            wait_until("connections move", || lineage.status().rebalanced > before);
            crowd.round();
        };
        moves_on();
        for change in [&["reload"][..], &["scale", "5"], &["scale", "2"], &["upgrade"], &["scale", "3"]] {
            lineage.done(change);
            crowd.round();
            moves_on();
        }
        for end in ["commit", "revert", "commit"] {
            lineage.done(&["upgrade", "--hold"]);
            crowd.round();
            lineage.done(&[end]);
            crowd.round();
            moves_on();
        }
        crowd.finish(GET.len());
    });
}

/// Starts with one worker that has 64 connections, then scales to four.
fn scaled(arguments: &[&str]) -> (Server, Vec<TcpStream>) {
    let server = Server::start_controlled(&[&["--workers", "1"], arguments].concat());
    let mut clients: Vec<_> = (0..64).map(|_| connect(server.address())).collect();
    clients.iter_mut().for_each(|client| drop(ask(client).expect("an answer")));
    let _ = control::ask(&server.control(), &["scale", "4"]).done();
    (server, clients)
}

#[test]
fn new_workers_get_their_share() {
    let (server, mut clients) = scaled(&[]);
    wait_until("shares are even", || {
        let open = open(&server);
        open.len() == 4 && open.iter().all(|count| (14..=19).contains(count))
    });
    clients.iter_mut().for_each(|client| drop(ask(client).expect("the connection lives")));
    assert!(status(&server.control()).expect("it answers").rebalanced >= 42);
    server.stop();
}

#[test]
fn nothing_moves_where_it_is_off() {
    let (server, _clients) = scaled(&["--rebalance", "off"]);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(status(&server.control()).expect("it answers").rebalanced, 0);
    server.stop();
}

/// A dry run shows an operator what would move, and nothing moves. Then it moves, and nothing more is worth moving.
#[test]
fn an_operator_rebalances_where_it_is_off() {
    let (server, mut clients) = scaled(&["--rebalance", "off"]);
    let outcome = control::ask(&server.control(), &["rebalance", "--dry-run"]).done();
    let Outcome::WouldRebalance { transfers, evenness } = outcome else { panic!("{outcome:?}") };
    assert_eq!(evenness.open_percent, Some(400));
    let planned: Vec<(usize, usize, Imbalance)> = transfers.iter().map(|one| (one.from, one.to, one.because)).collect();
    let because = Imbalance::Connections { connections: 16 };
    assert_eq!(planned, [(0, 1, because), (0, 2, because), (0, 3, because)]);
    assert_eq!(open(&server), [64, 0, 0, 0], "it was asked only");
    let outcome = control::ask(&server.control(), &["rebalance"]).done();
    let Outcome::Rebalanced { transfers: 3, moves } = outcome else { panic!("{outcome:?}") };
    assert_eq!((moves.moved, open(&server)), (48, vec![16; 4]));
    assert_eq!(status(&server.control()).expect("it answers").rebalanced, 48);
    let outcome = control::ask(&server.control(), &["rebalance"]).done();
    assert!(matches!(outcome, Outcome::Balanced { because: Still::Even, .. }), "{outcome:?}");
    clients.iter_mut().for_each(|client| drop(ask(client).expect("the connection lives")));
    server.stop();
}

#[test]
fn what_cannot_be_rebalanced_is_refused() {
    let refusal = |arguments: &[&str]| {
        let server = Server::start_controlled(arguments);
        let failure = control::ask(&server.control(), &["rebalance"]).failed();
        server.stop();
        failure
    };
    let because = |why| Failure::CannotRebalance { why };
    assert_eq!(refusal(&["--workers", "1"]), because(CannotRebalance::OneWorker));
    assert_eq!(refusal(&["--workers", "2", "--connections", "wait"]), because(CannotRebalance::Setting));
}

/// The busy clients are too few to move because of their number.
#[test]
fn clients_that_ask_often_move_until_each_worker_has_some() {
    let server = Server::start_controlled(&["--workers", "1"]);
    let clients: Vec<_> = (0..12).map(|_| connect(server.address())).collect();
    let is_over = AtomicBool::new(false);
    let busy = |event: &EventKind| matches!(event, EventKind::Rebalancing { because: Imbalance::Busy { .. }, .. });
    thread::scope(|scope| {
        for mut client in clients {
            let is_over = &is_over;
            scope.spawn(move || {
                // This also ends if the test fails.
                let start = Instant::now();
                while !is_over.load(Ordering::Relaxed) && start.elapsed() < 2 * PATIENCE {
                    ask(&mut client).expect("an answer");
                }
            });
        }
        let _ = control::ask(&server.control(), &["scale", "3"]).done();
        wait_until("each worker has some", || {
            let open = open(&server);
            open.len() == 3 && open.iter().all(|count| (2..=7).contains(count))
        });
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(control::events(&server.control()).iter().any(busy));
    server.stop();
}
