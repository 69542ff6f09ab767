//! The ring: typed operations in, typed completions out.
//!
//! When an operation is pushed, the memory to which it points moves into this module. It comes back with the
//! operation's completion, so that no code can touch it meanwhile. One system call per turn ([`Ring::enter`]) submits,
//! runs the kernel's deferred work and waits.

mod operations;
mod user_data;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use io_uring::types::Timespec;
use io_uring::{IoUring, cqueue, squeue};
use socket2::SockAddr;

pub(super) use self::operations::enable_only;
pub(crate) use self::user_data::{Key, OPERATIONS_MAX, SLOTS_MAX};
use self::user_data::{Kind, unpack};
use super::buffer_ring::{BufferRing, Group, Lease};
use super::features::Features;
use super::payload::Payload;

/// `IORING_REGISTER_RING_FDS` (kernel 5.18).
const REGISTER_RING_FDS: libc::c_uint = 20;

/// A connection's socket. It must be given back with [`Ring::close`]. It is not an `OwnedFd`, so that closing can be
/// part of the turn's one system call.
///
/// It is a descriptor of the process, not an entry of the ring's own table ("direct descriptor"). The latter served no
/// more requests when both were measured, and handing one over takes a request to the ring whose answer can come late.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Socket(RawFd);

impl From<OwnedFd> for Socket {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor.into_raw_fd())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: a Socket is open until it is given to `Ring::close`, and this borrows it.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// A completion. Results below zero are negated errno values, as in the ring itself.
pub(crate) enum Completion {
    /// A connection was accepted, or accepting failed; without `more` the accept has ended.
    Accepted {
        /// The listener's key as given to [`Ring::accept`].
        key: Key,
        /// The new connection.
        result: Result<Socket, i32>,
        /// Whether more completions follow.
        more: bool,
    },
    /// A receive has a result.
    Received {
        /// The key of the connection.
        key: Key,
        /// The result.
        receipt: Receipt,
    },
    /// A send has ended; its memory is free again.
    Sent {
        /// The key of the connection.
        key: Key,
        /// Bytes sent, or a negated errno.
        result: i32,
        /// The whole payload of the send.
        payload: Payload,
    },
    /// A connect has ended.
    Connected {
        /// The key of the connection.
        key: Key,
        /// 0, or a negated errno.
        result: i32,
    },
    /// A polled descriptor became readable; without `more` the poll has ended.
    Readable {
        /// The key as given to [`Ring::poll`].
        key: Key,
        /// Whether more completions follow.
        more: bool,
    },
    /// The peer of a watched connection has left, or the watch was cancelled.
    Left {
        /// The key of the connection.
        key: Key,
        /// Events of poll(2), or a negated errno.
        result: i32,
        /// Whether more completions follow.
        more: bool,
    },
    /// The timeout fired.
    Expired,
}

/// Bytes (a lease), end of input (`result` 0) or an error; without `more` the receive has ended.
pub(crate) struct Receipt {
    /// Bytes received, or a negated errno.
    pub(crate) result: i32,
    /// The bytes.
    pub(crate) lease: Option<Lease>,
    /// Whether more completions follow.
    pub(crate) more: bool,
    /// Whether the buffer is one for bulk.
    pub(crate) is_bulk: bool,
    /// Whether the socket holds more bytes, or the peer's FIN (`IORING_CQE_F_SOCK_NONEMPTY`, kernel 5.19).
    pub(crate) has_more_input: bool,
}

/// Memory that is held for an operation in flight.
enum Held {
    Nothing { next: u32 },
    Payload(Payload),
    Address(#[expect(dead_code, reason = "held for the kernel only")] Box<SockAddr>),
}

/// A worker's ring. Fields drop in order: the ring before the memory that it reads.
pub(crate) struct Ring {
    inner: IoUring,
    enter_fd: RawFd,
    enter_flags: u32,
    buffers: BufferRing,
    bulk_buffers: BufferRing,
    held: Vec<Held>,
    held_free: u32,
    harvest: Vec<cqueue::Entry>,
    harvested: usize,
    /// Sends that ended when they were pushed.
    done: VecDeque<(Key, i32, Payload)>,
    timeout_at: Box<Timespec>,
    /// Accepts, receives and sends that are still in flight in the kernel.
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
    /// Receive buffers for bulk, a power of two.
    pub(crate) bulk_buffers: u16,
    /// Bytes of each.
    pub(crate) bulk_buffer_bytes: u32,
}

/// The operations that the kernel permits on a ring, for good (`IORING_REGISTER_RESTRICTIONS`, kernel 5.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operations {
    /// Anything.
    Any,
    /// What this module can push.
    Connections,
    /// The same, except connecting out.
    AcceptedConnections,
}

const NONE: u32 = u32::MAX;

