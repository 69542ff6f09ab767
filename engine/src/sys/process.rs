//! Processes: fork and its preconditions; and handles of processes, which still name a process after its number was
//! given to another one.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getppid};
use socket2::SockRef;

/// Forks. The child must not return from the calling function; it leaves with [`exit`].
///
/// # Errors
/// If the process has several threads: only the calling one would exist in the child, and what the others hold locked
/// would stay locked forever. Else as fork(2).
pub(crate) fn fork_single_threaded() -> io::Result<ForkResult> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(io::Error::other(format!(
            "the process has {threads} threads, but it must have one when workers are forked: \
             start threads in Protocol::on_start, not before Server::run"
        )));
    }
    // SAFETY: the process has one thread, so the child is a complete copy: no other thread holds a lock.
    Ok(unsafe { fork() }?)
}

/// Makes the kernel kill this process when its parent, which is `parent`, ends; until [`outlive_parent`]. A change of
/// the user ends that, too (prctl(2), PR_SET_PDEATHSIG).
///
/// # Errors
/// If the parent has ended already, and as prctl(2).
pub(crate) fn end_with_parent(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == parent { Ok(()) } else { Err(io::Error::other("the parent has ended")) }
}

/// Makes this process continue when its parent ends.
///
/// # Errors
/// As prctl(2).
pub(crate) fn outlive_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(None)?)
}

/// Ends the process at once, without unwinding the stack of the parent's `main`.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// The number of threads of this process.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// When a process was started, in clock ticks after the machine's start: field 22 of proc_pid_stat(5).
///
/// # Errors
/// As open(2): `NotFound` if no process has the number, or if it has ended and its parent has not waited for it.
pub(crate) fn started_at(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name, may contain anything but ends at the last parenthesis.
    let (_, rest) = text.rsplit_once(") ").ok_or(io::ErrorKind::InvalidData)?;
    if rest.starts_with(['Z', 'X']) {
        return Err(io::ErrorKind::NotFound.into());
    }
    rest.split(' ').nth(19).and_then(|field| field.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A descriptor of a process. It becomes readable when the process has ended (pidfd_open(2)).
///
/// # Errors
/// As pidfd_open(2).
pub(crate) fn open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// A copy of a descriptor of another process (pidfd_getfd(2), kernel 5.6). Closing it does not wait for a peer,
/// whatever the other process has set.
///
/// # Errors
/// As pidfd_getfd(2): `PermissionDenied` if this process may not trace the other one.
pub(crate) fn descriptor_of(process: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd(2) takes three integers.
    let copy = descriptor(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    // Only a socket has this option.
    let _ = SockRef::from(&copy).set_linger(None);
    Ok(copy)
}

/// Kills a process that need not be a child.
///
/// # Errors
/// As pidfd_send_signal(2): `ESRCH` if it has ended.
pub(crate) fn kill(process: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) takes integers and a pointer that may be null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn a_process_that_has_ended_has_no_start() {
        let mut child = std::process::Command::new("true").spawn().expect("started");
        let own = started_at(std::process::id()).expect("this one runs");
        assert!(started_at(child.id()).map_or(true, |started_at| started_at >= own));
        let handle = open(Pid::from_raw(child.id() as i32)).expect("a handle");
        let mut ended = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ended, PollTimeout::from(10_000_u16)), Ok(1));
        let error = started_at(child.id()).expect_err("nobody has waited for it");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        child.wait().expect("waited");
    }

    #[test]
    fn a_process_gives_copies_of_its_descriptors() {
        let this = open(Pid::this()).expect("a handle");
        let copy = descriptor_of(this.as_fd(), this.as_raw_fd()).expect("a copy");
        assert_ne!(copy.as_raw_fd(), this.as_raw_fd());
        assert!(descriptor_of(this.as_fd(), -1).is_err());
    }
}
