//! Counters of a server that continue through reloads and upgrades: by name, so that a version carries on those that it
//! does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{HistogramSnapshot, Snapshot};

/// The most numbers.
const NUMBERS_MAX: usize = 4_096;

/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 96;

/// Bytes of the numbers that go into one message of the channel between masters.
const PART_BYTES_MAX: usize = 8 * 1024;

/// The digits of a number, and what JSON needs in addition to name and number.
const NUMBER_BYTES: usize = 24;

/// Numbers that only grow, by name. The names are those of [`Snapshot`]'s counters, and families of them with a label: `closed:peer`.
///
/// | family | its labels |
/// |---|---|
/// | `closed` | [`CloseReason::name`](crate::CloseReason::name) |
/// | `named` | the protocol's own counters |
/// | `service`, `pause` | values of a histogram: the largest nanosecond of each bucket |
/// | `handover` | an operation's kind, and the largest nanosecond of a bucket: `handover:reload:11534335` |
/// | `refused` | why connections could not move: [`Refusal::name`](crate::control::Refusal::name) |
/// | `failed` | operations that failed |
/// | `ended` | workers that died, by `code` or `signal` |
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Totals {
    numbers: BTreeMap<String, u64>,
}

impl Totals {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let Snapshot {
            accepted,
            connected,
            taken_over,
            open: _,
            closed,
            bytes_received,
            bytes_sent,
            requests,
            turns,
            enters,
            buffers_exhausted,
            completions_overflowed,
            accept_errors,
            accept_pauses,
            memory_bytes: _,
            memory_pauses,
            sibling_messages_sent,
            sibling_messages_heard,
            siblings_dropped,
            turn_at_ns: _,
            named,
            service,
            pause,
        } = snapshot;
        let mut totals = Self::default();
        for (name, count) in [
            ("accepted", accepted),
            ("connected", connected),
            ("taken_over", taken_over),
            ("bytes_received", bytes_received),
            ("bytes_sent", bytes_sent),
            ("requests", requests),
            ("turns", turns),
            ("enters", enters),
            ("buffers_exhausted", buffers_exhausted),
            ("completions_overflowed", completions_overflowed),
            ("accept_errors", accept_errors),
            ("accept_pauses", accept_pauses),
            ("memory_pauses", memory_pauses),
            ("sibling_messages_sent", sibling_messages_sent),
            ("sibling_messages_heard", sibling_messages_heard),
            ("siblings_dropped", siblings_dropped),
        ] {
            totals.count(name.to_owned(), *count);
        }
        closed.iter().for_each(|(reason, count)| totals.count(format!("closed:{}", reason.name()), *count));
        named.iter().for_each(|(name, count)| totals.count(format!("named:{name}"), *count));
        totals.count_values("service", service);
        totals.count_values("pause", pause);
        totals
    }

    fn count_values(&mut self, family: &str, values: &HistogramSnapshot) {
        values.buckets().for_each(|(end_ns, count)| self.count(format!("{family}:{end_ns}"), count));
    }

    /// Adds `count`. A number for which there is no room is not counted.
    pub(crate) fn count(&mut self, name: String, count: u64) {
        if let Some(own) = self.numbers.get_mut(&name) {
            *own = own.saturating_add(count);
        } else if self.numbers.len() < NUMBERS_MAX && name.len() <= NAME_BYTES_MAX {
            self.numbers.insert(name, count);
        }
    }

    /// Counts one value of a histogram.
    pub(crate) fn count_value(&mut self, family: &str, nanoseconds: u64) {
        self.count(format!("{family}:{}", super::histogram::end_of(nanoseconds)), 1);
    }

    /// Adds another's numbers.
    pub(crate) fn add(&mut self, other: &Self) {
        other.numbers.iter().for_each(|(name, count)| self.count(name.clone(), *count));
    }

    /// Takes over each number that is larger in `later`: the same numbers at a later time, even if some messages were
    /// lost or came twice.
    pub(crate) fn rise_to(&mut self, later: &Self) {
        for (name, count) in &later.numbers {
            match self.numbers.get_mut(name) {
                Some(own) => *own = (*own).max(*count),
                None => self.count(name.clone(), *count),
            }
        }
    }

    /// The same in parts, each of which fits into one message.
    pub(crate) fn parts(&self) -> Vec<Self> {
        let mut parts = vec![Self::default()];
        let mut bytes = 0;
        for (name, count) in &self.numbers {
            bytes += name.len() + NUMBER_BYTES;
            if bytes > PART_BYTES_MAX {
                parts.push(Self::default());
                bytes = name.len() + NUMBER_BYTES;
            }
            parts.last_mut().expect("there is one").numbers.insert(name.clone(), *count);
        }
        parts
    }

    /// The same within limits, because the writer is not trusted.
    pub(crate) fn bounded(mut self) -> Self {
        self.numbers.retain(|name, _| name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control));
        if self.numbers.len() > NUMBERS_MAX {
            self.numbers = self.numbers.into_iter().take(NUMBERS_MAX).collect();
        }
        self
    }

    /// The number with this name; 0 if there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    /// The numbers of a family, with their labels in order.
    pub fn family<'a>(&'a self, family: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        let rest = move |name: &'a str| name.strip_prefix(family)?.strip_prefix(':');
        let all = self.numbers.range(format!("{family}:")..);
        all.map_while(move |(name, count)| Some((rest(name)?, *count)))
    }
}

