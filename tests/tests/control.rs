//! batonctl and the control socket: each command with its outcome, and hostile clients.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use baton::control::{
    EventKind, Exit, Failure, GenerationPhase, Outcome, Reply, Status, TimelineKind, VERSION, WorkerState,
};
use baton_tests::PATIENCE;
use baton_tests::client::{assert_served, connect};
use baton_tests::control::{self, Answer};
use baton_tests::process::{cpu_ticks, is_alive};
use baton_tests::program::{Server, batonctl, batond, run, signal};
use baton_tests::wait_until;
use nix::sys::signal::Signal;
use tempfile::TempDir;

struct Controlled {
    server: Server,
    _folder: TempDir,
    socket: PathBuf,
    file: PathBuf,
}

impl Controlled {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, file) = (folder.path().join("control"), folder.path().join("batond.toml"));
        fs::write(&file, "listen = [\"127.0.0.1:0\"]\nworkers = 2\n").expect("written");
        let server = Server::start_command(command(&socket, &file));
        Self { server, _folder: folder, socket, file }
    }

    fn ask(&self, arguments: &[&str]) -> Answer {
        control::ask(&self.socket, arguments)
    }

    /// The texts that people read, and the exit code.
    fn screen(&self, arguments: &[&str]) -> (i32, String, String) {
        screen(&self.socket, arguments)
    }

    fn status(&self) -> Status {
        control::status(&self.socket).expect("a status")
    }
}

fn command(socket: &Path, file: &Path) -> Command {
    let mut command = Command::new(batond());
    command.arg("--control").arg(socket).arg("--config").arg(file);
    command
}

