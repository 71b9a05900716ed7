//! Events that ended, and what is said of their sources.

use std::time::Instant;

use rusqlite::Connection;

use super::{End, Writer};
use crate::store::sqlite::counts;
use crate::store::sqlite::ingest::{Budget, Progress, Step};
use crate::store::sqlite::ledger::{self, Ledger};
use crate::store::sqlite::queue::{Fail, Ingest, Waiting};
use crate::store::sqlite::shared::Shared;
use crate::store::sqlite::sql_error;
use crate::store::{StoreError, time_text};

impl Writer {
    pub(super) fn ingest(&mut self, jobs: Vec<Waiting<Ingest>>) {
        let deadline = Instant::now() + self.shared.options.busy_for;
        let outcome = self.begin(deadline).and_then(|()| {
            let begun = Instant::now();
            let outcome = self.ingest_in_transaction(&jobs);
            self.rollback();
            if !matches!(outcome, Ok((End::Durable, _))) {
                self.forget();
            }
            self.shared.queue.rest(begun.elapsed());
            outcome
        });
        match outcome {
            Ok((End::Durable, progress)) => {
                let rest = answer_ingest(jobs, progress);
                self.shared.queue.return_ingest(rest);
            }
            Ok((End::Lost, _)) => self.shared.queue.return_ingest(jobs),
            // A recorder keeps what was not taken, and posts it again.
            Err(e) => jobs.into_iter().for_each(|w| w.job.fail(e.clone())),
        }
    }

    /// Answers how far each job has come; those that it did not reach are missing.
    fn ingest_in_transaction(
        &mut self,
        jobs: &[Waiting<Ingest>],
    ) -> Result<(End, Vec<Progress>), StoreError> {
        let before = self.conn.total_changes();
        let shared = &self.shared;
        let progress = store_jobs(&self.conn, shared, jobs).map_err(|e| sql_error(&e))?;
        Ok((self.end(before)?, progress))
    }

    /// Writes the counts of addresses, if there is something to write: what could
    /// not be written now is found again in the events.
    pub(super) fn write_seen(&mut self) {
        if !self.shared.seen.is_changed() || self.begin(Instant::now()).is_err() {
            return;
        }
        let before = self.conn.total_changes();
        let written = self.shared.seen.with(&self.conn, |seen| seen.write(&self.conn));
        let ended = written.map_err(|e| sql_error(&e)).and_then(|()| self.end(before));
        if !matches!(ended, Ok(End::Durable)) {
            self.rollback();
            self.forget();
        }
    }
}

/// Answers what is done, and gives back the rest.
fn answer_ingest(jobs: Vec<Waiting<Ingest>>, progress: Vec<Progress>) -> Vec<Waiting<Ingest>> {
    let mut progress = progress.into_iter();
    let mut rest = Vec::new();
    for mut waiting in jobs {
        let Some(reached) = progress.next() else {
            rest.push(waiting);
            continue;
        };
        match waiting.job {
            Ingest::Append(job) if reached.done => drop(job.reply.send(Ok(reached.appended))),
            Ingest::Append(mut job) => {
                job.progress = reached;
                waiting.job = Ingest::Append(job);
                rest.push(waiting);
            }
            Ingest::Malformed(_, reply) | Ingest::CloseSources(_, reply) => drop(reply.send(Ok(()))),
        }
    }
    rest
}

fn store_jobs(
    conn: &Connection,
    shared: &Shared,
    jobs: &[Waiting<Ingest>],
) -> rusqlite::Result<Vec<Progress>> {
    // Loaded before there are new events, or those would be counted twice.
    shared.seen.with(conn, |_| Ok(()))?;
    let now = time_text::now_ms();
    let ledger = || Ledger::new(conn, now, shared.options.pending_for);
    let mut step = Step::new(conn, ledger(), Budget::new())?;
    let mut progress = Vec::with_capacity(jobs.len());
    for waiting in jobs {
        let reached = match &waiting.job {
            Ingest::Append(job) => job.run(&mut step, &|| shared.queue.is_urgent())?,
            Ingest::Malformed(batches, _) => {
                counts::add_malformed(conn, *batches)?;
                Progress::done()
            }
            Ingest::CloseSources(gateway, _) => {
                // It reads the sums that the posts before it changed.
                std::mem::replace(&mut step.ledger, ledger()).write()?;
                ledger::close_sources(conn, &gateway.to_string(), now)?;
                Progress::done()
            }
        };
        progress.push(reached);
        if !reached.done {
            break;
        }
    }
    step.ledger.write()?;
    shared.seen.with(conn, |seen| step.tally.write(conn, seen))?;
    Ok(progress)
}
