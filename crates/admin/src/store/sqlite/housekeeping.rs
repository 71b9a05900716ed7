//! Housekeeping: checkpoints, retention of events, expired bans, old sources, the change log. It
//! reads and checkpoints on connections of its own; the writer removes rows for it in small
//! steps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::append::MAX_ROWS;
use super::connection::{connect, connect_reader, in_transaction};
use super::database::Database;
use super::error::sql_error;
use super::events::bytes_in_use;
use super::faults::Work;
use super::ledger::{self, millis};
use super::queue::HousekeepingStep;
use super::{ip_monitor, open_events};
use crate::store::{StoreError, StoreOperation, time_text};

/// How often the size of the write-ahead log is checked.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// From this size on, bytes, it is written back at every check.
const WAL_WORTH_WRITING_BACK: u64 = 4 << 20;
/// From this size on, bytes, it is truncated, for which writers wait.
const WAL_TOO_LARGE: u64 = 64 << 20;
/// How long that may take.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(50);
/// A small log is written back this often.
const SMALL_WAL_EVERY: Duration = Duration::from_secs(60);
/// One that failed is tried again this often.
const RETRY_CHECKPOINT: Duration = Duration::from_secs(1);
/// Pause between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(5);
/// Bans that one step removes.
const EXPIRED_STEP: usize = 500;
/// Open events that one step gives up.
const OPENS_STEP: usize = 500;
/// Sources that one step marks dead or adds to the totals.
const SOURCES_STEP: usize = 50;
/// A source that was not heard of for this long is dead: recorders stop retrying after this time.
const SILENT_FOR: Duration = Duration::from_secs(24 * 3600);

/// The housekeeping thread.
pub(super) struct Housekeeper {
    database: Arc<Database>,
    /// The newest `seq` at earlier times, oldest first.
    log_marks: VecDeque<(Instant, u64)>,
    last_checkpoint: Instant,
}

/// Two connections to one file, and [`Database::file()`] when they were opened.
struct HousekeepingConnections {
    reader: Connection,
    checkpointer: Connection,
    file: u64,
}

