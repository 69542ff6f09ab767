//! A descriptor passed to a new program by number, in an environment variable.

use std::env;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

/// Lets the program inherit the descriptor, which must live until the program is started. The process must have one
/// thread, or a program that another thread starts would inherit it as well.
///
/// # Errors
/// As fcntl(2).
pub(crate) fn pass(command: &mut Command, name: &str, descriptor: &OwnedFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    command.env(name, descriptor.as_raw_fd().to_string());
    Ok(())
}

/// Takes the packet socket with which this process was started; only the first call gets it. It is not inherited
/// further.
pub(crate) fn take(name: &str) -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number: RawFd = env::var(name).ok()?.parse().ok().filter(|number| *number > 2)?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // Refuse a number that is not a descriptor of this process, or one of something else, before it is owned.
    let is_closed_on_exec = |number: RawFd| {
        // SAFETY: fcntl(2) with F_GETFD takes integers and fails for a number that is not a descriptor.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        flags < 0 || flags & libc::FD_CLOEXEC != 0
    };
    if is_closed_on_exec(number) {
        return None;
    }
    // SAFETY: the number is open and without close-on-exec, which this program sets on all that it opens. So the
    // program that started this one has passed it, for the first caller.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    match getsockopt(&descriptor, sockopt::SockType) {
        Ok(SockType::SeqPacket) => Some(descriptor),
        _ => {
            // It does not belong to us, so do not close it.
            std::mem::forget(descriptor);
            None
        }
    }
}
