//! The filter of a worker's system calls (seccomp(2), `SECCOMP_SET_MODE_FILTER`). Threads and processes that the worker
//! starts have it, too, and no process can remove it.
//!
//! A denied call fails with EPERM. If an overlooked path of a library makes such a call, that costs an error. If it ended the
//! process, it would cost all connections, and a peer that finds such a path could do so again and again.
//!
//! The calls that a worker with [`SystemCalls::ServeOnly`] may make, and their purpose. A test of the whole system
//! (`tests/tests/hostile/calls.rs`) traces workers and compares.
//!
//! | calls | purpose |
//! |---|---|
//! | `io_uring_enter` | each turn of the loop |
//! | `read`, `write` | event descriptors, signals, the log, the access log |
//! | `writev` | the message of a panic |
//! | `recvmsg`, `sendmsg` | channels to the master and to other workers |
//! | `sendfile`, with `sendmsg` and `fcntl` | answers from files and sealed memory |
//! | `socketpair` of packets, `getsockopt` | the channel to a worker that is visited, the process at its other end, connections that arrive |
//! | `accept4`, `shutdown`, `close` | the accept queue of a listener that closes, the end of connections |
//! | `getpeername`, `getsockname` | `Peer::address`, `Peer::local_address`, listeners with settings of their own |
//! | `setsockopt` (`TCP_NODELAY`, `SO_LINGER`), `fcntl` (no locks, no owners) | connections that begin or end |
//! | `memfd_create`, `statx` of a descriptor, `pread64` | connections that move with much unsent output; files |
//! | `poll`, or `ppoll` where there is no `poll` | a worker's state that is sent or awaited |
//! | `brk`, `mmap`, `mremap`, `munmap`, `mprotect`, never executable | allocators |
//! | `madvise` | malloc_trim(3), once a flood is over |
//! | `futex` | libraries that initialise once, as for a panic |
//! | `clock_gettime` | the time, where the C library must ask the kernel |
//! | `clock_nanosleep`, `restart_syscall` | `std::thread::sleep`, and its rest after the process was stopped |
//! | `getrandom` | keys of hash maps |
//! | `geteuid` | the log event that names the user who serves |
//! | `prctl` (`PR_SET_PDEATHSIG`) | an order to live on when the master ends |
//! | `bpf` (`BPF_MAP_UPDATE_ELEM`) | listeners that are put into the map of a steering program |
//! | `getpid`, `gettid`, `tgkill` to itself, `rt_sigprocmask`, `rt_sigaction` | abort(3) |
//! | `rt_sigaction`, `rt_sigreturn` | the standard library's handler of SIGSEGV, which checks for a stack overflow |
//! | `sigaltstack`, `exit_group` | the end of the process |
//! | `exit` | the end of a thread: if it fails, the C library tries again without end |

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter,
};

use crate::types::SystemCalls;

/// By number: conditions on arguments, one of which must hold. An empty list means any call.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// `BPF_MAP_UPDATE_ELEM` of linux/bpf.h: a worker puts its listeners into the map that it was given.
const BPF_MAP_UPDATE: u64 = 2;

/// From linux/socket.h; libc does not name it.
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;

/// The other bits of a socket's type are flags (socket(2)).
const SOCKET_TYPE_MASK: u64 = 0xf;

/// Bit of the numbers of the x32 calls (asm/unistd.h), which belong to the same architecture for a filter.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Calls for which x32 has numbers of its own.
#[cfg(target_arch = "x86_64")]
const X32_OWN: std::ops::RangeInclusive<i64> = 512..=547;

/// Checks that a filter can be set up here.
///
/// # Errors
/// The reason why not.
pub(crate) fn check_available() -> io::Result<()> {
    target()?;
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads one 32-bit number (kernel 4.14).
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Denies the calling thread, and all that it starts, every system call but these; with `reads_files`, openat2(2) is
/// one of them. A filter cannot look at a path: a Landlock domain says which files these are. There is no way back.
///
/// # Errors
/// If this kernel has no filters, or not for this architecture.
pub(crate) fn allow_only(calls: SystemCalls, reads_files: bool) -> io::Result<()> {
    match calls {
        SystemCalls::ServeOnly => {
            let mut rules = allowed()?;
            if reads_files {
                // The other calls that reading needs, pread(2) and statx(2), are allowed in any case.
                rules.insert(libc::SYS_openat2, Vec::new());
            }
            apply(compile(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?)
        }
        SystemCalls::Usual => {
            // A filter cannot see whether clone3(2) starts a process. A library that gets ENOSYS uses clone(2).
            let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
            apply(compile(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?)?;
            apply(compile(denied()?, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?)
        }
        SystemCalls::Any => Ok(()),
    }
}

fn target() -> io::Result<TargetArch> {
    std::env::consts::ARCH.try_into().map_err(|_| io::Error::other("there is no filter for this architecture"))
}

fn compile(rules: Rules, other: SeccompAction, listed: SeccompAction) -> io::Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, other, listed, target()?).and_then(TryInto::try_into);
    filter.map_err(io::Error::other)
}

fn apply(program: BpfProgram) -> io::Result<()> {
    apply_filter(&program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        error => io::Error::other(error),
    })
}

/// A condition on argument `index`. All arguments compared here have 32 bits, or have their meaning in the lower ones.
fn argument(index: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, Dword, how, value)
}

