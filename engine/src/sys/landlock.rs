//! A Landlock domain for a worker (landlock(7), kernel 5.13). It limits which files, TCP ports and processes the worker
//! can reach, whatever system calls it makes. A process in a domain can neither trace processes outside of it nor open
//! their memory in /proc.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::types::SystemCalls;

/// From linux/landlock.h.
const CREATE_RULESET_VERSION: u32 = 1;
const ACCESS_NET_BIND_TCP: u64 = 1;
const ACCESS_NET_CONNECT_TCP: u64 = 1 << 1;
const SCOPE_SIGNAL: u64 = 1 << 1;
const RULE_PATH_BENEATH: u32 = 1;
const ACCESS_READ_FILE: u64 = 1 << 2;
const ACCESS_READ_FOLDER: u64 = 1 << 3;

/// What each version of the interface added: kinds of file access, network access (kernel 6.7), scopes (6.12).
const FILES: [(u32, u64); 4] = [(1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15)];
const NET_VERSION: u32 = 4;
const SCOPE_VERSION: u32 = 6;

/// `struct landlock_ruleset_attr`. Older kernels know a shorter one, and accept this one if the rest is zero.
#[repr(C)]
#[derive(Default)]
struct Ruleset {
    files: u64,
    net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    folder: i32,
}

impl Ruleset {
    /// What is denied unless a rule allows it. A ruleset that handles files at all denies moving them between folders,
    /// so files are left alone where callbacks may use them.
    fn new(calls: SystemCalls, version: u32) -> Self {
        let is_strict = calls == SystemCalls::ServeOnly;
        let known = FILES.iter().filter(|(since, _)| is_strict && *since <= version);
        Self {
            files: known.fold(0, |all, (_, some)| all | some),
            net: if is_strict && version >= NET_VERSION { ACCESS_NET_BIND_TCP | ACCESS_NET_CONNECT_TCP } else { 0 },
            scoped: if version >= SCOPE_VERSION { SCOPE_SIGNAL } else { 0 },
        }
    }

    fn is_empty(&self) -> bool {
        self.files == 0 && self.net == 0 && self.scoped == 0
    }
}

/// Puts the calling thread, and all that it starts, into a domain of its own, for good. The domain allows what
/// callbacks with these system calls may do, as far as this kernel can. If files are denied, those beneath the
/// `readable` folders may still be read.
///
/// # Errors
/// As landlock_create_ruleset(2): `Unsupported` if the kernel has no Landlock, or one that can deny nothing of this.
pub(crate) fn enter_domain(calls: SystemCalls, readable: &[PathBuf]) -> io::Result<()> {
    // SAFETY: with this flag landlock_create_ruleset(2) takes no attribute.
    let version = Errno::result(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0, CREATE_RULESET_VERSION)
    })?;
    let ruleset = Ruleset::new(calls, version as u32);
    if ruleset.is_empty() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: landlock_create_ruleset(2) reads the structure, whose size it is given.
    let descriptor = Errno::result(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size_of::<Ruleset>(), 0)
    })?;
    // SAFETY: the kernel has just created this descriptor for us, close-on-exec.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    for folder in readable.iter().filter(|_| ruleset.files != 0) {
        // Without its rule nothing in the folder is readable, which is safe. A request for its files gets an error.
        if let Err(error) = allow_reading(&descriptor, folder) {
            tracing::warn!(folder = %folder.display(), "sandbox: this worker cannot read this folder: {error}");
        }
    }
    // SAFETY: landlock_restrict_self(2) takes two integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, descriptor.as_raw_fd(), 0) })?;
    Ok(())
}