impl Housekeeper {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, log_marks: VecDeque::new(), last_checkpoint: Instant::now() }
    }

    /// Runs until the store is closed.
    pub(super) fn run(mut self) {
        let mut open: Option<HousekeepingConnections> = None;
        let mut next_chores = Instant::now() + self.database.options.housekeeping_every;
        let tick = CHECKPOINT_EVERY.min(self.database.options.housekeeping_every);
        while self.database.sleep(tick) {
            if open.as_ref().is_none_or(|o| o.file != self.database.file()) {
                open = self
                    .open()
                    .inspect_err(|e| tracing::debug!("housekeeping cannot open the database: {e}"))
                    .ok();
            }
            let Some(conns) = &mut open else { continue };
            let checkpointed = self.checkpoint(&conns.checkpointer);
            let mut kept = self.trim_events(&mut conns.reader).and(checkpointed);
            if kept.is_ok() && Instant::now() >= next_chores {
                kept = self.housekeeping(&mut conns.reader);
                next_chores = Instant::now() + self.database.options.housekeeping_every;
            }
            if let Err(e) = kept {
                tracing::debug!("housekeeping put off: {e}");
                open = None;
            }
        }
    }

    fn open(&self) -> rusqlite::Result<HousekeepingConnections> {
        let file = self.database.file();
        let checkpointer = connect(&self.database.path, CHECKPOINT_WAIT)?;
        Ok(HousekeepingConnections {
            reader: connect_reader(&self.database.path, CHECKPOINT_WAIT)?,
            checkpointer,
            file,
        })
    }

    /// Writes the write-ahead log back if it is due.
    fn checkpoint(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let (size, since_last) = (self.database.wal_bytes(), self.last_checkpoint.elapsed());
        let failed = self.database.faults.has(StoreOperation::Checkpoint);
        let every = if failed { RETRY_CHECKPOINT } else { SMALL_WAL_EVERY };
        let due = size >= WAL_WORTH_WRITING_BACK || size > 0 && since_last >= every;
        if !due {
            return Ok(());
        }
        self.last_checkpoint = Instant::now();
        let done = Self::write_back(conn, size);
        self.database.faults.note(Work::Checkpoint, &done.as_ref().map_err(sql_error));
        done
    }

    fn write_back(conn: &Connection, size: u64) -> rusqlite::Result<()> {
        let run = |mode: &str| conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        run("PASSIVE")?;
        if size < WAL_TOO_LARGE {
            return Ok(());
        }
        // Writers wait for TRUNCATE, so what was written during the first PASSIVE run is written
        // back before it. It fails while another program keeps a read transaction open: then the
        // log grows, and health says so.
        run("PASSIVE")?;
        run("TRUNCATE")
    }

    fn housekeeping(&mut self, reader: &mut Connection) -> rusqlite::Result<()> {
        let options = self.database.options.clone();
        let now = time_text::now_ms();
        self.drop_expired(reader, now - millis(options.expired_keep_for))?;
        if let Some(below) = self.log_floor() {
            while self.step(HousekeepingStep::TrimLog(below)) == MAX_ROWS as u64 {}
        }
        let silent_since = now - millis(SILENT_FOR);
        let silent = in_transaction(reader, |conn| ledger::silent(conn, silent_since))?;
        for sources in silent.chunks(SOURCES_STEP) {
            self.step(HousekeepingStep::MarkDead(sources.to_vec(), silent_since));
        }
        let abandoned = in_transaction(reader, open_events::abandoned)?;
        for opens in abandoned.chunks(OPENS_STEP) {
            self.step(HousekeepingStep::GiveUp(opens.to_vec()));
        }
        let ended_by = now - millis(options.fold_after);
        let ended = in_transaction(reader, |conn| ledger::ended(conn, ended_by))?;
        for sources in ended.chunks(SOURCES_STEP) {
            self.step(HousekeepingStep::AggregateSources(sources.to_vec(), ended_by));
        }
        Ok(())
    }

    /// Removes the oldest events while the database is larger than `events_max_bytes`. It is
    /// checked at every tick: what is stored in between is little compared with the limit.
    fn trim_events(&self, reader: &mut Connection) -> rusqlite::Result<()> {
        while in_transaction(reader, bytes_in_use)? > self.database.options.events_max_bytes {
            if self.step(HousekeepingStep::TrimEvents) == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Removes bans that ended before `before` (milliseconds). These are ordinary changes: the
    /// change log has them.
    fn drop_expired(&self, reader: &mut Connection, before: i64) -> rusqlite::Result<()> {
        let rows = in_transaction(reader, |conn| ip_monitor::expired(conn, before))?;
        for rows in rows.chunks(EXPIRED_STEP) {
            self.step(HousekeepingStep::DropExpired(rows.to_vec()));
        }
        Ok(())
    }

    /// Number below which rows of the change log may be removed: `log_keep_rows` rows, and those
    /// of the last `log_keep_for`, stay.
    fn log_floor(&mut self) -> Option<u64> {
        let (now, newest) = (Instant::now(), self.database.newest());
        let options = &self.database.options;
        self.log_marks.push_back((now, newest));
        let is_old = |mark: &(Instant, u64)| now.duration_since(mark.0) >= options.log_keep_for;
        while self.log_marks.get(1).is_some_and(is_old) {
            self.log_marks.pop_front();
        }
        let by_time = self.log_marks.front().filter(|mark| is_old(mark))?.1;
        let by_rows = newest.checked_sub(options.log_keep_rows)?;
        Some(by_time.min(by_rows)).filter(|&floor| floor > 0)
    }

    /// Has the writer do one step. Returns how many rows it changed; 0 if it could not be done
    /// now.
    fn step(&self, step: HousekeepingStep) -> u64 {
        let (reply, answer) = oneshot::channel();
        let rows = match self.database.queue.put_housekeeping(step, reply) {
            Ok(()) => answer.blocking_recv().unwrap_or(Err(StoreError::Closed)),
            Err(e) => Err(e),
        };
        match rows {
            Ok(rows) if self.database.sleep(STEP_PAUSE) => rows,
            Ok(_) => 0,
            Err(e) => {
                tracing::debug!("housekeeping put off: {e}");
                0
            }
        }
    }
}
