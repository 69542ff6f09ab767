//! Upgrades that would lose something are refused before anything changes, with the loss and the flag that accepts it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use baton::control::{CannotMove, EventKind, Failure, Loss, Outcome};
use baton_tests::client::{ask, ask_line, assert_served, connect, read_to_end};
use baton_tests::control;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::{has_users, run};
use baton_tests::process::is_alive;
use baton_tests::program::{Server, example, free_port};
use baton_tests::{skip, wait_until};
use nix::unistd::{User, geteuid};

/// A batond, and the arguments with which it was started.
struct Started {
    lineage: Lineage,
    arguments: Vec<String>,
}

impl Started {
    fn new(more: &[&str]) -> Self {
        let mut arguments = Vec::new();
        let lineage = Lineage::start(1, |control, pid_file| {
            let own = ["--settle-ms", "50", "--control", control, "--pid-file", pid_file];
            arguments = [&own[..], more].concat().into_iter().map(str::to_owned).collect();
            Server::start(&[&own[..], more].concat())
        });
        arguments.splice(0..0, ["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
        Self { lineage, arguments }
    }

    /// An upgrade to the same binary, with another value of one of its arguments, or with a new argument.
    fn upgrade<'a>(&'a self, flags: &[&'a str], name: &'a str, value: &'a str) -> Vec<&'a str> {
        let mut arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        match arguments.iter().position(|argument| *argument == name) {
            Some(place) => arguments[place + 1] = value,
            None => arguments.extend([name, value]),
        }
        [&["upgrade"], flags, &["--"], &arguments].concat()
    }

    /// Checks that this upgrade is refused because of this loss only, and that nothing has changed.
    fn assert_refused(&self, upgrade: &[&str], expected: &Loss) {
        let (master, workers) = (self.lineage.master(), self.lineage.first.workers());
        let mut idle = connect(self.lineage.first.address());
        ask(&mut idle).expect("an answer");
        let failure = self.lineage.failed(upgrade);
        assert_eq!(failure, Failure::WouldLose { losses: vec![expected.clone()] }, "{upgrade:?}");
        ask(&mut idle).expect("the connection lives");
        self.lineage.reap();
        assert_eq!((self.lineage.master(), self.lineage.first.workers()), (master, workers), "{upgrade:?}");
        assert_eq!(self.lineage.masters(), [master], "nobody else is left");
        assert_eq!(self.lineage.status().upgrade, None, "{upgrade:?}");
    }
}

#[test]
fn another_control_socket_is_refused() {
    run("losses::another_control_socket_is_refused", || {
        let started = Started::new(&[]);
        let lineage = &started.lineage;
        let path = |name: &str| lineage.file(name).to_str().expect("UTF-8").to_owned();
        let (own, other) = (path("control"), path("other"));
        let without = Loss::Control { old: Some(own.clone()), new: None };
        started.assert_refused(&started.upgrade(&[], "--control", "off"), &without);
        let expected = Loss::Control { old: Some(own), new: Some(other.clone()) };
        started.assert_refused(&started.upgrade(&[], "--control", &other), &expected);
        // Another flag does not allow it.
        started.assert_refused(&started.upgrade(&["--allow", "state"], "--control", &other), &expected);
        let mut idle = connect(lineage.first.address());
        ask(&mut idle).expect("an answer");
        let first = lineage.master();
        let outcome = lineage.done(&started.upgrade(&["--allow", "control"], "--control", &other));
        let other = PathBuf::from(other);
        let status = control::status(&other).expect("it listens at the other path");
        assert!(matches!(outcome, Outcome::Upgraded { pid, .. } if pid == status.pid), "{outcome:?}");
        assert_served(lineage.first.address());
        ask(&mut idle).expect("the connection lives");
        wait_until("the old one has left", || {
            lineage.reap();
            !is_alive(first)
        });
        assert!(!lineage.control().exists(), "its control socket is taken away");
        assert_eq!(control::ask(&other, &["stop"]).done(), Outcome::Stopped);
    });
}

#[test]
fn another_user_is_refused() {
    run("losses::another_user_is_refused", || {
        if !geteuid().is_root() || !has_users() {
            skip("serving as another user needs root");
            return;
        }
        let user = User::from_name("nobody").expect("looked up").expect("a user");
        let started = Started::new(&[]);
        let expected = Loss::User { old: 0, new: user.uid.as_raw() };
        started.assert_refused(&started.upgrade(&[], "--user", "nobody"), &expected);
        let outcome = started.lineage.done(&started.upgrade(&["--allow", "user"], "--user", "nobody"));
        assert!(matches!(outcome, Outcome::Upgraded { .. }), "{outcome:?}");
        started.lineage.settle();
        assert_served(started.lineage.first.address());
    });
}

#[test]
fn a_tier_that_resets_is_refused() {
    run("losses::a_tier_that_resets_is_refused", || {
        let started = Started::new(&["--handover", "auto"]);
        if started.lineage.status().handover != "ebpf" {
            skip("the tier ebpf: a program may not be loaded here");
            return;
        }
        let expected = Loss::Tier { old: "ebpf".to_owned(), new: "adopt".to_owned() };
        started.assert_refused(&started.upgrade(&[], "--handover", "adopt"), &expected);
        let outcome = started.lineage.done(&started.upgrade(&["--allow", "tier"], "--handover", "adopt"));
        assert!(matches!(outcome, Outcome::Upgraded { .. }), "{outcome:?}");
        started.lineage.settle();
        assert_eq!(started.lineage.status().handover, "adopt");
        assert_served(started.lineage.first.address());
        // In the other direction nothing is lost.
        let outcome = started.lineage.done(&started.upgrade(&[], "--handover", "ebpf"));
        assert!(matches!(outcome, Outcome::Upgraded { .. }), "{outcome:?}");
    });
}

/// The store of the example `resp`, and a program that cannot read it.
#[test]
fn state_that_the_new_binary_cannot_read_is_not_lost_unasked() {
    let (resp, versions) = (example("resp"), example("versions"));
    run("losses::state_that_the_new_binary_cannot_read_is_not_lost_unasked", || {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = address.to_string();
        let mut arguments = Vec::new();
        let lineage = Lineage::start(1, |control, pid_file| {
            let own = ["--listen", &listen, "--control", control, "--pid-file", pid_file];
            arguments = own.map(str::to_owned).to_vec();
            let mut command = Command::new(&resp);
            command.args(own);
            Server::start_unlogged(command, address)
        });
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let versions = versions.to_str().expect("UTF-8");
        let upgrade = |flags: &[&'static str]| [&["upgrade", versions], flags, &["--"], &arguments].concat();
        let mut own = connect(address);
        assert_eq!(ask_line(&mut own, "SET k v"), "+OK");
        for flags in [&[][..], &["--allow", "control"]] {
            let failure = lineage.failed(&upgrade(flags));
            let Failure::WouldLose { losses } = &failure else { panic!("{failure:?}") };
            let are_both = |losses: &[Loss]| match losses {
                [Loss::ConnectionState { format, .. }, Loss::WorkerState { format: store, .. }] => {
                    format == "resp" && store == "resp store"
                }
                _ => false,
            };
            assert!(are_both(losses), "{losses:?}");
            assert_eq!(ask_line(&mut own, "DBSIZE"), ":1", "the connection and the store live");
        }
        // The same binary keeps both.
        lineage.done(&["upgrade"]);
        lineage.settle();
        assert_eq!(ask_line(&mut own, "DBSIZE"), ":1");
        let outcome = lineage.done(&upgrade(&["--allow", "state"]));
        assert!(matches!(outcome, Outcome::Upgraded { .. }), "{outcome:?}");
        // It has ended, normally or not; another protocol serves.
        let _ = read_to_end(&mut own);
        let mut other = connect(address);
        other.write_all(b"5\n").expect("sent");
        let mut answer = [0; 2];
        other.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"5\n");
    });
}

#[test]
fn connections_that_will_be_closed_are_told_before_or_keep_the_upgrade_from_happening() {
    run("losses::connections_that_will_be_closed_are_told_before_or_keep_the_upgrade_from_happening", || {
        const OPEN: usize = 7;
        for setting in ["goodbye", "wait"] {
            let started = Started::new(&["--connections", setting, "--drain-ms-max", "500"]);
            let lineage = &started.lineage;
            let mut open: Vec<_> = (0..OPEN).map(|_| connect(lineage.first.address())).collect();
            open.iter_mut().for_each(|stream| drop(ask(stream).expect("an answer")));
            let because = CannotMove::Setting;
            let failure = lineage.failed(&["upgrade", "--keep-connections"]);
            let losses = vec![Loss::Connections { open: OPEN as u64, because }];
            assert_eq!(failure, Failure::WouldLose { losses }, "{setting}");
            open.iter_mut().for_each(|stream| drop(ask(stream).expect("it lives")));
            let answer = lineage.ask(&["upgrade"]);
            let place = |is_it: &dyn Fn(&EventKind) -> bool| answer.events.iter().position(|event| is_it(&event.kind));
            let told = place(&|kind| *kind == EventKind::WillClose { connections: OPEN as u64, because });
            let serves = place(&|kind| matches!(kind, EventKind::SuccessorServes { .. }));
            assert!(told.is_some() && told < serves, "{setting}: {answer:#?}");
            assert!(matches!(answer.done(), Outcome::Upgraded { .. }));
            open.iter_mut().for_each(|stream| drop(read_to_end(stream)));
            lineage.settle();
        }
        // Connections that can move are no reason to refuse, and cause no message.
        let started = Started::new(&[]);
        let mut idle = connect(started.lineage.first.address());
        ask(&mut idle).expect("an answer");
        let answer = started.lineage.ask(&["upgrade", "--keep-connections"]);
        assert!(!answer.events.iter().any(|event| matches!(event.kind, EventKind::WillClose { .. })), "{answer:#?}");
        assert!(matches!(answer.done(), Outcome::Upgraded { .. }));
        ask(&mut idle).expect("the connection lives");
    });
}
