//! The ring: typed operations in, typed completions out.
//!
//! Whatever memory an operation points to moves into this module when the operation is pushed and comes back with
//! its completion, so that nobody can touch it meanwhile. One system call a turn ([`Ring::enter`]) submits, runs
//! the kernel's deferred work and waits.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use io_uring::types::{CancelBuilder, Fd, Fixed, TimeoutFlags, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::SockAddr;

use super::buffer_ring::{BufferRing, GROUP, Lease};
use super::features::Features;
use super::payload::Payload;

/// Bits of the 64 of `user_data`: kind, operation index (where memory is held), generation, slot.
const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 16;
const OPERATION_BITS: u32 = 20;
const KIND_BITS: u32 = 4;
const _: () = assert!(SLOT_BITS + GENERATION_BITS + OPERATION_BITS + KIND_BITS == 64);

/// Slots a key can name.
pub(crate) const SLOTS_MAX: u32 = 1 << SLOT_BITS;

/// Sends and connects that can be in flight in one ring.
pub(crate) const OPERATIONS_MAX: usize = 1 << OPERATION_BITS;

/// `IORING_REGISTER_RING_FDS` (kernel 5.18).
const REGISTER_RING_FDS: libc::c_uint = 20;

/// Who an operation belongs to: a slot and the low bits of its generation, so that a completion for a former
/// user of the slot is seen as stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Connect = 4,
    Poll = 5,
    Timeout = 6,
    Install = 7,
    /// Operations whose success is silent and whose failure needs no answer.
    Quiet = 8,
}

impl Kind {
    fn pack(self, operation: usize, key: Key) -> u64 {
        debug_assert!(key.slot < SLOTS_MAX && operation < OPERATIONS_MAX);
        (self as u64) << (SLOT_BITS + GENERATION_BITS + OPERATION_BITS)
            | (operation as u64) << (SLOT_BITS + GENERATION_BITS)
            | u64::from(key.generation) << SLOT_BITS
            | u64::from(key.slot)
    }
}

fn unpack(user_data: u64) -> (u8, usize, Key) {
    let key = Key { slot: (user_data & u64::from(SLOTS_MAX - 1)) as u32, generation: (user_data >> SLOT_BITS) as u16 };
    let operation = (user_data >> (SLOT_BITS + GENERATION_BITS)) as usize & (OPERATIONS_MAX - 1);
    ((user_data >> (SLOT_BITS + GENERATION_BITS + OPERATION_BITS)) as u8, operation, key)
}

/// A connection's socket: a descriptor of the process, or an entry of the ring's own file table. It must be given
/// back with [`Ring::close`]; it is no `OwnedFd`, so that closing can be part of the turn's one system call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    /// A process descriptor.
    Plain(RawFd),
    /// An index of the ring's file table ("direct descriptor").
    Direct(u32),
}

/// What the kernel has to say. Results below zero are negated errno values, as in the ring itself.
pub(crate) enum Completion {
    /// Something was accepted, or accepting failed; without `more` the accept has ended.
    Accepted {
        /// The listener's key as given to [`Ring::accept`].
        key: Key,
        /// The new connection.
        result: Result<Socket, i32>,
        /// Whether more completions follow.
        more: bool,
    },
    /// Bytes (a lease), end of input (`result` 0) or an error; without `more` the receive has ended.
    Received {
        /// Of the connection.
        key: Key,
        /// Bytes received, or a negated errno.
        result: i32,
        /// The bytes.
        lease: Option<Lease>,
        /// Whether more completions follow.
        more: bool,
    },
    /// A send has ended; its memory is free again.
    Sent {
        /// Of the connection.
        key: Key,
        /// Bytes sent, or a negated errno.
        result: i32,
        /// What was to be sent, whole.
        payload: Payload,
    },
    /// A connect has ended.
    Connected {
        /// Of the connection.
        key: Key,
        /// 0, or a negated errno.
        result: i32,
    },
    /// A polled descriptor became readable; without `more` the poll has ended.
    Readable {
        /// As given to [`Ring::poll`].
        key: Key,
        /// Whether more completions follow.
        more: bool,
    },
    /// The timeout fired.
    Expired,
}

