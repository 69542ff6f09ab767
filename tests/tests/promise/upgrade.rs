//! Binary upgrades: held, committed, reverted, by command and by signals, and failed ones. No connection is lost.

use std::fs;
use std::io::Write;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use baton::control::{Cause, EventKind, Exit, Failure, Outcome, RevertCause, UpgradeState};
use baton_tests::churn::{Churn, Phase};
use baton_tests::client::{GET, ask, assert_served, connect, read_answer, read_to_end};
use baton_tests::control::{self, Answer};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::{listener_queues, run, run_for, sysctl};
use baton_tests::process::{children, is_alive};
use baton_tests::program::signal;
use baton_tests::wait_until;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::case::{Case, Expected, Rights, cases, conclude, has_nobody, wait_for_answers};

/// A server of a case through all of its masters.
struct Masters {
    lineage: Lineage,
    case: Case,
    _copy: Option<TempDir>,
}

impl Deref for Masters {
    type Target = Lineage;

    fn deref(&self) -> &Lineage {
        &self.lineage
    }
}

impl Masters {
    fn start(case: &Case) -> Self {
        let mut copy = None;
        let lineage = Lineage::start(case.workers, |control, pid_file| {
            let case = Case { control: Some(control.into()), ..case.clone() };
            let (first, folder) = case.start_with("127.0.0.1:0", &["--pid-file", pid_file]);
            copy = folder;
            first
        });
        Self { lineage, case: case.clone(), _copy: copy }
    }

    /// Begins an upgrade whose command waits for the end of its probation. Returns once the new master has the control
    /// socket's name; the handle gives the command's answer.
    fn begin(&self, arguments: &[&str]) -> JoinHandle<Answer> {
        let before = self.master();
        let waiting = self.lineage.begin(arguments);
        wait_until("the new one serves", || self.master() != before);
        waiting
    }
}

/// Counts the listeners of a port repeatedly, at least [`SAMPLES_MIN`] times.
struct Sampler {
    is_over: Arc<AtomicBool>,
    fewest: JoinHandle<usize>,
}

const SAMPLES_MIN: usize = 11;

impl Sampler {
    fn start(port: u16) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let fewest = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                let (mut samples, mut fewest) = (0, usize::MAX);
                while samples < SAMPLES_MIN || !is_over.load(Ordering::Relaxed) {
                    fewest = fewest.min(listener_queues(port).len());
                    samples += 1;
                }
                fewest
            }
        });
        Self { is_over, fewest }
    }

    /// The fewest listeners at any time.
    fn finish(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.fewest.join().expect("no panic")
    }
}

/// Performs `action` under load.
fn prove(what: &str, case: &Case, action: impl FnOnce(&Masters, &Churn)) {
    let lineage = Masters::start(case);
    let address = lineage.first.address();
    let churn = Churn::start(address, case.clients);
    let sampler = Sampler::start(address.port());
    wait_for_answers(&churn, 500);
    churn.begin_phase(Phase::During);
    action(&lineage, &churn);
    lineage.settle();
    churn.begin_phase(Phase::Steady);
    wait_for_answers(&churn, 500);
    conclude(what, &lineage.case, Expected::NothingLost, &churn.finish());
    assert!(sampler.finish() > 0, "{what}: there was a time without a listener");
    assert_served(address);
    lineage.done(&["stop"]);
    let names = [lineage.control(), lineage.file("pid")];
    wait_until("its names are taken away", || names.iter().all(|name| !name.exists()));
}

/// Upgrades that can still be reverted.
const UNDECIDED: [&[&str]; 2] = [&["upgrade", "--hold"], &["upgrade", "--probation", "25"]];

/// Checks that the command that waited for an upgrade's probation reports why it was reverted.
fn assert_reverted(waiting: JoinHandle<Answer>, is_why: impl Fn(&RevertCause) -> bool) {
    let failure = waiting.join().expect("it ends").failed();
    assert!(matches!(&failure, Failure::Reverted { why, .. } if is_why(why)), "{failure:?}");
}

const TIMES: usize = 10;

#[test]
fn upgrade_after_upgrade_loses_nobody() {
    run("upgrade::upgrade_after_upgrade_loses_nobody", || {
        for migrate_req in ["0", "1"] {
            sysctl("net/ipv4/tcp_migrate_req", migrate_req);
            for case in cases() {
                let what = format!("{TIMES} upgrades, tcp_migrate_req={migrate_req}");
                prove(&what, &case, |lineage, _| {
                    for _ in 0..TIMES {
                        let before = lineage.master();
                        let outcome = lineage.done(&["upgrade"]);
                        assert_ne!(lineage.master(), before);
                        assert!(
                            matches!(outcome, Outcome::Upgraded { pid, .. } if pid == lineage.master()),
                            "{outcome:?}"
                        );
                    }
                });
            }
        }
    });
}

