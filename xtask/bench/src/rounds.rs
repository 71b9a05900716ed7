//! What all measurements have in common: medians of rounds, and what they say meanwhile.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_stack::wait;

use crate::intervals::median;

/// A line on standard output. Whoever read it may have gone (`| head`): that ends nothing.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Ends a measurement that somebody interrupts: what was started is ended.
pub fn ensure_not_interrupted() -> Result<()> {
    ensure!(!wait::is_interrupted(), "interrupted");
    Ok(())
}

/// Median, lowest and highest. NaN: no values.
pub fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    let median = median(&mut sorted);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    [median, at(0), at(sorted.len().wrapping_sub(1))]
}

/// The times within which these shares of all are, 1 being the longest, by nearest rank. NaN: there are none.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn quantiles<const N: usize>(times: &[f64], shares: [f64; N]) -> [f64; N] {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    shares.map(|share| {
        let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    })
}

/// Milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_both_ends() {
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), [2.5, 1.0, 4.0]);
        assert!(spread(&[]).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantiles(&times, [0.0, 0.5, 0.99, 1.0]), [1.0, 100.0, 198.0, 200.0]);
        assert!(quantiles(&[], [0.5])[0].is_nan());
    }
}
