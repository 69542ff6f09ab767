//! Much data and many clients over time: every byte arrives, and nothing is left of clients that have gone.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::Duration;

use baton_tests::client::{GET, assert_served, connect, echo_pattern, pattern, read_to_end};
use baton_tests::process::{descriptors, kilobytes};
use baton_tests::program::Server;
use baton_tests::wait_until;

#[test]
fn a_hundred_megabytes_come_back_byte_by_byte() {
    let server = Server::start(&["--protocol", "echo"]);
    echo_pattern(server.address(), 100 << 20);
    server.stop();
}

#[test]
fn a_peer_that_reads_slowly_gets_everything() {
    let server = Server::start(&["--protocol", "echo", "--outbound-bytes-high", "64k", "--outbound-bytes-low", "16k"]);
    let mut stream = connect(server.address());
    let mut reader = stream.try_clone().expect("cloned");
    let total = 8 << 20;
    let writer = thread::spawn(move || {
        let mut bytes = vec![0; total];
        pattern(0, &mut bytes);
        stream.write_all(&bytes).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shut down");
    });
    let mut received = Vec::new();
    let mut buffer = vec![0; 100_000];
    loop {
        match reader.read(&mut buffer).expect("read") {
            0 => break,
            count => received.extend_from_slice(&buffer[..count]),
        }
        if received.len() % 7 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    writer.join().expect("written");
    let mut expected = vec![0; total];
    pattern(0, &mut expected);
    assert!(received == expected, "{} of {total} bytes", received.len());
    server.stop();
}

/// The same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// A client that ends in one of the ways in which clients end.
fn misbehave(address: SocketAddr, random: &mut Random) {
    let mut stream = connect(address);
    let requests = GET.repeat(1 + random.below(40));
    let part = random.below(requests.len());
    match random.below(6) {
        0 => {}
        1 => drop(stream.write_all(&requests[..part])),
        2 => {
            let _ = stream.write_all(&requests);
            let _ = stream.read(&mut [0; 100]);
        }
        3 => {
            let _ = stream.write_all(&requests[..part]);
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
        }
        4 => {
            let _ = stream.write_all(&requests[..part]);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = read_to_end(&mut stream);
        }
        _ => {
            let _ = stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
            let _ = stream.write_all(&vec![b'x'; random.below(100_000)]);
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Runs `connections` misbehaving clients, [`AT_ONCE`] at a time, until the worker has closed them all.
fn storm(server: &Server, connections: usize, baseline: usize) {
    const AT_ONCE: usize = 20;
    let address = server.address();
    let clients: Vec<_> = (0..AT_ONCE as u64)
        .map(|seed| {
            thread::spawn(move || {
                let mut random = Random(seed);
                (0..connections / AT_ONCE).for_each(|_| misbehave(address, &mut random));
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    let worker = server.workers()[0];
    wait_until("all connections are gone", || descriptors(worker) == baseline);
}

#[test]
fn whatever_clients_do_nothing_leaks() {
    const CONNECTIONS: usize = 3000;
    const GROWN_KILOBYTES_MAX: u64 = 4 * 1024;
    let server = Server::start(&["--linger-ms", "200"]);
    let worker = server.workers()[0];
    let baseline = descriptors(worker);
    storm(&server, CONNECTIONS, baseline);
    let before = kilobytes(worker, "status", "VmRSS");
    storm(&server, CONNECTIONS, baseline);
    let grown = kilobytes(worker, "status", "VmRSS").saturating_sub(before);
    println!("{CONNECTIONS} connections left {grown} kB");
    assert!(grown < GROWN_KILOBYTES_MAX, "{CONNECTIONS} connections left {grown} kB");
    assert_served(server.address());
    server.stop();
}