/// Memory held for an operation in flight.
enum Held {
    Nothing { next: u32 },
    Payload(Payload),
    Address(#[expect(dead_code, reason = "held for the kernel only")] Box<SockAddr>),
}

/// How a send behaves when the peer's window is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Complete at once with what fitted: shared memory must not wait for a slow peer.
    Return,
    /// Wait until something fits.
    Wait,
}

/// See the module's head. Fields drop in order: the ring before the memory it reads.
pub(crate) struct Ring {
    inner: IoUring,
    enter_fd: RawFd,
    enter_flags: u32,
    buffers: BufferRing,
    held: Vec<Held>,
    held_free: u32,
    harvest: Vec<cqueue::Entry>,
    harvested: usize,
    timeout_at: Box<Timespec>,
    /// Accepts, receives and sends that the kernel still has.
    outstanding: usize,
    features: Features,
    enters: u64,
}

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingSizes {
    /// Submission entries.
    pub(crate) submissions: u32,
    /// Completion entries.
    pub(crate) completions: u32,
    /// Receive buffers, a power of two.
    pub(crate) buffers: u16,
    /// Bytes of each.
    pub(crate) buffer_bytes: u32,
    /// Entries of the file table for direct descriptors; 0 for plain ones.
    pub(crate) direct: u32,
}

const NONE: u32 = u32::MAX;