#[test]
fn upgrades_that_are_held_and_committed_lose_nobody() {
    run("upgrade::upgrades_that_are_held_and_committed_lose_nobody", || {
        for case in cases() {
            prove(&format!("{TIMES} upgrades held and committed"), &case, |lineage, churn| {
                for _ in 0..TIMES {
                    let before = lineage.master();
                    lineage.done(&["upgrade", "--hold"]);
                    wait_for_answers(churn, 100);
                    let (old, new) = (lineage.status_of(before).expect("a status"), lineage.status());
                    assert_eq!((old.pid, old.upgrade), (before, Some(UpgradeState::Held)));
                    assert_eq!((new.pid, new.upgrade), (lineage.master(), Some(UpgradeState::NewHeld)));
                    assert_eq!(lineage.failed(&["upgrade"]), Failure::NotCommitted);
                    assert_eq!(
                        control::ask(&lineage.control_of(before), &["upgrade"]).failed(),
                        Failure::UpgradeUnderWay
                    );
                    assert_eq!(lineage.done(&["commit"]), Outcome::Committed { pid: new.pid });
                }
            });
        }
    });
}

#[test]
fn upgrades_that_are_held_and_reverted_lose_nobody() {
    run("upgrade::upgrades_that_are_held_and_reverted_lose_nobody", || {
        for case in cases() {
            prove(&format!("{TIMES} upgrades held and reverted"), &case, |lineage, churn| {
                let first = lineage.master();
                for _ in 0..TIMES {
                    lineage.done(&["upgrade", "--hold"]);
                    wait_for_answers(churn, 100);
                    assert_eq!(lineage.done(&["revert"]), Outcome::Reverted { pid: first });
                    assert_eq!(lineage.master(), first);
                }
            });
        }
    });
}

/// The old workers have left by then.
#[test]
fn upgrades_on_probation_are_reverted_when_a_worker_dies() {
    run("upgrade::upgrades_on_probation_are_reverted_when_a_worker_dies", || {
        for case in cases() {
            // Requests that the killed worker serves are lost with it, so no client connects meanwhile.
            let lineage = Masters::start(&Case { arguments: &["--hang-ms", "400"], ..case });
            let first = lineage.master();
            for victim in [Signal::SIGKILL, Signal::SIGSTOP] {
                let waiting = lineage.begin(&["upgrade", "--probation", "25"]);
                let second = lineage.master();
                wait_until("the workers before have left", || {
                    children(first).iter().all(|pid| *pid == second || !is_alive(*pid))
                });
                assert_served(lineage.first.address());
                signal(children(second)[0], victim);
                wait_until("it is reverted", || lineage.master() == first);
                lineage.settle();
                assert_served(lineage.first.address());
                let (is_killed, reverted) = (victim == Signal::SIGKILL, lineage.status().last_revert);
                assert!(matches!(reverted, Some(Failure::Reverted { pid, .. }) if pid == second), "{reverted:?}");
                assert_reverted(waiting, |why| match why {
                    RevertCause::WorkerEnded { slot: 0, exit } => is_killed && *exit == Exit::Signal(victim as i32),
                    RevertCause::WorkerHung { slot: 0 } => !is_killed,
                    _ => false,
                });
            }
            lineage.done(&["stop"]);
        }
    });
}

#[test]
fn probation_ends_in_the_one_way_or_the_other() {
    run("upgrade::probation_ends_in_the_one_way_or_the_other", || {
        for case in cases() {
            prove("upgrade passes probation, next is not committed in time", &case, |lineage, _| {
                let first = lineage.master();
                lineage.done(&["upgrade", "--probation", "0.5"]);
                wait_until("the first one has left", || !is_alive(first));
                let second = lineage.master();
                let waiting = lineage.begin(&["upgrade", "--hold", "--probation", "0.5"]);
                wait_until("it is reverted", || lineage.master() == second);
                assert_reverted(waiting, |why| *why == RevertCause::NotCommitted);
            });
        }
    });
}

/// TERM to the new master, from any process, and kills of either.
#[test]
fn whoever_of_the_masters_ends_the_other_one_serves() {
    run("upgrade::whoever_of_the_masters_ends_the_other_one_serves", || {
        for case in cases() {
            for by in [Signal::SIGTERM, Signal::SIGKILL] {
                prove(&format!("{by} to the new master, while held and on probation"), &case, |lineage, _| {
                    let first = lineage.master();
                    for arguments in UNDECIDED {
                        let waiting = lineage.begin(arguments);
                        signal(lineage.master(), by);
                        wait_until("the first one has the word again", || lineage.master() == first);
                        lineage.settle();
                        let _ = waiting.join().expect("it ends");
                    }
                });
            }
            prove("old master killed, while held and on probation", &case, |lineage, _| {
                for arguments in UNDECIDED {
                    let before = lineage.master();
                    let waiting = lineage.begin(arguments);
                    signal(before, Signal::SIGKILL);
                    lineage.settle();
                    assert_ne!(lineage.master(), before);
                    let _ = waiting.join().expect("it ends");
                }
            });
        }
    });
}

