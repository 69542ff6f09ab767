//! Programs under test and their clients: built once, started, watched, ended.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{PATIENCE, process, wait_until};

/// The `batond` of this workspace, built as this test was.
///
/// # Panics
/// If it cannot be built.
pub fn batond() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["--package", "batond"]))
}

/// The example `resp` of the engine.
///
/// # Panics
/// If it cannot be built.
pub fn resp() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["--package", "baton", "--example", "resp"]))
}

fn build(what: &[&str]) -> PathBuf {
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
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let path = built.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?))).next_back();
    path.expect("cargo names the executable")
}

/// Whether a program can be found.
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|folders| std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()))
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// Runs a client to its end, for [`PATIENCE`] at most.
///
/// # Panics
/// If it cannot be started or does not end.
pub fn run(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let status = wait(&mut child);
    Output { status, stdout: stdout.join().expect("read"), stderr: stderr.join().expect("read") }
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
    let pid = child.id();
    let mut status = None;
    let start = std::time::Instant::now();
    while status.is_none() {
        status = child.try_wait().expect("waited");
        if status.is_none() && start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("process {pid} did not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    status.expect("just seen")
}

/// A running `batond`. Dropping it kills the master and every worker.
pub struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts it on a loopback port the kernel chooses, and waits until it listens.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(batond());
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        Self::start_command(command)
    }

    /// Starts a command that becomes batond in the end; logs are in JSON.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_command(command: Command) -> Self {
        let mut server = Self::spawn(command);
        let mut seen = 0;
        wait_until("batond listens", || {
            seen = server.count_of("\"listening\"");
            let ended = server.child.try_wait().expect("waited").is_some();
            assert!(!ended, "batond ended: {:#?}", server.log());
            // All addresses are logged in one go, after all workers are ready.
            seen > 0 && server.count_of("worker ready") > 0
        });
        let is_listening = |line: &&String| line.contains("\"listening\"");
        server.addresses = server.log().iter().filter(is_listening).filter_map(|line| address_in(line)).collect();
        server
    }

    /// Starts a command without waiting for anything.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(mut command: Command) -> Self {
        command.args(["--log-format", "json"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
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
        Self { child, log, reader: Some(reader), addresses: Vec::new() }
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

    /// What it has logged so far.
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

    /// Sends the master a signal.
    pub fn signal(&self, name: Signal) {
        signal(self.pid(), name);
    }

    /// Waits until it has ended by itself, and all it logged is read.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait(&mut self.child);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("read");
        }
        status
    }

    /// Tells it to stop and checks that it does so in good order, leaving no worker.
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
    serde_json::from_str::<serde_json::Value>(line).ok()?.get("address")?.as_str()?.parse().ok()
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let workers = self.workers();
            let _ = self.child.kill();
            workers.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
            let _ = self.child.wait();
        }
    }
}

/// Some other server, killed with its children when dropped.
pub struct Peer(Child);

impl Peer {
    /// Starts it and waits until somebody listens on `port` of 127.0.0.1.
    ///
    /// # Panics
    /// If nobody does.
    pub fn start(command: &mut Command, port: u16) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut peer = Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        wait_until("it listens", || {
            assert!(peer.0.try_wait().expect("waited").is_none(), "{command:?} ended");
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let children = process::children(self.0.id());
        let _ = self.0.kill();
        children.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
        let _ = self.0.wait();
    }
}

/// A port nobody listens on now.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address").port()
}
