//! Recently requested files: bounded in bytes and in descriptors, checked again after a time. Pure, with time passed
//! in.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// The approximate size of an entry in the map and the queue, with its own fields.
const ENTRY_BYTES: usize = 512;

/// The cost of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) bytes: usize,
    pub(super) descriptors: usize,
}

struct Entry<V> {
    value: Rc<V>,
    cost: Cost,
    checked_at: Duration,
    /// Requested since the queue last passed it.
    is_used: Cell<bool>,
}

/// Whether an entry may be used.
pub(super) enum Known<V> {
    Fresh(Rc<V>),
    /// Must be compared with the file first.
    Stale(Rc<V>),
    Unknown,
}

/// The cache. Entries that are not requested are removed first (second chance).
pub(super) struct Cache<V> {
    entries: HashMap<Rc<[u8]>, Entry<V>>,
    /// Each key of the map once.
    queue: VecDeque<Rc<[u8]>>,
    held: Cost,
    most: Cost,
    valid: Duration,
}

impl<V> Cache<V> {
    pub(super) fn new(most: Cost, valid: Duration) -> Self {
        Self { entries: HashMap::new(), queue: VecDeque::new(), held: Cost::default(), most, valid }
    }

    pub(super) fn get(&self, key: &[u8], now: Duration) -> Known<V> {
        let Some(entry) = self.entries.get(key) else { return Known::Unknown };
        entry.is_used.set(true);
        if now.saturating_sub(entry.checked_at) < self.valid {
            Known::Fresh(Rc::clone(&entry.value))
        } else {
            Known::Stale(Rc::clone(&entry.value))
        }
    }

    /// The file has not changed.
    pub(super) fn confirm(&mut self, key: &[u8], now: Duration) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.checked_at = now;
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        if self.take(key) {
            self.queue.retain(|other| **other != *key);
        }
    }

    /// Stores a value in place of an earlier one, if there is room for it at all.
    pub(super) fn insert(&mut self, key: &[u8], value: Rc<V>, cost: Cost, now: Duration) {
        self.remove(key);
        let cost = Cost { bytes: cost.bytes + key.len() + ENTRY_BYTES, ..cost };
        if cost.bytes > self.most.bytes || cost.descriptors > self.most.descriptors {
            return;
        }
        while self.held.bytes + cost.bytes > self.most.bytes
            || self.held.descriptors + cost.descriptors > self.most.descriptors
        {
            self.make_room();
        }
        let key: Rc<[u8]> = key.into();
        self.held = Cost { bytes: self.held.bytes + cost.bytes, descriptors: self.held.descriptors + cost.descriptors };
        self.queue.push_back(Rc::clone(&key));
        self.entries.insert(key, Entry { value, cost, checked_at: now, is_used: Cell::new(false) });
    }

    fn make_room(&mut self) {
        let Some(key) = self.queue.pop_front() else { return };
        match self.entries.get(&key) {
            Some(entry) if entry.is_used.take() => self.queue.push_back(key),
            _ => drop(self.take(&key)),
        }
    }

    fn take(&mut self, key: &[u8]) -> bool {
        let Some(entry) = self.entries.remove(key) else { return false };
        self.held.bytes -= entry.cost.bytes;
        self.held.descriptors -= entry.cost.descriptors;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(entries: usize) -> Cache<u32> {
        Cache::new(Cost { bytes: entries * (ENTRY_BYTES + 101), descriptors: 2 }, SECOND)
    }

    fn known(cache: &Cache<u32>, key: &[u8], now: Duration) -> Option<(u32, bool)> {
        match cache.get(key, now) {
            Known::Fresh(value) => Some((*value, true)),
            Known::Stale(value) => Some((*value, false)),
            Known::Unknown => None,
        }
    }

    const SMALL: Cost = Cost { bytes: 100, descriptors: 0 };

    #[test]
    fn an_entry_is_looked_at_again_after_a_time() {
        let mut cache = cache(2);
        cache.insert(b"a", Rc::new(1), SMALL, SECOND);
        assert_eq!(known(&cache, b"a", SECOND + SECOND / 2), Some((1, true)));
        assert_eq!(known(&cache, b"a", 2 * SECOND), Some((1, false)));
        cache.confirm(b"a", 2 * SECOND);
        assert_eq!(known(&cache, b"a", 2 * SECOND), Some((1, true)));
        cache.remove(b"a");
        assert_eq!((known(&cache, b"a", SECOND), cache.held), (None, Cost::default()));
    }

    #[test]
    fn what_is_asked_for_stays_longer() {
        let mut cache = cache(2);
        cache.insert(b"a", Rc::new(1), SMALL, SECOND);
        cache.insert(b"b", Rc::new(2), SMALL, SECOND);
        known(&cache, b"a", SECOND);
        cache.insert(b"c", Rc::new(3), SMALL, SECOND);
        let has = |key: &[u8]| known(&cache, key, SECOND).is_some();
        assert_eq!([has(b"a"), has(b"b"), has(b"c")], [true, false, true]);
    }

    #[test]
    fn descriptors_are_bounded_and_what_is_too_large_is_not_kept() {
        let mut cache = cache(9);
        let open = Cost { descriptors: 1, ..SMALL };
        [b"a", b"b", b"c"].into_iter().for_each(|key| cache.insert(key, Rc::new(1), open, SECOND));
        assert_eq!((cache.held.descriptors, cache.entries.len()), (2, 2));
        cache.insert(b"d", Rc::new(1), Cost { bytes: 1 << 20, descriptors: 0 }, SECOND);
        assert_eq!(known(&cache, b"d", SECOND), None);
    }

    proptest! {
        #[test]
        fn the_bounds_hold(steps in prop::collection::vec((0..20u8, 0..900usize, 0..2usize, 0..3u8), 0..300)) {
            let mut cache = cache(5);
            for (key, bytes, descriptors, what) in steps {
                match what {
                    0 => cache.insert(&[key], Rc::new(1), Cost { bytes, descriptors }, SECOND),
                    1 => cache.remove(&[key]),
                    _ => drop(cache.get(&[key], SECOND)),
                }
                prop_assert!(cache.held.bytes <= cache.most.bytes && cache.held.descriptors <= 2);
                prop_assert_eq!(cache.queue.len(), cache.entries.len());
            }
        }
    }
}
