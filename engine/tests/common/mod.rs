//! Shared parts of tests with processes.

use std::path::PathBuf;
use std::process::Command;

/// An example of this package, built in the same way as the test.
///
/// # Panics
/// If it cannot be built.
pub(crate) fn example(name: &str) -> PathBuf {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "build",
        "--quiet",
        "--package",
        env!("CARGO_PKG_NAME"),
        "--example",
        name,
        "--message-format",
        "json",
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let built = messages.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let path = built.filter_map(|message| Some(message.get("executable")?.as_str()?.into())).next_back();
    path.expect("cargo names the executable")
}
