//! Messages reach the workers to which they are sent.

use baton_tests::program::signal;
use baton_tests::wait_until;
use nix::sys::signal::Signal;

use super::server::{Client, Mesh};

fn drain_marks(clients: &mut [(u32, Client)]) {
    for place in 0..clients.len() {
        assert_eq!(clients[place].1.ask("pub begin"), "ok");
        for (_, client) in clients.iter_mut() {
            while !client.hear().ends_with(" begin") {}
        }
    }
}

#[test]
fn all_workers_hear_what_is_published_and_one_what_is_sent_to_it() {
    for workers in [1, 2, 4] {
        let mesh = Mesh::start(workers, &[]);
        let mut clients = mesh.one_each(workers);
        drain_marks(&mut clients);
        for from in 0..workers {
            for round in 0..3 {
                assert_eq!(clients[from].1.ask(&format!("pub hello {round}")), "ok");
            }
            for (_, client) in &mut clients {
                for round in 0..3 {
                    assert_eq!(client.hear(), format!("{from} hello {round}"));
                }
            }
        }
        for from in 0..workers {
            for to in 0..workers {
                assert_eq!(clients[from].1.ask(&format!("send {to} from {from} to {to}")), "ok");
                assert_eq!(clients[to].1.hear(), format!("{from} from {from} to {to}"));
            }
        }
        assert_eq!(clients[0].1.ask(&format!("send {workers} nobody")), "NoSuchSlot");
        // No client has heard anything else.
        drain_marks(&mut clients);
    }
}

#[test]
fn large_messages_come_whole_and_in_their_place() {
    let mesh = Mesh::start(2, &[]);
    let mut clients = mesh.one_each(2);
    drain_marks(&mut clients);
    let sizes = [1, 65_000, 65_523, 65_524, 200_000, 1 << 20];
    for bytes in sizes {
        assert_eq!(clients[0].1.ask(&format!("flood 2 {bytes}")), "flooded 2");
        assert_eq!(clients[0].1.ask("pub between"), "ok");
    }
    assert_eq!(clients[0].1.ask(&format!("flood 1 {}", (1 << 20) + 1)), "flooded 0");
    for (_, client) in &mut clients {
        for bytes in sizes {
            for _ in 0..2 {
                assert_eq!(client.hear().len(), "0 ".len() + bytes);
            }
            assert_eq!(client.hear(), "0 between");
        }
    }
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_speaks_again() {
    let mesh = Mesh::start(2, &[]);
    for round in 0..3 {
        let mut clients = mesh.one_each(2);
        drain_marks(&mut clients);
        let (victim, _) = clients.remove(round % 2);
        signal(victim, Signal::SIGKILL);
        wait_until("it is replaced", || {
            let workers = mesh.lineage.first.workers();
            workers.len() == 2 && !workers.contains(&victim)
        });
        mesh.wait_for_circle(2);
        let mut others = mesh.one_each(2);
        drain_marks(&mut others);
        assert_eq!(others[0].1.ask(&format!("pub after {round}")), "ok");
        assert_eq!(others[1].1.hear(), format!("0 after {round}"));
        // The client that stayed has heard it as well.
        while clients[0].1.hear() != format!("0 after {round}") {}
    }
}

#[test]
fn who_takes_nothing_makes_others_wait_until_it_does_or_is_dropped() {
    let mesh = Mesh::start(2, &[("MESH_HANG_MS", "0")]);
    let mut clients = mesh.one_each(2);
    drain_marks(&mut clients);
    let (sleeper, _) = clients[1];
    signal(sleeper, Signal::SIGSTOP);
    // 8 MiB, plus what the kernel buffers.
    let flooded = clients[0].1.ask("flood 200 100000");
    let count: usize = flooded.strip_prefix("flooded ").expect("an answer").parse().expect("a number");
    assert!((70..100).contains(&count), "{flooded}");
    let more = format!("pub {}", "y".repeat(100_000));
    let count = count + (0..5).position(|_| clients[0].1.ask(&more) == "Full").expect("it is full");
    assert_eq!(clients[0].1.ask("send 0 to myself"), "ok");
    signal(sleeper, Signal::SIGCONT);
    wait_until("there is room", || clients[0].1.ask("writable") == "writable 1");
    assert_eq!(clients[0].1.ask("pub last"), "ok");
    for place in [0, 1] {
        let client = &mut clients[place].1;
        let mut heard = 0;
        loop {
            match client.hear().as_str() {
                "0 last" => break,
                "0 to myself" => assert_eq!(place, 0),
                _ => heard += 1,
            }
        }
        assert_eq!(heard, count, "all of it, and once");
    }
    // It reads nothing for ten seconds: it is given up, and the senders continue.
    signal(sleeper, Signal::SIGSTOP);
    clients[0].1.ask("flood 200 100000");
    wait_until("it is dropped", || clients[0].1.ask("writable") == "writable 2");
    assert_eq!(clients[0].1.who().1, [0]);
    assert_eq!(clients[0].1.ask("pub alone"), "ok");
    while clients[0].1.hear() != "0 alone" {}
    signal(sleeper, Signal::SIGCONT);
}
