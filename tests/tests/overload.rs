//! Misbehaving peers and exhausted resources: other clients are served, nothing grows without bound, and service
//! continues afterwards.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use baton_tests::client::{GET, ask, assert_served, connect, echo_pattern, read_answer, read_to_end};
use baton_tests::process::{cpu_ticks, descriptor_limit_for, descriptors, kilobytes};
use baton_tests::program::{Server, batond, is_installed};
use baton_tests::{PATIENCE, control, skip, wait_until};
use socket2::{Domain, SockRef, Socket, Type};

/// Upper bound of the bytes that a kernel holds between two ends of a loopback connection.
const KERNEL_BYTES_MAX: usize = 64 << 20;

/// Writes until the kernel takes no more for a while. Returns how many bytes it took.
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

/// Clients that send without reading: the server stops reading them, holds little for them, and finally cuts them.
fn check_pushed_back_then_cut(protocol: &str, bytes: &[u8]) {
    const CLIENTS: usize = 4;
    const GROWN_KILOBYTES_MAX: u64 = 16 * 1024;
    let server = Server::start(
        &[
            &["--protocol", protocol, "--write-ms", "3000", "--idle-ms", "0"][..],
            &["--outbound-bytes-high", "64k", "--outbound-bytes-low", "16k"],
        ]
        .concat(),
    );
    let worker = server.workers()[0];
    let baseline = descriptors(worker);
    let before = kilobytes(worker, "status", "VmRSS");
    let mut slow: Vec<_> = (0..CLIENTS).map(|_| connect(server.address())).collect();
    for stream in &mut slow {
        assert!(write_until_stuck(stream, bytes) > 100_000);
    }
    let grown = kilobytes(worker, "status", "VmRSS").saturating_sub(before);
    assert!(grown < GROWN_KILOBYTES_MAX, "{protocol}: {CLIENTS} slow readers cost {grown} kB");
    let mut other = connect(server.address());
    other.write_all(GET).expect("sent");
    other.read_exact(&mut [0; 10]).expect("others are served");
    drop(other);
    // The clients read nothing meanwhile: the server must end them.
    wait_until("they are cut", || descriptors(worker) == baseline);
    drop(slow);
    server.stop();
}

#[test]
fn pipelined_requests_whose_answers_nobody_reads_are_pushed_back_then_cut() {
    check_pushed_back_then_cut("http", &GET.repeat(1000));
}

#[test]
fn an_echo_that_nobody_reads_is_pushed_back_then_cut() {
    check_pushed_back_then_cut("echo", &[b'x'; 1 << 16]);
}

#[test]
fn what_all_connections_hold_together_is_bounded_and_goes_back() {
    const CLIENTS: usize = 64;
    const BOUND_KILOBYTES: u64 = 16 * 1024;
    let server = Server::start_controlled(&["--memory-bytes-max", "16MiB", "--write-ms", "0"]);
    let worker = server.workers()[0];
    assert_served(server.address());
    let before = kilobytes(worker, "status", "VmRSS");
    let mut slow: Vec<_> = (0..CLIENTS).map(|_| connect(server.address())).collect();
    let requests = GET.repeat(1000);
    // The clients do not read. A client that is cut gets an error when it writes.
    let stuck = |stream: &mut TcpStream| {
        stream.set_write_timeout(Some(Duration::from_millis(50))).expect("set");
        while stream.write(&requests).is_ok() {}
    };
    slow.iter_mut().for_each(stuck);
    let most = kilobytes(worker, "status", "VmHWM");
    assert!(most < before + 2 * BOUND_KILOBYTES, "{most} kB, and {before} kB before");
    let status = control::status(&server.control()).expect("a status");
    let numbers = &status.generations[0].workers[0];
    assert!(numbers.cut_for_memory > 0 && numbers.memory_bytes <= BOUND_KILOBYTES << 10, "{numbers:#?}");
    assert_served(server.address());
    drop(slow);
    wait_until("memory goes back", || kilobytes(worker, "status", "VmRSS") < before + BOUND_KILOBYTES / 4);
    server.stop();
}

#[test]
fn requests_that_come_byte_by_byte_are_answered() {
    let server = Server::start(&[]);
    let mut stream = connect(server.address());
    stream.set_nodelay(true).expect("set");
    let requests: [&[u8]; 3] = [
        GET,
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
    ];
    for (request, body) in requests.into_iter().zip(["Hello, World!", "hello", "hello"]) {
        for byte in request {
            stream.write_all(&[*byte]).expect("sent");
            // So that most bytes arrive in a packet of their own, and wake the worker.
            thread::sleep(Duration::from_millis(1));
        }
        let answer = read_answer(&mut stream).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
    }
    server.stop();
}

