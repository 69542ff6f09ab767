//! Connections with TLS: they move as others do, and clients notice nothing.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use baton_tests::client::{GET, connect};
use baton_tests::control;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::{Server, batonctl, batond, is_installed, run as run_program};
use baton_tests::skip;
use baton_tests::stream::{Certificate, Stream, Trust};
use nix::sys::signal::Signal;

use super::classes::{Counts, Crowd};

const ROUNDS: usize = 10;

/// The output of curl, which follows redirects as if batond's ports were those of `http` and `https`.
fn curl(plain: SocketAddr, secured: SocketAddr, certificate: &Certificate, arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "-L", "--cacert"]).arg(&certificate.files()[0]);
    for (port, address) in [(80, plain), (443, secured)] {
        command.args(["--connect-to", &format!("localhost:{port}:{}:{}", address.ip(), address.port())]);
    }
    let output = run_program(command.args(arguments));
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn plain_requests_are_sent_on_to_tls_before_and_after_a_reload() {
    if !is_installed("curl") && skip("curl is not installed") {
        return;
    }
    let certificate = Certificate::default();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("batond.toml");
    let challenges = folder.path().join("challenges");
    std::fs::create_dir(&challenges).expect("a folder");
    std::fs::write(challenges.join("token"), "proof").expect("written");
    let [cert, key] = certificate.files();
    let text = format!(
        "listen = [\"tls://127.0.0.1:0\", {{ address = \"127.0.0.1:0\", redirect = \"https\" }}]\n\
         [tls]\ncertificates = [{{ certificate = {cert:?}, key = {key:?} }}]\n\
         [[static]]\npath = \"/.well-known/acme-challenge/\"\nfolder = {challenges:?}\n"
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new(batond());
    let control = folder.path().join("control");
    command.args(["--workers", "2", "--control"]).arg(&control).arg("--config").arg(&config);
    let server = Server::start_command(command);
    let addresses = control::status(&control).expect("a status").generations.remove(0).addresses;
    let addresses: Vec<SocketAddr> = addresses.iter().map(|one| one.parse().expect("an address")).collect();
    let [secured, plain] = addresses[..] else { panic!("{addresses:?}") };
    let curl = |arguments: &[&str]| curl(plain, secured, &certificate, arguments);
    for _ in 0..2 {
        assert_eq!(curl(&["http://localhost/plaintext"]), "Hello, World!");
        assert_eq!(curl(&["--http1.0", "http://localhost/plaintext"]), "Hello, World!");
        assert_eq!(curl(&["-d", "hello", "http://localhost/echo?a=b"]), "hello", "a POST stays one");
        let told = "%{num_redirects} %{url_effective} %{http_code}";
        let quiet = ["-o", "/dev/null", "-w", told];
        assert_eq!(curl(&[&quiet[..], &["http://localhost/a?b"]].concat()), "1 https://localhost/a?b 404");
        assert_eq!(curl(&[&quiet[..], &["-I", "http://localhost/"]].concat()), "1 https://localhost/ 200");
        assert_eq!(curl(&["http://localhost/.well-known/acme-challenge/token"]), "proof");
        let refused = curl(&[&quiet[..], &["-H", "Host: a@b", "http://localhost/"]].concat());
        assert_eq!(refused, "0 http://localhost/ 400");
        server.reload();
    }
    server.stop();
}

fn start(certificate: &Certificate, more: &[&str]) -> Lineage {
    Lineage::start(2, |control, pid_file| {
        let arguments = ["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file];
        let flags = certificate.flags();
        let all: Vec<&str> =
            arguments.into_iter().chain(flags.iter().map(String::as_str)).chain(more.iter().copied()).collect();
        Server::start_secured(&all)
    })
}

/// Clients of TLS 1.3, and of TLS 1.2.
fn crowds(lineage: &Lineage, certificate: &Certificate) -> [Crowd; 2] {
    let address = lineage.first.address();
    [&certificate.trust, &certificate.trust_tls12].map(|trust| Crowd::https(address, Counts::FEW, Some(trust)))
}

#[test]
fn connections_with_tls_cross_reloads() {
    run("secured::connections_with_tls_cross_reloads", || {
        for tier in ["auto", "adopt"] {
            let certificate = Certificate::default();
            let lineage = start(&certificate, &["--handover", tier]);
            let crowds = crowds(&lineage, &certificate);
            for _ in 0..ROUNDS {
                lineage.done(&["reload"]);
                crowds.iter().for_each(Crowd::round);
            }
            crowds.into_iter().for_each(|crowd| crowd.finish(GET.len()));
        }
    });
}

#[test]
fn connections_with_tls_cross_upgrades() {
    run("secured::connections_with_tls_cross_upgrades", || {
        let certificate = Certificate::default();
        let lineage = start(&certificate, &[]);
        let crowds = crowds(&lineage, &certificate);
        for _ in 0..ROUNDS / 2 {
            lineage.done(&["upgrade"]);
            crowds.iter().for_each(Crowd::round);
            lineage.settle();
            crowds.iter().for_each(Crowd::round);
        }
        crowds.into_iter().for_each(|crowd| crowd.finish(GET.len()));
    });
}

#[test]
fn a_session_goes_on_in_a_new_connection_after_an_upgrade() {
    run("secured::a_session_goes_on_in_a_new_connection_after_an_upgrade", || {
        let certificate = Certificate::default();
        let lineage = start(&certificate, &[]);
        let ask = |trust: &Trust| {
            let mut stream = Stream::connect(lineage.first.address(), Some(trust));
            let mut answer = [0; 64];
            stream.write_all(GET).expect("sent");
            assert!(stream.read(&mut answer).expect("an answer") > 0);
            stream.is_resumed()
        };
        let both = [&certificate.trust, &certificate.trust_tls12];
        assert_eq!((both.map(ask), both.map(ask)), ([false; 2], [true; 2]));
        lineage.done(&["reload"]);
        lineage.settle();
        assert_eq!(both.map(ask), [true; 2], "other workers know the tickets");
        lineage.done(&["upgrade"]);
        lineage.settle();
        // The tickets of TLS 1.2 depend on a secret that no process gives to another.
        assert_eq!(both.map(ask), [true, false], "another binary's workers know the tickets of TLS 1.3");
        assert_eq!(both.map(ask), [true; 2]);
    });
}

/// Workers are forked from one master, and share the initial state of their random number generators.
#[test]
fn no_two_workers_have_the_same_random_numbers() {
    /// The range of a ServerHello's random bytes in its record (RFC 8446 sections 4.1.3 and 5.1).
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
        baton_tests::wait_until("it serves", || server.count_of_events("serves") > round + 1);
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
        baton_tests::wait_until("it serves", || server.count_of_events("serves") > round + 1);
        ask();
    }
    server.stop();
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn status_tells_when_certificates_expire() {
    run("secured::status_tells_when_certificates_expire", || {
        // Half an hour more, so that the number of whole days does not change while the test runs.
        let certificate = Certificate::valid(77 * DAY, 13 * DAY + DAY / 48);
        let flags = certificate.flags();
        let more = ["--listen", "tls://127.0.0.1:0", "--listen", "127.0.0.1:0"];
        let lineage = start(&certificate, &more);
        let status = lineage.status();
        let generation = &status.generations[0];
        let [one] = &generation.certificates[..] else { panic!("{:?}", generation.certificates) };
        assert_eq!(one.addresses, generation.addresses[..2]);
        assert_eq!(one.names, ["localhost"]);
        let in_s = u64::try_from(one.expires_in_s).expect("later");
        assert!((13 * DAY..=13 * DAY + DAY / 48).contains(&Duration::from_secs(in_s)), "{one:?}");
        let warning = &one.warnings[0];
        assert!(warning.starts_with(&format!("{} line 1: ", flags[1])), "{warning}");
        assert!(warning.contains("13 days"), "{warning}");

        let output = run_program(Command::new(batonctl()).arg("--control").arg(lineage.control()).arg("status"));
        let screen = String::from_utf8_lossy(&output.stdout);
        let line = screen.lines().find(|line| line.contains(&one.addresses.join(" ")) && line.contains("localhost"));
        assert!(line.is_some_and(|line| line.contains("13 days")) && screen.contains(warning.as_str()), "{screen}");
    });
}
