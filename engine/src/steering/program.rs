//! Steering by eBPF: which listener of the group a new connection goes to.
//!
//! Each generation has its own program and its own map of listeners, per address. Attaching a generation's program, from
//! any socket of the group, switches the whole group to it in one step: listeners that are not in its map get no new
//! connections and so are parked. What migrates from a closing listener is placed by the same program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::config::WORKERS_MAX;
use crate::sys::bpf::{self, Instruction};

/// Listeners of one generation on one address; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Steering {
    map: Arc<OwnedFd>,
    program: Arc<OwnedFd>,
}

/// Places of a map: a generation may grow to so many workers.
const PLACES: u32 = WORKERS_MAX as u32;

impl Steering {
    /// A map with a program for the first so many places, loaded and not attached.
    ///
    /// # Errors
    /// As bpf(2): `PermissionDenied` without CAP_BPF and CAP_NET_ADMIN.
    pub(crate) fn load(listeners: u32) -> io::Result<Self> {
        Self::over(&Arc::new(bpf::create_socket_array(PLACES)?), listeners, None)
    }

    /// The same map with a program for another number of places.
    ///
    /// # Errors
    /// As [`Steering::load`].
    pub(crate) fn resized(&self, listeners: u32) -> io::Result<Self> {
        Self::over(&self.map, listeners, None)
    }

    /// The same map with a program for these places and those of another server's map.
    ///
    /// # Errors
    /// As [`Steering::load`].
    pub(crate) fn beside(&self, listeners: u32, other: BorrowedFd<'_>, other_listeners: u32) -> io::Result<Self> {
        Self::over(&self.map, listeners, Some((other, other_listeners)))
    }

    fn over(map: &Arc<OwnedFd>, listeners: u32, other: Option<Part<'_>>) -> io::Result<Self> {
        let parts: Vec<Part<'_>> = [(map.as_fd(), listeners)].into_iter().chain(other).collect();
        let program = bpf::load_select_or_migrate(&assemble(&parts))?;
        Ok(Self { map: Arc::clone(map), program: Arc::new(program) })
    }

    pub(crate) fn map(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// Puts a listener, which must be listening, in its place: from now on it gets connections, if the program is
    /// attached.
    pub(crate) fn set(&self, index: u32, listener: BorrowedFd<'_>) -> io::Result<()> {
        bpf::set_socket(self.map.as_fd(), index, listener)
    }

    /// Parks the listener in this place, if there is one: it gets no new connections.
    pub(crate) fn unset(&self, index: u32) {
        // Where it is gone, it is out of the map already.
        let _ = bpf::unset_socket(self.map.as_fd(), index);
    }

    /// Switches the group that `member` belongs to.
    pub(crate) fn attach(&self, member: BorrowedFd<'_>) -> io::Result<()> {
        bpf::attach(member, self.program.as_fd())
    }
}

/// Ends steering of the group that `member` belongs to, whoever began it: all of its listeners get connections.
pub(crate) fn detach(member: BorrowedFd<'_>) {
    // Where nobody steers, there is nothing to end.
    let _ = bpf::detach(member);
}

// Registers, opcodes and one helper, from the instruction set's document and linux/bpf.h.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R6: u8 = 6;
const R7: u8 = 7;
const R8: u8 = 8;
const STACK: u8 = 10;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const LOAD_IMMEDIATE_64: u8 = 0x18;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const MODULO_IMMEDIATE: u8 = 0x97;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_LESS: u8 = 0xa5;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MAP_DESCRIPTOR: u8 = 1;
const SK_SELECT_REUSEPORT: i32 = 82;
const SK_PASS: i32 = 1;
/// Of `hash` in `struct sk_reuseport_md`.
const HASH_OFFSET: i16 = 32;
const KEY_OFFSET: i16 = -4;

/// Instructions for one place that is tried.
const TRY_LENGTH: usize = 11;

/// Places tried before the choice is left to the kernel, which takes any socket of the group.
const TRIES_MAX: u32 = 256;

fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

/// A map, and how many of its places are in use.
type Part<'a> = (BorrowedFd<'a>, u32);

