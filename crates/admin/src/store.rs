//! Interface to the database. SQL is written only under `store/`: no transaction, row or
//! connection type leaves it.
//!
//! Contract of every implementation: the order of `seq` is the order of commits, the service's
//! and other programs'; [`TableStore::read_tables`] and [`TableStore::changes_since`] return the
//! state at one moment, which the returned `seq` identifies.

pub mod sqlite;
mod tables;
pub mod time_text;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tidegate_policy::check::PerCheck;
use tidegate_policy::wire::event::{OpenEvent, SourceReport, VmId};
use tidegate_policy::wire::sync::Gateway;
use tokio::sync::watch;

pub use tables::{DocumentKind, PerDocumentKind, StoreTable};

/// A row of `ip_monitor` as it stands in the database, unchecked: people write
/// such rows by hand.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct IpRow {
    /// The key as written: `9.9.9.9`, `9.9.9.9/32` and `::ffff:9.9.9.9` are three rows and one
    /// address.
    pub ip: String,
    /// `banned`, `allowed`, `watched`, or any other text written by SQL.
    pub status: String,
    /// The operator's reason.
    pub reason: Option<String>,
    /// UTC, as text.
    pub created_at: Option<String>,
    /// UTC, as text.
    pub updated_at: Option<String>,
    /// UTC, as text; `None`: never.
    pub expires_at: Option<String>,
}

/// A row of a table of named documents, unchecked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DocumentRow {
    /// The document's name.
    pub name: String,
    /// The document as JSON.
    pub document: String,
    /// UTC, as text; decides ties between routes: the older one wins.
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CountriesRow {
    /// What was imported, as the operator named it: a file's name.
    pub source: String,
    /// UTC, as text.
    pub imported_at: Option<String>,
    /// A [`CountryTable`](tidegate_policy::geo::CountryTable)'s bytes, unchecked.
    #[serde(with = "hex")]
    pub table: Vec<u8>,
}

/// A row as it was when it could be read, kept while it cannot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FormerRow {
    /// Of `ip_monitor`.
    Ip(IpRow),
    /// Of a table of documents.
    Document(DocumentRow),
    /// Of `geo_countries`.
    Countries(CountriesRow),
}

/// Former rows, by the table and key of the rows that cannot be read.
pub type FormerRows = BTreeMap<(StoreTable, String), FormerRow>;

/// All rows of the tables asked for, at one `seq`.
#[derive(Clone, Debug, Default)]
pub struct StoredRows {
    /// Sequence number of that state.
    pub seq: u64,
    /// Rows of `ip_monitor`, if asked for.
    pub ips: Vec<IpRow>,
    /// Rows of `flags`, if asked for.
    pub flags: Vec<FlagRow>,
    /// The row of `geo_countries`, if asked for.
    pub countries: Option<CountriesRow>,
    /// Rows of the tables of documents that were asked for.
    pub documents: PerDocumentKind<Vec<DocumentRow>>,
    /// What [`TableStore::keep_former`] kept.
    pub former: FormerRows,
}

/// Changed rows in their current state, each key once; `None`: deleted.
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
    /// Keys that were changed, in that order: table, former key, new key. Both are among the rows.
    pub moves: Vec<(StoreTable, String, String)>,
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
        /// Sequence number of that state.
        seq: u64,
        /// The rows, in their current state.
        rows: Box<ChangedRows>,
    },
    /// The changes cannot be listed, so all tables must be read again: the change log does not
    /// reach back to that `seq`, the database was replaced or went back to an earlier state
    /// (`.restore`), or its triggers had been changed.
    Reload {
        /// Whether earlier sequence numbers no longer count, so that a new epoch begins.
        new_epoch: bool,
        /// The reason, for the log and for health.
        why: &'static str,
    },
}

/// Condition of a write: no row of `tables` was changed after `since`, by the service or by
/// another program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unchanged {
    /// The tables.
    pub tables: &'static [StoreTable],
    /// Sequence number of that state.
    pub since: u64,
}

