//! Response headers about limits: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-10), and `Retry-After`.

use std::fmt::Write;

use super::gcra::{Gcra, SECOND};
use super::limits::Limit;

/// The state of one key of one limit after a request: the limit's rate, period and burst,
/// and the key's theoretical arrival time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitStatus {
    name: String,
    rate: u32,
    per_s: u32,
    burst: u32,
    tat: u64,
}

impl LimitStatus {
    /// Of a key whose theoretical arrival time under `limit` is `tat` (ns). See [`Gcra`].
    #[must_use]
    pub fn new(limit: &Limit, tat: u64) -> Self {
        let Limit { rate, per_s, burst, .. } = *limit;
        Self { name: limit.name.clone(), rate, per_s, burst, tat }
    }

    /// The `RateLimit-Policy` of these limits: each one's rate as quota and its
    /// period as window, and its burst if that differs from the rate.
    #[must_use]
    pub fn policy(standings: &[Self]) -> String {
        let mut text = String::new();
        for Self { name, rate, per_s, burst, .. } in standings {
            // Names are DNS labels: nothing in a structured string that needs escapes.
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, r#"{comma}"{name}";q={rate};w={per_s}"#);
            if burst != rate {
                let _ = write!(text, ";tidegate-burst={burst}");
            }
        }
        text
    }

    /// The `RateLimit` of these limits at `now_ns`: how many requests would pass at
    /// once, and the seconds until there is one more.
    #[must_use]
    pub fn limit(standings: &[Self], now_ns: u64) -> String {
        let mut text = String::new();
        for Self { name, rate, per_s, burst, tat } in standings {
            let left = Gcra::new(*rate, *per_s, *burst).remaining(*tat, now_ns);
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, r#"{comma}"{name}";r={};t={}"#, left.requests, seconds(left.next_ns));
        }
        text
    }
}

/// The `Retry-After` for a wait of `wait_ns`: whole seconds, rounded up, at least one.
#[must_use]
pub fn retry_after(wait_ns: u64) -> u64 {
    seconds(wait_ns).max(1)
}

fn seconds(ns: u64) -> u64 {
    ns.div_ceil(SECOND)
}

#[cfg(test)]
mod tests {
    use super::super::limits::LimitKey;
    use super::*;

    fn limit(name: &str, rate: u32, per_s: u32, burst: u32) -> Limit {
        Limit { name: name.to_owned(), rate, per_s, burst, ..Limit::new(LimitKey::Ip) }
    }

    #[test]
    fn the_fields_are_lists_of_strings_with_parameters() {
        let (minute, day) = (limit("per-minute", 100, 60, 100), limit("day", 1000, 86_400, 50));
        let standings = [LimitStatus::new(&minute, 600_000_001), LimitStatus::new(&day, 0)];
        assert_eq!(
            LimitStatus::policy(&standings),
            r#""per-minute";q=100;w=60, "day";q=1000;w=86400;tidegate-burst=50"#
        );
        assert_eq!(LimitStatus::limit(&standings, 1), r#""per-minute";r=99;t=1, "day";r=50;t=0"#);
        assert_eq!((LimitStatus::policy(&[]), LimitStatus::limit(&[], 1)), (String::new(), String::new()));
    }

    #[test]
    fn who_waits_as_long_as_told_passes() {
        for (rate, per_s) in [(1, 86_400), (100, 60), (7, 60), (1000, 1), (1_000_000_000, 1)] {
            let limit = limit("a", rate, per_s, 1);
            let gcra = Gcra::new(rate, per_s, 1);
            let now = 12_345;
            let tat = gcra.take(0, now).unwrap();
            let wait = gcra.take(tat, now).unwrap_err();
            let seconds = retry_after(wait);
            assert!(gcra.take(tat, now + seconds * SECOND).is_ok());
            assert!(seconds == 1 || gcra.take(tat, now + (seconds - 1) * SECOND).is_err());
            // "Retry-After SHOULD NOT be earlier than the reset parameter."
            assert_eq!(
                LimitStatus::limit(&[LimitStatus::new(&limit, tat)], now),
                format!(r#""a";r=0;t={seconds}"#)
            );
        }
    }
}