/// The program. It tries the place that the connection's hash gives, then the ones behind it, until one has a socket; where
/// none has, it passes without a choice. With several maps, the hash gives the map as well, each in proportion to its
/// places; the others are tried after it.
fn assemble(parts: &[Part<'_>]) -> Vec<Instruction> {
    let total: u32 = parts.iter().map(|(_, places)| places).sum();
    let mut program = vec![op(MOVE, R6, R1, 0, 0), op(LOAD_WORD, R7, R6, HASH_OFFSET, 0)];
    let (mut sections, mut below) = (Vec::new(), total);
    // From the last map to the first: each section is entered where the remainder is not below its beginning.
    for first in (0..parts.len()).rev() {
        below -= parts[first].1;
        let order = (0..parts.len()).map(|index| parts[(first + index) % parts.len()]);
        sections.push((below, section(order)));
    }
    program.push(op(MOVE, R8, R7, 0, 0));
    program.push(op(MODULO_IMMEDIATE, R8, 0, 0, total as i32));
    for (index, (begin, body)) in sections.iter().enumerate() {
        if index + 1 < sections.len() {
            program.push(op(JUMP_IF_LESS, R8, 0, body.len() as i16, *begin as i32));
        }
        program.extend_from_slice(body);
    }
    program
}

/// Tries all places of the maps in this order, and ends.
fn section<'a>(parts: impl Iterator<Item = Part<'a>>) -> Vec<Instruction> {
    let tries: Vec<(Part<'_>, u32)> =
        parts.flat_map(|part| (0..part.1.min(TRIES_MAX)).map(move |index| (part, index))).collect();
    let mut program = Vec::new();
    for (number, ((map, places), index)) in tries.iter().enumerate() {
        let start = program.len();
        program.push(op(MOVE, R8, R7, 0, 0));
        program.push(op(ADD_IMMEDIATE, R8, 0, 0, *index as i32));
        program.push(op(MODULO_IMMEDIATE, R8, 0, 0, *places as i32));
        program.push(op(STORE_WORD, STACK, R8, KEY_OFFSET, 0));
        program.push(op(MOVE, R1, R6, 0, 0));
        program.push(op(LOAD_IMMEDIATE_64, R2, MAP_DESCRIPTOR, 0, map.as_raw_fd()));
        program.push(op(0, 0, 0, 0, 0));
        program.push(op(MOVE, R3, STACK, 0, 0));
        program.push(op(ADD_IMMEDIATE, R3, 0, 0, i32::from(KEY_OFFSET)));
        program.push(op(MOVE_IMMEDIATE, R4, 0, 0, 0));
        program.push(op(CALL, 0, 0, 0, SK_SELECT_REUSEPORT));
        debug_assert_eq!(program.len() - start, TRY_LENGTH);
        // To the end, over the tries that follow, each with its own jump.
        let left = tries.len() - number - 1;
        program.push(op(JUMP_IF_EQUAL, R0, 0, (left * (TRY_LENGTH + 1)) as i16, 0));
    }
    program.push(op(MOVE_IMMEDIATE, R0, 0, 0, SK_PASS));
    program.push(op(EXIT, 0, 0, 0, 0));
    program
}

const _: () = assert!(2 * TRIES_MAX as usize * (TRY_LENGTH + 1) + 2 < i16::MAX as usize, "a jump reaches the end");

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};

    use socket2::Socket;

    use super::*;
    use crate::sys::listener::{bind, configure};

    /// `None`, said aloud, where programs may not be loaded.
    fn load(listeners: u32) -> Option<Steering> {
        match Steering::load(listeners) {
            Ok(steering) => Some(steering),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("SKIPPED: a steering program may not be loaded: {error}");
                None
            }
            Err(error) => panic!("{listeners} listeners: {error}"),
        }
    }

    fn listen(address: SocketAddr) -> (Socket, SocketAddr) {
        let (socket, address) = bind(address).expect("bound");
        configure(&socket, address, 128).expect("listening");
        socket.set_nonblocking(true).expect("set");
        (socket, address)
    }

    fn waiting(listener: &Socket) -> usize {
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(address).expect("connected")).collect()
    }

    #[test]
    fn the_kernel_verifies_programs_for_any_number_of_listeners() {
        for listeners in [1, 2, 3, 64, TRIES_MAX, TRIES_MAX + 1, 1024] {
            if load(listeners).is_none() {
                return;
            }
        }
    }

    #[test]
    fn attaching_switches_the_group_and_what_waits_moves_when_a_listener_closes() {
        let (Some(first), Some(second)) = (load(2), load(3)) else { return };
        let (old, address) = listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (new, _) = listen(address);
        let (guard, _) = listen(address);
        first.set(1, old.as_fd()).expect("set");
        second.set(2, new.as_fd()).expect("set");
        first.attach(guard.as_fd()).expect("attached");
        let _clients = connect(address, 20);
        assert_eq!((waiting(&old), waiting(&new), waiting(&guard)), (20, 0, 0));
        let _clients = connect(address, 20);
        second.attach(guard.as_fd()).expect("attached");
        let _more = connect(address, 20);
        assert_eq!((waiting(&new), waiting(&guard)), (20, 0), "the old one is parked, and keeps what waits there");
        drop(old);
        assert_eq!((waiting(&new), waiting(&guard)), (20, 0), "what waited moved");
        let _clients = connect(address, 20);
        drop(new);
        let _more = connect(address, 20);
        assert_eq!(waiting(&guard), 40, "nobody else is left");
    }

    #[test]
    fn a_listener_must_listen_before_it_is_steered_to() {
        let Some(steering) = load(1) else { return };
        let (socket, address) = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        steering.set(0, socket.as_fd()).expect_err("it does not listen");
        configure(&socket, address, 16).expect("listening");
        steering.set(0, socket.as_fd()).expect("set");
    }

    #[test]
    fn the_listeners_of_two_servers_serve_together() {
        let (Some(first), Some(second)) = (load(2), load(3)) else { return };
        for (ours, theirs) in [(1, 1), (TRIES_MAX, TRIES_MAX), (3, 1000)] {
            second.beside(ours, first.map(), theirs).expect("verified");
        }
        let (old, address) = listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (new, _) = listen(address);
        first.set(0, old.as_fd()).expect("set");
        second.set(1, new.as_fd()).expect("set");
        second.beside(3, first.map(), 2).expect("loaded").attach(new.as_fd()).expect("attached");
        let _clients = connect(address, 100);
        let shares = (waiting(&old), waiting(&new));
        assert!(shares.0 + shares.1 == 100 && shares.0 > 10 && shares.1 > 10, "{shares:?}");
        drop(old);
        let _more = connect(address, 20);
        assert_eq!(waiting(&new), 20, "the other's places are tried as well");
    }
}
