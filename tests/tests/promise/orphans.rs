//! The master is killed: its workers keep serving, and the next master on the same control socket takes them over.

use baton_tests::churn::{Churn, Phase};
use baton_tests::client::assert_served;
use baton_tests::namespace::{run, sysctl};
use baton_tests::process::is_alive;
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::case::{Case, Expected, Rights, cases, conclude, has_nobody, tiers, wait_for_answers};

/// In a network namespace of its own the test can choose a port.
const ADDRESS: &str = "127.0.0.1:8080";

/// Kills the master `kills` times, each time under load; the next master has the other shape.
fn prove_take_over(what: &str, cases: [&Case; 2], kills: usize, expected: Expected) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
    let cases = cases.map(|case| Case { control: Some(folder.path().join("control")), ..case.clone() });
    let (mut server, mut _copy) = cases[0].start(ADDRESS);
    let churn = Churn::start(server.address(), cases[0].clients);
    wait_for_answers(&churn, 500);
    churn.begin_phase(Phase::During);
    for kill in 1..=kills {
        let workers = server.workers();
        server.signal(Signal::SIGKILL);
        wait_until("the workers notice", || server.count_of("the master is gone") == workers.len());
        wait_for_answers(&churn, 200);
        assert!(workers.iter().all(|pid| is_alive(*pid)), "they serve on");
        let (next, next_copy) = cases[kill % 2].start(ADDRESS);
        wait_until("they have left", || workers.iter().all(|pid| !is_alive(*pid)));
        let numbers = next.logged_numbers("generation");
        assert_eq!(numbers.first(), Some(&(kill as u64 + 1)), "the count of generations goes on: {:#?}", next.log());
        server = next;
        _copy = next_copy;
    }
    churn.begin_phase(Phase::Steady);
    wait_for_answers(&churn, 500);
    conclude(what, &cases[0], expected, &churn.finish());
    assert_served(server.address());
    server.stop();
}

#[test]
fn nobody_is_lost() {
    run("orphans::nobody_is_lost", || {
        for migrate_req in ["0", "1"] {
            sysctl("net/ipv4/tcp_migrate_req", migrate_req);
            let what = format!("3 times master killed and taken over, tcp_migrate_req={migrate_req}");
            cases().iter().for_each(|case| prove_take_over(&what, [case, case], 3, Expected::NothingLost));
        }
    });
}

/// A server with rights takes over one without, and the other way round.
#[test]
fn nobody_is_lost_where_the_tier_changes() {
    run("orphans::nobody_is_lost_where_the_tier_changes", || {
        if tiers().len() > 1 {
            let (ebpf, adopt) = (Case::new("ebpf", 2), Case::new("adopt", 2));
            prove_take_over("2 times taken over by adopt and back", [&ebpf, &adopt], 2, Expected::NothingLost);
        }
    });
}

#[test]
fn nobody_is_lost_by_a_server_without_rights() {
    run("orphans::nobody_is_lost_by_a_server_without_rights", || {
        if has_nobody() {
            let case = Case { rights: Rights::Nobody, ..Case::new("auto", 2) };
            prove_take_over("2 times taken over", [&case, &case], 2, Expected::NothingLost);
        }
    });
}
