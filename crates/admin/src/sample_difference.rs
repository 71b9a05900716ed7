//! How two samples of requests differ, and how far that can be trusted: quantiles of times, shares, and the median of
//! paired differences. All intervals are of 95 %.
//!
//! **Quantiles** by bootstrap: each sample is drawn again, with as many values out of itself, and the quantile taken.
//! The k-th lowest of n such draws is the value at the rank that a Beta(k, n + 1 - k) variable has among n (order
//! statistics of the uniform distribution), so that a resample costs one random number, whatever n is. The interval is
//! that between the quantiles 0.025 and 0.975 of the resamples.
//!
//! Requests are taken for independent of each other. What all requests of one sample have in common, such as what else
//! the machine did meanwhile, is in no interval.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Beta, Distribution};

/// Resamples of a bootstrap. More change the ends of an interval by less than is printed.
const RESAMPLES: usize = 2_000;
/// The same samples have the same interval.
const SEED: u64 = 0x7469_6465;
/// Values beyond a quantile, on either side, without which nothing is said of it: a bootstrap of the last few values
/// does not know how far the next one is away.
pub const BEYOND: f64 = 10.0;
/// The normal distribution's quantile 0.975.
const Z_95: f64 = 1.959_964;
/// Its quantile 0.8.
const Z_80: f64 = 0.841_621;

/// Values with how often each was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Each value, and how many are not above it; ascending.
    not_above: Vec<(u64, u64)>,
}

impl Sample {
    /// From pairs of value and count, the values ascending.
    pub fn new(pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut sum = 0_u64;
        let not_above = pairs.into_iter().filter(|(_, count)| *count > 0).map(|(value, count)| {
            sum = sum.saturating_add(count);
            (value, sum)
        });
        Self { not_above: not_above.collect() }
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.not_above.last().map_or(0, |(_, count)| *count)
    }

    /// The lowest value that at least this share of all are not above; `None`: there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        self.at_rank(rank(self.count(), share))
    }

    /// The `rank`-th lowest value, from 1.
    fn at_rank(&self, rank: u64) -> Option<u64> {
        let at = self.not_above.partition_point(|(_, count)| *count < rank);
        self.not_above.get(at).or(self.not_above.last()).map(|(value, _)| *value)
    }

    /// Whether there are enough values on both sides of a quantile to say something of it.
    fn reaches(&self, share: f64) -> bool {
        // 1 - 0.9 is a little under 0.1.
        self.count() as f64 * share.min(1.0 - share) >= BEYOND - 1e-6
    }
}

/// The rank of a quantile, from 1.
fn rank(count: u64, share: f64) -> u64 {
    ((count as f64 * share).ceil() as u64).clamp(1, count.max(1))
}

/// How much more the second of two figures is, in their unit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Difference {
    /// Second minus first.
    pub value: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The smallest difference that four of five comparisons of samples like these would tell from none.
    pub smallest: f64,
}

impl Difference {
    /// Whether it may as well be none.
    #[must_use]
    pub fn may_be_none(&self) -> bool {
        self.low <= 0.0 && self.high >= 0.0
    }

    /// With what an interval of this width can tell, taken for a normal distribution's.
    fn of(value: f64, low: f64, high: f64) -> Self {
        Self { value, low, high, smallest: (high - low) / 2.0 * (Z_95 + Z_80) / Z_95 }
    }
}

/// How much a quantile of `second` is above that of `first`. `None`: one of them has fewer than [`BEYOND`] values
/// beyond it.
#[must_use]
pub fn quantile_difference(first: &Sample, second: &Sample, share: f64) -> Option<Difference> {
    if !(first.reaches(share) && second.reaches(share)) {
        return None;
    }
    let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let (of_first, of_second) = (ranks(first.count(), share)?, ranks(second.count(), share)?);
    let mut drawn = |sample: &Sample, ranks: &Beta<f64>| {
        let count = sample.count();
        sample.at_rank(rank(count, ranks.sample(&mut random))).unwrap_or_default() as f64
    };
    let mut differences: Vec<f64> =
        (0..RESAMPLES).map(|_| drawn(second, &of_second) - drawn(first, &of_first)).collect();
    differences.sort_by(f64::total_cmp);
    let end = RESAMPLES / 40;
    let value = second.quantile(share)? as f64 - first.quantile(share)? as f64;
    Some(Difference::of(value, differences[end], differences[RESAMPLES - 1 - end]))
}

