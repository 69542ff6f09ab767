//! Steering by eBPF: selects the listener of the group that gets a new connection.
//!
//! Each generation has its own program and its own map of listeners, per address. Attaching a generation's program,
//! from any socket of the group, switches the whole group to it in one step: listeners that are not in its map get no
//! new connections and so are parked. The same program places connections that migrate from a closing listener.
//!
//! The program chooses a place as the generation's [`Balance`] says. If that place has no listener, it tries the place
//! that the connection's hash gives and the following ones, until one has a listener. If none has, it passes without a
//! choice. A choice by load is counted in the place's load before it is tried, and a failed try puts the place behind
//! all that have a listener. Tries by hash are not counted: the worker reports what comes of them, and the kernel's
//! verifier would need too long. There are no loops: with CAP_BPF and CAP_NET_ADMIN alone, and without CAP_PERFMON, the
//! verifier also follows what a processor might do speculatively, and finds that a loop may not end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::assembler::{Arithmetic, Assembler, Comparison, Helper, Label, Register, Width};
use super::loads::{ASSIGNED_OFFSET, Loads, SETTLED_OFFSET};
use crate::config::{self, WORKERS_MAX};
use crate::sys::bpf::{self, Instruction};

/// The listeners of one generation on one address. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Steering {
    map: Arc<OwnedFd>,
    program: Arc<OwnedFd>,
}

/// How the programs of one generation choose, and the data that they read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Balance {
    steering: Option<config::Steering>,
    /// Without pages if the choice is not by load.
    loads: Loads,
    /// By processor, the place of the worker that is pinned to it, counted from 1; 0 if there is none.
    pinned: Option<(Arc<OwnedFd>, u32)>,
}

impl Balance {
    /// For this many places. `cores` are the processors to which their workers are pinned, in the order of the places.
    ///
    /// # Errors
    /// As bpf(2).
    pub(crate) fn new(steering: config::Steering, places: u32, cores: &[usize]) -> io::Result<Self> {
        let mut this = Self { steering: Some(steering), ..Self::default() };
        if steering == config::Steering::Cpu {
            let count = cores.iter().max().map_or(1, |last| *last as u32 + 1);
            let table = bpf::create_array(count)?;
            for (core, place) in cores.iter().zip(1..) {
                bpf::set_number(table.as_fd(), *core as u32, place)?;
            }
            this.pinned = Some((Arc::new(table), count));
        }
        this.grow(places)?;
        Ok(this)
    }

    /// Makes room for this many places.
    ///
    /// # Errors
    /// As bpf(2).
    pub(crate) fn grow(&mut self, places: u32) -> io::Result<()> {
        if self.steering.is_some_and(config::Steering::is_by_load) { self.loads.grow(places) } else { Ok(()) }
    }

    pub(crate) fn loads(&self) -> &Loads {
        &self.loads
    }
}

/// Another server's listeners on one address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Others<'a> {
    pub(crate) map: BorrowedFd<'a>,
    /// The first this many places of the map are in use.
    pub(crate) places: u32,
    /// Without pages if it does not share its loads.
    pub(crate) loads: &'a Loads,
}

/// Places of a map: a generation may grow to this many workers.
const PLACES: u32 = WORKERS_MAX as u32;

impl Steering {
    /// A map with a program for the first `listeners` places, loaded and not attached.
    ///
    /// # Errors
    /// As bpf(2): `PermissionDenied` without CAP_BPF and CAP_NET_ADMIN.
    pub(crate) fn load(listeners: u32, balance: &Balance) -> io::Result<Self> {
        Self::over(&Arc::new(bpf::create_socket_array(PLACES)?), listeners, balance, None)
    }

    /// The same map with a program for another number of places.
    ///
    /// # Errors
    /// As [`Steering::load`].
    pub(crate) fn resized(&self, listeners: u32, balance: &Balance) -> io::Result<Self> {
        Self::over(&self.map, listeners, balance, None)
    }

