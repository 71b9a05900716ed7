//! Housekeeping: checkpoints, retention of events, expired bans, old sources, the change log. It
//! reads and checkpoints on connections of its own; the writer removes rows for it in small
//! steps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tidegate_policy::wire::event::VmId;
use tokio::sync::oneshot;

use super::append::MAX_ROWS;
use super::believed_clock::BelievedClock;
use super::connection::{connect, connect_reader, in_transaction};
use super::database::Database;
use super::error::sql_error;
use super::events::{bytes_in_use, other_bytes};
use super::faults::Work;
use super::ledger::{self, SILENT_FOR, millis};
use super::queue::HousekeepingStep;
use super::rollups::fold;
use super::top_counts::day_of;
use super::{ip_monitor, open_events};
use crate::store::{StoreError, StoreOperation, StoreTable, time_text};

/// How often the size of the write-ahead log is checked.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// From this size on, bytes, it is written back at every check.
const WAL_WORTH_WRITING_BACK: u64 = 4 << 20;
/// From this size on, bytes, it is truncated, for which writers wait: well under 64 MiB, for it
/// grows until that is done.
const WAL_TOO_LARGE: u64 = 32 << 20;
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
/// Keys of statistics that one step removes.
const KEYS_STEP: usize = 500;
/// How long events are removed before other housekeeping has its turn.
const TRIM_TIME: Duration = Duration::from_secs(2);
/// What the tables beside the events take is measured again after this time, which costs a read of
/// all of it,
const OTHERS_EVERY: Duration = Duration::from_secs(60);
/// or after so many changes of tables.
const OTHERS_CHANGES: u64 = 10_000;

/// The housekeeping thread.
pub(super) struct Housekeeper {
    database: Arc<Database>,
    clock: BelievedClock,
    /// The newest `seq` at earlier times, oldest first.
    log_marks: VecDeque<(Instant, u64)>,
    last_checkpoint: Instant,
    /// What the tables beside the events take, when that was measured, and the newest `seq` then.
    others: Option<(u64, Instant, u64)>,
}

/// Two connections to one file, and [`Database::file()`] when they were opened.
struct HousekeepingConnections {
    reader: Connection,
    checkpointer: Connection,
    file: u64,
}

