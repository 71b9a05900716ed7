//! Storing the batches of one post, in several transactions if it is large (2,000 rows or 3 ms
//! each). Each writes rows and their ledger entries together.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use tidegate_policy::wire::event::Batch;

use super::counts::EventCounts;
use super::events::{EventStage, EventWriter};
use super::ledger::Ledger;
use super::open_events;
use super::ranges::NumberRange;
use super::recording_stats;
use crate::store::{Append, Appended};

/// Rows per transaction of events, at most.
pub(super) const MAX_ROWS: usize = 2_000;
/// Time per transaction of events, at most, without its commit.
const MAX_TIME: Duration = Duration::from_millis(3);
/// Rows between two readings of the clock.
const CHUNK: usize = 128;

/// What is left of a transaction's rows and time.
pub(super) struct Budget {
    rows: usize,
    until: Instant,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { rows: MAX_ROWS, until: Instant::now() + MAX_TIME }
    }

    /// Never before the first rows: every transaction makes progress, however late it is.
    fn is_spent(&self, stop: &dyn Fn() -> bool) -> bool {
        self.rows < MAX_ROWS && (self.rows == 0 || Instant::now() >= self.until || stop())
    }
}

/// What the posts of one transaction share.
pub(super) struct AppendTransaction<'a> {
    conn: &'a Connection,
    pub(super) ledger: Ledger<'a>,
    writer: EventWriter<'a>,
    budget: Budget,
    /// Counts over all of them, written at the end.
    pub(super) counts: EventCounts,
}

impl<'a> AppendTransaction<'a> {
    /// For the transaction that `conn` is in.
    pub(super) fn new(conn: &'a Connection, ledger: Ledger<'a>, budget: Budget) -> rusqlite::Result<Self> {
        Ok(Self { conn, ledger, writer: EventWriter::new(conn)?, budget, counts: EventCounts::default() })
    }
}

/// How much of a post is stored durably.
#[derive(Clone, Copy, Default)]
pub(super) struct Progress {
    /// Batches that are stored completely.
    batches: usize,
    /// Events of the next batch that are stored.
    events: usize,
    /// The post is stored completely.
    pub(super) done: bool,
    /// The answer so far.
    pub(super) appended: Appended,
}

impl Progress {
    /// Nothing is left to do.
    pub(super) fn done() -> Self {
        Self { done: true, ..Self::default() }
    }
}

/// One post, and how much of it is stored.
pub(super) struct AppendJob {
    append: Append,
    gateway: String,
    /// How much of it is stored.
    pub(super) progress: Progress,
}

impl AppendJob {
    pub(super) fn new(append: Append) -> Self {
        let gateway = append.gateway.to_string();
        Self { append, gateway, progress: Progress::default() }
    }

    /// Events that still wait.
    pub(super) fn rows_left(&self) -> usize {
        let left = self.append.batches.iter().skip(self.progress.batches).map(|b| b.events.len());
        left.sum::<usize>().saturating_sub(self.progress.events)
    }

    /// Stores more of the post in the transaction of `step`, until all is stored, the budget is
    /// spent or `stop` returns true. The returned progress counts once the transaction is
    /// committed.
    pub(super) fn run(
        &self,
        step: &mut AppendTransaction<'_>,
        stop: &dyn Fn() -> bool,
    ) -> rusqlite::Result<Progress> {
        let mut progress = self.progress;
        while let Some(batch) = self.append.batches.get(progress.batches) {
            if !is_one_run(batch) {
                recording_stats::add_malformed(step.conn, 1)?;
            } else {
                while progress.events < batch.events.len() {
                    if step.budget.is_spent(stop) {
                        return Ok(progress);
                    }
                    self.chunk(step, batch, &mut progress)?;
                }
                step.ledger.figures(batch, &self.gateway)?;
            }
            (progress.batches, progress.events) = (progress.batches + 1, 0);
        }
        for range in &self.append.dropped {
            step.ledger.dropped(range, &self.gateway)?;
        }
        for report in &self.append.sources {
            step.ledger.report(report, &self.gateway)?;
        }
        progress.done = true;
        Ok(progress)
    }

    fn chunk(
        &self,
        step: &mut AppendTransaction<'_>,
        batch: &Batch,
        progress: &mut Progress,
    ) -> rusqlite::Result<()> {
        let count = (batch.events.len() - progress.events).min(CHUNK).min(step.budget.rows);
        let events = &batch.events[progress.events..progress.events + count];
        let first = batch.first + progress.events as u64;
        let range = NumberRange { first, last: first + count as u64 - 1 };
        let node = &self.append.gateway.node;
        // Set before the rows are stored, so that the batch's numbers still missing count as
        // pending.
        step.ledger.reached(batch.source, &self.gateway, batch.numbered_hi)?;
        let new = step.ledger.enter(batch.source, &self.gateway, range)?;
        let mut stored = 0;
        for event in new.iter().flat_map(|part| &events[part.within(range)]) {
            step.writer.insert(EventStage::Ended, node, batch.source, event)?;
            step.counts.add(event);
            stored += 1;
        }
        for closed in open_events::close(step.conn, batch.source, range)? {
            let is_new = new.iter().any(|part| part.has(closed.number));
            if closed.was_given_up && !is_new {
                // It was counted when the ledger took its number without its end.
                let event = &events[(closed.number - first) as usize];
                step.writer.insert(EventStage::Ended, node, batch.source, event)?;
                step.ledger.completed(batch.source, &self.gateway)?;
                step.counts.completed();
                stored += 1;
            }
        }
        progress.appended.stored += stored;
        progress.appended.duplicates += count as u64 - stored;
        progress.events += count;
        step.budget.rows -= count;
        Ok(())
    }
}

/// Whether the batch's numbers are those that its head says. The codec has checked that already;
/// the ledger must never get another number than the row.
fn is_one_run(batch: &Batch) -> bool {
    let Some(last) = batch.first.checked_add(batch.events.len() as u64) else { return false };
    batch.events.is_empty()
        || NumberRange::checked(batch.first, last - 1).is_some()
            && (batch.first..last).eq(batch.events.iter().map(|event| event.number))
}
