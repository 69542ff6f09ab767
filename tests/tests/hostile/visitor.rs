//! Strangers that connect continuously, and that bring forged connections: what they reach, and whom they disturb.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton_tests::client::{GET, ask, assert_served, connect};
use baton_tests::namespace::{run as run_inside, run_for};
use baton_tests::process::is_alive;
use baton_tests::program::{Server, batond};
use baton_tests::{control, wait_until};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use socket2::{Socket, Type};

use crate::names::{knock, names_seen, start};
use crate::stranger::{STRANGER, Stranger, command_for_all, folder_for_all, may_become_others, say};

/// The user that workers become with `--user nobody`.
const NOBODY: u32 = 65534;

/// Connects to all names continuously after it gets `on`. After `off` it reports how often it has connected since, and
/// how often that succeeded.
pub(crate) fn flooder(control: &Path) {
    // It only gets unused processor time: its effect on others is that of its connects.
    let own = std::process::id().to_string();
    let reniced = Command::new("renice").args(["-n", "19", "-p", &own]).output().expect("renice runs");
    assert!(reniced.status.success(), "{reniced:?}");
    let is_on = Arc::new(AtomicBool::new(false));
    let (knocks, entries) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (thread_is_on, thread_knocks, thread_entries) = (is_on.clone(), knocks.clone(), entries.clone());
    let control = control.to_owned();
    thread::spawn(move || {
        loop {
            if !thread_is_on.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let names = names_seen(&control);
            // A socket that accepts has to bear all of these at the same time.
            let held: Vec<Socket> = names.iter().flat_map(|name| [name; 16]).filter_map(|name| knock(name)).collect();
            thread_knocks.fetch_add(16 * names.len() as u64, Ordering::Relaxed);
            thread_entries.fetch_add(held.len() as u64, Ordering::Relaxed);
        }
    });
    for line in std::io::stdin().lines() {
        is_on.store(line.is_ok_and(|line| line == "on"), Ordering::Relaxed);
        if !is_on.load(Ordering::Relaxed) {
            say(&format!("{} {}", knocks.swap(0, Ordering::Relaxed), entries.swap(0, Ordering::Relaxed)));
        }
    }
}

/// Median and 99th percentile.
fn quantiles(mut waits: Vec<Duration>) -> [Duration; 2] {
    waits.sort_unstable();
    [waits.len() / 2, waits.len() * 99 / 100].map(|index| waits[index])
}

#[test]
fn a_stranger_who_knocks_without_end_delays_nobody_and_stops_no_take_over() {
    const NAME: &str = "visitor::a_stranger_who_knocks_without_end_delays_nobody_and_stops_no_take_over";
    const ROUNDS: usize = 10;
    const REQUESTS: usize = 60;
    const TIMES: usize = 5;
    run_for(NAME, Duration::from_secs(300), || {
        if !may_become_others() {
            return;
        }
        let folder = folder_for_all().expect("a folder");
        let control = folder.path().join("control");
        let start = || start(&control, "127.0.0.1:8080");
        let mut server = start();
        let mut flooder = Stranger::play("flooder", control.to_str().expect("UTF-8"));
        let address = server.address();
        let ask_many = || -> Vec<Duration> {
            let ask_once = |_| {
                thread::sleep(Duration::from_millis(1));
                let begin = Instant::now();
                ask(&mut connect(address)).expect("an answer");
                begin.elapsed()
            };
            (0..REQUESTS).map(ask_once).collect()
        };
        let off = |flooder: &mut Stranger| -> [u64; 2] {
            flooder.tell("off");
            let said = flooder.hear().expect("it counts");
            let mut numbers = said.split(' ').map(|number| number.parse().expect("a number"));
            [(); 2].map(|()| numbers.next().expect("two"))
        };
        let (mut quiet, mut flooded, mut knocks) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            quiet.extend(ask_many());
            flooder.tell("on");
            flooded.extend(ask_many());
            let [knocked, let_in] = off(&mut flooder);
            assert_eq!(let_in, 0);
            knocks += knocked;
        }
        let ([median, late], [flooded_median, flooded_late]) = (quantiles(quiet), quantiles(flooded));
        println!("median {median:?}, p99 {late:?}; with {knocks} knocks {flooded_median:?}, {flooded_late:?}");
        assert!(knocks > 1000, "{knocks}");
        assert!(flooded_median < 5 * median + Duration::from_millis(2), "{median:?} {flooded_median:?}");
        assert!(flooded_late < 5 * late + Duration::from_millis(20), "{late:?} {flooded_late:?}");
        flooder.tell("on");
        for _ in 0..TIMES {
            let workers = server.workers();
            server.signal(Signal::SIGKILL);
            wait_until("the workers notice", || server.count_of("the master is gone") >= 2);
            let next = start();
            wait_until("they have left", || workers.iter().all(|pid| !is_alive(*pid)));
            assert_served(next.address());
            server = next;
        }
        for _ in 0..TIMES {
            control::ask(&control, &["upgrade"]).done();
            assert_served(address);
        }
        let [knocked, let_in] = off(&mut flooder);
        assert!(knocked > 1000 && let_in == 0, "{knocked} {let_in}");
        control::ask(&control, &["stop"]).done();
    });
}

