//! Where a worker can be found by a master that did not start it.
//!
//! Every worker of a server with a control socket listens at an abstract name made of that socket's path and its own
//! process id. Nobody is let in while its master lives; when that is gone, the next master of the same control socket
//! finds the workers by their names and takes them over. Abstract names belong to the network namespace, as ports do,
//! and end with the process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

/// Masters that may wait at once: one, and one that was killed before it was let in.
const BACKLOG: i32 = 4;

/// The part of the names that all workers of one control socket share.
pub(crate) fn key(control: &Path) -> String {
    // FNV-1a: names are short, and need not withstand anybody, since credentials are checked.
    let path = std::path::absolute(control).unwrap_or_else(|_| control.to_owned());
    let hash =
        path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    format!("baton/{hash:016x}/")
}

fn address(key: &str, pid: u32) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0{key}{pid}"))
}

/// A worker's end.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    socket: Socket,
    /// The user that the worker was started as; it may have become another since.
    user: u32,
}

impl Rendezvous {
    /// Listens as this process.
    ///
    /// # Errors
    /// As socket(2), bind(2), listen(2).
    pub(crate) fn open(key: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.bind(&address(key, std::process::id())?)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, user: geteuid().as_raw() })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The channel of a master that has come: one of root, or of the user this worker was started as.
    pub(crate) fn accept(&self) -> Option<OwnedFd> {
        // Strangers who keep coming are no reason to look for ever: each who comes is told of.
        for _ in 0..2 * BACKLOG {
            match self.socket.accept() {
                Ok((socket, _)) if is_of(&socket, self.user) => {
                    return socket.set_nonblocking(false).is_ok().then(|| socket.into());
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        None
    }
}

fn is_of(socket: &Socket, user: u32) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == user)
}

/// The process that made the other end of a channel, or connected it (`SO_PEERCRED`, unix(7)); `None` where that is in
/// another namespace.
pub(crate) fn peer_process(channel: &impl AsFd) -> Option<u32> {
    let credentials = getsockopt(channel, PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0)
}

/// A worker that was found.
pub(crate) struct Found {
    pub(crate) pid: u32,
    /// It is heard there once its own master is gone.
    pub(crate) channel: OwnedFd,
}

/// Finds the workers of a control socket, except those known, and knocks at each.
pub(crate) fn find_others(key: &str, known: &[u32]) -> Vec<Found> {
    let names = fs::read("/proc/net/unix").unwrap_or_default();
    let names = String::from_utf8_lossy(&names);
    // The last column is the path; @ stands for the zero byte of an abstract name.
    let numbers = names.lines().filter_map(|line| line.rsplit(' ').next()?.strip_prefix('@')?.strip_prefix(key));
    let mut pids: Vec<u32> = numbers.filter_map(|number| number.parse().ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| !known.contains(pid));
    pids.into_iter().filter_map(|pid| knock(key, pid)).collect()
}

fn knock(key: &str, pid: u32) -> Option<Found> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).ok()?;
    // A worker whose queue is full must not keep the master waiting.
    socket.set_nonblocking(true).ok()?;
    socket.connect(&address(key, pid).ok()?).ok()?;
    socket.set_nonblocking(false).ok()?;
    // The credentials are those of whoever listens: nobody else can pretend to be a worker.
    is_of(&socket, geteuid().as_raw()).then(|| Found { pid, channel: socket.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::channel::{Heard, hear, tell};
    use crate::ipc::orders::Order;

    #[test]
    fn a_worker_is_found_by_the_path_of_its_control_socket() {
        let key = key(Path::new("/nowhere/control"));
        assert!(find_others(&key, &[]).is_empty());
        let rendezvous = Rendezvous::open(&key).expect("listening");
        assert!(rendezvous.accept().is_none());
        let found = find_others(&key, &[]);
        assert_eq!(found.iter().map(|one| one.pid).collect::<Vec<_>>(), [std::process::id()]);
        tell(&found[0].channel, &Order::Ping).expect("told");
        let channel = rendezvous.accept().expect("a master has come");
        assert_eq!(hear(&channel).expect("heard"), Heard::Message(Order::Ping));
        assert!(find_others(&super::key(Path::new("/nowhere/else")), &[]).is_empty());
    }
}
