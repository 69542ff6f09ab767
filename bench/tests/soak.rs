//! `baton-bench soak` on batond, as a person would run it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_baton-bench");

fn soak(more: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("soak").args(more);
    command
}

/// `None` if batond was not built; prints that.
fn batond() -> Option<PathBuf> {
    let batond = Path::new(PROGRAM).with_file_name("batond");
    if !batond.exists() {
        eprintln!("SKIPPED: {} is not built; cargo test --workspace builds it", batond.display());
        return None;
    }
    Some(batond)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn report(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("written")).expect("JSON")
}

#[test]
fn batond_goes_through_changes_under_all_kinds_of_load() {
    if batond().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("soak.md");
    let output = soak(&["--connections=200", "--changes=12", "--seed=3", "--quiet-every=1", "--report"])
        .arg(folder.path())
        .output()
        .expect("it runs");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.starts_with("seed 3\n") && said.ends_with("seed 3\n"), "{said}");
    let json = report(&path.with_extension("json"));
    assert_eq!((json["seed"].as_u64(), &json["failures"]), (Some(3), &Value::Array(Vec::new())), "{json}");
    assert!(json["connections"].as_u64() >= Some(200) && json["changes"].as_u64() >= Some(12), "{json}");
    for row in json["loads"].as_array().expect("loads") {
        let failures = row["failures"].as_object().expect("failures");
        assert!(failures.iter().all(|(kind, count)| kind == "stale" || count.as_u64() == Some(0)), "{row}");
    }
    let quiet = json["quiet"].as_array().expect("quiet points");
    // Two masters with two workers each.
    assert!(!quiet.is_empty() && quiet.iter().all(|sample| sample["processes"].as_u64() == Some(6)), "{quiet:?}");
    assert!(path.exists(), "{said}");
    assert!(std::fs::read_to_string(path.with_extension("svg")).expect("drawn").contains("<svg"));
}

#[test]
fn an_interrupt_ends_it_with_a_report() {
    if batond().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = soak(&["--hours=1", "--seed=4", "--progress-every=0.1", "--report"]);
    let mut child: Child = command.arg(folder.path()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    // When this line is printed, some changes have been made.
    while !line.contains(" changes, ") {
        line.clear();
        assert!(lines.read_line(&mut line).expect("read") > 0, "it ended");
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it lives");
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("read");
    assert_eq!(child.wait().expect("it ends").code(), Some(1), "{rest}");
    let json = report(&folder.path().join("soak.json"));
    assert_eq!((&json["interrupted"], &json["failures"]), (&Value::Bool(true), &Value::Array(Vec::new())), "{json}");
}

#[test]
fn a_program_that_is_no_server_is_a_failure() {
    let output = soak(&["--hours=1", "--seed=5", "--batond=/bin/true"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}

#[test]
fn wrong_usage_is_refused() {
    for (arguments, says) in [
        (vec!["--hours=0"], "--hours"),
        (vec!["--hours=1", "--connections=5"], "--connections"),
        (vec!["--changes=0"], "--changes"),
        (vec!["--quiet-every=0"], "--quiet-every"),
        (vec!["--batond=/nonexistent/batond"], "--batond"),
        (vec!["--report=/nonexistent/soak.md", "--batond=/bin/true"], "--report"),
        (vec!["--tier=magic"], "--tier"),
        (vec!["--seed=x"], "--seed"),
    ] {
        let output = soak(&arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(says), "{arguments:?}: {}", said(&output));
    }
}
