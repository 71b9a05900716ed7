//! The store in one SQLite file, which other programs (`sqlite3`) may write while the service
//! runs. `docs/ARCHITECTURE.md`, "A table change".
//!
//! One thread writes (`writer`), reads use a pool of connections (`readers`), one thread looks
//! for what other programs wrote (`watcher`) and one removes what is no longer kept
//! (`housekeeping`).

mod aliases;
mod append;
mod audit;
mod auto_bans;
mod backup;
mod ban_import;
mod ban_sources;
mod believed_clock;
mod beside;
mod change_log;
mod check_counts;
mod connection;
mod countries;
mod counts;
mod database;
mod documents;
mod error;
mod event_search;
mod events;
mod faults;
mod file;
mod flags;
mod foreign_changes;
mod former_rows;
mod gateway_reports;
mod housekeeping;
mod idempotency;
mod integers;
mod ip_monitor;
mod ledger;
mod meta;
mod open_events;
mod options;
mod queue;
mod ranges;
mod readers;
mod recording_stats;
mod rollout_figures;
mod rollouts;
mod rollups;
mod rows;
mod schema;
mod scoped_bans;
mod scoped_import;
mod slice_clock;
mod space_saving;
#[cfg(test)]
mod tests;
mod tokens;
mod top_counts;
mod watcher;
mod writer;
mod writes;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::Connection;
use tidegate_author::AutoBan;
use tidegate_policy::check::PerCheck;
use tidegate_policy::wire::event::{OpenEvent, VmId};
use tidegate_policy::wire::sync::Gateway;
use tidegate_rollout::figures::StageFigures;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::{
    AddressCount, AddressRows, Append, Appended, AuditAnchor, AuditCheck, AuditFilter, AuditRow, Author,
    BanImport, Change, Changes, CheckCounts, CommitOptions, Committed, EventFilter, EventPage, EventPosition,
    EventTail, FormerRows, ImportCounts, KeptRequest, PathsAnswer, RecordingCounts, Restored, RestoredTable,
    RolloutRows, SourceState, StatsFilter, Store, StoreError, StoreHealth, StoreTable, StoredRows,
    TableStore, TimelinePoint, TokenRow, TopOf, TopValue, WaitingNotice, time_text,
};
use crate::auto_bans::AutoBans;
use append::AppendJob;
use ban_import::ImportPlan;
use connection::connect_reader;
use database::Database;
use error::{failed, sql_error};
use file::ServiceLock;
use former_rows::FormerChange;
use queue::{HousekeepingStep, IngestJob, OpenJob, Reply, RestoreJob, UrgentJob};
use readers::{READ_WAIT, Readers};
use schema::Upgrade;

pub use options::Options;
use top_counts::TopCounts;
use writer::Writer;

/// Events, and work like theirs, that may wait for the writer; a post with more waits until there is
/// room.
const MAX_WAITING_WORK: usize = 100_000;
/// The same for open events.
const MAX_WAITING_OPENS: usize = 20_000;
/// Reads for people that may take a second, at the same time, at most: the other connections are for the feed,
/// tokens and health.
const MAX_LONG_READS: usize = 2;
/// Former rows that one transaction writes.
const FORMER_STEP: usize = 500;
/// Pause before former rows are written again, while another program has the write lock.
const FORMER_RETRY: Duration = Duration::from_millis(10);

/// The store. Dropping it ends its threads after their current transaction; waiting jobs fail
/// with [`StoreError::Closed`].
pub struct SqliteStore {
    database: Arc<Database>,
    readers: Arc<Readers>,
    room: Semaphore,
    room_for_opens: Semaphore,
    long_reads: Arc<Semaphore>,
    /// Held while the file of a backup is written, whose name is always the same.
    backups: Arc<tokio::sync::Mutex<()>>,
    /// Held from the planning of an import to its commit: each finds what the one before has written.
    imports: tokio::sync::Mutex<()>,
    threads: Vec<JoinHandle<()>>,
    /// The last field, so released last.
    _lock: ServiceLock,
}

