//! The parsed rows of all tables at one version. This file is the feed's list of tables: what
//! each is parsed to, from which rows it is made, and its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroI64;
use std::sync::Arc;

use serde_json::Value;
use tidegate_author::{self as author, AutoBan, Backends, Listener, Listeners, Route, Source};
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::FormatError;
use tidegate_policy::digest::{BlobHash, SetDigest};
use tidegate_policy::flags::Flags;
use tidegate_policy::geo::{GeoRule, GeoRules, MAX_GEO_RULES, MAX_GEO_RULES_BYTES};
use tidegate_policy::limit::{Limit, Limits, MAX_LIMITS};
use tidegate_policy::pages::{Page, Pages};
use tidegate_policy::route::Target;
use tidegate_policy::scope::Scope;
use tidegate_policy::scoped_bans::MAX_SCOPES;
use tidegate_policy::table::AddressTable;
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::BlobRef;
use tidegate_rollout::plan::Plan;

use super::apply::NextSnapshot;
use super::ban_sources::{self, ActiveSets, StoredSets};
use super::clock;
use super::countries::{self, CountriesInfo};
use super::documents::{DocumentContent, DocumentTable, Documents, describe};
use super::flags;
use super::ip_load::ParsedIpMonitor;
use super::ip_monitor::{ChangedPrefixes, IpMonitor, ListedPrefix};
use super::ip_rows::RowStatus;
use super::row_index::{Quarantined, RowIndex};
use super::scoped_bans::{self, ScopedSets};
use super::scoped_rows::ParsedScopedBans;
use super::source_set::SourceSet;
use super::table_bytes::TableBytes;
use crate::store::{
    BanMode, ChangedRows, DocumentKind, DocumentRow, FormerRow, FormerRows, StoreTable, StoredRows,
};

/// The parsed rows of all tables at one version. Copies share their common parts.
#[derive(Clone)]
pub struct Snapshot {
    /// The version.
    pub version: Version,
    /// The flags; one with an invalid row is off.
    pub flags: Flags,
    /// The routes.
    pub routes: Documents<Route>,
    /// The geo rules.
    pub geo_rules: Documents<GeoRule>,
    /// The backends: what references of routes can name besides clusters of Envoy.
    pub backends: Documents<Target>,
    /// The limits.
    pub limits: Documents<Limit>,
    /// The listeners: what routes can be held to.
    pub listeners: Documents<Listener>,
    /// The pages of denials.
    pub pages: Documents<Page>,
    /// The rules of automatic bans.
    pub auto_bans: Documents<AutoBan>,
    /// The sources of bans.
    pub sources: Documents<Source>,
    /// The rollouts.
    pub rollouts: Documents<Plan>,
    /// The country table that is in force, if one was imported.
    pub countries: Option<Arc<CountriesInfo>>,
    /// Digests of the tables that gateways load.
    pub tables: TableDigests,
    pub(super) ips: IpMonitor,
    source_sets: StoredSets,
    pub(super) index: RowIndex,
}

/// Counts and hashes of what gateways hold when they are up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableDigests {
    /// All bans, expired ones included.
    pub bans: SetDigest,
    /// The base of the ban table.
    pub base: BlobRef,
    /// Keys that changed since the base was cut.
    pub overlay: usize,
    /// The tables that are sent whole.
    pub whole: PerTable<TableDigest>,
}

/// Hash and size of one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableDigest {
    /// Hash of its bytes.
    pub hash: BlobHash,
    /// Number of entries, expired ones included; `None`: the table is not a list.
    pub entries: Option<usize>,
}

