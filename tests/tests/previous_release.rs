//! Upgrades between this release and one whose masters use an older version of the upgrade's messages: each refuses the
//! other with a reason, continues to serve, and loses no connection.
//!
//! Run with: `cargo test --release -p baton-tests --test previous_release -- --ignored --nocapture --test-threads 1`
//!
//! It builds revision [`REVISION`] of this repository in a worktree below the target folder, once. If the repository
//! does not have that revision, it prints that and tests nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use baton::control::{Exit, Failure};
use baton_tests::churn::{Churn, Phase};
use baton_tests::client::{ask, connect};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run_for;
use baton_tests::program::{Server, batonctl, batond, run};
use baton_tests::{skip, wait_until};

/// The last revision whose masters use version 1.
const REVISION: &str = "419b20f";

/// This includes the build.
const TIME_MAX: Duration = Duration::from_secs(900);

/// Number of upgrades that are tried, one after the other.
const TRIES: usize = 10;

/// Number of answers before, during and after.
const ANSWERS: u64 = 500;

/// The programs of the other release.
struct Previous {
    batond: PathBuf,
    batonctl: PathBuf,
}

fn git(arguments: &[&str]) -> Output {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Command::new("git").arg("-C").arg(repository).args(arguments).output().expect("git runs")
}

/// Builds it, or prints why that is not possible.
fn previous() -> Option<&'static Previous> {
    static PREVIOUS: OnceLock<Option<Previous>> = OnceLock::new();
    PREVIOUS.get_or_init(build).as_ref()
}

fn build() -> Option<Previous> {
    let revision = git(&["rev-parse", "--verify", "--quiet", &format!("{REVISION}^{{commit}}")]);
    if !revision.status.success() {
        skip(&format!("this repository does not have revision {REVISION}"));
        return None;
    }
    let program = batond();
    let own = program.parent().and_then(Path::parent).expect("a target folder");
    let folder = own.join(format!("previous-{REVISION}"));
    let sources = folder.join("sources");
    if !sources.join("Cargo.toml").exists() {
        let _ = fs::remove_dir_all(&folder);
        let path = sources.to_str().expect("UTF-8");
        let _ = git(&["worktree", "prune"]);
        let output = git(&["worktree", "add", "--detach", path, REVISION]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let target = folder.join("target");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--locked", "--package", "batond", "--package", "batonctl"]);
    command.arg("--target-dir").arg(&target).current_dir(&sources);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    if profile == "release" {
        command.arg("--release");
    }
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let program = |name: &str| target.join(profile).join(name);
    Some(Previous { batond: program("batond"), batonctl: program("batonctl") })
}

/// A server of either release, under clients that connect continuously, and one that stays.
fn prove(what: &str, program: &Path, upgrade: impl Fn(&Lineage)) {
    for tier in ["auto", "adopt"] {
        let lineage = Lineage::start(2, |control, pid_file| {
            let mut command = Command::new(program);
            command.args(["--listen", "127.0.0.1:0", "--workers", "2", "--settle-ms", "50", "--handover", tier]);
            command.args(["--control", control, "--pid-file", pid_file]);
            Server::start_command(command)
        });
        let (master, workers) = (lineage.master(), lineage.first.workers());
        let mut idle = connect(lineage.first.address());
        ask(&mut idle).expect("an answer");
        let churn = Churn::start(lineage.first.address(), 4);
        let wait_for_answers = || {
            let before = churn.answered();
            wait_until("clients are answered", || churn.answered() >= before + ANSWERS);
        };
        wait_for_answers();
        churn.begin_phase(Phase::During);
        for _ in 0..TRIES {
            upgrade(&lineage);
            assert_eq!(lineage.master(), master, "{what}, {tier}: the pid file is the old master's");
            ask(&mut idle).expect("the connection lives");
        }
        wait_for_answers();
        let outcome = churn.finish();
        eprintln!("{what}, {tier}: {} answered, {} failed, {} slow", outcome.ok, outcome.failed(), outcome.slow);
        assert_eq!((outcome.failed(), outcome.slow), (0, 0), "{what}, {tier}: {outcome:#?}");
        lineage.reap();
        assert_eq!(lineage.masters(), [master], "{what}, {tier}: nobody else is left");
        assert_eq!(lineage.first.workers(), workers, "{what}, {tier}: the workers are the same");
    }
}

#[test]
#[ignore = "builds another release"]
fn the_previous_release_refuses_this_one() {
    if let Some(previous) = previous() {
        run_for("the_previous_release_refuses_this_one", TIME_MAX, || {
            prove("from the previous release to this one", &previous.batond, |lineage| {
                // The previous master needs its own batonctl, and answers with text.
                let mut command = Command::new(&previous.batonctl);
                let output = run(command.arg("--control").arg(lineage.control()).arg("upgrade").arg(batond()));
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.code() == Some(1) && text.contains("version"), "{output:?}");
                eprintln!("{}", text.trim());
            });
        });
    }
}

#[test]
#[ignore = "builds another release"]
fn this_release_refuses_the_previous_one() {
    if let Some(previous) = previous() {
        run_for("this_release_refuses_the_previous_one", TIME_MAX, || {
            prove("from this release to the previous one", &batond(), |lineage| {
                let failure = lineage.failed(&["upgrade", previous.batond.to_str().expect("UTF-8")]);
                // It cannot report a version that it does not know, but logs it, and exits.
                let has_exited = |failure: &Failure| match failure {
                    Failure::SuccessorEnded { exit, .. } => *exit == Exit::Code(1),
                    _ => false,
                };
                assert!(has_exited(&failure), "{failure:?}");
                let why = "the old master speaks version 3 of upgrades, this one 1";
                wait_until("its log says why", || lineage.first.count_of(why) > 0);
                eprintln!("{failure}");
            });
        });
    }
}

/// The message for an operator who uses the wrong batonctl.
#[test]
#[ignore = "builds another release"]
fn a_batonctl_of_the_other_release_says_what_is_wrong() {
    if let Some(previous) = previous() {
        let server = Server::start_controlled(&[]);
        let output = run(Command::new(&previous.batonctl).arg("--control").arg(server.control()).arg("reload"));
        assert_ne!(output.status.code(), Some(0), "{output:?}");
        server.stop();
        let folder = tempfile::tempdir().expect("a folder");
        let control = folder.path().join("control");
        let mut command = Command::new(&previous.batond);
        command.args(["--listen", "127.0.0.1:0", "--control"]).arg(&control);
        let server = Server::start_command(command);
        let output = run(Command::new(batonctl()).arg("--control").arg(&control).arg("reload"));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && text.contains("version"), "{output:?}");
        server.stop();
    }
}