#[test]
fn heads_that_never_end_are_cut_while_others_are_served() {
    const CLIENTS: usize = 100;
    let server = Server::start(&["--message-ms", "700", "--idle-ms", "0"]);
    let mut slow: Vec<_> = (0..CLIENTS).map(|_| connect(server.address())).collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").expect("sent");
        stream.set_nonblocking(true).expect("set");
    }
    let (mut cut, mut rounds) = (Vec::new(), 0);
    wait_until("all are cut", || {
        assert_served(server.address());
        rounds += 1;
        let (ended, open): (Vec<_>, Vec<_>) = slow.drain(..).partition(|stream| stream.peek(&mut [0]).is_ok());
        cut.extend(ended);
        slow = open;
        if rounds % 5 == 0 {
            // Sending more of the head does not extend the time.
            slow.iter_mut().for_each(|stream| drop(stream.write(b"X: y\r\n")));
        }
        slow.is_empty()
    });
    assert_eq!(cut.len(), CLIENTS);
    for stream in &mut cut {
        stream.set_nonblocking(false).expect("set");
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
    let server = Server::start(&["--connections-max", "10", "--idle-at-limit-ms", "0"]);
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

#[test]
fn at_the_connection_limit_the_longest_idle_makes_room() {
    let server =
        Server::start_controlled(&["--connections-max", "10", "--idle-at-limit-ms", "200", "--message-ms", "0"]);
    let mut open: Vec<_> = (0..10).map(|_| connect(server.address())).collect();
    open.iter_mut().for_each(|stream| drop(ask(stream).expect("an answer")));
    let mut newcomers = Vec::new();
    // The fourth has sent half a request, and has waited longest.
    open[3].write_all(&GET[..10]).expect("sent");
    thread::sleep(Duration::from_millis(20));
    for index in [0, 1, 2, 4, 5, 6, 7, 8, 9] {
        ask(&mut open[index]).expect("an answer");
    }
    for expected in [0, 1, 2, 4, 5] {
        let mut newcomer = connect(server.address());
        ask(&mut newcomer).expect("served though the limit is reached");
        newcomers.push(newcomer);
        assert_eq!(read_to_end(&mut open[expected]).expect("an orderly end"), b"", "{expected}");
    }
    open[3].write_all(&GET[10..]).expect("sent");
    for index in [3, 6, 7, 8, 9] {
        let stream = if index == 3 { read_answer(&mut open[3]) } else { ask(&mut open[index]) };
        assert!(stream.expect("those that were not the longest idle stay").starts_with("HTTP/1.1 200 OK\r\n"));
    }
    newcomers.iter_mut().for_each(|stream| drop(ask(stream).expect("newcomers stay")));
    let status = control::status(&server.control()).expect("a status");
    let worker = &status.generations[0].workers[0];
    assert_eq!((worker.open, worker.closed_for_room), (10, 5), "{worker:#?}");
    drop((open, newcomers));
    server.stop();
}

/// More clients than the worker has room for: it serves as many as fit, does not spin, and serves the others as soon as
/// those leave.
fn check_exhausted(server: &Server, room: usize, what: &str) {
    const CLIENTS: usize = 200;
    assert!((4..CLIENTS).contains(&room), "{what}: room for {room}");
    let worker = server.workers()[0];
    let mut waiting: Vec<_> = (0..CLIENTS).map(|_| connect(server.address())).collect();
    for stream in &mut waiting {
        stream.write_all(GET).expect("sent");
        stream.set_nonblocking(true).expect("set");
    }
    let mut is_first = true;
    while !waiting.is_empty() {
        let expected = room.min(waiting.len());
        let mut served = Vec::new();
        wait_until("as many as there is room for are answered", || {
            let (answered, rest): (Vec<_>, Vec<_>) =
                waiting.drain(..).partition(|stream| stream.peek(&mut [0]).is_ok());
            served.extend(answered);
            waiting = rest;
            served.len() >= expected
        });
        assert_eq!(served.len(), expected, "{what}: served at once, {} still waiting", waiting.len());
        if is_first {
            let before = cpu_ticks(worker);
            thread::sleep(Duration::from_millis(500));
            let used = cpu_ticks(worker) - before;
            assert!(used <= 10, "{what}: it used {used} hundredths of a second to do nothing");
            assert!(waiting.iter().all(|stream| stream.peek(&mut [0]).is_err()), "{what}: more than {room} are served");
            is_first = false;
        }
        for stream in &mut served {
            stream.set_nonblocking(false).expect("set");
            let answer = read_answer(stream).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{what}: {answer}");
        }
    }
    assert_served(server.address());
}

#[test]
fn few_descriptors_are_a_connection_limit() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128; exec \"$@\"", "sh"]).arg(batond());
    command.args(["--listen", "127.0.0.1:0", "--idle-at-limit-ms", "0"]);
    let server = Server::start_command(command);
    let room = server.logged_numbers("connections_max")[0];
    check_exhausted(&server, room as usize, "the limit of open files");
    server.stop();
}

