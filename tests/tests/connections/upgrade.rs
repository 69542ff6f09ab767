//! Upgrades, committed and reverted.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use baton::control::{Failure, Loss, Outcome, Refusal};
use baton_tests::client::{GET, connect};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::{Server, example, free_port};

use super::classes::{Counts, Crowd};

fn start(more: &[&str]) -> Lineage {
    Lineage::start(2, |control, pid_file| {
        let arguments = ["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file];
        Server::start(&[&arguments[..], more].concat())
    })
}

#[test]
fn connections_cross_upgrades() {
    run("upgrade::connections_cross_upgrades", || {
        for tier in ["auto", "adopt"] {
            let lineage = start(&["--handover", tier]);
            let crowd = Crowd::http(lineage.first.address(), Counts::FEW);
            for _ in 0..5 {
                lineage.done(&["upgrade"]);
                crowd.round();
                lineage.settle();
                crowd.round();
            }
            crowd.finish(GET.len());
        }
    });
}

#[test]
fn connections_cross_upgrades_that_follow_each_other_at_once() {
    run("upgrade::connections_cross_upgrades_that_follow_each_other_at_once", || {
        let lineage = start(&["--protocol", "echo"]);
        let crowd = Crowd::echo(lineage.first.address(), Counts { idle: 1_000, ..Counts::FEW });
        for _ in 0..5 {
            lineage.done(&["upgrade"]);
        }
        crowd.round();
        lineage.settle();
        crowd.round();
        crowd.finish(10);
    });
}

#[test]
fn connections_come_back_with_a_revert() {
    run("upgrade::connections_come_back_with_a_revert", || {
        let lineage = start(&[]);
        let crowd = Crowd::http(lineage.first.address(), Counts::FEW);
        for _ in 0..3 {
            lineage.done(&["upgrade", "--hold"]);
            crowd.round();
            lineage.done(&["revert"]);
            crowd.round();
            lineage.settle();
            // On probation the previous workers have left; the revert starts new ones.
            let first = lineage.master();
            let waiting = lineage.begin(&["upgrade", "--probation", "60"]);
            lineage.wait_for_probation(first);
            crowd.round();
            lineage.done(&["revert"]);
            let failure = waiting.join().expect("no panic").failed();
            assert!(matches!(failure, Failure::Reverted { .. }), "{failure:?}");
            crowd.round();
            lineage.settle();
            crowd.round();
        }
        crowd.finish(GET.len());
    });
}

/// The example `versions`: its releases read and write different versions of a connection's state.
#[test]
fn connections_cross_versions_of_their_state() {
    let program = example("versions");
    run("upgrade::connections_cross_versions_of_their_state", || {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let arguments = |control: &str, pid_file: &str, release: &str| {
            ["--listen", &address.to_string(), "--control", control, "--pid-file", pid_file, "--release", release]
                .map(str::to_owned)
        };
        let lineage = Lineage::start(1, |control, pid_file| {
            let mut command = Command::new(&program);
            command.args(arguments(control, pid_file, "1"));
            Server::start_unlogged(command, address)
        });
        let path = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        let upgrade = |release: &str, more: &[&str]| {
            let arguments = arguments(&path(lineage.control()), &path(lineage.file("pid")), release);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let outcome = lineage.done(&[&["upgrade"], more, &["--"], &arguments].concat());
            let Outcome::Upgraded { moves, .. } = outcome else { panic!("{outcome:#?}") };
            moves
        };
        let stream = connect(address);
        let mut answers = BufReader::new(stream.try_clone().expect("cloned")).lines();
        let mut ask = |line: &str| {
            (&stream).write_all(format!("{line}\n").as_bytes()).expect("sent");
            answers.next().expect("a line").expect("read")
        };
        assert_eq!((ask("5"), ask("mean")), ("5".to_owned(), "error: a number is needed".to_owned()));
        upgrade("2", &[]);
        assert_eq!((ask("7"), ask("mean")), ("12".to_owned(), "12".to_owned()), "one was counted since");
        upgrade("3", &[]);
        assert_eq!((ask("8"), ask("mean")), ("20".to_owned(), "20".to_owned()), "release 2 has not written the count");
        // Release 2 reads what release 3 writes.
        upgrade("2", &[]);
        assert_eq!((ask("4"), ask("mean")), ("24".to_owned(), "12".to_owned()));
        upgrade("3", &[]);
        assert_eq!(ask("1"), "25");
        // Release 1 does not: the upgrade is refused and nothing changes, unless that loss is allowed.
        let (control, pid_file) = (path(lineage.control()), path(lineage.file("pid")));
        let to_release_1 = arguments(&control, &pid_file, "1");
        let to_release_1: Vec<&str> = to_release_1.iter().map(String::as_str).collect();
        let failure = lineage.failed(&[&["upgrade", "--"], &to_release_1[..]].concat());
        let loss = Loss::ConnectionState { format: "tallies".to_owned(), version: 2 };
        assert_eq!(failure, Failure::WouldLose { losses: vec![loss] });
        assert_eq!(ask("1"), "26");
        let moves = upgrade("1", &["--allow", "state"]);
        assert_eq!((moves.moved, moves.refused_for(Refusal::Version)), (0, 1));
        assert_eq!(answers.next().expect("a line").expect("read"), "bye");
        assert!(answers.next().is_none(), "an orderly end");
    });
}
