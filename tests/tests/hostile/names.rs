//! Names that others can take first, and take for theirs: the control socket's path.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use baton_tests::program::{Server, batonctl, batond, run};
use baton_tests::{control, wait_until};
use nix::sys::signal::Signal;

use crate::stranger::{Stranger, command_for_all, folder_for_all, may_become_others, say};

/// One who is neither the stranger nor root.
const VICTIM: u32 = 1235;

/// Listens at a path, says how many bytes each client sends, and tells it that the server has stopped.
pub(crate) fn impostor(path: &Path) {
    let listener = UnixListener::bind(path).expect("bound");
    fs::set_permissions(path, Permissions::from_mode(0o777)).expect("set");
    say("listening");
    for client in listener.incoming() {
        let mut client = client.expect("a client");
        let mut request = [0; 64];
        say(&client.read(&mut request).unwrap_or(0).to_string());
        let _ = client.write_all(b"{\"reply\":\"done\",\"done\":\"stopped\"}\n");
    }
}

fn stop(command: &mut Command, control: &Path) -> Output {
    run(command.arg("--control").arg(control).arg("stop"))
}

#[test]
fn batonctl_believes_no_impostor() {
    if !may_become_others() {
        return;
    }
    let (folder, programs) = (folder_for_all().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let control = folder.path().join("control");
    let mut stranger = Stranger::play("impostor", control.to_str().expect("UTF-8"));
    assert_eq!(stranger.hear().as_deref(), Some("listening"));
    let refused = |output: &Output| {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b""[..]), "{stderr}");
        assert!(stderr.contains("user 1234"), "{stderr}");
    };
    refused(&stop(command_for_all(&programs, batonctl()).uid(VICTIM), &control));
    // Root may stop the server of every user, and reads whose it is.
    let obeyed = stop(&mut Command::new(batonctl()), &control);
    let stderr = String::from_utf8_lossy(&obeyed.stderr).into_owned();
    assert_eq!((obeyed.status.code(), obeyed.stdout.as_slice()), (Some(0), &b"stopped\n"[..]), "{stderr}");
    assert!(stderr.ends_with("is one of user 1234\n"), "{stderr}");
    // The user has had no visitor; root's request came whole.
    assert!(stranger.hear().is_some_and(|bytes| bytes != "0"));
    // It listens at a file that says otherwise.
    chown(&control, Some(VICTIM), None).expect("given away");
    refused(&stop(&mut Command::new(batonctl()), &control));
    refused(&stop(command_for_all(&programs, batonctl()).uid(VICTIM), &control));
    assert_eq!([stranger.hear(), stranger.hear()].map(|bytes| bytes.expect("one")), ["0", "0"]);
}

/// They find the socket of a master that was killed.
#[test]
fn of_servers_that_start_at_the_same_moment_one_serves() {
    const STARTS: usize = 4;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control");
    for round in 0..10 {
        drop(UnixListener::bind(&path).expect("bound"));
        let start = || {
            let mut command = Command::new(batond());
            command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--control"]).arg(&path);
            Server::spawn(command)
        };
        let all: [Server; STARTS] = std::array::from_fn(|_| start());
        let is_over = |server: &Server| server.count_of("another server listens there") == 1;
        let serves = |server: &Server| server.count_of("\"listening\"") == 1;
        wait_until("each serves or is refused", || all.iter().all(|server| is_over(server) || serves(server)));
        let served = all.iter().filter(|server| serves(server)).count();
        assert_eq!(served, 1, "round {round}");
        let winner = all.iter().find(|server| serves(server)).expect("one");
        assert_eq!(control::status(&path).map(|status| status.pid), Some(winner.pid()));
        winner.signal(Signal::SIGTERM);
        wait_until("it has stopped", || !path.exists());
    }
}
