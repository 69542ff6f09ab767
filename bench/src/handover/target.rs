//! The actions on a server under load, and its processes.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::cpu::tree;

/// No action takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to check whether something has happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// How long a stopped worker stays stopped: far less than what makes its master consider it hung.
pub(super) const STANDSTILL: Duration = Duration::from_millis(300);

/// Something that happens to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Action {
    /// New workers with the configuration read again.
    Reload,
    /// One worker more, or one fewer, in turn.
    Scale,
    /// The binary takes over from itself.
    Upgrade,
    /// Both serve for a while, then the new one stays.
    HoldCommit,
    /// USR2, WINCH, then HUP to the old master and QUIT to the new one.
    #[value(name = "revert-1")]
    Revert1,
    /// USR2, WINCH, then TERM to the new master.
    #[value(name = "revert-2")]
    Revert2,
    /// SIGKILL to one worker.
    KillOne,
    /// SIGKILL to all workers at once.
    KillAll,
    /// One worker stands still for 300 ms (SIGSTOP, SIGCONT).
    StopCont,
    /// SIGKILL to the master, and a new one takes over.
    KillMaster,
}

impl Action {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// Whether requests that a worker was serving are lost with it.
    pub(super) fn kills_workers(self) -> bool {
        matches!(self, Self::KillOne | Self::KillAll)
    }
}

/// A server under load.
pub(super) trait Target {
    fn name(&self) -> &'static str;

    /// The address for clients.
    fn address(&self) -> SocketAddr;

    /// Its control socket, if it has one.
    fn control(&self) -> Option<PathBuf> {
        None
    }

    /// Its actions, in the default order.
    fn actions(&self) -> Vec<Action>;

    /// Performs an action, and returns when it is done as far as new clients are concerned.
    ///
    /// # Errors
    /// If it did not succeed.
    fn perform(&mut self, action: Action) -> Result<(), String>;

    /// Waits until what the action has left behind is gone: old workers, old masters.
    ///
    /// # Errors
    /// If it does not end.
    fn settle(&mut self) -> Result<(), String>;
}

/// Waits until `look` returns true.
///
/// # Errors
/// If it does not in time.
pub(crate) fn wait_until(what: &str, mut look: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        if Instant::now() > deadline {
            return Err(format!("waited for {} s until {what}", PATIENCE.as_secs()));
        }
        reap();
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// A free port, below the kernel's range for clients.
///
/// # Errors
/// If there is none.
pub(crate) fn free_port() -> Result<u16, String> {
    let start = 20_000 + (std::process::id() % 10_000) as u16;
    (start..32_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).ok_or("no port is free".to_owned())
}

pub(super) fn wait_listening(address: SocketAddr) -> Result<(), String> {
    wait_until("the server listens", || TcpStream::connect(address).is_ok())
}

/// Sends a signal; a process that has ended needs none.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// The children of a process that have not ended.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let own = |child: &u32| status_field(*child, 1) == pid.to_string();
    tree(pid).into_iter().filter(own).filter(|child| is_alive(*child)).collect()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    !matches!(process_state(pid).as_str(), "" | "Z" | "X")
}

/// Its state in proc(5), such as `R`; empty if the process has ended.
pub(crate) fn process_state(pid: u32) -> String {
    status_field(pid, 0)
}

/// A field of /proc/PID/stat after the name: 0 is the state, 1 the parent.
fn status_field(pid: u32, index: usize) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ').nth(index).unwrap_or_default().to_owned()
}

/// Reaps ended processes that are this one's children by now: masters whose own master has left.
pub(crate) fn reap() {
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
}

/// Ends every process that this one has started, and their descendants.
pub(super) fn end_all(first: &mut Child) {
    end_descendants();
    let _ = first.try_wait();
    reap();
}

/// The same if no caller has to wait for one of them.
pub(crate) fn end_descendants() {
    let own = std::process::id();
    let all = || tree(own).into_iter().filter(|pid| *pid != own && is_alive(*pid));
    for (signals, patience) in [(Signal::SIGTERM, Duration::from_secs(4)), (Signal::SIGKILL, PATIENCE)] {
        for pid in all() {
            signal(pid, Signal::SIGCONT);
            signal(pid, signals);
        }
        let deadline = Instant::now() + patience;
        while all().next().is_some() && Instant::now() < deadline {
            reap();
            thread::sleep(LOOK_INTERVAL);
        }
    }
    reap();
}

/// The process id in a file.
pub(super) fn read_pid(path: &std::path::Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
