//! Which connections a worker gives away: few with much load, whole pairs, and none that arrived a short while ago.

use super::CORE_PPM;
use crate::types::ConnectionId;

/// A connection, or a pair that moves together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: ConnectionId,
    pub(crate) partner: Option<ConnectionId>,
    /// Events of both since the worker began to count.
    pub(crate) events: u64,
    /// The time of the last event of either.
    pub(crate) activity_ns: u64,
}

impl Candidate {
    fn count(&self) -> usize {
        1 + usize::from(self.partner.is_some())
    }

    fn ids(self) -> impl Iterator<Item = ConnectionId> {
        [Some(self.id), self.partner].into_iter().flatten()
    }
}

/// How long a worker has counted, and the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) from_ns: u64,
    pub(crate) until_ns: u64,
    /// Events of all its connections.
    pub(crate) events: u64,
}

impl Count {
    /// The number of events that this part makes.
    fn part(&self, ppm: u32) -> u64 {
        (u128::from(self.events) * u128::from(ppm) / u128::from(CORE_PPM)) as u64
    }

    fn share_ppm(&self, events: u64) -> u32 {
        let share_ppm = u128::from(events) * u128::from(CORE_PPM) / u128::from(self.events.max(1));
        share_ppm.min(CORE_PPM.into()) as u32
    }
}

/// What is given away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) connections: Vec<ConnectionId>,
    /// Their part of all events.
    pub(crate) share_ppm: u32,
}

/// One part in this many of `share_ppm` may be missing before another connection is looked for.
const CLOSE_ENOUGH: u64 = 20;

/// A set that makes nearly `share_ppm` of `events`, and not more. If even the least active connection makes more, that
/// one alone, provided that it makes at most `limit_ppm`.
pub(crate) fn busy(
    mut candidates: Vec<Candidate>,
    count: &Count,
    share_ppm: u32,
    limit_ppm: u32,
    connections_max: usize,
) -> Chosen {
    let (wanted, limit) = (count.part(share_ppm), count.part(limit_ppm));
    candidates.retain(|one| one.events > 0 && one.events <= wanted.max(limit) && one.count() <= connections_max);
    let least = candidates.iter().min_by_key(|one| one.events).copied();
    candidates.retain(|one| one.events <= wanted);
    // The most active ones first: they are few, and the others need not be sorted.
    if candidates.len() > connections_max && connections_max > 0 {
        candidates.select_nth_unstable_by_key(connections_max - 1, |one| std::cmp::Reverse(one.events));
        candidates.truncate(connections_max);
    }
    candidates.sort_unstable_by_key(|one| std::cmp::Reverse(one.events));
    let (mut connections, mut sum) = (Vec::new(), 0);
    for one in candidates {
        if sum + one.events <= wanted && connections.len() + one.count() <= connections_max {
            sum += one.events;
            connections.extend(one.ids());
        }
        if wanted - sum <= wanted / CLOSE_ENOUGH {
            break;
        }
    }
    if connections.is_empty()
        && let Some(least) = least
    {
        sum = least.events;
        connections.extend(least.ids());
    }
    Chosen { connections, share_ppm: count.share_ppm(sum) }
}

/// The unit for counts below one event: thousandths.
const THOUSAND: u64 = 1000;

