//! The start: once a client has been answered, no client is refused.

use baton_tests::churn::{Churn, Outcome};
use baton_tests::namespace::run;
use baton_tests::wait_until;

use super::case::{Expected, cases, conclude, wait_for_answers};

/// In a network namespace of its own the test can choose a port.
const ADDRESS: &str = "127.0.0.1:8080";

const STARTS: usize = 5;

#[test]
fn clients_that_were_there_before_are_served_from_the_first_answer_on() {
    run("start::clients_that_were_there_before_are_served_from_the_first_answer_on", || {
        for case in cases() {
            let mut outcome = Outcome::default();
            for _ in 0..STARTS {
                let churn = Churn::start_early(ADDRESS.parse().expect("an address"), case.clients);
                wait_until("clients are refused", || churn.refused_early() > 0);
                let (server, _folder) = case.start(ADDRESS);
                wait_for_answers(&churn, 1_000);
                outcome.add(churn.finish());
                server.stop();
            }
            conclude(&format!("{STARTS} starts"), &case, Expected::NothingLost, &outcome);
        }
    });
}
