//! Connections with TLS: they move as others do, and clients notice nothing.

use std::collections::HashSet;
use std::io::{Read, Write};

use baton_tests::client::{GET, connect};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::Server;
use baton_tests::stream::{Certificate, Stream};
use nix::sys::signal::Signal;

use super::classes::{Counts, Crowd};

const ROUNDS: usize = 10;

fn start(certificate: &Certificate, more: &[&str]) -> Lineage {
    Lineage::start(2, |control, pid_file| {
        let arguments = ["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file];
        let flags = certificate.flags();
        let all: Vec<&str> =
            arguments.into_iter().chain(flags.iter().map(String::as_str)).chain(more.iter().copied()).collect();
        Server::start_secured(&all)
    })
}

#[test]
fn connections_with_tls_cross_reloads() {
    run("secured::connections_with_tls_cross_reloads", || {
        for tier in ["auto", "adopt"] {
            let certificate = Certificate::default();
            let lineage = start(&certificate, &["--handover", tier]);
            let crowd = Crowd::https(lineage.first.address(), Counts::FEW, Some(&certificate.trust));
            for _ in 0..ROUNDS {
                lineage.done(&["reload"]);
                crowd.round();
            }
            crowd.finish(GET.len());
        }
    });
}

#[test]
fn connections_with_tls_cross_upgrades() {
    run("secured::connections_with_tls_cross_upgrades", || {
        let certificate = Certificate::default();
        let lineage = start(&certificate, &[]);
        let crowd = Crowd::https(lineage.first.address(), Counts::FEW, Some(&certificate.trust));
        for _ in 0..ROUNDS / 2 {
            lineage.done(&["upgrade"]);
            crowd.round();
            lineage.settle();
            crowd.round();
        }
        crowd.finish(GET.len());
    });
}

#[test]
fn a_session_goes_on_in_a_new_connection_after_an_upgrade() {
    run("secured::a_session_goes_on_in_a_new_connection_after_an_upgrade", || {
        let certificate = Certificate::default();
        let lineage = start(&certificate, &[]);
        let ask = || {
            let mut stream = Stream::connect(lineage.first.address(), Some(&certificate.trust));
            let mut answer = [0; 64];
            stream.write_all(GET).expect("sent");
            assert!(stream.read(&mut answer).expect("an answer") > 0);
            stream.is_resumed()
        };
        assert_eq!((ask(), ask()), (false, true));
        lineage.done(&["upgrade"]);
        lineage.settle();
        assert!(ask(), "another binary's workers know the tickets");
    });
}

/// Workers are forked from one master, and so is what their random numbers begin with.
#[test]
fn no_two_workers_have_the_same_random_numbers() {
    /// Where the random bytes of a ServerHello lie in its record (RFC 8446 sections 4.1.3 and 5.1).
    const RANDOM: std::ops::Range<usize> = 5 + 4 + 2..5 + 4 + 2 + 32;
    let certificate = Certificate::default();
    let flags = certificate.flags();
    let arguments: Vec<&str> = ["--workers", "4"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let server = Server::start_secured(&arguments);
    let mut seen = HashSet::new();
    for round in 0..3 {
        for _ in 0..40 {
            let mut stream = connect(server.address());
            stream.write_all(&certificate.trust.client_hello()).expect("sent");
            let mut hello = [0; RANDOM.end];
            stream.read_exact(&mut hello).expect("an answer");
            assert_eq!((hello[0], hello[5]), (22, 2), "a ServerHello");
            assert!(seen.insert(hello[RANDOM].to_vec()), "round {round}: the same again");
        }
        server.signal(Signal::SIGHUP);
        baton_tests::wait_until("it serves", || server.count_of("the new generation serves") > round);
    }
    server.stop();
}

#[test]
fn keys_change_before_and_after_a_reload() {
    let certificate = Certificate::default();
    let flags = certificate.flags();
    let server = Server::start_secured(&flags.each_ref().map(String::as_str));
    let mut stream = Stream::connect(server.address(), Some(&certificate.trust));
    let mut ask = || {
        let mut answer = vec![0; 4096];
        stream.write_all(GET).expect("sent");
        let count = stream.read(&mut answer).expect("an answer");
        assert!(answer[..count].ends_with(b"Hello, World!"));
        stream.change_keys();
    };
    for round in 0..5 {
        ask();
        ask();
        server.signal(Signal::SIGHUP);
        baton_tests::wait_until("it serves", || server.count_of("the new generation serves") > round);
        ask();
    }
    server.stop();
}
