//! Keys, values, and their expiry times.
//!
//! Invariant: an entry has an expiry exactly if `expiries` holds its key under it. So removing expired entries only
//! costs time for these. An expired entry is invisible at once, and the next sweep removes it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::value::Value;

/// Memory of an entry in addition to its key and a long value: its place in a table of which half may be empty, and the
/// allocator's overhead.
const ENTRY_MEMORY: u64 = 2 * size_of::<(Box<[u8]>, Entry)>() as u64 + 32;

/// Further memory of an entry that expires, in addition to another copy of its key.
const EXPIRY_MEMORY: u64 = 2 * size_of::<(Expiry, Box<[u8]>)>() as u64 + 16;

/// When an entry expires, distinguishable from others at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Expiry {
    /// On the loop's clock.
    at_ms: i64,
    serial: u64,
}

struct Entry {
    value: Value,
    expiry: Option<Expiry>,
}

impl Entry {
    #[inline]
    fn is_live(&self, now: Duration) -> bool {
        self.expiry.is_none_or(|expiry| expiry.at_ms > milliseconds(now))
    }
}

/// Sums over all entries.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// Bytes of keys and values.
    bytes: u64,
    memory: u64,
}

impl Sums {
    #[inline]
    fn of(key: &[u8], entry: &Entry) -> Self {
        let key = key.len() as u64;
        let expiry = entry.expiry.map_or(0, |_| EXPIRY_MEMORY + key);
        Self {
            bytes: key + entry.value.bytes().len() as u64,
            memory: ENTRY_MEMORY + key + entry.value.memory() as u64 + expiry,
        }
    }

    #[inline]
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.memory += other.memory;
    }

    #[inline]
    fn subtract(&mut self, other: Self) {
        self.bytes -= other.bytes;
        self.memory -= other.memory;
    }
}

/// What happens to a key's expiry when its value is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    Unlimited,
    /// It stays as it was.
    Kept,
    /// It ends at this time of the loop's clock.
    UntilMs(i64),
}

/// Why an addition to a number failed.
pub(super) enum AddError {
    NotAnInteger,
    Overflow,
}

/// The store. The hasher is seeded from the system's randomness, since strangers choose the keys.
#[derive(Default)]
pub(super) struct Store {
    entries: HashMap<Box<[u8]>, Entry, ahash::RandomState>,
    expiries: BTreeMap<Expiry, Box<[u8]>>,
    serial: u64,
    sums: Sums,
}

