//! Start, stop, and what they leave behind: never a process, never an incomplete answer.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use baton::control::{EventKind, Exit};
use baton_tests::client::{GET, ask, assert_served, connect, pattern, read_answer, read_to_end};
use baton_tests::control;
use baton_tests::process::{descriptors, is_alive, is_stopped};
use baton_tests::program::{Server, batond, faulty, free_port, run, signal, signal_group};
use baton_tests::{PATIENCE, skip, wait_until};
use nix::sys::signal::Signal;

#[test]
fn each_stopping_signal_ends_all_workers_in_good_order() {
    for name in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut server = Server::start(&["--workers", "2"]);
        let workers = server.workers();
        assert_eq!(workers.len(), 2);
        let mut idle = connect(server.address());
        ask(&mut idle).expect("an answer");
        server.signal(name);
        assert_eq!(read_to_end(&mut idle).expect("an orderly end"), b"");
        drop(idle);
        assert_eq!(server.wait().code(), Some(0), "{name}");
        assert!(workers.iter().all(|pid| !is_alive(*pid)), "{name} left a worker");
        assert_eq!(server.count_of("\"stopped\""), 1, "{:#?}", server.log());
    }
}

#[test]
fn a_request_begun_before_the_stop_is_answered() {
    let mut server = Server::start(&[]);
    let mut stream = connect(server.address());
    ask(&mut stream).expect("an answer");
    stream.write_all(&GET[..10]).expect("sent");
    // An answer on another connection shows that the worker has read what was sent before.
    assert_served(server.address());
    server.signal(Signal::SIGTERM);
    wait_until("it says that it stops", || server.count_of_events("stopping") > 0);
    stream.write_all(&GET[10..]).expect("sent");
    let answer = read_answer(&mut stream).expect("an answer");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    assert_eq!(read_to_end(&mut stream).expect("an orderly end"), b"");
    drop(stream);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn an_answer_owed_at_the_stop_is_delivered_whole() {
    // More than sockets buffer, so that most of the answer waits in the server itself.
    const BODY_BYTES: usize = 24 << 20;
    let mut server = Server::start(&["--body-bytes-max", "24M"]);
    let mut stream = connect(server.address());
    let mut body = vec![0; BODY_BYTES];
    pattern(0, &mut body);
    let mut answer = Vec::new();
    stream
        .write_all(format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_BYTES}\r\n\r\n").as_bytes())
        .expect("sent");
    stream.write_all(&body).expect("sent");
    // When its first bytes arrive, the answer has been made. The client reads the rest only after the stop.
    let mut start = [0; 100];
    let count = stream.read(&mut start).expect("read");
    answer.extend_from_slice(&start[..count]);
    server.signal(Signal::SIGTERM);
    wait_until("it says that it stops", || server.count_of_events("stopping") > 0);
    answer.extend(read_to_end(&mut stream).expect("an orderly end"));
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(answer[head..] == body, "{} of {BODY_BYTES} bytes came back", answer.len() - head);
    drop(stream);
    assert_eq!(server.wait().code(), Some(0));
}

/// Number of log lines that a worker died.
fn deaths(server: &Server) -> usize {
    server.count_of_events("worker_died") + server.count_of_events("worker_died_leaving")
}

/// A server on which only an order ends an incomplete request, and a client with such a request.
fn with_a_request_that_never_ends(arguments: &[&str]) -> (Server, TcpStream) {
    let server = Server::start(&[&["--message-ms", "0", "--idle-ms", "0"], arguments].concat());
    let mut stream = connect(server.address());
    stream.write_all(&GET[..10]).expect("sent");
    // An answer on another connection shows that the worker has read what was sent before.
    assert_served(server.address());
    (server, stream)
}

#[test]
fn a_second_signal_does_not_wait_for_anybody() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGQUIT)] {
        let (mut server, stream) = with_a_request_that_never_ends(&["--drain-ms-max", "600000"]);
        server.signal(first);
        wait_until("it says that it stops", || server.count_of_events("stopping") > 0);
        assert!(is_alive(server.pid()), "it waits for the request");
        server.signal(second);
        assert_eq!(server.wait().code(), Some(0), "{first}, {second}");
        drop(stream);
    }
}