impl Ring {
    /// Creates the ring. The calling thread must be the one that uses it (`IORING_SETUP_SINGLE_ISSUER`).
    pub(crate) fn new(sizes: RingSizes, features: Features, operations: Operations) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_clamp();
        builder.setup_cqsize(sizes.completions).dontfork();
        if features.no_sqarray {
            builder.setup_no_sqarray();
        }
        if operations != Operations::Any {
            builder.setup_r_disabled();
        }
        let inner = builder.build(sizes.submissions)?;
        let buffers = BufferRing::new(&inner, Group::Usual, sizes.buffers, sizes.buffer_bytes)?;
        let bulk_buffers = BufferRing::new(&inner, Group::Bulk, sizes.bulk_buffers, sizes.bulk_buffer_bytes)?;
        let (enter_fd, enter_flags) = match register_ring_fd(inner.as_raw_fd()) {
            Ok(index) => (index, libc_flags::ENTER_REGISTERED_RING),
            Err(_) => (inner.as_raw_fd(), 0),
        };
        operations.enable(&inner)?;
        Ok(Self {
            inner,
            enter_fd,
            enter_flags,
            buffers,
            bulk_buffers,
            held: Vec::new(),
            held_free: NONE,
            harvest: Vec::with_capacity(1024),
            harvested: 0,
            done: VecDeque::new(),
            timeout_at: Box::new(Timespec::new()),
            outstanding: 0,
            features,
            enters: 0,
        })
    }

    pub(crate) fn buffers(&mut self) -> &mut BufferRing {
        &mut self.buffers
    }

    /// The buffers of [`Ring::receive_bulk`].
    pub(crate) fn bulk_buffers(&mut self) -> &mut BufferRing {
        &mut self.bulk_buffers
    }

    /// System calls made so far.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// How often the kernel had no room in the completion ring.
    pub(crate) fn overflows(&mut self) -> u32 {
        self.inner.completion().overflow()
    }

    /// Submits what was pushed, runs deferred work, and waits for at least `wait` completions.
    ///
    /// An interrupted wait (EINTR) and a full completion ring (EBUSY, EAGAIN) are not errors: the next turn continues.
    #[inline]
    pub(crate) fn enter(&mut self, wait: u32) -> io::Result<()> {
        self.buffers.publish();
        self.bulk_buffers.publish();
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
        } else if self.harvested > self.harvest.len() / 2 {
            self.harvest.drain(..self.harvested);
            self.harvested = 0;
        }
        self.harvest.extend(self.inner.completion());
        Ok(())
    }

    /// Completions harvested and not yet taken.
    pub(crate) fn waiting(&self) -> usize {
        self.harvest.len() - self.harvested + self.done.len()
    }

    /// The next completion of the last [`Ring::enter`].
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Completion> {
        loop {
            let Some(entry) = self.harvest.get(self.harvested) else {
                let (key, result, payload) = self.done.pop_front()?;
                return Some(Completion::Sent { key, result, payload });
            };
            let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.harvested += 1;
            let more = cqueue::more(flags);
            let (kind, operation, key) = unpack(user_data);
            return Some(if kind == Kind::Receive as u8 {
                self.outstanding -= usize::from(!more);
                let is_bulk = operation == Group::Bulk as usize;
                let buffers = if is_bulk { &mut self.bulk_buffers } else { &mut self.buffers };
                let lease = cqueue::buffer_select(flags).map(|buffer| buffers.take(buffer, result.max(0) as u32));
                if result == -libc::ENOBUFS {
                    buffers.exhausted();
                }
                let has_more_input = cqueue::sock_nonempty(flags);
                Completion::Received { key, receipt: Receipt { result, lease, more, is_bulk, has_more_input } }
            } else if kind == Kind::Send as u8 {
                self.outstanding -= 1;
                let Held::Payload(payload) = self.take_held(operation) else { unreachable!("a send holds a payload") };
                Completion::Sent { key, result, payload }
            } else if kind == Kind::Room as u8 {
                if more {
                    self.room_polled(user_data, result);
                    continue;
                }
                self.outstanding -= 1;
                let Held::Payload(payload) = self.take_held(operation) else { unreachable!("a send holds a payload") };
                Completion::Sent { key, result: if result < 0 { result } else { -libc::ECANCELED }, payload }
            } else if kind == Kind::Accept as u8 {
                self.outstanding -= usize::from(!more);
                let result = if result < 0 { Err(-result) } else { Ok(Socket(result)) };
                Completion::Accepted { key, result, more }
            } else if kind == Kind::Poll as u8 {
                Completion::Readable { key, more }
            } else if kind == Kind::Watch as u8 {
                self.outstanding -= usize::from(!more);
                Completion::Left { key, result, more }
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

    fn push_quiet(&mut self, entry: squeue::Entry) {
        let entry = if self.features.skip_success { entry.flags(squeue::Flags::SKIP_SUCCESS) } else { entry };
        self.push(entry, Kind::Quiet.pack(0, Key { slot: 0, generation: 0 }));
    }

    #[inline]
    fn push(&mut self, entry: squeue::Entry, user_data: u64) {
        let entry = entry.user_data(user_data);
        // SAFETY: memory to which the entry points is in `held`, or in the buffer ring, until its completion, or is
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
            // The completion ring is full (EBUSY): make room by harvesting, so that the push can continue.
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
            // After a ring's descriptor is closed, the kernel ends the ring's operations only later. Memory to which
            // they still refer must outlive them.
            mem::forget(mem::take(&mut self.held));
            self.buffers.leak();
            self.bulk_buffers.leak();
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
