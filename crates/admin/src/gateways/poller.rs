//! What a gateway says of the VM that polls for it.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate_policy::digest::BlobHash;
use tidegate_policy::wire::sync::Poller;
use tokio::time::Instant;

/// Changes of the lease are counted for this long.
const COUNTED_FOR: Duration = Duration::from_secs(60);
/// Changes that are kept, at most.
const MAX_CHANGES: usize = 16;

/// What is known of the VM that polls for a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PollerStatus {
    /// Whether it is the singleton recorder, and not a VM that decides requests as well.
    pub recorder: bool,
    /// How far its clock is ahead of the service's, milliseconds; negative: behind.
    pub clock_ahead_ms: i64,
    /// How often another VM took the lease within the last minute, 16 at most.
    pub lease_changes: usize,
    /// The flags that it holds; `None`: none yet.
    pub flags: Option<BlobHash>,
}

/// What the polls of one gateway have said.
pub(super) struct PollerRecord {
    last: Poller,
    clock_ahead_ms: i64,
    flags: Option<BlobHash>,
    changes: VecDeque<Instant>,
}

impl PollerRecord {
    /// After a first poll; `now_ms`: the service's clock.
    pub(super) fn new(poller: Poller, flags: Option<BlobHash>, now_ms: i64) -> Self {
        let clock_ahead_ms = ahead(poller, now_ms);
        Self { last: poller, clock_ahead_ms, flags, changes: VecDeque::new() }
    }

    /// Takes in a further poll.
    pub(super) fn note(&mut self, poller: Poller, flags: Option<BlobHash>, now_ms: i64) {
        let holders = poller.lease.saturating_sub(self.last.lease);
        let holders = usize::try_from(holders).unwrap_or(MAX_CHANGES).min(MAX_CHANGES);
        self.changes.extend(std::iter::repeat_n(Instant::now(), holders));
        let excess = self.changes.len().saturating_sub(MAX_CHANGES);
        self.changes.drain(..excess);
        self.last = poller;
        self.clock_ahead_ms = ahead(poller, now_ms);
        self.flags = flags;
    }

    pub(super) fn status(&self, now: Instant) -> PollerStatus {
        let recent = |at: &&Instant| now.saturating_duration_since(**at) < COUNTED_FOR;
        PollerStatus {
            recorder: self.last.recorder,
            clock_ahead_ms: self.clock_ahead_ms,
            lease_changes: self.changes.iter().filter(recent).count(),
            flags: self.flags,
        }
    }
}

/// How far the poller's clock is ahead, milliseconds.
fn ahead(poller: Poller, now_ms: i64) -> i64 {
    i64::try_from(poller.clock_ms).unwrap_or(i64::MAX).saturating_sub(now_ms)
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn holders_of_the_lease_are_counted_for_a_minute() {
        let poll = |lease| Poller { lease, recorder: true, clock_ms: 5_000 };
        let mut record = PollerRecord::new(poll(7), None, 3_500);
        assert_eq!(record.status(Instant::now()).lease_changes, 0, "the first is no change");
        assert_eq!(record.status(Instant::now()).clock_ahead_ms, 1_500);
        record.note(poll(7), None, 6_000);
        record.note(poll(9), None, 6_000);
        sleep(Duration::from_secs(40)).await;
        record.note(poll(10), None, 6_000);
        let status = record.status(Instant::now());
        assert_eq!((status.lease_changes, status.clock_ahead_ms, status.recorder), (3, -1_000, true));
        sleep(Duration::from_secs(30)).await;
        assert_eq!(record.status(Instant::now()).lease_changes, 1);
        record.note(poll(u64::MAX), None, 6_000);
        assert_eq!(record.status(Instant::now()).lease_changes, MAX_CHANGES);
    }
}
