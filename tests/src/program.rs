//! Programs under test and their clients: built once, started, observed, ended.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{PATIENCE, process, skip, wait_until};

/// The `batond` of this workspace, built in the same way as this test.
///
/// # Panics
/// If it cannot be built.
pub fn batond() -> PathBuf {
    build(&["--package", "batond"])
}

/// The `batonctl` of this workspace.
///
/// # Panics
/// If it cannot be built.
pub fn batonctl() -> PathBuf {
    build(&["--package", "batonctl"])
}

/// An example of this workspace's engine.
///
/// # Panics
/// If it cannot be built.
pub fn example(name: &str) -> PathBuf {
    build(&["--package", "baton-engine", "--example", name])
}

/// An example of this workspace's `baton-http`.
///
/// # Panics
/// If it cannot be built.
pub fn http_example(name: &str) -> PathBuf {
    build(&["--package", "baton-http", "--example", name])
}

/// An example of these tests that needs no faults.
///
/// # Panics
/// If it cannot be built.
pub fn test_example(name: &str) -> PathBuf {
    build(&["--package", "baton-tests", "--example", name])
}

/// An example of these tests that ends processes at the steps that a test names.
///
/// # Panics
/// If it cannot be built.
pub fn faulty(name: &str) -> PathBuf {
    build(&["--package", "baton-tests", "--example", name, "--features", "faults"])
}

/// What was built for this test, by the arguments. Cargo allows only one build at a time, and a test must not spend its
/// own time waiting for another one's build.
static BUILT: LazyLock<Mutex<BTreeMap<String, PathBuf>>> = LazyLock::new(|| {
    let text = std::env::var(BUILT_NAME).unwrap_or_else(|_| "{}".to_owned());
    Mutex::new(serde_json::from_str(&text).expect("written by the process that started this one"))
});

/// The environment variable that tells a test in a namespace what was built.
const BUILT_NAME: &str = "BATON_TESTS_BUILT";

/// Tells a test in a separate process what was built.
///
/// # Panics
/// If a path is not UTF-8.
pub(crate) fn pass_on_what_is_built(command: &mut Command) {
    let built = serde_json::to_string(&*BUILT.lock().expect("no panic")).expect("UTF-8");
    command.env(BUILT_NAME, built);
}

fn build(what: &[&str]) -> PathBuf {
    let key = what.join(" ");
    if let Some(path) = BUILT.lock().expect("no panic").get(&key) {
        return path.clone();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--message-format", "json"]).args(what);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let path = built.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?))).next_back();
    let path = path.expect("cargo names the executable");
    BUILT.lock().expect("no panic").insert(key, path.clone());
    path
}

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|folders| std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()))
}

/// Whether a program is missing. If so, prints that.
pub fn is_missing(program: &str) -> bool {
    !is_installed(program) && skip(&format!("{program} is not installed"))
}

