//! Rows of the tables that people write, unchecked, and what changed in them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_policy::address::Prefix;

use super::tables::{PerDocumentKind, StoreTable};

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
    /// Whose lists have it, with commas between the names; `None`: it was banned by hand.
    #[serde(default)]
    pub source: Option<String>,
}

/// A row of `scoped_bans`, unchecked: a ban that applies at some hostnames or routes only.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScopedBanRow {
    /// The address or block in canonical form.
    pub ip: String,
    /// Where it applies, as JSON.
    pub applies_to: String,
    /// Whose it is: a list's name, or `auto.` and a rule's; empty: it was banned by hand.
    pub source: String,
    /// `banned`, `watched`, or any other text written by SQL.
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

impl ScopedBanRow {
    /// Its key as the change log has it.
    #[must_use]
    pub fn key(&self) -> String {
        ScopedBanKey { ip: &self.ip, source: &self.source, applies_to: &self.applies_to }.to_string()
    }
}

/// The key of a row of `scoped_bans`. As a text its parts have a space between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScopedBanKey<'k> {
    /// [`ScopedBanRow::ip`].
    pub ip: &'k str,
    /// [`ScopedBanRow::source`].
    pub source: &'k str,
    /// [`ScopedBanRow::applies_to`].
    pub applies_to: &'k str,
}

impl<'k> ScopedBanKey<'k> {
    /// Reads the text; `None`: it is no such key.
    #[must_use]
    pub fn read(text: &'k str) -> Option<Self> {
        let (ip, rest) = text.split_once(' ')?;
        let (source, applies_to) = rest.split_once(' ')?;
        Some(Self { ip, source, applies_to })
    }
}

impl fmt::Display for ScopedBanKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.ip, self.source, self.applies_to)
    }
}

/// The prefix of a ban, by the key of its row: a spelling of the prefix, or a [`ScopedBanKey`].
#[must_use]
pub fn prefix_of_key(key: &str) -> Option<Prefix> {
    key.split(' ').next()?.parse().ok()
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

/// What a source of bans had when it was last fetched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceSetRow {
    /// The source's name.
    pub name: String,
    /// An [`AddressTable`](tidegate_policy::table::AddressTable)'s bytes, unchecked.
    pub entries: Vec<u8>,
}

/// A row as it was when it could be read, kept while it cannot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FormerRow {
    /// Of `scoped_bans`. Of these two it has more fields that must be there, so it is tried first.
    Scoped(ScopedBanRow),
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
    /// Rows of `scoped_bans`, if asked for.
    pub scoped: Vec<ScopedBanRow>,
    /// Rows of `flags`, if asked for.
    pub flags: Vec<FlagRow>,
    /// The row of `geo_countries`, if asked for.
    pub countries: Option<CountriesRow>,
    /// Rows of `ban_source_sets`, if asked for.
    pub source_sets: Vec<SourceSetRow>,
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
    /// Of `scoped_bans`.
    pub scoped: Vec<(String, Option<ScopedBanRow>)>,
    /// Of `flags`.
    pub flags: Vec<(String, Option<FlagRow>)>,
    /// Of `geo_countries`; the outer `None`: nothing changed there.
    pub countries: Option<Option<CountriesRow>>,
    /// Of `ban_source_sets`.
    pub source_sets: Vec<(String, Option<SourceSetRow>)>,
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
            StoreTable::ScopedBans => !self.scoped.is_empty(),
            StoreTable::Flags => !self.flags.is_empty(),
            StoreTable::Countries => self.countries.is_some(),
            StoreTable::SourceSets => !self.source_sets.is_empty(),
            StoreTable::Documents(kind) => !self.documents[kind].is_empty(),
        }
    }
}

/// Why all tables must be read again after a large import, which is nothing unusual.
pub const IMPORTED: &str = "a large import of bans was committed";

/// The rows of some addresses at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressRows {
    /// The newest `seq` then.
    pub seq: u64,
    /// Of `ip_monitor`.
    pub ips: Vec<IpRow>,
    /// Of `scoped_bans`.
    pub scoped: Vec<ScopedBanRow>,
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
