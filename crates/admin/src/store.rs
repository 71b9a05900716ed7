//! Interface to the database. SQL is written only under `store/`: no transaction, row or
//! connection type leaves it.
//!
//! Contract of every implementation: the order of `seq` is the order of commits, the service's
//! and other programs'; [`TableStore::read_tables`] and [`TableStore::changes_since`] return the
//! state at one moment, which the returned `seq` identifies.

mod audit;
mod auto_bans;
mod ban_import;
mod ban_source;
mod change;
mod event_query;
mod health;
mod recording;
mod rollout;
mod rows;
mod sql_literal;
pub mod sqlite;
pub(crate) mod statistics;
mod tables;
pub mod time_text;
mod tokens;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidegate_author::AutoBan;
use tidegate_policy::check::PerCheck;
use tidegate_policy::wire::event::{OpenEvent, VmId};
use tidegate_policy::wire::sync::Gateway;
use tidegate_rollout::figures::StageFigures;
use tokio::sync::{mpsc, watch};

use crate::auto_bans::AutoBans;

pub use audit::{AUDIT_KINDS, AuditAnchor, AuditCheck, AuditFilter, AuditRow, MAX_AUDIT_FAULTS};
pub use auto_bans::{RuleBan, RuleBans};
pub use ban_import::{BanImport, ImportCounts, ImportedBan};
pub use ban_source::{FetchedSource, NewSet, SetOrigin, SourceState, SourceStatus};
pub use change::{
    Author, AuthorToken, BanMode, COMMAND_LINE, Change, CommitOptions, Committed, IdempotencyKey,
    KeptRequest, ROLLOUTS, RULES, Restored, RestoredTable, SOURCES, SQL, ShadowBans, TOKEN_FILES, Unchanged,
    UnchangedRows,
};
pub use event_query::{EventFilter, EventPage, EventPosition, EventRow, EventTail, MismatchFilter};
pub use health::{DiskSpace, StoreFault, StoreHealth, StoreOperation};
pub use recording::{
    AddressCount, Append, Appended, BanSources, CheckCounts, EventId, RecorderFigures, RecordingCounts,
    RefusedClaim, SourceGap,
};
pub use rollout::{
    MeasuredStage, Measuring, NewNotice, NoticeTry, RecordedBefore, RolloutRow, RolloutRows, RolloutStep,
    WaitingNotice,
};
pub use rows::{
    AddressRows, ChangedRows, Changes, CountriesRow, DocumentRow, FlagRow, FormerRow, FormerRows, IMPORTED,
    IpRow, ScopedBanKey, ScopedBanRow, SourceSetRow, StoredRows, prefix_of_key,
};
pub use sql_literal::sql_literal;
pub use statistics::{
    PathStats, PathsAnswer, RequestStats, StatsFilter, TimelinePoint, TopOf, TopValue, would_deny_value,
};
pub use tables::{DocumentKind, PerDocumentKind, StoreTable};
pub use tokens::TokenRow;

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
    /// What was given to be restored is no whole backup of this program's database.
    #[error("{0}")]
    NoBackup(String),
    /// The token of the change's author was revoked or got another role since it let the request in.
    #[error("the token was revoked while the request was under way")]
    TokenRevoked,
    /// The token of the change's author has ended since it let the request in.
    #[error("the token has ended while the request was under way")]
    TokenEnded,
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
    /// The rows of `ip_monitor` with these keys, and those of `scoped_bans` with these addresses, at one moment.
    async fn ip_rows(&self, keys: Vec<String>) -> Result<AddressRows, StoreError>;
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
    ///
    /// # Errors
    /// When it fails, or [`Author::token`] does not let in any more: then nothing was changed.
    async fn commit(&self, change: Change, by: &Author) -> Result<Committed, StoreError> {
        self.commit_with(change, by, CommitOptions::default()).await
    }
    /// The same with options.
    async fn commit_with(
        &self,
        change: Change,
        by: &Author,
        options: CommitOptions,
    ) -> Result<Committed, StoreError>;
    /// What an import would come to now.
    async fn preview_import(&self, import: &Arc<BanImport>) -> Result<ImportCounts, StoreError>;
    /// What is stored of all sources of bans, by name, without their entries.
    async fn source_states(&self) -> Result<Vec<SourceState>, StoreError>;
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
    /// Events, newest first, from `from` on, at most `limit`: `docs/API.md`, `GET /api/admin/events`.
    async fn events(
        &self,
        filter: &EventFilter,
        from: Option<EventPosition>,
        limit: usize,
    ) -> Result<EventPage, StoreError>;
    /// Events that have ended and came after the one with the id `after`, in the order of their arrival,
    /// at most `limit`; `None`: none, but where the next begin.
    async fn events_after(
        &self,
        filter: &EventFilter,
        after: Option<u64>,
        limit: usize,
    ) -> Result<EventTail, StoreError>;
    /// Requests by route, template and method, with their times.
    async fn path_stats(&self, filter: StatsFilter) -> Result<PathsAnswer, StoreError>;
    /// Requests over time by verdict, oldest first, in steps of `step` seconds where they are kept so finely.
    async fn timeline(&self, filter: StatsFilter, step: i64) -> Result<Vec<TimelinePoint>, StoreError>;
    /// The most frequent values of the days from `since` until before `until` (Unix seconds), at most `limit`.
    async fn top_values(
        &self,
        of: TopOf,
        span: (i64, i64),
        limit: usize,
    ) -> Result<Vec<TopValue>, StoreError>;
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
    /// The runs of rollouts, and the flags.
    async fn rollouts(&self) -> Result<RolloutRows, StoreError>;
    /// What a measurement of a rollout's run has counted, with nothing else in it.
    async fn stage_figures(&self, name: &str, run: u64, number: u32) -> Result<StageFigures, StoreError>;
    /// The run that goes on, if there is one, and the flags.
    async fn active_rollout(&self) -> Result<RolloutRows, StoreError>;
    /// Of each webhook of a rollout the notice that it is to get next.
    async fn next_notices(&self) -> Result<Vec<WaitingNotice>, StoreError>;
    /// Whether the ledger has this event. For the tests of all implementations.
    async fn covers(&self, source: VmId, number: u64) -> Result<bool, StoreError>;
    /// Notes when tokens were last used: hash, and milliseconds since the Unix epoch.
    async fn note_tokens_used(&self, uses: Vec<(String, i64)>) -> Result<(), StoreError>;
    /// All tokens.
    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError>;
    /// A copy of the whole database as it was at one moment, in a form that a restore takes: an SQLite
    /// file without a name. By whom is in the audit before, and in the copy.
    async fn backup(&self, by: &Author) -> Result<std::fs::File, StoreError>;
    /// The request that came with this [`IdempotencyKey::key`] within the last 24 hours.
    async fn kept_request(&self, key: &str) -> Result<Option<KeptRequest>, StoreError>;
    /// Puts what people wrote back from a backup, whose bytes come in pieces that end with `None`. Events,
    /// tokens and audit stay. `dry_run`: nothing is changed.
    async fn restore(
        &self,
        pieces: mpsc::Receiver<Option<Bytes>>,
        by: &Author,
        dry_run: bool,
    ) -> Result<Restored, StoreError>;
    /// The automatic bans, which count the events that are stored.
    fn auto_bans(&self) -> &AutoBans;
    /// Counts by these rules from now on.
    fn set_auto_bans(&self, rules: Vec<Arc<AutoBan>>);
    /// State of the store, for health.
    fn health(&self) -> StoreHealth;
}

#[cfg(test)]
mod tests;
