//! How many requests may pass in which time: the generic cell rate algorithm
//! (ITU-T I.371), over a clock of nanoseconds that is the caller's.

/// Nanoseconds of a second.
pub(super) const SECOND: u64 = 1_000_000_000;

/// A rate and its burst.
///
/// Of a key only one time is kept, the *theoretical arrival time* (`tat`, ns): when its
/// whole burst is replenished. Each request moves it one interval ahead. Zero stands for
/// a key of which nothing is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gcra {
    interval: u64,
    tolerance: u64,
}

/// What is left to a key after a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remaining {
    /// Requests that would pass at once.
    pub requests: u64,
    /// Nanoseconds until there is one more.
    pub next_ns: u64,
}

impl Gcra {
    /// `rate` requests in `per_s` seconds, `burst` of them at once; a zero counts
    /// as one.
    ///
    /// The interval between two requests is rounded down to a nanosecond, so that no
    /// request is denied too early. At more than a million a second that matters: up to a
    /// thousandth more pass, and at the highest rates up to twice as many.
    #[must_use]
    pub fn new(rate: u32, per_s: u32, burst: u32) -> Self {
        let period = u64::from(per_s.max(1)).saturating_mul(SECOND);
        let interval = period.checked_div(u64::from(rate)).unwrap_or(period).max(1);
        Self { interval, tolerance: interval.saturating_mul(u64::from(burst.max(1)).saturating_sub(1)) }
    }

    /// Takes a request at `now_ns` of a key whose theoretical arrival time is `tat`:
    /// returns the new one.
    ///
    /// # Errors
    /// The request may not pass: nanoseconds until one may, at least one. Nothing changes.
    pub fn take(&self, tat: u64, now_ns: u64) -> Result<u64, u64> {
        let begin = tat.max(now_ns);
        match begin.saturating_sub(now_ns).checked_sub(self.tolerance) {
            None | Some(0) => Ok(begin.saturating_add(self.interval)),
            Some(wait) => Err(wait),
        }
    }

    /// What is left at `now_ns` to a key whose theoretical arrival time is `tat`.
    #[must_use]
    pub fn remaining(&self, tat: u64, now_ns: u64) -> Remaining {
        let taken = tat.saturating_sub(now_ns);
        let most = self.tolerance.saturating_add(self.interval);
        let requests = most.saturating_sub(taken).checked_div(self.interval).unwrap_or_default();
        // More than the most: the clock ran backwards, or the time is another limit's.
        let over = taken.saturating_sub(most);
        let part = taken.checked_sub(1).and_then(|part| part.checked_rem(self.interval));
        Remaining { requests, next_ns: over.saturating_add(part.map_or(0, |part| part.saturating_add(1))) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::MAX_REFILL_S;
    use super::*;

    /// The definition, without a theoretical arrival time: between any request
    /// that passed and now, no more pass than the burst and what the interval
    /// gives. `interval` is a fraction, so that it can be the exact one.
    fn may_pass(passed: &[u64], now: u64, (ns, of): (u64, u64), burst: u32) -> bool {
        passed.iter().enumerate().all(|(at, then)| {
            let count = (passed.len() - at + 1) as u128;
            let over = count.saturating_sub(u128::from(burst));
            over * u128::from(ns) <= u128::from(now - then) * u128::from(of)
        })
    }

    fn any_limit() -> impl Strategy<Value = (u32, u32, u32)> {
        let rate = prop_oneof![1u32..20, Just(1_000_000_000), 1u32..=1_000_000_000];
        let burst = prop_oneof![1u32..6, 1u32..=1_000_000_000];
        (rate, prop_oneof![1u32..100, Just(86_400)], burst).prop_map(|(rate, per_s, burst)| {
            let most = MAX_REFILL_S * u64::from(rate) / u64::from(per_s);
            (rate, per_s, u32::try_from(most).map_or(burst, |most| burst.min(most)))
        })
    }

    proptest! {
        #[test]
        fn what_passes_is_what_the_definition_lets_pass(
            (rate, per, burst) in any_limit(),
            begin in prop_oneof![Just(0u64), any::<u64>().prop_map(|at| at >> 8)],
            steps in vec((0u64..4, 0u64..1000), 1..80),
        ) {
            let gcra = Gcra::new(rate, per, burst);
            let (mut now, mut tat, mut passed) = (begin, 0, Vec::new());
            for (intervals, part) in steps {
                now = now.saturating_add(intervals * gcra.interval / 2).saturating_add(part);
                let asked = gcra.take(tat, now);
                prop_assert_eq!(asked.is_ok(), may_pass(&passed, now, (gcra.interval, 1), burst));
                match asked {
                    Ok(next) => {
                        tat = next;
                        passed.push(now);
                    }
                    Err(wait) => {
                        let exact = (u64::from(per) * SECOND, u64::from(rate));
                        prop_assert!(!may_pass(&passed, now, exact, burst), "denied too early");
                        prop_assert!(gcra.take(tat, now + wait).is_ok(), "told to come too early");
                        prop_assert!(gcra.take(tat, now + wait - 1).is_err(), "told to come too late");
                    }
                }
            }
        }

        #[test]
        fn what_is_left_is_what_would_pass((rate, per, burst) in any_limit(), used in 0u64..20, part in 0u64..10) {
            let gcra = Gcra::new(rate, per, burst);
            let (mut now, mut tat) = (1_000, 0);
            for _ in 0..used {
                tat = gcra.take(tat, now).unwrap_or(tat);
            }
            now += gcra.interval * part / 7;
            let left = gcra.remaining(tat, now);
            prop_assert!(left.requests <= u64::from(burst));
            prop_assert_eq!(left.requests == 0, gcra.take(tat, now).is_err());
            if left.requests < u64::from(burst) {
                let (soon, later) = (gcra.remaining(tat, now + left.next_ns - 1), gcra.remaining(tat, now + left.next_ns));
                prop_assert_eq!((soon.requests, later.requests), (left.requests, left.requests + 1));
            } else {
                prop_assert_eq!(left.next_ns, 0);
            }
            let most = left.requests.min(50);
            for _ in 0..most {
                tat = gcra.take(tat, now).unwrap();
            }
            prop_assert_eq!(gcra.remaining(tat, now).requests, left.requests - most);
        }

        #[test]
        fn no_numbers_are_too_large(rate: u32, per: u32, burst: u32, tat: u64, now: u64) {
            let gcra = Gcra::new(rate, per, burst);
            let _ = (gcra.take(tat, now), gcra.remaining(tat, now));
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_each_interval() {
        let gcra = Gcra::new(100, 60, 3);
        let mut tat = 0;
        for _ in 0..3 {
            tat = gcra.take(tat, 5).unwrap();
        }
        assert_eq!(gcra.take(tat, 5), Err(600_000_000));
        assert_eq!(gcra.remaining(tat, 5), Remaining { requests: 0, next_ns: 600_000_000 });
        tat = gcra.take(tat, 600_000_005).unwrap();
        assert_eq!(gcra.take(tat, 600_000_006), Err(599_999_999));
        assert_eq!(gcra.remaining(tat, 10_000_000_000), Remaining { requests: 3, next_ns: 0 });
    }
}
