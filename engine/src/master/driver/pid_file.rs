//! The file with the master's process id. It is written whole or not at all, and names the master that has the last word.

use std::fs;
use std::path::{Path, PathBuf};

use super::Master;

impl Master<'_> {
    pub(super) fn write_pid_file(&mut self) {
        let Some(path) = self.pid_file.clone() else { return };
        match write(&path) {
            Ok(()) => self.has_pid_file = true,
            Err(error) => tracing::error!(path = %path.display(), "the pid file cannot be written: {error}"),
        }
    }

    pub(super) fn remove_pid_file(&mut self) {
        let Some(path) = self.pid_file.as_ref().filter(|_| self.has_pid_file) else { return };
        // Another master may have written its own since.
        if fs::read_to_string(path).is_ok_and(|text| text.trim() == std::process::id().to_string()) {
            let _ = fs::remove_file(path);
        }
    }
}

fn write(path: &Path) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    fs::write(&beside, format!("{}\n", std::process::id()))?;
    fs::rename(&beside, path)
}
