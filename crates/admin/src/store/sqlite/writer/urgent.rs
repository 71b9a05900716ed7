//! Writes that do not wait for batches of events: changes, tokens, and open events.

use std::time::Instant;

use super::{TransactionEnd, Writer};
use crate::store::sqlite::error::sql_error;
use crate::store::sqlite::events::EventWriter;
use crate::store::sqlite::ledger::Ledger;
use crate::store::sqlite::open_events;
use crate::store::sqlite::queue::{Job, OpenJob, Queued, UrgentJob};
use crate::store::sqlite::recording_stats;
use crate::store::sqlite::schema::read_state;
use crate::store::sqlite::{tokens, writes};
use crate::store::{Committed, StoreError, time_text};

impl Writer {
    pub(super) fn urgent(&mut self, jobs: Vec<Queued<UrgentJob>>) {
        let left = self.until_durable(jobs, Self::urgent_once, answer_urgent);
        self.database.queue.return_urgent(left);
    }

    pub(super) fn opens(&mut self, jobs: Vec<Queued<OpenJob>>) {
        let left = self.until_durable(jobs, Self::opens_once, answer_opens);
        self.database.queue.return_opens(left);
    }

    /// Repeats `once` until `jobs` are durable or have failed. Returns those that may wait longer
    /// for the lock.
    fn until_durable<J: Job, R>(
        &mut self,
        mut jobs: Vec<Queued<J>>,
        once: impl Fn(&mut Self, &[Queued<J>], Instant) -> Result<Option<R>, StoreError>,
        answer: impl Fn(Vec<Queued<J>>, R),
    ) -> Vec<Queued<J>> {
        while !jobs.is_empty() {
            let oldest = jobs.iter().map(|w| w.since).min().unwrap_or_else(Instant::now);
            let deadline = oldest + self.database.options.busy_for;
            let outcome = once(self, &jobs, deadline);
            self.note_failure(&outcome);
            match outcome {
                Ok(Some(results)) => {
                    answer(jobs, results);
                    return Vec::new();
                }
                Ok(None) => {}
                Err(StoreError::Busy) => {
                    let now = Instant::now();
                    let late = jobs.extract_if(.., |w| w.since + self.database.options.busy_for <= now);
                    late.for_each(|w| w.job.fail(StoreError::Busy));
                    return jobs;
                }
                Err(e) => {
                    jobs.into_iter().for_each(|w| w.job.fail(e.clone()));
                    return Vec::new();
                }
            }
        }
        jobs
    }

    /// All of `jobs` in one transaction, each in a savepoint of its own. `None`: the
    /// file was moved away meanwhile.
    fn urgent_once(
        &mut self,
        jobs: &[Queued<UrgentJob>],
        deadline: Instant,
    ) -> Result<Option<Vec<Result<Committed, StoreError>>>, StoreError> {
        self.begin(deadline)?;
        let before = self.conn.total_changes();
        let mut results = Vec::with_capacity(jobs.len());
        for waiting in jobs {
            let result = self.one_urgent(&waiting.job);
            self.note_failure(&result);
            results.push(result);
        }
        let ended = self.end(before);
        Ok(self.ended_durably(ended)?.then_some(results))
    }

    fn one_urgent(&mut self, job: &UrgentJob) -> Result<Committed, StoreError> {
        let (conn, aliases) = (&self.conn, &mut self.aliases);
        tokens::check_author(conn, &job.by)?;
        let mut run = || -> rusqlite::Result<Committed> {
            conn.execute_batch("SAVEPOINT job")?;
            let only_if = &job.options.only_if;
            let done = writes::apply(conn, aliases, &job.change, job.plan.as_ref(), &job.by, only_if)?;
            if !job.options.dry_run {
                conn.execute_batch("RELEASE job")?;
                return Ok(done);
            }
            // The aliases were read before anything was written.
            conn.execute_batch("ROLLBACK TO job; RELEASE job")?;
            Ok(Committed { seq: read_state(conn)?.newest, ..done })
        };
        run().map_err(|e| {
            let _ = conn.execute_batch("ROLLBACK TO job; RELEASE job");
            aliases.reset();
            sql_error(&e)
        })
    }

    /// All of `jobs` in one transaction. `None`: the file was moved away meanwhile.
    fn opens_once(
        &mut self,
        jobs: &[Queued<OpenJob>],
        deadline: Instant,
    ) -> Result<Option<Vec<bool>>, StoreError> {
        self.begin(deadline)?;
        let before = self.conn.total_changes();
        let stored = self.store_opens(jobs).map_err(|e| sql_error(&e));
        let ended = stored.and_then(|possible| Ok((self.end(before)?, possible)));
        let (ended, possible) = match ended {
            Ok((ended, possible)) => (Ok(ended), possible),
            Err(error) => (Err(error), Vec::new()),
        };
        Ok(self.ended_durably(ended)?.then_some(possible))
    }

    /// Stores what is possible; returns which are.
    fn store_opens(&self, jobs: &[Queued<OpenJob>]) -> rusqlite::Result<Vec<bool>> {
        let mut ledger = Ledger::new(&self.conn, time_text::now_ms(), self.database.options.pending_for);
        let mut writer = EventWriter::new(&self.conn)?;
        let mut possible = Vec::with_capacity(jobs.len());
        for Queued { job, .. } in jobs {
            let gateway = (job.gateway_name.as_str(), job.gateway.node.as_str());
            possible.push(open_events::insert(&self.conn, &mut ledger, &mut writer, gateway, &job.open)?);
        }
        let refused = ledger.write()?;
        recording_stats::add_refused(&self.conn, refused.count)?;
        refused.last.into_iter().for_each(|claim| self.database.gateway_reports.note_refused(claim));
        Ok(possible)
    }

    /// Whether a transaction is durable; rolls back one that failed.
    fn ended_durably(&mut self, ended: Result<TransactionEnd, StoreError>) -> Result<bool, StoreError> {
        match ended {
            Ok(TransactionEnd::Durable) => Ok(true),
            Ok(TransactionEnd::Lost) => Ok(false),
            Err(e) => {
                self.rollback();
                self.forget();
                Err(e)
            }
        }
    }
}

fn answer_urgent(jobs: Vec<Queued<UrgentJob>>, results: Vec<Result<Committed, StoreError>>) {
    for (waiting, result) in jobs.into_iter().zip(results) {
        // The caller may be gone; the change is committed.
        drop(waiting.job.reply.send(result));
    }
}

fn answer_opens(jobs: Vec<Queued<OpenJob>>, possible: Vec<bool>) {
    for (waiting, possible) in jobs.into_iter().zip(possible) {
        // The caller may be gone; the event is stored.
        drop(waiting.job.reply.send(Ok(possible)));
    }
}
