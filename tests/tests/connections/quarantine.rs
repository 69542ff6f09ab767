//! A connection that ends the workers to which it moves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use baton::control::{EventKind, Exit};
use baton_tests::client::{connect, read_to_end};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::{Server, faulty, free_port};
use baton_tests::wait_until;

fn echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("sent");
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, text);
}

#[test]
fn a_connection_that_ends_its_heirs_is_left_alone_and_the_others_move() {
    let program = faulty("poison");
    run("quarantine::a_connection_that_ends_its_heirs_is_left_alone_and_the_others_move", || {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let lineage = Lineage::start(2, |control, pid_file| {
            let mut command = Command::new(&program);
            command.args(["--listen", &address.to_string(), "--control", control, "--pid-file", pid_file]);
            Server::start_unlogged(command, address)
        });
        // The first worker answers before all are ready.
        wait_until("it serves", || lineage.has_event(|event| matches!(event, EventKind::Serves { .. })));
        let mut others: Vec<TcpStream> = (0..40).map(|_| connect(address)).collect();
        others.iter_mut().for_each(|stream| echo(stream, b"before"));
        let mut poison = connect(address);
        echo(&mut poison, b"poison");
        lineage.done(&["reload"]);
        assert_eq!(read_to_end(&mut poison).expect("an orderly end"), b"goodbye");
        lineage.settle();
        // Connections that a worker had been given before it ended are lost with it, and at most two workers ended.
        let is_panic = |event: &EventKind| matches!(event, EventKind::WorkerDied { exit: Exit::Code(101), .. });
        let ended = lineage.count_events(is_panic);
        assert!((1..=2).contains(&ended), "{ended} workers were ended");
        let is_served = |stream: &mut TcpStream| {
            let mut answer = [0; 5];
            stream.write_all(b"after").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"after"
        };
        let served = others.iter_mut().filter_map(|stream| is_served(stream).then_some(())).count();
        eprintln!("{ended} workers were ended, {served} of 40 connections live");
        echo(&mut connect(address), b"new");
    });
}