/// A write through the API or the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Ban a prefix. The new row replaces every other row that means the same prefix.
    Ban {
        /// Canonical text of the prefix.
        ip: String,
        /// Why.
        reason: Option<String>,
        /// `YYYY-MM-DD HH:MM:SS.mmm`, UTC; `None`: never.
        expires_at: Option<String>,
        /// Write nothing if a row allows exactly this prefix.
        unless_allowed: bool,
    },
    /// Remove every row with status `banned` that means one of these prefixes, in any spelling.
    Unban {
        /// Keys of the prefixes, canonical or raw.
        keys: Vec<String>,
    },
    /// Put a prefix on the allow list. The new row replaces every other row that means the same
    /// prefix, a ban as well.
    Allow {
        /// Canonical text of the prefix.
        ip: String,
        /// Why.
        reason: Option<String>,
        /// `YYYY-MM-DD HH:MM:SS.mmm`, UTC; `None`: never.
        expires_at: Option<String>,
    },
    /// Remove every row with status `allowed` that means one of these prefixes, in any spelling.
    Disallow {
        /// Keys of the prefixes, canonical or raw.
        keys: Vec<String>,
    },
    /// Insert or replace a document; `created_at` of an existing row stays.
    PutDocument {
        /// Its kind.
        kind: DocumentKind,
        /// Its name.
        name: String,
        /// The document as JSON.
        document: String,
        /// Checked in the same transaction; if it does not hold, nothing is written.
        only_if: Option<Unchanged>,
    },
    /// Remove a document.
    DeleteDocument {
        /// Its kind.
        kind: DocumentKind,
        /// Its name.
        name: String,
        /// Checked in the same transaction; if it does not hold, nothing is written.
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
        /// Bytes of the table, already checked.
        table: Vec<u8>,
    },
    /// Add a token.
    AddToken {
        /// The token.
        token: TokenRow,
        /// Add nothing if there is a token of its name. A file's token has the name of the one
        /// that the file held before.
        only_new_name: bool,
    },
    /// Remove all tokens of a name.
    RevokeTokens {
        /// The name.
        name: String,
    },
}

/// Who makes a change, as the audit has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Author {
    /// The token's name, `command line`, or [`SQL`].
    pub name: Arc<str>,
    /// Where the request's connection comes from.
    pub address: Option<IpAddr>,
    /// The request's `x-request-id`.
    pub request_id: Option<Arc<str>>,
}

/// The author of what other programs wrote.
pub const SQL: &str = "sql";

impl From<&str> for Author {
    fn from(name: &str) -> Self {
        Self { name: name.into(), address: None, request_id: None }
    }
}

/// An entry of the audit: one change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditRow {
    /// Counts up from 1 without a hole.
    pub id: u64,
    /// UTC, as text. Of what another program wrote: when it was found.
    pub at: String,
    /// [`Author::name`].
    pub actor: String,
    /// [`Author::address`].
    pub address: Option<String>,
    /// [`Author::request_id`].
    pub request_id: Option<String>,
    /// Kind of change: `flag`, `ban`, `unban`, `allow`, `disallow`, `ip-monitor`, `countries`, `token`,
    /// `restore`, `database`, `tables`, or a document's [`DocumentKind::name`].
    pub kind: String,
    /// What was changed: the flag's name, the prefix, the document's name.
    pub name: String,
    /// Value before, as JSON; `None`: it did not exist.
    pub before: Option<String>,
    /// Value after, as JSON; `None`: it was removed.
    pub after: Option<String>,
    /// How many changes these were, if several were found at once.
    pub changes: Option<u64>,
    /// SHA-256 over this entry and the hash of the one before it, hexadecimal.
    pub hash: String,
}

impl AuditAnchor {
    /// The format as text, for messages.
    pub const FORM: &str = "write ID:HASH, as `verify` has given them";
}

impl std::str::FromStr for AuditAnchor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (id, hash) = text.split_once(':').ok_or(())?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = id.parse().map_err(|_| ())?;
        is_hash.then(|| Self { id, hash: hash.to_ascii_lowercase() }).ok_or(())
    }
}

