//! Unix sockets as listeners: the promise, in both tiers of the TCP address beside them, and the files at their paths.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use baton_tests::client::assert_served;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::has_users;
use baton_tests::process::{children, is_alive};
use baton_tests::program::{Server, batond, is_installed, run, signal};
use baton_tests::{control, skip, wait_until};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

/// No client waits for longer.
const PATIENCE: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// One test at a time: a test that ends a lineage ends all processes that this one has started.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.ends_with(b"Hello, World!") {
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&part[..count]),
        }
    }
    Ok(())
}

/// Clients that connect for each request.
struct Churn {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<io::Error>>>,
}

impl Churn {
    fn start(path: &Path, clients: usize) -> Self {
        let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..clients).map(|_| {
            let (path, is_over, answered) = (path.to_owned(), Arc::clone(&is_over), Arc::clone(&answered));
            thread::spawn(move || {
                let mut errors = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    match connect(&path).and_then(|mut stream| ask(&mut stream)) {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => errors.push(error),
                    }
                }
                errors
            })
        });
        let clients = clients.collect();
        Self { is_over, answered, clients }
    }

    fn wait(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until("clients are answered", || self.answered.load(Ordering::Relaxed) > before + 100);
    }

    fn finish(self) -> Vec<io::Error> {
        self.is_over.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("it ends")).collect()
    }
}

struct Started {
    folder: tempfile::TempDir,
    lineage: Lineage,
    tier: &'static str,
}

impl Started {
    fn new(tier: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        let lineage = Lineage::start(2, |control, pid_file| {
            Server::start_command(command(&path, tier, &["--control", control, "--pid-file", pid_file]))
        });
        Self { folder, lineage, tier }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app.sock")
    }
}

fn command(path: &Path, tier: &str, more: &[&str]) -> Command {
    let mut command = Command::new(batond());
    command.arg("--listen").arg(format!("unix:{}", path.display())).args(["--listen", "127.0.0.1:0"]);
    command.args(["--workers", "2", "--settle-ms", "50", "--hang-ms", "500", "--handover", tier]).args(more);
    command
}

fn each_tier(test: impl Fn(&Started)) {
    let _turn = turn();
    for tier in ["adopt", "auto"] {
        test(&Started::new(tier));
    }
}

#[test]
fn nobody_is_lost_whatever_replaces_workers_and_masters() {
    each_tier(|started| {
        let Started { lineage, tier, .. } = started;
        let mut kept = connect(&started.path()).expect("connected");
        let churn = Churn::start(&started.path(), 4);
        let operations: [&[&str]; 11] = [
            &["reload"],
            &["scale", "3"],
            &["scale", "1"],
            &["scale", "2"],
            &["upgrade"],
            &["upgrade", "--hold"],
            &["commit"],
            &["upgrade", "--hold"],
            &["revert"],
            &["reload"],
            &["upgrade"],
        ];
        for operation in operations {
            churn.wait();
            lineage.done(operation);
            ask(&mut kept).unwrap_or_else(|error| panic!("{tier}, {operation:?}: {error}"));
            assert_served(lineage.first.address());
        }
        churn.wait();
        let errors = churn.finish();
        assert!(errors.is_empty(), "{tier}: {errors:?}");
        assert!(started.path().exists());
    });
}

/// The manual procedure by which nginx is upgraded; then TERM to the new master.
#[test]
fn nobody_is_lost_by_the_signals_of_an_upgrade() {
    each_tier(|started| {
        let lineage = &started.lineage;
        let churn = Churn::start(&started.path(), 4);
        let first = lineage.master();
        let upgrade = || {
            churn.wait();
            signal(first, Signal::SIGUSR2);
            wait_until("the new one serves", || lineage.master() != first);
            churn.wait();
            lineage.master()
        };
        let second = upgrade();
        signal(first, Signal::SIGWINCH);
        wait_until("the workers have left", || children(first).iter().all(|pid| *pid == second || !is_alive(*pid)));
        churn.wait();
        signal(first, Signal::SIGHUP);
        wait_until("workers have come back", || children(first).len() == 3);
        churn.wait();
        signal(second, Signal::SIGQUIT);
        lineage.settle();
        assert_eq!(lineage.master(), first);
        signal(upgrade(), Signal::SIGTERM);
        lineage.settle();
        assert_eq!(lineage.master(), first);
        upgrade();
        signal(first, Signal::SIGQUIT);
        lineage.settle();
        churn.wait();
        let errors = churn.finish();
        assert!(errors.is_empty(), "{}: {errors:?}", started.tier);
        assert!(started.path().exists());
    });
}