#[test]
fn too_few_descriptors_to_serve_anybody_are_named_with_the_cure() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$@\"", "sh"]).arg(batond()).args(["--listen", "127.0.0.1:0"]);
    let mut server = Server::spawn(command);
    assert_eq!(server.wait().code(), Some(1), "{:#?}", server.log());
    assert_eq!(server.count_of("batond: error: "), 1, "{:#?}", server.log());
    let is_named = |line: &String| line.contains(" 40") && line.contains("ulimit -n");
    assert!(server.log().iter().any(is_named), "{:#?}", server.log());
}

#[test]
fn descriptors_that_run_out_pause_accepting() {
    if !is_installed("prlimit") {
        skip("prlimit is not installed");
        return;
    }
    // With less room than a backlog can bring, connections are accepted one by one. The kernel reads the limit of open
    // files when an accept is submitted.
    let server = Server::start(&["--connections-max", "300"]);
    let worker = server.workers()[0];
    const ROOM: usize = 10;
    let limit = descriptor_limit_for(worker, ROOM);
    let limited = Command::new("prlimit")
        .args([format!("--pid={worker}"), format!("--nofile={limit}:{limit}")])
        .status()
        .expect("prlimit runs");
    assert!(limited.success());
    check_exhausted(&server, ROOM, "EMFILE");
    wait_until("it says so", || server.count_of("accepting failed") > 0);
    assert!(server.count_of("accepting failed") < 100, "once a second at most");
    server.stop();
}

/// With few connections the completion ring is the smallest one, and with two buffers most receives fail at first.
#[test]
fn bursts_through_the_smallest_ring_leave_no_descriptor_open() {
    const CLIENTS: usize = 400;
    let server = Server::start(&["--connections-max", "500", "--receive-buffers", "2"]);
    let worker = server.workers()[0];
    assert_served(server.address());
    let baseline = descriptors(worker);
    for burst in 0..8 {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(server.address())).collect();
        for _ in 0..12 {
            clients.iter_mut().for_each(|stream| stream.write_all(GET).expect("sent"));
        }
        for (index, stream) in clients.iter_mut().enumerate() {
            // Some leave without reading, which resets their connections.
            if index % 3 != burst % 3 {
                assert!(read_answer(stream).expect("an answer").starts_with("HTTP/1.1 200 OK\r\n"));
            }
        }
        drop(clients);
        wait_until("all are closed", || descriptors(worker) <= baseline);
    }
    assert_served(server.address());
    server.stop();
}

#[test]
fn with_every_receive_buffer_taken_all_bytes_arrive() {
    const CLIENTS: usize = 50;
    let server = Server::start(&["--protocol", "echo", "--receive-buffers", "2", "--receive-buffer-bytes", "1k"]);
    let address = server.address();
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || echo_pattern(address, 1 << 20))).collect();
    clients.into_iter().for_each(|client| client.join().expect("all came back"));
    server.stop();
}

