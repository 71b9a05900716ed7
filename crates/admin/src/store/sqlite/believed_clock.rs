//! What time it surely is, for what cannot be taken back: a wall clock that is ahead for a while ends
//! no ban and no source.

use std::time::{Duration, Instant};

use super::ledger::millis;

/// By so much, milliseconds, a clock may be ahead without having been set.
const NEAR_MS: i64 = 60_000;
/// A clock that was set ahead, or whose machine slept, is believed after it has gone on from there for
/// so long. What is to be removed stays as much longer, which nobody notices: it has no effect any more.
const BELIEVED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The wall clock, as far as it is believed.
pub(super) struct BelievedClock {
    believed: Moment,
    /// Since when the wall clock goes on from a time that is ahead of what is believed.
    ahead: Option<Moment>,
}

/// What the wall clock said, in milliseconds since the Unix epoch, and when by the monotonic clock.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    wall_ms: i64,
}

impl Moment {
    /// What the wall clock says at `now` if nobody sets it.
    fn until(self, now: Instant) -> i64 {
        self.wall_ms.saturating_add(millis(now.saturating_duration_since(self.at)))
    }
}

impl BelievedClock {
    /// The clock of a service that begins at `at`, when it is `wall_ms`.
    pub(super) fn new(at: Instant, wall_ms: i64) -> Self {
        Self { believed: Moment { at, wall_ms }, ahead: None }
    }

    /// What time it surely is at `now`, when the wall clock says `wall_ms`: milliseconds since the Unix
    /// epoch, never more than it says.
    pub(super) fn look(&mut self, now: Instant, wall_ms: i64) -> i64 {
        let (said, expected) = (Moment { at: now, wall_ms }, self.believed.until(now));
        if wall_ms < expected {
            // It was ahead before.
            (self.believed, self.ahead) = (said, None);
            return wall_ms;
        }
        if wall_ms - expected <= NEAR_MS {
            self.ahead = None;
            return expected;
        }
        let goes_on = |since: &Moment| wall_ms.abs_diff(since.until(now)) <= NEAR_MS.unsigned_abs();
        let since = self.ahead.filter(goes_on).unwrap_or(said);
        if now.saturating_duration_since(since.at) < BELIEVED_AFTER {
            self.ahead = Some(since);
            return expected;
        }
        (self.believed, self.ahead) = (said, None);
        wall_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const BEGAN: i64 = 1_795_456_800_000;

    /// What is believed, in hours after `BEGAN`, at each hour after the start, when the wall clock says
    /// that it is so many hours after `BEGAN`.
    fn believed(says: impl IntoIterator<Item = (u64, i64)>) -> Vec<i64> {
        let start = Instant::now();
        let mut clock = BelievedClock::new(start, BEGAN);
        let look = |(hour, says)| {
            let at = start + Duration::from_secs(hour * 3_600);
            (clock.look(at, BEGAN + says * HOUR) - BEGAN) / HOUR
        };
        says.into_iter().map(look).collect()
    }

    #[test]
    fn a_clock_that_is_ahead_for_a_while_ends_no_ban_early() {
        assert_eq!(believed([(1, 1), (2, 26), (3, 27), (4, 4)]), [1, 2, 3, 4], "ahead for two hours");
        assert_eq!(believed([(1, -20), (2, -19), (3, 3)]), [-20, -19, -18], "behind for two hours");
        let set_again_and_again = (1..60).map(|hour| (hour, 30 + i64::try_from(hour).unwrap() * 2));
        assert_eq!(believed(set_again_and_again).last(), Some(&59));
    }

    /// The machine had no battery for its clock, or slept.
    #[test]
    fn a_clock_that_began_far_behind_is_believed_once_it_has_been_right_for_a_day() {
        let put_right = 40 * 365 * 24;
        let says = (1..=26).map(|hour| (hour, put_right + i64::try_from(hour).unwrap()));
        let seen = believed(says);
        assert_eq!(seen[..24], (1..=24).collect::<Vec<_>>());
        assert_eq!(seen[24..], [put_right + 25, put_right + 26]);
    }
}