/// From one tier of TCP to the other and back, and without TCP.
#[test]
fn an_upgrade_may_change_what_is_beside_a_unix_socket() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let (path, settings) = (folder.path().join("app.sock"), folder.path().join("batond.toml"));
    let configure = |listen: &str, tier: &str| {
        let path = path.display();
        let text = format!("listen = [{listen}\"unix:{path}\"]\nworkers = 2\nhandover = \"{tier}\"\n");
        fs::write(&settings, text).expect("written");
    };
    configure("", "auto");
    let lineage = Lineage::start(2, |control, pid_file| {
        let mut command = Command::new(batond());
        command.arg("--config").arg(&settings).args(["--control", control, "--pid-file", pid_file]);
        Server::start_command(command)
    });
    let mut kept = connect(&path).expect("connected");
    let churn = Churn::start(&path, 4);
    for (listen, tier) in [("", "adopt"), ("\"127.0.0.1:0\", ", "auto"), ("", "auto"), ("", "auto")] {
        for operation in [&["reload"][..], &["scale", "3"], &["scale", "2"], &["upgrade", "--hold"], &["revert"]] {
            churn.wait();
            lineage.done(operation);
        }
        configure(listen, tier);
        churn.wait();
        lineage.done(&["upgrade", "--allow", "tier"]);
        lineage.settle();
        ask(&mut kept).unwrap_or_else(|error| panic!("{listen:?}, {tier}: {error}"));
    }
    churn.wait();
    let errors = churn.finish();
    assert!(errors.is_empty(), "{errors:?}");
    signal(lineage.master(), Signal::SIGTERM);
    wait_until("the path is gone", || !path.exists());
}

#[test]
fn whoever_waits_at_a_worker_that_is_killed_or_hangs_is_served_by_another() {
    each_tier(|started| {
        for (how, name) in [(Signal::SIGKILL, "killed"), (Signal::SIGSTOP, "stopped")] {
            let worker = started.lineage.first.workers()[0];
            signal(worker, how);
            let mut clients: Vec<UnixStream> = (0..50).map(|_| connect(&started.path()).expect("connected")).collect();
            let errors: Vec<io::Error> = clients.iter_mut().map(ask).filter_map(Result::err).collect();
            // The ring of a killed worker may have accepted one more connection, which dies with it; no client is left
            // waiting.
            let is_ended = |error: &io::Error| error.kind() != io::ErrorKind::WouldBlock;
            assert!(errors.len() <= 1 && errors.iter().all(is_ended), "{}: {name}: {errors:?}", started.tier);
            wait_until("it is replaced", || {
                let workers = started.lineage.first.workers();
                workers.len() == 2 && !workers.contains(&worker)
            });
        }
    });
}

#[test]
fn workers_serve_on_without_a_master_and_the_next_one_takes_their_sockets() {
    each_tier(|started| {
        let Started { lineage, tier, .. } = started;
        let mut kept = connect(&started.path()).expect("connected");
        ask(&mut kept).expect("an answer");
        let churn = Churn::start(&started.path(), 4);
        churn.wait();
        signal(lineage.master(), Signal::SIGKILL);
        churn.wait();
        let (control, pid_file) = (lineage.control(), lineage.file("pid"));
        let more = ["--control", control.to_str().expect("text"), "--pid-file", pid_file.to_str().expect("text")];
        let next = Server::start_command(command(&started.path(), tier, &more));
        wait_until("the next master has the names", || lineage.master() == next.pid());
        churn.wait();
        ask(&mut kept).expect("it moves to the workers of the next one");
        let errors = churn.finish();
        assert!(errors.is_empty(), "{tier}: {errors:?}");
        drop(kept);
        next.stop();
        assert!(!started.path().exists(), "{tier}: the path goes with the server");
    });
}

#[test]
fn at_a_stop_those_who_were_let_in_are_served_and_others_are_refused() {
    each_tier(|started| {
        let mut kept = connect(&started.path()).expect("connected");
        let (begin, end) = REQUEST.split_at(REQUEST.len() / 2);
        ask(&mut kept).expect("an answer");
        kept.write_all(begin).expect("sent");
        signal(started.lineage.master(), Signal::SIGQUIT);
        let start = Instant::now();
        let refused = loop {
            match connect(&started.path()) {
                Ok(mut stream) => ask(&mut stream).unwrap_or_else(|error| panic!("{}: {error}", started.tier)),
                Err(error) => break error.kind(),
            }
            assert!(start.elapsed() < PATIENCE, "{}: they are let in for ever", started.tier);
        };
        assert!(matches!(refused, io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound), "{refused:?}");
        kept.write_all(end).expect("sent");
        let mut answer = Vec::new();
        kept.read_to_end(&mut answer).expect("the end");
        assert!(answer.ends_with(b"Hello, World!"), "{}: {answer:?}", started.tier);
        wait_until("the path is gone", || !started.path().exists());
    });
}