fn allow_reading(ruleset: &OwnedFd, folder: &Path) -> io::Result<()> {
    let folder = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(folder)?;
    let rule = PathBeneath { allowed: ACCESS_READ_FILE | ACCESS_READ_FOLDER, folder: folder.as_raw_fd() };
    // SAFETY: landlock_add_rule(2) reads the structure, whose size follows from the kind of the rule.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, &raw const rule, 0)
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};
    use std::thread;

    use nix::sys::prctl::set_no_new_privs;
    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    use super::*;

    /// Runs on a thread in a domain; `None`, with a printed message, if there is no Landlock.
    fn inside<T: Send + 'static>(calls: SystemCalls, body: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        inside_with(calls, &[], body)
    }

    fn inside_with<T: Send + 'static>(
        calls: SystemCalls,
        readable: &[PathBuf],
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let readable = readable.to_vec();
        let thread = thread::spawn(move || {
            set_no_new_privs().expect("set");
            match enter_domain(calls, &readable) {
                Ok(()) => Some(body()),
                Err(error) => {
                    eprintln!("SKIPPED: no domain: {error}");
                    None
                }
            }
        });
        thread.join().expect("no panic")
    }

    /// A process that waits for the end of its input.
    fn with_other(body: impl FnOnce(u32)) {
        let mut other = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process");
        body(other.id());
        drop(other.stdin.take());
        other.wait().expect("it ends");
    }

    #[test]
    fn the_memory_of_other_processes_is_out_of_reach_and_so_are_signals() {
        with_other(|pid| {
            let path = format!("/proc/{pid}/mem");
            if File::open(&path).is_err() {
                eprintln!("SKIPPED: this process may not look into its own child");
                return;
            }
            let (memory, signal) =
                inside(SystemCalls::Usual, move || (File::open(path).map(drop), kill(Pid::from_raw(pid as i32), None)))
                    .unwrap_or((Err(Errno::EACCES.into()), Err(Errno::EPERM)));
            assert_eq!(memory.expect_err("denied").kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(signal, Err(Errno::EPERM));
        });
    }

    #[test]
    fn callbacks_keep_their_files() {
        let folder = std::env::temp_dir().join(format!("baton-landlock-{}", std::process::id()));
        fs::create_dir_all(folder.join("other")).expect("a folder");
        let moved = {
            let folder = folder.clone();
            inside(SystemCalls::Usual, move || {
                fs::write(folder.join("file"), "text")?;
                fs::rename(folder.join("file"), folder.join("other/file"))
            })
        };
        fs::remove_dir_all(folder).expect("removed");
        moved.unwrap_or(Ok(())).expect("moved");
    }

    #[test]
    fn a_readable_folder_is_read_and_nothing_else() {
        let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let missing = folder.path().join("missing");
        let (inner, outer) = (folder.path().join("deep/file"), other.path().join("file"));
        fs::create_dir(folder.path().join("deep")).expect("a folder");
        [&inner, &outer].into_iter().for_each(|path| fs::write(path, "text").expect("written"));
        let paths = (inner.clone(), outer);
        let readable = [missing, folder.path().to_owned()];
        let outcome = inside_with(SystemCalls::ServeOnly, &readable, move || {
            let read = fs::read_to_string(&paths.0);
            [read, fs::read_to_string(&paths.1), fs::write(&paths.0, "other").map(|()| String::new())]
        });
        let Some([inner_read, outer_read, written]) = outcome else { return };
        assert_eq!(inner_read.expect("read"), "text");
        assert_eq!(outer_read.expect_err("denied").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(written.expect_err("denied").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::read_to_string(inner).expect("read"), "text");
    }

    #[test]
    fn a_connection_cannot_be_made_one_to_somewhere_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        let socket = socket2::Socket::from(TcpStream::connect(address).expect("connected"));
        let reconnected = inside(SystemCalls::ServeOnly, move || {
            let unconnected = libc::sockaddr { sa_family: libc::AF_UNSPEC as _, sa_data: [0; 14] };
            // SAFETY: connect(2) reads the address, whose size it is given.
            unsafe { libc::connect(socket.as_raw_fd(), &raw const unconnected, size_of::<libc::sockaddr>() as _) };
            (socket.connect(&address.into()), File::open("/proc/self/status").map(drop))
        });
        let Some((connected, file)) = reconnected else { return };
        assert_eq!(connected.expect_err("denied").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(file.expect_err("denied").kind(), io::ErrorKind::PermissionDenied);
    }
}
