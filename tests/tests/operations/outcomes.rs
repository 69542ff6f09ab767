//! Each operation ends once, with what really happened; an operation that was cut off is an error.

use baton::control::{Cause, EventKind, Failure, GenerationPhase, Interruption, Outcome, RevertCause, UpgradeState};
use baton_tests::client::{ask, assert_served, connect, read_to_end};
use baton_tests::control;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::process::{children, is_alive};
use baton_tests::program::{Server, signal};
use baton_tests::wait_until;
use nix::sys::signal::Signal;

fn start(workers: usize, more: &[&str]) -> Lineage {
    let count = workers.to_string();
    Lineage::start(workers, |control, pid_file| {
        let arguments = ["--workers", &count, "--settle-ms", "50", "--control", control, "--pid-file", pid_file];
        Server::start(&[&arguments[..], more].concat())
    })
}

/// Signals that stop a server.
const STOPS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// A stopped worker hands nothing over: an operation that waits for that does not end by itself.
const PATIENT: [&str; 6] = ["--hang-ms", "0", "--stop-ms-max", "200", "--drain-ms-max", "500"];

fn cut_off_by_stop() -> Failure {
    Failure::CutOff { by: Interruption::Stop }
}

#[test]
fn a_reload_that_a_stop_cuts_off_is_an_error() {
    run("outcomes::a_reload_that_a_stop_cuts_off_is_an_error", || {
        for stop in STOPS {
            let lineage = start(1, &PATIENT);
            let mut open = connect(lineage.first.address());
            ask(&mut open).expect("an answer");
            signal(lineage.first.workers()[0], Signal::SIGSTOP);
            let waiting = lineage.begin(&["reload"]);
            wait_until("the new generation serves", || {
                let generations = lineage.status().generations;
                generations.last().is_some_and(|last| (last.number, last.phase) == (2, GenerationPhase::Serving))
            });
            signal(lineage.master(), stop);
            assert_eq!(waiting.join().expect("no panic").failed(), cut_off_by_stop(), "{stop}");
        }
    });
}

#[test]
fn a_scaling_that_a_stop_cuts_off_is_an_error() {
    run("outcomes::a_scaling_that_a_stop_cuts_off_is_an_error", || {
        for stop in STOPS {
            let lineage = start(2, &PATIENT);
            // So many that the leaving worker has some.
            let mut open: Vec<_> = (0..40).map(|_| connect(lineage.first.address())).collect();
            open.iter_mut().for_each(|stream| drop(ask(stream).expect("an answer")));
            let leaving = lineage.status().generations[0].workers[1].pid.expect("a worker");
            signal(leaving, Signal::SIGSTOP);
            let waiting = lineage.begin(&["scale", "1"]);
            wait_until("it has begun", || lineage.has_event(|kind| *kind == EventKind::Scaling { from: 2, to: 1 }));
            signal(lineage.master(), stop);
            assert_eq!(waiting.join().expect("no panic").failed(), cut_off_by_stop(), "{stop}");
        }
    });
}

#[test]
fn an_upgrade_that_a_stop_cuts_off_is_an_error_and_leaves_nobody() {
    run("outcomes::an_upgrade_that_a_stop_cuts_off_is_an_error_and_leaves_nobody", || {
        for stop in STOPS {
            let mut lineage = start(1, &[]);
            // It never serves.
            let waiting = lineage.begin(&["upgrade", "/bin/sleep", "--", "600"]);
            wait_until("it has begun", || lineage.status().upgrade == Some(UpgradeState::Starting));
            let (master, worker) = (lineage.master(), lineage.first.workers());
            let all = children(master);
            assert!(
                all.len() == 2 && worker.iter().all(|pid| all.contains(pid)),
                "a worker and the new binary: {all:?}"
            );
            signal(master, stop);
            assert_eq!(waiting.join().expect("no panic").failed(), cut_off_by_stop(), "{stop}");
            assert_eq!(lineage.first.wait().code(), Some(0), "{:#?}", lineage.first.log());
            wait_until("nobody is left", || all.iter().all(|pid| !is_alive(*pid)));
        }
    });
}

/// The client that asked for the stop, and the one whose operation it cut off, both get the truth.
#[test]
fn a_stop_is_done_and_what_it_cut_off_is_not() {
    run("outcomes::a_stop_is_done_and_what_it_cut_off_is_not", || {
        let lineage = start(1, &[]);
        let waiting = lineage.begin(&["upgrade", "/bin/sleep", "--", "600"]);
        wait_until("it has begun", || lineage.status().upgrade == Some(UpgradeState::Starting));
        assert_eq!(lineage.done(&["stop"]), Outcome::Stopped);
        assert_eq!(waiting.join().expect("no panic").failed(), cut_off_by_stop());
    });
}

#[test]
fn a_stop_of_a_new_master_that_is_not_final_is_a_revert() {
    run("outcomes::a_stop_of_a_new_master_that_is_not_final_is_a_revert", || {
        for stop in [&["stop"][..], &["stop", "--now"], &["stop", "--deadline", "1"]] {
            let lineage = start(1, &[]);
            let first = lineage.master();
            assert!(matches!(lineage.done(&["upgrade", "--hold"]), Outcome::Held { pid } if pid == lineage.master()));
            assert_eq!(lineage.done(stop), Outcome::Reverted { pid: first }, "{stop:?}, held");
            lineage.settle();
            assert_served(lineage.first.address());
            let waiting = lineage.begin(&["upgrade", "--probation", "60"]);
            lineage.wait_for_probation(first);
            let second = lineage.master();
            assert_eq!(lineage.done(stop), Outcome::Reverted { pid: first }, "{stop:?}, on probation");
            let failure = waiting.join().expect("no panic").failed();
            let why = RevertCause::Stopped { by: Cause::Control };
            assert_eq!(failure, Failure::Reverted { pid: second, why }, "{stop:?}");
            lineage.settle();
            assert_eq!(lineage.master(), first);
            assert_served(lineage.first.address());
            assert_eq!(lineage.done(&["stop"]), Outcome::Stopped);
        }
    });
}

/// The operation of a client that does not wait continues.
#[test]
fn a_client_that_goes_away_changes_nothing() {
    run("outcomes::a_client_that_goes_away_changes_nothing", || {
        let lineage = start(1, &[]);
        let mut idle = connect(lineage.first.address());
        ask(&mut idle).expect("an answer");
        let first = lineage.master();
        let mut client = control::command(&lineage.control(), &["upgrade"]).spawn().expect("it starts");
        wait_until("it has begun", || lineage.status_of(first).is_some() || lineage.status().upgrade.is_some());
        let _ = client.kill();
        let _ = client.wait();
        wait_until("the new one serves", || lineage.master() != first);
        lineage.settle();
        ask(&mut idle).expect("an answer");
        assert_eq!(lineage.done(&["stop"]), Outcome::Stopped);
        assert_eq!(read_to_end(&mut idle).expect("an orderly end"), b"");
    });
}