#[test]
fn bytes_of_a_long_connection_cross_replacements() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let lineage = Lineage::start(2, |control, pid_file| {
        let more = ["--protocol", "echo", "--control", control, "--pid-file", pid_file];
        Server::start_command(command(&path, "auto", &more))
    });
    let mut stream = connect(&path).expect("connected");
    let mut other = stream.try_clone().expect("a copy");
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = bytes.clone();
    let sender = thread::spawn(move || other.write_all(&sent));
    let mut came = vec![0; bytes.len()];
    let parts = ["reload", "upgrade", "reload", "upgrade"];
    for (part, operation) in came.chunks_mut(bytes.len() / parts.len()).zip(parts) {
        stream.read_exact(part).expect("read");
        lineage.done(&[operation]);
    }
    sender.join().expect("it ends").expect("sent");
    assert!(came == bytes, "every byte comes back, in order");
}

#[test]
fn curl_and_nc_connect() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let server = Server::start_command(command(&path, "auto", &["--unix-mode", "0640"]));
    assert_eq!(fs::symlink_metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
    if is_installed("curl") || !skip("curl is not installed") {
        let output = run(Command::new("curl").args(["-s", "--unix-socket"]).arg(&path).arg("http://a/"));
        assert_eq!(output.stdout, b"Hello, World!", "{output:?}");
    }
    if is_installed("nc") || !skip("nc is not installed") {
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -U -w 5 {}", path.display());
        let output = run(Command::new("sh").arg("-c").arg(script));
        assert!(output.stdout.ends_with(b"Hello, World!"), "{output:?}");
    }
    server.stop();
    assert!(!path.exists());
}

fn refused(path: &Path, problem: &str) {
    let output =
        run(Command::new(batond()).args(["--control", "off", "--listen"]).arg(format!("unix:{}", path.display())));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code().is_some_and(|code| code == 1 || code == 2) && text.contains(problem),
        "{problem}: {output:?}"
    );
}

#[test]
fn what_is_at_a_path_is_left_unless_a_server_has_left_it() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "text").expect("written");
    refused(&at("file"), "a file is there");
    assert_eq!(fs::read(at("file")).expect("there"), b"text");
    let live = UnixListener::bind(at("live")).expect("bound");
    refused(&at("live"), "another server listens there");
    assert!(UnixStream::connect(at("live")).is_ok());
    drop(live);
    std::os::unix::fs::symlink("live", at("link")).expect("made");
    refused(&at("link"), "a symbolic link is there");
    refused(&at("nowhere/socket"), "its folder");
    refused(&at(&"a".repeat(200)), "at most 107");
    // No process has this one any more.
    let server = Server::start_command(command(&at("live"), "auto", &[]));
    ask(&mut connect(&at("live")).expect("connected")).expect("an answer");
    server.stop();
    assert!(!at("live").exists());
}

#[test]
fn of_two_servers_started_at_once_one_has_the_path() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0..10 {
        let path = folder.path().join(format!("{}", round % 2));
        let mut both = [0; 2].map(|_| {
            let mut command = Command::new(batond());
            command.arg("--listen").arg(format!("unix:{}", path.display()));
            Server::spawn(command)
        });
        let start = Instant::now();
        wait_until("each is up or gone", || {
            both.iter().all(|server| server.count_of("\"listening\"") + server.count_of("batond: error: ") > 0)
        });
        let up = both.iter().filter(|server| server.count_of("\"listening\"") > 0).count();
        assert_eq!(up, 1, "round {round}, after {:?}", start.elapsed());
        ask(&mut connect(&path).expect("connected")).expect("an answer");
        both.iter_mut().for_each(|server| server.signal(Signal::SIGKILL));
        drop(both);
        // Its file remains, and the next server starts nevertheless.
        wait_until("nobody listens", || UnixStream::connect(&path).is_err());
        assert!(path.exists());
    }
}

