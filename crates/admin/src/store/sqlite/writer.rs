//! The one thread that writes. It owns the write connection, and it alone decides
//! what the database is: whether the file is still the one that was opened, whether
//! triggers and log are as they were left, and what to do if not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, params};

use super::changes::{self, Spellings};
use super::counts;
use super::events;
use super::file::{FileId, FileSet, connect, warn_if_open_to_others};
use super::ingest::{Budget, Progress};
use super::ledger::{self, Ledger};
use super::queue::{Chore, Ingest, MAX_ROWS, Urgent, Waiting, Work};
use super::schema::{self, EPOCH, Look, RELOAD, look};
use super::shared::Shared;
use super::tables::{REPLACED, RESTORED, TAMPERED};
use super::{failed, sql_error};
use crate::store::{Committed, StoreError, time_text};

/// Pause between two tries for the write lock.
const LOCK_RETRY: Duration = Duration::from_millis(3);
/// Log rows that are followed at a time while nothing else is to do.
const FOLLOW_STEP: usize = 5_000;
/// Times that a transaction is begun anew because the world moved.
const TRIES: usize = 5;

/// See the module.
pub(super) struct Writer {
    shared: Arc<Shared>,
    conn: Connection,
    files: FileSet,
    /// Another file was opened, and the log does not say so yet.
    replaced: bool,
    spellings: Spellings,
    /// The newest `seq` when the transaction began.
    newest_at_begin: u64,
}

/// How a transaction ended that was carried out in full.
enum End {
    /// It is durable, or there was nothing to write.
    Durable,
    /// The file was moved away meanwhile: it may have gone into the old one.
    Lost,
}

