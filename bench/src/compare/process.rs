//! A server under test as a process: starts it on a core of its own, waits for it, measures it, ends it.

use std::fs;
use std::io::{self, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cpu::tree;

const START_PATIENCE: Duration = Duration::from_secs(10);
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Ends the server when dropped, by its pid.
pub(crate) struct Running {
    child: Child,
    /// The folder for files that it writes; removed when this is dropped.
    _folder: TempDir,
}

impl Running {
    /// Starts a command, pinned to a core if one is given, and waits until it listens.
    ///
    /// # Errors
    /// Includes what the server wrote.
    pub(crate) fn start(command: &str, core: Option<usize>, port: u16) -> Result<Self, String> {
        let folder = TempDir::new().map_err(|error| format!("a temporary folder: {error}"))?;
        let said = tempfile::tempfile().map_err(|error| format!("a temporary file: {error}"))?;
        let output = || said.try_clone().map_or(Stdio::null(), Stdio::from);
        // PR_SET_PDEATHSIG outlives execve(2): the server ends with this process, in whatever way this ends.
        let pinned = core.map(|core| ["taskset".to_owned(), "-c".to_owned(), core.to_string()]);
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .args(pinned.iter().flatten())
            .args(["sh", "-c", &format!("exec {command}")])
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .spawn()
            .map_err(|error| format!("setpriv (of util-linux): {error}"))?;
        let mut running = Self { child, _folder: folder };
        let deadline = Instant::now() + START_PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let status = running.child.try_wait().map_err(|error| error.to_string())?;
            if let Some(status) = status {
                return Err(format!("it ended at once ({status}){}", last_words(said)));
            }
            if Instant::now() > deadline {
                return Err(format!("it does not listen on port {port}: {command}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory of all its processes together, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        tree(self.pid()).into_iter().map(memory_bytes).sum()
    }
}

/// Memory of a process, with its share of memory that it shares with others, in bytes.
pub(crate) fn memory_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    kilobytes(&text, "Pss:") * 1024
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        for pid in tree(self.child.id()) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// The kernel's memory that grows with connections, in bytes.
pub(crate) fn kernel_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    ["Slab:", "KernelStack:", "PageTables:", "Percpu:"].iter().map(|name| kilobytes(&text, name) * 1024).sum()
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn last_words(mut said: fs::File) -> String {
    let mut text = String::new();
    let _ = io::Seek::rewind(&mut said);
    let _ = said.read_to_string(&mut text);
    text.lines().rev().find(|line| !line.trim().is_empty()).map_or(String::new(), |line| format!(": {line}"))
}