/// What one master of a server knows of all numbers: those of its own workers, and those that other masters have sent.
///
/// No client sees a number fall, whichever master answers. Before a master shows numbers, it sends them to the other
/// one of an upgrade, which reads them before it answers any later request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The numbers that this master itself has counted.
    pub(crate) own: Totals,
    /// Numbers of the earlier masters, as the old one has sent them.
    from_old: Totals,
    /// Numbers of the new master, as far as it has sent them.
    from_new: Totals,
    /// Numbers of new masters that were sent back.
    of_ended: Totals,
}

impl Ledger {
    fn sum(parts: &[&Totals]) -> Totals {
        let mut sum = Totals::default();
        parts.iter().for_each(|part| sum.add(part));
        sum
    }

    /// The sum of all. `workers` are the numbers of this master's workers.
    pub(crate) fn shown(&self, workers: &Totals) -> Totals {
        Self::sum(&[workers, &self.own, &self.of_ended, &self.from_old, &self.from_new])
    }

    /// The numbers that the new master adds to its own.
    pub(crate) fn for_new(&self, workers: &Totals) -> Totals {
        Self::sum(&[workers, &self.own, &self.of_ended, &self.from_old])
    }

    /// The numbers that the old master adds to its own.
    pub(crate) fn for_old(&self, workers: &Totals) -> Totals {
        Self::sum(&[workers, &self.own, &self.of_ended])
    }

    pub(crate) fn heard_old(&mut self, part: &Totals) {
        self.from_old.rise_to(part);
    }

    pub(crate) fn heard_new(&mut self, part: &Totals) {
        self.from_new.rise_to(part);
    }

