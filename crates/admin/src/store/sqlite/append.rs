//! Storing one post, in several transactions if it is large (2,000 units of work or 3 ms each; up to
//! four times as many while more waits). Each writes rows and their ledger entries together.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use tidegate_policy::wire::event::{Batch, DroppedRange};

use super::counts::EventCounts;
use super::events::{EventStage, EventWriter};
use super::ledger::{Ledger, MAX_PARTS};
use super::open_events;
use super::ranges::NumberRange;
use super::recording_stats;
use crate::store::{Append, Appended};

/// Rows per transaction, at most: of events, and of what housekeeping removes. Other work of a
/// post counts as as many rows as it costs about as much as.
pub(super) const MAX_ROWS: usize = 2_000;
/// The same while as much work waits: a commit takes milliseconds however small it is, so that a
/// backlog in small transactions would mostly wait for the disk.
pub(super) const MAX_BACKLOG_ROWS: usize = 8_000;
/// What a dropped range costs: two look-ups, and a row for each of its parts.
const RANGE_WORK: usize = 4;
/// What a report about a source, and the head of a batch, costs: the source's row, perhaps a mark.
const SOURCE_WORK: usize = 2;
/// Time per transaction of [`MAX_ROWS`] events, at most, without its commit.
const MAX_TIME: Duration = Duration::from_millis(3);
/// Rows between two readings of the clock.
const CHUNK: usize = 128;

/// What is left of a transaction's work and time.
pub(super) struct Budget {
    whole: usize,
    work: usize,
    until: Instant,
}

impl Budget {
    /// For a transaction that `waiting` units of work wait for.
    pub(super) fn new(waiting: usize) -> Self {
        let work = waiting.clamp(MAX_ROWS, MAX_BACKLOG_ROWS);
        let time = MAX_TIME.mul_f64(work as f64 / MAX_ROWS as f64);
        Self { whole: work, work, until: Instant::now() + time }
    }

    /// Never before the first work: every transaction makes progress, however late it is.
    pub(super) fn is_spent(&self, stop: &dyn Fn() -> bool) -> bool {
        self.work < self.whole && (self.work == 0 || Instant::now() >= self.until || stop())
    }

    /// Takes `work` off, and at least one unit.
    pub(super) fn spend(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work.max(1));
    }
}

/// What the posts of one transaction share.
pub(super) struct AppendTransaction<'a> {
    conn: &'a Connection,
    pub(super) ledger: Ledger<'a>,
    writer: EventWriter<'a>,
    pub(super) budget: Budget,
    /// Counts over all of them, written at the end.
    pub(super) counts: EventCounts,
}

impl<'a> AppendTransaction<'a> {
    /// For the transaction that `conn` is in.
    pub(super) fn new(
        conn: &'a Connection,
        ledger: Ledger<'a>,
        budget: Budget,
        counts: EventCounts,
    ) -> rusqlite::Result<Self> {
        Ok(Self { conn, ledger, writer: EventWriter::new(conn)?, budget, counts })
    }
}

/// How much of a post is stored durably.
#[derive(Clone, Copy, Default)]
pub(super) struct Progress {
    /// Batches that are stored completely.
    batches: usize,
    /// Events of the next batch that are stored.
    events: usize,
    /// Dropped ranges of the next batch, or after the batches of the post itself, that are entered.
    ranges: usize,
    /// The number from which on the next of these ranges is not yet entered.
    range_from: u64,
    /// Reports that are entered.
    reports: usize,
    /// The post is stored completely.
    pub(super) done: bool,
    /// The answer so far.
    pub(super) appended: Appended,
}

