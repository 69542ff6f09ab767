//! Workers that serve as another user: whatever is done to the server, none of them keeps a privilege.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use baton::control::WorkerState;
use baton_tests::client::assert_served;
use baton_tests::control;
use baton_tests::namespace::has_users;
use baton_tests::process::is_alive;
use baton_tests::program::{Server, batond, is_installed, run, signal};
use baton_tests::{skip, wait_until};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

const USER: &str = "nobody";

/// Returns `false`, with a message, if this test cannot give up privileges.
fn may_become_others() -> bool {
    if !geteuid().is_root() || !has_users() {
        return !skip("serving as another user needs root");
    }
    true
}

/// Lines of `/proc/PID/status`.
fn status(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().replace('\t', " "))).collect()
}

fn assert_no_capability(status: &BTreeMap<String, String>) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set].trim_matches('0'), "", "{set}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
}

/// Workers that are ready: each was forked as root, and has given up root by then.
fn ready(control: &Path) -> Vec<u32> {
    let status = control::status(control);
    let generations = status.into_iter().flat_map(|status| status.generations);
    let workers = generations.flat_map(|generation| generation.workers);
    workers.filter(|worker| worker.state == WorkerState::Ready).filter_map(|worker| worker.pid).collect()
}

/// Checks that each worker has only the identity of [`USER`], and that there are this many.
fn assert_without_privileges(server: &Server, control: &Path, workers: usize) {
    wait_until("the workers are there", || {
        let all: BTreeSet<u32> = server.workers().into_iter().collect();
        all.len() == workers && ready(control).into_iter().collect::<BTreeSet<u32>>() == all
    });
    let user = User::from_name(USER).expect("looked up").expect("a user");
    for pid in server.workers() {
        let status = status(pid);
        let four = |number: u32| [number.to_string().as_str(); 4].join(" ");
        assert_eq!(status["Uid"], four(user.uid.as_raw()));
        assert_eq!(status["Gid"], four(user.gid.as_raw()));
        assert_no_capability(&status);
        assert!(!status["Groups"].split(' ').any(|group| group == "0"), "{}", status["Groups"]);
    }
    assert_served(server.address());
}

fn start(tier: &str, control: &Path, address: &str) -> Server {
    let mut command = Command::new(batond());
    command.args(["--listen", address, "--workers", "2", "--handover", tier, "--settle-ms", "50", "--user", USER]);
    command.args(["--hang-ms", "400"]).arg("--control").arg(control);
    Server::start_command(command)
}

fn prove(tier: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let control = folder.path().join("control");
    let server = start(tier, &control, "127.0.0.1:0");
    assert_without_privileges(&server, &control, 2);
    control::ask(&control, &["reload"]).done();
    assert_without_privileges(&server, &control, 2);
    control::ask(&control, &["scale", "3"]).done();
    assert_without_privileges(&server, &control, 3);
    for name in [Signal::SIGKILL, Signal::SIGSTOP] {
        let ended = server.workers()[0];
        signal(ended, name);
        wait_until("it is replaced", || !server.workers().contains(&ended));
        assert_without_privileges(&server, &control, 3);
    }
    // The next master finds workers without privileges, and they leave.
    let workers = server.workers();
    server.signal(Signal::SIGKILL);
    wait_until("the workers notice", || server.count_of("the master is gone") == 3);
    let next = start(tier, &control, &server.address().to_string());
    wait_until("they have left", || workers.iter().all(|pid| !is_alive(*pid)));
    assert_without_privileges(&next, &control, 2);
    next.stop();
}

#[test]
fn workers_keep_no_privilege_whatever_is_done() {
    if may_become_others() {
        prove("auto");
        prove("adopt");
    }
}

#[test]
fn without_root_another_user_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("batond");
    fs::copy(batond(), &copy).expect("copied");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("set");
    let mut command = Command::new(copy);
    if geteuid().is_root() {
        if !has_users() {
            skip("this user namespace has one user");
            return;
        }
        command.uid(65_534);
    }
    let output = run(command.args(["--check", "--user", "root"]));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("batond: error: --user: "), "{stderr}");
}

