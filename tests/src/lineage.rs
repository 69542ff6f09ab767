//! A server through all of its masters.

use std::fs;
use std::path::PathBuf;
use std::thread::JoinHandle;

use baton::control::{EventKind, Failure, Outcome, Status, UpgradeState};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::control::{self, Answer};
use crate::process::{children, descendants, is_alive, kill_descendants, open_files};
use crate::program::Server;
use crate::wait_until;

/// A server and its control socket's folder.
pub struct Lineage {
    folder: TempDir,
    /// The first master, and the log of all of them.
    pub first: Server,
    workers: usize,
    name: String,
}

impl Lineage {
    /// Starts the first master. `start` gets the paths of a control socket and of a pid file, which it must use.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(workers: usize, start: impl FnOnce(&str, &str) -> Server) -> Self {
        // Masters whose parent has ended become children of this process, and end with it.
        set_child_subreaper(true).expect("set");
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let first = start(&path("control"), &path("pid"));
        let name = name_of(first.pid()).expect("it lives");
        Self { folder, first, workers, name }
    }

    /// Its control socket.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// A file beside its control socket.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The master that the pid file names.
    ///
    /// # Panics
    /// If there is none.
    pub fn master(&self) -> u32 {
        let text = fs::read_to_string(self.folder.path().join("pid")).expect("a pid file");
        text.trim().parse().expect("a number")
    }

    /// Runs batonctl.
    ///
    /// # Panics
    /// If it does not end.
    pub fn ask(&self, arguments: &[&str]) -> Answer {
        control::ask(&self.control(), arguments)
    }

    /// The same for a command that must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn done(&self, arguments: &[&str]) -> Outcome {
        self.ask(arguments).done()
    }

    /// The same for a command that must be refused or fail.
    ///
    /// # Panics
    /// If it succeeds.
    pub fn failed(&self, arguments: &[&str]) -> Failure {
        self.ask(arguments).failed()
    }

    /// Starts batonctl in the background.
    pub fn begin(&self, arguments: &[&str]) -> JoinHandle<Answer> {
        let control = self.control();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        std::thread::spawn(move || control::ask(&control, &arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// The status of the master that has the control socket's name.
    ///
    /// # Panics
    /// If there is none.
    pub fn status(&self) -> Status {
        control::status(&self.control()).expect("a status")
    }

    /// The status of another master, after a master took over the name of its control socket.
    pub fn status_of(&self, master: u32) -> Option<Status> {
        control::status(&self.control_of(master))
    }

    /// The control socket of a master, after another one took over its name.
    pub fn control_of(&self, master: u32) -> PathBuf {
        self.folder.path().join(format!("control.{master}"))
    }

    /// Waits until the upgrade that `old` has begun is on probation.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn wait_for_probation(&self, old: u32) {
        wait_until("it is on probation", || {
            self.status_of(old).is_some_and(|status| status.upgrade == Some(UpgradeState::Probation))
        });
    }

    /// Number of such events so far.
    pub fn count_events(&self, is_it: impl Fn(&EventKind) -> bool) -> usize {
        control::events(&self.control()).iter().filter(|event| is_it(event)).count()
    }

    /// Whether such an event has happened.
    pub fn has_event(&self, is_it: impl Fn(&EventKind) -> bool) -> bool {
        self.count_events(is_it) > 0
    }

    /// Reaps ended masters that have become children of this process.
    pub fn reap(&self) {
        let others = children(std::process::id()).into_iter().filter(|pid| *pid != self.first.pid());
        for pid in others.filter(|pid| !is_alive(*pid) && self.is_member(*pid)) {
            let _ = waitpid(Pid::from_raw(pid as i32), Some(WaitPidFlag::WNOHANG));
        }
    }

    /// Waits until there is one master with its workers, and the pid file names it.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn settle(&self) {
        wait_until("one master is left", || {
            self.reap();
            let master = self.master();
            self.masters() == [master] && children(master).len() == self.workers
        });
    }

    /// All living masters.
    pub fn masters(&self) -> Vec<u32> {
        descendants(std::process::id()).into_iter().filter(|pid| self.is_master(*pid)).collect()
    }

    /// All living workers of any master.
    pub fn workers(&self) -> Vec<u32> {
        let is_worker = |pid: &u32| self.is_member(*pid) && is_alive(*pid) && !self.is_master(*pid);
        descendants(std::process::id()).into_iter().filter(is_worker).collect()
    }

    /// Whether the process is a master, and not a worker that another process of the lineage has forked.
    fn is_master(&self, pid: u32) -> bool {
        // Workers have rings, masters have none.
        let has_ring = open_files(pid).iter().any(|file| file.ends_with("anon_inode:[io_uring]"));
        self.is_member(pid) && is_alive(pid) && !has_ring
    }

    fn is_member(&self, pid: u32) -> bool {
        name_of(pid).as_ref() == Some(&self.name)
    }
}

fn name_of(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

impl Drop for Lineage {
    fn drop(&mut self) {
        kill_descendants();
    }
}
