//! Percentiles of times that are in blocks, of which each can count several times.

use std::collections::BTreeMap;

use crate::histogram::{Histogram, pairs, span};

/// One group's times by block.
pub(crate) struct QuantileBlocks {
    /// The buckets that there are, lowest first: lowest time and width.
    spans: Vec<(f64, f64)>,
    /// By bucket, by block: how many times of the block are in it or in a lower one.
    up_to: Vec<u64>,
    /// Of each block.
    counts: Vec<u64>,
}

impl QuantileBlocks {
    pub fn new<'h>(blocks: impl Iterator<Item = &'h Histogram>) -> Self {
        let mut by_bucket: BTreeMap<u16, Vec<(usize, u64)>> = BTreeMap::new();
        let mut counts = Vec::new();
        for (block, histogram) in blocks.enumerate() {
            let mut sum = 0u64;
            for (bucket, count) in pairs(histogram.as_bytes()) {
                by_bucket.entry(bucket).or_default().push((block, count));
                sum = sum.saturating_add(count);
            }
            counts.push(sum);
        }
        let mut up_to = Vec::with_capacity(by_bucket.len() * counts.len());
        let mut row = vec![0u64; counts.len()];
        for of_bucket in by_bucket.values() {
            for (block, count) in of_bucket {
                if let Some(sum) = row.get_mut(*block) {
                    *sum = sum.saturating_add(*count);
                }
            }
            up_to.extend_from_slice(&row);
        }
        let spans =
            by_bucket.keys().map(|bucket| span(*bucket)).map(|(low, width)| (low as f64, width as f64));
        Self { spans: spans.collect(), up_to, counts }
    }

    /// Of each block, how many times are in it.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many there are, each block counting as often as `weights` says.
    pub fn count(&self, weights: &[u64]) -> u64 {
        weighted(&self.counts, weights)
    }

    /// The time that `share` of all are not above, microseconds, interpolated within its bucket; `None`: there are none.
    pub fn quantile(&self, share: f64, weights: &[u64]) -> Option<f64> {
        let wanted = self.count(weights) as f64 * share.clamp(0.0, 1.0);
        let at = |bucket: usize| {
            let blocks = self.counts.len();
            let row = self.up_to.get(bucket * blocks..(bucket + 1) * blocks).unwrap_or_default();
            weighted(row, weights) as f64
        };
        let (mut low, mut high) = (0, self.spans.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if at(middle) < wanted || at(middle) == 0.0 {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let (start, width) = self.spans.get(low)?;
        let below = if low == 0 { 0.0 } else { at(low - 1) };
        let inside = (at(low) - below).max(1.0);
        Some(start + width * ((wanted - below) / inside).clamp(0.0, 1.0))
    }
}

fn weighted(counts: &[u64], weights: &[u64]) -> u64 {
    counts
        .iter()
        .zip(weights)
        .fold(0, |sum, (count, weight)| sum.saturating_add(count.saturating_mul(*weight)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::HistogramSum;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_percentile_is_that_of_all_blocks_as_often_as_they_count(
            blocks in prop::collection::vec((prop::collection::vec(0u64..100_000, 0..40), 0u64..3), 1..8),
            share in 0.0f64..=1.0,
        ) {
            let histograms: Vec<_> = blocks.iter().map(|(times, _)| Histogram::of(times.iter().copied())).collect();
            let weights: Vec<_> = blocks.iter().map(|(_, weight)| *weight).collect();
            let mut sum = HistogramSum::default();
            for (histogram, weight) in histograms.iter().zip(&weights) {
                for _ in 0..*weight {
                    sum.add(histogram.as_bytes());
                }
            }
            let found = QuantileBlocks::new(histograms.iter()).quantile(share, &weights);
            match (found, sum.quantile(share)) {
                (Some(found), Some(middle)) => {
                    // Within the bucket that the middle is of.
                    let width = (middle as f64 / 32.0).max(1.0);
                    prop_assert!((found - middle as f64).abs() <= width, "{found}, not {middle}");
                }
                (found, middle) => prop_assert_eq!(found.is_some(), middle.is_some()),
            }
        }
    }
}
