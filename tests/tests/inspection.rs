//! `batonctl connections` and `batonctl close`: operators list connections, and end one of them.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use baton::control::{
    CannotClose, ConnectionList, ConnectionName, ConnectionPeer, ConnectionState, EventKind, Failure, Outcome,
    PeerHost, Reply, Status, WorkerSilence,
};
use baton_tests::client::{ask, connect};
use baton_tests::control::{self, status};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::program::{Server, batonctl, run_ok, signal};
use baton_tests::{PATIENCE, wait_until};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

fn list(control: &Path, arguments: &[&str]) -> ConnectionList {
    match control::ask(control, &[&["connections"], arguments].concat()).done() {
        Outcome::Connections(list) => list,
        other => panic!("{other:?}"),
    }
}

fn peers(list: &ConnectionList) -> Vec<SocketAddr> {
    let address = |peer| if let ConnectionPeer::Tcp { address } = peer { Some(address) } else { None };
    list.connections.iter().filter_map(|one| address(one.facts.peer)).collect()
}

/// Clients that were served, one after the other.
fn served(server: &Server, count: usize) -> Vec<TcpStream> {
    let one = |_| {
        let mut client = connect(server.address());
        ask(&mut client).expect("an answer");
        client
    };
    (0..count).map(one).collect()
}

fn addresses(clients: &[TcpStream]) -> Vec<SocketAddr> {
    clients.iter().map(|client| client.local_addr().expect("an address")).collect()
}

fn close(control: &Path, id: ConnectionName, arguments: &[&str]) -> control::Answer {
    let id = id.to_string();
    control::ask(control, &[&["close", &id], arguments].concat())
}

fn not_closed(answer: control::Answer) -> CannotClose {
    match answer.failed() {
        Failure::NotClosed { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

/// The result of reading by a client that sends nothing more.
fn end_of(client: &mut TcpStream) -> io::Result<usize> {
    client.read(&mut [0; 64])
}

#[test]
fn the_oldest_are_listed_first_and_one_is_closed() {
    let server = Server::start_controlled(&["--workers", "2"]);
    let control = server.control();
    let mut clients = served(&server, 5);
    let all = list(&control, &[]);
    assert_eq!((peers(&all), all.total, all.workers), (addresses(&clients), 5, 2));
    let pids = server.workers();
    for one in &all.connections {
        assert_eq!((one.facts.state, one.facts.is_layered, one.generation), (ConnectionState::Open, false, 1));
        assert_eq!((pids[one.worker], one.facts.local), (one.id.pid, Some(server.address().into())));
    }
    let first = list(&control, &["--limit", "2"]);
    assert_eq!((peers(&first), first.total), (addresses(&clients[..2]), 5));
    let of_one = list(&control, &["--worker", "1"]);
    assert!(of_one.workers == 1 && of_one.connections.iter().all(|one| one.worker == 1), "{of_one:?}");
    assert_eq!(control::ask(&control, &["connections", "--worker", "2"]).failed(), Failure::NoSuchWorker { worker: 2 });
    let id = all.connections[2].id;
    assert_eq!(close(&control, id, &[]).done(), Outcome::Closed { id });
    let mut closed = clients.remove(2);
    assert_eq!(end_of(&mut closed).expect("a good end"), 0);
    clients.iter_mut().for_each(|client| drop(ask(client).expect("the others go on")));
    assert_eq!(peers(&list(&control, &[])), addresses(&clients));
    assert_eq!(not_closed(close(&control, id, &[])), CannotClose::Gone);
    assert_eq!(status(&control).expect("it answers").totals.get("closed:operator"), 1);
    let slot = all.connections[2].worker;
    let told = EventKind::ConnectionClosed { slot, id, at_once: false };
    assert_eq!(control::events(&control).last(), Some(&told));
    server.stop();
}

#[test]
fn one_that_is_reset_is_gone_at_once() {
    let server = Server::start_controlled(&["--workers", "1"]);
    let control = server.control();
    let mut clients = served(&server, 2);
    let id = list(&control, &[]).connections[0].id;
    assert_eq!(close(&control, id, &["--now"]).done(), Outcome::Closed { id });
    assert_eq!(end_of(&mut clients[0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    ask(&mut clients[1]).expect("the other one goes on");
    server.stop();
}

#[test]
fn closed_ones_are_counted_where_other_reasons_are() {
    let server = Server::start_controlled(&["--workers", "1"]);
    let control = server.control();
    let mut clients = served(&server, 3);
    let listed = list(&control, &[]).connections;
    for (one, arguments) in listed.iter().zip([&[][..], &["--now"]]) {
        assert_eq!(close(&control, one.id, arguments).done(), Outcome::Closed { id: one.id });
    }
    drop(clients.remove(2));
    wait_until("the third one is closed by its client", || list(&control, &[]).total == 0);
    let shown = |arguments: &[&str]| run_ok(Command::new(batonctl()).arg("--control").arg(&control).args(arguments));
    let status: Status = serde_json::from_str(&shown(&["status", "--json"])).expect("a status");
    let worker = &status.generations[0].workers[0];
    assert_eq!((worker.closed_by_operator, worker.closed_for_room), (2, 0), "{worker:?}");
    let totals = ["closed:operator", "closed:peer"].map(|name| status.totals.get(name));
    assert_eq!(totals, [2, 1]);
    let text = shown(&["status"]);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("batonctl close")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("  worker 0: 2 connections "), "{text}");
    let metrics = shown(&["metrics"]);
    for series in [
        "baton_connections_closed_total{reason=\"operator\"} 2",
        "baton_worker_connections_closed_by_operator_total{generation=\"1\",slot=\"0\"} 2",
    ] {
        assert!(metrics.lines().any(|line| line == series), "{series}: {metrics}");
    }
    server.stop();
}

#[test]
fn a_name_is_worth_nothing_once_the_connection_has_moved() {
    let server = Server::start_controlled(&["--workers", "2"]);
    let control = server.control();
    let mut clients = served(&server, 4);
    let before = list(&control, &[]);
    let _ = control::ask(&control, &["reload"]).done();
    wait_until("the old workers have left", || server.workers().len() == 2);
    assert_eq!(not_closed(close(&control, before.connections[1].id, &[])), CannotClose::NoWorker);
    let after = list(&control, &[]);
    assert_eq!((after.connections.len(), after.total), (4, 4));
    // They are as old as they were, but for the time that each was on its way, so their order may be another one.
    let of_peer = |peer| after.connections.iter().find(|one| one.facts.peer == peer).expect("it is listed again");
    for one in &before.connections {
        assert!(of_peer(one.facts.peer).facts.age_ms >= one.facts.age_ms, "{before:?} {after:?}");
    }
    let id = of_peer(ConnectionPeer::Tcp { address: addresses(&clients)[1] }).id;
    assert_eq!(close(&control, id, &[]).done(), Outcome::Closed { id });
    assert_eq!(end_of(&mut clients[1]).expect("a good end"), 0);
    for place in [0, 2, 3] {
        ask(&mut clients[place]).expect("the others go on");
    }
    server.stop();
}

#[test]
fn the_busiest_and_the_peers_with_the_most_are_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http");
    let unix = format!("unix:{}", path.display());
    let server = Server::start_controlled(&["--workers", "2", "--listen", &unix]);
    let control = server.control();
    let _clients = served(&server, 3);
    let _local = UnixStream::connect(&path).expect("connected");
    let elsewhere = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    elsewhere.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0)).into()).expect("bound");
    elsewhere.connect(&server.address().into()).expect("connected");
    let mut busy = TcpStream::from(elsewhere);
    busy.set_read_timeout(Some(PATIENCE)).expect("set");
    let address = busy.local_addr().expect("an address");
    let is_over = AtomicBool::new(false);
    wait_until("all are accepted", || list(&control, &[]).total == 5);
    let busiest = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                ask(&mut busy).expect("an answer");
            }
        });
        let busiest = list(&control, &["--busiest", "--limit", "2"]);
        is_over.store(true, Ordering::Relaxed);
        busiest
    });
    assert_eq!(peers(&busiest).first(), Some(&address), "{busiest:?}");
    assert!(busiest.connections[0].facts.events_per_second > busiest.connections[1].facts.events_per_second);
    let by_peer = list(&control, &["--by-peer"]);
    let counted: Vec<_> = by_peer.peers.iter().map(|one| (one.peer, one.connections, one.connections_max)).collect();
    let host = |last| PeerHost::Tcp { address: Ipv4Addr::new(127, 0, 0, last).into() };
    let user = PeerHost::Unix { user: nix::unistd::geteuid().as_raw() };
    assert_eq!(counted, [(host(1), 3, 3), (host(2), 1, 1), (user, 1, 1)]);
    let all = list(&control, &[]);
    let is_unix = |peer| matches!(peer, ConnectionPeer::Unix { pid, .. } if pid == std::process::id() as i32);
    let local = all.connections.iter().find(|one| is_unix(one.facts.peer)).expect("it is listed");
    assert_eq!(local.facts.local.map(|local| local.to_string()), Some(unix));
    server.stop();
}

