//! Bounds of what was measured, and how much of the risk of a false alarm each look at growing data may spend.

use statrs::distribution::{Beta, ContinuousCDF, Normal, StudentsT};

/// The risk that test `number` (from 1) of growing data may take, so that all tests together, however many there are,
/// take no more than `risk`: `risk * 6 / (pi * number)^2`, which sums up to `risk`.
#[must_use]
pub fn risk_of_test(risk: f64, number: u32) -> f64 {
    let number = f64::from(number.max(1));
    risk * 6.0 / (std::f64::consts::PI * number).powi(2)
}

/// How many standard errors a one-sided bound is away that is wrong with this `risk`, if the standard error was
/// estimated with so many degrees of freedom.
#[must_use]
pub fn standard_errors(risk: f64, degrees_of_freedom: f64) -> f64 {
    let risk = usable(risk);
    // Beyond that the two are the same.
    let found = if degrees_of_freedom > 1_000.0 {
        Normal::new(0.0, 1.0).map(|normal| normal.inverse_cdf(1.0 - risk)).ok()
    } else {
        let student = StudentsT::new(0.0, 1.0, degrees_of_freedom.max(1.0));
        student.map(|student| student.inverse_cdf(1.0 - risk)).ok()
    };
    found.filter(|errors| errors.is_finite()).unwrap_or(f64::MAX)
}

/// Bounds of the share that `hits` of `count` are of: each wrong with this `risk` at most (Clopper and Pearson's, which are
/// exact). Approximations by the normal distribution, Wilson's too, are far too narrow where the risk is tiny and the share
/// is near 0 or 1: there the binomial distribution is skewed.
#[must_use]
pub fn share_bounds(hits: u64, count: u64, risk: f64) -> (f64, f64) {
    let hits = hits.min(count);
    (lowest_share(hits, count, risk), 1.0 - lowest_share(count - hits, count, risk))
}

/// The share of which `hits` or more of `count` come with a probability of `risk`: a quantile of the beta distribution. It is
/// bisected, as statrs' own inversion does not end for some of such quantiles.
fn lowest_share(hits: u64, count: u64, risk: f64) -> f64 {
    let Some(beta) = Some(hits)
        .filter(|hits| *hits > 0)
        .and_then(|hits| Beta::new(hits as f64, (count - hits) as f64 + 1.0).ok())
    else {
        return 0.0;
    };
    let risk = usable(risk);
    // With a risk of a half at most it is below the median, and that below the mean.
    let (mut low, mut high) = (0.0, hits as f64 / count as f64);
    for _ in 0..50 {
        let middle = low + (high - low) / 2.0;
        if beta.cdf(middle) < risk {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

fn usable(risk: f64) -> f64 {
    if risk.is_nan() { 1e-12 } else { risk.clamp(1e-12, 0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tests_together_take_no_more_than_the_risk() {
        let all: f64 = (1..100_000).map(|number| risk_of_test(0.001, number)).sum();
        assert!((0.000_99..=0.001).contains(&all), "{all}");
    }

    #[test]
    fn bounds_are_those_of_tables() {
        // Student's t and the normal distribution, as tables have them.
        for (risk, freedom, errors) in
            [(0.025, 10.0, 2.2281), (0.001, 7.0, 4.7853), (0.025, 1e6, 1.96), (0.001, f64::INFINITY, 3.0902)]
        {
            let found = standard_errors(risk, freedom);
            assert!((found - errors).abs() < 1e-3, "{found}, not {errors}");
        }
        // Newcombe (1998), table I, method 5: 81 of 263, 15 of 148, 0 of 20 and 1 of 29, at 95 %.
        let near = |found: (f64, f64), wanted: (f64, f64)| {
            assert!((found.0 - wanted.0).abs() < 1e-4 && (found.1 - wanted.1).abs() < 1e-4, "{found:?}");
        };
        near(share_bounds(81, 263, 0.025), (0.2527, 0.3676));
        near(share_bounds(15, 148, 0.025), (0.0578, 0.1617));
        near(share_bounds(0, 20, 0.025), (0.0, 0.1684));
        near(share_bounds(1, 29, 0.025), (0.0009, 0.1776));
        assert_eq!(share_bounds(0, 0, 0.025), (0.0, 1.0));
        for risk in [0.0, -1.0, 2.0, f64::NAN] {
            let (low, high) = share_bounds(5, 3, risk);
            assert!(low <= high, "{low} {high}");
        }
    }

    /// The probability of `most` hits or fewer of `count`, by its sum.
    fn probability_up_to(most: u64, count: u64, share: f64) -> f64 {
        let n = count as f64;
        let mut term = n * (1.0 - share).ln();
        let mut sum = term.exp();
        for k in 0..most {
            term += ((n - k as f64) / (k as f64 + 1.0) * share / (1.0 - share)).ln();
            sum += term.exp();
        }
        sum
    }

    #[test]
    fn the_bounds_of_a_share_are_wrong_with_their_risk() {
        for (hits, count) in
            [(0, 20), (1, 20), (9, 27), (3, 10_000), (500, 500_000), (4_000, 10_000), (100_000, 300_000)]
        {
            for risk in [0.1, 1e-3, 1e-6, 1e-10] {
                let high = share_bounds(hits, count, risk).1;
                let found = probability_up_to(hits, count, high);
                assert!((found / risk - 1.0).abs() < 1e-4, "{hits} of {count}: {found}, not {risk}");
                let low = share_bounds(count - hits, count, risk).0;
                assert!((low + high - 1.0).abs() < 1e-12, "{low} {high}");
            }
        }
    }

    #[test]
    fn less_risk_and_less_data_need_more_standard_errors() {
        for freedom in [f64::NAN, -5.0, 1.0, 3.5, 7.0, 39.0, 999.0, 1_001.0] {
            let errors = [0.5, 1e-3, 1e-6, 1e-9, 1e-12, 0.0].map(|risk| standard_errors(risk, freedom));
            assert!(errors.is_sorted() && errors[0].abs() < 1e-6, "{freedom}: {errors:?}");
        }
        let by_freedom = [1.0, 2.0, 7.0, 39.0, 999.0, 1_001.0].map(|freedom| standard_errors(1e-8, freedom));
        assert!(by_freedom.is_sorted_by(|one, other| one > other), "{by_freedom:?}");
    }
}
