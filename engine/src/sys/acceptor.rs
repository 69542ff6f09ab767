//! Accepts from a listen socket that other processes accept from as well, without ever waiting.
//!
//! Such a socket blocks: O_NONBLOCK belongs to the open file, so it would be set for the others too, and their rings'
//! accepts would fail. The same is true of SO_RCVTIMEO: a process that resets it turns another's accept(2) into an
//! endless wait. A ring, however, first tries an operation without blocking, whatever the file says (`io_accept` of the
//! kernel's `io_uring/net.c`, with IO_URING_F_NONBLOCK). An accept that did not succeed at once is cancelled, again and
//! again until it has ended: one attempt may find nothing to cancel, while the accept is between two looks at the
//! socket. (For the same reason a linked timeout does not work: it cancels once. IORING_ACCEPT_DONTWAIT would work
//! without cancelling, from kernel 6.10 on; older kernels are supported here.)

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use io_uring::squeue::Flags;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};

use super::ring::enable_only;

const ACCEPT: u64 = 1;
const CANCEL: u64 = 2;

/// Accepts without waiting. Its ring is created when it is first needed. Do not keep it over a fork: both processes
/// would have the same ring.
#[derive(Default)]
pub(crate) struct Acceptor {
    ring: Option<IoUring>,
}

impl Acceptor {
    /// An acceptor that has its ring, which can do nothing else.
    ///
    /// # Errors
    /// As io_uring_setup(2) and io_uring_register(2).
    pub(crate) fn made() -> io::Result<Self> {
        let ring: IoUring = IoUring::builder().dontfork().setup_r_disabled().build(2)?;
        enable_only(&ring, &[opcode::Accept::CODE, opcode::AsyncCancel::CODE], Flags::empty())?;
        Ok(Self { ring: Some(ring) })
    }

    /// Accepts a waiting connection; `None` if there is none. When this returns, the ring does not hold the listener
    /// any more.
    ///
    /// # Errors
    /// As accept(2), io_uring_setup(2) and io_uring_enter(2).
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        if self.ring.is_none() {
            *self = Self::made()?;
        }
        let ring = self.ring.as_mut().expect("just made");
        let accept = opcode::Accept::new(Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
        ask(ring, &accept.flags(libc::SOCK_CLOEXEC).build().user_data(ACCEPT), 0)?;
        let accepted = loop {
            let outcome = ring.completion().find(|completion| completion.user_data() == ACCEPT);
            if let Some(completion) = outcome {
                break completion.result();
            }
            ask(ring, &opcode::AsyncCancel::new(ACCEPT).build().user_data(CANCEL), 1)?;
        };
        match accepted {
            // SAFETY: the kernel has just created this descriptor for us, and no other code knows it.
            descriptor @ 0.. => Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) })),
            error if matches!(-error, libc::ECANCELED | libc::EAGAIN | libc::EINTR) => Ok(None),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

/// Submits an operation that points to no memory, and waits until `wanted` operations have ended.
fn ask(ring: &mut IoUring, operation: &squeue::Entry, wanted: usize) -> io::Result<()> {
    // SAFETY: it points to no memory.
    unsafe { ring.submission().push(operation).expect("room, since all before was submitted") };
    loop {
        match ring.submit_and_wait(wanted) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn an_accept_takes_what_waits_and_does_not_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let mut acceptor = Acceptor::made().expect("a ring");
        let start = Instant::now();
        assert!((0..100).all(|_| acceptor.accept(listener.as_fd()).expect("asked").is_none()));
        assert!(start.elapsed().as_millis() < 1_000, "it waits: {:?} for a hundred", start.elapsed());
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let connection = acceptor.accept(listener.as_fd()).expect("asked").expect("somebody waits");
        assert_eq!(TcpStream::from(connection).peer_addr().ok(), client.local_addr().ok());
        assert!(acceptor.accept(listener.as_fd()).expect("asked").is_none());
        let plain = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        assert!(acceptor.accept(plain.as_fd()).is_err(), "it does not listen");
    }

    /// Another process may already have accepted a connection that was seen to wait.
    #[test]
    fn an_accept_does_not_wait_where_another_is_faster() {
        const CLIENTS: usize = 500;
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        let taken = Arc::new(AtomicUsize::new(0));
        let accepting: Vec<_> = (0..2)
            .map(|_| {
                let (listener, taken) = (listener.try_clone().expect("cloned"), Arc::clone(&taken));
                thread::spawn(move || {
                    let mut acceptor = Acceptor::made().expect("a ring");
                    while taken.load(Ordering::Relaxed) < CLIENTS {
                        let accepted = acceptor.accept(listener.as_fd()).expect("asked");
                        taken.fetch_add(usize::from(accepted.is_some()), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..CLIENTS {
            drop(TcpStream::connect(address).expect("connected"));
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !accepting.iter().all(thread::JoinHandle::is_finished) {
            assert!(Instant::now() < deadline, "an accept waits; {taken:?} of {CLIENTS} were taken");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
