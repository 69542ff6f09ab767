//! bpf(2): maps of listen sockets and of numbers, and the program that selects one of the sockets.
//!
//! Everything here needs CAP_BPF and CAP_NET_ADMIN, except attaching and filling through descriptors that are already
//! held.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// From linux/bpf.h.
const MAP_CREATE: i64 = 0;
const MAP_UPDATE_ELEM: i64 = 2;
const MAP_DELETE_ELEM: i64 = 3;
const PROG_LOAD: i64 = 5;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_REUSEPORT_SOCKARRAY: u32 = 20;
/// The map's memory can be mapped (kernel 5.5).
const MMAPABLE: u32 = 1 << 10;
const PROG_TYPE_SK_REUSEPORT: u32 = 21;
const SK_REUSEPORT_SELECT_OR_MIGRATE: u32 = 40;
// From asm-generic/socket.h.
const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = 52;
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;

/// The verifier gives up with EAGAIN when a signal is pending; libbpf tries again as well.
const LOADS_MAX: usize = 20;

/// bpftool displays names and reads at most 15 bytes.
const NAME: [u8; 16] = *b"baton_steering\0\0";

/// One instruction, as the kernel reads it (Documentation/bpf/standardization/instruction-set.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination in the low half, source in the high half.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instructions_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

fn call<T>(command: i64, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: `attributes` is a whole C structure of this command, valid for its size; the pointers in it are valid
    // for the call, which keeps none of them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: i64) -> OwnedFd {
    // SAFETY: the kernel has just created this descriptor for us; bpf(2) sets close-on-exec on it.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}

/// A map from indices to listen sockets of one reuseport group. The kernel removes a socket that closes.
pub(crate) fn create_socket_array(entries: u32) -> io::Result<OwnedFd> {
    create(MAP_TYPE_REUSEPORT_SOCKARRAY, entries, size_of::<u64>() as u32, 0)
}

/// An array of `u32`, zeroed.
pub(crate) fn create_array(entries: u32) -> io::Result<OwnedFd> {
    create(MAP_TYPE_ARRAY, entries, size_of::<u32>() as u32, 0)
}

/// An array of zeroed pages. Each can be mapped separately, at [`page_offset`].
pub(crate) fn create_pages(entries: u32) -> io::Result<OwnedFd> {
    create(MAP_TYPE_ARRAY, entries, page_bytes() as u32, MMAPABLE)
}

/// The offset of a page of [`create_pages`], for mmap(2).
pub(crate) fn page_offset(index: u32) -> u64 {
    u64::from(index) * page_bytes() as u64
}

fn page_bytes() -> usize {
    // SAFETY: sysconf(3) has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

fn create(map_type: u32, max_entries: u32, value_size: u32, map_flags: u32) -> io::Result<OwnedFd> {
    let key_size = size_of::<u32>() as u32;
    let mut attributes =
        MapCreate { map_type, key_size, value_size, max_entries, map_flags, name: NAME, ..MapCreate::default() };
    call(MAP_CREATE, &mut attributes).map(descriptor)
}

/// Puts a listening socket into the map.
pub(crate) fn set_socket(map: BorrowedFd<'_>, index: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    update(map, index, &(socket.as_raw_fd() as u64))
}

/// Sets a number of [`create_array`].
pub(crate) fn set_number(map: BorrowedFd<'_>, index: u32, value: u32) -> io::Result<()> {
    update(map, index, &value)
}

fn update<T: Copy>(map: BorrowedFd<'_>, index: u32, value: &T) -> io::Result<()> {
    let mut attributes = MapUpdate {
        map: map.as_raw_fd() as u32,
        key: std::ptr::from_ref(&index) as u64,
        value: std::ptr::from_ref(value) as u64,
        ..MapUpdate::default()
    };
    call(MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Removes a socket from the map.
pub(crate) fn unset_socket(map: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let mut attributes =
        MapUpdate { map: map.as_raw_fd() as u32, key: std::ptr::from_ref(&index) as u64, ..MapUpdate::default() };
    call(MAP_DELETE_ELEM, &mut attributes).map(drop)
}

/// Loads a program that selects the socket of a new connection, and of one that must migrate (kernel 5.14).
///
/// # Errors
/// As bpf(2).
pub(crate) fn load_select_or_migrate(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = ProgramLoad {
        program_type: PROG_TYPE_SK_REUSEPORT,
        instructions_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        name: NAME,
        expected_attach_type: SK_REUSEPORT_SELECT_OR_MIGRATE,
        ..ProgramLoad::default()
    };
    for _ in 1..LOADS_MAX {
        match call(PROG_LOAD, &mut attributes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result.map(descriptor),
        }
    }
    call(PROG_LOAD, &mut attributes).map(descriptor)
}

/// Makes `program` select for the whole group of `socket`, in place of any other program.
pub(crate) fn attach(socket: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, SO_ATTACH_REUSEPORT_EBPF, program.as_raw_fd())
}

/// Leaves the choice for the group of `socket` to the kernel. Needs no privilege.
///
/// # Errors
/// `NotFound` if no program selects.
pub(crate) fn detach(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, SO_DETACH_REUSEPORT_BPF, 0)
}

fn set_option(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is one int, valid for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
