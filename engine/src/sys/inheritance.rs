//! A descriptor passed to a new program by number, in an environment variable.

use std::env;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

/// Lets the program inherit the descriptor, which must live until that is started. The process must have one thread, or a
/// program started by another one would inherit it as well.
///
/// # Errors
/// As fcntl(2).
pub(crate) fn pass(command: &mut Command, name: &str, descriptor: &OwnedFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    command.env(name, descriptor.as_raw_fd().to_string());
    Ok(())
}

/// Takes the packet socket that this process was started with; the first time only. It is not inherited further.
pub(crate) fn take(name: &str) -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number: RawFd = env::var(name).ok()?.parse().ok().filter(|number| *number > 2)?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // A number that is no descriptor of this process, or of something else, is refused before anybody owns it.
    let is_closed_on_exec = |number: RawFd| {
        // SAFETY: fcntl(2) with F_GETFD takes integers and fails for what is no descriptor.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        flags < 0 || flags & libc::FD_CLOEXEC != 0
    };
    if is_closed_on_exec(number) {
        return None;
    }
    // SAFETY: the number is open and without close-on-exec, which this program sets on all that it opens: it was passed
    // by the program that started this one, for whoever calls this first.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    match getsockopt(&descriptor, sockopt::SockType) {
        Ok(SockType::SeqPacket) => Some(descriptor),
        _ => {
            // Not ours to close.
            std::mem::forget(descriptor);
            None
        }
    }
}