/// The tables of the store that `table` is made from.
pub(super) fn made_from(table: Table) -> &'static [StoreTable] {
    use StoreTable::Documents;
    match table {
        Table::Allow => &[StoreTable::Ip],
        Table::ShadowBans | Table::BanBase | Table::BanOverlay | Table::BanRecent => {
            &[StoreTable::Ip, Documents(DocumentKind::Source), StoreTable::SourceSets]
        }
        Table::ScopedBans => &[StoreTable::ScopedBans],
        Table::ScopedSources => &[Documents(DocumentKind::Source), StoreTable::SourceSets],
        Table::Flags => &[StoreTable::Flags],
        Table::Geo => &[Documents(DocumentKind::GeoRule)],
        Table::Countries => &[StoreTable::Countries],
        // Routes contain the backends and listeners that they refer to.
        Table::Routes => &[
            Documents(DocumentKind::Route),
            Documents(DocumentKind::Backend),
            Documents(DocumentKind::Listener),
        ],
        Table::Limits => &[Documents(DocumentKind::Limit)],
        Table::Pages => &[Documents(DocumentKind::Page)],
    }
}

impl Snapshot {
    /// Without rows; tables of addresses have `limit` bytes at most.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            version: Version::default(),
            flags: Flags::default(),
            routes: Documents::default(),
            geo_rules: Documents::default(),
            backends: Documents::default(),
            limits: Documents::default(),
            listeners: Documents::default(),
            pages: Documents::default(),
            auto_bans: Documents::default(),
            sources: Documents::default(),
            rollouts: Documents::default(),
            countries: None,
            tables: TableDigests::default(),
            ips: IpMonitor::new(limit),
            source_sets: StoredSets::new(),
            index: RowIndex::default(),
        }
    }

    pub(super) fn documents(&mut self, kind: DocumentKind) -> (&mut dyn DocumentTable, &mut RowIndex) {
        let documents: &mut dyn DocumentTable = match kind {
            DocumentKind::Route => &mut self.routes,
            DocumentKind::GeoRule => &mut self.geo_rules,
            DocumentKind::Backend => &mut self.backends,
            DocumentKind::Limit => &mut self.limits,
            DocumentKind::Listener => &mut self.listeners,
            DocumentKind::Page => &mut self.pages,
            DocumentKind::AutoBan => &mut self.auto_bans,
            DocumentKind::Source => &mut self.sources,
            DocumentKind::Rollout => &mut self.rollouts,
        };
        (documents, &mut self.index)
    }

    /// The bytes of a table that is sent whole. What does not fit into them is left out and
    /// quarantined.
    pub(super) fn lay_out(&mut self, table: Table) -> Result<TableBytes, FormatError> {
        let index = &mut self.index;
        let (bytes, entries) = match table {
            Table::Flags => return TableBytes::new(self.flags.to_bytes()?, None),
            Table::Allow => {
                (AddressTable::encode(self.ips.allow_entries())?, self.ips.count(RowStatus::Allowed))
            }
            Table::ShadowBans => {
                (AddressTable::encode(self.ips.watched_entries())?, self.ips.count(RowStatus::Watched))
            }
            Table::ScopedBans => scoped_bans::lay_out_rows(&mut self.ips)?,
            Table::ScopedSources => scoped_bans::lay_out_sources(&mut self.ips)?,
            Table::Geo => self.geo_rules.lay_out(index, geo_bytes),
            Table::Countries => return countries::table_bytes(self.countries.as_deref()),
            Table::Routes => {
                let (backends, listeners) = (by_name(&self.backends), by_name(&self.listeners));
                self.routes.lay_out(index, |routes| author::compile(routes, &backends, &listeners))
            }
            Table::Limits => self.limits.lay_out(index, limit_bytes),
            Table::Pages => self.pages.lay_out(index, |pages| Pages::new(pages.to_vec()).to_bytes()),
            // Bans are sent as changes to a base: see `base` and `answer`.
            Table::BanBase | Table::BanOverlay | Table::BanRecent => (Vec::new(), 0),
        };
        TableBytes::new(bytes, Some(entries))
    }

    /// Applies changed rows.
    pub(super) fn apply(&mut self, rows: ChangedRows) -> ChangedPrefixes {
        for (table, from, to) in &rows.moves {
            if matches!(table, StoreTable::Ip | StoreTable::ScopedBans | StoreTable::Documents(_)) {
                self.index.note_move(*table, from, to);
            }
        }
        let of_sources = [StoreTable::SourceSets, StoreTable::Documents(DocumentKind::Source)];
        let sources_changed = of_sources.into_iter().any(|table| rows.has(table));
        flags::apply(&mut self.flags, &mut self.index, rows.flags);
        for (kind, changes) in rows.documents {
            let (documents, index) = self.documents(kind);
            documents.apply(index, changes);
        }
        if let Some(row) = rows.countries {
            countries::apply(&mut self.countries, &mut self.index, row);
        }
        ban_sources::apply(&mut self.source_sets, &mut self.index, rows.source_sets);
        let mut changed = self.ips.apply(&mut self.index, rows.ips);
        self.ips.apply_scoped(&mut self.index, rows.scoped, &mut changed);
        if sources_changed {
            self.set_sources(&mut changed);
        }
        self.ips.renew_scopes(&mut changed);
        changed
    }

    /// What this would be with these rows changed.
    ///
    /// # Errors
    /// When a table cannot be laid out.
    pub fn with(&self, rows: ChangedRows) -> Result<Self, FormatError> {
        Ok(NextSnapshot::apply(self.clone(), rows)?.snapshot)
    }

    /// What the rows that cannot be read said before, as far as it is in force.
    pub(super) fn former_rows(&mut self) -> FormerRows {
        let unreadable: Vec<Quarantined> = self.index.quarantined().collect();
        let former = |Quarantined { table, key, .. }: Quarantined| {
            let origin = self.index.origin(table, &key);
            let row = match table {
                StoreTable::Ip => {
                    let prefix: Prefix = origin.parse().ok()?;
                    FormerRow::Ip(self.ips.row(&prefix, &origin)?.to_row(&prefix))
                }
                StoreTable::ScopedBans => {
                    let (prefix, row) = self.ips.scoped_row(&origin)?;
                    FormerRow::Scoped(row.to_row(&prefix))
                }
                StoreTable::Documents(kind) => FormerRow::Document(self.documents(kind).0.row(&origin)?),
                StoreTable::Countries => FormerRow::Countries(self.countries.as_ref()?.to_row()),
                // Another set is fetched in its place.
                StoreTable::Flags | StoreTable::SourceSets => return None,
            };
            Some(((table, key.to_string()), row))
        };
        unreadable.into_iter().filter_map(former).collect()
    }

    /// Takes over what rows that cannot be read said before, where it is not known already.
    fn remember(&mut self, former: FormerRows) -> ChangedPrefixes {
        let (mut ips, mut scoped, mut moves) = (Vec::new(), Vec::new(), Vec::new());
        for ((table, key), row) in former {
            // The key that it had: see `RowIndex::origin`.
            let origin = match &row {
                FormerRow::Ip(row) => row.ip.clone(),
                FormerRow::Scoped(row) => row.key(),
                FormerRow::Document(row) => row.name.clone(),
                FormerRow::Countries(_) => key.clone(),
            };
            match (table, row) {
                (StoreTable::Ip, FormerRow::Ip(row)) => {
                    let is_held = |prefix| self.ips.row(&prefix, &origin).is_some();
                    if !origin.parse().is_ok_and(is_held) {
                        ips.push((origin.clone(), Some(row)));
                    }
                }
                (StoreTable::ScopedBans, FormerRow::Scoped(row)) => {
                    if self.ips.scoped_row(&origin).is_none() {
                        scoped.push((origin.clone(), Some(row)));
                    }
                }
                (StoreTable::Documents(kind), FormerRow::Document(row)) => {
                    let (documents, index) = self.documents(kind);
                    if documents.row(&origin).is_none() {
                        documents.apply(index, vec![(origin.clone(), Some(row))]);
                    }
                }
                (StoreTable::Countries, FormerRow::Countries(row)) if self.countries.is_none() => {
                    countries::apply(&mut self.countries, &mut self.index, Some(row));
                }
                _ => continue,
            }
            if origin != key {
                moves.push((table, origin, key));
            }
        }
        let mut changed = self.ips.apply(&mut self.index, ips);
        self.ips.apply_scoped(&mut self.index, scoped, &mut changed);
        for (table, origin, key) in moves {
            self.index.note_move(table, &origin, &key);
        }
        changed
    }

    /// Replaces everything by these rows of all tables.
    pub(super) fn replace(&mut self, stored: StoredRows) -> ChangedPrefixes {
        let mut changed = self.remember(stored.former);
        flags::replace(&mut self.flags, &mut self.index, stored.flags);
        for (kind, rows) in stored.documents {
            let (documents, index) = self.documents(kind);
            documents.replace(index, rows);
        }
        countries::apply(&mut self.countries, &mut self.index, stored.countries);
        let ips = ParsedIpMonitor::read(stored.ips, &self.ips, &self.index);
        let replaced = ips.replace_all(&mut self.ips, &mut self.index);
        changed.bans.extend(replaced.bans);
        changed.allow |= replaced.allow;
        changed.watched |= replaced.watched;
        let scoped = ParsedScopedBans::read(stored.scoped, &self.ips, &self.index);
        scoped.replace_all(&mut self.ips, &mut self.index, &mut changed);
        // After the rows: of what does not fit into the table, those come first.
        ban_sources::replace(&mut self.source_sets, &mut self.index, stored.source_sets);
        self.set_sources(&mut changed);
        self.ips.renew_scopes(&mut changed);
        changed
    }

    /// Takes over what sources have now.
    fn set_sources(&mut self, changed: &mut ChangedPrefixes) {
        let [banned, watched] = [BanMode::Enforce, BanMode::Shadow]
            .map(|mode| ActiveSets::new(&self.sources, &self.source_sets, mode));
        self.ips.set_sources(banned, watched, changed);
        self.ips.set_scoped_sets(ScopedSets::new(&self.sources, &self.source_sets), changed);
    }

    /// The rows of exactly this prefix with `status` that hold everywhere, merged.
    #[must_use]
    pub fn listed(&self, prefix: &Prefix, status: RowStatus) -> Option<ListedPrefix> {
        self.ips.listed(prefix, status).map(|listed| self.with_keys_now(listed))
    }

    /// The same of rows alone, whatever sources have.
    #[must_use]
    pub fn listed_rows(&self, prefix: &Prefix, status: RowStatus) -> Option<ListedPrefix> {
        self.ips.listed_rows(prefix, status).map(|listed| self.with_keys_now(listed))
    }

    /// All entries of exactly this prefix: banned, allowed, watched, then those with a scope.
    pub fn all_listed(&self, prefix: &Prefix) -> impl Iterator<Item = ListedPrefix> + '_ {
        self.ips.all_listed(*prefix).map(|listed| self.with_keys_now(listed))
    }

    /// The same of rows alone, whatever sources have, with this status.
    #[must_use]
    pub fn all_listed_rows(&self, prefix: &Prefix, status: RowStatus) -> Vec<ListedPrefix> {
        let scoped = self.ips.scoped_rows(prefix).into_iter().filter(|listed| listed.status == status);
        let all = self.ips.listed_rows(prefix, status).into_iter().chain(scoped);
        all.map(|listed| self.with_keys_now(listed)).collect()
    }

    /// Whether bans of this scope have an effect, or the first one would have: there may be 255 scopes.
    #[must_use]
    pub fn may_have_scope(&self, scope: &Scope) -> bool {
        let taken = self.scopes_taken();
        taken.contains(scope) || taken.len() < MAX_SCOPES
    }

    /// Whether the API may add bans of all these scopes.
    pub fn have_room(&self, scopes: impl Iterator<Item = Scope>) -> bool {
        let taken = self.scopes_taken();
        let new: BTreeSet<Scope> = scopes.filter(|scope| !taken.contains(scope)).collect();
        taken.len().saturating_add(new.len()) <= MAX_SCOPES
    }

    /// Whether bans of this scope, which a source has, have no effect, or would have none once there are any: there are
    /// too many scopes.
    #[must_use]
    pub fn is_scope_left_out(&self, scope: &Scope) -> bool {
        !self.ips.scopes.has(scope) && self.scopes_taken().len() > MAX_SCOPES
    }

    /// The scopes that are in the table, and those of sources, whether or not they have been fetched.
    fn scopes_taken(&self) -> BTreeSet<&Scope> {
        let of_sources =
            self.sources.in_force.values().filter_map(|source| source.parsed.applies_to.as_ref());
        self.ips.scopes.all().chain(of_sources).collect()
    }

    /// How many bans with a scope have no effect, because there are too many scopes or too many such bans.
    #[must_use]
    pub fn scoped_left_out(&self) -> usize {
        self.ips.scopes.rows.left_out.saturating_add(self.ips.scopes.sources.left_out)
    }

    /// The scopes of bans, each once.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        self.ips.scopes.all()
    }

    /// `listed` with the keys that its rows have now.
    fn with_keys_now(&self, mut listed: ListedPrefix) -> ListedPrefix {
        let table = if listed.scope.is_some() { StoreTable::ScopedBans } else { StoreTable::Ip };
        for key in &mut listed.keys {
            if let Some(now) = self.index.moved_from(table, key) {
                *key = now.to_string();
            }
        }
        listed
    }

    /// The entries of all prefixes that cover `address`: longest prefix first; for one prefix
    /// banned, allowed, watched.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = ListedPrefix> + '_ {
        self.ips.covering(address)
    }

    /// The entries in the order of their prefixes, from the first prefix after `after`, with one
    /// status or all.
    pub fn list(
        &self,
        status: Option<RowStatus>,
        after: Option<Prefix>,
    ) -> impl Iterator<Item = ListedPrefix> + '_ {
        self.ips.list(status, after)
    }

    /// Number of prefixes with `status`, expired ones included.
    #[must_use]
    pub fn count(&self, status: RowStatus) -> usize {
        self.ips.count(status)
    }

    /// The entries with `status` that have no effect because they do not fit into their table,
    /// by when they came.
    pub fn left_out(&self, status: RowStatus) -> impl Iterator<Item = Prefix> + '_ {
        self.ips.room(status).left_out()
    }

    /// How many [`Self::left_out`] has.
    #[must_use]
    pub fn left_out_count(&self, status: RowStatus) -> usize {
        self.ips.room(status).left_out().len()
    }

    /// Whether the API may give `prefix` this status: it has it already, or fits into the table.
    #[must_use]
    pub fn has_room_for(&self, status: RowStatus, prefix: &Prefix) -> bool {
        self.ips.room(status).may_be_added(prefix)
            || self.ips.listed(prefix, status).is_some_and(|listed| !listed.left_out)
    }

    /// Whether as many of these prefixes as do not have this status yet fit into its table.
    #[must_use]
    pub fn has_room_for_all(
        &self,
        status: RowStatus,
        prefixes: impl ExactSizeIterator<Item = Prefix>,
    ) -> bool {
        let room = self.ips.room(status);
        let is_new = |prefix: &Prefix| self.ips.listed(prefix, status).is_none_or(|listed| listed.left_out);
        room.has_room_for(prefixes.len()) || room.has_room_for(prefixes.filter(is_new).count())
    }

    /// The rows in quarantine.
    pub fn quarantine(&self) -> impl ExactSizeIterator<Item = Quarantined> + '_ {
        self.index.quarantined()
    }

    /// How many rows of a table are in quarantine, with those that are [left out](Self::left_out).
    #[must_use]
    pub fn quarantined(&self, table: StoreTable) -> usize {
        let left_out = match table {
            StoreTable::Ip => RowStatus::ALL.map(|of| self.left_out_count(of)),
            _ => [0; 3],
        };
        let scoped = if table == StoreTable::ScopedBans { self.scoped_left_out() } else { 0 };
        left_out
            .into_iter()
            .chain([scoped])
            .fold(self.index.quarantine_of(table).count(), usize::saturating_add)
    }

    /// The entries of the source `name`, in or out of force; `None`: it has no set yet.
    #[must_use]
    pub fn source_set(&self, name: &str) -> Option<&SourceSet> {
        self.source_sets.get(name)
    }

    /// Bytes of the sets of all sources.
    pub(super) fn source_set_bytes(&self) -> usize {
        self.source_sets.values().map(SourceSet::bytes).fold(0, usize::saturating_add)
    }

    /// The backends that references of routes can name.
    #[must_use]
    pub fn backends_by_name(&self) -> Backends {
        by_name(&self.backends)
    }

    /// The listeners that routes can be held to.
    #[must_use]
    pub fn listeners_by_name(&self) -> Listeners {
        by_name(&self.listeners)
    }
}