fn screen(socket: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = run(Command::new(batonctl()).arg("--control").arg(socket).args(arguments));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn status_shows_what_runs() {
    let controlled = Controlled::start();
    for _ in 0..10 {
        assert_served(controlled.server.address());
    }
    let status = controlled.status();
    assert_eq!((status.version, status.pid), (VERSION, controlled.server.pid()));
    let generation = &status.generations[0];
    assert_eq!(generation.phase, GenerationPhase::Serving);
    assert_eq!(generation.addresses[0], controlled.server.address().to_string());
    let pids: Vec<u32> = generation.workers.iter().filter_map(|worker| worker.pid).collect();
    assert_eq!(pids, controlled.server.workers());
    assert!(generation.workers.iter().all(|worker| worker.state == WorkerState::Ready));
    assert_eq!((status.accepted, status.requests), (10, 10));
    let (code, stdout, _) = controlled.screen(&["status"]);
    let names_all =
        pids.iter().all(|pid| stdout.contains(&pid.to_string())) && stdout.contains(&generation.addresses[0]);
    assert!(code == 0 && names_all, "{stdout}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((status.name.as_deref(), status.program_version.as_deref()), (Some("batond"), Some(version)));
    assert!(stdout.starts_with(&format!("batond {version} running, pid {}", status.pid)), "{stdout}");
    let (code, stdout, stderr) = controlled.screen(&["status", "--json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let again: Status = serde_json::from_str(&stdout).expect("a status");
    assert_eq!((again.pid, again.requests), (status.pid, status.requests));
    let (code, stdout, _) = controlled.screen(&["workers", "--json"]);
    assert!(code == 0 && stdout.lines().count() == 2, "{stdout}");
    controlled.server.stop();
}

#[test]
fn reload_waits_for_its_outcome_and_says_what_went_wrong() {
    let controlled = Controlled::start();
    let outcome = controlled.ask(&["reload"]).done();
    assert!(matches!(outcome, Outcome::Reloaded { generation: 2, .. }), "{outcome:?}");
    assert_eq!(controlled.status().generations.last().map(|generation| generation.number), Some(2));
    fs::write(&controlled.file, "wrokers = 2\n").expect("written");
    let failure = controlled.ask(&["reload"]).failed();
    let is_named = |problem: &str| problem.contains("batond.toml:1:1: ");
    assert!(matches!(&failure, Failure::Configuration { problem } if is_named(problem)), "{failure:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let expected = taken.local_addr().expect("an address");
    fs::write(&controlled.file, format!("listen = [\"127.0.0.1:0\", \"{expected}\"]\n")).expect("written");
    let failure = controlled.ask(&["reload"]).failed();
    let Failure::Listen { address, problem } = &failure else { panic!("{failure:?}") };
    assert!(*address == expected && !problem.is_empty(), "{failure:?}");
    assert_served(controlled.server.address());
    let events = controlled.ask(&["events"]).events;
    let serves = |kind: &EventKind| matches!(kind, EventKind::Serves { .. });
    assert!(events.iter().any(|event| event.generation == Some(2) && serves(&event.kind)), "{events:?}");
    controlled.server.stop();
}

#[test]
fn scale_waits_for_its_outcome_and_the_counts_go_on() {
    let controlled = Controlled::start();
    for expected in [3, 1, 2] {
        let outcome = controlled.ask(&["scale", &expected.to_string()]).done();
        assert!(matches!(outcome, Outcome::Scaled { workers, .. } if workers == expected), "{outcome:?}");
        assert_served(controlled.server.address());
        wait_until("the others have left", || controlled.server.workers().len() == expected);
    }
    assert_eq!(controlled.ask(&["scale", "2"]).done(), Outcome::AlreadyScaled { workers: 2 });
    assert_eq!(controlled.screen(&["scale", "2"]), (0, "2 workers already\n".to_owned(), String::new()));
    for workers in [0, 1025] {
        let failure = controlled.ask(&["scale", &workers.to_string()]).failed();
        assert_eq!(failure, Failure::Workers { workers, workers_max: 1024 });
    }
    assert_eq!(controlled.screen(&["scale", "many"]).0, 2);
    // The sums include the counts of workers that have left.
    let status = controlled.status();
    assert_eq!(status.generations.len(), 1);
    assert_eq!((status.generations[0].requests, status.requests), (3, 3));
    let last = status.handovers.last().expect("a time line");
    assert_eq!((last.kind, &last.steps[0].kind), (TimelineKind::Scale, &EventKind::Scaling { from: 1, to: 2 }));
    controlled.server.stop();
}

#[test]
fn a_worker_that_keeps_dying_is_shown() {
    let controlled = Controlled::start();
    for round in 0..5 {
        let victim = *controlled.server.workers().last().expect("a worker");
        signal(victim, Signal::SIGKILL);
        wait_until("it is replaced", || controlled.server.count_of_events("worker_ready") >= 3 + round);
    }
    let events = control::events(&controlled.socket);
    let told = events.iter().filter(|kind| matches!(kind, EventKind::WorkerKeepsDying { deaths: 5, .. })).count();
    assert_eq!(told, 1, "{events:#?}");
    let status = controlled.status();
    let workers = &status.generations[0].workers;
    let killed = Some(Exit::Signal(Signal::SIGKILL as i32));
    assert!(workers.iter().any(|worker| worker.deaths == 5 && worker.last_exit == killed), "{status:#?}");
    let (code, stdout, _) = controlled.screen(&["status"]);
    assert!(code == 0 && stdout.contains("SIGKILL"), "{stdout}");
    assert_served(controlled.server.address());
    controlled.server.stop();
}

#[test]
fn stop_waits_for_the_end() {
    for arguments in [&["stop"][..], &["stop", "--now"], &["stop", "--deadline", "0.5"]] {
        let mut controlled = Controlled::start();
        let _open = connect(controlled.server.address());
        assert_eq!(controlled.ask(arguments).done(), Outcome::Stopped, "{arguments:?}");
        assert_eq!(controlled.server.wait().code(), Some(0));
        assert!(!controlled.socket.exists(), "the socket file is taken away");
    }
}

#[test]
fn without_a_server_the_exit_code_is_3() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("none");
    let (code, _, stderr) = screen(&nowhere, &["status"]);
    assert!(code == 3 && stderr.contains(nowhere.to_str().expect("UTF-8")), "{code}: {stderr}");
    for wrong in [&["dance"][..], &[], &["status", "--loud"]] {
        assert_eq!(screen(&nowhere, wrong).0, 2);
    }
}

#[test]
fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    let mut controlled = Controlled::start();
    let mode = fs::metadata(&controlled.socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut second = Server::spawn(command(&controlled.socket, &controlled.file));
    assert_eq!(second.wait().code(), Some(1));
    let names_socket = |line: &String| line.contains(controlled.socket.to_str().expect("UTF-8"));
    let errors: Vec<String> = second.log().into_iter().filter(|line| line.starts_with("batond: error: ")).collect();
    assert!(errors.len() == 1 && errors.iter().all(names_socket), "{:#?}", second.log());
    controlled.server.signal(Signal::SIGKILL);
    wait_until("the master is gone", || !is_alive(controlled.server.pid()));
    assert!(controlled.socket.exists());
    let third = Server::start_command(command(&controlled.socket, &controlled.file));
    assert_eq!(screen(&controlled.socket, &["status"]).0, 0);
    third.stop();
    // The workers of the killed master have left.
    controlled.server.wait();
}

#[test]
fn clients_that_mean_no_good_do_not_keep_the_others_waiting() {
    let controlled = Controlled::start();
    let open = || {
        let stream = UnixStream::connect(&controlled.socket).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    };
    let _silent: Vec<UnixStream> = (0..10).map(|_| open()).collect();
    let mut never_reads = open();
    never_reads.write_all(b"{\"request\":\"events\",\"follow\":true}\n").expect("sent");
    for garbage in
        [&b"dance\n"[..], b"\xff\xfe\n", b"\n", b"{}\n", b"{\"request\":\"stop\"}\n", b"[[[[[[[[[[[[[[[[[[\n"]
    {
        let mut stream = open();
        stream.write_all(garbage).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a reply");
        let reply: Reply = serde_json::from_str(&text).expect("a reply");
        assert!(matches!(reply, Reply::Failed(Failure::Request { .. })), "{reply:?}");
    }
    let mut endless = open();
    // The server closes the connection, whatever the client writes.
    while endless.write_all(&[b'x'; 4096]).is_ok() {}
    let mut half = open();
    half.write_all(b"{\"request\":").expect("sent");
    drop(half);
    assert_eq!(controlled.screen(&["status"]).0, 0);
    // A client that sends no request is dropped in time.
    let mut silent = open();
    assert_eq!(silent.read(&mut [0; 1]).expect("an end"), 0);
    wait_until("status is given", || controlled.screen(&["status"]).0 == 0);
    controlled.server.stop();
}

/// More silent clients than there was room for once made the master spin.
#[test]
fn many_silent_clients_cost_nothing() {
    let controlled = Controlled::start();
    let silent: Vec<UnixStream> =
        (0..100).map(|_| UnixStream::connect(&controlled.socket).expect("connected")).collect();
    // All of them are accepted before the next client is answered.
    assert!(control::status(&controlled.socket).is_some());
    let before = cpu_ticks(controlled.server.pid());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let spent = cpu_ticks(controlled.server.pid()) - before;
    assert!(spent < 20, "{spent} hundredths of a second");
    assert!(control::status(&controlled.socket).is_some());
    drop(silent);
    controlled.server.stop();
}

/// As `nc -N` sends it; the answer was once dropped.
#[test]
fn a_request_with_its_end_is_answered() {
    let controlled = Controlled::start();
    for (request, expected) in
        [("{\"request\":\"status\"}\n", "\"reply\":\"status\""), ("{\"request\":\"reload\"}", "\"done\":\"reloaded\"")]
    {
        let mut stream = UnixStream::connect(&controlled.socket).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(request.as_bytes()).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("shut");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply");
        assert!(reply.contains(expected), "{reply}");
    }
    controlled.server.stop();
}
