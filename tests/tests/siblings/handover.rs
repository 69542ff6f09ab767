//! Every message is counted while workers are replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use baton::control::{Failure, Loss, Outcome};
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::load::{Heard, Load};
use super::server::Mesh;

const PUBLISHERS: usize = 4;
const SUBSCRIBERS: usize = 8;

/// Performs `act` under load, each time after some messages were published.
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

/// Sends numbers to a slot while `act` runs, until the subscriber there has heard the last. Each must be heard once and
/// in order.
fn sends_to(mesh: &Mesh, slot: usize, act: impl FnOnce()) {
    let (_, mut subscriber) = mesh.one_each(2).remove(slot);
    let is_over = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let (mut client, is_over) = (mesh.client(), Arc::clone(&is_over));
        move || {
            let mut number = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(client.ask(&format!("send {slot} {number}")), "ok");
                number += 1;
            }
            assert_eq!(client.ask(&format!("send {slot} last")), "ok");
            number
        }
    });
    act();
    is_over.store(true, Ordering::Relaxed);
    let count = sender.join().expect("it sends");
    let heard: Vec<String> = std::iter::from_fn(|| {
        let text = subscriber.hear().split_once(' ').expect("a slot and a text").1.to_owned();
        (text != "last").then_some(text)
    })
    .collect();
    let sent: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    let differs = heard.iter().zip(&sent).position(|(heard, sent)| heard != sent);
    assert!(heard == sent, "{} of {count} heard; they differ at {differs:?}", heard.len());
    assert!(count > 100, "{count} were sent");
}

#[test]
fn what_is_sent_to_a_slot_follows_its_connections() {
    let mesh = Mesh::start(2, &[]);
    for slot in [0, 1] {
        sends_to(&mesh, slot, || (0..5).for_each(|_| reload(&mesh, 2)));
    }
    // The slot is gone, and other workers have its connections.
    sends_to(&mesh, 1, || {
        mesh.lineage.done(&["scale", "1"]);
        wait_until("the other is gone", || mesh.lineage.first.workers().len() == 1);
        std::thread::sleep(std::time::Duration::from_millis(50));
    });
}

#[test]
fn who_speaks_another_version_is_not_heard_and_connections_move_all_the_same() {
    let mesh = Mesh::start(2, &[]);
    let mut clients = mesh.one_each(2);
    let path = |path: std::path::PathBuf| path.to_str().expect("UTF-8").to_owned();
    let (control, pid_file) = (path(mesh.lineage.control()), path(mesh.lineage.file("pid")));
    let address = mesh.address.to_string();
    let program = ["--", &address, "2", &control, &pid_file, "2"];
    let failure = mesh.lineage.failed(&[&["upgrade"], &program[..]].concat());
    let loss = Loss::Messages { format: "mesh".to_owned(), version: 1 };
    assert_eq!(failure, Failure::WouldLose { losses: vec![loss] });
    let outcome = mesh.lineage.done(&[&["upgrade", "--allow", "messages"], &program[..]].concat());
    assert!(matches!(&outcome, Outcome::Upgraded { moves, .. } if moves.refused.is_empty()), "{outcome:?}");
    mesh.lineage.settle();
    for place in [0, 1] {
        assert_eq!(clients[place].1.ask(&format!("pub from {place}")), "ok");
        for (_, client) in &mut clients {
            assert!(client.hear().ends_with(&format!(" from {place}")));
        }
    }
}
