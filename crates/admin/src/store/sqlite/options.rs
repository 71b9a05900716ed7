//! Retention and timeouts of the store.

use std::time::Duration;

use super::rollups::Ages;

/// Retention and timeouts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bytes that events may take in the database, with their indexes; the oldest are removed beyond
    /// that. What else is in it does not count.
    pub events_max_bytes: u64,
    /// Events that take more than that for so long are a fault: retention cannot keep the limit.
    pub over_limit_for: Duration,
    /// How long a write waits for a lock that another program holds.
    pub busy_for: Duration,
    /// Without a backlog, transactions of events begin at most this often: during each, a
    /// `sqlite3` without a timeout is refused. The answer to a post may take this long.
    pub ingest_every: Duration,
    /// The same while there are rules of automatic bans: who is to be banned waits for that.
    pub ingest_with_rules_every: Duration,
    /// After this long without a write one is tried, so that health knows whether it works.
    pub try_write_after: Duration,
    /// How often to look for changes by other programs.
    pub look_every: Duration,
    /// How often to remove what is no longer kept.
    pub housekeeping_every: Duration,
    /// Whether requests are counted by path, time and frequent values. Only a benchmark does without.
    pub statistics: bool,
    /// How long statistics are kept by the minute; then by the hour,
    pub minutes_for: Duration,
    /// for so long; then by the day,
    pub hours_for: Duration,
    /// for so long.
    pub days_for: Duration,
    /// Rows of statistics that are kept; the oldest are removed beyond that.
    pub rollup_rows: u64,
    /// How long the most frequent values of a day are kept.
    pub top_values_for: Duration,
    /// How long an expired ban is kept in `ip_monitor`.
    pub expired_keep_for: Duration,
    /// This many of the newest rows of the change log are always kept.
    pub log_keep_rows: u64,
    /// Rows of the change log younger than this are always kept.
    pub log_keep_for: Duration,
    /// How long a missing event of a living source is pending before it counts as lost.
    pub pending_for: Duration,
    /// How long a source that has closed keeps its own rows before it is added to the totals.
    pub fold_after: Duration,
    /// The same for one that is dead without having closed: it may come back, and is told by its
    /// rows.
    pub fold_unclosed_after: Duration,
}

impl Options {
    /// When statistics go into longer spans.
    pub(super) fn rollup_ages(&self) -> Ages {
        Ages::new(self.minutes_for, self.hours_for)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            events_max_bytes: 2_000_000_000,
            over_limit_for: Duration::from_secs(60),
            busy_for: Duration::from_secs(2),
            ingest_every: Duration::from_millis(250),
            ingest_with_rules_every: Duration::from_millis(25),
            try_write_after: Duration::from_secs(10),
            look_every: Duration::from_millis(50),
            housekeeping_every: Duration::from_secs(60),
            statistics: true,
            minutes_for: Duration::from_secs(2 * 3_600),
            hours_for: Duration::from_secs(3 * 86_400),
            days_for: Duration::from_secs(400 * 86_400),
            rollup_rows: 500_000,
            top_values_for: Duration::from_secs(30 * 86_400),
            expired_keep_for: Duration::from_secs(3_600),
            log_keep_rows: 1_000_000,
            log_keep_for: Duration::from_secs(20 * 60),
            pending_for: Duration::from_secs(15 * 60),
            fold_after: Duration::from_secs(7 * 86_400),
            fold_unclosed_after: Duration::from_secs(90 * 86_400),
        }
    }
}