/// The distribution of the share of values that a resample's quantile is not below.
fn ranks(count: u64, share: f64) -> Option<Beta<f64>> {
    let rank = rank(count, share);
    Beta::new(rank as f64, (count + 1 - rank) as f64).ok()
}

/// How much a share of successes is above another one, each given as successes and how many there were. Interval:
/// Newcombe's of two Wilson intervals (1998, method 10). `None`: one of them is of none.
#[must_use]
pub fn share_difference(first: (u64, u64), second: (u64, u64)) -> Option<Difference> {
    let ([first, first_low, first_high], [second, second_low, second_high]) =
        (wilson(first)?, wilson(second)?);
    let value = second - first;
    let low = value - (second - second_low).hypot(first_high - first);
    let high = value + (second_high - second).hypot(first - first_low);
    Some(Difference::of(value, low, high))
}

/// A share with its interval.
fn wilson((successes, count): (u64, u64)) -> Option<[f64; 3]> {
    if count == 0 {
        return None;
    }
    let (count, share) = (count as f64, successes as f64 / count as f64);
    let squared = Z_95 * Z_95;
    let middle = share + squared / (2.0 * count);
    let width = Z_95 * (share * (1.0 - share) / count + squared / (4.0 * count * count)).sqrt();
    let scale = 1.0 + squared / count;
    // Rounding must not make what is all of them less than that.
    let (low, high) = ((middle - width) / scale, (middle + width) / scale);
    Some([share, low.min(share).max(0.0), high.max(share).min(1.0)])
}

/// The median of differences of pairs, in the values' unit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MedianDifference {
    /// The median.
    pub median: f64,
    /// Lower end of its interval; without one, the lowest value.
    pub low: f64,
    /// Upper end; without one, the highest value.
    pub high: f64,
    /// Whether there are enough values, six, for the interval.
    pub has_interval: bool,
}

/// The median of `differences`, with the interval of the sign test: between the k-th lowest and the k-th highest, k being
/// the highest number for which that has at least 95 %. `None`: there are none.
#[must_use]
pub fn median_difference(differences: &[f64]) -> Option<MedianDifference> {
    let mut sorted = differences.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&lowest, &highest) = (sorted.first()?, sorted.last()?);
    let half = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    };
    let outside = ranks_outside(sorted.len());
    let (low, high) = match outside {
        0 => (lowest, highest),
        outside => (sorted[outside - 1], sorted[sorted.len() - outside]),
    };
    Some(MedianDifference { median, low, high, has_interval: outside > 0 })
}

