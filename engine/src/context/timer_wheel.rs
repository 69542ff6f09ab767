//! A hierarchical timer wheel: set, cancel and expire in constant time, one millisecond of resolution.
//!
//! Invariant: a timer never fires before its deadline. The first [`TimerWheel::expire`] whose time is the next whole
//! millisecond or later returns it. Each living timer is a node in exactly one slot's list.

/// Slots per level, as a power of two.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Levels: 64^6 ms are 2.2 years.
const LEVELS: usize = 6;
const TICK_NS: u64 = 1_000_000;
const TICKS_MAX: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
const NONE: u32 = u32::MAX;

/// Identifies a timer that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId(u32);

struct Node<T> {
    next: u32,
    previous: u32,
    deadline: u64,
    /// `None` while the node is free.
    value: Option<T>,
}

/// A hierarchical timer wheel.
pub(crate) struct TimerWheel<T> {
    nodes: Vec<Node<T>>,
    free: u32,
    heads: [[u32; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    /// All deadlines at or before this tick have expired.
    now: u64,
}

impl<T: Copy> TimerWheel<T> {
    pub(crate) fn new(now_ns: u64) -> Self {
        Self {
            nodes: Vec::new(),
            free: NONE,
            heads: [[NONE; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            now: now_ns / TICK_NS,
        }
    }

    /// Sets a timer for `deadline_ns` on the clock that `expire` uses.
    pub(crate) fn set(&mut self, deadline_ns: u64, value: T) -> TimerId {
        let deadline = deadline_ns.div_ceil(TICK_NS).clamp(self.now + 1, self.now + TICKS_MAX);
        let node = Node { next: NONE, previous: NONE, deadline, value: Some(value) };
        let index = if self.free == NONE {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 timers")
        } else {
            let index = self.free;
            self.free = self.nodes[index as usize].next;
            self.nodes[index as usize] = node;
            index
        };
        self.link(index);
        TimerId(index)
    }

    /// Ends a timer that has not fired.
    pub(crate) fn cancel(&mut self, id: TimerId) {
        self.unlink(id.0);
        self.release(id.0);
    }

    /// The deadline of a timer that has not fired, in nanoseconds.
    pub(crate) fn deadline_ns(&self, id: TimerId) -> u64 {
        self.nodes[id.0 as usize].deadline * TICK_NS
    }

    /// When `expire` must be called next, in nanoseconds; `None` if no timer is set. Never later than the earliest
    /// deadline. It may be earlier, when timers of a higher level must be sorted in.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let mut earliest: Option<u64> = None;
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let position = self.now >> shift;
            let slot = (position & (SLOTS as u64 - 1)) as u32;
            // Slots before the current one belong to the next round. The current one is empty, since `expire` sorts it
            // in, except on a level where a deadline lies one whole round ahead.
            let ahead = self.occupied[level].rotate_right(slot + 1).trailing_zeros() + 1;
            let at = (position + u64::from(ahead)) << shift;
            earliest = Some(earliest.map_or(at, |other: u64| other.min(at)));
        }
        earliest.map(|tick| tick * TICK_NS)
    }

    /// Takes the next timer that is due at `now_ns`. Call it until it returns `None`.
    ///
    /// It returns one at a time, since handling one may cancel another.
    pub(crate) fn expire(&mut self, now_ns: u64) -> Option<T> {
        let target = now_ns / TICK_NS;
        loop {
            let slot = (self.now & (SLOTS as u64 - 1)) as usize;
            let index = self.heads[0][slot];
            if index != NONE && self.nodes[index as usize].deadline <= self.now {
                self.unlink(index);
                let value = self.nodes[index as usize].value;
                self.release(index);
                return value;
            }
            if self.now >= target {
                return None;
            }
            let next = self.next_ns().map_or(u64::MAX, |at| at / TICK_NS);
            if next > target {
                self.now = target;
                return None;
            }
            self.now = next;
            for level in (1..LEVELS).rev() {
                let shift = SLOT_BITS * level as u32;
                if self.now & ((1 << shift) - 1) == 0 {
                    self.sort_in(level);
                }
            }
        }
    }

    /// Moves the timers of a level's current slot to lower levels.
    fn sort_in(&mut self, level: usize) {
        let slot = ((self.now >> (SLOT_BITS * level as u32)) & (SLOTS as u64 - 1)) as usize;
        let mut index = self.heads[level][slot];
        self.heads[level][slot] = NONE;
        self.occupied[level] &= !(1 << slot);
        while index != NONE {
            let next = self.nodes[index as usize].next;
            self.link(index);
            index = next;
        }
    }

    fn place(&self, deadline: u64) -> (usize, usize) {
        let distance = deadline ^ self.now;
        let level = match distance {
            0 => 0,
            _ => ((63 - distance.leading_zeros()) / SLOT_BITS) as usize,
        };
        let level = level.min(LEVELS - 1);
        (level, ((deadline >> (SLOT_BITS * level as u32)) & (SLOTS as u64 - 1)) as usize)
    }

    fn link(&mut self, index: u32) {
        let (level, slot) = self.place(self.nodes[index as usize].deadline);
        let head = self.heads[level][slot];
        self.nodes[index as usize].next = head;
        self.nodes[index as usize].previous = NONE;
        if head != NONE {
            self.nodes[head as usize].previous = index;
        }
        self.heads[level][slot] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Node { next, previous, deadline, ref value } = self.nodes[index as usize];
        assert!(value.is_some(), "a timer was ended twice");
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if previous != NONE {
            self.nodes[previous as usize].next = next;
            return;
        }
        // The level of a deadline only falls when `now` enters its slot there, which sorts it in. So the place is still
        // the one at which it was linked.
        let (level, slot) = self.place(deadline);
        assert_eq!(self.heads[level][slot], index, "a set timer is in the slot of its deadline");
        self.heads[level][slot] = next;
        if next == NONE {
            self.occupied[level] &= !(1 << slot);
        }
    }

    fn release(&mut self, index: u32) {
        self.nodes[index as usize].value = None;
        self.nodes[index as usize].next = self.free;
        self.free = index;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fires_never_early_and_at_the_next_millisecond() {
        let mut wheel = TimerWheel::new(5_500_000);
        wheel.set(7_000_001, 'a');
        assert_eq!(wheel.expire(7_999_999), None);
        assert_eq!(wheel.expire(8_000_000), Some('a'));
        assert_eq!(wheel.expire(8_000_000), None);
        assert_eq!(wheel.next_ns(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u64),
        Cancel(usize),
        Advance(u64),
        /// To exactly the time that the wheel returned.
        AdvanceToNext,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let span = prop_oneof![0..200u64, 0..70_000u64, 0..20_000_000u64, 0..10_000_000_000u64];
        let step = prop_oneof![
            3 => span.clone().prop_map(Step::Set),
            1 => any::<usize>().prop_map(Step::Cancel),
            2 => span.prop_map(Step::Advance),
            2 => Just(Step::AdvanceToNext),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// Compared with a plain list of deadlines.
        #[test]
        fn behaves_as_a_sorted_list(start in 0..1u64 << 40, steps in steps()) {
            let mut now = start;
            let mut wheel = TimerWheel::new(now * TICK_NS);
            let mut model: Vec<(u64, u64, TimerId)> = Vec::new();
            let mut name = 0;
            for step in steps {
                match step {
                    Step::Set(after) => {
                        name += 1;
                        model.push((name, now + after.max(1), wheel.set((now + after) * TICK_NS, name)));
                    }
                    Step::Cancel(index) if !model.is_empty() => {
                        let (_, _, id) = model.swap_remove(index % model.len());
                        wheel.cancel(id);
                    }
                    Step::Cancel(_) => {}
                    Step::Advance(_) | Step::AdvanceToNext => {
                        let earliest = model.iter().map(|timer| timer.1).min();
                        let next = wheel.next_ns().map(|at| at / TICK_NS);
                        prop_assert_eq!(next.is_some(), earliest.is_some());
                        if let (Some(next), Some(earliest)) = (next, earliest) {
                            prop_assert!(next <= earliest && next > now);
                        }
                        now = match step {
                            Step::Advance(by) => now + by,
                            _ => next.unwrap_or(now),
                        };
                        let mut due: Vec<u64> = std::iter::from_fn(|| wheel.expire(now * TICK_NS)).collect();
                        due.sort_unstable();
                        let mut wanted: Vec<u64> = Vec::new();
                        model.retain(|(name, deadline, _)| {
                            if *deadline <= now { wanted.push(*name) }
                            *deadline > now
                        });
                        wanted.sort_unstable();
                        prop_assert_eq!(due, wanted);
                    }
                }
            }
        }
    }
}