/// Argument `index` must be one of these values.
fn one_of(index: u8, values: &[libc::c_int]) -> Result<Vec<SeccompRule>, BackendError> {
    let rules = values.iter().map(|value| SeccompRule::new(vec![argument(index, Eq, *value as u32 as u64)?]));
    rules.collect()
}

/// All calls that the engine makes once a worker is set up, and those of the allocator, the standard library and a
/// panic.
fn allowed() -> io::Result<Rules> {
    let unconditional = [
        libc::SYS_io_uring_enter,
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendfile,
        libc::SYS_accept4,
        libc::SYS_shutdown,
        libc::SYS_getpeername,
        libc::SYS_getsockname,
        libc::SYS_getsockopt,
        libc::SYS_memfd_create,
        libc::SYS_pread64,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        #[cfg(not(target_arch = "x86_64"))]
        libc::SYS_ppoll,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_restart_syscall,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_geteuid,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // Other C libraries use these for a file's length, and to sleep.
        #[cfg(not(target_env = "gnu"))]
        libc::SYS_fstat,
        #[cfg(not(target_env = "gnu"))]
        libc::SYS_nanosleep,
    ];
    let mut rules = all(&unconditional);
    let conditional = (|| {
        let own = [std::process::id() as libc::c_int];
        let not_executable =
            |index| Ok(vec![SeccompRule::new(vec![argument(index, MaskedEq(libc::PROT_EXEC as u64), 0)?])?]);
        // The length of a file that came from another worker; a path is not needed.
        let empty = libc::AT_EMPTY_PATH as u64;
        Ok::<_, BackendError>([
            // Only sockets of the kind that workers use among each other.
            (
                libc::SYS_socketpair,
                vec![SeccompRule::new(vec![
                    argument(0, Eq, libc::AF_UNIX as u64)?,
                    argument(1, MaskedEq(SOCKET_TYPE_MASK), libc::SOCK_SEQPACKET as u64)?,
                ])?],
            ),
            (
                libc::SYS_setsockopt,
                vec![
                    socket_option(libc::IPPROTO_TCP, libc::TCP_NODELAY)?,
                    socket_option(libc::SOL_SOCKET, libc::SO_LINGER)?,
                ],
            ),
            (
                libc::SYS_fcntl,
                one_of(
                    1,
                    &[
                        libc::F_DUPFD_CLOEXEC,
                        libc::F_GETFD,
                        libc::F_SETFD,
                        libc::F_GETFL,
                        libc::F_SETFL,
                        libc::F_ADD_SEALS,
                        libc::F_GET_SEALS,
                    ],
                )?,
            ),
            (libc::SYS_mmap, not_executable(2)?),
            (libc::SYS_mprotect, not_executable(2)?),
            (libc::SYS_statx, vec![SeccompRule::new(vec![argument(2, MaskedEq(empty), empty)?])?]),
            // An order to live on when the master ends; and an end by a signal, as with abort(3).
            (libc::SYS_prctl, one_of(0, &[libc::PR_SET_PDEATHSIG])?),
            (libc::SYS_tgkill, one_of(0, &own)?),
            (libc::SYS_bpf, vec![SeccompRule::new(vec![argument(0, Eq, BPF_MAP_UPDATE)?])?]),
        ])
    })();
    rules.extend(conditional.map_err(io::Error::other)?);
    Ok(rules)
}