/// The highest k for which the median of `count` values is below the k-th lowest with at most 2.5 %: then k - 1 or fewer of
/// `count` tosses of a coin are heads. 0: there is none.
fn ranks_outside(count: usize) -> usize {
    let mut exactly = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let (mut at_most, mut heads) = (exactly, 0);
    while at_most <= 0.025 && heads < count {
        heads += 1;
        exactly *= (count - heads + 1) as f64 / heads as f64;
        at_most += exactly;
    }
    heads
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_distr::Uniform;

    use super::*;

    fn of_values(mut values: Vec<u64>) -> Sample {
        values.sort_unstable();
        Sample::new(values.chunk_by(|one, other| one == other).map(|same| (same[0], same.len() as u64)))
    }

    /// Pairs of samples with 400 values each between 0 and 9,999, the second ones shifted by `shift`.
    fn pairs(shift: u64) -> impl Iterator<Item = [Sample; 2]> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let values = Uniform::new(0_u64, 10_000).unwrap();
        (0..50).map(move |_| {
            [0, shift].map(|shift| of_values((0..400).map(|_| values.sample(&mut random) + shift).collect()))
        })
    }

    fn told(shift: u64) -> usize {
        pairs(shift)
            .filter(|[one, other]| !quantile_difference(one, other, 0.5).unwrap().may_be_none())
            .count()
    }

    /// Of 50 comparisons where there is no difference two or three may be expected to show one.
    #[test]
    fn a_difference_is_seldom_told_where_there_is_none() {
        let told = told(0);
        assert!(told <= 7, "{told} of 50");
    }

    /// The median of 400 of these values has a standard error of 10,000 / (2 * 20) = 250; that of a difference of two is
    /// 354, and four of five differences of 2.8 times that are told.
    #[test]
    fn the_smallest_difference_is_told_by_four_of_five_comparisons() {
        let smallest: Vec<f64> =
            pairs(0).map(|[one, other]| quantile_difference(&one, &other, 0.5).unwrap().smallest).collect();
        let mean = smallest.iter().sum::<f64>() / smallest.len() as f64;
        assert!((800.0..1_200.0).contains(&mean), "{mean}");
        let told = told(mean as u64);
        assert!((32..=47).contains(&told), "{told} of 50");
    }

    /// Of 60 values 0 to 59 the interval of the median by ranks (binomial, 95 %) is from the 22nd to the 39th value.
    #[test]
    fn an_interval_is_as_wide_as_ranks_say() {
        let (many, one) = (of_values((0..60).collect()), Sample::new([(0, 1_000)]));
        let difference = quantile_difference(&one, &many, 0.5).unwrap();
        assert!((19.0..=23.0).contains(&difference.low), "{difference:?}");
        assert!((36.0..=40.0).contains(&difference.high), "{difference:?}");
    }

    #[test]
    fn nothing_is_said_of_a_quantile_that_too_few_values_are_beyond() {
        let [some, more] = [900, 1_000].map(|count| of_values((0..count).collect()));
        assert!(quantile_difference(&some, &more, 0.99).is_none());
        assert!(quantile_difference(&more, &more, 0.99).is_some());
        let none = Sample::new([]);
        assert_eq!((none.quantile(0.5), quantile_difference(&none, &more, 0.5)), (None, None));
    }

    /// Newcombe 1998, table II: 56 of 70 less 48 of 80 is 0.2, between 0.0524 and 0.3339.
    #[test]
    fn shares_differ_as_the_literature_says() {
        let difference = share_difference((48, 80), (56, 70)).unwrap();
        let rounded = [difference.value, difference.low, difference.high].map(|it| (it * 1e4).round() / 1e4);
        assert_eq!(rounded, [0.2, 0.0524, 0.3339]);
        assert!(share_difference((100, 100), (100, 100)).unwrap().may_be_none());
        assert!(share_difference((0, 0), (1, 1)).is_none());
    }

    #[test]
    fn a_median_of_pairs_has_the_interval_of_the_sign_test() {
        // Tables of the sign test: of 10 the second from each end, of 20 the sixth, of 5 none.
        for (count, outside) in [(1, 0), (5, 0), (6, 1), (10, 2), (20, 6), (100, 40)] {
            assert_eq!(ranks_outside(count), outside, "{count}");
        }
        let ten: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        let median = median_difference(&ten).unwrap();
        let wanted = MedianDifference { median: 5.5, low: 2.0, high: 9.0, has_interval: true };
        assert_eq!(median, wanted);
        let three = median_difference(&[3.0, 1.0, 2.0]).unwrap();
        let wanted = MedianDifference { median: 2.0, low: 1.0, high: 3.0, has_interval: false };
        assert_eq!(three, wanted);
        assert!(median_difference(&[]).is_none());
    }

    proptest! {
        // Each draws four thousand numbers.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_sample_shifted_by_something_differs_by_that(
            values in prop::collection::vec(0_u64..1_000, 40..200), shift in 0_u64..5_000, share in 0.3_f64..0.7,
        ) {
            let shifted = values.iter().map(|value| value + shift).collect();
            let (first, second) = (of_values(values), of_values(shifted));
            let difference = quantile_difference(&first, &second, share).unwrap();
            prop_assert_eq!(difference.value, shift as f64);
            prop_assert!(difference.low <= difference.high && difference.smallest >= 0.0);
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_the_value_of_its_rank(
            mut values in prop::collection::vec(0_u64..100, 1..60), share in 0.0_f64..=1.0,
        ) {
            let sample = of_values(values.clone());
            values.sort_unstable();
            let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
            prop_assert_eq!(sample.quantile(share), Some(values[rank - 1]));
        }

        #[test]
        fn an_interval_of_shares_has_their_difference(
            first in (0_u64..500, 0_u64..500), second in (0_u64..500, 0_u64..500),
        ) {
            let share = |(one, other): (u64, u64)| (one, one + other + 1);
            let difference = share_difference(share(first), share(second)).unwrap();
            prop_assert!(difference.low <= difference.value && difference.value <= difference.high);
            prop_assert!(difference.low >= -1.0 - 1e-9 && difference.high <= 1.0 + 1e-9);
        }
    }
}
