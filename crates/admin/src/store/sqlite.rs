//! The store in one SQLite file that people write, too, with `sqlite3`, while the
//! service runs. `docs/ARCHITECTURE.md`, "A table change".
//!
//! One thread writes (`writer`), reads have connections of their own (`readers`),
//! one thread looks for what others wrote (`watcher`) and one keeps house (`keeper`).

mod audit;
mod changes;
mod checks;
mod counts;
mod events;
mod file;
mod hearing;
mod ingest;
mod keeper;
mod ledger;
mod open;
mod queue;
mod ranges;
mod readers;
mod schema;
mod seen;
mod shared;
mod spellings;
mod tables;
mod tally;
#[cfg(test)]
mod tests;
mod tokens;
mod watcher;
mod writer;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode};
use tidegate_policy::check::PerCheck;
use tidegate_policy::wire::event::{OpenEvent, Source};
use tidegate_policy::wire::sync::Gateway;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};

use super::{
    AddressCount, Append, Appended, AuditRow, Change, Changes, CheckCounts, Committed, RecordingCounts,
    Store, StoreError, StoreHealth, StoreTable, StoredRows, TokenRow, time_text,
};
use file::ServiceLock;
use ingest::AppendJob;
use queue::{Ingest, OpenJob, Reply, Urgent};
use readers::Readers;
use seen::Seen;
use shared::Shared;
use writer::Writer;

/// Events that wait for the writer at most; whoever brings more waits.
const MAX_WAITING_EVENTS: usize = 100_000;
/// The same for events whose response waits.
const MAX_WAITING_OPENS: usize = 20_000;

/// How long things are kept and waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bytes of the database in use from which on the oldest events are removed.
    pub events_max_bytes: u64,
    /// How long a write waits for a lock that another program holds.
    pub busy_for: Duration,
    /// Without a backlog, transactions of events begin at most this often: each is a
    /// moment at which a `sqlite3` without a timeout is refused. An answer to
    /// events may take so long.
    pub ingest_every: Duration,
    /// How often to look for what other programs wrote.
    pub look_every: Duration,
    /// How often to remove what is no longer kept.
    pub chores_every: Duration,
    /// How long an expired ban stays in its table.
    pub expired_keep_for: Duration,
    /// Rows of the change log that stay in any case.
    pub log_keep_rows: u64,
    /// Rows of the change log that are younger stay in any case.
    pub log_keep_for: Duration,
    /// How long a missing event of a living source may still come before it is
    /// called lost.
    pub pending_for: Duration,
    /// How long the ledger of a source that has ended is kept apart.
    pub fold_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            events_max_bytes: 2_000_000_000,
            busy_for: Duration::from_secs(2),
            ingest_every: Duration::from_millis(250),
            look_every: Duration::from_millis(50),
            chores_every: Duration::from_secs(60),
            expired_keep_for: Duration::from_secs(3_600),
            log_keep_rows: 1_000_000,
            log_keep_for: Duration::from_secs(20 * 60),
            pending_for: Duration::from_secs(15 * 60),
            fold_after: Duration::from_secs(7 * 86_400),
        }
    }
}

/// See the module. Dropping it ends its threads after the transaction that they
/// are in; whoever still waits is told [`StoreError::Closed`].
pub struct SqliteStore {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    room: Semaphore,
    room_for_opens: Semaphore,
    threads: Vec<JoinHandle<()>>,
    /// Given up last.
    _lock: ServiceLock,
}

fn failed(error: impl Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

fn sql_error(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
        _ => failed(error),
    }
}

