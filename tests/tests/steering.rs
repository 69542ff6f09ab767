//! Which worker gets a new connection, in the tier ebpf: shares are even if workers report their load, whatever happens
//! to them. In network namespaces of their own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use baton::control::{GenerationPhase, Status, WorkerState};
use baton_tests::client::{ask, connect};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::{run, sysctl};
use baton_tests::process::{is_stopped, open_files};
use baton_tests::program::{Server, signal};
use baton_tests::{skip, wait_until, wait_until_equal};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

const WORKERS: usize = 8;

/// A server with eight workers; `None`, with a message, if it cannot steer.
fn start(steering: &str) -> Option<Lineage> {
    let lineage = Lineage::start(WORKERS, |control, pid_file| {
        let workers = WORKERS.to_string();
        let arguments = ["--listen", "127.0.0.1:0", "--workers", &workers, "--settle-ms", "50", "--steering", steering];
        // Connections stay at the chosen worker: otherwise rebalancing would even out shares, too, at unpredictable
        // times.
        let rest = ["--rebalance", "off", "--control", control, "--pid-file", pid_file];
        Server::start(&[&arguments[..], &rest[..]].concat())
    });
    let status = lineage.status();
    if status.handover != "ebpf" {
        skip(&format!("nothing steers here: {}", status.handover_reason));
        return None;
    }
    assert_eq!(status.generations[0].steering.as_deref(), Some(steering));
    Some(lineage)
}

/// Open connections of each serving worker.
fn shares_of(status: &Status) -> Vec<u64> {
    let serving = status.generations.iter().filter(|one| one.phase == GenerationPhase::Serving);
    let workers = serving.flat_map(|one| &one.workers).filter(|worker| worker.state == WorkerState::Ready);
    workers.map(|worker| worker.open).collect()
}

/// The shares of all workers, when this many connections are open.
fn shares(lineage: &Lineage, open: usize) -> Vec<u64> {
    let sum = || shares_of(&lineage.status()).iter().sum::<u64>();
    wait_until_equal("all connections are there", open as u64, sum);
    shares_of(&lineage.status())
}

fn spread(shares: &[u64]) -> u64 {
    shares.iter().max().expect("some") - shares.iter().min().expect("some")
}

fn connect_many(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect(address)).collect()
}

/// Opens as many connections as it takes to bring all workers to the level of the fullest.
fn fill(lineage: &Lineage, clients: &mut Vec<TcpStream>) -> Vec<u64> {
    let now = shares(lineage, clients.len());
    let most = *now.iter().max().expect("some") as usize;
    let missing = (most + 2) * now.len() - clients.len();
    clients.extend(connect_many(lineage.first.address(), missing));
    shares(lineage, clients.len())
}

