//! batond: started here, or found running.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use baton::control::{Client, GenerationPhase, Reply, Request, Status, WorkerState};
use clap::ValueEnum as _;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::target::{
    Action, STANDSTILL, Target, children, end_all, free_port, is_alive, read_pid, signal, wait_listening, wait_until,
};

/// A server answers within this time, whatever it is doing.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Batond {
    address: SocketAddr,
    control: PathBuf,
    workers: usize,
    own: Option<Own>,
}

/// What was started here.
struct Own {
    folder: TempDir,
    first: Child,
    binary: PathBuf,
    tier: String,
}

impl Batond {
    /// Starts one from the folder of this program's own executable.
    pub(super) fn start(workers: usize, tier: &str) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
        let binary = program.with_file_name("batond");
        if !binary.exists() {
            return Err(format!("{} is not built; run cargo build --release --workspace --bins", binary.display()));
        }
        let folder = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let control = folder.path().join("control");
        let first = spawn(&binary, address, folder.path(), workers, tier)?;
        let own = Own { folder, first, binary, tier: tier.to_owned() };
        let this = Self { address, control, workers, own: Some(own) };
        wait_until("batond serves", || this.serves(workers))?;
        wait_listening(address)?;
        Ok(this)
    }

    /// Uses a running one.
    pub(super) fn attach(control: &Path, address: SocketAddr) -> Result<Self, String> {
        let mut this = Self { address, control: control.to_owned(), workers: 0, own: None };
        let status = this.status(control).map_err(|error| format!("{}: {error}", control.display()))?;
        this.workers = status.generations.last().map_or(0, |generation| generation.workers.len());
        Ok(this)
    }

    fn status(&self, control: &Path) -> Result<Status, String> {
        match ask(control, &Request::Status)? {
            Reply::Status(status) => Ok(status),
            other => Err(format!("the server answered {other:?}")),
        }
    }

    fn request(&self, request: &Request) -> Result<(), String> {
        match ask(&self.control, request)? {
            Reply::Done(_) => Ok(()),
            Reply::Failed(why) => Err(why.to_string()),
            other => Err(format!("the server answered {other:?}")),
        }
    }

    /// Whether this many workers serve, under the master that has the control socket's name.
    fn serves(&self, workers: usize) -> bool {
        self.status(&self.control).is_ok_and(|status| has_serving(&status, workers))
    }

    fn master(&self) -> Result<u32, String> {
        Ok(self.status(&self.control)?.pid)
    }

    /// The socket of a master that does not have the control socket's name.
    fn control_of(&self, pid: u32) -> PathBuf {
        let mut name = self.control.clone().into_os_string();
        name.push(format!(".{pid}"));
        PathBuf::from(name)
    }

    fn worker_pids(&self) -> Result<Vec<u32>, String> {
        let status = self.status(&self.control)?;
        let serving = status.generations.iter().filter(|generation| generation.phase == GenerationPhase::Serving);
        Ok(serving.flat_map(|generation| generation.workers.iter().filter_map(|worker| worker.pid)).collect())
    }

    fn upgrade(&self, hold: bool) -> Result<(), String> {
        self.request(&Request::Upgrade {
            binary: None,
            arguments: None,
            hold,
            probation_ms: None,
            timeout_ms: None,
            allow: Vec::new(),
            keep_connections: false,
        })
    }

    /// USR2 and WINCH to the master, as in nginx's manual. Returns the old master and the new one.
    fn upgrade_by_hand(&self) -> Result<(u32, u32), String> {
        let old = self.master()?;
        signal(old, Signal::SIGUSR2);
        wait_until("the new binary serves", || {
            self.status(&self.control).is_ok_and(|status| status.pid != old && has_serving(&status, self.workers))
        })?;
        let new = self.master()?;
        signal(old, Signal::SIGWINCH);
        let others = |pid: u32| children(pid).into_iter().filter(|child| *child != new).count();
        wait_until("the old workers have left", || others(old) == 0)?;
        Ok((old, new))
    }

    fn kill(&self, victims: &[u32]) -> Result<(), String> {
        victims.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        wait_until("killed workers are replaced", || {
            self.serves(self.workers)
                && self.worker_pids().is_ok_and(|pids| pids.iter().all(|pid| !victims.contains(pid)))
        })
    }

    fn kill_master(&mut self) -> Result<(), String> {
        let master = self.master()?;
        let Some(own) = &mut self.own else {
            return Err("kill-master needs a batond that baton-bench starts; remove --attach".to_owned());
        };
        signal(master, Signal::SIGKILL);
        wait_until("the master is gone", || !is_alive(master))?;
        let next = spawn(&own.binary, self.address, own.folder.path(), self.workers, &own.tier)?;
        own.first = next;
        wait_until("the next master serves", || {
            self.status(&self.control).is_ok_and(|status| status.pid != master && has_serving(&status, self.workers))
        })
    }
}