/// The manual procedure by which nginx is upgraded.
#[test]
fn the_procedure_by_signals_loses_nobody() {
    run("upgrade::the_procedure_by_signals_loses_nobody", || {
        for case in cases() {
            prove("USR2, WINCH, HUP, QUIT to the new; USR2, WINCH, QUIT to the old", &case, |lineage, churn| {
                let first = lineage.master();
                let upgrade = || {
                    signal(first, Signal::SIGUSR2);
                    wait_until("the new one serves", || lineage.master() != first);
                    signal(first, Signal::SIGWINCH);
                    let second = lineage.master();
                    wait_until("the workers have left", || {
                        children(first).iter().all(|pid| *pid == second || !is_alive(*pid))
                    });
                    wait_for_answers(churn, 100);
                    second
                };
                let second = upgrade();
                signal(first, Signal::SIGHUP);
                wait_until("workers have come back", || children(first).len() == lineage.case.workers + 1);
                wait_for_answers(churn, 100);
                signal(second, Signal::SIGQUIT);
                wait_until("the first one has the word again", || lineage.master() == first);
                lineage.settle();
                upgrade();
                signal(first, Signal::SIGQUIT);
            });
        }
    });
}

#[test]
fn a_server_without_rights_is_upgraded_too() {
    run("upgrade::a_server_without_rights_is_upgraded_too", || {
        if has_nobody() {
            let case = Case { rights: Rights::Nobody, ..Case::new("auto", 2) };
            prove("5 upgrades, 5 held and reverted", &case, |lineage, _| {
                for _ in 0..5 {
                    lineage.done(&["upgrade"]);
                    lineage.settle();
                    lineage.done(&["upgrade", "--hold"]);
                    lineage.done(&["revert"]);
                }
            });
        }
    });
}

/// A command, and its required failure.
type Check<'a> = (&'a [&'a str], &'a dyn Fn(&Failure) -> bool);

