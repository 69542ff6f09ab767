//! How the kernel treats listeners that are opened and closed: one test per trap, each named after it. If the engine
//! has an answer to a trap, that is tested as well, here or where the trap's doc comment says.
//!
//! Not here: SO_INCOMING_CPU on a group (not used), and half-open handshakes, which are in `promise/handshake.rs`.

use std::fs;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use baton_tests::client::{GET, connect, read_answer};
use baton_tests::namespace::{has_users, listener_queues, run, sysctl};
use baton_tests::process::is_stopped;
use baton_tests::program::{Server, batond, signal};
use baton_tests::{PATIENCE, skip, wait_until};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

const MIGRATION: &str = "net/ipv4/tcp_migrate_req";

/// A listener of the group of `address`; blocking accepts end after [`PATIENCE`].
fn listen(address: SocketAddr, backlog: i32) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("set");
    socket.bind(&address.into()).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.listen(backlog).expect("listening");
    let address = socket.local_addr().expect("an address").as_socket().expect("an internet address");
    (socket, address)
}

fn first(backlog: i32) -> (Socket, SocketAddr) {
    listen(SocketAddr::from(([127, 0, 0, 1], 0)), backlog)
}

/// Accepts all waiting connections, and returns how many they were.
fn waiting(listener: &Socket) -> usize {
    listener.set_nonblocking(true).expect("set");
    std::iter::from_fn(|| listener.accept().ok()).count()
}

fn connect_all(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect(address)).collect()
}

/// Trap 1. The engine: workers close listeners that they inherit and do not serve; see the next test.
#[test]
fn a_copy_keeps_a_dead_queue() {
    run("a_copy_keeps_a_dead_queue", || {
        sysctl(MIGRATION, "1");
        let (old, address) = first(64);
        let (new, _) = listen(address, 64);
        let copy = old.try_clone().expect("a copy");
        drop(old);
        let _clients = connect_all(address, 40);
        assert!(waiting(&copy) > 0, "the copy's queue goes on taking connections");
        drop(copy);
        let _more = connect_all(address, 10);
        assert!(waiting(&new) >= 10);
    });
}

/// Trap 1. The engine uses this to move a hung worker's queue; see `promise/hang.rs`.
#[test]
fn shutdown_acts_whatever_the_references() {
    run("shutdown_acts_whatever_the_references", || {
        sysctl(MIGRATION, "1");
        let (old, address) = first(64);
        let _clients = connect_all(address, 20);
        let (new, _) = listen(address, 64);
        let _copy = old.try_clone().expect("a copy");
        old.shutdown(std::net::Shutdown::Read).expect("shut");
        assert_eq!(waiting(&new), 20);
    });
}

/// Trap 2: a ring that holds a listener keeps it alive. The engine reaps the last completion before it closes.
#[test]
fn no_listener_survives_its_worker() {
    run("no_listener_survives_its_worker", || {
        for (tier, beside) in [("ebpf", 1), ("adopt", 0)] {
            if tier == "ebpf" && !geteuid().is_root() {
                skip("the tier ebpf");
                continue;
            }
            let server = Server::start(&["--workers", "2", "--handover", tier, "--settle-ms", "50"]);
            if server.count_of("\"listening\"") == 0 {
                continue;
            }
            (0..10).for_each(|_| server.reload());
            wait_until("the old workers have left", || server.workers().len() == 2);
            // The guard is an additional one.
            assert_eq!(listener_queues(server.address().port()).len(), 2 + beside, "{tier}");
            server.stop();
        }
    });
}

/// Trap 2: if a worker is killed with its accept in the ring, its port lives on for some milliseconds; no other server
/// may have it.
#[test]
fn a_port_is_free_once_a_killed_worker_is_gone() {
    run("a_port_is_free_once_a_killed_worker_is_gone", || {
        let server = Server::start(&[]);
        let address = server.address();
        let before = listener_queues(address.port()).len();
        server.workers().into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
        wait_until("it is replaced", || server.count_of_events("worker_ready") == 2);
        wait_until("its listener is gone", || listener_queues(address.port()).len() == before);
        server.stop();
    });
}

/// Trap 4. The engine always keeps at least one listener.
#[test]
fn close_then_open_loses_what_waits() {
    run("close_then_open_loses_what_waits", || {
        let (old, address) = first(64);
        let mut clients = connect_all(address, 5);
        drop(old);
        let (new, _) = listen(address, 64);
        assert_eq!(waiting(&new), 0);
        for client in &mut clients {
            let lost = client.read(&mut [0]).expect_err("reset");
            assert_eq!(lost.kind(), ErrorKind::ConnectionReset);
        }
    });
}

