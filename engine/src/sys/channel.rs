//! Packets over a Unix socket, with or without descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg};
use socket2::SockRef;

/// The most descriptors of one packet (SCM_MAX_FD of unix(7)).
pub(crate) const DESCRIPTORS_MAX: usize = 253;

/// Not in `libc` yet; include/uapi/asm-generic/socket.h, kernel 6.16.
const SO_PASSRIGHTS: libc::c_int = 83;

/// From now on, sending a descriptor over this channel fails with EPERM. Without this, a sent descriptor arrives
/// whether it is received or not, and the kernel may wait while it closes it.
///
/// # Errors
/// ENOPROTOOPT before kernel 6.16.
pub(crate) fn refuse_descriptors(channel: BorrowedFd<'_>) -> io::Result<()> {
    let off: libc::c_int = 0;
    let length = size_of_val(&off) as libc::socklen_t;
    // SAFETY: setsockopt(2) reads an integer of the given length.
    let result = unsafe {
        libc::setsockopt(channel.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const off).cast(), length)
    };
    Errno::result(result)?;
    Ok(())
}

/// Sends one packet; never blocks.
///
/// # Errors
/// `WouldBlock` if the channel is full; else as sendmsg(2).
pub(crate) fn send(channel: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Receives one packet into `buffer`, and drops its descriptors; never blocks. The length is 0 if the other side is
/// gone.
///
/// # Errors
/// As [`receive`].
pub(crate) fn receive_bytes(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut is_reset = false;
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg::<()>(channel.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT) {
            Ok(message) if message.flags.contains(MsgFlags::MSG_TRUNC) => return Err(io::ErrorKind::InvalidData.into()),
            Ok(message) => return Ok(message.bytes),
            // As in `receive`.
            Err(Errno::ECONNRESET) if !is_reset => is_reset = true,
            Err(Errno::ECONNRESET) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one packet into `buffer`; never blocks. The length is 0 if the other side is gone. If this process has no
/// room for all descriptors of the packet (its limit of open files), the result has only those that there was room for.
/// Closing them does not wait for a peer (SO_LINGER of socket(7)), whatever the sender has set.
///
/// # Errors
/// `WouldBlock` if there is no packet; `InvalidData` if the packet is larger than the buffer; else as recvmsg(2).
pub(crate) fn receive(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Without a library: there, missing descriptors of a packet are an error, and those that came would stay open.
    let mut control = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a message of zeroes is an empty one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    // If the other side closed without reading everything, recvmsg(2) reports that once, before that side's last
    // messages.
    let mut is_reset = false;
    let length = loop {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.capacity() as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the message names memory that is valid for writes of the given lengths, and that lives on.
        match Errno::result(unsafe { libc::recvmsg(channel.as_raw_fd(), &raw mut message, flags) }) {
            Ok(length) => break length as usize,
            Err(Errno::ECONNRESET) if !is_reset => is_reset = true,
            Err(Errno::ECONNRESET) => return Ok((0, Vec::new())),
            Err(error) => return Err(error.into()),
        }
    };
    let mut received = Vec::new();
    // SAFETY: the kernel has filled the message, whose memory lives on.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the header lies within the control memory, as CMSG_FIRSTHDR and CMSG_NXTHDR have checked.
        let (level, kind, bytes) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: plain arithmetic.
            let head_bytes = unsafe { libc::CMSG_LEN(0) } as usize;
            for index in 0..bytes.saturating_sub(head_bytes) / size_of::<RawFd>() {
                // SAFETY: the header's length says that there are this many descriptors, perhaps unaligned. The kernel
                // has just created each of them for us, and no other code knows it.
                received.push(unsafe {
                    OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().add(index).read_unaligned())
                });
            }
        }
        // SAFETY: both were filled above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    for descriptor in &received {
        // Most are sockets; only sockets have this option.
        let _ = SockRef::from(descriptor).set_linger(None);
    }
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((length, received))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    /// A channel, a connection with bytes that its peer does not take, and that peer.
    fn with_unsent_bytes() -> (OwnedFd, OwnedFd, TcpStream, TcpStream) {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (mut connection, _) = listener.accept().expect("accepted");
        connection.set_nonblocking(true).expect("set");
        while connection.write(&[0; 65_536]).is_ok() {}
        (ours, theirs, connection, peer)
    }

    #[test]
    fn a_descriptor_that_lingers_is_closed_at_once() {
        let (ours, theirs, connection, _peer) = with_unsent_bytes();
        SockRef::from(&connection).set_linger(Some(Duration::from_secs(5))).expect("set");
        send(theirs.as_fd(), b"look", &[connection.as_fd()]).expect("sent");
        drop(connection);
        let begun = Instant::now();
        drop(receive(ours.as_fd(), &mut [0; 64]).expect("received"));
        assert!(begun.elapsed() < Duration::from_secs(1), "closing took {:?}", begun.elapsed());
    }

    #[test]
    fn a_channel_that_refuses_descriptors_still_carries_words() {
        let (ours, theirs, connection, _peer) = with_unsent_bytes();
        if refuse_descriptors(ours.as_fd()).is_err() {
            return println!("SKIPPED: SO_PASSRIGHTS needs kernel 6.16");
        }
        let refused = send(theirs.as_fd(), b"look", &[connection.as_fd()]).expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        send(theirs.as_fd(), b"words", &[]).expect("sent");
        send(ours.as_fd(), b"look", &[connection.as_fd()]).expect("the other way");
        let mut buffer = [0; 64];
        assert_eq!(receive(ours.as_fd(), &mut buffer).expect("received").0, 5);
        assert_eq!(receive(theirs.as_fd(), &mut buffer).expect("received").1.len(), 1);
    }

    #[test]
    fn a_packet_that_was_cut_is_an_error() {
        let (ours, theirs, ..) = with_unsent_bytes();
        send(theirs.as_fd(), &[b'a'; 65], &[]).expect("sent");
        let cut = receive(ours.as_fd(), &mut [0; 64]).expect_err("cut");
        assert_eq!(cut.kind(), io::ErrorKind::InvalidData);
    }

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