/// Sends to a listener what a worker brings to another: a channel, and a connection both on the channel and beside it.
fn bring(to: &Socket, connection: &TcpStream) -> OwnedFd {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).expect("a pair");
    for (socket, bytes, descriptor) in [
        (to.as_raw_fd(), &b"visit"[..], theirs.as_raw_fd()),
        (to.as_raw_fd(), b"offer", connection.as_raw_fd()),
        (ours.as_raw_fd(), b"offer", connection.as_raw_fd()),
    ] {
        let descriptors = [descriptor];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let parts = [std::io::IoSlice::new(bytes)];
        // A listener that does not read it has refused it.
        let _ = sendmsg::<()>(socket, &parts, &rights, MsgFlags::MSG_NOSIGNAL, None);
    }
    ours
}

/// Gets the workers' pids, and brings a connection to all names that accept it. Reports how many these are, and into
/// how many workers' descriptors it can look. After one more line, reports what was sent back.
pub(crate) fn forger(control: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (theirs, _) = listener.accept().expect("accepted");
    // A process that takes the connection has something to answer.
    ours.write_all(GET).expect("sent");
    ours.set_nonblocking(true).expect("set");
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    let workers = lines.next().expect("the workers");
    let reached: Vec<Socket> = names_seen(control).iter().filter_map(|name| knock(name)).collect();
    let channels: Vec<OwnedFd> = reached.iter().map(|socket| bring(socket, &theirs)).collect();
    drop(theirs);
    let open = workers.split(' ').filter(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok()).count();
    say(&format!("{} {open}", reached.len()));
    lines.next().expect("a question");
    // The control socket answers that the request is invalid.
    let packets = reached.into_iter().filter(|socket| socket.r#type().is_ok_and(|kind| kind == Type::SEQPACKET));
    let all = packets.chain(channels.into_iter().map(Socket::from));
    let heard = all.filter(|socket| (&mut &*socket).read(&mut [0; 64]).is_ok_and(|count| count > 0)).count();
    let answered = ours.read(&mut [0; 64]).is_ok_and(|count| count > 0);
    say(&format!("{heard} {answered}"));
}

/// `user` brings connections to a server of `owner`. `expected` says how many names accept, and into how many workers
/// it can look.
fn check_that_nothing_forged_is_taken(owner: Option<u32>, user: u32, expected: &str) {
    let (folder, programs) = (folder_for_all().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let control = folder.path().join("control");
    let server = match owner {
        None => start(&control, "127.0.0.1:0"),
        Some(owner) => {
            let mut command = command_for_all(&programs, &batond());
            command.uid(owner).gid(owner).args(["--workers", "2", "--listen", "127.0.0.1:0", "--control"]);
            command.arg(&control);
            Server::start_command(command)
        }
    };
    let mut kept: Vec<TcpStream> = (0..8).map(|_| connect(server.address())).collect();
    let mut ask_all = || kept.iter_mut().for_each(|stream| drop(ask(stream).expect("an answer")));
    ask_all();
    let open = || -> u64 {
        let status = control::status(&control).expect("a status");
        status.generations.iter().flat_map(|generation| &generation.workers).map(|worker| worker.open).sum()
    };
    wait_until("the counts are there", || open() == 8);
    let mut forger = Stranger::play_as(user, "forger", control.to_str().expect("UTF-8"));
    let workers: Vec<String> = server.workers().iter().map(ToString::to_string).collect();
    forger.tell(&workers.join(" "));
    assert_eq!(forger.hear().as_deref(), Some(expected), "owner {owner:?}, user {user}");
    ask_all();
    assert_served(server.address());
    wait_until("they have their own, and no more", || open() == 8);
    assert_eq!(server.workers().len(), 2, "nobody was replaced");
    // Connections that workers bring are accepted.
    control::ask(&control, &["reload"]).done();
    ask_all();
    wait_until("all have moved", || server.workers().len() == 2 && open() == 8);
    forger.tell("and?");
    assert_eq!(forger.hear().as_deref(), Some("0 false"), "owner {owner:?}, user {user}");
    control::ask(&control, &["stop"]).done();
}

#[test]
fn nobody_takes_connections_that_a_stranger_brings() {
    run_inside("visitor::nobody_takes_connections_that_a_stranger_brings", || {
        if !may_become_others() {
            return;
        }
        // As another user; as the workers' user; and as the server's user, who may connect as an operator does.
        check_that_nothing_forged_is_taken(None, STRANGER, "0 0");
        check_that_nothing_forged_is_taken(None, NOBODY, "0 0");
        check_that_nothing_forged_is_taken(Some(STRANGER), STRANGER, "3 2");
    });
}