/// Trap 5. The engine's error explains it; workers get their sockets before they become another user.
#[test]
fn a_group_has_one_user() {
    run("a_group_has_one_user", || {
        if !geteuid().is_root() || !has_users() {
            skip("another user is needed");
            return;
        }
        let (_socket, address) = first(64);
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("batond");
        fs::copy(batond(), &copy).expect("copied");
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        let mut command = Command::new(&copy);
        command.uid(65_534).args(["--listen", &address.to_string()]);
        let mut server = Server::spawn(command);
        assert_eq!(server.wait().code(), Some(1));
        let log = server.log();
        let errors: Vec<&String> = log.iter().filter(|line| line.starts_with("batond: error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(&address.to_string()), "{log:#?}");
    });
}

/// Trap 6: on kernels before the fix, a moved connection does not wake the listener to which it is moved. Reported, not
/// asserted: it is the kernel's behaviour. The next test has the engine's answer.
#[test]
fn a_migrated_connection_wakes_its_new_listener_or_not() {
    run("a_migrated_connection_wakes_its_new_listener_or_not", || {
        sysctl(MIGRATION, "1");
        let (old, address) = first(64);
        let _client = connect(address);
        let (new, _) = listen(address, 64);
        let (sender, receiver) = mpsc::channel();
        let accepting = std::thread::spawn(move || {
            let accepted = new.accept().is_ok();
            let _ = sender.send(accepted);
        });
        drop(old);
        let is_woken = receiver.recv_timeout(Duration::from_secs(1)).is_ok();
        eprintln!("a migrated connection wakes a blocked accept: {is_woken}");
        let _another = (!is_woken).then(|| connect(address));
        wait_until("it is accepted", || accepting.is_finished());
    });
}

/// Trap 6: a connection that waits at a worker that dies is served by its sibling, even if no other client connects.
#[test]
fn whoever_is_moved_is_served_though_nobody_else_comes() {
    run("whoever_is_moved_is_served_though_nobody_else_comes", || {
        for tier in ["auto", "adopt"] {
            let server = Server::start(&["--workers", "2", "--handover", tier]);
            for _ in 0..5 {
                let before = server.count_of_events("worker_ready");
                let victim = server.workers()[0];
                signal(victim, Signal::SIGSTOP);
                wait_until("it is stopped", || is_stopped(victim));
                let mut clients = connect_all(server.address(), 8);
                clients.iter_mut().for_each(|client| client.write_all(GET).expect("sent"));
                signal(victim, Signal::SIGKILL);
                for client in &mut clients {
                    read_answer(client).expect("an answer");
                }
                wait_until("it is replaced", || server.count_of_events("worker_ready") > before);
            }
            server.stop();
        }
    });
}

/// Trap 7. The engine: at most as many come as its listeners' backlogs hold, and each is accepted.
#[test]
fn migration_ignores_the_backlog_and_keeps_the_old_options() {
    run("migration_ignores_the_backlog_and_keeps_the_old_options", || {
        sysctl(MIGRATION, "1");
        let (old, address) = first(64);
        old.set_tcp_nodelay(true).expect("set");
        let _clients = connect_all(address, 20);
        let (new, _) = listen(address, 1);
        drop(old);
        let (connection, _) = new.accept().expect("a connection");
        assert!(connection.tcp_nodelay().expect("asked"), "the old listener's option, which the new one has not");
        assert_eq!(waiting(&new), 19);
    });
}

/// Trap 8, if the port was requested by number: the shutdown gives up a port that the kernel chose.
#[test]
fn listen_undrains_a_listener_that_was_shut() {
    run("listen_undrains_a_listener_that_was_shut", || {
        let (listener, address) = listen(SocketAddr::from(([127, 0, 0, 1], 8080)), 64);
        let (_other, _) = listen(address, 64);
        listener.shutdown(std::net::Shutdown::Read).expect("shut");
        let _clients = connect_all(address, 20);
        assert_eq!(waiting(&listener), 0);
        listener.listen(64).expect("listening again");
        let _more = connect_all(address, 40);
        assert!(waiting(&listener) > 0);
    });
}

/// Trap 11: what waits at a listener can be seen from outside.
#[test]
fn queue_lengths_can_be_seen() {
    run("queue_lengths_can_be_seen", || {
        let (_listener, address) = first(64);
        let _clients = connect_all(address, 7);
        assert_eq!(listener_queues(address.port()), [7]);
    });
}

/// Trap 12. The engine passes one descriptor per message, and keeps a copy until the other side has it.
#[test]
fn a_message_passes_at_most_253_descriptors() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let descriptors = |count: usize| vec![theirs.as_raw_fd(); count];
    let send = |descriptors: &[RawFd]| {
        let control = [ControlMessage::ScmRights(descriptors)];
        sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::MSG_DONTWAIT, None)
    };
    assert_eq!(send(&descriptors(254)), Err(Errno::EINVAL));
    assert_eq!(send(&descriptors(253)), Ok(1));
}

/// Trap 14. The engine therefore adopts Unix sockets in every tier.
#[test]
fn unix_sockets_have_no_groups() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = SockAddr::unix(folder.path().join("socket")).expect("an address");
    let bind = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        // Some kernels refuse the option, others accept it without effect.
        let _ = socket.set_reuse_port(true);
        socket.bind(&address).map(|()| socket)
    };
    let _first = bind().expect("bound");
    assert_eq!(bind().expect_err("taken").kind(), ErrorKind::AddrInUse);
}
