//! batonctl and the control socket: each command with its outcome, and clients that mean no good.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use baton_tests::PATIENCE;
use baton_tests::client::{assert_served, connect};
use baton_tests::process::is_alive;
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

    fn ctl(&self, arguments: &[&str]) -> (i32, String, String) {
        ctl(&self.socket, arguments)
    }

    fn status(&self) -> serde_json::Value {
        let (code, stdout, stderr) = self.ctl(&["status", "--json"]);
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(&stdout).expect("JSON")
    }
}

fn command(socket: &Path, file: &Path) -> Command {
    let mut command = Command::new(batond());
    command.arg("--control").arg(socket).arg("--config").arg(file);
    command
}

fn ctl(socket: &Path, arguments: &[&str]) -> (i32, String, String) {
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
    assert_eq!(status["version"], 1);
    assert_eq!(status["pid"], controlled.server.pid());
    let generation = &status["generations"][0];
    assert_eq!(generation["phase"], "serving");
    assert_eq!(generation["addresses"][0], controlled.server.address().to_string());
    let pids: Vec<u64> =
        generation["workers"].as_array().expect("workers").iter().filter_map(|one| one["pid"].as_u64()).collect();
    assert_eq!(pids, controlled.server.workers().iter().map(|pid| u64::from(*pid)).collect::<Vec<_>>());
    assert_eq!((status["accepted"].as_u64(), status["requests"].as_u64()), (Some(10), Some(10)));
    let (code, stdout, _) = controlled.ctl(&["status"]);
    assert!(code == 0 && stdout.contains("generation 1, serving") && stdout.contains("ready"), "{stdout}");
    let (code, stdout, _) = controlled.ctl(&["workers", "--json"]);
    assert!(code == 0 && stdout.lines().count() == 2, "{stdout}");
    controlled.server.stop();
}

#[test]
fn reload_waits_for_its_outcome_and_says_what_went_wrong() {
    let controlled = Controlled::start();
    let (code, stdout, stderr) = controlled.ctl(&["reload"]);
    assert!(code == 0 && stdout.contains("generation 2 serves"), "{stdout}{stderr}");
    assert_eq!(controlled.status()["generations"].as_array().and_then(|all| all.last()).expect("one")["number"], 2);
    fs::write(&controlled.file, "wrokers = 2\n").expect("written");
    let (code, _, stderr) = controlled.ctl(&["reload"]);
    assert!(code == 1 && stderr.contains("batond.toml:1:1: "), "{code}: {stderr}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address");
    fs::write(&controlled.file, format!("listen = [\"127.0.0.1:0\", \"{address}\"]\n")).expect("written");
    let (code, _, stderr) = controlled.ctl(&["reload"]);
    assert!(code == 1 && stderr.contains("is in use"), "{code}: {stderr}");
    assert_served(controlled.server.address());
    let (code, stdout, _) = controlled.ctl(&["events"]);
    assert!(code == 0 && stdout.contains("generation 2: serves"), "{stdout}");
    controlled.server.stop();
}

#[test]
fn scale_waits_for_its_outcome_and_the_counts_go_on() {
    let controlled = Controlled::start();
    for workers in [3, 1, 2] {
        let (code, stdout, stderr) = controlled.ctl(&["scale", &workers.to_string()]);
        assert!(code == 0 && stdout.contains("now"), "{stdout}{stderr}");
        assert_served(controlled.server.address());
        wait_until("the others have left", || controlled.server.workers().len() == workers);
    }
    let (code, stdout, _) = controlled.ctl(&["scale", "2"]);
    assert_eq!((code, stdout.as_str()), (0, "2 workers already\n"));
    for wrong in ["0", "1025"] {
        let (code, _, stderr) = controlled.ctl(&["scale", wrong]);
        assert!(code == 1 && stderr.contains("is not in 1..=1024"), "{code}: {stderr}");
    }
    assert_eq!(controlled.ctl(&["scale", "many"]).0, 2);
    // What workers that have left had counted is in the sums.
    let status = controlled.status();
    assert_eq!(status["generations"].as_array().map(Vec::len), Some(1));
    assert_eq!((status["generations"][0]["requests"].as_u64(), status["requests"].as_u64()), (Some(3), Some(3)));
    let last = status["handovers"].as_array().and_then(|all| all.last()).expect("a time line");
    assert_eq!(
        (last["kind"].as_str(), last["steps"][0]["message"].as_str()),
        (Some("scale"), Some("from 1 to 2 workers"))
    );
    controlled.server.stop();
}

#[test]
fn a_worker_that_keeps_dying_is_shown() {
    let controlled = Controlled::start();
    for round in 0..5 {
        let victim = *controlled.server.workers().last().expect("a worker");
        signal(victim, Signal::SIGKILL);
        wait_until("it is replaced", || controlled.server.count_of("worker ready") >= 3 + round);
    }
    assert_eq!(controlled.server.count_of("worker keeps dying"), 1, "{:#?}", controlled.server.log());
    let (code, stdout, _) = controlled.ctl(&["status"]);
    assert!(code == 0 && stdout.contains("its last process was killed by SIGKILL; deaths in a row: 5"), "{stdout}");
    assert_served(controlled.server.address());
    controlled.server.stop();
}

#[test]
fn stop_waits_for_the_end() {
    for arguments in [&["stop"][..], &["stop", "--now"], &["stop", "--deadline", "0.5"]] {
        let mut controlled = Controlled::start();
        let _open = connect(controlled.server.address());
        let (code, stdout, stderr) = controlled.ctl(arguments);
        assert!(code == 0 && stdout.ends_with("stopped\n"), "{stdout}{stderr}");
        assert_eq!(controlled.server.wait().code(), Some(0));
        assert!(!controlled.socket.exists(), "the socket file is taken away");
    }
}

#[test]
fn without_a_server_the_exit_code_is_3() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, stderr) = ctl(&folder.path().join("none"), &["status"]);
    assert!(code == 3 && stderr.contains("no server runs there"), "{code}: {stderr}");
    for wrong in [&["dance"][..], &[], &["status", "--loud"]] {
        assert_eq!(ctl(&folder.path().join("none"), wrong).0, 2);
    }
}

#[test]
fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    let mut controlled = Controlled::start();
    let mode = fs::metadata(&controlled.socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut second = Server::spawn(command(&controlled.socket, &controlled.file));
    assert_eq!(second.wait().code(), Some(1));
    assert_eq!(second.count_of("another server listens there"), 1, "{:#?}", second.log());
    controlled.server.signal(Signal::SIGKILL);
    wait_until("the master is gone", || !is_alive(controlled.server.pid()));
    assert!(controlled.socket.exists());
    let third = Server::start_command(command(&controlled.socket, &controlled.file));
    assert_eq!(ctl(&controlled.socket, &["status"]).0, 0);
    third.stop();
    // The workers of the one that was killed have left with it.
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
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply");
        assert!(reply.starts_with("{\"reply\":\"failed\""), "{reply}");
    }
    let mut endless = open();
    // It is cut, whatever it writes.
    while endless.write_all(&[b'x'; 4096]).is_ok() {}
    let mut half = open();
    half.write_all(b"{\"request\":").expect("sent");
    drop(half);
    assert_eq!(controlled.ctl(&["status"]).0, 0);
    // Whoever asks nothing is dropped in time.
    let mut silent = open();
    assert_eq!(silent.read(&mut [0; 1]).expect("an end"), 0);
    wait_until("status is given", || controlled.ctl(&["status"]).0 == 0);
    controlled.server.stop();
}
