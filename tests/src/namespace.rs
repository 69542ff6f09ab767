//! Tests in separate network namespaces: nothing else uses their ports, and their settings (sysctls, packet filters)
//! affect no other process. They need root or unprivileged user namespaces. If neither is available, a test prints
//! that.
//!
//! A thread cannot take the others of its process along, so the test's own executable runs once more inside, for this
//! one test. The result of that run is the result of the test.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::describe_tree;
use crate::program::{self, batonctl, batond, is_installed, kill_tree, pass_on_what_is_built};
use crate::skip;

/// Names the test that runs inside.
const MARK: &str = "BATON_TESTS_NAMESPACE";

/// A test that takes longer inside counts as hung.
pub const TIME_MAX: Duration = Duration::from_secs(180);

/// Runs `body` in a separate network namespace, for at most [`TIME_MAX`]. `test_name` is the whole name of the calling
/// test, with its modules. Tests of one executable run one after the other, since they measure.
///
/// # Panics
/// If the body does, or does not end in time.
pub fn run(test_name: &str, body: impl FnOnce()) {
    run_for(test_name, TIME_MAX, body);
}

/// The same, with another time limit.
///
/// # Panics
/// If the body does, or does not end in time.
pub fn run_for(test_name: &str, time_max: Duration, body: impl FnOnce()) {
    if is_inside() {
        bring_loopback_up();
        body();
    } else if can_enter() {
        run_inside(test_name, time_max);
    }
}

/// Whether the caller runs in a namespace made here.
fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Returns `false` and prints a message if namespaces are not permitted.
fn can_enter() -> bool {
    if let Some(missing) = ["unshare", "ip"].into_iter().find(|program| !is_installed(program)) {
        return !skip_visibly(&format!("{missing} is not installed"));
    }
    let output = enter("ip").args(["link", "set", "lo", "up"]).stdin(Stdio::null()).output().expect("unshare runs");
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success() || !skip_visibly(&format!("no network namespace may be made here: {}", reason.trim()))
}

/// A command that becomes `program` in a new namespace.
fn enter(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--").arg(program);
    command
}

fn bring_loopback_up() {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs");
    assert!(status.success(), "lo comes up");
}

fn run_inside(test_name: &str, time_max: Duration) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // Build them out here, where a registry can be reached if necessary. Inside, they are found built.
    batond();
    batonctl();
    let mut command = enter(std::env::current_exe().expect("a test has an executable"));
    command.args([test_name, "--exact", "--include-ignored", "--nocapture", "--test-threads", "1"]);
    pass_on_what_is_built(&mut command);
    command.env(MARK, test_name).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("unshare runs");
    let (stdout, stderr) = (relay(child.stdout.take()), relay(child.stderr.take()));
    let status = wait(&mut child, time_max);
    let has_run = [stdout, stderr].into_iter().any(|reader| reader.join().expect("read"));
    match status {
        None => panic!("{test_name} did not end within {time_max:?} and was killed"),
        Some(status) => assert!(status.success(), "{test_name} inside its namespace: {status}"),
    }
    assert!(has_run, "no test has the name {test_name}");
}

/// Passes lines on as they come. Reports of skipped tests bypass the capture of output, since they must be seen.
/// Returns whether a line says that one test has run.
fn relay(from: Option<impl Read + Send + 'static>) -> JoinHandle<bool> {
    std::thread::spawn(move || {
        let mut has_run = false;
        for line in from.into_iter().flat_map(|from| BufReader::new(from).lines().map_while(Result::ok)) {
            has_run |= line.starts_with("running 1 test");
            if line.starts_with("SKIPPED") {
                show(&line);
            } else {
                eprintln!("{line}");
            }
        }
        has_run
    })
}

/// As [`skip`], even if a test's output is captured.
fn skip_visibly(reason: &str) -> bool {
    show(&format!("SKIPPED: {reason}"));
    true
}