#[test]
fn ctrl_c_reaches_all_processes_at_once_and_still_drains() {
    let mut command = Command::new(batond());
    command.args(["--listen", "127.0.0.1:0", "--workers", "2"]).process_group(0);
    let mut server = Server::start_command(command);
    let mut stream = connect(server.address());
    stream.write_all(&GET[..10]).expect("sent");
    // Ten connections, so that both workers have read what was sent before.
    (0..10).for_each(|_| assert_served(server.address()));
    signal_group(server.pid(), Signal::SIGINT);
    wait_until("it says that it stops", || server.count_of_events("stopping") > 0);
    stream.write_all(&GET[10..]).expect("sent");
    assert!(read_answer(&mut stream).expect("an answer").starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(read_to_end(&mut stream).expect("an orderly end"), b"");
    drop(stream);
    assert_eq!(server.wait().code(), Some(0), "{:#?}", server.log());
    assert_eq!(deaths(&server), 0, "{:#?}", server.log());
}

#[test]
fn a_stop_during_the_start_leaves_nothing() {
    for delay_ms in 0..25 {
        let mut command = Command::new(batond());
        command.args(["--listen", "127.0.0.1:0", "--workers", "2"]);
        let mut server = Server::spawn(command);
        thread::sleep(Duration::from_millis(delay_ms));
        server.signal(Signal::SIGTERM);
        let status = server.wait();
        // Before it handles signals, it ends like any process.
        let is_orderly = status.code() == Some(0) || status.signal() == Some(Signal::SIGTERM as i32);
        let complaints = server.count_of("batond: error: ") + deaths(&server);
        assert!(is_orderly && complaints == 0, "after {delay_ms} ms: {status}, {:#?}", server.log());
    }
}

#[test]
fn a_killed_start_leaves_nothing() {
    for delay_ms in 0..25 {
        let mut command = Command::new(batond());
        command.args(["--listen", "127.0.0.1:0", "--workers", "2"]);
        let mut server = Server::spawn(command);
        thread::sleep(Duration::from_millis(delay_ms));
        server.signal(Signal::SIGKILL);
        server.wait();
    }
}

/// Stops a server whose worker hangs. Returns its exit code.
fn stop_with_a_worker_that_hangs() -> Option<i32> {
    let mut server = Server::start(&["--drain-ms-max", "200"]);
    let worker = server.workers()[0];
    signal(worker, Signal::SIGSTOP);
    server.signal(Signal::SIGTERM);
    let status = server.wait();
    assert!(!is_alive(worker));
    assert_eq!(server.count_of_events("workers_late"), 1, "{:#?}", server.log());
    status.code()
}

#[test]
fn a_worker_that_hangs_does_not_keep_the_server_from_stopping() {
    assert!(stop_with_a_worker_that_hangs().is_some());
}

#[test]
fn a_stop_that_had_to_kill_was_not_in_good_order() {
    assert_eq!(stop_with_a_worker_that_hangs(), Some(1));
}

#[test]
fn the_drain_deadline_ends_what_does_not_end_by_itself() {
    let (mut server, stream) = with_a_request_that_never_ends(&["--drain-ms-max", "200"]);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(
        server.count_of_events("workers_late"),
        0,
        "the worker keeps the deadline by itself: {:#?}",
        server.log()
    );
    drop(stream);
}

#[test]
fn term_has_less_patience_than_quit() {
    let (mut server, stream) = with_a_request_that_never_ends(&["--stop-ms-max", "200"]);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    drop(stream);
    let (mut server, mut stream) = with_a_request_that_never_ends(&["--stop-ms-max", "0"]);
    server.signal(Signal::SIGQUIT);
    wait_until("it says that it stops", || server.count_of_events("stopping") > 0);
    stream.write_all(&GET[10..]).expect("sent");
    let answer = read_answer(&mut stream).expect("an answer");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    drop(stream);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn other_signals_of_nginx_do_no_harm() {
    let server = Server::start(&["--workers", "2"]);
    let workers = server.workers();
    server.signal(Signal::SIGUSR1);
    wait_until("it says what it makes of it", || server.count_of("USR1") == 1);
    assert_eq!(server.workers(), workers);
    server.signal(Signal::SIGWINCH);
    wait_until("the workers have left", || server.workers().is_empty());
    // The second time there is nothing to do; and a stop ends a master that waits.
    let before = server.count_of("WINCH");
    server.signal(Signal::SIGWINCH);
    wait_until("it says what it makes of it", || server.count_of("WINCH") > before);
    server.stop();
}

#[test]
fn connections_that_wait_in_the_backlog_are_served_before_the_end() {
    let mut server = Server::start(&["--connections-max", "1"]);
    let mut first = connect(server.address());
    ask(&mut first).expect("an answer");
    let mut waiting: Vec<_> = (0..5).map(|_| connect(server.address())).collect();
    for stream in &mut waiting {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
    }
    server.signal(Signal::SIGTERM);
    for stream in &mut waiting {
        let answer = read_to_end(stream).expect("an orderly end");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    }
    drop((first, waiting));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn at_a_stop_those_who_wait_are_let_in_and_later_ones_are_refused_at_once() {
    for tier in ["adopt", "auto"] {
        let arguments = ["--workers", "2", "--settle-ms", "50", "--hang-ms", "0", "--handover", tier];
        let mut server = Server::start(&arguments);
        let address = server.address();
        let mut kept = connect(address);
        ask(&mut kept).expect("an answer");
        kept.write_all(&GET[..10]).expect("sent");
        // An answer on another connection shows that the worker has read what was sent before.
        assert_served(address);
        // While no worker accepts, clients wait in the queues.
        let workers = server.workers();
        workers.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        wait_until("they have stopped", || workers.iter().all(|pid| is_stopped(*pid)));
        let mut waiting: Vec<TcpStream> = (0..16).map(|_| connect(address)).collect();
        waiting.iter_mut().for_each(|stream| stream.write_all(GET).expect("sent"));
        server.signal(Signal::SIGQUIT);
        wait_until("it says that it stops", || server.count_of_events("stopping") > 0);
        workers.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
        for stream in &mut waiting {
            read_answer(stream).unwrap_or_else(|error| panic!("{tier}: {error}"));
        }
        drop(waiting);
        // A listener cannot be emptied and closed in one step: a client that connects in between is reset.
        let mut resets = 0;
        wait_until("those who come are refused", || match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PATIENCE)).expect("set");
                match ask(&mut stream) {
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => resets += 1,
                    answer => drop(answer.unwrap_or_else(|error| panic!("{tier}: {error}"))),
                }
                false
            }
            Err(error) => error.kind() == ErrorKind::ConnectionRefused || panic!("{tier}: {error}"),
        });
        kept.write_all(&GET[10..]).expect("sent");
        assert!(resets <= 1, "{tier}: {resets}");
        // Its time would be over if the others had only been refused by then.
        let answer = read_answer(&mut kept).expect("who was let in is served");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{tier}: {answer}");
        assert_eq!(read_to_end(&mut kept).expect("an orderly end"), b"");
        drop(kept);
        assert_eq!(server.wait().code(), Some(0), "{tier}");
    }
}

