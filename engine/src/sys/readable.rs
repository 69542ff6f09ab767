//! Checks whether workers can read a folder, before they are started.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;

use super::identity::Identity;
use super::process;

/// Returned if a process could not even become the user. No error has this number.
const NOT_ASKED: i32 = 255;

/// Opens a folder as workers will be able to: as this user, or as the user of this process. Rights may depend on more
/// than modes (access control lists, mounts), so a child that becomes the user tries it.
///
/// # Errors
/// As open(2). If the process may not fork, since it has several threads, the answer is yes: a worker finds out.
pub(crate) fn check(folder: &Path, identity: Option<&Identity>) -> io::Result<()> {
    let Some(identity) = identity else { return open(folder) };
    match process::fork_single_threaded() {
        Ok(ForkResult::Parent { child }) => loop {
            return match waitpid(child, None) {
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::Exited(_, code)) if code != 0 && code != NOT_ASKED => {
                    Err(io::Error::from_raw_os_error(code))
                }
                _ => Ok(()),
            };
        },
        Ok(ForkResult::Child) => {
            let outcome = identity.assume().map(|()| open(folder));
            process::exit(match outcome {
                Ok(Ok(())) => 0,
                Ok(Err(error)) => error.raw_os_error().unwrap_or(NOT_ASKED),
                Err(_) => NOT_ASKED,
            })
        }
        Err(_) => Ok(()),
    }
}

fn open(folder: &Path) -> io::Result<()> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK).open(folder).map(drop)
}