    /// The new master has ended. A further new master counts from 0.
    pub(crate) fn new_ended(&mut self) {
        let ended = std::mem::take(&mut self.from_new);
        self.of_ended.add(&ended);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::types::CloseReason;

    #[test]
    fn families_have_their_labels_and_no_others() {
        let named = vec![("a:b".to_owned(), 2), ("c".to_owned(), 0)];
        let mut snapshot = Snapshot { accepted: 7, named, ..Snapshot::default() };
        snapshot.closed[CloseReason::Peer as usize].1 = 3;
        let mut totals = Totals::of(&snapshot);
        assert_eq!((totals.get("accepted"), totals.get("closed:peer"), totals.get("nothing")), (7, 3, 0));
        assert_eq!(totals.family("named").collect::<Vec<_>>(), [("a:b", 2), ("c", 0)]);
        assert_eq!(totals.family("closed").count(), CloseReason::COUNT);
        assert_eq!(totals.family("close").count() + totals.family("service").count(), 0);
        totals.count_value("service", 1_000);
        totals.count_value("service", 1_001);
        assert_eq!(totals.family("service").collect::<Vec<_>>(), [("1023", 2)]);
    }

    #[test]
    fn parts_fit_into_messages_and_are_the_whole() {
        let mut totals = Totals::default();
        (0..NUMBERS_MAX + 9).for_each(|number| totals.count(format!("named:{number:0>80}"), u64::MAX));
        totals.count("x".repeat(NAME_BYTES_MAX + 1), 1);
        assert_eq!(totals.numbers.len(), NUMBERS_MAX);
        let mut whole = Totals::default();
        for part in totals.parts() {
            assert!(serde_json::to_vec(&part).expect("written").len() < 2 * PART_BYTES_MAX);
            whole.rise_to(&part);
            whole.rise_to(&part);
        }
        assert_eq!(whole, totals);
        let mut foreign = totals.clone();
        foreign.numbers.insert("two\nlines".to_owned(), 1);
        foreign.numbers.insert("x".repeat(4_000), 1);
        assert_eq!(foreign.bounded(), totals);
    }

    /// A master of the history below.
    #[derive(Default)]
    struct Master {
        ledger: Ledger,
        workers: Totals,
        /// Messages to it that were not read yet: from the old master (`true`), or the new one.
        told: VecDeque<(bool, Totals)>,
    }

    impl Master {
        fn hear(&mut self) {
            for (is_old, part) in std::mem::take(&mut self.told) {
                if is_old { self.ledger.heard_old(&part) } else { self.ledger.heard_new(&part) }
            }
        }
    }

    fn tell(old: &mut Master, new: &mut Master) {
        new.told.extend(old.ledger.for_new(&old.workers).parts().into_iter().map(|part| (true, part)));
        old.told.extend(new.ledger.for_old(&new.workers).parts().into_iter().map(|part| (false, part)));
    }

    /// Upgrades that stay, upgrades that are reverted, and new masters that are killed, in a random order. Both masters
    /// work all the time, and a client asks whichever has the name.
    #[test]
    fn nothing_that_is_shown_ever_falls() {
        for seed in 1..=300_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = move |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let (mut old, mut new, mut is_new_named) = (Master::default(), None::<Master>, false);
            let (mut seen, mut counted, mut is_exact) = (0, 0, true);
            for _ in 0..400 {
                match (random(8), &mut new) {
                    (0..3, Some(new)) => {
                        new.workers.count("requests".to_owned(), 1);
                        counted += 1;
                    }
                    (0..4, _) => {
                        old.workers.count("requests".to_owned(), 1);
                        counted += 1;
                    }
                    (4, None) => {
                        let mut started = Master::default();
                        tell(&mut old, &mut started);
                        new = Some(started);
                    }
                    (4, Some(_)) => is_new_named = !is_new_named,
                    (5, Some(other)) if random(4) == 0 => {
                        if is_new_named {
                            // The new master stays. The last numbers of the old one arrive before its end.
                            tell(&mut old, other);
                            other.hear();
                            other.ledger.new_ended();
                            old = new.take().expect("there is one");
                        } else {
                            // The new master was sent back, and all its messages are read. Or it was killed, and its
                            // last numbers are lost.
                            let was_killed = random(2) == 0;
                            if was_killed {
                                is_exact = false;
                            } else {
                                tell(&mut old, other);
                            }
                            old.hear();
                            old.ledger.new_ended();
                            new = None;
                        }
                        is_new_named = false;
                    }
                    _ => {
                        let shown = match &mut new {
                            Some(other) => {
                                tell(&mut old, other);
                                let one = if is_new_named { other } else { &mut old };
                                one.hear();
                                one.ledger.shown(&one.workers)
                            }
                            None => old.ledger.shown(&old.workers),
                        };
                        assert!(shown.get("requests") >= seen, "seed {seed}: {} after {seen}", shown.get("requests"));
                        seen = shown.get("requests");
                        assert!(seen <= counted, "seed {seed}: nothing is counted twice");
                        assert!(seen == counted || !is_exact, "seed {seed}: nothing is lost");
                    }
                }
            }
        }
    }
}
