//! Accepting from a listen socket that other processes accept from as well, without ever waiting.
//!
//! Such a socket blocks: O_NONBLOCK belongs to the open file, so it would be set for the others too, and their rings'
//! accepts would fail. The same is true of SO_RCVTIMEO, and whoever resets it turns another's accept(2) into a wait without
//! end. A ring, however, tries an operation without blocking first, whatever the file says (`io_accept` of the kernel's
//! `io_uring/net.c`, with IO_URING_F_NONBLOCK), and a linked time-out ends what did not succeed at once.
//! (IORING_ACCEPT_DONTWAIT would do it without the time-out, from kernel 6.10 on; older ones are supported here.)

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use io_uring::squeue::Flags;
use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, opcode};

use super::ring::enable_only;

const ACCEPT: u64 = 1;
const TIME_OUT: u64 = 2;

/// Not at once: the kernel takes the time-out only if the accept did not succeed at its first try.
static NO_TIME: Timespec = Timespec::new();

/// See the module's head. Its ring is made when it is needed first. Not to be kept over a fork: both processes would have the
/// same ring.
#[derive(Default)]
pub(crate) struct Acceptor {
    ring: Option<IoUring>,
}

impl Acceptor {
    /// One that has its ring, which can do nothing else.
    ///
    /// # Errors
    /// As io_uring_setup(2) and io_uring_register(2).
    pub(crate) fn made() -> io::Result<Self> {
        let ring: IoUring = IoUring::builder().dontfork().setup_r_disabled().build(2)?;
        enable_only(&ring, &[opcode::Accept::CODE, opcode::LinkTimeout::CODE], Flags::IO_LINK)?;
        Ok(Self { ring: Some(ring) })
    }

    /// A connection that waits; `None` where none does. When this returns, the ring does not hold the listener any more.
    ///
    /// # Errors
    /// As accept(2), io_uring_setup(2) and io_uring_enter(2).
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        let accept = opcode::Accept::new(Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
        let accept = accept.flags(libc::SOCK_CLOEXEC).build().flags(Flags::IO_LINK).user_data(ACCEPT);
        let time_out = opcode::LinkTimeout::new(&raw const NO_TIME).build().user_data(TIME_OUT);
        if self.ring.is_none() {
            *self = Self::made()?;
        }
        let ring = self.ring.as_mut().expect("just made");
        // SAFETY: the accept points to no memory, and the time-out to memory that lives for ever. The ring is empty
        // between calls, so there is room for both.
        unsafe { ring.submission().push_multiple(&[accept, time_out]).expect("room for two") };
        let (mut accepted, mut outstanding) = (None, 2);
        while outstanding > 0 {
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for completion in ring.completion() {
                outstanding -= 1;
                if completion.user_data() == ACCEPT {
                    accepted = Some(completion.result());
                }
            }
        }
        match accepted.unwrap_or(-libc::ECANCELED) {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            descriptor @ 0.. => Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) })),
            error if matches!(-error, libc::ECANCELED | libc::EAGAIN | libc::EINTR) => Ok(None),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

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
}
