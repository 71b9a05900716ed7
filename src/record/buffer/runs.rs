//! Events that wait to be handed over, as bytes, in runs without holes.
//!
//! Numbers complete out of order when they were reserved before the request was
//! over. The run being written takes what comes in order, at the cost of appending
//! to a buffer; the others wait in the order of their numbers, and grow together as
//! the holes between them are filled. As every hole is a number that is still open,
//! there are never many more runs than open numbers.

use std::collections::VecDeque;

use tidegate_policy::codec::FormatError;
use tidegate_policy::wire::event::{TrafficEvent, append_event};

/// What a run costs beside its events' bytes, about: its place in the line, and
/// room that its buffer has not used.
const RUN_COST: usize = 256;

/// Events with numbers from `first` on, without holes.
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

/// What is the most for one run.
#[derive(Clone, Copy)]
pub struct RunLimits {
    /// Bytes of its events; the last may go beyond.
    pub bytes: usize,
    /// Events.
    pub events: usize,
}

impl RunLimits {
    fn is_reached(&self, run: &Run) -> bool {
        run.events.len() >= self.bytes || usize::try_from(run.count).is_ok_and(|count| count >= self.events)
    }

    /// Whether both together are one run that is not over the limits.
    fn fit(&self, run: &Run, after: &Run) -> bool {
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
    /// The others, in the order of their numbers. They never overlap.
    waiting: VecDeque<Run>,
    /// What those cost.
    cost: usize,
}

impl Runs {
    /// None yet.
    #[must_use]
    pub fn new(limits: RunLimits) -> Self {
        Self { limits, current: Run::default(), waiting: VecDeque::new(), cost: 0 }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.count == 0 && self.waiting.is_empty()
    }

    /// Bytes that all of them cost, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.cost.saturating_add(self.current.events.len())
    }

    /// Takes an event, whose number no other has. True when its run is full.
    ///
    /// # Errors
    /// When the event cannot be written; then nothing has changed.
    pub fn push(&mut self, event: &TrafficEvent) -> Result<bool, FormatError> {
        if self.current.count > 0 && event.number < self.current.first {
            return self.push_late(event);
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

    /// Takes an event out of order: at the end of the run before it, if that has
    /// room, else as a run of its own.
    fn push_late(&mut self, event: &TrafficEvent) -> Result<bool, FormatError> {
        let before = self.place(event.number).checked_sub(1);
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

    /// Ends the run that is being written: what comes next begins another, even if it is in order.
    fn seal(&mut self) {
        if self.current.count > 0 {
            let run = std::mem::take(&mut self.current);
            self.put_back(run);
        }
    }

    /// The run with the lowest numbers, and with it those right after it that fit.
    pub fn take_first(&mut self) -> Option<Run> {
        self.seal();
        let mut run = self.pop_first()?;
        while self.waiting.front().is_some_and(|after| self.limits.fit(&run, after))
            && let Some(after) = self.pop_first()
        {
            run.events.extend_from_slice(&after.events);
            run.count = run.count.saturating_add(after.count);
        }
        Some(run)
    }

    /// The oldest run that is over, to give it up.
    pub fn pop_first(&mut self) -> Option<Run> {
        let run = self.waiting.pop_front()?;
        self.cost = self.cost.saturating_sub(run.cost());
        Some(run)
    }

    /// Takes a run back.
    pub fn put_back(&mut self, run: Run) {
        self.cost = self.cost.saturating_add(run.cost());
        self.waiting.insert(self.place(run.first), run);
    }

    /// Where among those that wait a run belongs that begins with `first`.
    fn place(&self, first: u64) -> usize {
        self.waiting.partition_point(|run| run.first < first)
    }
}