    /// The same map with a program for these places and those of another server's map.
    ///
    /// # Errors
    /// As [`Steering::load`].
    pub(crate) fn beside(&self, listeners: u32, balance: &Balance, other: Others<'_>) -> io::Result<Self> {
        Self::over(&self.map, listeners, balance, Some(other))
    }

    fn over(map: &Arc<OwnedFd>, listeners: u32, balance: &Balance, other: Option<Others<'_>>) -> io::Result<Self> {
        let own = Others { map: map.as_fd(), places: listeners, loads: &balance.loads };
        let program = bpf::load_select_or_migrate(&assemble(balance, own, other))?;
        Ok(Self { map: Arc::clone(map), program: Arc::new(program) })
    }

    pub(crate) fn map(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// Puts a listener, which must be listening, in its place. From now on it gets connections, if the program is
    /// attached.
    pub(crate) fn set(&self, index: u32, listener: BorrowedFd<'_>) -> io::Result<()> {
        bpf::set_socket(self.map.as_fd(), index, listener)
    }

    /// Parks the listener in this place, if there is one: it gets no new connections.
    pub(crate) fn unset(&self, index: u32) {
        // If the listener is gone, it is out of the map already.
        let _ = bpf::unset_socket(self.map.as_fd(), index);
    }

    /// Switches the group to which `member` belongs.
    pub(crate) fn attach(&self, member: BorrowedFd<'_>) -> io::Result<()> {
        bpf::attach(member, self.program.as_fd())
    }
}

/// Ends steering of the group of `member`, even if another process began it: all of its listeners get connections.
pub(crate) fn detach(member: BorrowedFd<'_>) {
    // If nothing is attached, there is nothing to end.
    let _ = bpf::detach(member);
}

const SK_PASS: i32 = 1;
/// The offset of `hash` in `struct sk_reuseport_md`.
const HASH_OFFSET: i16 = 32;

/// On the stack: the key for a map lookup, a page, and a load.
const KEY: i16 = -4;
const PAGE: i16 = -16;
const LOAD: i16 = -24;

// Registers that keep their values: the context, and the connection's hash.
const CONTEXT: Register = Register::R6;
const HASH: Register = Register::R7;

/// Places that are tried after the choice. Then the kernel chooses, and takes any socket of the group.
const TRIES_MAX: u32 = 256;

/// More than any load, and small enough that differences do not overflow.
const LEAST_BEGIN: i64 = 1 << 61;

/// A failed try counts 2^32: no worker has so many connections.
const FAILED_BITS: i32 = 32;

/// Consecutive places of all parts: those of a part follow those of the previous one.
struct Pages<'a> {
    map: BorrowedFd<'a>,
    begin: u32,
    end: u32,
}

struct Program<'a> {
    assembler: Assembler,
    parts: Vec<Others<'a>>,
    /// Leads to a pass with the chosen listener.
    end: Label,
    /// Leads to the tries by hash.
    by_hash: Label,
}

fn assemble(balance: &Balance, own: Others<'_>, other: Option<Others<'_>>) -> Vec<Instruction> {
    let mut assembler = Assembler::default();
    let (end, by_hash) = (assembler.label(), assembler.label());
    let parts = [own].into_iter().chain(other).collect();
    let mut program = Program { assembler, parts, end, by_hash };
    program.begin();
    match balance.steering {
        Some(config::Steering::Least) => program.choose_least(),
        Some(config::Steering::TwoChoices) => program.choose_of_two(),
        Some(config::Steering::Hash | config::Steering::Cpu) | None => {}
    }
    program.try_by_hash(balance.pinned.as_ref().map(|(table, count)| (table.as_fd(), *count)));
    program.assembler.place(end);
    program.assembler.compute(Arithmetic::Move, Register::R0, SK_PASS);
    program.assembler.exit();
    program.assembler.finish()
}

impl<'a> Program<'a> {
    fn begin(&mut self) {
        self.assembler.compute_by(Arithmetic::Move, CONTEXT, Register::R1);
        self.assembler.load(Width::Word, HASH, CONTEXT, HASH_OFFSET);
    }

