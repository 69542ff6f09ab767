//! The operations that can be pushed. Each moves the memory to which it points into the ring until its completion.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::register::Restriction;
use io_uring::types::{CancelBuilder, Fd, TimeoutFlags, Timespec};
use io_uring::{IoUring, opcode, squeue};
use socket2::SockAddr;

use super::user_data::Kind;
use super::{Held, Key, Operations, Ring, Socket};
use crate::sys::buffer_ring::Group;
use crate::sys::file_part::{FilePart, FileSent};
use crate::sys::payload::Payload;

/// Enables a ring that was set up as disabled, with only these operations and flags, and with no further registrations
/// (`IORING_REGISTER_RESTRICTIONS`, kernel 5.10).
///
/// # Errors
/// As io_uring_register(2).
pub(in crate::sys) fn enable_only(ring: &IoUring, codes: &[u8], flags: squeue::Flags) -> io::Result<()> {
    let operations = codes.iter().map(|code| Restriction::sqe_op(*code));
    let mut restrictions: Vec<_> = operations.chain([Restriction::sqe_flags_allowed(flags.bits())]).collect();
    ring.submitter().register_restrictions(&mut restrictions)?;
    ring.submitter().register_enable_rings()
}

impl Operations {
    /// Enables a ring that was set up for these operations.
    ///
    /// # Errors
    /// As io_uring_register(2).
    pub(super) fn enable(self, ring: &IoUring) -> io::Result<()> {
        // The operations below. Variants that give many results, or take a descriptor, have the code of the plain one.
        let codes = [
            opcode::Accept::CODE,
            opcode::Recv::CODE,
            opcode::Send::CODE,
            opcode::SendMsg::CODE,
            opcode::Close::CODE,
            opcode::PollAdd::CODE,
            opcode::Timeout::CODE,
            opcode::AsyncCancel::CODE,
            opcode::Connect::CODE,
        ];
        let flags = squeue::Flags::BUFFER_SELECT | squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        match self {
            Self::Any => Ok(()),
            Self::Connections => enable_only(ring, &codes, flags),
            Self::AcceptedConnections => enable_only(ring, &codes[..codes.len() - 1], flags),
        }
    }
}

