//! nginx under the same clients, for comparison: the losses when it is reloaded, loses a worker, or is upgraded and
//! reverted as its manual says. Reported, not asserted.
//!
//! Run with: `cargo test --release -p baton-tests --test promise nginx -- --ignored --nocapture`

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use baton_tests::churn::{Churn, Phase};
use baton_tests::namespace::run;
use baton_tests::process::{children, is_alive, kill_descendants};
use baton_tests::program::{is_installed, signal};
use baton_tests::{skip, wait_until};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use tempfile::TempDir;

use super::case::{Case, Expected, conclude, wait_for_answers};

struct Nginx {
    folder: TempDir,
    /// The first master.
    pid: u32,
}

const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 8080);

impl Nginx {
    fn start(workers: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut this = Self { folder, pid: 0 };
        this.configure(workers);
        // It restarts itself by the name with which it was started, without searching for it.
        let path = std::env::var_os("PATH").expect("a path");
        let binary = std::env::split_paths(&path).map(|folder| folder.join("nginx")).find(|path| path.is_file());
        let mut command = Command::new(binary.expect("it is installed"));
        let status = command.arg("-p").arg(this.folder.path()).arg("-c").arg(this.path("nginx.conf")).status();
        assert!(status.expect("it starts").success());
        wait_until("it listens", || TcpStream::connect(SocketAddr::from(ADDRESS)).is_ok());
        this.pid = this.read_pid("pid").expect("a pid file");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, workers: usize) {
        // Without `user`, nginx's workers could not read the folder.
        let text = format!(
            "user root; worker_processes {workers}; pid {}; error_log {} crit; events {{}}\n\
             http {{ access_log off; server {{ listen 127.0.0.1:{} reuseport backlog=4096;\n\
             location / {{ return 200 \"Hello, World!\"; }} }} }}\n",
            self.path("pid").display(),
            self.path("log").display(),
            ADDRESS.1
        );
        fs::write(self.path("nginx.conf"), text).expect("written");
    }

    fn read_pid(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.path(name)).ok()?.trim().parse().ok()
    }

    /// Starts the binary again, and lets the old workers leave. Returns the new master.
    fn upgrade(&self) -> u32 {
        signal(self.pid, Signal::SIGUSR2);
        wait_until("the new one serves", || {
            let new = self.read_pid("pid").filter(|pid| *pid != self.pid);
            self.path("pid.oldbin").exists() && new.is_some_and(|pid| !children(pid).is_empty())
        });
        let new = self.read_pid("pid").expect("a pid file");
        signal(self.pid, Signal::SIGWINCH);
        wait_until("the old workers have left", || children(self.pid).iter().all(|pid| *pid == new || !is_alive(*pid)));
        new
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        kill_descendants();
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
    }
}

fn measure(what: &str, workers: usize, action: impl Fn(&Nginx, &Churn)) {
    let nginx = Nginx::start(workers);
    let churn = Churn::start(ADDRESS.into(), 8);
    wait_for_answers(&churn, 500);
    churn.begin_phase(Phase::During);
    action(&nginx, &churn);
    churn.begin_phase(Phase::Steady);
    wait_for_answers(&churn, 500);
    conclude(what, &Case::new("nginx", workers), Expected::Anything, &churn.finish());
}

#[test]
#[ignore = "a measurement of nginx, for comparison"]
fn what_nginx_loses_is_reported() {
    if !is_installed("nginx") {
        skip("nginx is not installed");
        return;
    }
    run("nginx::what_nginx_loses_is_reported", || {
        set_child_subreaper(true).expect("set");
        measure("60 reloads, workers 4 to 2 and back", 4, |nginx, _| {
            for round in 0..60 {
                let workers = if round % 2 == 0 { 2 } else { 4 };
                nginx.configure(workers);
                signal(nginx.pid, Signal::SIGHUP);
                wait_until("its workers are replaced", || children(nginx.pid).len() == workers);
            }
        });
        measure("10 times a worker killed", 2, |nginx, churn| {
            for _ in 0..10 {
                let victim = children(nginx.pid)[0];
                signal(victim, Signal::SIGKILL);
                wait_until("it is replaced", || {
                    let workers = children(nginx.pid);
                    workers.len() == 2 && !workers.contains(&victim)
                });
                wait_for_answers(churn, 200);
            }
        });
        for _ in 0..3 {
            measure("upgrade: USR2, WINCH, QUIT to the old", 2, |nginx, _| {
                nginx.upgrade();
                signal(nginx.pid, Signal::SIGQUIT);
                wait_until("the old one has left", || !is_alive(nginx.pid));
            });
            measure("revert 1: USR2, WINCH, HUP to the old, QUIT to the new", 2, |nginx, _| {
                let new = nginx.upgrade();
                signal(nginx.pid, Signal::SIGHUP);
                wait_until("old workers are back", || children(nginx.pid).len() == 3);
                signal(new, Signal::SIGQUIT);
                wait_until("the new one has left", || !is_alive(new));
            });
            measure("revert 2: USR2, WINCH, TERM to the new", 2, |nginx, _| {
                let new = nginx.upgrade();
                signal(new, Signal::SIGTERM);
                wait_until("old workers are back", || !is_alive(new) && children(nginx.pid).len() == 2);
            });
        }
    });
}