    /// The parts that share their loads, and the pages of their places. If one does not, the hash decides between it
    /// and the others, each in proportion to its places.
    fn measured(&mut self) -> (Vec<usize>, Vec<Pages<'a>>) {
        let (measured, others): (Vec<usize>, Vec<usize>) =
            (0..self.parts.len()).partition(|part| self.parts[*part].loads.places() >= self.parts[*part].places);
        if !others.is_empty() {
            // This server's own places come first.
            let places = measured.iter().map(|part| self.parts[*part].places).sum::<u32>();
            self.spread_by_hash();
            self.assembler.jump_if(Register::R8, Comparison::AtLeast, places as i32, self.by_hash);
        }
        let mut pages = Vec::new();
        let mut begin = 0;
        for part in measured.iter().map(|part| self.parts[*part]) {
            for (map, places) in part.loads.first(part.places) {
                pages.push(Pages { map, begin, end: begin + places });
                begin += places;
            }
        }
        (measured, pages)
    }

    /// Puts the hash, reduced to a number below that of all places, in R8.
    fn spread_by_hash(&mut self) {
        let places = self.parts.iter().map(|part| part.places).sum::<u32>();
        self.assembler.compute_by(Arithmetic::Move, Register::R8, HASH);
        self.assembler.compute(Arithmetic::Modulo, Register::R8, places as i32);
    }

    /// Each place has a number. Its upper bits are the load; the lower ones are the place's own number, mixed with the
    /// hash so that equal loads do not always select the first place. The least of these numbers wins.
    fn choose_least(&mut self) {
        use Register::{R0, R1, R2, R8, R9};
        let (measured, pages) = self.measured();
        let places = pages.last().map_or(1, |last| last.end);
        let bits = places.next_power_of_two().trailing_zeros() as i32;
        let mask = (1 << bits) - 1;
        self.assembler.set(R8, LEAST_BEGIN);
        for (Pages { map, begin, .. }, place) in
            pages.iter().flat_map(|one| (one.begin..one.end).map(move |at| (one, at)))
        {
            let next = self.assembler.label();
            self.assembler.compute(Arithmetic::Move, R1, place as i32);
            self.look_up(*map, *begin);
            self.assembler.jump_if(R0, Comparison::Equal, 0, next);
            self.load_of_page();
            self.assembler.compute(Arithmetic::ShiftLeft, R1, bits);
            self.assembler.compute_by(Arithmetic::Move, R2, HASH);
            self.assembler.compute(Arithmetic::Xor, R2, place as i32);
            self.assembler.compute(Arithmetic::And, R2, mask);
            self.assembler.compute_by(Arithmetic::Or, R1, R2);
            // If the numbers were compared directly, the verifier would track what each outcome implies for them, and
            // have 2^places cases.
            self.assembler.compute_by(Arithmetic::Move, R2, R1);
            self.assembler.compute_by(Arithmetic::Subtract, R2, R8);
            self.assembler.jump_if(R2, Comparison::SignedAtLeast, 0, next);
            self.assembler.compute_by(Arithmetic::Move, R8, R1);
            self.assembler.place(next);
        }
        self.assembler.compute_by(Arithmetic::Move, R9, R8);
        self.assembler.compute_by(Arithmetic::Xor, R9, HASH);
        self.assembler.compute(Arithmetic::And, R9, mask);
        self.try_chosen(&measured);
    }

