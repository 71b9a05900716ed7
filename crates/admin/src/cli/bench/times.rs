//! Times of requests: microseconds in a histogram of three digits, up to an hour.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::sample_difference::Sample;

/// The longest time that is told from longer ones, microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// Digits of a time that are kept: it is off by 0.1 % at most.
const DIGITS: u8 = 3;

/// Times of requests.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "SavedTimes", into = "SavedTimes")]
pub struct Times(Histogram<u64>);

/// Times as they are saved. All but the histogram follow from it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedTimes {
    count: u64,
    p50_ms: Option<f64>,
    p90_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    /// Pairs of microseconds and how many requests took that, ascending.
    histogram_us: Vec<(u64, u64)>,
}

impl Times {
    /// None yet.
    pub fn new() -> Self {
        // The bounds are right.
        Self(Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("the histogram's bounds are valid"))
    }

    /// Adds one.
    pub fn add(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    /// Adds those of `other`.
    pub fn add_all(&mut self, other: &Self) {
        for (us, count) in other.pairs() {
            self.0.saturating_record_n(us, count);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time within which this share of the requests ended, milliseconds; `None`: there were none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| milliseconds(self.0.value_at_quantile(share)))
    }

    /// The longest one, milliseconds.
    pub fn longest(&self) -> Option<f64> {
        self.quantile(1.0)
    }

    /// The same for comparisons, microseconds.
    pub fn sample(&self) -> Sample {
        Sample::new(self.pairs())
    }

    fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
    }
}

impl From<Times> for SavedTimes {
    fn from(times: Times) -> Self {
        let [p50_ms, p90_ms, p95_ms, p99_ms] = [0.5, 0.9, 0.95, 0.99].map(|share| times.quantile(share));
        Self {
            count: times.count(),
            p50_ms,
            p90_ms,
            p95_ms,
            p99_ms,
            max_ms: times.longest(),
            histogram_us: times.pairs().collect(),
        }
    }
}

impl TryFrom<SavedTimes> for Times {
    type Error = String;

    fn try_from(saved: SavedTimes) -> Result<Self, String> {
        let mut times = Self::new();
        let mut before = None;
        for (us, count) in saved.histogram_us {
            if before.is_some_and(|before| us <= before) {
                return Err(format!("`histogram_us`: {us} does not ascend"));
            }
            if us > times.0.high() * 2 || count == 0 {
                return Err(format!("`histogram_us`: [{us}, {count}] is no time with its number"));
            }
            before = Some(us);
            times.0.saturating_record_n(us, count);
        }
        if times.count() != saved.count {
            return Err(format!("`count` is {}, and `histogram_us` has {}", saved.count, times.count()));
        }
        Ok(times)
    }
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_saved_is_what_is_read(all in prop::collection::vec(0_u64..4_000_000_000, 0..80)) {
            let mut times = Times::new();
            all.iter().for_each(|us| times.add(*us));
            let saved = serde_json::to_string(&times).unwrap();
            let read: Times = serde_json::from_str(&saved).unwrap();
            prop_assert_eq!(serde_json::to_string(&read).unwrap(), saved);
            prop_assert_eq!(read.count(), all.len() as u64);
            let mut twice = read.clone();
            twice.add_all(&times);
            prop_assert_eq!((twice.count(), twice.longest()), (times.count() * 2, times.longest()));
        }
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let times = |histogram: &str, count: u64| {
            let text = format!(
                r#"{{"count": {count}, "p50_ms": 1, "p90_ms": 1, "p95_ms": 1, "p99_ms": 1, "max_ms": 1,
                     "histogram_us": {histogram}}}"#
            );
            serde_json::from_str::<Times>(&text).map(|times| times.count()).map_err(|error| error.to_string())
        };
        assert_eq!(times("[[1, 2], [5, 1]]", 3), Ok(3));
        assert!(times("[[5, 1], [1, 2]]", 3).unwrap_err().contains("does not ascend"));
        assert!(times("[[5, 0]]", 0).unwrap_err().contains("no time with its number"));
        assert!(times("[[18446744073709551615, 1]]", 1).unwrap_err().contains("no time with its number"));
        assert!(times("[[5, 1]]", 2).unwrap_err().contains("`count` is 2"));
    }
}
