//! Names that others can take first, claim, or connect to: the control socket's path, and all others.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use baton_tests::client::assert_served;
use baton_tests::namespace::run as run_inside;
use baton_tests::process::is_alive;
use baton_tests::program::{Server, batonctl, batond, run, signal};
use baton_tests::{control, wait_until};
use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::stranger::{Stranger, command_for_all, folder_for_all, may_become_others, say};

/// In a network namespace of its own the test can choose a port.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// A user that is neither the stranger nor root.
const VICTIM: u32 = 1235;

/// Listens at a path, reports how many bytes each client sends, and tells the client that the server has stopped.
pub(crate) fn impostor(path: &Path) {
    let listener = UnixListener::bind(path).expect("bound");
    fs::set_permissions(path, Permissions::from_mode(0o777)).expect("set");
    say("listening");
    for client in listener.incoming() {
        let mut client = client.expect("a client");
        let mut request = [0; 64];
        say(&client.read(&mut request).unwrap_or(0).to_string());
        let _ = client.write_all(b"{\"reply\":\"done\",\"done\":\"stopped\"}\n");
    }
}

/// Takes the name that marks a start on [`ADDRESS`], with every type of socket.
pub(crate) fn squatter() {
    let take = |kind: Type, user: u32| {
        let socket = Socket::new(Domain::UNIX, kind, None).expect("a socket");
        let name = format!("\0baton-starts-on-port-{}-{user}", ADDRESS.port());
        socket.bind(&SockAddr::unix(name).expect("short")).expect("bound");
        if kind != Type::DGRAM {
            socket.listen(128).expect("listening");
        }
        socket
    };
    let _taken = [Type::DGRAM, Type::STREAM, Type::SEQPACKET].map(|kind| take(kind, 0));
    say("taken");
    std::thread::park();
}

/// Makes the folder of a control socket's workers, and lets every user in.
pub(crate) fn folder_maker(control: &Path) {
    let folder = workers_of(control);
    fs::create_dir(&folder).expect("made");
    fs::set_permissions(folder, Permissions::from_mode(0o777)).expect("set");
    say("made");
}

pub(crate) fn workers_of(control: &Path) -> PathBuf {
    control.with_file_name("control.workers")
}

/// All names that every user can see, those in the folder beside a control socket, and that socket's own.
pub(crate) fn names_seen(control: &Path) -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/net/unix").expect("everybody may read it");
    let shown = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7));
    let shown = shown.map(|name| name.strip_prefix('@').map_or(name.to_owned(), |name| format!("\0{name}")));
    let workers = fs::read_dir(workers_of(control)).into_iter().flatten();
    let workers = workers.map(|file| file.expect("an entry").path().to_string_lossy().into_owned());
    shown.chain(workers).chain([control.display().to_string()]).collect()
}

/// Connects to a name. Returns the socket if that succeeded.
pub(crate) fn knock(name: &str) -> Option<Socket> {
    [Type::STREAM, Type::SEQPACKET].into_iter().find_map(|kind| {
        let socket = Socket::new(Domain::UNIX, kind, None).expect("a socket");
        socket.set_nonblocking(true).expect("set");
        SockAddr::unix(name).is_ok_and(|name| socket.connect(&name).is_ok()).then_some(socket)
    })
}

/// Connects to all names once for each line that it gets, and reports how many accepted.
pub(crate) fn knocker(control: &Path) {
    for _ in std::io::stdin().lines() {
        say(&names_seen(control).iter().filter_map(|name| knock(name)).count().to_string());
    }
}

fn stop(command: &mut Command, control: &Path) -> Output {
    run(command.arg("--control").arg(control).arg("stop"))
}

#[test]
fn batonctl_believes_no_impostor() {
    if !may_become_others() {
        return;
    }
    let (folder, programs) = (folder_for_all().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let control = folder.path().join("control");
    let mut stranger = Stranger::play("impostor", control.to_str().expect("UTF-8"));
    assert_eq!(stranger.hear().as_deref(), Some("listening"));
    let refused = |output: &Output| {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b""[..]), "{stderr}");
        assert!(stderr.contains("user 1234"), "{stderr}");
    };
    refused(&stop(command_for_all(&programs, &batonctl()).uid(VICTIM), &control));
    // Root may stop every user's server, and reads whose it is.
    let obeyed = stop(&mut Command::new(batonctl()), &control);
    let stderr = String::from_utf8_lossy(&obeyed.stderr).into_owned();
    assert_eq!((obeyed.status.code(), obeyed.stdout.as_slice()), (Some(0), &b"stopped\n"[..]), "{stderr}");
    assert!(stderr.contains("user 1234"), "{stderr}");
    // The user's request did not reach the impostor; root's request arrived completely.
    assert!(stranger.hear().is_some_and(|bytes| bytes != "0"));
    // The impostor listens at a file of another owner.
    chown(&control, Some(VICTIM), None).expect("given away");
    refused(&stop(&mut Command::new(batonctl()), &control));
    refused(&stop(command_for_all(&programs, &batonctl()).uid(VICTIM), &control));
    assert_eq!([stranger.hear(), stranger.hear()].map(|bytes| bytes.expect("one")), ["0", "0"]);
}

