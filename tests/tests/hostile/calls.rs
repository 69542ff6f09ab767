//! The filter of a worker's system calls compared with the calls that it makes: none of them is denied, and every
//! allowed call is used.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use baton_tests::client::{GET, ask, assert_served, connect, read_to_end};
use baton_tests::namespace::run;
use baton_tests::process::{is_alive, is_stopped};
use baton_tests::program::{Server, batond, faulty, may_trace, signal};
use baton_tests::{control, skip, wait_until};
use nix::libc;
use nix::sys::signal::Signal;

use crate::names::start;
use crate::worker::ask as tell;

const ADDRESS: &str = "127.0.0.1:8080";

/// Calls that are allowed although no worker makes them here.
const UNSEEN: [(&str, &str); 3] = [
    ("clock_gettime", "time, where the kernel has no clock that can be read without a call"),
    ("exit", "the end of a thread: the C library tries again without end where it fails"),
    ("mprotect", "memory that allocators of embedding programs reserve first and make usable later"),
];

macro_rules! calls {
    ($($name:ident $number:ident),* $(,)?) => { [$((stringify!($name), libc::$number)),*] };
}

/// The numbers of all calls that the filter may name.
fn numbers() -> BTreeMap<&'static str, i64> {
    let all = calls![
        accept4 SYS_accept4, bpf SYS_bpf, brk SYS_brk, clock_gettime SYS_clock_gettime, clock_nanosleep SYS_clock_nanosleep,
        close SYS_close, exit SYS_exit, exit_group SYS_exit_group, fcntl SYS_fcntl, futex SYS_futex,
        geteuid SYS_geteuid, getpeername SYS_getpeername, getpid SYS_getpid, getrandom SYS_getrandom,
        getsockname SYS_getsockname, getsockopt SYS_getsockopt, gettid SYS_gettid,
        io_uring_enter SYS_io_uring_enter,
        madvise SYS_madvise, memfd_create SYS_memfd_create, mmap SYS_mmap, mprotect SYS_mprotect, mremap SYS_mremap,
        munmap SYS_munmap, openat2 SYS_openat2, poll SYS_poll,
        prctl SYS_prctl, pread64 SYS_pread64, read SYS_read, recvmsg SYS_recvmsg, restart_syscall SYS_restart_syscall, rt_sigaction SYS_rt_sigaction,
        rt_sigprocmask SYS_rt_sigprocmask, rt_sigreturn SYS_rt_sigreturn,
        sendfile SYS_sendfile, sendmsg SYS_sendmsg, setsockopt SYS_setsockopt, shutdown SYS_shutdown,
        sigaltstack SYS_sigaltstack, socketpair SYS_socketpair, statx SYS_statx, tgkill SYS_tgkill,
        write SYS_write, writev SYS_writev,
    ];
    all.into_iter().collect()
}

/// One instruction of a filter, as strace(1) writes it.
enum Instruction {
    /// Of the call's number at 0, the architecture at 4, and arguments after that.
    Load(u64),
    Change,
    Jump {
        how: String,
        value: u64,
        then: usize,
        otherwise: usize,
    },
    Allow,
    Deny,
}

