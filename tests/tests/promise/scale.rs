//! More workers and fewer, again and again, without a new generation.

use std::path::Path;
use std::process::Command;

use baton_tests::namespace::{run, sysctl};
use baton_tests::program::{self, batonctl};

use super::case::{Case, Expected, cases, prove, wait_for_answers};

/// Ends with as many as there were in the case with two.
const COUNTS: [usize; 12] = [4, 1, 3, 2, 6, 1, 2, 5, 4, 3, 1, 2];

fn scale(control: &Path, workers: usize) {
    let mut command = Command::new(batonctl());
    let output = program::run(command.arg("--control").arg(control).args(["scale", &workers.to_string()]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nobody_is_lost() {
    run("scale::nobody_is_lost", || {
        for migrate_req in ["0", "1"] {
            sysctl("net/ipv4/tcp_migrate_req", migrate_req);
            for case in cases() {
                let folder = tempfile::tempdir().expect("a folder");
                let control = folder.path().join("control");
                let case = Case { control: Some(control.clone()), ..case };
                let what = format!("{} times scaled, tcp_migrate_req={migrate_req}", COUNTS.len() + 1);
                prove(&what, &case, Expected::NothingLost, |_, churn| {
                    for workers in COUNTS.into_iter().chain([case.workers]) {
                        scale(&control, workers);
                        wait_for_answers(churn, 50);
                    }
                });
            }
        }
    });
}
