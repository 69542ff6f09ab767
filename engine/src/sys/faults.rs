//! Faults that tests inject at named steps of the handover. Without the feature `faults` there are none.

/// A step at which a test may kill or stop a process, once: `BATON_FAULT=STEP@FILE`. The file's content names the
/// action: `self` kills this process, `parent` its parent, and `stop` stops this one.
#[cfg(feature = "faults")]
pub(crate) fn reach(step: &str) {
    use nix::sys::signal::{Signal, kill};

    let Ok(fault) = std::env::var("BATON_FAULT") else { return };
    let Some((_, path)) = fault.split_once('@').filter(|(at, _)| *at == step) else { return };
    let whom = std::fs::read_to_string(path).unwrap_or_default();
    // The process that succeeds in removing the file acts.
    if std::fs::remove_file(path).is_ok() {
        let pid = if whom == "parent" { nix::unistd::getppid() } else { nix::unistd::getpid() };
        let _ = kill(pid, if whom == "stop" { Signal::SIGSTOP } else { Signal::SIGKILL });
    }
}

/// Does nothing; only tests inject faults.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn reach(_: &str) {}
