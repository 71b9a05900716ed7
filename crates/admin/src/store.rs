//! The seam to the database. Only the rooms under `store/` speak SQL: no
//! transaction, row or connection type leaves them.
//!
//! Contract of every implementation: the order of `seq` is the order of commits,
//! whoever committed; what [`TableStore::read_tables`] and [`TableStore::changes_since`] say
//! was true at one moment, which the `seq` beside it names.

pub mod sqlite;
mod tables;
pub mod time_text;

use std::time::Duration;

use async_trait::async_trait;
use tidegate_policy::check::PerCheck;
use tidegate_policy::wire::event::{OpenEvent, Source, SourceReport};
use tidegate_policy::wire::sync::Gateway;
use tokio::sync::watch;

pub use tables::{DocumentKind, PerDocumentKind, StoreTable};

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

/// A row of a table of documents that have names, unchecked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DocumentRow {
    /// The document's name.
    pub name: String,
    /// The document as JSON.
    pub document: String,
    /// UTC, as text; decides ties between routes.
    pub created_at: Option<String>,
    /// UTC, as text.
    pub updated_at: Option<String>,
}

/// A row of `flags`, unchecked. A flag without a row is off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlagRow {
    /// The flag's name.
    pub name: String,
    /// Its state as JSON: `false`, `true`, `"shadow"`, `{"percent": 25}`.
    pub value: String,
    /// UTC, as text.
    pub updated_at: Option<String>,
}

/// The country table, as the last import laid it out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountriesRow {
    /// What was imported, in the operator's words: a file's name.
    pub source: String,
    /// UTC, as text.
    pub imported_at: Option<String>,
    /// A [`CountryTable`](tidegate_policy::geo::CountryTable)'s bytes, unchecked.
    pub table: Vec<u8>,
}

/// All rows of the tables asked for, at one `seq`.
#[derive(Clone, Debug, Default)]
pub struct StoredRows {
    /// The moment.
    pub seq: u64,
    /// Rows of `ip_monitor`, if asked for.
    pub ips: Vec<IpRow>,
    /// Rows of `flags`, if asked for.
    pub flags: Vec<FlagRow>,
    /// The row of `geo_countries`, if asked for.
    pub countries: Option<CountriesRow>,
    /// Rows of the tables of documents that were asked for.
    pub documents: PerDocumentKind<Vec<DocumentRow>>,
}

/// Changed rows as they now stand, each key once; `None`: deleted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChangedRows {
    /// Of `ip_monitor`.
    pub ips: Vec<(String, Option<IpRow>)>,
    /// Of `flags`.
    pub flags: Vec<(String, Option<FlagRow>)>,
    /// Of `geo_countries`; the outer `None`: nothing changed there.
    pub countries: Option<Option<CountriesRow>>,
    /// Of the tables of documents.
    pub documents: PerDocumentKind<Vec<(String, Option<DocumentRow>)>>,
}

impl ChangedRows {
    /// Whether a row of `table` is among them.
    #[must_use]
    pub fn has(&self, table: StoreTable) -> bool {
        match table {
            StoreTable::Ip => !self.ips.is_empty(),
            StoreTable::Flags => !self.flags.is_empty(),
            StoreTable::Countries => self.countries.is_some(),
            StoreTable::Documents(kind) => !self.documents[kind].is_empty(),
        }
    }
}

/// What happened since a `seq`.
#[derive(Clone, Debug)]
pub enum Changes {
    /// The rows that changed.
    Rows {
        /// The moment.
        seq: u64,
        /// As they now stand.
        rows: Box<ChangedRows>,
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

/// That no row of some tables has changed after a `seq`, whoever would have changed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unchanged {
    /// The tables.
    pub tables: &'static [StoreTable],
    /// The moment.
    pub since: u64,
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
    /// Insert or replace a document; `created_at` of an existing row stays.
    PutDocument {
        /// What it is.
        kind: DocumentKind,
        /// Its name.
        name: String,
        /// The document as JSON.
        document: String,
        /// The condition; while it does not hold, nothing is done.
        only_if: Option<Unchanged>,
    },
    /// Remove a document.
    DeleteDocument {
        /// What it is.
        kind: DocumentKind,
        /// Its name.
        name: String,
        /// The condition; while it does not hold, nothing is done.
        only_if: Option<Unchanged>,
    },
    /// Set these flags, and no others.
    SetFlags {
        /// Name and state as JSON.
        flags: Vec<(String, String)>,
    },
    /// Replace the country table.
    SetCountries {
        /// What was imported.
        source: String,
        /// Its bytes, checked.
        table: Vec<u8>,
    },
}

/// What somebody changed through our API or command line: the audit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRow {
    /// Counts up from 1.
    pub id: u64,
    /// UTC, as text.
    pub at: String,
    /// The token's name, or `command line`.
    pub by: String,
    /// `flag`, `ban`, `unban`, `countries`, or a document's [`DocumentKind::name`].
    pub what: String,
    /// Which one: the flag's name, the prefix, the route's name.
    pub target: String,
    /// What it was before, as JSON; `None`: not there.
    pub from: Option<String>,
    /// What it is since, as JSON; `None`: not there any more.
    pub to: Option<String>,
}

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The sequence number that includes it.
    pub seq: u64,
    /// Rows written or removed; 0: there was nothing to do, or the condition did not hold.
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

