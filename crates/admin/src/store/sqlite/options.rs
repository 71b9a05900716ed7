//! How long the store keeps things and waits for things.

use std::time::Duration;

/// Retention and timeouts.
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
    pub housekeeping_every: Duration,
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
            housekeeping_every: Duration::from_secs(60),
            expired_keep_for: Duration::from_secs(3_600),
            log_keep_rows: 1_000_000,
            log_keep_for: Duration::from_secs(20 * 60),
            pending_for: Duration::from_secs(15 * 60),
            fold_after: Duration::from_secs(7 * 86_400),
        }
    }
}
