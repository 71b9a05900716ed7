//! When a gateway tries again: as the filter does it (`src/admin_client/backoff.rs`).

use std::time::Duration;

/// The wait after the first failure. It doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The wait that they come to.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Failures in a row, of one kind of call.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// It worked.
    pub fn worked(&mut self) {
        self.0 = 0;
    }

    /// It did not work: how long to wait. Each wait is shortened by up to half at random, so that gateways do not come
    /// back in step.
    pub fn failed(&mut self) -> Duration {
        let wait = FIRST_WAIT.saturating_mul(1 << self.0.min(16)).min(LONGEST_WAIT);
        self.0 = self.0.saturating_add(1);
        wait / 2 + (wait / 2).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_forgotten_by_success() {
        let mut backoff = Backoff::default();
        for longest in [100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.failed().as_millis();
            assert!((longest / 2..=longest).contains(&wait), "{wait} ms of {longest}");
        }
        backoff.worked();
        assert!(backoff.failed() <= FIRST_WAIT);
    }
}
