//! How slow the admin service is made, by Envoy's fault filter in front of it.
//!
//! The rollout starts from a gate that asks its database for everything, one
//! question after the other: P50 212 ms, P95 300 ms, P99 400 ms per request. Four
//! questions make a request (ban, country, route, recording), so each costs 52 ms,
//! and a few of them more: of a request's four at least one is 90 ms late in about
//! 6 requests of 100, and 190 ms late in about 2.

use std::time::Duration;

use tidegate_stack::faults::{Call, Delay};

/// The calls of a request. Batches of events are as slow, and nobody waits for them.
const CALLS: [Call; 5] = [Call::Ip, Call::Geo, Call::Route, Call::OpenEvent, Call::Events];
/// Of 10,000 calls so many take so many milliseconds longer; drawn independently.
const DELAYS: [(u32, u64); 3] = [(10_000, 52), (160, 90), (40, 190)];

/// All of them, for the stack.
pub fn all() -> Vec<Delay> {
    let delay = |call| {
        DELAYS.map(|(per_10_000, millis)| Delay { call, per_10_000, by: Duration::from_millis(millis) })
    };
    CALLS.into_iter().flat_map(delay).collect()
}

/// In words, beside the figures.
pub fn told() -> String {
    let delays: Vec<_> = DELAYS
        .iter()
        .map(|(per_10_000, millis)| format!("{millis} ms in {} %", f64::from(*per_10_000) / 100.0))
        .collect();
    format!("Each call to the admin service takes longer by {} of the calls.", delays.join(", by "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distribution of the sum of a request's four calls, from the shares
    /// above: probability of each delay in milliseconds.
    fn request() -> Vec<f64> {
        let mut sum = vec![1.0];
        for _ in 0..4 {
            for (per_10_000, millis) in DELAYS {
                let share = f64::from(per_10_000) / 10_000.0;
                let by = usize::try_from(millis).unwrap();
                let mut next = vec![0.0; sum.len() + by];
                for (at, p) in sum.iter().enumerate() {
                    next[at] += p * (1.0 - share);
                    next[at + by] += p * share;
                }
                sum = next;
            }
        }
        sum
    }

    #[test]
    fn the_sum_is_what_the_rollout_starts_from() {
        let request = request();
        let quantile = |share: f64| {
            let mut reached = 0.0;
            request.iter().position(|p| {
                reached += p;
                reached >= share
            })
        };
        // What comes on top is the work itself: a few milliseconds.
        assert_eq!([0.5, 0.95, 0.99].map(quantile), [Some(208), Some(298), Some(398)]);
    }
}
