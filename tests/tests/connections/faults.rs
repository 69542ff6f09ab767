//! A process is killed at a step of the handover of connections. No byte is lost or doubled on a connection that lives,
//! and only connections of the killed process end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use baton::control::Outcome;
use baton_tests::client::assert_served;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::process::{children, is_alive, is_stopped};
use baton_tests::program::{Server, faulty, signal};
use baton_tests::stream::{Certificate, assert_served_by};
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::classes::{Counts, Crowd};

/// The steps of a leaving worker, in order.
const OF_SENDER: [&str; 4] = ["sender:stopping", "sender:offered", "sender:giving", "sender:given"];

/// The steps of a serving worker, in order. From the fourth on it has connections that it was given.
const OF_RECEIVER: [&str; 5] =
    ["receiver:offered", "receiver:taking", "receiver:taken", "receiver:given", "receiver:resumed"];

const COUNTS: Counts = Counts { idle: 200, cut: 60, pipelining: 10, streaming: 2, slow: 2 };

/// The most connections of one batch.
const BATCH: usize = 16;

fn build() -> PathBuf {
    faulty("faulty")
}

fn command(address: &str, tls: Option<&Certificate>, control: &str, pid_file: &str) -> Command {
    let mut command = Command::new(build());
    let scheme = if tls.is_some() { "tls://" } else { "" };
    command.args(tls.iter().flat_map(|certificate| certificate.flags()));
    command.args(["--listen", &format!("{scheme}{address}"), "--workers", "2", "--settle-ms", "50"]);
    command.args(["--control", control, "--pid-file", pid_file]);
    command
}

/// A server that ends `whom` at `step`.
fn start(step: &str, whom: &str, tls: Option<&Certificate>) -> Lineage {
    Lineage::start(2, |control, pid_file| {
        let token = Path::new(control).with_file_name("fault");
        fs::write(&token, whom).expect("written");
        let mut command = command("127.0.0.1:0", tls, control, pid_file);
        command.env("BATON_FAULT", format!("{step}@{}", token.display()));
        Server::start_command(command)
    })
}

/// Waits until one master with its workers is left. If the new master was killed after the old one had given it
/// everything, none is left; then this starts another one.
fn settle(lineage: &Lineage, address: &str, tls: Option<&Certificate>) -> Option<Server> {
    let is_settled = || {
        lineage.reap();
        let masters = lineage.masters();
        masters.is_empty() || masters == [lineage.master()]
    };
    wait_until("one master or none is left", is_settled);
    let next = lineage.masters().is_empty().then(|| {
        let path = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        Server::start_command(command(address, tls, &path(lineage.control()), &path(lineage.file("pid"))))
    });
    lineage.settle();
    next
}

/// Upgrades a server that ends `whom` at `step`. Returns what failed at its clients.
fn failures_of(step: &str, whom: &str, tls: Option<&Certificate>) -> Vec<String> {
    let lineage = start(step, whom, tls);
    let address = lineage.first.address();
    let trust = tls.map(|certificate| &certificate.trust);
    let crowd = Crowd::https(address, COUNTS, trust);
    crowd.round();
    crowd.tolerate();
    // The new master may be killed before or after it reports that it serves.
    let answer = lineage.ask(&["upgrade"]);
    let is_upgraded = matches!(answer.outcome, Some(Ok(Outcome::Upgraded { .. })));
    assert!(is_upgraded || whom == "parent", "{step}: {answer:#?}");
    wait_until("it has been killed", || !lineage.file("fault").exists());
    crowd.round();
    let next = settle(&lineage, &address.to_string(), tls);
    crowd.round();
    assert_served_by(address, trust);
    let failures = crowd.failures();
    crowd.finish(baton_tests::client::GET.len());
    let taken_over = if next.is_some() { ", and the workers were taken over" } else { "" };
    eprintln!("{step}, {whom}: {} connections have ended{taken_over}", failures.len());
    failures
}

fn assert_at_most(step: &str, whom: &str, most: usize) {
    assert_at_most_of(step, whom, most, None);
}

fn assert_at_most_of(step: &str, whom: &str, most: usize, tls: Option<&Certificate>) {
    let failures = failures_of(step, whom, tls);
    let shown = &failures[..failures.len().min(10)];
    assert!(failures.len() <= most, "{step}, {whom}: {} of at most {most}: {shown:#?}", failures.len());
    assert!(failures.iter().all(|failure| !failure.contains("wrong")), "{step}, {whom}: {shown:#?}");
}

#[test]
fn a_sender_that_is_killed_takes_with_it_what_it_had() {
    build();
    run("faults::a_sender_that_is_killed_takes_with_it_what_it_had", || {
        // The other worker has some connections.
        OF_SENDER.iter().for_each(|step| assert_at_most(step, "self", COUNTS.all() - 1));
    });
}

#[test]
fn a_receiver_that_is_killed_takes_with_it_what_it_was_given() {
    build();
    run("faults::a_receiver_that_is_killed_takes_with_it_what_it_was_given", || {
        for (place, step) in OF_RECEIVER.iter().enumerate() {
            // Nothing of the first batch is given before the fourth step; of later batches, everything may be.
            assert_at_most(step, "self", if place < 3 { 2 * BATCH } else { 4 * BATCH });
        }
    });
}

#[test]
fn masters_that_are_killed_take_nothing_with_them() {
    build();
    run("faults::masters_that_are_killed_take_nothing_with_them", || {
        for step in OF_SENDER.iter().chain(&OF_RECEIVER) {
            assert_at_most(step, "parent", 0);
        }
    });
}

#[test]
fn the_same_holds_with_tls() {
    build();
    run("faults::the_same_holds_with_tls", || {
        let certificate = Certificate::default();
        for (step, whom, most) in [
            ("sender:offered", "self", COUNTS.all() - 1),
            ("sender:giving", "self", COUNTS.all() - 1),
            ("receiver:taken", "self", 2 * BATCH),
            ("receiver:given", "self", 4 * BATCH),
            ("receiver:given", "parent", 0),
            ("receiver:taking", "stop", 0),
        ] {
            assert_at_most_of(step, whom, most, Some(&certificate));
        }
    });
}

#[test]
fn a_receiver_that_halts_keeps_nobody_waiting_for_long() {
    build();
    run("faults::a_receiver_that_halts_keeps_nobody_waiting_for_long", || {
        for (step, most) in [("receiver:offered", 0), ("receiver:taking", 0), ("receiver:given", 4 * BATCH)] {
            assert_at_most(step, "stop", most);
        }
    });
}

/// The next master would not find it, since it does not listen yet.
#[test]
fn a_worker_that_stands_still_in_its_start_ends_with_its_master() {
    build();
    run("faults::a_worker_that_stands_still_in_its_start_ends_with_its_master", || {
        let lineage = Lineage::start(2, |control, pid_file| {
            let token = Path::new(control).with_file_name("fault");
            let mut command = command("127.0.0.1:0", None, control, pid_file);
            command.env("BATON_FAULT", format!("worker:starting@{}", token.display()));
            Server::start_command(command)
        });
        let (master, address) = (lineage.first.pid(), lineage.first.address());
        fs::write(lineage.file("fault"), "stop").expect("written");
        signal(master, Signal::SIGHUP);
        let stopped = || children(master).into_iter().find(|pid| is_stopped(*pid));
        wait_until("a worker stands still in its start", || stopped().is_some());
        let worker = stopped().expect("it stands still");
        signal(master, Signal::SIGKILL);
        wait_until("it has ended", || !is_alive(worker));
        assert_served(address);
        let _next = settle(&lineage, &address.to_string(), None);
    });
}
