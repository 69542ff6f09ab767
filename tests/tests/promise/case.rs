//! One case: a server of some shape, clients that connect continuously, an action on the server, and its permitted
//! effects.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use baton_tests::churn::{Churn, Outcome, Phase};
use baton_tests::client::assert_served;
use baton_tests::namespace::{has_users, listen_drops};
use baton_tests::program::{Server, batond};
use baton_tests::{skip, wait_until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

/// Number of answers before and after the action, for comparison.
const STEADY_ANSWERS: u64 = 500;

/// The group that has no rights.
const NOBODY: u32 = 65_534;

/// A user that may lock hardly any memory.
const CRAMPED: u32 = 65_533;

/// Rings do not get smaller than about 144 KiB.
const CRAMPED_BYTES: u64 = 512 << 10;

/// A server's shape, and its clients.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) handover: &'static str,
    pub(crate) workers: usize,
    pub(crate) clients: usize,
    /// `None`: batond's default.
    pub(crate) settle_ms: Option<u64>,
    pub(crate) rights: Rights,
    /// Its control socket, if it has one.
    pub(crate) control: Option<PathBuf>,
    pub(crate) arguments: &'static [&'static str],
}

/// The user as which the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// The user of this test.
    Own,
    /// A user without any rights.
    Nobody,
    /// A user that may lock only as much memory as the rings of three workers need.
    Cramped,
}

impl Case {
    pub(crate) fn new(handover: &'static str, workers: usize) -> Self {
        let (settle_ms, rights) = (Some(100), Rights::Own);
        Self { handover, workers, clients: 6, settle_ms, rights, control: None, arguments: &[] }
    }

    /// Starts it on `address`, such as `127.0.0.1:0`. Returns it with the folder from which it may run.
    pub(crate) fn start(&self, address: &str) -> (Server, Option<TempDir>) {
        self.start_with(address, &[])
    }

    /// The same, with more arguments.
    pub(crate) fn start_with(&self, address: &str, more: &[&str]) -> (Server, Option<TempDir>) {
        let folder = (self.rights != Rights::Own).then(|| tempfile::tempdir().expect("a folder"));
        let mut command = folder.as_ref().map_or_else(|| Command::new(batond()), copy);
        match self.rights {
            Rights::Own => {}
            Rights::Nobody => drop(command.uid(nobody()).gid(NOBODY)),
            Rights::Cramped => {
                limit_locked_memory();
                command.uid(CRAMPED).gid(CRAMPED);
            }
        }
        command.args(["--listen", address, "--handover", self.handover]);
        command.arg("--control").arg(self.control.as_deref().unwrap_or(Path::new("off")));
        command.args(["--workers", &self.workers.to_string()]);
        if let Some(settle_ms) = self.settle_ms {
            command.args(["--settle-ms", &settle_ms.to_string()]);
        }
        command.args(self.arguments).args(more);
        (Server::start_command(command), folder)
    }
}

/// A user without rights that only this test has. The kernel counts locked memory per user, and several tests run at
/// the same time, each in a process of its own.
fn nobody() -> u32 {
    60_000 + std::process::id() % 5_000
}

/// Started processes inherit it; it does not affect this process, which belongs to this test alone.
fn limit_locked_memory() {
    let (_, allowed) = getrlimit(Resource::RLIMIT_MEMLOCK).expect("a limit");
    let limit = CRAMPED_BYTES.min(allowed);
    setrlimit(Resource::RLIMIT_MEMLOCK, limit, limit).expect("lowered");
}

/// A command that runs a copy of batond from a place where every user may read it.
fn copy(folder: &TempDir) -> Command {
    let copy = folder.path().join("batond");
    std::fs::copy(batond(), &copy).expect("copied");
    for path in [folder.path(), &copy] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("set");
    }
    Command::new(copy)
}

