//! Writing batches of events and reports about their sources.

use std::time::Instant;

use rusqlite::Connection;

use super::{TransactionEnd, Writer};
use crate::auto_bans::NewHits;
use crate::store::sqlite::append::{AppendTransaction, Budget, Progress};
use crate::store::sqlite::counts::EventCounts;
use crate::store::sqlite::database::Database;
use crate::store::sqlite::error::sql_error;
use crate::store::sqlite::ledger::{self, Ledger, RefusedClaims};
use crate::store::sqlite::queue::{IngestJob, Job, Queued};
use crate::store::sqlite::recording_stats;
use crate::store::sqlite::rollout_figures::StageCounts;
use crate::store::{StoreError, time_text};

/// Sources that are closed at a time.
const CLOSED_STEP: usize = 500;

impl Writer {
    pub(super) fn ingest(&mut self, jobs: Vec<Queued<IngestJob>>) {
        let deadline = Instant::now() + self.database.options.busy_for;
        let outcome = self.begin(deadline).and_then(|()| {
            let begun = Instant::now();
            let outcome = self.ingest_in_transaction(&jobs);
            self.rollback();
            if !matches!(outcome, Ok((TransactionEnd::Durable, _))) {
                self.forget();
            }
            self.database.queue.pause_ingest(begun.elapsed());
            outcome
        });
        self.note_failure(&outcome);
        match outcome {
            Ok((TransactionEnd::Durable, (progress, hits))) => {
                let rest = answer_ingest(jobs, progress);
                self.database.queue.return_ingest(rest);
                self.database.auto_bans.count(&hits, time_text::now_ms());
            }
            Ok((TransactionEnd::Lost, _)) => self.database.queue.return_ingest(jobs),
            // The recorder keeps what was not stored, and posts it again.
            Err(e) => jobs.into_iter().for_each(|w| w.job.fail(e.clone())),
        }
    }

    /// Returns the progress of each job, of which those that were not reached are missing, and what automatic bans
    /// count.
    fn ingest_in_transaction(
        &mut self,
        jobs: &[Queued<IngestJob>],
    ) -> Result<(TransactionEnd, (Vec<Progress>, NewHits)), StoreError> {
        let before = self.conn.total_changes();
        let database = &self.database;
        let progress = store_jobs(&self.conn, database, jobs).map_err(|e| sql_error(&e))?;
        Ok((self.end(before)?, progress))
    }

    /// Writes the counts of frequent values if they changed. If that fails they are counted again from
    /// the events later.
    pub(super) fn write_top_counts(&mut self) {
        if !self.database.top_counts.is_changed() || self.begin(Instant::now()).is_err() {
            return;
        }
        let before = self.conn.total_changes();
        let written = self.database.top_counts.with(&self.conn, |top| top.write(&self.conn));
        let ended = written.map_err(|e| sql_error(&e)).and_then(|()| self.end(before));
        if !matches!(ended, Ok(TransactionEnd::Durable)) {
            self.rollback();
            self.forget();
        }
        self.note_failure(&ended);
    }
}

/// Answers the finished jobs, and returns the others.
fn answer_ingest(jobs: Vec<Queued<IngestJob>>, progress: Vec<Progress>) -> Vec<Queued<IngestJob>> {
    let mut progress = progress.into_iter();
    let mut rest = Vec::new();
    for mut waiting in jobs {
        let Some(reached) = progress.next() else {
            rest.push(waiting);
            continue;
        };
        match waiting.job {
            IngestJob::Append(_, reply) if reached.done => drop(reply.send(Ok(reached.appended))),
            IngestJob::Append(mut job, reply) => {
                job.progress = reached;
                waiting.job = IngestJob::Append(job, reply);
                rest.push(waiting);
            }
            IngestJob::CloseSources(..) if !reached.done => rest.push(waiting),
            IngestJob::Malformed(_, reply) | IngestJob::CloseSources(_, reply) => drop(reply.send(Ok(()))),
        }
    }
    rest
}

fn store_jobs(
    conn: &Connection,
    database: &Database,
    jobs: &[Queued<IngestJob>],
) -> rusqlite::Result<(Vec<Progress>, NewHits)> {
    // Loaded before new events are written, which would be counted twice otherwise.
    database.top_counts.with(conn, |_| Ok(()))?;
    let now = time_text::now_ms();
    let count_refused = |claims: RefusedClaims| -> rusqlite::Result<()> {
        recording_stats::add_refused(conn, claims.count)?;
        claims.last.into_iter().for_each(|claim| database.gateway_reports.note_refused(claim));
        Ok(())
    };
    let ledger = || Ledger::new(conn, now, database.options.pending_for);
    let hits = NewHits::new(database.auto_bans.rules());
    let counts =
        EventCounts::new(database.options.statistics, hits, StageCounts::load(conn, &database.slice_clock)?);
    let budget = Budget::new(jobs.iter().map(|waiting| waiting.job.work()).sum());
    let mut step = AppendTransaction::new(conn, ledger(), budget, counts)?;
    let mut progress = Vec::with_capacity(jobs.len());
    let stop = || database.queue.is_urgent();
    for waiting in jobs {
        if step.budget.is_spent(&stop) {
            break;
        }
        let reached = match &waiting.job {
            IngestJob::Append(job, _) => job.run(&mut step, &stop)?,
            IngestJob::Malformed(batches, _) => {
                recording_stats::add_malformed(conn, *batches)?;
                step.budget.spend(1);
                Progress::whole(true)
            }
            IngestJob::CloseSources(gateway, _) => {
                // Written first, because closing reads the counts that earlier posts changed.
                count_refused(std::mem::replace(&mut step.ledger, ledger()).write()?)?;
                let closed = ledger::close_sources(conn, &gateway.to_string(), now, CLOSED_STEP)?;
                step.budget.spend(closed);
                Progress::whole(closed < CLOSED_STEP)
            }
        };
        progress.push(reached);
        if !reached.done {
            break;
        }
    }
    count_refused(step.ledger.write()?)?;
    let hits = step.counts.write(conn, database, now)?;
    Ok((progress, hits))
}
