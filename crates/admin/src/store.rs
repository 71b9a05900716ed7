//! The seam to the database. Only the rooms under `store/` speak SQL: no
//! transaction, row or connection type leaves them.
//!
//! Contract of every implementation: the order of `seq` is the order of commits,
//! whoever committed; what [`Store::snapshot`] and [`Store::changes_since`] say
//! was true at one moment, which the `seq` beside it names.

pub mod sqlite;
pub mod time_text;

use std::time::Duration;

use async_trait::async_trait;
use tidegate_policy::wire::event::{Source, SourceReport};
use tidegate_policy::wire::sync::Gateway;
use tokio::sync::watch;

/// A row of `ip_monitor` as it stands in the database, unchecked: people write
/// such rows by hand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpRow {
    /// The raw key: `9.9.9.9`, `9.9.9.9/32` and `::ffff:9.9.9.9` are three rows
    /// and one address.
    pub ip: String,
    /// `banned`, `allowed`, `watched`, or what somebody wrote.
    pub status: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// UTC, as text.
    pub created_at: Option<String>,
    /// UTC, as text.
    pub updated_at: Option<String>,
    /// UTC, as text; `None`: never.
    pub expires_at: Option<String>,
}

/// A row of `routes`, unchecked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteRow {
    /// The HTTPRoute's `metadata.name`.
    pub name: String,
    /// The HTTPRoute as JSON.
    pub document: String,
    /// UTC, as text; decides ties between routes.
    pub created_at: Option<String>,
    /// UTC, as text.
    pub updated_at: Option<String>,
}

/// A table that gateways get.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Table {
    /// `ip_monitor`.
    Ip,
    /// `routes`.
    Routes,
}

/// The raw key of a row that changed; the row is read again, never trusted from
/// the log.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ChangedKey {
    /// Where.
    pub table: Table,
    /// Which row, by its raw key.
    pub key: String,
}

/// All rows of the tables asked for, at one `seq`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The moment.
    pub seq: u64,
    /// Rows of `ip_monitor`, if asked for.
    pub ips: Vec<IpRow>,
    /// Rows of `routes`, if asked for.
    pub routes: Vec<RouteRow>,
}

/// What happened since a `seq`.
#[derive(Clone, Debug)]
pub enum Changes {
    /// The rows of these keys as they now stand; `None`: deleted.
    Rows {
        /// The moment.
        seq: u64,
        /// Changed rows of `ip_monitor`, each key once.
        ips: Vec<(String, Option<IpRow>)>,
        /// Changed rows of `routes`, each key once.
        routes: Vec<(String, Option<RouteRow>)>,
    },
    /// The log does not reach back that far, went back (`.restore`), or the
    /// triggers had been tampered with: take a snapshot. `new_epoch` when what
    /// was numbered before no longer counts.
    Reload {
        /// Whether an epoch must be minted.
        new_epoch: bool,
        /// What was found, for the log and for health.
        why: &'static str,
    },
}

/// A write of our own API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Ban a prefix, given in canonical form; every other row that means the
    /// same prefix is replaced by this one.
    Ban {
        /// Canonical text of the prefix.
        ip: String,
        /// Why.
        reason: Option<String>,
        /// `YYYY-MM-DD HH:MM:SS.mmm`, UTC; `None`: for good.
        expires_at: Option<String>,
    },
    /// Remove every row that means one of these prefixes, however it is spelled,
    /// and says `banned`.
    Unban {
        /// Keys of such rows, canonical or raw.
        keys: Vec<String>,
    },
    /// Insert or replace a route; `created_at` of an existing row stays.
    PutRoute {
        /// Its name.
        name: String,
        /// The HTTPRoute as JSON.
        document: String,
    },
    /// Remove a route.
    DeleteRoute {
        /// Its name.
        name: String,
    },
}

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The sequence number that includes it.
    pub seq: u64,
    /// Rows written or removed; 0: there was nothing to do.
    pub rows: u64,
}

/// A stored token: its secret is known as a hash only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRow {
    /// SHA-256 of the token, hexadecimal.
    pub hash: String,
    /// What the operator called it.
    pub name: String,
    /// `admin` or `gateway`.
    pub scope: String,
}