impl Housekeeper {
    pub(super) fn new(database: Arc<Database>) -> Self {
        let now = Instant::now();
        let clock = BelievedClock::new(now, time_text::now_ms());
        Self { database, clock, log_marks: VecDeque::new(), last_checkpoint: now, others: None }
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
            let mut kept = self.trim_events(conns).and(checkpointed);
            if kept.is_ok() && Instant::now() >= next_chores {
                kept = self.housekeeping(conns);
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

    fn housekeeping(&mut self, conns: &mut HousekeepingConnections) -> rusqlite::Result<()> {
        let options = self.database.options.clone();
        let now = self.clock.look(Instant::now(), time_text::now_ms());
        self.drop_expired(conns, now - millis(options.expired_keep_for))?;
        if let Some(below) = self.log_floor() {
            while self.step(conns, HousekeepingStep::TrimLog(below)) == MAX_ROWS as u64 {}
        }
        self.keep_statistics(conns, now)?;
        self.look_after_silent(conns, now - millis(SILENT_FOR))?;
        let abandoned = in_transaction(&mut conns.reader, open_events::abandoned)?;
        for opens in abandoned.chunks(OPENS_STEP) {
            self.step(conns, HousekeepingStep::GiveUp(opens.to_vec()));
        }
        let (closed_by, dead_by) =
            (now - millis(options.fold_after), now - millis(options.fold_unclosed_after));
        let ended = in_transaction(&mut conns.reader, |conn| ledger::ended(conn, closed_by, dead_by))?;
        for sources in ended.chunks(SOURCES_STEP) {
            let step = || HousekeepingStep::AggregateSources(sources.to_vec(), closed_by, dead_by);
            while self.step(conns, step()) == MAX_ROWS as u64 {}
        }
        Ok(())
    }

    /// Merges and removes statistics by their age (`now`: milliseconds), and by their number.
    fn keep_statistics(&mut self, conns: &mut HousekeepingConnections, now: i64) -> rusqlite::Result<()> {
        let options = self.database.options.clone();
        let before = |keep_for| (now - millis(keep_for)).div_euclid(1_000);
        let is_more = |rows: u64| rows == fold::STEP as u64;
        for (shorter, keep_for) in [options.minutes_for, options.hours_for].into_iter().enumerate() {
            while is_more(self.step(conns, HousekeepingStep::FoldRollups(shorter, before(keep_for)))) {}
        }
        let too_old = Some(before(options.days_for));
        while is_more(self.step(conns, HousekeepingStep::TrimRollups(too_old))) {}
        let rows = in_transaction(&mut conns.reader, fold::count)?;
        for _ in 0..rows.saturating_sub(options.rollup_rows).div_ceil(fold::STEP as u64) {
            self.step(conns, HousekeepingStep::TrimRollups(None));
        }
        let unused = in_transaction(&mut conns.reader, fold::unused_keys)?;
        for ids in unused.chunks(KEYS_STEP) {
            self.step(conns, HousekeepingStep::RemoveRollupKeys(ids.to_vec()));
        }
        let day = day_of(now - millis(options.top_values_for));
        while is_more(self.step(conns, HousekeepingStep::TrimTopValues(day))) {}
        while is_more(self.step(conns, HousekeepingStep::TrimAutoBans)) {}
        Ok(())
    }

    /// Marks sources as dead that were not heard of since `before`, unless their gateway was: then
    /// they are quiet, and those that were marked before are no longer.
    fn look_after_silent(
        &mut self,
        conns: &mut HousekeepingConnections,
        before: i64,
    ) -> rusqlite::Result<()> {
        let silent = in_transaction(&mut conns.reader, |conn| ledger::silent(conn, before))?;
        let reports = &self.database.gateway_reports;
        let (quiet, dead): (Vec<_>, Vec<_>) =
            silent.into_iter().partition(|(_, gateway)| reports.is_heard_of(gateway));
        let sources =
            |list: Vec<(VmId, String)>| list.into_iter().map(|(source, _)| source).collect::<Vec<_>>();
        for sources in sources(quiet).chunks(SOURCES_STEP) {
            self.step(conns, HousekeepingStep::StillThere(sources.to_vec()));
        }
        for sources in sources(dead).chunks(SOURCES_STEP) {
            self.step(conns, HousekeepingStep::MarkDead(sources.to_vec(), before));
        }
        Ok(())
    }

    /// Removes the oldest events while they take more than `events_max_bytes`. It is checked at
    /// every tick: what is stored in between is little compared with the limit.
    fn trim_events(&mut self, conns: &mut HousekeepingConnections) -> rusqlite::Result<()> {
        let limit = self.database.options.events_max_bytes;
        let until = Instant::now() + TRIM_TIME;
        loop {
            let bytes = self.event_bytes(&mut conns.reader)?;
            if bytes <= limit || Instant::now() >= until {
                self.database.events_take(bytes);
                return Ok(());
            }
            if self.step(conns, HousekeepingStep::TrimEvents) == 0 {
                self.database.events_take(bytes);
                return Ok(());
            }
        }
    }

    /// Bytes that the events take, with their indexes. The whole database is an upper bound, and
    /// nearly always under the limit; what else is in it is measured only if it is not.
    fn event_bytes(&mut self, reader: &mut Connection) -> rusqlite::Result<u64> {
        let used = in_transaction(reader, bytes_in_use)?;
        if used <= self.database.options.events_max_bytes {
            return Ok(used);
        }
        let newest = self.database.newest();
        let is_new = |(_, at, seq): &(u64, Instant, u64)| {
            at.elapsed() < OTHERS_EVERY && newest.abs_diff(*seq) < OTHERS_CHANGES
        };
        let others = match self.others.filter(is_new) {
            Some((others, ..)) => others,
            None => {
                let others = in_transaction(reader, other_bytes)?;
                self.others = Some((others, Instant::now(), newest));
                others
            }
        };
        Ok(used.saturating_sub(others))
    }

    /// Removes bans that ended before `before` (milliseconds). These are ordinary changes: the
    /// change log has them.
    fn drop_expired(&mut self, conns: &mut HousekeepingConnections, before: i64) -> rusqlite::Result<()> {
        for table in [StoreTable::Ip, StoreTable::ScopedBans] {
            let rows = in_transaction(&mut conns.reader, |conn| ip_monitor::expired(conn, table, before))?;
            for rows in rows.chunks(EXPIRED_STEP) {
                self.step(conns, HousekeepingStep::DropExpired(table, rows.to_vec()));
            }
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

    /// Has the writer do one step, and writes the write-ahead log back if it has grown: a thousand
    /// steps would fill a disk with it. Returns how many rows it changed; 0 if it could not be done
    /// now.
    fn step(&mut self, conns: &HousekeepingConnections, step: HousekeepingStep) -> u64 {
        let (reply, answer) = oneshot::channel();
        let rows = match self.database.queue.put_housekeeping(step, reply) {
            Ok(()) => answer.blocking_recv().unwrap_or(Err(StoreError::Closed)),
            Err(e) => Err(e),
        };
        if let Err(e) = self.checkpoint(&conns.checkpointer) {
            tracing::debug!("the write-ahead log could not be written back: {e}");
        }
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
