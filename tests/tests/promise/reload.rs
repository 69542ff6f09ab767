//! Reload after reload: nobody is lost.

use baton_tests::namespace::{has_users, run, sysctl};
use baton_tests::program::Server;
use baton_tests::{skip, wait_until};

use super::case::{Case, Expected, cases, prove, reload};

const RELOADS: usize = 20;

fn reload_often(server: &Server) {
    (0..RELOADS).for_each(|_| reload(server));
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
        if !has_users() {
            skip("nobody else to be: this user namespace has one user");
            return;
        }
        let what = format!("{RELOADS} reloads");
        for handover in ["adopt", "auto"] {
            for workers in [1, 2] {
                let case = Case { is_nobody: true, ..Case::new(handover, workers) };
                prove(&what, &case, Expected::NothingLost, |server, _| {
                    assert_eq!(server.count_of("\"tier\":\"adopt\""), 1, "{:#?}", server.log());
                    for _ in 0..RELOADS {
                        reload(server);
                        // Without rights there is a limit on locked memory, which rings count against.
                        wait_until("the old generation has left", || server.workers().len() == workers);
                    }
                });
            }
        }
    });
}

/// A figure to compare with: what is lost where listeners close and the kernel moves what waits.
#[test]
fn what_migration_alone_loses_is_reported() {
    run("reload::what_migration_alone_loses_is_reported", || {
        sysctl("net/ipv4/tcp_migrate_req", "1");
        for workers in [1, 2] {
            let what = format!("{RELOADS} reloads, tcp_migrate_req=1");
            prove(&what, &Case::new("migrate", workers), Expected::Anything, |server, _| reload_often(server));
        }
    });
}