/// Decoded batches of one post, with what the recorder says of its sources.
#[derive(Clone, Debug)]
pub struct Append {
    /// Who posted.
    pub gateway: Gateway,
    /// What it says of its VMs.
    pub sources: Vec<SourceReport>,
    /// Ranges that the recorder gave up.
    pub dropped: Vec<tidegate_policy::wire::event::DroppedRange>,
    /// The batches.
    pub batches: Vec<tidegate_policy::wire::event::Batch>,
    /// Retries, waiting bytes and age as the recorder reported them.
    pub recorder: RecorderFigures,
}

/// What a recorder says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecorderFigures {
    /// Bytes waiting in queue and recorder.
    pub waiting_bytes: u64,
    /// Age of the oldest, milliseconds.
    pub oldest_ms: u64,
    /// Posts repeated so far.
    pub retries: u64,
}

/// What became of an [`Append`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Appended {
    /// Events stored by this call.
    pub stored: u64,
    /// Events that the ledger had already.
    pub duplicates: u64,
}

/// The counts of `recording/stats`: over all sources ever, folded ones included.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordingCounts {
    /// Sum of the sources' highest numbers.
    pub numbered: u64,
    /// Rows that the ledger has.
    pub stored: u64,
    /// Numbered, not here, may still come.
    pub pending: u64,
    /// Numbered, not here, will not come.
    pub lost: u64,
    /// Given up by worker or recorder, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Events received twice.
    pub duplicates: u64,
    /// Sources that died without a closing record: while there are none,
    /// completeness is exact, else an upper bound.
    pub unclosed: u64,
    /// Sources heard of within the last 10 s.
    pub alive: u64,
    /// Batches that could not be read.
    pub malformed: u64,
    /// As the recorders last reported.
    pub recorder: RecorderFigures,
}

/// What the store itself has to say in health.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreHealth {
    /// Since when a foreign transaction has held the write lock, if over 1 s.
    pub locked_for: Option<Duration>,
    /// Why nothing can be written at all, while that is so: the database is gone,
    /// or something that cannot be used is in its place.
    pub unusable: Option<String>,
    /// Size of the write-ahead log, bytes.
    pub wal_bytes: u64,
    /// What was found and mended: triggers recreated, file replaced, restored.
    pub notices: Vec<String>,
}

/// Why the store could not do it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// A foreign transaction held the write lock for over 2 s.
    #[error("another program has held the database's write lock for over 2 s")]
    Busy,
    /// The database said something else.
    #[error("database: {0}")]
    Failed(String),
    /// The service is stopping.
    #[error("the store is closed")]
    Closed,
}

/// The database behind the service.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// All rows of `tables` at one moment.
    async fn snapshot(&self, tables: &[Table]) -> Result<Snapshot, StoreError>;
    /// Rows that changed after `seq`, as they now stand.
    async fn changes_since(&self, seq: u64) -> Result<Changes, StoreError>;
    /// Writes durably; answers once it is committed.
    async fn commit(&self, change: Change) -> Result<Committed, StoreError>;
    /// Changes whenever there may be something new, ours or foreign: a hint only.
    fn watch(&self) -> watch::Receiver<u64>;
    /// Stores batches exactly once, ledger and rows in one transaction.
    async fn append(&self, append: Append) -> Result<Appended, StoreError>;
    /// Counts batches that could not be read.
    async fn note_malformed(&self, batches: u64) -> Result<(), StoreError>;
    /// A gateway is gone for good (its process ended): its sources are dead.
    async fn close_sources_of(&self, gateway: Gateway) -> Result<(), StoreError>;
    /// Gateways with sources that neither closed nor are dead, as far as is known.
    async fn gateways_with_open_sources(&self) -> Result<Vec<Gateway>, StoreError>;
    /// The counts of `recording/stats`.
    async fn recording(&self) -> Result<RecordingCounts, StoreError>;
    /// Whether the ledger has this event; for tests and for synchronous recording.
    async fn covers(&self, source: Source, number: u64) -> Result<bool, StoreError>;
    /// Adds a token.
    async fn add_token(&self, token: TokenRow) -> Result<(), StoreError>;
    /// All tokens.
    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError>;
    /// What the store has to say in health.
    fn health(&self) -> StoreHealth;
}

#[cfg(test)]
mod tests;