impl Ring {
    /// Creates the ring. The calling thread must be the one that uses it (`IORING_SETUP_SINGLE_ISSUER`).
    pub(crate) fn new(sizes: RingSizes, features: Features) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_clamp();
        builder.setup_cqsize(sizes.completions).dontfork();
        if features.no_sqarray {
            builder.setup_no_sqarray();
        }
        let inner = builder.build(sizes.submissions)?;
        if sizes.direct > 0 {
            inner.submitter().register_files_sparse(sizes.direct)?;
        }
        let buffers = BufferRing::new(&inner, sizes.buffers, sizes.buffer_bytes)?;
        let (enter_fd, enter_flags) = match register_ring_fd(inner.as_raw_fd()) {
            Ok(index) => (index, libc_flags::ENTER_REGISTERED_RING),
            Err(_) => (inner.as_raw_fd(), 0),
        };
        Ok(Self {
            inner,
            enter_fd,
            enter_flags,
            buffers,
            held: Vec::new(),
            held_free: NONE,
            harvest: Vec::with_capacity(1024),
            harvested: 0,
            timeout_at: Box::new(Timespec::new()),
            outstanding: 0,
            features,
            enters: 0,
        })
    }

    pub(crate) fn buffers(&mut self) -> &mut BufferRing {
        &mut self.buffers
    }

    /// System calls made so far.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Times the kernel had no room in the completion ring.
    pub(crate) fn overflows(&mut self) -> u32 {
        self.inner.completion().overflow()
    }

    /// Submits what was pushed, runs deferred work, and waits for `wait` completions at least.
    ///
    /// An interrupted wait (EINTR) and a full completion ring (EBUSY, EAGAIN) are no errors: the next turn goes on.
    #[inline]
    pub(crate) fn enter(&mut self, wait: u32) -> io::Result<()> {
        self.buffers.publish();
        let submit = self.inner.submission().len() as libc::c_uint;
        self.enters += 1;
        // SAFETY: io_uring_enter(2) with no argument structure. All memory that submitted entries point to is
        // held in `self` until their completion.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                submit,
                wait,
                self.enter_flags | libc_flags::ENTER_GETEVENTS,
                std::ptr::null::<libc::c_void>(),
                0usize,
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ETIME) => {}
                _ => return Err(error),
            }
        }
        if self.harvested == self.harvest.len() {
            self.harvest.clear();
            self.harvested = 0;
        }
        self.harvest.extend(self.inner.completion());
        Ok(())
    }

    /// Completions harvested and not yet taken.
    pub(crate) fn waiting(&self) -> usize {
        self.harvest.len() - self.harvested
    }

    /// The next completion of the last [`Ring::enter`].
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.harvest.get(self.harvested)?;
            let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.harvested += 1;
            let more = cqueue::more(flags);
            let (kind, operation, key) = unpack(user_data);
            return Some(if kind == Kind::Receive as u8 {
                self.outstanding -= usize::from(!more);
                let lease = cqueue::buffer_select(flags).map(|buffer| self.buffers.take(buffer, result.max(0) as u32));
                if result == -libc::ENOBUFS {
                    self.buffers.exhausted();
                }
                Completion::Received { key, result, lease, more }
            } else if kind == Kind::Send as u8 {
                self.outstanding -= 1;
                let Held::Payload(payload) = self.take_held(operation) else { unreachable!("a send holds a payload") };
                Completion::Sent { key, result, payload }
            } else if kind == Kind::Accept as u8 {
                self.outstanding -= usize::from(!more);
                let result = match result {
                    ..0 => Err(-result),
                    _ if operation == 1 => Ok(Socket::Direct(result as u32)),
                    _ => Ok(Socket::Plain(result)),
                };
                Completion::Accepted { key, result, more }
            } else if kind == Kind::Poll as u8 {
                Completion::Readable { key, more }
            } else if kind == Kind::Timeout as u8 {
                Completion::Expired
            } else if kind == Kind::Connect as u8 {
                self.outstanding -= 1;
                self.take_held(operation);
                Completion::Connected { key, result }
            } else {
                continue;
            });
        }
    }

    /// Accepts from `listener`: once, or until cancelled or failed (`many`, kernel 5.19).
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>, key: Key, many: bool, direct: bool) {
        let fd = Fd(listener.as_raw_fd());
        let entry = match (many, direct) {
            (true, false) => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
            (true, true) => opcode::AcceptMulti::new(fd).allocate_file_index(true).build(),
            (false, false) => {
                opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build()
            }
            (false, true) => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .file_index(Some(io_uring::types::DestinationSlot::auto_target()))
                .build(),
        };
        self.outstanding += 1;
        self.push(entry, Kind::Accept.pack(usize::from(direct), key));
    }

    /// Receives once from `socket` into a provided buffer (kernel 5.19).
    pub(crate) fn receive_once(&mut self, socket: &Socket, key: Key) {
        let entry = match *socket {
            Socket::Plain(fd) => opcode::Recv::new(Fd(fd), std::ptr::null_mut(), 0).buf_group(GROUP).build(),
            Socket::Direct(index) => opcode::Recv::new(Fixed(index), std::ptr::null_mut(), 0).buf_group(GROUP).build(),
        };
        self.outstanding += 1;
        self.push(entry.flags(squeue::Flags::BUFFER_SELECT), Kind::Receive.pack(0, key));
    }

    /// Receives from `socket` into provided buffers until cancelled or ended (kernel 6.0).
    #[inline]
    pub(crate) fn receive(&mut self, socket: &Socket, key: Key) {
        let entry = match *socket {
            Socket::Plain(fd) => opcode::RecvMulti::new(Fd(fd), GROUP).build(),
            Socket::Direct(index) => opcode::RecvMulti::new(Fixed(index), GROUP).build(),
        };
        self.outstanding += 1;
        self.push(entry, Kind::Receive.pack(0, key));
    }

    /// Sends `payload`. At most one send of a socket may be in flight, since later ones could overtake.
    #[inline]
    pub(crate) fn send(&mut self, socket: &Socket, key: Key, payload: Payload, when_full: WhenFull) {
        let flags = if when_full == WhenFull::Return { libc::MSG_DONTWAIT } else { 0 };
        self.push_send(socket, key, payload, flags, squeue::Flags::empty());
    }

    /// Sends `payload` and, if all of it fitted into the peer's window at once, closes. Nothing may be armed on the
    /// socket. When the completion says less than the whole length, the socket is still open.
    ///
    /// `MSG_WAITALL` makes a short send break the link, and `MSG_DONTWAIT` makes it come back at once all the same
    /// (io_uring_enter(2), `IOSQE_IO_LINK`).
    pub(crate) fn send_and_close(&mut self, socket: &Socket, key: Key, payload: Payload) {
        // Both must go in one submission for the link to hold.
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
    fn push_send(&mut self, socket: &Socket, key: Key, payload: Payload, flags: i32, entry_flags: squeue::Flags) {
        let (pointer, length) = (payload.bytes().as_ptr(), payload.len().min(i32::MAX as usize) as u32);
        let flags = libc::MSG_NOSIGNAL | flags;
        let operation = self.hold(Held::Payload(payload));
        let entry = match *socket {
            Socket::Plain(fd) => opcode::Send::new(Fd(fd), pointer, length).flags(flags).build(),
            Socket::Direct(index) => opcode::Send::new(Fixed(index), pointer, length).flags(flags).build(),
        };
        self.outstanding += 1;
        self.push(entry.flags(entry_flags), Kind::Send.pack(operation, key));
    }

    /// Connects a socket made by [`Ring::open`].
    pub(crate) fn connect(&mut self, socket: &Socket, key: Key, address: SocketAddr) {
        let address = Box::new(SockAddr::from(address));
        let (pointer, length) = (address.as_ptr().cast::<libc::sockaddr>(), address.len());
        let operation = self.hold(Held::Address(address));
        let entry = match *socket {
            Socket::Plain(fd) => opcode::Connect::new(Fd(fd), pointer, length).build(),
            Socket::Direct(index) => opcode::Connect::new(Fixed(index), pointer, length).build(),
        };
        self.outstanding += 1;
        self.push(entry, Kind::Connect.pack(operation, key));
    }

    /// Asks for the end of a receive; its last completion still comes.
    pub(crate) fn cancel_receive(&mut self, key: Key) {
        self.cancel(Kind::Receive.pack(0, key));
    }

    /// Asks for the end of an accept; its last completion still comes.
    pub(crate) fn cancel_accept(&mut self, key: Key, direct: bool) {
        self.cancel(Kind::Accept.pack(usize::from(direct), key));
    }

    /// Asks for the end of everything that waits on a socket; the last completions still come.
    pub(crate) fn cancel_socket(&mut self, socket: &Socket) {
        let builder = match *socket {
            Socket::Plain(fd) => CancelBuilder::fd(Fd(fd)).all(),
            Socket::Direct(index) => CancelBuilder::fd(Fixed(index)).all(),
        };
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
        self.push_quiet(match *socket {
            Socket::Plain(fd) => opcode::Close::new(Fd(fd)).build(),
            Socket::Direct(index) => opcode::Close::new(Fixed(index)).build(),
        });
    }

    /// Watches a descriptor for input until it is closed or the poll ends.
    pub(crate) fn poll(&mut self, descriptor: BorrowedFd<'_>, key: Key) {
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(entry, Kind::Poll.pack(0, key));
    }

    /// Tells once when a descriptor may be written to.
    pub(crate) fn poll_writable(&mut self, descriptor: BorrowedFd<'_>, key: Key) {
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), libc::POLLOUT as u32).build();
        self.push(entry, Kind::Poll.pack(0, key));
    }

    /// Asks for the end of a poll, which holds its descriptor's file until then.
    pub(crate) fn cancel_poll(&mut self, key: Key) {
        self.cancel(Kind::Poll.pack(0, key));
    }

    /// Fires once at `at_ns` of CLOCK_MONOTONIC.
    pub(crate) fn timeout(&mut self, at_ns: u64) {
        // The kernel reads the time while it takes the entry. A second timeout pushed before that overwrites the
        // first one's, which then fires with it: early at worst, never late, since only earlier ones are asked for.
        *self.timeout_at = Timespec::new().sec(at_ns / 1_000_000_000).nsec((at_ns % 1_000_000_000) as u32);
        let entry = opcode::Timeout::new(&raw const *self.timeout_at).flags(TimeoutFlags::ABS).build();
        self.push(entry, Kind::Timeout.pack(0, Key { slot: 0, generation: 0 }));
    }

    /// A descriptor of the process for `socket`: a duplicate where it is a direct one (kernel 6.7).
    pub(crate) fn with_descriptor<T>(
        &mut self,
        socket: &Socket,
        action: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match *socket {
            Socket::Plain(fd) => {
                // SAFETY: a Socket is open until it is given to `close`, and we borrow it.
                action(unsafe { BorrowedFd::borrow_raw(fd) })
            }
            Socket::Direct(index) => {
                let installed = self.install(index)?;
                action(std::os::fd::AsFd::as_fd(&installed))
            }
        }
    }

    /// Another descriptor of the process for `socket`.
    pub(crate) fn duplicate(&mut self, socket: &Socket) -> io::Result<OwnedFd> {
        match *socket {
            Socket::Plain(_) => self.with_descriptor(socket, |descriptor| descriptor.try_clone_to_owned()),
            Socket::Direct(index) => self.install(index),
        }
    }

    /// Moves an open socket in, as the kind the ring was made for.
    pub(crate) fn adopt(socket: OwnedFd) -> Socket {
        let fd = socket.as_raw_fd();
        mem::forget(socket);
        Socket::Plain(fd)
    }

    fn install(&mut self, index: u32) -> io::Result<OwnedFd> {
        let user_data = Kind::Install.pack(0, Key { slot: 0, generation: 0 });
        self.push(opcode::FixedFdInstall::new(Fixed(index), 0).build(), user_data);
        for _ in 0..2 {
            self.enter(0)?;
            let waiting = &self.harvest[self.harvested..];
            if let Some(position) = waiting.iter().position(|entry| entry.user_data() == user_data) {
                let result = self.harvest.remove(self.harvested + position).result();
                if result < 0 {
                    return Err(io::Error::from_raw_os_error(-result));
                }
                // SAFETY: the kernel has just made this descriptor for us.
                return Ok(unsafe { OwnedFd::from_raw_fd(result) });
            }
        }
        Err(io::Error::other("the ring did not answer a descriptor request at once"))
    }

    fn push_quiet(&mut self, entry: squeue::Entry) {
        let entry = if self.features.skip_success { entry.flags(squeue::Flags::SKIP_SUCCESS) } else { entry };
        self.push(entry, Kind::Quiet.pack(0, Key { slot: 0, generation: 0 }));
    }

    #[inline]
    fn push(&mut self, entry: squeue::Entry, user_data: u64) {
        let entry = entry.user_data(user_data);
        // SAFETY: memory that the entry points to is in `held`, or in the buffer ring, until its completion, or is
        // read before `submit` returns (timeout).
        while unsafe { self.inner.submission().push(&entry) }.is_err() {
            self.submit();
        }
    }

    /// Submits without waiting and without running deferred work.
    #[cold]
    fn submit(&mut self) {
        self.enters += 1;
        let submit = self.inner.submission().len() as libc::c_uint;
        // SAFETY: as in `enter`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                submit,
                0,
                self.enter_flags,
                std::ptr::null::<libc::c_void>(),
                0usize,
            )
        };
        if result < 0 {
            // The completion ring is full (EBUSY): make room by harvesting, so that the push can go on.
            self.harvest.extend(self.inner.completion());
        }
    }

    #[inline]
    fn hold(&mut self, held: Held) -> usize {
        if self.held_free == NONE {
            assert!(self.held.len() < OPERATIONS_MAX, "more operations in flight than user_data can name");
            self.held.push(held);
            return self.held.len() - 1;
        }
        let operation = self.held_free as usize;
        let Held::Nothing { next } = mem::replace(&mut self.held[operation], held) else {
            unreachable!("the free list names free entries only")
        };
        self.held_free = next;
        operation
    }

    #[inline]
    fn take_held(&mut self, operation: usize) -> Held {
        let held = mem::replace(&mut self.held[operation], Held::Nothing { next: self.held_free });
        self.held_free = operation as u32;
        held
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.outstanding > 0 {
            // The kernel ends a ring's operations after its descriptor is closed, in its own time; memory they
            // still refer to must outlive them.
            mem::forget(mem::take(&mut self.held));
            self.buffers.leak();
        }
    }
}

fn register_ring_fd(fd: RawFd) -> io::Result<RawFd> {
    #[repr(C)]
    struct Update {
        offset: u32,
        reserved: u32,
        data: u64,
    }
    let mut update = Update { offset: u32::MAX, reserved: 0, data: fd as u64 };
    // SAFETY: io_uring_register(2) with IORING_REGISTER_RING_FDS takes an array of one io_uring_rsrc_update, which
    // `Update` mirrors, and writes the index to its offset.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, &raw mut update, 1) };
    if result == 1 { Ok(update.offset as RawFd) } else { Err(io::Error::last_os_error()) }
}

/// Flags of io_uring_enter(2) that libc does not name.
mod libc_flags {
    pub(super) const ENTER_GETEVENTS: u32 = 1 << 0;
    pub(super) const ENTER_REGISTERED_RING: u32 = 1 << 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_keeps_all_its_parts() {
        for key in [Key { slot: 0, generation: 0 }, Key { slot: SLOTS_MAX - 1, generation: u16::MAX }] {
            for operation in [0, 1, OPERATIONS_MAX - 1] {
                let packed = Kind::Send.pack(operation, key);
                assert_eq!(unpack(packed), (Kind::Send as u8, operation, key));
            }
        }
    }
}