fn by_name<T: Clone>(documents: &Documents<T>) -> BTreeMap<String, T> {
    documents.in_force.values().map(|info| (info.name.to_string(), info.parsed.clone())).collect()
}

/// The bytes of these rules; the error says how many there may be.
fn geo_bytes(rules: &[GeoRule]) -> Result<Vec<u8>, String> {
    let bytes = GeoRules::new(rules.iter().cloned()).to_bytes().map_err(|error| error.to_string())?;
    match rules.len() <= MAX_GEO_RULES && bytes.len() <= MAX_GEO_RULES_BYTES {
        true => Ok(bytes),
        false => Err(format!("there may be {MAX_GEO_RULES} rules, of {MAX_GEO_RULES_BYTES} bytes together")),
    }
}

/// The bytes of these limits; the error says how many there may be.
fn limit_bytes(limits: &[Limit]) -> Result<Vec<u8>, String> {
    if limits.len() > MAX_LIMITS {
        return Err(format!("there may be {MAX_LIMITS} limits"));
    }
    Limits::new(limits.iter().cloned()).to_bytes().map_err(|error| error.to_string())
}

impl DocumentContent for Route {
    const KIND: DocumentKind = DocumentKind::Route;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        let route = author::read(document).map_err(|problems| describe(&problems))?;
        if route.id() != row.name {
            return Err(format!(
                "/metadata: the document is the route `{}`, its row has another name: both must be the same",
                route.id()
            ));
        }
        let created = row.created_at.as_deref().and_then(clock::millis);
        Ok(Self { created: created.map(NonZeroI64::get), ..route })
    }
}