#[test]
fn a_folder_that_workers_could_not_read_is_refused_before_any_is_started() {
    if !may_become_others() {
        return;
    }
    let above = tempfile::tempdir().expect("a folder");
    fs::set_permissions(above.path(), Permissions::from_mode(0o711)).expect("set");
    let folder = above.path().join("site");
    fs::create_dir(&folder).expect("a folder");
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    let run_as = |flags: &[&str]| {
        let mut command = Command::new(batond());
        command.args(["--listen", "127.0.0.1:0", "--control", "off", "--static"]);
        let output = run(command.arg(format!("/s/={}", folder.display())).args(flags));
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let advice = format!("give user {USER:?} permissions r and x on it, and x on the folders above it");
    let refusal = format!(
        "batond: error: --static: cannot read the folder {}: Permission denied (os error 13); {advice}\n",
        folder.display()
    );
    for (mode_above, mode_of_folder) in [(0o711, 0o700), (0o711, 0o711), (0o700, 0o755)] {
        mode(above.path(), mode_above);
        mode(&folder, mode_of_folder);
        for flags in [&["--check", "--user", USER][..], &["--user", USER]] {
            assert_eq!(run_as(flags), (Some(2), refusal.clone()), "{mode_above:o} {mode_of_folder:o} {flags:?}");
        }
        // Root reads the file.
        assert_eq!(run_as(&["--check"]), (Some(0), String::new()));
    }
    mode(above.path(), 0o711);
    mode(&folder, 0o755);
    assert_eq!(run_as(&["--check", "--user", USER]), (Some(0), String::new()));
}

#[test]
fn a_reload_to_a_folder_that_workers_could_not_read_changes_nothing() {
    if !may_become_others() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("set");
    fs::write(folder.path().join("page"), "page").expect("written");
    let server = Server::start(&["--user", USER, "--static", &format!("/s/={}", folder.path().display())]);
    let workers = server.workers();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).expect("set");
    assert!(!server.try_reload());
    let [refused] = &server.events("not_reloaded")[..] else { panic!("{:#?}", server.log()) };
    let names_folder = refused["message"].as_str().is_some_and(|text| text.contains(&*folder.path().to_string_lossy()));
    assert!(names_folder && server.workers() == workers, "{refused}");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("set");
    server.reload();
    server.stop();
}

/// Each leaves capabilities to a process that becomes another user.
const STARTS: [&[&str]; 2] = [
    &["--securebits", "+no_setuid_fixup"],
    &["--inh-caps", "+net_raw,+sys_admin", "--ambient-caps", "+net_raw,+sys_admin"],
];

#[test]
fn no_capability_is_left_however_the_server_was_started() {
    if !may_become_others() || (!is_installed("setpriv") && skip("setpriv is not installed")) {
        return;
    }
    for start in STARTS {
        for sandbox in ["auto", "off"] {
            let mut command = Command::new("setpriv");
            let folder = tempfile::tempdir().expect("a folder");
            let control = folder.path().join("control");
            command.args(start).arg(batond()).args(["--listen", "127.0.0.1:0", "--user", USER, "--sandbox", sandbox]);
            command.arg("--control").arg(&control);
            let server = Server::start_command(command);
            assert_without_privileges(&server, &control, 1);
            server.stop();
        }
    }
}

#[test]
fn workers_of_root_keep_no_capability_that_they_do_not_serve_with() {
    if !geteuid().is_root() {
        skip("root alone has capabilities");
        return;
    }
    let server = Server::start_controlled(&["--workers", "2", "--settle-ms", "50"]);
    for request in ["reload", "scale 3", "scale 1"] {
        control::ask(&server.control(), &request.split(' ').collect::<Vec<_>>()).done();
        server.workers().into_iter().for_each(|pid| assert_no_capability(&status(pid)));
    }
    assert_served(server.address());
    server.stop();
    let server = Server::start(&["--sandbox", "off"]);
    assert_eq!(status(server.workers()[0])["CapPrm"], status(std::process::id())["CapPrm"]);
    server.stop();
}
