//! Two masters and failures between them: requests to a former master, stops and kills at every moment of an upgrade.
//! In every case one of them serves, or none and nothing is left; and the serving one is reached by its names.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use baton::control::{Failure, Interruption, UpgradeState};
use baton_tests::client::{ask, assert_served, connect};
use baton_tests::control;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::process::{children, is_alive};
use baton_tests::program::{Server, faulty, signal};
use baton_tests::{wait_until, wait_until_equal};
use nix::sys::signal::Signal;

use super::case::{Case, cases};

fn start(case: &Case) -> Lineage {
    Lineage::start(case.workers, |control, pid_file| {
        let case = Case { control: Some(control.into()), ..case.clone() };
        case.start_with("127.0.0.1:0", &["--pid-file", pid_file]).0
    })
}

/// Files beside the control socket, including the socket itself.
fn files(lineage: &Lineage) -> Vec<String> {
    let folder = lineage.control();
    let entries = fs::read_dir(folder.parent().expect("a folder")).expect("read");
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Asserts that the serving master is the only one, is reached by its names, and ends with all its workers when ordered
/// to.
fn assert_one_serves_and_stops(lineage: &Lineage, what: &str) {
    lineage.settle();
    let master = lineage.master();
    wait_until("its name leads to it", || control::status(&lineage.control()).is_some_and(|one| one.pid == master));
    let names = ["control", "control.workers", "pid"];
    wait_until_equal(&format!("{what}: nothing is left beside its names"), names, || files(lineage));
    assert_served(lineage.first.address());
    lineage.done(&["stop"]);
    assert_nothing_is_left(lineage, what);
}

fn assert_nothing_is_left(lineage: &Lineage, what: &str) {
    wait_until(&format!("{what}: all processes have ended"), || {
        lineage.reap();
        lineage.masters().is_empty() && lineage.workers().is_empty()
    });
    // The files are removed before the processes end.
    assert_eq!(files(lineage), [""; 0], "{what}: no file is left");
}

/// Times after the command that hit an upgrade at each of its steps; a start takes about 20 ms. The simulator tries all
/// orders; these few cover what it does not model.
fn moments() -> impl Iterator<Item = Duration> {
    (0..6).map(|step| Duration::from_millis(step * 6))
}

/// Each tier, with two workers.
fn pairs() -> impl Iterator<Item = Case> {
    cases().into_iter().filter(|case| case.workers == 2)
}

/// A former master that was draining once took all connections back, and stayed when the new one stopped.
#[test]
fn a_former_master_refuses_to_serve_again() {
    run("masters::a_former_master_refuses_to_serve_again", || {
        for case in cases() {
            let lineage = start(&Case { arguments: &["--connections", "wait"], ..case });
            let mut stays = connect(lineage.first.address());
            ask(&mut stays).expect("an answer");
            let old = lineage.master();
            lineage.done(&["upgrade"]);
            let new = lineage.master();
            let draining =
                |pid: u32| children(pid).into_iter().filter(|child| is_alive(*child) && *child != new).count();
            wait_until("the worker with the connection is left", || draining(old) == 1);
            let control = lineage.control_of(old);
            for request in [&["reload"][..], &["scale", "3"], &["upgrade"], &["commit"], &["revert"]] {
                let failure = control::ask(&control, request).failed();
                assert_eq!(failure, Failure::Leaving { successor: new }, "{request:?}");
            }
            signal(old, Signal::SIGHUP);
            signal(old, Signal::SIGUSR2);
            // It has handled them when it answers.
            let status = control::status(&control).expect("a status");
            assert_eq!((status.upgrade, status.generations.len()), (Some(UpgradeState::Leaving), 1), "{status:#?}");
            assert_eq!((draining(old), lineage.master()), (1, new));
            assert_served(lineage.first.address());
            drop(stays);
            assert_one_serves_and_stops(&lineage, "requests to a former master");
        }
    });
}

/// The new master's workers once remained, or the stop never ended.
#[test]
fn a_stop_while_a_new_master_starts_leaves_nothing_half_done() {
    run("masters::a_stop_while_a_new_master_starts_leaves_nothing_half_done", || {
        for case in pairs() {
            for name in [Signal::SIGTERM, Signal::SIGQUIT] {
                for moment in moments() {
                    let what = format!("{name} {moment:?} after an upgrade began, {case:?}");
                    let lineage = start(&case);
                    let old = lineage.master();
                    let upgrade = lineage.begin(&["upgrade"]);
                    thread::sleep(moment);
                    signal(old, name);
                    wait_until(&format!("{what}: the old master has ended"), || !is_alive(old));
                    let answer = upgrade.join().expect("it ends");
                    if answer.outcome.as_ref().is_some_and(Result::is_ok) {
                        assert_one_serves_and_stops(&lineage, &what);
                    } else {
                        assert_nothing_is_left(&lineage, &what);
                    }
                }
            }
        }
    });
}

/// If a new master was killed between taking the names and reporting that it serves, the names once remained.
#[test]
fn a_stop_while_a_new_master_takes_the_names_leaves_nothing_half_done() {
    faulty("faulty");
    run("masters::a_stop_while_a_new_master_takes_the_names_leaves_nothing_half_done", || {
        for name in [Signal::SIGTERM, Signal::SIGQUIT] {
            let lineage = Lineage::start(1, |control, pid_file| {
                let mut command = Command::new(faulty("faulty"));
                command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--control", control]);
                command.args(["--pid-file", pid_file]);
                command.env("BATON_FAULT", format!("master:control@{control}.fault"));
                Server::start_command(command)
            });
            let old = lineage.master();
            fs::write(lineage.file("control.fault"), "stop").expect("written");
            let upgrade = lineage.begin(&["upgrade"]);
            wait_until("the new master stands still", || !lineage.file("control.fault").exists());
            signal(old, name);
            assert_eq!(upgrade.join().expect("it ends").failed(), Failure::CutOff { by: Interruption::Stop });
            assert_nothing_is_left(&lineage, &format!("{name}"));
        }
    });
}

/// No master got the control socket's name once.
#[test]
fn where_the_old_master_is_killed_while_the_new_one_starts_the_new_one_has_the_names() {
    run("masters::where_the_old_master_is_killed_while_the_new_one_starts_the_new_one_has_the_names", || {
        for case in pairs() {
            for moment in moments() {
                let what = format!("the old master killed {moment:?} after an upgrade began, {case:?}");
                let lineage = start(&case);
                let old = lineage.master();
                let upgrade = lineage.begin(&["upgrade", "--probation", "25"]);
                thread::sleep(moment);
                signal(old, Signal::SIGKILL);
                let _ = upgrade.join().expect("it ends");
                wait_until(&format!("{what}: one serves, or the new one has ended"), || {
                    lineage.reap();
                    let masters = lineage.masters();
                    masters.is_empty() || lineage.master() == masters[0] && masters[0] != old
                });
                // Before it is accepted, a new master ends with the old one: the old workers keep serving.
                assert_served(lineage.first.address());
                if !lineage.masters().is_empty() {
                    assert_one_serves_and_stops(&lineage, &what);
                }
            }
        }
    });
}

/// Its control socket once remained.
#[test]
fn a_new_master_that_is_killed_leaves_nothing() {
    run("masters::a_new_master_that_is_killed_leaves_nothing", || {
        for case in pairs() {
            for moment in moments() {
                let what = format!("the new master killed {moment:?} after it was started, {case:?}");
                let lineage = start(&case);
                let old = lineage.master();
                let upgrade = lineage.begin(&["upgrade", "--hold"]);
                let mut new = None;
                wait_until("the new one is started", || {
                    new = lineage.masters().into_iter().find(|pid| *pid != old);
                    new.is_some()
                });
                thread::sleep(moment);
                // It may not look like a master at this time: it opens a ring for a moment to see what the kernel can
                // do.
                new.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
                let _ = upgrade.join().expect("it ends");
                wait_until(&format!("{what}: the old one has the names"), || lineage.master() == old);
                assert_one_serves_and_stops(&lineage, &what);
            }
        }
    });
}
