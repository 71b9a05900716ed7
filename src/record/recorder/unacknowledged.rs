//! Batches that are out of the queue and not yet acknowledged, oldest first.

use std::collections::VecDeque;

use tidegate_policy::wire::event::{BatchHead, DropReason, DroppedRange, SealedBatch, VmId};

/// A batch older than this is given up.
const EXPIRES_NS: u64 = 24 * 3_600 * 1_000_000_000;
/// Memory of a batch beside its bytes, about. Batches are as small as one event while
/// many requests are open whose events were posted synchronously.
const BATCH_COST: usize = 160;

/// A sealed batch, with what is needed to report it as given up.
pub struct UnacknowledgedBatch {
    /// As it came.
    pub bytes: Vec<u8>,
    source: VmId,
    first: u64,
    count: u32,
    /// Ranges that its worker gave up, reported in this batch.
    dropped: Vec<DroppedRange>,
    since_ns: u64,
}

/// What must be reported of a batch that is given up.
pub struct GivenUp {
    /// Its events.
    pub events: Option<DroppedRange>,
    /// Ranges that its worker gave up before, counted, and reported in it.
    pub carried: Vec<DroppedRange>,
}

impl UnacknowledgedBatch {
    /// The report of this batch as given up.
    #[must_use]
    pub fn given_up(self, reason: DropReason) -> GivenUp {
        let (source, first) = (self.source, self.first);
        let last = first.saturating_add(u64::from(self.count)).saturating_sub(1);
        let events = (self.count > 0).then_some(DroppedRange { source, first, last, reason });
        GivenUp { events, carried: self.dropped }
    }
}

/// The batches held.
#[derive(Default)]
pub struct Unacknowledged {
    batches: VecDeque<UnacknowledgedBatch>,
    bytes: usize,
}

impl Unacknowledged {
    /// Appends a batch.
    pub fn push(&mut self, bytes: Vec<u8>, head: &BatchHead, count: u32, now_ns: u64) {
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.batches.push_back(UnacknowledgedBatch {
            bytes,
            source: head.source,
            first: head.first,
            count,
            dropped: head.dropped.clone(),
            since_ns: now_ns,
        });
    }

    /// Bytes of all batches.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory of all batches, about, in bytes.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.bytes.saturating_add(self.batches.len().saturating_mul(BATCH_COST))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many from the front fit into `bytes`; one, if the first alone is larger.
    #[must_use]
    pub fn fitting(&self, bytes: usize) -> usize {
        let mut left = bytes;
        let fit = self.batches.iter().take_while(|batch| {
            let fits = batch.bytes.len() <= left;
            left = left.saturating_sub(batch.bytes.len());
            fits
        });
        fit.count().max(1)
    }

    /// Whether a batch of `source` is behind the first `batches`.
    #[must_use]
    pub fn has_after(&self, batches: usize, source: VmId) -> bool {
        self.batches.iter().skip(batches).any(|batch| batch.source == source)
    }

    /// Nanoseconds that the first has waited here; 0 when there is none.
    #[must_use]
    pub fn oldest_ns(&self, now_ns: u64) -> u64 {
        self.batches.front().map_or(0, |batch| now_ns.saturating_sub(batch.since_ns))
    }

    /// The bytes of the first `batches`, until [`give_back`](Self::give_back).
    pub fn lend(&mut self, batches: usize) -> Vec<SealedBatch> {
        let front = self.batches.iter_mut().take(batches);
        front.map(|batch| SealedBatch(std::mem::take(&mut batch.bytes))).collect()
    }

    /// Takes back what was lent.
    pub fn give_back(&mut self, lent: Vec<SealedBatch>) {
        for (batch, SealedBatch(bytes)) in self.batches.iter_mut().zip(lent) {
            batch.bytes = bytes;
        }
    }

    /// Takes the oldest out.
    pub fn take_front(&mut self) -> Option<UnacknowledgedBatch> {
        let front = self.batches.pop_front()?;
        self.bytes = self.bytes.saturating_sub(front.bytes.len());
        Some(front)
    }

    /// Puts the oldest behind all others.
    pub fn put_front_last(&mut self) {
        if !self.batches.is_empty() {
            self.batches.rotate_left(1);
        }
    }

    /// Takes the oldest out, if it is older than 24 hours.
    pub fn take_expired(&mut self, now_ns: u64) -> Option<UnacknowledgedBatch> {
        if self.oldest_ns(now_ns) > EXPIRES_NS { self.take_front() } else { None }
    }

    /// Drops the first `batches`: they are stored.
    pub fn forget(&mut self, batches: usize) {
        for _ in 0..batches {
            let _ = self.take_front();
        }
    }

    /// Takes all out.
    pub fn take(&mut self) -> VecDeque<UnacknowledgedBatch> {
        self.bytes = 0;
        std::mem::take(&mut self.batches)
    }
}
