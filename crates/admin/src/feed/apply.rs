//! From rows to a new snapshot, with the bytes of the tables that travel whole.

use std::sync::Arc;

use tidegate_author as author;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::FormatError;
use tidegate_policy::geo::GeoRule;
use tidegate_policy::limit::Limit;
use tidegate_policy::route::Target;
use tidegate_policy::table::AddressTable;
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tokio::task::spawn_blocking;

use super::answer::Cache;
use super::base::{Base, named};
use super::blobs::Blobs;
use super::change_log::{ChangeLog, LogPosition};
use super::ip_load::ParsedIpMonitor;
use super::snapshot::{ChangedPrefixes, Snapshot};
use super::state::{FeedState, Whole};
use crate::store::{ChangedRows, DocumentKind, PerDocumentKind, StoreError, StoredRows};

/// A change of more rows is worked on outside the async threads.
const FEW: usize = 500;

/// A snapshot with what changed in it.
pub(super) struct NextSnapshot {
    pub snapshot: Snapshot,
    /// Prefixes whose ban changed.
    pub bans: Vec<Prefix>,
    /// The tables that may have changed.
    pub whole: Vec<(Table, Whole)>,
}

impl NextSnapshot {
    /// Makes `snapshot` what the rows of all tables say.
    pub fn reload(mut snapshot: Snapshot, stored: StoredRows) -> Result<Self, FormatError> {
        let changed = snapshot.replace(stored);
        Self::lay_out(snapshot, changed.bans, Table::whole())
    }

    /// Takes rows as they now stand.
    pub fn apply(mut snapshot: Snapshot, rows: ChangedRows) -> Result<Self, FormatError> {
        let prefixes = snapshot.apply_ips(rows.ips);
        let changed = [
            (Table::Flags, !rows.flags.is_empty()),
            (Table::Allow, prefixes.allow),
            (Table::Geo, !rows.documents.geo_rules.is_empty()),
            (Table::Countries, rows.countries.is_some()),
            // What references of routes mean.
            (Table::Routes, !rows.documents.routes.is_empty() || !rows.documents.backends.is_empty()),
            (Table::Limits, !rows.documents.limits.is_empty()),
        ];
        snapshot.apply_flags(rows.flags);
        let PerDocumentKind { routes, geo_rules, backends, limits } = rows.documents;
        snapshot.apply_documents::<author::Route>(routes);
        snapshot.apply_documents::<GeoRule>(geo_rules);
        snapshot.apply_documents::<Target>(backends);
        snapshot.apply_documents::<Limit>(limits);
        if let Some(countries) = rows.countries {
            snapshot.apply_countries(countries);
        }
        let changed = changed.into_iter().filter(|(_, is)| *is).map(|(table, _)| table);
        Self::lay_out(snapshot, prefixes.bans, changed)
    }

    fn lay_out(
        mut snapshot: Snapshot,
        bans: Vec<Prefix>,
        tables: impl Iterator<Item = Table>,
    ) -> Result<Self, FormatError> {
        let whole = tables.map(|table| Ok((table, snapshot.lay_out(table)?))).collect::<Result<_, _>>()?;
        Ok(Self { snapshot, bans, whole })
    }
}

/// Whether it takes so little to apply `rows` that it may happen on an async thread.
pub(super) fn is_little(rows: &ChangedRows) -> bool {
    let documents = DocumentKind::ALL.into_iter().any(|kind| !rows.documents.get(kind).is_empty());
    let large = documents || rows.countries.is_some();
    !large && rows.ips.len().saturating_add(rows.flags.len()) <= FEW
}

impl Snapshot {
    /// Becomes what the rows of all tables say.
    fn replace(&mut self, stored: StoredRows) -> ChangedPrefixes {
        self.replace_flags(stored.flags);
        let PerDocumentKind { routes, geo_rules, backends, limits } = stored.documents;
        self.replace_documents::<author::Route>(routes);
        self.replace_documents::<GeoRule>(geo_rules);
        self.replace_documents::<Target>(backends);
        self.replace_documents::<Limit>(limits);
        self.apply_countries(stored.countries);
        ParsedIpMonitor::read(stored.ips).replace_all(self)
    }

    /// A table as gateways get it. What does not fit into one is left out, and
    /// quarantined.
    fn lay_out(&mut self, table: Table) -> Result<Whole, FormatError> {
        let bytes = match table {
            Table::Flags => self.flags.to_bytes()?,
            Table::Allow => AddressTable::encode(self.allow_entries())?,
            Table::Geo => self.lay_out_geo_rules(),
            Table::Countries => return Ok(self.whole_countries()),
            Table::Routes => self.compile_routes(),
            Table::Limits => self.lay_out_limits(),
            Table::BanBase | Table::BanOverlay => return Ok(Whole::default()),
        };
        named(bytes).map(|(blob, bytes)| Whole { blob, bytes })
    }
}

impl FeedState {
    /// The state at the start, of an epoch of its own.
    pub(super) async fn first(stored: StoredRows, epoch: u64) -> Result<(Self, Blobs), StoreError> {
        blocking(move || Self::build(stored, epoch)).await?.map_err(laid_out)
    }

    fn build(stored: StoredRows, epoch: u64) -> Result<(Self, Blobs), FormatError> {
        let position = LogPosition { era: 0, seq: stored.seq };
        let mut snapshot = Snapshot::empty();
        snapshot.replace(stored);
        snapshot.version = Version { epoch, seq: position.seq };
        let (base, base_bytes) = Base::cut(&snapshot, position)?;
        let mut whole = PerTable::<Whole>::default();
        for table in Table::whole() {
            whole[table] = snapshot.lay_out(table)?;
        }
        let mut state = Self {
            position,
            past: Arc::default(),
            base: Arc::new(base),
            log: ChangeLog::new(position),
            whole,
            snapshot: Arc::new(snapshot),
            refresh: 0,
            cache: Cache::default(),
        };
        let mut blobs = Blobs::default();
        let none = std::time::Duration::ZERO;
        blobs.put(Table::BanBase, state.base.blob, base_bytes, none);
        for table in Table::whole() {
            let whole = &state.whole[table];
            blobs.put(table, whole.blob, whole.bytes.clone(), none);
        }
        state.fill_in_digests();
        Ok((state, blobs))
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|error| StoreError::Failed(error.to_string()))
}

pub(super) fn laid_out(error: FormatError) -> StoreError {
    StoreError::Failed(format!("the tables cannot be laid out: {error}"))
}