#[test]
fn broken_upgrades_change_nothing_and_tell_why() {
    run("upgrade::broken_upgrades_change_nothing_and_tell_why", || {
        for case in cases() {
            prove("broken upgrades", &case, |lineage, _| {
                let path = |name: &str, text: &[u8], mode: u32| {
                    let path = lineage.file(name);
                    fs::write(&path, text).expect("written");
                    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set");
                    path.to_str().expect("UTF-8").to_owned()
                };
                let foreign = [&b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\x7f"[..], &[0; 100]].concat();
                let (plain, foreign) = (path("plain", b"no program", 0o644), path("foreign", &foreign, 0o755));
                let garbage = path("garbage", b"#!/bin/sh\necho garbage\nexit 7\n", 0o755);
                let forks = path("forks", b"#!/bin/sh\nsleep 0.2 &\nexit 3\n", 0o755);
                let mumbles = path("mumbles", b"#!/bin/bash\necho mumbling >&$BATON_UPGRADE\nsleep 60\n", 0o755);
                let first = lineage.master();
                let control = lineage.control();
                let control = control.to_str().expect("UTF-8");
                let is_program = |failure: &Failure, expected: &str| match failure {
                    Failure::Binary { problem, .. } => problem.contains(expected),
                    _ => false,
                };
                let ended = |failure: &Failure, code: i32| match failure {
                    Failure::SuccessorEnded { exit, .. } => *exit == Exit::Code(code),
                    _ => false,
                };
                let cannot_serve = |failure: &Failure, expected: &str| match failure {
                    Failure::SuccessorFailed { why, .. } => why.to_string().contains(expected),
                    _ => false,
                };
                let nowhere = ["upgrade", "--", "--listen", "192.0.2.1:80", "--control", control];
                let checks: [Check<'_>; 12] = [
                    (&["upgrade", "/nowhere"], &|failure| is_program(failure, "No such file")),
                    (&["upgrade", &plain], &|failure| is_program(failure, "Permission denied")),
                    (&["upgrade", &foreign], &|failure| is_program(failure, "")),
                    (&["upgrade", "/bin/false"], &|failure| ended(failure, 1)),
                    (&["upgrade", &garbage], &|failure| ended(failure, 7)),
                    (&["upgrade", &forks], &|failure| ended(failure, 3)),
                    (&["upgrade", &mumbles], &|failure| matches!(failure, Failure::Incompatible { .. })),
                    (&["upgrade", "--timeout", "0.3", "/bin/sleep", "--", "60"], &|failure| {
                        matches!(failure, Failure::SuccessorLate { waited_ms: 300.., .. })
                    }),
                    (&["upgrade", "--", "--workers", "0"], &|failure| {
                        cannot_serve(failure, "--workers: must be between")
                    }),
                    (&nowhere, &|failure| cannot_serve(failure, "no interface of this machine has this address")),
                    (&["commit"], &|failure| *failure == Failure::NothingToCommit),
                    (&["revert"], &|failure| *failure == Failure::NothingToRevert),
                ];
                for (arguments, is_expected) in checks {
                    let failure = lineage.failed(arguments);
                    assert!(is_expected(&failure), "{arguments:?}: {failure:?}");
                    assert_eq!(lineage.master(), first);
                }
            });
        }
    });
}

/// With `goodbye`, the old workers answer requests that have begun, and idle connections end normally.
#[test]
fn a_thousand_connections_end_in_good_order() {
    run("upgrade::a_thousand_connections_end_in_good_order", || {
        for case in cases() {
            let case = Case { arguments: &["--connections", "goodbye"], ..case };
            let lineage = Masters::start(&case);
            let address = lineage.first.address();
            let mut begun: Vec<_> = (0..1_000).map(|_| connect(address)).collect();
            let mut idle: Vec<_> = (0..1_000).map(|_| connect(address)).collect();
            for stream in begun.iter_mut().chain(&mut idle) {
                ask(stream).expect("an answer");
            }
            begun.iter_mut().for_each(|stream| stream.write_all(&GET[..10]).expect("sent"));
            lineage.done(&["upgrade"]);
            for stream in &mut idle {
                assert_eq!(read_to_end(stream).expect("an orderly end"), b"");
            }
            for stream in &mut begun {
                stream.write_all(&GET[10..]).expect("sent");
                let answer = read_answer(stream).expect("an answer");
                assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
            }
            drop((begun, idle));
            lineage.settle();
            lineage.done(&["stop"]);
        }
    });
}

/// Run with: `cargo test --release -p baton-tests --test promise upgrade::long -- --ignored --nocapture --test-threads 1`
mod long {
    use super::*;

    const TIME_MAX: Duration = Duration::from_secs(1800);

    #[test]
    #[ignore = "takes minutes"]
    fn a_hundred_upgrades_fifty_commits_and_fifty_of_each_revert() {
        run_for("upgrade::long::a_hundred_upgrades_fifty_commits_and_fifty_of_each_revert", TIME_MAX, || {
            for migrate_req in ["0", "1"] {
                sysctl("net/ipv4/tcp_migrate_req", migrate_req);
                for case in cases() {
                    let prove_times = |what: &str, times: usize, action: &dyn Fn(&Masters)| {
                        let what = format!("{times} {what}, tcp_migrate_req={migrate_req}");
                        prove(&what, &case, |lineage, _| (0..times).for_each(|_| action(lineage)));
                    };
                    prove_times("upgrades", 100, &|lineage| drop(lineage.done(&["upgrade"])));
                    prove_times("held and committed", 50, &|lineage| {
                        lineage.done(&["upgrade", "--hold"]);
                        lineage.done(&["commit"]);
                    });
                    prove_times("held and reverted by command", 50, &|lineage| {
                        lineage.done(&["upgrade", "--hold"]);
                        lineage.done(&["revert"]);
                        lineage.settle();
                    });
                    prove_times("reverted by TERM after the old workers left", 50, &|lineage| {
                        let first = lineage.master();
                        let waiting = lineage.begin(&["upgrade", "--probation", "25"]);
                        signal(lineage.master(), Signal::SIGTERM);
                        wait_until("the first one has the word again", || lineage.master() == first);
                        lineage.settle();
                        assert_reverted(waiting, |why| *why == RevertCause::Stopped { by: Cause::Term });
                    });
                }
            }
        });
    }
}

/// A new master has the same descriptors open as a fresh one, however many masters came before it.
#[test]
fn nothing_piles_up() {
    run("upgrade::nothing_piles_up", || {
        for case in cases() {
            let lineage = Masters::start(&case);
            let descriptors = |pid: u32| baton_tests::process::descriptors(pid);
            lineage.done(&["upgrade"]);
            lineage.settle();
            // The channel to the previous master is closed when that one has ended.
            wait_until("the one before is forgotten", || lineage.has_event(|kind| *kind == EventKind::PredecessorGone));
            let fresh = descriptors(lineage.master());
            for _ in 0..10 {
                lineage.done(&["upgrade"]);
                lineage.settle();
            }
            wait_until("the last one has no more than the first", || descriptors(lineage.master()) <= fresh);
            lineage.done(&["stop"]);
        }
    });
}
