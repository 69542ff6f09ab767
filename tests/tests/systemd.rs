//! Messages to a service manager, with a stand-in for it; and the unit file. Messages that the stand-in does not read
//! at once are lost.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};

use baton::control::Outcome;
use baton_tests::control::{self, Answer};
use baton_tests::process::is_alive;
use baton_tests::program::{Server, batonctl, batond, is_missing, run, run_ok};
use baton_tests::{PATIENCE, wait_until};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, waitpid};
use tempfile::TempDir;

struct Managed {
    server: Server,
    messages: Receiver<String>,
    control: PathBuf,
    file: PathBuf,
    _folder: TempDir,
}

impl Managed {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (notify, control) = (folder.path().join("notify"), folder.path().join("control"));
        let file = folder.path().join("batond.toml");
        fs::write(&file, "listen = [\"127.0.0.1:0\"]\n[timeouts]\nsettle_ms = 50\n").expect("written");
        let socket = UnixDatagram::bind(&notify).expect("bound");
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut command = Command::new(batond());
        command.arg("--config").arg(&file).arg("--control").arg(&control);
        command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "200000");
        let server = Server::start_command(command);
        Self { server, messages, control, file, _folder: folder }
    }

    /// The next message that is not a ping.
    fn next(&self) -> String {
        loop {
            let message = self.any();
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    fn any(&self) -> String {
        self.messages.recv_timeout(PATIENCE).expect("a message")
    }

    fn ask(&self, command: &str) -> Answer {
        control::ask(&self.control, &[command])
    }
}

#[test]
fn a_service_manager_is_told_what_happens() {
    set_child_subreaper(true).expect("set");
    let mut managed = Managed::start();
    assert_eq!(managed.next(), "READY=1");
    assert!((0..5).all(|_| managed.any() == "WATCHDOG=1"), "pings");
    for is_good in [true, false] {
        if !is_good {
            fs::write(&managed.file, "nonsense = 1\n").expect("written");
        }
        let answer = managed.ask("reload");
        assert_eq!(matches!(answer.outcome, Some(Ok(Outcome::Reloaded { .. }))), is_good, "{answer:#?}");
        let message = managed.next();
        assert!(message.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{message}");
        assert_eq!(managed.next(), "READY=1");
    }
    fs::write(&managed.file, "listen = [\"127.0.0.1:0\"]\n[timeouts]\nsettle_ms = 50\n").expect("written");
    // The order depends on which of the two masters is faster.
    let outcome = managed.ask("upgrade").done();
    assert!(matches!(outcome, Outcome::Upgraded { .. }), "{outcome:?}");
    let mut said = [managed.next(), managed.next(), managed.next()];
    said.sort();
    assert_eq!(said[0], said[1], "both say the same");
    assert_eq!(said[2], "READY=1");
    let main: u32 = said[0].strip_prefix("MAINPID=").and_then(|pid| pid.parse().ok()).expect("a process");
    assert!(main != managed.server.pid() && is_alive(main));
    managed.server.wait_for_master();
    assert!((0..5).all(|_| managed.any() == "WATCHDOG=1"), "the new one pings");
    assert_eq!(managed.ask("stop").done(), Outcome::Stopped);
    assert_eq!(managed.next(), "STOPPING=1");
    wait_until("the new one is gone", || {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        !is_alive(main)
    });
}

#[test]
fn without_a_service_manager_nothing_is_missing() {
    let mut command = Command::new(batond());
    command.args(["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", "/nowhere/notify");
    let server = Server::start_command(command);
    server.reload();
    server.stop();
}

#[test]
fn the_unit_file_fits_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/package/batond.service");
    let unit = fs::read_to_string(&path).expect("a unit");
    for line in ["Type=notify", "ExecReload=/usr/bin/batonctl reload", "NotifyAccess=all", "KillMode=process"] {
        assert!(unit.lines().any(|one| one == line), "{line}");
    }
    let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.parse::<u64>().ok());
    assert!(seconds.expect("a time") > 32, "longer than drain_ms_max and the second or two beyond it");
    if !is_missing("systemd-analyze") {
        // In tenths; 10 is a unit that may do everything.
        let mut command = Command::new("systemd-analyze");
        run_ok(command.args(["security", "--offline=true", "--threshold=30"]).arg(&path));
    }
}

#[test]
fn manuals_and_completions_are_made_of_the_command_lines() {
    for (program, arguments, expected) in [
        (batond(), &["--manual"][..], "hang\\-ms"),
        (batonctl(), &["manual"], "upgrade"),
        (batonctl(), &["manual", "upgrade"], "\\-\\-hold"),
        (batonctl(), &["completions", "bash"], "complete -F"),
        (batonctl(), &["completions", "zsh"], "#compdef batonctl"),
        (batonctl(), &["completions", "fish"], "complete -c batonctl"),
    ] {
        let output = run(Command::new(program).args(arguments));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(expected), "{arguments:?}: {text}");
    }
}
