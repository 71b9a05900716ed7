//! The events of one VM: numbered, kept as bytes, sealed into batches, and
//! handed to the shared queue, one message per batch.
//!
//! The queue has no bound of its own, so a gauge counts the bytes in it. Over
//! the limit, or while nobody drains, batches stay here, and when this buffer is
//! full too the oldest one is given up and reported as a range.

use std::collections::VecDeque;
use std::rc::Rc;

use tidegate_policy::wire::event::{
    BatchHead, DropReason, DroppedRange, MAX_BATCH, Source, TrafficEvent, append_event,
};

use crate::config::EventLimits;
use crate::host::{Host, HostError, QueueId};
use crate::metrics::{Count, Metrics};
use crate::queue::EventQueue;

/// Bytes at which a batch is sealed: far under [`MAX_BATCH`], and small enough
/// that the queue's lock is held for microseconds.
const BATCH_BYTES: usize = 128 << 10;
/// Bytes handed over in one callback, and a batch more: after an outage a
/// worker may hold hundreds of megabytes. The rest goes with the next tick.
const FLUSH_BYTES: usize = 1 << 20;
/// Ranges of events given up that are kept apart: they merge when adjacent, and
/// nothing but adjacent ones is given up as long as the queue takes nothing.
const MAX_RANGES: usize = 1_000;

const _: () = assert!(BATCH_BYTES < MAX_BATCH / 2);

/// A sealed run of events, before the figures in front of it are known.
struct Sealed {
    first: u64,
    count: u32,
    events: Vec<u8>,
}

impl Sealed {
    fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count)).saturating_sub(1)
    }
}

/// The events of one VM.
pub struct Record<H> {
    host: H,
    metrics: Rc<Metrics<H>>,
    source: Source,
    limits: EventLimits,
    events: Rc<EventQueue<H>>,
    queue: Option<QueueId>,
    numbered: u64,
    open: Vec<u8>,
    open_count: u32,
    sealed: VecDeque<Sealed>,
    sealed_bytes: usize,
    dropped: Vec<DroppedRange>,
    closed: bool,
}

impl<H: Host> Record<H> {
    /// An empty buffer of the VM `source`, whose batches go to `events`.
    pub fn new(
        host: H,
        metrics: Rc<Metrics<H>>,
        source: Source,
        limits: EventLimits,
        events: Rc<EventQueue<H>>,
    ) -> Self {
        Self {
            host,
            metrics,
            source,
            limits,
            events,
            queue: None,
            numbered: 0,
            open: Vec::new(),
            open_count: 0,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            dropped: Vec::new(),
            closed: false,
        }
    }

    /// The highest number given so far.
    #[must_use]
    pub fn numbered(&self) -> u64 {
        self.numbered
    }

    /// Whether something waits to be handed over.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.open_count > 0 || !self.sealed.is_empty()
    }

    /// Gives `event` the next number and keeps it. True when a batch is full, so
    /// that a [`flush`](Self::flush) need not wait for the tick.
    pub fn push(&mut self, event: &mut TrafficEvent) -> bool {
        self.numbered = self.numbered.saturating_add(1);
        event.number = self.numbered;
        self.metrics.count(Count::EventsNumbered);
        if append_event(&mut self.open, event).is_err() {
            self.seal(self.numbered.saturating_sub(1));
            self.give_up(self.numbered, self.numbered, DropReason::Unencodable);
            return false;
        }
        self.open_count = self.open_count.saturating_add(1);
        let full = self.open.len() >= self.batch_bytes()
            || usize::try_from(self.open_count).is_ok_and(|count| count >= self.limits.batch_events);
        if full {
            self.seal(self.numbered);
        }
        full || self.closed
    }

    fn batch_bytes(&self) -> usize {
        BATCH_BYTES.min(self.limits.buffer_bytes / 4)
    }

    /// Ends the open batch, whose last event has the number `last`.
    fn seal(&mut self, last: u64) {
        if self.open_count == 0 {
            return;
        }
        let count = std::mem::take(&mut self.open_count);
        let events = std::mem::take(&mut self.open);
        let first = last.saturating_sub(u64::from(count)).saturating_add(1);
        self.sealed_bytes = self.sealed_bytes.saturating_add(events.len());
        self.sealed.push_back(Sealed { first, count, events });
        while self.sealed_bytes > self.limits.buffer_bytes {
            let Some(oldest) = self.take_front() else { break };
            self.give_up(oldest.first, oldest.last(), DropReason::BufferFull);
        }
    }

    fn take_front(&mut self) -> Option<Sealed> {
        let front = self.sealed.pop_front()?;
        self.sealed_bytes = self.sealed_bytes.saturating_sub(front.events.len());
        Some(front)
    }

    fn give_up(&mut self, first: u64, last: u64, reason: DropReason) {
        let events = last.saturating_sub(first).saturating_add(1);
        self.metrics.add(Count::dropped(reason), events);
        merge(&mut self.dropped, DroppedRange { source: self.source, first, last, reason });
    }

    /// Hands over what waits, up to a bound. `drained`: somebody drains the
    /// queue; otherwise everything stays here.
    pub fn flush(&mut self, drained: bool) {
        self.seal(self.numbered);
        if self.closed {
            self.close();
        }
        if !drained || self.sealed.is_empty() {
            return;
        }
        let limit = u64::try_from(self.limits.queue_bytes).unwrap_or(u64::MAX);
        let mut in_queue = self.events.bytes();
        let mut left = FLUSH_BYTES;
        while in_queue < limit
            && left > 0
            && let Some(front) = self.sealed.front()
        {
            let head = self.head(front.first, false);
            let (count, last) = (front.count, front.last());
            match head.seal(count, &front.events) {
                Ok(message) if self.enqueue(&message).is_ok() => {
                    in_queue = in_queue.saturating_add(message.len() as u64);
                    left = left.saturating_sub(message.len());
                    self.metrics.add(Count::EventsEnqueued, u64::from(count));
                    self.dropped.clear();
                    self.take_front();
                }
                Ok(_) => return,
                Err(_) => {
                    self.take_front();
                    self.give_up(head.first, last, DropReason::Unencodable);
                }
            }
        }
    }

    /// Hands over everything whatever the limits, and says that no more comes:
    /// the VM's last root is gone. Events that come all the same (a late log)
    /// are closed again.
    pub fn close(&mut self) {
        self.closed = true;
        self.seal(self.numbered);
        let mut waiting = std::mem::take(&mut self.sealed);
        self.sealed_bytes = 0;
        let next = self.numbered.saturating_add(1);
        let mut front = waiting.pop_front().unwrap_or(Sealed { first: next, count: 0, events: Vec::new() });
        loop {
            let head = self.head(front.first, waiting.is_empty());
            let sent = head.seal(front.count, &front.events).is_ok_and(|bytes| self.enqueue(&bytes).is_ok());
            if sent {
                self.metrics.add(Count::EventsEnqueued, u64::from(front.count));
                self.dropped.clear();
            }
            match waiting.pop_front() {
                Some(next) => front = next,
                None => return,
            }
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

/// Adds a range to those before it. Past [`MAX_RANGES`] a range is left out: its
/// events then show as lost instead of dropped, which is as true.
pub fn merge(ranges: &mut Vec<DroppedRange>, new: DroppedRange) {
    if let Some(last) = ranges.last_mut()
        && last.source == new.source
        && last.reason == new.reason
        && last.last.checked_add(1) == Some(new.first)
    {
        last.last = new.last;
    } else if ranges.len() < MAX_RANGES {
        ranges.push(new);
    }
}

#[cfg(test)]
mod tests;
