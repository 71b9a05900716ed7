//! Times at which versions were created, for measuring how late they are enforced.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Upper bounds of the histogram's buckets, seconds. Milliseconds are normal, seconds mean a
/// fault.
pub(super) const BUCKETS: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Versions kept. A gateway that is further behind counts from the oldest of them.
const KEPT: usize = 4_096;

/// Versions of one epoch and when each was created, oldest first.
#[derive(Default)]
pub(super) struct VersionTimes(VecDeque<(u64, Instant)>);

impl VersionTimes {
    pub(super) fn note(&mut self, seq: u64, at: Instant) {
        if seq <= self.newest() {
            return;
        }
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back((seq, at));
    }

    /// The newest `seq`; 0: none yet.
    pub(super) fn newest(&self) -> u64 {
        self.0.back().map_or(0, |(seq, _)| *seq)
    }

    /// Creation times of the versions after `after`, up to `upto`.
    pub(super) fn within(&self, after: u64, upto: u64) -> impl Iterator<Item = Instant> {
        let first = self.0.partition_point(|(seq, _)| *seq <= after);
        let some = self.0.range(first..).take_while(move |(seq, _)| *seq <= upto);
        some.map(|(_, at)| *at)
    }

    /// Creation time of the first version after `after`.
    pub(super) fn first_after(&self, after: u64) -> Option<Instant> {
        self.within(after, u64::MAX).next()
    }
}