/// The permitted effects of an action.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// Every client is served, and soon.
    NothingLost,
    /// Every client is served; packets are dropped, so that some are served late.
    NothingFails,
    /// Every client connects, and at most this many are lost with the workers that were serving them.
    OnlyServedOnesLost(u64),
    /// Any effect: it is only reported.
    Anything,
}

impl Expected {
    fn check(self, what: &str, outcome: &Outcome) {
        assert!(outcome.ok >= 2 * STEADY_ANSWERS, "{what}: {outcome:#?}");
        let (failures_max, slow_max) = match self {
            Self::NothingLost => (0, 0),
            Self::NothingFails => (0, u64::MAX),
            Self::OnlyServedOnesLost(failures_max) => (failures_max, u64::MAX),
            Self::Anything => return,
        };
        assert_eq!(outcome.failed_to_connect(), 0, "{what}: {outcome:#?}");
        assert!(outcome.failed() <= failures_max, "{what}: {outcome:#?}");
        assert!(outcome.slow <= slow_max, "{what}: {outcome:#?}");
        if matches!(self, Self::NothingLost) {
            assert_eq!(listen_drops(), 0, "{what}: {outcome:#?}");
        }
    }
}

/// Performs `action` on a server under load, and waits until all workers except one generation have left. `what` names
/// it in the table; the case's shape is added.
///
/// # Panics
/// If the effects exceed the permitted ones.
pub(crate) fn prove(what: &str, case: &Case, expected: Expected, action: impl FnOnce(&Server, &Churn)) {
    let (server, _folder) = case.start("127.0.0.1:0");
    let churn = Churn::start(server.address(), case.clients);
    wait_for_answers(&churn, STEADY_ANSWERS);
    churn.begin_phase(Phase::During);
    action(&server, &churn);
    wait_until("one generation is left", || server.workers().len() == case.workers);
    churn.begin_phase(Phase::Steady);
    wait_for_answers(&churn, STEADY_ANSWERS);
    conclude(what, case, expected, &churn.finish());
    assert_served(server.address());
    server.stop();
}

/// Prints the line of a case and checks it.
pub(crate) fn conclude(what: &str, case: &Case, expected: Expected, outcome: &Outcome) {
    static HEAD: Once = Once::new();
    HEAD.call_once(|| {
        eprintln!("| case | ok | failed | over 900 ms | steady: p50/p99/p99.9/max, ms | during: the same |");
        eprintln!("|---|---|---|---|---|---|");
    });
    let workers = if case.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", case.workers) };
    let user = match case.rights {
        Rights::Own => "",
        Rights::Nobody => ", no rights",
        Rights::Cramped => ", no rights, little memory",
    };
    let what = format!("{what}, {}, {workers}{user}", case.handover);
    let Outcome { ok, slow, steady, during, .. } = outcome;
    eprintln!("| {what} | {ok} | {} | {slow} | {steady} | {during} |", outcome.failed());
    if outcome.failed() > 0 {
        eprintln!("  failures: {:?}", outcome.failures);
    }
    expected.check(&what, outcome);
}

/// Waits for this many more answers.
pub(crate) fn wait_for_answers(churn: &Churn, count: u64) {
    let before = churn.answered();
    wait_until("clients are answered", || churn.answered() >= before + count);
}

/// The tiers that lose nothing and work here.
pub(crate) fn tiers() -> Vec<&'static str> {
    let server = Server::start(&["--control", "off"]);
    let has_ebpf = server.count_of("\"tier\":\"ebpf\"") > 0;
    server.stop();
    if has_ebpf {
        return vec!["ebpf", "adopt"];
    }
    skip("the tier ebpf: a program may not be loaded here");
    vec!["adopt"]
}

/// Each tier that loses nothing, with one worker and with two.
pub(crate) fn cases() -> Vec<Case> {
    tiers().into_iter().flat_map(|tier| [1, 2].map(|workers| Case::new(tier, workers))).collect()
}

/// Returns `false`, with a message, if there is only one user.
pub(crate) fn has_nobody() -> bool {
    has_users() || !skip("servers without rights: this user namespace has one user")
}
