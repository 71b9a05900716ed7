//! When looks are due. By the system's clock, so that a watch that was ended goes on where it would be.

use std::time::Duration;

use jiff::Timestamp;

/// When looks are due: the first at the beginning, the last at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    began_ms: i64,
    every_ms: i64,
    last: i64,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Take the look of this number.
    Look(i64),
    /// Wait this long, and ask again.
    Wait(Duration),
    /// All is done.
    Over,
}

impl Schedule {
    /// A look at `began` and every `every_ms` milliseconds, at least 1, for `for_ms`.
    pub fn new(began: Timestamp, every_ms: i64, for_ms: i64) -> Self {
        Self { began_ms: began.as_millisecond(), every_ms, last: for_ms / every_ms }
    }

    /// How many looks there are in all.
    pub fn looks(&self) -> usize {
        usize::try_from(self.last + 1).unwrap_or(usize::MAX)
    }

    /// The time from which the first look counts requests: one step before it.
    pub fn before(&self) -> Timestamp {
        Timestamp::from_millisecond(self.began_ms - self.every_ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// What is to be done at `now`, when the look of the number `taken` was the last one. Looks whose time has passed are
    /// left out: what happened meanwhile is in the figures of the next one. A step after the end none is taken any more.
    pub fn next(&self, now: Timestamp, taken: Option<i64>) -> Next {
        let passed_ms = now.as_millisecond().saturating_sub(self.began_ms);
        let due = passed_ms.div_euclid(self.every_ms);
        let next = taken.map_or(0, |taken| taken.saturating_add(1));
        if next > self.last || due > self.last {
            return Next::Over;
        }
        if due >= next {
            return Next::Look(due);
        }
        // A clock that was set back must not stop the watch for longer than a step.
        let ms = (next * self.every_ms).saturating_sub(passed_ms).min(self.every_ms);
        Next::Wait(Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + ms).unwrap()
    }

    #[test]
    fn looks_are_taken_when_they_are_due() {
        let schedule = Schedule::new(at(0), 1_000, 3_500);
        assert_eq!(schedule.looks(), 4);
        let wait = |ms| Next::Wait(Duration::from_millis(ms));
        for (now, taken, wanted) in [
            (0, None, Next::Look(0)),
            (0, Some(0), wait(1_000)),
            (999, Some(0), wait(1)),
            (1_000, Some(0), Next::Look(1)),
            (2_700, Some(0), Next::Look(2)),
            (3_100, Some(2), Next::Look(3)),
            (3_100, Some(3), Next::Over),
            (3_999, Some(1), Next::Look(3)),
            (4_000, Some(1), Next::Over),
            (-90_000, Some(1), wait(1_000)),
            (900_000, None, Next::Over),
        ] {
            assert_eq!(schedule.next(at(now), taken), wanted, "{now} {taken:?}");
        }
    }

    proptest! {
        /// Whatever the clock does, numbers ascend, no look is taken twice, and it ends.
        #[test]
        fn a_watch_goes_forward(steps in prop::collection::vec(-5_000_i64..8_000, 1..200), every in 1_i64..3_000) {
            let schedule = Schedule::new(at(0), every, every * 20);
            let (mut now, mut taken, mut looks) = (0, None, 0);
            for step in steps {
                match schedule.next(at(now), taken) {
                    Next::Look(number) => {
                        prop_assert!(taken.is_none_or(|taken| number > taken) && number <= 20);
                        taken = Some(number);
                        looks += 1;
                    }
                    Next::Wait(span) => prop_assert!(span <= Duration::from_millis(every as u64)),
                    Next::Over => {}
                }
                now += step;
            }
            prop_assert!(looks <= schedule.looks());
            prop_assert_eq!(schedule.next(at(every * 22), taken), Next::Over);
        }
    }
}
