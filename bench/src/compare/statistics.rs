//! Medians of repeated measurements, and ratios of those made in pairs. Pure.

use serde::Serialize;

use crate::random::Random;

/// How often the pairs are resampled for an interval.
const RESAMPLES: usize = 2_000;

/// The part of the resampled medians below the interval, and above it: 95 % are within.
const TAIL_SHARE: f64 = 0.025;

/// Fewer pairs have no interval: with six windows the extremes enclose the true median with 97 %, with five with 94 %.
const PAIRS_MIN: usize = 6;

/// Fixed, so that the same pairs give the same interval.
const SEED: u64 = 1;

/// The median of some measurements, and their range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Summary {
    /// `None` for no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { median: middle(&values), min, max })
    }
}

/// The median of sorted values, of which there is at least one.
fn middle(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The median ratio of two servers in the same windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Ratio {
    pub(super) median: f64,
    /// The range in which it lies with a probability of 95 %; `None` with too few pairs.
    pub(super) interval: Option<Interval>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Ratio {
    /// The ratio from those of each block's windows. The interval is a bootstrap in two stages, percentile method:
    /// blocks are drawn with repetition, then windows of each drawn block, since windows of one block have the same
    /// processes and are alike. `None` if there is no ratio.
    pub(super) fn of(blocks: &[Vec<f64>]) -> Option<Self> {
        let blocks: Vec<&[f64]> = blocks.iter().map(Vec::as_slice).filter(|block| !block.is_empty()).collect();
        let median = Summary::of(blocks.iter().copied().flatten().copied())?.median;
        let pairs: usize = blocks.iter().map(|block| block.len()).sum();
        Some(Self { median, interval: (pairs >= PAIRS_MIN).then(|| interval(&blocks)) })
    }
}

/// No block may be empty.
fn interval(blocks: &[&[f64]]) -> Interval {
    let mut random = Random::new(SEED);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut drawn = Vec::new();
            for _ in 0..blocks.len() {
                let block = draw(blocks, &mut random);
                drawn.extend((0..block.len()).map(|_| draw(block, &mut random)));
            }
            drawn.sort_by(f64::total_cmp);
            middle(&drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let below = (TAIL_SHARE * RESAMPLES as f64) as usize;
    Interval { low: medians[below], high: medians[RESAMPLES - 1 - below] }
}

fn draw<T: Copy>(things: &[T], random: &mut Random) -> T {
    things[random.below(things.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let of = |values: &[f64]| Summary::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(Summary { median: 2.5, min: 1.0, max: 4.0 }));
    }

    /// The median and the interval.
    fn of(blocks: &[Vec<f64>]) -> (f64, Interval) {
        let ratio = Ratio::of(blocks).expect("a ratio");
        (ratio.median, ratio.interval.expect("enough pairs"))
    }

    #[test]
    fn a_ratio_without_spread_has_an_interval_without_width() {
        assert_eq!(of(&[vec![0.5; 4], vec![0.5; 3]]), (0.5, Interval { low: 0.5, high: 0.5 }));
    }

    #[test]
    fn few_pairs_have_no_interval() {
        assert_eq!(Ratio::of(&[]), None);
        assert_eq!(Ratio::of(&[vec![], vec![]]), None);
        assert_eq!(Ratio::of(&[vec![0.5]]), Some(Ratio { median: 0.5, interval: None }));
        assert_eq!(Ratio::of(&[vec![0.5, 0.7, 0.6], vec![0.8, 0.4]]), Some(Ratio { median: 0.6, interval: None }));
        assert!(Ratio::of(&[vec![0.5; 3], vec![0.5; 3]]).is_some_and(|ratio| ratio.interval.is_some()));
    }

    #[test]
    fn the_median_is_that_of_all_windows_and_lies_within_the_interval() {
        let (median, Interval { low, high }) = of(&[vec![0.9, 1.0, 1.1], vec![0.8, 1.2, 1.0, 1.0], vec![]]);
        assert_eq!(median, 1.0);
        assert!((0.8..1.0).contains(&low) && high > 1.0 && high <= 1.2, "{low} to {high}");
    }

    #[test]
    fn an_interval_of_many_windows_is_that_of_the_theory() {
        // Evenly spread over 0 to 1: the median of 101 has a standard error of about 1 / (2 · √101) = 0.05.
        let evenly: Vec<f64> = (0..=100).map(|index| f64::from(index) / 100.0).collect();
        let (median, Interval { low, high }) = of(&[evenly]);
        assert_eq!(median, 0.5);
        assert!((0.38..=0.43).contains(&low) && (0.57..=0.62).contains(&high), "{low} to {high}");
    }

    #[test]
    fn blocks_that_differ_widen_the_interval() {
        // The same ratios: in the first case from six processes that differ, in the second from windows that differ
        // within each.
        let values = [0.8, 0.9, 0.95, 1.05, 1.1, 1.2];
        let (median, between) = of(&values.map(|value| vec![value; 6]));
        let (other_median, within) = of(&[0; 6].map(|_| values.to_vec()));
        assert_eq!(median, other_median);
        assert!(between.high - between.low > 1.3 * (within.high - within.low), "{between:?} {within:?}");
    }
}
