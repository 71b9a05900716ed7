//! Figures as a table in Markdown, each printed as soon as it is known.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

/// A line on standard output. Whoever read it may have gone (`| head`): that ends nothing.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The head of a table of [`figure`]s.
pub fn head(title: impl Display) {
    say(format_args!("\n| {title} | |\n|---|---|"));
}

/// A row of the table.
pub fn figure(what: impl Display, value: impl Display) {
    say(format_args!("| {what} | {value} |"));
}

/// The times within which these shares of all are, 1 being the longest, by nearest rank. Zero: there are none.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn quantiles<const N: usize>(times: &[Duration], shares: [f64; N]) -> [Duration; N] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    shares.map(|share| {
        let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied().unwrap_or_default()
    })
}

/// Median, 99th percentile and longest, in milliseconds.
pub fn spread(times: &[Duration]) -> String {
    let [p50, p99, longest] = quantiles(times, [0.5, 0.99, 1.0]).map(|time| time.as_secs_f64() * 1_000.0);
    format!("p50 {p50:.0} ms, p99 {p99:.0} ms, longest {longest:.0} ms")
}

/// Bytes, in MB of a million.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(quantiles(&times, [0.5, 0.99, 1.0]).map(|time| time.as_millis()), [100, 198, 200]);
        assert_eq!(spread(&[]), "p50 0 ms, p99 0 ms, longest 0 ms");
    }
}
