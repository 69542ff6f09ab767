//! A server as a process: started on a loopback port, waited for within bounds, ended when dropped.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a program cannot be found; says so.
pub(crate) fn is_missing(program: &str) -> bool {
    let is_found = std::env::var_os("PATH")
        .is_some_and(|folders| std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()));
    if !is_found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    !is_found
}

/// A running server; told to stop when dropped, and killed if it does not.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) port: u16,
}

impl Process {
    /// A redis-server that keeps nothing on disk, with this setting of `maxmemory`.
    pub(crate) fn redis(maxmemory: u64) -> Self {
        Self::start(|port| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]);
            command.arg(port.to_string());
            // The example's bound.
            command.args(["--proto-max-bulk-len", "64mb", "--maxmemory", &maxmemory.to_string()]);
            command
        })
    }

    /// Between finding a free port and the server's taking it, somebody else may; then another one is tried.
    pub(crate) fn start(command: impl Fn(u16) -> Command) -> Self {
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
}

impl Drop for Process {
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
