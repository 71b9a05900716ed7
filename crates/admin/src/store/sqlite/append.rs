//! Storing the batches of one post, in several transactions if it is large (2,000 rows or
//! 3 ms each): ledger and rows of a part are written in the same one.

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

/// Rows that one transaction of events takes at most.
pub(super) const MAX_ROWS: usize = 2_000;
/// Time that one transaction of events takes at most, but for its commit.
const MAX_TIME: Duration = Duration::from_millis(3);
/// Rows between two looks at the clock.
const CHUNK: usize = 128;

/// How much one transaction may still do.
pub(super) struct Budget {
    rows: usize,
    until: Instant,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { rows: MAX_ROWS, until: Instant::now() + MAX_TIME }
    }

    /// A transaction that was begun does something, however late it is.
    fn is_spent(&self, stop: &dyn Fn() -> bool) -> bool {
        self.rows < MAX_ROWS && (self.rows == 0 || Instant::now() >= self.until || stop())
    }
}

/// What the posts of one transaction have in common.
pub(super) struct AppendTransaction<'a> {
    conn: &'a Connection,
    pub(super) ledger: Ledger<'a>,
    writer: EventWriter<'a>,
    budget: Budget,
    /// What is to be counted once all of them have gone on.
    pub(super) counts: EventCounts,
}

impl<'a> AppendTransaction<'a> {
    /// Of the transaction that `conn` is in.
    pub(super) fn new(conn: &'a Connection, ledger: Ledger<'a>, budget: Budget) -> rusqlite::Result<Self> {
        Ok(Self { conn, ledger, writer: EventWriter::new(conn)?, budget, counts: EventCounts::default() })
    }
}

/// How far a post has come. Only what a commit made durable is in it.
#[derive(Clone, Copy, Default)]
pub(super) struct Progress {
    /// Batches that are entirely in.
    batches: usize,
    /// Events of the batch after those that are in.
    events: usize,
    /// The post is entirely in.
    pub(super) done: bool,
    /// What to answer.
    pub(super) appended: Appended,
}

impl Progress {
    /// There is nothing left to do.
    pub(super) fn done() -> Self {
        Self { done: true, ..Self::default() }
    }
}

/// One post, and how far it was stored.
pub(super) struct AppendJob {
    append: Append,
    gateway: String,
    /// How far it has come.
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

    /// Goes on in the transaction of `step`, until the post is in, the budget is
    /// spent or `stop` says so. What it answers counts once that is committed.
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
        // Known before the rows are in, so that what follows is seen as pending.
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
                // It was counted when the ledger took it without its end.
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

/// Whether the batch's numbers are those that its head says. The codec has checked
/// that already; the ledger must never be told another number than the row.
fn is_one_run(batch: &Batch) -> bool {
    let Some(last) = batch.first.checked_add(batch.events.len() as u64) else { return false };
    batch.events.is_empty()
        || NumberRange::checked(batch.first, last - 1).is_some()
            && (batch.first..last).eq(batch.events.iter().map(|event| event.number))
}