fn show(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// `None`: the process did not end in time, and was killed with all its descendants.
fn wait(child: &mut Child, time_max: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("waited") {
            return Some(status);
        }
        if start.elapsed() > time_max {
            eprintln!("{}", describe_tree(child.id()));
            kill_tree(child);
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sets a sysctl of this namespace, such as `net/ipv4/tcp_migrate_req`.
///
/// # Panics
/// If it cannot be set, or the caller is not in a separate namespace.
pub fn sysctl(name: &str, value: &str) {
    assert!(is_inside(), "the sysctls of everybody are left alone");
    fs::write(Path::new("/proc/sys").join(name), value).unwrap_or_else(|error| panic!("{name} = {value}: {error}"));
}

/// How many connections and handshakes this namespace's listen sockets have dropped (`ListenDrops`, see netstat(8)).
/// The client sends again after 200 ms; by the time it takes, that cannot be distinguished from a busy machine.
///
/// # Panics
/// If the kernel does not report it.
pub fn listen_drops() -> u64 {
    let text = fs::read_to_string("/proc/self/net/netstat").expect("read");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, counts) = (lines.next().expect("names"), lines.next().expect("counts"));
    let mut counters = names.split(' ').zip(counts.split(' '));
    let (_, count) = counters.find(|(name, _)| *name == "ListenDrops").expect("such a counter");
    count.parse().expect("a number")
}

/// Whether users other than root exist here, so that processes may become them.
pub fn has_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count > 65_535)
}

/// Rules of nftables in force in this namespace, until dropped.
#[derive(Debug)]
pub struct Filter(());

/// Applies rules to all outgoing packets, which on a loopback interface are all packets. Each rule is a line such as
/// `tcp dport 80 drop`. Returns `None` and prints a message if there is no nftables.
///
/// # Panics
/// If the caller is not in a separate namespace, has a filter already, or the rules are invalid.
pub fn nft(rules: &[&str]) -> Option<Filter> {
    assert!(is_inside(), "the packets of everybody are left alone");
    if !is_installed("nft") {
        skip("nft is not installed");
        return None;
    }
    if let Err(reason) = run_nft("create table inet baton_tests") {
        assert!(!reason.contains("File exists"), "one filter at a time");
        skip(&format!("nftables cannot be used here: {reason}"));
        return None;
    }
    let filter = Filter(());
    let chain = "type filter hook output priority filter; policy accept;";
    let rules = format!("table inet baton_tests {{ chain output {{ {chain}\n{}\n}}\n}}\n", rules.join("\n"));
    run_nft(&rules).unwrap_or_else(|reason| panic!("{rules}{reason}"));
    Some(filter)
}

impl Drop for Filter {
    fn drop(&mut self) {
        let removed = run_nft("delete table inet baton_tests");
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

fn run_nft(commands: &str) -> Result<(), String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("nft runs");
    // Dropping the pipe ends the input.
    child.stdin.take().expect("piped").write_all(format!("{commands}\n").as_bytes()).expect("written");
    let output = child.wait_with_output().expect("nft ends");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// Number of handshakes from `client` to `server` for which the server still waits for the final ACK.
///
/// # Panics
/// If ss(8), of the same package as ip(8), is missing. (`/proc/net/tcp` takes seconds if many connections have ended.)
pub fn handshakes_open(client: Ipv4Addr, server: SocketAddr) -> usize {
    let filter = format!("dst = {client} and sport = :{}", server.port());
    // While others come and go, a table may show some twice.
    sockets("syn-recv", &filter).lines().collect::<BTreeSet<_>>().len()
}

/// Listeners of a port in this namespace, by the lengths of their queues.
///
/// # Panics
/// If ss(8) is missing.
pub fn listener_queues(port: u16) -> Vec<u32> {
    let lines = sockets("listening", &format!("sport = :{port}"));
    // The first column is the queue, the second its limit.
    lines.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

fn sockets(state: &str, filter: &str) -> String {
    let output = program::run(Command::new("ss").args(["-H", "-n", "-t", "state", state, filter]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