/// Clients on a thread of their own that send the same bytes repeatedly, and read the answers.
struct Flood {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// They send as fast as the server reads. With `awaited`, they send again after this many bytes of answers.
    fn start(address: SocketAddr, clients: usize, request: Vec<u8>, awaited: Option<usize>) -> Self {
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut streams: Vec<_> = (0..clients).map(|_| (connect(address), 0, 0)).collect();
        streams.iter().for_each(|(stream, ..)| stream.set_nonblocking(true).expect("set"));
        let (thread_is_over, thread_sent) = (Arc::clone(&is_over), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let mut answers = vec![0; 1 << 16];
            while !thread_is_over.load(Ordering::Relaxed) {
                let mut total = 0;
                for (stream, offset, awaits) in &mut streams {
                    if *offset > 0 || *awaits == 0 {
                        let end = request.len().min(*offset + (1 << 16));
                        let count = stream.write(&request[*offset..end]).unwrap_or(0);
                        *offset = (*offset + count) % request.len();
                        *awaits += if count > 0 && *offset == 0 { awaited.unwrap_or(0) } else { 0 };
                        total += count as u64;
                    }
                    while let Ok(count) = stream.read(&mut answers) {
                        *awaits = awaits.saturating_sub(count);
                        if count < answers.len() {
                            break;
                        }
                    }
                }
                thread_sent.fetch_add(total, Ordering::Relaxed);
                if total == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { is_over, sent, thread: Some(thread) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A body of one-byte chunks is the most expensive per byte.
fn one_byte_chunks() -> Vec<u8> {
    let mut request = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    (0..500_000).for_each(|_| request.extend_from_slice(b"1\r\nx\r\n"));
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

fn one_body() -> Vec<u8> {
    let mut request = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n".to_vec();
    request.resize(request.len() + (1 << 20), b'x');
    request
}

/// How long a client that sends a request now and then waits for each answer; sorted.
fn waits(stream: &mut TcpStream, times: usize) -> Vec<Duration> {
    let wait = |_| {
        thread::sleep(Duration::from_millis(2));
        let start = Instant::now();
        ask(stream).expect("an answer");
        start.elapsed()
    };
    let mut waits: Vec<Duration> = (0..times).map(wait).collect();
    waits.sort_unstable();
    waits
}

#[test]
fn whoever_asks_little_does_not_wait_for_those_that_send_much() {
    // Before receives were granted in turn, this took 13 s.
    let server = Server::start(&["--receive-buffers", "2", "--receive-buffer-bytes", "1k"]);
    let mut bystander = connect(server.address());
    ask(&mut bystander).expect("an answer");
    let flood = Flood::start(server.address(), 200, one_byte_chunks(), None);
    wait_until("the flood has begun", || flood.sent() > 20_000_000);
    let waits = waits(&mut bystander, 11);
    assert!(waits[5] < Duration::from_millis(250), "{waits:?}");
    drop(flood);
    server.stop();
}

#[test]
#[ignore = "figures: cargo test --release -p baton-tests --test overload -- --ignored --nocapture"]
fn a_bystander_beside_500_uploaders() {
    const BATCH: usize = 250;
    let small: &[&str] = &["--receive-buffers", "2", "--receive-buffer-bytes", "1k"];
    for (shape, request, batch, arguments) in [
        ("bodies of 1 MiB", one_body(), None, &[][..]),
        ("bodies in one-byte chunks", one_byte_chunks(), None, &[]),
        ("the same, two receive buffers of 1 KiB", one_byte_chunks(), None, small),
        ("pipelined requests", GET.repeat(30_000), None, &[]),
        ("250 requests, and again when they are answered", GET.repeat(BATCH), Some(BATCH), &[]),
    ] {
        let server = Server::start(arguments);
        let mut bystander = connect(server.address());
        let answer_bytes = ask(&mut bystander).expect("an answer").len();
        let flood = Flood::start(server.address(), 500, request, batch.map(|count| count * answer_bytes));
        wait_until("the flood has begun", || flood.sent() > 500_000_000);
        let (start, before) = (Instant::now(), flood.sent());
        let waits = waits(&mut bystander, 300);
        let rate = (flood.sent() - before) as f64 / start.elapsed().as_secs_f64() / 1e6;
        let quantile = |share: f64| waits[(share * (waits.len() - 1) as f64) as usize].as_secs_f64() * 1e3;
        println!(
            "{shape}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; {rate:.0} MB/s taken",
            quantile(0.5),
            quantile(0.99),
            quantile(1.0)
        );
        drop(flood);
        server.stop();
    }
}

/// A send that waited in the kernel was tried again each time the peer's FIN woke it, and ended up in a kernel thread of its
/// own.
#[test]
fn clients_that_send_fin_and_read_nothing_take_neither_threads_nor_time() {
    const CLIENTS: usize = 20;
    const REQUESTS: usize = 8;
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(&[
        "--static",
        &format!("/static/={}", folder.path().display()),
        "--write-ms",
        "0",
        "--idle-ms",
        "0",
    ]);
    let worker = server.workers()[0];
    for bytes in [20_000, 400_000] {
        let name = bytes.to_string();
        fs::write(folder.path().join(&name), vec![b'x'; bytes]).expect("written");
        let request = format!("GET /static/{name} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(REQUESTS);
        let streams: Vec<TcpStream> = (0..CLIENTS)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.set_recv_buffer_size(4096).expect("set");
                socket.connect(&server.address().into()).expect("connected");
                let mut stream = TcpStream::from(socket);
                stream.write_all(request.as_bytes()).expect("sent");
                stream.shutdown(Shutdown::Write).expect("FIN");
                stream
            })
            .collect();
        wait_until("the worker has nothing to do", || {
            let before = cpu_ticks(worker);
            thread::sleep(Duration::from_millis(300));
            cpu_ticks(worker) <= before + 2
        });
        let threads = fs::read_dir(format!("/proc/{worker}/task")).expect("the worker's threads").count();
        assert_eq!(threads, 1, "files of {bytes} bytes");
        for mut stream in streams {
            SockRef::from(&stream).set_recv_buffer_size(1 << 20).expect("set");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).expect("all answers");
            let bodies = answers.iter().filter(|byte| **byte == b'x').count();
            assert_eq!(bodies, bytes * REQUESTS);
        }
    }
    server.stop();
}
