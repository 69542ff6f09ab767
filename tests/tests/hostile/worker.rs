//! A compromised worker attacks its master, its siblings and the machine.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::process::Command;

use baton_tests::client::assert_served;
use baton_tests::namespace::run;
use baton_tests::program::{self, Server, batond, faulty, injecting, may_trace};
use baton_tests::{PATIENCE, wait_until};
use tempfile::TempDir;

/// The errors of a filter, of a Landlock domain, and of a master that does not answer.
const EPERM: &str = "1";
const EACCES: &str = "13";
const ECONNRESET: &str = "104";
const DONE: &str = "done";

/// By attack: the result in a worker that only serves, and in one whose callbacks may use files, threads and sockets.
const ATTACKS: [(&str, &str, &str); 14] = [
    ("program", EPERM, EPERM),
    ("trace", EPERM, EPERM),
    ("read", EPERM, EPERM),
    ("write", EPERM, EPERM),
    ("namespace", EPERM, EPERM),
    ("ring", EPERM, EPERM),
    ("filter", EPERM, EPERM),
    ("order", EPERM, ECONNRESET),
    ("connect", EPERM, DONE),
    ("file", EPERM, DONE),
    ("thread", EPERM, DONE),
    ("signal", EPERM, EPERM),
    ("memory", EPERM, EACCES),
    ("root", EPERM, DONE),
];

fn start(sandbox: &str, serves_only: bool) -> (Server, TempDir) {
    start_with(sandbox, serves_only, &[])
}

fn start_with(sandbox: &str, serves_only: bool, more: &[&str]) -> (Server, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(faulty("taken_over"));
    command.args(["--listen", "127.0.0.1:0", "--workers", "3", "--settle-ms", "50", "--sandbox", sandbox]);
    // An attack may take long on a busy machine.
    command.args(["--hang-ms", "60000"]);
    command.arg("--control").arg(folder.path().join("control")).args(more);
    if serves_only {
        command.env("SERVE_ONLY", "1");
    }
    (Server::start_command(command), folder)
}

/// The result of one attack; empty if it ends the worker.
pub(crate) fn ask(address: SocketAddr, line: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(format!("{line}\n").as_bytes()).expect("sent");
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer);
    assert!(read.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true), "{read:?}");
    answer.trim().to_owned()
}

/// The result of each attack.
fn attack((server, folder): &(Server, TempDir)) -> Vec<(&'static str, String)> {
    let (address, control) = (server.address(), folder.path().join("control"));
    let workers = server.workers().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let line = |attack: &str| match attack {
        "connect" => format!("connect {address}"),
        "memory" => format!("memory {workers}"),
        "order" => format!("order {}", control.display()),
        _ => attack.to_owned(),
    };
    ATTACKS.iter().map(|(name, ..)| (*name, ask(address, &line(name)))).collect()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

fn expected(
    outcome: impl Fn(&(&'static str, &'static str, &'static str)) -> &'static str,
) -> Vec<(&'static str, String)> {
    ATTACKS.iter().map(|attack| (attack.0, outcome(attack).to_owned())).collect()
}

#[test]
fn a_worker_that_only_serves_can_do_nothing_else() {
    run("worker::a_worker_that_only_serves_can_do_nothing_else", || {
        for sandbox in ["auto", "on"] {
            let server = start(sandbox, true);
            assert_eq!(attack(&server), expected(|(_, serving, _)| serving));
            server.0.reload();
            assert_eq!(attack(&server), expected(|(_, serving, _)| serving));
            server.0.stop();
        }
    });
}

#[test]
fn a_worker_that_serves_files_reads_beneath_their_folder_and_nowhere_else() {
    run("worker::a_worker_that_serves_files_reads_beneath_their_folder_and_nowhere_else", || {
        let site = tempfile::tempdir().expect("a folder");
        let outside = tempfile::NamedTempFile::new().expect("a file");
        fs::write(site.path().join("page"), "text").expect("written");
        symlink(outside.path(), site.path().join("link")).expect("a link");
        let mount = format!("/s/={}", site.path().display());
        let server = start_with("on", true, &["--static", &mount]);
        let address = server.0.address();
        let at = |name: &str| site.path().join(name).display().to_string();
        for (line, expected) in [
            (format!("read_file {}", at("page")), DONE),
            (format!("write_file {}", at("page")), EACCES),
            (format!("read_file {}", at("link")), EACCES),
            (format!("read_file {}", at("../../etc/passwd")), EACCES),
            (format!("read_file {}", outside.path().display()), EACCES),
            ("read_file /proc/self/status".to_owned(), EACCES),
        ] {
            assert_eq!(ask(address, &line), expected, "{line}");
        }
        // It is allowed nothing else.
        assert_eq!(attack(&server), expected(|(_, serving, _)| serving));
        server.0.stop();
        let server = start("on", true);
        assert_eq!(ask(server.0.address(), &format!("read_file {}", at("page"))), EPERM);
        server.0.stop();
    });
}

#[test]
fn a_worker_with_callbacks_of_its_own_starts_no_program_and_steers_nobody() {
    run("worker::a_worker_with_callbacks_of_its_own_starts_no_program_and_steers_nobody", || {
        let server = start("on", false);
        assert_eq!(attack(&server), expected(|(_, _, usual)| usual));
        server.0.stop();
    });
}

/// This shows that the attacks are effective.
#[test]
fn without_a_sandbox_the_attacks_succeed() {
    run("worker::without_a_sandbox_the_attacks_succeed", || {
        let server = start("off", false);
        // A worker never gives orders.
        let outcome = |(name, ..): &(&'static str, _, _)| if *name == "order" { ECONNRESET } else { DONE };
        assert_eq!(attack(&server), expected(outcome));
        server.0.stop();
    });
}

/// Number of workers' pages that are mapped in this process.
fn pages(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    // Memory that only fork(2) shares.
    maps.lines().filter(|line| line.contains("rw-s") && line.ends_with("/dev/zero (deleted)")).count()
}

#[test]
fn a_worker_has_no_page_but_its_own() {
    run("worker::a_worker_has_no_page_but_its_own", || {
        let server = Server::start(&["--workers", "3", "--settle-ms", "50"]);
        assert_eq!(pages(server.pid()), 3);
        assert!(server.workers().into_iter().all(|pid| pages(pid) == 1));
        server.reload();
        wait_until("the old ones have left", || server.workers().len() == 3);
        assert_eq!(server.workers().into_iter().map(pages).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(pages(server.pid()), 3);
        server.stop();
    });
}

#[test]
fn where_the_kernel_has_no_filters_on_is_refused_and_auto_serves() {
    if !may_trace() {
        return;
    }
    let command = |sandbox: &str| {
        let mut command = injecting("seccomp", "error=EINVAL");
        command.arg(batond()).args(["--listen", "127.0.0.1:0", "--sandbox", sandbox]);
        command
    };
    let output = program::run(&mut command("on"));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--sandbox: "), "{stderr}");
    let server = Server::start_command(command("auto"));
    assert_served(server.address());
    assert_eq!(server.count_of("this worker serves without a filter of its system calls"), 1);
}