impl SqliteStore {
    /// Opens the database at `path`, creating it (readable by its owner only) if
    /// there is none, and bringing its schema up to date.
    ///
    /// # Errors
    /// When another service has it, a newer one wrote it, it cannot be created or
    /// read, or another program keeps it locked.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let at = |e: std::io::Error| failed(format_args!("{}: {e}", path.as_ref().display()));
        let path = file::create(path.as_ref()).map_err(at)?;
        let lock = ServiceLock::take(&path)?;
        let (conn, files, now) = Writer::open(&path, options.busy_for)?;
        let shared = Arc::new(Shared::new(path, options, files.main, now));
        let mut store = Self {
            shared: Arc::clone(&shared),
            readers: Arc::new(Readers::new()),
            room: Semaphore::new(MAX_WAITING_EVENTS),
            room_for_opens: Semaphore::new(MAX_WAITING_OPENS),
            threads: Vec::new(),
            _lock: lock,
        };
        let writer = Writer::new(Arc::clone(&shared), conn, files);
        store.spawn("store-writer", move || writer.run())?;
        let watched = Arc::clone(&shared);
        store.spawn("store-watcher", move || watcher::run(&watched))?;
        let keeper = keeper::Keeper::new(shared);
        store.spawn("store-keeper", move || keeper.run())?;
        Ok(store)
    }

    /// Adds a token to the database at `path`, whether or not a service has it open.
    ///
    /// # Errors
    /// When the database cannot be created, read or written.
    pub fn add_token_beside(path: impl AsRef<Path>, token: &TokenRow) -> Result<(), StoreError> {
        let path = file::create(path.as_ref()).map_err(failed)?;
        let (conn, ..) = Writer::open(&path, Duration::from_secs(5))?;
        conn.busy_timeout(Duration::from_secs(5)).map_err(|e| sql_error(&e))?;
        tokens::add_token(&conn, token).map_err(|e| sql_error(&e))
    }

    /// All tokens of the database at `path`, whether or not a service has it open.
    ///
    /// # Errors
    /// When the database cannot be opened or read.
    pub fn tokens_beside(path: impl AsRef<Path>) -> Result<Vec<TokenRow>, StoreError> {
        let path = file::create(path.as_ref()).map_err(failed)?;
        let (conn, ..) = Writer::open(&path, Duration::from_secs(5))?;
        tokens::tokens(&conn).map_err(|e| sql_error(&e))
    }

    /// Removes every token called `name` from the database at `path`, whether or
    /// not a service has it open: how many there were.
    ///
    /// # Errors
    /// When the database cannot be opened or written.
    pub fn remove_tokens_beside(path: impl AsRef<Path>, name: &str) -> Result<usize, StoreError> {
        let path = file::create(path.as_ref()).map_err(failed)?;
        let (conn, ..) = Writer::open(&path, Duration::from_secs(5))?;
        conn.busy_timeout(Duration::from_secs(5)).map_err(|e| sql_error(&e))?;
        tokens::remove_tokens(&conn, name).map_err(|e| sql_error(&e))
    }

    /// Carries out `change`, of `by`, in the database at `path`, whether or not a
    /// service has it open.
    ///
    /// # Errors
    /// When the database cannot be created, read or written; then nothing was changed.
    pub fn commit_beside(path: impl AsRef<Path>, change: &Change, by: &str) -> Result<Committed, StoreError> {
        let path = file::create(path.as_ref()).map_err(failed)?;
        let (conn, ..) = Writer::open(&path, Duration::from_secs(5))?;
        conn.busy_timeout(Duration::from_secs(5)).map_err(|e| sql_error(&e))?;
        // A connection that is closed within a transaction rolls it back.
        conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| sql_error(&e))?;
        let spellings = &mut spellings::Spellings::default();
        let committed = changes::apply(&conn, spellings, change, by).map_err(|e| sql_error(&e))?;
        conn.execute_batch("COMMIT").map_err(|e| sql_error(&e))?;
        Ok(committed)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits for room in front of the writer, as long as for its lock.
    async fn enter<'a>(&self, room: &'a Semaphore, many: u32) -> Result<SemaphorePermit<'a>, StoreError> {
        let entry = tokio::time::timeout(self.shared.options.busy_for, room.acquire_many(many));
        entry.await.map_err(|_| StoreError::Busy)?.map_err(|_| StoreError::Closed)
    }

    /// The counts of addresses as the writer has them, or else as they are stored.
    async fn look_at_seen<T: Send + 'static>(
        &self,
        look: impl Fn(&Seen) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let look = move |conn: &Connection| match shared.seen.look(&look) {
            Some(found) => Ok(found),
            None => Seen::load(conn).map(|seen| look(&seen)),
        };
        self.readers.read(&self.shared, look).await
    }

    async fn urgent<T>(&self, job: impl FnOnce(Reply<T>) -> Urgent) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.put_urgent(job(reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn ingest<T>(&self, job: impl FnOnce(Reply<T>) -> Ingest) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.put_ingest(job(reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store had ended early");
            }
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn read_tables(&self, tables: &[StoreTable]) -> Result<StoredRows, StoreError> {
        let (tables, shared) = (tables.to_vec(), Arc::clone(&self.shared));
        self.readers.read(&self.shared, move |conn| tables::read_tables(conn, &shared, &tables)).await
    }

    async fn changes_since(&self, seq: u64) -> Result<Changes, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.readers.read(&self.shared, move |conn| tables::changes(conn, &shared, seq)).await
    }

    async fn commit(&self, change: Change, by: &str) -> Result<Committed, StoreError> {
        self.urgent(|reply| Urgent::Change(change, by.to_owned(), reply)).await
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.subscribe()
    }

    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.shared.hearing.hear(&append);
        let rows: usize = append.batches.iter().map(|b| b.events.len()).sum();
        let room = u32::try_from(rows.clamp(1, MAX_WAITING_EVENTS)).unwrap_or(u32::MAX);
        let _room = self.enter(&self.room, room).await?;
        self.ingest(|reply| Ingest::Append(Box::new(AppendJob::new(append, reply)))).await
    }

    async fn open_event(&self, gateway: Gateway, open: OpenEvent) -> Result<(), StoreError> {
        self.shared.hearing.hear_source(open.source);
        let _room = self.enter(&self.room_for_opens, 1).await?;
        let (reply, answer) = oneshot::channel();
        self.shared.queue.put_open(OpenJob::new(gateway, open, reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn seen(&self, limit: usize) -> Result<Vec<AddressCount>, StoreError> {
        self.look_at_seen(move |seen| seen.top(limit)).await
    }

    async fn seen_one(&self, ip: &str) -> Result<Option<AddressCount>, StoreError> {
        let Ok(address) = ip.parse() else { return Ok(None) };
        self.look_at_seen(move |seen| seen.one(address)).await
    }

    async fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.readers.read(&self.shared, move |conn| audit::read(conn, before, limit)).await
    }

    async fn last_change(&self, what: &'static str, target: &str) -> Result<Option<AuditRow>, StoreError> {
        let target = target.to_owned();
        self.readers.read(&self.shared, move |conn| audit::newest(conn, what, &target)).await
    }

    async fn checks(&self) -> Result<PerCheck<CheckCounts>, StoreError> {
        self.readers.read(&self.shared, checks::read).await
    }

    async fn note_malformed(&self, batches: u64) -> Result<(), StoreError> {
        self.ingest(|reply| Ingest::Malformed(batches, reply)).await
    }

    async fn close_sources_of(&self, gateway: Gateway) -> Result<(), StoreError> {
        self.shared.hearing.gone(&gateway);
        self.ingest(|reply| Ingest::CloseSources(gateway, reply)).await
    }

    async fn gateways_with_open_sources(&self) -> Result<Vec<Gateway>, StoreError> {
        self.readers.read(&self.shared, ledger::gateways_with_open_sources).await
    }

    async fn recording(&self) -> Result<RecordingCounts, StoreError> {
        let lost_before = time_text::now_ms().saturating_sub(ledger::millis(self.shared.options.pending_for));
        let counts =
            self.readers.read(&self.shared, move |conn| counts::recording(conn, lost_before)).await?;
        let (alive, recorder) = self.shared.hearing.figures();
        Ok(RecordingCounts { alive, recorder, ..counts })
    }

    async fn covers(&self, source: Source, number: u64) -> Result<bool, StoreError> {
        self.readers.read(&self.shared, move |conn| ledger::covers(conn, source, number)).await
    }

    async fn add_token(&self, token: TokenRow) -> Result<(), StoreError> {
        self.urgent(|reply| Urgent::Token(token, reply)).await
    }

    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.readers.read(&self.shared, tokens::tokens).await
    }

    fn health(&self) -> StoreHealth {
        self.shared.health()
    }
}