impl Progress {
    /// Of work without parts: whether all of it is done.
    pub(super) fn whole(done: bool) -> Self {
        Self { done, ..Self::default() }
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

    /// Work that still waits, at least one unit.
    pub(super) fn work_left(&self) -> usize {
        let Progress { batches, events, ranges, reports, .. } = self.progress;
        let of_batch = |batch: &Batch| batch.events.len() + batch.dropped.len() * RANGE_WORK + SOURCE_WORK;
        let in_batches = self.append.batches.iter().skip(batches).map(of_batch).sum::<usize>();
        let beside = self.append.dropped.len() * RANGE_WORK + self.append.sources.len() * SOURCE_WORK;
        (in_batches + beside).saturating_sub(events + ranges * RANGE_WORK + reports * SOURCE_WORK).max(1)
    }

    /// Stores more of the post in the transaction of `step`, until all is stored, the budget is
    /// spent or `stop` returns true. The returned progress counts once the transaction is
    /// committed.
    pub(super) fn run(
        &self,
        step: &mut AppendTransaction<'_>,
        stop: &dyn Fn() -> bool,
    ) -> rusqlite::Result<Progress> {
        let before = step.ledger.refused();
        let mut progress = self.advance(step, stop)?;
        progress.appended.refused += step.ledger.refused() - before;
        Ok(progress)
    }

    fn advance(
        &self,
        step: &mut AppendTransaction<'_>,
        stop: &dyn Fn() -> bool,
    ) -> rusqlite::Result<Progress> {
        let mut progress = self.progress;
        while let Some(batch) = self.append.batches.get(progress.batches) {
            if step.budget.is_spent(stop) || !self.batch(step, batch, &mut progress, stop)? {
                return Ok(progress);
            }
            // Last, because whatever spends the budget must be progress.
            step.budget.spend(SOURCE_WORK);
            (progress.batches, progress.events) = (progress.batches + 1, 0);
            (progress.ranges, progress.range_from) = (0, 0);
        }
        if !self.dropped(step, &self.append.dropped, &mut progress, stop)? {
            return Ok(progress);
        }
        while let Some(report) = self.append.sources.get(progress.reports) {
            if step.budget.is_spent(stop) {
                return Ok(progress);
            }
            step.ledger.report(report, &self.gateway)?;
            step.budget.spend(SOURCE_WORK);
            progress.reports += 1;
        }
        if self.append.untold {
            recording_stats::note_untold(step.conn)?;
        }
        progress.done = true;
        Ok(progress)
    }

    /// Stores more of `batch`; returns whether all of it is stored.
    fn batch(
        &self,
        step: &mut AppendTransaction<'_>,
        batch: &Batch,
        progress: &mut Progress,
        stop: &dyn Fn() -> bool,
    ) -> rusqlite::Result<bool> {
        if !is_one_run(batch) {
            recording_stats::add_malformed(step.conn, 1)?;
            return Ok(true);
        }
        // Before the rows, so that the batch's numbers that are still missing count as pending.
        let last = batch.events.last().map_or(0, |event| event.number);
        if !step.ledger.reached(batch.source, &self.gateway, batch.numbered_hi.max(last))? {
            return Ok(true);
        }
        while progress.events < batch.events.len() {
            if step.budget.is_spent(stop) {
                return Ok(false);
            }
            self.chunk(step, batch, progress)?;
        }
        if !self.dropped(step, &batch.dropped, progress, stop)? {
            return Ok(false);
        }
        if batch.closing {
            step.ledger.closed(batch.source, &self.gateway)?;
        }
        Ok(true)
    }

    /// Enters more of `ranges`; returns whether all are entered.
    fn dropped(
        &self,
        step: &mut AppendTransaction<'_>,
        ranges: &[DroppedRange],
        progress: &mut Progress,
        stop: &dyn Fn() -> bool,
    ) -> rusqlite::Result<bool> {
        while let Some(range) = ranges.get(progress.ranges) {
            if step.budget.is_spent(stop) {
                return Ok(false);
            }
            match step.ledger.dropped(range, progress.range_from, &self.gateway)? {
                Some(from) => {
                    step.budget.spend(MAX_PARTS);
                    progress.range_from = from;
                }
                None => {
                    step.budget.spend(RANGE_WORK);
                    (progress.ranges, progress.range_from) = (progress.ranges + 1, 0);
                }
            }
        }
        Ok(true)
    }

    fn chunk(
        &self,
        step: &mut AppendTransaction<'_>,
        batch: &Batch,
        progress: &mut Progress,
    ) -> rusqlite::Result<()> {
        let count = (batch.events.len() - progress.events).min(CHUNK).min(step.budget.work.max(1));
        let events = &batch.events[progress.events..progress.events + count];
        let first = batch.first + progress.events as u64;
        let range = NumberRange { first, last: first + count as u64 - 1 };
        let node = &self.append.gateway.node;
        let new = step.ledger.enter(batch.source, range)?;
        let mut stored = 0;
        for event in new.iter().flat_map(|part| &events[part.within(range)]) {
            let ban_source = self.append.ban_source(batch.source, event);
            step.writer.insert(EventStage::Ended, node, (batch.source, event), ban_source)?;
            step.counts.add(event, ban_source);
            stored += 1;
        }
        for closed in open_events::close(step.conn, batch.source, range)? {
            let is_new = new.iter().any(|part| part.has(closed.number));
            if closed.was_given_up && !is_new {
                // It was counted when the ledger took its number without its end.
                let event = &events[(closed.number - first) as usize];
                let ban_source = self.append.ban_source(batch.source, event);
                step.writer.insert(EventStage::Ended, node, (batch.source, event), ban_source)?;
                step.ledger.completed(batch.source, &self.gateway)?;
                step.counts.completed(event, ban_source);
                stored += 1;
            }
        }
        progress.appended.stored += stored;
        progress.appended.duplicates += count as u64 - stored;
        progress.events += count;
        step.budget.spend(count);
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

#[cfg(test)]
mod tests {
    use tidegate_policy::wire::event::{DropReason, VmId};

    use super::*;
    use crate::store::sqlite::schema;
    use crate::store::tests::support::{batch, post, post_of, report};

    /// Rows that one transaction may change: its budget, and the last work that it began.
    const MOST: u64 = (MAX_ROWS + 2 * MAX_PARTS) as u64;

    /// Stores `append` in transactions that `stop` ends early. Returns the rows that each of them
    /// changed, at most, and how many there were.
    fn store(conn: &Connection, append: Append, stop: bool) -> (u64, usize) {
        let mut job = AppendJob::new(append);
        let (mut most, mut transactions) = (0, 0);
        while !job.progress.done {
            let before = conn.total_changes();
            let left = job.work_left();
            let ledger = Ledger::new(conn, 1_795_456_801_000, Duration::ZERO);
            let mut step = AppendTransaction::new(
                conn,
                ledger,
                Budget::new(0),
                EventCounts::new(
                    false,
                    crate::auto_bans::NewHits::new(std::sync::Arc::default()),
                    Default::default(),
                ),
            )
            .unwrap();
            job.progress = job.run(&mut step, &|| stop).unwrap();
            step.ledger.write().unwrap();
            most = most.max(conn.total_changes() - before);
            transactions += 1;
            assert!(job.progress.done || transactions < 10_000 && job.work_left() <= left, "no progress");
        }
        (most, transactions)
    }

    fn every_other(source: u128, count: u64) -> impl Iterator<Item = DroppedRange> {
        let range = move |at| (VmId(source), at * 2 + 1, DropReason::RecorderFull);
        (0..count).map(range).map(|(source, first, reason)| DroppedRange {
            source,
            first,
            last: first,
            reason,
        })
    }

    fn dropped(conn: &Connection) -> (i64, i64) {
        conn.query_row("SELECT count(*), sum(last - first + 1) FROM dropped", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap()
    }

    #[test]
    fn all_work_counts_whatever_its_kind() {
        let conn = Connection::open_in_memory().unwrap();
        schema::ensure(&conn, schema::Upgrade::Allowed).unwrap();
        let ranges = Append { dropped: every_other(1, 5_000).collect(), ..post() };
        let (most, transactions) = store(&conn, ranges, false);
        assert!(most <= MOST && transactions >= 10, "{most} rows in {transactions} transactions");
        assert_eq!(dropped(&conn), (5_000, 5_000));
        // One range, over the gaps between all of these.
        let wide = DroppedRange { source: VmId(1), first: 1, last: 10_000, reason: DropReason::Expired };
        let (most, transactions) = store(&conn, Append { dropped: vec![wide], ..post() }, false);
        assert!(most <= MOST && transactions > 1, "{most} rows in {transactions} transactions");
        assert_eq!(dropped(&conn), (10_000, 10_000));
        // The same in a batch's head, and reports.
        let mut in_head = post_of(vec![batch(2, 1, 1)]);
        in_head.batches[0].dropped = every_other(2, 3_000).skip(1).collect();
        let (most, transactions) = store(&conn, in_head, false);
        assert!(most <= MOST && transactions > 1, "{most} rows in {transactions} transactions");
        let reports = (0..4_000)
            .flat_map(|source| report(source, 1, tidegate_policy::wire::event::SourceState::Alive).sources);
        let (most, transactions) = store(&conn, Append { sources: reports.collect(), ..post() }, false);
        assert!(
            most <= 2 * MAX_ROWS as u64 && transactions > 1,
            "{most} rows in {transactions} transactions"
        );
    }

    #[test]
    fn a_ban_goes_between_any_two_steps() {
        let conn = Connection::open_in_memory().unwrap();
        schema::ensure(&conn, schema::Upgrade::Allowed).unwrap();
        let reports = (0..50)
            .flat_map(|source| report(source, 1, tidegate_policy::wire::event::SourceState::Alive).sources);
        let append = Append {
            dropped: every_other(1, 50).collect(),
            sources: reports.collect(),
            ..post_of((10..60).map(|source| batch(source, 1, 3)).collect())
        };
        let (_, transactions) = store(&conn, append, true);
        assert_eq!(transactions, 150);
    }
}
