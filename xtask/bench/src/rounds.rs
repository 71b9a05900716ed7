//! What all measurements have in common: medians of rounds, and what they say meanwhile.

use std::fmt::Display;
use std::io::Write;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_both_ends() {
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), [2.5, 1.0, 4.0]);
        assert!(spread(&[]).iter().all(|value| value.is_nan()));
    }
}