    fn choose_of_two(&mut self) {
        use Register::{R0, R1, R2, R8, R9};
        let (measured, pages) = self.measured();
        let places = pages.last().map_or(1, |last| last.end) as i32;
        self.assembler.compute_by(Arithmetic::Move, R8, HASH);
        self.assembler.compute(Arithmetic::Modulo, R8, places);
        self.assembler.call(Helper::GetPrandomU32);
        self.assembler.compute_by(Arithmetic::Move, R9, R0);
        // A place other than the first, if there is one.
        self.assembler.compute(Arithmetic::Modulo, R9, (places - 1).max(1));
        self.assembler.compute(Arithmetic::Add, R9, 1);
        self.assembler.compute_by(Arithmetic::Add, R9, R8);
        self.assembler.compute(Arithmetic::Modulo, R9, places);
        self.load_of(R9, &pages);
        self.assembler.store(Width::Double, Register::Stack, LOAD, R1);
        self.load_of(R8, &pages);
        self.assembler.load(Width::Double, R2, Register::Stack, LOAD);
        let (first, chosen) = (self.assembler.label(), self.assembler.label());
        self.assembler.jump_if_by(R2, Comparison::SignedAtLeast, R1, first);
        self.assembler.jump(chosen);
        self.assembler.place(first);
        self.assembler.compute_by(Arithmetic::Move, R9, R8);
        self.assembler.place(chosen);
        self.try_chosen(&measured);
    }