/// Fills until no worker has more than one connection above another, for two seconds. While clients leave, some packets
/// are counted as assigned although no connection follows; what does not arrive is given up when it is a second old.
fn level(lineage: &Lineage, clients: &mut Vec<TcpStream>, when: &str) {
    let mut shares;
    let begin = Instant::now();
    loop {
        shares = fill(lineage, clients);
        if spread(&shares) <= 1 {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(2), "{when}: {shares:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn shares_are_even_through_everything() {
    run("shares_are_even_through_everything", || {
        let Some(lineage) = start("least") else { return };
        let address = lineage.first.address();
        let mut clients = Vec::new();
        for count in [64, 256, 1024] {
            clients.extend(connect_many(address, count - clients.len()));
            assert_eq!(shares(&lineage, count), vec![(count / WORKERS) as u64; WORKERS], "{count}");
        }
        // Some clients leave.
        let mut number = 0;
        clients.retain(|_| {
            number += 1;
            number % 3 == 0 || number % 7 == 0
        });
        level(&lineage, &mut clients, "after many have left");
        // A killed worker takes its own connections with it.
        let victim = lineage.first.workers()[3];
        let lost = shares(&lineage, clients.len())[3] as usize;
        signal(victim, Signal::SIGKILL);
        wait_until("it is replaced", || {
            let status = lineage.status();
            let serves = |pid: Option<u32>| pid.is_some_and(|pid| pid != victim);
            status.generations[0].workers.iter().all(|one| one.state == WorkerState::Ready && serves(one.pid))
        });
        let before = clients.len();
        clients.retain_mut(|client| ask(client).is_ok());
        assert_eq!(before - clients.len(), lost);
        level(&lineage, &mut clients, "after one has died");
        for workers in ["12", "5"] {
            lineage.done(&["scale", workers]);
            wait_until("none is left beside them", || lineage.status().generations.len() == 1);
            level(&lineage, &mut clients, &format!("{workers} workers"));
        }
        lineage.done(&["reload"]);
        wait_until("the others are gone", || lineage.status().generations.len() == 1);
        level(&lineage, &mut clients, "after a reload");
        for client in &mut clients {
            ask(client).expect("nobody is lost");
        }
    });
}

#[test]
fn a_worker_that_stands_still_attracts_nobody() {
    run("a_worker_that_stands_still_attracts_nobody", || {
        let Some(lineage) = start("least") else { return };
        let mut clients = connect_many(lineage.first.address(), 80);
        shares(&lineage, 80);
        let hung = lineage.first.workers()[0];
        signal(hung, Signal::SIGSTOP);
        wait_until("it is stopped", || is_stopped(hung));
        // It gets its share, since its state is not known yet; and none of those that arrive after the others have lost
        // some.
        clients.extend(connect_many(lineage.first.address(), 80));
        wait_until("the others have theirs", || shares_of(&lineage.status()).iter().sum::<u64>() >= 150);
        let now = shares_of(&lineage.status());
        assert!(now[0] == 10 && now[1..].iter().all(|share| (19..=21).contains(share)), "{now:?}");
        signal(hung, Signal::SIGCONT);
        let now = shares(&lineage, 160);
        assert!(spread(&now) <= 1, "{now:?}");
    });
}

#[test]
fn both_servers_of_an_upgrade_share_by_load() {
    run("both_servers_of_an_upgrade_share_by_load", || {
        let Some(lineage) = start("least") else { return };
        let old = lineage.master();
        let mut clients = connect_many(lineage.first.address(), 160);
        shares(&lineage, 160);
        lineage.done(&["upgrade", "--hold"]);
        wait_until("the new one answers", || lineage.status().pid != old);
        let of_old = || shares_of(&lineage.status_of(old).expect("the old one answers"));
        clients.extend(connect_many(lineage.first.address(), 160));
        assert_eq!(shares(&lineage, 160), vec![20; WORKERS], "those who have none come first");
        assert_eq!(of_old(), vec![20; WORKERS]);
        clients.extend(connect_many(lineage.first.address(), 160));
        assert_eq!(shares(&lineage, 240), vec![30; WORKERS]);
        wait_until("the old ones have theirs", || of_old() == vec![30; WORKERS]);
        lineage.done(&["revert"]);
        wait_until("the old one serves alone", || lineage.master() == old);
        shares(&lineage, 480);
        for client in &mut clients {
            ask(client).expect("nobody is lost");
        }
    });
}

#[test]
fn a_worker_has_its_own_page_and_no_descriptor() {
    run("a_worker_has_its_own_page_and_no_descriptor", || {
        let Some(lineage) = start("least") else { return };
        for pid in lineage.first.workers() {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("readable");
            let pages: Vec<&str> = maps.lines().filter(|line| line.contains("bpf-map")).collect();
            let length = |line: &str| {
                let (begin, end) = line.split_once(' ')?.0.split_once('-')?;
                Some(u64::from_str_radix(end, 16).ok()? - u64::from_str_radix(begin, 16).ok()?)
            };
            assert_eq!(pages.len(), 1, "{pages:?}");
            assert_eq!(length(pages[0]), Some(4096), "{pages:?}");
            let targets = open_files(pid);
            assert!(!targets.is_empty());
            assert_eq!(targets.iter().filter(|one| one.to_string_lossy().contains("bpf")).count(), 0);
        }
    });
}

/// Resets connections. If they were made by SYN cookies, closing may leave one behind that no client has, and the
/// server must hold it until its idle timeout. The cause is an ACK that a client in TIME_WAIT repeats once the server's
/// socket is gone. It reaches a listener and passes as the answer to a cookie, since only the difference of its numbers
/// is checked, and one FIN in each direction leaves that unchanged (`check_tcp_syn_cookie` of the kernel's
/// `net/ipv4/syncookies.c`).
fn reset(clients: impl Iterator<Item = TcpStream>) {
    for client in clients {
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set");
    }
}

/// Sends SYNs of clients that never answer, for this long. Returns how many.
fn flood(server: SocketAddr, time: Duration) -> u32 {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).expect("a raw socket");
    socket.set_header_included_v4(true).expect("set");
    let began = Instant::now();
    let mut sent = 0_u32;
    while began.elapsed() < time {
        sent += 1;
        let from = Ipv4Addr::from(0x7f01_0000 + (sent & 0x00ff_ffff));
        let _ = socket.send_to(&syn(from, sent, server), &server.into());
    }
    sent
}

/// A packet with a SYN (RFC 9293, section 3.1; RFC 791).
fn syn(from: Ipv4Addr, number: u32, to: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(to) = to else { panic!("{to} is not IPv4") };
    let mut tcp = Vec::new();
    tcp.extend((1024 + (number % 60_000) as u16).to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(number.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 5 << 4, 2, 4, 0, 0, 0, 0, 0]);
    let pseudo = [&from.octets()[..], &to.ip().octets()[..], &[0, 6, 0, 20]].concat();
    let words = pseudo.chunks(2).chain(tcp.chunks(2));
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    packet.extend(tcp);
    packet
}

#[test]
fn after_a_flood_of_syns_shares_are_even_again() {
    run("after_a_flood_of_syns_shares_are_even_again", || {
        // Always cookies: each connection is steered twice, and counted twice for a second.
        for (cookies, spread_max) in [("0", 1), ("1", 1), ("2", 12)] {
            sysctl("net/ipv4/tcp_syncookies", cookies);
            let Some(lineage) = start("least") else { return };
            let address = lineage.first.address();
            let mut clients = connect_many(address, 80);
            shares(&lineage, 80);
            let sent = flood(address, Duration::from_millis(500));
            let ended = Instant::now();
            reset(clients.drain(..40));
            // This test needs the time to pass: 2 s.
            std::thread::sleep(Duration::from_secs(2).saturating_sub(ended.elapsed()));
            let now = fill(&lineage, &mut clients);
            eprintln!("tcp_syncookies = {cookies}, {sent} SYNs: {now:?}");
            assert!(spread(&now) <= spread_max, "cookies {cookies}: {now:?}");
        }
    });
}

#[test]
fn each_way_serves() {
    run("each_way_serves", || {
        for steering in ["hash", "two-choices", "cpu", "least"] {
            let Some(lineage) = start(steering) else { return };
            let _clients = connect_many(lineage.first.address(), 256);
            let shares = shares(&lineage, 256);
            eprintln!("{steering}: {shares:?}");
            if steering == "two-choices" {
                assert!(*shares.iter().max().expect("some") <= 40, "{shares:?}");
            }
            lineage.done(&["scale", "3"]);
            lineage.done(&["reload"]);
        }
    });
}