impl SqliteStore {
    /// Opens the database at `path`, creating it (readable by its owner only) if
    /// there is none.
    ///
    /// # Errors
    /// When another service has it, it has another schema version, it cannot be created or
    /// read, or another program keeps it locked.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let at = |e: std::io::Error| failed(format_args!("{}: {e}", path.as_ref().display()));
        let path = file::create(path.as_ref()).map_err(at)?;
        let lock = ServiceLock::take(&path)?;
        let (conn, files, now) = Writer::open(&path, options.busy_for, Upgrade::Allowed)?;
        let database = Arc::new(Database::new(path, options, files.main, now));
        let mut store = Self {
            database: Arc::clone(&database),
            readers: Arc::new(Readers::new()),
            room: Semaphore::new(MAX_WAITING_WORK),
            room_for_opens: Semaphore::new(MAX_WAITING_OPENS),
            long_reads: Arc::new(Semaphore::new(MAX_LONG_READS)),
            backups: Arc::default(),
            imports: tokio::sync::Mutex::default(),
            threads: Vec::new(),
            _lock: lock,
        };
        // What was changed while no service ran is audited first.
        database.queue.put_repair();
        let writer = Writer::new(Arc::clone(&database), conn, files);
        store.spawn("store-writer", move || writer.run())?;
        let watched = Arc::clone(&database);
        store.spawn("store-watcher", move || watcher::run(&watched))?;
        let housekeeper = housekeeping::Housekeeper::new(database);
        store.spawn("store-housekeeper", move || housekeeper.run())?;
        Ok(store)
    }

    /// All tokens of the database at `path`, whether or not a service has it open.
    ///
    /// # Errors
    /// When the database cannot be opened or read.
    pub fn tokens_beside(path: impl AsRef<Path>) -> Result<Vec<TokenRow>, StoreError> {
        tokens::tokens(&beside::open(path.as_ref())?).map_err(|e| sql_error(&e))
    }

    /// Applies `change`, by the author `by`, to the database at `path`, whether or not a service
    /// has it open.
    ///
    /// # Errors
    /// When the database cannot be created, read or written; then nothing was changed.
    pub fn commit_beside(
        path: impl AsRef<Path>,
        change: &Change,
        by: &Author,
    ) -> Result<Committed, StoreError> {
        let conn = beside::open(path.as_ref())?;
        beside::commit(&conn, change, by).map_err(|e| sql_error(&e))
    }

    /// Checks the audit's chain in the database at `path`, whether or not a service has it open.
    ///
    /// # Errors
    /// When the database cannot be opened or read.
    pub fn check_audit_beside(
        path: impl AsRef<Path>,
        anchor: Option<&AuditAnchor>,
    ) -> Result<AuditCheck, StoreError> {
        audit::check(&beside::open(path.as_ref())?, anchor).map_err(|e| sql_error(&e))
    }

    /// Puts what people wrote (bans, allow list, documents, flags, countries) back from the backup at
    /// `from` into the database at `path`, by the author `by`, whether or not a service has it open:
    /// a running one follows. Where there is no database yet, the whole backup becomes it. Returns what
    /// was changed; `None`: there was no database. `dry_run`: nothing is changed.
    ///
    /// # Errors
    /// When `from` is no whole backup of this schema version or one that can be upgraded, or the database cannot be written; then
    /// nothing was changed.
    pub fn restore_beside(
        path: impl AsRef<Path>,
        from: &Path,
        by: &Author,
        dry_run: bool,
    ) -> Result<Option<Vec<RestoredTable>>, StoreError> {
        let path = path.as_ref();
        if !path.exists() {
            return match dry_run {
                true => backup::check(from).map(|_| None),
                false => backup::place(from, path).map(|()| None),
            };
        }
        let path = file::create(path).map_err(failed)?;
        let copy = backup::BackupCopy::of(from, &path)?;
        let conn = beside::open(&path)?;
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let restored = if dry_run { copy.compare(&conn) } else { copy.put_back(&conn, &name, by) };
        restored.map(|restored| Some(restored.tables))
    }

    /// Writes into the database at `path` what a week of `requests` requests of `keys` paths leaves in statistics,
    /// for the benchmark of their answers. Returns the number of rows.
    ///
    /// # Errors
    /// When the database cannot be created, read or written.
    #[cfg(feature = "made-statistics")]
    pub fn make_week_beside(path: impl AsRef<Path>, keys: u64, requests: u64) -> Result<u64, StoreError> {
        let mut conn = beside::open(path.as_ref())?;
        let Options { minutes_for, hours_for, .. } = Options::default();
        let ages = (ledger::millis(minutes_for) / 1_000, ledger::millis(hours_for) / 1_000);
        let now = time_text::now_ms() / 1_000;
        rollups::made::week(&mut conn, now, ages, (keys, requests)).map_err(|e| sql_error(&e))
    }

    /// Whether the file at `path` is a whole backup that this program can restore.
    ///
    /// # Errors
    /// When it is not, with the reason.
    pub fn check_backup(path: &Path) -> Result<(), StoreError> {
        backup::check(path).map(drop)
    }

    /// Runs `read`, which may take a second, in its turn.
    async fn read_long<T: Send + 'static>(
        &self,
        name: &'static str,
        read: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.long_reads).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        // The turn is over when the read is, whoever still waits for it.
        let read = move |conn: &Connection| {
            let _turn = &turn;
            read(conn)
        };
        self.readers.read(&self.database, name, read).await
    }

    /// What an import is to change, by the state now.
    async fn plan(&self, import: &Arc<BanImport>) -> Result<ImportPlan, StoreError> {
        let import = Arc::clone(import);
        self.readers.read(&self.database, "bans to import", move |conn| ImportPlan::make(conn, &import)).await
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits for room in the writer's queue, at most [`Options::busy_for`].
    async fn enter<'a>(&self, room: &'a Semaphore, many: u32) -> Result<SemaphorePermit<'a>, StoreError> {
        let entry = tokio::time::timeout(self.database.options.busy_for, room.acquire_many(many));
        entry.await.map_err(|_| StoreError::Busy)?.map_err(|_| StoreError::Closed)
    }

    /// Runs `look` on the writer's counts of frequent values or, if it has not loaded them, on the
    /// stored ones.
    async fn look_at_top_counts<T: Send + 'static>(
        &self,
        look: impl Fn(&TopCounts) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        let look = move |conn: &Connection| match database.top_counts.look(&look) {
            Some(found) => Ok(found),
            None => TopCounts::load(conn).map(|top| look(&top)),
        };
        self.readers.read(&self.database, "addresses", look).await
    }

    /// Keeps these former rows. Waits for the write lock, at most [`Options::busy_for`]: whoever has just
    /// made a row unreadable may still be writing, and a service that ends has forgotten what is not kept.
    async fn keep_some(&self, changes: &[FormerChange]) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.database.options.busy_for;
        loop {
            let (reply, answer) = oneshot::channel();
            let step = HousekeepingStep::KeepFormer(changes.to_vec());
            self.database.queue.put_housekeeping(step, reply)?;
            match answer.await.unwrap_or(Err(StoreError::Closed)) {
                Err(StoreError::Busy) if Instant::now() < deadline => tokio::time::sleep(FORMER_RETRY).await,
                done => return done.map(|_| ()),
            }
        }
    }

    async fn ingest<T>(&self, job: impl FnOnce(Reply<T>) -> IngestJob) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.database.queue.put_ingest(job(reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.database.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store had ended early");
            }
        }
    }
}

