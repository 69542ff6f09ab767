//! Writes a program for the kernel, with labels as targets of jumps.
//!
//! Source: Documentation/bpf/standardization/instruction-set.rst and linux/bpf.h.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::bpf::Instruction;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    /// Results. Calls change it and the next five registers; the others stay.
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    Stack,
}

/// Operations on all 64 bits.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Arithmetic {
    Add = 0x07,
    Subtract = 0x17,
    Or = 0x47,
    And = 0x57,
    ShiftLeft = 0x67,
    Modulo = 0x97,
    Xor = 0xa7,
    Move = 0xb7,
}

/// Comparisons of all 64 bits.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Comparison {
    Equal = 0x15,
    AtLeast = 0x35,
    Less = 0xa5,
    SignedAtLeast = 0x75,
}

/// Functions of the kernel.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Helper {
    MapLookupElem = 1,
    GetPrandomU32 = 7,
    GetSmpProcessorId = 8,
    SkSelectReuseport = 82,
}

#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Width {
    Word = 0x00,
    Double = 0x18,
}

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const ATOMIC_ADD_DOUBLE: u8 = 0xdb;
const LOAD_IMMEDIATE_DOUBLE: u8 = 0x18;
const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The second operand is a register.
const BY_REGISTER: u8 = 0x08;
const MAP_DESCRIPTOR: u8 = 1;

/// A position in the program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(usize);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// The position of each label, once it is known.
    labels: Vec<Option<usize>>,
    /// Instructions that jump, and their targets.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction { code, registers: from << 4 | to as u8, offset, immediate });
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places the label here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    pub(super) fn compute(&mut self, operation: Arithmetic, to: Register, operand: i32) {
        self.push(operation as u8, to, 0, 0, operand);
    }

    pub(super) fn compute_by(&mut self, operation: Arithmetic, to: Register, operand: Register) {
        self.push(operation as u8 | BY_REGISTER, to, operand as u8, 0, 0);
    }

    pub(super) fn set(&mut self, to: Register, value: i64) {
        self.push(LOAD_IMMEDIATE_DOUBLE, to, 0, 0, value as i32);
        self.push(0, Register::R0, 0, 0, (value >> 32) as i32);
    }

    pub(super) fn set_map(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.push(LOAD_IMMEDIATE_DOUBLE, to, MAP_DESCRIPTOR, 0, map.as_raw_fd());
        self.push(0, Register::R0, 0, 0, 0);
    }

    pub(super) fn load(&mut self, width: Width, to: Register, from: Register, offset: i16) {
        self.push(LOAD | width as u8, to, from as u8, offset, 0);
    }

    pub(super) fn store(&mut self, width: Width, to: Register, offset: i16, from: Register) {
        self.push(STORE | width as u8, to, from as u8, offset, 0);
    }

    /// Adds to 64 bits in memory, atomically for all processors.
    pub(super) fn add_atomically(&mut self, to: Register, offset: i16, addend: Register) {
        self.push(ATOMIC_ADD_DOUBLE, to, addend as u8, offset, 0);
    }

    pub(super) fn call(&mut self, helper: Helper) {
        self.push(CALL, Register::R0, 0, 0, helper as i32);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(JUMP, Register::R0, 0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, left: Register, comparison: Comparison, right: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(comparison as u8, left, 0, 0, right);
    }

    pub(super) fn jump_if_by(&mut self, left: Register, comparison: Comparison, right: Register, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(comparison as u8 | BY_REGISTER, left, right as u8, 0, 0);
    }

    pub(super) fn exit(&mut self) {
        self.push(EXIT, Register::R0, 0, 0, 0);
    }

    /// # Panics
    /// If a label was not placed, or is too far away.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (from, label) in self.jumps {
            let to = self.labels[label.0].expect("every label is placed");
            let distance = to as isize - from as isize - 1;
            self.instructions[from].offset = distance.try_into().expect("a jump reaches its label");
        }
        self.instructions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_their_labels_forward_and_back() {
        let mut assembler = Assembler::default();
        let (begin, end) = (assembler.label(), assembler.label());
        assembler.place(begin);
        assembler.jump_if(Register::R1, Comparison::Equal, 7, end);
        assembler.jump(begin);
        assembler.place(end);
        assembler.exit();
        let offsets: Vec<i16> = assembler.finish().iter().map(|instruction| instruction.offset).collect();
        assert_eq!(offsets, [1, -2, 0]);
    }

    #[test]
    fn operands_are_where_the_kernel_reads_them() {
        let mut assembler = Assembler::default();
        assembler.set(Register::R9, -2);
        assembler.compute_by(Arithmetic::Subtract, Register::R1, Register::R2);
        let code: Vec<_> = assembler.finish().iter().map(|one| (one.code, one.registers, one.immediate)).collect();
        assert_eq!(code, [(0x18, 9, -2), (0, 0, -1), (0x1f, 0x21, 0)]);
    }
}