fn number(text: &str) -> u64 {
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    parsed.unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn program(line: &str) -> Vec<Instruction> {
    let parts = line.split("BPF_STMT(").flat_map(|part| part.split("BPF_JUMP(")).skip(1);
    let parse = |part: &str| {
        let fields: Vec<&str> = part.split_once(')').expect("an end").0.split(", ").collect();
        let kinds: Vec<&str> = fields[0].split('|').collect();
        match (kinds[0], fields.as_slice()) {
            ("BPF_LD", [_, offset]) => Instruction::Load(number(offset)),
            ("BPF_RET", [_, value]) if *value == "SECCOMP_RET_ALLOW" => Instruction::Allow,
            ("BPF_RET", _) => Instruction::Deny,
            ("BPF_JMP", [_, by]) => {
                let by = number(by) as usize;
                Instruction::Jump { how: "BPF_JA".to_owned(), value: 0, then: by, otherwise: by }
            }
            ("BPF_JMP", [_, value, then, otherwise]) => Instruction::Jump {
                how: (*kinds.last().expect("a kind")).to_owned(),
                value: number(value),
                then: number(then) as usize,
                otherwise: number(otherwise) as usize,
            },
            _ => Instruction::Change,
        }
    };
    parts.map(parse).collect()
}

/// Whether this call is allowed with some arguments.
fn allows(program: &[Instruction], call: i64) -> bool {
    // The position, and the value that was loaded.
    let mut ways = vec![(0, None)];
    while let Some((at, loaded)) = ways.pop() {
        match &program[at] {
            Instruction::Allow => return true,
            Instruction::Deny => {}
            Instruction::Load(offset) => ways.push((at + 1, Some(*offset))),
            Instruction::Change => ways.push((at + 1, None)),
            Instruction::Jump { how, value, then, otherwise } => {
                let is_true = match (how.as_str(), loaded) {
                    ("BPF_JEQ", Some(0)) => Some(call as u64 == *value),
                    ("BPF_JGE", Some(0)) => Some(call as u64 >= *value),
                    ("BPF_JGT", Some(0)) => Some(call as u64 > *value),
                    // The architecture is that of this process.
                    ("BPF_JEQ", Some(4)) | ("BPF_JA", _) => Some(true),
                    _ => None,
                };
                let ways_on = [(true, then), (false, otherwise)].into_iter();
                let ways_on = ways_on.filter(|(when, _)| is_true.is_none_or(|is_true| is_true == *when));
                ways.extend(ways_on.map(|(_, by)| (at + 1 + by, loaded)));
            }
        }
    }
    false
}

/// Runs a server with a control socket through everything that workers do, except being killed.
fn live(control: &Path, traces: &Path) {
    let mut command = Command::new("strace");
    command.args(["-ff", "-v", "-s", "0", "-o"]).arg(traces.join("engine")).arg(batond());
    command.args(["--listen", ADDRESS, "--workers", "2", "--settle-ms", "50", "--log-level", "debug", "--control"]);
    let site = traces.join("site");
    fs::create_dir(&site).expect("created");
    fs::write(site.join("page"), vec![b'x'; 100_000]).expect("written");
    let server = Server::start_command({
        command.arg(control).arg("--access-log").arg(traces.join("log"));
        command.arg("--static").arg(format!("/static/={}", site.display()));
        command
    });
    // A file is sent from its pages.
    let mut reader = connect(server.address());
    reader.write_all(b"GET /static/page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
    assert!(read_to_end(&mut reader).expect("the file").ends_with(&[b'x'; 100_000]));
    let mut kept: Vec<TcpStream> = (0..8).map(|_| connect(server.address())).collect();
    let mut ask_all = || kept.iter_mut().for_each(|stream| drop(ask(stream).expect("an answer")));
    ask_all();
    // Output held for this client moves in a file.
    let mut slow = connect(server.address());
    slow.set_nonblocking(true).expect("set");
    let requests = GET.repeat(20_000);
    loop {
        match slow.write(&requests) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            written => assert!(written.is_ok_and(|count| count > 0)),
        }
    }
    for order in ["reload", "upgrade"] {
        control::ask(control, &[order]).done();
        ask_all();
    }
    let before = control::status(control).expect("a status");
    let mut workers: Vec<_> = before.generations.iter().flat_map(|generation| &generation.workers).collect();
    workers.sort_by_key(|worker| Reverse(worker.open));
    let workers: Vec<u32> = workers.into_iter().filter_map(|worker| worker.pid).collect();
    drop(slow);
    signal(before.pid, Signal::SIGKILL);
    wait_until("they notice", || server.count_of("the master is gone") >= 2);
    // The worker with the most connections says goodbye to its clients; the next master finds the other one.
    signal(workers[0], Signal::SIGTERM);
    wait_until("it has left", || !is_alive(workers[0]));
    let next = start(control, ADDRESS);
    wait_until("they have left", || workers.iter().all(|pid| !is_alive(*pid)));
    assert_served(next.address());
    next.stop();
}

/// The same for a protocol whose callbacks sleep, panic and abort.
fn live_with_callbacks(control: &Path, traces: &Path) {
    let mut command = Command::new("strace");
    command.args(["-ff", "-v", "-s", "0", "-o"]).arg(traces.join("callbacks")).arg(faulty("taken_over"));
    command.args(["--listen", ADDRESS, "--workers", "1", "--log-level", "debug", "--control"]).arg(control);
    // A panic with a backtrace would open files.
    command.env("RUST_BACKTRACE", "0").env("SERVE_ONLY", "1");
    let server = Server::start_command(command);
    let worker = || {
        let status = control::status(control).expect("a status");
        status.generations.iter().flat_map(|generation| &generation.workers).find_map(|worker| worker.pid)
    };
    let first = worker().expect("a worker");
    // A process that is stopped in a sleep continues it with a call of its own.
    let trace = traces.join(format!("callbacks.{first}"));
    let resumes = || fs::read_to_string(&trace).is_ok_and(|text| text.contains("\nrestart_syscall("));
    let is_seen = AtomicBool::new(false);
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while !is_seen.load(Ordering::Relaxed) {
                assert_eq!(tell(server.address(), "sleep 500"), "done");
            }
        });
        let sleep = libc::SYS_clock_nanosleep.to_string();
        let called = |pid| fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        wait_until("a sleep was interrupted", || {
            if called(first).split(' ').next() == Some(&sleep) {
                signal(first, Signal::SIGSTOP);
                wait_until("it has stopped", || is_stopped(first));
                signal(first, Signal::SIGCONT);
            }
            resumes() || sleeper.is_finished()
        });
        is_seen.store(true, Ordering::Relaxed);
    });
    // Its stack has not overflowed, so it continues.
    signal(first, Signal::SIGSEGV);
    // The memory of incomplete messages goes back to the system.
    let mut endless: Vec<TcpStream> = (0..100).map(|_| connect(server.address())).collect();
    endless.iter_mut().for_each(|stream| stream.write_all(&[b'x'; 60_000]).expect("sent"));
    assert_eq!(tell(server.address(), "sleep 0"), "done");
    endless.truncate(1);
    let gives_back = |text: String| {
        text.split_once("SECCOMP_SET_MODE_FILTER").is_some_and(|(_, after)| after.contains("\nmadvise("))
    };
    wait_until("memory is given back", || fs::read_to_string(&trace).is_ok_and(gives_back));
    drop(endless);
    for end in ["abort", "panic"] {
        let there = worker().expect("a worker");
        assert_eq!(tell(server.address(), "sleep 0"), "done");
        assert_eq!(tell(server.address(), end), "");
        wait_until("another one serves", || worker().is_some_and(|pid| pid != there));
    }
    control::ask(control, &["stop"]).done();
}

