//! A server as a process: started on a loopback port, awaited within limits, ended when dropped.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than any expected event takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a program is not installed. If so, prints that.
pub(crate) fn is_missing(program: &str) -> bool {
    let is_found = std::env::var_os("PATH")
        .is_some_and(|folders| std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()));
    if !is_found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    !is_found
}

/// A running server. Dropping it stops the server, and kills it if it does not stop.
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
            // The example's limit.
            command.args(["--proto-max-bulk-len", "64mb", "--maxmemory", &maxmemory.to_string()]);
            command
        })
    }

    /// Between the choice of a free port and the server's bind, another process may take the port. Then another port is
    /// tried.
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
                // Check that it is not another process's server.
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
        // Twice: the second signal stops it at once.
        let _ = kill(pid, Signal::SIGTERM).and_then(|()| kill(pid, Signal::SIGTERM));
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(10) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
