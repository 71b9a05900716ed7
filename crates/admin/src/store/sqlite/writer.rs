//! The one writer thread. It owns the write connection, reopens a file that was replaced, and
//! repairs schema and triggers.

mod housekeeping;
mod ingest;
mod restore;
mod urgent;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, params};

use super::aliases::AddressAliases;
use super::change_log::{REPLACED, RESTORED, TAMPERED};
use super::connection::connect;
use super::database::Database;
use super::error::{failed, sql_error};
use super::faults::Work;
use super::file::{FileId, FileSet, warn_if_open_to_others};
use super::foreign_changes;
use super::integers::to_sql;
use super::meta;
use super::queue::WriterTask;
use super::schema::{self, DatabaseState, EPOCH, RELOAD, Upgrade, read_state};
use super::top_counts;

use crate::store::{StoreError, time_text};

/// Pause between two tries for the write lock.
const LOCK_RETRY: Duration = Duration::from_millis(3);
/// Rows of the change log that are read ahead at a time while the writer is idle.
const FOLLOW_STEP: usize = 5_000;
/// Attempts to begin a transaction while file, schema or log keep changing.
const TRIES: usize = 5;

/// The writer.
pub(super) struct Writer {
    database: Arc<Database>,
    conn: Connection,
    files: FileSet,
    /// Another file was opened, and its change log has no mark of that yet.
    replaced: bool,
    aliases: AddressAliases,
    /// The newest `seq` when the transaction began.
    newest_at_begin: u64,
    /// Whether the transaction has begun with the audit of other programs' changes.
    has_audited: bool,
    /// What it does at this moment, as health calls it if that fails.
    doing: &'static str,
}

/// How a transaction ended whose statements all succeeded.
enum TransactionEnd {
    /// It is durable, or had nothing to write.
    Durable,
    /// The file was moved away before the commit had ended: the changes may be in the old file.
    Lost,
}

