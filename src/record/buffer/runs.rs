//! Encoded events that wait to be enqueued, in runs of consecutive numbers.
//!
//! Events come out of order if their numbers were reserved before the request's end.
//! Events in order are appended to the current run; the other runs wait, sorted by
//! number, and are merged as the gaps between them are filled. As every gap is a
//! number that is still open, there are never many more runs than open numbers.

use std::collections::VecDeque;

use tidegate_policy::codec::FormatError;
use tidegate_policy::wire::event::{TrafficEvent, append_event};

/// Memory of a run beside its events' bytes, about: its entry in the list, and unused
/// capacity of its buffer.
const RUN_COST: usize = 256;

/// Events with consecutive numbers from `first` on.
#[derive(Default)]
pub struct Run {
    /// The first number.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Their bytes, one after the other.
    pub events: Vec<u8>,
}

impl Run {
    /// The last number. A run is never empty.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.next().saturating_sub(1)
    }

    /// The number after the last.
    fn next(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }

    fn cost(&self) -> usize {
        self.events.len().saturating_add(RUN_COST)
    }

    fn push(&mut self, event: &TrafficEvent) -> Result<(), FormatError> {
        append_event(&mut self.events, event)?;
        self.count = self.count.saturating_add(1);
        Ok(())
    }
}

/// Bounds of one run.
#[derive(Clone, Copy)]
pub struct RunLimits {
    /// Bytes of its events; the last event may exceed them.
    pub bytes: usize,
    /// Events.
    pub events: usize,
}

impl RunLimits {
    fn is_reached(&self, run: &Run) -> bool {
        run.events.len() >= self.bytes || usize::try_from(run.count).is_ok_and(|count| count >= self.events)
    }

    /// Whether both are adjacent and together within the limits.
    fn may_merge(&self, run: &Run, after: &Run) -> bool {
        let events = u64::from(run.count).saturating_add(u64::from(after.count));
        run.next() == after.first
            && run.events.len().saturating_add(after.events.len()) <= self.bytes
            && usize::try_from(events).is_ok_and(|events| events <= self.events)
    }
}

/// All runs of one VM.
pub struct Runs {
    limits: RunLimits,
    /// The one that is being written; empty when its count is zero.
    current: Run,
    /// The others, sorted by number. They never overlap.
    waiting: VecDeque<Run>,
    /// Memory of those, about, in bytes.
    cost: usize,
}

impl Runs {
    /// Without runs.
    #[must_use]
    pub fn new(limits: RunLimits) -> Self {
        Self { limits, current: Run::default(), waiting: VecDeque::new(), cost: 0 }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.count == 0 && self.waiting.is_empty()
    }

    /// Memory of all runs, about, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.cost.saturating_add(self.current.events.len())
    }

    /// Adds an event, whose number no other has. True when its run is full.
    ///
    /// # Errors
    /// When the event cannot be encoded; then nothing has changed.
    pub fn push(&mut self, event: &TrafficEvent) -> Result<bool, FormatError> {
        if self.current.count > 0 && event.number < self.current.first {
            return self.push_out_of_order(event);
        }
        if self.current.next() != event.number {
            self.seal();
            self.current.first = event.number;
        }
        self.current.push(event)?;
        let full = self.limits.is_reached(&self.current);
        if full {
            self.seal();
        }
        Ok(full)
    }

    /// Adds an event out of order: at the end of the run before it, if that has
    /// room, else as a run of its own.
    fn push_out_of_order(&mut self, event: &TrafficEvent) -> Result<bool, FormatError> {
        let before = self.index_of(event.number).checked_sub(1);
        if let Some(run) = before.and_then(|at| self.waiting.get_mut(at))
            && run.next() == event.number
            && !self.limits.is_reached(run)
        {
            let had = run.events.len();
            run.push(event)?;
            self.cost = self.cost.saturating_add(run.events.len()).saturating_sub(had);
            return Ok(self.limits.is_reached(run));
        }
        let mut run = Run { first: event.number, ..Run::default() };
        run.push(event)?;
        self.put_back(run);
        Ok(false)
    }

    /// Ends the current run: the next event begins another, even if it is in order.
    fn seal(&mut self) {
        if self.current.count > 0 {
            let run = std::mem::take(&mut self.current);
            self.put_back(run);
        }
    }

    /// Takes out the run with the lowest numbers, merged with the adjacent ones after it
    /// that fit.
    pub fn take_first(&mut self) -> Option<Run> {
        self.seal();
        let mut run = self.pop_first()?;
        while self.waiting.front().is_some_and(|after| self.limits.may_merge(&run, after))
            && let Some(after) = self.pop_first()
        {
            run.events.extend_from_slice(&after.events);
            run.count = run.count.saturating_add(after.count);
        }
        Some(run)
    }

    /// Takes out the waiting run with the lowest numbers.
    pub fn pop_first(&mut self) -> Option<Run> {
        let run = self.waiting.pop_front()?;
        self.cost = self.cost.saturating_sub(run.cost());
        Some(run)
    }

    /// Inserts a run among the waiting ones.
    pub fn put_back(&mut self, run: Run) {
        self.cost = self.cost.saturating_add(run.cost());
        self.waiting.insert(self.index_of(run.first), run);
    }

    /// The index among the waiting runs of one that begins with `first`.
    fn index_of(&self, first: u64) -> usize {
        self.waiting.partition_point(|run| run.first < first)
    }
}