/// Calls that no callback of a server should make.
fn denied() -> io::Result<Rules> {
    let unconditional = [
        // Programs.
        libc::SYS_execve,
        libc::SYS_execveat,
        // Other processes.
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_process_mrelease,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_tkill,
        libc::SYS_pidfd_send_signal,
        libc::SYS_move_pages,
        libc::SYS_migrate_pages,
        // Ways around this filter, and frequent attack surfaces of the kernel.
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_register,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_personality,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        // Namespaces and mounts.
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_open_by_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        // The machine.
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_acct,
        libc::SYS_syslog,
        libc::SYS_vhangup,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        #[cfg(not(target_arch = "riscv64"))]
        libc::SYS_kexec_load,
        #[cfg(not(target_arch = "riscv64"))]
        libc::SYS_kexec_file_load,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_ioperm,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_modify_ldt,
    ];
    let mut rules = all(&unconditional);
    let conditional = (|| {
        // All families except those of unix(7), ip(7), ipv6(7), and netlink(7), which looks up names and interfaces.
        let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        let other_family: Result<_, _> = families.iter().map(|family| argument(0, Ne, *family as u64)).collect();
        // Options that decide which connections a socket gets. Only the master may set them, for the whole group of an
        // address.
        let filters = [
            libc::SO_ATTACH_FILTER,
            libc::SO_ATTACH_BPF,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            libc::SO_ATTACH_REUSEPORT_EBPF,
            SO_DETACH_REUSEPORT_BPF,
        ];
        let attached: Result<_, _> = filters.iter().map(|option| socket_option(libc::SOL_SOCKET, *option)).collect();
        let others = || Ok(vec![SeccompRule::new(vec![argument(0, Ne, u64::from(std::process::id()))?])?]);
        Ok::<_, BackendError>([
            // Signals, except to itself.
            (libc::SYS_kill, others()?),
            (libc::SYS_tgkill, others()?),
            (libc::SYS_rt_sigqueueinfo, others()?),
            (libc::SYS_rt_tgsigqueueinfo, others()?),
            (libc::SYS_socket, vec![SeccompRule::new(other_family?)?]),
            (libc::SYS_setsockopt, attached?),
            // A new process, not a thread.
            (libc::SYS_clone, vec![SeccompRule::new(vec![argument(0, MaskedEq(libc::CLONE_THREAD as u64), 0)?])?]),
            (libc::SYS_bpf, vec![SeccompRule::new(vec![argument(0, Ne, BPF_MAP_UPDATE)?])?]),
        ])
    })();
    rules.extend(conditional.map_err(io::Error::other)?);
    #[cfg(target_arch = "x86_64")]
    {
        let of_x32: Vec<i64> =
            rules.keys().copied().chain([libc::SYS_clone3]).chain(X32_OWN).map(|number| number | X32).collect();
        rules.extend(all(&of_x32));
    }
    Ok(rules)
}

fn all(numbers: &[c_long]) -> Rules {
    numbers.iter().map(|number| (*number, Vec::new())).collect()
}