#[test]
fn a_worker_that_stands_still_is_named_and_holds_nothing_up() {
    let server = Server::start_controlled(&["--workers", "2", "--hang-ms", "0"]);
    let control = server.control();
    let _clients = served(&server, 8);
    let halted = server.workers()[0];
    signal(halted, Signal::SIGSTOP);
    let list = list(&control, &[]);
    let silent: Vec<_> = list.silent.iter().map(|one| (one.pid, one.worker, one.why)).collect();
    assert_eq!((silent, list.workers), (vec![(halted, 0, WorkerSilence::Late)], 1));
    assert!(list.connections.iter().all(|one| one.worker == 1), "{list:?}");
    signal(halted, Signal::SIGCONT);
    wait_until("all are listed again", || self::list(&control, &[]).total == 8);
    server.stop();
}

#[test]
fn both_masters_of_an_upgrade_are_asked() {
    run("both_masters_of_an_upgrade_are_asked", || {
        let lineage = Lineage::start(1, |control, pid_file| {
            Server::start(&["--workers", "1", "--control", control, "--pid-file", pid_file])
        });
        let mut clients = served(&lineage.first, 2);
        let id = list(&lineage.control(), &[]).connections[0].id;
        lineage.done(&["upgrade", "--hold"]);
        let text = run_ok(&mut control::command(&lineage.control(), &["connections"]));
        let lists: Vec<Reply> = text.lines().map(|line| serde_json::from_str(line).expect("a reply")).collect();
        let [Reply::Done(Outcome::Connections(of_new)), Reply::Done(Outcome::Connections(of_old))] = &lists[..] else {
            panic!("{text}");
        };
        assert_eq!((of_new.total, of_new.workers, of_old.total), (0, 1, 2), "{text}");
        assert!(of_old.connections.iter().any(|one| one.id == id), "{text}");
        assert_eq!(close(&lineage.control(), id, &[]).done(), Outcome::Closed { id });
        assert_eq!(end_of(&mut clients[0]).expect("a good end"), 0);
        ask(&mut clients[1]).expect("the other one goes on");
        lineage.done(&["commit"]);
    });
}
