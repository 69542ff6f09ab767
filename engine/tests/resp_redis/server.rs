//! The example `resp` and redis-server, and the requests that both can get.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{PATIENCE, Process};

/// The example, built in the same way as this test.
fn example() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| crate::common::example("resp"))
}

/// A running server.
pub(crate) struct Server(Process);

impl Server {
    /// With this setting of `maxmemory`.
    pub(crate) fn example(maxmemory: u64) -> Self {
        Self(Process::start(|port| {
            let mut command = Command::new(example());
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--maxmemory", &maxmemory.to_string()]);
            command
        }))
    }

    /// With this setting of `maxmemory`.
    pub(crate) fn redis(maxmemory: u64) -> Self {
        Self(Process::redis(maxmemory))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.0.port)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        stream.set_nodelay(true).expect("set");
        stream
    }

    /// All its answers to this input until it closes.
    pub(crate) fn converse(&self, input: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        let mut output = Vec::new();
        // The server may have closed before it has read everything.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(Shutdown::Write);
        let ended = stream.read_to_end(&mut output);
        let is_reset = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(ended.is_ok() || is_reset, "{ended:?}");
        output
    }
}

/// Runs one of Redis's own programs with `input`, to its end.
pub(crate) fn run(program: &str, server: &Server, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &server.0.port.to_string()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let pid = Pid::from_raw(child.id() as i32);
    let (ended, has_ended) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // It is not an error if a program does not read its input.
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
