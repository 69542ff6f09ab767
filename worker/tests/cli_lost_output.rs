//! Output whose reader has gone: no panic, and the same exit code as with a reader.

use std::io;
use std::process::{Command, Stdio};

/// The writing end of a pipe without a reader.
fn unread() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn exit_code(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batond"));
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr).status().expect("batond runs").code()
}

#[test]
fn help_and_version_into_a_closed_pipe_end_quietly() {
    for flag in ["--help", "-h", "--version"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_batond"));
        let output = command.arg(flag).stdin(Stdio::null()).stdout(unread()).stderr(Stdio::piped()).output();
        let output = output.expect("batond runs");
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{flag}");
    }
}

#[test]
fn a_check_whose_answer_is_lost_has_failed() {
    let check = ["--check", "--listen", "127.0.0.1:0"];
    assert_eq!(exit_code(&check, unread(), unread()), Some(1));
    assert_eq!(exit_code(&check, Stdio::null(), unread()), Some(0));
}

#[test]
fn errors_nobody_reads_keep_their_exit_codes() {
    assert_eq!(exit_code(&["--unknown"], Stdio::null(), unread()), Some(2));
    assert_eq!(exit_code(&["--workers", "0"], Stdio::null(), unread()), Some(2));
    assert_eq!(exit_code(&["--config", "/"], Stdio::null(), unread()), Some(2));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    assert_eq!(exit_code(&["--listen", &address], Stdio::null(), unread()), Some(1));
}
