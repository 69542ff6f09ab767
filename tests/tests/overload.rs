//! Bad peers and exhausted resources: others are served, nothing grows without bound, service goes on afterwards.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use baton_tests::client::{GET, ask, assert_served, connect, pattern, read_answer, read_to_end};
use baton_tests::process::{cpu_ticks, descriptors, kilobytes};
use baton_tests::program::{Server, batond, is_installed};
use baton_tests::{skip, wait_until};

/// Bytes a kernel may hold between two ends of a loopback connection, generously.
const KERNEL_BYTES_MAX: usize = 64 << 20;

/// Writes until the kernel takes no more for a while; gives how much it took.
fn write_until_stuck(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("set");
    let mut total = 0;
    loop {
        match stream.write(bytes) {
            Ok(count) => total += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return total,
            Err(error) => panic!("after {total} bytes: {error}"),
        }
        assert!(total < 2 * KERNEL_BYTES_MAX, "nothing pushes back");
    }
}

#[test]
fn a_peer_that_does_not_read_is_pushed_back_then_cut() {
    let server = Server::start(&["--write-ms", "3000", "--outbound-bytes-high", "64k", "--outbound-bytes-low", "16k"]);
    let worker = server.workers()[0];
    let before = kilobytes(worker, "status", "VmRSS");
    let mut slow: Vec<_> = (0..4).map(|_| connect(server.address())).collect();
    let requests = GET.repeat(1000);
    for stream in &mut slow {
        assert!(write_until_stuck(stream, &requests) > 100_000);
    }
    let grown = kilobytes(worker, "status", "VmRSS").saturating_sub(before);
    assert!(grown < 16 * 1024, "four slow readers cost {grown} kB");
    assert_served(server.address());
    for mut stream in slow {
        let start = Instant::now();
        // It was cut: what the kernel had is followed by a reset, or by an end.
        let mut buffer = vec![0; 1 << 20];
        while matches!(stream.read(&mut buffer), Ok(1..)) {
            assert!(start.elapsed() < Duration::from_secs(20), "it was never cut");
            // Reading slowly would make it wait longer: the time-out is for peers that take nothing.
            if start.elapsed() < Duration::from_secs(4) {
                thread::sleep(Duration::from_secs(4).saturating_sub(start.elapsed()));
            }
        }
    }
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
        stream.shutdown(std::net::Shutdown::Write).expect("shut down");
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

#[test]
fn a_request_that_comes_byte_by_byte_is_answered() {
    let server = Server::start(&[]);
    let mut stream = connect(server.address());
    for byte in GET {
        stream.write_all(&[*byte]).expect("sent");
    }
    assert!(read_answer(&mut stream).expect("an answer").starts_with("HTTP/1.1 200 OK\r\n"));
    server.stop();
}

#[test]
fn heads_that_never_end_are_cut_while_others_are_served() {
    let server = Server::start(&["--message-ms", "700"]);
    let mut slow: Vec<_> = (0..100).map(|_| connect(server.address())).collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").expect("sent");
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(600) {
        assert_served(server.address());
        // More of the head does not buy more time.
        slow.iter_mut().for_each(|stream| stream.write_all(b"X: y\r\n").expect("sent"));
        thread::sleep(Duration::from_millis(50));
    }
    for stream in &mut slow {
        let answer = String::from_utf8(read_to_end(stream).expect("an orderly end")).expect("text");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    server.stop();
}

#[test]
fn idle_connections_are_closed_in_good_order() {
    let server = Server::start(&["--idle-ms", "300"]);
    let mut stream = connect(server.address());
    ask(&mut stream).expect("an answer");
    assert_eq!(read_to_end(&mut stream).expect("an orderly end"), b"");
    let mut silent = connect(server.address());
    assert_eq!(read_to_end(&mut silent).expect("an orderly end"), b"");
    server.stop();
}

#[test]
fn at_the_connection_limit_newcomers_wait_and_are_served_in_turn() {
    let server = Server::start(&["--connections-max", "10"]);
    let mut open: Vec<_> = (0..10).map(|_| connect(server.address())).collect();
    open.iter_mut().for_each(|stream| drop(ask(stream).expect("an answer")));
    let mut waiting = connect(server.address());
    waiting.write_all(GET).expect("sent");
    waiting.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    assert!(waiting.read(&mut [0]).is_err(), "it is not served while ten are open");
    open.iter_mut().for_each(|stream| drop(ask(stream).expect("those let in are served")));
    open.pop();
    waiting.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    assert!(read_answer(&mut waiting).expect("an answer").starts_with("HTTP/1.1 200 OK\r\n"));
    drop((open, waiting));
    server.stop();
}

/// More clients than the worker can take: it serves as many as it can, does not spin, and serves the others as soon as
/// those leave.
fn check_exhausted(server: &Server, what: &str) {
    const CLIENTS: usize = 200;
    let worker = server.workers()[0];
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(server.address())).collect();
    let served = clients.iter_mut().filter_map(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        ask(stream).ok()
    });
    let served = served.count();
    assert!((4..CLIENTS).contains(&served), "{what}: {served} were served at once");
    let before = cpu_ticks(worker);
    thread::sleep(Duration::from_millis(500));
    let used = cpu_ticks(worker) - before;
    assert!(used <= 10, "{what}: it used {used} hundredths of a second to do nothing");
    while !clients.is_empty() {
        // The oldest leave; whoever comes next is answered.
        clients.drain(..served.min(clients.len()));
        for stream in clients.iter_mut().take(served) {
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            let answer = read_answer(stream).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
    }
    assert_served(server.address());
}

#[test]
fn few_descriptors_are_a_connection_limit() {
    for kind in ["plain", "direct"] {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 128; exec \"$@\"", "sh"]).arg(batond());
        command.args(["--listen", "127.0.0.1:0", "--descriptors", kind]);
        let server = Server::start_command(command);
        check_exhausted(&server, kind);
        server.stop();
    }
}

