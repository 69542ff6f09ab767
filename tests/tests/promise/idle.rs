//! Workers leave and the master stays (WINCH), until a reload starts new ones.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use baton_tests::client::{GET, assert_served, connect, read_answer};
use baton_tests::namespace::run;
use baton_tests::program::{Server, batond};
use baton_tests::wait_until;
use nix::sys::signal::Signal;
use tempfile::tempdir;

use super::case::{Expected, cases, prove, tiers};

/// Clients that wait while no worker runs.
const WAITING: usize = 8;

fn leave_and_come_back(server: &Server) {
    for _ in 0..3 {
        server.signal(Signal::SIGWINCH);
        wait_until("all workers have left", || server.workers().is_empty());
        server.reload();
    }
}

/// Clients that connect meanwhile wait.
#[test]
fn nobody_fails() {
    run("idle::nobody_fails", || {
        for case in cases() {
            prove("3 times WINCH and HUP", &case, Expected::NothingLost, |server, _| leave_and_come_back(server));
        }
    });
}

/// Clients that wait at a former address are served, although the reload that starts the workers gives the address up.
/// The address can also be used again.
#[test]
fn whoever_waits_is_served_although_the_address_is_given_up() {
    run("idle::whoever_waits_is_served_although_the_address_is_given_up", || {
        let (stays, given_up) = ("127.0.0.1:4000", "127.0.0.1:4001");
        for tier in tiers() {
            let folder = tempdir().expect("a folder");
            let path = folder.path().join("batond.toml");
            let listen = |addresses: &[&str]| {
                let text = format!("listen = {addresses:?}\nworkers = 2\n[timeouts]\nsettle_ms = 100\n");
                fs::write(&path, text).expect("written");
            };
            listen(&[stays, given_up]);
            let mut command = Command::new(batond());
            command.args(["--handover", tier, "--control", "off", "--config"]).arg(&path);
            let server = Server::start_command(command);
            server.signal(Signal::SIGWINCH);
            wait_until("all workers have left", || server.workers().is_empty());
            let given_up = given_up.parse().expect("an address");
            let mut waiting: Vec<TcpStream> = (0..WAITING).map(|_| connect(given_up)).collect();
            waiting.iter_mut().for_each(|stream| stream.write_all(GET).expect("sent"));
            listen(&[stays]);
            server.reload();
            for stream in &mut waiting {
                let answer = read_answer(stream).unwrap_or_else(|error| panic!("{tier}: {error}"));
                assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{tier}: {answer}");
            }
            wait_until("nobody listens there any more", || TcpStream::connect(given_up).is_err());
            listen(&[stays, "127.0.0.1:4001"]);
            server.reload();
            assert_served(given_up);
            assert_served(server.address());
            server.stop();
        }
    });
}