#[async_trait]
impl TableStore for SqliteStore {
    async fn read_tables(&self, tables: &[StoreTable]) -> Result<StoredRows, StoreError> {
        let (tables, database) = (tables.to_vec(), Arc::clone(&self.database));
        self.readers
            .read(&self.database, "tables", move |conn| change_log::read_tables(conn, &database, &tables))
            .await
    }

    async fn changes_since(&self, seq: u64) -> Result<Changes, StoreError> {
        let database = Arc::clone(&self.database);
        self.readers
            .read(&self.database, "changes of tables", move |conn| change_log::changes(conn, &database, seq))
            .await
    }

    async fn ip_rows(&self, keys: Vec<String>) -> Result<AddressRows, StoreError> {
        self.readers
            .read(&self.database, "rows of addresses", move |conn| ip_monitor::rows(conn, &keys))
            .await
    }

    async fn keep_former(&self, rows: FormerRows) -> Result<(), StoreError> {
        let kept = self.readers.read(&self.database, "former rows", former_rows::read).await?;
        for changes in former_rows::changes(&kept, &rows).chunks(FORMER_STEP) {
            self.keep_some(changes).await?;
        }
        Ok(())
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.database.subscribe()
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit_with(
        &self,
        change: Change,
        by: &Author,
        options: CommitOptions,
    ) -> Result<Committed, StoreError> {
        let (mut one_at_a_time, mut plan) = (None, None);
        if let Change::ImportBans(import) = &change {
            one_at_a_time = Some(self.imports.lock().await);
            plan = Some(self.plan(import).await?);
        }
        let by = by.clone();
        let (taken_back, is_dry_run) = (change.unbanned(), options.dry_run);
        let (reply, answer) = oneshot::channel();
        self.database.queue.put_urgent(UrgentJob { change, plan, by, options, reply })?;
        let committed = answer.await.unwrap_or(Err(StoreError::Closed));
        drop(one_at_a_time);
        if committed.is_ok() && !is_dry_run {
            taken_back.iter().for_each(|prefix| self.database.auto_bans.forget(prefix));
        }
        committed
    }

    async fn preview_import(&self, import: &Arc<BanImport>) -> Result<ImportCounts, StoreError> {
        Ok(self.plan(import).await?.counts(import))
    }

    async fn source_states(&self) -> Result<Vec<SourceState>, StoreError> {
        self.readers.read(&self.database, "sources of bans", ban_sources::states).await
    }

    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.database.gateway_reports.note_post(&append);
        let job = AppendJob::new(append);
        let room = u32::try_from(job.work_left().min(MAX_WAITING_WORK)).unwrap_or(u32::MAX);
        let _room = self.enter(&self.room, room).await?;
        self.ingest(|reply| IngestJob::Append(Box::new(job), reply)).await
    }

