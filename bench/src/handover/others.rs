//! nginx and HAProxy, controlled by their own signals.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::target::{
    Action, STANDSTILL, Target, children, end_all, free_port, is_alive, read_pid, signal, wait_listening, wait_until,
};

/// The executable with this name. nginx restarts itself by the name with which it was started, without searching for
/// it.
fn find(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut files = folders.map(|folder| folder.join(name));
    files.find(|file| file.is_file()).ok_or_else(|| format!("{name} is not installed"))
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    child.map_err(|error| format!("{program}: {error}"))
}

fn folder() -> Result<TempDir, String> {
    tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))
}

pub(super) struct Nginx {
    folder: TempDir,
    first: Child,
    address: SocketAddr,
    workers: usize,
    configured: usize,
}

impl Nginx {
    pub(super) fn start(workers: usize) -> Result<Self, String> {
        let binary = find("nginx")?;
        let folder = folder()?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        configure_nginx(&folder, address, workers)?;
        let mut command = Command::new(binary);
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        // In the background: a foreground nginx takes its parent for a master that it replaces, and refuses USR2.
        let first = spawn(&mut command)?;
        wait_until("nginx has a pid file", || read_pid(&folder.path().join("pid")).is_some())?;
        wait_listening(address)?;
        Ok(Self { folder, first, address, workers, configured: workers })
    }

    fn master(&self) -> Result<u32, String> {
        read_pid(&self.folder.path().join("pid")).ok_or("nginx has no pid file".to_owned())
    }

    fn configure(&mut self, workers: usize) -> Result<(), String> {
        self.configured = workers;
        configure_nginx(&self.folder, self.address, workers)
    }

    /// Sends HUP, and waits until every worker is a new one.
    fn reload(&self) -> Result<(), String> {
        let master = self.master()?;
        let before = children(master);
        signal(master, Signal::SIGHUP);
        wait_until("its workers are replaced", || {
            let now = children(master);
            now.iter().filter(|pid| !before.contains(pid)).count() == self.configured
        })
    }

    fn start_anew(&self) -> Result<(u32, u32), String> {
        let old = self.master()?;
        signal(old, Signal::SIGUSR2);
        wait_until("the new one serves", || {
            self.master().is_ok_and(|new| new != old && children(new).len() == self.configured)
        })?;
        Ok((old, self.master()?))
    }

    fn upgrade_by_hand(&self) -> Result<(u32, u32), String> {
        let (old, new) = self.start_anew()?;
        signal(old, Signal::SIGWINCH);
        wait_until("the old workers have left", || children(old).iter().all(|pid| *pid == new))?;
        Ok((old, new))
    }

    fn kill(&self, victims: &[u32]) -> Result<(), String> {
        let master = self.master()?;
        victims.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        wait_until("killed workers are replaced", || {
            let workers = children(master);
            workers.len() == self.configured && workers.iter().all(|pid| !victims.contains(pid))
        })
    }
}

fn configure_nginx(folder: &TempDir, address: SocketAddr, workers: usize) -> Result<(), String> {
    let path = |name: &str| folder.path().join(name).display().to_string();
    // Without `user`, nginx's workers could not read the folder.
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let text = format!(
        "{user} worker_processes {workers}; pid {}; error_log {} crit; events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; server {{ listen {address} reuseport backlog=4096;\n\
         location / {{ return 200 \"Hello, World!\"; }} }} }}\n",
        path("pid"),
        path("log"),
    );
    fs::write(folder.path().join("nginx.conf"), text).map_err(|error| format!("nginx.conf: {error}"))
}