#[test]
fn a_path_comes_and_goes_with_the_configuration() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let (path, settings) = (folder.path().join("app.sock"), folder.path().join("batond.toml"));
    let both = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]\nworkers = 2\n", path.display());
    fs::write(&settings, &both).expect("written");
    let lineage = Lineage::start(2, |control, pid_file| {
        let mut command = Command::new(batond());
        command.arg("--config").arg(&settings).args([
            "--control",
            control,
            "--pid-file",
            pid_file,
            "--settle-ms",
            "50",
        ]);
        Server::start_command(command)
    });
    for _ in 0..2 {
        let mut kept = connect(&path).expect("connected");
        ask(&mut kept).expect("an answer");
        fs::write(&settings, "listen = [\"127.0.0.1:0\"]\nworkers = 2\n").expect("written");
        lineage.done(&["reload"]);
        wait_until("the path is gone", || !path.exists());
        ask(&mut kept).expect("who was let in is served");
        fs::write(&settings, &both).expect("written");
        lineage.done(&["reload"]);
        ask(&mut connect(&path).expect("connected")).expect("an answer");
    }
    let status = lineage.status();
    let shown =
        status.generations.iter().flat_map(|one| &one.addresses).any(|one| *one == format!("unix:{}", path.display()));
    assert!(shown, "{status:?}");
}

#[test]
fn who_can_open_the_path_of_a_listener_for_proxies_is_trusted() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let (path, settings, log) =
        (folder.path().join("app.sock"), folder.path().join("batond.toml"), folder.path().join("log"));
    let text = format!("listen = [{{ address = \"unix:{}\", proxy_protocol = true }}]\n", path.display());
    fs::write(&settings, text).expect("written");
    let mut command = Command::new(batond());
    command.arg("--config").arg(&settings).arg("--access-log").arg(&log).args(["--access-format", "json"]);
    let server = Server::start_command(command);
    let mut stream = connect(&path).expect("connected");
    stream.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 4096 443\r\n").expect("sent");
    ask(&mut stream).expect("an answer");
    drop(stream);
    wait_until("it is logged", || fs::read_to_string(&log).is_ok_and(|text| text.contains("192.0.2.1")));
    let mut stream = connect(&path).expect("connected");
    assert!(ask(&mut stream).is_err(), "it says nothing of whose it is");
    server.stop();
}

#[test]
fn the_access_log_says_who_came_by_a_unix_socket() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let (path, log) = (folder.path().join("app.sock"), folder.path().join("log"));
    let server = Server::start_command(command(&path, "auto", &["--access-log", log.to_str().expect("UTF-8")]));
    let mut stream = connect(&path).expect("connected");
    ask(&mut stream).expect("an answer");
    // The worker that takes the connection knows it, too.
    server.reload();
    ask(&mut stream).expect("an answer");
    assert_served(server.address());
    server.stop();
    let text = fs::read_to_string(&log).expect("a log");
    let mut clients: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    // Each worker writes its lines at its own times.
    clients.sort_unstable();
    assert_eq!(clients, ["127.0.0.1", "unix:", "unix:"], "{text}");
}

#[test]
fn a_path_belongs_to_whom_the_setting_names() {
    if !geteuid().is_root() || !has_users() {
        skip("giving files away needs root");
        return;
    }
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let (path, control) = (folder.path().join("app.sock"), folder.path().join("control"));
    let owner = || fs::symlink_metadata(&path).map(|there| (there.uid(), there.gid(), there.mode() & 0o777)).ok();
    let control_text = control.to_str().expect("UTF-8");
    let more = ["--unix-owner", "nobody:0", "--unix-mode", "0600", "--control", control_text];
    let server = Server::start_command(command(&path, "auto", &more));
    let nobody = User::from_name("nobody").expect("asked").expect("there").uid.as_raw();
    assert_eq!(owner(), Some((nobody, 0, 0o600)));
    // No process is left to remove it.
    drop(server);
    assert_eq!(owner(), Some((nobody, 0, 0o600)));
    // The kernel closes the sockets of killed rings some milliseconds later.
    wait_until("nobody listens there", || connect(&path).is_err());
    let server = Server::start_command(command(&path, "auto", &more));
    for order in ["reload", "upgrade"] {
        control::ask(&control, &[order]).done();
        ask(&mut connect(&path).expect("connected")).expect("an answer");
        assert_eq!(owner(), Some((nobody, 0, 0o600)), "{order}");
    }
    control::ask(&control, &["stop"]).done();
    wait_until("the path is gone", || owner().is_none());
    drop(server);
}