/// The loop's time in the store's unit.
pub(super) fn milliseconds(now: Duration) -> i64 {
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.sums.bytes
    }

    /// Bytes of memory that keys and values need, as far as it depends on them.
    #[inline]
    pub(super) fn memory(&self) -> u64 {
        self.sums.memory
    }

    /// Every key with its value and its expiry time, in any order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8], Option<i64>)> {
        self.entries.iter().map(|(key, entry)| {
            let expiry_ms = entry.expiry.map(|expiry| expiry.at_ms);
            (&key[..], entry.value.bytes(), expiry_ms)
        })
    }

    /// Stores an entry as another store had it.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8], expiry_ms: Option<i64>, now: Duration) {
        self.set(key, value, expiry_ms.map_or(Lifetime::Unlimited, Lifetime::UntilMs), now);
    }

    /// Takes the entries of another store that this one does not have.
    pub(super) fn add_missing(&mut self, other: Self, now: Duration) {
        if self.entries.is_empty() {
            *self = other;
            return;
        }
        for (key, value, expiry_ms) in other.entries() {
            if !self.entries.contains_key(key) {
                self.put(key, value, expiry_ms, now);
            }
        }
    }

    /// Number of entries, including those that have expired since the last sweep.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Number of entries that will expire.
    pub(super) fn expiring_count(&self) -> usize {
        self.expiries.len()
    }

    /// Whether there is anything to sweep, now or later.
    pub(super) fn can_expire(&self) -> bool {
        !self.expiries.is_empty()
    }

    #[inline]
    pub(super) fn get(&self, key: &[u8], now: Duration) -> Option<&[u8]> {
        self.entries.get(key).filter(|entry| entry.is_live(now)).map(|entry| entry.value.bytes())
    }

    pub(super) fn contains(&self, key: &[u8], now: Duration) -> bool {
        self.get(key, now).is_some()
    }

    #[inline]
    pub(super) fn set(&mut self, key: &[u8], value: &[u8], lifetime: Lifetime, now: Duration) {
        match self.entries.get_mut(key) {
            Some(entry) => {
                self.sums.subtract(Sums::of(key, entry));
                entry.value.set(value);
                if let Some(expiry) = entry.expiry
                    && (lifetime != Lifetime::Kept || !entry.is_live(now))
                {
                    entry.expiry = None;
                    self.expiries.remove(&expiry);
                }
                self.sums.add(Sums::of(key, entry));
            }
            None => {
                let entry = Entry { value: Value::new(value), expiry: None };
                self.sums.add(Sums::of(key, &entry));
                self.entries.insert(key.into(), entry);
            }
        }
        if let Lifetime::UntilMs(at_ms) = lifetime {
            self.expire(key, Some(at_ms), now);
        }
    }

    /// Adds to the stored number; a missing one counts as 0.
    pub(super) fn add(&mut self, key: &[u8], addend: i64, now: Duration) -> Result<i64, AddError> {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.is_live(now)) else {
            self.set(key, itoa::Buffer::new().format(addend).as_bytes(), Lifetime::Unlimited, now);
            return Ok(addend);
        };
        let number = super::number::parse(entry.value.bytes()).ok_or(AddError::NotAnInteger)?;
        let sum = number.checked_add(addend).ok_or(AddError::Overflow)?;
        self.sums.subtract(Sums::of(key, entry));
        entry.value.set(itoa::Buffer::new().format(sum).as_bytes());
        self.sums.add(Sums::of(key, entry));
        Ok(sum)
    }

    /// Appends to the value, unless it would get longer than `bytes_max`. Returns the new length.
    pub(super) fn append(&mut self, key: &[u8], more: &[u8], bytes_max: usize, now: Duration) -> Option<usize> {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.is_live(now)) else {
            self.set(key, more, Lifetime::Unlimited, now);
            return Some(more.len());
        };
        let length = entry.value.bytes().len() + more.len();
        if length > bytes_max {
            return None;
        }
        self.sums.subtract(Sums::of(key, entry));
        entry.value.append(more);
        self.sums.add(Sums::of(key, entry));
        Some(length)
    }

    /// Removes the key. Returns its value if it was live.
    pub(super) fn remove(&mut self, key: &[u8], now: Duration) -> Option<Value> {
        let entry = self.entries.remove(key)?;
        self.sums.subtract(Sums::of(key, &entry));
        if let Some(expiry) = entry.expiry {
            self.expiries.remove(&expiry);
        }
        entry.is_live(now).then_some(entry.value)
    }

    /// When the key expires: `None` if there is no such key, `Some(None)` if it does not expire.
    pub(super) fn expiry_ms(&self, key: &[u8], now: Duration) -> Option<Option<i64>> {
        let entry = self.entries.get(key).filter(|entry| entry.is_live(now))?;
        Some(entry.expiry.map(|expiry| expiry.at_ms))
    }

    /// Sets or removes a live key's expiry. Returns `false` if there is no such key.
    pub(super) fn expire(&mut self, key: &[u8], at_ms: Option<i64>, now: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.is_live(now)) else { return false };
        self.sums.subtract(Sums::of(key, entry));
        if let Some(expiry) = entry.expiry.take() {
            self.expiries.remove(&expiry);
        }
        if let Some(at_ms) = at_ms {
            self.serial += 1;
            let expiry = Expiry { at_ms, serial: self.serial };
            entry.expiry = Some(expiry);
            self.expiries.insert(expiry, key.into());
        }
        self.sums.add(Sums::of(key, entry));
        true
    }

    /// Removes at most this many expired entries. Returns `true` if more have expired.
    pub(super) fn remove_expired(&mut self, now: Duration, count_max: usize) -> bool {
        let now_ms = milliseconds(now);
        for _ in 0..count_max {
            let Some(first) = self.expiries.first_entry().filter(|first| first.key().at_ms <= now_ms) else {
                return false;
            };
            let key = first.remove();
            let removed = self.entries.remove(&key);
            debug_assert!(removed.as_ref().is_some_and(|entry| entry.expiry.is_some()), "an expiry without its entry");
            if let Some(entry) = removed {
                self.sums.subtract(Sums::of(&key, &entry));
            }
        }
        self.expiries.first_key_value().is_some_and(|(first, _)| first.at_ms <= now_ms)
    }

    pub(super) fn clear(&mut self) {
        self.entries = HashMap::default();
        self.expiries.clear();
        self.sums = Sums::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_keys_and_values() {
        let mut store = Store::default();
        let now = Duration::ZERO;
        let sum = |store: &Store| store.entries().map(|(key, value, _)| (key.len() + value.len()) as u64).sum::<u64>();
        store.set(b"a", b"long enough to lie in memory of its own", Lifetime::UntilMs(5), now);
        store.set(b"a", b"short", Lifetime::Kept, now);
        store.set(b"bb", b"99", Lifetime::Unlimited, now);
        assert!(store.add(b"bb", 1, now).is_ok() && store.add(b"new", -7, now).is_ok());
        assert!(store.append(b"bb", b"more", 100, now).is_some());
        assert_eq!((store.bytes(), store.bytes()), (sum(&store), 6 + 9 + 5));
        let mut other = Store::default();
        other.set(b"bb", b"is there", Lifetime::Unlimited, now);
        other.add_missing(store, now);
        assert_eq!((other.bytes(), other.count()), (sum(&other), 3));
        assert!(other.remove(b"bb", now).is_some() && !other.remove_expired(Duration::from_secs(1), 10));
        assert_eq!((other.bytes(), other.count()), (sum(&other), 1));
        assert_eq!(other.memory(), ENTRY_MEMORY + 3);
        assert!(other.expire(b"new", Some(2000), now));
        assert_eq!(other.memory(), ENTRY_MEMORY + EXPIRY_MEMORY + 2 * 3);
        assert!(!other.remove_expired(Duration::from_secs(2), 10));
        assert_eq!((other.bytes(), other.memory()), (0, 0));
        other.set(b"a", &[0; 100], Lifetime::Unlimited, now);
        assert!(other.memory() >= ENTRY_MEMORY + 101);
        other.clear();
        assert_eq!((other.bytes(), other.memory()), (0, 0));
    }

    #[test]
    fn a_sweep_is_bounded_and_removes_only_what_has_expired() {
        let mut store = Store::default();
        let at = Duration::from_millis;
        for index in 0..10u8 {
            store.set(&[index], b"x", Lifetime::UntilMs(100 + i64::from(index)), at(0));
        }
        store.set(b"stays", b"x", Lifetime::Unlimited, at(0));
        store.set(&[9], b"y", Lifetime::Kept, at(0));
        store.set(&[0], b"y", Lifetime::Unlimited, at(0));
        assert!(store.remove_expired(at(105), 3));
        assert_eq!((store.count(), store.expiring_count()), (8, 6));
        assert!(!store.remove_expired(at(105), 3));
        assert_eq!((store.count(), store.expiring_count()), (6, 4));
        assert!(!store.remove_expired(at(1000), 100));
        assert_eq!(store.count(), 2);
        assert!(!store.can_expire());
    }
}
