//! Killed workers: only requests that they were serving are lost, and clients that wait in a queue are served.

use std::io::Write;

use baton_tests::client::{GET, connect, read_answer};
use baton_tests::namespace::run;
use baton_tests::process::is_stopped;
use baton_tests::program::{Server, signal};
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::case::{Case, Expected, cases, prove, wait_for_answers};

const ROUNDS: usize = 3;

/// Kills this many workers at once, and waits until they are replaced and serve.
fn kill(server: &Server, victims: usize) {
    let before = server.count_of_events("worker_ready");
    server.workers().into_iter().take(victims).for_each(|pid| signal(pid, Signal::SIGKILL));
    wait_until("they are replaced", || server.count_of_events("worker_ready") >= before + victims);
}

#[test]
fn only_requests_being_served_are_lost() {
    run("kill::only_requests_being_served_are_lost", || {
        for case in cases() {
            for victims in 1..=case.workers {
                let what = format!("{ROUNDS} times {victims} of {} killed", case.workers);
                let lost_max = (ROUNDS * case.clients) as u64;
                prove(&what, &case, Expected::OnlyServedOnesLost(lost_max), |server, churn| {
                    for _ in 0..ROUNDS {
                        kill(server, victims);
                        wait_for_answers(churn, 200);
                    }
                });
            }
        }
    });
}

/// Stopped workers accept nothing: clients that connect meanwhile wait in their queues when they are killed.
#[test]
fn whoever_waits_in_a_queue_is_served() {
    run("kill::whoever_waits_in_a_queue_is_served", || {
        for case in cases() {
            (1..=case.workers).for_each(|victims| prove_queues(&case, victims));
        }
    });
}

fn prove_queues(case: &Case, victims: usize) {
    let what = format!("{victims} of {} killed with full queues", case.workers);
    let lost_max = case.clients as u64;
    prove(&what, case, Expected::OnlyServedOnesLost(lost_max), |server, _| kill_stopped(server, victims));
}

fn kill_stopped(server: &Server, victims: usize) {
    let stopped: Vec<u32> = server.workers().into_iter().take(victims).collect();
    stopped.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    wait_until("they are stopped", || stopped.iter().all(|pid| is_stopped(*pid)));
    let mut waiting: Vec<_> = (0..50).map(|_| connect(server.address())).collect();
    waiting.iter_mut().for_each(|stream| stream.write_all(GET).expect("sent"));
    kill(server, victims);
    for stream in &mut waiting {
        let answer = read_answer(stream).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}
