//! Workers that hang are found out, and whoever waits in their queues is served.

use std::io::Write;

use baton_tests::client::{GET, connect, read_answer};
use baton_tests::namespace::run;
use baton_tests::process::{is_alive, is_stopped};
use baton_tests::program::{Server, signal};
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::case::{Case, Expected, cases, prove};

/// Stops so many workers for good, and waits until they are replaced and those who waited have been served.
fn hang(server: &Server, victims: usize) {
    let before = server.count_of("\"worker ready\"");
    let hung: Vec<u32> = server.workers().into_iter().take(victims).collect();
    hung.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    wait_until("they are stopped", || hung.iter().all(|pid| is_stopped(*pid)));
    let mut waiting: Vec<_> = (0..50).map(|_| connect(server.address())).collect();
    waiting.iter_mut().for_each(|stream| stream.write_all(GET).expect("sent"));
    for stream in &mut waiting {
        let answer = read_answer(stream).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    wait_until("they are replaced", || server.count_of("\"worker ready\"") >= before + victims);
    assert!(hung.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(server.count_of("does not respond"), victims, "{:#?}", server.log());
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