impl Target for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn actions(&self) -> Vec<Action> {
        use Action::{HoldCommit, KillAll, KillOne, Reload, Revert1, Revert2, Scale, StopCont, Upgrade};
        vec![Reload, Scale, Upgrade, HoldCommit, Revert1, Revert2, KillOne, KillAll, StopCont]
    }

    fn perform(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Reload => self.reload(),
            Action::Scale => {
                self.configure(if self.configured > self.workers { self.workers } else { self.workers + 1 })?;
                self.reload()
            }
            Action::Upgrade => {
                let (old, _) = self.upgrade_by_hand()?;
                signal(old, Signal::SIGQUIT);
                wait_until("the old master has left", || !is_alive(old))
            }
            Action::HoldCommit => {
                let (old, _) = self.start_anew()?;
                signal(old, Signal::SIGQUIT);
                wait_until("the old master has left", || !is_alive(old))
            }
            Action::Revert1 => {
                let (old, new) = self.upgrade_by_hand()?;
                signal(old, Signal::SIGHUP);
                wait_until("old workers are back", || children(old).len() == self.configured + 1)?;
                signal(new, Signal::SIGQUIT);
                wait_until("the new master has left", || !is_alive(new))
            }
            Action::Revert2 => {
                let (old, new) = self.upgrade_by_hand()?;
                signal(new, Signal::SIGTERM);
                wait_until("old workers are back", || !is_alive(new) && children(old).len() == self.configured)
            }
            Action::KillOne => {
                let victims: Vec<u32> = children(self.master()?).into_iter().take(1).collect();
                self.kill(&victims)
            }
            Action::KillAll => {
                let victims = children(self.master()?);
                self.kill(&victims)
            }
            Action::StopCont => stand_still(children(self.master()?).first().copied()),
            Action::KillMaster => Err("nginx cannot take workers over".to_owned()),
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        wait_until("old workers have left", || {
            self.master().is_ok_and(|master| children(master).len() == self.configured)
        })
    }
}

fn stand_still(worker: Option<u32>) -> Result<(), String> {
    let worker = worker.ok_or("there is no worker")?;
    signal(worker, Signal::SIGSTOP);
    thread::sleep(STANDSTILL);
    signal(worker, Signal::SIGCONT);
    Ok(())
}

impl Drop for Nginx {
    fn drop(&mut self) {
        end_all(&mut self.first);
    }
}

pub(super) struct Haproxy {
    folder: TempDir,
    first: Child,
    address: SocketAddr,
    threads: usize,
    configured: usize,
}

impl Haproxy {
    pub(super) fn start(threads: usize) -> Result<Self, String> {
        let binary = find("haproxy")?;
        let folder = folder()?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        configure_haproxy(&folder, address, threads)?;
        let first = spawn(Command::new(binary).arg("-W").arg("-f").arg(folder.path().join("haproxy.cfg")))?;
        wait_listening(address)?;
        Ok(Self { folder, first, address, threads, configured: threads })
    }

    /// USR2: the master executes its binary again, which starts a worker that gets the listen sockets from the old one.
    fn reload(&self) -> Result<(), String> {
        let master = self.first.id();
        let before = children(master);
        signal(master, Signal::SIGUSR2);
        wait_until("a new worker serves", || {
            let socket = self.folder.path().join("stats");
            children(master).iter().any(|pid| !before.contains(pid)) && socket.exists()
        })?;
        // The new worker tells the old one to leave when it serves.
        wait_until("the old worker leaves", || children(master).len() == 1)
    }
}

fn configure_haproxy(folder: &TempDir, address: SocketAddr, threads: usize) -> Result<(), String> {
    let text = format!(
        "global\n  nbthread {threads}\n  hard-stop-after 10s\n  stats socket {} level admin expose-fd listeners\n\
         defaults\n  mode http\n  timeout client 60s\n  timeout connect 5s\n  timeout server 60s\n\
         frontend f\n  bind {address} backlog 4096\n  \
         http-request return status 200 content-type text/plain string \"Hello, World!\"\n",
        folder.path().join("stats").display()
    );
    fs::write(folder.path().join("haproxy.cfg"), text).map_err(|error| format!("haproxy.cfg: {error}"))
}

impl Target for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn actions(&self) -> Vec<Action> {
        // When a worker dies, all of HAProxy ends. An upgrade cannot be reverted.
        vec![Action::Reload, Action::Scale, Action::Upgrade, Action::StopCont]
    }

    fn perform(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Reload | Action::Upgrade => self.reload(),
            Action::Scale => {
                self.configured = if self.configured > self.threads { self.threads } else { self.threads + 1 };
                configure_haproxy(&self.folder, self.address, self.configured)?;
                self.reload()
            }
            Action::StopCont => stand_still(children(self.first.id()).first().copied()),
            _ => Err("HAProxy does not have this action".to_owned()),
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        wait_until("one worker is left", || children(self.first.id()).len() == 1)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        end_all(&mut self.first);
    }
}