#[test]
fn at_a_stop_nobody_is_let_in_whom_no_worker_serves() {
    for tier in ["adopt", "auto"] {
        let mut server = Server::start(&["--hang-ms", "0", "--handover", tier]);
        let address = server.address();
        // The worker has nothing to do, and ends while its master does not look.
        let worker = server.workers()[0];
        signal(worker, Signal::SIGSTOP);
        wait_until("it has stopped", || is_stopped(worker));
        server.signal(Signal::SIGQUIT);
        wait_until("it is told", || server.count_of("its connections drain") > 0);
        signal(server.pid(), Signal::SIGSTOP);
        wait_until("the master has stopped", || is_stopped(server.pid()));
        signal(worker, Signal::SIGCONT);
        wait_until("the worker has ended", || !is_alive(worker));
        let late = TcpStream::connect_timeout(&address, PATIENCE);
        signal(server.pid(), Signal::SIGCONT);
        match late {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{tier}"),
            Ok(mut stream) => drop(ask(&mut stream).unwrap_or_else(|error| panic!("{tier}: let in, and {error}"))),
        }
        assert_eq!(server.wait().code(), Some(0), "{tier}");
    }
}

#[test]
fn a_killed_master_leaves_no_orphan() {
    let mut server = Server::start(&["--workers", "2"]);
    let workers = server.workers();
    assert_eq!(workers.len(), 2);
    let mut busy = connect(server.address());
    busy.write_all(&GET[..10]).expect("sent");
    // So many that both workers have some: each notices by itself that its master is gone.
    let mut idle: Vec<_> = (0..24).map(|_| connect(server.address())).collect();
    idle.iter_mut().for_each(|stream| drop(ask(stream).expect("an answer")));
    server.signal(Signal::SIGKILL);
    for stream in &mut idle {
        assert_eq!(read_to_end(stream).expect("an orderly end"), b"", "the workers drain");
    }
    busy.write_all(&GET[10..]).expect("sent");
    let answer = read_answer(&mut busy).expect("what was begun is answered");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    drop((idle, busy));
    server.wait();
    wait_until("the workers have left", || workers.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn without_its_master_a_worker_keeps_the_drain_deadline() {
    let (mut server, stream) = with_a_request_that_never_ends(&["--drain-ms-max", "200"]);
    server.signal(Signal::SIGKILL);
    server.wait();
    drop(stream);
}

#[test]
fn a_killed_only_worker_is_replaced() {
    let server = Server::start_controlled(&[]);
    signal(server.workers()[0], Signal::SIGKILL);
    wait_until("it is replaced", || server.count_of_events("worker_ready") == 2);
    let exit = Exit::Signal(Signal::SIGKILL as i32);
    let events = control::events(&server.control());
    let died = |kind: &&EventKind| matches!(kind, EventKind::WorkerDied { slot: 0, exit: how, .. } if *how == exit);
    assert_eq!(events.iter().filter(died).count(), 1, "{events:#?}");
    assert_served(server.address());
    server.stop();
}

#[test]
fn each_of_several_workers_takes_connections() {
    // Each connection gets either worker with the same probability: that all forty get the same one happens once in
    // 10^12 runs.
    const CONNECTIONS: usize = 40;
    for count in ["2", "auto"] {
        let server = Server::start(&["--workers", count]);
        let workers = server.workers();
        let before: Vec<_> = workers.iter().map(|pid| descriptors(*pid)).collect();
        let mut open: Vec<_> = (0..CONNECTIONS).map(|_| connect(server.address())).collect();
        open.iter_mut().for_each(|stream| drop(ask(stream).expect("an answer")));
        let taken = workers.iter().zip(before).map(|(pid, before)| descriptors(*pid).saturating_sub(before));
        let taken: Vec<_> = taken.collect();
        assert_eq!(taken.iter().sum::<usize>(), CONNECTIONS, "{count}: {taken:?}");
        assert!(workers.len() > 16 || !taken.contains(&0), "{count}: {taken:?}");
        drop(open);
        server.stop();
    }
}

#[test]
fn a_taken_port_fails_before_anything_is_forked() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    refused(&["--listen", &address], "is in use");
}

#[test]
fn a_second_server_does_not_share_the_port_unnoticed() {
    let first = Server::start(&[]);
    refused(&["--listen", &first.address().to_string()], "is in use");
    refused(&["--listen", &format!("0.0.0.0:{}", first.address().port())], "is in use");
    assert_served(first.address());
    first.stop();
}

#[test]
fn of_two_servers_started_at_once_one_is_refused() {
    for _ in 0..10 {
        let address = format!("127.0.0.1:{}", free_port());
        let mut both = [0; 2].map(|_| {
            let mut command = Command::new(batond());
            command.args(["--listen", &address]);
            Server::spawn(command)
        });
        wait_until("each is up or gone", || {
            both.iter().all(|server| server.count_of("\"listening\"") + server.count_of("batond: error: ") > 0)
        });
        let up = both.iter().filter(|server| server.count_of("\"listening\"") > 0).count();
        both.iter().for_each(|server| server.signal(Signal::SIGTERM));
        let mut codes = both.each_mut().map(|server| server.wait().code());
        codes.sort();
        assert_eq!((up, codes), (1, [Some(0), Some(1)]), "on {address}");
    }
}

#[test]
fn several_addresses_and_workers_all_serve() {
    let mut arguments = vec!["--listen", "127.0.0.2:0", "--workers", "auto"];
    if fs::exists("/proc/sys/net/ipv6/conf/lo/disable_ipv6").unwrap_or(false)
        && fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|text| text.trim() == "0")
    {
        arguments.extend(["--listen", "[::1]:0"]);
    } else {
        skip("no IPv6 on this machine");
    }
    let server = Server::start(&arguments);
    assert_eq!(server.addresses.len(), arguments.len() / 2, "127.0.0.1 and all of {arguments:?}");
    for address in &server.addresses {
        for _ in 0..8 {
            assert_served(*address);
        }
    }
    server.stop();
}