impl DocumentContent for GeoRule {
    const KIND: DocumentKind = DocumentKind::GeoRule;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_geo_rule(&row.name, document).map_err(|problems| describe(&problems))
    }
}

impl DocumentContent for Target {
    const KIND: DocumentKind = DocumentKind::Backend;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_backend(&row.name, document).map_err(|problems| describe(&problems))
    }
}

impl DocumentContent for Listener {
    const KIND: DocumentKind = DocumentKind::Listener;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_listener(&row.name, document).map_err(|problems| describe(&problems))
    }
}

impl DocumentContent for Limit {
    const KIND: DocumentKind = DocumentKind::Limit;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_limit(&row.name, document).map_err(|problems| describe(&problems))
    }
}

impl DocumentContent for Source {
    const KIND: DocumentKind = DocumentKind::Source;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_source(&row.name, document).map_err(|problems| describe(&problems))
    }
}

impl DocumentContent for Plan {
    const KIND: DocumentKind = DocumentKind::Rollout;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        Self::read(&row.name, document).map_err(|problems| describe(&problems))
    }
}

impl DocumentContent for Page {
    const KIND: DocumentKind = DocumentKind::Page;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_page(&row.name, document).map_err(|problems| describe(&problems))
    }
}

impl DocumentContent for AutoBan {
    const KIND: DocumentKind = DocumentKind::AutoBan;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_auto_ban(&row.name, document).map_err(|problems| describe(&problems))
    }
}
