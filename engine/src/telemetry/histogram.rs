//! A histogram of nanoseconds with eight buckets per power of two: 6 % error, 2.4 KB, one addition to record a value.

use super::Counter;
use crate::sys::shared_memory::shareable;

/// Buckets per power of two, as a power of two.
const SUB_BITS: u32 = 3;

/// Values from 2^LARGEST_BITS nanoseconds (137 s) on share the last bucket.
const LARGEST_BITS: u32 = 37;

/// Number of buckets.
pub const HISTOGRAM_BUCKETS: usize = ((LARGEST_BITS - SUB_BITS + 1) as usize) << SUB_BITS;

shareable! {
    /// The counters of one writer.
    #[repr(C)]
    pub(crate) struct Histogram {
        buckets: [Counter; HISTOGRAM_BUCKETS],
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()) }
    }
}

impl Histogram {
    /// Counts `count` values of `nanoseconds` each.
    #[inline]
    pub(crate) fn record(&self, nanoseconds: u64, count: u64) {
        self.buckets[bucket(nanoseconds)].add(count);
    }

    #[cfg(test)]
    pub(crate) fn fill(&self, count: u64) {
        self.buckets.iter().for_each(|bucket| bucket.set(count));
    }

    pub(crate) fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot { buckets: self.buckets.iter().map(Counter::get).collect() }
    }
}

#[inline]
fn bucket(value: u64) -> usize {
    let value = value.min((1 << LARGEST_BITS) - 1);
    if value < 1 << SUB_BITS {
        return value as usize;
    }
    let octave = 63 - value.leading_zeros() - SUB_BITS;
    ((octave as usize + 1) << SUB_BITS) + ((value >> octave) as usize & ((1 << SUB_BITS) - 1))
}

/// The largest value of a bucket.
fn bucket_end(index: usize) -> u64 {
    if index < 1 << SUB_BITS {
        return index as u64;
    }
    let octave = (index >> SUB_BITS) - 1;
    let sub = (index & ((1 << SUB_BITS) - 1)) as u64;
    (((1 << SUB_BITS) + sub + 1) << octave) - 1
}

/// The largest value of the bucket to which a value belongs.
pub(crate) fn end_of(value: u64) -> u64 {
    bucket_end(bucket(value))
}

/// A histogram at one moment; can be added to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    buckets: Vec<u64>,
}

impl HistogramSnapshot {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value in nanoseconds below or at which `quantile` (0 to 1) of the values lie; 0 if there are none.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = ((self.count() as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen = u64::saturating_add(seen, *count);
            if seen >= wanted {
                return bucket_end(index);
            }
        }
        0
    }

    /// The largest value of each bucket that has any, and its count.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.buckets.iter().enumerate().map(|(index, count)| (bucket_end(index), *count));
        all.filter(|(_, count)| *count > 0)
    }

    /// Adds another's values.
    pub fn add(&mut self, other: &Self) {
        self.buckets.resize(HISTOGRAM_BUCKETS, 0);
        for (own, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *own = own.saturating_add(*theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_are_in_order() {
        let mut last = 0;
        for index in 1..HISTOGRAM_BUCKETS {
            let end = bucket_end(index);
            assert!(end > last);
            assert_eq!(bucket(end), index);
            assert_eq!(bucket(last + 1), index);
            last = end;
        }
        assert_eq!(bucket(u64::MAX), HISTOGRAM_BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_an_eighth() {
        let histogram = Histogram::default();
        for value in 1..=10_000 {
            histogram.record(value, 2);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 20_000);
        for (quantile, exact) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let found = snapshot.quantile(quantile) as f64;
            assert!((found / exact - 1.0).abs() < 0.125, "{quantile}: {found} for {exact}");
        }
        let mut sum = HistogramSnapshot::default();
        assert_eq!(sum.quantile(0.5), 0);
        sum.add(&snapshot);
        sum.add(&snapshot);
        assert_eq!(sum.count(), 40_000);
    }
}
