//! `batonctl top` in a pipe and in a terminal, and how repeated output ends when nobody reads it, with a stand-in for
//! the server.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

const STATUS: &str = r#"{"reply":"status","version":2,"name":"n\u001b[2Jotes","pid":99,"uptime_ms":61000,"handover":"ebpf",
"handover_reason":"it works","is_stopping":false,"accepted":1,"requests":2,"generations":[{"number":3,"phase":"serving",
"age_ms":5,"addresses":["[::1]:80"],"workers":[{"slot":0,"pid":7,"state":"ready","age_ms":5,"open":4,"accepted":1,
"requests":2,"bytes_received":3,"bytes_sent":4,"service_ns_p50":1000,"service_ns_p99":2000}]}]}"#;

/// A server that answers each request with its status; the thread ends with the test's process.
fn server(folder: &Path) -> PathBuf {
    let path = folder.join("control");
    serve(UnixListener::bind(&path).expect("bound"));
    path
}

fn serve(listener: UnixListener) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            // It is not an error if a client has disconnected meanwhile.
            let _ = (&stream).write_all(status_line().as_bytes());
        }
    });
}

fn status_line() -> String {
    STATUS.replace('\n', "") + "\n"
}

/// A server that answers one request. Its name is removed before the answer is sent.
fn answer_once(listener: &UnixListener, path: &Path) {
    let (stream, _) = listener.accept().expect("a client");
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).expect("a request");
    std::fs::remove_file(path).expect("removed");
    (&stream).write_all(status_line().as_bytes()).expect("sent");
}

/// No thread may start a process from the creation of a terminal until it is not inherited any more.
static SPAWNING: Mutex<()> = Mutex::new(());

fn start(command: &mut Command) -> Child {
    let _alone = SPAWNING.lock().expect("no panic");
    command.spawn().expect("it runs")
}

fn batonctl(control: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batonctl"));
    command.arg("--control").arg(control).args(arguments).env("TERM", "xterm-256color");
    command
}

#[test]
fn what_repeats_in_a_pipe_has_no_escape_codes_and_ends_quietly_with_its_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = server(folder.path());
    for arguments in [&["status", "--watch"][..], &["status", "--watch", "--json"], &["top"]] {
        let mut child = start(batonctl(&control, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
        let (mut read, mut seen) = (String::new(), 0);
        // Two samples.
        while seen < 2 {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).expect("text") > 0, "{arguments:?} ended: {read}");
            seen += usize::from(line.contains("otes"));
            read += &line;
        }
        assert!(!read.chars().any(|one| one.is_control() && one != '\n'), "{arguments:?}: {read:?}");
        drop(reader);
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{arguments:?}");
    }
}

/// Both ends of a terminal, its settings, and `batonctl top` in it.
fn in_terminal(control: &Path) -> (File, File, LocalFlags, Child) {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let _alone = SPAWNING.lock().expect("no panic");
    let pair = openpty(&size, None).expect("a terminal");
    for end in [&pair.master, &pair.slave] {
        // Every process with either end keeps the terminal open.
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("set");
    }
    let (ours, theirs) = (File::from(pair.master), File::from(pair.slave));
    let usual = tcgetattr(&theirs).expect("its settings").local_flags;
    let stdio = || Stdio::from(theirs.try_clone().expect("a copy"));
    let mut command = batonctl(control, &["top"]);
    let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("it runs");
    (ours, theirs, usual, child)
}

fn read_until(terminal: &mut File, all: &mut Vec<u8>, wanted: &str) {
    let mut bytes = [0; 4096];
    while !all.windows(wanted.len()).any(|part| part == wanted.as_bytes()) {
        let count = terminal.read(&mut bytes).expect("read");
        all.extend_from_slice(&bytes[..count]);
    }
}

#[test]
fn a_terminal_is_as_it_was_after_a_key_and_after_a_signal() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = server(folder.path());
    let ends: [fn(&mut File, &Child); 4] = [
        |terminal, _| terminal.write_all(b"q").expect("written"),
        |terminal, _| terminal.write_all(b"\x03").expect("written"),
        |_, child| kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("sent"),
        |_, child| kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("sent"),
    ];
    for end in ends {
        let (mut terminal, theirs, usual, mut child) = in_terminal(&control);
        let mut all = Vec::new();
        read_until(&mut terminal, &mut all, "scroll");
        end(&mut terminal, &child);
        // It leaves the alternate screen.
        read_until(&mut terminal, &mut all, "\x1b[?1049l");
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
        let now = tcgetattr(&theirs).expect("its settings").local_flags;
        assert_eq!(now, usual);
        let text = String::from_utf8_lossy(&all);
        assert!(text.contains(r"n\u{1b}[2Jotes") && !text.contains("n\x1b[2J"), "{text:?}");
    }
}

#[test]
fn it_ends_with_its_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = server(folder.path());
    let (mut terminal, theirs, _, mut child) = in_terminal(&control);
    read_until(&mut terminal, &mut Vec::new(), "scroll");
    drop((terminal, theirs));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

/// As after an upgrade or a restart: the process that has the name gets the requests.
#[test]
fn a_server_that_goes_away_is_asked_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = folder.path().join("control");
    let bound = || UnixListener::bind(&control).expect("bound");

    let first = bound();
    let mut child = start(batonctl(&control, &["top"]).stdout(Stdio::piped()));
    answer_once(&first, &control);
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut read_line_with = |wanted: &str| {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(reader.read_line(&mut line).expect("text") > 0, "ended before {wanted:?}");
        }
    };
    read_line_with("otes running");
    read_line_with("trying again: ");
    serve(bound());
    read_line_with("otes running");
    drop(reader);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    std::fs::remove_file(&control).expect("removed");

    let first = bound();
    let (mut terminal, _theirs, _, mut child) = in_terminal(&control);
    answer_once(&first, &control);
    let mut all = Vec::new();
    read_until(&mut terminal, &mut all, "trying again: ");
    serve(bound());
    // The first sample had no rates yet.
    read_until(&mut terminal, &mut all, "0 req/s");
    terminal.write_all(b"q").expect("written");
    read_until(&mut terminal, &mut all, "\x1b[?1049l");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn no_server_at_first_is_exit_code_3() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = batonctl(&folder.path().join("none"), &["top"]).output().expect("it runs");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0));
}