impl Ring {
    /// Accepts from `listener`: once, or until cancelled or failed (`many`, kernel 5.19).
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>, key: Key, many: bool) {
        let fd = Fd(listener.as_raw_fd());
        let entry = if many {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        } else {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build()
        };
        self.outstanding += 1;
        self.push(entry, Kind::Accept.pack(0, key));
    }

    /// Receives once from `socket` into a provided buffer (kernel 5.19).
    pub(crate) fn receive_once(&mut self, socket: &Socket, key: Key) {
        self.receive_with(socket, key, Group::Usual, 0);
    }

    /// Receives the available bytes from `socket` into a buffer for bulk; `EAGAIN` if there are none. Several such
    /// receives in a row are handled in order, since none waits.
    pub(crate) fn receive_bulk(&mut self, socket: &Socket, key: Key) {
        self.receive_with(socket, key, Group::Bulk, libc::MSG_DONTWAIT);
    }

    fn receive_with(&mut self, socket: &Socket, key: Key, group: Group, flags: i32) {
        let entry =
            opcode::Recv::new(Fd(socket.0), std::ptr::null_mut(), 0).buf_group(group as u16).flags(flags).build();
        self.outstanding += 1;
        self.push(entry.flags(squeue::Flags::BUFFER_SELECT), Kind::Receive.pack(group as usize, key));
    }

    /// Receives from `socket` into provided buffers until cancelled or ended (kernel 6.0).
    #[inline]
    pub(crate) fn receive(&mut self, socket: &Socket, key: Key) {
        let entry = opcode::RecvMulti::new(Fd(socket.0), Group::Usual as u16).build();
        self.outstanding += 1;
        self.push(entry, Kind::Receive.pack(0, key));
    }

    /// Sends the beginning of `payload` that fits into the socket's buffer, without waiting. If nothing fits, the result is
    /// `-EAGAIN`: see [`Ring::await_room`]. At most one send of a socket may be in flight, since later ones could overtake.
    #[inline]
    pub(crate) fn send(&mut self, socket: &Socket, key: Key, payload: Payload) {
        match payload {
            Payload::File(part) => self.send_file(socket, key, part),
            payload => self.push_send(socket, key, payload, libc::MSG_DONTWAIT, squeue::Flags::empty()),
        }
    }

    /// Sends part of a file in this call, because the ring's operation for it (splice) needs another thread. The next turn
    /// gets the completion.
    fn send_file(&mut self, socket: &Socket, key: Key, mut part: Box<FilePart>) {
        let sent = part.send(socket.as_fd());
        let payload = Payload::File(part);
        let result = match sent {
            FileSent::Bytes(count) => i32::try_from(count).unwrap_or(i32::MAX),
            FileSent::Full => -libc::EAGAIN,
            FileSent::Read => return self.push_send(socket, key, payload, libc::MSG_DONTWAIT, squeue::Flags::empty()),
            FileSent::Failed(error) => -error,
        };
        self.done.push_back((key, result, payload));
    }

    /// Waits until the socket's buffer has room for more of `payload`. The completion is that of a send that was cancelled:
    /// nothing was sent, and the payload returns.
    ///
    /// The poll stays armed, since a peer's FIN always wakes it (the kernel's `io_uring/poll.c`, IO_POLL_UNMASK): a single
    /// poll after a FIN would end at once, each time. A send that waits in the kernel has the same trap: each wake makes the
    /// kernel try it again, and after 128 tries it waits in a kernel thread of its own (`APOLL_MAX_RETRY`).
    pub(crate) fn await_room(&mut self, socket: &Socket, key: Key, payload: Payload) {
        let operation = self.hold(Held::Payload(payload));
        self.outstanding += 1;
        let entry = opcode::PollAdd::new(Fd(socket.0), libc::POLLOUT as u32).multi(true).build();
        self.push(entry, Kind::Room.pack(operation, key));
    }

    /// A poll of [`Ring::await_room`] has this result. It ends if there is room, or if an error is to be had from a send.
    pub(super) fn room_polled(&mut self, user_data: u64, result: i32) {
        if result & i32::from(libc::POLLOUT | libc::POLLERR | libc::POLLHUP) != 0 {
            self.cancel(user_data);
        }
    }

    /// Sends `payload`, which is not part of a file, and, if all of it fitted into the peer's window at once, closes. Nothing
    /// may be armed on the socket. If the completion reports less than the whole length, the socket is still open.
    ///
    /// `MSG_WAITALL` makes a short send break the link, and with `MSG_DONTWAIT` it still returns at once
    /// (io_uring_enter(2), `IOSQE_IO_LINK`).
    pub(crate) fn send_and_close(&mut self, socket: &Socket, key: Key, payload: Payload) {
        // The link holds only if both are in one submission.
        let is_room = {
            let submission = self.inner.submission();
            submission.len() + 2 <= submission.capacity()
        };
        if !is_room {
            self.submit();
        }
        self.push_send(socket, key, payload, libc::MSG_DONTWAIT | libc::MSG_WAITALL, squeue::Flags::IO_LINK);
        self.push_close(socket);
    }

    #[inline]
    fn push_send(&mut self, socket: &Socket, key: Key, mut payload: Payload, flags: i32, entry_flags: squeue::Flags) {
        let (socket, flags) = (Fd(socket.0), libc::MSG_NOSIGNAL | flags);
        let entry = if let Payload::Joined(joined) = &mut payload {
            opcode::SendMsg::new(socket, joined.message()).flags(flags as u32).build()
        } else {
            let [bytes, _] = payload.parts();
            opcode::Send::new(socket, bytes.as_ptr(), bytes.len().min(i32::MAX as usize) as u32).flags(flags).build()
        };
        let operation = self.hold(Held::Payload(payload));
        self.outstanding += 1;
        self.push(entry.flags(entry_flags), Kind::Send.pack(operation, key));
    }

    /// Connects a socket that is not connected yet.
    pub(crate) fn connect(&mut self, socket: &Socket, key: Key, address: SockAddr) {
        let address = Box::new(address);
        let (pointer, length) = (address.as_ptr().cast::<libc::sockaddr>(), address.len());
        let operation = self.hold(Held::Address(address));
        let entry = opcode::Connect::new(Fd(socket.0), pointer, length).build();
        self.outstanding += 1;
        self.push(entry, Kind::Connect.pack(operation, key));
    }

    /// Cancels a receive; its last completion still comes.
    pub(crate) fn cancel_receive(&mut self, key: Key) {
        self.cancel(Kind::Receive.pack(0, key));
    }

    /// Cancels an accept; its last completion still comes.
    pub(crate) fn cancel_accept(&mut self, key: Key) {
        self.cancel(Kind::Accept.pack(0, key));
    }

    /// Cancels everything that waits on a socket; the last completions still come.
    pub(crate) fn cancel_socket(&mut self, socket: &Socket) {
        let builder = CancelBuilder::fd(Fd(socket.0)).all();
        self.push_quiet(opcode::AsyncCancel2::new(builder).build());
    }

    fn cancel(&mut self, user_data: u64) {
        self.push_quiet(opcode::AsyncCancel::new(user_data).build());
    }

    /// Closes a socket. Everything armed on it must have had its last completion.
    #[expect(clippy::needless_pass_by_value, reason = "a closed socket is gone")]
    pub(crate) fn close(&mut self, socket: Socket) {
        self.push_close(&socket);
    }

    fn push_close(&mut self, socket: &Socket) {
        self.push_quiet(opcode::Close::new(Fd(socket.0)).build());
    }

    /// Watches a descriptor for input until it is closed or the poll ends.
    pub(crate) fn poll(&mut self, descriptor: BorrowedFd<'_>, key: Key) {
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(entry, Kind::Poll.pack(0, key));
    }

    /// Reports when the peer of a connection resets it, or sends FIN, even if earlier bytes were not received yet, and
    /// even if that has happened already. Without `goes_on` it reports once; otherwise again at each further event,
    /// until it is cancelled.
    pub(crate) fn watch(&mut self, socket: &Socket, key: Key, goes_on: bool) {
        // Errors, FIN and the end of both directions are always reported (the kernel's `io_uring/poll.c`,
        // IO_POLL_UNMASK).
        self.outstanding += 1;
        self.push(opcode::PollAdd::new(Fd(socket.0), 0).multi(goes_on).build(), Kind::Watch.pack(0, key));
    }

    /// Cancels a watch; its completion still comes.
    pub(crate) fn cancel_watch(&mut self, key: Key) {
        self.cancel(Kind::Watch.pack(0, key));
    }

    /// Reports once when a descriptor becomes writable.
    pub(crate) fn poll_writable(&mut self, descriptor: BorrowedFd<'_>, key: Key) {
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), libc::POLLOUT as u32).build();
        self.push(entry, Kind::Poll.pack(0, key));
    }

    /// Cancels a poll, which holds its descriptor's file until then.
    pub(crate) fn cancel_poll(&mut self, key: Key) {
        self.cancel(Kind::Poll.pack(0, key));
    }

    /// Fires once at `at_ns` of CLOCK_MONOTONIC.
    pub(crate) fn timeout(&mut self, at_ns: u64) {
        // The kernel reads the time when it takes the entry. A second timeout that is pushed earlier overwrites the
        // time of the first one, which then fires with it: at worst early, never late, since only earlier times are
        // pushed.
        *self.timeout_at = Timespec::new().sec(at_ns / 1_000_000_000).nsec((at_ns % 1_000_000_000) as u32);
        let entry = opcode::Timeout::new(&raw const *self.timeout_at).flags(TimeoutFlags::ABS).build();
        self.push(entry, Kind::Timeout.pack(0, Key { slot: 0, generation: 0 }));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;
    use std::thread;
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::sys::arena::Arena;
    use crate::sys::features::Features;
    use crate::sys::file_part::Pages;
    use crate::sys::ring::{Completion, RingSizes};
    use crate::sys::sealed_memory::SealedMemory;

    const KEY: Key = Key { slot: 1, generation: 1 };

    fn ring(operations: Operations) -> Ring {
        let sizes = RingSizes {
            submissions: 8,
            completions: 16,
            buffers: 2,
            buffer_bytes: 1024,
            bulk_buffers: 1,
            bulk_buffer_bytes: 4096,
        };
        Ring::new(sizes, Features::probe().expect("io_uring"), operations).expect("a ring")
    }

    /// The result of a connect.
    fn connect(ring: &mut Ring, address: std::net::SocketAddr) -> i32 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let socket = Socket::from(OwnedFd::from(socket));
        ring.connect(&socket, KEY, address.into());
        loop {
            ring.enter(1).expect("entered");
            if let Some(Completion::Connected { result, .. }) = ring.next() {
                ring.close(socket);
                return result;
            }
        }
    }

    #[test]
    fn a_ring_does_what_it_was_made_for_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        for (operations, result) in
            [(Operations::Any, 0), (Operations::Connections, 0), (Operations::AcceptedConnections, -libc::EACCES)]
        {
            let mut ring = ring(operations);
            assert_eq!(connect(&mut ring, address), result, "{operations:?}");
            let is_restricted = operations != Operations::Any;
            let nop = opcode::Nop::new().build();
            let before = ring.outstanding;
            ring.push(nop, Kind::Connect.pack(ring.held.len(), KEY));
            ring.enter(1).expect("entered");
            assert_eq!(ring.harvest[ring.harvested].result() < 0, is_restricted, "{operations:?}");
            assert_eq!(before, ring.outstanding);
            let registered = ring.inner.submitter().register_probe(&mut io_uring::Probe::new());
            assert_eq!(registered.is_err(), is_restricted, "{operations:?}");
        }
    }

    #[test]
    fn a_joined_payload_is_one_send() {
        for operations in [Operations::Any, Operations::Connections, Operations::AcceptedConnections] {
            let mut ring = ring(operations);
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            let mut peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
            let socket = Socket::from(OwnedFd::from(listener.accept().expect("accepted").0));
            let mut arena = Arena::new();
            arena.write(b"head, ");
            let payload = Payload::joined(arena.seal().expect("staged"), Rc::from(*b"<body>"), 1, 5);
            ring.send(&socket, KEY, payload);
            let (result, payload) = loop {
                ring.enter(1).expect("entered");
                if let Some(Completion::Sent { result, payload, .. }) = ring.next() {
                    break (result, payload);
                }
            };
            assert_eq!((result, payload.len()), (10, 10), "{operations:?}");
            let mut received = [0; 10];
            peer.read_exact(&mut received).expect("received");
            assert_eq!(&received, b"head, body");
            ring.close(socket);
        }
    }

    /// A connection: the ring's end, and the peer's.
    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        (Socket::from(OwnedFd::from(listener.accept().expect("accepted").0)), peer)
    }

    fn sent(ring: &mut Ring) -> (i32, Payload) {
        loop {
            ring.enter(u32::from(ring.waiting() == 0)).expect("entered");
            if let Some(Completion::Sent { result, payload, .. }) = ring.next() {
                return (result, payload);
            }
        }
    }

    /// A file with these bytes.
    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn parts_of_files_arrive_with_what_goes_before_them() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|index| (index / 7) as u8).collect();
        let sealed = SealedMemory::read_from(&bytes[..], bytes.len()).expect("memory");
        for pages in [Pages::Sealed(sealed.into()), Pages::File(file(&bytes).into())] {
            let mut ring = ring(Operations::AcceptedConnections);
            let (socket, mut peer) = pair();
            let reader = thread::spawn(move || {
                let mut received = Vec::new();
                peer.read_to_end(&mut received).map(|_| received)
            });
            let mut arena = Arena::new();
            arena.write(b"head, ");
            let part = FilePart::new(pages, 1..299_999).behind(arena.seal().expect("staged"));
            let mut payload = Payload::File(Box::new(part));
            while payload.len() > 0 {
                ring.send(&socket, KEY, payload);
                let (result, rest) = sent(&mut ring);
                payload = rest;
                if result == -libc::EAGAIN {
                    ring.await_room(&socket, KEY, payload);
                    payload = sent(&mut ring).1;
                } else {
                    payload.advance(usize::try_from(result).expect("sent"));
                }
            }
            ring.close(socket);
            ring.enter(0).expect("entered");
            let received = reader.join().expect("no panic").expect("received");
            assert!(received == [b"head, ", &bytes[1..299_999]].concat());
        }
    }

    /// The peer's FIN does not end a wait for room, and costs one completion.
    #[test]
    fn a_payload_waits_for_room_whatever_the_peer_has_ended_and_its_wait_can_be_cancelled() {
        let zeros: &'static [u8] = &[0; 1 << 20];
        let pages = Pages::File(file(zeros).into());
        for is_file in [false, true] {
            let (mut ring, (socket, mut peer)) = (ring(Operations::AcceptedConnections), pair());
            let next = || match is_file {
                false => Payload::Static(zeros),
                true => Payload::File(Box::new(FilePart::new(pages.clone(), 0..1 << 20))),
            };
            let mut filled = 0;
            loop {
                ring.send(&socket, KEY, next());
                match sent(&mut ring).0 {
                    count @ 1.. => filled += count as usize,
                    result => break assert_eq!(result, -libc::EAGAIN),
                }
            }
            ring.await_room(&socket, KEY, next());
            ring.enter(0).expect("entered");
            assert!(ring.next().is_none() && ring.outstanding == 1);
            ring.cancel_socket(&socket);
            assert_eq!((sent(&mut ring).0, ring.outstanding), (-libc::ECANCELED, 0));
            peer.shutdown(Shutdown::Write).expect("FIN");
            ring.await_room(&socket, KEY, next());
            let mut wakes = 0;
            for _ in 0..100 {
                ring.enter(0).expect("entered");
                wakes += ring.waiting();
                assert!(ring.next().is_none() && ring.outstanding == 1);
            }
            assert!(wakes <= 2, "{wakes} completions while nothing happened");
            let mut received = vec![0; filled];
            peer.read_exact(&mut received).expect("received");
            let (result, payload) = sent(&mut ring);
            assert_eq!((result, payload.len(), ring.outstanding), (-libc::ECANCELED, 1 << 20, 0));
            ring.send(&socket, KEY, payload);
            assert!(sent(&mut ring).0 > 0);
            ring.close(socket);
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_or_its_socket_is_told() {
        let (mut ring, (socket, peer)) = (ring(Operations::AcceptedConnections), pair());
        let mut result_of = |pages: Pages, place| {
            ring.send(&socket, KEY, Payload::File(Box::new(FilePart::new(pages, place))));
            sent(&mut ring).0
        };
        let short = file(&[1; 10]);
        assert_eq!(result_of(Pages::File(short.try_clone().expect("a descriptor").into()), 0..20), 10);
        assert_eq!(result_of(Pages::File(short.into()), 10..20), -libc::EIO);
        let folder = File::open("/").expect("a folder");
        assert_eq!(result_of(Pages::File(folder.into()), 0..20), -libc::EISDIR);
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("set");
        drop(peer);
        let pages = Pages::File(file(&[1; 10]).into());
        let results: Vec<i32> = (0..2).map(|_| result_of(pages.clone(), 0..10)).collect();
        assert!(results.contains(&-libc::EPIPE) || results.contains(&-libc::ECONNRESET), "{results:?}");
        ring.close(socket);
    }

    /// As where sendfile(2) fails with EINVAL.
    #[test]
    fn what_was_read_of_a_file_is_sent_in_the_usual_way() {
        let (mut ring, (socket, mut peer)) = (ring(Operations::AcceptedConnections), pair());
        let bytes: Vec<u8> = (0..100_000_u32).map(|index| (index / 7) as u8).collect();
        let mut part = FilePart::new(Pages::File(file(&bytes).into()), 0..100_000);
        assert!(matches!(part.read_next(), FileSent::Read));
        assert!(*part.bytes() == bytes[..65_536]);
        ring.push_send(&socket, KEY, Payload::File(Box::new(part)), 0, squeue::Flags::empty());
        let mut received = Vec::new();
        loop {
            let (result, mut rest) = sent(&mut ring);
            let before = received.len();
            received.resize(before + usize::try_from(result).expect("sent"), 0);
            rest.advance(received.len() - before);
            peer.read_exact(&mut received[before..]).expect("received");
            if rest.len() == 0 {
                break;
            }
            ring.send(&socket, KEY, rest);
        }
        assert!(received == bytes);
        ring.close(socket);
    }
}
