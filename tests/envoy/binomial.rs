//! How far a count may be from what is expected before chance explains it no more.

use std::ops::RangeInclusive;

/// How likely a right product is to leave the range on one side. A test may look at
/// ten counts, on both sides, and still fail less than once in a million runs.
const TAIL: f64 = 4e-8;

/// How many of `trials` may succeed when each does with this `probability` (above 0,
/// below 1), whatever the others do: the exact binomial distribution without its tails.
#[must_use]
pub fn likely_range(trials: u32, probability: f64) -> RangeInclusive<u32> {
    lowest(trials, probability)..=trials.saturating_sub(lowest(trials, 1.0 - probability))
}

/// The first count that has more than [`TAIL`] up to it.
fn lowest(trials: u32, probability: f64) -> u32 {
    // In logarithms: 0.9 to the power of 10,000 is no float.
    let mut log = f64::from(trials) * (1.0 - probability).ln();
    let odds = probability / (1.0 - probability);
    let mut up_to = 0.0;
    for count in 0..trials {
        up_to += log.exp();
        if up_to > TAIL {
            return count;
        }
        log += (odds * f64::from(trials - count) / f64::from(count + 1)).ln();
    }
    trials
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_that_of_the_binomial_distribution() {
        // Coins: with 24 all are heads once in 16 million times, with 25 once in 33.
        assert_eq!(likely_range(24, 0.5), 0..=24);
        assert_eq!(likely_range(25, 0.5), 1..=24);
        // Certain to be near, and near to be certain.
        assert_eq!(likely_range(1, 1e-9), 0..=0);
        assert_eq!(likely_range(1, 1.0 - 1e-9), 1..=1);
        // 5.4 times the standard deviation, and a little more on the side of the long tail.
        let tenth = likely_range(2_000, 0.1);
        assert!((200 - 5 * 14..=200 - 4 * 14).contains(tenth.start()), "{tenth:?}");
        assert!((200 + 5 * 14..=200 + 6 * 14).contains(tenth.end()), "{tenth:?}");
        let rest = likely_range(2_000, 0.9);
        assert_eq!((2_000 - rest.end(), 2_000 - rest.start()), (*tenth.start(), *tenth.end()));
        assert!(likely_range(100_000, 0.01).contains(&1_000));
    }
}