    async fn open_event(&self, gateway: Gateway, open: OpenEvent) -> Result<bool, StoreError> {
        self.database.gateway_reports.note_source(open.source);
        let _room = self.enter(&self.room_for_opens, 1).await?;
        let (reply, answer) = oneshot::channel();
        self.database.queue.put_open(OpenJob::new(gateway, open, reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn top_addresses(&self, limit: usize) -> Result<Vec<AddressCount>, StoreError> {
        self.look_at_top_counts(move |top| top.top_addresses(limit)).await
    }

    async fn address_count(&self, ip: &str) -> Result<Option<AddressCount>, StoreError> {
        let Ok(address) = ip.parse() else { return Ok(None) };
        self.look_at_top_counts(move |top| top.address(address)).await
    }

    async fn events(
        &self,
        filter: &EventFilter,
        from: Option<EventPosition>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let filter = filter.clone();
        self.read_long("events", move |conn| event_search::page(conn, &filter, from.as_ref(), limit)).await
    }

    async fn events_after(
        &self,
        filter: &EventFilter,
        after: Option<u64>,
        limit: usize,
    ) -> Result<EventTail, StoreError> {
        let filter = filter.clone();
        let search = move |conn: &Connection| event_search::after(conn, &filter, after, limit);
        self.readers.read(&self.database, "events", search).await
    }

    async fn path_stats(&self, filter: StatsFilter) -> Result<PathsAnswer, StoreError> {
        self.read_long("statistics", move |conn| rollups::read::paths(conn, &filter)).await
    }

    async fn timeline(&self, filter: StatsFilter, step: i64) -> Result<Vec<TimelinePoint>, StoreError> {
        self.read_long("statistics", move |conn| rollups::read::timeline(conn, &filter, step)).await
    }

    async fn top_values(
        &self,
        of: TopOf,
        (since, until): (i64, i64),
        limit: usize,
    ) -> Result<Vec<TopValue>, StoreError> {
        let days = top_counts::day_of(since.saturating_mul(1_000))
            ..=top_counts::day_of(until.saturating_mul(1_000).saturating_sub(1));
        let today = self.look_at_top_counts(move |top| top.today(of)).await?;
        let read = move |conn: &Connection| top_counts::values(conn, of, days.clone(), limit, &today);
        self.read_long("statistics", read).await
    }

    async fn audit(&self, filter: AuditFilter, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.read_long("audit", move |conn| audit::read(conn, &filter, limit)).await
    }

    async fn check_audit(&self, anchor: Option<AuditAnchor>) -> Result<AuditCheck, StoreError> {
        self.read_long("audit", move |conn| audit::check(conn, anchor.as_ref())).await
    }

    async fn last_change(&self, kind: &'static str, name: &str) -> Result<Option<AuditRow>, StoreError> {
        let name = name.to_owned();
        self.readers.read(&self.database, "audit", move |conn| audit::newest(conn, &[kind], &name)).await
    }

    async fn checks(&self) -> Result<PerCheck<CheckCounts>, StoreError> {
        self.readers.read(&self.database, "counts of checks", check_counts::read).await
    }

    async fn note_malformed(&self, batches: u64) -> Result<(), StoreError> {
        self.ingest(|reply| IngestJob::Malformed(batches, reply)).await
    }

    async fn close_sources_of(&self, gateway: Gateway) -> Result<(), StoreError> {
        self.database.gateway_reports.forget_gateway(&gateway);
        self.ingest(|reply| IngestJob::CloseSources(gateway, reply)).await
    }

    fn note_gateways(&self, gateways: &[Gateway]) {
        self.database.gateway_reports.note_gateways(gateways);
    }

    async fn gateways_with_open_sources(&self) -> Result<Vec<Gateway>, StoreError> {
        self.readers.read(&self.database, "sources", ledger::gateways_with_open_sources).await
    }

    async fn recording(&self) -> Result<RecordingCounts, StoreError> {
        let lost_before =
            time_text::now_ms().saturating_sub(ledger::millis(self.database.options.pending_for));
        let counts = self
            .readers
            .read(&self.database, "counts of events", move |conn| {
                recording_stats::recording(conn, lost_before)
            })
            .await?;
        let (alive, recorder) = self.database.gateway_reports.totals();
        let last_refused = self.database.gateway_reports.refused();
        Ok(RecordingCounts { alive, recorder, last_refused, ..counts })
    }

    async fn rollouts(&self) -> Result<RolloutRows, StoreError> {
        self.readers.read(&self.database, "rollouts", rollouts::rows).await
    }

    async fn stage_figures(&self, name: &str, run: u64, number: u32) -> Result<StageFigures, StoreError> {
        let name = name.to_owned();
        let database = Arc::clone(&self.database);
        let read = move |conn: &Connection| {
            rollout_figures::figures(conn, &database.slice_clock, &name, (run, number))
        };
        self.readers.read(&self.database, "rollouts", read).await
    }

    async fn active_rollout(&self) -> Result<RolloutRows, StoreError> {
        self.readers.read(&self.database, "rollouts", rollouts::active_row).await
    }

    async fn next_notices(&self) -> Result<Vec<WaitingNotice>, StoreError> {
        self.readers.read(&self.database, "rollouts", rollouts::next_notices).await
    }

    async fn covers(&self, source: VmId, number: u64) -> Result<bool, StoreError> {
        self.readers.read(&self.database, "ledger", move |conn| ledger::covers(conn, source, number)).await
    }

    async fn note_tokens_used(&self, uses: Vec<(String, i64)>) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.database.queue.put_housekeeping(HousekeepingStep::TokensUsed(uses), reply)?;
        answer.await.unwrap_or(Err(StoreError::Closed)).map(|_| ())
    }

    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.readers.read(&self.database, "tokens", tokens::tokens).await
    }

    async fn backup(&self, by: &Author) -> Result<std::fs::File, StoreError> {
        self.commit(Change::NoteBackup, by).await?;
        // The copy is made to its end though nobody may wait for it any more.
        let one_at_a_time = Arc::clone(&self.backups).lock_owned().await;
        let path = self.database.path.clone();
        let copied = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = one_at_a_time;
            backup::copy(&path)
        })
        .await;
        copied.map_err(|e| failed(format_args!("a backup ended early: {e}")))?
    }

    async fn kept_request(&self, key: &str) -> Result<Option<KeptRequest>, StoreError> {
        let (key, now) = (key.to_owned(), time_text::now_ms());
        let find = move |conn: &Connection| idempotency::find(conn, &key, now);
        self.readers.read(&self.database, "idempotency keys", find).await
    }

    async fn restore(
        &self,
        pieces: mpsc::Receiver<Option<Bytes>>,
        by: &Author,
        dry_run: bool,
    ) -> Result<Restored, StoreError> {
        let one_at_a_time = Arc::clone(&self.backups).lock_owned().await;
        let path = self.database.path.clone();
        let receive = move || {
            let copy = backup::BackupCopy::received(pieces, &path)?;
            // A dry run leaves the writer to others.
            let compared = dry_run
                .then(|| connect_reader(&path, READ_WAIT).map_err(|e| sql_error(&e)))
                .transpose()?
                .map(|conn| copy.compare(&conn))
                .transpose()?;
            Ok((one_at_a_time, copy, compared))
        };
        let received = tokio::task::spawn_blocking(receive).await;
        let received = received.map_err(|e| failed(format_args!("a restore ended early: {e}")))?;
        let (one_at_a_time, copy, compared) = received?;
        if let Some(compared) = compared {
            return Ok(compared);
        }
        let (reply, answer) = oneshot::channel();
        let job = RestoreJob { copy, by: by.clone(), reply, one_at_a_time };
        self.database.queue.put_restore(job)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    fn auto_bans(&self) -> &AutoBans {
        &self.database.auto_bans
    }

    fn set_auto_bans(&self, rules: Vec<Arc<AutoBan>>) {
        let options = &self.database.options;
        let every = if rules.is_empty() { options.ingest_every } else { options.ingest_with_rules_every };
        self.database.auto_bans.set_rules(rules);
        self.database.queue.set_ingest_every(every);
    }

    fn health(&self) -> StoreHealth {
        self.database.health()
    }
}
