//! Writes through the API or the command line, and who makes them.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_policy::address::Prefix;
use utoipa::ToSchema;

use super::auto_bans::RuleBans;
use super::ban_import::{BanImport, ImportCounts};
use super::ban_source::FetchedSource;
use super::rollout::{NoticeTry, RolloutStep};
use super::rows::prefix_of_key;
use super::tables::{DocumentKind, StoreTable};
use super::tokens::TokenRow;

/// Whether a ban denies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BanMode {
    /// It does.
    #[default]
    Enforce,
    /// It does not: what it would deny is recorded.
    Shadow,
}

impl BanMode {
    /// The status of its row in `ip_monitor`.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Enforce => "banned",
            Self::Shadow => "watched",
        }
    }

    /// The mode of a ban with this status; `None`: that is no ban.
    #[must_use]
    pub fn of_status(status: &str) -> Option<Self> {
        [Self::Enforce, Self::Shadow].into_iter().find(|mode| mode.status().eq_ignore_ascii_case(status))
    }
}

/// Which bans in shadow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShadowBans {
    /// Those of these prefixes, by the keys of their rows, canonical or raw; where they apply at some hostnames or
    /// routes only, of these rows.
    Keys(Vec<String>),
    /// Those of a source.
    Source(String),
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

/// The same of some rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnchangedRows {
    /// Their table.
    pub table: StoreTable,
    /// Their keys; `None`: all of the table.
    pub keys: Option<Vec<String>>,
    /// Sequence number of that state.
    pub since: u64,
}

/// How a change is committed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CommitOptions {
    /// Checked in the same transaction; if one does not hold, nothing is written.
    pub only_if: Vec<UnchangedRows>,
    /// Only try it: everything is checked, and nothing written.
    pub dry_run: bool,
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
        /// Whether it denies.
        mode: BanMode,
        /// Where it applies, as JSON; `None`: everywhere.
        applies_to: Option<String>,
        /// Write nothing if a row allows exactly this prefix.
        unless_allowed: bool,
    },
    /// Remove every row with status `banned` or `watched` that means one of these prefixes, in any spelling. Of bans
    /// that apply at some hostnames or routes only these rows.
    Unban {
        /// Keys of the prefixes, canonical or raw, and of rows of `scoped_bans`.
        keys: Vec<String>,
    },
    /// Make bans in shadow deny: of a source's row, those of other sources are released.
    EnforceBans(ShadowBans),
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
    /// Write many bans, and remove those that their source no longer has.
    ImportBans(Arc<BanImport>),
    /// Ban those who reached the threshold of a rule.
    BanByRule(Arc<RuleBans>),
    /// What came of fetching a source of bans, if its document is still the one by which it was fetched. Only
    /// another set is audited.
    SourceFetched(Arc<FetchedSource>),
    /// Remove what sources of bans had that have no document.
    ForgetSources,
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
    /// A step of a rollout's run.
    StepRollout(Arc<RolloutStep>),
    /// What became of a try to send a notice of a rollout. It is not audited.
    NoteNoticeTry {
        /// [`NewNotice::id`](super::NewNotice::id).
        id: String,
        /// What became of it.
        tried: NoticeTry,
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
    /// Nothing but an entry of the audit: somebody takes a copy of the whole database.
    NoteBackup,
    /// Keep the answer of the request whose [`Author::key`] this is. It is not audited.
    KeepAnswer {
        /// The answer's body.
        answer: String,
    },
    /// All of these changes, or none of them.
    All {
        /// The changes, in their order.
        changes: Vec<Change>,
        /// Checked in the same transaction; if it does not hold, nothing is written.
        only_if: Option<Unchanged>,
    },
}

impl Change {
    /// The prefixes whose bans it removes.
    #[must_use]
    pub fn unbanned(&self) -> Vec<Prefix> {
        match self {
            Self::Unban { keys } => keys.iter().filter_map(|key| prefix_of_key(key)).collect(),
            Self::All { changes, .. } => changes.iter().flat_map(Self::unbanned).collect(),
            _ => Vec::new(),
        }
    }
}

/// The `Idempotency-Key` of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdempotencyKey {
    /// A hash of the author's name and the key.
    pub key: String,
    /// A hash of the request.
    pub request: String,
}

/// A request that came with an `Idempotency-Key` and changed something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptRequest {
    /// [`IdempotencyKey::request`].
    pub request: String,
    /// Its answer's body; `None`: it is not known.
    pub answer: Option<String>,
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
    /// The request's `Idempotency-Key`, which is kept in the transaction of its change.
    pub key: Option<Arc<IdempotencyKey>>,
    /// The token that let the request in. A change is committed only if it still does: the store asks in the
    /// transaction of the change. `None`: the author is no request.
    pub token: Option<Arc<AuthorToken>>,
}

/// A token as it was when it let a request in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorToken {
    /// [`TokenRow::hash`].
    pub hash: String,
    /// [`TokenRow::role`].
    pub role: String,
}

/// The author of what other programs wrote.
pub const SQL: &str = "sql";
/// The author of what commands write into a database themselves.
pub const COMMAND_LINE: &str = "command line";
/// The author of what is fetched from sources of bans on time.
pub const SOURCES: &str = "sources";
/// The author of tokens that files have.
pub const TOKEN_FILES: &str = "serve --tokens";
/// What the authors of automatic bans begin with: the rule's name follows.
pub const RULES: &str = "auto-bans/";

impl From<&str> for Author {
    fn from(name: &str) -> Self {
        Self { name: name.into(), address: None, request_id: None, key: None, token: None }
    }
}

/// What the authors of a rollout's own steps begin with: the rollout's name follows.
pub const ROLLOUTS: &str = "rollouts/";

/// Result of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Sequence number of the state that includes it.
    pub seq: u64,
    /// Rows written or removed; 0 if nothing had to change or the condition did not hold.
    pub rows: u64,
    /// Whether the condition did not hold.
    pub is_stale: bool,
    /// What an import came to, or the bans of a rule.
    pub import: ImportCounts,
}

/// What a restore changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// Sequence number of the state that includes it.
    pub seq: u64,
    /// By table.
    pub tables: Vec<RestoredTable>,
}

/// What a restore changed in a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
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