    /// Puts the load of the place in `place` in R1.
    fn load_of(&mut self, place: Register, pages: &[Pages<'_>]) {
        let done = self.assembler.label();
        for Pages { map, begin, end } in pages {
            let next = self.assembler.label();
            self.assembler.jump_if(place, Comparison::AtLeast, *end as i32, next);
            self.assembler.compute_by(Arithmetic::Move, Register::R1, place);
            self.look_up(*map, *begin);
            self.assembler.jump_if(Register::R0, Comparison::Equal, 0, self.by_hash);
            self.load_of_page();
            self.assembler.jump(done);
            self.assembler.place(next);
        }
        self.assembler.jump(self.by_hash);
        self.assembler.place(done);
    }

    /// Puts the load in the page that R0 points to in R1.
    fn load_of_page(&mut self) {
        self.assembler.load(Width::Double, Register::R1, Register::R0, ASSIGNED_OFFSET);
        self.assembler.load(Width::Double, Register::R2, Register::R0, SETTLED_OFFSET);
        self.assembler.compute_by(Arithmetic::Subtract, Register::R1, Register::R2);
    }

    /// Looks up the place in R1 in `map`, whose first place is `begin`. The result is in R0, 0 if there is none.
    fn look_up(&mut self, map: BorrowedFd<'_>, begin: u32) {
        self.assembler.compute(Arithmetic::Subtract, Register::R1, begin as i32);
        self.assembler.store(Width::Word, Register::Stack, KEY, Register::R1);
        self.assembler.set_map(Register::R1, map);
        self.assembler.compute_by(Arithmetic::Move, Register::R2, Register::Stack);
        self.assembler.compute(Arithmetic::Add, Register::R2, i32::from(KEY));
        self.assembler.call(Helper::MapLookupElem);
    }

    /// Tries the place in R9 of these parts, one part after the other.
    fn try_chosen(&mut self, parts: &[usize]) {
        let mut begin = 0;
        for part in parts {
            let next = self.assembler.label();
            let end = begin + self.parts[*part].places;
            self.assembler.jump_if(Register::R9, Comparison::AtLeast, end as i32, next);
            self.assembler.compute(Arithmetic::Subtract, Register::R9, begin as i32);
            self.count(*part, self.by_hash);
            self.try_place(*part);
            self.assembler.load(Width::Double, Register::R1, Register::Stack, PAGE);
            self.assembler.compute(Arithmetic::Move, Register::R2, 1);
            self.assembler.compute(Arithmetic::ShiftLeft, Register::R2, FAILED_BITS);
            self.assembler.add_atomically(Register::R1, ASSIGNED_OFFSET, Register::R2);
            self.assembler.jump(self.by_hash);
            self.assembler.place(next);
            begin = end;
        }
        self.assembler.jump(self.by_hash);
    }

    /// Counts a try of the place in R9 of a part, and keeps its page on the stack.
    fn count(&mut self, part: usize, failed: Label) {
        use Register::{R0, R1, R9};
        let Others { places, loads, .. } = self.parts[part];
        let counted = self.assembler.label();
        let mut begin = 0;
        for (pages, places) in loads.first(places) {
            let next = self.assembler.label();
            self.assembler.jump_if(R9, Comparison::AtLeast, (begin + places) as i32, next);
            self.assembler.compute_by(Arithmetic::Move, R1, R9);
            self.look_up(pages, begin);
            self.assembler.jump_if(R0, Comparison::Equal, 0, failed);
            self.assembler.store(Width::Double, Register::Stack, PAGE, R0);
            self.assembler.compute(Arithmetic::Move, R1, 1);
            self.assembler.add_atomically(R0, ASSIGNED_OFFSET, R1);
            self.assembler.jump(counted);
            self.assembler.place(next);
            begin += places;
        }
        self.assembler.jump(failed);
        self.assembler.place(counted);
    }

    /// Tries the place in R9 of a part. Continues if it has no listener.
    fn try_place(&mut self, part: usize) {
        use Register::{R0, R1, R2, R3, R4, R9};
        let map = self.parts[part].map;
        self.assembler.store(Width::Word, Register::Stack, KEY, R9);
        self.assembler.compute_by(Arithmetic::Move, R1, CONTEXT);
        self.assembler.set_map(R2, map);
        self.assembler.compute_by(Arithmetic::Move, R3, Register::Stack);
        self.assembler.compute(Arithmetic::Add, R3, i32::from(KEY));
        self.assembler.compute(Arithmetic::Move, R4, 0);
        self.assembler.call(Helper::SkSelectReuseport);
        self.assembler.jump_if(R0, Comparison::Equal, 0, self.end);
    }

    /// With several parts, the hash also selects the part that is tried first, each in proportion to its places.
    fn try_by_hash(&mut self, pinned: Option<(BorrowedFd<'_>, u32)>) {
        self.assembler.place(self.by_hash);
        if self.parts.len() > 1 {
            let own = self.assembler.label();
            self.spread_by_hash();
            self.assembler.jump_if(Register::R8, Comparison::Less, self.parts[0].places as i32, own);
            self.try_parts(&[1, 0], pinned);
            self.assembler.place(own);
            self.try_parts(&[0, 1], pinned);
        } else {
            self.try_parts(&[0], pinned);
        }
    }

    /// Tries places of these parts, in this order, and ends.
    fn try_parts(&mut self, parts: &[usize], pinned: Option<(BorrowedFd<'_>, u32)>) {
        use Register::R9;
        if let Some((table, count)) = pinned {
            self.try_pinned(parts[0], table, count);
        }
        for part in parts {
            let places = self.parts[*part].places;
            for number in 0..places.min(TRIES_MAX) {
                self.assembler.compute_by(Arithmetic::Move, R9, HASH);
                self.assembler.compute(Arithmetic::Add, R9, number as i32);
                self.assembler.compute(Arithmetic::Modulo, R9, places as i32);
                self.try_place(*part);
            }
        }
        self.assembler.jump(self.end);
    }

    /// Tries the place whose worker is pinned to this processor. Both servers of an upgrade pin in the same order.
    fn try_pinned(&mut self, part: usize, table: BorrowedFd<'_>, count: u32) {
        use Register::{R0, R1, R9};
        let none = self.assembler.label();
        self.assembler.call(Helper::GetSmpProcessorId);
        self.assembler.jump_if(R0, Comparison::AtLeast, count as i32, none);
        self.assembler.compute_by(Arithmetic::Move, R1, R0);
        self.look_up(table, 0);
        self.assembler.jump_if(R0, Comparison::Equal, 0, none);
        self.assembler.load(Width::Word, R9, R0, 0);
        self.assembler.jump_if(R9, Comparison::Equal, 0, none);
        self.assembler.compute(Arithmetic::Subtract, R9, 1);
        self.assembler.jump_if(R9, Comparison::AtLeast, self.parts[part].places as i32, none);
        self.try_place(part);
        self.assembler.place(none);
    }
}
