//! A server with compromised workers: each line that a client sends names an attack, which the worker tries. It answers
//! `done`, or the number of the error. With the variable `SERVE_ONLY` its callbacks claim to need no system calls.
//! Other lines are not attacks: they do what a filter must allow every callback.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{self, Command};
use std::thread;
use std::time::Duration;

use baton::{Io, Peer, Protocol, Reject, Server, ServerError, Service, Step, SystemCalls};
use batond::cli::Arguments;
use batond::config::Config;
use batond::logging;
use clap::Parser;
use io_uring::IoUring;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, openat2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::signal::kill;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{getppid, setuid};
use socket2::{Domain, SockFilter, Socket, Type};

/// From errno(3).
const ECONNRESET: i32 = 104;

struct TakenOver<const SERVES_ONLY: bool>;

impl<const SERVES_ONLY: bool> Protocol for TakenOver<SERVES_ONLY> {
    type Connection = ();
    type Message = ();

    const SYSTEM_CALLS: SystemCalls = if SERVES_ONLY { SystemCalls::ServeOnly } else { SystemCalls::Usual };

    fn on_open(&mut self, peer: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        peer.local_address().map(drop).map_err(|_| Reject::Abort)
    }

    fn on_data(&mut self, _: &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        let mut consumed = 0;
        for line in input.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            consumed += line.len();
            let answer = match attempt(String::from_utf8_lossy(line).trim()) {
                Ok(()) => "done\n".to_owned(),
                Err(error) => format!("{}\n", error.raw_os_error().unwrap_or(0)),
            };
            io.write(answer.as_bytes());
        }
        Step::more(consumed)
    }
}

/// Tries an attack. If it succeeds, it does no harm.
fn attempt(attack: &str) -> io::Result<()> {
    let (name, target) = attack.split_once(' ').unwrap_or((attack, ""));
    match name {
        "abort" => process::abort(),
        "panic" => panic!("as asked"),
        "sleep" => {
            thread::sleep(Duration::from_millis(target.parse().unwrap_or(0)));
            Ok(())
        }
        "program" => Command::new("true").status().map(drop),
        "thread" => thread::Builder::new().spawn(|| ()).map(drop),
        "file" => File::open("/proc/self/status").map(drop),
        "read_file" => File::from(openat2(AT_FDCWD, target, OpenHow::new())?).read(&mut [0]).map(drop),
        "write_file" => Ok(openat2(AT_FDCWD, target, OpenHow::new().flags(OFlag::O_WRONLY)).map(drop)?),
        "connect" => TcpStream::connect(target).map(drop),
        "ring" => IoUring::new(2).map(drop),
        "namespace" => Ok(unshare(CloneFlags::CLONE_NEWUTS)?),
        "root" => Ok(setuid(0.into())?),
        "trace" => {
            ptrace::attach(getppid())?;
            waitpid(getppid(), Some(WaitPidFlag::__WALL))?;
            Ok(ptrace::detach(getppid(), None)?)
        }
        "read" => {
            let remote = [RemoteIoVec { base: text_address()?, len: 1 }];
            process_vm_readv(getppid(), &mut [IoSliceMut::new(&mut [0])], &remote)?;
            Ok(())
        }
        "write" => {
            // Nothing is written, but the permission is needed.
            process_vm_writev(getppid(), &[IoSlice::new(&[])], &[RemoteIoVec { base: 4096, len: 0 }])?;
            Ok(())
        }
        "memory" => {
            let own = process::id().to_string();
            let sibling = target.split(' ').find(|pid| *pid != own).unwrap_or_default();
            File::options().write(true).open(format!("/proc/{sibling}/mem")).map(drop)
        }
        "signal" => Ok(kill(getppid(), None)?),
        "filter" => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            let all = SockFilter::new(0x06, 0, 0, u32::MAX);
            socket.attach_filter(&[all])
        }
        "order" => {
            let mut stream = UnixStream::connect(target)?;
            // If the master refuses a client, it closes the connection at once.
            let _ = stream.write_all(b"{\"request\":\"status\"}\n");
            let is_answered = stream.read(&mut [0]).is_ok_and(|length| length > 0);
            if is_answered { Ok(()) } else { Err(io::Error::from_raw_os_error(ECONNRESET)) }
        }
        _ => Err(io::Error::other("there is no such attack")),
    }
}

/// An address that is also valid in the master, since it forked this process.
fn text_address() -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let first = maps.split('-').next().and_then(|address| usize::from_str_radix(address, 16).ok());
    first.ok_or_else(|| io::Error::other("no address"))
}

fn main() -> Result<(), ServerError> {
    let config = Config::resolve(&Arguments::parse().choices(), None).expect("flags that make sense");
    logging::start(config.log_level, config.log_format);
    let serves_only = std::env::var_os("SERVE_ONLY").is_some();
    let service =
        || if serves_only { Service::new(|_| TakenOver::<true>) } else { Service::new(|_| TakenOver::<false>) };
    let reload = || Ok((config.settings.clone(), service()));
    Server::builder().settings(config.settings.clone()).build()?.run_with_reload(service(), reload)
}
