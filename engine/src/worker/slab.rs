//! Connections by slot. Memory is reserved once and touched only as far as it is used, so entries never move.

use crate::connection::Rest;
use crate::sys::ring::Key;
use crate::types::ConnectionId;

const NONE: u32 = u32::MAX;

enum Place<T> {
    Free { next: u32 },
    Taken(T),
}

pub(crate) struct Entry<T> {
    generation: u32,
    place: Place<T>,
}

impl<T> Entry<T> {
    /// The entry with this id; `None` if it is gone.
    #[inline]
    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut T> {
        match &mut self.place {
            Place::Taken(value) if self.generation == id.generation => Some(value),
            _ => None,
        }
    }
}

/// See the module's head.
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    capacity: usize,
    free: u32,
    taken: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity), capacity, free: NONE, taken: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    /// Takes a slot for what `make` returns. Returns `None`, without calling `make`, if no slot is left.
    pub(crate) fn insert(&mut self, make: impl FnOnce(ConnectionId) -> T) -> Option<ConnectionId> {
        let slot = if self.free != NONE {
            self.free
        } else if self.entries.len() < self.capacity {
            self.entries.push(Entry { generation: 0, place: Place::Free { next: NONE } });
            self.entries.len() as u32 - 1
        } else {
            return None;
        };
        let entry = &mut self.entries[slot as usize];
        let Place::Free { next } = entry.place else { unreachable!("the free list names free slots only") };
        let id = ConnectionId { slot, generation: entry.generation };
        entry.place = Place::Taken(make(id));
        self.free = next;
        self.taken += 1;
        Some(id)
    }

    /// The entry that a completion is for; `None` if it is gone.
    #[inline]
    pub(crate) fn get_key(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        match &mut entry.place {
            Place::Taken(value) if entry.generation as u16 == key.generation => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut T> {
        self.entries.get_mut(id.slot as usize)?.get(id)
    }

    /// The same, together with all other entries.
    #[inline]
    pub(crate) fn split(&mut self, id: ConnectionId) -> Option<(&mut T, Rest<'_, Entry<T>>)> {
        let (entry, rest) = Rest::split(&mut self.entries, id.slot)?;
        Some((entry.get(id)?, rest))
    }

    /// The same for the entry that a completion is for.
    #[inline]
    pub(crate) fn split_key(&mut self, key: Key) -> Option<(&mut T, Rest<'_, Entry<T>>)> {
        let (entry, rest) = Rest::split(&mut self.entries, key.slot)?;
        match &mut entry.place {
            Place::Taken(value) if entry.generation as u16 == key.generation => Some((value, rest)),
            _ => None,
        }
    }

    /// The same for the entry that has the slot now.
    #[inline]
    pub(crate) fn split_at(&mut self, slot: u32) -> Option<(&mut T, Rest<'_, Entry<T>>)> {
        let (entry, rest) = Rest::split(&mut self.entries, slot)?;
        match &mut entry.place {
            Place::Taken(value) => Some((value, rest)),
            Place::Free { .. } => None,
        }
    }

    /// All entries.
    pub(crate) fn all(&mut self) -> Rest<'_, Entry<T>> {
        Rest::all(&mut self.entries)
    }

    /// The same, read-only.
    pub(crate) fn peek(&self, id: ConnectionId) -> Option<&T> {
        let entry = self.entries.get(id.slot as usize)?;
        match &entry.place {
            Place::Taken(value) if entry.generation == id.generation => Some(value),
            _ => None,
        }
    }

    /// The entry that has the slot now.
    #[inline]
    pub(crate) fn at(&mut self, slot: u32) -> Option<&mut T> {
        match &mut self.entries.get_mut(slot as usize)?.place {
            Place::Taken(value) => Some(value),
            Place::Free { .. } => None,
        }
    }

    /// Frees a slot; its generation ends.
    pub(crate) fn remove(&mut self, slot: u32) -> T {
        let entry = &mut self.entries[slot as usize];
        let Place::Taken(value) = std::mem::replace(&mut entry.place, Place::Free { next: self.free }) else {
            unreachable!("only taken slots are removed")
        };
        entry.generation = entry.generation.wrapping_add(1);
        self.free = slot;
        self.taken -= 1;
        value
    }

    /// Number of slots that were ever used.
    pub(crate) fn slots(&self) -> u32 {
        self.entries.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_valid_for_the_next_user_of_its_slot() {
        let mut slab = Slab::new(2);
        let first = slab.insert(|_| 'a').expect("room");
        let second = slab.insert(|_| 'b').expect("room");
        assert_eq!(slab.insert(|_| 'c'), None);
        assert_eq!(slab.remove(first.slot), 'a');
        let third = slab.insert(|_| 'd').expect("room");
        assert_eq!((third.slot, third.generation), (first.slot, first.generation + 1));
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_key(Key { slot: first.slot, generation: first.generation as u16 }), None);
        assert_eq!(slab.get(second), Some(&mut 'b'));
        assert_eq!(slab.at(third.slot), Some(&mut 'd'));
        assert_eq!((slab.len(), slab.slots()), (2, 2));
    }
}