/// Which entries of the audit; `None`: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditFilter {
    /// Ids below this.
    pub before: Option<u64>,
    /// [`AuditRow::actor`].
    pub actor: Option<String>,
    /// [`AuditRow::kind`].
    pub kind: Option<String>,
    /// [`AuditRow::name`].
    pub name: Option<String>,
    /// Not earlier than this, as [`AuditRow::at`].
    pub since: Option<String>,
    /// Earlier than this, as [`AuditRow::at`].
    pub until: Option<String>,
}

/// Result of a check of the audit's chain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AuditCheck {
    /// Entries that there are.
    pub entries: u64,
    /// The newest entry; `None`: there is none.
    pub last: Option<AuditAnchor>,
    /// What is wrong, as sentences: the first [`MAX_AUDIT_FAULTS`].
    pub faults: Vec<String>,
}

/// Faults that a check of the audit lists, at most.
pub const MAX_AUDIT_FAULTS: usize = 20;

/// An entry's id and hash: kept elsewhere, they show later that neither it nor any before it was
/// changed since.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditAnchor {
    /// [`AuditRow::id`].
    pub id: u64,
    /// [`AuditRow::hash`].
    pub hash: String,
}

/// Result of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Sequence number of the state that includes it.
    pub seq: u64,
    /// Rows written or removed; 0 if nothing had to change or the condition did not hold.
    pub rows: u64,
}

/// What a restore changed in a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RestoredTable {
    /// The table's name.
    pub table: &'static str,
    /// Rows that only the backup had.
    pub added: u64,
    /// Rows that were different.
    pub changed: u64,
    /// Rows that the backup did not have.
    pub removed: u64,
}

/// A stored token, without its secret: only the hash is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TokenRow {
    /// SHA-256 of the token, hexadecimal.
    pub hash: String,
    /// The operator's name for it.
    pub name: String,
    /// `read`, `operate`, `admin` or `gateway`.
    pub role: String,
    /// The node whose gateways alone may use it; `None`: any.
    pub node: Option<String>,
    /// UTC, as text; `None`: it never ends.
    pub expires_at: Option<String>,
    /// UTC, as text; set when it is stored.
    pub created_at: Option<String>,
    /// Who made it; set when it is stored.
    pub created_by: Option<String>,
    /// UTC, as text, to about a minute; `None`: never.
    pub last_used_at: Option<String>,
}

impl TokenRow {
    /// The beginning of the hash, which tells tokens of one name apart and is no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        self.hash.get(..8).unwrap_or(&self.hash)
    }
}

/// One post of a recorder: decoded batches, and reports about their sources.
#[derive(Clone, Debug)]
pub struct Append {
    /// The gateway that posted.
    pub gateway: Gateway,
    /// Reports about its sources (VMs).
    pub sources: Vec<SourceReport>,
    /// Ranges of event numbers that the recorder gave up.
    pub dropped: Vec<tidegate_policy::wire::event::DroppedRange>,
    /// The batches.
    pub batches: Vec<tidegate_policy::wire::event::Batch>,
    /// Retries, waiting bytes and age as the recorder reported them.
    pub recorder: RecorderFigures,
}

/// Bytes that a process can hold, at most.
const MOST_WAITING_BYTES: u64 = 1 << 40;
/// Milliseconds that a batch can wait, at most.
const MOST_WAITING_MS: u64 = 30 * 86_400 * 1_000;
/// Posts that a recorder can repeat, at most.
const MOST_RETRIES: u64 = 1 << 32;

/// State of a recorder, as it reported it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecorderFigures {
    /// Bytes waiting in queue and recorder.
    pub waiting_bytes: u64,
    /// Age of the oldest of them, milliseconds.
    pub oldest_ms: u64,
    /// Posts repeated so far.
    pub retries: u64,
}