impl Writer {
    /// Opens the database for writing and brings its schema up to date.
    pub(super) fn open(
        path: &std::path::Path,
        wait: Duration,
    ) -> Result<(Connection, FileSet, Look), StoreError> {
        let conn = connect(path, wait).map_err(|e| sql_error(&e))?;
        conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| sql_error(&e))?;
        schema::ensure(&conn).map_err(failed)?;
        let now = look(&conn).map_err(|e| sql_error(&e))?;
        conn.execute_batch("COMMIT").map_err(|e| sql_error(&e))?;
        conn.busy_timeout(Duration::ZERO).map_err(|e| sql_error(&e))?;
        warn_if_open_to_others(path);
        let files = FileSet::of(path).map_err(failed)?;
        Ok((conn, files, now))
    }

    pub(super) fn new(shared: Arc<Shared>, conn: Connection, files: FileSet) -> Self {
        Self { shared, conn, files, replaced: false, spellings: Spellings::default(), newest_at_begin: 0 }
    }

    /// Works until the queue says stop.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            self.read_ahead();
            match shared.queue.next(shared.is_locked()) {
                Work::Stop => break,
                Work::Mend => self.mend(),
                Work::Urgent(jobs) => self.urgent(jobs),
                Work::Ingest(jobs) => self.ingest(jobs),
                Work::Chore(chore, reply) => {
                    // The keeper may be stopping.
                    let _ = reply.send(self.chore(&chore));
                }
                Work::Idle => self.idle(),
            }
        }
        shared.queue.clear();
    }

    /// Looks whether the lock is free, so that health knows before a ban does.
    fn idle(&mut self) {
        if self.try_lock().is_ok() {
            self.rollback();
        }
    }

    /// Reads ahead what the next ban needs, while nobody waits: others may have
    /// written a million rows.
    fn read_ahead(&mut self) {
        while !self.shared.queue.is_waited_for()
            && self.spellings.upto().is_none_or(|upto| upto < self.shared.newest())
        {
            let before = self.spellings.upto();
            let followed = self
                .conn
                .execute_batch("BEGIN")
                .and_then(|()| self.spellings.follow(&self.conn, FOLLOW_STEP));
            self.rollback();
            if let Err(e) = followed {
                tracing::debug!("cannot read ip_monitor ahead: {e}");
                return self.spellings.reset();
            }
            if self.spellings.upto() == before {
                return;
            }
        }
    }

    // -- transactions

    /// Takes the write lock, until `deadline` if need be.
    fn lock_until(&mut self, deadline: Instant) -> Result<(), StoreError> {
        loop {
            match self.try_lock() {
                Err(StoreError::Busy) if self.shared.queue.is_stopping() => return Err(StoreError::Closed),
                Err(StoreError::Busy) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
                other => return other,
            }
        }
    }

    fn try_lock(&mut self) -> Result<(), StoreError> {
        match self.conn.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => {
                self.shared.lock_granted();
                Ok(())
            }
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                self.shared.lock_refused();
                Err(StoreError::Busy)
            }
            Err(e) => Err(sql_error(&e)),
        }
    }

    fn rollback(&self) {
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(e) = self.conn.execute_batch("ROLLBACK") {
            tracing::error!("cannot roll back: {e}");
        }
    }

    /// Begins a write transaction in a database that is as we left it, mending it
    /// first if it is not.
    fn begin(&mut self, deadline: Instant) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            self.follow_file(deadline)?;
            self.lock_until(deadline)?;
            let now = look(&self.conn).map_err(|e| sql_error(&e));
            match now {
                Ok(now) if !self.replaced && !self.shared.has_moved(now) => {
                    self.newest_at_begin = now.newest;
                    return Ok(());
                }
                Ok(now) => self.mend_and_commit(now)?,
                Err(e) => {
                    self.rollback();
                    return Err(e);
                }
            }
        }
        self.rollback();
        Err(failed("the database is being changed again and again"))
    }

    /// Commits, or rolls back what turned out to write nothing.
    fn end(&mut self, changes_before: u64) -> Result<End, StoreError> {
        if self.conn.total_changes() == changes_before {
            self.rollback();
            return Ok(End::Durable);
        }
        let newest = look(&self.conn).map_err(|e| sql_error(&e))?.newest;
        self.conn.execute_batch("COMMIT").map_err(|e| sql_error(&e))?;
        if !self.shared.is_in_place() {
            return Ok(End::Lost);
        }
        self.shared.saw(newest);
        if newest > self.newest_at_begin {
            self.shared.notify();
        }
        Ok(End::Durable)
    }

    // -- the file and the schema

    /// Opens the file that is at the path now, if it is another one.
    fn follow_file(&mut self, deadline: Instant) -> Result<(), StoreError> {
        match FileId::of(&self.shared.path) {
            Ok(now) if now == self.files.main => return Ok(()),
            Ok(_) => {}
            Err(e) => {
                let gone = format!("{}: {e}: nothing can be written", self.shared.path.display());
                self.shared.notice(&gone);
                return Err(StoreError::Failed(gone));
            }
        }
        if let Some(aside) = self.files.clear_leftovers(&self.shared.path).map_err(failed)? {
            self.shared.notice(&format!(
                "the last changes of the database that was replaced are in {}: beside that file, as <its name>-wal, \
                 they belong to it again",
                aside.display()
            ));
        }
        let wait = deadline.saturating_duration_since(Instant::now());
        let (conn, files, _) = Self::open(&self.shared.path, wait).inspect_err(|e| {
            self.shared.notice(&format!("{REPLACED}, and the new one cannot be used: {e}"));
        })?;
        (self.conn, self.files, self.replaced) = (conn, files, true);
        self.spellings.reset();
        self.shared.next_file(files.main);
        self.shared.next_world();
        Ok(())
    }

    /// In the write transaction: puts schema and triggers right, leaves a mark in
    /// the log, numbered above everything that anybody saw, and commits.
    fn mend_and_commit(&mut self, found: Look) -> Result<(), StoreError> {
        let mended = self.mend_in_transaction(found);
        self.spellings.reset();
        let (why, repaired, after) = match mended {
            Ok(done) => done,
            Err(e) => {
                self.rollback();
                self.shared.notice(&format!("the database cannot be used as it is: {e}"));
                return Err(e);
            }
        };
        self.conn.execute_batch("COMMIT").map_err(|e| sql_error(&e))?;
        self.replaced = false;
        self.shared.settled(after);
        match repaired.as_slice() {
            [] => self.shared.notice(&format!("{why}: all tables are read again")),
            some => self.shared.notice(&format!("{why}; put back: {}", some.join(", "))),
        }
        self.shared.notify();
        Ok(())
    }

    fn mend_in_transaction(&self, found: Look) -> Result<(&'static str, Vec<String>, Look), StoreError> {
        let repaired = schema::ensure(&self.conn).map_err(failed)?;
        let (mark, why) = if self.replaced {
            (EPOCH, REPLACED)
        } else if found.newest < self.shared.newest() {
            (EPOCH, RESTORED)
        } else {
            (RELOAD, TAMPERED)
        };
        self.shared.next_world();
        let seq = self.shared.newest().max(found.newest).saturating_add(1);
        let insert = "INSERT INTO change_log (seq, tbl, key) VALUES (?1, ?2, ?3)";
        let seq = i64::try_from(seq).map_err(failed)?;
        self.conn.execute(insert, params![seq, mark, why]).map_err(|e| sql_error(&e))?;
        let after = look(&self.conn).map_err(|e| sql_error(&e))?;
        Ok((why, repaired, after))
    }

    /// Somebody saw that the world moved.
    fn mend(&mut self) {
        match self.begin(Instant::now()) {
            Ok(()) => self.rollback(),
            Err(e) => tracing::debug!("cannot look after the database now: {e}"),
        }
    }

    // -- work

    fn urgent(&mut self, mut jobs: Vec<Waiting<Urgent>>) {
        while !jobs.is_empty() {
            let oldest = jobs.iter().map(|w| w.since).min().unwrap_or_else(Instant::now);
            let deadline = oldest + self.shared.options.busy_for;
            match self.urgent_once(&jobs, deadline) {
                Ok(Some(results)) => return answer_urgent(jobs, results),
                Ok(None) => {}
                Err(StoreError::Busy) => {
                    let now = Instant::now();
                    let late = jobs.extract_if(.., |w| w.since + self.shared.options.busy_for <= now);
                    late.for_each(|w| w.job.fail(StoreError::Busy));
                    return self.shared.queue.return_urgent(jobs);
                }
                Err(e) => return jobs.into_iter().for_each(|w| w.job.fail(e.clone())),
            }
        }
    }

    /// All of `jobs` in one transaction, each in a savepoint of its own. `None`: the
    /// file was moved away meanwhile.
    fn urgent_once(
        &mut self,
        jobs: &[Waiting<Urgent>],
        deadline: Instant,
    ) -> Result<Option<Vec<Result<Committed, StoreError>>>, StoreError> {
        self.begin(deadline)?;
        let before = self.conn.total_changes();
        let mut results = Vec::with_capacity(jobs.len());
        for waiting in jobs {
            results.push(self.one_urgent(&waiting.job));
        }
        match self.end(before) {
            Ok(End::Durable) => Ok(Some(results)),
            Ok(End::Lost) => Ok(None),
            Err(e) => {
                self.rollback();
                self.spellings.reset();
                Err(e)
            }
        }
    }

    fn one_urgent(&mut self, job: &Urgent) -> Result<Committed, StoreError> {
        let (conn, spellings) = (&self.conn, &mut self.spellings);
        let mut run = || -> rusqlite::Result<Committed> {
            conn.execute_batch("SAVEPOINT job")?;
            let done = match job {
                Urgent::Change(change, _) => changes::apply(conn, spellings, change)?,
                Urgent::Token(token, _) => {
                    changes::add_token(conn, token)?;
                    Committed { seq: look(conn)?.newest, rows: 1 }
                }
            };
            conn.execute_batch("RELEASE job")?;
            Ok(done)
        };
        run().map_err(|e| {
            let _ = conn.execute_batch("ROLLBACK TO job; RELEASE job");
            spellings.reset();
            sql_error(&e)
        })
    }

    fn ingest(&mut self, jobs: Vec<Waiting<Ingest>>) {
        let deadline = Instant::now() + self.shared.options.busy_for;
        let outcome = self.begin(deadline).and_then(|()| {
            let begun = Instant::now();
            let outcome = self.ingest_in_transaction(&jobs);
            self.rollback();
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
        let shared = Arc::clone(&self.shared);
        let progress = store_jobs(&self.conn, &shared, jobs).map_err(|e| sql_error(&e))?;
        Ok((self.end(before)?, progress))
    }

    /// Chores do not wait for the lock: they are tried again.
    fn chore(&mut self, chore: &Chore) -> Result<u64, StoreError> {
        self.begin(Instant::now())?;
        let before = self.conn.total_changes();
        let done = run_chore(&self.conn, chore).map_err(|e| sql_error(&e));
        let ended = done.and_then(|rows| self.end(before).map(|_| rows));
        if ended.is_err() {
            self.rollback();
        }
        ended
    }
}

fn answer_urgent(jobs: Vec<Waiting<Urgent>>, results: Vec<Result<Committed, StoreError>>) {
    for (waiting, result) in jobs.into_iter().zip(results) {
        // Whoever asked may have gone; the change stands.
        match waiting.job {
            Urgent::Change(_, reply) => drop(reply.send(result)),
            Urgent::Token(_, reply) => drop(reply.send(result.map(|_| ()))),
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
    let now = time_text::now_ms();
    let mut ledger = Ledger::new(conn, now, shared.options.pending_for);
    let mut budget = Budget::new();
    let mut progress = Vec::with_capacity(jobs.len());
    for waiting in jobs {
        let reached = match &waiting.job {
            Ingest::Append(job) => job.run(conn, &mut ledger, &mut budget, &|| shared.queue.is_urgent())?,
            Ingest::Malformed(batches, _) => {
                counts::add_malformed(conn, *batches)?;
                Progress::done()
            }
            Ingest::CloseSources(gateway, _) => {
                // It reads the sums that the posts before it changed.
                std::mem::replace(&mut ledger, Ledger::new(conn, now, shared.options.pending_for)).write()?;
                ledger::close_sources(conn, &gateway.to_string(), now)?;
                Progress::done()
            }
        };
        progress.push(reached);
        if !reached.done {
            break;
        }
    }
    ledger.write()?;
    Ok(progress)
}

fn run_chore(conn: &Connection, chore: &Chore) -> rusqlite::Result<u64> {
    let now = time_text::now_ms();
    match chore {
        Chore::DropExpired(rows) => {
            let mut delete =
                conn.prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1 AND expires_at = ?2")?;
            let mut gone = 0;
            for (ip, expires_at) in rows {
                gone += delete.execute([ip, expires_at])? as u64;
            }
            Ok(gone)
        }
        Chore::TrimEvents => events::trim(conn, MAX_ROWS / 2),
        Chore::TrimLog(below) => {
            let below = i64::try_from(*below).unwrap_or(i64::MAX);
            let limit = i64::try_from(MAX_ROWS).unwrap_or(i64::MAX);
            // Never the newest row: it says where the log is.
            let gone = conn
                .prepare_cached(
                    "DELETE FROM change_log WHERE seq IN (SELECT seq FROM change_log WHERE seq < ?1
                       AND seq < (SELECT max(seq) FROM change_log) ORDER BY seq LIMIT ?2)",
                )?
                .execute(params![below, limit])?;
            Ok(gone as u64)
        }
        Chore::Bury(sources, before) => count_true(sources, |&s| ledger::bury(conn, s, *before, now)),
        Chore::Fold(sources, before) => count_true(sources, |&s| counts::fold(conn, s, *before)),
    }
}

fn count_true<T>(items: &[T], each: impl Fn(&T) -> rusqlite::Result<bool>) -> rusqlite::Result<u64> {
    items.iter().try_fold(0, |sum, item| Ok(sum + u64::from(each(item)?)))
}
