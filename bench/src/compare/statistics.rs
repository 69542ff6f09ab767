//! Medians of repeated measurements, and ratios of those made in pairs. Pure.

use serde::Serialize;

use crate::random::Random;

/// How often the pairs are drawn anew for an interval.
const RESAMPLES: usize = 2_000;

/// Of the drawn medians, so many lie below the interval, and as many above: 95 % are within.
const TAIL_SHARE: f64 = 0.025;

/// The same at every run, so that the same pairs give the same interval.
const SEED: u64 = 1;

/// The middle of some measurements, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Summary {
    /// `None` of nothing.
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

/// The median ratio of two servers in the same windows, and where it lies with a probability of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Ratio {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Ratio {
    /// Of the ratios of each block's windows. The interval is that of a bootstrap in two stages, percentile method: blocks
    /// are drawn, with repetition, then windows of each drawn block, since windows of one block have the same processes
    /// and are alike. `None` where there is no ratio.
    pub(super) fn of(blocks: &[Vec<f64>]) -> Option<Self> {
        let blocks: Vec<&Vec<f64>> = blocks.iter().filter(|block| !block.is_empty()).collect();
        let median = Summary::of(blocks.iter().copied().flatten().copied())?.median;
        let mut random = Random::new(SEED);
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let mut drawn = Vec::new();
                for _ in 0..blocks.len() {
                    let block = blocks[random.below(blocks.len() as u64) as usize];
                    drawn.extend((0..block.len()).map(|_| block[random.below(block.len() as u64) as usize]));
                }
                drawn.sort_by(f64::total_cmp);
                middle(&drawn)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let below = (TAIL_SHARE * RESAMPLES as f64) as usize;
        Some(Self { median, low: medians[below], high: medians[RESAMPLES - 1 - below] })
    }
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

    #[test]
    fn a_ratio_without_spread_has_no_interval() {
        assert_eq!(Ratio::of(&[]), None);
        assert_eq!(Ratio::of(&[vec![], vec![]]), None);
        let same = Some(Ratio { median: 0.5, low: 0.5, high: 0.5 });
        assert_eq!(Ratio::of(&[vec![0.5; 4], vec![0.5; 3]]), same);
        assert_eq!(Ratio::of(&[vec![0.5]]), same);
    }

    #[test]
    fn the_median_is_that_of_all_windows_and_lies_within_the_interval() {
        let ratio = Ratio::of(&[vec![0.9, 1.0, 1.1], vec![0.8, 1.2], vec![]]).expect("five ratios");
        assert!((ratio.median - 1.0).abs() < 1e-12 && ratio.low < 1.0 && ratio.high > 1.0, "{ratio:?}");
        assert!(ratio.low >= 0.8 && ratio.high <= 1.2, "{ratio:?}");
    }

    #[test]
    fn an_interval_of_many_windows_is_that_of_the_theory() {
        // Evenly spread over 0 to 1: the median of 101 has a standard error of about 1 / (2 · √101) = 0.05.
        let evenly: Vec<f64> = (0..=100).map(|index| f64::from(index) / 100.0).collect();
        let ratio = Ratio::of(&[evenly]).expect("a ratio");
        assert_eq!(ratio.median, 0.5);
        assert!((0.38..=0.43).contains(&ratio.low) && (0.57..=0.62).contains(&ratio.high), "{ratio:?}");
    }

    #[test]
    fn blocks_that_differ_widen_the_interval() {
        // The same ratios: of six processes that differ, or of windows that differ within each.
        let values = [0.8, 0.9, 0.95, 1.05, 1.1, 1.2];
        let between = Ratio::of(&values.map(|value| vec![value; 6])).expect("a ratio");
        let within = Ratio::of(&[0; 6].map(|_| values.to_vec())).expect("a ratio");
        assert_eq!(between.median, within.median);
        assert!(between.high - between.low > 1.3 * (within.high - within.low), "{between:?} {within:?}");
    }
}