impl RecorderFigures {
    /// The same, no higher than any recorder can mean.
    #[must_use]
    pub fn bounded(self) -> Self {
        const { assert!(MOST_WAITING_MS > 24 * 3_600 * 1_000, "recorders give up after a day") };
        Self {
            waiting_bytes: self.waiting_bytes.min(MOST_WAITING_BYTES),
            oldest_ms: self.oldest_ms.min(MOST_WAITING_MS),
            retries: self.retries.min(MOST_RETRIES),
        }
    }
}

/// Result of an [`Append`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Appended {
    /// Events stored by this call.
    pub stored: u64,
    /// Events that were in the ledger already.
    pub duplicates: u64,
    /// Claims of sources that are not possible: batches, reports and dropped ranges that were passed
    /// over.
    pub refused: u64,
}

/// A number of events that a source was said to have reached, and cannot have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedClaim {
    /// The source.
    pub source: VmId,
    /// The gateway that said so, as rows have it.
    pub gateway: String,
    /// The number.
    pub number: u64,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// A source of which numbers are neither stored nor dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceGap {
    /// The source.
    pub source: VmId,
    /// Its gateway, as rows have it.
    pub gateway: String,
    /// Its highest number.
    pub numbered: u64,
    /// Of these, stored.
    pub stored: u64,
    /// Of these, dropped.
    pub dropped: u64,
}

/// Counts of how one check was answered. Each event is counted once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckCounts {
    /// From the gateway's tables, as the flag says.
    pub cache: u64,
    /// By the admin service, from the database.
    pub direct: u64,
    /// From the gateway's tables, because the admin service did not answer.
    pub fallback: u64,
    /// Not at all.
    pub unavailable: u64,
    /// In shadow: direct answers that were compared with the gateway's tables.
    pub compared: u64,
    /// In shadow: those that differed.
    pub mismatched: u64,
    /// Of the differing ones, those where the gateway's tables had a lower `seq`.
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
    /// How much `count` may be too high.
    pub over: u64,
    /// UTC, as text.
    pub last_seen: String,
}

/// The counts of `recording/stats`, over all sources there ever were.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordingCounts {
    /// Sum of the sources' highest numbers.
    pub numbered: u64,
    /// Events in the ledger.
    pub stored: u64,
    /// Numbered, neither stored nor dropped, may still arrive.
    pub pending: u64,
    /// Numbered, neither stored nor dropped, will not arrive.
    pub lost: u64,
    /// Given up by worker or recorder, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Events received twice.
    pub duplicates: u64,
    /// Sources that died without a closing record. Completeness is exact while there are none,
    /// otherwise an upper bound.
    pub unclosed: u64,
    /// Sources heard of within the last 10 s.
    pub alive: u64,
    /// Batches that could not be read.
    pub malformed: u64,
    /// Claims of sources that are not possible, and were not believed.
    pub refused: u64,
    /// The last of them since the service began.
    pub last_refused: Option<RefusedClaim>,
    /// The sources of which most is missing.
    pub gaps: Vec<SourceGap>,
    /// Stored events whose rows retention has removed since.
    pub removed: u64,
    /// Open events: stored before the response, and their request has not ended yet.
    pub open: u64,
    /// Of `stored`: events whose source ended, or gave them up, before their request ended. They
    /// hold what was known when the response began.
    pub incomplete: u64,
    /// How the checks were answered.
    pub checks: PerCheck<CheckCounts>,
    /// As the recorders last reported.
    pub recorder: RecorderFigures,
}

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

/// Errors of the store.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another program held the write lock for over 2 s.
    #[error("another program has held the database's write lock for over 2 s")]
    Busy,
    /// Any other error of the database.
    #[error("database: {0}")]
    Failed(String),
    /// A part of the database's file cannot be read, or makes no sense.
    #[error("database: {0}")]
    Damaged(String),
    /// The service is stopping.
    #[error("the store is closed")]
    Closed,
}