/// Whether this many workers serve.
pub(crate) fn has_serving(status: &Status, workers: usize) -> bool {
    status.generations.iter().any(|generation| {
        let ready = generation.workers.iter().filter(|worker| worker.state == WorkerState::Ready).count();
        generation.phase == GenerationPhase::Serving && ready == workers
    })
}

fn spawn(binary: &Path, address: SocketAddr, folder: &Path, workers: usize, tier: &str) -> Result<Child, String> {
    Command::new(binary)
        .args(["--listen", &address.to_string(), "--workers", &workers.to_string(), "--handover", tier])
        .arg("--control")
        .arg(folder.join("control"))
        .arg("--pid-file")
        .arg(folder.join("pid"))
        .args(["--log-level", "error"])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("{}: {error}", binary.display()))
}

/// Sends a request, and reads to the last reply.
pub(crate) fn ask(control: &Path, request: &Request) -> Result<Reply, String> {
    Client::ask(control, request, Some(ANSWER_PATIENCE)).map_err(|error| format!("the control socket: {error}"))
}

impl Target for Batond {
    fn name(&self) -> &'static str {
        "batond"
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn control(&self) -> Option<PathBuf> {
        Some(self.control.clone())
    }

    fn actions(&self) -> Vec<Action> {
        let all = Action::value_variants().iter().copied();
        all.filter(|action| self.own.is_some() || *action != Action::KillMaster).collect()
    }

    fn perform(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Reload => self.request(&Request::Reload),
            Action::Scale => {
                let now = self.worker_pids()?.len();
                let workers = if now > self.workers { self.workers } else { self.workers + 1 };
                self.request(&Request::Scale { workers })
            }
            Action::Upgrade => self.upgrade(false),
            Action::HoldCommit => {
                self.upgrade(true)?;
                self.request(&Request::Commit)
            }
            Action::Revert1 => {
                let (old, new) = self.upgrade_by_hand()?;
                signal(old, Signal::SIGHUP);
                let control = self.control_of(old);
                wait_until("the old workers serve again", || {
                    self.status(&control).is_ok_and(|status| has_serving(&status, self.workers))
                })?;
                signal(new, Signal::SIGQUIT);
                wait_until("the new master has left", || !is_alive(new))
            }
            Action::Revert2 => {
                let (_, new) = self.upgrade_by_hand()?;
                signal(new, Signal::SIGTERM);
                wait_until("the new master has left", || !is_alive(new))?;
                wait_until("the old workers serve again", || self.serves(self.workers))
            }
            Action::KillOne => {
                let victims: Vec<u32> = self.worker_pids()?.into_iter().take(1).collect();
                self.kill(&victims)
            }
            Action::KillAll => {
                let victims = self.worker_pids()?;
                self.kill(&victims)
            }
            Action::StopCont => {
                let victim = *self.worker_pids()?.first().ok_or("there is no worker")?;
                signal(victim, Signal::SIGSTOP);
                thread::sleep(STANDSTILL);
                signal(victim, Signal::SIGCONT);
                Ok(())
            }
            Action::KillMaster => self.kill_master(),
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        wait_until("old workers and masters have left", || {
            let Ok(status) = self.status(&self.control) else { return false };
            let is_single = status.generations.len() == 1 && status.upgrade.is_none();
            let pid_file = self.own.as_ref().map(|own| own.folder.path().join("pid"));
            is_single && pid_file.is_none_or(|path| read_pid(&path) == Some(status.pid))
        })
    }
}

impl Drop for Batond {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            end_all(&mut own.first);
        }
    }
}
