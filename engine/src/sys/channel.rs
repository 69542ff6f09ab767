//! Packets over a Unix socket, each with descriptors or without.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Descriptors of one packet at most (SCM_MAX_FD of unix(7)).
pub(crate) const DESCRIPTORS_MAX: usize = 253;

/// Sends one packet; never blocks.
///
/// # Errors
/// `WouldBlock` where the channel is full; else as sendmsg(2).
pub(crate) fn send(channel: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Takes one packet into `buffer`; never blocks. Its length is 0 where the other side is gone.
///
/// # Errors
/// `WouldBlock` where none is there; else as recvmsg(2).
pub(crate) fn receive(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    // Where the other side went without reading all, that is told once, before what it had said last.
    let mut is_reset = false;
    let message = loop {
        match recvmsg::<()>(channel.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => break message,
            Err(Errno::ECONNRESET) if !is_reset => is_reset = true,
            Err(Errno::ECONNRESET) => return Ok((0, Vec::new())),
            Err(error) => return Err(error.into()),
        }
    };
    let mut received = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            for descriptor in descriptors {
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                received.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
    Ok((message.bytes, received))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn last_words_are_heard_of_one_that_did_not_listen() {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.expect("a pair");
        send(ours.as_fd(), b"never read", &[]).expect("sent");
        send(theirs.as_fd(), b"last words", &[]).expect("sent");
        drop(theirs);
        let mut buffer = [0; 64];
        let (length, _) = receive(ours.as_fd(), &mut buffer).expect("received");
        assert_eq!(&buffer[..length], b"last words");
        assert_eq!(receive(ours.as_fd(), &mut buffer).expect("the end").0, 0);
    }
}
