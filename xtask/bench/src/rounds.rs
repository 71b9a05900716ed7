//! What all measurements have in common: the order of their rounds, medians, and what they
//! say meanwhile.

use std::fmt::Display;
use std::io::Write;

use anyhow::{Result, ensure};
use tidegate_stack::wait;

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
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let half = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(at(half.wrapping_sub(1)), at(half))
    } else {
        at(half)
    };
    [median, at(0), at(sorted.len().wrapping_sub(1))]
}

/// Another order at each call, so that what happens to the machine meanwhile does
/// not always meet the same case.
pub fn shuffle<T>(items: &mut [T]) {
    use std::hash::{BuildHasher, RandomState};
    for end in (1..items.len()).rev() {
        let random = RandomState::new().hash_one(end);
        let other = usize::try_from(random % (end as u64 + 1)).unwrap_or(0);
        items.swap(end, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [2.0, 1.0, 3.0]);
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), [2.5, 1.0, 4.0]);
        assert!(spread(&[]).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut items: Vec<_> = (0..100).collect();
        shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>(), "one in 100! runs");
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