fn socket_option(level: libc::c_int, option: libc::c_int) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![argument(1, Eq, level as u64)?, argument(2, Eq, option as u64)?])
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::net::{TcpListener, TcpStream, ToSocketAddrs};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use nix::errno::Errno;
    use nix::unistd::getppid;

    use super::*;

    /// Runs on a confined thread.
    fn confined<T: Send + 'static>(calls: SystemCalls, body: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = thread::spawn(move || {
            allow_only(calls, false).expect("a filter");
            body()
        });
        thread.join().expect("no panic")
    }

    fn call(number: c_long, arguments: [c_long; 4]) -> Result<(), Errno> {
        let [a, b, c, d] = arguments;
        // SAFETY: each caller gives the reason why its call does no harm if it is carried out.
        Errno::result(unsafe { libc::syscall(number, a, b, c, d, 0, 0) }).map(drop)
    }

    /// Attempts of an attacker in a compromised worker. None of them has an effect if it is not denied.
    fn attacks(listener: c_long) -> Vec<(&'static str, Result<(), Errno>)> {
        let parent = c_long::from(getppid().as_raw());
        let level = c_long::from(libc::SOL_SOCKET);
        let mut results = vec![
            // All of these point to nothing, or ask for something that does not exist.
            ("execve", call(libc::SYS_execve, [0, 0, 0, 0])),
            ("execveat", call(libc::SYS_execveat, [-1, 0, 0, 0])),
            ("clone", call(libc::SYS_clone, [c_long::from(libc::CLONE_SIGHAND), 0, 0, 0])),
            ("ptrace", call(libc::SYS_ptrace, [c_long::from(libc::PTRACE_PEEKDATA), parent, 0, 0])),
            ("process_vm_writev", call(libc::SYS_process_vm_writev, [parent, 0, 0, 0])),
            ("pidfd_getfd", call(libc::SYS_pidfd_getfd, [-1, 0, 0, 0])),
            ("bpf program", call(libc::SYS_bpf, [5, 0, 0, 0])),
            ("bpf map", call(libc::SYS_bpf, [0, 0, 0, 0])),
            ("perf_event_open", call(libc::SYS_perf_event_open, [0, 0, -1, -1])),
            ("unshare", call(libc::SYS_unshare, [c_long::from(libc::CLONE_NEWUSER) | 1, 0, 0, 0])),
            ("setns", call(libc::SYS_setns, [-1, 0, 0, 0])),
            ("mount", call(libc::SYS_mount, [0, 0, 0, 0])),
            ("init_module", call(libc::SYS_init_module, [0, 0, 0, 0])),
            ("keyctl", call(libc::SYS_keyctl, [-1, 0, 0, 0])),
            ("userfaultfd", call(libc::SYS_userfaultfd, [-1, 0, 0, 0])),
            ("io_uring_setup", call(libc::SYS_io_uring_setup, [0, 0, 0, 0])),
            ("io_uring_register", call(libc::SYS_io_uring_register, [-1, 0, 0, 0])),
            ("packet socket", call(libc::SYS_socket, [c_long::from(libc::AF_PACKET), -1, 0, 0])),
            ("key socket", call(libc::SYS_socket, [c_long::from(libc::AF_ALG), -1, 0, 0])),
        ];
        for option in [libc::SO_ATTACH_REUSEPORT_CBPF, libc::SO_ATTACH_REUSEPORT_EBPF, libc::SO_ATTACH_FILTER] {
            results.push(("attach", call(libc::SYS_setsockopt, [listener, level, c_long::from(option), 0])));
        }
        let detach = call(libc::SYS_setsockopt, [listener, level, c_long::from(SO_DETACH_REUSEPORT_BPF), 0]);
        results.push(("detach", detach));
        #[cfg(target_arch = "x86_64")]
        results.extend([
            ("x32 ptrace", call(521 | X32, [c_long::from(libc::PTRACE_PEEKDATA), parent, 0, 0])),
            ("x32 bpf", call(libc::SYS_bpf | X32, [5, 0, 0, 0])),
            ("iopl", call(libc::SYS_iopl, [-1, 0, 0, 0])),
        ]);
        results
    }

    #[test]
    fn what_no_server_needs_is_denied() {
        for calls in [SystemCalls::Usual, SystemCalls::ServeOnly] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            let number = c_long::from(listener.as_raw_fd());
            for (attack, result) in confined(calls, move || attacks(number)) {
                assert_eq!(result, Err(Errno::EPERM), "{calls:?}: {attack}");
            }
        }
    }

    #[test]
    fn a_process_is_told_that_there_is_no_clone3_so_that_threads_are_made_by_clone() {
        assert_eq!(confined(SystemCalls::Usual, || call(libc::SYS_clone3, [0, 0, 0, 0])), Err(Errno::ENOSYS));
        assert_eq!(confined(SystemCalls::ServeOnly, || call(libc::SYS_clone3, [0, 0, 0, 0])), Err(Errno::EPERM));
    }

    #[test]
    fn callbacks_may_use_files_threads_names_and_sockets() {
        confined(SystemCalls::Usual, || {
            File::open("/proc/self/status").expect("a file");
            thread::spawn(|| ()).join().expect("a thread");
            assert!(("localhost", 80).to_socket_addrs().expect("a name").next().is_some());
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        });
    }

    #[test]
    fn one_that_only_serves_has_memory_and_time_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        let file = File::open(std::env::current_exe().expect("a path")).expect("a file");
        let length = file.metadata().expect("known").len();
        confined(SystemCalls::ServeOnly, move || {
            let is_denied = |error: io::Error| error.raw_os_error() == Some(libc::EPERM);
            assert!(File::open("/proc/self/status").is_err_and(is_denied));
            assert!(TcpStream::connect(address).is_err_and(is_denied));
            assert!(UnixStream::pair().is_err_and(is_denied));
            assert!(fs::metadata("/proc/self/status").is_err_and(is_denied));
            assert_eq!(file.metadata().expect("it is open").len(), length);
            assert!(thread::Builder::new().spawn(|| ()).is_err_and(is_denied));
            assert_eq!(call(libc::SYS_kill, [c_long::from(getppid().as_raw()), 0, 0, 0]), Err(Errno::EPERM));
            let executable = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
            assert_eq!(call(libc::SYS_mmap, [0, 4096, executable, 0]), Err(Errno::EPERM));
            assert_eq!(vec![1_u8; 64 << 20].len(), 64 << 20);
            assert!(std::time::Instant::now().elapsed().as_secs() < 60);
            thread::sleep(std::time::Duration::from_millis(1));
        });
    }
}
