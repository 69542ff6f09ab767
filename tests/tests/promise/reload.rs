//! Reload after reload: no connection is lost.

use baton_tests::churn::{Churn, Outcome, Phase};
use baton_tests::namespace::{run, sysctl};
use baton_tests::program::Server;

use super::case::{Case, Expected, Rights, cases, conclude, has_nobody, prove, wait_for_answers};

const RELOADS: usize = 20;

/// For rare losses.
const MANY_RELOADS: usize = 100;

fn reload_often(server: &Server) {
    (0..RELOADS).for_each(|_| server.reload());
}

#[test]
fn nobody_is_lost_whatever_the_kernel_does_about_migration() {
    run("reload::nobody_is_lost_whatever_the_kernel_does_about_migration", || {
        for migrate_req in ["0", "1"] {
            sysctl("net/ipv4/tcp_migrate_req", migrate_req);
            let what = format!("{RELOADS} reloads, tcp_migrate_req={migrate_req}");
            for case in cases() {
                prove(&what, &case, Expected::NothingLost, |server, _| reload_often(server));
            }
        }
    });
}

#[test]
fn nobody_is_lost_when_handshakes_go_by_cookies() {
    run("reload::nobody_is_lost_when_handshakes_go_by_cookies", || {
        sysctl("net/ipv4/tcp_syncookies", "2");
        let what = format!("{RELOADS} reloads, tcp_syncookies=2");
        for case in cases() {
            prove(&what, &case, Expected::NothingLost, |server, _| reload_often(server));
        }
    });
}

#[test]
fn nobody_is_lost_by_a_server_without_rights() {
    run("reload::nobody_is_lost_by_a_server_without_rights", || {
        if !has_nobody() {
            return;
        }
        let what = format!("{RELOADS} reloads");
        for handover in ["adopt", "auto"] {
            for workers in [1, 2] {
                let case = Case { rights: Rights::Nobody, ..Case::new(handover, workers) };
                prove(&what, &case, Expected::NothingLost, |server, _| {
                    assert_eq!(server.count_of("\"tier\":\"adopt\""), 1, "{:#?}", server.log());
                    reload_often(server);
                });
            }
        }
    });
}

/// In turn, one of the new workers starts and the other fails, because it cannot lock enough memory.
#[test]
fn nobody_is_lost_by_reloads_that_fail() {
    run("reload::nobody_is_lost_by_reloads_that_fail", || {
        if !has_nobody() {
            return;
        }
        let case = Case { rights: Rights::Cramped, ..Case::new("adopt", 2) };
        prove(&format!("{MANY_RELOADS} reloads that fail"), &case, Expected::NothingLost, |server, churn| {
            for _ in 0..MANY_RELOADS {
                wait_for_answers(churn, 100);
                assert!(!server.try_reload(), "memory for four workers: {:#?}", server.log());
            }
        });
    });
}

/// Clients leave after each reload: no later arrival wakes a worker for clients that wait in its queue.
#[test]
fn the_last_clients_are_not_forgotten_in_a_queue() {
    run("reload::the_last_clients_are_not_forgotten_in_a_queue", || {
        for case in cases() {
            let (server, _folder) = case.start("127.0.0.1:0");
            let mut outcome = Outcome::default();
            for _ in 0..MANY_RELOADS {
                let churn = Churn::start(server.address(), case.clients);
                wait_for_answers(&churn, 30);
                churn.begin_phase(Phase::During);
                server.reload();
                outcome.add(churn.finish());
            }
            conclude(&format!("{MANY_RELOADS} reloads, clients leave"), &case, Expected::NothingLost, &outcome);
            server.stop();
        }
    });
}