#[test]
fn what_the_filter_allows_is_what_workers_call() {
    if cfg!(not(target_arch = "x86_64")) {
        skip("system calls are listed for x86-64 alone");
        return;
    }
    // Built here, since the time limit inside must not include it.
    faulty("taken_over");
    run("calls::what_the_filter_allows_is_what_workers_call", || {
        if !may_trace() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        live(&folder.path().join("control"), folder.path());
        live_with_callbacks(&folder.path().join("control"), folder.path());
        let (mut made, mut filters) = (BTreeSet::new(), BTreeSet::new());
        for file in fs::read_dir(folder.path()).expect("read").map(|file| file.expect("an entry").path()) {
            let Ok(text) = fs::read_to_string(file) else { continue };
            let mut lines = text.lines().skip_while(|line| !line.starts_with("seccomp(SECCOMP_SET_MODE_FILTER"));
            let Some(filter) = lines.next() else { continue };
            filters.insert(filter.split_once("filter=").expect("shown").1.to_owned());
            for line in lines.filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase())) {
                assert!(!line.contains(" EPERM "), "denied: {line}");
                made.insert(line.split_once('(').expect("a call").0.to_owned());
            }
        }
        assert!(!filters.is_empty(), "workers have filters");
        let numbers = numbers();
        let mut allowed = BTreeSet::new();
        for program in filters.iter().map(|filter| program(filter)) {
            for call in (0..1024).filter(|call| allows(&program, *call)) {
                let name = numbers.iter().find(|(_, number)| **number == call);
                allowed.insert(*name.unwrap_or_else(|| panic!("call {call} is allowed, and has no name here")).0);
            }
        }
        println!("made: {made:?}");
        let others: Vec<&String> = made.iter().filter(|name| !allowed.contains(name.as_str())).collect();
        assert!(others.is_empty(), "not allowed, and made: {others:?}");
        let known: BTreeSet<&str> = UNSEEN.iter().map(|(name, _)| *name).collect();
        let unseen: Vec<&&str> =
            allowed.iter().filter(|name| !made.contains(**name) && !known.contains(**name)).collect();
        assert!(unseen.is_empty(), "allowed, and neither made nor explained: {unseen:?}");
        let stale: Vec<&&str> = known.iter().filter(|name| !allowed.contains(**name)).collect();
        assert!(stale.is_empty(), "explained, and not allowed: {stale:?}");
    });
}
