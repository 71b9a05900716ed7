//! A post of events on its way into the database, a part per transaction if it is
//! large: ledger and rows of each part are in the same one.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use tidegate_policy::wire::event::Batch;

use super::counts;
use super::events;
use super::ledger::Ledger;
use super::queue::{MAX_ROWS, Reply};
use super::ranges::Range;
use crate::store::{Append, Appended};

/// Time that one transaction of events takes at most, but for its commit.
const MAX_TIME: Duration = Duration::from_millis(3);
/// Rows between two looks at the clock.
const STEP: usize = 128;

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

/// See the module.
pub(super) struct AppendJob {
    append: Append,
    gateway: String,
    /// How far it has come.
    pub(super) progress: Progress,
    /// Where the answer goes.
    pub(super) reply: Reply<Appended>,
}

impl AppendJob {
    pub(super) fn new(append: Append, reply: Reply<Appended>) -> Self {
        let gateway = append.gateway.to_string();
        Self { append, gateway, progress: Progress::default(), reply }
    }

    /// Events that still wait.
    pub(super) fn rows_left(&self) -> usize {
        let left = self.append.batches.iter().skip(self.progress.batches).map(|b| b.events.len());
        left.sum::<usize>().saturating_sub(self.progress.events)
    }

    /// Goes on in the write transaction that `conn` is in, until the post is in, the
    /// budget is spent or `stop` says so. What it answers counts once that is
    /// committed.
    pub(super) fn run(
        &self,
        conn: &Connection,
        ledger: &mut Ledger<'_>,
        budget: &mut Budget,
        stop: &dyn Fn() -> bool,
    ) -> rusqlite::Result<Progress> {
        let mut progress = self.progress;
        while let Some(batch) = self.append.batches.get(progress.batches) {
            if !is_one_run(batch) {
                counts::add_malformed(conn, 1)?;
            } else {
                while progress.events < batch.events.len() {
                    if budget.is_spent(stop) {
                        return Ok(progress);
                    }
                    self.step(conn, ledger, budget, batch, &mut progress)?;
                }
                ledger.figures(batch, &self.gateway)?;
            }
            (progress.batches, progress.events) = (progress.batches + 1, 0);
        }
        for range in &self.append.dropped {
            ledger.dropped(range, &self.gateway)?;
        }
        for report in &self.append.sources {
            ledger.report(report, &self.gateway)?;
        }
        progress.done = true;
        Ok(progress)
    }

    fn step(
        &self,
        conn: &Connection,
        ledger: &mut Ledger<'_>,
        budget: &mut Budget,
        batch: &Batch,
        progress: &mut Progress,
    ) -> rusqlite::Result<()> {
        let count = (batch.events.len() - progress.events).min(STEP).min(budget.rows);
        let events = &batch.events[progress.events..progress.events + count];
        let first = batch.first + progress.events as u64;
        let range = Range { first, last: first + count as u64 - 1 };
        // Known before the rows are in, so that what follows is seen as pending.
        ledger.reached(batch.source, &self.gateway, batch.numbered_hi)?;
        let mut stored = 0;
        for part in ledger.enter(batch.source, &self.gateway, range)? {
            for number in part.first..=part.last {
                let event = &events[(number - first) as usize];
                events::insert(conn, &self.append.gateway.node, batch.source, event)?;
                stored += 1;
            }
        }
        progress.appended.stored += stored;
        progress.appended.duplicates += count as u64 - stored;
        progress.events += count;
        budget.rows -= count;
        Ok(())
    }
}

/// Whether the batch's numbers are those that its head says. The codec has checked
/// that already; the ledger must never be told another number than the row.
fn is_one_run(batch: &Batch) -> bool {
    let Some(last) = batch.first.checked_add(batch.events.len() as u64) else { return false };
    batch.events.is_empty()
        || Range::checked(batch.first, last - 1).is_some()
            && (batch.first..last).eq(batch.events.iter().map(|event| event.number))
}
