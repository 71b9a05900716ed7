//! The events of one VM: numbered, encoded, sealed into batches, and put into the
//! shared queue, one message per batch.
//!
//! A number may be reserved while its request is still open, and its event may come
//! hours later, after many with higher numbers. A batch has consecutive numbers only,
//! so events are split into runs at the numbers that are still open, and each run is
//! a batch of its own.
//!
//! The queue has no bound of its own, so a gauge counts the bytes in it. Over the
//! limit, or while no VM drains the queue, events stay in this buffer. When that is
//! full too, the oldest run is given up and reported as a range of numbers. A number
//! that is still open is never part of such a range.

mod runs;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;

use tidegate_policy::wire::event::{BatchHead, DropReason, DroppedRange, MAX_BATCH, TrafficEvent, VmId};

use super::queue::EventQueue;
use crate::config::EventLimits;
use crate::host::{Host, HostError, QueueId};
use crate::metrics::{Count, Metrics};
use runs::{Run, RunLimits, Runs};

/// Bytes at which a batch is sealed: far under [`MAX_BATCH`], and small enough
/// that the queue's lock is held for microseconds.
const BATCH_BYTES: usize = 128 << 10;
/// Bytes enqueued in one callback, give or take a batch: after an outage a worker may
/// hold hundreds of megabytes. The rest follows at the next tick.
const FLUSH_BYTES: usize = 1 << 20;
/// Messages enqueued in one callback: with many open numbers runs are short, and each
/// costs a host call. The other runs are merged while they wait, so this delays events
/// but does not let them pile up: there are hardly more runs than open numbers.
const FLUSH_MESSAGES: usize = 64;
/// The most ranges of events given up. Adjacent ranges are merged, and only open numbers
/// separate them while the queue takes nothing.
const MAX_RANGES: usize = 1_000;

const _: () = assert!(BATCH_BYTES < MAX_BATCH / 2);

/// The events of one VM.
pub struct EventBuffer<H> {
    host: H,
    metrics: Rc<Metrics<H>>,
    source: VmId,
    limits: EventLimits,
    events: Rc<EventQueue<H>>,
    queue: Option<QueueId>,
    numbered: u64,
    /// Numbers that are reserved and whose events have not come, ascending: one for each
    /// open request whose event was posted synchronously.
    reserved: VecDeque<u64>,
    runs: Runs,
    dropped: Vec<DroppedRange>,
    closed: bool,
}

impl<H: Host> EventBuffer<H> {
    /// An empty buffer of the VM `source`, whose batches go to `events`.
    pub fn new(
        host: H,
        metrics: Rc<Metrics<H>>,
        source: VmId,
        limits: EventLimits,
        events: Rc<EventQueue<H>>,
    ) -> Self {
        let run = RunLimits { bytes: BATCH_BYTES.min(limits.buffer_bytes / 4), events: limits.batch_events };
        Self {
            host,
            metrics,
            source,
            limits,
            events,
            queue: None,
            numbered: 0,
            reserved: VecDeque::new(),
            runs: Runs::new(run),
            dropped: Vec::new(),
            closed: false,
        }
    }

    /// The highest number given so far, reserved ones included.
    #[must_use]
    pub fn numbered(&self) -> u64 {
        self.numbered
    }

    /// Whether events wait to be enqueued. Open numbers do not count.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Reserves a number for the event of a request that is still open. At its end the
    /// event must come to [`push`](Self::push) with this number; until then the number
    /// is open, and counts as numbered.
    pub fn reserve(&mut self) -> u64 {
        let number = self.next_number();
        self.reserved.push_back(number);
        number
    }

    /// Removes a number from the open ones; false if it is not open.
    fn take_reserved(&mut self, number: u64) -> bool {
        let found = self.reserved.binary_search(&number).ok();
        found.and_then(|at| self.reserved.remove(at)).is_some()
    }

    fn next_number(&mut self) -> u64 {
        self.numbered = self.numbered.saturating_add(1);
        self.metrics.count(Count::EventsNumbered);
        self.numbered
    }

    /// Buffers `event`. One with a reserved number keeps it; any other gets the next
    /// number. True when a batch is full, so that [`flush`](Self::flush) need not wait
    /// for the tick.
    pub fn push(&mut self, event: &mut TrafficEvent) -> bool {
        // A second event with a number that is not open would be dropped by the ledger
        // as a repetition.
        if event.number == 0 || !self.take_reserved(event.number) {
            event.number = self.next_number();
        }
        let Ok(full) = self.runs.push(event) else {
            self.give_up(event.number, event.number, DropReason::Unencodable);
            return false;
        };
        while self.runs.bytes() > self.limits.buffer_bytes {
            let Some(oldest) = self.runs.pop_first() else { break };
            self.give_up(oldest.first, oldest.last(), DropReason::BufferFull);
        }
        full || self.closed
    }