/// The connections that have had no event for longest, as long as they make at most `limit_ppm`.
pub(crate) fn idlest(mut candidates: Vec<Candidate>, count: &Count, limit_ppm: u32, connections_max: usize) -> Chosen {
    if candidates.len() > connections_max && connections_max > 0 {
        candidates.select_nth_unstable_by_key(connections_max - 1, |one| one.activity_ns);
        candidates.truncate(connections_max);
    }
    candidates.sort_unstable_by_key(|one| one.activity_ns);
    let thousandths = Count { events: count.events.saturating_mul(THOUSAND), ..*count };
    let limit = if limit_ppm >= CORE_PPM { u64::MAX } else { thousandths.part(limit_ppm) };
    let counted_ns = count.until_ns.saturating_sub(count.from_ns);
    let (mut connections, mut sum) = (Vec::new(), 0_u64);
    for one in candidates {
        // No event in so short a time does not mean no load: the connection is chosen because its last event was long
        // ago.
        let idle_ns = count.until_ns.saturating_sub(one.activity_ns).max(1);
        let expected = counted_ns.saturating_mul(THOUSAND) / idle_ns;
        let with_it = sum.saturating_add(expected.max(one.events.saturating_mul(THOUSAND)));
        if with_it > limit {
            break;
        }
        if connections.len() + one.count() <= connections_max {
            sum = with_it;
            connections.extend(one.ids());
        }
    }
    Chosen { connections, share_ppm: thousandths.share_ppm(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 0 }
    }

    fn candidates(events: &[u64]) -> Vec<Candidate> {
        let all = events.iter().enumerate();
        all.map(|(slot, events)| Candidate {
            id: id(slot as u32),
            partner: None,
            events: *events,
            activity_ns: *events,
        })
        .collect()
    }

    fn count(events: u64) -> Count {
        Count { from_ns: 0, until_ns: 1000, events }
    }

    fn slots(chosen: &Chosen) -> Vec<u32> {
        chosen.connections.iter().map(|id| id.slot).collect()
    }

    #[test]
    fn few_connections_make_nearly_what_is_asked_and_not_more() {
        let chosen = busy(candidates(&[500, 10, 200, 100, 90, 100]), &count(1000), 310_000, 400_000, 100);
        assert_eq!((slots(&chosen), chosen.share_ppm), (vec![2, 3], 300_000));
        let two = busy(candidates(&[5; 200]), &count(1000), 500_000, 500_000, 2);
        assert_eq!((two.connections.len(), two.share_ppm), (2, 10_000), "as many as may move");
    }

    #[test]
    fn one_connection_above_what_is_asked_moves_up_to_the_limit() {
        let all = || candidates(&[500, 499]);
        assert_eq!(slots(&busy(all(), &count(1000), 260_000, 750_000, 100)), [1]);
        assert_eq!(
            busy(all(), &count(1000), 260_000, 400_000, 100),
            Chosen::default(),
            "it would be too much elsewhere"
        );
        let company = busy(candidates(&[900, 30, 30, 30]), &count(1000), 70_000, 75_000, 100);
        assert_eq!((company.connections.len(), company.share_ppm), (2, 60_000), "its company leaves");
    }

    #[test]
    fn a_pair_goes_whole() {
        let pair = |events| Candidate { partner: Some(id(9)), ..candidates(&[events])[0] };
        assert_eq!(busy(vec![pair(100)], &count(1000), 100_000, 0, 2).connections, [id(0), id(9)]);
        assert_eq!(busy(vec![pair(100)], &count(1000), 100_000, 0, 1), Chosen::default());
        assert_eq!(idlest(vec![pair(100)], &count(1000), CORE_PPM, 1), Chosen::default());
        assert_eq!(idlest(vec![pair(100)], &count(1000), CORE_PPM, 2).connections, [id(0), id(9)]);
    }

    #[test]
    fn the_idlest_are_those_without_events_for_longest() {
        assert_eq!(slots(&idlest(candidates(&[7, 3, 9, 1, 5]), &count(1000), CORE_PPM, 3)), [3, 1, 4]);
        assert_eq!(slots(&idlest(candidates(&[7, 3]), &count(1000), CORE_PPM, 0)), Vec::<u32>::new());
        assert_eq!(busy(candidates(&[7, 3]), &count(10), 1_000_000, 1_000_000, 0), Chosen::default());
        assert_eq!(busy(Vec::new(), &count(0), 1_000_000, 1_000_000, 9), Chosen::default());
    }
}
