//! From changed rows to the next snapshot, with the bytes of the tables that are sent whole.

use tidegate_policy::address::Prefix;
use tidegate_policy::codec::FormatError;
use tidegate_policy::tables::Table;

use super::ip_monitor::ChangedPrefixes;
use super::ip_rows::RowStatus;
use super::snapshot::{Snapshot, made_from};
use super::table_bytes::TableBytes;
use crate::store::{ChangedRows, StoreTable, StoredRows};

/// A change of more rows is applied outside the async threads.
const FEW: usize = 500;

/// A snapshot, and what changed in it.
pub(super) struct NextSnapshot {
    pub snapshot: Snapshot,
    /// Prefixes whose ban changed.
    pub bans: Vec<Prefix>,
    /// The tables that may have changed.
    pub whole: Vec<(Table, TableBytes)>,
}

impl NextSnapshot {
    /// Replaces the contents of `snapshot` by `stored`, the rows of all tables.
    pub fn reload(mut snapshot: Snapshot, stored: StoredRows) -> Result<Self, FormatError> {
        let prefixes = snapshot.replace(stored);
        Self::lay_out(snapshot, prefixes, Table::whole())
    }

    /// Applies changed rows to `snapshot`.
    pub fn apply(mut snapshot: Snapshot, rows: ChangedRows) -> Result<Self, FormatError> {
        let sources: Vec<StoreTable> = StoreTable::ALL.into_iter().filter(|table| rows.has(*table)).collect();
        let prefixes = snapshot.apply(rows);
        let (allow, watched) = (prefixes.allow, prefixes.watched);
        let (scoped, scoped_sources) = (prefixes.scoped, prefixes.scoped_sources);
        let may_have_changed = |table: &Table| match table {
            // Most changes of `ip_monitor` are bans that hold everywhere, which change none of these tables.
            Table::Allow => allow,
            Table::ShadowBans => watched,
            Table::ScopedBans => scoped,
            Table::ScopedSources => scoped_sources,
            table => made_from(*table).iter().any(|source| sources.contains(source)),
        };
        Self::lay_out(snapshot, prefixes, Table::whole().filter(may_have_changed))
    }

    fn lay_out(
        mut snapshot: Snapshot,
        prefixes: ChangedPrefixes,
        tables: impl Iterator<Item = Table>,
    ) -> Result<Self, FormatError> {
        let whole = tables.map(|table| Ok((table, snapshot.lay_out(table)?))).collect::<Result<_, _>>()?;
        Ok(Self { snapshot, bans: prefixes.bans, whole })
    }
}

/// Entries of a table that is laid out quickly enough for an async thread.
const FEW_ENTRIES: usize = 20_000;

/// Whether applying `rows` to `snapshot` is quick enough for an async thread.
pub(super) fn is_little(snapshot: &Snapshot, rows: &ChangedRows) -> bool {
    let is_small = |table| matches!(table, StoreTable::Ip | StoreTable::ScopedBans | StoreTable::Flags);
    // A list of any length may be in shadow, and that table is laid out whole.
    if snapshot.count(RowStatus::Watched) > FEW_ENTRIES && snapshot.ips.may_change_watched(&rows.ips) {
        return false;
    }
    if snapshot.ips.scopes.rows.prefixes > FEW_ENTRIES && rows.has(StoreTable::ScopedBans) {
        return false;
    }
    StoreTable::ALL.into_iter().all(|table| is_small(table) || !rows.has(table))
        && [rows.ips.len(), rows.scoped.len(), rows.flags.len()].into_iter().fold(0, usize::saturating_add)
            <= FEW
}
