//! Upgrades, committed and reverted.

use baton_tests::client::GET;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::Server;

use super::classes::{Counts, Crowd};

fn start(more: &[&str]) -> Lineage {
    Lineage::start(2, |control, pid_file| {
        let arguments = ["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file];
        Server::start(&[&arguments[..], more].concat())
    })
}

#[test]
fn connections_cross_upgrades() {
    run("upgrade::connections_cross_upgrades", || {
        for tier in ["auto", "adopt"] {
            let lineage = start(&["--handover", tier]);
            let crowd = Crowd::http(lineage.first.address(), Counts::FEW);
            for _ in 0..5 {
                lineage.done(&["upgrade"]);
                crowd.round();
                lineage.settle();
                crowd.round();
            }
            crowd.finish(GET.len());
        }
    });
}

#[test]
fn connections_cross_upgrades_that_follow_each_other_at_once() {
    run("upgrade::connections_cross_upgrades_that_follow_each_other_at_once", || {
        let lineage = start(&["--protocol", "echo"]);
        let crowd = Crowd::echo(lineage.first.address(), Counts { idle: 1_000, ..Counts::FEW });
        for _ in 0..5 {
            lineage.done(&["upgrade"]);
        }
        crowd.round();
        lineage.settle();
        crowd.round();
        crowd.finish(10);
    });
}

#[test]
fn connections_come_back_with_a_revert() {
    run("upgrade::connections_come_back_with_a_revert", || {
        let lineage = start(&[]);
        let crowd = Crowd::http(lineage.first.address(), Counts::FEW);
        for _ in 0..3 {
            lineage.done(&["upgrade", "--hold"]);
            crowd.round();
            lineage.done(&["revert"]);
            crowd.round();
            lineage.settle();
            // On probation the workers before have left; the revert starts new ones.
            let upgrade = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| lineage.ctl(&["upgrade", "--probation", "60"]));
                baton_tests::wait_until("it is on probation", || lineage.ctl(&["status"]).1.contains("probation"));
                crowd.round();
                lineage.done(&["revert"]);
                waiting.join().expect("no panic")
            });
            assert_ne!(upgrade.0, 0, "{}", upgrade.1);
            crowd.round();
            lineage.settle();
            crowd.round();
        }
        crowd.finish(GET.len());
    });
}
