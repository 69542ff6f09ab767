//! Widely used client programs, across reloads and upgrades: no error, no new connection.

use std::process::Command;

use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::{self, Server, is_installed};
use baton_tests::skip;

#[test]
fn wrk_across_upgrades_and_reloads() {
    run("tools::wrk_across_upgrades_and_reloads", || {
        if !is_installed("wrk") {
            skip("wrk is not installed");
            return;
        }
        let lineage = Lineage::start(2, |control, pid_file| {
            Server::start(&["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file])
        });
        let url = format!("http://{}/", lineage.first.address());
        let output = std::thread::scope(|scope| {
            let wrk = scope.spawn(|| program::run(Command::new("wrk").args(["-t1", "-c50", "-d6s", &url])));
            while !wrk.is_finished() {
                lineage.done(&["upgrade"]);
                lineage.done(&["reload"]);
            }
            wrk.join().expect("no panic")
        });
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            report.contains("Requests/sec") && !report.contains("errors") && !report.contains("Non-2xx"),
            "{report}"
        );
    });
}
