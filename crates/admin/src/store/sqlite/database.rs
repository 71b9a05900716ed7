//! State of one open database that its threads share: path, options, the writer's queue,
//! newest `seq` seen, schema cookie, lock and notices for health.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::faults::{Faults, Work};
use super::file::{FileId, beside};
use super::gateway_reports::GatewayReports;
use super::options::Options;
use super::queue::Queue;
use super::rollups::RollupState;
use super::schema::DatabaseState;
use super::slice_clock::SliceClock;
use super::top_counts::SharedTopCounts;
use crate::auto_bans::AutoBans;
use crate::lock::locked;
use crate::store::{DiskSpace, StoreHealth, StoreOperation, time_text};

/// How long health shows a notice.
const NOTICE_FOR: Duration = Duration::from_secs(3600);
/// Notices that are kept; the oldest are removed first.
const MAX_NOTICES: usize = 32;
/// Bytes of events that are stored between two looks at their limit, and more.
const EVENTS_BETWEEN_LOOKS: u64 = 1 << 20;
/// Health reports a lock of another program that is held for longer.
const LOCK_WORTH_TELLING: Duration = Duration::from_secs(1);

/// One open database.
pub(super) struct Database {
    /// Path of the database, without symbolic links.
    pub(super) path: PathBuf,
    /// The options that it was opened with.
    pub(super) options: Options,
    /// The automatic bans.
    pub(super) auto_bans: AutoBans,
    /// Jobs for the writer.
    pub(super) queue: Queue,
    /// Latest reports of the gateways.
    pub(super) gateway_reports: GatewayReports,
    /// Addresses that requests came from.
    pub(super) top_counts: SharedTopCounts,
    /// What is known of the rollups' keys.
    pub(super) rollups: RollupState,
    /// The present slice of the stage of a rollout that is measured.
    pub(super) slice_clock: SliceClock,
    /// Changes whenever there may be new changes.
    hint: watch::Sender<u64>,
    /// The `seq` that was last sent to `hint`.
    told: AtomicU64,
    /// The highest `seq` that any thread has seen.
    newest: AtomicU64,
    /// The schema cookie as the writer last left it.
    schema: AtomicI64,
    /// Counts restores, replacements and repairs. It is raised **before** the `seq` of the mark
    /// is chosen. So if it is the same before and after a read, the `seq` that was read is lower
    /// than the mark's.
    generation: AtomicU64,
    /// Counts the files that were opened at `path`.
    file: AtomicU64,
    /// The file that is open.
    file_id: Mutex<FileId>,
    locked_since: Mutex<Option<Instant>>,
    /// Writes that had to wait for the lock.
    lock_waits: AtomicU64,
    /// What fails at this moment.
    pub(super) faults: Faults,
    /// When a transaction was last committed.
    last_write: Mutex<Instant>,
    /// Bytes that events take, and since when they have been over their limit.
    event_bytes: Mutex<(u64, Option<Instant>)>,
    notices: Mutex<VecDeque<Notice>>,
    stopping: Mutex<bool>,
    stopped: Condvar,
}

/// What was found, and when it was last found.
struct Notice {
    since: Instant,
    at: i64,
    text: String,
}

impl Database {
    pub(super) fn new(path: PathBuf, options: Options, file: FileId, look: DatabaseState) -> Self {
        Self {
            path,
            auto_bans: AutoBans::default(),
            queue: Queue::new(options.ingest_every),
            options,
            gateway_reports: GatewayReports::default(),
            top_counts: SharedTopCounts::default(),
            rollups: RollupState::default(),
            slice_clock: SliceClock::default(),
            hint: watch::Sender::new(look.newest),
            told: AtomicU64::new(look.newest),
            newest: AtomicU64::new(look.newest),
            schema: AtomicI64::new(look.schema),
            generation: AtomicU64::new(0),
            file: AtomicU64::new(0),
            file_id: Mutex::new(file),
            locked_since: Mutex::new(None),
            lock_waits: AtomicU64::new(0),
            faults: Faults::default(),
            last_write: Mutex::new(Instant::now()),
            event_bytes: Mutex::default(),
            notices: Mutex::new(VecDeque::new()),
            stopping: Mutex::new(false),
            stopped: Condvar::new(),
        }
    }

    /// The highest `seq` seen.
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    /// Raises the highest `seq` seen to `seq`.
    pub(super) fn saw(&self, seq: u64) {
        self.newest.fetch_max(seq, Ordering::SeqCst);
    }

    /// The schema cookie as it should be.
    pub(super) fn schema(&self) -> i64 {
        self.schema.load(Ordering::SeqCst)
    }

    /// Whether `look` is not as the writer left it.
    pub(super) fn has_moved(&self, look: DatabaseState) -> bool {
        look.schema != self.schema() || look.newest < self.newest()
    }

