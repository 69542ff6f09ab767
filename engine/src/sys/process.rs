//! Processes: fork, and what must hold before it.

use std::fs;
use std::io;

use nix::unistd::{ForkResult, fork};

/// Forks. The child must not return from the function that called this; it leaves with [`exit`].
///
/// # Errors
/// When the process has several threads: only the calling one would exist in the child, and what the others
/// hold locked would stay locked for ever. Else as fork(2).
pub(crate) fn fork_single_threaded() -> io::Result<ForkResult> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(io::Error::other(format!(
            "the process has {threads} threads, but it must have one when workers are forked: \
             start threads in Protocol::on_start, not before Server::run"
        )));
    }
    // SAFETY: the process has one thread, so the child is a whole copy: no lock is held by anybody else.
    Ok(unsafe { fork() }?)
}

/// Ends the process at once, without running what `main` of the parent has on its stack.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Threads of this process.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}