#[test]
fn a_port_without_permission_is_named() {
    if !nix::unistd::geteuid().is_root() && fs::metadata("/proc/sys/net/ipv4/ip_unprivileged_port_start").is_err() {
        skip("needs root or the sysctl");
        return;
    }
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if lowest.trim() == "0" {
        skip("every port is free for everybody here");
        return;
    }
    let mut command = Command::new(batond());
    command.args(["--listen", "127.0.0.1:81"]);
    if nix::unistd::geteuid().is_root() {
        // Other users may not be able to read the binary's folder: they start a copy.
        let folder = tempfile::Builder::new().prefix("baton").tempdir_in("/tmp").expect("a folder");
        let copy = folder.path().join("batond");
        fs::copy(batond(), &copy).expect("copied");
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        command = Command::new(copy);
        command.args(["--listen", "127.0.0.1:81"]).uid(65534).gid(65534);
        check_refused(command, "no permission for this port");
        return;
    }
    check_refused(command, "no permission for this port");
}

fn refused(arguments: &[&str], why: &str) {
    let mut command = Command::new(batond());
    command.args(arguments);
    check_refused(command, why);
}

fn check_refused(command: Command, why: &str) {
    let mut server = Server::spawn(command);
    let status = server.wait();
    let log = server.log();
    assert_eq!(status.code(), Some(1), "{log:#?}");
    let errors: Vec<_> = log.iter().filter(|line| line.starts_with("batond: error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(why), "{log:#?}");
}

#[test]
fn a_handler_that_panics_ends_its_worker_and_the_others_serve_on() {
    let program = faulty("panicking");
    let folder = tempfile::tempdir().expect("a folder");
    let (control, address) = (folder.path().join("control"), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let mut command = Command::new(program);
    command.args(["--workers", "2", "--listen", &address.to_string()]).arg("--control").arg(&control);
    let server = Server::start_unlogged(command, address);
    wait_until("it serves", || control::events(&control).iter().any(|event| matches!(event, EventKind::Serves { .. })));
    let pid_of = |stream: &mut TcpStream| -> u32 {
        let answer = ask(stream).expect("an answer");
        answer.rsplit_once("\r\n\r\n").expect("a head").1.parse().expect("a pid")
    };
    let before = server.workers();
    let mut kept: Vec<(u32, TcpStream)> = Vec::new();
    wait_until("each worker has some connections", || {
        let mut stream = connect(address);
        kept.push((pid_of(&mut stream), stream));
        before.iter().all(|worker| kept.iter().filter(|(pid, _)| pid == worker).count() >= 5)
    });
    let (victim, mut asking) = kept.remove(0);
    asking.write_all(b"GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    // No incomplete answer; the kernel decides whether the end is a reset.
    assert_eq!(read_to_end(&mut asking).unwrap_or_default(), b"");
    (0..20).for_each(|_| assert_served(address));
    for (pid, mut stream) in kept {
        if pid == victim {
            assert_eq!(read_to_end(&mut stream).unwrap_or_default(), b"");
        } else {
            assert_eq!(pid_of(&mut stream), pid);
        }
    }
    wait_until("another worker has its place", || {
        let now = server.workers();
        now.len() == 2 && !now.contains(&victim)
    });
    wait_until("the new worker answers, too", || !before.contains(&pid_of(&mut connect(address))));
    let deaths: Vec<Exit> = control::events(&control)
        .into_iter()
        .filter_map(|event| match event {
            EventKind::WorkerDied { exit, .. } => Some(exit),
            _ => None,
        })
        .collect();
    // Depending on the profile, a panic unwinds out of the worker or aborts.
    let expected = if cfg!(debug_assertions) { Exit::Code(101) } else { Exit::Signal(Signal::SIGABRT as i32) };
    assert_eq!(deaths, [expected]);
    server.stop();
}

#[test]
fn a_check_takes_the_server_that_would_be_replaced_for_no_obstacle() {
    let server = Server::start_controlled(&[]);
    let (address, control) = (server.address().to_string(), server.control());
    let check = |control: &Path| {
        let mut command = Command::new(batond());
        let output = run(command.args(["--check", "--listen", &address, "--control"]).arg(control));
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    let (code, told) = check(&control);
    assert!(code == Some(0) && told.contains(&format!("(pid {}) already serves", server.pid())), "{code:?} {told}");
    // For another server, its port is taken.
    assert_eq!(check(&control.with_extension("other")), (Some(1), String::new()));
    assert_served(server.address());
    server.stop();
}