/// How often each check was answered, and by whom; counted once per event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckCounts {
    /// From the cache, as the flag says.
    pub cache: u64,
    /// By the database.
    pub direct: u64,
    /// From the cache, because the admin service did not answer.
    pub fallback: u64,
    /// By nobody.
    pub unavailable: u64,
    /// In shadow: compared.
    pub compared: u64,
    /// In shadow: different.
    pub mismatched: u64,
    /// Of those, where the cache was only behind.
    pub lagging: u64,
}

/// An address that requests came from. Only the most frequent ones are kept: a
/// new one takes the place of the rarest and its count (the space-saving
/// algorithm), so `count` is too high by `over` at most, and never too low.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressCount {
    /// The client's address in canonical form.
    pub ip: String,
    /// Requests.
    pub count: u64,
    /// By how much that may be too high.
    pub over: u64,
    /// UTC, as text.
    pub last_seen: String,
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
    /// Requests whose event was stored before their response, and whose end has
    /// not come yet.
    pub open: u64,
    /// Of `stored`: those whose source ended, or gave them up, before their end
    /// came. What is known of them is what was known when their response began.
    pub incomplete: u64,
    /// How the checks were answered.
    pub checks: PerCheck<CheckCounts>,
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
    /// Size of the database without its write-ahead log, bytes.
    pub db_bytes: u64,
    /// Size of the write-ahead log, bytes.
    pub wal_bytes: u64,
    /// Times that a write had to wait because another program held the write lock,
    /// since the service began.
    pub lock_waits: u64,
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

/// The tables that people write, as the feed follows them.
#[async_trait]
pub trait TableStore: Send + Sync + 'static {
    /// All rows of `tables` at one moment.
    async fn read_tables(&self, tables: &[StoreTable]) -> Result<StoredRows, StoreError>;
    /// Rows that changed after `seq`, as they now stand.
    async fn changes_since(&self, seq: u64) -> Result<Changes, StoreError>;
    /// Changes whenever there may be something new, ours or foreign: a hint only.
    fn watch(&self) -> watch::Receiver<u64>;
}

/// The database behind the service.
#[async_trait]
pub trait Store: TableStore {
    /// Writes durably, with its audit; answers once it is committed.
    async fn commit(&self, change: Change, by: &str) -> Result<Committed, StoreError>;
    /// Stores batches exactly once, ledger and rows in one transaction.
    async fn append(&self, append: Append) -> Result<Appended, StoreError>;
    /// Stores an event whose response waits for it, unless the ledger has its
    /// number already. Twice is once.
    async fn open_event(&self, gateway: Gateway, open: OpenEvent) -> Result<(), StoreError>;
    /// Addresses that requests came from, most frequent first, at most `limit`.
    async fn top_addresses(&self, limit: usize) -> Result<Vec<AddressCount>, StoreError>;
    /// What is known of requests from one address, in canonical form.
    async fn address_count(&self, ip: &str) -> Result<Option<AddressCount>, StoreError>;
    /// The audit, newest first, from before the row `before`.
    async fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditRow>, StoreError>;
    /// The newest entry of the audit of `what` about `target`.
    async fn last_change(&self, what: &'static str, target: &str) -> Result<Option<AuditRow>, StoreError>;
    /// How often each check was answered, and by whom: what [`Store::recording`] says of
    /// them, without the rest.
    async fn checks(&self) -> Result<PerCheck<CheckCounts>, StoreError>;
    /// Counts batches that could not be read.
    async fn note_malformed(&self, batches: u64) -> Result<(), StoreError>;
    /// A gateway is gone for good (its process ended): its sources are dead.
    async fn close_sources_of(&self, gateway: Gateway) -> Result<(), StoreError>;
    /// Gateways with sources that neither closed nor are dead, as far as is known.
    async fn gateways_with_open_sources(&self) -> Result<Vec<Gateway>, StoreError>;
    /// The counts of `recording/stats`.
    async fn recording(&self) -> Result<RecordingCounts, StoreError>;
    /// Whether the ledger has this event: how the tests of every implementation see
    /// it.
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