/// The output of a program as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As [`run`], for a program that must succeed. Returns its output.
///
/// # Panics
/// If it cannot be started, does not end, or fails.
pub fn run_ok(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = run(command);
    assert!(status.success(), "{command:?}: {status}\n{}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

/// Returns `false` and prints a message if strace cannot be used here.
pub fn may_trace() -> bool {
    if !is_installed("strace") {
        return !skip("strace is not installed");
    }
    run(Command::new("strace").args(["-o", "/dev/null", "true"])).status.success() || !skip("strace may not trace here")
}

/// Runs a program, which the caller adds as an argument, with one of its system calls failing; see `inject` in
/// strace(1).
pub fn injecting(call: &str, injection: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:{injection}")]);
    command
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// Sends a signal to a process group, as a terminal does.
pub fn signal_group(leader: u32, signal: Signal) {
    let _ = killpg(Pid::from_raw(leader as i32), signal);
}

/// Runs a client to its end, for at most [`PATIENCE`].
///
/// # Panics
/// If it cannot be started or does not end.
pub fn run(command: &mut Command) -> Output {
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (stdout, stderr) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let status = wait(&mut child);
    let what = format!("{command:?} has ended and closed its output");
    Output { status, stdout: join(stdout, &what), stderr: join(stderr, &what) }
}

/// Starts a program that may have just been copied. A process that another test forks meanwhile holds the copy open for
/// writing until it runs its own program.
///
/// # Panics
/// If it cannot be started.
pub fn spawn(command: &mut Command) -> Child {
    let start = Instant::now();
    loop {
        match command.spawn() {
            Ok(child) => return child,
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{command:?}: {error}"),
        }
    }
}

/// Joins a thread that reads a pipe. It only ends when the last process that holds the other end does.
fn join<T>(reader: JoinHandle<T>, what: &str) -> T {
    wait_until(what, || reader.is_finished());
    reader.join().expect("read")
}

fn read_all(from: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("waited") {
            return status;
        }
        if start.elapsed() > PATIENCE {
            let what_they_do = process::describe_tree(child.id());
            kill_tree(child);
            panic!("process {} did not end:\n{what_they_do}", child.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills a child and its descendants, and waits for the child.
pub(crate) fn kill_tree(child: &mut Child) {
    // Its number and those of its children only belong to them until the child is reaped.
    let below = process::descendants(child.id());
    let _ = child.kill();
    below.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    let _ = child.wait();
}

/// A running `batond`. Dropping it kills the master and every worker.
pub struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    /// The workers with which it came up.
    started: Vec<u32>,
    /// The folder of its control socket, if that was created here.
    folder: Option<TempDir>,
    /// The addresses on which it listens.
    pub addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts it on a loopback port that the kernel chooses, and waits until it listens.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(batond());
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        Self::start_command(command)
    }

    /// The same with TLS. The caller gives the certificate with the arguments.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_secured(arguments: &[&str]) -> Self {
        let mut command = Command::new(batond());
        command.args(["--listen", "tls://127.0.0.1:0"]).args(arguments);
        Self::start_command(command)
    }

    /// The same, with a control socket in a separate folder.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_controlled(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let control = folder.path().join("control");
        let mut server = Self::start(&[&["--control", control.to_str().expect("UTF-8")], arguments].concat());
        server.folder = Some(folder);
        server
    }

    /// Starts a command that ends by running batond; logs are in JSON.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_command(command: Command) -> Self {
        let expected = command.get_args().filter(|argument| *argument == "--listen").count().max(1);
        let mut server = Self::spawn(command);
        wait_until("batond listens", || {
            // After all workers are ready, batond logs a line for each address.
            let is_up = server.count_of("\"listening\"") >= expected;
            let ended = !is_up && server.child.try_wait().expect("waited").is_some();
            assert!(!ended, "batond ended: {:#?}", server.log());
            is_up
        });
        server.started = server.workers();
        let is_listening = |line: &&String| line.contains("\"listening\"");
        server.addresses = server.log().iter().filter(is_listening).filter_map(|line| address_in(line)).collect();
        server
    }

    /// Starts a command that logs nothing, and waits until it listens at `address`.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_unlogged(mut command: Command, address: SocketAddr) -> Self {
        let mut server = Self::spawn_as_it_is(&mut command);
        wait_until("it listens", || {
            let ended = server.child.try_wait().expect("waited").is_some();
            assert!(!ended, "{command:?} ended: {:#?}", server.log());
            TcpStream::connect_timeout(&address, PATIENCE).is_ok()
        });
        server.started = server.workers();
        server.addresses = vec![address];
        server
    }

    /// Starts a command without waiting for anything.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(mut command: Command) -> Self {
        if !command.get_args().any(|argument| argument == "--control") {
            // A machine has one default socket, and many tests run at the same time.
            command.args(["--control", "off"]);
        }
        command.args(["--log-format", "json"]);
        Self::spawn_as_it_is(&mut command)
    }

    fn spawn_as_it_is(command: &mut Command) -> Self {
        let mut arguments = command.get_args();
        if arguments.any(|argument| argument == "--control") && arguments.next().is_some_and(|path| path != "off") {
            // The test will use the control socket: build the client now, not while clients wait for answers.
            batonctl();
        }
        let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("piped");
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log.lock().expect("no panic").push(line);
                }
            }
        });
        Self { child, log, reader: Some(reader), started: Vec::new(), folder: None, addresses: Vec::new() }
    }

    /// The first address.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The master.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The workers, oldest first.
    pub fn workers(&self) -> Vec<u32> {
        process::children(self.pid())
    }

    /// The log so far.
    ///
    /// # Panics
    /// Never.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic").clone()
    }

    /// How many lines of the log contain `text`.
    pub fn count_of(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// The events of this kind in the log. Kinds have the names of `batonctl events --json`.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let lines = self.log().into_iter().filter(|line| line.contains(kind));
        lines.filter_map(|line| serde_json::from_str(&line).ok()).filter(|line: &Value| line["event"] == kind).collect()
    }

    /// Number of events of this kind in the log.
    pub fn count_of_events(&self, kind: &str) -> usize {
        self.events(kind).len()
    }

    /// Number of reloads that were refused or that failed.
    pub fn failed_reloads(&self) -> usize {
        self.count_of_events("not_reloaded") + self.count_of_events("taken_down")
    }

    /// The control socket of a server that [`Server::start_controlled`] started.
    ///
    /// # Panics
    /// If another function started it.
    pub fn control(&self) -> PathBuf {
        self.folder.as_ref().expect("a control socket").path().join("control")
    }

    /// Reloads by HUP, and waits until the new generation serves.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn reload(&self) {
        assert!(self.try_reload(), "{:#?}", self.log());
    }

    /// Reloads by HUP. Returns whether the new generation came up.
    ///
    /// # Panics
    /// If the log reports neither success nor failure in time.
    pub fn try_reload(&self) -> bool {
        let counts = || (self.count_of_events("serves"), self.failed_reloads());
        let before = counts();
        self.signal(Signal::SIGHUP);
        wait_until("the new generation serves or has failed", || counts() != before);
        counts().0 > before.0
    }

    /// Sends the master a signal.
    pub fn signal(&self, name: Signal) {
        signal(self.pid(), name);
    }

    /// The values of field `name` in the log, in order.
    pub fn logged_numbers(&self, name: &str) -> Vec<u64> {
        let lines = self.log().into_iter();
        lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok()?.get(name)?.as_u64()).collect()
    }

    /// Waits until it has ended by itself, and its whole log is read.
    ///
    /// # Panics
    /// If it does not end, or leaves a process behind: any would hold stderr open.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait(&mut self.child);
        if let Some(reader) = self.reader.take() {
            join(reader, "batond has ended and no process of it is left");
        }
        status
    }

    /// Waits until the master has ended, whichever other processes of its lineage live.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait_for_master(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Stops it, and checks that it ends normally and leaves no worker.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(mut self) {
        let workers = self.workers();
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
        wait_until("all workers are gone", || workers.iter().all(|pid| !process::is_alive(*pid)));
    }
}

fn address_in(line: &str) -> Option<SocketAddr> {
    serde_json::from_str::<Value>(line).ok()?.get("address")?.as_str()?.parse().ok()
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}{:#?}", process::describe_tree(self.pid()), self.log());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_tree(&mut self.child);
        } else {
            // Workers that outlived their master are recognised by their program, since process numbers are reused.
            let orphans = self.started.iter().filter(|pid| process::is_alive(**pid) && process::runs(**pid, &batond()));
            orphans.for_each(|pid| signal(*pid, Signal::SIGKILL));
        }
    }
}

/// A port on which no process listens now.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address").port()
}
