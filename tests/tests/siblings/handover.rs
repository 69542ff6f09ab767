//! Every message is counted while workers are replaced.

use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::load::{Heard, Load};
use super::server::Mesh;

const PUBLISHERS: usize = 4;
const SUBSCRIBERS: usize = 8;

/// Under load, what `act` does; each of it once some messages were published.
fn under_load(what: &str, mesh: &Mesh, rounds: usize, mut act: impl FnMut(usize)) {
    let load = Load::start(mesh.address, PUBLISHERS, SUBSCRIBERS);
    for round in 0..rounds {
        let before = load.published();
        wait_until("some messages are published", || load.published() > before + 500);
        act(round);
    }
    let heard = load.finish();
    eprintln!("{what}: {heard:?}");
    assert_eq!(Heard { deliveries: 0, ..heard }, Heard::default(), "{what}");
    assert!(heard.deliveries > 0, "{what}: nothing was published");
}

fn reload(mesh: &Mesh, workers: usize) {
    let before = mesh.lineage.first.workers();
    mesh.lineage.first.signal(Signal::SIGHUP);
    wait_until("the workers before are gone", || {
        let now = mesh.lineage.first.workers();
        now.len() == workers && now.iter().all(|pid| !before.contains(pid))
    });
}

#[test]
fn nothing_is_lost_where_nothing_happens() {
    for workers in [1, 2, 4] {
        let mesh = Mesh::start(workers, &[]);
        under_load(&format!("{workers} workers"), &mesh, 3, |_| {});
    }
}

#[test]
fn messages_cross_reloads() {
    let mesh = Mesh::start(2, &[]);
    under_load("20 reloads", &mesh, 20, |_| reload(&mesh, 2));
}

#[test]
fn messages_cross_changes_of_the_number_of_workers() {
    let mesh = Mesh::start(4, &[]);
    under_load("20 scalings", &mesh, 20, |round| {
        let workers = [2, 4, 1, 4][round % 4];
        mesh.lineage.done(&["scale", &workers.to_string()]);
        wait_until("the others are gone", || mesh.lineage.first.workers().len() == workers);
    });
}

#[test]
fn messages_cross_upgrades_and_reverts() {
    let mesh = Mesh::start(2, &[]);
    under_load("upgrades", &mesh, 10, |round| {
        if round % 3 == 2 {
            mesh.lineage.done(&["upgrade", "--hold"]);
            mesh.lineage.done(&["revert"]);
        } else {
            mesh.lineage.done(&["upgrade"]);
        }
        mesh.lineage.settle();
    });
}
