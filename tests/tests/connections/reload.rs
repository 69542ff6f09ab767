//! Reloads and changes of the number of workers.

use std::net::SocketAddr;
use std::process::Command;

use baton_tests::client::GET;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::{Server, batond, example, free_port};
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::classes::{Counts, Crowd};

const ROUNDS: usize = 20;

/// Reloads, and waits until the previous workers are gone.
fn reload(server: &Server, workers: usize) {
    let before = server.workers();
    server.signal(Signal::SIGHUP);
    wait_until("the workers before are gone", || {
        let now = server.workers();
        now.len() == workers && now.iter().all(|pid| !before.contains(pid))
    });
}

fn through_reloads(server: Server, workers: usize, rounds: usize, idle_request_bytes: usize, crowd: Crowd) {
    for _ in 0..rounds {
        reload(&server, workers);
        crowd.round();
    }
    crowd.finish(idle_request_bytes);
    server.stop();
}

#[test]
fn http_connections_cross_reloads() {
    for (workers, tier) in [(1, "adopt"), (2, "auto")] {
        let count = workers.to_string();
        let server = Server::start(&["--workers", &count, "--settle-ms", "50", "--handover", tier]);
        let crowd = Crowd::http(server.address(), Counts::FEW);
        through_reloads(server, workers, ROUNDS, GET.len(), crowd);
    }
}

#[test]
fn echo_connections_cross_reloads() {
    let server = Server::start(&["--workers", "2", "--settle-ms", "50", "--protocol", "echo"]);
    let crowd = Crowd::echo(server.address(), Counts::FEW);
    through_reloads(server, 2, ROUNDS, 10, crowd);
}

#[test]
fn connections_of_an_embedded_protocol_cross_reloads() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new(example("versions"));
    command.args(["--listen", &address.to_string(), "--control"]).arg(folder.path().join("control"));
    let server = Server::start_unlogged(command, address);
    // The sum returns to zero. Lines of two bytes at full speed would keep a worker so busy that the others take long.
    let counts = Counts { streaming: 0, slow: 0, ..Counts::FEW };
    let crowd = Crowd::of_lines(server.address(), counts, b"7\n-7\n", b"7\n0\n".len());
    through_reloads(server, 1, 3, b"7\n-7\n".len(), crowd);
}

#[test]
fn connections_cross_changes_of_the_number_of_workers() {
    run("reload::connections_cross_changes_of_the_number_of_workers", || {
        let lineage = Lineage::start(4, |control, pid_file| {
            let arguments = ["--workers", "4", "--settle-ms", "50", "--control", control, "--pid-file", pid_file];
            Server::start(&arguments)
        });
        let crowd = Crowd::http(lineage.first.address(), Counts::FEW);
        for _ in 0..ROUNDS / 4 {
            for workers in [1, 4] {
                lineage.done(&["scale", &workers.to_string()]);
                wait_until("the others are gone", || lineage.first.workers().len() == workers);
                crowd.round();
            }
        }
        crowd.finish(GET.len());
    });
}

#[test]
fn whoever_reloads_before_the_last_one_is_over_loses_nobody_either() {
    let mut command = Command::new(batond());
    command.args(["--listen", "127.0.0.1:0", "--workers", "2", "--settle-ms", "200"]);
    let server = Server::start_command(command);
    let counts = Counts { idle: 1_000, ..Counts::FEW };
    let crowd = Crowd::http(server.address(), counts);
    for round in 0..ROUNDS {
        server.signal(Signal::SIGHUP);
        wait_until("it serves", || server.count_of_events("serves") > round + 1);
    }
    crowd.round();
    wait_until("one generation is left", || server.workers().len() == 2);
    crowd.round();
    crowd.finish(GET.len());
    server.stop();
}