    fn give_up(&mut self, first: u64, last: u64, reason: DropReason) {
        let events = last.saturating_sub(first).saturating_add(1);
        self.metrics.add(Count::dropped(reason), events);
        merge(&mut self.dropped, DroppedRange { source: self.source, first, last, reason });
    }

    /// Enqueues waiting events, up to a bound. `drained`: some VM drains the queue; if
    /// not, all events stay in the buffer.
    pub fn flush(&mut self, drained: bool) {
        if self.closed {
            self.close();
        }
        if !drained {
            return;
        }
        let limit = u64::try_from(self.limits.queue_bytes).unwrap_or(u64::MAX);
        let (mut bytes, mut messages) = (0usize, 0usize);
        let mut in_queue = if self.runs.is_empty() { limit } else { self.events.bytes() };
        while in_queue < limit
            && bytes < FLUSH_BYTES
            && messages < FLUSH_MESSAGES
            && let Some(run) = self.runs.take_first()
        {
            let Some(sent) = self.enqueue_run(run, false) else { return };
            in_queue = in_queue.saturating_add(sent as u64);
            bytes = bytes.saturating_add(sent);
            messages = messages.saturating_add(1);
        }
    }

    /// Enqueues one run as a batch, and returns its length in bytes (0: it was given
    /// up). `None` if that fails; then the run stays in the buffer.
    fn enqueue_run(&mut self, run: Run, closing: bool) -> Option<usize> {
        let head = self.head(run.first, closing);
        let Ok(message) = head.seal(run.count, &run.events) else {
            self.give_up(run.first, run.last(), DropReason::Unencodable);
            return Some(0);
        };
        if self.enqueue(&message).is_err() {
            self.runs.put_back(run);
            return None;
        }
        self.metrics.add(Count::EventsEnqueued, u64::from(run.count));
        self.dropped.clear();
        Some(message.len())
    }

    /// The VM's last root is gone: enqueues everything regardless of the limits, and
    /// reports that no higher number comes. If events still come (a late log), they are
    /// enqueued and the source is closed again.
    ///
    /// Numbers that are still open count as numbered and stay open. They are not
    /// reported as given up: their requests may still be logged, and the admin service
    /// may have stored their events already, posted synchronously. In its ledger the
    /// source has ended, so such an event counts as stored as it is (incomplete) and any
    /// other open number as lost; an event that still comes is taken.
    pub fn close(&mut self) {
        self.closed = true;
        loop {
            match self.runs.take_first() {
                Some(run) => {
                    let is_last = self.runs.is_empty();
                    if self.enqueue_run(run, is_last).is_none() || is_last {
                        return;
                    }
                }
                None => return self.enqueue_close(),
            }
        }
    }

    /// Enqueues an empty batch, which reports the close and the ranges given up.
    fn enqueue_close(&mut self) {
        let head = self.head(self.numbered.saturating_add(1), true);
        if head.seal(0, &[]).is_ok_and(|message| self.enqueue(&message).is_ok()) {
            self.dropped.clear();
        }
    }

    fn head(&self, first: u64, closing: bool) -> BatchHead {
        BatchHead {
            source: self.source,
            first,
            numbered_hi: self.numbered,
            closing,
            dropped: self.dropped.clone(),
        }
    }

    /// Appends a message to the queue.
    fn enqueue(&mut self, message: &[u8]) -> Result<(), HostError> {
        let mut tried = false;
        loop {
            let queue = match self.queue {
                Some(queue) => queue,
                None => self.host.queue_resolve(self.events.name())?.ok_or(HostError::NotFound)?,
            };
            self.queue = Some(queue);
            match self.events.enqueue(queue, message) {
                Err(HostError::NotFound) if !tried => {
                    self.queue = None;
                    tried = true;
                }
                result => return result,
            }
        }
    }
}

/// Adds a range to `ranges`, merged with an adjacent one. Beyond [`MAX_RANGES`] it is
/// left out: its events then show as lost instead of dropped, which is as true.
pub fn merge(ranges: &mut Vec<DroppedRange>, new: DroppedRange) {
    let of_its_kind = |range: &&mut DroppedRange| range.source == new.source && range.reason == new.reason;
    // From the end: an adjacent range was mostly given up just before.
    for range in ranges.iter_mut().rev().filter(of_its_kind) {
        if range.last.checked_add(1) == Some(new.first) {
            range.last = new.last;
            return;
        }
        if new.last.checked_add(1) == Some(range.first) {
            range.first = new.first;
            return;
        }
    }
    if ranges.len() < MAX_RANGES {
        ranges.push(new);
    }
}
