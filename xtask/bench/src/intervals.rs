//! Medians, and how far they can be trusted.

/// Resamples of a bootstrap. More change the interval's ends by less than is printed.
const RESAMPLES: usize = 2_000;
/// The same values have the same interval.
const SEED: u64 = 0x7469_6465;

/// A figure and its interval of 95 %: percentile bootstrap.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Interval {
    /// Of all values.
    pub median: f64,
    /// The quantile 0.025 of the resamples.
    pub low: f64,
    /// The quantile 0.975.
    pub high: f64,
}

impl Interval {
    /// The median of these values. NaN: there are none.
    pub fn of_median(values: &[f64]) -> Self {
        let picked =
            |picks: &[usize]| median(&mut picks.iter().map(|pick| values[*pick]).collect::<Vec<_>>());
        Self::bootstrap(values.len(), picked)
    }

    /// The median of `values` in medians of `unit`. Both come from the same rounds, so that a resample
    /// has the same rounds of both.
    pub fn of_ratio(values: &[f64], unit: &[f64]) -> Self {
        let rounds = values.len().min(unit.len());
        let of = |all: &[f64], picks: &[usize]| {
            median(&mut picks.iter().map(|pick| all[*pick]).collect::<Vec<_>>())
        };
        Self::bootstrap(rounds, |picks| of(values, picks) / of(unit, picks))
    }

    /// The median of `values - others`, round by round.
    pub fn of_difference(values: &[f64], others: &[f64]) -> Self {
        let differences: Vec<f64> = values.iter().zip(others).map(|(value, other)| value - other).collect();
        Self::of_median(&differences)
    }

    /// Of `figure`, which is told the rounds that a resample has, out of `0..rounds`.
    fn bootstrap(rounds: usize, figure: impl Fn(&[usize]) -> f64) -> Self {
        let all: Vec<usize> = (0..rounds).collect();
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut picks = all.clone();
        let mut figures: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                picks.fill_with(|| random.usize(0..rounds));
                figure(&picks)
            })
            .collect();
        figures.sort_by(f64::total_cmp);
        let end = RESAMPLES / 40;
        Self { median: figure(&all), low: figures[end], high: figures[RESAMPLES - 1 - end] }
    }

    /// Half of its width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// Whether the figure may as well be this one.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// NaN: no values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len.is_multiple_of(2) => f64::midpoint(values[half - 1], values[half]),
        _ => values[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&mut []).is_nan());
        assert!(Interval::of_median(&[]).median.is_nan());
    }

    /// Of 60 values 0 to 59 in any order, the interval of the median by ranks (binomial, 95 %) is from
    /// the 22nd to the 39th value.
    #[test]
    fn an_interval_is_as_wide_as_ranks_say() {
        let values: Vec<f64> = (0..60).map(|n| f64::from(n * 7 % 60)).collect();
        let interval = Interval::of_median(&values);
        assert_eq!(interval.median, 29.5);
        assert!((20.0..=23.0).contains(&interval.low), "{interval:?}");
        assert!((36.0..=39.0).contains(&interval.high), "{interval:?}");
        assert!(interval.contains(29.5) && !interval.contains(45.0));
    }

    /// What both have in common in each round is not in the ratio's interval, nor in the difference's.
    #[test]
    fn rounds_stay_together() {
        let unit: Vec<f64> = (0..60).map(|n| 10.0 + f64::from(n % 7)).collect();
        let values: Vec<f64> = unit.iter().map(|value| value * 3.0).collect();
        assert_eq!(Interval::of_ratio(&values, &unit), Interval { median: 3.0, low: 3.0, high: 3.0 });
        let more: Vec<f64> = unit.iter().map(|value| value + 2.0).collect();
        assert_eq!(Interval::of_difference(&more, &unit).half_width(), 0.0);
    }
}
