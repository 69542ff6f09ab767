//! The same for long: ten thousand replacements, ten million connections.
//!
//! Run with: `cargo test --release -p baton-tests --test promise long -- --ignored --nocapture --test-threads 1`

use std::time::Duration;

use baton_tests::churn::Churn;
use baton_tests::control;
use baton_tests::namespace::run_for;

use super::case::{Case, Expected, prove, tiers};

const TIME_MAX: Duration = Duration::from_secs(3 * 3600);

/// Reloads one time after the other until `is_over`, which gets the number so far.
fn prove_reloads(what: &str, is_over: impl Fn(usize, &Churn) -> bool) {
    for tier in tiers() {
        let folder = tempfile::tempdir().expect("a folder");
        let control = folder.path().join("control");
        let case = Case { clients: 8, control: Some(control.clone()), ..Case::new(tier, 2) };
        prove(what, &case, Expected::NothingLost, |_, churn| {
            let mut reloads = 0;
            while !is_over(reloads, churn) {
                // It waits for the answer, so that the test need not read a log of a hundred thousand lines.
                control::ask(&control, &["reload"]).done();
                reloads += 1;
            }
            eprintln!("{what}, {tier}: {reloads} reloads");
        });
    }
}

/// Run with: see the module's head.
#[test]
#[ignore = "takes minutes"]
fn nobody_is_lost_by_ten_thousand_replacements() {
    run_for("long::nobody_is_lost_by_ten_thousand_replacements", TIME_MAX, || {
        prove_reloads("10,000 reloads", |reloads, _| reloads == 10_000);
    });
}

/// Run with: see the module's head.
#[test]
#[ignore = "takes half an hour"]
fn nobody_of_ten_million_connections_is_lost() {
    run_for("long::nobody_of_ten_million_connections_is_lost", TIME_MAX, || {
        prove_reloads("10,000,000 connections", |_, churn| churn.answered() >= 10_000_000);
    });
}