    /// Sets the schema cookie after a repair.
    pub(super) fn settled(&self, look: DatabaseState) {
        self.schema.store(look.schema, Ordering::SeqCst);
        self.saw(look.newest);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Must be called before the mark's number is chosen: see the field `generation`.
    pub(super) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn file(&self) -> u64 {
        self.file.load(Ordering::SeqCst)
    }

    /// Whether the file that is open is still the one at `path`.
    pub(super) fn is_in_place(&self) -> bool {
        FileId::of(&self.path).is_ok_and(|id| id == *locked(&self.file_id))
    }

    /// Why nothing can be written: the file at `path` is gone, or is not the one that is open.
    fn unusable(&self) -> Option<String> {
        let path = self.path.display();
        match FileId::of(&self.path) {
            Err(e) => Some(format!("{path}: {e}")),
            Ok(id) if id != *locked(&self.file_id) => {
                Some(format!("{path} is another file than before, and cannot be used (yet)"))
            }
            Ok(_) => None,
        }
    }

    /// Another file was opened as the database.
    pub(super) fn next_file(&self, id: FileId) {
        *locked(&self.file_id) = id;
        self.file.fetch_add(1, Ordering::SeqCst);
    }

    /// Notifies watchers that there may be new changes.
    pub(super) fn notify(&self) {
        let newest = self.newest();
        self.told.store(newest, Ordering::SeqCst);
        self.hint.send_replace(newest);
    }

    /// The `seq` that was last sent to `hint`.
    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.hint.subscribe()
    }

    /// Another program holds the write lock at this moment.
    pub(super) fn lock_refused(&self) {
        locked(&self.locked_since).get_or_insert_with(Instant::now);
    }

    /// The write lock was free at this moment.
    pub(super) fn lock_granted(&self) {
        *locked(&self.locked_since) = None;
    }

    /// A write has to wait for the lock.
    pub(super) fn lock_waited(&self) {
        self.lock_waits.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether another program held the write lock at the last attempt.
    pub(super) fn is_locked(&self) -> bool {
        locked(&self.locked_since).is_some()
    }

    /// A transaction of this name was committed.
    pub(super) fn wrote(&self, name: &'static str) {
        *locked(&self.last_write) = Instant::now();
        self.faults.worked(Work::Write(name));
    }

    /// Notes how many bytes events take after retention had its turn.
    pub(super) fn events_take(&self, bytes: u64) {
        let limit = self.options.events_max_bytes;
        // What comes between two looks is no fault.
        let is_over = bytes > limit.saturating_add(limit / 10).saturating_add(EVENTS_BETWEEN_LOOKS);
        let mut known = locked(&self.event_bytes);
        let since = known.1.filter(|_| is_over).or_else(|| is_over.then(Instant::now));
        *known = (bytes, since);
    }

    /// Whether it is time to try whether the database can be written: nothing was written for
    /// [`Options::try_write_after`], or the last write failed.
    pub(super) fn is_write_to_be_tried(&self) -> bool {
        self.faults.has(StoreOperation::Write)
            || locked(&self.last_write).elapsed() >= self.options.try_write_after
    }

    /// Keeps a notice of what was found and repaired, for health, and logs it.
    pub(super) fn notice(&self, text: &str) {
        let mut notices = locked(&self.notices);
        // A notice that repeats is logged once.
        let known = notices.len();
        notices.retain(|notice| notice.text != text);
        if notices.len() == known {
            tracing::warn!(path = %self.path.display(), "{text}");
        }
        while notices.len() >= MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back(Notice { since: Instant::now(), at: time_text::now_ms(), text: text.to_owned() });
    }

    /// Bytes of the write-ahead log.
    pub(super) fn wal_bytes(&self) -> u64 {
        std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |m| m.len())
    }

    pub(super) fn health(&self) -> StoreHealth {
        let mut notices = locked(&self.notices);
        notices.retain(|notice| notice.since.elapsed() < NOTICE_FOR);
        let (event_bytes, over_since) = *locked(&self.event_bytes);
        let told = |n: &Notice| format!("{} {}", time_text::from_ms(n.at), n.text);
        StoreHealth {
            locked_for: locked(&self.locked_since).map(|at| at.elapsed()).filter(|&d| d > LOCK_WORTH_TELLING),
            unusable: self.unusable(),
            faults: self.faults.list(),
            event_bytes,
            event_limit: self.options.events_max_bytes,
            events_over_limit: over_since.is_some_and(|at| at.elapsed() >= self.options.over_limit_for),
            disk: disk_space(&self.path),
            db_bytes: std::fs::metadata(&self.path).map_or(0, |m| m.len()),
            wal_bytes: self.wal_bytes(),
            lock_waits: self.lock_waits.load(Ordering::Relaxed),
            notices: notices.iter().map(told).collect(),
        }
    }

    /// Makes all threads end.
    pub(super) fn stop(&self) {
        *locked(&self.stopping) = true;
        self.stopped.notify_all();
        self.queue.stop();
    }

    /// Sleeps for `span`, or until the store is closed. Returns whether to go on.
    pub(super) fn sleep(&self, span: Duration) -> bool {
        let stopping = locked(&self.stopping);
        let (stopping, _) = self
            .stopped
            .wait_timeout_while(stopping, span, |stopping| !*stopping)
            .unwrap_or_else(PoisonError::into_inner);
        !*stopping
    }
}

/// Room on the disk that has `path`.
fn disk_space(path: &Path) -> Option<DiskSpace> {
    let found = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(DiskSpace { free: bytes(found.f_bavail), size: bytes(found.f_blocks) })
}
