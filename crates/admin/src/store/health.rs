//! State of the store, as health reports it.

use std::time::Duration;

/// What the store does with the database, as health reports it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StoreOperation {
    /// Committing a transaction.
    Write,
    /// Reading.
    Read,
    /// Writing the write-ahead log back into the database.
    Checkpoint,
}

impl StoreOperation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Checkpoint];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Something that the store tried, and that has failed since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreFault {
    /// The kind of work.
    pub operation: StoreOperation,
    /// What it was about: `changes`, `events`.
    pub what: &'static str,
    /// Time since it failed first.
    pub since: Duration,
    /// The error at the last attempt.
    pub why: String,
}

/// State of the store, as health reports it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreHealth {
    /// How long another program has held the write lock, if over 1 s.
    pub locked_for: Option<Duration>,
    /// Why nothing can be written, while that is so: the database file is gone, or the file in
    /// its place cannot be used.
    pub unusable: Option<String>,
    /// What fails at this moment.
    pub faults: Vec<StoreFault>,
    /// Bytes that events take with their indexes, as retention last saw it; while the whole database
    /// is under their limit, all of it.
    pub event_bytes: u64,
    /// Bytes that they may take.
    pub event_limit: u64,
    /// Whether they have taken more for a minute.
    pub events_over_limit: bool,
    /// Room on the disk of the database; `None`: not known.
    pub disk: Option<DiskSpace>,
    /// Size of the database without its write-ahead log, bytes.
    pub db_bytes: u64,
    /// Size of the write-ahead log, bytes.
    pub wal_bytes: u64,
    /// Writes that had to wait because another program held the write lock, since the service
    /// began.
    pub lock_waits: u64,
    /// What was found and repaired: triggers recreated, file replaced, database restored.
    pub notices: Vec<String>,
}

/// Room on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskSpace {
    /// Bytes that this program may still write.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
}