#[test]
fn descriptors_that_run_out_pause_accepting() {
    if !is_installed("prlimit") {
        skip("prlimit is not installed");
        return;
    }
    // With less room than a backlog can bring, connections are accepted one by one; the kernel reads the limit of open
    // files when an accept is submitted.
    let server = Server::start(&["--descriptors", "plain", "--connections-max", "300"]);
    let worker = server.workers()[0];
    let limit = descriptors(worker) + 10;
    let limited = Command::new("prlimit")
        .args([format!("--pid={worker}"), format!("--nofile={limit}:{limit}")])
        .status()
        .expect("prlimit runs");
    assert!(limited.success());
    check_exhausted(&server, "EMFILE");
    wait_until("it says so", || server.count_of("accepting failed") > 0);
    assert!(server.count_of("accepting failed") < 100, "once a second at most");
    server.stop();
}

#[test]
fn with_every_receive_buffer_taken_all_bytes_arrive() {
    let server = Server::start(&["--protocol", "echo", "--receive-buffers", "2", "--receive-buffer-bytes", "1k"]);
    let address = server.address();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            thread::spawn(move || {
                let mut stream = connect(address);
                let mut reader = stream.try_clone().expect("cloned");
                let total = 200_000;
                let writer = thread::spawn(move || {
                    let mut bytes = vec![0; total];
                    pattern(0, &mut bytes);
                    stream.write_all(&bytes).expect("sent");
                    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
                });
                let received = read_to_end(&mut reader).expect("an orderly end");
                writer.join().expect("written");
                let mut expected = vec![0; total];
                pattern(0, &mut expected);
                received == expected
            })
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().expect("no panic")));
    server.stop();
}

#[test]
fn a_hundred_megabytes_come_back_byte_by_byte() {
    const TOTAL: usize = 100 << 20;
    let server = Server::start(&["--protocol", "echo"]);
    let mut stream = connect(server.address());
    let mut reader = stream.try_clone().expect("cloned");
    let writer = thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        for offset in (0..TOTAL).step_by(bytes.len()) {
            pattern(offset, &mut bytes);
            stream.write_all(&bytes).expect("sent");
        }
        stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    });
    let (mut offset, mut buffer, mut expected) = (0, vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = reader.read(&mut buffer).expect("read");
        if count == 0 {
            break;
        }
        pattern(offset, &mut expected[..count]);
        assert!(buffer[..count] == expected[..count], "wrong within {count} bytes from {offset}");
        offset += count;
    }
    assert_eq!(offset, TOTAL);
    writer.join().expect("written");
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

/// One client that ends in one of the ways clients end.
fn misbehave(server: &Server, random: &mut Random) {
    let mut stream = connect(server.address());
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
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = read_to_end(&mut stream);
        }
        _ => {
            let _ = stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
            let _ = stream.write_all(&vec![b'x'; random.below(100_000)]);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

#[test]
fn whatever_clients_do_nothing_leaks() {
    let server = Server::start(&["--descriptors", "plain", "--linger-ms", "200"]);
    let worker = server.workers()[0];
    let baseline = descriptors(worker);
    let mut random = Random(20_131_126);
    let mut round = |count: usize| {
        for _ in 0..count {
            misbehave(&server, &mut random);
        }
        wait_until("all connections are gone", || descriptors(worker) == baseline);
    };
    round(500);
    let before = kilobytes(worker, "status", "VmRSS");
    round(3000);
    let grown = kilobytes(worker, "status", "VmRSS").saturating_sub(before);
    assert!(grown < 2048, "3,000 connections left {grown} kB");
    assert_served(server.address());
    server.stop();
}
