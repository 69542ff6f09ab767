//! Another user of the machine, without rights: a copy of this test's executable that plays a role as that user.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use baton_tests::namespace::has_users;
use baton_tests::program::spawn;
use baton_tests::skip;
use nix::unistd::geteuid;
use tempfile::TempDir;

/// The user.
pub(crate) const STRANGER: u32 = 1234;

const ROLE: &str = "BATON_TESTS_ROLE";

/// Marks lines for the test among others.
const SAID: &str = "stranger: ";

/// A process of [`STRANGER`]; it is killed when this is dropped.
pub(crate) struct Stranger {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    _folder: TempDir,
}

impl Stranger {
    /// Starts one that plays `role`, the name of one of [`role`], with an argument.
    pub(crate) fn play(role: &str, argument: &str) -> Self {
        Self::play_as(STRANGER, role, argument)
    }

    /// The same, as another user.
    pub(crate) fn play_as(user: u32, role: &str, argument: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = command_for_all(&folder, &std::env::current_exe().expect("a path"));
        command.uid(user).gid(user).env(ROLE, format!("{role} {argument}")).stderr(Stdio::piped());
        command.args(["stranger::role", "--exact", "--ignored", "--nocapture", "--test-threads", "1"]);
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()));
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        Self { child, lines, _folder: folder }
    }

    /// Sends it a line.
    pub(crate) fn tell(&mut self, text: &str) {
        writeln!(self.child.stdin.as_ref().expect("piped"), "{text}").expect("it reads");
    }

    /// Its next line; `None` if it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let lines = self.lines.by_ref().map_while(Result::ok);
        lines.inspect(|line| eprintln!("{line}")).find_map(|line| Some(line.strip_prefix(SAID)?.to_owned()))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a line to the test.
pub(crate) fn say(text: &str) {
    eprintln!("{SAID}{text}");
}

/// A command that runs a copy of a program from a place where every user may read it.
pub(crate) fn command_for_all(folder: &TempDir, program: &Path) -> Command {
    let copy = folder.path().join("program");
    fs::copy(program, &copy).expect("copied");
    for path in [folder.path(), &copy] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("set");
    }
    Command::new(copy)
}

/// A folder in which every user may create files, and remove their own, like `/tmp`.
pub(crate) fn folder_for_all() -> io::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777))?;
    Ok(folder)
}

/// Returns `false`, with a message, if no process can become another user.
pub(crate) fn may_become_others() -> bool {
    (geteuid().is_root() && has_users()) || !skip("becoming another user needs root")
}

#[test]
#[ignore = "what the stranger does in other tests"]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.split_once(' ').expect("a role and its argument") {
        ("impostor", path) => super::names::impostor(Path::new(path)),
        ("squatter", _) => super::names::squatter(),
        ("folder_maker", path) => super::names::folder_maker(Path::new(path)),
        ("knocker", path) => super::names::knocker(Path::new(path)),
        ("flooder", path) => super::visitor::flooder(Path::new(path)),
        ("forger", path) => super::visitor::forger(Path::new(path)),
        _ => panic!("no role: {role}"),
    }
}