impl Writer {
    /// Opens the database for writing and creates what is missing of its schema.
    pub(super) fn open(
        path: &std::path::Path,
        wait: Duration,
        upgrade: Upgrade,
    ) -> Result<(Connection, FileSet, DatabaseState), StoreError> {
        let conn = connect(path, wait).map_err(|e| sql_error(&e))?;
        conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| sql_error(&e))?;
        let put_back = ensure_schema(&conn, upgrade)?;
        if !put_back.is_empty() {
            // Without its triggers nobody knows what was changed since they were dropped.
            tracing::warn!(path = %path.display(), "{TAMPERED}; put back: {}", put_back.join(", "));
            let insert = "INSERT INTO change_log (tbl, key) VALUES (?1, ?2)";
            conn.execute(insert, params![RELOAD, TAMPERED]).map_err(|e| sql_error(&e))?;
        }
        let now = read_state(&conn).map_err(|e| sql_error(&e))?;
        conn.execute_batch("COMMIT").map_err(|e| sql_error(&e))?;
        conn.busy_timeout(Duration::ZERO).map_err(|e| sql_error(&e))?;
        warn_if_open_to_others(path);
        let files = FileSet::of(path).map_err(failed)?;
        Ok((conn, files, now))
    }

    pub(super) fn new(database: Arc<Database>, conn: Connection, files: FileSet) -> Self {
        Self {
            database,
            conn,
            files,
            replaced: false,
            aliases: AddressAliases::default(),
            newest_at_begin: 0,
            has_audited: false,
            doing: "",
        }
    }

    /// Runs until the store is closed.
    pub(super) fn run(mut self) {
        let database = Arc::clone(&self.database);
        loop {
            self.read_ahead();
            let task = database.queue.next(database.is_locked());
            self.doing = task.name();
            match task {
                WriterTask::Stop => break,
                WriterTask::Repair => self.repair(),
                WriterTask::Urgent(jobs) => self.urgent(jobs),
                WriterTask::Restore(job) => self.restore(*job),
                WriterTask::Opens(jobs) => self.opens(jobs),
                WriterTask::Ingest(jobs) => self.ingest(jobs),
                WriterTask::Housekeeping(step, reply) => {
                    // The housekeeper may be stopping.
                    let _ = reply.send(self.housekeeping_step(&step));
                }
                WriterTask::Idle => self.idle(),
            }
        }
        self.write_top_counts();
        database.queue.clear();
    }

    /// Writes the counts of frequent values if that is due. Otherwise tries to write, or only the write
    /// lock, so that health reports a full disk or another program's lock before a ban needs it.
    fn idle(&mut self) {
        if self.database.top_counts.is_due() {
            self.write_top_counts();
        } else if self.database.is_write_to_be_tried() {
            self.try_write();
        } else if self.try_lock().is_ok() {
            self.rollback();
        }
    }

    /// Commits a transaction that changes nothing but a time.
    fn try_write(&mut self) {
        let written = self.begin(Instant::now()).and_then(|()| {
            let before = self.conn.total_changes();
            meta::set(&self.conn, meta::WRITTEN_AT, time_text::now_ms()).map_err(|e| sql_error(&e))?;
            self.end(before)
        });
        if !matches!(written, Ok(TransactionEnd::Durable)) {
            self.rollback();
            self.forget();
        }
        self.note_failure(&written);
    }

    /// Notes for health if what is done has failed. A success is noted where it is committed.
    fn note_failure<T>(&self, result: &Result<T, StoreError>) {
        if let Err(error) = result {
            self.database.faults.note(Work::Write(self.doing), &Err::<(), _>(error.clone()));
        }
    }

    /// Follows the change log for `aliases` while no job waits. Other programs may have written a
    /// million rows, which the next ban would have to read.
    fn read_ahead(&mut self) {
        while !self.database.queue.is_waited_for()
            && self.aliases.upto().is_none_or(|upto| upto < self.database.newest())
        {
            let before = self.aliases.upto();
            let followed =
                self.conn.execute_batch("BEGIN").and_then(|()| self.aliases.follow(&self.conn, FOLLOW_STEP));
            self.rollback();
            if let Err(e) = followed {
                tracing::debug!("cannot read ip_monitor ahead: {e}");
                return self.aliases.reset();
            }
            if self.aliases.upto() == before {
                return;
            }
        }
    }

    // -- transactions

    /// Takes the write lock; retries until `deadline`.
    fn lock_until(&mut self, deadline: Instant) -> Result<(), StoreError> {
        let mut waited = false;
        loop {
            match self.try_lock() {
                Err(StoreError::Busy) if self.database.queue.is_stopping() => return Err(StoreError::Closed),
                Err(StoreError::Busy) if Instant::now() < deadline => {
                    if !std::mem::replace(&mut waited, true) {
                        self.database.lock_waited();
                    }
                    std::thread::sleep(LOCK_RETRY);
                }
                other => return other,
            }
        }
    }

    fn try_lock(&mut self) -> Result<(), StoreError> {
        match self.conn.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => {
                self.database.lock_granted();
                Ok(())
            }
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                self.database.lock_refused();
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

    /// Begins a write transaction. If file, schema or change log are not as the writer left them,
    /// it repairs them first.
    fn begin(&mut self, deadline: Instant) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            self.follow_file(deadline)?;
            self.lock_until(deadline)?;
            let now = read_state(&self.conn).map_err(|e| sql_error(&e));
            match now {
                Ok(now) if !self.replaced && !self.database.has_moved(now) => {
                    self.newest_at_begin = now.newest;
                    let audited = foreign_changes::audit(&self.conn, now.newest);
                    self.has_audited = audited.map_err(|e| {
                        self.rollback();
                        sql_error(&e)
                    })?;
                    return Ok(());
                }
                Ok(now) => self.repair_and_commit(now)?,
                Err(e) => {
                    self.rollback();
                    return Err(e);
                }
            }
        }
        self.rollback();
        Err(failed("the database is being changed again and again"))
    }

    /// Commits, or rolls back if nothing was written.
    fn end(&mut self, changes_before: u64) -> Result<TransactionEnd, StoreError> {
        if self.conn.total_changes() == changes_before && !self.has_audited {
            self.rollback();
            return Ok(TransactionEnd::Durable);
        }
        let newest = read_state(&self.conn).map_err(|e| sql_error(&e))?.newest;
        if newest > self.newest_at_begin {
            meta::set(&self.conn, meta::AUDITED, to_sql(newest)).map_err(|e| sql_error(&e))?;
        }
        self.conn.execute_batch("COMMIT").map_err(|e| sql_error(&e))?;
        if !self.database.is_in_place() {
            return Ok(TransactionEnd::Lost);
        }
        self.database.wrote(self.doing);
        self.database.saw(newest);
        if newest > self.newest_at_begin {
            self.database.notify();
        }
        Ok(TransactionEnd::Durable)
    }

    /// Drops what is cached of the database: somebody else changed it, or the transaction in
    /// which it was read was not committed.
    fn forget(&mut self) {
        self.aliases.reset();
        self.database.top_counts.forget();
        self.database.rollups.forget();
    }

    // -- the file and the schema

    /// Opens the file that is at the path now, if it is not the one that is open.
    fn follow_file(&mut self, deadline: Instant) -> Result<(), StoreError> {
        match FileId::of(&self.database.path) {
            Ok(now) if now == self.files.main => return Ok(()),
            Ok(_) => {}
            Err(e) => {
                let gone = format!("{}: {e}: nothing can be written", self.database.path.display());
                self.database.notice(&gone);
                return Err(StoreError::Failed(gone));
            }
        }
        if let Some(aside) = self.files.clear_leftovers(&self.database.path).map_err(failed)? {
            self.database.notice(&format!(
                "the last changes of the database that was replaced are in {}: beside that file, as <its name>-wal, \
                 they belong to it again",
                aside.display()
            ));
        }
        let wait = deadline.saturating_duration_since(Instant::now());
        let (conn, files, _) = Self::open(&self.database.path, wait, Upgrade::Allowed).inspect_err(|e| {
            self.database.notice(&format!("{REPLACED}, and the new one cannot be used: {e}"));
        })?;
        (self.conn, self.files, self.replaced) = (conn, files, true);
        self.forget();
        self.database.next_file(files.main);
        self.database.next_generation();
        Ok(())
    }

    /// In the write transaction: repairs schema and triggers, writes a mark into the change log
    /// with a number above all that were seen so far, and commits.
    fn repair_and_commit(&mut self, found: DatabaseState) -> Result<(), StoreError> {
        let mended = self.repair_in_transaction(found);
        self.forget();
        let (why, repaired, after) = match mended {
            Ok(done) => done,
            Err(e) => {
                self.rollback();
                self.database.notice(&format!("the database cannot be used as it is: {e}"));
                return Err(e);
            }
        };
        self.conn.execute_batch("COMMIT").map_err(|e| sql_error(&e))?;
        self.replaced = false;
        self.database.settled(after);
        match repaired.as_slice() {
            [] => self.database.notice(&format!("{why}: all tables are read again")),
            some => self.database.notice(&format!("{why}; put back: {}", some.join(", "))),
        }
        self.database.notify();
        Ok(())
    }

    fn repair_in_transaction(
        &self,
        found: DatabaseState,
    ) -> Result<(&'static str, Vec<String>, DatabaseState), StoreError> {
        let repaired = ensure_schema(&self.conn, Upgrade::Allowed)?;
        let (mark, why) = if self.replaced {
            (EPOCH, REPLACED)
        } else if found.newest < self.database.newest() {
            (EPOCH, RESTORED)
        } else {
            (RELOAD, TAMPERED)
        };
        self.database.next_generation();
        let seq = self.database.newest().max(found.newest).saturating_add(1);
        let insert = "INSERT INTO change_log (seq, tbl, key) VALUES (?1, ?2, ?3)";
        let seq = i64::try_from(seq).map_err(failed)?;
        self.conn.execute(insert, params![seq, mark, why]).map_err(|e| sql_error(&e))?;
        let after = read_state(&self.conn).map_err(|e| sql_error(&e))?;
        Ok((why, repaired, after))
    }

    /// Repairs file, schema and change log if needed, and audits what other programs changed: a
    /// reader or the watcher found something.
    fn repair(&mut self) {
        let begun = self.begin(Instant::now());
        let ended = begun.and_then(|()| self.end(self.conn.total_changes()));
        if !matches!(ended, Ok(TransactionEnd::Durable)) {
            self.rollback();
        }
        if let Err(e) = ended {
            tracing::debug!("cannot look after the database now: {e}");
        }
    }
}

/// Creates what is missing and repairs the triggers: see [`schema::ensure`]. If anything was put
/// back and the counts of addresses are empty, they are filled from the stored events.
fn ensure_schema(conn: &Connection, upgrade: Upgrade) -> Result<Vec<String>, StoreError> {
    let put_back = schema::ensure(conn, upgrade).map_err(failed)?;
    if !put_back.is_empty() {
        top_counts::fill_if_empty(conn).map_err(|e| sql_error(&e))?;
    }
    Ok(put_back)
}
