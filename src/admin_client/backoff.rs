//! When to try again after failures.

use std::time::Duration;

/// The wait after the first failure. It doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Waits after failures in a row, of one kind of call. Each wait is shortened by up to
/// half at random, so that a thousand gateways do not come back in step.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    longest_ns: u64,
    failures: u32,
    /// Monotonic clock, nanoseconds.
    not_before_ns: u64,
}

impl Backoff {
    /// No failures yet. `longest`: the wait that they come to.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { longest_ns: nanos(longest), failures: 0, not_before_ns: 0 }
    }

    /// It worked.
    pub fn worked(&mut self) {
        self.worked_but_wait(0);
    }

    /// It worked, and must not be repeated before then.
    pub fn worked_but_wait(&mut self, until_ns: u64) {
        (self.failures, self.not_before_ns) = (0, until_ns);
    }

    /// It did not work. `random`: 64 random bits.
    pub fn failed(&mut self, now_ns: u64, random: u64) {
        let doubled = nanos(FIRST_WAIT).checked_shl(self.failures.min(16)).unwrap_or(u64::MAX);
        let half = doubled.min(self.longest_ns) / 2;
        let wait_ns = half.saturating_add(random.checked_rem(half).unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.not_before_ns = now_ns.saturating_add(wait_ns);
    }

    /// Nanoseconds until the next try.
    #[must_use]
    pub fn remaining_ns(&self, now_ns: u64) -> u64 {
        self.not_before_ns.saturating_sub(now_ns)
    }
}

/// A duration in nanoseconds.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_forgotten_by_success() {
        let longest = Duration::from_secs(1);
        let limits = [100, 200, 400, 800].map(Duration::from_millis).into_iter();
        let limits: Vec<u64> = limits.chain(std::iter::repeat_n(longest, 36)).map(nanos).collect();
        for random in [0, 1, u64::MAX] {
            let mut backoff = Backoff::new(longest);
            for limit in &limits {
                backoff.failed(7, random);
                assert!((limit / 2..=*limit).contains(&backoff.remaining_ns(7)), "{limit}");
            }
            backoff.worked();
            assert_eq!(backoff.remaining_ns(7), 0);
        }
    }
}
