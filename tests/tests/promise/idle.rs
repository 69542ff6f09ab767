//! Workers leave and the master stays (WINCH), until a reload brings new ones.

use baton_tests::namespace::run;
use baton_tests::program::Server;
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::case::{Expected, cases, prove};

fn leave_and_come_back(server: &Server) {
    for _ in 0..3 {
        server.signal(Signal::SIGWINCH);
        wait_until("all workers have left", || server.workers().is_empty());
        server.reload();
    }
}

/// Whoever comes meanwhile waits.
#[test]
fn nobody_fails() {
    run("idle::nobody_fails", || {
        for case in cases() {
            prove("3 times WINCH and HUP", &case, Expected::NothingLost, |server, _| leave_and_come_back(server));
        }
    });
}
