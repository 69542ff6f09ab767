//! The 64 bits of `user_data` of an operation, which identify the receiver of its completion.

/// Bits of the 64 of `user_data`: kind, operation index (where memory is held), generation, slot.
const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 16;
const OPERATION_BITS: u32 = 20;
const KIND_BITS: u32 = 4;
const _: () = assert!(SLOT_BITS + GENERATION_BITS + OPERATION_BITS + KIND_BITS == 64);

/// Number of slots that a key can name.
pub(crate) const SLOTS_MAX: u32 = 1 << SLOT_BITS;

/// Sends and connects that can be in flight in one ring.
pub(crate) const OPERATIONS_MAX: usize = 1 << OPERATION_BITS;

/// The owner of an operation: a slot and the low bits of its generation, so that a completion for a former user of the
/// slot is recognised as stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Connect = 4,
    Poll = 5,
    Timeout = 6,
    Watch = 8,
    /// A poll for room in a socket's buffer.
    Room = 9,
    /// Operations whose success is not reported and whose failure needs no reaction.
    Quiet = 7,
}

impl Kind {
    pub(super) fn pack(self, operation: usize, key: Key) -> u64 {
        debug_assert!(key.slot < SLOTS_MAX && operation < OPERATIONS_MAX);
        (self as u64) << (SLOT_BITS + GENERATION_BITS + OPERATION_BITS)
            | (operation as u64) << (SLOT_BITS + GENERATION_BITS)
            | u64::from(key.generation) << SLOT_BITS
            | u64::from(key.slot)
    }
}

pub(super) fn unpack(user_data: u64) -> (u8, usize, Key) {
    let key = Key { slot: (user_data & u64::from(SLOTS_MAX - 1)) as u32, generation: (user_data >> SLOT_BITS) as u16 };
    let operation = (user_data >> (SLOT_BITS + GENERATION_BITS)) as usize & (OPERATIONS_MAX - 1);
    ((user_data >> (SLOT_BITS + GENERATION_BITS + OPERATION_BITS)) as u8, operation, key)
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