/// The tables that people write, as the feed reads and follows them.
#[async_trait]
pub trait TableStore: Send + Sync + 'static {
    /// All rows of `tables` at one moment.
    async fn read_tables(&self, tables: &[StoreTable]) -> Result<StoredRows, StoreError>;
    /// Rows that changed after `seq`, in their current state.
    async fn changes_since(&self, seq: u64) -> Result<Changes, StoreError>;
    /// The rows of `ip_monitor` with these keys at one moment, and the newest `seq` then.
    async fn ip_rows(&self, keys: Vec<String>) -> Result<(u64, Vec<IpRow>), StoreError>;
    /// Keeps these former rows, and no others.
    async fn keep_former(&self, rows: FormerRows) -> Result<(), StoreError>;
    /// Changes whenever there may be new changes, by the service or another program. Its value is
    /// only a hint.
    fn watch(&self) -> watch::Receiver<u64>;
}

/// The database behind the service.
#[async_trait]
pub trait Store: TableStore {
    /// Writes a change with its entry of the audit, whose author is `by`. Returns once both are
    /// durable.
    async fn commit(&self, change: Change, by: &Author) -> Result<Committed, StoreError>;
    /// Stores batches exactly once, ledger and rows in one transaction.
    async fn append(&self, append: Append) -> Result<Appended, StoreError>;
    /// Stores an open event, one whose response waits for this. Changes nothing if it is stored
    /// already or its number is in the ledger. Returns false, and stores nothing, if the source
    /// cannot have reached its number.
    async fn open_event(&self, gateway: Gateway, open: OpenEvent) -> Result<bool, StoreError>;
    /// Addresses that requests came from, most frequent first, at most `limit`.
    async fn top_addresses(&self, limit: usize) -> Result<Vec<AddressCount>, StoreError>;
    /// Requests from one address, in canonical form; `None`: not among those kept.
    async fn address_count(&self, ip: &str) -> Result<Option<AddressCount>, StoreError>;
    /// Entries of the audit, newest first, at most `limit`.
    async fn audit(&self, filter: AuditFilter, limit: usize) -> Result<Vec<AuditRow>, StoreError>;
    /// Checks the chain of the audit. `anchor`: an entry that must be in it as it was.
    async fn check_audit(&self, anchor: Option<AuditAnchor>) -> Result<AuditCheck, StoreError>;
    /// The newest entry of the audit of `kind` about `name`.
    async fn last_change(&self, kind: &'static str, name: &str) -> Result<Option<AuditRow>, StoreError>;
    /// How the checks were answered: [`RecordingCounts::checks`] without the rest.
    async fn checks(&self) -> Result<PerCheck<CheckCounts>, StoreError>;
    /// Counts batches that could not be read.
    async fn note_malformed(&self, batches: u64) -> Result<(), StoreError>;
    /// Marks all sources of a gateway as dead: its process has ended.
    async fn close_sources_of(&self, gateway: Gateway) -> Result<(), StoreError>;
    /// Notes gateways that were heard of: their sources are not dead though they are quiet.
    fn note_gateways(&self, gateways: &[Gateway]);
    /// Gateways with sources that neither closed nor are dead, as far as is known.
    async fn gateways_with_open_sources(&self) -> Result<Vec<Gateway>, StoreError>;
    /// The counts of `recording/stats`.
    async fn recording(&self) -> Result<RecordingCounts, StoreError>;
    /// Whether the ledger has this event. For the tests of all implementations.
    async fn covers(&self, source: VmId, number: u64) -> Result<bool, StoreError>;
    /// Notes when tokens were last used: hash, and milliseconds since the Unix epoch.
    async fn note_tokens_used(&self, uses: Vec<(String, i64)>) -> Result<(), StoreError>;
    /// All tokens.
    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError>;
    /// A copy of the whole database as it was at one moment, in a form that a restore takes: an SQLite
    /// file without a name.
    async fn backup(&self) -> Result<std::fs::File, StoreError>;
    /// State of the store, for health.
    fn health(&self) -> StoreHealth;
}

#[cfg(test)]
mod tests;
