//! Programs of others, as clients.

use std::process::{Command, Output};

use crate::program::{is_installed, run};
use crate::skip;

/// What a program has printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program that must succeed; gives what it printed to its standard output.
///
/// # Panics
/// If it fails.
pub fn run_ok(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = run(command);
    assert!(status.success(), "{command:?}: {status}\n{}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

/// Whether a program is not installed, which is said.
pub fn is_missing(program: &str) -> bool {
    !is_installed(program) && skip(&format!("{program} is not installed"))
}