pub(crate) fn start(control: &Path, address: &str) -> Server {
    let mut command = Command::new(batond());
    command.args(["--workers", "2", "--user", "nobody", "--listen", address, "--control"]).arg(control);
    Server::start_command(command)
}

/// The server does without the folder: its workers have no master after theirs is killed, and leave.
#[test]
fn a_folder_that_a_stranger_has_made_is_not_used() {
    if !may_become_others() {
        return;
    }
    let folder = folder_for_all().expect("a folder");
    let control = folder.path().join("control");
    let mut stranger = Stranger::play("folder_maker", control.to_str().expect("UTF-8"));
    assert_eq!(stranger.hear().as_deref(), Some("made"));
    let server = start(&control, "127.0.0.1:0");
    control::ask(&control, &["reload"]).done();
    assert_eq!(server.count_of("user 1234"), 1);
    assert_eq!(fs::read_dir(workers_of(&control)).expect("left").count(), 0);
    assert_served(server.address());
    let workers = server.workers();
    server.signal(Signal::SIGKILL);
    wait_until("they have left", || workers.iter().all(|pid| !is_alive(*pid)));
}

/// No other user finds the names that workers and masters need to find each other, or can take one first.
#[test]
fn a_stranger_finds_no_worker_and_stops_nothing() {
    run_inside("names::a_stranger_finds_no_worker_and_stops_nothing", || {
        if !may_become_others() {
            return;
        }
        let folder = folder_for_all().expect("a folder");
        let control = folder.path().join("control");
        let start = || start(&control, &ADDRESS.to_string());
        let mut squatter = Stranger::play("squatter", "-");
        assert_eq!(squatter.hear().as_deref(), Some("taken"));
        let mut knocker = Stranger::play("knocker", control.to_str().expect("UTF-8"));
        let mut assert_hidden = |when: &str| {
            knocker.tell("knock");
            // The squatter's own name.
            assert_eq!(knocker.hear().as_deref(), Some("1"), "{when}");
        };
        let server = start();
        assert_hidden("after the start");
        control::ask(&control, &["reload"]).done();
        assert_hidden("after a reload");
        wait_until("the old workers have left", || server.workers().len() == 2);
        let before = server.count_of_events("worker_ready");
        signal(server.workers()[0], Signal::SIGKILL);
        wait_until("it is replaced", || server.count_of_events("worker_ready") > before);
        assert_hidden("after a worker was replaced");
        let workers = server.workers();
        server.signal(Signal::SIGKILL);
        wait_until("the workers notice", || server.count_of("the master is gone") == 2);
        assert_hidden("without a master");
        let next = start();
        wait_until("they have left", || workers.iter().all(|pid| !is_alive(*pid)));
        assert_hidden("after a take-over");
        assert_served(next.address());
        control::ask(&control, &["upgrade"]).done();
        assert_hidden("after an upgrade");
        control::ask(&control, &["stop"]).done();
        wait_until("all files are gone", || fs::read_dir(folder.path()).is_ok_and(|files| files.count() == 0));
    });
}

/// They find the socket of a killed master.
#[test]
fn of_servers_that_start_at_the_same_moment_one_serves() {
    const STARTS: usize = 4;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control");
    for round in 0..10 {
        drop(UnixListener::bind(&path).expect("bound"));
        let start = || {
            let mut command = Command::new(batond());
            command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--control"]).arg(&path);
            Server::spawn(command)
        };
        let all: [Server; STARTS] = std::array::from_fn(|_| start());
        let is_over = |server: &Server| server.count_of("batond: error: ") == 1;
        let serves = |server: &Server| server.count_of("\"listening\"") == 1;
        wait_until("each serves or is refused", || all.iter().all(|server| is_over(server) || serves(server)));
        let served = all.iter().filter(|server| serves(server)).count();
        assert_eq!(served, 1, "round {round}");
        let winner = all.iter().find(|server| serves(server)).expect("one");
        assert_eq!(control::status(&path).map(|status| status.pid), Some(winner.pid()));
        winner.signal(Signal::SIGTERM);
        wait_until("it has stopped", || !path.exists());
    }
}
