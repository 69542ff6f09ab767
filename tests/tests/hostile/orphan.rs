//! A compromised worker outlives its master, and sends false reports to the next one.

use std::fs;
use std::io::{IoSlice, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command};
use std::thread::{self, JoinHandle};

use baton::control::EventKind;
use baton_tests::client::assert_served;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::process::{descriptors, is_alive, open_files, started_at};
use baton_tests::program::{Server, batond};
use baton_tests::{PATIENCE, control, wait_until};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::names::{start, workers_of};
use crate::stranger::may_become_others;

/// The largest number that a master accepts.
const NUMBER_MAX: u32 = 1 << 30;

/// Text for orders: every order contains the first, and none the second.
const ANY: &str = "order";
const NONE: &str = "no such order";

/// Listens where the next master of a control socket looks for a worker with process number `pid`.
fn claim_to_be(pid: u32, control: &Path) -> Socket {
    let folder = workers_of(control);
    fs::DirBuilder::new().mode(0o700).create(&folder).expect("made");
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    let path = folder.join(format!("{pid}.{}", started_at(pid)));
    socket.bind(&SockAddr::unix(path).expect("short")).expect("bound");
    socket.listen(8).expect("listening");
    // This also limits accept(2).
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

/// A listen socket, and the address that the worker claims for it.
struct Claimed {
    address: SocketAddr,
    listener: TcpListener,
}

/// Introduces itself to the next master as a worker does, then shares these listen sockets. It stays until the master
/// sends an order that contains this text, or ends the channel.
fn lie(socket: Socket, generation: u32, listeners: Vec<Claimed>, until: &'static str) -> JoinHandle<()> {
    thread::spawn(move || {
        let (mut channel, _) = socket.accept().expect("a master comes");
        channel.set_read_timeout(Some(PATIENCE)).expect("set");
        let count = listeners.len();
        let report = format!(
            "{{\"report\":\"orphan\",\"generation\":{generation},\"slot\":0,\"addresses\":[],\"listeners\":{count}}}"
        );
        // A master that does not read it has refused it.
        let _ = channel.send(report.as_bytes());
        for Claimed { address, listener } in listeners {
            let report = format!("{{\"report\":\"listener\",\"address\":\"{address}\"}}");
            let descriptors = [listener.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let parts = [IoSlice::new(report.as_bytes())];
            let flags = MsgFlags::MSG_NOSIGNAL;
            sendmsg::<()>(channel.as_raw_fd(), &parts, &rights, flags, None).expect("sent");
        }
        let mut bytes = [0; 16 * 1024];
        loop {
            let order = channel.read(&mut bytes).map_or(&b""[..], |count| &bytes[..count]);
            if order.is_empty() || String::from_utf8_lossy(order).contains(until) {
                return;
            }
        }
    })
}

#[test]
fn a_number_of_generations_that_is_made_up_stops_no_upgrade() {
    run("orphan::a_number_of_generations_that_is_made_up_stops_no_upgrade", number_that_stops_no_upgrade);
}

fn number_that_stops_no_upgrade() {
    let mut liar = None;
    let lineage = Lineage::start(2, |control, pid_file| {
        let socket = claim_to_be(std::process::id(), Path::new(control));
        liar = Some(lie(socket, NUMBER_MAX, Vec::new(), ANY));
        Server::start(&["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file])
    });
    liar.expect("started").join().expect("it was heard");
    for _ in 0..2 {
        lineage.done(&["upgrade"]);
        lineage.done(&["reload"]);
    }
}

#[test]
fn a_number_of_generations_that_is_made_up_stops_no_take_over() {
    if !may_become_others() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let control = folder.path().join("control");
    let liar = lie(claim_to_be(std::process::id(), &control), NUMBER_MAX, Vec::new(), ANY);
    let mut server = start(&control, "127.0.0.1:0");
    liar.join().expect("it was heard");
    let address = server.address();
    for _ in 0..2 {
        let workers = server.workers();
        server.signal(Signal::SIGKILL);
        wait_until("the workers notice", || server.count_of("the master is gone") >= workers.len());
        let next = start(&control, &address.to_string());
        wait_until("they have left", || workers.iter().all(|pid| !is_alive(*pid)));
        assert_served(address);
        server = next;
    }
    server.stop();
}

#[test]
fn nobody_is_killed_for_a_name_that_another_process_has_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = folder.path().join("control");
    let mut victim = Bystander(Command::new("sleep").arg("1000").spawn().expect("started"));
    let liar = lie(claim_to_be(victim.0.id(), &control), 1, Vec::new(), NONE);
    let mut command = Command::new(batond());
    command.args(["--listen", "127.0.0.1:0", "--settle-ms", "0", "--drain-ms-max", "0", "--control"]).arg(&control);
    let server = Server::start_command(command);
    let mut has_died = || victim.0.try_wait().expect("asked").is_some();
    wait_until("the liar is refused, or believed", || liar.is_finished() || has_died());
    assert!(!has_died(), "{:#?}", server.log());
    server.stop();
}

struct Bystander(Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn listen_sockets_that_nobody_asked_for_are_not_kept() {
    const COUNT: usize = 200;
    let folder = tempfile::tempdir().expect("a folder");
    let control = folder.path().join("control");
    let claim = |_| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        Claimed { address: listener.local_addr().expect("an address"), listener }
    };
    let listeners = (0..COUNT).map(claim).collect();
    let liar = lie(claim_to_be(std::process::id(), &control), 1, listeners, "drain");
    let mut command = Command::new(batond());
    command.args(["--listen", "127.0.0.1:0", "--settle-ms", "0", "--drain-ms-max", "0", "--handover", "adopt"]);
    command.arg("--control").arg(&control);
    let server = Server::start_command(command);
    let is_heard = |event: &EventKind| matches!(event, EventKind::OrphansDrain { workers: 1 });
    wait_until("the liar is heard", || control::events(&control).iter().any(is_heard));
    wait_until("they are closed", || descriptors(server.pid()) < COUNT);
    assert_served(server.address());
    liar.join().expect("it was heard");
    server.stop();
}

#[test]
fn a_listen_socket_that_is_not_where_it_is_said_to_be_is_not_kept() {
    run("orphan::a_listen_socket_that_is_not_where_it_is_said_to_be_is_not_kept", socket_of_another_address);
}

fn socket_of_another_address() {
    let wanted = SocketAddr::from(([127, 0, 0, 1], 8080));
    for tier in ["ebpf", "adopt"] {
        let folder = tempfile::tempdir().expect("a folder");
        let control = folder.path().join("control");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let elsewhere = format!(
            "socket:[{}]",
            fs::metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).expect("open").ino()
        );
        let strangers = listener.try_clone().expect("another descriptor");
        let liar =
            lie(claim_to_be(std::process::id(), &control), 1, vec![Claimed { address: wanted, listener }], "drain");
        let mut command = Command::new(batond());
        command.args(["--listen", &wanted.to_string(), "--settle-ms", "0", "--drain-ms-max", "0", "--handover", tier]);
        command.arg("--control").arg(&control);
        let server = Server::start_command(command);
        let is_heard = |event: &EventKind| matches!(event, EventKind::OrphansDrain { workers: 1 });
        wait_until("the liar is heard", || control::events(&control).iter().any(is_heard));
        liar.join().expect("it was heard");
        wait_until("nobody has it", || {
            let all = server.workers().into_iter().chain([server.pid()]);
            all.flat_map(open_files).all(|file| file != Path::new(&elsewhere))
        });
        assert_served(wanted);
        drop(TcpStream::connect(strangers.local_addr().expect("an address")).expect("its stranger listens"));
        strangers.accept().expect("nobody else has taken it");
        server.stop();
    }
}
