//! The example `resp` and redis-server as processes: started on loopback, ended when dropped, waited for within bounds.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a program cannot be found; says so.
pub(crate) fn is_missing(program: &str) -> bool {
    let is_found = std::env::var_os("PATH")
        .is_some_and(|folders| std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()));
    if !is_found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    !is_found
}

/// The example, built as this test was.
fn example() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args([
            "build",
            "--quiet",
            "--package",
            "baton-engine",
            "--example",
            "resp",
            "--message-format",
            "json",
        ]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = output.stdout.split(|byte| *byte == b'\n');
        let built = messages.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
        let path = built.filter_map(|message| Some(message.get("executable")?.as_str()?.into())).next_back();
        path.expect("cargo names the executable")
    })
}

/// A running server; told to stop when dropped, and killed if it does not.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn example() -> Self {
        Self::start(|port| {
            let mut command = Command::new(example());
            command.args(["--listen", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    pub(crate) fn redis() -> Self {
        Self::start(|port| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]);
            command.arg(port.to_string());
            // The example's bound.
            command.args(["--proto-max-bulk-len", "64mb"]);
            command
        })
    }

    /// Between finding a free port and the server's taking it, somebody else may; then another one is tried.
    fn start(command: impl Fn(u16) -> Command) -> Self {
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let port = free.expect("a free port").port();
            let mut command = command(port);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            let mut server = Self { child, port };
            if server.is_up() {
                return server;
            }
        }
        panic!("{:?} does not stay up", command(0));
    }

    fn is_up(&mut self) -> bool {
        let start = Instant::now();
        while self.child.try_wait().expect("waited").is_none() {
            assert!(start.elapsed() < PATIENCE, "it does not listen");
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                // Not somebody else's.
                return self.child.try_wait().expect("waited").is_none();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        stream.set_nodelay(true).expect("set");
        stream
    }

    /// All it says to this input until it closes.
    pub(crate) fn converse(&self, input: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        let mut output = Vec::new();
        // It may have closed before it has taken everything.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(Shutdown::Write);
        let ended = stream.read_to_end(&mut output);
        let is_reset = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(ended.is_ok() || is_reset, "{ended:?}");
        output
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let start = Instant::now();
        // Twice: stop, and at once.
        let _ = kill(pid, Signal::SIGTERM).and_then(|()| kill(pid, Signal::SIGTERM));
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(10) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Runs one of Redis's own programs with `input`, to its end.
pub(crate) fn run(program: &str, server: &Server, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &server.port.to_string()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let pid = Pid::from_raw(child.id() as i32);
    let (ended, has_ended) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read it is not at fault.
            let _ = stdin.write_all(input);
        });
        scope.spawn(move || {
            if has_ended.recv_timeout(PATIENCE).is_err() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let output = child.wait_with_output().expect("it ends");
        let _ = ended.send(());
        assert!(output.status.success(), "{command:?}: {output:?}");
        output
    })
}
