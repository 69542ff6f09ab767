//! The only module with `unsafe`: the ring and its memory, processes, shared memory.
#![allow(unsafe_code)]

pub(crate) mod acceptor;
pub(crate) mod access_log;
pub(crate) mod arena;
pub(crate) mod bpf;
pub(crate) mod buffer_ring;
pub(crate) mod capabilities;
pub(crate) mod channel;
pub(crate) mod clock;
pub(crate) mod faults;
pub(crate) mod features;
pub(crate) mod file_part;
pub(crate) mod heap;
pub(crate) mod identity;
pub(crate) mod inheritance;
pub(crate) mod landlock;
pub(crate) mod listener;
pub(crate) mod payload;
pub(crate) mod process;
pub(crate) mod readable;
pub(crate) mod ring;
pub(crate) mod sealed_memory;
pub(crate) mod shared_memory;
pub(crate) mod socket_file;
pub(crate) mod system_calls;
