//! More and fewer workers, again and again, without a new generation.

use baton_tests::control;
use baton_tests::namespace::{run, sysctl};

use super::case::{Case, Expected, cases, prove, wait_for_answers};

/// The last count is the initial one of the case with two.
const COUNTS: [usize; 12] = [4, 1, 3, 2, 6, 1, 2, 5, 4, 3, 1, 2];

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
                        control::ask(&control, &["scale", &workers.to_string()]).done();
                        wait_for_answers(churn, 50);
                    }
                });
            }
        }
    });
}
